//! Asks NVIDIA's management library (NVML) and writes down what it answers.
//!
//! A driver that hangs leaves its caller where no signal reaches it, and a library that breaks takes
//! its process along. So this runs in a process of its own, which [`super::child`] starts and gives up
//! on. The library is loaded anew at every reading: a driver that arrives late is found, and one that
//! is to be upgraded can be unloaded.

use std::path::Path;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::answers::{Answer, Answers, Code, DeviceAnswers, DriverAnswers, MigAnswers};

/// The most GPUs that are asked: a driver that claims more is broken.
const MAX_GPUS: u32 = 256;

/// The most instances of a GPU that are asked; today's have 7.
const MAX_MIG_INSTANCES: u32 = 64;

/// `NVML_NVLINK_MAX_LINKS` of nvml.h.
const MAX_NVLINKS: u32 = 18;

/// Asks the library everything that the inventory is made of, and lets it go.
///
/// Blocks, and without an end where the driver hangs.
pub(super) fn read(library: &Path) -> Answers {
    let nvml = match Nvml::builder().lib_path(library.as_os_str()).init() {
        Ok(nvml) => nvml,
        Err(error) => return of_init(library, &error),
    };
    let answers = Answers::Driver(read_driver(&nvml));
    // The process ends next, which frees the driver where this did not.
    drop(nvml);
    answers
}

fn of_init(library: &Path, error: &NvmlError) -> Answers {
    match error {
        NvmlError::LibloadingError(error) => of_loading(library, error.to_string()),
        NvmlError::FailedToLoadSymbol(detail) => {
            Answers::LibraryUnusable { detail: detail.clone() }
        }
        error => Answers::InitFailed { code: code(error).0 },
    }
}

/// `dlopen(3)` tells by its words alone what went wrong, and names the library at fault first:
/// another one's name is that of a dependency.
fn of_loading(library: &Path, detail: String) -> Answers {
    let missing =
        format!("{}: cannot open shared object file: No such file or directory", library.display());
    if detail == missing {
        Answers::LibraryMissing { detail }
    } else {
        Answers::LibraryUnusable { detail }
    }
}

fn read_driver(nvml: &Nvml) -> DriverAnswers {
    let device_count = answer(nvml.device_count());
    let count = device_count.value().copied().unwrap_or(0).min(MAX_GPUS);
    DriverAnswers {
        driver_version: answer(nvml.sys_driver_version()),
        cuda_driver_version: answer(nvml.sys_cuda_driver_version()),
        device_count,
        devices: (0..count)
            .map(|index| answer(nvml.device_by_index(index).map(|gpu| read_device(&gpu))))
            .collect(),
    }
}

fn read_device(gpu: &Device<'_>) -> DeviceAnswers {
    let mig_mode = gpu.mig_mode().map(|mode| mode.current != 0);
    DeviceAnswers {
        name: answer(gpu.name()),
        memory_total: memory_total(gpu),
        compute_capability: answer(
            gpu.cuda_compute_capability().map(|version| (version.major, version.minor)),
        ),
        uuid: answer(gpu.uuid()),
        pci_bus_id: answer(gpu.pci_info().map(|pci| pci.bus_id)),
        mig_devices: if matches!(mig_mode, Ok(true)) { mig_devices(gpu) } else { Vec::new() },
        mig_mode: answer(mig_mode),
        nvlinks_active: nvlinks_active(gpu),
    }
}

fn memory_total(device: &Device<'_>) -> Answer<u64> {
    answer(device.memory_info().map(|memory| memory.total))
}

/// A GPU has places for instances, of which any may be empty.
fn mig_devices(gpu: &Device<'_>) -> Vec<MigAnswers> {
    let places = gpu.mig_device_count().unwrap_or(0).min(MAX_MIG_INSTANCES);
    (0..places)
        .filter_map(|place| match gpu.mig_device_by_index(place) {
            Ok(instance) => Some(MigAnswers {
                name: answer(instance.name()),
                memory_total: memory_total(&instance),
            }),
            Err(NvmlError::NotFound) => None,
            Err(error) => {
                let code = code(&error);
                Some(MigAnswers { name: Answer::Error(code), memory_total: Answer::Error(code) })
            }
        })
        .collect()
}

