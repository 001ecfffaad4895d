//! Shows what an inventory was made of: a table a subject for people, JSON for programs.

use comfy_table::{Table, presets};
use rollcall_report::{NodeName, Subject};
use serde::Serialize;

use crate::finding::{Explanation, Finding, Rule, Verdict};

/// An explanation as programs get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationView<'a> {
    /// The agent's version.
    pub agent_version: &'static str,
    /// The node.
    pub node: &'a NodeName,
    /// Everything that was looked at, by subject.
    pub subjects: &'a Explanation,
}

/// Tables, and under each the rules that decided and what to do about what is not known.
pub fn tables(explanation: &Explanation) -> String {
    let subjects = explanation.iter().map(|(subject, findings)| section(*subject, findings));
    subjects.collect::<Vec<_>>().join("\n\n")
}

fn section(subject: Subject, findings: &[Finding]) -> String {
    let mut lines = vec![format!("{}: {}", subject.to_string().to_uppercase(), summary(findings))];
    if !findings.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["  CANDIDATE", "VERDICT", "RULE", "VALUE", "SOURCE"]);
        for finding in findings {
            table.add_row([
                &format!("  {}", finding.candidate),
                finding.verdict.as_str(),
                finding.rule.name,
                &shortened(&finding.value),
                &finding.source,
            ]);
        }
        // The style pads the first column, too.
        lines.extend(
            table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()),
        );
    }
    let mut told: Vec<Rule> = Vec::new();
    for finding in findings {
        if !told.contains(&finding.rule) {
            told.push(finding.rule);
        }
    }
    lines.extend(told.iter().map(|rule| format!("  {}: {}", rule.name, rule.why)));
    for finding in findings {
        if shortened(&finding.value) != finding.value {
            lines.push(format!("  ! {}: {}", finding.candidate, finding.value));
        }
        // A reason that says what to do, says it once.
        if let Some(advice) = finding.advice.filter(|advice| !finding.value.contains(advice)) {
            lines.push(format!("  ! {}: {advice}", finding.candidate));
        }
    }
    lines.join("\n")
}

/// A value as the table has room for it; a longer one stands below.
fn shortened(value: &str) -> String {
    const ROOM: usize = 48;
    let mut short: String = value.chars().take(ROOM).collect();
    if value.chars().nth(ROOM).is_some() {
        short.push('…');
    }
    short
}

/// How many candidates were judged how.
fn summary(findings: &[Finding]) -> String {
    let counts = Verdict::ALL.into_iter().filter_map(|verdict| {
        let count = findings.iter().filter(|finding| finding.verdict == verdict).count();
        (count > 0).then(|| format!("{count} {}", verdict.as_str()))
    });
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() { "nothing to look at".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Rule = Rule::new("disk", "a disk");
    const VIRTUAL: Rule = Rule::new("virtual", "made of others");

    #[test]
    fn a_section_tells_candidates_rules_and_advice() {
        let findings = [
            Finding::new(Verdict::Counted, DISK, "sda")
                .value("20 MiB")
                .source("/sys/block/sda/size"),
            Finding::new(Verdict::PassedOver, VIRTUAL, "loop0"),
            Finding::new(Verdict::Unknown, DISK, "sdb").advice("look at it"),
            Finding::new(Verdict::Failed, DISK, "sdc")
                .value(format!("{}: try again", "x".repeat(60)))
                .advice("try again"),
        ];
        let explanation =
            Explanation::from([(Subject::Disks, findings.to_vec()), (Subject::Gpus, Vec::new())]);
        let (short, long) = ("x".repeat(48), "x".repeat(60));
        let blanks = " ".repeat(43);
        let expected = format!(
            "DISKS: 1 counted, 1 unknown, 1 passed over, 1 failed\n\
             \u{20} CANDIDATE  VERDICT      RULE     VALUE{blanks}   SOURCE\n\
             \u{20} sda        counted      disk     20 MiB{blanks}  /sys/block/sda/size\n\
             \u{20} loop0      passed over  virtual\n\
             \u{20} sdb        unknown      disk\n\
             \u{20} sdc        failed       disk     {short}…\n\
             \u{20} disk: a disk\n\
             \u{20} virtual: made of others\n\
             \u{20} ! sdb: look at it\n\
             \u{20} ! sdc: {long}: try again\n\
             \n\
             GPUS: nothing to look at"
        );
        assert_eq!(tables(&explanation), expected);
    }
}
