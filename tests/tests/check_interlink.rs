//! interLink's target with the real program: the Kubernetes API behind a real NGINX with TLS, in a
//! cluster that is a stand-in. `tests/cluster/interlink.rs` does the same before a real API server.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper fails the test that uses it; JSON documents answer an unknown index with null"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::SanType;
use rollcall_tests::bed::Bed;
use rollcall_tests::nginx::{self, Authority, Date, Nginx, Pair, dns_name, signed_by_itself};
use rollcall_tests::process::program;
use serde_json::{Value, json};
use tokio::sync::oneshot;

const ADMIN: &str = "the-token-of-the-administrator";
const ACCOUNT: &str = "the-token-of-the-service-account";

/// NGINX listens on loopback, where no plugin comes.
const ALWAYS_FAILED: &str = "the address can be reached from outside";

const LATER: Date = (2100, 1, 1);

/// What the stand-in of the cluster holds and was asked.
#[derive(Debug, Default)]
struct ClusterState {
    /// Objects and lists by their paths.
    objects: BTreeMap<String, Value>,
    /// Whether virtual kubelets may make tokens.
    may_make_tokens: bool,
    requests: Vec<String>,
}

/// A stand-in of a Kubernetes API with two users, over plain HTTP on loopback.
struct ClusterStandin {
    address: SocketAddr,
    state: Arc<Mutex<ClusterState>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ClusterStandin {
    fn start() -> Self {
        let state = Arc::new(Mutex::new(ClusterState::default()));
        let bound = || -> io::Result<(TcpListener, SocketAddr)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound().expect("a free port");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let app = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    // Resolves when the sender is dropped, which is the signal.
                    _ = stopped => {}
                    _ = axum::serve(listener, app).into_future() => {}
                }
            });
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, ClusterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters:\n- name: lab\n  cluster:\n    server: http://{}\n\
             users:\n- name: admin\n  user:\n    token: {ADMIN}\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: admin\n",
            self.address
        )
    }
}

impl Drop for ClusterStandin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed already.
            drop(thread.join());
        }
    }
}

async fn answer(State(state): State<Arc<Mutex<ClusterState>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_else(|_| Bytes::new());
    let sent = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let path = parts.uri.path().to_owned();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let user = match sent {
        None => "nobody",
        Some(sent) if sent == format!("Bearer {ADMIN}") => "admin",
        Some(sent) if sent == format!("Bearer {ACCOUNT}") => "account",
        Some(_) => return refusal(StatusCode::UNAUTHORIZED, "Unauthorized"),
    };
    state.requests.push(format!("{user} {} {}", parts.method, parts.uri));
    match (user, path.as_str()) {
        ("nobody", _) => return refusal(StatusCode::FORBIDDEN, "system:anonymous may not"),
        (_, "/version") => {
            return Json(json!({
                "major": "1", "minor": "33", "gitVersion": "v1.33.1", "gitCommit": "",
                "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
            }))
            .into_response();
        }
        (_, "/healthz") => return "ok".into_response(),
        (_, "/openapi/v2") => return Json(json!({"swagger": "2.0"})).into_response(),
        (_, "/api") => {
            return Json(json!({"kind": "APIVersions", "versions": ["v1"]})).into_response();
        }
        (_, "/apis") => {
            return Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [{}, {}]}))
                .into_response();
        }
        (_, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews") => {
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            if parts.method != Method::POST || review["kind"] != "SelfSubjectRulesReview" {
                return refusal(StatusCode::METHOD_NOT_ALLOWED, "no review");
            }
            review["status"] = json!({"resourceRules": [{}], "nonResourceRules": [{}, {}]});
            return (StatusCode::CREATED, Json(review)).into_response();
        }
        ("account", _) => return refusal(StatusCode::FORBIDDEN, "the account may not"),
        (_, "/apis/authorization.k8s.io/v1/subjectaccessreviews") => {
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let is_asked = review.pointer("/spec/user")
                == Some(&json!("system:serviceaccount:interlink:slurm"))
                && review.pointer("/spec/resourceAttributes/subresource") == Some(&json!("token"));
            review["status"] = json!({"allowed": is_asked && state.may_make_tokens});
            return (StatusCode::CREATED, Json(review)).into_response();
        }
        _ => {}
    }
    match state.objects.get(&path) {
        Some(found) => Json(found.clone()).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "the server could not find the requested resource"),
    }
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "code": status.as_u16(),
        "reason": status.canonical_reason().unwrap_or_default().replace(' ', ""),
    });
    (status, Json(body)).into_response()
}

