//! The roll: who is admitted, who is refused, and what stays known when a probe fails.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::departure::Departure;
use rollcall_aggregator::roll::identity::Voucher;
use rollcall_aggregator::roll::{Change, Conflict, Entry, Leave, Roll};
use rollcall_report::{
    Accelerator, AmdGpu, Attachment, Disk, Gpu, GpuFailure, Gpus, Inventory, Link, Memory, Nic,
    NicKind, NodeId, NodeReport, NvidiaDriver, Reading, Subject,
};

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

/// Takes a report that the store takes, too.
fn take(roll: &mut Roll, report: NodeReport, of: u8, now: Timestamp) -> Result<Entry, Conflict> {
    let change = roll.admit(report, digest(of), None, now)?;
    let entry = change.entry.clone().into_inner();
    roll.confirm(change);
    Ok(entry)
}

fn admitted(roll: &mut Roll, report: NodeReport, of: u8) -> Change {
    roll.admit(report, digest(of), None, at(i64::from(of))).expect("no conflict")
}

fn ids(roll: &Roll) -> Vec<&str> {
    roll.entries().into_iter().map(|entry| entry.node_id.as_str()).collect()
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
        take(&mut roll, report("a", "a", Some(1)), 1, at(0)).expect("the first");
        let before = format!("{roll:?}");
        let got = take(&mut roll, second, 2, at(1)).map(|_| ()).map_err(|error| error.to_string());
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
    take(&mut roll, report("a", "one", Some(1)), 1, at(0)).expect("new");
    take(&mut roll, report("a", "two", Some(1)), 2, at(1)).expect("renamed");
    take(&mut roll, report("b", "one", Some(2)), 3, at(2)).expect("the id is free");
    let name = "a".parse().expect("a name");
    let leave = roll.leave(&name, at(3)).expect("it is there");
    roll.forget(leave);
    take(&mut roll, report("c", "two", Some(1)), 4, at(3)).expect("id and machine are free");
    let names: Vec<&str> = roll.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["b", "c"], "in the order in which they came");
}

