//! Logging to stderr, one line a record, key-values at the end.

use std::fmt::Write as _;
use std::io::Write as _;

use log::LevelFilter;
use log::kv::{Key, Value, VisitSource};

/// Starts logging. A second call changes nothing.
///
/// `level` holds for rollcall itself; libraries are heard from `warn` upwards, so that no library's
/// debugging output can carry a request's credentials into the log.
pub fn init(level: LevelFilter) {
    let started = env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("rollcall", level)
        // What they log at each try comes back as the request's error, which is told once.
        .filter_module("rustls_platform_verifier", LevelFilter::Off)
        .filter_module("kube_runtime", LevelFilter::Off)
        .filter_module("kube_client::client", LevelFilter::Off)
        // A CA bundle that cannot be read anew is told by nobody else.
        .filter_module("kube_client::client::tls", level.min(LevelFilter::Warn))
        .format(|out, record| writeln!(out, "{} {}", out.timestamp_millis(), line(record)))
        .try_init();
    drop(started);
}

/// The record as text: `LEVEL message key=value …`, never more than one line.
fn line(record: &log::Record<'_>) -> String {
    let mut line = format!("{:5} ", record.level());
    append(&mut line, &record.args().to_string(), false);
    let visited = record.key_values().visit(&mut KeyValues(&mut line));
    debug_assert!(visited.is_ok(), "the visitor below never fails");
    line
}

struct KeyValues<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for KeyValues<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push(' ');
        self.0.push_str(key.as_str());
        self.0.push('=');
        append(self.0, &value.to_string(), true);
        Ok(())
    }
}

/// Appends a text so that it cannot forge another line or another pair.
fn append(line: &mut String, text: &str, quote: bool) {
    let ambiguous = |c: char| c.is_whitespace() || c == '"' || c == '=';
    if quote && (text.is_empty() || text.contains(ambiguous) || text.contains(char::is_control)) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{text:?}");
    } else {
        line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
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
            line(&record),
            r#"WARN  refused: ERROR forged node=n1 reply="two\nlines and a \"quote\"" empty="" url="http://h/?a=b""#
        );
    }
}
