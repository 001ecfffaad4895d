//! The network's infrastructure: when it is asked for, when it is taken away, and what follows from
//! what the network says.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use jiff::Timestamp;
use rollcall_aggregator::cluster_file::Mode;
use rollcall_aggregator::onboarding::infrastructure::{Step, after_reply, after_task, next};
use rollcall_aggregator::onboarding::state::infrastructure::{
    Infrastructure, InfrastructurePhase as P,
};
use rollcall_aggregator::onboarding::state::{Past, Phase, Presence, TargetState, WayOut, Will};
use rollcall_aggregator::targets::{Scheduled, Task};

const NOW: i64 = 1000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn held(phase: P, task: Option<&str>) -> Infrastructure {
    Infrastructure {
        phase,
        since: Some(at(10)),
        task: task.map(str::to_owned),
        detail: Some("what was before".into()),
        ..Infrastructure::default()
    }
}

/// A step in a word, with what is about to be held.
fn word(step: &Step) -> String {
    match step {
        Step::Rest => "rest".into(),
        Step::RestUntil(at) => format!("rest until {}", at.as_second()),
        Step::Create(_) => "create".into(),
        Step::Remove(_) => "remove".into(),
        Step::Follow(task) => format!("follow {task}"),
        Step::Settle(held) => format!("settle {}", held.phase),
    }
}

/// What operators said last, and when.
struct Word {
    presence: Presence,
    asked: Option<i64>,
    infrastructure_asked: Option<i64>,
}

impl From<&Word> for Will {
    fn from(word: &Word) -> Self {
        Self {
            presence: word.presence,
            asked: word.asked.map(at),
            infrastructure_asked: word.infrastructure_asked.map(at),
            ..Self::default()
        }
    }
}

const SAYS_NOTHING: Word =
    Word { presence: Presence::Registered, asked: None, infrastructure_asked: None };
const ASKS: Word =
    Word { presence: Presence::Registered, asked: Some(900), infrastructure_asked: Some(900) };
const OFFBOARDS: Word =
    Word { presence: Presence::Gone, asked: Some(950), infrastructure_asked: Some(900) };
const LEAVES_IT: Word = Word {
    presence: Presence::GoneWithoutInfrastructure,
    asked: Some(950),
    infrastructure_asked: Some(900),
};

#[test]
fn what_is_done_in_every_phase() {
    use Mode::{Approve, Auto, Observe};
    use Phase::{Drifted, Offboarded, Offboarding, Registered, Updating, Waiting};
    // In the order of the phases: none, creating, created, failed, unclear, removing, removal failed.
    // Those under way have a task.
    const FOLLOWED: [&str; 7] = ["rest", "follow 17", "rest", "rest", "rest", "follow 17", "rest"];
    let by_itself = ["create", "follow 17", "rest", "rest", "rest", "follow 17", "rest"];
    let asked = ["create", "follow 17", "rest", "create", "create", "follow 17", "create"];
    let removed = ["rest", "follow 17", "remove", "remove", "remove", "follow 17", "remove"];
    let cannot_remove = [
        "rest",
        "follow 17",
        "settle removal-failed",
        "settle removal-failed",
        "settle removal-failed",
        "follow 17",
        "settle removal-failed",
    ];
    for (what, says, mode, is_declared, phase, expected) in [
        ("by itself", SAYS_NOTHING, Auto, true, Registered, by_itself),
        ("not declared", SAYS_NOTHING, Auto, false, Registered, FOLLOWED),
        ("asked for and not declared", ASKS, Auto, false, Registered, FOLLOWED),
        ("not registered yet", SAYS_NOTHING, Auto, true, Waiting, FOLLOWED),
        ("asked for and not registered yet", ASKS, Auto, true, Waiting, FOLLOWED),
        ("drifted", SAYS_NOTHING, Auto, true, Drifted, FOLLOWED),
        ("being updated", ASKS, Auto, true, Updating, FOLLOWED),
        ("not without a person", SAYS_NOTHING, Approve, true, Registered, FOLLOWED),
        ("a person asks", ASKS, Approve, true, Registered, asked),
        ("a person asks again", ASKS, Auto, true, Registered, asked),
        ("only observed", SAYS_NOTHING, Observe, true, Registered, FOLLOWED),
        ("only observed, and asked for", ASKS, Observe, true, Registered, FOLLOWED),
        ("leaving", OFFBOARDS, Auto, true, Offboarding, removed),
        ("leaving, and only observed now", OFFBOARDS, Observe, true, Offboarding, FOLLOWED),
        ("leaving, with approval", OFFBOARDS, Approve, true, Offboarding, removed),
        ("leaving, and no kubeconfig any more", OFFBOARDS, Auto, false, Offboarding, cannot_remove),
        ("to leave, and not begun", OFFBOARDS, Auto, true, Registered, FOLLOWED),
        ("left", OFFBOARDS, Auto, true, Offboarded, FOLLOWED),
        ("leaving without it", LEAVES_IT, Auto, true, Offboarding, FOLLOWED),
        ("left without it", LEAVES_IT, Auto, true, Offboarded, FOLLOWED),
    ] {
        for (phase_held, expected) in P::ALL.into_iter().zip(expected) {
            let task = matches!(phase_held, P::Creating | P::Removing).then_some("17");
            let state = TargetState {
                phase,
                infrastructure: held(phase_held, task),
                past: Past { made: true, ..Past::default() },
                way_out: WayOut::Infrastructure,
                ..TargetState::new(at(1))
            };
            let step = next(&state, &Will::from(&says), mode, is_declared, at(NOW));
            assert_eq!(word(&step), expected, "{what}, {phase_held}");
            // What is stored before a request leaves.
            let (stored, phase, heeded) = match step {
                Step::Create(stored) => (stored, P::Creating, says.infrastructure_asked),
                Step::Remove(stored) => (stored, P::Removing, says.asked),
                Step::Settle(stored) => (stored, P::RemovalFailed, says.asked),
                Step::Rest | Step::RestUntil(_) | Step::Follow(_) => continue,
            };
            assert_eq!(stored.phase, phase, "{what}, {phase_held}");
            let since = if phase == phase_held { at(10) } else { at(NOW) };
            assert_eq!(stored.since, Some(since), "{what}, {phase_held}");
            assert_eq!(stored.heeded, heeded.map(at), "{what}, {phase_held}");
            assert_eq!(stored.task, None, "{what}, {phase_held}");
            assert_eq!(stored.detail.is_some(), phase == P::RemovalFailed, "{what}, {phase_held}");
        }
    }
}

