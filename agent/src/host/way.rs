//! What lies on the way to a file, and what was found there already: a probe goes by the same folders
//! and links to hundreds of files, and looks at each of them once.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What one path was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing is there.
    Missing,
    /// A symbolic link, with its target as it is written.
    Link(PathBuf),
    /// A folder, a file or whatever else.
    There(FileType),
}

/// The steps that were taken so far, by the paths that the host has.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<HashMap<OsString, Step>>);

impl Steps {
    pub(super) fn known(&self, path: &Path) -> Option<Step> {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.get::<OsStr>(path.as_ref()).cloned()
    }

    pub(super) fn note(&self, path: &Path, step: Step) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.insert(path.into(), step);
    }
}
