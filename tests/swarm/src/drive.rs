//! When which agent reports.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::connection::{Intake, Line};
use crate::options::Options;
use crate::report::{Template, Unusable};
use crate::tally::Tally;

/// How far an interval is from what it should be, at most.
const JITTER: f64 = 0.1;

/// All agents.
#[derive(Debug)]
pub(crate) struct Swarm {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    intake: Intake,
    template: Template,
    tally: Mutex<Tally>,
    /// The number of the next node that comes for one that leaves.
    next: Mutex<u32>,
}

/// An agent between two reports.
#[derive(Debug)]
struct Agent {
    number: u32,
    changes: u32,
    rounds: u32,
    rng: Rng,
}

impl Swarm {
    pub(crate) fn new(options: &Options, intake: Intake) -> Result<Self, std::io::Error> {
        let template = Template::new().map_err(|error: Unusable| std::io::Error::other(error))?;
        let after = u32::try_from(options.agents).ok().and_then(|n| options.first.checked_add(n));
        let after = after.ok_or_else(|| std::io::Error::other("there are not so many numbers"))?;
        let shared = Shared {
            options: options.clone(),
            intake,
            template,
            tally: Mutex::default(),
            next: Mutex::new(after),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What came of it so far.
    pub(crate) fn figures(&self) -> Value {
        self.shared.tally().figures(self.shared.options.agents)
    }

    /// Sends reports until the first bound is come to, and all are answered.
    pub(crate) async fn run(&self) {
        let Shared { options, .. } = &*self.shared;
        let numbers = (options.first..).take(options.agents);
        let agents = numbers.map(|number| Agent {
            number,
            changes: 0,
            rounds: 0,
            rng: Rng::with_seed(options.seed ^ (u64::from(number) << 32)),
        });
        let begun = Instant::now();
        let end = begun + options.duration;
        let mut under_way = JoinSet::new();
        if let Some(connections) = options.flat_out {
            let agents: VecDeque<Agent> = agents.collect();
            let waiting = Arc::new(Mutex::new(agents));
            for _ in 0..connections {
                let (shared, waiting) = (Arc::clone(&self.shared), Arc::clone(&waiting));
                under_way.spawn(async move { shared.flat_out(&waiting, end).await });
            }
        } else {
            for agent in agents {
                let shared = Arc::clone(&self.shared);
                under_way.spawn(async move { shared.at_intervals(agent, begun, end).await });
            }
        }
        while under_way.join_next().await.is_some() {}
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent that reports at every interval, over a connection of its own.
    async fn at_intervals(&self, mut agent: Agent, begun: Instant, end: Instant) {
        let Options { interval, burst, .. } = self.options;
        let mut line = Line::default();
        let mut due = begun + burst.unwrap_or(interval).mul_f64(agent.rng.f64());
        loop {
            // Its connection is kept to the end, as if it were to report once more.
            sleep_until(due.min(end)).await;
            if due >= end || !self.report(&mut agent, &mut line, due).await {
                break;
            }
            due += interval.mul_f64(1.0 + JITTER * (2.0 * agent.rng.f64() - 1.0));
        }
    }

    /// A connection over which the agent that has waited longest reports, again and again.
    async fn flat_out(&self, waiting: &Mutex<VecDeque<Agent>>, end: Instant) {
        let queue = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = Line::default();
        loop {
            let now = Instant::now();
            let Some(mut agent) = queue().pop_front().filter(|_| now < end) else { break };
            if self.report(&mut agent, &mut line, now).await {
                queue().push_back(agent);
            }
        }
    }

    /// Sends an agent's report; `false`: it has sent its last.
    async fn report(&self, agent: &mut Agent, line: &mut Line, due: Instant) -> bool {
        let Options { rounds, requests, churn, changed, .. } = self.options;
        if rounds.is_some_and(|rounds| agent.rounds >= rounds) || self.tally().sent >= requests {
            return false;
        }
        let is_first = agent.rounds == 0;
        agent.rounds += 1;
        let begun = Instant::now();
        {
            let mut tally = self.tally();
            tally.sends(begun, begun.saturating_duration_since(due));
            if !is_first && agent.rng.f64() < churn {
                let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
                (agent.number, agent.changes) = (*next, 0);
                *next = next.wrapping_add(1);
                tally.replaced += 1;
            } else if !is_first && agent.rng.f64() < changed {
                agent.changes = agent.changes.wrapping_add(1);
                tally.changed += 1;
            }
        }
        let report = self.template.report(agent.number, agent.changes);
        let made = line.made;
        let outcome = self.intake.post(line, report).await;
        let mut tally = self.tally();
        tally.connections += line.made - made;
        tally.ended(outcome, begun.elapsed());
        rounds.is_none_or(|rounds| agent.rounds < rounds)
    }
}
