//! GPUs and other accelerators: what is on the PCI bus, and what NVIDIA's driver says of its own.
//!
//! No NVIDIA device, a device without an answering driver, and a driver that answers are three
//! different answers.

mod nvml;

use std::path::Path;

use rollcall_report::{Accelerator, Gpus, Reading, clean_text};

use crate::finding::Probed;
use crate::host::{Attributes, HostRoot, ParseError, ReadError};

const PCI_DEVICES: &str = "/sys/bus/pci/devices";

// Vendors and classes as in include/linux/pci_ids.h; the last byte of a class is its programming
// interface.
const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;
const CLASS_VGA: u32 = 0x0300;
const CLASS_3D: u32 = 0x0302;
const CLASS_OTHER_DISPLAY: u32 = 0x0380;
const BASE_CLASS_ACCELERATOR: u32 = 0x12;

/// Looks for GPUs on the PCI bus and asks NVIDIA's driver for its own where there may be any.
pub(super) fn probe(root: &HostRoot, nvml_library: &Path) -> Probed<Reading<Gpus>> {
    let bus = match collect(root) {
        Ok(functions) => functions.map_or(Reading::Absent, |all| Reading::Known(count(all))),
        Err(error) => Reading::from(Err(error)),
    };
    let nvidia_pci_devices = bus.clone().map(|counts| counts.nvidia);
    let counts = bus.known().cloned().unwrap_or_default();
    let reading = Reading::Known(Gpus {
        nvidia_driver: match nvidia_pci_devices {
            // The library is not even loaded where there is nothing for it to say.
            Reading::Known(0) => Reading::Absent,
            Reading::Known(_) | Reading::Failed { .. } => Reading::from(nvml::read(nvml_library)),
            // Integrated GPUs are on no PCI bus: the driver alone can tell.
            Reading::Absent => match nvml::read(nvml_library) {
                Err(nvml::NvmlError::LibraryMissing { .. }) => Reading::Absent,
                result => Reading::from(result),
            },
        },
        nvidia_pci_devices,
        passed_through: counts.passed_through,
        lost: Vec::new(),
        amd: Reading::Absent,
        unmeasured: counts.unmeasured,
    });
    Probed { reading, findings: Vec::new() }
}

/// What sysfs says of a PCI function. Source: Documentation/ABI/testing/sysfs-bus-pci.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PciFunction {
    address: String,
    vendor: u32,
    device: u32,
    /// Base class, subclass and programming interface, a byte each.
    class: u32,
    is_virtual_function: bool,
    driver: Option<String>,
}

/// The PCI functions of the machine; `None` where it has no PCI bus.
fn collect(root: &HostRoot) -> Result<Option<Vec<PciFunction>>, ReadError> {
    let Some(addresses) = root.list_if_present(PCI_DEVICES)? else {
        // Every kernel has this folder: without it, /sys is what is missing.
        root.resolve("/sys/devices")?;
        return Ok(None);
    };
    let mut functions = Vec::new();
    for address in addresses {
        let attributes = root.attributes(format!("{PCI_DEVICES}/{address}"));
        match function(&address, &attributes) {
            Ok(function) => functions.push(function),
            Err(_) if attributes.vanished() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(functions))
}

fn function(address: &str, attributes: &Attributes<'_>) -> Result<PciFunction, ReadError> {
    Ok(PciFunction {
        address: address.to_owned(),
        vendor: attributes.parse("vendor", parse_id)?,
        device: attributes.parse("device", parse_id)?,
        class: attributes.parse("class", parse_id)?,
        is_virtual_function: attributes.has("physfn")?,
        driver: attributes.link_name("driver")?,
    })
}

/// A PCI number such as `0x10de` or `0x030200`.
fn parse_id(text: &str) -> Result<u32, ParseError> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() <= 6);
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| ParseError::new("a number such as 0x10de", text))
}

/// What the functions on the bus come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    nvidia: u32,
    passed_through: u32,
    unmeasured: Vec<Accelerator>,
}

