//! What is checked of the address that plugins use.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, ListParams};

use super::Facts;
use crate::checks::kubernetes::{Reader, read};
use crate::checks::{Observed, Unseen, Verdict, handful};
use crate::cluster_file::interlink::Address;
use crate::targets::reach::{address_inside, name_inside};

/// Whether there are both.
pub(super) fn known(facts: &Facts) -> Verdict {
    let (address, port) = (&facts.endpoint.address, &facts.endpoint.port);
    let without = |verdict: Verdict, key: &str| {
        let mend = format!(
            "set {key} in the cluster file, or make what it is taken from: rollcall-aggregator prepare"
        );
        verdict.mend(mend)
    };
    match (&address.result, &port.result) {
        (Ok(address), Ok(port)) => Verdict::pass(format!(
            "{} port {} ({}; {})",
            address.value, port.value, address.from, port.from
        )),
        (Err(_), _) => without(address.judge(|_| Verdict::pass("")), "apiAccess.address"),
        (Ok(_), Err(_)) => without(port.judge(|_| Verdict::pass("")), "apiAccess.port"),
    }
}

/// Whether others than this machine and this cluster can reach it.
pub(super) fn reachable(facts: &Facts) -> Verdict {
    let name = match facts.endpoint.address.seen().map(|it| &it.value) {
        Some(Address::Name(name)) => Some(name.as_str()),
        Some(Address::Ip(_)) | None => None,
    };
    facts.addresses.judge(|addresses| judge_reachable(name, addresses, &facts.inside))
}

fn judge_reachable(
    name: Option<&str>,
    addresses: &[IpAddr],
    inside: &Observed<Option<String>>,
) -> Verdict {
    if let Some(why) = name.and_then(name_inside) {
        return Verdict::fail(why);
    }
    let problem = |address: &IpAddr| Some(format!("{address} {}", address_inside(*address)?));
    let problems: Vec<String> = addresses.iter().filter_map(problem).collect();
    if !problems.is_empty() {
        return Verdict::fail(problems.join("; "));
    }
    if let Ok(Some(holder)) = &inside.result {
        return Verdict::fail(holder);
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let shown = handful(shown.iter().map(String::as_str));
    match &inside.result {
        Ok(_) => Verdict::pass(shown),
        Err(Unseen::NotTried { why }) => Verdict::pass(format!(
            "{shown} (whether something inside the cluster has it is not seen: {why})"
        )),
        Err(unseen) => Verdict::warn(format!(
            "{shown}, and whether something inside the cluster has it is not seen: {unseen}"
        )),
    }
}

/// What in the cluster has one of the addresses and cannot be reached from outside: a Service, or a pod
/// with a network of its own.
pub(super) async fn inside(
    reader: &Observed<Reader>,
    addresses: &Observed<Vec<IpAddr>>,
) -> Observed<Option<String>> {
    let Some(addresses) = addresses.seen() else {
        return Observed::not_tried("the address is not known");
    };
    let services = read(reader, async |reader| {
        let all = Api::<core::Service>::all(reader.access.client.clone());
        reader.list(all, ListParams::default()).await
    })
    .await;
    let service = services.map(|services| services.iter().find_map(|it| of_service(it, addresses)));
    if !matches!(service.result, Ok(None)) {
        return service;
    }
    for address in addresses {
        let pods = read(reader, async |reader| {
            let all = Api::<core::Pod>::all(reader.access.client.clone());
            let of_address = ListParams::default().fields(&format!("status.podIP={address}"));
            reader.list(all, of_address).await
        })
        .await;
        let pod = pods.map(|pods| pods.iter().find_map(|it| of_pod(it, *address)));
        if !matches!(pod.result, Ok(None)) {
            return pod;
        }
    }
    service
}

fn of_service(service: &core::Service, addresses: &[IpAddr]) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut own = own.filter_map(|text| text.parse::<IpAddr>().ok());
    let shared = own.find(|own| addresses.contains(own))?;
    Some(format!(
        "{shared} is the cluster's own address of the Service {}",
        place(&service.metadata)
    ))
}

fn of_pod(pod: &core::Pod, address: IpAddr) -> Option<String> {
    let is_of_node = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let place = place(&pod.metadata);
    (!is_of_node).then(|| format!("{address} is the cluster's own address of the pod {place}"))
}

fn place(metadata: &kube::api::ObjectMeta) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// Whether anybody speaks TLS there.
pub(super) fn answers(facts: &Facts) -> Verdict {
    facts.chain.judge(|chain| {
        let leaf = chain.leaf();
        Verdict::pass(format!("it presents {}, signed by {}", leaf.subject, leaf.issuer))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    #[test]
    fn who_can_be_reached() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let nobody = || Observed::known(None);
        let service = || Observed::known(Some("10.96.0.1 is a Service's".to_owned()));
        let forbidden = || Observed::of(Err("it answered 403".to_owned()));
        let cases = [
            ("public", None, "203.0.113.7", nobody(), Pass, "203.0.113.7"),
            ("private", None, "10.1.2.3", nobody(), Pass, "10.1.2.3"),
            ("unique local", None, "fd00::1", nobody(), Pass, "fd00::1"),
            ("loopback", None, "127.0.0.1", nobody(), Fail, "whatever machine it is used on"),
            (
                "loopback, mapped",
                None,
                "::ffff:127.0.0.1",
                nobody(),
                Fail,
                "whatever machine it is used on",
            ),
            ("link-local", None, "169.254.1.1", nobody(), Fail, "an address of one link"),
            ("link-local", None, "fe80::1", nobody(), Fail, "an address of one link"),
            ("any", None, "0.0.0.0", nobody(), Fail, "whatever machine it is used on"),
            ("a Service", None, "10.96.0.1", service(), Fail, "is a Service's"),
            ("by name", Some("a.b.svc"), "203.0.113.7", nobody(), Fail, "a name inside"),
            ("not to be told", None, "10.1.2.3", forbidden(), Warn, "it answered 403"),
            ("not asked", None, "10.1.2.3", Observed::not_tried("no cluster"), Pass, "no cluster"),
        ];
        for (what, name, address, inside, outcome, words) in cases {
            let verdict = judge_reachable(name, &[ip(address)], &inside);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
    }
}
