//! A made-up cluster of many machines, for tests and demonstrations: the same machines from the same
//! seed, of the kinds that clusters are made of, under names as operators give them, and a few of them
//! in trouble. Each is one of the saved machines of `agent/tests/hosts/`, with a name and ids of its
//! own and with the numbers of a whole machine where the saved one was made small.
//!
//! [`intake`] reports them.

pub mod intake;
mod kind;
mod trouble;

use std::error::Error;
use std::path::PathBuf;

use fastrand::Rng;
use rollcall_report::{IdSource, MachineHash, NodeId, NodeName, NodeReport};
use thiserror::Error;

pub use kind::Kind;
use kind::known;
pub use trouble::Trouble;

/// Of how many machines one is in trouble of each kind.
const TROUBLED_ONE_IN: usize = 100;

/// The smallest fleet with machines in trouble: below it, one would be half of the cluster.
const TROUBLED_FROM: usize = 20;

/// A cluster's machines.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// In the order in which they were set up.
    pub members: Vec<Member>,
}

/// A machine of a fleet.
#[derive(Debug, Clone)]
pub struct Member {
    /// What kind of machine it is.
    pub kind: Kind,
    /// What is wrong with it; `None`: nothing.
    pub trouble: Option<Trouble>,
    /// What it reports while nothing is wrong with it.
    sound: NodeReport,
}

