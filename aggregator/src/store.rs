//! Where the roll, the targets' states and the journal outlive the process.
//!
//! One thread owns the database. Writes reach it through a bounded channel, and all that wait are
//! committed together, so that a burst of reports costs few fsyncs. A write is answered when it is
//! on disk.

mod sqlite;

use std::path::{Path, PathBuf};
use std::thread;

use jiff::Timestamp;
use rollcall_report::{NodeName, error_chain};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::digest::Digest;
use crate::onboarding::state::TargetState;
use crate::roll::Entry;

/// How many writes may wait for the disk before intake slows down.
const QUEUE: usize = 1024;

/// What a store holds when it is opened.
#[derive(Debug)]
pub struct Contents {
    /// Identifies this installation's entries in a network's registry; made once.
    pub installation: Uuid,
    /// The roll.
    pub entries: Vec<Entry>,
    /// The targets' states by target name.
    pub targets: Vec<(String, TargetState)>,
}

/// Something to be written. Writes that are committed together are all stored or all refused.
#[derive(Debug)]
pub enum Write {
    /// A node, and its report as it was sent.
    Node {
        /// What the roll knows.
        entry: Box<Entry>,
        /// The report, kept for a newer version that understands more of it; `None` leaves the
        /// stored one.
        report: Option<Vec<u8>>,
    },
    /// When nodes last reported.
    Seen(Vec<(NodeName, Timestamp)>),
    /// A node leaves.
    Forget(NodeName),
    /// A target's state, and what happened.
    Target {
        /// The target.
        name: String,
        /// Its state from now on.
        state: Box<TargetState>,
        /// What to append to the journal.
        event: Event,
    },
}

/// A line of the append-only journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What: `submitting`, `registered`, …: the phase that began.
    pub what: String,
    /// The program's version.
    pub version: String,
    /// The document and destination that it was about, in one digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Digest>,
    /// Why, or what was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A handle to the open store. Clones share it; the store closes when the last is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    write: Write,
    done: oneshot::Sender<Result<(), WriteError>>,
}

impl Store {
    /// Opens or makes the database, and reads what it holds.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, is in use by another aggregator, or is of a newer version.
    pub fn open(path: &Path) -> Result<(Self, Contents), OpenError> {
        let (mut database, contents) = sqlite::Database::open(path)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE);
        let work = move || {
            while let Some(first) = waiting.blocking_recv() {
                let mut batch = vec![first];
                while let Ok(next) = waiting.try_recv() {
                    batch.push(next);
                }
                let outcome = database
                    .commit(batch.iter().map(|job| &job.write))
                    .map_err(|error| WriteError::Refused { reason: error_chain(&error) });
                for job in batch {
                    // Nobody may be waiting any more; the write stands all the same.
                    let _gone = job.done.send(outcome.clone());
                }
            }
        };
        thread::Builder::new()
            .name("store".into())
            .spawn(work)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok((Self { jobs }, contents))
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
        Ok(Permit { permit })
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

/// Room for one write.
#[derive(Debug)]
pub struct Permit<'a> {
    permit: mpsc::Permit<'a, Job>,
}

impl Permit<'_> {
    /// Puts the write into the queue; never waits.
    pub fn put(self, write: Write) -> Pending {
        let (done, outcome) = oneshot::channel();
        self.permit.send(Job { write, done });
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
    #[error("the store did not take the write: {reason}")]
    Refused {
        /// What the database said.
        reason: String,
    },
    /// The store's thread is gone.
    #[error("the store is closed")]
    Closed,
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
