//! Others write into the network's entry, and the cluster changes: what is put right, what is left
//! alone, and when it is left to a person.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what is not there fails the test"
)]

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, get, report, said};
use serde_json::{Value, json};

const KUBECONFIG: &str = "apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: a-token-of-the-test}}]
";

fn bed_for(aios: &AiosStandin, more: &str) -> Bed {
    Bed::new(&Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), more))
}

/// The bodies of the updates so far.
fn updates(aios: &AiosStandin) -> Vec<Value> {
    let requests = aios.requests();
    let updates = requests.iter().filter(|request| request.method == "PUT");
    updates.map(|request| request.json().expect("JSON")).collect()
}

fn keys(body: &Value) -> BTreeSet<&str> {
    body.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn looks(aios: &AiosStandin) -> usize {
    aios.requests().iter().filter(|request| request.method == "GET").count()
}

/// Waits until the entry was looked at so many more times.
fn wait_for_looks(aios: &AiosStandin, more: usize) {
    let wanted = looks(aios) + more;
    aios.wait_for("looks at the entry", PATIENCE, |aios| looks(aios) >= wanted);
}

fn stored(aios: &AiosStandin) -> Value {
    aios.cluster(CLUSTER_ID).expect("the cluster is registered")
}

/// Whether the entry holds what the document says, in what is always ours.
fn is_right(aios: &AiosStandin, document: &Value) -> bool {
    let stored = stored(aios);
    ["nodes", "gpus", "vcpus", "memory", "swap", "storage", "network", "regionId"]
        .iter()
        .all(|field| stored[field] == document[field])
}

#[test]
fn what_aios_overwrites_is_put_right_within_a_minute() {
    let aios = AiosStandin::start();
    // `lookEvery` as it is by default.
    let infrastructure = format!(
        "    infrastructure: {{kubeconfigFile: KUBECONFIG, tasksUrl: '{}'}}\nexpect: {{nodes: 2}}\n",
        aios.tasks_url()
    );
    let bed = bed_for(&aios, &infrastructure);
    bed.write("kubeconfig", KUBECONFIG);
    let kubeconfig = bed.path("kubeconfig").display().to_string();
    bed.write("cluster.yaml", &bed.cluster_file().replace("KUBECONFIG", &kubeconfig));
    bed.declare("  config: {publicHostname: public.example.org, useGateway: false}\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    // The network takes every node for one with 10,000 Mbit/s, which is right for the other node.
    let mut fast = report("node-b", 2);
    fast["inventory"]["nics"]["known"][0]["speedMbps"]["known"] = 25_000.into();
    aggregator.accept(&fast);
    aggregator.wait_for_log("the cluster is registered");
    assert_eq!(updates(&aios), Vec::<Value>::new());
    let document = aggregator.ask(&["document", "aios"]);

    let started = |aios: &AiosStandin| aios.infrastructures() == [CLUSTER_ID];
    aios.wait_for("the infrastructure", PATIENCE, started);
    let overwritten = Instant::now();
    aios.wait_for("an update", Duration::from_mins(1), |aios| is_right(aios, &document));
    assert!(overwritten.elapsed() < Duration::from_mins(1), "{:?}", overwritten.elapsed());
    let sent = updates(&aios);
    let [update] = sent.as_slice() else { panic!("{} updates", sent.len()) };
    let expected = BTreeSet::from([
        "swap",
        "storage.disks",
        "storage.size",
        "network.txBandwidth",
        "network.rxBandwidth",
        "nodes.nodeData.0.swap",
        "nodes.nodeData.0.storage.disks",
        "nodes.nodeData.0.storage.size",
        "nodes.nodeData.1.swap",
        "nodes.nodeData.1.storage.disks",
        "nodes.nodeData.1.storage.size",
        "nodes.nodeData.1.network.txBandwidth",
        "nodes.nodeData.1.network.rxBandwidth",
    ]);
    assert_eq!(keys(update), expected, "only what is wrong");
    // What the network added to our configuration is its own.
    assert!(stored(&aios).pointer("/config/urlMap/controllerService").is_some());

    // And what is overwritten at any time.
    aggregator.wait_for_phase("registered");
    aios.overwrite(CLUSTER_ID, &[("memory", json!(7)), ("nodes.nodeData.1.gpus.count", json!(0))]);
    let overwritten = Instant::now();
    aios.wait_for("an update", Duration::from_mins(1), |aios| is_right(aios, &document));
    assert!(overwritten.elapsed() < Duration::from_mins(1), "{:?}", overwritten.elapsed());
    let sent = updates(&aios);
    assert_eq!(sent.len(), 2);
    assert_eq!(keys(&sent[1]), BTreeSet::from(["memory", "nodes.nodeData.1.gpus.count"]));
    assert!(stored(&aios).pointer("/config/urlMap/controllerService").is_some());
    assert_eq!(aios.creates().len(), 1);
}

/// The war is given up: it is shown everywhere, and nothing more is sent.
fn assert_contested(aggregator: &Aggregator, aios: &AiosStandin) {
    let target = aggregator.wait_for_target("the war's end", Duration::from_mins(2), |target| {
        target["phase"] == "contested"
    });
    let detail = target["detail"].as_str().expect("why");
    assert!(detail.contains("find out why, then run submit"), "{detail}");
    assert!(detail.contains("memory is 7 there"), "{detail}");
    let metrics = get(aggregator.admin, "/metrics", "").body;
    let gauge = "rollcall_aggregator_target_phase{phase=\"contested\",target=\"aios\"} 1";
    assert!(metrics.contains(gauge), "{metrics}");
    aggregator.daemon.wait_for_line(
        |line| {
            line.contains("ERROR")
                && line.contains("a person must act")
                && line.contains("contested")
        },
        PATIENCE,
    );
    let sent = updates(aios).len();
    // As long as several looks and updates took before.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(updates(aios).len(), sent, "nothing is sent any more");
    assert_eq!(stored(aios)["memory"], json!(7));
}

#[test]
fn a_writer_that_never_gives_in_is_left_to_a_person() {
    // Writes at once after each update.
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    aios.overwrite_whenever_changed(CLUSTER_ID, vec![("memory", json!(7))]);
    aggregator.accept(&report("node-a", 1));
    assert_contested(&aggregator, &aios);
    let sent = updates(&aios);
    assert!((2..=10).contains(&sent.len()), "{} updates", sent.len());
    assert!(sent.iter().all(|update| keys(update) == BTreeSet::from(["memory"])), "{sent:?}");

    // It is tried again on the operator's word, and given up again while the other one goes on.
    let again = aggregator.act(&["submit", "aios"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("target aios is contested: "), "{}", said(&again));
    assert!(updates(&aios).len() > sent.len());
    aios.leave_alone();
    aggregator.do_act(&["submit", "aios"]);
    assert!(is_right(&aios, &aggregator.ask(&["document", "aios"])));
    assert_eq!(aios.creates().len(), 1);
}

#[test]
fn a_writer_that_comes_back_each_time_is_left_to_a_person() {
    // Writes only after the entry was seen to be right.
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let mut times = 0;
    loop {
        let target =
            aggregator.wait_for_target("registered, or not any more", PATIENCE, |target| {
                let is_right =
                    target["phase"] == "registered" && stored(&aios)["memory"] != json!(7);
                is_right || target["phase"] == "contested"
            });
        if target["phase"] == "contested" {
            break;
        }
        times += 1;
        assert!(times < 20, "a war without an end");
        aios.overwrite(CLUSTER_ID, &[("memory", json!(7))]);
    }
    assert_contested(&aggregator, &aios);
    assert_eq!(updates(&aios).len(), 5, "it was put right five times in a row");
    aggregator.do_act(&["submit", "aios"]);
    assert!(is_right(&aios, &aggregator.ask(&["document", "aios"])));
}

#[test]
fn what_the_policy_writes_is_left_until_the_owner_changes_it() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::PolicyRewritesReputation { reputation: 7 });
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 1}\n");
    bed.declare("  reputation: 50\n  config: {x: 1, y: {z: 2}}\n  tags: [ours]\n");
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    aggregator.wait_for_log("the cluster is registered");
    aios.overwrite(
        CLUSTER_ID,
        &[("tags", json!(["theirs"])), ("config.urlMap", json!({"a": "b"}))],
    );
    wait_for_looks(&aios, 3);
    assert_eq!(updates(&aios), Vec::<Value>::new(), "theirs to say");

    // The owner changes one thing at a time; each is all that is sent.
    for (what, before, after, expected) in [
        ("reputation", "reputation: 50", "reputation: 60", json!({"reputation": 60})),
        ("a key of config", "{x: 1, y", "{x: 3, y", json!({"config.x": 3})),
        ("one below it", "{z: 2}", "{z: 4, new: 5}", json!({"config.y.z": 4, "config.y.new": 5})),
    ] {
        let sent = updates(&aios).len();
        assert!(aggregator.daemon.terminate().success());
        bed.write("cluster.yaml", &bed.cluster_file().replace(before, after));
        aggregator = bed.aggregator(&[]);
        aios.wait_for(what, PATIENCE, |aios| updates(aios).len() > sent);
        aggregator.wait_for_phase("registered");
        wait_for_looks(&aios, 2);
        assert_eq!(updates(&aios)[sent..], [expected], "{what}");
    }
    let stored = stored(&aios);
    assert_eq!(stored["tags"], json!(["theirs"]));
    assert_eq!(stored["config"], json!({"x": 3, "y": {"z": 4, "new": 5}, "urlMap": {"a": "b"}}));
}

