//! Main memory, usable and installed, and swap space.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rollcall_report::{Memory, Reading, Swap};

use super::{NVIDIA_GPUS, mib, parse_decimal, parse_range_list};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{HostRoot, ParseError, ReadError};

const MEMORY_BLOCKS: &str = "/sys/devices/system/memory";
const BLOCK_SIZE: &str = "/sys/devices/system/memory/block_size_bytes";
const MEMINFO: &str = "/proc/meminfo";
const SWAPS: &str = "/proc/swaps";
const NODES: &str = "/sys/devices/system/node";
const NODES_WITH_CPUS: &str = "/sys/devices/system/node/has_cpu";

/// How long the states of memory blocks may be taken for what they were.
const BLOCKS_KEPT: Duration = Duration::from_hours(1);

/// The rules for memory.
pub(super) const RULES: [Rule; 6] =
    [MEM_TOTAL, GPU_MEMORY, INSTALLED, NO_BLOCKS, BLOCK_OFFLINE, MEMORY_UNREADABLE];

const MEM_TOTAL: Rule =
    Rule::new("mem-total", "what the kernel has to give out, never a cgroup's limit");
const GPU_MEMORY: Rule = Rule::new(
    "gpu-memory",
    "memory of a GPU that the kernel manages as a NUMA node: it counts with the GPU, not twice",
);
const INSTALLED: Rule = Rule::new(
    "installed",
    "memory blocks that are online, as lsmem counts; for node classes, no part of the document",
);
const NO_BLOCKS: Rule =
    Rule::new("no-blocks", "the kernel keeps no memory blocks, so what is installed is not told");
const BLOCK_OFFLINE: Rule = Rule::new("block-offline", "switched off, nobody can use it");
const MEMORY_UNREADABLE: Rule = Rule::new("unreadable", "how much there is cannot be read");

/// The rules for swap space.
pub(super) const SWAP_RULES: [Rule; 4] = [SWAP_AREA, ZRAM, NO_SWAP, SWAP_UNREADABLE];

const SWAP_AREA: Rule = Rule::new("swap-area", "a partition or a file in use as swap");
const ZRAM: Rule = Rule::new("zram", "compressed memory, which counts as memory");
const NO_SWAP: Rule = Rule::new("no-swap", "nothing is in use as swap");
const SWAP_UNREADABLE: Rule = Rule::new("unreadable", "what is in use as swap cannot be read");

/// Reads the host's memory, never a cgroup's limit.
pub(super) fn probe(
    root: &HostRoot,
    nvidia_gpus: Result<Option<BTreeSet<String>>, ReadError>,
    known: &KnownBlocks,
) -> Probed<Reading<Memory>> {
    let unreadable = |error: &ReadError| Probed::failed("MemTotal", MEMORY_UNREADABLE, error);
    let gpu_nodes = match nvidia_gpus.and_then(|gpus| gpu_nodes(root, gpus.unwrap_or_default())) {
        Ok(nodes) => nodes,
        Err(error) => return unreadable(&error),
    };
    let of_gpus = gpu_nodes.iter().fold(0_u64, |sum, node| sum.saturating_add(node.bytes));
    let with_gpus = match root.parse(MEMINFO, parse_mem_total) {
        Ok(bytes) => bytes,
        Err(error) => return unreadable(&error),
    };
    let own = with_gpus.checked_sub(of_gpus).filter(|bytes| *bytes > 0);
    let Some(total_bytes) = own else {
        // The driver brought memory in between the two readings; the next one gets it right.
        return unreadable(&ReadError::Contradiction {
            path: MEMINFO.into(),
            words: "it tells less memory than the GPUs' NUMA nodes have",
        });
    };
    let mut findings = vec![
        Finding::new(Verdict::Counted, MEM_TOTAL, "MemTotal")
            .value(mib(total_bytes))
            .source(MEMINFO),
    ];
    findings.extend(gpu_nodes.iter().map(|node| {
        Finding::new(Verdict::Apart, GPU_MEMORY, &format!("node{} of {}", node.number, node.gpu))
            .value(mib(node.bytes))
            .source(node_meminfo(node.number))
    }));
    let of_blocks = |verdict, rule, candidate: &str| {
        Finding::new(verdict, rule, candidate).source(MEMORY_BLOCKS)
    };
    let installed_bytes = match blocks(root, &gpu_nodes, with_gpus, known) {
        Ok(Some(Blocks { online, offline, block_bytes })) => {
            let bytes = |count: u64| count.saturating_mul(block_bytes);
            findings.push(
                of_blocks(Verdict::Apart, INSTALLED, &format!("{online} blocks"))
                    .value(mib(bytes(online))),
            );
            if offline > 0 {
                findings.push(
                    of_blocks(Verdict::PassedOver, BLOCK_OFFLINE, &format!("{offline} blocks"))
                        .value(mib(bytes(offline))),
                );
            }
            Reading::Known(bytes(online))
        }
        Ok(None) => {
            findings.push(of_blocks(Verdict::Unknown, NO_BLOCKS, "blocks"));
            Reading::Absent
        }
        Err(error) => {
            let reading = Reading::from(Err(error));
            let reason = reading.failure().unwrap_or_default();
            findings.push(of_blocks(Verdict::Failed, MEMORY_UNREADABLE, "blocks").value(reason));
            reading
        }
    };
    Probed { reading: Reading::Known(Memory { total_bytes, installed_bytes }), findings }
}

