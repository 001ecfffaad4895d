//! The command line and the environment. What the operator can get wrong is found here, before
//! anything is started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use log::LevelFilter;
use rollcall_daemon::http::{InvalidServiceUrl, check_service_url, is_confidential};
use rollcall_daemon::usage;
use rollcall_report::{NodeId, NodeName};
use thiserror::Error;
use url::Url;

use crate::probe::{ProbeOptions, nvml_child};
use crate::schedule::{LONGEST_INTERVAL, SHORTEST_INTERVAL};
use crate::trust::{OwnFiles, TrustFiles};

/// Probes the hardware of its node and reports it to rollcall's aggregator.
#[derive(Debug, Parser)]
#[command(name = "rollcall-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to log: off, error, warn, info, debug or trace.
    #[arg(
        long,
        global = true,
        env = "ROLLCALL_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: LevelFilter,
}

/// What the agent can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reports this node to an aggregator, again and again.
    Run(Box<RunConfig>),
    /// Prints the report of this node as JSON.
    Probe(NodeConfig),
    /// Shows what each number is made of: what counts, what does not, and by which rule.
    Explain(ExplainConfig),
    /// Saves what the probes read of this machine, without serial numbers, MAC addresses and other
    /// ids, for a bug report.
    Capture(CaptureConfig),
    /// Prints what NVIDIA's library answers; the agent starts itself so.
    #[command(name = nvml_child::COMMAND, hide = true)]
    Nvml(NvmlConfig),
}

/// What to explain, and how.
#[derive(Debug, Clone, Args)]
pub struct ExplainConfig {
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// What to probe, and whose it is.
    #[command(flatten)]
    pub node: NodeConfig,
}

/// A form to print in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Table,
    /// JSON for programs.
    Json,
}

/// What to save, and where.
#[derive(Debug, Clone, Args)]
pub struct CaptureConfig {
    /// A new folder, or a new FILE.tar.gz. Unpacked, it serves as --host-root.
    pub path: PathBuf,
    /// What to probe, and whose it is.
    #[command(flatten)]
    pub node: NodeConfig,
}

/// What the process that asks NVIDIA's library is told.
#[derive(Debug, Clone, Args)]
pub struct NvmlConfig {
    /// A path, or a name for the dynamic loader.
    #[arg(long)]
    pub library: PathBuf,
    /// The process that wants to know; this one ends with it.
    #[arg(long)]
    pub parent: i32,
}

/// What to probe, and whose it is.
#[derive(Debug, Clone, Args)]
pub struct NodeConfig {
    /// The Kubernetes Node's name; else taken from `ROLLCALL_NODE_NAME` or `NODE_NAME`, else the host's
    /// name.
    // Which variable it is depends on what is set; the text names both.
    #[arg(long, env = node_name_variable(), hide_env = true, value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// The node id to propose; else it is made from the node's name.
    #[arg(long, env = "ROLLCALL_NODE_ID", value_name = "ID")]
    pub node_id: Option<NodeId>,
    /// The root of the host's file system, with /proc, /sys and /etc.
    #[arg(long, env = "ROLLCALL_HOST_ROOT", default_value = "/", value_name = "DIR")]
    pub host_root: PathBuf,
    /// NVIDIA's management library: a path, or a name for the dynamic loader.
    // The driver installs the versioned name; the other one comes with development packages only.
    #[arg(
        long,
        env = "ROLLCALL_NVML_LIBRARY",
        default_value = "libnvidia-ml.so.1",
        value_name = "PATH"
    )]
    pub nvml_library: PathBuf,
    /// How long NVIDIA's library may take before it is given up for this time.
    #[arg(
        long,
        env = "ROLLCALL_NVML_TIMEOUT",
        default_value = "10s",
        value_parser = parse_nvml_timeout,
        value_name = "DUR"
    )]
    pub nvml_timeout: Duration,
    /// Counts removable disks, such as USB sticks.
    #[arg(long, env = "ROLLCALL_COUNT_REMOVABLE", value_parser = BoolishValueParser::new())]
    pub count_removable: bool,
}

