//! What Prometheus is told of each target.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use crate::cluster_file::{AiosTarget, TargetName};
use crate::onboarding::expected::Census;
use crate::onboarding::state::infrastructure::InfrastructurePhase;
use crate::onboarding::state::{Phase, TargetState};
use crate::targets::{Held, RequestKind, Verdict};

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
    different_fields: IntGaugeVec,
    drifts: IntCounterVec,
    last_agreed: GaugeVec,
    durations: HistogramVec,
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
        let drifts = IntCounterVec::new(
            opts(
                "drifts_total",
                "Times that an entry which was right was found wrong, or gone, by somebody else's doing.",
            ),
            &["target"],
        )?;
        registry.register(Box::new(drifts.clone()))?;
        let durations = HistogramOpts::new(
            "rollcall_aggregator_target_request_duration_seconds",
            "Time from a request to a target's services to its whole reply, or to its failure.",
        )
        // From a service next door to a parser that works for long.
        .buckets(vec![
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
        ]);
        let durations = HistogramVec::new(durations, &["target", "request"])?;
        registry.register(Box::new(durations.clone()))?;
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
            different_fields: gauge(
                "different_fields",
                "Fields in which a target's entry differed from what it should be when it was last read.",
                &["target"],
            )?,
            drifts,
            last_agreed: time(
                "last_agreed_timestamp_seconds",
                "When a target's entry was last read and was right; 0: not since the start.",
            )?,
            durations,
        })
    }

    pub(super) fn begin(&self, target: &TargetName) {
        let target = target.as_str();
        for request in RequestKind::CHANGES {
            for outcome in Verdict::NAMES {
                self.requests.with_label_values(&[target, request.as_str(), outcome]).reset();
            }
        }
        self.drifts.with_label_values(&[target]).reset();
        self.last_agreed.with_label_values(&[target]).set(0.0);
    }

    pub(super) fn seen(&self, target: &TargetName, held: &Held, now: Timestamp) {
        match held {
            Held::Ours(difference) | Held::Foreign(difference) => {
                let count = i64::try_from(difference.fields.len()).unwrap_or(i64::MAX);
                self.different_fields.with_label_values(&[target.as_str()]).set(count);
                if matches!(held, Held::Ours(_)) && difference.is_none() {
                    self.last_agreed.with_label_values(&[target.as_str()]).set(seconds(now));
                }
            }
            Held::Absent => self.unseen(target),
            // What was seen before stands.
            Held::NotRead | Held::Unreadable { .. } => {}
        }
    }

    pub(super) fn unseen(&self, target: &TargetName) {
        // There may be no such series.
        let _none = self.different_fields.remove_label_values(&[target.as_str()]);
    }

    pub(super) fn drifted(&self, target: &TargetName) {
        self.drifts.with_label_values(&[target.as_str()]).inc();
    }

    pub(super) fn request_durations(&self, target: &AiosTarget) -> RequestDurations {
        let durations =
            RequestDurations { target: target.name.to_string(), durations: self.durations.clone() };
        let has_infrastructure = target.infrastructure.is_some();
        for request in RequestKind::ALL {
            if has_infrastructure || !request.is_of_infrastructure() {
                let _there = durations.durations.with_label_values(&durations.labels(request));
            }
        }
        durations
    }

    pub(super) fn census(&self, target: &TargetName, census: &Census) {
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

    pub(super) fn request(&self, target: &TargetName, what: RequestKind, verdict: &Verdict) {
        let labels = [target.as_str(), what.as_str(), verdict.as_str()];
        self.requests.with_label_values(&labels).inc();
    }
}

/// Notes how long the requests to one target take.
#[derive(Debug, Clone)]
pub struct RequestDurations {
    target: String,
    durations: HistogramVec,
}

impl RequestDurations {
    /// Notes how long a request took, however it ended.
    pub fn took(&self, request: RequestKind, took: Duration) {
        self.durations.with_label_values(&self.labels(request)).observe(took.as_secs_f64());
    }

    fn labels(&self, request: RequestKind) -> [&str; 2] {
        [&self.target, request.as_str()]
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
