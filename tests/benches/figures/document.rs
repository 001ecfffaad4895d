//! The document of a large cluster: assembled after a change, served when nothing changed, and its totals after
//! one node's change.

use std::time::{Duration, Instant};

use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::document::assemble;
use rollcall_report::{Inventory, NodeId, NodeReport, Reading};
use rollcall_tests::bed::report_with_gpus;

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Large, loaded};
use crate::process::{all_accepted, look, median, metric};

const ROUNDS: usize = 20;
const PATH: &str = "/v1/document";
const ASSEMBLY: &str = "rollcall_aggregator_document_assembly_duration_seconds";

pub(crate) fn measure(plan: &Plan, large: &mut Option<Large>) -> Vec<Figure> {
    let nodes = plan.nodes;
    let cluster = loaded(large, nodes);
    let admin = cluster.aggregator.admin;
    let assembled = || {
        let value = |part| metric(admin, &format!("{ASSEMBLY}_{part}"));
        (value("sum"), value("count"))
    };
    let (sum, count) = assembled();
    let cold: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let one = ["--agents", "1", "--flat-out", "1", "--rounds", "2", "--changed", "1"];
            all_accepted(&cluster.swarm(&[&one]));
            look(admin, PATH)
        })
        .collect();
    let (sum_after, count_after) = assembled();
    let warm: Vec<_> = (0..ROUNDS).map(|_| look(admin, PATH)).collect();
    let first = |looks: &[(f64, f64, usize)]| median(looks.iter().map(|(it, ..)| *it).collect());
    let whole = |looks: &[(f64, f64, usize)]| median(looks.iter().map(|(_, it, _)| *it).collect());
    let bytes = warm.first().map_or(0, |(.., bytes)| *bytes);
    let (assembly, how) = if count_after > count {
        let each = (sum_after - sum) / (count_after - count) * 1e3;
        (
            each,
            format!("the mean of the program's own {ASSEMBLY}, {} assemblies", count_after - count),
        )
    } else {
        let more = first(&cold) - first(&warm);
        (more, "how much later the first byte comes after a changed report".to_owned())
    };
    let mut figures = vec![
        Figure::new(format!("assembled cold, {nodes} nodes"), "ms", assembly)
            .at_most(50.0)
            .note(how),
        Figure::new(format!("GET {PATH} after a change, whole"), "ms", whole(&cold)),
        Figure::new(format!("GET {PATH} unchanged, first byte"), "ms", first(&warm))
            .at_most(5.0)
            .note(format!("{bytes} bytes")),
        Figure::new(format!("GET {PATH} unchanged, whole"), "ms", whole(&warm)).at_most(5.0),
    ];
    figures.push(match one_change(nodes) {
        Ok(time) => {
            Figure::new(format!("totals after one changed report, {nodes} nodes"), "us", time)
                .at_most(50.0)
                .note("in this process, on the library: the whole document is assembled")
        }
        Err(error) => Figure::missing("totals after one changed report", error.to_string()),
    });
    figures
}

/// How long it takes, in microseconds, until the totals say what one node's changed report says. The
/// place to measure whatever keeps the totals: as it stands, they are made by assembling everything.
fn one_change(nodes: u32) -> Result<f64, Box<dyn std::error::Error>> {
    let file = ClusterFile::parse("cluster: {id: west, regionId: lab}\ntargets: []\n")?;
    let report: NodeReport = serde_json::from_value(report_with_gpus("node-0", 0, 8))?;
    let mut roll: Vec<(NodeId, Inventory)> = Vec::new();
    for node in 0..nodes {
        roll.push((format!("node-{node}").parse()?, report.inventory.clone()));
    }
    let mut times = Vec::new();
    let mut before = None;
    for round in 0..ROUNDS {
        let swap_bytes = (u64::try_from(round)? + 1) << 20;
        let changed = round * roll.len() / ROUNDS;
        if let Some((_, inventory)) = roll.get_mut(changed)
            && let Reading::Known(swap) = &mut inventory.swap
        {
            swap.total_bytes += swap_bytes;
        }
        let begun = Instant::now();
        let sources = roll.iter().map(|(id, inventory)| (id, inventory));
        let assembly = assemble(&file.cluster, &file.overrides, sources);
        let total = std::hint::black_box(assembly.document.swap);
        times.push(begun.elapsed());
        if before.replace(total) == Some(total) {
            return Err("a change did not show in the totals".into());
        }
    }
    let micros = |time: &Duration| time.as_secs_f64() * 1e6;
    Ok(median(times.iter().map(micros).collect()))
}
