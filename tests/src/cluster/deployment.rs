//! rollcall on a cluster, deployed with the manifests and the commands that docs/kubernetes.md
//! gives its users.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Cluster, SOON, output, text, wait_until};
use crate::aios::{Addresses, AiosStandin};
use crate::bed;

/// Where all of it is.
pub const NAMESPACE: &str = "rollcall-system";

/// The cluster that is registered.
pub const CLUSTER_ID: &str = "cluster-under-test";

/// The port of the aggregator's that agents report to.
pub const INTAKE: u16 = 7655;
/// The port of the aggregator's that metrics are on.
pub const ADMIN: u16 = 7657;
/// The port of an agent's that metrics are on.
pub const AGENT: u16 = 7656;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const MANIFESTS: &str = "packaging/kubernetes";
/// The overlay that wraps the one that is tested, where a test needs more.
const WRAPPED: &str = "under-test";

/// All that is of rollcall carries it.
const OURS: &str = "app.kubernetes.io/part-of=rollcall";
/// What of it is in no namespace, or not in rollcall's.
const CLUSTER_WIDE: &str =
    "namespaces,clusterroles,clusterrolebindings,priorityclasses,customresourcedefinitions";
/// What is put on Nodes.
const LABELS: [&str; 2] = ["nodeID", "kubernetes.region.unikorn-cloud.org/node-class"];

/// What is deployed.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The folder below `overlays`.
    pub overlay: &'a str,
    /// The cluster file, see [`cluster_file`].
    pub cluster_file: &'a str,
    /// Components that the overlay has not.
    pub components: &'a [&'a str],
    /// How often agents report, where that is not as usual.
    pub interval: Option<Duration>,
    /// How many aggregators there are, where that is not as the overlay says.
    pub replicas: Option<u32>,
    /// Further environment of the agents.
    pub agents: &'a [(&'a str, &'a str)],
    /// Further environment of the aggregator.
    pub aggregator: &'a [(&'a str, &'a str)],
}

impl Default for Settings<'_> {
    /// The overlay `default` as it is, with a cluster file that has no target.
    fn default() -> Self {
        Self {
            overlay: "default",
            cluster_file: "cluster: {id: cluster-under-test, regionId: lab}\n",
            components: &[],
            interval: None,
            replicas: None,
            agents: &[],
            aggregator: &[],
        }
    }
}

/// A stand-in of AIOS that the cluster's pods reach.
///
/// # Panics
///
/// When it cannot listen there; where there is no bed with nodes.
#[expect(clippy::panic, reason = "without its stand-in a test can only fail")]
pub fn aios(cluster: &Cluster) -> AiosStandin {
    let any = SocketAddr::from((cluster.address_of_this_machine(), 0));
    let addresses = Addresses { parser: any, gateway: any, tasks: any };
    AiosStandin::start_at(addresses)
        .unwrap_or_else(|error| panic!("{}", rollcall_report::error_chain(&error)))
}

/// A cluster file with one target, `aios`, that nobody has to approve. `target` is more of the
/// target, lines that stand four blanks in; `more` is more of the file.
pub fn cluster_file(aios: &AiosStandin, target: &str, more: &str) -> String {
    let targets = bed::Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), target);
    format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{more}{targets}")
}

/// rollcall as it was deployed. With it goes all that it brought: the namespace, what is in no
/// namespace, the kinds with their objects, and the labels of the nodes.
#[derive(Debug)]
pub struct Deployment<'a> {
    cluster: &'a Cluster,
    /// A copy of the manifests, below [`MANIFESTS`].
    folder: TempDir,
    /// The overlay that is applied.
    overlay: String,
}

/// A pod of rollcall's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
}

/// A pod's port as it can be reached from this machine.
#[derive(Debug)]
pub struct Forward {
    /// Where it is.
    pub address: SocketAddr,
    kubectl: Child,
    /// Kept open: kubectl tells of every connection, and ends when nobody can read it.
    _said: BufReader<ChildStdout>,
}

#[expect(clippy::panic, clippy::expect_used, reason = "a test that cannot be set up has failed")]
impl<'a> Deployment<'a> {
    /// Deploys it and waits until every pod is ready: every agent's report was accepted then.
    ///
    /// # Panics
    ///
    /// When it does not come to that.
    pub fn start(cluster: &'a Cluster, settings: &Settings<'_>) -> Self {
        let deployment = Self::apply(cluster, settings);
        deployment.wait_until_ready();
        deployment
    }

