//! The PCI functions that may be GPUs, other accelerators or network adapters, as sysfs has them.

use std::path::PathBuf;

use rollcall_report::Reading;

use crate::host::{Attributes, HostRoot, ParseError, ReadError};

/// Where the kernel lists all PCI functions.
pub(super) const DEVICES: &str = "/sys/bus/pci/devices";

// Vendors and classes as in include/linux/pci_ids.h; the last byte of a class is its programming
// interface.
pub(super) const NVIDIA: u32 = 0x10de;
pub(super) const AMD: u32 = 0x1002;
pub(super) const INTEL: u32 = 0x8086;
pub(super) const CLASS_VGA: u32 = 0x0300;
pub(super) const CLASS_3D: u32 = 0x0302;
pub(super) const CLASS_OTHER_DISPLAY: u32 = 0x0380;
/// Not the whole base class 0x12: 0x1201 is SDXI, which copies memory.
pub(super) const CLASS_PROCESSING_ACCELERATOR: u32 = 0x1200;
const BASE_CLASS_NETWORK: u32 = 0x02;
const BASE_CLASS_DISPLAY: u32 = 0x03;
const BASE_CLASS_ACCELERATOR: u32 = 0x12;

/// What sysfs says of a PCI function. Source: Documentation/ABI/testing/sysfs-bus-pci.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    /// Where it sits, for example `0000:17:00.0`.
    pub(super) address: String,
    /// Its folder under `/sys/devices`.
    pub(super) path: PathBuf,
    pub(super) vendor: u32,
    pub(super) device: u32,
    /// The maker of the board and its number for it, where they were looked for.
    pub(super) subsystem: Option<(u32, u32)>,
    /// Base class, subclass and programming interface, a byte each.
    pub(super) class: u32,
    pub(super) is_virtual: bool,
    pub(super) driver: Option<String>,
}

impl Function {
    /// Base class and subclass.
    pub(super) const fn subclass(&self) -> u32 {
        self.class >> 8
    }

    /// Whether it may be a GPU: any function of a GPU's maker, displays and accelerators of any.
    pub(super) const fn may_be_gpu(&self) -> bool {
        let base = self.class >> 16;
        matches!(self.vendor, NVIDIA | AMD)
            || matches!(base, BASE_CLASS_DISPLAY | BASE_CLASS_ACCELERATOR)
    }

    /// Whether it is a network controller.
    pub(super) const fn is_network(&self) -> bool {
        self.class >> 16 == BASE_CLASS_NETWORK
    }

    /// Whether a virtual machine has it: its driver is vfio-pci, one of its variants for a device
    /// (`nvgrace_gpu_vfio_pci`, `mlx5_vfio_pci`) or pci-stub. Source: Documentation/driver-api/vfio.rst.
    pub(super) fn is_passed_through(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| {
            let driver = driver.replace('-', "_");
            driver == "pci_stub" || driver == "vfio_pci" || driver.ends_with("_vfio_pci")
        })
    }

    /// The file that says it.
    pub(super) fn file(&self, name: &str) -> String {
        format!("{DEVICES}/{}/{name}", self.address)
    }
}

/// The machine's PCI functions that a probe looks at; absent where it has no PCI bus.
pub(super) fn probe(root: &HostRoot) -> Reading<Vec<Function>> {
    match collect(root) {
        Ok(functions) => functions.map_or(Reading::Absent, Reading::Known),
        Err(error) => Reading::from(Err(error)),
    }
}

