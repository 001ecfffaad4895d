//! Where a target stands, and what its operator wants of it.

pub mod infrastructure;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::digest::Digest;
use crate::targets::{Destination, Known, Rescue};
use infrastructure::Infrastructure;

/// Where a target stands, as it is stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetState {
    /// The phase.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Timestamp,
    /// Why, in words for the person who must act; the network's own words where it had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What this is about: the document, the nodes that have departed from it and where it belongs, in
    /// one digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Digest>,
    /// The reply to the request whose fate is being looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Since when it has been failing, over all tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Tries in a row that came to nothing.
    #[serde(default)]
    pub attempts: u32,
    /// Those among them that the registry answered with an error of its own, or without doing what it
    /// said.
    #[serde(default)]
    pub rejections: u32,
    /// Nothing is tried before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// What waits for a person's approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// While it is offboarding: how far it has come.
    #[serde(default, skip_serializing_if = "WayOut::is_looking")]
    pub way_out: WayOut,
    /// What is known from before this phase.
    #[serde(flatten)]
    pub past: Past,
    /// The network's infrastructure on the cluster.
    #[serde(default, skip_serializing_if = "Infrastructure::is_none")]
    pub infrastructure: Infrastructure,
}

/// What a target remembers over its phases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Past {
    /// Where an entry of ours is, or may be: set before a registration leaves, and taken back only
    /// when it was seen that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_at: Option<Destination>,
    /// What the entry was last seen to be equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal: Option<Digest>,
    /// What our document said then in the fields that are ours only when we change them, as digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<BTreeMap<String, Digest>>,
    /// Whether the entry was made from here: then nobody has asked for infrastructure before.
    #[serde(default)]
    pub made: bool,
    /// The nodes of a list that is being written anew, while it is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
    /// When the last update was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// How often in a row somebody else changed what we had put right.
    #[serde(default)]
    pub reverts: u32,
    /// Whether the entry was ever seen to be right: how many nodes are expected is asked before that.
    #[serde(default)]
    pub registered: bool,
    /// The approval that the last request made use of: when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Timestamp>,
    /// The operator's word that was acted upon last: when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heeded: Option<Timestamp>,
    /// The operator's word that was fulfilled last, for the cluster was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Timestamp>,
}

impl Past {
    /// What a comparison with the entry needs of it.
    pub const fn known(&self) -> Known<'_> {
        Known { declared: self.declared.as_ref(), rescue: self.rescue.as_ref() }
    }
}

/// What a network said to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// What was sent, what came back, what it means.
    pub words: String,
    /// Whether trying again is of no use.
    pub is_final: bool,
    /// Whether it said that the request was carried out.
    #[serde(default)]
    pub is_yes: bool,
}

/// A request that a person has to approve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// What is approved: the kind of request, the document and the nodes that go.
    pub digest: Digest,
    /// The same in words.
    pub what: String,
}

/// An operator's yes to a proposal. It holds for one request, and until that has come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// The proposal's digest.
    pub digest: Digest,
    /// When it was given.
    pub at: Timestamp,
}

/// How far requests have come that are sent one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sending {
    /// Which one is being sent, from 1.
    pub piece: usize,
    /// How many there are.
    pub pieces: usize,
}

/// How far a cluster has come on its way out of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WayOut {
    /// The network is looked at first.
    #[default]
    Looking,
    /// The network's infrastructure goes first.
    Infrastructure,
    /// The entry is missing though nobody removed it, and is looked for once more.
    Missing,
}

/// What the operator wants of a target. Commands change it; it is stored before they are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Will {
    /// Whether the cluster is to be registered there.
    #[serde(default)]
    pub presence: Presence,
    /// When the operator last asked to go ahead: waits, refusals and a given-up war end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// Whether an entry that is not ours may be taken over.
    #[serde(default)]
    pub adopt: bool,
    /// Whether to register with the nodes that are there, however many are expected.
    #[serde(default)]
    pub partial: bool,
    /// What was approved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approval>,
    /// When the operator last asked for the network's infrastructure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infrastructure_asked: Option<Timestamp>,
}

/// Whether a cluster is to be in a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Presence {
    /// It is, and stays so.
    #[default]
    Registered,
    /// It is not: the network's infrastructure and its entry are removed.
    Gone,
    /// It is not, but the network's infrastructure on the cluster is left alone.
    GoneWithoutInfrastructure,
}

impl WayOut {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
    fn is_looking(&self) -> bool {
        *self == Self::Looking
    }
}