    /// Deploys it with the commands of docs/kubernetes.md.
    ///
    /// # Panics
    ///
    /// When one of them fails.
    pub fn apply(cluster: &'a Cluster, settings: &Settings<'_>) -> Self {
        if !left(cluster).is_empty() {
            // Of a test that was killed.
            sweep(cluster).unwrap_or_else(|problem| panic!("what was left stays: {problem}"));
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let overlay = prepare(folder.path(), settings);
        let deployment = Self { cluster, folder, overlay };
        let commands = documented_commands("generate.sh");
        deployment.shell(&commands).unwrap_or_else(|said| panic!("{commands}\n{said}"));
        deployment
    }

    /// Waits until every pod is ready.
    ///
    /// # Panics
    ///
    /// When a minute is not enough; with what the pods say.
    pub fn wait_until_ready(&self) {
        for workload in ["deployment/rollcall-aggregator", "daemonset/rollcall-agent"] {
            let arguments =
                ["rollout", "status", workload, "--namespace", NAMESPACE, "--timeout", "60s"];
            if let Err(problem) = self.cluster.try_kubectl(&arguments, "") {
                panic!("{problem}\n{}", self.logs());
            }
        }
    }

    /// What the pods have logged last.
    pub fn logs(&self) -> String {
        let of = |component| {
            let selector = format!("app.kubernetes.io/component={component}");
            let (selector, prefix) = (selector.as_str(), "--prefix");
            let arguments =
                ["logs", "--namespace", NAMESPACE, "--selector", selector, prefix, "--tail", "60"];
            self.cluster.try_kubectl(&arguments, "").unwrap_or_else(|problem| problem)
        };
        format!("{}{}", of("aggregator"), of("agent"))
    }

    /// Runs one of the operator's commands as docs/kubernetes.md says.
    ///
    /// # Errors
    ///
    /// What it, or kubectl, said.
    pub fn try_operate(&self, arguments: &[&str]) -> Result<String, String> {
        let command = [&["rollcall-aggregator"], arguments].concat();
        self.cluster.try_exec(NAMESPACE, "deploy/rollcall-aggregator", &command)
    }

    /// As [`Self::try_operate`].
    ///
    /// # Panics
    ///
    /// When the command fails.
    pub fn operate(&self, arguments: &[&str]) -> String {
        self.try_operate(arguments).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// What an operator's command answers as JSON.
    ///
    /// # Panics
    ///
    /// When the command fails or does not answer so.
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let printed = self.operate(&[arguments, &["--output", "json"]].concat());
        super::json(&printed)
    }

    /// The document as the aggregator would submit it.
    ///
    /// # Panics
    ///
    /// When it does not tell it.
    pub fn document(&self) -> Value {
        super::json(&self.operate(&["document"]))
    }

    /// The pods of a component (`agent`, `aggregator`) that are not going away, by their nodes.
    ///
    /// # Panics
    ///
    /// When the server does not tell.
    pub fn pods(&self, component: &str) -> Vec<Pod> {
        let selector = format!("app.kubernetes.io/component={component}");
        let list =
            self.cluster.get(&["pods", "--namespace", NAMESPACE, "--selector", selector.as_str()]);
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let stays = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        let mut pods: Vec<_> = items
            .iter()
            .filter(stays)
            .map(|pod| Pod {
                node: text(pod, "/spec/nodeName").to_owned(),
                name: text(pod, "/metadata/name").to_owned(),
            })
            .collect();
        pods.sort_unstable();
        pods
    }

    /// The agent's pod on a node.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn agent_on(&self, node: &str) -> String {
        let agents = self.pods("agent");
        let found = agents.iter().find(|pod| pod.node == node);
        found.unwrap_or_else(|| panic!("no agent is on {node}: {agents:?}")).name.clone()
    }

