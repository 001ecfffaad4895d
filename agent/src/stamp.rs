//! Label stamping: what the aggregator accepted is put on the agent's own Node, and what the Node
//! carries already is told to the aggregator.
//!
//! The agent proposes, the aggregator accepts, and only what was accepted is stamped ([`mod@plan`]).
//! One object is watched, the Node of this machine ([`node`]); the labels go there by server-side
//! apply, without force except where the operator settles an explicit id against another label.
//! Nothing is taken away when the agent stops. Whatever goes wrong is tried again ([`trouble`]),
//! and never keeps the agent from reporting.

pub mod node;
pub mod plan;
pub mod trouble;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use rollcall_daemon::kubernetes::{Access, Selection};
use rollcall_report::{Assignment, IdSource, NodeId, NodeIdentity, NodeName};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use self::node::{FIELD_MANAGER, OwnNode, Sight, labels};
use self::plan::{Accepted, Action, Conflict, Plan, Stamp, Waiting, plan, propose};
use self::trouble::{Kind, Trouble};
use crate::config::StampConfig;
use crate::metrics::StampMetrics;
use crate::probe::gpu_labels::GpuLabels;
use crate::schedule::{self, Pace};

/// How long the first report waits for the first sight of the Node.
///
/// A report that proposes the name while the Node carries another label would register a new node
/// under an id that is soon another one. That is worth a short wait and no long one: an aggregator
/// on Kubernetes sees the label itself and goes by it, one elsewhere keeps the id of a node that it
/// knows, and the label is proposed as soon as it is seen. A node that says nothing would be missed.
pub const FIRST_SIGHT: Duration = Duration::from_secs(10);

/// How long the API server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Trouble is over when there was none for so long.
const CALM: Duration = Duration::from_secs(10);

type Event = WatchEvent<PartialObjectMeta<Node>>;

/// Prepares label stamping for the node `own`, as it is known without Kubernetes.
pub fn prepare(
    config: StampConfig,
    own: &NodeIdentity,
    metrics: StampMetrics,
) -> (Stamper, Stamping) {
    let (sights, sight) = watch::channel(Sight::Unknown);
    let (acceptances, accepted) = watch::channel(None);
    let stamping = Stamping {
        sight,
        acceptances,
        overwrite: config.overwrite_labels,
        until: Instant::now() + FIRST_SIGHT,
    };
    let stamper = Stamper {
        own: own.clone(),
        config,
        sights,
        accepted,
        metrics,
        failures: 0,
        watching: Complaint::default(),
        applying: Complaint::default(),
        held: None,
        applied_version: None,
        pace: Pace::new(Instant::now()),
        conflicts: Vec::new(),
    };
    (stamper, stamping)
}

/// The reporter's end: what the Node shows, and what was accepted for it.
#[derive(Debug)]
pub struct Stamping {
    sight: watch::Receiver<Sight>,
    acceptances: watch::Sender<Option<Accepted>>,
    overwrite: bool,
    /// Until when a first report waits for the first sight.
    until: Instant,
}

impl Stamping {
    /// Waits for the first sight of the Node, or that there is none, but not for ever.
    pub async fn first_sight(&mut self) {
        let known = self.sight.wait_for(|sight| *sight != Sight::Unknown);
        if timeout_at(self.until, known).await.is_err() {
            log::warn!(
                seconds = FIRST_SIGHT.as_secs();
                "reporting without having seen the Node: a label that it carries is proposed once it is seen"
            );
        }
    }

    /// What the Node's labels say of its GPUs, where it was seen.
    pub fn gpu_labels(&self) -> Option<GpuLabels> {
        self.sight.borrow().node()?.gpus.clone()
    }

    /// What the next report says of the node's identity.
    pub fn propose(&self, own: &NodeIdentity) -> NodeIdentity {
        self.proposal(own, &self.sight.borrow())
    }

    fn proposal(&self, own: &NodeIdentity, sight: &Sight) -> NodeIdentity {
        let accepted = self.acceptances.borrow();
        let accepted = accepted.as_ref().map(|accepted| &accepted.assignment.node_id);
        propose(own, self.overwrite, sight, accepted)
    }

