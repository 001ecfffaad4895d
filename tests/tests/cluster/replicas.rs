//! Several aggregators with one store: whoever leads is killed, halted or stopped, and there is one
//! registration in the end, and it is right.

#![expect(clippy::print_stderr, reason = "a test says what it has measured")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::targets::aios::{Basis, amend};
use rollcall_tests::aios::{AiosStandin, Fault, Recorded};
use rollcall_tests::bed::{Aggregator, CLUSTER_ID, PATIENCE, get};
use rollcall_tests::cluster::replicas::{Kinds, Replicas, SENDER, Settings, name};
use rollcall_tests::cluster::{Cluster, SOON, text, wait_until};
use serde_json::Value;

/// How often a leader is killed, where `ROLLCALL_KILLS` does not say it.
const KILLS: u64 = 20;
/// How often in the life of one registration.
const KILLS_A_LIFE: u64 = 2;
/// How many lives at a time: they wait for the Lease to run out more than they compute.
const AT_ONCE: usize = 5;
/// Within this another aggregator leads when the leader is killed.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// Within this when it is stopped, and gives the lead back.
const HAND_OVER: Duration = Duration::from_secs(3);
/// For longer than the Lease.
const HALT: Duration = Duration::from_secs(20);
/// How long a halted leader is looked at when it goes on: longer than its every timer.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// How long all may take to be right when nothing goes wrong any more.
const CALM: Duration = Duration::from_mins(1);

const SETTINGS: Settings<'static> = Settings {
    replicas: 3,
    nodes: 3,
    interval: Duration::from_mins(1),
    target: "    lookEvery: 1s\n    timeout: 2s\n",
    more: "departures: {holdDown: 2s, approveAbovePercent: 70}\n",
};

/// What was measured.
#[derive(Debug, Default)]
struct Measured {
    /// From a kill, or a halt, to when another leads.
    take_overs: Vec<Duration>,
    /// From SIGTERM.
    hand_overs: Vec<Duration>,
    /// How many were killed with a create, an update, or nothing of both on its way.
    while_creating: u64,
    while_updating: u64,
    in_between: u64,
    /// How many were started again at once, under their names.
    back_at_once: u64,
}

/// One life of a registration follows a seed, which is printed when it fails: with `ROLLCALL_SEED` that
/// one is lived again.
pub(super) fn a_leader_that_is_killed_is_followed(cluster: &Cluster) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let lives = number("ROLLCALL_KILLS").unwrap_or(KILLS).div_ceil(KILLS_A_LIFE);
    let seeds: Vec<u64> = match number("ROLLCALL_SEED") {
        Some(seed) => vec![seed],
        // Whatever a life does by its seed's remainder is done in some.
        None => (0..lives).map(|life| fastrand::u64(..u64::MAX / 4) * 4 + life % 4).collect(),
    };
    let _kinds = Kinds::declare(cluster);
    let left = Mutex::new(seeds);
    let failed = Mutex::new(Vec::new());
    let measured = Mutex::new(Measured::default());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(seed) = seed else { return };
                    let outcome = catch_unwind(AssertUnwindSafe(|| live(cluster, seed, &measured)));
                    if outcome.is_err() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let mut measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
    measured.take_overs.sort_unstable();
    measured.hand_overs.sort_unstable();
    eprintln!("{lives} lives of a registration: {measured:?}");
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(failed.is_empty(), "live one again with ROLLCALL_SEED={failed:?}");
    assert!(measured.while_creating + measured.while_updating > 0, "nothing was interrupted");
}

/// What is on its way to the network.
#[derive(Debug, Default)]
struct OnItsWay {
    /// A create or an update, until when it waits for its answer.
    write: Option<(Instant, Write)>,
    /// How many of these have come in.
    writes: u64,
    /// How many creates came to nothing on their way.
    lost_creates: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Create,
    Update,
}

impl OnItsWay {
    /// What the network makes of a request.
    fn treat(&mut self, request: &Recorded, dice: &mut Rng) -> Option<Fault> {
        let delay = Duration::from_millis(dice.u64(100..1500));
        let (fault, until) = match (request.method.as_str(), dice.u8(0..16)) {
            (_, 0) => (Fault::ReplyLost, Duration::ZERO),
            (_, 1) => (Fault::ServerError, Duration::ZERO),
            ("GET", 2..=8) => (Fault::Stalls { delay: delay / 3 }, delay / 3),
            ("GET", _) => return None,
            (_, 2 | 3) => (Fault::NotAnswering, Duration::from_secs(2)),
            (_, 4) => (Fault::ResetInReply, Duration::ZERO),
            (_, _) => (Fault::Stalls { delay }, delay),
        };
        if request.method != "GET" {
            let write = if request.is_create() { Write::Create } else { Write::Update };
            self.write = Some((Instant::now() + until, write));
            self.writes += 1;
            let is_lost = matches!(fault, Fault::ServerError | Fault::NotAnswering);
            self.lost_creates += usize::from(is_lost && write == Write::Create);
        }
        Some(fault)
    }

