//! The checks of an AIOS network: what its services and its documentation ask of a cluster.
//!
//! What AIOS asks for, and where its documentation and its running services differ, stands in
//! `docs/checks.md` and `docs/aios.md`.

mod ambassador;
mod document;
mod infrastructure;
mod network;
mod nodes;
mod ports;

use std::net::IpAddr;
use std::time::Duration;

use rollcall_daemon::kubernetes::Selection;
use rollcall_report::error_chain;
use uuid::Uuid;

use super::kubernetes::{Cluster, resolve};
use super::{Check, Group, Observed, Verdict, observe};
use crate::admin::views::StatusView;
use crate::cluster_file::{AiosTarget, ClusterFile};
use crate::document::{ClusterDocument, Source, assemble};
use crate::operator::Operator;
use crate::targets::Departed;
use crate::targets::aios::{Client, INSTALLATION_KEY, Reply, Submission};

/// Where AIOS has its gateway into the cluster.
const AMBASSADOR: &str = "ambassador";

/// What the checks judge.
#[derive(Debug)]
pub struct Facts {
    file: ClusterFile,
    /// Why the document must not be sent, if so.
    obstacle: Option<String>,
    kubernetes: Cluster,
    aggregator: Observed<StatusView>,
    document: Observed<ClusterDocument>,
    gateway: Observed<Reply>,
    parser: Observed<Reply>,
    public_hostname: Observed<Vec<IpAddr>>,
    /// What the infrastructure is asked for with; `None`: none is declared.
    infrastructure: Option<Infrastructure>,
}

/// What is seen of a declared infrastructure.
#[derive(Debug)]
struct Infrastructure {
    /// The API servers that the kubeconfig names.
    kubeconfig: Result<Vec<String>, String>,
    /// What the tasks' database answers.
    tasks: Observed<Reply>,
}

/// Looks at everything that the checks need, at the same time, each thing within `limit`.
pub async fn look(
    file: &ClusterFile,
    target: &AiosTarget,
    selection: &Selection,
    operator: &Operator,
    limit: Duration,
) -> Facts {
    let prepared = prepare(file, target);
    let obstacle = prepared
        .as_ref()
        .map_or_else(|error| Some(error.clone()), |(_, submission)| submission.obstacle.clone());
    let (kubernetes, (aggregator, document), gateway, parser, public_hostname, infrastructure) = tokio::join!(
        Cluster::look(selection, AMBASSADOR, limit),
        ask_aggregator(file, target, operator, limit),
        ask(&prepared, limit, async |client, submission| client.ask_gateway(submission).await),
        ask(&prepared, limit, async |client, submission| client.ask_parser(submission).await),
        resolve_public_hostname(file, limit),
        look_at_infrastructure(&prepared, limit),
    );
    Facts {
        file: file.clone(),
        obstacle,
        kubernetes,
        aggregator,
        document,
        gateway,
        parser,
        public_hostname,
        infrastructure,
    }
}

/// What the network's services are asked with: the cluster's document, whatever its nodes are.
fn prepare(file: &ClusterFile, target: &AiosTarget) -> Result<(Client, Submission), String> {
    let assembly = assemble::<Source<'_>>(&file.cluster, &file.overrides, []);
    let submission = Submission::new(assembly.document, Departed::default(), Uuid::nil(), target)
        .map_err(|error| format!("the document cannot be encoded: {error}"))?;
    let client = Client::new(target).map_err(|error| error_chain(&error))?;
    Ok((client, submission))
}

async fn ask_aggregator(
    file: &ClusterFile,
    target: &AiosTarget,
    operator: &Operator,
    limit: Duration,
) -> (Observed<StatusView>, Observed<ClusterDocument>) {
    let status =
        observe(limit, async { operator.status().await.map_err(|error| error_chain(&error)) })
            .await;
    let Some(view) = status.seen() else {
        return (status, Observed::not_tried("no aggregator answers"));
    };
    if view.cluster != file.cluster.id.as_str() {
        let why = format!("the aggregator serves another cluster, {}", view.cluster);
        return (status, Observed::not_tried(why));
    }
    let document = observe(limit, async {
        let view = operator.document(Some(target.name.as_str())).await;
        view.map_err(|error| error_chain(&error)).map(|view| unmasked(view.document, file))
    })
    .await;
    (status, document)
}

