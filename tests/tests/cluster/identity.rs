//! Whose id a node has: labels that are there, labels that go, and two claims to one id.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollcall_tests::cluster::deployment::{self, ADMIN, AGENT, CLUSTER_ID, Deployment, Settings};
use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use serde_json::Value;

use super::label;
use super::watch::{DocumentWatch, only_once};

/// How soon a label is back that somebody has removed.
const BACK: Duration = Duration::from_secs(5);

/// A label that is there beforehand is the node's id everywhere; one that is removed comes back; one
/// that is changed is taken over.
pub(crate) fn labels_are_kept_and_adopted(cluster: &Cluster) {
    let [first, second] = two_nodes(cluster);
    let labels = Labels(cluster);
    labels.set(&first, "chosen-by-hand");
    let aios = deployment::aios(cluster);
    let file = deployment::cluster_file(&aios, "", "");
    let settings = Settings { cluster_file: &file, ..Settings::default() };
    let rollcall = Deployment::start(cluster, &settings);
    let entry = rollcall.wait_until_registered(&aios);
    let expected = BTreeSet::from(["chosen-by-hand", &second]);
    assert_eq!(ids(&entry), expected, "in the network");
    assert_eq!(ids(&rollcall.document()), expected, "in the document");
    assert_eq!(inventory_id(cluster, &first), "chosen-by-hand");
    assert_eq!(label(cluster, &first).as_deref(), Some("chosen-by-hand"));

    for (node, id) in [(&first, "chosen-by-hand"), (&second, second.as_str())] {
        wait_until(&format!("the label of {node}"), SOON, || is_labelled(cluster, node, id));
        cluster.kubectl(&["label", "node", node, "nodeID-"]);
        let removed = Instant::now();
        wait_until("the label to be back", SOON, || is_labelled(cluster, node, id));
        let away = removed.elapsed();
        println!("{node}: stamped again after {away:.1?}");
        assert!(away < BACK, "the label of {node} was away for {away:?}");
    }

    labels.set(&second, "renamed-by-hand");
    let changed = Instant::now();
    let expected = BTreeSet::from(["chosen-by-hand", "renamed-by-hand"]);
    wait_until("the changed label to be adopted", SOON, || {
        let document = rollcall.document();
        if ids(&document) == expected { Ok(()) } else { Err(document) }
    });
    println!("{second}: a changed label adopted after {:.1?}", changed.elapsed());
    assert_eq!(inventory_id(cluster, &second), "renamed-by-hand");
    assert_eq!(label(cluster, &second).as_deref(), Some("renamed-by-hand"), "nobody put it back");
}

/// Two nodes of one label, and an explicit id against a label: one is refused, and that is told as
/// an Event, a metric and to operators; the document never has two nodes of one id.
pub(crate) fn no_id_stands_twice(cluster: &Cluster) {
    let nodes = two_nodes(cluster);
    let labels = Labels(cluster);
    for node in &nodes {
        labels.set(node, "twin");
    }
    let aios = deployment::aios(cluster);
    let file = deployment::cluster_file(&aios, "", "");
    let settings = Settings { cluster_file: &file, ..Settings::default() };
    let rollcall = Deployment::apply(cluster, &settings);
    wait_until("the aggregator to be ready", SOON, || rollcall.try_operate(&["status"]));
    let document = DocumentWatch::start(cluster);

    // Whoever reports first has it.
    let refused = wait_until("one of the twins to be refused", SOON, || refused(&rollcall));
    let [name] = &refused[..] else { panic!("more than one is refused: {refused:?}") };
    let owner = nodes.iter().find(|node| *node != name).expect("the other node");
    let words = format!("node id twin belongs to node {owner}");
    conflict_is_told(&rollcall, cluster, name, &words);
    assert_eq!(ids(&rollcall.document()), BTreeSet::from(["twin"]));
    assert_eq!(aios.creates().len(), 0, "registered without a node that is expected");

    // The remedy: the label of the one that was refused goes, and it gets an id of its own.
    cluster.kubectl(&["label", "node", name, "nodeID-"]);
    let entry = rollcall.wait_until_registered(&aios);
    assert_eq!(ids(&entry), BTreeSet::from(["twin", name]), "in the network");
    wait_until("the label of its own", SOON, || is_labelled(cluster, name, name));
    wait_until("no conflict to be shown any more", SOON, || match self::refused(&rollcall) {
        Ok(still) => Err(still),
        Err(_none) => Ok(()),
    });
    assert_eq!(label(cluster, owner).as_deref(), Some("twin"), "the owner's label");

    // An id for all agents: the first pod that is replaced finds another label on its Node, is
    // refused and never ready, so that the others stay as they are.
    let before = super::labels(cluster);
    cluster.kubectl(&[
        "set",
        "env",
        "--namespace",
        deployment::NAMESPACE,
        "daemonset/rollcall-agent",
        "ROLLCALL_NODE_ID=by-flag",
    ]);
    let refused = wait_until("the explicit id to be refused", SOON, || self::refused(&rollcall));
    let [name] = &refused[..] else { panic!("more than one is refused: {refused:?}") };
    let words = format!("node {name} was given the id by-flag, and its Node carries the label");
    conflict_is_told(&rollcall, cluster, name, &words);
    let metrics = rollcall.metrics(&rollcall.agent_on(name), AGENT);
    let gauge = "rollcall_agent_label_conflicts{label=\"nodeID\"}";
    assert_eq!(deployment::value_of(&metrics, gauge), Some(1.0), "{metrics}");
    assert_eq!(super::labels(cluster), before, "nothing is stamped");
    assert_eq!(ids(&rollcall.document()), ids(&entry), "the node keeps its id");

    let looks = document.end();
    println!("the document was looked at {looks} times");
    assert!(looks > 30, "the document was looked at only {looks} times");
    for request in aios.requests() {
        if let Some(sent) = request.json().filter(|body| body["nodes"]["nodeData"].is_array()) {
            only_once(&sent).expect("what was sent to the network");
        }
    }
    let entry = aios.cluster(CLUSTER_ID).expect("an entry");
    only_once(&entry).expect("the network's entry");
}

