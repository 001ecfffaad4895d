//! Gives the cluster's nodes their classes, for as long as this aggregator leads, and tells which are
//! not as their class says.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use rollcall_report::{NODE_CLASS_LABEL, NodeId, NodeName, Subject};
use tokio::time::sleep;

use super::expected::left_out;
use crate::aggregator::Aggregator;
use crate::class::{Candidate, Decision, NodeClass, NodeClassId, Shape, decide, mismatches};
use crate::cluster_file::UnikornTarget;
use crate::kubernetes::nodes::facts::Node;
use crate::roll::Entry;
use crate::store::{Write, WriteError};
use crate::targets::unikorn::region::{Member, RegionView, assemble};

/// What changes together is looked at together.
const GATHERING: Duration = Duration::from_millis(500);
/// How long to leave a store alone that did not take a write.
const STORE_PAUSE: Duration = Duration::from_secs(5);
/// How many nodes are stored at the same time.
const AT_ONCE: usize = 16;

/// How a node stands with its class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassStanding {
    /// The class that it has.
    pub class: Option<NodeClass>,
    /// How it is not as its class says, a sentence each.
    pub mismatches: Vec<String>,
    /// Why it has none yet.
    pub waiting: Option<String>,
}

/// How a node stands with its class; `None`: the cluster's nodes have none, or this one gets none.
pub fn standing(
    aggregator: &Aggregator,
    entry: &Entry,
    classes: &[NodeClass],
    now: Timestamp,
) -> Option<ClassStanding> {
    let target = aggregator.file.region()?;
    let class = entry.node_class.map(|id| classes.iter().find(|class| class.id == id));
    let node = aggregator.nodes.get(&entry.name);
    match class {
        Some(Some(class)) => {
            let mut mismatches = mismatches(entry, class);
            mismatches.extend(node.as_deref().and_then(|node| wrong_label(node, class.id)));
            Some(ClassStanding { class: Some(class.clone()), mismatches, waiting: None })
        }
        Some(None) => {
            let waiting = "its class is not known any more, and is about to be stored again";
            Some(ClassStanding { waiting: Some(waiting.to_owned()), ..ClassStanding::default() })
        }
        None => {
            let node = node.filter(|node| left_out(node, &target.nodes).is_none())?;
            let decision = decide(&candidate(entry, &node), &target.region.classes, classes, now);
            let waiting = match decision {
                Decision::Wait(why) => Some(why),
                Decision::Keep | Decision::Assign(_) | Decision::Found(_) => None,
            };
            Some(ClassStanding { waiting, ..ClassStanding::default() })
        }
    }
}

/// What is wrong with the label of a Node that has a class, where it carries one.
fn wrong_label(node: &Node, class: NodeClassId) -> Option<String> {
    let label = node.labels.get(NODE_CLASS_LABEL)?;
    let is_right = label.is_empty() || *label == class.to_string();
    (!is_right).then(|| {
        format!("its Node carries the class label {label}, and not {class}: take it away, or set the right one")
    })
}

fn candidate<'a>(entry: &'a Entry, node: &'a Node) -> Candidate<'a> {
    // What is known from before a failure is no ground for what is for ever.
    let failing = entry.failing.iter().find(|(subject, _)| **subject != Subject::Nics);
    let shape = match failing {
        Some((subject, failing)) => {
            Err(format!("its {subject} cannot be read: {}", failing.reason))
        }
        None => Shape::of(entry),
    };
    Candidate {
        name: &entry.name,
        shape,
        assigned: entry.node_class,
        former: entry.former_class,
        label: node.labels.get(NODE_CLASS_LABEL).map(String::as_str),
        labels: &node.labels,
    }
}

/// The Region that the network is told, as the roll and the Nodes stand.
pub fn region(aggregator: &Aggregator, target: &UnikornTarget, now: Timestamp) -> RegionView {
    let classes = aggregator.classes();
    let nodes = aggregator.nodes.all();
    let roll = aggregator.roll();
    let members = roll.entries().into_iter().filter_map(|entry| {
        let class = classes.iter().find(|class| Some(class.id) == entry.node_class)?;
        let node = nodes.as_ref().and_then(|nodes| nodes.get(&entry.name));
        let is_as_said = standing(aggregator, entry, &classes, now)
            .is_some_and(|standing| standing.mismatches.is_empty());
        Some(Member {
            entry,
            class,
            obstacle: obstacle(target, entry, class.id, node.map(Arc::as_ref)),
            is_as_said,
            ephemeral_bytes: node.and_then(|node| node.ephemeral_bytes),
        })
    });
    let members: Vec<Member<'_>> = members.collect();
    assemble(target, &classes, &members)
}

/// Why the network should not place work on a node of a class.
fn obstacle(
    target: &UnikornTarget,
    entry: &Entry,
    class: NodeClassId,
    node: Option<&Node>,
) -> Option<String> {
    let Some(node) = node else { return Some("has no Node in Kubernetes".to_owned()) };
    let label = node.labels.get(NODE_CLASS_LABEL);
    if entry.node_uid.as_ref() != Some(&node.uid) {
        Some("was made anew, and has not reported since".to_owned())
    } else if label.is_some_and(String::is_empty) {
        Some("is kept away by an empty class label".to_owned())
    } else if let Some(why) = left_out(node, &target.nodes) {
        Some(format!("is left out: {why}"))
    } else if label.is_none_or(|label| *label != class.to_string()) {
        Some("does not carry the class's label".to_owned())
    } else if node.cordoned {
        Some("is cordoned".to_owned())
    } else if !node.ready {
        Some("is not ready".to_owned())
    } else {
        None
    }
}