/// The document as it is sent: what the aggregator masked stands in the cluster file. It is
/// measured, and shown nowhere.
fn unmasked(mut document: ClusterDocument, file: &ClusterFile) -> ClusterDocument {
    let info = |metadata: &serde_json::Map<String, serde_json::Value>| {
        metadata.get("additionalInfo").and_then(|info| info.as_object()).cloned()
    };
    let mark = info(&document.cluster_metadata).and_then(|mut info| info.remove(INSTALLATION_KEY));
    let mut metadata = file.cluster.cluster_metadata.clone();
    let mut info = info(&metadata).unwrap_or_default();
    info.extend(mark.map(|mark| (INSTALLATION_KEY.to_owned(), mark)));
    metadata.insert("additionalInfo".to_owned(), info.into());
    document.cluster_metadata = metadata;
    document
}

/// Asks one of the network's services, unless what comes or goes must not go over this wire.
async fn ask(
    prepared: &Result<(Client, Submission), String>,
    limit: Duration,
    asking: impl AsyncFnOnce(&Client, &Submission) -> Result<Reply, String>,
) -> Observed<Reply> {
    match prepared {
        Err(why) => Observed::not_tried(why),
        Ok((_, Submission { obstacle: Some(obstacle), .. })) => Observed::not_tried(obstacle),
        Ok((client, submission)) => observe(limit, asking(client, submission)).await,
    }
}

async fn look_at_infrastructure(
    prepared: &Result<(Client, Submission), String>,
    limit: Duration,
) -> Option<Infrastructure> {
    let (client, submission) = prepared.as_ref().ok()?;
    let kubeconfig = client.kubeconfig_servers()?;
    let none = || Err("no infrastructure is declared".to_owned());
    let tasks = observe(limit, async { client.ask_tasks(submission).await.unwrap_or_else(none) });
    Some(Infrastructure { kubeconfig, tasks: tasks.await })
}

async fn resolve_public_hostname(file: &ClusterFile, limit: Duration) -> Observed<Vec<IpAddr>> {
    match document::public_hostname(file) {
        Some(name) => match name.parse() {
            Ok(address) => Observed::known(vec![address]),
            Err(_a_name) => observe(limit, resolve(name)).await,
        },
        None => Observed::not_tried("config.publicHostname is not set"),
    }
}

