//! One request over a connection, and its answer. hyper holds some 20 KB for a connection, whether anything
//! comes over it or not: it is given one when a request comes, which is taken back once that is answered.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{Builder, Parts};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rollcall_report::error_chain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// What became of a connection.
#[derive(Debug)]
pub(super) enum Turn<S> {
    /// Another request may come over it. What has come of that one is here.
    Open(S, Bytes),
    /// Nothing more is answered over it.
    Last(S),
}

/// Answers the request that begins with these bytes, and all that came together with it. Once `stop`'s sender is
/// gone, only what is asked already is answered.
pub(super) async fn take<S, F>(
    stream: S,
    begun: Bytes,
    http: &Builder,
    answer: impl Fn(Request<Incoming>) -> F,
    stop: &mut watch::Receiver<()>,
) -> Turn<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response> + Send,
{
    let phase = Arc::new(Phase::default());
    let answering = service_fn(|request| {
        // Also one that came together with the one before.
        phase.begins();
        let (answering, phase) = (answer(request), Arc::clone(&phase));
        Box::pin(async move {
            let answer = answering.await;
            // hyper ends a connection over which the answer says so.
            let phase = (!answer.headers().contains_key(CONNECTION)).then_some(phase);
            Ok::<_, Infallible>(answer.map(|body| Answer { body, phase }))
        })
    });
    let io = TokioIo::new(Watched { stream, begun, phase: Arc::clone(&phase) });
    let mut connection = http.serve_connection(io, answering);
    let mut is_stopping = false;
    let ended = loop {
        let ended = poll_fn(|context| match Pin::new(&mut connection).poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if phase.is(Phase::IDLE) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            // hyper first: told to stop before it has read what has begun, it would drop that.
            biased;
            ended = ended => break ended,
            _ = stop.changed(), if !is_stopping => {
                if phase.is(Phase::COMING) {
                    break Some(Ok(()));
                }
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let Parts { io, read_buf, .. } = connection.into_parts();
    let stream = io.into_inner().stream;
    match ended {
        None => return Turn::Open(stream, read_buf),
        Some(Ok(())) => {}
        Some(Err(error)) => log::debug!(error:% = error_chain(&error); "a connection ends"),
    }
    Turn::Last(stream)
}

/// How far a request has come.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

impl Phase {
    /// Its headers are not all there yet.
    const COMING: u8 = 0;
    /// It is being answered.
    const ASKED: u8 = 1;
    /// hyper has all of the answer.
    const ANSWERED: u8 = 2;
    /// The system has it.
    const SENT: u8 = 3;
    /// hyper looked for another one, and nothing is there: it holds nothing but what it has read ahead. It looks
    /// at once because its limit on headers begins then.
    const IDLE: u8 = 4;

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    fn begins(&self) {
        self.0.store(Self::ASKED, Ordering::Relaxed);
    }

    fn goes_on_from(&self, phase: u8) {
        if self.is(phase) {
            self.0.store(phase + 1, Ordering::Relaxed);
        }
    }
}

/// The body of an answer. It is dropped when hyper has it all.
struct Answer {
    body: Body,
    /// `None`: nothing follows.
    phase: Option<Arc<Phase>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(phase) = &self.phase {
            phase.goes_on_from(Phase::ASKED);
        }
    }
}

/// A connection's bytes, on which is seen how far the request has come.
struct Watched<S> {
    stream: S,
    /// What was read of the request already.
    begun: Bytes,
    phase: Arc<Phase>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            if read.is_pending() {
                self.phase.goes_on_from(Phase::SENT);
            }
            return read;
        }
        let most = self.begun.len().min(buffer.remaining());
        buffer.put_slice(&self.begun.split_to(most));
        // With what has come since. Where that is an end or an error, the next read says so.
        let _more = Pin::new(&mut self.stream).poll_read(context, buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.phase.goes_on_from(Phase::ANSWERED);
        Poll::Ready(Ok(()))
    }

    /// Leaves it open: whoever has it next closes it.
    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
