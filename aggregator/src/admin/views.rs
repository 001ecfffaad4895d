//! What the operator's API shows: plain values, made from the running aggregator, read by the
//! operator's commands.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rollcall_report::{Health, NodeId, NodeName, PassedOver, Shared, Subject};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use utoipa::ToSchema;
use uuid::Uuid;

use super::brief::{NodeBrief, RollBrief};
use crate::aggregator::{Aggregator, Standing};
use crate::class::NodeClass;
use crate::cluster_file::{AiosTarget, Envelope, Mode, NodePolicy, TargetKind};
use crate::digest::Digest;
use crate::document::{Assembly, ClusterDocument, GpuStates, NodeData, unknown_speeds};
use crate::kubernetes::nodes::ByName;
use crate::onboarding::classes;
use crate::onboarding::expected::{Census, Missing, is_offered};
use crate::onboarding::gate::Gate;
use crate::onboarding::state::{Proposal, Sending, TargetState, Will};
use crate::roll::Entry;
use crate::roll::baseline::Change;
use crate::store::JournalLine;
use crate::targets::{Difference, aios};

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodesView {
    /// The nodes in the order in which they came.
    pub nodes: Vec<NodeView>,
    /// Nodes whose reports are refused, and why.
    pub conflicts: Vec<String>,
    /// Nodes that targets are to get, as Kubernetes has them, and that are not in their documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<NotOffered>,
    /// Nodes that targets do not get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<NotOffered>,
}

/// A Node that targets do not get, or not yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotOffered {
    /// Its name.
    pub name: NodeName,
    /// Why, where something is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which targets; none: there are no targets, and this is by the default policy.
    pub targets: Vec<String>,
}

/// A node on the roll.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Its entry in the document of a target that gets it.
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
    /// Its class; left out where the cluster's nodes have none, or it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassView>,
    /// What has changed in its hardware since its previous boot ended; left out where it does not
    /// name its boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_changes: Option<Vec<Change>>,
    /// What the agent said of its own looking, when its report last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Health>)]
    pub health: Option<Shared<Health>>,
    /// What the agent passed over, when its report last changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<PassedOver>)]
    pub passed_over: Shared<Vec<PassedOver>>,
    /// When its report last changed.
    pub changed: Timestamp,
    /// The agent's version.
    #[schema(value_type = String)]
    pub agent_version: Shared<str>,
    /// When it first reported.
    pub first_seen: Timestamp,
    /// When it last reported.
    pub last_seen: Timestamp,
    /// Whether it has been silent for too long.
    pub stale: bool,
}

/// How a node stands with its class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassView {
    /// The class's id, which is the label's value; left out while it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The class's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the node is not as its class says, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<String>,
    /// Why it has no class yet, where something is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

impl ClassView {
    /// `None`: the cluster's nodes have no classes, or this one gets none.
    pub(super) fn of(
        aggregator: &Aggregator,
        entry: &Entry,
        classes: &[NodeClass],
        now: Timestamp,
    ) -> Option<Self> {
        let standing = classes::standing(aggregator, entry, classes, now)?;
        Some(Self {
            id: entry.node_class.map(|class| class.to_string()),
            name: standing.class.map(|class| class.name),
            mismatches: standing.mismatches,
            waiting: standing.waiting,
        })
    }
}

/// Whether all capacities of a node are known. Targets may leave out one of which they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// They are: it is in the documents of the targets that get it.
    Complete,
    /// One is not: it is kept out of every document.
    Incomplete,
}

/// A part of a node's inventory that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// The aggregator's version.
    pub version: String,
    /// The cluster's id.
    pub cluster: String,
    /// Marks this installation's entries in a network's registry; left out by older aggregators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<Uuid>,
    /// How many nodes are complete, also those that targets leave out.
    pub complete_nodes: usize,
    /// How many are kept out of every document.
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
    /// What Kubernetes tells of its Nodes; left out where this is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesView>,
    /// Whether another aggregator submits: of targets, this one knows their last change of state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
    /// The targets that the cluster is registered with.
    pub targets: Vec<TargetView>,
    /// The region that the cluster's node classes are declared in, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionStatus>,
}

