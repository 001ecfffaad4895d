//! From a body's bytes to a report. Pure; every refusal says where the mistake is.

use rollcall_report::{
    Implausible, NodeIdentity, NodeReport, Refusal, RefusalCode, SCHEMA_VERSION,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::digest::Digest;

/// What tells whether a report is news, without reading the whole of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Which node reports.
    pub node: NodeIdentity,
    /// Digest of all that makes a report another one.
    pub digest: Digest,
}

/// Reads just enough of a report to see whether it is news.
///
/// # Errors
///
/// The refusal to answer with.
pub fn outline(body: &[u8]) -> Result<Outline, Refusal> {
    quick_outline(body).map_or_else(|| careful_outline(body), Ok)
}

/// The outline of a report as agents write them, in one go through the body. `None`: it has to be looked
/// at more closely.
fn quick_outline(body: &[u8]) -> Option<Outline> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Parts<'a> {
        schema_version: u32,
        #[serde(borrow)]
        agent: &'a RawValue,
        #[serde(borrow)]
        node: &'a RawValue,
        #[serde(borrow)]
        inventory: &'a RawValue,
    }
    // A list of the values would be read, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let parts: Parts<'_> = serde_json::from_slice(body).ok()?;
    if !(1..=SCHEMA_VERSION).contains(&parts.schema_version) {
        return None;
    }
    let node = serde_json::from_str(parts.node.get()).ok()?;
    Some(Outline { node, digest: digest(parts.agent, parts.node, parts.inventory) })
}

/// The same, one question after the other, so that what is refused is refused for the first reason.
fn careful_outline(body: &[u8]) -> Result<Outline, Refusal> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        agent: &'a RawValue,
        #[serde(borrow)]
        node: &'a RawValue,
        #[serde(borrow)]
        inventory: &'a RawValue,
    }
    check_version(body)?;
    let Parts { agent, node, inventory } =
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    let digest = digest(agent, node, inventory);
    let node = serde_json::from_str(node.get()).map_err(|error| malformed(body, &error))?;
    Ok(Outline { node, digest })
}

/// Digest of all that makes a report another one.
fn digest(agent: &RawValue, node: &RawValue, inventory: &RawValue) -> Digest {
    Digest::of(&[agent, node, inventory].map(|part| part.get().as_bytes()))
}

/// Reads a whole report.
///
/// # Errors
///
/// The refusal to answer with.
pub fn parse(body: &[u8]) -> Result<NodeReport, Refusal> {
    check_version(body)?;
    let report: NodeReport =
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    report.check().map_err(|problem| {
        let code = match problem {
            Implausible::SchemaVersion { .. } => RefusalCode::SchemaVersion,
            _ => RefusalCode::Implausible,
        };
        Refusal { code, message: problem.to_string() }
    })?;
    Ok(report)
}

/// Looks at the version first: a report of a newer schema may not be readable at all.
fn check_version(body: &[u8]) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", expecting = "a report")]
    struct Version {
        schema_version: u32,
    }
    let Version { schema_version: found } =
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    if (1..=SCHEMA_VERSION).contains(&found) {
        return Ok(());
    }
    let message = Implausible::SchemaVersion { found }.to_string();
    Err(Refusal { code: RefusalCode::SchemaVersion, message })
}

/// Says where in the body the mistake is, by path where the body is JSON at all.
fn malformed(body: &[u8], error: &serde_json::Error) -> Refusal {
    let message = if serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        let deserializer = &mut serde_json::Deserializer::from_slice(body);
        match serde_path_to_error::deserialize::<_, NodeReport>(deserializer) {
            Err(found) if found.path().iter().len() > 0 => {
                format!("the report is malformed at {}: {}", found.path(), found.inner())
            }
            _ => format!("the report is malformed: {error}"),
        }
    } else {
        format!("the body is not JSON: {error}")
    };
    Refusal { code: RefusalCode::Malformed, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = include_str!("../../tests/sample/node-1.json");

    fn sample_with(edit: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut report = serde_json::from_str(SAMPLE).expect("the sample is JSON");
        edit(&mut report);
        report.to_string()
    }

    fn agree(body: &[u8]) {
        let careful = careful_outline(body);
        if let Some(quick) = quick_outline(body) {
            assert_eq!(careful.as_ref(), Ok(&quick), "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(outline(body), careful);
    }

    #[test]
    fn the_quick_way_leads_where_the_careful_one_does() {
        let report: serde_json::Value = serde_json::from_str(SAMPLE).expect("the sample is JSON");
        let values: Vec<_> = report.as_object().expect("an object").values().cloned().collect();
        let without = |key: &str| {
            sample_with(|report| drop(report.as_object_mut().and_then(|it| it.remove(key))))
        };
        let twice = |key: &str| SAMPLE.replacen('{', &format!("{{\"{key}\": {},", report[key]), 1);
        for (what, body, is_quick) in [
            ("the sample", SAMPLE.to_owned(), true),
            ("in one line", report.to_string(), true),
            ("space around it", format!(" \r\n\t{SAMPLE}\n\n"), true),
            (
                "more than is known",
                sample_with(|it| it["more"] = serde_json::json!({"a": [1]})),
                true,
            ),
            ("escapes", SAMPLE.replace("node-1", "node\\u002d1"), true),
            ("a list of the values", serde_json::json!(values).to_string(), false),
            ("more behind it", format!("{SAMPLE}{{}}"), false),
            ("no version", without("schemaVersion"), false),
            ("no node", without("node"), false),
            ("no inventory", without("inventory"), false),
            ("a newer version", sample_with(|it| it["schemaVersion"] = 2.into()), false),
            ("version 0", sample_with(|it| it["schemaVersion"] = 0.into()), false),
            ("a version in words", sample_with(|it| it["schemaVersion"] = "1".into()), false),
            ("the version twice", twice("schemaVersion"), false),
            ("the node twice", twice("node"), false),
            ("a name that is none", sample_with(|it| it["node"]["name"] = "..".into()), false),
            ("nothing", String::new(), false),
            ("a number", "1".to_owned(), false),
        ] {
            assert_eq!(quick_outline(body.as_bytes()).is_some(), is_quick, "{what}");
            agree(body.as_bytes());
        }
        for end in 0..SAMPLE.len() {
            agree(&SAMPLE.as_bytes()[..end]);
        }
    }

    proptest! {
        #[test]
        fn damaged_reports(at: prop::sample::Index, bytes: Vec<u8>, removed in 0..40usize) {
            let mut body = SAMPLE.as_bytes().to_vec();
            let at = at.index(body.len());
            body.splice(at..(at + removed).min(SAMPLE.len()), bytes);
            agree(&body);
        }
    }
}
