//! The network's infrastructure on the cluster, and the secrets that it takes.

use std::fs;
use std::thread;
use std::time::Duration;

use rollcall_tests::aios::{AiosStandin, Behaviour, Fault, Infrastructure, Recorded, ServiceKind};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, PATIENCE, get, report, said};
use serde_json::{Value, json};

const JOIN_COMMAND: &str = "kubeadm join 192.0.2.1:6443 --token abcdef.0123456789abcdef";
const NEXT_JOIN_COMMAND: &str = "kubeadm join 192.0.2.1:6443 --token fedcba.9876543210fedcba";
const KUBE_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.hunter2";
const KEY_DATA: &str = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCg==";
const PASSWORD: &str = "correct horse battery staple";

/// A part of each secret that tells it from all else.
const SECRETS: [&str; 6] = [
    "fedcba.9876543210fedcba",
    "abcdef.0123456789abcdef",
    "eyJhbGciOiJSUzI1NiJ9",
    "hunter2",
    "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCg",
    "correct horse",
];

fn kubeconfig() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
        "users": [{"name": "u", "user": {
            "token": KUBE_TOKEN,
            "client-key-data": KEY_DATA,
            "password": PASSWORD,
        }}]
    })
}

/// A bed whose target wants infrastructure, reached by `gateway_url`.
fn bed_at(aios: &AiosStandin, gateway_url: &str, more: &str) -> Bed {
    let target = format!(
        "    lookEvery: 1s\n    infrastructure: {{kubeconfigFile: 'KUBECONFIG', tasksUrl: '{}'}}\n{more}expect: {{nodes: 1}}\n",
        aios.tasks_url()
    );
    let bed = Bed::new(&Bed::aios_target(&aios.parser_url(), gateway_url, &target));
    // JSON is YAML.
    bed.write("kubeconfig", &kubeconfig().to_string());
    bed.declare("  config: {publicHostname: public.example.org, useGateway: false}\n");
    let kubeconfig = bed.path("kubeconfig").display().to_string();
    bed.write("cluster.yaml", &bed.cluster_file().replace("KUBECONFIG", &kubeconfig));
    bed
}

fn bed_for(aios: &AiosStandin) -> Bed {
    bed_at(aios, &aios.gateway_url(), "")
}

fn sent_to(aios: &AiosStandin, path: &str) -> Vec<Recorded> {
    aios.requests().into_iter().filter(|request| request.path == path).collect()
}

fn asked(aios: &AiosStandin) -> usize {
    sent_to(aios, "/create-cluster-infra").len()
}

/// Waits for a phase of the infrastructure, and returns why it is in it.
fn wait_for(aggregator: &Aggregator, phase: &str) -> String {
    let target = aggregator.wait_for_target(phase, PATIENCE, |target| {
        target.pointer("/infrastructure/phase").and_then(Value::as_str).unwrap_or("none") == phase
    });
    let detail = target.pointer("/infrastructure/detail").and_then(Value::as_str);
    detail.unwrap_or_default().to_owned()
}

