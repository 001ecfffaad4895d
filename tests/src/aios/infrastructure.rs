//! What AIOS starts on a cluster, the gateway's requests for it, and the database of tasks that
//! tells what has become of them.
//!
//! The gateway answers before it has looked at anything: whether a cluster is known and a
//! kubeconfig is one turns out in the background, and only the task tells.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Map, Value, json};

use super::flask::{Json, flask_json, is_falsy, jsonify, python_type};
use super::registry::Entry;
use super::{Behaviour, Shared, gateway};

/// What becomes of requests to start or to remove infrastructure.
///
/// However it is set, a task fails where the real one cannot succeed: for an unknown cluster; on
/// creation also for a kubeconfig that is not an object, without `config.publicHostname`, and
/// unless `config.useGateway` is `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Infrastructure {
    /// It is done.
    Completes {
        /// How long it takes.
        after: Duration,
    },
    /// It fails, and nothing is started or removed.
    Fails {
        /// How long it takes.
        after: Duration,
        /// What the task tells.
        error: String,
    },
    /// The task stays pending.
    Hangs,
}

impl Default for Infrastructure {
    fn default() -> Self {
        Self::Completes { after: Duration::ZERO }
    }
}

/// Every task ever scheduled, and the clusters whose infrastructure runs.
#[derive(Debug, Default)]
pub(super) struct Infrastructures {
    /// How the next tasks end.
    pub(super) outcome: Infrastructure,
    /// In the order in which they were started.
    pub(super) running: Vec<String>,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    cluster_id: Value,
    status: &'static str,
    status_data: Value,
    /// Seconds since the epoch, as the real database has them.
    created: u64,
    updated: u64,
}

impl Infrastructures {
    /// Writes a new task down; the answer is its number.
    fn add(&mut self, cluster_id: Value) -> usize {
        let now = now();
        self.tasks.push(Task {
            cluster_id,
            status: "pending",
            status_data: json!({}),
            created: now,
            updated: now,
        });
        self.tasks.len() - 1
    }

    fn finish(&mut self, number: usize, outcome: Result<Value, String>) {
        let Some(task) = self.tasks.get_mut(number) else { return };
        let (status, name, value) = match outcome {
            Ok(result) => ("completed", "result", result),
            Err(error) => ("failed", "error", Value::String(error)),
        };
        task.status = status;
        task.status_data = Value::Object(Map::from_iter([(name.to_owned(), value)]));
        task.updated = now();
    }

    /// A task as its database shows it.
    fn task(&self, id: &str) -> Option<Value> {
        let number = (0..self.tasks.len()).find(|number| task_id(*number) == id)?;
        let task = self.tasks.get(number)?;
        Some(json!({
            "task_id": id,
            // Removals, too.
            "task_type": "cluster_infra_creation",
            "task_data": { "cluster_id": task.cluster_id },
            "task_create_timestamp": task.created,
            "task_update_timestamp": task.updated,
            "task_status": task.status,
            "task_status_data": task.status_data
        }))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A UUID to look at.
fn task_id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{:012x}", number + 1)
}

/// The gateway's routes.
pub(super) fn gateway_router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/create-cluster-infra", post(create))
        .route("/remove-cluster-infra", post(remove))
}

/// The routes of the database of tasks.
pub(super) fn tasks_router() -> Router<Arc<Shared>> {
    Router::new().route("/task/{id}", get(read_task))
}

async fn read_task(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    match shared.state().infrastructures.task(&id) {
        Some(task) => {
            jsonify(StatusCode::OK, [("success", Json::of(true)), ("data", Json::of(task))])
        }
        None => jsonify(
            StatusCode::NOT_FOUND,
            [("success", Json::of(false)), ("message", Json::of("No document found"))],
        ),
    }
}

/// A request to start or to remove infrastructure, as far as the gateway reads it.
#[derive(Debug)]
struct Request {
    /// Whatever was sent; null where nothing was.
    cluster_id: Value,
    /// Whatever was sent; null where nothing was.
    kubeconfig: Value,
}

impl Request {
    /// # Errors
    ///
    /// The text of Python's exception.
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, String> {
        let mut request = flask_json(headers, body)?;
        if !request.is_object() {
            let kind = python_type(&request);
            return Err(format!("'{kind}' object has no attribute 'get'"));
        }
        let mut take = |name| request.get_mut(name).map(Value::take).unwrap_or_default();
        Ok(Self { cluster_id: take("cluster_id"), kubeconfig: take("kube_config_data") })
    }
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match Request::read(&headers, &body) {
        // An empty kubeconfig, which AIOS's documentation shows, is as good as none.
        Ok(request) if is_falsy(&request.kubeconfig) || is_falsy(&request.cluster_id) => {
            let error = "Missing 'kube_config_data' or 'cluster_id'";
            jsonify(StatusCode::BAD_REQUEST, [("error", Json::of(error))])
        }
        Ok(request) => schedule(&shared, behaviour, Errand::Create, request),
        Err(exception) => failed(exception),
    }
}

