//! The running agent, a Kubernetes API and an aggregator: what is reported, and what is stamped.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rollcall_agent::config::{RunConfig, StampConfig};
use rollcall_agent::run::RunError;
use rollcall_report::{IdSource, NODE_CLASS_LABEL, NODE_ID_LABEL, NodeId, NodeIdentity};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::Kubernetes;
use crate::{Agent, Aggregator, Incoming, Lines, config, run};

/// No report comes by the clock within a test.
const INTERVAL: Option<Duration> = Some(Duration::from_hours(1));

/// What the operator chose.
#[derive(Debug, Clone, Copy, Default)]
struct Choice {
    node_id: Option<&'static str>,
    overwrite: bool,
}

/// An agent that stamps, and what is around it.
struct Bed {
    kubernetes: Kubernetes,
    aggregator: Aggregator,
    agent: Agent,
}

impl Bed {
    async fn start(kubernetes: Kubernetes, choice: Choice) -> Self {
        let aggregator = Aggregator::start().await;
        let configure = |config: &mut RunConfig, folder: &Path| {
            let kubeconfig = folder.join("kubeconfig");
            kubernetes.write_kubeconfig(&kubeconfig);
            config.stamp = StampConfig {
                stamp_labels: true,
                overwrite_labels: choice.overwrite,
                kubeconfig: Some(kubeconfig),
            };
            config.node.node_id = choice.node_id.map(|id| id.parse().expect("an id"));
        };
        let agent =
            Agent::start_with(aggregator.address, "bare-minimum", INTERVAL, configure).await;
        Self { kubernetes, aggregator, agent }
    }

    async fn next(&mut self) -> Incoming {
        self.aggregator.next().await
    }

    /// Expects a proposal, and accepts it as `node_id` with a class.
    async fn accept(&mut self, proposal: (&str, IdSource), node_id: &str, class: Option<&str>) {
        let incoming = self.next().await;
        assert_eq!(proposed(&incoming.report.node), proposal);
        answer(incoming, node_id, class);
    }

    async fn stamped(&self) -> String {
        self.agent.metric("rollcall_agent_labels_stamped").await
    }

    async fn conflicts(&self, label: &str) -> String {
        let series = format!("rollcall_agent_label_conflicts{{label=\"{label}\"}}");
        self.agent.metric(&series).await
    }

    async fn trouble(&self, kind: &str) -> String {
        let series = format!("rollcall_agent_kubernetes_trouble_total{{kind=\"{kind}\"}}");
        self.agent.metric(&series).await
    }

