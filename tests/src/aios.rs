//! A stand-in of AIOS: its parser, its cluster controller gateway and, behind both, its registry
//! of clusters. It answers what the real services answer to the same bytes, faults included, and
//! keeps everything that it is sent.
//!
//! What is imitated was found by running the real services and reading their code. They are two
//! Flask programs over an Express program with Mongoose; replies look accordingly.

mod gateway;
mod parser;
mod registry;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use registry::Registry;

/// How long no connection is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// Everything is answered as usual, later.
    Stalls {
        /// How much later.
        delay: Duration,
    },
    /// Requests are read and nothing is ever answered or done.
    NotAnswering,
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
    /// The body, as it was sent.
    pub body: Bytes,
}

impl Recorded {
    /// The body as JSON, where it is JSON.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether it asks to register a cluster, by either service.
    pub fn is_create(&self) -> bool {
        let path = match self.service {
            ServiceKind::Parser => parser::CREATE_PATH,
            ServiceKind::Gateway => gateway::CREATE_PATH,
        };
        self.method == Method::POST.as_str() && self.path == path
    }
}

/// AIOS's two services that are reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// The parser.
    Parser,
    /// The cluster controller gateway.
    Gateway,
}

/// Why a stand-in could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address that others could reach.
    #[error(
        "the stand-in of AIOS takes registrations from anybody, so it listens on loopback only, not on {address}"
    )]
    NotLoopback {
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
    parser: SocketAddr,
    gateway: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AiosStandin {
    /// Starts a stand-in on two free ports of loopback.
    ///
    /// # Panics
    ///
    /// When it cannot listen there.
    #[expect(clippy::panic, reason = "without its stand-in a test can only fail")]
    pub fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_on(any, any).unwrap_or_else(|error| {
            panic!("{}", rollcall_report::error_chain(&error));
        })
    }

    /// Starts a stand-in on the given addresses; port 0 takes any free one.
    ///
    /// # Errors
    ///
    /// When an address is not loopback or cannot be listened on.
    pub fn start_on(parser: SocketAddr, gateway: SocketAddr) -> Result<Self, StartError> {
        let (parser_listener, parser) = listen(parser)?;
        let (gateway_listener, gateway) = listen(gateway)?;
        let shared = Arc::new(Shared { gateway, state: Mutex::default(), changed: Condvar::new() });
        let parser_router = router(parser::router(), ServiceKind::Parser, &shared);
        let gateway_router = router(gateway::router(), ServiceKind::Gateway, &shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StartError::Thread { source })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("aios-standin".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        // Resolves when the sender is dropped, which is the signal.
                        _ = stopped => {}
                        () = serve(parser_listener, parser_router) => {}
                        () = serve(gateway_listener, gateway_router) => {}
                    }
                });
            })
            .map_err(|source| StartError::Thread { source })?;
        Ok(Self { shared, parser, gateway, stop: Some(stop), thread: Some(thread) })
    }

    /// The parser's URL, without a slash at its end.
    pub fn parser_url(&self) -> String {
        format!("http://{}", self.parser)
    }

    /// The gateway's URL, without a slash at its end.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway)
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

    /// Everything that was sent to it, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// The requests that ask to register a cluster.
    pub fn creates(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(Recorded::is_create).collect()
    }

    /// Every registered cluster as the gateway would show it, in the order of registration.
    pub fn clusters(&self) -> Vec<Value> {
        self.shared.state().registry.clusters()
    }

    /// A registered cluster as the gateway would show it.
    pub fn cluster(&self, id: &str) -> Option<Value> {
        self.shared.state().registry.read(id).ok()
    }

    /// Waits until `condition` holds; it is looked at again after every request that came in and
    /// every one that was carried out.
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
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}

/// What both services and the test share.
#[derive(Debug)]
struct Shared {
    /// Where the gateway listens, for the error texts that name it.
    gateway: SocketAddr,
    state: Mutex<StandinState>,
    /// Told after every change of `StandinState::changes`.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct StandinState {
    registry: Registry,
    behaviour: Behaviour,
    for_next_creates: VecDeque<Behaviour>,
    requests: Vec<Recorded>,
    changes: u64,
}

