//! What to propose and what to stamp. Pure: from what is known to what is to be done.

use std::fmt;

use rollcall_report::{
    Assignment, IdSource, NODE_CLASS_LABEL, NODE_ID_LABEL, NodeId, NodeIdentity,
};

use super::node::{Label, OwnNode, Sight};

/// What the aggregator accepted, and what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The id that was proposed, and where it came from.
    pub proposal: (NodeId, IdSource),
    /// What the aggregator answered.
    pub assignment: Assignment,
}

/// What the next report says of the node's identity: `own` is what is known without Kubernetes.
///
/// An explicit id stands, and a label that differs is told beside it. Else the Node's label is
/// proposed. The agent's own label makes no other report: where it is the id that the node's name
/// makes, the name stays the source, unless the aggregator keeps the node under another id, since
/// then somebody has set the label.
pub fn propose(
    own: &NodeIdentity,
    overwrite: bool,
    sight: &Sight,
    accepted: Option<&NodeId>,
) -> NodeIdentity {
    let mut proposed = own.clone();
    let label = sight.node_id();
    if own.id_source == IdSource::Explicit {
        proposed.other_label = label.filter(|label| *label != own.proposed_id);
        proposed.overwrite_label = overwrite;
    } else if let Some(label) = label
        && (label != own.proposed_id || accepted.is_some_and(|accepted| *accepted != label))
    {
        proposed.proposed_id = label;
        proposed.id_source = IdSource::Label;
    }
    proposed
}

/// What to do about the Node's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to do now.
    pub action: Action,
    /// What keeps a label from being as it should; a person must decide.
    pub conflicts: Vec<Conflict>,
}

/// Something to do about the Node's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the labels are as they should be, or somebody must decide.
    Nothing,
    /// Wait until more is known.
    Wait(Waiting),
    /// Apply labels.
    Apply(Stamp),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// That the API server tells of the Node.
    Sight,
    /// That there is a Node.
    Node,
    /// That the aggregator accepts what is proposed now.
    Acceptance,
}

/// Labels to apply. What the agent applied before and does not apply again is taken away by the API
/// server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The Node that is meant: another one of its name is left alone.
    pub uid: String,
    /// The accepted id.
    pub node_id: NodeId,
    /// The node's class: what was assigned, or what the agent applied before.
    pub node_class: Option<String>,
    /// Whether the label may be taken from somebody else.
    pub force: bool,
}

/// A label that is another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Which label.
    pub label: Stamped,
    /// What the agent should stamp.
    pub wanted: String,
    /// What the Node carries.
    pub found: String,
    /// Who set that, where the API server knows.
    pub managers: Vec<String>,
}

/// The labels that are stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamped {
    /// [`NODE_ID_LABEL`]
    NodeId,
    /// [`NODE_CLASS_LABEL`]
    NodeClass,
}

impl Stamped {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::NodeId, Self::NodeClass];

    /// The label's name.
    pub const fn key(self) -> &'static str {
        match self {
            Self::NodeId => NODE_ID_LABEL,
            Self::NodeClass => NODE_CLASS_LABEL,
        }
    }
}

impl fmt::Display for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl Conflict {
    fn new(label: Stamped, wanted: &str, found: &Label) -> Self {
        Self {
            label,
            wanted: wanted.to_owned(),
            found: found.value.clone(),
            managers: found.others.clone(),
        }
    }
}

