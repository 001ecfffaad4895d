//! What Prometheus is told. Labels are bounded: targets, phases, codes, and the names of the nodes on
//! the roll, which are checked when they are admitted; never a node's own words. A node that leaves
//! the roll takes its series with it.

mod models;
mod nodes;
mod store;
mod targets;
mod text;

use std::convert::Infallible;
use std::iter::once;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::stream;
use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rollcall_daemon::{observe, process};
use rollcall_report::RefusalCode;

use crate::cluster_file::{AiosTarget, TargetName};
use crate::onboarding::expected::Census;
use crate::onboarding::state::TargetState;
use crate::targets::{Held, RequestKind, Verdict};
use crate::tls::handshake::Reason;

pub use nodes::NodeFigures;
use nodes::NodeGauges;
pub use store::StoreMetrics;
pub use targets::RequestDurations;
use targets::TargetGauges;

/// The certificate of the intake, among those whose end is noted.
const INTAKE: &str = "intake";

/// The outcome of a report that changed something, and of one that did not.
const CHANGED: &str = "changed";
const UNCHANGED: &str = "unchanged";
/// Why the intake refuses reports.
const REFUSALS: [RefusalCode; 10] = [
    RefusalCode::CredentialsMissing,
    RefusalCode::CredentialsWrong,
    RefusalCode::Forbidden,
    RefusalCode::Malformed,
    RefusalCode::SchemaVersion,
    RefusalCode::Implausible,
    RefusalCode::IdentityConflict,
    RefusalCode::TooLarge,
    RefusalCode::TooSlow,
    RefusalCode::Unavailable,
];

/// The aggregator's metrics and the registry that they are in.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// All but what is told of each node.
    registry: Registry,
    cluster: IntGaugeVec,
    expected_nodes: IntGaugeVec,
    assembly: Histogram,
    store: Arc<StoreMetrics>,
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

/// Makes and registers metrics of the aggregator's own.
struct Make<'a> {
    registry: &'a Registry,
}

