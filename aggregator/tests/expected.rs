//! Which nodes each target gets, as the running aggregator sees it: by what Kubernetes tells of its Nodes,
//! and by the targets' policies.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use rollcall_aggregator::admin::roll;
use rollcall_aggregator::admin::views::{DocumentView, NodesView, StatusView};
use rollcall_aggregator::aggregator::Aggregator;
use rollcall_aggregator::cluster_file::{AiosTarget, ClusterFile};
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::kubernetes::nodes::{Node, Nodes};
use rollcall_aggregator::metrics::Metrics;
use rollcall_aggregator::onboarding::execute::Outlook;
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::state::{Phase, TargetState};
use rollcall_aggregator::operator::tables::{self, Viewer};
use rollcall_aggregator::store::Store;
use rollcall_aggregator::targets::Destination;
use rollcall_report::NodeReport;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two targets: one gets zone a, the other all that is ready.
const FILE: &str = "cluster: {id: west, regionId: us-west-2}
departures: {holdDown: 10m}
targets:
  - {name: zone-a, type: aios, parserUrl: 'https://p:1', gatewayUrl: 'https://g:1', nodes: {selector: {zone: a}}}
  - {name: ready, type: aios, parserUrl: 'https://p:2', gatewayUrl: 'https://g:2', nodes: {notReady: exclude}}
";

struct Bed {
    aggregator: Aggregator,
    _folder: TempDir,
}

impl Bed {
    /// On Kubernetes, with these nodes on the roll.
    fn new(file: &str, reported: &[&str]) -> Self {
        let mut bed = Self::off_kubernetes(file, reported);
        let file = &bed.aggregator.file;
        bed.aggregator.nodes = Nodes::watched(file.selected_labels());
        bed
    }

    fn off_kubernetes(file: &str, reported: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, contents) = Store::open(&folder.path().join("rollcall.db")).expect("a store");
        let file = ClusterFile::parse(file).expect("valid");
        let metrics = Metrics::new().expect("metrics");
        let interval = Duration::from_mins(1);
        let aggregator = Aggregator::new(file, interval, store, contents, metrics);
        let bed = Self { aggregator, _folder: folder };
        for name in reported {
            bed.report(name);
        }
        bed
    }

    fn report(&self, name: &str) {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
        let text = fs::read_to_string(sample).expect("the sample");
        let mut report: NodeReport = serde_json::from_str(&text).expect("a report");
        report.node.name = name.parse().expect("a name");
        report.node.proposed_id = name.parse().expect("an id");
        report.node.machine_hash = None;
        let digest = Digest::of(&[name.as_bytes()]);
        let mut roll = self.aggregator.roll();
        let change = roll.admit(report, digest, None, at(0)).expect("no conflict");
        roll.confirm(change);
    }

    /// Kubernetes lists these: names, zones and whether they are ready.
    fn list(&self, nodes: &[(&str, &str, bool)]) {
        let labels = self.aggregator.file.selected_labels();
        let nodes = nodes.iter().map(|(name, zone, ready)| {
            let object = json!({
                "metadata": {"name": name, "uid": format!("uid-of-{name}"), "labels": {"zone": zone}},
                "status": {"conditions": [{"type": "Ready", "status": if *ready { "True" } else { "False" }}]},
            });
            let object = serde_json::from_value(object).expect("a Node");
            Node::of(object, &labels).expect("a Node with name and UID")
        });
        self.aggregator.nodes.take_list(nodes.collect()).expect("not empty");
    }

    fn target(&self, name: &str) -> AiosTarget {
        let mut targets = self.aggregator.file.aios_targets();
        targets.find(|target| target.name.as_str() == name).expect("the target").clone()
    }

    fn document(&self, target: &str, now: Timestamp) -> Vec<String> {
        let assembly = self.aggregator.assemble_for(&self.target(target).nodes, now);
        let nodes = assembly.document.nodes.node_data;
        nodes.iter().map(|node| node.id.to_string()).collect()
    }

    fn outlook(&self, target: &str, now: Timestamp) -> Outlook {
        let target = self.target(target);
        let standing = self.aggregator.standing(&target);
        Outlook::of(&self.aggregator, &target, &standing, now).expect("encodes")
    }

    /// The ids that may be taken out of the target's entry, and those that soon may.
    fn departed(&self, target: &str, now: Timestamp) -> (Vec<String>, Vec<String>) {
        let departed = self.aggregator.departed(&self.target(target), now);
        let words =
            |ids: &std::collections::BTreeSet<_>| ids.iter().map(ToString::to_string).collect();
        (words(&departed.nodes), words(&departed.leaving))
    }

    /// The target has an entry that holds these besides.
    fn registered(&self, target: &str, kept: &[&str]) {
        let target = self.target(target);
        let mut state = TargetState { phase: Phase::Registered, ..TargetState::new(at(0)) };
        state.past.entry_at = Some(Destination {
            cluster_id: "west".into(),
            create_url: target.parser_url.to_string(),
            read_url: target.gateway_url.to_string(),
        });
        self.aggregator.show(&target, state);
        let kept: Vec<String> = kept.iter().map(|id| (*id).to_owned()).collect();
        self.aggregator.show_kept(&target, &kept);
    }
}

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("in range") + SignedDuration::from_mins(minute)
}

