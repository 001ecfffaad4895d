//! What the operator's commands print: tables with colours on a terminal and plain in a pipe, JSON and
//! YAML of the same, watches, and progress on stderr.
#![expect(clippy::expect_used, reason = "what is not there fails the test")]

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rollcall_tests::aios::{AiosStandin, Behaviour};
use rollcall_tests::bed::{
    Aggregator, Bed, CLUSTER_ID, OPERATOR_TOKEN, PATIENCE, report, report_with_gpus, said,
};
use rollcall_tests::process::{Daemon, program};
use rollcall_tests::terminal::{OnTerminal, Streams, without_codes};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const ESCAPE: char = '\u{1b}';
/// Leaves a terminal's other screen.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// One of the operator's commands.
fn command(aggregator: &Aggregator, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("rollcall-aggregator"));
    command.args(arguments).env("ROLLCALL_SERVER", format!("http://{}", aggregator.admin));
    command
}

/// A cluster of two nodes that is registered, and whose entry somebody has changed since.
fn drifted(aios: &AiosStandin) -> (Bed, Aggregator) {
    let target = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "    lookEvery: 1h\n");
    let bed = Bed::new(&format!("{target}expect: {{nodes: 2}}\n"));
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report_with_gpus("node-a", 1, 8));
    aggregator.accept(&report("node-b", 2));
    aggregator.wait_for_phase("registered");
    aios.overwrite(CLUSTER_ID, &[("memory", json!(7))]);
    (bed, aggregator)
}

#[test]
fn a_pipe_gets_no_escape_codes_and_every_form_says_the_same() {
    let aios = AiosStandin::start();
    let (bed, aggregator) = drifted(&aios);
    let cluster = bed.path("cluster.yaml").display().to_string();
    for (arguments, code, words) in [
        (&["nodes"][..], 0, "NVIDIA H100 80GB HBM3"),
        (&["status"], 0, "registered"),
        (&["document"], 0, "node-b"),
        (&["diff", "aios"], 3, "memory  7"),
        (&["history"], 0, "sends POST"),
        (&["check", "aios", "--cluster", &cluster], 3, "Status check results are ×"),
    ] {
        let run = |more: &[&str], force: bool| {
            let mut command = command(&aggregator, arguments);
            command.args(more).env_remove("NO_COLOR");
            if force {
                command.env("CLICOLOR_FORCE", "1");
            }
            let output = command.output().expect("the program runs");
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
            String::from_utf8(output.stdout).expect("text")
        };
        let table = run(&["--output", "table"], false);
        assert!(table.contains(words), "{arguments:?}: {table}");
        assert!(!table.contains(ESCAPE), "{arguments:?}: {table:?}");
        let colourful = run(&["--output", "table"], true);
        assert!(colourful.contains(ESCAPE), "{arguments:?}: {colourful:?}");
        // Ages differ from one run to the next, and what is aligned does not.
        let stripped = without_codes(&colourful);
        let columns = |text: &str| text.lines().next().map(str::to_owned);
        assert_eq!(columns(&stripped), columns(&table), "{arguments:?}");
        assert_eq!(stripped.lines().count(), table.lines().count(), "{arguments:?}");

        // What is seen differs between two looks only in how long they took.
        let steady = |mut value: Value| {
            take_out(&mut value, &["tookMs", "nextTry"]);
            value
        };
        let json = run(&["--output", "json"], true);
        assert!(!json.contains(ESCAPE), "{arguments:?}: {json:?}");
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let yaml = run(&["--output", "yaml"], true);
        assert!(!yaml.contains(ESCAPE), "{arguments:?}: {yaml:?}");
        let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
        assert_eq!(steady(yaml), steady(json), "{arguments:?}");
    }
}

fn take_out(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !keys.contains(&key.as_str()));
            fields.values_mut().for_each(|field| take_out(field, keys));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_out(item, keys)),
        _ => {}
    }
}

