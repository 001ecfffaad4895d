//! What each node on the roll comes to in the document, kept from one look to the next: only what has
//! changed since is made anew, and the totals change by what a node was and is.
//!
//! Pure, as [`super::assemble`] is, which says the same of all nodes from nothing.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use rollcall_report::{NodeId, NodeName, Shared, Subject};

use super::{
    Assembly, ClusterDocument, GpuStates, Incomplete, NodeData, NodeGpus, Source, Totals, Warning,
    unknown_speeds,
};
use crate::cluster_file::{Cluster, Overrides};
use crate::kubernetes::nodes::{AllocatableGpus, ByName};
use crate::roll::loss::LostGpu;
use crate::roll::pool::Values;
use crate::roll::{Entry, Roll, Ticket, Touched};

/// A node on the roll, as far as it is counted and listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// The accepted `nodeID`.
    pub node_id: NodeId,
    /// Its entry in the document of a target that gets it, or why it is kept out of all.
    pub entry: Result<Shared<NodeData>, Incomplete>,
    /// What is in its entry with less certainty than it shows.
    pub warnings: Vec<Warning>,
    /// How many GPUs it has of each kind.
    pub gpus: GpuStates,
    /// How many interfaces count as 0 because nobody tells their speed, where that is known.
    pub unknown_speeds: Option<usize>,
    /// How many things in its hardware have changed since its previous boot, where that is known.
    pub hardware_changes: Option<usize>,
    /// What failed in its last report, and since when.
    pub failing: Vec<(Subject, Timestamp)>,
}

/// All nodes on the roll, in the order in which they came.
#[derive(Debug)]
pub struct Ledger {
    overrides: Overrides,
    gpu_loss_hold_down: Duration,
    lines: BTreeMap<Place, Kept>,
    positions: HashMap<NodeName, u64>,
    totals: Totals,
    /// The lines that time alone changes, each with the times between which it stays.
    timed: BTreeMap<Place, Window>,
    /// Between these times all of them stay.
    window: Window,
    /// The Nodes that the lines go by. Held weakly, so that whoever changes one of them need not copy
    /// them all; whatever it changes is elsewhere in memory afterwards.
    nodes: Option<Weak<ByName>>,
    /// Each list of GPUs once: most nodes of a cluster are like many others.
    gpus: Values<NodeGpus>,
    generation: u64,
}

/// A node's place in the document.
type Place = (u64, NodeName);

/// A line, and what it was made of.
#[derive(Debug)]
struct Kept {
    ticket: Ticket,
    allocatable: Option<AllocatableGpus>,
    line: Arc<Line>,
}

/// From a time on, and before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: Timestamp,
    until: Option<Timestamp>,
}

impl Window {
    const ALWAYS: Self = Self { from: Timestamp::MIN, until: None };

    /// Between which times these GPUs count as they do now; `None`: always.
    fn of(lost: &[LostGpu], now: Timestamp, hold_down: Duration) -> Option<Self> {
        let times = lost.iter().filter_map(|lost| lost.confirmed_at(hold_down));
        let window = times.fold(Self::ALWAYS, |window, at| {
            window.and(if at <= now {
                Self { from: at, until: None }
            } else {
                Self { until: Some(at), ..Self::ALWAYS }
            })
        });
        (window != Self::ALWAYS).then_some(window)
    }

    fn and(self, other: Self) -> Self {
        let until = self.until.into_iter().chain(other.until).min();
        Self { from: self.from.max(other.from), until }
    }

    fn holds(self, now: Timestamp) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

impl Ledger {
    /// An empty ledger, by what the cluster file says of speeds and of lost GPUs.
    pub fn new(overrides: Overrides, gpu_loss_hold_down: Duration) -> Self {
        Self {
            overrides,
            gpu_loss_hold_down,
            lines: BTreeMap::new(),
            positions: HashMap::new(),
            totals: Totals::default(),
            timed: BTreeMap::new(),
            window: Window::ALWAYS,
            nodes: None,
            gpus: Values::default(),
            generation: 0,
        }
    }

