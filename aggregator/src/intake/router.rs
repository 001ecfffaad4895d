//! The intake's HTTP side: bounds on size and time, status codes, counting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use rollcall_report::{
    Assignment, MAX_REPORT_BYTES, NodeReport, REPORTS_PATH, Refusal, RefusalCode,
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::accept::{Accepted, accept};
use super::authenticate::Authenticator;
use super::certificate::Peer;
use super::openapi;
use crate::aggregator::Aggregator;
use crate::refusal::{Refused, explained};

/// How long a report may take to arrive, from its headers to its last byte.
const READ_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Intake {
    aggregator: Arc<Aggregator>,
    authenticator: Authenticator,
}

/// The intake's routes.
pub fn router(aggregator: Arc<Aggregator>, authenticator: Authenticator) -> Router {
    let (api, _description) = api().split_for_parts();
    api.fallback(no_such_path)
        .with_state(Arc::new(Intake { aggregator, authenticator }))
        .layer(middleware::map_response(explained))
}

/// What is routed here is described, too.
pub(super) fn api() -> OpenApiRouter<Arc<Intake>> {
    OpenApiRouter::with_openapi(openapi::beginning())
        .routes(routes!(report).map(|router| router.fallback(no_such_method)))
        .routes(routes!(openapi::openapi))
}

/// Takes an agent's report of its node.
///
/// All of it, whole at every interval: what is not in it is not there any more.
#[utoipa::path(
    post,
    path = REPORTS_PATH,
    tag = "reports",
    security(("joinToken" = []), ("serviceAccountToken" = []), ("clientCertificate" = [])),
    request_body(content = NodeReport, description = "The report, of at most 256 KiB."),
    responses(
        (status = OK, description = "The report is taken, and stored where it says something new.", body = Assignment),
        (status = BAD_REQUEST, description = "The body is no report, or one of an unknown schema version.", body = Refusal),
        (status = UNAUTHORIZED, description = "The credentials are missing or wrong.", body = Refusal,
            headers(("WWW-Authenticate" = String, description = "How to authenticate: `Bearer`."))),
        (status = FORBIDDEN, description = "The credentials do not allow to report for this node, or under this id.", body = Refusal),
        (status = REQUEST_TIMEOUT, description = "The body did not arrive in time.", body = Refusal),
        (status = CONFLICT, description = "The node's name, id or machine belongs to another node already.", body = Refusal),
        (status = PAYLOAD_TOO_LARGE, description = "The body is too large.", body = Refusal),
        (status = UNPROCESSABLE_ENTITY, description = "The report holds what no machine has: a number out of bounds, a name twice.", body = Refusal),
        (status = SERVICE_UNAVAILABLE, description = "It cannot be taken now; try again.", body = Refusal),
    )
)]
async fn report(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    match intake.take(request).await {
        Ok(Accepted { assignment, changed }) => {
            intake.aggregator.metrics.report_taken(changed);
            Json(assignment).into_response()
        }
        Err(refusal) => {
            intake.aggregator.metrics.report_refused(refusal.code);
            Refused(refusal).into_response()
        }
    }
}

impl Intake {
    async fn take(&self, request: Request) -> Result<Accepted, Refusal> {
        let (head, body) = request.into_parts();
        let certificate = head.extensions.get().and_then(|Peer(certificate)| certificate.clone());
        let identity = self.authenticator.authenticate(&head.headers, certificate).await?;
        let read = tokio::time::timeout(READ_DEADLINE, read(&head.headers, body)).await;
        let body = read.unwrap_or_else(|_elapsed| {
            let seconds = READ_DEADLINE.as_secs();
            let message = format!("the report did not arrive within {seconds} s");
            Err(Refusal { code: RefusalCode::TooSlow, message })
        })?;
        let arrived = Instant::now();
        let accepted = accept(&self.aggregator, &identity, body).await?;
        self.aggregator.metrics.report_took(arrived.elapsed().as_secs_f64());
        Ok(accepted)
    }
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

async fn no_such_path() -> Refused {
    let message = format!("this is rollcall's intake for reports: POST {REPORTS_PATH}");
    Refused::new(RefusalCode::NotFound, message)
}