/// Where and how to report.
#[derive(Debug, Clone, Args)]
pub struct RunConfig {
    /// The aggregator's URL.
    #[arg(long, env = "ROLLCALL_AGGREGATOR", value_name = "URL")]
    pub aggregator: Url,
    /// The file with the token to report with; read again for every report. May be left out with a
    /// client certificate.
    #[arg(long, env = "ROLLCALL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// This node's certificate, PEM, which names the node; read again when it changes.
    #[arg(long, env = "ROLLCALL_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// The key of this node's certificate, PEM.
    #[arg(long, env = "ROLLCALL_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Where metrics and probes are served.
    #[arg(long, env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:7656", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The time between reports, for example 30s; else what the aggregator assigns.
    #[arg(long, env = "ROLLCALL_INTERVAL", value_parser = parse_interval, value_name = "DUR")]
    pub interval: Option<Duration>,
    /// The CA that the aggregator's certificate is checked against; else the system's.
    #[arg(long, env = "ROLLCALL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Sends the token over plain HTTP to other machines, where anybody can read it.
    #[arg(long, env = "ROLLCALL_INSECURE_HTTP", value_parser = BoolishValueParser::new())]
    pub insecure_http: bool,
    /// Ends with exit code 4 where, in a container, only a new one can reach NVIDIA's GPUs: the library
    /// is missing, or the driver answers "unknown error" (NVML code 999).
    #[arg(long, env = "ROLLCALL_REQUIRE_GPUS", value_parser = BoolishValueParser::new())]
    pub require_gpus: bool,
    /// Whether and how labels are stamped.
    #[command(flatten)]
    pub stamp: StampConfig,
    /// What to probe, and whose it is.
    #[command(flatten)]
    pub node: NodeConfig,
}

/// Whether and how labels are stamped.
#[derive(Debug, Clone, Default, Args)]
pub struct StampConfig {
    /// Puts the accepted node id, and the node's class, on the labels of this node's own Node, by the
    /// Kubernetes API.
    #[arg(long, env = "ROLLCALL_STAMP_LABELS", value_parser = BoolishValueParser::new())]
    pub stamp_labels: bool,
    /// Lets the id of --node-id replace another nodeID label; else neither is touched and an error
    /// names both.
    #[arg(long, env = "ROLLCALL_OVERWRITE_LABELS", value_parser = BoolishValueParser::new())]
    pub overwrite_labels: bool,
    /// The kubeconfig to stamp labels with; else the service account of this pod.
    #[arg(long, env = "ROLLCALL_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl RunConfig {
    /// The files of TLS.
    pub fn trust_files(&self) -> TrustFiles {
        let own = self.client_cert.clone().zip(self.client_key.clone());
        let own = own.map(|(cert, key)| OwnFiles { cert, key });
        TrustFiles { ca: self.ca_file.clone(), own }
    }

    /// Whether there is something to report with, and it can be.
    fn check_credentials(&self) -> Result<(), InvalidCredentials> {
        if self.client_cert.is_some() && self.aggregator.scheme() == "http" {
            Err(InvalidCredentials::PlainHttp)
        } else if self.token_file.is_none() && self.client_cert.is_none() {
            Err(InvalidCredentials::None)
        } else {
            Ok(())
        }
    }
}

impl NodeConfig {
    /// What the probes are told.
    pub fn probe_options(&self) -> ProbeOptions {
        ProbeOptions {
            nvml_library: self.nvml_library.clone(),
            nvml_timeout: self.nvml_timeout,
            nvml_program: nvml_child::OWN_PROGRAM.into(),
            count_removable: self.count_removable,
        }
    }
}

/// All of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    ///
    /// On wrong usage, and where help or the version is asked for.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(args).map_err(usage::without_passwords)?;
        if let Command::Run(config) = &cli.command {
            check_aggregator(&config.aggregator, config.insecure_http)
                .map_err(|error| Self::command().error(ErrorKind::ValueValidation, error))?;
            config
                .check_credentials()
                .map_err(|error| Self::command().error(ErrorKind::ArgumentConflict, error))?;
        }
        Ok(cli)
    }
}

/// rollcall's own variable, or what a Kubernetes manifest usually fills by the downward API.
fn node_name_variable() -> &'static str {
    const OWN: &str = "ROLLCALL_NODE_NAME";
    if std::env::var_os(OWN).is_some() { OWN } else { "NODE_NAME" }
}

fn parse_interval(text: &str) -> Result<Duration, InvalidInterval> {
    let interval =
        humantime::parse_duration(text).map_err(|source| InvalidInterval::Unreadable { source })?;
    if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err(InvalidInterval::OutOfBounds)
    }
}

const SHORTEST_NVML_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_NVML_TIMEOUT: Duration = Duration::from_mins(1);

fn parse_nvml_timeout(text: &str) -> Result<Duration, InvalidNvmlTimeout> {
    let timeout = humantime::parse_duration(text)
        .map_err(|source| InvalidNvmlTimeout::Unreadable { source })?;
    if (SHORTEST_NVML_TIMEOUT..=LONGEST_NVML_TIMEOUT).contains(&timeout) {
        Ok(timeout)
    } else {
        Err(InvalidNvmlTimeout::OutOfBounds)
    }
}

/// A time for NVIDIA's library that is none.
#[derive(Debug, Clone, PartialEq, Error)]
enum InvalidNvmlTimeout {
    #[error("write it as 10s or 1min")]
    Unreadable { source: humantime::DurationError },
    #[error("it must be from 1s to 1min")]
    OutOfBounds,
}

