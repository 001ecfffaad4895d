//! The operator's routes for targets: what would be sent, what was done, and what is wanted.
//!
//! What an operator asks for is written down and answered with 202; the target's executor acts upon
//! it, and `GET /v1/status` shows how that goes.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use rollcall_report::{Refusal, RefusalCode};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{
    ApproveRequest, HistoryView, Noted, OffboardRequest, PlanView, RequestView, SubmitRequest,
};
use super::{Admin, Peer, not_stored};
use crate::cluster_file::{AiosTarget, Mode, TargetName};
use crate::onboarding::execute::Outlook;
use crate::onboarding::gate::Gate;
use crate::onboarding::plan::Step;
use crate::onboarding::state::{Approval, Phase, Presence, TargetState, Will};
use crate::refusal::{NotAnOperator, NotReadable, NotStored, Refused};
use crate::store::{Event, HistoryOf};
use crate::targets::aios::{Basis, Client, Look, Submission, amend, first_piece, mask_request};
use crate::targets::{Held, Outgoing};

/// The routes below `/v1/targets`, and the journal.
pub(super) fn routes() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::default()
        .routes(routes!(plan))
        .routes(routes!(submit))
        .routes(routes!(approve))
        .routes(routes!(offboard))
        .routes(routes!(infrastructure))
        .routes(routes!(history))
}

type Body<T> = Result<Json<Order<T>>, JsonRejection>;
type Name = Result<Path<String>, PathRejection>;

/// An order by its fields' names. By itself serde takes a list for an object, too: `[true]` would be a
/// yes to whichever field comes first.
#[derive(Debug)]
struct Order<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Order<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByName<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ByName<T> {
            type Value = Order<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Order<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Order)
            }
        }

        deserializer.deserialize_map(ByName(PhantomData))
    }
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct PlanQuery {
    /// As if `submit` were asked to take over an entry that is not ours.
    #[serde(default)]
    adopt: bool,
    /// As if `submit` were asked to go ahead with the nodes that are there.
    #[serde(default)]
    partial: bool,
}

/// Looks at a target's network, and tells what `submit` would send there now.
#[utoipa::path(
    get,
    path = "/v1/targets/{name}/plan",
    tag = "targets",
    security((), ("operator" = [])),
    params(("name" = TargetName, Path, description = "The target's name in the cluster file."), PlanQuery),
    responses(
        (status = OK, description = "What would be sent; nothing was.", body = PlanView),
        (status = BAD_REQUEST, description = "The path or the query is malformed.", body = Refusal),
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "The target is of a kind that the aggregator does nothing for by itself.", body = Refusal),
        (status = INTERNAL_SERVER_ERROR, description = "The document cannot be encoded.", body = Refusal),
    )
)]
async fn plan(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    name: Name,
    query: Result<Query<PlanQuery>, QueryRejection>,
) -> Result<Json<PlanView>, Refused> {
    admin.access.read(peer, &headers)?;
    let (Path(name), Query(query)) = (name?, query?);
    let target = admin.target(&name)?;
    let client = admin.client(target)?;
    // As if the operator had asked now: waits and refusals are passed over.
    let now = Timestamp::now();
    let mut standing = admin.aggregator.standing(target);
    standing.will.go_ahead(now, &standing.state);
    standing.will.presence = Presence::Registered;
    standing.will.adopt |= query.adopt;
    standing.will.partial |= query.partial;
    let outlook = Outlook::of(&admin.aggregator, target, &standing, now).map_err(not_encoded)?;
    let look = {
        let _one_at_a_time = admin.looking.lock().await;
        client.look(&outlook.submission, standing.state.past.known()).await
    };
    let beings = (&standing.state, &standing.will);
    let step = outlook.next(&admin.aggregator, target, beings, &look.held, now);
    let mut requests = requests(client, &outlook.submission, &look, &step).map_err(not_encoded)?;
    let mut masked = false;
    for request in &mut requests {
        masked |= mask_request(request);
    }
    let (action, state) = describe(step);
    let unsettled = match &outlook.gate {
        Gate::Unsettled { why } => Some(why.clone()),
        Gate::Open | Gate::Closed { .. } => None,
    };
    let difference = match look.held {
        Held::Ours(difference) | Held::Foreign(difference) => Some(difference),
        Held::NotRead | Held::Absent | Held::Unreadable { .. } => None,
    };
    Ok(Json(PlanView {
        action,
        why: state.as_ref().and_then(|state| state.detail.clone()).or(unsettled),
        difference,
        requests: requests
            .into_iter()
            .map(|request| RequestView {
                method: request.method.to_string(),
                url: request.url,
                body: request.body,
            })
            .collect(),
        masked,
        proposal: state.and_then(|state| state.proposal),
        incomplete: outlook.incomplete.iter().map(ToString::to_string).collect(),
        warnings: outlook.warnings.iter().map(ToString::to_string).collect(),
    }))
}

