//! `prepare`: what a target needs of the cluster beforehand, printed or applied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::document::write_secret;
use super::progress::Progress;
use super::show::print;
use super::{Failure, KubernetesArgs, named};
use crate::checks::kubernetes::Reader;
use crate::cluster_file::{ClusterFile, Target, UnikornTarget};
use crate::manifests::{self, Conflicts};
use crate::targets::{aichor, inference_model_manager, interlink, unikorn};

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The target's name in the cluster file.
    target: String,
    /// The cluster file.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: PathBuf,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    /// Applies it, instead of printing it.
    #[arg(long)]
    apply: bool,
    /// Writes what is secret to a new file that nobody else can read, for a person to hand on.
    #[arg(long, value_name = "FILE", requires = "apply")]
    to: Option<PathBuf>,
    /// Sets fields that somebody else has set otherwise since.
    #[arg(long, requires = "apply")]
    force_conflicts: bool,
    /// How long to wait for each answer, and for what the cluster then does by itself.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = super::check::limit)]
    timeout: Duration,
}

/// Prints or applies what a target needs.
pub(super) async fn prepare(args: PrepareArgs) -> Result<(), Failure> {
    let file = ClusterFile::read(&args.cluster).map_err(Failure::ClusterFile)?;
    let target = named(&file, &args.target)?;
    let reader = Reader::open(&args.kubernetes.selection(), args.timeout).await;
    let wanted = match target {
        Target::Aichor(target) => aichor::prepare(target, &reader).await,
        Target::Interlink(target) => interlink::prepare(target, &reader).await,
        Target::InferenceModelManager(target) => {
            inference_model_manager::prepare(target, &reader).await
        }
        Target::Unikorn(target) => Ok(unikorn::prepare(target)),
        Target::Aios(target) => Err(format!(
            "nothing is prepared for an AIOS network: what it needs of the cluster is installed by its own charts, and seen by: rollcall-aggregator check {}",
            target.name
        )),
    };
    let manifests = wanted.map_err(Failure::NotDone)?;
    if !args.apply {
        return print(&manifests::yaml(&manifests).map_err(Failure::NotDone)?);
    }
    if let (Some(_), false) = (&args.to, matches!(target, Target::Unikorn(_))) {
        let words =
            "--to is for a Unikorn region's kubeconfig: nothing else that is prepared is handed on";
        return Err(Failure::Usage(words.to_owned()));
    }
    let unreachable = |why| Failure::NotDone(format!("nothing was applied: {why}"));
    let reader = reader.result.map_err(unreachable)?;
    if let Target::Unikorn(target) = target {
        can_be_handed_over(target, &reader, args.to.as_deref(), args.timeout).await?;
    }
    let conflicts = if args.force_conflicts { Conflicts::TakeOver } else { Conflicts::Fail };
    let mut progress = Progress::new();
    let told = |done, what: &str| {
        progress.count(&format!("applying {what}"), done, manifests.len());
    };
    let applied = manifests::apply(&reader.access, &manifests, conflicts, args.timeout, told).await;
    drop(progress);
    for applied in &applied {
        print(&applied.to_string())?;
    }
    if applied.iter().any(|applied| applied.outcome.is_err()) {
        let done = applied.iter().filter(|applied| applied.outcome.is_ok()).count();
        return Err(Failure::NotDone(format!(
            "it is not prepared: of {} objects {done} are there; mend the cause and run this again",
            manifests.len()
        )));
    }
    match target {
        Target::Aichor(target) => {
            let mut progress = Progress::new();
            progress.say("waiting for what the cluster does with it");
            let settled = aichor::settled(target, &reader).await;
            drop(progress);
            for line in settled.map_err(Failure::NotDone)? {
                print(&line)?;
            }
            Ok(())
        }
        Target::Unikorn(target) => {
            hand_over(target, &reader, args.to.as_deref(), conflicts, args.timeout).await
        }
        Target::Interlink(target) => {
            interlink::left(target, &manifests).map_or(Ok(()), |left| print(&left))
        }
        Target::Aios(_) | Target::InferenceModelManager(_) => Ok(()),
    }
}

/// Looks whether the kubeconfig can be handed over, before an account with all rights is made for it.
async fn can_be_handed_over(
    target: &UnikornTarget,
    reader: &Reader,
    to: Option<&Path>,
    limit: Duration,
) -> Result<(), Failure> {
    let nothing = |why: String| Failure::NotDone(format!("nothing was applied: {why}"));
    unikorn::check_server(target, reader).await.map_err(nothing)?;
    match to {
        Some(path) if path.exists() => {
            Err(nothing(format!("{} is there already: name another", path.display())))
        }
        Some(_) => Ok(()),
        None if target.region.management.is_none() => {
            let words = "the network's kubeconfig has to go somewhere: set region.management, or give --to FILE and hand that on";
            Err(Failure::Usage(words.to_owned()))
        }
        None => unikorn::management(target, limit).await.map(drop).map_err(nothing),
    }
}

/// Gives the network this cluster's kubeconfig: in its management cluster, or in a file for a person to
/// hand on.
async fn hand_over(
    target: &UnikornTarget,
    reader: &Reader,
    to: Option<&Path>,
    conflicts: Conflicts,
    limit: Duration,
) -> Result<(), Failure> {
    let kubeconfig = unikorn::kubeconfig(target, reader, limit).await.map_err(Failure::NotDone)?;
    if let Some(path) = to {
        write_secret(path, &kubeconfig.to_string())?;
        return print(&unikorn::by_hand(target, path));
    }
    let management = unikorn::management(target, limit).await.map_err(Failure::NotDone)?;
    let applied =
        unikorn::hand_over(&management.access, target, &kubeconfig, conflicts, limit).await;
    for applied in applied {
        if applied.outcome.is_err() {
            let words =
                format!("the kubeconfig is not handed over: in the management cluster, {applied}");
            return Err(Failure::NotDone(words));
        }
        print(&format!("in the management cluster: {applied}"))?;
    }
    Ok(())
}
