//! All that the pages are made of, as it stood at one time. However many look, it is made by one at a
//! time, and what was made for one serves the others.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::NodeName;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::admin::brief::RollBrief;
use crate::admin::views::{NotOffered, StatusView};
use crate::aggregator::Aggregator;
use crate::cluster_file::TargetKind;

/// What has not changed is made anew after this time: nodes fall silent by themselves.
const FRESH: Duration = Duration::from_secs(1);

/// The cluster as it stood at one time.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// When.
    pub(super) at: Timestamp,
    /// The roll.
    pub(super) nodes: RollBrief,
    /// Everything else.
    pub(super) status: StatusView,
    /// Why the store does not take what it is given.
    pub(super) store_trouble: Option<String>,
    /// The targets without a registry: their names and kinds.
    pub(super) others: Vec<(String, TargetKind)>,
    /// When the intake's certificate expired, if it has.
    pub(super) expired: Option<Timestamp>,
    /// Nodes that targets do not get, by name.
    pub(super) left_out: BTreeMap<NodeName, LeftOut>,
    /// Nodes whose reports are refused.
    pub(super) refused: HashSet<NodeName>,
    /// Where other replicas take reports, too: how late their news of a node's last report may be.
    pub(super) lag: Option<SignedDuration>,
}

/// Why targets do not get a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The reasons, each once.
    pub(super) why: BTreeSet<String>,
    /// Which targets.
    pub(super) targets: BTreeSet<String>,
    /// Whether no target gets it.
    pub(super) is_of_all: bool,
}

impl LeftOut {
    /// By name; `takers`: how many targets get nodes.
    fn by_name(all: &[NotOffered], takers: usize) -> BTreeMap<NodeName, Self> {
        let mut by_name: BTreeMap<NodeName, Self> = BTreeMap::new();
        for one in all {
            let left_out = by_name.entry(one.name.clone()).or_default();
            left_out.why.extend(one.why.clone());
            left_out.targets.extend(one.targets.iter().cloned());
            left_out.is_of_all = left_out.targets.len() >= takers;
        }
        by_name
    }

    /// The reasons in words.
    pub(super) fn reasons(&self) -> String {
        self.why.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// The reasons, and which targets do not get it where others do.
    pub(super) fn words(&self) -> String {
        let reasons = self.reasons();
        if self.is_of_all {
            return reasons;
        }
        let targets: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        format!("of {}: {reasons}", targets.join(", "))
    }
}

impl Snapshot {
    /// As things stand.
    pub(super) fn of(aggregator: &Aggregator, now: Timestamp) -> Self {
        let (nodes, status) = StatusView::with_nodes(aggregator, now);
        let others = aggregator.file.targets.iter().filter(|target| target.aios().is_none());
        let takers = aggregator.file.targets.iter().filter(|target| target.nodes().is_some());
        let left_out = LeftOut::by_name(&nodes.left_out, takers.count());
        Self {
            at: now,
            left_out,
            refused: aggregator.refused(now),
            lag: aggregator.store.is_shared().then(|| aggregator.store.lag()),
            nodes,
            status,
            store_trouble: aggregator.store_trouble(),
            others: others.map(|it| (it.name().to_string(), it.kind())).collect(),
            expired: aggregator.metrics.intake_expired(now),
        }
    }
}

/// Makes snapshots, and keeps the last.
#[derive(Debug)]
pub(super) struct Snapshots {
    aggregator: Arc<Aggregator>,
    last: Arc<Mutex<Option<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    /// When it was begun.
    begun: Instant,
    /// How often the roll and the targets had changed before.
    changes: (u64, u64),
    snapshot: Arc<Snapshot>,
}

impl Snapshots {
    pub(super) fn new(aggregator: Arc<Aggregator>) -> Self {
        Self { aggregator, last: Arc::default() }
    }

    /// The cluster as it stands, no older than this call unless nothing has changed since.
    pub(super) async fn now(&self) -> Arc<Snapshot> {
        let called = Instant::now();
        let mut last = Arc::clone(&self.last).lock_owned().await;
        let changes =
            (*self.aggregator.watch().borrow(), *self.aggregator.watch_standings().borrow());
        if let Some(kept) = last.as_ref() {
            let is_fresh = kept.changes == changes && kept.begun.elapsed() < FRESH;
            if is_fresh || kept.begun >= called {
                return Arc::clone(&kept.snapshot);
            }
        }
        let begun = Instant::now();
        let aggregator = Arc::clone(&self.aggregator);
        // Whoever asked may go meanwhile: what is made serves the others all the same.
        let made = tokio::task::spawn_blocking(move || {
            let snapshot = Arc::new(Snapshot::of(&aggregator, Timestamp::now()));
            *last = Some(Kept { begun, changes, snapshot: Arc::clone(&snapshot) });
            snapshot
        });
        match made.await {
            Ok(snapshot) => snapshot,
            // The runtime takes no more work of this kind while it ends.
            Err(_) => Arc::new(Snapshot::of(&self.aggregator, Timestamp::now())),
        }
    }
}
