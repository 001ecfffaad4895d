//! What `AIchor`'s work is made of, and others define.

use super::Facts;
use crate::checks::kubernetes::{Reader, Served, read};
use crate::checks::{Check, Observed, Verdict};

const RAY: (&str, &str) = ("ray.instadeep.io", "rayclusters");
const ARGO: (&str, &str) = ("argoproj.io", "workflows");
const CERT_MANAGER: (&str, &str) = ("cert-manager.io", "certificates");

/// What is served of each group.
#[derive(Debug)]
pub(super) struct Defined {
    ray: Observed<Vec<Served>>,
    argo: Observed<Vec<Served>>,
    cert_manager: Observed<Vec<Served>>,
}

impl Defined {
    pub(super) async fn look(reader: &Observed<Reader>) -> Self {
        let serves =
            |(group, _)| read(reader, async move |reader: &Reader| reader.serves(group).await);
        let (ray, argo, cert_manager) =
            tokio::join!(serves(RAY), serves(ARGO), serves(CERT_MANAGER));
        Self { ray, argo, cert_manager }
    }
}

/// Failures, not warnings: `AIchor`'s role lets it make objects of these kinds and not the kinds
/// themselves, so that nobody but the cluster's owner can mend it.
pub(super) const CHECKS: &[Check<Facts>] = &[
    Check {
        name: "rayclusters of ray.instadeep.io are known",
        why: "AIchor runs distributed work as RayClusters; the account's rights pass without them",
        mend: "install the operator that AIchor gives for them",
        page: "docs/targets/aichor.md#rayclusters-of-rayinstadeepio-are-known",
        judge: |facts| facts.defined.ray.judge(|served| judge(RAY, served)),
    },
    Check {
        name: "workflows of argoproj.io are known",
        why: "AIchor runs work as Workflows; the account's rights pass without them",
        mend: "install Argo Workflows",
        page: "docs/targets/aichor.md#workflows-of-argoprojio-are-known",
        judge: |facts| facts.defined.argo.judge(|served| judge(ARGO, served)),
    },
    Check {
        name: "certificates of cert-manager.io are known",
        why: "AIchor asks for certificates with them; the account's rights pass without them",
        mend: "install cert-manager",
        page: "docs/targets/aichor.md#certificates-of-cert-managerio-are-known",
        judge: |facts| facts.defined.cert_manager.judge(|served| judge(CERT_MANAGER, served)),
    },
];

fn judge((group, plural): (&str, &str), served: &[Served]) -> Verdict {
    let versions: Vec<&str> =
        served.iter().filter(|it| it.plural == plural).map(|it| it.version.as_str()).collect();
    if !versions.is_empty() {
        Verdict::pass(format!("{group}/{}", versions.join(", ")))
    } else if served.is_empty() {
        Verdict::fail(format!("the API server knows no group {group}"))
    } else {
        Verdict::fail(format!("the API server knows the group {group}, and no {plural} in it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass};

    #[test]
    fn what_is_known() {
        let served = |version: &str, plural: &str| Served {
            version: version.to_owned(),
            plural: plural.to_owned(),
            kind: String::new(),
            namespaced: true,
        };
        for (what, served, outcome, seen) in [
            (
                "known",
                vec![served("v1", "workflows"), served("v1", "workflows/status")],
                Pass,
                "argoproj.io/v1",
            ),
            (
                "in two versions",
                vec![served("v1", "workflows"), served("v1alpha1", "workflows")],
                Pass,
                "argoproj.io/v1, v1alpha1",
            ),
            (
                "the group alone, as with Argo CD",
                vec![served("v1alpha1", "applications")],
                Fail,
                "the API server knows the group argoproj.io, and no workflows in it",
            ),
            ("nothing", vec![], Fail, "the API server knows no group argoproj.io"),
        ] {
            let verdict = judge(ARGO, &served);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen), "{what}");
        }
    }
}
