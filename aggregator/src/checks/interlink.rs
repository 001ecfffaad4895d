//! The checks of interLink: the way to the Kubernetes API that its plugins are given, as one of them
//! sees it from outside.

mod address;
mod certificate;
mod helm;
mod kubelet;
mod routes;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_daemon::kubernetes::Selection;
use rollcall_daemon::secret::Secret;
use serde_json::{Value, json};
use url::Url;

use self::kubelet::Kubelet;
use super::kubernetes::{Reader, resolve};
use super::wire::{Answer, Wire, presented};
use super::{Check, Group, Observed, Unseen, Verdict, observe};
use crate::certificates::{Certificate, Chain};
use crate::cluster_file::interlink::{Address, InterlinkTarget};
use crate::targets::interlink::endpoint::{Endpoint, Found, find_token};

/// A token that no API server gives out.
const WRONG_TOKEN: &str = "not-a-token-of-a-service-account";

/// What the checks judge.
#[derive(Debug)]
pub struct Facts {
    /// Where the cluster's own administrator reaches the API, and its version.
    kubernetes: Observed<(Url, String)>,
    endpoint: Endpoint,
    addresses: Observed<Vec<IpAddr>>,
    /// What in the cluster has one of these addresses, and is reached from inside alone.
    inside: Observed<Option<String>>,
    chain: Observed<Chain>,
    token: Observed<Found<Secret>>,
    routes: Routes,
    kubelets: Observed<Vec<Kubelet>>,
    now: Timestamp,
}

/// What was answered at the address that plugins use.
#[derive(Debug)]
struct Routes {
    api: Observed<Answer>,
    apis: Observed<Answer>,
    rules: Observed<Answer>,
    wrong_token: Observed<Answer>,
    version: Observed<Answer>,
    healthz: Observed<Answer>,
    openapi: Observed<Answer>,
}

/// Looks at everything that the checks need, each thing within `limit`.
pub async fn look(target: &InterlinkTarget, selection: &Selection, limit: Duration) -> Facts {
    let access = &target.api_access;
    let reader = Reader::open(selection, limit).await;
    let now = Timestamp::now();
    let way = async {
        let (endpoint, token) =
            tokio::join!(Endpoint::find(access, &reader), find_token(access, &reader));
        let addresses = addresses(&endpoint, limit).await;
        let place = place(&endpoint, &addresses);
        let (inside, (chain, routes)) = tokio::join!(address::inside(&reader, &addresses), async {
            let chain = match &place {
                Ok((address, port)) => observe(limit, presented(&address.to_string(), *port)).await,
                Err(why) => Observed::not_tried(*why),
            };
            let looking = Routes::look(&place, &endpoint.ca, &chain, &token, now, limit);
            let routes = Box::pin(looking).await;
            (chain, routes)
        });
        (endpoint, token, addresses, inside, chain, routes)
    };
    let (way, kubelets) = tokio::join!(way, kubelet::look(&reader));
    let (endpoint, token, addresses, inside, chain, routes) = way;
    let kubernetes = reader.as_ref().map(|it| (it.access.url.clone(), it.version.clone()));
    Facts { kubernetes, endpoint, addresses, inside, chain, token, routes, kubelets, now }
}

async fn addresses(endpoint: &Endpoint, limit: Duration) -> Observed<Vec<IpAddr>> {
    match endpoint.address.seen() {
        Some(Found { value: Address::Ip(address), .. }) => Observed::known(vec![*address]),
        Some(Found { value: Address::Name(name), .. }) => observe(limit, resolve(name)).await,
        None => Observed::not_tried("the address is not known"),
    }
}

/// Where to knock, or why nowhere.
fn place<'a>(
    endpoint: &'a Endpoint,
    addresses: &Observed<Vec<IpAddr>>,
) -> Result<(&'a Address, u16), &'static str> {
    let address = endpoint.address.seen().ok_or("the address is not known")?;
    let port = endpoint.port.seen().ok_or("the port is not known")?;
    // A name that only others know is not asked for again.
    addresses.seen().ok_or("the name does not resolve")?;
    Ok((&address.value, port.value.get()))
}

impl Routes {
    /// Asks, if the token goes to nobody but whom the certificate vouches for.
    async fn look(
        place: &Result<(&Address, u16), &'static str>,
        ca: &Observed<Found<Vec<Certificate>>>,
        chain: &Observed<Chain>,
        token: &Observed<Found<Secret>>,
        now: Timestamp,
        limit: Duration,
    ) -> Self {
        let asker = match place {
            Ok(place) => Asker::new(*place, ca, chain, now),
            Err(why) => Err((*why).to_owned()),
        };
        let token = token.seen().map(|token| &token.value).ok_or("there is no token to try with");
        let wrong = Secret::new(WRONG_TOKEN.to_owned());
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": "default"},
        });
        let ask =
            async |path: &str, token: Result<&Secret, &'static str>, body: Option<&Value>| match (
                &asker, token,
            ) {
                (Err(why), _) => Observed::not_tried(why),
                (Ok(_), Err(why)) => Observed::not_tried(why),
                (Ok(asker), Ok(token)) => observe(limit, asker.ask(path, token, body)).await,
            };
        // What is not the proxy's may be anybody's: it gets no token that opens anything.
        let (api, apis, rules, wrong_token, version, healthz, openapi) = tokio::join!(
            ask("/api", token, None),
            ask("/apis", token, None),
            ask(routes::RULES_REVIEWS, token, Some(&review)),
            ask("/api", Ok(&wrong), None),
            ask("/version", Ok(&wrong), None),
            ask("/healthz", Ok(&wrong), None),
            ask("/openapi/v2", Ok(&wrong), None),
        );
        Self { api, apis, rules, wrong_token, version, healthz, openapi }
    }
}

