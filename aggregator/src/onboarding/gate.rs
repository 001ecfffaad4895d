//! Whether enough of the cluster has reported for its first registration.
//!
//! A network believes what it is told first: a cluster that registers with one node of ten gets the
//! work of one.

use jiff::{SignedDuration, Timestamp};

use crate::cluster_file::Expect;

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
}

/// Decides by how many nodes the document holds, and how many are kept out of it.
pub fn gate(
    expect: Option<&Expect>,
    complete: usize,
    incomplete: usize,
    first_seen: Option<Timestamp>,
    now: Timestamp,
) -> Gate {
    let closed = |why: String, opens| Gate::Closed { why, opens };
    let Some(expect) = expect else {
        return closed(
            "how many nodes the cluster has is not known: set expect.nodes in the cluster file"
                .to_owned(),
            None,
        );
    };
    if complete >= expect.nodes {
        return Gate::Open;
    }
    let reported = format!("{complete} of {} expected nodes have reported", expect.nodes);
    let why = match incomplete {
        0 => reported,
        _ => format!("{reported}, and {incomplete} whose numbers are not complete"),
    };
    let opens = expect
        .deadline
        .zip(first_seen)
        .and_then(|(wait, first)| first.checked_add(SignedDuration::try_from(wait).ok()?).ok());
    match opens {
        Some(at) if at <= now && complete > 0 => Gate::Open,
        Some(at) if at > now => closed(why, Some(at)),
        _ => closed(why, None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn opens_when_all_are_there_or_the_deadline_has_passed() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let of_two = Expect { nodes: 2, deadline: None };
        let with_deadline = Expect { nodes: 2, deadline: Some(Duration::from_mins(1)) };
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
            let got = gate(expect.as_ref(), complete, incomplete, first_seen, now);
            assert_eq!(got, expected, "{what}");
        }
    }
}
