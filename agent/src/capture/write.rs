//! Writes a saved machine to a folder or to an archive.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use thiserror::Error;

use super::{Capture, Manifest, Saved};

/// Writes a capture to a new folder, or to a new archive where the path ends in `.tar.gz` or
/// `.tgz`.
///
/// # Errors
///
/// When the path is taken or cannot be written; what is there already is left as it is.
pub fn write(capture: &Capture, path: &Path) -> Result<(), WriteError> {
    let failed = |source: io::Error| WriteError::of(path, source);
    let manifest = serde_json::to_string_pretty(&capture.manifest)
        .map_err(|source| WriteError::of(path, source))?
        + "\n";
    match form(path) {
        Form::Archive => archive(capture, &manifest, path).map_err(failed),
        Form::Folder => folder(capture, &manifest, path).map_err(failed),
        Form::Unknown => Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "archives are written as .tar.gz alone",
        ))),
    }
}

enum Form {
    Folder,
    Archive,
    /// What asks for something else than both.
    Unknown,
}

fn form(path: &Path) -> Form {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".tar.gz", ".tgz"]) {
        Form::Archive
    } else if name == "-" || ends(&[".tar", ".gz", ".zip", ".xz", ".zst", ".bz2"]) {
        Form::Unknown
    } else {
        Form::Folder
    }
}

fn folder(capture: &Capture, manifest: &str, path: &Path) -> io::Result<()> {
    // Another's files stay another's: it must be new. What a machine has is its owner's business.
    DirBuilder::new().mode(0o700).create(path)?;
    let written = files(capture, manifest, path);
    if written.is_err() {
        // Half a machine would be probed as a whole one.
        drop(fs::remove_dir_all(path));
    }
    written
}

fn files(capture: &Capture, manifest: &str, path: &Path) -> io::Result<()> {
    let at = |inside: &Path| path.join(inside.strip_prefix("/").unwrap_or(inside));
    for (inside, saved) in &capture.files {
        let target = at(inside);
        match saved {
            Saved::Folder => fs::create_dir_all(&target)?,
            Saved::File(text) => fs::write(&target, text)?,
            Saved::Link(to) => symlink(to, &target)?,
        }
    }
    fs::write(at(Path::new(Manifest::FILE)), manifest)
}

fn archive(capture: &Capture, manifest: &str, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = entries(capture, manifest, file);
    if written.is_err() {
        // Half an archive is of use to nobody.
        drop(fs::remove_file(path));
    }
    written
}

fn entries(capture: &Capture, manifest: &str, file: File) -> io::Result<()> {
    let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
    let inside = |path: &Path| -> PathBuf {
        Path::new("capture").join(path.strip_prefix("/").unwrap_or(path))
    };
    let header = |kind, size: usize, mode| -> io::Result<Header> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(u64::try_from(size).map_err(io::Error::other)?);
        header.set_mode(mode);
        Ok(header)
    };
    for (path, saved) in &capture.files {
        let path = inside(path);
        match saved {
            Saved::Folder => archive.append_data(
                &mut header(EntryType::Directory, 0, 0o700)?,
                path,
                io::empty(),
            )?,
            Saved::File(text) => archive.append_data(
                &mut header(EntryType::Regular, text.len(), 0o600)?,
                path,
                text.as_bytes(),
            )?,
            Saved::Link(to) => {
                archive.append_link(&mut header(EntryType::Symlink, 0, 0o777)?, path, to)?;
            }
        }
    }
    archive.append_data(
        &mut header(EntryType::Regular, manifest.len(), 0o600)?,
        inside(Path::new(Manifest::FILE)),
        manifest.as_bytes(),
    )?;
    archive.into_inner()?.finish()?.flush()
}

/// Why a capture was not written.
#[derive(Debug, Error)]
#[error("{} cannot be written: give the path of a new folder, or of a new FILE.tar.gz", path.display())]
pub struct WriteError {
    path: PathBuf,
    source: io::Error,
}

impl WriteError {
    /// What kept the capture from being written there.
    pub fn of(path: &Path, source: impl Into<io::Error>) -> Self {
        Self { path: path.to_owned(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture() -> Capture {
        let files = [
            ("/", Saved::Folder),
            ("/etc", Saved::Folder),
            ("/etc/name", Saved::File("n1\n".into())),
            ("/etc/link", Saved::Link("name".into())),
        ];
        let files = files.into_iter().map(|(path, saved)| (PathBuf::from(path), saved)).collect();
        Capture { manifest: Manifest::new(false, None), files }
    }

    #[test]
    fn where_a_capture_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (name, is_folder) in
            [("m", true), ("m.TAR.GZ", false), ("m.tgz", false), ("m.tar.gz.d", true)]
        {
            write(&capture(), &at(name)).expect(name);
            assert_eq!(at(name).is_dir(), is_folder, "{name}");
            let again = write(&capture(), &at(name)).expect_err(name).to_string();
            assert!(again.contains("give the path of a new folder"), "{again}");
        }
        for name in ["-", "m.tar", "m.zip", "m.json.gz"] {
            write(&capture(), &at(name)).expect_err(name);
            assert!(!at(name).exists(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("m/etc/link")).expect("a file"), "n1\n");
    }

    #[test]
    fn nothing_is_left_of_what_failed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m");
        let mut capture = capture();
        // A file below a file cannot be.
        capture.files.insert("/etc/name/below".into(), Saved::File(String::new()));
        write(&capture, &path).expect_err("no such folder");
        assert!(!path.exists(), "half a machine is left");
    }
}