/// Decides what to do.
pub fn plan(
    own: &NodeIdentity,
    overwrite: bool,
    sight: &Sight,
    accepted: Option<&Accepted>,
) -> Plan {
    let waiting = |reason| Plan { action: Action::Wait(reason), conflicts: vec![] };
    let node = match sight {
        Sight::Unknown => return waiting(Waiting::Sight),
        Sight::Missing => return waiting(Waiting::Node),
        Sight::Seen(node) => node,
    };
    let explicit = (own.id_source == IdSource::Explicit).then_some(&own.proposed_id);
    // Whatever was assigned: two that name the node differently are for a person to settle.
    if let (Some(explicit), Some(label), false) = (explicit, &node.node_id, overwrite)
        && label.value != explicit.as_str()
    {
        let conflict = Conflict::new(Stamped::NodeId, explicit.as_str(), label);
        return Plan { action: Action::Nothing, conflicts: vec![conflict] };
    }
    let Some(accepted) = accepted else { return waiting(Waiting::Acceptance) };
    let id = &accepted.assignment.node_id;
    let (is_missing, force) = match &node.node_id {
        None => (true, false),
        Some(label) if label.value == id.as_str() => (false, false),
        Some(_) if explicit == Some(id) => (true, true),
        Some(label) => {
            let proposed = propose(own, overwrite, sight, Some(id));
            if accepted.proposal != (proposed.proposed_id, proposed.id_source) {
                return waiting(Waiting::Acceptance);
            }
            let conflict = Conflict::new(Stamped::NodeId, id.as_str(), label);
            return Plan { action: Action::Nothing, conflicts: vec![conflict] };
        }
    };
    let (class, conflict) = class(node, accepted.assignment.node_class.as_deref(), force);
    let present = node.node_class.as_ref().map(|label| &label.value);
    let is_class_missing = class.is_some() && class.as_ref() != present;
    let action = if is_missing || is_class_missing {
        Action::Apply(Stamp {
            uid: node.uid.clone(),
            node_id: id.clone(),
            node_class: class,
            force,
        })
    } else {
        Action::Nothing
    };
    Plan { action, conflicts: conflict.into_iter().collect() }
}

/// The class to apply, and whose label is in its way.
///
/// A class is sticky: one that was stamped and is not assigned any more is applied again, since it
/// would be taken away otherwise. Force settles the id alone; the class follows without.
fn class(
    node: &OwnNode,
    assigned: Option<&str>,
    force: bool,
) -> (Option<String>, Option<Conflict>) {
    let present = node.node_class.as_ref();
    let kept = present.filter(|label| label.is_ours).map(|label| label.value.clone());
    match (assigned, present) {
        (None, _) => (kept, None),
        (Some(assigned), Some(label)) if label.value == assigned => {
            (Some(assigned.to_owned()), None)
        }
        (Some(assigned), Some(label)) if !(label.is_ours && label.others.is_empty()) => {
            (kept, Some(Conflict::new(Stamped::NodeClass, assigned, label)))
        }
        (Some(_), _) if force => (kept, None),
        (Some(assigned), _) => (Some(assigned.to_owned()), None),
    }
}

#[cfg(test)]
#[expect(clippy::unnecessary_wraps, reason = "tables hold labels as a Node does: some or none")]
mod tests {
    use super::*;

    fn own(explicit: Option<&str>) -> NodeIdentity {
        let (id, id_source) =
            explicit.map_or(("n1", IdSource::NodeName), |id| (id, IdSource::Explicit));
        NodeIdentity {
            name: "n1".parse().expect("a name"),
            proposed_id: id.parse().expect("an id"),
            id_source,
            machine_hash: None,
            other_label: None,
            overwrite_label: false,
        }
    }

    fn ours(value: &str) -> Option<Label> {
        Some(Label { value: value.to_owned(), is_ours: true, others: vec![] })
    }

    fn theirs(value: &str) -> Option<Label> {
        let others = vec!["kubectl-label".to_owned()];
        Some(Label { value: value.to_owned(), is_ours: false, others })
    }

    fn shared(value: &str) -> Option<Label> {
        theirs(value).map(|label| Label { is_ours: true, ..label })
    }

    fn seen(node_id: Option<Label>, node_class: Option<Label>) -> Sight {
        Sight::Seen(OwnNode { uid: "u1".to_owned(), node_id, node_class, gpus: None })
    }

    fn accepted(
        proposal: (&str, IdSource),
        node_id: &str,
        class: Option<&str>,
    ) -> Option<Accepted> {
        let proposal = (proposal.0.parse().expect("an id"), proposal.1);
        let node_id = node_id.parse().expect("an id");
        let node_class = class.map(str::to_owned);
        Some(Accepted {
            proposal,
            assignment: Assignment { node_id, node_class, interval_seconds: 60 },
        })
    }

    const NAME: (&str, IdSource) = ("n1", IdSource::NodeName);

