//! A driver of NVIDIA's that hangs: the real agent goes on, and nothing piles up.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use rollcall_report::REPORTS_PATH;
use rollcall_tests::bed::Bed;
use rollcall_tests::machine::{Function, Machine, driver, h100};
use rollcall_tests::process::{DEADLINE, Daemon, nvml_standin};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const AT: &str = "0000:17:00.0";

/// How much longer all may take on a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(2);

/// An intake that takes every report and keeps when it came.
struct Intake {
    address: SocketAddr,
    reports: Receiver<(Instant, Value)>,
}

type Taken = Arc<Mutex<Sender<(Instant, Value)>>>;

impl Intake {
    fn start() -> Self {
        let (sender, reports) = channel();
        let (tell, told) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send(listener.local_addr().expect("bound")).expect("the test waits");
                let taken: Taken = Arc::new(Mutex::new(sender));
                let router = Router::new().route(REPORTS_PATH, post(take)).with_state(taken);
                axum::serve(listener, router).await.expect("serves");
            });
        });
        Self { address: told.recv_timeout(DEADLINE).expect("it starts"), reports }
    }

    fn next(&self, within: Duration) -> (Instant, Value) {
        self.reports.recv_timeout(within).expect("a report in time")
    }
}

async fn take(State(taken): State<Taken>, body: String) -> &'static str {
    let report = serde_json::from_str(&body).expect("a report");
    // The test may be over.
    let _unread = taken.lock().expect("nobody panicked").send((Instant::now(), report));
    r#"{"nodeId":"gpu-1","intervalSeconds":60}"#
}

/// An agent on a machine whose driver is in trouble.
struct Hanging {
    machine: Machine,
    intake: Intake,
    agent: Daemon,
    _bed: Bed,
}

impl Hanging {
    fn start(what: &Value, deadline: Duration, interval: Duration) -> Self {
        let machine = Machine::new();
        machine.add(Function::h100(AT));
        let mut script = driver(&[h100(AT)]);
        script["trouble"] = json!({ "call": "nvmlDeviceGetMemoryInfo_v2", "what": what });
        machine.nvml(&script);
        Self::on(machine, deadline, interval)
    }

    /// Its process outlives SIGKILL until the machine has a file `released` beside it.
    fn start_unkillable(deadline: Duration, interval: Duration) -> Self {
        let machine = Machine::new();
        machine.add(Function::h100(AT));
        let until = machine.beside("released");
        let mut script = driver(&[h100(AT)]);
        let what = json!({ "outlivesSigkill": { "until": until } });
        script["trouble"] = json!({ "call": "nvmlDeviceGetMemoryInfo_v2", "what": what });
        machine.nvml(&script);
        Self::on(machine, deadline, interval)
    }

    fn on(machine: Machine, deadline: Duration, interval: Duration) -> Self {
        let bed = Bed::new("");
        let intake = Intake::start();
        let url = format!("http://{}", intake.address);
        let deadline = format!("--nvml-timeout={}s", deadline.as_secs());
        let interval = format!("--interval={}s", interval.as_secs());
        let agent = bed.agent_with(&url, &[&deadline, &interval], |agent| {
            machine.prepare(agent, &nvml_standin());
        });
        Self { machine, intake, agent, _bed: bed }
    }

    fn pid(&self) -> u32 {
        self.agent.id()
    }
}

fn failure(report: &Value) -> &str {
    let reason = report.pointer("/inventory/gpus/known/nvidiaDriver/failed/reason");
    reason.and_then(Value::as_str).unwrap_or_else(|| panic!("the GPU part failed: {report}"))
}

/// The processes that a process has started and that are not reaped.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// The state and the parent of a process. Source: `proc_pid_stat(5)`.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// What must not grow.
#[derive(Debug, Clone, Copy)]
struct Size {
    threads: usize,
    descriptors: usize,
    resident_kib: usize,
}

fn size(pid: u32) -> Size {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse().expect(name)
    };
    Size {
        threads: number("Threads:"),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count(),
        resident_kib: number("VmRSS:"),
    }
}