#[test]
fn a_node_that_is_renamed_is_replaced_at_once() {
    let aios = AiosStandin::start();
    // A node that leaves is taken away after the default of ten minutes.
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 5}\n");
    let aggregator = bed.aggregator(&[]);
    // A fifth of them may go without an approval.
    for node in 1..=5 {
        aggregator.accept(&report(&format!("node-{node}"), node));
    }
    aggregator.wait_for_log("the cluster is registered");
    let mut renamed = report("node-1", 1);
    renamed["node"]["proposedId"] = "rack-7".into();
    renamed["node"]["idSource"] = "explicit".into();
    aggregator.accept(&renamed);
    let ids = |holder: &Value| -> Vec<Value> {
        let nodes = holder.pointer("/nodes/nodeData").and_then(Value::as_array).expect("nodes");
        nodes.iter().map(|node| node["id"].clone()).collect()
    };
    aios.wait_for("the new id", PATIENCE, |aios| ids(&stored(aios)).contains(&json!("rack-7")));
    assert_eq!(ids(&stored(&aios)), ["node-2", "node-3", "node-4", "node-5", "rack-7"]);
    aggregator.wait_for_phase("registered");
    let (stored, document) = (stored(&aios), aggregator.ask(&["document", "aios"]));
    for field in ["gpus", "memory", "vcpus"] {
        assert_eq!(stored[field], document[field], "{field}");
    }
    assert_eq!(stored.pointer("/nodes/count"), Some(&json!(5)));
    assert_eq!(aggregator.target().get("kept"), None);
}

