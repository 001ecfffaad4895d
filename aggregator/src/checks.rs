//! Preflight checks: what must be so before a cluster can be of use to a network.
//!
//! Collect, then judge. What a target's checks look at is collected at the same time, each thing
//! within a time limit of its own ([`observe`]); then each check judges what was seen, without any
//! I/O. A check is one entry of a list: its name, why it matters, how to mend it, its page in the
//! documentation, and the function that judges. No check changes anything anywhere.

pub mod aichor;
pub mod aios;
pub mod cluster_file;
pub mod inference_model_manager;
pub mod interlink;
pub mod kubernetes;
pub mod report;
pub mod unikorn;
pub mod wire;
pub mod workloads;

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// One thing that is checked, about what was collected as `F`.
#[derive(Debug)]
pub struct Check<F> {
    /// What should be so.
    pub name: &'static str,
    /// What goes wrong where it is not.
    pub why: &'static str,
    /// How to mend it, where the judge does not know better.
    pub mend: &'static str,
    /// Its page in the documentation, with the anchor.
    pub page: &'static str,
    /// Judges what was seen.
    pub judge: fn(&F) -> Verdict,
}

/// Checks that are shown together.
#[derive(Debug)]
pub struct Group<F: 'static> {
    /// The group's name.
    pub name: &'static str,
    /// Its checks, in the order in which they are shown.
    pub checks: &'static [Check<F>],
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// It works, or may work; somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// Not looked at, because what it needs is missing. It has not passed.
    Skipped,
}

/// What a judge says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen; one line.
    pub seen: String,
    /// How to mend it, where the judge knows better than the check's own words.
    pub mend: Option<String>,
    /// How long it took to see it.
    pub took: Duration,
}

impl Verdict {
    fn new(outcome: Outcome, seen: &str) -> Self {
        // Foreign texts come this way.
        Self { outcome, seen: one_line(seen), mend: None, took: Duration::ZERO }
    }

    /// It is as it should be.
    pub fn pass(seen: impl AsRef<str>) -> Self {
        Self::new(Outcome::Pass, seen.as_ref())
    }

    /// Somebody should look at it.
    pub fn warn(seen: impl AsRef<str>) -> Self {
        Self::new(Outcome::Warn, seen.as_ref())
    }

    /// It does not work.
    pub fn fail(seen: impl AsRef<str>) -> Self {
        Self::new(Outcome::Fail, seen.as_ref())
    }

    /// It was not looked at, for this reason.
    pub fn skipped(why: impl AsRef<str>) -> Self {
        Self::new(Outcome::Skipped, &format!("not checked: {}", why.as_ref()))
    }

    /// The same, with better words on how to mend it.
    #[must_use]
    pub fn mend(self, mend: impl AsRef<str>) -> Self {
        Self { mend: Some(one_line(mend.as_ref())), ..self }
    }

    /// What was not looked at becomes a failure: there is nothing that explains it.
    #[must_use]
    pub fn or_fail(self) -> Self {
        let outcome = if self.outcome == Outcome::Skipped { Outcome::Fail } else { self.outcome };
        Self { outcome, ..self }
    }

    /// A failure becomes a warning: what was looked at is not needed for the rest to work.
    #[must_use]
    pub fn at_most_warn(self) -> Self {
        let outcome = if self.outcome == Outcome::Fail { Outcome::Warn } else { self.outcome };
        Self { outcome, ..self }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed<T> {
    /// What was seen, or why nothing was.
    pub result: Result<T, Unseen>,
    /// How long it took.
    pub took: Duration,
}

/// Why something was not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unseen {
    /// No answer within the time limit.
    OutOfTime {
        /// The limit.
        limit: Duration,
    },
    /// It was tried, and failed.
    Failed {
        /// What was tried and what came back.
        words: String,
    },
    /// It was not tried: what it needs is missing.
    NotTried {
        /// What is missing.
        why: String,
    },
}

impl Unseen {
    /// How to mend it, where it tells nothing of what was to be looked at: then the check's own words would
    /// be wrong.
    fn mend(&self) -> Option<&'static str> {
        let Self::Failed { words } = self else { return None };
        if words.contains("it answered 403") {
            Some("give whoever checks the right that is named, or name another with --kubeconfig")
        } else if words.contains("it answered 401") {
            Some("the credentials are not accepted: name others with --kubeconfig")
        } else {
            None
        }
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTime { limit } => {
                write!(f, "no answer within {}", humantime::format_duration(*limit))
            }
            Self::Failed { words } => f.write_str(words),
            Self::NotTried { why } => f.write_str(why),
        }
    }
}

