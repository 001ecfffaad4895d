//! How long it takes to compare a large cluster with the network's entry, and to cut what is wrong
//! into pieces. Figures for people, never a test: `make bench-parts`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints figures for people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::targets::aios::{Submission, compare, judge_read};
use rollcall_aggregator::targets::{Departed, Known};
use serde_json::{Value, json};
use uuid::Uuid;

const ROUNDS: usize = 50;
const FILE: &str = "cluster: {id: west, regionId: lab}
targets: [{name: aios, type: aios, parserUrl: 'http://127.0.0.1:1', gatewayUrl: 'http://127.0.0.1:2'}]
";

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<(), Failed> {
    println!("{:>6} {:<28} {:>10} {:>10}", "NODES", "WHAT", "MEDIAN US", "P99 US");
    let file = ClusterFile::parse(FILE)?;
    let target = file.aios_targets().next().ok_or("a target")?;
    for nodes in [100, 1000, 5000] {
        let document = document(nodes)?;
        let submit = || Submission::new(document.clone(), Departed::default(), Uuid::nil(), target);
        let submission = submit()?;
        let entry = serde_json::to_value(&submission.document)?;
        let reply = json!({"success": true, "data": entry}).to_string();
        let mut spoilt = entry.clone();
        let list = spoilt.pointer_mut("/nodes/nodeData").and_then(Value::as_array_mut);
        for node in list.into_iter().flatten() {
            if let Some(size) = node.pointer_mut("/storage/size") {
                *size = json!(512_000);
            }
        }
        measure(nodes, "prepare the document", || submit().map(drop))?;
        measure(nodes, "parse the network's entry", || {
            drop(judge_read("GET", 200, reply.as_bytes(), "west"));
            Ok(())
        })?;
        measure(nodes, "compare, all right", || {
            compare(&entry, &submission, Known::default()).map(drop)
        })?;
        measure(nodes, "compare and cut, all wrong", || {
            compare(&spoilt, &submission, Known::default())?.1.whole.bodies().map(drop)
        })?;
    }
    Ok(())
}

fn measure(
    nodes: u32,
    what: &str,
    mut work: impl FnMut() -> serde_json::Result<()>,
) -> Result<(), Failed> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(ROUNDS * part / 100).map_or(0, Duration::as_micros);
    println!("{nodes:>6} {what:<28} {:>10} {:>10}", at(50), at(99));
    Ok(())
}

/// A document of nodes with eight GPUs each.
fn document(nodes: u32) -> Result<ClusterDocument, Failed> {
    let gpu = json!({"modelName": "NVIDIA H100 80GB HBM3", "memory": 81559});
    let node = |number: u32| {
        json!({
            "id": format!("gpu-node-{number:04}.example.org"),
            "gpus": {
                "count": 8, "memory": 652_472, "gpus": [gpu, gpu, gpu, gpu, gpu, gpu, gpu, gpu],
                "features": ["fp16", "tensor_cores", "bf16", "fp8"],
                "modelNames": ["NVIDIA H100 80GB HBM3"],
            },
            "vcpus": {"count": 192}, "memory": 2_063_923, "swap": 0,
            "storage": {"disks": 10, "size": 30_000_000},
            "network": {"interfaces": 10, "txBandwidth": 3_400_000, "rxBandwidth": 3_400_000},
        })
    };
    let of = |one: u64| one * u64::from(nodes);
    Ok(serde_json::from_value(json!({
        "id": "west", "regionId": "lab", "status": "live",
        "nodes": {"count": nodes, "nodeData": (0..nodes).map(node).collect::<Vec<_>>()},
        "gpus": {"count": of(8), "memory": of(652_472)}, "vcpus": {"count": of(192)},
        "memory": of(2_063_923), "swap": 0,
        "storage": {"disks": of(10), "size": of(30_000_000)},
        "network": {"interfaces": of(10), "txBandwidth": of(3_400_000), "rxBandwidth": of(3_400_000)},
        "config": {}, "tags": [], "clusterMetadata": {}, "reputation": 0,
    }))?)
}
