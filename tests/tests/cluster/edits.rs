//! What people edit and delete of the store in the cluster is put right, or at least takes nothing away.

use std::time::Duration;

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::cluster::replicas::{Kinds, Replicas};
use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use serde_json::{Value, json};

use super::departures::{SETTINGS, assert_entry, registered};

pub(super) fn edits_are_put_right(cluster: &Cluster) {
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let replicas = registered(cluster, &aios);

    // A number that somebody has written in: the next report is no news, and writes it right.
    let right = replicas.inventory(1).expect("its object")["spec"]["memoryMiB"].clone();
    patch(&replicas, cluster, 0, &json!({ "memoryMiB": 999_999 }));
    let report = replicas.report(0, 8);
    wait_until("the right number", SOON, || {
        replicas.accept(0, &report);
        let shown = replicas.inventory(0).expect("its object")["spec"]["memoryMiB"].clone();
        if shown == right { Ok(()) } else { Err(shown) }
    });

    // A record that nobody can read: the node cannot report, says why, and stays in the entry.
    patch(&replicas, cluster, 1, &json!({ "entry": "garbage" }));
    for replica in replicas.running() {
        // It may not have heard of it yet, and is overtaken then.
        wait_until("the report to be refused", SOON, || {
            match post(&replicas, replica, &replicas.report(1, 9)) {
                (503, words) if words.contains("delete it") => Ok(()),
                (503, words) => Err(words),
                other => panic!("{other:?}"),
            }
        });
    }
    assert_entry(&aios, SETTINGS.nodes);
    cluster.kubectl(&["delete", "nodeinventory", replicas.node(1)]);
    wait_until("the node's report to be taken", SOON, || {
        match post(&replicas, 0, &replicas.report(1, 8)) {
            (200, _) => Ok(()),
            refused => Err(refused),
        }
    });

    // An object that is deleted, and a node that comes back under another id: one machine, one id.
    cluster.kubectl(&["delete", "nodeinventory", replicas.node(2)]);
    let mut renamed = replicas.report(2, 8);
    renamed["node"]["proposedId"] = json!("renamed");
    renamed["node"]["idSource"] = json!("label");
    wait_until("the node's report to be taken", SOON, || match post(&replicas, 0, &renamed) {
        (200, _) => Ok(()),
        refused => Err(refused),
    });
    wait_until("the new id in the place of the old one", SOON, || {
        let ids = ids(&aios);
        let is_right = ids.contains(&"renamed".to_owned())
            && !ids.iter().any(|id| id == replicas.node(2))
            && ids.len() == SETTINGS.nodes;
        if is_right { Ok(()) } else { Err(ids) }
    });

    // What only the cluster holds is written again at once.
    let namespace = replicas.namespace.name();
    let installation = installation(cluster, namespace);
    cluster.kubectl(&["-n", namespace, "delete", "ledger", "installation"]);
    cluster.kubectl(&["-n", namespace, "delete", "onboarding", "aios"]);
    wait_until("the installation's id", SOON, || {
        let now = cluster.try_get(&["ledger", "installation", "-n", namespace])?;
        if now["spec"]["lines"] == installation {
            Ok::<_, String>(())
        } else {
            Err(now.to_string())
        }
    });
    wait_until("the target's object", SOON, || {
        cluster.try_get(&["onboarding", "aios", "-n", namespace]).map(drop)
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_entry(&aios, SETTINGS.nodes);
    assert_eq!(aios.registrations(), 1);
}

fn patch(replicas: &Replicas<'_>, cluster: &Cluster, node: usize, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    let name = replicas.node(node);
    cluster.kubectl(&["patch", "nodeinventory", name, "--type=merge", "--patch", &patch]);
}

fn post(replicas: &Replicas<'_>, replica: usize, report: &Value) -> (u16, String) {
    let answer = replicas.at(replica).post_report(report.to_string().as_bytes());
    (answer.status, answer.body)
}

fn installation(cluster: &Cluster, namespace: &str) -> Value {
    cluster.get(&["ledger", "installation", "-n", namespace])["spec"]["lines"].clone()
}

fn ids(aios: &AiosStandin) -> Vec<String> {
    let entry = aios.cluster(rollcall_tests::bed::CLUSTER_ID).expect("the entry");
    let nodes = entry.pointer("/nodes/nodeData").and_then(Value::as_array).expect("nodes");
    nodes.iter().map(|node| text(node, "/id").to_owned()).collect()
}
