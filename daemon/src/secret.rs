//! Secrets that come from files, and that no log, metric, error or page can show.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The largest secret file that is read: a service account's token has about a thousand bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A secret text. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a file that holds one secret; white space around it is taken off.
///
/// # Errors
///
/// When the file cannot be read, is empty, too large or no text.
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAX_BYTES {
        return Err(SecretError::TooLarge { path: path.to_owned(), bytes: metadata.len() });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(SecretError::Empty { path: path.to_owned() });
    }
    Ok(Secret::new(text.to_owned()))
}

/// Why a secret file gave no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read, or is no UTF-8.
    #[error("secret file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("secret file {} is empty: write the secret into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is too large to be a secret.
    #[error("secret file {} has {bytes} bytes, a secret has at most {MAX_BYTES}: is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "Secret(…)");
    }

    #[test]
    fn files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        for (content, outcome) in [
            (&b" abc\n"[..], "abc"),
            (b"\n", "is empty"),
            (b"\xff", "cannot be read"),
            (&vec![b'a'; 70_000], "has 70000 bytes"),
        ] {
            fs::write(&path, content).expect("written");
            let got = match read_secret_file(&path) {
                Ok(secret) => secret.expose().to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(outcome), "{outcome}: {got}");
        }
        let missing = read_secret_file(&folder.path().join("none")).expect_err("missing");
        assert!(missing.to_string().contains("none cannot be read"), "{missing}");
    }
}
