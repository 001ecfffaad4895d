//! The running agent against an aggregator in the same process, whose every answer a test gives.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod kubernetes;
mod stamping;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use log::{LevelFilter, Log, Metadata, Record};
use rollcall_agent::config::{NodeConfig, RunConfig, StampConfig};
use rollcall_agent::run::{RunError, run};
use rollcall_daemon::http::client_builder;
use rollcall_report::{NodeReport, REPORTS_PATH, Subject};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What should happen at once happens within this.
const SOON: Duration = Duration::from_secs(10);

/// A report that has reached the aggregator and waits for its answer.
struct Incoming {
    authorization: Option<String>,
    report: NodeReport,
    peer: SocketAddr,
    at: Instant,
    answer: oneshot::Sender<(StatusCode, String)>,
}

impl Incoming {
    fn answer(self, status: u16, body: &str) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.answer.send((status, body.to_owned())).expect("the agent waits");
    }

    fn accept(self, interval_seconds: u32) {
        self.answer(
            200,
            &format!(r#"{{"nodeId":"accepted-1","intervalSeconds":{interval_seconds}}}"#),
        );
    }
}

struct Aggregator {
    address: SocketAddr,
    reports: mpsc::UnboundedReceiver<Incoming>,
}

impl Aggregator {
    async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let (sender, reports) = mpsc::unbounded_channel();
        let router = Router::new().route(REPORTS_PATH, post(receive)).with_state(sender);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, reports }
    }

    async fn next(&mut self) -> Incoming {
        timeout(SOON, self.reports.recv()).await.expect("a report in time").expect("a report")
    }
}

async fn receive(
    State(reports): State<mpsc::UnboundedSender<Incoming>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    assert_eq!(text(header::CONTENT_TYPE).as_deref(), Some("application/json"));
    let (answer, answered) = oneshot::channel();
    let incoming = Incoming {
        authorization: text(header::AUTHORIZATION),
        report: serde_json::from_slice(&body).expect("a report"),
        peer,
        at: Instant::now(),
        answer,
    };
    assert!(reports.send(incoming).is_ok(), "the test listens");
    // A test that hangs up without an answer leaves the agent without one.
    match answered.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

/// An agent under test.
struct Agent {
    folder: TempDir,
    metrics: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Agent {
    /// Starts an agent that reports `host` to `aggregator`; `interval` is the operator's choice.
    async fn start(aggregator: SocketAddr, host: &str, interval: Option<Duration>) -> Self {
        Self::start_with(aggregator, host, interval, |_, _| {}).await
    }

    /// The same, with more of its configuration set by `configure`, which may put files in a folder.
    async fn start_with(
        aggregator: SocketAddr,
        host: &str,
        interval: Option<Duration>,
        configure: impl FnOnce(&mut RunConfig, &Path),
    ) -> Self {
        Lines::start();
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("token"), format!("{SECRET}-1\n")).expect("written");
        let mut config = config(aggregator, host, interval, folder.path().join("token"));
        configure(&mut config, folder.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let metrics = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(run(config, listener, async {
            stopped.await.expect("the test stops the agent");
        }));
        Self { folder, metrics, stop: Some(stop), ended }
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let url = url::Url::parse(&format!("http://{}{path}", self.metrics)).expect("a URL");
        let client = client_builder(&url, None).expect("a builder").build().expect("a client");
        let response = client.get(url).send().await.expect("an answer");
        (response.status(), response.text().await.expect("a body"))
    }

    async fn metric(&self, series: &str) -> String {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map(|value| value.trim().to_owned()).expect(series)
    }

    /// Stops the agent: it must end by itself, without an error, and at once.
    async fn stop(mut self) {
        self.stop.take().expect("running").send(()).expect("the agent runs");
        let ended = timeout(Duration::from_secs(1), &mut self.ended).await;
        ended.expect("stops within a second").expect("does not panic").expect("no error");
        Lines::hold_no_secret();
    }
}

fn config(
    aggregator: SocketAddr,
    host: &str,
    interval: Option<Duration>,
    token_file: PathBuf,
) -> RunConfig {
    RunConfig {
        aggregator: format!("http://{aggregator}").parse().expect("a URL"),
        token_file: Some(token_file),
        client_cert: None,
        client_key: None,
        listen: "127.0.0.1:0".parse().expect("an address"),
        interval,
        ca_file: None,
        insecure_http: false,
        require_gpus: false,
        stamp: StampConfig::default(),
        node: NodeConfig {
            node_name: Some("node-1".parse().expect("a name")),
            node_id: None,
            host_root: Path::new("tests/hosts").join(host).join("root"),
            nvml_library: "/nonexistent/libnvidia-ml.so.1".into(),
            nvml_timeout: SOON,
            count_removable: false,
        },
    }
}

/// Every token of these tests begins with it.
const SECRET: &str = "hunter2";

/// All that was logged, at every level.
struct Lines(watch::Sender<Vec<String>>);

static LINES: LazyLock<Lines> = LazyLock::new(|| Lines(watch::Sender::new(Vec::new())));

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // The daemon's logger leaves it out, too (`rollcall_daemon::logging::init`).
        if record.target().starts_with("kube") {
            return;
        }
        let line = format!("{} {} {:?}", record.level(), record.args(), Pairs::of(record));
        self.0.send_modify(|lines| lines.push(line));
    }

    fn flush(&self) {}
}

