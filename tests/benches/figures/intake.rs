//! What the intake takes: reports a second beside a bare handler, ten thousand agents at their interval,
//! and all of them at once.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rollcall_tests::bed::{Bed, TOKEN};
use rollcall_tests::process::{Daemon, program};
use serde_json::Value;

use crate::Plan;
use crate::bare::Bare;
use crate::figure::Figure;
use crate::large::{Certificate, Large};
use crate::process::{Meter, median, number, rss_mb, swarm};

/// So many nodes report over so many connections for so long, each as quickly as it is answered.
const FLAT_OUT: [&str; 6] = ["--agents", "256", "--flat-out", "32", "--duration", "3s"];
/// So often, in turns with the peer: a machine has good and bad moments.
const TURNS: usize = 3;
/// All agents report within this after an outage.
const BURST: &str = "5s";
/// How much longer than its interval the first round takes.
const SETTLING: Duration = Duration::from_secs(8);
/// The share of reports that says something new while agents report at intervals.
const CHANGED: &str = "0.01";

pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let certificate = Certificate::new();
    let mut figures = Vec::new();
    for tls in [None, Some(&certificate)] {
        figures.append(&mut side_by_side(tls));
    }
    figures.append(&mut at_intervals(plan, &certificate));
    figures
}

/// What came of reports flat out.
struct Rate {
    per_second: f64,
    /// The server's CPU time for one, in microseconds.
    cpu: f64,
}

impl Rate {
    fn median(rates: &[Self]) -> Self {
        let of = |what: fn(&Self) -> f64| median(rates.iter().map(what).collect());
        Self { per_second: of(|rate| rate.per_second), cpu: of(|rate| rate.cpu) }
    }
}

fn flat_out(pid: u32, intake: SocketAddr, token: &str, more: &[&str]) -> Rate {
    let intake = intake.to_string();
    let common = ["--intake", &intake, "--token-file", token];
    let meter = Meter::start(pid);
    let told = swarm(&[&common[..], &FLAT_OUT, more].concat());
    let (cpu, _) = meter.stop();
    let accepted = number(&told, "/accepted");
    assert!(
        told.pointer("/sent") == told.pointer("/accepted") && accepted > 0.0,
        "not all were accepted: {told}"
    );
    Rate {
        per_second: number(&told, "/acceptedPerSecond"),
        cpu: cpu.as_secs_f64() * 1e6 / accepted,
    }
}

fn side_by_side(tls: Option<&Certificate>) -> Vec<Figure> {
    let (over, ca) = match tls {
        Some(certificate) => ("over TLS", vec!["--ca-file", &certificate.ca]),
        None => ("plain", Vec::new()),
    };
    let large = match tls {
        Some(certificate) => Large::over_tls(certificate),
        None => Large::empty(&[]),
    };
    let bare = Bare::start(tls);
    let files = Bed::new("");
    files.write("token", TOKEN);
    let token = files.path("token").display().to_string();
    let take = |more: &[&str]| {
        let more = [&ca[..], more].concat();
        flat_out(large.pid(), large.aggregator.intake, &token, &more)
    };
    // All are on the roll first: what is measured is no first report.
    let _first = take(&["--rounds", "1"]);
    let (mut peers, mut unchanged, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        peers.push(flat_out(bare.daemon.id(), bare.address, &token, &ca));
        unchanged.push(take(&[]));
        changed.push(take(&["--changed", "1"]));
    }
    let [peer, unchanged, changed] = [peers, unchanged, changed].map(|rates| Rate::median(&rates));
    let mut figures = Vec::new();
    let bounded: fn(Figure) -> Figure = |figure| figure.ratio_at_least(0.5);
    let unbounded: fn(Figure) -> Figure = |figure| {
        figure.note("what is new is parsed, compared and on disk before it is answered: beside a handler that does none of that, it has no bound")
    };
    for (what, rate, judged) in
        [("unchanged", &unchanged, bounded), ("changed", &changed, unbounded)]
    {
        let figure = Figure::new(format!("{what} reports, {over}"), "a second", rate.per_second);
        figures.push(judged(figure.beside("bare handler", peer.per_second)));
        figures.push(
            Figure::new(format!("CPU of one {what} report, {over}"), "us", rate.cpu)
                .beside("bare handler", peer.cpu)
                .note("the client runs on the same CPUs and slows both, so this tells them apart better"),
        );
    }
    figures
}

fn at_intervals(plan: &Plan, certificate: &Certificate) -> Vec<Figure> {
    let Plan { nodes, interval, .. } = *plan;
    let large = Large::over_tls(certificate);
    let agents = nodes.to_string();
    let common = [&["--agents", &agents, "--ca-file", &certificate.ca][..]];
    let burst = ["--burst", BURST, "--rounds", "1", "--duration", "2m"];
    let new = large.swarm(&[common[0], &burst]);

    let seconds = format!("{}s", interval.as_secs());
    let duration = format!("{}s", (2 * interval + SETTLING).as_secs());
    let mut command = Command::new(program("swarm"));
    command.args(large.swarm_arguments()).args(common[0]);
    // Connections are kept, as the real agent does.
    command.args(["--interval", &seconds, "--duration", &duration, "--changed", CHANGED]);
    let mut agents = Daemon::spawn("swarm", command);
    thread::sleep(interval + SETTLING);
    let meter = Meter::start(large.pid());
    thread::sleep(interval);
    let (cpu, within) = meter.stop();
    let resident = rss_mb(large.pid());
    let ended = agents.wait(Duration::from_mins(2));
    let lines = agents.lines();
    let steady: Value = lines
        .last()
        .filter(|_| ended.success())
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("the swarm told nothing: {}", agents.tail()));

    let known = large.swarm(&[common[0], &burst]);
    let lost = |told: &Value| number(told, "/sent") - number(told, "/accepted");
    let share = 100.0 * cpu.as_secs_f64() / within.as_secs_f64();
    let made = number(&steady, "/connections") / number(&steady, "/sent");
    let what = format!("{nodes} agents at {seconds} over TLS");
    let mut figures = vec![
        Figure::new(format!("{what}, CPU of the aggregator"), "% of a core", share)
            .at_most(5.0)
            .note(format!(
                "{CHANGED} of the reports changed; {made:.2} connections a report; sent {:.1} ms late at the 99th percentile; the swarm's own CPU {:.1} s",
                number(&steady, "/lateMs/p99"),
                number(&steady, "/cpuSeconds"),
            )),
        Figure::new(format!("{what}, reports lost"), "", lost(&steady)).at_most(0.0),
        Figure::new(format!("{what}, RSS of the aggregator"), "MB", resident)
            .note("with the connections that are kept; they came within a few seconds"),
    ];
    for (who, told) in [("new", new), ("known", known)] {
        let what = format!("{nodes} {who} agents within {BURST} over TLS");
        figures.push(
            Figure::new(format!("{what}, reports lost"), "", lost(&told)).at_most(0.0).note(
                format!(
                    "sent {:.1} ms late at the 99th percentile, answered within {:.1} s",
                    number(&told, "/lateMs/p99"),
                    number(&told, "/seconds"),
                ),
            ),
        );
        for part in ["p50", "p99", "max"] {
            let latency = number(&told, &format!("/latencyMs/{part}"));
            figures.push(Figure::new(format!("{what}, latency {part}"), "ms", latency));
        }
    }
    figures
}
