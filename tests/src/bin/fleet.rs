//! `fleet`: a made-up cluster that reports to an aggregator on this machine, for demonstrations and
//! for tests that run everything as processes. One line of JSON on stdout says what was reported, each
//! time that it was; SIGTERM ends it.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use log::LevelFilter;
use rollcall_daemon::secret::read_token_file;
use rollcall_report::{NodeReport, error_chain};
use rollcall_tests::fleet::intake::Intake;
use rollcall_tests::fleet::{Fleet, Member, Trouble};
use serde_json::json;
use tokio::time::MissedTickBehavior;

/// Reports a made-up cluster to an aggregator on this machine: the same machines from the same seed,
/// a few of them in trouble.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// How many machines the cluster has.
    #[arg(long, value_name = "N", default_value_t = 200)]
    nodes: usize,
    /// Another seed makes another cluster.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The aggregator's intake, an address of loopback.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7655")]
    intake: SocketAddr,
    /// The file with the join token.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["list", "print"])]
    token_file: Option<PathBuf>,
    /// How many reports are under way at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    connections: usize,
    /// Only this machine reports; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// This is wrong with the machines that report; else what the seed says.
    #[arg(long, value_enum, value_name = "TROUBLE", conflicts_with = "sound")]
    trouble: Option<Trouble>,
    /// Nothing is wrong with the machines that report.
    #[arg(long)]
    sound: bool,
    /// Reports again and again, this long after the last time began, for example 1s.
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// This machine is silent after its first report; may be given several times.
    #[arg(long, value_name = "NAME", requires = "every")]
    silent: Vec<String>,
    /// Prints the machines, one a line: name, kind and trouble as JSON. Nothing is reported.
    #[arg(long, conflicts_with = "print")]
    list: bool,
    /// Prints the machines' reports as things stand, one a line. Nothing is reported.
    #[arg(long)]
    print: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    rollcall_daemon::logging::init("fleet", LevelFilter::Info);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::new(options.nodes, options.seed)?;
    for name in options.only.iter().chain(&options.silent) {
        fleet.member(name).ok_or_else(|| {
            format!(
                "no machine is called {name}: see fleet --list with the same --nodes and --seed"
            )
        })?;
    }
    let only: BTreeSet<&str> = options.only.iter().map(String::as_str).collect();
    let chosen: Vec<&Member> =
        fleet.members.iter().filter(|it| only.is_empty() || only.contains(it.name())).collect();
    if options.list {
        for member in chosen {
            say(&json!({
                "name": member.name(),
                "kind": member.kind.as_str(),
                "trouble": member.trouble.map(Trouble::as_str),
            }))?;
        }
        return Ok(());
    }
    if options.print {
        for member in chosen {
            for report in options.reports_of(member, Round::Later)? {
                say(&serde_json::to_value(report)?)?;
            }
        }
        return Ok(());
    }
    let path = options.token_file.as_deref().ok_or("--token-file is missing")?;
    let intake = Intake::new(options.intake, read_token_file(path)?, options.connections)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let signalled = rollcall_daemon::shutdown::signalled()?;
        tokio::select! {
            reported = options.report(&intake, &chosen) => reported,
            () = signalled => Ok(()),
        }
    })
}

/// Which of a machine's reports are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// All, until things are as they stand.
    First,
    /// The one that says how they stand.
    Later,
}

impl Options {
    async fn report(&self, intake: &Intake, members: &[&Member]) -> Result<(), Box<dyn Error>> {
        self.report_once(intake, members, Round::First).await?;
        let Some(every) = self.every else { return Ok(()) };
        let silent: BTreeSet<&str> = self.silent.iter().map(String::as_str).collect();
        let speaking: Vec<&Member> =
            members.iter().copied().filter(|it| !silent.contains(it.name())).collect();
        let mut rounds = tokio::time::interval(every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, and that round is done.
        rounds.tick().await;
        loop {
            rounds.tick().await;
            if let Err(error) = self.report_once(intake, &speaking, Round::Later).await {
                // An aggregator may be started again; its agents try again, too.
                log::warn!(error = error_chain(&*error); "not all have reported");
            }
        }
    }

    async fn report_once(
        &self,
        intake: &Intake,
        members: &[&Member],
        round: Round,
    ) -> Result<(), Box<dyn Error>> {
        let due: Result<Vec<_>, _> =
            members.iter().map(|member| self.reports_of(member, round)).collect();
        let reports = intake.report(due?).await?;
        say(&json!({ "nodes": members.len(), "reports": reports }))?;
        Ok(())
    }

    fn reports_of(&self, member: &Member, round: Round) -> Result<Vec<NodeReport>, Box<dyn Error>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        Ok(match (self.trouble, round) {
            _ if self.sound => vec![member.sound().clone()],
            (Some(trouble), _) => {
                let report = member.in_trouble(trouble, now);
                vec![report.ok_or_else(|| {
                    format!(
                        "{} cannot have {}: it is of kind {}",
                        member.name(),
                        trouble.as_str(),
                        member.kind.as_str()
                    )
                })?]
            }
            (None, Round::First) => member.history(now),
            (None, Round::Later) => vec![member.latest(now)],
        })
    }
}

fn say(line: &serde_json::Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
