//! GPUs that are lost: for how long they count, what is said of them, and what ends it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_aggregator::cluster_file::Overrides;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::{GpuStates, NodeData, Source};
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::{Entry, Roll};
use rollcall_report::{
    ComputeCapability, Gpu, GpuFailure, Gpus, NodeReport, NvidiaDriver, Reading,
};

const HOLD_DOWN: Duration = Duration::from_mins(10);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn gpu(number: u32, index: u32) -> Gpu {
    let (model, minor) = if number == 2 { ("NVIDIA L40S", 9) } else { ("NVIDIA A10", 6) };
    Gpu {
        index,
        model: model.into(),
        memory_bytes: Reading::Known((24 + u64::from(number)) << 30),
        compute_capability: Some(ComputeCapability { major: 8, minor }),
        uuid: Some(format!("GPU-{number}").into()),
        pci_address: Some(format!("0000:{:02x}:00.0", 0x10 + number).into()),
        active_nvlinks: None,
        mig: None,
    }
}

/// GPUs that answer, and how many are on the bus.
fn answering(numbers: &[u32], on_bus: u32) -> Gpus {
    let gpus = (0..).zip(numbers).map(|(index, &number)| gpu(number, index)).collect();
    Gpus {
        nvidia_pci_devices: Reading::Known(on_bus),
        lost: Vec::new(),
        passed_through: 0,
        nvidia_unasked: Vec::new(),
        nvidia_driver: Reading::Known(NvidiaDriver {
            version: None,
            cuda_version: None,
            gpus,
            failures: Vec::new(),
        }),
        amd: Reading::Absent,
        unmeasured: Vec::new(),
    }
}

fn silent() -> Gpus {
    let nvidia_driver = Reading::failed("the driver does not answer");
    Gpus { nvidia_driver, ..answering(&[], 4) }
}

fn report(gpus: Reading<Gpus>) -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    let mut report = parse(&fs::read(path).expect("the sample")).expect("a report");
    report.inventory.gpus = gpus;
    report
}

/// What a node says of its GPUs, each at its second.
type Reports = Vec<(i64, Gpus)>;

/// How many GPUs count, at which second.
type Counts = Vec<(i64, u64)>;

/// Takes reports.
fn followed(reports: Reports) -> Entry {
    let mut roll = Roll::default();
    for (second, gpus) in reports {
        let report = report(Reading::Known(gpus));
        let change = roll.admit(report, Digest::of(&[&second.to_le_bytes()]), None, at(second));
        roll.confirm(change.expect("one node"));
    }
    roll.entries()[0].clone()
}

