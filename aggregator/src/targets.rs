//! The systems that a cluster can be onboarded to, one module each, and what networks with a registry
//! are asked for.

pub mod aichor;
pub mod aios;
pub mod inference_model_manager;
pub mod interlink;
mod kubeconfig;
pub mod reach;
pub mod transport;
pub mod unikorn;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reqwest::Method;
use rollcall_report::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use utoipa::ToSchema;

use crate::digest::Digest;

/// Where an entry stands: a cluster's id in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The cluster's id.
    pub cluster_id: String,
    /// Where entries are made.
    pub create_url: String,
    /// Where entries are read.
    pub read_url: String,
}

/// What a network was seen to hold under our id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Not looked at since the last step that may have changed it.
    NotRead,
    /// No entry.
    Absent,
    /// Our entry.
    Ours(Difference),
    /// An entry that is not ours.
    Foreign(Difference),
    /// It could not be read.
    Unreadable {
        /// What was tried and what came back.
        words: String,
    },
}

/// Nodes that have departed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departed {
    /// Those that may be taken out of an entry.
    pub nodes: BTreeSet<NodeId>,
    /// Those whose machines go on under other ids: an entry loses nothing with them.
    pub renamed: BTreeSet<NodeId>,
    /// Those that have departed, and may come back for a while.
    pub leaving: BTreeSet<NodeId>,
}

/// What is known of an entry from before a look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// What our document said in the fields that are ours only when we change them, as digests;
    /// `None`: that is not known.
    pub declared: Option<&'a BTreeMap<String, Digest>>,
    /// What a list lacks that is being written anew.
    pub rescue: Option<&'a Rescue>,
}

/// What is lost if writing a list of nodes anew breaks off: the order of all, and the nodes that nobody
/// but the network knew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rescue {
    /// The ids of the whole list, in its order.
    pub order: Vec<String>,
    /// The nodes that are not in our document.
    pub kept: Vec<Value>,
}

// Of JSON as it is stored; nothing in it is a number that is not one.
impl Eq for Rescue {}

/// How an entry differs from what it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What is to be set; none: the entry is right.
    pub fields: Vec<FieldDifference>,
    /// Ids of nodes that are to be taken away.
    pub removed: Vec<String>,
    /// How many of these have machines that go on under other ids.
    #[serde(default)]
    pub renamed: usize,
    /// How many of the entry's nodes have departed, and may come back for a while.
    #[serde(default)]
    pub leaving: usize,
    /// How many fields are wrong apart from these: what can be put right while their going waits.
    #[serde(default)]
    pub besides: usize,
    /// Ids of nodes that are not in our document and stay, for nothing says that they have departed.
    pub kept: Vec<String>,
    /// How many nodes the entry holds.
    pub held_nodes: usize,
}

/// A field that is wrong in an entry, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldDifference {
    /// Which one: `storage.size`, `node n1: swap`, `node n1`.
    pub field: String,
    /// What the network holds.
    pub there: String,
    /// What it should hold.
    pub here: String,
}

impl fmt::Display for FieldDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} there, {} here", self.field, self.there, self.here)
    }
}

/// More than these help nobody in a sentence.
const MOST_NAMED: usize = 5;

impl Difference {
    /// Whether the entry is right.
    pub fn is_none(&self) -> bool {
        self.fields.is_empty()
    }

    /// The difference in a sentence: a handful of fields, and how many more there are.
    pub fn summary(&self) -> String {
        listed(&self.fields, "; ")
    }

    /// Which nodes are kept though nobody reports for them, in a sentence; `None`: there are none.
    pub fn kept_words(&self) -> Option<String> {
        let leaving = (self.leaving > 0).then(|| {
            format!(
                "{} nodes leave the entry when departures.holdDown is over: they have left, or this target's nodes leave them out",
                self.leaving
            )
        });
        if self.kept.is_empty() {
            return leaving;
        }
        let kept = format!(
            "the entry holds {} nodes that are not in the document and stay in it until they report, or are recorded as departed with forget: {}",
            self.kept.len(),
            listed(&self.kept, ", ")
        );
        let words: Vec<String> = std::iter::once(kept).chain(leaving).collect();
        Some(words.join("; "))
    }
}

/// The first few of a list, and how many more there are.
pub fn listed<T: ToString>(items: &[T], separator: &str) -> String {
    let mut shown: Vec<String> = items.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if items.len() > MOST_NAMED {
        shown.push(format!("and {} more", items.len() - MOST_NAMED));
    }
    shown.join(separator)
}

/// A request to a network, as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// Its body, JSON.
    pub body: Option<Value>,
}

impl fmt::Display for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// What a network is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// What it holds.
    Read,
    /// To make an entry.
    Create,
    /// To change the entry.
    Update,
    /// To remove the entry.
    Remove,
    /// For its infrastructure on the cluster.
    CreateInfrastructure,
    /// To remove that.
    RemoveInfrastructure,
    /// How a task of its stands.
    ReadTask,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Read,
        Self::Create,
        Self::Update,
        Self::Remove,
        Self::CreateInfrastructure,
        Self::RemoveInfrastructure,
        Self::ReadTask,
    ];

    /// Those that change the entry.
    pub const CHANGES: [Self; 3] = [Self::Create, Self::Update, Self::Remove];

    /// The name in metrics and the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::CreateInfrastructure => "create-infrastructure",
            Self::RemoveInfrastructure => "remove-infrastructure",
            Self::ReadTask => "read-task",
        }
    }

    /// Whether it is for the network's infrastructure on the cluster.
    pub const fn is_of_infrastructure(self) -> bool {
        matches!(self, Self::CreateInfrastructure | Self::RemoveInfrastructure | Self::ReadTask)
    }
}

/// What a reply to a create, an update or a removal is worth. Whatever it says, what the network holds
/// is read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It says that it was done.
    Accepted,
    /// It says that it will never be done like this; a person must act.
    Refused {
        /// What was sent, what came back, what it means, what to do.
        words: String,
    },
    /// The registry itself answered with an error that does not say why.
    Rejected {
        /// What was sent, what came back, what it means.
        words: String,
    },
    /// There was no answer from the registry.
    Unanswered {
        /// What was sent, what came back, what it means.
        words: String,
    },
}

impl Verdict {
    /// The names of all verdicts.
    pub const NAMES: [&str; 4] = ["accepted", "refused", "rejected", "unanswered"];

    /// The verdict's name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Unanswered { .. } => "unanswered",
        }
    }
}

/// What a network said to a request for infrastructure, or for its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// It does it in the background.
    Task(String),
    /// It will not.
    Refused {
        /// What was sent, what came back, what it means.
        words: String,
    },
    /// Nothing left this machine.
    NotSent {
        /// What was tried and what came back.
        words: String,
    },
    /// Nobody knows.
    Lost {
        /// What was tried and what came back.
        words: String,
    },
}

/// What a network said of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// It goes on.
    Pending,
    /// It is done.
    Completed,
    /// It failed.
    Failed {
        /// The task's own words.
        words: String,
    },
    /// It could not be read.
    Unreadable {
        /// What was tried and what came back.
        words: String,
    },
}
