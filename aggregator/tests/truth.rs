//! Over random fates of a machine's probes and GPUs: a failed probe never lowers a total that was
//! known, a lost GPU counts until its hold-down is over and not longer, and no total is more than
//! what the machine holds.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rollcall_aggregator::cluster_file::Overrides;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::{NodeData, Source};
use rollcall_aggregator::intake::parse::parse;
use rollcall_aggregator::roll::{Entry, Roll};
use rollcall_report::{
    AmdGpu, Attachment, Cpu, Disk, Gpu, GpuFailure, Gpus, Inventory, Link, Memory, Nic, NicKind,
    NodeReport, NvidiaDriver, Reading, Swap,
};

const HOLD_DOWN: i64 = 600;
const DISKS: [(u64, Attachment); 3] =
    [(4 << 40, Attachment::Local), (9 << 40, Attachment::Network), (1 << 40, Attachment::Local)];
const NICS: [u64; 2] = [25_000, 100_000];
const GPUS: [(&str, u64); 5] = [
    ("H100", 80 << 30),
    ("H100", 80 << 30),
    ("L40S", 48 << 30),
    ("H100", 80 << 30),
    ("L4", 24 << 30),
];
const AMD: [u64; 2] = [192 << 30, 64 << 30];

/// What a report says, and how long after the one before it comes.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each thing fails by itself")]
struct Step {
    after: i64,
    /// Whole subjects that fail.
    failed: [bool; 6],
    disk: Option<usize>,
    nic: Option<(usize, bool)>,
    bus_failed: bool,
    driver_failed: bool,
    gpu_memory: Option<usize>,
    amd_failed: bool,
    amd_memory: Option<usize>,
    /// GPUs that the driver does not answer for.
    silent: Vec<bool>,
    /// Whether the driver lists those that it does not answer for.
    lists_silent: bool,
    /// Devices that come to the machine, none of which ever leaves.
    arrives: usize,
    restarts: bool,
}

/// What does not change while a machine is followed.
#[derive(Debug, Clone, Copy)]
struct Kind {
    has_uuids: bool,
    names_lost: bool,
}

fn seldom() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.15)
}

fn some_of(count: usize) -> impl Strategy<Value = Option<usize>> {
    prop::option::weighted(0.25, 0..count)
}

prop_compose! {
    fn any_step()(
        after in prop::sample::select(vec![1, 60, 299, 300, 301, 599, 600, 601, 1500]),
        failed in prop::array::uniform6(seldom()),
        disk in some_of(DISKS.len()),
        nic in prop::option::weighted(0.25, (0..NICS.len(), any::<bool>())),
        bus_failed in seldom(),
        driver_failed in seldom(),
        gpu_memory in some_of(GPUS.len()),
        amd_failed in seldom(),
        amd_memory in some_of(AMD.len()),
        silent in prop::collection::vec(prop::bool::weighted(0.3), GPUS.len()),
        lists_silent in any::<bool>(),
        arrives in 0..9_usize,
        restarts in seldom(),
    ) -> Step {
        Step {
            after, failed, disk, nic, bus_failed, driver_failed, gpu_memory, amd_failed, amd_memory,
            silent, lists_silent, arrives, restarts,
        }
    }
}

fn eio<T>() -> Reading<T> {
    Reading::failed("EIO")
}

fn unless<T>(fails: bool, value: T) -> Reading<T> {
    if fails { eio() } else { Reading::Known(value) }
}

/// How many devices of each list are in the machine.
#[derive(Debug, Clone, Copy)]
struct Present {
    disks: usize,
    nics: usize,
    gpus: usize,
    amd: usize,
}

impl Present {
    fn arrive(&mut self, which: usize) {
        match which {
            0 => self.disks = DISKS.len(),
            1 => self.nics = NICS.len(),
            2 => self.gpus = (self.gpus + 1).min(GPUS.len()),
            3 => self.amd = AMD.len(),
            _ => {}
        }
    }
}

fn address(index: usize) -> String {
    format!("0000:{:02x}:00.0", 16 + index)
}