/// How the cluster's node classes stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// The target's name.
    pub name: String,
    /// The Region object, as `NAMESPACE/NAME`.
    pub region: String,
    /// How many classes it offers.
    pub offered: usize,
    /// Those that it does not, and why.
    pub not_offered: Vec<String>,
    /// How many nodes have a class.
    pub nodes: usize,
    /// Nodes that are not as their class says, or have none, and why.
    pub troubles: Vec<String>,
}

impl RegionStatus {
    fn of(aggregator: &Aggregator, roll: &RollBrief, now: Timestamp) -> Option<Self> {
        let target = aggregator.file.region()?;
        let view = classes::region(aggregator, target, now);
        let not_offered = view.classes.iter().filter_map(|class| {
            Some(format!("class {} ({}): {}", class.name, class.id, class.trouble()?))
        });
        let not_offered: Vec<String> = not_offered.collect();
        let classed =
            roll.nodes.iter().filter_map(|node| Some((&node.line.name, node.class.as_ref()?)));
        let troubles = classed.clone().flat_map(|(name, class)| {
            let words = class.mismatches.iter().chain(&class.waiting);
            words.map(move |words| format!("node {name}: {words}"))
        });
        Some(Self {
            name: target.name.to_string(),
            region: format!("{}/{}", target.region.namespace, target.region.name),
            offered: view.classes.iter().filter(|class| class.not_offered.is_none()).count(),
            not_offered,
            nodes: classed.filter(|(_, class)| class.id.is_some()).count(),
            troubles: troubles.collect(),
        })
    }
}

/// What Kubernetes tells of its Nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesView {
    /// How many there are; left out before the first list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<usize>,
    /// Why they are not told just now, if so: what is known of them is as of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
}

/// A target and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// What kind of network it is.
    #[serde(rename = "type")]
    pub kind: TargetKind,
    /// Where the cluster is registered.
    #[schema(format = Uri)]
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
    /// What is being sent just now, where that takes several requests; known to the replica that submits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending: Option<Sending>,
    /// Ids of nodes that the network's entry holds, that are not in the document and that nothing says
    /// have departed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Targets that may be offered the same nodes; each network takes them for its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares_nodes_with: Vec<String>,
    /// Which of the cluster's Nodes it is to get; left out where these are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<ExpectedView>,
}

/// Which of the cluster's Nodes a target is to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedView {
    /// How many.
    pub nodes: usize,
    /// Those of them that are not in its document, and why where something is known.
    pub missing: Vec<Missing>,
    /// How many it does not get.
    pub left_out: usize,
}

/// `GET /v1/targets/NAME/plan`: what would be sent now, after a look at the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// What would be done: `create`, `update`, `remove`, `nothing`, or the phase that the target would
    /// enter instead (`waiting`, `refused`, `foreign`, …).
    pub action: String,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How the network's entry differs from what it should be; left out: there is none, or it was
    /// not readable.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApproveRequest {
    /// The proposal's digest.
    pub digest: Digest,
}

/// `POST /v1/targets/NAME/offboard`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OffboardRequest {
    /// Whether the network's infrastructure on the cluster is left alone.
    #[serde(default)]
    pub leave_infrastructure: bool,
}

/// The answer to what an operator asks of a target: it is written down, and will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Noted {
    /// When it was asked; the target's `heeded` reaches it when it is acted upon.
    pub asked: Timestamp,
}

/// `GET /v1/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryView {
    /// The newest lines of the journal, the newest last.
    pub lines: Vec<JournalLine>,
}

