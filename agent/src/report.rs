//! Makes a report of what was found.

use rollcall_report::{Agent, Inventory, NodeIdentity, NodeReport, SCHEMA_VERSION};

/// The report of one node by this agent.
pub fn build(node: NodeIdentity, inventory: Inventory) -> NodeReport {
    NodeReport {
        schema_version: SCHEMA_VERSION,
        agent: Agent { version: env!("CARGO_PKG_VERSION").to_owned() },
        node,
        inventory,
        health: None,
        passed_over: Vec::new(),
    }
}
