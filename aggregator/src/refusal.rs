//! How a refusal becomes an HTTP answer, on both listeners.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rollcall_report::{Refusal, RefusalCode};

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
