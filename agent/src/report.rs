//! Makes a report of what was found.

use rollcall_report::{Agent, Health, NodeIdentity, NodeReport, SCHEMA_VERSION};

use crate::finding::passed_over;
use crate::probe::Survey;

/// The report of one node by this agent.
pub fn build(node: NodeIdentity, survey: Survey, health: Health) -> NodeReport {
    NodeReport {
        schema_version: SCHEMA_VERSION,
        agent: Agent { version: env!("CARGO_PKG_VERSION").to_owned() },
        node,
        passed_over: passed_over(&survey.explanation),
        inventory: survey.inventory,
        health: Some(health),
    }
}
