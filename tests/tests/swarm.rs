//! The swarm, by which large clusters are measured, does what it says: small here, and no time counts.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use rollcall_tests::bed::{Aggregator, Bed, get, run, said};
use rollcall_tests::openssl::Authority;
use serde_json::{Value, json};

/// What a swarm tells that reports to an aggregator of this bed.
fn swarm(bed: &Bed, token: &str, aggregator: &Aggregator, arguments: &[&str]) -> Value {
    let intake = aggregator.intake.to_string();
    let token = bed.path(token).display().to_string();
    let output = run(
        "swarm",
        &[&["--intake", &intake, "--token-file", &token, "--timeout", "60s"], arguments].concat(),
        b"",
    );
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn nodes(aggregator: &Aggregator) -> usize {
    let answer = get(aggregator.admin, "/v1/nodes", "");
    let nodes: Value = serde_json::from_str(&answer.body).expect("the roll");
    nodes["nodes"].as_array().map_or(0, Vec::len)
}

/// An aggregator that serves over TLS, and the file of its CA.
fn serving_over_tls(bed: &Bed) -> (Aggregator, String) {
    let authority = Authority::new("swarm-ca");
    let issued = authority.issue("127.0.0.1", "IP:127.0.0.1", 1);
    bed.write("ca.crt", &authority.certificate());
    bed.write("tls.crt", &issued.certificate);
    bed.write("tls.key", &issued.key);
    let path = |name: &str| bed.path(name).display().to_string();
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    (bed.aggregator(&["--tls-cert", &cert, "--tls-key", &key]), path("ca.crt"))
}

#[test]
fn a_burst_over_tls_with_changes_and_churn() {
    let bed = Bed::new("targets: []\n");
    let (aggregator, ca) = serving_over_tls(&bed);
    let told = swarm(
        &bed,
        "token",
        &aggregator,
        &[
            &["--agents", "50", "--burst", "500ms", "--interval", "500ms", "--rounds", "3"],
            &["--changed", "0.5", "--churn", "0.1", "--ca-file", &ca][..],
        ]
        .concat(),
    );
    assert_eq!(told["accepted"], json!(150), "{told}");
    assert_eq!((&told["sent"], &told["refused"]), (&told["accepted"], &json!({})), "{told}");
    assert_eq!(told["errors"], json!({}), "{told}");
    assert!(told["connections"].as_u64() < told["sent"].as_u64(), "they are kept: {told}");
    let replaced = told["replaced"].as_u64().expect("a count");
    assert!(replaced > 0 && told["changed"].as_u64() > Some(0), "{told}");
    let replaced = usize::try_from(replaced).expect("small");
    assert_eq!(nodes(&aggregator), 50 + replaced, "those that left are on the roll: {told}");
}

#[test]
fn connections_over_tls_are_kept_for_longer_than_a_request_may_take() {
    let bed = Bed::new("targets: []\n");
    let (aggregator, ca) = serving_over_tls(&bed);
    let twice = ["--agents", "4", "--burst", "100ms", "--interval", "12s", "--rounds", "2"];
    let told = swarm(&bed, "token", &aggregator, &[&twice[..], &["--ca-file", &ca]].concat());
    assert_eq!((&told["accepted"], &told["errors"]), (&json!(8), &json!({})), "{told}");
    assert_eq!(told["connections"], json!(4), "{told}");
}

#[test]
fn flat_out_and_what_is_refused() {
    let bed = Bed::new("targets: []\n");
    let aggregator = bed.aggregator(&[]);
    let flat_out = ["--agents", "20", "--flat-out", "4", "--requests", "60"];
    let told = swarm(&bed, "token", &aggregator, &[&flat_out[..], &["--new-connections"]].concat());
    assert_eq!((&told["sent"], &told["accepted"]), (&json!(60), &json!(60)), "{told}");
    assert_eq!(told["connections"], told["sent"], "{told}");
    assert_eq!(nodes(&aggregator), 20);

    bed.write("another-token", "another-token-than-the-aggregator-has");
    let other = ["--agents", "3", "--flat-out", "1", "--rounds", "1", "--first", "100"];
    let told = swarm(&bed, "another-token", &aggregator, &other);
    let outcome = (&told["accepted"], &told["refused"], &told["errors"]);
    assert_eq!(outcome, (&json!(0), &json!({ "credentials-wrong": 3 }), &json!({})), "{told}");

    let token = bed.path("token").display().to_string();
    let output = run("swarm", &["--token-file", &token, "--intake", "192.0.2.1:7655"], b"");
    assert!(!output.status.success());
    assert!(said(&output).contains("on this machine only"), "{}", said(&output));
}
