//! What the journal is sent: the real programs, and a socket in the place of systemd's.

use std::process::Command;
use std::thread;
use std::time::Duration;

use rollcall_report::REPORTS_PATH;
use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{Bed, TOKEN, post, report};
use rollcall_tests::machine::Machine;
use rollcall_tests::process::{DEADLINE, Daemon, nvml_standin, program};
use rollcall_tests::systemd::{Entry, Journal};

fn agent(mut command: Command, bed: &Bed, machine: &Machine, url: &str) -> Daemon {
    command
        .args(["run", "--listen=127.0.0.1:0", "--node-name=n1", "--node-id=id-1"])
        .args(["--interval=1s", "--aggregator", url])
        .arg("--token-file")
        .arg(bed.path("token"));
    machine.prepare(&mut command, &nvml_standin());
    Daemon::spawn("rollcall-agent", command)
}

fn messages(entries: &[Entry]) -> Vec<&str> {
    entries.iter().flat_map(|entry| entry.values("MESSAGE")).collect()
}

#[test]
fn an_agents_start_first_report_and_stop_are_three_entries() {
    let (bed, machine, mut journal) = (Bed::new(""), Machine::new(), Journal::start());
    let aggregator = bed.aggregator(&[]);
    let url = aggregator.intake_url();
    let command = journal.command(&program("rollcall-agent"));
    let mut agent = agent(command, &bed, &machine, &url);
    let accepted = journal.wait_for("the aggregator accepted the node");
    // Further reports are no news.
    aggregator.wait_for_log("a new node is on the roll");
    thread::sleep(Duration::from_secs(3));
    assert!(agent.terminate().success(), "{}", agent.tail());

    let entries = journal.entries();
    let told = messages(&entries);
    let [start, accepting, stop] = told.as_slice() else { panic!("three lines: {told:#?}") };
    assert!(start.starts_with("reporting node=n1 version="), "{start}");
    assert_eq!(*accepting, "the aggregator accepted the node node_id=id-1");
    assert_eq!(*stop, "stopping on SIGTERM");
    assert_eq!(agent.lines(), Vec::<String>::new(), "nothing goes to stderr as well");

    let version = env!("CARGO_PKG_VERSION");
    for (entry, field, expected) in [
        (&entries[0], "SYSLOG_IDENTIFIER", &["rollcall-agent"][..]),
        (&entries[0], "PRIORITY", &["6"]),
        (&entries[0], "TARGET", &[""]),
        (&entries[0], "CODE_MODULE", &["rollcall_agent::run"]),
        (&entries[0], "NODE", &["n1"]),
        (&entries[0], "VERSION", &[version]),
        (&entries[0], "URL", &[&format!("{url}/v1/reports")]),
        // Nobody has said yet as which node it is accepted.
        (&entries[0], "NODE_ID", &[]),
        (&accepted, "NODE", &["n1"]),
        (&accepted, "NODE_ID", &["id-1"]),
        (&entries[2], "NODE", &["n1"]),
        (&entries[2], "NODE_ID", &["id-1"]),
        (&entries[2], "SYSLOG_PID", &[&agent.id().to_string()]),
    ] {
        assert_eq!(entry.values(field), expected, "{field} of {entry:?}");
    }
}

#[test]
fn a_trouble_is_one_entry_with_the_whole_chain() {
    let (bed, machine, mut journal) = (Bed::new(""), Machine::new(), Journal::start());
    let command = journal.command(&program("rollcall-agent"));
    let mut agent = agent(command, &bed, &machine, "http://127.0.0.1:1");
    let entry = journal.wait_for("report not accepted, trying again error=");
    let error = entry.values("ERROR");
    assert_eq!(entry.values("PRIORITY"), ["4"]);
    assert_eq!(entry.values("NODE"), ["n1"]);
    let [error] = error.as_slice() else { panic!("one chain: {entry:?}") };
    for words in ["http://127.0.0.1:1/v1/reports does not answer", "Connection refused"] {
        assert!(error.contains(words), "{words} in {error}");
    }
    thread::sleep(Duration::from_secs(4));
    assert!(agent.terminate().success(), "{}", agent.tail());
    let entries = journal.entries();
    assert_eq!(messages(&entries).len(), 3, "start, trouble, stop: {entries:#?}");
    let leak = |entry: &Entry| entry.0.iter().any(|(_, value)| value.contains(TOKEN));
    assert!(!entries.iter().any(leak), "{entries:#?}");
}