/// Asks at the address that plugins use.
struct Asker {
    base: Url,
    wire: Wire,
}

impl Asker {
    fn new(
        (address, port): (&Address, u16),
        ca: &Observed<Found<Vec<Certificate>>>,
        chain: &Observed<Chain>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let chain = chain.seen().ok_or("no certificate was presented")?;
        let ca = &ca.seen().ok_or("the CA is not known")?.value;
        let vouched = chain
            .check_name(&address.to_string())
            .and_then(|()| chain.check_trust(ca))
            .and_then(|()| chain.check_time_to(ca, now).map(drop));
        vouched.map_err(|_judged_elsewhere| {
            "the certificate is not good, and a token is sent to nobody whom it does not vouch for"
        })?;
        let base = Url::parse(&format!("https://{}:{port}", address.in_url()))
            .map_err(|error| format!("{address} and {port} make no URL: {error}"))?;
        let wire = Wire::new(&base, Some(ca))?;
        Ok(Self { base, wire })
    }

    async fn ask(
        &self,
        path: &str,
        token: &Secret,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let mut url = self.base.clone();
        url.set_path(path);
        match body {
            None => self.wire.get(&url, Some(token)).await,
            Some(body) => self.wire.post(&url, Some(token), body).await,
        }
    }
}

/// All checks of interLink.
pub static GROUPS: &[Group<Facts>] = &[
    Group {
        name: "Kubernetes API",
        checks: &[Check {
            name: "the Kubernetes API answers",
            why: "what the cluster file leaves out is taken from the cluster",
            mend: "give a kubeconfig with --kubeconfig (and --context) that kubectl get ingresses works with",
            page: "docs/targets/interlink.md#the-kubernetes-api-answers",
            judge: |facts| {
                facts
                    .kubernetes
                    .judge(|(url, version)| Verdict::pass(format!("{version} at {url}")))
            },
        }],
    },
    Group {
        name: "address",
        checks: &[
            Check {
                name: "address and port are known",
                why: "the virtual kubelet tells containers of the API only where both are set",
                mend: "set apiAccess.address and apiAccess.port in the cluster file, or make the Ingress: rollcall-aggregator prepare",
                page: "docs/targets/interlink.md#address-and-port-are-known",
                judge: address::known,
            },
            Check {
                name: "the address can be reached from outside",
                why: "plugins run on other machines",
                mend: "set apiAccess.address to a name or address that the plugins' machines reach",
                page: "docs/targets/interlink.md#the-address-can-be-reached-from-outside",
                judge: address::reachable,
            },
            Check {
                name: "TLS answers there",
                why: "the API is spoken to over TLS alone",
                mend: "look at the Ingress's controller, its Service and the firewall before it, and at the port",
                page: "docs/targets/interlink.md#tls-answers-there",
                judge: address::answers,
            },
        ],
    },
    Group {
        name: "certificate",
        checks: &[
            Check {
                name: "the CA is known",
                why: "containers get it as ca.crt in the place of the cluster's own",
                mend: "set apiAccess.caFile or apiAccess.caSecret in the cluster file; a Secret of cert-manager's CA issuer has it under ca.crt",
                page: "docs/targets/interlink.md#the-ca-is-known",
                judge: certificate::ca,
            },
            Check {
                name: "the certificate is for the address",
                why: "clients refuse a certificate without the very name or address among its subject alternative names",
                mend: "have it made with the address: dnsNames for a name, ipAddresses for an address",
                page: "docs/targets/interlink.md#the-certificate-is-for-the-address",
                judge: certificate::name,
            },
            Check {
                name: "the CA vouches for the certificate",
                why: "clients trust no other CA than the one that they are given",
                mend: "give the CA that signed it with apiAccess.caFile or caSecret, or have the controller present the certificate that this CA signed",
                page: "docs/targets/interlink.md#the-ca-vouches-for-the-certificate",
                judge: certificate::trust,
            },
            Check {
                name: "the certificate has not expired",
                why: "clients refuse it then",
                mend: "have it made anew: kubectl describe certificate tells why cert-manager did not",
                page: "docs/targets/interlink.md#the-certificate-has-not-expired",
                judge: certificate::time,
            },
        ],
    },
    Group {
        name: "routes",
        checks: &[
            Check {
                name: "there is a token to try with",
                why: "that a service account is let in can be tried with its token alone",
                mend: "rollcall-aggregator prepare makes a service account without rights and its token; or set apiAccess.tokenFile or apiAccess.tokenSecret",
                page: "docs/targets/interlink.md#there-is-a-token-to-try-with",
                judge: routes::token,
            },
            Check {
                name: "the token is accepted",
                why: "what a plugin's containers have is the token of a service account",
                mend: "let the proxy pass the Authorization header to the API server of the very cluster that the token is of",
                page: "docs/targets/interlink.md#the-token-is-accepted",
                judge: routes::accepted,
            },
            Check {
                name: "/api is routed",
                why: "the core of the API is below it",
                mend: "give the Ingress the path /api, of type Prefix, to the reverse proxy",
                page: "docs/targets/interlink.md#api-is-routed",
                judge: routes::api,
            },
            Check {
                name: "/apis is routed",
                why: "all other groups of the API are below it",
                mend: "give the Ingress the path /apis, of type Prefix, to the reverse proxy",
                page: "docs/targets/interlink.md#apis-is-routed",
                judge: routes::apis,
            },
            Check {
                name: "rights can be asked for",
                why: "clients ask what they may do; it is a request with a body, all the way and back",
                mend: "let the proxy pass POST with its body",
                page: "docs/targets/interlink.md#rights-can-be-asked-for",
                judge: routes::rules,
            },
            Check {
                name: "a wrong token is refused",
                why: "a proxy that has credentials of its own lends them to everybody",
                mend: "take credentials and client certificates out of the proxy, and let it pass the Authorization header",
                page: "docs/targets/interlink.md#a-wrong-token-is-refused",
                judge: routes::wrong_token,
            },
            Check {
                name: "/version is not routed",
                why: "nothing but /api and /apis is needed outside, and some of the rest is told to everybody",
                mend: "route /api and /apis alone",
                page: "docs/targets/interlink.md#version-is-not-routed",
                judge: |facts| routes::absent(&facts.routes.version),
            },
            Check {
                name: "/healthz is not routed",
                why: "nothing but /api and /apis is needed outside, and some of the rest is told to everybody",
                mend: "route /api and /apis alone",
                page: "docs/targets/interlink.md#healthz-is-not-routed",
                judge: |facts| routes::absent(&facts.routes.healthz),
            },
            Check {
                name: "/openapi is not routed",
                why: "nothing but /api and /apis is needed outside, and it tells which software is installed",
                mend: "route /api and /apis alone",
                page: "docs/targets/interlink.md#openapi-is-not-routed",
                judge: |facts| routes::absent(&facts.routes.openapi),
            },
        ],
    },
    Group {
        name: "interLink",
        checks: &[
            Check {
                name: "the virtual kubelet may make tokens",
                why: "it asks for the tokens that it hands to containers",
                mend: "give it create on serviceaccounts/token; the chart of interLink does",
                page: "docs/targets/interlink.md#the-virtual-kubelet-may-make-tokens",
                judge: kubelet::may,
            },
            Check {
                name: "the Helm values hold all three",
                why: "address, port and CA count together alone",
                mend: "rollcall-aggregator document shows them",
                page: "docs/targets/interlink.md#the-helm-values-hold-all-three",
                judge: helm::values,
            },
        ],
    },
];

/// What a certificate, an answer or an address was not seen for, where one is needed.
fn unseen<T>(observed: &Observed<T>, what: &str) -> Option<Verdict> {
    match &observed.result {
        Ok(_) => None,
        Err(Unseen::NotTried { why }) => Some(Verdict::skipped(why)),
        Err(_judged_elsewhere) => Some(Verdict::skipped(what)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn every_check_has_its_page() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/targets/interlink.md");
        let page = fs::read_to_string(path).expect("the page");
        let anchors: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("#"))
            .map(|line| line.trim_start_matches('#').trim().to_lowercase())
            .map(|line| line.replace(' ', "-"))
            .map(|line| {
                line.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_', "")
            })
            .collect();
        let mut names = BTreeSet::new();
        for check in GROUPS.iter().flat_map(|group| group.checks) {
            let anchor = check.page.strip_prefix("docs/targets/interlink.md#").expect("its page");
            assert!(anchors.contains(anchor), "{}: {anchor} is not in {anchors:?}", check.name);
            assert!(names.insert(check.name), "{} is there twice", check.name);
        }
    }
}
