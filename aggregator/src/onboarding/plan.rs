//! What to do next for a target. Pure; the clock and the dice come from the caller.
//!
//! Three rules keep a cluster from being registered twice: a create is planned only right after the
//! network was seen to hold no entry of our id; whatever the reply to a create says, what the
//! network holds is read before anything else is done; and where an entry of ours is, or may be, is
//! not forgotten until it was seen that there is none.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::gate::Gate;
use super::state::{Phase, Reply, TargetState};
use crate::digest::Digest;
use crate::targets::{Destination, Held, Verdict};

/// After this many creates that the registry itself answered with an error, it is taken at its word.
pub const MAX_REJECTIONS: u32 = 5;

/// How long a difference is left, and a refusal stands, before the network is asked again, however
/// often the document changes meanwhile.
const PAUSE: Duration = Duration::from_mins(1);
/// How often to look whether somebody else's entry is gone.
const FOREIGN_RECHECK: Duration = Duration::from_mins(5);

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// All that a decision is made of.
#[derive(Debug)]
pub struct Situation<'a> {
    /// Where the target stands.
    pub state: &'a TargetState,
    /// Whether enough nodes have reported.
    pub gate: &'a Gate,
    /// Where the document belongs.
    pub destination: &'a Destination,
    /// The document and its destination, in one digest.
    pub wanted: Digest,
    /// Why the document must not be sent at all, if so.
    pub obstacle: Option<&'a str>,
    /// What the network holds, seen for exactly this document and destination.
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
    let Situation { state, gate, obstacle, held, now, .. } = *situation;
    let is_settled = matches!(state.phase, Phase::Registered | Phase::Refused);
    if is_settled && state.about == Some(situation.wanted) {
        return Step::Rest;
    }
    // A time further off than any that is set here comes from a clock that was wrong.
    let is_ahead = |at: &Timestamp| {
        *at > now && after(now, 2 * LONGEST_BACKOFF).is_none_or(|furthest| *at <= furthest)
    };
    if let Some(at) = state.next_try.filter(is_ahead) {
        return Step::RestUntil(at);
    }
    // A registration may be out there: find out before anything else.
    if state.phase != Phase::Submitting {
        if state.entry_at.is_none()
            && let Gate::Closed { why, opens } = gate
        {
            return wait(situation, why, *opens);
        }
        if let Some(obstacle) = obstacle {
            return Step::Settle(refuse(situation, obstacle.to_owned()));
        }
    }
    match held {
        Held::NotRead => Step::Read,
        Held::Absent => absent(situation),
        Held::Ours { differences } if differences.is_empty() => Step::Settle(TargetState {
            entry_at: Some(situation.destination.clone()),
            ..enter(situation, Phase::Registered, None)
        }),
        Held::Ours { differences } => Step::Settle(TargetState {
            entry_at: Some(situation.destination.clone()),
            next_try: after(now, PAUSE),
            ..enter(
                situation,
                Phase::Drifted,
                Some(format!("the network's entry differs: {}", differences.join("; "))),
            )
        }),
        Held::Foreign => Step::Settle(TargetState {
            entry_at: elsewhere(situation).cloned(),
            next_try: after(now, FOREIGN_RECHECK),
            ..enter(
                situation,
                Phase::Foreign,
                Some(
                    "the network holds an entry of this id that this installation did not make: choose another cluster.id, or have the entry removed"
                        .to_owned(),
                ),
            )
        }),
        Held::Unreadable { words } => {
            // A registration whose fate is unknown stays one: it must not be sent again unread.
            let phase = match state.phase {
                Phase::Submitting => Phase::Submitting,
                _ => Phase::Failing,
            };
            Step::Settle(TargetState {
                reply: state.reply.clone(),
                ..try_again(situation, phase, words.clone())
            })
        }
    }
}

/// Notes the reply to a create. What became of it is seen by reading.
pub fn after_reply(state: &TargetState, verdict: &Verdict) -> TargetState {
    let reply = |words: &String, is_final| Some(Reply { words: words.clone(), is_final });
    let (reply, rejected) = match verdict {
        Verdict::Accepted => (None, 0),
        Verdict::Refused { words } => (reply(words, true), 0),
        Verdict::Rejected { words } => (reply(words, false), 1),
        Verdict::Unanswered { words } => (reply(words, false), 0),
    };
    TargetState { reply, rejections: state.rejections.saturating_add(rejected), ..state.clone() }
}

