//! What AIOS's replies are worth: every row of the table in docs/aios.md, and what lies beside it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;

use rollcall_aggregator::cluster_file::{ClusterFile, Envelope};
use rollcall_aggregator::document::{ClusterDocument, assemble};
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::targets::aios::{
    Reading, Submission, compare, envelop, judge_change, judge_create, judge_infrastructure,
    judge_read, judge_task, mask,
};
use rollcall_aggregator::targets::{Departed, Held, Known, Scheduled, Task, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

const SENT: &str = "POST http://parser/api/createCluster";

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample").join(name);
    fs::read_to_string(path).expect(name)
}

fn document() -> ClusterDocument {
    let file = ClusterFile::parse(&sample("cluster.yaml")).expect("valid");
    let report = parse(sample("node-1.json").as_bytes()).expect("a report");
    let nodes = [(&report.node.proposed_id, &report.inventory)];
    assemble(&file.cluster, &file.overrides, nodes).document
}

#[test]
fn replies_to_create() {
    let failed = |said: &str| json!({"success": true, "task_id": "", "result": [false, said]});
    let stored =
        |id: &str| json!({"success": true, "task_id": "", "result": {"id": id, "_id": "x"}});
    let at = "for url: http://gateway/clusters";
    for (what, status, reply, expected, words) in [
        ("stored", 200, stored("west"), "accepted", ""),
        ("another entry", 200, stored("east"), "rejected", "another id"),
        ("the flat document", 500, json!({"error": "'body'"}), "refused", "misses 'body'"),
        ("no network", 500, json!({"error": "'network'"}), "refused", "misses 'network'"),
        (
            "a bad value, or an id that is taken",
            200,
            failed(&format!("HTTP error occurred: 500 Server Error: Internal Server Error {at}")),
            "rejected",
            "without saying why",
        ),
        (
            "refused by policy",
            200,
            failed("Error occurred: cluster not allowed to be added: region is closed"),
            "refused",
            "policy does not allow this cluster: region is closed",
        ),
        (
            "too large",
            200,
            failed(&format!("HTTP error occurred: 413 Client Error: Payload Too Large {at}")),
            "refused",
            "100 KiB",
        ),
        (
            "gateway down",
            200,
            failed("HTTPConnectionPool(host='gateway', port=5000): Max retries exceeded"),
            "unanswered",
            "gateway did not answer",
        ),
        ("nothing in it", 400, json!({"error": "Invalid JSON input"}), "refused", "envelope"),
        (
            "no JSON",
            500,
            json!({"error": "400 Bad Request: The browser sent"}),
            "refused",
            "as JSON",
        ),
        ("no type", 500, json!({"error": "415 Unsupported Media Type: Did"}), "refused", "as JSON"),
        ("another 500", 500, json!({"error": "boom"}), "rejected", "the parser failed"),
        ("another service", 200, json!({"hello": "world"}), "rejected", "is parserUrl right"),
        ("a list of nothing", 200, json!({"result": []}), "unanswered", ""),
        ("moved", 308, json!({}), "rejected", "redirect"),
        ("denied", 403, json!({}), "rejected", "access was denied"),
        ("not there", 404, json!({}), "rejected", "no createCluster at this address"),
        ("too large for a proxy", 413, json!({}), "refused", "too large"),
        ("gone", 410, json!({}), "rejected", "does not take the request"),
        ("too many", 429, json!({}), "unanswered", "cannot be used now"),
        ("bad gateway", 502, json!({}), "unanswered", "cannot be used now"),
        ("away", 503, json!({}), "unanswered", "cannot be used now"),
    ] {
        let verdict = judge_create(SENT, status, reply.to_string().as_bytes(), "west");
        assert_eq!(verdict.as_str(), expected, "{what}: {verdict:?}");
        let (Verdict::Refused { words: said }
        | Verdict::Rejected { words: said }
        | Verdict::Unanswered { words: said }) = verdict
        else {
            continue;
        };
        assert!(said.contains(words), "{what}: {said}");
        assert!(said.contains(&format!("{SENT} answered {status}")), "{what}: {said}");
    }
}

