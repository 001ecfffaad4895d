//! From a report to the network's registry and back, with the real programs.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{
    Aggregator, Bed, CLUSTER_ID, PATIENCE, exchange, get, report, report_with_gpus,
};
use serde_json::Value;

const ONE_NODE: &str = "expect: {nodes: 1}\n";

fn bed_for(aios: &AiosStandin, more: &str) -> Bed {
    Bed::new(&Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), more))
}

fn post(aggregator: &Aggregator, report: &Value) {
    let answer = aggregator.post_report(report.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Waits until the aggregator logs a line; logging comes after storing.
fn wait_for_log(aggregator: &Aggregator, words: &str) {
    aggregator.daemon.wait_for_line(|line| line.contains(words), PATIENCE);
}

#[test]
fn an_agent_reports_and_the_cluster_is_registered_once() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, ONE_NODE);
    let mut aggregator = bed.aggregator(&[]);
    let mut agent = bed.agent(&aggregator.intake_url(), &["--node-name", "this-machine"]);
    wait_for_log(&aggregator, "the cluster is registered");

    let creates = aios.creates();
    let [create] = creates.as_slice() else { panic!("{} creates", creates.len()) };
    assert_eq!(create.path, "/api/createCluster");
    assert_eq!(create.content_type.as_deref(), Some("application/json"));
    let sent = create.json().expect("JSON");
    assert_eq!(sent.pointer("/header/templateUri"), Some(&Value::from("Parser/V1")));
    let document = aggregator.ask(&["document", "aios"]);
    assert_eq!(
        sent.pointer("/body/spec/values"),
        Some(&document),
        "what is shown is what was sent"
    );
    assert_eq!(document.pointer("/nodes/nodeData/0/id"), Some(&Value::from("this-machine")));

    assert_eq!(aggregator.target_state(), ("registered".to_owned(), String::new()));
    let nodes = aggregator.operate(&["nodes"]);
    assert!(String::from_utf8_lossy(&nodes.stdout).contains("this-machine"));

    assert!(agent.terminate().success(), "{}", agent.tail());
    assert!(aggregator.daemon.terminate().success(), "{}", aggregator.daemon.tail());

    // A restart looks once, and sends nothing.
    let before = aios.requests().len();
    let aggregator = bed.aggregator(&[]);
    aios.wait_for("a look", PATIENCE, |aios| aios.requests().len() > before);
    let looked = |target: &Value| target.get("nextTry").is_some();
    let target = aggregator.wait_for_target("what it found", PATIENCE, looked);
    assert_eq!(target.get("phase"), Some(&Value::from("registered")), "{target}");
    let asked: Vec<String> = aios
        .requests()
        .iter()
        .skip(before)
        .map(|it| format!("{} {}", it.method, it.path))
        .collect();
    assert_eq!(asked, [format!("GET /clusters/read/{CLUSTER_ID}")]);
}

#[test]
fn a_roll_outlives_kill_9() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "expect: {nodes: 2}\n");
    let mut aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    let before = aggregator.ask(&["document"]);
    aggregator.daemon.kill_9();

    let aggregator = bed.aggregator(&[]);
    assert_eq!(aggregator.ask(&["document"]), before);
    assert_eq!(before.pointer("/nodes/nodeData/0/id"), Some(&Value::from("node-a")));
    let (phase, detail) = aggregator.target_state();
    assert_eq!(
        (phase.as_str(), detail.as_str()),
        ("waiting", "1 of 2 expected nodes have reported")
    );
    assert_eq!(aios.requests(), [], "nothing is sent before all are there");

    post(&aggregator, &report("node-b", 2));
    wait_for_log(&aggregator, "the cluster is registered");
    let stored = aios.cluster(CLUSTER_ID).expect("registered");
    assert_eq!(stored.pointer("/nodes/count"), Some(&Value::from(2)));
}

#[test]
fn a_network_that_is_away_is_come_back_to() {
    // The addresses of a stand-in that is gone.
    let gone = AiosStandin::start();
    let address = |url: String| -> SocketAddr {
        url.trim_start_matches("http://").parse().expect("an address")
    };
    let (parser, gateway) = (address(gone.parser_url()), address(gone.gateway_url()));
    let bed = bed_for(&gone, ONE_NODE);
    drop(gone);
    let aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "not registered, trying again");
    let (phase, detail) = aggregator.target_state();
    assert_eq!(phase, "failing");
    assert!(detail.contains("the network's gateway did not answer (GET http://"), "{detail}");

    let aios = AiosStandin::start_on(parser, gateway).expect("the ports are free again");
    wait_for_log(&aggregator, "the cluster is registered");
    assert_eq!(aios.creates().len(), 1);
    assert_eq!(aios.clusters().len(), 1);
}

