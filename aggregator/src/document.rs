//! The cluster onboarding document, and how it is assembled from what the nodes hold.
//!
//! Pure: no I/O, no clock. Field names, nesting and order are those of AIOS's documentation. Sizes
//! are "MB", which AIOS's own code takes as MiB: each leaf (a node's memory, a node's swap, a
//! node's storage, a GPU's memory) is rounded down once, and every total is the exact sum of its
//! nodes.

use rollcall_report::{
    Attachment, ComputeCapability, Gpu, Inventory, Link, NodeId, Reading, Subject,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::cluster_file::{Cluster, Overrides};

const MIB: u64 = 1024 * 1024;

/// The cluster onboarding document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nodes {
    /// How many there are.
    pub count: u64,
    /// One entry each.
    pub node_data: Vec<NodeData>,
}

/// A node in the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeData {
    /// The node's `nodeID` label.
    pub id: NodeId,
    /// Its GPUs.
    pub gpus: NodeGpus,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeGpus {
    /// How many are usable.
    pub count: u64,
    /// Their memory together, MiB.
    pub memory: u64,
    /// One entry each.
    pub gpus: Vec<GpuEntry>,
    /// What they can do, see [`features`].
    pub features: Vec<String>,
    /// The different models, in the order of their first GPU.
    pub model_names: Vec<String>,
}

/// A GPU in the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuEntry {
    /// The maker's name for it.
    pub model_name: String,
    /// Its memory, MiB.
    pub memory: u64,
}

/// GPUs of all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuTotals {
    /// How many are usable.
    pub count: u64,
    /// Their memory together, MiB.
    pub memory: u64,
}

/// vCPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpus {
    /// How many there are.
    pub count: u64,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// How many there are.
    pub disks: u64,
    /// What they hold together, MiB.
    pub size: u64,
}

/// Network interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// GPUs that are there and do not answer.
    #[error("node {node}: {lost} of {expected} NVIDIA GPUs do not answer and are not counted")]
    GpusLost {
        /// The node.
        node: NodeId,
        /// How many do not answer.
        lost: u32,
        /// How many there are.
        expected: u32,
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

/// Assembles the document from nodes in the order given.
pub fn assemble<'a>(
    cluster: &Cluster,
    overrides: &Overrides,
    nodes: impl IntoIterator<Item = (&'a NodeId, &'a Inventory)>,
) -> Assembly {
    let mut warnings = Vec::new();
    let mut incomplete = Vec::new();
    let mut node_data = Vec::new();
    for (id, inventory) in nodes {
        match NodeData::build(id, inventory, overrides, &mut warnings) {
            Ok(node) => node_data.push(node),
            Err(reason) => incomplete.push(reason),
        }
    }
    Assembly { document: ClusterDocument::sum(cluster, node_data), incomplete, warnings }
}

