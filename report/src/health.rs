//! What an agent says of its own looking: what fails and since when, and what it passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Subject;

/// How well the inventory is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// The subjects that fail, wholly or in part, and since when: seconds since the epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(
        feature = "openapi",
        schema(value_type = BTreeMap<Subject, crate::openapi::EpochSeconds>)
    )]
    pub failing_since: BTreeMap<Subject, u64>,
    /// PCI addresses of GPUs that are on the bus and do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Text>, max_items = 256))]
    pub lost_gpus: Vec<String>,
    /// Interfaces whose link may be up and whose speed is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Text>, max_items = 1024))]
    pub unknown_speeds: Vec<String>,
}

/// Candidates that one rule left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// What they were candidates for.
    pub subject: Subject,
    /// The rule's name, as `docs/counting.md` lists it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub rule: String,
    /// How many there are.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Count))]
    pub count: u32,
    /// The first few of their names.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Text>, max_items = 256))]
    pub examples: Vec<String>,
}