fn count(functions: Vec<PciFunction>) -> Counts {
    let mut counts = Counts::default();
    for function in functions.into_iter().filter(|function| !function.is_virtual_function) {
        let subclass = function.class >> 8;
        match (function.vendor, subclass) {
            (NVIDIA, CLASS_VGA | CLASS_3D) if function.driver.as_deref() == Some("vfio-pci") => {
                counts.passed_through += 1;
            }
            (NVIDIA, CLASS_VGA | CLASS_3D) => counts.nvidia += 1,
            (NVIDIA, _) => {}
            // A display that is no VGA adapter is an Instinct or a Data Center GPU.
            (AMD | INTEL, CLASS_OTHER_DISPLAY) | (_, CLASS_3D) => {
                counts.unmeasured.push(function.into_accelerator());
            }
            _ if subclass >> 8 == BASE_CLASS_ACCELERATOR => {
                counts.unmeasured.push(function.into_accelerator());
            }
            _ => {}
        }
    }
    counts
}

impl PciFunction {
    fn into_accelerator(self) -> Accelerator {
        Accelerator {
            pci_address: clean_text(&self.address),
            vendor_id: format!("{:#06x}", self.vendor),
            device_id: format!("{:#06x}", self.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(vendor: u32, class: u32) -> PciFunction {
        PciFunction {
            address: "0000:17:00.0".into(),
            vendor,
            device: 0x74a1,
            class,
            is_virtual_function: false,
            driver: None,
        }
    }

    #[test]
    fn what_is_on_the_bus() {
        let driven_by = |driver: &str, mut function: PciFunction| {
            function.driver = Some(driver.into());
            function
        };
        let virtual_function = |mut function: PciFunction| {
            function.is_virtual_function = true;
            function
        };
        for (why, function, (nvidia, passed_through, unmeasured)) in [
            ("a VGA adapter", function(NVIDIA, 0x03_00_00), (1, 0, 0)),
            ("a 3D controller", driven_by("nvidia", function(NVIDIA, 0x03_02_00)), (1, 0, 0)),
            ("its sound", function(NVIDIA, 0x04_03_00), (0, 0, 0)),
            ("an NVSwitch", function(NVIDIA, 0x06_80_00), (0, 0, 0)),
            ("handed on", driven_by("vfio-pci", function(NVIDIA, 0x03_02_00)), (0, 1, 0)),
            ("a virtual function", virtual_function(function(NVIDIA, 0x03_02_00)), (0, 0, 0)),
            ("an Instinct", function(AMD, 0x12_00_00), (0, 0, 1)),
            ("an older Instinct", function(AMD, 0x03_80_00), (0, 0, 1)),
            ("a desktop's Radeon", function(AMD, 0x03_00_00), (0, 0, 0)),
            ("a Data Center GPU", function(INTEL, 0x03_80_00), (0, 0, 1)),
            ("a Gaudi", function(0x1da3, 0x12_00_00), (0, 0, 1)),
            ("another's 3D controller", function(0x1234, 0x03_02_00), (0, 0, 1)),
            ("another's display", function(0x1234, 0x03_80_00), (0, 0, 0)),
            ("a BMC's graphics", function(0x1a03, 0x03_00_00), (0, 0, 0)),
        ] {
            let counts = count(vec![function]);
            let found = (counts.nvidia, counts.passed_through, counts.unmeasured.len());
            assert_eq!(found, (nvidia, passed_through, unmeasured), "{why}");
        }
    }

    #[test]
    fn an_accelerator_is_named_as_pci_does() {
        let accelerator = function(0x0046, 0x12_00_00).into_accelerator();
        assert_eq!(accelerator.vendor_id, "0x0046");
        assert_eq!(accelerator.device_id, "0x74a1");
    }

    #[test]
    fn ids() {
        assert_eq!(parse_id("0x10de"), Ok(0x10de));
        assert_eq!(parse_id("0x030200"), Ok(0x03_02_00));
        for bad in ["", "0x", "10de", "0x+1", "0x1000000", "0xg"] {
            assert!(parse_id(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn ids_come_back(id in 0_u32..1 << 24, text in "\\PC{0,12}") {
            prop_assert_eq!(parse_id(&format!("{id:#06x}")), Ok(id));
            prop_assert!(parse_id(&text).is_err() || text.starts_with("0x"));
        }
    }
}