    /// Waits until a gauge says so.
    async fn wait_until_stamped(&self, value: &str) {
        let reached = async {
            while self.stamped().await != value {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(crate::SOON, reached).await.expect(value);
    }
}

fn answer(incoming: Incoming, node_id: &str, class: Option<&str>) {
    let class = class.map_or_else(String::new, |class| format!(r#","nodeClass":"{class}""#));
    incoming.answer(200, &format!(r#"{{"nodeId":"{node_id}","intervalSeconds":60{class}}}"#));
}

fn proposed(node: &NodeIdentity) -> (&str, IdSource) {
    (node.proposed_id.as_str(), node.id_source)
}

fn with_node() -> Kubernetes {
    let kubernetes = Kubernetes::start();
    kubernetes.join("u1");
    kubernetes
}

const NAME: (&str, IdSource) = ("node-1", IdSource::NodeName);

#[tokio::test]
async fn only_what_was_accepted_is_stamped_and_stays() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    let first = bed.next().await;
    assert_eq!(proposed(&first.report.node), NAME);
    assert_eq!(bed.kubernetes.count("PATCH"), 0, "nothing is accepted yet");
    assert_eq!(bed.stamped().await, "0");
    answer(first, "node-1", Some("c1"));
    bed.kubernetes.wait_for(Some("node-1"), Some("c1")).await;
    bed.wait_until_stamped("1").await;
    assert_eq!(bed.kubernetes.count("PATCH"), 1);

    for (id, class) in [(true, false), (false, true), (true, true)] {
        let start = Instant::now();
        for (key, goes) in [(NODE_ID_LABEL, id), (NODE_CLASS_LABEL, class)] {
            if goes {
                bed.kubernetes.label(key, None);
            }
        }
        bed.kubernetes.wait_for(Some("node-1"), Some("c1")).await;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} for {:?}", (id, class));
    }
    let patches = bed.kubernetes.count("PATCH");
    bed.kubernetes.label("zone", Some("a"));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(bed.kubernetes.count("PATCH"), patches, "other labels are none of its business");

    let Bed { kubernetes, agent, .. } = bed;
    agent.stop().await;
    let labels = kubernetes.labels();
    assert_eq!(labels, (Some("node-1".to_owned()), Some("c1".to_owned())), "left alone");
    assert_eq!(kubernetes.count("PATCH"), patches);
}

#[tokio::test]
async fn a_label_that_is_there_is_adopted() {
    let kubernetes = with_node();
    kubernetes.label(NODE_ID_LABEL, Some("blue"));
    let mut bed = Bed::start(kubernetes, Choice::default()).await;
    bed.accept(("blue", IdSource::Label), "blue", None).await;
    bed.wait_until_stamped("1").await;
    assert_eq!(bed.kubernetes.count("PATCH"), 0, "there is nothing to stamp");
    bed.agent.stop().await;
}

#[tokio::test]
async fn a_label_that_somebody_changes_is_a_new_proposal() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    bed.accept(NAME, "node-1", None).await;
    bed.kubernetes.wait_for(Some("node-1"), None).await;
    bed.kubernetes.label(NODE_ID_LABEL, Some("green"));
    let report = bed.next().await;
    assert_eq!(proposed(&report.report.node), ("green", IdSource::Label));
    assert_eq!(bed.stamped().await, "0", "not accepted yet");
    answer(report, "green", None);
    bed.wait_until_stamped("1").await;
    assert_eq!(bed.kubernetes.labels().0.as_deref(), Some("green"));
    assert_eq!(bed.kubernetes.count("PATCH"), 1, "the first one");
    // What is gone now is what was accepted last. The roll keeps it, too.
    bed.kubernetes.label(NODE_ID_LABEL, None);
    bed.kubernetes.wait_for(Some("green"), None).await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn an_explicit_id_against_another_label_is_left_to_a_person() {
    let kubernetes = with_node();
    kubernetes.label(NODE_ID_LABEL, Some("blue"));
    let choice = Choice { node_id: Some("red-1"), overwrite: false };
    let mut bed = Bed::start(kubernetes, choice).await;
    let report = bed.next().await;
    assert_eq!(proposed(&report.report.node), ("red-1", IdSource::Explicit));
    assert_eq!(report.report.node.other_label.as_ref().map(NodeId::as_str), Some("blue"));
    assert!(!report.report.node.overwrite_label);
    answer(report, "red-1", None);
    Lines::wait_for(&["ERROR", "red-1", "blue", "kubectl-label", "--overwrite-labels"], 1).await;
    assert_eq!(bed.conflicts("nodeID").await, "1");
    // More of the same is no news.
    bed.kubernetes.label("zone", Some("a"));
    sleep(Duration::from_millis(200)).await;
    Lines::wait_for(&["ERROR", "red-1", "blue"], 1).await;
    assert_eq!(bed.kubernetes.count("PATCH"), 0);

    bed.kubernetes.label(NODE_ID_LABEL, None);
    bed.kubernetes.wait_for(Some("red-1"), None).await;
    let settled = bed.next().await;
    assert_eq!(settled.report.node.other_label, None, "told at once");
    answer(settled, "red-1", None);
    bed.wait_until_stamped("1").await;
    assert_eq!(bed.conflicts("nodeID").await, "0");
    bed.agent.stop().await;
}

#[tokio::test]
async fn overwriting_settles_the_id_by_force_and_nothing_else() {
    let kubernetes = with_node();
    kubernetes.label(NODE_ID_LABEL, Some("blue"));
    kubernetes.label(NODE_CLASS_LABEL, Some("c9"));
    let choice = Choice { node_id: Some("red-2"), overwrite: true };
    let mut bed = Bed::start(kubernetes, choice).await;
    let report = bed.next().await;
    assert_eq!(report.report.node.other_label.as_ref().map(NodeId::as_str), Some("blue"));
    assert!(report.report.node.overwrite_label);
    answer(report, "red-2", Some("c1"));
    bed.kubernetes.wait_for(Some("red-2"), Some("c9")).await;
    Lines::wait_for(&["ERROR", NODE_CLASS_LABEL, "c9", "c1", "kubectl-label"], 1).await;
    let settled = bed.next().await;
    assert_eq!(settled.report.node.other_label, None);
    answer(settled, "red-2", Some("c1"));
    // Whose the class was has let go of it.
    bed.kubernetes.label(NODE_CLASS_LABEL, None);
    bed.kubernetes.wait_for(Some("red-2"), Some("c1")).await;
    let forced: Vec<bool> = {
        let world = bed.kubernetes.world();
        let patches = world.requests.iter().filter(|request| request.starts_with("PATCH"));
        patches.map(|request| request.contains("force=true")).collect()
    };
    assert_eq!(forced, [true, false]);
    bed.agent.stop().await;
}

#[tokio::test]
async fn a_class_that_is_not_assigned_any_more_stays() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    bed.accept(NAME, "node-1", Some("c1")).await;
    bed.kubernetes.wait_for(Some("node-1"), Some("c1")).await;
    // A report at once, and its answer knows of no class.
    bed.kubernetes.label(NODE_ID_LABEL, Some("green"));
    bed.accept(("green", IdSource::Label), "green", None).await;
    bed.wait_until_stamped("1").await;
    bed.kubernetes.label(NODE_ID_LABEL, None);
    bed.kubernetes.wait_for(Some("green"), Some("c1")).await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn a_node_that_joins_late_or_anew_is_stamped() {
    let mut bed = Bed::start(Kubernetes::start(), Choice::default()).await;
    bed.accept(NAME, "node-1", None).await;
    Lines::wait_for(&["INFO", "there is no such Node"], 1).await;
    for uid in ["u1", "u2"] {
        bed.kubernetes.join(uid);
        bed.kubernetes.wait_for(Some("node-1"), None).await;
        bed.wait_until_stamped("1").await;
        bed.kubernetes.delete();
        bed.wait_until_stamped("0").await;
    }
    assert_eq!(bed.kubernetes.count("PATCH"), 2);
    assert_eq!(bed.kubernetes.count("LIST"), 1, "the watch stands");
    bed.agent.stop().await;
}

#[tokio::test]
async fn an_api_server_that_goes_away_and_comes_back() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    bed.accept(NAME, "node-1", None).await;
    bed.kubernetes.wait_for(Some("node-1"), None).await;
    bed.wait_until_stamped("1").await;
    bed.kubernetes.go_away();
    let address = bed.kubernetes.address.to_string();
    // While it is away nobody sees it, and what happened then is found afterwards.
    bed.kubernetes.label(NODE_ID_LABEL, None);
    Lines::wait_for(&["WARN", &address, "cannot be watched"], 1).await;
    sleep(Duration::from_secs(2)).await;
    Lines::wait_for(&["WARN", &address, "cannot be watched"], 1).await;
    assert_ne!(bed.trouble("unreachable").await, "0");
    bed.kubernetes.come_back();
    bed.kubernetes.wait_for(Some("node-1"), None).await;
    bed.wait_until_stamped("1").await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn an_api_server_that_is_away_at_the_start_delays_the_first_report_and_no_more() {
    let mut kubernetes = with_node();
    kubernetes.label(NODE_ID_LABEL, Some("blue"));
    kubernetes.go_away();
    let start = Instant::now();
    let mut bed = Bed::start(kubernetes, Choice::default()).await;
    let report = timeout(2 * crate::SOON, bed.aggregator.reports.recv()).await;
    let report = report.expect("a report in time").expect("a report");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
    assert_eq!(proposed(&report.report.node), NAME, "what is known");
    answer(report, "node-1", None);
    bed.kubernetes.come_back();
    let report = timeout(3 * crate::SOON, bed.aggregator.reports.recv()).await;
    let report = report.expect("a report in time").expect("a report");
    assert_eq!(proposed(&report.report.node), ("blue", IdSource::Label));
    assert_eq!(bed.kubernetes.count("PATCH"), 0, "the label stands");
    answer(report, "blue", None);
    bed.wait_until_stamped("1").await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn rights_that_are_missing_are_waited_for() {
    for forbidden in ["LIST", "WATCH", "PATCH"] {
        let kubernetes = with_node();
        kubernetes.world().forbidden = Some(forbidden);
        let mut bed = Bed::start(kubernetes, Choice::default()).await;
        if forbidden != "LIST" {
            bed.accept(NAME, "node-1", None).await;
        }
        bed.kubernetes.wait_for_requests(forbidden, 2).await;
        let address = bed.kubernetes.address.to_string();
        Lines::wait_for(&["WARN", &address, "403", "get, list, watch and patch nodes"], 1).await;
        assert_ne!(bed.trouble("forbidden").await, "0", "{forbidden}");
        assert!(bed.kubernetes.count(forbidden) < 6, "{forbidden} in a hot loop");
        assert_eq!(bed.kubernetes.labels().0, None, "{forbidden}");
        bed.kubernetes.world().forbidden = None;
        if forbidden == "LIST" {
            bed.accept(NAME, "node-1", None).await;
        }
        bed.kubernetes.wait_for(Some("node-1"), None).await;
        bed.agent.stop().await;
    }
}

#[tokio::test]
async fn a_label_that_was_set_unseen_is_not_taken() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    let report = bed.next().await;
    bed.kubernetes.world().is_mute = true;
    bed.kubernetes.label(NODE_ID_LABEL, Some("violet"));
    answer(report, "node-1", None);
    bed.kubernetes.wait_for_requests("PATCH", 2).await;
    let address = bed.kubernetes.address.to_string();
    let words = ["WARN", &address, "409", "kubectl-label", ".metadata.labels.nodeID"];
    Lines::wait_for(&words, 1).await;
    assert!(bed.kubernetes.count("PATCH") < 4, "tried again, slowly");
    assert_eq!(bed.kubernetes.labels().0.as_deref(), Some("violet"));
    assert_ne!(bed.trouble("conflict").await, "0");
    bed.kubernetes.world().is_mute = false;
    bed.kubernetes.label("zone", Some("a"));
    bed.accept(("violet", IdSource::Label), "violet", None).await;
    bed.wait_until_stamped("1").await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn another_node_of_the_same_name_is_not_stamped_unseen() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    let report = bed.next().await;
    bed.kubernetes.world().is_mute = true;
    bed.kubernetes.delete();
    answer(report, "node-1", None);
    bed.kubernetes.wait_for_requests("PATCH", 1).await;
    bed.kubernetes.join("u2");
    bed.kubernetes.wait_for_requests("PATCH", 2).await;
    assert_eq!(bed.kubernetes.labels().0, None, "that one was not looked at yet");
    bed.kubernetes.world().is_mute = false;
    bed.kubernetes.label("zone", Some("a"));
    bed.kubernetes.wait_for(Some("node-1"), None).await;
    bed.agent.stop().await;
}

#[tokio::test]
async fn a_war_with_another_writer_is_slow() {
    let mut bed = Bed::start(with_node(), Choice::default()).await;
    bed.accept(NAME, "node-1", None).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        if bed.kubernetes.labels().0.is_some() {
            bed.kubernetes.label(NODE_ID_LABEL, None);
        }
        sleep(Duration::from_millis(5)).await;
    }
    let patches = bed.kubernetes.count("PATCH");
    assert_eq!(patches, 5, "as many as may follow each other");
    bed.agent.stop().await;
}

#[tokio::test]
async fn without_the_flag_no_api_server_is_asked() {
    let kubernetes = with_node();
    let mut aggregator = Aggregator::start().await;
    let agent =
        Agent::start_with(aggregator.address, "bare-minimum", INTERVAL, |config, folder| {
            let kubeconfig = folder.join("kubeconfig");
            kubernetes.write_kubeconfig(&kubeconfig);
            config.stamp.kubeconfig = Some(kubeconfig);
        })
        .await;
    aggregator.next().await.accept(60);
    let (_, metrics) = agent.get("/metrics").await;
    assert!(!metrics.contains("labels_stamped"), "{metrics}");
    agent.stop().await;
    assert_eq!(kubernetes.world().requests, [] as [&str; 0]);
}

#[tokio::test]
async fn a_machine_without_kubernetes_stamps_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "hunter2").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let stamp = StampConfig { stamp_labels: true, ..StampConfig::default() };
    let config = RunConfig { stamp, ..config(address, "bare-minimum", None, token_file) };
    let error = run(config, listener, std::future::pending()).await.expect_err("no way there");
    assert!(matches!(error, RunError::NoKubernetes), "{error}");
    assert!(error.to_string().contains("--kubeconfig"), "{error}");
}

#[tokio::test]
async fn gpus_without_a_library_are_told_by_the_nodes_labels() {
    let kubernetes = with_node();
    for (key, value) in [
        ("nvidia.com/gpu.count", "8"),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),
        ("nvidia.com/gpu.memory", "81559"),
    ] {
        kubernetes.label(key, Some(value));
    }
    let mut aggregator = Aggregator::start().await;
    let configure = |config: &mut RunConfig, folder: &Path| {
        let kubeconfig = folder.join("kubeconfig");
        kubernetes.write_kubeconfig(&kubeconfig);
        config.stamp = StampConfig {
            stamp_labels: true,
            overwrite_labels: false,
            kubeconfig: Some(kubeconfig),
        };
        // A machine with one GPU, which the kernel's driver has taken.
        let root = folder.join("root");
        let device = root.join("sys/devices/pci0000:00/0000:17:00.0");
        std::fs::create_dir_all(&device).expect("a folder");
        for (file, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")] {
            std::fs::write(device.join(file), text).expect("written");
        }
        let bus = root.join("sys/bus/pci/devices");
        std::fs::create_dir_all(&bus).expect("a folder");
        let inside = Path::new("../../../devices/pci0000:00/0000:17:00.0");
        symlink(inside, bus.join("0000:17:00.0")).expect("a link");
        let attached = root.join("proc/driver/nvidia/gpus/0000:17:00.0");
        std::fs::create_dir_all(attached).expect("a folder");
        config.node.host_root = root;
    };
    let agent = Agent::start_with(aggregator.address, "bare-minimum", INTERVAL, configure).await;
    let incoming = aggregator.next().await;
    let gpus = incoming.report.inventory.gpus.known().expect("the bus").clone();
    assert!(gpus.nvidia_driver.failure().is_some(), "nobody answers: {gpus:#?}");
    let told = &gpus.nvidia_unasked;
    assert_eq!(told.len(), 1, "as many as there are here, and not as the label counts: {gpus:#?}");
    assert_eq!(told[0].model.as_str(), "NVIDIA-H100-80GB-HBM3");
    assert_eq!(told[0].memory_bytes.known(), Some(&(81_559 << 20)));
    incoming.accept(60);
    agent.stop().await;
}
