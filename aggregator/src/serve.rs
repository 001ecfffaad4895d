//! `serve`: puts the parts together and runs them until told to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::accept::{DefaultAcceptor, NoDelayAcceptor};
use hyper_util::rt::TokioTimer;
use jiff::Timestamp;
use rollcall_daemon::http::install_crypto_provider;
use rollcall_daemon::kubernetes::{self, Selection};
use rollcall_daemon::notify::Notifier;
use rollcall_daemon::observe;
use rollcall_daemon::readiness::{Latch, Readiness};
use rollcall_report::error_chain;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::admin::access::Access;
use crate::aggregator::Aggregator;
use crate::cluster_file::{AiosTarget, ClusterFile, ClusterFileError, Stamping};
use crate::connections::{Connections, HEADER_TIMEOUT, Keeps, most_of};
use crate::intake::authenticate::Authenticator;
use crate::intake::review::{Reviewer, ServiceAccount};
use crate::kubernetes::events::{self, Events};
use crate::kubernetes::leader::{Candidate, Leadership};
use crate::kubernetes::nodes::{self, Nodes};
use crate::kubernetes::{leaving, stamping};
use crate::metrics::Metrics;
use crate::onboarding::classes;
use crate::onboarding::execute::Executor;
use crate::status::Status;
use crate::store::kubernetes::{Feed, Place, Sizing};
use crate::store::{Contents, OpenError, Store};
use crate::targets::aios;
use crate::targets::transport::TransportError;
use crate::tls::handshake::{Acceptor, Failures};
use crate::tls::{Served, TlsError};
use crate::tokens::files::{AllTokens, TokenFileError, TokenFiles};
use crate::{admin, intake, status, tls};

/// How long requests that are under way may take when the aggregator stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How often the nodes are counted anew for `/metrics`.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// How long to leave a store in the cluster alone that cannot be read.
const STORE_PAUSE: Duration = Duration::from_secs(3);
/// How often the times of unchanged reports are stored: rarely, for each is a write.
const SEEN_INTERVAL: Duration = Duration::from_mins(5);

/// How to serve.
#[derive(Debug)]
pub struct ServeConfig {
    /// The cluster file.
    pub cluster: PathBuf,
    /// Where the roll is kept.
    pub store: StorePlace,
    /// The cluster that is served, where it is one of Kubernetes.
    pub kubernetes: Option<KubernetesConfig>,
    /// The join tokens, and the operator's.
    pub tokens: TokenFiles,
    /// Whether operators' tokens are taken from other machines, over plain HTTP.
    pub operators_from_afar: bool,
    /// The intake's certificate; plain HTTP without.
    pub tls: Option<tls::Files>,
    /// How often agents are to report.
    pub interval: Duration,
}

/// Where the roll is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In a SQLite database on a local disk.
    Sqlite(PathBuf),
    /// In the Kubernetes cluster, shared with other aggregators.
    Kubernetes,
}

/// How the cluster is reached, and who is who in it.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// How its API is reached.
    pub selection: Selection,
    /// The namespace of the store; the pod's own if left out.
    pub namespace: Option<String>,
    /// Names this aggregator among its replicas.
    pub replica: String,
    /// Whose tokens report; `rollcall-agent` of the namespace if left out.
    pub agents: Option<ServiceAccount>,
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
    #[error(transparent)]
    Tokens(TokenFileError),
    /// The intake's certificate cannot be served.
    #[error("the intake has no certificate")]
    Tls {
        /// What is wrong with it.
        source: TlsError,
    },
    /// There is no way to Kubernetes.
    #[error("the aggregator cannot reach Kubernetes: {reason}")]
    Kubernetes {
        /// What was tried, what is wrong, what to do.
        reason: String,
    },
    /// It is not known which namespace is ours.
    #[error(
        "the aggregator does not know its namespace: say --namespace, since this is no pod with a service account"
    )]
    NoNamespace,
    /// There is no way to report.
    #[error(
        "no agent could report: give the join tokens with --token-file, or the CA of agents' certificates with --client-ca-file, or say --kubernetes"
    )]
    NobodyMayReport,
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
            Self::Tokens(TokenFileError::Weak { .. } | TokenFileError::Shared { .. })
            | Self::NoNamespace
            | Self::NobodyMayReport
            | Self::Store { source: OpenError::NotOurs { .. } | OpenError::TooNew { .. } }
            | Self::Target { .. } => true,
            Self::Tokens(TokenFileError::NoSecret { .. })
            | Self::Tls { .. }
            | Self::Kubernetes { .. }
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
    let notifier = Notifier::from_environment();
    let shutdown = async {
        shutdown.await;
        notifier.stopping("stopping: answering what is under way");
    };
    tokio::select! {
        outcome = Box::pin(run(config, listeners, &notifier, shutdown)) => outcome,
        never = notifier.keep_alive(|| true) => match never {},
    }
}

