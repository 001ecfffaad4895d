//! What a monitoring system asks of a daemon: `/metrics`, `/livez` and `/readyz`.

use std::io;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

use crate::readiness::Readiness;

/// Routes that are open to everybody: they hold no secret and change nothing.
///
/// `/livez` answers 200 as long as the runtime turns; `/readyz` 200 when ready, else 503 and what is
/// waited for; `/metrics` what `metrics` gives, in Prometheus' text format.
pub fn router(
    metrics: impl Fn() -> prometheus::Result<String> + Clone + Send + Sync + 'static,
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

/// Serves until `shutdown` resolves, then finishes what is under way.
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

fn shown(metrics: prometheus::Result<String>) -> Response {
    match metrics {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            log::error!(error:% = error; "metrics could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be encoded\n").into_response()
        }
    }
}
