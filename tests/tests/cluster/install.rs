//! rollcall is installed as docs/kubernetes.md says, does its work and goes again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rollcall_tests::cluster::deployment::{self, Deployment, NAMESPACE, Settings};
use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use serde_json::{Value, json};

use super::host::{probe_in_pod, probe_on_node};
use super::watch::LabelWatch;
use super::{label, labels, rights};

const MIB: u64 = 1024 * 1024;

/// From `kubectl apply` to a registered cluster; that its sizes are the nodes'; that a restart of
/// everything changes nothing; and that it goes without a trace.
pub(crate) fn it_registers_within_a_minute(cluster: &Cluster) {
    let aios = deployment::aios(cluster);
    let file = deployment::cluster_file(&aios, "", "");
    let nodes = cluster.names(&["nodes"]);
    cluster.kubectl(&["label", "nodes", "--all", "nodeID-"]);
    let started = Instant::now();
    let rollcall =
        Deployment::apply(cluster, &Settings { cluster_file: &file, ..Settings::default() });
    let own_names: BTreeMap<_, _> =
        nodes.iter().map(|node| (node.clone(), Some(node.clone()))).collect();
    wait_until("every node to carry its label", SOON, || match labels(cluster) {
        labels if labels == own_names => Ok(()),
        labels => Err(labels),
    });
    let labelled = started.elapsed();
    let entry = rollcall.wait_until_registered(&aios);
    let registered = started.elapsed();
    println!("labelled after {labelled:.1?}, registered after {registered:.1?}");
    assert!(registered < SOON, "registered after {registered:?}");
    rollcall.wait_until_ready();

    let document = rollcall.document();
    let probes: BTreeMap<_, _> = nodes
        .iter()
        .map(|node| (node.clone(), Sizes::probed(&probe_on_node(cluster, node))))
        .collect();
    sizes_are_right(&document, &probes);
    // The network adds of its own; the sizes are ours.
    for subject in ["nodes", "gpus", "vcpus", "memory", "swap", "storage", "network"] {
        assert_eq!(entry[subject], document[subject], "{subject} in the network");
    }
    inventories_are_listed(cluster, &document);
    for node in &nodes {
        host_is_seen(cluster, &rollcall, node);
    }

    everything_restarts(cluster, &rollcall, &nodes);
    assert_eq!(labels(cluster), own_names, "after the restart");
    assert_eq!(aios.creates().len(), 1, "it is registered once");
    let now = aios.cluster(deployment::CLUSTER_ID);
    assert_eq!(now.as_ref(), Some(&entry), "the entry after the restart");
    rollcall.uninstall();
}

/// The overlay without rights for agents, with three replicas of the aggregator.
pub(crate) fn the_aggregator_stamps(cluster: &Cluster) {
    let aios = deployment::aios(cluster);
    let file = deployment::cluster_file(&aios, "", "stamping: aggregator\n");
    let settings = Settings {
        overlay: "stamping-by-aggregator",
        cluster_file: &file,
        components: &["ha", "host-files"],
        ..Settings::default()
    };
    let rollcall = Deployment::start(cluster, &settings);
    assert_eq!(rollcall.pods("aggregator").len(), 3, "replicas");
    rollcall.wait_until_registered(&aios);
    assert_eq!(aios.creates().len(), 1, "three replicas register once");
    let nodes = cluster.names(&["nodes"]);
    for node in &nodes {
        wait_until(&format!("the label of {node}"), SOON, || is_labelled(cluster, node, node));
        // With the component host-files nothing differs at all.
        let (pod, host) = (probe_in_pod(cluster, &rollcall, node), probe_on_node(cluster, node));
        assert_eq!(
            (&pod["inventory"], &pod["node"]),
            (&host["inventory"], &host["node"]),
            "{node}"
        );
    }
    let node = nodes.first().expect("a node");
    cluster.kubectl(&["label", "node", node, "nodeID-"]);
    let removed = Instant::now();
    wait_until("the label to be back", SOON, || is_labelled(cluster, node, node));
    let back = removed.elapsed();
    println!("stamped again after {back:.1?}");
    assert!(back < Duration::from_secs(5), "the label of {node} was away for {back:?}");
    rights::agents_have_none(cluster, &rollcall);
}