/// Why a fleet could not be made.
#[derive(Debug, Error)]
pub enum FleetError {
    /// A saved machine cannot be read, or is not what its kind needs.
    #[error("{path} cannot be used as a saved machine")]
    Saved {
        /// Its report.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A name or an id that no node can have.
    #[error("machine {index} of the fleet cannot be named")]
    Named {
        /// Which one.
        index: usize,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl Fleet {
    /// Makes so many machines. The first few are one of each kind, so that a small fleet has them all;
    /// of twenty machines and more, a few are in trouble.
    ///
    /// # Errors
    ///
    /// When a saved machine cannot be used.
    pub fn new(nodes: usize, seed: u64) -> Result<Self, FleetError> {
        let mut rng = Rng::with_seed(seed);
        let mut lines = Vec::new();
        for kind in Kind::ALL {
            lines.push(Line { kind, model: kind.saved()?, made: 0 });
        }
        let mut members = Vec::with_capacity(nodes);
        for index in 0..nodes {
            let kind = Kind::ALL.get(index).copied().unwrap_or_else(|| Kind::any(&mut rng));
            for line in lines.iter_mut().filter(|line| line.kind == kind) {
                let sound = line.next(&mut rng);
                let sound = sound.map_err(|source| FleetError::Named { index, source })?;
                members.push(Member { kind, trouble: None, sound });
            }
        }
        let mut fleet = Self { members };
        if nodes >= TROUBLED_FROM {
            fleet.trouble(nodes.div_ceil(TROUBLED_ONE_IN), &mut rng);
        }
        Ok(fleet)
    }

    /// Brings so many machines into each kind of trouble.
    fn trouble(&mut self, of_each: usize, rng: &mut Rng) {
        for trouble in Trouble::ALL {
            let sound = self.members.iter_mut();
            let mut able: Vec<&mut Member> = sound
                .filter(|member| member.trouble.is_none() && member.can_have(trouble))
                .collect();
            rng.shuffle(&mut able);
            for member in able.into_iter().take(of_each) {
                member.trouble = Some(trouble);
            }
        }
    }

    /// The machine of a name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name() == name)
    }
}

impl Member {
    /// Its Node's name.
    pub fn name(&self) -> &str {
        self.sound.node.name.as_str()
    }

    /// What it reports while nothing is wrong with it.
    pub fn sound(&self) -> &NodeReport {
        &self.sound
    }

    /// Whether a machine of its kind can be in such trouble.
    pub fn can_have(&self, trouble: Trouble) -> bool {
        self.in_trouble(trouble, 0).is_some()
    }

    /// What it reports in such trouble, that began at `since`, in seconds since the epoch; `None`: a
    /// machine of its kind cannot be in it.
    pub fn in_trouble(&self, trouble: Trouble, since: u64) -> Option<NodeReport> {
        let mut report = self.sound.clone();
        trouble.befall(&mut report, since).then_some(report)
    }

    /// What it reports one after the other, until things are as they stand: most troubles show only
    /// against what was known before.
    pub fn history(&self, now: u64) -> Vec<NodeReport> {
        let troubled = self.trouble.and_then(|trouble| {
            let first = trouble.has_a_before().then(|| self.sound.clone());
            Some(first.into_iter().chain([self.in_trouble(trouble, now)?]).collect())
        });
        troubled.unwrap_or_else(|| vec![self.sound.clone()])
    }

    /// What it reports as things stand.
    pub fn latest(&self, now: u64) -> NodeReport {
        let troubled = self.trouble.and_then(|trouble| self.in_trouble(trouble, now));
        troubled.unwrap_or_else(|| self.sound.clone())
    }
}

/// The machines of one kind, one after the other.
struct Line {
    kind: Kind,
    model: NodeReport,
    made: usize,
}

impl Line {
    /// The next machine: what is its own differs from all others, and its memory a little, as the
    /// kernel's share of it does.
    fn next(&mut self, rng: &mut Rng) -> Result<NodeReport, Box<dyn Error + Send + Sync>> {
        const PAGE_BYTES: u64 = 4096;
        let mut report = self.model.clone();
        let name: NodeName = self.kind.name(self.made).parse()?;
        self.made += 1;
        report.node.proposed_id = NodeId::of_name(&name)?;
        report.node.id_source = IdSource::NodeName;
        report.node.machine_hash = Some(MachineHash::try_from(format!("{:032x}", rng.u128(..)))?);
        report.node.name = name;
        report.agent.version = env!("CARGO_PKG_VERSION").into();
        let inventory = &mut report.inventory;
        self.kind.vary(inventory, rng);
        if let Some(machine) = known(&mut inventory.machine) {
            machine.boot_id = Some(uuid(rng).into());
            machine.boot_time_seconds =
                machine.boot_time_seconds.map(|at| at + rng.u64(0..60 * 60 * 24 * 30));
        }
        if let Some(memory) = known(&mut inventory.memory) {
            memory.total_bytes -= PAGE_BYTES * rng.u64(0..2048);
        }
        if let Some(gpus) = known(&mut inventory.gpus)
            && let Some(driver) = known(&mut gpus.nvidia_driver)
        {
            for gpu in &mut driver.gpus {
                gpu.uuid = Some(format!("GPU-{}", uuid(rng)).into());
            }
        }
        Ok(report)
    }
}

/// A UUID of version 4.
fn uuid(rng: &mut Rng) -> String {
    let (head, version, variant, tail) =
        (rng.u32(..), rng.u16(..) & 0xfff, rng.u16(..) & 0x3fff | 0x8000, rng.u64(..) >> 16);
    format!("{head:08x}-{:04x}-4{version:03x}-{variant:04x}-{tail:012x}", rng.u16(..))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: u64 = 1_764_000_000;

    #[test]
    fn the_same_seed_makes_the_same_machines() {
        let names = |seed| -> Vec<String> {
            let fleet = Fleet::new(300, seed).expect("a fleet");
            let json = |report: &NodeReport| serde_json::to_string(report).expect("JSON");
            fleet.members.iter().flat_map(|it| it.history(NOW)).map(|it| json(&it)).collect()
        };
        assert_eq!(names(7), names(7));
        assert_ne!(names(7), names(8));
    }

    #[test]
    fn a_larger_fleet_has_each_machine_once() {
        let fleet = Fleet::new(5000, 1).expect("a fleet");
        let distinct = |of: fn(&NodeReport) -> String| {
            fleet.members.iter().map(|member| of(member.sound())).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(fleet.members.len(), 5000);
        assert_eq!(distinct(|report| report.node.name.to_string()), 5000, "names");
        assert_eq!(distinct(|report| report.node.proposed_id.to_string()), 5000, "ids");
        assert_eq!(distinct(|report| format!("{:?}", report.node.machine_hash)), 5000, "machines");
        let boot = |report: &NodeReport| format!("{:?}", report.inventory.machine);
        assert_eq!(distinct(boot), 5000, "boots");
    }

    #[test]
    fn every_report_is_plausible() {
        for nodes in [1, 6, 20, 200] {
            for member in Fleet::new(nodes, 3).expect("a fleet").members {
                for report in member.history(NOW) {
                    let checked = report.check();
                    assert!(
                        checked.is_ok(),
                        "{}: {:?}: {checked:?}",
                        member.name(),
                        member.trouble
                    );
                }
            }
        }
    }

    #[test]
    fn each_kind_and_each_trouble_is_there() {
        for (nodes, troubled) in [(5, 0), (20, 1), (200, 2), (5000, 50)] {
            let fleet = Fleet::new(nodes, 11).expect("a fleet");
            for kind in Kind::ALL.into_iter().take(nodes) {
                assert!(fleet.members.iter().any(|it| it.kind == kind), "{kind:?} of {nodes}");
            }
            for trouble in Trouble::ALL {
                let count = fleet.members.iter().filter(|it| it.trouble == Some(trouble)).count();
                assert_eq!(count, troubled, "{trouble:?} of {nodes}");
            }
        }
    }

    #[test]
    fn what_a_trouble_does() {
        let fleet = Fleet::new(Kind::ALL.len(), 5).expect("a fleet");
        let of = |kind: Kind| fleet.members.iter().find(|it| it.kind == kind).expect("the kind");
        let lost = of(Kind::H100).in_trouble(Trouble::LostGpu, NOW).expect("it has GPUs");
        let gpus = lost.inventory.gpus.known().expect("its GPUs");
        let driver = gpus.nvidia_driver.known().expect("its driver");
        assert_eq!((driver.gpus.len(), driver.failures.len(), gpus.lost.len()), (7, 1, 1));
        let health = lost.health.expect("its health");
        assert_eq!(health.lost_gpus, gpus.lost);
        assert_eq!(health.failing_since.values().collect::<Vec<_>>(), [&NOW]);
        assert!(!of(Kind::Server).can_have(Trouble::LostGpu), "no GPU, none to lose");

        let changed = of(Kind::Server).in_trouble(Trouble::ChangedHardware, NOW).expect("memory");
        let was = of(Kind::Server).sound();
        let boot = |report: &NodeReport| report.inventory.machine.known()?.boot_id.clone();
        assert_ne!(boot(&changed), boot(was), "it was booted in between");
        let memory = |report: &NodeReport| report.inventory.memory.known().map(|it| it.total_bytes);
        assert!(memory(&changed) < memory(was));
    }
}
