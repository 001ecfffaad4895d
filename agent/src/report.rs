//! Makes a report of what was found.

use std::time::SystemTime;

use rollcall_report::{Agent, Health, NodeIdentity, NodeReport, SCHEMA_VERSION};

use crate::finding::{Explanation, Finding, Rule, Verdict, passed_over};
use crate::health::Watch;
use crate::probe::Survey;

/// A subject that holds a number which no machine has.
const NOT_BELIEVED: Rule = Rule::new("not-believed", "a number that no machine has");

/// Makes failed readings of what cannot be true, and says so among the findings.
pub fn without_the_impossible(survey: Survey, node: &NodeIdentity) -> Survey {
    let Survey { inventory, mut explanation } = survey;
    let before = inventory.clone();
    let survey = Survey { inventory, explanation: Explanation::new() };
    let report = build(node.clone(), survey, &mut Watch::default(), SystemTime::UNIX_EPOCH);
    for (subject, reason) in report.inventory.failures() {
        if !before.failures().contains(&(subject, reason)) {
            let finding = Finding::new(Verdict::Failed, NOT_BELIEVED, subject.as_str());
            explanation.entry(subject).or_default().push(finding.value(reason));
        }
    }
    Survey { inventory: report.inventory, explanation }
}

/// The report of one node by this agent. What cannot be true is reported as failed, so that an
/// aggregator takes the rest.
pub fn build(node: NodeIdentity, survey: Survey, watch: &mut Watch, now: SystemTime) -> NodeReport {
    let mut report = NodeReport {
        schema_version: SCHEMA_VERSION,
        agent: Agent { version: env!("CARGO_PKG_VERSION").to_owned() },
        node,
        passed_over: passed_over(&survey.explanation),
        inventory: survey.inventory,
        health: Some(Health::default()),
    };
    while let Err(problem) = report.check() {
        let Some(subject) = problem.subject() else { break };
        let before = report.inventory.clone();
        report.inventory.fail(subject, &format!("what was read cannot be true: {problem}"));
        if report.inventory == before {
            break;
        }
    }
    report.health = Some(watch.note(&report.inventory, now));
    report
}

#[cfg(test)]
mod tests {
    use rollcall_report::{Attachment, Disk, IdSource, Inventory, Reading, Subject, Swap};

    use super::*;

    #[test]
    fn what_cannot_be_true_fails_by_itself() {
        let disk = |size: u64| Disk {
            name: "sda".into(),
            size_bytes: Reading::Known(size),
            attachment: Attachment::Local,
            model: None,
            rotational: None,
        };
        let inventory = Inventory {
            machine: Reading::Absent,
            cpu: Reading::Absent,
            memory: Reading::Absent,
            swap: Reading::Known(Swap { total_bytes: u64::MAX, zram_bytes: 0 }),
            disks: Reading::Known(vec![disk(1), disk(1)]),
            nics: Reading::Known(Vec::new()),
            gpus: Reading::Absent,
        };
        let node = NodeIdentity {
            name: "n1".parse().expect("a name"),
            proposed_id: "n1".parse().expect("an id"),
            id_source: IdSource::NodeName,
            machine_hash: None,
        };
        let survey = Survey { inventory, explanation: Explanation::new() };
        let explained = without_the_impossible(survey.clone(), &node);
        let subjects: Vec<Subject> = explained.explanation.into_keys().collect();
        assert_eq!(subjects, [Subject::Swap, Subject::Disks]);
        let report = build(node, survey, &mut Watch::default(), SystemTime::UNIX_EPOCH);
        assert_eq!(report.check(), Ok(()));
        let failed: Vec<Subject> =
            report.inventory.failures().iter().map(|(subject, _)| *subject).collect();
        assert_eq!(failed, [Subject::Swap, Subject::Disks]);
        assert_eq!(report.inventory.nics, Reading::Known(Vec::new()));
        let health = report.health.expect("health");
        assert_eq!(health.failing_since.len(), 2);
    }
}
