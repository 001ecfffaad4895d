//! Every saved machine under `agent/tests/hosts/`, from its files to the document: against the hand
//! count in its note, and under failures that a test makes up.
//!
//! The block at the end of a note is what its devices hold, counted by hand; with `keptOut`, the
//! subject for which the document cannot have the node.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;
use rollcall_agent::capture::{self, Capture, Manifest};
use rollcall_agent::health::Watch;
use rollcall_agent::host::{HostRoot, Recorder};
use rollcall_agent::identity::identify;
use rollcall_agent::probe::{ProbeOptions, Prober};
use rollcall_agent::report;
use rollcall_aggregator::cluster_file::Overrides;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::{Incomplete, NodeData, Source};
use rollcall_aggregator::roll::Roll;
use rollcall_report::{NodeReport, Reading};
use rollcall_tests::process::program;
use serde::Deserialize;
use tempfile::TempDir;

const HOLD_DOWN: Duration = Duration::from_mins(10);

/// What a machine's devices hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Holds {
    vcpus: u64,
    #[serde(rename = "memoryMiB")]
    memory_mib: u64,
    #[serde(rename = "swapMiB")]
    swap_mib: u64,
    disks: u64,
    #[serde(rename = "storageMiB")]
    storage_mib: u64,
    interfaces: u64,
    bandwidth_mbps: u64,
    gpus: u64,
    #[serde(rename = "gpuMemoryMiB")]
    gpu_memory_mib: u64,
}

impl Holds {
    fn of(node: &NodeData) -> Self {
        assert_eq!(node.network.tx_bandwidth, node.network.rx_bandwidth);
        Self {
            vcpus: node.vcpus.count,
            memory_mib: node.memory,
            swap_mib: node.swap,
            disks: node.storage.disks,
            storage_mib: node.storage.size,
            interfaces: node.network.interfaces,
            bandwidth_mbps: node.network.tx_bandwidth,
            gpus: node.gpus.count,
            gpu_memory_mib: node.gpus.memory,
        }
    }

