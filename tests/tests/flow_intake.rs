//! The intake and the admin listener by bytes: what is refused, how, and that nothing changes.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use rollcall_tests::bed::{
    Aggregator, Bed, OPERATOR_TOKEN, PATIENCE, TOKEN, exchange, get, post, report, run,
};
use serde_json::Value;

const BEARER: &str = "Authorization: Bearer the-join-token-of-the-test-bed\r\n";

fn nodes(aggregator: &Aggregator) -> Value {
    aggregator.ask(&["nodes", "--output", "json"])
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn bad_reports_are_refused_by_name_and_change_nothing() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let good = report("node-a", 1);
    assert_eq!(aggregator.post_report(good.to_string().as_bytes()).status, 200);
    let before = nodes(&aggregator);

    let edited = |path: &str, value: Value| {
        let mut report = report("node-b", 2);
        *report.pointer_mut(path).expect(path) = value;
        report.to_string().into_bytes()
    };
    let memory = "/inventory/memory/known/totalBytes";
    let too_large = format!("{{\"schemaVersion\":1,\"agent\":\"{}\"}}", "x".repeat(256 * 1024));
    let body = report("node-b", 2).to_string().into_bytes();
    for (what, headers, body, status, code, words) in [
        ("no token", "", body.clone(), 401, "credentials-missing", "Authorization: Bearer TOKEN"),
        (
            "a wrong token",
            "Authorization: Bearer hunter2hunter2hunter2\r\n",
            body.clone(),
            401,
            "credentials-wrong",
            "compare the two token files",
        ),
        (
            "the operator's token",
            "Authorization: Bearer the-operators-token-of-the-test-bed\r\n",
            body.clone(),
            401,
            "credentials-wrong",
            "compare the two token files",
        ),
        ("no JSON", BEARER, b"hello".to_vec(), 400, "malformed", "not JSON"),
        ("nothing", BEARER, Vec::new(), 400, "malformed", "not JSON"),
        ("half a report", BEARER, body[..body.len() / 2].to_vec(), 400, "malformed", "not JSON"),
        ("a list", BEARER, b"[]".to_vec(), 400, "malformed", "expected a report"),
        (
            "a reading that is none",
            BEARER,
            edited("/inventory/disks", Value::Null),
            400,
            "malformed",
            "the report is malformed at inventory.disks",
        ),
        ("another object", BEARER, b"{}".to_vec(), 400, "malformed", "missing field"),
        ("too large", BEARER, too_large.into_bytes(), 413, "too-large", "at most 262144 bytes"),
        (
            "a newer schema",
            BEARER,
            edited("/schemaVersion", 99.into()),
            400,
            "schema-version",
            "schema version 99 is unknown here",
        ),
        (
            "a NUL in the node id",
            BEARER,
            edited("/node/proposedId", "a\0b".into()),
            400,
            "malformed",
            "holds a character other than letters",
        ),
        (
            "a node id of 64 characters",
            BEARER,
            edited("/node/proposedId", "a".repeat(64).into()),
            400,
            "malformed",
            "has 64 characters, a label value has at most 63",
        ),
        (
            "a node name that is none",
            BEARER,
            edited("/node/name", "../../etc".into()),
            400,
            "malformed",
            "is no DNS subdomain",
        ),
        (
            "a negative size",
            BEARER,
            edited(memory, (-1).into()),
            400,
            "malformed",
            "inventory.memory.known.totalBytes",
        ),
        ("a fraction", BEARER, edited(memory, 1.5.into()), 400, "malformed", "totalBytes"),
        ("a size as text", BEARER, edited(memory, "16Gi".into()), 400, "malformed", "totalBytes"),
        (
            "an absurd size",
            BEARER,
            edited(memory, u64::MAX.into()),
            422,
            "implausible",
            "inventory.memory.totalBytes is 18446744073709551615",
        ),
        (
            "another node's id",
            BEARER,
            edited("/node/proposedId", "node-a".into()),
            409,
            "identity-conflict",
            "node id node-a belongs to node node-a",
        ),
        (
            "another node's machine",
            BEARER,
            edited("/node/machineHash", format!("{:032x}", 1).into()),
            409,
            "identity-conflict",
            "would be counted twice",
        ),
    ] {
        let answer = post(aggregator.intake, "/v1/reports", headers, &body);
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        let refusal: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(refusal["code"], code, "{what}");
        let message = refusal["message"].as_str().expect("a message");
        assert!(message.contains(words), "{what}: {message}");
        assert!(!answer.body.contains("hunter2"), "{what}: {message}");
    }
    let after = nodes(&aggregator);
    assert_eq!(after["nodes"], before["nodes"], "nothing has changed");
    let metrics = get(aggregator.admin, "/metrics", "").body;
    for line in [
        "rollcall_aggregator_reports_total{outcome=\"malformed\"} 12",
        "rollcall_aggregator_reports_total{outcome=\"identity-conflict\"} 2",
        "rollcall_aggregator_reports_total{outcome=\"credentials-wrong\"} 2",
        "rollcall_aggregator_reports_total{outcome=\"changed\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    for secret in [TOKEN, OPERATOR_TOKEN, "hunter2"] {
        let log = aggregator.daemon.lines().join("\n");
        assert!(!log.contains(secret) && !metrics.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn requests_that_are_not_reports() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    for (what, request, status, words) in [
        ("a read", "GET /v1/reports HTTP/1.1", 405, "POST /v1/reports"),
        ("another path", "POST /v2/reports HTTP/1.1", 404, "POST /v1/reports"),
        ("metrics", "GET /metrics HTTP/1.1", 404, "intake for reports"),
        ("the operator's API", "GET /v1/nodes HTTP/1.1", 404, "intake for reports"),
    ] {
        let request = format!("{request}\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = exchange(aggregator.intake, request.as_bytes());
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.body.contains(words), "{what}: {}", answer.body);
    }
    // A body in chunks has no length that could be looked at first.
    let chunk = format!("{:x}\r\n{}\r\n", 300_000, "x".repeat(300_000));
    let request = format!(
        "POST /v1/reports HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{BEARER}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
    );
    let answer = exchange(aggregator.intake, request.as_bytes());
    assert_eq!(answer.status, 413, "{}", answer.body);
}

#[test]
fn a_body_that_never_comes_is_given_up() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let request = format!(
        "POST /v1/reports HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{BEARER}Content-Length: 100\r\n\r\nhello"
    );
    let answer = exchange(aggregator.intake, request.as_bytes());
    assert_eq!(answer.status, 408, "{}", answer.body);
    assert!(answer.body.contains("did not arrive within"), "{}", answer.body);
}

#[test]
fn connections_that_say_nothing_are_closed() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let silent = |address, words: &[u8]| {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a setting");
        stream.write_all(words).expect("sent");
        stream
    };
    for (what, mut stream) in [
        ("nothing, intake", silent(aggregator.intake, b"")),
        ("half a line, intake", silent(aggregator.intake, b"POST /v1/rep")),
        ("HTTP/2, intake", silent(aggregator.intake, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        ("nothing, admin", silent(aggregator.admin, b"")),
        ("half a head, admin", silent(aggregator.admin, b"GET /metrics HTTP/1.1\r\nHost: a\r\n")),
    ] {
        let mut rest = Vec::new();
        // Closed or reset, but not left open until the patience ends.
        let outcome = stream.read_to_end(&mut rest);
        let left_open = outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!left_open, "{what}: still open after {rest:?}");
    }
}

#[test]
fn a_report_is_answered_with_an_assignment() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&["--interval", "17s"]);
    let answer = aggregator.post_report(report("node-a", 1).to_string().as_bytes());
    assert_eq!(answer.body, r#"{"nodeId":"node-a","intervalSeconds":17}"#);
    // A newer agent's fields are no mistake.
    let mut newer = report("node-b", 2);
    newer["notes"] = "new".into();
    newer["inventory"]["memory"]["known"]["speedMts"] = 4800.into();
    assert_eq!(aggregator.post_report(newer.to_string().as_bytes()).status, 200);
}

