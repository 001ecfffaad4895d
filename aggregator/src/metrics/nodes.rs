//! Gauges of each node. They are written as text once whenever the nodes are counted, and scrapes are
//! given that text: of thousands of nodes, series that each scrape encodes anew would cost most of what
//! the aggregator does.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rollcall_report::{NodeId, NodeName, Subject};

use super::models::Models;
use super::text::Text;
use crate::document::{GpuStates, NodeData};

const BYTES_PER_MIB: u64 = 1024 * 1024;
/// A megabit has 10⁶ bits.
const BYTES_PER_MEGABIT: u64 = 1_000_000 / 8;

/// What Prometheus is told of a node.
#[derive(Debug, Clone)]
pub struct NodeFigures<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Its accepted `nodeID`.
    pub node_id: &'a NodeId,
    /// The id of its class, where it has one.
    pub node_class: Option<&'a str>,
    /// Its entry in the document, where its capacities are all known.
    pub entry: Option<&'a NodeData>,
    /// Whether it has been silent for too long.
    pub is_stale: bool,
    /// When it last reported.
    pub last_report: Timestamp,
    /// How many GPUs it has of each kind.
    pub gpus: GpuStates,
    /// What fails, and since when.
    pub failing: Vec<(Subject, Timestamp)>,
    /// How many interfaces count as 0 because nobody tells their speed, where that is known.
    pub unknown_speeds: Option<usize>,
    /// How many things in its hardware have changed since its previous boot, where that is known.
    pub hardware_changes: Option<usize>,
    /// In how many things it is not as its class says, where it has one.
    pub class_mismatches: Option<usize>,
}

/// The gauges of all nodes, as a scrape sees them.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeGauges(Arc<Mutex<Arc<str>>>);

impl NodeGauges {
    /// Shows these nodes from now on, and no others.
    pub(super) fn replace<'a>(&self, nodes: impl Iterator<Item = NodeFigures<'a>>) {
        let nodes: Vec<NodeFigures<'a>> = nodes.collect();
        let text = text(&nodes).into();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// In Prometheus' text format.
    pub(super) fn text(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a gauge of one series a node says of a node; `None`: it is not known.
type Value = fn(&NodeFigures<'_>) -> Option<u64>;

/// The gauges whose only label is the node.
const GAUGES: [(&str, &str, Value); 14] = [
    ("rollcall_node_cpus", "Logical CPUs of a node in the document.", |node| {
        Some(node.entry?.vcpus.count)
    }),
    ("rollcall_node_memory_bytes", "Memory of a node in the document.", |node| {
        Some(node.entry?.memory * BYTES_PER_MIB)
    }),
    ("rollcall_node_swap_bytes", "Swap space of a node in the document.", |node| {
        Some(node.entry?.swap * BYTES_PER_MIB)
    }),
    ("rollcall_node_disks", "Disks of a node in the document.", |node| {
        Some(node.entry?.storage.disks)
    }),
    (
        "rollcall_node_disk_bytes",
        "What the disks of a node hold together in the document.",
        |node| Some(node.entry?.storage.size * BYTES_PER_MIB),
    ),
    ("rollcall_node_links", "Network interfaces of a node in the document.", |node| {
        Some(node.entry?.network.interfaces)
    }),
    (
        "rollcall_node_link_bytes_per_second",
        "What the network interfaces of a node send together in the document; they receive as much.",
        |node| Some(node.entry?.network.tx_bandwidth * BYTES_PER_MEGABIT),
    ),
    ("rollcall_node_gpu_memory_bytes", "Memory of a node's GPUs in the document.", |node| {
        Some(node.entry?.gpus.memory * BYTES_PER_MIB)
    }),
    (
        "rollcall_node_complete",
        "Whether all capacities of a node are known, so that it is in the document.",
        |node| Some(node.entry.is_some().into()),
    ),
    (
        "rollcall_node_stale",
        "Whether a node has been silent for three intervals; where replicas share a store, for up to five and a half minutes more.",
        |node| Some(node.is_stale.into()),
    ),
    ("rollcall_node_last_report_timestamp_seconds", "When a node last reported.", |node| {
        node.last_report.as_second().try_into().ok()
    }),
    (
        "rollcall_node_unknown_speeds",
        "Interfaces of a node whose bandwidth counts as 0 because nobody tells it.",
        |node| count(node.unknown_speeds),
    ),
    (
        "rollcall_node_hardware_changes",
        "Changes in a node's hardware since its previous boot ended.",
        |node| count(node.hardware_changes),
    ),
    (
        "rollcall_node_class_mismatches",
        "Things in which a node is not as its class says; only for those that have one.",
        |node| count(node.class_mismatches),
    ),
];

fn count(items: Option<usize>) -> Option<u64> {
    items?.try_into().ok()
}

fn text(nodes: &[NodeFigures<'_>]) -> String {
    let mut text = Text::default();
    let mut info = text.gauge(
        "rollcall_node_info",
        "A constant 1; which node it is, and the id of its class, if it has one, are in the labels.",
    );
    for node in nodes {
        let class = node.node_class.unwrap_or_default();
        let id = node.node_id.as_str();
        info.set(&[("node", node.node.as_str()), ("node_class", class), ("node_id", id)], 1);
    }
    for (name, help, value) in GAUGES {
        let mut gauge = text.gauge(name, help);
        for node in nodes {
            if let Some(value) = value(node) {
                gauge.set(&[("node", node.node.as_str())], value);
            }
        }
    }
    write_gpus(&mut text, nodes);
    let mut failing = text.gauge(
        "rollcall_node_probe_failing_since_timestamp_seconds",
        "Since when a part of a node's inventory has failed; only for those that fail.",
    );
    for node in nodes {
        for (subject, since) in &node.failing {
            let labels = [("node", node.node.as_str()), ("subject", subject.as_str())];
            failing.set(&labels, since.as_second());
        }
    }
    text.into_string()
}

fn write_gpus(text: &mut Text, nodes: &[NodeFigures<'_>]) {
    let mut gpus = text.gauge(
        "rollcall_node_gpus",
        "GPUs of a node by state: expected, usable, lost, passed_through, counted in the document, and allocatable in Kubernetes.",
    );
    for node in nodes {
        for (state, count) in [
            ("allocatable", node.gpus.allocatable),
            ("counted", node.gpus.counted),
            ("expected", node.gpus.expected),
            ("lost", node.gpus.lost),
            ("passed_through", node.gpus.passed_through),
            ("usable", node.gpus.usable),
        ] {
            if let Some(count) = count {
                gpus.set(&[("node", node.node.as_str()), ("state", state)], count);
            }
        }
    }
    let models = Models::of(nodes.iter().flat_map(models_of));
    let mut by_model = text.gauge(
        "rollcall_node_gpu_models",
        "GPUs of a node in the document by model; all but the 64 most frequent ones of the cluster are other.",
    );
    for node in nodes {
        for (model, count) in models.count(models_of(node)) {
            by_model.set(&[("model", model), ("node", node.node.as_str())], count);
        }
    }
}

/// The model of each GPU that is in the document.
fn models_of<'a>(node: &NodeFigures<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    node.entry.into_iter().flat_map(|entry| &entry.gpus.gpus).map(|gpu| gpu.model_name.as_str())
}
