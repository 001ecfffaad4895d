//! The roll: every node that has reported, with what is known of it.
//!
//! Pure: callers bring the clock and carry out what is to be stored. An agent that cannot read
//! something says so; the roll keeps the last value that was known and marks it.

pub mod baseline;
mod carry;
mod claims;
pub mod departure;
pub mod identity;
pub mod loss;
pub mod pool;
mod touched;

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rollcall_report::{
    Health, IdSource, Inventory, MachineHash, NodeId, NodeIdentity, NodeName, NodeReport,
    PassedOver, Shared, Subject,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::class::NodeClassId;
use crate::digest::Digest;
use baseline::{Baseline, Counts, Shape, changes};
use claims::Claims;
use departure::{Departure, Departures};
use identity::{Voucher, accepted_id};
use loss::LostGpu;
use pool::Pool;
pub use touched::Touched;

/// A node on the roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its place: nodes keep the order in which they came.
    pub position: u64,
    /// Counts its changes: one that was made from another revision than the store holds is not stored
    /// where others write, too.
    #[serde(default)]
    pub revision: u64,
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// The accepted `nodeID`.
    pub node_id: NodeId,
    /// The machine that the node is bound to; `None`: its machine has no id.
    pub machine: Option<MachineHash>,
    /// The UID of its Kubernetes Node, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
    /// Whether Kubernetes vouches for it: then the Node's UID binds it, and not the machine's id.
    #[serde(default)]
    pub proven: bool,
    /// Whether the operator lets its id replace another label on the Node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overwrites_label: bool,
    /// Its class, where the cluster's nodes have classes: the machine's, for as long as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_class: Option<NodeClassId>,
    /// The class of the machine that was there before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_class: Option<NodeClassId>,
    /// The agent's version.
    pub agent_version: Shared<str>,
    /// What is known: the last report, and for what failed in it the last known value.
    pub inventory: Inventory,
    /// What failed in the last report.
    pub failing: BTreeMap<Subject, Failing>,
    /// GPUs that were known and that the driver does not answer for; in the order of their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_gpus: Vec<LostGpu>,
    /// Since when a driver of GPUs as a whole does not answer, if it does not: what is known of its GPUs
    /// stands, and which of them are usable is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus_unanswered: Option<Timestamp>,
    /// What the machine had before this boot; `None`: it does not name its boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// What the agent said of its own looking, as of [`Self::changed`]: it makes no report news, so
    /// that a report which is unchanged otherwise does not refresh it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Shared<Health>>,
    /// What the agent passed over, as of [`Self::changed`] likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Shared<Vec<PassedOver>>,
    /// Digest of the last report.
    pub digest: Digest,
    /// When the node first reported.
    pub first_seen: Timestamp,
    /// When its report last changed.
    pub changed: Timestamp,
    /// When it last reported.
    pub last_seen: Timestamp,
    /// Whether the next report may come from another machine.
    #[serde(default)]
    pub rebinding: bool,
}

impl Entry {
    /// The machine that no other node may report from.
    fn claimed_machine(&self) -> Option<&MachineHash> {
        self.machine.as_ref().filter(|_| !self.proven)
    }

    /// Of two nodes that claim one id, the one that comes first has it. Aggregators that share a store
    /// may give one place to two nodes.
    fn precedence(&self) -> (u64, &NodeName) {
        (self.position, &self.name)
    }

    /// The hardware that has changed since the machine's previous boot ended.
    pub fn hardware_changes(&self) -> Option<Vec<baseline::Change>> {
        let baseline = self.baseline.as_ref()?;
        Some(changes(&baseline.shape, &Counts::of(&self.inventory, &self.lost_gpus)))
    }
}