#[test]
fn a_node_that_is_forgotten_and_comes_back_in_time_was_never_away() {
    let aios = AiosStandin::start();
    let bed =
        bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 5}\ndepartures: {holdDown: 15s}\n");
    let aggregator = bed.aggregator(&[]);
    for node in 1..=5 {
        aggregator.accept(&report(&format!("node-{node}"), node));
    }
    aggregator.wait_for_log("the cluster is registered");
    let registered = stored(&aios);
    aggregator.do_act(&["forget", "node-3"]);
    aggregator.do_act(&["forget", "node-4"]);
    aggregator.wait_for_target("two nodes that leave", PATIENCE, |target| {
        let detail = target["detail"].as_str().unwrap_or_default();
        target["phase"] == "registered" && detail.contains("2 nodes leave the entry")
    });
    aggregator.accept(&report("node-3", 3));
    // Longer than the hold-down of both: one of them is gone for good.
    aios.wait_for("the departure", PATIENCE * 2, |aios| !updates(aios).is_empty());
    aggregator.wait_for_phase("registered");
    wait_for_looks(&aios, 2);
    let nodes = |entry: &Value| entry["nodes"]["nodeData"].as_array().expect("nodes").clone();
    let mut expected = nodes(&registered);
    expected.retain(|node| node["id"] != "node-4");
    assert_eq!(nodes(&stored(&aios)), expected);
    assert_eq!(updates(&aios).len(), 1, "it was written to once");
}
