//! What Prometheus is told. Labels are bounded: targets, phases, codes, and the names of the nodes on
//! the roll, which are checked when they are admitted; never a node's own words. A node that leaves
//! the roll takes its series with it.

mod nodes;
mod targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rollcall_daemon::process;

use crate::cluster_file::TargetName;
use crate::onboarding::expected::Census;
use crate::onboarding::state::TargetState;
use crate::targets::Verdict;
use crate::tls::handshake::Reason;

pub use nodes::NodeFigures;
use nodes::NodeGauges;
use targets::TargetGauges;

/// The certificate of the intake, among those whose end is noted.
const INTAKE: &str = "intake";

/// The aggregator's metrics and the registry that they are in.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    reports: IntCounterVec,
    intake_seconds: Histogram,
    nodes: IntGaugeVec,
    stale_nodes: IntGauge,
    refused_nodes: IntGauge,
    leads: IntGauge,
    handshakes_failed: IntCounterVec,
    certificate_expires: IntGaugeVec,
    /// Until when the intake's certificate is valid, in seconds, once it is noted.
    intake_until: Arc<AtomicI64>,
    each_node: NodeGauges,
    kubernetes_nodes: IntGaugeVec,
    kubernetes_failing_since: IntGauge,
    targets: TargetGauges,
}