/// A part of the inventory that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// What the agent said.
    pub reason: String,
    /// When it was first said.
    pub since: Timestamp,
}

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    /// The node's name is bound to another machine.
    #[error(
        "node {name} is bound to another machine than the one that reports now; if the machine was replaced, run: rollcall-aggregator rebind {name}"
    )]
    MachineDiffers {
        /// The node's name.
        name: NodeName,
    },
    /// The id belongs to another node.
    #[error(
        "node id {id} belongs to node {owner}; give node {name} another one (--node-id), or, if {owner} is gone, run: rollcall-aggregator forget {owner}"
    )]
    IdTaken {
        /// The node that reports.
        name: NodeName,
        /// The id that it proposes.
        id: NodeId,
        /// The node that has it.
        owner: NodeName,
    },
    /// The operator gave the node one id, and its Node carries another.
    #[error(
        "node {name} was given the id {id}, and its Node carries the label nodeID={label}; if {id} is right, give the agent --overwrite-labels, else take --node-id away"
    )]
    LabelDiffers {
        /// The node.
        name: NodeName,
        /// The id that it was given.
        id: NodeId,
        /// The label's value.
        label: NodeId,
    },
    /// The machine reports under another name already.
    #[error(
        "the machine of node {name} reports as node {owner} already, and would be counted twice; if it was renamed, run: rollcall-aggregator forget {owner}; if both were cloned from one image, give each its own /etc/machine-id"
    )]
    MachineTaken {
        /// The node that reports.
        name: NodeName,
        /// The node that the machine is bound to.
        owner: NodeName,
    },
}

impl Conflict {
    /// Whether it is about a node.
    pub fn involves(&self, node: &NodeName) -> bool {
        match self {
            Self::MachineDiffers { name } | Self::LabelDiffers { name, .. } => name == node,
            Self::IdTaken { name, owner, .. } | Self::MachineTaken { name, owner } => {
                name == node || owner == node
            }
        }
    }

    /// The node whose report was not taken.
    pub fn name(&self) -> &NodeName {
        match self {
            Self::MachineDiffers { name }
            | Self::LabelDiffers { name, .. }
            | Self::IdTaken { name, .. }
            | Self::MachineTaken { name, .. } => name,
        }
    }
}

/// More conflicts than these are refused like the others, and not remembered.
const MOST_CONFLICTS: usize = 1000;

/// All nodes that have reported.
///
/// What the store does not hold yet is not shown: it claims its name, id and machine, so that
/// nobody else gets them meanwhile, and is shown when the store confirms it.
#[derive(Debug, Default)]
pub struct Roll {
    slots: HashMap<NodeName, Slot>,
    names_by_id: Claims<NodeId>,
    names_by_machine: Claims<MachineHash>,
    /// Nodes that the store holds and that claim what one before them has: not shown until that one
    /// lets go of it.
    shadowed: BTreeMap<NodeName, (Ticket, Shared<Entry>)>,
    conflicts: BTreeMap<NodeName, (Conflict, Timestamp)>,
    departures: Departures,
    /// Nodes on the roll that another aggregator has written down as departed: they have when the
    /// shared store holds them no more.
    foretold: BTreeMap<NodeId, Departure>,
    pool: Pool,
    next_position: u64,
    last_ticket: Ticket,
    /// What has changed since [`Roll::take_touched`].
    touched: Touched,
}

/// The order in which changes were put into the store's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A change that is on its way to the store; to be confirmed or withdrawn.
#[derive(Debug, Clone)]
#[must_use = "it is not shown until it is confirmed"]
pub struct Change {
    /// What is to be stored.
    pub entry: Shared<Entry>,
    /// The id that the node had before; `None`: it is new on the roll.
    pub former_id: Option<NodeId>,
    /// The former id as one that has left, if the node has another one now; to be stored with the
    /// entry.
    pub departure: Option<Departure>,
    ticket: Ticket,
}

/// A node that is to leave; to be confirmed with [`Roll::forget`].
#[derive(Debug, Clone)]
#[must_use = "the node stays until it is confirmed"]
pub struct Leave {
    /// The node's name.
    pub name: NodeName,
    /// What is to be stored of it.
    pub departure: Departure,
    ticket: Ticket,
}

#[derive(Debug, Default)]
struct Slot {
    /// What the store holds.
    stored: Option<(Ticket, Shared<Entry>)>,
    /// Changes that are on their way there.
    pending: BTreeMap<Ticket, Shared<Entry>>,
    /// What was put into the queue before this was forgotten by the store.
    forgotten: Ticket,
}

impl Slot {
    fn entries(&self) -> impl Iterator<Item = &Shared<Entry>> {
        self.stored.iter().map(|(_, entry)| entry).chain(self.pending.values())
    }

