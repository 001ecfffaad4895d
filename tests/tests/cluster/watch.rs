//! Watches what must not be seen even for a moment.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use rollcall_tests::cluster::deployment::NAMESPACE;
use rollcall_tests::cluster::{Cluster, text};
use serde_json::Value;

/// Every state of the nodes' labels from now on.
pub(crate) struct LabelWatch {
    kubectl: Child,
    seen: Receiver<(String, Option<String>)>,
}

impl LabelWatch {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let each = r#"jsonpath={.metadata.name} {.metadata.labels.nodeID}{"\n"}"#;
        let mut kubectl = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig())
            .args(["get", "nodes", "--watch", "--output", each])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let lines = BufReader::new(kubectl.stdout.take().expect("a pipe")).lines();
        let (sender, seen) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut words = line.split_whitespace().map(str::to_owned);
                let Some(node) = words.next() else { continue };
                if sender.send((node, words.next())).is_err() {
                    return;
                }
            }
        });
        Self { kubectl, seen }
    }

    /// What was seen, in its order.
    pub(crate) fn end(mut self) -> Vec<(String, Option<String>)> {
        let ended = self.kubectl.try_wait().expect("kubectl can be asked");
        assert_eq!(ended, None, "the watch of the labels ended by itself");
        self.kubectl.kill().expect("kubectl can be ended");
        self.kubectl.wait().expect("kubectl ends");
        self.seen.iter().collect()
    }
}

/// Looks at the document all the time: no two of its nodes may have one id.
pub(crate) struct DocumentWatch {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize, String>>,
}

impl DocumentWatch {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (cluster, is_over) = (cluster.clone(), Arc::clone(&ends));
        let thread = thread::spawn(move || {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                let command = ["rollcall-aggregator", "document"];
                let said = cluster.try_exec(NAMESPACE, "deploy/rollcall-aggregator", &command)?;
                let document = serde_json::from_str(&said)
                    .map_err(|error| format!("it is no JSON ({error}): {said}"))?;
                only_once(&document)?;
                looks += 1;
            }
            Ok(looks)
        });
        Self { ends, thread }
    }

    /// How often it was looked at.
    pub(crate) fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        let looked = self.thread.join().expect("the watch of the document has not panicked");
        looked.unwrap_or_else(|problem| panic!("the document: {problem}"))
    }
}

/// Whether every id stands once in a document.
pub(crate) fn only_once(document: &Value) -> Result<(), String> {
    let entries = document["nodes"]["nodeData"].as_array();
    let entries = entries.ok_or_else(|| format!("it has no list of nodes: {document}"))?;
    let mut ids: Vec<_> = entries.iter().map(|entry| text(entry, "/id")).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair.first() == pair.last()) {
        Some(twice) => Err(format!("{twice:?} stand in it: {document}")),
        None => Ok(()),
    }
}
