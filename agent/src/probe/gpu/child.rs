//! Asks NVIDIA's library in a child process: the agent's own program with a hidden command.
//!
//! A driver that hangs leaves whoever calls it in uninterruptible sleep, where not even SIGKILL
//! reaches it. So the child has a deadline; one that outlives its end is kept in mind, nobody waits
//! for it, and until it is gone no other is started: there is never more than one.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rollcall_daemon::notify;
use rollcall_report::clean_text;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::answers::Answers;

/// The name of the hidden command.
pub const COMMAND: &str = "nvml";

/// The agent's own program, whatever has become of its file since it was started.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// How long a child that was killed has to be gone: at once, unless it hangs in the driver.
const GRACE: Duration = Duration::from_millis(500);

/// The longest answer that is read: 256 GPUs with all their instances fit.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// How much of what a child says on its standard error is kept for the reason of a failure.
const MAX_SAID_BYTES: u64 = 4 * 1024;

/// Asks the library, one child at a time.
#[derive(Debug)]
pub(in crate::probe) struct Library {
    /// The program that asks the library when it is given the hidden command.
    program: PathBuf,
    /// A path, or a name for the dynamic loader.
    path: PathBuf,
    /// How long the library may take for all its answers.
    deadline: Duration,
    /// A child that was killed and is still there.
    stuck: Option<Stuck>,
}

#[derive(Debug)]
struct Stuck {
    child: Child,
    pid: u32,
    since: String,
}

impl Library {
    pub(super) const fn new(program: PathBuf, path: PathBuf, deadline: Duration) -> Self {
        Self { program, path, deadline, stuck: None }
    }

    /// Asks the library everything, in no more than its deadline and a moment.
    ///
    /// To be called on the thread that lives as long as the agent: the child ends with it.
    pub(super) async fn ask(&mut self) -> Answers {
        if let Some(mut stuck) = self.stuck.take() {
            // Gone, or not to be asked about: nothing is left to wait for.
            if let Ok(None) = stuck.child.try_wait() {
                let answers = Answers::Stuck { pid: stuck.pid, since: stuck.since.clone() };
                self.stuck = Some(stuck);
                return answers;
            }
            log::info!(pid = stuck.pid; "the process that hung in NVIDIA's driver is gone");
        }
        let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                let program = self.program.display();
                return Answers::NotAsked {
                    detail: format!("{program} {COMMAND} cannot be started: {error}"),
                };
            }
        };
        let pid = child.id().unwrap_or_default();
        if let Ok(ended) = timeout(self.deadline, output(&mut child)).await {
            return ended.map_or_else(
                |error| Answers::NotAsked { detail: format!("its answer is lost: {error}") },
                Output::answers,
            );
        }
        // An error says that it has ended in this very moment.
        drop(child.start_kill());
        if timeout(GRACE, child.wait()).await.is_ok() {
            return Answers::TimedOut { seconds: self.deadline.as_secs() };
        }
        log::warn!(pid; "a process hangs in NVIDIA's driver and cannot be killed");
        self.stuck = Some(Stuck { child, pid, since: since.clone() });
        Answers::Stuck { pid, since }
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        // It does not speak for the agent.
        for variable in notify::OWN_VARIABLES {
            command.env_remove(variable);
        }
        command
            // What `ps` shows.
            .arg0("rollcall-agent")
            .arg("--log-level=off")
            .arg(COMMAND)
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg("--library")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An agent that stops does not wait for it.
            .kill_on_drop(true)
            .spawn()
    }
}

/// What is left of a child that has ended.
#[derive(Debug)]
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn output(child: &mut Child) -> io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (status, stdout, stderr) =
        tokio::join!(child.wait(), read(stdout, MAX_ANSWER_BYTES), read(stderr, MAX_SAID_BYTES));
    Ok(Output { status: status?, stdout: stdout?, stderr: stderr? })
}

