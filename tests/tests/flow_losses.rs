//! A GPU that is lost, from the report to the network's registry, over a restart.

use std::time::{Duration, Instant};

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{Aggregator, Bed, PATIENCE, get, report};
use serde_json::Value;

/// Long enough to look at the roll before it is over.
const HOLD_DOWN: Duration = Duration::from_secs(8);

fn post(aggregator: &Aggregator, report: &Value) {
    let answer = aggregator.post_report(report.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn wait_for_log(aggregator: &Aggregator, words: &str) {
    aggregator.daemon.wait_for_line(|line| line.contains(words), PATIENCE);
}

/// The one node on the roll, and what is said of its GPUs.
fn node(aggregator: &Aggregator) -> (Value, String) {
    let nodes = aggregator.ask(&["nodes", "--output", "json"]);
    let node = nodes.pointer("/nodes/0").cloned().unwrap_or_default();
    let warning = node.pointer("/warnings/0").and_then(Value::as_str).unwrap_or_default();
    let warning = warning.to_owned();
    (node, warning)
}

#[test]
fn a_lost_gpu_counts_until_its_loss_is_confirmed() {
    let aios = AiosStandin::start();
    let rest = format!("expect: {{nodes: 1}}\ngpuLossHoldDown: {}s\n", HOLD_DOWN.as_secs());
    let bed = Bed::new(&Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), &rest));
    let mut aggregator = bed.aggregator(&[]);
    let mut report = report("node-a", 1);
    report["inventory"]["machine"]["known"]["bootId"] = "one".into();
    post(&aggregator, &report);
    wait_for_log(&aggregator, "the cluster is registered");

    let driver = &mut report["inventory"]["gpus"]["known"]["nvidiaDriver"]["known"];
    driver["gpus"].as_array_mut().expect("a list").truncate(1);
    // No total changes with a name: the registration does not drift for this.
    report["inventory"]["nics"]["known"][1]["name"] = "eth9".into();
    report["inventory"]["machine"]["known"]["bootId"] = "two".into();
    report["passedOver"] = serde_json::json!([
        {"subject": "disks", "rule": "virtual", "count": 4, "examples": ["loop0"]}
    ]);
    let lost_at = Instant::now();
    post(&aggregator, &report);
    let (shown, warning) = node(&aggregator);
    assert_eq!(
        shown["gpus"],
        serde_json::json!({"expected": 2, "usable": 1, "lost": 1, "passedThrough": 0, "counted": 2})
    );
    assert_eq!(shown["entry"]["gpus"]["count"], 2);
    assert!(warning.contains("1 of 2 NVIDIA GPUs do not answer since"), "{warning}");
    assert!(warning.contains("still counted until"), "{warning}");
    assert_eq!(shown["passedOver"][0]["count"], 4);
    let changed = &shown["hardwareChanges"];
    assert_eq!(changed[1]["now"], "eth9", "{changed}");
    assert_eq!(changed.as_array().map(Vec::len), Some(2), "{changed}");
    let table = aggregator.operate(&["nodes"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let line = "! node node-a: changed since its last boot: nics: eth1, now gone";
    assert!(table.lines().any(|found| found == line), "{table}");

    // The clock goes on while the aggregator is away, and nobody reports any more.
    let (_, since) = warning.split_once("since ").expect("a time");
    let since = since.split([';', ' ']).next().expect("a time").to_owned();
    aggregator.daemon.kill_9();
    let aggregator = bed.aggregator(&[]);
    aggregator.daemon.wait_for_line(
        |line| {
            line.contains("the registration has drifted")
                && line.contains("gpus.count is 2 there, 1 here")
        },
        PATIENCE,
    );
    assert!(lost_at.elapsed() >= HOLD_DOWN, "{:?}", lost_at.elapsed());
    let (shown, warning) = node(&aggregator);
    assert_eq!(shown["entry"]["gpus"]["count"], 1);
    assert!(
        warning.ends_with(&format!("do not answer since {since} and are not counted any more")),
        "{warning}, since {since}"
    );
    assert_eq!(aggregator.ask(&["document"]).pointer("/gpus/count"), Some(&Value::from(1)));
    let metrics = get(aggregator.admin, "/metrics", "").body;
    for line in [
        "rollcall_node_gpus{node=\"node-a\",state=\"expected\"} 2",
        "rollcall_node_gpus{node=\"node-a\",state=\"lost\"} 1",
        "rollcall_node_unknown_speeds{node=\"node-a\"} 0",
        "rollcall_node_hardware_changes{node=\"node-a\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }

    // Back again: it counts at once.
    report["inventory"] = rollcall_tests::bed::report("node-a", 1)["inventory"].clone();
    report["inventory"]["machine"]["known"]["bootId"] = "two".into();
    post(&aggregator, &report);
    let (shown, warning) = node(&aggregator);
    assert_eq!((shown["entry"]["gpus"]["count"].as_u64(), warning.as_str()), (Some(2), ""));
    assert_eq!(shown["hardwareChanges"], serde_json::json!([]));
}