async fn run(
    config: ServeConfig,
    listeners: Listeners,
    notifier: &Notifier,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    install_crypto_provider();
    let open_files = allow_open_files();
    tokio::pin!(shutdown);
    let file =
        ClusterFile::read(&config.cluster).map_err(|source| ServeError::ClusterFile { source })?;
    let tokens = config.tokens.load().map_err(ServeError::Tokens)?;
    let tls = match config.tls {
        Some(files) => Some(Secured::load(files).await?),
        None => None,
    };
    let metrics = Metrics::new().map_err(|source| ServeError::Metrics { source })?;
    let clients = clients(&file, &metrics)?;
    let kubernetes = match config.kubernetes {
        Some(config) => Some(Kubernetes::reach(config).await?),
        None => without_nodes(&file),
    };
    let takes_certificates = tls.as_ref().is_some_and(Secured::takes_certificates);
    if tokens.join.is_none() && kubernetes.is_none() && !takes_certificates {
        return Err(ServeError::NobodyMayReport);
    }
    let (candidate, leadership) = candidate(&config.store, kubernetes.as_ref());
    let readiness = Readiness::new();
    let (waiting, admin_listener) = twice(listeners.admin)
        .map_err(|source| ServeError::Listener { listener: "admin", source })?;
    let unopened = readiness.latch("the store to open");
    let shown = metrics.clone();
    let probes = observe::router(move || shown.body(), readiness.clone());
    // Also connections that are kept open: what they ask later is not for the probes to answer.
    let (open, until_open) = until_dropped();
    notifier.status("opening the store");
    let opened = tokio::select! {
        opened = open_store(&config.store, kubernetes.as_ref(), &file, &leadership, notifier) => opened?,
        never = notifier.ask_for_time() => match never {},
        // Whoever probes is answered meanwhile.
        served = observe::serve(waiting, probes, until_open) => {
            return served.map_err(|source| ServeError::Listener { listener: "admin", source });
        }
        () = &mut shutdown => return Ok(()),
    };
    drop((unopened, open));
    let (store, contents, feed) = opened;
    log::info!(nodes = contents.entries.len(); "the store is open");

    let mut aggregator = Aggregator::new(file, config.interval, store, contents, metrics);
    aggregator.leadership = leadership;
    let mut background = JoinSet::new();
    let cluster = kubernetes.as_ref().map(|it| it.client.clone());
    let reviewer = kubernetes.map(|it| it.attach(&mut aggregator, &mut background, &readiness));
    let aggregator = Arc::new(aggregator);

    let by_name = clients.iter().map(|(target, client)| (target.name.clone(), client.clone()));
    let by_name: BTreeMap<_, _> = by_name.collect();
    let AllTokens { join, operators } = tokens.clone();
    let access = Access::new(operators, config.operators_from_afar);
    // Dropped at the stop: pages that follow the news would hold it up.
    let (serving, stopping) = watch::channel(());
    let admin = Arc::clone(&aggregator);
    let admin = admin::router::router(admin, by_name, access, readiness, stopping);
    let authenticator = Authenticator::new(join, reviewer);
    let intake = intake::router::router(Arc::clone(&aggregator), authenticator);

    let feed = feed.map(Arc::new);
    if let Some(feed) = feed.clone() {
        let aggregator = Arc::clone(&aggregator);
        background.spawn(async move { feed.run(move |learned| aggregator.learn(learned)).await });
    }
    background.spawn(lead(Arc::clone(&aggregator), clients, feed, cluster));
    background.spawn(Arc::clone(&aggregator).follow_nodes());
    background.spawn(keep_house(Arc::clone(&aggregator)));
    background.spawn(never(config.tokens.follow(tokens)));
    let tls = tls.map(|tls| tls.follow(&aggregator.metrics, &mut background));
    let (resign, resigned) = until_dropped();
    let candidacy = candidate.map(|candidate| tokio::spawn(candidate.run(resigned)));

    let stop = axum_server::Handle::new();
    background.spawn(never(inform(Arc::clone(&aggregator), notifier.clone(), stop.clone())));
    let (taking, untaken) = watch::channel(());
    let most = most_of(open_files);
    let keeps = Keeps::of(config.interval, most);
    let intake = serve_intake(listeners.intake, intake, tls, (keeps, most), untaken);
    let admin = serve_admin(admin_listener, admin, stop.clone());
    tokio::pin!(intake, admin);
    tokio::select! {
        () = &mut shutdown => {}
        outcome = &mut intake => return outcome.and(Err(ServeError::Ended { part: "intake" })),
        outcome = &mut admin => return outcome.and(Err(ServeError::Ended { part: "admin listener" })),
        _ = background.join_next() => return Err(ServeError::Ended { part: "onboarding" }),
        () = aggregator.store.closed() => return Err(ServeError::Ended { part: "store" }),
    }
    drop(serving);
    let end = async move {
        background.shutdown().await;
        // Nothing is under way any more that only a leader may do.
        drop(resign);
        if let Some(candidacy) = candidacy {
            drop(candidacy.await);
        }
        drop(taking);
        stop.graceful_shutdown(Some(STOP_GRACE));
    };
    // Until then all are answered, whoever comes now among them.
    let ((), intake, admin) = tokio::join!(end, intake, admin);
    if let Err(error) = aggregator.store_last_seen().await {
        log::error!(error:% = error; "the times of the last reports could not be stored");
    }
    log::info!("stopped");
    intake.and(admin)
}

