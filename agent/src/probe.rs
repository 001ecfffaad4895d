//! Takes a node's inventory: one module a subject. Each reads files below the host's root and
//! hands their text to pure functions; each fails by itself, and says what it looked at.

mod cpu;
mod disk;
mod gpu;
mod machine;
mod memory;
mod network;

use std::path::PathBuf;

use rollcall_report::{Inventory, Subject, clean_text};
use tokio::task::{JoinError, spawn_blocking};

use crate::finding::{Explanation, Probed, Rule};
use crate::host::{HostRoot, ParseError};

/// What a probe can be told.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// NVIDIA's management library: a path, or a name for the dynamic loader.
    pub nvml_library: PathBuf,
    /// Whether removable disks, such as USB sticks, count.
    pub count_removable: bool,
}

/// An inventory and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// What is reported.
    pub inventory: Inventory,
    /// What it was made of.
    pub explanation: Explanation,
}

/// Takes inventories of one host, one after the other.
#[derive(Debug)]
pub struct Prober {
    root: HostRoot,
    options: ProbeOptions,
}

impl Prober {
    /// Prepares to take inventories of the host with this root.
    pub fn new(root: HostRoot, options: ProbeOptions) -> Self {
        Self { root, options }
    }

    /// Probes every subject, on a thread of its own: the files of a slow device take their time.
    ///
    /// # Errors
    ///
    /// When a probe did not come to its end, which is a bug.
    pub async fn probe(&mut self) -> Result<Survey, JoinError> {
        let (root, options) = (self.root.clone(), self.options.clone());
        spawn_blocking(move || probe_all(&root, &options)).await
    }
}

fn probe_all(root: &HostRoot, options: &ProbeOptions) -> Survey {
    let mut explanation = Explanation::new();
    fn keep<T>(explanation: &mut Explanation, subject: Subject, probed: Probed<T>) -> T {
        explanation.insert(subject, probed.findings);
        probed.reading
    }
    let inventory = Inventory {
        machine: keep(&mut explanation, Subject::Machine, machine::probe(root)),
        cpu: keep(&mut explanation, Subject::Cpu, cpu::probe(root)),
        memory: keep(&mut explanation, Subject::Memory, memory::probe(root)),
        swap: keep(&mut explanation, Subject::Swap, memory::probe_swap(root)),
        disks: keep(&mut explanation, Subject::Disks, disk::probe(root, options.count_removable)),
        nics: keep(&mut explanation, Subject::Nics, network::probe(root)),
        gpus: keep(&mut explanation, Subject::Gpus, gpu::probe(root, &options.nvml_library)),
    };
    Survey { inventory, explanation }
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

/// Every rule of counting, by subject.
pub fn rules() -> Vec<(Subject, Rule)> {
    let all: [(Subject, &[Rule]); 4] = [
        (Subject::Machine, &machine::RULES),
        (Subject::Cpu, &cpu::RULES),
        (Subject::Memory, &memory::RULES),
        (Subject::Swap, &memory::SWAP_RULES),
    ];
    all.into_iter()
        .flat_map(|(subject, rules)| rules.iter().map(move |&rule| (subject, rule)))
        .collect()
}
