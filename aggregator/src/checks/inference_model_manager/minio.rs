//! What is checked of MinIO: the Secret with its keys, and that it takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use url::{Host, Url};

use super::signature::Signer;
use super::{Facts, judge_read, read_ca};
use crate::checks::wire::{Answer, Wire};
use crate::checks::{Observed, Unseen, Verdict, handful, observe};
use crate::cluster_file::inference_model_manager::Minio;
use crate::targets::inference_model_manager::MINIO_SECRET;
use crate::targets::inference_model_manager::minio::{AccessInfo, Store, StoreError};

/// For how long the signed request is good: as long as it may be under way between two clocks.
const GOOD_FOR: Duration = Duration::from_mins(5);

/// What was seen of MinIO.
#[derive(Debug)]
pub(super) struct Seen {
    /// The Secret with its keys; `None`: there is none.
    info: Observed<Option<AccessInfo>>,
    /// What is known of it; else what is missing.
    store: Result<Store, StoreError>,
    /// What it says to a signed list of buckets.
    listing: Observed<Listing>,
}

/// What a service says to a signed list of buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Listing {
    /// The list, of so many buckets.
    Buckets(usize),
    /// As S3 refuses: with a code and a message.
    Refused { status: u16, code: String, message: String },
    /// As no S3 service answers.
    NotS3 { status: u16 },
}

/// Asks for the list of buckets with what the cluster file and the Secret say.
pub(super) async fn look(
    minio: &Minio,
    secret: Observed<Option<core::Secret>>,
    limit: Duration,
) -> Seen {
    let info = secret.map(|secret| secret.map(|secret| AccessInfo::of(&secret)));
    let known = info.seen().and_then(Option::as_ref);
    let store = Store::settle(minio, known);
    let listing = match &store {
        Ok(store) => observe(limit, list_buckets(store, minio)).await,
        // Without the Secret nobody knows whether it would have told.
        Err(_missing) if info.seen().is_none() => {
            Observed::not_tried(format!("the Secret {MINIO_SECRET} was not seen"))
        }
        Err(missing) => Observed::not_tried(missing.to_string()),
    };
    Seen { info, store, listing }
}

async fn list_buckets(store: &Store, minio: &Minio) -> Result<Listing, String> {
    let Way { url, addresses } = Way::to(&store.endpoint_url, minio.probe_url.as_ref());
    let ca = read_ca(minio.ca_file.as_deref())?;
    let wire = Wire::reached_at(&url, ca.as_deref(), &addresses)?;
    let signer = Signer {
        access_key_id: &store.access_key_id,
        secret_key: &store.secret_key,
        region: &store.region,
    };
    // The service itself is the list of its buckets.
    let answer = wire.get(&signer.get(&url, Timestamp::now(), GOOD_FOR), None).await;
    let answer = answer.map_err(|said| match addresses.first() {
        Some(address) => format!("{said} (at {address}, by the name of endpointUrl)"),
        None => said,
    })?;
    Ok(Listing::of(&answer))
}

/// How this machine reaches MinIO.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    /// What is asked for.
    url: Url,
    /// Where its host is looked for; empty: where it is.
    addresses: Vec<SocketAddr>,
}

impl Way {
    /// A bare address over TLS is a tunnel to the endpoint, as `kubectl port-forward` makes it: the
    /// certificate at its end is for the endpoint's name. Any other place has a name of its own.
    fn to(endpoint: &Url, probe: Option<&Url>) -> Self {
        let straight = |url: &Url| Self { url: url.clone(), addresses: Vec::new() };
        let Some(probe) = probe else { return straight(endpoint) };
        let is_tls = endpoint.scheme() == "https" && probe.scheme() == "https";
        let addresses = match probe.host() {
            Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            Some(Host::Domain("localhost")) => {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            }
            Some(Host::Domain(_)) | None => Vec::new(),
        };
        let mut url = endpoint.clone();
        let port = probe.port_or_known_default();
        if !is_tls || addresses.is_empty() || url.domain().is_none() || url.set_port(port).is_err()
        {
            return straight(probe);
        }
        let port = port.unwrap_or_default();
        let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        Self { url, addresses }
    }
}

