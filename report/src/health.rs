//! What an agent says of its own looking: what fails and since when, and what it passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Subject;

/// How well the inventory is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The subjects that fail, wholly or in part, and since when: seconds since the epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failing_since: BTreeMap<Subject, u64>,
    /// PCI addresses of GPUs that are on the bus and do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_gpus: Vec<String>,
    /// Interfaces whose link may be up and whose speed is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_speeds: Vec<String>,
}

/// Candidates that one rule left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// What they were candidates for.
    pub subject: Subject,
    /// The rule's name, as `docs/counting.md` lists it.
    pub rule: String,
    /// How many there are.
    pub count: u32,
    /// The first few of their names.
    pub examples: Vec<String>,
}
