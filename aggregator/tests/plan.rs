//! The planner: every state against every observation, and no registration without a look before.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rollcall_aggregator::cluster_file::Mode;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::plan::{
    MAX_REJECTIONS, MAX_REVERTS, Situation, Step, after_reply, next,
};
use rollcall_aggregator::onboarding::state::infrastructure::{Infrastructure, InfrastructurePhase};
use rollcall_aggregator::onboarding::state::{
    Approval, Past, Phase, Presence, Reply, TargetState, WayOut, Will,
};
use rollcall_aggregator::targets::{Destination, Difference, FieldDifference, Held, Verdict};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn document(of: u8) -> Digest {
    Digest::of(&[&[of]])
}

fn network(name: &str) -> Destination {
    Destination {
        cluster_id: "west".into(),
        create_url: format!("https://parser.{name}"),
        read_url: format!("https://gateway.{name}"),
    }
}

/// A state as it is left behind by what leads to its phase.
fn state(phase: Phase) -> TargetState {
    let has_entry = matches!(
        phase,
        Phase::Submitting
            | Phase::Registered
            | Phase::Drifted
            | Phase::Updating
            | Phase::Contested
            | Phase::Offboarding
    );
    let was_right = matches!(phase, Phase::Registered | Phase::Drifted | Phase::Contested);
    TargetState {
        phase,
        about: Some(document(1)),
        past: Past {
            entry_at: has_entry.then(|| network("here")),
            equal: was_right.then(|| document(1)),
            ..Past::default()
        },
        ..TargetState::new(at(0))
    }
}

fn difference(fields: &[&str]) -> Difference {
    let field = |field: &&str| FieldDifference {
        field: (*field).to_owned(),
        there: "1".into(),
        here: "2".into(),
    };
    Difference {
        fields: fields.iter().map(field).collect(),
        held_nodes: 10,
        ..Difference::default()
    }
}

fn ours(fields: &[&str]) -> Held {
    Held::Ours(difference(fields))
}

fn foreign() -> Held {
    Held::Foreign(difference(&["regionId"]))
}

/// An entry that so many of its ten nodes are to be taken from.
fn shrinking(removed: usize) -> Held {
    let removed = (0..removed).map(|node| format!("n{node}")).collect();
    Held::Ours(Difference { removed, ..difference(&["nodes.count"]) })
}

fn closed(why: &str) -> Gate {
    Gate::Closed { why: why.into(), opens: None }
}

fn unreadable() -> Held {
    Held::Unreadable { words: "no answer".into() }
}

fn asked(second: i64) -> Will {
    Will { asked: Some(at(second)), ..Will::default() }
}

/// The operator has approved it, at a time.
fn approved(digest: Digest, second: i64) -> Will {
    Will { approved: Some(Approval { digest, at: at(second) }), ..asked(second) }
}

fn gone() -> Will {
    Will { presence: Presence::Gone, ..asked(50) }
}

/// A step in a word, so that a table can hold it.
fn name(step: &Step) -> String {
    match step {
        Step::Rest => "rest".into(),
        Step::RestUntil(at) => format!("rest until {}", at.as_second()),
        Step::Read => "read".into(),
        Step::Create(state) => format!("create as {}", state.phase),
        Step::Update(state) => format!("update as {}", state.phase),
        Step::Remove(state) => format!("remove as {}", state.phase),
        Step::Settle(state) => format!("settle {}", state.phase),
    }
}

#[derive(Clone)]
struct Case {
    state: TargetState,
    will: Will,
    mode: Mode,
    gate: Gate,
    destination: Destination,
    wanted: Digest,
    obstacle: Option<&'static str>,
    held: Held,
    now: Timestamp,
}

impl Case {
    fn of(phase: Phase, held: Held) -> Self {
        Self {
            state: state(phase),
            will: Will::default(),
            mode: Mode::Auto,
            gate: Gate::Open,
            destination: network("here"),
            wanted: document(1),
            obstacle: None,
            held,
            now: at(100),
        }
    }

    fn step(&self) -> Step {
        self.step_with(0.5)
    }

    fn step_with(&self, dice: f64) -> Step {
        next(&Situation {
            state: &self.state,
            will: &self.will,
            mode: self.mode,
            look_every: Duration::from_secs(30),
            shrink_percent: 20,
            gate: &self.gate,
            destination: &self.destination,
            wanted: self.wanted,
            declared: &BTreeMap::new(),
            obstacle: self.obstacle,
            held: &self.held,
            now: self.now,
            dice,
        })
    }

    /// The state that the step leads to.
    fn settled(&self) -> TargetState {
        match self.step() {
            Step::Settle(state)
            | Step::Create(state)
            | Step::Update(state)
            | Step::Remove(state) => state,
            step => panic!("no state: {step:?}"),
        }
    }
}

#[test]
fn every_phase_against_every_observation() {
    use Phase::{
        Contested, Drifted, Failing, Foreign, Offboarded, Offboarding, Ready, Refused, Registered,
        Submitting, Updating, Waiting,
    };
    let observations = [
        ("not read", Held::NotRead),
        ("absent", Held::Absent),
        ("ours, equal", ours(&[])),
        ("ours, different", ours(&["memory"])),
        ("ours, less one node", shrinking(2)),
        ("ours, less many nodes", shrinking(3)),
        ("foreign", foreign()),
        ("unreadable", unreadable()),
    ];
    // What leads to one of these is found before anything is sent.
    let fresh = [
        "read",
        "create as submitting",
        "settle registered",
        "settle drifted",
        "settle drifted",
        "settle drifted",
        "settle foreign",
        "settle failing",
    ];
    let registered_again = |different, small_loss| {
        let mut row = fresh;
        row[3] = different;
        row[4] = small_loss;
        row
    };
    for (phase, expected) in [
        (Waiting, fresh),
        (Ready, fresh),
        (Failing, fresh),
        (Foreign, fresh),
        (Registered, fresh),
        // It was left for a while, and is still so.
        (Drifted, registered_again("update as updating", "update as updating")),
        (Offboarded, fresh),
        (
            Submitting,
            [
                "read",
                "settle failing",
                "settle registered",
                "update as updating",
                // Not what was to be made: it has been there for longer.
                "settle drifted",
                "settle drifted",
                "settle foreign",
                "settle submitting",
            ],
        ),
        (
            Updating,
            [
                "read",
                "create as submitting",
                "settle registered",
                "update as updating",
                "update as updating",
                "update as updating",
                "settle foreign",
                "settle updating",
            ],
        ),
        (
            Contested,
            [
                "read",
                "settle contested",
                "settle registered",
                "settle contested",
                "settle contested",
                "settle contested",
                "settle foreign",
                "settle failing",
            ],
        ),
        (Refused, ["rest"; 8]),
        // The operator has changed their mind in the middle.
        (Offboarding, registered_again("settle drifted", "settle drifted")),
    ] {
        for ((what, held), expected) in observations.iter().zip(expected) {
            let step = Case::of(phase, held.clone()).step();
            assert_eq!(name(&step), expected, "{phase}, {what}");
        }
    }
}

