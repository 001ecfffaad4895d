//! What the checks see of a Kubernetes cluster, read through the operator's kubeconfig or from
//! inside the cluster. Nothing is ever written.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Resource;
use kube::api::{Api, ListParams};
use rollcall_daemon::kubernetes::{Access, Selection, words};
use rollcall_report::NODE_ID_LABEL;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::{Observed, Unseen, observe};

/// How many objects are asked for at a time.
const PAGE: u32 = 500;

/// More pages than any cluster has: a server that never comes to an end is not followed.
const MOST_PAGES: usize = 400;

/// What was seen of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The API server's URL, where it is known.
    pub api: Option<Url>,
    /// The server's version, such as `v1.33.1`.
    pub version: Observed<String>,
    /// The addresses of the API server.
    pub api_addresses: Observed<Vec<IpAddr>>,
    /// All nodes.
    pub nodes: Observed<Vec<Node>>,
    /// The Services of the namespace that was asked for.
    pub services: Observed<Vec<Service>>,
    /// The pods of that namespace.
    pub pods: Observed<Vec<Pod>>,
    /// The Services of all namespaces that have a node port.
    pub node_ports: Observed<Vec<Service>>,
}

/// A Node, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its label `nodeID`; an empty one is none.
    pub node_id: Option<String>,
    /// Where its kubelet listens; 0 or nothing where the node does not tell.
    pub kubelet_port: Option<i32>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A Service, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: String,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Which pods it stands for.
    pub selector: BTreeMap<String, String>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Port {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The port inside the cluster.
    pub port: i32,
    /// The port on every node, where it has one.
    pub node_port: Option<i32>,
}

/// A pod, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is ready.
    pub ready: bool,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Whether it is being removed.
    pub leaving: bool,
}

impl Cluster {
    /// Looks at a cluster, and at the Services and pods of a namespace. Each thing has `limit`; a
    /// list that comes in pages has it for each page.
    pub async fn look(selection: &Selection, namespace: &str, limit: Duration) -> Self {
        let opened = observe(limit, Access::open(selection)).await;
        let access = match opened.result {
            Ok(access) => access,
            Err(unseen) => {
                let version = Observed { result: Err(unseen), took: opened.took };
                return Self::out_of_reach(None, version);
            }
        };
        let api = Some(access.url.clone());
        let version = observe(limit, async {
            let version = access.client.apiserver_version().await;
            version
                .map(|info| info.git_version)
                .map_err(|error| words_of("GET /version", &access, &error))
        })
        .await;
        if version.result.is_err() {
            return Self::out_of_reach(api, version);
        }
        let client = &access.client;
        let (api_addresses, nodes, services, pods, node_ports) = tokio::join!(
            observe(limit, addresses(&access.url)),
            list(&access, Api::all(client.clone()), limit, |node| Some(Node::of(node))),
            list(&access, Api::namespaced(client.clone(), namespace), limit, |service| {
                Some(Service::of(service))
            }),
            list(&access, Api::namespaced(client.clone(), namespace), limit, |pod| {
                Some(Pod::of(pod))
            }),
            list(&access, Api::all(client.clone()), limit, |service| {
                Some(Service::of(service)).filter(Service::has_node_port)
            }),
        );
        Self { api, version, api_addresses, nodes, services, pods, node_ports }
    }

    fn out_of_reach(api: Option<Url>, version: Observed<String>) -> Self {
        const WHY: &str = "the Kubernetes API cannot be reached";
        Self {
            api,
            version,
            api_addresses: Observed::not_tried(WHY),
            nodes: Observed::not_tried(WHY),
            services: Observed::not_tried(WHY),
            pods: Observed::not_tried(WHY),
            node_ports: Observed::not_tried(WHY),
        }
    }
}

/// Lists objects page by page, and keeps what is looked at of each.
async fn list<K, T>(
    access: &Access,
    api: Api<K>,
    limit: Duration,
    keep: impl Fn(K) -> Option<T>,
) -> Observed<Vec<T>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let started = Instant::now();
    let observed = |result| Observed { result, took: started.elapsed() };
    let request = format!("list of {}", K::plural(&()));
    let mut seen = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    for _ in 0..MOST_PAGES {
        let objects = match timeout(limit, api.list(&page)).await {
            Ok(Ok(objects)) => objects,
            Ok(Err(error)) => {
                return observed(Err(Unseen::Failed { words: words_of(&request, access, &error) }));
            }
            Err(_elapsed) => return observed(Err(Unseen::OutOfTime { limit })),
        };
        seen.extend(objects.items.into_iter().filter_map(&keep));
        match objects.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return observed(Ok(seen)),
        }
    }
    let words = format!("{request}: it did not come to an end after {MOST_PAGES} pages");
    observed(Err(Unseen::Failed { words }))
}

/// What was tried where, and what came back.
fn words_of(request: &str, access: &Access, error: &kube::Error) -> String {
    format!("{request} at {}: {}", access.place(), words::of(error))
}

/// The addresses of a URL's host, by the resolver where it is a name.
async fn addresses(url: &Url) -> Result<Vec<IpAddr>, String> {
    match url.host() {
        Some(Host::Ipv4(address)) => Ok(vec![address.into()]),
        Some(Host::Ipv6(address)) => Ok(vec![address.into()]),
        Some(Host::Domain(name)) => resolve(name).await,
        None => Ok(Vec::new()),
    }
}

/// Looks a name up as the machine's resolver does.
///
/// # Errors
///
/// The resolver's words.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.dedup();
            Ok(addresses)
        }
        Err(error) => Err(format!("{name} cannot be resolved: {error}")),
    }
}

impl Node {
    fn of(node: core::Node) -> Self {
        let status = node.status.unwrap_or_default();
        let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
        let labels = node.metadata.labels.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        Self {
            name: node.metadata.name.unwrap_or_default(),
            node_id: labels.get(NODE_ID_LABEL).filter(|id| !id.is_empty()).cloned(),
            kubelet_port: port.map(|endpoint| endpoint.port),
            addresses: addresses.iter().filter_map(|it| it.address.parse().ok()).collect(),
        }
    }
}

impl Service {
    fn of(service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        Self {
            namespace: service.metadata.namespace.unwrap_or_default(),
            name: service.metadata.name.unwrap_or_default(),
            kind: spec.type_.unwrap_or_default(),
            ports: ports
                .into_iter()
                .map(|port| Port { name: port.name, port: port.port, node_port: port.node_port })
                .collect(),
            selector: spec.selector.unwrap_or_default(),
        }
    }

    fn has_node_port(&self) -> bool {
        self.ports.iter().any(|port| port.node_port.is_some())
    }

    /// Whether it stands for a pod. One without a selector stands for none.
    pub fn selects(&self, pod: &Pod) -> bool {
        !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

impl Pod {
    fn of(pod: core::Pod) -> Self {
        let status = pod.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            labels: pod.metadata.labels.unwrap_or_default(),
            ready: conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True"),
            phase: status.phase.unwrap_or_default(),
            leaving: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}
