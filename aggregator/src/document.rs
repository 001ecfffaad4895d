//! The cluster onboarding document, and how it is assembled from what the nodes hold.
//!
//! Pure: no I/O, no clock. Field names, nesting and order are those of AIOS's documentation. Sizes
//! are "MB", which AIOS's own code takes as MiB: each leaf (a node's memory, a node's swap, a
//! node's storage, a GPU's memory) is rounded down once, and every total is the exact sum of its
//! nodes.

mod allocatable;
mod gpus;
pub mod ledger;
mod totals;

use std::ops::Deref;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_report::{
    Attachment, Inventory, Link, Nic, NicKind, NodeId, Reading, Shared, Subject,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use utoipa::ToSchema;

use crate::cluster_file::{Cluster, Overrides};
use crate::kubernetes::nodes::AllocatableGpus;
use crate::roll::Entry;
use crate::roll::loss::Losses;

pub use gpus::{GpuStates, amd_features, features};
pub use totals::Totals;

const MIB: u64 = 1024 * 1024;

/// The cluster onboarding document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDocument {
    /// The cluster's id in the registry.
    pub id: String,
    /// The region.
    pub region_id: String,
    /// The status.
    pub status: String,
    /// The nodes.
    pub nodes: Nodes,
    /// GPUs of all nodes.
    pub gpus: GpuTotals,
    /// vCPUs of all nodes.
    pub vcpus: Vcpus,
    /// Memory of all nodes, MiB.
    pub memory: u64,
    /// Swap of all nodes, MiB.
    pub swap: u64,
    /// Disks of all nodes.
    pub storage: Storage,
    /// Interfaces of all nodes.
    pub network: Network,
    /// Free-form.
    pub config: Map<String, Value>,
    /// Labels for searching.
    pub tags: Vec<String>,
    /// Free-form.
    pub cluster_metadata: Map<String, Value>,
    /// The reputation to start with.
    pub reputation: i64,
}

/// The nodes of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nodes {
    /// How many there are.
    pub count: u64,
    // Shared with whoever else shows it.
    /// One entry each.
    #[schema(value_type = Vec<NodeData>)]
    pub node_data: Vec<Shared<NodeData>>,
}

/// A node in the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeData {
    /// The node's `nodeID` label.
    pub id: NodeId,
    // Nodes that have the same may share them.
    /// Its GPUs.
    #[schema(value_type = NodeGpus)]
    pub gpus: Shared<NodeGpus>,
    /// Its vCPUs: logical CPUs that are online.
    pub vcpus: Vcpus,
    /// Its memory, MiB.
    pub memory: u64,
    /// Its swap, MiB.
    pub swap: u64,
    /// Its disks.
    pub storage: Storage,
    /// Its interfaces.
    pub network: Network,
}

/// A node's GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeGpus {
    /// How many count: the usable ones, and lost ones until their loss is confirmed.
    pub count: u64,
    /// Their memory together, MiB.
    pub memory: u64,
    /// One entry each: NVIDIA's, then AMD's.
    pub gpus: Vec<GpuEntry>,
    /// What they can do: `fp16`, `tensor_cores`, `bf16`, `fp8`.
    pub features: Vec<String>,
    /// The different models, in the order of their first GPU.
    #[schema(value_type = Vec<String>)]
    pub model_names: Vec<Shared<str>>,
}

/// A GPU in the document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuEntry {
    /// The maker's name for it.
    #[schema(value_type = String)]
    pub model_name: Shared<str>,
    /// Its memory, MiB.
    pub memory: u64,
}

/// GPUs of all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuTotals {
    /// How many count.
    pub count: u64,
    /// Their memory together, MiB.
    pub memory: u64,
}

/// vCPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vcpus {
    /// How many there are.
    pub count: u64,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    /// How many there are.
    pub disks: u64,
    /// What they hold together, MiB.
    pub size: u64,
}

/// Network interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// How many there are.
    pub interfaces: u64,
    /// What they send together, Mbit/s.
    pub tx_bandwidth: u64,
    /// What they receive together, Mbit/s.
    pub rx_bandwidth: u64,
}

/// A document and what has to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembly {
    /// The document.
    pub document: ClusterDocument,
    /// Nodes that are kept out because a capacity of theirs is not known.
    pub incomplete: Vec<Incomplete>,
    /// What is in the document with less certainty than it shows.
    pub warnings: Vec<Warning>,
}

/// A node that is kept out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node {node} is kept out, {subject} unknown: {reason}")]
pub struct Incomplete {
    /// The node.
    pub node: NodeId,
    /// What is not known.
    pub subject: Subject,
    /// Why.
    pub reason: String,
}

