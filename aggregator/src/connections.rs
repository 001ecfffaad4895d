//! How agents' connections are taken. What is written goes out at once. A connection over which a report was
//! taken is kept until the next one, which spares both ends a handshake, unless there are too many already;
//! that of anybody else is not. One that is kept holds a socket and what TLS needs, and nothing else. There are
//! never so many connections that no file could be opened for anything else.

mod turn;

use std::convert::Infallible;
use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use axum_server::accept::Accept;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::{Service, ServiceExt as _};

use turn::Turn;

/// How long a client may take for its first request's headers, once it is connected and hands are shaken, and for
/// those of each further request from their first byte on.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest interval over which connections are kept.
const LONGEST_INTERVAL: Duration = Duration::from_mins(2);
/// How many are kept at most.
const MOST: usize = 16_384;
/// How many files are left to everything else: operators, networks, the store, tokens, certificates.
const LEAST_LEFT: usize = 32;
const MOST_LEFT: usize = 1024;
/// How large a request's headers may get, about, and what of a body is read ahead.
const READ_AHEAD: usize = 32 * 1024;
/// How many bytes of empty lines may come before a request.
const MOST_EMPTY: usize = 64;
/// How old a connection gets: it does not outlive its certificate for long, and its agent comes to another
/// aggregator in time.
const OLDEST: Duration = Duration::from_hours(1);
/// How long to leave it, where no connection can be taken: until others have ended.
const PAUSE: Duration = Duration::from_millis(50);
/// How long that is not told again.
const TOLD_FOR: Duration = Duration::from_mins(1);
/// How long the other end may take to read that a connection ends.
const PARTING: Duration = Duration::from_secs(2);

/// How connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeps {
    /// How long one may be idle.
    pub idle: Duration,
    /// How many there may be.
    pub most: usize,
    /// How old one may be.
    pub age: Duration,
}

impl Keeps {
    /// Keeps connections until an agent that reports at this interval has done so again, and leaves a quarter of all
    /// that there may be to those who come. `None`: the next report is so far away that it is worth its own
    /// connection.
    pub fn of(interval: Duration, most: usize) -> Option<Self> {
        (interval <= LONGEST_INTERVAL).then(|| Self {
            idle: HEADER_TIMEOUT.max(interval * 3 / 2),
            most: MOST.min(most / 4 * 3),
            age: OLDEST,
        })
    }
}

/// How many connections there may be at a time, of agents and of strangers, where so many files may be open.
pub fn most_of(open_files: usize) -> usize {
    let left = (open_files / 8).clamp(LEAST_LEFT, MOST_LEFT);
    open_files.saturating_sub(left).max(1)
}

/// Takes connections from a listener and answers what is asked over them.
#[derive(Debug)]
pub struct Connections<A> {
    acceptor: A,
    keeps: Option<Keeps>,
    most: usize,
}

