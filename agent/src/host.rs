//! Reads the host's files below an injected root: `/` on the host itself, `/host` in a container,
//! a saved machine's folder. Nothing in this crate opens `/proc`, `/sys` or `/etc` otherwise.

mod recording;
mod way;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, FileType};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use thiserror::Error;

use self::way::{Step, Steps};
use crate::capture::Manifest;

pub use recording::{Recorded, Recorder};

/// The largest file that is read: `/proc/cpuinfo` of a machine with two thousand CPUs fits.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The smallest page that a kernel has.
const PAGE_BYTES: usize = 4 * 1024;

/// What is asked of a file at first: more than an attribute of sysfs holds, a page.
const FIRST_BYTES: usize = 8 * 1024;

// What stands in a capture for a file that was refused here, as the system would have said it.
const EFBIG: i32 = 27;
const ESPIPE: i32 = 29;

/// How many symbolic links one path may lead through, as `path_resolution(7)` has it.
const MAX_LINKS: usize = 40;

/// How a file is opened that was not looked at: a link is not followed, and a pipe holds nobody up.
const UNSEEN: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Whether a path is in the kernel's own file systems: what the probes read there are files, and no
/// devices, which a look must come before.
fn may_be_opened_unseen(path: &Path) -> bool {
    path.starts_with("/sys") || path.starts_with("/proc")
}

/// The root of a host's file system, as this process sees it.
#[derive(Debug, Clone)]
pub struct HostRoot {
    root: PathBuf,
    /// What a saved machine says of itself; `None` for one that runs.
    manifest: Option<Arc<Manifest>>,
    recorder: Option<Recorder>,
    /// What was found on the way, where it is kept.
    steps: Option<Arc<Steps>>,
}

