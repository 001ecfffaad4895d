//! What AIOS's replies are worth. Pure.
//!
//! The parser answers 200 to almost everything: success is status 200 with a `result` that is an
//! object with our id. Everything else is sorted by the words that its services use.

use std::collections::BTreeSet;

use rollcall_report::NodeId;
use serde_json::Value;

use super::amend::{Amendments, Basis, amend};
use super::fields::INSTALLATION_KEY;
use super::{Submission, bounded};
use crate::targets::{Held, Known, Scheduled, Task, Verdict};

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
        300..=399 => Verdict::Rejected {
            words: words("parserUrl answers with a redirect: set parserUrl to where it leads"),
        },
        400 => Verdict::Refused {
            words: words(
                "the parser does not understand what it was sent: is the envelope right for it?",
            ),
        },
        401 | 403 | 407 => Verdict::Rejected {
            words: words("access was denied: look at what stands between rollcall and the parser"),
        },
        404 | 405 => Verdict::Rejected {
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
                "the network's policy does not allow this cluster: {why}. Settle it with the network's operator, then run submit, or change the cluster file"
            )),
        }
    } else if said.contains("413 Client Error") {
        Verdict::Refused { words: words(TOO_LARGE) }
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

/// Judges the gateway's reply to an update or a removal of an entry. Whether it was carried out is
/// seen by reading.
///
/// `sent` says what was sent where, for the message: `PUT http://…/clusters/update/ID`.
pub fn judge_change(sent: &str, status: u16, body: &[u8]) -> Verdict {
    let reply = serde_json::from_slice::<Value>(body).ok();
    let words = |meaning: &str| format!("{meaning} ({sent} answered {status}: {})", verbatim(body));
    let said = reply.as_ref().and_then(|reply| reply.get("data")).and_then(Value::as_str);
    let success = reply.as_ref().and_then(|reply| reply.get("success")).and_then(Value::as_bool);
    match (status, said) {
        (200, _) if success == Some(true) => Verdict::Accepted,
        (200, _) => Verdict::Rejected {
            words: words("the reply is not one of AIOS's gateway: is gatewayUrl right?"),
        },
        (500, Some(said)) if said.contains("413 Client Error") => {
            Verdict::Refused { words: words(TOO_LARGE) }
        }
        (500, Some(said)) if said.contains("HTTP error occurred: 500") => Verdict::Rejected {
            words: words("the network's registry refused the change without saying why"),
        },
        (500, Some(said)) if said.contains("HTTP error occurred: 4") => {
            Verdict::Rejected { words: words("the network's registry refused the change") }
        }
        (500, Some(_)) => Verdict::Unanswered {
            words: words("the network's registry did not answer the gateway"),
        },
        (300..=399, _) => Verdict::Rejected {
            words: words("gatewayUrl answers with a redirect: set gatewayUrl to where it leads"),
        },
        (401 | 403 | 407, _) => Verdict::Rejected {
            words: words("access was denied: look at what stands between rollcall and the gateway"),
        },
        (404 | 405, _) => Verdict::Rejected {
            words: words(
                "there is no such service at this address: set gatewayUrl to AIOS's gateway",
            ),
        },
        (413, _) => Verdict::Refused { words: words(TOO_LARGE) },
        (400..=499, _) if !matches!(status, 408 | 425 | 429) => {
            Verdict::Rejected { words: words("the gateway does not take the request") }
        }
        (500, None) => Verdict::Rejected { words: words("the gateway failed") },
        _ => Verdict::Unanswered { words: words("the gateway cannot be used now") },
    }
}

const TOO_LARGE: &str = "the request is larger than the 100 KiB that the network's registry takes, though it holds one piece: the free-form parts of the cluster file may be too large";

/// What a read of `/clusters/read/ID` showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// No entry.
    Absent,
    /// The entry of our id, whoever made it.
    Entry(Value),
    /// It could not be read.
    Unreadable {
        /// What was tried and what came back.
        words: String,
    },
}

/// Judges the reply to a read of `/clusters/read/ID`.
pub fn judge_read(sent: &str, status: u16, body: &[u8], id: &str) -> Reading {
    let mut reply = serde_json::from_slice::<Value>(body).ok();
    let data = reply.as_mut().and_then(|reply| reply.get_mut("data")).map(Value::take);
    match (status, data) {
        (200, Some(Value::Object(entry))) => {
            if entry.get("id").and_then(Value::as_str) != Some(id) {
                // It is not shown: it is somebody else's.
                return unreadable(sent, status, b"an entry of another id", "is gatewayUrl right?");
            }
            Reading::Entry(entry.into())
        }
        (500, Some(Value::String(said))) if said.contains("HTTP error occurred: 404") => {
            Reading::Absent
        }
        // It is not shown: it may be somebody else's entry.
        (200, _) => unreadable(
            sent,
            status,
            b"something that is no reply of a gateway",
            "is gatewayUrl that of AIOS's gateway?",
        ),
        _ => unreadable(sent, status, body, "is gatewayUrl that of AIOS's gateway?"),
    }
}

