//! What NVIDIA's library (NVML) answered, call by call, as the child process writes it down and as a
//! capture of a machine keeps it. Nothing is judged here.
//!
//! On the wire each answer is `{"value": …}` or `{"error": CODE}` with the code of `nvmlReturn_t` in
//! NVIDIA's nvml.h. These names are stable: captures of years ago are read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What came of asking NVML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answers {
    /// The library was initialised and asked.
    Driver(DriverAnswers),
    /// There is no such library.
    LibraryMissing {
        /// What the dynamic loader said.
        detail: String,
    },
    /// There is such a library and it cannot be used.
    LibraryUnusable {
        /// What the dynamic loader said.
        detail: String,
    },
    /// `nvmlInit` failed.
    InitFailed {
        /// What it returned.
        code: u32,
    },
    /// The process that asked did not end in time and was killed.
    TimedOut {
        /// How long it was given.
        seconds: u64,
    },
    /// A process that asked hangs in the driver and outlives being killed.
    Stuck {
        /// Its id.
        pid: u32,
        /// When it began to ask, as RFC 3339 has it.
        since: String,
    },
    /// The process that asked was ended by a signal, in the library or the driver.
    Crashed {
        /// The signal's number.
        signal: i32,
        /// The last that it said.
        said: String,
    },
    /// The process that asked could not be started, or said nothing that is understood.
    NotAsked {
        /// Why.
        detail: String,
    },
}

impl Answers {
    /// Whether, in a container, only a new one helps: the library, and the right to open the GPUs,
    /// are given to it when it is created.
    pub const fn need_new_container(&self) -> bool {
        match self {
            Self::LibraryMissing { .. } => true,
            Self::InitFailed { code } => *code == Code::UNKNOWN.0,
            _ => false,
        }
    }
}

/// What the driver as a whole answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverAnswers {
    /// `nvmlSystemGetDriverVersion`.
    pub driver_version: Answer<String>,
    /// `nvmlSystemGetCudaDriverVersion_v2`: 1000 times the major plus 10 times the minor version.
    pub cuda_driver_version: Answer<i32>,
    /// `nvmlDeviceGetCount_v2`.
    pub device_count: Answer<u32>,
    /// `nvmlDeviceGetHandleByIndex_v2`, in the order of the indices, and what each handle answered.
    pub devices: Vec<Answer<DeviceAnswers>>,
}

/// What a GPU answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAnswers {
    /// `nvmlDeviceGetName`.
    pub name: Answer<String>,
    /// `nvmlDeviceGetMemoryInfo_v2`, the total in bytes.
    pub memory_total: Answer<u64>,
    /// `nvmlDeviceGetCudaComputeCapability`: major and minor.
    pub compute_capability: Answer<(i32, i32)>,
    /// `nvmlDeviceGetUUID`.
    pub uuid: Answer<String>,
    /// `nvmlDeviceGetPciInfo_v3`, the address with a domain of 8 digits.
    pub pci_bus_id: Answer<String>,
    /// `nvmlDeviceGetMigMode`: whether the GPU is divided into instances now.
    pub mig_mode: Answer<bool>,
    /// `nvmlDeviceGetMigDeviceHandleByIndex`, without the empty places.
    #[serde(default)]
    pub mig_devices: Vec<MigAnswers>,
    /// `nvmlDeviceGetNvLinkState`: how many links are active.
    pub nvlinks_active: Answer<u32>,
}

/// What a part of a divided GPU (MIG) answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigAnswers {
    /// `nvmlDeviceGetName`.
    pub name: Answer<String>,
    /// `nvmlDeviceGetMemoryInfo_v2`, the total in bytes.
    pub memory_total: Answer<u64>,
}

/// The answer to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer<T> {
    /// The call succeeded.
    Value(T),
    /// The call failed, with this code.
    Error(Code),
}

impl<T> Answer<T> {
    /// The value, where the call succeeded.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Error(_) => None,
        }
    }
}

