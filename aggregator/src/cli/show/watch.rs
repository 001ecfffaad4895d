//! `--watch`: looks again and again. A terminal shows the latest on a screen of its own; any other
//! stdout gets what has changed.

use std::io::{self, Write as _};
use std::panic;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use jiff::Timestamp;
use rollcall_daemon::table::{BAD, FAINT, NOTABLE, one_line, painted, width};
use rollcall_report::error_chain;
use rustix::process::{getpid, kill_process};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Failure, Output, Show, is_screen, news, print, print_styled, size};
use crate::operator::tables::Viewer;

/// A look that takes longer is told of.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is told how long a look takes.
const TICK: Duration = Duration::from_secs(1);
/// How long the last words are waited for where the reader stands still.
const GRACE: Duration = Duration::from_millis(500);

/// What was seen last, and how the looks go since.
struct Last<S> {
    shown: S,
    at: Timestamp,
    trouble: Option<String>,
}

/// Shows a first result, and all that come after it until Ctrl-C; then the exit code tells of the last.
pub(super) async fn watch<S: Show>(
    what: &str,
    output: Output,
    pause: Duration,
    first: S,
    mut look: impl AsyncFnMut() -> Result<S, Failure>,
) -> Result<(), Failure> {
    let stage = Stage::new(what, output, pause);
    let signals = Signals::new(matches!(stage, Stage::Screen(_)));
    let signals = signals.map_err(|source| Failure::Runtime { source })?;
    let mut last = Last { shown: first, at: Timestamp::now(), trouble: None };
    let mut watcher = Watcher { stage, signals };
    let mut goes_on = watcher.enter().await? && watcher.show(&last).await?;
    while goes_on {
        let until = Instant::now() + pause;
        loop {
            let event = watcher.signals.next(until).await;
            if matches!(event, Event::Time) {
                break;
            }
            if !watcher.heed(&event, &last, None).await? {
                return watcher.end(&last).await;
            }
        }
        let started = Instant::now();
        let looked = {
            let mut looking = pin!(look());
            loop {
                let tick = Instant::now() + TICK;
                tokio::select! {
                    biased;
                    looked = &mut looking => break looked,
                    event = watcher.signals.next(tick) => {
                        let waited = Some(started.elapsed()).filter(|it| *it >= PATIENCE);
                        if !watcher.heed(&event, &last, waited).await? {
                            return watcher.end(&last).await;
                        }
                    }
                }
            }
        };
        match looked {
            Ok(shown) => last = Last { shown, at: Timestamp::now(), trouble: None },
            // It may be started anew, or busy: whoever watches wants to see it come back.
            Err(failure) => last.trouble = Some(error_chain(&failure)),
        }
        goes_on = watcher.show(&last).await?;
    }
    watcher.end(&last).await
}

/// Where it is shown, and what may interrupt that. What says whether it goes on says no when a signal ended
/// it.
struct Watcher {
    stage: Stage,
    signals: Signals,
}

impl Watcher {
    async fn enter(&mut self) -> Result<bool, Failure> {
        let Stage::Screen(_) = self.stage else { return Ok(true) };
        let job = Screen::enter();
        self.put(job).await
    }

    async fn show<S: Show>(&mut self, last: &Last<S>) -> Result<bool, Failure> {
        match self.stage.show(last)? {
            Some(job) => self.put(job).await,
            None => Ok(true),
        }
    }

    async fn heed<S: Show>(
        &mut self,
        event: &Event,
        last: &Last<S>,
        waited: Option<Duration>,
    ) -> Result<bool, Failure> {
        let Stage::Screen(_) = self.stage else {
            return Ok(!matches!(event, Event::Stop));
        };
        match event {
            Event::Stop => return Ok(false),
            Event::Time | Event::Resized => {}
            Event::Suspend => {
                let (leave, enter) = (Screen::leave(), Screen::enter());
                if !self.put(leave).await? {
                    return Ok(false);
                }
                // Goes on here when the shell says so.
                kill_process(getpid(), rustix::process::Signal::STOP)
                    .map_err(|source| Failure::Runtime { source: source.into() })?;
                if !self.put(enter).await? {
                    return Ok(false);
                }
            }
        }
        match &self.stage {
            Stage::Screen(screen) => self.put(screen.draw(last, waited)).await,
            Stage::Stream(_) => Ok(true),
        }
    }

    /// Has something written by a thread of its own: a reader that stands still keeps no signal waiting.
    async fn put(&mut self, job: Job) -> Result<bool, Failure> {
        let mut written = pin!(on_thread(job));
        tokio::select! {
            biased;
            written = &mut written => written.map(|()| true),
            () = self.signals.stop() => {
                // What is under way ends first, if it may.
                let _written_or_not = timeout(GRACE, written).await;
                Ok(false)
            }
        }
    }

