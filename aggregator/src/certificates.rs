//! Chains of X.509 certificates, as far as they are judged here: whom they are for, until when, and who
//! signed them. Pure: chains are judged by the TLS library's own rules, at any time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
pub use rollcall_daemon::certificate::{Certificate, CertificateError, from_pem};
use rustls::CertificateError::{Expired, NotValidYet};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A certificate, and those between it and its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    leaf: Certificate,
    others: Vec<Certificate>,
}

/// How long a chain is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Until when.
    pub until: Timestamp,
    /// What is presented besides, is not valid now, and is not needed; in words.
    pub needless: Vec<String>,
}

/// Certificates of which each is known as DER.
///
/// # Errors
///
/// What is wrong with one of them, in words.
pub fn from_ders(ders: &[Vec<u8>]) -> Result<Vec<Certificate>, String> {
    ders.iter().map(|der| Certificate::parse(CertificateDer::from(der.clone()))).collect()
}

/// Certificates as PEM.
pub fn to_pem(certificates: &[Certificate]) -> String {
    const LINE: usize = 64;
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for (index, character) in STANDARD.encode(&certificate.der).chars().enumerate() {
            if index > 0 && index % LINE == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END CERTIFICATE-----\n");
    }
    pem
}

/// Why a key is not known to be a certificate's; the words show nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// It is not, or is no key.
    Wrong(String),
    /// Keys of the certificate's kind are not known to our TLS library, though others may know them.
    UnknownKind,
}

/// Whether a key is a certificate's.
///
/// # Errors
///
/// When it is not, is no key, or cannot be judged.
pub fn key_matches(certificate: &Certificate, key_pem: &[u8]) -> Result<(), KeyFault> {
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| KeyFault::Wrong(format!("it is no PEM of a private key: {error}")))?;
    CertifiedKey::from_der(vec![certificate.der.clone()], key, &default_provider())
        .map(drop)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                KeyFault::Wrong("it is the key of another certificate".to_owned())
            }
            _ if !has_known_key(certificate) => KeyFault::UnknownKind,
            other => KeyFault::Wrong(format!("it is of no use: {other}")),
        })
}

/// Whether a certificate is for a key of a kind that our TLS library can have itself: RSA of 2048 to
/// 4096 bits, P-256, P-384 or Ed25519.
fn has_known_key(certificate: &Certificate) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(&certificate.der) else { return true };
    let info = parsed.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=4096).contains(&key.key_size()),
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        _ => info.algorithm.algorithm == OID_SIG_ED25519,
    }
}

/// Those that a chain may end in.
struct Roots {
    store: RootCertStore,
    /// The same: who presents one of these is trusted, whatever else it is. A certificate that signed
    /// itself is one for most who make it so, and a CA as well.
    pinned: Vec<CertificateDer<'static>>,
}

/// One that is odd in a bundle is passed over, as by TLS clients.
fn trusted(certificates: &[Certificate]) -> Result<Roots, String> {
    let mut store = RootCertStore::empty();
    let mut problem = "there is no CA".to_owned();
    for certificate in certificates {
        if let Err(error) = store.add(certificate.der.clone()) {
            problem = format!("the CA {} cannot be used: {error}", certificate.subject);
        }
    }
    if store.is_empty() {
        return Err(problem);
    }
    let pinned = certificates.iter().map(|it| it.der.clone()).collect();
    Ok(Roots { store, pinned })
}

/// What judges a server's certificate for requests: the CA alone, as [`Chain::check_name`],
/// [`Chain::check_trust`] and [`Chain::check_time_to`] do.
///
/// # Errors
///
/// When none of the CA's certificates is of use, in words.
pub fn verifier(ca: &[Certificate]) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Roots { store, pinned } = trusted(ca)?;
    let usual =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::new(default_provider()));
    let usual = usual.build().map_err(|error| format!("the CA is of no use: {error}"))?;
    Ok(Arc::new(Verifier { usual, pinned }))
}

