//! How agents' connections are taken. What is written goes out at once. A connection over which a report was
//! taken is kept until the next one, which spares both ends a handshake, unless there are too many already;
//! that of anybody else is not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use axum_server::accept::Accept;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tower::Service;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How long a client may take to send a request's headers, where nothing else is said.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest interval over which connections are kept.
const LONGEST_INTERVAL: Duration = Duration::from_mins(2);
/// How many are kept at most, of some 7 KB each.
const MOST: usize = 16_384;
/// How old a connection gets: it does not outlive its certificate for long, and its agent comes to another
/// aggregator in time.
const OLDEST: Duration = Duration::from_hours(1);

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
    /// Keeps connections until an agent that reports at this interval has done so again, unless that is far
    /// away, and leaves half of the files that may be open to those who come.
    pub fn of(interval: Duration, open_files: usize) -> Self {
        let is_soon = interval <= LONGEST_INTERVAL;
        let idle = if is_soon { HEADER_TIMEOUT.max(interval * 3 / 2) } else { HEADER_TIMEOUT };
        Self { idle, most: MOST.min(open_files / 2), age: OLDEST }
    }
}

/// Takes connections as another acceptor does. One over which no request comes soon is closed, and so is one
/// after an answer to anything but a report that was taken, when it is old, or while more are open than may
/// be kept.
#[derive(Debug, Clone)]
pub struct Keeping<A> {
    acceptor: A,
    open: Arc<AtomicUsize>,
    keeps: Keeps,
}

impl<A> Keeping<A> {
    /// Keeps as many connections as this says; for how long is the server's business.
    pub fn new(acceptor: A, keeps: Keeps) -> Self {
        Self { acceptor, open: Arc::default(), keeps }
    }
}

impl<A, S> Accept<TcpStream, S> for Keeping<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
    A::Stream: Send,
    A::Service: Send,
{
    type Stream = Awaited<A::Stream>;
    type Service = Kept<A::Service>;
    type Future = Boxed<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let open = Arc::new(Open::count(&self.open));
        let (keeps, since) = (self.keeps, Instant::now());
        // Held back, an answer waits until the client has acknowledged what was sent before: 40 ms.
        let accepted = stream.set_nodelay(true).map(|()| self.acceptor.accept(stream, service));
        Box::pin(async move {
            let (stream, service) = accepted?.await?;
            let has_asked = Arc::new(AtomicBool::new(false));
            let stream = Awaited::new(stream, Arc::clone(&has_asked));
            Ok((stream, Kept { service, open, keeps, since, has_asked }))
        })
    }
}