/// How many files may be open, connections among them: as the unit has it. More would only let strangers
/// fill the memory.
const OPEN_FILES: u64 = 65_536;

/// Lets more files be open than a shell or a container does for the sake of programs that use select(2), as
/// far as the system allows: thousands of agents may report at once, as after an outage. Says how many of
/// them to count on.
fn allow_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let mut files = limit.current.unwrap_or(u64::MAX);
    if files < OPEN_FILES {
        let most = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
        match setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }) {
            Ok(()) => files = most,
            Err(error) => {
                log::warn!(limit = files, error:% = error; "the limit on open files stays as it is");
            }
        }
    }
    // Containers often have a million, or no limit at all.
    usize::try_from(files.min(OPEN_FILES)).unwrap_or(usize::MAX)
}

/// Each target that is registered with, and how it is reached.
fn clients(
    file: &ClusterFile,
    metrics: &Metrics,
) -> Result<Vec<(AiosTarget, aios::Client)>, ServeError> {
    let client = |target: &AiosTarget| {
        let client = aios::Client::new(target)
            .map_err(|source| ServeError::Target { target: target.name.to_string(), source })?;
        Ok((target.clone(), client.measured(metrics.request_durations(target))))
    };
    file.aios_targets().map(client).collect()
}

/// What runs for the lead, where several may share the store.
fn candidate(
    store: &StorePlace,
    kubernetes: Option<&Kubernetes>,
) -> (Option<Candidate>, Leadership) {
    match (store, kubernetes) {
        (StorePlace::Kubernetes, Some(it)) => {
            let (candidate, leadership) =
                Candidate::new(it.client.clone(), &it.namespace, it.replica.clone());
            (Some(candidate), leadership)
        }
        _ => (None, Leadership::of_one()),
    }
}

