//! What the aggregator is doing, in one line for the service manager: `systemctl status` shows it.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_daemon::notify::Notifier;
use tokio::time::{interval, sleep};

use crate::aggregator::Aggregator;
use crate::onboarding::state::Phase;
use crate::onboarding::state::infrastructure::InfrastructurePhase;

/// How often it is looked at without a change: nodes fall silent by themselves.
const INTERVAL: Duration = Duration::from_secs(15);

/// Changes come in flocks.
const GATHERING: Duration = Duration::from_millis(500);

/// Keeps the service manager informed, for as long as it is awaited.
pub async fn follow(aggregator: Arc<Aggregator>, notifier: Notifier) -> Infallible {
    let mut changes = aggregator.watch();
    let mut standings = aggregator.watch_standings();
    let mut ticks = interval(INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // The senders live as long as the aggregator, which this holds.
            _ = changes.changed() => {}
            _ = standings.changed() => {}
        }
        sleep(GATHERING).await;
        notifier.status(&Status::of(&aggregator).to_string());
    }
}

/// The longest reason that is shown: all of them are in one line.
const MAX_REASON_CHARS: usize = 160;

/// How the aggregator is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Why the store does not take what it is given.
    store_trouble: Option<String>,
    /// When the intake's certificate expired, if it has.
    expired: Option<Timestamp>,
    /// How many nodes are on the roll.
    nodes: usize,
    /// How many of them have been silent for too long.
    stale: usize,
    /// Why reports were refused lately, one line a node.
    refused: Vec<String>,
    /// Where each target stands.
    targets: Vec<TargetStatus>,
    /// Whether Kubernetes is silent, where it is asked.
    is_kubernetes_silent: bool,
    /// Whether this aggregator submits, of several that share a store.
    leads: bool,
}

/// Where a target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TargetStatus {
    name: String,
    phase: Phase,
    /// Why it is in this phase.
    why: Option<String>,
    infrastructure: InfrastructurePhase,
    /// Why its infrastructure is in its phase.
    infrastructure_why: Option<String>,
}

impl TargetStatus {
    /// Whether it does not go on, or not without a person.
    const fn is_in_trouble(&self) -> bool {
        self.infrastructure.wants_a_person()
            || matches!(
                self.phase,
                Phase::Refused | Phase::Failing | Phase::Contested | Phase::Foreign
            )
    }
}

impl fmt::Display for TargetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.phase)?;
        if !self.is_in_trouble() {
            return Ok(());
        }
        if !self.infrastructure.wants_a_person() {
            return why(f, self.why.as_deref());
        }
        write!(f, ", infrastructure {}", self.infrastructure)?;
        why(f, self.infrastructure_why.as_deref().or(self.why.as_deref()))
    }
}

/// A reason, if there is one, cut to its beginning.
fn why(f: &mut fmt::Formatter<'_>, words: Option<&str>) -> fmt::Result {
    let Some(words) = words else { return Ok(()) };
    match words.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => write!(f, ": {}…", words.get(..end).unwrap_or(words)),
        None => write!(f, ": {words}"),
    }
}

impl Status {
    /// As things stand now.
    pub fn of(aggregator: &Aggregator) -> Self {
        let now = Timestamp::now();
        let (nodes, silent) = {
            let roll = aggregator.roll();
            roll.shown().fold((0, 0), |(nodes, silent), (_, entry)| {
                (nodes + 1, silent + usize::from(aggregator.is_stale(entry, now)))
            })
        };
        let targets = aggregator.file.aios_targets().map(|target| {
            let state = aggregator.standing(target).state;
            TargetStatus {
                name: target.name.to_string(),
                phase: state.observed_phase(),
                why: state.detail,
                infrastructure: state.infrastructure.phase,
                infrastructure_why: state.infrastructure.detail,
            }
        });
        Self {
            store_trouble: aggregator.store_trouble(),
            expired: aggregator.metrics.intake_expired(now),
            nodes,
            stale: silent,
            refused: aggregator.conflicts(now),
            targets: targets.collect(),
            is_kubernetes_silent: aggregator.nodes.failing().is_some(),
            leads: aggregator.leadership.is_held(),
        }
    }
}

