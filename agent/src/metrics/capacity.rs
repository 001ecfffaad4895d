//! What the last probe saw of the machine, as Prometheus is told of it. The rules are those of the
//! document, but for what the cluster file adds there: the speeds of links that nobody tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{IntGaugeVec, Opts, Registry};
use rollcall_report::{Attachment, Gpus, Inventory, Link, NicKind, clean_text};

/// A megabit has 10⁶ bits.
const BYTES_PER_MEGABIT: u64 = 1_000_000 / 8;

/// What the machine has. What is not known has no series.
#[derive(Debug, Clone)]
pub(super) struct Capacity {
    cpus: IntGaugeVec,
    memory: IntGaugeVec,
    swap: IntGaugeVec,
    disks: IntGaugeVec,
    disk_bytes: IntGaugeVec,
    links: IntGaugeVec,
    link_speed: IntGaugeVec,
    gpu_models: IntGaugeVec,
    shown_models: Arc<Mutex<BTreeSet<String>>>,
}

impl Capacity {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge =
                IntGaugeVec::new(Opts::new(format!("rollcall_agent_{name}"), help), labels)?;
            registry.register(Box::new(gauge.clone()) as Box<dyn Collector>)?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            cpus: gauge("cpus", "Logical CPUs that are online.", &[])?,
            memory: gauge("memory_bytes", "Memory that the kernel has to give out.", &[])?,
            swap: gauge("swap_bytes", "Swap partitions and files.", &[])?,
            disks: gauge("disks", "Physical disks in or at this machine.", &[])?,
            disk_bytes: gauge("disk_bytes", "What these disks hold together.", &[])?,
            links: gauge("links", "Physical network interfaces.", &[])?,
            link_speed: gauge(
                "link_bytes_per_second",
                "What these interfaces send together, without those whose speed is not known.",
                &[],
            )?,
            shown_models: Arc::default(),
            gpu_models: gauge("gpu_models", "GPUs that answer, by model.", &["model"])?,
        })
    }

    /// Shows what a probe saw.
    pub(super) fn show(&self, inventory: &Inventory) {
        let cpu = inventory.cpu.known();
        set(&self.cpus, cpu.map(|cpu| cpu.online.into()));
        set(&self.memory, inventory.memory.known().map(|memory| memory.total_bytes));
        set(&self.swap, inventory.swap.known().map(|swap| swap.total_bytes));

        let disks = inventory.disks.known().map(|disks| {
            disks.iter().filter(|disk| disk.attachment == Attachment::Local).collect::<Vec<_>>()
        });
        set(&self.disks, disks.as_ref().map(|disks| super::count(disks)));
        let sizes = disks.and_then(|disks| {
            disks.iter().map(|disk| disk.size_bytes.known().copied()).sum::<Option<u64>>()
        });
        set(&self.disk_bytes, sizes);

        // What could not be decided may be no adapter at all.
        let nics = inventory.nics.known().filter(|nics| {
            nics.iter().all(|nic| nic.kind != NicKind::Other || nic.speed_mbps.failure().is_none())
        });
        set(&self.links, nics.map(|nics| super::count(nics)));
        let speed = nics.map(|nics| {
            // A driver may keep telling the speed of a link that is gone.
            let up = nics.iter().filter(|nic| nic.link != Link::Down);
            up.filter_map(|nic| nic.speed_mbps.known()).sum::<u64>() * BYTES_PER_MEGABIT
        });
        set(&self.link_speed, speed);

        let models = inventory.gpus.known().and_then(models).unwrap_or_default();
        // What stays must not be away while a scrape looks.
        let mut shown = self.shown_models.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.iter().filter(|model| !models.contains_key(*model)) {
            // It is there, for it was shown.
            let _there = self.gpu_models.remove_label_values(&[gone.as_str()]);
        }
        for (model, count) in &models {
            self.gpu_models.with_label_values(&[model.as_str()]).set(super::number(*count));
        }
        *shown = models.into_keys().collect();
    }
}

/// The GPUs that answer, by model; `None`: a driver does not.
fn models(gpus: &Gpus) -> Option<BTreeMap<String, usize>> {
    if gpus.nvidia_driver.failure().is_some() || gpus.amd.failure().is_some() {
        return None;
    }
    let nvidia = gpus.nvidia_driver.known().into_iter().flat_map(|driver| &driver.gpus);
    let amd = gpus.amd.known().into_iter().flatten();
    let amd = amd.filter(|gpu| gpu.memory_bytes.failure().is_none());
    let mut models = BTreeMap::new();
    for model in nvidia.map(|gpu| &gpu.model).chain(amd.map(|gpu| &gpu.model)) {
        *models.entry(clean_text(model)).or_default() += 1;
    }
    Some(models)
}

fn set(gauge: &IntGaugeVec, value: Option<u64>) {
    match value {
        Some(value) => {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauge.with_label_values(&[] as &[&str]).set(value);
        }
        None => gauge.reset(),
    }
}
