//! The parts that do no I/O, each by itself: reading a report, its digest, assembling the document,
//! deciding the next step, comparing a network's entry. Figures for people, never a test: `make bench-parts`.

#![expect(clippy::expect_used, reason = "what cannot be set up cannot be measured")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use rollcall_aggregator::cluster_file::{ClusterFile, Mode};
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::{ClusterDocument, assemble};
use rollcall_aggregator::intake::parse::{outline, parse};
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::plan::{Situation, next};
use rollcall_aggregator::onboarding::state::{Past, Phase, TargetState, Will};
use rollcall_aggregator::targets::aios::{Submission, compare, judge_read};
use rollcall_aggregator::targets::{Departed, Destination, Difference, Held, Known};
use rollcall_report::{Inventory, NodeId, NodeReport};
use serde_json::{Value, json};
use uuid::Uuid;

/// A server with eight H100, ten interfaces and six disks.
const SAVED: &str = include_str!("../../agent/tests/hosts/gpu-server-8-infiniband/report.json");
const FILE: &str = "cluster: {id: west, regionId: lab}
targets: [{name: aios, type: aios, parserUrl: 'http://127.0.0.1:1', gatewayUrl: 'http://127.0.0.1:2'}]
";

/// The saved server's report, as an agent sends it.
fn body() -> Vec<u8> {
    let report: NodeReport = serde_json::from_str(SAVED).expect("the saved report");
    serde_json::to_vec(&report).expect("JSON")
}

fn file() -> ClusterFile {
    ClusterFile::parse(FILE).expect("a cluster file")
}

/// What becomes of one report.
fn reports(criterion: &mut Criterion) {
    let body = body();
    let report = parse(&body).expect("a report");
    let mut group = criterion.benchmark_group("report");
    group.throughput(Throughput::Bytes(u64::try_from(body.len()).unwrap_or(u64::MAX)));
    group.bench_function("encode", |bencher| bencher.iter(|| serde_json::to_vec(&report)));
    group.bench_function("digest", |bencher| bencher.iter(|| Digest::of(&[black_box(&body)])));
    group.bench_function("outline", |bencher| bencher.iter(|| outline(black_box(&body))));
    group.bench_function("parse", |bencher| bencher.iter(|| parse(black_box(&body))));
    group.finish();
}

/// The document of many nodes, made from what is on the roll.
fn assembler(criterion: &mut Criterion) {
    let file = file();
    let report = parse(&body()).expect("a report");
    let mut group = criterion.benchmark_group("assemble");
    for nodes in [1_u64, 100, 10_000] {
        let roll: Vec<(NodeId, Inventory)> = (0..nodes)
            .map(|node| (format!("node-{node}").parse().expect("an id"), report.inventory.clone()))
            .collect();
        group.throughput(Throughput::Elements(nodes));
        group.bench_function(BenchmarkId::from_parameter(nodes), |bencher| {
            bencher.iter(|| {
                let sources = roll.iter().map(|(id, inventory)| (id, inventory));
                assemble(&file.cluster, &file.overrides, sources)
            });
        });
    }
    group.finish();
}

/// The next step for a target.
fn planner(criterion: &mut Criterion) {
    let at = |second| Timestamp::from_second(second).expect("in range");
    let wanted = Digest::of(&[b"document"]);
    let destination = Destination {
        cluster_id: "west".into(),
        create_url: "https://parser.example".into(),
        read_url: "https://gateway.example".into(),
    };
    let right =
        Past { entry_at: Some(destination.clone()), equal: Some(wanted), ..Past::default() };
    let different =
        Difference { removed: vec!["n1".into()], held_nodes: 10_000, ..Difference::default() };
    let declared = BTreeMap::new();
    let will = Will::default();
    let mut group = criterion.benchmark_group("plan");
    for (what, phase, past, held) in [
        ("create", Phase::Ready, Past::default(), Held::Absent),
        ("rest", Phase::Registered, right.clone(), Held::Ours(Difference::default())),
        ("update", Phase::Drifted, right, Held::Ours(different)),
    ] {
        let state = TargetState { phase, about: Some(wanted), past, ..TargetState::new(at(0)) };
        let situation = Situation {
            state: &state,
            will: &will,
            mode: Mode::Auto,
            look_every: Duration::from_secs(30),
            shrink_percent: 20,
            gate: &Gate::Open,
            destination: &destination,
            wanted,
            declared: &declared,
            obstacle: None,
            held: &held,
            now: at(100),
            dice: 0.5,
        };
        group.bench_function(what, |bencher| bencher.iter(|| next(black_box(&situation))));
    }
    group.finish();
}

/// A large cluster's entry at a network: read, compared, and cut into pieces where it is wrong.
fn entry(criterion: &mut Criterion) {
    const NODES: u32 = 5000;
    let file = file();
    let target = file.aios_targets().next().expect("a target");
    let document = document(NODES);
    let submit = |document| {
        Submission::new(document, Departed::default(), Uuid::nil(), target).expect("a submission")
    };
    let submission = submit(document.clone());
    let entry = serde_json::to_value(&submission.document).expect("JSON");
    let reply = json!({"success": true, "data": entry}).to_string();
    let mut spoilt = entry.clone();
    let list = spoilt.pointer_mut("/nodes/nodeData").and_then(Value::as_array_mut);
    for node in list.into_iter().flatten() {
        if let Some(size) = node.pointer_mut("/storage/size") {
            *size = json!(512_000);
        }
    }
    let mut group = criterion.benchmark_group(format!("entry of {NODES} nodes"));
    group.sample_size(20);
    group.bench_function("prepare the document", |bencher| {
        bencher.iter_batched(|| document.clone(), submit, BatchSize::LargeInput);
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| judge_read("GET", 200, reply.as_bytes(), "west"));
    });
    group.bench_function("compare, all right", |bencher| {
        bencher.iter(|| compare(&entry, &submission, Known::default()).map(drop));
    });
    group.bench_function("compare and cut, all wrong", |bencher| {
        bencher.iter(|| {
            let (_, cut) = compare(&spoilt, &submission, Known::default())?;
            cut.whole.bodies().map(drop)
        });
    });
    group.finish();
}

/// A document of nodes with eight GPUs each.
fn document(nodes: u32) -> ClusterDocument {
    let file = file();
    let report = parse(&body()).expect("a report");
    let ids: Vec<NodeId> = (0..nodes)
        .map(|number| format!("gpu-node-{number:04}.example.org").parse().expect("an id"))
        .collect();
    let sources = ids.iter().map(|id| (id, &report.inventory));
    assemble(&file.cluster, &file.overrides, sources).document
}

criterion_group!(parts, reports, assembler, planner, entry);
criterion_main!(parts);
