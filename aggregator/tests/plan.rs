//! The planner: every state against every observation, and no registration without a look before.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use jiff::Timestamp;
use proptest::prelude::*;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::plan::{MAX_REJECTIONS, Situation, Step, after_reply, next};
use rollcall_aggregator::onboarding::state::{Phase, Reply, TargetState};
use rollcall_aggregator::targets::{Destination, Held, Verdict};

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
    let has_entry = matches!(phase, Phase::Submitting | Phase::Registered | Phase::Drifted);
    TargetState {
        phase,
        about: Some(document(1)),
        entry_at: has_entry.then(|| network("here")),
        ..TargetState::new(at(0))
    }
}

fn ours(differences: &[&str]) -> Held {
    Held::Ours { differences: differences.iter().map(ToString::to_string).collect() }
}

fn closed(why: &str) -> Gate {
    Gate::Closed { why: why.into(), opens: None }
}

fn unreadable() -> Held {
    Held::Unreadable { words: "no answer".into() }
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
    destination: Destination,
    wanted: Digest,
    obstacle: Option<&'static str>,
    held: Held,
}

impl Case {
    fn of(phase: Phase, held: Held) -> Self {
        Self {
            state: state(phase),
            gate: Gate::Open,
            destination: network("here"),
            wanted: document(1),
            obstacle: None,
            held,
        }
    }

