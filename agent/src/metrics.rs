//! What the agent tells of its own work at `/metrics`. Capacity is not among it: that is in the
//! report.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use rollcall_report::{Inventory, NodeReport, Subject};

use crate::stamp::plan::{Conflict, Stamped};
use crate::stamp::trouble::Kind;

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
    failing_since: IntGaugeVec,
    gpus: IntGaugeVec,
    unknown_speeds: IntGauge,
    probe_duration: Histogram,
    reports: IntCounterVec,
    last_accepted: Gauge,
    certificate_expires: IntGaugeVec,
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
            failing_since: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_probe_failing_since_timestamp_seconds",
                    "Since when a subject's probe fails, wholly or in part, in seconds since the epoch; 0: it works.",
                ),
                &["subject"],
            )?,
            gpus: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_gpus",
                    "GPUs: expected (on the bus), usable (their driver answers), lost (on the bus, and it does not), passed_through (to virtual machines), unmeasured (accelerators of other kinds).",
                ),
                &["state"],
            )?,
            unknown_speeds: IntGauge::new(
                "rollcall_agent_unknown_link_speeds",
                "Interfaces whose link may be up and whose speed is not known.",
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
            certificate_expires: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_certificate_expires_timestamp_seconds",
                    "Until when a certificate is valid: client, the one that this node reports with.",
                ),
                &["certificate"],
            )?,
        };
        for subject in Subject::ALL {
            metrics.probe_failed.with_label_values(&[subject.as_str()]).set(0);
            metrics.failing_since.with_label_values(&[subject.as_str()]).set(0);
        }
        for outcome in Outcome::ALL {
            metrics.reports.with_label_values(&[outcome.as_str()]).reset();
        }
        registry.register(Box::new(build_info))?;
        registry.register(Box::new(metrics.probe_failed.clone()))?;
        registry.register(Box::new(metrics.failing_since.clone()))?;
        registry.register(Box::new(metrics.gpus.clone()))?;
        registry.register(Box::new(metrics.unknown_speeds.clone()))?;
        registry.register(Box::new(metrics.probe_duration.clone()))?;
        registry.register(Box::new(metrics.reports.clone()))?;
        registry.register(Box::new(metrics.last_accepted.clone()))?;
        registry.register(Box::new(metrics.certificate_expires.clone()))?;
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

    /// Notes how well the inventory is known.
    pub fn noted(&self, report: &NodeReport) {
        let health = report.health.clone().unwrap_or_default();
        for subject in Subject::ALL {
            let since = health.failing_since.get(&subject).copied().unwrap_or(0);
            let gauge = self.failing_since.with_label_values(&[subject.as_str()]);
            gauge.set(i64::try_from(since).unwrap_or(i64::MAX));
        }
        self.unknown_speeds.set(number(health.unknown_speeds.len()));
        // What is not known has no series: a 0 would be taken for an answer.
        self.gpus.reset();
        let Some(gpus) = report.inventory.gpus.known() else { return };
        let set = |state: &str, count: i64| self.gpus.with_label_values(&[state]).set(count);
        let nvidia = gpus.nvidia_driver.known().map(|driver| driver.gpus.len());
        let amd = gpus.amd.known().map_or(0, Vec::len);
        let answering = gpus.amd.known().into_iter().flatten();
        let answering = answering.filter(|gpu| gpu.memory_bytes.failure().is_none()).count();
        if let Some(&on_bus) = gpus.nvidia_pci_devices.known() {
            set("expected", i64::from(on_bus) + number(amd));
        }
        let is_bus_known = gpus.nvidia_pci_devices.failure().is_none();
        if gpus.nvidia_driver.failure().is_none() && gpus.amd.failure().is_none() {
            set("usable", number(nvidia.unwrap_or(0)) + number(answering));
        }
        if gpus.nvidia_driver.failure().is_none() && is_bus_known {
            set("lost", number(gpus.lost.len()));
        }
        if is_bus_known {
            set("passed_through", i64::from(gpus.passed_through));
            set("unmeasured", number(gpus.unmeasured.len()));
        }
    }

    /// Notes until when this node's certificate is valid, where it has one.
    pub fn certificate_expires(&self, until: Option<Timestamp>) {
        if let Some(until) = until {
            self.certificate_expires.with_label_values(&["client"]).set(until.as_second());
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

/// Metrics of label stamping. Every series is there from the start, and none where no labels are
/// stamped.
#[derive(Debug, Clone)]
pub struct StampMetrics {
    stamped: IntGauge,
    conflicts: IntGaugeVec,
    trouble: IntCounterVec,
}

impl StampMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    ///
    /// When the registry holds metrics of these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            stamped: IntGauge::new(
                "rollcall_agent_labels_stamped",
                "Whether the Node, as last seen, carries the labels that the aggregator accepted.",
            )?,
            conflicts: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_label_conflicts",
                    "Whether the Node carries another label than the one to stamp, which a person must settle.",
                ),
                &["label"],
            )?,
            trouble: IntCounterVec::new(
                Opts::new(
                    "rollcall_agent_kubernetes_trouble_total",
                    "Requests to the Kubernetes API that failed, by kind.",
                ),
                &["kind"],
            )?,
        };
        for label in Stamped::ALL {
            metrics.conflicts.with_label_values(&[label.key()]).set(0);
        }
        for kind in Kind::COUNTED {
            metrics.trouble.with_label_values(&[kind.as_str()]).reset();
        }
        registry.register(Box::new(metrics.stamped.clone()))?;
        registry.register(Box::new(metrics.conflicts.clone()))?;
        registry.register(Box::new(metrics.trouble.clone()))?;
        Ok(metrics)
    }

    /// Notes how the Node's labels are.
    pub fn planned(&self, is_stamped: bool, conflicts: &[Conflict]) {
        self.stamped.set(is_stamped.into());
        for label in Stamped::ALL {
            let is_in_conflict = conflicts.iter().any(|conflict| conflict.label == label);
            self.conflicts.with_label_values(&[label.key()]).set(is_in_conflict.into());
        }
    }

    /// Notes a request that failed.
    pub fn trouble(&self, kind: Kind) {
        self.trouble.with_label_values(&[kind.as_str()]).inc();
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
            "rollcall_agent_probe_failing_since_timestamp_seconds{subject=\"gpus\"} 0",
            "rollcall_agent_unknown_link_speeds 0",
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
    fn stamping_is_noted() {
        let registry = Registry::new();
        let metrics = StampMetrics::register(&registry).expect("a new registry is empty");
        let lines = [
            "rollcall_agent_labels_stamped 0",
            "rollcall_agent_label_conflicts{label=\"nodeID\"} 0",
            "rollcall_agent_label_conflicts{label=\"kubernetes.region.unikorn-cloud.org/node-class\"} 0",
            "rollcall_agent_kubernetes_trouble_total{kind=\"unreachable\"} 0",
            "rollcall_agent_kubernetes_trouble_total{kind=\"forbidden\"} 0",
        ];
        let holds = |line: &str| text(&registry).lines().any(|found| found == line);
        for line in lines {
            assert!(holds(line), "{line} in\n{}", text(&registry));
        }
        metrics.planned(true, &[]);
        assert!(holds("rollcall_agent_labels_stamped 1"));
        let conflict = Conflict {
            label: Stamped::NodeId,
            wanted: "n1".to_owned(),
            found: "blue".to_owned(),
            managers: vec![],
        };
        metrics.planned(false, &[conflict]);
        metrics.trouble(Kind::Forbidden);
        for line in [
            "rollcall_agent_labels_stamped 0",
            "rollcall_agent_label_conflicts{label=\"nodeID\"} 1",
            "rollcall_agent_label_conflicts{label=\"kubernetes.region.unikorn-cloud.org/node-class\"} 0",
            "rollcall_agent_kubernetes_trouble_total{kind=\"forbidden\"} 1",
        ] {
            assert!(holds(line), "{line} in\n{}", text(&registry));
        }
        metrics.planned(true, &[]);
        assert!(holds("rollcall_agent_label_conflicts{label=\"nodeID\"} 0"), "settled");
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

    #[test]
    fn what_is_not_known_of_gpus_is_no_zero() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("a new registry is empty");
        let example = include_str!("../../report/examples/v1-health.json");
        let mut report: NodeReport = serde_json::from_str(example).expect("a report");
        let states = |report: &NodeReport| {
            metrics.noted(report);
            let text = text(&registry);
            let lines =
                text.lines().filter_map(|line| line.strip_prefix("rollcall_agent_gpus{state="));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let all = [
            r#""expected"} 6"#,
            r#""lost"} 1"#,
            r#""passed_through"} 0"#,
            r#""unmeasured"} 0"#,
            r#""usable"} 6"#,
        ];
        assert_eq!(states(&report), all);
        let Reading::Known(gpus) = &mut report.inventory.gpus else { panic!("no GPUs") };
        gpus.nvidia_pci_devices = Reading::failed("EIO");
        assert_eq!(states(&report), [r#""usable"} 6"#], "the bus alone tells the others");
        let Reading::Known(gpus) = &mut report.inventory.gpus else { panic!("no GPUs") };
        gpus.amd = Reading::failed("EIO");
        assert_eq!(states(&report), [] as [&str; 0]);
    }
}
