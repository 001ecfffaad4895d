//! Several aggregators on one store: each has a roll, and learns what the others write. In whatever
//! order they hear of things, no roll shows two nodes of one id, and in the end all show the same.
#![expect(clippy::expect_used, reason = "a test says what it expected")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::departure::Departure;
use rollcall_aggregator::roll::identity::Voucher;
use rollcall_aggregator::roll::{Change, Conflict, Entry, Roll};
use rollcall_report::{IdSource, NodeName, NodeReport};

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const IDS: [&str; 3] = ["x", "y", "z"];
const REPLICAS: usize = 3;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn report(name: &str, id: &str) -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let mut report = parse(&fs::read(path).expect("the sample")).expect("a report");
    report.node.name = name.parse().expect("a name");
    report.node.proposed_id = id.parse().expect("an id");
    report.node.id_source = IdSource::Label;
    report
}

/// An object: which one of its name, its generation, and what it says.
#[derive(Clone)]
struct Object {
    uid: u64,
    generation: u64,
    entry: Entry,
}

/// What the API server holds, and has told: an object, or the UID of one that was deleted.
#[derive(Default)]
struct Shared {
    objects: BTreeMap<NodeName, Object>,
    told: Vec<(NodeName, Result<Object, u64>)>,
    writes: u64,
}

/// An aggregator: its roll, how far it has heard, and what is on its way to the API server and back.
#[derive(Default)]
struct Replica {
    roll: Roll,
    /// UID, generation and revision of the objects that it knows.
    known: BTreeMap<NodeName, (u64, u64, u64)>,
    /// The UIDs that it heard were deleted.
    deleted: BTreeSet<u64>,
    heard: usize,
    sent: VecDeque<Change>,
    answered: VecDeque<(Change, Option<Object>)>,
}

impl Replica {
    /// Takes a report as intake does.
    fn take(&mut self, report: NodeReport, now: Timestamp) {
        let digest = Digest::of(&[report.node.proposed_id.as_str().as_bytes()]);
        let uid = format!("uid of {}", report.node.name);
        let voucher = Voucher { node_uid: uid, label: None, is_proven: true };
        if self.roll.note(&report.node, digest, Some(&voucher), now).is_some()
            || self.roll.is_pending(&report.node.name)
        {
            return;
        }
        if let Ok(change) = self.roll.admit(report, digest, Some(&voucher), now) {
            self.sent.push_back(change);
        }
    }

    /// What is on its way is written, on the condition that nobody else has written what it was not
    /// made from.
    fn write(&mut self, shared: &mut Shared) {
        let Some(change) = self.sent.pop_front() else { return };
        let name = change.entry.name.clone();
        let stored = shared.objects.get(&name).map(|object| (object.uid, object.generation));
        let known = self.known.get(&name).copied();
        let made_from = known.map_or(0, |(_, _, revision)| revision);
        let fits = stored == known.map(|(uid, generation, _)| (uid, generation))
            && change.entry.revision == made_from + 1;
        let written = fits.then(|| {
            shared.writes += 1;
            let (uid, generation) = stored.map_or((shared.writes, 1), |(uid, it)| (uid, it + 1));
            let object = Object { uid, generation, entry: change.entry.clone().into_inner() };
            shared.objects.insert(name.clone(), object.clone());
            shared.told.push((name, Ok(object.clone())));
            object
        });
        self.answered.push_back((change, written));
    }

    /// The answer arrives.
    fn answer(&mut self, now: Timestamp) {
        let Some((change, written)) = self.answered.pop_front() else { return };
        if let Some(object) = written {
            self.apply(&change.entry.name, &object, now);
        }
        self.roll.acknowledge(&change);
    }

    /// Hears the next thing that the API server tells.
    fn hear(&mut self, shared: &Shared, now: Timestamp) {
        let Some((name, told)) = shared.told.get(self.heard) else { return };
        self.heard += 1;
        match told {
            Ok(object) => self.apply(name, object, now),
            Err(uid) => {
                self.deleted.insert(*uid);
                if self.known.get(name).is_some_and(|(known, ..)| known == uid) {
                    self.known.remove(name);
                    self.roll.gone(name, now);
                }
            }
        }
    }

