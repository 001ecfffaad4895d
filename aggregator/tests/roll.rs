//! The roll: who is admitted, who is refused, and what stays known when a probe fails.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::{Conflict, Roll};
use rollcall_report::{Gpus, NodeReport, Reading, Subject};

fn report(name: &str, id: &str, machine: Option<u8>) -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let mut report = parse(&fs::read(path).expect("the sample")).expect("a report");
    report.node.name = name.parse().expect("a name");
    report.node.proposed_id = id.parse().expect("an id");
    report.node.machine_hash = machine.map(|byte| format!("{byte:032x}").parse().expect("a hash"));
    report
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn digest(of: u8) -> Digest {
    Digest::of(&[&[of]])
}

#[test]
fn one_name_one_id_one_machine() {
    for (what, second, expected) in [
        ("another node", report("b", "b", Some(2)), Ok(())),
        ("the same node again", report("a", "a", Some(1)), Ok(())),
        ("a node that takes another id", report("a", "a2", Some(1)), Ok(())),
        ("two machines without an id", report("b", "b", None), Ok(())),
        (
            "another machine under the name",
            report("a", "a", Some(2)),
            Err("bound to another machine"),
        ),
        ("no machine id under the name", report("a", "a", None), Err("bound to another machine")),
        ("another node of that id", report("b", "a", Some(2)), Err("node id a belongs to node a")),
        ("the machine under another name", report("b", "b", Some(1)), Err("counted twice")),
    ] {
        let mut roll = Roll::default();
        roll.admit(report("a", "a", Some(1)), digest(1), at(0)).expect("the first");
        let before = format!("{roll:?}");
        let got =
            roll.admit(second, digest(2), at(1)).map(|_| ()).map_err(|error| error.to_string());
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(message), Err(words)) => {
                assert!(message.contains(words), "{what}: {message}");
                assert_eq!(format!("{roll:?}"), before, "{what}: a refusal changes nothing");
            }
            (got, expected) => panic!("{what}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn an_id_is_free_again_when_its_node_changes_or_leaves() {
    let mut roll = Roll::default();
    roll.admit(report("a", "one", Some(1)), digest(1), at(0)).expect("new");
    roll.admit(report("a", "two", Some(1)), digest(2), at(1)).expect("renamed");
    roll.admit(report("b", "one", Some(2)), digest(3), at(2)).expect("the id is free");
    assert!(roll.forget(&"a".parse().expect("a name")));
    roll.admit(report("c", "two", Some(1)), digest(4), at(3)).expect("id and machine are free");
    let names: Vec<&str> = roll.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["b", "c"], "in the order in which they came");
}

#[test]
fn a_replaced_machine_reports_after_rebind() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    let mut old = report("a", "a", Some(1));
    old.inventory.swap = Reading::failed("EIO");
    roll.admit(old, digest(1), at(0)).expect("new");
    assert!(roll.rebind(&name).is_some());
    let mut new = report("a", "a", Some(2));
    new.inventory.memory = Reading::failed("EIO");
    let entry = roll.admit(new, digest(2), at(9)).expect("rebound");
    assert!(!entry.rebinding, "once");
    assert!(
        entry.inventory.memory.failure().is_some(),
        "the old machine's memory is not the new one's"
    );
    assert_eq!(entry.first_seen, at(0));
    let refused = roll.admit(report("a", "a", Some(1)), digest(3), at(10));
    assert!(matches!(refused, Err(Conflict::MachineDiffers { .. })));
}

#[test]
fn unchanged_means_stored_and_equal() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    assert!(!roll.note(&name, digest(1), at(0)), "a node that is not on the roll");
    roll.admit(report("a", "a", Some(1)), digest(1), at(0)).expect("new");
    assert!(!roll.note(&name, digest(1), at(1)), "the store may not hold it yet");
    roll.stored(&name, digest(1));
    assert!(roll.note(&name, digest(1), at(2)));
    assert_eq!(roll.get(&name).map(|entry| entry.last_seen), Some(at(2)));
    assert!(!roll.note(&name, digest(2), at(3)), "another report");
}