    /// Leaves the terminal as it was, before anything is said there.
    async fn end<S: Show>(self, last: &Last<S>) -> Result<(), Failure> {
        if let Stage::Screen(_) = self.stage {
            // Of a terminal that is gone, or stands still, nothing is left to mend.
            let _left_or_not = timeout(GRACE, on_thread(Screen::leave())).await;
        }
        last.shown.outcome()
    }
}

/// Something to be written.
type Job = Box<dyn FnOnce() -> Result<(), Failure> + Send>;

async fn on_thread(job: Job) -> Result<(), Failure> {
    let (done, outcome) = oneshot::channel();
    let write = move || {
        // Whoever waited may have been interrupted.
        let _unread = done.send(job());
    };
    thread::Builder::new()
        .name("writer".to_owned())
        .spawn(write)
        .map_err(|source| Failure::Print { source })?;
    outcome.await.unwrap_or_else(|_panicked| {
        Err(Failure::Print { source: io::Error::other("its thread has ended") })
    })
}

/// What interrupts a pause.
enum Event {
    Time,
    Resized,
    /// Ctrl-Z.
    Suspend,
    Stop,
}

struct Signals {
    stop: [Signal; 3],
    /// What a terminal has to be left for, or drawn anew.
    screen: Option<ScreenSignals>,
}

struct ScreenSignals {
    resized: Signal,
    suspend: Signal,
    quit: Signal,
}

impl Signals {
    fn new(is_screen: bool) -> io::Result<Self> {
        let screen = || {
            let suspend = SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw());
            Ok::<_, io::Error>(ScreenSignals {
                resized: signal(SignalKind::window_change())?,
                suspend: signal(suspend)?,
                quit: signal(SignalKind::quit())?,
            })
        };
        Ok(Self {
            stop: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
            screen: is_screen.then(screen).transpose()?,
        })
    }

    async fn next(&mut self, until: Instant) -> Event {
        let Self { stop, screen } = self;
        let (resized, suspend, quit) = match screen {
            Some(it) => (Some(&mut it.resized), Some(&mut it.suspend), Some(&mut it.quit)),
            None => (None, None, None),
        };
        tokio::select! {
            biased;
            () = stopped(stop, quit) => Event::Stop,
            () = received(suspend) => Event::Suspend,
            () = received(resized) => Event::Resized,
            () = sleep_until(until) => Event::Time,
        }
    }

    async fn stop(&mut self) {
        stopped(&mut self.stop, self.screen.as_mut().map(|screen| &mut screen.quit)).await;
    }
}

async fn stopped([interrupt, terminate, hangup]: &mut [Signal; 3], quit: Option<&mut Signal>) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        () = received(quit) => {}
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Where it is shown.
enum Stage {
    /// A terminal.
    Screen(Screen),
    /// Anything else.
    Stream(Stream),
}

impl Stage {
    fn new(what: &str, output: Output, pause: Duration) -> Self {
        if output == Output::Table && is_screen(&io::stdout()) {
            let pause = humantime::format_duration(pause);
            let head = format!("rollcall-aggregator {what}, every {pause}; Ctrl-C ends this");
            return Self::Screen(Screen::new(head));
        }
        Self::Stream(Stream { output, printed: None, is_in_trouble: false })
    }

    fn show<S: Show>(&mut self, last: &Last<S>) -> Result<Option<Job>, Failure> {
        match self {
            Self::Screen(screen) => Ok(Some(screen.draw(last, None))),
            Self::Stream(stream) => stream.tell(last),
        }
    }
}

/// Whether the terminal shows its other screen now.
static IS_ENTERED: AtomicBool = AtomicBool::new(false);

/// The other screen of a terminal, until it is dropped.
struct Screen {
    head: String,
    has_styles: bool,
}

impl Screen {
    /// The alternate screen, without a cursor.
    const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
    const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

