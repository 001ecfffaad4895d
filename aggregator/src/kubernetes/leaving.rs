//! Nodes whose Node object was deleted have left the cluster: the leader writes that down.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use rollcall_daemon::kubernetes::words;
use rollcall_report::{NodeId, NodeName};
use tokio::time::{sleep, timeout};

use super::nodes::ByName;
use crate::aggregator::Aggregator;
use crate::roll::departure::Departure;
use crate::store::{Write, WriteError};

/// For how long a Node must be missing: what tells of the roll may be ahead of what tells of the
/// Nodes.
const GRACE: SignedDuration = SignedDuration::from_secs(15);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked at.
const TURN: Duration = Duration::from_secs(3);

/// Watches the roll for nodes that Kubernetes has no Node of, for as long as this aggregator leads.
pub async fn follow(client: Client, aggregator: Arc<Aggregator>) -> Infallible {
    let nodes: Api<core::Node> = Api::all(client);
    let mut missing = Missing::default();
    let mut trouble = None;
    loop {
        sleep(TURN).await;
        // While Kubernetes does not tell its Nodes, nothing is known of any.
        let Some(known) = aggregator.nodes.all().filter(|_| aggregator.nodes.failing().is_none())
        else {
            missing = Missing::default();
            continue;
        };
        let held = aggregator.held_names();
        let due = missing.due(held.keys(), &known, Timestamp::now());
        if due.is_empty() {
            continue;
        }
        let told = match absent(&nodes, due).await {
            Ok(absent) => {
                take_leave(&aggregator, &absent, &held).await.map_err(|it| it.to_string())
            }
            Err(words) => Err(words),
        };
        if let Err(error) = &told
            && trouble.as_ref() != Some(error)
        {
            log::error!(error = error.as_str();
                "that nodes have left could not be written down, trying again");
        }
        trouble = told.err();
    }
}

/// Those of the names that the API server has no Node of when it is asked: what watches the Nodes may
/// have fallen silent.
async fn absent(nodes: &Api<core::Node>, names: Vec<NodeName>) -> Result<Vec<NodeName>, String> {
    let mut absent = Vec::new();
    for name in names {
        match timeout(REQUEST_TIMEOUT, nodes.get_metadata_opt(name.as_str())).await {
            Ok(Ok(None)) => absent.push(name),
            Ok(Ok(Some(_))) => {}
            Ok(Err(error)) => return Err(format!("GET node {name}: {}", words::of(&error))),
            Err(_elapsed) => {
                let seconds = REQUEST_TIMEOUT.as_secs();
                return Err(format!("GET node {name}: no answer within {seconds} s"));
            }
        }
    }
    Ok(absent)
}

/// Writes down that nodes have left, at once where they are many, and takes them off the roll.
async fn take_leave(
    aggregator: &Arc<Aggregator>,
    names: &[NodeName],
    held: &BTreeMap<NodeName, NodeId>,
) -> Result<(), WriteError> {
    let at = Timestamp::now();
    let ids = names.iter().filter_map(|name| held.get(name).cloned());
    let departures: Vec<_> = ids.map(|node_id| Departure { node_id, at, renamed: false }).collect();
    if departures.is_empty() {
        return Ok(());
    }
    aggregator.store.write(Write::Departed(departures)).await?;
    for name in names {
        let permit = aggregator.store.reserve().await?;
        let leaves = {
            let mut roll = aggregator.roll();
            roll.leave(name, at).map(|leave| {
                let write = Write::Forget(leave.name.clone(), leave.departure.clone());
                (permit.put(write), leave)
            })
        };
        if let Some((pending, leave)) = leaves {
            aggregator.settle_forget(pending, leave, "its Node was deleted").await?;
        } else {
            // Its object went with its Node already.
            log::info!(node = name.as_str(), node_id = held.get(name).map_or("", NodeId::as_str);
                "the node has left: its Node was deleted");
            aggregator.forget_orphan(name);
            aggregator.changed();
        }
    }
    Ok(())
}

/// Since when names were missing among the Nodes.
#[derive(Debug, Default)]
struct Missing(BTreeMap<NodeName, Timestamp>);

impl Missing {
    /// Those of the names that have been missing for long enough.
    fn due<'a>(
        &mut self,
        names: impl Iterator<Item = &'a NodeName>,
        nodes: &ByName,
        now: Timestamp,
    ) -> Vec<NodeName> {
        let before = std::mem::take(&mut self.0);
        for name in names.filter(|name| !nodes.contains_key(*name)) {
            let since = before.get(name).copied().unwrap_or(now);
            self.0.insert(name.clone(), since);
        }
        let is_due = |since: &Timestamp| now.duration_since(*since) >= GRACE;
        self.0.iter().filter(|(_, since)| is_due(since)).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kubernetes::nodes::Node;

    #[test]
    fn a_node_is_missed_for_a_while_before_it_has_left() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let name = |text: &str| -> NodeName { text.parse().expect("a name") };
        let nodes = |names: &[&str]| -> ByName {
            let node = |text: &&str| (name(text), Arc::new(Node { name: name(text), ..sample() }));
            names.iter().map(node).collect()
        };
        let roll = [name("a"), name("b")];
        let mut missing = Missing::default();
        for (what, second, there, expected) in [
            ("all there", 0, &["a", "b"][..], &[][..]),
            ("one is missing", 10, &["a"], &[]),
            ("not for long enough", 24, &["a"], &[]),
            ("it was back meanwhile", 24, &["a", "b"], &[]),
            ("missing again", 30, &["a"], &[]),
            ("still", 44, &["a"], &[]),
            ("for long enough", 45, &["a"], &["b"]),
            ("and the other", 46, &["c"], &["b"]),
            ("both", 61, &["c"], &["a", "b"]),
        ] {
            let due = missing.due(roll.iter(), &nodes(there), at(second));
            let due: Vec<&str> = due.iter().map(NodeName::as_str).collect();
            assert_eq!(due, expected, "{what}");
        }
    }

    fn sample() -> Node {
        let metadata = kube::api::ObjectMeta {
            name: Some("sample".into()),
            uid: Some("uid".into()),
            ..Default::default()
        };
        let node = k8s_openapi::api::core::v1::Node { metadata, ..Default::default() };
        Node::of(node, &BTreeSet::new()).expect("a Node")
    }
}
