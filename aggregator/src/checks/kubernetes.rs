//! What the checks see of a Kubernetes cluster, read through the operator's kubeconfig or from
//! inside the cluster. Nothing is ever written.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use k8s_openapi::api::core::v1 as core;
use kube::Resource;
use kube::api::{Api, ListParams, PostParams};
use rollcall_daemon::kubernetes::{Access, Selection, words};
use rollcall_daemon::secret::Secret;
use rollcall_report::NODE_ID_LABEL;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::{Observed, Unseen, observe};

/// How many objects are asked for at a time.
const PAGE: u32 = 500;

/// More pages than any cluster has: a server that never comes to an end is not followed.
const MOST_PAGES: usize = 400;

/// Why nothing of Kubernetes is checked.
pub const OUT_OF_REACH: &str = "the Kubernetes API cannot be reached";

/// Reads from a Kubernetes API that answers, each thing within a time limit.
pub struct Reader {
    /// The way to it.
    pub access: Access,
    /// Its version, such as `v1.33.1`.
    pub version: String,
    limit: Duration,
}

impl Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("url", &self.access.url.as_str()).finish_non_exhaustive()
    }
}

/// A kind of objects that the API serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The version of its group, such as `v1`.
    pub version: String,
    /// The name in paths and rules; a subresource has a slash in it.
    pub plural: String,
    /// The kind.
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// Looks at something where the API answers; else it was not tried.
pub async fn read<T>(
    reader: &Observed<Reader>,
    look: impl AsyncFnOnce(&Reader) -> Observed<T>,
) -> Observed<T> {
    match &reader.result {
        Ok(reader) => look(reader).await,
        Err(_unseen) => Observed::not_tried(OUT_OF_REACH),
    }
}

impl Reader {
    /// Finds the API and asks for its version.
    pub async fn open(selection: &Selection, limit: Duration) -> Observed<Self> {
        Self::of(observe(limit, Access::open(selection)).await, limit).await
    }

    /// The same as whoever has this token, and with nothing else of ours.
    pub async fn open_as(selection: &Selection, token: &Secret, limit: Duration) -> Observed<Self> {
        Self::of(observe(limit, Access::open_as(selection, token)).await, limit).await
    }

    /// The same by a way that was found.
    pub async fn of(opened: Observed<Access>, limit: Duration) -> Observed<Self> {
        let access = match opened.result {
            Ok(access) => access,
            Err(unseen) => return Observed { result: Err(unseen), took: opened.took },
        };
        let version = version(&access, limit).await;
        let result = version.result.map(|version| Self { access, version, limit });
        Observed { result, took: version.took }
    }