/// A NUMA node whose memory is a GPU's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GpuNode {
    number: u64,
    /// The GPU's PCI address.
    gpu: String,
    bytes: u64,
    /// The names of its memory blocks.
    blocks: BTreeSet<String>,
}

/// The NUMA nodes that NVIDIA's driver made of its GPUs' memory, as on GH200 and GB200. The kernel
/// counts them like any other; those of CXL or HBM memory, which have no CPUs either, are none.
/// Source: NVIDIA's open kernel modules, `nv_procfs_read_numa_status` and `os_numa_add_gpu_memory`.
fn gpu_nodes(root: &HostRoot, gpus: BTreeSet<String>) -> Result<Vec<GpuNode>, ReadError> {
    let mut nodes: Vec<GpuNode> = Vec::new();
    let mut with_cpus = None;
    for gpu in gpus {
        let status = root.read_if_present(format!("{NVIDIA_GPUS}/{gpu}/numa_status"))?;
        let Some(number) = status.as_deref().and_then(parse_numa_status) else { continue };
        let with_cpus = match &mut with_cpus {
            Some(known) => known,
            unknown => unknown.insert(root.parse(NODES_WITH_CPUS, parse_range_list)?),
        };
        let is_own = u32::try_from(number).is_ok_and(|number| !with_cpus.contains(&number));
        if !is_own || nodes.iter().any(|node| node.number == number) {
            continue;
        }
        let blocks = root.list(format!("{NODES}/node{number}"))?;
        nodes.push(GpuNode {
            number,
            gpu,
            bytes: root.parse(node_meminfo(number), parse_node_mem_total)?,
            blocks: blocks.into_iter().filter(|name| is_block(name)).collect(),
        });
    }
    Ok(nodes)
}

fn node_meminfo(number: u64) -> String {
    format!("{NODES}/node{number}/meminfo")
}

/// The node that a GPU's memory makes up; `None` where it makes up none now.
fn parse_numa_status(text: &str) -> Option<u64> {
    let value = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()));
    (value("Status:")? == "online").then(|| parse_decimal(value("Node:")?).ok()).flatten()
}

/// `MemTotal` of a NUMA node, in bytes: `Node 1 MemTotal:       99614720 kB`.
/// Source: `node_read_meminfo` in the kernel's drivers/base/node.c.
fn parse_node_mem_total(text: &str) -> Result<u64, ParseError> {
    text.lines()
        .find_map(|line| line.split_once(" MemTotal:")?.1.trim().strip_suffix(" kB"))
        .and_then(kibibytes)
        .ok_or_else(|| ParseError::new("a line \"Node NUMBER MemTotal: NUMBER kB\"", text))
}

/// Reads the host's swap space.
pub(super) fn probe_swap(root: &HostRoot) -> Probed<Reading<Swap>> {
    let areas = match root.parse(SWAPS, parse_swaps) {
        Ok(areas) => areas,
        // A kernel without swap has no such file; without its neighbour there is no /proc at all.
        Err(ReadError::Missing { .. }) if root.resolve(MEMINFO).is_ok() => Vec::new(),
        Err(error) => return Probed::failed("swap", SWAP_UNREADABLE, &error),
    };
    let mut findings: Vec<Finding> = areas
        .iter()
        .map(|area| {
            let (verdict, rule) =
                if area.is_zram() { (Verdict::Apart, ZRAM) } else { (Verdict::Counted, SWAP_AREA) };
            Finding::new(verdict, rule, &area.name).value(mib(area.bytes)).source(SWAPS)
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::new(Verdict::Counted, NO_SWAP, "swap").value(mib(0)).source(SWAPS));
    }
    let sum = |zram: bool| {
        let of_kind = areas.iter().filter(|area| area.is_zram() == zram);
        of_kind.fold(0_u64, |sum, area| sum.saturating_add(area.bytes))
    };
    let swap = Swap { total_bytes: sum(false), zram_bytes: sum(true) };
    Probed { reading: Reading::Known(swap), findings }
}

