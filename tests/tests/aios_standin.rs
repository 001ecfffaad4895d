//! The stand-in of AIOS answers, byte for byte of HTTP, what the real services were seen to answer.
#![expect(clippy::panic, clippy::expect_used, reason = "a test's own functions fail the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rollcall_tests::aios::{AiosStandin, Behaviour, ServiceKind, StartError};
use rollcall_tests::process::{DEADLINE, Daemon};
use serde_json::{Value, json};

const REGISTRY_500: &str = "HTTP error occurred: 500 Server Error: Internal Server Error for url: http://localhost:3000/clusters";

/// A reply, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    content_type: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        assert_eq!(self.content_type, "application/json", "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends one request on a connection of its own; `None`: closed without an answer.
fn exchange(url: &str, request: &str, content_type: Option<&str>, body: &str) -> Option<Reply> {
    let mut connection = send(url, request, content_type, body);
    let mut text = String::new();
    // A reset is a way to close a connection, too.
    drop(connection.read_to_string(&mut text));
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: "));
    Some(Reply {
        status,
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}

fn send(url: &str, request: &str, content_type: Option<&str>, body: &str) -> TcpStream {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut connection = TcpStream::connect(address).expect("connects");
    connection.set_read_timeout(Some(DEADLINE)).expect("set");
    let content_type = content_type.map(|kind| format!("Content-Type: {kind}\r\n"));
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        content_type.unwrap_or_default()
    );
    connection.write_all(head.as_bytes()).expect("sent");
    connection.write_all(body.as_bytes()).expect("sent");
    connection
}

/// Sends JSON and expects an answer.
fn call(url: &str, request: &str, body: &Value) -> Reply {
    exchange(url, request, Some("application/json"), &body.to_string())
        .unwrap_or_else(|| panic!("no answer to {request}"))
}

fn create(aios: &AiosStandin, document: &Value) -> Reply {
    call(&aios.parser_url(), "POST /api/createCluster", &envelope(document))
}

fn read(aios: &AiosStandin, id: &str) -> Reply {
    call(&aios.gateway_url(), &format!("GET /clusters/read/{id}"), &Value::Null)
}

fn envelope(document: &Value) -> Value {
    json!({
        "header": { "templateUri": "Parser/V1", "parameters": {} },
        "body": { "spec": { "values": document } }
    })
}

fn node(number: usize, gpus: usize) -> Value {
    let gpu = json!({ "modelName": "NVIDIA H100 80GB HBM3", "memory": 81_559 });
    json!({
        "id": format!("node-{number}"),
        "gpus": {
            "count": gpus, "memory": 81_559 * gpus, "gpus": vec![gpu; gpus],
            "features": ["fp16", "tensor_cores", "bf16", "fp8"], "modelNames": ["NVIDIA H100 80GB HBM3"]
        },
        "vcpus": { "count": 32 }, "memory": 131_072, "swap": 8192,
        "storage": { "disks": 2, "size": 1_048_576 },
        "network": { "interfaces": 2, "txBandwidth": 10_000, "rxBandwidth": 10_000 }
    })
}

/// The onboarding document as AIOS's own documentation writes it.
fn document(nodes: usize) -> Value {
    json!({
        "id": "cluster-west-vision-001", "regionId": "us-west-2", "status": "live",
        "nodes": { "count": nodes, "nodeData": (1..=nodes).map(|n| node(n, 8)).collect::<Vec<_>>() },
        "gpus": { "count": 8 * nodes, "memory": 8 * 81_559 * nodes, "modelNames": ["NVIDIA H100"] },
        "vcpus": { "count": 32 * nodes }, "memory": 131_072 * nodes, "swap": 8192 * nodes,
        "storage": { "disks": 2 * nodes, "size": 1_048_576 * nodes },
        "network": {
            "interfaces": 2 * nodes, "txBandwidth": 10_000 * nodes, "rxBandwidth": 10_000 * nodes
        },
        "config": {
            "allowExternalNodes": true, "policyExecutorId": "policy-exec-007",
            "publicHostname": "cluster-west-vision-001.company.net", "useGateway": true
        },
        "tags": ["gpu", "production"],
        "clusterMetadata": { "name": "Sample cluster", "additionalInfo": { "joinCommand": "" } },
        "reputation": 0
    })
}

fn without(name: &str) -> Value {
    let mut document = document(1);
    document.as_object_mut().expect("an object").remove(name).expect("it was there");
    document
}

fn with(name: &str, value: Value) -> Value {
    let mut document = document(1);
    document.as_object_mut().expect("an object").insert(name.to_owned(), value);
    document
}

#[test]
fn a_registered_cluster_is_answered_as_it_was_stored() {
    let aios = AiosStandin::start();
    let reply = create(&aios, &document(2));
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    assert_eq!(reply["success"], json!(true));
    assert_eq!(reply["task_id"], json!(""));
    let stored = &reply["result"];
    let id = stored["_id"].as_str().expect("a text");
    assert!(id.len() == 24 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");

    let mut expected = document(2);
    let fields = expected.as_object_mut().expect("an object");
    fields.remove("status");
    fields["gpus"].as_object_mut().expect("an object").remove("modelNames");
    fields.insert("_id".to_owned(), stored["_id"].clone());
    fields.insert("__v".to_owned(), json!(0));
    assert_eq!(*stored, expected, "status and the cluster's gpus.modelNames are dropped");

    let read = read(&aios, "cluster-west-vision-001");
    assert_eq!((read.status, read.json()), (200, json!({ "success": true, "data": expected })));
    assert_eq!(aios.cluster("cluster-west-vision-001"), Some(expected));
}

#[test]
fn the_parsers_replies_to_what_it_cannot_take() {
    let not_stored =
        |text: &str| (200, json!({ "success": true, "task_id": "", "result": [false, text] }));
    let exception = |text: &str| (500, json!({ "error": text }));
    let json_type = Some("application/json");
    let malformed = "400 Bad Request: The browser (or proxy) sent a request that this server could not understand.";
    let no_type = "415 Unsupported Media Type: Did not attempt to load JSON data because the request Content-Type was not 'application/json'.";
    let wrapped = |document: Value| envelope(&document).to_string();
    for (name, content_type, body, (status, expected)) in [
        ("the flat document", json_type, document(1).to_string(), exception("'body'")),
        ("no spec", json_type, json!({ "body": {} }).to_string(), exception("'spec'")),
        ("network is missing", json_type, wrapped(without("network")), exception("'network'")),
        ("nodes is missing", json_type, wrapped(without("nodes")), exception("'nodes'")),
        ("gpus is missing", json_type, wrapped(without("gpus")), exception("'gpus'")),
        ("vcpus is missing", json_type, wrapped(without("vcpus")), exception("'vcpus'")),
        ("storage is missing", json_type, wrapped(without("storage")), exception("'storage'")),
        (
            "reputation is missing",
            json_type,
            wrapped(without("reputation")),
            not_stored(REGISTRY_500),
        ),
        ("id is missing", json_type, wrapped(without("id")), not_stored(REGISTRY_500)),
        ("swap is missing", json_type, wrapped(without("swap")), not_stored(REGISTRY_500)),
        (
            "metadata is missing",
            json_type,
            wrapped(without("clusterMetadata")),
            not_stored(REGISTRY_500),
        ),
        (
            "no gpus.memory",
            json_type,
            wrapped(with("gpus", json!({ "count": 1 }))),
            not_stored(REGISTRY_500),
        ),
        (
            "a quantity for a number",
            json_type,
            wrapped(with("memory", json!("16Gi"))),
            not_stored(REGISTRY_500),
        ),
        (
            "an object for a text",
            json_type,
            wrapped(with("regionId", json!({}))),
            not_stored(REGISTRY_500),
        ),
        ("{}", json_type, "{}".to_owned(), (400, json!({ "error": "Invalid JSON input" }))),
        ("malformed JSON", json_type, "{\"body\":".to_owned(), exception(malformed)),
        ("no body", json_type, String::new(), exception(malformed)),
        ("no content type", None, wrapped(document(1)), exception(no_type)),
        ("another content type", Some("text/plain"), wrapped(document(1)), exception(no_type)),
        (
            "an array",
            json_type,
            "[1]".to_owned(),
            exception("list indices must be integers or slices, not str"),
        ),
    ] {
        let aios = AiosStandin::start();
        let reply = exchange(&aios.parser_url(), "POST /api/createCluster", content_type, &body);
        let reply = reply.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!((reply.status, reply.json()), (status, expected), "{name}");
        assert!(aios.clusters().is_empty(), "{name}: stored all the same");
    }
}

#[test]
fn what_the_parser_does_not_insist_on() {
    for (name, request) in [
        ("no header", json!({ "body": { "spec": { "values": document(1) } } })),
        ("no status", envelope(&without("status"))),
        ("no tags", envelope(&without("tags"))),
        ("no config", envelope(&without("config"))),
    ] {
        let aios = AiosStandin::start();
        let reply = call(&aios.parser_url(), "POST /api/createCluster", &request).json();
        assert_eq!(reply["result"]["id"], json!("cluster-west-vision-001"), "{name}: {reply}");
    }
    let aios = AiosStandin::start();
    let body = envelope(&document(1)).to_string();
    let content_type = Some("Application/JSON; charset=utf-8");
    let reply = exchange(&aios.parser_url(), "POST /api/createCluster", content_type, &body);
    assert_eq!(reply.expect("an answer").json()["result"]["__v"], json!(0), "a parameter");
}

#[test]
fn a_second_create_of_an_id_looks_like_any_other_500() {
    let aios = AiosStandin::start();
    assert!(create(&aios, &document(1)).json()["result"].is_object());
    let again = create(&aios, &document(2));
    let expected = json!({ "success": true, "task_id": "", "result": [false, REGISTRY_500] });
    assert_eq!((again.status, again.json()), (200, expected));
    assert_eq!(aios.clusters().len(), 1);
    assert_eq!(aios.clusters()[0]["nodes"]["count"], json!(1), "the first one stands");
}

#[test]
fn the_limit_counts_the_body_as_python_writes_it() {
    let aios = AiosStandin::start();
    let too_large = document(130);
    assert!(too_large.to_string().len() < 100 * 1024, "compact, it is below the limit");
    let reply = create(&aios, &too_large);
    let text = "HTTP error occurred: 413 Client Error: Payload Too Large for url: http://localhost:3000/clusters";
    assert_eq!((reply.status, &reply.json()["result"][1]), (200, &json!(text)));
    assert!(aios.clusters().is_empty());
    assert!(create(&aios, &document(100)).json()["result"].is_object());

    // A bigger cluster goes in pieces.
    let batch: serde_json::Map<_, _> =
        (100..130).map(|n| (format!("nodes.nodeData.{n}"), node(n + 1, 8))).collect();
    let update = "PUT /clusters/update/cluster-west-vision-001";
    assert_eq!(call(&aios.gateway_url(), update, &Value::Object(batch)).status, 200);
    let stored = aios.cluster("cluster-west-vision-001").expect("registered");
    assert!(stored["nodes"]["nodeData"] == too_large["nodes"]["nodeData"], "whole and in order");

    let reply = call(&aios.gateway_url(), update, &json!({ "nodes": too_large["nodes"] }));
    let text = format!("{text}/cluster-west-vision-001");
    assert_eq!((reply.status, reply.json()), (500, json!({ "success": false, "data": text })));
}

#[test]
fn add_node_never_succeeds() {
    let aios = AiosStandin::start();
    create(&aios, &document(1));
    let values = json!({ "clusterId": "cluster-west-vision-001", "nodeData": node(2, 8) });
    let reply = call(&aios.parser_url(), "POST /api/addNode", &envelope(&values));
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    assert_eq!(reply["result"][0], json!(false), "{reply}");
    assert_eq!(aios.clusters()[0]["nodes"]["count"], json!(1));
    let reply = call(&aios.parser_url(), "POST /api/addNode", &envelope(&json!({})));
    assert_eq!((reply.status, reply.json()), (500, json!({ "error": "'nodeData'" })));
}

#[test]
fn the_gateways_replies() {
    let aios = AiosStandin::start();
    let url = aios.gateway_url();
    let nobody = "HTTP error occurred: 404 Client Error: Not Found for url: http://localhost:3000/clusters/nobody";
    let failed = |text: &str| (500, json!({ "success": false, "data": text }));
    for (name, request, body, expected) in [
        ("read of an unknown id", "GET /clusters/read/nobody", Value::Null, failed(nobody)),
        (
            "update of an unknown id",
            "PUT /clusters/update/nobody",
            json!({ "swap": 1 }),
            failed(nobody),
        ),
        ("delete of an unknown id", "DELETE /clusters/delete/nobody", Value::Null, failed(nobody)),
        ("create of nothing", "POST /clusters/create", json!({}), failed(REGISTRY_500)),
        (
            "create in the parser's envelope",
            "POST /clusters/create",
            envelope(&document(1)),
            failed(REGISTRY_500),
        ),
    ] {
        let reply = call(&url, request, &body);
        assert_eq!((reply.status, reply.json()), expected, "{name}");
    }
    let untyped = exchange(&url, "PUT /clusters/update/nobody", None, "{}").expect("an answer");
    let data = untyped.json()["data"].to_string();
    assert!(untyped.status == 500 && data.contains("415 Unsupported Media Type"), "{data}");

    let created = call(&url, "POST /clusters/create", &document(1));
    let expected = json!({ "success": true, "data": aios.clusters()[0] });
    assert_eq!((created.status, created.json()), (200, expected), "the flat document is taken");

    let update = "PUT /clusters/update/cluster-west-vision-001";
    let updated = call(&url, update, &json!({ "nodes.count": 3, "swap": 5 }));
    assert_eq!(updated.status, 200);
    let stored = read(&aios, "cluster-west-vision-001").json();
    assert_eq!(stored["data"]["nodes"]["count"], json!(3));
    assert_eq!(stored["data"]["swap"], json!(5));
    assert_eq!(stored["data"]["nodes"]["nodeData"], document(1)["nodes"]["nodeData"], "untouched");

    let own_set = call(&url, update, &json!({ "$set": { "swap": 9 } }));
    assert_eq!(own_set.status, 200, "it says yes");
    assert_eq!(read(&aios, "cluster-west-vision-001").json(), stored, "and changes nothing");

    assert_eq!(
        call(&url, "DELETE /clusters/delete/cluster-west-vision-001", &Value::Null).status,
        200
    );
    assert_eq!(read(&aios, "cluster-west-vision-001").status, 500);
    assert!(aios.clusters().is_empty());
}

#[test]
fn replies_are_written_as_flask_writes_them() {
    let aios = AiosStandin::start();
    let reply = read(&aios, "x");
    assert_eq!(reply.content_type, "application/json");
    assert_eq!(
        reply.body,
        "{\"data\":\"HTTP error occurred: 404 Client Error: Not Found for url: http://localhost:3000/clusters/x\",\"success\":false}\n"
    );
    for (name, url, request, status, title) in [
        ("unknown path", aios.parser_url(), "POST /api/createBlock", 404, "Not Found"),
        ("root", aios.gateway_url(), "GET /", 404, "Not Found"),
        ("wrong method", aios.parser_url(), "GET /api/createCluster", 405, "Method Not Allowed"),
        ("PATCH", aios.gateway_url(), "PATCH /clusters/update/x", 405, "Method Not Allowed"),
    ] {
        let reply = exchange(&url, request, None, "").unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (reply.status, reply.content_type.as_str()),
            (status, "text/html; charset=utf-8"),
            "{name}"
        );
        assert!(
            reply.body.contains(&format!("<title>{status} {title}</title>")),
            "{name}: {}",
            reply.body
        );
    }
}

#[test]
fn a_policy_refuses_or_rewrites() {
    let aios = AiosStandin::start();
    let refusal = "Error occurred: cluster not allowed to be added: too few GPUs";
    aios.set_for_next(2, Behaviour::PolicyRefuses { why: "too few GPUs".to_owned() });
    let by_parser = create(&aios, &document(1));
    let expected = json!({ "success": true, "task_id": "", "result": [false, refusal] });
    assert_eq!((by_parser.status, by_parser.json()), (200, expected));
    let by_gateway = call(&aios.gateway_url(), "POST /clusters/create", &document(1));
    assert_eq!(
        (by_gateway.status, by_gateway.json()),
        (500, json!({ "success": false, "data": refusal }))
    );
    assert!(aios.clusters().is_empty());

    aios.set(Behaviour::PolicyRewritesReputation { reputation: 7 });
    assert_eq!(create(&aios, &document(1)).json()["result"]["reputation"], json!(7));
    assert_eq!(aios.clusters()[0]["reputation"], json!(7));
}

#[test]
fn a_gateway_that_is_down() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::GatewayDown);
    let reply = create(&aios, &document(1));
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    let text = reply["result"][1].as_str().expect("a text");
    let address: SocketAddr = aios
        .gateway_url()
        .strip_prefix("http://")
        .and_then(|a| a.parse().ok())
        .expect("an address");
    let start = format!(
        "HTTPConnectionPool(host='{}', port={}): Max retries exceeded with url: /clusters/create",
        address.ip(),
        address.port()
    );
    assert!(reply["result"][0] == json!(false) && text.starts_with(&start), "{reply}");
    let read = exchange(&aios.gateway_url(), "GET /clusters/read/x", None, "");
    assert_eq!(read, None, "the gateway itself answers nothing");
    aios.set(Behaviour::Normal);
    assert!(create(&aios, &document(1)).json()["result"].is_object(), "it is up again");
}

