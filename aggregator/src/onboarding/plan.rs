//! What to do next for a target. Pure; the clock and the dice come from the caller.
//!
//! Two rules keep a cluster from being registered twice: a create is planned only right after the
//! network was seen to hold no entry of our id, and whatever the reply to a create says, what the
//! network holds is read before anything else is done.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::gate::Gate;
use super::state::{Phase, TargetState};
use crate::digest::Digest;

/// After this many creates that the registry itself answered with an error, it is taken at its word.
pub const MAX_REJECTIONS: u32 = 5;

/// How long a difference is left before the network is looked at again.
const DRIFT_RECHECK: Duration = Duration::from_mins(1);

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// What the network was seen to hold under our id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Not looked at since the last step that may have changed it.
    NotRead,
    /// No entry.
    Absent,
    /// Our entry, with how it differs from our document, in words; none: it is equal.
    Ours {
        /// One line a difference.
        differences: Vec<String>,
    },
    /// An entry that is not ours.
    Foreign,
    /// It could not be read.
    Unreadable {
        /// What was tried and what came back.
        words: String,
    },
}

/// What a reply to a create is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It says that the entry was made.
    Accepted,
    /// It says that the entry will never be made like this; a person must act.
    Refused {
        /// What was sent, what came back, what it means, what to do.
        words: String,
    },
    /// The registry itself answered with an error that does not say why.
    Rejected {
        /// What was sent, what came back, what it means.
        words: String,
    },
    /// There was no answer from the registry.
    Unanswered {
        /// What was sent, what came back, what it means.
        words: String,
    },
}

impl Verdict {
    /// The verdict's name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Unanswered { .. } => "unanswered",
        }
    }
}

/// All that a decision is made of.
#[derive(Debug)]
pub struct Situation<'a> {
    /// Where the target stands.
    pub state: &'a TargetState,
    /// Whether enough nodes have reported.
    pub gate: &'a Gate,
    /// The document that should be registered.
    pub document: Digest,
    /// Why the document must not be sent at all, if so.
    pub obstacle: Option<&'a str>,
    /// What the network holds.
    pub held: &'a Held,
    /// The time.
    pub now: Timestamp,
    /// A random number of 0 to 1, to spread retries.
    pub dice: f64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes.
    Rest,
    /// Nothing until something changes, or this time has come.
    RestUntil(Timestamp),
    /// Look at what the network holds.
    Read,
    /// Store this state, then send the registration.
    Create(TargetState),
    /// Store this state.
    Settle(TargetState),
}

/// Decides the next step.
pub fn next(situation: &Situation<'_>) -> Step {
    let Situation { state, gate, document, obstacle, held, now, .. } = *situation;
    // A registration may be out there: find out before anything else.
    if state.phase == Phase::Submitting {
        return match held {
            Held::NotRead => read_when_due(situation),
            Held::Absent => Step::Settle(not_created(situation)),
            _ => settle(situation),
        };
    }
    if matches!(state.phase, Phase::Waiting | Phase::Failing)
        && let Gate::Closed { why, opens } = gate
    {
        return wait(situation, why, *opens);
    }
    let same = state.document == Some(document);
    if let Some(obstacle) = obstacle {
        if same && state.phase == Phase::Refused {
            return Step::Rest;
        }
        return Step::Settle(enter(situation, Phase::Refused, Some(obstacle.to_owned())));
    }
    match state.phase {
        Phase::Registered | Phase::Refused | Phase::Foreign if same => return Step::Rest,
        // Its next look was set for another document.
        Phase::Drifted if !same => {}
        _ => {
            if let Some(at) = state.next_try.filter(|at| *at > now) {
                return Step::RestUntil(at);
            }
        }
    }
    match (held, gate) {
        (Held::NotRead, _) => Step::Read,
        (Held::Absent, Gate::Closed { why, opens }) => wait(situation, why, *opens),
        (Held::Absent, Gate::Open) => Step::Create(TargetState {
            attempts: state.attempts,
            rejections: if same { state.rejections } else { 0 },
            ..enter(situation, Phase::Submitting, None)
        }),
        _ => settle(situation),
    }
}

