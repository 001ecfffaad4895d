//! 5,000 nodes on a real API server: the document is right, what is written to the server is counted,
//! and what the aggregator holds in memory is told.
//!
//! `make test-cluster` sets the server up. With `ROLLCALL_REFRESH` set it is also waited for and
//! counted that the time of each node's last report is refreshed, once in five minutes.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed, and what it measures is shown"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use rollcall_daemon::secret::read_token_file;
use rollcall_report::{NodeReport, Reading};
use rollcall_tests::bed::{Bed, report_with_gpus, run};
use rollcall_tests::cluster::{Cluster, Need, text, wait_until};
use rollcall_tests::fleet::intake::Intake;
use rollcall_tests::process::{Daemon, program};
use serde_json::{Value, json};

const NODES: u64 = 5000;
/// As many as keep the aggregator busy.
const CONNECTIONS: usize = 4;
/// Until everything is created and told.
const PATIENCE: Duration = Duration::from_mins(3);
/// Refreshes are spread over five minutes, and looked for every quarter of a minute.
const REFRESH: Duration = Duration::from_secs(5 * 60 + 45);

/// One of its own each time: what was deleted may go for long.
fn namespace() -> String {
    format!("rollcall-scale-{}", std::process::id())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = Trial::ignorable_test("five_thousand_nodes", || {
        let cluster = match Cluster::find() {
            Ok(cluster) => cluster,
            Err(why) => return Ok(Completion::ignored_with(format!("not run here: {why}"))),
        };
        if let Some(why) = cluster.lacks(Need::Server) {
            return Ok(Completion::ignored_with(format!("not run here: {why}")));
        }
        five_thousand_nodes(&cluster);
        Ok(Completion::Completed)
    });
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

fn name(node: u64) -> String {
    format!("scale-{node:04}")
}

/// Of different sizes, so that a sum that leaves one out or counts one twice is wrong.
fn report(node: u64) -> NodeReport {
    let mut report = report_with_gpus(&name(node), node, node % 9);
    let memory = report.pointer_mut("/inventory/memory/known/totalBytes").expect("the memory");
    *memory = (1024 * 1024 * (1000 + node)).into();
    serde_json::from_value(report).expect("a report")
}

/// How many CPUs a node has, to be changed in place.
fn cpus(report: &mut NodeReport) -> &mut u32 {
    match &mut *report.inventory.cpu {
        Reading::Known(cpu) => &mut cpu.online,
        other => panic!("the sample's CPUs are known, not {other:?}"),
    }
}

/// What takes the nodes away again, whatever becomes of the test.
struct Nodes<'a>(&'a Cluster);

impl Drop for Nodes<'_> {
    fn drop(&mut self) {
        let label = "rollcall.test/scale";
        let _gone = self.0.try_kubectl(&["delete", "nodes", "-l", label, "--wait=false"], "");
        let _gone = self.0.try_kubectl(&["delete", "ni", "--all", "--wait=false"], "");
        let _gone = self.0.try_kubectl(&["delete", "namespace", &namespace(), "--wait=false"], "");
    }
}

fn create_nodes(cluster: &Cluster) {
    thread::scope(|scope| {
        for part in 0..8 {
            scope.spawn(move || {
                let nodes: Vec<Value> = (0..NODES)
                    .filter(|node| node % 8 == part)
                    .map(|node| {
                        json!({
                            "apiVersion": "v1",
                            "kind": "Node",
                            "metadata": {
                                "name": name(node),
                                "labels": { "rollcall.test/scale": "", "kubernetes.io/os": "linux" },
                            },
                            // Kubernetes' own controllers trip over a Node without.
                            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
                        })
                    })
                    .collect();
                let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes });
                cluster.try_kubectl(&["create", "-f", "-"], &list.to_string()).expect("Nodes");
            });
        }
    });
}

/// The writes of nodes' objects after so many writes, without those of when they were last seen.
fn changes(cluster: &Cluster, before: usize) -> BTreeMap<String, usize> {
    let mut counts = writes(cluster, before);
    counts.remove("patch status");
    counts
}

/// The writes of nodes' objects after so many writes, by verb and subresource.
fn writes(cluster: &Cluster, before: usize) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in cluster.writes().into_iter().skip(before) {
        if text(&event, "/objectRef/resource") == "nodeinventories"
            && text(&event, "/objectRef/name").starts_with("scale-")
        {
            let (verb, part) = (text(&event, "/verb"), text(&event, "/objectRef/subresource"));
            *counts.entry(format!("{verb} {part}").trim().to_owned()).or_default() += 1;
        }
    }
    counts
}

fn memory_mib(daemon: &Daemon, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("the line");
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") / 1024
}

