//! The cluster file, which all other checks of a target need.

use rollcall_report::error_chain;

use super::{Check, Group, Verdict, handful};
use crate::cluster_file::{ClusterFile, ClusterFileError};

/// What can be checked of the cluster file before any target is looked at.
pub static GROUPS: &[Group<Result<ClusterFile, ClusterFileError>>] = &[Group {
    name: "cluster file",
    checks: &[Check {
        name: "the cluster file is valid",
        why: "everything else is checked against it, and serve does not start without it",
        mend: "mend the line that is named; docs/cluster-file.md describes every key",
        page: "docs/checks.md#the-cluster-file-is-valid",
        judge: |read| match read {
            Ok(file) => {
                let targets = file.targets.iter().map(|target| target.name().as_str());
                Verdict::pass(format!("cluster {}; targets: {}", file.cluster.id, handful(targets)))
            }
            Err(error) => Verdict::fail(error_chain(error)),
        },
    }],
}];
