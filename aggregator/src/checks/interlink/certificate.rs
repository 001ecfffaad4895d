//! What is checked of the certificate that is presented to plugins, and of its CA.

use std::time::Duration;

use jiff::Timestamp;

use super::{Facts, unseen};
use crate::certificates::{Certificate, Chain, Validity};
use crate::checks::{Verdict, handful};

/// Within so much time somebody should see to it.
const SOON: Duration = Duration::from_hours(30 * 24);

/// What controllers of Kubernetes present when they have no certificate for who asks.
const FAKE: &str = "Kubernetes Ingress Controller Fake Certificate";

/// Whether there is a CA that can be given to containers.
pub(super) fn ca(facts: &Facts) -> Verdict {
    facts.endpoint.ca.judge(|ca| judge_ca(&ca.value, &ca.from, facts.now))
}

/// Whether the certificate is for the address.
pub(super) fn name(facts: &Facts) -> Verdict {
    let Some(address) = facts.endpoint.address.seen() else {
        return Verdict::skipped("the address is not known");
    };
    presented(facts, |chain| judge_name(chain, &address.value.to_string()))
}

/// Whether the CA signed the certificate.
pub(super) fn trust(facts: &Facts) -> Verdict {
    let Some(ca) = facts.endpoint.ca.seen() else {
        return Verdict::skipped("the CA is not known");
    };
    presented(facts, |chain| judge_trust(chain, &ca.value))
}

/// Whether the certificate is valid now, and for a while.
pub(super) fn time(facts: &Facts) -> Verdict {
    let now = facts.now;
    // Without a CA it is not known which of them are needed, and all count.
    let ca = facts.endpoint.ca.seen().map(|ca| ca.value.as_slice()).unwrap_or_default();
    presented(facts, |chain| judge_time(chain.check_time_to(ca, now), now))
}

fn presented(facts: &Facts, judge: impl FnOnce(&Chain) -> Verdict) -> Verdict {
    if let Some(verdict) = unseen(&facts.chain, "no certificate was presented") {
        return verdict;
    }
    facts.chain.judge(judge)
}

fn judge_ca(ca: &[Certificate], from: &str, now: Timestamp) -> Verdict {
    let subjects = handful(ca.iter().map(|it| it.subject.as_str()));
    // One that is over may stand beside its follower.
    let valid: Vec<&Certificate> = ca.iter().filter(|it| it.is_in_time(now).is_ok()).collect();
    let mend = "have a CA made anew, and the certificate with it; then give the virtual kubelet the new one: rollcall-aggregator document, helm upgrade";
    let is_expired = |it: &Certificate| it.not_after < now;
    match valid.iter().map(|it| it.not_after).max() {
        None if ca.iter().all(is_expired) => {
            Verdict::fail(format!("{subjects} ({from}) has expired")).mend(mend)
        }
        None => {
            let begin = ca.iter().map(|it| it.not_before).filter(|begin| *begin > now).min();
            let begin = begin.unwrap_or(now);
            Verdict::fail(format!("{subjects} ({from}) is not valid before {begin}"))
                .mend("look at the clocks of this machine and of who made it")
        }
        // Who signed itself can vouch for itself at least.
        Some(_) if !valid.iter().any(|it| it.is_ca || it.is_self_issued()) => Verdict::warn(
            format!("{subjects} ({from}) is no CA: it was signed by another, and can sign nothing"),
        )
        .mend("give the certificate of the CA that signed it, with apiAccess.caFile or caSecret"),
        Some(end) if end < soon(now) => {
            Verdict::warn(format!("{subjects} ({from}) expires at {end}")).mend(mend)
        }
        Some(end) => Verdict::pass(format!("{subjects} ({from}), until {end}")),
    }
}

fn judge_trust(chain: &Chain, ca: &[Certificate]) -> Verdict {
    if let Err(problem) = chain.check_trust(ca) {
        return fake(Verdict::fail(problem), chain);
    }
    let issuer = &chain.leaf().issuer;
    if chain.ends_in_root(ca) {
        return Verdict::pass(format!("signed by {issuer}"));
    }
    Verdict::warn(format!(
        "signed by {issuer}, but the CA that is given was signed by another: some clients, such as Python's, take no chain that does not end in a CA that signed itself"
    ))
    .mend("give the CA that signed it, too: all certificates up to the root in one PEM, with apiAccess.caFile or caSecret")
}

