//! How a refusal becomes an HTTP answer, on both listeners.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rollcall_report::{Refusal, RefusalCode};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::{Content, Ref, RefOr, Response as Answer, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema as _};

/// A refusal as an HTTP answer: its code's status, its words as JSON.
#[derive(Debug)]
pub struct Refused(pub Refusal);

impl Refused {
    /// Refuses in these words.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self(Refusal { code, message: message.into() })
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => RefusalCode::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => RefusalCode::MediaType,
            _ => RefusalCode::Malformed,
        };
        Self::new(code, rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(RefusalCode::Malformed, rejection.body_text())
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self::new(RefusalCode::Malformed, rejection.body_text())
    }
}

/// Says in words what a router answers without any: that a path takes other methods. Which, the
/// router says in the header `Allow`.
pub async fn explained(response: Response) -> Response {
    let has_words = response.headers().contains_key(header::CONTENT_TYPE);
    if response.status() != StatusCode::METHOD_NOT_ALLOWED || has_words {
        return response;
    }
    let message = "this path takes other methods; the header Allow names them".to_owned();
    let refusal = Refusal { code: RefusalCode::NotFound, message };
    (StatusCode::METHOD_NOT_ALLOWED, Json(refusal)).into_response()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            RefusalCode::CredentialsMissing | RefusalCode::CredentialsWrong => {
                StatusCode::UNAUTHORIZED
            }
            RefusalCode::Forbidden => StatusCode::FORBIDDEN,
            RefusalCode::Malformed | RefusalCode::SchemaVersion => StatusCode::BAD_REQUEST,
            RefusalCode::Implausible => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalCode::IdentityConflict | RefusalCode::Conflict => StatusCode::CONFLICT,
            RefusalCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            RefusalCode::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            RefusalCode::TooSlow => StatusCode::REQUEST_TIMEOUT,
            RefusalCode::NotFound => StatusCode::NOT_FOUND,
            RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let body = Json(self.0);
        if status == StatusCode::UNAUTHORIZED {
            return (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        (status, body).into_response()
    }
}

/// Answers with an API's description.
///
/// # Errors
///
/// When it cannot be encoded, which is a bug.
pub fn described_by(description: &'static serde_json::Result<String>) -> Result<Response, Refused> {
    match description {
        Ok(json) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], json.as_str()).into_response())
        }
        Err(error) => Err(Refused::new(
            RefusalCode::Other,
            format!("the description cannot be encoded: {error}"),
        )),
    }
}

/// Refusals that several operations share, as OpenAPI descriptions list them.
macro_rules! described {
    ($($(#[$doc:meta])* $name:ident: { $($status:literal: $words:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Answer>> {
                [$(($status, $words)),*]
                    .into_iter()
                    .map(|(status, words)| (status.to_owned(), refusal(status, words)))
                    .collect()
            }
        }
    )*};
}

described! {
    /// To requests that need an operator.
    NotAnOperator: {
        "401": "The credentials are missing or wrong.",
        "403": "Nobody may do this from there, or the aggregator has no operator's token.",
    }
    /// To requests whose body is of no use.
    NotReadable: {
        "400": "The request is malformed: its path, its query or its body.",
        "413": "The body is too large.",
        "415": "The body is not `application/json`.",
    }
    /// To requests that change what is stored.
    NotStored: {
        "503": "It cannot be stored now; nothing was changed, try again.",
    }
}

fn refusal(status: &str, words: &str) -> RefOr<Answer> {
    let body = Content::new(Some(Ref::from_schema_name(Refusal::name())));
    let answer = ResponseBuilder::new().description(words).content("application/json", body);
    let answer = if status == "401" {
        let how = HeaderBuilder::new().description(Some("How to authenticate: `Bearer`.")).build();
        answer.header("WWW-Authenticate", how)
    } else {
        answer
    };
    answer.build().into()
}
