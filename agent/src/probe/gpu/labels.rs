//! What gpu-feature-discovery put on the Node's labels. It asked NVIDIA's library in a container of its
//! own, which was given the GPUs; since then a GPU may have died. So the labels say of what model the
//! GPUs are and how much memory each has, and never how many there are.

use std::collections::BTreeMap;

use rollcall_report::ComputeCapability;

use crate::probe::{MIB, known_text};

const PRODUCT: &str = "nvidia.com/gpu.product";
const MEMORY: &str = "nvidia.com/gpu.memory";
const COMPUTE_MAJOR: &str = "nvidia.com/gpu.compute.major";
const COMPUTE_MINOR: &str = "nvidia.com/gpu.compute.minor";

/// How the product ends where several containers share each GPU in turn.
const SHARED: &str = "-SHARED";

/// What the product holds where the labels describe instances (MIG) and not GPUs.
const INSTANCES: &str = "-MIG-";

/// What the labels say of each of the Node's GPUs.
///
/// Source: NVIDIA's k8s-device-plugin, internal/lm, and docs/gpu-feature-discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuLabels {
    /// The model, with dashes for spaces.
    pub(super) product: String,
    /// The memory of each, in bytes; the label is in MiB.
    pub(super) memory_bytes: u64,
    pub(super) compute_capability: Option<ComputeCapability>,
}

impl GpuLabels {
    /// Reads a Node's labels; `None` where they do not tell the model and the memory of whole GPUs.
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        let product = labels.get(PRODUCT)?;
        if product.contains(INSTANCES) {
            return None;
        }
        let product = known_text(product.strip_suffix(SHARED).unwrap_or(product))?;
        let memory_mib: u64 = labels.get(MEMORY)?.parse().ok()?;
        let memory_bytes = memory_mib.checked_mul(MIB).filter(|&bytes| bytes > 0)?;
        let number = |key: &str| labels.get(key)?.parse().ok();
        let compute_capability = number(COMPUTE_MAJOR)
            .zip(number(COMPUTE_MINOR))
            .map(|(major, minor)| ComputeCapability { major, minor });
        Some(Self { product, memory_bytes, compute_capability })
    }

    /// Whether they are about GPUs of this model.
    pub(super) fn name(&self, model: &str) -> bool {
        model.split_whitespace().collect::<Vec<_>>().join("-") == self.product
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_whole_gpus() {
        const H100: &str = "NVIDIA-H100-80GB-HBM3";
        for (what, product, memory, expected) in [
            ("a GPU", H100, "81559", Some(81_559)),
            ("one that is shared", "NVIDIA-H100-80GB-HBM3-SHARED", "81559", Some(81_559)),
            ("instances", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "9984", None),
            ("no product", "", "81559", None),
            ("no memory", H100, "0", None),
            ("no number", H100, "81559MiB", None),
            ("too much", H100, "18446744073709551615", None),
        ] {
            let labels =
                [(PRODUCT, product), (MEMORY, memory), (COMPUTE_MAJOR, "9"), (COMPUTE_MINOR, "0")];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let read = GpuLabels::of(&labels);
            assert_eq!(read.as_ref().map(|it| it.memory_bytes / MIB), expected, "{what}");
            if let Some(read) = read {
                assert_eq!(read.compute_capability, Some(ComputeCapability { major: 9, minor: 0 }));
                assert!(read.name("NVIDIA H100 80GB HBM3"), "{what}");
                assert!(!read.name("NVIDIA H100 PCIe"), "{what}");
            }
        }
        assert_eq!(GpuLabels::of(&BTreeMap::new()), None);
    }
}
