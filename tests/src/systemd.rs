//! Stand-ins for what systemd listens with: the service manager's socket and the journal's. Both take
//! datagrams, which tests look at byte by byte.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::DEADLINE;

/// More than any message has.
const MAX_BYTES: usize = 64 * 1024;

/// A socket that keeps what it is sent.
#[derive(Debug)]
struct Inbox {
    folder: TempDir,
    socket: UnixDatagram,
    /// What was taken so far, and when.
    seen: Vec<(Instant, Vec<u8>)>,
}

impl Inbox {
    /// Binds a socket of this name, in a folder of its own.
    fn bind(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join(name)).expect("a socket");
        Self { folder, socket, seen: Vec::new() }
    }

    /// The next message, if one comes before `end`.
    fn take(&mut self, end: Instant) -> Option<(Instant, Vec<u8>)> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).expect("a time limit");
        let mut buffer = vec![0; MAX_BYTES];
        let length = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        let message = (Instant::now(), buffer);
        self.seen.push(message.clone());
        Some(message)
    }

    /// Waits for a message that `wanted` accepts; what comes before it is passed over.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> (Instant, Vec<u8>) {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            match self.take(end) {
                Some((at, message)) if wanted(&message) => return (at, message),
                _ => {}
            }
        }
        let seen: Vec<_> =
            self.seen.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes)).collect();
        panic!("no {what} within {DEADLINE:?}, but {seen:#?}")
    }
}

/// A stand-in for the service manager.
#[derive(Debug)]
pub struct Manager(Inbox);

/// The last line of a message that says that a program lives.
pub const ALIVE: &[u8] = b"WATCHDOG=1\n";

impl Manager {
    /// Starts to listen.
    ///
    /// # Panics
    ///
    /// When no socket can be had.
    #[must_use]
    pub fn start() -> Self {
        Self(Inbox::bind("notify"))
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.0.folder.path().join("notify")
    }

    /// Has a program speak to it, and give signs of life in this period.
    pub fn manage(&self, command: &mut Command, watchdog: Option<Duration>) {
        command.env("NOTIFY_SOCKET", self.socket());
        if let Some(period) = watchdog {
            command.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
    }

    /// Takes no more messages: as many wait as can.
    ///
    /// # Panics
    ///
    /// When they cannot be sent.
    pub fn fill(&self) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("a setting");
        while sender.send_to(b"FILLS=1\n", self.socket()).is_ok() {}
    }

    /// The next message that is no sign of life.
    ///
    /// # Panics
    ///
    /// When none comes in time.
    pub fn next_message(&mut self) -> String {
        let (_, message) = self.0.wait_for("message", |message| message != ALIVE);
        String::from_utf8(message).expect("text")
    }

    /// Waits for a message with these words; others are passed over.
    ///
    /// # Panics
    ///
    /// When none comes in time.
    pub fn wait_for(&mut self, words: &str) -> String {
        let holds = |message: &[u8]| String::from_utf8_lossy(message).contains(words);
        let (_, message) = self.0.wait_for(words, holds);
        String::from_utf8(message).expect("text")
    }

    /// All that comes in a while.
    pub fn listen(&mut self, time: Duration) -> Vec<(Instant, Vec<u8>)> {
        let end = Instant::now() + time;
        let mut heard = Vec::new();
        while Instant::now() < end {
            heard.extend(self.0.take(end));
        }
        heard
    }
}

/// A stand-in for the journal.
#[derive(Debug)]
pub struct Journal(Inbox);

impl Journal {
    /// Starts to listen.
    ///
    /// # Panics
    ///
    /// When no socket can be had.
    #[must_use]
    pub fn start() -> Self {
        Self(Inbox::bind("socket"))
    }

    /// A command whose program finds this journal where systemd's is: in a mount namespace of its own.
    pub fn command(&self, program: &std::path::Path) -> Command {
        let script = "mount -t tmpfs none /run && mkdir -p /run/systemd && \
                      ln -s \"$0\" /run/systemd/journal && exec \"$@\"";
        Self::unshared(script, self.0.folder.path(), program)
    }

    /// The same where there is no journal.
    pub fn command_without(program: &std::path::Path) -> Command {
        let script = "mount -t tmpfs none /run && exec \"$@\"";
        Self::unshared(script, std::path::Path::new("sh"), program)
    }

    fn unshared(script: &str, zero: &std::path::Path, program: &std::path::Path) -> Command {
        // What systemd sets where it leads a program's stderr to the journal.
        let said = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && ";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!("{said}{script}")).arg(zero).arg(program);
        command
    }

    /// Waits for an entry with these words in its message; others are passed over.
    ///
    /// # Panics
    ///
    /// When none comes in time, or what comes is no entry.
    pub fn wait_for(&mut self, words: &str) -> Entry {
        let holds = |bytes: &[u8]| {
            Entry::parse(bytes).values("MESSAGE").iter().any(|message| message.contains(words))
        };
        Entry::parse(&self.0.wait_for(words, holds).1)
    }

    /// Every entry so far, the empty message by which a client looks for the journal left out.
    pub fn entries(&mut self) -> Vec<Entry> {
        while self.0.take(Instant::now()).is_some() {}
        let all = self.0.seen.iter().map(|(_, bytes)| Entry::parse(bytes));
        all.filter(|entry| !entry.0.is_empty()).collect()
    }
}

/// What the journal was sent at once: its fields, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry(pub Vec<(String, String)>);

impl Entry {
    /// Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>, "Data Format".
    fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        while !bytes.is_empty() {
            let at = bytes.iter().position(|byte| b"=\n".contains(byte)).expect("a field's name");
            let (name, rest) = bytes.split_at(at);
            let value;
            if rest.first() == Some(&b'=') {
                let end = rest.iter().position(|byte| *byte == b'\n').expect("a field's end");
                (value, bytes) = (rest.get(1..end), rest.get(end + 1..).unwrap_or_default());
            } else {
                let (length, rest) = rest.split_at_checked(9).expect("a field's length");
                let length = length.get(1..).and_then(|length| length.try_into().ok());
                let length = u64::from_le_bytes(length.expect("eight bytes"));
                let length = usize::try_from(length).expect("a length");
                assert_eq!(rest.get(length), Some(&b'\n'), "a field's end");
                (value, bytes) = (rest.get(..length), rest.get(length + 1..).unwrap_or_default());
            }
            fields.push((text(name), text(value.expect("a field's value"))));
        }
        Self(fields)
    }

    /// The values of a field: a second one is a mistake, mostly.
    pub fn values(&self, field: &str) -> Vec<&str> {
        let of = self.0.iter().filter(|(name, _)| name == field);
        of.map(|(_, value)| value.as_str()).collect()
    }
}
