//! The page by its bytes: what it shows, to whom, with which headers, and that it lets go of who
//! follows the news when the aggregator stops.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use rollcall_aggregator::admin::access::Access;
use rollcall_aggregator::admin::router::router;
use rollcall_aggregator::aggregator::Aggregator;
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::kubernetes::nodes::{Node, Nodes};
use rollcall_aggregator::metrics::Metrics;
use rollcall_aggregator::onboarding::state::{Phase, Proposal, TargetState};
use rollcall_aggregator::store::{Event, Store, Write};
use rollcall_aggregator::targets::{Difference, FieldDifference, Held};
use rollcall_aggregator::tokens::Tokens;
use rollcall_daemon::readiness::Readiness;
use rollcall_daemon::secret::Secret;
use rollcall_report::{NodeReport, Reading};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt as _;

const FILE: &str = "cluster:
  id: west
  regionId: us-west-2
  clusterMetadata: {additionalInfo: {joinCommand: the-join-command-is-secret}}
targets:
  - {name: aios, type: aios, parserUrl: 'https://p:1', gatewayUrl: 'https://g:1'}
  - {name: engine, type: aichor, engine: {name: lab}}
";

const TOKEN: &str = "an-operators-token-of-many-characters";
const HERE: &str = "127.0.0.1:9";
const THERE: &str = "192.0.2.7:9";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a machine or a network may say to be run where it is shown.
const HOSTILE: [&str; 3] =
    ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)"];

struct Bed {
    aggregator: Arc<Aggregator>,
    router: Router,
    /// Dropped where the aggregator stops.
    serving: Option<watch::Sender<()>>,
    _folder: TempDir,
}

impl Bed {
    fn new(file: &str) -> Self {
        Self::with(file, |_| {})
    }

    fn on_kubernetes(file: &str) -> Self {
        Self::with(file, |aggregator| {
            aggregator.nodes = Nodes::watched(aggregator.file.selected_labels());
        })
    }

    fn with(file: &str, prepare: impl FnOnce(&mut Aggregator)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, contents) = Store::open(&folder.path().join("rollcall.db")).expect("a store");
        let file = ClusterFile::parse(file).expect("valid");
        let metrics = Metrics::new().expect("metrics");
        let interval = Duration::from_mins(1);
        let mut aggregator = Aggregator::new(file, interval, store, contents, metrics);
        prepare(&mut aggregator);
        let aggregator = Arc::new(aggregator);
        let (serving, stopping) = watch::channel(());
        let tokens = Tokens::new(&Secret::new(TOKEN.to_owned())).expect("long enough");
        let access = Access::new(Some(tokens), true);
        let shared = Arc::clone(&aggregator);
        let router = router(shared, BTreeMap::new(), access, Readiness::new(), stopping);
        Self { aggregator, router, serving: Some(serving), _folder: folder }
    }

    /// A node reports; `change` makes it another machine than the sample.
    fn report(&self, name: &str, seen: Timestamp, change: impl FnOnce(&mut NodeReport)) {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
        let text = fs::read_to_string(sample).expect("the sample");
        let mut report: NodeReport = serde_json::from_str(&text).expect("a report");
        report.node.name = name.parse().expect("a name");
        report.node.proposed_id = name.parse().expect("an id");
        report.node.machine_hash = None;
        change(&mut report);
        let digest = Digest::of(&[name.as_bytes()]);
        {
            let mut roll = self.aggregator.roll();
            let change = roll.admit(report, digest, None, seen).expect("no conflict");
            roll.confirm(change);
        }
        self.aggregator.changed();
    }

    /// Kubernetes lists these.
    fn list(&self, names: &[&str]) {
        let labels = self.aggregator.file.selected_labels();
        let nodes = names.iter().map(|name| {
            let object = json!({
                "metadata": {"name": name, "uid": format!("uid-of-{name}")},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            });
            let object = serde_json::from_value(object).expect("a Node");
            Node::of(object, &labels).expect("a Node with name and UID")
        });
        self.aggregator.nodes.take_list(nodes.collect()).expect("not empty");
    }

    fn stands(&self, change: impl FnOnce(&mut TargetState)) {
        let target = self.aggregator.file.aios_targets().next().expect("a target").clone();
        let mut state = TargetState::new(Timestamp::now());
        change(&mut state);
        self.aggregator.show(&target, state);
    }

    fn looked(&self, held: &Held) {
        let target = self.aggregator.file.aios_targets().next().expect("a target").clone();
        self.aggregator.show_look(&target, Some(held));
    }

    async fn ask(&self, method: Method, path: &str, from: &str, more: &[(&str, &str)]) -> Answer {
        let (status, headers, body) = self.open(method, path, from, more).await;
        let body = body.collect().await.expect("a body").to_bytes();
        let body = String::from_utf8(body.to_vec()).expect("text");
        Answer { status, headers, body }
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        from: &str,
        more: &[(&str, &str)],
    ) -> (StatusCode, HeaderMap, Body) {
        let peer: SocketAddr = from.parse().expect("an address");
        let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(peer));
        if !more.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, "localhost:7657");
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, body)
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, HERE, &[]).await
    }

    /// A page that is there.
    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A time that is no long silence.
