//! The running aggregator: what intake, onboarding and the admin listener share.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use log::Level;
use rollcall_report::{NodeId, NodeName};
use tokio::sync::watch;
use uuid::Uuid;

use crate::admin::brief::RollBrief;
use crate::admin::pieces::Documents;
use crate::class::{NodeClass, NodeClassId};
use crate::cluster_file::{AiosTarget, ClusterFile, NodePolicy, TargetName};
use crate::document::ledger::Ledger;
use crate::document::{Assembly, Source};
use crate::kubernetes::events::Events;
use crate::kubernetes::leader::Leadership;
use crate::kubernetes::nodes::{ByName, Node, Nodes};
use crate::metrics::Metrics;
use crate::onboarding::expected::{Census, is_offered, left_out, without_node};
use crate::onboarding::gate::{Gate, gate};
use crate::onboarding::state::{Phase, Sending, TargetState, Will};
use crate::onboarding::withdrawn::Withdrawn;
use crate::roll::departure::Departure;
use crate::roll::{Change, Entry, Leave, Roll};
use crate::store::{Contents, Event, Learned, Pending, Store, Write, WriteError};
use crate::targets::{Departed, Held};

/// A node is stale when this many intervals have passed without a report.
const STALE_INTERVALS: i32 = 3;
/// How many nodes that fall silent at once are named one by one.
const MOST_TOLD: usize = 20;

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
    /// The cluster's Nodes, where Kubernetes tells them.
    pub nodes: Nodes,
    /// Where Kubernetes is told what is wrong with a node.
    pub events: Events,
    /// Whether this aggregator submits, of several that share a store.
    pub leadership: Leadership,
    /// The documents that operators have asked for.
    pub documents: Documents,
    /// Nodes that the shared store holds no more, though nothing says yet that they have left.
    orphans: Mutex<BTreeMap<NodeName, NodeId>>,
    roll: Mutex<Roll>,
    /// What the roll comes to in the document. Locked before the roll.
    ledger: Mutex<Ledger>,
    targets: Mutex<BTreeMap<TargetName, Standing>>,
    /// The node classes, in the order in which they came.
    classes: Mutex<Vec<NodeClass>>,
    /// What targets are to lose though it is on the roll, or never was.
    withdrawn: Mutex<BTreeMap<TargetName, WithdrawnNodes>>,
    wanting: tokio::sync::Mutex<()>,
    /// Why the store did not take what it was given last.
    store_trouble: Mutex<Option<String>>,
    generation: watch::Sender<u64>,
    /// Counts the changes of where targets stand.
    standings: watch::Sender<u64>,
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
    /// What the network was last seen to hold; `None`: nobody has looked from here.
    pub look: Option<Arc<LastLook>>,
    /// What is being sent just now, where that takes several requests; never stored.
    pub sending: Option<Sending>,
}

/// What a network was last seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastLook {
    /// When.
    pub at: Timestamp,
    /// What it held, and how that differs from what it should.
    pub held: Held,
}