    /// Waits until the Node shows something that makes another proposal than the reported one. A Node
    /// that is gone shows nothing: there is no hurry to report for it.
    pub async fn differs(&self, own: &NodeIdentity, reported: &NodeIdentity) {
        let mut sight = self.sight.clone();
        let differs =
            |sight: &Sight| sight.node().is_some() && self.proposal(own, sight) != *reported;
        let is_gone = sight.wait_for(differs).await.is_err();
        if is_gone {
            // The stamper is gone, and the agent with it.
            future::pending::<()>().await;
        }
    }

    /// Hands over what the aggregator answered to a proposal.
    pub fn accepted(&self, proposed: &NodeIdentity, assignment: &Assignment) {
        let proposal: (NodeId, IdSource) = (proposed.proposed_id.clone(), proposed.id_source);
        let accepted = Accepted { proposal, assignment: assignment.clone() };
        self.acceptances.send_if_modified(|current| {
            let is_news = current.as_ref() != Some(&accepted);
            *current = Some(accepted);
            is_news
        });
    }
}

/// Watches the Node and stamps it.
#[derive(Debug)]
pub struct Stamper {
    own: NodeIdentity,
    config: StampConfig,
    sights: watch::Sender<Sight>,
    accepted: watch::Receiver<Option<Accepted>>,
    metrics: StampMetrics,
    /// Watches in a row that broke off.
    failures: u32,
    watching: Complaint,
    applying: Complaint,
    /// What could not be applied, until when it rests, and how often that was so.
    held: Option<(Stamp, Instant, u32)>,
    /// The version of the Node that the last stamp made: what the watch tells of older ones comes
    /// late, and would have it stamped again.
    applied_version: Option<u64>,
    /// Keeps a war with another writer slow.
    pace: Pace,
    /// As they were logged.
    conflicts: Vec<Conflict>,
}

/// Who is asked, and for which Node. Only metadata is read: a whole Node is many times larger.
struct Server {
    access: Access,
    nodes: Api<PartialObjectMeta<Node>>,
    node: NodeName,
}

impl Stamper {
    /// Watches and stamps; ends only by being dropped, and leaves the labels alone then.
    pub async fn stamp_for_ever(mut self) -> Infallible {
        loop {
            let start = Instant::now();
            let Err(trouble) = self.stamp_until_trouble().await;
            if start.elapsed() > schedule::LONGEST_RETRY {
                self.failures = 0;
            }
            self.failures = self.failures.saturating_add(1);
            if trouble.kind != Kind::Expired {
                self.metrics.trouble(trouble.kind);
                self.watching.raise(&trouble, "the Node cannot be watched, trying again");
            }
            sleep(schedule::retry(self.failures, schedule::LONGEST_RETRY, fastrand::f64())).await;
        }
    }

    /// Watches and stamps until something goes wrong. Everything is opened anew then: credentials
    /// may have been replaced meanwhile.
    async fn stamp_until_trouble(&mut self) -> Result<Infallible, Trouble> {
        // KUBECONFIG and ~/.kube/config are a person's, not a daemon's.
        let kubeconfig = self.config.kubeconfig.clone();
        let selection = Selection { kubeconfig, ..Selection::default() };
        let access = Access::open(&selection).await;
        let access = access.map_err(|words| Trouble::new(Kind::Configuration, words))?;
        let nodes = Api::all(access.client.clone());
        let server = Server { access, nodes, node: self.own.name.clone() };
        let settled_at = Instant::now() + CALM;
        self.applied_version = None;
        let (sight, mut version) = server.look().await?;
        self.see(sight);
        loop {
            let mut events = pin!(server.watch(&version).await?);
            let start = Instant::now();
            loop {
                let again = self.stamp(&server).await?;
                tokio::select! {
                    event = events.next() => match event {
                        Some(event) => {
                            let (sight, newer) = server.judge(event)?;
                            let is_old = number(&newer)
                                .zip(self.applied_version)
                                .is_some_and(|(newer, applied)| newer < applied);
                            version = newer;
                            if let Some(sight) = sight
                                && !is_old
                            {
                                self.see(sight);
                            }
                        }
                        // A server ends every watch after some minutes; one that does so at once is
                        // not asked at once again.
                        None if start.elapsed() < CALM => {
                            let kind = if self.failures == 0 { Kind::Expired } else { Kind::Failed };
                            return Err(server.trouble(kind, "ends each watch at once"));
                        }
                        None => break,
                    },
                    Ok(()) = self.accepted.changed() => {}
                    () = until(again) => {}
                    () = sleep_until(settled_at), if self.watching.is_raised() => {
                        self.watching.settle("the Node is watched again");
                    }
                }
            }
        }
    }

