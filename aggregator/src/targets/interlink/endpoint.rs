//! Where plugins reach the Kubernetes API: what the cluster file says, else what the cluster tells.

use std::num::NonZeroU16;
use std::path::Path;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, ListParams};
use rollcall_daemon::secret::{Secret, read_token_file, warn_if_exposed};
use rollcall_report::error_chain;

use super::manifests::TOKEN;
use crate::certificates::{self, Certificate};
use crate::checks::kubernetes::{Reader, read};
use crate::checks::{Observed, handful};
use crate::cluster_file::interlink::{Address, ApiAccess, CaSource, SecretEntry, TokenSource};

/// The ports of ingress-nginx's controller by name, in its Service and in its containers: its chart's.
const HTTPS: &str = "https";

/// How the Services of ingress-nginx's controllers are known: labels of its chart.
const CONTROLLERS: &str =
    "app.kubernetes.io/name=ingress-nginx,app.kubernetes.io/component=controller";

/// Where plugins reach the API, and what they check its certificate with.
#[derive(Debug)]
pub struct Endpoint {
    /// The name or address.
    pub address: Observed<Found<Address>>,
    /// The port.
    pub port: Observed<Found<NonZeroU16>>,
    /// The CA, at least one certificate.
    pub ca: Observed<Found<Vec<Certificate>>>,
}

/// A value, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Where it is from, for messages.
    pub from: String,
}

impl<T> Found<T> {
    fn new(value: T, from: impl Into<String>) -> Self {
        Self { value, from: from.into() }
    }
}

impl Endpoint {
    /// Finds out what the cluster file leaves open; the cluster is read for nothing else.
    pub async fn find(access: &ApiAccess, reader: &Observed<Reader>) -> Self {
        let (ingress, controller) = tokio::join!(read_ingress(access, reader), async {
            // A load balancer may tell the address that the Ingress does not.
            if access.address.is_some() && access.port.is_some() {
                return Observed::not_tried("nothing is to be asked of it");
            }
            Controller::find(access, reader).await
        },);
        let address = access.address.clone().map_or_else(
            || address_of(access, &ingress, &controller),
            |address| Observed::known(Found::new(address, "apiAccess.address")),
        );
        let port = access.port.map_or_else(
            || controller.as_ref().try_map(|it| it.port(access)),
            |port| Observed::known(Found::new(port, "apiAccess.port")),
        );
        let ca = find_ca(access, reader, &ingress).await;
        Self { address, port, ca }
    }
}

/// The Ingress, where something is to be taken from it; `None`: there is none.
async fn read_ingress(access: &ApiAccess, reader: &Observed<Reader>) -> Observed<Option<Ingress>> {
    if access.address.is_some() && access.ca != CaSource::Ingress {
        return Observed::not_tried("nothing is to be asked of it");
    }
    let keys = &access.ingress;
    read(reader, async |reader| {
        let api = Api::namespaced(reader.access.client.clone(), &keys.namespace);
        reader.get::<Ingress>(api, &keys.name).await
    })
    .await
}

fn address_of(
    access: &ApiAccess,
    ingress: &Observed<Option<Ingress>>,
    controller: &Observed<Controller>,
) -> Observed<Found<Address>> {
    ingress.as_ref().try_map(|ingress| {
        let of_ingress = ingress.as_ref().and_then(address_of_ingress);
        let of_controller = || controller.seen().and_then(Controller::address);
        of_ingress.or_else(of_controller).ok_or_else(|| {
            let keys = &access.ingress;
            let what = if ingress.is_some() { "tells no address" } else { "is not there" };
            format!(
                "the Ingress {}/{} {what}, and no load balancer of its controller does",
                keys.namespace, keys.name
            )
        })
    })
}

/// What the certificate is for, else what requests are answered for, else where its controller is.
fn address_of_ingress(ingress: &Ingress) -> Option<Found<Address>> {
    let place = format!("the Ingress {}", place(&ingress.metadata));
    let spec = ingress.spec.as_ref();
    let tls = spec.and_then(|spec| spec.tls.as_ref()).into_iter().flatten();
    let tls = tls.flat_map(|tls| tls.hosts.iter().flatten());
    let rules = spec.and_then(|spec| spec.rules.as_ref()).into_iter().flatten();
    let rules = rules.filter_map(|rule| rule.host.as_ref());
    let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let status = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let status = status.filter_map(|it| it.ip.as_ref().or(it.hostname.as_ref()));
    // A wildcard is no address, and left out.
    let first = tls.chain(rules).chain(status).find_map(|text| Address::parse(text).ok());
    first.map(|address| Found::new(address, place))
}

