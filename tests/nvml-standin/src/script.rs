//! The file that says which hardware there is and what fails.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

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
    /// What calls of the driver as a whole fail with, by their names: `nvmlDeviceGetCount_v2`.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, u32>,
    /// A call that does not come back as it should.
    pub(crate) trouble: Option<Trouble>,
}

/// A call that does not come back as it should.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Trouble {
    /// Its name, for example `nvmlInit_v2`.
    pub(crate) call: String,
    /// What becomes of it.
    pub(crate) what: What,
}

/// What becomes of a call.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(crate) enum What {
    /// It sleeps for ever, and can be killed.
    Hangs,
    /// It sleeps for ever, and its process outlives SIGKILL until there is such a file, as one that
    /// hangs in a driver does.
    OutlivesSigkill { until: PathBuf },
    /// The process gets this signal.
    Crashes { signal: i32 },
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
    /// What other calls fail with, by their names: `nvmlDeviceGetUUID`.
    #[serde(default)]
    pub(crate) errors: BTreeMap<String, u32>,
    /// Whether it is divided into instances; without it, it cannot be.
    pub(crate) mig_mode: Option<bool>,
    /// Its places for instances, of which some may be empty.
    #[serde(default)]
    pub(crate) mig_devices: Vec<Option<MigDevice>>,
    /// Its links to other GPUs or switches, and which of them are active.
    #[serde(default)]
    pub(crate) nvlinks: Vec<bool>,
}

/// An instance of a divided GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MigDevice {
    /// The driver's name for it.
    pub(crate) name: String,
    /// Its memory in bytes.
    pub(crate) memory_bytes: Option<u64>,
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
