//! What is checked of the services that virtual clusters need.

use k8s_openapi::api::networking::v1::IngressClass;

use super::{Facts, Verdict};
use crate::checks::handful;
use crate::checks::kubernetes::Served;
use crate::checks::workloads::{Workload, places};

const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// What ingress-nginx names itself in its classes.
const INGRESS_NGINX: &str = "k8s.io/ingress-nginx";

/// An ingress class, and whether it is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DefaultClass {
    name: String,
    is_default: bool,
    /// Whose it is.
    controller: String,
}

pub(super) fn default_of(class: IngressClass) -> DefaultClass {
    let annotations = class.metadata.annotations.unwrap_or_default();
    DefaultClass {
        name: class.metadata.name.unwrap_or_default(),
        is_default: annotations.get(DEFAULT_CLASS).is_some_and(|value| value == "true"),
        controller: class.spec.and_then(|spec| spec.controller).unwrap_or_default(),
    }
}

pub(super) fn ingress_nginx(facts: &Facts) -> Verdict {
    facts.workloads.judge(|workloads| judge_ingress_nginx(workloads))
}

pub(super) fn default_class(facts: &Facts) -> Verdict {
    facts.ingress_classes.judge(|classes| judge_default_class(classes))
}

pub(super) fn external_dns(facts: &Facts) -> Verdict {
    facts.workloads.judge(|workloads| judge_external_dns(workloads))
}

pub(super) fn prometheus(facts: &Facts) -> Verdict {
    facts.prometheus.judge(|served| judge_prometheus(served))
}

fn judge_ingress_nginx(workloads: &[Workload]) -> Verdict {
    let found: Vec<&Workload> = workloads.iter().filter(|it| it.is_ingress_nginx()).collect();
    if found.is_empty() {
        return Verdict::fail("no controller of ingress-nginx is in this cluster");
    }
    let passing: Vec<&Workload> =
        found.iter().filter(|it| it.has_switched_on("enable-ssl-passthrough")).copied().collect();
    if passing.is_empty() {
        return Verdict::fail(format!(
            "{}: it runs without --enable-ssl-passthrough",
            places(found)
        ));
    }
    match passing.iter().find(|it| it.ready > 0) {
        Some(it) => Verdict::pass(it.place()),
        None => Verdict::fail(format!("{}: none of its pods is ready", places(passing))),
    }
}

fn judge_default_class(classes: &[DefaultClass]) -> Verdict {
    let defaults: Vec<&DefaultClass> = classes.iter().filter(|class| class.is_default).collect();
    let names = |classes: &mut dyn Iterator<Item = &DefaultClass>| {
        let names: Vec<String> = classes.map(|class| class.name.clone()).collect();
        handful(names.iter().map(String::as_str))
    };
    match defaults.as_slice() {
        [one] if one.controller == INGRESS_NGINX => Verdict::pass(&one.name),
        [one] => Verdict::fail(format!(
            "{} is, and its controller is {}, not {INGRESS_NGINX}",
            one.name, one.controller
        )),
        [] if classes.is_empty() => Verdict::fail("there is no ingress class at all"),
        [] => Verdict::fail(format!("none of them is the default: {}", names(&mut classes.iter()))),
        several => Verdict::fail(format!(
            "several are, so that ingresses which name none are refused: {}",
            names(&mut several.iter().copied())
        )),
    }
}

fn judge_external_dns(workloads: &[Workload]) -> Verdict {
    let all = workloads.iter().filter(|it| it.is_external_dns());
    let mut troubles = Vec::new();
    for found in all {
        let value = |flags: &[(&str, &str)]| {
            let set = flags.iter().filter_map(|(flag, variable)| {
                found.flag(flag).or_else(|| found.environment.get(*variable).map(String::as_str))
            });
            set.into_iter().find(|value| !value.is_empty())
        };
        let provider = value(&[("provider", "EXTERNAL_DNS_PROVIDER")]);
        let domain = value(&[
            ("domain-filter", "EXTERNAL_DNS_DOMAIN_FILTER"),
            ("regex-domain-filter", "EXTERNAL_DNS_REGEX_DOMAIN_FILTER"),
        ]);
        let lacks = match (provider, domain) {
            (Some(provider), Some(domain)) if found.ready > 0 => {
                return Verdict::pass(format!("{}: {provider}, {domain}", found.place()));
            }
            (Some(_), Some(_)) => "none of its pods is ready",
            (None, _) => "it runs without --provider",
            (Some(_), None) => "it runs without --domain-filter",
        };
        troubles.push(format!("{}: {lacks}", found.place()));
    }
    if troubles.is_empty() {
        Verdict::fail("external-dns is not in this cluster")
    } else {
        Verdict::fail(handful(troubles.iter().map(String::as_str)))
    }
}

