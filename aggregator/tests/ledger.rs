//! The ledger says at any time what assembling the document from nothing says: after any sequence of
//! reports, departures, losses, moves of the clock, and news of the cluster's Nodes.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rollcall_aggregator::cluster_file::ClusterFile;
use rollcall_aggregator::digest::Digest;
use rollcall_aggregator::document::ledger::Ledger;
use rollcall_aggregator::document::{
    Assembly, GpuStates, Source, Totals, assemble, unknown_speeds,
};
use rollcall_aggregator::kubernetes::nodes::{AllocatableGpus, ByName, Node, Nodes};
use rollcall_aggregator::roll::{Change, Entry, Roll};
use rollcall_report::{
    Gpu, Gpus, Inventory, Link, Nic, NicKind, NodeName, NodeReport, NvidiaDriver, Reading,
};

const HOLD_DOWN: Duration = Duration::from_mins(10);
const GPUS: usize = 3;
const NODES: usize = 4;

const FILE: &str = "cluster: {id: west, regionId: us-west-2}
overrides: {unknownNicSpeeds: [{node: id-1, speedMbps: 100}]}
";

/// What a machine says of itself.
#[derive(Debug, Clone)]
struct Said {
    cpus: u32,
    fails: bool,
    tells_speed: bool,
    gpus: bool,
    /// Which of the GPUs answer.
    answering: [bool; GPUS],
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A node reports under an id, and the store takes it at once, later, or not.
    Report {
        node: usize,
        id: usize,
        said: Said,
        stored: Option<bool>,
    },
    /// The store has taken the oldest thing on its way, or has not.
    Answer(bool),
    Rebind(usize),
    Forget(usize),
    /// Another aggregator has written a node like one of ours.
    Learn {
        node: usize,
        id: usize,
        place: u64,
    },
    Gone(usize),
    /// It reports as before.
    Heard(usize),
    Clock(i64),
    /// Kubernetes lists the Nodes, with the GPUs that can be allocated there.
    List([Option<u64>; NODES]),
    Node(usize, Option<u64>),
    NodeGone(usize),
    /// Somebody looks.
    Look,
}