/// The Secret with the Ingress's certificate.
fn tls_secret(ingress: &Ingress) -> Option<&str> {
    let tls = ingress.spec.as_ref()?.tls.as_ref()?;
    tls.iter().find_map(|tls| tls.secret_name.as_deref())
}

fn place(metadata: &kube::api::ObjectMeta) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// The controller that serves the Ingress: its Service, and its pods.
#[derive(Debug)]
struct Controller {
    service: core::Service,
    pods: Vec<core::Pod>,
}

impl Controller {
    async fn find(access: &ApiAccess, reader: &Observed<Reader>) -> Observed<Self> {
        let services = read(reader, async |reader| {
            let all = Api::<core::Service>::all(reader.access.client.clone());
            reader.list(all, ListParams::default().labels(CONTROLLERS)).await
        })
        .await;
        let service = services.try_map(|services| choose(access, services));
        let took = service.took;
        let service = match service.result {
            Ok(service) => service,
            Err(unseen) => return Observed { result: Err(unseen), took },
        };
        let pods = read(reader, async |reader| {
            let namespace = service.metadata.namespace.clone().unwrap_or_default();
            let api = Api::<core::Pod>::namespaced(reader.access.client.clone(), &namespace);
            reader.list(api, ListParams::default().labels(&selector(&service))).await
        })
        .await;
        pods.try_map(|pods| Ok(Self { service, pods }))
    }

    /// The address of its load balancer.
    fn address(&self) -> Option<Found<Address>> {
        let place = format!("the Service {}", place(&self.service.metadata));
        let mut texts =
            balanced(&self.service).filter_map(|it| it.ip.as_ref().or(it.hostname.as_ref()));
        texts.find_map(|text| Address::parse(text).ok()).map(|it| Found::new(it, place))
    }

    /// The port that leads to it from outside: that of its load balancer, else one on its nodes.
    fn port(&self, access: &ApiAccess) -> Result<Found<NonZeroU16>, String> {
        let place = place(&self.service.metadata);
        let port = https_port(&self.service);
        let of = |number: Option<i32>| {
            number.and_then(|it| u16::try_from(it).ok()).and_then(NonZeroU16::new)
        };
        let has_balancer = balanced(&self.service).next().is_some();
        let balancer = of(port.filter(|_| has_balancer).map(|it| it.port));
        let host = || of(self.pods.iter().find_map(host_port));
        let node = || of(port.and_then(|it| it.node_port));
        let from = |what: &str| format!("{what} of {place}");
        balancer
            .map(|it| Found::new(it, from("the load balancer")))
            .or_else(|| host().map(|it| Found::new(it, from("the host port of the pods"))))
            .or_else(|| node().map(|it| Found::new(it, from("the node port"))))
            .ok_or_else(|| {
                let class = &access.ingress.class_name;
                format!(
                    "the controller's Service {place} (class {class}) has no load balancer and no port on its nodes"
                )
            })
    }
}

fn balanced(service: &core::Service) -> impl Iterator<Item = &core::LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).into_iter().flatten()
}

fn https_port(service: &core::Service) -> Option<&core::ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.iter().find(|port| port.name.as_deref() == Some(HTTPS))
}

fn host_port(pod: &core::Pod) -> Option<i32> {
    let containers = &pod.spec.as_ref()?.containers;
    let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.find(|port| port.name.as_deref() == Some(HTTPS))?.host_port
}

fn selector(service: &core::Service) -> String {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pairs = selector.into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// How the chart names the Service for inside traffic, where a controller has one beside the other.
const INTERNAL: &str = "-internal";

/// Of several Services, that for inside traffic, if all of them lead to the same pods.
fn internal(services: &[core::Service]) -> Option<usize> {
    let pods = |it: &core::Service| {
        let selector = it.spec.as_ref().and_then(|spec| spec.selector.clone());
        (it.metadata.namespace.clone(), selector.unwrap_or_default())
    };
    let (_, selector) = services.first().map(pods)?;
    let are_one = services.windows(2).all(|pair| match pair {
        [one, other] => pods(one) == pods(other),
        _ => true,
    });
    let is_internal =
        |it: &core::Service| it.metadata.name.as_ref().is_some_and(|name| name.ends_with(INTERNAL));
    let mut found =
        services.iter().enumerate().filter(|(_, it)| is_internal(it)).map(|(index, _)| index);
    let only = found.next().filter(|_| found.next().is_none());
    only.filter(|_| are_one && !selector.is_empty())
}

/// The controller's Service among those of all controllers: the one beside the Ingress, else the only
/// one; of one controller's that for inside traffic.
fn choose(access: &ApiAccess, services: Vec<core::Service>) -> Result<core::Service, String> {
    let namespace = &access.ingress.namespace;
    let is_beside = |it: &core::Service| it.metadata.namespace.as_ref() == Some(namespace);
    // The controller's webhook has a Service of the same labels.
    let serving = services.into_iter().filter(|it| https_port(it).is_some());
    let (mut beside, mut elsewhere): (Vec<_>, Vec<_>) = serving.partition(is_beside);
    let (fitting, where_) = if beside.is_empty() {
        (&mut elsewhere, "in the cluster")
    } else {
        (&mut beside, namespace.as_str())
    };
    if let Some(index) = internal(fitting) {
        return Ok(fitting.swap_remove(index));
    }
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            fitting.push(last);
            let names: Vec<String> = fitting.iter().map(|it| place(&it.metadata)).collect();
            let names = handful(names.iter().map(String::as_str));
            Err(format!("which controller serves the Ingress is not clear: {names}"))
        }
        (None, _) => Err(format!("no Service of an ingress-nginx controller is {where_}")),
    }
}