/// What happens to nodes, each by its name.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// It reports with this id.
    Reports(&'static str, &'static str),
    /// It is taken off the roll.
    Forgotten(&'static str),
    /// A node of this id that is not on the roll is said to have left.
    Told(&'static str),
}

/// Each node has a machine of its own.
fn reported(name: &str, id: &str) -> NodeReport {
    report(name, id, name.bytes().next())
}

fn departed(roll: &Roll) -> Vec<String> {
    let ids = roll.departures().confirmed(Duration::ZERO, at(1_000_000));
    ids.iter().map(ToString::to_string).collect()
}

#[test]
fn who_has_left_and_not_come_back() {
    use Happens::{Forgotten, Reports, Told};
    for (what, story, expected) in [
        ("nobody", &[Reports("a", "one")][..], &[][..]),
        ("forgotten", &[Reports("a", "one"), Forgotten("a")], &["one"]),
        ("back", &[Reports("a", "one"), Forgotten("a"), Reports("a", "one")], &[]),
        (
            "back under another id: the old one has left",
            &[Reports("a", "one"), Forgotten("a"), Reports("a", "two")],
            &["one"],
        ),
        ("renamed", &[Reports("a", "one"), Reports("a", "two")], &["one"]),
        (
            "renamed twice",
            &[Reports("a", "one"), Reports("a", "two"), Reports("a", "three")],
            &["one", "two"],
        ),
        (
            "renamed and back",
            &[Reports("a", "one"), Reports("a", "two"), Reports("a", "one")],
            &["two"],
        ),
        (
            "renamed, and another node takes the id",
            &[Reports("a", "one"), Reports("a", "two"), Reports("b", "one")],
            &[],
        ),
        (
            "forgotten, and another node takes the id",
            &[Reports("a", "one"), Forgotten("a"), Reports("b", "one")],
            &[],
        ),
        (
            "renamed, then forgotten",
            &[Reports("a", "one"), Reports("a", "two"), Forgotten("a")],
            &["one", "two"],
        ),
        ("told of one that is not on the roll", &[Reports("a", "one"), Told("two")], &["two"]),
        ("told of one that is", &[Reports("a", "one"), Told("one")], &[]),
        ("told of one that comes later", &[Told("one"), Reports("a", "one")], &[]),
    ] {
        let mut roll = Roll::default();
        for (second, happens) in (1..).zip(story) {
            match happens {
                Reports(name, id) => {
                    take(&mut roll, reported(name, id), second, at(second.into())).expect(what);
                }
                Forgotten(name) => {
                    let name = name.parse().expect("a name");
                    let leave = roll.leave(&name, at(second.into())).expect(what);
                    assert!(!leave.departure.renamed, "{what}");
                    roll.forget(leave);
                }
                Told(id) => roll.departed(Departure {
                    node_id: id.parse().expect("an id"),
                    at: at(second.into()),
                    renamed: false,
                }),
            }
        }
        assert_eq!(departed(&roll), expected, "{what}");
    }
}

#[test]
fn a_rename_holds_at_once_and_a_departure_after_its_hold_down() {
    let mut roll = Roll::default();
    take(&mut roll, reported("a", "one"), 1, at(1)).expect("new");
    let renamed = take(&mut roll, reported("a", "two"), 2, at(10)).expect("the same node");
    assert_eq!(renamed.changed, at(10));
    take(&mut roll, reported("b", "three"), 3, at(11)).expect("new");
    let leave = roll.leave(&"b".parse().expect("a name"), at(20)).expect("it is there");
    roll.forget(leave);
    for (second, expected) in [(9, 0), (10, 1), (79, 1), (80, 2)] {
        let held = roll.departures().confirmed(Duration::from_mins(1), at(second));
        assert_eq!(held.len(), expected, "second {second}: {held:?}");
    }
}

#[test]
fn who_has_left_does_not_hang_on_the_order_of_the_stores_answers() {
    use Happens::{Forgotten, Reports, Told};
    /// What was put into the store's queue.
    #[derive(Clone)]
    enum Queued {
        Change(Box<Change>),
        Leave(Leave),
    }
    const ORDERS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    // All come before the store has answered the first; it takes them in this order.
    for (what, story, expected, left) in [
        (
            "renamed three times",
            [Reports("a", "two"), Reports("a", "three"), Reports("a", "four")],
            &["four"][..],
            &["one", "three", "two"][..],
        ),
        (
            "renamed, back, renamed",
            [Reports("a", "two"), Reports("a", "one"), Reports("a", "two")],
            &["two"],
            &["one"],
        ),
        (
            "renamed, forgotten, back",
            [Reports("a", "two"), Forgotten("a"), Reports("a", "one")],
            &["one"],
            &["two"],
        ),
        (
            "changed, renamed, forgotten",
            [Reports("a", "one"), Reports("a", "two"), Forgotten("a")],
            &[],
            &["one", "two"],
        ),
        (
            "changed, forgotten, forgotten again",
            [Reports("a", "one"), Forgotten("a"), Forgotten("a")],
            &[],
            &["one"],
        ),
    ] {
        for order in ORDERS {
            let mut roll = Roll::default();
            take(&mut roll, reported("a", "one"), 1, at(1)).expect("new");
            let queue: Vec<Queued> = (2..)
                .zip(&story)
                .map(|(second, happens)| match happens {
                    Reports(name, id) => {
                        Queued::Change(Box::new(admitted(&mut roll, reported(name, id), second)))
                    }
                    Forgotten(name) => {
                        let name = name.parse().expect("a name");
                        Queued::Leave(roll.leave(&name, at(second.into())).expect(what))
                    }
                    Told(id) => panic!("{what}: {id}"),
                })
                .collect();
            for answered in order {
                match queue[answered].clone() {
                    Queued::Change(change) => roll.confirm(*change),
                    Queued::Leave(leave) => roll.forget(leave),
                }
            }
            assert_eq!(ids(&roll), expected, "{what}, answered {order:?}");
            assert_eq!(departed(&roll), left, "{what}, answered {order:?}");
        }
    }
}

#[test]
fn departures_outlive_a_restart_unless_the_node_is_there() {
    let mut roll = Roll::default();
    let entry = take(&mut roll, reported("a", "one"), 1, at(1)).expect("new");
    let departures = ["one", "two"].map(|id| Departure {
        node_id: id.parse().expect("an id"),
        at: at(2),
        renamed: false,
    });
    let roll = Roll::restore(vec![entry], departures.into(), at(3));
    assert_eq!(departed(&roll), ["two"]);
}

#[test]
fn a_replaced_machine_reports_after_rebind() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    let mut old = report("a", "a", Some(1));
    old.inventory.swap = Reading::failed("EIO");
    take(&mut roll, old, 1, at(0)).expect("new");
    let change = roll.rebind(&name).expect("it is there");
    roll.confirm(change);
    let mut new = report("a", "a", Some(2));
    new.inventory.memory = Reading::failed("EIO");
    let entry = take(&mut roll, new, 2, at(9)).expect("rebound");
    assert!(!entry.rebinding, "once");
    assert!(
        entry.inventory.memory.failure().is_some(),
        "the old machine's memory is not the new one's"
    );
    assert_eq!(entry.first_seen, at(0));
    let refused = take(&mut roll, report("a", "a", Some(1)), 3, at(10));
    assert!(matches!(refused, Err(Conflict::MachineDiffers { .. })));
}