fn said() -> impl Strategy<Value = Said> {
    let answering = prop::array::uniform3(prop::bool::weighted(0.6));
    let seldom = || prop::bool::weighted(0.2);
    (1..4_u32, seldom(), any::<bool>(), prop::bool::weighted(0.8), answering).prop_map(
        |(cpus, fails, tells_speed, gpus, answering)| Said {
            cpus,
            fails,
            tells_speed,
            gpus,
            answering,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    let id = |node: usize| prop_oneof![8 => Just(node), 1 => 0..NODES];
    let offered = || prop::option::weighted(0.8, 0..4_u64);
    let stored = prop_oneof![6 => Just(Some(true)), 2 => Just(None), 1 => Just(Some(false))];
    let report = (node(), said(), stored).prop_flat_map(move |(node, said, stored)| {
        id(node).prop_map(move |id| Step::Report { node, id, said: said.clone(), stored })
    });
    prop_oneof![
        8 => report,
        2 => any::<bool>().prop_map(Step::Answer),
        1 => node().prop_map(Step::Rebind),
        1 => node().prop_map(Step::Forget),
        2 => (node(), node(), 0..6_u64).prop_map(|(node, id, place)| Step::Learn { node, id, place }),
        1 => node().prop_map(Step::Gone),
        1 => node().prop_map(Step::Heard),
        4 => prop::sample::select(vec![1, 299, 300, 301, 599, 600, 601, -1, -600]).prop_map(Step::Clock),
        1 => prop::array::uniform4(offered()).prop_map(Step::List),
        2 => (node(), offered()).prop_map(|(node, gpus)| Step::Node(node, gpus)),
        1 => node().prop_map(Step::NodeGone),
        6 => Just(Step::Look),
    ]
}

fn name(node: usize) -> NodeName {
    format!("node-{node}").parse().expect("a name")
}

fn sample() -> NodeReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/node-1.json");
    serde_json::from_slice(&fs::read(path).expect("the sample")).expect("a report")
}

fn inventory(said: &Said, sample: &Inventory) -> Inventory {
    let mut inventory = sample.clone();
    if let Reading::Known(cpu) = &mut *inventory.cpu {
        cpu.online = said.cpus;
    }
    if said.fails {
        inventory.memory = Reading::failed("EIO");
    }
    inventory.nics = Reading::Known(vec![Nic {
        name: "eth0".to_owned(),
        kind: NicKind::Ethernet,
        link: Link::Up,
        speed_mbps: if said.tells_speed { Reading::Known(1000) } else { Reading::Absent },
        driver: None,
    }])
    .into();
    let gpu = |index: usize| Gpu {
        index: u32::try_from(index).expect("few"),
        model: "L4".into(),
        memory_bytes: Reading::Known(24 << 30),
        compute_capability: None,
        uuid: Some(format!("GPU-{index}").into()),
        pci_address: None,
        active_nvlinks: None,
        mig: None,
    };
    let answering = (0..GPUS).filter(|&gpu| said.answering[gpu]);
    let driver = NvidiaDriver {
        version: None,
        cuda_version: None,
        gpus: answering.map(gpu).collect(),
        failures: Vec::new(),
    };
    inventory.gpus = Reading::Known(Gpus {
        nvidia_pci_devices: Reading::Known(if said.gpus { 3 } else { 0 }),
        lost: Vec::new(),
        passed_through: 0,
        nvidia_unasked: Vec::new(),
        nvidia_driver: if said.gpus { Reading::Known(driver) } else { Reading::Absent },
        amd: Reading::Absent,
        unmeasured: Vec::new(),
    });
    inventory
}

fn node(number: usize, gpus: Option<u64>) -> Node {
    Node {
        name: name(number),
        uid: format!("uid-{number}"),
        labels: BTreeMap::new(),
        node_id: None,
        stranger: None,
        control_plane: None,
        cordoned: false,
        ready: true,
        gpus: AllocatableGpus { nvidia: gpus, ..AllocatableGpus::default() },
        ephemeral_bytes: None,
    }
}

/// A roll, its ledger, and what is on its way to the store.
struct Bed {
    file: ClusterFile,
    sample: NodeReport,
    roll: Roll,
    ledger: Ledger,
    nodes: Nodes,
    pending: Vec<Change>,
    reports: usize,
    now: Timestamp,
    /// What was seen last, and at which generation.
    seen: Option<(u64, Assembly)>,
}

impl Bed {
    fn new() -> Self {
        let file = ClusterFile::parse(FILE).expect("valid");
        Self {
            ledger: Ledger::new(file.overrides.clone(), HOLD_DOWN),
            file,
            sample: sample(),
            roll: Roll::default(),
            nodes: Nodes::watched(BTreeSet::new()),
            pending: Vec::new(),
            reports: 0,
            now: Timestamp::from_second(1_000_000).expect("in range"),
            seen: None,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Report { node, id, said, stored } => {
                let mut report = self.sample.clone();
                report.node.name = name(*node);
                report.node.proposed_id = format!("id-{id}").parse().expect("an id");
                report.node.machine_hash = None;
                report.inventory = inventory(said, &self.sample.inventory);
                self.reports += 1;
                let digest = Digest::of(&[&self.reports.to_le_bytes()]);
                let Ok(change) = self.roll.admit(report, digest, None, self.now) else { return };
                match stored {
                    Some(true) => self.roll.confirm(change),
                    Some(false) => self.roll.withdraw(&change),
                    None => self.pending.push(change),
                }
            }
            Step::Answer(_) if self.pending.is_empty() => {}
            Step::Answer(true) => self.roll.confirm(self.pending.remove(0)),
            Step::Answer(false) => self.roll.withdraw(&self.pending.remove(0)),
            Step::Rebind(node) => {
                if let Some(change) = self.roll.rebind(&name(*node)) {
                    self.roll.confirm(change);
                }
            }
            Step::Forget(node) => {
                if let Some(leave) = self.roll.leave(&name(*node), self.now) {
                    self.roll.forget(leave);
                }
            }
            Step::Learn { node, id, place } => {
                let Some(entry) = self.roll.entries().first().map(|entry| (*entry).clone()) else {
                    return;
                };
                let node_id = format!("id-{id}").parse().expect("an id");
                let entry = Entry { name: name(*node), node_id, position: *place, ..entry };
                self.roll.learn(entry, self.now);
            }
            Step::Gone(node) => {
                self.roll.gone(&name(*node), self.now);
            }
            Step::Heard(node) => self.roll.seen(&name(*node), self.now),
            Step::Clock(seconds) => {
                self.now += jiff::SignedDuration::from_secs(*seconds);
            }
            Step::List(gpus) => {
                let nodes = gpus.iter().enumerate().map(|(number, gpus)| node(number, *gpus));
                self.nodes.take_list(nodes.collect()).expect("not empty");
            }
            Step::Node(number, gpus) => self.nodes.take(node(*number, *gpus)),
            Step::NodeGone(number) => self.nodes.remove(&name(*number), &format!("uid-{number}")),
            Step::Look => {}
        }
    }

    fn source<'a>(&self, entry: &'a Entry, nodes: Option<&ByName>) -> Source<'a> {
        let allocatable = nodes.and_then(|nodes| nodes.get(&entry.name)).map(|it| it.gpus.clone());
        Source { allocatable, ..Source::of(entry, self.now, HOLD_DOWN) }
    }

    /// Compares what the ledger says with what is made from nothing.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let nodes = self.nodes.all();
        self.ledger.update(&mut self.roll, nodes.as_ref(), self.now);
        let by_name = nodes.as_deref();
        let (cluster, overrides) = (&self.file.cluster, &self.file.overrides);
        let sources = || self.roll.entries().into_iter().map(|it| (it, self.source(it, by_name)));
        let expected = assemble(cluster, overrides, sources().map(|(_, source)| source));
        let whole = self.ledger.assemble(cluster);
        prop_assert_eq!(&whole, &expected);
        let each = expected.document.nodes.node_data.iter().map(Deref::deref);
        prop_assert_eq!(self.ledger.totals(), &Totals::of(each));

        let is_offered = |name: &NodeName| name.as_str() != "node-1";
        let some = sources().filter(|(entry, _)| is_offered(&entry.name)).map(|(_, it)| it);
        let some = assemble(cluster, overrides, some);
        prop_assert_eq!(self.ledger.assemble_of(cluster, is_offered), some);

        let lines: Vec<_> = self.ledger.lines().collect();
        prop_assert_eq!(lines.len(), self.roll.entries().len());
        for (line, (entry, source)) in lines.into_iter().zip(sources()) {
            prop_assert_eq!((&line.name, &line.node_id), (&entry.name, &entry.node_id));
            prop_assert_eq!(self.ledger.line_of(&entry.name), Some(line));
            let data = line.entry.as_ref().ok();
            prop_assert_eq!(line.gpus, GpuStates::of(&source, data.map(Deref::deref)));
            let unknown = unknown_speeds(&source, overrides).map(|names| names.len());
            prop_assert_eq!(line.unknown_speeds, unknown);
            let changes = entry.hardware_changes().map(|changes| changes.len());
            prop_assert_eq!(line.hardware_changes, changes);
            prop_assert_eq!(line.failing.len(), entry.failing.len());
        }
        let entries = self.roll.entries();
        let lost = entries.iter().flat_map(|entry| &entry.lost_gpus);
        let next = lost.filter_map(|lost| lost.confirmed_at(HOLD_DOWN));
        prop_assert_eq!(self.ledger.next_change(), next.filter(|at| *at > self.now).min());

        let generation = self.ledger.generation();
        if let Some((before, seen)) = &self.seen {
            prop_assert!(*before != generation || *seen == whole, "a change that is not counted");
        }
        self.ledger.update(&mut self.roll, nodes.as_ref(), self.now);
        prop_assert_eq!(self.ledger.generation(), generation, "counted without a change");
        self.seen = Some((generation, whole));
        Ok(())
    }
}

/// More of them by `PROPTEST_CASES`, as `make soak` has it.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_is_what_is_assembled_from_nothing(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut bed = Bed::new();
        for step in &steps {
            bed.take(step);
            if matches!(step, Step::Look) {
                bed.look()?;
            }
        }
        bed.look()?;
    }
}
