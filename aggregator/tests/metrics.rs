//! What Prometheus is told of each node, and that a node which is gone is told of no more.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use jiff::Timestamp;
use prometheus::{Encoder as _, TextEncoder};
use rollcall_aggregator::document::GpuStates;
use rollcall_aggregator::metrics::{Metrics, NodeFigures};
use rollcall_report::{NodeName, Subject};

/// The lines about nodes, sorted.
fn lines(metrics: &Metrics) -> Vec<String> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&metrics.registry().gather(), &mut text).expect("text");
    let text = String::from_utf8(text).expect("text");
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with("rollcall_node_")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn each_node_is_told_of_as_long_as_it_is_on_the_roll() {
    let metrics = Metrics::new().expect("metrics");
    assert_eq!(lines(&metrics), Vec::<String>::new());
    let one: NodeName = "node-1".parse().expect("a name");
    let two: NodeName = "node-2".parse().expect("a name");
    let whole = || NodeFigures {
        node: &one,
        gpus: GpuStates {
            expected: Some(8),
            usable: Some(7),
            lost: Some(1),
            passed_through: Some(0),
            counted: Some(8),
            allocatable: Some(6),
        },
        failing: vec![(Subject::Gpus, Timestamp::from_second(1234).expect("in range"))],
        unknown_speeds: Some(2),
        hardware_changes: Some(1),
        class_mismatches: None,
    };
    let unknown = NodeFigures {
        node: &two,
        gpus: GpuStates::default(),
        failing: vec![],
        unknown_speeds: None,
        hardware_changes: None,
        class_mismatches: None,
    };
    let expected = [
        "rollcall_node_gpus{node=\"node-1\",state=\"allocatable\"} 6",
        "rollcall_node_gpus{node=\"node-1\",state=\"counted\"} 8",
        "rollcall_node_gpus{node=\"node-1\",state=\"expected\"} 8",
        "rollcall_node_gpus{node=\"node-1\",state=\"lost\"} 1",
        "rollcall_node_gpus{node=\"node-1\",state=\"passed_through\"} 0",
        "rollcall_node_gpus{node=\"node-1\",state=\"usable\"} 7",
        "rollcall_node_hardware_changes{node=\"node-1\"} 1",
        "rollcall_node_probe_failing_since_timestamp_seconds{node=\"node-1\",subject=\"gpus\"} 1234",
        "rollcall_node_unknown_speeds{node=\"node-1\"} 2",
    ];
    metrics.each_node([whole(), unknown].into_iter());
    assert_eq!(lines(&metrics), expected, "what is not known is no 0");

    metrics.each_node([NodeFigures { failing: vec![], ..whole() }].into_iter());
    assert!(!lines(&metrics).iter().any(|line| line.contains("failing")), "mended");
    metrics.each_node([].into_iter());
    assert_eq!(lines(&metrics), Vec::<String>::new(), "forgotten");
}