/// Something in the document that is less certain than it shows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Warning {
    /// An interface that is up and tells no speed.
    #[error(
        "node {node}: the speed of {nic} is not known, its bandwidth is counted as 0; set it under overrides.unknownNicSpeeds of the cluster file"
    )]
    NicSpeedUnknown {
        /// The node.
        node: NodeId,
        /// The interface.
        nic: String,
    },
    /// GPUs that were known, do not answer, and count until that is confirmed.
    #[error(
        "node {node}: {lost} of {expected} NVIDIA GPUs do not answer since {since:.0}; they are still counted{}",
        until.map_or_else(|| ", their driver as a whole does not answer now".to_owned(), |until| format!(" until {until:.0}"))
    )]
    GpusHeld {
        /// The node.
        node: NodeId,
        /// How many do not answer.
        lost: u64,
        /// How many there are.
        expected: u64,
        /// When they first did not.
        since: Timestamp,
        /// When they will count no more; `None`: nobody can say while the driver does not answer.
        until: Option<Timestamp>,
    },
    /// GPUs that are there, do not answer, and do not count.
    #[error(
        "node {node}: {lost} of {expected} NVIDIA GPUs do not answer{}",
        since.map_or_else(|| " and are not counted".to_owned(), |since| format!(" since {since:.0} and are not counted any more"))
    )]
    GpusLost {
        /// The node.
        node: NodeId,
        /// How many do not answer.
        lost: u64,
        /// How many there are.
        expected: u64,
        /// When the first of them did not; `None`: none of them ever did.
        since: Option<Timestamp>,
    },
    /// Kubernetes can allocate another number of GPUs than the driver answers for.
    #[error(
        "node {node}: the driver answers for {usable} {what}, Kubernetes can allocate {allocatable}"
    )]
    GpusNotAllocatable {
        /// The node.
        node: NodeId,
        /// What is counted: `NVIDIA GPUs`, `MIG instances 1g.10gb`.
        what: String,
        /// How many the driver answers for.
        usable: u64,
        /// How many can be allocated.
        allocatable: u64,
    },
    /// GPUs that nobody has asked, counted as others tell of them.
    #[error(
        "node {node}: {count} NVIDIA GPUs are counted as the kernel's driver and the Node's labels tell of them, since \
         NVIDIA's library does not answer ({reason}): one that is dead is not found out"
    )]
    GpusUnasked {
        /// The node.
        node: NodeId,
        /// How many.
        count: u64,
        /// Why the library does not answer.
        reason: String,
    },
    /// A GPU that shares the machine's memory.
    #[error("node {node}: {model} has no memory of its own, it is counted as 0")]
    GpuMemoryShared {
        /// The node.
        node: NodeId,
        /// The GPU's model.
        model: String,
    },
    /// Accelerators that rollcall cannot measure.
    #[error("node {node}: {count} accelerators cannot be measured and are not counted: {devices}")]
    Unmeasured {
        /// The node.
        node: NodeId,
        /// How many.
        count: usize,
        /// Their PCI addresses and ids.
        devices: String,
    },
}

/// What a node's entry is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<'a> {
    /// The node's `nodeID` label.
    pub id: &'a NodeId,
    /// What is known of it.
    pub inventory: &'a Inventory,
    /// Its lost GPUs.
    pub losses: Losses<'a>,
    /// Whether a driver of GPUs as a whole does not answer.
    pub gpus_unanswered: bool,
    /// The GPUs that Kubernetes can allocate there, where it tells.
    pub allocatable: Option<AllocatableGpus>,
}

impl<'a> Source<'a> {
    /// A node on the roll as it stands now.
    pub fn of(entry: &'a Entry, now: Timestamp, gpu_loss_hold_down: Duration) -> Self {
        let losses = Losses::at(&entry.lost_gpus, now, gpu_loss_hold_down);
        let (id, inventory) = (&entry.node_id, &entry.inventory);
        let gpus_unanswered = entry.gpus_unanswered.is_some();
        Self { id, inventory, losses, gpus_unanswered, allocatable: None }
    }
}

impl<'a> From<(&'a NodeId, &'a Inventory)> for Source<'a> {
    /// A node without a history: what does not answer does not count.
    fn from((id, inventory): (&'a NodeId, &'a Inventory)) -> Self {
        let losses = Losses::default();
        Self { id, inventory, losses, gpus_unanswered: false, allocatable: None }
    }
}

/// Assembles the document from nodes in the order given.
pub fn assemble<'a, S: Into<Source<'a>>>(
    cluster: &Cluster,
    overrides: &Overrides,
    nodes: impl IntoIterator<Item = S>,
) -> Assembly {
    let mut warnings = Vec::new();
    let mut incomplete = Vec::new();
    let mut node_data = Vec::new();
    for node in nodes {
        match NodeData::build(&node.into(), overrides, &mut warnings) {
            Ok(node) => node_data.push(node.into()),
            Err(reason) => incomplete.push(reason),
        }
    }
    let totals = Totals::of(node_data.iter().map(Deref::deref));
    let document = ClusterDocument::with(cluster, totals, node_data);
    Assembly { document, incomplete, warnings }
}