impl HostRoot {
    /// Takes a folder as the root of a host that runs.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), manifest: None, recorder: None, steps: None }
    }

    /// Takes a folder as a host's root. A machine that was saved there answers as it did then, also
    /// where its files could not be read.
    ///
    /// # Errors
    ///
    /// When there is no such folder, or it is a saved machine that this version cannot read.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ReadError> {
        let host = Self::new(root);
        if !host.root.is_dir() {
            return Err(ReadError::NoRoot { path: host.root });
        }
        if let Some(text) = host.read_if_present(Manifest::FILE)? {
            let manifest = Manifest::parse(&text).map_err(|source| ReadError::Manifest {
                path: host.below(Path::new(Manifest::FILE)),
                source,
            })?;
            return Ok(host.answering_as(manifest));
        }
        Ok(host)
    }

    /// The same root, answering as the manifest of a saved machine says.
    #[must_use]
    pub fn answering_as(self, manifest: Manifest) -> Self {
        Self { manifest: Some(Arc::new(manifest)), ..self }
    }

    /// The same root; what is read below it is noted, too.
    #[must_use]
    pub fn recorded_by(self, recorder: Recorder) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// The same root for the time of one probe: each folder and link on the way is looked at once.
    #[must_use]
    pub fn for_one_probe(&self) -> Self {
        Self { steps: Some(Arc::default()), ..self.clone() }
    }

    /// What a saved machine says of itself; `None` for one that runs.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_deref()
    }

    /// The text of a file; bytes that are no UTF-8 (firmware tells its names in any encoding) are
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] where there is no such file, another where it could not be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String, ReadError> {
        let path = path.as_ref();
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return self.read_at(&self.follow(path)?);
        };
        let folder = self.walk(&Found::root(), folder, false)?;
        self.read_in(&folder, Path::new(name)).map(|(text, _)| text)
    }

    /// The text of a file of that name in a folder that was found, and where it is.
    fn read_in(&self, folder: &Found, name: &Path) -> Result<(String, PathBuf), ReadError> {
        let path = folder.path.join(name);
        let open = || openat(CWD, self.below(&path), UNSEEN, Mode::empty());
        if may_be_opened_unseen(&path)
            && let Some(text) = self.read_unseen(&path, open)?
        {
            return Ok((text, path));
        }
        let found = self.follow_from(folder, name)?;
        Ok((self.read_at(&found)?, found.path))
    }

    /// The text of a file below a folder that is held; `None` where a link leads there, or may.
    fn read_below(&self, held: &Held, name: &Path) -> Result<Option<String>, ReadError> {
        let way = name.parent().filter(|way| !way.as_os_str().is_empty());
        let is_known = |way| {
            let steps = self.steps.as_ref();
            steps.is_some_and(|steps| steps.known(&held.path.join(way)).is_some())
        };
        let path = held.path.join(name);
        // A saved machine may have failed to look at what lies on the way.
        let needs_look = way.is_some_and(|way| self.manifest.is_some() || is_known(way));
        if needs_look || !may_be_opened_unseen(&path) {
            return Ok(None);
        }
        let open = || match way {
            // Where the kernel is too old, or a sandbox forbids the call, the way is looked at.
            Some(_) => {
                openat2(&held.folder, name, UNSEEN, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            }
            None => openat(&held.folder, name, UNSEEN, Mode::empty()),
        };
        self.read_unseen(&path, open)
    }

    /// The text of what is a file, most likely; `None` where a closer look must tell what it is.
    fn read_unseen(
        &self,
        path: &Path,
        open: impl FnOnce() -> rustix::io::Result<OwnedFd>,
    ) -> Result<Option<String>, ReadError> {
        self.replay_unreachable(path)?;
        self.replay_error(path)?;
        let mut file = match open() {
            Ok(file) => File::from(file),
            Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
                return Err(self.unreachable(path, error.into()));
            }
            Err(_) => return Ok(None),
        };
        match text(&mut file, path.starts_with("/sys")) {
            Ok(bytes) if !bytes.is_empty() => self.taken(path, &bytes).map(Some),
            unsure => {
                let kind = file.metadata().map_err(|source| self.failed(path, source))?.file_type();
                match unsure {
                    _ if !kind.is_file() && !kind.is_dir() => Ok(None),
                    Ok(bytes) => self.taken(path, &bytes).map(Some),
                    Err(source) => Err(self.failed(path, source)),
                }
            }
        }
    }

    /// Opens a file. What is none, and might wait for ever when it is opened, is refused.
    ///
    /// # Errors
    ///
    /// When it is missing, cannot be opened, or is no file.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File, ReadError> {
        self.open_at(&self.follow(path.as_ref())?)
    }

    fn open_at(&self, found: &Found) -> Result<File, ReadError> {
        let path = self.below(&found.path);
        self.replay_error(&found.path)?;
        if found.kind.is_some_and(|kind| {
            kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
        }) {
            self.record(&found.path, || Recorded::Error(ESPIPE));
            return Err(ReadError::NoFile { path });
        }
        File::open(&path).map_err(|source| self.failed(&found.path, source))
    }

    fn read_at(&self, found: &Found) -> Result<String, ReadError> {
        let mut file = self.open_at(found)?;
        let bytes = text(&mut file, false).map_err(|source| self.failed(&found.path, source))?;
        self.taken(&found.path, &bytes)
    }

    /// What was read of a file, as text.
    fn taken(&self, path: &Path, bytes: &[u8]) -> Result<String, ReadError> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            self.record(path, || Recorded::Error(EFBIG));
            return Err(ReadError::TooLarge { path: self.below(path) });
        }
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.record(path, || Recorded::File(text.clone()));
        Ok(text)
    }

    /// The text of a file, or `None` where there is no such file.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn read_if_present(&self, path: impl AsRef<Path>) -> Result<Option<String>, ReadError> {
        if_present(self.read(path))
    }

    /// The beginning of a file up to its first empty line, or all of it; `None` where there is no such
    /// file. The kernel makes up its own files while they are read, which takes long where they are long.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn read_paragraph_if_present(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Option<String>, ReadError> {
        if_present(self.follow(path.as_ref()).and_then(|found| {
            let bytes = paragraph(&mut self.open_at(&found)?)
                .map_err(|source| self.failed(&found.path, source))?;
            self.taken(&found.path, &bytes)
        }))
    }

    /// What `parse` makes of a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or not be understood; both name its path.
    pub fn parse<T>(
        &self,
        path: impl AsRef<Path>,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let path = path.as_ref();
        parse(&self.read(path)?)
            .map_err(|source| ReadError::NotUnderstood { path: self.below(path), source })
    }

    /// The names in a folder, sorted.
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] where there is no such folder, another where it could not be listed.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<BTreeSet<String>, ReadError> {
        let found = self.follow(path.as_ref())?.path;
        let failed = |source| self.failed(&found, source);
        self.replay_error(&found)?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.below(&found)).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            // No device's name begins with a dot; what keeps a saved folder from being lost does.
            if !name.starts_with('.') {
                names.insert(name);
            }
        }
        self.record(&found, || Recorded::Folder(names.clone()));
        Ok(names)
    }

    /// The names in a folder, sorted, or `None` where there is no such folder.
    ///
    /// # Errors
    ///
    /// When the folder is there and cannot be listed.
    pub fn list_if_present(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Option<BTreeSet<String>>, ReadError> {
        if_present(self.list(path))
    }

    /// Follows every symbolic link of a path as if this root were `/`, so that an absolute link of
    /// the host's never leads into the container's own files. The result is the path as the host
    /// has it: `/sys/devices/…`.
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] where a part of the path does not exist.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf, ReadError> {
        self.follow(path.as_ref()).map(|found| found.path)
    }

    fn follow(&self, path: &Path) -> Result<Found, ReadError> {
        self.follow_from(&Found::root(), path)
    }

    /// Follows a path from a folder that has been found already.
    fn follow_from(&self, folder: &Found, asked: &Path) -> Result<Found, ReadError> {
        let found = self.walk(folder, asked, false)?;
        self.record(&found.path, || Recorded::Seen {
            folder: found.kind.is_none_or(|kind| kind.is_dir()),
        });
        Ok(found)
    }

    /// The same without a note of where it ends. What it ends at, and a link that it ends by, is looked
    /// at again if `anew`.
    fn walk(&self, folder: &Found, asked: &Path, anew: bool) -> Result<Found, ReadError> {
        let mut found = if asked.is_absolute() { Found::root() } else { folder.clone() };
        let mut ahead = names(asked);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            found.kind = None;
            if name == ".." {
                found.path.pop();
                continue;
            }
            found.path.push(&name);
            let target = match self.step(&found.path, anew && ahead.is_empty())? {
                Step::There(kind) => {
                    found.kind = Some(kind);
                    continue;
                }
                Step::Missing => {
                    return Err(ReadError::Missing { path: self.below(&found.path) });
                }
                Step::Link(target) => target,
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(ReadError::LinkLoop { path: self.below(&folder.path.join(asked)) });
            }
            if target.is_absolute() {
                found.path = PathBuf::from("/");
            } else {
                found.path.pop();
            }
            ahead.extend(names(&target));
        }
        Ok(found)
    }

    /// What is at a path of which all but the last name has been followed.
    fn step(&self, path: &Path, anew: bool) -> Result<Step, ReadError> {
        let known = self.steps.as_ref().filter(|_| !anew).and_then(|steps| steps.known(path));
        if let Some(step) = known {
            return Ok(step);
        }
        let step = self.look(path)?;
        if let Some(steps) = &self.steps {
            steps.note(path, step.clone());
        }
        Ok(step)
    }

    fn look(&self, path: &Path) -> Result<Step, ReadError> {
        let or_missing = |error| match error {
            ReadError::Missing { .. } => Ok(Step::Missing),
            error => Err(error),
        };
        if let Err(error) = self.replay_unreachable(path) {
            return or_missing(error);
        }
        let here = self.below(path);
        let looked = fs::symlink_metadata(&here).and_then(|metadata| {
            let kind = metadata.file_type();
            Ok(if kind.is_symlink() {
                Step::Link(fs::read_link(&here)?)
            } else {
                Step::There(kind)
            })
        });
        if let Ok(Step::Link(target)) = &looked {
            self.record(path, || Recorded::Link(target.clone()));
        }
        looked.or_else(|source| or_missing(self.unreachable(path, source)))
    }

    /// A folder of attributes below this root.
    pub fn attributes(&self, folder: impl Into<PathBuf>) -> Attributes<'_> {
        let folder = folder.into();
        let found = self.follow(&folder).ok();
        let held = found.as_ref().and_then(|found| self.hold(&found.path));
        Attributes { root: self, found, held, folder }
    }

    /// Holds a folder open.
    fn hold(&self, path: &Path) -> Option<Held> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, self.below(path), flags, Mode::empty()).ok()?;
        Some(Held { folder, path: path.to_owned() })
    }

    fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What an error of reading means; one that is not about a missing file is noted.
    fn failed(&self, path: &Path, source: io::Error) -> ReadError {
        let number = source.raw_os_error();
        let error = ReadError::new(&self.below(path), source);
        if let (ReadError::Unreadable { .. }, Some(number)) = (&error, number) {
            self.record(path, || Recorded::Error(number));
        }
        error
    }

    /// The same of looking at what a path leads to.
    fn unreachable(&self, path: &Path, source: io::Error) -> ReadError {
        let number = source.raw_os_error();
        let error = ReadError::new(&self.below(path), source);
        if let (ReadError::Unreadable { .. }, Some(number)) = (&error, number) {
            self.record(path, || Recorded::Unreachable(number));
        }
        error
    }

    /// Fails to read where a saved machine did.
    fn replay_error(&self, path: &Path) -> Result<(), ReadError> {
        let errors = self.manifest.as_deref().map(|manifest| &manifest.errors);
        errors
            .and_then(|errors| errors.get(path))
            .map_or(Ok(()), |number| Err(self.failed(path, io::Error::from_raw_os_error(*number))))
    }

    /// Fails to look at what a saved machine failed to look at.
    fn replay_unreachable(&self, path: &Path) -> Result<(), ReadError> {
        let errors = self.manifest.as_deref().map(|manifest| &manifest.unreachable);
        errors.and_then(|errors| errors.get(path)).map_or(Ok(()), |number| {
            Err(self.unreachable(path, io::Error::from_raw_os_error(*number)))
        })
    }

    fn record(&self, path: &Path, what: impl FnOnce() -> Recorded) {
        if let Some(recorder) = &self.recorder {
            recorder.note(path, what());
        }
    }
}

