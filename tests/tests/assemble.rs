//! `rollcall-agent probe | rollcall-aggregator assemble`: from a machine's files to the document,
//! without a server.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rollcall_tests::bed::run;
use rollcall_tests::machine::{Function, Machine, driver, h100};
use rollcall_tests::process::{nvml_standin, program};
use serde_json::{Value, json};

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A report of a machine that was saved as files, without NVIDIA's library.
fn probe(host: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(program("rollcall-agent"))
        .args(["probe", "--node-name", host, "--host-root"])
        .arg(tree("agent/tests/hosts").join(host).join("root"))
        .arg("--nvml-library")
        .arg(folder.path().join("libnvidia-ml.so.1"))
        .output()
        .expect("the agent runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn assemble(report: &[u8], more: &[&str]) -> Output {
    let cluster = tree("packaging/examples/cluster.yaml").display().to_string();
    run("rollcall-aggregator", &[&["assemble", "--cluster", &cluster, "-"], more].concat(), report)
}

fn document(report: &[u8]) -> (Value, String) {
    let output = assemble(report, &[]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).expect("the document alone on stdout"), said)
}

/// The rich machine's numbers, counted by hand from the list in its note.
#[test]
fn a_rich_machine() {
    let (document, said) = document(&probe("rich-server"));
    let expected_path = tree("tests/tests/golden/rich-server.json");
    expectorate::assert_contents(
        expected_path,
        &format!("{}\n", serde_json::to_string_pretty(&document).expect("JSON")),
    );
    assert!(said.contains("is not known, its bandwidth is counted as 0"), "{said}");
    let keys: Vec<&str> =
        document.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "id",
            "regionId",
            "status",
            "nodes",
            "gpus",
            "vcpus",
            "memory",
            "swap",
            "storage",
            "network",
            "config",
            "tags",
            "clusterMetadata",
            "reputation",
        ]
    );
}

#[test]
fn no_gpu_no_driver_and_a_driver_are_three_answers() {
    let (without, _) = document(&probe("rich-server"));
    assert_eq!(without["gpus"], json!({"count": 0, "memory": 0}), "a healthy 0");

    // GPUs without a driver: their capacity is not known, and not 0.
    let report = probe("gpu-without-driver");
    let refused = assemble(&report, &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(refused.stdout.is_empty(), "no document");
    assert!(said.contains("gpu-without-driver is kept out, gpus unknown"), "{said}");
    assert!(said.contains("libnvidia-ml.so.1"), "{said}");
    let left_out = assemble(&report, &["--leave-out-incomplete"]);
    let empty: Value = serde_json::from_slice(&left_out.stdout).expect("a document");
    assert_eq!(empty["nodes"]["count"], 0);

    let addresses = ["0000:17:00.0", "0000:65:00.0"];
    let machine = Machine::new();
    for address in addresses {
        machine.add(Function::h100(address));
    }
    let probe_with = |script: &Value| {
        machine.nvml(script);
        machine.probe_with(&nvml_standin(), &["--node-name", "gpu-1"]).stdout
    };
    let driver = driver(&addresses.map(h100));
    let (with, _) = document(&probe_with(&driver));
    assert_eq!(with["gpus"], json!({"count": 2, "memory": 2 * 81_559}));
    let node = &with["nodes"]["nodeData"][0]["gpus"];
    assert_eq!(node["modelNames"], json!(["NVIDIA H100 80GB HBM3"]));
    assert_eq!(node["features"], json!(["fp16", "tensor_cores", "bf16", "fp8"]));

    let mut lost = driver.clone();
    lost["gpus"][1]["handleError"] = 15.into();
    let (one, said) = document(&probe_with(&lost));
    assert_eq!(one["gpus"], json!({"count": 1, "memory": 81_559}));
    assert!(said.contains("1 of 2 NVIDIA GPUs do not answer"), "{said}");

    for (code, words) in [(9, "driver"), (18, "version")] {
        let failing = probe_with(&json!({"init": code}));
        let refused = assemble(&failing, &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "NVML code {code}: {said}");
    }
}

#[test]
fn reports_that_do_not_go_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let save = |name: &str, report: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, report).expect("written");
        path.display().to_string()
    };
    let report =
        |name: &str, machine| rollcall_tests::bed::report(name, machine).to_string().into_bytes();
    let good = save("good.json", &report("node-a", 1));
    let again = save("again.json", &report("node-a", 1));
    let clone = save("clone.json", &report("node-b", 1));
    let other = save("other.json", &report("node-c", 3));
    let garbage = save("garbage.json", b"hello");
    let nowhere = folder.path().join("nowhere.json").display().to_string();
    let cluster = tree("packaging/examples/cluster.yaml").display().to_string();
    for (what, reports, words) in [
        ("one node twice", [&good, &again], "again.json: node node-a stands in an earlier report"),
        ("one machine twice", [&good, &clone], "would be counted twice"),
        ("no report", [&good, &garbage], "garbage.json: the body is not JSON"),
        ("no file", [&good, &nowhere], "nowhere.json cannot be read"),
    ] {
        let arguments = ["assemble", "--cluster", &cluster, reports[0], reports[1]];
        let output = run("rollcall-aggregator", &arguments, b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
        assert!(output.stdout.is_empty(), "{what}");
    }
    // Nodes keep the order of the reports.
    let output =
        run("rollcall-aggregator", &["assemble", "--cluster", &cluster, &other, &good], b"");
    let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
    assert_eq!(document.pointer("/nodes/nodeData/1/id"), Some(&Value::from("node-a")));
}