/// There is no Kubernetes, which some targets cannot do without.
fn without_nodes(file: &ClusterFile) -> Option<Kubernetes> {
    if let Some(target) = file.region() {
        log::warn!(target = target.name.as_str();
            "no node is given a class: node classes are labels of Nodes, which only --kubernetes tells");
    }
    None
}

/// What is held, and a future that ends when it is dropped.
fn until_dropped() -> (oneshot::Sender<()>, impl Future<Output = ()> + Send + 'static) {
    let (held, dropped) = oneshot::channel();
    let until = async move {
        // Nothing is ever sent.
        let _dropped = dropped.await;
    };
    (held, until)
}

/// One listener as two that take turns.
fn twice(listener: TcpListener) -> io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    Ok((TcpListener::from_std(listener.try_clone()?)?, TcpListener::from_std(listener)?))
}

/// The cluster, as it is reached.
struct Kubernetes {
    client: kube::Client,
    namespace: String,
    replica: String,
    agents: Option<ServiceAccount>,
}

impl Kubernetes {
    async fn reach(config: KubernetesConfig) -> Result<Self, ServeError> {
        let KubernetesConfig { selection, namespace, replica, agents } = config;
        let way = kubernetes::Access::open(&selection).await;
        let way = way.map_err(|reason| ServeError::Kubernetes { reason })?;
        let namespace =
            namespace.or_else(kubernetes::own_namespace).ok_or(ServeError::NoNamespace)?;
        log::info!(url:% = way.url, namespace = namespace.as_str(), replica = replica.as_str();
            "this is a Kubernetes cluster");
        Ok(Self { client: way.client, namespace, replica, agents })
    }

    /// Lets the aggregator see the cluster; what comes back reviews its agents' tokens.
    fn attach(
        self,
        aggregator: &mut Aggregator,
        background: &mut JoinSet<()>,
        readiness: &Readiness,
    ) -> Reviewer {
        let Self { client, namespace, replica, agents } = self;
        let nodes = Nodes::watched(aggregator.file.selected_labels());
        background.spawn(never(nodes::watch::watch(client.clone(), nodes.clone())));
        let listed = readiness.latch("Kubernetes to list its Nodes");
        background.spawn(open_when_listed(nodes.clone(), listed));
        let (events, complaints) = Events::queue();
        background.spawn(never(events::publish(client.clone(), replica, complaints)));
        aggregator.nodes = nodes;
        aggregator.events = events;
        let name = "rollcall-agent".to_owned();
        Reviewer::new(client, agents.unwrap_or(ServiceAccount { namespace, name }))
    }
}

/// Opens the store. One in the cluster is waited for: a pod that ends would only be started again.
async fn open_store(
    place: &StorePlace,
    kubernetes: Option<&Kubernetes>,
    file: &ClusterFile,
    leadership: &Leadership,
    notifier: &Notifier,
) -> Result<(Store, Contents, Option<Feed>), ServeError> {
    let it = match (place, kubernetes) {
        (StorePlace::Kubernetes, Some(it)) => it,
        (StorePlace::Kubernetes, None) => return Err(ServeError::NoNamespace),
        (StorePlace::Sqlite(path), _) => {
            let path = path.clone();
            // A large one takes long enough to keep others waiting.
            let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
            let opened = opened.map_err(|_panicked| ServeError::Ended { part: "store" })?;
            let (store, contents) = opened.map_err(|source| ServeError::Store { source })?;
            return Ok((store, contents, None));
        }
    };
    let mut trouble = None;
    loop {
        let place = Place {
            namespace: it.namespace.clone(),
            replica: it.replica.clone(),
            sizing: Sizing {
                overrides: file.overrides.clone(),
                gpu_loss_hold_down: file.gpu_loss_hold_down,
            },
            leadership: leadership.clone(),
            targets: file.aios_targets().map(|target| target.name.to_string()).collect(),
        };
        match Store::kubernetes(it.client.clone(), place).await {
            Ok((store, contents, feed)) => return Ok((store, contents, Some(feed))),
            Err(error @ OpenError::Kubernetes { .. }) => {
                let words = error_chain(&error);
                if trouble.as_ref() != Some(&words) {
                    log::error!(error = words.as_str(); "the store is not open yet, trying again");
                    notifier.status(&format!("waiting for the store: {words}"));
                }
                trouble = Some(words);
                tokio::time::sleep(STORE_PAUSE).await;
            }
            Err(source) => return Err(ServeError::Store { source }),
        }
    }
}