/// Labels set by hand; they go when the test ends.
struct Labels<'a>(&'a Cluster);

impl Labels<'_> {
    fn set(&self, node: &str, id: &str) {
        self.0.kubectl(&["label", "node", node, &format!("nodeID={id}"), "--overwrite"]);
    }
}

impl Drop for Labels<'_> {
    fn drop(&mut self) {
        // The deployment, gone before, has removed them; this is for when there was none.
        let _removed = self.0.try_kubectl(&["label", "nodes", "--all", "nodeID-"], "");
    }
}

fn two_nodes(cluster: &Cluster) -> [String; 2] {
    let nodes = cluster.names(&["nodes"]);
    nodes.try_into().unwrap_or_else(|nodes| panic!("the bed has two nodes, not {nodes:?}"))
}

fn is_labelled(cluster: &Cluster, node: &str, id: &str) -> Result<(), Option<String>> {
    match label(cluster, node) {
        Some(label) if label == id => Ok(()),
        label => Err(label),
    }
}

fn ids(document: &Value) -> BTreeSet<&str> {
    let entries = document["nodes"]["nodeData"].as_array().into_iter().flatten();
    entries.map(|entry| text(entry, "/id")).collect()
}

fn inventory_id(cluster: &Cluster, node: &str) -> String {
    text(&cluster.get(&["nodeinventory", node]), "/spec/nodeID").to_owned()
}

/// Nodes whose reports are refused, by the conflicts that operators are shown; an error where there
/// are none.
fn refused(rollcall: &Deployment<'_>) -> Result<Vec<String>, Value> {
    let status = rollcall.ask(&["status"]);
    let conflicts: BTreeSet<_> =
        status["conflicts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if conflicts.is_empty() {
        return Err(status);
    }
    let nodes = rollcall.pods("agent").into_iter().map(|pod| pod.node);
    // "node id … belongs to node OWNER; give node NAME …" and "node NAME was given the id …".
    let names = nodes.filter(|node| {
        let of = [format!("give node {node} "), format!("node {node} was given the id ")];
        conflicts.iter().any(|conflict| of.iter().any(|words| conflict.contains(words)))
    });
    Ok(names.collect())
}

/// A refused node is told of in every place that operators look at.
fn conflict_is_told(rollcall: &Deployment<'_>, cluster: &Cluster, node: &str, words: &str) {
    for command in ["nodes", "status"] {
        let said = rollcall.operate(&[command]);
        assert!(said.contains("! refused: ") && said.contains(words), "{command}: {said}");
    }
    wait_until("the Event", SOON, || {
        let about = format!("involvedObject.kind=Node,involvedObject.name={node}");
        let events = cluster.kubectl(&["get", "events", "--field-selector", &about]);
        let told = |line: &str| line.contains("NodeIdentityConflict") && line.contains(words);
        if events.lines().any(told) { Ok(()) } else { Err(events) }
    });
    let described = cluster.kubectl(&["describe", "node", node]);
    assert!(described.contains("NodeIdentityConflict"), "kubectl describe node: {described}");
    let metrics = rollcall.metrics(&rollcall.aggregator(), ADMIN);
    let counter = "rollcall_aggregator_reports_total{outcome=\"identity-conflict\"}";
    let refusals = deployment::count_of(&metrics, counter);
    assert!(refusals >= 1, "{counter} is {refusals}: {metrics}");
}