    fn new(head: String) -> Self {
        let has_styles = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        // A release ends at once with a panic, and drops nothing.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            Self::leave_now();
            hook(panicked);
        }));
        Self { head, has_styles }
    }

    fn enter() -> Job {
        Box::new(|| {
            IS_ENTERED.store(true, Ordering::SeqCst);
            write(Self::ENTER)
        })
    }

    fn leave() -> Job {
        Box::new(
            || {
                if IS_ENTERED.swap(false, Ordering::SeqCst) { write(Self::LEAVE) } else { Ok(()) }
            },
        )
    }

    /// Leaves it past whatever is being written.
    fn leave_now() {
        if IS_ENTERED.swap(false, Ordering::SeqCst) {
            // Of a terminal that is gone nothing is left to mend.
            let _gone = rustix::io::write(io::stdout(), Self::LEAVE.as_bytes());
        }
    }

    fn draw<S: Show>(&self, last: &Last<S>, waited: Option<Duration>) -> Job {
        // A terminal that does not tell its size has the one that all once had.
        let (columns, height) = size().unwrap_or((80, 24));
        let mut text = vec![painted(FAINT, &self.head)];
        text.extend(trouble(last, waited, Timestamp::now()));
        text.push(String::new());
        let viewer = Viewer { now: last.at, room: Some(columns) };
        let table = last.shown.table(viewer);
        let table = if table.is_empty() { S::NOTHING.to_owned() } else { table };
        text.extend(table.lines().map(str::to_owned));
        text.extend(last.shown.notes().into_iter().map(|note| one_line(format!("! {note}"))));
        let frame = frame(&text, columns, height);
        let frame = if self.has_styles { frame } else { without_styles(&frame) };
        Box::new(move || write(&frame))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::leave_now();
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Failure::Print { source })
}

/// What is to be said of the looks since the last that came to something.
fn trouble<S>(last: &Last<S>, waited: Option<Duration>, now: Timestamp) -> Option<String> {
    let seconds = |seconds| humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let age = u64::try_from(now.duration_since(last.at).as_secs()).unwrap_or(0);
    let age = format!("what stands here was seen {} ago", seconds(age));
    match (&last.trouble, waited) {
        (Some(words), _) => {
            Some(painted(BAD, &one_line(format!("! {age}, and trying goes on: {words}"))))
        }
        (None, Some(waited)) => {
            let waited = seconds(waited.as_secs());
            Some(painted(NOTABLE, &format!("! looking for {waited} now: {age}")))
        }
        (None, None) => None,
    }
}

/// What is written to show these lines, and nothing else: each overwrites what stood in its place, so
/// that nothing flickers. Of what does not fit it says how much there is.
fn frame(text: &[String], columns: usize, height: usize) -> String {
    let mut shown = fitting(text, columns, height);
    let mut more = None;
    if shown < text.len() {
        // Room for the line that says so.
        shown = fitting(text, columns, height.saturating_sub(1));
        let words = format!("{} more lines: a pipe shows all", text.len() - shown);
        more = Some(painted(FAINT, &words));
    }
    // A terminal that knows how holds back what it shows until all is there.
    let mut frame = String::from("\u{1b}[?2026h\u{1b}[H");
    for (index, line) in text.iter().take(shown).chain(&more).enumerate() {
        if index > 0 {
            frame.push_str("\r\n");
        }
        frame.push_str(line);
        // After a full line the cursor stands on its last character.
        let width = shown_width(line);
        if width == 0 || !width.is_multiple_of(columns.max(1)) {
            frame.push_str("\u{1b}[K");
        }
    }
    frame.push_str("\u{1b}[J\u{1b}[?2026l");
    frame
}

/// How many of the lines have room; what is wider than the terminal goes on in its next line.
fn fitting(text: &[String], columns: usize, height: usize) -> usize {
    let mut left = height;
    let fits = |line: &&String| {
        let needed = shown_width(line).div_ceil(columns.max(1)).max(1);
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    };
    text.iter().take_while(fits).count()
}

fn shown_width(line: &str) -> usize {
    width(&strip_str(line).to_string())
}

/// The same without bold and colours; what moves the cursor stays.
fn without_styles(frame: &str) -> String {
    let mut parts = frame.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        match end.and_then(|end| part.split_at_checked(end)) {
            Some((_, rest)) if rest.starts_with('m') => plain.extend(rest.chars().skip(1)),
            _ => {
                plain.push_str("\u{1b}[");
                plain.push_str(part);
            }
        }
    }
    plain
}

/// Where what has changed is printed.
struct Stream {
    output: Output,
    printed: Option<Value>,
    is_in_trouble: bool,
}

