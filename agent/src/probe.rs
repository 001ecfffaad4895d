//! Takes a node's inventory: one module a subject. Each reads files below the host's root and
//! hands their text to pure functions; each fails by itself, and says what it looked at.

mod cpu;
mod disk;
mod gpu;
mod machine;
mod memory;
mod network;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rollcall_report::{Inventory, Subject, clean_text};
use tokio::task::{JoinError, spawn_blocking};

use crate::finding::{Explanation, Probed, Rule};
use crate::host::{HostRoot, ParseError};

/// The highest number of a CPU or a NUMA node that is believed.
const MAX_NUMBER: u32 = u16::MAX as u32;

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
    pub fn new(root: HostRoot, mut options: ProbeOptions) -> Self {
        // A saved machine answers as it did when it was saved.
        options.count_removable |= root.manifest().is_some_and(|manifest| manifest.count_removable);
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

/// Files a subject's findings and hands on its reading.
fn keep<T>(explanation: &mut Explanation, subject: Subject, probed: Probed<T>) -> T {
    explanation.insert(subject, probed.findings);
    probed.reading
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

/// Parses a list of ranges such as `0-3,7`; an empty text is an empty list.
/// Source: Documentation/admin-guide/kernel-parameters.rst, "cpu lists".
fn parse_range_list(text: &str) -> Result<BTreeSet<u32>, ParseError> {
    let invalid = || ParseError::new("a list of ranges such as 0-3,7", text);
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number <= MAX_NUMBER)
    };
    let mut numbers = BTreeSet::new();
    let ranges = text.trim_end_matches('\n');
    if ranges.is_empty() {
        return Ok(numbers);
    }
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last)
            .ok_or_else(invalid)?;
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

/// Bytes as the document has them.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}

/// Every rule of counting, by subject.
pub fn rules() -> Vec<(Subject, Rule)> {
    let all: [(Subject, &[Rule]); 6] = [
        (Subject::Machine, &machine::RULES),
        (Subject::Cpu, &cpu::RULES),
        (Subject::Memory, &memory::RULES),
        (Subject::Swap, &memory::SWAP_RULES),
        (Subject::Disks, &disk::RULES),
        (Subject::Nics, &network::RULES),
    ];
    all.into_iter()
        .flat_map(|(subject, rules)| rules.iter().map(move |&rule| (subject, rule)))
        .collect()
}
