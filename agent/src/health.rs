//! How well the inventory is known, as the report and the metrics tell it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rollcall_report::{Health, Inventory, Link, Subject};

/// Why what could not be probed: each reason once, with all its subjects.
pub fn reasons(inventory: &Inventory) -> BTreeMap<&str, Vec<Subject>> {
    let mut reasons: BTreeMap<&str, Vec<Subject>> = BTreeMap::new();
    for (subject, reason) in inventory.failures() {
        reasons.entry(reason).or_default().push(subject);
    }
    reasons
}

/// Subjects in one line.
pub fn list(subjects: &[Subject]) -> String {
    subjects.iter().map(|subject| subject.as_str()).collect::<Vec<_>>().join(", ")
}

/// Remembers since when each subject fails.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    failing_since: BTreeMap<Subject, u64>,
}

impl Watch {
    /// Takes note of an inventory, and says how well it is known.
    pub fn note(&mut self, inventory: &Inventory, now: SystemTime) -> Health {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.failing_since = inventory
            .failures()
            .into_iter()
            .map(|(subject, _)| (subject, *self.failing_since.get(&subject).unwrap_or(&now)))
            .collect();
        let gpus = inventory.gpus.known();
        let nics = inventory.nics.known().into_iter().flatten();
        Health {
            failing_since: self.failing_since.clone(),
            lost_gpus: gpus.map(|gpus| gpus.lost.clone()).unwrap_or_default(),
            unknown_speeds: nics
                .filter(|nic| nic.link != Link::Down && nic.speed_mbps.known().is_none())
                .map(|nic| nic.name.clone())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollcall_report::{Gpus, Nic, NicKind, Reading};

    use super::*;

    fn inventory() -> Inventory {
        let nic = |name: &str, link, speed_mbps| Nic {
            name: name.into(),
            kind: NicKind::Ethernet,
            link,
            speed_mbps,
            driver: None,
        };
        Inventory {
            machine: Reading::Absent,
            cpu: Reading::failed("no CPU").into(),
            memory: Reading::Absent,
            swap: Reading::Absent,
            disks: Reading::Absent.into(),
            nics: Reading::Known(vec![
                nic("up", Link::Up, Reading::Known(10)),
                nic("quiet", Link::Up, Reading::Absent),
                nic("broken", Link::Unknown, Reading::failed("EIO")),
                nic("down", Link::Down, Reading::Absent),
            ])
            .into(),
            gpus: Reading::Known(Gpus {
                nvidia_pci_devices: Reading::Known(2),
                lost: vec!["0000:17:00.0".into()],
                passed_through: 0,
                nvidia_unasked: Vec::new(),
                nvidia_driver: Reading::Absent,
                amd: Reading::Absent,
                unmeasured: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_failure_keeps_the_time_of_its_beginning() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        let mut inventory = inventory();
        let since = |health: Health| health.failing_since.get(&Subject::Cpu).copied();
        assert_eq!(since(watch.note(&inventory, at(100))), Some(100));
        assert_eq!(since(watch.note(&inventory, at(200))), Some(100));
        inventory.cpu = Reading::Absent.into();
        assert_eq!(since(watch.note(&inventory, at(300))), None);
        inventory.cpu = Reading::failed("no CPU").into();
        assert_eq!(since(watch.note(&inventory, at(400))), Some(400), "it began anew");
    }

    #[test]
    fn what_is_lost_and_what_is_not_known() {
        let health = Watch::default().note(&inventory(), SystemTime::UNIX_EPOCH);
        assert_eq!(health.lost_gpus, ["0000:17:00.0"]);
        assert_eq!(health.unknown_speeds, ["quiet", "broken"]);
    }
}
