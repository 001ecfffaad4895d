//! The planner: every state against every observation, and no registration without a look before.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use jiff::Timestamp;
use proptest::prelude::*;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::plan::{
    Held, MAX_REJECTIONS, Situation, Step, Verdict, after_reply, next,
};
use rollcall_aggregator::onboarding::state::{Phase, TargetState};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn document(of: u8) -> Digest {
    Digest::of(&[&[of]])
}

fn state(phase: Phase) -> TargetState {
    TargetState { phase, document: Some(document(1)), ..TargetState::new(at(0)) }
}

fn ours(differences: &[&str]) -> Held {
    Held::Ours { differences: differences.iter().map(ToString::to_string).collect() }
}

fn closed(why: &str) -> Gate {
    Gate::Closed { why: why.into(), opens: None }
}

/// A step in a word, so that a table can hold it.
fn name(step: &Step) -> String {
    match step {
        Step::Rest => "rest".into(),
        Step::RestUntil(at) => format!("rest until {}", at.as_second()),
        Step::Read => "read".into(),
        Step::Create(state) => format!("create as {}", state.phase),
        Step::Settle(state) => format!("settle {}", state.phase),
    }
}

struct Case {
    state: TargetState,
    gate: Gate,
    document: Digest,
    obstacle: Option<&'static str>,
    held: Held,
}

impl Case {
    fn of(phase: Phase, held: Held) -> Self {
        Self { state: state(phase), gate: Gate::Open, document: document(1), obstacle: None, held }
    }

    fn step(&self) -> Step {
        next(&Situation {
            state: &self.state,
            gate: &self.gate,
            document: self.document,
            obstacle: self.obstacle,
            held: &self.held,
            now: at(100),
            dice: 0.5,
        })
    }
}

#[test]
fn every_phase_against_every_observation() {
    use Phase::{Drifted, Failing, Foreign, Refused, Registered, Submitting, Waiting};
    let unreadable = || Held::Unreadable { words: "no answer".into() };
    let observations = [
        ("not read", Held::NotRead),
        ("absent", Held::Absent),
        ("ours, equal", ours(&[])),
        ("ours, different", ours(&["memory is 1 there, 2 here"])),
        ("foreign", Held::Foreign),
        ("unreadable", unreadable()),
    ];
    for (phase, expected) in [
        (
            Waiting,
            [
                "read",
                "create as submitting",
                "settle registered",
                "settle drifted",
                "settle foreign",
                "settle failing",
            ],
        ),
        (
            Submitting,
            [
                "read",
                "settle failing",
                "settle registered",
                "settle drifted",
                "settle foreign",
                "settle submitting",
            ],
        ),
        (Registered, ["rest"; 6]),
        (
            Drifted,
            [
                "read",
                "create as submitting",
                "settle registered",
                "settle drifted",
                "settle foreign",
                "settle failing",
            ],
        ),
        (Refused, ["rest"; 6]),
        (
            Failing,
            [
                "read",
                "create as submitting",
                "settle registered",
                "settle drifted",
                "settle foreign",
                "settle failing",
            ],
        ),
        (Foreign, ["rest"; 6]),
    ] {
        for ((what, held), expected) in observations.iter().zip(expected) {
            let step = Case::of(phase, held.clone()).step();
            assert_eq!(name(&step), expected, "{phase}, {what}");
        }
    }
}

#[test]
fn what_holds_a_target_back() {
    let later = |phase| TargetState { next_try: Some(at(150)), ..state(phase) };
    let other = document(2);
    let base = || Case::of(Phase::Waiting, Held::Absent);
    for (what, case, expected) in [
        ("too few nodes", Case { gate: closed("1 of 2"), ..base() }, "settle waiting"),
        (
            "still too few nodes",
            Case {
                gate: closed("1 of 2"),
                state: TargetState { detail: Some("1 of 2".into()), ..state(Phase::Waiting) },
                ..base()
            },
            "rest",
        ),
        (
            "too few nodes, for some time",
            Case {
                gate: Gate::Closed { why: "1 of 2".into(), opens: Some(at(200)) },
                state: TargetState { detail: Some("1 of 2".into()), ..state(Phase::Waiting) },
                ..base()
            },
            "rest until 200",
        ),
        (
            "too few nodes while a registration may be out there",
            Case { gate: closed("1 of 2"), ..Case::of(Phase::Submitting, Held::NotRead) },
            "read",
        ),
        (
            "too few nodes for a second registration",
            Case { gate: closed("1 of 2"), ..Case::of(Phase::Drifted, Held::Absent) },
            "settle waiting",
        ),
        (
            "a secret that would leak",
            Case { obstacle: Some("plain HTTP"), ..base() },
            "settle refused",
        ),
        (
            "the same secret again",
            Case { obstacle: Some("plain HTTP"), ..Case::of(Phase::Refused, Held::Absent) },
            "rest",
        ),
        (
            "the next try is later",
            Case { state: later(Phase::Failing), ..base() },
            "rest until 150",
        ),
        (
            "a changed document does not shorten the wait for a network that fails",
            Case { state: later(Phase::Failing), document: other, ..base() },
            "rest until 150",
        ),
        (
            "a look that failed is put off too",
            Case { state: later(Phase::Submitting), held: Held::NotRead, ..base() },
            "rest until 150",
        ),
        (
            "drift is looked at later",
            Case { state: later(Phase::Drifted), ..base() },
            "rest until 150",
        ),
        (
            "drift of another document is looked at now",
            Case { state: later(Phase::Drifted), document: other, held: Held::NotRead, ..base() },
            "read",
        ),
        (
            "the cluster changed after registration",
            Case { document: other, ..Case::of(Phase::Registered, Held::NotRead) },
            "read",
        ),
        (
            "the cluster changed after a refusal",
            Case { document: other, ..Case::of(Phase::Refused, Held::NotRead) },
            "read",
        ),
    ] {
        assert_eq!(name(&case.step()), expected, "{what}");
    }
}

