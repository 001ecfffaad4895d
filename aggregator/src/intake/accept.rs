//! From a body to the roll: what is unchanged costs a lookup, what is new is stored before it is
//! answered.

use std::sync::Arc;

use axum::body::Bytes;
use jiff::Timestamp;
use rollcall_report::{Assignment, NodeName, Refusal, RefusalCode};

use super::authenticate::Identity;
use super::parse::{Outline, outline, parse};
use crate::aggregator::Aggregator;
use crate::kubernetes::nodes::Nodes;
use crate::roll::identity::Voucher;
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
    let voucher = voucher(&aggregator.nodes, identity, &node.name)?;
    let now = Timestamp::now();
    let noted = {
        let mut roll = aggregator.roll();
        let had = roll.get(&node.name).map(|entry| &entry.node_id);
        let label = voucher.as_ref().and_then(|voucher| voucher.label.as_ref());
        identity.may_have_its_id(&node, &[had, label])?;
        roll.note(&node, digest, voucher.as_ref(), now)
    };
    let interval = aggregator.interval;
    let assignment = |node_id| Assignment {
        node_id,
        node_class: aggregator.class_of(&node.name).map(|class| class.to_string()),
        interval_seconds: u32::try_from(interval.as_secs()).unwrap_or(u32::MAX),
    };
    if let Some(node_id) = noted {
        return Ok(Accepted { assignment: assignment(node_id), changed: false });
    }

    let report = parse(&body)?;
    let permit = aggregator.store.reserve().await.map_err(|error| unavailable(&error))?;
    // Where others write, too, each change is made from what the store holds.
    if aggregator.store.is_shared() && aggregator.roll().is_pending(&node.name) {
        let message = format!("the last report of node {} is not stored yet; try again", node.name);
        return Err(Refusal { code: RefusalCode::Unavailable, message });
    }
    let (pending, change) = {
        // Admission and the place in the store's queue go together, so that the store sees a
        // node's reports in the order in which the roll took them.
        let mut roll = aggregator.roll();
        match roll.admit(report, digest, voucher.as_ref(), now) {
            Ok(change) => {
                let entry = change.entry.clone();
                let departure = change.departure.clone();
                let write = Write::Node { entry, report: Some(body.to_vec()), departure };
                (permit.put(write), change)
            }
            Err(conflict) => {
                let message = conflict.to_string();
                if roll.note_conflict(conflict, now) {
                    log::warn!(node = node.name.as_str(), node_id = node.proposed_id.as_str();
                        "report refused: {message}");
                    aggregator.events.complain(&node.name, "NodeIdentityConflict", &message);
                }
                return Err(Refusal { code: RefusalCode::IdentityConflict, message });
            }
        }
    };
    let node_id = change.entry.node_id.clone();
    aggregator.settle(pending, change).await.map_err(|error| unavailable(&error))?;
    Ok(Accepted { assignment: assignment(node_id), changed: true })
}

/// What Kubernetes says of the Node that a report is for; nothing where there is no Kubernetes.
///
/// # Errors
///
/// When Kubernetes knows no such Node: one that was deleted is no more part of the cluster, whoever
/// still runs on it.
fn voucher(
    nodes: &Nodes,
    identity: &Identity,
    name: &NodeName,
) -> Result<Option<Voucher>, Refusal> {
    if !nodes.is_watched() {
        return Ok(None);
    }
    let Some(node) = nodes.get(name) else {
        let message = format!("Kubernetes has not told of a Node named {name} yet; try again");
        return Err(Refusal { code: RefusalCode::Unavailable, message });
    };
    let is_proven = match identity {
        // A key can lie on two machines, and then each would take the node from the other.
        Identity::JoinToken | Identity::Certificate(_) => false,
        Identity::AgentOn(placement) => {
            if placement.node_uid.as_ref().is_some_and(|uid| *uid != node.uid) {
                let message = format!(
                    "the token is of a pod on a Node named {name} that was deleted since; try again with a new one"
                );
                return Err(Refusal { code: RefusalCode::CredentialsWrong, message });
            }
            true
        }
    };
    Ok(Some(Voucher { node_uid: node.uid.clone(), label: node.node_id.clone(), is_proven }))
}

fn unavailable(error: &WriteError) -> Refusal {
    Refusal { code: RefusalCode::Unavailable, message: format!("{error}; try again") }
}
