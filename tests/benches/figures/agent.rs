//! What the agent takes of its node, beside Prometheus' `node_exporter`: memory, CPU, wake-ups, the size
//! of its program, and what it asks of the system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::bed::get;
use rollcall_tests::process::{DEADLINE, Daemon, program, wait_until};

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Certificate, Large};
use crate::process::{Meter, median, memory_mb, metric, rss_mb, sleeps};

/// As its unit and its image have it.
const ENVIRONMENT: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "1")];
const PEER: &str = "node_exporter";
const PEERS_PROGRAM: &str = "prometheus-node-exporter";
const SCRAPES: u32 = 100;
/// How long cycles, scrapes and sleep are watched; each once a second.
const WATCHED: Duration = Duration::from_secs(20);
const ACCEPTED: &str = "rollcall_agent_reports_total{outcome=\"accepted\"}";
/// How an agent's first line tells where its metrics are.
const METRICS: &str = "metrics=";
/// The interval of the agent whose calls are traced, and for how long they are.
const TRACED_INTERVAL: &str = "3s";
const TRACED: Duration = Duration::from_secs(14);
/// Between two cycles nothing is asked of the system for so long.
const PAUSE_SECONDS: f64 = 1.0;

/// An agent that runs.
struct Agent {
    daemon: Daemon,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts one that reports over TLS, and waits until it has.
    fn start(large: &Large, certificate: &Certificate, name: &str, interval: &str) -> Self {
        let url = format!("https://{}", large.aggregator.intake);
        // This one machine is several nodes here: each in an aggregator of its own.
        let arguments = ["--ca-file", &certificate.ca, "--interval", interval, "--node-name", name];
        let daemon = large.bed.agent_with(&url, &arguments, |command| {
            command.envs(ENVIRONMENT);
        });
        let line = daemon.wait_for_line(|line| line.contains(METRICS), DEADLINE);
        let metrics =
            line.split_whitespace().find_map(|word| word.strip_prefix(METRICS)?.parse().ok());
        let metrics = metrics.unwrap_or_else(|| panic!("where are its metrics? {line}"));
        let agent = Self { daemon, metrics };
        wait_until("the first report", DEADLINE, || {
            if agent.cycles() >= 1.0 { Ok(()) } else { Err("none yet") }
        });
        agent
    }

    fn cycles(&self) -> f64 {
        metric(self.metrics, ACCEPTED)
    }
}

pub(crate) fn measure(_plan: &Plan) -> Vec<Figure> {
    let certificate = Certificate::new();
    let aggregators = [(); 3].map(|()| Large::over_tls(&certificate));
    let [busy, idle, traced] = &aggregators;
    let busy = Agent::start(busy, &certificate, "busy", "1s");
    let idle = Agent::start(idle, &certificate, "idle", "10m");
    let (_exporter, exporter_pid, exporter_at) = exporter();
    for _ in 0..SCRAPES {
        scrape(exporter_at);
    }

    let (cycles, slept) = (busy.cycles(), sleeps(idle.daemon.id()));
    let meters = [busy.daemon.id(), exporter_pid].map(Meter::start);
    let begun = Instant::now();
    let mut scrapes = 0.0;
    while begun.elapsed() < WATCHED {
        scrape(exporter_at);
        scrapes += 1.0;
        thread::sleep(Duration::from_secs(1));
    }
    let [agents, exporters] = meters.map(|meter| meter.stop().0.as_secs_f64() * 1e3);
    let slept = sleeps(idle.daemon.id()) - slept;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let cycles = busy.cycles() - cycles;

    // A second one would halve what the first has of pages that both map.
    drop(idle);
    let pid = busy.daemon.id();
    let size = fs::metadata(program("rollcall-agent")).map_or(f64::NAN, |file| {
        #[expect(clippy::cast_precision_loss, reason = "no program is that large")]
        let bytes = file.len() as f64;
        bytes / 1e6
    });
    let mut figures = vec![
        Figure::new("RSS", "MB", rss_mb(pid))
            .beside(format!("{PEER} after {SCRAPES} scrapes"), rss_mb(exporter_pid))
            .ratio_at_most(0.4),
        Figure::new("PSS", "MB", memory_mb(pid, "smaps_rollup", "Pss"))
            .beside(PEER, memory_mb(exporter_pid, "smaps_rollup", "Pss"))
            .at_most(7.0),
        Figure::new("anonymous memory", "MB", memory_mb(pid, "status", "RssAnon"))
            .beside(PEER, memory_mb(exporter_pid, "status", "RssAnon")),
        Figure::new("CPU of a cycle: probe and report", "ms", agents / cycles)
            .beside(format!("one scrape of {PEER}"), exporters / scrapes)
            .ratio_at_most(0.5)
            .note(format!(
                "{cycles} cycles and {scrapes} scrapes, both once a second, at the same time"
            )),
        Figure::new("wake-ups between cycles", "a minute", slept / minutes)
            .note("voluntary context switches of all threads while no report was due"),
        Figure::new("size of the program", "MB", size).at_most(12.0),
    ];
    drop(busy);
    figures.append(&mut asked_of_the_system(traced, &certificate));
    figures
}

