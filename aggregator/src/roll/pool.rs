//! What many nodes have alike is held once: of ten thousand machines of one kind, each has its own ids,
//! and all have the same disks, interfaces and models of GPUs.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

use rollcall_report::{AmdGpu, Cpu, Disk, Gpu, Gpus, Health, Nic, PassedOver, Reading, Shared};

use super::Entry;
use super::baseline::Shape;

/// Values that entries share.
#[derive(Debug, Default)]
pub struct Pool {
    texts: Values<str>,
    cpus: Values<Reading<Cpu>>,
    disks: Values<Reading<Vec<Disk>>>,
    nics: Values<Reading<Vec<Nic>>>,
    healths: Values<Health>,
    passed_over: Values<Vec<PassedOver>>,
    sizes: Values<BTreeMap<u64, u32>>,
    names: Values<BTreeMap<String, u32>>,
    models: Values<BTreeMap<Shared<str>, u32>>,
}

/// Different values of one type. Those that nobody has any more are dropped when as many have been added
/// as there were.
#[derive(Debug)]
pub(crate) struct Values<T: ?Sized> {
    known: HashSet<Shared<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Values<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: 0 }
    }
}

impl<T: Eq + Hash + ?Sized> Values<T> {
    /// The least number of values that is looked through for those that nobody has.
    const FEW: usize = 64;

    /// Makes the value one that is known, where an equal one is.
    pub(crate) fn share(&mut self, value: &mut Shared<T>) {
        if let Some(known) = self.known.get(&**value) {
            value.clone_from(known);
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(Shared::is_shared);
            self.known.shrink_to(self.known.len() * 2);
            self.sweep_at = Self::FEW.max(self.known.len() * 2);
        }
        self.known.insert(value.clone());
    }
}

impl Pool {
    /// Makes an entry share what others hold already. Nothing else of it changes.
    pub fn share(&mut self, entry: &mut Entry) {
        let Entry { inventory, agent_version, baseline, health, passed_over, .. } = entry;
        self.texts.share(agent_version);
        self.cpus.share(&mut inventory.cpu);
        self.disks.share(&mut inventory.disks);
        self.nics.share(&mut inventory.nics);
        if let Some(health) = health {
            self.healths.share(health);
        }
        self.passed_over.share(passed_over);
        if let Reading::Known(gpus) = &mut inventory.gpus {
            self.share_gpus(gpus);
        }
        for lost in &mut entry.lost_gpus {
            self.share_gpu(&mut lost.gpu);
        }
        let mut boot_id = None;
        if let Reading::Known(machine) = &mut inventory.machine {
            self.texts.share(&mut machine.architecture);
            let texts = [
                &mut machine.operating_system,
                &mut machine.kernel_release,
                &mut machine.vendor,
                &mut machine.product,
            ];
            texts.into_iter().flatten().for_each(|text| self.texts.share(text));
            boot_id = machine.boot_id.as_ref();
        }
        if let Some(baseline) = baseline {
            // No other machine has it, but it stands twice.
            if let Some(boot_id) = boot_id.filter(|boot_id| **boot_id == baseline.boot_id) {
                baseline.boot_id.clone_from(boot_id);
            }
            let Shape { disks, nics, gpus, .. } = &mut baseline.shape;
            if let Some(sizes) = disks {
                self.sizes.share(sizes);
            }
            if let Some(names) = nics {
                self.names.share(names);
            }
            if let Some(models) = gpus {
                self.models.share(models);
            }
        }
    }

    fn share_gpus(&mut self, gpus: &mut Gpus) {
        if let Reading::Known(driver) = &mut gpus.nvidia_driver {
            driver.version.iter_mut().for_each(|version| self.texts.share(version));
            driver.cuda_version.iter_mut().for_each(|version| self.texts.share(version));
            driver.gpus.shrink_to_fit();
            driver.gpus.iter_mut().for_each(|gpu| self.share_gpu(gpu));
        }
        gpus.nvidia_unasked.iter_mut().for_each(|gpu| self.share_gpu(gpu));
        if let Reading::Known(amd) = &mut gpus.amd {
            amd.shrink_to_fit();
            for AmdGpu { pci_address, device_id, model, .. } in amd {
                for text in [pci_address, device_id, model] {
                    self.texts.share(text);
                }
            }
        }
    }

    fn share_gpu(&mut self, gpu: &mut Gpu) {
        self.texts.share(&mut gpu.model);
        gpu.pci_address.iter_mut().for_each(|address| self.texts.share(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_those_of_nobody_go() {
        let mut values: Values<str> = Values::default();
        let (mut one, mut other): (Shared<str>, Shared<str>) = ("a".into(), "a".into());
        values.share(&mut one);
        assert!(one.is_shared() && !other.is_shared());
        values.share(&mut other);
        assert!(std::ptr::eq(&raw const *one, &raw const *other));
        for count in 0..10_000 {
            let mut passing: Shared<str> = count.to_string().into();
            values.share(&mut passing);
        }
        assert!(values.known.len() <= 2 * Values::<str>::FEW, "{}", values.known.len());
        assert!(values.known.contains("a"), "it is still held");
    }
}
