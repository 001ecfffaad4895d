//! The GPUs of a node in the document: which count, with what memory, and what they can do.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rollcall_report::{
    AmdGpu, ComputeCapability, Gpu, Gpus, NvidiaDriver, Reading, Shared, Subject,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    GpuEntry, Incomplete, MIB, Need, NodeData, NodeGpus, Source, Warning, allocatable, count,
};
use crate::roll::loss::{Losses, Standing};

/// How many GPUs a node has of each kind; what is not known is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuStates {
    /// Those that this host drives itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// Those of them that their driver answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable: Option<u64>,
    /// Those of them that it does not answer for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Those that are handed on to virtual machines; not part of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_through: Option<u64>,
    /// Those in the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Those that Kubernetes can allocate, each as one; not known where they are offered several times
    /// over, or in parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<u64>,
}

impl GpuStates {
    /// Counts a node's GPUs; `entry` is its entry in the document, if it has one.
    pub fn of(source: &Source<'_>, entry: Option<&NodeData>) -> Self {
        let counted = entry.map(|entry| entry.gpus.count);
        let Some(gpus) = source.inventory.gpus.known() else {
            return Self { counted, ..Self::default() };
        };
        let amd = match &gpus.amd {
            Reading::Known(amd) => Some(count(amd)),
            Reading::Absent => Some(0),
            Reading::Failed { .. } => None,
        };
        let sum = |nvidia: Option<u64>| Some(nvidia? + amd?);
        let (expected, usable) = match &gpus.nvidia_driver {
            Reading::Known(driver) => {
                (Some(expected(gpus, driver, &source.losses)), Some(count(&driver.gpus)))
            }
            Reading::Absent => (Some(on_bus(gpus)), Some(0)),
            Reading::Failed { .. } => (gpus.nvidia_pci_devices.known().map(|&n| n.into()), None),
        };
        // What is known of them stands from an earlier report, and says nothing of how they are now.
        let usable = usable.filter(|_| !source.gpus_unanswered);
        Self {
            expected: sum(expected),
            usable: sum(usable),
            lost: expected.zip(usable).map(|(expected, usable)| expected.saturating_sub(usable)),
            passed_through: gpus
                .nvidia_pci_devices
                .failure()
                .is_none()
                .then_some(gpus.passed_through.into()),
            counted,
            allocatable: source.allocatable.as_ref().and_then(|it| allocatable::whole(gpus, it)),
        }
    }
}

fn on_bus(gpus: &Gpus) -> u64 {
    gpus.nvidia_pci_devices.known().copied().unwrap_or(0).into()
}

/// How many NVIDIA GPUs there should be: by the bus, the driver's list, or what was known.
fn expected(gpus: &Gpus, driver: &NvidiaDriver, losses: &Losses<'_>) -> u64 {
    let usable = count(&driver.gpus);
    let listed = usable + count(&driver.failures);
    on_bus(gpus).max(listed).max(usable + count(losses.all()))
}

