//! The admin listener's routes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use rollcall_daemon::observe;
use rollcall_daemon::readiness::Readiness;
use rollcall_report::{NodeName, Refusal, RefusalCode};
use serde::Deserialize;

use super::access::Access;
use super::views::{DocumentView, NodesView, StatusView};
use crate::aggregator::Aggregator;
use crate::refusal::refuse;
use crate::store::{Write, WriteError};

#[derive(Debug)]
struct Admin {
    aggregator: Arc<Aggregator>,
    access: Access,
}

/// All routes of the admin listener.
pub fn router(aggregator: Arc<Aggregator>, access: Access, readiness: Readiness) -> Router {
    let open = observe::router(aggregator.metrics.registry().clone(), readiness);
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", delete(forget))
        .route("/v1/nodes/{name}/rebind", post(rebind))
        .route("/v1/status", get(status))
        .route("/v1/document", get(document))
        .with_state(Arc::new(Admin { aggregator, access }))
        .merge(open)
        .fallback(|| async {
            refuse(&Refusal {
                code: RefusalCode::NotFound,
                message: "there is nothing at this path".to_owned(),
            })
        })
}

type Peer = ConnectInfo<SocketAddr>;

async fn nodes(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<NodesView>, Response> {
    admin.access.read(peer, &headers).map_err(|refusal| refuse(&refusal))?;
    Ok(Json(NodesView::of(&admin.aggregator, Timestamp::now())))
}

async fn status(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<StatusView>, Response> {
    admin.access.read(peer, &headers).map_err(|refusal| refuse(&refusal))?;
    Ok(Json(StatusView::of(&admin.aggregator, Timestamp::now())))
}

#[derive(Debug, Deserialize)]
struct DocumentQuery {
    target: Option<String>,
}

async fn document(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Query(query): Query<DocumentQuery>,
) -> Result<Json<DocumentView>, Response> {
    admin.access.read(peer, &headers).map_err(|refusal| refuse(&refusal))?;
    let targets = &admin.aggregator.file.targets;
    let target = match query.target {
        None => None,
        Some(name) => {
            let found = targets.iter().find(|target| target.name.as_str() == name);
            Some(found.ok_or_else(|| {
                let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
                let message =
                    format!("there is no target {name:?}; there are: {}", known.join(", "));
                refuse(&Refusal { code: RefusalCode::NotFound, message })
            })?)
        }
    };
    DocumentView::of(&admin.aggregator, target).map(Json).map_err(|error| {
        log::error!(error:% = error; "the document cannot be encoded");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

async fn forget(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<NodeName>,
    headers: HeaderMap,
) -> Result<StatusCode, Response> {
    admin.access.act(&headers).map_err(|refusal| refuse(&refusal))?;
    let permit = admin.aggregator.store.reserve().await.map_err(|error| not_stored(&error))?;
    let pending = {
        let mut roll = admin.aggregator.roll();
        if !roll.forget(&name) {
            return Err(no_such_node(&name));
        }
        permit.put(Write::Forget(name.clone()))
    };
    pending.done().await.map_err(|error| not_stored(&error))?;
    admin.aggregator.roll_changed();
    log::info!(node = name.as_str(); "node forgotten on the operator's word");
    Ok(StatusCode::NO_CONTENT)
}

async fn rebind(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<NodeName>,
    headers: HeaderMap,
) -> Result<StatusCode, Response> {
    admin.access.act(&headers).map_err(|refusal| refuse(&refusal))?;
    let permit = admin.aggregator.store.reserve().await.map_err(|error| not_stored(&error))?;
    let pending = {
        let mut roll = admin.aggregator.roll();
        let entry = roll.rebind(&name).ok_or_else(|| no_such_node(&name))?;
        permit.put(Write::Node { entry: Box::new(entry.clone()), report: None })
    };
    pending.done().await.map_err(|error| not_stored(&error))?;
    log::info!(node = name.as_str(); "the node's next report may come from another machine");
    Ok(StatusCode::NO_CONTENT)
}

fn no_such_node(name: &NodeName) -> Response {
    let message = format!("there is no node {name} on the roll");
    refuse(&Refusal { code: RefusalCode::NotFound, message })
}

fn not_stored(error: &WriteError) -> Response {
    refuse(&Refusal { code: RefusalCode::Unavailable, message: error.to_string() })
}
