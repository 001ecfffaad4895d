//! Carrying last known values forward where a probe failed.
//!
//! A failed probe never lowers a total that was known: what was known stands, and what is new and
//! cannot be read is left out until it can be. Either way the failure is told.

use jiff::Timestamp;
use rollcall_report::{
    AmdGpu, Disk, Gpu, GpuFailure, Gpus, Inventory, Nic, NicKind, NvidiaDriver, Reading, Shared,
};

use super::Entry;
use super::loss::{Bus, LostGpu, after_answer, is_same, without_answer};

/// What is known after a report: the report itself, and where it failed, what was known before; and
/// the GPUs that are lost.
pub(super) fn forward(
    previous: Option<&Entry>,
    reported: Inventory,
    now: Timestamp,
) -> (Inventory, Vec<LostGpu>) {
    let Some(entry) = previous else { return (reported, Vec::new()) };
    let previous = &entry.inventory;
    let (gpus, lost) = carry_gpus(&previous.gpus, &entry.lost_gpus, reported.gpus, now);
    let inventory = Inventory {
        machine: keep(&previous.machine, reported.machine),
        cpu: keep_shared(&previous.cpu, reported.cpu),
        memory: keep(&previous.memory, reported.memory),
        swap: keep(&previous.swap, reported.swap),
        disks: unless_in_doubt(&previous.disks, reported.disks, is_disk_in_doubt),
        nics: carry_list(
            &previous.nics,
            unless_in_doubt(&previous.nics, reported.nics, is_undecided).into_inner(),
            carry_nic,
        )
        .into(),
        gpus,
    };
    (inventory, lost)
}

/// Whether a driver of GPUs as a whole did not answer, or nobody knows whether there is one to ask.
pub(super) fn is_without_answer(reported: &Reading<Gpus>) -> bool {
    match reported {
        Reading::Known(gpus) => {
            let is_scanned = gpus.nvidia_pci_devices.failure().is_none();
            gpus.nvidia_driver.failure().is_some()
                || gpus.amd.failure().is_some()
                || (gpus.nvidia_driver.is_absent() && !is_scanned)
        }
        Reading::Absent => false,
        Reading::Failed { .. } => true,
    }
}

/// A failed reading gives way to one that was known; nothing else does.
fn keep<T: Clone>(previous: &Reading<T>, reported: Reading<T>) -> Reading<T> {
    match (previous, reported) {
        (Reading::Known(value), Reading::Failed { .. }) => Reading::Known(value.clone()),
        (_, reported) => reported,
    }
}

/// The same where the reading may be that of other nodes, too.
fn keep_shared<T: Clone>(
    previous: &Shared<Reading<T>>,
    reported: Shared<Reading<T>>,
) -> Shared<Reading<T>> {
    if previous.known().is_some() && reported.failure().is_some() {
        return previous.clone();
    }
    reported
}

/// A list that failed gives way to the one that was known; of one that did not, `carry` says what
/// each element is worth beside those that were known, `None`: to be left out.
fn carry_list<T: Clone>(
    previous: &Reading<Vec<T>>,
    reported: Reading<Vec<T>>,
    carry: fn(&[T], T) -> Option<T>,
) -> Reading<Vec<T>> {
    match (previous, reported) {
        (Reading::Known(before), Reading::Known(list)) => {
            Reading::Known(list.into_iter().filter_map(|element| carry(before, element)).collect())
        }
        (previous, reported) => keep(previous, reported),
    }
}

/// The list that was known, where an element of the reported one leaves the others in doubt.
fn unless_in_doubt<T: Clone>(
    previous: &Shared<Reading<Vec<T>>>,
    reported: Shared<Reading<Vec<T>>>,
    is_in_doubt: fn(&T) -> bool,
) -> Shared<Reading<Vec<T>>> {
    let in_doubt = |list: &Vec<T>| list.iter().any(is_in_doubt);
    if previous.known().is_some() && reported.known().is_some_and(in_doubt) {
        return previous.clone();
    }
    keep_shared(previous, reported)
}

/// A disk that cannot be read may be another path to one that counts, or the other way round.
fn is_disk_in_doubt(disk: &Disk) -> bool {
    disk.size_bytes.failure().is_some()
}

fn carry_nic(before: &[Nic], nic: Nic) -> Option<Nic> {
    match before.iter().find(|known| known.name == nic.name) {
        Some(known) => Some(Nic { speed_mbps: keep(&known.speed_mbps, nic.speed_mbps), ..nic }),
        None => nic.speed_mbps.failure().is_none().then_some(nic),
    }
}

/// Whether it could not be decided what this interface is: then its speed says why.
fn is_undecided(nic: &Nic) -> bool {
    nic.kind == NicKind::Other && nic.speed_mbps.failure().is_some()
}

fn carry_amd(before: &[AmdGpu], gpu: AmdGpu) -> Option<AmdGpu> {
    let is_same =
        |known: &&AmdGpu| known.pci_address == gpu.pci_address && known.device_id == gpu.device_id;
    match before.iter().find(is_same) {
        Some(known) => {
            Some(AmdGpu { memory_bytes: keep(&known.memory_bytes, gpu.memory_bytes), ..gpu })
        }
        None => gpu.memory_bytes.failure().is_none().then_some(gpu),
    }
}