/// What a call to NVML failed with: `nvmlReturn_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The GPU cannot do this, or has no such thing.
    pub const NOT_SUPPORTED: Self = Self(3);
    /// The process may not ask this.
    pub const NO_PERMISSION: Self = Self(4);
    /// There is no such thing.
    pub const NOT_FOUND: Self = Self(6);
    /// The kernel module is not loaded.
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    /// A library that the driver consists of is not there.
    pub const LIBRARY_NOT_FOUND: Self = Self(12);
    /// The library does not have the function; also said of one that is too old to have it.
    pub const FUNCTION_NOT_FOUND: Self = Self(13);
    /// The GPU has fallen off the bus.
    pub const GPU_IS_LOST: Self = Self(15);
    /// The GPU must be reset before it can be used.
    pub const RESET_REQUIRED: Self = Self(16);
    /// The operating system keeps the process from the GPU.
    pub const OPERATING_SYSTEM: Self = Self(17);
    /// The kernel module and the library are of different versions.
    pub const VERSION_MISMATCH: Self = Self(18);
    /// Anything else.
    pub const UNKNOWN: Self = Self(999);

    /// What the code means, and what to do: the words that an operator reads.
    pub const fn words(self) -> &'static str {
        match self.0 {
            1 => "the library is not initialised",
            2 => "the library refuses the argument",
            3 => "not supported",
            4 => {
                "no permission: run the agent as root, or let its user open /dev/nvidiactl and \
                 /dev/nvidia0, 1, …; in a container, give it the GPUs and their utilities"
            }
            6 => "not found",
            7 => "the library wants more room for its answer",
            8 => {
                "the GPU's power cables are not attached as they should be: have the machine looked at"
            }
            9 => {
                "NVIDIA's library is there and its kernel driver is not loaded: load it (modprobe nvidia) \
                 and look into the kernel's log if that fails"
            }
            10 => "the driver gave up waiting for the GPU: look for NVRM in the kernel's log",
            11 => "the GPU's interrupts do not arrive: look for NVRM in the kernel's log",
            12 => {
                "a library of NVIDIA's driver is missing beside libnvidia-ml.so.1: install all \
                 libraries of the version in /sys/module/nvidia/version"
            }
            13 => {
                "NVIDIA's library is too old to tell it: upgrade the driver to version 510 or later"
            }
            14 => "the GPU's infoROM is corrupted: have the GPU replaced",
            15 => {
                "the GPU has fallen off the bus: look for \"Xid 79\" in the kernel's log, reboot, and \
                 have the GPU looked at if it happens again"
            }
            16 => {
                "the GPU must be reset before it can be used: drain the node, then nvidia-smi --gpu-reset, \
                 or reboot"
            }
            17 => {
                "the operating system keeps the agent from the GPU: allow its control group the device \
                 nodes /dev/nvidia*"
            }
            18 => {
                "NVIDIA's kernel driver and library are of different versions: finish the upgrade by \
                 loading the new kernel driver, or reboot"
            }
            19 => "the GPU is in use by somebody who wants it alone",
            20 => "the driver has too little memory for its answer",
            21 => "the driver has no data on it",
            999 => {
                "the driver does not say what is wrong: look for NVRM in the kernel's log; in a container, \
                 a reload of systemd on the host may have taken the GPUs away, and only a new container \
                 gets them again"
            }
            _ => "an error that only a newer rollcall knows: look it up in NVIDIA's nvml.h",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (NVML code {})", self.words(), self.0)
    }
}

/// The name of a signal that ends a process by a fault of its own or another's will.
pub(super) const fn signal_name(signal: i32) -> Option<&'static str> {
    // signal(7): these numbers are the same on every architecture that Linux has GPUs on.
    Some(match signal {
        4 => "SIGILL, an instruction that this processor does not have",
        6 => "SIGABRT, given up by itself",
        7 => "SIGBUS, memory that does not answer",
        8 => "SIGFPE, a calculation that cannot be done",
        9 => "SIGKILL, ended by another, perhaps for want of memory",
        11 => "SIGSEGV, memory that is not its own",
        15 => "SIGTERM, ended by another",
        31 => "SIGSYS, a system call that is forbidden to it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_keep_their_form() {
        let captured = r#"{"driver":{"driverVersion":{"value":"570.86.15"},"cudaDriverVersion":{"value":12080},"deviceCount":{"value":2},"devices":[{"value":{"name":{"value":"NVIDIA A100-SXM4-80GB"},"memoryTotal":{"error":4},"computeCapability":{"value":[8,0]},"uuid":{"value":"GPU-1"},"pciBusId":{"value":"00000000:18:00.0"},"migMode":{"value":true},"migDevices":[{"name":{"value":"NVIDIA A100-SXM4-80GB MIG 1g.10gb"},"memoryTotal":{"value":10200547328}}],"nvlinksActive":{"error":3}}},{"error":15}]}}"#;
        let answers: Answers = serde_json::from_str(captured).expect("understood");
        assert_eq!(serde_json::to_string(&answers).expect("encodes"), captured);
        for (answers, form) in [
            (
                Answers::LibraryMissing { detail: "no".into() },
                r#"{"libraryMissing":{"detail":"no"}}"#,
            ),
            (
                Answers::LibraryUnusable { detail: "no".into() },
                r#"{"libraryUnusable":{"detail":"no"}}"#,
            ),
            (Answers::InitFailed { code: 18 }, r#"{"initFailed":{"code":18}}"#),
            (Answers::TimedOut { seconds: 10 }, r#"{"timedOut":{"seconds":10}}"#),
            (
                Answers::Stuck { pid: 7, since: "2026-01-02T03:04:05Z".into() },
                r#"{"stuck":{"pid":7,"since":"2026-01-02T03:04:05Z"}}"#,
            ),
            (
                Answers::Crashed { signal: 11, said: String::new() },
                r#"{"crashed":{"signal":11,"said":""}}"#,
            ),
            (Answers::NotAsked { detail: "no".into() }, r#"{"notAsked":{"detail":"no"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&answers).expect("encodes"), form);
            assert_eq!(serde_json::from_str::<Answers>(form).expect("understood"), answers);
        }
    }

    #[test]
    fn the_codes_that_an_operator_meets_say_what_to_do() {
        for (code, words) in [
            (Code::NO_PERMISSION, "/dev/nvidiactl"),
            (Code::DRIVER_NOT_LOADED, "modprobe nvidia"),
            (Code::LIBRARY_NOT_FOUND, "install all libraries"),
            (Code::FUNCTION_NOT_FOUND, "upgrade the driver"),
            (Code::GPU_IS_LOST, "Xid 79"),
            (Code::RESET_REQUIRED, "--gpu-reset"),
            (Code::OPERATING_SYSTEM, "control group"),
            (Code::VERSION_MISMATCH, "different versions"),
            (Code::UNKNOWN, "only a new container"),
            (Code(4711), "(NVML code 4711)"),
        ] {
            let message = code.to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
