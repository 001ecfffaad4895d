//! The stand-in answers to nvml-wrapper, which is what rollcall's agent loads NVML with.
//!
//! One test: the script is named by the environment, which the whole process shares.
#![expect(unsafe_code, reason = "the environment is set, and a C function called")]
#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

const LIBRARY: &str = "librollcall_nvml_standin.so";

#[test]
fn what_nvml_wrapper_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("gpus.json");
    // SAFETY: this is the only test of the process, and no other thread reads the environment.
    unsafe { std::env::set_var("ROLLCALL_NVML_STANDIN", &script) };
    // Where cargo builds it: beside this test.
    let library = std::env::current_exe().expect("a path").with_file_name(LIBRARY);
    let init = || Nvml::builder().lib_path(library.as_os_str()).init();

    assert!(matches!(init(), Err(NvmlError::Unknown)), "there is no script");

    fs::write(&script, r#"{ "init": 18 }"#).expect("written");
    let mismatch = init().map(drop).expect_err("mismatch");
    assert!(matches!(mismatch, NvmlError::LibRmVersionMismatch), "{mismatch:?}");

    fs::write(&script, r#"{ "init": 0 }"#).expect("written");
    let nvml = init().expect("initialises");
    assert_eq!(nvml.device_count().expect("counts"), 0);
    assert!(matches!(nvml.sys_driver_version(), Err(NvmlError::NotSupported)));
    assert!(matches!(nvml.sys_cuda_driver_version(), Err(NvmlError::LibraryNotFound)));
    nvml.shutdown().expect("shuts down");

    // Another hardware at the next initialisation.
    let gpus = r#"{
        "driverVersion": "580.159.04", "cudaVersion": 13000,
        "gpus": [
            { "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1", "memoryBytes": 85520809984,
              "computeCapability": [9, 0], "pciAddress": "0000:17:00.0" },
            { "name": "lost", "handleError": 15 },
            { "name": "Orin", "memoryError": 3 },
            { "name": "denied", "memoryBytes": 1, "memoryError": 4 }
        ]
    }"#;
    fs::write(&script, gpus).expect("written");
    let nvml = init().expect("initialises");
    assert_eq!(nvml.sys_driver_version().expect("told"), "580.159.04");
    assert_eq!(nvml.sys_cuda_driver_version().expect("told"), 13000);
    assert_eq!(nvml.device_count().expect("counts"), 4);

    let whole = nvml.device_by_index(0).expect("answers");
    assert_eq!(whole.name().expect("told"), "NVIDIA H100 80GB HBM3");
    assert_eq!(whole.uuid().expect("told"), "GPU-1");
    assert_eq!(whole.memory_info().expect("told").total, 85_520_809_984);
    let capability = whole.cuda_compute_capability().expect("told");
    assert_eq!((capability.major, capability.minor), (9, 0));
    let pci = whole.pci_info().expect("told");
    assert_eq!(pci.bus_id, "00000000:17:00.0");
    assert_eq!((pci.domain, pci.bus, pci.device), (0, 0x17, 0));

    assert!(matches!(nvml.device_by_index(1), Err(NvmlError::GpuLost)));
    let integrated = nvml.device_by_index(2).expect("answers");
    assert!(matches!(integrated.memory_info(), Err(NvmlError::NotSupported)));
    assert!(matches!(integrated.uuid(), Err(NvmlError::NotSupported)));
    assert!(matches!(integrated.pci_info(), Err(NvmlError::NotSupported)));
    let denied = nvml.device_by_index(3).expect("answers");
    assert!(matches!(denied.memory_info(), Err(NvmlError::NoPermission)));
    assert!(matches!(nvml.device_by_index(4), Err(NvmlError::InvalidArg)));

    // SAFETY: the function takes a number and returns a static text.
    let text = unsafe { nvml.lib().nvmlErrorString(15) };
    // SAFETY: the text ends with a zero and lives as long as the library.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    assert_eq!(text.to_str(), Ok("GPU is lost"));
    nvml.shutdown().expect("shuts down");

    divided_and_linked(&script, &init);

    fs::write(&script, r#"{ "gpu": [] }"#).expect("written");
    assert!(matches!(init(), Err(NvmlError::Unknown)), "a misspelt field");
}

/// Instances, links, and errors of single calls.
fn divided_and_linked(script: &Path, init: &dyn Fn() -> Result<Nvml, NvmlError>) {
    let gpus = r#"{
        "errors": { "nvmlSystemGetDriverVersion": 4 },
        "gpus": [
            { "name": "divided", "memoryBytes": 80, "migMode": true, "nvlinks": [true, false],
              "migDevices": [null, { "name": "part", "memoryBytes": 10 }, { "name": "secret" }] },
            { "name": "whole", "migMode": false, "errors": { "nvmlDeviceGetUUID": 999 } },
            { "name": "old" }
        ]
    }"#;
    fs::write(script, gpus).expect("written");
    let nvml = init().expect("initialises");
    assert!(matches!(nvml.sys_driver_version(), Err(NvmlError::NoPermission)));

    let divided = nvml.device_by_index(0).expect("answers");
    assert_eq!(divided.mig_mode().expect("told").current, 1);
    assert_eq!(divided.mig_device_count().expect("told"), 3, "places");
    assert!(matches!(divided.mig_device_by_index(0), Err(NvmlError::NotFound)));
    assert!(matches!(divided.mig_device_by_index(3), Err(NvmlError::InvalidArg)));
    let part = divided.mig_device_by_index(1).expect("an instance");
    assert_eq!(part.name().expect("told"), "part");
    assert_eq!(part.memory_info().expect("told").total, 10);
    assert!(matches!(part.mig_mode(), Err(NvmlError::InvalidArg)), "of GPUs alone");
    let secret = divided.mig_device_by_index(2).expect("an instance");
    assert!(matches!(secret.memory_info(), Err(NvmlError::NotSupported)));
    assert!(divided.link_wrapper_for(0).is_active().expect("told"));
    assert!(!divided.link_wrapper_for(1).is_active().expect("told"));
    assert!(matches!(divided.link_wrapper_for(2).is_active(), Err(NvmlError::InvalidArg)));

    let whole = nvml.device_by_index(1).expect("answers");
    assert_eq!(whole.mig_mode().expect("told").current, 0);
    assert!(matches!(whole.uuid(), Err(NvmlError::Unknown)));
    let old = nvml.device_by_index(2).expect("answers");
    assert!(matches!(old.mig_mode(), Err(NvmlError::NotSupported)));
    assert!(matches!(old.link_wrapper_for(0).is_active(), Err(NvmlError::NotSupported)));
    nvml.shutdown().expect("shuts down");
}