/// Takes what is pinned, and else leaves it to the usual rules.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.pinned.iter().any(|it| it.as_ref() == end_entity.as_ref()) {
            return self.usual.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        let invalid = rustls::Error::InvalidCertificate;
        let certificate = Certificate::parse(end_entity.clone().into_owned())
            .map_err(|_said| invalid(rustls::CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(now).unwrap_or(Timestamp::MAX);
        if certificate.not_after < now {
            return Err(invalid(Expired));
        }
        if certificate.not_before > now {
            return Err(invalid(NotValidYet));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

impl Chain {
    /// Certificates in the order in which a server presents them, its own first. `None`: there are none.
    pub fn new(certificates: Vec<Certificate>) -> Option<Self> {
        let mut certificates = certificates.into_iter();
        let leaf = certificates.next()?;
        Some(Self { leaf, others: certificates.collect() })
    }

    /// The server's own certificate.
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Whether the certificate is for a host, a DNS name or an address, as TLS clients see it: the
    /// subject's common name does not count, and an address needs an entry of its own kind.
    ///
    /// # Errors
    ///
    /// What it is for instead, in words.
    pub fn check_name(&self, host: &str) -> Result<(), String> {
        // As it stands in a URL.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_invalid| format!("{host:?} is no name of a server"))?;
        let parsed = ParsedCertificate::try_from(&self.leaf.der)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        verify_server_name(&parsed, &name).map_err(|_differs| {
            let has_as_name = self.leaf.dns_names.iter().any(|name| name == host);
            if has_as_name && host.parse::<IpAddr>().is_ok() {
                format!("it has {host} as a DNS name, which clients do not take for the address")
            } else {
                format!("it is for {}, not for {host}", self.leaf.names())
            }
        })
    }

    /// Whether one of the roots signed it, with the certificates between them, whatever the time is; or
    /// is the certificate itself.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn check_trust(&self, roots: &[Certificate]) -> Result<(), String> {
        self.verify_at_some_time(&trusted(roots)?, &[]).map_err(|error| match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                let roots: Vec<&str> = roots.iter().map(|root| root.subject.as_str()).collect();
                format!(
                    "{} was signed by {}, and not by the CA ({})",
                    self.leaf.subject,
                    self.leaf.issuer,
                    roots.join("; ")
                )
            }
            other => other.to_string(),
        })
    }

    /// Whether the chain ends among these in one that nobody else has signed. Some clients, such as
    /// OpenSSL's, take no other end, though they are given one; what else they are given may be between.
    pub fn ends_in_root(&self, given: &[Certificate]) -> bool {
        let (roots, between): (Vec<_>, Vec<_>) =
            given.iter().cloned().partition(Certificate::is_self_issued);
        let roots = trusted(&roots);
        roots.is_ok_and(|roots| self.verify_at_some_time(&roots, &between).is_ok())
    }

    /// At a time at which all that it takes has begun: whether it is over is asked elsewhere.
    fn verify_at_some_time(
        &self,
        roots: &Roots,
        between: &[Certificate],
    ) -> Result<(), rustls::Error> {
        let first = self.leaf.not_before;
        let verified = self.verify(roots, between, first);
        let begins = self.others.iter().chain(between).map(|it| it.not_before);
        let mut begins = begins.filter(|begin| *begin > first);
        if verified.is_ok() || begins.any(|begin| self.verify(roots, between, begin).is_ok()) {
            return Ok(());
        }
        verified
    }

    /// As TLS clients do, but for the name.
    fn verify(
        &self,
        roots: &Roots,
        between: &[Certificate],
        at: Timestamp,
    ) -> Result<(), rustls::Error> {
        if roots.pinned.contains(&self.leaf.der) {
            return self.leaf.is_in_time(at).map_err(|_said| {
                let expired = self.leaf.not_after < at;
                let error = if expired { Expired } else { NotValidYet };
                rustls::Error::InvalidCertificate(error)
            });
        }
        let parsed = ParsedCertificate::try_from(&self.leaf.der)?;
        let others: Vec<CertificateDer<'static>> =
            self.others.iter().chain(between).map(|it| it.der.clone()).collect();
        let at = Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default());
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots.store,
            &others,
            UnixTime::since_unix_epoch(at),
            default_provider().signature_verification_algorithms.all,
        )
    }

    /// Until when all of it is valid.
    ///
    /// # Errors
    ///
    /// Which certificate is not valid now, in words.
    pub fn check_time(&self, now: Timestamp) -> Result<Timestamp, String> {
        for it in self.all() {
            it.is_in_time(now)?;
        }
        Ok(self.all().map(|it| it.not_after).min().unwrap_or(now))
    }

    /// Until when it is valid for who trusts the roots: what is presented and not needed may be over.
    /// Where they do not trust it, all of it counts.
    ///
    /// # Errors
    ///
    /// Which certificate is not valid now, in words.
    pub fn check_time_to(&self, roots: &[Certificate], now: Timestamp) -> Result<Validity, String> {
        self.leaf.is_in_time(now)?;
        let is_good = |roots: &Roots, at| self.verify(roots, &[], at).is_ok();
        let Some(roots) = trusted(roots).ok().filter(|roots| is_good(roots, now)) else {
            return Ok(Validity { until: self.check_time(now)?, needless: Vec::new() });
        };
        let ends = self.all().map(|it| it.not_after);
        let ends = ends.filter(|end| *end >= now && is_good(&roots, *end));
        let needless = self.others.iter().filter_map(|it| it.is_in_time(now).err()).collect();
        Ok(Validity { until: ends.max().unwrap_or(now), needless })
    }

    fn all(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, IsCa,
        KeyPair, date_time_ymd,
    };

    use rollcall_daemon::certificate::Standing;

    use super::*;

    const HOST: &str = "k8s.example.org";

    type Years = (i32, i32);

    fn params(name: &str, (from, until): Years, is_ca: bool) -> CertificateParams {
        let names = if is_ca { vec![] } else { vec![HOST.to_owned()] };
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 12, 31);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn key() -> KeyPair {
        KeyPair::generate().expect("a key")
    }

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn root(name: &str, years: Years) -> Issuer {
        CertifiedIssuer::self_signed(params(name, years, true), key()).expect("a root")
    }

    fn between(name: &str, years: Years, issuer: &Issuer) -> Issuer {
        CertifiedIssuer::signed_by(params(name, years, true), key(), issuer).expect("a CA")
    }

    fn of(der: &CertificateDer<'static>) -> Certificate {
        Certificate::parse(der.clone()).expect("a certificate")
    }

    fn leaf(years: Years, issuer: &Issuer) -> Certificate {
        let made = params("leaf", years, false).signed_by(&key(), issuer).expect("a certificate");
        of(made.der())
    }

    /// As openssl makes it: for a server, and a CA.
    fn of_itself(years: Years) -> Certificate {
        let mut params = params("itself", years, false);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        of(params.self_signed(&key()).expect("a certificate").der())
    }

    /// What no library makes a trust anchor of.
    fn odd() -> Certificate {
        let mut params = params("odd", (2020, 2090), true);
        // Constraints of names that are none.
        let constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![5, 0]);
        params.custom_extensions.push(constraints);
        of(params.self_signed(&key()).expect("a certificate").der())
    }

    fn chain(certificates: &[&Certificate]) -> Chain {
        let all = certificates.iter().map(|it| (*it).clone()).collect();
        Chain::new(all).expect("a chain")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn whom_to_trust() {
        let (ca, other) = (root("ca", (2020, 2090)), root("other", (2020, 2090)));
        let inner = between("inner", (2020, 2090), &ca);
        // Made anew with its key, after what it has signed.
        let later = root("later", (2028, 2090));
        let late = between("late", (2029, 2090), &later);
        let (direct, below) = (leaf((2025, 2030), &ca), leaf((2025, 2030), &inner));
        let below_late = leaf((2025, 2030), &late);
        let of_a_stranger = root("stranger", (2040, 2041));
        let own = of_itself((2025, 2030));
        let [ca, other, inner, later, late, stranger] =
            [&ca, &other, &inner, &later, &late, &of_a_stranger].map(|it| of(it.der()));
        let odd = odd();
        // What is presented, what is given, whether that vouches for it, and whether it ends in a root.
        for (what, presented, given, trusted, in_root) in [
            ("its CA", vec![&direct], vec![&ca], Ok(()), true),
            ("another", vec![&direct], vec![&other], Err("not by the CA (CN=other)"), false),
            ("one of two", vec![&direct], vec![&other, &ca], Ok(()), true),
            ("an odd one beside it", vec![&direct], vec![&odd, &ca], Ok(()), true),
            ("an odd one alone", vec![&direct], vec![&odd], Err("CN=odd cannot be used"), false),
            ("an intermediate", vec![&below, &inner], vec![&ca], Ok(()), true),
            ("one that is missing", vec![&below], vec![&ca], Err("not by the CA"), false),
            ("ended early", vec![&below, &inner], vec![&inner], Ok(()), false),
            ("both given", vec![&below], vec![&inner, &ca], Ok(()), true),
            ("begun later", vec![&below_late, &late], vec![&later], Ok(()), true),
            ("begun after it all", vec![&direct, &stranger], vec![&ca], Ok(()), true),
            ("itself, and a CA", vec![&own], vec![&own], Ok(()), true),
            ("itself, and no CA", vec![&direct], vec![&direct], Ok(()), false),
            ("nothing", vec![&direct], vec![], Err("there is no CA"), false),
        ] {
            let given: Vec<Certificate> = given.into_iter().cloned().collect();
            let chain = chain(&presented);
            match (chain.check_trust(&given), trusted) {
                (Ok(()), Ok(())) => {}
                (Err(said), Err(words)) => assert!(said.contains(words), "{what}: {said}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
            assert_eq!(chain.ends_in_root(&given), in_root, "{what}");
        }
    }

    #[test]
    fn until_when() {
        let now = at("2027-06-01T00:00:00Z");
        let ca = root("ca", (2020, 2090));
        let (inner, short) =
            (between("inner", (2020, 2040), &ca), between("short", (2020, 2028), &ca));
        let over = between("over", (2020, 2021), &ca);
        let stranger = root("stranger", (2020, 2021));
        let direct = leaf((2025, 2030), &ca);
        let (below, below_short) = (leaf((2025, 2030), &inner), leaf((2025, 2030), &short));
        let below_over = leaf((2025, 2030), &over);
        let (expired, not_yet) = (leaf((2020, 2021), &ca), leaf((2028, 2030), &ca));
        let own = of_itself((2025, 2030));
        let [ca, inner, short, over, stranger] =
            [&ca, &inner, &short, &over, &stranger].map(|it| of(it.der()));
        for (what, presented, given, expected) in [
            ("its own end", vec![&below, &inner], &ca, Ok(("2030-12-31", 0))),
            ("that of its CA", vec![&below_short, &short], &ca, Ok(("2028-12-31", 0))),
            ("one that nobody needs", vec![&direct, &stranger], &ca, Ok(("2030-12-31", 1))),
            ("one that is needed", vec![&below_over, &over], &ca, Err("CN=over expired at 2021")),
            ("expired", vec![&expired], &ca, Err("CN=leaf expired at 2021-12-31")),
            ("not begun", vec![&not_yet], &ca, Err("CN=leaf is not valid before 2028-01-01")),
            ("itself", vec![&own], &own, Ok(("2030-12-31", 0))),
            ("not trusted", vec![&direct], &stranger, Ok(("2030-12-31", 0))),
            ("not trusted at all", vec![&direct, &over], &stranger, Err("CN=over expired")),
        ] {
            let given = std::slice::from_ref(given);
            match (chain(&presented).check_time_to(given, now), expected) {
                (Ok(found), Ok((until, needless))) => {
                    assert!(found.until.to_string().starts_with(until), "{what}: {found:?}");
                    assert_eq!(found.needless.len(), needless, "{what}: {found:?}");
                }
                (Err(said), Err(words)) => assert!(said.contains(words), "{what}: {said}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn how_a_certificate_stands() {
        let long = leaf((2025, 2026), &root("ca", (2020, 2090)));
        let day = of(&{
            let mut params = params("a day", (2025, 2025), false);
            params.not_before = date_time_ymd(2025, 1, 1);
            params.not_after = date_time_ymd(2025, 1, 2);
            params.self_signed(&key()).expect("a certificate").der().clone()
        });
        for (what, certificate, now, expected) in [
            ("before", &long, "2024-12-31T23:59:59Z", Standing::NotYetValid),
            ("its first second", &long, "2025-01-01T00:00:00Z", Standing::Good),
            ("14 days left", &long, "2026-12-17T00:00:00Z", Standing::Good),
            ("less", &long, "2026-12-17T00:00:01Z", Standing::EndsSoon),
            ("its last second", &long, "2026-12-31T00:00:00Z", Standing::EndsSoon),
            ("after", &long, "2026-12-31T00:00:01Z", Standing::Expired),
            ("a day's, a third left", &day, "2025-01-01T16:01:00Z", Standing::Good),
            ("a day's, a sixth left", &day, "2025-01-01T20:00:00Z", Standing::Good),
            ("a day's, less", &day, "2025-01-01T20:00:01Z", Standing::EndsSoon),
        ] {
            let found = certificate.standing(at(now));
            assert_eq!(found, expected, "{what}");
            assert_eq!(found.is_valid(), certificate.is_in_time(at(now)).is_ok(), "{what}");
        }
    }

    #[test]
    fn without_an_end() {
        let ca = root("ca", (2020, 9999));
        let for_ever = leaf((2020, 9999), &ca);
        assert_eq!(for_ever.not_after.as_second(), Timestamp::MAX.as_second());
        let found = chain(&[&for_ever]).check_time_to(&[of(ca.der())], at("2027-06-01T00:00:00Z"));
        assert_eq!(found.expect("valid").until, for_ever.not_after);
    }

    #[test]
    fn keys() {
        let (own, other) = (key(), key());
        let made = params("leaf", (2020, 2090), false).self_signed(&own).expect("a certificate");
        for (what, text, expected) in [
            ("its own", own.serialize_pem(), None),
            ("another's", other.serialize_pem(), Some("the key of another certificate")),
            ("no key", "nonsense".to_owned(), Some("no PEM of a private key")),
        ] {
            let found =
                key_matches(&of(made.der()), text.as_bytes()).err().map(|it| format!("{it:?}"));
            let is_expected = match (&found, expected) {
                (Some(said), Some(words)) => said.contains(words),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{what}: {found:?}");
        }
    }

    /// For requests the rules are those of the checks.
    #[test]
    fn requests() {
        let ca = root("ca", (2020, 2090));
        let (direct, own, gone) =
            (leaf((2025, 2030), &ca), of_itself((2025, 2030)), of_itself((2020, 2021)));
        let ca = of(ca.der());
        let now = at("2027-06-01T00:00:00Z").as_second();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        let odd = odd();
        for (what, presented, given, host, expected) in [
            ("its CA", &direct, vec![&odd, &ca], HOST, true),
            ("another name", &direct, vec![&ca], "other.example.org", false),
            ("itself", &own, vec![&own], HOST, true),
            ("itself, another name", &own, vec![&own], "other.example.org", false),
            ("itself, expired", &gone, vec![&gone], HOST, false),
            ("another of itself", &own, vec![&gone], HOST, false),
        ] {
            let given: Vec<Certificate> = given.into_iter().cloned().collect();
            let verifier = verifier(&given).expect("a verifier");
            let name = ServerName::try_from(host).expect("a name");
            let found = verifier.verify_server_cert(&presented.der, &[], &name, &[], now);
            assert_eq!(found.is_ok(), expected, "{what}: {found:?}");
        }
        let error = verifier(&[odd]).map(drop).expect_err("of no use");
        assert!(error.contains("CN=odd cannot be used"), "{error}");
    }
}
