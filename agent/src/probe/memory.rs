//! Main memory, usable and installed, and swap space.

use rollcall_report::{Memory, Reading, Swap};

use super::parse_decimal;
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{HostRoot, ParseError, ReadError};

const MEMORY_BLOCKS: &str = "/sys/devices/system/memory";

const MEMINFO: &str = "/proc/meminfo";
const SWAPS: &str = "/proc/swaps";

const MIB: u64 = 1024 * 1024;

/// The rules for memory.
pub(super) const RULES: [Rule; 5] =
    [MEM_TOTAL, INSTALLED, NO_BLOCKS, BLOCK_OFFLINE, MEMORY_UNREADABLE];

const MEM_TOTAL: Rule =
    Rule::new("mem-total", "what the kernel has to give out, never a cgroup's limit");
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
pub(super) fn probe(root: &HostRoot) -> Probed<Reading<Memory>> {
    let total_bytes = match root.parse(MEMINFO, parse_mem_total) {
        Ok(bytes) => bytes,
        Err(error) => return Probed::failed("MemTotal", MEMORY_UNREADABLE, &error),
    };
    let mut findings = vec![
        Finding::new(Verdict::Counted, MEM_TOTAL, "MemTotal")
            .value(mib(total_bytes))
            .source(MEMINFO),
    ];
    let of_blocks = |verdict, rule, candidate: &str| {
        Finding::new(verdict, rule, candidate).source(MEMORY_BLOCKS)
    };
    let installed_bytes = match blocks(root) {
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

/// Bytes as the document has them.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
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

/// Counts memory blocks as lsmem(1) does; `None` where the kernel keeps none (no memory hotplug).
/// Source: Documentation/ABI/testing/sysfs-devices-memory.
fn blocks(root: &HostRoot) -> Result<Option<Blocks>, ReadError> {
    let Some(names) = root.list_if_present(MEMORY_BLOCKS)? else { return Ok(None) };
    let block_bytes =
        root.attributes(MEMORY_BLOCKS).parse("block_size_bytes", parse_hexadecimal)?;
    let mut blocks = Blocks { online: 0, offline: 0, block_bytes };
    for name in names.iter().filter(|name| is_block(name)) {
        let block = root.attributes(format!("{MEMORY_BLOCKS}/{name}"));
        let is_online = match block.read("state")? {
            Some(state) => state == "online",
            None => block.is_set("online")?,
        };
        *(if is_online { &mut blocks.online } else { &mut blocks.offline }) += 1;
    }
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

    use proptest::prelude::*;

    use super::*;

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
        }
    }
}
