//! Runs rollcall's real programs: finds them beside the test, keeps their output for error
//! messages, and ends them when the test ends, however it ends.
//!
//! Everything here panics with a message for the person who runs the test.
#![expect(clippy::panic, reason = "a harness fails the test that uses it")]

use std::ffi::OsStr;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a daemon may take for what ought to be at once, on a slow and busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// How many of the last lines an error message shows.
const SHOWN_LINES: usize = 40;

/// The variable that names a folder of programs to take instead of those beside the test: release
/// builds, each built by itself.
pub const PROGRAMS: &str = "ROLLCALL_TEST_PROGRAMS";

/// The path of one of this workspace's programs: in the folder that `ROLLCALL_TEST_PROGRAMS` names, else
/// built with the same profile as the running test.
///
/// # Panics
///
/// When it has not been built.
pub fn program(name: &str) -> PathBuf {
    let package = match name {
        "swarm" => "rollcall-swarm",
        _ if name.starts_with("rollcall-") => name,
        _ => "rollcall-tests",
    };
    let Some(folder) = std::env::var_os(PROGRAMS) else { return built(name, package) };
    let path = Path::new(&folder).join(name);
    assert!(
        path.is_file(),
        "{} is missing, where {PROGRAMS} says that it is: build {package}",
        path.display()
    );
    path
}

/// The path of the stand-in for NVIDIA's management library.
///
/// # Panics
///
/// When it has not been built.
pub fn nvml_standin() -> PathBuf {
    built("librollcall_nvml_standin.so", "rollcall-nvml-standin")
}

fn built(file: &str, package: &str) -> PathBuf {
    let test = std::env::current_exe()
        .unwrap_or_else(|error| panic!("the running test's own path cannot be told: {error}"));
    // Tests lie in `deps`, and what they depend on; programs lie one folder above.
    let folders = test.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(file)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{file} is missing beside {}: build it first with `cargo build -p {package}` (with \
             the same profile and the same target folder as the tests)",
            test.display()
        )
    })
}

/// A running program, killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// What a program has written so far.
#[derive(Debug, Default)]
struct Output {
    written: Mutex<Written>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    /// How many of stdout and stderr have ended.
    ended: usize,
}

impl Daemon {
    /// Starts one of this workspace's programs.
    ///
    /// # Panics
    ///
    /// When it has not been built or cannot be started.
    pub fn start<A: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments);
        Self::spawn(name, command)
    }

    /// Starts a command that the test has made itself, for example with an environment.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        let spawned =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned
            .unwrap_or_else(|error| panic!("{name} cannot be started as {command:?}: {error}"));
        let output = Arc::new(Output::default());
        output.collect(child.stdout.take());
        output.collect(child.stderr.take());
        Self { name: name.to_owned(), child, output }
    }

    /// All lines of stdout and stderr so far, each stream in its order.
    pub fn lines(&self) -> Vec<String> {
        self.output.written().lines.clone()
    }

    /// Waits for a line that `wanted` accepts, and returns it. Lines already written count.
    ///
    /// # Panics
    ///
    /// When `deadline` passes or the program ends first; the message shows its last lines.
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool, deadline: Duration) -> String {
        let mut seen = 0;
        let found = self.output.wait(deadline, |written| {
            let new = written.lines.get(seen..).unwrap_or_default();
            let found = new.iter().find(|line| wanted(line)).cloned();
            seen = written.lines.len();
            found.map(Some).or_else(|| (written.ended == STREAMS).then_some(None))
        });
        match found {
            Some(Some(line)) => line,
            Some(None) => {
                panic!("{} ended without the line waited for\n{}", self.name, self.tail())
            }
            None => panic!(
                "{} did not write the line waited for within {deadline:?}\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Where a daemon listens: the `address=` of its line `… WHAT listening address=IP:PORT`.
    ///
    /// # Panics
    ///
    /// As [`Self::wait_for_line`], and when the line holds no address.
    pub fn listening_address(&self, what: &str) -> SocketAddr {
        let announced = format!("{what} listening");
        let line = self.wait_for_line(|line| line.contains(&announced), DEADLINE);
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| {
            panic!("{} says that {announced}, and not at which address=IP:PORT: {line}", self.name)
        })
    }

    /// Asks the program to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// When it does not stop in time.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(DEADLINE)
    }

    /// Halts the program where it is (SIGSTOP), as a machine does that is paused.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a program go on that was halted (SIGCONT).
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for, so the id is still its own.
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            panic!("{} cannot be sent {signal:?}: {error}\n{}", self.name, self.tail());
        }
    }

    /// Ends the program as a power failure would (SIGKILL).
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn kill_9(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            panic!("{} cannot be killed: {error}", self.name);
        }
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Panics
    ///
    /// When `deadline` passes first.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        // Both streams end when the process does: an event, where its exit is none.
        let ended = self
            .output
            .wait(deadline, |written| (written.ended == STREAMS).then_some(()))
            .is_some();
        assert!(ended, "{} did not end within {deadline:?}\n{}", self.name, self.tail());
        let status = self.child.wait();
        status.unwrap_or_else(|error| panic!("{} cannot be waited for: {error}", self.name))
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines, for error messages.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let left_out = lines.len().saturating_sub(SHOWN_LINES);
        let shown = lines.get(left_out..).unwrap_or_default();
        let mut tail = format!("--- the last lines of {} ---\n", self.name);
        for line in shown {
            tail.push_str(line);
            tail.push('\n');
        }
        tail
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            // To the test's own output, which cargo shows for the test that failed.
            #[expect(clippy::print_stderr, reason = "a failed test says what its daemons said")]
            {
                eprintln!("{}", self.tail());
            }
        }
    }
}

