//! The operator's commands for one target: what would be sent, what was done, and what is wanted.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use super::progress::Progress;
use super::show::{OutputArgs, Show, WatchArgs, once, print, print_styled, show};
use super::{Failure, ServerArgs, named, region};
use crate::admin::views::{
    ApproveRequest, HistoryView, OffboardRequest, PlanView, SubmitRequest, TargetView,
};
use crate::cluster_file::{ClusterFile, Target};
use crate::digest::Digest;
use crate::onboarding::execute::ASKING;
use crate::onboarding::state::infrastructure::InfrastructurePhase;
use crate::onboarding::state::{Phase, Sending};
use crate::operator::tables::Viewer;
use crate::operator::{self, Followed, Operator, tables};
use crate::targets::Difference;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The target's name; all without it.
    target: Option<String>,
    /// How many lines: the newest.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// The target's name.
    target: String,
    /// Prints what would be sent, secrets masked, and sends nothing.
    #[arg(long)]
    dry_run: bool,
    /// Takes over an entry of the cluster's id that this installation did not make.
    #[arg(long)]
    adopt: bool,
    /// Registers with the nodes that are there, however many are expected; takes classes out of a Region
    /// whose nodes cannot do what they say just now.
    #[arg(long)]
    partial: bool,
    /// The cluster file: for a Unikorn region, which this command applies itself.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The target's name.
    target: String,
    /// Approves what has this digest, and nothing else, without asking.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    digest: Option<Digest>,
    /// Approves what is shown without asking.
    #[arg(long, conflicts_with = "digest")]
    yes: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The target's name.
    target: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(super) struct OffboardArgs {
    /// The target's name.
    target: String,
    /// Does it without asking.
    #[arg(long)]
    yes: bool,
    /// Removes the entry and leaves the network's infrastructure on the cluster alone.
    #[arg(long)]
    leave_infrastructure: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct InfrastructureArgs {
    /// The target's name.
    target: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct WaitArgs {
    /// How long to wait until it is done. The aggregator goes on with it whether or not this waits.
    #[arg(long, value_name = "DUR", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

fn digest(text: &str) -> Result<Digest, &'static str> {
    Digest::try_from(text.to_owned())
}

/// Why what was asked for has not come about.
#[derive(Debug, Error)]
pub(super) enum NotDone {
    #[error("target {target} is {phase}{}", detail.as_ref().map_or_else(String::new, |it| format!(": {it}")))]
    Otherwise { target: String, phase: String, detail: Option<String> },
    #[error(
        "not done within {}: target {target} is {phase}{}. The aggregator goes on with it; rollcall-aggregator status shows how",
        humantime::format_duration(*limit),
        detail.as_ref().map_or_else(String::new, |it| format!(": {it}"))
    )]
    TimedOut { target: String, limit: Duration, phase: String, detail: Option<String> },
    #[error("nothing was asked of target {target}: the answer was not yes")]
    Declined { target: String },
    #[error("nothing was asked of target {target}: this is no terminal to ask at, give --yes")]
    NoTerminal { target: String },
    #[error("nothing of target {target} waits for approval")]
    NothingToApprove { target: String },
    #[error("the entry in the network of target {target} is not as it should be")]
    Differs { target: String },
    #[error("the network's entry cannot be compared: {why}")]
    Incomparable { why: String },
}

impl NotDone {
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Declined { .. } | Self::NoTerminal { .. } => 2,
            Self::Differs { .. } => 3,
            Self::Otherwise { .. }
            | Self::TimedOut { .. }
            | Self::NothingToApprove { .. }
            | Self::Incomparable { .. } => 1,
        }
    }
}

pub(super) async fn history(args: HistoryArgs) -> Result<(), Failure> {
    let operator = args.server.operator()?;
    let history = operator.history(args.target.as_deref(), args.limit).await;
    once(&history.map_err(Failure::Operator)?, args.output.output)
}

impl Show for HistoryView {
    fn data(&self) -> &impl Serialize {
        self
    }

    fn table(&self, viewer: Viewer) -> String {
        tables::history(self, viewer)
    }
}

