//! What an agent reports: a saved server with eight H100, its own numbers written over those of the
//! saved one. They have the same length in every report, so that a report is a copy and a few digits.

use std::io::Write as _;

use serde_json::{Value, json};
use thiserror::Error;

/// A server with eight GPUs, ten interfaces and six disks; about 5 KB.
const SAVED: &str = include_str!("../../../agent/tests/hosts/gpu-server-8-infiniband/report.json");

/// What stands in the template for each part; nothing else in it reads so.
const NUMBER: &str = "swarm-4294967295";
const MACHINE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const SERIAL: &str = "5a5a5a5a-";
const SWAP: &str = "987654321098";

/// The swap space of a node's first report, and how much comes with each change, in bytes: it is in the
/// document, and may come and go while a machine runs.
const FIRST_SWAP: u64 = 100 << 30;
const SWAP_STEP: u64 = 1 << 20;
/// After so many changes it begins anew: the number keeps its twelve digits.
const SWAP_STEPS: u32 = 1 << 16;

/// The report of any agent.
#[derive(Debug)]
pub(crate) struct Template {
    text: Vec<u8>,
    places: Vec<Place>,
}

/// Where something is written that is an agent's own.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    part: Part,
}

/// What is an agent's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The node's name, and its id.
    Name,
    /// The hash of the machine's id.
    Machine,
    /// The beginning of a UUID: of the boot, of a GPU.
    Serial,
    /// Bytes of swap space.
    Swap,
}

impl Part {
    const ALL: [(Self, &str); 4] = [
        (Self::Name, NUMBER),
        (Self::Machine, MACHINE),
        (Self::Serial, SERIAL),
        (Self::Swap, SWAP),
    ];
}

/// The saved machine is not what is needed.
#[derive(Debug, Error)]
#[error("the saved report cannot be made a template: {why}")]
pub(crate) struct Unusable {
    why: String,
}

impl Template {
    /// Makes it from the saved machine.
    pub(crate) fn new() -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable { why };
        let mut report: Value =
            serde_json::from_str(SAVED).map_err(|error| unusable(error.to_string()))?;
        for (path, value) in [
            ("/agent/version", json!(env!("CARGO_PKG_VERSION"))),
            ("/node/name", json!(NUMBER)),
            ("/node/proposedId", json!(NUMBER)),
            ("/node/machineHash", json!(MACHINE)),
            ("/inventory/machine/known/bootId", json!(uuid(0))),
            ("/inventory/swap/known/totalBytes", json!(987_654_321_098_u64)),
        ] {
            *report.pointer_mut(path).ok_or_else(|| unusable(format!("it has no {path}")))? = value;
        }
        let path = "/inventory/gpus/known/nvidiaDriver/known/gpus";
        let gpus = report.pointer_mut(path).and_then(Value::as_array_mut);
        let gpus = gpus.ok_or_else(|| unusable(format!("it has no {path}")))?;
        for (gpu, number) in gpus.iter_mut().zip(1..) {
            if let Some(own) = gpu.get_mut("uuid") {
                *own = json!(format!("GPU-{}", uuid(number)));
            }
        }
        let text = report.to_string();
        let places = Part::ALL.into_iter().flat_map(|(part, sign)| {
            text.match_indices(sign).map(move |(at, _)| Place { at, part })
        });
        let places = places.collect();
        Ok(Self { text: text.into_bytes(), places })
    }

    /// The report of the agent of this number, after so many changes.
    pub(crate) fn report(&self, number: u32, changes: u32) -> Vec<u8> {
        let mut report = self.text.clone();
        let swap = FIRST_SWAP + u64::from(changes % SWAP_STEPS) * SWAP_STEP;
        for Place { at, part } in &self.places {
            let Some(mut place) = report.get_mut(*at..) else { continue };
            let written = match part {
                Part::Name => write!(place, "swarm-{number:010}"),
                Part::Machine => write!(place, "{number:032x}"),
                Part::Serial => write!(place, "{number:08x}"),
                Part::Swap => write!(place, "{swap}"),
            };
            // The text goes on behind every place, which is as long as what is written.
            debug_assert!(written.is_ok(), "{part:?} does not fit");
        }
        report
    }
}

fn uuid(number: u32) -> String {
    format!("{SERIAL}0000-4000-8000-{number:012}")
}

#[cfg(test)]
mod tests {
    use rollcall_report::NodeReport;

    use super::*;

    fn parsed(number: u32, changes: u32) -> NodeReport {
        let report = Template::new().expect("a template").report(number, changes);
        let report: NodeReport = serde_json::from_slice(&report).expect("a report");
        report.check().expect("a plausible report");
        report
    }

    #[test]
    fn each_agent_has_all_that_must_be_its_own() {
        let (one, other) = (parsed(7, 0), parsed(4_000_000_000, 0));
        assert_eq!(one.node.name.as_str(), "swarm-0000000007");
        assert_eq!(one.node.proposed_id.as_str(), "swarm-0000000007");
        assert_eq!(other.node.name.as_str(), "swarm-4000000000");
        assert_ne!(one.node.machine_hash, other.node.machine_hash);
        let boot = |report: &NodeReport| report.inventory.machine.known()?.boot_id.clone();
        assert_ne!(boot(&one), boot(&other));
        let gpus = |report: &NodeReport| -> Vec<String> {
            let gpus = report.inventory.gpus.known().expect("GPUs");
            let driver = gpus.nvidia_driver.known().expect("a driver");
            driver.gpus.iter().filter_map(|gpu| gpu.uuid.as_deref()).map(str::to_owned).collect()
        };
        let mut all = [gpus(&one), gpus(&other)].concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 16, "GPUs of their own: {all:?}");
    }

    #[test]
    fn a_change_is_one_of_the_swap_space_alone() {
        let swap = |changes| parsed(1, changes).inventory.swap.known().expect("swap").total_bytes;
        assert_eq!(swap(0), FIRST_SWAP);
        assert_eq!(swap(1), FIRST_SWAP + SWAP_STEP);
        let mut changed = parsed(1, SWAP_STEPS - 1);
        changed.inventory.swap = parsed(1, 0).inventory.swap;
        assert_eq!(changed, parsed(1, SWAP_STEPS));
    }

    #[test]
    fn reports_have_one_length() {
        let template = Template::new().expect("a template");
        let lengths = [(0, 0), (u32::MAX, 1), (9, SWAP_STEPS - 1)];
        let lengths = lengths.map(|(number, changes)| template.report(number, changes).len());
        assert_eq!(lengths, [template.text.len(); 3]);
    }
}
