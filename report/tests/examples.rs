//! Frozen reports of every schema version: whatever becomes of the types, these must parse, and say
//! what they said.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;

use rollcall_report::{NodeReport, Reading, SCHEMA_VERSION, Subject};

fn example(version: u32) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/v{version}.json"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_version_has_an_example_that_parses() {
    for version in 1..=SCHEMA_VERSION {
        let report: NodeReport = serde_json::from_str(&example(version)).expect("parses");
        assert_eq!(report.schema_version, version);
        report.check().expect("plausible");
    }
}

#[test]
fn version_1_says_what_it_said() {
    let report: NodeReport = serde_json::from_str(&example(1)).expect("parses");
    assert_eq!(report.node.name.as_str(), "node-1");
    assert_eq!(report.inventory.cpu.known().map(|cpu| cpu.online), Some(32));
    assert!(matches!(report.inventory.swap, Reading::Failed { .. }));
    let failing: Vec<Subject> =
        report.inventory.failures().into_iter().map(|(subject, _)| subject).collect();
    // One of its GPUs does not answer.
    assert_eq!(failing, [Subject::Swap, Subject::Disks, Subject::Gpus]);
    let written = serde_json::to_value(&report).expect("JSON");
    let read: serde_json::Value = serde_json::from_str(&example(1)).expect("JSON");
    assert_eq!(written, read, "reading and writing loses nothing");
}

/// Fields that came later in version 1: a reader without them takes the report, too.
#[test]
fn what_was_added_to_version_1_says_what_it_said() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/v1-health.json");
    let text = fs::read_to_string(path).expect("the example");
    let report: NodeReport = serde_json::from_str(&text).expect("parses");
    report.check().expect("plausible");
    let written = serde_json::to_value(&report).expect("JSON");
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(written, read, "reading and writing loses nothing");
    let gpus = report.inventory.gpus.known().expect("GPUs");
    assert_eq!(gpus.lost, ["0000:65:00.0"]);
    assert_eq!(gpus.amd.known().map(Vec::len), Some(2));
    let nvidia = &gpus.nvidia_driver.known().expect("a driver").gpus;
    assert_eq!(nvidia[0].mig.as_ref().map(Vec::len), Some(4));
    assert_eq!(nvidia[0].active_nvlinks, None);
    assert_eq!(nvidia[2].active_nvlinks, Some(12));
    let health = report.health.expect("health");
    assert_eq!(health.failing_since.get(&Subject::Gpus), Some(&1_795_252_900));
    assert_eq!(health.unknown_speeds, ["eth0"]);
    assert!(report.passed_over.iter().any(|it| it.rule == "display-adapter" && it.count == 1));
}

#[test]
fn a_newer_agents_fields_are_no_mistake() {
    let newer = example(1).replacen("\"schemaVersion\"", "\"notes\": [1], \"schemaVersion\"", 1);
    let newer = newer.replacen("\"totalBytes\"", "\"speedMts\": 4800, \"totalBytes\"", 1);
    let report: NodeReport = serde_json::from_str(&newer).expect("parses");
    assert_eq!(report, serde_json::from_str(&example(1)).expect("parses"));
    // Nor are values of enumerations that this version does not know.
    for (known, newer) in [
        ("\"nodeName\"", "\"annotation\""),
        ("\"ethernet\"", "\"omniPath\""),
        ("\"local\"", "\"fabric\""),
        ("\"up\"", "\"dormant\""),
    ] {
        let newer = example(1).replace(known, newer);
        let report: NodeReport = serde_json::from_str(&newer).expect(known);
        report.check().expect(known);
    }
}

type Edit = fn(&mut serde_json::Value);

