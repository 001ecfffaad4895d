//! A stand-in of the Kubernetes API with one Node, which it lists, tells changes of, and lets be
//! applied to as an API server does: whose each label is, conflicts, force, UIDs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use rollcall_report::{NODE_CLASS_LABEL, NODE_ID_LABEL};
use serde_json::{Map, Value, json};
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::{SECRET, SOON};

const NODE: &str = "node-1";

/// A running stand-in.
pub(crate) struct Kubernetes {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    world: Mutex<World>,
    /// The version of the world, for those who wait for a change.
    version: watch::Sender<u64>,
}

/// What the stand-in holds.
#[derive(Default)]
pub(crate) struct World {
    node: Option<Node>,
    version: u64,
    /// What watchers are told, by version.
    events: Vec<(u64, Value)>,
    /// Answers 403 to what begins so, such as `PATCH`.
    pub(crate) forbidden: Option<&'static str>,
    /// Tells watchers nothing.
    pub(crate) is_mute: bool,
    /// What was asked: method, path, query.
    pub(crate) requests: Vec<String>,
}

#[derive(Clone)]
struct Node {
    uid: String,
    labels: BTreeMap<String, String>,
    /// By manager and operation.
    owners: BTreeMap<(String, &'static str), BTreeSet<String>>,
}

impl Node {
    fn json(&self, version: u64) -> Value {
        let managed: Vec<Value> = self
            .owners
            .iter()
            .map(|((manager, operation), keys)| {
                let labels: Map<String, Value> =
                    keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect();
                json!({
                    "manager": manager, "operation": operation, "apiVersion": "v1",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": labels}},
                })
            })
            .collect();
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": {
                "name": NODE, "uid": self.uid, "resourceVersion": version.to_string(),
                "labels": self.labels, "managedFields": managed,
            },
        })
    }

    fn owners_but(&self, manager: &str, key: &str) -> Vec<String> {
        let owners =
            self.owners.iter().filter(|((name, _), keys)| name != manager && keys.contains(key));
        owners.map(|((name, _), _)| name.clone()).collect()
    }

    /// Server-side apply of labels; the values that it conflicts with, where it does.
    fn apply(&mut self, manager: &str, labels: &Map<String, Value>, force: bool) -> Vec<String> {
        let differs = |key: &String, value: &Value| {
            self.labels.get(key).is_some_and(|present| Some(present.as_str()) != value.as_str())
        };
        let contested: Vec<&String> =
            labels.iter().filter(|(key, value)| differs(key, value)).map(|(key, _)| key).collect();
        let conflicts: Vec<String> = contested
            .iter()
            .flat_map(|key| {
                let owners = self.owners_but(manager, key).into_iter();
                owners.map(move |owner| {
                    format!("conflict with \"{owner}\" using v1: .metadata.labels.{key}")
                })
            })
            .collect();
        if !force && !conflicts.is_empty() {
            return conflicts;
        }
        let contested: Vec<String> = contested.into_iter().cloned().collect();
        for keys in self.owners.values_mut() {
            keys.retain(|key| !contested.contains(key));
        }
        let keys: BTreeSet<String> = labels.keys().cloned().collect();
        let before = self.owners.insert((manager.to_owned(), "Apply"), keys).unwrap_or_default();
        for key in before.iter().filter(|key| !labels.contains_key(*key)) {
            if self.owners_but(manager, key).is_empty() {
                self.labels.remove(key);
            }
        }
        for (key, value) in labels {
            self.labels.insert(key.clone(), value.as_str().expect("a text").to_owned());
        }
        Vec::new()
    }
}

impl World {
    fn changed(&mut self, kind: &str) {
        self.version += 1;
        let node = self.node.as_ref().expect("a Node").json(self.version);
        if !self.is_mute {
            self.events.push((self.version, json!({"type": kind, "object": node})));
        }
    }
}

impl Kubernetes {
    /// Starts a stand-in without a Node.
    pub(crate) fn start() -> Self {
        // Each is at an address of its own: the port of one that is away would be given to another
        // stand-in, and the agent of the one would talk to the other.
        static LAST: AtomicU8 = AtomicU8::new(0);
        let last = LAST.fetch_add(1, Ordering::Relaxed);
        let (version, _) = watch::channel(0);
        let shared = Arc::new(Shared { world: Mutex::default(), version });
        let mut kubernetes = Self { address: ([127, 0, 1, last], 0).into(), shared, running: None };
        kubernetes.come_back();
        kubernetes
    }