    fn step(&self) -> Step {
        next(&Situation {
            state: &self.state,
            gate: &self.gate,
            destination: &self.destination,
            wanted: self.wanted,
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
    let observations = [
        ("not read", Held::NotRead),
        ("absent", Held::Absent),
        ("ours, equal", ours(&[])),
        ("ours, different", ours(&["memory is 1 there, 2 here"])),
        ("foreign", Held::Foreign),
        ("unreadable", unreadable()),
    ];
    let open = [
        "read",
        "create as submitting",
        "settle registered",
        "settle drifted",
        "settle foreign",
        "settle failing",
    ];
    let doubtful = [
        "read",
        "settle failing",
        "settle registered",
        "settle drifted",
        "settle foreign",
        "settle submitting",
    ];
    for (phase, expected) in [
        (Waiting, open),
        (Submitting, doubtful),
        (Registered, ["rest"; 6]),
        (Drifted, open),
        (Refused, ["rest"; 6]),
        (Failing, open),
        (Foreign, open),
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
            "the next try is later",
            Case { state: later(Phase::Failing), ..base() },
            "rest until 150",
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
            "the cluster changed after registration",
            Case { wanted: other, ..Case::of(Phase::Registered, Held::NotRead) },
            "read",
        ),
        (
            "the cluster changed after a refusal",
            Case { wanted: other, ..Case::of(Phase::Refused, Held::NotRead) },
            "read",
        ),
    ] {
        assert_eq!(name(&case.step()), expected, "{what}");
    }
}

#[test]
fn a_cluster_that_is_registered_elsewhere_is_not_registered_here_too() {
    for phase in [Phase::Submitting, Phase::Registered, Phase::Drifted] {
        let moved = |held| Case {
            destination: network("there"),
            wanted: document(2),
            ..Case::of(phase, held)
        };
        assert_eq!(name(&moved(Held::NotRead).step()), "read", "{phase}");
        let Step::Settle(state) = moved(Held::Absent).step() else { panic!("{phase}: settles") };
        assert_eq!(state.phase, Phase::Refused, "{phase}");
        assert_eq!(state.entry_at, Some(network("here")), "{phase}: it is not forgotten");
        let words = state.detail.expect("words");
        assert!(words.contains("west at https://parser.here"), "{phase}: {words}");
        // A network that only has another address holds our entry.
        let Step::Settle(state) = moved(ours(&[])).step() else { panic!("{phase}: settles") };
        assert_eq!((state.phase, state.entry_at), (Phase::Registered, Some(network("there"))));
    }
}

#[test]
fn where_an_entry_may_be_is_known_before_it_is_sent_and_until_it_is_seen_to_be_gone() {
    let Step::Create(submitting) = Case::of(Phase::Waiting, Held::Absent).step() else {
        panic!("creates")
    };
    assert_eq!(submitting.entry_at, Some(network("here")));
    let said = |is_final| Some(Reply { words: "no".into(), is_final });
    for (what, held, reply, kept) in [
        ("not readable", unreadable(), said(true), true),
        ("there", ours(&[]), None, true),
        ("there, and different", ours(&["x"]), None, true),
        ("not there, and not answered", Held::Absent, None, true),
        ("not there, and unclear", Held::Absent, said(false), true),
        ("not there, and a clear no", Held::Absent, said(true), false),
    ] {
        let state = TargetState { reply, ..submitting.clone() };
        let case = Case { state, ..Case::of(Phase::Waiting, held) };
        let Step::Settle(state) = case.step() else { panic!("settles") };
        assert_eq!(state.entry_at.is_some(), kept, "{what}");
    }
}

#[test]
fn an_answer_is_believed_only_after_a_look() {
    let reply = |is_final| Some(Reply { words: "500".into(), is_final });
    for (what, reply, rejections, held, expected) in [
        ("a clear no, and no entry", reply(true), 0, Held::Absent, Phase::Refused),
        ("a clear no, and our entry", reply(true), 0, ours(&[]), Phase::Registered),
        ("an error, and no entry", reply(false), 0, Held::Absent, Phase::Failing),
        ("an error, and our entry", reply(false), 0, ours(&[]), Phase::Registered),
        ("the last error but one", reply(false), MAX_REJECTIONS - 1, Held::Absent, Phase::Failing),
        ("one error too many", reply(false), MAX_REJECTIONS, Held::Absent, Phase::Refused),
        ("a yes, and no entry", None, 0, Held::Absent, Phase::Failing),
    ] {
        let has_words = reply.is_some() && expected != Phase::Registered;
        let state = TargetState { reply, rejections, ..state(Phase::Submitting) };
        let Step::Settle(state) = (Case { state, ..Case::of(Phase::Submitting, held) }).step()
        else {
            panic!("{what}: settles")
        };
        assert_eq!(state.phase, expected, "{what}");
        let detail = state.detail.unwrap_or_default();
        assert_eq!(detail.contains("500"), has_words, "{what}: {detail}");
    }
}

#[test]
fn a_reply_outlives_a_look_that_fails() {
    let reply = Some(Reply { words: "policy".into(), is_final: true });
    let state = TargetState { reply: reply.clone(), ..state(Phase::Submitting) };
    let case = Case { state, ..Case::of(Phase::Submitting, unreadable()) };
    let Step::Settle(state) = case.step() else { panic!("settles") };
    assert_eq!(state.reply, reply);
}

#[test]
fn a_reply_about_another_document_refuses_nothing() {
    for is_final in [true, false] {
        let state = TargetState {
            reply: Some(Reply { words: "policy".into(), is_final }),
            rejections: MAX_REJECTIONS,
            ..state(Phase::Submitting)
        };
        let case = Case { state, wanted: document(2), ..Case::of(Phase::Submitting, Held::Absent) };
        let Step::Settle(state) = case.step() else { panic!("settles") };
        assert_eq!((state.phase, state.rejections), (Phase::Failing, 0));
        assert!(!state.detail.expect("words").contains("policy"));
    }
    let refused = TargetState {
        reply: Some(Reply { words: "envelope".into(), is_final: true }),
        ..state(Phase::Submitting)
    };
    let restarted = refused.after_restart(at(1));
    assert_eq!((restarted.reply, restarted.phase), (None, Phase::Submitting));
    assert!(restarted.entry_at.is_some());
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
    for (verdict, is_final, rejections) in [
        (Verdict::Accepted, None, 0),
        (Verdict::Refused { words: words() }, Some(true), 0),
        (Verdict::Rejected { words: words() }, Some(false), 1),
        (Verdict::Unanswered { words: words() }, Some(false), 0),
    ] {
        let after = after_reply(&state(Phase::Submitting), &verdict);
        assert_eq!(after.phase, Phase::Submitting, "{verdict:?}");
        assert_eq!(after.rejections, rejections, "{verdict:?}");
        assert_eq!(after.reply.map(|reply| reply.is_final), is_final, "{verdict:?}");
    }
}

#[test]
fn failing_has_one_beginning_over_all_tries() {
    let mut state = TargetState::new(at(0));
    for (now, held) in
        [(10, unreadable()), (20, Held::Absent), (30, Held::Absent), (40, unreadable())]
    {
        state.next_try = None;
        let step = next(&Situation {
            state: &state,
            gate: &Gate::Open,
            destination: &network("here"),
            wanted: document(1),
            obstacle: None,
            held: &held,
            now: at(now),
            dice: 0.5,
        });
        let (Step::Settle(after) | Step::Create(after)) = step else { panic!("{step:?}") };
        assert_eq!(after.failing_since, Some(at(10)), "at {now}");
        assert_eq!(after.observed_phase(), Phase::Failing, "at {now}");
        state = after;
    }
    assert_eq!((state.phase, state.since), (Phase::Failing, at(10)));
}

#[test]
fn backoff_doubles_up_to_its_cap_and_is_spread() {
    let wait = |attempts, dice| {
        let state = TargetState { attempts, ..state(Phase::Failing) };
        let step = next(&Situation {
            state: &state,
            gate: &Gate::Open,
            destination: &network("here"),
            wanted: document(1),
            obstacle: None,
            held: &unreadable(),
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

/// What becomes of a create: whether the entry is stored, and what is answered.
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

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "what happens at one time is independent")]
struct Event {
    fate: (bool, Verdict),
    readable: bool,
    crash: bool,
    /// The document that the cluster has from now on.
    document: u8,
    /// Which of two networks the cluster file names from now on; a change of it is a restart.
    there: bool,
    gate_open: bool,
    /// Somebody removes our entry.
    removed: bool,
    wait: i64,
}

fn event() -> impl Strategy<Value = Event> {
    let rarely = || prop::bool::weighted(0.1);
    (
        fate(),
        prop::bool::weighted(0.8),
        rarely(),
        0..3_u8,
        rarely(),
        prop::bool::weighted(0.8),
        rarely(),
        0..400_i64,
    )
        .prop_map(|(fate, readable, crash, document, there, gate_open, removed, wait)| Event {
            fate,
            readable,
            crash,
            document,
            there,
            gate_open,
            removed,
            wait,
        })
}

proptest! {
    /// Whatever becomes of requests, replies, the cluster, the cluster file and the process: a
    /// create follows a look that found nothing, there is never a second entry in one network, nor
    /// one in each of two, and registered means that the entry equals the document.
    #[test]
    fn never_registered_twice_and_never_registered_untruly(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let networks = [network("here"), network("there")];
        // What each network holds: the document of our entry.
        let mut entries: [Option<Digest>; 2] = [None, None];
        let mut at_network = 0;
        let mut stored = TargetState::new(at(0));
        let mut state = stored.clone();
        let mut seen: Option<(Digest, Held)> = None;
        let mut now = 0;
        for event in events {
            now += event.wait;
            if event.removed {
                entries[at_network] = None;
            }
            let restart = event.crash || event.there;
            if event.there {
                at_network = 1 - at_network;
            }
            if restart {
                state = stored.clone().after_restart(at(now));
                seen = None;
            }
            let destination = &networks[at_network];
            let content = document(event.document);
            let wanted = Digest::of(&[content.to_string().as_bytes(), destination.create_url.as_bytes()]);
            let held = match seen.take() {
                Some((about, held)) if about == wanted => held,
                _ => Held::NotRead,
            };
            let gate = if event.gate_open { Gate::Open } else { closed("1 of 2") };
            let step = next(&Situation {
                state: &state,
                gate: &gate,
                destination,
                wanted,
                obstacle: None,
                held: &held,
                now: at(now),
                dice: 0.5,
            });
            match step {
                Step::Rest | Step::RestUntil(_) => {}
                Step::Read if event.readable => {
                    let held = match entries[at_network] {
                        None => Held::Absent,
                        Some(entry) if entry == content => ours(&[]),
                        Some(_) => ours(&["different"]),
                    };
                    seen = Some((wanted, held));
                }
                Step::Read => seen = Some((wanted, unreadable())),
                Step::Settle(settled) => {
                    // Somebody may have removed the entry between the look and this step.
                    if settled.phase == Phase::Registered && !event.removed {
                        prop_assert_eq!(entries[at_network], Some(content));
                    }
                    stored = settled.clone();
                    state = settled;
                }
                Step::Create(submitting) => {
                    prop_assert_eq!(&held, &Held::Absent, "a create without a look before it");
                    prop_assert!(event.gate_open, "a create before enough nodes are there");
                    prop_assert_eq!(entries, [None, None], "a second entry");
                    stored = submitting.clone();
                    let (is_stored, verdict) = event.fate;
                    if is_stored || verdict == Verdict::Accepted {
                        entries[at_network] = Some(content);
                    }
                    state = after_reply(&submitting, &verdict);
                }
            }
        }
    }
}
