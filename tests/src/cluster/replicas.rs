//! Several aggregators that share the store of one cluster, as processes of this machine; with Nodes
//! that are objects and nothing more, whose agents the test plays.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cluster, Namespace, SOON, wait_until};
use crate::aios::AiosStandin;
use crate::bed::{Aggregator, Bed, PATIENCE, report};

/// The Lease whose holder submits.
pub const LEASE: &str = "rollcall-aggregator";

/// The header by which an aggregator's requests are told from another's.
pub const SENDER: &str = "x-replica";

/// Which test a Node is of.
const PURPOSE_LABEL: &str = "rollcall.test/purpose";

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kubernetes");

/// The kinds' definitions.
const NAMES: [&str; 3] = [
    "customresourcedefinition/nodeinventories.rollcall.dev",
    "customresourcedefinition/onboardings.rollcall.dev",
    "customresourcedefinition/ledgers.rollcall.dev",
];

/// Tells the machines and namespaces of one run of the tests from each other.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// rollcall's kinds in a cluster where rollcall itself is not deployed. They go with it, and with
/// them all of their objects.
#[derive(Debug)]
pub struct Kinds<'a> {
    cluster: &'a Cluster,
}

#[expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]
impl<'a> Kinds<'a> {
    /// Declares them as users do who have no CEL rules.
    ///
    /// # Panics
    ///
    /// When the server refuses them.
    pub fn declare(cluster: &'a Cluster) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let manifests = Path::new(MANIFESTS).canonicalize().expect("the manifests");
        // kustomize takes relative paths only.
        let up = "../".repeat(folder.path().components().count() - 1);
        let at = |part: &str| format!("{up}{}", manifests.join(part).display()).replace("//", "/");
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [at("crds")],
            "components": [at("components/without-cel-rules")],
        });
        fs::write(folder.path().join("kustomization.yaml"), kustomization.to_string())
            .expect("a kustomization");
        cluster.kubectl(&["apply", "--kustomize", &folder.path().display().to_string()]);
        let declared = Self { cluster };
        for name in NAMES {
            cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", name]);
        }
        declared
    }
}

impl Drop for Kinds<'_> {
    fn drop(&mut self) {
        // What a failed test leaves is in nobody's way: whoever declares them finds them.
        let _gone = self.cluster.try_kubectl(&[&["delete"], &NAMES[..]].concat(), "");
    }
}

/// What replicas are like.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// How many aggregators there are.
    pub replicas: usize,
    /// How many Nodes.
    pub nodes: usize,
    /// How often agents are told to report.
    pub interval: Duration,
    /// More of the target, lines that stand four blanks in.
    pub target: &'a str,
    /// More of the cluster file.
    pub more: &'a str,
}

/// Aggregators with one store, in a namespace of their own. Their Nodes go with them.
#[derive(Debug)]
pub struct Replicas<'a> {
    cluster: &'a Cluster,
    /// Where the store is.
    pub namespace: Namespace<'a>,
    bed: Bed,
    interval: String,
    /// The names of their Nodes, in the order of their names.
    pub nodes: Vec<String>,
    first_machine: u64,
    running: Vec<Option<Aggregator>>,
}

/// How often it is looked for what is measured.
const LOOK: Duration = Duration::from_millis(20);

