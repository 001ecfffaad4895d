//! `aios-standin`: the stand-in of AIOS as a program, for demonstrations and for tests that run
//! everything as processes. Prints one line of JSON with its URLs when it listens; each request
//! is a line on stderr; SIGTERM ends it.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use log::LevelFilter;
use rollcall_report::error_chain;
use rollcall_tests::aios::{Addresses, AiosStandin, Behaviour};
use serde_json::json;

/// A stand-in of AIOS's parser, gateway, database of tasks and registry, kept in memory.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Where the parser listens; loopback or a private address, port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    parser_listen: SocketAddr,
    /// Where the gateway listens; loopback or a private address, port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    gateway_listen: SocketAddr,
    /// Where the database of tasks listens; loopback or a private address, port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    tasks_listen: SocketAddr,
    #[command(flatten)]
    fault: Fault,
    /// The fault holds for the first N requests to register a cluster, not for ever.
    #[arg(long, value_name = "N", requires = "Fault")]
    for_next: Option<usize>,
}

/// At most one of them.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one flag a fault")]
#[group(multiple = false)]
struct Fault {
    /// The network's policy refuses every new cluster, with these words.
    #[arg(long, value_name = "WHY")]
    policy_refuses: Option<String>,
    /// The network's policy stores this reputation.
    #[arg(long, value_name = "NUMBER")]
    policy_rewrites_reputation: Option<i64>,
    /// The gateway is down.
    #[arg(long)]
    gateway_down: bool,
    /// The registry answers 500.
    #[arg(long)]
    registry_fails: bool,
    /// A cluster is stored and the connection closed without an answer.
    #[arg(long)]
    reply_lost: bool,
    /// Everything is done at once and answered this much later, for example 5s.
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    stall: Option<Duration>,
    /// Nothing is answered.
    #[arg(long)]
    not_answering: bool,
}

impl Fault {
    fn behaviour(self) -> Behaviour {
        if let Some(why) = self.policy_refuses {
            Behaviour::PolicyRefuses { why }
        } else if let Some(reputation) = self.policy_rewrites_reputation {
            Behaviour::PolicyRewritesReputation { reputation }
        } else if self.gateway_down {
            Behaviour::GatewayDown
        } else if self.registry_fails {
            Behaviour::RegistryFails
        } else if self.reply_lost {
            Behaviour::ReplyLost
        } else if let Some(delay) = self.stall {
            Behaviour::Stalls { delay }
        } else if self.not_answering {
            Behaviour::NotAnswering
        } else {
            Behaviour::Normal
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    rollcall_daemon::logging::init("aios-standin", LevelFilter::Info);
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the line that says "listening": whoever reads it may send SIGTERM at once.
        let signalled = rollcall_daemon::shutdown::signalled()?;
        let aios = AiosStandin::start_at(Addresses {
            parser: options.parser_listen,
            gateway: options.gateway_listen,
            tasks: options.tasks_listen,
        })?;
        let behaviour = options.fault.behaviour();
        match options.for_next {
            Some(creates) => aios.set_for_next(creates, behaviour),
            None => aios.set(behaviour),
        }
        let urls = json!({
            "parserUrl": aios.parser_url(),
            "gatewayUrl": aios.gateway_url(),
            "tasksUrl": aios.tasks_url()
        });
        let mut stdout = io::stdout();
        writeln!(stdout, "{urls}")?;
        stdout.flush()?;
        signalled.await;
        Ok(())
    })
}