/// Where a path leads, links followed.
#[derive(Debug, Clone)]
struct Found {
    /// As the host has it.
    path: PathBuf,
    /// What is there; `None`: a folder that a path went back to.
    kind: Option<FileType>,
}

impl Found {
    fn root() -> Self {
        Self { path: PathBuf::from("/"), kind: None }
    }
}

/// A folder that is held open, so that the way from the root is gone once and not for each attribute.
#[derive(Debug)]
struct Held {
    folder: OwnedFd,
    /// As the host has it.
    path: PathBuf,
}

/// All that a file holds; of one that is too large, more than it may hold. A text of sysfs comes whole, so
/// that less than was asked for is its end; what is binary there comes a page at a time.
fn text(file: &mut File, is_attribute: bool) -> io::Result<Vec<u8>> {
    let mut first = [0; FIRST_BYTES];
    let length = loop {
        match file.read(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    let mut bytes = first.get(..length).unwrap_or_default().to_vec();
    if length >= PAGE_BYTES || (length > 0 && !is_attribute) {
        file.take((MAX_FILE_BYTES + 1).saturating_sub(length as u64)).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What a file holds up to its first empty line.
fn paragraph(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_FILE_BYTES + 1);
    let mut part = [0; FIRST_BYTES];
    loop {
        let length = match file.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        // The line may end with one part and be empty with the next.
        let begin = bytes.len().saturating_sub(1);
        bytes.extend_from_slice(part.get(..length).unwrap_or_default());
        let new = bytes.get(begin..).unwrap_or_default();
        if let Some(end) = new.windows(2).position(|two| two == b"\n\n") {
            bytes.truncate(begin + end + 1);
            return Ok(bytes);
        }
        if length == 0 {
            return Ok(bytes);
        }
    }
}

/// The parts of a path that lead on from where it starts, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// A folder of attributes, as sysfs has one for each device. An attribute that a device does not
/// have is `None`: which ones there are depends on the kernel and the driver.
#[derive(Debug)]
pub struct Attributes<'a> {
    root: &'a HostRoot,
    folder: PathBuf,
    /// Where the folder is, so that its links are followed once and not for each attribute.
    found: Option<Found>,
    held: Option<Held>,
}

impl Attributes<'_> {
    /// The attribute's text without the white space around it.
    ///
    /// # Errors
    ///
    /// When the attribute is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, ReadError> {
        let text = if_present(self.text(name))?;
        Ok(text.map(|(text, _)| text.trim().to_owned()))
    }

    /// The attribute's text, and where it is.
    fn text(&self, name: &str) -> Result<(String, PathBuf), ReadError> {
        if let Some(held) = &self.held
            && let Some(text) = self.root.read_below(held, Path::new(name))?
        {
            return Ok((text, held.path.join(name)));
        }
        let (way, name) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = match &self.found {
            Some(found) => self.root.walk(found, Path::new(way), false)?,
            None => self.root.walk(&Found::root(), &self.folder.join(way), false)?,
        };
        self.root.read_in(&folder, Path::new(name))
    }

    fn follow(&self, name: &str) -> Result<Found, ReadError> {
        match &self.found {
            Some(found) => self.root.follow_from(found, Path::new(name)),
            None => self.root.follow(&self.folder.join(name)),
        }
    }

    /// What `parse` makes of the attribute's text without the white space around it.
    ///
    /// # Errors
    ///
    /// When the attribute is missing, cannot be read or not be understood.
    pub fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        let (text, path) = self.text(name)?;
        parse(text.trim())
            .map_err(|source| ReadError::NotUnderstood { path: self.root.below(&path), source })
    }

    /// The attribute's text without the white space around it, or `None` where the kernel says that
    /// it has no value: see [`ReadError::is_no_value`].
    ///
    /// # Errors
    ///
    /// When the attribute is there and cannot be read for another reason.
    pub fn read_if_told(&self, name: &str) -> Result<Option<String>, ReadError> {
        match self.read(name) {
            Err(error) if error.is_no_value() => Ok(None),
            result => result,
        }
    }

    /// Whether the attribute is `1`.
    ///
    /// # Errors
    ///
    /// When the attribute is there and cannot be read.
    pub fn is_set(&self, name: &str) -> Result<bool, ReadError> {
        Ok(self.read(name)?.is_some_and(|text| text == "1"))
    }

    /// Where the folder, or a link or folder in it, really is: see [`HostRoot::resolve`].
    ///
    /// # Errors
    ///
    /// When it is there and cannot be followed.
    pub fn resolve(&self, name: &str) -> Result<Option<PathBuf>, ReadError> {
        if_present(self.follow(name).map(|found| found.path))
    }

    /// Whether there is an attribute, folder or link of that name.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    pub fn has(&self, name: &str) -> Result<bool, ReadError> {
        Ok(self.resolve(name)?.is_some())
    }

    /// The name of what a link leads to: the driver of `driver`, the bus of `subsystem`.
    ///
    /// # Errors
    ///
    /// When the link is there and cannot be followed.
    pub fn link_name(&self, name: &str) -> Result<Option<String>, ReadError> {
        let target = self.resolve(name)?;
        Ok(target.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())))
    }

    /// Whether the device has been taken away since it was listed.
    pub fn vanished(&self) -> bool {
        let found = self.root.walk(&Found::root(), &self.folder, true);
        matches!(found, Err(ReadError::Missing { .. }))
    }
}

