//! Saves a machine: the files that the probes read of it and what NVIDIA's library answered, without
//! what names it. The probes say of the saved machine what they said of the real one.

mod manifest;
mod scrub;
mod write;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use crate::host::{HostRoot, Recorded, Recorder};

pub use manifest::Manifest;
pub use scrub::Scrubber;
pub use write::{WriteError, write};

/// A machine that can be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// What the files cannot say.
    pub manifest: Manifest,
    /// What each path is, as the host has it.
    pub files: BTreeMap<PathBuf, Saved>,
}

/// What is saved of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// A folder.
    Folder,
    /// A file with its text; empty where nothing was read of it.
    File(String),
    /// A symbolic link with its target.
    Link(PathBuf),
}

impl Capture {
    /// Makes a capture of what was recorded; every text, name and target goes through the scrubber.
    pub fn new(
        manifest: Manifest,
        record: &BTreeMap<PathBuf, Recorded>,
        scrubber: &mut Scrubber,
    ) -> Self {
        let mut files = BTreeMap::new();
        let mut errors = BTreeMap::new();
        let mut unreachable = BTreeMap::new();
        for (path, what) in record {
            let inside = scrubber.path(path);
            let saved = match what {
                Recorded::Seen { folder: true } => Saved::Folder,
                Recorded::Seen { folder: false } => Saved::File(String::new()),
                Recorded::Folder(names) => {
                    for name in names {
                        let name = scrubber.path(name.as_ref());
                        // What it is, was not looked at.
                        files
                            .entry(inside.join(name))
                            .or_insert_with(|| Saved::File(String::new()));
                    }
                    Saved::Folder
                }
                Recorded::File(text) => Saved::File(scrubber.file(path, text)),
                Recorded::Link(target) => Saved::Link(scrubber.path(target)),
                Recorded::Error(number) => {
                    errors.insert(inside.clone(), *number);
                    Saved::File(String::new())
                }
                Recorded::Unreachable(number) => {
                    unreachable.insert(inside, *number);
                    continue;
                }
            };
            files.insert(inside, saved);
        }
        // What lies below a path shows that it is a folder.
        let folders: Vec<PathBuf> = files
            .keys()
            .chain(unreachable.keys())
            .flat_map(|path| path.ancestors().skip(1))
            .filter(|folder| !matches!(files.get(*folder), Some(Saved::Link(_))))
            .map(PathBuf::from)
            .collect();
        files.extend(folders.into_iter().map(|folder| (folder, Saved::Folder)));
        // Version control keeps no empty folders.
        let empty: Vec<PathBuf> = files
            .iter()
            .filter(|(path, saved)| {
                let next = (Bound::Excluded(path.as_path()), Bound::Unbounded);
                **saved == Saved::Folder
                    && files
                        .range::<Path, _>(next)
                        .next()
                        .is_none_or(|(at, _)| !at.starts_with(path))
            })
            .map(|(path, _)| path.join(".keep"))
            .collect();
        files.extend(empty.into_iter().map(|path| (path, Saved::File(String::new()))));
        Self { manifest: Manifest { errors, unreachable, ..manifest }, files }
    }
}

/// Starts to note what is read of a host, and what names the machine.
pub fn record(root: HostRoot) -> (HostRoot, Recorder, Scrubber) {
    // Before the recorder is there: what these files hold is not saved.
    let scrubber = Scrubber::new(&root);
    let recorder = Recorder::default();
    (root.recorded_by(recorder.clone()), recorder, scrubber)
}
