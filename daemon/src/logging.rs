//! Logging, one line a record, key-values at the end: to systemd's journal, with fields, where stderr
//! leads there; else to stderr.

mod journal;

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{PoisonError, RwLock};

use env_logger::Logger;
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log};
use rollcall_report::{error_chain, is_disguising};

use self::journal::Journal;

/// What all of this process's records in the journal are about.
static SUBJECTS: RwLock<Vec<(&'static str, String)>> = RwLock::new(Vec::new());

/// Starts logging. A second call changes nothing.
///
/// `program` is what the journal calls this program. `level` holds for rollcall itself; libraries are
/// heard from `warn` upwards, so that no library's debugging output can carry a request's credentials
/// into the log.
pub fn init(program: &str, level: LevelFilter) {
    let stderr = stderr(level);
    let highest = stderr.filter();
    let mut trouble = None;
    let logger: Box<dyn Log> = if systemd_journal_logger::connected_to_journal() {
        match journal::connect(program) {
            Ok(log) => Box::new(Journal { log, stderr }),
            Err(error) => {
                trouble = Some(error);
                Box::new(stderr)
            }
        }
    } else {
        Box::new(stderr)
    };
    if log::set_boxed_logger(logger).is_err() {
        return;
    }
    log::set_max_level(highest);
    if let Some(error) = trouble {
        log::warn!(error = error_chain(&error);
            "the journal cannot be reached, logging to stderr: its lines have no fields");
    }
}

/// Logs why the program ends: with a field for the journal, else as one readable text, since whoever
/// starts it on a terminal reads it there.
pub fn failed(what: &str, error: &dyn Error) {
    let error = error_chain(error);
    if systemd_journal_logger::connected_to_journal() {
        log::error!(error = error.as_str(); "{what}");
    } else {
        log::error!("{what}: {error}");
    }
}

/// Tells the journal why this program does not start, in one line that is an error there; on a
/// terminal wrong usage is answered in several. `false` where stderr does not lead to the journal.
#[must_use]
pub(crate) fn wrong_usage(program: &str, answer: &str) -> bool {
    if !systemd_journal_logger::connected_to_journal() {
        return false;
    }
    init(program, LevelFilter::Error);
    log::error!(error = first_paragraph(answer); "wrong usage");
    true
}

/// What is wrong, without how it would be right.
fn first_paragraph(answer: &str) -> String {
    let wrong = answer.split("\n\n").next().unwrap_or_default();
    let words = wrong.strip_prefix("error:").unwrap_or(wrong).split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}

/// From now on every record in the journal is about this: the field `key`, written in capitals there,
/// unless the record itself has another. On stderr it is not repeated.
pub fn about(key: &'static str, value: &str) {
    let mut subjects = SUBJECTS.write().unwrap_or_else(PoisonError::into_inner);
    match subjects.iter_mut().find(|(known, _)| *known == key) {
        Some((_, known)) => value.clone_into(known),
        None => subjects.push((key, value.to_owned())),
    }
}

fn stderr(level: LevelFilter) -> Logger {
    env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("rollcall", level)
        // What they log at each try comes back as the request's error, which is told once. What rustls says
        // besides is said by whoever connects, as often and at such length as they like.
        .filter_module("rustls", LevelFilter::Off)
        .filter_module("kube_runtime", LevelFilter::Off)
        .filter_module("kube_client::client", LevelFilter::Off)
        // A CA bundle that cannot be read anew is told by nobody else.
        .filter_module("kube_client::client::tls", level.min(LevelFilter::Warn))
        .format(|out, record| {
            let (time, level) = (out.timestamp_millis(), record.level());
            writeln!(out, "{time} {level:5} {}", text(record))
        })
        .build()
}

/// The record as text: `message key=value …`, never more than one line.
fn text(record: &log::Record<'_>) -> String {
    let mut text = one_line(&record.args().to_string()).into_owned();
    let visited = record.key_values().visit(&mut KeyValues(&mut text));
    debug_assert!(visited.is_ok(), "the visitor below never fails");
    text
}

struct KeyValues<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for KeyValues<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push(' ');
        self.0.push_str(key.as_str());
        self.0.push('=');
        append_value(self.0, &value.to_string());
        Ok(())
    }
}

/// Appends a value so that it cannot forge another line or another pair.
fn append_value(line: &mut String, value: &str) {
    let ambiguous = |c: char| c.is_whitespace() || c == '"' || c == '=';
    if value.is_empty() || value.contains(ambiguous) || value.contains(is_disguising) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{value:?}");
    } else {
        line.push_str(value);
    }
}

/// A text without what could forge another line.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(is_disguising) { text.replace(is_disguising, " ").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use log::{Level, Record};

    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_it_holds() {
        let pairs = [
            ("node", Value::from("n1")),
            ("reply", Value::from("two\nlines and a \"quote\"")),
            ("empty", Value::from("")),
            ("url", Value::from("http://h/?a=b")),
        ];
        let record = Record::builder()
            .level(Level::Warn)
            .args(format_args!("refused:\nERROR forged"))
            .key_values(&pairs)
            .build();
        assert_eq!(
            text(&record),
            r#"refused: ERROR forged node=n1 reply="two\nlines and a \"quote\"" empty="" url="http://h/?a=b""#
        );
    }

    #[test]
    fn what_is_wrong_in_one_line() {
        for (answer, expected) in [
            (
                "error: the following were not provided:\n  --aggregator <URL>\n\nUsage: …\n",
                "the following were not provided: --aggregator <URL>",
            ),
            ("error: plain HTTP\n", "plain HTTP"),
            ("", ""),
        ] {
            assert_eq!(first_paragraph(answer), expected);
        }
    }

    #[test]
    fn who_is_heard() {
        let record = |target: &'static str, level| {
            Record::builder().target(target).level(level).args(format_args!("")).build()
        };
        for (level, target, at, heard) in [
            (LevelFilter::Info, "rollcall_agent::run", Level::Info, true),
            (LevelFilter::Info, "rollcall_agent::run", Level::Debug, false),
            (LevelFilter::Debug, "rollcall_agent::run", Level::Debug, true),
            (LevelFilter::Debug, "hyper::client", Level::Info, false),
            (LevelFilter::Trace, "hyper::client", Level::Warn, true),
            (LevelFilter::Error, "hyper::client", Level::Warn, false),
            (LevelFilter::Trace, "rustls::msgs::handshake", Level::Warn, false),
            (LevelFilter::Trace, "rustls_platform_verifier", Level::Error, false),
            (LevelFilter::Trace, "kube_client::client", Level::Error, false),
            (LevelFilter::Trace, "kube_client::client::tls", Level::Warn, true),
            (LevelFilter::Off, "rollcall_agent::run", Level::Error, false),
        ] {
            let matches = stderr(level).matches(&record(target, at));
            assert_eq!(matches, heard, "{at} of {target} with {level}");
        }
    }
}