pub(super) fn gpus(
    need: Need<'_>,
    source: &Source<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<NodeGpus, Incomplete> {
    let gpus = need.known(Subject::Gpus, &source.inventory.gpus)?;
    if !gpus.unmeasured.is_empty() {
        let devices = gpus.unmeasured.iter().map(|accelerator| {
            format!(
                "{} ({}:{})",
                accelerator.pci_address, accelerator.vendor_id, accelerator.device_id
            )
        });
        warnings.push(Warning::Unmeasured {
            node: need.node.clone(),
            count: gpus.unmeasured.len(),
            devices: devices.collect::<Vec<_>>().join(", "),
        });
    }
    let nvidia = nvidia(need, gpus, &source.losses, warnings)?;
    if let Some(offered) = &source.allocatable {
        warnings.extend(allocatable::differences(need.node, gpus, offered));
    }
    let counted = nvidia.into_iter().map(Counted::from);
    let counted: Vec<Counted<'_>> =
        counted.chain(amd(need, gpus)?.iter().map(Counted::from)).collect();

    let mut entries = Vec::with_capacity(counted.len());
    for gpu in &counted {
        let memory = match gpu.memory_bytes {
            Reading::Known(bytes) => bytes / MIB,
            Reading::Absent => {
                let (node, model) = (need.node.clone(), gpu.model.to_string());
                warnings.push(Warning::GpuMemoryShared { node, model });
                0
            }
            Reading::Failed { reason } => return Err(need.missing(Subject::Gpus, reason)),
        };
        entries.push(GpuEntry { model_name: gpu.model.clone(), memory });
    }
    let mut model_names: Vec<Shared<str>> = Vec::new();
    for entry in &entries {
        if !model_names.contains(&entry.model_name) {
            model_names.push(entry.model_name.clone());
        }
    }
    Ok(NodeGpus {
        count: count(&entries),
        memory: entries.iter().map(|entry| entry.memory).sum(),
        features: features_of_all(&counted),
        gpus: entries,
        model_names,
    })
}

/// NVIDIA's GPUs that count: those that answer, and those that are lost and still count. Where the
/// driver was never heard, those that others tell of, as long as they are as many as on the bus.
fn nvidia<'a>(
    need: Need<'_>,
    gpus: &'a Gpus,
    losses: &Losses<'a>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<&'a Gpu>, Incomplete> {
    let driver = match (&gpus.nvidia_driver, &gpus.nvidia_pci_devices) {
        (Reading::Known(driver), _) => driver,
        // No GPU, so no driver was asked: a healthy 0.
        (Reading::Absent, Reading::Absent | Reading::Known(0)) => return Ok(Vec::new()),
        (Reading::Absent, Reading::Known(_)) => {
            return Err(need.missing(Subject::Gpus, "there are GPUs, and no driver was asked"));
        }
        (Reading::Failed { reason }, Reading::Known(on_bus))
            if *on_bus > 0 && count(&gpus.nvidia_unasked) == u64::from(*on_bus) =>
        {
            warnings.push(Warning::GpusUnasked {
                node: need.node.clone(),
                count: count(&gpus.nvidia_unasked),
                reason: reason.clone(),
            });
            return Ok(gpus.nvidia_unasked.iter().collect());
        }
        (Reading::Failed { reason }, _) | (Reading::Absent, Reading::Failed { reason }) => {
            return Err(need.missing(Subject::Gpus, reason));
        }
    };
    let expected = expected(gpus, driver, losses);
    let lost = expected.saturating_sub(count(&driver.gpus));
    // Those that were lost together are told together.
    let mut held: BTreeMap<(Timestamp, Option<Timestamp>), u64> = BTreeMap::new();
    let mut given_up_since: Option<Timestamp> = None;
    for loss in losses.all() {
        let since = loss.lost.since;
        match loss.standing {
            Standing::Counted { until } => *held.entry((since, until)).or_default() += 1,
            Standing::GivenUp => {
                given_up_since = Some(given_up_since.map_or(since, |first| first.min(since)));
            }
        }
    }
    let not_counted = lost.saturating_sub(held.values().sum());
    warnings.extend(held.into_iter().map(|((since, until), lost)| Warning::GpusHeld {
        node: need.node.clone(),
        lost,
        expected,
        since,
        until,
    }));
    if not_counted > 0 {
        warnings.push(Warning::GpusLost {
            node: need.node.clone(),
            lost: not_counted,
            expected,
            since: given_up_since,
        });
    }
    Ok(losses.counted(&driver.gpus))
}

fn amd<'a>(need: Need<'_>, gpus: &'a Gpus) -> Result<&'a [AmdGpu], Incomplete> {
    match &gpus.amd {
        Reading::Known(amd) => Ok(amd),
        Reading::Absent => Ok(&[]),
        Reading::Failed { reason } => Err(need.missing(Subject::Gpus, reason)),
    }
}

/// A GPU that counts, whoever made it.
struct Counted<'a> {
    model: &'a Shared<str>,
    memory_bytes: &'a Reading<u64>,
    make: Make<'a>,
}

