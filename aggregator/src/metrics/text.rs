//! Writes Prometheus' text format of many series at little cost.

use std::fmt::{Display, Write as _};

/// Gauges as text.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// One gauge, all of whose series follow each other.
#[derive(Debug)]
pub(super) struct Gauge<'a> {
    text: &'a mut String,
    name: &'static str,
    help: &'static str,
    is_begun: bool,
}

impl Text {
    /// Begins a gauge. Without series nothing is written of it.
    pub(super) const fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge<'_> {
        Gauge { text: &mut self.0, name, help, is_begun: false }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl Gauge<'_> {
    /// Writes one series. Labels are in the order of their names.
    pub(super) fn set(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let Self { text, name, help, .. } = self;
        if !std::mem::replace(&mut self.is_begun, true) {
            // Writing to a string does not fail; likewise below.
            let _never = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        }
        text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _never = writeln!(text, " {value}");
    }
}

/// Source: Prometheus, "Exposition formats", text-based format: `\`, `"` and line feeds of a label's
/// value are escaped.
fn push_escaped(text: &mut String, value: &str) {
    for part in value.split_inclusive(['\\', '"', '\n']) {
        let last = part.chars().next_back();
        let Some((escaped, plain)) = (match last {
            Some('\\') => part.strip_suffix('\\').map(|plain| ("\\\\", plain)),
            Some('"') => part.strip_suffix('"').map(|plain| ("\\\"", plain)),
            Some('\n') => part.strip_suffix('\n').map(|plain| ("\\n", plain)),
            _ => None,
        }) else {
            text.push_str(part);
            continue;
        };
        text.push_str(plain);
        text.push_str(escaped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        for (value, expected) in [
            ("", ""),
            ("node-1", "node-1"),
            ("a\"b", "a\\\"b"),
            ("a\\b\\", "a\\\\b\\\\"),
            ("a\nb", "a\\nb"),
            ("\"\\\n", "\\\"\\\\\\n"),
            ("grün", "grün"),
        ] {
            let mut text = Text::default();
            text.gauge("g", "H.").set(&[("a", value), ("b", "c")], 7);
            let expected =
                format!("# HELP g H.\n# TYPE g gauge\ng{{a=\"{expected}\",b=\"c\"}} 7\n");
            assert_eq!(text.into_string(), expected, "{value:?}");
        }
    }

    #[test]
    fn without_series_there_is_nothing() {
        let mut text = Text::default();
        text.gauge("none", "H.");
        let mut gauge = text.gauge("g", "H.");
        gauge.set(&[], 1);
        gauge.set(&[], 2);
        assert_eq!(text.into_string(), "# HELP g H.\n# TYPE g gauge\ng 1\ng 2\n");
    }
}
