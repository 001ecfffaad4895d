//! The cluster's Nodes, as Kubernetes tells them.
//!
//! An empty or failed list is a failure, and not an empty cluster: the Nodes that were known stay.

pub mod facts;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rollcall_report::NodeName;
use thiserror::Error;
use tokio::sync::watch as signal;

pub use facts::{AllocatableGpus, ControlPlane, MigStrategy, Node, Stranger};

/// The Nodes by name.
pub type ByName = BTreeMap<NodeName, Arc<Node>>;

/// The Nodes of the cluster as they are now; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Nodes(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The labels that are kept of each Node.
    labels: BTreeSet<String>,
    generation: signal::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// As of the last whole list, and what was told since.
    nodes: Option<Arc<ByName>>,
    failing: Option<Failing>,
}

/// Why the Nodes are not told just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Timestamp,
    /// What was tried and what came back.
    pub words: String,
}

/// Kubernetes listed no Nodes at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("GET /api/v1/nodes: it answered with no Nodes at all, and no cluster is without")]
pub struct EmptyList;

impl Nodes {
    /// The Nodes of a cluster that [`watch::watch`] is to tell. Of each Node's labels those named in
    /// `labels` are kept, and `nodeID`.
    pub fn watched(labels: BTreeSet<String>) -> Self {
        let (state, generation) = (Mutex::default(), signal::Sender::new(0));
        Self(Some(Arc::new(Shared { state, labels, generation })))
    }

    /// Whether Kubernetes tells the Nodes, now or later.
    pub const fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    /// The Nodes by name; `None`: they are not known, for this is no Kubernetes, or it has not told
    /// all of them yet.
    pub fn all(&self) -> Option<Arc<ByName>> {
        self.0.as_ref()?.state().nodes.clone()
    }

    /// A Node.
    pub fn get(&self, name: &NodeName) -> Option<Arc<Node>> {
        self.0.as_ref()?.state().nodes.as_ref()?.get(name).cloned()
    }

    /// Why the Nodes are not told just now, if so: what is known of them is as of before.
    pub fn failing(&self) -> Option<Failing> {
        self.0.as_ref()?.state().failing.clone()
    }

    /// Watches for changes in what is known of the Nodes; `None`: this is no Kubernetes.
    pub fn changes(&self) -> Option<signal::Receiver<u64>> {
        Some(self.0.as_ref()?.generation.subscribe())
    }

    /// Waits until all Nodes are known; for ever where this is no Kubernetes.
    pub async fn listed(&self) -> Arc<ByName> {
        if let Some(mut changes) = self.changes() {
            loop {
                changes.mark_unchanged();
                if let Some(nodes) = self.all() {
                    return nodes;
                }
                if changes.changed().await.is_err() {
                    break;
                }
            }
        }
        std::future::pending().await
    }

    /// Takes a whole list.
    ///
    /// # Errors
    ///
    /// When it is empty; then the Nodes that were known stay.
    pub fn take_list(&self, nodes: Vec<Node>) -> Result<(), EmptyList> {
        if nodes.is_empty() {
            return Err(EmptyList);
        }
        self.change(|state| {
            let by_name = nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node)));
            let new: ByName = by_name.collect();
            let before = state.nodes.take().unwrap_or_default();
            let has_changed = before.is_empty() || *before != new;
            state.nodes = Some(if has_changed { Arc::new(new) } else { before });
            has_changed
        });
        Ok(())
    }

    /// Takes a Node that is new or has changed.
    pub fn take(&self, node: Node) {
        self.change(|state| {
            let Some(nodes) = &mut state.nodes else { return false };
            if nodes.get(&node.name).is_some_and(|known| **known == node) {
                return false;
            }
            Arc::make_mut(nodes).insert(node.name.clone(), Arc::new(node));
            true
        });
    }

    /// A Node is there no more.
    pub fn remove(&self, name: &NodeName, uid: &str) {
        self.change(|state| {
            let Some(nodes) = &mut state.nodes else { return false };
            if nodes.get(name).is_none_or(|known| known.uid != uid) {
                return false;
            }
            Arc::make_mut(nodes).remove(name).is_some()
        });
    }

    /// The Nodes are not told. Says whether that is news.
    pub fn fail(&self, words: String, now: Timestamp) -> bool {
        let mut is_news = false;
        self.change(|state| {
            is_news = state.failing.is_none();
            let since = state.failing.as_ref().map_or(now, |failing| failing.since);
            state.failing = Some(Failing { since, words });
            // Whoever waits for the Nodes shows why.
            is_news
        });
        is_news
    }

    /// The Nodes are told again. Says since when they were not.
    pub fn recover(&self) -> Option<Timestamp> {
        let mut since = None;
        self.change(|state| {
            since = state.failing.take().map(|failing| failing.since);
            since.is_some()
        });
        since
    }

    /// The labels that are kept of each Node.
    fn labels(&self) -> BTreeSet<String> {
        self.0.as_ref().map_or_else(BTreeSet::new, |shared| shared.labels.clone())
    }

    /// Changes what is known, and tells whoever watches if the change says that it is one.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let Some(shared) = &self.0 else { return };
        let has_changed = change(&mut shared.state());
        if has_changed {
            shared.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
