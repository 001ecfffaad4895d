//! Which nodes a target is to get: those that Kubernetes has, that can run an agent, and that the
//! target's policy offers it. Pure.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use rollcall_report::{NodeId, NodeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cluster_file::{ControlPlanePolicy, Inclusion, NodePolicy};
use crate::kubernetes::nodes::{ByName, Node, Stranger};

/// Why a target does not get a Node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// It reports, and Kubernetes has no Node of its name.
    NoNode,
    /// No agent runs there: a virtual kubelet.
    VirtualKubelet,
    /// No agent runs there: a pod's own machine.
    Fargate,
    /// No agent runs there: it is no Linux.
    OperatingSystem(String),
    /// The target's selector asks for other labels.
    NotSelected,
    /// It is of the control plane, and is left out by that.
    ControlPlane,
    /// It is of the control plane, and a taint keeps work away.
    TaintedControlPlane,
    /// It is cordoned.
    Cordoned,
    /// It is not ready.
    NotReady,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNode => "Kubernetes has no Node of this name",
            Self::VirtualKubelet => "a virtual kubelet, which runs no agent",
            Self::Fargate => "of Fargate, which runs no agent",
            Self::OperatingSystem(system) => {
                return write!(f, "runs {system}, and the agent Linux");
            }
            Self::NotSelected => "not within the selector",
            Self::ControlPlane => "of the control plane",
            Self::TaintedControlPlane => "of the control plane, tainted",
            Self::Cordoned => "cordoned",
            Self::NotReady => "not ready",
        })
    }
}

/// Why a target does not get a Node; `None`: it gets it.
pub fn left_out(node: &Node, policy: &NodePolicy) -> Option<LeftOut> {
    match &node.stranger {
        Some(Stranger::VirtualKubelet) => return Some(LeftOut::VirtualKubelet),
        Some(Stranger::Fargate) => return Some(LeftOut::Fargate),
        Some(Stranger::OperatingSystem(system)) => {
            return Some(LeftOut::OperatingSystem(system.clone()));
        }
        None => {}
    }
    if policy.selector.iter().any(|(key, value)| node.labels.get(key) != Some(value)) {
        return Some(LeftOut::NotSelected);
    }
    match (node.control_plane, policy.control_plane) {
        (Some(_), ControlPlanePolicy::Exclude) => return Some(LeftOut::ControlPlane),
        (Some(plane), ControlPlanePolicy::Untainted) if plane.tainted => {
            return Some(LeftOut::TaintedControlPlane);
        }
        _ => {}
    }
    if node.cordoned && policy.cordoned == Inclusion::Exclude {
        return Some(LeftOut::Cordoned);
    }
    (!node.ready && policy.not_ready == Inclusion::Exclude).then_some(LeftOut::NotReady)
}

/// Whether a policy offers a node. Where the Nodes are not known, it leaves none out.
pub fn is_offered(name: &NodeName, nodes: Option<&ByName>, policy: &NodePolicy) -> bool {
    // Of one without a Node nobody can say that it is within the policy. In an entry it stays until it is
    // recorded as departed.
    nodes.is_none_or(|nodes| nodes.get(name).is_some_and(|node| left_out(node, policy).is_none()))
}

/// What is known of a node by its reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// Never.
    No,
    /// A capacity of it is not known, so that it is kept out of the document.
    InPart,
    /// All of it.
    Whole,
}

/// A Node that a target is to get, and that is not in the document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Its name.
    pub name: NodeName,
    /// What may be in the way, where something is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} ({why})", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// The cluster's Nodes, as far as a target is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many it is to get.
    pub expected: usize,
    /// Those of them that are not in the document.
    pub missing: Vec<Missing>,
    /// Those that it does not get, and why.
    pub left_out: Vec<(NodeName, LeftOut)>,
}

impl Census {
    /// Counts the Nodes by a target's policy.
    pub fn of(
        nodes: &ByName,
        policy: &NodePolicy,
        reported: impl Fn(&NodeName) -> Reported,
    ) -> Self {
        let mut census = Self::default();
        for node in nodes.values() {
            if let Some(why) = left_out(node, policy) {
                census.left_out.push((node.name.clone(), why));
                continue;
            }
            census.expected += 1;
            let why = match reported(&node.name) {
                Reported::Whole => continue,
                Reported::InPart => Some("its numbers are not complete"),
                Reported::No if !node.ready => Some("not ready"),
                Reported::No => None,
            };
            let (name, why) = (node.name.clone(), why.map(str::to_owned));
            census.missing.push(Missing { name, why });
        }
        census
    }

    /// The same by the nodes of the roll in their order, and whether each is whole; those that no Node is
    /// are left out.
    pub fn among(nodes: &ByName, policy: &NodePolicy, roll: &[(&NodeName, bool)]) -> Self {
        let by_name: HashMap<&NodeName, bool> = roll.iter().copied().collect();
        let mut census = Self::of(nodes, policy, |name| match by_name.get(name) {
            Some(true) => Reported::Whole,
            Some(false) => Reported::InPart,
            None => Reported::No,
        });
        let without = roll.iter().filter(|(name, _)| !nodes.contains_key(*name));
        census.left_out.extend(without.map(|(name, _)| ((*name).clone(), LeftOut::NoNode)));
        census
    }

    /// How many of the expected ones are in the document.
    pub fn present(&self) -> usize {
        self.expected.saturating_sub(self.missing.len())
    }
}

