//! The kinds of machines that a fleet is made of.

use std::fs;
use std::path::Path;

use fastrand::Rng;
use rollcall_report::{Cpu, Gpu, Inventory, NodeReport, Reading};

use super::FleetError;

const GIB: u64 = 1 << 30;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A server with eight H100 and InfiniBand.
    H100,
    /// A server with four A100.
    A100,
    /// A server with eight Instinct MI300X.
    Mi300x,
    /// A server with four L40S.
    L40s,
    /// A server without GPUs.
    Server,
    /// A small virtual machine.
    SmallVm,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::H100, Self::A100, Self::Mi300x, Self::L40s, Self::Server, Self::SmallVm];

    /// One of them, as often as clusters have them.
    pub(super) fn any(rng: &mut Rng) -> Self {
        match rng.u32(0..100) {
            0..25 => Self::H100,
            25..35 => Self::A100,
            35..45 => Self::Mi300x,
            45..55 => Self::L40s,
            55..80 => Self::Server,
            _ => Self::SmallVm,
        }
    }

    /// The kind's name in lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::H100 => "h100",
            Self::A100 => "a100",
            Self::Mi300x => "mi300x",
            Self::L40s => "l40s",
            Self::Server => "server",
            Self::SmallVm => "small-vm",
        }
    }

    /// What the machine of such a number is called: by rack and place, by a running number, by its
    /// domain, or by its address.
    pub(super) fn name(self, number: usize) -> String {
        let nth = number + 1;
        match self {
            Self::H100 => format!("dgx-r{:02}-u{:02}", number / 4 + 1, number % 4 * 8 + 4),
            Self::A100 => format!("gpu-a100-{nth:03}"),
            Self::Mi300x => {
                format!("mi300x-{:02}.pod{}.cluster.example.net", number % 16 + 1, number / 16 + 1)
            }
            Self::L40s => format!("render-{nth:03}"),
            Self::Server => format!("worker-{nth:04}"),
            Self::SmallVm => {
                format!(
                    "ip-10-{}-{}-{}.internal",
                    16 + number / 40_000,
                    number / 200 % 200,
                    number % 200 + 4
                )
            }
        }
    }

    /// The saved machine that it is made from.
    const fn host(self) -> &'static str {
        match self {
            Self::H100 => "gpu-server-8-infiniband",
            Self::A100 => "nvidia-mig-display",
            Self::Mi300x => "amd-mi300x",
            Self::L40s => "nvidia-passthrough-lost",
            Self::Server => "nvme-native-multipath",
            Self::SmallVm => "cloud-accelerated-networking",
        }
    }

    /// A sound machine of its kind.
    pub(super) fn saved(self) -> Result<NodeReport, FleetError> {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts");
        let path = hosts.join(self.host()).join("report.json");
        let read = || -> Result<NodeReport, Box<dyn std::error::Error + Send + Sync>> {
            let mut report: NodeReport = serde_json::from_str(&fs::read_to_string(&path)?)?;
            self.make_whole(&mut report.inventory).ok_or("it lacks what its kind is made of")?;
            report.health = None;
            Ok(report)
        };
        read().map_err(|source| FleetError::Saved { path, source })
    }

    /// Gives a saved machine, made small and with faults, the numbers of a whole and sound one; `None`:
    /// it lacks what these are set on.
    fn make_whole(self, inventory: &mut Inventory) -> Option<()> {
        let cpu = known(&mut inventory.cpu)?;
        match self {
            Self::H100 => set_cpus(cpu, 2, 112, 224),
            Self::A100 | Self::Mi300x => set_cpus(cpu, 2, 128, 256),
            Self::L40s => set_cpus(cpu, 2, 64, 128),
            Self::Server => {
                set_cpus(cpu, 2, 64, 128);
                cpu.model = Some("AMD EPYC 9354 32-Core Processor".to_owned());
                let memory = known(&mut inventory.memory)?;
                memory.installed_bytes = Reading::Known(768 * GIB);
                memory.total_bytes = 755 * GIB;
            }
            Self::SmallVm => {}
        }
        let gpus = known(&mut inventory.gpus)?;
        match self {
            Self::H100 | Self::Server | Self::SmallVm => {}
            Self::A100 => {
                let driver = known(&mut gpus.nvidia_driver)?;
                let whole = driver.gpus.iter().find(|gpu| gpu.mig.is_none())?.clone();
                for (gpu, index) in driver.gpus.iter_mut().zip(0..) {
                    *gpu = Gpu { index, pci_address: gpu.pci_address.take(), ..whole.clone() };
                }
            }
            Self::L40s => {
                gpus.lost.clear();
                gpus.passed_through = 0;
                gpus.nvidia_pci_devices = Reading::Known(4);
                let driver = known(&mut gpus.nvidia_driver)?;
                driver.failures.clear();
                let a40 = driver.gpus.first()?.clone();
                let addresses = ["0000:17:00.0", "0000:65:00.0", "0000:ca:00.0", "0000:e3:00.0"];
                let l40s = |(index, address): (u32, &str)| Gpu {
                    index,
                    model: "NVIDIA L40S".into(),
                    compute_capability: "8.9".to_owned().try_into().ok(),
                    pci_address: Some(address.into()),
                    ..a40.clone()
                };
                driver.gpus = (0..).zip(addresses).map(l40s).collect();
            }
            Self::Mi300x => {
                // The eighth is handed on to a virtual machine in the saved one.
                gpus.passed_through = 0;
                let amd = known(&mut gpus.amd)?;
                let mut eighth = amd.first()?.clone();
                eighth.pci_address = "0000:f5:00.0".into();
                amd.push(eighth);
            }
        }
        Some(())
    }

    /// What differs between the machines of a kind, besides their ids: virtual machines come in sizes.
    pub(super) fn vary(self, inventory: &mut Inventory, rng: &mut Rng) {
        let size = rng.choice([1, 1, 2, 4]).unwrap_or(1);
        if self == Self::SmallVm
            && let (Some(cpu), Some(memory)) =
                (known(&mut inventory.cpu), known(&mut inventory.memory))
        {
            set_cpus(cpu, 1, size, 2 * size);
            memory.total_bytes *= u64::from(size);
            if let Some(installed) = known(&mut memory.installed_bytes) {
                *installed *= u64::from(size);
            }
        }
    }
}

fn set_cpus(cpu: &mut Cpu, sockets: u32, cores: u32, online: u32) {
    cpu.sockets = Some(sockets);
    cpu.numa_nodes = Some(sockets);
    cpu.cores = Some(cores);
    cpu.online = online;
}

/// The value of a reading, to be changed in place.
pub(super) fn known<T>(reading: &mut Reading<T>) -> Option<&mut T> {
    match reading {
        Reading::Known(value) => Some(value),
        Reading::Absent | Reading::Failed { .. } => None,
    }
}