#[test]
fn every_phase_against_every_observation_on_the_way_out() {
    use Phase::{Offboarded, Offboarding, Refused};
    let observations = [
        ("not read", Held::NotRead),
        ("absent", Held::Absent),
        ("ours, equal", ours(&[])),
        ("ours, different", ours(&["memory"])),
        ("foreign", foreign()),
        ("unreadable", unreadable()),
    ];
    for phase in Phase::ALL {
        for (index, (what, held)) in observations.iter().enumerate() {
            // The word was given, and not acted upon yet.
            let case = Case { will: gone(), ..Case::of(phase, held.clone()) };
            assert_eq!(name(&case.step()), "settle offboarding", "{phase}, {what}: a new word");
            let mut heeded = case;
            heeded.state.past.heeded = Some(at(50));
            // It was removed, and that was answered.
            let words = "done".to_owned();
            let reply = Some(Reply { words, is_final: false, is_yes: true });
            heeded.state.reply = reply.filter(|_| matches!(held, Held::Absent));
            let expected = match phase {
                Offboarded | Refused => "rest",
                Offboarding => [
                    "read",
                    "settle offboarded",
                    "remove as offboarding",
                    "remove as offboarding",
                    "settle offboarded",
                    "settle offboarding",
                ][index],
                _ => "settle offboarding",
            };
            assert_eq!(name(&heeded.step()), expected, "{phase}, {what}");
        }
    }
}

#[test]
fn on_the_way_out_the_infrastructure_goes_first() {
    let leaving = |will, phase, held| {
        let mut case = Case { will, ..Case::of(Phase::Offboarding, held) };
        case.state.past.heeded = Some(at(50));
        case.state.infrastructure = Infrastructure { phase, ..Infrastructure::default() };
        case
    };
    let without = Will { presence: Presence::GoneWithoutInfrastructure, ..asked(50) };
    for phase in InfrastructurePhase::ALL {
        let may_exist = phase != InfrastructurePhase::None;
        for held in [ours(&[]), Held::Absent] {
            let mut case = leaving(gone(), phase, held);
            if !may_exist {
                continue;
            }
            let first = case.settled();
            assert_eq!((first.phase, first.way_out), (Phase::Offboarding, WayOut::Infrastructure));
            case.state = first;
            assert_eq!(name(&case.step()), "rest", "{phase}: until it is gone");
        }
        let step = leaving(without.clone(), phase, ours(&[])).step();
        assert_eq!(name(&step), "remove as offboarding", "{phase}, left alone");
        // Nothing is sent before the network was looked at, nor for an entry of somebody else.
        assert_eq!(name(&leaving(gone(), phase, Held::NotRead).step()), "read", "{phase}");
        for (held, expected) in [(unreadable(), Phase::Offboarding), (foreign(), Phase::Offboarded)]
        {
            let state = leaving(gone(), phase, held).settled();
            assert_eq!((state.phase, state.way_out), (expected, WayOut::Looking), "{phase}");
        }
    }
}

#[test]
fn a_cluster_that_was_registered_is_registered_again_with_the_nodes_that_it_has() {
    // One of the nodes that were expected at first has left since.
    let few = || closed("4 of 5");
    let mut case = Case { gate: few(), ..Case::of(Phase::Registered, Held::Absent) };
    case.state.past.registered = true;
    assert_eq!(name(&case.step()), "create as submitting");
    case.state.past.registered = false;
    assert_eq!(name(&case.step()), "settle waiting");
    // While it waits, an entry that may be there is looked for.
    case.state = case.settled();
    assert_eq!(name(&case.step()), "rest until 130");
}

#[test]
fn what_was_removed_stays_removed_until_an_operator_submits() {
    let mut case = Case { will: gone(), ..Case::of(Phase::Offboarding, ours(&[])) };
    case.state.past.heeded = Some(at(50));
    case.state.past.spent = Some(at(7));
    case.state = after_reply(&case.settled(), &Verdict::Accepted);
    case.held = Held::Absent;
    let offboarded = case.settled();
    assert_eq!(offboarded.phase, Phase::Offboarded);
    let (heeded, spent) = (Some(at(50)), Some(at(7)));
    assert_eq!(offboarded.past, Past { heeded, spent, ..Past::default() }, "no approval twice");
    for (what, state) in [
        ("then", offboarded.clone()),
        ("after a restart", offboarded.clone().after_restart(at(90))),
    ] {
        for wanted in [document(1), document(2)] {
            let case = Case { state: state.clone(), wanted, ..case.clone() };
            assert_eq!(name(&case.step()), "rest", "{what}");
        }
    }
    let again = Case { state: offboarded, will: asked(99), ..case };
    assert_eq!(name(&again.step()), "create as submitting");
}

#[test]
fn an_entry_that_nobody_removed_is_missed_twice_before_it_counts_as_gone() {
    // A registration that was not answered may come yet, and one look may be wrong.
    let mut case = Case { will: gone(), ..Case::of(Phase::Offboarding, Held::Absent) };
    case.state.past.heeded = Some(at(50));
    let looked = case.settled();
    assert_eq!((looked.phase, looked.next_try), (Phase::Offboarding, Some(at(160))));
    case.state = looked;
    assert_eq!(name(&case.step()), "rest until 160");
    case.now = at(160);
    assert_eq!(name(&Case { held: ours(&[]), ..case.clone() }.step()), "remove as offboarding");
    assert_eq!(name(&case.step()), "settle offboarded");
    // Where nothing was ever sent, nothing can come.
    let mut never = Case { will: gone(), ..Case::of(Phase::Offboarding, Held::Absent) };
    never.state.past = Past { heeded: Some(at(50)), ..Past::default() };
    assert_eq!(name(&never.step()), "settle offboarded");
}

