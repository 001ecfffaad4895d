//! Shows what an inventory was made of: a table a subject for people, JSON for programs.

use rollcall_daemon::table::{Cell, Column, Table};
use rollcall_report::{Attachment, Inventory, Link, NodeName, Reading, Subject};
use serde::Serialize;

use crate::finding::{Explanation, Finding, Rule, Verdict};
use crate::probe::{MIB, mib};

/// An explanation as programs get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationView<'a> {
    /// The agent's version.
    pub agent_version: &'static str,
    /// The node.
    pub node: &'a NodeName,
    /// What is reported.
    pub inventory: &'a Inventory,
    /// Everything that was looked at, by subject.
    pub subjects: &'a Explanation,
}

/// Tables, and under each the rules that decided and what to do about what is not known. The head of
/// each says what the inventory comes to.
pub fn tables(inventory: &Inventory, explanation: &Explanation) -> String {
    let subjects = explanation.iter().map(|(&subject, findings)| {
        let result = result(subject, inventory).unwrap_or_else(|| "not known".to_owned());
        section(&format!("{}: {result}", subject.to_string().to_uppercase()), findings)
    });
    subjects.collect::<Vec<_>>().join("\n\n")
}

/// What a subject comes to, as the document has it; `None` where it is not known.
fn result(subject: Subject, inventory: &Inventory) -> Option<String> {
    match subject {
        Subject::Machine => Some(inventory.machine.known()?.architecture.to_string()),
        Subject::Cpu => Some(format!("{} vCPUs", inventory.cpu.known()?.online)),
        Subject::Memory => Some(mib(inventory.memory.known()?.total_bytes)),
        Subject::Swap => Some(mib(inventory.swap.known()?.total_bytes)),
        Subject::Disks => {
            let disks = inventory.disks.known()?;
            let local = disks.iter().filter(|disk| disk.attachment == Attachment::Local);
            let sizes: Option<Vec<u64>> =
                local.map(|disk| disk.size_bytes.known().copied()).collect();
            let sizes = sizes?;
            let sum = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
            Some(format!("{} disks, {}", sizes.len(), mib(sum)))
        }
        Subject::Nics => {
            let nics = inventory.nics.known()?;
            let up = nics.iter().filter(|nic| nic.link != Link::Down);
            let speeds = up.filter_map(|nic| nic.speed_mbps.known());
            let sum = speeds.fold(0_u64, |sum, speed| sum.saturating_add(*speed));
            Some(format!("{} interfaces, {sum} Mbps", nics.len()))
        }
        Subject::Gpus => {
            let gpus = inventory.gpus.known()?;
            if gpus.failure().is_some() && gpus.nvidia_driver.known().is_none() {
                return None;
            }
            let nvidia = gpus.nvidia_driver.known().into_iter().flat_map(|driver| &driver.gpus);
            let nvidia = nvidia.map(|gpu| &gpu.memory_bytes);
            let amd = gpus.amd.known().into_iter().flatten().map(|gpu| &gpu.memory_bytes);
            let memory: Vec<&Reading<u64>> = nvidia.chain(amd).collect();
            // Rounded for each GPU, as the document is.
            let sum = memory
                .iter()
                .filter_map(|memory| memory.known())
                .fold(0_u64, |sum, bytes| sum.saturating_add(bytes / MIB));
            let unknown = if memory.iter().any(|memory| memory.failure().is_some()) {
                " and what is not known"
            } else {
                ""
            };
            Some(format!("{} GPUs, {sum} MiB{unknown}", memory.len()))
        }
    }
}

fn section(head: &str, findings: &[Finding]) -> String {
    let mut lines = vec![format!("{head} ({})", summary(findings))];
    if !findings.is_empty() {
        let titles = ["  CANDIDATE", "VERDICT", "RULE", "VALUE", "SOURCE"];
        let mut table = Table::new(titles.map(Column::new).to_vec());
        for finding in findings {
            table.row(vec![
                Cell::new(format!("  {}", finding.candidate)),
                Cell::new(finding.verdict.as_str()),
                Cell::new(finding.rule.name),
                Cell::new(shortened(&finding.value)),
                Cell::new(&finding.source),
            ]);
        }
        lines.extend(table.lay(None).lines);
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
    use rollcall_report::Disk;

    use super::*;

    const DISK: Rule = Rule::new("disk", "a disk");
    const VIRTUAL: Rule = Rule::new("virtual", "made of others");

    fn disk(name: &str, mib: u64) -> Disk {
        Disk {
            name: name.into(),
            size_bytes: Reading::Known(mib * MIB),
            attachment: Attachment::Local,
            model: None,
            rotational: None,
        }
    }

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
            "DISKS: 2 disks, 21 MiB (1 counted, 1 unknown, 1 passed over, 1 failed)\n\
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
             GPUS: not known (nothing to look at)"
        );
        let inventory = Inventory {
            machine: Reading::Absent,
            cpu: Reading::Absent.into(),
            memory: Reading::Absent,
            swap: Reading::Absent,
            disks: Reading::Known(vec![disk("sda", 20), disk("sdb", 1)]).into(),
            nics: Reading::Absent.into(),
            gpus: Reading::failed("no bus"),
        };
        assert_eq!(tables(&inventory, &explanation), expected);
    }
}