#[test]
fn a_lost_reply_makes_no_second_registration() {
    let aios = AiosStandin::start();
    aios.set_for_next(1, Behaviour::ReplyLost);
    let bed = bed_for(&aios, ONE_NODE);
    let aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "the cluster is registered");
    assert_eq!(aios.creates().len(), 1);
}

#[test]
fn kill_9_in_the_middle_of_a_registration_makes_no_second_one() {
    for (what, behaviour) in [
        ("carried out, the reply never seen", Behaviour::Stalls { delay: Duration::from_secs(2) }),
        ("never carried out", Behaviour::NotAnswering),
    ] {
        let aios = AiosStandin::start();
        aios.set_for_next(1, behaviour);
        let bed = bed_for(&aios, ONE_NODE);
        let mut aggregator = bed.aggregator(&[]);
        post(&aggregator, &report("node-a", 1));
        aios.wait_for("the registration", PATIENCE, |aios| !aios.creates().is_empty());
        aggregator.daemon.kill_9();

        let aggregator = bed.aggregator(&[]);
        wait_for_log(&aggregator, "the cluster is registered");
        assert_eq!(aios.clusters().len(), 1, "{what}");
        // A second one only if the first was not there yet when the network was looked at.
        assert!(aios.creates().len() <= 2, "{what}: {}", aios.creates().len());
    }
}

#[test]
fn a_cluster_file_that_points_elsewhere_makes_no_second_registration() {
    let here = AiosStandin::start();
    let bed = bed_for(&here, ONE_NODE);
    let mut aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "the cluster is registered");
    assert!(aggregator.daemon.terminate().success());
    let at_home = fs::read_to_string(bed.path("cluster.yaml")).expect("the cluster file");

    // Another network.
    let there = AiosStandin::start();
    let elsewhere = at_home
        .replace(&here.parser_url(), &there.parser_url())
        .replace(&here.gateway_url(), &there.gateway_url());
    // Another id in the same network.
    let renamed = at_home.replace(CLUSTER_ID, "another-cluster");
    for (what, file) in [("another network", elsewhere), ("another id", renamed)] {
        bed.write("cluster.yaml", &file);
        let mut aggregator = bed.aggregator(&[]);
        wait_for_log(&aggregator, "a person must act");
        let (phase, detail) = aggregator.target_state();
        assert_eq!(phase, "refused", "{what}");
        assert!(detail.contains("would be registered twice"), "{what}: {detail}");
        assert!(detail.contains(&here.parser_url()), "{what}: {detail}");
        assert!(aggregator.daemon.terminate().success());
    }
    assert_eq!((here.clusters().len(), there.clusters().len()), (1, 0));

    bed.write("cluster.yaml", &at_home);
    let aggregator = bed.aggregator(&[]);
    wait_for_log(&aggregator, "the cluster is registered");
    assert_eq!(here.creates().len(), 1);
}

