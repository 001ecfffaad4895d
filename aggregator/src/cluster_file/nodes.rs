//! Which of the cluster's Nodes a target is offered.

use std::collections::BTreeMap;

use rollcall_report::{NodeId, NodeName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Which Nodes a target is offered, of those that can run an agent. Off Kubernetes there is nothing to
/// tell it by, and it must be left at its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodePolicy {
    /// Labels that a Node must have, each with its value; none: every Node fits.
    #[serde(deserialize_with = "labels")]
    pub selector: BTreeMap<String, String>,
    /// Nodes of the control plane.
    pub control_plane: ControlPlanePolicy,
    /// Nodes that are cordoned.
    pub cordoned: Inclusion,
    /// Nodes that are not ready.
    pub not_ready: Inclusion,
}

/// What becomes of Nodes of the control plane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlPlanePolicy {
    /// They are offered like any other.
    Include,
    /// They are not offered.
    Exclude,
    /// They are offered where no taint of their role keeps work away.
    #[default]
    Untainted,
}

/// Whether some Nodes are offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inclusion {
    /// They are.
    #[default]
    Include,
    /// They are not.
    Exclude,
}

impl NodePolicy {
    /// Whether one Node may be within both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut keys = self.selector.iter();
        keys.all(|(key, value)| other.selector.get(key).is_none_or(|it| it == value))
    }
}

pub(super) fn labels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let labels = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (key, value) in &labels {
        if !is_label_key(key) {
            let shown: String = key.chars().take(80).collect();
            return Err(D::Error::custom(format!(
                "{shown:?} is no label's key, such as zone or example.com/pool"
            )));
        }
        // Source: Kubernetes documentation, "Labels and Selectors": a value may be empty.
        if !value.is_empty() && value.parse::<NodeId>().is_err() {
            return Err(D::Error::custom(format!(
                "the value of label {key} must be at most 63 letters, digits, '.', '_' and '-', with letters or digits at both ends"
            )));
        }
    }
    Ok(labels)
}

/// A name of at most 63 characters, after a DNS subdomain and `/` if there is one.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) =
        key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    // Names have the same characters as the values.
    name.parse::<NodeId>().is_ok() && prefix.is_none_or(|prefix| prefix.parse::<NodeName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::ClusterFile;

    const BEFORE: &str = "cluster: {id: west, regionId: us-west-2}
targets:
  - name: aios
    type: aios
    parserUrl: http://p:1
    gatewayUrl: http://g:2
";

    fn policy(text: &str) -> Result<NodePolicy, String> {
        let file = ClusterFile::parse(&format!("{BEFORE}    nodes: {text}\n"));
        let file = file.map_err(|problem| problem.to_string())?;
        Ok(file.targets[0].nodes().expect("a policy").clone())
    }

    #[test]
    fn what_a_target_is_offered() {
        let selector = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        for (text, expected) in [
            ("{}", NodePolicy::default()),
            (
                "{selector: {zone: a, example.com/pool: \"\", v: \"1.20\"}}",
                NodePolicy {
                    selector: selector(&[("zone", "a"), ("example.com/pool", ""), ("v", "1.20")]),
                    ..NodePolicy::default()
                },
            ),
            (
                "{controlPlane: include, cordoned: exclude, notReady: exclude}",
                NodePolicy {
                    selector: BTreeMap::new(),
                    control_plane: ControlPlanePolicy::Include,
                    cordoned: Inclusion::Exclude,
                    not_ready: Inclusion::Exclude,
                },
            ),
            (
                "{controlPlane: exclude, cordoned: include}",
                NodePolicy { control_plane: ControlPlanePolicy::Exclude, ..NodePolicy::default() },
            ),
        ] {
            assert_eq!(policy(text).as_ref(), Ok(&expected), "{text}");
        }
        let without = ClusterFile::parse(BEFORE).expect("valid");
        assert_eq!(
            without.targets.first().and_then(|target| target.nodes()),
            Some(&NodePolicy::default())
        );
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, words) in [
            ("{selectors: {zone: a}}", "selectors"),
            ("{controlPlane: tainted}", "tainted"),
            ("{cordoned: false}", "nodes"),
            ("{notReady: untainted}", "untainted"),
            ("{selector: [zone]}", "nodes"),
            ("{selector: {zone/: a}}", "\"zone/\" is no label's key"),
            ("{selector: {Example/pool: a}}", "\"Example/pool\" is no label's key"),
            ("{selector: {zone: \"a b\"}}", "the value of label zone must be"),
            ("{selector: {zone: -a}}", "the value of label zone must be"),
        ] {
            let problem = policy(text).expect_err(text);
            assert!(problem.contains(words), "{text}: {problem}");
            assert!(problem.starts_with("line 7,"), "{text}: {problem}");
        }
    }

    #[test]
    fn policies_that_overlap() {
        for (one, other, expected) in [
            ("{}", "{}", true),
            ("{selector: {zone: a}}", "{}", true),
            ("{selector: {zone: a}}", "{selector: {pool: x}}", true),
            ("{selector: {zone: a, pool: x}}", "{selector: {zone: a, pool: y}}", false),
        ] {
            let (one, other) = (policy(one).expect("valid"), policy(other).expect("valid"));
            assert_eq!(one.overlaps(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.overlaps(&one), expected, "{other:?} {one:?}");
        }
    }
}
