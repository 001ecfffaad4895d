//! What a monitoring system asks of a daemon: `/metrics`, `/livez` and `/readyz`.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

use crate::readiness::Readiness;

/// Routes that are open to everybody: they hold no secret and change nothing.
///
/// `/livez` answers 200 as long as the runtime turns; `/readyz` 200 when ready, else 503 and what is
/// waited for; `/metrics` what `metrics` gives, in Prometheus' text format: a text, or a body that is
/// written as it is sent.
pub fn router<B: Into<Body>>(
    metrics: impl Fn() -> prometheus::Result<B> + Clone + Send + Sync + 'static,
    readiness: Readiness,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(readyz(&readiness))))
        .route("/metrics", get(move || std::future::ready(shown(metrics()))))
}

/// A registry in Prometheus' text format.
///
/// # Errors
///
/// When a metric cannot be encoded, which is a bug.
pub fn text(registry: &Registry) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// Serves until `shutdown` resolves, then finishes what is under way: connections that are kept open end
/// then, too, also where this was dropped before.
///
/// # Errors
///
/// Only what the listener itself reports.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

fn readyz(readiness: &Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        "ok\n".into_response()
    } else {
        let body = format!("waiting for {}\n", pending.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

fn shown<B: Into<Body>>(metrics: prometheus::Result<B>) -> Response {
    match metrics {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text.into()).into_response(),
        Err(error) => {
            log::error!(error:% = error; "metrics could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be encoded\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    /// Else another server of the same address could not be reached through it.
    #[tokio::test]
    async fn who_keeps_a_connection_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("its address")).await.expect("open");
        let (held, dropped) = oneshot::channel::<()>();
        let router = router(|| Ok(String::new()), Readiness::new());
        let server = serve(listener, router, async move { drop(dropped.await) });
        let mut answer = vec![0; 4096];
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("asked");
        tokio::select! {
            ended = server => panic!("it serves no more: {ended:?}"),
            read = client.read(&mut answer) => answer.truncate(read.expect("an answer")),
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("close"), "{answer}");
        drop(held);
        let rest = timeout(Duration::from_secs(30), client.read(&mut [0; 1])).await;
        assert_eq!(rest.expect("in time").expect("an end"), 0, "the connection ends");
    }
}