async fn find_ca(
    access: &ApiAccess,
    reader: &Observed<Reader>,
    ingress: &Observed<Option<Ingress>>,
) -> Observed<Found<Vec<Certificate>>> {
    let entry = match &access.ca {
        CaSource::File(path) => return Observed::of(ca_of_file(path)),
        CaSource::Secret(entry) => Observed::known(entry.clone()),
        CaSource::Ingress => ingress.as_ref().try_map(|ingress| {
            let keys = &access.ingress;
            let (namespace, name) = (keys.namespace.clone(), &keys.name);
            let Some(ingress) = ingress else {
                return Err(format!("there is no Ingress {namespace}/{name} to take the CA from"));
            };
            let secret = tls_secret(ingress).map(str::to_owned);
            let secret = secret
                .ok_or_else(|| format!("the Ingress {namespace}/{name} names no Secret for TLS"))?;
            Ok(SecretEntry { namespace, name: secret, key: "ca.crt".to_owned() })
        }),
    };
    let took = entry.took;
    let entry = match entry.result {
        Ok(entry) => entry,
        Err(unseen) => return Observed { result: Err(unseen), took },
    };
    secret_entry(&entry, reader).await.try_map(|bytes| {
        let bytes = bytes.ok_or_else(|| format!("there is no {entry}"))?;
        let ca = certificates::from_pem(&bytes)
            .map_err(|error| format!("{entry} cannot be used: {}", error_chain(&error)))?;
        Ok(Found::new(ca, entry.to_string()))
    })
}

fn ca_of_file(path: &Path) -> Result<Found<Vec<Certificate>>, String> {
    let place = path.display().to_string();
    let pem = std::fs::read(path)
        .map_err(|error| format!("the CA file {place} cannot be read: {error}"))?;
    let ca = certificates::from_pem(&pem)
        .map_err(|error| format!("the CA file {place} cannot be used: {}", error_chain(&error)))?;
    Ok(Found::new(ca, place))
}

/// The token of the service account to try with.
pub async fn find_token(access: &ApiAccess, reader: &Observed<Reader>) -> Observed<Found<Secret>> {
    let prepared;
    let entry = match &access.token {
        TokenSource::File(path) => {
            warn_if_exposed(path);
            let token = read_token_file(path).map_err(|error| error_chain(&error));
            return Observed::of(token.map(|it| Found::new(it, path.display().to_string())));
        }
        TokenSource::Secret(entry) => entry,
        TokenSource::Prepared => {
            let (namespace, name) = (access.ingress.namespace.clone(), TOKEN.to_owned());
            prepared = SecretEntry { namespace, name, key: "token".to_owned() };
            &prepared
        }
    };
    secret_entry(entry, reader).await.try_map(|bytes| {
        let token = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let token = token.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
        let token = token.ok_or_else(|| format!("there is no {entry}"))?;
        Ok(Found::new(Secret::new(token), entry.to_string()))
    })
}

