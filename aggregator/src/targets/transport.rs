//! The outgoing HTTP of a target: how its services are reached, what is sent along to be let in,
//! and how long it may take. The same for networks of every kind.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Request;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use rollcall_daemon::http::{
    BodyError, ClientError, Connection, is_confidential, read_bounded, tls_error,
};
use rollcall_daemon::secret::{Secret, SecretError, read_secret_file, read_token_file};
use rustls::AlertDescription;
use thiserror::Error;
use url::Url;

use crate::cluster_file::TransportSettings;

/// More than any entry: a thousand nodes of eight GPUs have less than a megabyte.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// The outgoing HTTP of one target to one of its services.
#[derive(Debug, Clone)]
pub struct Transport {
    http: reqwest::Client,
    url: Url,
    /// What is read from files and sent along with each request.
    credentials: Vec<Credential>,
    /// The values of `credentials` that were read last, and those before them: a reply may repeat
    /// a token that was replaced while it was under way.
    read: Arc<Mutex<VecDeque<Secret>>>,
    insecure_http: bool,
    has_client_certificate: bool,
    timeout: Duration,
}

/// A header whose value is read from a file.
#[derive(Debug, Clone)]
struct Credential {
    /// The key of the cluster file that asks for it.
    key: String,
    header: HeaderName,
    path: PathBuf,
    is_bearer_token: bool,
}

/// Why a target's transport could not be set up.
#[derive(Debug, Error)]
pub enum TransportError {
    /// A certificate, a key or the proxy is of no use.
    #[error("no connection to {url} can be made as the target's keys say")]
    Connection {
        /// The service.
        url: Box<Url>,
        /// What is of no use.
        source: ClientError,
    },
    /// The HTTP library refused.
    #[error("no HTTP client could be set up")]
    Http {
        /// What it said.
        source: reqwest::Error,
    },
}

impl Transport {
    /// Prepares to talk to a service; connects to nothing yet. Certificates are read now, tokens
    /// and headers for each request.
    ///
    /// # Errors
    ///
    /// When a certificate, a key or the proxy is of no use.
    pub fn new(settings: &TransportSettings, url: &Url) -> Result<Self, TransportError> {
        let connection = Connection {
            ca_file: settings.ca_file.as_deref(),
            client_certificate: settings.client_certificate(),
            proxy: settings.proxy.as_ref(),
        };
        let http = connection
            .client_builder(url)
            .map_err(|source| TransportError::Connection { url: Box::new(url.clone()), source })?
            // Submissions are rare: a kept connection would only go stale.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|source| TransportError::Http { source })?;
        let bearer_token = settings.bearer_token_file.iter().map(|path| Credential {
            key: "bearerTokenFile".to_owned(),
            header: AUTHORIZATION,
            path: path.clone(),
            is_bearer_token: true,
        });
        let headers = settings.header_files.iter().map(|(name, path)| Credential {
            key: format!("headerFiles, {name}"),
            header: name.clone(),
            path: path.clone(),
            is_bearer_token: false,
        });
        Ok(Self {
            http,
            url: url.clone(),
            credentials: bearer_token.chain(headers).collect(),
            read: Arc::default(),
            insecure_http: settings.insecure_http,
            has_client_certificate: settings.client_certificate().is_some(),
            timeout: settings.timeout,
        })
    }

    /// The service.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Sends a request with the target's headers, and reads status and body of the reply, whatever
    /// they say. Redirects are not followed.
    ///
    /// # Errors
    ///
    /// When there is nothing to let us in with, or no whole reply in time.
    pub async fn exchange(&self, mut request: Request) -> Result<(u16, Vec<u8>), ExchangeError> {
        self.add_credentials(&mut request)?;
        tokio::time::timeout(self.timeout, self.send(request))
            .await
            .unwrap_or(Err(ExchangeError::TimedOut { limit: self.timeout }))
    }

    /// What must not be shown of a reply: the values of the target's headers, as they were read
    /// last and before.
    pub fn secrets(&self) -> Vec<Secret> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn add_credentials(&self, request: &mut Request) -> Result<(), ExchangeError> {
        let Some(first) = self.credentials.first() else {
            return Ok(());
        };
        if request.url().origin() != self.url.origin() {
            let url = Box::new(request.url().clone());
            return Err(ExchangeError::Elsewhere { url, service: Box::new(self.url.clone()) });
        }
        if !self.insecure_http && !is_confidential(request.url()) {
            return Err(ExchangeError::PlainHttp { key: first.key.clone() });
        }
        for credential in &self.credentials {
            let secret = credential.read()?;
            let value = credential.value(&secret)?;
            self.remember(secret);
            request.headers_mut().insert(&credential.header, value);
        }
        Ok(())
    }

