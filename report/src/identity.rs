//! Who a node is: its Kubernetes name, the `nodeID` it proposes, and the machine behind it.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::Shared;

/// How many hexadecimal digits of a long name's hash end the shortened form.
const NAME_HASH_DIGITS: usize = 10;

/// A node's identity as its agent sees it. The agent proposes, the aggregator accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// The name of the Kubernetes Node.
    pub name: NodeName,
    /// The value that the agent would put on the `nodeID` label.
    pub proposed_id: NodeId,
    /// Where the proposal comes from.
    pub id_source: IdSource,
    /// Tells machines apart without giving away their machine id; left out where the machine has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_hash: Option<MachineHash>,
    /// The `nodeID` label that the Node was seen to carry, where it differs from the proposed id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_label: Option<NodeId>,
    /// Whether the operator lets an explicit id replace another label (`--overwrite-labels`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub overwrite_label: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The label by which a network tells a Node from the others: AIOS places work by it.
pub const NODE_ID_LABEL: &str = "nodeID";

/// The label that carries a node's class. Source: Unikorn's Region controller.
pub const NODE_CLASS_LABEL: &str = "kubernetes.region.unikorn-cloud.org/node-class";

/// Where a proposed `nodeID` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IdSource {
    /// The operator gave it (`--node-id`).
    Explicit,
    /// The Node carries the label already.
    Label,
    /// Made from the node's name, as AIOS's own services assume.
    NodeName,
    /// Somewhere that only a newer version knows.
    #[serde(other)]
    Other,
}

/// Implements what the validated string types below share.
macro_rules! validated_string {
    ($name:ident, $error:ident) => {
        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                Self::check(&text)?;
                Ok(Self(text.into()))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0.to_string()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// The value of the `nodeID` label: a Kubernetes label value that is not empty.
///
/// At most 63 characters of `[A-Za-z0-9._-]`, letters or digits at both ends.
/// Source: Kubernetes documentation, "Labels and Selectors", syntax and character set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(
    feature = "openapi",
    schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
)]
#[serde(try_from = "String")]
pub struct NodeId(Shared<str>);

impl NodeId {
    /// The longest label value that Kubernetes takes, in characters.
    pub const MAX_CHARS: usize = 63;

    /// The id of a node that nobody has given another: its name. One that is too long for a label value
    /// is shortened, and a hash of the whole keeps it apart from its neighbours.
    ///
    /// # Errors
    ///
    /// Not for any name that is known; when the id were no label value.
    pub fn of_name(name: &NodeName) -> Result<Self, InvalidNodeId> {
        let whole = name.as_str();
        if whole.len() <= Self::MAX_CHARS {
            return whole.parse();
        }
        let hash = digest(&SHA256, whole.as_bytes());
        let beginning: String =
            whole.chars().take(Self::MAX_CHARS - NAME_HASH_DIGITS - 1).collect();
        let ending: String = hash
            .as_ref()
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0xf])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .take(NAME_HASH_DIGITS)
            .collect();
        format!("{}-{ending}", beginning.trim_end_matches(['-', '.'])).parse()
    }

    fn check(text: &str) -> Result<(), InvalidNodeId> {
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.chars().count() > Self::MAX_CHARS {
            format!(
                "has {} characters, a label value has at most {}",
                text.chars().count(),
                Self::MAX_CHARS
            )
        } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            "holds a character other than letters, digits, '.', '_' and '-'".to_owned()
        } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !text.ends_with(|c: char| c.is_ascii_alphanumeric())
        {
            "does not begin and end with a letter or digit".to_owned()
        } else {
            return Ok(());
        };
        Err(InvalidNodeId { text: shown(text), problem })
    }
}

validated_string!(NodeId, InvalidNodeId);

/// A text that cannot be a `nodeID`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node id \"{text}\" {problem}")]
pub struct InvalidNodeId {
    text: String,
    problem: String,
}

/// The name of a Kubernetes Node: a DNS subdomain (RFC 1123) of at most 253 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(
    feature = "openapi",
    schema(value_type = String, min_length = 1, max_length = 253, pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
)]
#[serde(try_from = "String")]
pub struct NodeName(Shared<str>);

