//! Takes a node's inventory: one module a subject. Each reads files below the host's root and
//! hands their text to pure functions; each fails by itself, and says what it looked at.

mod cpu;
mod disk;
mod gpu;
mod machine;
mod memory;
mod network;
mod pci;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rollcall_report::{
    Cpu, Disk, Inventory, Machine, Memory, Nic, Reading, Subject, Swap, clean_text,
};
use tokio::task::JoinError;

use crate::bounded::{Bounded, Outcome};
use crate::finding::{Explanation, Finding, Probed, Rule, Verdict};
use crate::host::{HostRoot, ParseError};

use self::gpu::answers::Answers;
use self::gpu::labels::GpuLabels;
use self::memory::KnownBlocks;

pub use self::gpu::{answers as nvml_answers, child as nvml_child, labels as gpu_labels};

/// The highest number of a CPU or a NUMA node that is believed.
const MAX_NUMBER: u32 = u16::MAX as u32;

/// Every Linux tells it.
const KERNEL_RELEASE: &str = "/proc/sys/kernel/osrelease";

/// A folder for each GPU that NVIDIA's kernel driver has taken, named by its PCI address.
/// Source: NVIDIA's open kernel modules, nv-procfs.c.
const NVIDIA_GPUS: &str = "/proc/driver/nvidia/gpus";

/// How long all files together may take: milliseconds, where no driver hangs.
pub const FILES_DEADLINE: Duration = Duration::from_secs(30);

/// What holds for every subject while one of them does not answer.
const NO_ANSWER: Rule = Rule::new("no-answer", "a file of the machine does not answer");

/// A subject that holds a number which no machine has.
const NOT_BELIEVED: Rule = Rule::new("not-believed", "a number that no machine has");

/// What a probe can be told.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// NVIDIA's management library: a path, or a name for the dynamic loader.
    pub nvml_library: PathBuf,
    /// How long the library may take for all its answers.
    pub nvml_timeout: Duration,
    /// The program that asks the library in a process of its own: `rollcall-agent`.
    pub nvml_program: PathBuf,
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

impl Survey {
    /// Makes failed readings of what no machine has, and says so among the findings: an aggregator
    /// refuses a report that cannot be true, and is to take the rest.
    fn believed(mut self) -> Self {
        // Each subject fails once; a failed one has nothing more to disbelieve.
        for _ in Subject::ALL {
            let Err(problem) = self.inventory.check() else { break };
            let Some(subject) = problem.subject() else { break };
            let reason = format!("what was read cannot be true: {problem}");
            self.inventory.fail(subject, &reason);
            let finding = Finding::new(Verdict::Failed, NOT_BELIEVED, subject.as_str());
            self.explanation.entry(subject).or_default().push(finding.value(reason));
        }
        self
    }
}

/// Takes inventories of one host, one after the other.
#[derive(Debug)]
pub struct Prober {
    root: HostRoot,
    options: ProbeOptions,
    files: Bounded<Files>,
    memory_blocks: Arc<KnownBlocks>,
    nvml: gpu::Source,
    /// What NVIDIA's library answered at the last probe, where it was asked.
    nvml_answers: Option<Answers>,
    /// What the Node's labels say of its GPUs, where they are known.
    gpu_labels: Option<GpuLabels>,
}

impl Prober {
    /// Prepares to take inventories of the host with this root.
    pub fn new(root: HostRoot, mut options: ProbeOptions) -> Self {
        let nvml = if let Some(manifest) = root.manifest() {
            // A saved machine answers as it did when it was saved.
            options.count_removable |= manifest.count_removable;
            gpu::Source::Recorded(manifest.nvml.clone().unwrap_or_else(|| Answers::NotAsked {
                detail: "the library was not asked when the machine was saved".to_owned(),
            }))
        } else {
            gpu::Source::library(
                options.nvml_program.clone(),
                options.nvml_library.clone(),
                options.nvml_timeout,
            )
        };
        Self {
            root,
            options,
            files: Bounded::new(),
            memory_blocks: Arc::default(),
            nvml,
            nvml_answers: None,
            gpu_labels: None,
        }
    }

    /// Probes every subject. Files are read on a thread of its own, for no longer than
    /// [`FILES_DEADLINE`]; NVIDIA's library is asked in a process of its own.
    ///
    /// # Errors
    ///
    /// When a probe did not come to its end, which is a bug.
    pub async fn probe(&mut self) -> Result<Survey, JoinError> {
        let (root, options) = (self.root.clone(), self.options.clone());
        let blocks = Arc::clone(&self.memory_blocks);
        let files = self
            .files
            .run(FILES_DEADLINE, move || Files::read(&root.for_one_probe(), &options, &blocks))
            .await?;
        let files = match files {
            Outcome::Done(files) => files,
            Outcome::Hangs => return Ok(unanswered()),
        };
        self.nvml_answers =
            if files.bus.concerns_nvidia() { Some(self.nvml.answers().await) } else { None };
        Ok(files.survey(self.nvml_answers.as_ref(), self.gpu_labels.as_ref()))
    }