/// The nodes that a target is to lose.
#[derive(Debug, Clone, Default)]
struct WithdrawnNodes {
    /// Those that its policy leaves out.
    left_out: Withdrawn,
    /// Those that its entry holds, and that no Node of the cluster is.
    unknown: Withdrawn,
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
        for (one, other) in file.overlapping_targets() {
            log::warn!(one = one.as_str(), other = other.as_str();
                "two targets may be offered the same nodes, and each network takes them for its own: give them selectors that differ in a label's value");
        }
        let mut stored: BTreeMap<_, _> = contents
            .targets
            .into_iter()
            .map(|(name, state, will)| (name, (state.after_restart(now), will)))
            .collect();
        let targets = file.aios_targets().map(|target| {
            let (state, will) = stored
                .remove(target.name.as_str())
                .unwrap_or_else(|| (TargetState::new(now), Will::default()));
            metrics.begin_target(target);
            let standing = Standing { state, will, kept: Vec::new(), look: None, sending: None };
            (target.name.clone(), standing)
        });
        metrics.cluster(file.cluster.id.as_str());
        let ledger = Ledger::new(file.overrides.clone(), file.gpu_loss_hold_down);
        Self {
            targets: Mutex::new(targets.collect()),
            ledger: Mutex::new(ledger),
            file,
            installation: contents.installation,
            interval,
            store: store.measured(metrics.store()),
            metrics,
            nodes: Nodes::default(),
            events: Events::default(),
            leadership: Leadership::of_one(),
            documents: Documents::default(),
            orphans: Mutex::default(),
            classes: Mutex::new(contents.classes),
            withdrawn: Mutex::default(),
            roll: Mutex::new(Roll::restore(contents.entries, contents.departures, now)),
            wanting: tokio::sync::Mutex::default(),
            store_trouble: Mutex::default(),
            generation: watch::Sender::new(0),
            standings: watch::Sender::new(0),
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
            let is_news = aggregator.note_store(&outcome);
            match &outcome {
                Ok(()) => {
                    let (node_id, former_id) =
                        (change.entry.node_id.clone(), change.former_id.clone());
                    if aggregator.store.is_shared() {
                        aggregator.roll().acknowledge(&change);
                    } else {
                        aggregator.roll().confirm(change);
                    }
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
                    // Each agent tries again, and again.
                    let level = if is_news { Level::Error } else { Level::Debug };
                    log::log!(level, node = name.as_str(), error:% = error;
                        "a node could not be stored; it stays as it was");
                }
            }
            outcome
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Notes whether the store takes what it is given; says whether a failure is news.
    fn note_store(&self, outcome: &Result<(), WriteError>) -> bool {
        let mut trouble = self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                *trouble = None;
                false
            }
            // The store is well: another aggregator was quicker.
            Err(WriteError::Overtaken { .. }) => false,
            Err(error) => trouble.replace(error.to_string()).is_none(),
        }
    }

    /// Why the store did not take what it was given last.
    pub fn store_trouble(&self) -> Option<String> {
        self.store_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        why: &'static str,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            pending.done().await?;
            let (name, node_id) = (leave.name.clone(), leave.departure.node_id.clone());
            if !aggregator.store.is_shared() {
                aggregator.roll().forget(leave);
            }
            aggregator.changed();
            log::info!(node = name.as_str(), node_id = node_id.as_str();
                "the node has left the roll: {why}");
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
        why: &'static str,
    ) -> Result<(), WriteError> {
        let aggregator = Arc::clone(self);
        let told = tokio::spawn(async move {
            pending.done().await?;
            log::info!(node_id = departure.node_id.as_str();
                "a node that is not on the roll has departed: {why}");
            if !aggregator.store.is_shared() {
                aggregator.roll().departed(departure);
            }
            aggregator.changed();
            Ok(())
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    /// Takes over what another aggregator has written into the shared store.
    pub fn learn(&self, learned: Learned) {
        let now = Timestamp::now();
        match learned {
            Learned::Node(entry) => {
                let former = self.orphans().remove(&entry.name);
                let former = former.filter(|former| *former != entry.node_id);
                let mut roll = self.roll();
                roll.learn(*entry, now);
                // Its object was deleted, and it has come back under another id.
                if let Some(node_id) = former {
                    roll.told_departed(Departure { node_id, at: now, renamed: true });
                }
            }
            // Nothing is made of it but the time.
            Learned::Seen(name, at) => return self.roll().seen(&name, at),
            Learned::Gone(name) => {
                let mut roll = self.roll();
                let Some(node_id) = roll.gone(&name, now) else { return };
                if !roll.departures().contains(&node_id) {
                    self.orphans().insert(name, node_id);
                }
            }
            Learned::Departures(departures) => {
                let mut roll = self.roll();
                for departure in departures {
                    roll.told_departed(departure);
                }
                self.orphans().retain(|_, id| !roll.departures().contains(id));
            }
            Learned::Classes(classes) => self.learn_classes(classes),
            Learned::Target { name, state, will } => {
                let Some(target) =
                    self.file.aios_targets().find(|target| target.name.as_str() == name)
                else {
                    return;
                };
                let is_news = self.standing(target).will != *will;
                self.with_standing(target, |standing| standing.will = *will);
                // Whoever leads knows better.
                if let Some(state) = state.filter(|_| !self.leadership.is_held()) {
                    self.show(target, *state);
                }
                if !is_news {
                    return;
                }
            }
        }
        self.changed();
    }

    /// Takes over where the targets stand as it was read anew, to begin to lead.
    pub fn take_up(&self, standings: Vec<Learned>) {
        let now = Timestamp::now();
        // What was noticed as a leader before, or for somebody who asked, may be long past.
        self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for learned in standings {
            let Learned::Target { name, state, will } = learned else {
                self.learn(learned);
                continue;
            };
            let named = |target: &&AiosTarget| target.name.as_str() == name;
            let Some(target) = self.file.aios_targets().find(named) else { continue };
            let state = state.map_or_else(|| TargetState::new(now), |state| *state);
            let state = state.after_restart(now);
            self.with_standing(target, |standing| {
                standing.state = state;
                standing.will = *will;
            });
        }
    }

    /// The node classes, in the order in which they came.
    pub fn classes(&self) -> Vec<NodeClass> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over classes that the store holds; none is ever taken away.
    pub fn learn_classes(&self, stored: Vec<NodeClass>) {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        for class in stored {
            if !classes.iter().any(|known| known.id == class.id) {
                classes.push(class);
            }
        }
    }

    /// The class that a node is to carry as its label; `None`: none is to be stamped.
    pub fn class_of(&self, name: &NodeName) -> Option<NodeClassId> {
        self.file.region()?;
        self.roll().get(name)?.node_class
    }

    fn orphans(&self) -> MutexGuard<'_, BTreeMap<NodeName, NodeId>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node is on the roll again, or has left.
    pub fn forget_orphan(&self, name: &NodeName) {
        self.orphans().remove(name);
    }

    /// The nodes that have not left, on the roll or lately taken off it, and their ids.
    pub fn held_names(&self) -> BTreeMap<NodeName, NodeId> {
        let mut names = self.orphans().clone();
        let roll = self.roll();
        names.extend(
            roll.entries().into_iter().map(|entry| (entry.name.clone(), entry.node_id.clone())),
        );
        names
    }

    /// Wakes whoever watches the roll and what operators want.
    pub fn changed(&self) {
        self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Watches the roll, and what operators want, for changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Watches where the targets stand for changes.
    pub fn watch_standings(&self) -> watch::Receiver<u64> {
        self.standings.subscribe()
    }

    /// What the roll comes to in the document, by the Nodes as they were at one moment (`None`: they are
    /// not known) and with the losses of GPUs judged at `now`. Never held across an await, nor asked for
    /// with the roll held.
    pub fn ledger(&self, nodes: Option<&Arc<ByName>>, now: Timestamp) -> MutexGuard<'_, Ledger> {
        self.ledger_and_roll(nodes, now).0
    }

    /// The same, and the roll that it stands by.
    pub fn ledger_and_roll(
        &self,
        nodes: Option<&Arc<ByName>>,
        now: Timestamp,
    ) -> (MutexGuard<'_, Ledger>, MutexGuard<'_, Roll>) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut roll = self.roll();
        let (begun, before) = (Instant::now(), ledger.generation());
        ledger.update(&mut roll, nodes, now);
        if ledger.generation() != before {
            self.metrics.assembled(begun.elapsed());
        }
        (ledger, roll)
    }

    /// The document as the roll stands now, with every node on it.
    pub fn assemble(&self) -> Assembly {
        let nodes = self.nodes.all();
        self.ledger(nodes.as_ref(), Timestamp::now()).assemble(&self.file.cluster)
    }

    /// The document as the roll stands, with the nodes that a policy offers, and the losses of GPUs
    /// judged at `now`. Where the Nodes are not known, the policy leaves nothing out.
    pub fn assemble_for(&self, policy: &NodePolicy, now: Timestamp) -> Assembly {
        self.assemble_among(self.nodes.all().as_ref(), policy, now)
    }

    /// The same by the Nodes as they were at one moment; `None`: they are not known.
    pub fn assemble_among(
        &self,
        nodes: Option<&Arc<ByName>>,
        policy: &NodePolicy,
        now: Timestamp,
    ) -> Assembly {
        let is_offered = |name: &NodeName| is_offered(name, nodes.map(AsRef::as_ref), policy);
        self.ledger(nodes, now).assemble_of(&self.file.cluster, is_offered)
    }

    /// What a node's entry in the document is made of, by the Nodes as they were at one moment.
    pub fn source<'a>(
        &self,
        entry: &'a Entry,
        nodes: Option<&ByName>,
        now: Timestamp,
    ) -> Source<'a> {
        let node = nodes.and_then(|nodes| nodes.get(&entry.name));
        let allocatable = node.map(|node| node.gpus.clone());
        Source { allocatable, ..Source::of(entry, now, self.file.gpu_loss_hold_down) }
    }

    /// When the document changes without a report: the next loss of a GPU is confirmed. Goes by the same
    /// Nodes as the document, so that nothing is made anew.
    pub fn next_confirmed_loss(
        &self,
        nodes: Option<&Arc<ByName>>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.ledger(nodes, now).next_change()
    }

    /// The nodes that may be taken out of a target's entry, and those that soon may: those that have
    /// left the roll, those that the target's policy leaves out, and those that only the entry knows.
    pub fn departed(&self, target: &AiosTarget, now: Timestamp) -> Departed {
        let hold_down = self.file.departures.hold_down;
        let mut departed = {
            let roll = self.roll();
            let departures = roll.departures();
            Departed {
                nodes: departures.confirmed(hold_down, now),
                renamed: departures.renamed(),
                leaving: departures.leaving(hold_down, now),
            }
        };
        // While the Nodes are not told, nothing that is known of them confirms a thing.
        let as_of = self.nodes.failing().map_or(now, |failing| failing.since.min(now));
        let WithdrawnNodes { left_out, unknown } = self.withdrawn(target, now);
        for withdrawn in [left_out, unknown] {
            let (over, waiting) = withdrawn.at(hold_down, as_of);
            departed.nodes.extend(over);
            departed.leaving.extend(waiting);
        }
        departed
    }

    /// When the next one of them may.
    pub fn next_departure(&self, target: &AiosTarget, now: Timestamp) -> Option<Timestamp> {
        let hold_down = self.file.departures.hold_down;
        let next = self.roll().departures().next_confirmed(hold_down, now);
        let WithdrawnNodes { left_out, unknown } = self.withdrawn(target, now);
        let withdrawn = [left_out, unknown].into_iter().filter_map(|it| it.next(hold_down, now));
        next.into_iter().chain(withdrawn).min()
    }

    /// The nodes that a target is to lose though they have not left the roll, noted now.
    fn withdrawn(&self, target: &AiosTarget, now: Timestamp) -> WithdrawnNodes {
        let Some(nodes) = self.nodes.all() else { return WithdrawnNodes::default() };
        let Standing { state, kept, .. } = self.standing(target);
        // Taking an entry over takes nothing from it.
        let is_ours = state.past.entry_at.is_some() && state.phase != Phase::Foreign;
        let kept: Vec<NodeId> =
            kept.iter().filter(|_| is_ours).filter_map(|id| id.parse().ok()).collect();
        let roll = self.roll();
        let is_left_out = |entry: &&Entry| {
            nodes.get(&entry.name).is_some_and(|node| left_out(node, &target.nodes).is_some())
        };
        let out = roll.entries().into_iter().filter(is_left_out);
        let out: BTreeSet<NodeId> = out.map(|entry| entry.node_id.clone()).collect();
        let mut all = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = all.entry(target.name.clone()).or_default();
        // One that was noted is no longer among those that are kept.
        let mut unknown = without_node(kept.iter().chain(noted.unknown.ids()), &nodes);
        // Of these it is known which Node they are of.
        let orphans = self.orphans();
        unknown.retain(|id| !orphans.values().any(|orphan| orphan == id));
        drop(orphans);
        unknown.retain(|id| is_ours && !roll.has_id(id));
        noted.left_out.note(out, now);
        noted.unknown.note(unknown, now);
        noted.clone()
    }

    /// Which of these Nodes are to be in a document that a policy made, which of them are not, and which
    /// are left out; `None`: the Nodes are not known.
    pub fn census(
        &self,
        nodes: Option<&ByName>,
        policy: &NodePolicy,
        assembly: &Assembly,
    ) -> Option<Census> {
        let nodes = nodes?;
        let ids = assembly.document.nodes.node_data.iter().map(|node| &node.id);
        let whole: HashSet<&NodeId> = ids.collect();
        let roll = self.roll();
        let entries = roll.entries().into_iter();
        let roll: Vec<_> =
            entries.map(|entry| (&entry.name, whole.contains(&entry.node_id))).collect();
        Some(Census::among(nodes, policy, &roll))
    }

    /// How many nodes are expected to report, where that is known: as the cluster file says, or as many of
    /// these Nodes as the targets are to get.
    pub fn expected_nodes(&self, nodes: Option<&ByName>) -> Option<usize> {
        if let Some(said) = self.file.expect.and_then(|expect| expect.nodes) {
            return Some(said);
        }
        let policies = self.file.policies();
        let is_expected =
            |node: &&Arc<Node>| policies.iter().any(|(_, policy)| left_out(node, policy).is_none());
        Some(nodes?.values().filter(is_expected).count())
    }

    /// Whether a registration may go ahead with the document that a policy made of these Nodes.
    pub fn gate(
        &self,
        nodes: Option<&ByName>,
        policy: &NodePolicy,
        assembly: &Assembly,
        now: Timestamp,
    ) -> Gate {
        let census = self.census(nodes, policy, assembly);
        let counts = (assembly.document.nodes.node_data.len(), assembly.incomplete.len());
        self.gate_for(census.as_ref(), counts, now)
    }

    /// The same by a census, and by how many nodes are complete and how many are not.
    pub fn gate_for(
        &self,
        census: Option<&Census>,
        counts: (usize, usize),
        now: Timestamp,
    ) -> Gate {
        if census.is_none() && self.nodes.is_watched() {
            let said = self.nodes.failing().map(|failing| format!(": {}", failing.words));
            let why = format!("Kubernetes has not told its Nodes yet{}", said.unwrap_or_default());
            return Gate::Unsettled { why };
        }
        let (expect, first_seen) = (self.file.expect.as_ref(), self.roll().first_seen());
        gate(expect, census, counts, first_seen, now)
    }

    /// Wakes whoever watches the roll when the Nodes change. Ends only with the aggregator.
    pub async fn follow_nodes(self: Arc<Self>) {
        if let Some(mut changes) = self.nodes.changes() {
            while changes.changed().await.is_ok() {
                self.changed();
            }
        }
        std::future::pending::<()>().await;
    }

    /// Counts the nodes, and what is expected of them, for `/metrics`.
    pub fn measure(&self, now: Timestamp) {
        let nodes = self.nodes.all();
        let view = RollBrief::among(nodes.as_ref(), self, now);
        let nodes = nodes.as_deref();
        self.metrics.nodes(view.counts());
        self.metrics.each_node(view.figures());
        self.metrics.refused_nodes(view.conflicts.len());
        self.metrics.expected_nodes(self.expected_nodes(nodes));
        let roll = view.wholeness();
        for target in &self.file.targets {
            if let (Some(nodes), Some(policy)) = (nodes, target.nodes()) {
                self.metrics.census(target.name(), &Census::among(nodes, policy, &roll));
            }
        }
        if self.nodes.is_watched() {
            let known = nodes.map(ByName::len);
            self.metrics.kubernetes_nodes(known, self.nodes.failing().map(|it| it.since));
        }
    }

    /// Tells which nodes have fallen silent, and which report again, since it was called with `silent`
    /// before. Where many do so at once, it is one line.
    pub fn tell_silence(&self, silent: &mut BTreeSet<NodeName>, now: Timestamp) {
        let roll = self.roll();
        let entries = roll.entries();
        let (mut fell_silent, mut speak_again) = (Vec::new(), Vec::new());
        for entry in &entries {
            match (self.is_stale(entry, now), silent.contains(&entry.name)) {
                (true, false) => fell_silent.push(*entry),
                (false, true) => speak_again.push(*entry),
                _ => {}
            }
        }
        for (nodes, level, words) in [
            (&fell_silent, Level::Warn, "silent: no report, what they last said stands"),
            (&speak_again, Level::Info, "no longer silent"),
        ] {
            if nodes.len() > MOST_TOLD {
                log::log!(level, nodes = nodes.len(); "nodes are {words}");
                continue;
            }
            for entry in nodes {
                log::log!(level, node = entry.name.as_str(), node_id = entry.node_id.as_str(),
                    last_report:% = entry.last_seen; "a node is {words}");
            }
        }
        // Those that have left the roll are told of elsewhere.
        *silent = entries
            .iter()
            .filter(|entry| self.is_stale(entry, now))
            .map(|entry| entry.name.clone())
            .collect();
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

    /// Why reports that have to do with a node were refused lately.
    pub fn conflicts_about(&self, node: &NodeName, now: Timestamp) -> Vec<String> {
        let since = now.checked_sub(self.patience()).unwrap_or(Timestamp::MIN);
        let mut roll = self.roll();
        let conflicts = roll.conflicts_since(since).into_iter();
        conflicts.filter(|it| it.involves(node)).map(ToString::to_string).collect()
    }

    /// The nodes whose reports were refused lately.
    pub fn refused(&self, now: Timestamp) -> HashSet<NodeName> {
        let since = now.checked_sub(self.patience()).unwrap_or(Timestamp::MIN);
        self.roll().conflicts_since(since).into_iter().map(|it| it.name().clone()).collect()
    }

    /// How long silence means nothing.
    fn patience(&self) -> SignedDuration {
        let interval = SignedDuration::try_from(self.interval).unwrap_or(SignedDuration::MAX);
        (interval * STALE_INTERVALS).saturating_add(self.store.lag())
    }

    /// Where a target stands, and what its operator wants.
    pub fn standing(&self, target: &AiosTarget) -> Standing {
        let standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        standings.get(&target.name).cloned().unwrap_or_else(|| Standing {
            state: TargetState::new(self.started),
            will: Will::default(),
            kept: Vec::new(),
            look: None,
            sending: None,
        })
    }

    /// Notes how far the requests to a target have come.
    pub fn show_sending(&self, target: &AiosTarget, sending: Option<Sending>) {
        // Of no interest to other replicas, which hear of each change of state.
        let mut standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = standings.get_mut(&target.name) {
            standing.sending = sending;
        }
    }

    /// Notes where a target stands, for whoever asks.
    pub fn show(&self, target: &AiosTarget, state: TargetState) {
        self.metrics.target(&target.name, &state);
        self.with_standing(target, |standing| {
            standing.state = state;
            standing.sending = None;
        });
    }

    /// Notes which nodes a target's entry holds that are not in our document.
    pub fn show_kept(&self, target: &AiosTarget, kept: &[String]) {
        self.metrics.kept_nodes(&target.name, kept.len());
        self.with_standing(target, |standing| kept.clone_into(&mut standing.kept));
    }

    /// Notes what the network was just seen to hold; `None`: another aggregator looks from now on.
    pub fn show_look(&self, target: &AiosTarget, held: Option<&Held>) {
        let look = held.map(|held| LastLook { at: Timestamp::now(), held: held.clone() });
        self.with_standing(target, |standing| standing.look = look.map(Arc::new));
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
        target: &AiosTarget,
        event: Event,
        change: impl FnOnce(&mut Will) + Send + 'static,
    ) -> Result<Timestamp, WriteError> {
        let aggregator = Arc::clone(self);
        let target = target.clone();
        let told = tokio::spawn(async move {
            // One at a time, so that none undoes another's change.
            let _turn = aggregator.wanting.lock().await;
            let Standing { state, mut will, .. } = aggregator.standing(&target);
            let before = Box::new(will.clone());
            let asked = will.go_ahead(Timestamp::now(), &state);
            change(&mut will);
            let name = target.name.to_string();
            let wanted = Box::new(will.clone());
            let state = Box::new(state);
            let write = Write::Will { name, state, before, will: wanted, event };
            aggregator.store.write(write).await?;
            aggregator.with_standing(&target, |standing| standing.will = will);
            aggregator.changed();
            Ok(asked)
        });
        told.await.unwrap_or(Err(WriteError::Closed))
    }

    fn with_standing(&self, target: &AiosTarget, change: impl FnOnce(&mut Standing)) {
        let mut standings = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = standings.get_mut(&target.name) {
            change(standing);
            self.standings.send_modify(|changes| *changes = changes.wrapping_add(1));
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
        if seen.is_empty() {
            return Ok(());
        }
        let outcome = self.store.write(Write::Seen(seen)).await;
        self.note_store(&outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::status::Status;

    #[tokio::test]
    async fn a_store_that_takes_nothing_is_news_once_and_in_the_status() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cluster.yaml");
        fs::write(&file, "cluster:\n  id: lab\n  regionId: lab\n").expect("written");
        let file = ClusterFile::read(&file).expect("a cluster file");
        let (store, contents) = Store::open(&folder.path().join("db")).expect("a store");
        let metrics = Metrics::new().expect("metrics");
        let interval = Duration::from_mins(1);
        let aggregator = Aggregator::new(file, interval, store, contents, metrics);
        let full = || Err(WriteError::Refused { reason: "disk full".to_owned() });
        let overtaken = || Err(WriteError::leads_no_more());
        let trouble = "nothing can be stored: the store cannot be used: disk full; 0 nodes";
        for (what, outcome, is_news, status) in [
            ("all is well", Ok(()), false, "0 nodes"),
            ("another was quicker", overtaken(), false, "0 nodes"),
            ("full", full(), true, trouble),
            ("still full", full(), false, trouble),
            ("another was quicker, and it is full", overtaken(), false, trouble),
            ("mended", Ok(()), false, "0 nodes"),
            ("full again", full(), true, trouble),
        ] {
            assert_eq!(aggregator.note_store(&outcome), is_news, "{what}");
            assert_eq!(Status::of(&aggregator).to_string(), status, "{what}");
        }
        aggregator.note_store(&Ok(()));
        aggregator.metrics.certificate_expires("client-ca", Timestamp::UNIX_EPOCH);
        assert_eq!(Status::of(&aggregator).to_string(), "0 nodes", "another certificate");
        aggregator.metrics.certificate_expires("intake", Timestamp::UNIX_EPOCH);
        let expired = "the intake's certificate expired at 1970-01-01T00:00:00Z; 0 nodes";
        assert_eq!(Status::of(&aggregator).to_string(), expired);
    }
}