/// What a Secret holds under a key; `None`: it is not there, or empty.
async fn secret_entry(entry: &SecretEntry, reader: &Observed<Reader>) -> Observed<Option<Vec<u8>>> {
    let secret = read(reader, async |reader| {
        let api = Api::<core::Secret>::namespaced(reader.access.client.clone(), &entry.namespace);
        reader.get(api, &entry.name).await
    })
    .await;
    secret.try_map(|secret| {
        let data = secret.and_then(|mut secret| secret.data.as_mut()?.remove(&entry.key));
        Ok(data.map(|data| data.0).filter(|data| !data.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn addresses_of_an_ingress() {
        let tls = json!([{"hosts": ["*.example.org", "k8s.example.org"]}, {"hosts": ["10.1.2.3"]}]);
        let rules = json!([{"http": {"paths": []}}, {"host": "api.example.org"}]);
        let balancer = |it: Value| json!({"loadBalancer": {"ingress": [it]}});
        for (what, spec, status, expected) in [
            ("nothing", json!({}), json!({}), None),
            ("TLS first", json!({"tls": tls, "rules": rules}), json!({}), Some("k8s.example.org")),
            ("then the rules", json!({"rules": rules}), json!({}), Some("api.example.org")),
            ("then the status", json!({}), balancer(json!({"ip": "10.4.5.6"})), Some("10.4.5.6")),
            (
                "a name",
                json!({}),
                balancer(json!({"hostname": "lb.example.org"})),
                Some("lb.example.org"),
            ),
        ] {
            let ingress = of(json!({"metadata": {}, "spec": spec, "status": status}));
            let found = address_of_ingress(&ingress).map(|found| found.value.to_string());
            assert_eq!(found.as_deref(), expected, "{what}");
        }
    }

    fn service(namespace: &str, port: &Value, balanced: bool) -> core::Service {
        let ingress = if balanced { json!([{"ip": "10.4.5.6"}]) } else { json!([]) };
        of(json!({
            "metadata": {"namespace": namespace, "name": "controller"},
            "spec": {"ports": [{"name": "http", "port": 80, "nodePort": 30080}, port]},
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
    }

    #[test]
    fn ports_of_a_controller() {
        let access = ApiAccess::default();
        let pod = |host: Value| -> core::Pod {
            of(json!({"metadata": {}, "spec": {"containers": [{"name": "controller", "ports": [
                {"name": "http", "containerPort": 80, "hostPort": 6080},
                {"name": "https", "containerPort": 443, "hostPort": host},
            ]}]}}))
        };
        let (with, without) = (pod(json!(60443)), pod(Value::Null));
        let (on_node, inside) = (
            json!({"name": "https", "port": 443, "nodePort": 31443}),
            json!({"name": "https", "port": 443}),
        );
        for (what, port, balanced, pod, expected) in [
            (
                "a load balancer",
                &on_node,
                true,
                &with,
                Ok((443, "the load balancer of a/controller")),
            ),
            (
                "host ports",
                &on_node,
                false,
                &with,
                Ok((60443, "the host port of the pods of a/controller")),
            ),
            (
                "a node port",
                &on_node,
                false,
                &without,
                Ok((31443, "the node port of a/controller")),
            ),
            ("none", &inside, false, &without, Err("no load balancer and no port on its nodes")),
        ] {
            let service = service("a", port, balanced);
            let found = Controller { service, pods: vec![pod.clone()] }.port(&access);
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!((found.value.get(), found.from.as_str()), expected, "{what}");
                }
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn which_controller_it_is() {
        let access = ApiAccess::default();
        let own = access.ingress.namespace.as_str();
        let https = json!({"name": "https", "port": 443});
        let webhook = json!({"name": "https-webhook", "port": 443});
        let at = |namespace: &str, port: &Value| service(namespace, port, false);
        let named = |name: &str, app: &str| -> core::Service {
            of(json!({
                "metadata": {"namespace": own, "name": name},
                "spec": {"selector": {"app": app}, "ports": [https]},
            }))
        };
        for (what, services, expected) in [
            ("none", vec![], Err("no Service of an ingress-nginx controller is in the cluster")),
            ("the only one", vec![at("a", &https)], Ok("a/controller")),
            ("its webhook beside it", vec![at("a", &webhook), at("a", &https)], Ok("a/controller")),
            ("that beside the Ingress", vec![at("a", &https), at(own, &https)], Ok(own)),
            (
                "two elsewhere",
                vec![at("a", &https), at("b", &https)],
                Err("not clear: a/controller, b/"),
            ),
            (
                "two of one controller",
                vec![named("controller", "a"), named("controller-internal", "a")],
                Ok("ingress-nginx-internal/controller-internal"),
            ),
            (
                "two of one controller, neither for inside",
                vec![named("controller", "a"), named("controller-2", "a")],
                Err("not clear: "),
            ),
            (
                "one for inside, of another controller",
                vec![named("controller", "a"), named("controller-internal", "b")],
                Err("not clear: "),
            ),
            ("a webhook alone", vec![at(own, &webhook)], Err("no Service of an ingress-nginx")),
        ] {
            let found = choose(&access, services).map(|it| place(&it.metadata));
            match (&found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert!(found.starts_with(expected), "{what}: {found}");
                }
                (Err(problem), Err(expected)) => {
                    assert!(problem.contains(expected), "{what}: {problem}");
                }
                _ => panic!("{what}: {found:?}"),
            }
        }
    }
}