fn judged(entry: &Entry, second: i64) -> (NodeData, Vec<String>, GpuStates) {
    let source = Source::of(entry, at(second), HOLD_DOWN);
    let mut warnings = Vec::new();
    let node = NodeData::build(&source, &Overrides::default(), &mut warnings);
    let node = node.unwrap_or_else(|incomplete| panic!("{incomplete}"));
    let states = GpuStates::of(&source, Some(&node));
    (node, warnings.iter().map(ToString::to_string).collect(), states)
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn how_long_lost_gpus_count() {
    let all = [0, 1, 2, 3];
    let named = |lost: &str| {
        let lost = vec![lost.to_owned()];
        Gpus { lost, ..answering(&[0, 2, 3], 4) }
    };
    let listed = || {
        let mut gpus = answering(&[0, 2, 3], 4);
        if let Reading::Known(driver) = &mut gpus.nvidia_driver {
            driver.failures = vec![GpuFailure { index: 1, reason: "GPU is lost".into() }];
        }
        gpus
    };
    let passed_through = || Gpus { passed_through: 1, ..answering(&[0, 2, 3], 3) };
    let one_lost = |at| vec![(0, answering(&all, 4)), (at, answering(&[0, 2, 3], 4))];
    let then = |mut reports: Reports, more: Reports| {
        reports.extend(more);
        reports
    };
    // A driver that tells no addresses.
    let unplaced = |numbers: &[u32], on_bus| {
        let mut gpus = answering(numbers, on_bus);
        if let Reading::Known(driver) = &mut gpus.nvidia_driver {
            driver.gpus.iter_mut().for_each(|gpu| gpu.pci_address = None);
        }
        gpus
    };
    let cases: Vec<(&str, Reports, Counts)> = vec![
        ("one lost", one_lost(100), vec![(100, 4), (699, 4), (700, 3), (9999, 3)]),
        (
            "one that the agent names by its address",
            vec![(0, answering(&all, 4)), (100, named("0000:11:00.0"))],
            vec![(699, 4), (700, 3)],
        ),
        (
            "another one is named: this one is gone, and another came",
            vec![(0, answering(&all, 4)), (100, named("0000:99:00.0"))],
            vec![(100, 3)],
        ),
        (
            "one that the driver lists and that does not answer",
            vec![(0, answering(&all, 4)), (100, listed())],
            vec![(699, 4), (700, 3)],
        ),
        (
            "gone from the bus as well",
            vec![(0, answering(&all, 4)), (100, answering(&[0, 2, 3], 3))],
            vec![(100, 3)],
        ),
        (
            "handed to a virtual machine",
            vec![(0, answering(&all, 4)), (100, passed_through())],
            vec![(100, 3)],
        ),
        (
            "lost, then gone from the bus",
            then(one_lost(100), vec![(200, answering(&[0, 2, 3], 3))]),
            vec![(200, 3)],
        ),
        (
            "lost again after it came back: the clock starts anew",
            then(one_lost(100), vec![(600, answering(&all, 4)), (650, answering(&[0, 2, 3], 4))]),
            vec![(650, 4), (1249, 4), (1250, 3)],
        ),
        (
            "back after it was given up",
            then(one_lost(100), vec![(900, answering(&all, 4))]),
            vec![(900, 4), (9999, 4)],
        ),
        (
            "two, one after the other: each has its clock",
            then(one_lost(100), vec![(400, answering(&[0, 3], 4))]),
            vec![(699, 4), (700, 3), (999, 3), (1000, 2)],
        ),
        (
            "the driver as a whole is silent for a while: that confirms nothing",
            then(one_lost(100), vec![(300, silent()), (1300, answering(&[0, 2, 3], 4))]),
            vec![(1300, 4), (1699, 4), (1700, 3)],
        ),
        (
            "the driver as a whole is silent since",
            then(one_lost(100), vec![(300, silent())]),
            vec![(99_999, 4)],
        ),
        (
            "given up, and then the driver is silent",
            then(one_lost(100), vec![(700, silent())]),
            vec![(700, 3), (99_999, 3)],
        ),
        (
            "all of them",
            vec![(0, answering(&all, 4)), (100, answering(&[], 4))],
            vec![(699, 4), (700, 0)],
        ),
        (
            "gone from the bus, and nobody tells from where",
            vec![(0, unplaced(&all, 4)), (100, unplaced(&[0, 2], 3))],
            vec![(100, 3), (699, 3), (700, 2)],
        ),
        (
            "one is lost, then another is gone: the one that is lost already is the one still there",
            vec![
                (0, unplaced(&all, 4)),
                (100, unplaced(&[0, 1, 2], 4)),
                (200, unplaced(&[0, 2], 3)),
            ],
            vec![(200, 3), (699, 3), (700, 2)],
        ),
        ("lost from the first report on", vec![(0, answering(&[0, 2, 3], 4))], vec![(0, 3)]),
    ];
    for (what, reports, expected) in cases {
        let entry = followed(reports);
        // What a restart reads again is the same.
        let text = serde_json::to_string(&entry).expect("JSON");
        let again: Entry = serde_json::from_str(&text).expect("readable");
        assert_eq!(again, entry, "{what}");
        for (second, count) in expected {
            assert_eq!(judged(&again, second).0.gpus.count, count, "{what}, second {second}");
        }
    }
}

#[test]
fn while_lost_gpus_count_the_entry_stays_as_it_was() {
    let whole = judged(&followed(vec![(0, answering(&[0, 1, 2, 3], 4))]), 0).0;
    for (what, reports) in [
        ("the first", vec![(10, vec![1, 2, 3])]),
        ("the last", vec![(10, vec![0, 1, 2])]),
        ("two of the middle at once", vec![(10, vec![0, 3])]),
        ("the later one first", vec![(10, vec![0, 1, 3]), (20, vec![0, 3])]),
        ("one comes back, others go", vec![(10, vec![2, 3]), (20, vec![0, 3]), (30, vec![0])]),
        ("all", vec![(10, vec![0]), (20, vec![])]),
    ] {
        let mut all = vec![(0, answering(&[0, 1, 2, 3], 4))];
        all.extend(reports.into_iter().map(|(second, left)| (second, answering(&left, 4))));
        let (node, warnings, _) = judged(&followed(all), 30);
        assert_eq!(node, whole, "{what}");
        assert!(!warnings.is_empty(), "{what}");
    }
}

#[test]
fn what_is_said_of_lost_gpus() {
    let entry = followed(vec![(0, answering(&[0, 1, 2, 3], 4)), (100, answering(&[0, 2], 4))]);
    let (_, warnings, states) = judged(&entry, 100);
    assert_eq!(
        warnings,
        [
            "node node-1: 2 of 4 NVIDIA GPUs do not answer since 1970-01-01T00:01:40Z; they are still counted until 1970-01-01T00:11:40Z"
        ]
    );
    let expected = GpuStates {
        expected: Some(4),
        usable: Some(2),
        lost: Some(2),
        passed_through: Some(0),
        counted: Some(4),
        allocatable: None,
    };
    assert_eq!(states, expected);
    let (_, warnings, states) = judged(&entry, 700);
    assert_eq!(
        warnings,
        [
            "node node-1: 2 of 4 NVIDIA GPUs do not answer since 1970-01-01T00:01:40Z and are not counted any more"
        ]
    );
    assert_eq!(states, GpuStates { counted: Some(2), ..expected });

    let entry = followed(vec![(0, answering(&[0, 1, 2, 3], 4)), (100, silent())]);
    let states = judged(&entry, 100).2;
    let unknown = GpuStates { usable: None, lost: None, ..expected };
    assert_eq!(states, unknown, "nothing is known of them while their driver is silent");

    let entry = followed(vec![(0, answering(&[0], 2))]);
    let warnings = judged(&entry, 0).1;
    assert_eq!(warnings, ["node node-1: 1 of 2 NVIDIA GPUs do not answer and are not counted"]);
}

#[test]
fn what_an_incomplete_node_is_not_known_to_have_is_no_zero() {
    let entry = followed(vec![(0, silent())]);
    let states = GpuStates::of(&Source::of(&entry, at(0), HOLD_DOWN), None);
    let expected = GpuStates { expected: Some(4), passed_through: Some(0), ..GpuStates::default() };
    assert_eq!(states, expected);
    let mut roll = Roll::default();
    let change = roll.admit(report(Reading::failed("EIO")), Digest::of(&[b"x"]), None, at(0));
    let entry = change.expect("new").entry.into_inner();
    let states = GpuStates::of(&Source::of(&entry, at(0), HOLD_DOWN), None);
    assert_eq!(states, GpuStates::default());
}

#[test]
fn a_hold_down_beyond_all_time_never_ends() {
    let entry = followed(vec![(0, answering(&[0, 1], 2)), (1, answering(&[0], 2))]);
    for (hold_down, count) in [(Duration::MAX, 2), (Duration::ZERO, 1)] {
        let source = Source::of(&entry, at(1), hold_down);
        let node = NodeData::build(&source, &Overrides::default(), &mut Vec::new());
        assert_eq!(node.expect("complete").gpus.count, count, "{hold_down:?}");
    }
}
