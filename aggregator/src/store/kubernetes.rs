//! The store in the cluster itself: custom resources in its API server and etcd. Several aggregators
//! share it; each is told what the others write.
//!
//! No two objects change in one transaction, so the order of writes is what keeps them true: what
//! took leave is written before its object goes, the journal before the state that it tells of.
//! Everything is written on the condition that nobody else has written meanwhile; who was
//! too late is told so and looks again.

mod feed;
mod ledger;
mod objects;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error, Resource};
use rollcall_daemon::kubernetes::words;
use rollcall_report::NodeName;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

pub use feed::Feed;
pub use objects::Sizing;

use super::{Contents, HistoryOf, Job, JournalLine, Learned, OpenError, Write, WriteError};
use crate::digest::Digest;
use crate::kubernetes::leader::Leadership;
use crate::onboarding::state::{TargetState, Will};
use crate::roll::Entry;
use crate::roll::departure::Departure;
use ledger::{Classes, Departed, Journal};
use objects::{NodeInventory, Onboarding, OnboardingSpec, OnboardingStatus};

/// How many objects are written at the same time. What is written to one object keeps its order.
const LANES: usize = 16;
/// How many writes may wait in a lane.
const LANE_QUEUE: usize = 128;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the time of a node's last report is refreshed.
const REFRESH: SignedDuration = SignedDuration::from_mins(5);
/// How old that time may be, besides the agents' own interval: what is due waits for its turn, and for
/// those before it.
pub(super) const LAG: SignedDuration = SignedDuration::from_secs(5 * 60 + 30);
/// Objects of a list's page.
const PAGE: u32 = 500;

/// Where the store is, and who uses it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The namespace of all objects but the nodes'.
    pub namespace: String,
    /// Names this aggregator among the others.
    pub replica: String,
    /// Makes the numbers of the nodes' objects.
    pub sizing: Sizing,
    /// Whether this aggregator may write where targets stand.
    pub leadership: Leadership,
    /// The targets of the cluster file: their objects are made anew where somebody deletes them.
    pub targets: HashSet<String>,
}

/// The open store: what it takes to write to it.
///
/// What an object holds is learned in one way, in the order of its generations: from the answer to our
/// own write, or from the feed, whichever comes first.
pub(super) struct Cluster {
    inventories: Api<NodeInventory>,
    onboardings: Api<Onboarding>,
    place: Place,
    /// Held while something is told, so that all hear it in one order.
    nodes: Mutex<HashMap<NodeName, KnownNode>>,
    targets: Mutex<HashMap<String, KnownTarget>>,
    /// Objects that are gone: the answer to a write may come after that.
    deleted: Mutex<Deleted>,
    installation: Uuid,
    departed: Departed,
    classes: Classes,
    journal: Journal,
    /// Whoever wants to know what the store holds; nobody before the feed runs.
    tell: OnceLock<Tell>,
}

/// Is told what the store holds.
pub(super) type Tell = Box<dyn Fn(Learned) + Send + Sync>;

/// A node's object, as far as it must be known to be written again.
#[derive(Debug, Clone)]
struct KnownNode {
    uid: String,
    /// Counts the changes of its spec.
    generation: i64,
    version: String,
    /// The revision of the entry in it.
    revision: u64,
    /// The last report that the object tells of.
    seen: Timestamp,
    /// When its status was last seen to tell that; `None`: it does not yet.
    refreshed: Option<Timestamp>,
}

/// A target's object likewise.
#[derive(Debug, Clone)]
struct KnownTarget {
    uid: String,
    version: String,
    /// What is wanted of it, as text.
    will: Option<String>,
    /// What its status says, as a digest.
    status: Option<Digest>,
    /// Whether somebody has deleted it.
    is_gone: bool,
}

/// The parts of a target's object, each somebody else's to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    State,
    Will,
}

/// UIDs of objects that were deleted lately.
#[derive(Debug, Default)]
struct Deleted(VecDeque<String>);

impl Deleted {
    /// More than are deleted while a write is under way.
    const MOST: usize = 10_000;

