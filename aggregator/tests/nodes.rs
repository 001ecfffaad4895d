//! The watch of the Nodes against a stand-in of the API server: lists in pages, watches that break off,
//! lists that fail or are empty.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Response};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use rollcall_aggregator::kubernetes::nodes::Nodes;
use rollcall_aggregator::kubernetes::nodes::watch::watch;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the stand-in holds, and how it answers.
#[derive(Default)]
struct ApiServer {
    /// UIDs by name.
    nodes: BTreeMap<String, String>,
    version: u64,
    /// Answers everything with this status.
    fails_with: Option<u16>,
    /// The watches that are open.
    watches: Vec<mpsc::UnboundedSender<Bytes>>,
    /// What it was asked: `list`, `list from N`, `watch`.
    asked: Vec<String>,
}

impl ApiServer {
    fn answer(&mut self, query: &str) -> Response<Reply> {
        let parameters: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        if parameters.contains_key("watch") {
            self.asked.push("watch".to_owned());
        } else {
            let from = parameters.get("continue").map_or(String::new(), |it| format!(" from {it}"));
            self.asked.push(format!("list{from}"));
        }
        if let Some(code) = self.fails_with {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "nodes is forbidden", "reason": "Forbidden", "code": code,
            });
            return reply(code, once(&status));
        }
        if parameters.contains_key("watch") {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.watches.push(sender);
            let events = stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|event| (event, receiver))
            });
            return reply(200, events.boxed());
        }
        let number = |name| parameters.get(name).map(|it| it.parse::<usize>().expect("a number"));
        let limit = number("limit").expect("a limit");
        let from = number("continue").unwrap_or(0);
        let items: Vec<Value> = self.nodes.iter().map(|(name, uid)| self.node(name, uid)).collect();
        let rest = items.len().saturating_sub(from + limit);
        let next = if rest > 0 { (from + limit).to_string() } else { String::new() };
        let page: Vec<&Value> = items.iter().skip(from).take(limit).collect();
        reply(
            200,
            once(&json!({
                "kind": "NodeList", "apiVersion": "v1", "items": page,
                "metadata": {"resourceVersion": self.version.to_string(), "continue": next},
            })),
        )
    }

    fn node(&self, name: &str, uid: &str) -> Value {
        json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {"name": name, "uid": uid, "resourceVersion": self.version.to_string()},
        })
    }

    fn put(&mut self, name: &str, uid: &str) {
        self.nodes.insert(name.to_owned(), uid.to_owned());
        self.tell("ADDED", name, uid);
    }

    fn delete(&mut self, name: &str) {
        let uid = self.nodes.remove(name).expect("the Node");
        self.tell("DELETED", name, &uid);
    }

    fn tell(&mut self, what: &str, name: &str, uid: &str) {
        self.version += 1;
        let event = json!({"type": what, "object": self.node(name, uid)});
        self.send(&event);
    }

    fn send(&mut self, event: &Value) {
        let line = Bytes::from(format!("{event}\n"));
        self.watches.retain(|watch| watch.send(line.clone()).is_ok());
    }
}

type Reply = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

fn once(body: &Value) -> BoxStream<'static, Bytes> {
    let body = Bytes::from(body.to_string());
    stream::once(async { body }).boxed()
}

fn reply(status: u16, body: BoxStream<'static, Bytes>) -> Response<Reply> {
    let frames = body.map(|bytes| Ok(Frame::data(bytes))).boxed();
    Response::builder().status(status).body(StreamBody::new(frames)).expect("a response")
}

struct Bed {
    server: Arc<Mutex<ApiServer>>,
    nodes: Nodes,
    watch: JoinHandle<Infallible>,
}

impl Bed {
    fn new(names: &[&str]) -> Self {
        let server = Arc::new(Mutex::new(ApiServer::default()));
        for name in names {
            lock(&server).put(name, &format!("uid-of-{name}"));
        }
        let service = {
            let server = Arc::clone(&server);
            tower::service_fn(move |request: Request<Body>| {
                let answer = lock(&server).answer(request.uri().query().unwrap_or_default());
                async { Ok::<_, Infallible>(answer) }
            })
        };
        let nodes = Nodes::watched(BTreeSet::new());
        let client = kube::Client::new(service, "default");
        let watch = tokio::spawn(watch(client, nodes.clone()));
        Self { server, nodes, watch }
    }

