//! AIOS: registration through the parser's `createCluster`, reading back through the gateway.
//!
//! How its services really answer, and what each answer is taken for, stands in `docs/aios.md`.

mod amend;
mod client;
mod fields;
mod pieces;
mod python;
mod reply;
mod secrets;

use rollcall_daemon::http::is_confidential;
use rollcall_report::clean_text;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Departed, Destination};
use crate::cluster_file::{AiosTarget, Envelope};
use crate::digest::Digest;
use crate::document::ClusterDocument;

pub use amend::{Amendment, Amendments, Basis, amend};
pub use client::{Client, Look, Reply, mask_request};
pub use fields::{Declared, INSTALLATION_KEY, declared};
pub use pieces::{REGISTRY_LIMIT_BYTES, first_piece, piece_sizes};
pub use python::python_len;
pub use reply::{
    Reading, compare, judge_change, judge_create, judge_infrastructure, judge_read, judge_task,
    owner,
};
pub use secrets::mask;

/// How much of a foreign text is shown.
const SHOWN_CHARS: usize = 400;

/// What is to be registered, as it will be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The document, with the installation's mark.
    pub document: ClusterDocument,
    /// Identifies this installation's entries.
    pub installation: String,
    /// The nodes that may be taken out of an entry.
    pub departed: Departed,
    /// What the document says in the fields that are ours only when we change them.
    pub declared: Declared,
    /// Where it belongs.
    pub destination: Destination,
    /// Document, departed nodes and destination in one digest.
    pub wanted: Digest,
    /// Why it must not be sent, if so.
    pub obstacle: Option<String>,
}

impl Submission {
    /// Makes a cluster's document ours, and looks for what forbids sending it.
    ///
    /// # Errors
    ///
    /// When the document cannot be encoded.
    pub fn new(
        mut document: ClusterDocument,
        departed: Departed,
        installation: Uuid,
        target: &AiosTarget,
    ) -> serde_json::Result<Self> {
        let installation = installation.to_string();
        mark(&mut document, &installation);
        let destination = Destination {
            cluster_id: document.id.clone(),
            create_url: target.parser_url.to_string(),
            read_url: target.gateway_url.to_string(),
        };
        let encoded = serde_json::to_vec(&document)?;
        let mut parts = vec![
            encoded.as_slice(),
            destination.create_url.as_bytes(),
            destination.read_url.as_bytes(),
        ];
        parts.extend(departed.nodes.iter().map(|id| id.as_str().as_bytes()));
        let wanted = Digest::of(&parts);
        let obstacle = obstacle(&document, target);
        let declared = declared(&document)?;
        Ok(Self { document, installation, departed, declared, destination, wanted, obstacle })
    }
}

/// Makes a document ours, as it is sent.
pub fn mark(document: &mut ClusterDocument, installation: &str) {
    let info = document.cluster_metadata.entry("additionalInfo").or_insert_with(|| json!({}));
    // The cluster file takes nothing but a mapping here.
    if let Value::Object(info) = info {
        info.insert(INSTALLATION_KEY.to_owned(), installation.into());
        // Empty unless the owner sets it; said, so that one that was set can be taken back.
        info.entry("joinCommand").or_insert_with(|| json!(""));
    }
}

/// The body of a `createCluster` request.
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn envelop(document: &ClusterDocument, envelope: Envelope) -> serde_json::Result<Value> {
    let document = serde_json::to_value(document)?;
    Ok(match envelope {
        Envelope::Flat => document,
        Envelope::ParserV1 => json!({
            "header": {"templateUri": "Parser/V1", "parameters": {}},
            "body": {"spec": {"values": document}},
        }),
    })
}

fn obstacle(document: &ClusterDocument, target: &AiosTarget) -> Option<String> {
    if target.transport.insecure_http {
        return None;
    }
    // Reading the entry back brings its secrets along, and needs the same headers.
    let open =
        [&target.parser_url, &target.gateway_url].into_iter().find(|url| !is_confidential(url))?;
    let in_document = !secrets::values(document).is_empty();
    let in_headers = target.transport.secret_headers();
    let (what, leave_out) = match (in_document, in_headers.as_slice()) {
        (false, []) => return None,
        (true, []) => (format!("the document holds a secret ({})", secrets::NAMES), "the secret"),
        (false, keys) => (format!("the target's {} is secret", keys.join(" and ")), "it"),
        (true, keys) => (
            format!(
                "the document holds a secret ({}), the target's {} is secret",
                secrets::NAMES,
                keys.join(" and ")
            ),
            "both",
        ),
    };
    Some(format!(
        "{what}, and {open} is plain HTTP to another machine: use https, leave {leave_out} out, or set insecureHttp: true for this target"
    ))
}

/// A foreign text, cleaned of control characters and short enough to show.
fn bounded(text: &str) -> String {
    let clean = clean_text(text);
    let mut short: String = clean.chars().take(SHOWN_CHARS).collect();
    if clean.chars().nth(SHOWN_CHARS).is_some() {
        short.push('…');
    }
    short
}
