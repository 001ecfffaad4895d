//! From a body to the roll: what is unchanged costs a lookup, what is new is stored before it is
//! answered.

use jiff::Timestamp;
use rollcall_report::{
    Assignment, Implausible, NodeIdentity, NodeReport, Refusal, RefusalCode, SCHEMA_VERSION,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::aggregator::Aggregator;
use crate::digest::Digest;
use crate::intake::authenticate::Identity;
use crate::store::Write;

/// The parts of a report that tell whether anything changed, without reading the whole.
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

/// A report that was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What to answer.
    pub assignment: Assignment,
    /// Whether it changed anything.
    pub changed: bool,
}

/// Takes a report.
///
/// # Errors
///
/// The refusal to answer with; then nothing is changed.
pub async fn accept(
    aggregator: &Aggregator,
    identity: &Identity,
    body: &[u8],
) -> Result<Accepted, Refusal> {
    // It may report for any node; `Roll::admit` holds it to the machine bound at first sight.
    let Identity::JoinToken = identity;
    let parts: Parts<'_> = serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    check_version(parts.schema_version)?;
    let digest = Digest::of(&[
        parts.agent.get().as_bytes(),
        parts.node.get().as_bytes(),
        parts.inventory.get().as_bytes(),
    ]);
    let node: NodeIdentity =
        serde_json::from_str(parts.node.get()).map_err(|error| malformed(body, &error))?;
    let now = Timestamp::now();
    let assignment = Assignment {
        node_id: node.proposed_id,
        node_class: None,
        interval_seconds: u32::try_from(aggregator.interval.as_secs()).unwrap_or(u32::MAX),
    };
    if aggregator.roll().note(&node.name, digest, now) {
        return Ok(Accepted { assignment, changed: false });
    }

    let report: NodeReport =
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    report.check().map_err(implausible)?;
    let permit = aggregator.store.reserve().await.map_err(|error| unavailable(&error))?;
    let pending = {
        // Admission and the place in the store's queue go together, so that the store sees a
        // node's reports in the order in which the roll took them.
        let mut roll = aggregator.roll();
        match roll.admit(report, digest, now) {
            Ok(entry) => permit
                .put(Write::Node { entry: Box::new(entry.clone()), report: Some(body.to_vec()) }),
            Err(conflict) => {
                let message = conflict.to_string();
                if roll.note_conflict(conflict) {
                    log::warn!(node = node.name.as_str(); "report refused: {message}");
                }
                return Err(Refusal { code: RefusalCode::IdentityConflict, message });
            }
        }
    };
    pending.done().await.map_err(|error| {
        log::error!(node = node.name.as_str(), error:% = error; "a report could not be stored");
        unavailable(&error)
    })?;
    aggregator.roll().stored(&node.name, digest);
    aggregator.roll_changed();
    log::debug!(node = node.name.as_str(), node_id = assignment.node_id.as_str(); "report stored");
    Ok(Accepted { assignment, changed: true })
}

/// Reads a saved report, as `accept` would.
///
/// # Errors
///
/// The refusal that an agent would have got.
pub fn parse(body: &[u8]) -> Result<NodeReport, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    // First, for a newer schema may not parse as this one.
    let version: Version = serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    check_version(version.schema_version)?;
    let report: NodeReport =
        serde_json::from_slice(body).map_err(|error| malformed(body, &error))?;
    report.check().map_err(implausible)?;
    Ok(report)
}

fn check_version(found: u32) -> Result<(), Refusal> {
    if (1..=SCHEMA_VERSION).contains(&found) {
        Ok(())
    } else {
        Err(implausible(Implausible::SchemaVersion { found }))
    }
}

/// Says where in the body the mistake is, by path where the body is JSON at all.
fn malformed(body: &[u8], error: &serde_json::Error) -> Refusal {
    let message = if error.is_data() {
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

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn implausible(problem: Implausible) -> Refusal {
    let code = match problem {
        Implausible::SchemaVersion { .. } => RefusalCode::SchemaVersion,
        _ => RefusalCode::Implausible,
    };
    Refusal { code, message: problem.to_string() }
}

fn unavailable(error: &crate::store::WriteError) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, message: format!("{error}; try again") }
}
