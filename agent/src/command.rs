//! The commands, between the command line and the library.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rollcall_daemon::shutdown;
use rollcall_report::{NodeIdentity, error_chain};
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinError;

use crate::capture::{self, Capture, Manifest, Saved, WriteError};
use crate::config::{
    CaptureConfig, Command, ExplainConfig, NodeConfig, NvmlConfig, Output, RunConfig,
};
use crate::explain::{self, ExplanationView};
use crate::health::{self, Watch};
use crate::host::{HostRoot, ReadError};
use crate::identity::{IdentityError, check_own_name, identify};
use crate::probe::nvml_answers::Answers;
use crate::probe::{Prober, Survey, nvml_child};
use crate::report;
use crate::run::{RunError, run};

/// Does what was asked for.
///
/// # Errors
///
/// When it could not be done.
pub fn execute(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Run(config) => run_until_signalled(*config),
        Command::Probe(config) => print_report(&config),
        Command::Explain(config) => explain(&config),
        Command::Capture(config) => capture(&config),
        Command::Nvml(NvmlConfig { library, parent }) => {
            nvml_child::answer(&library, parent).map_err(|source| CommandError::Print { source })
        }
    }
}

fn runtime() -> Result<Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // One for the probe, one for the files to report with, one for the name of the aggregator: the
        // first two may hang, and then nothing else waits for them.
        .max_blocking_threads(3)
        // One does a whole round's work, and ends with it: it does not wake up later only to end.
        .thread_keep_alive(Duration::from_millis(50))
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

fn print_report(config: &NodeConfig) -> Result<(), CommandError> {
    let Taken { identity, survey, .. } = take(config, open(config)?)?;
    let report = report::build(identity, survey, &mut Watch::default(), SystemTime::now());
    for (reason, subjects) in health::reasons(&report.inventory) {
        log::warn!(subject = health::list(&subjects), error = reason; "probe failed");
    }
    if let Err(error) = report.check() {
        log::warn!(error = error_chain(&error); "an aggregator will refuse this report");
    }
    print_json(&report)
}

fn explain(config: &ExplainConfig) -> Result<(), CommandError> {
    let Taken { identity, survey, .. } = take(&config.node, open(&config.node)?)?;
    match config.output {
        Output::Table => print(&explain::tables(&survey.inventory, &survey.explanation)),
        Output::Json => print_json(&ExplanationView {
            agent_version: env!("CARGO_PKG_VERSION"),
            node: &identity.name,
            inventory: &survey.inventory,
            subjects: &survey.explanation,
        }),
    }
}

fn capture(config: &CaptureConfig) -> Result<(), CommandError> {
    let root = open(&config.node)?;
    let (root, recorder, mut scrubber) = capture::record(root);
    let Taken { nvml_answers, .. } = take(&config.node, root)?;
    let nvml_answers = match nvml_answers {
        Some(answers) => Some(scrubber.json(&answers).map_err(|source| CommandError::Capture {
            source: WriteError::of(&config.path, source),
        })?),
        None => None,
    };
    let manifest = Manifest::new(config.node.count_removable, nvml_answers);
    let capture = Capture::new(manifest, &recorder.record(), &mut scrubber);
    capture::write(&capture, &config.path).map_err(|source| CommandError::Capture { source })?;
    print(&format!(
        "{} files saved to {}. Serial numbers, MAC addresses, UUIDs and the machine id are replaced; the host's name is not.",
        capture.files.values().filter(|saved| matches!(saved, Saved::File(_))).count(),
        config.path.display(),
    ))
}

/// What a single probe brings home.
struct Taken {
    identity: NodeIdentity,
    survey: Survey,
    /// What NVIDIA's library answered, where it was asked.
    nvml_answers: Option<Answers>,
}

fn open(config: &NodeConfig) -> Result<HostRoot, CommandError> {
    HostRoot::open(&config.host_root).map_err(|source| CommandError::HostRoot { source })
}

fn take(config: &NodeConfig, root: HostRoot) -> Result<Taken, CommandError> {
    let identity = identify(&root, config.node_name.clone(), config.node_id.clone())
        .map_err(|source| CommandError::Identity { source })?;
    if let Err(error) = check_own_name(config.node_name.as_ref(), &identity) {
        log::warn!(error = error_chain(&error); "the agent will not run like this");
    }
    let mut prober = Prober::new(root, config.probe_options());
    let runtime = runtime()?;
    let survey = runtime.block_on(prober.probe());
    // A file that does not answer must not keep the command from ending.
    runtime.shutdown_background();
    let survey = survey.map_err(|source| CommandError::Probe { source })?;
    Ok(Taken { identity, survey, nvml_answers: prober.nvml_answers().cloned() })
}

fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|source| CommandError::Print { source: source.into() })?;
    print(&json)
}

fn print(text: &str) -> Result<(), CommandError> {
    writeln!(io::stdout().lock(), "{text}").map_err(|source| CommandError::Print { source })
}

impl CommandError {
    /// What the program exits with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Run { source: RunError::NewContainer } => NEW_CONTAINER,
            Self::Run { source: RunError::NoKubernetes } => WRONG_USAGE,
            _ => 1,
        }
    }
}

/// The exit code of what only a person can mend.
const WRONG_USAGE: u8 = 2;

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
    /// The host's root is not there, or a saved machine that cannot be read.
    #[error("the host's root cannot be used")]
    HostRoot {
        /// What is wrong with it.
        source: ReadError,
    },
    /// The capture cannot be written.
    #[error("the machine is not saved")]
    Capture {
        /// Why.
        source: WriteError,
    },
    /// The answer cannot be printed.
    #[error("the answer cannot be printed")]
    Print {
        /// What the system said.
        source: io::Error,
    },
}
