//! Certificates that are replaced, and those that are out of their time, on both sides.

use std::process::Command;
use std::time::Duration;

use rollcall_tests::host::authority::{Pair, Validity};
use rollcall_tests::host::site::{INTAKE, INTERVAL, Site, wait_for_report};
use rollcall_tests::host::{AGENT, AGGREGATOR, Entry, Machine, Place, SOON, messages};
use rollcall_tests::process::wait_until;

use super::Stage;

/// How long a program may take to see that a file is another one, which it looks at every 10 s, and to
/// try again what has failed.
const SEEN: Duration = Duration::from_mins(1);

pub(crate) fn replaced(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let processes = processes(head, node);
        let place = node.now();
        let server = site.server(Validity::Now);
        site.give_server(head, &server);
        site.give_client(node, &site.client("node", Validity::Now));
        wait_until("the intake's new certificate", SEEN, || match served(head) {
            found if same(&found, &server) => Ok(()),
            found => Err(found),
        });
        wait_for_report(head, node, SOON);
        wait_for_report(head, head, SOON);
        assert_eq!(self::processes(head, node), processes, "nothing is restarted");
        let bad = warnings(&node.told(AGENT, &place));
        assert_eq!(bad.len(), 0, "no report was refused: {}", messages(&bad));
    });
}

pub(crate) fn out_of_their_time(stage: &Stage) {
    stage.on_site(|head, node, site| {
        for (validity, words) in BAD {
            clients(head, node, site, validity, words);
            servers(head, node, site, validity, words);
        }
    });
}

/// Certificates that are out of their time, and what is said of them.
const BAD: [(Validity, &str); 2] =
    [(Validity::Expired, "expired at"), (Validity::NotYet, "is not valid before")];

/// An agent gets a certificate that is not good now: it goes on with what it has, and says so. Where it
/// has nothing else, after a restart, it is refused and says why, and goes on with one that is good.
fn clients(head: Machine<'_>, node: Machine<'_>, site: &Site, validity: Validity, words: &str) {
    let what = format!("a client's certificate, {validity:?}");
    let (at_head, at_node) = (head.now(), node.now());
    site.give_client(node, &site.client("node", validity));
    let line = says(node, AGENT, &at_node, words);
    println!("{what}: the agent says: {}", line.message());
    wait_for_report(head, node, SOON);
    std::thread::sleep(INTERVAL * 4);
    let said = warnings(&node.told(AGENT, &at_node));
    assert_eq!(said.len(), 1, "{what}: said once: {}", messages(&said));
    let said = handshakes(&head.told(AGGREGATOR, &at_head));
    assert_eq!(said.len(), 0, "{what}: the aggregator is not concerned: {}", messages(&said));

    let (at_head, at_node) = (head.now(), node.now());
    node.run(&["systemctl", "restart", AGENT]);
    let processes = processes(head, node);
    let line = says(node, AGENT, &at_node, words);
    println!("{what}, after a restart: the agent says: {}", line.message());
    std::thread::sleep(INTERVAL * 4);
    let said = warnings(&node.told(AGENT, &at_node));
    assert!(said.len() <= 2, "{what}: said once: {}", messages(&said));
    let said = handshakes(&head.told(AGGREGATOR, &at_head));
    assert_eq!(said.len(), 1, "{what}: the aggregator says it once: {}", messages(&said));

    site.give_client(node, &site.client("node", Validity::Now));
    wait_for_report(head, node, SOON);
    assert_eq!(self::processes(head, node), processes, "{what}: nothing was restarted");
}

