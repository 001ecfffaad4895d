//! The admin listener's routes.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use rollcall_daemon::observe;
use rollcall_daemon::readiness::Readiness;
use rollcall_report::{InvalidNodeName, NodeId, NodeName, RefusalCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::access::Access;
use super::views::{DocumentView, NodesView, StatusView};
use super::{Admin, Peer, not_stored, targets};
use crate::aggregator::Aggregator;
use crate::cluster_file::TargetName;
use crate::onboarding::classes;
use crate::refusal::Refused;
use crate::roll::departure::Departure;
use crate::store::Write;
use crate::targets::aios::Client;
use crate::targets::unikorn::region::RegionView;

/// All routes of the admin listener.
pub fn router(
    aggregator: Arc<Aggregator>,
    clients: BTreeMap<TargetName, Client>,
    access: Access,
    readiness: Readiness,
) -> Router {
    let open = observe::router(aggregator.metrics.registry().clone(), readiness);
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", delete(forget))
        .route("/v1/nodes/{name}/rebind", post(rebind))
        .route("/v1/status", get(status))
        .route("/v1/document", get(document))
        .route("/v1/region", get(region))
        .merge(targets::routes())
        .with_state(Arc::new(Admin { aggregator, access, clients, looking: Mutex::default() }))
        .merge(open)
        .fallback(|| async { Refused::new(RefusalCode::NotFound, "there is nothing at this path") })
}

async fn nodes(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<NodesView>, Refused> {
    admin.access.read(peer, &headers)?;
    Ok(Json(NodesView::of(&admin.aggregator, Timestamp::now())))
}

async fn status(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<Json<StatusView>, Refused> {
    admin.access.read(peer, &headers)?;
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
) -> Result<Json<DocumentView>, Refused> {
    admin.access.read(peer, &headers)?;
    let target = query.target.map(|name| admin.target(&name)).transpose()?;
    DocumentView::of(&admin.aggregator, target).map(Json).map_err(|error| {
        Refused::new(RefusalCode::Other, format!("the document cannot be encoded: {error}"))
    })
}

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

async fn forget(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    admin.access.act(peer, &headers)?;
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

async fn rebind(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    admin.access.act(peer, &headers)?;
    let name: NodeName = name.parse().map_err(|error: InvalidNodeName| {
        Refused::new(RefusalCode::Malformed, error.to_string())
    })?;
    let permit = admin.aggregator.store.reserve().await.map_err(not_stored)?;
    let (pending, change) = {
        let mut roll = admin.aggregator.roll();
        let change = roll.rebind(&name).ok_or_else(|| no_such_node(name.as_str()))?;
        let entry = Box::new(change.entry.clone());
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
