//! What is checked of the certificate that inference endpoints are served with.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use rollcall_report::error_chain;

use super::{Facts, judge_read};
use crate::certificates::{Chain, KeyFault, from_pem, key_matches};
use crate::checks::Verdict;
use crate::targets::inference_model_manager::TLS_SECRET;

/// The only type that ingress controllers take.
const TYPE: &str = "kubernetes.io/tls";

/// A certificate that ends sooner than this is warned of.
const SOON: Duration = Duration::from_hours(30 * 24);

/// The Secret with the certificate, as far as it is looked at.
#[derive(Debug)]
pub(super) struct TlsSecret {
    kind: String,
    /// The certificate and those that signed it.
    chain: Result<Chain, String>,
    /// Whether the key is the certificate's.
    key: Result<(), KeyFault>,
}

impl TlsSecret {
    pub(super) fn of(secret: &core::Secret) -> Self {
        let value = |key: &str| {
            let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
            Some(bytes.as_slice()).filter(|bytes| !bytes.is_empty())
        };
        let chain = value("tls.crt").ok_or_else(|| "tls.crt is missing or empty".to_owned());
        let chain = chain.and_then(|pem| {
            let certificates = from_pem(pem).map_err(|error| error_chain(&error));
            let chain =
                certificates.map(Chain::new).map_err(|error| format!("tls.crt: {error}"))?;
            chain.ok_or_else(|| "tls.crt holds no certificate".to_owned())
        });
        let key = value("tls.key");
        let key = key.ok_or_else(|| KeyFault::Wrong("it is missing or empty".to_owned()));
        let key = key.and_then(|pem| match &chain {
            Ok(chain) => key_matches(chain.leaf(), pem),
            // Judged by what is wrong with the certificate.
            Err(_) => Ok(()),
        });
        Self { kind: secret.type_.clone().unwrap_or_default(), chain, key }
    }
}

/// Whether the Secret is there, of its type, with a certificate.
pub(super) fn is_there(facts: &Facts) -> Verdict {
    let namespace = &facts.platform.management_namespace;
    judge_read(&facts.certificate, |secret| {
        match secret {
        None => Verdict::fail(format!("there is no Secret {TLS_SECRET} in {namespace}")).mend(
            format!("kubectl create secret tls {TLS_SECRET} --namespace {namespace} --cert tls.crt --key tls.key"),
        ),
        Some(secret) => judge_is_there(secret, namespace),
    }
    })
}

/// Whether the certificate is for `*.DOMAIN`.
pub(super) fn is_for_every_endpoint(facts: &Facts) -> Verdict {
    with_chain(facts, |_, chain| judge_names(chain, &facts.platform.grpc_dns_domain))
}

/// Whether the key is the certificate's.
pub(super) fn has_its_key(facts: &Facts) -> Verdict {
    with_chain(facts, |secret, chain| {
        match &secret.key {
        Ok(()) => Verdict::pass(&chain.leaf().subject),
        Err(KeyFault::Wrong(said)) => Verdict::fail(format!("tls.key: {said}")),
        Err(KeyFault::UnknownKind) => Verdict::warn(
            "tls.key: a key of this kind cannot be judged here, for its kind is a rare one",
        )
        .mend(
            "compare: openssl x509 -noout -pubkey -in tls.crt, and openssl pkey -pubout -in tls.key",
        ),
    }
    })
}

/// Whether the certificate is good today, and for a while.
pub(super) fn is_in_time(facts: &Facts) -> Verdict {
    with_chain(facts, |_, chain| judge_time(chain, facts.now))
}

/// Judges the certificate, if there is one.
fn with_chain(facts: &Facts, judge: impl FnOnce(&TlsSecret, &Chain) -> Verdict) -> Verdict {
    judge_read(&facts.certificate, |secret| match secret {
        None => Verdict::skipped(format!("there is no Secret {TLS_SECRET}")),
        Some(secret) => match &secret.chain {
            Ok(chain) => judge(secret, chain),
            Err(_) => Verdict::skipped("there is no certificate to look at"),
        },
    })
}

fn judge_is_there(secret: &TlsSecret, namespace: &str) -> Verdict {
    match (&secret.chain, secret.kind.as_str()) {
        (Err(said), _) => Verdict::fail(format!("{namespace}/{TLS_SECRET}: {said}")),
        (Ok(_), TYPE) => Verdict::pass(format!("{namespace}/{TLS_SECRET}")),
        (Ok(_), kind) => {
            Verdict::fail(format!("{namespace}/{TLS_SECRET} is of type {kind:?}, and not {TYPE}"))
        }
    }
}

