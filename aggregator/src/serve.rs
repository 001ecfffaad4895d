//! `serve`: puts the parts together and runs them until told to stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum_server::service::MakeService;
use axum_server::tls_rustls::RustlsConfig;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use jiff::Timestamp;
use rollcall_daemon::http::install_crypto_provider;
use rollcall_daemon::readiness::Readiness;
use rollcall_daemon::secret::{SecretError, read_secret_file, warn_if_exposed};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::admin::access::Access;
use crate::admin::views::NodesView;
use crate::aggregator::Aggregator;
use crate::cluster_file::{ClusterFile, ClusterFileError};
use crate::intake::authenticate::Authenticator;
use crate::metrics::Metrics;
use crate::onboarding::execute::Executor;
use crate::store::{OpenError, Store};
use crate::targets::aios;
use crate::targets::transport::TransportError;
use crate::tokens::{Tokens, WeakToken};
use crate::{admin, intake};

/// How long a client may take to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests that are under way may take when the aggregator stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the nodes are counted anew for `/metrics`.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// How often the times of unchanged reports are stored: rarely, for each is a write.
const SEEN_INTERVAL: Duration = Duration::from_mins(5);

/// How to serve.
#[derive(Debug)]
pub struct ServeConfig {
    /// The cluster file.
    pub cluster: PathBuf,
    /// The SQLite database.
    pub store: PathBuf,
    /// The join tokens.
    pub token_file: PathBuf,
    /// The operator's tokens.
    pub operator_token_file: Option<PathBuf>,
    /// The intake's certificate chain and key, PEM; plain HTTP without.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How often agents are to report.
    pub interval: Duration,
}

/// The two listeners, bound.
#[derive(Debug)]
pub struct Listeners {
    /// Where agents report.
    pub intake: TcpListener,
    /// Where metrics, probes and the operator's API are.
    pub admin: TcpListener,
}

