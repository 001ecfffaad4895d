//! The network's own services: what they are asked, and what their answers are worth. Neither
//! question changes anything.

use serde_json::Value;

use super::Facts;
use crate::checks::{Unseen, Verdict};
use crate::targets::aios::{Reading, Reply, judge_read, owner};

/// The gateway's answer as what it says of our id.
fn entry(reply: &Reply, id: &str) -> Result<Option<Entry>, String> {
    match judge_read(&reply.sent, reply.status, &reply.body, id) {
        Reading::Absent => Ok(None),
        Reading::Entry(entry) => Ok(Some(Entry { owner: owner(&entry).map(str::to_owned) })),
        Reading::Unreadable { words } => Err(words),
    }
}

/// An entry of our id in the network's registry.
struct Entry {
    /// The installation that made it, where it says so.
    owner: Option<String>,
}

/// Whether the gateway is one: it must answer what a gateway answers.
pub(super) fn gateway(facts: &Facts) -> Verdict {
    facts.gateway.judge(|reply| match entry(reply, facts.file.cluster.id.as_str()) {
        Ok(_either) => Verdict::pass(format!("{} answered as a gateway does", reply.sent)),
        Err(words) => Verdict::fail(words),
    })
}

/// Whether the parser is one: it must refuse the empty request as a parser does.
pub(super) fn parser(facts: &Facts) -> Verdict {
    facts.parser.judge(|reply| {
        let error = serde_json::from_slice::<Value>(&reply.body)
            .ok()
            .and_then(|reply| reply.get("error").and_then(Value::as_str).map(str::to_owned));
        let answered = reply.answered();
        match (reply.status, error.as_deref()) {
            (400, Some("Invalid JSON input")) => {
                Verdict::pass(format!("{} answered as a parser does", reply.sent))
            }
            (300..=399, _) => {
                Verdict::fail(format!("parserUrl answers with a redirect ({answered})"))
                    .mend("set parserUrl to where it leads")
            }
            (401 | 403 | 407, _) => Verdict::fail(format!("access was denied ({answered})"))
                .mend("look at what stands between this machine and the parser"),
            (404 | 405, _) => {
                Verdict::fail(format!("there is no createCluster there ({answered})"))
            }
            _ => Verdict::fail(format!("that is not how a parser answers ({answered})")),
        }
    })
}

/// Whose entry stands under our id.
pub(super) fn cluster_id(facts: &Facts) -> Verdict {
    let id = facts.file.cluster.id.as_str();
    let reply = match &facts.gateway.result {
        Ok(reply) => reply,
        Err(Unseen::NotTried { why }) => return Verdict::skipped(why),
        Err(_) => return Verdict::skipped("the gateway does not answer"),
    };
    let Ok(entry) = entry(reply, id) else {
        return Verdict::skipped("the gateway does not answer as a gateway does");
    };
    let Some(Entry { owner }) = entry else {
        return Verdict::pass(format!("the network has no entry {id}"));
    };
    let installation = facts.installation().map(|installation| installation.to_string());
    match (owner, installation) {
        (Some(owner), Some(ours)) if owner == ours => {
            Verdict::pass(format!("the entry {id} is of this installation, {ours}"))
        }
        (Some(owner), Some(ours)) => Verdict::fail(format!(
            "the network's entry {id} is of another installation of rollcall, {owner}; this one is {ours}"
        ))
        .mend("choose another cluster.id; if the entry is of this cluster, made before its store was lost, take it over with submit --adopt"),
        (Some(owner), None) => Verdict::warn(format!(
            "the network's entry {id} is of the installation {owner}; whether that is ours only its aggregator knows"
        ))
        .mend("check again where the aggregator of this cluster answers: --server"),
        (None, _) => Verdict::fail(format!(
            "the network has an entry {id} that no installation of rollcall made"
        )),
    }
}
