//! A stand-in of the Kubernetes API, as far as checks read it: its version, nodes, namespaces and
//! what is in them, in pages, single objects, and access reviews, for the bearer of a token. It keeps
//! what it was asked. On loopback, over plain HTTP or over TLS with client certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use axum::Json;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rollcall_daemon::http::install_crypto_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
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
    /// What else there is to GET, by path.
    pub objects: BTreeMap<String, Value>,
    /// What access reviews do not allow: verb and resource, such as `get pods/log`.
    pub denied: BTreeSet<String>,
    /// Whose tokens it takes besides that of its kubeconfig.
    pub tokens: Vec<String>,
    /// Its version.
    pub version: String,
    /// Every ConfigMap of all namespaces.
    pub config_maps: Vec<Value>,
    /// The Secrets of all namespaces.
    pub secrets: Vec<Value>,
    /// The namespaces' names.
    pub namespaces: Vec<String>,
    /// Who may read Secrets besides its administrator.
    pub readers_of_secrets: Vec<ReaderOfSecrets>,
    /// How it answers.
    pub answers: Answers,
    /// What it was asked: method, path and query.
    pub requests: Vec<String>,
}

/// Somebody who may read the Secrets of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderOfSecrets {
    /// The user's or the group's name.
    pub who: String,
    /// The namespace; empty: all of them.
    pub namespace: String,
    /// `get`, `list` or `watch`.
    pub verb: String,
    /// The Secret's name; empty: all of them.
    pub name: String,
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
    /// As an API server does, but never to an access review.
    ReviewsNever,
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

    /// The same over TLS, for everybody, with a certificate of the test's.
    ///
    /// # Panics
    ///
    /// When it cannot listen, or the certificate is of no use.
    #[expect(clippy::expect_used, reason = "without its stand-in a test can only fail")]
    pub fn start_with_certificate(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        install_crypto_provider();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let server = server.expect("a certificate with its key");
        Self::serve(Some(RustlsConfig::from_config(Arc::new(server))))
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

    /// Its URL, without a path.
    pub fn url(&self) -> &str {
        &self.url
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

/// A Secret; its values are texts.
pub fn secret(namespace: &str, name: &str, kind: &str, values: &[(&str, &str)]) -> Value {
    let values =
        values.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into()));
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "type": kind,
        "data": values.collect::<serde_json::Map<_, _>>(),
    })
}

fn as_wanted() -> KubernetesState {
    KubernetesState {
        nodes: vec![node("n1", Some("n1")), node("n2", Some("n2"))],
        services: vec![service("ambassador", "ambassador", "NodePort", 32000, 31443)],
        pods: vec![pod("ambassador", "ambassador-1", "ambassador", true)],
        version: "v1.33.1".to_owned(),
        ..KubernetesState::default()
    }
}

