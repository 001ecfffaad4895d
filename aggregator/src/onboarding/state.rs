//! Where a target stands.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::targets::Destination;

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
    /// What this is about: the document and where it belongs, in one digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Digest>,
    /// Where an entry of ours is, or may be: set before a registration leaves, and taken back only
    /// when it was seen that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_at: Option<Destination>,
    /// The reply to the registration whose fate is being looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Since when it has been failing, over all tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Tries in a row that came to nothing.
    #[serde(default)]
    pub attempts: u32,
    /// Those among them that the registry answered with an error of its own.
    #[serde(default)]
    pub rejections: u32,
    /// Nothing is tried before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
}

/// What a network said to a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// What was sent, what came back, what it means.
    pub words: String,
    /// Whether trying again is of no use.
    pub is_final: bool,
}

impl TargetState {
    /// The state of a target that nothing was done for yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Waiting,
            since: now,
            detail: None,
            about: None,
            entry_at: None,
            reply: None,
            failing_since: None,
            attempts: 0,
            rejections: 0,
            next_try: None,
        }
    }

    /// The state to start with after a restart. What waits for a person is looked at once more:
    /// whoever restarts may have mended it at the other end, where it cannot be seen from here.
    #[must_use]
    pub fn after_restart(self, now: Timestamp) -> Self {
        match self.phase {
            Phase::Refused | Phase::Foreign => Self { entry_at: self.entry_at, ..Self::new(now) },
            // What was said before may have been about settings that are mended now.
            _ => Self { next_try: None, reply: None, rejections: 0, ..self },
        }
    }

    /// The phase as a monitoring system should see it: a target that fails is failing while it
    /// tries again, too.
    pub const fn observed_phase(&self) -> Phase {
        match (self.phase, self.failing_since) {
            (Phase::Submitting, Some(_)) => Phase::Failing,
            (phase, _) => phase,
        }
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
    /// The network was seen to hold our document, equal in the fields that are compared.
    Registered,
    /// The network holds an entry of ours that differs from what the cluster has now.
    Drifted,
    /// It cannot go on like this. A person must act; nothing is tried until the document changes.
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
