//! Reads the host's files below an injected root: `/` on the host itself, `/host` in a container,
//! a fixture's folder in a test. Nothing in this crate opens `/proc`, `/sys` or `/etc` otherwise.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The largest file that is read: `/proc/cpuinfo` of a machine with two thousand CPUs fits.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// How many symbolic links one path may lead through, as `path_resolution(7)` has it.
const MAX_LINKS: usize = 40;

/// The root of a host's file system, as this process sees it.
#[derive(Debug, Clone)]
pub struct HostRoot {
    root: PathBuf,
}

impl HostRoot {
    /// Takes a folder as the host's root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of a file; bytes that are no UTF-8 (firmware tells its names in any encoding) are
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] where there is no such file, another where it could not be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String, ReadError> {
        let path = self.locate(path.as_ref())?;
        let failed = |source| ReadError::new(&path, source);
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(failed)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            return Err(ReadError::TooLarge { path });
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text of a file, or `None` where there is no such file.
    ///
    /// # Errors
    ///
    /// When the file is there and cannot be read.
    pub fn read_if_present(&self, path: impl AsRef<Path>) -> Result<Option<String>, ReadError> {
        if_present(self.read(path))
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
        let path = self.locate(path.as_ref())?;
        let failed = |source| ReadError::new(&path, source);
        fs::read_dir(&path)
            .map_err(failed)?
            .map(|entry| {
                entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(failed)
            })
            .collect()
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
        let asked = path.as_ref();
        let mut resolved = PathBuf::from("/");
        let mut ahead = names(asked);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            resolved.push(&name);
            let here = self.below(&resolved);
            let failed = |source| ReadError::new(&here, source);
            if !fs::symlink_metadata(&here).map_err(failed)?.is_symlink() {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(ReadError::LinkLoop { path: self.below(asked) });
            }
            let target = fs::read_link(&here).map_err(failed)?;
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            } else {
                resolved.pop();
            }
            ahead.extend(names(&target));
        }
        Ok(resolved)
    }

    /// A folder of attributes below this root.
    pub fn attributes(&self, folder: impl Into<PathBuf>) -> Attributes<'_> {
        Attributes { root: self, folder: folder.into() }
    }

    fn locate(&self, path: &Path) -> Result<PathBuf, ReadError> {
        Ok(self.below(&self.resolve(path)?))
    }

    fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
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
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    root: &'a HostRoot,
    folder: PathBuf,
}

impl Attributes<'_> {
    /// The attribute's text without the white space around it.
    ///
    /// # Errors
    ///
    /// When the attribute is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<String>, ReadError> {
        let text = self.root.read_if_present(self.folder.join(name))?;
        Ok(text.map(|text| text.trim().to_owned()))
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
        self.root.parse(self.folder.join(name), |text| parse(text.trim()))
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
        if_present(self.root.resolve(self.folder.join(name)))
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
        matches!(self.root.resolve(&self.folder), Err(ReadError::Missing { .. }))
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

    /// Whether the kernel answered EINVAL, which is how it says that an attribute has no value now.
    pub fn is_invalid_argument(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. }
            if source.kind() == io::ErrorKind::InvalidInput)
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
