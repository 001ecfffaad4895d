//! What NVIDIA's answers say of its driver and its GPUs. Nothing is asked here.

use std::collections::{BTreeMap, BTreeSet};

use rollcall_report::{
    ComputeCapability, Gpu, GpuFailure, MigInstance, NvidiaDriver, Reading, clean_text,
};

use super::answers::{Answer, Answers, Code, DeviceAnswers, DriverAnswers, signal_name};
use super::labels::GpuLabels;
use crate::finding::{Finding, Rule, Verdict};
use crate::probe::pci::sysfs_address;
use crate::probe::{known_text, mib};

/// The rules for what the driver answers.
pub(super) const RULES: [Rule; 8] = [
    GPU_MEMORY,
    SHARED_MEMORY,
    MEMORY_NOT_PERMITTED,
    MEMORY_OF_LABEL,
    MEMORY_UNKNOWN,
    GPU_FAILED,
    MIG_INSTANCE,
    DRIVER_FAILED,
];

const GPU_MEMORY: Rule =
    Rule::new("gpu-memory", "the whole of a GPU's memory, whether it is divided (MIG) or not");
const SHARED_MEMORY: Rule =
    Rule::new("shared-memory", "the GPU has none of its own: its memory is the machine's");
const MEMORY_NOT_PERMITTED: Rule = Rule::new(
    "memory-not-permitted",
    "the driver does not tell this process the memory of a GPU, which is that of before",
);
const MEMORY_OF_LABEL: Rule = Rule::new(
    "memory-of-label",
    "the driver does not tell this process the memory of a GPU; the Node's label for GPUs of its model \
     does, which gpu-feature-discovery put there",
);
const MEMORY_UNKNOWN: Rule =
    Rule::new("memory-unknown", "the driver does not tell the memory of a GPU that answers");
const GPU_FAILED: Rule =
    Rule::new("gpu-failed", "the driver lists the GPU, which does not answer: it is not usable");
const MIG_INSTANCE: Rule =
    Rule::new("mig-instance", "a part of a GPU, which counts itself, with all its memory");
pub(super) const DRIVER_FAILED: Rule = Rule::new(
    "driver-failed",
    "NVIDIA's driver as a whole does not answer: its GPUs are not known, and not 0",
);

/// How NVML's names of adapters end that a DGX Station has for its monitors.
const DISPLAY_ADAPTER: &str = "DGX Display";

/// What the answers come to.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) reading: Reading<NvidiaDriver>,
    /// Addresses of GPUs that answer, with their models.
    pub(super) usable: BTreeMap<String, String>,
    /// Addresses of display adapters.
    pub(super) displays: BTreeSet<String>,
    /// Whether a GPU answers and its address could not be read, so that any may be that one.
    pub(super) is_one_nowhere: bool,
    /// Whether the driver is just not there, which is no failure where no GPU is either.
    pub(super) is_missing: bool,
    /// What to do where the driver as a whole failed.
    pub(super) advice: Option<&'static str>,
    pub(super) findings: Vec<Finding>,
}

/// Makes of NVML's answers what is reported.
pub(super) fn build(answers: &Answers, labels: Option<&GpuLabels>) -> Driver {
    match answers {
        Answers::Driver(answers) => match &answers.device_count {
            Answer::Value(_) => of_devices(answers, labels),
            Answer::Error(code) => Driver::failed(
                &format!("NVIDIA's driver does not count its GPUs: {code}"),
                Some(code.words()),
                "nvmlDeviceGetCount_v2",
            ),
        },
        failure => of_failure(failure),
    }
}

