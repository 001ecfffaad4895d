//! Man pages: clap's sections, and between them ours.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use jiff::civil::Date;

use crate::sections::{Entry, Program};

/// The manual's name, in the middle of each page's first line.
const MANUAL: &str = "rollcall";

/// A page's file name, and its text.
type Page = (String, String);

/// The pages, of this date, of a program and of all its visible subcommands.
pub(crate) fn pages(program: &Program, date: Date) -> io::Result<Vec<Page>> {
    // `help` has no page of its own.
    let mut command = program.command.clone().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(program, &command, date, &mut pages)?;
    Ok(pages)
}

fn add(program: &Program, command: &Command, date: Date, pages: &mut Vec<Page>) -> io::Result<()> {
    let subcommands: Vec<&Command> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date.to_string())
        .source(program.source())
        .manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if !subcommands.is_empty() {
        man.render_subcommands_section(&mut page)?;
    }
    let daemon = name == program.daemon;
    let root = name == program.name;
    let mut ours = Roff::new();
    if root || daemon {
        entries(&mut ours, "ENVIRONMENT", program.environment);
        entries(&mut ours, "FILES", program.files);
    }
    entries(&mut ours, "EXIT STATUS", program.exit_status);
    let examples: Vec<Entry> = program
        .examples
        .iter()
        // A subcommand's page has those that use it.
        .filter(|(line, _)| root || line.starts_with(&format!("{} ", name_as_typed(command))))
        .copied()
        .collect();
    if !examples.is_empty() {
        shown(&mut ours, &examples);
    }
    see_also(&mut ours, program, name);
    ours.to_writer(&mut page)?;
    // Before an option's possible values clap_mangen breaks the line twice, which man warns of.
    let page = String::from_utf8_lossy(&page).replace(".br\n\n.br\n", ".sp\n");
    pages.push((man.get_filename(), page));
    for subcommand in subcommands {
        add(program, subcommand, date, pages)?;
    }
    Ok(())
}

/// `rollcall-aggregator ca new`, as against the page's `rollcall-aggregator-ca-new`.
fn name_as_typed(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_else(|| command.get_name())
}

/// A section of terms, each with its meaning.
fn entries(roff: &mut Roff, heading: &str, entries: &[Entry]) {
    roff.control("SH", [heading]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

/// The section of examples: what each does, and what is typed.
fn shown(roff: &mut Roff, examples: &[Entry]) {
    roff.control("SH", ["EXAMPLES"]);
    for (index, (line, meaning)) in examples.iter().enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*meaning)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([roman(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

/// The section that leads to other pages, not to the page itself.
fn see_also(roff: &mut Roff, program: &Program, page: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let own = program.name;
    let pages = [(own, "1"), (program.daemon, "1")];
    let others: Vec<(&str, &str)> =
        pages.iter().chain(program.see_also).filter(|(name, _)| *name != page).copied().collect();
    let last = others.len().saturating_sub(1);
    for (index, (name, section)) in others.into_iter().enumerate() {
        let comma = if index == last { "" } else { "," };
        roff.text([bold(name), roman(format!("({section}){comma}"))]);
    }
}
