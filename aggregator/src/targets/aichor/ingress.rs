//! The ingress controller's address, from the cluster's Services.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

/// A Service that has addresses outside the cluster, or that stands for an ingress controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entrance {
    /// Its namespace and name.
    pub place: String,
    /// Whether it is that of an NGINX ingress controller, by its names and labels.
    pub is_controller: bool,
    /// Whether it is of type `LoadBalancer`.
    pub is_load_balancer: bool,
    /// Its addresses outside the cluster.
    pub addresses: Vec<IpAddr>,
    /// Its names outside the cluster, where the load balancer has names.
    pub names: Vec<String>,
}

impl Entrance {
    /// What is looked at of a Service; `None`: it is no entrance.
    pub fn of(service: Service) -> Option<Self> {
        let metadata = service.metadata;
        let spec = service.spec.unwrap_or_default();
        let namespace = metadata.namespace.unwrap_or_default();
        let name = metadata.name.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        let selector = spec.selector.unwrap_or_default();
        let texts = [&namespace, &name].into_iter().chain(labels.values()).chain(selector.values());
        // `ingress-nginx` of the Kubernetes project, `nginx-ingress` of NGINX's maker, and what
        // distributions have made of these names.
        let is_controller =
            texts.into_iter().any(|it| it.contains("nginx") && it.contains("ingress"));
        let is_load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
        let balancer = service.status.and_then(|status| status.load_balancer);
        let points = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
        let given = points.iter().filter_map(|point| point.ip.clone());
        let given = given.chain(spec.external_ips.unwrap_or_default());
        let mut addresses: Vec<IpAddr> = given.filter_map(|address| address.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        let names = points.into_iter().filter_map(|point| point.hostname).collect();
        let entrance = Self {
            place: format!("{namespace}/{name}"),
            is_controller,
            is_load_balancer,
            addresses,
            names,
        };
        (is_controller || is_load_balancer).then_some(entrance)
    }
}

/// The ingress controller's only address.
///
/// # Errors
///
/// Why there is none, or which of several, in words.
pub fn address(entrances: &[Entrance]) -> Result<IpAddr, String> {
    let controllers = || entrances.iter().filter(|it| it.is_controller && it.is_load_balancer);
    let mut all: Vec<IpAddr> = controllers().flat_map(|it| it.addresses.clone()).collect();
    all.sort();
    all.dedup();
    let ipv4: Vec<IpAddr> = all.iter().filter(|it| it.is_ipv4()).copied().collect();
    match (&ipv4[..], &all[..]) {
        // The form has room for one; of both kinds the one that everybody reaches.
        ([only], _) | ([], [only]) => Ok(*only),
        ([], []) => Err(no_address(controllers().next())),
        _ => {
            let shown = |it: &Entrance| {
                let addresses: Vec<String> = it.addresses.iter().map(ToString::to_string).collect();
                format!("{} ({})", it.place, addresses.join(", "))
            };
            let shown: Vec<String> = controllers().map(shown).collect();
            Err(format!("there are several addresses of ingress controllers: {}", shown.join("; ")))
        }
    }
}

fn no_address(controller: Option<&Entrance>) -> String {
    let Some(first) = controller else {
        return "there is no Service of type LoadBalancer of an NGINX ingress controller"
            .to_owned();
    };
    match first.names.first() {
        Some(name) => format!(
            "{} has the name {name} and no address: those behind a name may change",
            first.place
        ),
        None => format!("{} has no address yet: nothing has given it one", first.place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, kind: &str, label: &str, points: &str) -> Service {
        let points: serde_json::Value = serde_json::from_str(points).expect("JSON");
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {"app.kubernetes.io/name": label}},
            "spec": {"type": kind, "selector": {"app": label}},
            "status": {"loadBalancer": {"ingress": points}},
        }))
        .expect("a Service")
    }

    #[test]
    fn which_address_it_is() {
        let controller = |points| {
            service(
                "ingress-nginx",
                "ingress-nginx-controller",
                "LoadBalancer",
                "ingress-nginx",
                points,
            )
        };
        let second =
            || service("edge", "edge", "LoadBalancer", "nginx-ingress", r#"[{"ip": "192.0.2.9"}]"#);
        let shop = || service("shop", "web", "LoadBalancer", "web", r#"[{"ip": "192.0.2.1"}]"#);
        let one = r#"[{"ip": "192.0.2.7"}]"#;
        let both = r#"[{"ip": "2001:db8::7"}, {"ip": "192.0.2.7"}]"#;
        let name = r#"[{"hostname": "lb.example.org"}]"#;
        let node_port = service("ingress-nginx", "c", "NodePort", "ingress-nginx", "null");
        for (what, services, expected) in [
            ("one", vec![controller(one), shop()], Ok("192.0.2.7")),
            ("another maker's", vec![second()], Ok("192.0.2.9")),
            (
                "by its labels",
                vec![service("edge", "public", "LoadBalancer", "rke2-ingress-nginx", one)],
                Ok("192.0.2.7"),
            ),
            ("both kinds", vec![controller(both)], Ok("192.0.2.7")),
            ("IPv6", vec![controller(r#"[{"ip": "2001:db8::7"}]"#)], Ok("2001:db8::7")),
            ("the same twice", vec![controller(one), controller(one)], Ok("192.0.2.7")),
            (
                "two",
                vec![controller(one), second()],
                Err(
                    "several addresses of ingress controllers: ingress-nginx/ingress-nginx-controller (192.0.2.7); edge/edge (192.0.2.9)",
                ),
            ),
            ("a name", vec![controller(name)], Err("has the name lb.example.org and no address")),
            ("none yet", vec![controller("null")], Err("has no address yet")),
            ("not of it", vec![shop()], Err("there is no Service of type LoadBalancer")),
            ("a node port", vec![node_port], Err("there is no Service of type LoadBalancer")),
            ("nothing", vec![], Err("there is no Service of type LoadBalancer")),
        ] {
            let entrances: Vec<Entrance> = services.into_iter().filter_map(Entrance::of).collect();
            match (address(&entrances), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.to_string(), expected, "{what}"),
                (Err(got), Err(expected)) => assert!(got.contains(expected), "{what}: {got}"),
                (got, _) => panic!("{what}: {got:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_entrance() {
        assert_eq!(Entrance::of(service("shop", "web", "ClusterIP", "web", "null")), None);
        let admission = service("ingress-nginx", "admission", "ClusterIP", "ingress-nginx", "null");
        let entrance = Entrance::of(admission).expect("of a controller");
        assert!(entrance.is_controller && !entrance.is_load_balancer);
    }
}