impl Lines {
    fn start() {
        // The first test of this process sets it, the others find it set.
        if log::set_logger(&*LINES).is_ok() {
            log::set_max_level(LevelFilter::Trace);
        }
    }

    /// Waits until so many lines hold all of these words.
    async fn wait_for(words: &[&str], times: usize) {
        let holding = |lines: &[String]| -> Vec<String> {
            let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
            lines.iter().filter(has_all).cloned().collect()
        };
        let mut lines = LINES.0.subscribe();
        let found = timeout(SOON, lines.wait_for(|lines| holding(lines).len() >= times)).await;
        let all = found.expect("logged in time").expect("the logger lives").clone();
        let found = holding(&all);
        assert_eq!(found.len(), times, "{words:?} are in {found:#?} of {all:#?}");
    }

    fn hold_no_secret() {
        let lines = LINES.0.borrow();
        let leak = lines.iter().find(|line| line.contains(SECRET));
        assert_eq!(leak, None, "a token was logged");
        assert!(!lines.is_empty(), "nothing was logged at all");
    }
}

/// A record's key-values.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn of(record: &Record<'_>) -> Self {
        let mut pairs = Self::default();
        record.key_values().visit(&mut pairs).expect("the visitor below never fails");
        pairs
    }
}

impl<'kvs> log::kv::VisitSource<'kvs> for Pairs {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

#[tokio::test]
async fn reports_go_on_at_the_interval_that_the_aggregator_assigns() {
    let mut aggregator = Aggregator::start().await;
    let agent = Agent::start(aggregator.address, "rich-server", None).await;
    let first = aggregator.next().await;
    assert_eq!(first.authorization.as_deref(), Some("Bearer hunter2-1"));
    assert_eq!(first.report.node.name.as_str(), "node-1");
    assert_eq!(first.report.inventory.cpu.known().map(|cpu| cpu.online), Some(7));
    let (status, waiting) = agent.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{waiting}");
    assert!(waiting.contains("first report"), "{waiting}");
    assert_eq!(agent.get("/livez").await.0, StatusCode::OK);

    let answered = Instant::now();
    first.accept(1);
    let second = aggregator.next().await;
    // One second, less a tenth of jitter; the default would be a minute.
    let gap = second.at - answered;
    assert!(gap >= Duration::from_millis(900), "{gap:?}");
    assert_eq!(agent.get("/readyz").await.0, StatusCode::OK);
    assert_eq!(agent.metric("rollcall_agent_reports_total{outcome=\"accepted\"}").await, "1");
    assert_eq!(agent.metric("rollcall_agent_probe_duration_seconds_count").await, "2");
    let series = "rollcall_agent_last_accepted_report_timestamp_seconds";
    assert_ne!(agent.metric(series).await, "0");
    agent.stop().await;
}

#[tokio::test]
async fn a_connection_is_kept_until_the_next_report() {
    let mut aggregator = Aggregator::start().await;
    let _agent = Agent::start(aggregator.address, "rich-server", None).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let report = aggregator.next().await;
        peers.push(report.peer);
        report.accept(1);
    }
    assert_eq!(peers, [peers[0]; 3], "no further one was made");
}