/// A connection's bytes, for as long as its first request comes in time: the server itself has one limit for
/// the first and for what comes much later.
#[derive(Debug)]
pub struct Awaited<S> {
    stream: S,
    has_asked: Arc<AtomicBool>,
    /// `None`: the request has come.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Awaited<S> {
    fn new(stream: S, has_asked: Arc<AtomicBool>) -> Self {
        Self { stream, has_asked, limit: Some(Box::pin(sleep(HEADER_TIMEOUT))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Awaited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_asked.load(Ordering::Relaxed) {
            self.limit = None;
        }
        if let Some(limit) = &mut self.limit
            && limit.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Awaited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A connection's service.
#[derive(Debug, Clone)]
pub struct Kept<S> {
    service: S,
    open: Arc<Open>,
    keeps: Keeps,
    since: Instant,
    has_asked: Arc<AtomicBool>,
}

impl<S> Service<Request<Incoming>> for Kept<S>
where
    S: Service<Request<Incoming>, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Boxed<Result<Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.has_asked.store(true, Ordering::Relaxed);
        // What is posted here is reports. Anybody may look at what the intake says of itself.
        let is_report = request.method() == Method::POST;
        let answering = self.service.call(request);
        let (open, keeps, since) = (Arc::clone(&self.open), self.keeps, self.since);
        Box::pin(async move {
            let mut answer = answering.await?;
            let is_kept = is_report
                && answer.status().is_success()
                && open.all() <= keeps.most
                && since.elapsed() < keeps.age;
            if !is_kept {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        })
    }
}

/// One connection among those that are open.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }

    /// How many are open.
    fn all(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use axum::Router;
    use axum::routing::post;
    use axum_server::accept::DefaultAcceptor;
    use hyper_util::rt::TokioTimer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    /// Asks over a connection; says whether the answer asks to close it.
    async fn ask_for(what: &str, status: u16, connection: &mut TcpStream) -> bool {
        let request = format!("{what} HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // None has a body.
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(connection.read_u8().await.expect("an answer"));
        }
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
        answer.contains("connection: close")
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

    /// A server that keeps so many connections for so long, its address, and how many are open.
    fn serve(most: usize, age: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let acceptor = Keeping::new(DefaultAcceptor, Keeps { idle: HEADER_TIMEOUT * 4, most, age });
        let open = Arc::clone(&acceptor.open);
        let server = axum_server::from_tcp(listener).expect("a server").acceptor(acceptor);
        let mut server = server.http1_only();
        let mut http1 = server.http_builder().http1();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT * 4);
        let service =
            Router::new().route("/", post(async || {}).get(async || {})).into_make_service();
        drop(tokio::spawn(server.serve(service)));
        (address, open)
    }

    #[test]
    fn how_long_and_how_many() {
        for (interval, open_files, idle, most) in [
            (60, 65_536, 90, 16_384),
            (120, 65_536, 180, 16_384),
            (121, 65_536, 10, 16_384),
            (1, 65_536, 10, 16_384),
            (60, 1024, 90, 512),
        ] {
            let keeps = Keeps::of(Duration::from_secs(interval), open_files);
            assert_eq!((keeps.idle.as_secs(), keeps.most), (idle, most), "{interval} {open_files}");
        }
    }

    #[tokio::test]
    async fn only_so_many_are_kept() {
        let (address, open) = serve(2, OLDEST);
        let connect = async || TcpStream::connect(address).await.expect("a connection");

        let (mut one, mut other) = (connect().await, connect().await);
        assert_eq!([ask(&mut one).await, ask(&mut other).await], [false; 2], "there is room");
        let mut third = connect().await;
        assert!(ask(&mut third).await, "there is none any more");
        assert_eq!(closed_after(&mut third).await, 0, "at once");
        let is_gone = async {
            while open.load(Ordering::Relaxed) > 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(HEADER_TIMEOUT, is_gone).await.expect("it is not counted any more");
        assert_eq!([ask(&mut one).await, ask(&mut other).await], [false; 2], "they stay");
    }

    #[tokio::test]
    async fn none_gets_old() {
        let age = Duration::from_millis(500);
        let (address, _open) = serve(10, age);
        let mut connection = TcpStream::connect(address).await.expect("a connection");
        sleep(age).await;
        assert!(ask(&mut connection).await);
        assert_eq!(closed_after(&mut connection).await, 0, "at once");
    }

    #[tokio::test]
    async fn strangers_are_not_waited_for() {
        let (address, _open) = serve(10, OLDEST);
        let connect = async || TcpStream::connect(address).await.expect("a connection");
        let (mut known, mut silent) = (connect().await, connect().await);
        assert!(!ask(&mut known).await);
        for (what, status) in [("POST /none", 404), ("GET /", 200)] {
            let mut stranger = connect().await;
            assert!(ask_for(what, status, &mut stranger).await, "{what}");
            assert_eq!(closed_after(&mut stranger).await, 0, "{what}: at once");
        }
        let limit = HEADER_TIMEOUT.as_secs();
        let after = closed_after(&mut silent).await;
        assert!((limit - 2..=limit + 5).contains(&after), "{after} s");
        assert!(!ask(&mut known).await, "it was heard of, and is waited for");
    }
}