    fn now(&self) -> Option<Write> {
        self.write.filter(|(until, _)| Instant::now() < *until).map(|(_, write)| write)
    }
}

fn live(cluster: &Cluster, seed: u64, all: &Mutex<Measured>) {
    let mut dice = Rng::with_seed(seed);
    let aios = AiosStandin::start();
    let on_its_way = Arc::new(Mutex::new(OnItsWay::default()));
    let (watched, mut network) = (Arc::clone(&on_its_way), dice.fork());
    aios.misbehave_by(move |request: &Recorded| {
        watched.lock().unwrap_or_else(PoisonError::into_inner).treat(request, &mut network)
    });
    let way = || on_its_way.lock().unwrap_or_else(PoisonError::into_inner);
    let told = || all.lock().unwrap_or_else(PoisonError::into_inner);

    let mut replicas = Replicas::prepare(cluster, "killed", &aios, &SETTINGS);
    replicas.start_all();
    // Somebody leads before there is anything to register.
    replicas.wait_for_holder();
    let mut swap = BTreeMap::new();
    for node in 0..SETTINGS.nodes {
        report_anew(&replicas, &mut swap, node, &mut dice);
    }
    for kill in 0..KILLS_A_LIFE {
        if kill > 0 {
            report_anew(&replicas, &mut swap, dice.usize(0..SETTINGS.nodes), &mut dice);
        }
        let leader = moment(&replicas, &mut dice, || way().writes);
        let mut killed = replicas.take(leader);
        let interrupted = way().now();
        killed.daemon.kill_9();
        let at = Instant::now();
        match interrupted {
            Some(Write::Create) => told().while_creating += 1,
            Some(Write::Update) => told().while_updating += 1,
            None => told().in_between += 1,
        }
        // A pod that is started again has another name; a process on a machine has not.
        if dice.u8(0..5) == 0 {
            replicas.start(leader);
            told().back_at_once += 1;
            replicas.wait_for_leader(&all_from_the_start(&replicas, leader), at);
        } else {
            let marks = replicas.marks();
            if dice.bool() {
                report_anew(&replicas, &mut swap, dice.usize(0..SETTINGS.nodes), &mut dice);
            }
            let (_, took) = replicas.wait_for_leader(&marks, at);
            assert!(
                took <= TAKE_OVER,
                "seed {seed}: nobody led for {took:?}\n{}",
                replicas.tails()
            );
            told().take_overs.push(took);
            thread::sleep(Duration::from_millis(dice.u64(0..2000)));
            replicas.start(leader);
        }
    }
    match seed % 4 {
        0 | 1 => halt(&replicas, &aios, &mut swap, &mut dice, all),
        2 => {
            let leader = moment(&replicas, &mut dice, || way().writes);
            let mut stopped = replicas.take(leader);
            let (marks, at) = (replicas.marks(), Instant::now());
            let status = stopped.daemon.terminate();
            assert!(status.success(), "seed {seed}: {status}\n{}", stopped.daemon.tail());
            let (_, took) = replicas.wait_for_leader(&marks, at);
            assert!(took <= HAND_OVER, "seed {seed}: {took:?}\n{}", stopped.daemon.tail());
            told().hand_overs.push(took);
            replicas.start(leader);
        }
        _ => {}
    }
    report_anew(&replicas, &mut swap, 0, &mut dice);
    aios.stop_misbehaving();
    end_well(&aios, &replicas, &swap, seed);
    // None was sent to a network that held the entry, though it would have refused it.
    let creates = aios.creates().len() - way().lost_creates;
    assert_eq!(creates, 1, "seed {seed}\n{}\n{}", sent(&aios), replicas.tails());
}

/// The replica that has lately been started, from its first line on, and nothing of the others' past.
fn all_from_the_start(replicas: &Replicas<'_>, started: usize) -> Vec<(usize, usize)> {
    let marks = replicas.marks().into_iter();
    marks.map(|(it, mark)| if it == started { (it, 0) } else { (it, mark) }).collect()
}

