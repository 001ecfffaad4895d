//! AIOS's parser: takes documents apart and hands them on to the gateway. It answers 200 to most
//! failures; whether one happened is told by the type of `result`.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::flask::{Json, flask_json, is_falsy, jsonify, python_type};
use super::{Behaviour, Shared, gateway};

pub(super) const CREATE_PATH: &str = "/api/createCluster";

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route(CREATE_PATH, post(create_cluster)).route("/api/addNode", post(add_node))
}

async fn create_cluster(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let document = match values(&headers, &body).and_then(|values| Ok(cluster_document(&values)?)) {
        Ok(document) => document,
        Err(refusal) => return refusal.into(),
    };
    if behaviour == Behaviour::GatewayDown {
        return done(Err(connection_refused(&shared)));
    }
    done(gateway::create(&shared, &behaviour, document))
}

/// Never succeeds: the gateway's route that it calls does not exist.
async fn add_node(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parsed = values(&headers, &body).and_then(|values| {
        subscript(&values, "nodeData")?;
        Ok(subscript(&values, "clusterId")?.clone())
    });
    let cluster_id = match parsed {
        Ok(Value::String(id)) => id,
        Ok(other) => other.to_string(),
        Err(refusal) => return refusal.into(),
    };
    if behaviour == Behaviour::GatewayDown {
        return done(Err(connection_refused(&shared)));
    }
    done(Err(format!(
        "HTTP error occurred: 404 Client Error: NOT FOUND for url: http://{}/clusters/addNode/{cluster_id}",
        shared.gateway
    )))
}

/// What the parser says when the gateway has answered, or has not.
fn done(result: Result<Json, String>) -> Response {
    let result = result.unwrap_or_else(|text| Json::of(json!([false, text])));
    let fields = [("success", Json::of(true)), ("task_id", Json::of("")), ("result", result)];
    jsonify(StatusCode::OK, fields)
}

/// As Python's `requests` words it.
fn connection_refused(shared: &Shared) -> String {
    let (host, port) = (shared.gateway.ip(), shared.gateway.port());
    format!(
        "HTTPConnectionPool(host='{host}', port={port}): Max retries exceeded with url: {} (Caused \
         by NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f5c2c1d3d90>: \
         Failed to establish a new connection: [Errno 111] Connection refused'))",
        gateway::CREATE_PATH
    )
}

/// What the parser refuses by itself.
enum Refusal {
    /// It holds the body for empty.
    NoInput,
    /// A Python exception, as its `str()` says it.
    Exception(String),
}

impl From<String> for Refusal {
    fn from(exception: String) -> Self {
        Self::Exception(exception)
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoInput => {
                jsonify(StatusCode::BAD_REQUEST, [("error", Json::of("Invalid JSON input"))])
            }
            Refusal::Exception(text) => {
                jsonify(StatusCode::INTERNAL_SERVER_ERROR, [("error", Json::of(text))])
            }
        }
    }
}

/// `body.spec.values` of a request. The header is optional and not looked at.
fn values(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let request = flask_json(headers, body)?;
    if is_falsy(&request) {
        return Err(Refusal::NoInput);
    }
    let body = subscript(&request, "body")?;
    let spec = subscript(body, "spec")?;
    Ok(subscript(spec, "values")?.clone())
}

/// What is handed on: known fields only, so that `status` is lost. A missing group of fields is
/// an exception here, a missing single one is left to the registry.
fn cluster_document(values: &Value) -> Result<Value, String> {
    const GROUPS: [&str; 5] = ["nodes", "gpus", "vcpus", "storage", "network"];
    const SINGLE: [&str; 8] =
        ["id", "regionId", "memory", "swap", "config", "tags", "clusterMetadata", "reputation"];
    let mut document = Map::new();
    for name in GROUPS {
        document.insert(name.to_owned(), subscript(values, name)?.clone());
    }
    for name in SINGLE {
        if let Some(value) = values.get(name) {
            document.insert(name.to_owned(), value.clone());
        }
    }
    Ok(Value::Object(document))
}

/// `value[key]` in Python; the error is the text of its exception.
fn subscript<'a>(value: &'a Value, key: &str) -> Result<&'a Value, String> {
    match value {
        Value::Object(fields) => fields.get(key).ok_or_else(|| format!("'{key}'")),
        Value::Array(_) => Err("list indices must be integers or slices, not str".to_owned()),
        Value::String(_) => Err("string indices must be integers, not 'str'".to_owned()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            Err(format!("'{}' object is not subscriptable", python_type(value)))
        }
    }
}
