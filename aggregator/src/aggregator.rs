//! The running aggregator: what intake, onboarding and the admin listener share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::{NodeId, NodeName};
use tokio::sync::watch;
use uuid::Uuid;

use crate::cluster_file::{ClusterFile, Target, TargetName};
use crate::document::{Assembly, Source, assemble};
use crate::metrics::Metrics;
use crate::onboarding::gate::{Gate, gate};
use crate::onboarding::state::{TargetState, Will};
use crate::roll::departure::Departure;
use crate::roll::{Change, Entry, Leave, Roll};
use crate::store::{Contents, Event, Pending, Store, Write, WriteError};
use crate::targets::Departed;

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
    targets: Mutex<BTreeMap<TargetName, Standing>>,
    wanting: tokio::sync::Mutex<()>,
    generation: watch::Sender<u64>,
    started: Timestamp,
}

/// Where a target stands, and what its operator wants of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub state: TargetState,
    /// What its operator wants.
    pub will: Will,
    /// Nodes that its entry holds, that are not in our document and that nothing says have departed.
    pub kept: Vec<String>,
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
        let mut stored: BTreeMap<_, _> = contents
            .targets
            .into_iter()
            .map(|(name, state, will)| (name, (state.after_restart(now), will)))
            .collect();
        let targets = file.targets.iter().map(|target| {
            let (state, will) = stored
                .remove(target.name.as_str())
                .unwrap_or_else(|| (TargetState::new(now), Will::default()));
            (target.name.clone(), Standing { state, will, kept: Vec::new() })
        });
        Self {
            targets: Mutex::new(targets.collect()),
            file,
            installation: contents.installation,
            interval,
            store,
            metrics,
            roll: Mutex::new(Roll::restore(contents.entries, contents.departures, now)),
            wanting: tokio::sync::Mutex::default(),
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
                    aggregator.changed();
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
        leave: Leave,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            pending.done().await?;
            let name = leave.name.clone();
            aggregator.roll().forget(leave);
            aggregator.changed();
            log::info!(node = name.as_str(); "node forgotten on the operator's word");
            Ok(())
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Waits until the store holds that a node has left which is not on the roll, and tells the roll:
    /// also when the caller is dropped meanwhile.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then the roll is as it was.
    pub async fn settle_departed(
        self: &Arc<Self>,
        pending: Pending,
        departure: Departure,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            pending.done().await?;
            log::info!(node_id = departure.node_id.as_str();
                "a node that is not on the roll has departed on the operator's word");
            aggregator.roll().departed(departure);
            aggregator.changed();
            Ok(())
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Wakes whoever watches the roll and what operators want.
    pub fn changed(&self) {
        self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Watches the roll, and what operators want, for changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
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

    /// The nodes that have departed for long enough to be taken out of an entry.
    pub fn departed(&self, now: Timestamp) -> Departed {
        let roll = self.roll();
        let departures = roll.departures();
        let hold_down = self.file.departures.hold_down;
        Departed {
            nodes: departures.confirmed(hold_down, now),
            renamed: departures.renamed(),
            leaving: departures.leaving(hold_down, now),
        }
    }

    /// When the next one of them has.
    pub fn next_departure(&self, now: Timestamp) -> Option<Timestamp> {
        self.roll().departures().next_confirmed(self.file.departures.hold_down, now)
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

    /// Where a target stands, and what its operator wants.
    pub fn standing(&self, target: &Target) -> Standing {
        let standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        standings.get(&target.name).cloned().unwrap_or_else(|| Standing {
            state: TargetState::new(self.started),
            will: Will::default(),
            kept: Vec::new(),
        })
    }

    /// Notes where a target stands, for whoever asks.
    pub fn show(&self, target: &Target, state: TargetState) {
        self.metrics.target(&target.name, &state);
        self.with_standing(target, |standing| standing.state = state);
    }

    /// Notes which nodes a target's entry holds that are not in our document.
    pub fn show_kept(&self, target: &Target, kept: &[String]) {
        self.metrics.kept_nodes(&target.name, kept.len());
        self.with_standing(target, |standing| kept.clone_into(&mut standing.kept));
    }

    /// Whether some target's entry holds a node of this id that is not in our document.
    pub fn is_kept(&self, id: &NodeId) -> bool {
        let standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        standings.values().any(|standing| standing.kept.iter().any(|kept| kept == id.as_str()))
    }

    /// Changes what an operator wants of a target, when the store holds it: also when the caller is
    /// dropped meanwhile. Says when it was asked.
    ///
    /// # Errors
    ///
    /// When the store does not take it; then nothing is changed.
    pub async fn want(
        self: &Arc<Self>,
        target: &Target,
        event: Event,
        change: impl FnOnce(&mut Will) + Send + 'static,
    ) -> Result<Timestamp, WriteError> {
        let aggregator = Arc::clone(self);
        let target = target.clone();
        let told = tokio::spawn(async move {
            // One at a time, so that none undoes another's change.
            let _turn = aggregator.wanting.lock().await;
            let Standing { state, mut will, .. } = aggregator.standing(&target);
            let asked = will.go_ahead(Timestamp::now(), &state);
            change(&mut will);
            let name = target.name.to_string();
            let wanted = Box::new(will.clone());
            let write = Write::Will { name, state: Box::new(state), will: wanted, event };
            aggregator.store.write(write).await?;
            aggregator.with_standing(&target, |standing| standing.will = will);
            aggregator.changed();
            Ok(asked)
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    fn with_standing(&self, target: &Target, change: impl FnOnce(&mut Standing)) {
        let mut standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = standings.get_mut(&target.name) {
            change(standing);
        }
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
