//! The stand-in of AIOS answers, byte for byte of HTTP, what the real services were seen to answer.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test's own functions fail the test"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rollcall_tests::aios::{
    Addresses, AiosStandin, Behaviour, Fault, Infrastructure, ServiceKind, StartError,
};
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
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_service_that_stalls() {
    let aios = AiosStandin::start();
    let delay = Duration::from_millis(200);
    aios.set_for_next(1, Behaviour::Stalls { delay });
    let start = Instant::now();
    assert!(create(&aios, &document(1)).json()["result"].is_object(), "answered in the end");
    assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
}

/// One exchange in bytes: what came before the connection ended, and the error that ended it.
fn raw(url: &str, request: &str, body: &Value) -> (String, Vec<u8>, Option<ErrorKind>) {
    let mut connection = send(url, request, Some("application/json"), &body.to_string());
    let mut bytes = Vec::new();
    let error = connection.read_to_end(&mut bytes).err().map(|error| error.kind());
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let body = end.map(|end| bytes.split_off(end)).unwrap_or_default();
    (String::from_utf8(bytes).expect("the head is text"), body, error)
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()
}

const CLUSTER: &str = "cluster-west-vision-001";
const UPDATE: &str = "PUT /clusters/update/cluster-west-vision-001";

/// A stand-in that knows one cluster of one node, of which AIOS can make use.
fn with_cluster() -> AiosStandin {
    let aios = AiosStandin::start();
    assert!(create(&aios, &with("config", usable())).json()["result"].is_object());
    aios
}

