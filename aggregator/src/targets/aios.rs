//! AIOS: registration through the parser's `createCluster`, reading back through the gateway.
//!
//! How its services really answer, and what each answer is taken for, stands in `docs/aios.md`.

mod client;
mod compare;
mod reply;

use rollcall_daemon::http::is_confidential;
use rollcall_report::clean_text;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cluster_file::{Envelope, Target};
use crate::digest::Digest;
use crate::document::ClusterDocument;

pub use client::{Client, SetUpError};
pub use compare::differences;
pub use reply::{judge_create, judge_read};

/// The key in `clusterMetadata.additionalInfo` by which an installation knows its own entry.
pub const INSTALLATION_KEY: &str = "rollcallInstallation";

/// Free-form key that AIOS's documentation gives kubeadm's join command, which holds a token.
const JOIN_COMMAND: [&str; 3] = ["clusterMetadata", "additionalInfo", "joinCommand"];

/// How much of a foreign text is shown.
const SHOWN_CHARS: usize = 400;

/// What stands in the place of a secret that is not shown.
pub const MASK: &str = "*** masked ***";

/// What is to be registered, as it will be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The document.
    pub document: ClusterDocument,
    /// Digest of the document's bytes.
    pub digest: Digest,
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
        installation: Uuid,
        target: &Target,
    ) -> serde_json::Result<Self> {
        let info = document.cluster_metadata.entry("additionalInfo").or_insert_with(|| json!({}));
        if let Value::Object(info) = info {
            info.insert(INSTALLATION_KEY.to_owned(), installation.to_string().into());
        }
        let digest = Digest::of(&[&serde_json::to_vec(&document)?]);
        let obstacle = obstacle(&document, target);
        Ok(Self { document, digest, obstacle })
    }
}

/// The body of a `createCluster` request.
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn body(document: &ClusterDocument, envelope: Envelope) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Header {
        template_uri: &'static str,
        parameters: serde_json::Map<String, Value>,
    }
    match envelope {
        Envelope::Flat => serde_json::to_vec(document),
        Envelope::ParserV1 => {
            let header = Header { template_uri: "Parser/V1", parameters: serde_json::Map::new() };
            serde_json::to_vec(&json!({
                "header": header,
                "body": {"spec": {"values": document}},
            }))
        }
    }
}

/// Replaces the document's secrets. `true`: there was one.
pub fn mask(document: &mut ClusterDocument) -> bool {
    let [_, info, command] = JOIN_COMMAND;
    let secret = document
        .cluster_metadata
        .get_mut(info)
        .and_then(|info| info.get_mut(command))
        .filter(|command| !is_empty(command));
    match secret {
        Some(command) => {
            *command = MASK.into();
            true
        }
        None => false,
    }
}

fn obstacle(document: &ClusterDocument, target: &Target) -> Option<String> {
    let mut masked = document.clone();
    if target.insecure_http || is_confidential(&target.parser_url) || !mask(&mut masked) {
        return None;
    }
    Some(format!(
        "{} holds a secret, and {} is plain HTTP to another machine: use https, leave the secret out, or set insecureHttp: true for this target",
        JOIN_COMMAND.join("."),
        target.parser_url
    ))
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
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
