//! The agent as a daemon: probe, report, wait until a report is due or hardware changes, again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::Registry;
use rollcall_daemon::kubernetes::is_in_pod;
use rollcall_daemon::notify::Notifier;
use rollcall_daemon::readiness::{Latch, Readiness};
use rollcall_daemon::{logging, observe, process};
use rollcall_report::{Assignment, Inventory, NodeId, NodeIdentity, Subject, error_chain};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until};

use crate::config::RunConfig;
use crate::health::{self, Watch};
use crate::host::{HostRoot, ReadError};
use crate::hotplug::Hotplug;
use crate::identity::{IdentityError, check_own_name, identify};
use crate::metrics::{Metrics, Outcome, StampMetrics};
use crate::probe::{Prober, Survey};
use crate::schedule::Pace;
use crate::send::{SendError, Sender};
use crate::stamp::{self, Stamping};
use crate::status::Status;
use crate::{report, schedule};

/// How many reasons why reports are not accepted are logged, until one is accepted.
const MOST_TROUBLES: usize = 16;

/// How many times as long as it may take a round may take, until it counts as one that never ends.
const PATIENCE: u32 = 3;

/// How long a round may take besides waiting and asking NVIDIA's library: it reads the machine's files,
/// perhaps twice, and those to report with, waits for a Node to be seen, and sends.
const LONGEST_WORK: Duration = Duration::from_mins(3);

/// Whether the reporter still comes round.
#[derive(Debug, Clone)]
struct Rounds {
    nvml_timeout: Duration,
    /// When it is late.
    late: Arc<Mutex<Instant>>,
}

impl Rounds {
    fn new(nvml_timeout: Duration) -> Self {
        let rounds = Self { nvml_timeout, late: Arc::new(Mutex::new(Instant::now())) };
        rounds.begin(Duration::ZERO);
        rounds
    }

    /// A round begins, with this wait in it.
    fn begin(&self, wait: Duration) {
        // The library is asked before and after the kernel has told of a change.
        let longest = wait + LONGEST_WORK + self.nvml_timeout * 2;
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now() + longest * PATIENCE;
    }