#[test]
fn scripted_faults() {
    #[derive(Debug, PartialEq)]
    enum Seen {
        /// Closed or reset before the first byte.
        Nothing,
        /// Status, content type, whether the body is JSON.
        Whole(u16, &'static str, bool),
        /// The head promised the whole, half of it came, then a reset.
        Half(u16),
    }
    const HTML: &str = "text/html; charset=utf-8";
    const JSON: &str = "application/json";
    let delay = Duration::from_millis(150);
    for (fault, seen, carried_out) in [
        (Fault::Refused, Seen::Nothing, false),
        (Fault::ServerError, Seen::Whole(500, HTML, false), false),
        (Fault::Redirects, Seen::Whole(302, HTML, false), false),
        (Fault::Garbage { bytes: 1 }, Seen::Whole(200, JSON, false), false),
        (Fault::Garbage { bytes: 10_000_000 }, Seen::Whole(200, JSON, false), false),
        (Fault::ReplyLost, Seen::Nothing, true),
        (Fault::ResetInReply, Seen::Half(200), true),
        (Fault::Stalls { delay }, Seen::Whole(200, JSON, true), true),
        (Fault::WrongContentType, Seen::Whole(200, HTML, true), true),
    ] {
        let aios = with_cluster();
        let usual = call(&aios.gateway_url(), UPDATE, &json!({ "swap": 1 }));
        let script = fault.clone();
        aios.misbehave_by(move |request| (request.method == "PUT").then(|| script.clone()));
        let began = Instant::now();
        let (head, body, error) = raw(&aios.gateway_url(), UPDATE, &json!({ "swap": 7 }));
        let took = began.elapsed();
        let what = format!("{fault:?}: {head} {error:?}");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let is_json = serde_json::from_slice::<Value>(&body).is_ok();
        match (&seen, status) {
            (Seen::Nothing, status) => assert_eq!((status, body.len()), (None, 0), "{what}"),
            (Seen::Whole(code, content_type, json), status) => {
                assert_eq!((status, error, is_json), (Some(*code), None, *json), "{what}");
                assert!(head.contains(&format!("content-type: {content_type}\r\n")), "{what}");
                assert_eq!(content_length(&head), Some(body.len()), "{what}");
            }
            (Seen::Half(code), status) => {
                assert_eq!((status, error), (Some(*code), Some(ErrorKind::ConnectionReset)));
                assert_eq!(content_length(&head), Some(usual.body.len()), "{what}");
                assert_eq!(body.len(), usual.body.len() / 2, "{what}");
                assert!(usual.body.as_bytes().starts_with(&body), "{what}");
            }
        }
        if let Fault::Garbage { bytes } = fault {
            assert_eq!(body.len(), bytes, "{what}");
        }
        if fault == Fault::Redirects {
            assert!(head.contains(&format!("location: /moved/clusters/update/{CLUSTER}\r\n")));
        }
        assert!(took >= delay || !matches!(fault, Fault::Stalls { .. }), "{what}: {took:?}");
        let stored = &aios.cluster(CLUSTER).expect("registered")["swap"];
        assert_eq!(stored, &json!(if carried_out { 7 } else { 1 }), "{what}");

        assert_eq!(read(&aios, CLUSTER).status, 200, "{fault:?}: only what the script names");
        aios.stop_misbehaving();
        let after = call(&aios.gateway_url(), UPDATE, &json!({ "swap": 1 }));
        assert_eq!(after, usual, "{fault:?}: as usual again");
    }
}

#[test]
fn a_stalled_request_is_carried_out_though_its_client_has_gone() {
    let aios = with_cluster();
    aios.misbehave_by(|_| Some(Fault::Stalls { delay: Duration::from_hours(1) }));
    let (url, body) = (aios.gateway_url(), json!({ "swap": 7 }).to_string());
    let gone = send(&url, UPDATE, Some("application/json"), &body);
    let swap = |aios: &AiosStandin| aios.cluster(CLUSTER).map(|cluster| cluster["swap"].clone());
    aios.wait_for("the update", DEADLINE, |aios| swap(aios) == Some(json!(7)));
    drop(gone);
    aios.stop_misbehaving();
    assert_eq!(read(&aios, CLUSTER).json()["data"]["swap"], json!(7));
}

#[test]
fn a_script_is_asked_once_a_request_and_may_count() {
    let aios = with_cluster();
    let mut left = 2;
    aios.misbehave_by(move |_| {
        left -= 1;
        (left >= 0).then_some(Fault::ServerError)
    });
    let statuses: Vec<_> = (0..4).map(|_| read(&aios, CLUSTER).status).collect();
    assert_eq!(statuses, [500, 500, 200, 200]);
    // What was set holds where the script has nothing to say.
    aios.set(Behaviour::RegistryFails);
    assert_eq!(read(&aios, CLUSTER).status, 500);
    assert_eq!(aios.requests().len(), 6, "each is kept, with the create");
}

#[test]
fn refused_connections() {
    let aios = with_cluster();
    let urls = [aios.parser_url(), aios.gateway_url(), aios.tasks_url()];
    let address = |url: &str| url.strip_prefix("http://").expect("a URL").to_owned();
    // One in use, one that waits for its answer.
    aios.misbehave_by(|request| (request.method == "PUT").then_some(Fault::NotAnswering));
    let mut idle = TcpStream::connect(address(&aios.gateway_url())).expect("connects");
    let mut waiting = send(&aios.gateway_url(), UPDATE, Some("application/json"), "{}");
    aios.wait_for("the update", DEADLINE, |aios| aios.requests().len() == 2);
    for round in 0..2 {
        aios.refuse_connections(true);
        aios.refuse_connections(true);
        for url in &urls {
            let error = TcpStream::connect(address(url)).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{round}: {url}");
        }
        for (name, connection) in [("idle", &mut idle), ("waiting", &mut waiting)] {
            connection.set_read_timeout(Some(DEADLINE)).expect("set");
            match connection.read(&mut [0]) {
                Ok(bytes) => assert_eq!(bytes, 0, "{name}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}"),
            }
        }
        aios.refuse_connections(false);
        aios.refuse_connections(false);
        assert_eq!(read(&aios, CLUSTER).status, 200, "{round}: what it knew it knows");
        assert_eq!(call(&urls[2], "GET /task/x", &Value::Null).status, 404);
        assert_eq!(create(&aios, &document(1)).status, 200);
        assert_eq!([aios.parser_url(), aios.gateway_url(), aios.tasks_url()], urls);
    }
    aios.refuse_connections(true);
    drop(aios);
}

#[test]
fn another_writer() {
    let aios = with_cluster();
    aios.overwrite(CLUSTER, &[("swap", json!(0)), ("nodes.nodeData.0.memory", json!(1))]);
    let stored = read(&aios, CLUSTER).json();
    assert_eq!(stored["data"]["swap"], json!(0));
    assert_eq!(stored["data"]["nodes"]["nodeData"][0]["memory"], json!(1));
    assert_eq!(stored["data"]["nodes"]["nodeData"][0]["swap"], json!(8192), "nothing else");

    aios.overwrite_whenever_changed(CLUSTER, vec![("swap", json!(3)), ("tags", json!(["x"]))]);
    aios.overwrite_whenever_changed("later", vec![("swap", json!(4))]);
    assert_eq!(read(&aios, CLUSTER).json(), stored, "not before somebody writes");
    let url = aios.gateway_url();
    for swap in [10, 11] {
        let answer = call(&url, UPDATE, &json!({ "swap": swap })).json();
        assert_eq!(answer["data"]["swap"], json!(swap), "the client sees its own");
        let stored = aios.cluster(CLUSTER).expect("registered");
        assert_eq!((&stored["swap"], &stored["tags"]), (&json!(3), &json!(["x"])));
    }
    assert_eq!(call(&url, UPDATE, &json!({ "memory": "lots", "tags": [] })).status, 500);
    assert_eq!(aios.cluster(CLUSTER).expect("registered")["tags"], json!(["x"]));
    for (by, id) in [("the parser", "later"), ("the gateway", "later")] {
        let mut document = document(1);
        document["id"] = json!(id);
        let created = match by {
            "the parser" => create(&aios, &document).json()["result"]["swap"].clone(),
            _ => call(&url, "POST /clusters/create", &document).json()["data"]["swap"].clone(),
        };
        assert_eq!(created, json!(8192), "{by}");
        assert_eq!(aios.cluster(id).expect("registered")["swap"], json!(4), "{by}");
        assert_eq!(call(&url, &format!("DELETE /clusters/delete/{id}"), &Value::Null).status, 200);
    }
    aios.leave_alone();
    call(&url, UPDATE, &json!({ "swap": 12 }));
    assert_eq!(aios.cluster(CLUSTER).expect("registered")["swap"], json!(12));
}

/// Waits until a task has ended; its status and what it tells.
fn ended(aios: &AiosStandin, id: &str) -> (String, Value) {
    let task = || {
        let reply = call(&aios.tasks_url(), &format!("GET /task/{id}"), &Value::Null);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["data"].clone()
    };
    let end = Instant::now() + DEADLINE;
    while task()["task_status"] == json!("pending") {
        assert!(Instant::now() < end, "{}", task());
        std::thread::sleep(Duration::from_millis(2));
    }
    let task = task();
    assert_eq!(task["task_id"], json!(id), "{task}");
    (task["task_status"].as_str().expect("a text").to_owned(), task["task_status_data"].clone())
}

/// Asks for infrastructure or for its removal; the id of the task.
fn ask(aios: &AiosStandin, path: &str, body: &Value) -> String {
    let reply = call(&aios.gateway_url(), &format!("POST {path}"), body);
    let id = reply.json()["data"]["task_id"].as_str().unwrap_or_default().to_owned();
    let data = json!({ "message": "scheduled in background", "task_id": id });
    let expected = json!({ "success": true, "data": data });
    assert_eq!((reply.status, reply.json()), (200, expected), "{path} {body}");
    id
}

const CREATE_INFRA: &str = "/create-cluster-infra";
const REMOVE_INFRA: &str = "/remove-cluster-infra";

fn infra(cluster: &str) -> Value {
    json!({ "cluster_id": cluster, "kube_config_data": { "kind": "Config" } })
}

#[test]
fn requests_for_infrastructure_that_are_refused_at_once() {
    let missing = json!({ "error": "Missing 'kube_config_data' or 'cluster_id'" });
    let exception = |text: &str| json!({ "success": false, "message": text });
    let no_get = |kind: &str| exception(&format!("'{kind}' object has no attribute 'get'"));
    for (name, path, body, status, expected) in [
        ("nothing", CREATE_INFRA, json!({}), 400, missing.clone()),
        ("no kubeconfig", CREATE_INFRA, json!({ "cluster_id": "c" }), 400, missing.clone()),
        (
            "no cluster",
            CREATE_INFRA,
            json!({ "kube_config_data": { "a": 1 } }),
            400,
            missing.clone(),
        ),
        (
            "as the documentation shows it",
            CREATE_INFRA,
            json!({ "cluster_id": CLUSTER, "kube_config_data": {} }),
            400,
            missing,
        ),
        ("a list", CREATE_INFRA, json!([1]), 500, no_get("list")),
        ("null", REMOVE_INFRA, Value::Null, 500, no_get("NoneType")),
    ] {
        let aios = with_cluster();
        let reply = call(&aios.gateway_url(), &format!("POST {path}"), &body);
        assert_eq!((reply.status, reply.json()), (status, expected), "{name}");
    }
    let aios = AiosStandin::start();
    for path in [CREATE_INFRA, REMOVE_INFRA] {
        let reply = exchange(&aios.gateway_url(), &format!("POST {path}"), None, "{}");
        let reply = reply.expect("an answer");
        let text = reply.json()["message"].to_string();
        assert!(reply.status == 500 && text.contains("415 Unsupported Media Type"), "{text}");
    }
    let unknown = call(&aios.tasks_url(), "GET /task/nobody", &Value::Null);
    assert_eq!((unknown.status, unknown.json()), (404, exception("No document found")));
}

#[test]
fn infrastructure_that_starts_overwrites_what_was_registered() {
    let aios = AiosStandin::start();
    let mut registered = document(3);
    registered["config"] = usable();
    create(&aios, &registered);
    let after = Duration::from_millis(150);
    aios.set_infrastructure(Infrastructure::Completes { after });
    let before = aios.cluster(CLUSTER).expect("registered");
    let began = Instant::now();
    let id = ask(&aios, CREATE_INFRA, &infra(CLUSTER));
    let pending = call(&aios.tasks_url(), &format!("GET /task/{id}"), &Value::Null).json();
    assert_eq!(pending["success"], json!(true));
    assert_eq!(pending["data"]["task_status"], json!("pending"));
    assert_eq!(pending["data"]["task_status_data"], json!({}));
    assert_eq!(pending["data"]["task_type"], json!("cluster_infra_creation"));
    assert_eq!(pending["data"]["task_data"], json!({ "cluster_id": CLUSTER }));
    assert!(aios.infrastructures().is_empty(), "not yet");
    assert_eq!(aios.cluster(CLUSTER).expect("registered"), before, "not yet");

    let (status, told) = ended(&aios, &id);
    assert!(began.elapsed() >= after, "{:?}", began.elapsed());
    assert_eq!(status, "completed", "{told}");
    let urls = json!({
        "controllerService": "http://west.example:32300",
        "metricsService": "http://west.example:32301",
        "blocksQuery": "http://west.example:32302",
        "publicGateway": ["http://west.example:32000"],
        "parameterUpdater": "http://west.example:32303"
    });
    let mut expected = before.clone();
    expected["config"]["urlMap"] = urls;
    assert_eq!(told, json!({ "result": expected }));
    assert_eq!(aios.infrastructures(), [CLUSTER]);

    for place in ["/nodes/nodeData/0", "/nodes/nodeData/1", "/nodes/nodeData/2", ""] {
        let nodes = if place.is_empty() { 3 } else { 1 };
        let entry = expected.pointer_mut(place).expect(place);
        entry["swap"] = json!(0);
        entry["storage"] = json!({ "disks": nodes, "size": 512_000 * nodes });
        entry["network"]["txBandwidth"] = json!(10_000 * nodes);
        entry["network"]["rxBandwidth"] = json!(10_000 * nodes);
    }
    assert_eq!(aios.cluster(CLUSTER), Some(expected));

    aios.set_infrastructure(Infrastructure::default());
    let again = ask(&aios, CREATE_INFRA, &infra(CLUSTER));
    assert_ne!(again, id);
    assert_eq!(ended(&aios, &again).0, "completed");
    assert_eq!(aios.infrastructures(), [CLUSTER], "once");
    assert_eq!(ended(&aios, &ask(&aios, REMOVE_INFRA, &infra(CLUSTER))).0, "completed");
    assert!(aios.infrastructures().is_empty());
    let left = aios.cluster(CLUSTER).expect("still registered");
    assert_eq!(left["config"].get("urlMap"), None, "{left}");
    assert_eq!(left["swap"], json!(0), "the capacities stay overwritten");
}

/// What a task comes to for a cluster that has infrastructure already, with another `config`; the
/// infrastructure runs on or it does not.
fn comes_to(config: Value, outcome: Infrastructure, path: &str, body: &Value) -> Outcome {
    let aios = with_cluster();
    assert_eq!(ended(&aios, &ask(&aios, CREATE_INFRA, &infra(CLUSTER))).0, "completed");
    aios.overwrite(CLUSTER, &[("config", config), ("swap", json!(5))]);
    aios.set_infrastructure(outcome);
    let (status, told) = ended(&aios, &ask(&aios, path, body));
    assert_eq!(aios.cluster(CLUSTER).expect("registered")["swap"], json!(5), "{path} {body}");
    let error = told.get("error").and_then(Value::as_str).map(str::to_owned);
    Outcome { status, error, runs: aios.infrastructures() == [CLUSTER] }
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    status: String,
    error: Option<String>,
    runs: bool,
}

impl Outcome {
    fn failed(error: &str) -> Self {
        Self { status: "failed".to_owned(), error: Some(error.to_owned()), runs: true }
    }

    fn completed(runs: bool) -> Self {
        Self { status: "completed".to_owned(), error: None, runs }
    }
}

fn usable() -> Value {
    json!({ "publicHostname": "west.example", "useGateway": false })
}

fn set_to_fail() -> Infrastructure {
    Infrastructure::Fails { after: Duration::ZERO, error: "quota exceeded".to_owned() }
}

/// A kubeconfig as AIOS's own script sends it.
fn by_text() -> Value {
    json!({ "cluster_id": CLUSTER, "kube_config_data": "current-context: a" })
}

fn not_read(id: &str) -> String {
    format!(
        "Failed to read cluster data: HTTP error occurred: 404 Client Error: Not Found for url: http://localhost:3000/clusters/{id}"
    )
}

#[test]
fn creations_that_come_to_nothing() {
    let not_created =
        |text: &str| Outcome::failed(&format!("Failed to create cluster infrastructure: {text}"));
    let not_started =
        |text: &str| not_created(&format!("Failed to create Kubernetes infrastructure: {text}"));
    let no_ports = format!(
        "Kubernetes API error: (422)\nReason: Unprocessable Entity\nHTTP response body: Service \"{CLUSTER}-controller-svc\" is invalid: spec.ports: Required value\n"
    );
    let normal = Infrastructure::default;
    for (name, config, outcome, body, expected) in [
        ("unknown", usable(), normal(), infra("nobody"), Outcome::failed(&not_read("nobody"))),
        (
            "a text for a kubeconfig",
            usable(),
            normal(),
            by_text(),
            not_created("string indices must be integers, not 'str'"),
        ),
        (
            "a text, and set to hang",
            usable(),
            Infrastructure::Hangs,
            by_text(),
            not_created("string indices must be integers, not 'str'"),
        ),
        (
            "no host name",
            json!({ "useGateway": false }),
            normal(),
            infra(CLUSTER),
            not_started("'publicHostname'"),
        ),
        (
            "no config",
            json!({}),
            normal(),
            infra(CLUSTER),
            not_started("Missing or invalid 'config' key in 'cluster_data'."),
        ),
        (
            "behind AIOS's gateway, by default",
            json!({ "publicHostname": "west.example" }),
            normal(),
            infra(CLUSTER),
            not_started(&no_ports),
        ),
        ("set to fail", usable(), set_to_fail(), infra(CLUSTER), Outcome::failed("quota exceeded")),
    ] {
        assert_eq!(comes_to(config, outcome, CREATE_INFRA, &body), expected, "{name}");
    }
}

#[test]
fn removals() {
    let normal = Infrastructure::default;
    for (name, outcome, body, expected) in [
        ("as it should be", normal(), infra(CLUSTER), Outcome::completed(false)),
        // Nothing can be removed without a kubeconfig, and nobody is told.
        ("a text for a kubeconfig", normal(), by_text(), Outcome::completed(true)),
        ("no kubeconfig", normal(), json!({ "cluster_id": CLUSTER }), Outcome::completed(true)),
        ("nothing", normal(), json!({}), Outcome::failed(&not_read("None"))),
        ("unknown", normal(), infra("nobody"), Outcome::failed(&not_read("nobody"))),
        ("set to fail", set_to_fail(), infra(CLUSTER), Outcome::failed("quota exceeded")),
    ] {
        assert_eq!(comes_to(usable(), outcome, REMOVE_INFRA, &body), expected, "{name}");
    }
}

#[test]
fn a_task_that_hangs() {
    let aios = with_cluster();
    aios.set_infrastructure(Infrastructure::Hangs);
    let hangs = ask(&aios, CREATE_INFRA, &infra(CLUSTER));
    aios.set_infrastructure(Infrastructure::default());
    // A later task that ends shows that the first one is not merely slow.
    assert_eq!(ended(&aios, &ask(&aios, REMOVE_INFRA, &infra(CLUSTER))).0, "completed");
    let task = call(&aios.tasks_url(), &format!("GET /task/{hangs}"), &Value::Null).json();
    assert_eq!(task["data"]["task_status"], json!("pending"), "{task}");
    assert!(aios.infrastructures().is_empty());
}

#[test]
fn a_thousand_nodes() {
    let aios = AiosStandin::start();
    let whole = document(1000);
    let mut first = whole.clone();
    first["nodes"]["nodeData"].as_array_mut().expect("a list").truncate(100);
    assert!(create(&aios, &first).json()["result"].is_object());
    for batch in 1..10 {
        let fields: serde_json::Map<_, _> = (100 * batch..100 * (batch + 1))
            .map(|n| (format!("nodes.nodeData.{n}"), node(n + 1, 8)))
            .collect();
        let began = Instant::now();
        let reply = call(&aios.gateway_url(), UPDATE, &Value::Object(fields));
        println!("update of 100 nodes: {:?}", began.elapsed());
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let stored = aios.cluster(CLUSTER).expect("registered");
    assert!(stored["nodes"] == whole["nodes"], "whole and in order");
    let mut took: Vec<_> = (0..9)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(read(&aios, CLUSTER).status, 200);
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("reads of {} bytes: {took:?}", stored.to_string().len());
    let whole_bytes = read(&aios, CLUSTER).body.len();
    aios.misbehave_by(|_| Some(Fault::ResetInReply));
    let (head, body, error) =
        raw(&aios.gateway_url(), &format!("GET /clusters/read/{CLUSTER}"), &Value::Null);
    assert_eq!(
        (content_length(&head), error),
        (Some(whole_bytes), Some(ErrorKind::ConnectionReset))
    );
    let came = body.len();
    assert!(came > 0 && came <= whole_bytes / 2, "{came} of {whole_bytes}");
    // Some thirty times what it takes: to be told of what grows with the square.
    assert!(took[4] < Duration::from_millis(500), "{took:?}");
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
    assert_eq!(kept[0].header("content-type"), Some("application/json"));
    let mut connection = send(&aios.tasks_url(), "GET /task/x", None, "");
    drop(connection.read_to_end(&mut Vec::new()));
    let names: Vec<_> = kept[1].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "connection", "content-length"], "{:?}", kept[1].headers);
    let kept_task = aios.requests().pop().expect("kept");
    assert_eq!((kept_task.service, kept_task.is_create()), (ServiceKind::Tasks, false));
    assert_eq!(kept[0].body, body);
    assert_eq!(kept[0].json(), Some(envelope(&document(1))));
    assert_eq!((kept[2].body.as_ref(), kept[2].json()), (b"no JSON".as_slice(), None));
    assert_eq!(aios.creates(), [kept[0].clone(), kept[2].clone()]);
}

