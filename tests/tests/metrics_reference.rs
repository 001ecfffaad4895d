//! `docs/metrics.md` tells of each metric that the programs export, and of no other: its name, its type,
//! its labels, and where they are listed, the labels' values.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use rollcall_agent::metrics::{Metrics as AgentMetrics, StampMetrics};
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::document::{
    GpuEntry, GpuStates, Network, NodeData, NodeGpus, Storage, Vcpus,
};
use rollcall_aggregator::metrics::{Metrics, NodeCounts, NodeFigures};
use rollcall_aggregator::onboarding::expected::Census;
use rollcall_aggregator::onboarding::state::TargetState;
use rollcall_aggregator::targets::{Difference, Held};
use rollcall_daemon::{observe, process};
use rollcall_report::{NodeId, NodeName, NodeReport, Subject};

/// Labels and the values that they have; `None`: any.
type Labels = BTreeMap<String, Option<BTreeSet<String>>>;

/// A metric: its type and its labels.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: Labels,
}

type Reference = BTreeMap<String, Metric>;

/// The tables of a section of the reference.
fn documented(section: &str) -> Reference {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(path).expect("docs/metrics.md");
    let heading = format!("\n## {section}\n");
    let (_, rest) = text.split_once(&heading).unwrap_or_else(|| panic!("no section {section}"));
    let section = rest.split("\n## ").next().expect("there is a first part");
    let mut metrics = Reference::new();
    for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells = row.strip_suffix('|').expect("a row ends").split('|').map(str::trim);
        let cells: Vec<&str> = cells.collect();
        let [name, kind, labels, meaning, _absent] = cells.as_slice() else {
            panic!("a row has five cells: {row}: {cells:?}");
        };
        let name = name.trim_end_matches('`').to_owned();
        assert!(!meaning.is_empty(), "{name} has no meaning");
        let metric = Metric { kind: (*kind).to_owned(), labels: labels_of(labels) };
        assert!(metrics.insert(name.clone(), metric).is_none(), "{name} stands there twice");
    }
    metrics
}

/// Of a cell: `` `target`, `phase` (`waiting`, `ready`) ``.
fn labels_of(cell: &str) -> Labels {
    let mut labels = Labels::new();
    let mut last = None;
    let mut is_inside = false;
    for (index, part) in cell.split('`').enumerate() {
        // Between the words stands what divides them.
        if index % 2 == 0 {
            is_inside = (is_inside || part.contains('(')) && !part.contains(')');
        } else if is_inside {
            let label = last.clone().expect("values follow a label");
            let values: &mut Option<BTreeSet<String>> = labels.entry(label).or_default();
            values.get_or_insert_default().insert(part.to_owned());
        } else {
            labels.insert(part.to_owned(), None);
            last = Some(part.to_owned());
        }
    }
    labels
}

/// What is in Prometheus' text format.
fn exported(text: &str) -> Reference {
    let mut metrics = Reference::new();
    let mut current: Option<(String, Metric)> = None;
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("# TYPE ") {
            metrics.extend(current.take());
            let (name, kind) = header.split_once(' ').expect("name and type");
            let kind = kind.to_owned();
            current = Some((name.to_owned(), Metric { kind, labels: Labels::new() }));
        } else if !line.starts_with('#') {
            let (name, metric) = current.as_mut().expect("a type comes first");
            assert!(line.starts_with(name.as_str()), "{line} is not of {name}");
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            for pair in
                labels.map_or("", |(pairs, _)| pairs).split("\",").filter(|it| !it.is_empty())
            {
                let (label, value) = pair.split_once("=\"").expect("label and value");
                if label != "le" {
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    values.get_or_insert_default().insert(value.trim_end_matches('"').to_owned());
                }
            }
        }
    }
    metrics.extend(current);
    metrics
}

/// What is wrong with a reference.
fn differences(documented: &Reference, exported: &Reference) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, metric) in exported {
        let Some(told) = documented.get(name) else {
            wrong.push(format!("{name} is exported, and docs/metrics.md does not tell of it"));
            continue;
        };
        if told.kind != metric.kind {
            wrong.push(format!("{name} is a {}, docs/metrics.md says {}", metric.kind, told.kind));
        }
        let names = |labels: &Labels| labels.keys().cloned().collect::<Vec<_>>();
        if names(&told.labels) != names(&metric.labels) {
            let (there, here) = (names(&told.labels), names(&metric.labels));
            wrong.push(format!("{name} has the labels {here:?}, docs/metrics.md says {there:?}"));
        }
        for (label, told) in &told.labels {
            let values = metric.labels.get(label).and_then(Option::as_ref);
            if let (Some(told), Some(values)) = (told, values)
                && told != values
            {
                wrong.push(format!("{name}: {label} is {values:?}, docs/metrics.md says {told:?}"));
            }
        }
    }
    let vanished = documented.keys().filter(|name| !exported.contains_key(*name));
    wrong.extend(
        vanished.map(|name| format!("docs/metrics.md tells of {name}, which is not exported")),
    );
    wrong
}