    fn is_on_time(&self, now: Instant) -> bool {
        now < *self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports until `shutdown` resolves, and serves metrics and probes on `listener` meanwhile.
///
/// An aggregator that is away or refuses does not end it: it is asked again.
///
/// # Errors
///
/// What keeps the agent from starting, and what nobody can mend while it runs.
pub async fn run(
    config: RunConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let root =
        HostRoot::open(&config.node.host_root).map_err(|source| RunError::HostRoot { source })?;
    let identity = identify(&root, config.node.node_name.clone(), config.node.node_id.clone())
        .map_err(|source| RunError::Identity { source })?;
    check_own_name(config.node.node_name.as_ref(), &identity)
        .map_err(|source| RunError::Identity { source })?;
    logging::about("node", identity.name.as_str());
    let files = config.trust_files();
    let sender = Sender::new(&config.aggregator, config.token_file.clone(), files);
    let registry = Registry::new();
    let metrics = process::register(&registry)
        .and_then(|()| Metrics::register(&registry))
        .map_err(|source| RunError::Metrics { source })?;
    let (stamper, stamping) = if config.stamp.stamp_labels {
        if config.stamp.kubeconfig.is_none() && !is_in_pod() {
            return Err(RunError::NoKubernetes);
        }
        let metrics =
            StampMetrics::register(&registry).map_err(|source| RunError::Metrics { source })?;
        let (stamper, stamping) = stamp::prepare(config.stamp, &identity, metrics);
        (Some(stamper), Some(stamping))
    } else {
        (None, None)
    };
    // A saved machine does not change.
    let hotplug = if root.manifest().is_some() { Hotplug::deaf() } else { Hotplug::listen(&root) };
    let (readiness, notifier) = (Readiness::new(), Notifier::from_environment());
    let rounds = Rounds::new(config.node.nvml_timeout);
    let reporter = Reporter {
        rounds: rounds.clone(),
        prober: Prober::new(root, config.node.probe_options()),
        sender,
        metrics,
        not_ready: Some(readiness.latch("the first report to be accepted")),
        chosen_interval: config.interval,
        interval: config.interval.unwrap_or(schedule::DEFAULT_INTERVAL),
        failures: 0,
        troubles: BTreeSet::new(),
        probe_failures: BTreeMap::new(),
        accepted_id: None,
        hotplug,
        called_at: Instant::now(),
        lull: schedule::LULL,
        relabels: Pace::new(Instant::now()),
        watch: Watch::default(),
        told: None,
        status: Status::new(identity.name.clone()),
        notifier: notifier.clone(),
        reported: identity.clone(),
        identity,
        stamping,
        ends_for_new_container: config.require_gpus && config.node.host_root != Path::new("/"),
    };
    let stamp = async {
        match stamper {
            Some(stamper) => stamper.stamp_for_ever().await,
            None => future::pending().await,
        }
    };
    let address = listener.local_addr().map_err(|source| RunError::Serve { source })?;
    log::info!(
        node = reporter.identity.name.as_str(),
        version = env!("CARGO_PKG_VERSION"),
        url:% = reporter.sender.url(),
        metrics:% = address;
        "reporting"
    );
    notifier.ready(&reporter.status.to_string());
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = Box::pin(reporter.report_for_ever()) => match ended? {},
        never = stamp => match never {},
        served = observe::serve(listener, observe::router(move || observe::text(&registry), readiness), future::pending()) => {
            served.map_err(|source| RunError::Serve { source })
        }
        never = notifier.keep_alive(|| rounds.is_on_time(Instant::now())) => match never {},
    };
    notifier.stopping("stopping");
    outcome
}

/// Probes and reports in turn: never two probes at once.
struct Reporter {
    rounds: Rounds,
    prober: Prober,
    /// Who the node is, as known without Kubernetes.
    identity: NodeIdentity,
    /// Who the last report said it is.
    reported: NodeIdentity,
    /// Where labels are stamped, what the Node shows.
    stamping: Option<Stamping>,
    sender: Sender,
    metrics: Metrics,
    /// Dropped when the first report was accepted.
    not_ready: Option<Latch>,
    /// What the operator chose; it goes before what the aggregator assigns.
    chosen_interval: Option<Duration>,
    interval: Duration,
    /// Reports in a row that were not accepted.
    failures: u32,
    /// Why reports were not accepted since the last one that was, as it was logged.
    troubles: BTreeSet<String>,
    /// What failed in the last probe, as it was logged.
    probe_failures: BTreeMap<Subject, String>,
    accepted_id: Option<NodeId>,
    hotplug: Hotplug,
    /// When the kernel last called for a probe.
    called_at: Instant,
    /// How long it waits before it is listened to again.
    lull: Duration,
    /// How often the Node's label may call for a report.
    relabels: Pace,
    watch: Watch,
    /// What the last report said.
    told: Option<Inventory>,
    /// What the service manager is told, and how.
    status: Status,
    notifier: Notifier,
    /// Whether to end where only a new container reaches the GPUs. A host root other than `/` says
    /// that this is one.
    ends_for_new_container: bool,
}

impl Reporter {
    async fn report_for_ever(mut self) -> Result<Infallible, RunError> {
        if let Some(stamping) = &mut self.stamping {
            stamping.first_sight().await;
        }
        let mut survey = self.probe().await?;
        loop {
            self.told = Some(survey.inventory.clone());
            self.reported = self.proposal();
            let now = SystemTime::now();
            let report = report::build(self.reported.clone(), survey, &mut self.watch, now);
            self.metrics.noted(&report);
            let id = self.accepted_id.as_ref().unwrap_or(&report.node.proposed_id);
            self.metrics.node(&report.node.name, id);
            let begun = Instant::now();
            let sent = self.sender.send(&report).await;
            self.metrics.reported(
                sent.as_ref().map_or_else(SendError::outcome, |_| Outcome::Accepted),
                begun.elapsed(),
            );
            self.metrics.certificate_expires(self.sender.certificate_expires());
            let wait = match sent {
                Ok(assignment) => self.accepted(assignment),
                Err(error) => self.not_accepted(&error),
            };
            log::debug!(seconds = wait.as_secs_f64(); "waiting for the next report");
            self.rounds.begin(wait);
            survey = self.next(wait).await?;
        }
    }

