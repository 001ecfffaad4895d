//! What is printed of, and applied for, a Unikorn region.

use std::time::Duration;

use serde_json::Value;

use super::{Failure, print};
use crate::cluster_file::{ClusterFile, UnikornTarget};
use crate::operator::Operator;
use crate::targets::unikorn;
use crate::targets::unikorn::region::{ClassOffer, RegionView};

/// The Region as the running aggregator has it; what is to be known of it goes to stderr.
pub(super) async fn view(operator: &Operator) -> Result<RegionView, Failure> {
    let view = operator.region().await.map_err(Failure::Operator)?;
    for class in &view.classes {
        if let Some(why) = class.trouble() {
            log::warn!("class {} ({}) is not in the Region: {why}", class.name, class.id);
        }
    }
    for warning in &view.warnings {
        log::warn!("{warning}");
    }
    Ok(view)
}

/// How the Region is to be applied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submission {
    /// Whether it is only tried.
    pub(super) dry_run: bool,
    /// Whether classes may go that have nodes, though none that can do what it says just now.
    pub(super) partial: bool,
    /// How long to wait.
    pub(super) limit: Duration,
}

/// Applies the Region in the management cluster, or tells what that would do.
pub(super) async fn submit(
    file: &ClusterFile,
    target: &UnikornTarget,
    operator: &Operator,
    how: Submission,
) -> Result<(), Failure> {
    let Submission { dry_run, partial, limit } = how;
    let view = view(operator).await?;
    is_of(file, target, operator, &view).await?;
    let offers = view.classes.iter().filter(|class| class.not_offered.is_none()).count();
    if offers == 0 {
        let words = format!(
            "target {}: no class has a node that can take work, and a Region without classes is of no use to anybody: nothing was sent; look at status and nodes",
            target.name
        );
        return Err(Failure::NotDone(words));
    }
    let management = unikorn::management(target, limit).await.map_err(Failure::NotDone)?;
    let live = unikorn::declared(&management, target).await.result;
    let live = live.map_err(|unseen| refused(target, &unseen.to_string()))?;
    let gone: Vec<&ClassOffer> = view
        .classes
        .iter()
        .filter(|class| class.not_offered.is_some() && live.contains(&class.id))
        .collect();
    let with_nodes: Vec<&str> =
        gone.iter().filter(|class| !class.nodes.is_empty()).map(|it| it.name.as_str()).collect();
    if !partial && !dry_run && !with_nodes.is_empty() {
        let words = format!(
            "classes would be taken out of it whose nodes cannot do what they say just now: {}; mend them, or say --partial",
            with_nodes.join(", ")
        );
        return Err(refused(target, &words));
    }
    let applying = unikorn::submit(&management.access, &view.region, dry_run);
    let change = match tokio::time::timeout(limit, applying).await {
        Ok(outcome) => outcome.map_err(|words| refused(target, &words))?,
        Err(_elapsed) => {
            let limit = humantime::format_duration(limit);
            return Err(refused(target, &format!("no answer within {limit}")));
        }
    };
    let (namespace, name) = (&target.region.namespace, &target.region.name);
    let would = if dry_run { "would be " } else { "" };
    let classes = if offers == 1 { "class" } else { "classes" };
    print(&format!("Region {namespace}/{name} {would}{change}: {offers} {classes}"))?;
    for class in gone {
        print(&format!("class {} ({}) {would}taken out", class.name, class.id))?;
    }
    Ok(())
}

/// What an aggregator of another cluster says is not this one's Region.
async fn is_of(
    file: &ClusterFile,
    target: &UnikornTarget,
    operator: &Operator,
    view: &RegionView,
) -> Result<(), Failure> {
    let status = operator.status().await.map_err(Failure::Operator)?;
    let text = |pointer: &str| view.region.pointer(pointer).and_then(Value::as_str);
    let is_this = status.cluster == file.cluster.id.as_str()
        && text("/metadata/name") == Some(target.region.name.as_str())
        && text("/metadata/namespace") == Some(target.region.namespace.as_str());
    if is_this {
        return Ok(());
    }
    let words = format!(
        "the aggregator that answers serves cluster {} and Region {}, which is not what the cluster file says: --server tells where to look, and a changed cluster file is read at its start",
        status.cluster,
        text("/metadata/name").unwrap_or("(none)")
    );
    Err(refused(target, &words))
}

fn refused(target: &UnikornTarget, words: &str) -> Failure {
    let (namespace, name) = (&target.region.namespace, &target.region.name);
    Failure::NotDone(format!(
        "target {}: Region {namespace}/{name} was not applied: {words}",
        target.name
    ))
}
