//! The command line: `serve`, and the operator's commands.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 what was checked is not as it should be. Results go
//! to stdout, everything else to stderr.

mod assemble;
mod ca;
mod check;
mod document;
mod prepare;
mod progress;
mod region;
mod show;
mod target;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use log::LevelFilter;
use rollcall_daemon::kubernetes::Selection;
use rollcall_daemon::{logging, shutdown, usage};
use rollcall_report::{NodeName, error_chain};
use thiserror::Error;
use tokio::net::TcpListener;
use url::Url;

use crate::admin;
use crate::admin::views::{NodesView, StatusView};
use crate::ca::CaError;
use crate::cluster_file::{ClusterFile, ClusterFileError, Target};
use crate::intake::{self, review::ServiceAccount};
use crate::operator::tables::{self, Viewer};
use crate::operator::{self, Operator, OperatorError};
use crate::serve::{KubernetesConfig, Listeners, ServeConfig, ServeError, StorePlace, serve};
use crate::tls;
use crate::tokens::files::TokenFiles;
use show::{OutputArgs, Show, WatchArgs, print, show};

/// The program's name.
const PROGRAM: &str = "rollcall-aggregator";

/// Keeps the roll of a cluster's nodes and registers the cluster with networks.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Cli {
    /// What to log: error, warn, info, debug, trace or off.
    #[arg(long, global = true, env = "ROLLCALL_LOG_LEVEL", default_value = "info")]
    log_level: LevelFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes reports, keeps the roll and registers the cluster.
    Serve(ServeArgs),
    /// Prints the document made of saved reports; needs no server.
    Assemble(assemble::AssembleArgs),
    /// Lists the nodes on the roll.
    Nodes(OperatorArgs),
    /// Tells where each target stands.
    Status(OperatorArgs),
    /// Prints what a target is told: the document that is sent, a filled form, or a chart's values.
    Document(document::DocumentArgs),
    /// Tells what was done for a target: the journal.
    History(target::HistoryArgs),
    /// Registers the cluster, or brings its registration up to date, now: waits, refusals and a
    /// given-up war with another writer end.
    Submit(target::SubmitArgs),
    /// Says yes to what waits for approval.
    Approve(target::ApproveArgs),
    /// Tells how a network's entry differs from what it should be; nothing if it does not. Exit code 3
    /// if it does.
    Diff(target::DiffArgs),
    /// Takes the cluster out of a network: its infrastructure, then its entry. Nothing is registered
    /// there again until you submit.
    Offboard(target::OffboardArgs),
    /// Has the network make its infrastructure on the cluster, and follows that to its end.
    Infrastructure(target::InfrastructureArgs),
    /// Checks what a target needs of this cluster and this cluster of the target; changes nothing.
    Check(check::CheckArgs),
    /// Prints what a target needs of the cluster beforehand, as manifests; with --apply, applies them.
    Prepare(prepare::PrepareArgs),
    /// Makes certificates for the aggregator and the nodes, where there is no other CA.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Takes nodes off the roll. They come back if their agents still report; else they are taken out
    /// of the networks' entries after a while (departures.holdDown).
    Forget {
        /// The Kubernetes Nodes' names; for one that is not on the roll, its id in an entry.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Lets a node's next report come from another machine: it was replaced.
    Rebind {
        /// The Kubernetes Node's name.
        node: NodeName,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Prints what completes this command's words in a shell; packages install it.
    Completions {
        /// The shell that is to complete them.
        shell: Shell,
    },
    /// Prints the OpenAPI description of what a listener answers; needs no server.
    Openapi {
        /// Which listener's.
        #[arg(value_enum)]
        api: Api,
    },
}

/// The listeners, by what they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Api {
    /// Where agents report.
    Intake,
    /// The operator's API, metrics and probes.
    Admin,
}

