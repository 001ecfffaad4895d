//! The running aggregator: what intake, onboarding and the admin listener share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::NodeName;
use tokio::sync::watch;
use uuid::Uuid;

use crate::cluster_file::{ClusterFile, Target, TargetName};
use crate::document::{Assembly, Source, assemble};
use crate::metrics::Metrics;
use crate::onboarding::gate::{Gate, gate};
use crate::onboarding::state::TargetState;
use crate::roll::{Change, Entry, Roll, Ticket};
use crate::store::{Contents, Pending, Store, Write, WriteError};

/// A node is stale when this many intervals have passed without a report.
const STALE_INTERVALS: i32 = 3;

/// What intake, onboarding and the admin listener share.
#[derive(Debug)]
pub struct Aggregator {
    /// The cluster file.
    pub file: ClusterFile,
    /// Identifies this installation's entries in a network's registry.
    pub installation: Uuid,
    /// How often agents are to report.
    pub interval: Duration,
    /// Where all of it outlives the process.
    pub store: Store,
    /// What Prometheus is told.
    pub metrics: Metrics,
    roll: Mutex<Roll>,
    targets: Mutex<BTreeMap<TargetName, TargetState>>,
    generation: watch::Sender<u64>,
    started: Timestamp,
}

impl Aggregator {
    /// Takes up what the store holds.
    pub fn new(
        file: ClusterFile,
        interval: Duration,
        store: Store,
        contents: Contents,
        metrics: Metrics,
    ) -> Self {
        let now = Timestamp::now();
        let mut stored: BTreeMap<_, _> = contents.targets.into_iter().collect();
        let targets = file.targets.iter().map(|target| {
            let state = stored
                .remove(target.name.as_str())
                .map_or_else(|| TargetState::new(now), |state| state.after_restart(now));
            (target.name.clone(), state)
        });
        Self {
            targets: Mutex::new(targets.collect()),
            file,
            installation: contents.installation,
            interval,
            store,
            metrics,
            roll: Mutex::new(Roll::restore(contents.entries, now)),
            generation: watch::Sender::new(0),
            started: now,
        }
    }

    /// The roll. Never held across an await.
    pub fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the store holds a change, or does not take it, and tells the roll either way:
    /// also when the caller, whose client may be gone, is dropped meanwhile.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then the roll is as it was.
    pub async fn settle(
        self: &Arc<Self>,
        pending: Pending,
        change: Change,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            let outcome = pending.done().await;
            let name = change.entry.name.clone();
            match &outcome {
                Ok(()) => {
                    let (node_id, former_id) =
                        (change.entry.node_id.clone(), change.former_id.clone());
                    aggregator.roll().confirm(change);
                    aggregator.roll_changed();
                    match former_id {
                        None => log::info!(node = name.as_str(), node_id = node_id.as_str();
                            "a new node is on the roll"),
                        Some(former_id) if former_id != node_id => {
                            log::warn!(node = name.as_str(), node_id = node_id.as_str(),
                                former_id = former_id.as_str(); "a node has another id now");
                        }
                        Some(_) => {}
                    }
                }
                Err(error) => {
                    aggregator.roll().withdraw(&change);
                    log::error!(node = name.as_str(), error:% = error;
                        "a node could not be stored; it stays as it was");
                }
            }
            outcome
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Waits until the store has forgotten a node, and tells the roll: also when the caller is
    /// dropped meanwhile.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then the roll is as it was.
    pub async fn settle_forget(
        self: &Arc<Self>,
        pending: Pending,
        name: NodeName,
        ticket: Ticket,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            pending.done().await?;
            aggregator.roll().forget(&name, ticket);
            aggregator.roll_changed();
            log::info!(node = name.as_str(); "node forgotten on the operator's word");
            Ok(())
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Wakes whoever watches the roll.
    pub fn roll_changed(&self) {
        self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Watches the roll for changes.
    pub fn watch_roll(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The document as the roll stands now.
    pub fn assemble(&self) -> Assembly {
        self.assemble_at(Timestamp::now())
    }

    /// The document as the roll stands, with the losses of GPUs judged at `now`.
    pub fn assemble_at(&self, now: Timestamp) -> Assembly {
        let roll = self.roll();
        let nodes = roll.entries().into_iter().map(|entry| self.source(entry, now));
        assemble(&self.file.cluster, &self.file.overrides, nodes)
    }

    /// What a node's entry in the document is made of.
    pub fn source<'a>(&self, entry: &'a Entry, now: Timestamp) -> Source<'a> {
        Source::of(entry, now, self.file.gpu_loss_hold_down)
    }

    /// When the document changes without a report: the next loss of a GPU is confirmed.
    pub fn next_confirmed_loss(&self, now: Timestamp) -> Option<Timestamp> {
        let roll = self.roll();
        let lost = roll.entries().into_iter().flat_map(|entry| &entry.lost_gpus);
        let confirmed = lost.filter_map(|lost| lost.confirmed_at(self.file.gpu_loss_hold_down));
        confirmed.filter(|at| *at > now).min()
    }

    /// Whether the first registration may go ahead, by how many nodes are in the document and how
    /// many are kept out of it.
    pub fn gate(&self, complete: usize, incomplete: usize, now: Timestamp) -> Gate {
        gate(self.file.expect.as_ref(), complete, incomplete, self.roll().first_seen(), now)
    }

    /// Whether a node has been silent for too long. After a start, silence counts from the start:
    /// nobody could report while the aggregator was away.
    pub fn is_stale(&self, entry: &Entry, now: Timestamp) -> bool {
        now.duration_since(entry.last_seen.max(self.started)) > self.patience()
    }

    /// Why reports were refused lately, one line a node.
    pub fn conflicts(&self, now: Timestamp) -> Vec<String> {
        let since = now.checked_sub(self.patience()).unwrap_or(Timestamp::MIN);
        self.roll().conflicts_since(since).into_iter().map(ToString::to_string).collect()
    }

    /// How long silence means nothing.
    fn patience(&self) -> SignedDuration {
        SignedDuration::try_from(self.interval).unwrap_or(SignedDuration::MAX) * STALE_INTERVALS
    }

    /// Where a target stands.
    pub fn target_state(&self, target: &Target) -> TargetState {
        let states = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(&target.name).cloned().unwrap_or_else(|| TargetState::new(self.started))
    }

    /// Notes where a target stands, for whoever asks.
    pub fn show_target_state(&self, target: &Target, state: TargetState) {
        self.metrics.target_phase(&target.name, state.observed_phase());
        let mut states = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(target.name.clone(), state);
    }

    /// Stores when each node last reported, so that a restart knows who was silent before it.
    ///
    /// # Errors
    ///
    /// When the store does not take it.
    pub async fn store_last_seen(&self) -> Result<(), WriteError> {
        let seen: Vec<(NodeName, Timestamp)> = self
            .roll()
            .entries()
            .into_iter()
            .map(|entry| (entry.name.clone(), entry.last_seen))
            .collect();
        if seen.is_empty() { Ok(()) } else { self.store.write(Write::Seen(seen)).await }
    }
}
