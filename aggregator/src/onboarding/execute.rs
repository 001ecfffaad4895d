//! Carries out the plan for one target, one step at a time; each is stored before it is taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use log::Level;
use rollcall_daemon::trouble::Trouble;
use tokio::sync::watch;

use super::drift::Drift;
use super::infrastructure;
use super::plan::{Situation, Step, after_reply, next};
use super::state::infrastructure::{Infrastructure, InfrastructurePhase};
use super::state::{Phase, Sending, TargetState, Will};
use crate::aggregator::{Aggregator, Standing};
use crate::cluster_file::{AiosTarget, NodePolicy};
use crate::digest::Digest;
use crate::document::{Assembly, ClusterDocument, Incomplete, Warning};
use crate::onboarding::gate::Gate;
use crate::store::{Event, Sent, Write, WriteError};
use crate::targets::aios::{Client, Look, Submission};
use crate::targets::{Departed, Held, Outgoing, RequestKind, Verdict};

/// How long to leave a store alone that did not take a write.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Changes that come close together are looked at together: what is to be registered costs as much to
/// make for one as for a thousand.
const GATHERING: Duration = Duration::from_millis(500);

/// Under a stream of changes, no more than one part in so many of the time is spent on making it.
const PARTS: u32 = 20;
/// But no change waits longer than this to be looked at.
const LONGEST_GATHERING: Duration = Duration::from_secs(5);

/// What a target that waits is doing for a moment.
pub const ASKING: &str = "asking the network what it holds";

/// Brings one target's registry in line with the roll, for as long as the aggregator runs.
#[derive(Debug)]
pub struct Executor {
    aggregator: Arc<Aggregator>,
    target: AiosTarget,
    client: Client,
    state: TargetState,
    /// What the last decision was made of.
    outlook: Option<Arc<Outlook>>,
    /// How long changes are gathered before the next one.
    gathering: Duration,
    /// What the network was seen to hold, and what it was compared with.
    seen: Option<(Digest, Look)>,
    /// Whether what it holds was changed by somebody else.
    drift: Drift,
    /// The last failure that was logged, so that it is not said at every try.
    told: Option<String>,
    /// Why the store did not take the last write, told once until it takes one.
    store_trouble: Trouble,
}

/// What a decision is made of, as it is now.
#[derive(Debug)]
pub struct Outlook {
    /// The document, without what makes it ours.
    document: ClusterDocument,
    /// What is to be registered.
    pub submission: Arc<Submission>,
    /// Whether enough nodes have reported.
    pub gate: Gate,
    /// When the document or what may be taken away changes without a report.
    pub next_change: Option<Timestamp>,
    /// Nodes that are kept out of the document.
    pub incomplete: Vec<Incomplete>,
    /// What is in the document with less certainty than it shows.
    pub warnings: Vec<Warning>,
}

/// What is to be registered with a target, of a document that its policy made.
fn submission(
    aggregator: &Aggregator,
    target: &AiosTarget,
    document: ClusterDocument,
    departed: Departed,
) -> serde_json::Result<Submission> {
    let submission = Submission::new(document, departed, aggregator.installation, target)?;
    // Nobody but Kubernetes tells what a policy goes by: as if there were none, all would be offered.
    let is_unwatched = !aggregator.nodes.is_watched() && target.nodes != NodePolicy::default();
    // A document without nodes is a mistake of ours, and no cluster.
    let is_empty = submission.document.nodes.node_data.is_empty();
    let obstacle =
        is_unwatched.then_some(UNWATCHED).or_else(|| is_empty.then_some(EMPTY)).map(str::to_owned);
    Ok(Submission { obstacle: obstacle.or(submission.obstacle), ..submission })
}

const EMPTY: &str = "the document holds no nodes, and an entry is never emptied: look at nodes and status, and at the target's nodes in the cluster file; to leave the network, run offboard";

const UNWATCHED: &str = "the target's nodes in the cluster file name some of the cluster's Nodes, and nobody tells these: serve with --kubernetes, or leave nodes out";