fn strings(some: &[&str]) -> Vec<String> {
    some.iter().map(|it| (*it).to_owned()).collect()
}

#[tokio::test]
async fn each_target_gets_the_nodes_of_its_policy() {
    let bed = Bed::new(FILE, &["a1", "a2", "b1"]);
    assert_eq!(bed.document("zone-a", at(0)), ["a1", "a2", "b1"], "nothing is left out unknown");
    for target in ["zone-a", "ready"] {
        let why = "Kubernetes has not told its Nodes yet".to_owned();
        assert_eq!(bed.outlook(target, at(0)).gate, Gate::Unsettled { why }, "{target}");
    }
    bed.list(&[("a1", "a", true), ("a2", "a", false), ("b1", "b", true), ("a3", "a", false)]);
    assert_eq!(bed.document("zone-a", at(0)), ["a1", "a2"]);
    assert_eq!(bed.document("ready", at(0)), ["a1", "b1"]);
    let why = "2 of 3 expected nodes have reported; missing: a3 (not ready)".to_owned();
    assert_eq!(bed.outlook("zone-a", at(0)).gate, Gate::Closed { why, opens: None });
    assert_eq!(bed.outlook("ready", at(0)).gate, Gate::Open);
    // What reports, and is no Node, is in no document.
    bed.report("stray");
    assert_eq!(bed.document("ready", at(0)), ["a1", "b1"]);
}

#[tokio::test]
async fn what_is_left_out_goes_after_the_hold_down() {
    let bed = Bed::new(FILE, &["a1", "a2"]);
    let none = (vec![], vec![]);
    assert_eq!(bed.departed("zone-a", at(0)), none, "the Nodes are not known");
    bed.list(&[("a1", "a", true), ("a2", "a", true)]);
    assert_eq!(bed.departed("zone-a", at(1)), none);
    bed.list(&[("a1", "a", true), ("a2", "b", true)]);
    let zone_a = bed.target("zone-a");
    assert_eq!(bed.departed("zone-a", at(2)), (vec![], strings(&["a2"])));
    assert_eq!(bed.aggregator.next_departure(&zone_a, at(2)), Some(at(12)));
    assert_eq!(bed.departed("zone-a", at(11)), (vec![], strings(&["a2"])));
    assert_eq!(bed.departed("ready", at(11)), none, "of another target");
    assert_eq!(bed.departed("zone-a", at(12)), (strings(&["a2"]), vec![]));
    // Back before the end, it begins anew.
    bed.list(&[("a1", "a", true), ("a2", "a", true)]);
    assert_eq!(bed.departed("zone-a", at(13)), none);
    bed.list(&[("a1", "a", true), ("a2", "b", true)]);
    assert_eq!(bed.departed("zone-a", at(14)), (vec![], strings(&["a2"])));
    // While the Nodes are not told, nothing is confirmed.
    bed.aggregator.nodes.fail("no answer".to_owned(), at(20));
    assert_eq!(bed.departed("zone-a", at(60)), (vec![], strings(&["a2"])));
    bed.aggregator.nodes.recover();
    assert_eq!(bed.departed("zone-a", at(60)), (strings(&["a2"]), vec![]));
}