impl Will {
    /// The operator asks to go ahead; when, which is later than all before, whatever the clock says.
    /// What was allowed for an earlier word stays allowed only while that word is not fulfilled.
    pub fn go_ahead(&mut self, now: Timestamp, state: &TargetState) -> Timestamp {
        if state.is_served(self) {
            self.adopt = false;
            self.partial = false;
        }
        let past = &state.past;
        let heeded = state.infrastructure.heeded;
        let last = self.asked.max(past.heeded).max(past.served).max(heeded);
        let next = last.and_then(|last| last.checked_add(SignedDuration::from_nanos(1)).ok());
        let asked = next.map_or(now, |next| next.max(now));
        self.asked = Some(asked);
        asked
    }
}

impl TargetState {
    /// The state of a target that nothing was done for yet.
    pub fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Waiting,
            since: now,
            detail: None,
            about: None,
            reply: None,
            failing_since: None,
            attempts: 0,
            rejections: 0,
            next_try: None,
            proposal: None,
            way_out: WayOut::default(),
            past: Past::default(),
            infrastructure: Infrastructure::default(),
        }
    }

    /// The state on entering a phase; one that is in it already keeps its `since`. What was tried in
    /// another phase is forgotten, what lies further back is not.
    #[must_use]
    pub fn enter(&self, phase: Phase, now: Timestamp) -> Self {
        let since = if self.phase == phase { self.since } else { now };
        Self {
            phase,
            past: self.past.clone(),
            infrastructure: self.infrastructure.clone(),
            ..Self::new(since)
        }
    }

    /// The state to start with after a restart. What waits for a person is looked at once more:
    /// whoever restarts may have mended it at the other end, where it cannot be seen from here.
    #[must_use]
    pub fn after_restart(self, now: Timestamp) -> Self {
        let infrastructure = self.infrastructure.clone().after_restart(now);
        let state = match self.phase {
            Phase::Refused | Phase::Foreign => self.enter(Phase::Waiting, now),
            // What was said before may have been about settings that are mended now.
            _ => Self { next_try: None, reply: None, rejections: 0, ..self },
        };
        Self { infrastructure, ..state }
    }

    /// When something is looked at or tried again; `None`: something must change first. The time of a
    /// refusal is that before which not even a change is tried.
    pub fn next_look(&self) -> Option<Timestamp> {
        self.next_try.filter(|_| self.phase != Phase::Refused)
    }

    /// Whether an update in this state takes nodes away: not while that waits for approval.
    pub const fn takes_away(&self) -> bool {
        self.proposal.is_none()
    }

    /// Whether what the operator last asked for has come about: what was allowed for it alone is
    /// allowed no more.
    pub fn is_served(&self, will: &Will) -> bool {
        will.asked.is_none() || will.asked <= self.past.served
    }

    /// The phase as a monitoring system should see it: a target that fails is failing while it
    /// tries again, too.
    pub const fn observed_phase(&self) -> Phase {
        match (self.phase, self.failing_since) {
            (Phase::Submitting | Phase::Updating | Phase::Offboarding, Some(_)) => Phase::Failing,
            (phase, _) => phase,
        }
    }
}

/// The phases of onboarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Nodes that are expected have not reported.
    Waiting,
    /// All is there, and a person must say yes, or the target is only observed.
    Ready,
    /// A registration was sent, or was about to be; what became of it is not known yet.
    Submitting,
    /// The network was seen to hold our document, equal in the fields that are compared.
    Registered,
    /// The network holds an entry of ours that differs from what the cluster has now.
    Drifted,
    /// An update was sent, or was about to be; what became of it is not known yet.
    Updating,
    /// Somebody else changes the entry back each time. A person must find out who.
    Contested,
    /// It cannot go on like this. A person must act; nothing is tried until the document changes.
    Refused,
    /// It did not work, and is tried again.
    Failing,
    /// The network holds an entry of this id that is not ours.
    Foreign,
    /// The entry is being removed on the operator's word.
    Offboarding,
    /// The entry was removed on the operator's word; nothing is sent until the operator submits.
    Offboarded,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 12] = [
        Self::Waiting,
        Self::Ready,
        Self::Submitting,
        Self::Registered,
        Self::Drifted,
        Self::Updating,
        Self::Contested,
        Self::Refused,
        Self::Failing,
        Self::Foreign,
        Self::Offboarding,
        Self::Offboarded,
    ];

    /// The phase's name in tables, metrics and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Submitting => "submitting",
            Self::Registered => "registered",
            Self::Drifted => "drifted",
            Self::Updating => "updating",
            Self::Contested => "contested",
            Self::Refused => "refused",
            Self::Failing => "failing",
            Self::Foreign => "foreign",
            Self::Offboarding => "offboarding",
            Self::Offboarded => "offboarded",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
