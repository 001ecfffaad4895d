//! Makes a report of what was found.

use std::time::SystemTime;

use rollcall_report::{Agent, NodeIdentity, NodeReport, SCHEMA_VERSION};

use crate::finding::passed_over;
use crate::health::Watch;
use crate::probe::Survey;

/// The report of one node by this agent.
pub fn build(node: NodeIdentity, survey: Survey, watch: &mut Watch, now: SystemTime) -> NodeReport {
    NodeReport {
        schema_version: SCHEMA_VERSION,
        agent: Agent { version: env!("CARGO_PKG_VERSION").into() },
        node,
        passed_over: passed_over(&survey.explanation),
        health: Some(watch.note(&survey.inventory, now)),
        inventory: survey.inventory,
    }
}
