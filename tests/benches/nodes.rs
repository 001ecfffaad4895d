//! How long the operator's commands take for a cluster of 5,000 nodes, from their start to their end,
//! and what of it is the aggregator's answer. Figures for people, never a test: `make bench`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints figures for people")]

use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::bed::{Aggregator, Bed, get, report_with_gpus};
use rollcall_tests::process::program;

const NODES: u64 = 5000;
const ROUNDS: usize = 20;
/// As many threads as keep the aggregator busy.
const REPORTERS: u64 = 4;

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
    let bed = Bed::new("targets: []\n");
    let aggregator = bed.aggregator(&["--log-level", "warn"]);
    let started = Instant::now();
    thread::scope(|scope| {
        for reporter in 0..REPORTERS {
            let aggregator = &aggregator;
            scope.spawn(move || {
                for node in (0..NODES).filter(|node| node % REPORTERS == reporter) {
                    aggregator.accept(&report_with_gpus(&format!("node-{node:04}"), node, 8));
                }
            });
        }
    });
    println!("{NODES} nodes reported in {:.1?}", started.elapsed());
    println!("{:<28} {:>10} {:>10} {:>10}", "WHAT", "MEDIAN MS", "P95 MS", "KIB");
    for (arguments, path) in [
        (&["nodes"][..], "/v1/nodes"),
        (&["nodes", "--output", "json"], "/v1/nodes"),
        (&["status"], "/v1/status"),
        (&["document"], "/v1/document"),
        (&["document", "--output", "table"], "/v1/document"),
    ] {
        measure(&arguments.join(" "), || printed(&aggregator, arguments))?;
        measure(&format!("  GET {path}"), || Ok(get(aggregator.admin, path, "").body.len()))?;
    }
    Ok(())
}

/// How many bytes a command prints.
fn printed(aggregator: &Aggregator, arguments: &[&str]) -> Result<usize, Failed> {
    let output = Command::new(program("rollcall-aggregator"))
        .args(arguments)
        .env("ROLLCALL_SERVER", format!("http://{}", aggregator.admin))
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(output.stdout.len())
}

fn measure(what: &str, mut work: impl FnMut() -> Result<usize, Failed>) -> Result<(), Failed> {
    let mut times = Vec::with_capacity(ROUNDS);
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        bytes = work()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(ROUNDS * part / 100).map_or(0, Duration::as_millis);
    println!("{what:<28} {:>10} {:>10} {:>10}", at(50), at(95), bytes / 1024);
    Ok(())
}