#[expect(clippy::panic, reason = "a harness fails the test that uses it")]
impl<'a> Replicas<'a> {
    /// Makes Nodes, and files for aggregators that register them; none of these runs yet.
    ///
    /// # Panics
    ///
    /// When something cannot be made.
    pub fn prepare(
        cluster: &'a Cluster,
        purpose: &str,
        aios: &AiosStandin,
        settings: &Settings<'_>,
    ) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = cluster.namespace(&format!("{purpose}-{number}"));
        let of = namespace.name().to_owned();
        let target = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), settings.target);
        let bed = Bed::new("");
        let common = bed.cluster_file();
        for replica in 0..settings.replicas {
            let name = name(replica);
            bed.write(&format!("{name}.txt"), &name);
            let sender = bed.path(&format!("{name}.txt"));
            let more = format!(
                "    headerFiles: {{{SENDER}: {}}}\n    nodes: {{selector: {{{PURPOSE_LABEL}: {of}}}}}\n",
                sender.display()
            );
            bed.write(&file(replica), &format!("{common}{}{target}{more}", settings.more));
        }
        let nodes = (0..settings.nodes).map(|node| format!("{of}-{node}")).collect();
        let replicas = Self {
            cluster,
            namespace,
            bed,
            interval: format!("{}s", settings.interval.as_secs()),
            nodes,
            first_machine: number << 16,
            running: (0..settings.replicas).map(|_| None).collect(),
        };
        replicas.make_nodes();
        replicas
    }

    /// Makes those of the Nodes that are not there, and gives all of them their label.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub fn make_nodes(&self) {
        let items: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": node, "labels": {PURPOSE_LABEL: self.namespace.name()}},
                    // Without it Kubernetes' controller of Nodes ends, in 1.20.
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                })
            })
            .collect();
        self.cluster
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    }

    /// Takes the label that the target's selector asks for off every Node.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub fn unselect_nodes(&self) {
        let nodes: Vec<_> = self.nodes.iter().map(String::as_str).collect();
        let label = format!("{PURPOSE_LABEL}-");
        self.cluster.kubectl(&[&["label", "node"], &nodes[..], &[&label]].concat());
    }

    /// Deletes one of the Nodes.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub fn delete_node(&self, node: usize) {
        self.cluster.kubectl(&["delete", "node", self.node(node)]);
    }

    /// Starts an aggregator that does not run.
    ///
    /// # Panics
    ///
    /// When it does not listen soon.
    pub fn start(&mut self, replica: usize) {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let aggregator = self.bed.aggregator_on_kubernetes(
            &file(replica),
            &[
                "--kubeconfig",
                &kubeconfig,
                "--namespace",
                self.namespace.name(),
                "--replica-name",
                &name(replica),
                "--interval",
                &self.interval,
            ],
        );
        // It is ready when it has seen the cluster's Nodes.
        wait_until(&format!("{} to be ready", name(replica)), SOON, || {
            let answer = crate::bed::get(aggregator.admin, "/readyz", "");
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
        if let Some(slot) = self.running.get_mut(replica) {
            *slot = Some(aggregator);
        }
    }

    /// Starts all that do not run.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    pub fn start_all(&mut self) {
        for replica in 0..self.running.len() {
            if self.try_at(replica).is_none() {
                self.start(replica);
            }
        }
    }

    /// Takes an aggregator out, to be ended.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn take(&mut self, replica: usize) -> Aggregator {
        let slot = self.running.get_mut(replica).and_then(Option::take);
        slot.unwrap_or_else(|| panic!("{} does not run", name(replica)))
    }

    /// An aggregator.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn at(&self, replica: usize) -> &Aggregator {
        self.try_at(replica).unwrap_or_else(|| panic!("{} does not run", name(replica)))
    }

    /// The aggregators that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.running.len()).filter(|replica| self.try_at(*replica).is_some()).collect()
    }

    fn try_at(&self, replica: usize) -> Option<&Aggregator> {
        self.running.get(replica)?.as_ref()
    }

    /// One of the Nodes' names.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    pub fn node(&self, node: usize) -> &str {
        self.nodes.get(node).unwrap_or_else(|| panic!("there are fewer than {node} nodes"))
    }

    /// The report of one of the Nodes' agents, with so much swap.
    ///
    /// # Panics
    ///
    /// When there are fewer Nodes.
    #[expect(clippy::indexing_slicing, reason = "the report is part of the tree")]
    pub fn report(&self, node: usize, swap_gib: u64) -> Value {
        let mut report = report(self.node(node), self.first_machine + node as u64);
        report["inventory"]["swap"]["known"]["totalBytes"] = json!(swap_gib << 30);
        report
    }

    /// Posts a report until it is taken, as agents do: an aggregator that has not seen yet what another
    /// has written asks for that.
    ///
    /// # Panics
    ///
    /// When it is refused for another reason, or not taken for long.
    pub fn accept(&self, replica: usize, report: &Value) {
        let body = report.to_string();
        wait_until(&format!("{} to take a report", name(replica)), PATIENCE, || {
            let answer = self.at(replica).post_report(body.as_bytes());
            assert!(matches!(answer.status, 200 | 503), "{}: {}", answer.status, answer.body);
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    }

    /// Who holds the Lease; nobody, if it was given back or never taken.
    pub fn holder(&self) -> Option<usize> {
        let namespace = self.namespace.name();
        let lease = self.cluster.try_get(&["lease", LEASE, "--namespace", namespace]).ok()?;
        let holder = super::text(&lease, "/spec/holderIdentity");
        (0..self.running.len()).find(|replica| name(*replica) == holder)
    }

    /// Waits for a holder of the Lease that runs.
    ///
    /// # Panics
    ///
    /// When there is none for long.
    pub fn wait_for_holder(&self) -> usize {
        wait_until("somebody to lead", PATIENCE, || {
            self.holder().filter(|holder| self.try_at(*holder).is_some()).ok_or("nobody")
        })
    }

    /// How far the logs of those that run go by now.
    pub fn marks(&self) -> Vec<(usize, usize)> {
        let lines = |replica: &usize| self.try_at(*replica).map(|it| it.daemon.lines().len());
        self.running()
            .into_iter()
            .filter_map(|replica| lines(&replica).map(|count| (replica, count)))
            .collect()
    }

    /// Which of them has said since a mark that it leads.
    pub fn leads_since(&self, marks: &[(usize, usize)]) -> Option<usize> {
        let says = |(replica, mark): &&(usize, usize)| {
            self.try_at(*replica).is_some_and(|aggregator| {
                let lines = aggregator.daemon.lines();
                lines.iter().skip(*mark).any(|line| line.contains("this aggregator leads"))
            })
        };
        marks.iter().find(says).map(|(replica, _)| *replica)
    }

    /// Waits until one of them says that it leads; which one, and how long after `since` that was.
    ///
    /// # Panics
    ///
    /// When none does for long; with what they say.
    pub fn wait_for_leader(&self, marks: &[(usize, usize)], since: Instant) -> (usize, Duration) {
        while since.elapsed() < SOON {
            if let Some(leader) = self.leads_since(marks) {
                return (leader, since.elapsed());
            }
            thread::sleep(LOOK);
        }
        panic!("nobody leads after {SOON:?}\n{}", self.tails())
    }

    /// What they have logged last.
    pub fn tails(&self) -> String {
        self.running.iter().flatten().map(|aggregator| aggregator.daemon.tail()).collect()
    }

    /// The object of a node on the roll.
    ///
    /// # Errors
    ///
    /// What kubectl said; that there is none.
    ///
    /// # Panics
    ///
    /// When there are fewer Nodes.
    pub fn inventory(&self, node: usize) -> Result<Value, String> {
        self.cluster.try_get(&["nodeinventory", self.node(node)])
    }
}

impl Drop for Replicas<'_> {
    fn drop(&mut self) {
        self.running.clear();
        let label = format!("{PURPOSE_LABEL}={}", self.namespace.name());
        let nodes: Vec<_> = self.nodes.iter().map(String::as_str).collect();
        let if_there = ["--ignore-not-found", "--wait=false"];
        // A test that has failed says why; that something of it stays is no news beside it.
        let _gone = self.cluster.try_kubectl(&["delete", "node", "--selector", &label], "");
        for kind in ["node", "nodeinventory"] {
            let arguments = [&["delete", kind], &nodes[..], &if_there[..]].concat();
            let _gone = self.cluster.try_kubectl(&arguments, "");
        }
    }
}

/// What an aggregator is called.
pub fn name(replica: usize) -> String {
    format!("r{}", replica + 1)
}

fn file(replica: usize) -> String {
    format!("{}.yaml", name(replica))
}
