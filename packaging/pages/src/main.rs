//! Writes the man pages and shell completions of rollcall's programs, for their packages:
//! `rollcall-pages DIR` makes `DIR/man/*.1` and `DIR/completions/{bash,zsh,fish}/…`, named as they are
//! installed.
//!
//! What the command line says of itself comes from clap, so that a flag is described once; what it
//! cannot know (exit codes, files, examples) is in [`sections`].

mod man;
mod sections;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, Parser};
use clap_complete::Shell;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::sections::Program;

/// Writes the man pages and shell completions of rollcall's programs.
#[derive(Debug, Parser)]
struct Cli {
    /// The folder to write into; it is made.
    dir: PathBuf,
    /// The date of the pages, in seconds since 1970; else now.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    date: Option<i64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match write(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere left to say that stderr is gone.
            let _gone = io::Write::write_fmt(
                &mut io::stderr(),
                format_args!("rollcall-pages: {} cannot be filled: {error}\n", cli.dir.display()),
            );
            ExitCode::FAILURE
        }
    }
}

fn write(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let date = match cli.date {
        Some(seconds) => Timestamp::from_second(seconds)?,
        None => Timestamp::now(),
    };
    let date = date.to_zoned(TimeZone::UTC).date();
    let pages = cli.dir.join("man");
    fs::create_dir_all(&pages)?;
    for program in sections::programs() {
        for (name, page) in man::pages(&program, date)? {
            fs::write(pages.join(name), page)?;
        }
        completions(&program, &cli.dir.join("completions"))?;
    }
    Ok(())
}

/// One file a shell, in a folder of the shell's.
fn completions(program: &Program, dir: &Path) -> Result<(), Box<dyn Error>> {
    let name = program.name;
    for (shell, folder, file) in [
        (Shell::Bash, "bash", name.to_owned()),
        (Shell::Zsh, "zsh", format!("_{name}")),
        (Shell::Fish, "fish", format!("{name}.fish")),
    ] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder)?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut visible(program), program.name, &mut text);
        fs::write(folder.join(file), text)?;
    }
    Ok(())
}

/// The program's command line without its hidden subcommands, which `clap_complete` would offer.
fn visible(program: &Program) -> Command {
    let command = &program.command;
    // A subcommand cannot be taken out of a Command: it is made anew of what is seen.
    Command::new(program.name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}
