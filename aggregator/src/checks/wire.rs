//! What a service answers on the wire: the certificates that it presents, and its replies to a request.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use rollcall_daemon::http::{Connection, install_crypto_provider, is_confidential, read_bounded};
use rollcall_daemon::secret::Secret;
use rollcall_report::error_chain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::certificates::{Certificate, Chain, verifier};

/// More than any reply that is looked at.
const MAX_REPLY_BYTES: usize = 1024 * 1024;

/// What a TLS server presents, whoever signed it and whomever it is for: that is judged elsewhere.
/// Nothing but the handshake is sent, and nobody is believed.
///
/// # Errors
///
/// What was tried and what came back, in words.
pub async fn presented(host: &str, port: u16) -> Result<Chain, String> {
    install_crypto_provider();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_invalid| format!("{host:?} is no name of a server"))?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("no connection to {host} port {port}: {error}"))?;
    let onlooker = Arc::new(Onlooker::default());
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Onlooker>::clone(&onlooker))
        .with_no_client_auth();
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let seen = std::mem::take(&mut *onlooker.seen.lock().unwrap_or_else(PoisonError::into_inner));
    // One that wants our certificate has shown its own before.
    if let (Err(error), true) = (&shaken, seen.is_empty()) {
        return Err(format!("no TLS with {host} port {port}: {}", tls_words(error)));
    }
    let certificates = seen.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>();
    let certificates = certificates
        .map_err(|said| format!("{host} port {port} presents a broken certificate: {said}"))?;
    Chain::new(certificates).ok_or_else(|| format!("{host} port {port} presents no certificate"))
}

fn tls_words(error: &io::Error) -> String {
    match error.get_ref() {
        Some(inner) => inner.to_string(),
        None => error.to_string(),
    }
}

/// Looks at certificates, and refuses none.
#[derive(Debug, Default)]
struct Onlooker {
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = std::iter::once(end_entity).chain(intermediates);
        let presented = presented.map(|it| it.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = presented;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The way to a service, as a stranger has it: with a CA, and with nothing else of ours. Straight to
/// it, as [`presented`]: a proxy of this machine's environment is not the stranger's, and what is sent is
/// none of its business.
#[derive(Debug, Clone)]
pub struct Wire {
    http: reqwest::Client,
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `None`: it is none.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Wire {
    /// Prepares to ask a service; connects to nothing yet. With a CA that one alone is trusted, else the
    /// system's.
    ///
    /// # Errors
    ///
    /// What is of no use, in words.
    pub fn new(url: &Url, ca: Option<&[Certificate]>) -> Result<Self, String> {
        Self::reached_at(url, ca, &[])
    }

    /// The same, but the host of the URL is looked for at these addresses, if there are any: it is
    /// still asked by its name, and its certificate must be for that. The URL's port counts.
    ///
    /// # Errors
    ///
    /// What is of no use, in words.
    pub fn reached_at(
        url: &Url,
        ca: Option<&[Certificate]>,
        addresses: &[SocketAddr],
    ) -> Result<Self, String> {
        let connection = Connection { ca_file: None, client_certificate: None, proxy: None };
        let builder = connection.client_builder(url).map_err(|error| error_chain(&error))?;
        let mut builder = builder.no_proxy();
        if let Some(ca) = ca {
            let config = ClientConfig::builder()
                .dangerous()
                .with_custom_certificate_verifier(verifier(ca)?)
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(config);
        }
        if let (Some(host), false) = (url.domain(), addresses.is_empty()) {
            builder = builder.resolve_to_addrs(host, addresses);
        }
        let http = builder.build();
        let http = http.map_err(|error| format!("no HTTP client: {}", error_chain(&error)))?;
        Ok(Self { http })
    }

    /// Asks for a path, with a token or without.
    ///
    /// # Errors
    ///
    /// What was asked and what came back instead of a reply, in words.
    pub async fn get(&self, url: &Url, token: Option<&Secret>) -> Result<Answer, String> {
        self.send(Request::new(Method::GET, url.clone()), token).await
    }

    /// Sends JSON: for reviews, which change nothing.
    ///
    /// # Errors
    ///
    /// What was asked and what came back instead of a reply, in words.
    pub async fn post(
        &self,
        url: &Url,
        token: Option<&Secret>,
        body: &Value,
    ) -> Result<Answer, String> {
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.to_string().into());
        self.send(request, token).await
    }

    async fn send(&self, mut request: Request, token: Option<&Secret>) -> Result<Answer, String> {
        // A query may hold a signature, which opens as much as a password for a while.
        let mut place = request.url().clone();
        place.set_query(None);
        let asked = format!("{} {place}", request.method());
        if let Some(token) = token {
            if !is_confidential(request.url()) {
                return Err(format!(
                    "{asked}: not tried, for the token would go over plain HTTP to another machine"
                ));
            }
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_not_shown| {
                format!("{asked}: not tried, for the token holds characters that no header can")
            })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.http.execute(request).await;
        let response = response.map_err(|error| {
            // The URL stands in the message already, and the library's own words say less than their
            // causes.
            let error = error.without_url();
            let cause = error.source().map_or_else(|| error.to_string(), error_chain);
            format!("{asked}: no reply: {cause}")
        })?;
        let status = response.status().as_u16();
        let body = read_bounded(response, MAX_REPLY_BYTES).await.map_err(|error| {
            format!("{asked}: status {status}, but no whole reply: {}", error_chain(&error))
        })?;
        Ok(Answer { status, body })
    }
}