impl<A> Connections<A>
where
    A: Accept<TcpStream, Router>,
    A::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A::Service: Answers,
    A::Future: Send + 'static,
    <A::Service as Service<Request<Incoming>>>::Future: Send,
{
    /// Takes them as `acceptor` does, so many at a time. Without `keeps`, each is for one request.
    pub const fn new(acceptor: A, keeps: Option<Keeps>, most: usize) -> Self {
        Self { acceptor, keeps, most }
    }

    /// Serves until `stop`'s sender is gone, then answers what is under way, for so long at most.
    pub async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        mut stop: watch::Receiver<()>,
        grace: Duration,
    ) {
        let mut http = http1::Builder::new();
        // Without half-closed connections: whoever is gone would hold its place for as long as the store takes.
        http.timer(TokioTimer::new()).max_buf_size(READ_AHEAD).half_close(false);
        let http = Arc::new(http);
        let places = Arc::new(Semaphore::new(self.keeps.map_or(0, |keeps| keeps.most)));
        let (mut connections, mut full, mut failing) =
            (JoinSet::new(), Told::default(), Told::default());
        loop {
            let has_room = connections.len() < self.most;
            if !has_room && full.is_due() {
                log::warn!(open = self.most; "the intake takes no further connection until one ends: strangers hold them, or there are too many agents for the limit of open files (LimitNOFILE, ulimit -n), of which 65,536 count at most");
            }
            let stream = tokio::select! {
                biased;
                _ = stop.changed() => break,
                Some(_ended) = connections.join_next() => continue,
                stream = accept(&listener, &mut failing), if has_room => stream,
            };
            // Held back, an answer waits until the client has acknowledged what was sent before: 40 ms.
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let accepting = self.acceptor.accept(stream, router.clone());
            let connection = Connection {
                http: Arc::clone(&http),
                keeps: self.keeps,
                places: Arc::clone(&places),
                place: OnceLock::new(),
                since: Instant::now(),
                stop: stop.clone(),
            };
            let mut stop = stop.clone();
            connections.spawn(async move {
                let accepted = tokio::select! {
                    biased;
                    accepted = accepting => accepted,
                    // Nothing was asked yet.
                    _ = stop.changed() => return,
                };
                if let Ok((stream, service)) = accepted {
                    // In a box: a future is as large as all that it hands on, and this one stays.
                    connection.attend(Box::new(stream), service).await;
                }
            });
        }
        // Whoever comes now is refused at once, and comes again.
        drop(listener);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        let _either = timeout(grace, all_ended).await;
    }
}

/// What answers requests.
pub trait Answers:
    Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The next connection. While none can be taken, those who come wait.