async fn answer(State(state): State<Arc<Mutex<KubernetesState>>>, request: Request) -> Response {
    let state = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.push(format!("{} {}", request.method(), request.uri()));
        state.clone()
    };
    let path = request.uri().path().to_owned();
    let path = path.as_str();
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
    let known = [KUBERNETES_TOKEN].into_iter().chain(state.tokens.iter().map(String::as_str));
    let credentials = authorization(request.headers()).to_owned();
    if !known.into_iter().any(|token| credentials == format!("Bearer {token}")) {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    if request.method() == Method::POST && path == REVIEWS {
        return review(&state, request).await;
    }
    if request.method() == Method::POST {
        let path = path.to_owned();
        let body = to_bytes(request.into_body(), 64 * 1024).await.unwrap_or_default();
        let review = serde_json::from_slice(&body).unwrap_or_default();
        return match state.answers {
            Answers::ReviewsNever => std::future::pending().await,
            _ => reviewed(&path, review, &state.denied),
        };
    }
    if let Some(object) = state.objects.get(path) {
        return Json(object).into_response();
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = path.to_owned();
    match path.as_str() {
        "/version" => Json(json!({
            "major": "1", "minor": "33", "gitVersion": state.version, "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        }))
        .into_response(),
        "/api/v1/nodes" => list("NodeList", &state.nodes, &query),
        "/api/v1/services" => list("ServiceList", &state.services, &query),
        _ => state.in_a_namespace(&path, &query).unwrap_or_else(|| not_found(&path)),
    }
}

/// Answers an access review of whoever asks.
fn reviewed(path: &str, mut review: Value, denied: &BTreeSet<String>) -> Response {
    let status = match path.rsplit('/').next() {
        Some("selfsubjectaccessreviews") => {
            let word = |key: &str| {
                let word = review.pointer(&format!("/spec/resourceAttributes/{key}"));
                word.and_then(Value::as_str).unwrap_or_default()
            };
            let slash = if word("subresource").is_empty() { "" } else { "/" };
            let right =
                format!("{} {}{slash}{}", word("verb"), word("resource"), word("subresource"));
            json!({"allowed": !denied.contains(&right)})
        }
        Some("selfsubjectrulesreviews") => {
            json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false})
        }
        _ => return refusal(StatusCode::NOT_FOUND, "it is written to by nobody"),
    };
    if let Some(review) = review.as_object_mut() {
        review.insert("status".to_owned(), status);
    }
    (StatusCode::CREATED, Json(review)).into_response()
}

/// Where somebody else's rights are asked about.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// Says whether somebody may read Secrets, as RBAC does.
async fn review(state: &KubernetesState, request: Request) -> Response {
    let body = to_bytes(request.into_body(), 1024 * 1024).await;
    let mut review: Value = match body.ok().and_then(|body| serde_json::from_slice(&body).ok()) {
        Some(review) => review,
        None => return refusal(StatusCode::BAD_REQUEST, "it is no review"),
    };
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let is_meant = |who: &str| {
        let groups = review.pointer("/spec/groups").and_then(Value::as_array);
        text("/spec/user") == who || groups.into_iter().flatten().any(|group| group == who)
    };
    let asked = "/spec/resourceAttributes";
    let allows = |it: &&ReaderOfSecrets| {
        is_meant(&it.who)
            && it.verb == text(&format!("{asked}/verb"))
            && (it.namespace.is_empty() || it.namespace == text(&format!("{asked}/namespace")))
            && (it.name.is_empty() || it.name == text(&format!("{asked}/name")))
            && text(&format!("{asked}/resource")) == "secrets"
    };
    let status = match state.readers_of_secrets.iter().find(allows) {
        Some(it) => json!({"allowed": true, "reason": format!("RBAC: allowed to {}", it.who)}),
        None => json!({"allowed": false}),
    };
    if let Some(review) = review.as_object_mut() {
        review.insert("status".to_owned(), status);
    }
    (StatusCode::CREATED, Json(review)).into_response()
}

impl KubernetesState {
    /// A namespace, a list of what is in it, or one object of it.
    fn in_a_namespace(&self, path: &str, query: &str) -> Option<Response> {
        let mut parts = path.strip_prefix("/api/v1/namespaces/")?.split('/');
        let (namespace, kind, name) = (parts.next()?, parts.next(), parts.next());
        let Some(kind) = kind else {
            let is_there = self.namespaces.iter().any(|it| it == namespace);
            return is_there
                .then(|| Json(json!({"metadata": {"name": namespace}})).into_response());
        };
        let (list_kind, all) = match kind {
            "pods" => ("PodList", &self.pods),
            "services" => ("ServiceList", &self.services),
            "configmaps" => ("ConfigMapList", &self.config_maps),
            "secrets" => ("SecretList", &self.secrets),
            _ => return None,
        };
        let text =
            |it: &Value, key: &str| it.pointer(key).and_then(Value::as_str).map(str::to_owned);
        let here =
            all.iter().filter(|it| text(it, "/metadata/namespace").as_deref() == Some(namespace));
        let here: Vec<Value> = here.cloned().collect();
        let Some(name) = name else { return Some(list(list_kind, &here, query)) };
        let found = here.into_iter().find(|it| text(it, "/metadata/name").as_deref() == Some(name));
        found.map(|object| Json(object).into_response())
    }
}

fn not_found(path: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{path} not found"), "reason": "NotFound", "code": 404,
    });
    (StatusCode::NOT_FOUND, Json(status)).into_response()
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
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    (status, Json(body)).into_response()
}