fn of_failure(failure: &Answers) -> Driver {
    const LOG: &str = "look for NVRM and for hung tasks in the kernel's log";
    const MISSING: &str =
        "install the driver; in a container, restart the pod once the driver is there";
    match failure {
        Answers::LibraryMissing { detail } => {
            let library = detail.split_once(": ").map_or(detail.as_str(), |(library, _)| library);
            let reason = format!(
                "NVIDIA's library {library} is not installed: install the driver, or give the library's \
                 path with --nvml-library; a container gets it when it is created, so restart the pod \
                 once the driver is there"
            );
            let driver = Driver::failed(&reason, Some(MISSING), "dlopen");
            Driver { is_missing: true, ..driver }
        }
        Answers::LibraryUnusable { detail } => {
            let reason = format!(
                "NVIDIA's library cannot be loaded ({detail}): is it built for this machine and this \
                 C library?"
            );
            Driver::failed(&reason, None, "dlopen")
        }
        Answers::InitFailed { code } => {
            let code = Code(*code);
            let reason = match code {
                Code::DRIVER_NOT_LOADED | Code::VERSION_MISMATCH => code.to_string(),
                code => format!("NVIDIA's driver does not answer nvmlInit: {code}"),
            };
            let driver = Driver::failed(&reason, Some(code.words()), "nvmlInit_v2");
            let is_missing =
                matches!(code, Code::DRIVER_NOT_LOADED | Code::NOT_FOUND | Code::LIBRARY_NOT_FOUND);
            Driver { is_missing, ..driver }
        }
        Answers::TimedOut { seconds } => {
            let reason = format!(
                "NVIDIA's driver did not answer within {seconds} s and is given up until the next \
                 time: {LOG}"
            );
            Driver::failed(&reason, Some(LOG), "NVML")
        }
        Answers::Stuck { pid, since } => {
            let reason = format!(
                "NVIDIA's driver has not answered since {since}: process {pid} hangs in it and cannot \
                 be killed; {LOG}, and reboot if it stays so"
            );
            Driver::failed(&reason, Some(LOG), "NVML")
        }
        Answers::Crashed { signal, said } => {
            let name = signal_name(*signal).map(|name| format!(", {name}")).unwrap_or_default();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            let reason = format!(
                "the process that asks NVIDIA's library was ended by signal {signal}{name}{said}"
            );
            Driver::failed(&reason, Some(LOG), "NVML")
        }
        Answers::NotAsked { detail } => {
            let reason = format!("NVIDIA's library could not be asked: {detail}");
            Driver::failed(&reason, None, "NVML")
        }
        // Told apart by the caller.
        Answers::Driver(_) => Driver::failed("NVIDIA's driver answered nothing", None, "NVML"),
    }
}

impl Driver {
    fn failed(reason: &str, advice: Option<&'static str>, source: &str) -> Self {
        let finding = Finding::new(Verdict::Failed, DRIVER_FAILED, "NVIDIA's driver")
            .value(reason)
            .source(source);
        Self {
            reading: Reading::failed(reason),
            usable: BTreeMap::new(),
            displays: BTreeSet::new(),
            is_one_nowhere: false,
            is_missing: false,
            advice,
            findings: vec![Finding { advice, ..finding }],
        }
    }
}

fn of_devices(answers: &DriverAnswers, labels: Option<&GpuLabels>) -> Driver {
    let mut driver = Driver {
        reading: Reading::Absent,
        usable: BTreeMap::new(),
        displays: BTreeSet::new(),
        is_one_nowhere: false,
        is_missing: false,
        advice: None,
        findings: Vec::new(),
    };
    let mut gpus = Vec::new();
    let mut failures = Vec::new();
    for (index, device) in (0_u32..).zip(&answers.devices) {
        let answered = match device {
            Answer::Value(device) => driver.add(index, device, labels),
            Answer::Error(code) => Err((*code, "nvmlDeviceGetHandleByIndex_v2")),
        };
        match answered {
            Ok(Some(gpu)) => gpus.push(gpu),
            Ok(None) => {}
            Err((code, call)) => {
                let finding = Finding::new(Verdict::Failed, GPU_FAILED, &gpu_name(index))
                    .value(code.to_string())
                    .source(call)
                    .advice(code.words());
                driver.findings.push(finding);
                let reason = clean_text(&format!("{}: {code}", gpu_name(index)));
                failures.push(GpuFailure { index, reason });
            }
        }
    }
    driver.reading = Reading::Known(NvidiaDriver {
        version: answers
            .driver_version
            .value()
            .and_then(|version| known_text(version))
            .map(Into::into),
        cuda_version: answers
            .cuda_driver_version
            .value()
            // CUDA_VERSION of cuda.h: 1000 times the major plus 10 times the minor version.
            .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10).into()),
        gpus,
        failures,
    });
    driver
}

