//! GPUs and other accelerators: what is on the PCI bus, what NVIDIA's driver says of its own, and
//! what sysfs says of AMD's.
//!
//! No NVIDIA device, a device without an answering driver, and a driver that answers are three
//! different answers. [`look`] reads files, [`Source`] asks NVIDIA's library in a child process, and
//! [`build`] makes the inventory of both without asking anybody.

mod amd;
pub mod answers;
pub mod child;
pub mod labels;
mod nvidia;
mod nvml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use rollcall_report::{Accelerator, AmdGpu, Gpu, Gpus, Reading, clean_text};

use self::answers::Answers;
use self::labels::GpuLabels;
use super::pci::{self, Function};
use super::{NVIDIA_GPUS, mib};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::HostRoot;

/// Kernel modules of NVIDIA's drivers, of which the second one drives integrated GPUs alone.
const NVIDIA_MODULES: [&str; 2] = ["/sys/module/nvidia", "/sys/module/nvgpu"];

const OWN_RULES: [Rule; 16] = [
    DRIVEN,
    UNDRIVEN,
    ATTACHED,
    NODE_LABELS,
    LOST,
    UNMATCHED,
    OFF_BUS,
    VIRTUAL_FUNCTION,
    PASSED_THROUGH,
    DISPLAY_ADAPTER,
    NO_GPU,
    OTHER_DISPLAY,
    UNMEASURED,
    NONE,
    NO_BUS,
    BUS_UNREADABLE,
];

const DRIVEN: Rule =
    Rule::new("nvidia-gpu", "an NVIDIA GPU of this host, and its driver answers for it");
const UNDRIVEN: Rule = Rule::new(
    "nvidia-undriven",
    "an NVIDIA GPU of this host, and its driver does not answer at all",
);
const ATTACHED: Rule = Rule::new(
    "nvidia-attached",
    "how many NVIDIA GPUs the kernel's driver has taken, which is told where its library does not answer",
);
const NODE_LABELS: Rule = Rule::new(
    "node-labels",
    "what gpu-feature-discovery's labels on the Node say of each GPU, where NVIDIA's library does not \
     answer; a GPU may have died since",
);
const LOST: Rule = Rule::new(
    "nvidia-lost",
    "an NVIDIA GPU on the bus that its driver, which answers, is silent on",
);
const UNMATCHED: Rule = Rule::new(
    "nvidia-unmatched",
    "an NVIDIA GPU of this host that may be the one whose address the driver does not tell",
);
const OFF_BUS: Rule =
    Rule::new("nvidia-off-bus", "a GPU that NVIDIA's driver answers for and that is on no PCI bus");
const VIRTUAL_FUNCTION: Rule =
    Rule::new("virtual-function", "a part of a device that counts itself (SR-IOV)");
const PASSED_THROUGH: Rule =
    Rule::new("passed-through", "handed on to a virtual machine, where it counts");
const DISPLAY_ADAPTER: Rule =
    Rule::new("display-adapter", "for the monitors of a DGX Station, and not to compute on");
const NO_GPU: Rule = Rule::new(
    "no-gpu",
    "another device of a GPU's maker: sound, USB, a bridge, an NVSwitch, a copying engine",
);
const OTHER_DISPLAY: Rule =
    Rule::new("display", "a display of a maker whose displays do not compute");
const UNMEASURED: Rule =
    Rule::new("unmeasured", "an accelerator that is named, and that rollcall cannot measure");
const NONE: Rule = Rule::new("no-gpus", "there is no GPU on the bus, and the library is not asked");
const NO_BUS: Rule = Rule::new("no-pci-bus", "the machine has no PCI bus to look at");
const BUS_UNREADABLE: Rule =
    Rule::new("bus-unreadable", "which GPUs are on the bus cannot be read, which is not none");

/// The rules for GPUs.
pub(super) fn rules() -> impl Iterator<Item = Rule> {
    OWN_RULES.into_iter().chain(nvidia::RULES).chain(amd::RULES)
}

/// The device and the board of a DGX Station's display adapter: on another board the same device is
/// a T1000. Source: "Supported GPUs" in the README of NVIDIA's open kernel modules.
const DGX_DISPLAY: (u32, (u32, u32)) = (0x1fb0, (pci::NVIDIA, 0x1485));

/// Where a processor of Intel's has its own GPU.
const INTEL_INTEGRATED: &str = "0000:00:02.0";

/// What the machine's files say of its GPUs.
#[derive(Debug)]
pub(super) struct Bus {
    /// Absent where there is no PCI bus.
    functions: Reading<Vec<Function>>,
    /// By PCI address.
    amd: BTreeMap<String, amd::Facts>,
    kernel: Option<(u32, u32)>,
    has_nvidia_module: bool,
    /// PCI addresses of those that NVIDIA's kernel driver has taken; `None` where it does not tell.
    attached: Option<BTreeSet<String>>,
}

/// Reads what the machine's files say of its GPUs, which are among these functions. Of the GPUs that
/// NVIDIA's kernel driver has taken only the names are known: what stands in the files below
/// [`NVIDIA_GPUS`], the driver is asked for, and a driver that hangs does not answer.
pub(super) fn look(
    root: &HostRoot,
    functions: &Reading<Vec<Function>>,
    kernel_release: Option<&str>,
    attached: Option<BTreeSet<String>>,
) -> Bus {
    let functions = functions.clone().map(|mut functions| {
        functions.retain(Function::may_be_gpu);
        functions
    });
    let amd = functions.known().into_iter().flatten().filter(|function| is_amd_gpu(function));
    Bus {
        amd: amd.map(|it| (it.address.clone(), amd::look(root, it))).collect(),
        kernel: kernel_release.and_then(amd::kernel_version),
        attached,
        has_nvidia_module: NVIDIA_MODULES.iter().any(|module| root.resolve(module).is_ok()),
        functions,
    }
}