    fn note(&mut self, uid: &str) {
        if !self.has(uid) {
            self.0.push_back(uid.to_owned());
            let surplus = self.0.len().saturating_sub(Self::MOST);
            self.0.drain(..surplus);
        }
    }

    fn has(&self, uid: &str) -> bool {
        self.0.iter().rev().any(|deleted| deleted == uid)
    }
}

impl KnownNode {
    fn of(object: &NodeInventory, entry: &Entry) -> Self {
        let (uid, generation, version) = identity(object);
        let (revision, seen) = (entry.revision, entry.last_seen);
        let refreshed = objects::last_seen(object);
        Self { uid, generation, version, revision, seen, refreshed }
    }
}

impl KnownTarget {
    fn of(object: &Onboarding) -> Self {
        let (uid, _, version) = identity(object);
        let (will, status) = (object.spec.will.clone(), digest(object.status.as_ref()));
        Self { uid, version, will, status, is_gone: false }
    }
}

/// UID, generation and version of an object.
fn identity<K: Resource>(object: &K) -> (String, i64, String) {
    let metadata = object.meta();
    (
        metadata.uid.clone().unwrap_or_default(),
        metadata.generation.unwrap_or_default(),
        metadata.resource_version.clone().unwrap_or_default(),
    )
}

fn digest(status: Option<&OnboardingStatus>) -> Option<Digest> {
    status.map(|status| Digest::of(&[status.leader.as_bytes(), status.state.as_bytes()]))
}

/// Opens the store: what it holds, and what tells of the others' writes from then on.
pub(super) async fn open(
    client: Client,
    place: Place,
) -> Result<(Arc<Cluster>, Contents, Feed), OpenError> {
    let namespace = place.namespace.as_str();
    let inventories = Api::all_with(client.clone(), &objects::inventories());
    let onboardings = Api::namespaced_with(client.clone(), namespace, &objects::onboardings());
    let ledgers = Api::namespaced_with(client, namespace, &objects::ledgers());
    let refused = |reason| OpenError::Kubernetes { reason };

    let installation = ledger::installation(&ledgers, namespace).await.map_err(refused)?;
    let departed = Departed::open(ledgers.clone(), namespace).await.map_err(refused)?;
    let classes = Classes::new(ledgers.clone(), namespace);
    let known_classes = classes.read_or_none().await;
    let journal = Journal::new(ledgers, namespace);

    let now = Timestamp::now();
    let mut nodes = HashMap::new();
    let mut entries = Vec::new();
    let departures = departed.all().await;
    each(&inventories, |object: NodeInventory| {
        // One that somebody wrote by hand must not keep all others from being served.
        match objects::entry(&object) {
            Ok(entry) => {
                nodes.insert(entry.name.clone(), KnownNode::of(&object, &entry));
                entries.push(entry);
            }
            Err(error) => unreadable("nodeinventory", &object, &error),
        }
    })
    .await
    .map_err(refused)?;

    let mut known = HashMap::new();
    let mut targets = Vec::new();
    each(&onboardings, |object: Onboarding| {
        let name = object.metadata.name.clone().unwrap_or_default();
        known.insert(name.clone(), KnownTarget::of(&object));
        // Whoever leads reads it anew, and does nothing for a target that is not understood.
        if let Ok((state, will)) = standing(&object) {
            targets.push((name, state.unwrap_or_else(|| TargetState::new(now)), will));
        }
    })
    .await
    .map_err(refused)?;

    let cluster = Arc::new(Cluster {
        inventories,
        onboardings,
        place,
        nodes: Mutex::new(nodes),
        targets: Mutex::new(known),
        deleted: Mutex::default(),
        installation,
        departed,
        classes,
        journal,
        tell: OnceLock::new(),
    });
    let feed = Feed::new(Arc::clone(&cluster));
    Ok((
        cluster,
        Contents { installation, entries, departures, targets, classes: known_classes },
        feed,
    ))
}

