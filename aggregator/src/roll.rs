//! The roll: every node that has reported, with what is known of it.
//!
//! Pure: callers bring the clock and carry out what is to be stored. An agent that cannot read
//! something says so; the roll keeps the last value that was known and marks it.

mod carry;

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rollcall_report::{
    Inventory, MachineHash, NodeId, NodeIdentity, NodeName, NodeReport, Subject,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;

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
#[derive(Debug, Default)]
pub struct Roll {
    entries: HashMap<NodeName, Slot>,
    conflicts: BTreeMap<NodeName, Conflict>,
    names_by_id: HashMap<NodeId, NodeName>,
    names_by_machine: HashMap<MachineHash, NodeName>,
    next_position: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    /// The digest that the store is known to hold. Where it is not the entry's, a write is owed.
    stored: Option<Digest>,
}

impl Roll {
    /// The roll as the store holds it.
    pub fn restore(entries: Vec<Entry>) -> Self {
        let mut roll = Self::default();
        for entry in entries {
            roll.next_position = roll.next_position.max(entry.position + 1);
            let stored = Some(entry.digest);
            roll.insert(Slot { entry, stored });
        }
        roll
    }

    /// Notes that an unchanged report came. `false`: it is not the one that is stored, so it has
    /// to be admitted.
    pub fn note(&mut self, name: &NodeName, digest: Digest, now: Timestamp) -> bool {
        match self.entries.get_mut(name) {
            Some(slot) if slot.stored == Some(digest) && slot.entry.digest == digest => {
                slot.entry.last_seen = now;
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
    ) -> Result<&Entry, Conflict> {
        let NodeIdentity { name, proposed_id, machine_hash, .. } = report.node;
        if let Some(owner) = self.names_by_id.get(&proposed_id).filter(|owner| **owner != name) {
            return Err(Conflict::IdTaken { name, id: proposed_id, owner: owner.clone() });
        }
        let owner = machine_hash.as_ref().and_then(|machine| self.names_by_machine.get(machine));
        if let Some(owner) = owner.filter(|owner| **owner != name) {
            return Err(Conflict::MachineTaken { owner: owner.clone(), name });
        }
        let previous = self.entries.get(&name);
        if let Some(slot) = previous
            && !slot.entry.rebinding
            && slot.entry.machine.is_some()
            && slot.entry.machine != machine_hash
        {
            return Err(Conflict::MachineDiffers { name });
        }

        self.conflicts.remove(&name);
        let previous = self.remove_slot(&name);
        let stored = previous.as_ref().and_then(|slot| slot.stored);
        // Another machine's values are not this one's last known ones.
        let same_machine = previous
            .as_ref()
            .map(|slot| &slot.entry)
            .filter(|entry| entry.machine.is_none() || entry.machine == machine_hash);
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
        let inventory =
            carry::forward(same_machine.map(|entry| &entry.inventory), report.inventory);
        let previous = previous.map(|slot| slot.entry);
        let entry = Entry {
            position: previous.as_ref().map_or(self.next_position, |entry| entry.position),
            name,
            node_id: proposed_id,
            machine: machine_hash,
            agent_version: report.agent.version,
            inventory,
            failing,
            digest,
            first_seen: previous.as_ref().map_or(now, |entry| entry.first_seen),
            changed: now,
            last_seen: now,
            rebinding: false,
        };
        self.next_position = self.next_position.max(entry.position + 1);
        Ok(self.insert(Slot { entry, stored }))
    }

    /// Remembers a conflict until the node's report is taken. `false`: it is remembered already.
    pub fn note_conflict(&mut self, conflict: Conflict) -> bool {
        let name = conflict.name().clone();
        if self.conflicts.get(&name) == Some(&conflict) {
            return false;
        }
        if self.conflicts.len() < MOST_CONFLICTS || self.conflicts.contains_key(&name) {
            self.conflicts.insert(name, conflict);
        }
        true
    }

    /// Nodes whose reports are not taken, by name.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values()
    }

    /// Notes that the store holds this digest of the node.
    pub fn stored(&mut self, name: &NodeName, digest: Digest) {
        if let Some(slot) = self.entries.get_mut(name) {
            slot.stored = Some(digest);
        }
    }

    /// Takes a node off the roll. `false`: there was none of that name.
    pub fn forget(&mut self, name: &NodeName) -> bool {
        // What it was in the way of is settled with the next report.
        self.conflicts.clear();
        self.remove_slot(name).is_some()
    }

    /// Lets the node's next report come from another machine. `None`: there is no such node.
    pub fn rebind(&mut self, name: &NodeName) -> Option<&Entry> {
        let slot = self.entries.get_mut(name)?;
        slot.entry.rebinding = true;
        Some(&slot.entry)
    }

    /// The nodes in the order in which they came.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().map(|slot| &slot.entry).collect();
        entries.sort_unstable_by_key(|entry| entry.position);
        entries
    }

    /// A node.
    pub fn get(&self, name: &NodeName) -> Option<&Entry> {
        self.entries.get(name).map(|slot| &slot.entry)
    }

    fn insert(&mut self, slot: Slot) -> &Entry {
        let entry = &slot.entry;
        self.names_by_id.insert(entry.node_id.clone(), entry.name.clone());
        if let Some(machine) = &entry.machine {
            self.names_by_machine.insert(machine.clone(), entry.name.clone());
        }
        let name = entry.name.clone();
        &self.entries.entry(name).insert_entry(slot).into_mut().entry
    }

    fn remove_slot(&mut self, name: &NodeName) -> Option<Slot> {
        let slot = self.entries.remove(name)?;
        self.names_by_id.remove(&slot.entry.node_id);
        if let Some(machine) = &slot.entry.machine {
            self.names_by_machine.remove(machine);
        }
        Some(slot)
    }
}