/// The network holds no entry of our id.
fn absent(situation: &Situation<'_>) -> Step {
    let Situation { state, gate, destination, .. } = *situation;
    if let Some(former) = elsewhere(situation) {
        let words = format!(
            "the cluster is, or may be, registered as {} at {}, and would be registered twice: set id and URLs back, or have that entry removed and give this target another name",
            former.cluster_id, former.create_url
        );
        return Step::Settle(refuse(situation, words));
    }
    if state.phase == Phase::Submitting {
        return Step::Settle(not_created(situation));
    }
    match gate {
        Gate::Closed { why, opens } => wait(situation, why, *opens),
        Gate::Open => Step::Create(TargetState {
            entry_at: Some(destination.clone()),
            failing_since: state.failing_since,
            attempts: state.attempts,
            rejections: if state.about == Some(situation.wanted) { state.rejections } else { 0 },
            ..enter(situation, Phase::Submitting, None)
        }),
    }
}

/// A create was sent, and there is no entry. Where it was answered, none will come; else one may
/// come yet, and where is not forgotten.
fn not_created(situation: &Situation<'_>) -> TargetState {
    let state = situation.state;
    // What was said of another document says nothing of this one.
    let reply = state.reply.clone().filter(|_| state.about == Some(situation.wanted));
    let Some(Reply { words, is_final }) = reply else {
        let words = "a registration was sent, and the network holds no entry of it";
        return try_again(situation, Phase::Failing, words.to_owned());
    };
    if is_final {
        TargetState { entry_at: None, ..refuse(situation, words) }
    } else if state.rejections >= MAX_REJECTIONS {
        let words = format!("given up after {} tries: {words}", state.rejections);
        TargetState { entry_at: None, ..refuse(situation, words) }
    } else {
        try_again(situation, Phase::Failing, words)
    }
}

/// Where an entry of ours is, or may be, if that is not where the document belongs now.
fn elsewhere<'a>(situation: &Situation<'a>) -> Option<&'a Destination> {
    situation.state.entry_at.as_ref().filter(|former| *former != situation.destination)
}

fn wait(situation: &Situation<'_>, why: &str, opens: Option<Timestamp>) -> Step {
    let state = situation.state;
    if state.phase == Phase::Waiting && state.detail.as_deref() == Some(why) {
        return opens.map_or(Step::Rest, Step::RestUntil);
    }
    let since = if state.phase == Phase::Waiting { state.since } else { situation.now };
    Step::Settle(TargetState { detail: Some(why.to_owned()), ..TargetState::new(since) })
}

fn refuse(situation: &Situation<'_>, words: String) -> TargetState {
    TargetState {
        next_try: after(situation.now, PAUSE),
        ..enter(situation, Phase::Refused, Some(words))
    }
}

fn try_again(situation: &Situation<'_>, phase: Phase, words: String) -> TargetState {
    let state = situation.state;
    let failing_since = state.failing_since.unwrap_or(situation.now);
    TargetState {
        since: if phase == Phase::Failing { failing_since } else { state.since },
        failing_since: Some(failing_since),
        attempts: state.attempts.saturating_add(1),
        rejections: if state.about == Some(situation.wanted) { state.rejections } else { 0 },
        next_try: after(situation.now, backoff(state.attempts, situation.dice)),
        ..enter(situation, phase, Some(words))
    }
}

/// The state on entering a phase; one that is in it already keeps its `since`.
fn enter(situation: &Situation<'_>, phase: Phase, detail: Option<String>) -> TargetState {
    let state = situation.state;
    let since = if state.phase == phase { state.since } else { situation.now };
    TargetState {
        phase,
        detail,
        about: Some(situation.wanted),
        entry_at: state.entry_at.clone(),
        ..TargetState::new(since)
    }
}

/// Capped exponential backoff, spread by a fifth to either side.
fn backoff(attempts: u32, dice: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(attempts.min(20)));
    doubled.min(LONGEST_BACKOFF).mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
}

fn after(now: Timestamp, wait: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(wait).ok()?).ok()
}
