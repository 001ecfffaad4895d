//! Which id a node gets: the agent proposes, the roll accepts.

use rollcall_report::{IdSource, NodeId, NodeIdentity};

use super::{Conflict, Entry};

/// What Kubernetes says of the Node that a report is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// The Node's UID: another one when it was deleted and made anew.
    pub node_uid: String,
    /// The Node's label `nodeID`, where it carries one.
    pub label: Option<NodeId>,
    /// Whether the report is known to come from that Node: then Kubernetes tells machines apart, and
    /// the machine's own id, which clones share, need not. A token or a certificate that is a file is no
    /// proof of that: a copy of the disk has it, too.
    pub is_proven: bool,
}

/// The id to give a node.
///
/// An explicit id counts, else the label that is there, else what the node had, else its name's. The
/// agent sees its own Node sooner than the aggregator does, so that its word on the label goes first.
///
/// # Errors
///
/// When an explicit id and the label differ, and nobody has said which one counts.
pub(super) fn accepted_id(
    node: &NodeIdentity,
    voucher: Option<&Voucher>,
    stored: Option<&Entry>,
) -> Result<NodeId, Conflict> {
    let label = voucher.and_then(|voucher| voucher.label.as_ref());
    let proposed = &node.proposed_id;
    if node.id_source == IdSource::Explicit {
        let other = node.other_label.as_ref().or(label).filter(|label| *label != proposed);
        return match other {
            Some(label) if !node.overwrite_label => Err(Conflict::LabelDiffers {
                name: node.name.clone(),
                id: proposed.clone(),
                label: label.clone(),
            }),
            _ => Ok(proposed.clone()),
        };
    }
    if node.id_source == IdSource::Label {
        return Ok(proposed.clone());
    }
    // Without Kubernetes, a name's id is all that an agent knows of itself.
    let Some(voucher) = voucher else { return Ok(proposed.clone()) };
    let had = stored.filter(|entry| entry.node_uid.as_ref() == Some(&voucher.node_uid));
    Ok(label.or(had.map(|entry| &entry.node_id)).unwrap_or(proposed).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_which_id() {
        let id = |text: &str| -> NodeId { text.parse().expect("an id") };
        let node = |proposed: &str, id_source, other: Option<&str>, overwrite_label| NodeIdentity {
            name: "n1".parse().expect("a name"),
            proposed_id: id(proposed),
            id_source,
            machine_hash: None,
            other_label: other.map(id),
            overwrite_label,
        };
        let voucher = |label: Option<&str>| Voucher {
            node_uid: "u1".to_owned(),
            label: label.map(id),
            is_proven: true,
        };
        let (explicit, label, name) = (IdSource::Explicit, IdSource::Label, IdSource::NodeName);
        for (what, node, voucher, expected) in [
            ("a name", node("n1", name, None, false), None, Ok("n1")),
            ("a name, no label", node("n1", name, None, false), Some(voucher(None)), Ok("n1")),
            ("a name, a label", node("n1", name, None, false), Some(voucher(Some("x"))), Ok("x")),
            ("a label", node("x", label, None, false), Some(voucher(Some("x"))), Ok("x")),
            (
                "a label that the aggregator has not seen yet",
                node("x", label, None, false),
                Some(voucher(Some("old"))),
                Ok("x"),
            ),
            ("an explicit id", node("e", explicit, None, false), Some(voucher(None)), Ok("e")),
            (
                "an explicit id that is there",
                node("e", explicit, None, false),
                Some(voucher(Some("e"))),
                Ok("e"),
            ),
            (
                "an explicit id and another label",
                node("e", explicit, None, false),
                Some(voucher(Some("x"))),
                Err("x"),
            ),
            (
                "an explicit id and another label that the agent saw",
                node("e", explicit, Some("x"), false),
                None,
                Err("x"),
            ),
            (
                "an explicit id that counts",
                node("e", explicit, Some("x"), true),
                Some(voucher(Some("x"))),
                Ok("e"),
            ),
            (
                "permission without an explicit id",
                node("n1", name, None, true),
                Some(voucher(Some("x"))),
                Ok("x"),
            ),
        ] {
            let got =
                accepted_id(&node, voucher.as_ref(), None).map_err(|conflict| match conflict {
                    Conflict::LabelDiffers { label, .. } => label,
                    other => panic!("{what}: {other}"),
                });
            assert_eq!(got, expected.map(id).map_err(id), "{what}");
        }
    }
}
