//! What the operator's API shows: plain values, made from the running aggregator, read by the
//! operator's commands.

use jiff::Timestamp;
use rollcall_report::{Health, NodeId, NodeName, PassedOver, Subject};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::aggregator::{Aggregator, Standing};
use crate::cluster_file::{Envelope, Mode, Target, TargetKind};
use crate::digest::Digest;
use crate::document::{ClusterDocument, GpuStates, NodeData, unknown_speeds};
use crate::metrics::{NodeCounts, NodeFigures};
use crate::onboarding::gate::Gate;
use crate::onboarding::state::{Proposal, TargetState, Will};
use crate::roll::Entry;
use crate::roll::baseline::Change;
use crate::store::JournalLine;
use crate::targets::{Difference, aios};

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodesView {
    /// The nodes in the order in which they came.
    pub nodes: Vec<NodeView>,
    /// Nodes whose reports are refused, and why.
    pub conflicts: Vec<String>,
}

/// A node on the roll.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// The accepted `nodeID`.
    pub node_id: NodeId,
    /// Whether all its capacities are known.
    pub state: NodeState,
    /// Why it is kept out of the document, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_out: Option<String>,
    /// Its entry in the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<NodeData>,
    /// What failed in its last report; last known values stand in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<FailingView>,
    /// What is in its entry with less certainty than it shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How many GPUs it has of each kind.
    #[serde(default)]
    pub gpus: GpuStates,
    /// Interfaces whose bandwidth counts as 0 because nobody tells it; left out where its interfaces
    /// are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_speeds: Option<Vec<String>>,
    /// What has changed in its hardware since its previous boot ended; left out where it does not
    /// name its boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_changes: Option<Vec<Change>>,
    /// What the agent said of its own looking, when its report last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What the agent passed over, when its report last changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
    /// When its report last changed.
    pub changed: Timestamp,
    /// The agent's version.
    pub agent_version: String,
    /// When it first reported.
    pub first_seen: Timestamp,
    /// When it last reported.
    pub last_seen: Timestamp,
    /// Whether it has been silent for too long.
    pub stale: bool,
}

/// Whether a node is in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// It is.
    Complete,
    /// It is kept out: a capacity is not known.
    Incomplete,
}

/// A part of a node's inventory that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingView {
    /// Which part.
    pub subject: Subject,
    /// What the agent said.
    pub reason: String,
    /// When it was first said.
    pub since: Timestamp,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// The aggregator's version.
    pub version: String,
    /// The cluster's id.
    pub cluster: String,
    /// Marks this installation's entries in a network's registry; left out by older aggregators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<Uuid>,
    /// How many nodes are in the document.
    pub complete_nodes: usize,
    /// How many are kept out of it.
    pub incomplete_nodes: usize,
    /// How many have been silent for too long.
    pub stale_nodes: usize,
    /// How many are expected, where that is known.
    pub expected_nodes: Option<usize>,
    /// What the first registration waits for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Nodes whose reports are refused, and why.
    pub conflicts: Vec<String>,
    /// The targets.
    pub targets: Vec<TargetView>,
}

/// A target and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// What kind of network it is.
    #[serde(rename = "type")]
    pub kind: TargetKind,
    /// Where the cluster is registered.
    pub url: String,
    /// How the document is wrapped.
    pub envelope: Envelope,
    /// How much is done without a person.
    pub mode: Mode,
    /// Where it stands.
    #[serde(flatten)]
    pub state: TargetState,
    /// What its operator wants.
    #[serde(default)]
    pub will: Will,
    /// Ids of nodes that the network's entry holds, that are not in the document and that nothing says
    /// have departed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

/// `GET /v1/targets/NAME/plan`: what would be sent now, after a look at the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// What would be done: `create`, `update`, `remove`, `nothing`, or the phase that the target would
    /// enter instead (`waiting`, `refused`, `foreign`, …).
    pub action: String,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How the network's entry differs from what it should be; `None`: there is none, or it was not
    /// readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// The requests in their order, secrets masked.
    pub requests: Vec<RequestView>,
    /// Whether a secret is masked.
    pub masked: bool,
    /// What waits for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// Nodes that are kept out of the document, and why.
    pub incomplete: Vec<String>,
    /// What is in the document with less certainty than it shows.
    pub warnings: Vec<String>,
}

/// A request that would be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// The method.
    pub method: String,
    /// Where it would go.
    pub url: Url,
    /// Its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// `POST /v1/targets/NAME/submit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitRequest {
    /// Whether an entry that is not ours may be taken over.
    #[serde(default)]
    pub adopt: bool,
    /// Whether to register with the nodes that are there, however many are expected.
    #[serde(default)]
    pub partial: bool,
}

/// `POST /v1/targets/NAME/approve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApproveRequest {
    /// The proposal's digest.
    pub digest: Digest,
}

/// `POST /v1/targets/NAME/offboard`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OffboardRequest {
    /// Whether the network's infrastructure on the cluster is left alone.
    #[serde(default)]
    pub leave_infrastructure: bool,
}

/// The answer to what an operator asks of a target: it is written down, and will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    /// When it was asked; the target's `heeded` reaches it when it is acted upon.
    pub asked: Timestamp,
}