#[test]
fn an_aggregators_entries_name_their_node_and_their_target() {
    let (aios, mut journal) = (AiosStandin::start(), Journal::start());
    let targets = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "expect: {nodes: 1}\n");
    let bed = Bed::new(&targets);
    let mut command = journal.command(&program("rollcall-aggregator"));
    command
        .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
        .arg(format!("--store=sqlite:{}", bed.path("rollcall.db").display()))
        .arg("--cluster")
        .arg(bed.path("cluster.yaml"))
        .arg("--token-file")
        .arg(bed.path("token"));
    let mut aggregator = Daemon::spawn("rollcall-aggregator", command);
    let listening = journal.wait_for("intake listening");
    let address = listening.values("ADDRESS").concat().parse().expect("an address");
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let body = report("node-1", 1).to_string();
    let answer = post(address, REPORTS_PATH, &token, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let new = journal.wait_for("a new node is on the roll");
    assert_eq!((new.values("NODE"), new.values("NODE_ID")), (vec!["node-1"], vec!["node-1"]));
    let registered = journal.wait_for("the cluster is registered");
    assert_eq!(registered.values("TARGET"), ["aios"]);
    assert_eq!(registered.values("PHASE"), ["registered"]);
    assert!(aggregator.terminate().success(), "{}", aggregator.tail());
    journal.wait_for("stopped");
    let entries = journal.entries();
    for entry in &entries {
        let target = entry.values("TARGET");
        let [target] = target.as_slice() else { panic!("one TARGET: {entry:?}") };
        let named = entry.values("MESSAGE").concat().contains(" target=aios");
        assert_eq!(*target, if named { "aios" } else { "" }, "{entry:?}");
        assert_eq!(entry.values("SYSLOG_IDENTIFIER"), ["rollcall-aggregator"], "{entry:?}");
    }
}

#[test]
fn a_start_that_fails_is_an_error_of_the_journal() {
    for (name, arguments, code, words) in [
        (
            "rollcall-agent",
            &["run", "--aggregator=http://127.0.0.1:1", "--token-file=/t", "--stamp-labels"][..],
            2,
            "name a kubeconfig with --kubeconfig",
        ),
        (
            "rollcall-aggregator",
            &["serve", "--cluster=/nonexistent/cluster.yaml", "--listen=127.0.0.1:0"],
            1,
            "/nonexistent/cluster.yaml cannot be read",
        ),
        ("rollcall-aggregator", &["serve", "--cluster=/c", "--listen=0.0.0.0:0"], 2, "--tls-cert"),
        ("rollcall-agent", &["run", "--token-file=/t"], 2, "not provided: --aggregator <URL>"),
        ("rollcall-aggregator", &["serve"], 2, "not provided: --cluster <FILE>"),
        (
            "rollcall-aggregator",
            &["serve", "--cluster=/c", "--require-client-certificate"],
            2,
            "give --client-ca-file",
        ),
        (
            "rollcall-agent",
            &["run", "--token-file=/t", "--aggregator=https://user:hunter2@h:76555"],
            2,
            "invalid value '…' for '--aggregator <URL>'",
        ),
    ] {
        let mut journal = Journal::start();
        let mut command = journal.command(&program(name));
        let free = if name == "rollcall-agent" { "--listen" } else { "--admin-listen" };
        command.args(arguments).args([free, "127.0.0.1:0"]);
        let mut daemon = Daemon::spawn(name, command);
        assert_eq!(daemon.wait(DEADLINE).code(), Some(code), "{}", daemon.tail());
        let entry = journal.wait_for(" error=");
        assert_eq!(entry.values("PRIORITY"), ["3"], "{entry:?}");
        let error = entry.values("ERROR").concat();
        assert!(error.contains(words), "{words} in {error}");
        assert!(!format!("{entry:?}").contains("hunter2"), "{entry:?}");
    }
}

#[test]
fn a_start_that_fails_is_readable_where_there_is_no_journal() {
    let missing = ["serve", "--cluster=/nonexistent/a b.yaml", "--listen=127.0.0.1:0"];
    let mut daemon = Daemon::start(
        "rollcall-aggregator",
        [&missing[..], &["--admin-listen=127.0.0.1:0"]].concat(),
    );
    assert_eq!(daemon.wait(DEADLINE).code(), Some(1), "{}", daemon.tail());
    let line = daemon.wait_for_line(|line| line.contains("has failed"), DEADLINE);
    let expected =
        "ERROR the aggregator has failed: the aggregator cannot start without its cluster file: ";
    assert!(line.contains(expected), "{line}");
    assert!(line.contains("/nonexistent/a b.yaml cannot be read: No such file"), "{line}");
}

#[test]
fn where_the_journal_is_not_to_be_reached_stderr_is() {
    let (bed, machine) = (Bed::new(""), Machine::new());
    let command = Journal::command_without(&program("rollcall-agent"));
    let mut agent = agent(command, &bed, &machine, "http://127.0.0.1:1");
    agent.wait_for_line(|line| line.contains("the journal cannot be reached"), DEADLINE);
    agent.wait_for_line(|line| line.contains("reporting node=n1"), DEADLINE);
    assert!(agent.terminate().success(), "{}", agent.tail());
}

#[test]
fn a_journal_that_goes_leaves_stderr() {
    let (bed, machine, mut journal) = (Bed::new(""), Machine::new(), Journal::start());
    let command = journal.command(&program("rollcall-agent"));
    let mut agent = agent(command, &bed, &machine, "http://127.0.0.1:1");
    journal.wait_for("report not accepted");
    drop(journal);
    assert!(agent.terminate().success(), "{}", agent.tail());
    assert!(agent.lines().iter().any(|line| line.ends_with("INFO  stopping on SIGTERM")));
}