fn lately() -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(5)
}

/// The values of an attribute, in their order.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    page.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

fn basic(user_and_password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(user_and_password))
}

#[tokio::test]
async fn who_may_see_it() {
    let bed = Bed::new(FILE);
    bed.report("node-1", lately(), |_| {});
    let bearer = format!("Bearer {TOKEN}");
    let right = basic(&format!("anybody:{TOKEN}"));
    let (wrong, empty, odd) = (basic("root:hunter2"), basic("x:"), "Basic !".to_owned());
    let paths = ["/", "/nodes/node-1", "/targets/aios", "/targets/aios/document.json", "/events"];
    for (what, from, credentials, expected) in [
        ("from here", HERE, None, StatusCode::OK),
        ("from there", THERE, None, StatusCode::UNAUTHORIZED),
        ("with the token", THERE, Some(&bearer), StatusCode::OK),
        ("with the token as a password", THERE, Some(&right), StatusCode::OK),
        ("with it from here", HERE, Some(&right), StatusCode::OK),
        ("with a wrong password", THERE, Some(&wrong), StatusCode::UNAUTHORIZED),
        ("with a wrong one from here", HERE, Some(&wrong), StatusCode::UNAUTHORIZED),
        ("with an empty one", THERE, Some(&empty), StatusCode::UNAUTHORIZED),
        ("with something else", THERE, Some(&odd), StatusCode::UNAUTHORIZED),
    ] {
        for path in paths {
            let credentials: Vec<_> =
                credentials.into_iter().map(|it| ("authorization", it.as_str())).collect();
            let (status, headers, body) = bed.open(Method::GET, path, from, &credentials).await;
            assert_eq!(status, expected, "{path} {what}");
            let asks = headers.get(header::WWW_AUTHENTICATE).map(|it| it.to_str().expect("text"));
            let challenge = "Basic realm=\"rollcall\", charset=\"UTF-8\"";
            let is_refused = expected == StatusCode::UNAUTHORIZED;
            assert_eq!(asks, is_refused.then_some(challenge), "{path} {what}");
            if !is_refused {
                continue;
            }
            let body = body.collect().await.expect("a body").to_bytes();
            let body = String::from_utf8(body.to_vec()).expect("text");
            assert!(body.starts_with("<!doctype html>"), "{path} {what}: {body}");
            for secret in ["west", "node-1", TOKEN, "hunter2", "aios"] {
                assert!(!body.contains(secret), "{path} {what} tells {secret}: {body}");
            }
        }
    }
    let evil = bed.ask(Method::GET, "/", HERE, &[("host", "evil.example")]).await;
    assert_eq!(evil.status, StatusCode::UNAUTHORIZED, "by another name of this machine");
}

