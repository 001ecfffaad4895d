//! The files with the tokens: read at the start, waited for where they are not there, and read again
//! when they change.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollcall_daemon::secret::{SecretError, read_secret_file, warn_if_exposed};
use rollcall_daemon::trouble::Trouble;
use rollcall_report::error_chain;
use thiserror::Error;
use tokio::time::sleep;

use super::{Tokens, WeakToken};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

const HOLD_ON: &str = "the tokens cannot be read again; those before hold on";
const NONE_YET: &str =
    "there are no tokens yet, and nobody is let in by one: the file is waited for";

const JOIN_FLAG: &str = "--token-file";
const OPERATOR_FLAG: &str = "--operator-token-file";

/// Where the tokens are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFiles {
    /// Those of agents.
    pub join: Option<PathBuf>,
    /// Those of operators.
    pub operators: Option<PathBuf>,
}

/// The tokens of both kinds.
#[derive(Debug, Clone, Default)]
pub struct AllTokens {
    /// Those of agents; `None`: no file was named.
    pub join: Option<Tokens>,
    /// Those of operators; `None`: no file was named.
    pub operators: Option<Tokens>,
}

/// Why a token file is of no use.
#[derive(Debug, Error)]
pub enum TokenFileError {
    /// It gives no secret.
    #[error("{flag} is of no use")]
    NoSecret {
        /// The flag that names it.
        flag: &'static str,
        /// What is wrong with it.
        source: SecretError,
    },
    /// A token is too short.
    #[error("{flag} {} holds a token that is too easy to guess", path.display())]
    Weak {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Which token.
        source: WeakToken,
    },
    /// A token opens both doors.
    #[error(
        "{JOIN_FLAG} {} and {OPERATOR_FLAG} {} hold the same token: every agent could act as an operator; make another one with: openssl rand -hex 32", join.display(), operators.display()
    )]
    Shared {
        /// The join tokens.
        join: PathBuf,
        /// The operator's tokens.
        operators: PathBuf,
    },
}

impl TokenFileError {
    /// Whether there is no such file.
    fn is_missing(&self) -> bool {
        matches!(self, Self::NoSecret { source: SecretError::Unreadable { source, .. }, .. }
            if source.kind() == io::ErrorKind::NotFound)
    }
}

impl TokenFiles {
    /// Reads both files. One that is not there may come later: until then nobody is let in by it.
    ///
    /// # Errors
    ///
    /// When one is of no use, or they share a token.
    pub fn load(&self) -> Result<AllTokens, TokenFileError> {
        for path in [&self.join, &self.operators].into_iter().flatten() {
            warn_if_exposed(path);
        }
        let read = |flag, path: &Option<PathBuf>| {
            let read = path.as_ref().map(|path| match read(flag, path) {
                Err(error) if error.is_missing() => Ok(Tokens::none()),
                read => read,
            });
            read.transpose()
        };
        let join = read(JOIN_FLAG, &self.join)?;
        let operators = read(OPERATOR_FLAG, &self.operators)?;
        self.check_apart(join.as_ref(), operators.as_ref())?;
        Ok(AllTokens { join, operators })
    }

    /// Lets in whom the files name from now on, whenever that changes. Where a file is of no use, that
    /// is said once, and the tokens before hold on, if there were any.
    pub async fn follow(self, tokens: AllTokens) -> Infallible {
        let mut troubles = Troubles::default();
        loop {
            self.look(&tokens, &mut troubles);
            sleep(LOOK).await;
        }
    }

    fn look(&self, tokens: &AllTokens, Troubles { join, operators, both }: &mut Troubles) {
        let new_join = changed(JOIN_FLAG, self.join.as_deref(), tokens.join.as_ref(), join);
        let new_operators =
            changed(OPERATOR_FLAG, self.operators.as_deref(), tokens.operators.as_ref(), operators);
        let apart = self.check_apart(
            new_join.as_ref().or(tokens.join.as_ref()),
            new_operators.as_ref().or(tokens.operators.as_ref()),
        );
        if let Err(error) = &apart {
            let words = error_chain(error);
            if both.is_news(&words) {
                log::error!(error = words.as_str(); "{HOLD_ON}");
            }
            return;
        }
        if both.ends() {
            log::info!("no token opens both doors any more");
        }
        for (kind, new, old, path) in [
            ("the join tokens", new_join, &tokens.join, &self.join),
            ("the operator's tokens", new_operators, &tokens.operators, &self.operators),
        ] {
            if let (Some(new), Some(old), Some(path)) = (new, old, path) {
                warn_if_exposed(path);
                let how = if old.count() == 0 { "are there now" } else { "are replaced" };
                log::info!(file:% = path.display(), tokens = new.count(); "{kind} {how}");
                old.replace(&new);
            }
        }
    }

    fn check_apart(
        &self,
        join: Option<&Tokens>,
        operators: Option<&Tokens>,
    ) -> Result<(), TokenFileError> {
        match (join, operators, self.join.clone().zip(self.operators.clone())) {
            (Some(join), Some(theirs), Some((join_file, operators)))
                if theirs.shares_one_with(join) =>
            {
                Err(TokenFileError::Shared { join: join_file, operators })
            }
            _ => Ok(()),
        }
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Tokens, TokenFileError> {
    let secret =
        read_secret_file(path).map_err(|source| TokenFileError::NoSecret { flag, source })?;
    Tokens::new(&secret).map_err(|source| {
        let path = path.to_owned();
        TokenFileError::Weak { flag, path, source }
    })
}

/// What is wrong with each file, and with both together.
#[derive(Debug, Default)]
struct Troubles {
    join: Trouble,
    operators: Trouble,
    both: Trouble,
}

/// What a file holds, where that is of use and not what is known.
fn changed(
    flag: &'static str,
    path: Option<&Path>,
    known: Option<&Tokens>,
    trouble: &mut Trouble,
) -> Option<Tokens> {
    let (path, known) = (path?, known?);
    match read(flag, path) {
        Ok(found) => {
            let is_new = !known.is_same(&found);
            if trouble.ends() && !is_new {
                log::info!(file:% = path.display(); "the tokens can be read again; they are the same");
            }
            is_new.then_some(found)
        }
        Err(error) => {
            let words = error_chain(&error);
            if trouble.is_news(&words) {
                let message = if known.count() == 0 { NONE_YET } else { HOLD_ON };
                log::error!(error = words.as_str(); "{message}");
            }
            None
        }
    }
}
