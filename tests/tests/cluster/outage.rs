//! The API server is away: agents' reports are taken as before, nothing ends, and all recovers by itself.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{CLUSTER_ID, get};
use rollcall_tests::cluster::deployment::{self, ADMIN, Deployment, NAMESPACE, value_of};
use rollcall_tests::cluster::replicas::{Kinds, LEASE, Replicas, Settings, name};
use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use serde_json::Value;

const SETTINGS: Settings<'static> = Settings {
    replicas: 3,
    nodes: 3,
    interval: Duration::from_secs(5),
    target: "    lookEvery: 1s\n    timeout: 5s\n",
    more: "departures: {holdDown: 3s}\n",
};

/// How many lines an aggregator may log of an outage, however long it is.
const LINES: usize = 40;

const SHORT: Duration = Duration::from_secs(25);
const LONG: Duration = Duration::from_mins(2);

pub(super) fn replicas_outlast_the_api_server(cluster: &Cluster) {
    replicas_outlast(cluster, SHORT);
}

pub(super) fn replicas_outlast_two_minutes(cluster: &Cluster) {
    replicas_outlast(cluster, LONG);
}

pub(super) fn a_deployment_outlasts_the_api_server(cluster: &Cluster) {
    a_deployment_outlasts(cluster, SHORT);
}

pub(super) fn a_deployment_outlasts_two_minutes(cluster: &Cluster) {
    a_deployment_outlasts(cluster, LONG);
}

fn replicas_outlast(cluster: &Cluster, length: Duration) {
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let mut replicas = Replicas::prepare(cluster, "outage", &aios, &SETTINGS);
    replicas.start_all();
    for node in 0..SETTINGS.nodes {
        replicas.accept(node, &replicas.report(node, 1));
    }
    wait_for_swap(&aios, 3);
    let before = replicas.marks();

    cluster.stop_api_server();
    let end = Instant::now() + length;
    while Instant::now() < end {
        for node in 0..SETTINGS.nodes {
            let report = replicas.report(node, 1).to_string();
            let answer = replicas.at(node).post_report(report.as_bytes());
            assert_eq!(answer.status, 200, "{}: {}", name(node), answer.body);
            let alive = get(replicas.at(node).admin, "/livez", "");
            assert_eq!(alive.status, 200, "{}: {}", name(node), alive.body);
        }
        thread::sleep(Duration::from_secs(2));
    }
    // What has changed cannot be stored, and the agent is told so.
    let changed = replicas.report(0, 5);
    let answer = replicas.at(0).post_report(changed.to_string().as_bytes());
    assert_eq!(answer.status, 503, "{}", answer.body);

    let marks = replicas.marks();
    cluster.start_api_server();
    replicas.accept(0, &changed);
    wait_for_swap(&aios, 7);
    let leads = |replica: &usize| {
        let metrics = get(replicas.at(*replica).admin, "/metrics", "").body;
        metrics.lines().any(|line| line == "rollcall_aggregator_leads 1")
    };
    // The Lease may go to another just now.
    wait_until("one to lead", SOON, || {
        let leaders: Vec<_> = replicas.running().into_iter().filter(leads).collect();
        if leaders.len() == 1 && leaders == Vec::from_iter(replicas.holder()) {
            Ok(())
        } else {
            Err(leaders)
        }
    });
    assert!(replicas.leads_since(&marks).is_some(), "nobody has noticed");
    assert_eq!(aios.registrations(), 1);
    for (replica, mark) in before {
        let lines = replicas.at(replica).daemon.lines();
        let said = lines.get(mark..).unwrap_or_default();
        assert!(said.len() <= LINES, "{} said too much: {said:#?}", name(replica));
    }
}

/// Waits for an entry with so much swap, GiB.
fn wait_for_swap(aios: &AiosStandin, gib: u64) {
    wait_until(&format!("an entry with {gib} GiB of swap"), SOON, || {
        let entry = aios.cluster(CLUSTER_ID);
        let swap = entry.as_ref().and_then(|entry| entry["swap"].as_u64());
        if swap == Some(gib * 1024) {
            Ok(())
        } else {
            Err(entry.map(|entry: Value| entry["swap"].clone()))
        }
    });
}

