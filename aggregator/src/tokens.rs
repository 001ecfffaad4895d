//! Bearer tokens: the join tokens of agents, the tokens of operators.

pub mod files;

use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use rollcall_daemon::secret::Secret;
use rollcall_report::{Refusal, RefusalCode};
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;

/// The bearer tokens that open a door. Kept as digests, compared in constant time. All clones are
/// replaced together.
#[derive(Clone)]
pub struct Tokens {
    digests: Arc<RwLock<Digests>>,
}

type Digests = Arc<[[u8; 32]]>;

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.count())
    }
}

/// A token that is too easy to guess.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the token on line {line} has {chars} characters, at least {MIN_TOKEN_CHARS} are needed; make one with: openssl rand -hex 32"
)]
pub struct WeakToken {
    line: usize,
    chars: usize,
}

const MIN_TOKEN_CHARS: usize = 16;

impl Tokens {
    /// Takes the tokens of a secret file: one a line, so that an old and a new one can both hold
    /// while agents change over.
    ///
    /// # Errors
    ///
    /// When a token is too short.
    pub fn new(file: &Secret) -> Result<Self, WeakToken> {
        let mut digests = Vec::new();
        for (index, token) in file.expose().lines().map(str::trim).enumerate() {
            let chars = token.chars().count();
            if chars == 0 {
                continue;
            }
            if chars < MIN_TOKEN_CHARS {
                return Err(WeakToken { line: index + 1, chars });
            }
            digests.push(sha256(token));
        }
        Ok(Self { digests: Arc::new(RwLock::new(digests.into())) })
    }

    /// None yet: they let nobody in until they are replaced.
    pub fn none() -> Self {
        Self { digests: Arc::new(RwLock::new(Digests::from([]))) }
    }

    /// Whether a token is among both.
    pub fn shares_one_with(&self, other: &Self) -> bool {
        let theirs = other.digests();
        self.digests().iter().any(|digest| theirs.contains(digest))
    }

    /// Whether the tokens are the same, in the same order.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digests() == other.digests()
    }

    /// Lets in whom the other tokens let in, and nobody else.
    pub fn replace(&self, other: &Self) {
        let new = other.digests();
        *self.digests.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.digests().len()
    }

    fn digests(&self) -> Digests {
        Arc::clone(&self.digests.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks a token that was presented.
    ///
    /// # Errors
    ///
    /// The refusal to answer with.
    pub fn check(&self, token: &str) -> Result<(), Refusal> {
        let digests = self.digests();
        if digests.is_empty() {
            let message = "this aggregator has no token to compare with yet: its log says which file it waits for";
            return Err(Refusal { code: RefusalCode::Unavailable, message: message.to_owned() });
        }
        let presented = sha256(token);
        let known =
            digests.iter().fold(Choice::from(0), |known, digest| known | digest.ct_eq(&presented));
        if known.into() {
            return Ok(());
        }
        let message =
            "the token is not one that this aggregator knows: compare the two token files";
        Err(Refusal { code: RefusalCode::CredentialsWrong, message: message.to_owned() })
    }
}

/// The token of a request's `Authorization: Bearer …`.
///
/// # Errors
///
/// The refusal to answer with.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let refuse = |code, message: &str| Refusal { code, message: message.to_owned() };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(refuse(
            RefusalCode::CredentialsMissing,
            "no credentials: send the header Authorization: Bearer TOKEN",
        ));
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
        Some((_, token)) => Ok(token.trim()),
        None => Err(refuse(
            RefusalCode::CredentialsWrong,
            "the Authorization header is not of the form: Bearer TOKEN",
        )),
    }
}

/// The password of a request's `Authorization: Basic …`; `None`: it has none of this kind.
///
/// # Errors
///
/// The refusal to answer with.
pub fn basic_password(headers: &HeaderMap) -> Option<Result<Secret, Refusal>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(credentials.trim()).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let password = text.as_deref().and_then(|text| text.split_once(':')).map(|(_, it)| it.trim());
    Some(password.map(|password| Secret::new(password.to_owned())).ok_or_else(|| Refusal {
        code: RefusalCode::CredentialsWrong,
        message: "the Authorization header is not of the form: Basic BASE64(USER:TOKEN)".to_owned(),
    }))
}

/// A token's digest.
pub fn sha256(token: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const OLD: &str = "an-old-token-of-many-characters";
    const NEW: &str = "a-new-token-of-many-characters";

    #[test]
    fn bearer_tokens() {
        let tokens = Tokens::new(&Secret::new(format!("{OLD}\n\n{NEW}\n"))).expect("long enough");
        let missing = Err(RefusalCode::CredentialsMissing);
        let wrong = Err(RefusalCode::CredentialsWrong);
        for (what, header, expected) in [
            ("no header", None, missing),
            ("the first token", Some(format!("Bearer {OLD}")), Ok(())),
            ("the second token", Some(format!("bearer {NEW}")), Ok(())),
            ("another token", Some("Bearer hunter2".into()), wrong),
            ("a prefix", Some(format!("Bearer {}", NEW.trim_end_matches('s'))), wrong),
            ("nothing", Some("Bearer ".into()), wrong),
            ("another scheme", Some(format!("Basic {NEW}")), wrong),
            ("no scheme", Some(NEW.into()), wrong),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&value).expect("text"));
            }
            assert_eq!(
                bearer(&headers)
                    .and_then(|token| tokens.check(token))
                    .map_err(|refusal| refusal.code),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn without_tokens_nobody_comes_in_until_there_are_some() {
        let tokens = Tokens::none();
        for token in ["", OLD] {
            let refusal = tokens.check(token).expect_err("there are none");
            assert_eq!(refusal.code, RefusalCode::Unavailable, "{token:?}");
        }
        tokens.replace(&Tokens::new(&Secret::new(OLD.to_owned())).expect("long enough"));
        assert_eq!(tokens.check(OLD), Ok(()));
    }

    #[test]
    fn short_tokens_are_refused_without_showing_them() {
        let error = Tokens::new(&Secret::new(format!("{OLD}\nhunter2"))).expect_err("short");
        assert!(error.to_string().contains("line 2 has 7 characters"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