    /// How long an answer is waited for.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// One object; `None`: there is none of this name.
    pub async fn get<K>(&self, api: Api<K>, name: &str) -> Observed<Option<K>>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        observe(self.limit, async {
            let object = api.get_opt(name).await;
            let path = api.resource_url();
            object.map_err(|error| words_of(&format!("GET {path}/{name}"), &self.access, &error))
        })
        .await
    }

    /// All objects, page by page; each page has the limit.
    pub async fn list<K>(&self, api: Api<K>, params: ListParams) -> Observed<Vec<K>>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let request = format!("list of {}", api.resource_url());
        pages(&self.access, &api, &request, params, self.limit, Some).await
    }

    /// What the API serves of a group, such as `cert-manager.io`; nothing: it knows no such group.
    pub async fn serves(&self, group: &str) -> Observed<Vec<Served>> {
        observe(self.limit, async {
            let asked = |request: &str, error: &kube::Error| words_of(request, &self.access, error);
            let client = &self.access.client;
            let groups = client.list_api_groups().await;
            let groups = groups.map_err(|error| asked("GET /apis", &error))?.groups;
            let versions = groups.into_iter().filter(|it| it.name == group);
            let versions = versions.flat_map(|it| it.versions).map(|it| it.group_version);
            let mut served = Vec::new();
            for group_version in versions {
                let resources = client.list_api_group_resources(&group_version).await;
                let resources = resources
                    .map_err(|error| asked(&format!("GET /apis/{group_version}"), &error))?;
                let version = group_version.rsplit('/').next().unwrap_or_default().to_owned();
                served.extend(resources.resources.into_iter().map(|it| Served {
                    version: version.clone(),
                    plural: it.name,
                    kind: it.kind,
                    namespaced: it.namespaced,
                }));
            }
            Ok(served)
        })
        .await
    }

    /// The addresses of the Service `kubernetes`, which nobody outside the cluster reaches.
    pub async fn own_addresses(&self) -> Observed<Vec<IpAddr>> {
        let services: Api<core::Service> = Api::namespaced(self.access.client.clone(), "default");
        self.get(services, "kubernetes").await.map(|service| {
            let spec = service.and_then(|service| service.spec).unwrap_or_default();
            let all = spec.cluster_ips.unwrap_or_default();
            let all = all.into_iter().chain(spec.cluster_ip);
            all.filter_map(|address| address.parse().ok()).collect()
        })
    }

    /// Whether whoever asks may do something: a review, which changes nothing.
    pub async fn may(&self, asked: &ResourceAttributes) -> Observed<bool> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(asked.clone()),
                non_resource_attributes: None,
            },
            ..SelfSubjectAccessReview::default()
        };
        observe(self.limit, async {
            let reviews: Api<SelfSubjectAccessReview> = Api::all(self.access.client.clone());
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer
                .map_err(|error| words_of("a SelfSubjectAccessReview", &self.access, &error))?;
            Ok(answer.status.is_some_and(|status| status.allowed))
        })
        .await
    }

    /// Whether somebody else may do something: a review, which changes nothing.
    pub async fn may_another(
        &self,
        asked: SubjectAccessReviewSpec,
    ) -> Observed<SubjectAccessReviewStatus> {
        let review = SubjectAccessReview { spec: asked, ..SubjectAccessReview::default() };
        observe(self.limit, async {
            let reviews: Api<SubjectAccessReview> = Api::all(self.access.client.clone());
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer =
                answer.map_err(|error| words_of("a SubjectAccessReview", &self.access, &error))?;
            answer.status.ok_or_else(|| "a SubjectAccessReview came back without an answer".into())
        })
        .await
    }
}

async fn version(access: &Access, limit: Duration) -> Observed<String> {
    observe(limit, async {
        let version = access.client.apiserver_version().await;
        version
            .map(|info| info.git_version)
            .map_err(|error| words_of("GET /version", access, &error))
    })
    .await
}

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
        let version = version(&access, limit).await;
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
        Self {
            api,
            version,
            api_addresses: Observed::not_tried(OUT_OF_REACH),
            nodes: Observed::not_tried(OUT_OF_REACH),
            services: Observed::not_tried(OUT_OF_REACH),
            pods: Observed::not_tried(OUT_OF_REACH),
            node_ports: Observed::not_tried(OUT_OF_REACH),
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
    let request = format!("list of {}", K::plural(&()));
    pages(access, &api, &request, ListParams::default(), limit, keep).await
}

async fn pages<K, T>(
    access: &Access,
    api: &Api<K>,
    request: &str,
    params: ListParams,
    limit: Duration,
    keep: impl Fn(K) -> Option<T>,
) -> Observed<Vec<T>>
where
    K: Clone + Debug + DeserializeOwned,
{
    let started = Instant::now();
    let observed = |result| Observed { result, took: started.elapsed() };
    let mut seen = Vec::new();
    let mut page = params.limit(PAGE);
    for _ in 0..MOST_PAGES {
        let objects = match timeout(limit, api.list(&page)).await {
            Ok(Ok(objects)) => objects,
            Ok(Err(error)) => {
                return observed(Err(Unseen::Failed { words: words_of(request, access, &error) }));
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
pub fn words_of(request: &str, access: &Access, error: &kube::Error) -> String {
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
