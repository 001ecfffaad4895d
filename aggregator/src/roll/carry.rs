//! Carrying last known values forward where a probe failed.

use rollcall_report::{Disk, Gpu, Gpus, Inventory, Nic, NvidiaDriver, Reading};

/// What is known after a report: the report itself, and where it failed, what was known before.
pub(super) fn forward(previous: Option<&Inventory>, reported: Inventory) -> Inventory {
    let Some(previous) = previous else { return reported };
    Inventory {
        machine: keep(&previous.machine, reported.machine),
        cpu: keep(&previous.cpu, reported.cpu),
        memory: keep(&previous.memory, reported.memory),
        swap: keep(&previous.swap, reported.swap),
        disks: keep(&previous.disks, reported.disks).map(|disks| carry_disks(previous, disks)),
        nics: keep(&previous.nics, reported.nics).map(|nics| carry_nics(previous, nics)),
        gpus: keep(&previous.gpus, reported.gpus).map(|gpus| carry_gpus(previous, gpus)),
    }
}

/// A failed reading gives way to one that was known; nothing else does.
fn keep<T: Clone>(previous: &Reading<T>, reported: Reading<T>) -> Reading<T> {
    match (previous, reported) {
        (Reading::Known(value), Reading::Failed { .. }) => Reading::Known(value.clone()),
        (_, reported) => reported,
    }
}

fn carry_disks(previous: &Inventory, mut disks: Vec<Disk>) -> Vec<Disk> {
    let before = previous.disks.known().map_or(&[][..], Vec::as_slice);
    for disk in &mut disks {
        if let Some(known) = before.iter().find(|known| known.name == disk.name) {
            disk.size_bytes = keep(&known.size_bytes, disk.size_bytes.clone());
        }
    }
    disks
}

fn carry_nics(previous: &Inventory, mut nics: Vec<Nic>) -> Vec<Nic> {
    let before = previous.nics.known().map_or(&[][..], Vec::as_slice);
    for nic in &mut nics {
        if let Some(known) = before.iter().find(|known| known.name == nic.name) {
            nic.speed_mbps = keep(&known.speed_mbps, nic.speed_mbps.clone());
        }
    }
    nics
}

fn carry_gpus(previous: &Inventory, gpus: Gpus) -> Gpus {
    let Some(before) = previous.gpus.known() else { return gpus };
    Gpus {
        nvidia_pci_devices: keep(&before.nvidia_pci_devices, gpus.nvidia_pci_devices),
        nvidia_driver: keep(&before.nvidia_driver, gpus.nvidia_driver)
            .map(|driver| carry_gpu_memory(before, driver)),
        ..gpus
    }
}

fn carry_gpu_memory(before: &Gpus, mut driver: NvidiaDriver) -> NvidiaDriver {
    let known = before.nvidia_driver.known().map_or(&[][..], |driver| driver.gpus.as_slice());
    let same = |a: &Gpu, b: &Gpu| match (&a.uuid, &b.uuid) {
        (Some(a), Some(b)) => a == b,
        _ => a.index == b.index && a.model == b.model,
    };
    for gpu in &mut driver.gpus {
        if let Some(known) = known.iter().find(|known| same(known, gpu)) {
            gpu.memory_bytes = keep(&known.memory_bytes, gpu.memory_bytes.clone());
        }
    }
    driver
}
