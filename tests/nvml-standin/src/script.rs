//! The file that says which hardware there is and what fails.

use std::env;
use std::fs;

use serde::Deserialize;

/// Names the file.
const VARIABLE: &str = "ROLLCALL_NVML_STANDIN";

/// The driver and its GPUs. Every error is a number, as `nvmlReturn_t` in `nvml.h` counts them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Script {
    /// What initialising returns: 0 is success, 9 no driver, 18 a driver of another version.
    #[serde(default)]
    pub(crate) init: u32,
    /// The driver's version, for example `580.159.04`; without one it is not supported.
    pub(crate) driver_version: Option<String>,
    /// 1000 times the major plus 10 times the minor version; without one there is no CUDA.
    pub(crate) cuda_version: Option<i32>,
    /// In the order of their indices.
    #[serde(default)]
    pub(crate) gpus: Vec<Gpu>,
}

/// A GPU. What it has not is not supported on it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Gpu {
    /// The maker's name for it.
    pub(crate) name: String,
    /// Its own identity, for example `GPU-…`.
    pub(crate) uuid: Option<String>,
    /// Total memory in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// Major and minor.
    pub(crate) compute_capability: Option<(i32, i32)>,
    /// Where it sits, for example `0000:17:00.0`.
    pub(crate) pci_address: Option<PciAddress>,
    /// PCI device in the upper, vendor in the lower 16 bits. By default an NVIDIA H100 SXM.
    #[serde(default = "h100")]
    pub(crate) pci_device_id: u32,
    /// What asking for its handle fails with: 15 is a lost GPU.
    pub(crate) handle_error: Option<u32>,
    /// What asking for its memory fails with.
    pub(crate) memory_error: Option<u32>,
}

const fn h100() -> u32 {
    0x2330_10de
}

/// `DOMAIN:BUS:DEVICE.FUNCTION`, all hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PciAddress {
    pub(crate) domain: u32,
    pub(crate) bus: u32,
    pub(crate) device: u32,
    pub(crate) function: u32,
}

impl TryFrom<String> for PciAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hex = |part: &str| u32::from_str_radix(part, 16).ok();
        let parts = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            Some(Self {
                domain: hex(domain)?,
                bus: hex(bus)?,
                device: hex(device)?,
                function: hex(function)?,
            })
        };
        parts().ok_or_else(|| format!("PCI address {text:?} is not like 0000:17:00.0"))
    }
}

impl Script {
    /// Reads the file that the environment names.
    pub(crate) fn read() -> Result<Self, String> {
        let path = env::var_os(VARIABLE)
            .ok_or_else(|| format!("{VARIABLE} is not set; it names the file with the GPUs"))?;
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{} describes no GPUs: {error}", path.display()))
    }
}
