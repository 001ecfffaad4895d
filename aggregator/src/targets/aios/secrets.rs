//! The secrets that an onboarding document may hold: where they are, masking them where the
//! document is shown, and taking them out of what a network says.

use rollcall_daemon::secret::Secret;
use serde_json::Value;

use super::fields::is_within;
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

/// A header's value that is shorter than this is no secret, or none that can be told from other
/// words of a reply.
const SHORTEST_HEADER: usize = 8;

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

/// Whether a dotted path of the entry leads to a secret, or what stands there may hold one.
pub(super) fn is_secret(path: &str) -> bool {
    // Somebody else may have written the secret in the place of what holds it.
    dotted().any(|secret| is_within(path, &secret) || is_within(&secret, path))
}

/// How a value that is a secret is shown.
pub(super) fn masked(value: &Value) -> String {
    if is_empty(value) { value.to_string() } else { MASK.to_owned() }
}

/// Masks the secrets among a document's fields, or in a body of an update, where they are dotted paths.
/// `true`: there was one.
pub(super) fn mask_fields(body: &mut Value) -> bool {
    let Some(fields) = body.as_object_mut() else { return false };
    let mut was_masked = false;
    for (path, value) in fields {
        for secret in dotted() {
            let found = match secret.strip_prefix(path.as_str()) {
                Some(rest) if rest.starts_with('.') => value.pointer_mut(&rest.replace('.', "/")),
                _ => is_within(path, &secret).then_some(&mut *value),
            };
            if let Some(secret) = found.filter(|value| !is_empty(value)) {
                *secret = MASK.into();
                was_masked = true;
            }
        }
    }
    was_masked
}

/// Where secrets are, as dotted paths into the entry.
fn dotted() -> impl Iterator<Item = String> {
    POINTERS.iter().map(|pointer| format!("clusterMetadata{}", pointer.replace('/', ".")))
}

/// The secrets that a document holds.
pub(super) fn values(document: &ClusterDocument) -> Vec<String> {
    let metadata = Value::Object(document.cluster_metadata.clone());
    let found = POINTERS.iter().filter_map(|pointer| metadata.pointer(pointer));
    found.filter(|value| !is_empty(value)).map(text).collect()
}

/// A network's reply without what it repeats of our secrets: the document's, and those of the
/// headers that were sent with it.
pub(super) fn redact(reply: Vec<u8>, document: &ClusterDocument, headers: &[Secret]) -> Vec<u8> {
    let in_document = values(document);
    let in_headers: Vec<&str> = headers
        .iter()
        .map(Secret::expose)
        .filter(|value| value.len() >= SHORTEST_HEADER && *value != document.id)
        .collect();
    if in_document.is_empty() && in_headers.is_empty() {
        return reply;
    }
    let mut shown = String::from_utf8_lossy(&reply).into_owned();
    let secrets = in_document.iter().map(String::as_str).chain(in_headers.iter().copied());
    for secret in secrets {
        // As it is, as JSON writes it, and what it is made of.
        let escaped = Value::from(secret).to_string();
        // Some writers of JSON escape slashes, and Python's all but ASCII.
        let slashes = secret.replace('/', "\\/");
        let ascii = ascii(&escaped);
        let words = secret.split(|c: char| c.is_whitespace() || c == '=');
        let words = words.filter(|word| word.len() >= SHORTEST);
        let whole =
            [escaped.trim_matches('"'), &slashes, ascii.trim_matches('"'), secret].into_iter();
        let whole = whole.filter(|form| form.len() >= SHORTEST || in_headers.contains(&secret));
        for form in whole.chain(words).filter(|form| *form != document.id) {
            shown = shown.replace(form, MASK);
        }
    }
    shown.into_bytes()
}

/// A text of JSON as Python writes it: all but ASCII is escaped.
fn ascii(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            written.push(c);
        } else {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            written.extend(units.map(|unit| format!("\\u{unit:04x}")));
        }
    }
    written
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::ClusterFile;
    use crate::document::{Source, assemble};

    #[test]
    fn what_is_taken_out_of_replies() {
        let join = "kubeadm join 192.0.2.1:6443 --token abcdef.0123456789abcdef";
        let text = format!(
            "cluster: {{id: cluster-west-1, regionId: r, clusterMetadata: {{additionalInfo: {{joinCommand: '{join}'}}}}}}"
        );
        let file = ClusterFile::parse(&text).expect("valid");
        let document =
            assemble(&file.cluster, &file.overrides, std::iter::empty::<Source<'_>>()).document;
        for (what, headers, reply, expected) in [
            ("nothing of ours", &[][..], "all is well", "all is well"),
            ("the command", &[], &*format!("no {join}!"), "no *** masked ***!"),
            ("a word of it", &[], "no abcdef.0123456789abcdef!", "no *** masked ***!"),
            ("a token", &["token-of-ours"], "no token-of-ours!", "no *** masked ***!"),
            ("a short token", &["hunter22"], "no 'hunter22'", "no '*** masked ***'"),
            ("the old one, too", &["newtoken", "oldtoken"], "oldtoken", "*** masked ***"),
            (
                "quoted",
                &["say \"friend\" twice"],
                r#"{"got": "say \"friend\" twice"}"#,
                r#"{"got": "*** masked ***"}"#,
            ),
            ("slashes", &["aGk/aGk/"], r"aGk\/aGk\/", "*** masked ***"),
            ("of a scheme", &["Basic dXNlcjpodW50ZXIy"], "dXNlcjpodW50ZXIy", "*** masked ***"),
            ("less than a secret", &["west"], "west of here", "west of here"),
            ("the id", &["cluster-west-1"], "id cluster-west-1", "id cluster-west-1"),
        ] {
            let headers: Vec<Secret> =
                headers.iter().map(|value| Secret::new((*value).to_owned())).collect();
            let shown = redact(reply.as_bytes().to_vec(), &document, &headers);
            assert_eq!(String::from_utf8_lossy(&shown), expected, "{what}");
        }
    }
}