/// Does what only one aggregator may do, while this one leads.
async fn lead(
    aggregator: Arc<Aggregator>,
    clients: Vec<(AiosTarget, aios::Client)>,
    feed: Option<Arc<Feed>>,
    cluster: Option<kube::Client>,
) {
    let mut leadership = aggregator.leadership.clone();
    let mut trouble = None;
    loop {
        leadership.gained().await;
        let mut unreadable = Vec::new();
        if let Some(feed) = &feed {
            match feed.standings().await {
                Ok(standings) => {
                    aggregator.take_up(standings.learned);
                    unreadable = standings.unreadable;
                    trouble = None;
                }
                Err(error) => {
                    let words = error.to_string();
                    if trouble.as_ref() != Some(&words) {
                        log::warn!(error = words.as_str(); "where the targets stand cannot be read, trying again");
                    }
                    trouble = Some(words);
                    tokio::time::sleep(STORE_PAUSE).await;
                    continue;
                }
            }
        }
        aggregator.metrics.leads(true);
        let mut duties = JoinSet::new();
        for (target, client) in clients.clone() {
            if unreadable.iter().any(|name| name == target.name.as_str()) {
                log::error!(target = target.name.as_str();
                    "nothing is done for the target, since where it stands cannot be understood");
                continue;
            }
            duties.spawn(Executor::new(Arc::clone(&aggregator), target, client).run());
        }
        if let Some(client) = &cluster {
            duties.spawn(never(leaving::follow(client.clone(), Arc::clone(&aggregator))));
            if aggregator.file.region().is_some() {
                duties.spawn(never(classes::assign(Arc::clone(&aggregator))));
            }
            if aggregator.file.stamping == Stamping::Aggregator {
                duties.spawn(never(stamping::stamp(client.clone(), Arc::clone(&aggregator))));
            }
        }
        // One that another aggregator was in the way of begins anew, with what is stored.
        let is_overtaken = tokio::select! {
            () = leadership.lost() => false,
            Some(_) = duties.join_next() => true,
        };
        duties.shutdown().await;
        aggregator.metrics.leads(false);
        if is_overtaken {
            tokio::time::sleep(STORE_PAUSE).await;
        }
        for target in aggregator.file.aios_targets() {
            aggregator.show_kept(target, &[]);
            aggregator.show_look(target, None);
            aggregator.metrics.unseen(&target.name);
        }
    }
}

/// Tells the service manager when both listeners are up, and then what is being done.
async fn inform(
    aggregator: Arc<Aggregator>,
    notifier: Notifier,
    listeners: axum_server::Handle<SocketAddr>,
) -> Infallible {
    // Both are started at once.
    let _address = listeners.listening().await;
    notifier.ready(&Status::of(&aggregator).to_string());
    status::follow(aggregator, notifier).await
}

/// A task that never ends, as one among others that do not either.
async fn never(task: impl Future<Output = Infallible>) {
    match task.await {}
}

async fn open_when_listed(nodes: Nodes, latch: Latch) {
    let _nodes = nodes.listed().await;
    drop(latch);
    std::future::pending::<()>().await;
}

/// How a listener takes TLS connections.
struct Tls {
    acceptor: Acceptor,
    /// Whether a connection is for one request: a certificate that expires, or whose CA is not trusted
    /// any more, must not live on in one that is kept open.
    one_request_each: bool,
}