#[tokio::test]
async fn a_silent_node_stays_and_a_deleted_one_waits_to_be_recorded() {
    let bed = Bed::new(FILE, &["a1", "a2", "a3"]);
    bed.list(&[("a1", "a", true), ("a2", "a", false), ("a4", "a", true)]);
    assert_eq!(bed.document("zone-a", at(9999)), ["a1", "a2"], "however long it is silent");
    assert_eq!(
        bed.departed("zone-a", at(9999)),
        (vec![], vec![]),
        "a3's departure is to be recorded"
    );
}

#[tokio::test]
async fn ids_that_only_an_entry_knows_go_after_the_hold_down() {
    let bed = Bed::new(FILE, &["a1"]);
    bed.list(&[("a1", "a", true), ("a2", "a", true), ("b1", "b", true)]);
    assert_eq!(bed.departed("zone-a", at(0)), (vec![], strings(&[])));
    bed.registered("zone-a", &["a2", "old", "no id at all"]);
    assert_eq!(
        bed.departed("zone-a", at(1)),
        (vec![], strings(&["old"])),
        "a2 has only not reported"
    );
    // As the next look says it: it is not kept any more, it leaves.
    bed.registered("zone-a", &["a2"]);
    assert_eq!(bed.departed("zone-a", at(10)), (vec![], strings(&["old"])));
    assert_eq!(bed.departed("zone-a", at(11)), (strings(&["old"]), vec![]));
    // A Node of that name comes up.
    bed.list(&[("a1", "a", true), ("a2", "a", true), ("old", "a", true)]);
    assert_eq!(bed.departed("zone-a", at(12)), (vec![], vec![]));

    // Of an entry that is somebody else's, nothing is said.
    let target = bed.target("ready");
    bed.aggregator.show(&target, TargetState { phase: Phase::Foreign, ..TargetState::new(at(0)) });
    bed.aggregator.show_kept(&target, &strings(&["theirs"]));
    assert_eq!(bed.departed("ready", at(100)), (vec![], vec![]));
    assert_eq!(bed.departed("ready", at(200)), (vec![], vec![]));
}

#[tokio::test]
async fn an_empty_selection_empties_no_entry() {
    let bed = Bed::new(FILE, &["a1"]);
    bed.registered("zone-a", &[]);
    bed.list(&[("a1", "b", true)]);
    let obstacle = bed.outlook("zone-a", at(0)).submission.obstacle.clone().unwrap_or_default();
    assert!(obstacle.contains("an entry is never emptied"), "{obstacle}");
    let why = "no Node is within this target's nodes in the cluster file; left out: a1 (not within the selector)";
    let closed = Gate::Closed { why: why.to_owned(), opens: None };
    assert_eq!(bed.outlook("zone-a", at(0)).gate, closed);
    assert_eq!(bed.outlook("ready", at(0)).submission.obstacle, None);
}