impl Listing {
    fn of(answer: &Answer) -> Self {
        let status = answer.status;
        let body = String::from_utf8_lossy(&answer.body);
        if status == 200 && body.contains("<ListAllMyBucketsResult") {
            return Self::Buckets(body.matches("<Bucket>").count());
        }
        match (body.contains("<Error>"), between(&body, "<Code>", "</Code>")) {
            (true, Some(code)) => {
                let message = between(&body, "<Message>", "</Message>").unwrap_or_default();
                Self::Refused { status, code: code.to_owned(), message: message.to_owned() }
            }
            _ => Self::NotS3 { status },
        }
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Whether the Secret holds what its charts look for.
pub(super) fn whole(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.management_namespace;
    judge_read(&facts.minio.info, |info| judge_whole(info.as_ref(), &facts.minio.store, namespace))
}

/// Whether the Secret says what the cluster file says.
pub(super) fn agrees(facts: &Facts) -> Verdict {
    judge_read(&facts.minio.info, |info| match (info, &facts.minio.store) {
        (None, _) => Verdict::skipped(format!("there is no Secret {MINIO_SECRET}")),
        // What does not even agree with itself.
        (Some(_), Err(why @ StoreError::KeyAsRegion)) => Verdict::fail(why.to_string()),
        (Some(_), Err(why)) => Verdict::skipped(why.to_string()),
        (Some(info), Ok(store)) => judge_agrees(info, store),
    })
}

/// Whether it is MinIO, or what speaks as it does.
pub(super) fn answers(facts: &Facts) -> Verdict {
    let Seen { store, listing, .. } = &facts.minio;
    listing.judge(|listing| {
        // What answered was asked with what is known.
        let url = store.as_ref().map(|store| store.endpoint_url.as_str()).unwrap_or_default();
        let at = facts.platform.minio.probe_url.as_ref().map_or(url, Url::as_str);
        match listing {
            Listing::NotS3 { status } => Verdict::fail(format!(
                "{at} answered {status}, and not as S3 does: is it MinIO's console, and not its API?"
            )),
            Listing::Buckets(_) | Listing::Refused { .. } => {
                Verdict::pass(format!("{at} speaks S3"))
            }
        }
    })
}

/// Whether the key opens it.
pub(super) fn takes_the_key(facts: &Facts) -> Verdict {
    match &facts.minio.listing.result {
        Err(Unseen::OutOfTime { .. } | Unseen::Failed { .. }) => {
            Verdict::skipped("MinIO was not reached")
        }
        Ok(_) | Err(Unseen::NotTried { .. }) => {
            facts.minio.listing.judge(|listing| judge_key(listing, &facts.minio.store))
        }
    }
}

fn judge_whole(
    info: Option<&AccessInfo>,
    store: &Result<Store, StoreError>,
    namespace: &str,
) -> Verdict {
    match (info, store) {
        (Some(info), _) => match info.faults().as_slice() {
            [] => Verdict::pass(format!("{namespace}/{MINIO_SECRET}")),
            faults => Verdict::fail(format!(
                "{namespace}/{MINIO_SECRET}: {}",
                handful(faults.iter().map(String::as_str))
            )),
        },
        (None, Ok(_)) => Verdict::warn(format!(
            "there is no Secret {MINIO_SECRET} in {namespace} yet; the cluster file has what it is made of"
        ))
        .mend("nothing has to be done if the management API's chart makes it (minio.secretCreate)"),
        (None, Err(_)) => {
            Verdict::fail(format!("there is no Secret {MINIO_SECRET} in {namespace}")).mend(
                "say in the cluster file where MinIO is and with which key (minio.endpointUrl, minio.accessKeyIdFile, minio.secretKeyFile), and the management API's chart makes it of that; or make it",
            )
        }
    }
}

fn judge_agrees(info: &AccessInfo, store: &Store) -> Verdict {
    match store.disagreements(info).as_slice() {
        [] => Verdict::pass(format!("{}, region {}", store.endpoint_url, store.shown_region())),
        found => Verdict::fail(found.join("; ")),
    }
}

fn judge_key(listing: &Listing, store: &Result<Store, StoreError>) -> Verdict {
    let (status, code, message) = match listing {
        Listing::Buckets(count) => return Verdict::pass(format!("it lists {count} buckets")),
        Listing::NotS3 { .. } => return Verdict::skipped("what answers is no S3 service"),
        Listing::Refused { status, code, message } => (*status, code.as_str(), message.as_str()),
    };
    let region = store.as_ref().map(Store::shown_region).unwrap_or_default();
    // A message, and a code that is none, may repeat what was sent.
    let is_code = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
    let shown = if is_code { code } else { "a code that is none" };
    let clock = "set this machine's clock, or MinIO's";
    match code {
        "InvalidAccessKeyId" => Verdict::fail(format!("it knows no such access key id ({shown})"))
            .mend("mend minio.access_key_id, or minio.accessKeyIdFile"),
        "SignatureDoesNotMatch" => {
            Verdict::fail(format!("the secret key is not that of the access key id ({shown})"))
                .mend("mend minio.access_secret_key, or minio.secretKeyFile")
        }
        "RequestTimeTooSkewed" => {
            Verdict::fail(format!("its clock differs from this machine's ({shown})")).mend(clock)
        }
        "AccessDenied" if message.contains("not valid yet") || message.contains("expired") => {
            Verdict::fail("its clock differs from this machine's").mend(clock)
        }
        "AccessDenied" => Verdict::fail("it knows the key, which may not list buckets")
            .mend("give the key's user a policy with s3:ListAllMyBuckets"),
        "AuthorizationHeaderMalformed" | "AuthorizationQueryParametersError" | "InvalidRegion" => {
            Verdict::fail(format!("it is in another region than {region} ({shown})"))
                .mend("mend minio.minio_region, or minio.region")
        }
        _ => Verdict::fail(format!("it refuses the list of buckets: {status} {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use rollcall_daemon::secret::Secret;

    use super::*;
    use crate::checks::Outcome::{Fail, Pass, Skipped};

    fn store() -> Store {
        Store {
            endpoint_url: Url::parse("http://minio.storage:9000").expect("a URL"),
            region: "us-east-1".to_owned(),
            access_key_id: Secret::new("the-key-id".to_owned()),
            secret_key: Secret::new("the-secret-key".to_owned()),
        }
    }

    #[test]
    fn ways() {
        let named = "https://minio.storage:9000";
        for (endpoint, probe, url, addresses) in [
            (named, None, "https://minio.storage:9000/", &[][..]),
            (
                named,
                Some("https://127.0.0.1:9443"),
                "https://minio.storage:9443/",
                &["127.0.0.1:9443"],
            ),
            (named, Some("https://[::1]"), "https://minio.storage/", &["[::1]:443"]),
            (
                named,
                Some("https://localhost:1"),
                "https://minio.storage:1/",
                &["127.0.0.1:1", "[::1]:1"],
            ),
            // It has a name, and so a certificate, of its own.
            (named, Some("https://minio.example.org"), "https://minio.example.org/", &[]),
            // There is no TLS at one end.
            (named, Some("http://127.0.0.1:9000"), "http://127.0.0.1:9000/", &[]),
            ("http://minio:9000", Some("https://127.0.0.1:1"), "https://127.0.0.1:1/", &[]),
            // There is no name to ask by.
            ("https://192.0.2.1", Some("https://127.0.0.1:1"), "https://127.0.0.1:1/", &[]),
        ] {
            let parsed = |text: &str| Url::parse(text).expect("a URL");
            let way = Way::to(&parsed(endpoint), probe.map(parsed).as_ref());
            let addresses = addresses.iter().map(|it| it.parse().expect("an address")).collect();
            assert_eq!(way, Way { url: parsed(url), addresses }, "{endpoint} {probe:?}");
        }
    }

    #[test]
    fn replies() {
        let list = "<?xml version=\"1.0\"?><ListAllMyBucketsResult xmlns=\"x\"><Buckets><Bucket><Name>a</Name></Bucket><Bucket><Name>b</Name></Bucket></Buckets></ListAllMyBucketsResult>";
        let error = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
        let refused = Listing::Refused {
            status: 403,
            code: "AccessDenied".to_owned(),
            message: "Access Denied.".to_owned(),
        };
        for (status, body, expected) in [
            (200, list, Listing::Buckets(2)),
            (403, error, refused),
            (200, "<html>MinIO Console</html>", Listing::NotS3 { status: 200 }),
            (307, "", Listing::NotS3 { status: 307 }),
            (500, "<Error></Error>", Listing::NotS3 { status: 500 }),
            (404, list, Listing::NotS3 { status: 404 }),
        ] {
            let answer = Answer { status, body: body.as_bytes().to_vec() };
            assert_eq!(Listing::of(&answer), expected, "{status} {body}");
        }
    }

    #[test]
    fn refusals_say_what_to_mend() {
        let refused = |code: &str, message: &str| Listing::Refused {
            status: 403,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        for (listing, outcome, words, mend) in [
            (Listing::Buckets(3), Pass, "it lists 3 buckets", ""),
            (Listing::NotS3 { status: 200 }, Skipped, "no S3 service", ""),
            (
                refused("InvalidAccessKeyId", "the-key-id"),
                Fail,
                "no such access key id",
                "accessKeyIdFile",
            ),
            (
                refused("SignatureDoesNotMatch", ""),
                Fail,
                "the secret key is not that",
                "secretKeyFile",
            ),
            (refused("RequestTimeTooSkewed", ""), Fail, "its clock differs", "clock"),
            (refused("AccessDenied", "Request has expired"), Fail, "its clock differs", "clock"),
            (
                refused("AccessDenied", "Access Denied."),
                Fail,
                "may not list buckets",
                "s3:ListAllMyBuckets",
            ),
            (
                refused("AuthorizationQueryParametersError", ""),
                Fail,
                "another region than us-east-1",
                "minio.region",
            ),
            (refused("SlowDown", "the-key-id"), Fail, "403 SlowDown", ""),
            (refused("the-key-id <b>", ""), Fail, "403 a code that is none", ""),
        ] {
            let verdict = judge_key(&listing, &Ok(store()));
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
            assert!(verdict.mend.unwrap_or_default().contains(mend), "{words}");
            assert!(!verdict.seen.contains("the-key-id"), "{}", verdict.seen);
        }
    }
}