    /// What the next change is made of.
    fn latest(&self) -> Option<&Shared<Entry>> {
        let pending = self.pending.last_key_value().map(|(_, entry)| entry);
        pending.or(self.stored.as_ref().map(|(_, entry)| entry))
    }

    /// Whether the node has an id by what was put into the queue after a ticket.
    fn has_since(&self, id: &NodeId, ticket: Ticket) -> bool {
        let stored = self.stored.iter().map(|(stored, entry)| (*stored, entry));
        let pending = self.pending.iter().map(|(pending, entry)| (*pending, entry));
        stored.chain(pending).any(|(put, entry)| put > ticket && entry.node_id == *id)
    }

    /// Whether the next report may come from another machine: the store must know of it, and no
    /// report have used it.
    fn is_rebinding(&self) -> bool {
        self.stored.as_ref().is_some_and(|(_, entry)| entry.rebinding)
            && self.latest().is_some_and(|entry| entry.rebinding)
    }
}

impl Roll {
    /// The roll as the store holds it. Entries that contradict an earlier one, which only a store
    /// that was edited by hand can hold, are left out and shown as conflicts.
    pub fn restore(mut entries: Vec<Entry>, departures: Vec<Departure>, now: Timestamp) -> Self {
        entries.sort_unstable_by(|one, other| one.precedence().cmp(&other.precedence()));
        let mut roll = Self::default();
        for mut entry in entries {
            roll.pool.share(&mut entry);
            let entry = Shared::from(entry);
            roll.next_position = roll.next_position.max(entry.position + 1);
            let name = entry.name.clone();
            let claims = roll.check_claims(&name, &entry.node_id, entry.claimed_machine());
            if let Err(conflict) = claims {
                roll.note_conflict(conflict, now);
                roll.shadowed.insert(name, (Ticket::default(), entry));
                continue;
            }
            roll.update(&name, |slot| slot.stored = Some((Ticket::default(), entry)));
        }
        for departure in departures.into_iter().filter_map(|departure| departure.restored(now)) {
            roll.departed(departure);
        }
        roll
    }

    /// Notes that an unchanged report came, and tells the node's id. `None`: the store does not hold
    /// this one, so it has to be admitted.
    pub fn note(
        &mut self,
        node: &NodeIdentity,
        digest: Digest,
        voucher: Option<&Voucher>,
        now: Timestamp,
    ) -> Option<NodeId> {
        let slot = self.slots.get_mut(&node.name).filter(|slot| slot.pending.is_empty())?;
        let (_, entry) = slot.stored.as_mut().filter(|(_, entry)| entry.digest == digest)?;
        // The Node may be another one since, or carry another label.
        let is_bound = entry.node_uid.as_ref() == voucher.map(|voucher| &voucher.node_uid);
        let id = accepted_id(node, voucher, Some(entry)).ok()?;
        if !is_bound || id != entry.node_id {
            return None;
        }
        // Copies the entry while somebody else looks at it.
        entry.last_seen = now;
        Some(id)
    }