pub(super) async fn submit(args: SubmitArgs) -> Result<(), Failure> {
    let operator = args.server.operator()?;
    if let Some(path) = &args.cluster {
        let file = ClusterFile::read(path).map_err(Failure::ClusterFile)?;
        match named(&file, &args.target)? {
            Target::Aios(_) => {}
            Target::Unikorn(_) if args.adopt => {
                let words =
                    "--adopt is for AIOS: a Region is applied beside what others declared in it";
                return Err(Failure::Usage(words.to_owned()));
            }
            Target::Unikorn(target) => {
                let how = region::Submission {
                    dry_run: args.dry_run,
                    partial: args.partial,
                    limit: args.wait.timeout,
                };
                return region::submit(&file, target, &operator, how).await;
            }
            other => {
                let (name, kind) = (other.name(), other.kind());
                return Err(Failure::Usage(format!(
                    "target {name} is of type {kind}, which takes nothing over a wire: hand on what document prints"
                )));
            }
        }
    }
    let order = SubmitRequest { adopt: args.adopt, partial: args.partial };
    if args.dry_run {
        let plan = operator.plan(&args.target, order).await.map_err(Failure::Operator)?;
        warn(&plan);
        print(&operator::json(&plan.requests).map_err(Failure::Operator)?)?;
        // Nothing would be sent, and that is not because all is well.
        if plan.requests.is_empty() && plan.action != "nothing" {
            let (target, phase, detail) = (args.target, plan.action, plan.why);
            return Err(Failure::Target(NotDone::Otherwise { target, phase, detail }));
        }
        return Ok(());
    }
    let noted = operator.order(&args.target, "submit", &order).await.map_err(Failure::Operator)?;
    let is_done =
        |view: &TargetView| view.state.past.heeded >= Some(noted.asked) && is_settled(view);
    let view = follow(&operator, &args.target, args.wait.timeout, is_done).await?;
    settled(&view, Phase::Registered)
}

pub(super) async fn approve(args: ApproveArgs) -> Result<(), Failure> {
    let operator = args.server.operator()?;
    let target = &args.target;
    let digest = if let Some(digest) = args.digest {
        digest
    } else {
        let plan = operator.plan(target, SubmitRequest::default()).await;
        let plan = plan.map_err(Failure::Operator)?;
        let nothing = || NotDone::NothingToApprove { target: target.clone() };
        let proposal = plan.proposal.ok_or_else(|| Failure::Target(nothing()))?;
        if let Some(difference) = plan.difference.filter(|it| !it.is_none()) {
            let viewer = Viewer { now: Timestamp::now(), room: None };
            print_styled(&tables::difference(&difference, viewer))?;
        }
        print(&format!("{}\ndigest {}", proposal.what, proposal.digest))?;
        confirm(target, args.yes, "approve this?")?;
        proposal.digest
    };
    let order = ApproveRequest { digest };
    let noted = operator.order(target, "approve", &order).await.map_err(Failure::Operator)?;
    let is_done =
        |view: &TargetView| view.state.past.heeded >= Some(noted.asked) && is_settled(view);
    let view = follow(&operator, target, args.wait.timeout, is_done).await?;
    settled(&view, Phase::Registered)
}

pub(super) async fn diff(args: DiffArgs) -> Result<(), Failure> {
    let operator = args.server.operator()?;
    let look = async || {
        let plan = operator.plan(&args.target, SubmitRequest::default()).await;
        let plan = plan.map_err(Failure::Operator)?;
        let Some(difference) = plan.difference else {
            let why = plan.why.unwrap_or_else(|| format!("there is none ({})", plan.action));
            return Err(Failure::Target(NotDone::Incomparable { why }));
        };
        Ok(Compared { target: args.target.clone(), difference })
    };
    show(&format!("diff {}", args.target), args.output, args.watch, look).await
}

/// How a target's entry differs from what it should be.
struct Compared {
    target: String,
    difference: Difference,
}

impl Show for Compared {
    const NOTHING: &'static str = "the network's entry is as it should be";

    fn data(&self) -> &impl Serialize {
        &self.difference
    }

    fn table(&self, viewer: Viewer) -> String {
        if self.difference.is_none() {
            return String::new();
        }
        tables::difference(&self.difference, viewer)
    }

    fn notes(&self) -> Vec<String> {
        self.difference.kept_words().into_iter().collect()
    }

    fn outcome(&self) -> Result<(), Failure> {
        if self.difference.is_none() {
            return Ok(());
        }
        Err(Failure::Target(NotDone::Differs { target: self.target.clone() }))
    }
}

pub(super) async fn offboard(args: OffboardArgs) -> Result<(), Failure> {
    let operator = args.server.operator()?;
    let target = &args.target;
    let status = operator.status().await.map_err(Failure::Operator)?;
    let url = status.targets.iter().find(|view| view.name == *target).map(|view| view.url.clone());
    let infrastructure =
        if args.leave_infrastructure { "" } else { " and its infrastructure on the cluster" };
    let question = format!(
        "take cluster {} out of the network at {}{infrastructure}?",
        status.cluster,
        url.unwrap_or_else(|| target.clone())
    );
    confirm(target, args.yes, &question)?;
    let order = OffboardRequest { leave_infrastructure: args.leave_infrastructure };
    let noted = operator.order(target, "offboard", &order).await.map_err(Failure::Operator)?;
    let is_done = |view: &TargetView| {
        let state = &view.state;
        state.past.heeded >= Some(noted.asked)
            && (is_settled(view)
                || (state.infrastructure.phase == InfrastructurePhase::RemovalFailed
                    && state.infrastructure.heeded >= Some(noted.asked)))
    };
    let view = follow(&operator, target, args.wait.timeout, is_done).await?;
    settled(&view, Phase::Offboarded)
}

