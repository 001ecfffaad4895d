//! What is checked of the nodes.

use std::collections::{BTreeMap, HashSet};

use super::Facts;
use crate::checks::kubernetes::Node;
use crate::checks::{Verdict, handful};

/// Whether every node has its label.
pub(super) fn labelled(facts: &Facts) -> Verdict {
    facts.kubernetes.nodes.judge(|nodes| judge_labelled(nodes))
}

/// Whether no two nodes share an id.
pub(super) fn unique(facts: &Facts) -> Verdict {
    facts.kubernetes.nodes.judge(|nodes| judge_unique(nodes))
}

/// Whether the ids in the document are labels.
pub(super) fn registered(facts: &Facts) -> Verdict {
    let Some(document) = facts.document.seen() else {
        return facts.document.judge(|_| Verdict::pass("")).at_most_warn();
    };
    facts.kubernetes.nodes.judge(|nodes| {
        let ids: Vec<&str> = document.nodes.node_data.iter().map(|node| node.id.as_str()).collect();
        judge_registered(nodes, &ids)
    })
}

/// Whether as many nodes are waited for as there are.
pub(super) fn expected(facts: &Facts) -> Verdict {
    facts.kubernetes.nodes.judge(|nodes| {
        let said = facts.file.expect.and_then(|expect| expect.nodes);
        let view = facts.aggregator.seen().filter(|view| view.kubernetes.is_some());
        match (said, view.and_then(|view| view.expected_nodes)) {
            (None, Some(expected)) => Verdict::pass(format!(
                "the aggregator expects {expected} of {} nodes, by what Kubernetes tells it",
                nodes.len()
            )),
            (said, _) => judge_expected(nodes.len(), said),
        }
    })
}

fn judge_labelled(nodes: &[Node]) -> Verdict {
    let without: Vec<&str> =
        nodes.iter().filter(|node| node.node_id.is_none()).map(|node| node.name.as_str()).collect();
    match (nodes.len(), without.as_slice()) {
        (0, _) => Verdict::fail("the cluster has no nodes"),
        (all, []) => Verdict::pass(format!("{all} of {all} nodes")),
        (all, [first, ..]) => Verdict::fail(format!(
            "{} of {all} nodes have no label nodeID: {}",
            without.len(),
            handful(without.iter().copied())
        ))
        .mend(format!("kubectl label node {first} nodeID={first}, and so for each")),
    }
}

fn judge_unique(nodes: &[Node]) -> Verdict {
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        if let Some(id) = &node.node_id {
            holders.entry(id).or_default().push(&node.name);
        }
    }
    let shared = holders.iter().filter(|(_, names)| names.len() > 1);
    let shared: Vec<(String, &str)> = shared
        .map(|(id, names)| {
            let last = names.last().copied().unwrap_or_default();
            (format!("{id} ({})", handful(names.iter().copied())), last)
        })
        .collect();
    match shared.as_slice() {
        [] => Verdict::pass(format!("{} ids", holders.len())),
        [(_, name), ..] => Verdict::fail(format!(
            "{} ids are on more than one node: {}",
            shared.len(),
            handful(shared.iter().map(|(words, _)| words.as_str()))
        ))
        .mend(format!("kubectl label node {name} nodeID={name} --overwrite, and so for each")),
    }
}

fn judge_registered(nodes: &[Node], ids: &[&str]) -> Verdict {
    let labels: HashSet<&str> = nodes.iter().filter_map(|node| node.node_id.as_deref()).collect();
    let missing: Vec<&str> = ids.iter().copied().filter(|id| !labels.contains(id)).collect();
    match (ids.len(), missing.len()) {
        (0, _) => Verdict::warn("the document has no nodes yet")
            .mend("wait until agents have reported: rollcall-aggregator nodes"),
        (all, 0) => Verdict::pass(format!("{all} of {all} nodes")),
        (all, some) => Verdict::fail(format!(
            "{some} of {all} ids in the document are on no node of Kubernetes: {}",
            handful(missing)
        )),
    }
}

fn judge_expected(nodes: usize, expected: Option<usize>) -> Verdict {
    match expected {
        None => Verdict::warn(format!(
            "expect.nodes is not set, so that nothing is registered; Kubernetes has {nodes} nodes"
        )),
        Some(expected) if expected == nodes => Verdict::pass(format!("{nodes} nodes")),
        Some(expected) => {
            Verdict::warn(format!("expect.nodes is {expected}, and Kubernetes has {nodes} nodes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{self, Fail, Pass, Warn};

    fn nodes(labels: &[Option<&str>]) -> Vec<Node> {
        let node = |(n, id): (usize, Option<&str>)| Node {
            name: format!("n{n}"),
            node_id: id.map(str::to_owned),
            ..Node::default()
        };
        labels.iter().copied().enumerate().map(node).collect()
    }

    fn assert(verdict: &Verdict, outcome: Outcome, seen: &str, mend: &str) {
        assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen));
        assert_eq!(verdict.mend.as_deref().unwrap_or_default(), mend, "{seen}");
    }

    #[test]
    fn labels() {
        for (labels, outcome, seen, mend) in [
            (vec![], Fail, "the cluster has no nodes", ""),
            (vec![Some("a"), Some("b")], Pass, "2 of 2 nodes", ""),
            (
                vec![Some("a"), None],
                Fail,
                "1 of 2 nodes have no label nodeID: n1",
                "kubectl label node n1 nodeID=n1, and so for each",
            ),
            (
                vec![None; 5000],
                Fail,
                "5000 of 5000 nodes have no label nodeID: n0, n1, n2, n3, n4 and 4995 more",
                "kubectl label node n0 nodeID=n0, and so for each",
            ),
        ] {
            assert(&judge_labelled(&nodes(&labels)), outcome, seen, mend);
        }
    }

    #[test]
    fn twins() {
        for (labels, outcome, seen, mend) in [
            (vec![Some("a"), Some("b"), None, None], Pass, "2 ids", ""),
            (
                vec![Some("a"), Some("b"), Some("a")],
                Fail,
                "1 ids are on more than one node: a (n0, n2)",
                "kubectl label node n2 nodeID=n2 --overwrite, and so for each",
            ),
        ] {
            assert(&judge_unique(&nodes(&labels)), outcome, seen, mend);
        }
    }

    #[test]
    fn ids_of_the_document() {
        let nodes = nodes(&[Some("a"), Some("b"), None]);
        for (ids, outcome, seen) in [
            (&[][..], Warn, "the document has no nodes yet"),
            (&["b"], Pass, "1 of 1 nodes"),
            (&["a", "n2"], Fail, "1 of 2 ids in the document are on no node of Kubernetes: n2"),
        ] {
            let verdict = judge_registered(&nodes, ids);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen));
        }
    }

    #[test]
    fn expectations() {
        for (nodes, expected, outcome) in
            [(3, Some(3), Pass), (3, Some(2), Warn), (2, Some(3), Warn), (3, None, Warn)]
        {
            assert_eq!(judge_expected(nodes, expected).outcome, outcome, "{nodes} {expected:?}");
        }
    }
}
