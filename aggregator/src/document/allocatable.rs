//! The GPUs that a node's drivers answer for, beside those that Kubernetes can allocate there.
//!
//! GPUs may be offered in parts (MIG), and several times over (time slicing, MPS): what may have another
//! reason than a fault is not told.
//!
//! Source: NVIDIA's `k8s-device-plugin`, "Shared access to GPUs" and "MIG strategies".

use std::collections::BTreeMap;

use rollcall_report::{Gpu, Gpus, MigInstance, NodeId};

use super::{Warning, count};
use crate::kubernetes::nodes::{AllocatableGpus, MigStrategy};

/// How many GPUs can be allocated, each as one. `None`: that is not known.
pub(super) fn whole(gpus: &Gpus, offered: &AllocatableGpus) -> Option<u64> {
    let driven = gpus.nvidia_driver.known().map_or(&[][..], |driver| &driver.gpus);
    let are_divided = driven.iter().any(|gpu| gpu.mig.is_some()) || !offered.mig.is_empty();
    let may_be_shared = match offered.is_shared {
        Some(is_shared) => is_shared,
        None => offered.nvidia.is_some_and(|offered| offered > count(driven)),
    };
    if are_divided || may_be_shared || offered.nvidia_shared.is_some_and(|shared| shared > 0) {
        return None;
    }
    let amd = gpus.amd.known().map_or(&[][..], Vec::as_slice);
    match (offered.nvidia, offered.amd) {
        (None, None) => None,
        // More than there are may be partitions.
        (_, Some(offered)) if offered > count(amd) => None,
        (nvidia, amd) => Some(nvidia.unwrap_or(0).saturating_add(amd.unwrap_or(0))),
    }
}

/// Where the drivers answer for another number than can be allocated.
pub(super) fn differences(node: &NodeId, gpus: &Gpus, offered: &AllocatableGpus) -> Vec<Warning> {
    let mut compared: Vec<(String, u64, u64)> = Vec::new();
    if let Some(driver) = gpus.nvidia_driver.known() {
        compared.extend(nvidia(&driver.gpus, offered));
    }
    if let (Some(amd), Some(allocatable)) = (gpus.amd.known(), offered.amd) {
        let usable = count(amd);
        // More of them may be partitions.
        let both = ("AMD GPUs".to_owned(), usable, allocatable);
        compared.extend((allocatable < usable).then_some(both));
    }
    let differ = compared.into_iter().filter(|(_, usable, allocatable)| usable != allocatable);
    differ
        .map(|(what, usable, allocatable)| Warning::GpusNotAllocatable {
            node: node.clone(),
            what,
            usable,
            allocatable,
        })
        .collect()
}

/// What is there and what is offered, where the two are the same things.
fn nvidia(driven: &[Gpu], offered: &AllocatableGpus) -> Vec<(String, u64, u64)> {
    if offered.is_shared == Some(true) || offered.nvidia_shared.is_some_and(|shared| shared > 0) {
        return Vec::new();
    }
    let instances: Vec<&MigInstance> =
        driven.iter().flat_map(|gpu| gpu.mig.iter().flatten()).collect();
    let divided = driven.iter().filter(|gpu| gpu.mig.is_some()).count();
    let undivided = driven.iter().filter(|gpu| gpu.mig.is_none()).count();
    let undivided = u64::try_from(undivided).unwrap_or(u64::MAX);
    // More than there are may be parts in time, where nobody says that they are not.
    let believed =
        |usable: u64, allocatable: u64| offered.is_shared == Some(false) || allocatable < usable;
    let compare = |what: String, usable: u64, allocatable: Option<u64>| {
        let allocatable = allocatable.filter(|it| believed(usable, *it))?;
        Some((what, usable, allocatable))
    };
    let gpus = |usable| compare("NVIDIA GPUs".to_owned(), usable, offered.nvidia);
    if divided == 0 {
        // Nobody offers parts of what is not divided: what is offered is of before.
        return if offered.mig.is_empty() {
            gpus(undivided).into_iter().collect()
        } else {
            Vec::new()
        };
    }
    let is_mixed = match offered.mig_strategy {
        Some(strategy) => strategy == MigStrategy::Mixed,
        None => !offered.mig.is_empty(),
    };
    if is_mixed {
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for instance in &instances {
            // One whose kind is not known may be of any.
            let Some(kind) = kind_of(instance) else { return Vec::new() };
            *kinds.entry(kind).or_default() += 1;
        }
        let parts = kinds.into_iter().filter_map(|(kind, usable)| {
            compare(format!("MIG instances {kind}"), usable, offered.mig.get(&kind).copied())
        });
        return gpus(undivided).into_iter().chain(parts).collect();
    }
    if offered.mig_strategy == Some(MigStrategy::Single) && undivided == 0 {
        let instances = count(&instances);
        return compare("MIG instances".to_owned(), instances, offered.nvidia)
            .into_iter()
            .collect();
    }
    Vec::new()
}

/// What an instance's resource is called: `1g.10gb` of `NVIDIA A100-SXM4-80GB MIG 1g.10gb`; attributes follow after
/// a point there, and after `+` in the name.
fn kind_of(instance: &MigInstance) -> Option<String> {
    let (_, kind) = instance.model.rsplit_once(" MIG ")?;
    Some(kind.replace('+', "."))
}

#[cfg(test)]
mod tests {
    use rollcall_report::{NvidiaDriver, Reading};

    use super::*;

