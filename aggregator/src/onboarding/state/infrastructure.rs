//! Where the network's infrastructure on the cluster stands.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where the network's infrastructure stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Infrastructure {
    /// What is known of it.
    #[serde(default)]
    pub phase: InfrastructurePhase,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The network's task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Why, in words for the person who must act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Tries in a row that came to nothing.
    #[serde(default)]
    pub attempts: u32,
    /// Nothing is tried before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// The operator's word that was acted upon last: when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heeded: Option<Timestamp>,
}

/// What is known of the network's infrastructure on the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum InfrastructurePhase {
    /// None was asked for, or it was removed.
    #[default]
    None,
    /// It was asked for, or was about to be; the network's task is followed.
    Creating,
    /// The network's task is completed.
    Created,
    /// The network's task failed, or the request was refused. Asked again by an operator only.
    Failed,
    /// It was asked for, and the reply was lost: it may be there or not.
    Unclear,
    /// Its removal was asked for, or was about to be.
    Removing,
    /// Its removal failed, or the reply was lost.
    RemovalFailed,
}

impl InfrastructurePhase {
    /// All phases.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Creating,
        Self::Created,
        Self::Failed,
        Self::Unclear,
        Self::Removing,
        Self::RemovalFailed,
    ];

    /// The phase's name in tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Failed => "failed",
            Self::Unclear => "unclear",
            Self::Removing => "removing",
            Self::RemovalFailed => "removal-failed",
        }
    }

    /// Whether nothing goes on with it until a person acts.
    pub const fn wants_a_person(self) -> bool {
        matches!(self, Self::Failed | Self::Unclear | Self::RemovalFailed)
    }
}

impl fmt::Display for InfrastructurePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Infrastructure {
    /// Whether there is nothing to say of it.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something of it may be on the cluster.
    pub fn may_exist(&self) -> bool {
        self.phase != InfrastructurePhase::None
    }

    pub(in crate::onboarding) fn enter(
        &self,
        phase: InfrastructurePhase,
        now: Timestamp,
        detail: Option<String>,
    ) -> Self {
        let since = if self.phase == phase { self.since } else { Some(now) };
        Self { phase, since, detail, heeded: self.heeded, ..Self::default() }
    }

    /// A request that was under way when the process ended has lost its reply.
    #[must_use]
    pub(in crate::onboarding) fn after_restart(self, now: Timestamp) -> Self {
        match (self.phase, &self.task) {
            (InfrastructurePhase::Creating | InfrastructurePhase::Removing, None) => {
                self.lost(now, "rollcall was stopped meanwhile")
            }
            _ => Self { next_try: None, ..self },
        }
    }

    /// The entry is gone that the infrastructure was made for, and made anew.
    #[must_use]
    pub(in crate::onboarding) fn of_a_new_entry(self, now: Timestamp) -> Self {
        if self.phase != InfrastructurePhase::Created {
            return self;
        }
        let words = "the network's entry is made anew, and whether the infrastructure still goes with it is not known: look in the network, then have it made again with the command infrastructure";
        self.enter(InfrastructurePhase::Unclear, now, Some(words.to_owned()))
    }

    pub(in crate::onboarding) fn lost(&self, now: Timestamp, why: &str) -> Self {
        if self.phase == InfrastructurePhase::Removing {
            let words = format!(
                "its removal was asked for, and the reply was lost ({why}): look in the network whether it is gone, then offboard again"
            );
            self.enter(InfrastructurePhase::RemovalFailed, now, Some(words))
        } else {
            let words = format!(
                "it was asked for, and the reply was lost ({why}): look in the network whether it is being made; if not, ask again with the command infrastructure"
            );
            self.enter(InfrastructurePhase::Unclear, now, Some(words))
        }
    }
}
