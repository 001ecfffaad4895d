//! From a body's bytes to a report. Pure; every refusal says where the mistake is.

use rollcall_report::{
    Implausible, NodeIdentity, NodeReport, Refusal, RefusalCode, SCHEMA_VERSION,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::digest::Digest;

/// What tells whether a report is news, without reading the whole of it.
#[derive(Debug)]
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
    let parts: Parts<'_> = serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    let digest = Digest::of(&[
        parts.agent.get().as_bytes(),
        parts.node.get().as_bytes(),
        parts.inventory.get().as_bytes(),
    ]);
    let node = serde_json::from_str(parts.node.get()).map_err(|error| malformed(body, &error))?;
    Ok(Outline { node, digest })
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