/// Those of the ids that no Node has: neither as its label, nor as its name, nor as what is made of a
/// name that is too long for a label.
pub fn without_node<'a>(
    ids: impl IntoIterator<Item = &'a NodeId>,
    nodes: &ByName,
) -> BTreeSet<NodeId> {
    let labels: BTreeSet<&NodeId> =
        nodes.values().filter_map(|node| node.node_id.as_ref()).collect();
    let names: BTreeSet<&str> = nodes.keys().map(NodeName::as_str).collect();
    let too_long: Vec<&str> =
        names.iter().copied().filter(|name| name.len() > NodeId::MAX_CHARS).collect();
    let has_node = |id: &NodeId| {
        labels.contains(id)
            || names.contains(id.as_str())
            || too_long.iter().any(|name| may_be_made_of(id, name))
    };
    ids.into_iter().filter(|id| !has_node(id)).cloned().collect()
}

/// Whether an id may be what an agent makes of a name that is too long: its beginning, `-` and a hash.
fn may_be_made_of(id: &NodeId, name: &str) -> bool {
    id.as_str().rsplit_once('-').is_some_and(|(beginning, hash)| {
        !beginning.is_empty()
            && name.starts_with(beginning)
            && hash.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::kubernetes::nodes::{AllocatableGpus, ControlPlane};

    fn node(name: &str) -> Node {
        Node {
            name: name.parse().expect("a name"),
            uid: format!("uid-of-{name}"),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            node_id: None,
            stranger: None,
            control_plane: None,
            cordoned: false,
            ready: true,
            gpus: AllocatableGpus::default(),
            ephemeral_bytes: None,
        }
    }

    fn by_name(nodes: impl IntoIterator<Item = Node>) -> ByName {
        nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node))).collect()
    }

    fn selector(zone: &str) -> NodePolicy {
        let selector = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        NodePolicy { selector, ..NodePolicy::default() }
    }

    #[test]
    fn who_is_left_out_and_why() {
        use LeftOut::{
            ControlPlane as Plane, Cordoned, NotReady, NotSelected, TaintedControlPlane,
        };
        let usual = NodePolicy::default;
        let plane = |policy| NodePolicy { control_plane: policy, ..usual() };
        let strange = |stranger| Node { stranger: Some(stranger), ..node("n") };
        let control = |tainted| Node { control_plane: Some(ControlPlane { tainted }), ..node("n") };
        let cordoned = || Node { cordoned: true, ..node("n") };
        let not_ready = || Node { ready: false, ..node("n") };
        let (include, exclude) = (ControlPlanePolicy::Include, ControlPlanePolicy::Exclude);
        for (what, node, policy, expected) in [
            ("a usual one", node("n"), usual(), None),
            (
                "a virtual kubelet",
                strange(Stranger::VirtualKubelet),
                plane(include),
                Some(LeftOut::VirtualKubelet),
            ),
            ("Fargate", strange(Stranger::Fargate), usual(), Some(LeftOut::Fargate)),
            (
                "Windows",
                strange(Stranger::OperatingSystem("windows".into())),
                usual(),
                Some(LeftOut::OperatingSystem("windows".into())),
            ),
            ("selected", node("n"), selector("a"), None),
            ("not selected", node("n"), selector("b"), Some(NotSelected)),
            ("a free control plane", control(false), usual(), None),
            ("a tainted one", control(true), usual(), Some(TaintedControlPlane)),
            ("a tainted one, included", control(true), plane(include), None),
            ("a free one, excluded", control(false), plane(exclude), Some(Plane)),
            ("a worker, control planes excluded", node("n"), plane(exclude), None),
            ("cordoned", cordoned(), usual(), None),
            (
                "cordoned, excluded",
                cordoned(),
                NodePolicy { cordoned: Inclusion::Exclude, ..usual() },
                Some(Cordoned),
            ),
            ("not ready", not_ready(), usual(), None),
            (
                "not ready, excluded",
                not_ready(),
                NodePolicy { not_ready: Inclusion::Exclude, ..usual() },
                Some(NotReady),
            ),
        ] {
            assert_eq!(left_out(&node, &policy), expected, "{what}");
        }
    }

    #[test]
    fn who_has_not_reported() {
        let nodes = by_name([
            node("whole"),
            node("part"),
            Node { ready: false, ..node("silent") },
            node("new"),
            Node { stranger: Some(Stranger::VirtualKubelet), ..node("virtual") },
        ]);
        let census = Census::of(&nodes, &NodePolicy::default(), |name| match name.as_str() {
            "whole" => Reported::Whole,
            "part" => Reported::InPart,
            _ => Reported::No,
        });
        let missing: Vec<String> = census.missing.iter().map(ToString::to_string).collect();
        assert_eq!(missing, ["new", "part (its numbers are not complete)", "silent (not ready)"]);
        assert_eq!((census.expected, census.present()), (4, 1));
        let left_out: Vec<&str> = census.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left_out, ["virtual"]);
        assert_eq!(Census::of(&nodes, &selector("b"), |_| Reported::Whole).expected, 0);
    }

    #[test]
    fn ids_that_no_node_has() {
        let long = format!("{}.example", "a".repeat(60));
        let labelled = Node { node_id: Some("gpu-1".parse().expect("an id")), ..node("n1") };
        let nodes = by_name([labelled, node("n2"), node(&long)]);
        let made = format!("{}-0a1b2c3d", "a".repeat(50));
        for (id, expected) in [
            ("gpu-1", false),
            ("n1", false),
            ("n2", false),
            ("n3", true),
            ("GPU-1", true),
            (made.as_str(), false),
            ("b-0a1b2c3d", true),
        ] {
            let id: NodeId = id.parse().expect("an id");
            let without = without_node([&id], &nodes);
            assert_eq!(without.contains(&id), expected, "{id}");
        }
    }
}
