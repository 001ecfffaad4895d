//! What NVIDIA's driver says of its GPUs, through its management library (NVML).
//!
//! The library is loaded, initialised and let go again at every reading, so that a driver which
//! arrives late is found and one that is to be upgraded can be unloaded.

use std::path::{Path, PathBuf};

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use rollcall_report::{ComputeCapability, Gpu, GpuFailure, NvidiaDriver, Reading, clean_text};
use thiserror::Error;

use crate::probe::known_text;

/// The most GPUs that are asked: a driver that claims more is broken.
const MAX_GPUS: u32 = 256;

/// Adapters that a DGX Station has for its monitors: they are no GPUs to compute on.
const DISPLAY_ADAPTER: &str = "DGX Display";

/// Reads the driver and its GPUs. A GPU that fails is listed among the failures and spoils no other.
///
/// Blocks, and without an end where the driver hangs.
///
/// # Errors
///
/// When the library or the driver as a whole does not answer.
pub(super) fn read(library: &Path) -> Result<NvidiaDriver, NvmlError> {
    let nvml = Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .map_err(|error| NvmlError::of_init(library, error))?;
    let driver = read_driver(&nvml);
    if let Err(error) = nvml.shutdown() {
        log::warn!(error:% = error; "NVML could not be shut down, the driver stays in use");
    }
    driver
}

fn read_driver(nvml: &Nvml) -> Result<NvidiaDriver, NvmlError> {
    let count = nvml
        .device_count()
        .map_err(|source| NvmlError::Call { call: "nvmlDeviceGetCount", source })?;
    let mut gpus = Vec::new();
    let mut failures = Vec::new();
    for index in 0..count.min(MAX_GPUS) {
        match read_gpu(nvml, index) {
            Ok(gpu) if gpu.model.contains(DISPLAY_ADAPTER) => {}
            Ok(gpu) => gpus.push(gpu),
            Err(error) => {
                failures.push(GpuFailure { index, reason: clean_text(&error.to_string()) });
            }
        }
    }
    Ok(NvidiaDriver {
        version: nvml.sys_driver_version().ok().as_deref().and_then(known_text),
        cuda_version: nvml.sys_cuda_driver_version().ok().map(|version| {
            format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version))
        }),
        gpus,
        failures,
    })
}

fn read_gpu(nvml: &Nvml, index: u32) -> Result<Gpu, Code> {
    let device = nvml.device_by_index(index)?;
    let model = device.name()?;
    Ok(Gpu {
        index,
        model: known_text(&model).unwrap_or_else(|| "unnamed".to_owned()),
        memory_bytes: memory_bytes(&device)?,
        compute_capability: device.cuda_compute_capability().ok().and_then(|capability| {
            Some(ComputeCapability {
                major: capability.major.try_into().ok()?,
                minor: capability.minor.try_into().ok()?,
            })
        }),
        uuid: device.uuid().ok().as_deref().and_then(known_text),
        pci_address: device.pci_info().ok().and_then(|pci| known_text(&sysfs_address(&pci.bus_id))),
        active_nvlinks: None,
        mig: None,
    })
}

/// The GPU's own memory. A GPU that is lost has none that anybody could use: that is an error of
/// the GPU, and not of its memory.
fn memory_bytes(device: &Device<'_>) -> Result<Reading<u64>, Code> {
    match device.memory_info() {
        Ok(info) if info.total > 0 => Ok(Reading::Known(info.total)),
        // Integrated GPUs share the machine's.
        Ok(_) | Err(Code::NotSupported) => Ok(Reading::Absent),
        Err(error @ (Code::GpuLost | Code::ResetRequired)) => Err(error),
        Err(error) => Ok(Reading::failed(&format!("the GPU's memory is not told: {error}"))),
    }
}

/// NVML's `00000000:17:00.0` as sysfs writes it: `0000:17:00.0`.
fn sysfs_address(bus_id: &str) -> String {
    let address = bus_id.to_ascii_lowercase();
    let long_domain = address.split_once(':').is_some_and(|(domain, _)| domain.len() == 8);
    match address.strip_prefix("0000") {
        Some(short) if long_domain => short.to_owned(),
        _ => address,
    }
}

