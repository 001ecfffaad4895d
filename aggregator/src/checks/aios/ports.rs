//! What is checked of the ports that AIOS's documentation lists, from what the Kubernetes API tells.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use url::Url;

use super::Facts;
use crate::checks::kubernetes::{Node, Service};
use crate::checks::{Verdict, handful};

const API_SERVER: u16 = 6443;
const KUBELET: i32 = 10250;
const NODE_PORTS: RangeInclusive<i32> = 30000..=32767;

/// Whether the API server has the port that AIOS names.
pub(super) fn api_server(facts: &Facts) -> Verdict {
    match &facts.kubernetes.api {
        Some(url) => judge_api_server(url),
        None => Verdict::skipped("the API server's URL is not known"),
    }
}

/// Whether something of the cluster has an address of the open internet.
pub(super) fn exposure(facts: &Facts) -> Verdict {
    // A name that this machine cannot resolve tells nothing; the nodes do.
    let api = facts.kubernetes.api_addresses.seen().map(Vec::as_slice).unwrap_or_default();
    facts.kubernetes.nodes.judge(|nodes| judge_exposure(api, nodes))
}

/// Whether kubelets have the port that AIOS names.
pub(super) fn kubelets(facts: &Facts) -> Verdict {
    facts.kubernetes.nodes.judge(|nodes| judge_kubelets(nodes))
}

/// Whether node ports are in the range that AIOS names.
pub(super) fn node_ports(facts: &Facts) -> Verdict {
    facts.kubernetes.node_ports.judge(|services| judge_node_ports(services)).at_most_warn()
}

fn judge_api_server(url: &Url) -> Verdict {
    match url.port_or_known_default() {
        Some(API_SERVER) => Verdict::pass(url.as_str()),
        Some(port) => Verdict::warn(format!("{url} is on port {port}")),
        None => Verdict::warn(format!("{url} has no port")),
    }
}

fn judge_exposure(api: &[IpAddr], nodes: &[Node]) -> Verdict {
    let open_api = api.iter().filter(|address| is_public(**address));
    let open_api: Vec<String> = open_api.map(ToString::to_string).collect();
    let open_node = |node: &Node| {
        let open = node.addresses.iter().find(|address| is_public(**address))?;
        Some(format!("{} ({open})", node.name))
    };
    let open_nodes: Vec<String> = nodes.iter().filter_map(open_node).collect();
    let mut seen = Vec::new();
    if !open_api.is_empty() {
        let addresses = handful(open_api.iter().map(String::as_str));
        seen.push(format!("the API server has a public address: {addresses}"));
    }
    if !open_nodes.is_empty() {
        let (some, all) = (open_nodes.len(), nodes.len());
        let names = handful(open_nodes.iter().map(String::as_str));
        seen.push(format!("{some} of {all} nodes have a public address: {names}"));
    }
    if seen.is_empty() {
        Verdict::pass("no public address is known of the API server and the nodes")
    } else {
        let seen = seen.join("; ");
        Verdict::warn(format!(
            "{seen}: whether a firewall stands before them is not seen from here"
        ))
    }
}

fn judge_kubelets(nodes: &[Node]) -> Verdict {
    let elsewhere = |node: &&Node| !matches!(node.kubelet_port, Some(KUBELET | 0) | None);
    let silent = |node: &&Node| matches!(node.kubelet_port, Some(0) | None);
    let elsewhere: Vec<String> = nodes
        .iter()
        .filter(elsewhere)
        .map(|node| format!("{} ({})", node.name, node.kubelet_port.unwrap_or_default()))
        .collect();
    let silent: Vec<&str> = nodes.iter().filter(silent).map(|node| node.name.as_str()).collect();
    let all = nodes.len();
    if !elsewhere.is_empty() {
        let names = handful(elsewhere.iter().map(String::as_str));
        Verdict::warn(format!("{} of {all} kubelets are elsewhere: {names}", elsewhere.len()))
    } else if !silent.is_empty() {
        let names = handful(silent.iter().copied());
        Verdict::warn(format!(
            "{} of {all} nodes do not tell their kubelet's port: {names}",
            silent.len()
        ))
        .mend("look whether a kubelet runs there: kubectl describe node NAME")
    } else {
        Verdict::pass(format!("{all} of {all} nodes"))
    }
}

