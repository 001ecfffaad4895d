//! The admin listener's routes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use rollcall_daemon::observe;
use rollcall_daemon::readiness::Readiness;
use rollcall_report::{InvalidNodeName, NodeName, RefusalCode};
use serde::Deserialize;

use super::access::Access;
use super::views::{DocumentView, NodesView, StatusView};
use crate::aggregator::Aggregator;
use crate::cluster_file::Target;
use crate::refusal::Refused;
use crate::store::{Permit, Write, WriteError};

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
        .fallback(|| async { Refused::new(RefusalCode::NotFound, "there is nothing at this path") })
}

type Peer = ConnectInfo<SocketAddr>;

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

async fn forget(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    let (name, permit) = admin.act_on(&headers, &name).await?;
    let (pending, ticket) = {
        let mut roll = admin.aggregator.roll();
        let ticket = roll.leave(&name).ok_or_else(|| no_such_node(&name))?;
        (permit.put(Write::Forget(name.clone())), ticket)
    };
    admin.aggregator.settle_forget(pending, name, ticket).await.map_err(not_stored)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rebind(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    let (name, permit) = admin.act_on(&headers, &name).await?;
    let (pending, change) = {
        let mut roll = admin.aggregator.roll();
        let change = roll.rebind(&name).ok_or_else(|| no_such_node(&name))?;
        let entry = Box::new(change.entry.clone());
        (permit.put(Write::Node { entry, report: None }), change)
    };
    admin.aggregator.settle(pending, change).await.map_err(not_stored)?;
    log::info!(node = name.as_str(); "the node's next report may come from another machine");
    Ok(StatusCode::NO_CONTENT)
}

impl Admin {
    /// Lets an operator act on a node, and waits for room in the store's queue.
    async fn act_on(
        &self,
        headers: &HeaderMap,
        name: &str,
    ) -> Result<(NodeName, Permit<'_>), Refused> {
        self.access.act(headers)?;
        let name = name.parse().map_err(|error: InvalidNodeName| {
            Refused::new(RefusalCode::Malformed, error.to_string())
        })?;
        let permit = self.aggregator.store.reserve().await.map_err(not_stored)?;
        Ok((name, permit))
    }

    fn target(&self, name: &str) -> Result<&Target, Refused> {
        let targets = &self.aggregator.file.targets;
        targets.iter().find(|target| target.name.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Refused::new(
                RefusalCode::NotFound,
                format!("there is no target {name:?}; there are: {known}"),
            )
        })
    }
}

fn no_such_node(name: &NodeName) -> Refused {
    Refused::new(RefusalCode::NotFound, format!("there is no node {name} on the roll"))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn not_stored(error: WriteError) -> Refused {
    Refused::new(RefusalCode::Unavailable, format!("{error}; nothing was changed, try again"))
}
