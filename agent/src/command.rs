//! The commands, between the command line and the library.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use rollcall_daemon::shutdown;
use rollcall_report::error_chain;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinError;

use crate::config::{Command, NodeConfig, NvmlConfig, RunConfig};
use crate::host::HostRoot;
use crate::identity::{IdentityError, identify};
use crate::probe::{Prober, nvml_child};
use crate::report;
use crate::run::{RunError, run};

/// Does what was asked for.
///
/// # Errors
///
/// When it could not be done.
pub fn execute(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Run(config) => run_until_signalled(config),
        Command::Probe(config) => print_report(config),
        Command::Nvml(NvmlConfig { library, parent }) => {
            nvml_child::answer(&library, parent).map_err(|source| CommandError::Print { source })
        }
    }
}

fn runtime() -> Result<Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CommandError::Runtime { source })
}

fn run_until_signalled(config: RunConfig) -> Result<(), CommandError> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let signalled = shutdown::signalled().map_err(|source| CommandError::Signals { source })?;
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| CommandError::Listen { address, source })?;
        run(config, listener, signalled).await.map_err(|source| CommandError::Run { source })
    });
    // A probe that hangs in a driver must not keep the agent from stopping.
    runtime.shutdown_background();
    outcome
}

fn print_report(config: NodeConfig) -> Result<(), CommandError> {
    let root = HostRoot::new(&config.host_root);
    let mut prober = Prober::new(root.clone(), config.probe_options());
    let identity = identify(&root, config.node_name, config.node_id)
        .map_err(|source| CommandError::Identity { source })?;
    let survey =
        runtime()?.block_on(prober.probe()).map_err(|source| CommandError::Probe { source })?;
    let report = report::build(identity, survey);
    for (subject, reason) in report.inventory.failures() {
        log::warn!(subject:% = subject, reason = reason; "probe failed");
    }
    if let Err(error) = report.check() {
        log::warn!(error = error_chain(&error); "an aggregator will refuse this report");
    }
    let json = serde_json::to_string_pretty(&report)
        .map_err(|source| CommandError::Print { source: source.into() })?;
    writeln!(io::stdout().lock(), "{json}").map_err(|source| CommandError::Print { source })
}

impl CommandError {
    /// What the program exits with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Run { source: RunError::NewContainer } => NEW_CONTAINER,
            _ => 1,
        }
    }
}

/// The exit code that asks for a new container.
const NEW_CONTAINER: u8 = 4;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The runtime cannot be started.
    #[error("the runtime cannot be started")]
    Runtime {
        /// What the system said.
        source: io::Error,
    },
    /// Signals cannot be awaited.
    #[error("signals cannot be awaited")]
    Signals {
        /// What the system said.
        source: io::Error,
    },
    /// The address for metrics and probes is not to be had.
    #[error("cannot listen on {address}: give another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The agent cannot run.
    #[error("the agent cannot run")]
    Run {
        /// Why.
        source: RunError,
    },
    /// It is unknown which node this is.
    #[error("it is unknown which node this is")]
    Identity {
        /// What is unknown.
        source: IdentityError,
    },
    /// A probe did not come to its end, which is a bug.
    #[error("a probe broke off: report this as a bug")]
    Probe {
        /// What the runtime said.
        source: JoinError,
    },
    /// The report cannot be printed.
    #[error("the report cannot be printed")]
    Print {
        /// What the system said.
        source: io::Error,
    },
}