#[test]
fn a_registry_that_fails() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::RegistryFails);
    let reply = create(&aios, &document(1));
    let expected = json!({ "success": true, "task_id": "", "result": [false, REGISTRY_500] });
    assert_eq!((reply.status, reply.json()), (200, expected));
    let reply = read(&aios, "c");
    let expected = json!({ "success": false, "data": format!("{REGISTRY_500}/c") });
    assert_eq!((reply.status, reply.json()), (500, expected));
    assert!(aios.clusters().is_empty());
}

#[test]
fn a_reply_that_is_lost_after_the_cluster_was_stored() {
    let aios = AiosStandin::start();
    aios.set_for_next(1, Behaviour::ReplyLost);
    let body = envelope(&document(1)).to_string();
    let content_type = Some("application/json");
    let reply = exchange(&aios.parser_url(), "POST /api/createCluster", content_type, &body);
    assert_eq!(reply, None);
    assert_eq!(read(&aios, "cluster-west-vision-001").status, 200, "it was stored");
    assert_eq!(create(&aios, &document(1)).json()["result"][1], json!(REGISTRY_500), "a duplicate");
}

#[test]
fn a_service_that_reads_and_never_answers() {
    let aios = AiosStandin::start();
    aios.set_for_next(1, Behaviour::NotAnswering);
    let body = envelope(&document(1)).to_string();
    let content_type = Some("application/json");
    let mut waiting = send(&aios.parser_url(), "POST /api/createCluster", content_type, &body);
    aios.wait_for("the create", DEADLINE, |aios| aios.creates().len() == 1);
    // A later request is answered while the first one hangs, so the first one is not merely slow.
    assert_eq!(read(&aios, "cluster-west-vision-001").status, 500, "nothing was stored");
    waiting.set_nonblocking(true).expect("set");
    let error = waiting.read(&mut [0]).expect_err("there is nothing to read");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_service_that_stalls() {
    let aios = AiosStandin::start();
    let delay = Duration::from_millis(200);
    aios.set_for_next(1, Behaviour::Stalls { delay });
    let start = std::time::Instant::now();
    assert!(create(&aios, &document(1)).json()["result"].is_object(), "answered in the end");
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
}

#[test]
fn everything_sent_is_kept() {
    let aios = AiosStandin::start();
    let body = envelope(&document(1)).to_string();
    exchange(&aios.parser_url(), "POST /api/createCluster?x=1", Some("application/json"), &body);
    exchange(&aios.gateway_url(), "GET /clusters/read/a", None, "");
    exchange(&aios.gateway_url(), "POST /clusters/create", Some("text/plain"), "no JSON");
    let kept = aios.requests();
    let seen: Vec<_> = kept
        .iter()
        .map(|r| (r.service, r.method.as_str(), r.path.as_str(), r.content_type.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [
            (ServiceKind::Parser, "POST", "/api/createCluster", Some("application/json")),
            (ServiceKind::Gateway, "GET", "/clusters/read/a", None),
            (ServiceKind::Gateway, "POST", "/clusters/create", Some("text/plain")),
        ]
    );
    assert_eq!(kept[0].body, body);
    assert_eq!(kept[0].json(), Some(envelope(&document(1))));
    assert_eq!((kept[2].body.as_ref(), kept[2].json()), (b"no JSON".as_slice(), None));
    assert_eq!(aios.creates(), [kept[0].clone(), kept[2].clone()]);
}

#[test]
fn only_loopback_is_listened_on() {
    let loopback: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let everywhere: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    for (name, parser, gateway) in
        [("parser", everywhere, loopback), ("gateway", loopback, everywhere)]
    {
        let refused = AiosStandin::start_on(parser, gateway).expect_err(name);
        assert!(
            matches!(refused, StartError::NotLoopback { address } if address == everywhere),
            "{name}: {refused}"
        );
    }
    let running = AiosStandin::start();
    let taken: SocketAddr = running
        .parser_url()
        .strip_prefix("http://")
        .and_then(|a| a.parse().ok())
        .expect("an address");
    let refused = AiosStandin::start_on(taken, loopback).expect_err("a port that is taken");
    assert!(matches!(refused, StartError::Listen { .. }), "{refused}");
}

#[test]
fn a_dropped_stand_in_closes_its_connections() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::NotAnswering);
    let mut connection = send(&aios.gateway_url(), "GET /clusters/read/x", None, "");
    aios.wait_for("the request", DEADLINE, |aios| aios.requests().len() == 1);
    drop(aios);
    assert_eq!(connection.read(&mut [0]).expect("closed in order"), 0);
}