/// A look is put off after one that failed.
fn read_when_due(situation: &Situation<'_>) -> Step {
    let due = situation.state.next_try.filter(|at| *at > situation.now);
    due.map_or(Step::Read, Step::RestUntil)
}

fn wait(situation: &Situation<'_>, why: &str, opens: Option<Timestamp>) -> Step {
    let state = situation.state;
    if state.phase == Phase::Waiting && state.detail.as_deref() == Some(why) {
        return opens.map_or(Step::Rest, Step::RestUntil);
    }
    let since = if state.phase == Phase::Waiting { state.since } else { situation.now };
    Step::Settle(TargetState { detail: Some(why.to_owned()), ..TargetState::new(since) })
}

/// The state after the reply to a create: still submitting unless the reply is a clear no.
pub fn after_reply(state: &TargetState, verdict: &Verdict, now: Timestamp) -> TargetState {
    match verdict {
        Verdict::Accepted => TargetState { detail: None, ..state.clone() },
        Verdict::Refused { words } => TargetState {
            phase: Phase::Refused,
            since: now,
            detail: Some(words.clone()),
            ..state.clone()
        },
        Verdict::Rejected { words } => TargetState {
            detail: Some(words.clone()),
            rejections: state.rejections.saturating_add(1),
            ..state.clone()
        },
        Verdict::Unanswered { words } => {
            TargetState { detail: Some(words.clone()), ..state.clone() }
        }
    }
}

/// What follows from an entry that was seen, or from a network that could not be read.
fn settle(situation: &Situation<'_>) -> Step {
    Step::Settle(match situation.held {
        Held::Ours { differences } if differences.is_empty() => {
            enter(situation, Phase::Registered, None)
        }
        Held::Ours { differences } => TargetState {
            next_try: after(situation.now, DRIFT_RECHECK),
            ..enter(
                situation,
                Phase::Drifted,
                Some(format!("the network's entry differs: {}", differences.join("; "))),
            )
        },
        Held::Foreign => enter(
            situation,
            Phase::Foreign,
            Some(
                "the network holds an entry of this id that this installation did not make: choose another cluster.id, or have the entry removed"
                    .to_owned(),
            ),
        ),
        Held::Unreadable { words } => {
            // A registration whose fate is unknown stays one: it must not be sent again unread.
            let phase = match situation.state.phase {
                Phase::Submitting => Phase::Submitting,
                _ => Phase::Failing,
            };
            try_again(situation, phase, words.clone())
        }
        Held::NotRead | Held::Absent => return Step::Read,
    })
}

/// A create was sent, and there is no entry.
fn not_created(situation: &Situation<'_>) -> TargetState {
    let state = situation.state;
    let words = state.detail.clone().unwrap_or_else(|| {
        "a registration was sent, and the network holds no entry of it".to_owned()
    });
    if state.rejections >= MAX_REJECTIONS {
        let words = format!("given up after {} tries: {words}", state.rejections);
        return TargetState { rejections: 0, ..enter(situation, Phase::Refused, Some(words)) };
    }
    try_again(situation, Phase::Failing, words)
}

fn try_again(situation: &Situation<'_>, phase: Phase, words: String) -> TargetState {
    let state = situation.state;
    TargetState {
        attempts: state.attempts.saturating_add(1),
        rejections: state.rejections,
        next_try: after(situation.now, backoff(state.attempts, situation.dice)),
        ..enter(situation, phase, Some(words))
    }
}

/// The state on entering a phase; one that is in it already keeps its `since`.
fn enter(situation: &Situation<'_>, phase: Phase, detail: Option<String>) -> TargetState {
    let since = if situation.state.phase == phase { situation.state.since } else { situation.now };
    TargetState { detail, document: Some(situation.document), phase, ..TargetState::new(since) }
}

/// Capped exponential backoff, spread by a fifth to either side.
fn backoff(attempts: u32, dice: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(attempts.min(20)));
    doubled.min(LONGEST_BACKOFF).mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
}

fn after(now: Timestamp, wait: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(wait).ok()?).ok()
}
