//! The agent's own Node, as far as label stamping looks at it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use rollcall_report::{NODE_CLASS_LABEL, NODE_ID_LABEL, NodeId};

use crate::probe::gpu_labels::GpuLabels;

/// The name under which the API server keeps what the agent applied (`metadata.managedFields`).
pub const FIELD_MANAGER: &str = "rollcall-agent";

/// What is known of the Node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sight {
    /// The API server has not told yet.
    #[default]
    Unknown,
    /// There is no such Node: the kubelet has not joined, or the Node was deleted.
    Missing,
    /// It is there.
    Seen(OwnNode),
}

impl Sight {
    /// The Node, where it was seen.
    pub const fn node(&self) -> Option<&OwnNode> {
        match self {
            Self::Seen(node) => Some(node),
            Self::Unknown | Self::Missing => None,
        }
    }

    /// The id that the Node's label tells; `None` where there is no label, or an empty one.
    pub fn node_id(&self) -> Option<NodeId> {
        self.node()?.node_id.as_ref()?.value.parse().ok()
    }
}

/// A Node that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNode {
    /// Tells it from another Node of the same name, before or after it.
    pub uid: String,
    /// Its label `nodeID`.
    pub node_id: Option<Label>,
    /// Its label with the node's class.
    pub node_class: Option<Label>,
    /// What its labels say of its GPUs.
    pub gpus: Option<GpuLabels>,
}

/// A label of a Node, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its value.
    pub value: String,
    /// Whether the agent applied it, or an earlier one of this node did.
    pub is_ours: bool,
    /// Who else set it, by the name of the field manager, such as `kubectl-label`.
    pub others: Vec<String>,
}

impl OwnNode {
    /// Reads a Node's metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let label = |key: &str| {
            let value = metadata.labels.as_ref()?.get(key)?.clone();
            let entries = metadata.managed_fields.iter().flatten();
            let owners: Vec<&ManagedFieldsEntry> =
                entries.filter(|entry| owns_label(entry, key)).collect();
            let mut others: Vec<String> = owners
                .iter()
                .filter(|entry| !is_ours(entry))
                .filter_map(|entry| entry.manager.clone())
                .collect();
            others.sort_unstable();
            others.dedup();
            let is_ours = owners.iter().any(|entry| is_ours(entry));
            Some(Label { value, is_ours, others })
        };
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            node_id: label(NODE_ID_LABEL),
            node_class: label(NODE_CLASS_LABEL),
            gpus: metadata.labels.as_ref().and_then(GpuLabels::of),
        }
    }
}

/// Only what was applied counts: an update under the same name belongs to another set of fields.
fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
}

/// Source: Kubernetes, `FieldsV1`: a map of fields, each `f:` and its name.
fn owns_label(entry: &ManagedFieldsEntry, key: &str) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    fields
        .and_then(|fields| fields.get("f:metadata")?.get("f:labels")?.get(format!("f:{key}")))
        .is_some()
}

/// The labels that are applied, by their names.
pub fn labels(node_id: &NodeId, node_class: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(NODE_ID_LABEL.to_owned(), node_id.to_string())]);
    if let Some(class) = node_class {
        labels.insert(NODE_CLASS_LABEL.to_owned(), class.to_owned());
    }
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(manager: &str, operation: &str, labels: &[&str]) -> Value {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|label| (format!("f:{label}"), json!({}))).collect();
        json!({
            "manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": labels}},
        })
    }

    #[test]
    fn whose_a_label_is() {
        let ours = || entry("rollcall-agent", "Apply", &["nodeID"]);
        let kubectl = || entry("kubectl-label", "Update", &["nodeID", "zone"]);
        for (what, entries, is_ours, others) in [
            ("nobody's, as on a server that does not keep it", vec![], false, vec![]),
            ("ours", vec![ours()], true, vec![]),
            ("another's", vec![kubectl()], false, vec!["kubectl-label"]),
            ("shared", vec![kubectl(), ours()], true, vec!["kubectl-label"]),
            (
                "an update under our name",
                vec![entry("rollcall-agent", "Update", &["nodeID"])],
                false,
                vec!["rollcall-agent"],
            ),
            ("another label's owner", vec![entry("kubelet", "Update", &["zone"])], false, vec![]),
        ] {
            let metadata =
                json!({"uid": "u1", "labels": {"nodeID": "n1"}, "managedFields": entries});
            let metadata: ObjectMeta = serde_json::from_value(metadata).expect("metadata");
            let node = OwnNode::of(&metadata);
            let others = others.into_iter().map(str::to_owned).collect();
            let expected = Label { value: "n1".to_owned(), is_ours, others };
            assert_eq!(node.node_id, Some(expected), "{what}");
            assert_eq!((node.uid.as_str(), node.node_class), ("u1", None), "{what}");
        }
    }

    #[test]
    fn an_empty_label_is_no_id() {
        for (value, expected) in [("blue", Some("blue")), ("", None)] {
            let label = Label { value: value.to_owned(), is_ours: false, others: vec![] };
            let node =
                OwnNode { uid: String::new(), node_id: Some(label), node_class: None, gpus: None };
            let id = Sight::Seen(node).node_id();
            assert_eq!(id.as_ref().map(NodeId::as_str), expected, "{value:?}");
        }
    }
}
