//! Gauges of each node. Their numbers are kept as they were when the nodes were last counted, and a scrape
//! writes them as text piece by piece: of thousands of nodes the whole text is larger than all else that
//! the aggregator holds of them. That a scrape takes CPU time for it is the price.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rollcall_report::{NodeId, NodeName, Subject};

use super::models::Models;
use super::text::{Gauge, Text};
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
pub(super) struct NodeGauges(Arc<Mutex<Arc<Counted>>>);

/// The nodes as they were counted.
#[derive(Debug, Default)]
struct Counted {
    nodes: Vec<Held>,
    /// What the models of GPUs are called, in the order in which they came.
    models: Vec<String>,
}

/// What is told of a node, for as long as it is.
#[derive(Debug)]
struct Held {
    node: NodeName,
    node_id: NodeId,
    node_class: Option<Box<str>>,
    values: Values,
    /// Since when what fails, in seconds.
    failing: Box<[(Subject, i64)]>,
    /// How many GPUs it has of which model, by the model's place.
    models: Box<[(u32, u32)]>,
}

/// The values of [`GAUGES`], and after them those of [`GPU_STATES`].
#[derive(Debug)]
struct Values {
    values: [u64; GAUGES.len() + GPU_STATES.len()],
    /// One bit for each that is known.
    known: u32,
}

const _: () = assert!(GAUGES.len() + GPU_STATES.len() <= u32::BITS as usize);

impl Values {
    fn of(node: &NodeFigures<'_>) -> Self {
        let gauges = GAUGES.iter().map(|(_, _, value)| value(node));
        let states = GPU_STATES.iter().map(|(_, count)| count(&node.gpus));
        let mut all = Self { values: [0; _], known: 0 };
        for (index, (place, value)) in all.values.iter_mut().zip(gauges.chain(states)).enumerate() {
            if let Some(value) = value {
                *place = value;
                all.known |= 1 << index;
            }
        }
        all
    }

    fn get(&self, index: usize) -> Option<u64> {
        self.values.get(index).copied().filter(|_| self.known >> index & 1 == 1)
    }
}

impl NodeGauges {
    /// Shows these nodes from now on, and no others.
    pub(super) fn replace<'a>(&self, nodes: impl Iterator<Item = NodeFigures<'a>>) {
        let counted = Arc::new(Counted::of(nodes));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counted;
    }

    /// In Prometheus' text format, piece by piece.
    pub(super) fn pieces(&self) -> Pieces {
        let counted = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Pieces { counted, next: Some(Place::new(FIRST)) }
    }
}

impl Counted {
    fn of<'a>(nodes: impl Iterator<Item = NodeFigures<'a>>) -> Self {
        let mut places: HashMap<String, (u32, u64)> = HashMap::new();
        let mut held = Vec::with_capacity(nodes.size_hint().0);
        for node in nodes {
            let mut models: BTreeMap<u32, u32> = BTreeMap::new();
            for model in models_of(&node) {
                if !places.contains_key(model) {
                    let place = u32::try_from(places.len()).unwrap_or(u32::MAX);
                    places.insert(model.to_owned(), (place, 0));
                }
                if let Some((place, count)) = places.get_mut(model) {
                    *count += 1;
                    *models.entry(*place).or_default() += 1;
                }
            }
            held.push(Held {
                node: node.node.clone(),
                node_id: node.node_id.clone(),
                node_class: node.node_class.map(Box::from),
                values: Values::of(&node),
                failing: node.failing.iter().map(|(it, since)| (*it, since.as_second())).collect(),
                models: models.into_iter().collect(),
            });
        }
        let counts = places.iter().map(|(model, (_, count))| (model.as_str(), *count)).collect();
        let labels = Models::of(&counts);
        let mut models: Vec<(u32, String)> = places
            .iter()
            .map(|(model, (place, _))| (*place, labels.label(model).to_owned()))
            .collect();
        models.sort_unstable();
        Self { nodes: held, models: models.into_iter().map(|(_, label)| label).collect() }
    }

    /// Writes what one of the [`Family`]s says of a node.
    fn write(&self, family: Family, node: &Held, gauge: &mut Gauge, text: &mut Text) {
        let name = node.node.as_str();
        match family {
            Family::Info => {
                let class = node.node_class.as_deref().unwrap_or_default();
                let labels =
                    [("node", name), ("node_class", class), ("node_id", node.node_id.as_str())];
                gauge.set(text, &labels, 1);
            }
            Family::Gauge(index) => {
                if let Some(value) = node.values.get(index) {
                    gauge.set(text, &[("node", name)], value);
                }
            }
            Family::Gpus => {
                for (index, (state, _)) in GPU_STATES.iter().enumerate() {
                    if let Some(count) = node.values.get(GAUGES.len() + index) {
                        gauge.set(text, &[("node", name), ("state", state)], count);
                    }
                }
            }
            Family::GpuModels => {
                let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
                for (place, count) in &node.models {
                    let label = usize::try_from(*place).ok().and_then(|it| self.models.get(it));
                    let label = label.map_or("", String::as_str);
                    *counts.entry(label).or_default() += u64::from(*count);
                }
                for (model, count) in counts {
                    gauge.set(text, &[("model", model), ("node", name)], count);
                }
            }
            Family::Failing => {
                for (subject, since) in &node.failing {
                    gauge.set(text, &[("node", name), ("subject", subject.as_str())], since);
                }
            }
        }
    }
}

