//! The checks of a Unikorn region: that labels and declarations agree both ways, that the cluster has
//! what virtual clusters need, and that the network can take it.

mod classes;
mod management;
mod services;

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::IngressClass;
use kube::api::{Api, ListParams};
use rollcall_daemon::kubernetes::Selection;
use rollcall_report::{NODE_CLASS_LABEL, error_chain};

use super::kubernetes::{Reader, Served, read};
use super::workloads::{Workload, workloads};
use super::{Check, Group, Observed, Verdict, observe};
use crate::admin::views::{NodesView, StatusView};
use crate::cluster_file::{ClusterFile, UnikornTarget};
use crate::operator::Operator;
use crate::targets::unikorn::region::RegionView;
use management::Management;
use services::DefaultClass;

/// What the checks judge.
#[derive(Debug)]
pub struct Facts {
    target: UnikornTarget,
    aggregator: Observed<StatusView>,
    /// The Region as the aggregator has it, and the nodes on its roll.
    region: Observed<RegionView>,
    roll: Observed<NodesView>,
    version: Observed<String>,
    nodes: Observed<Vec<Labelled>>,
    workloads: Observed<Vec<Workload>>,
    ingress_classes: Observed<Vec<DefaultClass>>,
    prometheus: Observed<Vec<Served>>,
    management: Management,
}

/// A Node, as far as the network looks at it, and as far as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Labelled {
    name: String,
    /// The class label, as it stands there.
    class: Option<String>,
    /// Whether the label is there and empty: that keeps the node away from the network.
    kept_away: bool,
    cordoned: bool,
    ready: bool,
}

/// Looks at everything that the checks need, each thing within `limit`.
pub async fn look(
    file: &ClusterFile,
    target: &UnikornTarget,
    selection: &Selection,
    operator: &Operator,
    limit: Duration,
) -> Facts {
    let ((aggregator, region, roll), cluster) =
        tokio::join!(ask_aggregator(file, operator, limit), Reader::open(selection, limit));
    let wanted = region.seen().map(|view| view.region.clone());
    let (nodes, workloads, ingress_classes, prometheus, management) = tokio::join!(
        read(&cluster, async |reader| {
            let nodes = reader.list(Api::all(reader.access.client.clone()), ListParams::default());
            nodes.await.map(|nodes| nodes.into_iter().map(Labelled::of).collect())
        }),
        read(&cluster, workloads),
        read(&cluster, async |reader| {
            let classes: Api<IngressClass> = Api::all(reader.access.client.clone());
            let classes = reader.list(classes, ListParams::default()).await;
            classes.map(|classes| classes.into_iter().map(services::default_of).collect())
        }),
        read(&cluster, async |reader| reader.serves("monitoring.coreos.com").await),
        Management::look(target, &cluster, wanted.as_ref(), limit),
    );
    Facts {
        target: target.clone(),
        aggregator,
        region,
        roll,
        version: cluster.map(|reader| reader.version),
        nodes,
        workloads,
        ingress_classes,
        prometheus,
        management,
    }
}

async fn ask_aggregator(
    file: &ClusterFile,
    operator: &Operator,
    limit: Duration,
) -> (Observed<StatusView>, Observed<RegionView>, Observed<NodesView>) {
    let asked =
        observe(limit, async { operator.status().await.map_err(|error| error_chain(&error)) });
    let status = asked.await;
    let obstacle = match &status.result {
        Err(_unseen) => Some("no aggregator answers".to_owned()),
        Ok(view) if view.cluster != file.cluster.id.as_str() => {
            Some(format!("the aggregator serves another cluster, {}", view.cluster))
        }
        Ok(view) if view.region.is_none() => Some(
            "the aggregator's own cluster file names no target of type unikorn: restart it with this one"
                .to_owned(),
        ),
        Ok(_) => None,
    };
    if let Some(why) = obstacle {
        return (status, Observed::not_tried(why.clone()), Observed::not_tried(why));
    }
    let (region, roll) = tokio::join!(
        observe(limit, async { operator.region().await.map_err(|error| error_chain(&error)) }),
        observe(limit, async { operator.nodes().await.map_err(|error| error_chain(&error)) }),
    );
    (status, region, roll)
}

impl Labelled {
    fn of(node: core::Node) -> Self {
        let labels = node.metadata.labels.unwrap_or_default();
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            class: labels.get(NODE_CLASS_LABEL).filter(|label| !label.is_empty()).cloned(),
            kept_away: labels.get(NODE_CLASS_LABEL).is_some_and(String::is_empty),
            cordoned: node.spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            ready: conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True"),
        }
    }
}

/// Whether a running aggregator knows the classes.
fn aggregator(facts: &Facts) -> Verdict {
    facts.aggregator.judge(|view| {
        if facts.region.seen().is_some() {
            Verdict::pass(format!("cluster {}, version {}", view.cluster, view.version))
        } else {
            facts.region.judge(|_| Verdict::pass("")).or_fail()
        }
    })
}

fn kubernetes(facts: &Facts) -> Verdict {
    facts.version.judge(|version| Verdict::pass(version))
}