#[test]
fn a_join_command_is_shown_nowhere() {
    let secret = "kubeadm join 192.0.2.1:6443 --token abcdef.0123456789abcdef";
    let aios = AiosStandin::start();
    // A network that repeats what it was sent.
    aios.set(Behaviour::PolicyRefuses { why: format!("I do not like {secret}") });
    let bed = bed_for(&aios, ONE_NODE);
    let file = fs::read_to_string(bed.path("cluster.yaml")).expect("the cluster file");
    let metadata =
        format!("  clusterMetadata:\n    additionalInfo:\n      joinCommand: {secret}\ntargets:");
    bed.write("cluster.yaml", &file.replace("targets:", &metadata));
    let aggregator = bed.aggregator(&["--log-level", "trace"]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "a person must act");
    let sent = aios.creates().first().and_then(rollcall_tests::aios::Recorded::json).expect("sent");
    assert!(sent.to_string().contains(secret), "it is sent whole");

    let mut shown = aggregator.daemon.lines().join("\n");
    let commands = [
        vec!["status"],
        vec!["status", "--output", "json"],
        vec!["document"],
        vec!["document", "aios"],
        vec!["nodes"],
    ];
    for command in commands {
        let output = aggregator.operate(&command);
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
        shown.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    shown.push_str(&get(aggregator.admin, "/metrics", "").body);
    shown.push_str(&String::from_utf8_lossy(
        &fs::read(bed.path("rollcall.db-wal")).expect("the store's log"),
    ));
    assert!(shown.contains("I do not like *** masked ***"), "{shown}");
    for part in [secret, "abcdef.0123456789abcdef", "192.0.2.1:6443"] {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn nothing_for_this_machine_goes_through_a_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
    proxy.set_nonblocking(true).expect("a setting");
    let address = format!("http://{}", proxy.local_addr().expect("an address"));
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, ONE_NODE);
    let with_proxy = |command: &mut Command| {
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &address);
        }
    };
    let aggregator = bed.aggregator_with(&[], with_proxy);
    let agent = bed.agent_with(&aggregator.intake_url(), &[], with_proxy);
    agent.wait_for_line(|line| line.contains("accepted the node"), PATIENCE);
    wait_for_log(&aggregator, "the cluster is registered");
    let mut command = Command::new(rollcall_tests::process::program("rollcall-aggregator"));
    with_proxy(&mut command);
    let token = bed.path("operator-token");
    let asked = command
        .args(["status", "--server", &format!("http://{}", aggregator.admin)])
        .arg("--operator-token-file")
        .arg(token)
        .output()
        .expect("runs");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let nobody = proxy.accept().map(|(_, from)| from);
    assert!(nobody.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "the proxy was used");
}

#[test]
fn every_refusal_and_failure_says_what_it_is() {
    let away = "the network's gateway did not answer the parser (POST http://";
    for (what, behaviour, rest, phase, words) in [
        (
            "the network's policy",
            Behaviour::PolicyRefuses { why: "region lab is closed".into() },
            ONE_NODE,
            "refused",
            "the network's policy does not allow this cluster: region lab is closed",
        ),
        (
            "the envelope of the documentation",
            Behaviour::Normal,
            "    envelope: flat\nexpect: {nodes: 1}\n",
            "refused",
            "the parser misses 'body' in what it was sent",
        ),
        (
            "the gateway is down behind the parser",
            Behaviour::GatewayDown,
            ONE_NODE,
            "failing",
            away,
        ),
        (
            "the registry says no without a reason",
            Behaviour::RegistryFails,
            ONE_NODE,
            "failing",
            "the network's registry refused the document without saying why",
        ),
    ] {
        let aios = AiosStandin::start();
        // For creates only: what the network holds can be read, so the words are the parser's.
        aios.set_for_next(100, behaviour);
        let bed = bed_for(&aios, rest);
        let aggregator = bed.aggregator(&[]);
        post(&aggregator, &report("node-a", 1));
        let expected = match phase {
            "refused" => "a person must act",
            _ => "not registered, trying again",
        };
        wait_for_log(&aggregator, expected);
        let (found, detail) = aggregator.target_state();
        assert_eq!(found, phase, "{what}: {detail}");
        assert!(detail.contains(words), "{what}: {detail}");
        assert!(detail.contains("/api/createCluster answered "), "{what}: {detail}");
        let table = String::from_utf8(aggregator.operate(&["status"]).stdout).expect("text");
        assert!(table.contains(phase) && table.contains(words), "{what}: {table}");
        assert_eq!(aios.clusters(), Vec::<Value>::new(), "{what}");
    }
}

#[test]
fn a_refusal_is_not_repeated_until_something_changes() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::PolicyRefuses { why: "closed".into() });
    let bed = bed_for(&aios, ONE_NODE);
    let mut aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "a person must act");
    let tried = aios.creates().len();
    // An unchanged report changes nothing; another one is another document.
    post(&aggregator, &report("node-a", 1));
    assert_eq!(aios.creates().len(), tried);
    aios.set(Behaviour::Normal);
    assert_eq!(aggregator.target_state().0, "refused");
    assert!(aggregator.daemon.terminate().success());

    let aggregator = bed.aggregator(&[]);
    wait_for_log(&aggregator, "the cluster is registered");
    assert_eq!(aios.creates().len(), tried + 1);
}

