//! Golden reports: probes the root of each machine under `hosts/` and compares the report with the
//! one beside it. `EXPECTORATE=overwrite` writes them anew.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rollcall_agent::explain;
use rollcall_agent::health::Watch;
use rollcall_agent::host::HostRoot;
use rollcall_agent::identity::identify;
use rollcall_agent::probe::{self, ProbeOptions, Prober, Survey};
use rollcall_agent::report;
use rollcall_report::{NodeIdentity, NodeReport, Subject};

/// Relative, so that the paths in reasons are the same everywhere.
const HOSTS: &str = "tests/hosts";

/// The kinds of machines that must be there.
const KINDS: [&str; 20] = [
    "amd-mi300x",
    "bare-minimum",
    "bond-vlan-sriov",
    "cloud-accelerated-networking",
    "container-host-mount",
    "dm-multipath",
    "emmc-boot-partitions",
    "firecracker-vm",
    "gpu-server-8-infiniband",
    "gpu-without-driver",
    "grace-hopper",
    "intel-gaudi",
    "nvidia-mig-display",
    "nvidia-passthrough-lost",
    "nvme-native-multipath",
    "rich-server",
    "software-raid-lvm",
    "two-socket-offline-cpus",
    "wrong-root",
    "zram-and-swap-file",
];

/// The host's root of a saved machine: a container sees it somewhere below its own.
fn root_of(host: &str) -> HostRoot {
    let root = Path::new(HOSTS).join(host).join("root");
    let inside = root.join("host");
    HostRoot::open(if inside.exists() { inside } else { root }).expect("a host's root")
}

fn take(host: &str) -> (NodeIdentity, Survey) {
    let options = ProbeOptions {
        nvml_library: PathBuf::from("/nonexistent/libnvidia-ml.so.1"),
        nvml_timeout: Duration::from_secs(30),
        nvml_program: PathBuf::from(env!("CARGO_BIN_EXE_rollcall-agent")),
        count_removable: false,
    };
    let name = Some("node-1".parse().expect("a node name"));
    let identity = identify(&root_of(host), name, None).expect("a name is given");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut prober = Prober::new(root_of(host), options);
    (identity, runtime.block_on(prober.probe()).expect("a survey"))
}

/// The report, at the beginning of time.
fn build(identity: NodeIdentity, survey: Survey) -> NodeReport {
    report::build(identity, survey, &mut Watch::default(), SystemTime::UNIX_EPOCH)
}

fn report_of(host: &str) -> NodeReport {
    let (identity, survey) = take(host);
    build(identity, survey)
}

fn hosts() -> Vec<String> {
    let mut hosts: Vec<String> = fs::read_dir(HOSTS)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    hosts.sort();
    hosts
}

#[test]
fn every_machine_gives_its_report_and_its_reasons() {
    let hosts = hosts();
    assert_eq!(hosts, KINDS, "a machine's folder was added or lost");
    for host in hosts {
        let folder = Path::new(HOSTS).join(&host);
        let note = fs::read_to_string(folder.join("NOTE.md")).expect(&host);
        let origin = note.contains("Constructed") || note.contains("Captured");
        assert!(origin, "{host}: NOTE.md must say where the files come from");

        let (identity, survey) = take(&host);
        let explained = explain::tables(&survey.inventory, &survey.explanation) + "\n";
        let mut report = build(identity, survey);
        assert_eq!(report.check(), Ok(()), "{host}: an aggregator would refuse it");
        assert_eq!(report.agent.version.as_str(), env!("CARGO_PKG_VERSION"));
        report.agent.version = "VERSION".into();
        let json = serde_json::to_string_pretty(&report).expect("encodes") + "\n";
        expectorate::assert_contents(folder.join("report.json"), &json);
        expectorate::assert_contents(folder.join("explain.txt"), &explained);
    }
}

/// A rule that decides on no saved machine could be anything.
#[test]
fn every_rule_decides_somewhere_and_is_documented() {
    // The probe's own tests show these, with what NVIDIA's library may answer and a Node's labels may
    // say, and on kernels and boards that no saved machine has.
    const ELSEWHERE: [(Subject, &str); 12] = [
        (Subject::Gpus, "nvidia-attached"),
        (Subject::Gpus, "node-labels"),
        (Subject::Gpus, "memory-of-label"),
        (Subject::Gpus, "nvidia-unmatched"),
        (Subject::Gpus, "nvidia-off-bus"),
        (Subject::Gpus, "shared-memory"),
        (Subject::Gpus, "memory-unknown"),
        (Subject::Gpus, "amd-shared-memory"),
        (Subject::Gpus, "amd-memory-unreadable"),
        (Subject::Gpus, "amd-integrated"),
        (Subject::Gpus, "amd-perhaps-integrated"),
        (Subject::Gpus, "amd-display"),
    ];
    let documentation = fs::read_to_string("../docs/counting.md").expect("the documentation");
    let mut used = BTreeSet::new();
    for host in hosts() {
        for (subject, findings) in take(&host).1.explanation {
            used.extend(findings.into_iter().map(|finding| (subject, finding.rule.name)));
        }
    }
    let mut sections = BTreeMap::new();
    for section in documentation.split("\n## ") {
        let (heading, text) = section.split_once('\n').unwrap_or((section, ""));
        sections.insert(heading, text);
    }
    let mut named = BTreeSet::new();
    let mut wanting = Vec::new();
    for (subject, rule) in probe::rules() {
        assert!(
            named.insert((subject, rule.name)),
            "two rules of {subject} are named {}",
            rule.name
        );
        let heading = match subject {
            Subject::Machine => "Machine",
            Subject::Cpu => "Processors",
            Subject::Memory => "Memory",
            Subject::Swap => "Swap",
            Subject::Disks => "Disks",
            Subject::Nics => "Network interfaces",
            Subject::Gpus => "GPUs",
        };
        let line = format!("| `{}` |", rule.name);
        if !sections.get(heading).is_some_and(|section| section.contains(&line)) {
            wanting.push(format!("docs/counting.md: no {line} under {heading}"));
        }
        let shown = |rule| used.contains(rule) || ELSEWHERE.contains(rule);
        if !shown(&(subject, rule.name)) {
            wanting.push(format!("no machine under {HOSTS} shows {} of {subject}", rule.name));
        }
    }
    assert!(wanting.is_empty(), "{wanting:#?}");
    assert_eq!(used.difference(&named).next(), None, "a rule that probe::rules() does not list");
}

#[test]
fn a_wrong_root_is_a_failure_of_everything_and_not_an_empty_machine() {
    let report = report_of("wrong-root");
    let failures = report.inventory.failures();
    let failed: Vec<Subject> = failures.iter().map(|(subject, _)| *subject).collect();
    assert_eq!(failed, Subject::ALL);
    for (subject, reason) in failures {
        assert!(reason.contains("tests/hosts/wrong-root/root/"), "{subject}: {reason}");
        assert!(reason.contains("--host-root"), "{subject}: {reason}");
    }
}
