//! What the service manager is told: the real programs, and a socket that takes their messages.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use rollcall_report::REPORTS_PATH;
use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::{Bed, get, report};
use rollcall_tests::machine::{Function, Machine, driver, h100};
use rollcall_tests::process::{DEADLINE, Daemon, nvml_standin, program};
use rollcall_tests::systemd::{ALIVE, Manager};
use serde_json::json;
use tokio::sync::oneshot;

/// An intake that accepts every report, at a port of our choice.
struct Intake {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Intake {
    fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a setting");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let take = || async { r#"{"nodeId":"id-1","intervalSeconds":1}"# };
                let router = Router::new().route(REPORTS_PATH, post(take));
                tokio::select! {
                    served = axum::serve(listener, router) => served.expect("serves"),
                    told = stopped => told.expect("the test stops it"),
                }
            });
        });
        Self { address, stop, thread }
    }

    /// Nobody listens there when this returns.
    fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.thread.join().expect("it ends");
    }
}

/// A port that nobody listens on, at an address of its own: it is given to nobody who asks for any.
fn free_port() -> SocketAddr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let address = Ipv4Addr::new(127, 0, 1, LAST.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((address, 0)).expect("a port");
    listener.local_addr().expect("bound")
}

/// The time in a status, after `words`.
fn time_after(status: &str, words: &str) -> jiff::Timestamp {
    let (_, rest) = status.split_once(words).unwrap_or_else(|| panic!("{words} in {status}"));
    let time = rest.split_inclusive('Z').next().expect("a time");
    time.parse().unwrap_or_else(|error| panic!("{time} in {status}: {error}"))
}

#[test]
fn an_agent_tells_how_its_reports_fare() {
    let (bed, machine, mut manager) = (Bed::new(""), Machine::new(), Manager::start());
    let address = free_port();
    let mut agent = bed.agent_with(&format!("http://{address}"), &["--node-name=n1"], |agent| {
        machine.prepare(agent, &nvml_standin());
        manager.manage(agent, None);
    });

    assert_eq!(manager.next_message(), "READY=1\nSTATUS=node n1: the first report is under way\n");
    let line = agent.wait_for_line(|line| line.contains("reporting node=n1"), DEADLINE);
    let metrics = line.split_whitespace().find_map(|word| word.strip_prefix("metrics="));
    TcpStream::connect(metrics.expect("an address")).expect("whoever is ready listens");

    let away = manager.next_message();
    let since = time_after(&away, "STATUS=node n1: report not accepted since ");
    let reason = format!(": http://{address}/v1/reports does not answer");
    assert!(away.contains(&reason) && away.ends_with('\n'), "{away}");
    assert_eq!(away.lines().count(), 1, "{away}");

    let intake = Intake::start(address);
    let accepted = "STATUS=node n1 as id-1: last report accepted at ";
    let first = time_after(&manager.wait_for(accepted), accepted);
    assert!(first >= since, "{since} {first}");
    let second = time_after(&manager.wait_for(accepted), accepted);
    assert!(second > first, "{first} {second}");

    intake.stop();
    let again = "STATUS=node n1 as id-1: report not accepted since ";
    let gone = manager.wait_for(again);
    assert!(time_after(&gone, again) >= second, "{gone}");

    assert!(agent.terminate().success(), "{}", agent.tail());
    assert_eq!(manager.wait_for("STOPPING"), "STOPPING=1\nSTATUS=stopping\n");
    assert_eq!(manager.listen(Duration::from_millis(200)), [], "nothing comes after that");
}