impl Driver {
    /// Adds a device that has a handle: a GPU, or `None` where it is a display adapter.
    fn add(
        &mut self,
        index: u32,
        device: &DeviceAnswers,
        labels: Option<&GpuLabels>,
    ) -> Result<Option<Gpu>, (Code, &'static str)> {
        let model = match &device.name {
            Answer::Value(name) => known_text(name).unwrap_or_else(|| "unnamed".to_owned()),
            Answer::Error(code) => return Err((*code, "nvmlDeviceGetName")),
        };
        let address = device.pci_bus_id.value().map(|bus_id| sysfs_address(bus_id));
        let address = address.as_deref().and_then(known_text);
        if model.ends_with(DISPLAY_ADAPTER) {
            self.displays.extend(address);
            return Ok(None);
        }
        let labels = labels.filter(|labels| labels.name(&model));
        let (memory_bytes, memory_finding) = memory(index, device, labels)?;
        match &address {
            Some(address) => {
                self.usable.insert(address.clone(), model.clone());
            }
            None => self.is_one_nowhere |= device.pci_bus_id != Answer::Error(Code::NOT_SUPPORTED),
        }
        self.findings.push(memory_finding);
        let mig = (device.mig_mode == Answer::Value(true)).then(|| self.instances(index, device));
        Ok(Some(Gpu {
            index,
            model: model.into(),
            memory_bytes,
            compute_capability: device.compute_capability.value().and_then(|&(major, minor)| {
                Some(ComputeCapability {
                    major: major.try_into().ok()?,
                    minor: minor.try_into().ok()?,
                })
            }),
            uuid: device.uuid.value().and_then(|uuid| known_text(uuid)).map(Into::into),
            pci_address: address.map(Into::into),
            active_nvlinks: device.nvlinks_active.value().copied(),
            mig,
        }))
    }

    fn instances(&mut self, index: u32, device: &DeviceAnswers) -> Vec<MigInstance> {
        let mut instances = Vec::new();
        for (place, instance) in device.mig_devices.iter().enumerate() {
            let name = instance.name.value().map(String::as_str).and_then(known_text);
            let memory_bytes = match instance.memory_total {
                Answer::Value(bytes) => Reading::Known(bytes),
                Answer::Error(code) => Reading::failed(&format!("the instance's memory: {code}")),
            };
            let told = memory_bytes.known().map(|&bytes| mib(bytes));
            let told = told.or_else(|| memory_bytes.failure().map(str::to_owned));
            let candidate = format!("{} instance {place}", gpu_name(index));
            self.findings.push(
                Finding::new(Verdict::Apart, MIG_INSTANCE, &candidate)
                    .value(told.unwrap_or_default())
                    .source("nvmlDeviceGetMigDeviceHandleByIndex"),
            );
            let model = name.unwrap_or_else(|| "unnamed".to_owned());
            instances.push(MigInstance { model, memory_bytes });
        }
        instances
    }
}

/// The GPU's own memory; `labels` are about GPUs of its model. A GPU that is lost has none that anybody could use: that is an error of
/// the GPU, and not of its memory.
fn memory(
    index: u32,
    device: &DeviceAnswers,
    labels: Option<&GpuLabels>,
) -> Result<(Reading<u64>, Finding), (Code, &'static str)> {
    const CALL: &str = "nvmlDeviceGetMemoryInfo_v2";
    let finding = |verdict, rule| Finding::new(verdict, rule, &gpu_name(index)).source(CALL);
    let failed = |code: Code| {
        Reading::failed(&format!("the memory of {} is not told: {code}", gpu_name(index)))
    };
    Ok(match device.memory_total {
        Answer::Value(bytes) if bytes > 0 => {
            (Reading::Known(bytes), finding(Verdict::Measured, GPU_MEMORY).value(mib(bytes)))
        }
        // Integrated GPUs share the machine's.
        Answer::Value(_) | Answer::Error(Code::NOT_SUPPORTED) => {
            (Reading::Absent, finding(Verdict::Measured, SHARED_MEMORY).value(mib(0)))
        }
        Answer::Error(code @ (Code::GPU_IS_LOST | Code::RESET_REQUIRED)) => {
            return Err((code, CALL));
        }
        Answer::Error(Code::NO_PERMISSION) if let Some(labels) = labels => {
            let finding = finding(Verdict::Measured, MEMORY_OF_LABEL)
                .value(mib(labels.memory_bytes))
                .source("the Node's label nvidia.com/gpu.memory");
            (Reading::Known(labels.memory_bytes), finding)
        }
        Answer::Error(Code::NO_PERMISSION) => {
            let advice =
                "run the agent as root, once is enough: the aggregator keeps the last known value";
            let finding = finding(Verdict::Failed, MEMORY_NOT_PERMITTED)
                .value(Code::NO_PERMISSION.to_string())
                .advice(advice);
            (failed(Code::NO_PERMISSION), finding)
        }
        Answer::Error(code) => {
            let finding = finding(Verdict::Failed, MEMORY_UNKNOWN)
                .value(code.to_string())
                .advice(code.words());
            (failed(code), finding)
        }
    })
}

fn gpu_name(index: u32) -> String {
    format!("GPU {index}")
}
