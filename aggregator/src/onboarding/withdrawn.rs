//! Nodes that a target is to lose though they have not left the roll: its policy leaves them out, or
//! its entry holds ids that no Node has. Each waits a hold-down from when it was first noticed, which is not
//! stored: a restart counts anew. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::NodeId;

/// Ids by when they were first noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Withdrawn(BTreeMap<NodeId, Timestamp>);

impl Withdrawn {
    /// Notes which are to go now; those that are not among them stay after all.
    pub fn note(&mut self, ids: BTreeSet<NodeId>, now: Timestamp) {
        self.0.retain(|id, _| ids.contains(id));
        for id in ids {
            self.0.entry(id).or_insert(now);
        }
    }

    /// All of them.
    pub fn ids(&self) -> impl Iterator<Item = &NodeId> {
        self.0.keys()
    }

    /// Those that have waited for long enough, and those that have not.
    pub fn at(&self, hold_down: Duration, now: Timestamp) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let is_over = |since| over_at(since, hold_down).is_some_and(|at| at <= now);
        let ids_of = |over: bool| -> BTreeSet<NodeId> {
            let some = self.0.iter().filter(|(_, since)| is_over(**since) == over);
            some.map(|(id, _)| id.clone()).collect()
        };
        (ids_of(true), ids_of(false))
    }

    /// When the next one has.
    pub fn next(&self, hold_down: Duration, now: Timestamp) -> Option<Timestamp> {
        let ends = self.0.values().filter_map(|since| over_at(*since, hold_down));
        ends.filter(|at| *at > now).min()
    }
}

fn over_at(since: Timestamp, hold_down: Duration) -> Option<Timestamp> {
    since.checked_add(SignedDuration::try_from(hold_down).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_down_counts_from_the_first_time() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let ids = |ids: &[&str]| -> BTreeSet<NodeId> {
            ids.iter().map(|id| id.parse().expect("an id")).collect()
        };
        let hold_down = Duration::from_mins(1);
        let mut withdrawn = Withdrawn::default();
        for (now, noted, over, waiting, next) in [
            (0, &["a"][..], &[][..], &["a"][..], Some(60)),
            (30, &["a", "b"], &[], &["a", "b"], Some(60)),
            (60, &["a", "b"], &["a"], &["b"], Some(90)),
            (80, &["b"], &[], &["b"], Some(90)),
            (90, &["a", "b"], &["b"], &["a"], Some(150)),
            (200, &["a", "b"], &["a", "b"], &[], None),
            (201, &[], &[], &[], None),
        ] {
            withdrawn.note(ids(noted), at(now));
            assert_eq!(withdrawn.at(hold_down, at(now)), (ids(over), ids(waiting)), "at {now}");
            assert_eq!(withdrawn.next(hold_down, at(now)), next.map(at), "at {now}");
        }
    }
}