/// All of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The cluster file.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: PathBuf,
    /// Where agents report.
    #[arg(long, value_name = "ADDR", env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:7655")]
    listen: SocketAddr,
    /// Where metrics, probes and the operator's API are.
    #[arg(
        long,
        value_name = "ADDR",
        env = "ROLLCALL_ADMIN_LISTEN",
        default_value = "127.0.0.1:7657"
    )]
    admin_listen: SocketAddr,
    /// Where the roll is kept: sqlite:PATH, on a local disk, or kubernetes, in the cluster itself.
    #[arg(
        long,
        value_name = "STORE",
        env = "ROLLCALL_STORE",
        default_value = "sqlite:/var/lib/rollcall/rollcall.db",
        value_parser = store_place
    )]
    store: StorePlace,
    /// The cluster is one of Kubernetes: its Nodes are watched, and its agents report with their
    /// service account's tokens. The store kubernetes says so too.
    #[arg(long, env = "ROLLCALL_KUBERNETES", value_parser = BoolishValueParser::new())]
    kubernetes: bool,
    /// How the Kubernetes API is reached; else KUBECONFIG, ~/.kube/config, or this pod's service account.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; else its current one.
    #[arg(long, value_name = "NAME", env = "ROLLCALL_CONTEXT")]
    context: Option<String>,
    /// The namespace of the store in the cluster; else this pod's.
    #[arg(long, value_name = "NAMESPACE", env = "ROLLCALL_NAMESPACE")]
    namespace: Option<String>,
    /// Names this aggregator among its replicas; else the host's name, which is the pod's.
    #[arg(long, value_name = "NAME", env = "ROLLCALL_REPLICA_NAME")]
    replica_name: Option<String>,
    /// The service account that agents run as; else rollcall-agent of the namespace.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "ROLLCALL_AGENT_SERVICE_ACCOUNT")]
    agent_service_account: Option<ServiceAccount>,
    /// The join tokens that agents may report with, one a line; may be left out with Kubernetes.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The operator's tokens, one a line; without it nobody may act on the roll.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_OPERATOR_TOKEN_FILE")]
    operator_token_file: Option<PathBuf>,
    /// The intake's certificate chain, PEM.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the intake's certificate, PEM.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The CA of agents' certificates, PEM, one or more; a certificate names its node.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLIENT_CA_FILE", requires = "tls_cert")]
    client_ca_file: Option<PathBuf>,
    /// Refuses connections without a good client certificate; so it is anyway where there are neither
    /// join tokens nor Kubernetes.
    #[arg(long, env = "ROLLCALL_REQUIRE_CLIENT_CERTIFICATE", value_parser = BoolishValueParser::new())]
    require_client_certificate: bool,
    /// Takes tokens over plain HTTP from other machines.
    #[arg(long, env = "ROLLCALL_INSECURE_HTTP", value_parser = BoolishValueParser::new())]
    insecure_http: bool,
    /// How often agents are to report.
    #[arg(long, value_name = "DUR", env = "ROLLCALL_INTERVAL", default_value = "60s", value_parser = interval)]
    interval: Duration,
}

#[derive(Debug, Args)]
struct OperatorArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// The admin listener of a running aggregator.
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_SERVER",
        default_value = "http://127.0.0.1:7657"
    )]
    server: Url,
    /// The operator's token.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_OPERATOR_TOKEN_FILE")]
    operator_token_file: Option<PathBuf>,
    /// The CA of the server's certificate, where a TLS proxy stands before the admin listener.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Sends the operator's token over plain HTTP to another machine.
    #[arg(long, env = "ROLLCALL_OPERATOR_INSECURE_HTTP", value_parser = BoolishValueParser::new())]
    insecure_http: bool,
}

/// How an operator's command reaches Kubernetes.
#[derive(Debug, Clone, Args)]
struct KubernetesArgs {
    /// How Kubernetes is reached; else KUBECONFIG, ~/.kube/config, or this pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; else its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl KubernetesArgs {
    fn selection(self) -> Selection {
        Selection { kubeconfig: self.kubeconfig, default_kubeconfig: true, context: self.context }
    }
}

/// The target of this name.
fn named<'a>(file: &'a ClusterFile, name: &str) -> Result<&'a Target, Failure> {
    let target = file.targets.iter().find(|target| target.name().as_str() == name);
    target.ok_or_else(|| no_such_target(file, name))
}

fn no_such_target(file: &ClusterFile, wanted: &str) -> Failure {
    let known: Vec<&str> = file.targets.iter().map(|target| target.name().as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::NoSuchTarget { wanted: wanted.to_owned(), known }
}

/// The host's name; one that no replica shares where the kernel does not tell it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => uuid::Uuid::new_v4().to_string(),
        name => name.to_owned(),
    }
}

