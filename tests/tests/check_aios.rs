//! `rollcall-aggregator check` against stand-ins of AIOS and of the Kubernetes API, with the real
//! programs.
#![expect(clippy::expect_used, clippy::panic, reason = "a helper fails the test that uses it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rollcall_aggregator::checks;
use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, post, report};
use rollcall_tests::kubernetes::{
    Answers, KUBERNETES_TOKEN, KubernetesStandin, KubernetesState, Tls, node, pod, service,
};
use rollcall_tests::process::program;
use serde_json::{Value, json};

/// What the stand-in of Kubernetes cannot help: it does not listen on 6443.
const ALWAYS_WARNED: &str = "the API server is on port 6443";

const CONFIG: &str = "  config: {publicHostname: localhost, useGateway: false}\n";
const TWO_NODES: &str = "expect: {nodes: 2}\n";

/// All that a check looks at, as AIOS wants it, with an aggregator that waits for a third node.
struct World {
    aios: AiosStandin,
    kubernetes: KubernetesStandin,
    bed: Bed,
    aggregator: Aggregator,
}

impl World {
    fn new(expect: &str) -> Self {
        let aios = AiosStandin::start();
        let kubernetes = KubernetesStandin::start();
        let bed = Bed::new(&cluster_file(&aios, CONFIG, expect));
        bed.write("kubeconfig", &kubernetes.kubeconfig());
        let aggregator = bed.aggregator(&[]);
        for (name, machine) in [("n1", 1), ("n2", 2)] {
            let answer = aggregator.post_report(report(name, machine).to_string().as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        let world = Self { aios, kubernetes, bed, aggregator };
        world.write_cluster_file(CONFIG, TWO_NODES);
        world
    }

    /// The cluster file that is checked; the aggregator has read its own.
    fn write_cluster_file(&self, config: &str, rest: &str) {
        let text = cluster_file(&self.aios, config, rest);
        let text = format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{text}");
        self.bed.write("checked.yaml", &text);
    }

    fn check(&self, arguments: &[&str]) -> Output {
        self.check_in(&[], arguments)
    }

    /// The same in an environment.
    fn check_in(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = command(&self.bed);
        command
            .envs(environment.iter().copied())
            .args(["check", "aios", "--cluster"])
            .arg(self.bed.path("checked.yaml"))
            .arg("--server")
            .arg(format!("http://{}", self.aggregator.admin))
            .args(arguments);
        command.output().expect("the program runs")
    }

    fn check_with_kubeconfig(&self, arguments: &[&str]) -> Output {
        let kubeconfig = self.bed.path("kubeconfig");
        let kubeconfig = kubeconfig.to_str().expect("UTF-8");
        self.check(&[&["--kubeconfig", kubeconfig], arguments].concat())
    }

    fn outcomes(&self) -> (i32, Outcomes) {
        let output = self.check_with_kubeconfig(&["--output", "json"]);
        (output.status.code().expect("an exit code"), Outcomes::of(&output))
    }

    fn gateway(&self) -> SocketAddr {
        self.aios.gateway_url().trim_start_matches("http://").parse().expect("an address")
    }
}

fn cluster_file(aios: &AiosStandin, config: &str, rest: &str) -> String {
    let target = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "");
    format!("{config}{target}{rest}")
}

/// The program, in a home without a kubeconfig.
fn command(bed: &Bed) -> Command {
    let mut command = Command::new(program("rollcall-aggregator"));
    command.env("HOME", bed.path("")).env_remove("KUBECONFIG");
    command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
    for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command
}

/// How each check came out, by its name: outcome, what was seen, how to mend it.
#[derive(Debug)]
struct Outcomes(BTreeMap<String, (String, String, String)>);

impl Outcomes {
    fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {stderr}"));
        let groups = report.get("groups").and_then(Value::as_array).expect("groups");
        let checks = groups
            .iter()
            .flat_map(|group| group.get("checks").and_then(Value::as_array).expect("checks"));
        let text = |check: &Value, key: &str| {
            check.get(key).and_then(Value::as_str).expect("a text").to_owned()
        };
        Self(
            checks
                .map(|check| {
                    let outcome = text(check, "outcome");
                    (text(check, "name"), (outcome, text(check, "seen"), text(check, "mend")))
                })
                .collect(),
        )
    }