impl Outlook {
    /// As the roll stands, for a target.
    ///
    /// # Errors
    ///
    /// When the document cannot be encoded.
    pub fn of(
        aggregator: &Aggregator,
        target: &AiosTarget,
        standing: &Standing,
        now: Timestamp,
    ) -> serde_json::Result<Self> {
        Self::after(None, aggregator, target, standing, now)
    }

    /// The same after another one: what is to be registered is not encoded anew while it is the same.
    fn after(
        before: Option<&Self>,
        aggregator: &Aggregator,
        target: &AiosTarget,
        standing: &Standing,
        now: Timestamp,
    ) -> serde_json::Result<Self> {
        // The gate judges the very Nodes that the document was made of.
        let nodes = aggregator.nodes.all();
        let assembly = aggregator.assemble_among(nodes.as_ref(), &target.nodes, now);
        let is_enough = standing.will.partial
            && !standing.state.is_served(&standing.will)
            && !assembly.document.nodes.node_data.is_empty();
        let gate = match aggregator.gate(nodes.as_deref(), &target.nodes, &assembly, now) {
            Gate::Closed { .. } if is_enough => Gate::Open,
            gate => gate,
        };
        let losses = aggregator.next_confirmed_loss(nodes.as_ref(), now).into_iter();
        let next_change = losses.chain(aggregator.next_departure(target, now)).min();
        let Assembly { document, incomplete, warnings } = assembly;
        let departed = aggregator.departed(target, now);
        // Entries of nodes that are the same are shared, so that this compares next to nothing.
        let is_same = |it: &&Self| it.document == document && it.submission.departed == departed;
        let submission = match before.filter(is_same) {
            Some(before) => Arc::clone(&before.submission),
            None => Arc::new(submission(aggregator, target, document.clone(), departed)?),
        };
        Ok(Self { document, submission, gate, next_change, incomplete, warnings })
    }

    /// What to do next, given what the network was seen to hold.
    pub fn next(
        &self,
        aggregator: &Aggregator,
        target: &AiosTarget,
        (state, will): (&TargetState, &Will),
        held: &Held,
        now: Timestamp,
    ) -> Step {
        next(&Situation {
            state,
            will,
            mode: target.mode,
            look_every: target.look_every,
            shrink_percent: aggregator.file.departures.approve_above_percent,
            gate: &self.gate,
            destination: &self.submission.destination,
            wanted: self.submission.wanted,
            declared: &self.submission.declared,
            obstacle: self.submission.obstacle.as_deref(),
            held,
            now,
            dice: fastrand::f64(),
        })
    }
}

impl Executor {
    /// Takes up where the store says that the target stands.
    pub fn new(aggregator: Arc<Aggregator>, target: AiosTarget, client: Client) -> Self {
        let state = aggregator.standing(&target).state;
        aggregator.show(&target, state.clone());
        Self {
            aggregator,
            target,
            client,
            drift: Drift::new(&state),
            state,
            outlook: None,
            gathering: GATHERING,
            seen: None,
            told: None,
            store_trouble: Trouble::default(),
        }
    }