/// The files of TLS, and what they hold.
struct Secured {
    files: tls::Files,
    served: Served,
}

impl Secured {
    async fn load(files: tls::Files) -> Result<Self, ServeError> {
        let served = files.load().await.map_err(|source| ServeError::Tls { source })?;
        Ok(Self { files, served })
    }

    const fn takes_certificates(&self) -> bool {
        self.files.clients.is_some()
    }

    /// Follows the files from now on.
    fn follow(self, metrics: &Metrics, background: &mut JoinSet<()>) -> Tls {
        metrics.handshakes();
        let acceptor = Acceptor::new(self.served.config(), Failures::new(metrics.clone()));
        let one_request_each = self.takes_certificates();
        background.spawn(never(self.files.follow(self.served, metrics.clone())));
        Tls { acceptor, one_request_each }
    }
}

/// Takes reports until `stop`'s sender is gone, and answers those that are under way.
async fn serve_intake(
    listener: TcpListener,
    intake: Router,
    tls: Option<Tls>,
    (keeps, most): (Option<Keeps>, usize),
    stop: watch::Receiver<()>,
) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listener { listener: "intake", source };
    let address = listener.local_addr().map_err(failed)?;
    log::info!(address:% = address, tls = tls.is_some(); "intake listening");
    let keeps = keeps.filter(|_| tls.as_ref().is_none_or(|tls| !tls.one_request_each));
    if let Some(Keeps { idle, most, .. }) = keeps {
        log::info!(most = most, seconds = idle.as_secs(); "agents' connections are kept until they report again");
    }
    if let Some(Tls { acceptor, .. }) = tls {
        Connections::new(acceptor, keeps, most).serve(listener, intake, stop, STOP_GRACE).await;
    } else {
        Connections::new(DefaultAcceptor, keeps, most)
            .serve(listener, intake, stop, STOP_GRACE)
            .await;
    }
    Ok(())
}

/// Serves metrics, probes, the operator's API and the page.
async fn serve_admin(
    listener: TcpListener,
    admin: Router,
    stop: axum_server::Handle<SocketAddr>,
) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listener { listener: "admin", source };
    let address = listener.local_addr().map_err(failed)?;
    let listener = listener.into_std().map_err(failed)?;
    log::info!(address:% = address, tls = false; "admin listening");
    let server = axum_server::from_tcp(listener).map_err(failed)?.acceptor(NoDelayAcceptor);
    // HTTP/1 alone: to tell the versions apart, the first bytes would be awaited without a limit.
    let mut server = server.http1_only().handle(stop);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.serve(admin.into_make_service_with_connect_info::<SocketAddr>()).await.map_err(failed)
}

/// Counts nodes and what they hold for `/metrics`, and stores now and then who was seen when.
async fn keep_house(aggregator: Arc<Aggregator>) {
    let mut count = tokio::time::interval(COUNT_INTERVAL);
    // A shared store spreads its writes by itself.
    let is_shared = aggregator.store.is_shared();
    let mut seen = tokio::time::interval(if is_shared { COUNT_INTERVAL } else { SEEN_INTERVAL });
    count.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seen.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seen.reset();
    let mut seen_trouble = None;
    let mut silent = BTreeSet::new();
    loop {
        tokio::select! {
            _ = count.tick() => {
                let now = Timestamp::now();
                // Of thousands of nodes it takes long enough to keep others waiting.
                let counting = Arc::clone(&aggregator);
                let counted = tokio::task::spawn_blocking(move || {
                    counting.measure(now);
                    counting.documents.tidy(&counting);
                })
                .await;
                if let Err(error) = counted {
                    log::error!(error:% = error; "the nodes could not be counted for /metrics: report this as a bug");
                }
                aggregator.tell_silence(&mut silent, now);
            }
            _ = seen.tick() => {
                let trouble = aggregator.store_last_seen().await.err();
                if trouble != seen_trouble && let Some(error) = &trouble {
                    log::error!(error:% = error; "the times of the last reports could not be stored");
                }
                seen_trouble = trouble;
            }
        }
    }
}