/// Counts the most children that a process ever has at once.
struct Watch {
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let (most, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ended) = (Arc::clone(&most), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                counted.fetch_max(children(pid).len(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { most, over, thread: Some(thread) }
    }

    fn most(mut self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("it counts");
        self.most.load(Ordering::Relaxed)
    }
}

/// A thread that reads files or a connection more or less is the runtime's affair; one more at every
/// cycle is not.
const SPARE: usize = 2;

/// So many reports come, each in time and with the GPU part failed, and the agent does not grow.
fn reports_keep_coming(
    hanging: &Hanging,
    cycles: usize,
    deadline: Duration,
    interval: Duration,
    words: &str,
) {
    let watch = Watch::start(hanging.pid());
    // The wait varies by a tenth, and a child that was killed has half a second to be gone.
    let longest = interval.mul_f64(1.1) + deadline + Duration::from_millis(500) + SLACK;
    let mut sizes = Vec::new();
    let mut last: Option<Instant> = None;
    let mut slowest = Duration::ZERO;
    for cycle in 0..cycles {
        let (at, report) = hanging.intake.next(longest + SLACK);
        let reason = failure(&report);
        assert!(reason.contains(words), "cycle {cycle}: {reason}");
        let expected = report.pointer("/inventory/gpus/known/nvidiaPciDevices/known");
        assert_eq!(expected, Some(&Value::from(1)), "the bus is read all the same");
        assert!(report.pointer("/inventory/memory/known").is_some(), "and the rest");
        if let Some(last) = last {
            slowest = slowest.max(at - last);
        }
        last = Some(at);
        sizes.push(size(hanging.pid()));
    }
    assert!(slowest <= longest, "{slowest:?}");
    assert_eq!(watch.most(), 1, "one child at a time");
    let (settled, end) = (sizes[1], sizes[cycles - 1]);
    #[expect(clippy::print_stdout, reason = "the numbers of a soak, for a person")]
    {
        println!("{cycles} cycles, slowest {slowest:?}: {settled:?} then {end:?}");
    }
    assert!(end.threads <= settled.threads + SPARE, "{sizes:?}");
    assert!(end.descriptors <= settled.descriptors + SPARE, "{sizes:?}");
    assert!(end.resident_kib <= settled.resident_kib + 2048, "{sizes:?}");
}

#[test]
fn a_driver_that_hangs_costs_no_report() {
    let (deadline, interval) = (Duration::from_secs(1), Duration::from_secs(1));
    let mut hanging = Hanging::start(&json!("hangs"), deadline, interval);
    reports_keep_coming(&hanging, 5, deadline, interval, "did not answer within 1 s");
    assert_eq!(hanging.agent.terminate().code(), Some(0));
}

#[test]
fn a_process_that_outlives_its_end_is_not_waited_for() {
    let (deadline, interval) = (Duration::from_secs(1), Duration::from_secs(1));
    let mut hanging = Hanging::start_unkillable(deadline, interval);
    reports_keep_coming(&hanging, 5, deadline, interval, "hangs in it and cannot be killed");
    let [child] = children(hanging.pid())[..] else { panic!("it is still there") };
    let pid = format!("process {child} hangs");
    let (_, report) = hanging.intake.next(DEADLINE);
    assert!(failure(&report).contains(&pid), "{}", failure(&report));
    // SIGKILL has reached it: it is held in the middle of its exit.
    assert_eq!(stat(child).map(|(state, _)| state), Some('t'));

    // It goes at last, and the driver works again.
    hanging.machine.nvml(&driver(&[h100(AT)]));
    fs::write(hanging.machine.beside("released"), "").expect("written");
    let begun = Instant::now();
    loop {
        let (_, report) = hanging.intake.next(DEADLINE);
        if report.pointer("/inventory/gpus/known/nvidiaDriver/known/gpus/0").is_some() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{report}");
    }
    assert_eq!(stat(child), None, "it was reaped");
    assert_eq!(children(hanging.pid()), Vec::<u32>::new());
    assert_eq!(hanging.agent.terminate().code(), Some(0));
}

#[test]
fn an_agent_stops_at_once_though_a_process_hangs() {
    let (deadline, interval) = (Duration::from_secs(1), Duration::from_secs(1));
    let mut hanging = Hanging::start_unkillable(deadline, interval);
    let (_, report) = hanging.intake.next(DEADLINE);
    assert!(failure(&report).contains("hangs in it"), "{report}");
    let begun = Instant::now();
    assert_eq!(hanging.agent.terminate().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    fs::write(hanging.machine.beside("released"), "").expect("written");
}

#[test]
fn an_agent_stops_at_once_while_the_driver_is_asked_and_leaves_nobody_behind() {
    for is_killed in [false, true] {
        let minute = Duration::from_mins(1);
        let mut hanging = Hanging::start(&json!("hangs"), minute, minute);
        let child = wait_for_child(hanging.pid());
        let begun = Instant::now();
        if is_killed {
            hanging.agent.kill_9();
        } else {
            assert_eq!(hanging.agent.terminate().code(), Some(0));
        }
        // Nobody may be there to reap it.
        while stat(child).is_some_and(|(state, _)| state != 'Z') {
            assert!(begun.elapsed() < Duration::from_secs(5), "{child} is left behind");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits for the child that asks the library, until it does so.
fn wait_for_child(parent: u32) -> u32 {
    let begun = Instant::now();
    loop {
        if let [child] = children(parent)[..]
            && Path::new(&format!("/proc/{child}/maps")).exists()
            && fs::read_to_string(format!("/proc/{child}/maps"))
                .is_ok_and(|maps| maps.contains("nvml_standin"))
        {
            return child;
        }
        assert!(begun.elapsed() < DEADLINE, "a child asks the library");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "takes two minutes: make soak"]
fn soak_twenty_cycles_of_a_driver_that_hangs() {
    let (deadline, interval) = (Duration::from_secs(2), Duration::from_secs(3));
    let hanging = Hanging::start(&json!("hangs"), deadline, interval);
    reports_keep_coming(&hanging, 20, deadline, interval, "did not answer within 2 s");
}

#[test]
#[ignore = "takes a minute: make soak"]
fn soak_twenty_cycles_of_a_process_that_outlives_its_end() {
    let (deadline, interval) = (Duration::from_secs(2), Duration::from_secs(3));
    let hanging = Hanging::start_unkillable(deadline, interval);
    reports_keep_coming(&hanging, 20, deadline, interval, "hangs in it and cannot be killed");
    fs::write(hanging.machine.beside("released"), "").expect("written");
}
