//! The roll in brief: what is counted, listed and measured of each node. Of thousands of nodes it is made
//! at little cost, of what the ledger holds already.

use std::sync::Arc;

use jiff::Timestamp;
use rollcall_report::NodeName;

use super::views::{ClassView, NodeState, NotOffered, not_offered};
use crate::aggregator::Aggregator;
use crate::document::ledger::Line;
use crate::document::{NodeData, Totals};
use crate::kubernetes::nodes::ByName;
use crate::metrics::{NodeCounts, NodeFigures};

/// The nodes as they stood at one time.
#[derive(Debug, Clone)]
pub struct RollBrief {
    /// The nodes in the order in which they came.
    pub nodes: Vec<NodeBrief>,
    /// What those hold together whose capacities are all known.
    pub totals: Totals,
    /// Nodes whose reports are refused, and why.
    pub conflicts: Vec<String>,
    /// Nodes that targets are to get, as Kubernetes has them, and that are not in their documents.
    pub missing: Vec<NotOffered>,
    /// Nodes that targets do not get.
    pub left_out: Vec<NotOffered>,
}

/// A node on the roll.
#[derive(Debug, Clone)]
pub struct NodeBrief {
    /// What is known of it until its report changes, or what it is compared with.
    pub line: Arc<Line>,
    /// Its class; `None`: the cluster's nodes have none, or it gets none.
    pub class: Option<ClassView>,
    /// When it last reported.
    pub last_seen: Timestamp,
    /// Whether it has been silent for too long.
    pub is_stale: bool,
}

impl RollBrief {
    /// By the Nodes as they were at one moment; `None`: they are not known.
    pub fn among(known: Option<&Arc<ByName>>, aggregator: &Aggregator, now: Timestamp) -> Self {
        let conflicts = aggregator.conflicts(now);
        let classes = aggregator.classes();
        let (nodes, totals) = {
            let (ledger, roll) = aggregator.ledger_and_roll(known, now);
            let brief = |line: &Arc<Line>| {
                let entry = roll.get(&line.name)?;
                Some(NodeBrief {
                    line: Arc::clone(line),
                    class: ClassView::of(aggregator, entry, &classes, now),
                    last_seen: entry.last_seen,
                    is_stale: aggregator.is_stale(entry, now),
                })
            };
            (ledger.lines().filter_map(brief).collect(), ledger.totals().clone())
        };
        let mut view = Self { nodes, totals, conflicts, missing: Vec::new(), left_out: Vec::new() };
        if let Some(known) = known {
            (view.missing, view.left_out) = not_offered(aggregator, known, &view.wholeness());
        }
        view
    }

    /// The nodes in their order, and whether each is complete.
    pub fn wholeness(&self) -> Vec<(&NodeName, bool)> {
        self.nodes.iter().map(|node| (&node.line.name, node.line.entry.is_ok())).collect()
    }

    /// How many nodes are how.
    pub fn counts(&self) -> NodeCounts {
        let complete = self.nodes.iter().filter(|node| node.line.entry.is_ok()).count();
        NodeCounts {
            complete,
            incomplete: self.nodes.len() - complete,
            stale: self.nodes.iter().filter(|node| node.is_stale).count(),
        }
    }

    /// What Prometheus is told of each node.
    pub fn figures(&self) -> impl Iterator<Item = NodeFigures<'_>> {
        self.nodes.iter().map(|node| NodeFigures {
            node: &node.line.name,
            node_id: &node.line.node_id,
            node_class: node.class.as_ref().and_then(|class| class.id.as_deref()),
            entry: node.entry(),
            is_stale: node.is_stale,
            last_report: node.last_seen,
            gpus: node.line.gpus,
            failing: node.line.failing.clone(),
            unknown_speeds: node.line.unknown_speeds,
            hardware_changes: node.line.hardware_changes,
            class_mismatches: node
                .class
                .as_ref()
                .filter(|class| class.id.is_some())
                .map(|class| class.mismatches.len()),
        })
    }
}

impl NodeBrief {
    /// A node; `None`: it is not on the roll.
    pub fn of(aggregator: &Aggregator, name: &NodeName, now: Timestamp) -> Option<Self> {
        let known = aggregator.nodes.all();
        let classes = aggregator.classes();
        let (ledger, roll) = aggregator.ledger_and_roll(known.as_ref(), now);
        let line = Arc::clone(ledger.line_of(name)?);
        let entry = roll.get(name)?;
        Some(Self {
            line,
            class: ClassView::of(aggregator, entry, &classes, now),
            last_seen: entry.last_seen,
            is_stale: aggregator.is_stale(entry, now),
        })
    }

    /// Its entry in the document of a target that gets it, if all its capacities are known.
    pub fn entry(&self) -> Option<&NodeData> {
        self.line.entry.as_deref().ok()
    }

    /// Whether all its capacities are known.
    pub fn state(&self) -> NodeState {
        if self.line.entry.is_ok() { NodeState::Complete } else { NodeState::Incomplete }
    }

    /// How many things are in its entry with less certainty than it shows, or not as its class says.
    pub fn warnings(&self) -> usize {
        let of_class =
            |class: &ClassView| class.mismatches.len() + usize::from(class.waiting.is_some());
        self.line.warnings.len() + self.class.as_ref().map_or(0, of_class)
    }
}