fn if_present<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a file of the host told nothing. Paths are as this process sees them, with the root.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("{} does not exist: is --host-root the root of a host with /proc and /sys?", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is there and cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The root itself is not there.
    #[error("{} is no folder: give --host-root a host's root, or a capture that is unpacked", path.display())]
    NoRoot {
        /// What was given.
        path: PathBuf,
    },
    /// It says what cannot be beside something else.
    #[error("{} is not believed: {words}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What cannot be.
        words: &'static str,
    },
    /// It is a pipe, a socket or a device.
    #[error("{} is no file, but a pipe, a socket or a device", path.display())]
    NoFile {
        /// What is there.
        path: PathBuf,
    },
    /// It says what a saved machine answered, and cannot be used.
    #[error(
        "{} is of no machine that this version can read: capture it again, or use the version that saved it",
        path.display()
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It is larger than any such file is.
    #[error("{} has more than {MAX_FILE_BYTES} bytes, which no such file has", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Its symbolic links lead nowhere.
    #[error("{} leads through more than {MAX_LINKS} symbolic links", path.display())]
    LinkLoop {
        /// The path.
        path: PathBuf,
    },
    /// It was read, and says something unexpected.
    #[error("{} is not understood", path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        source: ParseError,
    },
}

impl ReadError {
    fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            // A path below a regular file (/sys/class/net/bonding_masters) is missing too.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            _ => Self::Unreadable { path, source },
        }
    }

    /// Whether the kernel answered as it does for an attribute that has no value now, or never has
    /// one on this device. Any other error leaves the value unknown.
    pub fn is_no_value(&self) -> bool {
        const ENXIO: i32 = 6;
        const EINVAL: i32 = 22;
        const ENODATA: i32 = 61;
        const EOPNOTSUPP: i32 = 95;
        matches!(self, Self::Unreadable { source, .. } if source
            .raw_os_error()
            .is_some_and(|number| [ENXIO, EINVAL, ENODATA, EOPNOTSUPP].contains(&number)))
    }
}

