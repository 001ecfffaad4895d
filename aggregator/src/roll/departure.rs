//! Nodes that have left, as they are remembered: only these are taken out of a network's entry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::NodeId;
use serde::{Deserialize, Serialize};

/// A node that has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// The `nodeID` that it had.
    pub node_id: NodeId,
    /// When it was told.
    pub at: Timestamp,
    /// Whether its machine goes on under another id: nothing is lost then, and two entries for one
    /// machine would be wrong at once.
    pub renamed: bool,
}

/// After this no entry holds the node any more, and one that does has it from somebody else.
const MEMORY: SignedDuration = SignedDuration::from_hours(90 * 24);

impl Departure {
    /// As it is after a restart; `None`: it is of no use any more. A time to come is that of a clock
    /// that was wrong.
    pub(super) fn restored(self, now: Timestamp) -> Option<Self> {
        let at = self.at.min(now);
        self.is_remembered(now).then_some(Self { at, ..self })
    }

    /// Whether it is still of use.
    pub fn is_remembered(&self, now: Timestamp) -> bool {
        now.duration_since(self.at.min(now)) < MEMORY
    }

    /// When it holds: until then the node may come back as if nothing had been.
    fn confirmed_at(&self, hold_down: Duration) -> Option<Timestamp> {
        if self.renamed {
            return Some(self.at);
        }
        self.at.checked_add(SignedDuration::try_from(hold_down).ok()?).ok()
    }
}

/// The nodes that have left and not come back, by id.
#[derive(Debug, Default)]
pub struct Departures(BTreeMap<NodeId, Departure>);

impl Departures {
    /// Remembers one. One that is told again has left when it was first told.
    pub(super) fn insert(&mut self, departure: Departure) {
        let renamed = departure.renamed;
        let known = self.0.entry(departure.node_id.clone()).or_insert(departure);
        known.renamed |= renamed;
    }

    /// Whether a node has left, or is about to.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.0.contains_key(id)
    }

    /// The node is there again.
    pub(super) fn remove(&mut self, id: &NodeId) {
        self.0.remove(id);
    }

    /// Those that hold at a time.
    pub fn confirmed(&self, hold_down: Duration, now: Timestamp) -> BTreeSet<NodeId> {
        let holds = |departure: &&Departure| {
            departure.confirmed_at(hold_down).is_some_and(|confirmed| confirmed <= now)
        };
        self.0.values().filter(holds).map(|departure| departure.node_id.clone()).collect()
    }

    /// Those whose machines go on under other ids.
    pub fn renamed(&self) -> BTreeSet<NodeId> {
        let renamed = self.0.values().filter(|departure| departure.renamed);
        renamed.map(|departure| departure.node_id.clone()).collect()
    }

    /// Those that do not hold yet.
    pub fn leaving(&self, hold_down: Duration, now: Timestamp) -> BTreeSet<NodeId> {
        let may_come_back = |departure: &&Departure| {
            departure.confirmed_at(hold_down).is_none_or(|confirmed| confirmed > now)
        };
        self.0.values().filter(may_come_back).map(|departure| departure.node_id.clone()).collect()
    }

    /// When the next one holds.
    pub fn next_confirmed(&self, hold_down: Duration, now: Timestamp) -> Option<Timestamp> {
        let confirmed = self.0.values().filter_map(|departure| departure.confirmed_at(hold_down));
        confirmed.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_departure_holds_after_the_hold_down_and_a_rename_at_once() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let id = |text: &str| -> NodeId { text.parse().expect("an id") };
        let mut departures = Departures::default();
        departures.insert(Departure { node_id: id("gone"), at: at(100), renamed: false });
        departures.insert(Departure { node_id: id("old-name"), at: at(100), renamed: true });
        let hold_down = Duration::from_mins(1);
        for (now, confirmed, next) in [
            (99, vec![], Some(100)),
            (100, vec!["old-name"], Some(160)),
            (159, vec!["old-name"], Some(160)),
            (160, vec!["gone", "old-name"], None),
        ] {
            let got: Vec<String> =
                departures.confirmed(hold_down, at(now)).iter().map(ToString::to_string).collect();
            assert_eq!(got, confirmed, "at {now}");
            assert_eq!(departures.next_confirmed(hold_down, at(now)), next.map(at), "at {now}");
        }
        let old = Departure { node_id: id("old"), at: at(0), renamed: false };
        let restored = |now| old.clone().restored(at(now)).map(|departure| departure.at);
        assert_eq!(restored(90 * 86_400 - 1), Some(at(0)));
        assert_eq!(restored(90 * 86_400), None);
        assert_eq!(restored(-5), Some(at(-5)), "a clock that was wrong");

        departures.remove(&id("gone"));
        assert_eq!(departures.confirmed(hold_down, at(999)).len(), 1);
    }
}
