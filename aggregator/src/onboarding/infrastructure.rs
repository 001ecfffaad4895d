//! The network's infrastructure on the cluster: when to ask for it, when to have it taken away, and
//! how its task is followed. Pure; the clock and the dice come from the caller.
//!
//! A network does this work in the background and cannot be asked what it has done. So a request
//! whose reply was lost is not repeated: a person looks.

use std::time::Duration;

use jiff::Timestamp;

use super::pace::{after, backoff, is_ahead};
use super::state::infrastructure::{Infrastructure, InfrastructurePhase};
use super::state::{Phase, Presence, TargetState, WayOut, Will};
use crate::cluster_file::Mode;
use crate::targets::{Scheduled, Task};

/// How often a task is asked for.
const FOLLOW: Duration = Duration::from_secs(5);

/// A task that goes on for longer will not end.
const LONGEST_TASK: Duration = Duration::from_hours(1);

/// What to do next about the infrastructure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes.
    Rest,
    /// Nothing until something changes, or this time has come.
    RestUntil(Timestamp),
    /// Store this, then ask for it.
    Create(Infrastructure),
    /// Store this, then ask for its removal.
    Remove(Infrastructure),
    /// Ask how the task stands.
    Follow(String),
    /// Store this.
    Settle(Infrastructure),
}

/// Decides the next step. `is_declared`: the cluster file says with which kubeconfig.
pub fn next(
    state: &TargetState,
    will: &Will,
    mode: Mode,
    is_declared: bool,
    now: Timestamp,
) -> Step {
    use InfrastructurePhase as P;
    let held = &state.infrastructure;
    let asked = will.infrastructure_asked.filter(|asked| Some(*asked) > held.heeded);
    let offboarding = will.presence == Presence::Gone
        && state.phase == Phase::Offboarding
        && state.way_out == WayOut::Infrastructure;
    let pushed = will.asked.filter(|asked| Some(*asked) > held.heeded);
    if let Some(at) = held.next_try.filter(|at| is_ahead(*at, now)) {
        return Step::RestUntil(at);
    }
    match (held.phase, &held.task) {
        (P::Creating | P::Removing, Some(task)) => Step::Follow(task.clone()),
        // Only a bug leaves one without: after a restart it is settled.
        (P::Creating | P::Removing, None) => Step::Settle(held.lost(now, "no task")),
        (P::None | P::Failed | P::Unclear | P::RemovalFailed, _)
            if will.presence == Presence::Registered =>
        {
            let by_itself = held.phase == P::None && mode == Mode::Auto;
            let is_wanted = (asked.is_some() && mode != Mode::Observe) || by_itself;
            let is_time = is_declared && is_wanted && state.phase == Phase::Registered;
            if is_time && asked.is_none() && !state.past.made {
                let words = "the entry was not made from here, and may have its infrastructure already: look in the network; if it has none, ask for it with the command infrastructure";
                Step::Settle(held.enter(P::Unclear, now, Some(words.to_owned())))
            } else if is_time {
                let creating = held.enter(P::Creating, now, None);
                let heeded = will.infrastructure_asked;
                Step::Create(Infrastructure { heeded, attempts: held.attempts, ..creating })
            } else {
                Step::Rest
            }
        }
        (P::None, _) => Step::Rest,
        (P::RemovalFailed, _) if !offboarding || pushed.is_none() => Step::Rest,
        _ if !offboarding || mode == Mode::Observe => Step::Rest,
        _ if !is_declared => {
            let words = "it cannot be removed without a kubeconfig: set infrastructure.kubeconfigFile for this target, or offboard with --leave-infrastructure";
            Step::Settle(Infrastructure {
                heeded: will.asked,
                ..held.enter(P::RemovalFailed, now, Some(words.to_owned()))
            })
        }
        _ => Step::Remove(Infrastructure {
            heeded: will.asked,
            ..held.enter(P::Removing, now, None)
        }),
    }
}

/// Where it stands after the network's reply to the request.
pub fn after_reply(
    held: &Infrastructure,
    said: &Scheduled,
    now: Timestamp,
    dice: f64,
) -> Infrastructure {
    use InfrastructurePhase as P;
    let is_removal = held.phase == P::Removing;
    match said {
        Scheduled::Task(task) => Infrastructure {
            task: Some(task.clone()),
            next_try: after(now, FOLLOW),
            ..held.enter(held.phase, now, None)
        },
        Scheduled::Refused { words } => {
            let phase = if is_removal { P::RemovalFailed } else { P::Failed };
            held.enter(phase, now, Some(words.clone()))
        }
        // As if it had never been asked for; and it is asked for again.
        Scheduled::NotSent { words } if is_removal => {
            held.enter(P::RemovalFailed, now, Some(words.clone()))
        }
        Scheduled::NotSent { words } => Infrastructure {
            attempts: held.attempts.saturating_add(1),
            next_try: after(now, backoff(held.attempts, dice)),
            heeded: None,
            ..held.enter(P::None, now, Some(words.clone()))
        },
        Scheduled::Lost { words } => held.lost(now, words),
    }
}

/// Where it stands after a look at its task.
pub fn after_task(held: &Infrastructure, task: &Task, now: Timestamp, dice: f64) -> Infrastructure {
    use InfrastructurePhase as P;
    let is_removal = held.phase == P::Removing;
    let is_too_long =
        held.since.and_then(|since| after(since, LONGEST_TASK)).is_some_and(|end| end <= now);
    match task {
        Task::Pending | Task::Unreadable { .. } if is_too_long => {
            let task = held.task.as_deref().unwrap_or_default();
            let words = format!(
                "nothing was heard for more than an hour of how the network's task {task} ended: look in the network, then {} again",
                if is_removal { "offboard" } else { "run infrastructure" }
            );
            let phase = if is_removal { P::RemovalFailed } else { P::Unclear };
            held.enter(phase, now, Some(words))
        }
        Task::Pending => Infrastructure {
            task: held.task.clone(),
            next_try: after(now, FOLLOW),
            ..held.enter(held.phase, now, None)
        },
        // The word that it was once made on is not one to make it again.
        Task::Completed if is_removal => {
            Infrastructure { heeded: held.heeded, ..Infrastructure::default() }
        }
        Task::Completed => held.enter(P::Created, now, None),
        Task::Failed { words } => {
            let phase = if is_removal { P::RemovalFailed } else { P::Failed };
            held.enter(phase, now, Some(words.clone()))
        }
        Task::Unreadable { words } => Infrastructure {
            task: held.task.clone(),
            attempts: held.attempts.saturating_add(1),
            next_try: after(now, backoff(held.attempts.saturating_add(2), dice)),
            ..held.enter(held.phase, now, Some(words.clone()))
        },
    }
}
