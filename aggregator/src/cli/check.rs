//! `check`: what must be so before the cluster can be of use to a target.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use rollcall_daemon::kubernetes::Selection;
use rollcall_daemon::table::{HEAD, painted};
use serde::Serialize;

use super::progress::Progress;
use super::show::{OutputArgs, Show, WatchArgs, show};
use super::{Failure, KubernetesArgs, ServerArgs, named};
use crate::checks::report::{GroupReport, Report, judge};
use crate::checks::{
    aichor, aios, cluster_file, handful, inference_model_manager, interlink, unikorn,
};
use crate::cluster_file::{ClusterFile, Target};
use crate::operator::Operator;
use crate::operator::tables::Viewer;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The targets' names in the cluster file; all of them if left out.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// The cluster file.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: PathBuf,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
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
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

pub(super) fn limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&limit) {
        Ok(limit)
    } else {
        Err("an answer is waited for 100 ms to 10 min".to_owned())
    }
}

/// Checks of one target that was named, or of several.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Checked {
    One(Report),
    Several(Vec<Report>),
}

impl Show for Checked {
    const RESTLESS: &'static [&'static str] = &["tookMs"];

    fn data(&self) -> &impl Serialize {
        self
    }

    fn table(&self, _viewer: Viewer) -> String {
        self.text()
    }

    fn outcome(&self) -> Result<(), Failure> {
        match self.reports().iter().map(|report| report.failed).sum() {
            0 => Ok(()),
            failed => Err(Failure::ChecksFailed { failed }),
        }
    }
}

impl Checked {
    /// All reports.
    fn reports(&self) -> &[Report] {
        match self {
            Self::One(report) => std::slice::from_ref(report),
            Self::Several(reports) => reports,
        }
    }

    /// For people.
    fn text(&self) -> String {
        match self {
            Self::One(report) => report.text(),
            Self::Several(reports) => {
                let parts = reports.iter().map(|report| {
                    let line = "=".repeat(report.target.chars().count());
                    let target = painted(HEAD, &report.target);
                    format!("{target}\n{line}\n\n{}", report.text())
                });
                parts.collect::<Vec<_>>().join("\n\n")
            }
        }
    }
}

/// Checks targets, and shows how that came out.
pub(super) async fn check(args: CheckArgs) -> Result<(), Failure> {
    let (output, watch) = (args.output, args.watch);
    // Whoever watches sees the last result meanwhile.
    let mut progress = Some(RefCell::new(Progress::new()));
    let look = async || {
        let progress = progress.take();
        Box::pin(check_once(&args, progress.as_ref())).await
    };
    show("check", output, watch, look).await
}

/// Checks targets, all at the same time.
async fn check_once(
    args: &CheckArgs,
    progress: Option<&RefCell<Progress>>,
) -> Result<Checked, Failure> {
    let read = ClusterFile::read(&args.cluster);
    let first = || judge(cluster_file::GROUPS, &read);
    // Without its cluster file nobody knows what kind of system a target is.
    let Ok(file) = &read else {
        let all = vec!["all".to_owned()];
        let names = if args.targets.is_empty() { all } else { args.targets.clone() };
        let reports = names.into_iter().map(|name| Report::new(name, first()));
        return Ok(several(reports.collect()));
    };
    let targets: Vec<&Target> = if args.targets.is_empty() {
        if file.targets.is_empty() {
            return Err(Failure::Usage("the cluster file names no target to check".to_owned()));
        }
        file.targets.iter().collect()
    } else {
        args.targets.iter().map(|name| named(file, name)).collect::<Result<_, _>>()?
    };
    let operator = args.server.operator()?;
    let selection = args.kubernetes.clone().selection();
    let names: Vec<&str> = targets.iter().map(|target| target.name().as_str()).collect();
    let waited_for = RefCell::new(names.clone());
    let tell = || {
        let (waited_for, all) = (waited_for.borrow(), names.len());
        let words = format!("checking {}", handful(waited_for.iter().copied()));
        if let Some(progress) = progress.filter(|_| !waited_for.is_empty()) {
            let mut progress = progress.borrow_mut();
            if all == 1 {
                progress.say(&words);
            } else {
                progress.count(&words, all - waited_for.len(), all);
            }
        }
    };
    tell();
    let checked = targets.into_iter().map(async |target| {
        let looked = Box::pin(look(file, target, &selection, &operator, args.timeout)).await;
        waited_for.borrow_mut().retain(|name| *name != target.name().as_str());
        tell();
        Report::new(target.name().to_string(), first().into_iter().chain(looked).collect())
    });
    let reports = join_all(checked).await;
    Ok(if args.targets.is_empty() { Checked::Several(reports) } else { several(reports) })
}

fn several(mut reports: Vec<Report>) -> Checked {
    match (reports.pop(), reports.is_empty()) {
        (Some(report), true) => Checked::One(report),
        (last, _) => Checked::Several(reports.into_iter().chain(last).collect()),
    }
}

async fn look(
    file: &ClusterFile,
    target: &Target,
    selection: &Selection,
    operator: &Operator,
    limit: Duration,
) -> Vec<GroupReport> {
    match target {
        Target::Aios(target) => {
            let facts = Box::pin(aios::look(file, target, selection, operator, limit)).await;
            judge(aios::GROUPS, &facts)
        }
        Target::Unikorn(target) => {
            let facts = Box::pin(unikorn::look(file, target, selection, operator, limit)).await;
            judge(unikorn::GROUPS, &facts)
        }
        Target::Aichor(target) => {
            judge(aichor::GROUPS, &Box::pin(aichor::look(target, selection, limit)).await)
        }
        Target::Interlink(target) => {
            judge(interlink::GROUPS, &Box::pin(interlink::look(target, selection, limit)).await)
        }
        Target::InferenceModelManager(target) => {
            let facts = Box::pin(inference_model_manager::look(target, selection, limit)).await;
            judge(inference_model_manager::GROUPS, &facts)
        }
    }
}