/// The functions in the order of their addresses; `None` where there is no PCI bus.
fn collect(root: &HostRoot) -> Result<Option<Vec<Function>>, ReadError> {
    // Every kernel has this folder: without it, /sys is what is missing.
    let has_bridge = root.list("/sys/devices")?.iter().any(|name| name.starts_with("pci"));
    let addresses = match root.list(DEVICES) {
        Ok(addresses) if addresses.is_empty() && has_bridge => {
            return Err(ReadError::Contradiction {
                path: DEVICES.into(),
                words: "it is empty, and /sys/devices has PCI bridges: is all of /sys there?",
            });
        }
        Err(ReadError::Missing { .. }) if !has_bridge => return Ok(None),
        result => result?,
    };
    let mut functions = Vec::new();
    for address in addresses {
        let attributes = root.attributes(format!("{DEVICES}/{address}"));
        match function(&address, &attributes) {
            Ok(function) => functions.extend(function),
            Err(_) if attributes.vanished() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(functions))
}

/// Reads a function; `None` where no probe looks at it, as at most of a server's.
fn function(address: &str, attributes: &Attributes<'_>) -> Result<Option<Function>, ReadError> {
    let mut function = Function {
        address: address.to_owned(),
        path: PathBuf::new(),
        vendor: attributes.parse("vendor", parse_id)?,
        device: attributes.parse("device", parse_id)?,
        subsystem: None,
        class: attributes.parse("class", parse_id)?,
        is_virtual: false,
        driver: None,
    };
    if !function.may_be_gpu() && !function.is_network() {
        return Ok(None);
    }
    function.path = attributes.resolve("")?.unwrap_or_default();
    function.is_virtual = attributes.has("physfn")?;
    function.driver = attributes.link_name("driver")?;
    if function.may_be_gpu() {
        function.subsystem = subsystem(attributes)?;
    }
    Ok(Some(function))
}

fn subsystem(attributes: &Attributes<'_>) -> Result<Option<(u32, u32)>, ReadError> {
    if !attributes.has("subsystem_vendor")? || !attributes.has("subsystem_device")? {
        return Ok(None);
    }
    let vendor = attributes.parse("subsystem_vendor", parse_id)?;
    let device = attributes.parse("subsystem_device", parse_id)?;
    Ok(Some((vendor, device)))
}

/// A PCI number such as `0x10de` or `0x030200`.
pub(super) fn parse_id(text: &str) -> Result<u32, ParseError> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() <= 6);
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| ParseError::new("a number such as 0x10de", text))
}

/// An address as sysfs writes it: NVML's `00000000:17:00.0` is `0000:17:00.0`. What is no address
/// stays as it is, in small letters.
pub(super) fn sysfs_address(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    let parts = text.split_once(':').and_then(|(domain, rest)| {
        let is_hex = domain.len() <= 8 && domain.bytes().all(|byte| byte.is_ascii_hexdigit());
        let domain = is_hex.then(|| u32::from_str_radix(domain, 16).ok())??;
        Some(format!("{domain:04x}:{rest}"))
    });
    parts.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids() {
        assert_eq!(parse_id("0x10de"), Ok(0x10de));
        assert_eq!(parse_id("0x030200"), Ok(0x03_02_00));
        for bad in ["", "0x", "10de", "0x+1", "0x1000000", "0xg"] {
            assert!(parse_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bus_that_is_gone_has_not_no_gpus() {
        let folder = tempfile::tempdir().expect("a folder");
        let make = |path: &str| {
            std::fs::create_dir_all(folder.path().join(path)).expect("a folder");
        };
        let root = HostRoot::new(folder.path());
        assert!(collect(&root).is_err(), "without /sys nothing is known");
        make("sys/devices/virtual");
        assert_eq!(collect(&root).expect("read"), None);
        make("sys/devices/pci0000:00");
        assert!(collect(&root).is_err(), "the bus is missing");
        make("sys/bus/pci/devices");
        assert!(collect(&root).is_err(), "the bus is empty");
        make("sys/bus/pci/devices/0000:00:00.0");
        for (name, text) in [("vendor", "0x8086"), ("device", "0x0d57"), ("class", "0x060000")] {
            let path = folder.path().join("sys/bus/pci/devices/0000:00:00.0").join(name);
            std::fs::write(path, text).expect("written");
        }
        assert_eq!(collect(&root).expect("read"), Some(Vec::new()));
    }

    #[test]
    fn addresses() {
        for (nvml, sysfs) in [
            ("00000000:17:00.0", "0000:17:00.0"),
            ("00000000:AF:00.0", "0000:af:00.0"),
            ("00000009:01:00.0", "0009:01:00.0"),
            ("00010000:3B:00.0", "10000:3b:00.0"),
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("nowhere:3b", "nowhere:3b"),
            ("", ""),
        ] {
            assert_eq!(sysfs_address(nvml), sysfs);
        }
    }

    proptest! {
        #[test]
        fn ids_come_back(id in 0_u32..1 << 24, text in "\\PC{0,12}") {
            prop_assert_eq!(parse_id(&format!("{id:#06x}")), Ok(id));
            prop_assert!(parse_id(&text).is_err() || text.starts_with("0x"));
        }

        #[test]
        fn addresses_are_written_one_way(domain: u32, bus: u8, device in 0_u8..32, odd in "\\PC{0,20}") {
            let rest = format!("{bus:02X}:{device:02X}.0");
            let sysfs = format!("{domain:04x}:{}", rest.to_ascii_lowercase());
            prop_assert_eq!(&sysfs_address(&format!("{domain:08X}:{rest}")), &sysfs);
            prop_assert_eq!(&sysfs_address(&sysfs), &sysfs);
            let once = sysfs_address(&odd);
            prop_assert_eq!(&sysfs_address(&once), &once);
        }
    }
}