    #[test]
    fn proposals() {
        let label = |value| seen(theirs(value), None);
        for (what, explicit, sight, accepted, expected) in [
            ("nothing is known", None, Sight::Unknown, None, ("n1", IdSource::NodeName, None)),
            ("there is no Node", None, Sight::Missing, None, ("n1", IdSource::NodeName, None)),
            ("no label", None, seen(None, None), None, ("n1", IdSource::NodeName, None)),
            ("a label", None, label("blue"), None, ("blue", IdSource::Label, None)),
            ("an empty label", None, label(""), None, ("n1", IdSource::NodeName, None)),
            (
                "the agent's own label",
                None,
                label("n1"),
                Some("n1"),
                ("n1", IdSource::NodeName, None),
            ),
            ("the name as a label", None, label("n1"), None, ("n1", IdSource::NodeName, None)),
            (
                "the name as a label, of a node with another id",
                None,
                label("n1"),
                Some("blue"),
                ("n1", IdSource::Label, None),
            ),
            (
                "the label is gone, and the roll keeps the id",
                None,
                seen(None, None),
                Some("blue"),
                ("n1", IdSource::NodeName, None),
            ),
            ("explicit", Some("red"), seen(None, None), None, ("red", IdSource::Explicit, None)),
            (
                "explicit as the label",
                Some("red"),
                label("red"),
                None,
                ("red", IdSource::Explicit, None),
            ),
            (
                "explicit against a label",
                Some("red"),
                label("blue"),
                None,
                ("red", IdSource::Explicit, Some("blue")),
            ),
        ] {
            let accepted: Option<NodeId> = accepted.map(|id| id.parse().expect("an id"));
            let got = propose(&own(explicit), true, &sight, accepted.as_ref());
            let other = got.other_label.as_ref().map(NodeId::as_str);
            assert_eq!((got.proposed_id.as_str(), got.id_source, other), expected, "{what}");
            assert_eq!(got.overwrite_label, explicit.is_some(), "{what}");
        }
    }

    /// A plan in words: what the tables below expect.
    fn words(plan: &Plan) -> String {
        let action = match &plan.action {
            Action::Nothing => "nothing".to_owned(),
            Action::Wait(reason) => format!("wait for {reason:?}"),
            Action::Apply(stamp) => {
                let class = stamp.node_class.as_deref().unwrap_or("no class");
                let force = if stamp.force { " by force" } else { "" };
                assert_eq!(stamp.uid, "u1", "the Node that was seen");
                format!("apply {}, {class}{force}", stamp.node_id)
            }
        };
        plan.conflicts.iter().fold(action, |words, conflict| {
            let managers = conflict.managers.join(" ");
            let Conflict { label, wanted, found, .. } = conflict;
            format!("{words}; {label:?} {wanted} against {found} of {managers}")
        })
    }

    #[test]
    fn ids() {
        let by_label = ("blue", IdSource::Label);
        for (what, sight, accepted, expected) in [
            ("nothing is known", Sight::Unknown, accepted(NAME, "n1", None), "wait for Sight"),
            ("there is no Node", Sight::Missing, accepted(NAME, "n1", None), "wait for Node"),
            ("not accepted yet", seen(None, None), None, "wait for Acceptance"),
            ("accepted", seen(None, None), accepted(NAME, "n1", None), "apply n1, no class"),
            ("stamped", seen(ours("n1"), None), accepted(NAME, "n1", None), "nothing"),
            ("there already", seen(theirs("n1"), None), accepted(NAME, "n1", None), "nothing"),
            (
                "another id than the proposed one",
                seen(None, None),
                accepted(NAME, "abc", None),
                "apply abc, no class",
            ),
            (
                "a label that is adopted",
                seen(theirs("blue"), None),
                accepted(by_label, "blue", None),
                "nothing",
            ),
            (
                "a label that is not accepted yet",
                seen(theirs("blue"), None),
                accepted(NAME, "n1", None),
                "wait for Acceptance",
            ),
            (
                "a label of our own that is another's id now",
                seen(ours("n0"), None),
                accepted(NAME, "n1", None),
                "wait for Acceptance",
            ),
            (
                "a label that the aggregator does not follow",
                seen(theirs("blue"), None),
                accepted(by_label, "n1", None),
                "nothing; NodeId n1 against blue of kubectl-label",
            ),
            (
                "the adopted label is gone",
                seen(None, None),
                accepted(NAME, "blue", None),
                "apply blue, no class",
            ),
            (
                "the name as a label, of a node with another id",
                seen(theirs("n1"), None),
                accepted(NAME, "blue", None),
                "wait for Acceptance",
            ),
            (
                "an empty label",
                seen(theirs(""), None),
                accepted(NAME, "n1", None),
                "nothing; NodeId n1 against  of kubectl-label",
            ),
        ] {
            let plan = plan(&own(None), true, &sight, accepted.as_ref());
            assert_eq!(words(&plan), expected, "{what}");
        }
    }

