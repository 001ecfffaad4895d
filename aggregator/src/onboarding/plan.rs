//! What to do next for a target. Pure; the clock and the dice come from the caller.
//!
//! Four rules keep a registration from being lost or doubled. A create is planned only right after the
//! network was seen to hold no entry of our id. Whatever the reply to a request says, what the
//! network holds is read before anything else is done. Where an entry of ours is, or may be, is not
//! forgotten until it was seen that there is none. And an entry is made smaller only by nodes that are
//! recorded as departed; what may be taken away is settled before it comes here (`targets`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::gate::Gate;
use super::pace::{after, backoff, is_ahead};
use super::state::{Past, Phase, Presence, Proposal, Reply, TargetState, WayOut, Will};
use crate::cluster_file::Mode;
use crate::digest::Digest;
use crate::targets::{Destination, Difference, Held, Verdict, listed};

/// After this many requests that the registry itself answered with an error, or did not carry out
/// though it said so, it is taken at its word.
pub const MAX_REJECTIONS: u32 = 5;

/// After this many times in a row that somebody else changed back what was put right, it is left.
pub const MAX_REVERTS: u32 = 5;

/// An entry that has been right for so long has no other writer any more.
const QUIET: Duration = Duration::from_mins(10);

/// How long a refusal stands before the network is asked again, however often the document changes
/// meanwhile.
const PAUSE: Duration = Duration::from_mins(1);
/// How often to look at what waits for a person: somebody else's entry, and the end of a war.
const RECHECK: Duration = Duration::from_mins(5);

/// All that a decision is made of.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// Where the target stands.
    pub state: &'a TargetState,
    /// What the operator wants.
    pub will: &'a Will,
    /// How much is done without a person.
    pub mode: Mode,
    /// How often the entry is looked at.
    pub look_every: Duration,
    /// The share of an entry's nodes, in percent, that may be taken away without a person.
    pub shrink_percent: u8,
    /// Whether enough nodes have reported.
    pub gate: &'a Gate,
    /// Where the document belongs.
    pub destination: &'a Destination,
    /// The document, the nodes that have departed and the destination, in one digest.
    pub wanted: Digest,
    /// What the document says in the fields that are ours only when we change them.
    pub declared: &'a BTreeMap<String, Digest>,
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
    /// Store this state, then send what makes the entry right.
    Update(TargetState),
    /// Store this state, then have the entry removed.
    Remove(TargetState),
    /// Store this state.
    Settle(TargetState),
}

/// Decides the next step.
pub fn next(situation: &Situation<'_>) -> Step {
    let Situation { state, will, gate, obstacle, held, now, .. } = *situation;
    if will.presence != Presence::Registered {
        return leave(situation);
    }
    // Where an entry is, or may be, it stands as it is until it is known what belongs into it.
    if let Gate::Unsettled { why } = gate {
        return match state.past.entry_at {
            Some(_) => Step::Rest,
            None => wait(situation, why, None),
        };
    }
    let is_pushed = is_pushed(situation);
    if state.phase == Phase::Refused && state.about == Some(situation.wanted) && !is_pushed {
        return Step::Rest;
    }
    if let Some(at) = due(situation).filter(|_| !is_pushed) {
        // What changed here is not left until the next look.
        let is_news = state.phase == Phase::Registered && state.about != Some(situation.wanted);
        if !is_news {
            return Step::RestUntil(at);
        }
    }
    let may_be_adopted = will.adopt && !state.is_served(will);
    // A registration may be out there: find out before anything else.
    if state.phase != Phase::Submitting {
        // An entry that is to be taken over loses nothing by it, however few nodes are here.
        if state.past.entry_at.is_none()
            && !may_be_adopted
            && let Gate::Closed { why, opens } = gate
        {
            return wait(situation, why, *opens);
        }
        if let Some(obstacle) = obstacle {
            return Step::Settle(obstructed(situation, obstacle));
        }
    }
    match held {
        Held::NotRead => Step::Read,
        Held::Absent => absent(situation),
        Held::Ours(difference) if difference.is_none() => {
            Step::Settle(registered(situation, difference))
        }
        Held::Ours(difference) => different(situation, difference),
        Held::Foreign(difference) if may_be_adopted => match elsewhere(situation) {
            Some(former) => Step::Settle(refuse(situation, registered_elsewhere(former))),
            None => different(situation, difference),
        },
        Held::Foreign(_) => {
            let words = "the network holds an entry of this id that this installation did not make: choose another cluster.id, have the entry removed, or take it over with submit --adopt";
            let entered = enter(situation, Phase::Foreign, Some(words.to_owned()));
            let entry_at = elsewhere(situation).cloned();
            Step::Settle(TargetState {
                next_try: after(now, RECHECK),
                past: Past { entry_at, ..entered.past.clone() },
                ..entered
            })
        }
        Held::Unreadable { words } => {
            // A request whose fate is unknown stays one, about what it was about: it must not be
            // sent again unread, and what it was agreed to was that.
            let (phase, about) = match state.phase {
                Phase::Submitting | Phase::Updating => (state.phase, state.about),
                _ => (Phase::Failing, Some(situation.wanted)),
            };
            Step::Settle(TargetState {
                about,
                reply: state.reply.clone(),
                proposal: state.proposal.clone(),
                ..try_again(situation, phase, words.clone())
            })
        }
    }
}