fn is_labelled(cluster: &Cluster, node: &str, id: &str) -> Result<(), Option<String>> {
    match label(cluster, node) {
        Some(label) if label == id => Ok(()),
        label => Err(label),
    }
}

/// What is summed up of the nodes, but for GPUs, which the bed's have not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    vcpus: u64,
    memory: u64,
    swap: u64,
    disks: u64,
    storage: u64,
    interfaces: u64,
    bandwidth: u64,
}

impl Sizes {
    /// Of a report, in the units of the document.
    fn probed(report: &Value) -> Self {
        let inventory = &report["inventory"];
        let number = |pointer: &str| {
            let value = inventory.pointer(pointer).and_then(Value::as_u64);
            value.unwrap_or_else(|| panic!("{pointer} is not known: {inventory}"))
        };
        let rows = |pointer: &str| {
            let rows = inventory.pointer(pointer).and_then(Value::as_array);
            rows.unwrap_or_else(|| panic!("{pointer} is not known: {inventory}"))
        };
        let disks = rows("/disks/known");
        let nics = rows("/nics/known");
        let bytes: u64 = disks.iter().filter_map(|disk| disk["sizeBytes"]["known"].as_u64()).sum();
        Self {
            vcpus: number("/cpu/known/online"),
            memory: number("/memory/known/totalBytes") / MIB,
            swap: number("/swap/known/totalBytes") / MIB,
            disks: disks.len() as u64,
            storage: bytes / MIB,
            interfaces: nics.len() as u64,
            bandwidth: nics.iter().filter_map(|nic| nic["speedMbps"]["known"].as_u64()).sum(),
        }
    }

    /// Of a node's entry in the document, or of the document's totals.
    fn told(entry: &Value) -> Self {
        let number = |pointer: &str| {
            let value = entry.pointer(pointer).and_then(Value::as_u64);
            value.unwrap_or_else(|| panic!("{pointer} is not told: {entry}"))
        };
        Self {
            vcpus: number("/vcpus/count"),
            memory: number("/memory"),
            swap: number("/swap"),
            disks: number("/storage/disks"),
            storage: number("/storage/size"),
            interfaces: number("/network/interfaces"),
            bandwidth: number("/network/txBandwidth"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus + other.vcpus,
            memory: self.memory + other.memory,
            swap: self.swap + other.swap,
            disks: self.disks + other.disks,
            storage: self.storage + other.storage,
            interfaces: self.interfaces + other.interfaces,
            bandwidth: self.bandwidth + other.bandwidth,
        }
    }
}

/// The document against the nodes' own probes.
fn sizes_are_right(document: &Value, probes: &BTreeMap<String, Sizes>) {
    let entries = document["nodes"]["nodeData"].as_array().expect("a list of nodes");
    let told: BTreeMap<_, _> =
        entries.iter().map(|entry| (text(entry, "/id").to_owned(), Sizes::told(entry))).collect();
    assert_eq!(&told, probes, "the document's nodes, against what the nodes say");
    assert_eq!(document["nodes"]["count"], json!(probes.len()), "the number of nodes");
    let total = probes.values().fold(Sizes::default(), |sum, node| sum.plus(*node));
    assert_eq!(Sizes::told(document), total, "the document's totals");
}

/// `kubectl get ni` against the document.
fn inventories_are_listed(cluster: &Cluster, document: &Value) {
    let printed = cluster.kubectl(&["get", "ni", "--output", "wide"]);
    let listed = table(&printed);
    let entries = document["nodes"]["nodeData"].as_array().expect("a list of nodes");
    let expected: BTreeMap<_, _> = entries
        .iter()
        .map(|entry| {
            let (id, sizes) = (text(entry, "/id"), Sizes::told(entry));
            let columns = [
                ("NODE ID", id.to_owned()),
                ("VCPUS", sizes.vcpus.to_string()),
                ("MEMORY MIB", sizes.memory.to_string()),
                ("SWAP MIB", sizes.swap.to_string()),
                ("STORAGE MIB", sizes.storage.to_string()),
                ("MBIT/S", sizes.bandwidth.to_string()),
                ("GPUS", entry["gpus"]["count"].to_string()),
            ];
            (id.to_owned(), BTreeMap::from(columns.map(|(name, cell)| (name.to_owned(), cell))))
        })
        .collect();
    let of_interest = |row: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let known = expected.values().next().into_iter().flat_map(BTreeMap::keys);
        known.map(|name| (name.clone(), row.get(name).cloned().unwrap_or_default())).collect()
    };
    let listed: BTreeMap<_, _> = listed
        .iter()
        .map(|row| (row.get("NAME").cloned().unwrap_or_default(), of_interest(row)))
        .collect();
    assert_eq!(listed, expected, "{printed}");
}

