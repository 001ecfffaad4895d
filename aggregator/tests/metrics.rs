//! What Prometheus is told of each node, and that a node which is gone is told of no more.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use jiff::Timestamp;
use rollcall_aggregator::document::{
    GpuEntry, GpuStates, Network, NodeData, NodeGpus, Storage, Vcpus,
};
use rollcall_aggregator::metrics::{Metrics, NodeFigures};
use rollcall_report::{NodeId, NodeName, Shared, Subject};

/// The lines about nodes, sorted.
fn lines(metrics: &Metrics) -> Vec<String> {
    let text = metrics.text().expect("text");
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with("rollcall_node_")).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn entry(id: &NodeId, models: &[&str]) -> NodeData {
    let gpus = models.iter().map(|model| GpuEntry { model_name: (*model).into(), memory: 100 });
    let gpus: Vec<GpuEntry> = gpus.collect();
    NodeData {
        id: id.clone(),
        gpus: Shared::from(NodeGpus {
            count: gpus.len() as u64,
            memory: gpus.len() as u64 * 100,
            gpus,
            features: vec![],
            model_names: vec![],
        }),
        vcpus: Vcpus { count: 128 },
        memory: 3,
        swap: 0,
        storage: Storage { disks: 2, size: 5 },
        network: Network { interfaces: 4, tx_bandwidth: 100_000, rx_bandwidth: 100_000 },
    }
}

#[test]
fn each_node_is_told_of_as_long_as_it_is_on_the_roll() {
    let metrics = Metrics::new().expect("metrics");
    assert_eq!(lines(&metrics), Vec::<String>::new());
    let one: NodeName = "node-1".parse().expect("a name");
    let two: NodeName = "node-2".parse().expect("a name");
    let (one_id, two_id): (NodeId, NodeId) =
        ("one".parse().expect("an id"), "two".parse().expect("an id"));
    let entry = entry(&one_id, &["NVIDIA \"H100\"", "NVIDIA \"H100\"", "AMD\\MI300X"]);
    let at = |second| Timestamp::from_second(second).expect("in range");
    let whole = || NodeFigures {
        node: &one,
        node_id: &one_id,
        node_class: Some("a-class"),
        entry: Some(&entry),
        is_stale: false,
        last_report: at(1_700_000_000),
        gpus: GpuStates {
            expected: Some(8),
            usable: Some(7),
            lost: Some(1),
            passed_through: Some(0),
            counted: Some(8),
            allocatable: Some(6),
        },
        failing: vec![(Subject::Gpus, at(1234))],
        unknown_speeds: Some(2),
        hardware_changes: Some(1),
        class_mismatches: Some(0),
    };
    let unknown = NodeFigures {
        node: &two,
        node_id: &two_id,
        node_class: None,
        entry: None,
        is_stale: true,
        last_report: at(1_600_000_000),
        gpus: GpuStates::default(),
        failing: vec![],
        unknown_speeds: None,
        hardware_changes: None,
        class_mismatches: None,
    };
    let expected = [
        "rollcall_node_class_mismatches{node=\"node-1\"} 0",
        "rollcall_node_complete{node=\"node-1\"} 1",
        "rollcall_node_complete{node=\"node-2\"} 0",
        "rollcall_node_cpus{node=\"node-1\"} 128",
        "rollcall_node_disk_bytes{node=\"node-1\"} 5242880",
        "rollcall_node_disks{node=\"node-1\"} 2",
        "rollcall_node_gpu_memory_bytes{node=\"node-1\"} 314572800",
        "rollcall_node_gpu_models{model=\"AMD\\\\MI300X\",node=\"node-1\"} 1",
        "rollcall_node_gpu_models{model=\"NVIDIA \\\"H100\\\"\",node=\"node-1\"} 2",
        "rollcall_node_gpus{node=\"node-1\",state=\"allocatable\"} 6",
        "rollcall_node_gpus{node=\"node-1\",state=\"counted\"} 8",
        "rollcall_node_gpus{node=\"node-1\",state=\"expected\"} 8",
        "rollcall_node_gpus{node=\"node-1\",state=\"lost\"} 1",
        "rollcall_node_gpus{node=\"node-1\",state=\"passed_through\"} 0",
        "rollcall_node_gpus{node=\"node-1\",state=\"usable\"} 7",
        "rollcall_node_hardware_changes{node=\"node-1\"} 1",
        "rollcall_node_info{node=\"node-1\",node_class=\"a-class\",node_id=\"one\"} 1",
        "rollcall_node_info{node=\"node-2\",node_class=\"\",node_id=\"two\"} 1",
        "rollcall_node_last_report_timestamp_seconds{node=\"node-1\"} 1700000000",
        "rollcall_node_last_report_timestamp_seconds{node=\"node-2\"} 1600000000",
        "rollcall_node_link_bytes_per_second{node=\"node-1\"} 12500000000",
        "rollcall_node_links{node=\"node-1\"} 4",
        "rollcall_node_memory_bytes{node=\"node-1\"} 3145728",
        "rollcall_node_probe_failing_since_timestamp_seconds{node=\"node-1\",subject=\"gpus\"} 1234",
        "rollcall_node_stale{node=\"node-1\"} 0",
        "rollcall_node_stale{node=\"node-2\"} 1",
        "rollcall_node_swap_bytes{node=\"node-1\"} 0",
        "rollcall_node_unknown_speeds{node=\"node-1\"} 2",
    ];
    metrics.each_node([whole(), unknown].into_iter());
    assert_eq!(lines(&metrics), expected, "what is not known is no 0");

    metrics.each_node([NodeFigures { failing: vec![], ..whole() }].into_iter());
    assert!(!lines(&metrics).iter().any(|line| line.contains("failing")), "mended");
    metrics.each_node([].into_iter());
    assert_eq!(lines(&metrics), Vec::<String>::new(), "forgotten");
}

#[test]
fn what_all_nodes_are_told_of_is_said_once_and_stays_small() {
    const NODES: usize = 10_000;
    let metrics = Metrics::new().expect("metrics");
    let names: Vec<NodeName> =
        (0..NODES).map(|n| format!("node-{n:05}.example.org").parse().expect("a name")).collect();
    let id: NodeId = "an-id".parse().expect("an id");
    // Each node says another model.
    let entries: Vec<NodeData> =
        (0..NODES).map(|n| entry(&id, &["NVIDIA H100 80GB HBM3", &format!("model {n}")])).collect();
    let figures = names.iter().zip(&entries).map(|(node, entry)| NodeFigures {
        node,
        node_id: &id,
        node_class: None,
        entry: Some(entry),
        is_stale: false,
        last_report: Timestamp::UNIX_EPOCH,
        gpus: GpuStates { expected: Some(2), usable: Some(2), ..GpuStates::default() },
        failing: vec![],
        unknown_speeds: Some(0),
        hardware_changes: Some(0),
        class_mismatches: None,
    });
    metrics.each_node(figures);
    let text = metrics.text().expect("text");
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert_eq!(text.matches(&format!("{line}\n")).count(), 1, "{line}");
    }
    let models: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("rollcall_node_gpu_models{model=\"")?.split('"').next()
        })
        .collect();
    assert_eq!(models.len(), 65, "{models:?}");
    assert!(models.contains("other") && models.contains("NVIDIA H100 80GB HBM3"), "{models:?}");
    // 18 series a node, of less than 100 bytes each.
    let nodes = text.lines().filter(|line| line.starts_with("rollcall_node_")).count();
    assert_eq!(nodes, 18 * NODES);
    assert!(text.len() < 18 * 100 * NODES, "{} bytes", text.len());
}