/// `GET /v1/document`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// The roll as it stands, as a whole; [`super::roll`] writes the same in pieces.
    pub fn of(aggregator: &Aggregator, now: Timestamp) -> Self {
        Self::among(aggregator.nodes.all().as_deref(), aggregator, now)
    }

    /// The same by the Nodes as they were at one moment; `None`: they are not known.
    pub fn among(known: Option<&ByName>, aggregator: &Aggregator, now: Timestamp) -> Self {
        let conflicts = aggregator.conflicts(now);
        let classes = aggregator.classes();
        let nodes: Vec<NodeView> = {
            let roll = aggregator.roll();
            let entries = roll.entries().into_iter();
            entries.map(|it| NodeView::among(known, aggregator, it, &classes, now)).collect()
        };
        let mut view = Self { nodes, conflicts, missing: Vec::new(), left_out: Vec::new() };
        if let Some(known) = known {
            (view.missing, view.left_out) = not_offered(aggregator, known, &view.wholeness());
        }
        view
    }

    /// The nodes in their order, and whether each is complete.
    pub fn wholeness(&self) -> Vec<(&NodeName, bool)> {
        self.nodes.iter().map(|node| (&node.name, node.state == NodeState::Complete)).collect()
    }
}

/// The Nodes that targets do not get yet, and those that they do not get at all.
pub(super) fn not_offered(
    aggregator: &Aggregator,
    nodes: &ByName,
    roll: &[(&NodeName, bool)],
) -> (Vec<NotOffered>, Vec<NotOffered>) {
    let mut missing: BTreeMap<(NodeName, Option<String>), Vec<String>> = BTreeMap::new();
    let mut left_out = missing.clone();
    for (target, policy) in aggregator.file.policies() {
        let census = Census::among(nodes, policy, roll);
        let note = |of: &mut BTreeMap<_, Vec<String>>, key| {
            of.entry(key).or_default().extend(target.map(ToString::to_string));
        };
        for Missing { name, why } in census.missing {
            note(&mut missing, (name, why));
        }
        for (name, why) in census.left_out {
            note(&mut left_out, (name, Some(why.to_string())));
        }
    }
    let list = |of: BTreeMap<_, _>| {
        of.into_iter().map(|((name, why), targets)| NotOffered { name, why, targets }).collect()
    };
    (list(missing), list(left_out))
}

impl NodeView {
    /// A node on the roll.
    pub fn of(
        aggregator: &Aggregator,
        entry: &Entry,
        classes: &[NodeClass],
        now: Timestamp,
    ) -> Self {
        Self::among(aggregator.nodes.all().as_deref(), aggregator, entry, classes, now)
    }

    /// The same by the Nodes as they were at one moment; `None`: they are not known.
    pub(super) fn among(
        known: Option<&ByName>,
        aggregator: &Aggregator,
        entry: &Entry,
        classes: &[NodeClass],
        now: Timestamp,
    ) -> Self {
        let mut warnings = Vec::new();
        let overrides = &aggregator.file.overrides;
        let source = aggregator.source(entry, known, now);
        let built = NodeData::build(&source, overrides, &mut warnings);
        let (document_entry, kept_out) = match built {
            Ok(node) => (Some(node), None),
            Err(incomplete) => (None, Some(incomplete.to_string())),
        };
        let class = ClassView::of(aggregator, entry, classes, now);
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        if let Some(class) = &class {
            let words = class.mismatches.iter().chain(&class.waiting);
            warnings.extend(words.map(|words| format!("node {}, its class: {words}", entry.name)));
        }
        Self {
            class,
            name: entry.name.clone(),
            node_id: entry.node_id.clone(),
            state: if document_entry.is_some() {
                NodeState::Complete
            } else {
                NodeState::Incomplete
            },
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
            warnings,
            agent_version: entry.agent_version.clone(),
            first_seen: entry.first_seen,
            last_seen: entry.last_seen,
            stale: aggregator.is_stale(entry, now),
        }
    }
}

impl StatusView {
    /// The aggregator as it stands.
    pub fn of(aggregator: &Aggregator, now: Timestamp) -> Self {
        Self::with_nodes(aggregator, now).1
    }

    /// The aggregator as it stands, and its roll as it stood at the same time.
    pub fn with_nodes(aggregator: &Aggregator, now: Timestamp) -> (RollBrief, Self) {
        let known = aggregator.nodes.all();
        let nodes = RollBrief::among(known.as_ref(), aggregator, now);
        let status = Self::among(known.as_deref(), &nodes, aggregator, now);
        (nodes, status)
    }