/// Notes the reply to a request. What became of it is seen by reading.
pub fn after_reply(state: &TargetState, verdict: &Verdict) -> TargetState {
    let reply =
        |words: &String, is_final| Some(Reply { words: words.clone(), is_final, is_yes: false });
    let (reply, rejected) = match verdict {
        Verdict::Accepted if state.phase == Phase::Submitting => (None, 0),
        // Whether it did so is seen by reading; if not, this is why it is tried again.
        Verdict::Accepted => {
            let words = "the network said that it was done, and it is not".to_owned();
            (Some(Reply { words, is_final: false, is_yes: true }), 1)
        }
        Verdict::Refused { words } => (reply(words, true), 0),
        Verdict::Rejected { words } => (reply(words, false), 1),
        Verdict::Unanswered { words } => (reply(words, false), 0),
    };
    TargetState { reply, rejections: state.rejections.saturating_add(rejected), ..state.clone() }
}

/// The cluster is to be in the network no more.
fn leave(situation: &Situation<'_>) -> Step {
    let Situation { state, held, .. } = *situation;
    let is_pushed = is_pushed(situation);
    if matches!(state.phase, Phase::Offboarded | Phase::Refused) && !is_pushed {
        return Step::Rest;
    }
    if state.phase != Phase::Offboarding || is_pushed {
        return Step::Settle(enter(situation, Phase::Offboarding, None));
    }
    if let Some(at) = due(situation) {
        return Step::RestUntil(at);
    }
    if situation.mode == Mode::Observe {
        return Step::Settle(refuse(situation, OBSERVED.to_owned()));
    }
    let has_infrastructure =
        situation.will.presence == Presence::Gone && state.infrastructure.may_exist();
    if has_infrastructure && state.way_out == WayOut::Infrastructure {
        return Step::Rest;
    }
    let gone = |detail: Option<&str>| {
        let state = enter(situation, Phase::Offboarded, detail.map(str::to_owned));
        Step::Settle(TargetState {
            past: Past { heeded: state.past.heeded, spent: state.past.spent, ..Past::default() },
            ..state
        })
    };
    match held {
        Held::NotRead => Step::Read,
        // Of an entry that is somebody else's the infrastructure is theirs, too.
        Held::Ours(_) | Held::Absent if has_infrastructure => {
            let words =
                "the network's infrastructure is removed first (--leave-infrastructure leaves it)";
            let entered = enter(situation, Phase::Offboarding, Some(words.to_owned()));
            Step::Settle(TargetState { way_out: WayOut::Infrastructure, ..entered })
        }
        Held::Absent | Held::Foreign(_) => match (elsewhere(situation), held) {
            (Some(former), _) => Step::Settle(refuse(situation, registered_elsewhere(former))),
            (None, Held::Absent) if !is_seen_to_be_gone(state) => {
                let entered = enter(situation, Phase::Offboarding, Some(GONE_ONCE.to_owned()));
                Step::Settle(TargetState {
                    next_try: after(situation.now, PAUSE),
                    way_out: WayOut::Missing,
                    ..entered
                })
            }
            (None, Held::Absent) => gone(None),
            (None, _) => gone(Some("the entry that the network holds is not ours, and was left")),
        },
        Held::Ours(_) => match &state.reply {
            Some(Reply { words, is_final: true, .. }) => {
                Step::Settle(refuse(situation, words.clone()))
            }
            // A pause follows each try.
            Some(Reply { words, .. }) => Step::Settle(TargetState {
                reply: None,
                ..try_again(situation, Phase::Offboarding, words.clone())
            }),
            None => Step::Remove(TargetState {
                failing_since: state.failing_since,
                attempts: state.attempts,
                rejections: state.rejections,
                ..enter(situation, Phase::Offboarding, None)
            }),
        },
        Held::Unreadable { words } => Step::Settle(TargetState {
            reply: state.reply.clone(),
            ..try_again(situation, Phase::Offboarding, words.clone())
        }),
    }
}