impl Stream {
    fn tell<S: Show>(&mut self, last: &Last<S>) -> Result<Option<Job>, Failure> {
        if let Some(words) = &last.trouble {
            if !self.is_in_trouble {
                log::warn!("what was printed may be out of date, and trying goes on: {words}");
            }
            self.is_in_trouble = true;
            return Ok(None);
        }
        if std::mem::take(&mut self.is_in_trouble) {
            log::info!("it answers again");
        }
        let news = news(&last.shown)?;
        if self.printed.as_ref() == Some(&news) {
            return Ok(None);
        }
        let is_first = self.printed.replace(news).is_none();
        let job: Job = match self.output {
            Output::Table => {
                let between = if is_first { "" } else { "\n" };
                let table = self.output.text(&last.shown)?;
                let table = if table.is_empty() { S::NOTHING } else { &table };
                let notes = last.shown.notes().into_iter();
                let notes = notes.map(|note| one_line(format!("\n! {note}"))).collect::<String>();
                let text = format!("{between}{table}{notes}");
                Box::new(move || print_styled(&text))
            }
            Output::Json => {
                let data = serde_json::to_string(last.shown.data());
                let encode =
                    |source| Failure::Operator(crate::operator::OperatorError::Encode { source });
                let data = data.map_err(encode)?;
                Box::new(move || print(&data))
            }
            Output::Yaml => {
                let text = format!("---\n{}", self.output.text(&last.shown)?);
                Box::new(move || print(&text))
            }
        };
        Ok(Some(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal of this size shows after these bytes: cursor home, end of line, end of screen,
    /// line feeds and wrapping; styles are passed over.
    fn shown(bytes: &str, columns: usize, height: usize, before: &str) -> Vec<String> {
        let mut cells = vec![vec![' '; columns]; height];
        let (mut row, mut column) = (0, 0);
        let all = format!("{before}{bytes}");
        let mut rest = all.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\u{1b}' => {
                    let code: String =
                        std::iter::from_fn(|| rest.next_if(|c| !c.is_ascii_alphabetic())).collect();
                    match (code.as_str(), rest.next().expect("an end")) {
                        ("[", 'H') => (row, column) = (0, 0),
                        // On the last column there is no further one to go to.
                        ("[", 'K') => cells[row][column.min(columns - 1)..].fill(' '),
                        ("[", 'J') => {
                            if column < columns {
                                cells[row][column..].fill(' ');
                            }
                            cells[row + 1..].iter_mut().for_each(|line| line.fill(' '));
                        }
                        (_, 'm' | 'h' | 'l') => {}
                        other => panic!("{other:?}"),
                    }
                }
                '\r' => column = 0,
                '\n' => row += 1,
                c => {
                    if column == columns {
                        (row, column) = (row + 1, 0);
                    }
                    cells[row][column] = c;
                    column += 1;
                }
            }
        }
        let lines = cells.into_iter().map(|line| line.into_iter().collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_frame_fills_the_screen_and_nothing_of_the_former_stays() {
        let junk = "\u{1b}[H".to_owned() + &["xxxxxxxxxx"; 4].join("\r\n");
        for (what, text, expected) in [
            ("it fits", &["head", "a", "b"][..], &["head", "a", "b", ""][..]),
            ("just", &["head", "a", "b", "c"], &["head", "a", "b", "c"]),
            ("a full line", &["head", "0123456789", "b"], &["head", "0123456789", "b", ""]),
            ("a line goes on", &["head", "0123456789ab"], &["head", "0123456789", "ab", ""]),
            ("too many", &["head", "a", "b", "c", "d"], &["head", "a", "b", "2 more lin"]),
            ("styles have no width", &["\u{1b}[1mhead\u{1b}[0m", "", "b"], &["head", "", "b", ""]),
        ] {
            let text: Vec<String> = text.iter().map(|&line| line.to_owned()).collect();
            let frame = frame(&text, 10, 4).replace("es: a pipe shows all", "");
            assert_eq!(shown(&frame, 10, 4, &junk), expected, "{what}: {frame:?}");
            assert!(!without_styles(&frame).contains("[1m"), "{what}");
            let plain = shown(&without_styles(&frame), 10, 4, &junk);
            assert_eq!(plain, expected, "{what}, without styles");
        }
    }

    #[test]
    fn what_is_said_of_looks_in_vain() {
        let at = Timestamp::UNIX_EPOCH;
        let now = at + Duration::from_secs(75);
        let last =
            |trouble: Option<&str>| Last { shown: (), at, trouble: trouble.map(str::to_owned) };
        let said = |last: &Last<()>, waited| {
            trouble(last, waited, now).map(|said| strip_str(&said).to_string())
        };
        assert_eq!(said(&last(None), None), None);
        assert_eq!(
            said(&last(None), Some(Duration::from_millis(4200))).as_deref(),
            Some("! looking for 4s now: what stands here was seen 1m 15s ago")
        );
        let words = "GET http://h got no answer\u{1b}[2J";
        assert_eq!(
            said(&last(Some(words)), None).as_deref(),
            Some(
                "! what stands here was seen 1m 15s ago, and trying goes on: GET http://h got no answer [2J"
            )
        );
    }
}
