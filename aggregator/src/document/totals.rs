//! The document's totals: exact sums of its nodes, which one node can be taken out of or put into.

use super::{GpuTotals, Network, NodeData, Storage, Vcpus};

/// What nodes hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many they are.
    pub nodes: u64,
    /// Their GPUs.
    pub gpus: GpuTotals,
    /// Their vCPUs.
    pub vcpus: Vcpus,
    /// Their memory, MiB.
    pub memory: u64,
    /// Their swap, MiB.
    pub swap: u64,
    /// Their disks.
    pub storage: Storage,
    /// Their interfaces.
    pub network: Network,
}

impl Totals {
    /// The totals of nodes.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a NodeData>) -> Self {
        let mut totals = Self::default();
        for node in nodes {
            totals.add(node);
        }
        totals
    }

    /// Puts a node in.
    pub fn add(&mut self, node: &NodeData) {
        self.change(node, u64::wrapping_add);
    }

    /// Takes out a node that was put in. Sums wrap: so taking out undoes putting in, whatever was said.
    pub fn remove(&mut self, node: &NodeData) {
        self.change(node, u64::wrapping_sub);
    }

    fn change(&mut self, node: &NodeData, by: fn(u64, u64) -> u64) {
        let change = |total: &mut u64, part: u64| *total = by(*total, part);
        change(&mut self.nodes, 1);
        change(&mut self.gpus.count, node.gpus.count);
        change(&mut self.gpus.memory, node.gpus.memory);
        change(&mut self.vcpus.count, node.vcpus.count);
        change(&mut self.memory, node.memory);
        change(&mut self.swap, node.swap);
        change(&mut self.storage.disks, node.storage.disks);
        change(&mut self.storage.size, node.storage.size);
        change(&mut self.network.interfaces, node.network.interfaces);
        change(&mut self.network.tx_bandwidth, node.network.tx_bandwidth);
        change(&mut self.network.rx_bandwidth, node.network.rx_bandwidth);
    }
}
