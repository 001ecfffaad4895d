//! The description of the operator's API.

use std::sync::{Arc, LazyLock};

use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use rollcall_report::Refusal;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};

use super::{Admin, Peer, router};
use crate::cluster_file::TargetName;
use crate::refusal::{NotAnOperator, Refused, described_by};

/// What the description says beside the operations; these are added by the router.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "rollcall-aggregator: operator's API",
        description = "What the admin listener answers: the roll, the targets, and what monitoring asks. Reading is free from this very machine, else it needs the operator's token; acting always does.",
        license(name = "Apache License 2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "roll", description = "The nodes of the cluster."),
        (name = "targets", description = "The networks that the cluster is registered with."),
        (name = "monitoring", description = "Open to everybody: no secret is told, nothing is changed."),
    ),
    paths(livez, readyz, metrics),
    components(schemas(Refusal, TargetName)),
    modifiers(&Operator)
)]
struct Beginning;

/// The way to prove that one is an operator.
struct Operator;

impl Modify for Operator {
    fn modify(&self, openapi: &mut OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of the file that --operator-token-file names."))
            .build();
        openapi.info.contact = None;
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("operator", SecurityScheme::Http(bearer));
    }
}

/// The description without the operations that the router adds.
pub(super) fn beginning() -> OpenApi {
    Beginning::openapi()
}

/// The description of all that the admin listener routes, but for the web page.
pub fn description() -> OpenApi {
    router::api().into_openapi()
}

/// The description as it is served.
static DESCRIPTION: LazyLock<serde_json::Result<String>> =
    LazyLock::new(|| description().to_pretty_json());

/// Describes this API: this very document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "monitoring",
    security((), ("operator" = [])),
    responses(
        (status = OK, description = "An OpenAPI 3.1 description.", body = Object, content_type = "application/json"),
        NotAnOperator,
    )
)]
pub(super) async fn openapi(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refused> {
    admin.access.read(peer, &headers)?;
    described_by(&DESCRIPTION)
}

/// Whether the process turns.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "monitoring",
    responses((status = OK, description = "It does.", body = String, content_type = "text/plain; charset=utf-8"))
)]
#[expect(dead_code, reason = "described only; rollcall_daemon::observe answers")]
fn livez() {}

/// Whether it is ready, and what it waits for.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "monitoring",
    responses(
        (status = OK, description = "It is ready.", body = String, content_type = "text/plain; charset=utf-8"),
        (status = SERVICE_UNAVAILABLE, description = "What it waits for.", body = String, content_type = "text/plain; charset=utf-8"),
    )
)]
#[expect(dead_code, reason = "described only; rollcall_daemon::observe answers")]
fn readyz() {}

/// The metrics, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "monitoring",
    responses(
        (status = OK, description = "The metrics.", body = String, content_type = "text/plain; version=0.0.4"),
        (status = INTERNAL_SERVER_ERROR, description = "The metrics could not be encoded.", body = String, content_type = "text/plain; charset=utf-8"),
    )
)]
#[expect(dead_code, reason = "described only; rollcall_daemon::observe answers")]
fn metrics() {}