    fn get(&self, name: &str) -> (&str, &str, &str) {
        let (outcome, seen, mend) =
            self.0.get(name).unwrap_or_else(|| panic!("no check {name:?}: {self:#?}"));
        (outcome, seen, mend)
    }

    /// Those that did not pass, without what never does here.
    fn not_passed(&self) -> Vec<(&str, &str)> {
        let all = self.0.iter().map(|(name, (outcome, ..))| (name.as_str(), outcome.as_str()));
        all.filter(|(name, outcome)| *outcome != "pass" && *name != ALWAYS_WARNED).collect()
    }
}

#[test]
fn all_is_well_and_nothing_is_changed() {
    let world = World::new("expect: {nodes: 3}\n");
    let (code, outcomes) = world.outcomes();
    assert_eq!((outcomes.not_passed(), code), (vec![], 0));
    assert_eq!(outcomes.get(ALWAYS_WARNED).0, "warn");
    for (name, seen) in [
        ("the Kubernetes API answers", "v1.33.1 at http://127.0.0.1:"),
        ("every node has a nodeID", "2 of 2 nodes"),
        ("the document's nodes carry their nodeID", "2 of 2 nodes"),
        ("the cluster's id is free or ours", "the network has no entry test-cluster"),
        ("the document fits the registry", "of 102400 bytes"),
        ("config.publicHostname resolves", "127.0.0.1"),
    ] {
        assert!(outcomes.get(name).1.contains(seen), "{name}: {outcomes:#?}");
    }

    let asked = world.kubernetes.state().requests.clone();
    assert!(asked.len() >= 5 && asked.iter().all(|it| it.starts_with("GET ")), "{asked:?}");
    let sent: Vec<(String, String)> = world
        .aios
        .requests()
        .iter()
        .map(|it| (format!("{} {}", it.method, it.path), String::from_utf8_lossy(&it.body).into()))
        .collect();
    let read = ("GET /clusters/read/test-cluster".to_owned(), String::new());
    let empty = ("POST /api/createCluster".to_owned(), "{}".to_owned());
    assert_eq!(BTreeSet::from_iter(sent), BTreeSet::from([read, empty]));
    assert!(world.aios.clusters().is_empty());

    let output = world.check_with_kubeconfig(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for line in [
        "Kubernetes API\n--------------\n√ the Kubernetes API answers: v1.33.1 at ",
        "‼ the API server is on port 6443\n    http://127.0.0.1:",
        "    see docs/checks.md#the-api-server-is-on-port-6443\n",
        "\nStatus check results are √ (",
        " passed, 1 warned, 0 failed, 0 not checked)\n",
    ] {
        assert!(text.contains(line), "{line:?} is missing in\n{text}");
    }
}

type Change = fn(&mut KubernetesState);

/// What is wrong, which checks say so and how, a piece of how to mend it, the exit code.
type Case<'a> = (&'a str, Change, &'a [(&'a str, &'a str)], &'a str, i32);

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn one_thing_wrong_in_kubernetes() {
    const UNLABELLED: Change = |it| it.nodes = vec![node("n1", Some("n1")), node("n2", None)];
    let world = World::new("expect: {nodes: 3}\n");
    let well = world.kubernetes.state().clone();
    let cases: [Case<'_>; 13] = [
        (
            "a node without a label",
            UNLABELLED,
            &[
                ("every node has a nodeID", "fail"),
                ("the document's nodes carry their nodeID", "fail"),
            ],
            "kubectl label node n2 nodeID=n2",
            3,
        ),
        (
            "two nodes of one id",
            |it| it.nodes = vec![node("n1", Some("n1")), node("n2", Some("n1"))],
            &[
                ("every nodeID is there once", "fail"),
                ("the document's nodes carry their nodeID", "fail"),
            ],
            "kubectl label node n2 nodeID=n2 --overwrite",
            3,
        ),
        (
            "a node more than expected",
            |it| it.nodes.push(node("n3", Some("n3"))),
            &[("expect.nodes is the number of nodes", "warn")],
            "set expect.nodes",
            0,
        ),
        (
            "a kubelet elsewhere",
            |it| it.nodes[0]["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = 10260.into(),
            &[("kubelets are on port 10250", "warn")],
            "port: 10250",
            0,
        ),
        (
            "a node on the internet",
            |it| {
                it.nodes[0]["status"]["addresses"] =
                    json!([{"type": "ExternalIP", "address": "203.0.113.7"}]);
            },
            &[("nothing of Kubernetes is on the open internet", "warn")],
            "a firewall",
            0,
        ),
        (
            "a node port outside",
            |it| it.services.push(service("shop", "web", "NodePort", 8080, 31444)),
            &[("node ports are within 30000-32767", "warn")],
            "--service-node-port-range",
            0,
        ),
        (
            "no Ambassador",
            |it| {
                it.services.clear();
                it.pods.clear();
            },
            &[
                ("Ambassador's Service is of type NodePort", "fail"),
                ("Ambassador's HTTP port is node port 32000", "skipped"),
                ("Ambassador's pods are ready", "fail"),
            ],
            "helm install ambassador",
            3,
        ),
        (
            "a Service inside the cluster",
            |it| it.services[0]["spec"]["type"] = "ClusterIP".into(),
            &[("Ambassador's Service is of type NodePort", "fail")],
            "--patch '{\"spec\":{\"type\":\"NodePort\"}}'",
            3,
        ),
        (
            "a random port",
            |it| it.services = vec![service("ambassador", "ambassador", "NodePort", 30123, 31443)],
            &[("Ambassador's HTTP port is node port 32000", "fail")],
            "--patch '{\"spec\":{\"ports\":[{\"port\":80,\"nodePort\":32000}]}}'",
            3,
        ),
        (
            "HTTPS on HTTP's port",
            |it| it.services = vec![service("ambassador", "ambassador", "NodePort", 30123, 32000)],
            &[("Ambassador's HTTP port is node port 32000", "fail")],
            "{\"port\":443,\"nodePort\":32443}",
            3,
        ),
        (
            "another Service on the port",
            |it| {
                it.services = vec![
                    service("ambassador", "ambassador", "NodePort", 30123, 31443),
                    service("shop", "web", "NodePort", 32000, 31444),
                ];
            },
            &[("Ambassador's HTTP port is node port 32000", "fail")],
            "give shop/web another node port first",
            3,
        ),
        (
            "a pod that is not ready",
            |it| it.pods.push(pod("ambassador", "ambassador-2", "ambassador", false)),
            &[("Ambassador's pods are ready", "fail")],
            "kubectl describe",
            3,
        ),
        (
            "a pod of another namespace is not looked at",
            |it| it.pods.push(pod("shop", "web-1", "ambassador", false)),
            &[],
            "",
            0,
        ),
    ];
    for (what, change, expected, mend, expected_code) in cases {
        {
            let mut state = world.kubernetes.state();
            *state = well.clone();
            change(&mut state);
        }
        let (code, outcomes) = world.outcomes();
        let expected: BTreeSet<(&str, &str)> = expected.iter().copied().collect();
        let got: BTreeSet<(&str, &str)> = outcomes.not_passed().into_iter().collect();
        assert_eq!((got, code), (expected.clone(), expected_code), "{what}: {outcomes:#?}");
        let mends = expected.iter().map(|(name, _)| outcomes.get(name).2);
        let mends: Vec<&str> = mends.collect();
        assert!(mend.is_empty() || mends.iter().any(|it| it.contains(mend)), "{what}: {mends:?}");
    }
}

#[test]
fn one_thing_wrong_in_the_cluster_file() {
    let world = World::new("expect: {nodes: 3}\n");
    for (what, config, rest, expected, expected_code) in [
        (
            "no name",
            String::new(),
            TWO_NODES,
            &[
                ("config.publicHostname is set", "fail"),
                ("config.publicHostname resolves", "skipped"),
                // AIOS takes it for true.
                ("config.useGateway is off", "warn"),
            ][..],
            3,
        ),
        (
            "a name that nobody knows",
            "  config: {publicHostname: no-such-host.invalid, useGateway: false}\n".to_owned(),
            TWO_NODES,
            &[("config.publicHostname resolves", "warn")],
            0,
        ),
        (
            "the network's gateway on",
            "  config: {publicHostname: localhost, useGateway: true}\n".to_owned(),
            TWO_NODES,
            &[("config.useGateway is off", "warn")],
            0,
        ),
        (
            "no expectation",
            CONFIG.to_owned(),
            "",
            &[("expect.nodes is the number of nodes", "warn")],
            0,
        ),
    ] {
        world.write_cluster_file(&config, rest);
        let (code, outcomes) = world.outcomes();
        assert_eq!((outcomes.not_passed().as_slice(), code), (expected, expected_code), "{what}");
    }

    // A secret on its way to another machine: nothing is asked for what holds it.
    let target = Bed::aios_target("http://192.0.2.1:8000", &world.aios.gateway_url(), "");
    let text = format!(
        "cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{CONFIG}  clusterMetadata: {{additionalInfo: {{joinCommand: kubeadm join --token abcdef.0123456789abcdef}}}}\n{target}"
    );
    world.bed.write("checked.yaml", &text);
    let output = world.check_with_kubeconfig(&["--output", "json", "--timeout", "500ms"]);
    assert_eq!(output.status.code(), Some(3));
    let outcomes = Outcomes::of(&output);
    assert_eq!(outcomes.get("secrets stay off plain HTTP").0, "fail");
    for name in ["the gateway answers", "the parser answers", "the cluster's id is free or ours"] {
        assert_eq!(outcomes.get(name).0, "skipped", "{name}");
    }
    assert!(!String::from_utf8_lossy(&output.stdout).contains("abcdef"), "{outcomes:#?}");

    // What is no cluster file, or names no such target.
    world.bed.write("checked.yaml", "cluster:\n  id: West\n");
    let output = world.check_with_kubeconfig(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("× the cluster file is valid\n    cluster file /"), "{text}");
    assert!(text.contains("line 2, column 7: cluster id \"West\""), "{text}");
    world.bed.write("checked.yaml", "cluster:\n  id: west\n  regionId: lab\n");
    let output = world.check_with_kubeconfig(&[]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("names no target \"aios\"; there are: none"), "{text}");
}

#[test]
fn what_the_network_says() {
    let world = World::new("expect: {nodes: 3}\n");
    let gateway_and_id =
        [("the cluster's id is free or ours", "skipped"), ("the gateway answers", "fail")];
    for (what, behaviour, expected) in [
        ("the gateway is away", Behaviour::GatewayDown, &gateway_and_id[..]),
        ("the registry fails", Behaviour::RegistryFails, &gateway_and_id),
    ] {
        world.aios.set(behaviour);
        let (code, outcomes) = world.outcomes();
        assert_eq!((outcomes.not_passed().as_slice(), code), (expected, 3), "{what}");
    }
    world.aios.set(Behaviour::NotAnswering);
    let output = world.check_with_kubeconfig(&["--output", "json", "--timeout", "500ms"]);
    let outcomes = Outcomes::of(&output);
    assert_eq!(outcomes.get("the parser answers").1, "no answer within 500ms");
    assert_eq!(outcomes.get("the gateway answers").0, "fail");
    world.aios.set(Behaviour::Normal);

    // Each service in the other's place.
    let swapped = Bed::aios_target(&world.aios.gateway_url(), &world.aios.parser_url(), "");
    let text =
        format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\n{CONFIG}{swapped}{TWO_NODES}");
    world.bed.write("checked.yaml", &text);
    let (code, outcomes) = world.outcomes();
    assert_eq!(code, 3);
    assert!(outcomes.get("the parser answers").1.starts_with("there is no createCluster there"));
    assert!(outcomes.get("the gateway answers").1.contains("is gatewayUrl that of AIOS's gateway"));
    world.write_cluster_file(CONFIG, TWO_NODES);

    // Somebody else's entry, first without a mark, then with another installation's.
    let installation = "00000000-0000-4000-8000-000000000001";
    for (info, words) in [
        (json!({}), "that no installation of rollcall made"),
        (json!({"rollcallInstallation": installation}), "of another installation of rollcall"),
    ] {
        let mut entry = world.aggregator.ask(&["document"]);
        entry["clusterMetadata"]["additionalInfo"] = info;
        let created = post(world.gateway(), "/clusters/create", "", entry.to_string().as_bytes());
        assert_eq!(created.status, 200, "{}", created.body);
        let (code, outcomes) = world.outcomes();
        let (outcome, seen, _) = outcomes.get("the cluster's id is free or ours");
        assert_eq!((outcome, code), ("fail", 3), "{seen}");
        assert!(seen.contains(words), "{words}: {seen}");
        let gone = format!(
            "DELETE /clusters/delete/{CLUSTER_ID} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        let gone = rollcall_tests::bed::exchange(world.gateway(), gone.as_bytes());
        assert_eq!(gone.status, 200, "{}", gone.body);
    }
}

#[test]
fn our_own_entry_is_known_where_an_aggregator_answers() {
    let mut world = World::new(TWO_NODES);
    let daemon = &world.aggregator.daemon;
    daemon.wait_for_line(|line| line.contains("the cluster is registered"), PATIENCE);
    let (code, outcomes) = world.outcomes();
    assert_eq!((outcomes.not_passed(), code), (vec![], 0));
    let id = "the cluster's id is free or ours";
    assert!(outcomes.get(id).1.contains("is of this installation"), "{outcomes:#?}");

    assert!(world.aggregator.daemon.terminate().success());
    let (code, outcomes) = world.outcomes();
    assert_eq!(code, 0, "{outcomes:#?}");
    let expected = [
        ("an aggregator answers", "warn"),
        (id, "warn"),
        ("the document fits the registry", "skipped"),
        ("the document's nodes carry their nodeID", "skipped"),
    ];
    assert_eq!(outcomes.not_passed(), expected);
}

#[test]
fn another_clusters_aggregator_is_not_believed() {
    let world = World::new("expect: {nodes: 3}\n");
    let text = cluster_file(&world.aios, CONFIG, TWO_NODES);
    world.bed.write("checked.yaml", &format!("cluster:\n  id: east\n  regionId: lab\n{text}"));
    let (code, outcomes) = world.outcomes();
    assert_eq!(code, 0, "{outcomes:#?}");
    let (outcome, seen, _) = outcomes.get("an aggregator answers");
    assert_eq!((outcome, seen), ("warn", "it serves cluster test-cluster, not east"));
    assert_eq!(outcomes.get("the document fits the registry").0, "skipped");
}

#[test]
fn a_kubernetes_that_does_not_answer_hides_nothing_else() {
    let world = World::new("expect: {nodes: 3}\n");
    let limit = ["--output", "json", "--timeout", "1s"];
    let version = "the Kubernetes API answers";
    let nodes = "every node has a nodeID";
    for (what, answers, expected) in [
        ("never", Answers::Never, [(version, "fail"), (nodes, "skipped")]),
        ("its version alone", Answers::VersionAlone, [(version, "pass"), (nodes, "fail")]),
        ("not of Kubernetes", Answers::AnotherService, [(version, "fail"), (nodes, "skipped")]),
        ("forbidden", Answers::Forbidden, [(version, "pass"), (nodes, "fail")]),
    ] {
        world.kubernetes.state().answers = answers;
        let started = Instant::now();
        let output = world.check_with_kubeconfig(&limit);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        let outcomes = Outcomes::of(&output);
        assert_eq!(output.status.code(), Some(3), "{what}");
        for (name, outcome) in expected {
            assert_eq!(outcomes.get(name).0, outcome, "{what}: {name}: {outcomes:#?}");
        }
        assert_eq!(outcomes.get("the parser answers").0, "pass", "{what}");
        assert_eq!(outcomes.get("config.publicHostname resolves").0, "pass", "{what}");
    }
    world.kubernetes.state().answers = Answers::Never;
    let outcomes = Outcomes::of(&world.check_with_kubeconfig(&limit));
    assert_eq!(outcomes.get(version).1, "no answer within 1s");
    let why = "not checked: the Kubernetes API cannot be reached";
    assert_eq!(outcomes.get(nodes).1, why);
}

#[test]
fn ways_to_kubernetes() {
    let world = World::new("expect: {nodes: 3}\n");
    let name = "the Kubernetes API answers";
    let path = world.bed.path("kubeconfig");
    let path = path.to_str().expect("UTF-8");
    let output = world.check(&["--output", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let outcomes = Outcomes::of(&output);
    assert!(outcomes.get(name).1.starts_with("there is no kubeconfig"), "{outcomes:#?}");
    assert_eq!(outcomes.get("the parser answers").0, "pass");

    for (what, arguments, words) in [
        (
            "a file that is not there",
            &["--kubeconfig", "/nonexistent/config"][..],
            "/nonexistent/config",
        ),
        ("a context that is not there", &["--kubeconfig", path, "--context", "prod"], "prod"),
        (
            "a context without a file",
            &["--context", "prod"],
            "no kubeconfig to take the context prod",
        ),
    ] {
        let output = world.check(&[arguments, &["--output", "json"]].concat());
        let outcomes = Outcomes::of(&output);
        let (outcome, seen, _) = outcomes.get(name);
        assert_eq!((outcome, output.status.code()), ("fail", Some(3)), "{what}: {seen}");
        assert!(seen.contains(words), "{what}: {seen}");
    }

    // As kubectl finds it, too.
    let kubeconfig = world.kubernetes.kubeconfig();
    let folder = world.bed.path(".kube");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("config"), kubeconfig).expect("written");
    let outcomes = Outcomes::of(&world.check(&["--output", "json", "--context", "lab"]));
    assert_eq!(outcomes.get(name).0, "pass", "{outcomes:#?}");
}

#[test]
fn kubernetes_over_tls() {
    let mut world = World::new("expect: {nodes: 3}\n");
    let tls = Tls::generate();
    world.kubernetes = KubernetesStandin::start_with_tls(&tls);
    world.bed.write("ca.pem", &tls.ca);
    world.bed.write("foreign-ca.pem", &Tls::generate().ca);
    world.bed.write("client.pem", &tls.client_cert);
    world.bed.write("client.key", &tls.client_key);
    let bare = world.kubernetes.kubeconfig();
    // Files stand beside the kubeconfig that names them.
    let with_ca = |ca: &str, more: &str| {
        bare.replace("\nusers:", &format!("\n    certificate-authority: {ca}{more}\nusers:"))
    };
    let with_cert = |kubeconfig: &str| {
        let files = "    client-certificate: client.pem\n    client-key: client.key\ncontexts:";
        kubeconfig.replace("contexts:", files)
    };
    let whole = with_cert(&with_ca("ca.pem", ""));
    let none = &[][..];
    let dead = ("HTTPS_PROXY", "http://127.0.0.2:9");
    let through_dead = with_cert(&with_ca("ca.pem", "\n    proxy-url: http://127.0.0.2:9"));
    for (what, kubeconfig, environment, outcome, words) in [
        ("as it should be", &whole, none, "pass", "v1.33.1 at https://127.0.0.1:"),
        (
            "a foreign authority",
            &with_cert(&with_ca("foreign-ca.pem", "")),
            none,
            "fail",
            "certificate",
        ),
        ("the system's authorities", &with_cert(&bare), none, "fail", "certificate"),
        ("no certificate of ours", &with_ca("ca.pem", ""), none, "fail", "ertificate"),
        (
            "a file that is not there",
            &with_cert(&with_ca("none.pem", "")),
            none,
            "fail",
            "none.pem",
        ),
        ("a proxy", &whole, &[dead], "fail", "http://127.0.0.2:9"),
        (
            "a proxy without a scheme",
            &whole,
            &[("HTTPS_PROXY", "127.0.0.2:9")],
            "fail",
            "http://127.0.0.2:9",
        ),
        (
            "a proxy that is itself reached without one",
            &whole,
            &[dead, ("NO_PROXY", "127.0.0.2")],
            "fail",
            "http://127.0.0.2:9",
        ),
        ("a proxy for others", &whole, &[dead, ("NO_PROXY", "127.0.0.1")], "pass", "v1.33.1"),
        (
            "a proxy of the kubeconfig",
            &through_dead,
            &[("NO_PROXY", "127.0.0.1,127.0.0.2")],
            "fail",
            "http://127.0.0.2:9",
        ),
    ] {
        world.bed.write("kubeconfig", kubeconfig);
        let path = world.bed.path("kubeconfig");
        let path = path.to_str().expect("UTF-8");
        let output = world.check_in(environment, &["--kubeconfig", path, "--output", "json"]);
        let outcomes = Outcomes::of(&output);
        let (got, seen, _) = outcomes.get("the Kubernetes API answers");
        assert_eq!(got, outcome, "{what}: {seen}");
        assert!(seen.contains(words), "{what}: {seen}");
    }
}

#[test]
fn the_kubeconfigs_credentials_are_shown_nowhere() {
    let world = World::new("expect: {nodes: 3}\n");
    let kubeconfig = world.kubernetes.kubeconfig();
    let user = format!("    token: {KUBERNETES_TOKEN}\n");
    let plugin = |script: &str| {
        kubeconfig.replace(
            &user,
            &format!(
                "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: sh\n      interactiveMode: Never\n      args: ['-c', '{script}']\n"
            ),
        )
    };
    let file = world.bed.path("kubernetes-token");
    fs::write(&file, KUBERNETES_TOKEN).expect("written");
    let from_file = kubeconfig.replace(&user, &format!("    tokenFile: {}\n", file.display()));
    let prints = format!("echo {KUBERNETES_TOKEN}");
    let version = "the Kubernetes API answers";
    let nodes = "every node has a nodeID";
    for (what, kubeconfig, answers, name, words) in [
        ("all well", kubeconfig.clone(), Answers::Normal, nodes, "2 of 2 nodes"),
        ("from a file", from_file.clone(), Answers::Normal, nodes, "2 of 2 nodes"),
        (
            "a server that repeats it",
            kubeconfig.clone(),
            Answers::Forbidden,
            nodes,
            "*** masked ***",
        ),
        ("and from a file", from_file, Answers::Forbidden, nodes, "*** masked ***"),
        (
            "a mistake beside it",
            kubeconfig.replace("    token: ", "    token: [] "),
            Answers::Normal,
            version,
            "it is no YAML of a kubeconfig, line 11",
        ),
        (
            "a plugin that fails",
            plugin(&format!("{prints}; exit 1")),
            Answers::Normal,
            version,
            "credential plugin failed",
        ),
        (
            "a plugin of another kind",
            plugin(&prints),
            Answers::Normal,
            version,
            "credential plugin printed no ExecCredential",
        ),
        (
            "a plugin that hangs",
            plugin("sleep 30"),
            Answers::Normal,
            version,
            "no answer within 2s",
        ),
    ] {
        world.kubernetes.state().answers = answers;
        world.bed.write("kubeconfig", &kubeconfig);
        let started = Instant::now();
        let output = world.check_with_kubeconfig(&[
            "--output",
            "json",
            "--timeout",
            "2s",
            "--log-level",
            "trace",
        ]);
        assert!(started.elapsed() < Duration::from_secs(15), "{what}");
        let seen = Outcomes::of(&output).get(name).1.to_owned();
        assert!(seen.contains(words), "{what}: {seen}");
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!text.contains(KUBERNETES_TOKEN), "{what}: {text}");
        }
    }
}

#[test]
fn a_large_cluster_comes_in_pages() {
    let world = World::new("expect: {nodes: 3}\n");
    let count = 1201;
    world.kubernetes.state().nodes = (0..count)
        .map(|n| node(&format!("n{n}"), (n != 1000).then(|| format!("id-{n}")).as_deref()))
        .collect();
    let (_, outcomes) = world.outcomes();
    assert_eq!(
        outcomes.get("every node has a nodeID").1,
        "1 of 1201 nodes have no label nodeID: n1000"
    );
    let asked = world.kubernetes.state().requests.clone();
    let pages = asked.iter().filter(|it| it.starts_with("GET /api/v1/nodes?"));
    assert_eq!(pages.count(), 3, "{asked:?}");
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_check_has_its_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks.md");
    let docs = fs::read_to_string(path).expect("docs/checks.md");
    let headings = docs.lines().filter_map(|line| line.strip_prefix("### "));
    let headings: BTreeSet<String> = headings.map(str::to_owned).collect();
    let of_file = checks::cluster_file::GROUPS.iter().flat_map(|group| group.checks);
    let of_aios = checks::aios::GROUPS.iter().flat_map(|group| group.checks);
    let pages = of_file.map(|check| (check.name, check.page));
    let pages: Vec<(&str, &str)> =
        pages.chain(of_aios.map(|check| (check.name, check.page))).collect();
    for (name, page) in &pages {
        assert_eq!(*page, format!("docs/checks.md#{}", anchor(name)));
    }
    let names: BTreeSet<String> = pages.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(headings, names, "a heading for each check, and a check for each heading");
}

#[test]
fn what_infrastructure_is_made_with() {
    let world = World::new(TWO_NODES);
    let token = "a-token-of-the-kubeconfig-for-aios";
    let kubeconfig = |server: &str, user: &str| {
        format!(
            "clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\ncontexts: []\nusers: [{{name: u, user: {{{user}}}}}]\n"
        )
    };
    let there = "https://192.0.2.1:6443";
    let with_token = format!("token: {token}");
    let tasks = world.aios.tasks_url();
    for (what, content, tasks_url, expected, words) in [
        ("all well", Some(kubeconfig(there, &with_token)), tasks.as_str(), &[][..], ""),
        (
            "no file",
            None,
            &tasks,
            &[("the kubeconfig is whole", "fail")],
            "aios-kubeconfig cannot be read",
        ),
        (
            "a program",
            Some(kubeconfig(there, "exec: {command: aws}")),
            &tasks,
            &[("the kubeconfig is whole", "fail")],
            "(exec)",
        ),
        (
            "this machine",
            Some(kubeconfig("https://127.0.0.1:6443", &with_token)),
            &tasks,
            &[("the kubeconfig is whole", "warn")],
            "https://127.0.0.1:6443",
        ),
        (
            "nobody at the tasks' URL",
            Some(kubeconfig(there, &with_token)),
            "http://127.0.0.1:9",
            &[("the tasks' database answers", "fail")],
            "http://127.0.0.1:9/task/none",
        ),
        (
            "something else at the tasks' URL",
            Some(kubeconfig(there, &with_token)),
            &world.aios.parser_url(),
            &[("the tasks' database answers", "fail")],
            "that is not how a tasks' database answers",
        ),
    ] {
        let path = world.bed.path("aios-kubeconfig");
        match content {
            Some(content) => world.bed.write("aios-kubeconfig", &content),
            None => drop(fs::remove_file(&path)),
        }
        let declared = format!(
            "    infrastructure: {{kubeconfigFile: {}, tasksUrl: '{tasks_url}'}}\n{TWO_NODES}",
            path.display()
        );
        world.write_cluster_file(CONFIG, &declared);
        let (_, outcomes) = world.outcomes();
        assert_eq!(outcomes.not_passed(), expected, "{what}");
        for (name, _) in expected {
            let (_, seen, _) = outcomes.get(name);
            assert!(seen.contains(words), "{what}: {seen}");
        }
        assert!(!format!("{outcomes:?}").contains(token), "{what}");
    }
}
