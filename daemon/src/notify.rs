//! What the service manager is told (systemd's `sd_notify`): when this program is ready, what it is
//! doing, that it still turns, that it stops. Nobody is told where `NOTIFY_SOCKET` is not set.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::future;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollcall_report::error_chain;
use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior, sleep};

/// The variables that are meant for this very process. A child is to be started without them, so that
/// it cannot speak in its place.
pub const OWN_VARIABLES: [&str; 3] = [SOCKET, "WATCHDOG_PID", "WATCHDOG_USEC"];

const SOCKET: &str = "NOTIFY_SOCKET";

/// The longest status. The manager reads no more than 4096 bytes at once, and a character may take
/// four of them. Source: `NOTIFY_BUFFER_MAX` in systemd's `src/basic/constants.h`.
const MAX_STATUS_CHARS: usize = 1000;

/// By how much a start that takes long is given more time, each time.
const MORE_TIME: Duration = Duration::from_mins(1);

/// How often it is given more time.
const MORE_TIME_INTERVAL: Duration = Duration::from_secs(10);
/// What takes no longer is done at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long after the manager did not take something it is told again, where no sign of life is due
/// sooner.
const AGAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Tells the service manager, if there is one. Clones tell the same one.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    /// Where it listens, as it said itself.
    socket: OsString,
    /// How long it does without a sign of life, if it cares.
    watchdog: Option<Duration>,
    told: Mutex<Told>,
    /// Woken by what it did not take.
    untaken: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// The last status that it took.
    status: String,
    /// A status that it is still to be told.
    owed_status: Option<String>,
    /// Whether it is still to be told that this program is ready.
    owes_ready: bool,
    /// Whether the last message did not reach it.
    is_failing: bool,
}

impl Told {
    /// What it is to be told now, with what it did not take before; nothing if there is nothing.
    fn message(&self, what: Option<&NotifyState<'_>>) -> String {
        let mut message = String::new();
        let ready = self.owes_ready.then_some(&NotifyState::Ready);
        let status = self.owed_status.as_deref().map(NotifyState::Status);
        for state in ready.into_iter().chain(what).chain(&status) {
            // Writing to a String cannot fail.
            let _ = writeln!(message, "{state}");
        }
        message
    }
}

impl Notifier {
    /// Finds the manager in the environment.
    pub fn from_environment() -> Self {
        let Some(socket) = env::var_os(SOCKET) else { return Self::default() };
        let watchdog = sd_notify::watchdog_enabled().filter(|period| !period.is_zero());
        Self::of(socket, watchdog)
    }

    fn of(socket: OsString, watchdog: Option<Duration>) -> Self {
        let (told, untaken) = (Mutex::default(), Notify::new());
        Self { manager: Some(Arc::new(Manager { socket, watchdog, told, untaken })) }
    }

    /// Tells that this program does its work from now on, and what it is doing.
    pub fn ready(&self, status: &str) {
        self.tell(Some(&NotifyState::Ready), Some(status));
    }

    /// Tells what this program is doing, in one line; nothing if it was told just that.
    pub fn status(&self, status: &str) {
        self.tell(None, Some(status));
    }

    /// Tells that this program is about to end.
    pub fn stopping(&self, status: &str) {
        self.tell(Some(&NotifyState::Stopping), Some(status));
    }

    /// Has the manager wait for as long as this is awaited: a start may take long for a reason. What is
    /// done at once needs no word.
    pub async fn ask_for_time(&self) -> Infallible {
        let more = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
        sleep(AT_ONCE).await;
        let mut turns = turns(MORE_TIME_INTERVAL);
        loop {
            turns.tick().await;
            self.tell(Some(&NotifyState::ExtendTimeoutUsec(more)), None);
        }
    }

    /// Gives signs of life for as long as this is awaited and `is_at_work`, three in the time after
    /// which the manager takes this program for dead: a runtime that does not turn gives none. What
    /// the manager did not take is told again. Where there is nothing to tell, no timer runs.
    pub async fn keep_alive(&self, is_at_work: impl Fn() -> bool) -> Infallible {
        let Some(manager) = &self.manager else { return future::pending().await };
        let Some(watchdog) = manager.watchdog else {
            loop {
                manager.untaken.notified().await;
                sleep(AGAIN_INTERVAL).await;
                self.tell(None, None);
            }
        };
        let mut turns = turns(beat(watchdog));
        let mut was_at_work = true;
        loop {
            turns.tick().await;
            let is_at_work = is_at_work();
            if was_at_work && !is_at_work {
                log::error!(
                    "the work does not go on, so the service manager gets no sign of life: report this as a bug"
                );
            }
            was_at_work = is_at_work;
            self.tell(is_at_work.then_some(&NotifyState::Watchdog), None);
        }
    }