    /// Notes what the Node's labels say of its GPUs, for the probes to come.
    pub fn note_gpu_labels(&mut self, labels: Option<GpuLabels>) {
        self.gpu_labels = labels;
    }

    /// What NVIDIA's library answered at the last probe; `None` where there was nothing to ask.
    pub const fn nvml_answers(&self) -> Option<&Answers> {
        self.nvml_answers.as_ref()
    }

    /// Whether, in a container, only a new one can reach NVIDIA's driver: the library and the right
    /// to open the GPUs are given to a container when it is created.
    pub fn needs_new_container(&self) -> bool {
        self.nvml_answers.as_ref().is_some_and(Answers::need_new_container)
    }
}

/// What the machine's files say.
#[derive(Debug)]
struct Files {
    machine: Probed<Reading<Machine>>,
    cpu: Probed<Reading<Cpu>>,
    memory: Probed<Reading<Memory>>,
    swap: Probed<Reading<Swap>>,
    disks: Probed<Reading<Vec<Disk>>>,
    nics: Probed<Reading<Vec<Nic>>>,
    bus: gpu::Bus,
}

impl Files {
    fn read(root: &HostRoot, options: &ProbeOptions, blocks: &KnownBlocks) -> Self {
        let functions = pci::probe(root);
        // Two subjects want to know each of these.
        let kernel_release = root.read(KERNEL_RELEASE);
        let nvidia_gpus = root.list_if_present(NVIDIA_GPUS);
        let attached = nvidia_gpus.as_ref().ok().cloned().flatten();
        let bus = gpu::look(root, &functions, kernel_release.as_deref().ok(), attached);
        Self {
            machine: machine::probe(root, kernel_release),
            cpu: cpu::probe(root),
            memory: memory::probe(root, nvidia_gpus, blocks),
            swap: memory::probe_swap(root),
            disks: disk::probe(root, options.count_removable),
            nics: network::probe(root, functions.known().map_or(&[], Vec::as_slice)),
            bus,
        }
    }

    fn survey(self, nvml_answers: Option<&Answers>, labels: Option<&GpuLabels>) -> Survey {
        let mut explanation = Explanation::new();
        let gpus = gpu::build(&self.bus, nvml_answers, labels);
        let inventory = Inventory {
            machine: keep(&mut explanation, Subject::Machine, self.machine),
            cpu: keep(&mut explanation, Subject::Cpu, self.cpu).into(),
            memory: keep(&mut explanation, Subject::Memory, self.memory),
            swap: keep(&mut explanation, Subject::Swap, self.swap),
            disks: keep(&mut explanation, Subject::Disks, self.disks).into(),
            nics: keep(&mut explanation, Subject::Nics, self.nics).into(),
            gpus: keep(&mut explanation, Subject::Gpus, gpus),
        };
        Survey { inventory, explanation }.believed()
    }
}

/// The survey of a machine of which a file does not answer.
fn unanswered() -> Survey {
    // The same at every report: since when, the health tells.
    let reason = "a file of this machine does not answer: look for hung tasks in the kernel's log";
    let mut explanation = Explanation::new();
    for subject in Subject::ALL {
        let finding = Finding::new(Verdict::Failed, NO_ANSWER, subject.as_str()).value(reason);
        explanation.insert(subject, vec![finding]);
    }
    let inventory = Inventory {
        machine: Reading::failed(reason),
        cpu: Reading::failed(reason).into(),
        memory: Reading::failed(reason),
        swap: Reading::failed(reason),
        disks: Reading::failed(reason).into(),
        nics: Reading::failed(reason).into(),
        gpus: Reading::failed(reason),
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

/// A MiB in bytes.
pub(crate) const MIB: u64 = 1024 * 1024;

/// Bytes as the document has them.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
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
        .chain(gpu::rules().map(|rule| (Subject::Gpus, rule)))
        .collect()
}

#[cfg(test)]
mod tests {
    use rollcall_report::Attachment;

    use super::*;

    #[test]
    fn what_cannot_be_true_fails_by_itself() {
        let disk = Disk {
            name: "sda".into(),
            size_bytes: Reading::Known(1),
            attachment: Attachment::Local,
            model: None,
            rotational: None,
        };
        let inventory = Inventory {
            machine: Reading::Absent,
            cpu: Reading::Absent.into(),
            memory: Reading::Absent,
            swap: Reading::Known(Swap { total_bytes: u64::MAX, zram_bytes: 0 }),
            disks: Reading::Known(vec![disk.clone(), disk]).into(),
            nics: Reading::Known(Vec::new()).into(),
            gpus: Reading::Absent,
        };
        let survey = Survey { inventory, explanation: Explanation::new() }.believed();
        assert_eq!(survey.inventory.check(), Ok(()));
        let failures = survey.inventory.failures();
        let failed: Vec<Subject> = failures.iter().map(|(subject, _)| *subject).collect();
        assert_eq!(failed, [Subject::Swap, Subject::Disks]);
        assert!(failures[1].1.contains("names \"sda\" twice"), "{failures:?}");
        assert_eq!(*survey.inventory.nics, Reading::Known(Vec::new()));
        for subject in failed {
            assert_eq!(survey.explanation[&subject][0].rule, NOT_BELIEVED);
        }
    }
}