    /// Runs until dropped, or until another aggregator turns out to have written where the target
    /// stands. Dropping it at any point is like a crash: nothing is lost or doubled.
    pub async fn run(mut self) {
        let mut changes = self.aggregator.watch();
        loop {
            changes.mark_unchanged();
            match self.turn(&mut changes).await {
                Ok(()) => {}
                Err(WriteError::Overtaken { what }) => {
                    log::warn!(target = self.target.name.as_str();
                        "{what}: where the target stands is read anew");
                    return;
                }
                Err(error) => {
                    let words = error.to_string();
                    if self.store_trouble.is_news(&words) {
                        log::error!(target = self.target.name.as_str(), error = words.as_str();
                            "nothing is sent while the store does not take what is about to be done");
                    }
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Waits until something changes or a time has come. What an operator says is not kept waiting by
    /// a stream of reports.
    async fn changed(&self, changes: &mut watch::Receiver<u64>, until: Option<Timestamp>) {
        let timer = async {
            match until {
                Some(at) => {
                    let wait = at.duration_since(Timestamp::now());
                    tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
                }
                None => std::future::pending().await,
            }
        };
        let will = self.aggregator.standing(&self.target).will;
        tokio::select! {
            () = timer => {}
            outcome = changes.changed() => {
                // The sender lives as long as the aggregator, which this holds.
                debug_assert!(outcome.is_ok(), "the roll is still there");
                let begun = Instant::now();
                loop {
                    tokio::time::sleep(GATHERING).await;
                    let is_said = self.aggregator.standing(&self.target).will != will;
                    if is_said || begun.elapsed() >= self.gathering {
                        break;
                    }
                }
            }
        }
    }

    async fn turn(&mut self, changes: &mut watch::Receiver<u64>) -> Result<(), WriteError> {
        let now = Timestamp::now();
        let standing = self.aggregator.standing(&self.target);
        let begun = Instant::now();
        let before = self.outlook.take();
        let made =
            Outlook::after(before.as_deref(), &self.aggregator, &self.target, &standing, now);
        drop(before);
        let outlook = match made {
            Ok(outlook) => Arc::new(outlook),
            Err(error) => return self.not_encoded(&error, changes).await,
        };
        self.gathering = (begun.elapsed() * PARTS).clamp(GATHERING, LONGEST_GATHERING);
        self.outlook = Some(Arc::clone(&outlook));
        let submission = &outlook.submission;
        // What was seen for another document says nothing of this one.
        let look = match self.seen.take() {
            Some((about, look)) if about == submission.wanted => look,
            Some(_) => {
                // The next look need not follow at once on one that was for nothing.
                tokio::time::sleep(GATHERING).await;
                Look { held: Held::NotRead, amendments: None }
            }
            None => Look { held: Held::NotRead, amendments: None },
        };
        let beings = (&self.state, &standing.will);
        let step = outlook.next(&self.aggregator, &self.target, beings, &look.held, now);
        match step {
            Step::Rest => self.rest(changes, &outlook, &standing.will, None).await?,
            Step::RestUntil(at) => {
                self.rest(changes, &outlook, &standing.will, Some(at)).await?;
            }
            Step::Read => {
                self.must_lead()?;
                if self.state.phase == Phase::Waiting {
                    let detail = Some(ASKING.to_owned());
                    let shown = TargetState { detail, ..self.state.clone() };
                    self.aggregator.show(&self.target, shown);
                }
                let look = self.client.look(submission, self.state.past.known()).await;
                if let Held::Ours(difference) | Held::Foreign(difference) = &look.held {
                    self.aggregator.show_kept(&self.target, &difference.kept);
                }
                self.aggregator.show_look(&self.target, Some(&look.held));
                let (name, metrics) = (&self.target.name, &self.aggregator.metrics);
                metrics.seen(name, &look.held, Timestamp::now());
                let wanted = submission.wanted;
                if self.drift.is_new(&self.state, &standing.will, wanted, &look.held) {
                    metrics.drifted(name);
                }
                self.aggregator.show(&self.target, self.state.clone());
                self.seen = Some((submission.wanted, look));
            }
            Step::Create(state) => match self.client.registration(submission) {
                Ok(request) => {
                    self.send(state, std::slice::from_ref(&request)).await?;
                    let verdict = self.client.register(submission, &request).await;
                    self.answered(RequestKind::Create, &verdict).await?;
                }
                Err(error) => return self.not_encoded(&error, changes).await,
            },
            // An update is planned only where there is something to amend.
            Step::Update(mut state) => {
                let Some(amendments) = &look.amendments else { return Ok(()) };
                let amendment = amendments.sent(state.takes_away());
                let requests = match self.client.updates(submission, amendment) {
                    Ok(requests) => requests,
                    Err(error) => return self.not_encoded(&error, changes).await,
                };
                if let Some(rescue) = amendment.rescue() {
                    state.past.rescue = (requests.len() > 1).then_some(rescue);
                }
                self.send(state, &requests).await?;
                let verdict = self.change(submission, &requests).await;
                if verdict == Verdict::Accepted {
                    // What the network makes of these fields from now on is its own.
                    self.state.past.declared = Some(submission.declared.clone());
                }
                self.answered(RequestKind::Update, &verdict).await?;
            }
            Step::Remove(state) => {
                let request = [self.client.removal(submission)];
                self.send(state, &request).await?;
                let verdict = self.change(submission, &request).await;
                self.answered(RequestKind::Remove, &verdict).await?;
            }
            Step::Settle(state) => self.settle(state).await?,
        }
        Ok(())
    }

    /// What cannot be encoded now cannot be a moment later.
    async fn not_encoded(
        &self,
        error: &serde_json::Error,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), WriteError> {
        let name = self.target.name.as_str();
        log::error!(target = name, error:% = error; "the document cannot be encoded");
        self.changed(changes, None).await;
        Ok(())
    }

    /// Nothing is to be done for the entry: then for the infrastructure, or nothing at all.
    async fn rest(
        &mut self,
        changes: &mut watch::Receiver<u64>,
        outlook: &Outlook,
        will: &Will,
        until: Option<Timestamp>,
    ) -> Result<(), WriteError> {
        use infrastructure::Step;
        let now = Timestamp::now();
        let is_declared = self.target.infrastructure.is_some();
        let dice = fastrand::f64();
        let submission = &outlook.submission;
        let step = infrastructure::next(&self.state, will, self.target.mode, is_declared, now);
        let until = match step {
            Step::Rest => until,
            Step::RestUntil(at) => Some(until.map_or(at, |until| until.min(at))),
            Step::Create(held) | Step::Remove(held) => {
                let removal = held.phase == InfrastructurePhase::Removing;
                let request = self.client.infrastructure_request(removal);
                self.settle_infrastructure(held, Some(request)).await?;
                self.must_lead()?;
                let said = self.client.infrastructure(submission, removal).await;
                let now = Timestamp::now();
                let held =
                    infrastructure::after_reply(&self.state.infrastructure, &said, now, dice);
                return self.settle_infrastructure(held, None).await;
            }
            Step::Follow(task) => {
                self.must_lead()?;
                let said = self.client.task(submission, &task).await;
                let now = Timestamp::now();
                let held = infrastructure::after_task(&self.state.infrastructure, &said, now, dice);
                // The network has written its own numbers into the entry: look at once.
                if held.phase == InfrastructurePhase::Created {
                    self.state.next_try = None;
                    // At our own request: that is no other writer.
                    self.state.past.equal = None;
                }
                return self.settle_infrastructure(held, None).await;
            }
            Step::Settle(held) => return self.settle_infrastructure(held, None).await,
        };
        let until = outlook.next_change.into_iter().chain(until).min();
        self.changed(changes, until).await;
        Ok(())
    }

    /// Stores what is about to be sent.
    async fn send(&mut self, state: TargetState, requests: &[Outgoing]) -> Result<(), WriteError> {
        let sends = requests.iter().map(|request| Sent {
            request: request.to_string(),
            body_digest: request
                .body
                .as_ref()
                .map(|body| Digest::of(&[body.to_string().as_bytes()])),
        });
        let event = Event { sends: sends.collect(), ..event(&state) };
        self.store(state, event).await?;
        self.must_lead()
    }

    /// Sends updates, or a removal; whoever asks meanwhile is told how far that has come.
    async fn change(&self, submission: &Submission, requests: &[Outgoing]) -> Verdict {
        let pieces = requests.len();
        let told = |piece| {
            let sending = (pieces > 1).then_some(Sending { piece, pieces });
            self.aggregator.show_sending(&self.target, sending);
        };
        self.client.change(submission, requests, told).await
    }

    /// Whoever was halted for a while, with all of its machine, leads no more and has not noticed yet:
    /// whatever it was about to send may be long done by another.
    fn must_lead(&self) -> Result<(), WriteError> {
        if self.aggregator.leadership.is_held() { Ok(()) } else { Err(WriteError::leads_no_more()) }
    }

    /// Notes what was answered. What became of it is seen by the next look.
    async fn answered(&mut self, what: RequestKind, verdict: &Verdict) -> Result<(), WriteError> {
        self.aggregator.metrics.request(&self.target.name, what, verdict);
        self.state = after_reply(&self.state, verdict);
        let detail = match verdict {
            Verdict::Accepted => "accepted".to_owned(),
            Verdict::Refused { words }
            | Verdict::Rejected { words }
            | Verdict::Unanswered { words } => words.clone(),
        };
        let event = Event {
            about: self.state.about,
            detail: Some(detail),
            ..Event::now(&format!("{}: answered", what.as_str()))
        };
        let name = self.target.name.to_string();
        self.write(Write::Event { name, event }).await
    }

    /// Stores a state and shows it. What only counts tries is not worth a write.
    async fn settle(&mut self, state: TargetState) -> Result<(), WriteError> {
        // Nodes come one by one: the journal tells that they were waited for, not each.
        let still_waits = state.phase == Phase::Waiting
            && self.state.phase == Phase::Waiting
            && state.past == self.state.past;
        if still_waits && self.state.detail.is_some() {
            self.log(&state);
            self.aggregator.show(&self.target, state.clone());
            self.state = state;
            return Ok(());
        }
        let news = state.phase != self.state.phase
            || gist(state.detail.as_deref()) != gist(self.state.detail.as_deref())
            || state.about != self.state.about
            || state.proposal != self.state.proposal
            || state.past != self.state.past;
        if news {
            let event = event(&state);
            return self.store(state, event).await;
        }
        self.aggregator.show(&self.target, state.clone());
        self.state = state;
        Ok(())
    }

    async fn settle_infrastructure(
        &mut self,
        held: Infrastructure,
        request: Option<String>,
    ) -> Result<(), WriteError> {
        let before = &self.state.infrastructure;
        let is_news = held.phase != before.phase
            || held.task != before.task
            || gist(held.detail.as_deref()) != gist(before.detail.as_deref())
            || held.heeded != before.heeded;
        let state = TargetState { infrastructure: held, ..self.state.clone() };
        if !is_news {
            self.aggregator.show(&self.target, state.clone());
            self.state = state;
            return Ok(());
        }
        let held = &state.infrastructure;
        let phase = held.phase.as_str();
        let task = || held.task.as_ref().map(|task| format!("task {task}"));
        let detail = held.detail.clone().or_else(task);
        // Without a digest of its body, which is little but a secret.
        let sends = request.into_iter().map(|request| Sent { request, body_digest: None });
        let event = Event {
            detail: detail.clone(),
            sends: sends.collect(),
            ..Event::now(&format!("infrastructure: {phase}"))
        };
        let name = self.target.name.to_string();
        let write = Write::Target { name, state: Box::new(state.clone()), event };
        self.write(write).await?;
        let name = self.target.name.as_str();
        match detail.as_deref() {
            detail if held.phase.wants_a_person() => {
                log::error!(target = name, phase, error = detail.unwrap_or_default();
                    "the network's infrastructure: a person must act");
            }
            Some(detail) => {
                log::info!(target = name, phase, detail; "the network's infrastructure");
            }
            None => log::info!(target = name, phase; "the network's infrastructure"),
        }
        self.aggregator.show(&self.target, state.clone());
        self.state = state;
        Ok(())
    }

    async fn store(&mut self, state: TargetState, event: Event) -> Result<(), WriteError> {
        let name = self.target.name.to_string();
        let write = Write::Target { name, state: Box::new(state.clone()), event };
        self.write(write).await?;
        self.log(&state);
        self.aggregator.show(&self.target, state.clone());
        self.state = state;
        Ok(())
    }

    async fn write(&mut self, write: Write) -> Result<(), WriteError> {
        self.aggregator.store.write(write).await?;
        if self.store_trouble.ends() {
            log::info!(target = self.target.name.as_str(); "the store takes what is done again");
        }
        Ok(())
    }

    /// One line a change; a failure that goes on is told once.
    fn log(&mut self, state: &TargetState) {
        let trouble = state.failing_since.and_then(|_| gist(state.detail.as_deref()));
        let is_told = trouble.is_some() && trouble == self.told;
        let (level, message) = said_of(&self.state, state, is_told);
        let (target, phase) = (self.target.name.as_str(), state.phase.as_str());
        let url = self.target.parser_url.as_str();
        let since = format!("{:.0}", state.failing_since.unwrap_or(state.since));
        let next_try = state
            .next_look()
            .map_or_else(|| "when something changes".to_owned(), |at| format!("{at:.0}"));
        match state.detail.as_deref() {
            Some(error) if level <= Level::Warn => {
                log::log!(level, target, phase, error, since, next_try; "{message}");
            }
            Some(detail) => {
                log::log!(level, target, phase, detail, since, next_try; "{message}");
            }
            None => log::log!(level, target, phase, url; "{message}"),
        }
        if state.failing_since.is_none() || trouble.is_some() {
            self.told = trouble;
        }
    }
}

/// What the log says of a change, and how loudly.
fn said_of(before: &TargetState, now: &TargetState, is_told: bool) -> (Level, &'static str) {
    let was_registered =
        matches!(before.phase, Phase::Registered | Phase::Drifted | Phase::Updating);
    let is_failing = now.failing_since.is_some();
    match now.phase {
        Phase::Submitting | Phase::Updating | Phase::Failing | Phase::Offboarding if is_told => {
            (Level::Debug, "still failing")
        }
        Phase::Submitting if was_registered => {
            (Level::Warn, "the network holds our entry no more, registering again")
        }
        Phase::Submitting if is_failing => {
            (Level::Warn, "what became of the registration is not known yet")
        }
        Phase::Submitting => (Level::Info, "registering"),
        Phase::Updating if is_failing => {
            (Level::Warn, "the update did not come about yet, trying again")
        }
        Phase::Updating => (Level::Info, "updating the registration"),
        Phase::Failing if was_registered => {
            (Level::Warn, "the registration cannot be looked at, trying again")
        }
        Phase::Failing => (Level::Warn, "not registered, trying again"),
        Phase::Waiting => (Level::Info, "waiting"),
        Phase::Ready => (Level::Warn, "ready to register"),
        Phase::Registered if before.phase == Phase::Registered && before.detail == now.detail => {
            (Level::Debug, "the cluster is registered still")
        }
        // Its entry holds what nobody reports for.
        Phase::Registered if now.detail.is_some() => (Level::Warn, "the cluster is registered"),
        Phase::Registered => (Level::Info, "the cluster is registered"),
        Phase::Drifted => (Level::Warn, "the registration has drifted"),
        Phase::Refused | Phase::Foreign | Phase::Contested => (Level::Error, "a person must act"),
        Phase::Offboarding if is_failing => {
            (Level::Warn, "the entry is not removed yet, trying again")
        }
        Phase::Offboarding => (Level::Info, "leaving the network"),
        Phase::Offboarded => (Level::Info, "the cluster has left the network"),
    }
}

/// What is said without the addresses of Python's objects, which differ at each try.
fn gist(detail: Option<&str>) -> Option<String> {
    let mut parts = detail?.split("0x");
    let first = parts.next().unwrap_or_default().to_owned();
    Some(parts.fold(first, |said, part| {
        said + part.trim_start_matches(|digit: char| digit.is_ascii_hexdigit())
    }))
}

/// The journal's line on entering a state.
fn event(state: &TargetState) -> Event {
    Event { about: state.about, detail: state.detail.clone(), ..Event::now(state.phase.as_str()) }
}