/// How often threads of a process were woken so far.
fn wake_ups(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let count = |thread: fs::DirEntry| -> u64 {
        let status = fs::read_to_string(thread.path().join("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a count")
    };
    threads.map(|thread| count(thread.expect("a thread"))).sum()
}

#[test]
fn nothing_wakes_an_agent_between_two_reports() {
    for is_managed in [false, true] {
        let (bed, machine, manager) = (Bed::new(""), Machine::new(), Manager::start());
        let intake = Intake::start(free_port());
        let url = format!("http://{}", intake.address);
        let agent = bed.agent_with(&url, &["--node-name=n1", "--interval=1h"], |agent| {
            machine.prepare(agent, &nvml_standin());
            if is_managed {
                manager.manage(agent, None);
            }
        });
        agent.wait_for_line(|line| line.contains("accepted the node"), DEADLINE);
        thread::sleep(Duration::from_secs(1));
        // A device of this very machine may come or go meanwhile, which the kernel tells.
        let stays_asleep = (0..5).any(|_| {
            let before = wake_ups(agent.id());
            thread::sleep(WHILE);
            wake_ups(agent.id()) == before
        });
        assert!(stays_asleep, "managed: {is_managed}");
        intake.stop();
    }
}

/// How long the manager waits for a sign of life in these tests.
const PERIOD: Duration = Duration::from_secs(3);

/// As long as it is listened for signs of life.
const WHILE: Duration = Duration::from_secs(12);

/// Signs of life come in time for `WHILE`, and not much more often than they must.
fn stays_alive(manager: &mut Manager, what: &str) {
    let begun = Instant::now();
    let heard = manager.listen(WHILE);
    let mut beats: Vec<Instant> =
        heard.iter().filter(|(_, message)| message == ALIVE).map(|(at, _)| *at).collect();
    let count = beats.len();
    beats.insert(0, begun);
    beats.push(begun + WHILE);
    let longest = beats.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two at least");
    assert!(longest < PERIOD, "{what}: silent for {longest:?}");
    // Three in a period, so twelve; a busy machine may be late, never early.
    assert!((8..=14).contains(&count), "{what}: {count} signs of life");
}

#[test]
fn an_agent_lives_while_nvidias_driver_hangs_and_not_while_it_is_halted() {
    const AT: &str = "0000:17:00.0";
    for (hang, said) in [
        (json!("hangs"), "probe of gpus failed: NVIDIA's driver did not answer within 1 s"),
        (json!({ "outlivesSigkill": { "until": "" } }), "hangs in it and cannot be killed"),
    ] {
        let (bed, machine, mut manager) = (Bed::new(""), Machine::new(), Manager::start());
        machine.add(Function::h100(AT));
        let mut script = driver(&[h100(AT)]);
        let released = machine.beside("released");
        let mut what = hang.clone();
        if let Some(until) = what.pointer_mut("/outlivesSigkill/until") {
            *until = json!(released);
        }
        script["trouble"] = json!({ "call": "nvmlDeviceGetMemoryInfo_v2", "what": what });
        machine.nvml(&script);
        let intake = Intake::start(free_port());
        let url = format!("http://{}", intake.address);
        let arguments = ["--node-name=n1", "--nvml-timeout=1s"];
        let mut agent = bed.agent_with(&url, &arguments, |agent| {
            machine.prepare(agent, &nvml_standin());
            manager.manage(agent, Some(PERIOD));
        });
        let status = manager.wait_for(said);
        assert_eq!(status.lines().count(), 1, "{status}");
        stays_alive(&mut manager, said);

        agent.pause();
        manager.listen(Duration::from_millis(100));
        assert_eq!(manager.listen(PERIOD * 2), [], "a program that is halted says nothing");
        agent.resume();
        stays_alive(&mut manager, "resumed");
        assert!(agent.terminate().success(), "{}", agent.tail());
        fs::write(&released, "").expect("written");
        intake.stop();
    }
}

#[test]
fn the_process_that_asks_nvidias_library_cannot_speak_for_the_agent() {
    const AT: &str = "0000:17:00.0";
    let (bed, machine, manager) = (Bed::new(""), Machine::new(), Manager::start());
    machine.add(Function::h100(AT));
    let mut script = driver(&[h100(AT)]);
    script["trouble"] = json!({ "call": "nvmlDeviceGetMemoryInfo_v2", "what": "hangs" });
    machine.nvml(&script);
    let url = format!("http://{}", free_port());
    let arguments = ["--node-name=n1", "--nvml-timeout=1min"];
    let agent = bed.agent_with(&url, &arguments, |agent| {
        machine.prepare(agent, &nvml_standin());
        manager.manage(agent, Some(DEADLINE));
    });
    let parent = agent.id().to_string();
    let begun = Instant::now();
    let environment = loop {
        let asking = fs::read_dir("/proc").expect("processes").flatten().find_map(|entry| {
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).ok();
            let status = read("status")?;
            let is_child = status.lines().any(|line| line == format!("PPid:\t{parent}"));
            (is_child && read("maps")?.contains("nvml_standin")).then(|| read("environ"))?
        });
        match asking {
            Some(environment) => break environment,
            None => assert!(begun.elapsed() < DEADLINE, "a child asks the library"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    let names: Vec<&str> =
        environment.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    assert!(names.contains(&"ROLLCALL_NVML_STANDIN"), "{names:?}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!names.contains(&name), "{name} in {names:?}");
    }
}

#[test]
fn nobody_is_told_who_did_not_ask() {
    let bed = Bed::new("");
    let (url, other) = (format!("http://{}", free_port()), "1");
    let start = |prepare: &dyn Fn(&mut Command, &Manager)| {
        let (machine, manager) = (Machine::new(), Manager::start());
        let agent = bed.agent_with(&url, &["--node-name=n1"], |agent| {
            machine.prepare(agent, &nvml_standin());
            prepare(agent, &manager);
        });
        agent.wait_for_line(|line| line.contains("report not accepted"), DEADLINE);
        (agent, manager, machine)
    };
    let (mut agent, mut manager, _machine) = start(&|agent, _| {
        agent.env("WATCHDOG_USEC", "300000");
    });
    thread::sleep(PERIOD);
    assert!(agent.terminate().success(), "{}", agent.tail());
    assert_eq!(manager.listen(Duration::from_millis(100)), [], "without NOTIFY_SOCKET");

    // The manager waits for another process's signs of life, or for none.
    for variables in [&[("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", other)][..], &[]] {
        let (mut agent, mut manager, _machine) = start(&|agent, manager| {
            manager.manage(agent, None);
            agent.envs(variables.iter().copied());
        });
        thread::sleep(PERIOD);
        assert!(agent.terminate().success(), "{}", agent.tail());
        let heard = manager.listen(Duration::from_millis(100));
        assert!(heard[0].1.starts_with(b"READY=1\n"), "{heard:?}");
        assert!(heard.iter().all(|(_, message)| message != ALIVE), "{variables:?}: {heard:?}");
    }
}

#[test]
fn a_manager_that_is_gone_is_told_of_once_and_costs_nothing() {
    let (bed, machine) = (Bed::new(""), Machine::new());
    let intake = Intake::start(free_port());
    let mut agent = bed.agent_with(&format!("http://{}", intake.address), &[], |agent| {
        machine.prepare(agent, &nvml_standin());
        agent.env("NOTIFY_SOCKET", "/nonexistent/notify").env("WATCHDOG_USEC", "300000");
    });
    agent.wait_for_line(|line| line.contains("the aggregator accepted the node"), DEADLINE);
    thread::sleep(PERIOD);
    assert!(agent.terminate().success(), "{}", agent.tail());
    let told = |line: &&String| line.contains("the service manager cannot be told");
    assert_eq!(agent.lines().iter().filter(told).count(), 1, "{}", agent.tail());
    intake.stop();
}

#[test]
fn a_manager_that_never_reads_stops_nobody() {
    let (bed, machine, manager) = (Bed::new(""), Machine::new(), Manager::start());
    manager.fill();
    let mut agent =
        bed.agent_with(&format!("http://{}", free_port()), &["--node-name=n1"], |agent| {
            machine.prepare(agent, &nvml_standin());
            manager.manage(agent, Some(PERIOD));
        });
    let line = agent.wait_for_line(|line| line.contains("reporting node=n1"), DEADLINE);
    let metrics = line.split_whitespace().find_map(|word| word.strip_prefix("metrics="));
    let metrics = metrics.expect("an address").parse().expect("an address");
    agent.wait_for_line(|line| line.contains("report not accepted"), DEADLINE);
    thread::sleep(PERIOD);
    let mut aggregator = bed.aggregator_with(&[], |command| manager.manage(command, Some(PERIOD)));
    for address in [metrics, aggregator.admin] {
        assert_eq!(get(address, "/livez", "").status, 200);
    }
    for daemon in [&mut agent, &mut aggregator.daemon] {
        assert!(daemon.terminate().success(), "{}", daemon.tail());
        let told = |line: &&String| line.contains("the service manager cannot be told");
        assert_eq!(daemon.lines().iter().filter(told).count(), 1, "{}", daemon.tail());
    }
}

#[test]
fn an_aggregator_tells_of_its_nodes_and_targets() {
    let (aios, mut manager) = (AiosStandin::start(), Manager::start());
    let targets = Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "expect: {nodes: 1}\n");
    let bed = Bed::new(&targets);
    let mut aggregator = bed.aggregator_with(&["--interval=3s"], |command| {
        manager.manage(command, Some(PERIOD));
    });
    assert_eq!(manager.next_message(), "STATUS=opening the store\n");
    assert_eq!(manager.next_message(), "READY=1\nSTATUS=0 nodes; aios waiting\n");
    for address in [aggregator.intake, aggregator.admin] {
        TcpStream::connect(address).expect("whoever is ready listens");
    }
    aggregator.accept(&report("node-1", 1));
    manager.wait_for("STATUS=1 node; aios registered\n");
    manager.wait_for("STATUS=1 node, 1 stale; aios registered\n");
    stays_alive(&mut manager, "an aggregator");
    assert!(aggregator.daemon.terminate().success(), "{}", aggregator.daemon.tail());
    let stopping = "STOPPING=1\nSTATUS=stopping: answering what is under way\n";
    assert_eq!(manager.wait_for("STOPPING"), stopping);
    assert_eq!(manager.listen(Duration::from_millis(200)), [], "nothing comes after that");
}

#[test]
fn an_aggregator_asks_for_time_while_its_store_is_away() {
    let (bed, mut manager) = (Bed::new(""), Manager::start());
    let server = free_port();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters:\n- name: lab\n  cluster:\n    server: http://{server}\n\
         users:\n- name: admin\n  user: {{}}\n\
         contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: admin\n"
    );
    bed.write("kubeconfig", &kubeconfig);
    let mut command = Command::new(program("rollcall-aggregator"));
    command
        .args(["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
        .args(["--store=kubernetes", "--namespace=rollcall"])
        .arg("--cluster")
        .arg(bed.path("cluster.yaml"))
        .arg("--kubeconfig")
        .arg(bed.path("kubeconfig"));
    manager.manage(&mut command, None);
    let mut aggregator = Daemon::spawn("rollcall-aggregator", command);
    assert_eq!(manager.next_message(), "STATUS=opening the store\n");
    let waiting = manager.wait_for("STATUS=waiting for the store: ");
    assert!(waiting.contains("Connection refused"), "{waiting}");
    // A minute, and long before it is over another one.
    let begun = Instant::now();
    for _ in 0..2 {
        assert_eq!(manager.wait_for("EXTEND_TIMEOUT"), "EXTEND_TIMEOUT_USEC=60000000\n");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(aggregator.terminate().success(), "{}", aggregator.tail());
    let last = manager.wait_for("STOPPING");
    assert_eq!(last, "STOPPING=1\nSTATUS=stopping: answering what is under way\n");
    let said = aggregator.lines();
    let told = said.iter().filter(|line| line.contains("the store is not open yet")).count();
    assert_eq!(told, 1, "{said:#?}");
}