#[test]
fn a_word_is_heeded_once_and_pauses_are_kept() {
    for (what, says, phase, infrastructure, expected) in [
        (
            "asked for, and tried since",
            ASKS,
            Phase::Registered,
            Infrastructure { heeded: Some(at(900)), ..held(P::Failed, None) },
            "rest",
        ),
        (
            "asked for after the last try",
            ASKS,
            Phase::Registered,
            Infrastructure { heeded: Some(at(899)), ..held(P::Failed, None) },
            "create",
        ),
        (
            "its removal failed on this word",
            OFFBOARDS,
            Phase::Offboarding,
            Infrastructure { heeded: Some(at(950)), ..held(P::RemovalFailed, None) },
            "rest",
        ),
        (
            "its removal failed on an earlier word",
            OFFBOARDS,
            Phase::Offboarding,
            Infrastructure { heeded: Some(at(949)), ..held(P::RemovalFailed, None) },
            "remove",
        ),
        (
            "a pause",
            SAYS_NOTHING,
            Phase::Registered,
            Infrastructure { next_try: Some(at(NOW + 5)), ..held(P::Creating, Some("17")) },
            "rest until 1005",
        ),
        (
            "a pause that is over",
            SAYS_NOTHING,
            Phase::Registered,
            Infrastructure { next_try: Some(at(NOW)), ..held(P::Creating, Some("17")) },
            "follow 17",
        ),
        (
            "asked for, and no task",
            SAYS_NOTHING,
            Phase::Registered,
            held(P::Creating, None),
            "settle unclear",
        ),
        (
            "its removal asked for, and no task",
            OFFBOARDS,
            Phase::Offboarding,
            held(P::Removing, None),
            "settle removal-failed",
        ),
    ] {
        let way_out = WayOut::Infrastructure;
        let state = TargetState { phase, infrastructure, way_out, ..TargetState::new(at(1)) };
        let step = next(&state, &Will::from(&says), Mode::Auto, true, at(NOW));
        assert_eq!(word(&step), expected, "{what}");
    }
}