/// All checks of an AIOS network.
pub static GROUPS: &[Group<Facts>] = &[
    Group {
        name: "aggregator",
        checks: &[Check {
            name: "an aggregator answers",
            why: "the document's size and the mark of our own entry are known to it alone",
            mend: "start rollcall-aggregator serve, or say where it is with --server",
            page: "docs/checks.md#an-aggregator-answers",
            judge: aggregator,
        }],
    },
    Group {
        name: "Kubernetes API",
        checks: &[
            Check {
                name: "the Kubernetes API answers",
                why: "AIOS works through it, and nothing of the cluster is known without it",
                mend: "give a kubeconfig with --kubeconfig (and --context) that kubectl get nodes works with",
                page: "docs/checks.md#the-kubernetes-api-answers",
                judge: |facts| {
                    facts.kubernetes.version.judge(|version| match &facts.kubernetes.api {
                        Some(url) => Verdict::pass(format!("{version} at {url}")),
                        None => Verdict::pass(version),
                    })
                },
            },
            Check {
                name: "the API server is on port 6443",
                why: "AIOS's documentation opens this port for kubeadm join and for its own access",
                mend: "if nodes are to join from outside, make port 6443 lead to the API server, or tell the network which port does",
                page: "docs/checks.md#the-api-server-is-on-port-6443",
                judge: ports::api_server,
            },
            Check {
                name: "nothing of Kubernetes is on the open internet",
                why: "whoever reaches API server, kubelets and node ports needs one leak or one bug to have the cluster",
                mend: "let a firewall admit known addresses alone to ports 6443, 10250 and 30000-32767, or put the cluster behind a VPN",
                page: "docs/checks.md#nothing-of-kubernetes-is-on-the-open-internet",
                judge: ports::exposure,
            },
        ],
    },
    Group {
        name: "Kubernetes nodes",
        checks: &[
            Check {
                name: "every node has a nodeID",
                why: "AIOS places work by the label nodeID, and its metrics wait for ever on a node without one",
                mend: "kubectl label node NAME nodeID=NAME",
                page: "docs/checks.md#every-node-has-a-nodeid",
                judge: nodes::labelled,
            },
            Check {
                name: "every nodeID is there once",
                why: "work for one of two nodes with one id may be placed on the other",
                mend: "kubectl label node NAME nodeID=NAME --overwrite",
                page: "docs/checks.md#every-nodeid-is-there-once",
                judge: nodes::unique,
            },
            Check {
                name: "the document's nodes carry their nodeID",
                why: "work for a registered node without its label is never placed",
                mend: "label the node with the id that rollcall-aggregator nodes shows, or give its agent the label with --node-id",
                page: "docs/checks.md#the-documents-nodes-carry-their-nodeid",
                judge: nodes::registered,
            },
            Check {
                name: "expect.nodes is the number of nodes",
                why: "the first registration waits for so many nodes: too few registers a part of the cluster, too many waits for ever",
                mend: "set expect.nodes in the cluster file to the number of nodes that run an agent",
                page: "docs/checks.md#expectnodes-is-the-number-of-nodes",
                judge: nodes::expected,
            },
            Check {
                name: "kubelets are on port 10250",
                why: "AIOS's documentation opens this port between control plane and nodes",
                mend: "set port: 10250 in the kubelet's configuration, or open the port that it has",
                page: "docs/checks.md#kubelets-are-on-port-10250",
                judge: ports::kubelets,
            },
            Check {
                name: "node ports are within 30000-32767",
                why: "AIOS's services take fixed ports of this range, and its documentation opens this range alone",
                mend: "start the API server with --service-node-port-range=30000-32767",
                page: "docs/checks.md#node-ports-are-within-30000-32767",
                judge: ports::node_ports,
            },
        ],
    },
    Group {
        name: "Ambassador",
        checks: &[
            Check {
                name: "Ambassador's Service is of type NodePort",
                why: "the network reaches the cluster through a port of its nodes",
                mend: "kubectl patch service ambassador --namespace ambassador --patch '{\"spec\":{\"type\":\"NodePort\"}}'",
                page: "docs/checks.md#ambassadors-service-is-of-type-nodeport",
                judge: ambassador::service,
            },
            Check {
                name: "Ambassador's HTTP port is node port 32000",
                why: "the network expects its way in there; the chart does not read service.nodePorts, so that its ports come out random",
                mend: "kubectl patch service ambassador --namespace ambassador --patch '{\"spec\":{\"ports\":[{\"port\":80,\"nodePort\":32000}]}}'",
                page: "docs/checks.md#ambassadors-http-port-is-node-port-32000",
                judge: ambassador::http_port,
            },
            Check {
                name: "Ambassador's pods are ready",
                why: "a port that nothing answers on is no way in",
                mend: "kubectl get pods --namespace ambassador, and kubectl describe those that are not ready",
                page: "docs/checks.md#ambassadors-pods-are-ready",
                judge: ambassador::pods,
            },
        ],
    },
    Group {
        name: "AIOS network",
        checks: &[
            Check {
                name: "secrets stay off plain HTTP",
                why: "whoever listens on the way could join the cluster with them; rollcall does not send them like that",
                mend: "use https for parserUrl and gatewayUrl, or leave the secret out",
                page: "docs/checks.md#secrets-stay-off-plain-http",
                judge: |facts| match &facts.obstacle {
                    Some(obstacle) => Verdict::fail(obstacle),
                    None => Verdict::pass(
                        "none is sent over plain HTTP to another machine unless told so",
                    ),
                },
            },
            Check {
                name: "the gateway answers",
                why: "every registration is read back through it",
                mend: "set the target's gatewayUrl to AIOS's cluster controller gateway (port 5000 by default)",
                page: "docs/checks.md#the-gateway-answers",
                judge: network::gateway,
            },
            Check {
                name: "the parser answers",
                why: "clusters are registered through it",
                mend: "set the target's parserUrl to AIOS's parser (port 8000 by default)",
                page: "docs/checks.md#the-parser-answers",
                judge: network::parser,
            },
            Check {
                name: "the cluster's id is free or ours",
                why: "an entry of somebody else's is never overwritten",
                mend: "choose another cluster.id, or have the entry removed",
                page: "docs/checks.md#the-clusters-id-is-free-or-ours",
                judge: network::cluster_id,
            },
        ],
    },
    Group {
        name: "AIOS infrastructure",
        checks: &[
            Check {
                name: "the kubeconfig is whole",
                why: "the network makes its infrastructure with it, and has nothing else of this machine",
                mend: "kubectl config view --raw --flatten --minify, with a token or a client certificate, and a server that the network reaches",
                page: "docs/checks.md#the-kubeconfig-is-whole",
                judge: infrastructure::kubeconfig,
            },
            Check {
                name: "the tasks' database answers",
                why: "how the making of the infrastructure goes is told there alone",
                mend: "set the target's infrastructure.tasksUrl to AIOS's tasks' database",
                page: "docs/checks.md#the-tasks-database-answers",
                judge: infrastructure::tasks,
            },
        ],
    },
    Group {
        name: "onboarding document",
        checks: &[
            Check {
                name: "config.publicHostname is set",
                why: "AIOS cannot create its infrastructure without it",
                mend: "set cluster.config.publicHostname in the cluster file to the name or address that the cluster is reached by",
                page: "docs/checks.md#configpublichostname-is-set",
                judge: document::has_public_hostname,
            },
            Check {
                name: "config.publicHostname resolves",
                why: "the network looks for the cluster under this name",
                mend: "add the name to the DNS that the network asks; if that is not the one of this machine, ask it yourself",
                page: "docs/checks.md#configpublichostname-resolves",
                judge: document::public_hostname_resolves,
            },
            Check {
                name: "config.useGateway is off",
                why: "with it on, AIOS's current code makes a Service without ports, and creating the infrastructure never ends",
                mend: "set cluster.config.useGateway to false in the cluster file",
                page: "docs/checks.md#configusegateway-is-off",
                judge: document::use_gateway,
            },
            Check {
                name: "the document fits the registry",
                why: "the registry takes 100 KiB in one request",
                mend: "nothing has to be done where it can be sent in pieces; else shorten cluster.config and cluster.clusterMetadata",
                page: "docs/checks.md#the-document-fits-the-registry",
                judge: document::size,
            },
        ],
    },
];

fn aggregator(facts: &Facts) -> Verdict {
    let wanted = facts.file.cluster.id.as_str();
    let verdict = facts.aggregator.judge(|view| {
        if view.cluster == wanted {
            let nodes = view.complete_nodes;
            Verdict::pass(format!("version {}, {nodes} nodes complete", view.version))
        } else {
            Verdict::fail(format!("it serves cluster {}, not {wanted}", view.cluster))
                .mend("ask the aggregator of this cluster: --server, or give its cluster file")
        }
    });
    verdict.at_most_warn()
}

impl Facts {
    /// Identifies our entry in the network; only a running aggregator of this cluster tells.
    fn installation(&self) -> Option<Uuid> {
        let view = self.aggregator.seen()?;
        view.installation.filter(|_| view.cluster == self.file.cluster.id.as_str())
    }
}
