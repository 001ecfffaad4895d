//! What goes wrong between the agent and the Kubernetes API, by who can mend it.

use std::fmt;

use rollcall_daemon::kubernetes::words;

/// Something that went wrong; all is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kind it is of.
    pub kind: Kind,
    /// What was tried, what came back, and what to do.
    pub words: String,
}

/// Kinds of trouble, by who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kubeconfig or the service account's files are of no use.
    Configuration,
    /// No answer came, or it broke off.
    Unreachable,
    /// The credentials are not taken (401).
    Unauthorized,
    /// The credentials do not allow it (403).
    Forbidden,
    /// The labels or the Node were changed by others meanwhile (409, 422), or the Node is gone (404).
    Conflict,
    /// What was watched is no longer kept (410): it is only looked at anew.
    Expired,
    /// The API server is in trouble (429, 5xx), or it answered what it should not.
    Failed,
}

impl Kind {
    /// The kinds that are counted.
    pub const COUNTED: [Self; 6] = [
        Self::Configuration,
        Self::Unreachable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Conflict,
        Self::Failed,
    ];

    /// The kind's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// What to do about it.
    const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Unreachable => Some("is the API server running, and can this node reach it?"),
            Self::Unauthorized => Some("its credentials must be renewed"),
            Self::Forbidden => Some("its user must be allowed to get, list, watch and patch nodes"),
            Self::Configuration | Self::Conflict | Self::Expired | Self::Failed => None,
        }
    }

    const fn of_status(code: u16) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 | 409 | 422 => Self::Conflict,
            410 => Self::Expired,
            _ => Self::Failed,
        }
    }

    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status.code),
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                Self::Unreachable
            }
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Failed,
            _ => Self::Configuration,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        match self.kind.advice() {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

impl Trouble {
    /// Trouble in words.
    pub fn new(kind: Kind, words: impl Into<String>) -> Self {
        Self { kind, words: words.into() }
    }

    /// What a request to `api` came to.
    pub fn of(api: &str, error: &kube::Error) -> Self {
        Self::new(Kind::of(error), format!("{api}: {}", words::of(error)))
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn answers_of_the_api() {
        for (code, message, kind, words) in [
            (401, "Unauthorized", Kind::Unauthorized, "401: Unauthorized: its credentials"),
            (403, "nodes is forbidden", Kind::Forbidden, "403: nodes is forbidden: its user must"),
            (404, "not found", Kind::Conflict, "404: not found"),
            (409, "uid mismatch", Kind::Conflict, "409: uid mismatch"),
            (410, "too old resource version", Kind::Expired, "410: too old"),
            (422, "field is immutable", Kind::Conflict, "422: field is"),
            (429, "", Kind::Failed, "429 slow down"),
            (503, "etcd is away", Kind::Failed, "503: etcd is away"),
        ] {
            let status = Status::failure(message, "slow down").with_code(code).boxed();
            let trouble = Trouble::of("https://a.example", &kube::Error::Api(status));
            assert_eq!(trouble.kind, kind, "{code}");
            let text = trouble.to_string();
            assert!(text.starts_with("https://a.example: it answered"), "{text}");
            assert!(text.contains(words), "{text}");
        }
    }
}
