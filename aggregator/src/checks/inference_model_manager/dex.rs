//! What is checked of Dex, as the API server sees it: its discovery document and its keys.

use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::{Facts, read_ca};
use crate::certificates::Certificate;
use crate::checks::wire::{Answer, Wire};
use crate::checks::{Observed, Verdict, observe};
use crate::cluster_file::inference_model_manager::{IssuerUrl, Oidc};

/// Where an issuer describes itself (`OpenID` Connect Discovery 1.0, 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// What was seen of Dex.
#[derive(Debug)]
pub(super) struct Seen {
    /// The document in which it describes itself.
    discovery: Observed<Discovery>,
    /// How many keys it signs tokens with.
    keys: Observed<Keys>,
    /// Whether its certificate is believed without the CA of the cluster file too.
    is_public: bool,
}

impl Seen {
    /// Whether the API server needs a CA to believe Dex; `None`: Dex was not seen.
    pub(super) fn needs_ca(&self) -> Option<bool> {
        self.discovery.seen().map(|_| !self.is_public)
    }
}

/// What is of use of a discovery document.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Discovery {
    issuer: String,
    jwks_uri: Option<String>,
}

/// The keys that tokens are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys {
    /// Where they are.
    url: Url,
    /// How many are for signatures.
    signing: usize,
}

/// Asks for the discovery document and for the keys that it names.
pub(super) async fn look(oidc: &Oidc, limit: Duration) -> Seen {
    let ca = read_ca(oidc.ca_file.as_deref());
    let url = discovery_url(&oidc.issuer_url);
    let (discovery, is_public) = tokio::join!(
        observe(limit, async { discover(&url, ca.clone()?.as_deref()).await }),
        async { ca_is_superfluous(oidc, &url, limit).await },
    );
    let keys = match discovery.seen() {
        Some(Discovery { jwks_uri: Some(uri), .. }) => {
            observe(limit, async { ask_keys(uri, ca.clone()?.as_deref()).await }).await
        }
        Some(_) => Observed::not_tried("the discovery document names none (jwks_uri)"),
        None => Observed::not_tried("the discovery document was not seen"),
    };
    Seen { discovery, keys, is_public }
}

/// Whether machines believe Dex's certificate by themselves, whatever the cluster file says.
async fn ca_is_superfluous(oidc: &Oidc, url: &Url, limit: Duration) -> bool {
    oidc.ca_file.is_none() || observe(limit, discover(url, None)).await.seen().is_some()
}

fn discovery_url(issuer: &IssuerUrl) -> Url {
    let mut url = issuer.url().clone();
    let path = format!("{}{DISCOVERY}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

async fn discover(url: &Url, ca: Option<&[Certificate]>) -> Result<Discovery, String> {
    let answer = Wire::new(url, ca)?.get(url, None).await?;
    let document = json(url, &answer)?;
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let issuer = text("issuer")
        .ok_or_else(|| format!("GET {url}: it is no discovery document: it names no issuer"))?;
    Ok(Discovery { issuer, jwks_uri: text("jwks_uri") })
}

async fn ask_keys(uri: &str, ca: Option<&[Certificate]>) -> Result<Keys, String> {
    let url = Url::parse(uri).map_err(|error| format!("jwks_uri {uri:?} is no URL: {error}"))?;
    if url.scheme() != "https" {
        return Err(format!(
            "jwks_uri {uri:?} does not begin with https://: keys that come so may be anybody's"
        ));
    }
    let answer = Wire::new(&url, ca)?.get(&url, None).await?;
    let document = json(&url, &answer)?;
    let keys = document.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or_else(|| format!("GET {url}: it is no set of keys"))?;
    // RFC 7517, 4.2: a key that does not say what it is for may sign.
    let signs = |key: &&Value| key.get("use").is_none_or(|it| it == "sig");
    Ok(Keys { signing: keys.iter().filter(signs).count(), url })
}

fn json(url: &Url, answer: &Answer) -> Result<Value, String> {
    if answer.status != 200 {
        return Err(format!("GET {url}: it answered {}", answer.status));
    }
    answer.json().ok_or_else(|| format!("GET {url}: the answer is no JSON"))
}

/// Whether Dex describes itself.
pub(super) fn answers(facts: &Facts) -> Verdict {
    facts.dex.discovery.judge(|_| {
        let url = discovery_url(&facts.platform.oidc.issuer_url);
        let by = match (&facts.platform.oidc.ca_file, facts.dex.is_public) {
            (None, _) => "its certificate is signed by a CA that this machine knows",
            (Some(_), true) => "its certificate is signed by the CA given, which is a public one",
            (Some(_), false) => "its certificate is signed by the CA given",
        };
        Verdict::pass(format!("{url}; {by}"))
    })
}

/// Whether it describes itself by the name that the API server is told.
pub(super) fn is_the_issuer(facts: &Facts) -> Verdict {
    match facts.dex.discovery.seen() {
        None => Verdict::skipped("the discovery document was not seen"),
        Some(seen) => judge_issuer(&seen.issuer, facts.platform.oidc.issuer_url.as_str()),
    }
}

/// Whether its keys can be had.
pub(super) fn keys(facts: &Facts) -> Verdict {
    match facts.dex.discovery.seen() {
        Some(Discovery { jwks_uri: None, .. }) => {
            Verdict::fail("the discovery document says nowhere (jwks_uri) where the keys are")
        }
        _ => facts.dex.keys.judge(judge_keys),
    }
}

fn judge_issuer(issuer: &str, wanted: &str) -> Verdict {
    if issuer == wanted {
        return Verdict::pass(issuer);
    }
    let slash = issuer.trim_end_matches('/') == wanted.trim_end_matches('/');
    let but = if slash { ": a slash at the end counts" } else { "" };
    Verdict::fail(format!("it calls itself {issuer}, and oidc.issuerUrl is {wanted}{but}"))
}

fn judge_keys(keys: &Keys) -> Verdict {
    match keys.signing {
        0 => Verdict::fail(format!("{} has no key for signatures", keys.url)),
        count => Verdict::pass(format!("{count} keys at {}", keys.url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome::{Fail, Pass};

    #[test]
    fn where_issuers_describe_themselves() {
        for (issuer, expected) in [
            ("https://dex.example.org", "https://dex.example.org/.well-known/openid-configuration"),
            (
                "https://dex.example.org/",
                "https://dex.example.org/.well-known/openid-configuration",
            ),
            (
                "https://dex.example.org:32000/dex",
                "https://dex.example.org:32000/dex/.well-known/openid-configuration",
            ),
            (
                "https://dex.example.org/dex/",
                "https://dex.example.org/dex/.well-known/openid-configuration",
            ),
        ] {
            let issuer: IssuerUrl = serde_json::from_value(issuer.into()).expect("an issuer");
            assert_eq!(discovery_url(&issuer).as_str(), expected);
        }
    }

    #[test]
    fn issuers_letter_by_letter() {
        let wanted = "https://dex.example.org/dex";
        for (issuer, outcome, words) in [
            (wanted, Pass, wanted),
            ("https://dex.example.org/dex/", Fail, "a slash at the end counts"),
            (
                "https://login.example.org/dex",
                Fail,
                "it calls itself https://login.example.org/dex",
            ),
        ] {
            let verdict = judge_issuer(issuer, wanted);
            assert_eq!(verdict.outcome, outcome, "{issuer}");
            assert!(verdict.seen.contains(words), "{}", verdict.seen);
        }
    }
}