/// What tells what a GPU can do.
#[derive(Clone, Copy, PartialEq)]
enum Make<'a> {
    Nvidia(Option<ComputeCapability>, &'a str),
    Amd { device_id: &'a str },
}

impl Make<'_> {
    fn features(self) -> Vec<&'static str> {
        match self {
            Self::Nvidia(capability, model) => {
                capability.map_or_else(Vec::new, |at| features(at, model))
            }
            Self::Amd { device_id } => amd_features(device_id),
        }
    }
}

impl<'a> From<&'a Gpu> for Counted<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self {
            model: &gpu.model,
            memory_bytes: &gpu.memory_bytes,
            make: Make::Nvidia(gpu.compute_capability, &gpu.model),
        }
    }
}

impl<'a> From<&'a AmdGpu> for Counted<'a> {
    fn from(gpu: &'a AmdGpu) -> Self {
        Self {
            model: &gpu.model,
            memory_bytes: &gpu.memory_bytes,
            make: Make::Amd { device_id: &gpu.device_id },
        }
    }
}

/// What a node's GPUs can do: what every one of them can, so that work which asks for a feature may
/// land on any.
fn features_of_all(gpus: &[Counted<'_>]) -> Vec<String> {
    let Some((first, others)) = gpus.split_first() else { return Vec::new() };
    let mut features = first.make.features();
    // Most nodes have GPUs of one kind.
    for other in others.iter().filter(|other| other.make != first.make) {
        let its_own = other.make.features();
        features.retain(|name| its_own.contains(name));
    }
    features.into_iter().map(str::to_owned).collect()
}

/// What a GPU can do by its compute capability.
///
/// Source: CUDA C++ Programming Guide, "Compute Capabilities": arithmetic throughput and supported
/// types by version. Turing's TU116 and TU117 (GTX 16xx, T400 to T2000, MX450, MX550) have compute capability 7.5
/// without tensor cores.
pub fn features(capability: ComputeCapability, model: &str) -> Vec<&'static str> {
    let at_least = |major, minor| (capability.major, capability.minor) >= (major, minor);
    let turing_without = (capability.major, capability.minor) == (7, 5)
        && ["GTX 16", "T400", "T500", "T550", "T600", "T1000", "T1200", "T2000", "MX450", "MX550"]
            .iter()
            .any(|name| model.contains(name));
    [
        ("fp16", at_least(5, 3)),
        ("tensor_cores", at_least(7, 0) && !turing_without),
        ("bf16", at_least(8, 0)),
        ("fp8", at_least(8, 9)),
    ]
    .into_iter()
    .filter_map(|(name, has)| has.then_some(name))
    .collect()
}

/// What an AMD GPU can do by its PCI device; of one that is not listed nothing is said.
/// `tensor_cores` is NVIDIA's term, AMD's have none.
///
/// Sources: `drivers/gpu/drm/amd/amdgpu/amdgpu_drv.c` (Arcturus) and the PCI ID Repository (2025.07.11)
/// for the devices; `ROCm`'s "Data types and precision support" for the types by architecture.
pub fn amd_features(device_id: &str) -> Vec<&'static str> {
    match device_id.to_ascii_lowercase().as_str() {
        // CDNA, Arcturus: MI100. CDNA 2, Aldebaran: MI250X, MI250, MI210.
        "0x7388" | "0x738c" | "0x738e" | "0x7390" | "0x7408" | "0x740c" | "0x740f" => {
            vec!["fp16", "bf16"]
        }
        // CDNA 3, Aqua Vanjaram: MI300A, MI300X, MI308X, MI325X, MI300X HF; then the virtual
        // functions of MI300X, MI325X and MI300X HF.
        "0x74a0" | "0x74a1" | "0x74a2" | "0x74a5" | "0x74a9" | "0x74b5" | "0x74b9" | "0x74bd" => {
            vec!["fp16", "bf16", "fp8"]
        }
        _ => Vec::new(),
    }
}