/// Where an object says that its target stands, and what is wanted of it.
fn standing(object: &Onboarding) -> serde_json::Result<(Option<TargetState>, Will)> {
    let state = object.status.as_ref().map(|status| serde_json::from_str(&status.state));
    let will = object.spec.will.as_ref().map(|will| serde_json::from_str(will));
    Ok((state.transpose()?, will.transpose()?.unwrap_or_default()))
}

fn unreadable<K: Resource>(kind: &str, object: &K, error: &serde_json::Error) {
    let name = object.meta().name.as_deref().unwrap_or_default();
    log::error!(kind, name, error:% = error;
        "an object of the store cannot be understood and is passed over; if nobody needs it, delete it");
}

/// Looks at all objects of a kind, a page at a time.
async fn each<K>(api: &Api<K>, mut look: impl FnMut(K)) -> Result<(), String>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = request("GET", api, "", api.list(&params)).await.map_err(|error| error.words)?;
        page.items.into_iter().for_each(&mut look);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(()),
        }
    }
}

/// Why a request came to nothing.
struct Failed {
    /// The status code that was answered, if one was.
    code: Option<u16>,
    /// All of it.
    words: String,
}

/// Makes a request, within its time.
async fn request<K: Resource, T>(
    method: &str,
    api: &Api<K>,
    name: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failed> {
    let path = || {
        let below = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{method} {}{below}", api.resource_url())
    };
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            let code = match &error {
                Error::Api(status) => Some(status.code),
                _ => None,
            };
            Err(Failed { code, words: format!("{}: {}", path(), words::of(&error)) })
        }
        Err(_elapsed) => {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Err(Failed { code: None, words: format!("{}: no answer within {seconds} s", path()) })
        }
    }
}

impl From<Failed> for WriteError {
    fn from(failed: Failed) -> Self {
        Self::Refused { reason: failed.words }
    }
}

fn encode(error: &serde_json::Error) -> WriteError {
    WriteError::Refused { reason: format!("a record could not be encoded: {error}") }
}

/// Takes the jobs apart by object, so that each object's are done in their order and many objects'
/// at once. Ends when nobody can send jobs any more and all are done.
pub(super) async fn work(cluster: Arc<Cluster>, mut jobs: mpsc::Receiver<Job>) {
    let mut lanes = Vec::new();
    let mut workers = JoinSet::new();
    for _ in 0..LANES {
        let (lane, mut waiting) = mpsc::channel::<Job>(LANE_QUEUE);
        let cluster = Arc::clone(&cluster);
        workers.spawn(async move {
            while let Some(job) = waiting.recv().await {
                match job {
                    // Whoever would have led by it does no more.
                    Job::Write { write: Write::Target { .. }, done } if done.is_closed() => {}
                    Job::Write { write, done } => {
                        done.send(cluster.write(write).await);
                    }
                    Job::History { of, done } => {
                        let _gone = done.send(cluster.history(&of).await);
                    }
                }
            }
        });
        lanes.push(lane);
    }
    while let Some(job) = jobs.recv().await {
        let lane = lanes.get(lane_of(&job)).or_else(|| lanes.first());
        if let Some(lane) = lane {
            // A worker ends only when its lane is closed.
            let _sent = lane.send(job).await;
        }
    }
    drop(lanes);
    while workers.join_next().await.is_some() {}
}

fn lane_of(job: &Job) -> usize {
    let mut hasher = DefaultHasher::new();
    match job {
        Job::Write { write, .. } => match write {
            Write::Node { entry, .. } => entry.name.hash(&mut hasher),
            Write::Forget(name, _) => name.hash(&mut hasher),
            Write::Seen(_) => "seen".hash(&mut hasher),
            Write::Departed(_) => "departed".hash(&mut hasher),
            Write::Class { .. } => "classes".hash(&mut hasher),
            Write::Target { name, .. } | Write::Will { name, .. } | Write::Event { name, .. } => {
                name.hash(&mut hasher);
            }
        },
        Job::History { .. } => "history".hash(&mut hasher),
    }
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default()
}