const GONE_ONCE: &str = "the network holds no entry, and is looked at once more in a minute: a registration that was sent may come yet";

/// Whether there is no entry because it was removed, or never made, and not because one look failed
/// or a registration is still on its way.
fn is_seen_to_be_gone(state: &TargetState) -> bool {
    let was_removed = state.reply.as_ref().is_some_and(|reply| reply.is_yes);
    let was_never_made = state.past.entry_at.is_none();
    was_removed || was_never_made || state.way_out == WayOut::Missing
}

/// The network holds no entry of our id.
fn absent(situation: &Situation<'_>) -> Step {
    let Situation { state, gate, destination, .. } = *situation;
    if let Some(former) = elsewhere(situation) {
        return Step::Settle(refuse(situation, registered_elsewhere(former)));
    }
    // What was said before the operator's word does not answer it.
    let is_pushed = is_pushed(situation);
    if state.phase == Phase::Submitting && !is_pushed {
        return Step::Settle(not_created(situation));
    }
    // A cluster that was registered is known: how many nodes it has now, the roll says.
    if let Gate::Closed { why, opens } = gate
        && !state.past.registered
    {
        return wait(situation, why, *opens);
    }
    let why = "the network holds no entry of this cluster";
    let by_another = state.past.equal.is_some();
    let reverts = reverts(situation, by_another);
    if let Some(contested) = contested(situation, by_another, reverts, why) {
        return Step::Settle(contested);
    }
    if let Some(held_back) = ask(situation, Phase::Ready, "create", why, &Difference::default()) {
        return Step::Settle(held_back);
    }
    if let Some(obstacle) = situation.obstacle {
        return Step::Settle(obstructed(situation, obstacle));
    }
    let entered = enter(situation, Phase::Submitting, None);
    let infrastructure = entered.infrastructure.clone().of_a_new_entry(situation.now);
    let is_same = state.about == Some(situation.wanted) && !is_pushed;
    Step::Create(TargetState {
        failing_since: state.failing_since,
        attempts: if is_pushed { 0 } else { state.attempts },
        rejections: if is_same { state.rejections } else { 0 },
        past: Past {
            entry_at: Some(destination.clone()),
            equal: None,
            // A create says all of the document.
            declared: Some(situation.declared.clone()),
            made: true,
            rescue: None,
            spent: situation.will.approved.map(|approval| approval.at),
            reverts,
            ..entered.past.clone()
        },
        infrastructure,
        ..entered
    })
}