/// `GET /v1/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryView {
    /// The newest lines of the journal, the newest last.
    pub lines: Vec<JournalLine>,
}

/// `GET /v1/document`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentView {
    /// The document, secrets masked.
    pub document: ClusterDocument,
    /// Whether a secret is masked.
    pub masked: bool,
    /// Nodes that are kept out, and why.
    pub incomplete: Vec<String>,
    /// What is in it with less certainty than it shows.
    pub warnings: Vec<String>,
}

impl NodesView {
    /// The roll as it stands.
    pub fn of(aggregator: &Aggregator, now: Timestamp) -> Self {
        let conflicts = aggregator.conflicts(now);
        let roll = aggregator.roll();
        let nodes = roll.entries().into_iter().map(|entry| node(aggregator, entry, now)).collect();
        Self { nodes, conflicts }
    }

    /// How many nodes are how.
    pub fn counts(&self) -> NodeCounts {
        let of = |state| self.nodes.iter().filter(|node| node.state == state).count();
        NodeCounts {
            complete: of(NodeState::Complete),
            incomplete: of(NodeState::Incomplete),
            stale: self.nodes.iter().filter(|node| node.stale).count(),
        }
    }

    /// What Prometheus is told of each node.
    pub fn figures(&self) -> impl Iterator<Item = NodeFigures<'_>> {
        self.nodes.iter().map(|node| NodeFigures {
            node: &node.name,
            gpus: node.gpus,
            failing: node.failing.iter().map(|it| (it.subject, it.since)).collect(),
            unknown_speeds: node.unknown_speeds.as_ref().map(Vec::len),
            hardware_changes: node.hardware_changes.as_ref().map(Vec::len),
        })
    }
}

fn node(aggregator: &Aggregator, entry: &Entry, now: Timestamp) -> NodeView {
    let mut warnings = Vec::new();
    let overrides = &aggregator.file.overrides;
    let source = aggregator.source(entry, now);
    let built = NodeData::build(&source, overrides, &mut warnings);
    let (document_entry, kept_out) = match built {
        Ok(node) => (Some(node), None),
        Err(incomplete) => (None, Some(incomplete.to_string())),
    };
    NodeView {
        name: entry.name.clone(),
        node_id: entry.node_id.clone(),
        state: if document_entry.is_some() { NodeState::Complete } else { NodeState::Incomplete },
        kept_out,
        gpus: GpuStates::of(&source, document_entry.as_ref()),
        unknown_speeds: unknown_speeds(&source, overrides)
            .map(|names| names.into_iter().map(str::to_owned).collect()),
        hardware_changes: entry.hardware_changes(),
        health: entry.health.clone(),
        passed_over: entry.passed_over.clone(),
        changed: entry.changed,
        entry: document_entry,
        failing: entry
            .failing
            .iter()
            .map(|(subject, failing)| FailingView {
                subject: *subject,
                reason: failing.reason.clone(),
                since: failing.since,
            })
            .collect(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
        agent_version: entry.agent_version.clone(),
        first_seen: entry.first_seen,
        last_seen: entry.last_seen,
        stale: aggregator.is_stale(entry, now),
    }
}

impl StatusView {
    /// The aggregator as it stands.
    pub fn of(aggregator: &Aggregator, now: Timestamp) -> Self {
        let nodes = NodesView::of(aggregator, now);
        let counts = nodes.counts();
        let targets = aggregator.file.targets.iter().map(|target| {
            let Standing { state, will, kept } = aggregator.standing(target);
            TargetView {
                name: target.name.to_string(),
                kind: target.kind,
                url: target.parser_url.to_string(),
                envelope: target.envelope,
                mode: target.mode,
                state,
                will,
                kept,
            }
        });
        let targets: Vec<TargetView> = targets.collect();
        let is_first =
            targets.is_empty() || targets.iter().any(|it| it.state.past.entry_at.is_none());
        let waiting_for = match aggregator.gate(counts.complete, counts.incomplete, now) {
            Gate::Closed { why, .. } if is_first => Some(why),
            Gate::Open | Gate::Closed { .. } => None,
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: aggregator.file.cluster.id.to_string(),
            installation: Some(aggregator.installation),
            complete_nodes: counts.complete,
            incomplete_nodes: counts.incomplete,
            stale_nodes: counts.stale,
            expected_nodes: aggregator.file.expect.map(|expect| expect.nodes),
            waiting_for,
            conflicts: nodes.conflicts,
            targets,
        }
    }
}

impl DocumentView {
    /// What would be sent to a target now; `None`: the document as such.
    ///
    /// # Errors
    ///
    /// When the document cannot be encoded.
    pub fn of(aggregator: &Aggregator, target: Option<&Target>) -> serde_json::Result<Self> {
        let assembly = aggregator.assemble();
        let mut document = match target {
            Some(target) => {
                let departed = aggregator.departed(Timestamp::now());
                let installation = aggregator.installation;
                aios::Submission::new(assembly.document, departed, installation, target)?.document
            }
            None => assembly.document,
        };
        let masked = aios::mask(&mut document);
        Ok(Self {
            document,
            masked,
            incomplete: assembly.incomplete.iter().map(ToString::to_string).collect(),
            warnings: assembly.warnings.iter().map(ToString::to_string).collect(),
        })
    }
}