impl ClusterDocument {
    fn sum(cluster: &Cluster, node_data: Vec<NodeData>) -> Self {
        let total = |of: fn(&NodeData) -> u64| node_data.iter().map(of).sum::<u64>();
        Self {
            id: cluster.id.to_string(),
            region_id: cluster.region_id.clone(),
            status: cluster.status.clone(),
            gpus: GpuTotals {
                count: total(|node| node.gpus.count),
                memory: total(|node| node.gpus.memory),
            },
            vcpus: Vcpus { count: total(|node| node.vcpus.count) },
            memory: total(|node| node.memory),
            swap: total(|node| node.swap),
            storage: Storage {
                disks: total(|node| node.storage.disks),
                size: total(|node| node.storage.size),
            },
            network: Network {
                interfaces: total(|node| node.network.interfaces),
                tx_bandwidth: total(|node| node.network.tx_bandwidth),
                rx_bandwidth: total(|node| node.network.rx_bandwidth),
            },
            nodes: Nodes { count: count(&node_data), node_data },
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
        id: &NodeId,
        inventory: &Inventory,
        overrides: &Overrides,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Incomplete> {
        let need = Need { node: id };
        let cpu = need.known(Subject::Cpu, &inventory.cpu)?;
        let memory = need.known(Subject::Memory, &inventory.memory)?;
        let swap = need.known(Subject::Swap, &inventory.swap)?;
        let storage = storage(need, inventory)?;
        // Warnings only once nothing can keep the node out any more: what is not in the document
        // needs no warning about its numbers.
        let mut noted = Vec::new();
        let gpus = gpus(need, inventory, &mut noted)?;
        let network = network(need, inventory, overrides, &mut noted)?;
        warnings.append(&mut noted);
        Ok(Self {
            id: id.clone(),
            gpus,
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
    let local = disks.iter().filter(|disk| disk.attachment == Attachment::Local);
    let mut sizes = Vec::new();
    for disk in local {
        sizes.push(*need.known(Subject::Disks, &disk.size_bytes)?);
    }
    Ok(Storage { disks: count(&sizes), size: sizes.iter().sum::<u64>() / MIB })
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
        bandwidth += match (nic.link, &nic.speed_mbps) {
            // A driver may keep telling the speed of a link that is gone.
            (Link::Down, _) => 0,
            (_, Reading::Known(speed)) => *speed,
            (_, Reading::Absent | Reading::Failed { .. }) => {
                overrides.nic_speed_mbps(need.node, &nic.name).map_or_else(
                    || {
                        warnings.push(Warning::NicSpeedUnknown {
                            node: need.node.clone(),
                            nic: nic.name.clone(),
                        });
                        0
                    },
                    u64::from,
                )
            }
        };
    }
    Ok(Network { interfaces: count(nics), tx_bandwidth: bandwidth, rx_bandwidth: bandwidth })
}

fn gpus(
    need: Need<'_>,
    inventory: &Inventory,
    warnings: &mut Vec<Warning>,
) -> Result<NodeGpus, Incomplete> {
    let gpus = need.known(Subject::Gpus, &inventory.gpus)?;
    if !gpus.unmeasured.is_empty() {
        let devices = gpus.unmeasured.iter().map(|accelerator| {
            format!(
                "{} ({}:{})",
                accelerator.pci_address, accelerator.vendor_id, accelerator.device_id
            )
        });
        warnings.push(Warning::Unmeasured {
            node: need.node.clone(),
            count: gpus.unmeasured.len(),
            devices: devices.collect::<Vec<_>>().join(", "),
        });
    }
    let driver = match (&gpus.nvidia_driver, &gpus.nvidia_pci_devices) {
        (Reading::Known(driver), _) => driver,
        // No GPU, so no driver was asked: a healthy 0.
        (Reading::Absent, Reading::Absent | Reading::Known(0)) => return Ok(NodeGpus::default()),
        (Reading::Absent, Reading::Known(_)) => {
            return Err(need.missing(Subject::Gpus, "there are GPUs, and no driver was asked"));
        }
        (Reading::Failed { reason }, _) | (Reading::Absent, Reading::Failed { reason }) => {
            return Err(need.missing(Subject::Gpus, reason));
        }
    };
    let usable = u32::try_from(driver.gpus.len()).unwrap_or(u32::MAX);
    let listed = usable.saturating_add(u32::try_from(driver.failures.len()).unwrap_or(u32::MAX));
    let expected = gpus.nvidia_pci_devices.known().copied().unwrap_or(0).max(listed);
    if usable < expected {
        let lost = expected - usable;
        warnings.push(Warning::GpusLost { node: need.node.clone(), lost, expected });
    }
    let mut entries = Vec::with_capacity(driver.gpus.len());
    for gpu in &driver.gpus {
        let memory = match &gpu.memory_bytes {
            Reading::Known(bytes) => bytes / MIB,
            Reading::Absent => {
                warnings.push(Warning::GpuMemoryShared {
                    node: need.node.clone(),
                    model: gpu.model.clone(),
                });
                0
            }
            Reading::Failed { reason } => return Err(need.missing(Subject::Gpus, reason)),
        };
        entries.push(GpuEntry { model_name: gpu.model.clone(), memory });
    }
    let mut model_names: Vec<String> = Vec::new();
    for entry in &entries {
        if !model_names.contains(&entry.model_name) {
            model_names.push(entry.model_name.clone());
        }
    }
    Ok(NodeGpus {
        count: count(&entries),
        memory: entries.iter().map(|entry| entry.memory).sum(),
        features: features_of_all(&driver.gpus),
        gpus: entries,
        model_names,
    })
}

/// What a node's GPUs can do: what every one of them can, so that work which asks for a feature may
/// land on any.
fn features_of_all(gpus: &[Gpu]) -> Vec<String> {
    let mut common: Option<Vec<&str>> = None;
    for gpu in gpus {
        let own = gpu.compute_capability.map_or_else(Vec::new, |at| features(at, &gpu.model));
        common = Some(match common {
            None => own,
            Some(names) => names.into_iter().filter(|name| own.contains(name)).collect(),
        });
    }
    common.unwrap_or_default().into_iter().map(str::to_owned).collect()
}

/// What a GPU can do by its compute capability.
///
/// Source: CUDA C++ Programming Guide, "Compute Capabilities": arithmetic throughput and supported
/// types by version. Turing's TU116 and TU117 (GTX 16xx, T400 to T2000, MX450, MX550) have compute capability 7.5
/// without tensor cores.
pub fn features(capability: ComputeCapability, model: &str) -> Vec<&'static str> {
    let at_least = |major, minor| (capability.major, capability.minor) >= (major, minor);
    let turing_without = (capability.major, capability.minor) == (7, 5)
        && ["GTX 16", "T400", "T500", "T550", "T600", "T1000", "T1200", "T2000", "MX450", "MX550"]
            .iter()
            .any(|name| model.contains(name));
    [
        ("fp16", at_least(5, 3)),
        ("tensor_cores", at_least(7, 0) && !turing_without),
        ("bf16", at_least(8, 0)),
        ("fp8", at_least(8, 9)),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect()
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