#[test]
fn a_terminal_gets_colours_and_columns_that_it_has_room_for() {
    let aios = AiosStandin::start();
    let (_bed, aggregator) = drifted(&aios);
    let shown = |arguments: &[&str], columns, prepare: &dyn Fn(&mut Command)| {
        let mut command = command(&aggregator, arguments);
        // The harness says xterm; `env` between the two has the last word.
        let mut through = Command::new("env");
        prepare(&mut through);
        through.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            through.env(key, value.expect("set"));
        }
        command = through;
        let (_, written, _) = OnTerminal::start(command, Streams::All, columns, 40).end(PATIENCE);
        written.replace("\r\n", "\n")
    };
    let as_it_is = |_: &mut Command| {};
    let wide = shown(&["nodes"], 200, &as_it_is);
    assert!(wide.contains("\u{1b}[32mcomplete\u{1b}[0m"), "{wide:?}");
    assert!(without_codes(&wide).contains("SWAP MIB"), "{wide:?}");
    for (what, setting) in
        [("NO_COLOR", "NO_COLOR=1"), ("TERM", "TERM=dumb"), ("CLICOLOR", "CLICOLOR=0")]
    {
        let plain = shown(&["nodes"], 200, &|command| {
            command.arg(setting);
        });
        assert!(plain.contains("complete") && !plain.contains(ESCAPE), "{what}: {plain:?}");
    }
    for columns in [120_u16, 80, 60, 40] {
        let narrow = without_codes(&shown(&["nodes"], columns, &as_it_is));
        let mut lines = narrow.lines();
        let header = lines.next().expect("a header");
        for always in ["NODE", "STATE", "VCPUS", "GPUS"] {
            assert!(header.contains(always), "{columns}: {narrow}");
        }
        assert!(!header.contains("SWAP MIB"), "{columns}: {narrow}");
        let rows: Vec<&str> = lines.by_ref().take(3).collect();
        for row in std::iter::once(header).chain(rows) {
            assert!(row.chars().count() <= columns.into(), "{columns}: {row:?}");
        }
        let last = narrow.lines().last().expect("lines");
        assert!(last.starts_with("no room for: SWAP MIB, NICS"), "{columns}: {narrow}");
    }
    let difference = shown(&["diff", "aios"], 80, &as_it_is);
    assert!(difference.contains("\u{1b}[31m7\u{1b}[0m"), "{difference:?}");
}

#[test]
fn a_watch_on_a_terminal_shows_what_comes_and_leaves_the_terminal_as_it_was() {
    let bed = Bed::new("targets: []\n");
    let mut aggregator = bed.aggregator(&[]);
    let nodes = command(&aggregator, &["nodes", "--watch=0.2"]);
    let mut watch = OnTerminal::start(nodes, Streams::All, 60, 8);
    let mut seen = watch.wait_for("the first look", 0, PATIENCE, |written| {
        written.contains("no node has reported yet")
    });
    assert!(watch.written().starts_with("\u{1b}[?1049h"), "{:?}", watch.written());
    aggregator.accept(&report("node-a", 1));
    seen = watch.wait_for("the node", seen, PATIENCE, |new| new.contains("node-a"));
    for node in 2..12 {
        aggregator.accept(&report(&format!("node-{node}"), node));
    }
    seen = watch.wait_for("what has no room", seen, PATIENCE, |new| {
        new.contains("9 more lines: a pipe shows all")
    });
    watch.resize(200, 40);
    seen = watch
        .wait_for("all", seen, PATIENCE, |new| new.contains("node-11") && new.contains("SWAP MIB"));

    // One that does not answer for a while.
    aggregator.daemon.pause();
    seen = watch.wait_for("a look that takes long", seen, PATIENCE, |new| {
        // How long, a busy machine says.
        new.contains("looking for ") && new.contains("s now") && new.contains("node-11")
    });
    aggregator.daemon.resume();
    let is_quiet = |new: &str| new.contains("node-11") && !new.contains("looking for");
    let start = Instant::now();
    loop {
        let from = watch.written().len();
        std::thread::sleep(Duration::from_millis(500));
        if watch.written().get(from..).is_some_and(is_quiet) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", watch.written().get(seen..));
    }
    seen = watch.written().len();

    // One that is gone: what was seen last stays.
    aggregator.daemon.kill_9();
    watch.wait_for("what is wrong", seen, PATIENCE, |new| {
        new.contains("and trying goes on: ")
            && new.contains("got no answer")
            && new.contains("node-11")
    });
    watch.interrupt();
    let (status, written, _) = watch.end(PATIENCE);
    assert_eq!(status.code(), Some(0), "{written:?}");
    assert!(written.ends_with(LEAVE), "{written:?}");
}

