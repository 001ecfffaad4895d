//! `make bench`: what rollcall takes and how quick it is, each figure with its bound and, where it is
//! compared, with its peer of the same run. Figures for people, never a test: it fails only where
//! something could not be measured.
//!
//! `SECTIONS="agent store"` measures some; `NODES` (10000), `MANY` (100000) and `INTERVAL` (60, seconds)
//! make all of it smaller, to try it; `docs/performance.md` says what is measured and how.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "it prints figures for people, and what cannot be set up cannot be measured"
)]

mod agent;
mod bare;
mod document;
mod figure;
mod intake;
mod large;
mod memory;
mod process;
mod reads;
mod store;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use figure::{Figure, Figures};
use large::Large;
use rustix::process::{Resource, getrlimit, setrlimit};

/// How large everything is.
#[derive(Debug)]
struct Plan {
    /// Nodes of a large cluster.
    nodes: u32,
    /// Nodes of a very large one.
    many: u32,
    /// How often agents report.
    interval: Duration,
}

type Section = fn(&Plan, &mut Option<Large>) -> Vec<Figure>;

/// In this order: a large cluster is loaded once, and the last section ends it.
const SECTIONS: [(&str, Section); 6] = [
    ("agent", |plan, _| agent::measure(plan)),
    ("intake", |plan, _| intake::measure(plan)),
    ("memory", memory::measure),
    ("document", document::measure),
    ("reads", reads::measure),
    ("store", store::measure),
];

fn main() -> ExitCode {
    if let Some(ended) = bare::asked_for() {
        return ended;
    }
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what is asked for; says whether all of it could be.
fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let number = |name: &str, default: u32| -> Result<u32, Box<dyn std::error::Error>> {
        let Some(text) = env::var(name).ok().filter(|text| !text.is_empty()) else {
            return Ok(default);
        };
        text.parse().map_err(|error| format!("{name}={text}: {error}").into())
    };
    let plan = Plan {
        nodes: number("NODES", 10_000)?,
        many: number("MANY", 100_000)?,
        interval: Duration::from_secs(number("INTERVAL", 60)?.into()),
    };
    let wanted = env::var("SECTIONS").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    if let Some(unknown) = wanted.iter().find(|name| SECTIONS.iter().all(|(it, _)| it != *name)) {
        let known = SECTIONS.map(|(name, _)| name).join(" ");
        return Err(format!("there is no section {unknown}; there are: {known}").into());
    }
    // For the aggregators, too: as many connections as their unit allows them.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let mut figures = Figures::default();
    let mut large = None;
    for (name, measure) in SECTIONS {
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        let begun = Instant::now();
        eprintln!("measuring: {name}");
        match catch_unwind(AssertUnwindSafe(|| measure(&plan, &mut large))) {
            Ok(measured) => figures.add(name, measured),
            // The message was printed where it came from.
            Err(_panic) => figures.failed(name),
        }
        eprintln!("measured: {name}, in {:.0?}", begun.elapsed());
    }
    figures.print();
    figures.save(&plan)?;
    Ok(figures.is_complete())
}