/// Reads the first bytes of a stream and then closes it, so that nobody waits for a reader.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

impl Output {
    fn answers(self) -> Answers {
        let said = clean_text(&String::from_utf8_lossy(&self.stderr));
        if let Some(signal) = self.status.signal() {
            return Answers::Crashed { signal, said };
        }
        if !self.status.success() {
            return Answers::NotAsked { detail: format!("{}: {said}", self.status) };
        }
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| Answers::NotAsked {
            detail: format!("its answer is not understood: {error}: {said}"),
        })
    }
}

/// The child's part: asks the library and prints the answers as JSON.
///
/// # Errors
///
/// When they cannot be printed.
pub fn answer(library: &Path, parent: i32) -> io::Result<()> {
    use std::io::Write as _;

    if !tie_to(parent) {
        return Ok(());
    }
    // What the kernel's log calls a task that hangs.
    let _unnamed = rustix::thread::set_name(c"rollcall-nvml");
    let answers = super::nvml::read(library);
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &answers)?;
    stdout.flush()
}

/// Has the kernel end this process with its parent, so that none is left behind by an agent that was
/// killed; `false` where the parent has ended already.
fn tie_to(parent: i32) -> bool {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    // A kernel without this one leaves a child that ends by itself, unless the driver hangs.
    let _untied = set_parent_process_death_signal(Some(Signal::KILL));
    getppid().is_some_and(|actual| actual.as_raw_nonzero().get() == parent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that is being written cannot be started, and a process started meanwhile by another
    /// test keeps its file open for a moment.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// Asks a shell script in the program's place.
    async fn asked(script: &str, deadline: Duration) -> Answers {
        let _others_wait = ONE_AT_A_TIME.lock().await;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        let executable = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&program, executable).expect("a mode");
        Library::new(program, "libnvidia-ml.so.1".into(), deadline).ask().await
    }

    #[tokio::test]
    async fn every_way_to_end_has_its_answer() {
        const LONG: Duration = Duration::from_secs(30);
        let missing = r#"{"libraryMissing":{"detail":"no"}}"#;
        for (script, expected) in [
            (format!("echo '{missing}'"), Answers::LibraryMissing { detail: "no".to_owned() }),
            (
                "echo broken >&2; kill -SEGV $$".to_owned(),
                Answers::Crashed { signal: 11, said: "broken".to_owned() },
            ),
            (
                "echo broken >&2; exit 3".to_owned(),
                Answers::NotAsked { detail: "exit status: 3: broken".to_owned() },
            ),
        ] {
            assert_eq!(asked(&script, LONG).await, expected, "{script}");
        }
        for script in ["true", "echo {}", "yes", "head -c 2000000 /dev/zero; exit 0", "exec 1>&-"] {
            let answers = asked(script, LONG).await;
            let detail = matches!(&answers, Answers::NotAsked { .. } | Answers::Crashed { .. });
            assert!(detail, "{script}: {answers:?}");
        }
        // More on standard error than anybody reads blocks nobody.
        let loud = asked("head -c 2000000 /dev/zero >&2; exit 3", LONG).await;
        assert!(matches!(loud, Answers::NotAsked { .. }), "{loud:?}");
    }

    #[tokio::test]
    async fn a_child_that_takes_too_long_is_killed() {
        let begun = std::time::Instant::now();
        let answers = asked("exec sleep 600", Duration::from_millis(1100)).await;
        assert_eq!(answers, Answers::TimedOut { seconds: 1 });
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there() {
        let _others_wait = ONE_AT_A_TIME.lock().await;
        let program = PathBuf::from("/nonexistent/rollcall-agent");
        let mut library = Library::new(program, "library".into(), Duration::from_secs(1));
        let answers = library.ask().await;
        let Answers::NotAsked { detail } = answers else { panic!("{answers:?}") };
        assert!(detail.contains("/nonexistent/rollcall-agent"), "{detail}");
    }
}