/// An interval that is none.
#[derive(Debug, Clone, PartialEq, Error)]
enum InvalidInterval {
    #[error("write it as 30s, 5min or 1h")]
    Unreadable { source: humantime::DurationError },
    #[error("it must be from 1s to 1h")]
    OutOfBounds,
}

fn check_aggregator(url: &Url, insecure_http: bool) -> Result<(), InvalidAggregator> {
    check_service_url(url).map_err(|source| InvalidAggregator::Url { source })?;
    if insecure_http || is_confidential(url) { Ok(()) } else { Err(InvalidAggregator::PlainHttp) }
}

/// A URL that the agent does not report to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum InvalidAggregator {
    #[error("--aggregator {source}")]
    Url { source: InvalidServiceUrl },
    #[error(
        "--aggregator is plain HTTP to another machine, where anybody on the way can read the token: \
         use https://, or say --insecure-http"
    )]
    PlainHttp,
}

/// Nothing to report with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum InvalidCredentials {
    #[error(
        "there is nothing to report with: give --token-file, or --client-cert and --client-key, or all three"
    )]
    None,
    #[error("--client-cert is of no use with plain HTTP: use https:// in --aggregator")]
    PlainHttp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<RunConfig, String> {
        read_all(&[&["--token-file", "/token"], args].concat())
    }

    fn read_all(args: &[&str]) -> Result<RunConfig, String> {
        let usual = ["rollcall-agent", "run"];
        let args = usual.iter().chain(args).map(OsString::from);
        match Cli::read(args).map(|cli| cli.command) {
            Ok(Command::Run(config)) => Ok(*config),
            Ok(command) => Err(format!("{command:?}")),
            Err(error) => {
                assert_eq!(error.exit_code(), 2, "{error}");
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn aggregators() {
        for good in [
            vec!["--aggregator", "https://example.org/rollcall/"],
            vec!["--aggregator", "http://127.0.0.1:7655"],
            vec!["--aggregator", "http://example.org", "--insecure-http"],
        ] {
            assert!(read(&good).is_ok(), "{good:?}");
        }
        for (url, words) in [
            ("http://example.org", "--insecure-http"),
            ("ftp://example.org", "http:// or https://"),
            ("unix:/run/rollcall", "http:// or https://"),
            ("https://user:hunter2@example.org", "must not hold a user or a password"),
            ("https://example.org/?a=b", "must not hold a query"),
            ("example.org", "relative URL"),
            ("https://user:hunter2@example.org:76555", "invalid port number"),
        ] {
            let message = read(&["--aggregator", url]).expect_err(url);
            assert!(message.contains(words), "{url}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn credentials() {
        let https = ["--aggregator", "https://example.org"];
        let (cert, key) = (["--client-cert", "/crt"], ["--client-key", "/key"]);
        let token = ["--token-file", "/token"];
        for (what, args, words) in [
            ("a token", [https, token].concat(), Ok(())),
            ("a certificate", [https, cert, key].concat(), Ok(())),
            ("both", [https, token, cert, key].concat(), Ok(())),
            ("nothing", https.to_vec(), Err("there is nothing to report with")),
            ("no key", [https, token, cert].concat(), Err("--client-key")),
            ("no certificate", [https, token, key].concat(), Err("--client-cert")),
            (
                "plain HTTP",
                [["--aggregator", "http://127.0.0.1"], cert, key].concat(),
                Err("of no use with plain HTTP"),
            ),
        ] {
            match (read_all(&args), words) {
                (Ok(_), Ok(())) => {}
                (Err(message), Err(words)) => assert!(message.contains(words), "{what}: {message}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn intervals() {
        for (text, seconds) in [("1s", 1), ("30s", 30), ("5min", 300), ("1h", 3600)] {
            assert_eq!(parse_interval(text), Ok(Duration::from_secs(seconds)));
        }
        for (text, words) in
            [("30", "write it as"), ("0s", "from 1s"), ("2h", "from 1s"), ("", "write")]
        {
            let message = parse_interval(text).expect_err(text).to_string();
            assert!(message.contains(words), "{text:?}: {message}");
        }
    }

    #[test]
    fn names_and_ids_are_checked() {
        let aggregator = ["--aggregator", "https://example.org"];
        for (flag, value, words) in [
            ("--node-name", "Not_A_Name", "is no DNS subdomain"),
            ("--node-id", "-x", "begin and end"),
            ("--listen", "nowhere", "invalid"),
            ("--log-level", "loud", "invalid"),
            ("--stamp-labels", "maybe", "unexpected value"),
            ("--nvml-timeout", "10", "write it as"),
            ("--nvml-timeout", "999ms", "from 1s to 1min"),
            ("--nvml-timeout", "61s", "from 1s to 1min"),
        ] {
            let flag = format!("{flag}={value}");
            let message = read(&[&aggregator[..], &[&flag]].concat()).expect_err(value);
            assert!(message.contains(words), "{flag}: {message}");
        }
    }
}