/// A step in a word, and the state that comes with it.
fn describe(step: Step) -> (String, Option<TargetState>) {
    match step {
        Step::Create(state) => ("create".to_owned(), Some(state)),
        Step::Update(state) => ("update".to_owned(), Some(state)),
        Step::Remove(state) => ("remove".to_owned(), Some(state)),
        Step::Settle(state) if state.phase == Phase::Registered => {
            ("nothing".to_owned(), Some(state))
        }
        Step::Settle(state) => (state.phase.to_string(), Some(state)),
        Step::Rest | Step::RestUntil(_) | Step::Read => ("nothing".to_owned(), None),
    }
}

/// What would be sent for a step, or after the approval that it waits for.
fn requests(
    client: &Client,
    submission: &Submission,
    look: &Look,
    step: &Step,
) -> serde_json::Result<Vec<Outgoing>> {
    let awaits_approval =
        |state: &TargetState| matches!(state.phase, Phase::Ready | Phase::Drifted);
    match (step, &look.amendments) {
        (Step::Remove(_), _) => Ok(vec![client.removal(submission)]),
        (Step::Update(state), Some(amendments)) => {
            client.updates(submission, amendments.sent(state.takes_away()))
        }
        (Step::Settle(state), Some(amendments)) if awaits_approval(state) => {
            client.updates(submission, &amendments.whole)
        }
        (Step::Create(_), _) => registration(client, submission),
        (Step::Settle(state), None) if awaits_approval(state) => registration(client, submission),
        _ => Ok(Vec::new()),
    }
}

/// The registration, and the updates that bring the nodes for which it has no room.
fn registration(client: &Client, submission: &Submission) -> serde_json::Result<Vec<Outgoing>> {
    let mut requests = vec![client.registration(submission)?];
    let stored = serde_json::to_value(first_piece(&submission.document)?)?;
    let basis = Basis {
        departed: &submission.departed.nodes,
        before: None,
        take_over: false,
        rescue: None,
    };
    let rest = amend(&submission.document, &stored, &basis)?;
    requests.extend(client.updates(submission, &rest)?);
    Ok(requests)
}

/// Registers the cluster, or brings its registration up to date, now.
///
/// Waits, refusals and a given-up war with another writer end.
#[utoipa::path(
    post,
    path = "/v1/targets/{name}/submit",
    tag = "targets",
    security(("operator" = [])),
    params(("name" = TargetName, Path, description = "The target's name in the cluster file.")),
    request_body = SubmitRequest,
    responses(
        (status = ACCEPTED, description = "It is written down, and will be done.", body = Noted),
        NotReadable,
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "The target is only observed, or of a kind that the aggregator does nothing for by itself.", body = Refusal),
        NotStored,
    )
)]
async fn submit(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    name: Name,
    body: Body<SubmitRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, SubmitRequest { adopt, partial }) = admin.order(peer, &headers, name, body)?;
    admin
        .want(target, "submit", flags(&[("adopt", adopt), ("partial", partial)]), move |will| {
            will.presence = Presence::Registered;
            will.adopt = adopt;
            will.partial = partial;
            // An approval is for what was shown before.
            will.approved = None;
        })
        .await
}

