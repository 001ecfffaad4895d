//! What is checked of interLink's virtual kubelets.

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ListParams, PostParams};

use super::Facts;
use crate::checks::kubernetes::{Reader, read, words_of};
use crate::checks::{Observed, Verdict, handful, observe};

/// How the nodes of interLink are known.
const LABEL: &str = "virtual-node.interlink/type=virtual-kubelet";

/// A virtual kubelet: a node, and the service account of the same name, as interLink's chart has it.
#[derive(Debug)]
pub(super) struct Kubelet {
    node: String,
    /// The namespaces in which there is such an account, and whether that one may make tokens.
    accounts: Observed<Vec<(String, Observed<bool>)>>,
}

/// Looks for virtual kubelets and asks what they may do: reviews, which change nothing.
pub(super) async fn look(reader: &Observed<Reader>) -> Observed<Vec<Kubelet>> {
    read(reader, async |reader| {
        let nodes = Api::<core::Node>::all(reader.access.client.clone());
        let nodes = reader.list(nodes, ListParams::default().labels(LABEL)).await;
        let names = nodes.map(|nodes| {
            nodes.into_iter().filter_map(|node| node.metadata.name).collect::<Vec<_>>()
        });
        let took = names.took;
        let names = match names.result {
            Ok(names) => names,
            Err(unseen) => return Observed { result: Err(unseen), took },
        };
        let kubelets = names.into_iter().map(async |node| {
            let accounts = accounts(reader, &node).await;
            Kubelet { node, accounts }
        });
        Observed { result: Ok(join_all(kubelets).await), took }
    })
    .await
}

async fn accounts(reader: &Reader, node: &str) -> Observed<Vec<(String, Observed<bool>)>> {
    let all = Api::<core::ServiceAccount>::all(reader.access.client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={node}"));
    let found = reader.list(all, named).await;
    let took = found.took;
    let found = match found.result {
        Ok(found) => found,
        Err(unseen) => return Observed { result: Err(unseen), took },
    };
    let namespaces = found.into_iter().filter_map(|it| it.metadata.namespace);
    let accounts = namespaces.map(async |namespace| {
        let may = may_make_tokens(reader, &namespace, node).await;
        (namespace, may)
    });
    Observed { result: Ok(join_all(accounts).await), took }
}

async fn may_make_tokens(reader: &Reader, namespace: &str, name: &str) -> Observed<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{namespace}:{name}")),
            groups: Some(vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                verb: Some("create".to_owned()),
                resource: Some("serviceaccounts".to_owned()),
                subresource: Some("token".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    observe(reader.limit(), async {
        let reviews: Api<SubjectAccessReview> = Api::all(reader.access.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer =
            answer.map_err(|error| words_of("a SubjectAccessReview", &reader.access, &error))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    })
    .await
}

/// Whether the virtual kubelets may make tokens for pods.
pub(super) fn may(facts: &Facts) -> Verdict {
    facts.kubelets.judge(|kubelets| judge(kubelets))
}

fn judge(kubelets: &[Kubelet]) -> Verdict {
    let mut allowed = Vec::new();
    let mut denied = Vec::new();
    let mut unknown = Vec::new();
    for Kubelet { node, accounts } in kubelets {
        match &accounts.result {
            Ok(accounts) if accounts.is_empty() => {
                unknown.push(format!("there is no service account {node}"));
            }
            // Others may have the name, too: which of them is the kubelet's nobody tells.
            Ok(accounts) => {
                let account = |namespace: &str| format!("{namespace}/{node}");
                let one = accounts.iter().find(|(_, may)| may.seen() == Some(&true));
                if let Some((namespace, _)) = one {
                    allowed.push(account(namespace));
                    continue;
                }
                let unseen: Vec<String> = accounts
                    .iter()
                    .filter_map(|(namespace, may)| {
                        let unseen = may.result.as_ref().err()?;
                        Some(format!("{}: {unseen}", account(namespace)))
                    })
                    .collect();
                if unseen.is_empty() {
                    denied.extend(accounts.iter().map(|(namespace, _)| account(namespace)));
                } else {
                    unknown.extend(unseen);
                }
            }
            Err(unseen) => unknown.push(format!("{node}: {unseen}")),
        }
    }
    if let Some(first) = denied.first() {
        let (namespace, name) = first.split_once('/').unwrap_or_default();
        return Verdict::fail(format!(
            "these service accounts may not create serviceaccounts/token: {}",
            handful(denied.iter().map(String::as_str))
        ))
        .mend(format!(
            "kubectl create clusterrole {name}-tokens --verb=create --resource=serviceaccounts/token && kubectl create clusterrolebinding {name}-tokens --clusterrole={name}-tokens --serviceaccount={namespace}:{name}"
        ));
    }
    if !unknown.is_empty() {
        return Verdict::skipped(handful(unknown.iter().map(String::as_str)));
    }
    if allowed.is_empty() {
        return Verdict::skipped("there is no virtual node of interLink in the cluster yet");
    }
    Verdict::pass(handful(allowed.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Skipped};

    #[test]
    fn who_may() {
        let kubelet = |node: &str, accounts: Vec<(&str, Observed<bool>)>| Kubelet {
            node: node.to_owned(),
            accounts: Observed::known(
                accounts.into_iter().map(|(namespace, may)| (namespace.to_owned(), may)).collect(),
            ),
        };
        let forbidden = || Observed::of(Err("it answered 403".to_owned()));
        for (what, kubelets, outcome, words) in [
            ("no nodes", vec![], Skipped, "no virtual node"),
            (
                "one",
                vec![kubelet("slurm", vec![("interlink", Observed::known(true))])],
                Pass,
                "interlink/slurm",
            ),
            (
                "one of two",
                vec![
                    kubelet("slurm", vec![("interlink", Observed::known(true))]),
                    kubelet("other", vec![("interlink", Observed::known(false))]),
                ],
                Fail,
                "interlink/other",
            ),
            (
                "another of the name",
                vec![kubelet(
                    "slurm",
                    vec![("a", Observed::known(false)), ("interlink", Observed::known(true))],
                )],
                Pass,
                "interlink/slurm",
            ),
            (
                "none of the name",
                vec![kubelet(
                    "slurm",
                    vec![("a", Observed::known(false)), ("b", Observed::known(false))],
                )],
                Fail,
                "a/slurm, b/slurm",
            ),
            (
                "one that is not told",
                vec![kubelet("slurm", vec![("a", Observed::known(false)), ("b", forbidden())])],
                Skipped,
                "b/slurm: it answered 403",
            ),
            ("no account", vec![kubelet("slurm", vec![])], Skipped, "no service account slurm"),
            ("not to be asked", vec![kubelet("slurm", vec![("a", forbidden())])], Skipped, "403"),
        ] {
            let verdict = judge(&kubelets);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
    }
}
