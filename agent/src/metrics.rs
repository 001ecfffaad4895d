//! What the agent tells Prometheus of its own work and of the machine.

mod capacity;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use rollcall_report::{Gpus, Inventory, NodeId, NodeName, NodeReport, Subject};

use capacity::Capacity;

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
    node_info: IntGaugeVec,
    /// What it shows: a scrape must not find it away while it stays the same.
    node: Arc<Mutex<Option<(NodeName, NodeId)>>>,
    capacity: Capacity,
    probe_failed: IntGaugeVec,
    failing_since: IntGaugeVec,
    gpus: IntGaugeVec,
    unknown_speeds: IntGauge,
    probe_duration: Histogram,
    reports: IntCounterVec,
    report_duration: Histogram,
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
            node_info: IntGaugeVec::new(
                Opts::new(
                    "rollcall_agent_node_info",
                    "A constant 1; which node this is, is in the labels.",
                ),
                &["node", "node_id"],
            )?,
            node: Arc::default(),
            capacity: Capacity::register(registry)?,
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
            report_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "rollcall_agent_report_duration_seconds",
                    "Time from the beginning of sending a report to its answer, or to its failure.",
                )
                // From an aggregator next door to the limit, which is 15 seconds and the files' time.
                .buckets(vec![
                    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
                ]),
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
        registry.register(Box::new(metrics.report_duration.clone()))?;
        registry.register(Box::new(metrics.node_info.clone()))?;
        registry.register(Box::new(metrics.last_accepted.clone()))?;
        registry.register(Box::new(metrics.certificate_expires.clone()))?;
        Ok(metrics)
    }

    /// Notes which node this is.
    pub fn node(&self, name: &NodeName, id: &NodeId) {
        let now = (name.clone(), id.clone());
        let mut known = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&now) {
            self.node_info.reset();
            self.node_info.with_label_values(&[name.as_str(), id.as_str()]).set(1);
            *known = Some(now);
        }
    }

    /// Notes a probe.
    pub fn probed(&self, inventory: &Inventory, took: Duration) {
        self.probe_duration.observe(took.as_secs_f64());
        self.capacity.show(inventory);
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
        for (state, count) in states(report.inventory.gpus.known()) {
            // What is not known has no series: a 0 would be taken for an answer.
            match count {
                Some(count) => self.gpus.with_label_values(&[state]).set(count),
                // There may be none already.
                None => drop(self.gpus.remove_label_values(&[state])),
            }
        }
    }

    /// Notes until when this node's certificate is valid, where it has one.
    pub fn certificate_expires(&self, until: Option<Timestamp>) {
        if let Some(until) = until {
            self.certificate_expires.with_label_values(&["client"]).set(until.as_second());
        }
    }

    /// Notes what came of a report, and how long that took.
    pub fn reported(&self, outcome: Outcome, took: Duration) {
        self.report_duration.observe(took.as_secs_f64());
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

/// How many GPUs are in which state; `None`: that is not known.
fn states(gpus: Option<&Gpus>) -> [(&'static str, Option<i64>); 5] {
    let names = ["expected", "usable", "lost", "passed_through", "unmeasured"];
    let Some(gpus) = gpus else { return names.map(|name| (name, None)) };
    let nvidia = gpus.nvidia_driver.known().map_or(0, |driver| driver.gpus.len());
    let amd = gpus.amd.known().map_or(0, Vec::len);
    let answering = gpus.amd.known().into_iter().flatten();
    let answering = answering.filter(|gpu| gpu.memory_bytes.failure().is_none()).count();
    let on_bus = gpus.nvidia_pci_devices.known().copied();
    let is_bus_known = gpus.nvidia_pci_devices.failure().is_none();
    let does_nvidia_answer = gpus.nvidia_driver.failure().is_none();
    let [expected, usable, lost, passed_through, unmeasured] = names;
    [
        (expected, on_bus.map(|on_bus| i64::from(on_bus) + number(amd))),
        (
            usable,
            (does_nvidia_answer && gpus.amd.failure().is_none())
                .then(|| number(nvidia) + number(answering)),
        ),
        (lost, (does_nvidia_answer && is_bus_known).then(|| number(gpus.lost.len()))),
        (passed_through, is_bus_known.then_some(gpus.passed_through.into())),
        (unmeasured, is_bus_known.then(|| number(gpus.unmeasured.len()))),
    ]
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;
    use rollcall_report::{NicKind, Reading};

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
            "rollcall_agent_report_duration_seconds_count 0",
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
            cpu: Reading::failed("no CPU").into(),
            memory: Reading::Absent,
            swap: Reading::Absent,
            disks: Reading::Absent.into(),
            nics: Reading::Absent.into(),
            gpus: Reading::Absent,
        };
        let failed = "rollcall_agent_probe_failed{subject=\"cpu\"} 1";
        metrics.probed(&inventory, Duration::from_millis(20));
        assert!(text(&registry).contains(failed));
        inventory.cpu = Reading::Absent.into();
        metrics.probed(&inventory, Duration::from_millis(20));
        assert!(!text(&registry).contains(failed), "a recovery shows");
        metrics.reported(Outcome::Failed, Duration::from_secs(15));
        let last_accepted = "rollcall_agent_last_accepted_report_timestamp_seconds 0\n";
        assert!(text(&registry).contains(last_accepted), "a failure is no acceptance");
        metrics.reported(Outcome::Accepted, Duration::from_millis(4));
        let text = text(&registry);
        assert!(!text.contains(last_accepted), "{text}");
        assert!(text.contains("rollcall_agent_reports_total{outcome=\"accepted\"} 1"), "{text}");
        assert!(text.contains("rollcall_agent_probe_duration_seconds_count 2"), "{text}");
        let within = "rollcall_agent_report_duration_seconds_bucket{le=\"0.005\"} 1";
        assert!(text.contains(within), "{text}");
        assert!(text.contains("rollcall_agent_report_duration_seconds_count 2"), "{text}");
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

    #[test]
    fn capacity_is_what_the_last_probe_saw() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("a new registry is empty");
        let names = [
            "rollcall_agent_cpus",
            "rollcall_agent_memory_bytes",
            "rollcall_agent_swap_bytes",
            "rollcall_agent_disks",
            "rollcall_agent_disk_bytes",
            "rollcall_agent_links",
            "rollcall_agent_link_bytes_per_second",
            "rollcall_agent_gpu_models",
        ];
        let shown = || {
            let text = text(&registry);
            let is_capacity =
                |line: &&str| names.contains(&line.split([' ', '{']).next().unwrap_or_default());
            text.lines().filter(is_capacity).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(shown(), [] as [&str; 0], "nothing is known before the first probe");
        let example = include_str!("../../report/examples/v1-health.json");
        let report: NodeReport = serde_json::from_str(example).expect("a report");
        let probe = |inventory: &Inventory| metrics.probed(inventory, Duration::ZERO);
        probe(&report.inventory);
        let all = shown();
        for name in names {
            assert!(all.iter().any(|line| line.starts_with(name)), "{name} in {all:?}");
        }
        for line in ["rollcall_agent_cpus 16", "rollcall_agent_memory_bytes 540654878720"] {
            assert!(all.iter().any(|shown| shown == line), "{line} in {all:?}");
        }
        let lacks = |change: &dyn Fn(&mut Inventory), missing: &[&str]| {
            let mut inventory = report.inventory.clone();
            change(&mut inventory);
            probe(&inventory);
            let is_missing = |line: &&String| {
                missing.contains(&line.split([' ', '{']).next().unwrap_or_default())
            };
            let expected: Vec<&String> = all.iter().filter(|line| !is_missing(line)).collect();
            assert_eq!(shown().iter().collect::<Vec<_>>(), expected, "without {missing:?}");
        };
        lacks(&|it| it.cpu = Reading::failed("EIO").into(), &names[..1]);
        lacks(&|it| it.memory = Reading::failed("EIO"), &names[1..2]);
        lacks(&|it| it.swap = Reading::failed("EIO"), &names[2..3]);
        lacks(&|it| it.disks = Reading::failed("EIO").into(), &names[3..5]);
        let size = |it: &mut Inventory| {
            let Reading::Known(disks) = &mut *it.disks else { panic!("no disks") };
            disks[0].size_bytes = Reading::failed("EIO");
        };
        lacks(&size, &names[4..5]);
        lacks(&|it| it.nics = Reading::failed("EIO").into(), &names[5..7]);
        let undecided = |it: &mut Inventory| {
            let Reading::Known(nics) = &mut *it.nics else { panic!("no interfaces") };
            nics[0].kind = NicKind::Other;
            nics[0].speed_mbps = Reading::failed("EIO");
        };
        lacks(&undecided, &names[5..7]);
        lacks(&|it| it.gpus = Reading::failed("EIO"), &names[7..]);
        probe(&report.inventory);
        assert_eq!(shown(), all, "all is read again");
    }

    #[test]
    fn a_node_has_one_identity() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("a new registry is empty");
        let name: NodeName = "node-1".parse().expect("a name");
        for id in ["one", "two"] {
            metrics.node(&name, &id.parse().expect("an id"));
            let text = text(&registry);
            let lines = text.lines().filter(|line| line.starts_with("rollcall_agent_node_info"));
            let expected =
                format!("rollcall_agent_node_info{{node=\"node-1\",node_id=\"{id}\"}} 1");
            assert_eq!(lines.collect::<Vec<_>>(), [expected]);
        }
    }
}