    /// Takes a report, or says which other node it conflicts with; then nothing is changed.
    ///
    /// # Errors
    ///
    /// When the node's name, id or machine belongs to another node.
    pub fn admit(
        &mut self,
        report: NodeReport,
        digest: Digest,
        voucher: Option<&Voucher>,
        now: Timestamp,
    ) -> Result<Change, Conflict> {
        let slot = self.slots.get(&report.node.name);
        let shadowed = self.shadowed.get(&report.node.name).map(|(_, entry)| entry);
        let previous = slot.and_then(Slot::latest).or(shadowed).map(|entry| &**entry);
        let node_id = accepted_id(&report.node, voucher, previous)?;
        let NodeIdentity { name, machine_hash, id_source, overwrite_label, .. } = report.node;
        let proven = voucher.is_some_and(|voucher| voucher.is_proven);
        let claimed = machine_hash.as_ref().filter(|_| !proven);
        self.check_claims(&name, &node_id, claimed)?;
        let uid = voucher.map(|voucher| voucher.node_uid.clone());
        let is_same_node = |entry: &Entry| entry.node_uid.is_none() || entry.node_uid == uid;
        if let Some(previous) = previous
            && !proven
            && !slot.is_some_and(Slot::is_rebinding)
            && is_same_node(previous)
            && previous.machine.is_some()
            && previous.machine != machine_hash
        {
            return Err(Conflict::MachineDiffers { name });
        }

        // Another machine's values are not this one's last known ones.
        let same_machine = previous.filter(|entry| {
            is_same_node(entry) && (entry.machine.is_none() || entry.machine == machine_hash)
        });
        let failing = report
            .inventory
            .failures()
            .into_iter()
            .map(|(subject, reason)| {
                let since = same_machine
                    .and_then(|entry| entry.failing.get(&subject))
                    .map_or(now, |failing| failing.since);
                (subject, Failing { reason: reason.to_owned(), since })
            })
            .collect();
        let machine = report.inventory.machine.known();
        let boot_id = machine.and_then(|machine| machine.boot_id.clone());
        let gpus_unanswered = carry::is_without_answer(&report.inventory.gpus)
            .then(|| same_machine.and_then(|entry| entry.gpus_unanswered).unwrap_or(now));
        let (inventory, lost_gpus) = carry::forward(same_machine, report.inventory, now);
        let last = same_machine
            .map(|entry| (entry.baseline.as_ref(), Shape::of(&entry.inventory, &entry.lost_gpus)));
        let shape = Shape::of(&inventory, &lost_gpus);
        let mut entry = Entry {
            position: previous.map_or(self.next_position, |entry| entry.position),
            revision: previous.map_or(0, |entry| entry.revision) + 1,
            name,
            node_id,
            machine: machine_hash,
            node_uid: uid,
            proven,
            overwrites_label: overwrite_label && id_source == IdSource::Explicit,
            node_class: same_machine.and_then(|entry| entry.node_class),
            former_class: match same_machine {
                Some(entry) => entry.former_class,
                None => previous.and_then(|entry| entry.node_class.or(entry.former_class)),
            },
            agent_version: report.agent.version,
            inventory,
            failing,
            gpus_unanswered,
            lost_gpus,
            baseline: Baseline::after(last, boot_id.as_ref(), shape),
            health: report.health.map(Shared::from),
            passed_over: report.passed_over.into(),
            digest,
            first_seen: previous.map_or(now, |entry| entry.first_seen),
            changed: now,
            last_seen: now,
            rebinding: false,
        };
        let former_id = previous.map(|entry| entry.node_id.clone());
        // A refused report of the same node is settled; one of another machine under its name is not.
        if !matches!(self.conflicts.get(&entry.name), Some((Conflict::MachineDiffers { .. }, _))) {
            self.conflicts.remove(&entry.name);
        }
        self.pool.share(&mut entry);
        Ok(self.put(entry, former_id))
    }

    /// Lets the node's next report come from another machine. `None`: there is no such node.
    pub fn rebind(&mut self, name: &NodeName) -> Option<Change> {
        let latest = self.slots.get(name)?.latest()?;
        let revision = latest.revision + 1;
        let entry = Entry { rebinding: true, revision, ..Entry::clone(latest) };
        self.conflicts.remove(name);
        let former_id = Some(entry.node_id.clone());
        Some(self.put(entry, former_id))
    }

    /// Gives a node its class. `None`: it is not on the roll, something else of it is on its way to the
    /// store, or it has that class.
    pub fn classify(&mut self, name: &NodeName, class: NodeClassId) -> Option<Change> {
        let slot = self.slots.get(name).filter(|slot| slot.pending.is_empty())?;
        let latest = slot.latest().filter(|entry| entry.node_class != Some(class))?;
        let revision = latest.revision + 1;
        let entry = Entry { node_class: Some(class), revision, ..Entry::clone(latest) };
        let former_id = Some(entry.node_id.clone());
        Some(self.put(entry, former_id))
    }

    /// The store holds the change: it is shown from now on.
    pub fn confirm(&mut self, change: Change) {
        let Change { entry, departure, ticket, .. } = change;
        let (name, node_id) = (entry.name.clone(), entry.node_id.clone());
        let mut is_newest = false;
        self.update(&name, |slot| {
            slot.pending.remove(&ticket);
            let newest = slot.stored.as_ref().map_or(slot.forgotten, |(stored, _)| *stored);
            is_newest = newest.max(slot.forgotten) < ticket;
        });
        if is_newest {
            let now = entry.last_seen;
            self.show(&name, ticket, entry, now);
        }
        // It may have left again with what the store took later.
        if is_newest {
            self.departures.remove(&node_id);
        }
        if let Some(departure) = departure {
            self.left(&name, departure, ticket);
        }
    }