#[test]
fn an_entry_that_is_not_ours_is_left_alone() {
    let aios = AiosStandin::start();
    let theirs = bed_for(&aios, ONE_NODE);
    let mut other = theirs.aggregator(&[]);
    post(&other, &report("their-node", 1));
    wait_for_log(&other, "the cluster is registered");
    assert!(other.daemon.terminate().success());
    let before = aios.cluster(CLUSTER_ID);

    let bed = bed_for(&aios, ONE_NODE);
    let aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("our-node", 2));
    wait_for_log(&aggregator, "a person must act");
    let (phase, detail) = aggregator.target_state();
    assert_eq!(phase, "foreign");
    assert!(detail.contains("choose another cluster.id"), "{detail}");
    assert_eq!(aios.creates().len(), 1);
    assert_eq!(aios.cluster(CLUSTER_ID), before);

    // A person has it removed, and restarts.
    let mut aggregator = aggregator;
    assert!(aggregator.daemon.terminate().success());
    let gateway: SocketAddr =
        aios.gateway_url().trim_start_matches("http://").parse().expect("an address");
    let request = format!(
        "DELETE /clusters/delete/{CLUSTER_ID} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(exchange(gateway, request.as_bytes()).status, 200);
    let aggregator = bed.aggregator(&[]);
    wait_for_log(&aggregator, "the cluster is registered");
}

#[test]
fn a_cluster_that_changes_after_registration_is_put_right() {
    let aios = AiosStandin::start();
    // Long enough for the difference to be seen before it is put right.
    let bed = bed_for(&aios, "    lookEvery: 12s\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    wait_for_log(&aggregator, "the cluster is registered");
    let registered = aios.requests().len();
    post(&aggregator, &report("node-b", 2));
    wait_for_log(&aggregator, "the registration has drifted");
    let (phase, detail) = aggregator.target_state();
    assert_eq!(phase, "drifted");
    assert!(detail.contains("nodes.count is 1 there, 2 here"), "{detail}");

    aggregator.wait_for_phase("registered");
    assert_eq!(aios.creates().len(), 1);
    let document = aggregator.ask(&["document", "aios"]);
    let stored = aios.cluster(CLUSTER_ID).expect("registered");
    assert_eq!(stored.get("nodes"), document.get("nodes"));
    let requests = aios.requests();
    let updates: Vec<_> =
        requests.iter().skip(registered).filter(|request| request.method == "PUT").collect();
    let [update] = updates.as_slice() else { panic!("{} updates", updates.len()) };
    assert_eq!(update.path, format!("/clusters/update/{CLUSTER_ID}"));
    let body = update.json().expect("JSON");
    let added = document.pointer("/nodes/nodeData/1");
    assert_eq!(body.get("nodes.nodeData.1"), added, "a node that is new is sent alone");
    assert_eq!(body.get("nodes.nodeData.0"), None, "{body}");
    assert_eq!(body.get("nodes.count"), Some(&Value::from(2)));
}

#[test]
fn a_document_that_is_too_large_for_one_request_goes_in_pieces() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "expect: {nodes: 130}\n");
    let aggregator = bed.aggregator(&[]);
    for node in 0..130 {
        post(&aggregator, &report_with_gpus(&format!("node-{node}"), node, 8));
    }
    wait_for_log(&aggregator, "the cluster is registered");
    let creates = aios.creates();
    let [create] = creates.as_slice() else { panic!("{} creates", creates.len()) };
    let document = aggregator.ask(&["document", "aios"]);
    let sent = create.json().expect("JSON");
    assert_eq!(sent.pointer("/body/spec/values/nodes/count"), Some(&Value::from(130)));
    assert_eq!(sent.pointer("/body/spec/values/gpus"), document.get("gpus"));
    let nodes = sent.pointer("/body/spec/values/nodes/nodeData").and_then(Value::as_array);
    assert!(nodes.is_some_and(|nodes| nodes.len() < 130), "it would be too large: {sent}");
    let stored = aios.cluster(CLUSTER_ID).expect("registered");
    assert_eq!(stored.get("nodes"), document.get("nodes"));
}

#[test]
fn a_network_that_never_answers_holds_nothing_up() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::NotAnswering);
    let bed = bed_for(&aios, ONE_NODE);
    let mut aggregator = bed.aggregator(&[]);
    post(&aggregator, &report("node-a", 1));
    aios.wait_for("a request", PATIENCE, |aios| !aios.requests().is_empty());
    post(&aggregator, &report("node-b", 2));
    assert_eq!(aggregator.ask(&["document"]).pointer("/nodes/count"), Some(&Value::from(2)));
    let asked_to_stop = Instant::now();
    assert!(aggregator.daemon.terminate().success(), "{}", aggregator.daemon.tail());
    assert!(asked_to_stop.elapsed() < PATIENCE, "it does not wait for the network");
}