#[test]
fn replies_that_are_no_json() {
    for (status, body, expected) in [
        (200, &b"<html>hello</html>"[..], "rejected"),
        (200, b"", "rejected"),
        (500, b"\xff\xfe", "rejected"),
        (502, b"<html>bad gateway\x1b[2J</html>", "unanswered"),
    ] {
        let verdict = judge_create(SENT, status, body, "west");
        assert_eq!(verdict.as_str(), expected, "{verdict:?}");
        assert!(!format!("{verdict:?}").contains("u{1b}"), "control characters: {verdict:?}");
    }
    let verdict = judge_create(SENT, 500, "x".repeat(10_000_000).as_bytes(), "west");
    assert!(format!("{verdict:?}").len() < 1000, "a reply is shown in part");
}

/// Our document as it is to be registered with a network that is on this machine.
fn submission() -> Submission {
    let file = "cluster: {id: west, regionId: r}\ntargets:\n  - {name: a, type: aios, parserUrl: 'http://127.0.0.1:8000', gatewayUrl: 'http://127.0.0.1:5000'}\n";
    let file = ClusterFile::parse(file).expect("valid");
    Submission::new(
        document(),
        Departed::default(),
        Uuid::nil(),
        file.targets[0].aios().expect("one of AIOS"),
    )
    .expect("JSON")
}

#[test]
fn what_a_read_shows() {
    let submission = submission();
    let stored = serde_json::to_value(&submission.document).expect("JSON");
    let id = &submission.document.id;
    let found = |entry: &Value| json!({"success": true, "data": entry});
    let edited = |path: &str, value: Value| {
        let mut entry = stored.clone();
        *entry.pointer_mut(path).expect(path) = value;
        found(&entry)
    };
    for (what, reply, is_ours, expected) in [
        ("equal", found(&stored), true, &[][..]),
        ("a policy's reputation", edited("/reputation", 7.into()), true, &[]),
        ("a float from the database", edited("/memory", json!(131_072.0)), true, &[]),
        (
            "another number",
            edited("/nodes/nodeData/0/swap", 0.into()),
            true,
            &["node node-1: swap is 0 there, 8192 here"],
        ),
        (
            "fewer nodes",
            edited("/nodes/nodeData", json!([])),
            true,
            &["node node-1 is missing there, reported here"],
        ),
        (
            "another installation",
            edited("/clusterMetadata/additionalInfo/rollcallInstallation", "other".into()),
            false,
            &[
                "clusterMetadata.additionalInfo.rollcallInstallation is \"other\" there, \"00000000-0000-0000-0000-000000000000\" here",
            ],
        ),
        (
            "made by hand",
            edited("/clusterMetadata", json!({})),
            false,
            &["clusterMetadata.additionalInfo is missing there, an object here"],
        ),
    ] {
        let reading = judge_read("GET x", 200, reply.to_string().as_bytes(), id);
        let Reading::Entry(entry) = reading else { panic!("{what}: {reading:?}") };
        let (held, amendment) = compare(&entry, &submission, Known::default()).expect("JSON");
        let (Held::Ours(difference) | Held::Foreign(difference)) = &held else {
            panic!("{what}: {held:?}")
        };
        assert_eq!(matches!(held, Held::Ours(_)), is_ours, "{what}: {held:?}");
        assert_eq!(difference.fields, amendment.whole.difference.fields, "{what}");
        let said: Vec<String> = difference.fields.iter().map(ToString::to_string).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        if is_ours {
            assert_eq!(said, expected, "{what}");
        } else {
            // What is taken over is ours in all fields.
            assert!(expected.iter().all(|line| said.contains(line)), "{what}: {said:?}");
        }
    }
    let not_found = json!({"success": false, "data": "HTTP error occurred: 404 Client Error: Not Found for url: x"});
    let reading = judge_read("GET x", 500, not_found.to_string().as_bytes(), id);
    assert_eq!(reading, Reading::Absent);
    // None of these says that there is no entry: taking one for that would register twice.
    for (what, status, reply) in [
        ("another 404", 404, json!({"error": "not found"})),
        (
            "a registry that fails",
            500,
            json!({"success": false, "data": "HTTP error occurred: 500 Server Error"}),
        ),
        ("an entry of another id", 200, edited("/id", "east".into())),
        ("an empty answer", 200, json!({})),
        ("no entry in it", 200, json!({"success": true, "data": null})),
        ("away", 503, json!({})),
    ] {
        let reading = judge_read("GET x", status, reply.to_string().as_bytes(), id);
        let Reading::Unreadable { words } = reading else { panic!("{what}: {reading:?}") };
        assert!(words.contains(&format!("GET x answered {status}")), "{what}: {words}");
    }
}

