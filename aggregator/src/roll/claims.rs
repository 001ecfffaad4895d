//! Who claims what: an id, a machine.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use rollcall_report::NodeName;

/// Who claims what. Two nodes claim the same where one is on its way to a store that another
/// aggregator has written the other into.
#[derive(Debug)]
pub(super) struct Claims<K>(HashMap<K, Names>);

/// The nodes that claim one thing: nearly always one.
#[derive(Debug)]
enum Names {
    One(NodeName),
    More(BTreeSet<NodeName>),
}

impl Names {
    /// The first by name of those that are sought.
    fn find(&self, is_sought: impl Fn(&&NodeName) -> bool) -> Option<&NodeName> {
        match self {
            Self::One(name) => Some(name).filter(is_sought),
            Self::More(names) => names.iter().find(is_sought),
        }
    }
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Claims<K> {
    pub(super) fn add(&mut self, what: &K, name: &NodeName) {
        match self.0.entry(what.clone()) {
            Entry::Vacant(nobody) => {
                nobody.insert(Names::One(name.clone()));
            }
            Entry::Occupied(mut names) => match names.get_mut() {
                Names::More(names) => {
                    names.insert(name.clone());
                }
                Names::One(other) if other != name => {
                    let both = [other.clone(), name.clone()].into();
                    names.insert(Names::More(both));
                }
                Names::One(_) => {}
            },
        }
    }

    pub(super) fn remove(&mut self, what: &K, name: &NodeName) {
        let is_unclaimed = match self.0.get_mut(what) {
            Some(Names::One(claimant)) => claimant == name,
            Some(Names::More(names)) => names.remove(name) && names.is_empty(),
            None => false,
        };
        if is_unclaimed {
            self.0.remove(what);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn has(&self, what: &K) -> bool {
        self.0.contains_key(what)
    }

    /// Whether a node claims it.
    pub(super) fn has_from(&self, what: &K, name: &NodeName) -> bool {
        self.0.get(what).is_some_and(|names| names.find(|other| *other == name).is_some())
    }

    /// Another node that claims it.
    pub(super) fn of_another(&self, what: &K, name: &NodeName) -> Option<&NodeName> {
        self.0.get(what)?.find(|other| *other != name)
    }
}
