//! A stand-in of AIOS: its parser, its cluster controller gateway and its database of tasks, and
//! behind them its registry of clusters. It answers what the real services answer to the same
//! bytes, faults included, and keeps everything that it is sent.
//!
//! What is imitated was found by running the real services and reading their code. They are
//! three Flask programs over an Express program with Mongoose; replies look accordingly.

mod doors;
mod fault;
mod flask;
mod gateway;
mod infrastructure;
mod parser;
pub mod registry;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use doors::{Door, Order};
pub use fault::Fault;
use fault::{Break, hang_up};
use flask::Json;
pub use infrastructure::Infrastructure;
use infrastructure::Infrastructures;
use registry::{Entry, Registry, RegistryError};

/// How the stand-in treats what it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// As the real services do when all is well with them.
    #[default]
    Normal,
    /// The network's policy refuses every new cluster.
    PolicyRefuses {
        /// The policy's own words.
        why: String,
    },
    /// The network's policy takes new clusters and writes another reputation into them.
    PolicyRewritesReputation {
        /// The reputation that is stored.
        reputation: i64,
    },
    /// Nobody listens on the gateway's port. The stand-in keeps the port and closes connections.
    GatewayDown,
    /// The registry answers 500 to everything.
    RegistryFails,
    /// A create is carried out, and the connection is closed before the answer.
    ReplyLost,
    /// Everything is carried out as usual, and answered late.
    Stalls {
        /// How much later.
        delay: Duration,
    },
    /// Requests are read and nothing is ever answered or done.
    NotAnswering,
}

impl Behaviour {
    /// What it does to a request by itself, whatever the request means.
    fn fault(&self, request: &Recorded) -> Option<Fault> {
        match self {
            Self::GatewayDown if request.service == ServiceKind::Gateway => Some(Fault::Refused),
            Self::ReplyLost if request.is_create() => Some(Fault::ReplyLost),
            Self::Stalls { delay } => Some(Fault::Stalls { delay: *delay }),
            Self::NotAnswering => Some(Fault::NotAnswering),
            Self::Normal
            | Self::PolicyRefuses { .. }
            | Self::PolicyRewritesReputation { .. }
            | Self::GatewayDown
            | Self::RegistryFails
            | Self::ReplyLost => None,
        }
    }
}

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which service it was sent to.
    pub service: ServiceKind,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The `Content-Type` header, where there was one.
    pub content_type: Option<String>,
    /// Every header in the order of arrival; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, as it was sent.
    pub body: Bytes,
}

impl Recorded {
    /// The body as JSON, where it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether it asks to register a cluster, by either service.
    pub fn is_create(&self) -> bool {
        let path = match self.service {
            ServiceKind::Parser => parser::CREATE_PATH,
            ServiceKind::Gateway => gateway::CREATE_PATH,
            ServiceKind::Tasks => return false,
        };
        self.method == Method::POST.as_str() && self.path == path
    }
}

/// AIOS's services that are reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// The parser.
    Parser,
    /// The cluster controller gateway.
    Gateway,
    /// The database of tasks.
    Tasks,
}

/// Where the services listen; loopback or a private address, port 0 takes any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The parser.
    pub parser: SocketAddr,
    /// The cluster controller gateway.
    pub gateway: SocketAddr,
    /// The database of tasks.
    pub tasks: SocketAddr,
}

impl Default for Addresses {
    /// Free ports of loopback.
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { parser: any, gateway: any, tasks: any }
    }
}