/// Says yes to what waits for approval.
#[utoipa::path(
    post,
    path = "/v1/targets/{name}/approve",
    tag = "targets",
    security(("operator" = [])),
    params(("name" = TargetName, Path, description = "The target's name in the cluster file.")),
    request_body = ApproveRequest,
    responses(
        (status = ACCEPTED, description = "It is written down, and will be done.", body = Noted),
        NotReadable,
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "Something else waits for approval, or nothing; or nothing is sent to this target.", body = Refusal),
        NotStored,
    )
)]
async fn approve(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    name: Name,
    body: Body<ApproveRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, ApproveRequest { digest }) = admin.order(peer, &headers, name, body)?;
    let proposal = admin.aggregator.standing(target).state.proposal;
    match proposal {
        Some(proposal) if proposal.digest == digest => {}
        Some(proposal) => {
            return Err(Refused::new(
                RefusalCode::Conflict,
                format!(
                    "what waits for approval has the digest {}, not {}: look at it again ({})",
                    proposal.digest.short(),
                    digest.short(),
                    proposal.what
                ),
            ));
        }
        None => {
            return Err(Refused::new(
                RefusalCode::Conflict,
                format!("nothing of target {} waits for approval", target.name),
            ));
        }
    }
    let said = Some(format!("digest {digest}"));
    admin
        .want(target, "approve", said, move |will| {
            will.approved = will.asked.map(|at| Approval { digest, at });
        })
        .await
}

/// Takes the cluster out of a network: its infrastructure, then its entry.
///
/// Nothing is registered there again until `submit`.
#[utoipa::path(
    post,
    path = "/v1/targets/{name}/offboard",
    tag = "targets",
    security(("operator" = [])),
    params(("name" = TargetName, Path, description = "The target's name in the cluster file.")),
    request_body = OffboardRequest,
    responses(
        (status = ACCEPTED, description = "It is written down, and will be done.", body = Noted),
        NotReadable,
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "The target is only observed, or of a kind that the aggregator does nothing for by itself.", body = Refusal),
        NotStored,
    )
)]
async fn offboard(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    name: Name,
    body: Body<OffboardRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, OffboardRequest { leave_infrastructure }) =
        admin.order(peer, &headers, name, body)?;
    let said = flags(&[("leave the infrastructure", leave_infrastructure)]);
    admin
        .want(target, "offboard", said, move |will| {
            will.presence = if leave_infrastructure {
                Presence::GoneWithoutInfrastructure
            } else {
                Presence::Gone
            };
            // What was asked for before is not asked for when the cluster comes back.
            will.infrastructure_asked = None;
            will.approved = None;
        })
        .await
}

/// Has the network make its infrastructure on the cluster.
#[utoipa::path(
    post,
    path = "/v1/targets/{name}/infrastructure",
    tag = "targets",
    security(("operator" = [])),
    params(("name" = TargetName, Path, description = "The target's name in the cluster file.")),
    responses(
        (status = ACCEPTED, description = "It is written down, and will be done.", body = Noted),
        (status = BAD_REQUEST, description = "The path is malformed.", body = Refusal),
        NotAnOperator,
        (status = NOT_FOUND, description = "There is no target of this name.", body = Refusal),
        (status = CONFLICT, description = "The target declares no infrastructure, or is not registered; or nothing is sent to it.", body = Refusal),
        NotStored,
    )
)]
async fn infrastructure(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    name: Name,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, ()) = admin.order(peer, &headers, name, Ok(Json(Order(()))))?;
    if target.infrastructure.is_none() {
        return Err(Refused::new(
            RefusalCode::Conflict,
            format!(
                "the cluster file declares no infrastructure for target {}: set infrastructure.kubeconfigFile and infrastructure.tasksUrl, and restart",
                target.name
            ),
        ));
    }
    let state = admin.aggregator.standing(target).state;
    // An entry that is being put right is there; it is asked for once it is right.
    if !matches!(state.phase, Phase::Registered | Phase::Drifted | Phase::Updating) {
        return Err(Refused::new(
            RefusalCode::Conflict,
            format!(
                "target {} is {}: infrastructure is made for a registered cluster",
                target.name, state.phase
            ),
        ));
    }
    admin.want(target, "infrastructure", None, |will| will.infrastructure_asked = will.asked).await
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// The target whose lines are told; left out: all.
    target: Option<String>,
    /// How many lines, the newest; 10,000 at most are told.
    #[serde(default = "default_limit")]
    #[param(default = default_limit, minimum = 0, maximum = 4_294_967_295_u32)]
    limit: u32,
}