fn judge_prometheus(served: &[Served]) -> Verdict {
    let missing: Vec<&str> = ["Prometheus", "ServiceMonitor"]
        .into_iter()
        .filter(|kind| !served.iter().any(|it| it.kind == *kind))
        .collect();
    if missing.is_empty() {
        Verdict::pass("monitoring.coreos.com: Prometheus, ServiceMonitor")
    } else {
        Verdict::fail(format!("monitoring.coreos.com has no {}", missing.join(" and no ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{self, Fail, Pass};

    fn workload(image: &str, words: &[&str], ready: i32) -> Workload {
        Workload {
            namespace: "ns".to_owned(),
            name: "it".to_owned(),
            images: vec![image.to_owned()],
            words: words.iter().map(|&word| word.to_owned()).collect(),
            ready,
            ..Workload::default()
        }
    }

    fn outcome(verdict: &Verdict) -> (Outcome, &str) {
        (verdict.outcome, verdict.seen.as_str())
    }

    #[test]
    fn ingress_controllers() {
        let nginx =
            |words: &[&str], ready| workload("r.example/ingress-nginx/controller:1", words, ready);
        for (workloads, expected) in [
            (vec![], (Fail, "no controller of ingress-nginx is in this cluster")),
            (
                vec![workload("nginx", &["--enable-ssl-passthrough"], 1)],
                (Fail, "no controller of ingress-nginx is in this cluster"),
            ),
            (vec![nginx(&[], 1)], (Fail, "ns/it: it runs without --enable-ssl-passthrough")),
            (
                vec![nginx(&["--enable-ssl-passthrough=false"], 1)],
                (Fail, "ns/it: it runs without --enable-ssl-passthrough"),
            ),
            (
                vec![nginx(&["--enable-ssl-passthrough"], 0)],
                (Fail, "ns/it: none of its pods is ready"),
            ),
            (vec![nginx(&["--enable-ssl-passthrough"], 1)], (Pass, "ns/it")),
            (vec![nginx(&[], 1), nginx(&["--enable-ssl-passthrough=true"], 1)], (Pass, "ns/it")),
        ] {
            let verdict = judge_ingress_nginx(&workloads);
            assert_eq!(outcome(&verdict), expected, "{workloads:?}");
        }
    }

    #[test]
    fn default_classes() {
        let class = |name: &str, is_default, controller: &str| DefaultClass {
            name: name.to_owned(),
            is_default,
            controller: controller.to_owned(),
        };
        for (classes, expected) in [
            (vec![], (Fail, "there is no ingress class at all")),
            (
                vec![class("nginx", false, INGRESS_NGINX)],
                (Fail, "none of them is the default: nginx"),
            ),
            (
                vec![class("nginx", true, INGRESS_NGINX), class("other", false, "x")],
                (Pass, "nginx"),
            ),
            (
                vec![class("traefik", true, "traefik.io/ingress-controller")],
                (
                    Fail,
                    "traefik is, and its controller is traefik.io/ingress-controller, not k8s.io/ingress-nginx",
                ),
            ),
            (
                vec![class("a", true, INGRESS_NGINX), class("b", true, INGRESS_NGINX)],
                (Fail, "several are, so that ingresses which name none are refused: a, b"),
            ),
        ] {
            assert_eq!(outcome(&judge_default_class(&classes)), expected, "{classes:?}");
        }
    }

    #[test]
    fn names_of_virtual_clusters() {
        let dns =
            |words: &[&str], ready| workload("r.example/external-dns/external-dns:1", words, ready);
        for (workloads, expected) in [
            (vec![], (Fail, "external-dns is not in this cluster")),
            (vec![dns(&["--domain-filter=a"], 1)], (Fail, "ns/it: it runs without --provider")),
            (vec![dns(&["--provider=x"], 1)], (Fail, "ns/it: it runs without --domain-filter")),
            (
                vec![dns(&["--provider=x", "--domain-filter="], 1)],
                (Fail, "ns/it: it runs without --domain-filter"),
            ),
            (
                vec![dns(&["--provider=x", "--domain-filter=a"], 0)],
                (Fail, "ns/it: none of its pods is ready"),
            ),
            (
                vec![dns(&["--provider", "x", "--domain-filter", "a.example"], 1)],
                (Pass, "ns/it: x, a.example"),
            ),
        ] {
            assert_eq!(outcome(&judge_external_dns(&workloads)), expected, "{workloads:?}");
        }
    }

    #[test]
    fn kinds_of_prometheus() {
        let served = |kinds: &[&str]| -> Vec<Served> {
            let kind = |kind: &&str| Served {
                version: "v1".to_owned(),
                plural: kind.to_lowercase(),
                kind: (*kind).to_owned(),
                namespaced: true,
            };
            kinds.iter().map(kind).collect()
        };
        for (kinds, expected) in [
            (vec!["Prometheus", "ServiceMonitor"], Pass),
            (vec!["ServiceMonitor"], Fail),
            (vec![], Fail),
        ] {
            assert_eq!(judge_prometheus(&served(&kinds)).outcome, expected, "{kinds:?}");
        }
    }
}