fn carry_gpus(
    previous: &Reading<Gpus>,
    lost: &[LostGpu],
    reported: Reading<Gpus>,
    now: Timestamp,
) -> (Reading<Gpus>, Vec<LostGpu>) {
    match (previous, reported) {
        (Reading::Known(before), Reading::Known(gpus)) => {
            let (gpus, lost) = carry_known_gpus(before, lost, gpus, now);
            (Reading::Known(gpus), lost)
        }
        (Reading::Known(before), Reading::Failed { .. }) => {
            (Reading::Known(before.clone()), without_answer(lost, now))
        }
        (_, reported) => (reported, Vec::new()),
    }
}

fn carry_known_gpus(
    before: &Gpus,
    lost: &[LostGpu],
    mut gpus: Gpus,
    now: Timestamp,
) -> (Gpus, Vec<LostGpu>) {
    let is_scanned = gpus.nvidia_pci_devices.failure().is_none();
    // What comes from the bus is worth nothing where the bus could not be read.
    let named: Vec<String> = if is_scanned { gpus.lost.clone() } else { Vec::new() };
    if !is_scanned {
        gpus.nvidia_pci_devices = match (&before.nvidia_pci_devices, gpus.nvidia_pci_devices) {
            // There was no bus: that is known, too.
            (Reading::Absent, Reading::Failed { .. }) => Reading::Absent,
            (before, reported) => keep(before, reported),
        };
        gpus.passed_through = before.passed_through;
        gpus.unmeasured.clone_from(&before.unmeasured);
        gpus.lost.clone_from(&before.lost);
        if gpus.amd.is_absent() {
            gpus.amd = before.amd.clone();
        }
    }
    gpus.amd = match (&before.amd, gpus.amd) {
        (Reading::Absent, Reading::Failed { .. }) => Reading::Absent,
        // There were none: that is known, too.
        (Reading::Absent, reported) => carry_list(&Reading::Known(vec![]), reported, carry_amd),
        (previous, reported) => carry_list(previous, reported, carry_amd),
    };
    // What the bus held earlier says nothing of what is gone from it now.
    let scanned = if is_scanned { gpus.nvidia_pci_devices.known().copied() } else { None };
    let bus = Bus { expected: scanned, lost: &named };
    let (driver, lost) = carry_driver(before, lost, gpus.nvidia_driver, bus, is_scanned, now);
    gpus.nvidia_driver = driver;
    (gpus, lost)
}

fn carry_driver(
    before: &Gpus,
    lost: &[LostGpu],
    reported: Reading<NvidiaDriver>,
    bus: Bus<'_>,
    is_scanned: bool,
    now: Timestamp,
) -> (Reading<NvidiaDriver>, Vec<LostGpu>) {
    match (&before.nvidia_driver, reported) {
        (Reading::Known(known), Reading::Known(driver)) => {
            let lost_now = after_answer(&known.gpus, lost, &driver.gpus, bus, now);
            let of_lost = lost.iter().map(|lost| &lost.gpu);
            let known: Vec<&Gpu> = known.gpus.iter().chain(of_lost).collect();
            (Reading::Known(carry_memory(&known, driver)), lost_now)
        }
        // There were none: those that are new follow the rule for what is new.
        (Reading::Absent, Reading::Known(driver)) => {
            (Reading::Known(carry_memory(&[], driver)), Vec::new())
        }
        (Reading::Known(known), Reading::Failed { .. }) => {
            (Reading::Known(known.clone()), without_answer(lost, now))
        }
        // Without the bus, nobody knows that there is nothing to ask the driver for.
        (Reading::Known(known), Reading::Absent) if !is_scanned => {
            (Reading::Known(known.clone()), without_answer(lost, now))
        }
        (Reading::Absent, Reading::Failed { reason }) => {
            let is_new = bus.expected.is_some_and(|expected| expected > 0);
            let driver = if is_new { Reading::Known(silent(&reason)) } else { Reading::Absent };
            (driver, Vec::new())
        }
        (_, reported) => (reported, Vec::new()),
    }
}

/// GPUs came to a machine that had none, and their driver does not answer: they are lost, and what
/// else the machine has stands.
fn silent(reason: &str) -> NvidiaDriver {
    let failure = GpuFailure { index: 0, reason: reason.to_owned() };
    NvidiaDriver { version: None, cuda_version: None, gpus: Vec::new(), failures: vec![failure] }
}

/// A memory that cannot be read is the last known one; a new GPU whose memory cannot be read is one
/// that does not answer.
fn carry_memory(known: &[&Gpu], driver: NvidiaDriver) -> NvidiaDriver {
    let NvidiaDriver { gpus, mut failures, .. } = driver;
    let mut usable = Vec::with_capacity(gpus.len());
    for gpu in gpus {
        match (known.iter().find(|known| is_same(known, &gpu)), gpu.memory_bytes.failure()) {
            (Some(known), _) => {
                usable
                    .push(Gpu { memory_bytes: keep(&known.memory_bytes, gpu.memory_bytes), ..gpu });
            }
            (None, Some(reason)) => {
                failures.push(GpuFailure { index: gpu.index, reason: reason.to_owned() });
            }
            (None, None) => usable.push(gpu),
        }
    }
    NvidiaDriver { gpus: usable, failures, ..driver }
}
