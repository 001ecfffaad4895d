//! Takes a node's inventory: one module a subject. Each reads files below the host's root and
//! hands their text to pure functions; each fails by itself.

mod cpu;
mod disk;
mod gpu;
mod machine;
mod memory;
mod network;

use std::path::PathBuf;

use rollcall_report::{Inventory, clean_text};

use crate::host::{HostRoot, ParseError};

/// What a probe can be told.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// NVIDIA's management library: a path, or a name for the dynamic loader.
    pub nvml_library: PathBuf,
    /// Whether removable disks, such as USB sticks, count.
    pub count_removable: bool,
}

/// Probes every subject. Blocks: the files of a slow device or a busy GPU driver take their time.
pub fn probe(root: &HostRoot, options: &ProbeOptions) -> Inventory {
    Inventory {
        machine: machine::probe(root),
        cpu: cpu::probe(root),
        memory: memory::probe(root),
        swap: memory::probe_swap(root),
        disks: disk::probe(root, options.count_removable),
        nics: network::probe(root),
        gpus: gpu::probe(root, &options.nvml_library),
    }
}

/// A text as a report may carry it, unless nothing is left of it.
fn known_text(text: &str) -> Option<String> {
    Some(clean_text(text)).filter(|text| !text.is_empty())
}

/// A decimal number and nothing else (`str::parse` would take a sign, too).
fn parse_decimal(text: &str) -> Result<u64, ParseError> {
    let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(|| ParseError::new("a decimal number", text))
}