    fn server(&self) -> MutexGuard<'_, ApiServer> {
        lock(&self.server)
    }

    /// The names that are known, when they are these; what is known instead after a long time.
    async fn known(&self, expected: &[&str]) {
        let mut got = None;
        for _ in 0..3000 {
            got =
                self.nodes.all().map(|all| all.keys().map(ToString::to_string).collect::<Vec<_>>());
            if got.as_deref().is_some_and(|got| got == expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{expected:?} expected, {got:?} known; asked: {:?}", self.server().asked);
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{what}: not seen; asked: {:?}", self.server().asked);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.server().asked)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn lock(server: &Mutex<ApiServer>) -> MutexGuard<'_, ApiServer> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_and_what_changes() {
    let bed = Bed::new(&["a", "b"]);
    assert!(bed.nodes.is_watched() && bed.nodes.all().is_none(), "not listed yet");
    bed.known(&["a", "b"]).await;
    let mut changes = bed.nodes.changes().expect("watched");
    bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
    bed.server().put("c", "uid-of-c");
    bed.known(&["a", "b", "c"]).await;
    assert!(changes.has_changed().expect("open"));
    changes.mark_unchanged();
    bed.server().delete("b");
    bed.known(&["a", "c"]).await;
    changes.mark_unchanged();
    bed.server().put("a", "uid-of-a");
    bed.server().put("d", "uid-of-d");
    bed.known(&["a", "c", "d"]).await;
    drop(changes.borrow_and_update());
    bed.server().put("d", "uid-of-d");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!changes.has_changed().expect("open"), "nothing that is looked at has changed");
    assert_eq!(bed.asked(), ["list", "watch"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages() {
    let names: Vec<String> = (0..450).map(|n| format!("n{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::new(&names);
    bed.known(&names).await;
    bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
    assert_eq!(bed.asked(), ["list", "list from 200", "list from 400", "watch"]);
}

#[tokio::test(start_paused = true)]
async fn what_went_while_nobody_watched() {
    let expired = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    }});
    let bed = Bed::new(&["a", "b", "c"]);
    bed.known(&["a", "b", "c"]).await;
    bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
    {
        let mut server = bed.server();
        let watches = std::mem::take(&mut server.watches);
        server.delete("b");
        server.delete("c");
        server.put("c", "another-uid-of-c");
        server.watches = watches;
        server.send(&expired);
    }
    bed.known(&["a", "c"]).await;
    let name = "c".parse().expect("a name");
    assert_eq!(bed.nodes.get(&name).expect("known").uid, "another-uid-of-c");
    assert_eq!(bed.nodes.failing(), None, "the API server answered all the time");
    assert_eq!(bed.asked(), ["list", "watch", "list", "watch"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_off_once_is_taken_up() {
    let bed = Bed::new(&["a", "b"]);
    bed.known(&["a", "b"]).await;
    for _ in 0..3 {
        bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
        bed.server().watches.clear();
    }
    bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
    bed.server().delete("b");
    bed.known(&["a"]).await;
    assert_eq!(bed.asked(), ["list", "watch", "watch", "watch", "watch"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_empty_list_takes_nothing_away() {
    for (what, fails_with, words) in [
        ("an API server that fails", Some(500), "nodes is forbidden"),
        ("no rights", Some(403), "GET /api/v1/nodes: it answered 403: nodes is forbidden"),
        ("an empty list", None, "with no Nodes at all"),
    ] {
        let bed = Bed::new(&["a", "b"]);
        bed.known(&["a", "b"]).await;
        bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
        let nodes = {
            let mut server = bed.server();
            server.fails_with = fails_with;
            server.watches.clear();
            std::mem::take(&mut server.nodes)
        };
        if fails_with.is_none() {
            let expired = json!({"type": "ERROR", "object": {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "too old", "reason": "Expired", "code": 410,
            }});
            bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
            bed.server().send(&expired);
        }
        bed.until(what, |bed| bed.nodes.failing().is_some()).await;
        let since = bed.nodes.failing().expect("failing").since;
        tokio::time::sleep(Duration::from_mins(2)).await;
        let failing = bed.nodes.failing().expect("failing");
        assert!(failing.words.contains(words), "{what}: {}", failing.words);
        assert_eq!(failing.since, since, "{what}");
        bed.known(&["a", "b"]).await;
        assert!(bed.asked().len() < 20, "{what}: pauses between tries");
        {
            let mut server = bed.server();
            server.fails_with = None;
            server.nodes = nodes;
            server.nodes.remove("a");
        }
        bed.known(&["b"]).await;
        assert_eq!(bed.nodes.failing(), None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_never_listed_is_not_known() {
    let bed = Bed::new(&[]);
    bed.until("a failure", |bed| bed.nodes.failing().is_some()).await;
    assert!(bed.nodes.all().is_none());
    bed.server().put("b", "uid-of-b");
    let listed = bed.nodes.listed().await;
    assert_eq!(listed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nothing_comes_from_is_not_believed() {
    let bed = Bed::new(&["a", "b"]);
    bed.known(&["a", "b"]).await;
    bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
    {
        // It goes unheard.
        let mut server = bed.server();
        let watches = std::mem::take(&mut server.watches);
        server.delete("b");
        server.watches = watches;
    }
    let before = tokio::time::Instant::now();
    let mut waited = Duration::ZERO;
    while bed.nodes.all().is_none_or(|all| all.len() == 2) && waited < Duration::from_mins(30) {
        tokio::time::sleep(Duration::from_secs(10)).await;
        waited = before.elapsed();
    }
    assert!(waited < Duration::from_mins(14), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn where_no_watch_lives_lists_do() {
    let bed = Bed::new(&["a", "b"]);
    bed.known(&["a", "b"]).await;
    for round in 0..5 {
        // Each watch breaks off with an error as soon as it is there.
        for _ in 0..2 {
            bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
            let watches = std::mem::take(&mut bed.server().watches);
            for watch in watches {
                drop(watch.send(Bytes::from_static(b"no JSON\n")));
            }
        }
        bed.until("a list", |bed| {
            bed.server().asked.iter().filter(|it| *it == "list").count() > round
        })
        .await;
    }
    assert_eq!(bed.nodes.failing(), None, "the lists are as good as ever");
    bed.server().nodes.remove("b");
    for _ in 0..2 {
        bed.until("a watch", |bed| !bed.server().watches.is_empty()).await;
        let watches = std::mem::take(&mut bed.server().watches);
        for watch in watches {
            drop(watch.send(Bytes::from_static(b"no JSON\n")));
        }
    }
    bed.known(&["a"]).await;
}