/// All checks of a Unikorn region.
pub static GROUPS: &[Group<Facts>] = &[
    Group {
        name: "aggregator",
        checks: &[Check {
            name: "an aggregator knows the node classes",
            why: "classes, their shapes and their nodes are known to it alone",
            mend: "start rollcall-aggregator serve with this cluster file, or say where it is with --server",
            page: "docs/targets/unikorn.md#an-aggregator-knows-the-node-classes",
            judge: aggregator,
        }],
    },
    Group {
        name: "Kubernetes API",
        checks: &[Check {
            name: "the Kubernetes API answers",
            why: "all that is checked of this cluster is read from it",
            mend: "does kubectl get nodes work with the same kubeconfig and context?",
            page: "docs/targets/unikorn.md#the-kubernetes-api-answers",
            judge: kubernetes,
        }],
    },
    Group {
        name: "node classes",
        checks: &[
            Check {
                name: "every node has a class",
                why: "the network uses no node without one",
                mend: "look at rollcall-aggregator nodes; the agent must be running there, and may stamp the label",
                page: "docs/targets/unikorn.md#every-node-has-a-class",
                judge: classes::every_node,
            },
            Check {
                name: "every class label is a version 4 UUID",
                why: "the network finds a flavor's nodes by comparing the label letter by letter",
                mend: "kubectl label node NODE kubernetes.region.unikorn-cloud.org/node-class-",
                page: "docs/targets/unikorn.md#every-class-label-is-a-version-4-uuid",
                judge: classes::valid_labels,
            },
            Check {
                name: "every class on a node is declared in the Region",
                why: "a node whose class nobody declares is never used",
                mend: "rollcall-aggregator submit TARGET, or apply what document prints",
                page: "docs/targets/unikorn.md#every-class-on-a-node-is-declared-in-the-region",
                judge: classes::declared,
            },
            Check {
                name: "every declared class has a node",
                why: "the network offers a flavor that nobody can get",
                mend: "take the class out of the cluster file and the Region, or bring its nodes back",
                page: "docs/targets/unikorn.md#every-declared-class-has-a-node",
                judge: classes::inhabited,
            },
            Check {
                name: "nodes of one class have one shape",
                why: "whoever buys the flavor gets less than it says",
                mend: "mend the node; if it is to be of another class for good, set that class's label by hand",
                page: "docs/targets/unikorn.md#nodes-of-one-class-have-one-shape",
                judge: classes::equal_shapes,
            },
            Check {
                name: "no node with a class is kept from work",
                why: "the network looks at neither cordons nor readiness, and places work on such a node",
                mend: "an empty label keeps a node away: kubectl label --overwrite node NODE kubernetes.region.unikorn-cloud.org/node-class=, and take it away again afterwards",
                page: "docs/targets/unikorn.md#no-node-with-a-class-is-kept-from-work",
                judge: classes::usable,
            },
        ],
    },
    Group {
        name: "services of this cluster",
        checks: &[
            Check {
                name: "ingress-nginx passes TLS through",
                why: "a virtual cluster's API is reached by its name in the TLS handshake",
                mend: "install ingress-nginx with --set 'controller.extraArgs.enable-ssl-passthrough='",
                page: "docs/targets/unikorn.md#ingress-nginx-passes-tls-through",
                judge: services::ingress_nginx,
            },
            Check {
                name: "there is one default ingress class",
                why: "virtual clusters' ingresses name none",
                mend: "install ingress-nginx with --set controller.ingressClassResource.default=true",
                page: "docs/targets/unikorn.md#there-is-one-default-ingress-class",
                judge: services::default_class,
            },
            Check {
                name: "external-dns has a provider and a domain filter",
                why: "virtual clusters are found by names that it makes, and it must make no others",
                mend: "install external-dns with --set provider.name=… --set domainFilters[0]=…",
                page: "docs/targets/unikorn.md#external-dns-has-a-provider-and-a-domain-filter",
                judge: services::external_dns,
            },
            Check {
                name: "Prometheus' kinds are served",
                why: "virtual clusters are watched by ServiceMonitors, and cannot be made without",
                mend: "install kube-prometheus-stack, which brings the CRDs of monitoring.coreos.com",
                page: "docs/targets/unikorn.md#prometheus-kinds-are-served",
                judge: services::prometheus,
            },
        ],
    },
    Group {
        name: "management cluster",
        checks: &[
            Check {
                name: "the management cluster answers",
                why: "the Region and the kubeconfig are kept there",
                mend: "set region.management.kubeconfigFile; does kubectl get regions work with it?",
                page: "docs/targets/unikorn.md#the-management-cluster-answers",
                judge: management::answers,
            },
            Check {
                name: "the Region would be accepted",
                why: "it is tried with a server-side dry run, which stores nothing",
                mend: "mend what is named; submit does the same for good",
                page: "docs/targets/unikorn.md#the-region-would-be-accepted",
                judge: management::accepted,
            },
            Check {
                name: "the kubeconfig's Secret is there and whole",
                why: "the network reads it from the Region's namespace, key kubeconfig, and has nothing else of this cluster",
                mend: "rollcall-aggregator prepare TARGET --apply makes it",
                page: "docs/targets/unikorn.md#the-kubeconfigs-secret-is-there-and-whole",
                judge: management::secret,
            },
            Check {
                name: "the kubeconfig lets the network in",
                why: "it makes virtual clusters with it, and asks for all rights",
                mend: "is region.access.server right, and has its certificate that name? rollcall-aggregator prepare TARGET --apply makes the account again",
                page: "docs/targets/unikorn.md#the-kubeconfig-lets-the-network-in",
                judge: management::lets_in,
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_check_has_its_page() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/targets/unikorn.md");
        let text = fs::read_to_string(path).expect("the page");
        let anchors: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .map(|heading| {
                let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
                let kept: String = heading.to_lowercase().chars().filter(kept).collect();
                format!("docs/targets/unikorn.md#{}", kept.replace(' ', "-"))
            })
            .collect();
        for check in GROUPS.iter().flat_map(|group| group.checks) {
            assert!(anchors.iter().any(|anchor| anchor == check.page), "{}", check.page);
        }
        let checks: usize = GROUPS.iter().map(|group| group.checks.len()).sum();
        assert_eq!(anchors.len(), checks, "a heading that no check has: {anchors:?}");
    }
}
