//! Carries out the plan for one target, one step at a time; each is stored before it is taken.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::plan::{Held, Situation, Step, after_reply, next};
use super::state::{Phase, TargetState};
use crate::aggregator::Aggregator;
use crate::cluster_file::Target;
use crate::store::{Event, Write, WriteError};
use crate::targets::aios::{Client, Submission};

/// How long to leave a store alone that did not take a write.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Brings one target's registry in line with the roll, for as long as the aggregator runs.
#[derive(Debug)]
pub struct Executor {
    aggregator: Arc<Aggregator>,
    target: Target,
    client: Client,
    state: TargetState,
    held: Held,
}

impl Executor {
    /// Takes up where the store says that the target stands.
    pub fn new(aggregator: Arc<Aggregator>, target: Target, client: Client) -> Self {
        let state = aggregator.target_state(&target);
        aggregator.show_target_state(&target, state.clone());
        Self { aggregator, target, client, state, held: Held::NotRead }
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
        let assembly = self.aggregator.assemble();
        let gate = self.aggregator.gate(&assembly, now);
        let submission =
            match Submission::new(assembly.document, self.aggregator.installation, &self.target) {
                Ok(submission) => submission,
                Err(error) => {
                    log::error!(error:% = error; "the document cannot be encoded");
                    changed(roll, None).await;
                    return Ok(());
                }
            };
        let step = next(&Situation {
            state: &self.state,
            gate: &gate,
            document: submission.digest,
            obstacle: submission.obstacle.as_deref(),
            held: &self.held,
            now,
            dice: fastrand::f64(),
        });
        match step {
            Step::Rest => changed(roll, None).await,
            Step::RestUntil(at) => changed(roll, Some(at)).await,
            Step::Read => {
                let installation = self.aggregator.installation.to_string();
                self.held = self.client.read(&submission.document, &installation).await;
            }
            Step::Create(state) => {
                self.settle(state).await?;
                self.held = Held::NotRead;
                let verdict = self.client.create(&submission.document).await;
                self.aggregator.metrics.submission(&self.target.name, &verdict);
                log::debug!(target_name = self.target.name.as_str(), verdict = verdict.as_str();
                    "the registration was answered");
                let state = after_reply(&self.state, &verdict, Timestamp::now());
                self.settle(state).await?;
            }
            Step::Settle(state) => {
                self.held = Held::NotRead;
                self.settle(state).await?;
            }
        }
        Ok(())
    }

    /// Stores a state and shows it. What only counts tries is not worth a write.
    async fn settle(&mut self, state: TargetState) -> Result<(), WriteError> {
        let news = state.phase != self.state.phase
            || state.detail != self.state.detail
            || state.document != self.state.document;
        if news {
            let event = Event {
                at: Timestamp::now(),
                what: state.phase.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                document: state.document,
                detail: state.detail.clone(),
            };
            let name = self.target.name.to_string();
            let write = Write::Target { name, state: Box::new(state.clone()), event };
            self.aggregator.store.write(write).await?;
            log(&self.target, &self.state, &state);
        }
        self.aggregator.show_target_state(&self.target, state.clone());
        self.state = state;
        Ok(())
    }
}

/// One line a change; the same words are not said twice.
fn log(target: &Target, before: &TargetState, state: &TargetState) {
    let (name, phase) = (target.name.as_str(), state.phase.as_str());
    let detail = state.detail.as_deref().unwrap_or_default();
    match state.phase {
        Phase::Registered => log::info!(
            target_name = name, parser = target.parser_url.as_str();
            "the cluster is registered"
        ),
        Phase::Waiting => log::info!(target_name = name, detail; "waiting"),
        Phase::Submitting if before.phase != Phase::Submitting => {
            log::info!(target_name = name, parser = target.parser_url.as_str(); "registering");
        }
        Phase::Submitting => {
            log::warn!(target_name = name, detail; "what became of the registration is not known yet");
        }
        Phase::Drifted => log::warn!(target_name = name, detail; "the registration has drifted"),
        Phase::Failing => log::warn!(target_name = name, detail; "not registered, trying again"),
        Phase::Refused | Phase::Foreign => {
            log::error!(target_name = name, phase, detail; "not registered, a person must act");
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
        }
    }
}
