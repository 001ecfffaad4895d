//! What AIOS's replies are worth. Pure.
//!
//! The parser answers 200 to almost everything: success is status 200 with a `result` that is an
//! object with our id. Everything else is sorted by the words that its services use.

use serde_json::Value;

use super::{INSTALLATION_KEY, bounded, differences};
use crate::document::ClusterDocument;
use crate::targets::{Held, Verdict};

/// Judges the reply to `createCluster`.
///
/// `sent` says what was sent where, for the message: `POST http://…/api/createCluster`.
pub fn judge_create(sent: &str, status: u16, body: &[u8], id: &str) -> Verdict {
    let reply = serde_json::from_slice::<Value>(body).ok();
    let answered = format!("{sent} answered {status}: {}", verbatim(body));
    let words = |meaning: &str| format!("{meaning} ({answered})");
    let error = reply.as_ref().and_then(|reply| reply.get("error")).and_then(Value::as_str);
    match status {
        200 => match reply.as_ref().and_then(|reply| reply.get("result")) {
            Some(Value::Object(stored)) => match stored.get("id").and_then(Value::as_str) {
                Some(stored) if stored == id => Verdict::Accepted,
                // It is not shown: it is somebody else's.
                _ => Verdict::Rejected {
                    words: format!("{sent} answered {status} with an entry of another id"),
                },
            },
            Some(Value::Array(parts)) => {
                let said = parts.iter().find_map(Value::as_str).unwrap_or_default();
                judge_failure(said, &answered)
            }
            _ => Verdict::Rejected {
                words: words("the reply is not one of AIOS's parser: is parserUrl right?"),
            },
        },
        300..=399 => Verdict::Refused {
            words: words("parserUrl answers with a redirect: set parserUrl to where it leads"),
        },
        400 => Verdict::Refused {
            words: words(
                "the parser does not understand what it was sent: is the envelope right for it?",
            ),
        },
        401 | 403 | 407 => Verdict::Refused {
            words: words("access was denied: look at what stands between rollcall and the parser"),
        },
        404 | 405 => Verdict::Refused {
            words: words(
                "there is no createCluster at this address: set parserUrl to AIOS's parser",
            ),
        },
        413 => {
            Verdict::Refused { words: words("the document is too large for the way to the parser") }
        }
        500 => match error {
            Some(key) if is_missing_key(key) => Verdict::Refused {
                words: words(&format!(
                    "the parser misses {key} in what it was sent: is the envelope right for it?"
                )),
            },
            Some(said) if said.starts_with("400 ") || said.starts_with("415 ") => {
                Verdict::Refused { words: words("the parser could not read the request as JSON") }
            }
            _ => Verdict::Rejected { words: words("the parser failed") },
        },
        402..=499 if !matches!(status, 408 | 425 | 429) => {
            Verdict::Rejected { words: words("the parser does not take the request") }
        }
        _ => Verdict::Unanswered { words: words("the parser cannot be used now") },
    }
}

/// Sorts what the parser says in `result: [false, "…"]`, always with status 200.
fn judge_failure(said: &str, answered: &str) -> Verdict {
    let words = |meaning: &str| format!("{meaning} ({answered})");
    if let Some((_, why)) = said.split_once("cluster not allowed to be added") {
        let why = bounded(why.trim_start_matches([':', ' ']));
        Verdict::Refused {
            words: words(&format!(
                "the network's policy does not allow this cluster: {why}. Settle it with the network's operator, then restart, or change the cluster file"
            )),
        }
    } else if said.contains("413 Client Error") {
        Verdict::Refused {
            words: words(
                "the document is larger than the 100 KiB that the network's registry takes",
            ),
        }
    } else if said.contains("HTTP error occurred: 500") {
        Verdict::Rejected {
            words: words(
                "the network's registry refused the document without saying why: a value of a wrong type, a missing one, or an id that is taken",
            ),
        }
    } else if said.contains("HTTP error occurred: 4") {
        Verdict::Rejected { words: words("the network's registry refused the document") }
    } else {
        Verdict::Unanswered { words: words("the network's gateway did not answer the parser") }
    }
}

/// Judges the reply to a read of `/clusters/read/ID`.
pub fn judge_read(
    sent: &str,
    status: u16,
    body: &[u8],
    ours: &ClusterDocument,
    installation: &str,
) -> Held {
    let reply = serde_json::from_slice::<Value>(body).ok();
    let data = reply.as_ref().and_then(|reply| reply.get("data"));
    match (status, data) {
        (200, Some(Value::Object(entry))) => {
            if entry.get("id").and_then(Value::as_str) != Some(ours.id.as_str()) {
                // It is not shown: it is somebody else's.
                return unreadable(sent, status, b"an entry of another id", "is gatewayUrl right?");
            }
            let owner = entry
                .get("clusterMetadata")
                .and_then(|metadata| metadata.get("additionalInfo"))
                .and_then(|info| info.get(INSTALLATION_KEY))
                .and_then(Value::as_str);
            if owner != Some(installation) {
                return Held::Foreign;
            }
            Held::Ours { differences: differences(ours, &Value::Object(entry.clone())) }
        }
        (500, Some(Value::String(said))) if said.contains("HTTP error occurred: 404") => {
            Held::Absent
        }
        // It is not shown: it may be somebody else's entry.
        (200, _) => unreadable(sent, status, b"no entry", "is gatewayUrl that of AIOS's gateway?"),
        _ => unreadable(sent, status, body, "is gatewayUrl that of AIOS's gateway?"),
    }
}

fn unreadable(sent: &str, status: u16, body: &[u8], meaning: &str) -> Held {
    let words = format!(
        "the network's entry could not be read: {meaning} ({sent} answered {status}: {})",
        verbatim(body)
    );
    Held::Unreadable { words }
}

/// A Python `KeyError`, which the parser shows as the quoted key alone: `'body'`.
fn is_missing_key(said: &str) -> bool {
    said.len() > 2 && said.starts_with('\'') && said.ends_with('\'')
}

fn verbatim(body: &[u8]) -> String {
    if body.is_empty() { "nothing".to_owned() } else { bounded(&String::from_utf8_lossy(body)) }
}