/// Why a stand-in could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address that anybody could reach.
    #[error(
        "the stand-in of AIOS takes registrations from anybody, so it listens on loopback or a private network only, not on {address}"
    )]
    Exposed {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("the stand-in of AIOS cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No thread or runtime to serve from.
    #[error("the stand-in of AIOS cannot start its thread")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// A running stand-in. It serves from a thread of its own, so that a test may block, and stops
/// when it is dropped.
#[derive(Debug)]
pub struct AiosStandin {
    shared: Arc<Shared>,
    /// Where the services listen, the ports included.
    addresses: Addresses,
    /// The thread ends when it is dropped.
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl AiosStandin {
    /// Starts a stand-in on free ports of loopback.
    ///
    /// # Panics
    ///
    /// When it cannot listen there.
    #[expect(clippy::panic, reason = "without its stand-in a test can only fail")]
    pub fn start() -> Self {
        Self::start_at(Addresses::default()).unwrap_or_else(|error| {
            panic!("{}", rollcall_report::error_chain(&error));
        })
    }

    /// Starts a stand-in whose parser and gateway listen on the given addresses, its database of
    /// tasks on a free port.
    ///
    /// # Errors
    ///
    /// When an address is open to anybody or cannot be listened on.
    pub fn start_on(parser: SocketAddr, gateway: SocketAddr) -> Result<Self, StartError> {
        Self::start_at(Addresses { parser, gateway, ..Addresses::default() })
    }

    /// Starts a stand-in on the given addresses.
    ///
    /// # Errors
    ///
    /// When an address is open to anybody or cannot be listened on.
    pub fn start_at(addresses: Addresses) -> Result<Self, StartError> {
        let (parser_listener, parser) = listen(addresses.parser)?;
        let (gateway_listener, gateway) = listen(addresses.gateway)?;
        let (tasks_listener, tasks) = listen(addresses.tasks)?;
        let shared = Arc::new(Shared {
            gateway,
            state: Mutex::default(),
            script: Mutex::default(),
            changed: Condvar::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StartError::Thread { source })?;
        let on_runtime = runtime.enter();
        let mut doors = Vec::new();
        for (address, listener, routes, service) in [
            (parser, parser_listener, parser::router(), ServiceKind::Parser),
            (gateway, gateway_listener, gateway::router(), ServiceKind::Gateway),
            (tasks, tasks_listener, infrastructure::tasks_router(), ServiceKind::Tasks),
        ] {
            let door = Door::open_at(address, listener, router(routes, service, &shared))
                .map_err(|source| StartError::Listen { address, source })?;
            doors.push(door);
        }
        drop(on_runtime);
        let (orders, given) = unbounded_channel();
        let thread = thread::Builder::new()
            .name("aios-standin".to_owned())
            .spawn(move || runtime.block_on(doors::serve(doors, given)))
            .map_err(|source| StartError::Thread { source })?;
        let addresses = Addresses { parser, gateway, tasks };
        Ok(Self { shared, addresses, orders: Some(orders), thread: Some(thread) })
    }

    /// The parser's URL, without a slash at its end.
    pub fn parser_url(&self) -> String {
        format!("http://{}", self.addresses.parser)
    }

    /// The gateway's URL, without a slash at its end.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.addresses.gateway)
    }

    /// The URL of the database of tasks, without a slash at its end.
    pub fn tasks_url(&self) -> String {
        format!("http://{}", self.addresses.tasks)
    }

    /// Behaves so from now on.
    pub fn set(&self, behaviour: Behaviour) {
        self.shared.state().behaviour = behaviour;
    }

    /// Behaves so for the next creates, after those that are queued already, and then as set.
    pub fn set_for_next(&self, creates: usize, behaviour: Behaviour) {
        let queued = std::iter::repeat_n(behaviour, creates);
        self.shared.state().for_next_creates.extend(queued);
    }

    /// Asks `script` about every request from now on, once each, after it was written down and
    /// before it is carried out. `None` leaves it to what [`Self::set`] and
    /// [`Self::set_for_next`] say.
    pub fn misbehave_by(&self, script: impl FnMut(&Recorded) -> Option<Fault> + Send + 'static) {
        *self.shared.script() = Some(Script(Box::new(script)));
    }

    /// Ends what [`Self::misbehave_by`] began.
    pub fn stop_misbehaving(&self) {
        *self.shared.script() = None;
    }

    /// With `true`, stops listening on all its ports and breaks every connection, as if the
    /// services had been killed: whoever connects is refused by the system. With `false`, listens
    /// on the same ports again. Returns when it is so.
    ///
    /// # Panics
    ///
    /// When it cannot listen again.
    #[expect(clippy::panic, reason = "without its stand-in a test can only fail")]
    pub fn refuse_connections(&self, refuse: bool) {
        let (done, is_done) = mpsc::channel();
        let given = self.orders.as_ref().map(|orders| orders.send(Order { refuse, done }));
        match (given, is_done.recv()) {
            (Some(Ok(())), Ok(Ok(()))) => {}
            (_, Ok(Err(error))) => {
                panic!("AIOS's stand-in cannot listen as before: {error}");
            }
            _ => panic!("AIOS's stand-in does not serve any more"),
        }
    }

    /// What becomes of infrastructure that is asked for from now on.
    pub fn set_infrastructure(&self, outcome: Infrastructure) {
        self.shared.state().infrastructures.outcome = outcome;
    }

    /// The ids of the clusters whose infrastructure runs, in the order in which it was started.
    pub fn infrastructures(&self) -> Vec<String> {
        self.shared.state().infrastructures.running.clone()
    }

    /// Sets fields of a cluster by their dotted paths, as another client of the registry would.
    ///
    /// # Panics
    ///
    /// When the registry refuses.
    #[expect(clippy::panic, reason = "a test that cannot be set up has failed")]
    pub fn overwrite(&self, id: &str, fields: &[(&str, Value)]) {
        let mut state = self.shared.state();
        let refused = state.registry.update(id, &set_of(fields)).err();
        self.shared.tell(&mut state);
        drop(state);
        if let Some(error) = refused {
            panic!("the registry of AIOS's stand-in does not write {fields:?} to {id}: {error:?}");
        }
    }

    /// Sets these fields of a cluster again at once after each create or update of it by a client
    /// that succeeds, whose answer still shows what the client wrote. Takes the place of what it
    /// was told before about the same cluster.
    #[expect(clippy::needless_pass_by_value, reason = "kept for as long as the war goes on")]
    pub fn overwrite_whenever_changed(&self, id: &str, fields: Vec<(&str, Value)>) {
        self.shared.state().wars.insert(id.to_owned(), set_of(&fields));
    }

    /// Ends what [`Self::overwrite_whenever_changed`] began, for every cluster.
    pub fn leave_alone(&self) {
        self.shared.state().wars.clear();
    }

    /// Everything that was sent to it, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// The requests that ask to register a cluster.
    pub fn creates(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(Recorded::is_create).collect()
    }

    /// How many clusters were ever registered: those that were removed since count, too, and a
    /// create that was refused does not.
    pub fn registrations(&self) -> u64 {
        self.shared.state().registry.registered()
    }

    /// Every registered cluster as the gateway would show it, in the order of registration.
    pub fn clusters(&self) -> Vec<Value> {
        self.shared.state().registry.clusters()
    }

    /// A registered cluster as the gateway would show it.
    pub fn cluster(&self, id: &str) -> Option<Value> {
        self.shared.state().registry.read(id).map(Entry::to_value).ok()
    }

    /// Waits until `condition` holds; it is looked at again after every request that came in,
    /// every one that was carried out and every task that has ended.
    ///
    /// # Panics
    ///
    /// When `deadline` passes first; the message says what was waited for and what came in instead.
    #[expect(clippy::panic, reason = "the test that waits in vain has failed")]
    pub fn wait_for(&self, what: &str, deadline: Duration, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + deadline;
        let mut state = self.shared.state();
        loop {
            let changes = state.changes;
            drop(state);
            if condition(self) {
                return;
            }
            state = self.shared.state();
            while state.changes == changes {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let requests: Vec<String> =
                        state.requests.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
                    drop(state);
                    panic!("AIOS's stand-in waited {deadline:?} for {what}; it saw {requests:?}");
                }
                let waited = self.shared.changed.wait_timeout(state, left);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for AiosStandin {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}

/// `{"$set": …}` of the fields.
fn set_of(fields: &[(&str, Value)]) -> Value {
    let fields: Map<_, _> =
        fields.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
    Value::Object(Map::from_iter([("$set".to_owned(), Value::Object(fields))]))
}

/// What the services and the test share.
#[derive(Debug)]
struct Shared {
    /// Where the gateway listens, for the error texts that name it.
    gateway: SocketAddr,
    state: Mutex<StandinState>,
    /// Apart from the state, so that a script may ask the stand-in what it has seen.
    script: Mutex<Option<Script>>,
    /// Told after every change of `StandinState::changes`.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct StandinState {
    registry: Registry,
    infrastructures: Infrastructures,
    behaviour: Behaviour,
    for_next_creates: VecDeque<Behaviour>,
    /// By the cluster's id, the update that follows every other one.
    wars: BTreeMap<String, Value>,
    requests: Vec<Recorded>,
    changes: u64,
}

impl StandinState {
    /// A create by a client.
    fn create(&mut self, document: &Value) -> Result<Json, RegistryError> {
        let created = self.registry.create(document)?;
        let (id, answer) = (created.id().map(str::to_owned), created.to_json());
        self.strike_back(id.as_deref());
        Ok(answer)
    }

    /// An update by a client.
    fn update(&mut self, id: &str, update: &Value) -> Result<Json, RegistryError> {
        let updated = self.registry.update(id, update)?;
        let (id, answer) = (updated.id().map(str::to_owned), updated.to_json());
        self.strike_back(id.as_deref());
        Ok(answer)
    }

    fn strike_back(&mut self, id: Option<&str>) {
        if let Some(id) = id
            && let Some(update) = self.wars.get(id)
            && let Err(error) = self.registry.update(id, update)
        {
            log::error!(cluster = id, error:? = error; "the other writer is refused");
        }
    }
}

/// What a test gave to [`AiosStandin::misbehave_by`].
struct Script(Box<Decide>);

type Decide = dyn FnMut(&Recorded) -> Option<Fault> + Send;

impl Debug for Script {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("Script")
    }
}

impl Shared {
    /// A test that panicked while holding the lock leaves a state that is still whole.
    fn state(&self) -> MutexGuard<'_, StandinState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> MutexGuard<'_, Option<Script>> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request, and says how to treat it.
    fn record(&self, request: &Recorded) -> (Behaviour, Option<Fault>) {
        let mut state = self.state();
        let queued = if request.is_create() { state.for_next_creates.pop_front() } else { None };
        let behaviour = queued.unwrap_or_else(|| state.behaviour.clone());
        state.requests.push(request.clone());
        self.tell(&mut state);
        drop(state);
        let scripted = self.script().as_mut().and_then(|script| (script.0)(request));
        let fault = scripted.or_else(|| behaviour.fault(request));
        (behaviour, fault)
    }

    fn tell(&self, state: &mut StandinState) {
        state.changes += 1;
        self.changed.notify_all();
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    // A bed of nodes reaches this machine by a private address.
    let is_private = matches!(address.ip(), IpAddr::V4(ip) if ip.is_private());
    if !is_private && !address.ip().is_loopback() {
        return Err(StartError::Exposed { address });
    }
    let bound = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|source| StartError::Listen { address, source })
}

/// A service's routes with what all services have in common.
fn router(routes: Router<Arc<Shared>>, service: ServiceKind, shared: &Arc<Shared>) -> Router {
    routes
        .fallback(|| async { flask::flask_error(StatusCode::NOT_FOUND) })
        .method_not_allowed_fallback(|| async {
            flask::flask_error(StatusCode::METHOD_NOT_ALLOWED)
        })
        .layer(from_fn_with_state(Arc::clone(shared), misbehave))
        .layer(Extension(service))
        // Flask sets none.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(shared))
}

/// Keeps each request, and does to it what needs no knowledge of its meaning.
async fn misbehave(
    State(shared): State<Arc<Shared>>,
    Extension(service): Extension<ServiceKind>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        // The client went away in the middle of its request.
        return hang_up();
    };
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let recorded = Recorded {
        service,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        content_type: flask::content_type(&head.headers).map(str::to_owned),
        headers: headers.collect(),
        body: body.clone(),
    };
    let (behaviour, fault) = shared.record(&recorded);
    let (method, path) = (recorded.method, recorded.path);
    let log = |answer: &str| log::info!(service:? = service, method, path, answer; "request");
    if fault == Some(Fault::NotAnswering) {
        log("never");
    }
    let instead = match &fault {
        Some(fault) => fault.instead(&path).await,
        None => None,
    };
    let response = if let Some(response) = instead {
        response
    } else {
        head.extensions.insert(behaviour);
        let response = next.run(Request::from_parts(head, Body::from(body))).await;
        shared.tell(&mut shared.state());
        match &fault {
            Some(fault) => fault.spoil(response).await,
            None => response,
        }
    };
    match (response.extensions().get(), &fault) {
        (Some(Break::Reset), _) => log("reset"),
        (Some(Break::HangUp), Some(Fault::ReplyLost)) => log("lost"),
        (Some(Break::HangUp), _) => log("closed"),
        (None, _) => log(response.status().as_str()),
    }
    response
}
