//! A cluster that is far too large for one request: 1,000 nodes of 8 GPUs, through a registry that
//! takes no body over 100 KiB.
#![expect(clippy::expect_used, reason = "what is not there fails the test")]

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::aios::{AiosStandin, Fault};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, report_with_gpus, said};
use serde_json::{Value, json};

const NODES: u64 = 1000;

/// What the document holds besides the list of nodes, and the registry keeps.
const TOTALS: [&str; 8] =
    ["/nodes/count", "/gpus", "/vcpus", "/memory", "/swap", "/storage", "/network", "/regionId"];

/// As many threads as keep an aggregator busy.
const REPORTERS: u64 = 4;

/// All nodes report; they come onto the roll in no order.
fn all_report(aggregator: &Aggregator) {
    thread::scope(|scope| {
        for reporter in 0..REPORTERS {
            scope.spawn(move || {
                for node in (0..NODES).filter(|node| node % REPORTERS == reporter) {
                    aggregator.accept(&report_with_gpus(&format!("node-{node}"), node, 8));
                }
            });
        }
    });
}

fn node_ids(holder: &Value) -> Vec<String> {
    let nodes = holder.pointer("/nodes/nodeData").and_then(Value::as_array).expect("nodes");
    nodes.iter().map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
}

fn stored(aios: &AiosStandin) -> Value {
    aios.cluster(CLUSTER_ID).expect("the cluster is registered")
}

fn assert_equal(what: &str, stored: &Value, document: &Value) {
    for pointer in TOTALS {
        assert_eq!(stored.pointer(pointer), document.pointer(pointer), "{what}: {pointer}");
    }
    assert_eq!(node_ids(stored), node_ids(document), "{what}");
    // Compared apart: 1,000 nodes in a message help nobody.
    assert!(stored["nodes"] == document["nodes"], "{what}: the nodes' data differs");
}

#[test]
fn a_thousand_nodes_go_in_pieces_survive_a_crash_and_leave_by_the_hundred() {
    let aios = AiosStandin::start();
    // The third update is never answered and never carried out, once.
    let mut updates = 0;
    aios.misbehave_by(move |request| {
        updates += u32::from(request.method == "PUT");
        (request.method == "PUT" && updates == 3).then_some(Fault::NotAnswering)
    });
    let rest = Bed::aios_target(
        &aios.parser_url(),
        &aios.gateway_url(),
        // Long enough to forget 300 nodes before the first of them is taken away.
        "    lookEvery: 12s\nexpect: {nodes: 1000}\ndepartures: {holdDown: 20s}\n",
    );
    let bed = Bed::new(&rest);
    let mut aggregator = bed.aggregator(&[]);
    let started = Instant::now();
    all_report(&aggregator);
    let document = aggregator.ask(&["document", "aios"]);
    assert_eq!(document.pointer("/nodes/count"), Some(&json!(NODES)));
    assert_eq!(document.pointer("/gpus/count"), Some(&json!(8 * NODES)));

    // A crash between two pieces.
    aios.wait_for("the third update", PATIENCE * 3, |aios| {
        aios.requests().iter().filter(|request| request.method == "PUT").count() == 3
    });
    aggregator.daemon.kill_9();
    aios.stop_misbehaving();
    let creates = aios.creates();
    let [create] = creates.as_slice() else { panic!("{} creates", creates.len()) };
    let sent = create.json().expect("JSON");
    let first = &sent["body"]["spec"]["values"];
    for pointer in TOTALS {
        assert_eq!(first.pointer(pointer), document.pointer(pointer), "from the first: {pointer}");
    }
    let cut = stored(&aios);
    assert_eq!(
        cut.pointer("/nodes/count"),
        Some(&json!(NODES)),
        "true though the list is not whole"
    );
    assert_eq!(cut.get("gpus"), document.get("gpus"));
    let (held, all) = (node_ids(&cut), node_ids(&document));
    let in_first = node_ids(first).len();
    assert!(in_first < held.len() && held.len() < all.len() / 2, "{in_first}, {}", held.len());
    assert_eq!(held, all[..held.len()], "the pieces that were carried out");

    // It goes on where it was.
    let before = aios.requests().len();
    let aggregator = bed.aggregator(&[]);
    aggregator.wait_for_log("the cluster is registered");
    assert_equal("after a crash", &stored(&aios), &document);
    assert_eq!(aios.creates().len(), 1);
    let requests = aios.requests();
    let pieces: Vec<Value> = requests[before..]
        .iter()
        .filter(|request| request.method == "PUT")
        .map(|request| request.json().expect("JSON"))
        .collect();
    let keys: Vec<&String> =
        pieces.iter().flat_map(|piece| piece.as_object().expect("an object").keys()).collect();
    let missing: Vec<String> =
        (held.len()..all.len()).map(|index| format!("nodes.nodeData.{index}")).collect();
    assert_eq!(keys, missing.iter().collect::<Vec<_>>(), "only what was missing, each once");
    let registered_after = started.elapsed();

    // 300 leave, by one command.
    let leaving: Vec<String> = (0..900).step_by(3).map(|node| format!("node-{node}")).collect();
    let mut command = vec!["forget"];
    command.extend(leaving.iter().map(String::as_str));
    aggregator.do_act(&command);
    let waits =
        aggregator.wait_for_target("a proposal", PATIENCE * 3, |it| it.get("proposal").is_some());
    assert_eq!(waits["phase"], "drifted");
    let detail = waits["detail"].as_str().expect("why");
    assert!(detail.contains("300 of 1000 nodes would be taken away"), "{detail}");
    assert!(detail.contains("waits for approval: run approve"), "{detail}");
    assert_equal("before the approval", &stored(&aios), &document);
    let unapproved = aggregator.act(&["submit", "aios"]);
    assert_eq!(unapproved.status.code(), Some(1), "{}", said(&unapproved));
    assert!(said(&unapproved).contains("waits for approval"), "{}", said(&unapproved));
    assert_equal("submit is no approval", &stored(&aios), &document);

    let approved = aggregator.act(&["approve", "aios", "--yes"]);
    assert!(approved.status.success(), "{}", said(&approved));
    assert!(said(&approved).contains("target aios is registered"), "{}", said(&approved));
    let left: HashSet<&String> = leaving.iter().collect();
    let rest: Vec<String> = all.iter().filter(|id| !left.contains(id)).cloned().collect();
    let stored = stored(&aios);
    assert_eq!(node_ids(&stored), rest, "in the order of registration");
    assert_equal("afterwards", &stored, &aggregator.ask(&["document", "aios"]));
    assert_eq!(stored.pointer("/nodes/count"), Some(&json!(NODES - 300)));
    assert_eq!(stored.pointer("/gpus/count"), Some(&json!(8 * (NODES - 300))));
    assert_eq!(aios.creates().len(), 1);
    let all_in = started.elapsed();
    assert!(all_in < Duration::from_mins(5), "registered {registered_after:?}, all {all_in:?}");
}
