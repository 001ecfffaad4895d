//! What is checked of the way from `AIchor` into the cluster: the API host and the load balancer.

use std::net::IpAddr;
use std::time::Duration;

use rollcall_daemon::http::below;
use rollcall_daemon::secret::Secret;
use serde_json::Value;

use super::Facts;
use crate::certificates::{Certificate, Chain};
use crate::checks::kubernetes::{OUT_OF_REACH, Reader, resolve};
use crate::checks::wire::{Answer, Wire, presented};
use crate::checks::{Observed, Unseen, Verdict, handful, observe};
use crate::cluster_file::aichor::{ApiHostname, Engine};
use crate::targets::aichor::ingress::{self, Entrance};
use crate::targets::aichor::{api_hostname, ca};
use crate::targets::reach::Reach;

/// A certificate that ends within this time is warned of, in hours.
const SOON_HOURS: i64 = 14 * 24;

/// What is seen of the API host.
#[derive(Debug)]
pub(super) struct Host {
    api: Option<ApiHostname>,
    /// The addresses of its name.
    addresses: Observed<Vec<IpAddr>>,
    /// The addresses of the Service `kubernetes`.
    of_service: Vec<IpAddr>,
    /// The CA that the form names; `None`: none.
    ca: Observed<Option<Vec<Certificate>>>,
    /// The certificates that it presents.
    chain: Observed<Chain>,
    /// What it answers when asked for its version.
    version: Observed<Answer>,
    /// Whether the token went along.
    with_token: bool,
}

impl Host {
    pub(super) async fn look(
        engine: &Engine,
        reader: &Observed<Reader>,
        of_service: Vec<IpAddr>,
        token: Option<&Secret>,
        limit: Duration,
    ) -> Self {
        let access = reader.seen().map(|reader| &reader.access);
        let api = api_hostname(engine, access.map(|access| &access.url));
        let is_known = engine.ca_file.is_some() || access.is_some();
        let ca = match (is_known, ca(engine, access)) {
            (false, _) => Observed::not_tried(OUT_OF_REACH),
            (true, Ok(ca)) => Observed::known(ca),
            (true, Err(words)) => {
                Observed { result: Err(Unseen::Failed { words }), took: Duration::ZERO }
            }
        };
        let Some(host) = api.as_ref().and_then(|api| api.url().host_str()) else {
            return Self {
                api: None,
                addresses: Observed::not_tried(OUT_OF_REACH),
                of_service,
                ca,
                chain: Observed::not_tried(OUT_OF_REACH),
                version: Observed::not_tried(OUT_OF_REACH),
                with_token: false,
            };
        };
        let port = api.as_ref().and_then(|api| api.url().port_or_known_default()).unwrap_or(443);
        let (addresses, chain) = tokio::join!(
            observe(limit, resolve(host.trim_matches(['[', ']']))),
            observe(limit, presented(host, port)),
        );
        let version = match (&api, &chain.result, &ca.result) {
            (Some(api), Ok(_), Ok(ca)) => {
                let url = below(api.url(), &["version"]);
                observe(limit, async { Wire::new(&url, ca.as_deref())?.get(&url, token).await })
                    .await
            }
            (_, Err(_), _) => Observed::not_tried("the API host does not answer"),
            _ => Observed::not_tried("the CA is not known"),
        };
        let with_token = token.is_some();
        Self { api, addresses, of_service, ca, chain, version, with_token }
    }

    /// Judges the certificates of the API host.
    fn judge_chain(&self, judge: impl FnOnce(&Chain) -> Verdict) -> Verdict {
        match &self.chain.result {
            Ok(_) => self.chain.judge(judge),
            // That it does not answer is told once.
            Err(Unseen::NotTried { why }) => Verdict::skipped(why),
            Err(_) => Verdict::skipped("the API host does not answer"),
        }
    }
}

/// Whether the host means something outside the cluster.
pub(super) fn reach(facts: &Facts) -> Verdict {
    let Host { api, addresses, of_service, .. } = &facts.host;
    match api {
        Some(api) => {
            let addresses = addresses.seen().map(Vec::as_slice).unwrap_or_default();
            judge_reach(api, addresses, of_service)
        }
        None => Verdict::skipped(OUT_OF_REACH),
    }
}