#[test]
fn a_watch_leaves_the_terminal_when_it_is_suspended_and_comes_back() {
    let bed = Bed::new("targets: []\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    let start = || {
        let nodes = command(&aggregator, &["nodes", "--watch=0.2"]);
        OnTerminal::start(nodes, Streams::All, 60, 8)
    };
    let mut watch = start();
    let mut seen = watch.wait_for("the node", 0, PATIENCE, |it| it.contains("node-a"));
    for _ in 0..2 {
        watch.signal(Signal::TSTP);
        seen = watch.wait_for("the end of the screen", seen, PATIENCE, |it| it.ends_with(LEAVE));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(watch.written().len(), seen, "it is stopped: {:?}", watch.written());
        watch.signal(Signal::CONT);
        seen = watch.wait_for("the node again", seen, PATIENCE, |it| {
            it.starts_with("\u{1b}[?1049h") && it.contains("node-a")
        });
    }
    watch.signal(Signal::QUIT);
    let (status, written, _) = watch.end(PATIENCE);
    assert_eq!(status.code(), Some(0), "{written:?}");
    assert!(written.ends_with(LEAVE), "{written:?}");
}

#[test]
fn a_watch_whose_reader_stands_still_can_be_ended() {
    let bed = Bed::new("targets: []\n");
    let aggregator = bed.aggregator(&[]);
    for node in 0..300 {
        aggregator.accept(&report_with_gpus(&format!("node-{node}"), node, 8));
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut watch = command(&aggregator, &["nodes", "--watch=0.1", "-o", "json"]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().expect("the program runs");
        // More than a pipe takes is on its way, and nobody reads.
        std::thread::sleep(Duration::from_secs(2));
        assert!(watch.try_wait().expect("waited").is_none(), "{signal:?}: it watches");
        kill_process(Pid::from_child(&watch), signal).expect("it runs");
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match watch.try_wait().expect("waited") {
                Some(status) => break status,
                None if Instant::now() > end => {
                    watch.kill().expect("killed");
                    panic!("{signal:?}: still there after {PATIENCE:?}");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(status.code(), Some(0), "{signal:?}");
        let mut read = Vec::new();
        watch.stdout.take().expect("a pipe").read_to_end(&mut read).expect("read");
        assert!(!read.ends_with(b"\n"), "{signal:?}: the write did hang, {} bytes", read.len());
    }
}

#[test]
fn a_watch_in_a_pipe_tells_what_has_changed() {
    let aios = AiosStandin::start();
    let (_bed, aggregator) = drifted(&aios);
    let start = |arguments: &[&str]| {
        let mut command = command(&aggregator, arguments);
        command.stdin(Stdio::null());
        Daemon::spawn("rollcall-aggregator", command)
    };
    let json = start(&["nodes", "--watch=0.1", "--output", "json"]);
    let table = start(&["nodes", "--watch=0.1"]);
    let mut yaml = start(&["diff", "aios", "--watch=0.1", "--output", "yaml"]);
    json.wait_for_line(|line| line.contains("node-b"), PATIENCE);
    table.wait_for_line(|line| line.contains("TOTAL"), PATIENCE);
    yaml.wait_for_line(|line| line.starts_with("heldNodes"), PATIENCE);
    // The same once more is no news.
    std::thread::sleep(Duration::from_millis(20));
    aggregator.accept(&report("node-b", 2));
    std::thread::sleep(Duration::from_secs(1));
    aggregator.accept(&report("node-c", 3));
    json.wait_for_line(|line| line.contains("node-c"), PATIENCE);
    table.wait_for_line(|line| line.starts_with("node-c"), PATIENCE);
    assert_eq!(json.lines().len(), 2, "{:#?}", json.lines());
    for line in json.lines() {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
    let titles = |lines: &[String]| {
        lines
            .iter()
            .enumerate()
            .filter(|(_, it)| it.starts_with("NODE "))
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    };
    let lines = table.lines();
    let [0, second] = titles(&lines)[..] else { panic!("{lines:#?}") };
    assert_eq!(lines[second - 1], "", "{lines:#?}");
    assert!(!lines.concat().contains(ESCAPE), "{lines:#?}");

    let before = yaml.lines();
    assert_eq!(before.first().map(String::as_str), Some("---"), "{before:#?}");
    // The exit code tells of the last look.
    assert_eq!(interrupt(&mut yaml), Some(3));
    let said = yaml.lines().join("\n");
    assert!(said.contains("is not as it should be"), "{said}");
}

fn interrupt(daemon: &mut Daemon) -> Option<i32> {
    let pid = daemon.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    assert!(sent.success());
    daemon.wait(PATIENCE).code()
}

#[test]
fn what_takes_long_is_told_on_stderr_and_never_twice() {
    let aios = AiosStandin::start();
    aios.set(Behaviour::NotAnswering);
    let target = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "    timeout: 60s\n");
    let bed = Bed::new(&format!("{target}expect: {{nodes: 1}}\n"));
    let aggregator = bed.aggregator(&[]);
    aggregator.accept(&report("node-a", 1));
    aios.wait_for("a request", PATIENCE, |aios| !aios.requests().is_empty());
    let submit = || {
        let mut command = command(&aggregator, &["submit", "aios", "--timeout", "4s"]);
        command.arg("--operator-token-file").arg(bed.path("operator-token"));
        command
    };
    let output = submit().stdin(Stdio::null()).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let stderr = String::from_utf8(output.stderr).expect("text");
    let told: Vec<&str> = stderr.lines().filter(|it| it.contains(" INFO ")).collect();
    assert_eq!(told.len(), 1, "{stderr}");
    assert!(told[0].contains("target aios is waiting"), "{stderr}");
    assert!(!stderr.contains(ESCAPE) && output.stdout.is_empty(), "{stderr:?}");

    let mut quiet = submit();
    quiet.args(["--log-level", "warn"]).stdin(Stdio::null());
    let stderr = String::from_utf8(quiet.output().expect("the program runs").stderr).expect("text");
    assert!(!stderr.contains(" INFO "), "{stderr}");

    let (status, written, stdout) =
        OnTerminal::start(submit(), Streams::Stderr, 80, 24).end(PATIENCE);
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{written:?}");
    assert!(written.contains("target aios is waiting"), "{written:?}");
    let said = without_codes(&written);
    let last = said.lines().last().unwrap_or_default().rsplit('\r').next().expect("a part");
    assert!(last.starts_with("rollcall-aggregator: not done within 4s"), "{said:?}");
    assert!(!written.contains(OPERATOR_TOKEN), "{written:?}");
}

#[test]
fn pieces_are_counted() {
    let aios = AiosStandin::start();
    let target = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "    mode: approve\n");
    let bed = Bed::new(&format!("{target}expect: {{nodes: 300}}\n"));
    let aggregator = bed.aggregator(&[]);
    for node in 0..300 {
        aggregator.accept(&report_with_gpus(&format!("node-{node}"), node, 8));
    }
    aggregator.wait_for_phase("ready");
    aios.set(Behaviour::Stalls { delay: Duration::from_millis(700) });
    let mut approve = command(&aggregator, &["approve", "aios", "--yes"]);
    approve.arg("--operator-token-file").arg(bed.path("operator-token"));
    let output = approve.stdin(Stdio::null()).output().expect("the program runs");
    assert!(output.status.success(), "{}", said(&output));
    let stderr = String::from_utf8(output.stderr).expect("text");
    let told: Vec<&str> = stderr.lines().filter(|it| it.contains("piece ")).collect();
    let [first, .., last] = told.as_slice() else { panic!("{stderr}") };
    let pieces = |line: &str| {
        let (_, counted) = line.split_once("piece ").expect("a piece");
        let mut numbers = counted.split(|c: char| !c.is_ascii_digit()).filter(|it| !it.is_empty());
        let mut number =
            || numbers.next().and_then(|it| it.parse::<usize>().ok()).expect("a number");
        (number(), number())
    };
    let ((one, all), (end, same)) = (pieces(first), pieces(last));
    assert!(one < end && end <= all && all == same && all > 1, "{stderr}");
    let mut distinct = told.clone();
    distinct.sort_unstable_by_key(|line| pieces(line));
    distinct.dedup_by_key(|line| pieces(line));
    assert_eq!(distinct.len(), told.len(), "{stderr}");
    assert_eq!(aggregator.target().get("sending"), None, "only while it is sent");
}

#[test]
fn an_aggregator_that_is_stuck_is_not_waited_for_for_long() {
    let bed = Bed::new("targets: []\n");
    let aggregator = bed.aggregator(&[]);
    aggregator.daemon.pause();
    let started = Instant::now();
    let output = aggregator.operate(&["nodes"]);
    let took = started.elapsed();
    aggregator.daemon.resume();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let words = "/v1/nodes got no answer within 10s: the aggregator has this at hand";
    assert!(said(&output).contains(words), "{}", said(&output));
    assert!(took < Duration::from_secs(20), "{took:?}");
}
