//! Connections to the intake, and one report over one.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rollcall_report::{REPORTS_PATH, Refusal, error_chain};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error as ThisError;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::options::Options;

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An intake, and how it is spoken to.
#[derive(Debug)]
pub(crate) struct Intake {
    address: SocketAddr,
    host: HeaderValue,
    authorization: HeaderValue,
    tls: Option<Arc<ClientConfig>>,
    resumes: bool,
    keeps: bool,
    timeout: Duration,
}

/// Why an intake cannot be spoken to at all.
#[derive(Debug, ThisError)]
pub(crate) enum IntakeError {
    /// The agents are made up, and are no business of anybody else's.
    #[error(
        "made-up agents report on this machine only, not to {address}: give an address of loopback"
    )]
    NotHere { address: SocketAddr },
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} holds no token", path.display())]
    NoToken { path: PathBuf },
    #[error("{} cannot be used as a CA", path.display())]
    Ca { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("{address} makes no header")]
    Host { address: SocketAddr },
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    Refused { code: String, words: String },
}

/// There was no answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub kind: &'static str,
    pub words: String,
}

impl Failed {
    fn new(kind: &'static str, error: &(dyn Error + 'static)) -> Self {
        Self { kind, words: error_chain(error) }
    }
}

/// What an agent keeps from one report to the next.
#[derive(Default)]
pub(crate) struct Line {
    connection: Option<SendRequest<Full<Bytes>>>,
    /// Its own, since it holds the last session.
    tls: Option<TlsConnector>,
    /// How many connections it has made.
    pub made: u64,
}

impl Intake {
    pub(crate) fn new(options: &Options) -> Result<Self, IntakeError> {
        let address = options.intake;
        if !address.ip().is_loopback() {
            return Err(IntakeError::NotHere { address });
        }
        let path = || options.token_file.clone();
        let token = fs::read_to_string(&options.token_file)
            .map_err(|source| IntakeError::Unreadable { path: path(), source })?;
        // A file of several has one a line; each will do.
        let token = token.lines().map(str::trim).find(|line| !line.is_empty());
        let token = token.ok_or_else(|| IntakeError::NoToken { path: path() })?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_unusable| IntakeError::NoToken { path: path() })?;
        authorization.set_sensitive(true);
        let tls = options.ca_file.as_ref().map(|path| {
            client_config(path).map_err(|source| IntakeError::Ca { path: path.clone(), source })
        });
        Ok(Self {
            address,
            host: HeaderValue::try_from(address.to_string())
                .map_err(|_unusable| IntakeError::Host { address })?,
            authorization,
            tls: tls.transpose()?,
            resumes: !options.no_resumption,
            keeps: !options.new_connections,
            timeout: options.timeout,
        })
    }

    /// Posts a report over an agent's connection, or a new one where there is none any more.
    pub(crate) async fn post(&self, line: &mut Line, report: Vec<u8>) -> Result<Answer, Failed> {
        let outcome = match timeout(self.timeout, self.exchange(line, report.into())).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(Failed::new("timeout", &elapsed)),
        };
        if outcome.is_err() || !self.keeps {
            line.connection = None;
        }
        outcome
    }

    async fn exchange(&self, line: &mut Line, report: Bytes) -> Result<Answer, Failed> {
        let broken = |error: hyper::Error| Failed::new("broken", &error);
        loop {
            let kept = match line.connection.take() {
                Some(mut kept) => kept.ready().await.ok().map(|()| kept),
                None => None,
            };
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(kept) => kept,
                None => self.connect(line).await?,
            };
            match connection.send_request(self.request(report.clone())).await {
                Ok(response) => {
                    let status = response.status();
                    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
                    let body = body.collect().await;
                    let body = body.map_err(|error| Failed::new("broken", &*error))?.to_bytes();
                    line.connection = Some(connection);
                    return Ok(judge(status, &body));
                }
                // The server closed it before the request went out: as agents do, once more.
                Err(error) if error.is_canceled() && was_kept => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    fn request(&self, report: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(report));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = hyper::Uri::from_static(REPORTS_PATH);
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !self.keeps {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }

    async fn connect(&self, line: &mut Line) -> Result<SendRequest<Full<Bytes>>, Failed> {
        line.made += 1;
        let refused = |error: std::io::Error| Failed::new("connect", &error);
        let stream = TcpStream::connect(self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let Some(config) = &self.tls else { return speak(stream).await };
        let connector = line.tls.get_or_insert_with(|| {
            let mut own = ClientConfig::clone(config);
            own.resumption = if self.resumes {
                Resumption::in_memory_sessions(1)
            } else {
                Resumption::disabled()
            };
            TlsConnector::from(Arc::new(own))
        });
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = connector.connect(name, stream).await;
        speak(stream.map_err(|error| Failed::new("tls", &error))?).await
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Failed>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| Failed::new("broken", &error);
    let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // How it ends is told by the request that is under way, if there is one.
    tokio::spawn(async move { drop(driver.await) });
    Ok(connection)
}

fn client_config(ca: &PathBuf) -> Result<Arc<ClientConfig>, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn judge(status: StatusCode, body: &[u8]) -> Answer {
    if status == StatusCode::OK {
        return Answer::Accepted;
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => {
            Answer::Refused { code: refusal.code.as_str().to_owned(), words: refusal.message }
        }
        Err(_) => Answer::Refused {
            code: status.as_str().to_owned(),
            words: String::from_utf8_lossy(body).chars().take(200).collect(),
        },
    }
}