/// What a verdict says; nothing where all is well.
fn said(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Accepted => "",
        Verdict::Refused { words }
        | Verdict::Rejected { words }
        | Verdict::Unanswered { words } => words,
    }
}

#[test]
fn replies_to_a_change() {
    let sent = "PUT http://gateway/clusters/update/west";
    let failed = |said: &str| json!({"success": false, "data": said}).to_string();
    let at = "for url: http://registry/clusters/west";
    for (what, status, reply, expected, words) in [
        ("done", 200, json!({"success": true, "data": {"id": "west"}}).to_string(), "accepted", ""),
        ("done, and nothing said of it", 200, json!({"success": true}).to_string(), "accepted", ""),
        ("not done, with 200", 200, failed("no"), "rejected", "is gatewayUrl right"),
        ("another service", 200, json!({"hello": "world"}).to_string(), "rejected", "gatewayUrl"),
        ("a page", 200, "<html>hello</html>".to_owned(), "rejected", "gatewayUrl"),
        ("nothing", 200, String::new(), "rejected", "answered 200: nothing"),
        (
            "too large",
            500,
            failed(&format!("HTTP error occurred: 413 Client Error: Payload Too Large {at}")),
            "refused",
            "100 KiB",
        ),
        (
            "a value that the registry does not take",
            500,
            failed(&format!("HTTP error occurred: 500 Server Error: Internal Server Error {at}")),
            "rejected",
            "without saying why",
        ),
        (
            "an entry that is gone",
            500,
            failed(&format!("HTTP error occurred: 404 Client Error: Not Found {at}")),
            "rejected",
            "the network's registry refused the change",
        ),
        (
            "the registry is down",
            500,
            failed("HTTPConnectionPool(host='registry', port=3000): Max retries exceeded"),
            "unanswered",
            "did not answer the gateway",
        ),
        ("a bug of the gateway", 500, "<html>boom</html>".to_owned(), "rejected", "gateway failed"),
        ("moved", 308, String::new(), "rejected", "set gatewayUrl to where it leads"),
        ("denied", 401, String::new(), "rejected", "access was denied"),
        ("denied by a proxy", 407, String::new(), "rejected", "access was denied"),
        ("not there", 404, String::new(), "rejected", "set gatewayUrl to AIOS's gateway"),
        ("not with this method", 405, String::new(), "rejected", "set gatewayUrl"),
        ("too large for a proxy", 413, String::new(), "refused", "100 KiB"),
        ("not taken", 400, String::new(), "rejected", "does not take the request"),
        ("gone", 410, String::new(), "rejected", "does not take the request"),
        ("too slow", 408, String::new(), "unanswered", "cannot be used now"),
        ("too early", 425, String::new(), "unanswered", "cannot be used now"),
        ("too many", 429, String::new(), "unanswered", "cannot be used now"),
        ("bad gateway", 502, String::new(), "unanswered", "cannot be used now"),
        ("away", 503, String::new(), "unanswered", "cannot be used now"),
        ("late", 504, String::new(), "unanswered", "cannot be used now"),
    ] {
        let verdict = judge_change(sent, status, reply.as_bytes());
        assert_eq!(verdict.as_str(), expected, "{what}: {verdict:?}");
        let said = said(&verdict);
        assert!(said.contains(words), "{what}: {said}");
        let origin = format!("{sent} answered {status}");
        assert_eq!(said.contains(&origin), verdict != Verdict::Accepted, "{what}: {said}");
    }
    let verdict = judge_change(sent, 500, "\x1b[2J".repeat(1_000_000).as_bytes());
    assert!(!said(&verdict).contains('\x1b') && said(&verdict).len() < 1000, "{verdict:?}");
}

