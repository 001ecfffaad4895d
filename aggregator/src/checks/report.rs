//! How checks came out, for people and for programs.

use std::fmt::Write as _;

use rollcall_daemon::table::{BAD, FAINT, GOOD, HEAD, NOTABLE, painted};
use serde::Serialize;

use super::{Check, Group, Outcome, Verdict, handful};

/// How all checks of a target came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The target's name.
    pub target: String,
    /// The checks.
    pub groups: Vec<GroupReport>,
    /// How many failed.
    pub failed: usize,
    /// How many somebody should look at.
    pub warned: usize,
    /// How many were not looked at.
    pub skipped: usize,
}

/// How the checks of a group came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupReport {
    /// The group's name.
    pub name: &'static str,
    /// Its checks.
    pub checks: Vec<CheckReport>,
}

/// How a check came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What should be so.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// Why it matters.
    pub why: &'static str,
    /// How to mend it.
    pub mend: String,
    /// Its page in the documentation.
    pub page: &'static str,
    /// How long it took to see it, in milliseconds.
    pub took_ms: u128,
}

/// Judges what was collected, group by group.
pub fn judge<F>(groups: &'static [Group<F>], facts: &F) -> Vec<GroupReport> {
    let judged = |check: &'static Check<F>| CheckReport::new(check, (check.judge)(facts));
    let group = |group: &'static Group<F>| GroupReport {
        name: group.name,
        checks: group.checks.iter().map(judged).collect(),
    };
    groups.iter().map(group).collect()
}

impl CheckReport {
    fn new<F>(check: &Check<F>, verdict: Verdict) -> Self {
        Self {
            name: check.name,
            outcome: verdict.outcome,
            seen: verdict.seen,
            why: check.why,
            mend: verdict.mend.unwrap_or_else(|| check.mend.to_owned()),
            page: check.page,
            took_ms: verdict.took.as_millis(),
        }
    }
}

impl Report {
    /// Counts how the checks came out.
    pub fn new(target: String, mut groups: Vec<GroupReport>) -> Self {
        for check in groups.iter_mut().flat_map(|group| &mut group.checks) {
            check.mend = check.mend.replace("TARGET", &target);
        }
        let count = |outcome| {
            let checks = groups.iter().flat_map(|group| &group.checks);
            checks.filter(|check| check.outcome == outcome).count()
        };
        let (failed, warned) = (count(Outcome::Fail), count(Outcome::Warn));
        let skipped = count(Outcome::Skipped);
        Self { target, groups, failed, warned, skipped }
    }

    /// For people, in the form that they know from `linkerd check`, with escape codes for styles.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for group in &self.groups {
            let line = "-".repeat(group.name.chars().count());
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "{}\n{line}", painted(HEAD, group.name));
            let is_same = |one: &CheckReport, other: &CheckReport| {
                let is_skipped = |it: &CheckReport| it.outcome == Outcome::Skipped;
                is_skipped(one) && is_skipped(other) && one.seen == other.seen
            };
            // What is not looked at for one cause is told once.
            for alike in group.checks.chunk_by(is_same) {
                match alike {
                    [first, _, _, _, ..] => {
                        let names = handful(alike.iter().map(|check| check.name));
                        let mark = mark(first.outcome);
                        let _ = writeln!(text, "{mark} {names}\n    {}", first.seen);
                    }
                    few => few.iter().for_each(|check| check.append(&mut text)),
                }
            }
            text.push('\n');
        }
        let checks: usize = self.groups.iter().map(|group| group.checks.len()).sum();
        let passed = checks - self.failed - self.warned - self.skipped;
        let mark = mark(if self.failed == 0 { Outcome::Pass } else { Outcome::Fail });
        let _ = write!(
            text,
            "Status check results are {mark} ({passed} passed, {} warned, {} failed, {} not checked)",
            self.warned, self.failed, self.skipped
        );
        text
    }
}

impl CheckReport {
    fn append(&self, text: &mut String) {
        let mark = mark(self.outcome);
        match self.outcome {
            Outcome::Pass => {
                let _ = writeln!(text, "{mark} {}: {}", self.name, self.seen);
            }
            Outcome::Skipped => {
                let _ = writeln!(text, "{mark} {}\n    {}", self.name, self.seen);
            }
            Outcome::Warn | Outcome::Fail => {
                let _ = writeln!(
                    text,
                    "{mark} {}\n    {}\n    {}\n    see {}",
                    self.name, self.seen, self.mend, self.page
                );
            }
        }
    }
}

fn mark(outcome: Outcome) -> String {
    match outcome {
        Outcome::Pass => painted(GOOD, "√"),
        Outcome::Warn => painted(NOTABLE, "‼"),
        Outcome::Fail => painted(BAD, "×"),
        Outcome::Skipped => painted(FAINT, "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn check(name: &'static str, judge: fn(&()) -> Verdict) -> Check<()> {
        Check { name, why: "why", mend: "mend it", page: "docs/checks.md#here", judge }
    }

    static GROUPS: &[Group<()>] = &[
        Group {
            name: "one",
            checks: &[
                check("a passes", |()| Verdict::pass("as it should be")),
                check("b warns", |()| Verdict::warn("odd").mend("mend b")),
            ],
        },
        Group {
            name: "two",
            checks: &[
                check("c fails", |()| Verdict::fail("broken")),
                check("d waits", |()| Verdict::skipped("c failed")),
            ],
        },
    ];

    #[test]
    fn for_people() {
        let report = Report::new("aios".to_owned(), judge(GROUPS, &()));
        assert_eq!(
            anstream::adapter::strip_str(&report.text()).to_string(),
            "one\n---\n\
             √ a passes: as it should be\n\
             ‼ b warns\n    odd\n    mend b\n    see docs/checks.md#here\n\n\
             two\n---\n\
             × c fails\n    broken\n    mend it\n    see docs/checks.md#here\n\
             - d waits\n    not checked: c failed\n\n\
             Status check results are × (1 passed, 1 warned, 1 failed, 1 not checked)"
        );
    }

    #[test]
    fn the_marks_have_colours() {
        let text = Report::new("aios".to_owned(), judge(GROUPS, &())).text();
        for (what, line) in [
            ("a group", "\u{1b}[1mone\u{1b}[0m\n---\n"),
            ("pass", "\u{1b}[32m√\u{1b}[0m a passes: as it should be\n"),
            ("warn", "\u{1b}[33m‼\u{1b}[0m b warns\n"),
            ("fail", "\u{1b}[31m×\u{1b}[0m c fails\n"),
            ("skipped", "\u{1b}[2m-\u{1b}[0m d waits\n"),
            ("in all", "results are \u{1b}[31m×\u{1b}[0m (1 passed"),
        ] {
            assert!(text.contains(line), "{what}: {text:?}");
        }
    }

    #[test]
    fn for_programs() {
        let report = Report::new("aios".to_owned(), judge(GROUPS, &()));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json.pointer("/failed"), Some(&1.into()));
        assert_eq!(json.pointer("/warned"), Some(&1.into()));
        let expected = serde_json::json!({
            "name": "b warns", "outcome": "warn", "seen": "odd", "why": "why", "mend": "mend b",
            "page": "docs/checks.md#here", "tookMs": 0,
        });
        assert_eq!(json.pointer("/groups/0/checks/1"), Some(&expected));
    }
}
