//! The kinds that the store is made of, as `packaging/kubernetes` declares them, and what becomes
//! of our own types in them.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, Object};
use rollcall_report::MachineHash;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cluster_file::Overrides;
use crate::document::{NodeData, Source};
use crate::onboarding::state::TargetState;
use crate::roll::Entry;

const GROUP: &str = "rollcall.dev";
const VERSION: &str = "v1alpha1";

/// A node's object. Cluster-scoped, named after its Node and owned by it.
pub(super) type NodeInventory = Object<InventorySpec, InventoryStatus>;
/// A target's object: what is wanted of it, and where it stands.
pub(super) type Onboarding = Object<OnboardingSpec, OnboardingStatus>;
/// A page of what is written down.
pub(super) type Ledger = Object<LedgerSpec, NoStatus>;

/// A kind that has no status.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct NoStatus {}

pub(super) fn inventories() -> ApiResource {
    resource("NodeInventory", "nodeinventories")
}

pub(super) fn onboardings() -> ApiResource {
    resource("Onboarding", "onboardings")
}

pub(super) fn ledgers() -> ApiResource {
    resource("Ledger", "ledgers")
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GROUP.into(),
        version: VERSION.into(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind.into(),
        plural: plural.into(),
    }
}

/// What is known of a node. The numbers are for people and other programs; the roll is restored
/// from `entry` alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InventorySpec {
    #[serde(flatten)]
    shown: Shown,
    /// An [`Entry`] as JSON text: an object would come back pruned, and its every field be tracked.
    #[serde(default)]
    pub(super) entry: String,
    /// The report as it was sent, for a newer version that understands more of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<String>,
}

/// What of it is for people and other programs. It is never read: somebody may have written it by
/// hand.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(rename = "nodeID")]
    node_id: String,
    machine: Machine,
    position: u64,
    agent_version: String,
    #[serde(flatten)]
    sizes: Sizes,
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self::default())
    }
}

/// What a node is bound to.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<MachineHash>,
    #[serde(rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    node_uid: Option<String>,
}

/// What a node has, as its entry in the document says; nothing where that cannot be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sizes {
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u64>,
    #[serde(rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    memory_mib: Option<u64>,
    #[serde(rename = "swapMiB", skip_serializing_if = "Option::is_none")]
    swap_mib: Option<u64>,
    #[serde(rename = "storageMiB", skip_serializing_if = "Option::is_none")]
    storage_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_mbps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<u64>,
    #[serde(rename = "gpuMemoryMiB", skip_serializing_if = "Option::is_none")]
    gpu_memory_mib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_model: Option<String>,
}

/// What changes without a change of the inventory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InventoryStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_seen: Option<String>,
}

/// What turns a node's entry into the numbers of its object.
#[derive(Debug, Clone)]
pub struct Sizing {
    /// Values that the machines do not tell.
    pub overrides: Overrides,
    /// For how long the loss of a GPU must be confirmed.
    pub gpu_loss_hold_down: Duration,
}

impl Sizing {
    pub(super) fn sizes(&self, entry: &Entry) -> Sizes {
        let source = Source::of(entry, entry.changed, self.gpu_loss_hold_down);
        let Ok(node) = NodeData::build(&source, &self.overrides, &mut Vec::new()) else {
            return Sizes::default();
        };
        Sizes {
            vcpus: Some(node.vcpus.count),
            memory_mib: Some(node.memory),
            swap_mib: Some(node.swap),
            storage_mib: Some(node.storage.size),
            bandwidth_mbps: Some(node.network.rx_bandwidth),
            gpus: Some(node.gpus.count),
            gpu_memory_mib: Some(node.gpus.memory),
            gpu_model: (!node.gpus.model_names.is_empty())
                .then(|| node.gpus.model_names.join(", ")),
        }
    }
}

/// The object of a node on the roll. Its Node owns it, so that Kubernetes removes both together.
pub(super) fn inventory(
    entry: &Entry,
    report: Option<String>,
    sizing: &Sizing,
) -> serde_json::Result<NodeInventory> {
    let shown = Shown {
        node_id: entry.node_id.to_string(),
        machine: Machine { hash: entry.machine.clone(), node_uid: entry.node_uid.clone() },
        position: entry.position,
        agent_version: entry.agent_version.to_string(),
        sizes: sizing.sizes(entry),
    };
    let spec = InventorySpec { shown, entry: serde_json::to_string(entry)?, report };
    let mut object = NodeInventory::new(entry.name.as_str(), &inventories(), spec);
    object.metadata.owner_references = entry.node_uid.clone().map(|uid| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: entry.name.to_string(),
            uid,
            controller: None,
            block_owner_deletion: None,
        }]
    });
    Ok(object)
}

/// The node of an object.
pub(super) fn entry(object: &NodeInventory) -> serde_json::Result<Entry> {
    let mut entry: Entry = serde_json::from_str(&object.spec.entry)?;
    if object.metadata.name.as_deref() != Some(entry.name.as_str()) {
        return Err(serde_json::Error::custom(format!("it is a copy of that of {}", entry.name)));
    }
    if let Some(seen) = last_seen(object) {
        entry.last_seen = entry.last_seen.max(seen);
    }
    Ok(entry)
}

/// When a node last reported, as its object's status says.
pub(super) fn last_seen(object: &NodeInventory) -> Option<Timestamp> {
    object.status.as_ref()?.last_seen.as_ref()?.parse().ok()
}

/// What an operator wants of a target.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OnboardingSpec {
    /// A `Will` as JSON text; nothing if nobody has said anything yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<String>,
}

/// Where a target stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OnboardingStatus {
    #[serde(default)]
    phase: String,
    #[serde(default)]
    since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Which aggregator wrote it.
    #[serde(default)]
    pub(super) leader: String,
    /// A [`TargetState`] as JSON text.
    #[serde(default)]
    pub(super) state: String,
}

impl OnboardingStatus {
    pub(super) fn of(state: &TargetState, leader: &str) -> serde_json::Result<Self> {
        Ok(Self {
            phase: state.phase.as_str().to_owned(),
            since: state.since.to_string(),
            detail: state.detail.clone(),
            leader: leader.to_owned(),
            state: serde_json::to_string(state)?,
        })
    }
}

/// A page of a book.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LedgerSpec {
    pub(super) book: Book,
    pub(super) page: u64,
    /// Each as JSON text.
    pub(super) lines: Vec<String>,
}

/// What is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Book {
    /// The installation's id, as the only line.
    Installation,
    /// The nodes that have left.
    Departures,
    /// The node classes.
    Classes,
    /// What was done for the targets.
    Journal,
}

/// The label by which the pages of a book are found.
pub(super) const BOOK_LABEL: &str = "rollcall.dev/book";

impl Book {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Installation => "installation",
            Self::Departures => "departures",
            Self::Classes => "classes",
            Self::Journal => "journal",
        }
    }
}

/// A page as a new object.
pub(super) fn ledger(namespace: &str, name: &str, book: Book, page: u64) -> Ledger {
    let spec = LedgerSpec { book, page, lines: Vec::new() };
    let mut ledger = Ledger::new(name, &ledgers(), spec).within(namespace);
    ledger.metadata.labels = Some([(BOOK_LABEL.to_owned(), book.as_str().to_owned())].into());
    ledger
}