#[tokio::test]
async fn a_policy_needs_kubernetes() {
    let bed = Bed::off_kubernetes(&format!("{FILE}expect: {{nodes: 1}}\n"), &["a1"]);
    for target in ["zone-a", "ready"] {
        let obstacle = bed.outlook(target, at(0)).submission.obstacle.clone().unwrap_or_default();
        assert!(obstacle.contains("serve with --kubernetes"), "{target}: {obstacle}");
    }
    let plain = FILE.replace("nodes: {selector: {zone: a}}", "nodes: {}");
    let bed = Bed::off_kubernetes(&format!("{plain}expect: {{nodes: 1}}\n"), &["a1"]);
    let outlook = bed.outlook("zone-a", at(0));
    assert_eq!((outlook.submission.obstacle.clone(), outlook.gate), (None, Gate::Open));
    let view = StatusView::of(&bed.aggregator, at(0));
    assert_eq!((view.expected_nodes, view.kubernetes), (Some(1), None));
}

#[tokio::test]
async fn who_is_expected_by_which_targets() {
    const AICHOR: &str = "  - {name: ai, type: aichor, engine: {name: west}}\n";
    const UNIKORN: &str =
        "  - {name: region, type: unikorn, region: {name: west}, nodes: {selector: {zone: a}}}\n";
    let head = "cluster: {id: west, regionId: us-west-2}\n";
    let nodes = [("a1", "a", true), ("a2", "a", true), ("b1", "b", true)];
    for (what, targets, expected, series) in [
        ("no targets", "targets: []\n".to_owned(), 3, None),
        ("one that is offered no nodes", format!("targets:\n{AICHOR}"), 3, None),
        ("a region", format!("targets:\n{UNIKORN}"), 2, Some(("expected", 2))),
        ("a region, missing", format!("targets:\n{UNIKORN}"), 2, Some(("missing", 1))),
        ("a region, left out", format!("targets:\n{UNIKORN}{AICHOR}"), 2, Some(("left_out", 1))),
    ] {
        let bed = Bed::new(&format!("{head}{targets}"), &["a1", "b1"]);
        assert_eq!(StatusView::of(&bed.aggregator, at(1)).expected_nodes, None, "{what}: not told");
        bed.list(&nodes);
        let view = StatusView::of(&bed.aggregator, at(1));
        assert_eq!(view.expected_nodes, Some(expected), "{what}");
        bed.aggregator.measure(at(1));
        let metrics = bed.aggregator.metrics.text().expect("text");
        let line = series.map(|(state, count)| {
            format!(
                "rollcall_aggregator_target_nodes{{state=\"{state}\",target=\"region\"}} {count}"
            )
        });
        let told = format!("rollcall_aggregator_expected_nodes {expected}");
        for line in line.into_iter().chain([told]) {
            assert!(metrics.lines().any(|it| it == line), "{what}: {line}\n{metrics}");
        }
    }
}