#[test]
fn a_secret_that_must_not_leave_holds_back_every_request() {
    for (what, phase, held) in [
        ("a registration that was pushed", Phase::Submitting, Held::Absent),
        ("the rest of a registration", Phase::Submitting, ours(&["nodes.count"])),
        ("an update under way", Phase::Updating, ours(&["memory"])),
        ("a first registration", Phase::Waiting, Held::Absent),
    ] {
        let case = Case { obstacle: Some("plain HTTP"), will: asked(1), ..Case::of(phase, held) };
        assert_eq!(name(&case.step()), "settle refused", "{what}");
    }
}

#[test]
fn what_was_approved_is_sent_until_it_comes_about_and_then_no_more() {
    let case = Case { mode: Mode::Approve, ..Case::of(Phase::Waiting, Held::Absent) };
    let digest = case.settled().proposal.expect("a proposal").digest;
    let mut case = Case { will: approved(digest, 1), ..case };
    case.state = after_reply(&case.settled(), &Verdict::Unanswered { words: "w".into() });
    case.state = case.settled();
    assert_eq!(case.state.phase, Phase::Failing);
    case.now = at(1000);
    assert_eq!(name(&case.step()), "create as submitting", "the network was away");
    case.state = case.settled();
    case.held = ours(&[]);
    case.state = case.settled();
    assert_eq!(case.state.phase, Phase::Registered);
    case.held = unreadable();
    case.now = at(2000);
    case.state = case.settled();
    case.held = Held::Absent;
    case.now = at(3000);
    assert_eq!(name(&case.step()), "settle ready", "it came about, and somebody removed it");
    case.state = case.settled();
    case.will = approved(digest, 3001);
    assert_eq!(name(&case.step()), "create as submitting", "the same, approved anew");
}

#[test]
fn many_nodes_are_many_also_one_after_the_other_and_a_new_name_is_no_loss() {
    let held = |removed: usize, renamed, leaving| {
        let Held::Ours(difference) = shrinking(removed) else { panic!("ours") };
        Held::Ours(Difference { renamed, leaving, besides: 0, ..difference })
    };
    for (what, held, expected) in [
        ("two of ten", held(2, 0, 0), "update as updating"),
        ("two of ten, and one is on its way", held(2, 0, 1), "settle drifted"),
        ("none yet", held(0, 0, 9), "update as updating"),
        ("all of them have another name", held(10, 10, 0), "update as updating"),
        ("all but three of them have", held(10, 7, 0), "settle drifted"),
    ] {
        assert_eq!(name(&Case::of(Phase::Drifted, held).step()), expected, "{what}");
    }
}

#[test]
fn while_a_loss_waits_for_approval_the_rest_is_put_right() {
    let held = |besides| {
        let Held::Ours(difference) = shrinking(3) else { panic!("ours") };
        Held::Ours(Difference { besides, ..difference })
    };
    let mut case = Case::of(Phase::Drifted, held(2));
    let Step::Update(updating) = case.step() else { panic!("{:?}", case.step()) };
    assert!(!updating.takes_away(), "nobody goes without approval");
    let digest = updating.proposal.clone().expect("a proposal").digest;
    assert_eq!(updating.past.spent, None);
    // It is tried again likewise, also after a crash.
    let tried = after_reply(&updating, &Verdict::Unanswered { words: "w".into() });
    case.state = Case { state: tried, ..case.clone() }.settled();
    case.now = at(200);
    let Step::Update(again) = case.step() else { panic!("{:?}", case.step()) };
    assert!(!again.takes_away());
    let mut crashed = Case { state: again.clone().after_restart(at(210)), ..case.clone() };
    crashed.now = at(300);
    assert!(matches!(crashed.step(), Step::Update(state) if !state.takes_away()));
    // What is left waits.
    case.state = after_reply(&again, &Verdict::Accepted);
    case.held = held(0);
    let waits = case.settled();
    assert_eq!(
        (waits.phase, waits.proposal.as_ref().map(|it| it.digest)),
        (Phase::Drifted, Some(digest))
    );
    case.state = waits;
    case.now = at(1000);
    assert_eq!(name(&case.step()), "settle drifted", "however often it is looked at");
    case.will = approved(digest, 999);
    assert!(matches!(case.step(), Step::Update(state) if state.takes_away()), "approved");
}

#[test]
fn operators_words_are_in_order_whatever_the_clock_says() {
    let state = TargetState {
        past: Past { heeded: Some(at(500)), served: Some(at(400)), ..Past::default() },
        ..TargetState::new(at(0))
    };
    let mut will = asked(600);
    for now in [100, 100, 1000] {
        let before = will.asked;
        let asked = will.go_ahead(at(now), &state);
        assert!(Some(asked) > before && Some(asked) > state.past.heeded, "at {now}: {asked}");
        assert_eq!(will.asked, Some(asked));
    }
    assert_eq!(will.asked, Some(at(1000)));
}