/// Whether there is a TLS server.
pub(super) fn answers(facts: &Facts) -> Verdict {
    let api = facts.host.api.as_ref().map(ApiHostname::as_str).unwrap_or_default();
    facts.host.chain.judge(|_| Verdict::pass(api))
}

/// Whether its certificate has its name.
pub(super) fn name(facts: &Facts) -> Verdict {
    let url = facts.host.api.as_ref().map(ApiHostname::url);
    let host = url.and_then(|url| url.host_str()).unwrap_or_default();
    facts.host.judge_chain(|chain| match chain.check_name(host.trim_matches(['[', ']'])) {
        Ok(()) => Verdict::pass(host),
        Err(words) => Verdict::fail(words),
    })
}

/// Whether its certificate is of the form's CA.
pub(super) fn trust(facts: &Facts) -> Verdict {
    facts.host.ca.judge(|ca| match ca {
        Some(ca) => facts.host.judge_chain(|chain| match chain.check_trust(ca) {
            Ok(()) => Verdict::pass(handful(ca.iter().map(|it| it.subject.as_str()))),
            Err(words) => Verdict::fail(words),
        }),
        // Then it is for the system's CAs to say.
        None => facts.host.version.judge(|_| {
            Verdict::pass("CA Data is left empty, and the CAs of this machine's system know it")
        }),
    })
}

/// Whether its certificates are valid.
pub(super) fn time(facts: &Facts) -> Verdict {
    facts.host.judge_chain(|chain| match chain.check_time(facts.now) {
        Ok(end) if end.duration_since(facts.now).as_hours() < SOON_HOURS => {
            Verdict::warn(format!("until {end}"))
        }
        Ok(end) => Verdict::pass(format!("until {end}")),
        Err(words) => Verdict::fail(words),
    })
}

/// Whether what the form names opens this cluster's API.
pub(super) fn fits(facts: &Facts) -> Verdict {
    if !facts.host.with_token {
        return Verdict::skipped("there is no token to ask with");
    }
    let version = facts.version.seen().map(String::as_str);
    facts.host.version.judge(|answer| judge_fit(answer, version))
}

/// Whether the load balancer's address is the ingress controller's.
pub(super) fn load_balancer(facts: &Facts) -> Verdict {
    let given = facts.engine.load_balancer_ip;
    facts.entrances.judge(|entrances| match given {
        Some(address) => judge_address(address, entrances),
        None => match ingress::address(entrances) {
            Ok(address) => judge_address(address, entrances),
            Err(words) => Verdict::fail(words),
        },
    })
}

fn judge_reach(api: &ApiHostname, addresses: &[IpAddr], of_service: &[IpAddr]) -> Verdict {
    match Reach::of(api.url(), addresses, of_service) {
        Reach::Outside => Verdict::pass(api.as_str()),
        Reach::Private(address) => Verdict::warn(format!(
            "{address} is an address of private networks: AIchor needs a way into yours"
        )),
        Reach::Inside(why) => Verdict::fail(format!("{api}: {why}")),
    }
}

fn judge_fit(answer: &Answer, version: Option<&str>) -> Verdict {
    match answer.status {
        200 => {}
        401 => return Verdict::fail("it answered 401: it does not take the token"),
        status => return Verdict::fail(format!("it answered {status} when asked for its version")),
    }
    let told = answer.json();
    let told = told.as_ref().and_then(|told| told.get("gitVersion")).and_then(Value::as_str);
    match (told, version) {
        (None, _) => Verdict::fail("it did not answer as a Kubernetes API does"),
        (Some(told), Some(version)) if told != version => {
            Verdict::fail(format!("it is {told}, and the cluster is {version}: it is another one"))
        }
        (Some(told), _) => Verdict::pass(format!("{told} answers to the token")),
    }
}

