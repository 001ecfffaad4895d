//! What a probe looked at and how it judged it. Reports carry counts of what was passed over;
//! `rollcall-agent explain` shows every finding.

use std::collections::BTreeMap;

use rollcall_report::{PassedOver, Reading, Subject, clean_text, error_chain};
use serde::Serialize;

/// A rule of counting. Each stands beside the code that applies it, and in `docs/counting.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name; one of its kind in its subject.
    #[serde(rename = "rule")]
    pub name: &'static str,
    /// What it says of whatever it holds for.
    pub why: &'static str,
}

impl Rule {
    /// Names a rule.
    pub const fn new(name: &'static str, why: &'static str) -> Self {
        Self { name, why }
    }
}

/// How a candidate was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It is part of the number in the document.
    Counted,
    /// It is a value of something that counts.
    Measured,
    /// It counts, and a value of it is not known.
    Unknown,
    /// It is reported, and is no part of the number in the document.
    Apart,
    /// It is not what is counted.
    PassedOver,
    /// It could not be read, so that the number is not known.
    Failed,
}

impl Verdict {
    /// All verdicts, in the order in which they are summed up.
    pub const ALL: [Self; 6] =
        [Self::Counted, Self::Measured, Self::Unknown, Self::Apart, Self::PassedOver, Self::Failed];

    /// The verdict in a word or two.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Measured => "measured",
            Self::Unknown => "unknown",
            Self::Apart => "apart",
            Self::PassedOver => "passed over",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What it is called: a device's name, an address, what a line is of.
    pub candidate: String,
    /// How it was judged.
    pub verdict: Verdict,
    /// The rule that decided.
    #[serde(flatten)]
    pub rule: Rule,
    /// What was read, in the document's unit, or why nothing was.
    pub value: String,
    /// The file or the call that told it.
    pub source: String,
    /// How to make a number of what is unknown or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

impl Finding {
    /// A candidate with its verdict; the value, the source and the advice are added.
    pub fn new(verdict: Verdict, rule: Rule, candidate: &str) -> Self {
        Self {
            candidate: clean_text(candidate),
            verdict,
            rule,
            value: String::new(),
            source: String::new(),
            advice: None,
        }
    }

    /// What was read.
    #[must_use]
    pub fn value(self, value: impl Into<String>) -> Self {
        Self { value: clean_text(&value.into()), ..self }
    }

    /// What told it.
    #[must_use]
    pub fn source(self, source: impl Into<String>) -> Self {
        Self { source: clean_text(&source.into()), ..self }
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(self, advice: &'static str) -> Self {
        Self { advice: Some(advice), ..self }
    }
}

/// A probe's result: what it found out, and from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed<T> {
    /// What is reported.
    pub reading: T,
    /// What it was made of, in the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl<T> Probed<Reading<T>> {
    /// A subject that failed as a whole.
    pub fn failed(candidate: &str, rule: Rule, error: &dyn std::error::Error) -> Self {
        let reason = error_chain(error);
        let finding = Finding::new(Verdict::Failed, rule, candidate).value(&reason);
        Self { reading: Reading::failed(&reason), findings: vec![finding] }
    }
}

/// The findings of every subject.
pub type Explanation = BTreeMap<Subject, Vec<Finding>>;

/// How many examples a report names for a rule.
const EXAMPLES: usize = 3;

/// Counts what was passed over, by rule, with the first few names.
pub fn passed_over(explanation: &Explanation) -> Vec<PassedOver> {
    let mut counts: Vec<PassedOver> = Vec::new();
    for (&subject, findings) in explanation {
        for finding in findings.iter().filter(|it| it.verdict == Verdict::PassedOver) {
            let known =
                |it: &&mut PassedOver| it.subject == subject && it.rule == finding.rule.name;
            if let Some(entry) = counts.iter_mut().find(known) {
                entry.count = entry.count.saturating_add(1);
                if entry.examples.len() < EXAMPLES {
                    entry.examples.push(finding.candidate.clone());
                }
            } else {
                counts.push(PassedOver {
                    subject,
                    rule: finding.rule.name.to_owned(),
                    count: 1,
                    examples: vec![finding.candidate.clone()],
                });
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIRTUAL: Rule = Rule::new("virtual", "made of others");
    const OPTICAL: Rule = Rule::new("optical", "an optical drive");

    #[test]
    fn what_was_passed_over_is_counted_by_rule() {
        let finding = |verdict, rule, name: &str| Finding::new(verdict, rule, name);
        let mut disks: Vec<Finding> = (0..5)
            .map(|number| finding(Verdict::PassedOver, VIRTUAL, &format!("loop{number}")))
            .collect();
        disks.insert(2, finding(Verdict::PassedOver, OPTICAL, "sr0"));
        disks.push(finding(Verdict::Counted, VIRTUAL, "sda"));
        let nics = vec![finding(Verdict::PassedOver, VIRTUAL, "lo")];
        let counts =
            passed_over(&Explanation::from([(Subject::Disks, disks), (Subject::Nics, nics)]));
        let found: Vec<(Subject, &str, u32, Vec<&str>)> = counts
            .iter()
            .map(|it| {
                let examples = it.examples.iter().map(String::as_str).collect();
                (it.subject, it.rule.as_str(), it.count, examples)
            })
            .collect();
        assert_eq!(
            found,
            [
                (Subject::Disks, "virtual", 5, vec!["loop0", "loop1", "loop2"]),
                (Subject::Disks, "optical", 1, vec!["sr0"]),
                (Subject::Nics, "virtual", 1, vec!["lo"]),
            ]
        );
    }
}
