//! The networks that a cluster can be registered with, one module each, and what all of them are
//! asked for.

pub mod aios;
pub mod transport;

use serde::{Deserialize, Serialize};

/// Where an entry stands: a cluster's id in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Our entry, with how it differs from our document, in words; none: it is equal.
    Ours {
        /// One line a difference.
        differences: Vec<String>,
    },
    /// An entry that is not ours.
    Foreign,
    /// It could not be read.
    Unreadable {
        /// What was tried and what came back.
        words: String,
    },
}

/// What a reply to a create is worth. Whatever it says, what the network holds is read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It says that the entry was made.
    Accepted,
    /// It says that the entry will never be made like this; a person must act.
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