pub(super) async fn infrastructure(args: InfrastructureArgs) -> Result<(), Failure> {
    use InfrastructurePhase as P;
    let operator = args.server.operator()?;
    let target = &args.target;
    let noted = operator.order(target, "infrastructure", &()).await.map_err(Failure::Operator)?;
    let is_done = |view: &TargetView| {
        let held = &view.state.infrastructure;
        held.phase == P::Created
            || (held.heeded >= Some(noted.asked) && matches!(held.phase, P::Failed | P::Unclear))
    };
    let limit = args.wait.timeout;
    let view = match followed(&operator, target, limit, is_done).await? {
        Followed::Done(view) => view,
        Followed::TimedOut(view) => {
            let held = view.state.infrastructure;
            let task = held.task.map(|task| format!("the network's task {task} goes on"));
            return Err(Failure::Target(NotDone::TimedOut {
                target: target.clone(),
                limit,
                phase: format!("without its infrastructure ({})", held.phase),
                detail: held.detail.or(task),
            }));
        }
    };
    let held = &view.state.infrastructure;
    if held.phase == P::Created {
        return print(&format!("the infrastructure of target {target} is there"));
    }
    Err(Failure::Target(NotDone::Otherwise {
        target: target.clone(),
        phase: format!("without its infrastructure ({})", held.phase),
        detail: held.detail.clone(),
    }))
}

/// Whether nothing more will happen by itself soon.
fn is_settled(view: &TargetView) -> bool {
    match view.state.phase {
        Phase::Registered
        | Phase::Refused
        | Phase::Foreign
        | Phase::Ready
        | Phase::Contested
        | Phase::Offboarded => true,
        Phase::Waiting => view.state.detail.as_deref() != Some(ASKING),
        Phase::Drifted => view.state.proposal.is_some(),
        Phase::Submitting | Phase::Updating | Phase::Failing | Phase::Offboarding => false,
    }
}

/// Follows a target, and says on stderr what it is doing.
async fn followed(
    operator: &Operator,
    target: &str,
    limit: Duration,
    is_done: impl Fn(&TargetView) -> bool,
) -> Result<Followed, Failure> {
    let mut progress = Progress::new();
    let told = |view: &TargetView| {
        let words = tables::doing(view);
        match view.sending {
            Some(Sending { piece, pieces }) => progress.count(&words, piece - 1, pieces),
            None => progress.say(&words),
        }
    };
    operator.follow(target, limit, is_done, told).await.map_err(Failure::Operator)
}

async fn follow(
    operator: &Operator,
    target: &str,
    limit: Duration,
    is_done: impl Fn(&TargetView) -> bool,
) -> Result<TargetView, Failure> {
    match followed(operator, target, limit, is_done).await? {
        Followed::Done(view) => Ok(*view),
        Followed::TimedOut(view) => Err(Failure::Target(NotDone::TimedOut {
            target: target.to_owned(),
            limit,
            phase: view.state.observed_phase().to_string(),
            detail: view.state.detail,
        })),
    }
}

fn settled(view: &TargetView, wanted: Phase) -> Result<(), Failure> {
    let detail = view.state.detail.clone();
    if view.state.phase == wanted {
        print(&format!("target {} is {wanted}", view.name))?;
        if let Some(detail) = detail {
            log::warn!("{detail}");
        }
        return Ok(());
    }
    let held = view.state.infrastructure.detail.clone();
    Err(Failure::Target(NotDone::Otherwise {
        target: view.name.clone(),
        phase: view.state.phase.to_string(),
        detail: held.filter(|_| wanted == Phase::Offboarded).or(detail),
    }))
}

/// What has to be said about a plan besides its requests.
fn warn(plan: &PlanView) {
    for note in plan.incomplete.iter().chain(&plan.warnings) {
        log::warn!("{note}");
    }
    let why = plan.why.as_deref().unwrap_or_default();
    if plan.requests.is_empty() && plan.action == "nothing" {
        log::info!("the network's entry is as it should be: nothing would be sent");
    } else {
        log::info!(action = plan.action.as_str(), why; "what submit would do now");
    }
    if plan.masked {
        log::warn!("a secret is masked here; it is sent unmasked");
    }
}

/// Asks the person at the terminal, unless told not to.
fn confirm(target: &str, yes: bool, question: &str) -> Result<(), Failure> {
    let declined = || Failure::Target(NotDone::Declined { target: target.to_owned() });
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let target = target.to_owned();
        return Err(Failure::Target(NotDone::NoTerminal { target }));
    }
    let mut answer = String::new();
    write!(io::stderr(), "{question} [yes/no] ").map_err(|source| Failure::Print { source })?;
    io::stdin().lock().read_line(&mut answer).map_err(|_unreadable| declined())?;
    if matches!(answer.trim(), "yes" | "y") { Ok(()) } else { Err(declined()) }
}
