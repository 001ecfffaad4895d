//! What a saved machine says of itself beside its files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use crate::probe::nvml_answers::Answers;

/// What the files of a saved machine cannot say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The form of the capture, see [`Self::FORMAT`].
    pub format: u32,
    /// The version of the agent that saved it.
    pub agent_version: String,
    /// The architecture that the agent was built for, which stands in for what kernels before 6.1
    /// do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Whether removable disks were to be counted.
    #[serde(default)]
    pub count_removable: bool,
    /// The paths that could not be read, with the system's error number.
    #[serde(default)]
    pub errors: BTreeMap<PathBuf, i32>,
    /// The paths that could not even be looked at, likewise: folders on the way were closed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unreachable: BTreeMap<PathBuf, i32>,
    /// What NVIDIA's library answered; `None` where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml: Option<Answers>,
}

impl Manifest {
    /// The form that this version writes, and the newest that it reads.
    pub const FORMAT: u32 = 1;

    /// Where it is in a capture.
    pub const FILE: &str = "/rollcall-capture.json";

    /// The manifest of a capture made now.
    pub fn new(count_removable: bool, nvml: Option<Answers>) -> Self {
        Self {
            format: Self::FORMAT,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            architecture: Some(std::env::consts::ARCH.to_owned()),
            count_removable,
            errors: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            nvml,
        }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// When it is none, or one of a form that this version does not know.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let manifest: Self = serde_json::from_str(text)?;
        if manifest.format == 0 || manifest.format > Self::FORMAT {
            let words = format!("form {} is unknown here", manifest.format);
            return Err(serde_json::Error::custom(words));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let written = Manifest::new(true, None);
        let text = serde_json::to_string(&written).expect("encodes");
        assert_eq!(Manifest::parse(&text).expect("reads"), written);
        for (text, words) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"format":2,"agentVersion":"9.0.0"}"#, "form 2 is unknown here"),
            (r#"{"format":0,"agentVersion":"9.0.0"}"#, "form 0 is unknown here"),
        ] {
            let message = Manifest::parse(text).expect_err(text).to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