/// One way to the API, which may be broken somewhere.
struct Way {
    certificate: Pair,
    /// The CA that the cluster tells.
    ca: Option<String>,
    /// The locations of NGINX, with `UPSTREAM` where the API is.
    locations: &'static str,
    tls: bool,
    /// The token that the cluster tells.
    token: Option<&'static str>,
    may_make_tokens: bool,
    has_ingress: bool,
}

const RIGHT: &str = "location /api/ { proxy_pass UPSTREAM; }
location = /api { proxy_pass UPSTREAM; }
location /apis/ { proxy_pass UPSTREAM; }
location = /apis { proxy_pass UPSTREAM; }";

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/ingress-nginx-internal/ingresses";
const SECRETS: &str = "/api/v1/namespaces/ingress-nginx-internal/secrets";

fn loopback() -> SanType {
    SanType::IpAddress(Ipv4Addr::LOCALHOST.into())
}

fn list(items: &Value) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// A cluster, and the files of whoever asks.
struct World {
    cluster: ClusterStandin,
    bed: Bed,
    nginx: Nginx,
}

impl World {
    fn new(way: &Way) -> Self {
        let cluster = ClusterStandin::start();
        let upstream = format!("http://{}", cluster.address);
        let locations = way.locations.replace("UPSTREAM", &upstream);
        let files =
            [("tls.crt", &*way.certificate.certificate), ("tls.key", &*way.certificate.key)];
        let nginx = Nginx::start(&files, |port, folder| {
            let at = folder.display();
            let tls = if way.tls {
                format!(
                    "127.0.0.1:{port} ssl;\nssl_certificate {at}/tls.crt;\nssl_certificate_key {at}/tls.key"
                )
            } else {
                format!("127.0.0.1:{port}")
            };
            format!("server {{\nlisten {tls};\nproxy_http_version 1.1;\n{locations}\n}}")
        });
        let bed = Bed::new("");
        bed.write("kubeconfig", &cluster.kubeconfig());
        let world = Self { cluster, bed, nginx };
        world.fill(way);
        world.write_cluster_file("{}");
        world
    }

    fn fill(&self, way: &Way) {
        let port = self.nginx.address.port();
        let mut state = self.cluster.state();
        state.may_make_tokens = way.may_make_tokens;
        let name = |name: &str| json!({"name": name, "namespace": "ingress-nginx-internal"});
        let mut objects = vec![
            (
                "/api/v1/services".to_owned(),
                list(&json!([
                    {
                        "metadata": name("ingress-controller"),
                        "spec": {
                            "type": "LoadBalancer",
                            "clusterIP": "10.96.7.7",
                            "selector": {"app": "controller"},
                            "ports": [{"name": "https", "port": port, "nodePort": 31443}],
                        },
                        "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}},
                    },
                    // The controller's webhook has the same labels.
                    {
                        "metadata": name("ingress-controller-admission"),
                        "spec": {"ports": [{"name": "https-webhook", "port": 443}]},
                    },
                ])),
            ),
            ("/api/v1/namespaces/ingress-nginx-internal/pods".to_owned(), list(&json!([]))),
            ("/api/v1/pods".to_owned(), list(&json!([]))),
            (
                "/api/v1/nodes".to_owned(),
                list(&json!([{"metadata": {
                    "name": "slurm",
                    "labels": {"virtual-node.interlink/type": "virtual-kubelet"},
                }}])),
            ),
            (
                "/api/v1/serviceaccounts".to_owned(),
                list(&json!([{"metadata": {"name": "slurm", "namespace": "interlink"}}])),
            ),
        ];
        if way.has_ingress {
            let tls = json!([{"hosts": ["127.0.0.1"], "secretName": "web-ssl-kubernetes-api"}]);
            objects.push((
                format!("{INGRESSES}/default"),
                json!({"metadata": name("default"), "spec": {"tls": tls}}),
            ));
        }
        let mut data = json!({"tls.crt": STANDARD.encode(way.certificate.certificate.as_bytes())});
        if let Some(ca) = &way.ca {
            data["ca.crt"] = STANDARD.encode(ca.as_bytes()).into();
        }
        objects.push((
            format!("{SECRETS}/web-ssl-kubernetes-api"),
            json!({"metadata": name("web-ssl-kubernetes-api"), "data": data}),
        ));
        if let Some(token) = way.token {
            objects.push((
                format!("{SECRETS}/rollcall-api-trial-token"),
                json!({
                    "metadata": name("rollcall-api-trial-token"),
                    "data": {"token": STANDARD.encode(token.as_bytes())},
                }),
            ));
        }
        state.objects = objects.into_iter().collect();
    }

