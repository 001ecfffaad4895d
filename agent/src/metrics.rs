//! What the agent tells of its own work at `/metrics`. Capacity is not among it: that is in the
//! report.

use std::time::{Duration, SystemTime};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry,
};
use rollcall_report::{Inventory, Subject};

/// What came of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The aggregator took it.
    Accepted,
    /// The aggregator said no.
    Refused,
    /// No answer came, or none that a sound aggregator gives.
    Failed,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The agent's metrics. Every series is there from the start, so that a rate never misses the
/// first event.
#[derive(Debug, Clone)]
pub struct Metrics {
    probe_failed: IntGaugeVec,
    probe_duration: Histogram,
    reports: IntCounterVec,
    last_accepted: Gauge,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When the registry holds metrics of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let build_info = GaugeVec::new(
            Opts::new("rollcall_agent_build_info", "The running agent's version; always 1."),
            &["version"],
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let metrics = Self {
            probe_failed: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_probe_failed",
                    "Whether the last probe of a subject failed, wholly or in part.",
                ),
                &["subject"],
            )?,
            probe_duration: Histogram::with_opts(HistogramOpts::new(
                "rollcall_agent_probe_duration_seconds",
                "Time that a probe of all subjects took.",
            ))?,
            reports: IntCounterVec::new(
                Opts::new("rollcall_agent_reports_total", "Reports, by what came of them."),
                &["outcome"],
            )?,
            // 0 before the first: an alert on the time since then fires for a node that never got
            // through, where a missing series would keep it silent.
            last_accepted: Gauge::new(
                "rollcall_agent_last_accepted_report_timestamp_seconds",
                "When the aggregator last took a report, in seconds since the epoch; 0: not yet.",
            )?,
        };
        for subject in Subject::ALL {
            metrics.probe_failed.with_label_values(&[subject.as_str()]).set(0);
        }
        for outcome in Outcome::ALL {
            metrics.reports.with_label_values(&[outcome.as_str()]).reset();
        }
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(metrics.probe_failed.clone()))?;
        registry.register(Box::new(metrics.probe_duration.clone()))?;
        registry.register(Box::new(metrics.reports.clone()))?;
        registry.register(Box::new(metrics.last_accepted.clone()))?;
        Ok(metrics)
    }

    /// Notes a probe.
    pub fn probed(&self, inventory: &Inventory, took: Duration) {
        self.probe_duration.observe(took.as_secs_f64());
        let failures = inventory.failures();
        for subject in Subject::ALL {
            let failed = failures.iter().any(|(failed, _)| *failed == subject);
            self.probe_failed.with_label_values(&[subject.as_str()]).set(failed.into());
        }
    }

    /// Notes what came of a report.
    pub fn reported(&self, outcome: Outcome) {
        self.reports.with_label_values(&[outcome.as_str()]).inc();
        if outcome == Outcome::Accepted {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            self.last_accepted.set(now.unwrap_or_default().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use rollcall_report::Reading;

    use super::*;

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).expect("encodes")
    }

    #[test]
    fn every_series_is_there_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("a new registry is empty");
        let text = text(&registry);
        for line in [
            concat!("rollcall_agent_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "rollcall_agent_probe_failed{subject=\"machine\"} 0",
            "rollcall_agent_probe_failed{subject=\"gpus\"} 0",
            "rollcall_agent_probe_duration_seconds_count 0",
            "rollcall_agent_reports_total{outcome=\"accepted\"} 0",
            "rollcall_agent_reports_total{outcome=\"refused\"} 0",
            "rollcall_agent_reports_total{outcome=\"failed\"} 0",
            "rollcall_agent_last_accepted_report_timestamp_seconds 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        drop(metrics);
    }

    #[test]
    fn probes_and_reports_are_noted() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("a new registry is empty");
        let mut inventory = Inventory {
            machine: Reading::Absent,
            cpu: Reading::failed("no CPU"),
            memory: Reading::Absent,
            swap: Reading::Absent,
            disks: Reading::Absent,
            nics: Reading::Absent,
            gpus: Reading::Absent,
        };
        let failed = "rollcall_agent_probe_failed{subject=\"cpu\"} 1";
        metrics.probed(&inventory, Duration::from_millis(20));
        assert!(text(&registry).contains(failed));
        inventory.cpu = Reading::Absent;
        metrics.probed(&inventory, Duration::from_millis(20));
        assert!(!text(&registry).contains(failed), "a recovery shows");
        metrics.reported(Outcome::Failed);
        let last_accepted = "rollcall_agent_last_accepted_report_timestamp_seconds 0\n";
        assert!(text(&registry).contains(last_accepted), "a failure is no acceptance");
        metrics.reported(Outcome::Accepted);
        let text = text(&registry);
        assert!(!text.contains(last_accepted), "{text}");
        assert!(text.contains("rollcall_agent_reports_total{outcome=\"accepted\"} 1"), "{text}");
        assert!(text.contains("rollcall_agent_probe_duration_seconds_count 2"), "{text}");
    }
}