    fn remember(&self, secret: Secret) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|known| known.expose() != secret.expose());
        read.push_front(secret);
        // Each file's value, and the one before.
        read.truncate(2 * self.credentials.len());
    }

    async fn send(&self, request: Request) -> Result<(u16, Vec<u8>), ExchangeError> {
        let response = self.http.execute(request).await.map_err(|source| {
            // The URL stands in the message that this becomes part of.
            let source = source.without_url();
            match tls_trouble(&source, self.has_client_certificate) {
                Some(meaning) => ExchangeError::Tls { meaning, source },
                None => ExchangeError::Http { source },
            }
        })?;
        let status = response.status().as_u16();
        let body = read_bounded(response, MAX_REPLY_BYTES)
            .await
            .map_err(|source| ExchangeError::Body { status, source })?;
        Ok((status, body))
    }
}

impl Credential {
    fn read(&self) -> Result<Secret, ExchangeError> {
        let read: fn(&Path) -> _ =
            if self.is_bearer_token { read_token_file } else { read_secret_file };
        read(&self.path)
            .map_err(|source| ExchangeError::Credential { key: self.key.clone(), source })
    }

    fn value(&self, secret: &Secret) -> Result<HeaderValue, ExchangeError> {
        let value = if self.is_bearer_token {
            HeaderValue::try_from(format!("Bearer {}", secret.expose()))
        } else {
            HeaderValue::from_str(secret.expose())
        };
        let mut value = value.map_err(|_not_shown| ExchangeError::Characters {
            key: self.key.clone(),
            path: self.path.clone(),
        })?;
        // The HTTP library shows and compresses no such value.
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Why a request got no whole reply.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// A header's file is of no use.
    #[error("the target's {key}")]
    Credential {
        /// The key of the cluster file.
        key: String,
        /// What is wrong with the file.
        source: SecretError,
    },
    /// A header's file holds what no header can.
    #[error(
        "the target's {key}: file {} holds characters that cannot be sent in a header: it must be one line of ASCII",
        path.display()
    )]
    Characters {
        /// The key of the cluster file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A header would go over plain HTTP.
    #[error(
        "what the target's {key} holds would go over plain HTTP to another machine: use https, or set insecureHttp: true for this target"
    )]
    PlainHttp {
        /// The key of the cluster file.
        key: String,
    },
    /// The request is for another service than the one that the headers are for.
    #[error("the target's headers are for {service} alone, not for {url}")]
    Elsewhere {
        /// Where the request would go.
        url: Box<Url>,
        /// The service.
        service: Box<Url>,
    },
    /// It took too long.
    #[error(
        "no whole reply within {}: the target's timeout allows no more",
        humantime::format_duration(*limit)
    )]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
    /// Service and transport do not trust each other.
    #[error("{meaning}")]
    Tls {
        /// Who refused what, and what to do.
        meaning: &'static str,
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// No reply.
    #[error("no reply")]
    Http {
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// The reply broke off, or is too long.
    #[error("status {status}, but no whole reply")]
    Body {
        /// The status.
        status: u16,
        /// What went wrong.
        source: BodyError,
    },
}

impl ExchangeError {
    /// Whether the service has seen nothing of the request: it never left, for there is nothing to send
    /// it with, or nobody to take it.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Credential { .. }
            | Self::Characters { .. }
            | Self::PlainHttp { .. }
            | Self::Elsewhere { .. } => true,
            Self::Http { source } => source.is_connect(),
            Self::TimedOut { .. } | Self::Tls { .. } | Self::Body { .. } => false,
        }
    }
}

/// What a TLS error means for the target's keys.
fn tls_trouble(error: &reqwest::Error, has_client_certificate: bool) -> Option<&'static str> {
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(_) => Some(
            "the certificate of the service, or of an https proxy before it, is not accepted: caFile must hold the CA that signed it, and the URL must name a host that it was made for",
        ),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => Some(
                "the service demands a client certificate: clientCertFile and clientKeyFile tell ours",
            ),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
                if has_client_certificate =>
            {
                Some(
                    "the service does not accept our client certificate: clientCertFile must hold one that it knows, with the certificates between it and its CA",
                )
            }
            _ => None,
        },
        _ => None,
    }
}
