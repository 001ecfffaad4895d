//! Programs on a terminal: a pseudo-terminal of a given size, and what is written to it.
//!
//! Everything here panics with a message for the person who runs the test.
#![expect(clippy::expect_used, reason = "a harness fails the test that uses it")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// How often it is looked whether something has been written.
const LOOK: Duration = Duration::from_millis(20);

/// A program on a terminal of its own; ended when it is dropped.
#[derive(Debug)]
pub struct OnTerminal {
    child: Child,
    terminal: OwnedFd,
    written: Arc<Mutex<Vec<u8>>>,
}

/// Which of a program's streams lead to the terminal; the others are pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// All.
    All,
    /// stderr alone.
    Stderr,
}

impl OnTerminal {
    /// Starts a program on a terminal of so many columns and lines.
    ///
    /// # Panics
    ///
    /// When there is no terminal to be had, or the program does not start.
    pub fn start(mut command: Command, streams: Streams, columns: u16, lines: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).expect("a pseudo-terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("its other side opens");
        let path = ptsname(&terminal, Vec::new()).expect("its other side has a name");
        set_size(&terminal, columns, lines);
        let path = path.to_str().expect("a path");
        let open = || {
            Stdio::from(fs::OpenOptions::new().read(true).write(true).open(path).expect("opens"))
        };
        command.env("TERM", "xterm-256color");
        // Of what runs the tests it is to know nothing; CI counts as a terminal with colours.
        for variable in ["NO_COLOR", "CLICOLOR_FORCE", "CI"] {
            command.env_remove(variable);
        }
        command.stdin(open()).stderr(open());
        match streams {
            Streams::All => command.stdout(open()),
            Streams::Stderr => command.stdout(Stdio::piped()),
        };
        let child = command.spawn().expect("the program starts");
        // Its sides of the terminal close with it, not with this.
        drop(command);
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut reader = File::from(terminal.try_clone().expect("a second handle"));
        let collected = Arc::clone(&written);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends with an error when nobody has the other side open any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut all = collected.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend(buffer.iter().take(count));
            }
        });
        Self { child, terminal, written }
    }

    /// All that was written to the terminal so far.
    pub fn written(&self) -> String {
        let all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits until what was written since `from` is as wanted; how much is written then.
    ///
    /// # Panics
    ///
    /// When `patience` ends first; with all that was written.
    pub fn wait_for(
        &self,
        what: &str,
        from: usize,
        patience: Duration,
        is_wanted: impl Fn(&str) -> bool,
    ) -> usize {
        let end = Instant::now() + patience;
        loop {
            let written = self.written();
            if written.get(from..).is_some_and(&is_wanted) {
                return written.len();
            }
            assert!(Instant::now() < end, "waited {patience:?} for {what}: {written:?}");
            thread::sleep(LOOK);
        }
    }

    /// Gives the terminal another size, and tells the program as the kernel does.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn resize(&self, columns: u16, lines: u16) {
        set_size(&self.terminal, columns, lines);
        self.signal(Signal::WINCH);
    }

    /// Sends what Ctrl-C sends.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program runs");
    }

    /// Waits until it has ended: how, all that was written to the terminal, and to stdout if that is a
    /// pipe.
    ///
    /// # Panics
    ///
    /// When `patience` ends first.
    pub fn end(&mut self, patience: Duration) -> (ExitStatus, String, String) {
        let end = Instant::now() + patience;
        let mut stdout = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut stdout).expect("its stdout is text");
        }
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                // The last bytes may still be on their way through the kernel.
                let mut before = self.written();
                loop {
                    thread::sleep(LOOK);
                    let now = self.written();
                    if now == before {
                        return (status, now, stdout);
                    }
                    before = now;
                }
            }
            assert!(Instant::now() < end, "not ended within {patience:?}: {:?}", self.written());
            thread::sleep(LOOK);
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn set_size(terminal: &OwnedFd, columns: u16, lines: u16) {
    let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

/// What stands between escape codes.
pub fn without_codes(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        plain.extend(part.chars().skip(end.map_or(usize::MAX, |end| end + 1)));
    }
    plain
}
