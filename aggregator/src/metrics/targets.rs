//! What Prometheus is told of each target.

use jiff::Timestamp;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::cluster_file::TargetName;
use crate::onboarding::expected::Census;
use crate::onboarding::state::infrastructure::InfrastructurePhase;
use crate::onboarding::state::{Phase, TargetState};
use crate::targets::Verdict;

/// One series a target, or a few with fixed words.
#[derive(Debug, Clone)]
pub(super) struct TargetGauges {
    phase: IntGaugeVec,
    infrastructure: IntGaugeVec,
    since: GaugeVec,
    next_try: GaugeVec,
    reverts: IntGaugeVec,
    awaits_approval: IntGaugeVec,
    kept_nodes: IntGaugeVec,
    nodes: IntGaugeVec,
    requests: IntCounterVec,
}

impl TargetGauges {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let opts =
            |name: &str, help: &str| Opts::new(format!("rollcall_aggregator_target_{name}"), help);
        let gauge = |name, help, labels: &[&str]| {
            let gauge = IntGaugeVec::new(opts(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let time = |name, help| {
            let gauge = GaugeVec::new(opts(name, help), &["target"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let requests = IntCounterVec::new(
            opts(
                "requests_total",
                "Requests that change a target's entry (create, update, remove), by what the reply was worth.",
            ),
            &["target", "request", "outcome"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            phase: gauge(
                "phase",
                "1 for the phase that a target is in, 0 for the others.",
                &["target", "phase"],
            )?,
            infrastructure: gauge(
                "infrastructure_phase",
                "1 for the phase that the network's infrastructure is in, 0 for the others.",
                &["target", "phase"],
            )?,
            since: time("since_timestamp_seconds", "Since when a target is in its phase.")?,
            next_try: time(
                "next_try_timestamp_seconds",
                "When a target is looked at or tried again; 0 when something must change first.",
            )?,
            reverts: gauge(
                "reverts",
                "How often in a row somebody else has changed the entry.",
                &["target"],
            )?,
            awaits_approval: gauge(
                "awaits_approval",
                "1 while something waits for an operator's approval.",
                &["target"],
            )?,
            kept_nodes: gauge(
                "kept_nodes",
                "Nodes in a target's entry that are not in the document and not recorded as departed.",
                &["target"],
            )?,
            nodes: gauge(
                "nodes",
                "Nodes of Kubernetes by whether a target is to get them (expected, of which missing are not in its document) or not (left_out).",
                &["target", "state"],
            )?,
            requests,
        })
    }

    pub(super) fn census(&self, target: &TargetName, census: Option<&Census>) {
        let Some(census) = census else { return };
        for (state, count) in [
            ("expected", census.expected),
            ("missing", census.missing.len()),
            ("left_out", census.left_out.len()),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.nodes.with_label_values(&[target.as_str(), state]).set(count);
        }
    }

    pub(super) fn show(&self, target: &TargetName, state: &TargetState) {
        let target = target.as_str();
        for phase in Phase::ALL {
            let is_current = i64::from(phase == state.observed_phase());
            self.phase.with_label_values(&[target, phase.as_str()]).set(is_current);
        }
        for phase in InfrastructurePhase::ALL {
            let is_current = i64::from(phase == state.infrastructure.phase);
            self.infrastructure.with_label_values(&[target, phase.as_str()]).set(is_current);
        }
        let since = match state.observed_phase() {
            Phase::Failing => state.failing_since.unwrap_or(state.since),
            _ => state.since,
        };
        self.since.with_label_values(&[target]).set(seconds(since));
        self.next_try.with_label_values(&[target]).set(state.next_look().map_or(0.0, seconds));
        self.reverts.with_label_values(&[target]).set(state.past.reverts.into());
        self.awaits_approval.with_label_values(&[target]).set(i64::from(state.proposal.is_some()));
    }

    pub(super) fn kept_nodes(&self, target: &TargetName, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.kept_nodes.with_label_values(&[target.as_str()]).set(count);
    }

    pub(super) fn request(&self, target: &TargetName, what: &str, verdict: &Verdict) {
        self.requests.with_label_values(&[target.as_str(), what, verdict.as_str()]).inc();
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