/// A text that is not what its file should hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected {expected}, found \"{found}\"")]
pub struct ParseError {
    expected: &'static str,
    found: String,
}

impl ParseError {
    /// Keeps what was expected, and the beginning of what was found.
    pub fn new(expected: &'static str, found: &str) -> Self {
        const SHOWN_CHARS: usize = 60;
        let mut short: String =
            found.trim_end().chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
        if found.trim_end().chars().nth(SHOWN_CHARS).is_some() {
            short.push('…');
        }
        Self { expected, found: short }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rollcall_report::error_chain;

    use super::*;

    fn host(folder: &tempfile::TempDir) -> HostRoot {
        let etc = folder.path().join("etc");
        fs::create_dir_all(etc.join("conf.d")).expect("a folder");
        fs::write(etc.join("name"), b"n\xffde\n").expect("written");
        fs::write(etc.join("large"), vec![b'a'; 4 * 1024 * 1024 + 1]).expect("written");
        symlink("/etc/name", etc.join("absolute")).expect("linked");
        symlink("../../../../etc/name", etc.join("conf.d/climbing")).expect("linked");
        symlink("conf.d", etc.join("folder")).expect("linked");
        symlink("loop", etc.join("loop")).expect("linked");
        HostRoot::new(folder.path())
    }

    #[test]
    fn links_stay_below_the_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = host(&folder);
        for path in ["/etc/name", "/etc/absolute", "/etc/folder/climbing", "../etc/./name"] {
            let resolved = host.resolve(path).expect(path);
            assert_eq!(resolved, Path::new("/etc/name"), "{path}");
            assert_eq!(host.read(path).expect(path), "n\u{fffd}de\n", "{path}");
        }
    }