    /// GPUs with the kinds of their instances; none: not divided.
    fn gpus(nvidia: &[&[&str]], amd: usize) -> Gpus {
        let instance = |kind: &&str| MigInstance {
            model: format!("NVIDIA H100 80GB HBM3 MIG {kind}"),
            memory_bytes: Reading::Known(1),
        };
        let gpu = |(index, kinds): (usize, &&[&str])| Gpu {
            index: u32::try_from(index).expect("small"),
            model: "NVIDIA H100 80GB HBM3".into(),
            memory_bytes: Reading::Known(1),
            compute_capability: None,
            uuid: None,
            pci_address: None,
            active_nvlinks: None,
            mig: (!kinds.is_empty()).then(|| kinds.iter().map(instance).collect()),
        };
        let amd_gpu = |_| rollcall_report::AmdGpu {
            pci_address: "0000:01:00.0".into(),
            device_id: "0x74a1".into(),
            model: "AMD Instinct MI300X".into(),
            memory_bytes: Reading::Known(1),
        };
        let driver = NvidiaDriver {
            version: None,
            cuda_version: None,
            gpus: nvidia.iter().enumerate().map(gpu).collect(),
            failures: Vec::new(),
        };
        Gpus {
            nvidia_pci_devices: Reading::Absent,
            lost: Vec::new(),
            passed_through: 0,
            nvidia_driver: Reading::Known(driver),
            nvidia_unasked: Vec::new(),
            amd: Reading::Known((0..amd).map(amd_gpu).collect()),
            unmeasured: Vec::new(),
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn what_differs_and_what_only_seems_to() {
        let none = AllocatableGpus::default;
        let of = |nvidia| AllocatableGpus { nvidia: Some(nvidia), ..none() };
        let mig = |kinds: &[(&str, u64)]| -> BTreeMap<String, u64> {
            kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
        };
        let whole_one: &[&str] = &[];
        let eight: &[&[&str]] = &[whole_one; 8];
        let seven_parts: &[&str] = &["1g.10gb"; 7];
        let two_divided: &[&[&str]] = &[&[], &[], seven_parts, &["3g.40gb", "1g.10gb+me"]];
        for (what, gpus, offered, expected, whole_gpus) in [
            ("no device plugin", gpus(eight, 0), none(), &[][..], None),
            ("as many", gpus(eight, 0), of(8), &[], Some(8)),
            (
                "one is not healthy",
                gpus(eight, 0),
                of(7),
                &["8 NVIDIA GPUs, Kubernetes can allocate 7"],
                Some(7),
            ),
            (
                "none can be allocated",
                gpus(eight, 0),
                of(0),
                &["8 NVIDIA GPUs, Kubernetes can allocate 0"],
                Some(0),
            ),
            ("more: perhaps shared", gpus(eight, 0), of(32), &[], None),
            (
                "more, and not shared",
                gpus(eight, 0),
                AllocatableGpus { is_shared: Some(false), ..of(9) },
                &["8 NVIDIA GPUs, Kubernetes can allocate 9"],
                Some(9),
            ),
            (
                "shared by time",
                gpus(eight, 0),
                AllocatableGpus { is_shared: Some(true), ..of(4) },
                &[],
                None,
            ),
            (
                "shared under another name",
                gpus(eight, 0),
                AllocatableGpus { nvidia_shared: Some(32), ..of(0) },
                &[],
                None,
            ),
            (
                "divided, mixed",
                gpus(two_divided, 0),
                AllocatableGpus {
                    mig: mig(&[("1g.10gb", 7), ("3g.40gb", 1), ("1g.10gb.me", 1)]),
                    mig_strategy: Some(MigStrategy::Mixed),
                    ..of(2)
                },
                &[],
                None,
            ),
            (
                "divided, mixed, some missing",
                gpus(two_divided, 0),
                AllocatableGpus { mig: mig(&[("1g.10gb", 5), ("1g.10gb.me", 0)]), ..of(1) },
                &[
                    "2 NVIDIA GPUs, Kubernetes can allocate 1",
                    "7 MIG instances 1g.10gb, Kubernetes can allocate 5",
                    "1 MIG instances 1g.10gb.me, Kubernetes can allocate 0",
                ],
                None,
            ),
            (
                "divided, all alike",
                gpus(&[seven_parts, seven_parts], 0),
                AllocatableGpus { mig_strategy: Some(MigStrategy::Single), ..of(13) },
                &["14 MIG instances, Kubernetes can allocate 13"],
                None,
            ),
            (
                "divided, as whole ones",
                gpus(&[seven_parts, seven_parts], 0),
                AllocatableGpus { mig_strategy: Some(MigStrategy::None), ..of(1) },
                &[],
                None,
            ),
            ("divided, nobody says how", gpus(two_divided, 0), of(2), &[], None),
            (
                "divided no more",
                gpus(&[&[]], 0),
                AllocatableGpus { mig: mig(&[("1g.10gb", 7)]), ..of(0) },
                &[],
                None,
            ),
            (
                "AMD",
                gpus(&[], 4),
                AllocatableGpus { amd: Some(3), ..none() },
                &["4 AMD GPUs, Kubernetes can allocate 3"],
                Some(3),
            ),
            (
                "AMD in partitions",
                gpus(&[], 4),
                AllocatableGpus { amd: Some(32), ..none() },
                &[],
                None,
            ),
        ] {
            let id = "n1".parse().expect("an id");
            let told = differences(&id, &gpus, &offered);
            let told: Vec<String> = told.iter().map(ToString::to_string).collect();
            let expected: Vec<String> =
                expected.iter().map(|it| format!("node n1: the driver answers for {it}")).collect();
            assert_eq!(told, expected, "{what}");
            assert_eq!(whole(&gpus, &offered), whole_gpus, "{what}");
        }
    }
}