    fn numbers(self) -> [(&'static str, u64); 9] {
        [
            ("vcpus", self.vcpus),
            ("memory", self.memory_mib),
            ("swap", self.swap_mib),
            ("disks", self.disks),
            ("storage", self.storage_mib),
            ("interfaces", self.interfaces),
            ("bandwidth", self.bandwidth_mbps),
            ("gpus", self.gpus),
            ("gpu memory", self.gpu_memory_mib),
        ]
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    #[serde(flatten)]
    holds: Holds,
    kept_out: Option<String>,
}

#[derive(Debug)]
struct Machine {
    name: String,
    root: PathBuf,
    note: Note,
    /// Every path of it that a probe reads.
    paths: Vec<PathBuf>,
}

static MACHINES: LazyLock<Vec<Machine>> = LazyLock::new(|| {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts");
    let mut machines: Vec<Machine> = fs::read_dir(hosts)
        .expect("the saved machines")
        .map(|entry| {
            let folder = entry.expect("an entry").path();
            let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
            let text = fs::read_to_string(folder.join("NOTE.md")).expect(&name);
            let (_, block) = text.rsplit_once("```json\n").expect(&name);
            let note = serde_json::from_str(block.split("```").next().expect("a block"));
            // A container sees the host's root somewhere below its own.
            let inside = folder.join("root/host");
            let root = if inside.exists() { inside } else { folder.join("root") };
            let recorder = Recorder::default();
            let host = HostRoot::open(&root).expect(&name).recorded_by(recorder.clone());
            take(host);
            let paths = recorder.record().into_keys().collect();
            Machine { name, root, note: note.expect("a hand count"), paths }
        })
        .collect();
    machines.sort_by(|left, right| left.name.cmp(&right.name));
    assert!(machines.len() > 15, "the saved machines are gone");
    machines
});

fn take(host: HostRoot) -> NodeReport {
    let options = ProbeOptions {
        nvml_library: PathBuf::from("/nonexistent/libnvidia-ml.so.1"),
        nvml_timeout: Duration::from_secs(30),
        nvml_program: program("rollcall-agent"),
        count_removable: false,
    };
    let name = Some("node-1".parse().expect("a node name"));
    let mut identity = identify(&host, name, None).expect("a name is given");
    // The machine's id may be among what cannot be read; who a node is, is another test's matter.
    identity.machine_hash = None;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let survey = runtime.block_on(Prober::new(host, options).probe()).expect("a survey");
    report::build(identity, survey, &mut Watch::default(), SystemTime::UNIX_EPOCH)
}

/// What the document says of the node after these reports, a minute apart.
fn document(reports: &[NodeReport]) -> Result<Holds, Incomplete> {
    let mut roll = Roll::default();
    let mut now = Timestamp::UNIX_EPOCH;
    for report in reports {
        assert_eq!(report.check(), Ok(()), "an aggregator would refuse it");
        let body = serde_json::to_vec(report).expect("encodes");
        now += jiff::SignedDuration::from_mins(1);
        let change =
            roll.admit(report.clone(), Digest::of(&[&body]), None, now).expect("no conflict");
        roll.confirm(change);
    }
    let entries = roll.entries();
    let source = Source::of(entries[0], now, HOLD_DOWN);
    NodeData::build(&source, &Overrides::default(), &mut Vec::new()).map(|node| Holds::of(&node))
}

#[test]
fn the_document_says_what_the_hand_counted() {
    for machine in &*MACHINES {
        let report = take(HostRoot::open(&machine.root).expect("a root"));
        match (document(&[report]), &machine.note.kept_out) {
            (Ok(found), None) => assert_eq!(found, machine.note.holds, "{}", machine.name),
            (Err(reason), Some(subject)) => {
                assert_eq!(reason.subject.as_str(), subject, "{}: {reason}", machine.name);
            }
            (found, expected) => panic!("{}: {found:?}, expected {expected:?}", machine.name),
        }
    }
}

/// A machine of which something can be read.
fn one_of(index: Index) -> &'static Machine {
    let machines: Vec<&Machine> =
        MACHINES.iter().filter(|machine| !machine.paths.is_empty()).collect();
    machines[index.index(machines.len())]
}

/// Error numbers that say nothing of what an attribute holds.
const ERRORS: [i32; 4] = [1, 5, 13, 110];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A node that was known stays as it was, whatever cannot be read next; a node that is new is
    /// kept out rather than counted with more than it holds.
    #[test]
    fn what_cannot_be_read_changes_no_number(
        machine in any::<Index>(),
        failing in prop::collection::vec((any::<Index>(), prop::sample::select(&ERRORS)), 1..4),
    ) {
        let machine = one_of(machine);
        let root = HostRoot::open(&machine.root).expect("a root");
        let manifest = root.manifest().cloned().unwrap_or_default();
        let mut errors = manifest.errors.clone();
        errors.extend(failing.iter().map(|(path, error)| (path.get(&machine.paths).clone(), *error)));
        let told = format!("{}: {errors:?}", machine.name);
        let sound = take(root.clone());
        let failed = take(root.answering_as(Manifest { errors, ..manifest }));

        if let Ok(found) = document(std::slice::from_ref(&failed)) {
            for ((what, found), (_, holds)) in
                found.numbers().into_iter().zip(machine.note.holds.numbers())
            {
                prop_assert!(found <= holds, "{}: {} {} of {}", told, what, found, holds);
            }
        }
        match (document(std::slice::from_ref(&sound)), document(&[sound.clone(), failed.clone()])) {
            (Ok(before), Ok(after)) => {
                for ((what, before), (_, after)) in
                    before.numbers().into_iter().zip(after.numbers())
                {
                    prop_assert_eq!(before, after, "{}: {}", told, what);
                }
            }
            (Ok(_), Err(reason)) => prop_assert!(false, "{}: {}", told, reason),
            (Err(_), _) => {}
        }
    }

}