impl Shared {
    /// A test that panicked while holding the lock leaves a state that is still whole.
    fn state(&self) -> MutexGuard<'_, StandinState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request, and says how to treat it.
    fn record(&self, request: Recorded) -> Behaviour {
        let mut state = self.state();
        let queued = if request.is_create() { state.for_next_creates.pop_front() } else { None };
        let behaviour = queued.unwrap_or_else(|| state.behaviour.clone());
        state.requests.push(request);
        self.tell(&mut state);
        behaviour
    }

    fn tell(&self, state: &mut StandinState) {
        state.changes += 1;
        self.changed.notify_all();
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    if !address.ip().is_loopback() {
        return Err(StartError::NotLoopback { address });
    }
    let bound = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|source| StartError::Listen { address, source })
}

/// A service's routes with what both services have in common.
fn router(routes: Router<Arc<Shared>>, service: ServiceKind, shared: &Arc<Shared>) -> Router {
    routes
        .fallback(|| async { flask_error(StatusCode::NOT_FOUND) })
        .method_not_allowed_fallback(|| async { flask_error(StatusCode::METHOD_NOT_ALLOWED) })
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
    let recorded = Recorded {
        service,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        content_type: content_type(&head.headers).map(str::to_owned),
        body: body.clone(),
    };
    let (method, path) = (recorded.method.clone(), recorded.path.clone());
    let is_create = recorded.is_create();
    let behaviour = shared.record(recorded);
    let log = |answer: &str| log::info!(service:? = service, method, path, answer; "request");
    match &behaviour {
        Behaviour::NotAnswering => {
            log("never");
            std::future::pending::<()>().await;
        }
        Behaviour::GatewayDown if service == ServiceKind::Gateway => {
            log("closed");
            return hang_up();
        }
        Behaviour::Stalls { delay } => tokio::time::sleep(*delay).await,
        _ => {}
    }
    head.extensions.insert(behaviour.clone());
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    shared.tell(&mut shared.state());
    if is_create && behaviour == Behaviour::ReplyLost {
        log("lost");
        return hang_up();
    }
    log(response.status().as_str());
    response
}

/// Stands for no answer: [`serve`] closes the connection instead of writing it.
fn hang_up() -> Response {
    Extension(HangUp).into_response()
}

#[derive(Debug, Clone, Copy, Error)]
#[error("the connection is closed without an answer")]
struct HangUp;

/// Serves for ever. axum's own `serve` cannot leave a request unanswered, hyper can.
async fn serve(listener: TcpListener, router: Router) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!(error:% = error; "the listener cannot be registered with the runtime");
            return;
        }
    };
    // Dropped with this future, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors or the like, which passes.
                log::warn!(error:% = error; "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let answer = service_fn(move |request| {
            let answered = service.call(request);
            async move {
                let Ok(response) = answered.await;
                let unanswered = response.extensions().get::<HangUp>().copied();
                unanswered.map_or(Ok(response), Err)
            }
        });
        connections.spawn(async move {
            // It fails when the client goes away and when we hang up; both are what a test wants.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// A reply as Flask's `jsonify` writes it: keys sorted at every level, a newline at the end.
fn jsonify(status: StatusCode, mut body: Value) -> Response {
    body.sort_all_objects();
    let text = format!("{body}\n");
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Flask's page for a request that reaches no view.
fn flask_error(status: StatusCode) -> Response {
    let (name, text) = if status == StatusCode::METHOD_NOT_ALLOWED {
        ("Method Not Allowed", "The method is not allowed for the requested URL.")
    } else {
        (
            "Not Found",
            "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.",
        )
    };
    let code = status.as_u16();
    let page = format!(
        "<!doctype html>\n<html lang=en>\n<title>{code} {name}</title>\n<h1>{name}</h1>\n<p>{text}</p>\n"
    );
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// The body as Flask's `request.get_json()` gives it, or what its exception says.
fn flask_json(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    let media_type = content_type(headers).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = media_type.strip_prefix("application/").unwrap_or_default();
    if subtype != "json" && !subtype.ends_with("+json") {
        return Err("415 Unsupported Media Type: Did not attempt to load JSON data because the \
                    request Content-Type was not 'application/json'."
            .to_owned());
    }
    // Why it is no JSON is told in Flask's debug mode only.
    serde_json::from_slice(body).map_err(|_why| {
        "400 Bad Request: The browser (or proxy) sent a request that this server could not \
         understand."
            .to_owned()
    })
}

/// Whether Python takes the value for false.
fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
