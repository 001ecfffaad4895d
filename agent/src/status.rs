//! What the agent is doing, in one line for the service manager: `systemctl status` shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use rollcall_report::{Inventory, NodeId, NodeName, Subject, clean_text};

use crate::health;

/// How the agent is doing.
#[derive(Debug, Clone)]
pub struct Status {
    node: NodeName,
    /// As which the aggregator accepted the node.
    node_id: Option<NodeId>,
    reports: Reports,
    /// Why what could not be probed, as of the last probe.
    failures: BTreeMap<String, Vec<Subject>>,
}

/// What has become of the reports.
#[derive(Debug, Clone)]
enum Reports {
    /// None was answered yet.
    Begun,
    /// The last one was accepted.
    Accepted { at: SystemTime },
    /// None was for a while.
    NotAccepted { since: SystemTime, why: String },
}

impl Status {
    /// Before the first report.
    pub const fn new(node: NodeName) -> Self {
        Self { node, node_id: None, reports: Reports::Begun, failures: BTreeMap::new() }
    }

    /// Notes what a probe has found.
    pub fn probed(&mut self, inventory: &Inventory) {
        let reasons = health::reasons(inventory).into_iter();
        self.failures = reasons.map(|(reason, subjects)| (clean_text(reason), subjects)).collect();
    }

    /// Notes that a report was accepted.
    pub fn accepted(&mut self, node_id: &NodeId, at: SystemTime) {
        self.node_id = Some(node_id.clone());
        self.reports = Reports::Accepted { at };
    }

    /// Notes that a report was not accepted.
    pub fn not_accepted(&mut self, why: &str, now: SystemTime) {
        let since = match self.reports {
            Reports::NotAccepted { since, .. } => since,
            Reports::Begun | Reports::Accepted { .. } => now,
        };
        self.reports = Reports::NotAccepted { since, why: clean_text(why) };
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.node)?;
        if let Some(node_id) = &self.node_id {
            write!(f, " as {node_id}")?;
        }
        match &self.reports {
            Reports::Begun => f.write_str(": the first report is under way")?,
            Reports::Accepted { at } => {
                write!(f, ": last report accepted at {}", format_rfc3339_seconds(*at))?;
            }
            Reports::NotAccepted { since, why } => {
                let since = format_rfc3339_seconds(*since);
                write!(f, ": report not accepted since {since}: {why}")?;
            }
        }
        for (reason, subjects) in &self.failures {
            write!(f, "; probe of {} failed: {reason}", health::list(subjects))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_report::{Gpus, Reading};

    use super::*;

    fn inventory(cpu: Reading<rollcall_report::Cpu>, driver: Option<&str>) -> Inventory {
        let unknown = || driver.map_or(Reading::Absent, Reading::failed);
        Inventory {
            machine: Reading::Absent,
            cpu: cpu.into(),
            memory: Reading::Absent,
            swap: Reading::Absent,
            disks: Reading::Absent.into(),
            nics: Reading::Absent.into(),
            gpus: Reading::Known(Gpus {
                nvidia_pci_devices: Reading::Absent,
                lost: Vec::new(),
                passed_through: 0,
                nvidia_unasked: Vec::new(),
                nvidia_driver: unknown(),
                amd: Reading::Absent,
                unmeasured: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_line_that_says_it_all() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut status = Status::new("n1".parse().expect("a name"));
        assert_eq!(status.to_string(), "node n1: the first report is under way");
        status.not_accepted("no answer", at(60));
        status.not_accepted("refused:\nno", at(120));
        assert_eq!(
            status.to_string(),
            "node n1: report not accepted since 1970-01-01T00:01:00Z: refused: no"
        );
        status.accepted(&"id-1".parse().expect("an id"), at(180));
        let accepted = "node n1 as id-1: last report accepted at 1970-01-01T00:03:00Z";
        assert_eq!(status.to_string(), accepted);
        for (why, cpu, driver, rest) in [
            ("all is known", Reading::Absent, None, ""),
            ("a subject", Reading::Absent, Some("hangs"), "; probe of gpus failed: hangs"),
            (
                "one reason",
                Reading::failed("hangs"),
                Some("hangs"),
                "; probe of cpu, gpus failed: hangs",
            ),
            (
                "two reasons",
                Reading::failed("odd"),
                Some("hangs"),
                "; probe of gpus failed: hangs; probe of cpu failed: odd",
            ),
        ] {
            status.probed(&inventory(cpu, driver));
            assert_eq!(status.to_string(), format!("{accepted}{rest}"), "{why}");
        }
        status.probed(&inventory(Reading::Absent, None));
        status.not_accepted("no answer", at(240));
        assert_eq!(
            status.to_string(),
            "node n1 as id-1: report not accepted since 1970-01-01T00:04:00Z: no answer"
        );
    }
}
