//! Tells of what is wrong with a node where a cluster's operator looks first: as Events on its Node.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Error};
use rollcall_daemon::kubernetes::words;
use rollcall_report::NodeName;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// More Events than these are dropped while they wait: the log and the metrics tell of all.
const QUEUE: usize = 256;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest note that the API takes, in bytes.
const MAX_NOTE_BYTES: usize = 1024;
/// How much of a Node's name goes into an Event's: room for the time is left.
const MAX_STEM_BYTES: usize = 200;
/// For how long an Event is counted up instead of made anew; servers keep Events for an hour.
const COUNTED_UP_FOR: SignedDuration = SignedDuration::from_mins(30);
/// Who tells.
const REPORTER: &str = "rollcall-aggregator";

/// Takes Events about Nodes; drops them where there is no Kubernetes.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<mpsc::Sender<Complaint>>);

/// What is wrong with a node.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    node: NodeName,
    /// Why the Event was made, in one word of Kubernetes' kind.
    reason: &'static str,
    note: String,
}

impl Events {
    /// Events for a cluster, and those that wait to be published.
    pub fn queue() -> (Self, mpsc::Receiver<Complaint>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(Some(sender)), receiver)
    }

    /// Tells that something is wrong with a node; never waits.
    pub fn complain(&self, node: &NodeName, reason: &'static str, words: &str) {
        let Some(queue) = &self.0 else { return };
        let complaint = Complaint { node: node.clone(), reason, note: bounded(words) };
        if queue.try_send(complaint).is_err() {
            log::debug!(node = node.as_str(), reason; "an Event is dropped, too many wait");
        }
    }
}

/// Publishes Events for as long as it runs. Of one that cannot be published nothing is lost: the log
/// has told it.
pub async fn publish(
    client: Client,
    replica: String,
    mut complaints: mpsc::Receiver<Complaint>,
) -> Infallible {
    let mut publisher = Publisher {
        // Nodes have no namespace; Events about them live here.
        events: Api::namespaced(client, "default"),
        replica,
        told: BTreeMap::new(),
    };
    let mut is_failing = false;
    while let Some(complaint) = complaints.recv().await {
        let failure = match timeout(REQUEST_TIMEOUT, publisher.publish(complaint)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(words::of(&error)),
            Err(_elapsed) => Some(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
        };
        if let Some(error) = failure.as_ref().filter(|_| !is_failing) {
            log::warn!(error = error.as_str(); "an Event about a Node could not be published");
        }
        is_failing = failure.is_some();
    }
    std::future::pending().await
}

/// Writes Events of the group `core`, as the kubelet does: servers before 1.21 take those of
/// `events.k8s.io` about a Node in no namespace but kube-system.
struct Publisher {
    events: Api<core::Event>,
    replica: String,
    told: BTreeMap<Complaint, Told>,
}

/// An Event that was made.
#[derive(Debug, Clone)]
struct Told {
    name: String,
    count: i32,
    last: Timestamp,
}

impl Publisher {
    /// Counts an Event up that was made a short while ago; else makes one.
    async fn publish(&mut self, complaint: Complaint) -> Result<(), Error> {
        let now = Timestamp::now();
        self.told.retain(|_, told| now.duration_since(told.last).abs() < COUNTED_UP_FOR);
        if let Some(told) = self.told.get_mut(&complaint) {
            let count = told.count.saturating_add(1);
            let patch = Patch::Merge(json!({"count": count, "lastTimestamp": Time(now)}));
            match self.events.patch(&told.name, &PatchParams::default(), &patch).await {
                Ok(_event) => {
                    (told.count, told.last) = (count, now);
                    return Ok(());
                }
                // It has expired, or somebody has removed it.
                Err(Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = event(&complaint, &self.replica, now);
        let name = event.metadata.name.clone().unwrap_or_default();
        self.events.create(&PostParams::default(), &event).await?;
        self.told.insert(complaint, Told { name, count: 1, last: now });
        Ok(())
    }
}

fn event(complaint: &Complaint, replica: &str, now: Timestamp) -> core::Event {
    let Complaint { node, reason, note } = complaint;
    // A Node's name may be as long as an Event's, which has the time after it.
    let stem = node.as_str().get(..MAX_STEM_BYTES).unwrap_or(node.as_str());
    let stem = stem.trim_end_matches(['.', '-']);
    core::Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{:x}", now.as_nanosecond())),
            ..ObjectMeta::default()
        },
        // As the kubelet does: it is by its name as UID that kubectl finds a Node's Events.
        involved_object: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_string()),
            uid: Some(node.to_string()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".into()),
        reason: Some((*reason).to_owned()),
        message: Some(note.clone()),
        action: Some("Report".into()),
        source: Some(EventSource { component: Some(REPORTER.into()), host: None }),
        reporting_component: Some(REPORTER.into()),
        reporting_instance: Some(replica.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..core::Event::default()
    }
}

fn bounded(note: &str) -> String {
    let mut end = note.len().min(MAX_NOTE_BYTES);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_where_a_character_ends() {
        for (note, bytes) in
            [("short", 5), ("ü".repeat(600).as_str(), 1024), ("a".repeat(1024).as_str(), 1024)]
        {
            assert_eq!(bounded(note).len(), bytes, "{note}");
        }
        assert_eq!(bounded(&format!("a{}", "ü".repeat(600))).len(), 1023);
    }

    #[test]
    fn a_queue_that_is_full_holds_nobody_up() {
        let (events, mut queue) = Events::queue();
        let node = "n1".parse().expect("a name");
        for _ in 0..=QUEUE {
            events.complain(&node, "IdentityConflict", "words");
        }
        let mut queued = 0;
        while queue.try_recv().is_ok() {
            queued += 1;
        }
        assert_eq!(queued, QUEUE);
        Events::default().complain(&node, "IdentityConflict", "nobody listens");
    }

    #[test]
    fn events_have_names_that_fit() {
        let now = Timestamp::from_second(1_700_000_000).expect("in range");
        for (node, stem) in [
            ("n1".to_owned(), "n1".to_owned()),
            ("n".repeat(253), "n".repeat(200)),
            (format!("{}.{}", "n".repeat(199), "m".repeat(53)), "n".repeat(199)),
        ] {
            let node = node.parse().expect("a name");
            let complaint = Complaint { node, reason: "NodeNotStamped", note: "words".to_owned() };
            let event = event(&complaint, "r", now);
            assert_eq!(event.metadata.name, Some(format!("{stem}.17979cfe362a0000")));
            assert_eq!(event.involved_object.namespace, None, "or kubectl describe finds it not");
            assert_eq!(event.event_time, None, "or servers before 1.21 refuse it");
        }
    }
}
