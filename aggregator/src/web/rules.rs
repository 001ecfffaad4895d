//! What the rules mean by which agents pass candidates over, in a line each; `docs/counting.md` says
//! where each comes from. Names of newer agents have none.

use rollcall_report::Subject;

/// What a rule means; `None`: it is not known here.
pub(super) fn meaning_of(subject: Subject, rule: &str) -> Option<&'static str> {
    let known = MEANINGS.iter().find(|(of, name, _)| *of == subject && *name == rule);
    known.map(|(_, _, meaning)| *meaning)
}

const MEANINGS: [(Subject, &str, &str); 38] = [
    (Subject::Cpu, "offline", "switched off, and runs nothing"),
    (Subject::Cpu, "not-present", "a place for a CPU that is not there"),
    (Subject::Memory, "gpu-memory", "memory of a GPU, which counts with the GPU"),
    (Subject::Memory, "block-offline", "switched off, and of use to nobody"),
    (Subject::Swap, "zram", "compressed memory, which is memory already"),
    (
        Subject::Disks,
        "network-disk",
        "behind a network, where every node that sees it would count it",
    ),
    (Subject::Disks, "hidden-path", "one of several paths to a disk that counts by its head"),
    (Subject::Disks, "virtual", "made of other devices, of a file or of memory"),
    (Subject::Disks, "optical", "an optical drive"),
    (Subject::Disks, "floppy", "a floppy drive"),
    (Subject::Disks, "raw-flash", "a firmware's flash chip"),
    (Subject::Disks, "hardware-partition", "a part of another disk"),
    (Subject::Disks, "removable", "removable, unless --count-removable asks for it"),
    (Subject::Disks, "empty", "has no medium or no capacity"),
    (Subject::Disks, "another-path", "another path to a disk that counts already"),
    (Subject::Nics, "software", "made by the kernel, with no device behind it"),
    (Subject::Nics, "other-link-type", "neither Ethernet nor InfiniBand"),
    (Subject::Nics, "other-bus", "on a bus that carries no adapters, such as USB"),
    (Subject::Nics, "virtual-function", "a slice of an adapter that counts itself"),
    (Subject::Nics, "representor", "stands for a slice in the adapter's switch"),
    (Subject::Nics, "partition-key", "an InfiniBand partition of another interface"),
    (Subject::Nics, "accelerated-pair", "one adapter together with its master"),
    (Subject::Nics, "same-port", "a slice of a port that counts already"),
    (Subject::Nics, "port-of-interface", "a port that counts by its interface"),
    (Subject::Nics, "other-port", "beside an Ethernet interface, which counts"),
    (Subject::Nics, "ethernet-port", "the RDMA side of an Ethernet adapter"),
    (Subject::Nics, "software-port", "an RDMA device made by software"),
    (Subject::Nics, "passed-through", "handed on to a virtual machine, where it counts"),
    (Subject::Nics, "no-driver", "an adapter that no driver serves"),
    (
        Subject::Nics,
        "not-visible",
        "an adapter without an interface here, such as one moved into a pod",
    ),
    (Subject::Gpus, "virtual-function", "a part of a device that counts itself"),
    (Subject::Gpus, "passed-through", "handed on to a virtual machine, where it counts"),
    (Subject::Gpus, "display-adapter", "for the monitors of a DGX Station, and not to compute on"),
    (Subject::Gpus, "no-gpu", "another device of a GPU's maker: sound, USB, a bridge"),
    (Subject::Gpus, "display", "a display of a maker whose displays do not compute"),
    (Subject::Gpus, "amd-integrated", "part of the processor"),
    (Subject::Gpus, "amd-display", "a display that is not there to compute"),
    (Subject::Gpus, "unreadable", "what it is cannot be read"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use rollcall_report::NodeReport;

    use super::*;

    #[test]
    fn every_rule_by_which_saved_machines_are_passed_over_has_a_meaning() {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts");
        let mut seen = BTreeSet::new();
        for host in fs::read_dir(hosts).expect("saved machines") {
            let report = host.expect("a folder").path().join("report.json");
            let text = fs::read_to_string(&report).expect("a saved report");
            let report: NodeReport = serde_json::from_str(&text).expect("a report");
            seen.extend(report.passed_over.into_iter().map(|it| (it.subject, it.rule)));
        }
        assert!(seen.len() > 20, "{seen:?}");
        let unknown: Vec<_> =
            seen.iter().filter(|(subject, rule)| meaning_of(*subject, rule).is_none()).collect();
        assert!(unknown.is_empty(), "no meaning: {unknown:?}");
    }

    #[test]
    fn every_meaning_is_of_a_rule_that_counting_knows() {
        let counting = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/counting.md");
        let counting = fs::read_to_string(counting).expect("docs/counting.md");
        for (subject, rule, meaning) in MEANINGS {
            assert!(counting.contains(&format!("| `{rule}` |")), "{subject} {rule}");
            assert!(!meaning.is_empty(), "{subject} {rule}");
        }
    }
}
