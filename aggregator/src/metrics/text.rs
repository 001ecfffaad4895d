//! Writes Prometheus' text format of many series at little cost.

use std::fmt::{Display, Write as _};

/// Gauges as text.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// One gauge, all of whose series follow each other.
#[derive(Debug, Clone)]
pub(super) struct Gauge {
    name: &'static str,
    help: &'static str,
    is_begun: bool,
}

impl Text {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// How long it is, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl Gauge {
    /// A gauge. Without series nothing is written of it.
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, is_begun: false }
    }

    /// Writes one series. Labels are in the order of their names.
    pub(super) fn set(&mut self, text: &mut Text, labels: &[(&str, &str)], value: impl Display) {
        let (Self { name, help, .. }, Text(text)) = (&*self, text);
        if !self.is_begun {
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
        self.is_begun = true;
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
            Gauge::new("g", "H.").set(&mut text, &[("a", value), ("b", "c")], 7);
            let expected =
                format!("# HELP g H.\n# TYPE g gauge\ng{{a=\"{expected}\",b=\"c\"}} 7\n");
            assert_eq!(text.into_string(), expected, "{value:?}");
        }
    }

    #[test]
    fn without_series_there_is_nothing() {
        let mut text = Text::default();
        let _none = Gauge::new("none", "H.");
        let mut gauge = Gauge::new("g", "H.");
        gauge.set(&mut text, &[], 1);
        gauge.set(&mut text, &[], 2);
        assert_eq!(text.into_string(), "# HELP g H.\n# TYPE g gauge\ng 1\ng 2\n");
    }
}