fn judge_node_ports(services: &[Service]) -> Verdict {
    let ports = services.iter().flat_map(|service| {
        service.ports.iter().filter_map(move |port| port.node_port.map(|port| (service, port)))
    });
    let (inside, outside): (Vec<_>, Vec<_>) =
        ports.partition(|(_, node_port)| NODE_PORTS.contains(node_port));
    if outside.is_empty() {
        return Verdict::pass(format!("{} node ports in use", inside.len()));
    }
    let names: Vec<String> = outside
        .iter()
        .map(|(service, port)| format!("{port} ({}/{})", service.namespace, service.name))
        .collect();
    let all = inside.len() + outside.len();
    Verdict::warn(format!(
        "{} of {all} node ports are outside: {}",
        outside.len(),
        handful(names.iter().map(String::as_str))
    ))
}

/// Whether an address may be reached from the internet: none of those set apart for private use,
/// one link, one machine, carriers (RFC 6598) or groups.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || is_shared
                || first == 0
                || first >= 240)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Pass, Warn};
    use crate::checks::kubernetes::Port;

    #[test]
    fn addresses_of_the_internet() {
        for (address, expected) in [
            ("203.0.113.7", true),
            ("100.128.0.1", true),
            ("172.32.0.1", true),
            ("2001:db8::1", true),
            ("::ffff:203.0.113.7", true),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_public(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[test]
    fn api_servers() {
        for (url, outcome) in [
            ("https://10.0.0.1:6443", Pass),
            ("https://api.example.org", Warn),
            ("http://127.0.0.1:8001", Warn),
        ] {
            let verdict = judge_api_server(&Url::parse(url).expect("a URL"));
            assert_eq!(verdict.outcome, outcome, "{url}");
        }
    }

    fn node(name: &str, port: Option<i32>, addresses: &[&str]) -> Node {
        let addresses = addresses.iter().map(|it| it.parse().expect("an address"));
        Node {
            name: name.to_owned(),
            kubelet_port: port,
            addresses: addresses.collect(),
            ..Node::default()
        }
    }

    #[test]
    fn open_to_all() {
        let inside = node("a", None, &["10.0.0.1"]);
        let outside = node("b", None, &["10.0.0.2", "203.0.113.7"]);
        for (api, nodes, outcome, words) in [
            (vec!["10.0.0.9"], vec![&inside], Pass, "no public address"),
            (
                vec!["203.0.113.9"],
                vec![&inside],
                Warn,
                "the API server has a public address: 203.0.113.9",
            ),
            (
                vec![],
                vec![&inside, &outside],
                Warn,
                "1 of 2 nodes have a public address: b (203.0.113.7)",
            ),
        ] {
            let api: Vec<IpAddr> = api.iter().map(|it| it.parse().expect("an address")).collect();
            let nodes: Vec<Node> = nodes.into_iter().cloned().collect();
            let verdict = judge_exposure(&api, &nodes);
            assert_eq!(verdict.outcome, outcome, "{words}");
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
    }

    #[test]
    fn kubelets_elsewhere() {
        for (ports, outcome, seen) in [
            (&[Some(10250), Some(10250)][..], Pass, "2 of 2 nodes"),
            (&[Some(10250), Some(10260)], Warn, "1 of 2 kubelets are elsewhere: n1 (10260)"),
            (&[Some(10250), None], Warn, "1 of 2 nodes do not tell their kubelet's port: n1"),
            (&[Some(0)], Warn, "1 of 1 nodes do not tell their kubelet's port: n0"),
        ] {
            let nodes =
                ports.iter().enumerate().map(|(n, port)| node(&format!("n{n}"), *port, &[]));
            let verdict = judge_kubelets(&nodes.collect::<Vec<_>>());
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen));
        }
    }

    #[test]
    fn ranges() {
        let service = |ports: &[i32]| Service {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ports: ports
                .iter()
                .map(|port| Port { node_port: Some(*port), ..Port::default() })
                .collect(),
            ..Service::default()
        };
        for (ports, outcome, seen) in [
            (&[][..], Pass, "0 node ports in use"),
            (&[30000, 32767], Pass, "2 node ports in use"),
            (
                &[29999, 32000, 32768],
                Warn,
                "2 of 3 node ports are outside: 29999 (shop/web), 32768 (shop/web)",
            ),
        ] {
            let verdict = judge_node_ports(&[service(ports)]);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen));
        }
    }
}