    /// Notes what the API server tells of the Node.
    fn see(&self, sight: Sight) {
        self.sights.send_if_modified(|current| {
            let node = self.own.name.as_str();
            match (&*current, &sight) {
                (Sight::Missing, Sight::Seen(_)) => log::info!(node = node; "the Node is there"),
                (Sight::Unknown | Sight::Seen(_), Sight::Missing) => {
                    log::info!(node = node; "there is no such Node, waiting for it");
                }
                _ => {}
            }
            let is_news = *current != sight;
            *current = sight;
            is_news
        });
    }

    /// Brings the labels to what they should be; returns when to come again, if by the clock.
    ///
    /// # Errors
    ///
    /// When the API server does not answer.
    async fn stamp(&mut self, server: &Server) -> Result<Option<Instant>, Trouble> {
        loop {
            let plan = {
                let accepted = self.accepted.borrow_and_update();
                let sight = self.sights.borrow();
                plan(&self.own, self.config.overwrite_labels, &sight, accepted.as_ref())
            };
            self.note(&plan);
            let Action::Apply(stamp) = plan.action else {
                self.held = None;
                self.applying.settle("there is nothing to stamp any more");
                return Ok(None);
            };
            let now = Instant::now();
            match &self.held {
                Some((held, until, _)) if *held == stamp && *until > now => {
                    return Ok(Some(*until));
                }
                _ => {}
            }
            if let Err(until) = self.pace.take(now) {
                return Ok(Some(until));
            }
            match server.apply(&stamp).await {
                Ok(node) => {
                    log::info!(
                        node_id = stamp.node_id.as_str(),
                        class = stamp.node_class.as_deref().unwrap_or_default(),
                        force = stamp.force;
                        "labels stamped"
                    );
                    self.held = None;
                    self.applied_version =
                        node.metadata.resource_version.as_deref().and_then(number);
                    self.applying.settle("labels can be stamped again");
                    self.see(sight(&node));
                }
                Err(trouble) if trouble.kind == Kind::Unreachable => return Err(trouble),
                Err(trouble) => {
                    self.metrics.trouble(trouble.kind);
                    self.applying.raise(&trouble, "labels cannot be stamped, trying again");
                    let failures = self.held.take().map_or(0, |(_, _, failures)| failures) + 1;
                    let wait = schedule::retry(failures, schedule::LONGEST_RETRY, fastrand::f64());
                    self.held = Some((stamp, Instant::now() + wait, failures));
                }
            }
        }
    }

    /// Tells of a plan: in metrics, and in the log where conflicts come or go.
    fn note(&mut self, plan: &Plan) {
        let is_stamped = plan.action == Action::Nothing && plan.conflicts.is_empty();
        self.metrics.planned(is_stamped, &plan.conflicts);
        // While the Node is away, nobody has settled anything.
        if matches!(plan.action, Action::Wait(Waiting::Sight)) || self.conflicts == plan.conflicts {
            return;
        }
        for conflict in plan.conflicts.iter().filter(|it| !self.conflicts.contains(it)) {
            log::error!(
                label = conflict.label.key(),
                wanted = conflict.wanted.as_str(),
                found = conflict.found.as_str(),
                set_by = conflict.managers.join(", ");
                "the Node carries another label, which is left alone: remove it, or choose its value \
                 (an explicit id: --node-id, or --overwrite-labels)"
            );
        }
        let is_settled = |it: &&Conflict| !plan.conflicts.iter().any(|now| now.label == it.label);
        for conflict in self.conflicts.iter().filter(is_settled) {
            log::info!(label = conflict.label.key(); "the label is no longer in conflict");
        }
        self.conflicts.clone_from(&plan.conflicts);
    }
}

impl Server {
    /// Looks for the Node; also returns the version to watch from.
    async fn look(&self) -> Result<(Sight, String), Trouble> {
        let params = ListParams::default().fields(&self.selector());
        let list = self.answered(self.nodes.list(&params)).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        Ok((list.items.first().map_or(Sight::Missing, sight), version))
    }