impl NodeName {
    fn check(text: &str) -> Result<(), InvalidNodeName> {
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > 253 {
            format!("has {} bytes, a node name has at most 253", text.len())
        } else if !text.split('.').all(is_dns_label) {
            "is no DNS subdomain: lower-case letters, digits, '-' and '.', letters or digits at both ends of each part"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(InvalidNodeName { text: shown(text), problem })
    }
}

validated_string!(NodeName, InvalidNodeName);

/// A text that cannot be a Node's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node name \"{text}\" {problem}")]
pub struct InvalidNodeName {
    text: String,
    problem: String,
}

/// An application-specific hash of `/etc/machine-id`: 32 lower-case hexadecimal digits.
///
/// The machine id itself is confidential (machine-id(5)) and never leaves the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(
    feature = "openapi",
    schema(value_type = String, min_length = 32, max_length = 32, pattern = "^[0-9a-f]{32}$")
)]
#[serde(try_from = "String")]
pub struct MachineHash(Shared<str>);

impl MachineHash {
    fn check(text: &str) -> Result<(), InvalidMachineHash> {
        if text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(())
        } else {
            Err(InvalidMachineHash { text: shown(text) })
        }
    }
}

validated_string!(MachineHash, InvalidMachineHash);

/// A text that cannot be a machine's hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("machine hash \"{text}\" is not 32 lower-case hexadecimal digits")]
pub struct InvalidMachineHash {
    text: String,
}

fn is_dns_label(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !part.is_empty()
        && part.bytes().all(|b| inner(b) || b == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// A rejected text as an error may show it: escaped and short, whatever it was.
fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    let mut short: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_become_short_ids_that_differ() {
        let long = |end: &str| format!("{}.{end}.example", "a".repeat(51));
        let name = |text: &str| -> NodeName { text.parse().expect("a node name") };
        // printf %s "$NAME" | sha256sum
        let one = NodeId::of_name(&name(&long("node-one"))).expect("an id");
        assert_eq!(one.as_str(), format!("{}-0205f8b213", "a".repeat(51)));
        let two = NodeId::of_name(&name(&long("node-two"))).expect("an id");
        assert_ne!(one, two);
        let longest_label = "b".repeat(63);
        assert_eq!(NodeId::of_name(&name(&longest_label)).expect("an id").as_str(), longest_label);
    }

    #[test]
    fn node_ids() {
        let longest = "a".repeat(63);
        for good in ["a", "node-1", "Node_1.example", "0", longest.as_str()] {
            assert_eq!(good.parse::<NodeId>().map(|id| id.to_string()).as_deref(), Ok(good));
        }
        let too_long = "a".repeat(64);
        for (bad, problem) in [
            ("", "is empty"),
            (too_long.as_str(), "has 64 characters"),
            ("a\0b", "holds a character other"),
            ("a b", "holds a character other"),
            ("nöde", "holds a character other"),
            ("-a", "does not begin and end"),
            ("a.", "does not begin and end"),
        ] {
            let message = bad.parse::<NodeId>().expect_err(bad).to_string();
            assert!(message.contains(problem), "{bad:?}: {message}");
            assert!(!message.contains('\0'), "{message:?}");
        }
    }

    #[test]
    fn node_names() {
        let longest = vec!["a".repeat(62); 4].join(".") + "a";
        for good in ["a", "node-1", "ip-10-0-0-1.ec2.internal", longest.as_str()] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for (bad, problem) in [
            ("", "is empty"),
            ("Node", "is no DNS subdomain"),
            ("a..b", "is no DNS subdomain"),
            ("-a", "is no DNS subdomain"),
            ("a_b", "is no DNS subdomain"),
            (&"a".repeat(254), "has 254 bytes"),
        ] {
            let message = bad.parse::<NodeName>().expect_err(bad).to_string();
            assert!(message.contains(problem), "{bad:?}: {message}");
        }
    }
}
