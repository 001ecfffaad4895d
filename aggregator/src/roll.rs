//! The roll: every node that has reported, with what is known of it.
//!
//! Pure: callers bring the clock and carry out what is to be stored. An agent that cannot read
//! something says so; the roll keeps the last value that was known and marks it.

pub mod baseline;
mod carry;
pub mod departure;
pub mod loss;

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rollcall_report::{
    Health, Inventory, MachineHash, NodeId, NodeIdentity, NodeName, NodeReport, PassedOver, Subject,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use baseline::{Baseline, Shape, changes};
use departure::{Departure, Departures};
use loss::LostGpu;

/// A node on the roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its place: nodes keep the order in which they came.
    pub position: u64,
    /// The Kubernetes Node's name.
    pub name: NodeName,
    /// The accepted `nodeID`.
    pub node_id: NodeId,
    /// The machine that the node is bound to; `None`: its machine has no id.
    pub machine: Option<MachineHash>,
    /// The agent's version.
    pub agent_version: String,
    /// What is known: the last report, and for what failed in it the last known value.
    pub inventory: Inventory,
    /// What failed in the last report.
    pub failing: BTreeMap<Subject, Failing>,
    /// GPUs that were known and that the driver does not answer for; in the order of their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_gpus: Vec<LostGpu>,
    /// What the machine had before this boot; `None`: it does not name its boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// What the agent said of its own looking, as of [`Self::changed`]: it makes no report news, so
    /// that a report which is unchanged otherwise does not refresh it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What the agent passed over, as of [`Self::changed`] likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
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
    /// The hardware that has changed since the machine's previous boot ended.
    pub fn hardware_changes(&self) -> Option<Vec<baseline::Change>> {
        let now = Shape::of(&self.inventory, &self.lost_gpus);
        self.baseline.as_ref().map(|baseline| changes(&baseline.shape, &now))
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
    /// The node whose report was not taken.
    pub fn name(&self) -> &NodeName {
        match self {
            Self::MachineDiffers { name }
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
    names_by_id: HashMap<NodeId, NodeName>,
    names_by_machine: HashMap<MachineHash, NodeName>,
    conflicts: BTreeMap<NodeName, (Conflict, Timestamp)>,
    departures: Departures,
    next_position: u64,
    last_ticket: Ticket,
}

/// The order in which changes were put into the store's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A change that is on its way to the store; to be confirmed or withdrawn.
#[derive(Debug, Clone)]
#[must_use = "it is not shown until it is confirmed"]
pub struct Change {
    /// What is to be stored.
    pub entry: Entry,
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
    stored: Option<(Ticket, Entry)>,
    /// Changes that are on their way there.
    pending: BTreeMap<Ticket, Entry>,
    /// What was put into the queue before this was forgotten by the store.
    forgotten: Ticket,
}

impl Slot {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.stored.iter().map(|(_, entry)| entry).chain(self.pending.values())
    }

    /// What the next change is made of.
    fn latest(&self) -> Option<&Entry> {
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
        entries.sort_unstable_by_key(|entry| entry.position);
        let mut roll = Self::default();
        for entry in entries {
            if let Err(conflict) =
                roll.check_claims(&entry.name, &entry.node_id, entry.machine.as_ref())
            {
                roll.note_conflict(conflict, now);
                continue;
            }
            roll.next_position = roll.next_position.max(entry.position + 1);
            let name = entry.name.clone();
            roll.update(&name, |slot| slot.stored = Some((Ticket::default(), entry)));
        }
        for departure in departures.into_iter().filter_map(|departure| departure.restored(now)) {
            roll.departed(departure);
        }
        roll
    }

    /// Notes that an unchanged report came. `false`: the store does not hold this one, so it has to
    /// be admitted.
    pub fn note(&mut self, name: &NodeName, digest: Digest, now: Timestamp) -> bool {
        match self.slots.get_mut(name) {
            Some(Slot { stored: Some((_, entry)), pending, .. })
                if pending.is_empty() && entry.digest == digest =>
            {
                entry.last_seen = now;
                true
            }
            _ => false,
        }
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
        now: Timestamp,
    ) -> Result<Change, Conflict> {
        let NodeIdentity { name, proposed_id, machine_hash, .. } = report.node;
        self.check_claims(&name, &proposed_id, machine_hash.as_ref())?;
        let slot = self.slots.get(&name);
        let previous = slot.and_then(Slot::latest);
        if let Some(previous) = previous
            && !slot.is_some_and(Slot::is_rebinding)
            && previous.machine.is_some()
            && previous.machine != machine_hash
        {
            return Err(Conflict::MachineDiffers { name });
        }

        // Another machine's values are not this one's last known ones.
        let same_machine =
            previous.filter(|entry| entry.machine.is_none() || entry.machine == machine_hash);
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
        let (inventory, lost_gpus) = carry::forward(same_machine, report.inventory, now);
        let last = same_machine
            .map(|entry| (entry.baseline.as_ref(), Shape::of(&entry.inventory, &entry.lost_gpus)));
        let shape = Shape::of(&inventory, &lost_gpus);
        let entry = Entry {
            position: previous.map_or(self.next_position, |entry| entry.position),
            name,
            node_id: proposed_id,
            machine: machine_hash,
            agent_version: report.agent.version,
            inventory,
            failing,
            lost_gpus,
            baseline: Baseline::after(last, boot_id.as_deref(), shape),
            health: report.health,
            passed_over: report.passed_over,
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
        Ok(self.put(entry, former_id))
    }

    /// Lets the node's next report come from another machine. `None`: there is no such node.
    pub fn rebind(&mut self, name: &NodeName) -> Option<Change> {
        let latest = self.slots.get(name)?.latest()?;
        let entry = Entry { rebinding: true, ..latest.clone() };
        self.conflicts.remove(name);
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
            if is_newest {
                slot.stored = Some((ticket, entry));
            }
        });
        // It may have left again with what the store took later.
        if is_newest {
            self.departures.remove(&node_id);
        }
        if let Some(departure) = departure {
            self.left(&name, departure, ticket);
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
        let node_id = self.slots.get(name)?.latest()?.node_id.clone();
        let departure = Departure { node_id, at: now, renamed: false };
        Some(Leave { name: name.clone(), departure, ticket: self.next_ticket() })
    }

    /// The store has forgotten the node; unless it reported since, it is off the roll.
    pub fn forget(&mut self, leave: Leave) {
        let Leave { name, departure, ticket } = leave;
        // What it was in the way of is settled with the next report.
        self.conflicts.clear();
        self.update(&name, |slot| {
            slot.stored.take_if(|(stored, _)| *stored < ticket);
            slot.forgotten = slot.forgotten.max(ticket);
        });
        self.left(&name, departure, ticket);
    }

    /// An id of a node has left with what the store took at a ticket, unless somebody has it since.
    fn left(&mut self, name: &NodeName, departure: Departure, ticket: Ticket) {
        let id = &departure.node_id;
        let is_claimed = match self.names_by_id.get(id) {
            // What is on its way from before the ticket is undone by it.
            Some(owner) if owner == name => {
                self.slots.get(name).is_some_and(|slot| slot.has_since(id, ticket))
            }
            owner => owner.is_some(),
        };
        if !is_claimed {
            self.departures.insert(departure);
        }
    }

    /// The store holds that a node has left, unless it is on the roll.
    pub fn departed(&mut self, departure: Departure) {
        if !self.names_by_id.contains_key(&departure.node_id) {
            self.departures.insert(departure);
        }
    }

    /// Whether a node of this id is on the roll, or on its way there.
    pub fn has_id(&self, id: &NodeId) -> bool {
        self.names_by_id.contains_key(id)
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
        let mut entries: Vec<&Entry> = stored.map(|(_, entry)| entry).collect();
        entries.sort_unstable_by_key(|entry| entry.position);
        entries
    }

    /// When the first of the nodes first reported.
    pub fn first_seen(&self) -> Option<Timestamp> {
        let stored = self.slots.values().filter_map(|slot| slot.stored.as_ref());
        stored.map(|(_, entry)| entry.first_seen).min()
    }

    /// A node.
    pub fn get(&self, name: &NodeName) -> Option<&Entry> {
        self.slots.get(name)?.stored.as_ref().map(|(_, entry)| entry)
    }

    fn check_claims(
        &self,
        name: &NodeName,
        id: &NodeId,
        machine: Option<&MachineHash>,
    ) -> Result<(), Conflict> {
        let of_another = |owner: &&NodeName| *owner != name;
        if let Some(owner) = self.names_by_id.get(id).filter(of_another) {
            let (name, id, owner) = (name.clone(), id.clone(), owner.clone());
            return Err(Conflict::IdTaken { name, id, owner });
        }
        let owner = machine.and_then(|machine| self.names_by_machine.get(machine));
        if let Some(owner) = owner.filter(of_another) {
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
        let change = Change { entry: entry.clone(), former_id, departure, ticket };
        self.update(&change.entry.name, |slot| {
            slot.pending.insert(ticket, entry);
        });
        change
    }

    /// Changes a slot and what it claims.
    fn update(&mut self, name: &NodeName, change: impl FnOnce(&mut Slot)) {
        let mut slot = self.slots.remove(name).unwrap_or_default();
        for entry in slot.entries() {
            self.names_by_id.remove(&entry.node_id);
            if let Some(machine) = &entry.machine {
                self.names_by_machine.remove(machine);
            }
        }
        change(&mut slot);
        for entry in slot.entries() {
            self.names_by_id.insert(entry.node_id.clone(), name.clone());
            if let Some(machine) = &entry.machine {
                self.names_by_machine.insert(machine.clone(), name.clone());
            }
        }
        if slot.latest().is_some() {
            self.slots.insert(name.clone(), slot);
        }
    }
}