/// stdout and stderr.
const STREAMS: usize = 2;

impl Output {
    /// Reads a stream to its end in a thread of its own.
    fn collect(self: &Arc<Self>, stream: Option<impl Read + Send + 'static>) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = stream.map(BufReader::new);
            let mut line = Vec::new();
            while let Some(reader) = &mut reader {
                line.clear();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {
                        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                        output.written().lines.push(text);
                        output.changed.notify_all();
                    }
                }
            }
            output.written().ended += 1;
            output.changed.notify_all();
        });
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something; `None` when the deadline passes first.
    fn wait<T>(
        &self,
        deadline: Duration,
        mut ready: impl FnMut(&Written) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut written = self.written();
        loop {
            if let Some(value) = ready(&written) {
                return Some(value);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(written, left);
            (written, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Looks until there is what is waited for, and returns it.
///
/// # Panics
///
/// When `deadline` passes first; with why the last look was in vain.
pub fn wait_until<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if started.elapsed() >= deadline => {
                panic!("{what}: not within {deadline:?}: {why:?}")
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// What a command prints, when it ends well; else what it said.
///
/// # Errors
///
/// How it ended, and what it wrote to stderr.
///
/// # Panics
///
/// When there is no such program.
pub(crate) fn output(mut command: Command, input: &str) -> Result<String, String> {
    let program = command.get_program().to_owned();
    let spawned =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        spawned.unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input says why itself.
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{} cannot be waited for: {error}", program.display()));
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}", output.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Daemon::spawn("sh", command)
    }

    #[test]
    fn an_address_is_found_in_either_stream() {
        for script in [
            "echo x; echo 'INFO  intake listening address=127.0.0.1:41234 tls=false' >&2",
            "echo 'INFO  intake listening tls=false address=127.0.0.1:41234'",
        ] {
            let address = shell(script).listening_address("intake");
            assert_eq!(address.to_string(), "127.0.0.1:41234", "{script}");
        }
    }

    #[test]
    #[should_panic(expected = "--- the last lines of sh ---\nerror: no such thing\n")]
    fn an_early_end_shows_what_was_said() {
        shell("echo error: no such thing >&2").wait_for_line(|line| line == "ready", DEADLINE);
    }

    #[test]
    #[should_panic(expected = "within 1ms\n--- the last lines of sh ---")]
    fn a_deadline_that_passes() {
        shell("exec sleep 600").wait_for_line(|line| line == "ready", Duration::from_millis(1));
    }

    #[test]
    fn sigterm_can_be_answered() {
        // A shell takes a signal between two commands; one that comes just before `wait` is missed.
        let mut daemon = shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done");
        daemon.wait_for_line(|line| line == "ready", DEADLINE);
        assert_eq!(daemon.terminate().code(), Some(3));
    }

    #[test]
    fn sigkill_cannot() {
        let mut daemon = shell("trap '' TERM; echo ready; exec sleep 600");
        daemon.wait_for_line(|line| line == "ready", DEADLINE);
        daemon.kill_9();
        let status = daemon.wait(DEADLINE);
        assert!(!status.success() && status.code().is_none(), "{status}");
    }

    #[test]
    #[should_panic(expected = "build it first with `cargo build -p rollcall-nobody`")]
    fn a_program_that_is_missing() {
        program("rollcall-nobody");
    }
}