    fn write_cluster_file(&self, access: &str) {
        self.bed.write(
            "cluster.yaml",
            &format!(
                "cluster: {{id: west, regionId: lab}}\ntargets:\n- {{name: interlink, type: interlink, apiAccess: {access}}}\n"
            ),
        );
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(&[], arguments)
    }

    fn run_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(program("rollcall-aggregator"));
        command.env("HOME", self.bed.path("")).env("KUBECONFIG", self.bed.path("kubeconfig"));
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let (verb, rest) = arguments.split_first().expect("a verb");
        command.args([*verb, "interlink", "--cluster"]).arg(self.bed.path("cluster.yaml"));
        command.args(rest).output().expect("the program runs")
    }

    fn outcomes(&self) -> (Option<i32>, Outcomes) {
        let output = self.run(&["check", "--output", "json"]);
        (output.status.code(), Outcomes::of(&output))
    }
}

/// How each check came out, by its name: outcome, what was seen, how to mend it.
#[derive(Debug)]
struct Outcomes(BTreeMap<String, (String, String, String)>);

impl Outcomes {
    fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {stderr}"));
        let groups = report.get("groups").and_then(Value::as_array).expect("groups");
        let checks = groups
            .iter()
            .flat_map(|group| group.get("checks").and_then(Value::as_array).expect("checks"));
        let text = |check: &Value, key: &str| {
            check.get(key).and_then(Value::as_str).expect("a text").to_owned()
        };
        let entry = |check: &Value| {
            let verdict = (text(check, "outcome"), text(check, "seen"), text(check, "mend"));
            (text(check, "name"), verdict)
        };
        Self(checks.map(entry).collect())
    }

    fn of_outcome(&self, outcome: &str) -> BTreeSet<&str> {
        let all = self.0.iter().filter(|(_, (it, ..))| it == outcome);
        all.map(|(name, _)| name.as_str()).filter(|name| *name != ALWAYS_FAILED).collect()
    }

    fn words(&self, name: &str) -> String {
        let (_, seen, mend) = self.0.get(name).unwrap_or_else(|| panic!("no check {name}"));
        format!("{seen}\n{mend}")
    }
}

#[test]
fn all_is_well_and_nothing_is_changed() {
    let authority = Authority::new("the CA");
    let way = right(&authority);
    let world = World::new(&way);
    let (code, outcomes) = world.outcomes();
    for outcome in ["fail", "warn", "skipped"] {
        assert_eq!(outcomes.of_outcome(outcome), BTreeSet::new(), "{outcome}: {outcomes:#?}");
    }
    assert_eq!(code, Some(3), "loopback");
    for (name, words) in [
        (ALWAYS_FAILED, "127.0.0.1 is whatever machine it is used on"),
        ("address and port are known", "the Ingress ingress-nginx-internal/default"),
        (
            "address and port are known",
            "the load balancer of ingress-nginx-internal/ingress-controller",
        ),
        ("the CA is known", "ca.crt in the Secret ingress-nginx-internal/web-ssl-kubernetes-api"),
        ("/apis is routed", "APIGroupList, 2 of them"),
        ("rights can be asked for", "1 rules of resources, 2 of other paths"),
        ("a wrong token is refused", "401"),
        ("the virtual kubelet may make tokens", "interlink/slurm"),
        ("the Helm values hold all three", "plain, unindented-chart"),
    ] {
        assert!(outcomes.words(name).contains(words), "{name}: {words}: {outcomes:#?}");
    }
    let requests = world.cluster.state().requests.clone();
    let is_question = |request: &String| {
        let (_, request) = request.split_once(' ').unwrap_or_default();
        let request = request.trim_end_matches('?');
        request.starts_with("GET ")
            || request == "POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
            || request == "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
    };
    assert!(requests.len() > 10 && requests.iter().all(is_question), "{requests:#?}");
}