async fn accept(listener: &TcpListener, told: &mut Told) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // It is gone before it was taken.
            Err(error)
                if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) => {}
            Err(error) => {
                if told.is_due() {
                    log::warn!(error:% = error; "the intake can take no connection, and tries again: where too many files are open, raise the limit (LimitNOFILE, ulimit -n)");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// When it was told last that no connection can be taken.
#[derive(Debug, Default)]
struct Told(Option<Instant>);

impl Told {
    /// Whether it is to be told again.
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|at| at.elapsed() >= TOLD_FOR);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

/// One connection.
struct Connection {
    http: Arc<http1::Builder>,
    keeps: Option<Keeps>,
    /// One for each connection that may be kept.
    places: Arc<Semaphore>,
    /// Its own, from the first report on that was taken over it.
    place: OnceLock<OwnedSemaphorePermit>,
    since: Instant,
    stop: watch::Receiver<()>,
}

impl Connection {
    /// Answers one request after the other, as long as they come.
    async fn attend<S, V>(self, mut stream: S, service: V)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        V: Answers,
        V::Future: Send,
    {
        let (mut stop, mut begun) = (self.stop.clone(), Bytes::new());
        let (mut has_reported, mut until) = (false, Instant::now() + HEADER_TIMEOUT);
        let mut empty = 0;
        loop {
            if begun.is_empty() {
                let mut first = [0; 64];
                let came = tokio::select! {
                    biased;
                    came = timeout_at(until, stream.read(&mut first)) => came,
                    _ = stop.changed() => break,
                };
                let Ok(Ok(read @ 1..)) = came else { break };
                let came = first.get(..read).unwrap_or_default();
                begun = past_empty_lines(&Bytes::copy_from_slice(came));
                empty += read - begun.len();
                // Of somebody who never ceases, the time would not be looked at.
                if empty > MOST_EMPTY {
                    break;
                }
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut http = http1::Builder::clone(&self.http);
            http.header_read_timeout(if has_reported { HEADER_TIMEOUT } else { left });
            let answer = |request| self.answer(request, service.clone());
            // In a box, which is not there while the connection is only kept.
            match Box::pin(turn::take(stream, begun, &http, answer, &mut stop)).await {
                Turn::Open(open, rest) => (stream, begun) = (open, past_empty_lines(&rest)),
                Turn::Last(last) => {
                    stream = last;
                    break;
                }
            }
            (has_reported, empty) = (true, 0);
            // Without, each answer is the last one.
            until = Instant::now() + self.keeps.map_or(Duration::ZERO, |keeps| keeps.idle);
        }
        // Whoever does not read that is not waited for.
        let _gone = timeout(PARTING, stream.shutdown()).await;
    }

    /// Answers a request, and says whether another one may follow.
    async fn answer<V>(&self, request: Request<Incoming>, service: V) -> Response
    where
        V: Answers,
        V::Future: Send,
    {
        // What is posted here is reports. Anybody may look at what the intake says of itself.
        let is_report = request.method() == Method::POST;
        let Ok(mut answer) = service.oneshot(request).await;
        let is_kept = is_report
            && answer.status().is_success()
            && self.stop.has_changed().is_ok()
            && self.keeps.is_some_and(|keeps| self.since.elapsed() < keeps.age)
            && self.has_place();
        if !is_kept {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// Whether it has a place among those that are kept, or gets one: those that have one keep theirs.
    fn has_place(&self) -> bool {
        let take = || Arc::clone(&self.places).try_acquire_owned();
        self.place.get().is_some() || take().is_ok_and(|place| self.place.set(place).is_ok())
    }
}

/// What follows empty lines, which count for nothing before a request (RFC 9112, 2.2).
fn past_empty_lines(bytes: &Bytes) -> Bytes {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    // What is empty would hold its buffer, too.
    if empty == bytes.len() { Bytes::new() } else { bytes.slice(empty..) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::pin::pin;

    use axum::routing::{get, post};
    use axum_server::accept::DefaultAcceptor;
    use tokio::net::TcpSocket;
    use tokio::task::JoinHandle;

    use super::*;

    /// An answer: its head in lower case, and its body.
    async fn answer(connection: &mut (impl AsyncRead + Unpin)) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        connection.read_exact(&mut body).await.expect("a body");
        (head, body)
    }

    fn request(what: &str, body: &str) -> String {
        format!("{what} HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// Asks over a connection; says whether the answer asks to close it.
    async fn ask_for(what: &str, status: u16, connection: &mut TcpStream) -> bool {
        connection.write_all(request(what, "").as_bytes()).await.expect("sent");
        let (head, _body) = answer(connection).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        head.contains("connection: close")
    }

    /// Posts a report.
    async fn ask(connection: &mut TcpStream) -> bool {
        ask_for("POST /", 200, connection).await
    }

    /// How many seconds it takes until the other end closes a connection.
    async fn closed_after(connection: &mut TcpStream) -> u64 {
        let begun = Instant::now();
        let closed = timeout(HEADER_TIMEOUT * 2, connection.read(&mut [0])).await;
        assert_eq!(closed.expect("in time").expect("no error"), 0);
        begun.elapsed().as_secs()
    }

    /// More than a connection's buffers hold.
    const LARGE: usize = 20_000_000;
    /// How long a server waits for what is under way at its end.
    const GRACE: Duration = Duration::from_secs(1);

    /// A server.
    struct Serving {
        address: SocketAddr,
        task: JoinHandle<()>,
        taking: watch::Sender<()>,
    }

    impl Serving {
        async fn start(keeps: Option<Keeps>) -> Self {
            Self::start_with(keeps, 100).await
        }

        async fn start_with(keeps: Option<Keeps>, most: usize) -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let slow = async |body: Bytes| {
                sleep(GRACE / 2).await;
                body
            };
            let router = Router::new()
                .route("/", post(async || {}).get(async || {}))
                .route("/echo", post(async |body: Bytes| body))
                .route("/slow", post(slow))
                .route("/stuck", post(std::future::pending::<()>))
                .route("/large", get(async || "x".repeat(LARGE)));
            let (taking, stop) = watch::channel(());
            let connections = Connections::new(DefaultAcceptor, keeps, most);
            let task = tokio::spawn(connections.serve(listener, router, stop, GRACE));
            Self { address, task, taking }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("a connection")
        }
    }

    /// Keeps so many connections, until they are so old.
    const fn keeps(most: usize, age: Duration) -> Keeps {
        Keeps { idle: HEADER_TIMEOUT.saturating_mul(4), most, age }
    }

    #[test]
    fn how_long_and_how_many() {
        for (interval, open_files, kept, most) in [
            (60, 65_536, Some((90, 16_384)), 64_512),
            (120, 65_536, Some((180, 16_384)), 64_512),
            (121, 65_536, None, 64_512),
            (1, 65_536, Some((10, 16_384)), 64_512),
            (60, 1024, Some((90, 672)), 896),
            (60, 64, Some((90, 24)), 32),
            (60, 8, Some((90, 0)), 1),
        ] {
            let all = most_of(open_files);
            let keeps = Keeps::of(Duration::from_secs(interval), all);
            let found = keeps.map(|keeps| (keeps.idle.as_secs(), keeps.most));
            assert_eq!((found, all), (kept, most), "{interval} {open_files}");
        }
    }

    #[tokio::test]
    async fn only_so_many_are_kept() {
        let server = Serving::start(Some(keeps(2, OLDEST))).await;
        let _strangers = tokio::join!(server.connect(), server.connect());
        let (mut one, mut other) = (server.connect().await, server.connect().await);
        assert_eq!([ask(&mut one).await, ask(&mut other).await], [false; 2], "there is room");
        let mut third = server.connect().await;
        assert!(ask(&mut third).await, "there is none any more");
        assert_eq!(closed_after(&mut third).await, 0, "at once");
        let mut fourth = server.connect().await;
        assert_eq!([ask(&mut one).await, ask(&mut other).await], [false; 2], "they stay");
        assert!(ask(&mut fourth).await, "they go before whoever comes");
        drop(other);
        let is_room = async {
            while ask(&mut server.connect().await).await {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(HEADER_TIMEOUT, is_room).await.expect("there is room again");
    }

    #[tokio::test]
    async fn only_so_many_are_taken() {
        let server = Serving::start_with(Some(keeps(10, OLDEST)), 2).await;
        let (mut known, stranger) = (server.connect().await, server.connect().await);
        assert!(!ask(&mut known).await);
        let mut next = server.connect().await;
        let mut asked = pin!(ask(&mut next));
        timeout(GRACE / 2, asked.as_mut()).await.expect_err("it waits");
        assert!(!ask(&mut known).await, "whoever is there is answered");
        drop(stranger);
        let is_last = timeout(HEADER_TIMEOUT / 2, asked).await.expect("once another has ended");
        assert!(!is_last);
    }

    #[tokio::test]
    async fn none_is_kept_where_each_is_for_one_request() {
        let server = Serving::start(None).await;
        let mut connection = server.connect().await;
        assert!(ask(&mut connection).await);
        assert_eq!(closed_after(&mut connection).await, 0, "at once");
    }

    #[tokio::test]
    async fn none_gets_old() {
        let age = Duration::from_millis(500);
        let server = Serving::start(Some(keeps(10, age))).await;
        let mut connection = server.connect().await;
        sleep(age).await;
        assert!(ask(&mut connection).await);
        assert_eq!(closed_after(&mut connection).await, 0, "at once");
    }

    #[tokio::test]
    async fn strangers_are_not_waited_for() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        let (mut known, mut slow) = (server.connect().await, server.connect().await);
        assert_eq!([ask(&mut known).await, ask(&mut slow).await], [false; 2]);
        known.write_all(b"\r\n").await.expect("an empty line counts for nothing");
        slow.write_all(b"POST / HTTP/1.1\r\nhost: he").await.expect("sent");
        for (what, status) in [("POST /none", 404), ("GET /", 200)] {
            let mut stranger = server.connect().await;
            assert!(ask_for(what, status, &mut stranger).await, "{what}");
            assert_eq!(closed_after(&mut stranger).await, 0, "{what}: at once");
        }
        let (mut silent, mut late) = (server.connect().await, server.connect().await);
        let (silent, late, slow) = tokio::join!(
            closed_after(&mut silent),
            async {
                let begun = HEADER_TIMEOUT / 2;
                sleep(begun).await;
                late.write_all(b"P").await.expect("sent");
                begun.as_secs() + closed_after(&mut late).await
            },
            closed_after(&mut slow),
        );
        let mut restless = server.connect().await;
        let lines = async { while restless.write_all(b"\r\n").await.is_ok() {} };
        timeout(GRACE, lines).await.expect("empty lines without an end are not waited for");
        let limit = HEADER_TIMEOUT.as_secs();
        for (who, after) in [("silent", silent), ("late", late), ("slow", slow)] {
            assert!((limit - 2..=limit + 3).contains(&after), "{who}: {after} s");
        }
        assert!(!ask(&mut known).await, "it was heard of, and is waited for");
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_a_request_is_the_last_one() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        let length = |what: &str, more: &str| {
            format!("{what} HTTP/1.1\r\nhost: here\r\ncontent-length: 60\r\n{more}\r\n")
        };
        let another = request("GET /", "");
        let chunked = "POST /none HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n";
        for (asked, status) in [
            (length("POST /none", ""), 404),
            (length("POST /none", "") + &another, 404),
            (length("POST /none", "expect: 100-continue\r\n"), 404),
            (length("POST /", ""), 200),
            (length("GET /", "") + "half", 200),
            (chunked.to_owned(), 404),
            (format!("{chunked}5\r\nhel"), 404),
            ("GARBAGE\r\n\r\n".to_owned(), 400),
            ("POST / HTTP/1.0\r\ncontent-length: 0\r\n\r\n".to_owned(), 200),
        ] {
            let mut connection = server.connect().await;
            connection.write_all(asked.as_bytes()).await.expect("sent");
            let (head, _body) = answer(&mut connection).await;
            assert!(head.contains(&format!(" {status} ")), "{asked}: {head}");
            let mut more = Vec::new();
            let closed = timeout(GRACE, connection.read_to_end(&mut more)).await;
            // What was not read resets a connection.
            let _reset = closed.unwrap_or_else(|_elapsed| panic!("{asked}: it is kept"));
            assert_eq!(String::from_utf8_lossy(&more), "", "{asked}");
        }
    }

    #[tokio::test]
    async fn whoever_is_gone_holds_no_place() {
        let server = Serving::start_with(Some(keeps(10, OLDEST)), 1).await;
        let mut gone = server.connect().await;
        gone.write_all(request("POST /stuck", "a report").as_bytes()).await.expect("sent");
        sleep(GRACE / 4).await;
        drop(gone);
        let mut next = server.connect().await;
        let is_last = timeout(HEADER_TIMEOUT / 2, ask(&mut next)).await.expect("there is room");
        assert!(!is_last);
    }

    #[tokio::test]
    async fn headers_are_no_place_for_much() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        let mut connection = server.connect().await;
        let head = format!("POST / HTTP/1.1\r\nhost: {}", "x".repeat(2 * READ_AHEAD));
        // What is not read resets the connection, perhaps while this is sent.
        let _reset = connection.write_all(head.as_bytes()).await;
        let (head, _body) = answer(&mut connection).await;
        assert!(head.starts_with("http/1.1 431 "), "{head}");
        let mut connection = server.connect().await;
        let body = "x".repeat(10 * READ_AHEAD);
        connection.write_all(request("POST /echo", &body).as_bytes()).await.expect("sent");
        let (head, echo) = answer(&mut connection).await;
        assert!(echo == body.as_bytes(), "{head}");
    }

    #[tokio::test]
    async fn whoever_reads_slowly_hears_all() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        for more in ["", "content-length: 10\r\n"] {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4096).expect("set");
            let mut connection = socket.connect(server.address).await.expect("a connection");
            let asked = format!("GET /large HTTP/1.1\r\nhost: here\r\n{more}\r\n");
            connection.write_all(asked.as_bytes()).await.expect("sent");
            sleep(PARTING + GRACE).await;
            let (head, body) = answer(&mut connection).await;
            assert_eq!(body.len(), LARGE, "{head}");
        }
    }

    #[tokio::test]
    async fn requests_come_as_they_like() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        let bodies = ["one", &"two ".repeat(50_000), "", "four"];
        let all: String = bodies.iter().map(|body| request("POST /echo", body)).collect();
        // So many bytes at a time: alone, with a part of the next one, all in one.
        for step in [1, 7, 90, 1000, 150_000, all.len()] {
            let mut connection = server.connect().await;
            connection.set_nodelay(true).expect("set");
            let (mut answers, mut requests) = connection.split();
            let asking = async {
                for (sent, piece) in all.as_bytes().chunks(step).enumerate() {
                    requests.write_all(piece).await.expect("sent");
                    // Each of the first ones, and the last ones, is read by itself.
                    let left = all.len().saturating_sub((sent + 1) * step);
                    if sent * step < 300 || left < 300 {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            };
            let answered = async {
                for body in bodies {
                    let (head, echo) = answer(&mut answers).await;
                    assert!(head.starts_with("http/1.1 200"), "{step}: {head}");
                    assert_eq!(String::from_utf8_lossy(&echo), body, "{step}");
                }
            };
            timeout(HEADER_TIMEOUT / 2, async { tokio::join!(asking, answered) })
                .await
                .unwrap_or_else(|_elapsed| panic!("{step} bytes at a time: not all were answered"));
            assert!(!ask(&mut connection).await, "{step}: it is still there");
        }
    }

    #[tokio::test]
    async fn what_is_under_way_at_the_end_is_answered() {
        let server = Serving::start(Some(keeps(10, OLDEST))).await;
        let connect = || server.connect();
        let (mut idle, mut half, mut more) = tokio::join!(connect(), connect(), connect());
        let (mut asking, mut stuck) = tokio::join!(connect(), connect());
        assert_eq!([ask(&mut idle).await, ask(&mut more).await], [false; 2]);
        for begun in [&mut half, &mut more] {
            begun.write_all(b"POST / HTTP/1.1\r\n").await.expect("sent");
        }
        asking.write_all(request("POST /slow", "a report").as_bytes()).await.expect("sent");
        stuck.write_all(request("POST /stuck", "").as_bytes()).await.expect("sent");
        sleep(GRACE / 4).await;

        drop(server.taking);
        for (who, waiting) in [("idle", &mut idle), ("half", &mut half), ("more", &mut more)] {
            assert_eq!(closed_after(waiting).await, 0, "{who}: at once");
        }
        let (head, body) = answer(&mut asking).await;
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(body, b"a report");
        TcpStream::connect(server.address).await.expect_err("nobody listens");
        timeout(GRACE * 3, server.task).await.expect("after the grace").expect("no panic");
        let gone = timeout(GRACE, stuck.read(&mut [0])).await.expect("nothing goes on after that");
        assert!(gone.is_ok_and(|read| read == 0), "no answer");
    }

    #[tokio::test]
    async fn what_is_kept_is_small() {
        let server = Serving::start(None).await;
        let connection = Connection {
            http: Arc::new(http1::Builder::new()),
            keeps: None,
            places: Arc::new(Semaphore::new(0)),
            place: OnceLock::new(),
            since: Instant::now(),
            stop: server.taking.subscribe(),
        };
        let attending = connection.attend(Box::new(server.connect().await), Router::new());
        assert!(size_of_val(&attending) < 1024, "{}", size_of_val(&attending));
    }
}
