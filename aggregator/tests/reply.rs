//! What AIOS's replies are worth: every row of the table in docs/aios.md, and what lies beside it.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;

use rollcall_aggregator::cluster_file::{ClusterFile, Envelope};
use rollcall_aggregator::document::{ClusterDocument, assemble};
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::targets::aios::{
    INSTALLATION_KEY, Submission, body, differences, judge_create, judge_read, mask,
};
use rollcall_aggregator::targets::{Held, Verdict};
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
        ("moved", 308, json!({}), "refused", "redirect"),
        ("denied", 403, json!({}), "refused", "access was denied"),
        ("not there", 404, json!({}), "refused", "no createCluster at this address"),
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

#[test]
fn what_a_read_shows() {
    let installation = "c0ffee";
    let ours = document();
    let mut stored = serde_json::to_value(&ours).expect("JSON");
    stored["clusterMetadata"]["additionalInfo"][INSTALLATION_KEY] = installation.into();
    let found = |entry: &Value| json!({"success": true, "data": entry});
    let edited = |path: &str, value: Value| {
        let mut entry = stored.clone();
        *entry.pointer_mut(path).expect(path) = value;
        found(&entry)
    };
    let not_found = json!({"success": false, "data": "HTTP error occurred: 404 Client Error: Not Found for url: x"});
    let equal = || Held::Ours { differences: vec![] };
    for (what, status, reply, expected) in [
        ("equal", 200, found(&stored), equal()),
        ("a policy's reputation", 200, edited("/reputation", 7.into()), equal()),
        ("a float from the database", 200, edited("/memory", json!(131_072.0)), equal()),
        (
            "another number",
            200,
            edited("/nodes/nodeData/0/swap", 0.into()),
            Held::Ours { differences: vec!["nodes.nodeData.0.swap is 0 there, 8192 here".into()] },
        ),
        (
            "fewer nodes",
            200,
            edited("/nodes/nodeData", json!([])),
            Held::Ours { differences: vec!["nodes.nodeData has 0 entries there, 1 here".into()] },
        ),
        (
            "another installation",
            200,
            edited("/clusterMetadata/additionalInfo", json!({INSTALLATION_KEY: "other"})),
            Held::Foreign,
        ),
        ("made by hand", 200, edited("/clusterMetadata", json!({})), Held::Foreign),
        ("unknown", 500, not_found, Held::Absent),
    ] {
        let held = judge_read("GET x", status, reply.to_string().as_bytes(), &ours, installation);
        assert_eq!(held, expected, "{what}");
    }
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
        ("away", 503, json!({})),
    ] {
        let held = judge_read("GET x", status, reply.to_string().as_bytes(), &ours, installation);
        assert!(matches!(held, Held::Unreadable { .. }), "{what}: {held:?}");
    }
}

#[test]
fn extra_keys_of_theirs_and_missing_ones() {
    let ours = document();
    let mut theirs = serde_json::to_value(&ours).expect("JSON");
    theirs["nodes"]["nodeData"][0]["health"] = "good".into();
    assert_eq!(differences(&ours, &theirs), Vec::<String>::new());
    theirs["nodes"]["nodeData"][0].as_object_mut().expect("an object").remove("gpus");
    assert_eq!(
        differences(&ours, &theirs),
        ["nodes.nodeData.0.gpus is missing there, an object here"]
    );
}

#[test]
fn envelopes() {
    let document = document();
    let plain = serde_json::to_value(&document).expect("JSON");
    let read = |envelope| {
        serde_json::from_slice::<Value>(&body(&document, envelope).expect("JSON")).expect("JSON")
    };
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
        let mut submission =
            Submission::new(document, Uuid::nil(), &file.targets[0]).expect("JSON");
        assert_eq!(submission.obstacle.is_some(), held_back, "{what}");
        assert!(!format!("{:?}", submission.obstacle).contains("hunter2"), "{what}");
        assert_eq!(mask(&mut submission.document), !command.is_empty(), "{what}");
        let shown = serde_json::to_string(&submission.document).expect("JSON");
        assert!(!shown.contains("hunter2"), "{what}: {shown}");
    }
}