impl ClusterDocument {
    /// The document of a cluster whose nodes come to these totals.
    fn with(cluster: &Cluster, totals: Totals, node_data: Vec<Shared<NodeData>>) -> Self {
        Self {
            id: cluster.id.to_string(),
            region_id: cluster.region_id.clone(),
            status: cluster.status.clone(),
            gpus: totals.gpus,
            vcpus: totals.vcpus,
            memory: totals.memory,
            swap: totals.swap,
            storage: totals.storage,
            network: totals.network,
            nodes: Nodes { count: totals.nodes, node_data },
            config: cluster.config.clone(),
            tags: cluster.tags.clone(),
            cluster_metadata: cluster.cluster_metadata.clone(),
            reputation: cluster.reputation,
        }
    }
}

impl NodeData {
    /// Makes a node's entry; what has to be said about it is added to `warnings`.
    ///
    /// # Errors
    ///
    /// When a capacity is not known.
    pub fn build(
        source: &Source<'_>,
        overrides: &Overrides,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Incomplete> {
        let Source { id, inventory, .. } = *source;
        let need = Need { node: id };
        let cpu = need.known(Subject::Cpu, &inventory.cpu)?;
        let memory = need.known(Subject::Memory, &inventory.memory)?;
        let swap = need.known(Subject::Swap, &inventory.swap)?;
        let storage = storage(need, inventory)?;
        // Warnings only once nothing can keep the node out any more: what is not in the document
        // needs no warning about its numbers.
        let mut noted = Vec::new();
        let gpus = gpus::gpus(need, source, &mut noted)?;
        let network = network(need, inventory, overrides, &mut noted)?;
        warnings.append(&mut noted);
        Ok(Self {
            id: id.clone(),
            gpus: gpus.into(),
            vcpus: Vcpus { count: cpu.online.into() },
            memory: memory.total_bytes / MIB,
            swap: swap.total_bytes / MIB,
            storage,
            network,
        })
    }
}

/// Takes readings that must be known, for one node.
#[derive(Clone, Copy)]
struct Need<'a> {
    node: &'a NodeId,
}

impl Need<'_> {
    fn known<T>(self, subject: Subject, reading: &Reading<T>) -> Result<&T, Incomplete> {
        match reading {
            Reading::Known(value) => Ok(value),
            Reading::Absent => Err(self.missing(subject, "the machine tells none")),
            Reading::Failed { reason } => Err(self.missing(subject, reason)),
        }
    }

    fn missing(self, subject: Subject, reason: &str) -> Incomplete {
        Incomplete { node: self.node.clone(), subject, reason: reason.to_owned() }
    }
}

fn storage(need: Need<'_>, inventory: &Inventory) -> Result<Storage, Incomplete> {
    let disks = need.known(Subject::Disks, &inventory.disks)?;
    let (mut disks_counted, mut bytes) = (0, 0);
    for disk in disks.iter().filter(|disk| disk.attachment == Attachment::Local) {
        disks_counted += 1;
        bytes += need.known(Subject::Disks, &disk.size_bytes)?;
    }
    Ok(Storage { disks: disks_counted, size: bytes / MIB })
}

fn network(
    need: Need<'_>,
    inventory: &Inventory,
    overrides: &Overrides,
    warnings: &mut Vec<Warning>,
) -> Result<Network, Incomplete> {
    let nics = need.known(Subject::Nics, &inventory.nics)?;
    let mut bandwidth = 0;
    for nic in nics {
        if nic.kind == NicKind::Other
            && let Some(reason) = nic.speed_mbps.failure()
        {
            // What could not be decided may be no adapter at all.
            return Err(need.missing(Subject::Nics, reason));
        }
        bandwidth += speed_mbps(need.node, nic, overrides).unwrap_or_else(|| {
            let (node, nic) = (need.node.clone(), nic.name.clone());
            warnings.push(Warning::NicSpeedUnknown { node, nic });
            0
        });
    }
    Ok(Network { interfaces: count(nics), tx_bandwidth: bandwidth, rx_bandwidth: bandwidth })
}

/// What an interface gives, in Mbit/s; `None`: neither the machine nor the owner tells.
fn speed_mbps(node: &NodeId, nic: &Nic, overrides: &Overrides) -> Option<u64> {
    match (nic.link, &nic.speed_mbps) {
        // A driver may keep telling the speed of a link that is gone.
        (Link::Down, _) => Some(0),
        (_, Reading::Known(speed)) => Some(*speed),
        (_, Reading::Absent | Reading::Failed { .. }) => {
            overrides.nic_speed_mbps(node, &nic.name).map(u64::from)
        }
    }
}

/// The interfaces of a node whose bandwidth counts as 0 because nobody tells it; `None`: its
/// interfaces are not known.
pub fn unknown_speeds<'a>(source: &Source<'a>, overrides: &Overrides) -> Option<Vec<&'a str>> {
    let nics = source.inventory.nics.known()?.iter();
    let unknown = nics.filter(|nic| speed_mbps(source.id, nic, overrides).is_none());
    Some(unknown.map(|nic| nic.name.as_str()).collect())
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
