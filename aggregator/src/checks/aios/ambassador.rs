//! What is checked of Ambassador, AIOS's way into the cluster.

use super::{AMBASSADOR, Facts};
use crate::checks::kubernetes::{Pod, Port, Service};
use crate::checks::{Verdict, handful};

/// Where the network expects its way in.
const NODE_PORT: i32 = 32000;

/// Where HTTPS may move to: one Service cannot have a node port twice.
const FREE_NODE_PORT: i32 = 32443;

/// Whether the Service has ports on the nodes.
pub(super) fn service(facts: &Facts) -> Verdict {
    facts.kubernetes.services.judge(|services| match find(services) {
        Some(service) => judge_kind(service),
        None => not_installed(services),
    })
}

/// Whether HTTP is where the network expects it.
pub(super) fn http_port(facts: &Facts) -> Verdict {
    let all = facts.kubernetes.node_ports.seen().map(Vec::as_slice).unwrap_or_default();
    facts.kubernetes.services.judge(|services| match find(services) {
        Some(service) => judge_http_port(service, all),
        None => Verdict::skipped("Ambassador's Service was not found"),
    })
}

/// Whether something answers behind the Service.
pub(super) fn pods(facts: &Facts) -> Verdict {
    let services = facts.kubernetes.services.seen().map(Vec::as_slice).unwrap_or_default();
    facts.kubernetes.pods.judge(|pods| judge_pods(find(services), pods))
}

/// The Service that the chart makes, or the one that has taken its place.
fn find(services: &[Service]) -> Option<&Service> {
    let named = services.iter().find(|service| service.name == AMBASSADOR);
    named.or_else(|| services.iter().find(|service| holds(service, NODE_PORT).is_some()))
}

fn holds(service: &Service, node_port: i32) -> Option<&Port> {
    service.ports.iter().find(|port| port.node_port == Some(node_port))
}

fn not_installed(services: &[Service]) -> Verdict {
    let others = handful(services.iter().map(|service| service.name.as_str()));
    let seen = if others.is_empty() {
        "there is no Service in the namespace ambassador".to_owned()
    } else {
        format!("there is no Service ambassador in the namespace ambassador, only {others}")
    };
    Verdict::fail(seen).mend("install Ambassador: helm install ambassador datawire/ambassador --namespace ambassador --create-namespace --set service.type=NodePort")
}

fn judge_kind(service: &Service) -> Verdict {
    let Service { namespace, name, kind, .. } = service;
    let seen = format!("{namespace}/{name} is of type {kind}");
    let mend = format!(
        "kubectl patch service {name} --namespace {namespace} --patch '{{\"spec\":{{\"type\":\"NodePort\"}}}}'"
    );
    match kind.as_str() {
        "NodePort" => Verdict::pass(seen),
        // It has a port on every node too, and one of the load balancer's beside it.
        "LoadBalancer" => Verdict::warn(seen).mend(mend),
        _ => Verdict::fail(seen).mend(mend),
    }
}

fn judge_http_port(service: &Service, all: &[Service]) -> Verdict {
    let Service { namespace, name, .. } = service;
    let Some(http) = http(service) else {
        return Verdict::fail(format!(
            "{namespace}/{name} has no port for HTTP: {}",
            shown(service)
        ))
        .mend("give the Service a port named http");
    };
    if http.node_port == Some(NODE_PORT) {
        return Verdict::pass(format!("{namespace}/{name}: {}", shown(service)));
    }
    let patch = |ports: &str| {
        format!(
            "kubectl patch service {name} --namespace {namespace} --patch '{{\"spec\":{{\"ports\":[{ports}]}}}}'"
        )
    };
    let to_http = format!("{{\"port\":{},\"nodePort\":{NODE_PORT}}}", http.port);
    let is_other = |it: &&Service| (&it.namespace, &it.name) != (namespace, name);
    let taken = all.iter().filter(is_other).find(|other| holds(other, NODE_PORT).is_some());
    let seen = format!("{namespace}/{name}: {}", shown(service));
    if let Some(other) = taken {
        let holder = format!("{}/{}", other.namespace, other.name);
        return Verdict::fail(format!("{seen}; {NODE_PORT} is taken by {holder}"))
            .mend(format!("give {holder} another node port first, then {}", patch(&to_http)));
    }
    if let Some(wrong) = holds(service, NODE_PORT) {
        let away = format!("{{\"port\":{},\"nodePort\":{FREE_NODE_PORT}}}", wrong.port);
        return Verdict::fail(format!("{seen}: {NODE_PORT} is not that of HTTP"))
            .mend(patch(&format!("{to_http},{away}")));
    }
    Verdict::fail(seen).mend(patch(&to_http))
}

fn http(service: &Service) -> Option<&Port> {
    let named = service.ports.iter().find(|port| port.name.as_deref() == Some("http"));
    named.or_else(|| service.ports.iter().find(|port| matches!(port.port, 80 | 8080)))
}

fn shown(service: &Service) -> String {
    let port = |port: &Port| {
        let name = port.name.as_deref().unwrap_or("port");
        match port.node_port {
            Some(node_port) => format!("{name} {} on node port {node_port}", port.port),
            None => format!("{name} {} on no node port", port.port),
        }
    };
    let ports: Vec<String> = service.ports.iter().map(port).collect();
    ports.join(", ")
}

