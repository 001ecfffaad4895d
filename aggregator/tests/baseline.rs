//! What is said to have changed in a machine since its previous boot ended.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::baseline::{Counts, Shape, changes};
use rollcall_aggregator::roll::{Entry, Roll};
use rollcall_report::{Attachment, Inventory, Link, Nic, NicKind, NodeReport, Reading};

type Edit = fn(&mut Inventory);

fn report(boot: Option<&str>, edits: &[Edit]) -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let mut report = parse(&fs::read(path).expect("the sample")).expect("a report");
    known(&mut report.inventory.machine).boot_id = boot.map(Into::into);
    for edit in edits {
        edit(&mut report.inventory);
    }
    report
}

fn known<T>(reading: &mut Reading<T>) -> &mut T {
    match reading {
        Reading::Known(value) => value,
        Reading::Absent | Reading::Failed { .. } => panic!("the sample knows it"),
    }
}

fn inventory(edit: Edit) -> Inventory {
    report(None, &[edit]).inventory
}

fn one_gpu_less(inventory: &mut Inventory) {
    let gpus = known(&mut inventory.gpus);
    gpus.nvidia_pci_devices = Reading::Known(1);
    known(&mut gpus.nvidia_driver).gpus.truncate(1);
}

fn one_disk_less(inventory: &mut Inventory) {
    known(&mut inventory.disks).truncate(1);
}

fn nothing(_: &mut Inventory) {}

fn disks_fail(inventory: &mut Inventory) {
    inventory.disks = Reading::failed("EIO").into();
}

