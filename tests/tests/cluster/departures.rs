//! Nodes that are deleted leave the network's entry after the hold-down; what is done by mistake takes
//! nothing away.

use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::cluster::replicas::{Kinds, Replicas, Settings};
use rollcall_tests::cluster::{Cluster, Need, SOON, text, wait_until};
use serde_json::Value;

const HOLD_DOWN: Duration = Duration::from_secs(3);
pub(super) const SETTINGS: Settings<'static> = Settings {
    replicas: 2,
    nodes: 6,
    interval: Duration::from_mins(1),
    target: "    lookEvery: 1s\n    timeout: 5s\n",
    more: "departures: {holdDown: 3s, approveAbovePercent: 70}\n",
};

/// All Nodes' agents have reported, and the cluster is registered with all of them.
pub(super) fn registered<'a>(cluster: &'a Cluster, aios: &AiosStandin) -> Replicas<'a> {
    let mut replicas = Replicas::prepare(cluster, "departures", aios, &SETTINGS);
    replicas.start_all();
    for node in 0..SETTINGS.nodes {
        replicas.accept(node % SETTINGS.replicas, &replicas.report(node, 8));
    }
    aios.wait_for("the cluster to be registered", SOON, |aios| {
        sizes(aios) == Some(expected(SETTINGS.nodes))
    });
    replicas
}

/// How many nodes the network's entry has, and their vCPUs and swap together.
fn sizes(aios: &AiosStandin) -> Option<[u64; 3]> {
    let entry = aios.cluster(CLUSTER_ID)?;
    let number = |pointer| entry.pointer(pointer).and_then(Value::as_u64);
    let listed = entry.pointer("/nodes/nodeData").and_then(Value::as_array)?.len() as u64;
    assert_eq!(number("/nodes/count"), Some(listed), "{entry}");
    Some([listed, number("/vcpus/count")?, number("/swap")?])
}

/// What these are for so many of our nodes: each has 32 vCPUs and 8 GiB of swap.
fn expected(nodes: usize) -> [u64; 3] {
    [1, 32, 8 * 1024].map(|of_each| of_each * nodes as u64)
}

/// The entry has so many nodes, whole.
pub(super) fn assert_entry(aios: &AiosStandin, nodes: usize) {
    assert_eq!(sizes(aios), Some(expected(nodes)));
}

/// Waits for the entry to have so many nodes.
fn wait_for_nodes(aios: &AiosStandin, nodes: usize) {
    wait_until(&format!("an entry of {nodes} nodes"), SOON, || match sizes(aios) {
        sizes if sizes == Some(expected(nodes)) => Ok(()),
        sizes => Err(sizes),
    });
}

pub(super) fn deleted_nodes_leave_the_entry(cluster: &Cluster) {
    let has_controllers = cluster.lacks(Need::Nodes).is_none();
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let mut replicas = registered(cluster, &aios);

    // Kubernetes' garbage collector, or else the leader, deletes what the Node owned.
    replicas.delete_node(0);
    // The object goes before its Node.
    cluster.kubectl(&["delete", "nodeinventory", replicas.node(1)]);
    replicas.delete_node(1);
    // The object stays when its Node goes: then it is the leader's to delete.
    disown(cluster, replicas.node(2));
    // Before it is asked for: when it is done, who watches may have known for a while.
    let asked = Instant::now();
    replicas.delete_node(2);
    wait_for_nodes(&aios, SETTINGS.nodes - 3);
    let took = asked.elapsed();
    assert!(took >= HOLD_DOWN, "after {took:?}");
    for node in 0..3 {
        let gone = replicas.inventory(node).expect_err("its object is gone");
        assert!(gone.contains("NotFound"), "{gone}");
    }

    // Nobody runs that could see a Node go.
    for replica in replicas.running() {
        replicas.take(replica).daemon.kill_9();
    }
    replicas.delete_node(3);
    if has_controllers {
        wait_until("the garbage collector", SOON, || match replicas.inventory(3) {
            Ok(object) => Err(object),
            Err(_gone) => Ok(()),
        });
    }
    disown(cluster, replicas.node(4));
    replicas.delete_node(4);
    let asked = Instant::now();
    replicas.start_all();
    wait_for_nodes(&aios, 1);
    let took = asked.elapsed();
    assert!(took >= HOLD_DOWN, "after {took:?}");
    let gone = wait_until("the object of a Node that is gone", SOON, || {
        replicas.inventory(4).err().ok_or("is there still")
    });
    assert!(gone.contains("NotFound"), "{gone}");
    assert_eq!(aios.registrations(), 1);
}

/// Makes a Node's inventory nobody's, so that no garbage collector takes it.
fn disown(cluster: &Cluster, node: &str) {
    let patch = r#"{"metadata": {"ownerReferences": null}}"#;
    cluster.kubectl(&["patch", "nodeinventory", node, "--type=merge", "--patch", patch]);
}

pub(super) fn mistakes_take_nothing_away(cluster: &Cluster) {
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let mut replicas = registered(cluster, &aios);
    // The DaemonSet is gone as well: nobody reports from here on.
    replicas.unselect_nodes();
    assert_all_stay(&aios, &replicas);
    // Whoever is started then knows no better.
    for replica in replicas.running() {
        replicas.take(replica).daemon.kill_9();
    }
    replicas.start_all();
    assert_all_stay(&aios, &replicas);
    // What is put right is as before; a refusal would stand for a minute by itself.
    replicas.make_nodes();
    let leader = replicas.wait_for_holder();
    replicas.at(leader).do_act(&["submit", "aios"]);
    replicas.at(leader).wait_for_phase("registered");
    assert_eq!(sizes(&aios), Some(expected(SETTINGS.nodes)));
    assert_eq!(aios.registrations(), 1);
}

/// The leader says that it takes nothing away, and does not, for much longer than the hold-down.
fn assert_all_stay(aios: &AiosStandin, replicas: &Replicas<'_>) {
    wait_until("somebody to lead and to refuse", SOON, || {
        let target = replicas.at(replicas.wait_for_holder()).target();
        let says = text(&target, "/detail").contains("an entry is never emptied");
        if says { Ok(()) } else { Err(target) }
    });
    let end = Instant::now() + HOLD_DOWN * 3;
    while Instant::now() < end {
        assert_eq!(sizes(aios), Some(expected(SETTINGS.nodes)));
        thread::sleep(Duration::from_millis(100));
    }
}