/// The peer, its process and where it listens.
fn exporter() -> (Daemon, u32, SocketAddr) {
    // It does not tell which port it took of its own accord.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
    let address = free.unwrap_or_else(|error| panic!("no free port: {error}"));
    let mut command = Command::new(PEERS_PROGRAM);
    command.arg(format!("--web.listen-address={address}"));
    let daemon = Daemon::spawn(PEERS_PROGRAM, command);
    wait_until("node_exporter", DEADLINE, || TcpStream::connect(address));
    let pid = daemon.id();
    (daemon, pid, address)
}

fn scrape(address: SocketAddr) {
    let answer = get(address, "/metrics", "");
    assert_eq!(answer.status, 200, "{}", answer.head);
}

/// Counts the system calls of whole cycles, and the files that one of them opens more than once.
fn asked_of_the_system(large: &Large, certificate: &Certificate) -> Vec<Figure> {
    let agent = Agent::start(large, certificate, "traced", TRACED_INTERVAL);
    // The first two read what is remembered then: the states of memory blocks.
    wait_until("the third report", DEADLINE, || {
        if agent.cycles() >= 3.0 { Ok(()) } else { Err("not yet") }
    });
    let missing = |why: String| vec![Figure::missing("system calls of a cycle", why)];
    let trace = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("no file: {error}"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-ttt", "-o"]).arg(trace.path());
    strace.arg("-p").arg(agent.daemon.id().to_string());
    let spawned = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut strace = match spawned {
        Ok(strace) => strace,
        Err(error) => return missing(format!("strace: {error}")),
    };
    thread::sleep(TRACED);
    // Killed, it lets go of what it traces, as the kernel sees to.
    drop(strace.kill());
    drop(strace.wait());
    let text = fs::read_to_string(trace.path()).unwrap_or_default();
    let cycles = whole_cycles(&text);
    if cycles.is_empty() {
        return missing("strace told of no whole cycle: may it trace here?".to_owned());
    }
    let calls = cycles.iter().map(|cycle| cycle.calls).collect();
    let opened = cycles.iter().map(|cycle| cycle.opened.values().sum::<f64>()).collect();
    let twice: BTreeSet<&str> = cycles
        .iter()
        .flat_map(|cycle| cycle.opened.iter().filter(|(_, times)| **times > 1.0))
        .map(|(path, _)| path.as_str())
        .collect();
    let count = f64::from(u32::try_from(twice.len()).unwrap_or(u32::MAX));
    let named: Vec<&str> = twice.into_iter().take(8).collect();
    vec![
        Figure::new("system calls of a cycle", "", median(calls))
            .note(format!("the median of {} cycles", cycles.len())),
        Figure::new("files and folders opened in a cycle", "", median(opened)),
        Figure::new("files and folders opened twice in a cycle", "", count)
            .at_most(0.0)
            .note(named.join(", ")),
    ]
}

/// What is asked of the system from one pause to the next.
#[derive(Debug, Default)]
struct Cycle {
    calls: f64,
    /// How often each path was opened.
    opened: BTreeMap<String, f64>,
}

/// The cycles of a trace that have a pause before and behind them, and that open files.
fn whole_cycles(trace: &str) -> Vec<Cycle> {
    let mut cycles = Vec::new();
    let mut last: Option<f64> = None;
    for line in trace.lines() {
        // 1234 1764000000.123456 openat(AT_FDCWD, "/proc/stat", O_RDONLY) = 7</proc/stat>
        let mut words = line.split_whitespace();
        let at = words.nth(1).and_then(|word| word.parse::<f64>().ok());
        let (Some(at), Some(call)) = (at, words.next()) else { continue };
        if last.is_none_or(|last| at - last >= PAUSE_SECONDS) {
            cycles.push(Cycle::default());
        }
        last = Some(at);
        let Some(cycle) = cycles.last_mut() else { continue };
        // The end of a call that another thread's interrupted is told on a line of its own.
        if !call.starts_with('<') {
            cycle.calls += 1.0;
        }
        if line.contains("openat")
            && let Some(path) = opened(line)
        {
            *cycle.opened.entry(path.to_owned()).or_default() += 1.0;
        }
    }
    // The first may have begun before the trace, the last have gone on behind it.
    cycles.pop();
    cycles.into_iter().skip(1).filter(|cycle| !cycle.opened.is_empty()).collect()
}

/// The path that a call opened, where it did.
fn opened(line: &str) -> Option<&str> {
    let (_, answer) = line.rsplit_once(" = ")?;
    let (descriptor, path) = answer.split_once('<')?;
    descriptor.parse::<u32>().ok()?;
    path.strip_suffix('>')
}
