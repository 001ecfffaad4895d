//! Whether enough of the cluster has reported for its first registration.
//!
//! A network believes what it is told first: a cluster that registers with one node of ten gets the
//! work of one.

use jiff::{SignedDuration, Timestamp};

use super::expected::Census;
use crate::cluster_file::Expect;
use crate::targets::listed;

/// Whether the first registration may go ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Open,
    /// Not yet.
    Closed {
        /// What is waited for.
        why: String,
        /// When it opens by itself, if it does.
        opens: Option<Timestamp>,
    },
    /// Nothing may go ahead, be it the first or not: which nodes belong into the document is not
    /// known.
    Unsettled {
        /// What is waited for.
        why: String,
    },
}

/// Decides by the nodes that Kubernetes has (`None`: it does not tell), and by how many the document
/// holds, and how many are kept out of it.
pub fn gate(
    expect: Option<&Expect>,
    census: Option<&Census>,
    (complete, incomplete): (usize, usize),
    first_seen: Option<Timestamp>,
    now: Timestamp,
) -> Gate {
    let closed = |why: String, opens| Gate::Closed { why, opens };
    let said = expect.and_then(|expect| expect.nodes);
    let (present, expected) = match (said, census) {
        (Some(nodes), _) => (complete, nodes),
        (None, Some(census)) => (census.present(), census.expected),
        (None, None) => {
            return closed(
                "how many nodes the cluster has is not known: set expect.nodes in the cluster file"
                    .to_owned(),
                None,
            );
        }
    };
    if expected == 0 {
        return closed(nobody(census), None);
    }
    if present >= expected {
        return Gate::Open;
    }
    let reported = format!("{present} of {expected} expected nodes have reported");
    let why = match (census, incomplete) {
        (Some(census), _) if !census.missing.is_empty() => {
            format!("{reported}; missing: {}", listed(&census.missing, ", "))
        }
        (Some(_), _) | (None, 0) => reported,
        (None, _) => format!("{reported}, and {incomplete} whose numbers are not complete"),
    };
    let opens = expect
        .and_then(|expect| expect.deadline)
        .zip(first_seen)
        .and_then(|(wait, first)| first.checked_add(SignedDuration::try_from(wait).ok()?).ok());
    match opens {
        Some(at) if at <= now && complete > 0 => Gate::Open,
        Some(at) if at > now => closed(why, Some(at)),
        _ => closed(why, None),
    }
}

/// Why no node is expected.
fn nobody(census: Option<&Census>) -> String {
    let left_out = census.map_or(&[][..], |census| &census.left_out);
    if left_out.is_empty() {
        return "Kubernetes has no Nodes any more".to_owned();
    }
    let reasons: Vec<String> =
        left_out.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    format!(
        "no Node is within this target's nodes in the cluster file; left out: {}",
        listed(&reasons, ", ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::onboarding::expected::{LeftOut, Missing};

    #[test]
    fn opens_when_all_are_there_or_the_deadline_has_passed() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let of_two = Expect { nodes: Some(2), deadline: None };
        let with_deadline = Expect { nodes: Some(2), deadline: Some(Duration::from_mins(1)) };
        let closed = |why: &str, opens| Gate::Closed { why: why.into(), opens };
        for (what, expect, complete, incomplete, first_seen, now, expected) in [
            (
                "nobody said how many",
                None,
                5,
                0,
                Some(at(0)),
                at(0),
                closed(
                    "how many nodes the cluster has is not known: set expect.nodes in the cluster file",
                    None,
                ),
            ),
            ("all there", Some(of_two), 2, 0, Some(at(0)), at(0), Gate::Open),
            ("more than all", Some(of_two), 3, 1, Some(at(0)), at(0), Gate::Open),
            (
                "one missing",
                Some(of_two),
                1,
                1,
                Some(at(0)),
                at(1000),
                closed(
                    "1 of 2 expected nodes have reported, and 1 whose numbers are not complete",
                    None,
                ),
            ),
            (
                "before the deadline",
                Some(with_deadline),
                1,
                0,
                Some(at(100)),
                at(159),
                closed("1 of 2 expected nodes have reported", Some(at(160))),
            ),
            ("at the deadline", Some(with_deadline), 1, 0, Some(at(100)), at(160), Gate::Open),
            (
                "an empty cluster never registers",
                Some(with_deadline),
                0,
                1,
                Some(at(100)),
                at(500),
                closed(
                    "0 of 2 expected nodes have reported, and 1 whose numbers are not complete",
                    None,
                ),
            ),
        ] {
            let got = gate(expect.as_ref(), None, (complete, incomplete), first_seen, now);
            assert_eq!(got, expected, "{what}");
        }
    }

    #[test]
    fn waits_for_the_nodes_that_kubernetes_has() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let name = |name: &str| name.parse().expect("a name");
        let census = |expected: usize, missing: usize| Census {
            expected,
            missing: (0..missing)
                .map(|n| Missing {
                    name: name(&format!("n{n}")),
                    why: (n == 0).then(|| "not ready".to_owned()),
                })
                .collect(),
            left_out: vec![(name("v"), LeftOut::VirtualKubelet)],
        };
        let deadline = Some(Duration::from_mins(1));
        let closed = |why: &str, opens| Gate::Closed { why: why.into(), opens };
        for (what, expect, census, complete, now, expected) in [
            ("all there", None, census(2, 0), 2, 0, Gate::Open),
            (
                "some missing",
                None,
                census(10, 2),
                8,
                1000,
                closed("8 of 10 expected nodes have reported; missing: n0 (not ready), n1", None),
            ),
            (
                "many missing",
                None,
                census(10, 7),
                3,
                1000,
                closed(
                    "3 of 10 expected nodes have reported; missing: n0 (not ready), n1, n2, n3, n4, and 2 more",
                    None,
                ),
            ),
            (
                "before the deadline",
                Some(Expect { nodes: None, deadline }),
                census(2, 1),
                1,
                159,
                closed(
                    "1 of 2 expected nodes have reported; missing: n0 (not ready)",
                    Some(at(160)),
                ),
            ),
            (
                "at the deadline",
                Some(Expect { nodes: None, deadline }),
                census(2, 1),
                1,
                160,
                Gate::Open,
            ),
            (
                "at the deadline, with nobody",
                Some(Expect { nodes: None, deadline }),
                census(1, 1),
                0,
                160,
                closed("0 of 1 expected nodes have reported; missing: n0 (not ready)", None),
            ),
            (
                "the owner says fewer",
                Some(Expect { nodes: Some(1), deadline: None }),
                census(2, 1),
                1,
                0,
                Gate::Open,
            ),
            (
                "the owner says more",
                Some(Expect { nodes: Some(3), deadline: None }),
                census(2, 0),
                2,
                0,
                closed("2 of 3 expected nodes have reported", None),
            ),
            (
                "nobody is within the policy",
                None,
                census(0, 0),
                0,
                0,
                closed(
                    "no Node is within this target's nodes in the cluster file; left out: v (a virtual kubelet, which runs no agent)",
                    None,
                ),
            ),
        ] {
            let got = gate(expect.as_ref(), Some(&census), (complete, 0), Some(at(100)), at(now));
            assert_eq!(got, expected, "{what}");
        }
    }
}