impl Make<'_> {
    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("rollcall_aggregator_{name}"), help)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts)?)
    }
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
        let made = Make { registry: &registry };
        let build_info =
            made.gauges("build_info", "A constant 1; the version is in the label.", &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let reports = made.counters(
            "reports_total",
            "Reports by outcome: changed, unchanged, or why they were refused.",
            &["outcome"],
        )?;
        for outcome in REFUSALS.map(RefusalCode::as_str).into_iter().chain([CHANGED, UNCHANGED]) {
            reports.with_label_values(&[outcome]).reset();
        }
        Ok(Self {
            cluster: made.gauges(
                "cluster_info",
                "A constant 1; which cluster it is, is in the label.",
                &["cluster"],
            )?,
            expected_nodes: made.gauges(
                "expected_nodes",
                "Nodes that are expected to report, where that is known.",
                &[],
            )?,
            assembly: made.histogram(
                "document_assembly_duration_seconds",
                "Time that making the document anew took, as far as it had changed.",
                // From one node to tens of thousands.
                &[0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0],
            )?,
            store: Arc::new(StoreMetrics::new(&registry)?),
            reports,
            intake_seconds: made.histogram(
                "report_duration_seconds",
                "Time from a report's last byte to its answer.",
                &[0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0],
            )?,
            nodes: made.gauges(
                "nodes",
                "Nodes on the roll, by whether their capacities are all known.",
                &["state"],
            )?,
            stale_nodes: made.gauge(
                "stale_nodes",
                "Nodes on the roll that have been silent for three intervals; where replicas share a store, for up to five and a half minutes more.",
            )?,
            refused_nodes: made.gauge(
                "refused_nodes",
                "Nodes whose reports are refused, because their name, id or machine is another's.",
            )?,
            leads: made.gauge(
                "leads",
                "1 where this aggregator submits, of several that share a store.",
            )?,
            handshakes_failed: made.counters(
                "tls_handshakes_failed_total",
                "TLS handshakes of the intake that came to nothing, by reason.",
                &["reason"],
            )?,
            certificate_expires: made.gauges(
                "certificate_expires_timestamp_seconds",
                "Until when a certificate is valid: intake, the one that is served; client-ca, the first to end of the CAs of clients' certificates.",
                &["certificate"],
            )?,
            intake_until: Arc::new(AtomicI64::new(i64::MAX)),
            each_node: NodeGauges::default(),
            kubernetes_nodes: made.gauges(
                "kubernetes_nodes",
                "Nodes that Kubernetes has, once it has told them.",
                &[],
            )?,
            kubernetes_failing_since: made.gauge(
                "kubernetes_nodes_failing_since_timestamp_seconds",
                "Since when Kubernetes does not tell its Nodes; 0 while it does, and where it is not asked.",
            )?,
            targets: TargetGauges::new(&registry)?,
            registry,
        })
    }

    /// All of it in Prometheus' text format, as `/metrics` shows it in pieces ([`Self::body`]).
    ///
    /// # Errors
    ///
    /// When a metric cannot be encoded, which is a bug.
    pub fn text(&self) -> prometheus::Result<String> {
        let pieces = self.each_node.pieces();
        let mut text = observe::text(&self.registry)?;
        text.extend(pieces);
        Ok(text)
    }

    /// The same piece by piece, each written when it is sent.
    ///
    /// # Errors
    ///
    /// When a metric cannot be encoded, which is a bug.
    pub fn body(&self) -> prometheus::Result<Body> {
        let pieces = self.each_node.pieces();
        let all = once(observe::text(&self.registry)?).chain(pieces);
        Ok(Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>))))
    }

    /// Notes which cluster this is.
    pub fn cluster(&self, id: &str) {
        self.cluster.with_label_values(&[id]).set(1);
    }

    /// Notes how many nodes are expected; `None`: that is not known.
    pub fn expected_nodes(&self, count: Option<usize>) {
        match count {
            Some(count) => {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.expected_nodes.with_label_values(&[] as &[&str]).set(count);
            }
            None => self.expected_nodes.reset(),
        }
    }

    /// Notes how long it took to make anew what had changed of the document.
    pub fn assembled(&self, took: Duration) {
        self.assembly.observe(took.as_secs_f64());
    }

    /// What the store tells of its writes.
    pub fn store(&self) -> Arc<StoreMetrics> {
        Arc::clone(&self.store)
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

    /// Counts a report that was taken, and whether it changed something.
    pub fn report_taken(&self, changed: bool) {
        self.reports.with_label_values(&[if changed { CHANGED } else { UNCHANGED }]).inc();
    }

    /// Counts a report that was refused.
    pub fn report_refused(&self, code: RefusalCode) {
        self.reports.with_label_values(&[code.as_str()]).inc();
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

    /// Shows what is counted of a target, from 0.
    pub fn begin_target(&self, target: &AiosTarget) {
        self.targets.begin(&target.name);
    }

    /// Notes which of the cluster's Nodes a target is to get.
    pub fn census(&self, target: &TargetName, census: &Census) {
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

    /// Notes what a look has seen.
    pub fn seen(&self, target: &TargetName, held: &Held, now: Timestamp) {
        self.targets.seen(target, held, now);
    }

    /// Another aggregator looks from now on.
    pub fn unseen(&self, target: &TargetName) {
        self.targets.unseen(target);
    }

    /// Counts that an entry which was right is wrong, or gone, by somebody else's doing.
    pub fn drifted(&self, target: &TargetName) {
        self.targets.drifted(target);
    }

    /// Counts a request that was sent to change a target's entry.
    pub fn request(&self, target: &TargetName, what: RequestKind, verdict: &Verdict) {
        self.targets.request(target, what, verdict);
    }

    /// Where the durations of a target's requests are noted.
    pub fn request_durations(&self, target: &AiosTarget) -> RequestDurations {
        self.targets.request_durations(target)
    }
}
