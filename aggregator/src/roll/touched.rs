//! Which nodes of the roll have changed since somebody looked, so that what is made of them is made
//! anew for these alone.

use std::collections::HashSet;

use rollcall_report::NodeName;

/// Which nodes have come, gone or changed in more than the time of their last report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Touched {
    /// Any may have.
    #[default]
    All,
    /// These, and no others.
    Names(HashSet<NodeName>),
}

impl Touched {
    /// None since now.
    pub(super) fn none() -> Self {
        Self::Names(HashSet::new())
    }

    /// Notes a node. More than `most` names are not remembered one by one.
    pub(super) fn note(&mut self, name: &NodeName, most: usize) {
        let Self::Names(names) = self else { return };
        if names.len() >= most.max(FEW) && !names.contains(name) {
            *self = Self::All;
        } else {
            names.insert(name.clone());
        }
    }
}

/// So many names are remembered in any case.
const FEW: usize = 64;
