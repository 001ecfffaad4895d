//! Who may report for a node.
//!
//! A Kubernetes service account token names the node that its pod runs on; only that one may be
//! reported for. A join token, shared by all agents, names none: there the machine that a node is
//! bound to at first sight tells nodes apart (see `roll`).

use axum::http::HeaderMap;
use rollcall_report::{NodeName, Refusal, RefusalCode};

use super::review::Reviewer;
use crate::tokens::{Tokens, bearer};

/// What a request's credentials prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The bearer knows the join token, and may report for any node.
    JoinToken,
    /// The bearer is the agent's pod on a node.
    AgentOn(Placement),
}

/// Where a pod runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The Node's name.
    pub node: NodeName,
    /// The Node's UID, where the token tells it: of a Node that was deleted, a token says more than
    /// its name.
    pub node_uid: Option<String>,
}

impl Identity {
    /// Whether the bearer may report for a node at all. What binds a node to one machine comes
    /// later, in `Roll::admit`.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn may_report_for(&self, node: &NodeName) -> Result<(), Refusal> {
        match self {
            Self::AgentOn(placement) if placement.node != *node => {
                let own = &placement.node;
                let message = format!(
                    "the token is of a pod on node {own}, which cannot report for node {node}: the agent's NODE_NAME must be its own Node's name (spec.nodeName)"
                );
                Err(Refusal { code: RefusalCode::Forbidden, message })
            }
            Self::JoinToken | Self::AgentOn(_) => Ok(()),
        }
    }
}

/// The ways to report that are switched on.
#[derive(Debug)]
pub struct Authenticator {
    join_tokens: Option<Tokens>,
    reviewer: Option<Reviewer>,
}

impl Authenticator {
    /// Lets agents in that know a join token, and those that Kubernetes knows.
    pub fn new(join_tokens: Option<Tokens>, reviewer: Option<Reviewer>) -> Self {
        Self { join_tokens, reviewer }
    }

    /// Says who sends a request.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let token = bearer(headers)?;
        let known = self.join_tokens.as_ref().map(|tokens| tokens.check(token));
        match (known, &self.reviewer) {
            (Some(Ok(())), _) => Ok(Identity::JoinToken),
            (_, Some(reviewer)) => reviewer.review(token).await.map(Identity::AgentOn),
            (Some(Err(refusal)), None) => Err(refusal),
            (None, None) => {
                let message =
                    "this aggregator takes no reports: start it with --token-file or --kubernetes";
                Err(Refusal { code: RefusalCode::CredentialsWrong, message: message.to_owned() })
            }
        }
    }
}