/// What no machine has, and the words by which it is refused.
const ABSURD: [(&str, Edit, &str); 19] = [
    ("a newer schema", |r| r["schemaVersion"] = 99.into(), "schema version 99 is unknown"),
    ("schema version 0", |r| r["schemaVersion"] = 0.into(), "schema version 0 is unknown"),
    ("no CPUs", |r| r["inventory"]["cpu"]["known"]["online"] = 0.into(), "cpu.online is 0"),
    (
        "more memory than there is",
        |r| r["inventory"]["memory"]["known"]["totalBytes"] = u64::MAX.into(),
        "memory.totalBytes is 18446744073709551615",
    ),
    (
        "no memory",
        |r| r["inventory"]["memory"]["known"]["totalBytes"] = 0.into(),
        "memory.totalBytes is 0",
    ),
    (
        "a huge disk",
        |r| r["inventory"]["disks"]["known"][0]["sizeBytes"]["known"] = (1_u64 << 61).into(),
        "disks.nvme0n1.sizeBytes",
    ),
    (
        "disks that are huge together",
        |r| {
            for disk in 0..2 {
                r["inventory"]["disks"]["known"][disk]["sizeBytes"]["known"] =
                    ((1_u64 << 60) - 1).into();
            }
        },
        "the sum of inventory.disks.sizeBytes",
    ),
    (
        "one disk twice",
        |r| r["inventory"]["disks"]["known"][1]["name"] = "nvme0n1".into(),
        "names \"nvme0n1\" twice",
    ),
    (
        "an impossible link",
        |r| r["inventory"]["nics"]["known"][0]["speedMbps"]["known"] = 10_000_001.into(),
        "nics.eth0.speedMbps",
    ),
    (
        "one GPU twice",
        |r| {
            r["inventory"]["gpus"]["known"]["nvidiaDriver"]["known"]["gpus"][1]["uuid"] =
                "GPU-10".into();
        },
        "names \"GPU-10\" twice",
    ),
    (
        "a terminal's escape in a model",
        |r| r["inventory"]["cpu"]["known"]["model"] = "\u{1b}[2J".into(),
        "cpu.model holds control characters",
    ),
    (
        "a text without end",
        |r| r["inventory"]["disks"]["known"][0]["model"] = "x".repeat(513).into(),
        "disks.model is longer than 512 characters",
    ),
    (
        "a terminal's escape in the second reason of a subject",
        |r| {
            let disks = &mut r["inventory"]["disks"]["known"];
            disks[0]["sizeBytes"] = serde_json::json!({"failed": {"reason": "fine"}});
            disks[1]["sizeBytes"] = serde_json::json!({"failed": {"reason": "\u{1b}[2J"}});
        },
        "inventory.disks.sizeBytes.failed.reason holds control characters",
    ),
    (
        "an AMD GPU with the memory of a data centre",
        |r| {
            r["inventory"]["gpus"]["known"]["amd"] = serde_json::json!({"known": [{
                    "pciAddress": "0000:c1:00.0", "deviceId": "0x74a1", "model": "MI300X",
                    "memoryBytes": {"known": 1_u64 << 50}}]});
        },
        "inventory.gpus.amd.0000:c1:00.0.memoryBytes",
    ),
    (
        "a terminal's escape in a lost GPU",
        |r| r["inventory"]["gpus"]["known"]["lost"] = serde_json::json!(["\u{1b}[2J"]),
        "inventory.gpus.lost holds control characters",
    ),
    (
        "a terminal's escape in a part of a GPU that nobody asked",
        |r| {
            r["inventory"]["gpus"]["known"]["nvidiaUnasked"] = serde_json::json!([{
                    "index": 0, "model": "A100", "memoryBytes": "absent", "mig": [{
                        "model": "1g.10gb", "memoryBytes": {"failed": {"reason": "\u{1b}[2J"}}}]}]);
        },
        "inventory.gpus.nvidiaUnasked.mig.memoryBytes.failed.reason holds control characters",
    ),
    (
        "a rule without a name",
        |r| {
            r["passedOver"] = serde_json::json!([
                    {"subject": "disks", "rule": "", "count": 1, "examples": []}]);
        },
        "passedOver.rule is empty",
    ),
    (
        "a boot without a name",
        |r| r["inventory"]["machine"]["known"]["bootId"] = "".into(),
        "inventory.machine.bootId is empty",
    ),
    ("an empty version", |r| r["agent"]["version"] = "".into(), "agent.version is empty"),
];

#[test]
fn absurd_reports_are_refused_by_name() {
    for (what, edit, expected) in ABSURD {
        let mut value: serde_json::Value = serde_json::from_str(&example(1)).expect("JSON");
        edit(&mut value);
        let report: NodeReport = serde_json::from_value(value).expect(what);
        let problem = report.check().expect_err(what);
        let message = problem.to_string();
        let of_inventory = message.contains("inventory.");
        assert_eq!(problem.subject().is_some(), of_inventory, "{what}: {message}");
        assert!(message.contains(expected), "{what}: {message}");
    }
}