#[test]
fn unchanged_means_stored_and_equal() {
    let mut roll = Roll::default();
    let node = report("a", "a", Some(1)).node;
    let a: NodeId = "a".parse().expect("an id");
    assert_eq!(roll.note(&node, digest(1), None, at(0)), None, "a node that is not on the roll");
    let change = admitted(&mut roll, report("a", "a", Some(1)), 1);
    assert_eq!(roll.note(&node, digest(1), None, at(1)), None, "the store may not hold it yet");
    roll.confirm(change);
    assert_eq!(roll.note(&node, digest(1), None, at(2)), Some(a));
    assert_eq!(roll.get(&node.name).map(|entry| entry.last_seen), Some(at(2)));
    assert_eq!(roll.note(&node, digest(2), None, at(3)), None, "another report");
}

#[test]
fn what_the_store_did_not_take_never_was() {
    let mut roll = Roll::default();
    let first = admitted(&mut roll, report("a", "a", Some(1)), 1);
    assert_eq!(ids(&roll), Vec::<&str>::new(), "not shown before it is stored");
    roll.withdraw(&first);
    take(&mut roll, report("b", "a", Some(2)), 2, at(2)).expect("name, id and machine are free");

    // A change of a known node that fails leaves it as it was, with its old id.
    let change = admitted(&mut roll, report("b", "b", Some(2)), 3);
    let meanwhile = roll.admit(report("c", "b", Some(3)), digest(4), None, at(4));
    assert!(matches!(meanwhile, Err(Conflict::IdTaken { .. })), "claimed while on its way");
    let meanwhile = roll.admit(report("c", "a", Some(3)), digest(4), None, at(4));
    assert!(matches!(meanwhile, Err(Conflict::IdTaken { .. })), "and so is the old one");
    roll.withdraw(&change);
    assert_eq!(ids(&roll), ["a"]);
    take(&mut roll, report("c", "b", Some(3)), 5, at(5)).expect("the new id is free again");
    assert_eq!(ids(&roll), ["a", "b"]);
}

#[test]
fn answers_of_the_store_may_come_in_any_order() {
    for (what, first_taken, second_taken, expected) in [
        ("both taken", true, true, vec!["two"]),
        ("the first taken", true, false, vec!["one"]),
        ("the second taken", false, true, vec!["two"]),
        ("neither taken", false, false, vec![]),
    ] {
        for second_answers_first in [false, true] {
            let mut roll = Roll::default();
            let first = admitted(&mut roll, report("a", "one", Some(1)), 1);
            let second = admitted(&mut roll, report("a", "two", Some(1)), 2);
            let mut answers = [(first, first_taken), (second, second_taken)];
            if second_answers_first {
                answers.reverse();
            }
            for (change, taken) in answers {
                if taken {
                    roll.confirm(change);
                } else {
                    roll.withdraw(&change);
                }
            }
            assert_eq!(ids(&roll), expected, "{what}, second first: {second_answers_first}");
        }
    }
}

#[test]
fn a_node_that_reports_while_it_is_forgotten_stays() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    take(&mut roll, report("a", "a", Some(1)), 1, at(1)).expect("new");
    let leave = roll.leave(&name, at(2)).expect("it is there");
    // The store takes this after it has forgotten the node.
    let later = admitted(&mut roll, report("a", "a", Some(1)), 2);
    roll.forget(leave);
    assert_eq!(ids(&roll), Vec::<&str>::new());
    roll.confirm(later);
    assert_eq!(ids(&roll), ["a"]);
}

