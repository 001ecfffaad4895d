//! AIOS's cluster controller gateway: applies the network's policy and talks to the registry. A
//! failure of the registry becomes a 500 whose `data` holds the registry's status as text.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use serde_json::{Map, Value, json};

use super::flask::{Json, flask_json, jsonify};
use super::registry::{Entry, RegistryError};
use super::{Behaviour, Shared, infrastructure};

pub(super) const CREATE_PATH: &str = "/clusters/create";

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route(CREATE_PATH, post(create_cluster))
        .route("/clusters/read/{id}", get(read_cluster))
        .route("/clusters/update/{id}", put(update_cluster))
        .route("/clusters/delete/{id}", delete(delete_cluster))
        .merge(infrastructure::gateway_router())
}

/// Registers a flat document: what the parser calls and `/clusters/create` does.
///
/// # Errors
///
/// The gateway's words.
pub(super) fn create(
    shared: &Shared,
    behaviour: &Behaviour,
    mut document: Value,
) -> Result<Json, String> {
    match behaviour {
        Behaviour::PolicyRefuses { why } => {
            return Err(format!("Error occurred: cluster not allowed to be added: {why}"));
        }
        Behaviour::PolicyRewritesReputation { reputation } => {
            if let Some(fields) = document.as_object_mut() {
                fields.insert("reputation".to_owned(), json!(reputation));
            }
        }
        _ => {}
    }
    call(behaviour, "/clusters", || shared.state().create(&document))
}

async fn create_cluster(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let created =
        flask_json(&headers, &body).and_then(|document| create(&shared, &behaviour, document));
    reply(created)
}

async fn read_cluster(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    Path(id): Path<String>,
) -> Response {
    reply(call(&behaviour, &format!("/clusters/{id}"), || {
        shared.state().registry.read(&id).map(Entry::to_json)
    }))
}

/// The body is wrapped in `$set`; the registry's answer is the entry as it stands afterwards.
async fn update_cluster(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let updated = flask_json(&headers, &body).and_then(|changes| {
        // Moved, not copied as `json!` does.
        let update = Value::Object(Map::from_iter([("$set".to_owned(), changes)]));
        call(&behaviour, &format!("/clusters/{id}"), || shared.state().update(&id, &update))
    });
    reply(updated)
}

async fn delete_cluster(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    Path(id): Path<String>,
) -> Response {
    reply(call(&behaviour, &format!("/clusters/{id}"), || shared.state().registry.delete(&id)))
}

fn reply(result: Result<Json, String>) -> Response {
    match result {
        Ok(data) => jsonify(StatusCode::OK, [("success", Json::of(true)), ("data", data)]),
        Err(text) => jsonify(
            StatusCode::INTERNAL_SERVER_ERROR,
            [("success", Json::of(false)), ("data", Json::of(text))],
        ),
    }
}

/// Calls the registry; a failure becomes the text that Python's `requests` makes of its status.
pub(super) fn call<T>(
    behaviour: &Behaviour,
    path: &str,
    registry: impl FnOnce() -> Result<T, RegistryError>,
) -> Result<T, String> {
    let answer = match behaviour {
        Behaviour::RegistryFails => Err(RegistryError::Internal),
        _ => registry(),
    };
    answer.map_err(|error| {
        let status = match error {
            RegistryError::NotFound => "404 Client Error: Not Found",
            RegistryError::PayloadTooLarge => "413 Client Error: Payload Too Large",
            RegistryError::Internal => "500 Server Error: Internal Server Error",
        };
        // Where the gateway looks for the registry by default.
        format!("HTTP error occurred: {status} for url: http://localhost:3000{path}")
    })
}