#[test]
fn replies_to_a_request_for_infrastructure() {
    let sent = "POST http://gateway/create-cluster-infra";
    let scheduled = |task: Value| json!({"success": true, "data": {"message": "scheduled in background", "task_id": task}});
    // What is lost may have been done: it is not asked for again by itself.
    for (what, status, reply, expected) in [
        ("scheduled", 200, scheduled("0000-17".into()), Ok("0000-17")),
        ("no task", 200, json!({"success": true, "data": {}}), Err(("lost", "names no task"))),
        ("an empty one", 200, scheduled("".into()), Err(("lost", "names no task"))),
        ("a number", 200, scheduled(17.into()), Err(("lost", "names no task"))),
        ("with spaces", 200, scheduled("a b".into()), Err(("lost", "names no task"))),
        ("of another line", 200, scheduled("a\nb".into()), Err(("lost", "names no task"))),
        ("without an end", 200, scheduled("x".repeat(129).into()), Err(("lost", "names no task"))),
        ("a failure with a task", 500, scheduled("0000-17".into()), Err(("lost", "failed"))),
        ("not understood", 400, json!({"error": "Invalid"}), Err(("refused", "does not take"))),
        ("not there", 404, json!({}), Err(("refused", "does not take"))),
        ("moved", 302, json!({}), Err(("refused", "does not take"))),
        ("a bug", 500, json!({}), Err(("lost", "the gateway failed"))),
        ("away", 503, json!({}), Err(("lost", "the gateway failed"))),
    ] {
        let got = judge_infrastructure(sent, status, reply.to_string().as_bytes());
        let (outcome, said) = match &got {
            Scheduled::Task(task) => {
                assert_eq!(Ok(task.as_str()), expected, "{what}");
                continue;
            }
            Scheduled::Refused { words } => ("refused", words),
            Scheduled::NotSent { words } => ("not sent", words),
            Scheduled::Lost { words } => ("lost", words),
        };
        let Err((expected, words)) = expected else { panic!("{what}: {got:?}") };
        assert_eq!(outcome, expected, "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
        assert!(said.contains(&format!("{sent} answered {status}")), "{what}: {said}");
    }
}

#[test]
fn replies_to_a_look_at_a_task() {
    let sent = "GET http://tasks/task/17";
    let stands = |status: &str, data: Value| json!({"success": true, "data": {"task_id": "17", "task_status": status, "task_status_data": data}});
    for (what, status, reply, expected, words) in [
        ("under way", 200, stands("pending", json!({})), "pending", ""),
        ("done", 200, stands("completed", json!({"result": "ok"})), "completed", ""),
        (
            "failed",
            200,
            stands("failed", json!({"error": "no publicHostname"})),
            "failed",
            "the network's task failed: no publicHostname",
        ),
        (
            "failed with an object",
            200,
            stands("failed", json!({"error": {"code": 7}})),
            "failed",
            "{\"code\":7}",
        ),
        ("failed without a word", 200, stands("failed", json!({})), "failed", "does not say why"),
        (
            "failed with a terminal's escape",
            200,
            stands("failed", json!({"error": "\u{1b}[2J"})),
            "failed",
            "task failed",
        ),
        ("another word", 200, stands("resting", json!({})), "unreadable", "is tasksUrl right"),
        ("another service", 200, json!({"hello": 1}), "unreadable", "is tasksUrl right"),
        ("done, with an error's status", 500, stands("completed", json!({})), "unreadable", "500"),
        ("not there", 404, json!({}), "unreadable", "answered 404"),
        ("away", 503, json!({}), "unreadable", "answered 503"),
    ] {
        let task = judge_task(sent, status, reply.to_string().as_bytes());
        let (outcome, said) = match &task {
            Task::Pending => ("pending", ""),
            Task::Completed => ("completed", ""),
            Task::Failed { words } => ("failed", words.as_str()),
            Task::Unreadable { words } => ("unreadable", words.as_str()),
        };
        assert_eq!(outcome, expected, "{what}: {said}");
        assert!(said.contains(words) && !said.contains('\u{1b}'), "{what}: {said:?}");
        let origin = format!("{sent} answered {status}");
        assert_eq!(said.contains(&origin), outcome == "unreadable", "{what}: {said}");
    }
    for page in [&b"<html>hello</html>"[..], b"", b"\xff"] {
        assert!(matches!(judge_task(sent, 200, page), Task::Unreadable { .. }), "{page:?}");
        let scheduled = judge_infrastructure(sent, 200, page);
        assert!(matches!(scheduled, Scheduled::Lost { .. }), "{page:?}: {scheduled:?}");
    }
}

#[test]
fn envelopes() {
    let document = document();
    let plain = serde_json::to_value(&document).expect("JSON");
    let read = |envelope| envelop(&document, envelope).expect("JSON");
    assert_eq!(read(Envelope::Flat), plain);
    assert_eq!(
        read(Envelope::ParserV1),
        json!({
            "header": {"templateUri": "Parser/V1", "parameters": {}},
            "body": {"spec": {"values": plain}},
        })
    );
}

#[test]
fn a_join_command_is_masked_and_does_not_leave_over_plain_http() {
    let targets = |url: &str, more: &str| {
        let gateway = if more.contains("gatewayUrl") {
            String::new()
        } else {
            format!(", gatewayUrl: '{url}'")
        };
        format!(
            "cluster: {{id: west, regionId: r}}\ntargets:\n  - {{name: a, type: aios, parserUrl: '{url}'{gateway}{more}}}\n"
        )
    };
    for (what, command, url, more, held_back) in [
        ("no command", "", "http://parser.example", "", false),
        ("over TLS", "kubeadm join --token hunter2", "https://parser.example", "", false),
        ("on this machine", "kubeadm join --token hunter2", "http://127.0.0.1:8000", "", false),
        ("in the open", "kubeadm join --token hunter2", "http://parser.example", "", true),
        (
            "on the way back",
            "kubeadm join --token hunter2",
            "https://parser.example",
            ", gatewayUrl: 'http://gateway.example'",
            true,
        ),
        (
            "in the open, as told",
            "kubeadm join --token hunter2",
            "http://parser.example",
            ", insecureHttp: true",
            false,
        ),
        ("a token", "", "http://parser.example", ", bearerTokenFile: t", true),
        ("a header", "", "http://parser.example", ", headerFiles: {X-Key: k}", true),
        ("a token over TLS", "", "https://parser.example", ", bearerTokenFile: t", false),
        ("a token on this machine", "", "http://[::1]:8000", ", bearerTokenFile: t", false),
        (
            "a token on the way back",
            "",
            "https://parser.example",
            ", bearerTokenFile: t, gatewayUrl: 'http://gateway.example'",
            true,
        ),
        (
            "a token and a command, as told",
            "kubeadm join --token hunter2",
            "http://parser.example",
            ", bearerTokenFile: t, insecureHttp: true",
            false,
        ),
    ] {
        let mut document = document();
        document.cluster_metadata["additionalInfo"]["joinCommand"] = command.into();
        let file = ClusterFile::parse(&targets(url, more)).expect("valid");
        let mut submission = Submission::new(
            document,
            Departed::default(),
            Uuid::nil(),
            file.targets[0].aios().expect("one of AIOS"),
        )
        .expect("JSON");
        assert_eq!(submission.obstacle.is_some(), held_back, "{what}");
        assert!(!format!("{:?}", submission.obstacle).contains("hunter2"), "{what}");
        assert_eq!(mask(&mut submission.document), !command.is_empty(), "{what}");
        let shown = serde_json::to_string(&submission.document).expect("JSON");
        assert!(!shown.contains("hunter2"), "{what}: {shown}");
    }
}