/// Agents and aggregators in their pods.
fn a_deployment_outlasts(cluster: &Cluster, length: Duration) {
    const INTERVAL: Duration = Duration::from_secs(2);
    const HOLD_DOWN: Duration = Duration::from_secs(3);
    let aios = deployment::aios(cluster);
    let file = deployment::cluster_file(
        &aios,
        "    lookEvery: 1s\n",
        "departures: {holdDown: 3s, approveAbovePercent: 100}\n",
    );
    let settings = deployment::Settings {
        cluster_file: &file,
        interval: Some(INTERVAL),
        replicas: Some(2),
        ..deployment::Settings::default()
    };
    let rollcall = Deployment::start(cluster, &settings);
    let nodes = cluster.names(&["nodes"]);
    let holds_all = |entry: &Value| entry["nodes"]["count"] == nodes.len();
    wait_until("all nodes in the entry", SOON, || match aios.cluster(deployment::CLUSTER_ID) {
        Some(entry) if holds_all(&entry) => Ok(()),
        entry => Err(entry),
    });
    let aggregators = aggregators(cluster);
    let taken = || -> f64 {
        let of = |address: &SocketAddr| {
            let metrics = get(*address, "/metrics", "").body;
            value_of(&metrics, "rollcall_aggregator_reports_total{outcome=\"unchanged\"}")
        };
        aggregators.iter().filter_map(of).sum()
    };

    cluster.stop_api_server();
    // Reports that were under way are over, and tokens that were looked at lately are so no more.
    thread::sleep(INTERVAL);
    let before = taken();
    thread::sleep(length);
    let during = taken() - before;
    // Half of what the agents are told to send must have come.
    let each = length.as_secs_f64() / INTERVAL.as_secs_f64() / 2.0;
    let enough: f64 = nodes.iter().map(|_| each).sum();
    cluster.start_api_server();
    assert!(during >= enough, "{during} reports were taken without the API server, not {enough}");

    // What somebody takes away while not everybody watches yet is back.
    let node = nodes.first().expect("a node");
    let label = || text(&cluster.get(&["node", node]), "/metadata/labels/nodeID").to_owned();
    let id = label();
    assert_ne!(id, "", "{node} had no label");
    cluster.kubectl(&["label", "node", node, "nodeID-"]);
    wait_until("the label to be back", SOON, || if label() == id { Ok(()) } else { Err("no") });
    wait_until("one of the aggregators to lead", SOON, || {
        let leads = |address: &&SocketAddr| {
            let metrics = get(**address, "/metrics", "").body;
            value_of(&metrics, "rollcall_aggregator_leads") == Some(1.0)
        };
        let count = aggregators.iter().filter(leads).count();
        if count == 1 { Ok(()) } else { Err(count) }
    });
    let lease = cluster.get(&["lease", LEASE, "--namespace", NAMESPACE]);
    let holder = text(&lease, "/spec/holderIdentity").to_owned();
    assert!(rollcall.pods("aggregator").iter().any(|pod| pod.name == holder), "{lease}");
    wait_until("every pod to be ready as it was", SOON, || {
        let pods = cluster.get(&["pods", "--namespace", NAMESPACE]);
        let pods = pods["items"].as_array().expect("a list").clone();
        let is_well = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            assert_eq!(container["restartCount"], 0, "{pod}");
            container["ready"] == Value::Bool(true)
        };
        if pods.iter().all(is_well) { Ok(()) } else { Err(pods) }
    });

    // Nobody reports any more, which takes nothing away.
    cluster.kubectl(&["delete", "daemonset", "rollcall-agent", "--namespace", NAMESPACE]);
    let end = Instant::now() + HOLD_DOWN * 3;
    while Instant::now() < end {
        let entry = aios.cluster(deployment::CLUSTER_ID).expect("the entry");
        assert!(holds_all(&entry), "{entry}");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(aios.registrations(), 1);
}

/// Where the aggregators' metrics are, which are reached without the API server.
fn aggregators(cluster: &Cluster) -> Vec<SocketAddr> {
    let selector = "app.kubernetes.io/component=aggregator";
    let pods = cluster.get(&["pods", "--namespace", NAMESPACE, "--selector", selector]);
    let pods = pods["items"].as_array().expect("a list").iter();
    let address = |pod: &Value| {
        SocketAddr::new(text(pod, "/status/podIP").parse().expect("an address"), ADMIN)
    };
    pods.map(address).collect()
}
