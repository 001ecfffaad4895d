//! What a person hands on to a system that has no interface for it: the fields of a form, or the
//! values of a chart.

use rollcall_daemon::table::{Cell, Column, Table};
use serde_json::Value;

/// What stands in the place of a secret.
const MASK: &str = "*** masked ***";

/// A filled form, in the shapes that are of use.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The shapes; the first is the usual one.
    pub variants: Vec<Variant>,
    /// Where secrets are in every shape: JSON pointers.
    pub secrets: Vec<String>,
    /// What to know of it, a sentence each.
    pub notes: Vec<String>,
}

/// One shape of a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its name, for `--variant`.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// All values.
    pub value: Value,
    /// The table for people: what a field is called, and the JSON pointer of its value. None: the value
    /// is shown as YAML.
    pub rows: Vec<(String, String)>,
}

impl Form {
    /// The shape of this name, or the usual one.
    ///
    /// # Errors
    ///
    /// Which ones there are, in words.
    pub fn variant(&self, name: Option<&str>) -> Result<&Variant, String> {
        let wanted = |it: &&Variant| name.is_none_or(|name| name == it.name);
        self.variants.iter().find(wanted).ok_or_else(|| {
            let known = self.variants.iter().map(|it| format!("{} ({})", it.name, it.about));
            format!("there is no such variant; there are: {}", known.collect::<Vec<_>>().join(", "))
        })
    }

    /// The same with its secrets masked, and whether there were any.
    #[must_use]
    pub fn masked(&self) -> (Self, bool) {
        let mut masked = self.clone();
        let mut found = false;
        for variant in &mut masked.variants {
            for pointer in &self.secrets {
                let Some(secret) = variant.value.pointer_mut(pointer) else { continue };
                if !secret.is_null() {
                    *secret = MASK.into();
                    found = true;
                }
            }
        }
        (masked, found)
    }
}

impl Variant {
    /// The table for people; `None`: this shape has none.
    pub fn table(&self) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let mut table = Table::new(vec![Column::new("FIELD"), Column::new("VALUE")]);
        for (field, pointer) in &self.rows {
            let shown = match self.value.pointer(pointer) {
                None | Some(Value::Null) => "(left empty)".to_owned(),
                Some(Value::String(text)) => text.trim_end().to_owned(),
                Some(other) => other.to_string(),
            };
            table.row(vec![Cell::new(field), Cell::lines(&shown)]);
        }
        // What has several lines, such as a certificate, can be taken over as it stands.
        let lines = table.lay(None).lines;
        Some(lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form() -> Form {
        let variant = |name| Variant {
            name,
            about: "a shape",
            value: json!({"name": "west", "token": "hunter2", "ca": null}),
            rows: vec![
                ("Name".to_owned(), "/name".to_owned()),
                ("Token".to_owned(), "/token".to_owned()),
                ("CA".to_owned(), "/ca".to_owned()),
            ],
        };
        Form {
            variants: vec![variant("plain"), variant("other")],
            secrets: vec!["/token".to_owned(), "/ca".to_owned(), "/nowhere".to_owned()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn secrets_are_masked_in_every_shape() {
        let (masked, found) = form().masked();
        assert!(found);
        for variant in &masked.variants {
            let expected = json!({"name": "west", "token": MASK, "ca": null});
            assert_eq!(variant.value, expected, "{}", variant.name);
        }
        let (_, found) = Form { secrets: vec!["/ca".to_owned()], ..form() }.masked();
        assert!(!found, "what is not there is no secret");
    }

    #[test]
    fn shapes_by_name() {
        for (wanted, expected) in [(None, Ok("plain")), (Some("other"), Ok("other"))] {
            assert_eq!(form().variant(wanted).map(|it| it.name), expected, "{wanted:?}");
        }
        let problem = form().variant(Some("third")).expect_err("none");
        assert!(problem.ends_with("plain (a shape), other (a shape)"), "{problem}");
    }

    #[test]
    fn the_table() {
        let (masked, _) = form().masked();
        let table = masked.variants[0].table().expect("rows");
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec!["FIELD", "VALUE"],
                vec!["Name", "west"],
                vec!["Token", MASK],
                vec!["CA", "(left empty)"]
            ]
        );
    }
}
