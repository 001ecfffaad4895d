//! What was read below a host's root, so that the machine can be saved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What one path of the host was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is there.
    Seen {
        /// Whether it is a folder.
        folder: bool,
    },
    /// A folder that was listed, with the names in it.
    Folder(BTreeSet<String>),
    /// A file that was read, with its text.
    File(String),
    /// A symbolic link, with its target as it is written.
    Link(PathBuf),
    /// It is there and cannot be read: the system's error number.
    Error(i32),
    /// What is there cannot even be looked at: the system's error number.
    Unreachable(i32),
}

impl Recorded {
    /// How much is known by it. What was read replaces what was only seen.
    const fn fullness(&self) -> u8 {
        match self {
            Self::Seen { .. } => 0,
            Self::Folder(_)
            | Self::File(_)
            | Self::Link(_)
            | Self::Error(_)
            | Self::Unreachable(_) => 1,
        }
    }
}

/// Notes what is read; its clones share one record.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<BTreeMap<PathBuf, Recorded>>>);

impl Recorder {
    /// Notes a path of the host.
    pub(super) fn note(&self, path: &Path, what: Recorded) {
        // A thread that died while it held the lock left a whole map.
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match record.get_mut(path) {
            Some(known) if known.fullness() > what.fullness() => {}
            Some(known) => *known = what,
            None => {
                record.insert(path.to_owned(), what);
            }
        }
    }

    /// All that was noted so far.
    pub fn record(&self) -> BTreeMap<PathBuf, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