    fn apply(&mut self, name: &NodeName, object: &Object, now: Timestamp) {
        let is_news = self.known.get(name).is_none_or(|(uid, generation, _)| {
            *uid != object.uid || *generation < object.generation
        });
        if is_news && !self.deleted.contains(&object.uid) {
            self.roll.learn(object.entry.clone(), now);
            let known = (object.uid, object.generation, object.entry.revision);
            self.known.insert(name.clone(), known);
        }
    }

    fn ids(&self) -> Vec<(String, String)> {
        let entries = self.roll.entries().into_iter();
        entries.map(|entry| (entry.name.to_string(), entry.node_id.to_string())).collect()
    }
}

#[derive(Debug, Clone)]
enum Turn {
    Report { replica: usize, node: usize, id: usize },
    Write { replica: usize },
    Answer { replica: usize },
    Hear { replica: usize },
    Delete { node: usize },
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (0..REPLICAS, 0..NODES.len(), 0..IDS.len())
            .prop_map(|(replica, node, id)| Turn::Report { replica, node, id }),
        4 => (0..REPLICAS).prop_map(|replica| Turn::Write { replica }),
        4 => (0..REPLICAS).prop_map(|replica| Turn::Answer { replica }),
        6 => (0..REPLICAS).prop_map(|replica| Turn::Hear { replica }),
        1 => (0..NODES.len()).prop_map(|node| Turn::Delete { node }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_roll_shows_two_nodes_of_one_id_and_all_come_to_the_same(turns in vec(turn(), 1..120)) {
        let mut shared = Shared::default();
        let mut replicas: Vec<Replica> = (0..REPLICAS).map(|_| Replica::default()).collect();
        let mut ids = ["x"; NODES.len()];
        let mut now = 0;
        for turn in turns {
            now += 1;
            match turn {
                Turn::Report { replica, node, id } => {
                    ids[node] = IDS[id];
                    replicas[replica].take(report(NODES[node], IDS[id]), at(now));
                }
                Turn::Write { replica } => replicas[replica].write(&mut shared),
                Turn::Answer { replica } => replicas[replica].answer(at(now)),
                Turn::Hear { replica } => replicas[replica].hear(&shared, at(now)),
                Turn::Delete { node } => {
                    let name: NodeName = NODES[node].parse().expect("a name");
                    if let Some(object) = shared.objects.remove(&name) {
 shared.told.push((name, Err(object.uid)));
                    }
                }
            }
            for replica in &replicas {
                let shown = replica.ids();
                let distinct: BTreeSet<_> = shown.iter().map(|(_, id)| id).collect();
                prop_assert_eq!(distinct.len(), shown.len(), "{:?}", shown);
            }
        }
        // Things come to rest: every node goes on reporting, and everybody hears of everything.
        for _ in 0..8 {
            for (index, node) in NODES.iter().enumerate() {
                now += 1;
                replicas[index % REPLICAS].take(report(node, ids[index]), at(now));
                for replica in &mut replicas {
                    while !replica.sent.is_empty() {
                        replica.write(&mut shared);
                    }
                    while !replica.answered.is_empty() {
                        replica.answer(at(now));
                    }
                }
                for replica in &mut replicas {
                    while replica.heard < shared.told.len() {
                        replica.hear(&shared, at(now));
                    }
                }
            }
        }
        let expected: BTreeSet<&str> = ids.into_iter().collect();
        for replica in &replicas {
            prop_assert_eq!(replica.ids(), replicas[0].ids());
            // One whose new id is refused keeps the one that it had.
            prop_assert!(replica.ids().len() >= expected.len(), "{:?} of {:?}", replica.ids(), ids);
        }
    }
}

#[test]
fn of_two_nodes_with_one_id_the_first_has_it() {
    let entry = |name: &str, id: &str, position: u64| {
        let mut roll = Roll::default();
        let digest = Digest::of(&[name.as_bytes()]);
        let voucher = Voucher { node_uid: name.to_owned(), label: None, is_proven: true };
        let change = roll.admit(report(name, id), digest, Some(&voucher), at(0));
        Entry { position, ..change.expect("no conflict").entry.into_inner() }
    };
    for (what, first, second) in [
        ("the later one comes later", entry("a", "x", 0), entry("b", "x", 1)),
        ("the earlier one comes later", entry("b", "x", 1), entry("a", "x", 0)),
        ("one place for both", entry("b", "x", 0), entry("a", "x", 0)),
    ] {
        let mut roll = Roll::default();
        roll.learn(first, at(1));
        roll.learn(second, at(2));
        let shown: Vec<&str> = roll.entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(shown, ["a"], "{what}");
        let conflicts = roll.conflicts_since(at(0));
        let [Conflict::IdTaken { name, owner, .. }] = conflicts.as_slice() else {
            panic!("{what}: {conflicts:?}");
        };
        assert_eq!((name.as_str(), owner.as_str()), ("b", "a"), "{what}");
    }
}

/// What is on its way to the store is overtaken by what another aggregator has stored.
#[test]
fn of_two_nodes_that_are_stored_at_once_the_first_has_the_id() {
    let admit = |roll: &mut Roll, name: &str| {
        let digest = Digest::of(&[name.as_bytes()]);
        let voucher = Voucher { node_uid: name.to_owned(), label: None, is_proven: true };
        roll.admit(report(name, "x"), digest, Some(&voucher), at(0)).expect("no conflict")
    };
    // Any order of the names in any table.
    let names: Vec<String> = (0..16).map(|number| format!("n{number:02}")).collect();
    for ours in &names {
        for theirs in names.iter().filter(|theirs| *theirs != ours) {
            let what = format!("{ours} here, {theirs} there");
            let mut roll = Roll::default();
            let change = admit(&mut roll, ours);
            roll.learn(admit(&mut Roll::default(), theirs).entry.into_inner(), at(1));
            let shown = |roll: &Roll| -> Vec<String> {
                roll.entries().iter().map(|entry| entry.name.to_string()).collect()
            };
            assert_eq!(shown(&roll), std::slice::from_ref(theirs), "{what}");
            roll.confirm(change);
            assert_eq!(shown(&roll), [ours.min(theirs).clone()], "{what}");
            let gone: NodeName = ours.min(theirs).parse().expect("a name");
            roll.gone(&gone, at(2));
            assert_eq!(shown(&roll), [ours.max(theirs).clone()], "{what}, the first is gone");
        }
    }
}

#[test]
fn what_others_hear_counts_as_heard() {
    let mut one = Replica::default();
    let mut shared = Shared::default();
    one.take(report("a", "x"), at(10));
    one.write(&mut shared);
    one.answer(at(11));
    let mut other = Replica::default();
    other.hear(&shared, at(11));
    let name: NodeName = "a".parse().expect("a name");
    let last_seen = |roll: &Roll| roll.get(&name).map(|entry| entry.last_seen);
    assert_eq!(last_seen(&other.roll), Some(at(10)));
    other.roll.seen(&name, at(300));
    assert_eq!(last_seen(&other.roll), Some(at(300)));
    other.roll.seen(&name, at(200));
    assert_eq!(last_seen(&other.roll), Some(at(300)), "an older word");
    let mut entry = shared.objects.get(&name).cloned().expect("stored").entry;
    entry.agent_version = "newer".into();
    other.roll.learn(entry, at(301));
    assert_eq!(
        last_seen(&other.roll),
        Some(at(300)),
        "what is learned is not newer than what was heard"
    );
    assert_eq!(other.roll.gone(&name, at(302)).map(|id| id.to_string()).as_deref(), Some("x"));
    assert!(other.roll.get(&name).is_none());
    assert!(
        !other.roll.departures().contains(&"x".parse().expect("an id")),
        "gone is not departed"
    );
}

#[test]
fn what_another_forgot_has_departed_when_the_store_holds_it_no_more() {
    let departure = |at| Departure { node_id: "x".parse().expect("an id"), at, renamed: false };
    for (what, told, then_gone, departed) in [
        ("told before it is gone", Some(20), true, true),
        ("told, and still there", Some(20), false, false),
        ("gone, and nobody told", None, true, false),
        ("told of one that has come back since", Some(5), true, false),
    ] {
        let mut one = Replica::default();
        let mut shared = Shared::default();
        one.take(report("a", "x"), at(10));
        one.write(&mut shared);
        one.answer(at(11));
        if let Some(told) = told {
            one.roll.told_departed(departure(at(told)));
        }
        if then_gone {
            one.roll.gone(&"a".parse().expect("a name"), at(21));
        }
        let has = one.roll.departures().contains(&"x".parse().expect("an id"));
        assert_eq!(has, departed, "{what}");
    }
}