fn inventory(step: &Step, present: Present, kind: Kind) -> Inventory {
    let disks =
        DISKS.iter().take(present.disks).enumerate().map(|(index, (size, attachment))| Disk {
            name: format!("nvme{index}n1"),
            size_bytes: unless(step.disk == Some(index), *size),
            attachment: *attachment,
            model: None,
            rotational: None,
        });
    let nics = NICS.iter().take(present.nics).enumerate().map(|(index, speed)| {
        let (fails, undecided) = match step.nic {
            Some((which, undecided)) if which == index => (true, undecided),
            _ => (false, false),
        };
        Nic {
            name: format!("eth{index}"),
            kind: if undecided { NicKind::Other } else { NicKind::Ethernet },
            link: Link::Up,
            speed_mbps: unless(fails, *speed),
            driver: None,
        }
    });
    let [cpu, memory, swap, all_disks, all_nics, all_gpus] = step.failed;
    Inventory {
        machine: Reading::Absent,
        cpu: unless(
            cpu,
            Cpu {
                online: 64,
                cores: None,
                sockets: None,
                numa_nodes: None,
                model: None,
                vendor: None,
            },
        )
        .into(),
        memory: unless(memory, Memory { total_bytes: 1 << 40, installed_bytes: Reading::Absent }),
        swap: unless(swap, Swap { total_bytes: 8 << 30, zram_bytes: 0 }),
        disks: unless(all_disks, disks.collect()).into(),
        nics: unless(all_nics, nics.collect()).into(),
        gpus: unless(all_gpus, gpus(step, present, kind)),
    }
}

