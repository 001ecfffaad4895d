//! Where the roll, the targets' states and the journal outlive the process.
//!
//! Either in a database of its own: one thread owns it, and writes that come together are committed
//! together, so that a burst of reports costs few fsyncs. Or in the Kubernetes cluster itself, shared
//! with other aggregators. A write is answered when it is stored.

mod gathering;
pub mod kubernetes;
mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::{NodeName, Shared, error_chain};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::class::NodeClass;
use crate::digest::Digest;
use crate::metrics::StoreMetrics;
use crate::onboarding::state::{TargetState, Will};
use crate::roll::Entry;
use crate::roll::departure::Departure;
use gathering::{Gathered, Gathering};

/// How many writes may wait for the disk before intake slows down.
const QUEUE: usize = 1024;

/// What a store holds when it is opened.
#[derive(Debug)]
pub struct Contents {
    /// Identifies this installation's entries in a network's registry; made once.
    pub installation: Uuid,
    /// The roll.
    pub entries: Vec<Entry>,
    /// Nodes that have left and not come back.
    pub departures: Vec<Departure>,
    /// The targets by name: where each stands, and what its operator wants.
    pub targets: Vec<(String, TargetState, Will)>,
    /// The node classes, in the order in which they came.
    pub classes: Vec<NodeClass>,
}

/// Something to be written. Writes that are committed together are all stored or all refused.
#[derive(Debug)]
pub enum Write {
    /// A node, and its report as it was sent.
    Node {
        /// What the roll knows.
        entry: Shared<Entry>,
        /// The report, kept for a newer version that understands more of it; `None` leaves the
        /// stored one.
        report: Option<Vec<u8>>,
        /// The id that it had, if it has another one now.
        departure: Option<Departure>,
    },
    /// When nodes last reported.
    Seen(Vec<(NodeName, Timestamp)>),
    /// A node leaves.
    Forget(NodeName, Departure),
    /// Nodes have left, whether they are on the roll still or not.
    Departed(Vec<Departure>),
    /// A node class that is to be kept for ever.
    Class {
        /// The class.
        class: Box<NodeClass>,
        /// How many were known when it was decided on: another aggregator may have been quicker.
        known: usize,
    },
    /// A target's state, and what happened.
    Target {
        /// The target.
        name: String,
        /// Its state from now on.
        state: Box<TargetState>,
        /// What to append to the journal.
        event: Event,
    },
    /// What an operator wants of a target, and what was said.
    Will {
        /// The target.
        name: String,
        /// Where it stands, if the store does not know it yet.
        state: Box<TargetState>,
        /// What was wanted before.
        before: Box<Will>,
        /// What is wanted from now on.
        will: Box<Will>,
        /// What to append to the journal.
        event: Event,
    },
    /// Something that happened to a target and leaves its state as it is.
    Event {
        /// The target.
        name: String,
        /// What to append to the journal.
        event: Event,
    },
}

impl Write {
    /// How large the report in it is.
    fn report_bytes(&self) -> usize {
        match self {
            Self::Node { report, .. } => report.as_ref().map_or(0, Vec::len),
            _ => 0,
        }
    }
}

/// What a store that is shared holds, whoever has written it.
#[derive(Debug)]
pub enum Learned {
    /// A node as it is stored now.
    Node(Box<Entry>),
    /// When a node last reported, to whichever aggregator.
    Seen(NodeName, Timestamp),
    /// A node is in the store no more.
    Gone(NodeName),
    /// Nodes that have left.
    Departures(Vec<Departure>),
    /// All node classes.
    Classes(Vec<NodeClass>),
    /// Where a target stands, and what is wanted of it.
    Target {
        /// The target.
        name: String,
        /// Its state; `None`: nothing was done for it yet.
        state: Option<Box<TargetState>>,
        /// What is wanted of it.
        will: Box<Will>,
    },
}

/// A line of the append-only journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What: the phase that began (`submitting`, `registered`, …), `answered`, what an operator asked for
    /// (`submit`, `approve`, `offboard`, `infrastructure`), or how the infrastructure stands
    /// (`infrastructure: created`).
    pub what: String,
    /// The program's version.
    pub version: String,
    /// The document and destination that it was about, in one digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Digest>,
    /// Why, or what was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What is about to be sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sends: Vec<Sent>,
}

/// A request in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Method and URL.
    pub request: String,
    /// Digest of the body's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<Digest>,
}

impl Event {
    /// Something that happens now, by this version.
    pub fn now(what: &str) -> Self {
        Self {
            at: Timestamp::now(),
            what: what.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            about: None,
            detail: None,
            sends: Vec::new(),
        }
    }
}