    #[test]
    fn explicit_ids() {
        let red = || accepted(("red", IdSource::Explicit), "red", Some("c1"));
        let kept = || accepted(("red", IdSource::Explicit), "blue", None);
        let conflict = "nothing; NodeId red against blue of kubectl-label";
        for (what, overwrite, sight, accepted, expected) in [
            ("no label", false, seen(None, None), red(), "apply red, c1"),
            ("the label", false, seen(theirs("red"), ours("c1")), red(), "nothing"),
            ("another label", false, seen(theirs("blue"), None), red(), conflict),
            ("another label, not accepted", false, seen(theirs("blue"), None), None, conflict),
            (
                "another label, which is accepted",
                false,
                seen(theirs("blue"), None),
                kept(),
                conflict,
            ),
            (
                "one of our own",
                false,
                seen(ours("blue"), None),
                red(),
                "nothing; NodeId red against blue of ",
            ),
            (
                "to be settled, not accepted",
                true,
                seen(theirs("blue"), None),
                None,
                "wait for Acceptance",
            ),
            (
                "settled; the class follows without force",
                true,
                seen(theirs("blue"), None),
                red(),
                "apply red, no class by force",
            ),
            (
                "settled, and our class is kept",
                true,
                seen(theirs("blue"), ours("c0")),
                red(),
                "apply red, c0 by force",
            ),
            (
                "settled, and another's class is not taken by the way",
                true,
                seen(theirs("blue"), theirs("c9")),
                red(),
                "apply red, no class by force; NodeClass c1 against c9 of kubectl-label",
            ),
            (
                "the aggregator keeps the label's",
                true,
                seen(theirs("blue"), None),
                kept(),
                "nothing",
            ),
            (
                "the aggregator keeps a third one",
                true,
                seen(theirs("green"), None),
                kept(),
                "nothing; NodeId blue against green of kubectl-label",
            ),
        ] {
            let plan = plan(&own(Some("red")), overwrite, &sight, accepted.as_ref());
            assert_eq!(words(&plan), expected, "{what}");
        }
    }

    #[test]
    fn classes() {
        for (what, id, class, assigned, expected) in [
            ("assigned", ours("n1"), None, Some("c1"), "apply n1, c1"),
            ("assigned with the id", None, None, Some("c1"), "apply n1, c1"),
            ("there", ours("n1"), ours("c1"), Some("c1"), "nothing"),
            ("there by another", ours("n1"), theirs("c1"), Some("c1"), "nothing"),
            ("assigned anew", ours("n1"), ours("c0"), Some("c1"), "apply n1, c1"),
            ("no longer assigned", ours("n1"), ours("c0"), None, "nothing"),
            ("no longer assigned, while the id goes", None, ours("c0"), None, "apply n1, c0"),
            ("never assigned, another's", None, theirs("c9"), None, "apply n1, no class"),
            (
                "another's",
                ours("n1"),
                theirs("c9"),
                Some("c1"),
                "nothing; NodeClass c1 against c9 of kubectl-label",
            ),
            (
                "another's, while the id goes",
                None,
                theirs("c9"),
                Some("c1"),
                "apply n1, no class; NodeClass c1 against c9 of kubectl-label",
            ),
            (
                "shared with another",
                None,
                shared("c0"),
                Some("c1"),
                "apply n1, c0; NodeClass c1 against c0 of kubectl-label",
            ),
        ] {
            let accepted = accepted(NAME, "n1", assigned);
            let plan = plan(&own(None), false, &seen(id, class), accepted.as_ref());
            assert_eq!(words(&plan), expected, "{what}");
        }
    }
}
