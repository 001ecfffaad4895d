//! What a node has. One type a subject; each subject is a [`Reading`] of its own, so that one
//! failed probe never spoils the others.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Reading, Shared};

/// The whole inventory of a node, as counted by the rules in `docs/counting.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The machine as such.
    pub machine: Reading<Machine>,
    /// Processors.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<Cpu>))]
    pub cpu: Shared<Reading<Cpu>>,
    /// Main memory.
    pub memory: Reading<Memory>,
    /// Swap space.
    pub swap: Reading<Swap>,
    /// Physical disks, in the order of their names.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::Disks>))]
    pub disks: Shared<Reading<Vec<Disk>>>,
    /// Physical network interfaces, in the order of their names.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::Nics>))]
    pub nics: Shared<Reading<Vec<Nic>>>,
    /// GPUs and other accelerators.
    pub gpus: Reading<Gpus>,
}

impl Inventory {
    /// Makes a failed reading of a subject.
    pub fn fail(&mut self, subject: Subject, reason: &str) {
        match subject {
            Subject::Machine => self.machine = Reading::failed(reason),
            Subject::Cpu => self.cpu = Reading::failed(reason).into(),
            Subject::Memory => self.memory = Reading::failed(reason),
            Subject::Swap => self.swap = Reading::failed(reason),
            Subject::Disks => self.disks = Reading::failed(reason).into(),
            Subject::Nics => self.nics = Reading::failed(reason).into(),
            Subject::Gpus => self.gpus = Reading::failed(reason),
        }
    }

    /// Every subject that failed, with the reason. A failure inside a subject (one disk's size,
    /// the GPU library) counts as one of that subject.
    #[must_use]
    pub fn failures(&self) -> Vec<(Subject, &str)> {
        let disks = self
            .disks
            .failure()
            .or_else(|| self.disks.known()?.iter().find_map(|disk| disk.size_bytes.failure()));
        let nics = self
            .nics
            .failure()
            .or_else(|| self.nics.known()?.iter().find_map(|nic| nic.speed_mbps.failure()));
        let gpus = self.gpus.failure().or_else(|| self.gpus.known()?.failure());
        [
            (Subject::Machine, self.machine.failure()),
            (Subject::Cpu, self.cpu.failure()),
            (Subject::Memory, self.memory.failure()),
            (Subject::Swap, self.swap.failure()),
            (Subject::Disks, disks),
            (Subject::Nics, nics),
            (Subject::Gpus, gpus),
        ]
        .into_iter()
        .filter_map(|(subject, reason)| Some((subject, reason?)))
        .collect()
    }
}

/// A part of the inventory that is probed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// The machine as such.
    Machine,
    /// Processors.
    Cpu,
    /// Main memory.
    Memory,
    /// Swap space.
    Swap,
    /// Disks.
    Disks,
    /// Network interfaces.
    Nics,
    /// GPUs and other accelerators.
    Gpus,
}

impl Subject {
    /// All subjects, in the order of [`Inventory`]'s fields.
    pub const ALL: [Self; 7] =
        [Self::Machine, Self::Cpu, Self::Memory, Self::Swap, Self::Disks, Self::Nics, Self::Gpus];

    /// The subject's name on the wire, in metrics and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Disks => "disks",
            Self::Nics => "nics",
            Self::Gpus => "gpus",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The machine as such. What it would not tell is left out; nothing here is a capacity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The kernel's architecture, as `uname -m` says: `x86_64`, `aarch64`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub architecture: Shared<str>,
    /// `PRETTY_NAME` of os-release(5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub operating_system: Option<Shared<str>>,
    /// The kernel's release, as `uname -r` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub kernel_release: Option<Shared<str>>,
    /// When the machine was booted, in seconds since the epoch (`btime` of `/proc/stat`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::EpochSeconds>))]
    pub boot_time_seconds: Option<u64>,
    /// The kernel's name for this boot (`/proc/sys/kernel/random/boot_id`): another one after every
    /// boot. The boot time cannot stand in for it, since it moves when the clock is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub boot_id: Option<Shared<str>>,
    /// Who made the machine, as its firmware says (DMI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub vendor: Option<Shared<str>>,
    /// What its maker calls it (DMI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub product: Option<Shared<str>>,
}