fn gpus(step: &Step, present: Present, kind: Kind) -> Gpus {
    let silent: Vec<usize> = (0..present.gpus).filter(|&gpu| step.silent[gpu]).collect();
    let answering = (0..present.gpus).filter(|&gpu| !step.silent[gpu]);
    // The driver numbers those that answer anew.
    let answering = (0..).zip(answering).map(|(index, gpu)| Gpu {
        index,
        model: GPUS[gpu].0.into(),
        memory_bytes: unless(step.gpu_memory == Some(gpu), GPUS[gpu].1),
        compute_capability: None,
        uuid: kind.has_uuids.then(|| format!("GPU-{gpu}").into()),
        pci_address: Some(address(gpu).into()),
        active_nvlinks: None,
        mig: None,
    });
    let driver = NvidiaDriver {
        version: None,
        cuda_version: None,
        gpus: answering.collect(),
        failures: if step.lists_silent {
            let failure = |_: &usize| GpuFailure { index: 9, reason: "GPU is lost".to_owned() };
            silent.iter().map(failure).collect()
        } else {
            Vec::new()
        },
    };
    let names_lost = kind.names_lost && !step.driver_failed && !step.bus_failed;
    let amd = AMD.iter().take(present.amd).enumerate().map(|(index, memory)| AmdGpu {
        pci_address: address(64 + index).into(),
        device_id: "0x74a1".into(),
        model: "AMD Instinct MI300X".into(),
        memory_bytes: unless(step.amd_memory == Some(index), *memory),
    });
    Gpus {
        nvidia_pci_devices: unless(step.bus_failed, u32::try_from(present.gpus).expect("few")),
        lost: if names_lost {
            silent.iter().map(|&gpu| address(gpu)).collect()
        } else {
            Vec::new()
        },
        passed_through: 0,
        nvidia_unasked: Vec::new(),
        nvidia_driver: match present.gpus {
            0 if !step.bus_failed => Reading::Absent,
            _ => unless(step.driver_failed, driver),
        },
        amd: match present.amd {
            0 => Reading::Absent,
            _ => unless(step.amd_failed || step.bus_failed, amd.collect()),
        },
        unmeasured: Vec::new(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn report() -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    parse(&fs::read(path).expect("the sample")).expect("a report")
}

/// What follows for a GPU, told by seconds instead of by points in time.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    /// Its memory was read once.
    known: bool,
    /// For how long the driver has answered, and not for it; `None`: it answers.
    silent_for: Option<i64>,
}

impl Fate {
    fn counts(self, later: i64) -> bool {
        self.known && self.silent_for.is_none_or(|seconds| seconds + later < HOLD_DOWN)
    }
}

fn totals(node: &NodeData) -> Vec<(&'static str, u64)> {
    vec![
        ("vcpus", node.vcpus.count),
        ("memory", node.memory),
        ("swap", node.swap),
        ("disks", node.storage.disks),
        ("storage", node.storage.size),
        ("interfaces", node.network.interfaces),
        ("bandwidth", node.network.tx_bandwidth),
    ]
}

/// What the machine holds, in the document's terms.
fn held(present: Present) -> Vec<(&'static str, u64)> {
    let local: Vec<u64> = DISKS[..present.disks]
        .iter()
        .filter(|(_, attachment)| *attachment == Attachment::Local)
        .map(|(size, _)| size >> 20)
        .collect();
    vec![
        ("vcpus", 64),
        ("memory", 1 << 20),
        ("swap", 8 << 10),
        ("disks", local.len() as u64),
        ("storage", local.iter().sum()),
        ("interfaces", present.nics as u64),
        ("bandwidth", NICS[..present.nics].iter().sum()),
    ]
}

/// A roll that has been written and read again, as a restart does.
fn restarted(entry: &Entry, now: Timestamp) -> Roll {
    let text = serde_json::to_string(entry).expect("JSON");
    Roll::restore(vec![serde_json::from_str(&text).expect("readable")], vec![], now)
}

/// More of them by `PROPTEST_CASES`, as `make soak` has it.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn what_was_known_stands_and_what_is_lost_counts_for_its_hold_down(
        has_uuids in any::<bool>(),
        names_lost in any::<bool>(),
        gpus in 0..=GPUS.len(),
        amd in 0..=1_usize,
        steps in prop::collection::vec(any_step(), 1..25),
    ) {
        let kind = Kind { has_uuids, names_lost };
        let mut present = Present { disks: 2, nics: 1, gpus, amd };
        let mut roll = Roll::default();
        let mut fates = [Fate::default(); GPUS.len()];
        let mut amd_known = [false; AMD.len()];
        let mut heard = false;
        let mut before: Option<NodeData> = None;
        let mut time = 1_000_000;
        let hold_down = Duration::from_secs(HOLD_DOWN.unsigned_abs());
        for (number, step) in steps.iter().enumerate() {
            time += step.after;
            present.arrive(step.arrives);
            let mut said = report();
            said.inventory = inventory(step, present, kind);
            let digest = Digest::of(&[&number.to_le_bytes()]);
            let change = roll.admit(said, digest, None, at(time)).expect("one node");
            let entry = change.entry.clone();
            roll.confirm(change);
            if step.restarts {
                roll = restarted(&entry, at(time));
            }

            // What the driver's answers come to, GPU by GPU.
            for fate in &mut fates {
                if heard && let Some(seconds) = &mut fate.silent_for {
                    *seconds += step.after;
                }
            }
            let subject_failed = step.failed[5];
            heard = !subject_failed && !step.driver_failed && present.gpus > 0;
            let answered = if heard { present.gpus } else { 0 };
            for (gpu, fate) in fates.iter_mut().enumerate().take(answered) {
                if step.silent[gpu] {
                    fate.silent_for = fate.silent_for.or(fate.known.then_some(0));
                } else {
                    fate.silent_for = None;
                    fate.known |= step.gpu_memory != Some(gpu);
                }
            }
            let amd_heard = !subject_failed && !step.amd_failed && !step.bus_failed;
            let told = if amd_heard { present.amd } else { 0 };
            for (gpu, known) in amd_known.iter_mut().enumerate().take(told) {
                *known |= step.amd_memory != Some(gpu);
            }

            for later in [0, 299, 600] {
                let entry = roll.entries()[0];
                let now = at(time + later);
                let source = Source::of(entry, now, hold_down);
                let built = NodeData::build(&source, &Overrides::default(), &mut Vec::new());
                let Ok(node) = built else {
                    prop_assert!(before.is_none(), "kept out, and was not: {:?}", built);
                    continue;
                };
                for ((what, total), (_, most)) in totals(&node).into_iter().zip(held(present)) {
                    prop_assert!(total <= most, "{} is {}, the machine holds {}", what, total, most);
                }
                if let Some(before) = &before {
                    for ((what, was), (_, is)) in totals(before).into_iter().zip(totals(&node)) {
                        prop_assert!(is >= was, "{} was {}, is {}", what, was, is);
                    }
                }
                let later = if heard { later } else { 0 };
                let mut counted: Vec<(&str, u64)> = (0..GPUS.len())
                    .filter(|&gpu| fates[gpu].counts(later))
                    .map(|gpu| (GPUS[gpu].0, GPUS[gpu].1 >> 20))
                    .chain((0..AMD.len()).filter(|&gpu| amd_known[gpu]).map(|gpu| {
                        ("AMD Instinct MI300X", AMD[gpu] >> 20)
                    }))
                    .collect();
                let gpus = node.gpus.gpus.iter();
                let mut shown: Vec<(&str, u64)> =
                    gpus.map(|gpu| (gpu.model_name.as_str(), gpu.memory)).collect();
                counted.sort_unstable();
                shown.sort_unstable();
                prop_assert_eq!(shown, counted, "{} s after report {}", later, number);
                before = Some(node);
            }
        }
    }
}