impl Bus {
    /// Whether there is anything that NVIDIA's library may know of. Where there is not, it is not
    /// even loaded.
    pub(super) fn concerns_nvidia(&self) -> bool {
        match &self.functions {
            Reading::Known(functions) => {
                self.has_nvidia_module || functions.iter().any(is_expected)
            }
            // Integrated GPUs are on no PCI bus: their driver tells of them.
            Reading::Absent => self.has_nvidia_module,
            Reading::Failed { .. } => true,
        }
    }

    /// NVIDIA's GPUs as others tell of them, where they tell of all: each was taken by the kernel's
    /// driver, all are of one device, and so are what the labels describe.
    fn unasked(&self, labels: Option<&GpuLabels>) -> Vec<Gpu> {
        let (Some(functions), Some(attached), Some(labels)) =
            (self.functions.known(), &self.attached, labels)
        else {
            return Vec::new();
        };
        let gpus: Vec<&Function> = functions.iter().filter(|it| is_expected(it)).collect();
        let device = gpus.first().map(|gpu| gpu.device);
        if !gpus.iter().all(|gpu| attached.contains(&gpu.address) && Some(gpu.device) == device) {
            return Vec::new();
        }
        let gpu = |(index, function): (u32, &Function)| Gpu {
            index,
            model: labels.product.as_str().into(),
            memory_bytes: Reading::Known(labels.memory_bytes),
            compute_capability: labels.compute_capability,
            uuid: None,
            pci_address: Some(clean_text(&function.address).into()),
            active_nvlinks: None,
            mig: None,
        };
        (0..).zip(gpus).map(gpu).collect()
    }

    /// What others tell of NVIDIA's GPUs, as it is shown.
    fn told_by_others(&self, labels: Option<&GpuLabels>) -> impl Iterator<Item = Finding> {
        let attached = self.attached.as_ref().map(|attached| {
            Finding::new(Verdict::Apart, ATTACHED, "the kernel's driver")
                .value(attached.len().to_string())
                .source(NVIDIA_GPUS)
        });
        let labels = labels.map(|labels| {
            Finding::new(Verdict::Apart, NODE_LABELS, "each GPU")
                .value(format!("{}, {}", labels.product, mib(labels.memory_bytes)))
                .source("the Node's labels nvidia.com/gpu.product and .memory")
        });
        attached.into_iter().chain(labels)
    }
}

/// Where NVML's answers come from.
#[derive(Debug)]
pub(super) enum Source {
    /// This machine's library.
    Library(Box<child::Library>),
    /// A machine that was captured.
    Recorded(Answers),
}

impl Source {
    /// This machine's library, asked by `program`.
    pub(super) fn library(program: PathBuf, library: PathBuf, deadline: Duration) -> Self {
        Self::Library(Box::new(child::Library::new(program, library, deadline)))
    }

    /// NVML's answers, in no more than the deadline and a moment.
    pub(super) async fn answers(&mut self) -> Answers {
        match self {
            Self::Library(library) => library.ask().await,
            Self::Recorded(answers) => answers.clone(),
        }
    }
}

/// Makes the inventory of what the files, NVIDIA's library and the Node's labels say; `answers` is
/// `None` where the library was not asked, `labels` where there are none.
pub(super) fn build(
    bus: &Bus,
    answers: Option<&Answers>,
    labels: Option<&GpuLabels>,
) -> Probed<Reading<Gpus>> {
    let driver = answers.map(|answers| nvidia::build(answers, labels));
    let mut made = Made::default();
    let functions = match &bus.functions {
        Reading::Known(functions) => functions.as_slice(),
        Reading::Absent => {
            made.findings.push(Finding::new(Verdict::Unknown, NO_BUS, "PCI").source(pci::DEVICES));
            &[]
        }
        Reading::Failed { reason } => {
            let finding = Finding::new(Verdict::Failed, BUS_UNREADABLE, "PCI").value(reason);
            made.findings.push(finding.source(pci::DEVICES));
            &[]
        }
    };
    for function in functions {
        made.add(function, bus, driver.as_ref());
    }
    made.add_off_bus(functions, driver.as_ref());
    let is_none = made.expected == 0 && !matches!(bus.functions, Reading::Failed { .. });
    let nvidia_driver = driver.map_or(Reading::Absent, |driver| {
        let has_none = driver
            .reading
            .known()
            .is_some_and(|driver| driver.gpus.is_empty() && driver.failures.is_empty());
        // A driver without a GPU is not there, or has nothing to say: neither is a failure.
        if is_none && (driver.is_missing || has_none) {
            return Reading::Absent;
        }
        made.findings.extend(driver.findings);
        driver.reading
    });
    let unasked = if nvidia_driver.failure().is_some() {
        made.findings.extend(bus.told_by_others(labels));
        bus.unasked(labels)
    } else {
        Vec::new()
    };
    if made.findings.is_empty() {
        made.findings
            .push(Finding::new(Verdict::Counted, NONE, "GPUs").value("0").source(pci::DEVICES));
    }
    let gpus = Gpus {
        nvidia_pci_devices: bus.functions.clone().map(|_| made.expected),
        lost: made.lost,
        passed_through: made.passed_through,
        nvidia_unasked: unasked,
        nvidia_driver,
        amd: match &bus.functions {
            Reading::Failed { reason } => Reading::failed(reason),
            _ if made.amd.is_empty() => Reading::Absent,
            _ => Reading::Known(made.amd),
        },
        unmeasured: made.unmeasured,
    };
    Probed { reading: Reading::Known(gpus), findings: made.findings }
}

