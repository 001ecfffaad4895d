//! How long a value is as AIOS's Python services write it: as `json.dumps` does by default, with a
//! space after each comma and colon, and nothing but ASCII. That text is what its registry's limit
//! counts.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// How many bytes Python's `json.dumps` makes of a value.
///
/// # Errors
///
/// When it cannot be encoded.
pub fn python_len(value: &impl Serialize) -> serde_json::Result<usize> {
    let mut count = Count(0);
    value.serialize(&mut Serializer::with_formatter(&mut count, Python))?;
    Ok(count.0)
}

/// Counts what is written.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        self.0 += written.len();
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes JSON as Python's `json.dumps` does by default.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                write!(out, "{c}")?;
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each size is that of Python 3's `json.dumps`.
    #[test]
    fn as_python_counts() {
        for (value, expected) in [
            (json!({}), r"{}"),
            (json!({"a": [1, 2], "b": {"c": null}}), r#"{"a": [1, 2], "b": {"c": null}}"#),
            (json!(["Zürich"]), r#"["Z\u00fcrich"]"#),
            (json!("🚀"), r#""\ud83d\ude80""#),
            (json!("\u{7f}"), r#""\u007f""#),
            (json!("a\"b\\c\n\t\u{1}"), r#""a\"b\\c\n\t\u0001""#),
            (json!([true, -1, 1.5]), "[true, -1, 1.5]"),
        ] {
            assert_eq!(python_len(&value).expect("encoded"), expected.len(), "{value}");
        }
    }
}