impl Cluster {
    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeName, KnownNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<String, KnownTarget>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, write: Write) -> Result<(), WriteError> {
        match write {
            Write::Node { entry, report, departure } => {
                self.write_node(&entry, report, departure).await
            }
            Write::Seen(seen) => self.refresh(seen).await,
            Write::Forget(name, departure) => {
                self.depart(vec![departure]).await?;
                self.remove(&name).await
            }
            Write::Departed(departures) => self.depart(departures).await,
            Write::Class { class, known } => {
                self.must_lead()?;
                let all = self.classes.add(&class, known).await?;
                self.tell(Learned::Classes(all));
                Ok(())
            }
            Write::Target { name, state, event } => {
                self.must_lead()?;
                self.journal.append(&name, event).await?;
                self.write_state(&name, &state).await
            }
            Write::Will { name, before, will, event, .. } => {
                self.journal.append(&name, event).await?;
                self.write_will(&name, &before, &will).await
            }
            Write::Event { name, event } => self.journal.append(&name, event).await,
        }
    }

    fn must_lead(&self) -> Result<(), WriteError> {
        if self.place.leadership.is_held() {
            return Ok(());
        }
        Err(WriteError::leads_no_more())
    }

    /// Tells whoever wants to know.
    fn tell(&self, learned: Learned) {
        if let Some(tell) = self.tell.get() {
            tell(learned);
        }
    }

    fn deleted(&self) -> MutexGuard<'_, Deleted> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a node's object holds; `is_list`: as of a list, which counts whatever was known.
    fn apply(&self, object: &NodeInventory, is_list: bool) {
        let name = object.metadata.name.as_ref().and_then(|name| name.parse::<NodeName>().ok());
        let (uid, generation, version) = identity(object);
        // Before the feed runs it will be listed.
        let Some(name) = name.filter(|_| self.tell.get().is_some()) else { return };
        if self.deleted().has(&uid) {
            return;
        }
        let mut nodes = self.nodes();
        let revision = nodes.get(&name).filter(|known| known.uid == uid).map(|it| it.revision);
        let known = nodes.get_mut(&name).filter(|known| known.uid == uid);
        let is_news = known.as_ref().is_none_or(|known| {
            known.generation < generation || is_list && known.generation != generation
        });
        if is_news {
            match objects::entry(object) {
                Ok(mut entry) => {
                    if revision.is_some_and(|known| entry.revision <= known) {
                        log::warn!(node = name.as_str();
                            "somebody has edited the nodeinventory; the node's next report puts it right");
                        entry.digest = Digest::of(&[b"edited by hand"]);
                    }
                    nodes.insert(name, KnownNode::of(object, &entry));
                    self.tell(Learned::Node(Box::new(entry)));
                }
                Err(error) => unreadable("nodeinventory", object, &error),
            }
            return;
        }
        let Some(known) = known.filter(|known| known.generation == generation) else { return };
        // Our own writes come back, the older after the newer; versions are numbers that grow.
        let number = |version: &str| version.parse::<u64>().ok();
        if number(&version) >= number(&known.version) {
            known.version = version;
        }
        let Some(seen) = objects::last_seen(object) else { return };
        if known.refreshed.is_none() || known.seen < seen {
            known.seen = known.seen.max(seen);
            known.refreshed = Some(Timestamp::now());
            self.tell(Learned::Seen(name, seen));
        }
    }

    /// A node's object is gone.
    fn apply_gone(&self, name: &NodeName, uid: &str) {
        self.deleted().note(uid);
        let mut nodes = self.nodes();
        if nodes.get(name).is_some_and(|known| known.uid == uid) {
            nodes.remove(name);
            self.tell(Learned::Gone(name.clone()));
        }
    }

    /// Writes down who has left.
    async fn depart(&self, departures: Vec<Departure>) -> Result<(), WriteError> {
        self.departed.add(&departures).await?;
        self.tell(Learned::Departures(departures));
        Ok(())
    }

    async fn write_node(
        &self,
        entry: &Entry,
        report: Option<Vec<u8>>,
        departure: Option<Departure>,
    ) -> Result<(), WriteError> {
        let name = entry.name.as_str();
        let known = self.nodes().get(&entry.name).cloned();
        // Somebody else's change may have been learned since this one was made.
        if entry.revision != known.as_ref().map_or(0, |known| known.revision) + 1 {
            return Err(overtaken("node", name));
        }
        let report = match report {
            Some(bytes) => String::from_utf8(bytes).ok(),
            None if known.is_some() => {
                let stored = self.inventories.get_opt(name);
                let stored = request("GET", &self.inventories, name, stored).await?;
                stored.and_then(|object| object.spec.report)
            }
            None => None,
        };
        let object = objects::inventory(entry, report, &self.place.sizing)
            .map_err(|error| encode(&error))?;
        let written = match known {
            None => self.create_node(name, &object).await?,
            Some(known) => self.replace_node(name, object, &known).await?,
        };
        self.apply(&written, false);
        // Only now: an id has gone over to another when that one is stored. Should this be lost, it is
        // one that no Node has, and leaves an entry after the hold-down.
        if let Some(departure) = departure
            && let Err(error) = self.depart(vec![departure]).await
        {
            log::warn!(node = name, error:% = error; "that the node had another id could not be written down");
        }
        // It is on the roll, whatever the ledger still says of its id.
        if let Err(error) = self.departed.take_back(&entry.node_id).await {
            log::debug!(node = name, error:% = error; "the ledger tells still that its id has left");
        }
        Ok(())
    }

    async fn create_node(
        &self,
        name: &str,
        object: &NodeInventory,
    ) -> Result<NodeInventory, WriteError> {
        let params = PostParams::default();
        let create = self.inventories.create(&params, object);
        match request("POST", &self.inventories, "", create).await {
            Err(Failed { code: Some(409), .. }) => {}
            outcome => return Ok(outcome?),
        }
        let there = request("GET", &self.inventories, name, self.inventories.get_opt(name)).await?;
        Err(in_the_way(name, there.as_ref()))
    }

    /// Replaces an object whose spec nobody else has changed.
    async fn replace_node(
        &self,
        name: &str,
        mut object: NodeInventory,
        known: &KnownNode,
    ) -> Result<NodeInventory, WriteError> {
        object.metadata.uid = Some(known.uid.clone());
        object.metadata.resource_version = Some(known.version.clone());
        let params = PostParams::default();
        let replace = self.inventories.replace(name, &params, &object);
        match request("PUT", &self.inventories, name, replace).await {
            Err(Failed { code: Some(409), .. }) => {}
            Err(Failed { code: Some(404), .. }) => return Err(overtaken("node", name)),
            outcome => return Ok(outcome?),
        }
        // The time of the last report may have been refreshed: that changes the version alone.
        let now = request("GET", &self.inventories, name, self.inventories.get_opt(name)).await?;
        let is_same = |(uid, generation, _): &(String, i64, String)| {
            *uid == known.uid && *generation == known.generation
        };
        let Some((_, _, version)) = now.as_ref().map(identity).filter(is_same) else {
            return Err(in_the_way(name, now.as_ref()));
        };
        object.metadata.resource_version = Some(version);
        let replace = self.inventories.replace(name, &params, &object);
        match request("PUT", &self.inventories, name, replace).await {
            Err(Failed { code: Some(404 | 409), .. }) => Err(overtaken("node", name)),
            outcome => Ok(outcome?),
        }
    }

    /// Writes when nodes last reported, for those of which that was not told for a while.
    async fn refresh(&self, seen: Vec<(NodeName, Timestamp)>) -> Result<(), WriteError> {
        let now = Timestamp::now();
        let due = |(name, at): &(NodeName, Timestamp)| {
            self.nodes().get(name).is_some_and(|node| {
                node.refreshed.is_none_or(|refreshed| {
                    node.seen < *at && now.duration_since(refreshed) >= REFRESH
                })
            })
        };
        let mut refused = None;
        for (name, at) in seen.into_iter().filter(due) {
            let patch = Patch::Merge(json!({ "status": { "lastSeen": at } }));
            let params = PatchParams::default();
            let patch = self.inventories.patch_status(name.as_str(), &params, &patch);
            match request("PATCH", &self.inventories, &format!("{name}/status"), patch).await {
                Ok(object) => self.apply(&object, false),
                // It is gone, which the feed tells.
                Err(Failed { code: Some(404), .. }) => {}
                // The others may be taken.
                Err(failed @ Failed { code: Some(_), .. }) => refused = Some(failed),
                Err(failed) => return Err(failed.into()),
            }
        }
        refused.map_or(Ok(()), |failed| Err(failed.into()))
    }

    async fn remove(&self, name: &NodeName) -> Result<(), WriteError> {
        let Some(known) = self.nodes().get(name).cloned() else { return Ok(()) };
        let preconditions =
            Preconditions { uid: Some(known.uid.clone()), ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        let delete = self.inventories.delete(name.as_str(), &params);
        match request("DELETE", &self.inventories, name.as_str(), delete).await {
            Ok(_) | Err(Failed { code: Some(404), .. }) => {}
            Err(Failed { code: Some(409), .. }) => return Err(overtaken("node", name.as_str())),
            Err(failed) => return Err(failed.into()),
        }
        self.apply_gone(name, &known.uid);
        Ok(())
    }

    /// The target's object; made if there is none. One that somebody has deleted is made anew with what
    /// was wanted of its target.
    async fn target(&self, name: &str) -> Result<KnownTarget, WriteError> {
        let known = self.targets().get(name).cloned();
        let will = match known {
            Some(known) if !known.is_gone => return Ok(known),
            known => known.and_then(|known| known.will),
        };
        let spec = OnboardingSpec { will };
        let object =
            Onboarding::new(name, &objects::onboardings(), spec).within(&self.place.namespace);
        let params = PostParams::default();
        let create = self.onboardings.create(&params, &object);
        match request("POST", &self.onboardings, "", create).await {
            Err(Failed { code: Some(409), .. }) => Err(overtaken("target", name)),
            outcome => {
                let known = KnownTarget::of(&outcome?);
                self.targets().insert(name.to_owned(), known.clone());
                Ok(known)
            }
        }
    }

    fn target_is_gone(&self, name: &str, uid: &str) {
        if let Some(known) = self.targets().get_mut(name).filter(|known| known.uid == uid) {
            known.is_gone = true;
        }
    }

    /// Writes where a target stands, if nobody else has since we last knew it. What is wanted of it may
    /// change meanwhile, which is somebody else's business.
    async fn write_state(&self, name: &str, state: &TargetState) -> Result<(), WriteError> {
        let known = self.target(name).await?;
        let status =
            OnboardingStatus::of(state, &self.place.replica).map_err(|error| encode(&error))?;
        let mut object = self.onboarding_object(name, OnboardingSpec::default());
        object.status = Some(status);
        let is_same = |now: &KnownTarget| now.status == known.status;
        let written = self.put_target(name, Part::State, object, &known, is_same).await?;
        self.targets().entry(name.to_owned()).and_modify(|target| {
            target.status = written.status;
            target.version = written.version;
        });
        Ok(())
    }

    /// Writes what is wanted of a target, if that is still what it was when this was asked. Where the
    /// target stands may change meanwhile, which is the leader's business.
    async fn write_will(&self, name: &str, before: &Will, will: &Will) -> Result<(), WriteError> {
        let text = |will: &Will| serde_json::to_string(will).map_err(|error| encode(&error));
        let (before, will) = (text(before)?, text(will)?);
        let nothing = text(&Will::default())?;
        let is_before = |known: &KnownTarget| *known.will.as_ref().unwrap_or(&nothing) == before;
        let known = self.target(name).await?;
        if !is_before(&known) {
            return Err(overtaken("target", name));
        }
        let object = self.onboarding_object(name, OnboardingSpec { will: Some(will) });
        let written = self.put_target(name, Part::Will, object, &known, is_before).await?;
        self.targets().entry(name.to_owned()).and_modify(|target| {
            target.will = written.will;
            target.version = written.version;
        });
        Ok(())
    }

    fn onboarding_object(&self, name: &str, spec: OnboardingSpec) -> Onboarding {
        Onboarding::new(name, &objects::onboardings(), spec).within(&self.place.namespace)
    }

    /// Writes one part of a target's object; tried again as long as it `is_same` in that part.
    async fn put_target(
        &self,
        name: &str,
        part: Part,
        mut object: Onboarding,
        known: &KnownTarget,
        is_same: impl Fn(&KnownTarget) -> bool,
    ) -> Result<KnownTarget, WriteError> {
        object.metadata.uid = Some(known.uid.clone());
        let mut version = known.version.clone();
        let params = PostParams::default();
        let api = &self.onboardings;
        for _ in 0..TRIES {
            object.metadata.resource_version = Some(version);
            let outcome = match part {
                Part::State => {
                    // It may have taken long to come here.
                    self.must_lead()?;
                    let replace = api.replace_status(name, &params, &object);
                    request("PUT", api, &format!("{name}/status"), replace).await
                }
                Part::Will => request("PUT", api, name, api.replace(name, &params, &object)).await,
            };
            match outcome {
                Ok(object) => return Ok(KnownTarget::of(&object)),
                Err(Failed { code: Some(409), .. }) => {}
                Err(Failed { code: Some(404), .. }) => {
                    self.target_is_gone(name, &known.uid);
                    break;
                }
                Err(failed) => return Err(failed.into()),
            }
            let now = request("GET", api, name, api.get_opt(name)).await?;
            let now = now.as_ref().map(KnownTarget::of);
            match now.filter(|now| now.uid == known.uid && is_same(now)) {
                Some(now) => version = now.version,
                None => break,
            }
        }
        Err(overtaken("target", name))
    }

    async fn history(&self, of: &HistoryOf) -> Result<Vec<JournalLine>, WriteError> {
        self.journal.read(of).await
    }

    /// Reads anew where the targets stand and who has left.
    async fn standings(&self) -> Result<Standings, WriteError> {
        let departures = self.departed.read().await?;
        let classes = Learned::Classes(self.classes.read_or_none().await);
        let mut standings = Standings {
            learned: vec![Learned::Departures(departures), classes],
            unreadable: Vec::new(),
        };
        let mut objects = Vec::new();
        each(&self.onboardings, |object: Onboarding| objects.push(object))
            .await
            .map_err(|reason| WriteError::Refused { reason })?;
        let mut targets = self.targets();
        for known in targets.values_mut() {
            known.is_gone = true;
        }
        let number = |version: &str| version.parse::<u64>().ok();
        for object in objects {
            let name = object.metadata.name.clone().unwrap_or_default();
            let fresh = KnownTarget::of(&object);
            match targets.get_mut(&name).filter(|known| known.uid == fresh.uid) {
                // The feed has told what is newer.
                Some(known) if number(&known.version) > number(&fresh.version) => {
                    known.is_gone = false;
                    continue;
                }
                _ => targets.insert(name.clone(), fresh),
            };
            match standing(&object) {
                Ok((state, will)) => {
                    let (state, will) = (state.map(Box::new), Box::new(will));
                    standings.learned.push(Learned::Target { name, state, will });
                }
                Err(error) => {
                    unreadable("onboarding", &object, &error);
                    standings.unreadable.push(name);
                }
            }
        }
        Ok(standings)
    }
}

/// Where the targets stand, as it was read to begin to lead.
#[derive(Debug)]
pub struct Standings {
    /// What is understood.
    pub learned: Vec<Learned>,
    /// Targets of which it is not understood: nothing may be done for them.
    pub unreadable: Vec<String>,
}

/// How often a write is tried that others come in between of.
const TRIES: usize = 5;

/// Why a node's object is not written that is another one than was known.
fn in_the_way(name: &str, there: Option<&NodeInventory>) -> WriteError {
    match there.map(objects::entry) {
        Some(Err(error)) => {
            let reason = format!(
                "the nodeinventory {name} is there and cannot be understood ({error}): was it written by hand? delete it"
            );
            WriteError::Refused { reason }
        }
        _ => overtaken("node", name),
    }
}

fn overtaken(what: &str, name: &str) -> WriteError {
    WriteError::Overtaken { what: format!("another aggregator has just written {what} {name}") }
}
