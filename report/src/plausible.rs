//! Bounds that no real machine passes. What lies beyond them is a fault or an attack, and is
//! refused whole; within them, sums over a hundred thousand nodes stay far from overflow.

use thiserror::Error;

use crate::{Gpu, Inventory, NodeReport, Reading, SCHEMA_VERSION, Subject};

/// The longest text that a report may carry in one field, in characters.
pub const MAX_TEXT_CHARS: usize = 512;

pub(crate) const MAX_CPUS: u64 = 1 << 16;
pub(crate) const MAX_MEMORY_BYTES: u64 = 1 << 52;
pub(crate) const MAX_STORAGE_BYTES: u64 = 1 << 60;
pub(crate) const MAX_GPU_MEMORY_BYTES: u64 = 1 << 44;
pub(crate) const MAX_SPEED_MBPS: u64 = 10_000_000;
pub(crate) const MAX_DISKS: u64 = 4096;
pub(crate) const MAX_NICS: u64 = 1024;
pub(crate) const MAX_GPUS: u64 = 256;
const MAX_MIG_INSTANCES: u64 = 64;
const MAX_RULES: u64 = 256;

/// A report that cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Implausible {
    /// A version of the schema that this program does not know.
    #[error(
        "schema version {found} is unknown here, this program reads up to {SCHEMA_VERSION}: upgrade it first"
    )]
    SchemaVersion {
        /// The version found.
        found: u32,
    },
    /// A number outside what machines have.
    #[error("{field} is {value}, which is outside {min} to {max}")]
    Number {
        /// The field's path in the report.
        field: String,
        /// What it says.
        value: u64,
        /// The least that is believed.
        min: u64,
        /// The most that is believed.
        max: u64,
    },
    /// A text that is too long or holds control characters.
    #[error("{field} {problem}")]
    Text {
        /// The field's path in the report.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two things of one name where names are unique.
    #[error("{field} names {name:?} twice")]
    Twice {
        /// The list's path in the report.
        field: &'static str,
        /// The name.
        name: String,
    },
}

