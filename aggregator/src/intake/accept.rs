//! From a body to the roll: what is unchanged costs a lookup, what is new is stored before it is
//! answered.

use std::sync::Arc;

use axum::body::Bytes;
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
    aggregator: &Arc<Aggregator>,
    identity: &Identity,
    body: Bytes,
) -> Result<Accepted, Refusal> {
    let Outline { node, digest } = outline(&body)?;
    identity.may_report_for(&node.name)?;
    let now = Timestamp::now();
    let assignment = Assignment {
        node_id: node.proposed_id,
        node_class: None,
        interval_seconds: u32::try_from(aggregator.interval.as_secs()).unwrap_or(u32::MAX),
    };
    if aggregator.roll().note(&node.name, digest, now) {
        return Ok(Accepted { assignment, changed: false });
    }

    let report = parse(&body)?;
    let permit = aggregator.store.reserve().await.map_err(|error| unavailable(&error))?;
    let (pending, change) = {
        // Admission and the place in the store's queue go together, so that the store sees a
        // node's reports in the order in which the roll took them.
        let mut roll = aggregator.roll();
        match roll.admit(report, digest, now) {
            Ok(change) => {
                let entry = Box::new(change.entry.clone());
                let departure = change.departure.clone();
                let write = Write::Node { entry, report: Some(body.to_vec()), departure };
                (permit.put(write), change)
            }
            Err(conflict) => {
                let message = conflict.to_string();
                if roll.note_conflict(conflict, now) {
                    log::warn!(node = node.name.as_str(); "report refused: {message}");
                }
                return Err(Refusal { code: RefusalCode::IdentityConflict, message });
            }
        }
    };
    aggregator.settle(pending, change).await.map_err(|error| unavailable(&error))?;
    Ok(Accepted { assignment, changed: true })
}

fn unavailable(error: &WriteError) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, message: format!("{error}; try again") }
}