#[test]
fn a_report_that_the_store_took_before_it_forgot_the_node_does_not_bring_it_back() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    take(&mut roll, report("a", "a", Some(1)), 1, at(1)).expect("new");
    // The store takes this, then forgets; the roll hears of it in the other order.
    let earlier = admitted(&mut roll, report("a", "a", Some(1)), 2);
    let leave = roll.leave(&name, at(2)).expect("it is there");
    roll.forget(leave);
    roll.confirm(earlier);
    assert_eq!(ids(&roll), Vec::<&str>::new());
    take(&mut roll, report("b", "a", Some(1)), 3, at(3)).expect("id and machine are free");
}

#[test]
fn each_change_on_its_way_keeps_its_claims() {
    let mut roll = Roll::default();
    let first = admitted(&mut roll, report("a", "y", Some(1)), 1);
    let second = admitted(&mut roll, report("a", "z", Some(1)), 2);
    for id in ["y", "z"] {
        let other = roll.admit(report("b", id, Some(2)), digest(3), None, at(3));
        assert!(matches!(other, Err(Conflict::IdTaken { .. })), "{id}");
    }
    roll.withdraw(&second);
    roll.confirm(first);
    assert_eq!(ids(&roll), ["y"]);
    take(&mut roll, report("b", "z", Some(2)), 4, at(4)).expect("free again");
}

#[test]
fn a_rebind_counts_when_the_store_knows_it_and_once() {
    let mut roll = Roll::default();
    let name = "a".parse().expect("a name");
    take(&mut roll, report("a", "a", Some(1)), 1, at(1)).expect("new");
    let change = roll.rebind(&name).expect("it is there");
    let early = roll.admit(report("a", "a", Some(2)), digest(2), None, at(2));
    assert!(matches!(early, Err(Conflict::MachineDiffers { .. })), "the store may refuse it");
    roll.confirm(change);
    let used = admitted(&mut roll, report("a", "a", Some(2)), 3);
    let third = roll.admit(report("a", "a", Some(3)), digest(4), None, at(4));
    assert!(matches!(third, Err(Conflict::MachineDiffers { .. })), "it is used");
    roll.confirm(used);
}

#[test]
fn a_store_that_contradicts_itself_is_not_believed_twice() {
    let mut roll = Roll::default();
    let first = take(&mut roll, report("a", "x", Some(1)), 1, at(1)).expect("new");
    let mut second = take(&mut roll, report("b", "y", Some(2)), 2, at(2)).expect("new");
    second.node_id = "x".parse().expect("an id");
    let mut restored = Roll::restore(vec![second, first], vec![], at(3));
    assert_eq!(ids(&restored), ["x"]);
    let conflicts = restored.conflicts_since(at(3));
    assert!(matches!(conflicts.as_slice(), [Conflict::IdTaken { .. }]), "{conflicts:?}");
}

