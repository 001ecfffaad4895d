//! From a body to the roll: what is unchanged costs a lookup, what is new is stored before it is
//! answered.

use jiff::Timestamp;
use rollcall_report::{Assignment, Refusal, RefusalCode};

use super::authenticate::Identity;
use super::parse::{Outline, outline, parse};
use crate::aggregator::Aggregator;
use crate::store::{Write, WriteError};

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
    let Outline { node, digest } = outline(body)?;
    let now = Timestamp::now();
    let assignment = Assignment {
        node_id: node.proposed_id,
        node_class: None,
        interval_seconds: u32::try_from(aggregator.interval.as_secs()).unwrap_or(u32::MAX),
    };
    if aggregator.roll().note(&node.name, digest, now) {
        return Ok(Accepted { assignment, changed: false });
    }

    let report = parse(body)?;
    let permit = aggregator.store.reserve().await.map_err(|error| unavailable(&error))?;
    let (pending, is_new) = {
        // Admission and the place in the store's queue go together, so that the store sees a
        // node's reports in the order in which the roll took them.
        let mut roll = aggregator.roll();
        match roll.admit(report, digest, now) {
            Ok(entry) => {
                let write =
                    Write::Node { entry: Box::new(entry.clone()), report: Some(body.to_vec()) };
                (permit.put(write), entry.first_seen == now)
            }
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
    if is_new {
        log::info!(node = node.name.as_str(), node_id = assignment.node_id.as_str(); "a new node is on the roll");
    } else {
        log::debug!(node = node.name.as_str(); "a node's report has changed");
    }
    Ok(Accepted { assignment, changed: true })
}

fn unavailable(error: &WriteError) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, message: format!("{error}; try again") }
}