#[test]
fn what_a_request_that_was_under_way_is_worth_after_a_restart() {
    for (phase, task, expected) in [
        (P::None, None, P::None),
        (P::Creating, None, P::Unclear),
        (P::Creating, Some("17"), P::Creating),
        (P::Created, None, P::Created),
        (P::Failed, None, P::Failed),
        (P::Unclear, None, P::Unclear),
        (P::Removing, None, P::RemovalFailed),
        (P::Removing, Some("17"), P::Removing),
        (P::RemovalFailed, None, P::RemovalFailed),
    ] {
        for target in [Phase::Registered, Phase::Refused, Phase::Offboarding] {
            let infrastructure = Infrastructure {
                next_try: Some(at(NOW + 5)),
                heeded: Some(at(9)),
                ..held(phase, task)
            };
            let state = TargetState { phase: target, infrastructure, ..TargetState::new(at(1)) };
            let after = state.after_restart(at(NOW)).infrastructure;
            assert_eq!(after.phase, expected, "{phase}, {task:?}, {target}");
            assert_eq!(after.task.as_deref(), task, "{phase}, {target}");
            assert_eq!(after.next_try, None, "{phase}, {target}: it is looked at at once");
            assert_eq!(after.heeded, Some(at(9)), "{phase}, {target}: no word is heeded twice");
            let since = if phase == expected { at(10) } else { at(NOW) };
            assert_eq!(after.since, Some(since), "{phase}, {target}");
        }
    }
}

/// What is expected after an answer: the phase, the task, words of the detail, when it goes on, and
/// whether the operator's word stays heeded.
type After = (P, Option<&'static str>, &'static str, Option<i64>, bool);

fn check(what: &str, before: &Infrastructure, got: &Infrastructure, expected: After) {
    let (phase, task, words, next_try, is_heeded) = expected;
    assert_eq!(got.phase, phase, "{what}: {got:?}");
    assert_eq!(got.task.as_deref(), task, "{what}");
    let detail = got.detail.as_deref().unwrap_or_default();
    assert_eq!(detail.is_empty(), words.is_empty(), "{what}: {detail}");
    assert!(detail.contains(words), "{what}: {detail}");
    assert_eq!(got.next_try, next_try.map(at), "{what}");
    assert_eq!(got.heeded, before.heeded.filter(|_| is_heeded), "{what}");
    let since = if phase == before.phase { before.since } else { Some(at(NOW)) };
    assert_eq!(got.since, since.filter(|_| phase != P::None || got.detail.is_some()), "{what}");
}

#[test]
fn what_follows_from_the_reply_to_a_request() {
    let said = |words: &str| words.to_owned();
    for (what, phase, reply, expected) in [
        (
            "scheduled",
            P::Creating,
            Scheduled::Task("17".into()),
            (P::Creating, Some("17"), "", Some(NOW + 5), true),
        ),
        (
            "refused",
            P::Creating,
            Scheduled::Refused { words: said("no such cluster") },
            (P::Failed, None, "no such cluster", None, true),
        ),
        (
            "not sent: as if it had not been asked for, and tried again",
            P::Creating,
            Scheduled::NotSent { words: said("connection refused") },
            (P::None, None, "connection refused", Some(NOW + 4), false),
        ),
        (
            "lost: not asked for again",
            P::Creating,
            Scheduled::Lost { words: said("reset") },
            (P::Unclear, None, "the reply was lost (reset)", None, true),
        ),
        (
            "a removal, scheduled",
            P::Removing,
            Scheduled::Task("17".into()),
            (P::Removing, Some("17"), "", Some(NOW + 5), true),
        ),
        (
            "a removal, refused",
            P::Removing,
            Scheduled::Refused { words: said("no such cluster") },
            (P::RemovalFailed, None, "no such cluster", None, true),
        ),
        (
            "a removal, not sent",
            P::Removing,
            Scheduled::NotSent { words: said("connection refused") },
            (P::RemovalFailed, None, "connection refused", None, true),
        ),
        (
            "a removal, lost",
            P::Removing,
            Scheduled::Lost { words: said("reset") },
            (P::RemovalFailed, None, "the reply was lost (reset)", None, true),
        ),
    ] {
        let before = Infrastructure { attempts: 2, heeded: Some(at(900)), ..held(phase, None) };
        let got = after_reply(&before, &reply, at(NOW), 0.5);
        check(what, &before, &got, expected);
        let attempts = if matches!(got.phase, P::None) { 3 } else { 0 };
        assert_eq!(got.attempts, attempts, "{what}");
    }
}