    /// A node as a store that is shared holds it now, whoever has written it. Where two aggregators gave
    /// one id to two nodes, the one that comes first has it, here as there.
    pub fn learn(&mut self, mut entry: Entry, now: Timestamp) {
        let name = entry.name.clone();
        let mut former_id = None;
        if let Some((_, stored)) = self.slots.get(&name).and_then(|slot| slot.stored.as_ref()) {
            entry.last_seen = entry.last_seen.max(stored.last_seen);
            former_id = Some(stored.node_id.clone()).filter(|former| *former != entry.node_id);
        }
        let ticket = self.next_ticket();
        self.next_position = self.next_position.max(entry.position + 1);
        self.departures.remove(&entry.node_id);
        // A word that is older than its report was about what it was before.
        let is_over = |departure: &Departure| departure.at <= entry.changed;
        if self.foretold.get(&entry.node_id).is_some_and(is_over) {
            self.foretold.remove(&entry.node_id);
        }
        self.pool.share(&mut entry);
        self.show(&name, ticket, entry.into(), now);
        if let Some(departure) = former_id.and_then(|id| self.foretold.remove(&id)) {
            self.departed(departure);
        }
    }

    /// The shared store has answered, whatever it said: what it holds is learned by itself.
    pub fn acknowledge(&mut self, change: &Change) {
        self.withdraw(change);
    }

    /// Another aggregator has heard of a node.
    pub fn seen(&mut self, name: &NodeName, at: Timestamp) {
        if let Some((_, entry)) = self.slots.get_mut(name).and_then(|slot| slot.stored.as_mut()) {
            entry.last_seen = entry.last_seen.max(at);
        }
    }

    /// A node is in the shared store no more, for whatever reason: that alone is no departure. Returns
    /// the id that it had.
    pub fn gone(&mut self, name: &NodeName, now: Timestamp) -> Option<NodeId> {
        if self.shadowed.remove(name).is_some() {
            return None;
        }
        let shown = self.get(name).map(|entry| (entry.node_id.clone(), entry.first_seen));
        self.let_go(name);
        self.update(name, |slot| slot.stored = None);
        if !self.shadowed.is_empty() {
            self.settle(now);
        }
        let (node_id, first_seen) = shown?;
        // An older word was about a node that has come back since.
        if let Some(departure) = self.foretold.remove(&node_id).filter(|it| it.at >= first_seen) {
            self.departed(departure);
        }
        Some(node_id)
    }

    /// Another aggregator has written down that a node has left.
    pub fn told_departed(&mut self, departure: Departure) {
        if self.names_by_id.has(&departure.node_id) {
            self.foretold.insert(departure.node_id.clone(), departure);
        } else {
            self.departures.insert(departure);
        }
    }

    /// Whether a change of the node is on its way to the store.
    pub fn is_pending(&self, name: &NodeName) -> bool {
        self.slots.get(name).is_some_and(|slot| !slot.pending.is_empty())
    }

    /// What a node was in the way of is settled with the next report.
    fn let_go(&mut self, name: &NodeName) {
        self.conflicts.retain(|_, (conflict, _)| !conflict.involves(name));
    }

    /// Shows what the store holds, unless it contradicts what comes first.
    fn show(&mut self, name: &NodeName, ticket: Ticket, entry: Shared<Entry>, now: Timestamp) {
        let claims = self.check_claims(name, &entry.node_id, entry.claimed_machine());
        self.shadowed.remove(name);
        self.update(name, |slot| slot.stored = Some((ticket, entry)));
        if claims.is_err() || !self.shadowed.is_empty() {
            self.settle(now);
        }
    }

