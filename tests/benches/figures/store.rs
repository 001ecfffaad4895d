//! The store of a large cluster: how soon it is back after a restart, and how often reports make it
//! write, counted with strace(1).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rollcall_tests::bed::get;
use rollcall_tests::process::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Large, loaded};
use crate::process::{all_accepted, millis};

/// As many agents as report at the same moment where many have changed.
const CONNECTIONS: &str = "2000";
/// What is asked of the system for a write that lasts.
const CALLS: &str = "write,pwrite64,writev,pwritev,fsync,fdatasync";

pub(crate) fn measure(plan: &Plan, large: &mut Option<Large>) -> Vec<Figure> {
    loaded(large, plan.nodes);
    let mut figures = Vec::new();
    // What takes it away ends the section's claim on it, too.
    if let Some(cluster) = large.take() {
        figures.push(restart(plan.nodes, cluster));
    }
    match Command::new("strace").arg("-V").output() {
        Ok(_) => figures.append(&mut writes(plan.nodes)),
        Err(error) => figures.push(Figure::missing("writes", format!("strace: {error}"))),
    }
    figures
}

fn restart(nodes: u32, mut cluster: Large) -> Figure {
    let ended = cluster.aggregator.daemon.terminate();
    assert!(ended.success(), "{}", cluster.aggregator.daemon.tail());
    // What was not moved into the store's file yet stands beside it.
    let store = ["rollcall.db", "rollcall.db-wal"].map(|name| cluster.bed.path(name));
    let begun = Instant::now();
    let aggregator = cluster.bed.aggregator(&[]);
    while nodes_in_document(aggregator.admin) != Some(nodes.into()) {
        assert!(begun.elapsed().as_secs() < 60, "{}", aggregator.daemon.tail());
    }
    let took = millis(begun.elapsed());
    let begun = Instant::now();
    let read = store.iter().filter_map(|path| fs::read(path).ok());
    let bytes: usize = read.map(|bytes| std::hint::black_box(bytes).len()).sum();
    let plain = millis(begun.elapsed());
    Figure::new(format!("restart with {nodes} nodes, to the whole document"), "ms", took)
        .at_most(1000.0)
        .beside("ms, a plain read of the store", plain)
        .note(format!("the store has {bytes} bytes"))
}

fn nodes_in_document(admin: SocketAddr) -> Option<u64> {
    let answer = get(admin, "/v1/document", "");
    let document: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    document.pointer("/document/nodes/count")?.as_u64()
}

/// What the aggregator has asked of the system so far, for its store.
#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    writes: usize,
    syncs: usize,
}

fn calls(trace: &Path, folder: &str) -> Calls {
    let text = fs::read_to_string(trace).unwrap_or_default();
    let of = |names: &[&str]| {
        let is_one = |line: &&str| {
            names.iter().any(|name| line.contains(&format!(" {name}("))) && line.contains(folder)
        };
        text.lines().filter(is_one).count()
    };
    Calls {
        writes: of(&["write", "pwrite64", "writev", "pwritev"]),
        syncs: of(&["fsync", "fdatasync"]),
    }
}

fn writes(nodes: u32) -> Vec<Figure> {
    let trace = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("no file: {error}"));
    let mut store = String::new();
    let mut large = Large::prepared(&[], |command| {
        // By the kernel's filter only these calls stop it: it runs as it does without.
        let mut traced = Command::new("strace");
        traced.args(["-f", "-y", "--seccomp-bpf", "-e"]).arg(format!("trace={CALLS}"));
        traced.arg("-o").arg(trace.path()).arg(command.get_program()).args(command.get_args());
        *command = traced;
    });
    let folder = large.bed.path("rollcall.db");
    store.push_str(&folder.display().to_string());
    let told = || calls(trace.path(), &store);
    let agents = nodes.to_string();
    let all = ["--agents", &agents, "--duration", "10m"];
    let flat_out = ["--flat-out", CONNECTIONS];
    all_accepted(&large.swarm(&[&all, &flat_out, &["--rounds", "1"]]));
    let loaded = told();
    all_accepted(&large.swarm(&[&all, &flat_out, &["--rounds", "1"]]));
    let unchanged = told();
    // The first round is unchanged again.
    all_accepted(&large.swarm(&[&all, &flat_out, &["--rounds", "2", "--changed", "1"]]));
    let flat_out = told();
    let burst = ["--interval", "5s", "--burst", "5s", "--rounds", "2", "--changed", "1"];
    all_accepted(&large.swarm(&[&all, &burst]));
    let at_intervals = told();
    end(&mut large);
    assert!(loaded.writes > 0 && loaded.syncs > 0, "strace told of no write of {store}");
    let between = |one: Calls, other: Calls| Calls {
        writes: other.writes - one.writes,
        syncs: other.syncs - one.syncs,
    };
    let (still, all_at_once, spread) =
        (between(loaded, unchanged), between(unchanged, flat_out), between(flat_out, at_intervals));
    let count = |calls: usize| f64::from(u32::try_from(calls).unwrap_or(u32::MAX));
    vec![
        Figure::new(format!("writes for {nodes} unchanged reports"), "", count(still.writes))
            .at_most(0.0)
            .note("the times of the last reports are written every five minutes, which may fall into it"),
        Figure::new(format!("fsyncs for {nodes} unchanged reports"), "", count(still.syncs))
            .at_most(0.0),
        Figure::new(
            format!("fsyncs for {nodes} changed reports, {CONNECTIONS} at a time"),
            "",
            count(all_at_once.syncs),
        )
        .at_most(100.0)
        .note(format!("{} writes", all_at_once.writes)),
        Figure::new(
            format!("fsyncs for {nodes} changed reports within 5s, twice"),
            "",
            count(spread.syncs),
        )
        .note(format!(
            "{} writes; each agent reports what the last swarm had changed, and then a change",
            spread.writes
        )),
    ]
}

/// Ends what strace has started; strace ends with it.
fn end(large: &mut Large) {
    let strace = large.pid();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some(pid) = child.parse().ok().and_then(Pid::from_raw) {
            // One that has ended already is what is wanted.
            let _ended = kill_process(pid, Signal::TERM);
        }
    }
    let _status = large.aggregator.daemon.wait(DEADLINE);
}