#[test]
fn headers_are_kept_as_they_came() {
    let aios = AiosStandin::start();
    let request = "GET /clusters/read/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer SECRET\r\nX-Twice: 1\r\nX-Twice: 2\r\nConnection: close\r\n\r\n";
    let address = aios.gateway_url().strip_prefix("http://").expect("a URL").to_owned();
    let mut connection = TcpStream::connect(address).expect("connects");
    connection.write_all(request.as_bytes()).expect("sent");
    drop(connection.read_to_end(&mut Vec::new()));
    let kept = aios.requests().pop().expect("kept");
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let expected = [
        ("host", "x"),
        ("authorization", "Bearer SECRET"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("connection", "close"),
    ];
    assert_eq!(kept.headers, expected.map(owned));
    assert_eq!(kept.header("authorization"), Some("Bearer SECRET"));
    assert_eq!(kept.header("cookie"), None);
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
            matches!(refused, StartError::Exposed { address } if address == everywhere),
            "{name}: {refused}"
        );
    }
    let addresses = Addresses { tasks: everywhere, ..Addresses::default() };
    let refused = AiosStandin::start_at(addresses).expect_err("the tasks' port");
    assert!(matches!(refused, StartError::Exposed { .. }), "{refused}");
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
    let tasks = urls["tasksUrl"].as_str().expect("a URL");
    assert_eq!(call(tasks, "GET /task/x", &Value::Null).status, 404);
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