/// Why the driver as a whole did not answer, and what to do.
#[derive(Debug, Error)]
pub(super) enum NvmlError {
    /// There is no such library.
    #[error(
        "NVIDIA's library {} is not installed: install the driver, or give the library's path with \
         --nvml-library; a container gets it when it is created, so restart the pod once the driver is there",
        library.display()
    )]
    LibraryMissing {
        /// The library asked for.
        library: PathBuf,
    },
    /// There is such a library and the dynamic loader does not take it.
    #[error(
        "NVIDIA's library {} cannot be loaded ({detail}): is it built for this machine and this C library?",
        library.display()
    )]
    LibraryUnusable {
        /// The library asked for.
        library: PathBuf,
        /// What the dynamic loader said.
        detail: String,
    },
    /// The kernel module is not there.
    #[error(
        "NVIDIA's library is there and its kernel driver is not loaded: load it (modprobe nvidia) and \
         look into the kernel's log if that fails"
    )]
    DriverNotLoaded,
    /// A driver upgrade is half done.
    #[error(
        "NVIDIA's kernel driver and library are of different versions: finish the upgrade by loading \
         the new kernel driver, or reboot"
    )]
    VersionMismatch,
    /// Any other answer.
    #[error(
        "NVIDIA's driver does not answer {call}: look for NVRM in the kernel's log, and whether the \
         agent may open /dev/nvidiactl"
    )]
    Call {
        /// The function called.
        call: &'static str,
        /// What NVML said.
        source: Code,
    },
}

impl NvmlError {
    fn of_init(library: &Path, error: Code) -> Self {
        match error {
            Code::LibloadingError(error) => Self::of_loading(library, &error.to_string()),
            Code::FailedToLoadSymbol(detail) => {
                Self::LibraryUnusable { library: library.to_owned(), detail }
            }
            Code::DriverNotLoaded => Self::DriverNotLoaded,
            Code::LibRmVersionMismatch => Self::VersionMismatch,
            source => Self::Call { call: "nvmlInit", source },
        }
    }

    /// `dlopen(3)` tells by its words alone what went wrong, and names the library at fault first:
    /// another one's name is that of a dependency.
    fn of_loading(library: &Path, detail: &str) -> Self {
        let missing = format!(
            "{}: cannot open shared object file: No such file or directory",
            library.display()
        );
        if detail == missing {
            Self::LibraryMissing { library: library.to_owned() }
        } else {
            Self::LibraryUnusable { library: library.to_owned(), detail: detail.to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_library_that_is_missing_is_told_from_one_that_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        let missing = read(&library).expect_err("no such library");
        assert!(matches!(missing, NvmlError::LibraryMissing { .. }), "{missing}");
        std::fs::write(&library, "no library").expect("written");
        let broken = read(&library).expect_err("no library");
        assert!(matches!(broken, NvmlError::LibraryUnusable { .. }), "{broken}");
    }

    #[test]
    fn a_library_without_nvml_is_not_used() {
        let other = read(Path::new("libc.so.6")).expect_err("another library");
        assert!(matches!(other, NvmlError::LibraryUnusable { .. }), "{other}");
    }

    #[test]
    fn each_answer_of_the_driver_has_its_own_words() {
        let library = Path::new("libnvidia-ml.so.1");
        for (code, words) in [
            (Code::DriverNotLoaded, "modprobe nvidia"),
            (Code::LibRmVersionMismatch, "different versions"),
            (Code::NoPermission, "does not answer nvmlInit"),
        ] {
            let message = NvmlError::of_init(library, code).to_string();
            assert!(message.contains(words), "{message}");
        }
        let dependency = "libcuda.so.1: cannot open shared object file: No such file or directory";
        let error = NvmlError::of_loading(library, dependency).to_string();
        assert!(error.contains("cannot be loaded (libcuda.so.1"), "{error}");
    }

    #[test]
    fn addresses() {
        for (nvml, sysfs) in [
            ("00000000:17:00.0", "0000:17:00.0"),
            ("00000000:AF:00.0", "0000:af:00.0"),
            ("00010000:3B:00.0", "00010000:3b:00.0"),
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("", ""),
        ] {
            assert_eq!(sysfs_address(nvml), sysfs);
        }
    }

    proptest! {
        #[test]
        fn odd_addresses_lose_nothing_but_zeros(text in "\\PC{0,20}") {
            let address = sysfs_address(&text);
            prop_assert!(text.to_ascii_lowercase().ends_with(&address));
        }
    }
}