    /// Who the node is, as the next report says it.
    fn proposal(&self) -> NodeIdentity {
        self.stamping
            .as_ref()
            .map_or_else(|| self.identity.clone(), |stamping| stamping.propose(&self.identity))
    }

    /// Waits for the next report, and probes for it: when it is due, or sooner where the kernel
    /// tells of a change that a probe finds to be one, or where the Node shows another identity.
    async fn next(&mut self, wait: Duration) -> Result<Survey, RunError> {
        let due = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(due) => break,
                () = differs(self.stamping.as_ref(), &self.identity, &self.reported) => {
                    // Two labels may be set one by one, and one that is set again and again must
                    // not make a report each time.
                    sleep_until(due.min(Instant::now() + schedule::SETTLING)).await;
                    while let Err(turn) = self.relabels.take(Instant::now())
                        && Instant::now() < due
                    {
                        sleep_until(due.min(turn)).await;
                    }
                    if self.proposal() != self.reported {
                        log::info!("the Node's label has changed, reporting at once");
                        break;
                    }
                    continue;
                }
                // While reports are not accepted, their retries set the pace.
                () = self.hotplug.changed(), if self.failures == 0 => {}
            }
            // A device comes in several steps, and seldom alone; and whatever goes on with it, the
            // machine is there for other work.
            let settled = Instant::now() + schedule::SETTLING;
            sleep_until(due.min(settled.max(self.called_at + self.lull))).await;
            self.called_at = Instant::now();
            let survey = self.probe().await?;
            if self.told.as_ref() != Some(&survey.inventory) {
                log::info!("hardware has changed, reporting at once");
                self.lull = schedule::LULL;
                return Ok(survey);
            }
            self.lull = schedule::longer_lull(self.lull);
        }
        self.probe().await
    }

    async fn probe(&mut self) -> Result<Survey, RunError> {
        if let Some(stamping) = &self.stamping {
            self.prober.note_gpu_labels(stamping.gpu_labels());
        }
        let start = Instant::now();
        let survey = self.prober.probe().await.map_err(|source| RunError::Probe { source })?;
        self.metrics.probed(&survey.inventory, start.elapsed());
        self.log_probe_failures(&survey.inventory);
        self.status.probed(&survey.inventory);
        self.notifier.status(&self.status.to_string());
        if self.ends_for_new_container && self.prober.needs_new_container() {
            return Err(RunError::NewContainer);
        }
        Ok(survey)
    }

    /// Logs what changed since the last probe, not what is still so.
    fn log_probe_failures(&mut self, inventory: &Inventory) {
        let mut failures = BTreeMap::new();
        for (reason, mut subjects) in health::reasons(inventory) {
            failures.extend(subjects.iter().map(|subject| (*subject, reason.to_owned())));
            let known = &self.probe_failures;
            subjects.retain(|subject| known.get(subject).is_none_or(|known| known != reason));
            if !subjects.is_empty() {
                log::warn!(subject = health::list(&subjects), error = reason; "probe failed");
            }
        }
        let working = self.probe_failures.keys().filter(|subject| !failures.contains_key(subject));
        let working: Vec<Subject> = working.copied().collect();
        if !working.is_empty() {
            log::info!(subject = health::list(&working); "probe works again");
        }
        self.probe_failures = failures;
    }

    /// Notes that the aggregator took a report; returns the time until the next one.
    fn accepted(&mut self, assignment: Assignment) -> Duration {
        self.not_ready = None;
        self.failures = 0;
        if !std::mem::take(&mut self.troubles).is_empty() {
            log::info!("reports are accepted again");
        }
        let node_id = &assignment.node_id;
        if self.accepted_id.as_ref() != Some(node_id) {
            logging::about("node_id", node_id.as_str());
            log::info!(node_id = node_id.as_str(); "the aggregator accepted the node");
            self.metrics.node(&self.reported.name, node_id);
        }
        self.status.accepted(node_id, SystemTime::now());
        self.notifier.status(&self.status.to_string());
        self.interval = self
            .chosen_interval
            .unwrap_or_else(|| schedule::assigned_interval(assignment.interval_seconds));
        if let Some(stamping) = &self.stamping {
            stamping.accepted(&self.reported, &assignment);
        }
        self.accepted_id = Some(assignment.node_id);
        schedule::next_report(self.interval, fastrand::f64())
    }

    /// Notes that a report was not taken; returns the time until the next try.
    fn not_accepted(&mut self, error: &SendError) -> Duration {
        if matches!(error, SendError::Tls { .. }) {
            self.sender.was_refused();
        }
        self.failures = self.failures.saturating_add(1);
        let words = error_chain(error);
        // Numbers change from try to try: how long ago a certificate expired, a port.
        let trouble = words.replace(|c: char| c.is_ascii_digit(), "");
        // Two that take turns are told once each, too.
        if self.troubles.len() < MOST_TROUBLES && self.troubles.insert(trouble) {
            log::warn!(error = words.as_str(); "report not accepted, trying again");
        } else {
            log::debug!(tries = self.failures, error = words.as_str(); "report not accepted");
        }
        self.status.not_accepted(&words, SystemTime::now());
        self.notifier.status(&self.status.to_string());
        schedule::retry(self.failures, self.interval, fastrand::f64())
    }
}