    /// Tells it, and what was not taken before. Never waits: a manager that does not read is one that
    /// cannot be told, and no reason to stand still.
    fn tell(&self, what: Option<&NotifyState<'_>>, status: Option<&str>) {
        let Some(manager) = &self.manager else { return };
        let mut told = manager.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = matches!(what, Some(NotifyState::Ready));
        told.owes_ready |= is_ready;
        if let Some(status) = status.map(one_line) {
            told.owed_status = (status != told.status).then_some(status);
        }
        let message = told.message(what.filter(|_| !is_ready));
        if message.is_empty() {
            return;
        }
        let outcome = send(&manager.socket, &message);
        if outcome.is_ok() {
            told.owes_ready = false;
            if let Some(status) = told.owed_status.take() {
                told.status = status;
            }
        }
        let was_failing = std::mem::replace(&mut told.is_failing, outcome.is_err());
        drop(told);
        if outcome.is_err() {
            manager.untaken.notify_one();
        }
        log_outcome(outcome, was_failing);
    }
}

/// Sends a message if it can be sent at once.
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let manager = address(socket)?;
    let own = UnixDatagram::unbound()?;
    own.set_nonblocking(true)?;
    own.send_to_addr(message.as_bytes(), &manager).map(|_whole| ())
}

/// A path, or a name that is in no file system: then it begins with an `@`.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

fn turns(every: Duration) -> Interval {
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns
}

fn log_outcome(outcome: io::Result<()>, was_failing: bool) {
    match outcome {
        Err(error) if !was_failing => log::warn!(error = error_chain(&error);
            "the service manager cannot be told how this program is doing"),
        Ok(()) if was_failing => log::info!("the service manager can be told again"),
        _ => {}
    }
}

/// The time between two signs of life.
fn beat(period: Duration) -> Duration {
    (period / 3).max(Duration::from_millis(1))
}

/// A status as it can be told: a line break would begin another message.
fn one_line(status: &str) -> String {
    let clean = status.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_STATUS_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_that_fits() {
        for (status, expected) in [
            ("3 nodes", "3 nodes".to_owned()),
            ("refused:\nREADY=1\u{1b}[2J", "refused: READY=1 [2J".to_owned()),
            (&"ß".repeat(3000), "ß".repeat(1000)),
        ] {
            assert_eq!(one_line(status), expected);
        }
    }

    #[test]
    fn three_signs_of_life_a_period() {
        for (micros, beat_micros) in [(60_000_000, 20_000_000), (300_000, 100_000), (1, 1000)] {
            let period = Duration::from_micros(micros);
            assert_eq!(beat(period), Duration::from_micros(beat_micros), "{period:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_told_where_there_is_no_manager() {
        let notifier = Notifier::default();
        notifier.ready("up");
        notifier.stopping("down");
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, notifier.keep_alive(|| true)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_told_again_and_nothing_else() {
        let name = format!("@rollcall-test-again-{}", std::process::id());
        let socket = OsString::from(name);
        let notifier = Notifier::of(socket.clone(), None);
        notifier.ready("up");
        let manager = UnixDatagram::bind_addr(&address(&socket).expect("an address"));
        let manager = manager.expect("bound");
        manager.set_nonblocking(true).expect("a setting");
        let while_it_lives = AGAIN_INTERVAL * 5;
        assert!(tokio::time::timeout(while_it_lives, notifier.keep_alive(|| true)).await.is_err());
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=up\n"]);
    }

    /// What the socket holds, message by message.
    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        let messages =
            std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()));
        messages.map(|message| String::from_utf8(message).expect("text")).collect()
    }

    #[tokio::test]
    async fn a_manager_that_does_not_read_is_not_waited_for_and_told_all_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let name = format!("@rollcall-test-{}", std::process::id());
        for socket in [path.into_os_string(), name.into()] {
            let manager = UnixDatagram::bind_addr(&address(&socket).expect("an address"));
            let manager = manager.expect("bound");
            manager.set_nonblocking(true).expect("a setting");
            let mut filled = 0;
            while send(&socket, "FILLS=1\n").is_ok() {
                filled += 1;
            }
            assert!(filled > 0, "{}", socket.display());
            let notifier = Notifier::of(socket, Some(Duration::from_millis(30)));
            notifier.ready("up");
            notifier.status("at work");
            assert_eq!(heard(&manager), vec!["FILLS=1\n"; filled]);
            let short = Duration::from_millis(25);
            assert!(tokio::time::timeout(short, notifier.keep_alive(|| true)).await.is_err());
            let heard = heard(&manager);
            assert_eq!(
                heard.first().map(String::as_str),
                Some("READY=1\nWATCHDOG=1\nSTATUS=at work\n")
            );
            assert!(heard.iter().skip(1).all(|message| message == "WATCHDOG=1\n"), "{heard:?}");
            notifier.status("at work");
            assert!(tokio::time::timeout(short, notifier.keep_alive(|| false)).await.is_err());
            assert_eq!(self::heard(&manager), Vec::<String>::new());
        }
    }
}