/// The network's entry is right.
fn registered(situation: &Situation<'_>, difference: &Difference) -> TargetState {
    let Situation { state, destination, now, .. } = *situation;
    let entered = enter(situation, Phase::Registered, difference.kept_words());
    let is_quiet = state.phase == Phase::Registered
        && after(state.since, QUIET).is_some_and(|quiet| quiet <= now);
    TargetState {
        next_try: after(now, situation.look_every),
        past: Past {
            entry_at: Some(destination.clone()),
            equal: Some(situation.wanted),
            registered: true,
            declared: Some(situation.declared.clone()),
            rescue: None,
            reverts: if is_quiet { 0 } else { entered.past.reverts },
            served: situation.will.asked,
            ..entered.past.clone()
        },
        ..entered
    }
}

/// The network's entry is ours, or may be made ours, and is wrong.
fn different(situation: &Situation<'_>, difference: &Difference) -> Step {
    let Situation { state, destination, now, mode, .. } = *situation;
    let is_pushed = is_pushed(situation);
    let is_same = state.about == Some(situation.wanted);
    // A registration or an update that is under way was agreed to as a whole.
    let is_under_way = is_same && mode != Mode::Observe;
    // What could be done while the rest waits for approval is done.
    let is_half_done = state.proposal.is_some() && difference.besides == 0;
    if state.phase == Phase::Updating && is_under_way && !is_pushed && !is_half_done {
        return went_on(situation, difference);
    }
    let summary = format!("the network's entry differs: {}", difference.summary());
    // What was right, and became wrong without us, was changed by somebody else.
    let is_first_look = !matches!(state.phase, Phase::Drifted | Phase::Updating | Phase::Contested);
    let by_another = state.past.equal == Some(situation.wanted) && is_first_look;
    let reverts = reverts(situation, by_another);
    let keep = |state: TargetState| TargetState {
        past: Past { entry_at: Some(destination.clone()), reverts, ..state.past.clone() },
        ..state
    };
    if let Some(contested) = contested(situation, by_another, reverts, &summary) {
        return Step::Settle(keep(contested));
    }
    let is_agreed =
        state.phase == Phase::Submitting && is_under_way && difference.removed.is_empty();
    let asked = if is_agreed {
        None
    } else {
        ask(situation, Phase::Drifted, "update", &summary, difference)
    };
    let proposal = match asked {
        // That nodes go waits; that others came, or have lost something, does not.
        Some(TargetState { proposal: Some(proposal), .. })
            if mode == Mode::Auto && difference.besides > 0 =>
        {
            Some(proposal)
        }
        Some(held_back) => return Step::Settle(keep(held_back)),
        None => None,
    };
    // Changes that come close together go together, and no faster than the network can follow.
    let spaced = state.past.updated.and_then(|at| after(at, situation.look_every / 2));
    let settled = after(now, situation.look_every / 6).filter(|_| is_first_look && !is_agreed);
    let next_try = settled.max(spaced.filter(|at| is_ahead(*at, now)));
    if next_try.is_some() && !is_pushed {
        let drifted = enter(situation, Phase::Drifted, Some(summary));
        return Step::Settle(TargetState { next_try, proposal, ..keep(drifted) });
    }
    if let Some(obstacle) = situation.obstacle {
        return Step::Settle(keep(obstructed(situation, obstacle)));
    }
    let entered = keep(enter(situation, Phase::Updating, Some(summary)));
    let approved = situation.will.approved.map(|approval| approval.at);
    let spent = if proposal.is_some() { state.past.spent } else { approved };
    Step::Update(TargetState {
        proposal,
        past: Past { updated: Some(now), equal: None, spent, ..entered.past.clone() },
        ..entered
    })
}