impl Implausible {
    /// The subject that it is about, where it is about one.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        let field = match self {
            Self::SchemaVersion { .. } => return None,
            Self::Number { field, .. } | Self::Text { field, .. } => field.as_str(),
            Self::Twice { field, .. } => field,
        };
        let inside = field.split_once("inventory.")?.1;
        Subject::ALL.into_iter().find(|subject| {
            inside
                .strip_prefix(subject.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

/// Whether a character shows nothing itself, and changes how what is around it shows or reads: a control
/// character, one that breaks lines, turns the direction of writing or has no width.
#[must_use]
pub fn is_disguising(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text as a report may carry it: nothing that disguises it, no white space around, not too long.
#[must_use]
pub fn clean_text(text: &str) -> String {
    let clean: String = text.chars().map(|c| if is_disguising(c) { ' ' } else { c }).collect();
    clean.trim().chars().take(MAX_TEXT_CHARS).collect()
}

impl NodeReport {
    /// Checks what the types cannot: the version, bounds of numbers, texts, unique names.
    ///
    /// # Errors
    ///
    /// The first thing found that cannot be true.
    pub fn check(&self) -> Result<(), Implausible> {
        if self.schema_version == 0 || self.schema_version > SCHEMA_VERSION {
            return Err(Implausible::SchemaVersion { found: self.schema_version });
        }
        text("agent.version", &self.agent.version)?;
        self.inventory.check()?;
        self.check_explanation()
    }
}

impl Inventory {
    /// Checks what a machine can have: bounds of numbers, texts, unique names.
    ///
    /// # Errors
    ///
    /// The first thing found that cannot be true.
    pub fn check(&self) -> Result<(), Implausible> {
        self.check_machine()?;
        self.check_disks()?;
        self.check_nics()?;
        self.check_gpus()?;
        self.check_amd_gpus()?;
        self.check_reasons()
    }

    /// Every reason, also those that [`Inventory::failures`] leaves out behind a first one.
    fn check_reasons(&self) -> Result<(), Implausible> {
        fn reason<T>(field: &str, reading: &Reading<T>) -> Result<(), Implausible> {
            let field = || format!("inventory.{field}.failed.reason");
            reading.failure().map_or(Ok(()), |reason| text(&field(), reason))
        }
        let Inventory { machine, cpu, memory, swap, disks, nics, gpus } = self;
        reason("machine", machine)?;
        reason("cpu", cpu)?;
        reason("memory", memory)?;
        reason("swap", swap)?;
        reason("disks", disks)?;
        reason("nics", nics)?;
        reason("gpus", gpus)?;
        if let Some(memory) = memory.known() {
            reason("memory.installedBytes", &memory.installed_bytes)?;
        }
        for disk in disks.known().into_iter().flatten() {
            reason("disks.sizeBytes", &disk.size_bytes)?;
        }
        for nic in nics.known().into_iter().flatten() {
            reason("nics.speedMbps", &nic.speed_mbps)?;
        }
        let Some(gpus) = gpus.known() else { return Ok(()) };
        reason("gpus.nvidiaPciDevices", &gpus.nvidia_pci_devices)?;
        reason("gpus.nvidiaDriver", &gpus.nvidia_driver)?;
        for gpu in gpus.nvidia_driver.known().into_iter().flat_map(|driver| &driver.gpus) {
            reason("gpus.nvidiaDriver.gpus.memoryBytes", &gpu.memory_bytes)?;
            for instance in gpu.mig.iter().flatten() {
                reason("gpus.nvidiaDriver.gpus.mig.memoryBytes", &instance.memory_bytes)?;
            }
        }
        for gpu in &gpus.nvidia_unasked {
            reason("gpus.nvidiaUnasked.memoryBytes", &gpu.memory_bytes)?;
            for instance in gpu.mig.iter().flatten() {
                reason("gpus.nvidiaUnasked.mig.memoryBytes", &instance.memory_bytes)?;
            }
        }
        reason("gpus.amd", &gpus.amd)?;
        for gpu in gpus.amd.known().into_iter().flatten() {
            reason("gpus.amd.memoryBytes", &gpu.memory_bytes)?;
        }
        Ok(())
    }

    fn check_machine(&self) -> Result<(), Implausible> {
        if let Some(machine) = self.machine.known() {
            text("inventory.machine.architecture", &machine.architecture)?;
            let fields = [
                ("operatingSystem", &machine.operating_system),
                ("kernelRelease", &machine.kernel_release),
                ("vendor", &machine.vendor),
                ("product", &machine.product),
                ("bootId", &machine.boot_id),
            ];
            for (name, value) in fields {
                optional_text(&format!("inventory.machine.{name}"), value.as_deref())?;
            }
        }
        if let Some(cpu) = self.cpu.known() {
            number("inventory.cpu.online", cpu.online.into(), 1, MAX_CPUS)?;
            for (name, value) in
                [("cores", cpu.cores), ("sockets", cpu.sockets), ("numaNodes", cpu.numa_nodes)]
            {
                let value = value.unwrap_or(1).into();
                number(&format!("inventory.cpu.{name}"), value, 1, MAX_CPUS)?;
            }
            optional_text("inventory.cpu.model", cpu.model.as_deref())?;
            optional_text("inventory.cpu.vendor", cpu.vendor.as_deref())?;
        }
        if let Some(memory) = self.memory.known() {
            number("inventory.memory.totalBytes", memory.total_bytes, 1, MAX_MEMORY_BYTES)?;
            let installed = memory.installed_bytes.known().copied().unwrap_or(1);
            number("inventory.memory.installedBytes", installed, 1, MAX_MEMORY_BYTES)?;
        }
        if let Some(swap) = self.swap.known() {
            number("inventory.swap.totalBytes", swap.total_bytes, 0, MAX_MEMORY_BYTES)?;
            number("inventory.swap.zramBytes", swap.zram_bytes, 0, MAX_MEMORY_BYTES)?;
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), Implausible> {
        let Some(disks) = self.disks.known() else { return Ok(()) };
        number("the number of inventory.disks", count(disks), 0, MAX_DISKS)?;
        unique("inventory.disks", disks.iter().map(|disk| disk.name.as_str()))?;
        let mut total = 0_u64;
        for disk in disks {
            text("inventory.disks.name", &disk.name)?;
            optional_text("inventory.disks.model", disk.model.as_deref())?;
            if let Some(&size) = disk.size_bytes.known() {
                let field = format!("inventory.disks.{}.sizeBytes", disk.name);
                number(&field, size, 1, MAX_STORAGE_BYTES)?;
                total = total.saturating_add(size);
            }
        }
        number("the sum of inventory.disks.sizeBytes", total, 0, MAX_STORAGE_BYTES)
    }

    fn check_nics(&self) -> Result<(), Implausible> {
        let Some(nics) = self.nics.known() else { return Ok(()) };
        number("the number of inventory.nics", count(nics), 0, MAX_NICS)?;
        unique("inventory.nics", nics.iter().map(|nic| nic.name.as_str()))?;
        for nic in nics {
            text("inventory.nics.name", &nic.name)?;
            optional_text("inventory.nics.driver", nic.driver.as_deref())?;
            if let Some(&speed) = nic.speed_mbps.known() {
                let field = format!("inventory.nics.{}.speedMbps", nic.name);
                number(&field, speed, 1, MAX_SPEED_MBPS)?;
            }
        }
        Ok(())
    }

    fn check_gpus(&self) -> Result<(), Implausible> {
        let Some(gpus) = self.gpus.known() else { return Ok(()) };
        let on_bus = gpus.nvidia_pci_devices.known().copied().unwrap_or(0);
        number("inventory.gpus.nvidiaPciDevices", on_bus.into(), 0, MAX_GPUS)?;
        number("inventory.gpus.passedThrough", gpus.passed_through.into(), 0, MAX_GPUS)?;
        number("the number of inventory.gpus.unmeasured", count(&gpus.unmeasured), 0, MAX_GPUS)?;
        for accelerator in &gpus.unmeasured {
            text("inventory.gpus.unmeasured.pciAddress", &accelerator.pci_address)?;
            text("inventory.gpus.unmeasured.vendorId", &accelerator.vendor_id)?;
            text("inventory.gpus.unmeasured.deviceId", &accelerator.device_id)?;
        }
        number(
            "the number of inventory.gpus.nvidiaUnasked",
            count(&gpus.nvidia_unasked),
            0,
            MAX_GPUS,
        )?;
        check_nvidia_gpus("inventory.gpus.nvidiaUnasked", &gpus.nvidia_unasked)?;
        let Some(driver) = gpus.nvidia_driver.known() else { return Ok(()) };
        optional_text("inventory.gpus.nvidiaDriver.version", driver.version.as_deref())?;
        optional_text("inventory.gpus.nvidiaDriver.cudaVersion", driver.cuda_version.as_deref())?;
        number("the number of inventory.gpus.nvidiaDriver.gpus", count(&driver.gpus), 0, MAX_GPUS)?;
        number(
            "the number of inventory.gpus.nvidiaDriver.failures",
            count(&driver.failures),
            0,
            MAX_GPUS,
        )?;
        let uuids = driver.gpus.iter().filter_map(|gpu| gpu.uuid.as_deref());
        unique("inventory.gpus.nvidiaDriver.gpus.uuid", uuids)?;
        check_nvidia_gpus("inventory.gpus.nvidiaDriver.gpus", &driver.gpus)?;
        for failure in &driver.failures {
            text("inventory.gpus.nvidiaDriver.failures.reason", &failure.reason)?;
        }
        Ok(())
    }
}

/// Checks a list of NVIDIA's GPUs.
fn check_nvidia_gpus(list: &str, gpus: &[Gpu]) -> Result<(), Implausible> {
    for gpu in gpus {
        let field = format!("{list}.{}", gpu.index);
        text(&format!("{field}.model"), &gpu.model)?;
        optional_text(&format!("{field}.uuid"), gpu.uuid.as_deref())?;
        optional_text(&format!("{field}.pciAddress"), gpu.pci_address.as_deref())?;
        if let Some(&memory) = gpu.memory_bytes.known() {
            number(&format!("{field}.memoryBytes"), memory, 1, MAX_GPU_MEMORY_BYTES)?;
        }
        let instances = gpu.mig.as_deref().unwrap_or_default();
        number(&format!("the number of {field}.mig"), count(instances), 0, MAX_MIG_INSTANCES)?;
        for instance in instances {
            text(&format!("{field}.mig.model"), &instance.model)?;
        }
    }
    Ok(())
}

impl Inventory {
    fn check_amd_gpus(&self) -> Result<(), Implausible> {
        let Some(gpus) = self.gpus.known() else { return Ok(()) };
        number("the number of inventory.gpus.lost", count(&gpus.lost), 0, MAX_GPUS)?;
        for address in &gpus.lost {
            text("inventory.gpus.lost", address)?;
        }
        let Some(amd) = gpus.amd.known() else { return Ok(()) };
        number("the number of inventory.gpus.amd", count(amd), 0, MAX_GPUS)?;
        unique("inventory.gpus.amd", amd.iter().map(|gpu| gpu.pci_address.as_str()))?;
        for gpu in amd {
            text("inventory.gpus.amd.pciAddress", &gpu.pci_address)?;
            text("inventory.gpus.amd.deviceId", &gpu.device_id)?;
            text("inventory.gpus.amd.model", &gpu.model)?;
            if let Some(&memory) = gpu.memory_bytes.known() {
                let field = format!("inventory.gpus.amd.{}.memoryBytes", gpu.pci_address);
                number(&field, memory, 1, MAX_GPU_MEMORY_BYTES)?;
            }
        }
        Ok(())
    }
}

impl NodeReport {
    /// What is only for people is bounded like the rest: it is shown and kept, too.
    fn check_explanation(&self) -> Result<(), Implausible> {
        number("the number of passedOver", count(&self.passed_over), 0, MAX_RULES)?;
        for passed_over in &self.passed_over {
            text("passedOver.rule", &passed_over.rule)?;
            number(
                "the number of passedOver.examples",
                count(&passed_over.examples),
                0,
                MAX_RULES,
            )?;
            for example in &passed_over.examples {
                text("passedOver.examples", example)?;
            }
        }
        let Some(health) = &self.health else { return Ok(()) };
        number("the number of health.lostGpus", count(&health.lost_gpus), 0, MAX_GPUS)?;
        number("the number of health.unknownSpeeds", count(&health.unknown_speeds), 0, MAX_NICS)?;
        health.lost_gpus.iter().try_for_each(|address| text("health.lostGpus", address))?;
        health.unknown_speeds.iter().try_for_each(|nic| text("health.unknownSpeeds", nic))
    }
}

fn number(field: &str, value: u64, min: u64, max: u64) -> Result<(), Implausible> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(Implausible::Number { field: field.to_owned(), value, min, max })
    }
}

fn text(field: &str, value: &str) -> Result<(), Implausible> {
    let problem = if value.is_empty() {
        "is empty"
    } else if value.chars().any(char::is_control) {
        "holds control characters"
    } else if value.chars().count() > MAX_TEXT_CHARS {
        "is longer than 512 characters"
    } else {
        return Ok(());
    };
    Err(Implausible::Text { field: field.to_owned(), problem })
}

fn optional_text(field: &str, value: Option<&str>) -> Result<(), Implausible> {
    value.map_or(Ok(()), |value| text(field, value))
}

fn unique<'a>(
    field: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Implausible> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Implausible::Twice { field, name: name.chars().take(80).collect() });
        }
    }
    Ok(())
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
