//! What can be wrong with a machine, as its agent reports it.

use clap::ValueEnum;
use rollcall_report::{GpuFailure, Health, Link, NodeReport, Reading, Subject};

use super::kind::known;

/// Something that is wrong with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Trouble {
    /// A GPU has fallen off the bus.
    LostGpu,
    /// The disks cannot be read any more; what was known of them stands.
    FailingProbe,
    /// NVIDIA's driver as a whole does not answer any more.
    FailingDriver,
    /// A network interface that is up tells no speed.
    UnknownSpeed,
    /// Half of the memory is gone since the last boot.
    ChangedHardware,
    /// The memory could never be read, so that the node is not in the document.
    Incomplete,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LostGpu,
        Self::FailingProbe,
        Self::FailingDriver,
        Self::UnknownSpeed,
        Self::ChangedHardware,
        Self::Incomplete,
    ];

    /// The name in lists and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LostGpu => "lost-gpu",
            Self::FailingProbe => "failing-probe",
            Self::FailingDriver => "failing-driver",
            Self::UnknownSpeed => "unknown-speed",
            Self::ChangedHardware => "changed-hardware",
            Self::Incomplete => "incomplete",
        }
    }

    /// Whether the machine was seen sound before.
    pub(super) const fn has_a_before(self) -> bool {
        match self {
            Self::LostGpu | Self::FailingProbe | Self::FailingDriver | Self::ChangedHardware => {
                true
            }
            Self::UnknownSpeed | Self::Incomplete => false,
        }
    }

    /// Makes a sound machine's report one in this trouble, that began at `since`, in seconds since the
    /// epoch. `false`: such a machine cannot be in it, and the report may be half changed.
    pub(super) fn befall(self, report: &mut NodeReport, since: u64) -> bool {
        self.strike(report, since).is_some()
    }

    fn strike(self, report: &mut NodeReport, since: u64) -> Option<()> {
        let inventory = &mut report.inventory;
        let health = report.health.get_or_insert_with(Health::default);
        let failing = match self {
            Self::LostGpu => {
                let gpus = known(&mut inventory.gpus)?;
                let driver = known(&mut gpus.nvidia_driver)?;
                let at = driver.gpus.len().checked_sub(1)? / 2;
                let lost = driver.gpus.remove(at);
                driver.failures.push(GpuFailure {
                    index: lost.index,
                    reason: format!(
                        "GPU {}: the GPU has fallen off the bus: look for \"Xid 79\" in the kernel's log, reboot, and have the GPU looked at if it happens again (NVML code 15)",
                        lost.index
                    ),
                });
                let address = lost.pci_address?;
                health.lost_gpus.push(address.to_string());
                gpus.lost.push(address.to_string());
                Some(Subject::Gpus)
            }
            Self::FailingProbe => {
                let first = inventory.disks.known()?.first()?;
                let reason = format!(
                    "/sys/block/{}/size cannot be read: Input/output error (os error 5)",
                    first.name
                );
                inventory.fail(Subject::Disks, &reason);
                Some(Subject::Disks)
            }
            Self::FailingDriver => {
                let gpus = known(&mut inventory.gpus)?;
                known(&mut gpus.nvidia_driver)?;
                gpus.nvidia_driver = Reading::failed(
                    "NVML cannot be initialized: the driver and its library are of different versions: reboot, or load the new driver (NVML code 18)",
                );
                Some(Subject::Gpus)
            }
            Self::UnknownSpeed => {
                let up = known(&mut inventory.nics)?.iter_mut().find(|nic| nic.link == Link::Up)?;
                up.speed_mbps = Reading::absent();
                health.unknown_speeds.push(up.name.clone());
                None
            }
            Self::ChangedHardware => {
                let machine = known(&mut inventory.machine)?;
                // The same machine, booted again: the first digit of a boot's id is as good as any.
                let boot = machine.boot_id.as_mut()?;
                let first = if boot.starts_with('0') { "1" } else { "0" };
                *boot = format!("{first}{}", boot.get(1..)?).into();
                let memory = known(&mut inventory.memory)?;
                memory.total_bytes /= 2;
                if let Some(installed) = known(&mut memory.installed_bytes) {
                    *installed /= 2;
                }
                None
            }
            Self::Incomplete => {
                inventory.fail(Subject::Memory, "/proc/meminfo has no line \"MemTotal\"");
                Some(Subject::Memory)
            }
        };
        if let Some(subject) = failing {
            health.failing_since.insert(subject, since);
        }
        Some(())
    }
}
