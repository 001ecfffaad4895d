//! What is checked of the nodes' classes.

use std::collections::BTreeSet;

use rollcall_report::NodeName;
use serde_json::Value;

use super::{Facts, Labelled, Verdict};
use crate::admin::views::NodesView;
use crate::checks::handful;
use crate::class::NodeClassId;
use crate::targets::unikorn::region::{ClassOffer, RegionView};

/// Whether each node that the target is offered carries a class.
pub(super) fn every_node(facts: &Facts) -> Verdict {
    let target = facts.target.name.as_str();
    facts.roll.judge(|roll| facts.nodes.judge(|nodes| judge_every_node(target, roll, nodes)))
}

/// Whether the labels are what the network takes for ids.
pub(super) fn valid_labels(facts: &Facts) -> Verdict {
    facts.nodes.judge(|nodes| judge_labels(nodes))
}

/// Whether the Region declares all classes that nodes carry.
pub(super) fn declared(facts: &Facts) -> Verdict {
    with_region(facts, |view, live, nodes| match live {
        Live::There(region) => judge_declared(nodes, &ids(region), "the Region as it is there"),
        Live::Absent => Verdict::fail("there is no Region in the management cluster"),
        Live::NotReached => {
            judge_declared(nodes, &ids(&view.region), "the Region as it would be sent")
        }
    })
}

/// Whether all declared classes, in the cluster file and in the Region as it is there, have nodes.
pub(super) fn inhabited(facts: &Facts) -> Verdict {
    with_region(facts, |view, live, nodes| {
        let live = if let Live::There(region) = live { Some(region) } else { None };
        judge_inhabited(view, live, nodes)
    })
}

/// The Region in the management cluster.
enum Live<'a> {
    There(&'a Value),
    Absent,
    /// The cluster file does not say how.
    NotReached,
}