fn judge_names(chain: &Chain, domain: &str) -> Verdict {
    let wanted = format!("*.{domain}");
    let leaf = chain.leaf();
    if leaf.dns_names.iter().any(|name| name.eq_ignore_ascii_case(&wanted)) {
        return Verdict::pass(wanted);
    }
    let has = leaf.names();
    let seen = if leaf.dns_names.is_empty() && leaf.subject.contains(&wanted) {
        format!("{wanted} is its common name ({}), which clients do not look at", leaf.subject)
    } else if leaf.dns_names.iter().any(|name| domain.ends_with(name.trim_start_matches('*'))) {
        format!(
            "it is for {has}, not for {wanted}: a star stands for one label, and a domain is not what is below it"
        )
    } else {
        format!("it is for {has}, not for {wanted}")
    };
    Verdict::fail(seen)
        .mend(format!("have a certificate made with the subject alternative name DNS:{wanted}"))
}

fn judge_time(chain: &Chain, now: Timestamp) -> Verdict {
    match chain.check_time(now) {
        Err(said) => Verdict::fail(said),
        Ok(end) if now.duration_until(end).unsigned_abs() < SOON => {
            Verdict::warn(format!("it expires at {end}"))
        }
        Ok(end) => Verdict::pass(format!("until {end}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;
    use crate::checks::Outcome::{self, Fail, Pass, Warn};

    const DOMAIN: &str = "grpc.example.org";

    struct Made {
        certificate: String,
        key: String,
    }

    fn made(common_name: &str, names: &[&str]) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Made { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn secret(kind: &str, values: &[(&str, &str)]) -> TlsSecret {
        let data: BTreeMap<String, ByteString> = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        TlsSecret::of(&core::Secret {
            type_: Some(kind.to_owned()),
            data: Some(data),
            ..core::Secret::default()
        })
    }

    fn chain(made: &Made) -> Chain {
        secret(TYPE, &[("tls.crt", &made.certificate), ("tls.key", &made.key)])
            .chain
            .expect("a chain")
    }

    #[test]
    fn the_secret() {
        let (one, other) = (made("one", &["a.b"]), made("other", &["a.b"]));
        let (cert, key) = (one.certificate.as_str(), one.key.as_str());
        for (secret, outcome, words) in [
            (secret(TYPE, &[("tls.crt", cert), ("tls.key", key)]), Pass, "ns/tls-secret"),
            (
                secret("Opaque", &[("tls.crt", cert), ("tls.key", key)]),
                Fail,
                "of type \"Opaque\", and not kubernetes.io/tls",
            ),
            (secret(TYPE, &[("tls.key", key)]), Fail, "tls.crt is missing or empty"),
            (secret(TYPE, &[("tls.crt", "nonsense"), ("tls.key", key)]), Fail, "tls.crt: "),
        ] {
            let verdict = judge_is_there(&secret, "ns");
            assert_eq!(verdict.outcome, outcome, "{words}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{words}: {}", verdict.seen);
        }
        for (key, expected) in [
            (key, Ok(())),
            (other.key.as_str(), Err("it is the key of another certificate")),
            ("", Err("it is missing or empty")),
        ] {
            let judged = secret(TYPE, &[("tls.crt", cert), ("tls.key", key)]).key;
            assert_eq!(judged, expected.map_err(|said| KeyFault::Wrong(said.to_owned())));
        }
        let debug = format!("{:?}", secret(TYPE, &[("tls.crt", cert), ("tls.key", key)]));
        assert!(!debug.contains("PRIVATE"), "{debug}");
    }

    #[test]
    fn names() {
        for (common_name, names, outcome, words) in [
            ("x", &["*.grpc.example.org"][..], Pass, "*.grpc.example.org"),
            ("x", &["other.example", "*.GRPC.example.org"], Pass, "*.grpc.example.org"),
            ("*.grpc.example.org", &[], Fail, "is its common name"),
            ("x", &["*.example.org"], Fail, "a star stands for one label"),
            ("x", &["grpc.example.org"], Fail, "a domain is not what is below it"),
            (
                "x",
                &["model.grpc.example.org"],
                Fail,
                "it is for model.grpc.example.org, not for *.grpc",
            ),
            ("x", &["*.evilgrpc.example.org"], Fail, "not for *.grpc"),
        ] {
            let verdict = judge_names(&chain(&made(common_name, names)), DOMAIN);
            assert_eq!(verdict.outcome, outcome, "{names:?}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{names:?}: {}", verdict.seen);
        }
    }

    #[test]
    fn times() {
        let chain = chain(&made("x", &["a.b"]));
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let cases: [(&str, Outcome, &str); 4] = [
            ("2025-12-31T00:00:00Z", Fail, "is not valid before 2026-01-01"),
            ("2026-06-01T00:00:00Z", Pass, "until 2026-12-31"),
            ("2026-12-15T00:00:00Z", Warn, "it expires at 2026-12-31"),
            ("2027-01-01T00:00:00Z", Fail, "expired at 2026-12-31"),
        ];
        for (now, outcome, words) in cases {
            let verdict = judge_time(&chain, at(now));
            assert_eq!(verdict.outcome, outcome, "{now}: {}", verdict.seen);
            assert!(verdict.seen.contains(words), "{now}: {}", verdict.seen);
        }
    }
}