/// An update was sent, and the entry is not right yet: it was sent in part, refused, or somebody
/// else wrote meanwhile.
fn went_on(situation: &Situation<'_>, difference: &Difference) -> Step {
    let Situation { state, now, .. } = *situation;
    let summary = format!("the network's entry differs: {}", difference.summary());
    let Some(Reply { words, is_final, is_yes }) = &state.reply else {
        return Step::Update(TargetState {
            failing_since: state.failing_since,
            attempts: state.attempts,
            rejections: state.rejections,
            proposal: state.proposal.clone(),
            past: Past { updated: Some(now), ..state.past.clone() },
            ..enter(situation, Phase::Updating, Some(summary))
        });
    };
    Step::Settle(if *is_final {
        refuse(situation, words.clone())
    } else if state.rejections < MAX_REJECTIONS {
        // A pause follows each try.
        let words = if *is_yes { format!("{words}: {summary}") } else { words.clone() };
        TargetState {
            reply: None,
            proposal: state.proposal.clone(),
            ..try_again(situation, Phase::Updating, words)
        }
    } else if *is_yes {
        let cause = format!(
            "the network said {} times that it has put the entry right, and it has not: it stores something else, or somebody else changes it back at once",
            state.rejections
        );
        contest(situation, &cause, &summary)
    } else {
        refuse(situation, format!("given up after {} tries: {words}", state.rejections))
    })
}

/// How often in a row somebody else has changed the entry.
fn reverts(situation: &Situation<'_>, by_another: bool) -> u32 {
    let before = if is_pushed(situation) { 0 } else { situation.state.past.reverts };
    before.saturating_add(u32::from(by_another))
}

/// Leaves the entry to another writer that changes it each time: after so many times, and until the
/// cluster changes or the operator says so.
fn contested(
    situation: &Situation<'_>,
    by_another: bool,
    reverts: u32,
    summary: &str,
) -> Option<TargetState> {
    let state = situation.state;
    let is_given_up = state.phase == Phase::Contested && state.about == Some(situation.wanted);
    let is_new = by_another && reverts > MAX_REVERTS;
    if is_pushed(situation) || !(is_given_up || is_new) {
        return None;
    }
    let cause = format!("somebody else has changed the entry {reverts} times in a row");
    Some(contest(situation, &cause, summary))
}

fn contest(situation: &Situation<'_>, cause: &str, summary: &str) -> TargetState {
    let state = situation.state;
    let detail = match &state.detail {
        Some(detail) if state.phase == Phase::Contested => detail.clone(),
        _ => format!("{cause}. It is left as it is: find out why, then run submit. {summary}"),
    };
    let entered = enter(situation, Phase::Contested, Some(detail));
    TargetState { next_try: after(situation.now, RECHECK), ..entered }
}

const OBSERVED: &str = "the target is only observed (mode: observe), nothing is sent";

/// Whether a person comes first: the target is only observed, asks for approval, or would lose more of
/// its nodes than may go without. `None`: it may go ahead.
fn ask(
    situation: &Situation<'_>,
    phase: Phase,
    kind: &str,
    why: &str,
    difference: &Difference,
) -> Option<TargetState> {
    let Situation { state, will, mode, .. } = *situation;
    let look_again = after(situation.now, situation.look_every);
    if mode == Mode::Observe {
        let entered = enter(situation, phase, Some(format!("{OBSERVED}: {why}")));
        return Some(TargetState { next_try: look_again, ..entered });
    }
    let removed = &difference.removed;
    // Those that will be next count as well: many are many, also one after the other.
    let lost = removed.len().saturating_sub(difference.renamed) + difference.leaving;
    let is_large_loss = !removed.is_empty()
        && lost * 100 > difference.held_nodes * usize::from(situation.shrink_percent);
    if mode == Mode::Auto && !is_large_loss {
        return None;
    }
    let wanted = situation.wanted.to_string();
    let mut parts = vec![kind.as_bytes(), wanted.as_bytes()];
    parts.extend(removed.iter().map(String::as_bytes));
    let digest = Digest::of(&parts);
    // What was approved and sent, and did not come about, is sent again.
    let is_retry = state.phase == Phase::Failing
        && state.about == Some(situation.wanted)
        && state.past.equal.is_none();
    let is_approved = will.approved.is_some_and(|approval| {
        let is_unspent = Some(approval.at) > state.past.spent;
        let is_in_use = Some(approval.at) == state.past.spent && is_retry;
        approval.digest == digest && (is_unspent || is_in_use)
    });
    if is_approved {
        return None;
    }
    let takes = match removed.as_slice() {
        [] => String::new(),
        _ => format!(
            ", and {} of {} nodes would be taken away ({})",
            removed.len(),
            difference.held_nodes,
            listed(removed, ", ")
        ),
    };
    let detail = format!("{why}{takes}. It waits for approval: run approve");
    Some(TargetState {
        next_try: look_again,
        proposal: Some(Proposal { digest, what: format!("{kind}: {why}{takes}") }),
        ..enter(situation, phase, Some(detail))
    })
}

