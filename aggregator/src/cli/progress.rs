//! How far something has come that takes long: on stderr, and on stdout never.

use std::io;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::show::is_screen;

/// What is over sooner is not worth a line in a log.
const QUIET: Duration = Duration::from_secs(1);
/// How often a terminal shows that it goes on.
const TICK: Duration = Duration::from_millis(120);

const WORDS: &str = "{spinner} {elapsed:>3}  {wide_msg}";
const COUNTED: &str = "{spinner} {elapsed:>3} [{bar:20}] {pos} of {len}  {wide_msg}";

/// One line on a terminal that says what goes on, and goes away in the end; elsewhere a line in the log
/// for each step that is another than the one before. It follows the log level: with `warn` there is none.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    told: String,
    started: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_wanted = log::log_enabled!(log::Level::Info);
        let bar = (is_wanted && is_screen(&io::stderr())).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, told: String::new(), started: Instant::now() }
    }

    /// What goes on now.
    pub(super) fn say(&mut self, words: &str) {
        self.step(words, None);
    }

    /// The same of something that is counted.
    pub(super) fn count(&mut self, words: &str, done: usize, all: usize) {
        self.step(words, Some((done, all)));
    }

    fn step(&mut self, words: &str, counted: Option<(usize, usize)>) {
        if let Some(bar) = &self.bar {
            let number = |count| u64::try_from(count).unwrap_or(u64::MAX);
            let template = if let Some((done, all)) = counted {
                bar.set_length(number(all));
                bar.set_position(number(done));
                COUNTED
            } else {
                WORDS
            };
            // Both are well-formed.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(words.to_owned());
        } else if self.told != words && self.started.elapsed() >= QUIET {
            log::info!("{words}");
            words.clone_into(&mut self.told);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        for template in [WORDS, COUNTED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