/// Gives whatever node lacks one its class. Ends never.
pub async fn assign(aggregator: Arc<Aggregator>) -> Infallible {
    let mut changes = aggregator.watch();
    let mut told = BTreeMap::new();
    let mut trouble = None;
    loop {
        changes.mark_unchanged();
        match turn(&aggregator).await {
            Ok(true) => {
                trouble = None;
                continue;
            }
            Ok(false) => tell(&aggregator, &mut told),
            Err(error) => {
                let words = error.to_string();
                let is_news = trouble.as_ref() != Some(&words);
                let is_ours = !matches!(error, WriteError::Overtaken { .. });
                let level = if is_news && is_ours { log::Level::Error } else { log::Level::Debug };
                log::log!(level, error = words.as_str(); "a node's class could not be stored, trying again");
                trouble = Some(words);
                sleep(STORE_PAUSE).await;
                continue;
            }
        }
        // The sender lives as long as the aggregator, which this holds.
        let _changed = changes.changed().await;
        sleep(GATHERING).await;
    }
}

/// Does what is to be done; `true`: something was, and what follows from it may be to be done.
async fn turn(aggregator: &Arc<Aggregator>) -> Result<bool, WriteError> {
    let Some(target) = aggregator.file.region() else { return Ok(false) };
    let Plan { assigned, found, known } = plan(aggregator, target);
    let is_something = !assigned.is_empty() || found.is_some();
    let mut stored = stream::iter(assigned)
        .map(|(name, class)| async move { store(aggregator, &name, class).await })
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = stored.next().await {
        outcome?;
    }
    if let Some((node, node_id, class)) = found {
        let write = Write::Class { class: class.clone(), known };
        aggregator.store.write(write).await?;
        log::info!(node = node.as_str(), node_id = node_id.as_str(),
            class:% = class.id, name = class.name.as_str(),
            origin:? = class.origin; "a new node class");
        let id = class.id;
        aggregator.learn_classes(vec![*class]);
        store(aggregator, &node, id).await?;
    }
    Ok(is_something)
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    /// Nodes that belong to classes that are known.
    assigned: Vec<(NodeName, NodeClassId)>,
    /// A node that is the first of its class. One at a time: the next may be of that class.
    found: Option<(NodeName, NodeId, Box<NodeClass>)>,
    /// How many classes were known when this was decided.
    known: usize,
}

fn plan(aggregator: &Aggregator, target: &UnikornTarget) -> Plan {
    let mut plan = Plan::default();
    let Some(nodes) = aggregator.nodes.all() else { return plan };
    let (now, classes) = (Timestamp::now(), aggregator.classes());
    plan.known = classes.len();
    let roll = aggregator.roll();
    for entry in roll.entries() {
        let Some(node) = nodes.get(&entry.name) else { continue };
        // Of a Node made anew nobody has reported yet.
        let is_this_node = entry.node_uid.as_ref() == Some(&node.uid);
        if !is_this_node || roll.is_pending(&entry.name) {
            continue;
        }
        if entry.node_class.is_none() && left_out(node, &target.nodes).is_some() {
            continue;
        }
        match decide(&candidate(entry, node), &target.region.classes, &classes, now) {
            Decision::Keep | Decision::Wait(_) => {}
            Decision::Assign(class) => plan.assigned.push((entry.name.clone(), class)),
            Decision::Found(class) => {
                plan.found.get_or_insert((entry.name.clone(), entry.node_id.clone(), class));
            }
        }
    }
    plan
}

async fn store(
    aggregator: &Arc<Aggregator>,
    name: &NodeName,
    class: NodeClassId,
) -> Result<(), WriteError> {
    let permit = aggregator.store.reserve().await?;
    let (pending, change) = {
        let mut roll = aggregator.roll();
        // It has changed meanwhile, and is looked at again.
        let Some(change) = roll.classify(name, class) else { return Ok(()) };
        let entry = change.entry.clone();
        let write = Write::Node { entry, report: None, departure: None };
        (permit.put(write), change)
    };
    let node_id = change.entry.node_id.clone();
    aggregator.settle(pending, change).await?;
    log::info!(node = name.as_str(), node_id = node_id.as_str(), class:% = class; "the node has its class");
    Ok(())
}

/// Tells of nodes that are not as their class says, or have none: once, and where an operator looks.
fn tell(aggregator: &Aggregator, told: &mut BTreeMap<NodeName, (NodeId, &'static str, String)>) {
    let (now, classes) = (Timestamp::now(), aggregator.classes());
    let mut troubles = BTreeMap::new();
    {
        let roll = aggregator.roll();
        for entry in roll.entries() {
            let Some(standing) = standing(aggregator, entry, &classes, now) else { continue };
            let (reason, words) = match standing.waiting {
                Some(why) => ("NodeClassWaiting", format!("the node has no class: {why}")),
                None if standing.mismatches.is_empty() => continue,
                None => {
                    let words = standing.mismatches.join("; ");
                    ("NodeClassMismatch", format!("the node is not as its class says: {words}"))
                }
            };
            troubles.insert(entry.name.clone(), (entry.node_id.clone(), reason, words));
        }
    }
    for (node, trouble) in &troubles {
        if told.get(node) != Some(trouble) {
            let (node_id, reason, words) = trouble;
            log::warn!(node = node.as_str(), node_id = node_id.as_str(); "{words}");
            aggregator.events.complain(node, reason, words);
        }
    }
    for (node, (node_id, ..)) in told.iter().filter(|(node, _)| !troubles.contains_key(*node)) {
        log::info!(node = node.as_str(), node_id = node_id.as_str();
            "the node is as its class says again");
    }
    *told = troubles;
}
