//! Outgoing HTTP: one TLS stack with one crypto provider, no redirects, bounded replies.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use url::{Host, Url};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Installs the process-wide crypto provider. A second call changes nothing.
pub fn install_crypto_provider() {
    // It fails only when one is installed already, and the tree holds no other.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// How a service is reached, besides by its URL.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection<'a> {
    /// The only CA that is trusted; the system's if left out.
    pub ca_file: Option<&'a Path>,
    /// What the service knows us by.
    pub client_certificate: Option<ClientCertificate<'a>>,
    /// The proxy for everything but what `NO_PROXY` names; those of the environment if left out.
    pub proxy: Option<&'a Url>,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, Copy)]
pub struct ClientCertificate<'a> {
    /// The certificate, and those between it and its CA; PEM.
    pub cert_file: &'a Path,
    /// Its private key, PEM.
    pub key_file: &'a Path,
}

/// A client's builder for a service with a CA of its own, if any: [`Connection::client_builder`].
///
/// # Errors
///
/// When the CA file cannot be read or holds no certificate.
pub fn client_builder(
    url: &Url,
    ca_file: Option<&Path>,
) -> Result<reqwest::ClientBuilder, ClientError> {
    Connection { ca_file, ..Connection::default() }.client_builder(url)
}

impl Connection<'_> {
    /// A client's builder with what all of ours share. Redirects are not followed: a registration
    /// that lands at another address than the one written down is no registration.
    ///
    /// The client is for `url` alone: with plain HTTP to this machine no proxy is used, for what it
    /// carries must not leave the machine. With a CA file that CA alone is trusted, else the
    /// system's; plain HTTP needs none, and a machine may have none.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or holds not what it should, or the proxy's URL is none.
    pub fn client_builder(self, url: &Url) -> Result<reqwest::ClientBuilder, ClientError> {
        install_crypto_provider();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")));
        if url.scheme() == "http" && is_confidential(url) {
            builder = builder.no_proxy();
        } else if let Some(proxy) = self.proxy {
            let proxy = reqwest::Proxy::all(proxy.clone())
                .map_err(|source| ClientError::Proxy { source: source.without_url() })?;
            builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_env()));
        }
        if let Some(certificate) = self.client_certificate {
            builder = builder.identity(certificate.read()?);
        }
        let Some(path) = self.ca_file else {
            // An https proxy has a certificate, too.
            let needs_none = url.scheme() == "http" && self.proxy.is_none();
            return Ok(if needs_none { builder.tls_certs_only([]) } else { builder });
        };
        let pem = fs::read(path)
            .map_err(|source| ClientError::CaUnreadable { path: path.to_owned(), source })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|source| ClientError::CaInvalid { path: path.to_owned(), source })?;
        if certificates.is_empty() {
            return Err(ClientError::CaEmpty { path: path.to_owned() });
        }
        Ok(builder.tls_certs_only(certificates))
    }
}

impl ClientCertificate<'_> {
    /// Reads both files. What is wrong with either is found here, where its path can be told.
    fn read(self) -> Result<reqwest::Identity, ClientError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| ClientError::ClientCertificateUnreadable {
                path: path.to_owned(),
                source,
            })
        };
        let (mut cert, key) = (read(self.cert_file)?, read(self.key_file)?);
        let chain = CertificateDer::pem_slice_iter(&cert)
            .collect::<Result<Vec<_>, _>>()
            .and_then(
                |chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) },
            )
            .map_err(|source| ClientError::ClientCertificateInvalid {
                path: self.cert_file.to_owned(),
                source,
            })?;
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(|source| {
            ClientError::ClientKeyInvalid { path: self.key_file.to_owned(), source }
        })?;
        CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider())
            .map_err(|source| self.unpaired(Box::new(source)))?;
        // A kubelet's are in one file.
        if self.cert_file != self.key_file {
            cert.push(b'\n');
            cert.extend(key);
        }
        reqwest::Identity::from_pem(&cert).map_err(|source| self.unpaired(Box::new(source)))
    }

    fn unpaired(self, source: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
        let (cert, key) = (self.cert_file.to_owned(), self.key_file.to_owned());
        ClientError::ClientPair { cert, key, source }
    }
}

/// An error of a request and all behind it. `std::io::Error` itself passes over what it wraps.
pub fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => (*error).source(),
        }
    })
}

/// The TLS library's error behind one of a request.
pub fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Whether what is sent there stays between the two ends: HTTPS, or HTTP that never leaves this
/// machine.
pub fn is_confidential(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            // Resolvers must answer loopback for it (RFC 6761, 6.3).
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
}