/// Waits until the Node shows another identity than the reported one; for ever where nobody looks.
async fn differs(stamping: Option<&Stamping>, own: &NodeIdentity, reported: &NodeIdentity) {
    match stamping {
        Some(stamping) => stamping.differs(own, reported).await,
        None => future::pending().await,
    }
}

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// It is unknown which node this is.
    #[error("it is unknown which node this is")]
    Identity {
        /// What is unknown.
        source: IdentityError,
    },
    /// The host's root is not there, or a saved machine that cannot be read.
    #[error("the host's root cannot be used")]
    HostRoot {
        /// What is wrong with it.
        source: ReadError,
    },
    /// Labels are to be stamped, and there is no way to a Kubernetes API.
    #[error(
        "labels cannot be stamped: this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set), \
         so name a kubeconfig with --kubeconfig, or leave out --stamp-labels"
    )]
    NoKubernetes,
    /// Metrics cannot be registered.
    #[error("metrics cannot be registered")]
    Metrics {
        /// What the metrics library said.
        source: prometheus::Error,
    },
    /// Metrics and probes cannot be served.
    #[error("metrics and probes cannot be served")]
    Serve {
        /// What the system said.
        source: io::Error,
    },
    /// A probe did not come to its end, which is a bug.
    #[error("a probe broke off: report this as a bug")]
    Probe {
        /// What the runtime said.
        source: JoinError,
    },
    /// GPUs are required and this container cannot reach them.
    #[error(
        "GPUs are required and this container does not reach NVIDIA's driver, which it is given when it \
         is created: only a new container helps (restart the pod, with the driver installed and the \
         NVIDIA runtime)"
    )]
    NewContainer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_that_never_ends_is_late() {
        let rounds = Rounds::new(Duration::from_secs(10));
        let begun = Instant::now();
        for (what, wait, after, is_on_time) in [
            ("the first round", None, 9 * 60, true),
            ("the first round, for ever", None, 10 * 60 + 10, false),
            ("a round of an hour", Some(60 * 60), 3 * 60 * 60, true),
            ("a round of an hour, for ever", Some(60 * 60), 3 * 60 * 60 + 11 * 60, false),
        ] {
            if let Some(wait) = wait {
                rounds.begin(Duration::from_secs(wait));
            }
            let now = begun + Duration::from_secs(after);
            assert_eq!(rounds.is_on_time(now), is_on_time, "{what}");
        }
    }
}