/// Processors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Logical CPUs that are online; the document's vCPUs.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::CpuCount))]
    pub online: u32,
    /// Physical cores, where the topology is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::CpuCount>))]
    pub cores: Option<u32>,
    /// Processor packages, where the topology is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::CpuCount>))]
    pub sockets: Option<u32>,
    /// NUMA nodes that are online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::CpuCount>))]
    pub numa_nodes: Option<u32>,
    /// The processor's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub model: Option<String>,
    /// The processor's maker, as the processor says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub vendor: Option<String>,
}

/// Main memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What the kernel has to give out (`MemTotal`), in bytes; the document's memory.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::MemoryBytes))]
    pub total_bytes: u64,
    /// What is installed (online memory blocks, as `lsmem` says), in bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::MemoryBytes>))]
    pub installed_bytes: Reading<u64>,
}

/// Swap space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Swap {
    /// Swap partitions and files, in bytes; the document's swap.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::SwapBytes))]
    pub total_bytes: u64,
    /// Compressed memory used as swap (zram), in bytes; not part of the total.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::SwapBytes))]
    pub zram_bytes: u64,
}

/// A physical disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The kernel's name for it, for example `nvme0n1`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub name: String,
    /// Capacity in bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::DiskBytes>))]
    pub size_bytes: Reading<u64>,
    /// Whether it is in this machine or elsewhere. Only local disks count in the document.
    pub attachment: Attachment,
    /// The maker's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub model: Option<String>,
    /// Whether it spins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// Where a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Attachment {
    /// In or at this machine.
    Local,
    /// Behind a network: RBD, iSCSI, Fibre Channel, NVMe over Fabrics. Every node that sees such a
    /// disk would count it again.
    Network,
    /// Somewhere that only a newer version knows.
    #[serde(other)]
    Other,
}

/// A physical network interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// The kernel's name for it, for example `eth0`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub name: String,
    /// What it speaks.
    pub kind: NicKind,
    /// Whether its link is up.
    pub link: Link,
    /// The link's speed in Mbit/s; absent where the driver tells none, or the link is down.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::LinkMbps>))]
    pub speed_mbps: Reading<u64>,
    /// The kernel driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub driver: Option<String>,
}

/// What a network interface speaks (its `type` in sysfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NicKind {
    /// ARPHRD 1.
    Ethernet,
    /// ARPHRD 32.
    Infiniband,
    /// Something that only a newer version knows.
    #[serde(other)]
    Other,
}

/// The state of an interface's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Link {
    /// There is a carrier.
    Up,
    /// There is none, or the interface is switched off.
    Down,
    /// The driver would not tell.
    #[serde(other)]
    Unknown,
}

/// GPUs and other accelerators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Gpus {
    /// NVIDIA GPUs on the PCI bus that this host drives itself, the expected ones; absent where there
    /// is no PCI bus to look at.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::GpuCount>))]
    pub nvidia_pci_devices: Reading<u32>,
    /// PCI addresses of those that NVIDIA's driver does not answer for, while it answers as a whole:
    /// the lost ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Text>, max_items = 256))]
    pub lost: Vec<String>,
    /// GPUs of NVIDIA's and AMD's that are handed on to virtual machines (bound to vfio-pci or its
    /// like); not part of the others.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::GpuCount))]
    pub passed_through: u32,
    /// What NVIDIA's driver says. Absent: no NVIDIA GPU, so it was not asked. Failed: there are
    /// GPUs and the driver or its library does not answer.
    pub nvidia_driver: Reading<NvidiaDriver>,
    /// NVIDIA's GPUs by other witnesses, where its library does not answer here and all of them are
    /// known so: the kernel's driver has taken each (`/proc/driver/nvidia/gpus`), and
    /// gpu-feature-discovery labelled the Node with their model and memory. Nobody has asked them
    /// now, so that one may be dead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub nvidia_unasked: Vec<Gpu>,
    /// AMD's GPUs, as their kernel driver tells in sysfs, in the order of their PCI addresses; absent
    /// where there are none.
    #[serde(default = "Reading::absent", skip_serializing_if = "Reading::is_absent")]
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::AmdGpus>))]
    pub amd: Reading<Vec<AmdGpu>>,
    /// Accelerators that are there and that rollcall cannot measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub unmeasured: Vec<Accelerator>,
}