#[test]
fn what_follows_from_a_look_at_a_task() {
    let said = |words: &str| words.to_owned();
    for (what, phase, task, expected) in [
        (
            "under way",
            P::Creating,
            Task::Pending,
            (P::Creating, Some("17"), "", Some(NOW + 5), true),
        ),
        ("done", P::Creating, Task::Completed, (P::Created, None, "", None, true)),
        (
            "failed",
            P::Creating,
            Task::Failed { words: said("no publicHostname") },
            (P::Failed, None, "no publicHostname", None, true),
        ),
        (
            "not readable: asked again, later each time",
            P::Creating,
            Task::Unreadable { words: said("away") },
            (P::Creating, Some("17"), "away", Some(NOW + 16), true),
        ),
        (
            "a removal, under way",
            P::Removing,
            Task::Pending,
            (P::Removing, Some("17"), "", Some(NOW + 5), true),
        ),
        (
            "a removal, done: not made again on the old word",
            P::Removing,
            Task::Completed,
            (P::None, None, "", None, true),
        ),
        (
            "a removal, failed",
            P::Removing,
            Task::Failed { words: said("busy") },
            (P::RemovalFailed, None, "busy", None, true),
        ),
        (
            "a removal, not readable",
            P::Removing,
            Task::Unreadable { words: said("away") },
            (P::Removing, Some("17"), "away", Some(NOW + 16), true),
        ),
    ] {
        let before =
            Infrastructure { attempts: 2, heeded: Some(at(900)), ..held(phase, Some("17")) };
        let got = after_task(&before, &task, at(NOW), 0.5);
        check(what, &before, &got, expected);
        let attempts = if matches!(task, Task::Unreadable { .. }) { 3 } else { 0 };
        assert_eq!(got.attempts, attempts, "{what}");
    }
}

#[test]
fn a_request_that_never_left_is_made_again() {
    for (mode, says) in [(Mode::Auto, SAYS_NOTHING), (Mode::Approve, ASKS)] {
        let will = Will::from(&says);
        let past = Past { made: true, ..Past::default() };
        let mut state = TargetState { phase: Phase::Registered, past, ..TargetState::new(at(1)) };
        let mut now = at(NOW);
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let step = next(&state, &will, mode, true, now);
            let Step::Create(stored) = &step else { unreachable!("{mode:?}: {step:?}") };
            let reply = Scheduled::NotSent { words: "connection refused".into() };
            state.infrastructure = after_reply(stored, &reply, now, 0.5);
            let Step::RestUntil(later) = next(&state, &will, mode, true, now) else {
                unreachable!("{mode:?}: {state:?}")
            };
            pauses.push(later.duration_since(now).as_secs());
            now = later;
        }
        assert_eq!(pauses, [1, 2, 4], "{mode:?}");
    }
}

#[test]
fn what_was_removed_is_not_made_again_on_the_old_word() {
    // Made on a word, removed on a later one, and the cluster comes back.
    let removing = Infrastructure { heeded: Some(at(950)), ..held(P::Removing, Some("17")) };
    let infrastructure = after_task(&removing, &Task::Completed, at(NOW), 0.5);
    let past = Past { made: true, ..Past::default() };
    let state =
        TargetState { phase: Phase::Registered, infrastructure, past, ..TargetState::new(at(1)) };
    let back = Word { asked: Some(990), ..ASKS };
    assert_eq!(word(&next(&state, &Will::from(&back), Mode::Approve, true, at(NOW))), "rest");
    assert_eq!(word(&next(&state, &Will::from(&back), Mode::Auto, true, at(NOW))), "create");
    let anew = Word { infrastructure_asked: Some(990), ..back };
    assert_eq!(word(&next(&state, &Will::from(&anew), Mode::Approve, true, at(NOW))), "create");
}

#[test]
fn infrastructure_that_may_be_there_is_not_made_again() {
    // The entry was taken over, or found after the store was lost.
    let state = TargetState { phase: Phase::Registered, ..TargetState::new(at(1)) };
    let step = next(&state, &Will::from(&SAYS_NOTHING), Mode::Auto, true, at(NOW));
    let Step::Settle(unclear) = step else { unreachable!("{step:?}") };
    assert_eq!(unclear.phase, P::Unclear);
    let state = TargetState { infrastructure: unclear, ..state };
    assert_eq!(word(&next(&state, &Will::from(&ASKS), Mode::Auto, true, at(NOW))), "create");
}

#[test]
fn a_task_that_never_ends_is_given_up() {
    for (phase, expected) in [(P::Creating, P::Unclear), (P::Removing, P::RemovalFailed)] {
        let followed = held(phase, Some("17"));
        for said in [Task::Pending, Task::Unreadable { words: "404".into() }] {
            let before = after_task(&followed, &said, at(10 + 3599), 0.5);
            assert_eq!(before.phase, phase, "{said:?}");
            let after = after_task(&followed, &said, at(10 + 3600), 0.5);
            assert_eq!(after.phase, expected, "{said:?}");
            assert!(after.detail.is_some_and(|words| words.contains("task 17")), "{said:?}");
        }
    }
}