#[test]
fn conflicts_are_remembered_once_until_settled() {
    let mut roll = Roll::default();
    roll.admit(report("a", "a", Some(1)), digest(1), at(0)).expect("new");
    let refused = || report("b", "a", Some(2));
    for (nth, is_news) in [(1, true), (2, false)] {
        let conflict = roll.admit(refused(), digest(2), at(1)).expect_err("taken");
        assert_eq!(roll.note_conflict(conflict), is_news, "time {nth}");
    }
    assert_eq!(roll.conflicts().count(), 1);
    roll.admit(report("b", "b", Some(2)), digest(3), at(2)).expect("mended");
    assert_eq!(roll.conflicts().count(), 0);
}

#[test]
fn what_fails_keeps_its_last_known_value_and_is_marked() {
    type Fail = fn(&mut NodeReport);
    fn eio<T>() -> Reading<T> {
        Reading::failed("EIO")
    }
    fn gpus(report: &mut NodeReport) -> &mut Gpus {
        match &mut report.inventory.gpus {
            Reading::Known(gpus) => gpus,
            _ => panic!("the sample has GPUs"),
        }
    }
    let cases: [(Subject, Fail); 11] = [
        (Subject::Machine, |r| r.inventory.machine = eio()),
        (Subject::Cpu, |r| r.inventory.cpu = eio()),
        (Subject::Memory, |r| r.inventory.memory = eio()),
        (Subject::Swap, |r| r.inventory.swap = eio()),
        (Subject::Disks, |r| r.inventory.disks = eio()),
        (Subject::Disks, |r| {
            if let Reading::Known(disks) = &mut r.inventory.disks {
                disks[1].size_bytes = eio();
            }
        }),
        (Subject::Nics, |r| r.inventory.nics = eio()),
        (Subject::Nics, |r| {
            if let Reading::Known(nics) = &mut r.inventory.nics {
                nics[0].speed_mbps = eio();
            }
        }),
        (Subject::Gpus, |r| r.inventory.gpus = eio()),
        (Subject::Gpus, |r| gpus(r).nvidia_driver = eio()),
        (Subject::Gpus, |r| {
            if let Reading::Known(driver) = &mut gpus(r).nvidia_driver {
                driver.gpus[1].memory_bytes = eio();
            }
        }),
    ];
    for (subject, fail) in cases {
        let whole = report("a", "a", Some(1));
        let mut broken = whole.clone();
        fail(&mut broken);

        let mut roll = Roll::default();
        let entry = roll.admit(broken.clone(), digest(1), at(0)).expect("new");
        assert_eq!(entry.inventory, broken.inventory, "{subject}: nothing was known before");

        let mut roll = Roll::default();
        roll.admit(whole.clone(), digest(1), at(0)).expect("new");
        for second in [10, 20] {
            let entry = roll.admit(broken.clone(), digest(2), at(second)).expect("the same node");
            assert_eq!(entry.inventory, whole.inventory, "{subject}: what was known stands");
            let since = entry.failing.get(&subject).map(|failing| failing.since);
            assert_eq!(since, Some(at(10)), "{subject}: since the first failure");
            assert_eq!(entry.failing.len(), 1, "{subject}");
        }
        let entry = roll.admit(whole, digest(3), at(30)).expect("the same node");
        assert!(entry.failing.is_empty(), "{subject}: mended");
    }
}

#[test]
fn what_is_truly_gone_is_gone() {
    let mut roll = Roll::default();
    roll.admit(report("a", "a", Some(1)), digest(1), at(0)).expect("new");
    let mut without = report("a", "a", Some(1));
    without.inventory.disks = Reading::Known(vec![]);
    without.inventory.gpus = Reading::Known(Gpus {
        nvidia_pci_devices: Reading::Known(0),
        passed_through: 0,
        nvidia_driver: Reading::Absent,
        unmeasured: vec![],
    });
    let entry = roll.admit(without.clone(), digest(2), at(1)).expect("the same node");
    assert_eq!(entry.inventory, without.inventory);
}