#[tokio::test]
async fn a_browsers_remembered_password_opens_no_api() {
    let bed = Bed::new(FILE);
    let right = basic(&format!("anybody:{TOKEN}"));
    let credentials = [("authorization", right.as_str())];
    for (method, path) in [
        (Method::GET, "/v1/nodes"),
        (Method::GET, "/v1/status"),
        (Method::GET, "/v1/document"),
        (Method::GET, "/v1/history"),
        (Method::DELETE, "/v1/nodes/node-1"),
        (Method::POST, "/v1/nodes/node-1/rebind"),
        (Method::POST, "/v1/targets/aios/submit"),
        (Method::POST, "/v1/targets/aios/approve"),
        (Method::POST, "/v1/targets/aios/offboard"),
        (Method::POST, "/v1/targets/aios/infrastructure"),
    ] {
        for from in [HERE, THERE] {
            let answer = bed.ask(method.clone(), path, from, &credentials).await;
            let at = format!("{method} {path} from {from}");
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{at}");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{at}");
            assert_eq!(answer.header("content-type"), "application/json", "{at}");
        }
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        for path in ["/", "/nodes/node-1", "/targets/aios", "/events"] {
            let answer = bed.ask(method.clone(), path, HERE, &credentials).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_answer_keeps_other_origins_out() {
    let bed = Bed::new(FILE);
    bed.report("node-1", lately(), |_| {});
    let page = bed.page("/").await;
    let script = values(&page, "src").first().copied().expect("a script").to_owned();
    for (path, from, status, media_type) in [
        ("/", HERE, 200, "text/html; charset=utf-8"),
        ("/?q=x&page=9", HERE, 200, "text/html; charset=utf-8"),
        ("/nodes/node-1", HERE, 200, "text/html; charset=utf-8"),
        ("/nodes/node-9", HERE, 404, "text/html; charset=utf-8"),
        ("/nodes/%3Cb%3E", HERE, 404, "text/html; charset=utf-8"),
        ("/nodes/%ff", HERE, 400, "text/plain; charset=utf-8"),
        ("/targets/aios", HERE, 200, "text/html; charset=utf-8"),
        ("/targets/engine", HERE, 200, "text/html; charset=utf-8"),
        ("/targets/none", HERE, 404, "text/html; charset=utf-8"),
        ("/targets/aios/document.json", HERE, 200, "application/json"),
        ("/targets/engine/document.json", HERE, 404, "text/html; charset=utf-8"),
        ("/targets/none/document.json", HERE, 404, "text/html; charset=utf-8"),
        (&script, HERE, 200, "text/javascript; charset=utf-8"),
        ("/assets/0/page.js", HERE, 404, "text/plain; charset=utf-8"),
        ("/", THERE, 401, "text/html; charset=utf-8"),
        // The page that asks for the token has its style, too.
        (&script, THERE, 200, "text/javascript; charset=utf-8"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let answer = bed.ask(method.clone(), path, from, &[]).await;
            let at = format!("{method} {path} from {from}");
            assert_eq!(answer.status.as_u16(), status, "{at}");
            assert_eq!(answer.header("content-type"), media_type, "{at}");
            assert_eq!(answer.body.is_empty(), method == Method::HEAD, "{at}");
            if path.starts_with("/assets/") && status == 404 {
                assert!(!answer.body.contains("west"), "{at} tells the cluster: {}", answer.body);
            }
            let policy = answer.header("content-security-policy");
            for part in [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self'",
                "connect-src 'self'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            ] {
                assert!(policy.split("; ").any(|it| it == part), "{at}: {part} in {policy}");
            }
            assert!(!policy.contains("unsafe"), "{at}: {policy}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{at}");
            assert_eq!(answer.header("referrer-policy"), "no-referrer", "{at}");
            assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{at}");
            let is_asset = path == script && status == 200;
            let kept = if is_asset { "private, max-age=31536000, immutable" } else { "no-store" };
            assert_eq!(answer.header("cache-control"), kept, "{at}");
        }
    }
    // The API's own answers are as they were.
    assert_eq!(bed.get("/v1/nodes").await.header("content-security-policy"), "");
    assert_eq!(bed.get("/nothing").await.header("content-type"), "application/json");
}

#[tokio::test]
async fn what_the_pages_load_is_there_and_nothing_is_inline() {
    let bed = Bed::new(FILE);
    bed.report("node-1", lately(), |_| {});
    bed.stands(|state| state.phase = Phase::Registered);
    for path in ["/", "/nodes/node-1", "/targets/aios", "/targets/engine"] {
        let page = bed.page(path).await;
        for address in values(&page, "src").into_iter().chain(values(&page, "href")) {
            let is_local = address.starts_with('/') && !address.starts_with("//");
            assert!(is_local || address.starts_with('#'), "{path} loads {address}");
            if address.starts_with("/assets/") {
                let asset = bed.get(address).await;
                assert_eq!(asset.status, StatusCode::OK, "{path}: {address}");
                assert!(!asset.body.is_empty(), "{path}: {address}");
                for word in ["http:", "https:", "@import", "url("] {
                    let own = asset.body.replace("http://www.w3.org/2000/svg", "");
                    assert!(!own.contains(word), "{address} has {word}");
                }
            }
        }
        assert_eq!(page.matches("<script").count(), 1, "{path}");
        assert!(page.contains("<script type=\"module\" src=\"/assets/"), "{path}");
        for inline in ["<style", " style=", " onclick=", "javascript:", "<iframe", "<base"] {
            assert!(!page.contains(inline), "{path} has {inline}");
        }
    }
}

#[tokio::test]
async fn what_others_say_is_text() {
    let bed = Bed::new(FILE);
    let all = HOSTILE.join(" ");
    bed.report("node-1", lately(), |report| {
        let gpus = match &mut report.inventory.gpus {
            Reading::Known(gpus) => gpus,
            other => panic!("the sample has GPUs: {other:?}"),
        };
        match &mut gpus.nvidia_driver {
            Reading::Known(driver) => {
                for gpu in &mut driver.gpus {
                    gpu.model = all.as_str().into();
                }
            }
            other => panic!("the sample has a driver: {other:?}"),
        }
        if let Reading::Known(machine) = &mut report.inventory.machine {
            machine.vendor = Some(all.as_str().into());
            machine.operating_system = Some(all.as_str().into());
        }
        if let Reading::Known(disks) = &mut *report.inventory.disks {
            for disk in disks {
                disk.model = Some(all.clone());
            }
        }
        for passed_over in &mut report.passed_over {
            passed_over.rule.clone_from(&all);
            passed_over.examples = vec![all.clone()];
        }
        report.inventory.swap = Reading::failed(&all);
        report.agent.version = all.as_str().into();
    });
    bed.stands(|state| {
        state.phase = Phase::Refused;
        state.detail = Some(format!("the network said: {all}"));
        state.proposal = Some(Proposal { digest: Digest::of(&[b"x"]), what: all.clone() });
    });
    let field = FieldDifference { field: all.clone(), there: all.clone(), here: all.clone() };
    bed.looked(&Held::Ours(Difference {
        fields: vec![field],
        removed: vec![all.clone()],
        ..Difference::default()
    }));
    let event = Event { detail: Some(all.clone()), ..Event::now(&all) };
    let write = Write::Event { name: "aios".to_owned(), event };
    bed.aggregator.store.write(write).await.expect("stored");
    let query = "/?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%3E%3Cimg%20src%3Dx%20onerror%3D1%3E";
    for path in ["/", query, "/nodes/node-1", "/targets/aios"] {
        let page = bed.page(path).await;
        let escaped = page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;");
        assert!(escaped, "{path} shows it");
        for (what, count) in [("<script", 1), ("<img", 0), ("<svg onload", 0)] {
            assert_eq!(page.matches(what).count(), count, "{path}: {what}");
        }
        // A quote that ended an attribute would stand before these.
        for attribute in ["onerror", "onmouseover"] {
            for (before, _) in page.match_indices(attribute).map(|(at, _)| page.split_at(at)) {
                let in_tag = before.rfind('<') > before.rfind('>');
                let quotes = before.rsplit('<').next().unwrap_or_default().matches('"').count();
                assert!(!in_tag || quotes % 2 == 1, "{path}: {attribute} is an attribute");
            }
        }
    }
}

#[tokio::test]
async fn who_wants_a_person_comes_first_and_nothing_unknown_is_a_zero() {
    let bed = Bed::on_kubernetes(FILE);
    bed.list(&["fine", "incomplete", "failing", "lost", "missing-1", "virtual"]);
    for name in ["fine", "lost"] {
        bed.report(name, lately(), |_| {});
    }
    bed.report("failing", lately(), |_| {});
    bed.report("failing", lately(), |report| {
        report.inventory.swap = Reading::failed("I/O error");
        report.agent.version = "9".into();
    });
    bed.report("lost", lately(), |report| {
        let Reading::Known(gpus) = &mut report.inventory.gpus else { return };
        let Reading::Known(driver) = &mut gpus.nvidia_driver else { return };
        driver.gpus.pop();
    });
    bed.report("incomplete", lately(), |report| {
        report.inventory.memory = Reading::failed("no such file");
    });
    let page = bed.page("/").await;
    let rows: Vec<&str> = page.split("<tr role=\"row\" ").skip(1).collect();
    let names: Vec<&str> = rows.iter().filter_map(|row| row.split('"').nth(1)).collect();
    assert_eq!(names, ["missing-1", "virtual", "incomplete", "failing", "lost", "fine"]);
    for row in &rows {
        let row = row.split("</tr>").next().expect("a row");
        let is_known = !row.contains("data-missing") && !row.contains("data-state=\"incomplete\"");
        assert_eq!(row.contains("data-value="), is_known, "{row}");
        assert_eq!(row.contains("unknown"), !is_known, "{row}");
    }
    assert!(page.contains("data-missing=\"missing-1\""), "{page}");
    assert!(page.contains("GPU lost"), "{page}");
    assert!(page.contains("swap failing"), "{page}");
    assert!(page.contains("Without 1 node whose numbers are not complete."), "{page}");

    let document = bed.aggregator.assemble().document;
    let total = |key: &str| {
        let of = page.split(&format!("data-total=\"{key}\" data-value=\"")).nth(1);
        of.and_then(|rest| rest.split('"').next()?.parse::<u64>().ok())
    };
    for (key, expected) in [
        ("nodes", document.nodes.count),
        ("cpus", document.vcpus.count),
        ("memory", document.memory),
        ("swap", document.swap),
        ("disks", document.storage.disks),
        ("disk", document.storage.size),
        ("links", document.network.interfaces),
        ("bandwidth", document.network.tx_bandwidth),
        ("gpus", document.gpus.count),
        ("gpu-memory", document.gpus.memory),
    ] {
        assert_eq!(total(key), Some(expected), "{key}");
    }

    let missing = bed.page("/nodes/missing-1").await;
    assert!(missing.contains("nobody has reported for it"), "{missing}");
    let incomplete = bed.page("/nodes/incomplete").await;
    assert!(incomplete.contains("kept out of the document"), "{incomplete}");
    assert!(incomplete.contains("no such file"), "{incomplete}");
}

#[tokio::test]
async fn a_node_that_no_target_gets_is_left_out_and_not_expected() {
    let bed = Bed::on_kubernetes(FILE);
    bed.list(&["fine"]);
    for name in ["fine", "stranger"] {
        bed.report(name, lately(), |_| {});
    }
    let page = bed.page("/").await;
    for words in [
        "left out: Kubernetes has no Node of this name",
        "1 node left out: targets do not get these",
        "<li>stranger (Kubernetes has no Node of this name)</li>",
        "complete, 1 of 1 expected",
    ] {
        assert!(page.contains(words), "no {words}: {page}");
    }
    for (name, is_left_out) in [("fine", false), ("stranger", true)] {
        let page = bed.page(&format!("/nodes/{name}")).await;
        assert_eq!(page.contains("in no document"), is_left_out, "{name}");
        assert_eq!(page.contains("badge quiet\" title=\"in no target"), is_left_out, "{name}");
    }
}

#[tokio::test]
async fn an_empty_cluster_has_unknown_capacities() {
    let bed = Bed::new("cluster: {id: west, regionId: us-west-2}\n");
    let page = bed.page("/").await;
    assert_eq!(values(&page, "data-value"), ["0"], "its nodes alone are known: there are none");
    assert!(page.contains("No node has reported yet."), "{page}");
    assert!(page.contains("registered nowhere"), "{page}");
    assert!(page.contains("<title>west · rollcall</title>"), "{page}");
}

#[tokio::test]
async fn many_nodes_come_in_pages_and_the_query_is_kept() {
    let bed = Bed::new(FILE);
    for number in 0..250 {
        bed.report(&format!("node-{number}"), lately(), |report| {
            if let Reading::Known(cpu) = &mut *report.inventory.cpu {
                cpu.online = number + 1;
            }
        });
    }
    let page = bed.page("/?q=node&sort=cpus&page=2").await;
    let names = values(&page, "data-node");
    assert_eq!((names.len(), names.first()), (100, Some(&"node-149")), "the largest first");
    assert!(page.contains("101–200 of 250"), "{page}");
    for address in [
        "/?q=node&#38;sort=cpus&#38;page=3",
        "/?q=node&#38;sort=cpus\"",
        "/?q=node&#38;sort=cpus&#38;order=asc\"",
        "/?q=node&#38;sort=memory\"",
    ] {
        assert!(page.contains(address), "no link to {address}");
    }
    assert!(page.contains("aria-sort=\"descending\""), "{page}");
    for (query, expected) in [
        ("/?page=99", 50),
        ("/?q=node-24", 11),
        ("/?q=NODE-24%20nope", 0),
        ("/?show=stale", 0),
        ("/?show=gpus&q=NODE-249", 1),
    ] {
        let page = bed.page(query).await;
        assert_eq!(values(&page, "data-node").len(), expected, "{query}");
    }
}

#[tokio::test]
async fn a_target_shows_what_is_sent_what_differs_and_what_was_done() {
    let bed = Bed::new(FILE);
    for number in 0..7 {
        bed.report(&format!("node-{number}"), lately(), |_| {});
    }
    let page = bed.page("/targets/aios").await;
    assert!(page.contains("not looked at since this aggregator was started"), "{page}");
    assert!(page.contains("data-phase=\"waiting\""), "{page}");
    bed.stands(|state| {
        state.phase = Phase::Drifted;
        state.next_try = Timestamp::now().checked_add(SignedDuration::from_secs(90)).ok();
    });
    let fields = (0..300).map(|number| FieldDifference {
        field: format!("node n{number}: swap"),
        there: "7".to_owned(),
        here: "8".to_owned(),
    });
    let difference = Difference { fields: fields.collect(), ..Difference::default() };
    bed.looked(&Held::Ours(difference));
    let page = bed.page("/targets/aios").await;
    assert_eq!(values(&page, "data-field").len(), 200, "the first of them");
    assert!(page.contains("data-different=\"300\""), "{page}");
    assert!(page.contains("and 100 more"), "{page}");
    assert!(page.contains("next look"), "{page}");
    assert!(page.contains("The first of 7 nodes are shown"), "{page}");
    assert_eq!(page.matches("vcpus").count(), 4, "three nodes and their total");
    assert!(page.contains("A secret is masked here"), "{page}");
    let whole = bed.page("/targets/aios/document.json").await;
    let document: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    assert_eq!(document["nodes"]["nodeData"].as_array().map(Vec::len), Some(7));
    for (what, text) in [("the page", &page), ("the document", &whole)] {
        assert!(!text.contains("the-join-command-is-secret"), "{what} tells a secret");
        assert!(text.contains("masked"), "{what}");
    }
    bed.looked(&Held::Ours(Difference::default()));
    let page = bed.page("/targets/aios").await;
    assert!(page.contains("the same in every field that is compared"), "{page}");
    let engine = bed.page("/targets/engine").await;
    assert!(engine.contains("data-phase=\"none\""), "{engine}");
}

/// What a listener is told next.
async fn told(body: &mut Body) -> Option<Bytes> {
    let frame = timeout(PATIENCE, body.frame()).await.expect("something is told in time");
    frame.map(|frame| frame.expect("no error").into_data().expect("data"))
}

#[tokio::test(start_paused = true)]
async fn news_are_told_together_and_end_with_the_aggregator() {
    let mut bed = Bed::new(FILE);
    let (status, headers, mut body) = bed.open(Method::GET, "/events", HERE, &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers.get(header::CONTENT_TYPE).expect("a type"), "text/event-stream");
    let first = told(&mut body).await.expect("the first bytes");
    assert!(first.starts_with(b"retry: 2000\n"), "{first:?}");
    let changed = Bytes::from_static(b"event: changed\ndata: changed\n\n");
    let tick = Bytes::from_static(b"event: tick\ndata: tick\n\n");

    bed.aggregator.changed();
    assert_eq!(told(&mut body).await, Some(changed.clone()), "at once");
    let before = tokio::time::Instant::now();
    for _ in 0..100 {
        bed.aggregator.changed();
    }
    bed.stands(|state| state.phase = Phase::Failing);
    assert_eq!(told(&mut body).await, Some(changed.clone()), "the flock");
    assert!(before.elapsed() >= Duration::from_millis(900), "{:?}", before.elapsed());
    assert_eq!(told(&mut body).await, Some(tick.clone()), "nothing but the time");
    bed.stands(|state| state.phase = Phase::Registered);
    assert_eq!(told(&mut body).await, Some(changed), "a target stands elsewhere");

    let mut waiting = Box::pin(body.frame());
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "quiet");
    let before = tokio::time::Instant::now();
    drop(bed.serving.take());
    let end = timeout(PATIENCE, waiting).await.expect("it ends");
    assert!(end.is_none(), "nothing more is told");
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    let (_, _, mut late) = bed.open(Method::GET, "/events", HERE, &[]).await;
    told(&mut late).await.expect("the first bytes");
    assert_eq!(told(&mut late).await, None, "it ends at once");
}

#[tokio::test]
async fn listeners_are_bounded() {
    let bed = Bed::new(FILE);
    let mut listeners = Vec::new();
    for _ in 0..64 {
        let (status, _, body) = bed.open(Method::GET, "/events", HERE, &[]).await;
        assert_eq!(status, StatusCode::OK);
        listeners.push(body);
    }
    let refused = bed.get("/events").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body.contains("64 pages follow the news already"), "{}", refused.body);
    listeners.pop();
    let (status, _, body) = bed.open(Method::GET, "/events", HERE, &[]).await;
    assert_eq!(status, StatusCode::OK, "one has gone");
    drop(body);
    let head = bed.ask(Method::HEAD, "/events", HERE, &[]).await;
    assert_eq!(head.status, StatusCode::OK, "whoever asks for the head alone holds no place");
}