    /// Brings it to where a roll, the Nodes (`None`: they are not known) and the time stand. It is always
    /// the same roll, and nobody else takes what was touched in it.
    pub fn update(&mut self, roll: &mut Roll, nodes: Option<&Arc<ByName>>, now: Timestamp) {
        let at = At { nodes: nodes.map(AsRef::as_ref), now };
        match roll.take_touched() {
            Touched::All => self.take_all(roll, at),
            Touched::Names(names) => {
                for name in names {
                    match roll.shown_as(&name) {
                        Some((ticket, entry)) => self.put(ticket, entry, at),
                        None => self.remove(&name),
                    }
                }
            }
        }
        if !self.goes_by(nodes) {
            self.nodes = nodes.map(Arc::downgrade);
            // Other Nodes may be offered, too.
            self.generation += 1;
            let others = self
                .lines
                .iter()
                .filter(|((_, name), kept)| kept.allocatable.as_ref() != at.allocatable(name));
            let names = others.map(|((_, name), _)| name.clone()).collect();
            self.put_again(names, roll, at);
        }
        if !self.window.holds(now) {
            let over = self.timed.iter().filter(|(_, window)| !window.holds(now));
            let names = over.map(|((_, name), _)| name.clone()).collect();
            self.put_again(names, roll, at);
            self.window = self.timed.values().fold(Window::ALWAYS, |all, one| all.and(*one));
        }
    }