    /// An aggregator's pod, the only one where there are no replicas.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn aggregator(&self) -> String {
        let pods = self.pods("aggregator");
        pods.first().unwrap_or_else(|| panic!("there is no aggregator")).name.clone()
    }

    /// Makes a pod's port reachable, once the pod runs.
    ///
    /// # Panics
    ///
    /// When kubectl does not within a minute.
    pub fn forward(&self, pod: &str, port: u16) -> Forward {
        wait_until(&format!("kubectl port-forward {pod}"), SOON, || self.try_forward(pod, port))
    }

    fn try_forward(&self, pod: &str, port: u16) -> Result<Forward, String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.args(["port-forward", "--namespace", NAMESPACE, pod, &format!(":{port}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut kubectl = command.spawn().expect("kubectl runs");
        let mut said = BufReader::new(kubectl.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("kubectl says where");
        let mut forward =
            Forward { address: SocketAddr::from(([127, 0, 0, 1], 0)), kubectl, _said: said };
        // "Forwarding from 127.0.0.1:40001 -> 7657"
        let local = line.split_whitespace().nth(2).and_then(|address| address.parse().ok());
        forward.address = local.ok_or_else(|| format!("it says {line:?}"))?;
        Ok(forward)
    }

    /// What a pod's metrics are.
    ///
    /// # Panics
    ///
    /// When it does not tell them.
    pub fn metrics(&self, pod: &str, port: u16) -> String {
        let forward = self.forward(pod, port);
        let answer = bed::get(forward.address, "/metrics", "");
        assert_eq!(answer.status, 200, "metrics of {pod}: {}", answer.body);
        answer.body
    }

    /// One of the aggregator's metrics, by its name with its labels; none where it is not told.
    ///
    /// # Panics
    ///
    /// As [`Self::metrics`].
    pub fn metric(&self, name: &str) -> Option<f64> {
        value_of(&self.metrics(&self.aggregator(), ADMIN), name)
    }

    /// The file with the certificate of the intake's authority.
    pub fn authority(&self) -> PathBuf {
        self.manifests().join("components/tls-generated/ca.crt")
    }

    /// Waits until the stand-in holds the cluster, and returns it as registered.
    ///
    /// # Panics
    ///
    /// When a minute is not enough; with what the pods say.
    pub fn wait_until_registered(&self, aios: &AiosStandin) -> Value {
        let registered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            aios.wait_for("the cluster to be registered", SOON, |aios| {
                aios.cluster(CLUSTER_ID).is_some()
            });
        }));
        let cluster = registered.ok().and_then(|()| aios.cluster(CLUSTER_ID));
        cluster.unwrap_or_else(|| panic!("the cluster is not registered\n{}", self.logs()))
    }

    /// Removes it with the commands of docs/kubernetes.md.
    ///
    /// # Panics
    ///
    /// When one of them fails, or when something of rollcall is left.
    pub fn uninstall(self) {
        for part in ["delete deploy rollcall-aggregator", "label nodes --all nodeID-"] {
            let commands = documented_commands(part);
            self.shell(&commands).unwrap_or_else(|said| panic!("{commands}\n{said}"));
        }
        let labels =
            self.cluster.kubectl(&["get", "nodes", "--output", "name", "--selector", LABELS[0]]);
        assert_eq!(left(self.cluster) + &labels, "", "it is left");
    }

    /// Runs lines of docs/kubernetes.md, with this overlay and this cluster.
    fn shell(&self, commands: &str) -> Result<String, String> {
        let commands = commands.replace("overlays/default", &format!("overlays/{}", self.overlay));
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &commands]).current_dir(self.folder.path());
        bash.env("KUBECONFIG", self.cluster.kubeconfig());
        output(bash, "")
    }

    fn manifests(&self) -> PathBuf {
        self.folder.path().join(MANIFESTS)
    }
}

impl Drop for Deployment<'_> {
    fn drop(&mut self) {
        let swept = sweep(self.cluster);
        // A test that has failed says why, and not this beside it.
        if !thread::panicking() {
            assert_eq!(swept, Ok(()), "it was not removed");
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself, with its pod.
        let _ended = self.kubectl.kill();
        let _reaped = self.kubectl.wait();
    }
}

/// A metric's value, by its name with its labels.
pub fn value_of(metrics: &str, name: &str) -> Option<f64> {
    sample(metrics, name)?.parse().ok()
}

