//! `check`: what must be so before the cluster can be of use to a network.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rollcall_daemon::kubernetes::Selection;
use thiserror::Error;

use super::{Failure, Output, ServerArgs};
use crate::checks::report::{Report, judge};
use crate::checks::{aios, cluster_file};
use crate::cluster_file::{ClusterFile, TargetKind};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The target's name in the cluster file.
    target: String,
    /// The cluster file.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: PathBuf,
    /// How Kubernetes is reached; else KUBECONFIG, ~/.kube/config, or this pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; else its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// How long to wait for each answer.
    #[arg(
        long,
        value_name = "DUR",
        env = "ROLLCALL_CHECK_TIMEOUT",
        default_value = "10s",
        value_parser = limit
    )]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// Lines for people, or JSON for programs.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

fn limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&limit) {
        Ok(limit)
    } else {
        Err("an answer is waited for 100 ms to 10 min".to_owned())
    }
}

/// Why nothing was checked.
#[derive(Debug, Error)]
pub(super) enum CheckError {
    /// The cluster file is valid, and names no such target.
    #[error("the cluster file names no target {wanted:?}; there are: {known}")]
    NoSuchTarget { wanted: String, known: String },
}

/// Checks a target.
pub(super) async fn check(args: CheckArgs) -> Result<Report, Failure> {
    let read = ClusterFile::read(&args.cluster);
    let mut groups = judge(cluster_file::GROUPS, &read);
    // Without its cluster file nobody knows what kind of network the target is.
    if let Ok(file) = &read {
        let target = file.targets.iter().find(|target| target.name.as_str() == args.target);
        let target = target.ok_or_else(|| no_such_target(file, &args.target))?;
        let operator = args.server.operator()?;
        let selection = Selection {
            kubeconfig: args.kubeconfig,
            default_kubeconfig: true,
            context: args.context,
        };
        match target.kind {
            TargetKind::Aios => {
                let looking = aios::look(file, target, &selection, &operator, args.timeout);
                let facts = Box::pin(looking).await;
                groups.extend(judge(aios::GROUPS, &facts));
            }
        }
    }
    Ok(Report::new(args.target, groups))
}

fn no_such_target(file: &ClusterFile, wanted: &str) -> Failure {
    let known: Vec<&str> = file.targets.iter().map(|target| target.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::Check(CheckError::NoSuchTarget { wanted: wanted.to_owned(), known })
}
