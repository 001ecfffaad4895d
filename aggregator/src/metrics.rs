//! What Prometheus is told. Labels are bounded: targets, phases, codes, and the names of the nodes on
//! the roll, which are checked when they are admitted; never a node's own words. A node that leaves
//! the roll takes its series with it.

mod nodes;
mod targets;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use rollcall_daemon::process;

use crate::cluster_file::TargetName;
use crate::onboarding::state::TargetState;
use crate::targets::Verdict;

pub use nodes::NodeFigures;
use nodes::NodeGauges;
use targets::TargetGauges;

/// The aggregator's metrics and the registry that they are in.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    reports: IntCounterVec,
    intake_seconds: Histogram,
    nodes: IntGaugeVec,
    stale_nodes: IntGauge,
    each_node: NodeGauges,
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
        let each_node = NodeGauges::new()?;
        registry.register(Box::new(each_node.clone()))?;
        let targets = TargetGauges::new(&registry)?;
        Ok(Self { registry, reports, intake_seconds, nodes, stale_nodes, each_node, targets })
    }

    /// The registry that `/metrics` shows.
    pub fn registry(&self) -> &Registry {
        &self.registry
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
