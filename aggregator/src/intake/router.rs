//! The intake's HTTP side: bounds, status codes, error bodies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use rollcall_report::{Assignment, MAX_REPORT_BYTES, REPORTS_PATH, Refusal, RefusalCode};

use super::accept::accept;
use super::authenticate::Authenticator;
use crate::aggregator::Aggregator;
use crate::refusal::refuse;

/// How long a request may take from its headers to its answer.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Intake {
    aggregator: Arc<Aggregator>,
    authenticator: Authenticator,
}

/// The intake's routes.
pub fn router(aggregator: Arc<Aggregator>, authenticator: Authenticator) -> Router {
    Router::new()
        .route(REPORTS_PATH, post(report).fallback(no_such_method))
        .fallback(no_such_path)
        .with_state(Arc::new(Intake { aggregator, authenticator }))
}

async fn report(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    let outcome = tokio::time::timeout(DEADLINE, take(&intake, request)).await;
    let outcome = outcome.unwrap_or_else(|_elapsed| {
        let message = format!("the report did not arrive within {} s", DEADLINE.as_secs());
        Err(Refusal { code: RefusalCode::TooSlow, message })
    });
    match outcome {
        Ok((assignment, changed)) => {
            intake.aggregator.metrics.report(if changed { "changed" } else { "unchanged" });
            Json(assignment).into_response()
        }
        Err(refusal) => {
            intake.aggregator.metrics.report(refusal.code.as_str());
            refuse(&refusal)
        }
    }
}

async fn take(intake: &Intake, request: Request) -> Result<(Assignment, bool), Refusal> {
    let (head, body) = request.into_parts();
    let identity = intake.authenticator.authenticate(&head.headers)?;
    let body = read(&head.headers, body).await?;
    let arrived = Instant::now();
    let accepted = accept(&intake.aggregator, &identity, &body).await?;
    intake.aggregator.metrics.report_took(arrived.elapsed().as_secs_f64());
    Ok((accepted.assignment, accepted.changed))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let too_large = || Refusal {
        code: RefusalCode::TooLarge,
        message: format!("a report has at most {MAX_REPORT_BYTES} bytes"),
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_REPORT_BYTES) {
        return Err(too_large());
    }
    // A body that is cut off and one that is too long end alike; the length tells them apart.
    to_bytes(body, MAX_REPORT_BYTES).await.map_err(|error| {
        if announced.is_some() {
            let message = format!("the report broke off: {error}");
            Refusal { code: RefusalCode::Malformed, message }
        } else {
            too_large()
        }
    })
}

async fn no_such_method() -> Response {
    let message = format!("reports are posted: POST {REPORTS_PATH}");
    let refusal = Refusal { code: RefusalCode::NotFound, message };
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], Json(refusal)).into_response()
}

async fn no_such_path() -> Response {
    let message = format!("this is rollcall's intake for reports: POST {REPORTS_PATH}");
    refuse(&Refusal { code: RefusalCode::NotFound, message })
}
