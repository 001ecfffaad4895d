//! Faults of a service and of the way to it: what needs no knowledge of what a request means.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Extension;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use thiserror::Error;

use super::flask::{HTML, flask_error, flask_redirect};

/// The most of [`Fault::Garbage`] that is written at once, in bytes.
const GARBAGE_CHUNK_BYTES: usize = 64 * 1024;

/// What goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed at once, nothing is done. To a client that tries again it is as
    /// good as a refused connection; [`super::AiosStandin::refuse_connections`] refuses for real.
    Refused,
    /// Nothing is done and nothing is ever answered.
    NotAnswering,
    /// Nothing is done; status 500 with Flask's own page.
    ServerError,
    /// Nothing is done; status 302 to another path of the same service.
    Redirects,
    /// Nothing is done; status 200, and as much that claims to be JSON and is none.
    Garbage {
        /// The length of the body.
        bytes: usize,
    },
    /// Carried out, and the connection is closed without an answer.
    ReplyLost,
    /// Carried out; the head of the reply tells the whole length, the connection is reset after
    /// half of the body. Of a reply larger than the system's buffers less than half may arrive.
    ResetInReply,
    /// Carried out at once, and answered late: a client that has gone away by then has changed
    /// something all the same.
    Stalls {
        /// How late.
        delay: Duration,
    },
    /// Carried out; the right reply, under `text/html`.
    WrongContentType,
}

impl Fault {
    /// The answer in place of carrying out the request; `None`: it is carried out.
    pub(super) async fn instead(&self, path: &str) -> Option<Response> {
        match self {
            Self::Refused => Some(hang_up()),
            Self::NotAnswering => std::future::pending().await,
            Self::ServerError => Some(flask_error(StatusCode::INTERNAL_SERVER_ERROR)),
            Self::Redirects => Some(flask_redirect(&format!("/moved{path}"))),
            Self::Garbage { bytes } => Some(garbage(*bytes)),
            Self::ReplyLost | Self::ResetInReply | Self::Stalls { .. } | Self::WrongContentType => {
                None
            }
        }
    }

    /// What becomes of the reply to a request that was carried out.
    pub(super) async fn spoil(&self, mut response: Response) -> Response {
        match self {
            Self::ReplyLost => hang_up(),
            Self::ResetInReply => cut(response).await,
            Self::Stalls { delay } => {
                tokio::time::sleep(*delay).await;
                response
            }
            Self::WrongContentType => {
                let html = HeaderValue::from_static(HTML);
                response.headers_mut().insert(header::CONTENT_TYPE, html);
                response
            }
            Self::Refused
            | Self::NotAnswering
            | Self::ServerError
            | Self::Redirects
            | Self::Garbage { .. } => response,
        }
    }
}

/// How a connection ends before its time; a response carries it to where the connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Break {
    /// Instead of the response.
    #[error("the connection is closed without an answer")]
    HangUp,
    /// In the middle of the response.
    #[error("the connection is reset in the middle of the answer")]
    Reset,
}

/// Stands for no answer.
pub(super) fn hang_up() -> Response {
    Extension(Break::HangUp).into_response()
}

/// The response with the second half of its body missing.
async fn cut(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let Ok(whole) = to_bytes(body, usize::MAX).await else {
        // No reply of ours fails by itself; if one did, it would have no half either.
        return hang_up();
    };
    let half = whole.slice(..whole.len() / 2);
    head.extensions.insert(Break::Reset);
    let whole_bytes = whole.len() as u64;
    Response::from_parts(head, Body::new(CutBody { half: Some(half), whole_bytes, waited: false }))
}

/// Claims its full length, gives the first half and fails.
#[derive(Debug)]
struct CutBody {
    half: Option<Bytes>,
    whole_bytes: u64,
    waited: bool,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = Break;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Break>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.waited {
            // hyper writes out what it has when a body lets it wait, and drops it when one fails.
            self.waited = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Break::Reset)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole_bytes)
    }
}

fn garbage(bytes: usize) -> Response {
    // Xorshift by G. Marsaglia, always from the same seed.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    // No text begins with 0xff, so that the shortest garbage is no JSON either.
    let chunk: Vec<u8> = std::iter::once(0xff)
        .chain(words.flat_map(u64::to_le_bytes))
        .take(bytes.min(GARBAGE_CHUNK_BYTES))
        .collect();
    let body = Body::new(GarbageBody { chunk: Bytes::from(chunk), left: bytes });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One chunk over and over, so that any length costs the same memory.
#[derive(Debug)]
struct GarbageBody {
    chunk: Bytes,
    left: usize,
}

impl HttpBody for GarbageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let next = self.chunk.slice(..self.chunk.len().min(self.left));
        self.left -= next.len();
        Poll::Ready(Some(Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}
