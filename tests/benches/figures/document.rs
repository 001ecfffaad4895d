//! The document of a large cluster: made from nothing, served after a change and when nothing changed, and its
//! totals after one node's change.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::ledger::Ledger;
use rollcall_aggregator::roll::{Conflict, Roll};
use rollcall_report::{NodeReport, Reading, Swap};
use rollcall_tests::bed::report_with_gpus;

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Large, loaded};
use crate::process::{all_accepted, look, median};

const ROUNDS: usize = 20;
const PATH: &str = "/v1/document";

pub(crate) fn measure(plan: &Plan, large: &mut Option<Large>) -> Vec<Figure> {
    let nodes = plan.nodes;
    let cluster = loaded(large, nodes);
    let admin = cluster.aggregator.admin;
    let cold: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let one = ["--agents", "1", "--flat-out", "1", "--rounds", "2", "--changed", "1"];
            all_accepted(&cluster.swarm(&[&one]));
            look(admin, PATH)
        })
        .collect();
    let warm: Vec<_> = (0..ROUNDS).map(|_| look(admin, PATH)).collect();
    let first = |looks: &[(f64, f64, usize)]| median(looks.iter().map(|(it, ..)| *it).collect());
    let whole = |looks: &[(f64, f64, usize)]| median(looks.iter().map(|(_, it, _)| *it).collect());
    let bytes = warm.first().map_or(0, |(.., bytes)| *bytes);
    let mut figures = vec![
        Figure::new(format!("GET {PATH} after a change, whole"), "ms", whole(&cold)),
        Figure::new(format!("GET {PATH} unchanged, first byte"), "ms", first(&warm))
            .at_most(5.0)
            .note(format!("{bytes} bytes")),
        Figure::new(format!("GET {PATH} unchanged, whole"), "ms", whole(&warm)).at_most(5.0),
    ];
    figures.extend(match ledger(nodes) {
        Ok((cold, change)) => [
            Figure::new(format!("document from cold, {nodes} nodes"), "ms", cold)
                .at_most(50.0)
                .note("in this process, on the library: each node from the roll, and the whole of them"),
            Figure::new(format!("totals after one changed report, {nodes} nodes"), "us", change)
                .at_most(50.0)
                .note("in this process, on the library"),
        ],
        Err(error) => [
            Figure::missing("document from cold", error.to_string()),
            Figure::missing("totals after one changed report", error.to_string()),
        ],
    });
    figures
}

/// How long the document takes of a roll that was never looked at, in milliseconds, and how long until the
/// totals say what one node's changed report says, in microseconds.
fn ledger(nodes: u32) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let file = ClusterFile::parse("cluster: {id: west, regionId: lab}\ntargets: []\n")?;
    let now = Timestamp::now();
    let mut roll = Roll::default();
    let mut reports = 0_u64;
    let mut take = |roll: &mut Roll, report: NodeReport| -> Result<(), Conflict> {
        reports += 1;
        let change = roll.admit(report, Digest::of(&[&reports.to_le_bytes()]), None, now)?;
        roll.confirm(change);
        Ok(())
    };
    let report = |node: u32| -> serde_json::Result<NodeReport> {
        serde_json::from_value(report_with_gpus(&format!("node-{node}"), node.into(), 8))
    };
    for node in 0..nodes {
        take(&mut roll, report(node)?)?;
    }
    let new = || Ledger::new(file.overrides.clone(), file.gpu_loss_hold_down);
    let begun = Instant::now();
    let mut ledger = new();
    ledger.update(&mut roll, None, now);
    let document = ledger.assemble(&file.cluster).document;
    let cold = begun.elapsed();
    if document.nodes.count != u64::from(nodes) {
        return Err("nodes are missing in the document".into());
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let mut changed = report(u32::try_from(round)? * nodes / u32::try_from(ROUNDS)?)?;
        let swap = changed.inventory.swap.known().ok_or("the report tells no swap space")?;
        let more = (u64::try_from(round)? + 1) << 20;
        changed.inventory.swap =
            Reading::Known(Swap { total_bytes: swap.total_bytes + more, ..*swap });
        take(&mut roll, changed)?;
        let before = ledger.totals().swap;
        let begun = Instant::now();
        ledger.update(&mut roll, None, now);
        let after = std::hint::black_box(ledger.totals().swap);
        times.push(begun.elapsed());
        if after == before {
            return Err("a change did not show in the totals".into());
        }
    }
    let micros = |time: &Duration| time.as_secs_f64() * 1e6;
    Ok((cold.as_secs_f64() * 1e3, median(times.iter().map(micros).collect())))
}
