//! Every row of docs/aios.md's table of replies against the stand-in, by bytes: what the reply is
//! taken for, which state follows, and what a person reads.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rollcall_aggregator::cluster_file::Mode;
use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::onboarding::gate::Gate;
use rollcall_aggregator::onboarding::plan::{Situation, Step, after_reply, next};
use rollcall_aggregator::onboarding::state::{Past, Phase, TargetState, Will};
use rollcall_aggregator::targets::aios::{
    INSTALLATION_KEY, Reading, Submission, compare, declared, judge_change, judge_create,
    judge_read,
};
use rollcall_aggregator::targets::{Departed, Destination, Held, Known, Verdict};
use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{Answer, exchange, get};
use serde_json::{Value, json};

const INSTALLATION: &str = "c0ffee";

fn document() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../aggregator/tests/sample/document.json");
    let mut document: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the sample")).expect("JSON");
    document["clusterMetadata"]["additionalInfo"][INSTALLATION_KEY] = INSTALLATION.into();
    document
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().expect("an address")
}

fn create(aios: &AiosStandin, headers: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /api/createCluster HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(address(&aios.parser_url()), &[head.as_bytes(), body].concat())
}

fn put(aios: &AiosStandin, id: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let head = format!(
        "PUT /clusters/update/{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    exchange(address(&aios.gateway_url()), &[head.as_bytes(), body.as_bytes()].concat())
}

/// What becomes of a target whose registration was sent and answered so: the states that it goes
/// through, the last of which stays.
fn states_after(aios: &AiosStandin, answer: &Answer) -> Vec<TargetState> {
    let ours: ClusterDocument = serde_json::from_value(document()).expect("our document");
    let now = jiff::Timestamp::try_from(SystemTime::now()).expect("the time");
    let destination = Destination {
        cluster_id: ours.id.clone(),
        create_url: aios.parser_url(),
        read_url: aios.gateway_url(),
    };
    let digest = rollcall_aggregator::digest::Digest::of(&[b"document"]);
    let submission = Submission {
        installation: INSTALLATION.to_owned(),
        departed: Departed::default(),
        declared: declared(&ours).expect("JSON"),
        destination: destination.clone(),
        wanted: digest,
        obstacle: None,
        document: ours,
    };
    let id = &submission.document.id;
    let state = TargetState {
        phase: Phase::Submitting,
        about: Some(digest),
        past: Past { entry_at: Some(destination.clone()), ..Past::default() },
        ..TargetState::new(now)
    };
    let verdict = judge_create("POST createCluster", answer.status, answer.body.as_bytes(), id);
    let mut states = vec![after_reply(&state, &verdict)];
    let (mut held, mut bodies) = (Held::NotRead, Vec::new());
    for _ in 0..9 {
        let state = states.last().expect("it has one").clone();
        if !matches!(state.phase, Phase::Submitting | Phase::Updating) {
            return states;
        }
        let situation = Situation {
            state: &state,
            will: &Will::default(),
            mode: Mode::Auto,
            look_every: Duration::from_mins(1),
            shrink_percent: 0,
            gate: &Gate::Open,
            destination: &destination,
            wanted: digest,
            declared: &submission.declared,
            obstacle: None,
            held: &held,
            now,
            dice: 0.5,
        };
        match next(&situation) {
            Step::Read => {
                let read = get(address(&aios.gateway_url()), &format!("/clusters/read/{id}"), "");
                held = match judge_read("GET", read.status, read.body.as_bytes(), id) {
                    Reading::Absent => Held::Absent,
                    Reading::Entry(entry) => {
                        let (held, amendment) =
                            compare(&entry, &submission, Known::default()).expect("our document");
                        bodies = amendment.whole.bodies().expect("our document");
                        held
                    }
                    Reading::Unreadable { words } => Held::Unreadable { words },
                };
            }
            Step::Settle(settled) => states.push(settled),
            Step::Update(updating) => {
                for body in &bodies {
                    let answer = put(aios, id, body);
                    let verdict = judge_change("PUT", answer.status, answer.body.as_bytes());
                    assert_eq!(verdict, Verdict::Accepted, "{body}");
                }
                states.push(after_reply(&updating, &Verdict::Accepted));
                held = Held::NotRead;
            }
            step => panic!("{step:?} while a registration may be out there"),
        }
    }
    panic!("it does not settle: {states:?}")
}

fn state_after(aios: &AiosStandin, answer: &Answer) -> TargetState {
    states_after(aios, answer).pop().expect("it has one")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn every_row_of_the_table() {
    type Edit = fn(&mut Value);
    let enveloped = |edit: Edit| {
        let mut document = document();
        edit(&mut document);
        json!({"body": {"spec": {"values": document}}}).to_string().into_bytes()
    };
    let without = |key: &str| {
        let mut document = document();
        document.as_object_mut().expect("an object").remove(key);
        json!({"body": {"spec": {"values": document}}}).to_string().into_bytes()
    };
    let good = enveloped(|_| {});
    let headed = json!({
        "header": {"templateUri": "Parser/V1", "parameters": {}},
        "body": {"spec": {"values": document()}},
    });
    let large = enveloped(|document| {
        document["clusterMetadata"]["description"] = "x".repeat(100 * 1024).into();
    });
    let json_type = "Content-Type: application/json\r\n";
    let normal = || Behaviour::Normal;
    for (row, behaviour, headers, body, phase, words) in [
        ("in the envelope", normal(), json_type, good.clone(), Phase::Registered, ""),
        (
            "in the envelope with its header",
            normal(),
            json_type,
            headed.to_string().into_bytes(),
            Phase::Registered,
            "",
        ),
        (
            "the flat document",
            normal(),
            json_type,
            document().to_string().into_bytes(),
            Phase::Refused,
            "the parser misses 'body' in what it was sent",
        ),
        ("no network", normal(), json_type, without("network"), Phase::Refused, "misses 'network'"),
        ("no nodes", normal(), json_type, without("nodes"), Phase::Refused, "misses 'nodes'"),
        ("no gpus", normal(), json_type, without("gpus"), Phase::Refused, "misses 'gpus'"),
        ("no vcpus", normal(), json_type, without("vcpus"), Phase::Refused, "misses 'vcpus'"),
        ("no storage", normal(), json_type, without("storage"), Phase::Refused, "misses 'storage'"),
        (
            "a scalar is missing",
            normal(),
            json_type,
            without("reputation"),
            Phase::Failing,
            "the network's registry refused the document without saying why",
        ),
        (
            "a bad type",
            normal(),
            json_type,
            enveloped(|document| document["memory"] = "16Gi".into()),
            Phase::Failing,
            "the network's registry refused the document without saying why",
        ),
        (
            "refused by the network's policy",
            Behaviour::PolicyRefuses { why: "the region is closed".into() },
            json_type,
            good.clone(),
            Phase::Refused,
            "the network's policy does not allow this cluster: the region is closed",
        ),
        ("over 100 KiB", normal(), json_type, large, Phase::Refused, "larger than the 100 KiB"),
        (
            "gateway down",
            Behaviour::GatewayDown,
            json_type,
            good.clone(),
            Phase::Failing,
            "the network's gateway did not answer the parser",
        ),
        (
            "an empty object",
            normal(),
            json_type,
            b"{}".to_vec(),
            Phase::Refused,
            "the parser does not understand what it was sent",
        ),
        (
            "malformed JSON",
            normal(),
            json_type,
            b"{\"body\":".to_vec(),
            Phase::Refused,
            "the parser could not read the request as JSON",
        ),
        (
            "no content type",
            normal(),
            "",
            good.clone(),
            Phase::Refused,
            "the parser could not read the request as JSON",
        ),
    ] {
        let aios = AiosStandin::start();
        aios.set_for_next(1, behaviour);
        let answer = create(&aios, headers, &body);
        let state = state_after(&aios, &answer);
        let detail = state.detail.unwrap_or_default();
        assert_eq!(state.phase, phase, "{row}: {detail}");
        assert!(detail.contains(words), "{row}: {detail}");
        if phase == Phase::Registered {
            assert_eq!(aios.clusters().len(), 1, "{row}");
        } else {
            // The network's own words stand in the message.
            let said: Value = serde_json::from_str(&answer.body).expect("JSON");
            let said = said["error"].as_str().or(said["result"][1].as_str()).expect(row);
            let beginning: String = said.chars().take(40).collect();
            assert!(detail.contains(&beginning), "{row}: {detail}");
            assert_eq!(aios.clusters(), Vec::<Value>::new(), "{row}");
        }
    }
}

#[test]
fn a_duplicate_id_is_told_apart_by_reading_back() {
    for (whose, edit, phases, words) in [
        ("ours and equal", ("/reputation", json!(0)), &[Phase::Registered][..], ""),
        (
            "ours and different",
            ("/memory", json!(1)),
            &[Phase::Updating, Phase::Registered],
            "memory is 1 there",
        ),
        (
            "somebody else's",
            ("/clusterMetadata/additionalInfo", json!({"x": 1})),
            &[Phase::Foreign],
            "choose another cluster.id",
        ),
    ] {
        let aios = AiosStandin::start();
        let mut first = document();
        *first.pointer_mut(edit.0).expect(edit.0) = edit.1;
        let wrap = |document: &Value| {
            json!({"body": {"spec": {"values": document}}}).to_string().into_bytes()
        };
        let json_type = "Content-Type: application/json\r\n";
        let made = create(&aios, json_type, &wrap(&first));
        assert!(made.body.contains("\"id\""), "{}", made.body);
        let answer = create(&aios, json_type, &wrap(&document()));
        assert!(answer.body.contains("500 Server Error"), "{}", answer.body);
        let states = states_after(&aios, &answer);
        let passed: Vec<Phase> = states.iter().skip(1).map(|state| state.phase).collect();
        assert_eq!(passed, phases, "{whose}: {states:?}");
        let detail = states[1].detail.clone().unwrap_or_default();
        assert!(detail.contains(words), "{whose}: {detail}");
        assert_eq!(aios.clusters().len(), 1, "{whose}");
    }
}