#[test]
fn conflicts_are_told_once_and_end() {
    let mut roll = Roll::default();
    take(&mut roll, report("a", "a", Some(1)), 1, at(0)).expect("new");
    let taken = || report("b", "a", Some(2));
    for (nth, is_news) in [(1, true), (2, false)] {
        let conflict = roll.admit(taken(), digest(2), None, at(1)).expect_err("taken");
        assert_eq!(roll.note_conflict(conflict, at(1)), is_news, "time {nth}");
    }
    assert_eq!(roll.conflicts_since(at(0)).len(), 1);
    take(&mut roll, report("b", "b", Some(2)), 3, at(2)).expect("mended");
    assert_eq!(roll.conflicts_since(at(0)).len(), 0, "mended");

    // Another machine under a name that is in use: the rightful one mends nothing.
    let conflict =
        roll.admit(report("a", "a", Some(9)), digest(4), None, at(5)).expect_err("another");
    assert!(roll.note_conflict(conflict, at(5)));
    take(&mut roll, report("a", "a", Some(1)), 6, at(6)).expect("the rightful one");
    assert_eq!(roll.conflicts_since(at(5)).len(), 1);
    assert_eq!(roll.conflicts_since(at(6)).len(), 0, "it has not tried again");
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
        (Subject::Cpu, |r| r.inventory.cpu = eio().into()),
        (Subject::Memory, |r| r.inventory.memory = eio()),
        (Subject::Swap, |r| r.inventory.swap = eio()),
        (Subject::Disks, |r| r.inventory.disks = eio().into()),
        (Subject::Disks, |r| {
            if let Reading::Known(disks) = &mut *r.inventory.disks {
                disks[1].size_bytes = eio();
            }
        }),
        (Subject::Nics, |r| r.inventory.nics = eio().into()),
        (Subject::Nics, |r| {
            if let Reading::Known(nics) = &mut *r.inventory.nics {
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
        let entry = take(&mut roll, broken.clone(), 1, at(0)).expect("new");
        assert_eq!(entry.inventory, broken.inventory, "{subject}: nothing was known before");

        let mut roll = Roll::default();
        take(&mut roll, whole.clone(), 1, at(0)).expect("new");
        for second in [10, 20] {
            let entry = take(&mut roll, broken.clone(), 2, at(second)).expect("the same node");
            assert_eq!(entry.inventory, whole.inventory, "{subject}: what was known stands");
            let since = entry.failing.get(&subject).map(|failing| failing.since);
            assert_eq!(since, Some(at(10)), "{subject}: since the first failure");
            assert_eq!(entry.failing.len(), 1, "{subject}");
        }
        let entry = take(&mut roll, whole, 3, at(30)).expect("the same node");
        assert!(entry.failing.is_empty(), "{subject}: mended");
    }
}

#[test]
fn what_is_truly_gone_is_gone() {
    let mut roll = Roll::default();
    take(&mut roll, report("a", "a", Some(1)), 1, at(0)).expect("new");
    let mut without = report("a", "a", Some(1));
    without.inventory.disks = Reading::Known(vec![]).into();
    without.inventory.gpus = Reading::Known(Gpus {
        nvidia_pci_devices: Reading::Known(0),
        passed_through: 0,
        lost: Vec::new(),
        amd: Reading::Absent,
        nvidia_unasked: Vec::new(),
        nvidia_driver: Reading::Absent,
        unmeasured: vec![],
    });
    let entry = take(&mut roll, without.clone(), 2, at(1)).expect("the same node");
    assert_eq!(entry.inventory, without.inventory);
}

fn known<T>(reading: &mut Reading<T>) -> &mut T {
    match reading {
        Reading::Known(value) => value,
        Reading::Absent | Reading::Failed { .. } => panic!("it is known here"),
    }
}

fn driver(inventory: &mut Inventory) -> &mut NvidiaDriver {
    known(&mut known(&mut inventory.gpus).nvidia_driver)
}

fn amd(number: u8, memory_bytes: Reading<u64>) -> AmdGpu {
    AmdGpu {
        pci_address: format!("0000:{number:02x}:00.0").into(),
        device_id: "0x74a1".into(),
        model: "AMD Instinct MI300X".into(),
        memory_bytes,
    }
}

fn nic(name: &str, kind: NicKind, speed_mbps: Reading<u64>) -> Nic {
    Nic { name: name.into(), kind, link: Link::Up, speed_mbps, driver: None }
}

/// What stands when parts of a report fail beside what was known: what is new and cannot be read is
/// left out, what was known stands.
#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_new_and_cannot_be_read_is_left_out() {
    type Edit = fn(&mut Inventory);
    fn eio<T>() -> Reading<T> {
        Reading::failed("EIO")
    }
    fn without_gpus(inventory: &mut Inventory) {
        inventory.gpus = Reading::Known(Gpus {
            nvidia_pci_devices: Reading::Known(0),
            passed_through: 0,
            lost: Vec::new(),
            amd: Reading::Absent,
            nvidia_unasked: Vec::new(),
            nvidia_driver: Reading::Absent,
            unmeasured: vec![],
        });
    }
    fn with_others(inventory: &mut Inventory) {
        let gpus = known(&mut inventory.gpus);
        gpus.passed_through = 2;
        gpus.amd = Reading::Known(vec![amd(0xc1, Reading::Known(192 << 30))]);
        let (pci_address, vendor_id, device_id) =
            ("0000:17:00.0".into(), "0x1da3".into(), "0x1020".into());
        gpus.unmeasured = vec![Accelerator { pci_address, vendor_id, device_id }];
    }
    fn nothing(_: &mut Inventory) {}
    // (what, what the node has, what fails in the next report, what stands where it differs from
    // what the node has)
    let cases: [(&str, Edit, Edit, Edit); 17] = [
        (
            "a new disk without a size",
            nothing,
            |i| {
                known(&mut i.disks).push(Disk {
                    name: "sdz".into(),
                    size_bytes: eio(),
                    attachment: Attachment::Local,
                    model: None,
                    rotational: None,
                });
            },
            nothing,
        ),
        (
            "a new interface without a speed",
            nothing,
            |i| known(&mut i.nics).push(nic("eth9", NicKind::Ethernet, eio())),
            nothing,
        ),
        (
            "a new interface of which nobody knows what it is",
            nothing,
            |i| known(&mut i.nics).push(nic("eth9", NicKind::Other, eio())),
            nothing,
        ),
        (
            "a known interface of which nobody knows any more what it is",
            nothing,
            |i| known(&mut i.nics)[0] = nic("eth0", NicKind::Other, eio()),
            nothing,
        ),
        (
            "a new interface of another kind, with a speed",
            nothing,
            |i| known(&mut i.nics).push(nic("eth9", NicKind::Other, Reading::Known(7))),
            |i| known(&mut i.nics).push(nic("eth9", NicKind::Other, Reading::Known(7))),
        ),
        (
            "the PCI bus",
            with_others,
            |i| {
                let gpus = known(&mut i.gpus);
                gpus.nvidia_pci_devices = eio();
                gpus.passed_through = 0;
                gpus.amd = Reading::Absent;
                gpus.unmeasured.clear();
            },
            nothing,
        ),
        (
            "the PCI bus, and the driver was not asked",
            with_others,
            |i| {
                let gpus = known(&mut i.gpus);
                gpus.nvidia_pci_devices = eio();
                gpus.nvidia_driver = Reading::Absent;
            },
            nothing,
        ),
        (
            "the PCI bus of a machine without GPUs, where there is no driver either",
            without_gpus,
            |i| {
                let gpus = known(&mut i.gpus);
                gpus.nvidia_pci_devices = eio();
                gpus.nvidia_driver = eio();
            },
            nothing,
        ),
        ("AMD's GPUs", with_others, |i| known(&mut i.gpus).amd = eio(), nothing),
        ("AMD's GPUs where there were none", nothing, |i| known(&mut i.gpus).amd = eio(), nothing),
        (
            "the memory of AMD's GPUs, a known one and a new one",
            with_others,
            |i| known(&mut i.gpus).amd = Reading::Known(vec![amd(0xc1, eio()), amd(0xc2, eio())]),
            nothing,
        ),
        (
            "the first AMD GPU",
            nothing,
            |i| known(&mut i.gpus).amd = Reading::Known(vec![amd(0xc1, eio())]),
            |i| known(&mut i.gpus).amd = Reading::Known(vec![]),
        ),
        (
            "another AMD GPU at a known one's place",
            with_others,
            |i| {
                let other = AmdGpu { device_id: "0x740f".into(), ..amd(0xc1, eio()) };
                known(&mut i.gpus).amd = Reading::Known(vec![other]);
            },
            |i| known(&mut i.gpus).amd = Reading::Known(vec![]),
        ),
        (
            "a GPU's memory, where its uuid is not told: known by its place",
            nothing,
            |i| {
                driver(i).gpus[1].uuid = None;
                driver(i).gpus[1].index = 7;
                driver(i).gpus[1].memory_bytes = eio();
            },
            |i| {
                driver(i).gpus[1].uuid = None;
                driver(i).gpus[1].index = 7;
            },
        ),
        (
            "a GPU's memory, where its place is not told either: known by what it is called",
            nothing,
            |i| {
                driver(i).gpus[1].uuid = None;
                driver(i).gpus[1].pci_address = None;
                driver(i).gpus[1].memory_bytes = eio();
            },
            |i| {
                driver(i).gpus[1].uuid = None;
                driver(i).gpus[1].pci_address = None;
            },
        ),
        (
            "a new GPU's memory",
            nothing,
            |i| {
                known(&mut i.gpus).nvidia_pci_devices = Reading::Known(3);
                let (uuid, pci_address) = (Some("GPU-12".into()), Some("0000:19:00.0".into()));
                let gpu = driver(i).gpus[1].clone();
                driver(i).gpus.push(Gpu {
                    index: 2,
                    uuid,
                    pci_address,
                    memory_bytes: eio(),
                    ..gpu
                });
            },
            |i| {
                known(&mut i.gpus).nvidia_pci_devices = Reading::Known(3);
                driver(i).failures = vec![GpuFailure { index: 2, reason: "EIO".into() }];
            },
        ),
        (
            "the driver of the first GPUs",
            without_gpus,
            |i| {
                known(&mut i.gpus).nvidia_pci_devices = Reading::Known(2);
                known(&mut i.gpus).nvidia_driver = eio();
            },
            |i| {
                known(&mut i.gpus).nvidia_pci_devices = Reading::Known(2);
                known(&mut i.gpus).nvidia_driver = Reading::Known(NvidiaDriver {
                    version: None,
                    cuda_version: None,
                    gpus: vec![],
                    failures: vec![GpuFailure { index: 0, reason: "EIO".into() }],
                });
            },
        ),
    ];
    for (what, has, fails, stands) in cases {
        let mut whole = report("a", "a", Some(1));
        has(&mut whole.inventory);
        let mut broken = whole.clone();
        fails(&mut broken.inventory);
        let mut expected = whole.inventory.clone();
        stands(&mut expected);
        let mut roll = Roll::default();
        take(&mut roll, whole.clone(), 1, at(0)).expect("new");
        // Twice: what was left out once is no more known than before.
        for second in [10, 20] {
            let entry = take(&mut roll, broken.clone(), 2, at(second)).expect("the same node");
            assert_eq!(entry.inventory, expected, "{what}");
            assert_eq!(entry.lost_gpus, [], "{what}");
            assert_eq!(entry.failing.is_empty(), broken.inventory.failures().is_empty(), "{what}");
        }
        let entry = take(&mut roll, whole.clone(), 3, at(30)).expect("the same node");
        assert_eq!(entry.inventory, whole.inventory, "{what}: mended");
    }
}

#[test]
fn a_first_report_stands_as_it_is() {
    let mut broken = report("a", "a", Some(1));
    known(&mut broken.inventory.nics).push(nic("eth9", NicKind::Other, Reading::failed("EIO")));
    driver(&mut broken.inventory).gpus[0].memory_bytes = Reading::failed("EIO");
    let mut roll = Roll::default();
    for second in [0, 1] {
        let entry = take(&mut roll, broken.clone(), 1, at(second)).expect("the same node");
        assert_eq!(entry.inventory, broken.inventory, "what was never known is not left out");
    }
}

#[test]
fn a_node_that_kubernetes_vouches_for_is_bound_to_its_node_object() {
    let voucher =
        |uid: &str, is_proven| Voucher { node_uid: uid.to_owned(), label: None, is_proven };
    let mut roll = Roll::default();
    let mut take = |name: &str, machine, voucher: &Voucher, of, memory: Reading<Memory>| {
        let mut report = report(name, name, Some(machine));
        report.inventory.memory = memory;
        let change = roll.admit(report, digest(of), Some(voucher), at(i64::from(of)))?;
        let entry = change.entry.clone().into_inner();
        roll.confirm(change);
        Ok::<Entry, Conflict>(entry)
    };
    let known = || report("x", "x", None).inventory.memory;
    let failed = || Reading::failed("EIO");
    let is_kept = |entry: &Entry| entry.inventory.memory.known().is_some();
    let first = take("a", 1, &voucher("u1", true), 1, known()).expect("new");
    assert_eq!(first.node_uid.as_deref(), Some("u1"));
    for (what, machine, uid, kept) in [
        ("the same machine", 1, "u1", true),
        ("another machine under the same Node", 2, "u1", false),
        ("a Node made anew", 3, "u2", false),
    ] {
        let of = machine * 10;
        let entry = take("a", machine, &voucher(uid, true), of, failed()).expect(what);
        assert_eq!(is_kept(&entry), kept, "{what}: the last value is of this machine");
        take("a", machine, &voucher(uid, true), of + 1, known()).expect(what);
    }
    // Clones share a machine id; Kubernetes tells them apart.
    take("b", 3, &voucher("u3", true), 50, known()).expect("a clone");
    // A join token proves no node: the machine's id is what binds it.
    take("c", 7, &voucher("u4", false), 60, known()).expect("new");
    let other = take("c", 8, &voucher("u4", false), 61, known()).expect_err("another machine");
    assert!(matches!(other, Conflict::MachineDiffers { .. }), "{other}");
    let twice = take("d", 7, &voucher("u5", false), 62, known()).expect_err("counted twice");
    assert!(matches!(twice, Conflict::MachineTaken { .. }), "{twice}");
    take("c", 8, &voucher("u6", false), 63, known()).expect("a Node made anew");
}