/// Counts the active links among those that the GPU has; it has none where it knows of none.
fn nvlinks_active(gpu: &Device<'_>) -> Answer<u32> {
    let mut active = None;
    let mut first_error = Code::NOT_SUPPORTED;
    for link in 0..MAX_NVLINKS {
        match gpu.link_wrapper_for(link).is_active() {
            Ok(is_active) => {
                active = Some(active.unwrap_or(0_u32).saturating_add(u32::from(is_active)));
            }
            Err(error) if link == 0 => first_error = code(&error),
            Err(_) => {}
        }
    }
    active.map_or(Answer::Error(first_error), Answer::Value)
}

fn answer<T>(result: Result<T, NvmlError>) -> Answer<T> {
    match result {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::Error(code(&error)),
    }
}

/// The code of nvml.h behind the wrapper's error. Its own troubles have none: a function that an old
/// library lacks is said as NVML says it of itself, and a text that is no UTF-8 is unknown.
const fn code(error: &NvmlError) -> Code {
    use nvml_wrapper::error::NvmlError as Error;
    Code(match error {
        Error::Uninitialized => 1,
        Error::InvalidArg => 2,
        Error::NotSupported => 3,
        Error::NoPermission => 4,
        Error::NotFound => 6,
        Error::InsufficientSize(_) => 7,
        Error::InsufficientPower => 8,
        Error::DriverNotLoaded => 9,
        Error::Timeout => 10,
        Error::IrqIssue => 11,
        Error::LibraryNotFound => 12,
        Error::FunctionNotFound | Error::FailedToLoadSymbol(_) => 13,
        Error::CorruptedInfoROM => 14,
        Error::GpuLost => 15,
        Error::ResetRequired => 16,
        Error::OperatingSystem => 17,
        Error::LibRmVersionMismatch => 18,
        Error::InUse => 19,
        Error::InsufficientMemory => 20,
        Error::NoData => 21,
        Error::VgpuEccNotSupported => 22,
        Error::UnexpectedVariant(code) => *code,
        _ => 999,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_told_from_one_that_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let library = folder.path().join("libnvidia-ml.so.1");
        let missing = read(&library);
        assert!(matches!(missing, Answers::LibraryMissing { .. }), "{missing:?}");
        std::fs::write(&library, "no library").expect("written");
        let broken = read(&library);
        assert!(matches!(broken, Answers::LibraryUnusable { .. }), "{broken:?}");
    }

    #[test]
    fn a_library_without_nvml_is_not_used() {
        let other = read(Path::new("libc.so.6"));
        assert!(matches!(other, Answers::LibraryUnusable { .. }), "{other:?}");
    }

    #[test]
    fn a_library_that_lacks_a_dependency_is_not_missing() {
        let dependency = "libcuda.so.1: cannot open shared object file: No such file or directory";
        let answers = of_loading(Path::new("libnvidia-ml.so.1"), dependency.to_owned());
        assert!(matches!(answers, Answers::LibraryUnusable { .. }), "{answers:?}");
    }

    #[test]
    fn codes_come_back_as_the_library_gave_them() {
        for number in 1..=30 {
            // AlreadyInitialized is no error any more.
            if number != 5 {
                assert_eq!(code(&NvmlError::from(number)), Code(number));
            }
        }
        assert_eq!(code(&NvmlError::from(999)), Code::UNKNOWN);
        let missing = NvmlError::FailedToLoadSymbol("nvmlDeviceGetMigMode".into());
        assert_eq!(code(&missing), Code::FUNCTION_NOT_FOUND);
    }
}