/// A line of the journal as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalLine {
    /// Its number; they only grow.
    pub id: i64,
    /// The target.
    pub target: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A handle to the open store. Clones share it; the store closes when the last is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    /// How long the time of a node's last report may lag behind.
    lag: SignedDuration,
    /// Told how writes go, once there is somebody to be told.
    metrics: Option<Arc<StoreMetrics>>,
}

#[derive(Debug)]
enum Job {
    Write { write: Write, done: Answer },
    History { of: HistoryOf, done: Lines },
}

/// Where the lines of the journal are told that were asked for.
type Lines = oneshot::Sender<Result<Vec<JournalLine>, WriteError>>;

/// What is done together.
#[derive(Debug, Default)]
struct Batch {
    writes: Vec<(Write, Answer)>,
    questions: Vec<(HistoryOf, Lines)>,
    /// How many bytes of reports are in the writes.
    bytes: usize,
}

impl Batch {
    fn take(&mut self, job: Job) {
        match job {
            Job::Write { write, done } => {
                self.bytes += write.report_bytes();
                self.writes.push((write, done));
            }
            Job::History { of, done } => self.questions.push((of, done)),
        }
    }

    /// Takes what has come, and waits for more as long as that is worth it.
    fn gather(&mut self, waiting: &mut mpsc::Receiver<Job>, gathering: &Gathering) {
        let began = Instant::now();
        let mut before = 0;
        loop {
            while self.writes.len() < gathering::MOST
                && self.bytes < gathering::MOST_BYTES
                && let Ok(next) = waiting.try_recv()
            {
                self.take(next);
            }
            let count = self.writes.len();
            let (waited, grows) = (began.elapsed(), count > before);
            if !gathering.waits(Gathered { count, bytes: self.bytes, waited, grows }) {
                return;
            }
            before = count;
            thread::sleep(gathering::LOOK);
        }
    }

    /// Commits the writes, and then answers everybody.
    fn carry_out(self, database: &mut sqlite::Database) {
        let refused =
            |error: &sqlite::CommitError| WriteError::Refused { reason: error_chain(error) };
        if !self.writes.is_empty() {
            let writes = self.writes.iter().map(|(write, _)| write);
            let outcome = database.commit(writes).map_err(|error| refused(&error));
            for (_, done) in self.writes {
                done.send(outcome.clone());
            }
        }
        for (of, done) in self.questions {
            let _gone = done.send(database.history(&of).map_err(|error| refused(&error)));
        }
    }
}

/// Writes what comes to the database, until nobody has the store any more.
fn work(mut database: sqlite::Database, mut waiting: mpsc::Receiver<Job>) {
    let mut gathering = Gathering::default();
    let mut last = Instant::now();
    while let Some(first) = waiting.blocking_recv() {
        gathering.begins(last.elapsed());
        let mut batch = Batch::default();
        batch.take(first);
        batch.gather(&mut waiting, &gathering);
        gathering.ends(batch.writes.len());
        batch.carry_out(&mut database);
        last = Instant::now();
    }
}

/// Where what came of a write is told.
#[derive(Debug)]
struct Answer {
    done: oneshot::Sender<Result<(), WriteError>>,
    asked: Instant,
    metrics: Option<Arc<StoreMetrics>>,
}

impl Answer {
    /// Whether nobody waits for it any more.
    fn is_closed(&self) -> bool {
        self.done.is_closed()
    }

    fn send(self, outcome: Result<(), WriteError>) {
        if let Some(metrics) = &self.metrics {
            metrics.written(self.asked.elapsed(), &outcome);
        }
        // Nobody may be waiting any more; the write stands all the same.
        let _gone = self.done.send(outcome);
    }
}

/// Which lines of the journal to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryOf {
    /// Of one target; of all if left out.
    pub target: Option<String>,
    /// How many: the newest.
    pub limit: u32,
}

impl Store {
    /// Opens or makes the database, and reads what it holds.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, is in use by another aggregator, or is of a newer version.
    pub fn open(path: &Path) -> Result<(Self, Contents), OpenError> {
        let (database, contents) = sqlite::Database::open(path)?;
        let (jobs, waiting) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("store".into())
            .spawn(move || work(database, waiting))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok((Self { jobs, lag: SignedDuration::ZERO, metrics: None }, contents))
    }