fn with_region(
    facts: &Facts,
    judge: impl FnOnce(&RegionView, Live<'_>, &[Labelled]) -> Verdict,
) -> Verdict {
    let live = match &facts.management.live.result {
        Ok(Some(region)) => Live::There(region),
        Ok(None) => Live::Absent,
        Err(_) if facts.target.region.management.is_none() => Live::NotReached,
        Err(_) => return facts.management.live.judge(|_| Verdict::pass("")),
    };
    facts.region.judge(|view| facts.nodes.judge(|nodes| judge(view, live, nodes)))
}

/// Whether nodes are as their class says.
pub(super) fn equal_shapes(facts: &Facts) -> Verdict {
    facts.roll.judge(judge_shapes)
}

/// Whether nodes that take no work carry no class.
pub(super) fn usable(facts: &Facts) -> Verdict {
    facts.nodes.judge(|nodes| judge_usable(nodes))
}

fn judge_every_node(target: &str, roll: &NodesView, nodes: &[Labelled]) -> Verdict {
    let offered = roll.nodes.iter().filter_map(|node| Some((node, node.class.as_ref()?)));
    let mut troubles = Vec::new();
    let mut count = 0;
    for (node, class) in offered {
        count += 1;
        let there = nodes.iter().find(|there| there.name == node.name.as_str());
        match (&class.id, &class.waiting, there) {
            (None, Some(why), _) => troubles.push(format!("{}: {why}", node.name)),
            (None, None, _) => troubles.push(format!("{}: it is about to get one", node.name)),
            (Some(_), _, Some(Labelled { class: None, kept_away: false, .. })) => {
                troubles.push(format!("{}: it has one, and its label is missing", node.name));
            }
            (Some(_), ..) => {}
        }
    }
    let is_on_roll = |name: &NodeName| roll.nodes.iter().any(|node| node.name == *name);
    let missing = roll.missing.iter().filter(|it| it.targets.iter().any(|of| of == target));
    let missing = missing.filter(|it| !is_on_roll(&it.name));
    troubles.extend(missing.map(|it| {
        let why = it.why.as_deref().unwrap_or("it has not reported");
        format!("{}: {why}", it.name)
    }));
    match (count, troubles.as_slice()) {
        (0, []) => Verdict::fail("no node that the target is offered has reported"),
        (_, []) => Verdict::pass(format!("{count} nodes")),
        _ => Verdict::fail(handful(troubles.iter().map(String::as_str))),
    }
}

fn judge_labels(nodes: &[Labelled]) -> Verdict {
    let labels = nodes.iter().filter_map(|node| Some((node, node.class.as_ref()?)));
    let wrong: Vec<String> = labels
        .clone()
        .filter(|(_, label)| NodeClassId::parse(label).is_none())
        .map(|(node, label)| format!("{} carries {label:?}", node.name))
        .collect();
    if wrong.is_empty() {
        Verdict::pass(format!("{} labels", labels.count()))
    } else {
        Verdict::fail(handful(wrong.iter().map(String::as_str)))
    }
}

/// The ids that a Region declares.
fn ids(region: &Value) -> BTreeSet<String> {
    let nodes = region.pointer("/spec/kubernetes/nodes").and_then(Value::as_array);
    let ids = nodes.into_iter().flatten().filter_map(|node| node.get("id")?.as_str());
    ids.map(str::to_owned).collect()
}

fn judge_declared(nodes: &[Labelled], declared: &BTreeSet<String>, of: &str) -> Verdict {
    let undeclared: Vec<String> = nodes
        .iter()
        .filter_map(|node| Some((node, node.class.as_ref()?)))
        .filter(|(_, class)| !declared.contains(*class))
        .map(|(node, class)| format!("{} ({class})", node.name))
        .collect();
    if undeclared.is_empty() {
        Verdict::pass(format!("{} classes in {of}", declared.len()))
    } else {
        Verdict::fail(format!(
            "{} nodes carry a class that is not in {of}: {}",
            undeclared.len(),
            handful(undeclared.iter().map(String::as_str))
        ))
    }
}

fn judge_inhabited(view: &RegionView, live: Option<&Value>, nodes: &[Labelled]) -> Verdict {
    let carried: BTreeSet<&str> = nodes.iter().filter_map(|node| node.class.as_deref()).collect();
    let live = live.map(ids).unwrap_or_default();
    // One that is stored alone is kept for machines that may come back, and declared nowhere.
    let is_declared = |class: &&ClassOffer| class.declared || live.contains(&class.id);
    let declared: Vec<&ClassOffer> = view.classes.iter().filter(is_declared).collect();
    let mut empty: Vec<String> = declared
        .iter()
        .filter_map(|class| {
            let why = class.not_offered.as_ref()?;
            Some(format!("{} ({}): {why}", class.name, class.id))
        })
        .collect();
    let known: BTreeSet<&str> = view.classes.iter().map(|class| class.id.as_str()).collect();
    let others = live.iter().filter(|id| !carried.contains(id.as_str()));
    let others = others.filter(|id| !known.contains(id.as_str()));
    empty.extend(others.map(|id| format!("{id}, which the Region declares: no node carries it")));
    match (declared.len().max(live.len()), empty.as_slice()) {
        (0, []) => Verdict::pass("none is declared"),
        (count, []) => Verdict::pass(format!("{count} classes")),
        _ => Verdict::fail(handful(empty.iter().map(String::as_str))),
    }
}

fn judge_shapes(roll: &NodesView) -> Verdict {
    let classed = roll.nodes.iter().filter_map(|node| {
        let class = node.class.as_ref().filter(|class| class.id.is_some())?;
        Some((&node.name, class))
    });
    let wrong: Vec<String> = classed
        .clone()
        .flat_map(|(name, class)| class.mismatches.iter().map(move |it| format!("{name}: {it}")))
        .collect();
    if wrong.is_empty() {
        Verdict::pass(format!("{} nodes are as their class says", classed.count()))
    } else {
        Verdict::fail(handful(wrong.iter().map(String::as_str)))
    }
}

fn judge_usable(nodes: &[Labelled]) -> Verdict {
    let kept: Vec<String> = nodes
        .iter()
        .filter(|node| node.class.is_some() && (node.cordoned || !node.ready))
        .map(|node| {
            let why = if node.cordoned { "cordoned" } else { "not ready" };
            format!("{} is {why}", node.name)
        })
        .collect();
    if kept.is_empty() {
        Verdict::pass("none")
    } else {
        Verdict::warn(handful(kept.iter().map(String::as_str)))
    }
}