fn unreadable(sent: &str, status: u16, body: &[u8], meaning: &str) -> Reading {
    let words = format!(
        "the network's entry could not be read: {meaning} ({sent} answered {status}: {})",
        verbatim(body)
    );
    Reading::Unreadable { words }
}

/// The installation that made an entry, where it says so.
pub fn owner(entry: &Value) -> Option<&str> {
    let info = entry.get("clusterMetadata")?.get("additionalInfo")?;
    info.get(INSTALLATION_KEY)?.as_str()
}

/// What the network holds: whose entry it is, what has to be set in it to make it right, and what if
/// no node is taken away meanwhile.
///
/// # Errors
///
/// When our document cannot be encoded.
pub fn compare(
    entry: &Value,
    submission: &Submission,
    known: Known<'_>,
) -> serde_json::Result<(Held, Amendments)> {
    let is_ours = owner(entry) == Some(submission.installation.as_str());
    let departed = &submission.departed;
    let basis = Basis {
        departed: &departed.nodes,
        before: known.declared,
        take_over: !is_ours,
        rescue: known.rescue,
    };
    let whole = amend(&submission.document, entry, &basis)?;
    let mut difference = whole.difference.clone();
    let keeping = if difference.removed.is_empty() {
        None
    } else {
        let nobody = BTreeSet::new();
        let basis = Basis { departed: &nobody, ..basis };
        Some(amend(&submission.document, entry, &basis)?)
    };
    let count = |ids: &[String], among: &BTreeSet<NodeId>| {
        ids.iter().filter(|id| among.iter().any(|it| it.as_str() == id.as_str())).count()
    };
    difference.renamed = count(&difference.removed, &departed.renamed);
    difference.leaving = count(&difference.kept, &departed.leaving);
    difference.kept.retain(|id| departed.leaving.iter().all(|it| it.as_str() != id.as_str()));
    difference.besides =
        keeping.as_ref().map_or(difference.fields.len(), |it| it.difference.fields.len());
    let held = if is_ours { Held::Ours(difference) } else { Held::Foreign(difference) };
    Ok((held, Amendments { whole, keeping }))
}

/// Judges the gateway's reply to a request for infrastructure, or for its removal.
pub fn judge_infrastructure(sent: &str, status: u16, body: &[u8]) -> Scheduled {
    let reply = serde_json::from_slice::<Value>(body).ok();
    let task =
        reply.as_ref().and_then(|reply| reply.pointer("/data/task_id")).and_then(Value::as_str);
    let words = |meaning: &str| format!("{meaning} ({sent} answered {status}: {})", verbatim(body));
    match (status, task) {
        (200, Some(task)) if is_task_id(task) => Scheduled::Task(task.to_owned()),
        (200, _) => Scheduled::Lost {
            words: words("the reply names no task: is gatewayUrl that of AIOS's gateway?"),
        },
        (300..=407 | 409..=499, _) => {
            Scheduled::Refused { words: words("the gateway does not take the request") }
        }
        _ => Scheduled::Lost { words: words("the gateway failed") },
    }
}

/// Judges the reply of the tasks' database.
pub fn judge_task(sent: &str, status: u16, body: &[u8]) -> Task {
    let reply = serde_json::from_slice::<Value>(body).ok();
    let text = |pointer: &str| {
        reply.as_ref().and_then(|reply| reply.pointer(pointer)).and_then(Value::as_str)
    };
    let words = |meaning: &str| format!("{meaning} ({sent} answered {status}: {})", verbatim(body));
    match (status, text("/data/task_status")) {
        (200, Some("pending")) => Task::Pending,
        (200, Some("completed")) => Task::Completed,
        (200, Some("failed")) => {
            let error =
                reply.as_ref().and_then(|reply| reply.pointer("/data/task_status_data/error"));
            let said = match error {
                Some(Value::String(said)) => bounded(said),
                Some(other) => bounded(&other.to_string()),
                None => "it does not say why".to_owned(),
            };
            Task::Failed { words: format!("the network's task failed: {said}") }
        }
        _ => Task::Unreadable {
            words: words("how the network's task stands could not be read: is tasksUrl right?"),
        },
    }
}

/// A task's id goes into a URL, a log and a table.
fn is_task_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_graphic())
}

/// A Python `KeyError`, which the parser shows as the quoted key alone: `'body'`.
fn is_missing_key(said: &str) -> bool {
    said.len() > 2 && said.starts_with('\'') && said.ends_with('\'')
}

/// A reply as it came, cleaned and in part.
pub(super) fn verbatim(body: &[u8]) -> String {
    if body.is_empty() { "nothing".to_owned() } else { bounded(&String::from_utf8_lossy(body)) }
}