    /// Serves again, at the address where it was.
    pub(crate) fn come_back(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let bound = async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("a setting");
            socket.bind(self.address).expect("the port");
            socket.listen(16).expect("listens")
        };
        let listener = thread::scope(|scope| {
            let bound = scope.spawn(|| runtime.block_on(bound));
            bound.join().expect("bound")
        });
        self.address = listener.local_addr().expect("bound");
        let nodes = "/api/v1/nodes";
        let router = Router::new()
            .route(nodes, get(list_or_watch))
            .route(&format!("{nodes}/{NODE}"), axum::routing::patch(apply))
            .with_state(Arc::clone(&self.shared));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Resolves when the sender is dropped, too.
                    _ = stopped => {}
                    served = axum::serve(listener, router) => served.expect("serves"),
                }
            });
            // All connections end with it.
            drop(runtime);
        });
        self.running = Some((stop, thread));
    }

    /// Stops serving: connections break off, and new ones are refused.
    pub(crate) fn go_away(&mut self) {
        let (stop, thread) = self.running.take().expect("running");
        drop(stop);
        thread.join().expect("ended well");
    }

    /// Writes a kubeconfig for it.
    pub(crate) fn write_kubeconfig(&self, path: &Path) {
        let text = format!(
            "current-context: lab\nclusters:\n- name: lab\n  cluster:\n    server: http://{}\n\
             users:\n- name: node\n  user:\n    token: {SECRET}-for-kubernetes\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: node\n",
            self.address
        );
        std::fs::write(path, text).expect("written");
    }

    /// The world, to be looked at or changed.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().expect("nobody panicked")
    }

    fn change(&self, kind: &str, change: impl FnOnce(&mut Option<Node>)) {
        let mut world = self.world();
        if kind == "DELETED" {
            world.changed(kind);
            change(&mut world.node);
        } else {
            change(&mut world.node);
            world.changed(kind);
        }
        self.shared.version.send_replace(world.version);
    }

    /// The Node joins.
    pub(crate) fn join(&self, uid: &str) {
        self.change("ADDED", |node| {
            let uid = uid.to_owned();
            *node = Some(Node { uid, labels: BTreeMap::new(), owners: BTreeMap::new() });
        });
    }

    /// The Node is deleted.
    pub(crate) fn delete(&self) {
        self.change("DELETED", |node| *node = None);
    }

    /// Somebody labels the Node as `kubectl label --overwrite` does; `None` removes the label.
    pub(crate) fn label(&self, key: &str, value: Option<&str>) {
        self.change("MODIFIED", |node| {
            let node = node.as_mut().expect("a Node");
            for keys in node.owners.values_mut() {
                keys.remove(key);
            }
            match value {
                Some(value) => {
                    node.labels.insert(key.to_owned(), value.to_owned());
                    let kubectl = ("kubectl-label".to_owned(), "Update");
                    node.owners.entry(kubectl).or_default().insert(key.to_owned());
                }
                None => {
                    node.labels.remove(key);
                }
            }
        });
    }

    /// The Node's id and class now.
    pub(crate) fn labels(&self) -> (Option<String>, Option<String>) {
        let world = self.world();
        let label = |key: &str| world.node.as_ref()?.labels.get(key).cloned();
        (label(NODE_ID_LABEL), label(NODE_CLASS_LABEL))
    }

    /// Waits until the Node's id and class are these.
    pub(crate) async fn wait_for(&self, node_id: Option<&str>, class: Option<&str>) {
        let expected = (node_id.map(str::to_owned), class.map(str::to_owned));
        let mut versions = self.shared.version.subscribe();
        let reached = versions.wait_for(|_| self.labels() == expected);
        let in_time = timeout(SOON, reached).await.is_ok();
        assert!(in_time, "{expected:?} and not {:?}: {:#?}", self.labels(), self.world().requests);
    }

    /// How often something was asked for that begins so.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.world().requests.iter().filter(|asked| asked.starts_with(request)).count()
    }

    /// Waits until something was asked for so often.
    pub(crate) async fn wait_for_requests(&self, request: &str, times: usize) {
        let counted = async {
            while self.count(request) < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(SOON, counted).await.is_ok();
        assert!(in_time, "{times} of {request} in {:#?}", self.world().requests);
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}

/// Notes a request; the answer where it is not let through.
fn admit(shared: &Shared, method: &str, query: &str, headers: &HeaderMap) -> Option<Response> {
    let mut world = shared.world.lock().expect("nobody panicked");
    let request = format!("{method} {query}");
    let is_forbidden = world.forbidden.is_some_and(|beginning| request.starts_with(beginning));
    world.requests.push(request);
    let credentials = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if credentials != Some(&format!("Bearer {SECRET}-for-kubernetes")) {
        return Some(status(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    // As a careless proxy does.
    let words = format!("nodes \"{NODE}\" is forbidden to {}", credentials.unwrap_or_default());
    is_forbidden.then(|| status(StatusCode::FORBIDDEN, &words))
}

async fn list_or_watch(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    assert!(query.contains(&format!("fieldSelector=metadata.name%3D{NODE}")), "{query}");
    let accept = headers.get(header::ACCEPT).expect("what is wanted").to_str().expect("a text");
    assert!(accept.contains("as=PartialObjectMetadata"), "no whole Nodes: {accept}");
    if !query.contains("watch=true") {
        if let Some(refusal) = admit(&shared, "LIST", &query, &headers) {
            return refusal;
        }
        let world = shared.world.lock().expect("nobody panicked");
        let items: Vec<Value> = world.node.iter().map(|node| node.json(world.version)).collect();
        return json_body(&json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": world.version.to_string()}, "items": items,
        }))
        .into_response();
    }
    if let Some(refusal) = admit(&shared, "WATCH", &query, &headers) {
        return refusal;
    }
    let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
    let seen: u64 = version.expect("from a version on").parse().expect("a number");
    let versions = shared.version.subscribe();
    let told =
        stream::unfold((shared, versions, seen), |(shared, mut versions, seen)| async move {
            loop {
                let next = {
                    let world = shared.world.lock().expect("nobody panicked");
                    world.events.iter().find(|(version, _)| *version > seen).cloned()
                };
                if let Some((version, event)) = next {
                    let line = Bytes::from(format!("{event}\n"));
                    return Some((Ok::<_, Infallible>(line), (shared, versions, version)));
                }
                versions.changed().await.ok()?;
            }
        });
    Body::from_stream(told).into_response()
}

async fn apply(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = query.unwrap_or_default();
    if let Some(refusal) = admit(&shared, "PATCH", &query, &headers) {
        return refusal;
    }
    let content_type = headers.get(header::CONTENT_TYPE).expect("a type");
    assert_eq!(content_type, "application/apply-patch+yaml");
    assert!(query.contains("fieldManager=rollcall-agent"), "{query}");
    let applied: Value = serde_json::from_slice(&body).expect("JSON");
    let uid = applied.pointer("/metadata/uid").expect("the Node that is meant").clone();
    let labels = applied.pointer("/metadata/labels").expect("labels").clone();
    let metadata = json!({"name": NODE, "uid": uid, "labels": labels});
    let minimal = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
    assert_eq!(applied, minimal, "labels and no more");
    let mut world = shared.world.lock().expect("nobody panicked");
    let Some(mut node) = world.node.clone() else {
        return status(StatusCode::CONFLICT, "uid mismatch: no existing object was found");
    };
    if uid != node.uid.as_str() {
        return status(StatusCode::UNPROCESSABLE_ENTITY, "metadata.uid: field is immutable");
    }
    let labels = labels.as_object().expect("an object");
    let conflicts = node.apply("rollcall-agent", labels, query.contains("force=true"));
    if !conflicts.is_empty() {
        let words =
            format!("Apply failed with {} conflict: {}", conflicts.len(), conflicts.join(", "));
        return status(StatusCode::CONFLICT, &words);
    }
    let before = world.node.replace(node.clone());
    if before.is_none_or(|before| before.labels != node.labels || before.owners != node.owners) {
        world.changed("MODIFIED");
        shared.version.send_replace(world.version);
    }
    json_body(&node.json(world.version)).into_response()
}

fn status(code: StatusCode, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": code.as_u16(),
    });
    (code, json_body(&body)).into_response()
}

fn json_body(body: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
}
