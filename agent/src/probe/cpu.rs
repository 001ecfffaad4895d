//! Processors: the CPUs that are online, and the cores, sockets and NUMA nodes that they make up.

use std::collections::BTreeSet;

use rollcall_report::{Cpu, Reading};

use super::{known_text, parse_range_list};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{HostRoot, ParseError, ReadError};

const ONLINE: &str = "/sys/devices/system/cpu/online";
const PRESENT: &str = "/sys/devices/system/cpu/present";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
const NUMA_ONLINE: &str = "/sys/devices/system/node/online";

/// The rules for processors.
pub(super) const RULES: [Rule; 5] = [COUNTED, OFFLINE, NOT_PRESENT, TOPOLOGY, UNREADABLE];

const COUNTED: Rule = Rule::new("online", "a CPU that is online is a vCPU");
const OFFLINE: Rule = Rule::new("offline", "switched off, nothing runs on it");
const NOT_PRESENT: Rule =
    Rule::new("not-present", "the kernel keeps a place for it, and it is not plugged in");
const TOPOLOGY: Rule = Rule::new(
    "topology",
    "cores and sockets of the CPUs that are online, and NUMA nodes; no part of the document",
);
const UNREADABLE: Rule = Rule::new("unreadable", "how many CPUs are online cannot be read");

/// Counts the CPUs that are online on the host: not the possible ones, and not those that this
/// process may run on.
pub(super) fn probe(root: &HostRoot) -> Probed<Reading<Cpu>> {
    match read(root) {
        Ok((cpu, online)) => {
            let findings = findings(root, &cpu, &online);
            Probed { reading: Reading::Known(cpu), findings }
        }
        Err(error) => Probed::failed("CPUs", UNREADABLE, &error),
    }
}

