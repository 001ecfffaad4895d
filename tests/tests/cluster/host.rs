//! What the agents see from their pods is the host.

use std::collections::BTreeMap;
use std::path::Path;

use rollcall_tests::cluster::deployment::{Deployment, NAMESPACE};
use rollcall_tests::cluster::{Cluster, text};
use rollcall_tests::process::program;
use serde_json::{Value, json};

/// What the agent in the node's pod says.
pub(crate) fn probe_in_pod(cluster: &Cluster, rollcall: &Deployment<'_>, node: &str) -> Value {
    let command = ["rollcall-agent", "probe", "--host-root", "/host"];
    parsed(&cluster.exec(NAMESPACE, &rollcall.agent_on(node), &command))
}

/// What the agent says when it is run on the node itself, in all of the node's namespaces.
pub(crate) fn probe_on_node(cluster: &Cluster, node: &str) -> Value {
    let agent = program("rollcall-agent").display().to_string();
    parsed(&cluster.run_on(node, &[&agent, "probe"]))
}

/// An inventory against the tools of the node. The bed's nodes share this machine's hardware and its
/// one /sys, whose network devices are those of the machine's first network namespace; `ip` is
/// therefore asked here, and not on the node.
pub(crate) fn is_as_the_tools_say(cluster: &Cluster, node: &str, inventory: &Value) {
    let cpus = cluster.run_on(node, &["lscpu", "--parse=CPU"]);
    let cpus = cpus.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(inventory["cpu"]["known"]["online"], json!(cpus), "{node}: CPUs, as lscpu says");

    let meminfo = cluster.run_on(node, &["cat", "/proc/meminfo"]);
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let bytes = kib.map(|kib| kib * 1024);
    assert_eq!(
        inventory["memory"]["known"]["totalBytes"],
        json!(bytes),
        "{node}: memory, as /proc/meminfo says"
    );

    let lsblk =
        cluster.run_on(node, &["lsblk", "--json", "--bytes", "--nodeps", "-o", "NAME,SIZE,TYPE"]);
    let lsblk = parsed(&lsblk);
    let is_disk = |device: &&Value| {
        // Compressed memory; the rest of what is virtual is of another type.
        let is_zram = text(device, "/name").starts_with("zram");
        text(device, "/type") == "disk" && !is_zram && device["size"] != json!(0)
    };
    let devices = lsblk["blockdevices"].as_array().expect("a list of devices");
    let expected: BTreeMap<_, _> = devices
        .iter()
        .filter(is_disk)
        .map(|device| (text(device, "/name"), device["size"].clone()))
        .collect();
    let disks = inventory["disks"]["known"].as_array().expect("a list of disks");
    let told: BTreeMap<_, _> = disks
        .iter()
        .map(|disk| (text(disk, "/name"), disk["sizeBytes"]["known"].clone()))
        .collect();
    assert_eq!(told, expected, "{node}: disks, as lsblk says");

    let links = std::process::Command::new("ip").args(["-json", "link"]).output();
    let links = parsed(&String::from_utf8_lossy(&links.expect("ip runs").stdout));
    let is_hardware = |link: &&str| Path::new("/sys/class/net").join(link).join("device").exists();
    let links = links.as_array().expect("a list of links");
    let mut expected: Vec<_> =
        links.iter().map(|link| text(link, "/ifname")).filter(is_hardware).collect();
    let nics = inventory["nics"]["known"].as_array().expect("a list of interfaces");
    let mut told: Vec<_> = nics.iter().map(|nic| text(nic, "/name")).collect();
    expected.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, expected, "{node}: interfaces, as ip says");
}

fn parsed(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("no JSON ({error}): {printed}"))
}
