//! Outgoing HTTP: one TLS stack with one crypto provider, no redirects, bounded replies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use thiserror::Error;
use url::{Host, Url};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Installs the process-wide crypto provider. A second call changes nothing.
pub fn install_crypto_provider() {
    // It fails only when one is installed already, and the tree holds no other.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// A client's builder with what all of ours share. Redirects are not followed: a registration that
/// lands at another address than the one written down is no registration.
///
/// The client is for `url` alone: with plain HTTP to this machine no proxy of the environment is
/// used, for what it carries must not leave the machine. With `ca_file` that CA alone is trusted,
/// else the system's; plain HTTP needs none, and a machine may have none.
///
/// # Errors
///
/// When the CA file cannot be read or holds no certificate.
pub fn client_builder(
    url: &Url,
    ca_file: Option<&Path>,
) -> Result<reqwest::ClientBuilder, ClientError> {
    install_crypto_provider();
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")));
    if url.scheme() == "http" && is_confidential(url) {
        builder = builder.no_proxy();
    }
    let Some(path) = ca_file else {
        let needs_none = url.scheme() == "http";
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