    /// Decides anew which of the nodes that the store holds are shown: in their order, each that
    /// claims nothing that one before it has. So everybody who knows the same shows the same.
    fn settle(&mut self, now: Timestamp) {
        self.touched = Touched::All;
        let mut stored = std::mem::take(&mut self.shadowed);
        for (name, slot) in &mut self.slots {
            stored.extend(slot.stored.take().map(|stored| (name.clone(), stored)));
        }
        let mut stored: Vec<_> = stored.into_iter().collect();
        stored.sort_unstable_by(|(_, (_, one)), (_, (_, other))| {
            one.precedence().cmp(&other.precedence())
        });
        // What is on its way yields to what is stored, so it comes last.
        let mut pending = std::mem::take(&mut self.slots);
        self.names_by_id.clear();
        self.names_by_machine.clear();
        for (name, (ticket, entry)) in stored {
            match self.check_claims(&name, &entry.node_id, entry.claimed_machine()) {
                Ok(()) => self.update(&name, |slot| slot.stored = Some((ticket, entry))),
                Err(conflict) => {
                    self.note_conflict(conflict, now);
                    self.shadowed.insert(name, (ticket, entry));
                }
            }
        }
        for (name, slot) in pending.drain() {
            self.update(&name, |known| {
                known.pending = slot.pending;
                known.forgotten = slot.forgotten;
            });
        }
    }

    /// The store did not take the change: it never was.
    pub fn withdraw(&mut self, change: &Change) {
        self.update(&change.entry.name, |slot| {
            slot.pending.remove(&change.ticket);
        });
    }

    /// Asks to take a node off the roll, see [`Self::forget`]. `None`: there is no such node.
    pub fn leave(&mut self, name: &NodeName, now: Timestamp) -> Option<Leave> {
        let shadowed = self.shadowed.get(name).map(|(_, entry)| entry);
        let entry = self.slots.get(name).and_then(Slot::latest).or(shadowed)?;
        let node_id = entry.node_id.clone();
        let departure = Departure { node_id, at: now, renamed: false };
        Some(Leave { name: name.clone(), departure, ticket: self.next_ticket() })
    }

    /// The store has forgotten the node; unless it reported since, it is off the roll.
    pub fn forget(&mut self, leave: Leave) {
        let Leave { name, departure, ticket } = leave;
        self.let_go(&name);
        self.shadowed.remove(&name);
        self.update(&name, |slot| {
            slot.stored.take_if(|(stored, _)| *stored < ticket);
            slot.forgotten = slot.forgotten.max(ticket);
        });
        if !self.shadowed.is_empty() {
            self.settle(departure.at);
        }
        self.left(&name, departure, ticket);
    }

    /// An id of a node has left with what the store took at a ticket, unless somebody has it since.
    fn left(&mut self, name: &NodeName, departure: Departure, ticket: Ticket) {
        let id = &departure.node_id;
        // What is on its way from before the ticket is undone by it.
        let is_still_its = self.names_by_id.has_from(id, name)
            && self.slots.get(name).is_some_and(|slot| slot.has_since(id, ticket));
        if !is_still_its && self.names_by_id.of_another(id, name).is_none() {
            self.departures.insert(departure);
        }
    }

    /// The store holds that a node has left, unless it is on the roll.
    pub fn departed(&mut self, departure: Departure) {
        if !self.names_by_id.has(&departure.node_id) {
            self.departures.insert(departure);
        }
    }

    /// Whether a node of this id is on the roll, or on its way there.
    pub fn has_id(&self, id: &NodeId) -> bool {
        self.names_by_id.has(id)
    }

    /// The nodes that have left.
    pub fn departures(&self) -> &Departures {
        &self.departures
    }

    /// Remembers a conflict. `false`: it is remembered already.
    pub fn note_conflict(&mut self, conflict: Conflict, now: Timestamp) -> bool {
        let name = conflict.name().clone();
        let known = self.conflicts.get(&name).is_some_and(|(known, _)| *known == conflict);
        let has_room = self.conflicts.len() < MOST_CONFLICTS || self.conflicts.contains_key(&name);
        if has_room {
            self.conflicts.insert(name, (conflict, now));
        }
        has_room && !known
    }

    /// Nodes whose reports were refused since then, by name; older conflicts are forgotten.
    pub fn conflicts_since(&mut self, since: Timestamp) -> Vec<&Conflict> {
        self.conflicts.retain(|_, (_, last)| *last >= since);
        self.conflicts.values().map(|(conflict, _)| conflict).collect()
    }

