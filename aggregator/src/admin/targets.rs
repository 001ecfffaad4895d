//! The operator's routes for targets: what would be sent, what was done, and what is wanted.
//!
//! What an operator asks for is written down and answered with 202; the target's executor acts upon
//! it, and `GET /v1/status` shows how that goes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use rollcall_report::RefusalCode;
use serde::Deserialize;

use super::views::{
    ApproveRequest, HistoryView, Noted, OffboardRequest, PlanView, RequestView, SubmitRequest,
};
use super::{Admin, Peer, not_stored};
use crate::cluster_file::{AiosTarget, Mode};
use crate::onboarding::execute::Outlook;
use crate::onboarding::gate::Gate;
use crate::onboarding::plan::Step;
use crate::onboarding::state::{Approval, Phase, Presence, TargetState, Will};
use crate::refusal::Refused;
use crate::store::{Event, HistoryOf};
use crate::targets::aios::{Basis, Client, Look, Submission, amend, first_piece, mask_request};
use crate::targets::{Held, Outgoing};

/// The routes below `/v1/targets`, and the journal.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/v1/targets/{name}/plan", get(plan))
        .route("/v1/targets/{name}/submit", post(submit))
        .route("/v1/targets/{name}/approve", post(approve))
        .route("/v1/targets/{name}/offboard", post(offboard))
        .route("/v1/targets/{name}/infrastructure", post(infrastructure))
        .route("/v1/history", get(history))
}

type Body<T> = Result<Json<T>, JsonRejection>;

#[derive(Debug, Default, Deserialize)]
struct PlanQuery {
    #[serde(default)]
    adopt: bool,
    #[serde(default)]
    partial: bool,
}

async fn plan(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(name): Path<String>,
    Query(query): Query<PlanQuery>,
) -> Result<Json<PlanView>, Refused> {
    admin.access.read(peer, &headers)?;
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

async fn submit(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Body<SubmitRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, SubmitRequest { adopt, partial }) = admin.order(peer, &headers, &name, body)?;
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

async fn approve(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Body<ApproveRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, ApproveRequest { digest }) = admin.order(peer, &headers, &name, body)?;
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
                format!("nothing of target {name} waits for approval"),
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

async fn offboard(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(name): Path<String>,
    body: Body<OffboardRequest>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, OffboardRequest { leave_infrastructure }) =
        admin.order(peer, &headers, &name, body)?;
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

async fn infrastructure(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Noted>), Refused> {
    let (target, ()) = admin.order(peer, &headers, &name, Ok(Json(())))?;
    if target.infrastructure.is_none() {
        return Err(Refused::new(
            RefusalCode::Conflict,
            format!(
                "the cluster file declares no infrastructure for target {name}: set infrastructure.kubeconfigFile and infrastructure.tasksUrl, and restart"
            ),
        ));
    }
    let state = admin.aggregator.standing(target).state;
    // An entry that is being put right is there; it is asked for once it is right.
    if !matches!(state.phase, Phase::Registered | Phase::Drifted | Phase::Updating) {
        return Err(Refused::new(
            RefusalCode::Conflict,
            format!(
                "target {name} is {}: infrastructure is made for a registered cluster",
                state.phase
            ),
        ));
    }
    admin.want(target, "infrastructure", None, |will| will.infrastructure_asked = will.asked).await
}

#[derive(Debug, Deserialize)]
struct HistoryQuery {
    target: Option<String>,
    #[serde(default = "default_limit")]
    limit: u32,
}

const fn default_limit() -> u32 {
    50
}

async fn history(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<HistoryView>, Refused> {
    admin.access.read(peer, &headers)?;
    let of = HistoryOf { target: query.target, limit: query.limit.min(10_000) };
    let lines = admin.aggregator.store.history(of).await.map_err(not_stored)?;
    Ok(Json(HistoryView { lines }))
}

impl Admin {
    /// Lets an operator ask something of a target.
    fn order<T>(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        name: &str,
        body: Body<T>,
    ) -> Result<(&AiosTarget, T), Refused> {
        self.access.act(peer, headers)?;
        let Json(order) =
            body.map_err(|error| Refused::new(RefusalCode::Malformed, error.body_text()))?;
        let target = self.target(name)?;
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
