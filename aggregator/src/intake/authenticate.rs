//! Who may report for a node.
//!
//! A client's certificate names its nodes; only those may be reported for, under ids that are theirs, and
//! no token is needed or looked at. A Kubernetes service account token names the node that its pod runs on; only that one may be
//! reported for. A join token, shared by all agents, names none: there the machine that a node is
//! bound to at first sight tells nodes apart (see `roll`).

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use rollcall_report::{NodeId, NodeIdentity, NodeName, Refusal, RefusalCode};

use super::certificate::ClientCertificate;
use super::review::Reviewer;
use crate::tokens::{Tokens, bearer};

/// How many of a certificate's names a message has.
const MOST_LISTED: usize = 8;

/// What a request's credentials prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The bearer knows the join token, and may report for any node.
    JoinToken,
    /// The bearer is the agent's pod on a node.
    AgentOn(Placement),
    /// The client holds the key of a certificate that names nodes.
    Certificate(Arc<ClientCertificate>),
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
            Self::Certificate(certificate) if !certificate.nodes.contains(node) => {
                let own = listed(certificate.nodes.iter().map(NodeName::as_str));
                let message = format!(
                    "the client certificate is of node {own}, which cannot report for node {node}: the agent's --node-name must be the name in its certificate"
                );
                Err(Refusal { code: RefusalCode::Forbidden, message })
            }
            Self::JoinToken | Self::AgentOn(_) | Self::Certificate(_) => Ok(()),
        }
    }

    /// Whether the node that may be reported for may have the id that it proposes. With a certificate it
    /// is one that the node has, by the roll or by the label of its Node, the one that its name makes, or
    /// one that the certificate names: else a node could take another's id before that one has reported.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn may_have_its_id(
        &self,
        node: &NodeIdentity,
        has: &[Option<&NodeId>],
    ) -> Result<(), Refusal> {
        let Self::Certificate(certificate) = self else { return Ok(()) };
        let id = &node.proposed_id;
        let of_name = NodeId::of_name(&node.name).ok();
        let its_own = has.iter().copied().flatten().chain(&of_name).chain(&certificate.ids);
        let its_own: BTreeSet<&NodeId> = its_own.collect();
        if its_own.contains(id) {
            return Ok(());
        }
        let its_own = listed(its_own.into_iter().map(NodeId::as_str));
        let name = &node.name;
        let message = format!(
            "the client certificate ({}) lets node {name} have the ids {its_own}, and not {id}: issue one that names {id}, too (rollcall-aggregator ca node --node-id {id} {name}, or the DNS names {name} and {id}), or take the agent's --node-id away",
            certificate.subject
        );
        Err(Refusal { code: RefusalCode::Forbidden, message })
    }
}

/// Names for a message, not too many of them.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MOST_LISTED);
    let first: Vec<&str> = names.take(MOST_LISTED).collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
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

    /// Says who sends a request. A token does not count beside a certificate that names a node: one
    /// that all agents share would undo what the certificate is for.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Result<Identity, Refusal> {
        let has_tokens = self.join_tokens.is_some() || self.reviewer.is_some();
        match certificate {
            Some(certificate) if !certificate.nodes.is_empty() => {
                return Ok(Identity::Certificate(certificate));
            }
            // It may come with a token all the same.
            Some(certificate) if !has_tokens || !headers.contains_key(AUTHORIZATION) => {
                let message = format!(
                    "the client certificate ({}) names no node: the node's name must be its common name or a DNS name of it",
                    certificate.subject
                );
                return Err(Refusal { code: RefusalCode::Forbidden, message });
            }
            _ => {}
        }
        let token = bearer(headers)?;
        let known = self.join_tokens.as_ref().map(|tokens| tokens.check(token));
        match (known, &self.reviewer) {
            (Some(Ok(())), _) => Ok(Identity::JoinToken),
            (_, Some(reviewer)) => reviewer.review(token).await.map(Identity::AgentOn),
            (Some(Err(refusal)), None) => Err(refusal),
            (None, None) => {
                let message =
                    "this aggregator takes no tokens: start it with --token-file or --kubernetes";
                Err(Refusal { code: RefusalCode::CredentialsWrong, message: message.to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rollcall_report::IdSource;

    use super::*;

    #[test]
    fn which_ids_a_node_may_have() {
        let id = |text: &str| -> NodeId { text.parse().expect("an id") };
        let name = |text: &str| -> NodeName { text.parse().expect("a name") };
        let certificate = ClientCertificate {
            subject: "CN=n1".to_owned(),
            nodes: [name("n1")].into(),
            ids: ["n1", "Blue_1"].map(id).into(),
        };
        let certificate = Identity::Certificate(Arc::new(certificate));
        let long = format!("{}.example.org", "a".repeat(63));
        let short = NodeId::of_name(&name(&long)).expect("an id");
        for (what, identity, node, proposed, has, is_allowed) in [
            ("its name", &certificate, "n1", "n1", [None, None], true),
            ("another's", &certificate, "n1", "n2", [None, None], false),
            ("in the certificate", &certificate, "n1", "Blue_1", [None, None], true),
            ("in other letters", &certificate, "n1", "blue_1", [None, None], false),
            ("on the roll", &certificate, "n1", "n2", [Some("n2"), None], true),
            ("on its label", &certificate, "n1", "n2", [None, Some("n2")], true),
            ("another than both", &certificate, "n1", "n2", [Some("x"), Some("y")], false),
            ("a long name's", &certificate, long.as_str(), short.as_str(), [None, None], true),
            ("by a join token", &Identity::JoinToken, "n1", "n2", [None, None], true),
        ] {
            let node = NodeIdentity {
                name: name(node),
                proposed_id: id(proposed),
                id_source: IdSource::Explicit,
                machine_hash: None,
                other_label: None,
                overwrite_label: false,
            };
            let has = has.map(|has| has.map(id));
            let found = identity.may_have_its_id(&node, &has.each_ref().map(Option::as_ref));
            assert_eq!(found.is_ok(), is_allowed, "{what}: {found:?}");
            if let Err(Refusal { code, message }) = found {
                assert_eq!(code, RefusalCode::Forbidden, "{what}");
                assert!(message.contains("ca node --node-id"), "{what}: {message}");
            }
        }
    }
}