/// A create was sent, and there is no entry. Where it was answered, none will come; else one may
/// come yet, and where is not forgotten.
fn not_created(situation: &Situation<'_>) -> TargetState {
    let state = situation.state;
    // What was said of another document says nothing of this one.
    let reply = state.reply.clone().filter(|_| state.about == Some(situation.wanted));
    let Some(Reply { words, is_final, .. }) = reply else {
        let words = "a registration was sent, and the network holds no entry of it";
        return try_again(situation, Phase::Failing, words.to_owned());
    };
    let no_entry = |state: TargetState| TargetState {
        past: Past { entry_at: None, ..state.past.clone() },
        ..state
    };
    if is_final {
        no_entry(refuse(situation, words))
    } else if state.rejections >= MAX_REJECTIONS {
        no_entry(refuse(situation, format!("given up after {} tries: {words}", state.rejections)))
    } else {
        try_again(situation, Phase::Failing, words)
    }
}

/// Where an entry of ours is, or may be, if that is not where the document belongs now.
fn elsewhere<'a>(situation: &Situation<'a>) -> Option<&'a Destination> {
    situation.state.past.entry_at.as_ref().filter(|former| *former != situation.destination)
}

fn registered_elsewhere(former: &Destination) -> String {
    format!(
        "the cluster is, or may be, registered as {} at {}, and would be registered twice: set id and URLs back, or have that entry removed and give this target another name",
        former.cluster_id, former.create_url
    )
}

/// Whether the operator has asked to go ahead since the last request.
fn is_pushed(situation: &Situation<'_>) -> bool {
    situation.will.asked.is_some() && situation.will.asked > situation.state.past.heeded
}

/// When something may be tried again, if that is not now.
fn due(situation: &Situation<'_>) -> Option<Timestamp> {
    situation.state.next_try.filter(|at| is_ahead(*at, situation.now))
}

fn wait(situation: &Situation<'_>, why: &str, opens: Option<Timestamp>) -> Step {
    let state = situation.state;
    let is_known = state.phase == Phase::Waiting && state.detail.as_deref() == Some(why);
    if is_known && !is_pushed(situation) {
        // Where an entry may be, it is looked for meanwhile.
        let look = state.past.entry_at.as_ref();
        let look = look.and_then(|_| after(situation.now, situation.look_every));
        return look.into_iter().chain(opens).min().map_or(Step::Rest, Step::RestUntil);
    }
    Step::Settle(TargetState {
        about: None,
        ..enter(situation, Phase::Waiting, Some(why.to_owned()))
    })
}

fn refuse(situation: &Situation<'_>, words: String) -> TargetState {
    TargetState {
        next_try: after(situation.now, PAUSE),
        ..enter(situation, Phase::Refused, Some(words))
    }
}

/// Refused by ourselves: nobody was asked, so that it ends as soon as its cause does.
fn obstructed(situation: &Situation<'_>, obstacle: &str) -> TargetState {
    TargetState { next_try: None, ..refuse(situation, obstacle.to_owned()) }
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

/// The state on entering a phase for what is wanted now; the operator's word is heeded with it.
fn enter(situation: &Situation<'_>, phase: Phase, detail: Option<String>) -> TargetState {
    let entered = situation.state.enter(phase, situation.now);
    TargetState {
        detail,
        about: Some(situation.wanted),
        past: Past { heeded: situation.will.asked, ..entered.past.clone() },
        ..entered
    }
}
