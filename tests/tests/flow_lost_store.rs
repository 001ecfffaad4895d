//! The aggregator's store is lost while the cluster is registered: nothing of the entry is.
#![expect(clippy::expect_used, reason = "what is not there fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, get, report, said};
use serde_json::{Value, json};

const NODES: u64 = 50;

/// As in the cluster file.
const HOLD_DOWN: Duration = Duration::from_secs(1);

fn report_of(aggregator: &Aggregator, node: u64) {
    aggregator.accept(&report(&format!("node-{node}"), node));
}

fn stored(aios: &AiosStandin) -> Value {
    aios.cluster(CLUSTER_ID).expect("the cluster is registered")
}

fn installation(entry: &Value) -> &str {
    let mark = entry.pointer("/clusterMetadata/additionalInfo/rollcallInstallation");
    mark.and_then(Value::as_str).expect("an installation's mark")
}

fn ids(entry: &Value) -> Vec<&str> {
    let nodes = entry.pointer("/nodes/nodeData").and_then(Value::as_array).expect("nodes");
    nodes.iter().map(|node| node["id"].as_str().expect("an id")).collect()
}

/// Everything but GETs.
fn changes(aios: &AiosStandin) -> Vec<String> {
    let requests = aios.requests();
    let changes = requests.iter().filter(|request| request.method != "GET");
    changes.map(|request| format!("{} {}", request.method, request.path)).collect()
}

#[test]
fn a_lost_store_cuts_nothing_down() {
    let aios = AiosStandin::start();
    let bed = Bed::new(&Bed::aios_target(
        &aios.parser_url(),
        &aios.gateway_url(),
        "    lookEvery: 1s\nexpect: {nodes: 50}\ndepartures: {holdDown: 1s}\n",
    ));
    let mut aggregator = bed.aggregator(&[]);
    for node in 0..NODES {
        report_of(&aggregator, node);
    }
    aggregator.wait_for_log("the cluster is registered");
    assert!(aggregator.daemon.terminate().success());
    let before = stored(&aios);
    assert_eq!(before.pointer("/nodes/count"), Some(&json!(NODES)));
    assert_eq!(changes(&aios), ["POST /api/createCluster"]);
    for ending in ["", "-wal", "-shm"] {
        match fs::remove_file(bed.path(&format!("rollcall.db{ending}"))) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{ending}: {error}"),
        }
    }

    // One agent of fifty: too few to register with.
    let aggregator = bed.aggregator(&[]);
    report_of(&aggregator, 7);
    aggregator.wait_for_log("1 of 50 expected nodes have reported");
    let waits = aggregator.act(&["submit", "aios"]);
    assert_eq!(waits.status.code(), Some(1), "{}", said(&waits));
    assert!(said(&waits).contains("1 of 50 expected nodes have reported"), "{}", said(&waits));

    // Without adopt it is somebody else's entry.
    let refused = aggregator.act(&["submit", "aios", "--partial"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("target aios is foreign"), "{}", said(&refused));
    assert!(said(&refused).contains("take it over with submit --adopt"), "{}", said(&refused));
    assert_eq!(aggregator.target()["phase"], "foreign");
    assert_eq!(stored(&aios), before, "untouched");
    assert_eq!(changes(&aios), ["POST /api/createCluster"]);

    // With it, it is ours, and as large as before.
    aggregator.do_act(&["submit", "aios", "--adopt", "--partial"]);
    let adopted = stored(&aios);
    assert_ne!(installation(&adopted), installation(&before));
    let document = aggregator.ask(&["document", "aios"]);
    assert_eq!(installation(&adopted), installation(&document));
    assert_eq!(document.pointer("/nodes/count"), Some(&json!(1)));
    for field in ["nodes", "gpus", "vcpus", "memory", "swap", "storage", "network"] {
        assert_eq!(adopted[field], before[field], "{field}");
    }
    let status = aggregator.ask(&["status", "--output", "json"]);
    let kept = status.pointer("/targets/0/kept").and_then(Value::as_array).expect("kept nodes");
    let kept: BTreeSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let expected: BTreeSet<&str> = ids(&before).into_iter().filter(|id| *id != "node-7").collect();
    assert_eq!((kept.len(), kept), (49, expected));
    let metrics = get(aggregator.admin, "/metrics", "").body;
    assert!(metrics.contains("rollcall_aggregator_target_kept_nodes{target=\"aios\"} 49"));

    // The others come back, but for one.
    for node in 0..NODES - 1 {
        report_of(&aggregator, node);
    }
    aggregator.wait_for_target("one kept node", PATIENCE, |target| {
        target["phase"] == "registered" && target["kept"] == json!(["node-49"])
    });
    assert_eq!(stored(&aios), adopted, "nothing is lost, nothing doubled");
    let puts = changes(&aios).len();

    // It never comes back.
    let forgotten = Instant::now();
    aggregator.do_act(&["forget", "node-49"]);
    aios.wait_for("the departure", PATIENCE, |aios| ids(&stored(aios)).len() < 50);
    assert!(forgotten.elapsed() >= HOLD_DOWN, "{:?}", forgotten.elapsed());
    let target = aggregator.wait_for_phase("registered");
    assert_eq!(target.get("kept"), None, "{target}");
    let last = stored(&aios);
    let rest: Vec<&str> = ids(&before).into_iter().filter(|id| *id != "node-49").collect();
    assert_eq!(ids(&last), rest);
    assert_eq!(last.pointer("/nodes/count"), Some(&json!(NODES - 1)));
    let document = aggregator.ask(&["document", "aios"]);
    for field in ["gpus", "vcpus", "memory", "swap", "storage", "network"] {
        assert_eq!(last[field], document[field], "{field}");
    }
    assert_eq!(changes(&aios).len(), puts + 1);
    assert_eq!(aios.creates().len(), 1);
}