/// How many nodes are how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// In the document.
    pub complete: usize,
    /// Kept out of it, because a capacity is not known.
    pub incomplete: usize,
    /// Silent for too long; these are counted above too.
    pub stale: usize,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    ///
    /// When two metrics have one name; no input can cause it.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        process::register(&registry)?;
        let build_info = IntGaugeVec::new(
            Opts::new(
                "rollcall_aggregator_build_info",
                "A constant 1; the version is in the label.",
            ),
            &["version"],
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build_info))?;

        let reports = IntCounterVec::new(
            Opts::new(
                "rollcall_aggregator_reports_total",
                "Reports by outcome: changed, unchanged, or why they were refused.",
            ),
            &["outcome"],
        )?;
        let intake_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "rollcall_aggregator_report_duration_seconds",
                "Time from a report's last byte to its answer.",
            )
            .buckets(vec![0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0]),
        )?;
        let nodes = IntGaugeVec::new(
            Opts::new(
                "rollcall_aggregator_nodes",
                "Nodes on the roll, by whether their capacities are all known.",
            ),
            &["state"],
        )?;
        let stale_nodes = IntGauge::new(
            "rollcall_aggregator_stale_nodes",
            "Nodes on the roll that have been silent for three intervals.",
        )?;
        registry.register(Box::new(reports.clone()))?;
        registry.register(Box::new(intake_seconds.clone()))?;
        registry.register(Box::new(nodes.clone()))?;
        registry.register(Box::new(stale_nodes.clone()))?;
        let refused_nodes = IntGauge::new(
            "rollcall_aggregator_refused_nodes",
            "Nodes whose reports are refused, because their name, id or machine is another's.",
        )?;
        registry.register(Box::new(refused_nodes.clone()))?;
        let leads = IntGauge::new(
            "rollcall_aggregator_leads",
            "1 where this aggregator submits, of several that share a store.",
        )?;
        registry.register(Box::new(leads.clone()))?;
        let handshakes_failed = IntCounterVec::new(
            Opts::new(
                "rollcall_aggregator_tls_handshakes_failed_total",
                "TLS handshakes of the intake that came to nothing, by reason.",
            ),
            &["reason"],
        )?;
        let certificate_expires = IntGaugeVec::new(
            Opts::new(
                "rollcall_aggregator_certificate_expires_timestamp_seconds",
                "Until when a certificate is valid: intake, the one that is served; client-ca, the first to end of the CAs of clients' certificates.",
            ),
            &["certificate"],
        )?;
        registry.register(Box::new(handshakes_failed.clone()))?;
        registry.register(Box::new(certificate_expires.clone()))?;
        let kubernetes_nodes = IntGaugeVec::new(
            Opts::new(
                "rollcall_aggregator_kubernetes_nodes",
                "Nodes that Kubernetes has, once it has told them.",
            ),
            &[],
        )?;
        let kubernetes_failing_since = IntGauge::new(
            "rollcall_aggregator_kubernetes_nodes_failing_since_timestamp_seconds",
            "Since when Kubernetes does not tell its Nodes; 0 while it does, and where it is not asked.",
        )?;
        registry.register(Box::new(kubernetes_nodes.clone()))?;
        registry.register(Box::new(kubernetes_failing_since.clone()))?;
        let each_node = NodeGauges::new()?;
        registry.register(Box::new(each_node.clone()))?;
        let targets = TargetGauges::new(&registry)?;
        Ok(Self {
            registry,
            reports,
            intake_seconds,
            nodes,
            stale_nodes,
            refused_nodes,
            leads,
            handshakes_failed,
            certificate_expires,
            intake_until: Arc::new(AtomicI64::new(i64::MAX)),
            each_node,
            kubernetes_nodes,
            kubernetes_failing_since,
            targets,
        })
    }

    /// The registry that `/metrics` shows.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Notes how many nodes are refused.
    pub fn refused_nodes(&self, count: usize) {
        self.refused_nodes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes whether this aggregator leads.
    pub fn leads(&self, leads: bool) {
        self.leads.set(leads.into());
    }

    /// Shows every reason for which a handshake can come to nothing, so that a rate never misses the
    /// first: where there is TLS.
    pub fn handshakes(&self) {
        for reason in Reason::ALL {
            self.handshakes_failed.with_label_values(&[reason.as_str()]).reset();
        }
    }

    /// Counts a handshake that came to nothing.
    pub fn handshake_failed(&self, reason: Reason) {
        self.handshakes_failed.with_label_values(&[reason.as_str()]).inc();
    }

    /// Notes until when a certificate is valid: `intake` or `client-ca`.
    pub fn certificate_expires(&self, certificate: &'static str, until: Timestamp) {
        if certificate == INTAKE {
            self.intake_until.store(until.as_second(), Ordering::Relaxed);
        }
        self.certificate_expires.with_label_values(&[certificate]).set(until.as_second());
    }

    /// When the intake's certificate expired, if it has.
    pub fn intake_expired(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.intake_until.load(Ordering::Relaxed);
        Timestamp::from_second(until).ok().filter(|until| *until < now)
    }

    /// Counts a report by its outcome, a fixed word.
    pub fn report(&self, outcome: &'static str) {
        self.reports.with_label_values(&[outcome]).inc();
    }

    /// Notes how long a report took.
    pub fn report_took(&self, seconds: f64) {
        self.intake_seconds.observe(seconds);
    }

    /// Notes how many nodes are how.
    pub fn nodes(&self, counts: NodeCounts) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.nodes.with_label_values(&["complete"]).set(gauge(counts.complete));
        self.nodes.with_label_values(&["incomplete"]).set(gauge(counts.incomplete));
        self.stale_nodes.set(gauge(counts.stale));
    }

    /// Notes what each node on the roll holds; the others are forgotten.
    pub fn each_node<'a>(&self, nodes: impl Iterator<Item = NodeFigures<'a>>) {
        self.each_node.replace(nodes);
    }

    /// Notes how many Nodes Kubernetes has, where they are known, and since when it does not tell them.
    pub fn kubernetes_nodes(&self, known: Option<usize>, failing_since: Option<Timestamp>) {
        if let Some(count) = known {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.kubernetes_nodes.with_label_values(&[] as &[&str]).set(count);
        }
        self.kubernetes_failing_since.set(failing_since.map_or(0, Timestamp::as_second));
    }

    /// Notes which of the cluster's Nodes a target is to get; `None`: they are not known.
    pub fn census(&self, target: &TargetName, census: Option<&Census>) {
        self.targets.census(target, census);
    }

    /// Notes where a target stands.
    pub fn target(&self, target: &TargetName, state: &TargetState) {
        self.targets.show(target, state);
    }

    /// Notes how many nodes a target's entry holds that are not in our document.
    pub fn kept_nodes(&self, target: &TargetName, count: usize) {
        self.targets.kept_nodes(target, count);
    }

    /// Counts a request that was sent to change a target's entry: `create`, `update` or `remove`.
    pub fn request(&self, target: &TargetName, what: &str, verdict: &Verdict) {
        self.targets.request(target, what, verdict);
    }
}
