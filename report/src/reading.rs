//! A reading is a value, an absence or a failure; never a silent zero.

use serde::{Deserialize, Serialize};

/// What came of looking for one thing on a machine.
///
/// On the wire: `{"known": VALUE}`, `"absent"` or `{"failed": {"reason": "…"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Reading<T> {
    /// The machine told the value.
    Known(T),
    /// The machine was asked and has no such thing, or has it and tells no value: a NIC that
    /// reports no speed, a virtual machine without memory blocks.
    Absent,
    /// The machine could not be asked. The value is not zero, it is unknown.
    Failed {
        /// What was tried, on what, and what came back; for the person who must act.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
        reason: String,
    },
}

impl<T> Reading<T> {
    /// The value, where there is one.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Failed { .. } => None,
        }
    }

    /// A reading of what is not there, for fields that older reports lack.
    #[must_use]
    pub const fn absent() -> Self {
        Self::Absent
    }

    /// Whether there is no such thing.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Why there is no value, where the reading failed.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed { reason } => Some(reason),
            Self::Known(_) | Self::Absent => None,
        }
    }

    /// Makes a failed reading of anything that says why.
    pub fn failed(reason: &(impl ToString + ?Sized)) -> Self {
        let reason = crate::clean_text(&reason.to_string());
        Self::Failed {
            reason: if reason.is_empty() { "no reason was given".into() } else { reason },
        }
    }

    /// The same reading with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reading<U> {
        match self {
            Self::Known(value) => Reading::Known(f(value)),
            Self::Absent => Reading::Absent,
            Self::Failed { reason } => Reading::Failed { reason },
        }
    }
}

impl<T, E: std::error::Error> From<Result<T, E>> for Reading<T> {
    /// An error becomes a failure whose reason is the whole chain of sources.
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::failed(&error_chain(&error)),
        }
    }
}

/// An error with all its sources in one line, as a reason, a log or a status shows it.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