/// Looks at something, within a time limit.
pub async fn observe<T>(
    limit: Duration,
    looking: impl Future<Output = Result<T, String>>,
) -> Observed<T> {
    let started = Instant::now();
    let result = match timeout(limit, looking).await {
        Ok(seen) => seen.map_err(|words| Unseen::Failed { words }),
        Err(_elapsed) => Err(Unseen::OutOfTime { limit }),
    };
    Observed { result, took: started.elapsed() }
}

impl<T> Observed<T> {
    /// Something that was known without looking.
    pub const fn known(value: T) -> Self {
        Self { result: Ok(value), took: Duration::ZERO }
    }

    /// Something that was found out without waiting; or why it was not.
    pub fn of(result: Result<T, String>) -> Self {
        let result = result.map_err(|words| Unseen::Failed { words });
        Self { result, took: Duration::ZERO }
    }

    /// Something that could not be looked at.
    pub fn not_tried(why: impl Into<String>) -> Self {
        Self { result: Err(Unseen::NotTried { why: why.into() }), took: Duration::ZERO }
    }

    /// The same of what is made of what was seen.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Observed<U> {
        Observed { result: self.result.map(make), took: self.took }
    }

    /// What was seen.
    pub fn seen(&self) -> Option<&T> {
        self.result.as_ref().ok()
    }

    /// The same by reference.
    pub fn as_ref(&self) -> Observed<&T> {
        Observed { result: self.result.as_ref().map_err(Unseen::clone), took: self.took }
    }

    /// What follows from what was seen, or what is wrong with it.
    pub fn try_map<U>(self, follow: impl FnOnce(T) -> Result<U, String>) -> Observed<U> {
        let result =
            self.result.and_then(|seen| follow(seen).map_err(|words| Unseen::Failed { words }));
        Observed { result, took: self.took }
    }

    /// Judges what was seen. Out of time is a failure, and so is what failed; what was not tried is
    /// skipped.
    pub fn judge(&self, judge: impl FnOnce(&T) -> Verdict) -> Verdict {
        let verdict = match &self.result {
            Ok(value) => judge(value),
            Err(Unseen::NotTried { why }) => Verdict::skipped(why),
            Err(unseen) => {
                let verdict = Verdict::fail(unseen.to_string());
                match unseen.mend() {
                    Some(mend) => verdict.mend(mend),
                    None => verdict,
                }
            }
        };
        Verdict { took: self.took, ..verdict }
    }
}

/// A text that stays on its line and has an end.
fn one_line(text: &str) -> String {
    const MOST_CHARS: usize = 1000;
    let mut clean = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = clean.by_ref().take(MOST_CHARS).collect();
    if clean.next().is_some() {
        short.push('…');
    }
    short
}

/// Names for a message: a handful and how many more there are.
pub fn handful<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let mut names = names.into_iter();
    let shown: Vec<&str> = names.by_ref().take(SHOWN).collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_a_handful() {
        for (count, expected) in [
            (0, ""),
            (1, "n0"),
            (5, "n0, n1, n2, n3, n4"),
            (6, "n0, n1, n2, n3, n4 and 1 more"),
            (5000, "n0, n1, n2, n3, n4 and 4995 more"),
        ] {
            let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
            assert_eq!(handful(names.iter().map(String::as_str)), expected);
        }
    }

    #[test]
    fn what_was_not_seen_never_passes() {
        let judged = |unseen| {
            let observed: Observed<()> = Observed { result: Err(unseen), took: Duration::ZERO };
            let verdict = observed.judge(|()| Verdict::pass("seen"));
            (verdict.outcome, verdict.seen)
        };
        for (unseen, outcome, words) in [
            (
                Unseen::OutOfTime { limit: Duration::from_secs(10) },
                Outcome::Fail,
                "no answer within 10s",
            ),
            (Unseen::Failed { words: "a\nb".to_owned() }, Outcome::Fail, "a b"),
            (
                Unseen::NotTried { why: "no network".to_owned() },
                Outcome::Skipped,
                "not checked: no network",
            ),
        ] {
            assert_eq!(judged(unseen), (outcome, words.to_owned()));
        }
    }

    #[tokio::test]
    async fn looking_has_a_limit() {
        let limit = Duration::from_millis(20);
        let observed = observe::<()>(limit, std::future::pending()).await;
        assert_eq!(observed.result, Err(Unseen::OutOfTime { limit }));
        assert!(observed.took >= limit, "{:?}", observed.took);
    }
}