fn store_place(text: &str) -> Result<StorePlace, String> {
    if text == "kubernetes" {
        return Ok(StorePlace::Kubernetes);
    }
    match text.strip_prefix("sqlite:") {
        // SQLite would take a leading colon for a name of its own, such as :memory:.
        Some(path) if !path.is_empty() && !path.starts_with(':') => {
            Ok(StorePlace::Sqlite(path.into()))
        }
        _ => Err("a store is given as sqlite:PATH or kubernetes".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_hours(1)).contains(&interval) {
        Ok(interval)
    } else {
        Err("an interval has 1 s to 1 h".to_owned())
    }
}

/// Why a command failed.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Serve(ServeError),
    #[error("cannot listen on {address}: give another address with {flag}")]
    Listen { flag: &'static str, address: SocketAddr, source: io::Error },
    #[error("the runtime cannot be started")]
    Runtime { source: io::Error },
    #[error("the result cannot be printed")]
    Print { source: io::Error },
    #[error(
        "agents' tokens would come over plain HTTP to {address}: give --tls-cert and --tls-key, or --insecure-http if the network is to be trusted"
    )]
    PlainIntake { address: SocketAddr },
    #[error(transparent)]
    Assemble(assemble::AssembleError),
    #[error(transparent)]
    Operator(OperatorError),
    #[error(transparent)]
    Ca(CaError),
    #[error("{0}")]
    Target(target::NotDone),
    #[error("the cluster file names no target {wanted:?}; there are: {known}")]
    NoSuchTarget { wanted: String, known: String },
    #[error(transparent)]
    ClusterFile(ClusterFileError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotDone(String),
    #[error("{failed} checks failed")]
    ChecksFailed { failed: usize },
}