    /// The nodes in the order in which they came.
    pub fn entries(&self) -> Vec<&Entry> {
        let stored = self.slots.values().filter_map(|slot| slot.stored.as_ref());
        let mut entries: Vec<&Entry> = stored.map(|(_, entry)| &**entry).collect();
        entries.sort_unstable_by_key(|entry| entry.precedence());
        entries
    }

    /// The same, to be looked at while the roll goes on.
    pub fn held_entries(&self) -> Vec<Shared<Entry>> {
        let stored = self.slots.values().filter_map(|slot| slot.stored.as_ref());
        let mut entries: Vec<_> = stored.map(|(_, entry)| entry.clone()).collect();
        entries.sort_unstable_by(|one, other| one.precedence().cmp(&other.precedence()));
        entries
    }

    /// The nodes in any order, each with what tells whether it has changed since.
    pub fn shown(&self) -> impl Iterator<Item = (Ticket, &Entry)> {
        let stored = self.slots.values().filter_map(|slot| slot.stored.as_ref());
        stored.map(|(ticket, entry)| (*ticket, &**entry))
    }

    /// One of them.
    pub fn shown_as(&self, name: &NodeName) -> Option<(Ticket, &Entry)> {
        let (ticket, entry) = self.slots.get(name)?.stored.as_ref()?;
        Some((*ticket, entry))
    }

    /// Which nodes have changed since this was called last; a change of the time of their last report
    /// alone is none. For the one who keeps what is made of all nodes.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::replace(&mut self.touched, Touched::none())
    }

    /// When the first of the nodes first reported.
    pub fn first_seen(&self) -> Option<Timestamp> {
        let stored = self.slots.values().filter_map(|slot| slot.stored.as_ref());
        stored.map(|(_, entry)| entry.first_seen).min()
    }

    /// A node.
    pub fn get(&self, name: &NodeName) -> Option<&Entry> {
        self.slots.get(name)?.stored.as_ref().map(|(_, entry)| &**entry)
    }

    fn check_claims(
        &self,
        name: &NodeName,
        id: &NodeId,
        machine: Option<&MachineHash>,
    ) -> Result<(), Conflict> {
        if let Some(owner) = self.names_by_id.of_another(id, name) {
            let (name, id, owner) = (name.clone(), id.clone(), owner.clone());
            return Err(Conflict::IdTaken { name, id, owner });
        }
        let owner = machine.and_then(|machine| self.names_by_machine.of_another(machine, name));
        if let Some(owner) = owner {
            return Err(Conflict::MachineTaken { name: name.clone(), owner: owner.clone() });
        }
        Ok(())
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket = Ticket(self.last_ticket.0.saturating_add(1));
        self.last_ticket
    }

    fn put(&mut self, entry: Entry, former_id: Option<NodeId>) -> Change {
        let ticket = self.next_ticket();
        self.next_position = self.next_position.max(entry.position + 1);
        let renamed = former_id.clone().filter(|former| *former != entry.node_id);
        let departure =
            renamed.map(|node_id| Departure { node_id, at: entry.changed, renamed: true });
        let entry = Shared::from(entry);
        let change = Change { entry: entry.clone(), former_id, departure, ticket };
        self.update(&change.entry.name, |slot| {
            slot.pending.insert(ticket, entry);
        });
        change
    }

    /// Changes a slot and what it claims.
    fn update(&mut self, name: &NodeName, change: impl FnOnce(&mut Slot)) {
        let count = self.slots.len();
        let slot = self.slots.entry(name.clone()).or_default();
        for entry in slot.entries() {
            self.names_by_id.remove(&entry.node_id, name);
            if let Some(machine) = entry.claimed_machine() {
                self.names_by_machine.remove(machine, name);
            }
        }
        let shown = slot.stored.as_ref().map(|(ticket, _)| *ticket);
        change(slot);
        if slot.stored.as_ref().map(|(ticket, _)| *ticket) != shown {
            self.touched.note(name, count);
        }
        for entry in slot.entries() {
            self.names_by_id.add(&entry.node_id, name);
            if let Some(machine) = entry.claimed_machine() {
                self.names_by_machine.add(machine, name);
            }
        }
        if slot.latest().is_none() {
            self.slots.remove(name);
        }
    }
}
