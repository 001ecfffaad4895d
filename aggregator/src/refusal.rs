//! How a refusal becomes an HTTP answer, on both listeners.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rollcall_report::{Refusal, RefusalCode};

/// A refusal as an HTTP answer.
pub fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal.code {
        RefusalCode::CredentialsMissing | RefusalCode::CredentialsWrong => StatusCode::UNAUTHORIZED,
        RefusalCode::Forbidden => StatusCode::FORBIDDEN,
        RefusalCode::Malformed | RefusalCode::SchemaVersion => StatusCode::BAD_REQUEST,
        RefusalCode::Implausible => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalCode::IdentityConflict => StatusCode::CONFLICT,
        RefusalCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalCode::TooSlow => StatusCode::REQUEST_TIMEOUT,
        RefusalCode::NotFound => StatusCode::NOT_FOUND,
        RefusalCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::Other => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = Json(refusal);
    if status == StatusCode::UNAUTHORIZED {
        return (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
    }
    (status, body).into_response()
}