fn judge_address(address: IpAddr, entrances: &[Entrance]) -> Verdict {
    let controllers = || entrances.iter().filter(|it| it.is_controller);
    if let Some(own) = controllers().find(|it| it.addresses.contains(&address)) {
        return Verdict::pass(format!("{address} is {}", own.place));
    }
    let others = || controllers().filter(|it| !it.addresses.is_empty());
    let other = entrances.iter().find(|it| it.addresses.contains(&address));
    if let Some(other) = other {
        return Verdict::fail(format!("{address} is {}, no ingress controller", other.place));
    }
    let shown: Vec<String> = others()
        .map(|it| {
            let addresses = it.addresses.iter().map(ToString::to_string);
            format!("{} has {}", it.place, addresses.collect::<Vec<_>>().join(", "))
        })
        .collect();
    if !shown.is_empty() {
        return Verdict::fail(format!("it is not {address}: {}", shown.join("; ")));
    }
    // On machines of one's own the controller may be on the nodes' ports, behind a balancer that the
    // cluster knows nothing of.
    let places: Vec<&str> = controllers().map(|it| it.place.as_str()).collect();
    let why = if places.is_empty() {
        "there is no Service of an NGINX ingress controller".to_owned()
    } else {
        format!("no address is known of {}", handful(places))
    };
    Verdict::warn(format!("{why}: whether {address} leads to one is not seen from here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    #[test]
    fn what_an_api_host_answers() {
        let version = br#"{"gitVersion": "v1.33.1"}"#.to_vec();
        for (what, status, body, outcome, seen) in [
            ("this cluster", 200, version.clone(), Pass, "v1.33.1 answers to the token"),
            (
                "another one",
                200,
                br#"{"gitVersion": "v1.20.2"}"#.to_vec(),
                Fail,
                "it is v1.20.2, and the cluster is v1.33.1",
            ),
            ("the token is not taken", 401, version.clone(), Fail, "it does not take the token"),
            ("a proxy", 502, Vec::new(), Fail, "it answered 502"),
            ("a page", 200, b"<html>".to_vec(), Fail, "not answer as a Kubernetes API does"),
        ] {
            let verdict = judge_fit(&Answer { status, body }, Some("v1.33.1"));
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(seen), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn hosts() {
        for (url, outcome, seen) in [
            ("https://203.0.113.5:6443", Pass, "https://203.0.113.5:6443"),
            ("https://10.0.0.1:6443", Warn, "10.0.0.1 is an address of private networks"),
            ("https://127.0.0.1:6443", Fail, "https://127.0.0.1:6443: 127.0.0.1 is whatever"),
            ("https://10.96.0.1", Fail, "10.96.0.1 is the Service kubernetes"),
        ] {
            let url: url::Url = url.parse().expect(url);
            let verdict = judge_reach(&url.into(), &[], &[[10, 96, 0, 1].into()]);
            assert_eq!(verdict.outcome, outcome, "{verdict:?}");
            assert!(verdict.seen.contains(seen), "{verdict:?}");
        }
    }

    #[test]
    fn whose_address_it_is() {
        let entrance = |place: &str, is_controller, addresses: &[&str]| Entrance {
            place: place.to_owned(),
            is_controller,
            is_load_balancer: true,
            addresses: addresses.iter().map(|it| it.parse().expect("an address")).collect(),
            names: Vec::new(),
        };
        let controller = entrance("ingress-nginx/controller", true, &["192.0.2.7"]);
        let waiting = entrance("ingress-nginx/controller", true, &[]);
        let shop = entrance("shop/web", false, &["192.0.2.1"]);
        for (what, address, entrances, outcome, seen) in [
            (
                "the controller's",
                [192, 0, 2, 7],
                vec![&controller, &shop],
                Pass,
                "is ingress-nginx/controller",
            ),
            (
                "another's",
                [192, 0, 2, 1],
                vec![&controller, &shop],
                Fail,
                "192.0.2.1 is shop/web, no ingress",
            ),
            (
                "nobody's",
                [192, 0, 2, 9],
                vec![&controller],
                Fail,
                "ingress-nginx/controller has 192.0.2.7",
            ),
            (
                "not told",
                [192, 0, 2, 9],
                vec![&waiting],
                Warn,
                "no address is known of ingress-nginx/",
            ),
            ("no controller", [192, 0, 2, 9], vec![&shop], Warn, "there is no Service of an NGINX"),
        ] {
            let entrances: Vec<Entrance> = entrances.into_iter().cloned().collect();
            let verdict = judge_address(address.into(), &entrances);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(seen), "{what}: {verdict:?}");
        }
    }
}