/// The most lines of the journal that one answer tells.
const MOST_LINES: u32 = 10_000;

const fn default_limit() -> u32 {
    50
}

/// Tells what was done for the targets: the newest lines of the journal.
#[utoipa::path(
    get,
    path = "/v1/history",
    tag = "targets",
    security((), ("operator" = [])),
    params(HistoryQuery),
    responses(
        (status = OK, description = "The newest lines, the newest last.", body = HistoryView),
        (status = BAD_REQUEST, description = "The query is malformed.", body = Refusal),
        NotAnOperator,
        (status = SERVICE_UNAVAILABLE, description = "The journal cannot be read now; try again.", body = Refusal),
    )
)]
async fn history(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<HistoryView>, Refused> {
    admin.access.read(peer, &headers)?;
    let Query(query) = query?;
    let of = HistoryOf { target: query.target, limit: query.limit.min(MOST_LINES) };
    let lines = admin.aggregator.store.history(of).await.map_err(not_stored)?;
    Ok(Json(HistoryView { lines }))
}

impl Admin {
    /// Lets an operator ask something of a target.
    fn order<T>(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        name: Name,
        body: Body<T>,
    ) -> Result<(&AiosTarget, T), Refused> {
        self.access.act(peer, headers)?;
        let Path(name) = name?;
        let Json(Order(order)) = body?;
        let target = self.target(&name)?;
        if target.mode == Mode::Observe {
            return Err(Refused::new(
                RefusalCode::Conflict,
                format!(
                    "target {name} is only observed: change its mode in the cluster file, and restart"
                ),
            ));
        }
        Ok((target, order))
    }

    /// Writes down what is wanted, and wakes the target's executor.
    async fn want(
        &self,
        target: &AiosTarget,
        what: &'static str,
        said: Option<String>,
        change: impl FnOnce(&mut Will) + Send + 'static,
    ) -> Result<(StatusCode, Json<Noted>), Refused> {
        let event = Event { detail: said, ..Event::now(what) };
        let asked = self.aggregator.want(target, event, change).await.map_err(not_stored)?;
        log::info!(target = target.name.as_str(), what; "asked by an operator");
        Ok((StatusCode::ACCEPTED, Json(Noted { asked })))
    }

    fn client(&self, target: &AiosTarget) -> Result<&Client, Refused> {
        self.clients.get(&target.name).ok_or_else(|| {
            Refused::new(RefusalCode::Other, format!("target {} has no client", target.name))
        })
    }
}

/// The flags of a command that were given, for the journal.
fn flags(flags: &[(&str, bool)]) -> Option<String> {
    let given: Vec<&str> =
        flags.iter().filter(|(_, is_given)| *is_given).map(|(it, _)| *it).collect();
    (!given.is_empty()).then(|| given.join(", "))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn not_encoded(error: serde_json::Error) -> Refused {
    Refused::new(RefusalCode::Other, format!("the document cannot be encoded: {error}"))
}
