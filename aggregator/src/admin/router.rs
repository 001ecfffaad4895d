//! The admin listener's routes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router, middleware};
use jiff::Timestamp;
use rollcall_daemon::observe;
use rollcall_daemon::readiness::Readiness;
use rollcall_report::{InvalidNodeName, NodeId, NodeName, Refusal, RefusalCode};
use serde::Deserialize;
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Access;
use super::pieces::Pieces;
use super::views::{DocumentView, NodesView, StatusView};
use super::{Admin, Peer, not_stored, openapi, roll, targets};
use crate::aggregator::Aggregator;
use crate::cluster_file::TargetName;
use crate::onboarding::classes;
use crate::refusal::{NotAnOperator, NotStored, Refused, explained};
use crate::roll::departure::Departure;
use crate::store::Write;
use crate::targets::aios::Client;
use crate::targets::unikorn::region::RegionView;
use crate::web;

/// All routes of the admin listener. Who follows the page is let go when the sender of `stopping` is
/// dropped.
pub fn router(
    aggregator: Arc<Aggregator>,
    clients: BTreeMap<TargetName, Client>,
    access: Access,
    readiness: Readiness,
    stopping: watch::Receiver<()>,
) -> Router {
    let page = web::router(Arc::clone(&aggregator), access.clone(), stopping);
    let metrics = aggregator.metrics.clone();
    let open = observe::router(move || metrics.body(), readiness);
    let (api, _description) = api().split_for_parts();
    api.with_state(Arc::new(Admin { aggregator, access, clients, looking: Mutex::default() }))
        .merge(open)
        .merge(page)
        .fallback(|| async { Refused::new(RefusalCode::NotFound, "there is nothing at this path") })
        .layer(middleware::map_response(explained))
}

/// The operator's API: what is routed here is described, too.
pub(super) fn api() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::with_openapi(openapi::beginning())
        .routes(routes!(nodes))
        .routes(routes!(forget))
        .routes(routes!(rebind))
        .routes(routes!(status))
        .routes(routes!(document))
        .routes(routes!(region))
        .merge(targets::routes())
        .routes(routes!(openapi::openapi))
}

/// Lists the nodes on the roll.
///
/// Those that report, those that are expected and missing, and those that targets do not get.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "roll",
    security((), ("operator" = [])),
    responses((status = OK, description = "The roll.", body = NodesView), NotAnOperator)
)]
async fn nodes(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    admin.access.read(peer, &headers)?;
    let body = roll::body(Arc::clone(&admin.aggregator), Timestamp::now());
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// Tells where the aggregator and each target stand.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "targets",
    security((), ("operator" = [])),
    responses((status = OK, description = "How things stand.", body = StatusView), NotAnOperator)
)]
async fn status(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<StatusView>, Refused> {
    admin.access.read(peer, &headers)?;
    Ok(Json(StatusView::of(&admin.aggregator, Timestamp::now())))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct DocumentQuery {
    /// The target that the document is for; left out: the document as such.
    #[param(value_type = Option<TargetName>)]
    target: Option<String>,
}

/// Shows the document that is sent to a target, secrets masked.
#[utoipa::path(
    get,
    path = "/v1/document",
    tag = "targets",
    security((), ("operator" = [])),
    params(DocumentQuery),
    responses(
        (status = OK, description = "The document as it would be sent now.", body = DocumentView),
        (status = BAD_REQUEST, description = "The query is malformed.", body = Refusal),
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "The target is of a kind that is sent no document.", body = Refusal),
        (status = INTERNAL_SERVER_ERROR, description = "The document cannot be encoded.", body = Refusal),
    )
)]
async fn document(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    query: Result<Query<DocumentQuery>, QueryRejection>,
) -> Result<Pieces, Refused> {
    admin.access.read(peer, &headers)?;
    let Query(query) = query?;
    let target = query.target.map(|name| admin.target(&name).cloned()).transpose()?;
    let aggregator = Arc::clone(&admin.aggregator);
    // Of thousands of nodes it takes long enough to keep reports waiting.
    let written = spawn_blocking(move || aggregator.documents.of(&aggregator, target.as_ref()));
    let refused = |error: &dyn fmt::Display| {
        Refused::new(RefusalCode::Other, format!("the document cannot be encoded: {error}"))
    };
    written.await.map_err(|error| refused(&error))?.map_err(|error| refused(&error))
}

