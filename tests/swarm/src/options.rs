//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Plays many agents against an aggregator's intake on this machine: nodes with eight GPUs each, under
/// names of their own, each with a connection of its own, that report at jittered intervals. It ends
/// with the first bound that it comes to (--duration, --rounds, --requests), and prints one line of
/// JSON: reports sent, accepted, refused by code, errors by kind, latencies, how late reports were
/// sent, its own CPU time.
#[derive(Debug, Clone, Parser)]
#[command(name = "swarm", version)]
pub(crate) struct Options {
    /// The aggregator's intake, an address of loopback.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7655")]
    pub intake: SocketAddr,
    /// The file with the join token.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// Reports over TLS, and trusts the CA in this file (PEM).
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How many agents there are.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub agents: usize,
    /// The number of the first of them; names, ids and machines are made from the numbers.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub first: u32,
    /// How often each reports, give or take a tenth, for example 60s.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// All report for the first time within this, as after an outage; else within an interval.
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    pub burst: Option<Duration>,
    /// No intervals: over so many connections one report follows the other, each agent's in turn.
    #[arg(long, value_name = "CONNECTIONS", conflicts_with_all = ["interval", "burst"])]
    pub flat_out: Option<usize>,
    /// Which share of the reports says something new, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub changed: f64,
    /// Which share of the nodes leaves at each interval, 0 to 1; another one comes for each.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub churn: f64,
    /// Makes a connection for each report, instead of keeping them for as long as the server does.
    #[arg(long)]
    pub new_connections: bool,
    /// Makes each TLS handshake a whole one, instead of taking up the agent's last session again.
    #[arg(long)]
    pub no_resumption: bool,
    /// Starts no report after this long.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Sends so many reports of each agent at most.
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Sends so many reports in all at most.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub requests: u64,
    /// Gives a report up after this long, connection included.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Another seed makes other moments and another choice of those that change and leave.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

impl Options {
    /// How many connections are open at a time.
    pub(crate) fn connections(&self) -> usize {
        self.flat_out.unwrap_or(self.agents)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_invalid| "a share is a number of 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share has 0 to 1".to_owned()) }
}
