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
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{Builder, Parts};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// What became of a connection.
#[derive(Debug)]
pub(super) enum Turn<S> {
    /// Another request may come over it. What has come of that one is here.
    Open(S, Bytes),
    /// This request was the last one.
    Last(S),
    /// It broke off.
    Broken,
}

/// Answers the request that begins with these bytes: the last one, where `stop`'s sender is gone.
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
        Box::pin(
            async move { Ok::<_, Infallible>(answering.await.map(|body| Answer { body, phase })) },
        )
    });
    let io = TokioIo::new(Watched { stream, begun, phase: Arc::clone(&phase) });
    let mut connection = http.serve_connection(io, answering);
    let mut is_stopping = false;
    let ended = loop {
        let ended = poll_fn(|context| match connection.poll_without_shutdown(context) {
            Poll::Pending if phase.is(Phase::AWAITING) => Poll::Ready(Ok(())),
            polled => polled,
        });
        tokio::select! {
            biased;
            ended = ended => break ended,
            _ = stop.changed(), if !is_stopping => {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let Parts { io, read_buf, .. } = connection.into_parts();
    let stream = io.into_inner().stream;
    match ended {
        // What is empty holds its buffer, too.
        Ok(()) if phase.is(Phase::AWAITING) && read_buf.is_empty() => {
            Turn::Open(stream, Bytes::new())
        }
        Ok(()) if phase.is(Phase::AWAITING) => Turn::Open(stream, read_buf),
        Ok(()) => Turn::Last(stream),
        Err(error) => {
            log::debug!(error:% = rollcall_report::error_chain(&error); "a connection broke off");
            Turn::Broken
        }
    }
}

/// How far a request has come.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

impl Phase {
    /// It is being answered, or has not come yet.
    const ASKED: u8 = 0;
    /// hyper has all of the answer.
    const ANSWERED: u8 = 1;
    /// The system has it.
    const SENT: u8 = 2;
    /// What hyper looks for now is another request, and nothing is there.
    const AWAITING: u8 = 3;

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
    phase: Arc<Phase>,
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
        self.phase.goes_on_from(Phase::ASKED);
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
        // With what has come since.
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
