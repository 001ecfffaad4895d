//! Gauges of each node, replaced as a whole, so that a scrape never sees half of them.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use rollcall_report::{NodeName, Subject};

use crate::document::GpuStates;

/// What Prometheus is told of a node.
#[derive(Debug)]
pub struct NodeFigures<'a> {
    /// The node.
    pub node: &'a NodeName,
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

/// The gauges of all nodes.
#[derive(Debug, Clone)]
pub(super) struct NodeGauges {
    vectors: Vectors,
    /// What a scrape sees.
    shown: Arc<Mutex<Vec<MetricFamily>>>,
}

#[derive(Debug, Clone)]
struct Vectors {
    gpus: IntGaugeVec,
    failing: IntGaugeVec,
    unknown_speeds: IntGaugeVec,
    hardware_changes: IntGaugeVec,
    class_mismatches: IntGaugeVec,
}

impl NodeGauges {
    pub(super) fn new() -> prometheus::Result<Self> {
        let vector = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let vectors = Vectors {
            gpus: vector(
                "rollcall_node_gpus",
                "GPUs of a node by state: expected, usable, lost, passed_through, counted in the document, and allocatable in Kubernetes.",
                &["node", "state"],
            )?,
            failing: vector(
                "rollcall_node_probe_failing_since_timestamp_seconds",
                "Since when a part of a node's inventory has failed; only for those that fail.",
                &["node", "subject"],
            )?,
            unknown_speeds: vector(
                "rollcall_node_unknown_speeds",
                "Interfaces of a node whose bandwidth counts as 0 because nobody tells it.",
                &["node"],
            )?,
            hardware_changes: vector(
                "rollcall_node_hardware_changes",
                "Changes in a node's hardware since its previous boot ended.",
                &["node"],
            )?,
            class_mismatches: vector(
                "rollcall_node_class_mismatches",
                "Things in which a node is not as its class says; only for those that have one.",
                &["node"],
            )?,
        };
        Ok(Self { vectors, shown: Arc::default() })
    }

    /// Shows these nodes from now on, and no others.
    pub(super) fn replace<'a>(&self, nodes: impl Iterator<Item = NodeFigures<'a>>) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        // Held all the while: two that replace at once would mix.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.vectors.all();
        for vector in all {
            vector.reset();
        }
        let Vectors { gpus, failing, unknown_speeds, hardware_changes, class_mismatches } =
            &self.vectors;
        for figures in nodes {
            let node = figures.node.as_str();
            for (state, count) in [
                ("expected", figures.gpus.expected),
                ("usable", figures.gpus.usable),
                ("lost", figures.gpus.lost),
                ("passed_through", figures.gpus.passed_through),
                ("counted", figures.gpus.counted),
                ("allocatable", figures.gpus.allocatable),
            ] {
                if let Some(count) = count {
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    gpus.with_label_values(&[node, state]).set(count);
                }
            }
            for (subject, since) in figures.failing {
                failing.with_label_values(&[node, subject.as_str()]).set(since.as_second());
            }
            if let Some(count) = figures.unknown_speeds {
                unknown_speeds.with_label_values(&[node]).set(gauge(count));
            }
            if let Some(count) = figures.hardware_changes {
                hardware_changes.with_label_values(&[node]).set(gauge(count));
            }
            if let Some(count) = figures.class_mismatches {
                class_mismatches.with_label_values(&[node]).set(gauge(count));
            }
        }
        *shown = all.iter().flat_map(|vector| vector.collect()).collect();
    }
}

impl Vectors {
    fn all(&self) -> [&IntGaugeVec; 5] {
        [
            &self.gpus,
            &self.failing,
            &self.unknown_speeds,
            &self.hardware_changes,
            &self.class_mismatches,
        ]
    }
}

impl Collector for NodeGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.vectors.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
