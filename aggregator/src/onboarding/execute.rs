//! Carries out the plan for one target, one step at a time; each is stored before it is taken.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::plan::{Situation, Step, after_reply, next};
use super::state::{Phase, TargetState};
use crate::aggregator::Aggregator;
use crate::cluster_file::Target;
use crate::digest::Digest;
use crate::store::{Event, Write, WriteError};
use crate::targets::Held;
use crate::targets::aios::{Client, Submission};

/// How long to leave a store alone that did not take a write.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Changes that come close together are looked at together: assembling costs as much for one as
/// for a thousand.
const GATHERING: Duration = Duration::from_millis(500);

/// Brings one target's registry in line with the roll, for as long as the aggregator runs.
#[derive(Debug)]
pub struct Executor {
    aggregator: Arc<Aggregator>,
    target: Target,
    client: Client,
    state: TargetState,
    /// What the network was seen to hold, and what it was compared with.
    seen: Option<(Digest, Held)>,
    /// The last failure that was logged, so that it is not said at every try.
    told: Option<String>,
}

impl Executor {
    /// Takes up where the store says that the target stands.
    pub fn new(aggregator: Arc<Aggregator>, target: Target, client: Client) -> Self {
        let state = aggregator.target_state(&target);
        aggregator.show_target_state(&target, state.clone());
        Self { aggregator, target, client, state, seen: None, told: None }
    }

    /// Runs until dropped. Dropping it at any point is like a crash: nothing is lost or doubled.
    pub async fn run(mut self) {
        let mut roll = self.aggregator.watch_roll();
        loop {
            roll.mark_unchanged();
            if let Err(error) = self.turn(&mut roll).await {
                log::error!(target_name = self.target.name.as_str(), error:% = error;
                    "nothing is sent while the store does not take what is about to be done");
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
    }

    async fn turn(&mut self, roll: &mut watch::Receiver<u64>) -> Result<(), WriteError> {
        let now = Timestamp::now();
        let assembly = self.aggregator.assemble_at(now);
        let next_loss = self.aggregator.next_confirmed_loss(now);
        let complete = assembly.document.nodes.node_data.len();
        let gate = self.aggregator.gate(complete, assembly.incomplete.len(), now);
        let submission =
            match Submission::new(assembly.document, self.aggregator.installation, &self.target) {
                Ok(submission) => submission,
                Err(error) => {
                    log::error!(error:% = error; "the document cannot be encoded");
                    changed(roll, next_loss).await;
                    return Ok(());
                }
            };
        // What was seen for another document says nothing of this one.
        let held = match self.seen.take() {
            Some((about, held)) if about == submission.wanted => held,
            Some(_) => {
                // The next look need not follow at once on one that was for nothing.
                tokio::time::sleep(GATHERING).await;
                Held::NotRead
            }
            None => Held::NotRead,
        };
        let step = next(&Situation {
            state: &self.state,
            gate: &gate,
            destination: &submission.destination,
            wanted: submission.wanted,
            obstacle: submission.obstacle.as_deref(),
            held: &held,
            now,
            dice: fastrand::f64(),
        });
        match step {
            Step::Rest => changed(roll, next_loss).await,
            Step::RestUntil(at) => {
                changed(roll, Some(next_loss.map_or(at, |loss| loss.min(at)))).await;
            }
            Step::Read => {
                if self.state.phase == Phase::Waiting {
                    let detail = Some("asking the network what it holds".to_owned());
                    let shown = TargetState { detail, ..self.state.clone() };
                    self.aggregator.show_target_state(&self.target, shown);
                }
                let held = self.client.read(&submission).await;
                self.seen = Some((submission.wanted, held));
            }
            Step::Create(state) => {
                self.settle(state).await?;
                let verdict = self.client.create(&submission).await;
                self.aggregator.metrics.submission(&self.target.name, &verdict);
                self.state = after_reply(&self.state, &verdict);
            }
            Step::Settle(state) => self.settle(state).await?,
        }
        Ok(())
    }

    /// Stores a state and shows it. What only counts tries is not worth a write.
    async fn settle(&mut self, state: TargetState) -> Result<(), WriteError> {
        let news = state.phase != self.state.phase
            || state.detail != self.state.detail
            || state.about != self.state.about
            || state.entry_at != self.state.entry_at;
        if news {
            let event = Event {
                at: Timestamp::now(),
                what: state.phase.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                about: state.about,
                detail: state.detail.clone(),
            };
            let name = self.target.name.to_string();
            let write = Write::Target { name, state: Box::new(state.clone()), event };
            self.aggregator.store.write(write).await?;
            self.log(&state);
        }
        self.aggregator.show_target_state(&self.target, state.clone());
        self.state = state;
        Ok(())
    }

    /// One line a change; a failure that goes on is told once.
    fn log(&mut self, state: &TargetState) {
        let (name, phase) = (self.target.name.as_str(), state.phase.as_str());
        let url = self.target.parser_url.as_str();
        let detail = state.detail.as_deref().unwrap_or_default();
        let trouble = state.failing_since.and(state.detail.clone());
        match state.phase {
            Phase::Submitting if matches!(self.state.phase, Phase::Registered | Phase::Drifted) => {
                log::warn!(target_name = name, url; "the network holds our entry no more, registering again");
            }
            Phase::Submitting if state.failing_since.is_none() => {
                log::info!(target_name = name, url; "registering");
            }
            Phase::Submitting | Phase::Failing if trouble.is_none() || trouble == self.told => {
                log::debug!(target_name = name, phase, detail; "still not registered");
            }
            Phase::Submitting => {
                log::warn!(target_name = name, detail; "what became of the registration is not known yet");
            }
            Phase::Failing if matches!(self.state.phase, Phase::Registered | Phase::Drifted) => {
                log::warn!(target_name = name, detail; "the registration cannot be looked at, trying again");
            }
            Phase::Failing => {
                log::warn!(target_name = name, detail; "not registered, trying again");
            }
            Phase::Waiting => log::info!(target_name = name, detail; "waiting"),
            Phase::Registered => log::info!(target_name = name, url; "the cluster is registered"),
            Phase::Drifted => {
                log::warn!(target_name = name, detail; "the registration has drifted");
            }
            Phase::Refused | Phase::Foreign => {
                log::error!(target_name = name, phase, detail; "a person must act");
            }
        }
        if state.failing_since.is_none() || trouble.is_some() {
            self.told = trouble;
        }
    }
}

/// Waits until the roll changes or a time has come.
async fn changed(roll: &mut watch::Receiver<u64>, until: Option<Timestamp>) {
    let timer = async {
        match until {
            Some(at) => {
                let wait = at.duration_since(Timestamp::now());
                tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = timer => {}
        outcome = roll.changed() => {
            // The sender lives as long as the aggregator, which this holds.
            debug_assert!(outcome.is_ok(), "the roll is still there");
            tokio::time::sleep(GATHERING).await;
        }
    }
}
