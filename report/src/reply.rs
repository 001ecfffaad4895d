//! What an aggregator answers.

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// The answer to a report that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The accepted id: the only one that may be stamped on the node.
    pub node_id: NodeId,
    /// The node class to stamp; left out: stamp none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(format = Uuid))]
    pub node_class: Option<String>,
    /// Seconds until the next report is expected.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 3600))]
    pub interval_seconds: u32,
}

/// The answer to a request that was refused; nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// What kind of refusal, for programs.
    pub code: RefusalCode,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// Kinds of refusals. A newer aggregator may know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// No credentials were given (401).
    CredentialsMissing,
    /// The credentials are wrong (401).
    CredentialsWrong,
    /// The credentials do not allow this (403).
    Forbidden,
    /// The body is not a report: no JSON, a missing field, a wrong type, an invalid id (400).
    Malformed,
    /// The report's schema version is unknown here (400).
    SchemaVersion,
    /// The report holds a number that no machine has (422).
    Implausible,
    /// The node's name, id or machine belongs to another node already (409).
    IdentityConflict,
    /// It does not go with how things stand (409).
    Conflict,
    /// The body is too large (413).
    TooLarge,
    /// The body did not arrive in time (408).
    TooSlow,
    /// The body is not of the media type that is taken here (415).
    MediaType,
    /// There is nothing of that name here (404, 405).
    NotFound,
    /// The aggregator cannot take it now; try again (503).
    Unavailable,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

impl RefusalCode {
    /// The code's name on the wire and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CredentialsMissing => "credentials-missing",
            Self::CredentialsWrong => "credentials-wrong",
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::SchemaVersion => "schema-version",
            Self::Implausible => "implausible",
            Self::IdentityConflict => "identity-conflict",
            Self::Conflict => "conflict",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::MediaType => "media-type",
            Self::NotFound => "not-found",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }
}