/// `MemTotal`, in bytes. Parsed here because procfs-core wants a dozen other lines, which sandboxed
/// kernels such as gVisor leave out. Source: Documentation/filesystems/proc.rst, "meminfo".
fn parse_mem_total(text: &str) -> Result<u64, ParseError> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|value| kibibytes(value.trim().strip_suffix(" kB")?))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| ParseError::new("a line \"MemTotal: NUMBER kB\"", text))
}

/// The memory blocks of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    online: u64,
    offline: u64,
    block_bytes: u64,
}

/// What the memory blocks were found to be. A machine has hundreds of them, each with a file for its state,
/// and a block that is switched on or off changes `MemTotal`: while that is the same to the KiB, and the
/// blocks are, two probes that agreed on their states are believed. One alone may have come while a block
/// was being switched, which the kernel shows in steps, and takes back where it fails.
#[derive(Debug, Default)]
pub(super) struct KnownBlocks(Mutex<Option<Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    sign: u64,
    /// When they were begun to be read.
    at: Instant,
    blocks: Blocks,
    /// Whether two probes in a row agreed.
    is_sure: bool,
}

impl KnownBlocks {
    fn get(&self, sign: u64) -> Option<Blocks> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still_so =
            |known: &Known| known.is_sure && known.sign == sign && known.at.elapsed() < BLOCKS_KEPT;
        known.filter(is_still_so).map(|known| known.blocks)
    }

    /// Notes what was read; `None`: a block was on its way from one state to another.
    fn note(&self, sign: u64, at: Instant, blocks: Option<Blocks>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = blocks.map(|blocks| {
            let is_sure = known.is_some_and(|it| it.sign == sign && it.blocks == blocks);
            Known { sign, at, blocks, is_sure }
        });
    }
}

/// Counts memory blocks as lsmem(1) does, without those of GPUs; `None` where the kernel keeps none (no memory hotplug).
/// Source: Documentation/ABI/testing/sysfs-devices-memory.
fn blocks(
    root: &HostRoot,
    gpu_nodes: &[GpuNode],
    mem_total: u64,
    known: &KnownBlocks,
) -> Result<Option<Blocks>, ReadError> {
    let Some(names) = root.list_if_present(MEMORY_BLOCKS)? else { return Ok(None) };
    let block_bytes = root.parse(BLOCK_SIZE, |text| parse_hexadecimal(text.trim_ascii()))?;
    let is_gpus = |name: &str| gpu_nodes.iter().any(|node| node.blocks.contains(name));
    let own = || names.iter().filter(|name| is_block(name) && !is_gpus(name));
    let mut sign = DefaultHasher::new();
    (mem_total, block_bytes).hash(&mut sign);
    own().for_each(|name| name.hash(&mut sign));
    let sign = sign.finish();
    let blocks = if let Some(blocks) = known.get(sign) {
        blocks
    } else {
        let (begun, mut is_settled) = (Instant::now(), true);
        let mut blocks = Blocks { online: 0, offline: 0, block_bytes };
        let folder = root.attributes(MEMORY_BLOCKS);
        for name in own() {
            // Some machines have a hundred thousand: their folder is not looked up for each.
            let is_online = match folder.read(&format!("{name}/state"))? {
                Some(state) => {
                    is_settled &= state == "online" || state == "offline";
                    state == "online"
                }
                None => folder.is_set(&format!("{name}/online"))?,
            };
            *(if is_online { &mut blocks.online } else { &mut blocks.offline }) += 1;
        }
        known.note(sign, begun, is_settled.then_some(blocks));
        blocks
    };
    Ok(Some(blocks).filter(|blocks| blocks.online > 0 && block_bytes > 0))
}

/// Whether a name in the folder is a memory block's: `memory` and its number.
fn is_block(name: &str) -> bool {
    name.strip_prefix("memory").is_some_and(|number| parse_decimal(number).is_ok())
}

/// A hexadecimal number without `0x`, as `block_size_bytes` has it.
fn parse_hexadecimal(text: &str) -> Result<u64, ParseError> {
    let number = u64::from_str_radix(text, 16).ok();
    number
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .ok_or_else(|| ParseError::new("a hexadecimal number", text))
}