#[test]
fn no_secret_is_shown_anywhere() {
    let all = format!("{JOIN_COMMAND}, {KUBE_TOKEN}, {KEY_DATA}, {PASSWORD}");
    let aios = AiosStandin::start();
    let bed = bed_for(&aios);
    bed.declare(&format!(
        "  clusterMetadata:\n    additionalInfo:\n      joinCommand: {JOIN_COMMAND}\n"
    ));
    let mut aggregator = bed.aggregator(&["--log-level", "trace"]);
    let mut shown = String::new();
    let look = |aggregator: &Aggregator, shown: &mut String| {
        for command in [
            &["status"][..],
            &["status", "--output", "json"],
            &["history"],
            &["history", "--output", "json"],
            &["document"],
            &["document", "aios"],
            &["nodes"],
            &["submit", "aios", "--dry-run"],
            &["diff", "aios"],
            &["diff", "aios", "--output", "json"],
        ] {
            shown.push_str(&said(&aggregator.act(command)));
        }
        shown.push_str(&get(aggregator.admin, "/metrics", "").body);
        shown.push_str(&get(aggregator.admin, "/v1/targets/aios/plan", "").body);
    };

    // A network that repeats in its refusal all that it may have heard of.
    aios.set(Behaviour::PolicyRefuses { why: format!("I do not like {all}") });
    aggregator.accept(&report("node-a", 1));
    let refused = aggregator.wait_for_phase("refused");
    let detail = refused["detail"].as_str().expect("why");
    assert!(detail.contains("I do not like *** masked ***"), "{detail}");
    look(&aggregator, &mut shown);

    // A task that repeats it.
    aios.set(Behaviour::Normal);
    aios.set_infrastructure(Infrastructure::Fails {
        after: Duration::ZERO,
        error: format!("cannot log in with {all}"),
    });
    aggregator.do_act(&["submit", "aios"]);
    let detail = wait_for(&aggregator, "failed");
    assert!(
        detail.contains("the network's task failed: cannot log in with *** masked ***"),
        "{detail}"
    );
    let failed = aggregator.act(&["infrastructure", "aios"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("cannot log in with *** masked ***"), "{}", said(&failed));
    shown.push_str(&said(&failed));
    look(&aggregator, &mut shown);

    // All goes well; then the owner changes the secret in the document.
    aios.set_infrastructure(Infrastructure::default());
    aggregator.do_act(&["infrastructure", "aios"]);
    look(&aggregator, &mut shown);
    shown.push_str(&aggregator.daemon.lines().join("\n"));
    assert!(aggregator.daemon.terminate().success());
    bed.write("cluster.yaml", &bed.cluster_file().replace(JOIN_COMMAND, NEXT_JOIN_COMMAND));
    let aggregator = bed.aggregator(&["--log-level", "trace"]);
    let changed = json!({"clusterMetadata.additionalInfo.joinCommand": NEXT_JOIN_COMMAND});
    aios.wait_for("the change", PATIENCE, |aios| {
        aios.requests().iter().any(|request| request.json().as_ref() == Some(&changed))
    });
    look(&aggregator, &mut shown);
    let words =
        "clusterMetadata.additionalInfo.joinCommand is *** masked *** there, *** masked *** here";
    assert!(shown.contains(words), "{shown}");

    for sent in sent_to(&aios, "/create-cluster-infra") {
        let body = sent.json().expect("JSON");
        assert_eq!(body["cluster_id"], CLUSTER_ID);
        assert!(body["kube_config_data"].is_object(), "an object, not its text");
        assert_eq!(body["kube_config_data"], kubeconfig(), "whole");
    }
    assert_eq!(asked(&aios), 3);
    shown.push_str(&aggregator.daemon.lines().join("\n"));
    assert!(shown.contains("DEBUG"), "more than is logged by default");
    let mut files = 0;
    for entry in fs::read_dir(bed.path("")).expect("the bed") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("rollcall.db") {
            files += 1;
            shown
                .push_str(&String::from_utf8_lossy(&fs::read(&path).expect("a file of the store")));
        }
    }
    assert!(files >= 2, "the store and its log");
    assert!(shown.contains("infrastructure: failed"), "the store was read");
    for secret in SECRETS {
        let at = shown.find(secret);
        let around = at.map(|at| shown.get(at.saturating_sub(300)..at + 60));
        assert_eq!(at, None, "{secret} is shown: …{around:?}…");
    }
}

