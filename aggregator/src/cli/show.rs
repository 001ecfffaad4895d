//! Results in each of their forms: a table for people, JSON or YAML for programs; once, or again and
//! again.

mod watch;

use std::io::{self, Write as _};
use std::time::Duration;

use anstream::AutoStream;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use terminal_size::{Height, Width, terminal_size_of};

use super::Failure;
use crate::operator::tables::Viewer;
use crate::operator::{self, OperatorError};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A table for people.
    Table,
    /// JSON for programs.
    Json,
    /// YAML for programs, and for kubectl and helm.
    Yaml,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArgs {
    /// A table for people, or JSON or YAML for programs.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct WatchArgs {
    /// Looks again and again, with a pause of so many seconds (2 if none are given), until Ctrl-C. A
    /// terminal shows the latest; anywhere else it is printed again when it has changed, JSON a line each.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = pause
    )]
    watch: Option<Duration>,
}

fn pause(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_unread| "a number of seconds, such as 5".to_owned())?;
    if (0.1..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("a pause has 0.1 s to a day".to_owned())
    }
}

/// A result that can be shown.
pub(super) trait Show {
    /// Keys of what is not news when nothing else has changed.
    const RESTLESS: &'static [&'static str] = &[];
    /// What a watch shows where the table would be empty.
    const NOTHING: &'static str = "";

    /// What programs get.
    fn data(&self) -> &impl Serialize;

    /// What people get, with escape codes for styles.
    fn table(&self, viewer: Viewer) -> String;

    /// What is to be known of it besides, a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the exit code tells of it.
    fn outcome(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Output {
    fn text<S: Show>(self, shown: &S) -> Result<String, Failure> {
        match self {
            Self::Table => Ok(shown.table(viewer(Timestamp::now()))),
            written => written.data(shown.data()),
        }
    }

    /// What programs get of a value.
    pub(super) fn data(self, value: &impl Serialize) -> Result<String, Failure> {
        match self {
            Self::Json => operator::json(value).map_err(Failure::Operator),
            Self::Yaml => serde_saphyr::to_string(value).map_err(|error| {
                Failure::NotDone(format!("the result cannot be written as YAML: {error}"))
            }),
            Self::Table => {
                let words = "there is no table of this: give --output json or yaml";
                Err(Failure::Usage(words.to_owned()))
            }
        }
    }
}

/// Looks and shows what is seen: once, or as `watch` says. `what`: the command, for who watches.
pub(super) async fn show<S: Show>(
    what: &str,
    OutputArgs { output }: OutputArgs,
    WatchArgs { watch }: WatchArgs,
    mut look: impl AsyncFnMut() -> Result<S, Failure>,
) -> Result<(), Failure> {
    let first = look().await?;
    match watch {
        Some(pause) => watch::watch(what, output, pause, first, look).await,
        None => once(&first, output),
    }
}

/// Shows a result.
pub(super) fn once<S: Show>(shown: &S, output: Output) -> Result<(), Failure> {
    for note in shown.notes() {
        log::warn!("{note}");
    }
    let printed = match output {
        // Of a large cluster it is tens of megabytes, which are never held as a whole.
        Output::Json => print_json(shown.data()),
        Output::Yaml => print(&output.text(shown)?),
        Output::Table => match output.text(shown)? {
            text if text.is_empty() => Ok(()),
            text => print_styled(&text),
        },
    };
    match printed {
        // Whoever has read enough wants to know all the same how it came out.
        Err(Failure::Print { source }) if source.kind() == io::ErrorKind::BrokenPipe => {}
        printed => printed?,
    }
    shown.outcome()
}

/// Who reads stdout, and how much room there is.
fn viewer(now: Timestamp) -> Viewer {
    Viewer { now, room: size().map(|(columns, _)| columns) }
}

/// How many columns of characters and how many lines the terminal has; `None`: stdout is none.
fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(lines)) = terminal_size_of(io::stdout())?;
    Some((columns.into(), lines.into()))
}

/// Whether a stream is a terminal whose cursor can be moved.
pub(super) fn is_screen(stream: &impl io::IsTerminal) -> bool {
    let can_move = |term: &std::ffi::OsStr| !term.is_empty() && term != "dumb";
    stream.is_terminal() && std::env::var_os("TERM").is_some_and(|term| can_move(&term))
}

/// What changes only when there is news, with all else taken out.
fn news<S: Show>(shown: &S) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(shown.data())
        .map_err(|source| Failure::Operator(OperatorError::Encode { source }))?;
    take_out(&mut value, S::RESTLESS);
    Ok(value)
}

fn take_out(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !keys.contains(&key.as_str()));
            fields.values_mut().for_each(|field| take_out(field, keys));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_out(item, keys)),
        _ => {}
    }
}

/// Prints a text as it is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_to(io::stdout().lock(), text)
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(out))
        .and_then(|()| out.flush())
        .map_err(|source| Failure::Print { source })
}

/// Prints a text with styles, which stay only where the reader can have them: `NO_COLOR`,
/// `CLICOLOR_FORCE` and `TERM` say so, and whether it is a terminal.
pub(super) fn print_styled(text: &str) -> Result<(), Failure> {
    print_to(AutoStream::auto(io::stdout().lock()), text)
}

fn print_to(mut out: impl io::Write, text: &str) -> Result<(), Failure> {
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .map_err(|source| Failure::Print { source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pauses() {
        for (text, expected) in [
            ("2", Some(2000)),
            ("0.5", Some(500)),
            ("0", None),
            ("-1", None),
            ("NaN", None),
            ("1e9", None),
            ("soon", None),
        ] {
            let millis = pause(text).ok().map(|pause| pause.as_millis());
            assert_eq!(millis, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_news_is_taken_out_wherever_it_is() {
        let mut value = json!({"at": 1, "of": [{"at": 2, "is": 3}], "a": {"at": {"b": 4}}});
        take_out(&mut value, &["at"]);
        assert_eq!(value, json!({"of": [{"is": 3}], "a": {}}));
    }
}