impl Gpus {
    /// What failed among the GPUs, where something did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        let nvidia = self.nvidia_driver.known();
        let amd = self.amd.known().into_iter().flatten();
        self.nvidia_pci_devices
            .failure()
            .or_else(|| self.nvidia_driver.failure())
            .or_else(|| nvidia?.failures.first().map(|failure| failure.reason.as_str()))
            .or_else(|| nvidia?.gpus.iter().find_map(|gpu| gpu.memory_bytes.failure()))
            .or_else(|| self.amd.failure())
            .or_else(|| amd.into_iter().find_map(|gpu| gpu.memory_bytes.failure()))
    }
}

/// NVIDIA's driver and the GPUs that it answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct NvidiaDriver {
    /// The driver's version, for example `580.159.04`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub version: Option<Shared<str>>,
    /// The newest CUDA version that the driver serves, for example `13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub cuda_version: Option<Shared<str>>,
    /// GPUs that answer, in the order of their index: the usable ones.
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub gpus: Vec<Gpu>,
    /// GPUs that the driver lists and that do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub failures: Vec<GpuFailure>,
}

/// A GPU that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// The driver's index.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Count))]
    pub index: u32,
    /// The maker's name for it, for example `NVIDIA H100 80GB HBM3`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub model: Shared<str>,
    /// Total memory in bytes; absent where it shares the machine's (integrated GPUs).
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::GpuMemoryBytes>))]
    pub memory_bytes: Reading<u64>,
    /// The compute capability, for example `9.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<ComputeCapability>,
    /// The GPU's own identity, for example `GPU-…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub uuid: Option<Box<str>>,
    /// Where it sits, for example `0000:17:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text>))]
    pub pci_address: Option<Shared<str>>,
    /// How many of its `NVLink` links are active; left out where the driver does not
    /// tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Count>))]
    pub active_nvlinks: Option<u32>,
    /// Its division into instances (MIG); left out where it is not divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub mig: Option<Vec<MigInstance>>,
}

/// A part of a GPU that is divided into instances (MIG). The GPU counts, with all its memory, and
/// not its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct MigInstance {
    /// The driver's name for it, for example `NVIDIA A100-SXM4-80GB MIG 1g.10gb`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub model: String,
    /// The instance's memory in bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::Bytes>))]
    pub memory_bytes: Reading<u64>,
}

/// An AMD GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AmdGpu {
    /// Where it sits, for example `0000:c1:00.0`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub pci_address: Shared<str>,
    /// PCI device, for example `0x74a1`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub device_id: Shared<str>,
    /// The maker's name for it, for example `AMD Instinct MI300X`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub model: Shared<str>,
    /// Total memory in bytes; absent where it shares the machine's.
    #[cfg_attr(feature = "openapi", schema(value_type = Reading<crate::openapi::GpuMemoryBytes>))]
    pub memory_bytes: Reading<u64>,
}

/// A GPU that the driver lists and that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct GpuFailure {
    /// The driver's index.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Count))]
    pub index: u32,
    /// What the driver said.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub reason: String,
}

/// An accelerator that is there and that rollcall cannot measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// Where it sits, for example `0000:17:00.0`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub pci_address: String,
    /// PCI vendor, for example `0x1002`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub vendor_id: String,
    /// PCI device, for example `0x74a1`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text))]
    pub device_id: String,
}

/// A GPU's compute capability; `MAJOR.MINOR` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComputeCapability {
    /// The part before the dot.
    pub major: u32,
    /// The part after the dot.
    pub minor: u32,
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl From<ComputeCapability> for String {
    fn from(capability: ComputeCapability) -> Self {
        capability.to_string()
    }
}

impl TryFrom<String> for ComputeCapability {
    type Error = InvalidComputeCapability;

    fn try_from(text: String) -> Result<Self, InvalidComputeCapability> {
        let parts = text.split_once('.').and_then(|(major, minor)| {
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        parts.ok_or_else(|| InvalidComputeCapability { text: text.chars().take(20).collect() })
    }
}

/// A text that is no compute capability.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("compute capability {text:?} is not of the form MAJOR.MINOR")]
pub struct InvalidComputeCapability {
    text: String,
}
