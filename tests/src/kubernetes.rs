//! A stand-in of the Kubernetes API, as far as checks read it: its version, nodes, Services and
//! pods, in pages, for the bearer of a token. It keeps what it was asked. On loopback, over plain
//! HTTP or over TLS with client certificates.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rollcall_daemon::http::install_crypto_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// The token that the stand-in takes, and that its kubeconfig holds.
pub const KUBERNETES_TOKEN: &str = "the-bearer-token-of-the-kubeconfig";

/// What the stand-in holds, and how it answers.
#[derive(Debug, Clone, Default)]
pub struct KubernetesState {
    /// The nodes.
    pub nodes: Vec<Value>,
    /// The Services of all namespaces.
    pub services: Vec<Value>,
    /// The pods of all namespaces.
    pub pods: Vec<Value>,
    /// How it answers.
    pub answers: Answers,
    /// What it was asked: method, path and query.
    pub requests: Vec<String>,
}

/// How the stand-in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// As an API server does.
    #[default]
    Normal,
    /// Never.
    Never,
    /// Its version, and nothing else.
    VersionAlone,
    /// To everything but its version that it is forbidden; it repeats the credentials.
    Forbidden,
    /// With a page that is not of Kubernetes.
    AnotherService,
}

/// A running stand-in. It serves from a thread of its own and stops when it is dropped.
#[derive(Debug)]
pub struct KubernetesStandin {
    state: Arc<Mutex<KubernetesState>>,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KubernetesStandin {
    /// Starts a stand-in on a free port, with a cluster that is as AIOS wants it: nodes `n1` and
    /// `n2`, and Ambassador.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start() -> Self {
        Self::serve(None)
    }

    /// The same over TLS. Who has no certificate of its authority gets no connection.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start_with_tls(tls: &Tls) -> Self {
        Self::serve(Some(tls.server.clone()))
    }

    #[expect(clippy::expect_used, reason = "without its stand-in a test can only fail")]
    fn serve(tls: Option<RustlsConfig>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let bound = || -> io::Result<(TcpListener, SocketAddr)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound().expect("a free port");
        let state = Arc::new(Mutex::new(as_wanted()));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&state)).into_make_service();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let serving = async {
                    match tls {
                        Some(tls) => axum_server::from_tcp_rustls(listener, tls)?.serve(app).await,
                        None => axum_server::from_tcp(listener)?.serve(app).await,
                    }
                };
                tokio::select! {
                    // Resolves when the sender is dropped, which is the signal.
                    _ = stopped => {}
                    _ = serving => {}
                }
            });
        });
        let url = format!("{scheme}://{address}");
        Self { state, url, stop: Some(stop), thread: Some(thread) }
    }

    /// What it holds and was asked; to be changed in place.
    pub fn state(&self) -> MutexGuard<'_, KubernetesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters:\n- name: lab\n  cluster:\n    server: {}\n\
             users:\n- name: admin\n  user:\n    token: {KUBERNETES_TOKEN}\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: admin\n",
            self.url
        )
    }
}

/// A certificate authority, what it signed for a server on loopback, and for a client; all PEM.
#[derive(Debug)]
pub struct Tls {
    /// The authority's certificate.
    pub ca: String,
    /// The client's certificate.
    pub client_cert: String,
    /// Its key.
    pub client_key: String,
    server: RustlsConfig,
}

impl Tls {
    /// Makes an authority and what it signs.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[expect(clippy::expect_used, reason = "without certificates a test can only fail")]
    pub fn generate() -> Self {
        install_crypto_provider();
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let signed = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            (params.signed_by(&key, &ca).expect("a certificate"), key)
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("an authority");
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        let (cert, key) = signed("127.0.0.1");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a server's configuration");
        let (client_cert, client_key) = signed("admin");
        Self {
            ca: ca.pem(),
            client_cert: client_cert.pem(),
            client_key: client_key.serialize_pem(),
            server: RustlsConfig::from_config(Arc::new(server)),
        }
    }
}

impl Drop for KubernetesStandin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}

/// A node as the API shows it.
pub fn node(name: &str, node_id: Option<&str>) -> Value {
    let labels = node_id.map_or_else(|| json!({}), |id| json!({"nodeID": id}));
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        },
    })
}

/// A Service with one HTTP and one HTTPS port.
pub fn service(namespace: &str, name: &str, kind: &str, http: u16, https: u16) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": kind,
            "selector": {"service": name},
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "nodePort": http, "protocol": "TCP"},
                {"name": "https", "port": 443, "targetPort": 8443, "nodePort": https, "protocol": "TCP"},
            ],
        },
    })
}

/// A pod of a Service.
pub fn pod(namespace: &str, name: &str, service: &str, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"service": service}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
    })
}

fn as_wanted() -> KubernetesState {
    KubernetesState {
        nodes: vec![node("n1", Some("n1")), node("n2", Some("n2"))],
        services: vec![service("ambassador", "ambassador", "NodePort", 32000, 31443)],
        pods: vec![pod("ambassador", "ambassador-1", "ambassador", true)],
        ..KubernetesState::default()
    }
}

async fn answer(State(state): State<Arc<Mutex<KubernetesState>>>, request: Request) -> Response {
    let state = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(format!("{} {}", request.method(), request.uri()));
        state.clone()
    };
    let path = request.uri().path();
    match state.answers {
        Answers::Never => std::future::pending().await,
        Answers::AnotherService => return "<html>welcome</html>".into_response(),
        Answers::VersionAlone if path != "/version" => std::future::pending().await,
        Answers::Forbidden if path != "/version" => {
            let repeated = authorization(request.headers());
            return refusal(StatusCode::FORBIDDEN, &format!("nodes is forbidden to {repeated}"));
        }
        _ => {}
    }
    if authorization(request.headers()) != format!("Bearer {KUBERNETES_TOKEN}") {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let of = |namespace: &'static str, all: &[Value]| -> Vec<Value> {
        let is_there = |it: &&Value| it.pointer("/metadata/namespace") == Some(&namespace.into());
        all.iter().filter(is_there).cloned().collect()
    };
    let query = request.uri().query().unwrap_or_default();
    match path {
        "/version" => Json(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.1", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        }))
        .into_response(),
        "/api/v1/nodes" => list("NodeList", &state.nodes, query),
        "/api/v1/services" => list("ServiceList", &state.services, query),
        "/api/v1/namespaces/ambassador/services" => {
            list("ServiceList", &of("ambassador", &state.services), query)
        }
        "/api/v1/namespaces/ambassador/pods" => {
            list("PodList", &of("ambassador", &state.pods), query)
        }
        _ => refusal(StatusCode::NOT_FOUND, "the server could not find the requested resource"),
    }
}

/// A page of a list; the token of the next one is where it begins.
fn list(kind: &str, all: &[Value], query: &str) -> Response {
    let number = |key: &str| -> Option<usize> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(name, _)| *name == key)?.1.parse().ok()
    };
    let start = number("continue").unwrap_or_default().min(all.len());
    let end = number("limit").map_or(all.len(), |limit| all.len().min(start + limit));
    let items = all.get(start..end).unwrap_or_default();
    let mut metadata = json!({"resourceVersion": "1"});
    if let (true, Some(metadata)) = (end < all.len(), metadata.as_object_mut()) {
        metadata.insert("continue".to_owned(), end.to_string().into());
    }
    Json(json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items}))
        .into_response()
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}