/// Waits for a moment to strike at: in the middle of a write, or any other. Returns who leads then.
fn moment(replicas: &Replicas<'_>, dice: &mut Rng, writes: impl Fn() -> u64) -> usize {
    let leader = replicas.wait_for_holder();
    if dice.u8(0..4) > 0 {
        let (before, end) = (writes(), Instant::now() + Duration::from_secs(8));
        while writes() == before && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(dice.u64(0..300)));
    } else {
        thread::sleep(Duration::from_millis(dice.u64(0..3000)));
    }
    leader
}

/// Halts the leader for longer than its Lease lasts: it wakes up as one that leads, and must not act so.
fn halt(
    replicas: &Replicas<'_>,
    aios: &AiosStandin,
    swap: &mut BTreeMap<String, u64>,
    dice: &mut Rng,
    all: &Mutex<Measured>,
) {
    let leader = replicas.wait_for_holder();
    let others: Vec<_> = replicas.running().into_iter().filter(|it| *it != leader).collect();
    report_on(replicas, swap, dice.usize(0..SETTINGS.nodes), *others.first().expect("another"));
    thread::sleep(Duration::from_millis(dice.u64(0..2500)));
    let marks: Vec<_> = replicas.marks().into_iter().filter(|(it, _)| *it != leader).collect();
    replicas.at(leader).daemon.pause();
    let at = Instant::now();
    let (next, took) = replicas.wait_for_leader(&marks, at);
    assert!(took <= TAKE_OVER, "nobody led for {took:?}\n{}", replicas.tails());
    all.lock().unwrap_or_else(PoisonError::into_inner).take_overs.push(took);
    report_on(replicas, swap, dice.usize(0..SETTINGS.nodes), next);
    thread::sleep(HALT.saturating_sub(at.elapsed()));
    let mark: Vec<_> = replicas.marks().into_iter().filter(|(it, _)| *it == leader).collect();
    let before = aios.requests().len();
    replicas.at(leader).daemon.resume();
    thread::sleep(AFTERWARDS);
    if replicas.leads_since(&mark).is_some() {
        return;
    }
    let since: Vec<_> = aios.requests().into_iter().skip(before).collect();
    let of = |replica: usize| {
        let sender = name(replica);
        let is_of = move |request: &&Recorded| request.header(SENDER) == Some(&sender);
        since
            .iter()
            .filter(is_of)
            .map(|it| format!("{} {}", it.method, it.path))
            .collect::<Vec<_>>()
    };
    let sent = of(leader);
    assert!(sent.is_empty(), "sent by {} though it led no more: {sent:?}", name(leader));
    assert!(!of(next).is_empty(), "{} leads and sends nothing", name(next));
}

/// Posts a report with news to one that runs.
fn report_anew(
    replicas: &Replicas<'_>,
    swap: &mut BTreeMap<String, u64>,
    node: usize,
    dice: &mut Rng,
) {
    let to = *dice.choice(&replicas.running()).expect("one that runs");
    report_on(replicas, swap, node, to);
}

fn report_on(replicas: &Replicas<'_>, swap: &mut BTreeMap<String, u64>, node: usize, to: usize) {
    let gib = swap.entry(replicas.node(node).to_owned()).or_insert(0);
    *gib += 1;
    replicas.accept(to, &replicas.report(node, *gib));
}