/// How long a piece is, about, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// The text of the gauges in pieces, each written when it is asked for.
#[derive(Debug)]
pub(super) struct Pieces {
    counted: Arc<Counted>,
    next: Option<Place>,
}

/// How far the text has come.
#[derive(Debug)]
struct Place {
    family: Family,
    gauge: Gauge,
    /// How many nodes it has been written of.
    nodes: usize,
}

impl Place {
    fn new(family: Family) -> Self {
        Self { family, gauge: family.gauge(), nodes: 0 }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut text = Text::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        while let Some(place) = &mut self.next {
            while let Some(node) = self.counted.nodes.get(place.nodes) {
                place.nodes += 1;
                self.counted.write(place.family, node, &mut place.gauge, &mut text);
                if text.len() >= PIECE_BYTES {
                    return Some(text.into_string());
                }
            }
            self.next = place.family.next().map(Place::new);
        }
        Some(text.into_string()).filter(|text| !text.is_empty())
    }
}

/// The gauges in the order in which they are written.
#[derive(Debug, Clone, Copy)]
enum Family {
    Info,
    /// One of [`GAUGES`].
    Gauge(usize),
    Gpus,
    GpuModels,
    Failing,
}

const FIRST: Family = Family::Info;

impl Family {
    const fn next(self) -> Option<Self> {
        match self {
            Self::Info => Some(Self::Gauge(0)),
            Self::Gauge(index) if index + 1 < GAUGES.len() => Some(Self::Gauge(index + 1)),
            Self::Gauge(_) => Some(Self::Gpus),
            Self::Gpus => Some(Self::GpuModels),
            Self::GpuModels => Some(Self::Failing),
            Self::Failing => None,
        }
    }

    fn gauge(self) -> Gauge {
        let (name, help) = match self {
            Self::Info => (
                "rollcall_node_info",
                "A constant 1; which node it is, and the id of its class, if it has one, are in the labels.",
            ),
            Self::Gauge(index) => {
                GAUGES.get(index).map_or(("", ""), |(name, help, _)| (*name, *help))
            }
            Self::Gpus => (
                "rollcall_node_gpus",
                "GPUs of a node by state: expected, usable, lost, passed_through, counted in the document, and allocatable in Kubernetes.",
            ),
            Self::GpuModels => (
                "rollcall_node_gpu_models",
                "GPUs of a node in the document by model; all but the 64 most frequent ones of the cluster are other.",
            ),
            Self::Failing => (
                "rollcall_node_probe_failing_since_timestamp_seconds",
                "Since when a part of a node's inventory has failed; only for those that fail.",
            ),
        };
        Gauge::new(name, help)
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

/// How many GPUs of a node are in a state; `None`: it is not known.
type Count = fn(&GpuStates) -> Option<u64>;

/// The states of GPUs, in the order of their names.
const GPU_STATES: [(&str, Count); 6] = [
    ("allocatable", |gpus| gpus.allocatable),
    ("counted", |gpus| gpus.counted),
    ("expected", |gpus| gpus.expected),
    ("lost", |gpus| gpus.lost),
    ("passed_through", |gpus| gpus.passed_through),
    ("usable", |gpus| gpus.usable),
];

/// The model of each GPU that is in the document.
fn models_of<'a>(node: &NodeFigures<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    node.entry.into_iter().flat_map(|entry| &entry.gpus.gpus).map(|gpu| gpu.model_name.as_str())
}