#[test]
fn the_program() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aios-standin"));
    command.args(["--policy-refuses", "no", "--for-next", "1"]);
    let mut program = Daemon::spawn("aios-standin", command);
    let urls = program.wait_for_line(|line| line.starts_with('{'), DEADLINE);
    let urls: Value = serde_json::from_str(&urls).expect("JSON");
    let parser = urls["parserUrl"].as_str().expect("a URL");
    let request = "POST /api/createCluster";
    let refused = call(parser, request, &envelope(&document(1))).json();
    assert_eq!(refused["result"][0], json!(false), "{refused}");
    let taken = call(parser, request, &envelope(&document(1))).json();
    assert_eq!(taken["result"]["id"], json!("cluster-west-vision-001"), "{taken}");
    let gateway = urls["gatewayUrl"].as_str().expect("a URL");
    assert_eq!(call(gateway, "GET /clusters/read/x", &Value::Null).status, 500);
    program.wait_for_line(
        |line| line.contains("path=/clusters/read/x") && line.contains("answer=500"),
        DEADLINE,
    );
    assert_eq!(program.terminate().code(), Some(0), "{}", program.tail());

    let status = Command::new(env!("CARGO_BIN_EXE_aios-standin"))
        .args(["--gateway-down", "--reply-lost"])
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("runs").code(), Some(2), "two faults at once are wrong usage");
}