/// Shows the Region that Unikorn is told.
#[utoipa::path(
    get,
    path = "/v1/region",
    tag = "targets",
    security((), ("operator" = [])),
    responses(
        (status = OK, description = "The Region and its classes.", body = RegionView),
        NotAnOperator,
        (status = NOT_FOUND, description = "The cluster file names no target of type unikorn.", body = Refusal),
    )
)]
async fn region(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<RegionView>, Refused> {
    admin.access.read(peer, &headers)?;
    let target = admin.aggregator.file.region().ok_or_else(|| {
        Refused::new(
            RefusalCode::NotFound,
            "the cluster file names no target of type unikorn".to_owned(),
        )
    })?;
    Ok(Json(classes::region(&admin.aggregator, target, Timestamp::now())))
}

/// Takes a node off the roll, or records the departure of one that only a network's entry holds.
///
/// It comes back if its agent still reports; else it is taken out of the networks' entries after a
/// while (`departures.holdDown`).
#[utoipa::path(
    delete,
    path = "/v1/nodes/{name}",
    tag = "roll",
    security(("operator" = [])),
    params(("name" = String, Path, description = "The Kubernetes Node's name; for one that is not on the roll, its id in an entry.", min_length = 1, max_length = 253)),
    responses(
        (status = NO_CONTENT, description = "It is stored."),
        (status = BAD_REQUEST, description = "The path is malformed.", body = Refusal),
        NotAnOperator,
        (status = NOT_FOUND, description = "Nobody knows of such a node.", body = Refusal),
        NotStored,
    )
)]
async fn forget(
    State(admin): State<Arc<Admin>>,
    name: Result<Path<String>, PathRejection>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    admin.access.act(peer, &headers)?;
    let Path(name) = name?;
    let now = Timestamp::now();
    let permit = admin.aggregator.store.reserve().await.map_err(not_stored)?;
    let leaves = {
        let mut roll = admin.aggregator.roll();
        let leave = NodeName::from_str(&name).ok().and_then(|name| roll.leave(&name, now));
        match leave {
            Some(leave) => {
                let write = Write::Forget(leave.name.clone(), leave.departure.clone());
                Ok((permit.put(write), leave))
            }
            None => Err(permit),
        }
    };
    let settled = match leaves {
        Ok((pending, leave)) => {
            admin.aggregator.settle_forget(pending, leave, "on the operator's word").await
        }
        // Not on the roll; an entry may hold a node of this id all the same, and nobody else knows
        // that it is gone.
        Err(permit) => {
            let node_id = NodeId::from_str(&name).ok();
            let has_left = |id: &NodeId| admin.aggregator.roll().departures().contains(id);
            if node_id.as_ref().is_some_and(has_left) {
                return Ok(StatusCode::NO_CONTENT);
            }
            // What an entry holds is known to the leader alone; of a Node that is there, nothing comes of it.
            let is_known =
                |id: &NodeId| admin.aggregator.is_kept(id) || admin.aggregator.store.is_shared();
            let node_id = node_id.filter(is_known);
            let node_id = node_id.ok_or_else(|| no_such_node(&name))?;
            let departure = Departure { node_id, at: now, renamed: false };
            let pending = permit.put(Write::Departed(vec![departure.clone()]));
            admin.aggregator.settle_departed(pending, departure, "on the operator's word").await
        }
    };
    settled.map_err(not_stored)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a node's next report come from another machine: it was replaced.
#[utoipa::path(
    post,
    path = "/v1/nodes/{name}/rebind",
    tag = "roll",
    security(("operator" = [])),
    params(("name" = NodeName, Path, description = "The Kubernetes Node's name.")),
    responses(
        (status = NO_CONTENT, description = "It is stored."),
        (status = BAD_REQUEST, description = "The path is malformed, or this is no Node's name.", body = Refusal),
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no such node on the roll.", body = Refusal),
        NotStored,
    )
)]
async fn rebind(
    State(admin): State<Arc<Admin>>,
    name: Result<Path<String>, PathRejection>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    admin.access.act(peer, &headers)?;
    let Path(name) = name?;
    let name: NodeName = name.parse().map_err(|error: InvalidNodeName| {
        Refused::new(RefusalCode::Malformed, error.to_string())
    })?;
    let permit = admin.aggregator.store.reserve().await.map_err(not_stored)?;
    let (pending, change) = {
        let mut roll = admin.aggregator.roll();
        let change = roll.rebind(&name).ok_or_else(|| no_such_node(name.as_str()))?;
        let entry = change.entry.clone();
        let write = Write::Node { entry, report: None, departure: None };
        (permit.put(write), change)
    };
    let node_id = change.entry.node_id.clone();
    admin.aggregator.settle(pending, change).await.map_err(not_stored)?;
    log::info!(node = name.as_str(), node_id = node_id.as_str();
        "the node's next report may come from another machine");
    Ok(StatusCode::NO_CONTENT)
}

fn no_such_node(name: &str) -> Refused {
    Refused::new(
        RefusalCode::NotFound,
        format!("there is no node {name} on the roll, nor any of this id in a network's entry"),
    )
}
