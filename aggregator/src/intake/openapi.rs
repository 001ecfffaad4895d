//! The description of the intake.

use std::sync::LazyLock;

use axum::response::IntoResponse;
use rollcall_report::Refusal;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi as _};

use super::router;
use crate::refusal::{Refused, described_by};

/// What the description says beside the operations; these are added by the router.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "rollcall-aggregator: intake",
        description = "Where agents report. Fields that are not described are ignored, and may mean something to a newer version. Every other path answers 404, every other method 405.",
        license(name = "Apache License 2.0", identifier = "Apache-2.0"),
    ),
    tags((name = "reports", description = "What agents say of their nodes.")),
    components(schemas(Refusal)),
    modifiers(&Agents)
)]
struct Beginning;

/// The ways in which agents prove who they are; which of them are switched on, the aggregator's
/// flags say.
struct Agents;

impl Modify for Agents {
    fn modify(&self, openapi: &mut OpenApi) {
        let bearer = |words: &str| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
            SecurityScheme::Http(scheme.description(Some(words)).build())
        };
        let certificate = SecurityScheme::MutualTls {
            description: Some(
                "A client certificate of a CA of --client-ca-file; it names its node.".to_owned(),
            ),
            deprecated: None,
            extensions: None,
        };
        openapi.info.contact = None;
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme(
            "joinToken",
            bearer("A token of the file that --token-file names: all agents share it."),
        );
        components.add_security_scheme(
            "serviceAccountToken",
            bearer("A token of the agent's service account, for the audience rollcall: it names the Node that its pod runs on."),
        );
        components.add_security_scheme("clientCertificate", certificate);
    }
}

/// The description without the operations that the router adds.
pub(super) fn beginning() -> OpenApi {
    Beginning::openapi()
}

/// The description of all that the intake routes.
pub fn description() -> OpenApi {
    let mut description = router::api().into_openapi();
    if let Some(components) = &mut description.components {
        rollcall_report::openapi::close_readings(components);
    }
    description
}

/// The description as it is served.
static DESCRIPTION: LazyLock<serde_json::Result<String>> =
    LazyLock::new(|| description().to_pretty_json());

/// Describes this API: this very document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "reports",
    responses((status = OK, description = "An OpenAPI 3.1 description.", body = Object, content_type = "application/json"))
)]
pub(super) async fn openapi() -> Result<impl IntoResponse, Refused> {
    described_by(&DESCRIPTION)
}