#[test]
fn an_unchanged_report_is_answered_without_the_disk() {
    let bed = Bed::new("");
    let aggregator = bed.aggregator(&[]);
    let reports: Vec<Value> = (0..20).map(|node| report(&format!("node-{node}"), node)).collect();
    let written = || {
        ["rollcall.db", "rollcall.db-wal"].map(|name| {
            let file = fs::metadata(bed.path(name)).expect("a file of the store");
            (file.len(), file.modified().expect("a time"))
        })
    };
    let report_all = || {
        for report in &reports {
            aggregator.accept(report);
        }
    };
    report_all();
    let before = written();
    for _ in 0..5 {
        report_all();
    }
    assert_eq!(written(), before);
    let mut changed = report("node-7", 7);
    changed["inventory"]["swap"]["known"]["totalBytes"] = (3_u64 << 30).into();
    aggregator.accept(&changed);
    assert_ne!(written(), before, "a changed one is written");
}

#[test]
fn the_admin_listener() {
    let bed = Bed::new("");
    let mut aggregator = bed.aggregator(&[]);
    assert_eq!(aggregator.post_report(report("node-a", 1).to_string().as_bytes()).status, 200);
    for path in ["/livez", "/readyz", "/metrics", "/v1/nodes", "/v1/status", "/v1/document"] {
        assert_eq!(get(aggregator.admin, path, "").status, 200, "{path}");
    }
    assert_eq!(get(aggregator.admin, "/v1/document?target=nowhere", "").status, 404);
    // An agent's token opens nothing here, and reading from here needs none.
    assert_eq!(get(aggregator.admin, "/v1/nodes", BEARER).status, 401);

    let token = bed.path("operator-token").display().to_string();
    let refused = aggregator.operate(&["forget", "node-a"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("was refused (401 Unauthorized): no credentials"), "{message}");

    let with_token = ["--operator-token-file", &token];
    let operate = |arguments: &[&str]| aggregator.operate(&[arguments, &with_token].concat());
    let unknown = operate(&["forget", "node-x"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no node node-x on the roll"));

    // A replaced machine: refused, rebound, taken.
    let replaced = report("node-a", 7).to_string();
    assert_eq!(aggregator.post_report(replaced.as_bytes()).status, 409);
    assert!(operate(&["rebind", "node-a"]).status.success());
    assert_eq!(aggregator.post_report(replaced.as_bytes()).status, 200);

    assert!(operate(&["forget", "node-a"]).status.success());
    assert_eq!(nodes(&aggregator)["nodes"], Value::Array(vec![]));
    assert!(aggregator.daemon.terminate().success());
    let aggregator = bed.aggregator(&[]);
    assert_eq!(nodes(&aggregator)["nodes"], Value::Array(vec![]), "forgotten for good");
}

#[test]
fn tls_for_the_intake() {
    let bed = Bed::new("");
    let certificate = || {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("a certificate");
        (certified.cert.pem(), certified.signing_key.serialize_pem())
    };
    let (cert, key) = certificate();
    bed.write("cert.pem", &cert);
    bed.write("key.pem", &key);
    let path = |name: &str| bed.path(name).display().to_string();
    let aggregator =
        bed.aggregator(&["--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem")]);
    let url = format!("https://localhost:{}", aggregator.intake.port());
    let name = ["--node-name", "over-tls", "--interval", "1s"];

    let ca = path("cert.pem");
    let mut trusting = bed.agent(&url, &[&name[..], &["--ca-file", &ca]].concat());
    aggregator.daemon.wait_for_line(|line| line.contains("store is open"), PATIENCE);
    trusting.wait_for_line(|line| line.contains("accepted the node"), PATIENCE);
    let found = nodes(&aggregator);
    assert_eq!(found.pointer("/nodes/0/name"), Some(&Value::from("over-tls")));

    // A new certificate of a new CA is taken up on both sides while they run.
    let (cert, key) = certificate();
    bed.write("key.pem", &key);
    bed.write("cert.pem", &cert);
    let renewed = |line: &str| line.contains("the intake's certificate is renewed");
    aggregator.daemon.wait_for_line(renewed, PATIENCE * 2);
    let again = bed.agent(&url, &[&name[..], &["--ca-file", &ca]].concat());
    again.wait_for_line(|line| line.contains("accepted the node"), PATIENCE);
    drop(again);
    trusting.wait_for_line(|line| line.contains("report not accepted, trying again"), PATIENCE);
    trusting.wait_for_line(|line| line.contains("reports are accepted again"), PATIENCE);
    assert!(trusting.terminate().success());

    let mistrusting = bed.agent(&url, &name);
    mistrusting.wait_for_line(|line| line.to_lowercase().contains("certificate"), PATIENCE);
    // Plain HTTP at the same port gets nothing.
    let mut plain = TcpStream::connect(aggregator.intake).expect("connects");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn wrong_usage_and_useless_files_are_told_at_the_start() {
    let bed = Bed::new("");
    bed.write("weak", "hunter2");
    bed.write("empty", "\n");
    bed.write("wrong-key.yaml", "cluster:\n  id: west\n  regoinId: r\n");
    bed.write("no-id.yaml", "cluster:\n  regionId: r\n");
    bed.write("bad-id.yaml", "cluster:\n  id: West\n  regionId: r\n");
    bed.write("twice.yaml", "cluster:\n  id: west\n  regionId: r\n  id: east\n");
    let path = |name: &str| bed.path(name).display().to_string();
    let store = format!("sqlite:{}", path("rollcall.db"));
    let (cluster, token) = (path("cluster.yaml"), path("token"));
    let serve = |cluster: &str, token: &str, more: &[&str]| {
        let mut arguments = vec!["serve", "--cluster", cluster, "--token-file", token];
        for (flag, value) in [
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--store", store.as_str()),
        ] {
            if !more.contains(&flag) {
                arguments.extend([flag, value]);
            }
        }
        arguments.extend(more);
        run("rollcall-aggregator", &arguments, b"")
    };
    for (what, output, code, words) in [
        (
            "a wrong key",
            serve(&path("wrong-key.yaml"), &token, &[]),
            2,
            "wrong-key.yaml, line 3, column 3: unknown field `regoinId`",
        ),
        ("a missing id", serve(&path("no-id.yaml"), &token, &[]), 2, "missing field `id`"),
        (
            "a bad id",
            serve(&path("bad-id.yaml"), &token, &[]),
            2,
            r#"bad-id.yaml, line 2, column 7: cluster id "West""#,
        ),
        (
            "a duplicate key",
            serve(&path("twice.yaml"), &token, &[]),
            2,
            "twice.yaml, line 4, column 3: duplicate mapping key: id",
        ),
        ("no cluster file", serve(&path("none.yaml"), &token, &[]), 1, "none.yaml cannot be read"),
        ("an empty token file", serve(&cluster, &path("empty"), &[]), 1, "empty is empty"),
        (
            "a weak token",
            serve(&cluster, &path("weak"), &[]),
            2,
            "easy to guess: the token on line 1 has 7 characters",
        ),
        (
            "plain HTTP for everybody",
            serve(&cluster, &token, &["--listen", "0.0.0.0:0"]),
            2,
            "agents' tokens would come over plain HTTP to 0.0.0.0:0",
        ),
        (
            "one token for both doors",
            serve(&cluster, &token, &["--operator-token-file", &token]),
            2,
            "hold the same token",
        ),
        ("memory", serve(&cluster, &token, &["--store", "sqlite::memory:"]), 2, "sqlite:PATH"),
        (
            "a certificate without a key",
            serve(&cluster, &token, &["--tls-cert", &token]),
            2,
            "--tls-key",
        ),
        (
            "no certificate",
            serve(&cluster, &token, &["--tls-cert", &token, "--tls-key", &token]),
            1,
            "--tls-cert",
        ),
        ("another store", serve(&cluster, &token, &["--store", "mysql:x"]), 2, "sqlite:PATH"),
        ("an unknown flag", serve(&cluster, &token, &["--frobnicate"]), 2, "--frobnicate"),
    ] {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
        assert!(!message.contains("hunter2"), "{what}: {message}");
        assert!(output.stdout.is_empty(), "{what}");
    }
    assert!(fs::metadata(bed.path("rollcall.db")).is_err(), "nothing was made");
}