/// What is in need of a person comes first: the line may be cut.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(trouble) = &self.store_trouble {
            f.write_str("nothing can be stored")?;
            why(f, Some(trouble))?;
            f.write_str("; ")?;
        }
        if let Some(at) = self.expired {
            write!(f, "the intake's certificate expired at {at}; ")?;
        }
        let (in_trouble, well): (Vec<_>, Vec<_>) =
            self.targets.iter().partition(|target| target.is_in_trouble());
        for target in in_trouble {
            write!(f, "{target}; ")?;
        }
        if let Some(first) = self.refused.first() {
            let many = self.refused.len();
            write!(f, "{many} {} refused", if many == 1 { "node" } else { "nodes" })?;
            why(f, Some(first))?;
            f.write_str("; ")?;
        }
        if self.is_kubernetes_silent {
            f.write_str("Kubernetes does not tell its Nodes; ")?;
        }
        write!(f, "{} {}", self.nodes, if self.nodes == 1 { "node" } else { "nodes" })?;
        if self.stale > 0 {
            write!(f, ", {} stale", self.stale)?;
        }
        for target in well {
            write!(f, "; {target}")?;
        }
        if !self.leads {
            f.write_str("; another aggregator leads")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_says_it_all() {
        let quiet = Status {
            store_trouble: None,
            expired: None,
            nodes: 12,
            stale: 0,
            refused: Vec::new(),
            targets: Vec::new(),
            is_kubernetes_silent: false,
            leads: true,
        };
        let target = |name: &str, phase, infrastructure| TargetStatus {
            name: name.to_owned(),
            phase,
            why: Some("its words".to_owned()),
            infrastructure,
            infrastructure_why: None,
        };
        let refused = |count| (1..=count).map(|n| format!("n{n} is another machine")).collect();
        let targets = vec![
            target("fine", Phase::Registered, InfrastructurePhase::Created),
            target("other", Phase::Refused, InfrastructurePhase::None),
        ];
        let failed = TargetStatus {
            infrastructure_why: Some("no room".to_owned()),
            ..target("aios", Phase::Registered, InfrastructurePhase::Failed)
        };
        for (status, expected) in [
            (quiet.clone(), "12 nodes".to_owned()),
            (Status { nodes: 0, ..quiet.clone() }, "0 nodes".to_owned()),
            (Status { nodes: 1, stale: 1, ..quiet.clone() }, "1 node, 1 stale".to_owned()),
            (
                Status { targets: targets.clone(), ..quiet.clone() },
                "other refused: its words; 12 nodes; fine registered".to_owned(),
            ),
            (
                Status { targets: vec![failed], ..quiet.clone() },
                "aios registered, infrastructure failed: no room; 12 nodes".to_owned(),
            ),
            (
                Status { refused: refused(1), ..quiet.clone() },
                "1 node refused: n1 is another machine; 12 nodes".to_owned(),
            ),
            (
                Status { store_trouble: Some("ä".repeat(200)), ..quiet.clone() },
                format!("nothing can be stored: {}…; 12 nodes", "ä".repeat(160)),
            ),
            (
                Status {
                    store_trouble: Some("disk full".to_owned()),
                    expired: Some(Timestamp::UNIX_EPOCH),
                    refused: refused(2),
                    targets,
                    is_kubernetes_silent: true,
                    leads: false,
                    ..quiet
                },
                "nothing can be stored: disk full; the intake's certificate expired at 1970-01-01T00:00:00Z; \
                 other refused: its words; 2 nodes refused: n1 is another machine; \
                 Kubernetes does not tell its Nodes; 12 nodes; fine registered; another aggregator leads"
                    .to_owned(),
            ),
        ] {
            assert_eq!(status.to_string(), expected);
        }
    }
}