fn five_thousand_nodes(cluster: &Cluster) {
    let packaging = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/kubernetes/crds");
    // A server before 1.25 is told of rules that it drops.
    cluster.kubectl(&["apply", "--validate=false", "-k", packaging]);
    cluster.kubectl(&["create", "namespace", &namespace()]);
    let _nodes = Nodes(cluster);
    let started = Instant::now();
    create_nodes(cluster);
    let created = started.elapsed();

    let bed = Bed::new("targets: []\n");
    let mut command = Command::new(program("rollcall-aggregator"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--store", "kubernetes", "--namespace", &namespace(), "--replica-name", "scale"])
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .arg("--cluster")
        .arg(bed.path("cluster.yaml"))
        .arg("--token-file")
        .arg(bed.path("token"));
    let daemon = Daemon::spawn("rollcall-aggregator", command);
    let intake = daemon.listening_address("intake");
    let admin = daemon.listening_address("admin");
    let token = read_token_file(&bed.path("token")).expect("the token");
    let intake = Intake::new(intake, token, CONNECTIONS).expect("an intake of this machine");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    daemon.wait_for_line(|line| line.contains("Kubernetes tells its Nodes"), PATIENCE);
    let accept = |nodes: Range<u64>, change: fn(&mut NodeReport)| {
        let reports = nodes.map(|node| {
            let mut report = report(node);
            change(&mut report);
            vec![report]
        });
        runtime.block_on(intake.report(reports)).expect("every report is taken")
    };

    let before = cluster.writes().len();
    let started = Instant::now();
    accept(0..NODES, |_| {});
    let reported = started.elapsed();
    // The server writes its log a little after its answers.
    let wait_for_changes = |what: &str, expected: BTreeMap<String, usize>| {
        wait_until(what, PATIENCE, || match changes(cluster, before) {
            found if found == expected => Ok(found),
            found => Err(found),
        })
    };
    let first = wait_for_changes("one write a node", BTreeMap::from([("create".to_owned(), 5000)]));

    // Unchanged reports cost nothing, a changed one costs one write.
    accept(0..NODES, |_| {});
    assert_eq!(changes(cluster, before), first, "nothing has changed");
    accept(0..10, |report| *cpus(report) = 2);
    let expected = BTreeMap::from([("create".to_owned(), 5000), ("update".to_owned(), 10)]);
    wait_for_changes("a write for each that has changed", expected);

    let server = format!("http://{admin}");
    let printed = run("rollcall-aggregator", &["document", "--server", &server], b"");
    let document: Value = serde_json::from_slice(&printed.stdout).expect("the document");
    let gpus: u64 = (0..NODES).map(|node| node % 9).sum();
    let memory: u64 = (0..NODES).map(|node| 1000 + node).sum();
    let cpus = u64::from(*cpus(&mut report(0)));
    for (what, expected) in [
        ("/nodes/count", NODES),
        ("/gpus/count", gpus),
        ("/memory", memory),
        ("/vcpus/count", cpus * (NODES - 10) + 2 * 10),
    ] {
        assert_eq!(document.pointer(what), Some(&json!(expected)), "{what}");
    }
    let ids = document.pointer("/nodes/nodeData").and_then(Value::as_array).expect("the nodes");
    let distinct: std::collections::HashSet<&str> = ids.iter().map(|it| text(it, "/id")).collect();
    assert_eq!(distinct.len() as u64, NODES);

    let (resident, most) = (memory_mib(&daemon, "VmRSS"), memory_mib(&daemon, "VmHWM"));
    println!(
        "5,000 Nodes created in {created:.1?}; as many reports stored in {reported:.1?}; the aggregator \
         (unoptimized) holds {resident} MiB, {most} MiB at most"
    );

    // When each was last seen is written once, and then every five minutes.
    let refreshed = |count: usize, patience: Duration| {
        wait_until("the times of the last reports", patience, || {
            match writes(cluster, before).get("patch status") {
                Some(written) if *written >= count => Ok(*written),
                written => Err(written.copied()),
            }
        })
    };
    assert_eq!(refreshed(5000, PATIENCE), 5000);
    if std::env::var_os("ROLLCALL_REFRESH").is_some() {
        let started = Instant::now();
        while started.elapsed() < REFRESH {
            thread::sleep(Duration::from_mins(1));
            accept(0..NODES, |_| {});
        }
        println!("refreshes in {REFRESH:?}: {}", refreshed(10_000, PATIENCE) - 5000);
        assert!(refreshed(10_000, PATIENCE) <= 15_000, "more than every five minutes");
    }

    // What it starts again with.
    drop(daemon);
    let objects = cluster.kubectl(&["get", "ni", "--no-headers", "-o", "name"]);
    assert_eq!(objects.lines().filter(|line| line.contains("/scale-")).count() as u64, NODES);
}