/// What has changed after reports, one a second.
fn after(reports: Vec<NodeReport>) -> Option<Vec<String>> {
    let mut roll = Roll::default();
    for (second, report) in (0_u8..).zip(reports) {
        let now = Timestamp::from_second(second.into()).expect("in range");
        let change = roll.admit(report, Digest::of(&[&[second]]), None, now).expect("one node");
        let text = serde_json::to_string(&change.entry).expect("JSON");
        let again: Entry = serde_json::from_str(&text).expect("readable");
        assert_eq!(again, *change.entry, "a restart changes nothing");
        roll.confirm(change);
    }
    let changes = roll.entries()[0].hardware_changes()?;
    Some(changes.iter().map(ToString::to_string).collect())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_counts_as_a_change() {
    let cases: Vec<(&str, Edit, Edit, &[&str])> = vec![
        ("nothing", nothing, nothing, &[]),
        (
            "fewer CPUs",
            nothing,
            |i| known(&mut i.cpu).online = 16,
            &["cpu: 32 CPUs online, now 16"],
        ),
        (
            "a memory module",
            |i| known(&mut i.memory).installed_bytes = Reading::Known(128 << 30),
            |i| known(&mut i.memory).installed_bytes = Reading::Known(112 << 30),
            &["memory: 131072 MiB installed, now 114688 MiB"],
        ),
        (
            "MemTotal alone, by a little",
            nothing,
            |i| known(&mut i.memory).total_bytes -= 1 << 30,
            &[],
        ),
        (
            "MemTotal alone, by more",
            nothing,
            |i| known(&mut i.memory).total_bytes -= 2 << 30,
            &["memory: 131072 MiB in all, now 129024 MiB"],
        ),
        (
            "MemTotal, where the installed memory is the same",
            |i| known(&mut i.memory).installed_bytes = Reading::Known(128 << 30),
            |i| {
                known(&mut i.memory).installed_bytes = Reading::Known(128 << 30);
                known(&mut i.memory).total_bytes -= 8 << 30;
            },
            &[],
        ),
        ("a disk", nothing, one_disk_less, &["disks: 2 of 549755813888 bytes, now 1"]),
        (
            "a larger disk",
            nothing,
            |i| known(&mut i.disks)[0].size_bytes = Reading::Known(1 << 40),
            &["disks: 2 of 549755813888 bytes, now 1", "disks: 0 of 1099511627776 bytes, now 1"],
        ),
        ("disks by other names", nothing, |i| known(&mut i.disks)[0].name = "sda".into(), &[]),
        (
            "a disk in the network",
            nothing,
            |i| {
                let disk = known(&mut i.disks)[0].clone();
                let (name, attachment) = ("rbd0".into(), Attachment::Network);
                known(&mut i.disks).push(rollcall_report::Disk { name, attachment, ..disk });
            },
            &[],
        ),
        (
            "a disk that cannot be read",
            nothing,
            |i| known(&mut i.disks)[0].size_bytes = Reading::failed("EIO"),
            &[],
        ),
        ("disks that cannot be read", nothing, disks_fail, &[]),
        ("swap is no hardware", nothing, |i| i.swap = Reading::Absent, &[]),
        (
            "an interface and another",
            |i| known(&mut i.nics)[1].name = "ens1".into(),
            |i| known(&mut i.nics)[1].name = "ens2".into(),
            &["nics: ens1, now gone", "nics: none, now ens2"],
        ),
        (
            "a link that went down",
            nothing,
            |i| {
                known(&mut i.nics)[1].link = Link::Down;
                known(&mut i.nics)[1].speed_mbps = Reading::Absent;
            },
            &[],
        ),
        (
            "an interface that may be none",
            nothing,
            |i| {
                let (name, kind) = ("odd0".into(), NicKind::Other);
                let speed_mbps = Reading::failed("EIO");
                let nic = Nic { name, kind, link: Link::Unknown, speed_mbps, driver: None };
                known(&mut i.nics).push(nic);
            },
            &[],
        ),
        ("a GPU", nothing, one_gpu_less, &["gpus: 2 NVIDIA A100, now 1"]),
        (
            "a GPU that is on the bus, and nobody knows which",
            nothing,
            |i| known(&mut known(&mut i.gpus).nvidia_driver).gpus.truncate(1),
            &[],
        ),
        (
            "a driver that does not answer",
            nothing,
            |i| known(&mut i.gpus).nvidia_driver = Reading::failed("not loaded"),
            &[],
        ),
    ];
    for (what, before, now, expected) in cases {
        let changes =
            changes(&Shape::of(&inventory(before), &[]), &Counts::of(&inventory(now), &[]));
        let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(said, expected, "{what}");
    }
}

#[test]
fn since_which_boot() {
    let said = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    let gpu = "gpus: 2 NVIDIA A100, now 1";
    let disk = "disks: 2 of 549755813888 bytes, now 1";
    let first = || report(Some("one"), &[]);
    for (what, reports, expected) in [
        ("boots have no names", vec![report(None, &[]), report(None, &[one_gpu_less])], None),
        ("the first report", vec![first()], said(&[])),
        (
            "within the first boot",
            vec![first(), report(Some("one"), &[one_gpu_less])],
            said(&[gpu]),
        ),
        ("over a boot", vec![first(), report(Some("two"), &[one_gpu_less])], said(&[gpu])),
        (
            "over a boot, and put back",
            vec![first(), report(Some("two"), &[one_gpu_less]), report(Some("two"), &[])],
            said(&[]),
        ),
        (
            "over two boots: only the last counts",
            vec![
                first(),
                report(Some("two"), &[one_gpu_less]),
                report(Some("three"), &[one_gpu_less, one_disk_less]),
            ],
            said(&[disk]),
        ),
        (
            "what changed while it ran is before the next boot",
            vec![
                first(),
                report(Some("one"), &[one_gpu_less]),
                report(Some("two"), &[one_gpu_less]),
            ],
            said(&[]),
        ),
        (
            "a report without the boot's name says nothing of it",
            vec![first(), report(None, &[]), report(Some("two"), &[one_gpu_less])],
            said(&[gpu]),
        ),
        (
            "a probe that fails after the boot",
            vec![first(), report(Some("two"), &[disks_fail])],
            said(&[]),
        ),
        (
            "a probe that failed before the boot: what was known before that",
            vec![
                first(),
                report(Some("one"), &[disks_fail]),
                report(Some("two"), &[one_disk_less]),
            ],
            said(&[disk]),
        ),
        (
            "a probe that failed in the first report: the first that knew",
            vec![
                report(Some("one"), &[disks_fail]),
                first(),
                report(Some("one"), &[one_disk_less]),
            ],
            said(&[disk]),
        ),
        (
            "a GPU that is lost is not gone",
            vec![
                first(),
                report(
                    Some("two"),
                    &[|i| {
                        known(&mut known(&mut i.gpus).nvidia_driver).gpus.truncate(1);
                    }],
                ),
            ],
            said(&[]),
        ),
    ] {
        assert_eq!(after(reports), expected, "{what}");
    }
}