#[test]
fn a_removal_that_does_not_come_about_is_tried_again_after_a_pause() {
    let mut case = Case { will: gone(), ..Case::of(Phase::Offboarding, ours(&[])) };
    case.state.past.heeded = Some(at(50));
    for (what, verdict, expected) in [
        ("said yes", Verdict::Accepted, "settle offboarding"),
        ("no answer", Verdict::Unanswered { words: "w".into() }, "settle offboarding"),
        ("an error", Verdict::Rejected { words: "w".into() }, "settle offboarding"),
        ("a clear no", Verdict::Refused { words: "w".into() }, "settle refused"),
    ] {
        let state = after_reply(&case.settled(), &verdict);
        let tried = Case { state, ..case.clone() };
        assert_eq!(name(&tried.step()), expected, "{what}");
        if expected == "settle offboarding" {
            let mut waits = Case { state: tried.settled(), ..case.clone() };
            assert_eq!(name(&waits.step()), "rest until 101", "{what}");
            waits.now = at(102);
            assert_eq!(name(&waits.step()), "remove as offboarding", "{what}");
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, clippy::large_stack_arrays, reason = "one table")]
fn what_holds_a_target_back() {
    let later = |phase| TargetState { next_try: Some(at(150)), ..state(phase) };
    let other = document(2);
    let base = || Case::of(Phase::Waiting, Held::Absent);
    let few = || closed("1 of 2");
    let waiting = || TargetState { detail: Some("1 of 2".into()), ..state(Phase::Waiting) };
    let opens_later = || Gate::Closed { why: "1 of 2".into(), opens: Some(at(200)) };
    for (what, case, expected) in [
        ("too few nodes", Case { gate: few(), ..base() }, "settle waiting"),
        ("still too few nodes", Case { gate: few(), state: waiting(), ..base() }, "rest"),
        (
            "too few nodes, for some time",
            Case { gate: opens_later(), state: waiting(), ..base() },
            "rest until 200",
        ),
        (
            "too few nodes while a registration may be out there",
            Case { gate: few(), ..Case::of(Phase::Submitting, Held::NotRead) },
            "read",
        ),
        (
            "too few nodes of a cluster that is registered",
            Case { gate: few(), wanted: other, ..Case::of(Phase::Registered, Held::NotRead) },
            "read",
        ),
        (
            "too few nodes for a second registration",
            Case { gate: few(), ..Case::of(Phase::Drifted, Held::Absent) },
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
            "a secret, when the operator asks",
            Case { obstacle: Some("plain HTTP"), will: asked(1), ..base() },
            "settle refused",
        ),
        (
            "the next try is later",
            Case { state: later(Phase::Failing), ..base() },
            "rest until 150",
        ),
        (
            "unless the operator asks",
            Case { state: later(Phase::Failing), will: asked(1), ..base() },
            "create as submitting",
        ),
        (
            "a changed document does not shorten the wait for a network that fails",
            Case { state: later(Phase::Failing), wanted: other, ..base() },
            "rest until 150",
        ),
        (
            "nor that after a refusal",
            Case { state: later(Phase::Refused), wanted: other, ..base() },
            "rest until 150",
        ),
        (
            "nor that of a drift",
            Case { state: later(Phase::Drifted), wanted: other, ..base() },
            "rest until 150",
        ),
        (
            "a look that failed is put off too",
            Case { state: later(Phase::Submitting), held: Held::NotRead, ..base() },
            "rest until 150",
        ),
        (
            "another's entry is looked at later",
            Case { state: later(Phase::Foreign), ..base() },
            "rest until 150",
        ),
        (
            "a registered cluster is looked at now and then",
            Case { state: later(Phase::Registered), held: Held::NotRead, ..base() },
            "rest until 150",
        ),
        (
            "and when it changes",
            Case { state: later(Phase::Registered), held: Held::NotRead, wanted: other, ..base() },
            "read",
        ),
        (
            "the cluster changed after a refusal",
            Case { wanted: other, ..Case::of(Phase::Refused, Held::NotRead) },
            "read",
        ),
        (
            "the operator asks after a refusal",
            Case { will: asked(1), ..Case::of(Phase::Refused, Held::Absent) },
            "create as submitting",
        ),
    ] {
        assert_eq!(name(&case.step()), expected, "{what}");
    }
}

#[test]
fn nothing_is_sent_without_the_person_whom_the_mode_asks_for() {
    let drifted = || Case::of(Phase::Drifted, ours(&["memory"]));
    let absent = || Case::of(Phase::Waiting, Held::Absent);
    let approve = |case: Case| Case { mode: Mode::Approve, ..case };
    let observe = |case: Case| Case { mode: Mode::Observe, ..case };
    let loses_many = || Case::of(Phase::Drifted, shrinking(3));
    for (what, case, held_back, goes_ahead) in [
        ("a registration", approve(absent()), Phase::Ready, "create as submitting"),
        ("an update", approve(drifted()), Phase::Drifted, "update as updating"),
        ("many nodes less", loses_many(), Phase::Drifted, "update as updating"),
        (
            "many nodes less, asked anyway",
            approve(loses_many()),
            Phase::Drifted,
            "update as updating",
        ),
    ] {
        let waits = case.settled();
        assert_eq!(waits.phase, held_back, "{what}");
        let digest = waits.proposal.expect("a proposal").digest;
        // Without an approval it waits, however often it is looked at.
        let again = Case { state: case.settled(), now: at(1000), ..case.clone() };
        assert_eq!(again.settled().proposal.expect("a proposal").digest, digest, "{what}");
        let other = Case { will: approved(document(7), 1), ..again.clone() };
        assert_eq!(other.settled().phase, held_back, "{what}: another digest");
        let approved = Case { will: approved(digest, 1), ..again };
        assert_eq!(name(&approved.step()), goes_ahead, "{what}: approved");
        // Another document is another proposal.
        let changed = Case { wanted: document(2), ..approved.clone() };
        assert_eq!(changed.settled().phase, held_back, "{what}: approved for another document");
        // And an approval is for once.
        let spent = TargetState { past: approved.settled().past, ..case.state.clone() };
        let after = Case { state: spent, will: approved.will.clone(), ..case.clone() };
        assert_eq!(after.settled().phase, held_back, "{what}: approved once");
    }
    for (what, case, expected) in [
        ("a registration", observe(absent()), "settle ready"),
        ("an update", observe(drifted()), "settle drifted"),
        ("a look", observe(Case::of(Phase::Registered, Held::NotRead)), "read"),
        (
            "an update under way",
            observe(Case::of(Phase::Updating, ours(&["memory"]))),
            "settle drifted",
        ),
        ("what the operator asks", Case { will: asked(1), ..observe(absent()) }, "settle ready"),
    ] {
        assert_eq!(name(&case.step()), expected, "observed: {what}");
    }
    let mut leaving = Case { will: gone(), ..observe(Case::of(Phase::Offboarding, ours(&[]))) };
    leaving.state.past.heeded = Some(at(50));
    assert_eq!(name(&leaving.step()), "settle refused", "observed: a removal");
}

#[test]
fn a_difference_is_left_for_a_while_and_updates_are_apart() {
    let mut case = Case::of(Phase::Registered, ours(&["memory"]));
    let drifted = case.settled();
    assert_eq!((drifted.phase, drifted.next_try), (Phase::Drifted, Some(at(105))));
    case.state = drifted;
    assert_eq!(name(&case.step()), "rest until 105");
    case.now = at(105);
    case.state = case.settled();
    assert_eq!((case.state.phase, case.state.past.updated), (Phase::Updating, Some(at(105))));
    // It is right, and the cluster changes at once.
    case.held = ours(&[]);
    case.state = case.settled();
    assert_eq!((case.state.phase, case.state.next_try), (Phase::Registered, Some(at(135))));
    case.wanted = document(2);
    case.held = ours(&["swap"]);
    case.state = case.settled();
    assert_eq!((case.state.phase, case.state.next_try), (Phase::Drifted, Some(at(120))));
    case.will = asked(105);
    assert_eq!(name(&case.step()), "update as updating", "the operator does not want to wait");
}

#[test]
fn a_war_is_given_up() {
    let mut case = Case::of(Phase::Registered, ours(&["storage.size"]));
    let mut second = 100;
    let mut updates = 0;
    let contested = loop {
        second += 60;
        case.now = at(second);
        match case.step() {
            Step::Settle(state) if state.phase == Phase::Contested => break state,
            Step::Settle(state) => {
                // The other writer changes it back as soon as it is right.
                let was_right = state.phase == Phase::Registered;
                case.state = state;
                case.held = if was_right { ours(&["storage.size"]) } else { case.held };
            }
            Step::Update(state) => {
                updates += 1;
                case.state = after_reply(&state, &Verdict::Accepted);
                case.held = ours(&[]);
            }
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(updates, MAX_REVERTS);
    let words = contested.detail.clone().expect("words");
    assert!(words.contains("6 times in a row"), "{words}");
    case.state = contested;
    for (what, changed, expected) in [
        ("it is left", case.clone(), "settle contested"),
        ("until it is right", Case { held: ours(&[]), ..case.clone() }, "settle registered"),
        ("or the operator says so", Case { will: asked(1), ..case.clone() }, "update as updating"),
        (
            "or the cluster changes",
            Case { wanted: document(2), ..case.clone() },
            "update as updating",
        ),
    ] {
        let changed = Case { now: at(second + 1000), ..changed };
        assert_eq!(name(&changed.step()), expected, "{what}");
    }
    // The same where what was written is gone before it can be seen.
    let mut case = Case::of(Phase::Updating, ours(&["storage.size"]));
    for try_number in 1..=MAX_REJECTIONS {
        case.now = at(1000 * i64::from(try_number));
        let Step::Update(state) = case.step() else { panic!("updates: {:?}", case.step()) };
        case.state = after_reply(&state, &Verdict::Accepted);
        case.state = case.settled();
        let given_up = case.state.phase == Phase::Contested;
        assert_eq!(given_up, try_number == MAX_REJECTIONS, "{try_number}: {:?}", case.state);
    }
    // And where the entry is removed each time.
    let removed = |reverts| {
        let mut case = Case::of(Phase::Registered, Held::Absent);
        case.state.past.reverts = reverts;
        name(&case.step())
    };
    assert_eq!(removed(MAX_REVERTS - 1), "create as submitting");
    assert_eq!(removed(MAX_REVERTS), "settle contested");
}

#[test]
fn quiet_ends_the_count_of_reverts() {
    for (since, now, expected) in [(0, 599, 3), (0, 600, 0)] {
        let mut case = Case { now: at(now), ..Case::of(Phase::Registered, ours(&[])) };
        case.state.since = at(since);
        case.state.past.reverts = 3;
        assert_eq!(case.settled().past.reverts, expected, "at {now}");
    }
}

#[test]
fn an_entry_is_taken_over_only_when_told_so_and_only_once() {
    let adopt = Will { adopt: true, ..asked(50) };
    let case = Case { will: adopt, ..Case::of(Phase::Foreign, foreign()) };
    let updating = case.settled();
    assert_eq!(name(&case.step()), "update as updating");
    let few = |held| Case { gate: closed("1 of 50"), held, ..case.clone() };
    assert_eq!(name(&few(foreign()).step()), "update as updating", "few nodes take none away");
    assert_eq!(name(&few(Held::NotRead).step()), "read");
    assert_eq!(name(&few(Held::Absent).step()), "settle waiting", "nothing is made with few");
    assert_eq!(updating.past.entry_at, Some(network("here")), "known before it is sent");
    // A try that failed is gone on with.
    let tried = after_reply(&updating, &Verdict::Unanswered { words: "w".into() });
    let tried = Case { state: tried, ..case.clone() };
    assert_eq!(name(&tried.step()), "settle updating");
    let registered = Case { state: updating, held: ours(&[]), ..case.clone() };
    let lost = Case { state: registered.settled(), now: at(200), ..case };
    assert_eq!(name(&lost.step()), "settle foreign", "somebody else has taken it over since");
}

#[test]
fn a_cluster_that_is_registered_elsewhere_is_not_registered_here_too() {
    for phase in [Phase::Submitting, Phase::Registered, Phase::Drifted, Phase::Updating] {
        let moved = |held| Case {
            destination: network("there"),
            wanted: document(2),
            ..Case::of(phase, held)
        };
        assert_eq!(name(&moved(Held::NotRead).step()), "read", "{phase}");
        let Step::Settle(state) = moved(Held::Absent).step() else { panic!("{phase}: settles") };
        assert_eq!(state.phase, Phase::Refused, "{phase}");
        assert_eq!(state.past.entry_at, Some(network("here")), "{phase}: it is not forgotten");
        let words = state.detail.expect("words");
        assert!(words.contains("west at https://parser.here"), "{phase}: {words}");
        // A network that only has another address holds our entry.
        let Step::Settle(state) = moved(ours(&[])).step() else { panic!("{phase}: settles") };
        assert_eq!((state.phase, state.past.entry_at), (Phase::Registered, Some(network("there"))));
    }
    let mut leaving = Case {
        will: gone(),
        destination: network("there"),
        ..Case::of(Phase::Offboarding, Held::Absent)
    };
    leaving.state.past.heeded = Some(at(50));
    assert_eq!(leaving.settled().phase, Phase::Refused, "nor is it said to have left");
}

#[test]
fn where_an_entry_may_be_is_known_before_it_is_sent_and_until_it_is_seen_to_be_gone() {
    let Step::Create(submitting) = Case::of(Phase::Waiting, Held::Absent).step() else {
        panic!("creates")
    };
    assert_eq!(submitting.past.entry_at, Some(network("here")));
    let said = |is_final| Some(Reply { words: "no".into(), is_final, is_yes: false });
    for (what, held, reply, kept) in [
        ("not readable", unreadable(), said(true), true),
        ("there", ours(&[]), None, true),
        ("there, and different", ours(&["x"]), None, true),
        ("not there, and not answered", Held::Absent, None, true),
        ("not there, and unclear", Held::Absent, said(false), true),
        ("not there, and a clear no", Held::Absent, said(true), false),
        ("somebody else's", foreign(), said(true), false),
    ] {
        let state = TargetState { reply, ..submitting.clone() };
        let case = Case { state, ..Case::of(Phase::Waiting, held) };
        assert_eq!(case.settled().past.entry_at.is_some(), kept, "{what}");
    }
}

#[test]
fn an_answer_is_believed_only_after_a_look() {
    let reply = |is_final| Some(Reply { words: "500".into(), is_final, is_yes: false });
    let different = || ours(&["memory"]);
    for (what, phase, reply, rejections, held, expected) in [
        (
            "a clear no, and no entry",
            Phase::Submitting,
            reply(true),
            0,
            Held::Absent,
            Phase::Refused,
        ),
        (
            "a clear no, and our entry",
            Phase::Submitting,
            reply(true),
            0,
            ours(&[]),
            Phase::Registered,
        ),
        (
            "an error, and no entry",
            Phase::Submitting,
            reply(false),
            0,
            Held::Absent,
            Phase::Failing,
        ),
        (
            "an error, and our entry",
            Phase::Submitting,
            reply(false),
            0,
            ours(&[]),
            Phase::Registered,
        ),
        (
            "the last error but one",
            Phase::Submitting,
            reply(false),
            MAX_REJECTIONS - 1,
            Held::Absent,
            Phase::Failing,
        ),
        (
            "one error too many",
            Phase::Submitting,
            reply(false),
            MAX_REJECTIONS,
            Held::Absent,
            Phase::Refused,
        ),
        ("a yes, and no entry", Phase::Submitting, None, 0, Held::Absent, Phase::Failing),
        (
            "a clear no, and it is right",
            Phase::Updating,
            reply(true),
            0,
            ours(&[]),
            Phase::Registered,
        ),
        ("a clear no, and it is not", Phase::Updating, reply(true), 0, different(), Phase::Refused),
        (
            "an error, and it is not right",
            Phase::Updating,
            reply(false),
            0,
            different(),
            Phase::Updating,
        ),
        (
            "one error too many, and it is not right",
            Phase::Updating,
            reply(false),
            MAX_REJECTIONS,
            different(),
            Phase::Refused,
        ),
    ] {
        let has_words = reply.is_some() && expected != Phase::Registered;
        let state = TargetState { reply, rejections, ..state(phase) };
        let Step::Settle(state) = (Case { state, ..Case::of(phase, held) }).step() else {
            panic!("{what}: settles")
        };
        assert_eq!(state.phase, expected, "{what}");
        let detail = state.detail.unwrap_or_default();
        assert_eq!(detail.contains("500"), has_words, "{what}: {detail}");
    }
}

#[test]
fn an_operators_word_is_not_answered_by_what_was_said_before_it() {
    for phase in [Phase::Submitting, Phase::Updating] {
        let held = if phase == Phase::Submitting { Held::Absent } else { ours(&["memory"]) };
        let reply = Some(Reply { words: "redirect".into(), is_final: true, is_yes: false });
        let state = TargetState { reply, rejections: 3, attempts: 9, ..state(phase) };
        let case = Case { state, ..Case::of(phase, held) };
        assert_eq!(name(&case.step()), "settle refused", "{phase}");
        let pushed = Case { will: asked(1), ..case };
        let sent = pushed.settled();
        assert_eq!(sent.phase, phase, "{phase}: it is sent");
        assert_eq!((sent.reply, sent.rejections, sent.attempts), (None, 0, 0), "{phase}");
    }
}

#[test]
fn a_reply_outlives_a_look_that_fails() {
    let reply = Some(Reply { words: "policy".into(), is_final: true, is_yes: false });
    for phase in [Phase::Submitting, Phase::Updating] {
        let state = TargetState { reply: reply.clone(), ..state(phase) };
        let case = Case { state, ..Case::of(phase, unreadable()) };
        assert_eq!(case.settled().reply, reply, "{phase}");
    }
}

#[test]
fn a_reply_about_another_document_refuses_nothing() {
    for is_final in [true, false] {
        let state = TargetState {
            reply: Some(Reply { words: "policy".into(), is_final, is_yes: false }),
            rejections: MAX_REJECTIONS,
            ..state(Phase::Submitting)
        };
        let case = Case { state, wanted: document(2), ..Case::of(Phase::Submitting, Held::Absent) };
        let Step::Settle(state) = case.step() else { panic!("settles") };
        assert_eq!((state.phase, state.rejections), (Phase::Failing, 0));
        assert!(!state.detail.expect("words").contains("policy"));
    }
    let refused = TargetState {
        reply: Some(Reply { words: "envelope".into(), is_final: true, is_yes: false }),
        ..state(Phase::Submitting)
    };
    let restarted = refused.after_restart(at(1));
    assert_eq!((restarted.reply, restarted.phase), (None, Phase::Submitting));
    assert!(restarted.past.entry_at.is_some());
}

#[test]
fn a_time_from_a_clock_that_was_wrong_is_not_waited_for() {
    for (next_try, expected) in [(150, "rest until 150"), (100_000_000, "read")] {
        let state = TargetState { next_try: Some(at(next_try)), ..state(Phase::Failing) };
        let case = Case { state, ..Case::of(Phase::Failing, Held::NotRead) };
        assert_eq!(name(&case.step()), expected);
    }
}

#[test]
fn what_a_reply_does_to_the_state() {
    let words = || "words".to_owned();
    for (phase, verdict, is_final, rejections) in [
        (Phase::Submitting, Verdict::Accepted, None, 0),
        (Phase::Updating, Verdict::Accepted, Some(false), 1),
        (Phase::Submitting, Verdict::Refused { words: words() }, Some(true), 0),
        (Phase::Submitting, Verdict::Rejected { words: words() }, Some(false), 1),
        (Phase::Submitting, Verdict::Unanswered { words: words() }, Some(false), 0),
    ] {
        let after = after_reply(&state(phase), &verdict);
        assert_eq!(after.phase, phase, "{verdict:?}");
        assert_eq!(after.rejections, rejections, "{verdict:?}");
        assert_eq!(after.reply.map(|reply| reply.is_final), is_final, "{verdict:?}");
    }
}

#[test]
fn failing_has_one_beginning_over_all_tries() {
    let mut case = Case::of(Phase::Waiting, Held::NotRead);
    for (now, held) in
        [(10, unreadable()), (20, Held::Absent), (30, Held::Absent), (40, unreadable())]
    {
        case.state.next_try = None;
        case.now = at(now);
        case.held = held;
        case.state = case.settled();
        assert_eq!(case.state.failing_since, Some(at(10)), "at {now}");
        assert_eq!(case.state.observed_phase(), Phase::Failing, "at {now}");
    }
    assert_eq!((case.state.phase, case.state.since), (Phase::Failing, at(10)));
}

#[test]
fn backoff_doubles_up_to_its_cap_and_is_spread() {
    let wait = |attempts, dice| {
        let mut case = Case::of(Phase::Failing, unreadable());
        case.state.attempts = attempts;
        let Step::Settle(state) = case.step_with(dice) else { panic!("settles") };
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

/// What becomes of a request: whether it is carried out, and what is answered.
fn fate() -> impl Strategy<Value = (bool, Verdict)> {
    let words = || "words".to_owned();
    let verdict = prop_oneof![
        Just(Verdict::Accepted),
        Just(Verdict::Refused { words: words() }),
        Just(Verdict::Rejected { words: words() }),
        Just(Verdict::Unanswered { words: words() }),
    ];
    (any::<bool>(), verdict)
}

/// What happens in the world beside the planner.
#[derive(Debug, Clone)]
enum World {
    Nothing,
    /// The process ends at any moment and starts again.
    Crash,
    /// The nodes that report from now on, one a bit.
    Nodes(u8),
    /// A node is recorded as departed for long enough.
    Departs(u8),
    /// The cluster file names the other of two networks from now on.
    OtherNetwork,
    /// Too few nodes have reported, or enough.
    Gate(bool),
    /// Somebody removes the entry.
    Removed,
    /// Somebody writes another number into it.
    Spoilt,
    /// Somebody else makes an entry of our id where there is none.
    Stolen,
    Mode(Mode),
    Submit {
        adopt: bool,
    },
    Offboard,
    Approve,
}

fn world() -> impl Strategy<Value = World> {
    let mode = prop_oneof![Just(Mode::Auto), Just(Mode::Approve), Just(Mode::Observe)];
    prop_oneof![
        20 => Just(World::Nothing),
        3 => Just(World::Crash),
        4 => (0..16_u8).prop_map(World::Nodes),
        3 => (0..4_u8).prop_map(World::Departs),
        1 => Just(World::OtherNetwork),
        2 => any::<bool>().prop_map(World::Gate),
        1 => Just(World::Removed),
        2 => Just(World::Spoilt),
        1 => Just(World::Stolen),
        1 => mode.prop_map(World::Mode),
        2 => any::<bool>().prop_map(|adopt| World::Submit { adopt }),
        1 => Just(World::Offboard),
        3 => Just(World::Approve),
    ]
}

/// An entry of our id: which nodes it holds, one a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    nodes: u8,
    is_ours: bool,
    is_spoilt: bool,
}

impl Entry {
    /// What it should be: ours, and what may not be taken away.
    fn mended(self, nodes: u8, departed: u8) -> Self {
        Self { nodes: nodes | (self.nodes & !departed), is_ours: true, is_spoilt: false }
    }

    fn held(self, nodes: u8, departed: u8) -> Held {
        let removed = self.nodes & !nodes & departed;
        let name = |bit: u8| format!("n{bit}");
        let is_right = self == self.mended(nodes, departed);
        let is_right_besides = self == self.mended(nodes, 0);
        let difference = Difference {
            removed: (0..4).filter(|bit| removed & (1 << bit) != 0).map(name).collect(),
            held_nodes: self.nodes.count_ones() as usize,
            besides: usize::from(!is_right_besides),
            ..difference(if is_right { &[] } else { &["nodes"] })
        };
        if self.is_ours { Held::Ours(difference) } else { Held::Foreign(difference) }
    }
}

proptest! {
    /// Whatever becomes of requests, replies, the cluster, the cluster file, the operator and the
    /// process: a create follows a look that found nothing, there is never a second entry in one
    /// network, nor one in each of two; no node vanishes that has not departed; nobody's entry is
    /// touched without their owner's word, nothing is sent that is only observed, and nothing after
    /// the operator has taken the cluster out; registered means that the entry is right.
    #[test]
    fn never_lost_never_doubled_never_smaller_and_never_against_the_operator(
        events in prop::collection::vec((world(), fate(), prop::bool::weighted(0.85), 0..400_i64), 1..160),
    ) {
        let networks = [network("here"), network("there")];
        let mut entries: [Option<Entry>; 2] = [None, None];
        let mut at_network = 0;
        let (mut nodes, mut departed, mut gate_open, mut mode) = (0b1_u8, 0_u8, true, Mode::Auto);
        let mut will = Will::default();
        let mut stored = TargetState::new(at(0));
        let mut state = stored.clone();
        let mut seen: Option<(Digest, Held)> = None;
        let mut now = 0;
        for (world, (is_done, verdict), readable, wait) in events {
            now += wait;
            let mut restarts = false;
            let mut is_touched = false;
            match world {
                World::Nothing => {}
                World::Crash => restarts = true,
                World::Nodes(there) => {
                    nodes = there;
                    departed &= !there;
                }
                World::Departs(node) => {
                    nodes &= !(1 << node);
                    departed |= 1 << node;
                }
                World::OtherNetwork => {
                    at_network = 1 - at_network;
                    restarts = true;
                }
                World::Gate(open) => gate_open = open,
                World::Removed => {
                    entries[at_network] = None;
                    is_touched = true;
                }
                World::Spoilt => {
                    entries[at_network] = entries[at_network].map(|entry| Entry { is_spoilt: true, ..entry });
                    is_touched = true;
                }
                World::Stolen => {
                    let theirs = Entry { nodes: 0, is_ours: false, is_spoilt: false };
                    entries[at_network] = entries[at_network].or(Some(theirs));
                    is_touched = true;
                }
                World::Mode(other) => {
                    mode = other;
                    restarts = true;
                }
                World::Submit { adopt } => {
                    will.go_ahead(at(now), &state);
                    will.presence = Presence::Registered;
                    will.adopt = adopt;
                }
                World::Offboard => {
                    will.go_ahead(at(now), &state);
                    will.presence = Presence::Gone;
                }
                World::Approve => {
                    if let Some(proposal) = &state.proposal {
                        let asked = will.go_ahead(at(now), &state);
                        will.approved = Some(Approval { digest: proposal.digest, at: asked });
                    }
                }
            }
            if restarts {
                state = stored.clone().after_restart(at(now));
                seen = None;
            }
            let destination = &networks[at_network];
            let wanted = Digest::of(&[&[nodes, departed], destination.create_url.as_bytes()]);
            let held = match seen.take() {
                Some((about, held)) if about == wanted => held,
                _ => Held::NotRead,
            };
            let gate = if gate_open && nodes != 0 { Gate::Open } else { closed("too few") };
            let step = next(&Situation {
                state: &state,
                will: &will,
                mode,
                look_every: Duration::from_secs(30),
                shrink_percent: 20,
                gate: &gate,
                destination,
                wanted,
                declared: &BTreeMap::new(),
                obstacle: None,
                held: &held,
                now: at(now),
                dice: 0.5,
            });
            let is_sent = matches!(step, Step::Create(_) | Step::Update(_) | Step::Remove(_));
            prop_assert!(!is_sent || mode != Mode::Observe, "sent though only observed: {:?}", step);
            prop_assert!(
                !matches!(step, Step::Create(_) | Step::Update(_)) || will.presence == Presence::Registered,
                "sent after the operator took the cluster out: {:?}", step
            );
            let is_done = is_done || verdict == Verdict::Accepted;
            match step {
                Step::Rest | Step::RestUntil(_) => {}
                Step::Read if readable => {
                    let held = entries[at_network]
                        .map_or(Held::Absent, |entry| entry.held(nodes, departed));
                    seen = Some((wanted, held));
                }
                Step::Read => seen = Some((wanted, unreadable())),
                Step::Settle(settled) => {
                    // Somebody may have changed the entry between the look and this step.
                    if settled.phase == Phase::Registered && !is_touched {
                        let entry = entries[at_network];
                        prop_assert_eq!(entry, entry.map(|it| it.mended(nodes, departed)));
                        prop_assert!(entry.is_some());
                    }
                    stored = settled.clone();
                    state = settled;
                }
                Step::Create(submitting) => {
                    prop_assert_eq!(&held, &Held::Absent, "a create without a look before it");
                    prop_assert!(
                        gate_open || state.past.registered,
                        "a first create before enough nodes are there"
                    );
                    let ours = entries.iter().flatten().filter(|entry| entry.is_ours).count();
                    prop_assert_eq!(ours, 0, "a second entry");
                    stored = submitting.clone();
                    // The registry takes no second entry of an id.
                    if is_done && entries[at_network].is_none() {
                        entries[at_network] = Some(Entry { nodes, is_ours: true, is_spoilt: false });
                    }
                    state = after_reply(&submitting, &verdict);
                }
                Step::Update(updating) => {
                    let (Held::Ours(difference) | Held::Foreign(difference)) = &held else {
                        panic!("an update of what was not seen")
                    };
                    prop_assert!(matches!(held, Held::Ours(_)) || will.adopt, "somebody else's");
                    let share = difference.removed.len() * 100;
                    prop_assert!(
                        share <= difference.held_nodes * 20
                            || will.approved.is_some()
                            || !updating.takes_away(),
                        "many nodes taken away without a person"
                    );
                    stored = updating.clone();
                    if is_done && let Some(entry) = entries[at_network] {
                        let gone = if updating.takes_away() { departed } else { 0 };
                        let mended = entry.mended(nodes, gone);
                        let vanished = entry.nodes & !mended.nodes;
                        prop_assert_eq!(vanished & !departed, 0, "a node vanished that is not gone");
                        entries[at_network] = Some(mended);
                    }
                    state = after_reply(&updating, &verdict);
                }
                Step::Remove(removing) => {
                    prop_assert!(will.presence == Presence::Gone, "removed without a word");
                    prop_assert!(matches!(held, Held::Ours(_)), "somebody else's");
                    stored = removing.clone();
                    // The network looks at the id alone.
                    if is_done && !is_touched {
                        entries[at_network] = None;
                    }
                    state = after_reply(&removing, &verdict);
                }
            }
        }
    }
}

#[test]
fn while_the_nodes_are_not_known_nothing_is_sent() {
    let unsettled = || Gate::Unsettled { why: "Kubernetes has not told its Nodes yet".into() };
    let observations =
        [Held::NotRead, Held::Absent, ours(&[]), ours(&["memory"]), shrinking(2), foreign()];
    let wills = [
        ("nothing asked", Will::default()),
        ("pushed", asked(50)),
        ("adopt", Will { adopt: true, ..asked(50) }),
        ("partial", Will { partial: true, ..asked(50) }),
    ];
    for phase in Phase::ALL {
        for held in &observations {
            for (what, will) in &wills {
                let case =
                    Case { gate: unsettled(), will: will.clone(), ..Case::of(phase, held.clone()) };
                let step = case.step();
                // An entry that is, or may be, there stays as it is; else it is said what is waited for.
                if case.state.past.entry_at.is_some() {
                    assert_eq!(step, Step::Rest, "{phase}, {held:?}, {what}");
                } else {
                    let words = "Kubernetes has not told its Nodes yet";
                    let state = case.settled();
                    assert_eq!(state.phase, Phase::Waiting, "{phase}, {held:?}, {what}");
                    assert_eq!(state.detail.as_deref(), Some(words), "{phase}, {held:?}, {what}");
                }
            }
        }
    }
    // To leave a network, nobody needs to know the nodes.
    let mut leaving =
        Case { will: gone(), gate: unsettled(), ..Case::of(Phase::Offboarding, ours(&[])) };
    leaving.state.past.heeded = Some(at(50));
    assert_eq!(name(&leaving.step()), "remove as offboarding");
}