fn judge_name(chain: &Chain, address: &str) -> Verdict {
    match chain.check_name(address) {
        Ok(()) => Verdict::pass(format!("it is for {}", chain.leaf().names())),
        Err(problem) => fake(Verdict::fail(problem), chain),
    }
}

/// Of the controller's own certificate another thing is to be said.
fn fake(verdict: Verdict, chain: &Chain) -> Verdict {
    if !chain.leaf().subject.contains(FAKE) {
        return verdict;
    }
    verdict.mend(
        "it is the controller's stopgap: ingress-nginx presents an Ingress's certificate only to who asks for a host of it, and nobody does for an address; start the controller with --default-ssl-certificate=NAMESPACE/SECRET, or give the Ingress's rule the name as its host",
    )
}

fn judge_time(validity: Result<Validity, String>, now: Timestamp) -> Verdict {
    match validity {
        Err(problem) => Verdict::fail(problem),
        Ok(Validity { until, .. }) if until < soon(now) => {
            Verdict::warn(format!("it expires at {until}"))
        }
        Ok(Validity { until, needless }) if !needless.is_empty() => Verdict::warn(format!(
            "it is valid until {until}; what is presented with it, and not needed, is not: {}",
            handful(needless.iter().map(String::as_str))
        ))
        .mend("take it out of what the controller presents"),
        Ok(Validity { until, .. }) => Verdict::pass(format!("it is valid until {until}")),
    }
}

fn soon(now: Timestamp) -> Timestamp {
    now.saturating_add(SOON).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

    use super::*;
    use crate::certificates::from_pem;
    use crate::checks::Outcome::{Fail, Pass, Warn};

    /// One that lasts from the first day of a year to that of another, signed by itself or by a CA.
    fn certificate(years: (i32, i32), is_ca: bool, by_itself: bool) -> Certificate {
        let params = |name: &str, is_ca| {
            let mut params = CertificateParams::new([]).expect("no names");
            params.distinguished_name.push(DnType::CommonName, name);
            params.not_before = date_time_ymd(years.0, 1, 1);
            params.not_after = date_time_ymd(years.1, 1, 1);
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            params
        };
        let (key, its_key) = (KeyPair::generate(), KeyPair::generate());
        let (key, its_key) = (key.expect("a key"), its_key.expect("a key"));
        let made = if by_itself {
            params("one", is_ca).self_signed(&key)
        } else {
            let issuer = rcgen::Issuer::new(params("its CA", true), its_key);
            params("one", is_ca).signed_by(&key, &issuer)
        };
        let pem = made.expect("a certificate").pem();
        from_pem(pem.as_bytes()).expect("a certificate").pop().expect("one")
    }

    #[test]
    fn cas() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let good = || certificate((2020, 2040), true, true);
        let (old, new) =
            (certificate((2020, 2021), true, true), certificate((2035, 2040), true, true));
        for (what, ca, outcome, words) in [
            ("a root", vec![good()], Pass, "CN=one (here), until 2040"),
            ("an old one beside it", vec![old.clone(), good()], Pass, "until 2040"),
            ("expired", vec![old.clone()], Fail, "has expired"),
            ("not begun", vec![new.clone()], Fail, "is not valid before 2035-01-01T00:00:00Z"),
            ("neither", vec![old, new], Fail, "is not valid before 2035"),
            ("an intermediate", vec![certificate((2020, 2040), true, false)], Pass, "until 2040"),
            ("one for itself", vec![certificate((2020, 2040), false, true)], Pass, "until 2040"),
            ("a server's", vec![certificate((2020, 2040), false, false)], Warn, "is no CA"),
        ] {
            let verdict = judge_ca(&ca, "here", now);
            assert_eq!(verdict.outcome, outcome, "{what}: {verdict:?}");
            assert!(verdict.seen.contains(words), "{what}: {verdict:?}");
        }
    }

    #[test]
    fn ends() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        for (end, outcome) in [
            (Ok(("2030-01-30T00:00:00Z", None)), Warn),
            (Ok(("2030-02-01T00:00:00Z", None)), Pass),
            (Ok(("2030-02-01T00:00:00Z", Some("an old one"))), Warn),
            (Err("expired"), Fail),
        ] {
            let validity = end.map_err(str::to_owned).map(|(until, needless)| Validity {
                until: until.parse().expect("a time"),
                needless: needless.into_iter().map(str::to_owned).collect(),
            });
            let verdict = judge_time(validity, now);
            assert_eq!(verdict.outcome, outcome, "{verdict:?}");
        }
    }
}
