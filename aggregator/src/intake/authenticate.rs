//! Who may report for a node.
//!
//! One way so far: a join token, shared by all agents. It names no node, so the machine that a node
//! is bound to at first sight is what tells nodes apart (see `roll`). Ways that do name the node
//! (Kubernetes' service account tokens, client certificates) are further [`Identity`]s.

use axum::http::HeaderMap;
use rollcall_report::{NodeName, Refusal};

use crate::tokens::Tokens;

/// What a request's credentials prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The bearer knows the join token, and may report for any node.
    JoinToken,
}

impl Identity {
    /// Whether the bearer may report for a node at all. What binds a node to one machine comes
    /// later, in `Roll::admit`.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn may_report_for(&self, _node: &NodeName) -> Result<(), Refusal> {
        match self {
            Self::JoinToken => Ok(()),
        }
    }
}

/// The ways to report that are switched on.
#[derive(Debug, Clone)]
pub struct Authenticator {
    join_tokens: Tokens,
}

impl Authenticator {
    /// Lets agents in that know a join token.
    pub fn new(join_tokens: Tokens) -> Self {
        Self { join_tokens }
    }

    /// Says who sends a request.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        self.join_tokens.check(headers).map(|()| Identity::JoinToken)
    }
}