fn judge_pods(service: Option<&Service>, pods: &[Pod]) -> Verdict {
    // Without its Service, all that is there: what was installed is seen at least.
    let belongs = |pod: &&Pod| service.is_none_or(|service| service.selects(pod));
    let stays = |pod: &&Pod| !pod.leaving && pod.phase != "Succeeded";
    let pods: Vec<&Pod> = pods.iter().filter(belongs).filter(stays).collect();
    let waiting: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ready)
        .map(|pod| format!("{} ({})", pod.name, pod.phase))
        .collect();
    match (pods.len(), waiting.len()) {
        (0, _) => Verdict::fail("there are no pods of it in the namespace ambassador"),
        (all, 0) => Verdict::pass(format!("{all} of {all} pods")),
        (all, some) => Verdict::fail(format!(
            "{some} of {all} pods are not ready: {}",
            handful(waiting.iter().map(String::as_str))
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    fn port(name: &str, port: i32, node_port: Option<i32>) -> Port {
        Port { name: Some(name.to_owned()), port, node_port }
    }

    fn ambassador(http: Option<i32>, https: Option<i32>) -> Service {
        Service {
            namespace: "ambassador".to_owned(),
            name: "ambassador".to_owned(),
            kind: "NodePort".to_owned(),
            ports: vec![port("http", 80, http), port("https", 443, https)],
            selector: [("app".to_owned(), "ambassador".to_owned())].into(),
        }
    }

    #[test]
    fn kinds() {
        for (kind, outcome) in [
            ("NodePort", Pass),
            ("LoadBalancer", Warn),
            ("ClusterIP", Fail),
            ("ExternalName", Fail),
            ("", Fail),
        ] {
            let service = Service { kind: kind.to_owned(), ..ambassador(None, None) };
            assert_eq!(judge_kind(&service).outcome, outcome, "{kind}");
        }
    }

    #[test]
    fn where_http_is() {
        const PATCH: &str = "kubectl patch service ambassador --namespace ambassador --patch '{\"spec\":{\"ports\":[";
        let elsewhere = Service {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ports: vec![port("http", 80, Some(32000))],
            ..Service::default()
        };
        let others = std::slice::from_ref(&elsewhere);
        for (what, http, https, all, outcome, mend) in [
            ("as asked for", Some(32000), Some(31555), &[][..], Pass, String::new()),
            (
                "as the chart makes it",
                Some(30123),
                Some(31555),
                &[],
                Fail,
                format!("{PATCH}{{\"port\":80,\"nodePort\":32000}}]}}}}'"),
            ),
            (
                "HTTPS has it",
                Some(30123),
                Some(32000),
                &[],
                Fail,
                format!(
                    "{PATCH}{{\"port\":80,\"nodePort\":32000}},{{\"port\":443,\"nodePort\":32443}}]}}}}'"
                ),
            ),
            (
                "no node ports",
                None,
                None,
                &[],
                Fail,
                format!("{PATCH}{{\"port\":80,\"nodePort\":32000}}]}}}}'"),
            ),
            (
                "another Service has it",
                Some(30123),
                Some(31555),
                others,
                Fail,
                format!(
                    "give shop/web another node port first, then {PATCH}{{\"port\":80,\"nodePort\":32000}}]}}}}'"
                ),
            ),
        ] {
            let verdict = judge_http_port(&ambassador(http, https), all);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert_eq!(verdict.mend.unwrap_or_default(), mend, "{what}");
        }
        let none = Service { ports: vec![port("admin", 8877, None)], ..ambassador(None, None) };
        let verdict = judge_http_port(&none, &[]);
        assert_eq!(verdict.outcome, Fail);
        assert!(verdict.seen.contains("has no port for HTTP"), "{}", verdict.seen);
    }

    #[test]
    fn which_service_it_is() {
        let named = |name: &str, node_port| Service {
            name: name.to_owned(),
            ports: vec![port("http", 80, node_port)],
            ..Service::default()
        };
        for (services, expected) in [
            (vec![named("ambassador-admin", None), named("ambassador", None)], Some("ambassador")),
            (vec![named("admin", None), named("edge-stack", Some(32000))], Some("edge-stack")),
            (vec![named("admin", None)], None),
            (vec![], None),
        ] {
            let found = find(&services).map(|service| service.name.as_str());
            assert_eq!(found, expected, "{services:?}");
        }
    }

    #[test]
    fn pods_that_count() {
        let pod = |name: &str, app: &str, ready, phase: &str, leaving| Pod {
            name: name.to_owned(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            ready,
            phase: phase.to_owned(),
            leaving,
        };
        let ready = pod("a", "ambassador", true, "Running", false);
        let done = pod("job", "ambassador", false, "Succeeded", false);
        let gone = pod("b", "ambassador", false, "Running", true);
        let other = pod("redis", "redis", false, "Pending", false);
        let broken = pod("c", "ambassador", false, "Pending", false);
        let service = ambassador(Some(32000), None);
        let known = Some(&service);
        let cases = [
            ("ready", known, vec![&ready], Pass, "1 of 1 pods"),
            (
                "done, leaving and other",
                known,
                vec![&ready, &done, &gone, &other],
                Pass,
                "1 of 1 pods",
            ),
            (
                "one of two",
                known,
                vec![&ready, &broken],
                Fail,
                "1 of 2 pods are not ready: c (Pending)",
            ),
            ("none", known, vec![], Fail, "there are no pods of it in the namespace ambassador"),
            (
                "only those of others",
                known,
                vec![&other],
                Fail,
                "there are no pods of it in the namespace ambassador",
            ),
            (
                "without its Service",
                None,
                vec![&ready, &other],
                Fail,
                "1 of 2 pods are not ready: redis (Pending)",
            ),
        ];
        for (what, service, pods, outcome, seen) in cases {
            let pods: Vec<Pod> = pods.into_iter().cloned().collect();
            let verdict = judge_pods(service, &pods);
            assert_eq!((verdict.outcome, verdict.seen.as_str()), (outcome, seen), "{what}");
        }
    }
}