#[tokio::test]
async fn the_roll_is_written_piece_by_piece_as_it_would_be_as_a_whole() {
    let many: Vec<String> = (0..500).map(|number| format!("n{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (reported, pieces) in [(&[][..], 1), (&["a1", "a2"], 1), (&many, 4)] {
        let bed = Bed::new(FILE, reported);
        bed.list(&[("a1", "a", true), ("a2", "a", false), ("a3", "a", true), ("n1", "b", false)]);
        let whole = serde_json::to_string(&NodesView::of(&bed.aggregator, at(1))).expect("JSON");
        let mut body = roll::body(Arc::new(bed.aggregator), at(1));
        let mut written = Vec::new();
        while let Some(frame) = body.frame().await {
            written.push(frame.expect("a piece").into_data().expect("bytes"));
        }
        assert!(written.len() >= pieces, "{} nodes in {} pieces", reported.len(), written.len());
        let (_last, others) = written.split_last().expect("a piece");
        assert!(others.iter().all(|piece| piece.len() < 100 * 1024), "small");
        let written = String::from_utf8(written.concat()).expect("text");
        assert!(written == whole, "{} nodes: {written}\n{whole}", reported.len());
    }
}

#[tokio::test]
async fn a_document_that_is_kept_follows_the_nodes() {
    let bed = Bed::new(FILE, &["a1", "a2"]);
    let target = bed.target("zone-a");
    let documents = &bed.aggregator.documents;
    let shown = || {
        let pieces = documents.of(&bed.aggregator, Some(&target)).expect("JSON");
        let bytes: Vec<u8> = pieces.iter().flatten().copied().collect();
        let view = serde_json::to_vec(&DocumentView::of(&bed.aggregator, Some(&target)));
        assert_eq!(bytes, view.expect("JSON"), "as it would be written now");
        let shown: Value = serde_json::from_slice(&bytes).expect("JSON");
        shown.pointer("/document/nodes/count").and_then(Value::as_u64).expect("a count")
    };
    bed.list(&[("a1", "a", true), ("a2", "a", true)]);
    assert_eq!((shown(), shown()), (2, 2));
    bed.list(&[("a1", "a", true), ("a2", "b", true)]);
    assert_eq!(shown(), 1, "a label that was changed");
    documents.tidy(&bed.aggregator);
    assert_eq!(shown(), 1);
}

#[tokio::test]
async fn what_operators_and_prometheus_are_told() {
    let bed = Bed::new(FILE, &["a1", "a2"]);
    let nodes = [("a1", "a", true), ("a2", "a", false), ("a3", "a", true), ("b1", "b", false)];
    bed.list(&nodes);
    let now = at(1);
    let viewer = Viewer { now, room: None };
    let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
    let text = plain(tables::nodes(&NodesView::of(&bed.aggregator, now), viewer));
    let told: Vec<&str> = text.lines().filter(|line| line.contains(" of ")).collect();
    assert_eq!(
        told,
        [
            "! expected, not in the document of zone-a, ready: a3",
            "left out of ready: a2 (not ready), b1 (not ready)",
            "left out of zone-a: b1 (not within the selector)",
        ],
        "{text}"
    );
    let status = StatusView::of(&bed.aggregator, now);
    assert_eq!(status.expected_nodes, Some(3), "by one target or another");
    let text = plain(tables::status(&status, viewer));
    for line in [
        "cluster west: 2 nodes complete (3 expected), 0 incomplete, 0 stale",
        "first registration waits: zone-a: 2 of 3 expected nodes have reported; missing: a3. ready: 1 of 2 expected nodes have reported; missing: a3",
        "zone-a: may be offered the same nodes as ready: give it and ready selectors that differ in a label's value",
        "! zone-a: 2 of 3 expected nodes are in the document; missing: a3",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    let json: Value = serde_json::to_value(&status).expect("JSON");
    let expected = json!({"nodes": 3, "missing": [{"name": "a3"}], "leftOut": 1});
    assert_eq!(json.pointer("/targets/0/expected"), Some(&expected));
    assert_eq!(json.pointer("/kubernetes"), Some(&json!({"nodes": 4})));

    bed.aggregator.nodes.fail("the API server is away".to_owned(), at(0));
    bed.aggregator.measure(now);
    let metrics = bed.aggregator.metrics.text().expect("text");
    for line in [
        "rollcall_aggregator_expected_nodes 3",
        "rollcall_aggregator_kubernetes_nodes 4",
        "rollcall_aggregator_kubernetes_nodes_failing_since_timestamp_seconds 1700000000",
        "rollcall_aggregator_target_nodes{state=\"expected\",target=\"zone-a\"} 3",
        "rollcall_aggregator_target_nodes{state=\"missing\",target=\"zone-a\"} 1",
        "rollcall_aggregator_target_nodes{state=\"left_out\",target=\"ready\"} 2",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}\n{metrics}");
    }
    let status = plain(tables::status(&StatusView::of(&bed.aggregator, now), viewer));
    let words =
        "! Kubernetes has not told its Nodes since 2023-11-14T22:13:20Z: the API server is away";
    assert!(status.lines().any(|line| line == words), "{status}");
}