/// Looks at nothing.
async fn remove(
    State(shared): State<Arc<Shared>>,
    Extension(behaviour): Extension<Behaviour>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match Request::read(&headers, &body) {
        Ok(request) => schedule(&shared, behaviour, Errand::Remove, request),
        Err(exception) => failed(exception),
    }
}

fn failed(exception: String) -> Response {
    jsonify(
        StatusCode::INTERNAL_SERVER_ERROR,
        [("success", Json::of(false)), ("message", Json::of(exception))],
    )
}

fn schedule(
    shared: &Arc<Shared>,
    behaviour: Behaviour,
    errand: Errand,
    request: Request,
) -> Response {
    let mut state = shared.state();
    let number = state.infrastructures.add(request.cluster_id.clone());
    let outcome = state.infrastructures.outcome.clone();
    drop(state);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let ended = errand.carry_out(&shared, &behaviour, &request, outcome).await;
        let mut state = shared.state();
        state.infrastructures.finish(number, ended);
        shared.tell(&mut state);
    });
    let data = json!({ "message": "scheduled in background", "task_id": task_id(number) });
    jsonify(StatusCode::OK, [("success", Json::of(true)), ("data", Json::of(data))])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    Create,
    Remove,
}

impl Errand {
    /// # Errors
    ///
    /// What the task tells.
    async fn carry_out(
        self,
        shared: &Shared,
        behaviour: &Behaviour,
        request: &Request,
        outcome: Infrastructure,
    ) -> Result<Value, String> {
        let id = match &request.cluster_id {
            Value::String(id) => id.clone(),
            Value::Null => "None".to_owned(),
            other => other.to_string(),
        };
        let path = format!("/clusters/{id}");
        gateway::call(behaviour, &path, || shared.state().registry.read(&id).map(|_| ()))
            .map_err(|text| format!("Failed to read cluster data: {text}"))?;
        if self == Self::Create && !request.kubeconfig.is_object() {
            // What Python says when a text is looked into by name; that the client library of
            // Kubernetes words it so is a guess.
            return Err(not_created("string indices must be integers, not 'str'"));
        }
        match outcome {
            Infrastructure::Hangs => return std::future::pending().await,
            Infrastructure::Fails { after, error } => {
                tokio::time::sleep(after).await;
                return Err(error);
            }
            Infrastructure::Completes { after } => tokio::time::sleep(after).await,
        }
        let mut state = shared.state();
        let url_map = match self {
            Self::Create => {
                let cluster = state.registry.read(&id).map(Entry::to_value).unwrap_or_default();
                url_map(&id, &cluster).map_err(|text| {
                    not_created(&format!("Failed to create Kubernetes infrastructure: {text}"))
                })?
            }
            Self::Remove => json!({}),
        };
        let is_running = state.infrastructures.running.contains(&id);
        match self {
            Self::Create if !is_running => state.infrastructures.running.push(id.clone()),
            // Each step of a removal may fail unnoticed, and without a kubeconfig each does: the
            // task completes and everything still runs.
            Self::Remove if request.kubeconfig.is_object() => {
                state.infrastructures.running.retain(|other| *other != id);
            }
            Self::Create | Self::Remove => {}
        }
        let update = json!({ "$set": { "config.urlMap": url_map } });
        let updated = gateway::call(behaviour, &path, || {
            state.registry.update(&id, &update).map(Entry::to_value)
        });
        let verb = if self == Self::Create { "update" } else { "clear" };
        let updated =
            updated.map_err(|text| format!("Failed to {verb} cluster URL map: {text}"))?;
        if self == Self::Create {
            // Done by what has just been started, so that no task tells of it.
            state.registry.overwrite_capacities(&id);
        }
        Ok(updated)
    }
}

fn not_created(text: &str) -> String {
    format!("Failed to create cluster infrastructure: {text}")
}

/// Where the cluster's services are to be reached, which AIOS keeps in its entry.
///
/// # Errors
///
/// What stops the creation.
fn url_map(id: &str, cluster: &Value) -> Result<Value, String> {
    let Some(config) = cluster.get("config").and_then(Value::as_object) else {
        return Err("Missing or invalid 'config' key in 'cluster_data'.".to_owned());
    };
    if config.get("useGateway").is_none_or(|value| !is_falsy(value)) {
        // Its Service has no ports then. The wording is the API server's, as far as known.
        return Err(format!(
            "Kubernetes API error: (422)\nReason: Unprocessable Entity\nHTTP response body: \
             Service \"{id}-controller-svc\" is invalid: spec.ports: Required value\n"
        ));
    }
    let Some(host) = config.get("publicHostname") else {
        return Err("'publicHostname'".to_owned());
    };
    let host = host.as_str().map_or_else(|| host.to_string(), str::to_owned);
    Ok(json!({
        "controllerService": format!("http://{host}:32300"),
        "metricsService": format!("http://{host}:32301"),
        "blocksQuery": format!("http://{host}:32302"),
        // A list of one, by a comma too many in the original.
        "publicGateway": [format!("http://{host}:32000")],
        "parameterUpdater": format!("http://{host}:32303")
    }))
}
