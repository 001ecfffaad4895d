//! What a machine had when its previous boot ended, and what has changed since.
//!
//! Machines are opened while they are off: a memory module, a disk or a GPU that is missing after a
//! boot is worth a person's look, even where nothing fails.

use std::collections::BTreeMap;
use std::fmt;

use rollcall_report::{Attachment, Gpus, Inventory, Memory, NicKind, Reading, Shared, Subject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::loss::LostGpu;

/// `MemTotal` moves a little from boot to boot: the kernel takes its share first.
const MEMORY_TOLERANCE_PERCENT: u64 = 1;

const MIB: u64 = 1024 * 1024;

/// What the machine had before this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// This boot, as the kernel names it.
    pub boot_id: Shared<str>,
    /// What was there when the boot before ended; where that is not known, what the first report of
    /// this boot that knew it said.
    pub shape: Shape,
}

/// The hardware of a machine, as far as it is known: what nobody could read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shape {
    /// CPUs that are online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Installed memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed_bytes: Option<u64>,
    /// `MemTotal` in bytes; compared where the installed memory is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Local disks: how many of each size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Shared<BTreeMap<u64, u32>>>,
    /// Network interfaces: how many of each name, which is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nics: Option<Shared<BTreeMap<String, u32>>>,
    /// GPUs, the lost ones too: how many of each model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Shared<BTreeMap<Shared<str>, u32>>>,
}

/// Something that is not as it was before the machine was booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What it is a part of.
    pub subject: Subject,
    /// What there was.
    pub before: String,
    /// What there is.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, now {}", self.subject, self.before, self.now)
    }
}

impl Baseline {
    /// The baseline after a report: `previous` is what the node had before it, `boot_id` the boot
    /// that the report names, `now` the node's shape with it.
    pub(super) fn after(
        previous: Option<(Option<&Self>, Shape)>,
        boot_id: Option<&Shared<str>>,
        now: Shape,
    ) -> Option<Self> {
        // Without a baseline, nobody knows whether the boot is still the one of the last report.
        let Some((Some(baseline), last)) = previous else {
            return boot_id.map(|boot_id| Self { boot_id: boot_id.clone(), shape: now });
        };
        let (boot_id, shape) = match boot_id {
            None => return Some(baseline.clone()),
            Some(boot_id) if *boot_id == baseline.boot_id => (boot_id, baseline.shape.clone()),
            Some(boot_id) => (boot_id, last),
        };
        Some(Self { boot_id: boot_id.clone(), shape: shape.or(now) })
    }
}

/// A [`Shape`] in an inventory's own words: to compare with, and not to keep.
#[derive(Debug)]
pub struct Counts<'a> {
    cpus: Option<u32>,
    installed_bytes: Option<u64>,
    total_bytes: Option<u64>,
    disks: Option<BTreeMap<&'a u64, u32>>,
    nics: Option<BTreeMap<&'a String, u32>>,
    gpus: Option<BTreeMap<&'a Shared<str>, u32>>,
}

impl<'a> Counts<'a> {
    /// What is known of a node.
    pub fn of(inventory: &'a Inventory, lost: &'a [LostGpu]) -> Self {
        let memory: Option<&Memory> = inventory.memory.known();
        Self {
            cpus: inventory.cpu.known().map(|cpu| cpu.online),
            installed_bytes: memory.and_then(|memory| memory.installed_bytes.known().copied()),
            total_bytes: memory.map(|memory| memory.total_bytes),
            disks: inventory.disks.known().and_then(|disks| {
                let local = disks.iter().filter(|disk| disk.attachment == Attachment::Local);
                let sizes: Option<Vec<&u64>> = local.map(|disk| disk.size_bytes.known()).collect();
                sizes.map(tally)
            }),
            nics: inventory.nics.known().and_then(|nics| {
                let is_undecided = |kind, speed: &Reading<u64>| {
                    kind == NicKind::Other && speed.failure().is_some()
                };
                let is_known = !nics.iter().any(|nic| is_undecided(nic.kind, &nic.speed_mbps));
                is_known.then(|| tally(nics.iter().map(|nic| &nic.name)))
            }),
            gpus: inventory.gpus.known().and_then(|gpus| models(gpus, lost)),
        }
    }
}

impl Shape {
    /// The shape of a node by what is known of it.
    pub fn of(inventory: &Inventory, lost: &[LostGpu]) -> Self {
        let counts = Counts::of(inventory, lost);
        Self {
            cpus: counts.cpus,
            installed_bytes: counts.installed_bytes,
            total_bytes: counts.total_bytes,
            disks: counts.disks.map(owned),
            nics: counts.nics.map(owned),
            gpus: counts.gpus.map(owned),
        }
    }