/// Of an aggregator with all that there can be.
fn aggregator() -> String {
    let metrics = Metrics::new().expect("metrics");
    let file = ClusterFile::parse(
        "cluster: {id: west, regionId: lab}\ntargets:\n  - name: aios\n    type: aios\n    parserUrl: http://127.0.0.1:1\n    gatewayUrl: http://127.0.0.1:2\n    infrastructure:\n      tasksUrl: http://127.0.0.1:3\n      kubeconfigFile: /kubeconfig\n",
    )
    .expect("a cluster file");
    let now = Timestamp::UNIX_EPOCH;
    metrics.cluster(file.cluster.id.as_str());
    metrics.nodes(NodeCounts::default());
    metrics.expected_nodes(Some(1));
    metrics.kubernetes_nodes(Some(1), None);
    metrics.handshakes();
    for certificate in ["intake", "client-ca"] {
        metrics.certificate_expires(certificate, now);
    }
    let target = file.aios_targets().next().expect("a target");
    metrics.begin_target(target);
    metrics.target(&target.name, &TargetState::new(now));
    metrics.census(&target.name, &Census::default());
    metrics.kept_nodes(&target.name, 0);
    metrics.seen(&target.name, &Held::Ours(Difference::default()), now);
    let _durations = metrics.request_durations(target);

    let name: NodeName = "node-1".parse().expect("a name");
    let id: NodeId = "node-1".parse().expect("an id");
    let gpu = GpuEntry { model_name: "NVIDIA H100".into(), memory: 1 };
    let entry = NodeData {
        id: id.clone(),
        gpus: NodeGpus { count: 1, memory: 1, gpus: vec![gpu], ..NodeGpus::default() }.into(),
        vcpus: Vcpus::default(),
        memory: 0,
        swap: 0,
        storage: Storage::default(),
        network: Network::default(),
    };
    let one = Some(1);
    let figures = NodeFigures {
        node: &name,
        node_id: &id,
        node_class: None,
        entry: Some(&entry),
        is_stale: false,
        last_report: now,
        gpus: GpuStates {
            expected: one,
            usable: one,
            lost: one,
            passed_through: one,
            counted: one,
            allocatable: one,
        },
        failing: Subject::ALL.map(|subject| (subject, now)).to_vec(),
        unknown_speeds: Some(0),
        hardware_changes: Some(0),
        class_mismatches: Some(0),
    };
    metrics.each_node([figures].into_iter());
    metrics.text().expect("text")
}

/// Of an agent with all that there can be.
fn agent() -> String {
    let registry = Registry::new();
    process::register(&registry).expect("a new registry is empty");
    let metrics = AgentMetrics::register(&registry).expect("no such names yet");
    let _stamping = StampMetrics::register(&registry).expect("no such names yet");
    let example = include_str!("../../report/examples/v1-health.json");
    let report: NodeReport = serde_json::from_str(example).expect("a report");
    metrics.node(&report.node.name, &report.node.proposed_id);
    metrics.probed(&report.inventory, Duration::ZERO);
    metrics.noted(&report);
    metrics.certificate_expires(Some(Timestamp::UNIX_EPOCH));
    observe::text(&registry).expect("text")
}

#[test]
fn the_reference_tells_of_what_is_exported() {
    let process = || documented("Process");
    for (section, exported) in
        [("Aggregator", exported(&aggregator())), ("Agent", exported(&agent()))]
    {
        let mut documented = documented(section);
        documented.extend(process());
        let wrong = differences(&documented, &exported);
        assert!(wrong.is_empty(), "{section}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_reference_that_is_wrong_is_noticed() {
    let text = "# TYPE a_total counter\na_total{to=\"x\",kind=\"one\"} 1\na_total{to=\"x, y\",kind=\"two\"} 1\n# HELP b H.\n# TYPE b histogram\nb_bucket{le=\"1\"} 0\nb_sum 0\nb_count 0\n";
    let exported = exported(text);
    let metric = |kind: &str, labels| Metric { kind: kind.to_owned(), labels: labels_of(labels) };
    for (what, a, b, more, expected) in [
        ("right", ("counter", "`to`, `kind` (`one`, `two`)"), "histogram", None, None),
        ("type", ("gauge", "`kind`, `to`"), "histogram", None, Some("a_total is a counter")),
        ("label", ("counter", "`kind`"), "histogram", None, Some("a_total has the labels")),
        (
            "values",
            ("counter", "`kind` (`one`), `to`"),
            "histogram",
            None,
            Some("a_total: kind is"),
        ),
        ("vanished", ("counter", "`kind`, `to`"), "histogram", Some("c"), Some("tells of c,")),
    ] {
        let mut documented = Reference::new();
        documented.insert("a_total".to_owned(), metric(a.0, a.1));
        documented.insert("b".to_owned(), metric(b, ""));
        documented.extend(more.map(|name| (name.to_owned(), metric("gauge", ""))));
        let wrong = differences(&documented, &exported);
        assert_eq!(wrong.len(), usize::from(expected.is_some()), "{what}: {wrong:?}");
        assert!(
            wrong.iter().all(|it| it.contains(expected.unwrap_or_default())),
            "{what}: {wrong:?}"
        );
        documented.remove("b");
        let wrong = differences(&documented, &exported);
        assert!(
            wrong.contains(&"b is exported, and docs/metrics.md does not tell of it".to_owned())
        );
    }
}
