//! Random faults of the network and random ends of the process: in the end there is exactly one
//! entry, and it is right.
//!
//! Each run follows a seed, which is printed when it fails: `ROLLCALL_SEED=… cargo test -p
//! rollcall-tests --test flow_faults` runs that one again. `ROLLCALL_RUNS` says how many there are;
//! `make soak` makes a thousand.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::targets::aios::{Basis, amend};
use rollcall_tests::aios::{AiosStandin, Fault, Recorded};
use rollcall_tests::bed::{Aggregator, Bed, CLUSTER_ID, OPERATOR_TOKEN, post, report};
use serde_json::{Value, json};

/// How many runs, where nothing else is said.
const RUNS: u64 = 50;
/// How many at a time: they wait for each other's timers more than they compute.
const AT_ONCE: usize = 6;
/// How long a network that has become well again may take to be right.
const CALM: Duration = Duration::from_secs(30);

#[test]
fn in_the_end_there_is_one_entry_and_it_is_right() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds: Vec<u64> = match number("ROLLCALL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("ROLLCALL_RUNS").unwrap_or(RUNS)).map(|_| fastrand::u64(..)).collect(),
    };
    let all = seeds.len();
    let left = Mutex::new(seeds);
    let failed = Mutex::new(Vec::new());
    let requests = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(seed) = seed else { return };
                    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok(sent) => {
                            requests.fetch_add(sent, Ordering::Relaxed);
                        }
                        Err(_said) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(
        failed.is_empty(),
        "{} of {all} runs failed; run one again with ROLLCALL_SEED={failed:?}",
        failed.len()
    );
    let requests = requests.into_inner();
    assert!(requests > 0, "nothing was sent");
    eprintln!("{all} runs, {requests} requests");
}

/// One life of an aggregator with a network that is not well; how many requests that took.
fn run(seed: u64) -> u64 {
    let mut dice = Rng::with_seed(seed);
    let aios = AiosStandin::start();
    let target = Bed::aios_target(
        &aios.parser_url(),
        &aios.gateway_url(),
        "    lookEvery: 1s\n    timeout: 1s\nexpect: {nodes: 1}\n",
    );
    let bed = Bed::new(&target);
    let mut script = dice.fork();
    aios.misbehave_by(move |_: &Recorded| fault(&mut script));

    let mut running = Some(bed.aggregator(&[]));
    let mut nodes = BTreeSet::new();
    for _ in 0..dice.usize(5..12) {
        match dice.u8(0..12) {
            0..=3 => {
                let node = dice.u8(0..6);
                nodes.insert(node);
                let aggregator = running.get_or_insert_with(|| bed.aggregator(&[]));
                let mut report = report(&format!("node-{node}"), node.into());
                report["inventory"]["swap"]["known"]["totalBytes"] =
                    json!(u64::from(dice.u8(1..9)) << 30);
                let answer = aggregator.post_report(report.to_string().as_bytes());
                assert_eq!(answer.status, 200, "seed {seed}: {}", answer.body);
            }
            4..=6 => {
                if let Some(mut aggregator) = running.take() {
                    aggregator.daemon.kill_9();
                }
                if dice.bool() {
                    running = Some(bed.aggregator(&[]));
                }
            }
            7 => {
                aios.refuse_connections(true);
                thread::sleep(Duration::from_millis(dice.u64(0..600)));
                aios.refuse_connections(false);
            }
            8 if aios.cluster(CLUSTER_ID).is_some() => {
                aios.overwrite(CLUSTER_ID, &[("storage.size", json!(512_000))]);
            }
            // Somebody is impatient.
            9 | 10 => {
                if let Some(aggregator) = &running {
                    submit(aggregator);
                }
            }
            _ => {}
        }
        thread::sleep(Duration::from_millis(dice.u64(0..900)));
    }
    aios.stop_misbehaving();

    let aggregator = running.take().unwrap_or_else(|| bed.aggregator(&[]));
    if nodes.is_empty() {
        nodes.insert(0);
        aggregator.post_report(report("node-0", 0).to_string().as_bytes());
    }
    // What waits for a person, or for its next try, need not wait any more.
    submit(&aggregator);
    let end = Instant::now() + CALM;
    loop {
        let wrong = what_is_wrong(&aios, &aggregator, &nodes);
        let Some(wrong) = wrong else { break };
        assert!(
            Instant::now() < end,
            "seed {seed}: {wrong}\n{}\n{}",
            sent(&aios),
            aggregator.daemon.tail()
        );
        thread::sleep(Duration::from_millis(100));
    }
    aios.requests().len() as u64
}

fn submit(aggregator: &Aggregator) {
    let token = format!("Authorization: Bearer {OPERATOR_TOKEN}\r\n");
    let asked = post(aggregator.admin, "/v1/targets/aios/submit", &token, b"{}");
    assert_eq!(asked.status, 202, "{}", asked.body);
}

/// Every second request goes wrong.
fn fault(dice: &mut Rng) -> Option<Fault> {
    let fault = match dice.u8(0..18) {
        0 => Fault::Refused,
        1 => Fault::ServerError,
        2 => Fault::Redirects,
        3 => Fault::Garbage { bytes: 10_000_000 },
        4 | 5 => Fault::ReplyLost,
        6 => Fault::ResetInReply,
        7 => Fault::Stalls { delay: Duration::from_secs(30) },
        8 => Fault::WrongContentType,
        _ => return None,
    };
    Some(fault)
}

fn what_is_wrong(
    aios: &AiosStandin,
    aggregator: &Aggregator,
    nodes: &BTreeSet<u8>,
) -> Option<String> {
    let clusters = aios.clusters();
    let [entry] = clusters.as_slice() else {
        return Some(format!("{} entries", clusters.len()));
    };
    let (phase, detail) = aggregator.target_state();
    if phase != "registered" {
        return Some(format!("{phase}: {detail}"));
    }
    let document = aggregator.ask(&["document", "aios"]);
    let ours: ClusterDocument = serde_json::from_value(document).expect("a document");
    let amendment = amend(
        &ours,
        entry,
        &Basis { departed: &BTreeSet::new(), before: None, take_over: true, rescue: None },
    )
    .expect("JSON");
    if !amendment.difference.is_none() {
        return Some(amendment.difference.summary());
    }
    let count = entry.pointer("/nodes/count").and_then(Value::as_u64);
    (count != Some(nodes.len() as u64)).then(|| format!("{count:?} nodes of {nodes:?}"))
}

fn sent(aios: &AiosStandin) -> String {
    let lines: Vec<String> = aios
        .requests()
        .iter()
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    lines.join("\n")
}