/// A table as kubectl prints it: names of columns have single blanks, columns three.
fn table(printed: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = printed.lines();
    let head = lines.next().unwrap_or_default();
    let mut columns: Vec<(usize, &str)> = Vec::new();
    for name in head.split("   ").map(str::trim).filter(|name| !name.is_empty()) {
        let from = columns.last().map_or(0, |(start, last)| start + last.len());
        let start = head.get(from..).and_then(|rest| rest.find(name)).expect("a column") + from;
        columns.push((start, name));
    }
    let ends = columns.iter().skip(1).map(|(start, _)| *start).chain([usize::MAX]);
    let columns: Vec<_> = columns.iter().zip(ends).collect();
    let row = |line: &str| {
        let cell = |start: usize, end: usize| {
            line.get(start..end.min(line.len())).unwrap_or_default().trim().to_owned()
        };
        columns
            .iter()
            .map(|((start, name), end)| ((*name).to_owned(), cell(*start, *end)))
            .collect()
    };
    lines.filter(|line| !line.is_empty()).map(row).collect()
}

/// What the agent tells in its pod is what it tells on the node, but for what the overlay does not
/// mount: /etc/machine-id and /etc/os-release (component `host-files`).
fn host_is_seen(cluster: &Cluster, rollcall: &Deployment<'_>, node: &str) {
    let mut host = probe_on_node(cluster, node);
    let machine = host["inventory"]["machine"]["known"].as_object_mut().expect("a machine");
    assert!(machine.remove("operatingSystem").is_some(), "{node} has an /etc/os-release");
    let identity = host["node"].as_object_mut().expect("an identity");
    assert!(identity.remove("machineHash").is_some(), "{node} has an /etc/machine-id");
    let pod = probe_in_pod(cluster, rollcall, node);
    for part in ["inventory", "node", "health"] {
        assert_eq!(pod[part], host[part], "{part} of {node}: in the pod, and on the node");
    }
    super::host::is_as_the_tools_say(cluster, node, &pod["inventory"]);
}

/// Deletes every pod at once. No label may change on the way, and the roll must be as before.
fn everything_restarts(cluster: &Cluster, rollcall: &Deployment<'_>, nodes: &[String]) {
    let watch = LabelWatch::start(cluster);
    let before = rollcall.document();
    let old = rollcall.pods("agent");
    let at_once = ["delete", "pods", "--all", "--namespace", NAMESPACE, "--wait=false"];
    cluster.kubectl(&at_once);
    let restarted = Instant::now();
    wait_until("new agents", SOON, || {
        let new = rollcall.pods("agent");
        let is_new = new.len() == nodes.len() && new.iter().all(|pod| !old.contains(pod));
        if is_new { Ok(()) } else { Err(new) }
    });
    rollcall.wait_until_ready();
    // The agents' first reports were accepted: they are ready. Both have come to the aggregator.
    let reports = wait_until("the reports after the restart", SOON, || {
        let metrics = rollcall.metrics(&rollcall.aggregator(), deployment::ADMIN);
        let count = |outcome: &str| {
            let name = format!("rollcall_aggregator_reports_total{{outcome=\"{outcome}\"}}");
            deployment::count_of(&metrics, &name)
        };
        let reports = count("changed") + count("unchanged");
        if reports >= nodes.len() as u64 { Ok(reports) } else { Err(metrics) }
    });
    println!("{reports} reports {:.1?} after the restart of everything", restarted.elapsed());
    assert_eq!(rollcall.document(), before, "the document after the restart");
    let seen = watch.end();
    assert!(seen.len() >= nodes.len(), "the watch of the labels saw too little: {seen:?}");
    for (node, label) in seen {
        assert_eq!(label.as_ref(), Some(&node), "the label of {node} changed");
    }
}