#[test]
fn an_unclear_answer_is_given_up_only_when_the_registry_itself_keeps_saying_no() {
    let submitting = |rejections| TargetState {
        rejections,
        detail: Some("500".into()),
        ..state(Phase::Submitting)
    };
    for (rejections, expected) in [
        (0, "settle failing"),
        (MAX_REJECTIONS - 1, "settle failing"),
        (MAX_REJECTIONS, "settle refused"),
    ] {
        let case =
            Case { state: submitting(rejections), ..Case::of(Phase::Submitting, Held::Absent) };
        let step = case.step();
        assert_eq!(name(&step), expected, "after {rejections} rejections");
        let Step::Settle(state) = step else { panic!("settles") };
        assert!(state.detail.is_some_and(|detail| detail.contains("500")), "the words are kept");
    }
}

#[test]
fn what_a_reply_does_to_the_state() {
    let words = || "words".to_owned();
    for (verdict, phase, rejections) in [
        (Verdict::Accepted, Phase::Submitting, 0),
        (Verdict::Refused { words: words() }, Phase::Refused, 0),
        (Verdict::Rejected { words: words() }, Phase::Submitting, 1),
        (Verdict::Unanswered { words: words() }, Phase::Submitting, 0),
    ] {
        let after = after_reply(&state(Phase::Submitting), &verdict, at(1));
        assert_eq!((after.phase, after.rejections), (phase, rejections), "{verdict:?}");
        assert_eq!(after.detail.is_some(), verdict != Verdict::Accepted, "{verdict:?}");
    }
}

#[test]
fn backoff_doubles_up_to_its_cap_and_is_spread() {
    let wait = |attempts, dice| {
        let state = TargetState { attempts, ..state(Phase::Failing) };
        let step = next(&Situation {
            state: &state,
            gate: &Gate::Open,
            document: document(1),
            obstacle: None,
            held: &Held::Unreadable { words: "no answer".into() },
            now: at(100),
            dice,
        });
        let Step::Settle(state) = step else { panic!("settles") };
        assert_eq!(state.attempts, attempts + 1);
        let wait = state.next_try.expect("a time").duration_since(at(100));
        wait.as_millis()
    };
    for (attempts, dice, expected) in [
        (0, 0.5, 1_000),
        (1, 0.5, 2_000),
        (3, 0.5, 8_000),
        (3, 0.0, 6_400),
        (3, 1.0, 9_600),
        (9, 0.5, 300_000),
        (u32::MAX - 1, 0.5, 300_000),
    ] {
        assert_eq!(wait(attempts, dice), expected, "attempt {attempts}, dice {dice}");
    }
}

/// A network that may lose requests and replies and may answer anything, but holds what it holds.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Stored,
    StoredReplyLost,
    Lost,
    RejectedByRegistry,
    RefusedByPolicy,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Stored),
        Just(Fate::StoredReplyLost),
        Just(Fate::Lost),
        Just(Fate::RejectedByRegistry),
        Just(Fate::RefusedByPolicy),
    ]
}

proptest! {
    /// Whatever becomes of requests, replies and the process itself: a create follows a look that
    /// found nothing, and there is never a second entry.
    #[test]
    fn never_two_creates_without_a_look_between(
        events in prop::collection::vec((fate(), any::<bool>(), any::<bool>(), 0..400_i64), 1..60),
    ) {
        let mut stored = TargetState::new(at(0));
        let mut state = stored.clone();
        let mut held = Held::NotRead;
        let mut entries = 0;
        let mut looked = false;
        let mut now = 0;
        for (fate, readable, crash, wait) in events {
            now += wait;
            let step = next(&Situation {
                state: &state,
                gate: &Gate::Open,
                document: document(1),
                obstacle: None,
                held: &held,
                now: at(now),
                dice: 0.5,
            });
            match step {
                Step::Rest | Step::RestUntil(_) => {}
                Step::Read if readable => {
                    held = if entries == 0 { Held::Absent } else { ours(&[]) };
                    looked = true;
                }
                Step::Read => held = Held::Unreadable { words: "no answer".into() },
                Step::Settle(settled) => {
                    if settled.phase == Phase::Registered {
                        prop_assert_eq!(entries, 1, "registered means that the entry is there");
                    }
                    stored = settled.clone();
                    state = settled;
                    held = Held::NotRead;
                    looked = false;
                }
                Step::Create(submitting) => {
                    prop_assert!(looked, "a create without a look before it");
                    looked = false;
                    stored = submitting.clone();
                    state = submitting;
                    held = Held::NotRead;
                    let words = || "words".to_owned();
                    let verdict = match fate {
                        Fate::Stored => { entries += 1; Verdict::Accepted }
                        Fate::StoredReplyLost => { entries += 1; Verdict::Unanswered { words: words() } }
                        Fate::Lost => Verdict::Unanswered { words: words() },
                        Fate::RejectedByRegistry => Verdict::Rejected { words: words() },
                        Fate::RefusedByPolicy => Verdict::Refused { words: words() },
                    };
                    prop_assert!(entries <= 1, "two entries");
                    if !crash {
                        state = after_reply(&state, &verdict, at(now));
                        stored = state.clone();
                    }
                }
            }
            if crash {
                state = stored.clone().after_restart(at(now));
                held = Held::NotRead;
                looked = false;
            }
        }
    }
}