fn right(authority: &Authority) -> Way {
    Way {
        certificate: authority.sign("the proxy", &[loopback()], LATER),
        ca: Some(authority.pem()),
        locations: RIGHT,
        tls: true,
        token: Some(ACCOUNT),
        may_make_tokens: true,
        has_ingress: true,
    }
}

/// In ten days.
fn soon() -> Date {
    let day = Timestamp::now().to_zoned(TimeZone::UTC).saturating_add(10.days());
    let small = |number: i8| u8::try_from(number).expect("a day");
    (day.year().into(), small(day.month()), small(day.day()))
}

/// What is wrong, which checks fail, which warn, and a piece of what the first of them says.
type Case = (&'static str, Way, &'static [&'static str], &'static [&'static str], &'static str);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn one_thing_wrong() {
    let ca = Authority::new("the CA");
    let other = Authority::new("another CA");
    let old = Authority::until("an old CA", (2021, 1, 1));
    let signed = |names: &[SanType], until| ca.sign("the proxy", names, until);
    let fake = "Kubernetes Ingress Controller Fake Certificate";
    let inner = ca.below("an inner CA");
    let with_inner = inner.sign("the proxy", &[loopback()], LATER).followed_by(&inner.pem());
    let gone = signed_by_itself("an old friend", &[], (2021, 1, 1));
    let cases: Vec<Case> = vec![
        (
            "a certificate without the address",
            Way { certificate: signed(&[dns_name("k8s.example.org")], LATER), ..right(&ca) },
            &["the certificate is for the address"],
            &[],
            "it is for k8s.example.org, not for 127.0.0.1",
        ),
        (
            "the address as a name",
            Way { certificate: signed(&[dns_name("127.0.0.1")], LATER), ..right(&ca) },
            &["the certificate is for the address"],
            &[],
            "as a DNS name",
        ),
        (
            "an expired certificate",
            Way { certificate: signed(&[loopback()], (2021, 1, 1)), ..right(&ca) },
            &["the certificate has not expired"],
            &[],
            "expired at 2021-01-01T00:00:00Z",
        ),
        (
            "a certificate that expires soon",
            Way { certificate: signed(&[loopback()], soon()), ..right(&ca) },
            &[],
            &["the certificate has not expired"],
            "it expires at",
        ),
        (
            "an expired certificate that nobody needs",
            Way {
                certificate: signed(&[loopback()], LATER).followed_by(&gone.certificate),
                ..right(&ca)
            },
            &[],
            &["the certificate has not expired"],
            "CN=an old friend expired at 2021-01-01T00:00:00Z",
        ),
        (
            "a CA that is not the last",
            Way { certificate: with_inner, ca: Some(inner.pem()), ..right(&ca) },
            &[],
            &["the CA vouches for the certificate"],
            "all certificates up to the root in one PEM",
        ),
        (
            "another CA",
            Way { ca: Some(other.pem()), ..right(&ca) },
            &["the CA vouches for the certificate"],
            &[],
            "not by the CA (CN=another CA)",
        ),
        (
            "a CA that has expired",
            right(&old),
            &["the CA is known"],
            &[],
            "CN=an old CA (ca.crt in the Secret ingress-nginx-internal/web-ssl-kubernetes-api) has expired",
        ),
        (
            "the controller's stopgap",
            Way {
                certificate: other.sign(fake, &[dns_name("ingress.local")], LATER),
                ..right(&ca)
            },
            &["the CA vouches for the certificate", "the certificate is for the address"],
            &[],
            "--default-ssl-certificate=",
        ),
        (
            "no TLS",
            Way { tls: false, ..right(&ca) },
            &["TLS answers there"],
            &[],
            "no TLS with 127.0.0.1",
        ),
        (
            "a Secret without a CA",
            Way { ca: None, ..right(&ca) },
            &["the CA is known"],
            &[],
            "there is no ca.crt in the Secret",
        ),
        (
            "/api is not routed",
            Way {
                locations: "location /apis { proxy_pass UPSTREAM; }\nlocation / { return 404; }",
                ..right(&ca)
            },
            &["/api is routed"],
            &[],
            "404",
        ),
        (
            "/apis is not routed",
            Way {
                locations: "location = /api { proxy_pass UPSTREAM; }\nlocation / { return 404; }",
                ..right(&ca)
            },
            &["/apis is routed"],
            &[],
            "404",
        ),
        (
            "/version is routed",
            Way {
                locations: "location ~ ^/(apis?(/|$)|version) { proxy_pass UPSTREAM; }\nlocation / { return 404; }",
                ..right(&ca)
            },
            &["/version is not routed"],
            &[],
            "the API server itself answered 401",
        ),
        (
            "all is routed",
            Way { locations: "location / { proxy_pass UPSTREAM; }", ..right(&ca) },
            &["/healthz is not routed", "/openapi is not routed", "/version is not routed"],
            &[],
            "the API server itself answered 401",
        ),
        (
            "the proxy answers for all, and is no API",
            Way { locations: "location / { return 200 welcome; }", ..right(&ca) },
            &[
                "/api is routed",
                "/apis is routed",
                "/healthz is not routed",
                "/openapi is not routed",
                "/version is not routed",
                "a wrong token is refused",
                "rights can be asked for",
            ],
            &[],
            "no APIVersions",
        ),
        (
            "nothing behind it",
            Way { locations: "location ~ ^/apis? { return 502; }", ..right(&ca) },
            &[
                "/api is routed",
                "/apis is routed",
                "a wrong token is refused",
                "rights can be asked for",
            ],
            &[],
            "502",
        ),
        (
            "a token that is refused",
            Way { token: Some("the-token-of-another-cluster"), ..right(&ca) },
            &["the token is accepted"],
            &[],
            "401: Unauthorized",
        ),
        (
            "no token",
            Way { token: None, ..right(&ca) },
            &["there is a token to try with"],
            &[],
            "rollcall-aggregator prepare makes",
        ),
        (
            "a proxy that drops the token",
            Way {
                locations: "location ~ ^/apis?(/|$) { proxy_set_header Authorization ''; proxy_pass UPSTREAM; }",
                ..right(&ca)
            },
            &[
                "the token is accepted",
                "/api is routed",
                "/apis is routed",
                "a wrong token is refused",
                "rights can be asked for",
            ],
            &[],
            "the Authorization header does not arrive: it answered 403: system:anonymous may not",
        ),
        (
            "a proxy with a token of its own",
            Way {
                locations: "location ~ ^/apis?(/|$) { proxy_set_header Authorization 'Bearer the-token-of-the-administrator'; proxy_pass UPSTREAM; }",
                ..right(&ca)
            },
            &["a wrong token is refused"],
            &[],
            "it answered 200 to a token that is none",
        ),
        (
            "requests with a body are refused",
            Way {
                locations: "location ~ ^/apis?(/|$) { limit_except GET { deny all; } proxy_pass UPSTREAM; }",
                ..right(&ca)
            },
            &["rights can be asked for"],
            &[],
            "was answered with 403",
        ),
        (
            "a virtual kubelet that may not make tokens",
            Way { may_make_tokens: false, ..right(&ca) },
            &["the virtual kubelet may make tokens"],
            &[],
            "--serviceaccount=interlink:slurm",
        ),
        (
            "no Ingress",
            Way { has_ingress: false, ..right(&ca) },
            &["the CA is known"],
            &[],
            "there is no Ingress ingress-nginx-internal/default",
        ),
    ];
    for (what, way, failed, warned, words) in cases {
        let world = World::new(&way);
        let (code, outcomes) = world.outcomes();
        let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<&str>>();
        let got = (outcomes.of_outcome("fail"), outcomes.of_outcome("warn"));
        assert_eq!(got, (set(failed), set(warned)), "{what}: {outcomes:#?}");
        assert_eq!(code, Some(3), "{what}: loopback at least");
        let first = failed.first().or(warned.first()).expect("a check");
        assert!(outcomes.words(first).contains(words), "{what}: {words}: {outcomes:#?}");
        let all = format!("{outcomes:?}");
        assert!(!all.contains(ACCOUNT) && !all.contains(ADMIN), "{what}: a token is shown: {all}");
        // What is not the proxy's gets no token that opens anything.
        let beyond = |it: &String| {
            let path = it.trim_start_matches("account GET ");
            ["/version", "/healthz", "/openapi"].iter().any(|other| path.starts_with(other))
        };
        assert!(!world.cluster.state().requests.iter().any(beyond), "{what}: a token went astray");
        // Who is not vouched for gets no token.
        let is_vouched = outcomes.of_outcome("fail").iter().all(|it| !it.contains("certificate"));
        let came_through =
            world.cluster.state().requests.iter().any(|it| it.starts_with("account"));
        assert!(is_vouched || !came_through, "{what}: a token was sent to a stranger");
    }
}

/// What is unusual, and no client minds.
#[test]
fn nothing_wrong() {
    let ca = Authority::new("the CA");
    let inner = ca.below("an inner CA");
    let own = signed_by_itself("the proxy", &[loopback()], LATER);
    let own_ca = own.certificate.clone();
    for (what, way) in [
        (
            "a certificate that is its own CA",
            Way { certificate: own, ca: Some(own_ca), ..right(&ca) },
        ),
        (
            "a CA between them, given and not presented",
            Way {
                certificate: inner.sign("the proxy", &[loopback()], LATER),
                ca: Some(format!("{}{}", inner.pem(), ca.pem())),
                ..right(&ca)
            },
        ),
        (
            "a certificate without an end",
            Way { certificate: ca.sign("the proxy", &[loopback()], (9999, 12, 31)), ..right(&ca) },
        ),
    ] {
        let world = World::new(&way);
        let (_, outcomes) = world.outcomes();
        for outcome in ["fail", "warn", "skipped"] {
            assert_eq!(outcomes.of_outcome(outcome), BTreeSet::new(), "{what}: {outcomes:#?}");
        }
    }
    // Plugins do not come by this machine's proxy, and nobody listens there.
    let world = World::new(&right(&ca));
    let nowhere = format!("http://127.0.0.1:{}", nginx::free_port(Ipv4Addr::LOCALHOST));
    let proxies = [("HTTPS_PROXY", nowhere.as_str()), ("HTTP_PROXY", &nowhere)];
    let outcomes = Outcomes::of(&world.run_with(&proxies, &["check", "--output", "json"]));
    assert_eq!(outcomes.of_outcome("fail"), BTreeSet::new(), "a proxy: {outcomes:#?}");
}

#[test]
fn keys_need_nothing_of_the_cluster() {
    let authority = Authority::new("the CA");
    let world = World::new(&right(&authority));
    world.bed.write("ca.pem", &authority.pem());
    world.bed.write("account", ACCOUNT);
    let path = |name: &str| world.bed.path(name).display().to_string();
    let port = world.nginx.address.port();
    world.write_cluster_file(&format!(
        "{{address: 127.0.0.1, port: {port}, caFile: {}, tokenFile: {}}}",
        path("ca.pem"),
        path("account")
    ));
    world.bed.write("kubeconfig", &world.cluster.kubeconfig().replace(ADMIN, "no-token"));
    let (_, outcomes) = world.outcomes();
    assert_eq!(
        outcomes.of_outcome("fail"),
        BTreeSet::from(["the Kubernetes API answers"]),
        "{outcomes:#?}"
    );
    assert_eq!(
        outcomes.of_outcome("skipped"),
        BTreeSet::from(["the virtual kubelet may make tokens"]),
        "{outcomes:#?}"
    );
    assert!(outcomes.words("/api is routed").contains("APIVersions"), "{outcomes:#?}");
}

#[test]
fn a_cluster_that_does_not_answer() {
    let authority = Authority::new("the CA");
    let world = World::new(&right(&authority));
    // It takes connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = silent.local_addr().expect("its address");
    let kubeconfig = world
        .cluster
        .kubeconfig()
        .replace(&world.cluster.address.to_string(), &address.to_string());
    world.bed.write("kubeconfig", &kubeconfig);
    let started = Instant::now();
    let output = world.run(&["check", "--output", "json", "--timeout", "1s"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let outcomes = Outcomes::of(&output);
    assert_eq!(outcomes.of_outcome("fail"), BTreeSet::from(["the Kubernetes API answers"]));
    assert!(outcomes.words("the Kubernetes API answers").contains("no answer within 1s"));
    let skipped = outcomes.of_outcome("skipped");
    assert_eq!(skipped.len() + 3, outcomes.0.len(), "all but those and the file: {outcomes:#?}");
    for name in skipped {
        let words = outcomes.words(name);
        assert!(words.starts_with("not checked: "), "{name}: {words}");
    }
}

#[test]
fn the_document() {
    let authority = Authority::new("the CA");
    let world = World::new(&right(&authority));
    let document = |more: &[&str]| {
        let output = world.run(&[&["document"], more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{more:?}: {stderr}");
        (String::from_utf8(output.stdout).expect("UTF-8"), stderr)
    };
    let (text, notes) = document(&["--output", "json"]);
    let values: Value = serde_json::from_str(&text).expect("JSON");
    let expected = json!({"interlink": {
        "kubernetesApiAddr": "127.0.0.1",
        "kubernetesApiPort": world.nginx.address.port(),
        "kubernetesApiCaCrt": authority.pem().trim_end().replace("\r\n", "\n"),
    }});
    assert_eq!(values, expected);
    for words in [
        "the address 127.0.0.1 is from the Ingress ingress-nginx-internal/default",
        "from the load balancer of ingress-nginx-internal/ingress-controller",
        "the CA from ca.crt in the Secret ingress-nginx-internal/web-ssl-kubernetes-api",
        "--variant unindented-chart",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    let (text, _) = document(&["--output", "json", "--variant", "unindented-chart"]);
    let values: Value = serde_json::from_str(&text).expect("JSON");
    let certificate = values.pointer("/interlink/kubernetesApiCaCrt").and_then(Value::as_str);
    let certificate = certificate.expect("a text");
    let (first, rest) = certificate.split_once('\n').expect("lines");
    assert_eq!(first, "-----BEGIN CERTIFICATE-----");
    assert!(rest.lines().all(|line| line.starts_with("      ") && !line.starts_with("       ")));

    let (usual, _) = document(&[]);
    assert!(usual.contains("  kubernetesApiCaCrt: |"), "{usual}");
    let path = world.bed.path("values.yaml");
    let to = path.to_str().expect("UTF-8");
    let (_, _) = document(&["--to", to]);
    assert_eq!(fs::read_to_string(&path).expect("written").trim(), usual.trim());

    let output = world.run(&["document", "--variant", "other"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && stderr.contains("unindented-chart ("), "{stderr}");
}

#[test]
fn what_prepare_prints() {
    let authority = Authority::new("the CA");
    let world = World::new(&Way { has_ingress: false, ..right(&authority) });
    let prepare = || {
        let output = world.run(&["prepare"]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    // The load balancer's address.
    let (is_done, printed, said) = prepare();
    assert!(is_done, "{said}");
    for words in [
        "kind: Deployment",
        "image: docker.io/nginxinc/nginx-unprivileged:1.28-alpine",
        "\n  ipAddresses:\n",
        "access_log off;",
        "ingressClassName: nginx-internal",
        "path: /apis",
    ] {
        assert!(printed.contains(words), "{words} is missing in\n{printed}");
    }
    let listens = |printed: &str| -> Vec<String> {
        let lines = printed.lines().map(str::trim).filter(|line| line.starts_with("listen "));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(listens(&printed), ["listen 60443 ssl;"]);
    let requests = world.cluster.state().requests.clone();
    assert!(requests.iter().all(|it| it.starts_with("admin GET ")), "{requests:?}");

    // The pods' addresses are of the kinds of the API server's own Service.
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "fd00:96::1", "clusterIPs": ["fd00:96::1"]},
    });
    let path = "/api/v1/namespaces/default/services/kubernetes".to_owned();
    world.cluster.state().objects.insert(path, service);
    let (is_done, printed, said) = prepare();
    assert!(is_done, "{said}");
    assert_eq!(listens(&printed), ["listen [::]:60443 ssl ipv6only=on;"]);

    world.write_cluster_file("{address: k8s.example.org, image: 'registry.example.org/nginx:1'}");
    fs::remove_file(world.bed.path("kubeconfig")).expect("removed");
    let (is_done, printed, said) = prepare();
    assert!(is_done, "without a cluster: {said}");
    for words in
        ["\n  - k8s.example.org\n", "host: k8s.example.org", "image: registry.example.org/nginx:1"]
    {
        assert!(printed.contains(words), "{words} is missing in\n{printed}");
    }
    world.write_cluster_file("{}");
    let (is_done, _, said) = prepare();
    assert!(!is_done && said.contains("set apiAccess.address in the cluster file"), "{said}");
}

/// The proxy that `prepare` makes is taken by NGINX as it is.
#[test]
fn the_proxys_configuration() {
    let authority = Authority::new("the CA");
    let world = World::new(&right(&authority));
    let printed = world.run(&["prepare"]).stdout;
    let printed = String::from_utf8(printed).expect("UTF-8");
    let (_, rest) = printed.split_once("  nginx.conf: |\n").expect("the configuration");
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines: Vec<&str> = lines.map(|line| line.get(4..).unwrap_or_default()).collect();
    let text = lines.join("\n");
    assert!(text.contains("proxy_ssl_verify on;"), "{text}");
    let api = authority.sign("the API", &[dns_name("kubernetes.default.svc")], LATER);
    let files = [("tls.crt", &*api.certificate), ("tls.key", &*api.key)];
    let upstream = Nginx::start(&files, |port, folder| {
        let at = folder.display();
        format!(
            "server {{\nlisten 127.0.0.1:{port} ssl;\nssl_certificate {at}/tls.crt;\nssl_certificate_key {at}/tls.key;\nreturn 200 'the API was asked for $request_uri';\n}}"
        )
    });
    let inner = authority.sign("proxy", &[loopback()], LATER);
    let files =
        [("tls.crt", &*inner.certificate), ("tls.key", &*inner.key), ("ca.crt", &*authority.pem())];
    let plain = nginx::free_port(Ipv4Addr::LOCALHOST);
    let nginx = Nginx::start_with(Ipv4Addr::LOCALHOST, &files, |port, folder| {
        configured(&text, (port, plain), folder, &upstream.address.to_string())
    });
    assert_ne!(nginx.address.port(), 0);
    for path in [
        "/api",
        "/apis",
        "/api?timeout=1s",
        "/api/v1/pods?watch=true",
        "/apis/apps/v1",
        "/api/v1/namespaces/a/pods/b/exec?command=/bin/../ls",
        "/api/v1/namespaces/a..b",
    ] {
        let answer = ask(plain, path);
        assert!(answer.ends_with(&format!("the API was asked for {path}")), "{path}: {answer}");
    }
    for path in [
        "/",
        "/version",
        "/apix",
        "/version/../api",
        "/openapi/v2/..%2f..%2fapi",
        "/openapi/v2/%2e%2E%2F..%2fapi",
        "/healthz/%2e%2e/api",
        "/healthz/%2e./apis",
        "//api",
        "/api/../version",
        "/api/..",
        "/api/v1/..?watch=true",
        "/api/v1/..%2F../api",
        "/api/x%2f..%2f..%2fapi",
    ] {
        let answer = ask(plain, path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

/// What is answered to a path just as it is written here.
fn ask(port: u16, path: &str) -> String {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The configuration with the paths and addresses of a test: one port as it is, and one without TLS.
fn configured(text: &str, (port, plain): (u16, u16), folder: &Path, upstream: &str) -> String {
    let at = folder.display().to_string();
    // The test's folder may be in /tmp.
    text.replace("/tmp/", &format!("{at}/"))
        .replace("/etc/rollcall/tls", &at)
        .replace("/etc/rollcall/kubernetes", &at)
        .replace(
            "listen 60443 ssl;",
            &format!("listen 127.0.0.1:{port} ssl;\nlisten 127.0.0.1:{plain};"),
        )
        .replace(
            "proxy_pass https://kubernetes.default.svc",
            &format!("proxy_pass https://{upstream}"),
        )
}