fn read(root: &HostRoot) -> Result<(Cpu, BTreeSet<u32>), ReadError> {
    // Source: Documentation/admin-guide/cputopology.rst.
    let online = root.parse(ONLINE, parse_online)?;
    let topology = topology(root, &online)?;
    let numa_nodes = match root.parse(NUMA_ONLINE, parse_online) {
        Ok(nodes) => Some(count(&nodes)),
        // A kernel without NUMA.
        Err(ReadError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    // The first CPU tells what the others are; a machine may have hundreds.
    let cpuinfo = root.read_paragraph_if_present("/proc/cpuinfo")?.unwrap_or_default();
    let cpu = Cpu {
        online: count(&online),
        cores: topology.as_ref().map(count),
        sockets: topology.map(|cores| {
            count(&cores.into_iter().map(|(package, _)| package).collect::<BTreeSet<_>>())
        }),
        numa_nodes,
        // Architectures other than x86 have no such lines: an aarch64 kernel tells part numbers.
        model: cpuinfo_value(&cpuinfo, "model name").and_then(known_text),
        vendor: cpuinfo_value(&cpuinfo, "vendor_id").and_then(known_text),
    };
    Ok((cpu, online))
}

fn findings(root: &HostRoot, cpu: &Cpu, online: &BTreeSet<u32>) -> Vec<Finding> {
    // Only to be shown: the count stands without these files.
    let others = |path: &str| root.parse(path, parse_range_list).unwrap_or_default();
    let (present, possible) = (others(PRESENT), others(POSSIBLE));
    let offline: BTreeSet<u32> = present.difference(online).copied().collect();
    let missing: BTreeSet<u32> =
        possible.iter().filter(|cpu| !present.contains(cpu)).copied().collect();
    let mut findings = vec![
        Finding::new(Verdict::Counted, COUNTED, &format!("CPUs {}", range_list(online)))
            .value(cpu.online.to_string())
            .source(ONLINE),
    ];
    for (rule, numbers, source) in [(OFFLINE, offline, PRESENT), (NOT_PRESENT, missing, POSSIBLE)] {
        // Without the list of those that are present, all would be missing.
        if !numbers.is_empty() && !present.is_empty() {
            let candidate = format!("CPUs {}", range_list(&numbers));
            findings.push(
                Finding::new(Verdict::PassedOver, rule, &candidate)
                    .value(count(&numbers).to_string())
                    .source(source),
            );
        }
    }
    for (name, value, source) in [
        ("cores", cpu.cores, "/sys/devices/system/cpu/cpu*/topology/core_id"),
        ("sockets", cpu.sockets, "/sys/devices/system/cpu/cpu*/topology/physical_package_id"),
        ("NUMA nodes", cpu.numa_nodes, NUMA_ONLINE),
    ] {
        let value = value.map_or_else(|| "not told".to_owned(), |number| number.to_string());
        findings.push(Finding::new(Verdict::Apart, TOPOLOGY, name).value(value).source(source));
    }
    findings
}

/// Numbers as the kernel lists them: `0-3,7`.
fn range_list(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let ranges = ranges.into_iter().map(|(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// The cores that are online as (package, core), or `None` where the kernel does not tell all of
/// them. A core's number is unique in its package only.
fn topology(
    root: &HostRoot,
    online: &BTreeSet<u32>,
) -> Result<Option<BTreeSet<(u32, u32)>>, ReadError> {
    let mut cores = BTreeSet::new();
    let cpus = root.attributes("/sys/devices/system/cpu");
    for number in online {
        let package = cpus.read(&format!("cpu{number}/topology/physical_package_id"))?;
        let core = cpus.read(&format!("cpu{number}/topology/core_id"))?;
        // The kernel says -1 for what it does not know.
        let number = |text: Option<String>| text?.parse::<u32>().ok();
        let (Some(package), Some(core)) = (number(package), number(core)) else { return Ok(None) };
        cores.insert((package, core));
    }
    Ok(Some(cores))
}

/// Parses a list of ranges that must not be empty.
fn parse_online(text: &str) -> Result<BTreeSet<u32>, ParseError> {
    let numbers = parse_range_list(text)?;
    if numbers.is_empty() {
        return Err(ParseError::new("at least one number", text));
    }
    Ok(numbers)
}

/// The value of the first line `KEY : VALUE` of `/proc/cpuinfo`. Every CPU of a machine that
/// Kubernetes runs on is of one kind, or the first speaks for all.
fn cpuinfo_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim_end() == key).then_some(value)
    })
}

fn count<T>(items: &BTreeSet<T>) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::MAX_NUMBER;

    #[test]
    fn range_lists() {
        for (text, expected) in [
            ("0\n", vec![0]),
            ("0-3,7\n", vec![0, 1, 2, 3, 7]),
            ("0-2,1-3", vec![0, 1, 2, 3]),
            ("5,5,5", vec![5]),
            ("65535", vec![65_535]),
            ("\n", vec![]),
        ] {
            let expected: BTreeSet<u32> = expected.into_iter().collect();
            assert_eq!(parse_range_list(text), Ok(expected), "{text:?}");
        }
        for bad in
            ["a", "0-", "-1", "3-0", "0,,1", "0,", "0, 1", "+1", "0-1-2", "65536", "0-4294967295"]
        {
            assert!(parse_range_list(bad).is_err(), "{bad:?}");
        }
        assert!(parse_online("\n").is_err(), "no CPU online");
    }

    #[test]
    fn what_is_written_as_a_range_list() {
        for (numbers, text) in
            [(vec![], ""), (vec![3], "3"), (vec![0, 1, 2, 3, 7, 9, 10], "0-3,7,9-10")]
        {
            assert_eq!(range_list(&numbers.into_iter().collect()), text);
        }
    }

    #[test]
    fn values_of_cpuinfo() {
        let x86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 207\nmodel name\t: Intel(R) Xeon(R): 8480\n";
        assert_eq!(cpuinfo_value(x86, "model name"), Some(" Intel(R) Xeon(R): 8480"));
        assert_eq!(cpuinfo_value(x86, "model"), Some(" 207"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(cpuinfo_value(arm, "model name"), None);
    }

    proptest! {
        #[test]
        fn every_set_of_numbers_survives(numbers in proptest::collection::btree_set(0_u32..=65_535, 0..40)) {
            let text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(parse_range_list(&range_list(&numbers)), Ok(numbers.clone()));
            prop_assert_eq!(parse_range_list(&text), Ok(numbers));
        }

        #[test]
        fn odd_lists_are_bounded_or_refused(text in any::<String>(), list in "[0-9,-]{0,24}") {
            for text in [text, list] {
                if let Ok(numbers) = parse_range_list(&text) {
                    prop_assert!(numbers.last().is_none_or(|last| *last <= MAX_NUMBER), "{}", text);
                }
            }
        }

        #[test]
        fn values_never_hold_their_key(text in any::<String>()) {
            let value = cpuinfo_value(&text, "model name").unwrap_or_default();
            prop_assert!(!value.contains('\n'));
        }
    }
}