/// The aggregator gets one: it goes on with what it has, and says so. Where it has nothing else, after
/// a restart, it says so, too, and goes on as soon as there is another.
fn servers(head: Machine<'_>, node: Machine<'_>, site: &Site, validity: Validity, words: &str) {
    let what = format!("the intake's certificate, {validity:?}");
    let (at_head, at_node) = (head.now(), node.now());
    site.give_server(head, &site.server(validity));
    let line = says(head, AGGREGATOR, &at_head, words);
    println!("{what}: the aggregator says: {}", line.message());
    drop_connections(head);
    wait_for_report(head, node, SOON);
    // A report that was under way as its connection was dropped is told of, too.
    let said = certificates(&node.told(AGENT, &at_node));
    assert_eq!(said.len(), 0, "{what}: agents are not concerned: {}", messages(&said));

    let (at_head, at_node) = (head.now(), node.now());
    head.run(&["systemctl", "restart", AGGREGATOR]);
    let line = says(node, AGENT, &at_node, words);
    println!("{what}, after a restart: the agent says: {}", line.message());
    std::thread::sleep(INTERVAL * 4);
    let said = warnings(&node.told(AGENT, &at_node));
    // That nobody answers while it starts may be another.
    assert!(said.len() <= 2, "{what}: said once: {}", messages(&said));
    let said = certificates(&head.told(AGGREGATOR, &at_head));
    println!("{what}, after a restart: the aggregator says: {}", messages(&said));
    // Of its own certificate, and of each agent that refuses it.
    assert!((1..=3).contains(&said.len()), "{what}: said once: {}", messages(&said));

    let process = head.property(AGGREGATOR, "MainPID");
    site.give_server(head, &site.server(Validity::Now));
    for machine in [head, node] {
        wait_for_report(head, machine, SEEN);
    }
    assert_eq!(head.property(AGGREGATOR, "MainPID"), process, "{what}: nothing was restarted");
}

pub(crate) fn ends_meanwhile(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let (at_head, at_node) = (head.now(), node.now());
        let time = Duration::from_secs(25);
        site.give_client(node, &site.client("node", Validity::For(time)));
        site.give_server(head, &site.server(Validity::For(time)));
        let renewed =
            says_at_all(head, AGGREGATOR, &at_head, "the intake's certificate is renewed");
        assert_eq!(renewed.field("PRIORITY"), "6", "{}", renewed.message());
        wait_for_report(head, node, SOON);
        std::thread::sleep(time);
        drop_connections(head);
        let line = says(head, AGGREGATOR, &at_head, "has expired");
        println!("the aggregator says: {}", line.message());
        let line = says(node, AGENT, &at_node, "expired at");
        println!("the agent says: {}", line.message());
        site.give_client(node, &site.client("node", Validity::Now));
        site.give_server(head, &site.server(Validity::Now));
        for machine in [head, node] {
            wait_for_report(head, machine, SEEN);
        }
    });
}

/// Ends all connections of agents, as a firewall does that was restarted.
fn drop_connections(head: Machine<'_>) {
    head.run(&["ss", "--kill", "--tcp", "state", "established", &format!("( sport = :{INTAKE} )")]);
}

/// The one clear line: a program says what is wrong.
fn says(machine: Machine<'_>, unit: &str, since: &Place, words: &str) -> Entry {
    let line = says_at_all(machine, unit, since, words);
    assert!(matches!(line.field("PRIORITY"), "3" | "4"), "it is bad: {}", line.message());
    line
}

fn says_at_all(machine: Machine<'_>, unit: &str, since: &Place, words: &str) -> Entry {
    machine.wait_for_message(unit, since, words, SEEN)
}

fn warnings(entries: &[Entry]) -> Vec<Entry> {
    let is_bad = |entry: &&Entry| matches!(entry.field("PRIORITY"), "0" | "1" | "2" | "3" | "4");
    entries.iter().filter(is_bad).cloned().collect()
}

/// Those of clients that were not let in. That a node which cannot report is silent after a while is
/// another matter, and is said or not as the machine is quick or slow.
fn handshakes(entries: &[Entry]) -> Vec<Entry> {
    let mut said = warnings(entries);
    said.retain(|entry| entry.message().contains("not let in"));
    said
}

/// Those of certificates, the intake's or a client's.
fn certificates(entries: &[Entry]) -> Vec<Entry> {
    let mut said = warnings(entries);
    said.retain(|entry| entry.message().contains("certificate"));
    said
}

fn processes(head: Machine<'_>, node: Machine<'_>) -> [String; 3] {
    [(head, AGGREGATOR), (head, AGENT), (node, AGENT)]
        .map(|(machine, unit)| machine.property(unit, "MainPID"))
}

/// The certificate that the intake shows, whoever asks.
fn served(head: Machine<'_>) -> String {
    let at = format!("{}:{INTAKE}", head.address());
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &at, "-servername", "head"])
        .stdin(std::process::Stdio::null())
        .output();
    String::from_utf8_lossy(&client.expect("openssl runs").stdout).into_owned()
}

fn same(shown: &str, pair: &Pair) -> bool {
    let lines = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
    let shown = lines(shown);
    lines(&pair.certificate).iter().all(|line| shown.contains(line))
}
