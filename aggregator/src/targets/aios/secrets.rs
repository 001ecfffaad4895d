//! The secrets that an onboarding document may hold: where they are, masking them where the
//! document is shown, and taking them out of what a network says.

use serde_json::Value;

use crate::document::ClusterDocument;

/// Where secrets are, as JSON pointers into `clusterMetadata`. `joinCommand` is kubeadm's, and holds
/// a token.
const POINTERS: [&str; 1] = ["/additionalInfo/joinCommand"];

/// The same for people.
pub(super) const NAMES: &str = "clusterMetadata.additionalInfo.joinCommand";

/// What stands in the place of a secret that is not shown.
const MASK: &str = "*** masked ***";

/// A text or a word of it that is shorter than this is no secret by itself: `kubeadm`, `join`.
const SHORTEST: usize = 12;

/// Masks a document's secrets. `true`: there was one.
pub fn mask(document: &mut ClusterDocument) -> bool {
    let mut metadata = Value::Object(std::mem::take(&mut document.cluster_metadata));
    let mut masked = false;
    for pointer in POINTERS {
        if let Some(secret) = metadata.pointer_mut(pointer).filter(|value| !is_empty(value)) {
            *secret = MASK.into();
            masked = true;
        }
    }
    if let Value::Object(metadata) = metadata {
        document.cluster_metadata = metadata;
    }
    masked
}

/// The secrets that a document holds.
pub(super) fn values(document: &ClusterDocument) -> Vec<String> {
    let metadata = Value::Object(document.cluster_metadata.clone());
    let found = POINTERS.iter().filter_map(|pointer| metadata.pointer(pointer));
    found.filter(|value| !is_empty(value)).map(text).collect()
}

/// A network's reply without what it repeats of our secrets.
pub(super) fn redact(reply: Vec<u8>, document: &ClusterDocument) -> Vec<u8> {
    let secrets = values(document);
    if secrets.is_empty() {
        return reply;
    }
    let mut shown = String::from_utf8_lossy(&reply).into_owned();
    for secret in &secrets {
        // As it is, as JSON writes it, and what it is made of.
        let escaped = Value::from(secret.as_str()).to_string();
        let words = secret.split(|c: char| c.is_whitespace() || c == '=');
        let forms = [escaped.trim_matches('"'), secret].into_iter().chain(words);
        for form in forms.filter(|form| form.len() >= SHORTEST && *form != document.id) {
            shown = shown.replace(form, MASK);
        }
    }
    shown.into_bytes()
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
