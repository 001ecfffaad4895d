//! systemd's journal: the same text as on stderr, and each key-value as a field beside it.

use std::io;
use std::sync::PoisonError;

use env_logger::Logger;
use log::kv::{Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record};
use systemd_journal_logger::JournalLog;

use super::{SUBJECTS, one_line, text};

/// The key of what the field `TARGET=` is about: a target of the cluster file.
const TARGET: &str = "target";

/// What the library and the journal write themselves: a key-value of such a name stays in the text.
const RESERVED: [&str; 2] = ["message", "priority"];
const RESERVED_PREFIXES: [&str; 3] = ["code_", "syslog_", "_"];

/// Finds the journal.
///
/// # Errors
///
/// When nobody takes messages for it.
pub(super) fn connect(program: &str) -> io::Result<JournalLog> {
    Ok(JournalLog::empty()?.with_syslog_identifier(program.to_owned()))
}

/// Logs to the journal what stderr would hear, and to stderr what the journal does not take.
pub(super) struct Journal {
    pub(super) log: JournalLog,
    pub(super) stderr: Logger,
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.stderr.matches(record) {
            return;
        }
        let entry = {
            let subjects = SUBJECTS.read().unwrap_or_else(PoisonError::into_inner);
            Entry::of(record, &subjects)
        };
        let sent = self.log.journal_send(
            &Record::builder()
                .level(entry.level)
                .args(format_args!("{}", entry.message))
                .target(&entry.target)
                .module_path(record.module_path())
                .file(record.file())
                .line(record.line())
                .key_values(&entry.fields)
                .build(),
        );
        if sent.is_err() {
            self.stderr.log(record);
        }
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}

/// What the journal is given for a record.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The level that the library makes the right priority of.
    level: Level,
    /// `MESSAGE=`.
    message: String,
    /// `TARGET=`, which the library always writes: empty where a record is about no target.
    target: String,
    /// All other fields, named as the keys are.
    fields: Vec<(String, String)>,
}

impl Entry {
    fn of(record: &Record<'_>, subjects: &[(&'static str, String)]) -> Self {
        let mut fields = Fields(Vec::new());
        let visited = record.key_values().visit(&mut fields);
        debug_assert!(visited.is_ok(), "the visitor below never fails");
        let Fields(mut fields) = fields;
        let mut target = String::new();
        if let Some(at) = fields.iter().position(|(key, _)| key == TARGET) {
            (_, target) = fields.swap_remove(at);
        }
        for (key, value) in subjects {
            if !fields.iter().any(|(known, _)| known == key) {
                fields.push(((*key).to_owned(), value.clone()));
            }
        }
        Self { level: level(record.level()), message: text(record), target, fields }
    }
}

/// The library makes priority 5 (notice) of info, which `journalctl` shows in bold, 6 (info) of debug
/// and 7 (debug) of trace. An administrator expects each level under its own name.
const fn level(level: Level) -> Level {
    match level {
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
        Level::Error | Level::Warn => level,
    }
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let key = key.as_str().to_ascii_lowercase();
        let is_reserved = RESERVED.contains(&key.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        if !is_reserved {
            // `journalctl --output=cat --output-fields=…` prints a value as it is.
            self.0.push((key, one_line(&value.to_string()).into_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `KEY=value` of each field, the target first.
    fn entry(pairs: &[(&str, Value<'_>)], subjects: &[(&'static str, &str)]) -> Vec<String> {
        let subjects: Vec<_> =
            subjects.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let record = Record::builder()
            .level(Level::Info)
            .target("rollcall_agent::run")
            .module_path(Some("rollcall_agent::run"))
            .args(format_args!("said"))
            .key_values(&pairs)
            .build();
        let entry = Entry::of(&record, &subjects);
        let fields = entry.fields.into_iter().map(|(key, value)| format!("{key}={value}"));
        [format!("target={}", entry.target)].into_iter().chain(fields).collect()
    }

    #[test]
    fn fields_of_a_record() {
        for (why, pairs, subjects, expected) in [
            ("nothing at all", &[][..], &[][..], &["target="][..]),
            (
                "each key-value is a field",
                &[("error", Value::from("a: b")), ("failures", Value::from(3))],
                &[],
                &["target=", "error=a: b", "failures=3"],
            ),
            (
                "a target is the target, and nothing else is",
                &[("target", Value::from("aios")), ("phase", Value::from("registered"))],
                &[],
                &["target=aios", "phase=registered"],
            ),
            (
                "what the process is about comes along",
                &[("url", Value::from("http://h"))],
                &[("node", "n1"), ("node_id", "id-1")],
                &["target=", "url=http://h", "node=n1", "node_id=id-1"],
            ),
            (
                "the record knows better than the process",
                &[("node_id", Value::from("id-2"))],
                &[("node", "n1"), ("node_id", "id-1")],
                &["target=", "node_id=id-2", "node=n1"],
            ),
            (
                "what could forge a line, or a field that is the library's",
                &[
                    ("reply", Value::from("a\nMESSAGE=b\u{1b}[2J")),
                    ("MESSAGE", Value::from("forged")),
                    ("priority", Value::from("0")),
                    ("syslog_identifier", Value::from("sshd")),
                    ("_PID", Value::from(1)),
                ],
                &[],
                &["target=", "reply=a MESSAGE=b [2J"],
            ),
        ] {
            assert_eq!(entry(pairs, subjects), expected, "{why}");
        }
    }

    #[test]
    fn the_message_is_the_text_without_time_and_level() {
        let pairs = [("target", Value::from("aios")), ("error", Value::from("no\nroute"))];
        let record = Record::builder()
            .level(Level::Error)
            .args(format_args!("not\nregistered"))
            .key_values(&pairs)
            .build();
        let subjects = [("node", "n1".to_owned())];
        let entry = Entry::of(&record, &subjects);
        assert_eq!(entry.message, r#"not registered target=aios error="no\nroute""#);
    }

    #[test]
    fn levels_are_called_what_they_are() {
        // What the library makes of a level, by its documentation.
        let priority = |given| match level(given) {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 5,
            Level::Debug => 6,
            Level::Trace => 7,
        };
        for (given, expected) in [
            (Level::Error, 3),
            (Level::Warn, 4),
            (Level::Info, 6),
            (Level::Debug, 7),
            (Level::Trace, 7),
        ] {
            assert_eq!(priority(given), expected, "{given}");
        }
    }
}