proptest! {
    // Each copies a machine.
    #![proptest_config(ProptestConfig {
        cases: cases(60),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A capture says what its machine says, also where that cannot be read, at any depth.
    #[test]
    fn a_capture_fails_where_its_machine_failed(
        machine in any::<Index>(),
        unreadable in prop::collection::vec((any::<Index>(), prop::sample::select(&ERRORS)), 0..3),
        closed in prop::collection::vec((any::<Index>(), 0..9_usize), 0..3),
    ) {
        let machine = one_of(machine);
        let root = HostRoot::open(&machine.root).expect("a root");
        let mut manifest =
            root.manifest().cloned().unwrap_or_else(|| Manifest::new(false, None));
        let path = |index: &Index| &machine.paths[index.index(machine.paths.len())];
        manifest.errors.extend(unreadable.iter().map(|(at, error)| (path(at).clone(), *error)));
        let closed = closed.iter().filter_map(|(at, depth)| path(at).ancestors().nth(*depth));
        // The root itself is always looked at.
        let closed = closed.filter(|path| path.parent().is_some());
        manifest.unreachable.extend(closed.map(|path| (path.to_owned(), 13)));
        let told = format!("{}: {:?} {:?}", machine.name, manifest.errors, manifest.unreachable);

        let (root, recorder, mut scrubber) = capture::record(root.answering_as(manifest.clone()));
        let report = take(root);
        let capture = Capture::new(manifest, &recorder.record(), &mut scrubber);
        let folder = tempfile::tempdir().expect("a folder");
        let saved = folder.path().join("saved");
        capture::write(&capture, &saved).expect("written");
        let again = take(HostRoot::open(&saved).expect("a root"));
        // Interfaces' names may hold a MAC address.
        let inventory = scrubber.text(&comparable(report, &machine.root));
        prop_assert_eq!(inventory, comparable(again, &saved), "{}", told);
    }

    /// Arbitrary bytes in place of any file that is read: no panic, no report that is refused.
    #[test]
    fn any_bytes_in_any_file_do_no_harm(
        machine in any::<Index>(),
        files in prop::collection::vec((any::<Index>(), odd_bytes()), 1..4),
    ) {
        let machine = one_of(machine);
        let copy = Copied::of(machine);
        for (path, bytes) in files {
            copy.overwrite(&machine.paths[path.index(machine.paths.len())], &bytes);
        }
        let report = take(HostRoot::open(&copy.root).expect("a root"));
        prop_assert_eq!(report.check(), Ok(()));
    }
}

/// An inventory as it can be compared with that of another root: reasons name files, and ids are
/// replaced.
fn comparable(report: NodeReport, root: &Path) -> String {
    let mut inventory = report.inventory;
    if let Reading::Known(machine) = &mut inventory.machine {
        machine.boot_id = None;
    }
    if let Reading::Known(gpus) = &mut inventory.gpus
        && let Reading::Known(driver) = &mut gpus.nvidia_driver
    {
        driver.gpus.iter_mut().for_each(|gpu| gpu.uuid = None);
    }
    let json = serde_json::to_string_pretty(&inventory).expect("encodes");
    json.replace(&*root.to_string_lossy(), "")
}

/// What a kernel never writes, and what it nearly writes.
fn odd_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        "[-+]?[0-9]{1,24}\n?".prop_map(String::into_bytes),
        "[0-9a-fx,:. -]{0,24}\n".prop_map(String::into_bytes),
        Just(vec![b'9'; 70_000]),
    ]
}

/// More of them by `PROPTEST_CASES`, as `make soak` has it.
fn cases(usual: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(usual)
}

/// A saved machine that may be changed.
struct Copied {
    _folder: TempDir,
    root: PathBuf,
}

impl Copied {
    fn of(machine: &Machine) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        let copied = Command::new("cp").arg("-a").arg(&machine.root).arg(&root).status();
        assert!(copied.expect("cp").success());
        Self { _folder: folder, root }
    }

    /// Changes a file that is there; what is a folder or is missing stays so.
    fn overwrite(&self, path: &Path, bytes: &[u8]) {
        let path = self.root.join(path.strip_prefix("/").expect("absolute"));
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            fs::write(path, bytes).expect("written");
        }
    }
}

/// Names of machines whose errors a capture lists, so that the list cannot rot.
#[test]
fn what_a_capture_lists_is_there_to_be_read() {
    let mut listed = BTreeMap::new();
    for machine in &*MACHINES {
        let root = HostRoot::open(&machine.root).expect("a root");
        for path in root.manifest().into_iter().flat_map(|manifest| manifest.errors.keys()) {
            *listed.entry(&machine.name).or_insert(0) += 1;
            let folder = path.parent().expect("a folder");
            let there = machine.root.join(folder.strip_prefix("/").expect("absolute"));
            assert!(there.is_dir(), "{}: {} is not there", machine.name, folder.display());
        }
    }
    assert!(listed.len() > 5, "{listed:?}");
}