/// An area in use as swap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SwapArea {
    name: String,
    bytes: u64,
}

impl SwapArea {
    /// The file tells nothing but the name, and zram's is not open to choice.
    fn is_zram(&self) -> bool {
        self.name.starts_with("/dev/zram")
    }
}

/// The areas in `/proc/swaps`; sizes there are KiB. White space in a file's name is escaped
/// (`\040`), so that columns stand. Source: swapon(8), and `swap_show` in the kernel's mm/swapfile.c.
fn parse_swaps(text: &str) -> Result<Vec<SwapArea>, ParseError> {
    let mut lines = text.lines();
    if !lines.next().unwrap_or_default().starts_with("Filename") {
        return Err(ParseError::new("a heading \"Filename Type Size Used Priority\"", text));
    }
    lines
        .map(|line| {
            let mut columns = line.split_ascii_whitespace();
            let name = columns.next();
            let bytes = columns.nth(1).and_then(kibibytes);
            let (name, bytes) = name
                .zip(bytes)
                .ok_or_else(|| ParseError::new("a line \"NAME TYPE KIBIBYTES …\"", line))?;
            Ok(SwapArea { name: name.to_owned(), bytes })
        })
        .collect()
}

/// A number of KiB, in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    parse_decimal(text).ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn write_below(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn mem_totals() {
        let usual = "MemTotal:       24684320 kB\nMemFree:          123 kB\n";
        assert_eq!(parse_mem_total(usual), Ok(24_684_320 * 1024));
        for bad in [
            "",
            "MemFree: 1 kB\n",
            "MemTotal: 1\n",
            "MemTotal: -1 kB\n",
            "MemTotal: 0 kB\n",
            "MemTotal: 18446744073709551615 kB\n",
        ] {
            assert!(parse_mem_total(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numa_states_of_gpus() {
        let status = |node: &str, status: &str| format!("Node:      {node}\nStatus:    {status}\n");
        assert_eq!(parse_numa_status(&status("1", "online")), Some(1));
        for (node, state) in
            [("-1", "online"), ("1", "offline"), ("1", "online_in_progress"), ("x", "online")]
        {
            assert_eq!(parse_numa_status(&status(node, state)), None, "{node} {state}");
        }
        assert_eq!(parse_numa_status(""), None);
        let meminfo = "Node 1 MemTotal:       99614720 kB\nNode 1 MemFree:  1 kB\n";
        assert_eq!(parse_node_mem_total(meminfo), Ok(99_614_720 * 1024));
        for bad in ["", "MemTotal: 1 kB\n", "Node 1 MemTotal: -1 kB\n", "Node 1 MemTotal: 1\n"] {
            assert!(parse_node_mem_total(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_node_with_cpus_is_never_a_gpus() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| write_below(folder.path(), path, text);
        let probe = |root: &HostRoot| {
            probe(root, root.list_if_present(NVIDIA_GPUS), &KnownBlocks::default())
        };
        let total = |root: &HostRoot| probe(root).reading.known().map(|it| it.total_bytes / 1024);
        let root = HostRoot::new(folder.path());
        write("proc/meminfo", "MemTotal: 100 kB\n");
        write("proc/driver/nvidia/gpus/0009:01:00.0/numa_status", "Node: 1\nStatus: online\n");
        assert_eq!(total(&root), None, "without the node nothing is known");
        write("sys/devices/system/node/has_cpu", "0\n");
        write("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 30 kB\n");
        assert_eq!(total(&root), Some(70));
        write("sys/devices/system/node/has_cpu", "0-1\n");
        assert_eq!(total(&root), Some(100));
        write("sys/devices/system/node/has_cpu", "0\n");
        write("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 100 kB\n");
        let failure = probe(&root).reading.failure().map(str::to_owned);
        assert!(failure.is_some_and(|reason| reason.contains("less memory")));
    }

    #[test]
    fn swaps() {
        const HEADING: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        for (why, lines, total_kib, zram_kib) in [
            ("no swap", "", 0, 0),
            (
                "a partition",
                "/dev/sda3                               partition\t8388604\t\t0\t\t-2\n",
                8_388_604,
                0,
            ),
            (
                "zram is apart",
                "/dev/zram0 partition 16777212 0 100\n/dev/sda3 partition 4 0 -2\n",
                4,
                16_777_212,
            ),
            ("a name with a space", "/swap\\040file file 1024 0 -2\n", 1024, 0),
            ("a deleted file", "/swap\\040(deleted) file 1024 0 -2\n", 1024, 0),
        ] {
            let expected = Swap { total_bytes: total_kib * 1024, zram_bytes: zram_kib * 1024 };
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("proc")).expect("a folder");
            fs::write(folder.path().join("proc/swaps"), format!("{HEADING}{lines}"))
                .expect("written");
            let found = probe_swap(&HostRoot::new(folder.path())).reading;
            assert_eq!(found, Reading::Known(expected), "{why}");
        }
        for bad in
            ["", "nonsense\n", "Filename\n/dev/sda3\n", "Filename\n/dev/sda3 partition x 0 0\n"]
        {
            assert!(parse_swaps(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn block_sizes() {
        assert_eq!(parse_hexadecimal("8000000"), Ok(128 << 20));
        for bad in ["", "0x80", "-8", "g", "10000000000000000"] {
            assert!(parse_hexadecimal(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn blocks_are_looked_at_again_where_they_may_have_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| write_below(folder.path(), path, text);
        let state = |number: u32, text: &str| {
            write(&format!("sys/devices/system/memory/memory{number}/state"), text);
        };
        let known = KnownBlocks::default();
        let installed = || {
            let read = probe(&HostRoot::new(folder.path()), Ok(None), &known).reading;
            let memory = read.known().expect("known");
            memory.installed_bytes.known().copied().expect("known") >> 20
        };
        write("proc/meminfo", "MemTotal: 300000 kB\n");
        write("sys/devices/system/memory/block_size_bytes", "8000000\n");
        for number in 0..3 {
            state(number, "online\n");
        }
        state(2, "going-offline\n");
        assert_eq!([installed(), installed()], [2 * 128; 2], "it may come back, as when it fails");
        state(2, "online\n");
        assert_eq!([installed(), installed()], [3 * 128; 2]);
        // No kernel does that without a change of MemTotal: their files are not read again.
        state(2, "offline\n");
        assert_eq!(installed(), 3 * 128);
        write("proc/meminfo", "MemTotal: 168928 kB\n");
        assert_eq!(installed(), 2 * 128, "MemTotal has changed");
        state(1, "offline\n");
        assert_eq!(installed(), 128, "one probe alone is not believed");
        state(1, "online\n");
        state(3, "online\n");
        assert_eq!(installed(), 3 * 128, "there is another block");
        write("sys/devices/system/memory/block_size_bytes", "10000000\n");
        assert_eq!([installed(), installed()], [3 * 256; 2], "blocks have another size");
        let long_ago = Instant::now().checked_sub(BLOCKS_KEPT);
        if let (Some(known), Some(at)) = (known.0.lock().expect("whole").as_mut(), long_ago) {
            known.at = at;
        }
        state(2, "online\n");
        assert_eq!(installed(), 4 * 256, "they were looked at long ago");
    }

    #[test]
    fn names_of_blocks() {
        let names = ["memory0", "memory", "memory12", "memoryx", "block_size_bytes", "power"];
        let blocks: Vec<_> = names.into_iter().filter(|name| is_block(name)).collect();
        assert_eq!(blocks, ["memory0", "memory12"]);
    }

    proptest! {
        #[test]
        fn sizes_come_back_in_bytes(kib in 1..u64::MAX / 1024, others in proptest::collection::vec(any::<u32>(), 0..5)) {
            prop_assert_eq!(parse_mem_total(&format!("MemTotal: {kib} kB\n")), Ok(kib * 1024));
            prop_assert_eq!(parse_hexadecimal(&format!("{kib:x}")), Ok(kib));
            let lines: Vec<String> =
                others.iter().map(|kib| format!("/dev/sda1 partition {kib} 0 -2\n")).collect();
            let areas = parse_swaps(&format!("Filename\n{}", lines.concat())).expect("areas");
            let found: Vec<u64> = areas.iter().map(|area| area.bytes).collect();
            let expected: Vec<u64> = others.iter().map(|kib| u64::from(*kib) * 1024).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn odd_texts_are_refused(text in "\\PC{0,40}") {
            prop_assert!(parse_mem_total(&text).is_err() || text.contains("MemTotal:"));
            prop_assert!(parse_swaps(&text).is_err() || text.starts_with("Filename"));
            prop_assert!(parse_hexadecimal(&text).is_err() || text.len() <= 16);
            prop_assert!(parse_numa_status(&text).is_none() || text.contains("online"));
            prop_assert!(parse_node_mem_total(&text).is_err() || text.contains(" MemTotal:"));
        }
    }
}
