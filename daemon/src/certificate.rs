//! X.509 certificates: whom they are for, and until when.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// How long before its end a certificate is to be replaced.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate itself.
    pub der: CertificateDer<'static>,
    /// Whom it is for, as its subject says: for messages alone.
    pub subject: String,
    /// The common names of its subject.
    pub common_names: Vec<String>,
    /// The organizations of its subject.
    pub organizations: Vec<String>,
    /// Who signed it, as it says itself.
    pub issuer: String,
    /// The DNS names that it is for; one may begin with `*.`.
    pub dns_names: Vec<String>,
    /// The addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Whether servers may use it.
    pub for_servers: bool,
    /// Whether clients may use it.
    pub for_clients: bool,
}

/// How a certificate stands at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is valid.
    Good,
    /// It is valid, and has less than 14 days left, or less than a sixth of its time.
    EndsSoon,
    /// It has expired.
    Expired,
    /// It has not begun.
    NotYetValid,
}

impl Standing {
    /// Whether it is valid.
    pub const fn is_valid(self) -> bool {
        matches!(self, Self::Good | Self::EndsSoon)
    }
}

/// Why a text holds no certificates.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// It is no PEM.
    #[error("it is no PEM of certificates")]
    Pem {
        /// What the library said.
        source: rustls::pki_types::pem::Error,
    },
    /// There is none in it.
    #[error("it holds no certificate: a PEM begins with -----BEGIN CERTIFICATE-----")]
    Empty,
    /// One of them is none.
    #[error("its certificate {number} cannot be read: {said}")]
    Invalid {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        said: String,
    },
}

/// All certificates of a PEM, at least one. What else is in it, such as a key, is passed over.
///
/// # Errors
///
/// When there is none, or one cannot be read.
pub fn from_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let ders = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let ders = ders.map_err(|source| CertificateError::Pem { source })?;
    if ders.is_empty() {
        return Err(CertificateError::Empty);
    }
    let parsed = ders.into_iter().enumerate().map(|(index, der)| {
        Certificate::parse(der)
            .map_err(|said| CertificateError::Invalid { number: index + 1, said })
    });
    parsed.collect()
}

impl Certificate {
    /// Parses a certificate.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(der: CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
        for name in names {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        let usages = parsed.extended_key_usage().map_err(|error| error.to_string())?;
        // Without the extension it is for everything.
        let usages = usages.map(|usages| usages.value);
        Ok(Self {
            for_servers: usages.is_none_or(|it| it.server_auth || it.any),
            for_clients: usages.is_none_or(|it| it.client_auth || it.any),
            subject: parsed.subject().to_string(),
            common_names: texts(parsed.subject().iter_common_name()),
            organizations: texts(parsed.subject().iter_organization()),
            issuer: parsed.issuer().to_string(),
            dns_names,
            addresses,
            not_before: timestamp(parsed.validity().not_before.timestamp())?,
            not_after: timestamp(parsed.validity().not_after.timestamp())?,
            is_ca: parsed.is_ca(),
            der,
        })
    }

    /// Whether it says that nobody else has signed it.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether it is valid at a time.
    ///
    /// # Errors
    ///
    /// Since when or until when it is not, in words.
    pub fn is_in_time(&self, at: Timestamp) -> Result<(), String> {
        if self.not_after < at {
            return Err(format!("{} expired at {}", self.subject, self.not_after));
        }
        if self.not_before > at {
            return Err(format!("{} is not valid before {}", self.subject, self.not_before));
        }
        Ok(())
    }

    /// How it stands at a time.
    pub fn standing(&self, at: Timestamp) -> Standing {
        if self.not_after < at {
            return Standing::Expired;
        }
        if self.not_before > at {
            return Standing::NotYetValid;
        }
        // One that is made for a day is renewed every day, and at two thirds of its time by most who do
        // that by themselves: what is left of the last third is for their failing.
        let sixth = self.not_after.duration_since(self.not_before) / 6;
        if self.not_after.duration_since(at) < sixth.min(SOON) {
            return Standing::EndsSoon;
        }
        Standing::Good
    }

    /// The names and addresses that it is for, for messages.
    pub fn names(&self) -> String {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let names: Vec<String> = self.dns_names.iter().cloned().chain(addresses).collect();
        if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
    }
}

/// A time to the second, as certificates have it.
pub fn to_the_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn texts<'a, 'b: 'a>(values: impl Iterator<Item = &'a AttributeTypeAndValue<'b>>) -> Vec<String> {
    values.filter_map(|value| value.as_str().ok()).map(ToOwned::to_owned).collect()
}

/// RFC 5280 has a time for what never ends, which is later than the latest that is known here.
fn timestamp(seconds: i64) -> Result<Timestamp, String> {
    let seconds = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds).map_err(|error| error.to_string())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
