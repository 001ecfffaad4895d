//! Secrets that come from files, and that no log, metric, error or page can show.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The largest secret file that is read: a service account's token has about a thousand bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A secret text. Its `Debug` shows nothing of it, and it has no `Display`.
#[derive(Clone)]
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

/// Reads a secret file; white space around the secret is taken off.
///
/// # Errors
///
/// When the file cannot be read, is empty, too large or no text.
pub fn read_secret_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than allowed tells that it is too large, whatever length it claims.
    let mut file = fs::File::open(path).map_err(unreadable)?.take(MAX_BYTES + 1);
    file.read_to_string(&mut text).map_err(unreadable)?;
    if file.limit() == 0 {
        return Err(SecretError::TooLarge { path: path.to_owned() });
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(SecretError::Empty { path: path.to_owned() });
    }
    Ok(Secret::new(text.to_owned()))
}

/// Reads the token to present from a token file: the first line. A file may hold several, one a
/// line, so that the other end knows an old and a new one while they are changed.
///
/// # Errors
///
/// As [`read_secret_file`].
pub fn read_token_file(path: &Path) -> Result<Secret, SecretError> {
    let secret = read_secret_file(path)?;
    let first = secret.expose().lines().next().unwrap_or_default().trim();
    Ok(Secret::new(first.to_owned()))
}

/// Warns where every user of the machine can read a secret file. To be called once, at the start.
pub fn warn_if_exposed(path: &Path) {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o004 != 0) {
        log::warn!(path:% = path.display(); "every user of this machine can read this secret: set its mode to 0600 or 0640");
    }
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
    #[error("secret file {} has more than {MAX_BYTES} bytes: is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
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
            (&vec![b'a'; 70_000], "has more than 65536 bytes"),
        ] {
            fs::write(&path, content).expect("written");
            let got = match read_secret_file(&path) {
                Ok(secret) => secret.expose().to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(got.contains(outcome), "{outcome}: {got}");
        }
        fs::write(&path, " new \nold\n").expect("written");
        let token = read_token_file(&path).expect("two tokens");
        assert_eq!(token.expose(), "new");
        let missing = read_secret_file(&folder.path().join("none")).expect_err("missing");
        assert!(missing.to_string().contains("none cannot be read"), "{missing}");
    }
}
