//! The wire contract between `rollcall-agent` and `rollcall-aggregator`: what an agent posts to
//! `/v1/reports`, and what it gets back.
//!
//! Types only: no I/O, no clock, no async. Everything on the wire is JSON in camelCase; sizes are
//! bytes, link speeds Mbit/s.
//!
//! # Compatibility
//!
//! [`SCHEMA_VERSION`] grows only when an older reader would misunderstand a report. Fields may be
//! added without it (as optional ones), and so may values of the enumerations that have an `Other`:
//! readers ignore what they do not know, and the aggregator keeps the report as it was sent. The
//! frozen reports under `examples/` must parse for ever.

mod health;
mod identity;
mod inventory;
#[cfg(feature = "openapi")]
pub mod openapi;
mod plausible;
mod reading;
mod reply;
mod shared;

use serde::{Deserialize, Serialize};

pub use health::{Health, PassedOver};
pub use identity::{
    IdSource, InvalidMachineHash, InvalidNodeId, InvalidNodeName, MachineHash, NODE_CLASS_LABEL,
    NODE_ID_LABEL, NodeId, NodeIdentity, NodeName,
};
pub use inventory::{
    Accelerator, AmdGpu, Attachment, ComputeCapability, Cpu, Disk, Gpu, GpuFailure, Gpus,
    InvalidComputeCapability, Inventory, Link, Machine, Memory, MigInstance, Nic, NicKind,
    NvidiaDriver, Subject, Swap,
};
pub use plausible::{Implausible, MAX_TEXT_CHARS, clean_text, is_disguising};
pub use reading::{Reading, error_chain};
pub use reply::{Assignment, Refusal, RefusalCode};
pub use shared::Shared;

/// The schema version that this crate writes, and the newest that it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The largest report that an aggregator takes, in bytes.
pub const MAX_REPORT_BYTES: usize = 256 * 1024;

/// Where reports are posted, below the aggregator's URL.
pub const REPORTS_PATH: &str = "/v1/reports";

/// All that an agent says about its node, whole at every interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Version of this schema.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1))]
    pub schema_version: u32,
    /// The program that made the report.
    pub agent: Agent,
    /// Which node this is.
    pub node: NodeIdentity,
    /// What the node has.
    pub inventory: Inventory,
    /// What the agent says of its own looking. No part of what makes a report news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What was looked at and does not count, by rule: counts and a few examples. No part of what
    /// makes a report news; `rollcall-agent explain` shows all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub passed_over: Vec<PassedOver>,
}

/// The program that made a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The agent's version, for example `0.1.0`.
    #[cfg_attr(feature = "openapi", schema(value_type = openapi::Text))]
    pub version: Shared<str>,
}
