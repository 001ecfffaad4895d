//! Where a target stands.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where a target stands, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetState {
    /// The phase.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// Why, in words for the person who must act; the network's own words where it had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The document that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Digest>,
    /// Tries in a row that came to nothing.
    #[serde(default)]
    pub attempts: u32,
    /// Those among them that the registry answered with an error of its own.
    #[serde(default)]
    pub rejections: u32,
    /// When the next try is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
}

impl TargetState {
    /// The state of a target that nothing was done for yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Waiting,
            since: now,
            detail: None,
            document: None,
            attempts: 0,
            rejections: 0,
            next_try: None,
        }
    }

    /// The state to start with after a restart. A refusal is tried once more: whoever restarts may
    /// have mended its cause at the other end, where it cannot be seen from here.
    #[must_use]
    pub fn after_restart(self, now: Timestamp) -> Self {
        if self.phase == Phase::Refused { Self::new(now) } else { self }
    }
}

/// The phases of onboarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Nodes that are expected have not reported.
    Waiting,
    /// A registration was sent, or was about to be; what became of it is not known yet.
    Submitting,
    /// The network was seen to hold our document.
    Registered,
    /// The network holds an entry of ours that differs from what the cluster has now.
    Drifted,
    /// The network refused. A person must act; nothing is tried until the document changes.
    Refused,
    /// It did not work, and is tried again.
    Failing,
    /// The network holds an entry of this id that is not ours.
    Foreign,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Submitting,
        Self::Registered,
        Self::Drifted,
        Self::Refused,
        Self::Failing,
        Self::Foreign,
    ];

    /// The phase's name in tables, metrics and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Submitting => "submitting",
            Self::Registered => "registered",
            Self::Drifted => "drifted",
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