    /// Opens the store that the aggregators of a Kubernetes cluster share, and reads what it holds.
    /// What others write is told by the feed, which has to be run.
    ///
    /// # Errors
    ///
    /// When its objects cannot be read, or hold what cannot be understood.
    pub async fn kubernetes(
        client: kube::Client,
        place: kubernetes::Place,
    ) -> Result<(Self, Contents, kubernetes::Feed), OpenError> {
        let (cluster, contents, feed) = kubernetes::open(client, place).await?;
        let (jobs, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(kubernetes::work(cluster, waiting));
        Ok((Self { jobs, lag: kubernetes::LAG, metrics: None }, contents, feed))
    }

    /// Notes from now on how writes go.
    #[must_use]
    pub fn measured(self, metrics: Arc<StoreMetrics>) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Whether other aggregators write to it, too.
    pub const fn is_shared(&self) -> bool {
        !self.lag.is_zero()
    }

    /// How long the time of a node's last report may lag behind: where the node reported to another
    /// aggregator, which does not write each.
    pub const fn lag(&self) -> SignedDuration {
        self.lag
    }

    /// Resolves when the store's thread is gone, which nothing but a bug brings about.
    pub async fn closed(&self) {
        self.jobs.closed().await;
    }

    /// Waits for room in the queue. The permit orders writes: what is put in first is written first.
    ///
    /// # Errors
    ///
    /// When the store's thread is gone.
    pub async fn reserve(&self) -> Result<Permit<'_>, WriteError> {
        let permit = self.jobs.reserve().await.map_err(|_closed| WriteError::Closed)?;
        Ok(Permit { permit, metrics: self.metrics.as_ref() })
    }

    /// Writes, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// When the database refuses; then nothing of the write is stored.
    pub async fn write(&self, write: Write) -> Result<(), WriteError> {
        self.reserve().await?.put(write).done().await
    }
}

impl Store {
    /// The newest lines of the journal, the newest last.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn history(&self, of: HistoryOf) -> Result<Vec<JournalLine>, WriteError> {
        let (done, outcome) = oneshot::channel();
        let asked = self.jobs.send(Job::History { of, done }).await;
        asked.map_err(|_closed| WriteError::Closed)?;
        outcome.await.unwrap_or(Err(WriteError::Closed))
    }
}

/// Room for one write.
#[derive(Debug)]
pub struct Permit<'a> {
    permit: mpsc::Permit<'a, Job>,
    metrics: Option<&'a Arc<StoreMetrics>>,
}

impl Permit<'_> {
    /// Puts the write into the queue; never waits.
    pub fn put(self, write: Write) -> Pending {
        let (done, outcome) = oneshot::channel();
        let done = Answer { done, asked: Instant::now(), metrics: self.metrics.cloned() };
        self.permit.send(Job::Write { write, done });
        Pending { outcome }
    }
}

/// A write that is under way.
#[derive(Debug)]
#[must_use = "a write is on disk only when this says so"]
pub struct Pending {
    outcome: oneshot::Receiver<Result<(), WriteError>>,
}

impl Pending {
    /// Waits until the write is on disk.
    ///
    /// # Errors
    ///
    /// When the database refuses; then nothing of the write is stored.
    pub async fn done(self) -> Result<(), WriteError> {
        self.outcome.await.unwrap_or(Err(WriteError::Closed))
    }
}

/// Why a write did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The database refused it, with its whole chain of causes.
    #[error("the store cannot be used: {reason}")]
    Refused {
        /// What the database said.
        reason: String,
    },
    /// The store is shared, and another aggregator was quicker.
    #[error("{what}; look again")]
    Overtaken {
        /// What the other has done.
        what: String,
    },
    /// The store's thread is gone.
    #[error("the store is closed")]
    Closed,
}

impl WriteError {
    /// Only whoever leads may do it.
    pub fn leads_no_more() -> Self {
        Self::Overtaken { what: "this aggregator leads no more".to_owned() }
    }
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The system refused.
    #[error("the store {} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster's API refused, or cannot be reached.
    #[error(
        "the store in the cluster cannot be used: {reason}; are the custom resource definitions and the aggregator's rights of packaging/kubernetes in place?"
    )]
    Kubernetes {
        /// What was asked of which path, and what came back.
        reason: String,
    },
    /// Another aggregator has it.
    #[error("the store {} is in use by another rollcall-aggregator: stop that one, or give this one another store", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("the store {} cannot be used: is it a rollcall database, whole, and on a local disk?", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It is somebody else's database.
    #[error("the store {} is a database of something else: give the aggregator a file of its own", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("the store {} has version {found}, this program knows up to {known}: run the newer rollcall-aggregator that wrote it", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// A record in it cannot be understood.
    #[error("the store {} holds a {what} that cannot be read", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}