/// Why the aggregator does not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The cluster file is of no use.
    #[error("the aggregator cannot start without its cluster file")]
    ClusterFile {
        /// What is wrong with it.
        source: ClusterFileError,
    },
    /// A token file is of no use.
    #[error("{flag} is of no use")]
    TokenFile {
        /// The flag that names it.
        flag: &'static str,
        /// What is wrong with it.
        source: SecretError,
    },
    /// A token is too short.
    #[error("{flag} {} holds a token that is too easy to guess", path.display())]
    WeakToken {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Which token.
        source: WeakToken,
    },
    /// A token opens both doors.
    #[error(
        "--token-file {} and --operator-token-file {} hold the same token: every agent could act as an operator; make another one with: openssl rand -hex 32", join.display(), operator.display()
    )]
    SharedToken {
        /// The join tokens.
        join: PathBuf,
        /// The operator's tokens.
        operator: PathBuf,
    },
    /// The certificate or its key cannot be read.
    #[error("{flag} {} cannot be used", path.display())]
    Pem {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate and its key do not go together.
    #[error("the certificate {} cannot be served with the key {}", cert.display(), key.display())]
    Certificate {
        /// The certificate chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The store is of no use.
    #[error("the aggregator cannot start without its store")]
    Store {
        /// What is wrong with it.
        source: OpenError,
    },
    /// A target cannot be set up.
    #[error("target {target} cannot be set up")]
    Target {
        /// The target's name.
        target: String,
        /// What is wrong.
        source: TransportError,
    },
    /// The metrics cannot be set up.
    #[error("the metrics cannot be set up")]
    Metrics {
        /// What is wrong.
        source: prometheus::Error,
    },
    /// Something that should run for ever has ended, which is a bug.
    #[error("the {part} has ended by itself: report this as a bug")]
    Ended {
        /// What has ended.
        part: &'static str,
    },
    /// A listener failed.
    #[error("the {listener} listener failed")]
    Listener {
        /// Which one.
        listener: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ServeError {
    /// Whether a person must change something before another start can do better.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::ClusterFile { source } => !matches!(source, ClusterFileError::Unreadable { .. }),
            Self::WeakToken { .. }
            | Self::SharedToken { .. }
            | Self::Certificate { .. }
            | Self::Target { .. } => true,
            Self::TokenFile { .. }
            | Self::Pem { .. }
            | Self::Store { .. }
            | Self::Metrics { .. }
            | Self::Ended { .. }
            | Self::Listener { .. } => false,
        }
    }
}

/// Serves until `shutdown` resolves, then answers what is under way and stops.
///
/// # Errors
///
/// When something that is needed is of no use, or a listener fails.
pub async fn serve(
    config: ServeConfig,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    install_crypto_provider();
    let file =
        ClusterFile::read(&config.cluster).map_err(|source| ServeError::ClusterFile { source })?;
    let join_tokens = tokens("--token-file", &config.token_file)?;
    let operators = config
        .operator_token_file
        .as_ref()
        .map(|path| {
            let operators = tokens("--operator-token-file", path)?;
            if operators.shares_one_with(&join_tokens) {
                let (join, operator) = (config.token_file.clone(), path.clone());
                return Err(ServeError::SharedToken { join, operator });
            }
            Ok(operators)
        })
        .transpose()?;
    let tls = config.tls.map(|(cert, key)| tls_config(cert, key)).transpose()?;
    let mut clients = Vec::new();
    for target in &file.targets {
        let client = aios::Client::new(target)
            .map_err(|source| ServeError::Target { target: target.name.to_string(), source })?;
        clients.push((target.clone(), client));
    }
    let metrics = Metrics::new().map_err(|source| ServeError::Metrics { source })?;
    let (store, contents) =
        Store::open(&config.store).map_err(|source| ServeError::Store { source })?;
    log::info!(
        store = config.store.display().to_string(),
        nodes = contents.entries.len();
        "the store is open"
    );
    let aggregator = Arc::new(Aggregator::new(file, config.interval, store, contents, metrics));

    let by_name = clients.iter().map(|(target, client)| (target.name.clone(), client.clone()));
    let by_name: BTreeMap<_, _> = by_name.collect();
    let access = Access::new(operators);
    let admin = admin::router::router(Arc::clone(&aggregator), by_name, access, Readiness::new());
    let intake = intake::router::router(Arc::clone(&aggregator), Authenticator::new(join_tokens));

    let mut background = JoinSet::new();
    for (target, client) in clients {
        background.spawn(Executor::new(Arc::clone(&aggregator), target, client).run());
    }
    background.spawn(keep_house(Arc::clone(&aggregator)));

    let stop = axum_server::Handle::new();
    let intake_service = intake.into_make_service();
    let intake = serve_http("intake", listeners.intake, intake_service, tls, stop.clone());
    let admin_service = admin.into_make_service_with_connect_info::<SocketAddr>();
    let admin = serve_http("admin", listeners.admin, admin_service, None, stop.clone());
    tokio::pin!(intake, admin, shutdown);
    tokio::select! {
        () = &mut shutdown => {}
        outcome = &mut intake => return outcome.and(Err(ServeError::Ended { part: "intake" })),
        outcome = &mut admin => return outcome.and(Err(ServeError::Ended { part: "admin listener" })),
        _ = background.join_next() => return Err(ServeError::Ended { part: "onboarding" }),
        () = aggregator.store.closed() => return Err(ServeError::Ended { part: "store" }),
    }
    background.shutdown().await;
    stop.graceful_shutdown(Some(STOP_GRACE));
    let (intake, admin) = tokio::join!(intake, admin);
    if let Err(error) = aggregator.store_last_seen().await {
        log::error!(error:% = error; "the times of the last reports could not be stored");
    }
    log::info!("stopped");
    intake.and(admin)
}

async fn serve_http<S>(
    name: &'static str,
    listener: TcpListener,
    service: S,
    tls: Option<RustlsConfig>,
    stop: axum_server::Handle<SocketAddr>,
) -> Result<(), ServeError>
where
    S: MakeService<SocketAddr, Request<Incoming>>,
{
    let failed = |source| ServeError::Listener { listener: name, source };
    let address = listener.local_addr().map_err(failed)?;
    let listener = listener.into_std().map_err(failed)?;
    log::info!(address:% = address, tls = tls.is_some(); "{name} listening");
    // HTTP/1 alone: to tell the versions apart, the first bytes would be awaited without a limit.
    if let Some(tls) = tls {
        let server = axum_server::from_tcp_rustls(listener, tls).map_err(failed)?;
        let mut server = server.http1_only().handle(stop);
        bound_headers(server.http_builder());
        server.serve(service).await.map_err(failed)
    } else {
        let server = axum_server::from_tcp(listener).map_err(failed)?;
        let mut server = server.http1_only().handle(stop);
        bound_headers(server.http_builder());
        server.serve(service).await.map_err(failed)
    }
}

/// A client that sends its headers a byte a minute, or nothing, must not hold a connection for ever.
fn bound_headers(builder: &mut Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
}

/// Counts nodes and what they hold for `/metrics`, and stores now and then who was seen when.
async fn keep_house(aggregator: Arc<Aggregator>) {
    let mut count = tokio::time::interval(COUNT_INTERVAL);
    let mut seen = tokio::time::interval(SEEN_INTERVAL);
    count.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seen.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seen.reset();
    loop {
        tokio::select! {
            _ = count.tick() => {
                let now = Timestamp::now();
                let nodes = NodesView::of(&aggregator, now);
                aggregator.metrics.nodes(nodes.counts());
                aggregator.metrics.each_node(nodes.figures());
            }
            _ = seen.tick() => {
                if let Err(error) = aggregator.store_last_seen().await {
                    log::error!(error:% = error; "the times of the last reports could not be stored");
                }
            }
        }
    }
}

fn tokens(flag: &'static str, path: &std::path::Path) -> Result<Tokens, ServeError> {
    let secret = read_secret_file(path).map_err(|source| ServeError::TokenFile { flag, source })?;
    warn_if_exposed(path);
    Tokens::new(&secret).map_err(|source| ServeError::WeakToken {
        flag,
        path: path.to_owned(),
        source,
    })
}

fn tls_config(cert: PathBuf, key: PathBuf) -> Result<RustlsConfig, ServeError> {
    let unusable = |flag, path: &PathBuf| {
        let path = path.clone();
        move |source| ServeError::Pem { flag, path, source }
    };
    let chain = CertificateDer::pem_file_iter(&cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unusable("--tls-cert", &cert))?;
    if chain.is_empty() {
        let source = pem::Error::NoItemsFound;
        return Err(ServeError::Pem { flag: "--tls-cert", path: cert, source });
    }
    let private = PrivateKeyDer::from_pem_file(&key).map_err(unusable("--tls-key", &key))?;
    warn_if_exposed(&key);
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| ServeError::Certificate { cert, key, source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}