    /// Whether it went by these very Nodes before.
    fn goes_by(&self, nodes: Option<&Arc<ByName>>) -> bool {
        match (&self.nodes, nodes) {
            (None, None) => true,
            (Some(before), Some(now)) => std::ptr::eq(before.as_ptr(), Arc::as_ptr(now)),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn take_all(&mut self, roll: &Roll, at: At<'_>) {
        let gone = self.positions.keys().filter(|name| roll.shown_as(name).is_none());
        for name in gone.cloned().collect::<Vec<_>>() {
            self.remove(&name);
        }
        for (ticket, entry) in roll.shown() {
            if self.kept(&entry.name).is_none_or(|kept| kept.ticket != ticket) {
                self.put(ticket, entry, at);
            }
        }
    }

    fn put_again(&mut self, names: Vec<NodeName>, roll: &Roll, at: At<'_>) {
        for name in names {
            if let Some((ticket, entry)) = roll.shown_as(&name) {
                self.put(ticket, entry, at);
            }
        }
    }

    /// Puts a node in, or makes its line anew.
    fn put(&mut self, ticket: Ticket, entry: &Entry, at: At<'_>) {
        let place = (entry.position, entry.name.clone());
        if self.positions.get(&entry.name).is_some_and(|position| *position != entry.position) {
            self.remove(&entry.name);
        }
        match Window::of(&entry.lost_gpus, at.now, self.gpu_loss_hold_down) {
            Some(window) => {
                self.window = self.window.and(window);
                self.timed.insert(place.clone(), window);
            }
            None => {
                self.timed.remove(&place);
            }
        }
        let allocatable = at.allocatable(&entry.name).cloned();
        let mut line = self.line(entry, allocatable.clone(), at.now);
        let before = self.lines.get(&place).map(|kept| Arc::clone(&kept.line));
        let is_news = before
            .as_ref()
            .is_none_or(|before| before.entry != line.entry || before.warnings != line.warnings);
        if is_news {
            self.generation += 1;
            if let Some(Ok(node)) = before.as_ref().map(|before| &before.entry) {
                self.totals.remove(node);
            }
            if let Ok(node) = &line.entry {
                self.totals.add(node);
            }
        } else if let Some(before) = &before {
            // Whoever compares sees at once that it is the same.
            line.entry.clone_from(&before.entry);
        }
        let line = before.filter(|before| **before == line).unwrap_or_else(|| Arc::new(line));
        self.positions.insert(entry.name.clone(), entry.position);
        self.lines.insert(place, Kept { ticket, allocatable, line });
    }

    fn remove(&mut self, name: &NodeName) {
        let Some(position) = self.positions.remove(name) else { return };
        let place = (position, name.clone());
        self.timed.remove(&place);
        if let Some(kept) = self.lines.remove(&place) {
            self.generation += 1;
            if let Ok(node) = &kept.line.entry {
                self.totals.remove(node);
            }
        }
    }

    fn line(
        &mut self,
        entry: &Entry,
        allocatable: Option<AllocatableGpus>,
        now: Timestamp,
    ) -> Line {
        let source = Source { allocatable, ..Source::of(entry, now, self.gpu_loss_hold_down) };
        let mut warnings = Vec::new();
        let built = NodeData::build(&source, &self.overrides, &mut warnings);
        let gpus = GpuStates::of(&source, built.as_ref().ok());
        let unknown = unknown_speeds(&source, &self.overrides).map(|names| names.len());
        Line {
            name: entry.name.clone(),
            node_id: entry.node_id.clone(),
            entry: built.map(|mut node| {
                self.gpus.share(&mut node.gpus);
                node.into()
            }),
            warnings,
            gpus,
            unknown_speeds: unknown,
            hardware_changes: entry.hardware_changes().map(|changes| changes.len()),
            failing: entry.failing.iter().map(|(subject, it)| (*subject, it.since)).collect(),
        }
    }

    fn kept(&self, name: &NodeName) -> Option<&Kept> {
        let position = self.positions.get(name)?;
        self.lines.get(&(*position, name.clone()))
    }

    /// Counts the changes of the document, of what has to be said about it, and of the Nodes.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The nodes in the order in which they came.
    pub fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.lines.values().map(|kept| &kept.line)
    }

    /// A node.
    pub fn line_of(&self, name: &NodeName) -> Option<&Arc<Line>> {
        self.kept(name).map(|kept| &kept.line)
    }

    /// What all nodes come to whose capacities are known.
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// When the document changes next by time alone.
    pub fn next_change(&self) -> Option<Timestamp> {
        self.timed.values().filter_map(|window| window.until).min()
    }

    /// The document with every node.
    pub fn assemble(&self, cluster: &Cluster) -> Assembly {
        self.assemble_with(cluster, Some(self.totals.clone()), |_| true)
    }

    /// The document with the nodes of these names.
    pub fn assemble_of(
        &self,
        cluster: &Cluster,
        is_offered: impl Fn(&NodeName) -> bool,
    ) -> Assembly {
        self.assemble_with(cluster, None, is_offered)
    }

    fn assemble_with(
        &self,
        cluster: &Cluster,
        totals: Option<Totals>,
        is_offered: impl Fn(&NodeName) -> bool,
    ) -> Assembly {
        let mut node_data = Vec::with_capacity(self.lines.len());
        let (mut incomplete, mut warnings) = (Vec::new(), Vec::new());
        for line in self.lines().filter(|line| is_offered(&line.name)) {
            warnings.extend_from_slice(&line.warnings);
            match &line.entry {
                Ok(node) => node_data.push(node.clone()),
                Err(reason) => incomplete.push(reason.clone()),
            }
        }
        let totals = totals.unwrap_or_else(|| Totals::of(node_data.iter().map(Deref::deref)));
        let document = ClusterDocument::with(cluster, totals, node_data);
        Assembly { document, incomplete, warnings }
    }
}

/// What lines are made of beside the roll.
#[derive(Debug, Clone, Copy)]
struct At<'a> {
    nodes: Option<&'a ByName>,
    now: Timestamp,
}

impl<'a> At<'a> {
    fn allocatable(self, name: &NodeName) -> Option<&'a AllocatableGpus> {
        Some(&self.nodes?.get(name)?.gpus)
    }
}
