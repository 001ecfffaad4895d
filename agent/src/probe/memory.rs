//! Main memory, usable and installed, and swap space.

use rollcall_report::{Memory, Reading, Swap};

use super::parse_decimal;
use crate::host::{HostRoot, ParseError, ReadError};

const MEMORY_BLOCKS: &str = "/sys/devices/system/memory";

/// Reads the host's memory, never a cgroup's limit.
pub(super) fn probe(root: &HostRoot) -> Reading<Memory> {
    Reading::from(root.parse("/proc/meminfo", parse_mem_total).map(|total_bytes| Memory {
        total_bytes,
        installed_bytes: match installed_bytes(root) {
            Ok(Some(bytes)) => Reading::Known(bytes),
            Ok(None) => Reading::Absent,
            Err(error) => Reading::from(Err(error)),
        },
    }))
}

/// Reads the host's swap space.
pub(super) fn probe_swap(root: &HostRoot) -> Reading<Swap> {
    match root.parse("/proc/swaps", parse_swaps) {
        // A kernel without swap has no such file; without its neighbour there is no /proc at all.
        Err(ReadError::Missing { .. }) if root.resolve("/proc/meminfo").is_ok() => {
            Reading::Known(Swap { total_bytes: 0, zram_bytes: 0 })
        }
        result => Reading::from(result),
    }
}

/// `MemTotal`, in bytes. Parsed here because procfs-core wants a dozen other lines, which sandboxed
/// kernels such as gVisor leave out. Source: Documentation/filesystems/proc.rst, "meminfo".
fn parse_mem_total(text: &str) -> Result<u64, ParseError> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|value| kibibytes(value.trim().strip_suffix(" kB")?))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| ParseError::new("a line \"MemTotal: NUMBER kB\"", text))
}

/// The memory in blocks that are online, in bytes, as lsmem(1) counts it; `None` where the kernel
/// keeps no blocks (no memory hotplug).
/// Source: Documentation/ABI/testing/sysfs-devices-memory.
fn installed_bytes(root: &HostRoot) -> Result<Option<u64>, ReadError> {
    let Some(names) = root.list_if_present(MEMORY_BLOCKS)? else { return Ok(None) };
    let block_bytes =
        root.attributes(MEMORY_BLOCKS).parse("block_size_bytes", parse_hexadecimal)?;
    let mut online = 0_u64;
    for name in names.iter().filter(|name| is_block(name)) {
        let block = root.attributes(format!("{MEMORY_BLOCKS}/{name}"));
        let is_online = match block.read("state")? {
            Some(state) => state == "online",
            None => block.is_set("online")?,
        };
        online += u64::from(is_online);
    }
    Ok(Some(online.saturating_mul(block_bytes)).filter(|bytes| *bytes > 0))
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

/// Sums up `/proc/swaps`; sizes there are KiB. White space in a file's name is escaped (`\040`), so
/// that columns stand. Source: swapon(8), and `swap_show` in the kernel's mm/swapfile.c.
fn parse_swaps(text: &str) -> Result<Swap, ParseError> {
    let mut lines = text.lines();
    if !lines.next().unwrap_or_default().starts_with("Filename") {
        return Err(ParseError::new("a heading \"Filename Type Size Used Priority\"", text));
    }
    let mut swap = Swap { total_bytes: 0, zram_bytes: 0 };
    for line in lines {
        let mut columns = line.split_ascii_whitespace();
        let name = columns.next();
        let bytes = columns.nth(1).and_then(kibibytes);
        let (Some(name), Some(bytes)) = (name, bytes) else {
            return Err(ParseError::new("a line \"NAME TYPE KIBIBYTES …\"", line));
        };
        // The file tells nothing but the name, and zram's is not open to choice.
        let sum = if name.starts_with("/dev/zram") {
            &mut swap.zram_bytes
        } else {
            &mut swap.total_bytes
        };
        *sum = sum.saturating_add(bytes);
    }
    Ok(swap)
}

/// A number of KiB, in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    parse_decimal(text).ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
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
            assert_eq!(parse_swaps(&format!("{HEADING}{lines}")), Ok(expected), "{why}");
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
            let total_bytes = others.iter().map(|kib| u64::from(*kib) * 1024).sum();
            let expected = Swap { total_bytes, zram_bytes: 0 };
            prop_assert_eq!(parse_swaps(&format!("Filename\n{}", lines.concat())), Ok(expected));
        }

        #[test]
        fn odd_texts_are_refused(text in "\\PC{0,40}") {
            prop_assert!(parse_mem_total(&text).is_err() || text.contains("MemTotal:"));
            prop_assert!(parse_swaps(&text).is_err() || text.starts_with("Filename"));
            prop_assert!(parse_hexadecimal(&text).is_err() || text.len() <= 16);
        }
    }
}
