//! What the kernel tells of a process, and small helpers of measuring.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollcall_tests::bed::get;
use rollcall_tests::process::program;
use serde_json::Value;

/// Memory of a process in MB (10⁶ bytes) by a line of a file of its own: `VmRSS` of `status`, `Pss` of
/// `smaps_rollup`.
pub(crate) fn memory_mb(pid: u32, file: &str, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let kib = text.lines().find_map(|it| {
        it.strip_prefix(line)?
            .trim_start_matches(':')
            .trim()
            .strip_suffix(" kB")?
            .parse::<f64>()
            .ok()
    });
    kib.unwrap_or_else(|| panic!("no {line} in /proc/{pid}/{file}")) * 1024.0 / 1e6
}

/// Resident memory, in MB.
pub(crate) fn rss_mb(pid: u32) -> f64 {
    memory_mb(pid, "status", "VmRSS")
}

/// A file of each thread of a process, by the thread's id.
fn threads(pid: u32, file: &str) -> HashMap<String, String> {
    let folders = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = folders.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join(file)).ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), text))
    });
    texts.collect()
}

/// How often the threads of a process have gone to sleep so far, those that have ended left out.
pub(crate) fn sleeps(pid: u32) -> f64 {
    let texts = threads(pid, "status");
    let counts = texts.values().flat_map(|text| text.lines()).filter_map(|line| {
        line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<f64>().ok()
    });
    counts.sum()
}

/// Adds up the CPU time of a process, to the nanosecond: from each thread, looked at often enough
/// that little of one that ends is missed.
#[derive(Debug)]
pub(crate) struct Meter {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
    begun: Instant,
}

impl Meter {
    pub(crate) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let nanos = move || -> HashMap<String, u64> {
            let texts = threads(pid, "schedstat").into_iter();
            texts
                .filter_map(|(id, text)| Some((id, text.split(' ').next()?.parse().ok()?)))
                .collect()
        };
        let first = nanos();
        let thread = thread::spawn(move || {
            let mut latest = first.clone();
            while !stopped.load(Ordering::Relaxed) {
                // The agent's threads end 50 ms after their work.
                thread::sleep(Duration::from_millis(20));
                latest.extend(nanos());
            }
            let spent = latest.iter().map(|(id, nanos)| nanos - first.get(id).unwrap_or(&0));
            spent.sum()
        });
        Self { stop, thread, begun: Instant::now() }
    }

    /// How much it was, and within how much time.
    pub(crate) fn stop(self) -> (Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let nanos = self.thread.join().unwrap_or_else(|_panic| panic!("the meter broke off"));
        (Duration::from_nanos(nanos), self.begun.elapsed())
    }
}

/// A value of `/metrics`, added up over the series whose line begins so.
pub(crate) fn metric(address: SocketAddr, series: &str) -> f64 {
    let text = get(address, "/metrics", "").body;
    let lines = text.lines().filter(|line| line.starts_with(series));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A look at a path: when its answer began and when it was whole, in milliseconds, and its bytes.
pub(crate) fn look(address: SocketAddr, path: &str) -> (f64, f64, usize) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let failed = |error: std::io::Error| -> ! { panic!("GET {path}: {error}") };
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| failed(error));
    stream.write_all(request.as_bytes()).unwrap_or_else(|error| failed(error));
    let mut answer = vec![0; 256 * 1024];
    let read = stream.read(&mut answer).unwrap_or_else(|error| failed(error));
    let first = begun.elapsed();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "GET {path} was not answered with 200");
    let mut bytes = read;
    loop {
        match stream.read(&mut answer).unwrap_or_else(|error| failed(error)) {
            0 => break,
            more => bytes += more,
        }
    }
    (millis(first), millis(begun.elapsed()), bytes)
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a swarm tells that was run to its end.
pub(crate) fn swarm(arguments: &[&str]) -> Value {
    let output = Command::new(program("swarm"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("the swarm cannot be started: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "swarm {arguments:?}: {said}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("swarm {arguments:?}: {error}: {said}"))
}

/// A number of what a swarm tells.
pub(crate) fn number(told: &Value, path: &str) -> f64 {
    told.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// Holds a swarm to it that all its reports were accepted.
pub(crate) fn all_accepted(told: &Value) {
    assert_eq!(told.pointer("/sent"), told.pointer("/accepted"), "{told}");
}