/// Checks that a URL is one that a service can be reached at. The error shows nothing of the URL,
/// which may hold a password.
///
/// # Errors
///
/// When it is not HTTP or HTTPS with a host, or holds a user, a password, a query or a fragment.
pub fn check_service_url(url: &Url) -> Result<(), InvalidServiceUrl> {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        Err(InvalidServiceUrl::NotHttp)
    } else if !url.username().is_empty() || url.password().is_some() {
        Err(InvalidServiceUrl::Credentials)
    } else if url.query().is_some() || url.fragment().is_some() {
        Err(InvalidServiceUrl::Query)
    } else {
        Ok(())
    }
}

/// A path below a service's URL, whether or not that ends with a slash.
#[must_use]
pub fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // Only a URL that cannot be a base has no segments; HTTP's always can.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// A URL that no service can be reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidServiceUrl {
    /// Another scheme, or no host.
    #[error("must be a URL that begins with http:// or https://")]
    NotHttp,
    /// A user or a password in it.
    #[error("must not hold a user or a password")]
    Credentials,
    /// A query or a fragment in it.
    #[error("must not hold a query or a fragment")]
    Query,
}

/// Reads a reply's body, at most `limit` bytes of it.
///
/// # Errors
///
/// When the body is longer, or the connection breaks.
pub async fn read_bounded(response: reqwest::Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let body = reqwest::Body::from(response);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { limit }),
        Err(source) => Err(BodyError::Broken { source }),
    }
}

/// Why no client could be built.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The CA file cannot be read.
    #[error("CA file {} cannot be read", path.display())]
    CaUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The CA file is no PEM.
    #[error("CA file {} holds no valid PEM certificates", path.display())]
    CaInvalid {
        /// The file.
        path: PathBuf,
        /// What the TLS library said.
        source: reqwest::Error,
    },
    /// The CA file holds no certificate.
    #[error("CA file {} holds no certificate", path.display())]
    CaEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The client certificate's or its key's file cannot be read.
    #[error("client certificate or key file {} cannot be read", path.display())]
    ClientCertificateUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The client certificate's file holds none.
    #[error("client certificate file {} holds no valid PEM certificate", path.display())]
    ClientCertificateInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The client's key file holds none.
    #[error("client key file {} holds no PEM private key that needs no password", path.display())]
    ClientKeyInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Certificate and key do not belong together.
    #[error(
        "client certificate {} and key {} cannot be used together: is the key the certificate's own?",
        cert.display(),
        key.display()
    )]
    ClientPair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The proxy's URL is none.
    #[error("the proxy cannot be used")]
    Proxy {
        /// What the HTTP library said.
        source: reqwest::Error,
    },
}

impl ClientError {
    /// Whether it is our own certificate or its key that is of no use.
    pub const fn is_client_certificate(&self) -> bool {
        match self {
            Self::ClientCertificateUnreadable { .. }
            | Self::ClientCertificateInvalid { .. }
            | Self::ClientKeyInvalid { .. }
            | Self::ClientPair { .. } => true,
            Self::CaUnreadable { .. }
            | Self::CaInvalid { .. }
            | Self::CaEmpty { .. }
            | Self::Proxy { .. } => false,
        }
    }
}

/// Why a reply's body could not be read.
#[derive(Debug, Error)]
pub enum BodyError {
    /// More than we are ready to hold.
    #[error("the reply is longer than {limit} bytes")]
    TooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// The connection broke.
    #[error("the reply broke off")]
    Broken {
        /// What the HTTP library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confidential() {
        for (url, why, expected) in [
            ("https://example.org/", "TLS", true),
            ("http://127.0.0.1:7655/", "loopback", true),
            ("http://127.8.9.1/", "all of 127/8 is loopback", true),
            ("http://[::1]:1/", "loopback", true),
            ("http://localhost:1/", "loopback by name", true),
            ("http://example.org/", "plain, elsewhere", false),
            ("http://localhost.example.org/", "another machine's name", false),
            ("http://10.0.0.1/", "plain, elsewhere", false),
        ] {
            let parsed = Url::parse(url).expect("a URL");
            assert_eq!(is_confidential(&parsed), expected, "{url}: {why}");
        }
    }

    #[test]
    fn paths_below_a_url() {
        for (base, expected) in [
            ("https://a.example", "https://a.example/v1/x%2Fy"),
            ("https://a.example/", "https://a.example/v1/x%2Fy"),
            ("https://a.example/roll", "https://a.example/roll/v1/x%2Fy"),
            ("https://a.example/roll/", "https://a.example/roll/v1/x%2Fy"),
        ] {
            let base = Url::parse(base).expect("a URL");
            assert_eq!(below(&base, &["v1", "x/y"]).as_str(), expected);
        }
    }

    #[test]
    fn ca_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let url = Url::parse("https://example.org").expect("a URL");
        let missing = client_builder(&url, Some(&path)).expect_err("missing").to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        fs::write(&path, "no certificate").expect("written");
        let empty = client_builder(&url, Some(&path)).expect_err("empty").to_string();
        assert!(empty.contains("holds no"), "{empty}");
    }
}