/// There is one entry, it was registered once, it is what every aggregator's document says, and that is
/// what was last reported.
fn end_well(aios: &AiosStandin, replicas: &Replicas<'_>, swap: &BTreeMap<String, u64>, seed: u64) {
    // What waits for its next try need not wait any more; any aggregator takes the word.
    let any = *replicas.running().last().expect("one that runs");
    wait_until("an operator's word to be taken", PATIENCE, || {
        let output = replicas.at(any).act(&["submit", "aios"]);
        if output.status.success() { Ok(()) } else { Err(rollcall_tests::bed::said(&output)) }
    });
    let end = Instant::now() + CALM;
    for replica in replicas.running() {
        while let Some(wrong) = what_is_wrong(aios, replicas.at(replica), swap) {
            assert!(
                Instant::now() < end,
                "seed {seed}, {}: {wrong}\n{}\n{}",
                name(replica),
                sent(aios),
                replicas.tails()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
    assert_eq!(aios.registrations(), 1, "seed {seed}\n{}\n{}", sent(aios), replicas.tails());
}

fn what_is_wrong(
    aios: &AiosStandin,
    aggregator: &Aggregator,
    swap: &BTreeMap<String, u64>,
) -> Option<String> {
    let Some(entry) = aios.cluster(CLUSTER_ID) else { return Some("no entry".to_owned()) };
    let target = aggregator.target();
    if text(&target, "/phase") != "registered" {
        return Some(format!("{}: {}", text(&target, "/phase"), text(&target, "/detail")));
    }
    let ours = document(aggregator);
    let nodes = ours.nodes.node_data.iter();
    let reported: BTreeMap<_, _> =
        nodes.map(|node| (node.id.to_string(), node.swap / 1024)).collect();
    if reported != *swap {
        return Some(format!("the document says {reported:?}, and reported was {swap:?}"));
    }
    let nobody = BTreeSet::new();
    let basis = Basis { departed: &nobody, before: None, take_over: true, rescue: None };
    let amendment = amend(&ours, &entry, &basis).expect("JSON");
    let count = entry.pointer("/nodes/count").and_then(Value::as_u64);
    if !amendment.difference.is_none() {
        return Some(amendment.difference.summary());
    }
    (count != Some(swap.len() as u64)).then(|| format!("{count:?} nodes of {swap:?}"))
}

fn document(aggregator: &Aggregator) -> ClusterDocument {
    let answer = get(aggregator.admin, "/v1/document?target=aios", "");
    let view: Value = serde_json::from_str(&answer.body).expect("a document");
    serde_json::from_value(view["document"].clone()).expect("a document")
}

fn sent(aios: &AiosStandin) -> String {
    let line = |request: &Recorded| {
        let by = request.header(SENDER).unwrap_or_default();
        format!("{by}: {} {}\n", request.method, request.path)
    };
    aios.requests().iter().map(line).collect()
}

/// All reports go to one aggregator; the others know of them, and whoever is started later.
pub(super) fn every_replica_knows_who_has_reported(cluster: &Cluster) {
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let mut replicas = Replicas::prepare(cluster, "told", &aios, &SETTINGS);
    replicas.start(0);
    replicas.start(1);
    for node in 0..SETTINGS.nodes - 1 {
        replicas.accept(0, &replicas.report(node, 1));
    }
    replicas.start(2);
    let silent = replicas.node(SETTINGS.nodes - 1).to_owned();
    for replica in replicas.running() {
        let name = name(replica);
        let nodes = wait_until(&format!("{name} to know the nodes"), SOON, || {
            let nodes = nodes(replicas.at(replica));
            let count = nodes["nodes"].as_array().map(Vec::len);
            // The Nodes are watched by themselves.
            let missing = nodes["missing"].as_array().map(Vec::len);
            if (count, missing) == (Some(SETTINGS.nodes - 1), Some(1)) {
                Ok(nodes)
            } else {
                Err(nodes)
            }
        });
        for node in nodes["nodes"].as_array().expect("a list") {
            let seen: jiff::Timestamp = text(node, "/lastSeen").parse().expect("a time");
            let ago = jiff::Timestamp::now().duration_since(seen);
            assert!(ago < jiff::SignedDuration::from_mins(2), "{name}: seen {ago:#} ago: {node}");
            assert_eq!(node["stale"], Value::Bool(false), "{name}: {node}");
        }
        let missing = nodes["missing"].as_array().cloned().unwrap_or_default();
        let missing: Vec<_> = missing.iter().map(|node| text(node, "/name")).collect();
        assert_eq!(missing, [silent.as_str()], "{name}: {nodes}");
    }
    assert!(aios.creates().is_empty(), "registered without {silent}");
}

/// For longer than the times of reports may lag behind: who reports is not taken for silent anywhere,
/// and who is silent is, everywhere.
pub(super) fn every_replica_knows_who_is_silent(cluster: &Cluster) {
    const INTERVAL: Duration = Duration::from_secs(5);
    /// Of the time of a report.
    const REFRESH: Duration = Duration::from_mins(5);
    /// Whoever was started last is the last to look at what is due.
    const HEARS: usize = SETTINGS.replicas - 1;
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let settings = Settings { interval: INTERVAL, ..SETTINGS };
    let mut replicas = Replicas::prepare(cluster, "silent", &aios, &settings);
    for replica in 0..HEARS {
        replicas.start(replica);
    }
    // So that what is due is looked at by those first who have heard nothing since.
    thread::sleep(Duration::from_secs(5));
    replicas.start(HEARS);
    thread::sleep(Duration::from_secs(1));
    for node in 0..settings.nodes {
        replicas.accept(HEARS, &replicas.report(node, 1));
    }
    let started = Instant::now();
    let (silent, talkative) = (settings.nodes - 1, 0..settings.nodes - 1);
    let mut first_stale: BTreeMap<usize, Duration> = BTreeMap::new();
    while started.elapsed() < REFRESH * 2 + INTERVAL * 6 {
        for node in talkative.clone() {
            replicas.accept(HEARS, &replicas.report(node, 1));
        }
        for replica in replicas.running() {
            let nodes = nodes(replicas.at(replica));
            for node in nodes["nodes"].as_array().expect("a list") {
                let is_stale = node["stale"] == Value::Bool(true);
                if text(node, "/name") == replicas.node(silent) {
                    if is_stale {
                        first_stale.entry(replica).or_insert_with(|| started.elapsed());
                    }
                } else {
                    let after = started.elapsed();
                    assert!(!is_stale, "{} after {after:?}: {node}", name(replica));
                }
            }
        }
        thread::sleep(INTERVAL);
    }
    eprintln!("taken for silent after {first_stale:?}");
    let soon = REFRESH + INTERVAL * 3 + Duration::from_mins(1);
    for replica in replicas.running() {
        let after = first_stale.get(&replica);
        assert!(after.is_some_and(|after| *after < soon), "{}: {after:?}", name(replica));
    }
    for node in talkative {
        let inventory = replicas.inventory(node).expect("its object");
        assert_ne!(text(&inventory, "/status/lastSeen"), "", "{inventory}");
    }
}

fn nodes(aggregator: &Aggregator) -> Value {
    serde_json::from_str(&get(aggregator.admin, "/v1/nodes", "").body).expect("JSON")
}

/// Two nodes claim one id, each at another aggregator, at the same moment: no document ever holds it
/// twice, and all come to the same.
pub(super) fn two_nodes_of_one_id_are_never_in_a_document(cluster: &Cluster) {
    const ROUNDS: usize = 8;
    let _kinds = Kinds::declare(cluster);
    let aios = AiosStandin::start();
    let settings = Settings { nodes: ROUNDS * 2, ..SETTINGS };
    let mut replicas = Replicas::prepare(cluster, "claimed", &aios, &settings);
    replicas.start_all();
    let claim = |node: usize, round: usize| {
        let mut report = replicas.report(node, 1);
        report["node"]["proposedId"] = format!("claimed-{round}").into();
        report["node"]["idSource"] = "explicit".into();
        report.to_string()
    };
    let mut both = 0;
    for round in 0..ROUNDS {
        let start = Barrier::new(2);
        let post = |replica: usize| {
            let body = claim(round * 2 + replica, round);
            start.wait();
            replicas.at(replica).post_report(body.as_bytes()).status
        };
        let answers = thread::scope(|scope| {
            let posts = [0, 1].map(|replica| scope.spawn(move || post(replica)));
            posts.map(|post| post.join().expect("an answer"))
        });
        assert!(answers.contains(&200), "round {round}: neither was taken: {answers:?}");
        assert!(answers.iter().all(|it| matches!(it, 200 | 409 | 503)), "{answers:?}");
        both += usize::from(answers == [200, 200]);
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            for replica in replicas.running() {
                assert_no_id_twice(replicas.at(replica), &name(replica));
            }
        }
    }
    eprintln!("in {both} of {ROUNDS} rounds both were taken, and one was set aside");
    // Who was set aside stays so whoever looks anew.
    drop(replicas.take(2));
    replicas.start(2);
    let owners = |replica: usize| -> Vec<(String, String)> {
        let nodes = nodes(replicas.at(replica));
        let nodes = nodes["nodes"].as_array().expect("a list").iter();
        let mut owners: Vec<_> = nodes
            .map(|node| (text(node, "/nodeId").to_owned(), text(node, "/name").to_owned()))
            .collect();
        owners.sort_unstable();
        owners
    };
    wait_until("all to tell the same owners", SOON, || {
        let all = [0, 1, 2].map(owners);
        let is_same = all[0].len() == ROUNDS && all[0] == all[1] && all[1] == all[2];
        if is_same { Ok(()) } else { Err(all) }
    });
}

fn assert_no_id_twice(aggregator: &Aggregator, name: &str) {
    let document = document(aggregator);
    let mut seen = BTreeSet::new();
    for node in &document.nodes.node_data {
        assert!(seen.insert(node.id.clone()), "{name}: {} twice in its document", node.id);
    }
}