/// Its connections end with it, as those of a program that is killed.
#[tokio::test]
async fn an_aggregator_that_was_started_anew_gets_the_next_report() {
    let (start, started) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    let former = thread::spawn(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            drop(start.send(Aggregator::start().await));
            drop(ended.await);
        });
    });
    let mut aggregator = started.await.expect("it starts");
    let address = aggregator.address;
    let agent = Agent::start(address, "rich-server", None).await;
    aggregator.next().await.accept(2);
    let accepted = "rollcall_agent_reports_total{outcome=\"accepted\"}";
    while agent.metric(accepted).await == "0" {
        sleep(Duration::from_millis(10)).await;
    }
    end.send(()).expect("it runs");
    former.join().expect("it ends");
    let again = TcpSocket::new_v4().expect("a socket");
    again.set_reuseaddr(true).expect("set");
    again.bind(address).expect("the same port");
    let mut aggregator = Aggregator::on(again.listen(16).expect("listens"));
    aggregator.next().await.accept(60);
    assert_eq!(agent.metric("rollcall_agent_reports_total{outcome=\"failed\"}").await, "0");
    agent.stop().await;
}

/// Accepts the report that comes over this connection, which is then the first that the agent counts.
async fn is_no_failure(mut connection: TcpStream, agent: Agent) {
    let mut some = [0; 1024];
    let mut read = connection.read(&mut some).await.expect("a report");
    while read > 0
        && let Ok(more) = timeout(SOON / 20, connection.read(&mut some)).await
    {
        read = more.expect("more of it");
    }
    assert_ne!(read, 0, "the agent waits for an answer");
    let answer = r#"{"nodeId":"accepted-1","intervalSeconds":60}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
    connection.write_all(answer.as_bytes()).await.expect("answered");
    while agent.metric("rollcall_agent_reports_total{outcome=\"accepted\"}").await == "0" {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(agent.metric("rollcall_agent_reports_total{outcome=\"failed\"}").await, "0");
    agent.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_lost_with_a_report_is_no_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let agent = Agent::start(listener.local_addr().expect("bound"), "bare-minimum", None).await;
    let (mut lost, _) = listener.accept().await.expect("a connection");
    assert_ne!(lost.read(&mut [0; 1024]).await.expect("a report"), 0);
    drop(lost);
    let another = timeout(SOON, listener.accept()).await.expect("soon");
    is_no_failure(another.expect("another").0, agent).await;
}

#[tokio::test]
async fn a_connection_that_dies_without_a_word_is_no_failure() {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Less than a report: what is not read is not acknowledged either.
    socket.set_recv_buffer_size(1).expect("set");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(16).expect("listens");
    let agent = Agent::start(listener.local_addr().expect("bound"), "rich-server", None).await;
    let (_dead, _) = timeout(SOON, listener.accept()).await.expect("soon").expect("a connection");
    let another = timeout(2 * SOON, listener.accept()).await.expect("the system gives it up");
    is_no_failure(another.expect("another").0, agent).await;
}

#[tokio::test]
async fn the_operators_interval_goes_before_the_aggregators() {
    let mut aggregator = Aggregator::start().await;
    let interval = Some(Duration::from_millis(20));
    let agent = Agent::start(aggregator.address, "bare-minimum", interval).await;
    aggregator.next().await.accept(3600);
    aggregator.next().await.accept(3600);
    agent.stop().await;
}

#[tokio::test]
async fn a_refusal_is_logged_once_in_the_aggregators_words_and_the_agent_goes_on() {
    const WORDS: &str = "node-1 is bound to another machine: run rebind node-1";
    let mut aggregator = Aggregator::start().await;
    let port = format!(":{}/", aggregator.address.port());
    let interval = Some(Duration::from_millis(20));
    let agent = Agent::start(aggregator.address, "bare-minimum", interval).await;
    let refusal = format!(r#"{{"code":"credentials-wrong","message":"{WORDS}"}}"#);
    aggregator.next().await.answer(401, &refusal);
    aggregator.next().await.answer(401, &refusal);
    let third = aggregator.next().await;
    Lines::wait_for(&["WARN", &port, "401 Unauthorized", WORDS], 1).await;
    assert_eq!(agent.metric("rollcall_agent_reports_total{outcome=\"refused\"}").await, "2");
    assert_eq!(agent.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    third.accept(60);
    aggregator.next().await.answer(401, &refusal);
    let fifth = aggregator.next().await;
    Lines::wait_for(&["WARN", &port, WORDS], 2).await;
    assert_eq!(agent.get("/readyz").await.0, StatusCode::OK, "once ready, ready for good");
    drop(fifth);
    agent.stop().await;
}

#[tokio::test]
async fn an_aggregator_that_is_away_is_asked_again() {
    // A port that is taken and that nobody listens on.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = socket.local_addr().expect("bound");
    let port = format!(":{}/", address.port());
    let interval = Some(Duration::from_millis(20));
    let agent = Agent::start(address, "bare-minimum", interval).await;
    Lines::wait_for(&["WARN", &port, "does not answer", "Connection refused"], 1).await;
    let mut aggregator = Aggregator::on(socket.listen(16).expect("listens"));
    let late = aggregator.next().await;
    assert_ne!(agent.metric("rollcall_agent_reports_total{outcome=\"failed\"}").await, "0");
    late.accept(60);
    aggregator.next().await.accept(60);
    assert_eq!(agent.get("/readyz").await.0, StatusCode::OK);
    agent.stop().await;
}

#[tokio::test]
async fn the_token_is_read_for_every_report() {
    let mut aggregator = Aggregator::start().await;
    let interval = Some(Duration::from_millis(20));
    let agent = Agent::start(aggregator.address, "bare-minimum", interval).await;
    let first = aggregator.next().await;
    fs::write(agent.token_file(), "hunter2-2").expect("written");
    first.accept(60);
    let second = aggregator.next().await;
    assert_eq!(second.authorization.as_deref(), Some("Bearer hunter2-2"));
    fs::remove_file(agent.token_file()).expect("removed");
    second.accept(60);
    let path = agent.token_file().display().to_string();
    Lines::wait_for(&["WARN", "there is no token", &path], 1).await;
    fs::write(agent.token_file(), "hunter2-3").expect("written");
    let third = aggregator.next().await;
    assert_eq!(third.authorization.as_deref(), Some("Bearer hunter2-3"));
    agent.stop().await;
}

#[tokio::test]
async fn the_agent_stops_while_a_reply_hangs() {
    let mut aggregator = Aggregator::start().await;
    let agent = Agent::start(aggregator.address, "bare-minimum", None).await;
    let hanging = aggregator.next().await;
    agent.stop().await;
    drop(hanging);
}

#[tokio::test]
async fn a_node_whose_probes_fail_still_reports() {
    let mut aggregator = Aggregator::start().await;
    let agent = Agent::start(aggregator.address, "wrong-root", None).await;
    let incoming = aggregator.next().await;
    assert_eq!(incoming.report.inventory.failures().len(), Subject::ALL.len());
    assert_eq!(agent.metric("rollcall_agent_probe_failed{subject=\"disks\"}").await, "1");
    agent.stop().await;
}

#[tokio::test]
async fn a_token_file_that_is_not_there_yet_is_waited_for() {
    let mut aggregator = Aggregator::start().await;
    let interval = Some(Duration::from_millis(20));
    let agent =
        Agent::start_with(aggregator.address, "bare-minimum", interval, |config, folder| {
            config.token_file = Some(folder.join("later"));
        });
    let agent = agent.await;
    let later = agent.folder.path().join("later");
    let path = later.display().to_string();
    let words = ["WARN", "there is no token", "--token-file", &path];
    Lines::wait_for(&words, 1).await;
    let failed = "rollcall_agent_reports_total{outcome=\"failed\"}";
    let tries = async {
        while agent.metric(failed).await.parse::<u32>().expect("a count") < 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, tries).await.expect("it is tried again");
    Lines::wait_for(&words, 1).await;
    fs::write(&later, "hunter2-later").expect("written");
    let first = aggregator.next().await;
    assert_eq!(first.authorization.as_deref(), Some("Bearer hunter2-later"));
    agent.stop().await;
}

#[tokio::test]
async fn two_troubles_that_take_turns_are_logged_once_each() {
    let mut aggregator = Aggregator::start().await;
    let port = format!(":{}/", aggregator.address.port());
    let interval = Some(Duration::from_millis(20));
    let agent = Agent::start(aggregator.address, "bare-minimum", interval).await;
    for status in [503, 429, 503, 429, 503, 429] {
        aggregator.next().await.answer(status, "{}");
    }
    let last = aggregator.next().await;
    for words in ["503 Service Unavailable", "429 Too Many Requests"] {
        Lines::wait_for(&["WARN", &port, words], 1).await;
    }
    last.accept(60);
    aggregator.next().await.answer(503, "{}");
    Lines::wait_for(&["WARN", &port, "503 Service Unavailable"], 2).await;
    agent.stop().await;
}