impl Failure {
    /// Wrong usage is told from failure by its exit code.
    fn exit_code(&self) -> u8 {
        match self {
            Self::PlainIntake { .. }
            | Self::Operator(OperatorError::Server { .. } | OperatorError::PlainHttp { .. })
            | Self::NoSuchTarget { .. }
            | Self::ClusterFile(
                ClusterFileError::Invalid { .. } | ClusterFileError::TooLarge { .. },
            )
            | Self::Usage(_) => 2,
            Self::Serve(error) if error.is_configuration() => 2,
            Self::Target(not_done) => not_done.exit_code(),
            Self::ChecksFailed { .. } => 3,
            _ => 1,
        }
    }
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way, too, for stdout.
        Err(answer) => return usage::answer(env!("CARGO_PKG_NAME"), answer),
    };
    logging::init(env!("CARGO_PKG_NAME"), cli.log_level);
    let is_daemon = matches!(cli.command, Command::Serve(_));
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe that had enough is no failure.
        Err(Failure::Print { source }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        // The report says it.
        Err(failure @ Failure::ChecksFailed { .. }) => ExitCode::from(failure.exit_code()),
        // It goes where the daemon's other lines go.
        Err(failure) if is_daemon => {
            logging::failed("the aggregator has failed", &failure);
            ExitCode::from(failure.exit_code())
        }
        Err(failure) => {
            // There is nowhere left to say that stderr is gone.
            let _gone = writeln!(io::stderr(), "rollcall-aggregator: {}", error_chain(&failure));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    let runtime = |mut builder: tokio::runtime::Builder| {
        builder.enable_all().build().map_err(|source| Failure::Runtime { source })
    };
    let here = tokio::runtime::Builder::new_current_thread;
    match command {
        Command::Serve(args) => {
            let runtime = runtime(tokio::runtime::Builder::new_multi_thread())?;
            // On a worker, like the connections that it takes: from this thread, each would wake one.
            let serving = runtime.spawn(run_server(args));
            runtime
                .block_on(serving)
                .unwrap_or_else(|_panic| Err(Failure::Serve(ServeError::Ended { part: "server" })))
        }
        Command::Assemble(args) => {
            let document = assemble::assemble(&args).map_err(Failure::Assemble)?;
            print(&document)
        }
        Command::Nodes(args) => {
            let operator = args.server.operator()?;
            let look = async || operator.nodes().await.map_err(Failure::Operator);
            runtime(here())?.block_on(show("nodes", args.output, args.watch, look))
        }
        Command::Status(args) => {
            let operator = args.server.operator()?;
            let look = async || operator.status().await.map_err(Failure::Operator);
            runtime(here())?.block_on(show("status", args.output, args.watch, look))
        }
        Command::History(args) => runtime(here())?.block_on(target::history(args)),
        Command::Submit(args) => runtime(here())?.block_on(target::submit(args)),
        Command::Approve(args) => runtime(here())?.block_on(target::approve(args)),
        Command::Diff(args) => runtime(here())?.block_on(target::diff(args)),
        Command::Offboard(args) => runtime(here())?.block_on(target::offboard(args)),
        Command::Infrastructure(args) => runtime(here())?.block_on(target::infrastructure(args)),
        Command::Check(args) => finish(runtime(here())?, check::check(args)),
        Command::Document(args) => finish(runtime(here())?, document::document(args)),
        Command::Prepare(args) => finish(runtime(here())?, prepare::prepare(args)),
        Command::Ca(command) => ca::ca(command),
        Command::Forget { nodes, server } => {
            let operator = server.operator()?;
            let runtime = runtime(here())?;
            let mut failed = None;
            for node in nodes {
                match runtime.block_on(operator.forget(&node)) {
                    Ok(()) => print(&format!("node {node} is off the roll"))?,
                    // The others are forgotten all the same; the last of these ends the command.
                    Err(error) => {
                        if let Some(former) = failed.replace(error) {
                            log::error!("{}", error_chain(&former));
                        }
                    }
                }
            }
            failed.map_or(Ok(()), |error| Err(Failure::Operator(error)))
        }
        Command::Rebind { node, server } => {
            let operator = server.operator()?;
            runtime(here())?.block_on(operator.rebind(&node)).map_err(Failure::Operator)?;
            print(&format!("node {node} is bound to the machine of its next report"))
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Openapi { api } => {
            let description = match api {
                Api::Intake => intake::openapi::description(),
                Api::Admin => admin::openapi::description(),
            };
            let json = operator::json(&description).map_err(Failure::Operator)?;
            print(&format!("{json}\n"))
        }
    }
}

/// Runs a command to its end; a credential plugin that is out of time is not waited for.
fn finish(
    runtime: tokio::runtime::Runtime,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

async fn run_server(args: ServeArgs) -> Result<(), Failure> {
    let with_kubernetes = args.kubernetes || args.store == StorePlace::Kubernetes;
    if args.require_client_certificate && args.client_ca_file.is_none() {
        let usage = "--require-client-certificate needs the CA of agents' certificates: give --client-ca-file";
        return Err(Failure::Usage(usage.to_owned()));
    }
    let are_required =
        args.require_client_certificate || (args.token_file.is_none() && !with_kubernetes);
    let clients = args.client_ca_file.map(|ca| tls::Clients { ca, are_required });
    let tls = args.tls_cert.zip(args.tls_key);
    let tls = tls.map(|(cert, key)| tls::Files { cert, key, clients });
    if !args.insecure_http && tls.is_none() && !args.listen.ip().is_loopback() {
        return Err(Failure::PlainIntake { address: args.listen });
    }
    let bind = |flag, address| async move {
        TcpListener::bind(address).await.map_err(|source| Failure::Listen { flag, address, source })
    };
    let listeners = Listeners {
        intake: bind("--listen", args.listen).await?,
        admin: bind("--admin-listen", args.admin_listen).await?,
    };
    let stop = shutdown::signalled().map_err(|source| Failure::Runtime { source })?;
    let config = ServeConfig {
        cluster: args.cluster,
        kubernetes: with_kubernetes.then(|| KubernetesConfig {
            selection: Selection {
                kubeconfig: args.kubeconfig,
                default_kubeconfig: true,
                context: args.context,
            },
            namespace: args.namespace,
            replica: args.replica_name.unwrap_or_else(host_name),
            agents: args.agent_service_account,
        }),
        store: args.store,
        operators_from_afar: args.insecure_http,
        tokens: TokenFiles { join: args.token_file, operators: args.operator_token_file },
        tls,
        interval: args.interval,
    };
    serve(config, listeners, stop).await.map_err(Failure::Serve)
}

impl ServerArgs {
    fn operator(&self) -> Result<Operator, Failure> {
        Operator::new(
            self.server.clone(),
            self.operator_token_file.as_deref(),
            self.ca_file.as_deref(),
            self.insecure_http,
        )
        .map_err(Failure::Operator)
    }
}

impl Show for NodesView {
    // A report that says what the one before it said is no news.
    const RESTLESS: &'static [&'static str] = &["lastSeen"];

    fn data(&self) -> &impl serde::Serialize {
        self
    }

    fn table(&self, viewer: Viewer) -> String {
        tables::nodes(self, viewer)
    }
}

impl Show for StatusView {
    // Each look at a network sets the time of the next.
    const RESTLESS: &'static [&'static str] = &["nextTry"];

    fn data(&self) -> &impl serde::Serialize {
        self
    }

    fn table(&self, viewer: Viewer) -> String {
        tables::status(self, viewer)
    }
}