/// The inventory in the making.
#[derive(Debug, Default)]
struct Made {
    expected: u32,
    passed_through: u32,
    lost: Vec<String>,
    amd: Vec<AmdGpu>,
    unmeasured: Vec<Accelerator>,
    findings: Vec<Finding>,
}

impl Made {
    fn add(&mut self, function: &Function, bus: &Bus, driver: Option<&nvidia::Driver>) {
        let address = function.address.as_str();
        let finding =
            |verdict, rule, file| Finding::new(verdict, rule, address).source(function.file(file));
        let finding = if is_no_display(function) {
            finding(Verdict::PassedOver, NO_GPU, "class").value(format!("{:#08x}", function.class))
        } else if function.is_virtual {
            finding(Verdict::PassedOver, VIRTUAL_FUNCTION, "physfn")
        } else if function.is_passed_through() {
            // Of other makers it is not known whether they are GPUs.
            let is_gpu = matches!(function.vendor, pci::NVIDIA | pci::AMD);
            self.passed_through = self.passed_through.saturating_add(u32::from(is_gpu));
            let verdict = if is_gpu { Verdict::Apart } else { Verdict::PassedOver };
            finding(verdict, PASSED_THROUGH, "driver")
                .value(function.driver.as_deref().unwrap_or_default())
        } else if is_display_adapter(function)
            || driver.is_some_and(|driver| driver.displays.contains(address))
        {
            let finding = finding(Verdict::PassedOver, DISPLAY_ADAPTER, "subsystem_device");
            // On another board its name alone tells.
            if is_display_adapter(function) { finding } else { finding.source("nvmlDeviceGetName") }
        } else if is_nvidia_gpu(function) {
            self.expected = self.expected.saturating_add(1);
            self.match_with_driver(function, driver)
        } else if let Some(facts) = bus.amd.get(address) {
            let (judged, finding) = amd::judge(function, facts, bus.kernel);
            match judged {
                amd::Judged::Gpu(gpu) => self.amd.push(gpu),
                amd::Judged::Unmeasured => self.unmeasured.push(accelerator(function)),
                amd::Judged::PassedOver => {}
            }
            finding
        } else if is_unmeasured(function) {
            self.unmeasured.push(accelerator(function));
            finding(Verdict::Apart, UNMEASURED, "class")
                .value(format!("{:#06x}:{:#06x}", function.vendor, function.device))
        } else {
            finding(Verdict::PassedOver, OTHER_DISPLAY, "class")
                .value(format!("{:#06x}:{:#06x}", function.vendor, function.device))
        };
        self.findings.push(finding);
    }

    /// Whether NVIDIA's driver answers for a GPU on the bus.
    fn match_with_driver(
        &mut self,
        function: &Function,
        driver: Option<&nvidia::Driver>,
    ) -> Finding {
        const CALL: &str = "nvmlDeviceGetPciInfo_v3";
        let address = function.address.as_str();
        let finding = |verdict, rule| Finding::new(verdict, rule, address).source(CALL);
        let Some(driver) = driver.filter(|driver| driver.reading.known().is_some()) else {
            let finding = finding(Verdict::Failed, UNDRIVEN).value(if driver.is_some() {
                "NVIDIA's driver does not answer"
            } else {
                "NVIDIA's library was not asked"
            });
            return Finding { advice: driver.and_then(|driver| driver.advice), ..finding };
        };
        if let Some(model) = driver.usable.get(address) {
            return finding(Verdict::Counted, DRIVEN).value(model);
        }
        if driver.is_one_nowhere {
            return finding(Verdict::Unknown, UNMATCHED);
        }
        self.lost.push(clean_text(address));
        finding(Verdict::Failed, LOST).value("not among the GPUs that answer").advice(
            "look for NVRM and Xid in the kernel's log; reset the GPU or reboot, and have it looked at if \
             it happens again. A container must be given all GPUs (NVIDIA_VISIBLE_DEVICES=all)",
        )
    }

    /// Tells of GPUs that answer and are not among those expected on the bus.
    fn add_off_bus(&mut self, functions: &[Function], driver: Option<&nvidia::Driver>) {
        let gpus = driver.and_then(|driver| driver.reading.known()).map(|driver| &driver.gpus);
        for gpu in gpus.into_iter().flatten() {
            let is_on_bus = gpu.pci_address.as_ref().is_some_and(|address| {
                functions.iter().any(|function| function.address == address.as_str())
            });
            if !is_on_bus {
                self.findings.push(
                    Finding::new(Verdict::Counted, OFF_BUS, &format!("GPU {}", gpu.index))
                        .value(gpu.model.as_str())
                        .source("nvmlDeviceGetHandleByIndex_v2"),
                );
            }
        }
    }
}

/// Whether a function is a GPU of NVIDIA's that this host ought to drive, as far as the bus tells.
fn is_expected(function: &Function) -> bool {
    is_nvidia_gpu(function)
        && !function.is_virtual
        && !function.is_passed_through()
        && !is_display_adapter(function)
}

const fn is_nvidia_gpu(function: &Function) -> bool {
    function.vendor == pci::NVIDIA && matches!(function.subclass(), pci::CLASS_VGA | pci::CLASS_3D)
}

fn is_amd_gpu(function: &Function) -> bool {
    function.vendor == pci::AMD && !is_no_display(function)
}

fn is_display_adapter(function: &Function) -> bool {
    let (device, board) = DGX_DISPLAY;
    is_nvidia_gpu(function) && function.device == device && function.subsystem == Some(board)
}

/// Whether it is neither a display nor an accelerator for computing.
const fn is_no_display(function: &Function) -> bool {
    !matches!(
        function.subclass(),
        pci::CLASS_VGA
            | pci::CLASS_3D
            | pci::CLASS_OTHER_DISPLAY
            | pci::CLASS_PROCESSING_ACCELERATOR
    )
}