    fn among(
        known: Option<&ByName>,
        nodes: &RollBrief,
        aggregator: &Aggregator,
        now: Timestamp,
    ) -> Self {
        let counts = nodes.counts();
        let roll = nodes.wholeness();
        let mut waiting_for = Vec::new();
        let mut note_gate = |target: Option<&AiosTarget>, policy: &NodePolicy, is_first: bool| {
            let census = known.map(|known| Census::among(known, policy, &roll));
            let offered = |node: &&NodeBrief| is_offered(&node.line.name, known, policy);
            let (complete, incomplete): (Vec<_>, Vec<_>) =
                (nodes.nodes.iter().filter(offered)).partition(|node| node.line.entry.is_ok());
            let counts = (complete.len(), incomplete.len());
            match aggregator.gate_for(census.as_ref(), counts, now) {
                Gate::Closed { why, .. } | Gate::Unsettled { why } if is_first => {
                    waiting_for.push((target.map(|target| target.name.to_string()), why));
                }
                Gate::Open | Gate::Closed { .. } | Gate::Unsettled { .. } => {}
            }
            let census = census?;
            let (nodes, left_out) = (census.expected, census.left_out.len());
            Some(ExpectedView { nodes, missing: census.missing, left_out })
        };
        let targets = aggregator.file.aios_targets().map(|target| {
            let Standing { state, will, kept, sending, .. } = aggregator.standing(target);
            let is_first = state.past.entry_at.is_none();
            TargetView {
                name: target.name.to_string(),
                kind: TargetKind::Aios,
                url: target.parser_url.to_string(),
                envelope: target.envelope,
                mode: target.mode,
                state,
                will,
                sending,
                kept,
                shares_nodes_with: aggregator.file.sharers(&target.name),
                expected: note_gate(Some(target), &target.nodes, is_first),
            }
        });
        let targets: Vec<TargetView> = targets.collect();
        if aggregator.file.targets.is_empty() {
            note_gate(None, &NodePolicy::default(), true);
        }
        let kubernetes = aggregator.nodes.is_watched().then(|| {
            let failing = aggregator.nodes.failing();
            KubernetesView {
                nodes: known.map(ByName::len),
                failing_since: failing.as_ref().map(|failing| failing.since),
                failing: failing.map(|failing| failing.words),
            }
        });
        let region = RegionStatus::of(aggregator, nodes, now);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: aggregator.file.cluster.id.to_string(),
            installation: Some(aggregator.installation),
            complete_nodes: counts.complete,
            incomplete_nodes: counts.incomplete,
            stale_nodes: counts.stale,
            expected_nodes: aggregator.expected_nodes(known),
            waiting_for: waits(waiting_for),
            conflicts: nodes.conflicts.clone(),
            kubernetes,
            follows: !aggregator.leadership.is_held(),
            region,
            targets,
        }
    }
}

/// What first registrations wait for; each target is named where they wait for different things.
fn waits(all: Vec<(Option<String>, String)>) -> Option<String> {
    let (_, first) = all.first()?;
    if all.iter().all(|(_, why)| why == first) {
        return Some(first.clone());
    }
    let named = all.into_iter().map(|(target, why)| match target {
        Some(target) => format!("{target}: {why}"),
        None => why,
    });
    Some(named.collect::<Vec<_>>().join(". "))
}

impl DocumentView {
    /// What would be sent to a target now; `None`: the document as such.
    pub fn of(aggregator: &Aggregator, target: Option<&AiosTarget>) -> Self {
        let Assembly { mut document, incomplete, warnings } = match target {
            Some(target) => aggregator.assemble_for(&target.nodes, Timestamp::now()),
            None => aggregator.assemble(),
        };
        if target.is_some() {
            aios::mark(&mut document, &aggregator.installation.to_string());
        }
        let masked = aios::mask(&mut document);
        Self {
            document,
            masked,
            incomplete: incomplete.iter().map(ToString::to_string).collect(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }
}