#[test]
fn a_kubeconfig_does_not_go_over_plain_http_to_another_machine() {
    let aios = AiosStandin::start();
    // An address of documentation (RFC 5737); a proxy that is the gateway leads there.
    let proxy = format!("    proxy: {}\n", aios.gateway_url());
    let bed = bed_at(&aios, "http://192.0.2.1:5000", &proxy);
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let detail = wait_for(&aggregator, "failed");
    for words in [
        "a kubeconfig holds secrets",
        "http://192.0.2.1:5000/create-cluster-infra is plain HTTP to another machine",
        "use https, or set insecureHttp: true",
    ] {
        assert!(detail.contains(words), "{words} in {detail}");
    }
    let again = aggregator.act(&["infrastructure", "aios"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert_eq!(aggregator.target()["phase"], "registered", "which holds no secret");
    assert_eq!(asked(&aios), 0);
    let heard = aios
        .requests()
        .iter()
        .map(|it| String::from_utf8_lossy(&it.body).into_owned())
        .collect::<String>();
    assert!(SECRETS.iter().all(|secret| !heard.contains(secret)));

    // The way is the right one: where it is allowed, it is sent.
    assert!(aggregator.daemon.terminate().success());
    let file = bed.cluster_file().replace(&proxy, &format!("{proxy}    insecureHttp: true\n"));
    bed.write("cluster.yaml", &file);
    let aggregator = bed.aggregator(&[]);
    aggregator.do_act(&["infrastructure", "aios"]);
    assert_eq!(asked(&aios), 1);
}

#[test]
fn infrastructure_that_fails_is_asked_for_again_by_a_person_only() {
    let aios = AiosStandin::start();
    let words = "Failed to create cluster infrastructure: namespaces is forbidden";
    aios.set_infrastructure(Infrastructure::Fails { after: Duration::ZERO, error: words.into() });
    let bed = bed_for(&aios);
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let detail = wait_for(&aggregator, "failed");
    assert_eq!(detail, format!("the network's task failed: {words}"));
    let table = said(&aggregator.operate(&["status"]));
    assert!(table.contains(words) && table.contains("failed"), "{table}");
    let metrics = get(aggregator.admin, "/metrics", "").body;
    let gauge =
        "rollcall_aggregator_target_infrastructure_phase{phase=\"failed\",target=\"aios\"} 1";
    assert!(metrics.contains(gauge), "{metrics}");
    aggregator
        .daemon
        .wait_for_line(|line| line.contains("ERROR") && line.contains(words), PATIENCE);
    assert_eq!(aggregator.target()["phase"], "registered");

    // Neither time nor a restart asks again.
    thread::sleep(Duration::from_secs(3));
    assert!(aggregator.daemon.terminate().success());
    let aggregator = bed.aggregator(&[]);
    thread::sleep(Duration::from_secs(3));
    assert_eq!(asked(&aios), 1);
    let failed = aggregator.act(&["infrastructure", "aios"]);
    assert_eq!(failed.status.code(), Some(1));
    let expected = format!(
        "target aios is without its infrastructure (failed): the network's task failed: {words}"
    );
    assert!(said(&failed).contains(&expected), "{}", said(&failed));
    assert_eq!(asked(&aios), 2);
    aios.set_infrastructure(Infrastructure::default());
    let made = aggregator.act(&["infrastructure", "aios"]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).contains("the infrastructure of target aios is there"), "{}", said(&made));
    assert_eq!((asked(&aios), aios.infrastructures()), (3, vec![CLUSTER_ID.to_owned()]));
}

#[test]
fn infrastructure_whose_reply_is_lost_is_not_asked_for_twice() {
    for (what, fault, is_killed) in [
        ("a crash before the reply", Fault::NotAnswering, true),
        ("a crash, and it was carried out", Fault::Stalls { delay: Duration::from_mins(1) }, true),
        ("a reply that is lost", Fault::ReplyLost, false),
    ] {
        let aios = AiosStandin::start();
        aios.misbehave_by(move |request| {
            (request.path == "/create-cluster-infra").then(|| fault.clone())
        });
        let bed = bed_for(&aios);
        let mut aggregator = bed.aggregator(&[]);
        aggregator.accept(&report("node-a", 1));
        aios.wait_for("the request", PATIENCE, |aios| asked(aios) == 1);
        if is_killed {
            aggregator.daemon.kill_9();
            aios.stop_misbehaving();
            aggregator = bed.aggregator(&[]);
        }
        let detail = wait_for(&aggregator, "unclear");
        for words in [
            "the reply was lost",
            "look in the network",
            "ask again with the command infrastructure",
        ] {
            assert!(detail.contains(words), "{what}: {words} in {detail}");
        }
        // As many looks as would have asked again.
        let looks = aios.requests().len();
        aios.wait_for("looks", PATIENCE, |aios| aios.requests().len() >= looks + 3);
        assert_eq!(asked(&aios), 1, "{what}");
        aios.stop_misbehaving();
        aggregator.do_act(&["infrastructure", "aios"]);
        assert_eq!(asked(&aios), 2, "{what}");
        assert_eq!(aios.creates().len(), 1, "{what}");
    }
}

/// What was asked of the gateway and the tasks' database about leaving, in order, each once.
fn leaving(aios: &AiosStandin) -> Vec<String> {
    let requests = aios.requests();
    let begun =
        requests.iter().position(|it| it.path == "/remove-cluster-infra" || it.method == "DELETE");
    let mut seen = Vec::new();
    for request in requests.iter().skip(begun.unwrap_or(requests.len())) {
        let what = match (request.service, request.method.as_str()) {
            (ServiceKind::Tasks, _) => "task",
            (_, "POST") => request.path.as_str(),
            (_, "DELETE") => "delete",
            _ => continue,
        };
        if seen.last().is_none_or(|last| last != what) {
            seen.push(what.to_owned());
        }
    }
    seen
}

#[test]
fn offboarding_takes_the_infrastructure_away_before_the_entry() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios);
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    wait_for(&aggregator, "created");
    assert_eq!(aios.infrastructures(), [CLUSTER_ID]);

    // What cannot be removed stays, and so does the entry.
    let words = "Failed to remove: the API server is away";
    aios.set_infrastructure(Infrastructure::Fails { after: Duration::ZERO, error: words.into() });
    let failed = aggregator.act(&["offboard", "aios", "--yes"]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(said(&failed).contains(words), "{}", said(&failed));
    assert_eq!(
        (leaving(&aios), aios.clusters().len()),
        (vec!["/remove-cluster-infra".to_owned(), "task".to_owned()], 1)
    );

    aios.set_infrastructure(Infrastructure::Completes { after: Duration::from_secs(1) });
    let gone = aggregator.act(&["offboard", "aios", "--yes"]);
    assert!(gone.status.success(), "{}", said(&gone));
    assert_eq!(
        leaving(&aios),
        ["/remove-cluster-infra", "task", "/remove-cluster-infra", "task", "delete"]
    );
    let last =
        sent_to(&aios, "/remove-cluster-infra").pop().and_then(|it| it.json()).expect("JSON");
    assert_eq!(last, json!({"cluster_id": CLUSTER_ID, "kube_config_data": kubeconfig()}));
    assert_eq!((aios.infrastructures(), aios.clusters()), (vec![], vec![]));
    assert_eq!(aggregator.target()["phase"], "offboarded");

    // Submitted again, it has both again.
    aggregator.do_act(&["submit", "aios"]);
    wait_for(&aggregator, "created");
    assert_eq!((aios.infrastructures().len(), aios.clusters().len()), (1, 1));

    // The entry alone.
    let before = sent_to(&aios, "/remove-cluster-infra").len();
    aggregator.do_act(&["offboard", "aios", "--yes", "--leave-infrastructure"]);
    assert_eq!(sent_to(&aios, "/remove-cluster-infra").len(), before);
    assert_eq!((aios.infrastructures().len(), aios.clusters().len()), (1, 0));
}