/// Accelerators of other makers. A display of Intel's that is no VGA adapter is a Data Center GPU,
/// unless it sits where Intel's processors have their own.
fn is_unmeasured(function: &Function) -> bool {
    match function.subclass() {
        pci::CLASS_3D | pci::CLASS_PROCESSING_ACCELERATOR => true,
        pci::CLASS_OTHER_DISPLAY => {
            function.vendor == pci::INTEL && function.address != INTEL_INTEGRATED
        }
        _ => false,
    }
}

fn accelerator(function: &Function) -> Accelerator {
    Accelerator {
        pci_address: clean_text(&function.address),
        vendor_id: format!("{:#06x}", function.vendor),
        device_id: format!("{:#06x}", function.device),
    }
}
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use rollcall_report::{IdSource, Inventory, NodeIdentity, Subject};

    use super::answers::{Answer, Code, DeviceAnswers, DriverAnswers, MigAnswers};
    use std::time::SystemTime;

    use super::*;
    use crate::health::Watch;
    use crate::probe::Survey;

    const H100_BYTES: u64 = 85_520_809_984;

    fn function(address: &str, vendor: u32, class: u32) -> Function {
        Function {
            path: PathBuf::new(),
            address: address.to_owned(),
            vendor,
            device: 0x2330,
            subsystem: None,
            class,
            is_virtual: false,
            driver: None,
        }
    }

    fn gpu_at(address: &str) -> Function {
        function(address, pci::NVIDIA, 0x03_02_00)
    }

    fn bus(functions: Vec<Function>) -> Bus {
        Bus {
            functions: Reading::Known(functions),
            amd: BTreeMap::new(),
            kernel: Some((6, 12)),
            has_nvidia_module: false,
            attached: None,
        }
    }

    fn h100(bus_id: &str) -> DeviceAnswers {
        DeviceAnswers {
            name: Answer::Value("NVIDIA H100 80GB HBM3".into()),
            memory_total: Answer::Value(H100_BYTES),
            compute_capability: Answer::Value((9, 0)),
            uuid: Answer::Value(format!("GPU-{bus_id}")),
            pci_bus_id: Answer::Value(bus_id.to_owned()),
            mig_mode: Answer::Value(false),
            mig_devices: Vec::new(),
            nvlinks_active: Answer::Value(18),
        }
    }

    fn driver(devices: Vec<Answer<DeviceAnswers>>) -> Answers {
        Answers::Driver(DriverAnswers {
            driver_version: Answer::Value("570.86.15".into()),
            cuda_driver_version: Answer::Value(12_080),
            device_count: Answer::Value(u32::try_from(devices.len()).expect("few")),
            devices,
        })
    }

    fn built(bus: &Bus, answers: Option<&Answers>) -> (Gpus, Vec<Finding>) {
        let Probed { reading, findings } = build(bus, answers, None);
        (reading.known().expect("the bus and the driver fail by themselves").clone(), findings)
    }

    /// Which rule a candidate was judged by.
    fn rule_of(findings: &[Finding], candidate: &str) -> (Verdict, Rule) {
        let mut of_candidate = findings.iter().filter(|finding| finding.candidate == candidate);
        let finding = of_candidate.next().expect(candidate);
        assert_eq!(of_candidate.next(), None, "{candidate}: one verdict");
        (finding.verdict, finding.rule)
    }

    fn h100_labels() -> GpuLabels {
        let labels = [
            ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),
            ("nvidia.com/gpu.memory", "81559"),
            ("nvidia.com/gpu.compute.major", "9"),
            ("nvidia.com/gpu.compute.minor", "0"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        GpuLabels::of(&labels).expect("labels of whole GPUs")
    }

    #[test]
    fn gpus_that_others_tell_of() {
        let (one, two) = ("0000:17:00.0", "0000:65:00.0");
        let other = Function { device: 0x20b2, ..gpu_at(two) };
        let missing = Answers::LibraryMissing { detail: "libnvidia-ml.so.1: not found".into() };
        let answering = driver(vec![Answer::Value(h100("00000000:17:00.0"))]);
        let both = || Some(BTreeSet::from([one.to_owned(), two.to_owned()]));
        let first = || Some(BTreeSet::from([one.to_owned()]));
        for (what, functions, attached, answers, labelled, expected) in [
            ("all agree", vec![gpu_at(one), gpu_at(two)], both(), &missing, true, 2),
            ("no labels", vec![gpu_at(one), gpu_at(two)], both(), &missing, false, 0),
            ("the kernel does not tell", vec![gpu_at(one)], None, &missing, true, 0),
            (
                "the kernel has one of two",
                vec![gpu_at(one), gpu_at(two)],
                first(),
                &missing,
                true,
                0,
            ),
            ("two models, and one label", vec![gpu_at(one), other], both(), &missing, true, 0),
            ("a GPU that is gone from the bus", vec![gpu_at(one)], both(), &missing, true, 1),
            ("a driver that answers", vec![gpu_at(one)], first(), &answering, true, 0),
        ] {
            let bus = Bus { attached, ..bus(functions) };
            let labels = labelled.then(h100_labels);
            let Probed { reading, findings } = build(&bus, Some(answers), labels.as_ref());
            let gpus = reading.known().expect("fails by itself");
            let told: Vec<(&str, Option<u64>)> = gpus
                .nvidia_unasked
                .iter()
                .map(|gpu| (gpu.model.as_str(), gpu.memory_bytes.known().map(|bytes| bytes >> 20)))
                .collect();
            assert_eq!(told, vec![("NVIDIA-H100-80GB-HBM3", Some(81_559)); expected], "{what}");
            let is_failed = gpus.nvidia_driver.failure().is_some();
            assert_eq!(is_failed, what != "a driver that answers", "{what}");
            let named = |rule| findings.iter().any(|finding: &Finding| finding.rule == rule);
            assert_eq!(named(ATTACHED), is_failed && bus.attached.is_some(), "{what}");
            assert_eq!(named(NODE_LABELS), is_failed && labelled, "{what}");
        }
    }

    #[test]
    fn memory_that_only_the_label_tells() {
        let mut device = h100("00000000:17:00.0");
        device.memory_total = Answer::Error(Code::NO_PERMISSION);
        for (what, model, expected) in [
            ("of this model", "NVIDIA H100 80GB HBM3", Some(81_559)),
            ("of another model", "NVIDIA H100 PCIe", None),
        ] {
            device.name = Answer::Value(model.into());
            let answers = driver(vec![Answer::Value(device.clone())]);
            let bus = bus(vec![gpu_at("0000:17:00.0")]);
            let probed = build(&bus, Some(&answers), Some(&h100_labels()));
            let gpus = probed.reading.known().expect("fails by itself").clone();
            let memory = gpus.nvidia_driver.known().expect("answers").gpus[0].memory_bytes.clone();
            assert_eq!(memory.known().map(|bytes| bytes >> 20), expected, "{what}");
            let source = probed
                .findings
                .iter()
                .any(|finding| finding.source == "the Node's label nvidia.com/gpu.memory");
            assert_eq!(source, expected.is_some(), "{what}: the source is named");
        }
    }

    #[test]
    fn what_is_on_the_bus() {
        const AT: &str = "0000:17:00.0";
        let driven_by = |driver: &str, mut function: Function| {
            function.driver = Some(driver.into());
            function
        };
        let virtual_function = |mut function: Function| {
            function.is_virtual = true;
            function
        };
        let of_board = |device, board, mut function: Function| {
            function.device = device;
            function.subsystem = Some((pci::NVIDIA, board));
            function
        };
        let nvidia = |class| function(AT, pci::NVIDIA, class);
        let amd = |class| function(AT, pci::AMD, class);
        let intel = |class| function(AT, pci::INTEL, class);
        for (why, function, rule, (expected, passed_through, unmeasured)) in [
            ("a VGA adapter", nvidia(0x03_00_00), UNDRIVEN, (1, 0, 0)),
            ("a 3D controller", driven_by("nvidia", nvidia(0x03_02_00)), UNDRIVEN, (1, 0, 0)),
            ("under nouveau", driven_by("nouveau", nvidia(0x03_02_00)), UNDRIVEN, (1, 0, 0)),
            ("its sound", nvidia(0x04_03_00), NO_GPU, (0, 0, 0)),
            ("its USB", nvidia(0x0c_03_30), NO_GPU, (0, 0, 0)),
            ("an NVSwitch", nvidia(0x06_80_00), NO_GPU, (0, 0, 0)),
            ("handed on", driven_by("vfio-pci", nvidia(0x03_02_00)), PASSED_THROUGH, (0, 1, 0)),
            (
                "a Grace Hopper's, handed on",
                driven_by("nvgrace-gpu-vfio-pci", nvidia(0x03_02_00)),
                PASSED_THROUGH,
                (0, 1, 0),
            ),
            ("kept back", driven_by("pci-stub", nvidia(0x03_00_00)), PASSED_THROUGH, (0, 1, 0)),
            (
                "a virtual function",
                virtual_function(nvidia(0x03_02_00)),
                VIRTUAL_FUNCTION,
                (0, 0, 0),
            ),
            (
                "a DGX Station's display",
                of_board(0x1fb0, 0x1485, nvidia(0x03_00_00)),
                DISPLAY_ADAPTER,
                (0, 0, 0),
            ),
            ("a T1000", of_board(0x1fb0, 0x12db, nvidia(0x03_00_00)), UNDRIVEN, (1, 0, 0)),
            ("AMD's bridge", amd(0x06_04_00), NO_GPU, (0, 0, 0)),
            ("AMD's, handed on", driven_by("vfio-pci", amd(0x12_00_00)), PASSED_THROUGH, (0, 1, 0)),
            ("AMD's virtual", virtual_function(amd(0x12_00_00)), VIRTUAL_FUNCTION, (0, 0, 0)),
            ("a Data Center GPU", intel(0x03_80_00), UNMEASURED, (0, 0, 1)),
            ("a processor's graphics", intel(0x03_00_00), OTHER_DISPLAY, (0, 0, 0)),
            ("a Gaudi", function(AT, 0x1da3, 0x12_00_00), UNMEASURED, (0, 0, 1)),
            ("a copying engine", function(AT, 0x1022, 0x12_01_00), NO_GPU, (0, 0, 0)),
            ("another's 3D controller", function(AT, 0x1234, 0x03_02_00), UNMEASURED, (0, 0, 1)),
            ("another's display", function(AT, 0x1234, 0x03_80_00), OTHER_DISPLAY, (0, 0, 0)),
            ("a server's console", function(AT, 0x1a03, 0x03_00_00), OTHER_DISPLAY, (0, 0, 0)),
        ] {
            let bus = bus(vec![function]);
            let asked = bus.concerns_nvidia();
            assert_eq!(asked, expected > 0, "{why}");
            let (gpus, findings) = built(&bus, None);
            let found = (gpus.passed_through, gpus.unmeasured.len());
            assert_eq!(gpus.nvidia_pci_devices, Reading::Known(expected), "{why}");
            assert_eq!(found, (passed_through, unmeasured), "{why}");
            assert_eq!(rule_of(&findings, AT).1, rule, "{why}");
        }
    }

    #[test]
    fn an_amd_gpu_is_measured_by_its_own_files() {
        let mut bus = bus(vec![function("0000:c1:00.0", pci::AMD, 0x12_00_00)]);
        let facts = amd::Facts {
            revision: None,
            product_name: Some("AMD Instinct MI300X OAM".into()),
            has_board_info: true,
            vram_vendor: None,
            vram_bytes: Reading::Known(206_141_652_992),
        };
        bus.amd.insert("0000:c1:00.0".into(), facts);
        let (gpus, _) = built(&bus, None);
        let amd = gpus.amd.known().expect("one");
        assert_eq!(amd.len(), 1);
        assert_eq!(amd[0].model.as_str(), "AMD Instinct MI300X");
        assert_eq!(amd[0].memory_bytes, Reading::Known(206_141_652_992));
        assert!(gpus.unmeasured.is_empty(), "measured");
        assert!(gpus.nvidia_driver.is_absent());
    }

    #[test]
    fn a_lost_gpu_is_named_by_its_address() {
        let all = ["0000:17:00.0", "0000:65:00.0", "0000:ca:00.0"];
        let bus = bus(all.map(gpu_at).into());
        let answers = driver(vec![
            Answer::Value(h100("00000000:17:00.0")),
            Answer::Error(Code::GPU_IS_LOST),
            Answer::Value(h100("00000000:CA:00.0")),
        ]);
        let (gpus, findings) = built(&bus, Some(&answers));
        assert_eq!(gpus.nvidia_pci_devices, Reading::Known(3));
        assert_eq!(gpus.lost, ["0000:65:00.0"]);
        let nvidia = gpus.nvidia_driver.known().expect("answers");
        assert_eq!((nvidia.gpus.len(), nvidia.failures.len()), (2, 1));
        assert!(nvidia.failures[0].reason.contains("Xid 79"), "{}", nvidia.failures[0].reason);
        assert_eq!(rule_of(&findings, "0000:65:00.0"), (Verdict::Failed, LOST));
        assert_eq!(rule_of(&findings, "0000:ca:00.0"), (Verdict::Counted, DRIVEN));
        assert!(findings.iter().all(|it| it.verdict != Verdict::Failed || it.advice.is_some()));
        // The driver may not even list it any more.
        let fewer = driver(vec![Answer::Value(h100("00000000:17:00.0"))]);
        let (gpus, _) = built(&bus, Some(&fewer));
        assert_eq!(gpus.lost, ["0000:65:00.0", "0000:ca:00.0"]);
    }

    #[test]
    fn without_an_address_no_gpu_is_called_lost() {
        let bus = bus(["0000:17:00.0", "0000:65:00.0"].map(gpu_at).into());
        let nowhere = DeviceAnswers { pci_bus_id: Answer::Error(Code::UNKNOWN), ..h100("") };
        let answers = driver(vec![Answer::Value(h100("00000000:17:00.0")), Answer::Value(nowhere)]);
        let (gpus, findings) = built(&bus, Some(&answers));
        assert_eq!(gpus.lost, Vec::<String>::new());
        assert_eq!(rule_of(&findings, "0000:65:00.0"), (Verdict::Unknown, UNMATCHED));
    }

    #[test]
    fn a_driver_that_fails_as_a_whole_loses_no_gpu() {
        let bus = bus(vec![gpu_at("0000:17:00.0")]);
        for (answers, words) in [
            (
                Answers::LibraryMissing { detail: "libnvidia-ml.so.1: cannot open".into() },
                "NVIDIA's library libnvidia-ml.so.1 is not installed",
            ),
            (
                Answers::LibraryUnusable { detail: "libcuda.so.1: cannot open".into() },
                "cannot be loaded (libcuda.so.1: cannot open)",
            ),
            (Answers::InitFailed { code: 9 }, "modprobe nvidia"),
            (Answers::InitFailed { code: 18 }, "different versions"),
            (Answers::InitFailed { code: 4 }, "does not answer nvmlInit: no permission"),
            (Answers::InitFailed { code: 999 }, "only a new container"),
            (Answers::TimedOut { seconds: 10 }, "did not answer within 10 s"),
            (
                Answers::Stuck { pid: 4711, since: "2026-01-02T03:04:05Z".into() },
                "since 2026-01-02T03:04:05Z: process 4711 hangs",
            ),
            (Answers::Crashed { signal: 11, said: "oops".into() }, "SIGSEGV"),
            (Answers::NotAsked { detail: "no such file".into() }, "no such file"),
            (
                Answers::Driver(DriverAnswers {
                    driver_version: Answer::Error(Code::UNKNOWN),
                    cuda_driver_version: Answer::Error(Code::UNKNOWN),
                    device_count: Answer::Error(Code::NO_PERMISSION),
                    devices: Vec::new(),
                }),
                "does not count its GPUs: no permission",
            ),
        ] {
            let (gpus, findings) = built(&bus, Some(&answers));
            let reason = gpus.nvidia_driver.failure().expect(words);
            assert!(reason.contains(words), "{reason}");
            assert!(reason.chars().count() < 400, "{reason}");
            assert_eq!(gpus.nvidia_pci_devices, Reading::Known(1), "{words}");
            assert!(gpus.lost.is_empty(), "{words}");
            assert_eq!(rule_of(&findings, "0000:17:00.0"), (Verdict::Failed, UNDRIVEN));
        }
    }

    #[test]
    fn a_driver_without_a_gpu_is_no_failure() {
        for functions in [Reading::Known(Vec::new()), Reading::Absent] {
            let mut bus = bus(Vec::new());
            bus.functions = functions;
            assert!(!bus.concerns_nvidia());
            bus.has_nvidia_module = true;
            assert!(bus.concerns_nvidia());
            for answers in [
                Answers::LibraryMissing { detail: "none".into() },
                Answers::InitFailed { code: 9 },
                driver(Vec::new()),
            ] {
                let (gpus, _) = built(&bus, Some(&answers));
                assert!(gpus.nvidia_driver.is_absent(), "{answers:?}");
            }
            let (gpus, _) = built(&bus, Some(&Answers::TimedOut { seconds: 10 }));
            assert!(gpus.nvidia_driver.failure().is_some());
            // An integrated one shares the machine's memory and is on no bus.
            let orin = DeviceAnswers {
                memory_total: Answer::Error(Code::NOT_SUPPORTED),
                pci_bus_id: Answer::Error(Code::NOT_SUPPORTED),
                ..h100("")
            };
            let (gpus, findings) = built(&bus, Some(&driver(vec![Answer::Value(orin)])));
            let nvidia = gpus.nvidia_driver.known().expect("answers");
            assert_eq!(nvidia.gpus[0].memory_bytes, Reading::Absent);
            assert!(findings.iter().any(|finding| finding.rule == OFF_BUS), "{findings:?}");
        }
    }

    #[test]
    fn a_bus_that_cannot_be_read_has_not_no_gpus() {
        let mut bus = bus(Vec::new());
        bus.functions = Reading::failed("an I/O error");
        assert!(bus.concerns_nvidia());
        let (gpus, findings) = built(&bus, None);
        assert_eq!(gpus.nvidia_pci_devices.failure(), Some("an I/O error"));
        assert_eq!(gpus.amd.failure(), Some("an I/O error"));
        assert_eq!(rule_of(&findings, "PCI"), (Verdict::Failed, BUS_UNREADABLE));
    }

    #[test]
    fn a_display_adapter_is_known_by_its_name_too() {
        let bus = bus(["0000:c1:00.0", "0000:c2:00.0"].map(gpu_at).into());
        for name in ["NVIDIA DGX Display", "DGX Display"] {
            let display =
                DeviceAnswers { name: Answer::Value(name.into()), ..h100("00000000:C1:00.0") };
            let answers =
                driver(vec![Answer::Value(display), Answer::Value(h100("00000000:C2:00.0"))]);
            let (gpus, findings) = built(&bus, Some(&answers));
            assert_eq!(gpus.nvidia_pci_devices, Reading::Known(1));
            assert_eq!(gpus.nvidia_driver.known().expect("answers").gpus.len(), 1);
            assert!(gpus.lost.is_empty());
            let judged = rule_of(&findings, "0000:c1:00.0");
            assert_eq!(judged, (Verdict::PassedOver, DISPLAY_ADAPTER));
        }
    }

    #[test]
    fn a_divided_gpu_counts_and_its_instances_do_not() {
        let bus = bus(vec![gpu_at("0000:17:00.0")]);
        let instance = |memory_total| MigAnswers {
            name: Answer::Value("NVIDIA H100 80GB HBM3 MIG 1g.10gb".into()),
            memory_total,
        };
        let divided = |memory_total| DeviceAnswers {
            mig_mode: Answer::Value(true),
            mig_devices: vec![
                instance(Answer::Value(10_200_547_328)),
                instance(Answer::Error(Code::NO_PERMISSION)),
            ],
            memory_total,
            ..h100("00000000:17:00.0")
        };
        let (gpus, findings) =
            built(&bus, Some(&driver(vec![Answer::Value(divided(Answer::Value(H100_BYTES)))])));
        let gpu = &gpus.nvidia_driver.known().expect("answers").gpus[0];
        assert_eq!(gpu.memory_bytes, Reading::Known(H100_BYTES));
        let instances = gpu.mig.as_ref().expect("divided");
        assert_eq!(instances[0].memory_bytes, Reading::Known(10_200_547_328));
        assert!(instances[1].memory_bytes.failure().is_some());
        let apart = findings.iter().filter(|finding| finding.verdict == Verdict::Apart).count();
        assert_eq!(apart, 2);

        let denied = divided(Answer::Error(Code::NO_PERMISSION));
        let (gpus, findings) = built(&bus, Some(&driver(vec![Answer::Value(denied)])));
        let gpu = &gpus.nvidia_driver.known().expect("answers").gpus[0];
        assert!(gpu.memory_bytes.failure().expect("not told").contains("no permission"));
        let failed = findings.iter().find(|finding| finding.verdict == Verdict::Failed);
        let advice = failed.and_then(|finding| finding.advice).expect("advice");
        assert!(advice.contains("keeps the last known value"), "{advice}");
    }

    #[test]
    fn every_rule_has_a_name_of_its_own() {
        let names: Vec<&str> = rules().map(|rule| rule.name).collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
    }

    fn any_answer<T: std::fmt::Debug + Clone + 'static>(
        value: impl Strategy<Value = T> + 'static,
    ) -> impl Strategy<Value = Answer<T>> {
        prop_oneof![
            3 => value.prop_map(Answer::Value),
            1 => prop_oneof![0_u32..30, Just(999), any::<u32>()].prop_map(|it| Answer::Error(Code(it))),
        ]
    }

    /// Few addresses, so that the bus and the driver often speak of the same.
    fn any_bus_id() -> impl Strategy<Value = String> {
        prop_oneof![(0_u8..6).prop_map(|bus| format!("00000000:{bus:02X}:00.0")), "\\PC{0,12}"]
    }

    fn any_device() -> impl Strategy<Value = DeviceAnswers> {
        let name = prop_oneof![Just("NVIDIA DGX Display".to_owned()), "\\PC{0,40}"];
        (
            any_answer(name),
            any_answer(any::<u64>()),
            any_answer(any::<(i32, i32)>()),
            any_answer("\\PC{0,20}".prop_map(String::from)),
            any_answer(any_bus_id()),
            any_answer(any::<bool>()),
            vec(
                (any_answer("\\PC{0,9}".prop_map(String::from)), any_answer(any::<u64>()))
                    .prop_map(|(name, memory_total)| MigAnswers { name, memory_total }),
                0..3,
            ),
            any_answer(any::<u32>()),
        )
            .prop_map(|it| DeviceAnswers {
                name: it.0,
                memory_total: it.1,
                compute_capability: it.2,
                uuid: it.3,
                pci_bus_id: it.4,
                mig_mode: it.5,
                mig_devices: it.6,
                nvlinks_active: it.7,
            })
    }

    fn any_function() -> impl Strategy<Value = Function> {
        let class = prop_oneof![
            Just(0x03_02_00_u32),
            Just(0x03_00_00),
            Just(0x03_80_00),
            Just(0x12_00_00),
            0_u32..1 << 24
        ];
        let vendor = prop_oneof![Just(pci::NVIDIA), Just(pci::AMD), Just(pci::INTEL), any::<u32>()];
        let driver = prop_oneof![
            Just(None),
            Just(Some("nvidia".to_owned())),
            Just(Some("vfio-pci".to_owned())),
            Just(Some("amdgpu".to_owned()))
        ];
        (0_u8..6, vendor, any::<u32>(), class, any::<bool>(), driver).prop_map(
            |(bus, vendor, device, class, is_virtual, driver)| Function {
                path: PathBuf::new(),
                address: format!("0000:{bus:02x}:00.0"),
                vendor,
                device,
                subsystem: None,
                class,
                is_virtual,
                driver,
            },
        )
    }

    proptest! {
        #[test]
        fn no_answer_makes_more_of_the_gpus_than_there_is(
            functions in vec(any_function(), 0..8),
            devices in vec(any_answer(any_device()), 0..8),
            device_count in any_answer(any::<u32>()),
            asked: bool,
        ) {
            // A bus has one function at an address.
            let functions: BTreeMap<String, Function> =
                functions.into_iter().map(|it| (it.address.clone(), it)).collect();
            let bus = bus(functions.into_values().collect());
            let answers = Answers::Driver(DriverAnswers {
                driver_version: Answer::Value("1".into()),
                cuda_driver_version: Answer::Value(1),
                device_count,
                devices: devices.clone(),
            });
            let (gpus, findings) = built(&bus, asked.then_some(&answers));
            let expected = gpus.nvidia_pci_devices.known().copied().expect("read");
            let on_bus = bus.functions.known().expect("read").len();
            prop_assert!(gpus.lost.len() <= usize::try_from(expected).expect("few"));
            let counted = usize::try_from(expected + gpus.passed_through).expect("few");
            prop_assert!(counted + gpus.unmeasured.len() <= on_bus);
            if let Some(nvidia) = gpus.nvidia_driver.known() {
                prop_assert!(nvidia.gpus.len() + nvidia.failures.len() <= devices.len());
                // One that answers is not lost.
                for gpu in &nvidia.gpus {
                    prop_assert!(!gpus.lost.iter().any(|lost| Some(lost.as_str()) == gpu.pci_address.as_deref()));
                    prop_assert_ne!(gpu.memory_bytes.known(), Some(&0));
                }
            } else {
                prop_assert!(gpus.lost.is_empty());
            }
            let candidates: BTreeSet<&str> =
                findings.iter().map(|finding| finding.candidate.as_str()).collect();
            for function in bus.functions.known().expect("read") {
                prop_assert!(candidates.contains(function.address.as_str()), "each is judged");
            }
        }

        #[test]
        fn an_aggregator_takes_what_is_made_of_any_answer(
            functions in vec(any_function(), 0..8),
            mut devices in vec(any_answer(any_device()), 0..8),
        ) {
            for (number, device) in devices.iter_mut().enumerate() {
                let Answer::Value(device) = device else { continue };
                // No GPU has another's, and none has the memory of a cluster: that is refused.
                device.uuid = Answer::Value(format!("GPU-{number}"));
                if let Answer::Value(bytes) = &mut device.memory_total {
                    *bytes %= 1 << 44;
                }
            }
            let functions: BTreeMap<String, Function> =
                functions.into_iter().map(|it| (it.address.clone(), it)).collect();
            let bus = bus(functions.into_values().collect());
            let Probed { reading, findings } = build(&bus, Some(&driver(devices)), None);
            let inventory = Inventory {
                machine: Reading::Absent,
                cpu: Reading::Absent.into(),
                memory: Reading::Absent,
                swap: Reading::Absent,
                disks: Reading::Absent.into(),
                nics: Reading::Absent.into(),
                gpus: reading,
            };
            let explanation = BTreeMap::from([(Subject::Gpus, findings)]);
            let node = NodeIdentity {
                name: "node-1".parse().expect("a name"),
                proposed_id: "node-1".parse().expect("an id"),
                id_source: IdSource::NodeName,
                machine_hash: None,
                other_label: None,
                overwrite_label: false,
            };
            let survey = Survey { inventory: inventory.clone(), explanation };
            let report =
                crate::report::build(node, survey, &mut Watch::default(), SystemTime::UNIX_EPOCH);
            prop_assert_eq!(report.check(), Ok(()));
            prop_assert_eq!(report.inventory, inventory, "it is believed as it is");
        }

        #[test]
        fn what_was_answered_comes_back(devices in vec(any_answer(any_device()), 0..3)) {
            let answers = driver(devices);
            let text = serde_json::to_string(&answers).expect("encodes");
            prop_assert_eq!(serde_json::from_str::<Answers>(&text).expect("understood"), answers);
        }
    }
}
