//! What an operator sees and says: plans, approvals, offboarding, the journal; and that nobody else
//! does.
#![expect(clippy::expect_used, reason = "what is not there fails the test")]

use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use rollcall_tests::aios::{AiosStandin, Behaviour, Recorded};
use rollcall_tests::bed::{
    Bed, CLUSTER_ID, OPERATOR_TOKEN, PATIENCE, TOKEN, get, post, report, report_with_gpus, said,
};
use rollcall_tests::process::program;
use serde_json::{Value, json};

const JOIN_COMMAND: &str = "kubeadm join 192.0.2.1:6443 --token abcdef.0123456789abcdef";

fn bed_for(aios: &AiosStandin, more: &str) -> Bed {
    Bed::new(&Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), more))
}

/// All that changes something over there.
fn changes(aios: &AiosStandin) -> Vec<Recorded> {
    aios.requests().into_iter().filter(|request| request.method != "GET").collect()
}

fn lines(aios: &AiosStandin) -> Vec<String> {
    changes(aios).iter().map(|it| format!("{} {}", it.method, it.path)).collect()
}

fn printed(output: &Output) -> Value {
    assert!(!output.stdout.is_empty(), "{}", said(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A plan's requests as method, path and body.
fn requests(plan: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let path =
        |url: &str| url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a path");
    plan.as_array()
        .expect("requests")
        .iter()
        .map(|it| (text(&it["method"]), path(&text(&it["url"])), it["body"].clone()))
        .collect()
}

fn masked(mut body: Value) -> Value {
    for at in ["/clusterMetadata", "/body/spec/values/clusterMetadata"] {
        if let Some(secret) = body.pointer_mut(&format!("{at}/additionalInfo/joinCommand")) {
            assert_eq!(secret, JOIN_COMMAND, "it is sent whole");
            *secret = "*** masked ***".into();
        }
    }
    body
}

#[test]
fn what_is_shown_is_what_is_sent_and_showing_sends_nothing() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\n    mode: approve\nexpect: {nodes: 130}\n");
    bed.declare(&format!(
        "  clusterMetadata:\n    additionalInfo:\n      joinCommand: {JOIN_COMMAND}\n"
    ));
    let aggregator = bed.aggregator(&[]);
    for node in 0..130 {
        let report = report_with_gpus(&format!("node-{node}"), node, 8);
        aggregator.accept(&report);
    }
    aggregator.wait_for_phase("ready");
    let dry = aggregator.operate(&["submit", "aios", "--dry-run"]);
    assert!(dry.status.success(), "{}", said(&dry));
    let stderr = String::from_utf8_lossy(&dry.stderr);
    assert!(stderr.contains("a secret is masked here; it is sent unmasked"), "{stderr}");
    let document = aggregator.operate(&["document", "aios"]);
    let stderr = String::from_utf8_lossy(&document.stderr);
    assert!(stderr.contains("a secret in this document is masked"), "{stderr}");
    let differs = aggregator.operate(&["diff", "aios"]);
    assert_eq!(differs.status.code(), Some(1), "there is nothing to compare: {}", said(&differs));
    assert_eq!(lines(&aios), Vec::<String>::new(), "only looks");

    aggregator.do_act(&["approve", "aios", "--yes"]);
    let sent = changes(&aios);
    assert_eq!(sent.len(), 2, "it takes two pieces: {:?}", lines(&aios));
    let sent: Vec<(String, String, Value)> = sent
        .iter()
        .map(|it| (it.method.clone(), it.path.clone(), masked(it.json().expect("JSON"))))
        .collect();
    let planned = requests(&printed(&dry));
    let places = |all: &[(String, String, Value)]| -> Vec<(String, String)> {
        all.iter().map(|(method, path, _)| (method.clone(), path.clone())).collect()
    };
    assert_eq!(places(&planned), places(&sent));
    for (planned, sent) in planned.iter().zip(&sent) {
        assert!(planned.2 == sent.2, "{} {}", planned.0, planned.1);
    }
    // A document in pieces is the document.
    let document = printed(&document);
    let mut whole = sent[0].2["body"]["spec"]["values"].clone();
    let rest = sent[1].2.as_object().expect("an object").values().cloned();
    whole["nodes"]["nodeData"].as_array_mut().expect("nodes").extend(rest);
    assert!(whole == document, "the document differs from what was sent");

    // It is right; then somebody writes; then a plan says how that would be put right.
    let same = aggregator.operate(&["diff", "aios"]);
    assert_eq!((same.status.code(), said(&same)), (Some(0), String::new()));
    aios.overwrite(CLUSTER_ID, &[("memory", json!(7)), ("nodes.nodeData.3.swap", json!(0))]);
    let differs = aggregator.operate(&["diff", "aios"]);
    assert_eq!(differs.status.code(), Some(3), "{}", said(&differs));
    let id = document.pointer("/nodes/nodeData/3/id").and_then(Value::as_str).expect("an id");
    let table = String::from_utf8_lossy(&differs.stdout).into_owned();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    let memory = document["memory"].to_string();
    let named = format!("{id}:");
    let expected = [
        vec!["FIELD", "THERE", "HERE"],
        vec!["memory", "7", memory.as_str()],
        vec!["node", named.as_str(), "swap", "0", "8192"],
    ];
    assert_eq!(rows, expected, "{table}");
    let differs = printed(&aggregator.operate(&["diff", "aios", "--output", "json"]));
    assert_eq!(differs["fields"].as_array().map(Vec::len), Some(2), "{differs}");
    let before = changes(&aios).len();
    let dry = requests(&printed(&aggregator.operate(&["submit", "aios", "--dry-run"])));
    assert_eq!(changes(&aios).len(), before);
    aggregator.wait_for_target("a proposal", PATIENCE, |it| it.get("proposal").is_some());
    aggregator.do_act(&["approve", "aios", "--yes"]);
    let sent = changes(&aios);
    let [update] = &sent[before..] else { panic!("{:?}", lines(&aios)) };
    let update = (update.method.clone(), update.path.clone(), update.json().expect("JSON"));
    assert_eq!(dry, [update]);
}

/// In a pod the environment names the cluster file, which has nothing to do with the whole document; and
/// targets that nothing is sent to say so.
#[test]
fn a_cluster_file_in_the_environment_is_in_nobodys_way() {
    let aios = AiosStandin::start();
    let more = "  - {name: engine, type: aichor, engine: {name: west}}\n";
    let bed = Bed::new(&format!(
        "{}{more}",
        Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "    mode: observe\n")
    ));
    let aggregator = bed.aggregator(&[]);
    let run = |file: &str, arguments: &[&str]| {
        let mut command = Command::new(program("rollcall-aggregator"));
        command.args(arguments).env("ROLLCALL_CLUSTER", file);
        command.env("ROLLCALL_SERVER", format!("http://{}", aggregator.admin));
        command.output().expect("the program runs")
    };
    let file = bed.path("cluster.yaml").display().to_string();
    for (file, arguments) in [
        ("/nonexistent", &["document"][..]),
        (&file, &["document"]),
        (&file, &["document", "aios"]),
    ] {
        let output = run(file, arguments);
        assert!(output.status.success(), "{file} {arguments:?}: {}", said(&output));
        assert_eq!(printed(&output)["id"], CLUSTER_ID, "{file} {arguments:?}");
    }
    for (arguments, code, words) in [
        (&["submit", "engine"][..], 2, "is of type aichor, which takes nothing over a wire"),
        (
            &["diff", "engine"],
            1,
            "is of type aichor, for which the aggregator does nothing by itself",
        ),
        (&["submit", "nobody"], 2, "the cluster file names no target \"nobody\""),
    ] {
        let output = run(&file, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_network_that_never_answers_is_waited_for_no_longer_than_was_said() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::NotAnswering);
    let bed = bed_for(&aios, "    timeout: 60s\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    aios.wait_for("a request", PATIENCE, |aios| !aios.requests().is_empty());
    let started = Instant::now();
    thread::scope(|scope| {
        let submit = scope.spawn(|| aggregator.act(&["submit", "aios", "--timeout", "3s"]));
        let mut asked = 0;
        let mut slowest = Duration::ZERO;
        while !submit.is_finished() {
            let before = Instant::now();
            for path in ["/v1/nodes", "/v1/status", "/v1/document", "/metrics", "/livez", "/readyz"]
            {
                assert_eq!(get(aggregator.admin, path, "").status, 200, "{path}");
            }
            asked += 1;
            aggregator.accept(&report(&format!("node-{asked}"), 100 + asked));
            slowest = slowest.max(before.elapsed());
            // Leaves something of the processor for the others.
            thread::sleep(Duration::from_millis(50));
        }
        let ended = submit.join().expect("no panic");
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");
        assert_eq!(ended.status.code(), Some(1));
        let words = said(&ended);
        assert!(words.contains("not done within 3s: target aios is "), "{words}");
        assert!(words.contains("The aggregator goes on with it"), "{words}");
        assert!(slowest < Duration::from_secs(6), "{slowest:?}");
        assert!(asked > 1, "{asked}");
    });
    assert_eq!(lines(&aios), Vec::<String>::new());
}

#[test]
fn acting_takes_the_operators_token_and_nothing_else() {
    let aios = AiosStandin::start();
    let infrastructure = format!(
        "    lookEvery: 1s\n    mode: approve\n    infrastructure: {{kubeconfigFile: kubeconfig, tasksUrl: '{}'}}\nexpect: {{nodes: 1}}\n",
        aios.tasks_url()
    );
    let bed = bed_for(&aios, &infrastructure);
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let before = aggregator.wait_for_phase("ready");
    let digest = before["proposal"]["digest"].as_str().expect("a digest").to_owned();
    let approve = json!({"digest": digest}).to_string();
    let history = get(aggregator.admin, "/v1/history", "").body;
    let join = format!("Authorization: Bearer {TOKEN}\r\n");
    for (path, body) in [
        ("/v1/targets/aios/submit", r#"{"adopt": true, "partial": true}"#),
        ("/v1/targets/aios/approve", approve.as_str()),
        ("/v1/targets/aios/offboard", "{}"),
        ("/v1/targets/aios/infrastructure", "null"),
    ] {
        for (what, headers) in [("no token", ""), ("the agents' token", join.as_str())] {
            let answer = post(aggregator.admin, path, headers, body.as_bytes());
            assert_eq!(answer.status, 401, "{path} with {what}: {}", answer.body);
        }
    }
    let join_token = bed.path("token").display().to_string();
    for command in [
        vec!["submit", "aios"],
        vec!["approve", "aios", "--yes"],
        vec!["approve", "aios", "--digest", &digest],
        vec!["offboard", "aios", "--yes"],
        vec!["infrastructure", "aios"],
        vec!["forget", "node-a"],
        vec!["rebind", "node-a"],
    ] {
        let agents = [command.as_slice(), &["--operator-token-file", &join_token]].concat();
        for arguments in [&command, &agents] {
            let refused = aggregator.operate(arguments);
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
            assert!(
                said(&refused).contains("401 Unauthorized"),
                "{arguments:?}: {}",
                said(&refused)
            );
        }
    }
    assert_eq!(get(aggregator.admin, "/v1/history", "").body, history);
    let after = aggregator.target();
    for part in ["phase", "will", "proposal"] {
        assert_eq!(after[part], before[part], "{part}");
    }
    assert_eq!(
        aggregator.ask(&["nodes", "--output", "json"])["nodes"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(lines(&aios), Vec::<String>::new());

    // Nor does the operator's token open the intake.
    let operator = format!("Authorization: Bearer {OPERATOR_TOKEN}\r\n");
    let stranger = report("node-b", 2).to_string();
    assert_eq!(post(aggregator.intake, "/v1/reports", &operator, stranger.as_bytes()).status, 401);
    assert_eq!(
        aggregator.ask(&["nodes", "--output", "json"])["nodes"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn nothing_is_sent_before_it_is_approved() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\n    mode: approve\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    let nothing = aggregator.act(&["approve", "aios", "--yes"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        said(&nothing).contains("nothing of target aios waits for approval"),
        "{}",
        said(&nothing)
    );
    aggregator.accept(&report("node-a", 1));
    let ready = aggregator.wait_for_phase("ready");
    let first = ready["proposal"]["digest"].as_str().expect("a digest").to_owned();
    let submit = aggregator.act(&["submit", "aios"]);
    assert_eq!(submit.status.code(), Some(1), "{}", said(&submit));
    assert!(said(&submit).contains("It waits for approval: run approve"), "{}", said(&submit));

    // Nobody is asked without a terminal.
    let asked = aggregator.act(&["approve", "aios"]);
    assert_eq!(asked.status.code(), Some(2), "{}", said(&asked));
    assert!(said(&asked).contains("give --yes"), "{}", said(&asked));
    let wrong = "0".repeat(first.len());
    let refused = aggregator.act(&["approve", "aios", "--digest", &wrong]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("409 Conflict"), "{}", said(&refused));
    assert!(
        said(&refused).contains("what waits for approval has the digest"),
        "{}",
        said(&refused)
    );

    // What was shown has changed: the approval of it is worth nothing.
    aggregator.accept(&report("node-b", 2));
    let changed = aggregator.wait_for_target("another proposal", PATIENCE, |target| {
        target["proposal"]["digest"].as_str().is_some_and(|digest| digest != first)
    });
    let outdated = aggregator.act(&["approve", "aios", "--digest", &first]);
    assert!(said(&outdated).contains("409 Conflict"), "{}", said(&outdated));
    assert_eq!(lines(&aios), Vec::<String>::new());
    let second = changed["proposal"]["digest"].as_str().expect("a digest").to_owned();
    aggregator.do_act(&["approve", "aios", "--digest", &second]);
    assert_eq!(lines(&aios), ["POST /api/createCluster"]);

    // A cluster that changes is another proposal; until then the entry stays.
    let registered = aios.cluster(CLUSTER_ID);
    aggregator.accept(&report("node-c", 3));
    let waits =
        aggregator.wait_for_target("a proposal", PATIENCE, |it| it.get("proposal").is_some());
    assert_eq!(waits["phase"], "drifted");
    let metrics = get(aggregator.admin, "/metrics", "").body;
    assert!(metrics.contains("rollcall_aggregator_target_awaits_approval{target=\"aios\"} 1"));
    for spent in [&first, &second] {
        let refused = aggregator.act(&["approve", "aios", "--digest", spent]);
        assert!(said(&refused).contains("409 Conflict"), "{}", said(&refused));
    }
    assert_eq!(aios.cluster(CLUSTER_ID), registered);
    let approved = aggregator.act(&["approve", "aios", "--yes"]);
    assert!(approved.status.success(), "{}", said(&approved));
    assert!(
        said(&approved).contains("node node-c"),
        "what is approved is shown: {}",
        said(&approved)
    );
    let stored = aios.cluster(CLUSTER_ID).expect("registered");
    assert_eq!(stored.pointer("/nodes/count"), Some(&json!(3)));
    // The same change again needs another yes: an approval is spent once.
    aios.overwrite(CLUSTER_ID, &[("nodes.count", json!(2))]);
    aggregator.wait_for_target("a proposal", PATIENCE, |it| it.get("proposal").is_some());
    assert_eq!(aios.cluster(CLUSTER_ID).expect("registered")["nodes"]["count"], json!(2));
}

#[test]
fn an_observed_target_is_looked_at_and_never_written_to() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\n    mode: observe\nexpect: {nodes: 1}\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let ready = aggregator.wait_for_phase("ready");
    let detail = ready["detail"].as_str().expect("why");
    assert!(detail.contains("only observed (mode: observe), nothing is sent"), "{detail}");
    for command in [
        vec!["submit", "aios"],
        vec!["offboard", "aios", "--yes"],
        vec!["approve", "aios", "--digest", &"0".repeat(64)],
        vec!["infrastructure", "aios"],
    ] {
        let refused = aggregator.act(&command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        assert!(said(&refused).contains("409 Conflict"), "{command:?}: {}", said(&refused));
        assert!(said(&refused).contains("is only observed"), "{command:?}: {}", said(&refused));
    }
    let before = aios.requests().len();
    aios.wait_for("further looks", PATIENCE, |aios| aios.requests().len() >= before + 3);
    assert_eq!(lines(&aios), Vec::<String>::new());
}

#[test]
fn a_cluster_that_is_offboarded_stays_away_until_it_is_submitted() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 1}\n");
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    aggregator.wait_for_log("the cluster is registered");
    let before = aios.clusters();
    let declined = aggregator.act(&["offboard", "aios"]);
    assert_eq!(declined.status.code(), Some(2), "{}", said(&declined));
    assert!(said(&declined).contains("nothing was asked of target aios"), "{}", said(&declined));
    assert_eq!(aggregator.target()["phase"], "registered");
    assert_eq!(aios.clusters(), before);

    let gone = aggregator.act(&["offboard", "aios", "--yes"]);
    assert!(gone.status.success(), "{}", said(&gone));
    assert!(said(&gone).contains("target aios is offboarded"), "{}", said(&gone));
    assert_eq!(aios.clusters(), Vec::<Value>::new());
    let delete = format!("DELETE /clusters/delete/{CLUSTER_ID}");
    assert_eq!(lines(&aios), ["POST /api/createCluster", &delete]);

    // Neither a change, nor a restart, nor time brings it back.
    aggregator.accept(&report("node-b", 2));
    assert!(aggregator.daemon.terminate().success());
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-c", 3));
    thread::sleep(Duration::from_secs(4));
    assert_eq!(aggregator.target()["phase"], "offboarded");
    assert_eq!(lines(&aios).len(), 2);
    aggregator.do_act(&["submit", "aios"]);
    let stored = aios.cluster(CLUSTER_ID).expect("registered again");
    assert_eq!(stored.pointer("/nodes/count"), Some(&json!(3)));
    assert_eq!(lines(&aios), ["POST /api/createCluster", &delete, "POST /api/createCluster"]);
}

#[test]
fn the_journal_tells_what_was_sent_and_what_came_back() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 1}\n");
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    aggregator.wait_for_log("the cluster is registered");
    aggregator.accept(&report("node-b", 2));
    aios.wait_for("the update", PATIENCE, |aios| lines(aios).len() == 2);
    aggregator.wait_for_phase("registered");
    aggregator.do_act(&["offboard", "aios", "--yes"]);
    assert!(aggregator.daemon.terminate().success());

    // It outlives the process.
    let aggregator = bed.aggregator(&[]);
    let history = aggregator.ask(&["history", "aios", "--output", "json"]);
    let history = history["lines"].as_array().expect("lines");
    let what: Vec<&str> = history.iter().filter_map(|line| line["what"].as_str()).collect();
    let expected = [
        "submitting",
        "create: answered",
        "registered",
        "drifted",
        "updating",
        "update: answered",
        "registered",
        "offboard",
        "offboarding",
        "offboarding",
        "remove: answered",
        "offboarded",
    ];
    let first = what.iter().position(|what| *what == "submitting").expect("an intent");
    assert_eq!(what[first..][..expected.len()], expected, "{what:?}");
    // Intents name their requests, and tell their bodies from others without showing them.
    let sends: Vec<(&str, Option<&str>)> = history
        .iter()
        .flat_map(|line| line["sends"].as_array().into_iter().flatten())
        .map(|sent| (sent["request"].as_str().expect("a request"), sent["bodyDigest"].as_str()))
        .collect();
    let requests: Vec<&str> = sends.iter().map(|(request, _)| *request).collect();
    let (parser, gateway) = (aios.parser_url(), aios.gateway_url());
    assert_eq!(
        requests,
        [
            format!("POST {parser}/api/createCluster"),
            format!("PUT {gateway}/clusters/update/{CLUSTER_ID}"),
            format!("DELETE {gateway}/clusters/delete/{CLUSTER_ID}"),
        ]
    );
    let digests: Vec<Option<&str>> = sends.iter().map(|(_, digest)| *digest).collect();
    assert!(matches!(digests.as_slice(), [Some(create), Some(update), None] if create != update));
    let limited = aggregator.ask(&["history", "aios", "--limit", "2", "--output", "json"]);
    assert_eq!(limited["lines"].as_array().expect("lines"), &history[history.len() - 2..]);
    let table = String::from_utf8(aggregator.operate(&["history"]).stdout).expect("text");
    for words in ["update: answered", "accepted", "sends DELETE ", "(body "] {
        assert!(table.contains(words), "{words} in {table}");
    }
}

#[test]
fn a_secret_does_not_go_over_plain_http_to_another_machine() {
    // An address of documentation (RFC 5737), and the only way there.
    let way = TcpListener::bind("127.0.0.1:0").expect("a port");
    way.set_nonblocking(true).expect("a setting");
    let proxy = way.local_addr().expect("an address");
    let bed = Bed::new(&Bed::aios_target(
        "http://192.0.2.1:1",
        "http://192.0.2.1:2",
        &format!("    proxy: http://{proxy}\n    timeout: 1s\nexpect: {{nodes: 1}}\n"),
    ));
    bed.declare(&format!(
        "  clusterMetadata:\n    additionalInfo:\n      joinCommand: {JOIN_COMMAND}\n"
    ));
    let mut aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let refused = aggregator.wait_for_phase("refused");
    let detail = refused["detail"].as_str().expect("why");
    for words in [
        "the document holds a secret (clusterMetadata.additionalInfo.joinCommand)",
        "http://192.0.2.1:1/ is plain HTTP to another machine",
        "use https, leave the secret out, or set insecureHttp: true",
    ] {
        assert!(detail.contains(words), "{words} in {detail}");
    }
    let again = aggregator.act(&["submit", "aios"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("target aios is refused"), "{}", said(&again));
    let nobody = way.accept().map(|(_, from)| from);
    assert!(nobody.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "something was sent");

    // The way is the right one: where it is allowed, something comes.
    assert!(aggregator.daemon.terminate().success());
    let file = bed.cluster_file().replace("    timeout: 1s\n", "    insecureHttp: true\n");
    bed.write("cluster.yaml", &file);
    let _allowed = bed.aggregator(&[]);
    way.set_nonblocking(false).expect("a setting");
    assert!(way.accept().is_ok());
}

#[test]
fn nodes_that_wait_to_be_taken_away_hold_nothing_else_up() {
    let aios = AiosStandin::start();
    let bed = bed_for(&aios, "    lookEvery: 1s\nexpect: {nodes: 5}\ndepartures: {holdDown: 1s}\n");
    let aggregator = bed.aggregator(&[]);
    for node in 0..5 {
        aggregator.accept(&report(&format!("node-{node}"), node));
    }
    aggregator.wait_for_phase("registered");
    // Two of five, and one that is new.
    aggregator.do_act(&["forget", "node-1", "node-3"]);
    aggregator.accept(&report("node-5", 5));
    let ids = |aios: &AiosStandin| -> Vec<String> {
        let entry = aios.cluster(CLUSTER_ID).expect("registered");
        let nodes = entry.pointer("/nodes/nodeData").and_then(Value::as_array).expect("a list");
        nodes.iter().map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
    };
    aggregator.wait_for_target("the proposal", PATIENCE, |target| {
        target["phase"] == "drifted" && target.get("proposal").is_some()
    });
    aios.wait_for("the new node", PATIENCE, |aios| ids(aios).len() == 6);
    // The hold-down of one may end a moment before the other's.
    aggregator.wait_for_target("what is left", PATIENCE, |target| {
        let detail = target["detail"].as_str().unwrap_or_default();
        target["phase"] == "drifted"
            && detail.contains("It waits for approval")
            && detail.contains("2 of 6 nodes would be taken away (node-1, node-3)")
    });
    let sent = changes(&aios).len();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(changes(&aios).len(), sent, "it waits quietly");

    aggregator.do_act(&["approve", "aios", "--yes"]);
    assert_eq!(ids(&aios), ["node-0", "node-2", "node-4", "node-5"]);
    assert_eq!(aggregator.target()["phase"], "registered");
}