    /// Watches the Node from a version on.
    async fn watch(
        &self,
        version: &str,
    ) -> Result<impl Stream<Item = kube::Result<Event>> + use<>, Trouble> {
        let params = WatchParams::default().fields(&self.selector());
        self.answered(self.nodes.watch(&params, version)).await
    }

    fn selector(&self) -> String {
        format!("metadata.name={}", self.node)
    }

    /// What an event says of the Node, if anything, and its version.
    fn judge(&self, event: kube::Result<Event>) -> Result<(Option<Sight>, String), Trouble> {
        let event = event.map_err(|error| self.trouble_of(&error))?;
        let version = |node: &PartialObjectMeta<Node>| {
            let version = node.metadata.resource_version.clone();
            version.ok_or_else(|| self.trouble(Kind::Failed, "tells of a Node without a version"))
        };
        match event {
            Event::Added(node) | Event::Modified(node) => Ok((Some(sight(&node)), version(&node)?)),
            Event::Deleted(node) => Ok((Some(Sight::Missing), version(&node)?)),
            Event::Bookmark(bookmark) => Ok((None, bookmark.metadata.resource_version)),
            Event::Error(status) => Err(self.trouble_of(&kube::Error::Api(status.boxed()))),
        }
    }

    /// Applies labels; returns the Node as it is then.
    async fn apply(&self, stamp: &Stamp) -> Result<PartialObjectMeta<Node>, Trouble> {
        let name = self.node.as_str();
        let applied = Applied {
            api_version: "v1",
            kind: "Node",
            metadata: AppliedMetadata {
                name,
                uid: &stamp.uid,
                labels: labels(&stamp.node_id, stamp.node_class.as_deref()),
            },
        };
        let params = PatchParams { force: stamp.force, ..PatchParams::apply(FIELD_MANAGER) };
        self.answered(self.nodes.patch(name, &params, &Patch::Apply(&applied))).await
    }

    /// What a request comes to, in time.
    async fn answered<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        match timeout(ANSWER_WITHIN, request).await {
            Ok(answer) => answer.map_err(|error| self.trouble_of(&error)),
            Err(_elapsed) => Err(self.trouble(Kind::Unreachable, "does not answer")),
        }
    }

    fn trouble(&self, kind: Kind, words: &str) -> Trouble {
        Trouble::new(kind, format!("{} {words}", api(&self.access)))
    }

    fn trouble_of(&self, error: &kube::Error) -> Trouble {
        Trouble::of(&api(&self.access), error)
    }
}

/// What is sent: the labels and no more. The UID keeps them off another Node of the same name, and
/// keeps a Node from being made where there is none: the API server answers 422 or 409 then.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: AppliedMetadata<'a>,
}

#[derive(Debug, Serialize)]
struct AppliedMetadata<'a> {
    name: &'a str,
    uid: &'a str,
    labels: BTreeMap<String, String>,
}

/// Logs trouble when it changes, and when it is over.
#[derive(Debug, Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn raise(&mut self, trouble: &Trouble, words: &str) {
        let error = trouble.to_string();
        // Numbers change from try to try.
        let kept = error.replace(|c: char| c.is_ascii_digit(), "");
        if self.0.as_ref() == Some(&kept) {
            log::debug!(error = error.as_str(); "{words}");
        } else {
            log::warn!(error = error.as_str(); "{words}");
            self.0 = Some(kept);
        }
    }

    fn settle(&mut self, words: &str) {
        if self.0.take().is_some() {
            log::info!("{words}");
        }
    }

    const fn is_raised(&self) -> bool {
        self.0.is_some()
    }
}

/// Who is asked, for messages.
fn api(access: &Access) -> String {
    format!("the Kubernetes API at {}", access.place())
}

fn sight(node: &PartialObjectMeta<Node>) -> Sight {
    Sight::Seen(OwnNode::of(&node.metadata))
}

/// A resource version as a number, where it is one, so that an older one is told from a newer one.
/// Those of Nodes are: the API server keeps them in etcd, and their order is part of the API now.
/// Source: Kubernetes documentation, "API Concepts", resource versions.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}