    /// This shape, and where it knows nothing, another one.
    fn or(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.or(other.cpus),
            installed_bytes: self.installed_bytes.or(other.installed_bytes),
            total_bytes: self.total_bytes.or(other.total_bytes),
            disks: self.disks.or(other.disks),
            nics: self.nics.or(other.nics),
            gpus: self.gpus.or(other.gpus),
        }
    }
}

/// How many GPUs of each model there are; `None` where one is there whose model is not known.
fn models<'a>(gpus: &'a Gpus, lost: &'a [LostGpu]) -> Option<BTreeMap<&'a Shared<str>, u32>> {
    let on_bus = gpus.nvidia_pci_devices.known().copied().unwrap_or(0);
    let (answering, failures) = match &gpus.nvidia_driver {
        Reading::Known(driver) => (driver.gpus.as_slice(), driver.failures.len()),
        Reading::Absent => (&[][..], 0),
        Reading::Failed { .. } => return None,
    };
    let amd = match &gpus.amd {
        Reading::Known(amd) => amd.as_slice(),
        Reading::Absent => &[],
        Reading::Failed { .. } => return None,
    };
    let known = answering.len() + lost.len();
    let listed = answering.len() + failures;
    let there = usize::try_from(on_bus).unwrap_or(usize::MAX).max(listed);
    let nvidia = answering.iter().chain(lost.iter().map(|lost| &lost.gpu));
    let all = nvidia.map(|gpu| &gpu.model).chain(amd.iter().map(|gpu| &gpu.model));
    (there <= known).then(|| tally(all))
}

fn tally<T: Ord>(things: impl IntoIterator<Item = T>) -> BTreeMap<T, u32> {
    let mut tally = BTreeMap::new();
    for thing in things {
        let count = tally.entry(thing).or_insert(0_u32);
        *count = count.saturating_add(1);
    }
    tally
}

fn owned<T: Ord + Clone>(tally: BTreeMap<&T, u32>) -> Shared<BTreeMap<T, u32>> {
    let owned: BTreeMap<T, u32> =
        tally.into_iter().map(|(thing, count)| (thing.clone(), count)).collect();
    owned.into()
}

/// What has changed, in the order of the inventory; only what is known on both sides can have.
pub fn changes(before: &Shape, now: &Counts<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    if let (Some(before), Some(now)) = (before.cpus, now.cpus)
        && before != now
    {
        changes.push(change(Subject::Cpu, &format!("{before} CPUs online"), &now));
    }
    changes.extend(memory_change(before, now));
    if let (Some(before), Some(now)) = (&before.disks, &now.disks) {
        changes.extend(differences(before, now).map(|(size, before, now)| {
            change(Subject::Disks, &format!("{before} of {size} bytes"), &now)
        }));
    }
    if let (Some(before), Some(now)) = (&before.nics, &now.nics) {
        changes.extend(differences(before, now).map(|(name, before, _)| {
            let (before, now) =
                if before > 0 { (name.as_str(), "gone") } else { ("none", name.as_str()) };
            change(Subject::Nics, before, &now)
        }));
    }
    if let (Some(before), Some(now)) = (&before.gpus, &now.gpus) {
        changes.extend(
            differences(before, now).map(|(model, before, now)| {
                change(Subject::Gpus, &format!("{before} {model}"), &now)
            }),
        );
    }
    changes
}

fn change(subject: Subject, before: &str, now: &impl ToString) -> Change {
    Change { subject, before: before.to_owned(), now: now.to_string() }
}

fn memory_change(before: &Shape, now: &Counts<'_>) -> Option<Change> {
    let installed = before.installed_bytes.zip(now.installed_bytes);
    let total = before.total_bytes.zip(now.total_bytes);
    let (what, before, now) = if let Some((before, now)) = installed {
        (before != now).then_some(("installed", before, now))?
    } else {
        let (before, now) = total?;
        let beyond = before.abs_diff(now).saturating_mul(100)
            > before.saturating_mul(MEMORY_TOLERANCE_PERCENT);
        beyond.then_some(("in all", before, now))?
    };
    let before = format!("{} MiB {what}", before / MIB);
    Some(change(Subject::Memory, &before, &format!("{} MiB", now / MIB)))
}

/// What there is not as many of as before: what was there first, then what is new.
fn differences<'a, T: Ord>(
    before: &'a BTreeMap<T, u32>,
    now: &'a BTreeMap<&'a T, u32>,
) -> impl Iterator<Item = (&'a T, u32, u32)> {
    let known =
        before.iter().map(|(thing, count)| (thing, *count, now.get(thing).copied().unwrap_or(0)));
    let new = now.iter().filter(|(thing, _)| !before.contains_key(**thing));
    known
        .chain(new.map(|(thing, count)| (*thing, 0, *count)))
        .filter(|(_, before, now)| before != now)
}
