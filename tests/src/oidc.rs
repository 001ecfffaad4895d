//! A stand-in of Dex, as far as an API server looks at it: its discovery document and its keys, over
//! TLS.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::openssl::Issued;
use crate::serving::Serving;

/// The issuer's path.
const PATH: &str = "/dex";

/// How the stand-in answers, and what it was asked.
#[derive(Debug, Clone)]
pub struct OidcState {
    /// The discovery document; none: there is no such page.
    pub discovery: Option<Value>,
    /// The keys; none: there is no such page.
    pub keys: Option<Value>,
    /// What it was asked: method and path.
    pub requests: Vec<String>,
}

/// A running stand-in.
#[derive(Debug)]
pub struct OidcStandin {
    state: Arc<Mutex<OidcState>>,
    issuer: String,
    _serving: Serving,
}

impl OidcStandin {
    /// Starts a stand-in on a free port.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start(certificate: &Issued) -> Self {
        let state = OidcState { discovery: None, keys: None, requests: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&state));
        let serving = Serving::start(app, Some(certificate));
        let issuer = format!("https://localhost:{}{PATH}", serving.address.port());
        let standin = Self { state, issuer, _serving: serving };
        *standin.state() = standin.as_wanted();
        standin
    }

    /// The issuer that it is.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// How it answers and what it was asked; to be changed in place.
    pub fn state(&self) -> MutexGuard<'_, OidcState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn as_wanted(&self) -> OidcState {
        let issuer = &self.issuer;
        OidcState {
            discovery: Some(json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/keys"),
                "id_token_signing_alg_values_supported": ["RS256"],
                "scopes_supported": ["openid", "email", "groups", "profile", "offline_access"],
            })),
            keys: Some(json!({"keys": [
                {"use": "sig", "kty": "RSA", "kid": "1", "alg": "RS256", "n": "AQAB", "e": "AQAB"},
            ]})),
            requests: Vec::new(),
        }
    }
}

async fn answer(State(state): State<Arc<Mutex<OidcState>>>, request: Request) -> Response {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let path = request.uri().path();
    state.requests.push(format!("{} {path}", request.method()));
    let page = match path.strip_prefix(PATH) {
        Some("/.well-known/openid-configuration") => &state.discovery,
        Some("/keys") => &state.keys,
        _ => &None,
    };
    match page {
        Some(page) => Json(page.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, "404 page not found").into_response(),
    }
}