    #[test]
    fn each_trouble_has_its_own_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = host(&folder);
        for (path, words) in [
            ("/etc/none", "etc/none does not exist"),
            ("/etc/name/below", "etc/name/below does not exist"),
            ("/etc/conf.d", "etc/conf.d cannot be read: Is a directory"),
            ("/etc/large", "etc/large has more than 4194304 bytes"),
            ("/etc/loop", "etc/loop leads through more than 40 symbolic links"),
        ] {
            let error = host.read(path).expect_err(path);
            assert!(error_chain(&error).contains(words), "{path}: {}", error_chain(&error));
        }
        let error = host
            .parse("/etc/name", |text| Err::<(), _>(ParseError::new("a number", text)))
            .expect_err("no number");
        let chain = error_chain(&error);
        let words = r#"etc/name is not understood: expected a number, found "n\u{fffd}de""#;
        assert!(chain.ends_with(words), "{chain}");
    }

    #[test]
    fn what_is_opened_unseen_is_as_if_it_had_been_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["sys/device/queue", "sys/other", "etc"] {
            fs::create_dir_all(at(path)).expect("a folder");
        }
        for (path, text) in [
            ("etc/name", "of the host"),
            ("sys/device/size", "8"),
            ("sys/device/empty", ""),
            ("sys/device/queue/depth", "32"),
            ("sys/other/type", "disk"),
        ] {
            fs::write(at(path), text).expect("written");
        }
        let large = vec![b'a'; FIRST_BYTES * 3];
        fs::write(at("sys/device/large"), &large).expect("written");
        symlink("/etc/name", at("sys/device/name")).expect("linked");
        symlink("../other", at("sys/device/relative")).expect("linked");
        symlink("/sys/other", at("sys/device/absolute")).expect("linked");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, at("sys/device/pipe"), rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        let _socket = UnixListener::bind(at("sys/device/socket")).expect("a socket");
        let host = HostRoot::new(folder.path());
        for host in [host.for_one_probe(), host] {
            let device = host.attributes("/sys/device");
            for (name, expected) in [
                ("size", Ok(Some("8"))),
                ("empty", Ok(Some(""))),
                ("none", Ok(None)),
                ("size/none", Ok(None)),
                ("queue/depth", Ok(Some("32"))),
                ("none/depth", Ok(None)),
                ("name", Ok(Some("of the host"))),
                ("relative/type", Ok(Some("disk"))),
                ("absolute/type", Ok(Some("disk"))),
                ("queue", Err("sys/device/queue cannot be read: Is a directory")),
                ("pipe", Err("sys/device/pipe is no file, but a pipe")),
                ("socket", Err("sys/device/socket is no file, but a pipe, a socket")),
            ] {
                let of_device = device.read(name);
                let by_path = host.read_if_present(format!("/sys/device/{name}"));
                for read in [of_device, by_path] {
                    let read = read.map_err(|error| error_chain(&error));
                    match (&read, expected) {
                        (Ok(text), Ok(expected)) => assert_eq!(text.as_deref(), expected, "{name}"),
                        (Err(said), Err(words)) => assert!(said.contains(words), "{name}: {said}"),
                        _ => panic!("{name}: {read:?}"),
                    }
                }
            }
            let whole = device.read("large").expect("readable").expect("there");
            assert!(whole.as_bytes() == large, "{} bytes", whole.len());
        }
    }

    #[test]
    fn a_paragraph_ends_with_an_empty_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = HostRoot::new(folder.path());
        let long = "a".repeat(FIRST_BYTES - 1);
        for (text, expected) in [
            ("a\nb\n\nc\n\n", "a\nb\n"),
            ("a\nb\n", "a\nb\n"),
            ("\n\na", "\n"),
            ("", ""),
            (&format!("{long}\n\nb"), &format!("{long}\n")),
            (&format!("{long}a\n\nb"), &format!("{long}a\n")),
        ] {
            fs::write(folder.path().join("file"), text).expect("written");
            let read = host.read_paragraph_if_present("/file").expect("readable");
            assert!(read.as_deref() == Some(expected), "{} bytes", text.len());
        }
        assert_eq!(host.read_paragraph_if_present("/none").expect("looked for"), None);
    }

    #[test]
    fn a_probe_looks_once_and_at_a_device_that_may_have_gone_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = host(&folder);
        let probe = all.for_one_probe();
        let device = probe.attributes("/etc/folder");
        assert_eq!(device.resolve("").expect("there"), Some("/etc/conf.d".into()));
        let link = folder.path().join("etc/folder");
        fs::remove_file(&link).expect("removed");
        assert_eq!(probe.resolve("/etc/folder").expect("known"), Path::new("/etc/conf.d"));
        assert!(all.resolve("/etc/folder").is_err(), "another probe finds that it is gone");
        assert!(device.vanished());
        symlink("conf.d", &link).expect("linked");
        assert!(!device.vanished());
        fs::remove_dir_all(folder.path().join("etc/conf.d")).expect("removed");
        assert!(device.vanished(), "what the link leads to is gone");
    }

    #[test]
    fn a_device_that_goes_away_is_told_from_one_that_lacks_an_attribute() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = host(&folder);
        let device = host.attributes("/etc/conf.d");
        assert_eq!(device.read("size").expect("readable"), None);
        assert!(!device.vanished());
        fs::remove_dir_all(folder.path().join("etc/conf.d")).expect("removed");
        assert!(device.vanished());
    }
}
