//! A certificate authority of a site, whose certificates are valid when a test wants them to be.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key; PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For years.
    Now,
    /// From now on, and not for long.
    For(Duration),
    /// It was.
    Expired,
    /// It will be.
    NotYet,
}

/// Who shows a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A server of that name.
    Server,
    /// A client: the node of that name.
    Node,
}

impl Authority {
    /// Makes one that lasts.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a certificate.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn issue(&self, role: Role, name: &str, validity: Validity) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![match role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Node => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let (from, until) = match validity {
            Validity::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2100, 1, 1)),
            Validity::For(time) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let end = now.expect("it is later than 1970") + time;
                (date_time_ymd(2020, 1, 1), date_time_ymd(1970, 1, 1) + end)
            }
            Validity::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Validity::NotYet => (date_time_ymd(2090, 1, 1), date_time_ymd(2100, 1, 1)),
        };
        (params.not_before, params.not_after) = (from, until);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}