/// A counter's, by its name with its labels: 0 until it counts.
pub fn count_of(metrics: &str, name: &str) -> u64 {
    sample(metrics, name).and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn sample<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// All objects of rollcall's, by kind and name.
fn left(cluster: &Cluster) -> String {
    let named = ["--output", "name", "--selector", OURS];
    let cluster_wide = [&["get", CLUSTER_WIDE], &named[..]].concat();
    let elsewhere = [&["get", "roles,rolebindings", "--namespace", "default"], &named[..]].concat();
    [cluster_wide, elsewhere].map(|what| cluster.kubectl(&what)).concat()
}

/// Removes whatever is there of rollcall, and waits until it is gone.
fn sweep(cluster: &Cluster) -> Result<(), String> {
    // Pods are not waited for: a kubelet of 1.20 that a pod's deletion reaches while it starts the pod
    // takes more than a minute to end it. Without their accounts they can do nothing any more.
    let in_ours = ["--all", "--namespace", NAMESPACE];
    let labels = LABELS.map(|label| format!("{label}-"));
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    let of_ours = ["--selector", OURS, "--ignore-not-found"];
    let events = "involvedObject.kind=Node,source=rollcall-aggregator";
    for arguments in [
        [&["delete", "deployments,daemonsets,serviceaccounts"], &in_ours[..]].concat(),
        [&["delete", "pods", "--grace-period=0", "--force"], &in_ours[..]].concat(),
        [&["delete", CLUSTER_WIDE], &of_ours[..]].concat(),
        [&["delete", "roles,rolebindings", "--namespace", "default"], &of_ours[..]].concat(),
        vec!["delete", "events", "--namespace", "default", "--field-selector", events],
        [&["label", "nodes", "--all"], &labels[..]].concat(),
    ] {
        cluster.try_kubectl(&arguments, "")?;
    }
    Ok(())
}

/// Copies the manifests, with the cluster file and all that the settings ask for. Returns the
/// overlay to apply.
#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
fn prepare(folder: &Path, settings: &Settings<'_>) -> String {
    let manifests = folder.join(MANIFESTS);
    fs::create_dir_all(&manifests).expect("a folder for the manifests");
    // As `git archive` does, without what somebody has made beside them: keys and tokens.
    copy(&Path::new(REPOSITORY).join(MANIFESTS), &manifests);
    let overlays = manifests.join("overlays");
    let file = overlays.join(settings.overlay).join("cluster.yaml");
    assert!(file.is_file(), "there is no overlay {}", settings.overlay);
    fs::write(&file, settings.cluster_file).expect("a cluster file");

    let mut patches = Vec::new();
    let interval =
        settings.interval.map(|interval| humantime::format_duration(interval).to_string());
    let interval = interval.as_deref().map(|interval| ("ROLLCALL_INTERVAL", interval));
    let aggregator: Vec<_> = settings.aggregator.iter().copied().chain(interval).collect();
    for (kind, name, container, environment) in [
        ("DaemonSet", "rollcall-agent", "agent", settings.agents),
        ("Deployment", "rollcall-aggregator", "aggregator", &aggregator),
    ] {
        if environment.is_empty() {
            continue;
        }
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let patch = json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"template": {"spec": {
                "containers": [{"name": container, "env": environment}],
            }}},
        });
        patches.push(json!({"patch": patch.to_string()}));
    }
    let replicas =
        settings.replicas.map(|count| json!({"name": "rollcall-aggregator", "count": count}));
    if patches.is_empty() && replicas.is_none() && settings.components.is_empty() {
        return settings.overlay.to_owned();
    }
    let components: Vec<_> =
        settings.components.iter().map(|name| format!("../../components/{name}")).collect();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("../{}", settings.overlay)],
        "components": components,
        "patches": patches,
        "replicas": Vec::from_iter(replicas),
    });
    let wrapped = overlays.join(WRAPPED);
    fs::create_dir(&wrapped).expect("a folder for an overlay");
    fs::write(wrapped.join("kustomization.yaml"), kustomization.to_string()).expect("an overlay");
    WRAPPED.to_owned()
}

/// Copies a folder's files that are in the repository.
#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
fn copy(from: &Path, to: &Path) {
    const MADE: [&str; 5] = ["ca.crt", "ca.key", "tls.crt", "tls.key", "operator-token"];
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry of a folder");
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            fs::create_dir(to.join(&name)).expect("a folder");
            copy(&path, &to.join(&name));
        } else if !MADE.iter().any(|made| name == *made) {
            fs::copy(&path, to.join(&name)).expect("a copy");
        }
    }
}

/// The commands of docs/kubernetes.md that stand in one block with some words.
#[expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]
fn documented_commands(words: &str) -> String {
    let document = Path::new(REPOSITORY).join("docs/kubernetes.md");
    let document = fs::read_to_string(document).expect("docs/kubernetes.md");
    // Every second part between fences is a block; its first line tells its language.
    let mut blocks = document.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.starts_with("sh\n") && block.contains(words));
    let block = block.unwrap_or_else(|| panic!("docs/kubernetes.md has no commands with {words}"));
    block.trim_start_matches("sh\n").to_owned()
}
