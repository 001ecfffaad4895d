//! rollcall on two machines as an administrator has it after an hour: `head` runs the aggregator and
//! an agent, `node` an agent; client certificates are required, and the cluster is registered.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::authority::{Authority, Pair, Role, Validity};
use super::{AGENT, AGGREGATOR, Bed, Machine, SOON};
use crate::aios::{Addresses, AiosStandin};
use crate::bed::{self, CLUSTER_ID};
use crate::process::wait_until;

/// Where agents report.
pub const INTAKE: u16 = 7655;

/// Its nodes.
const NAMES: [&str; 2] = ["head", "node"];

/// How often they do.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// Whose client certificates are taken, and whose the intake's is. All machines trust both.
#[derive(Debug)]
pub struct Site {
    /// The network that it is registered with.
    pub aios: AiosStandin,
    /// Who signs the certificates.
    pub authority: Authority,
}

impl Site {
    /// Sets it up on clean machines, and waits until it is registered.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn build(bed: &Bed) -> Self {
        let site = Self { aios: aios(bed), authority: Authority::new("rollcall test site") };
        let (head, node) = (bed.machine("head"), bed.machine("node"));
        for machine in [head, node] {
            machine.remove();
            machine.boot();
        }
        head.install(&[AGGREGATOR, AGENT]);
        node.install(&[AGENT]);

        head.write(
            "/etc/rollcall/cluster.yaml",
            "root:rollcall-aggregator",
            "0640",
            &cluster_file(&site.aios, 2),
        );
        site.give_server(head, &site.server(Validity::Now));
        let ca = site.authority.pem();
        head.write("/etc/rollcall/client-ca.pem", "root:root", "0644", &ca);
        set(
            head,
            AGGREGATOR,
            &[
                &format!("ROLLCALL_LISTEN=0.0.0.0:{INTAKE}"),
                "ROLLCALL_TLS_CERT=/etc/rollcall/tls.crt",
                "ROLLCALL_TLS_KEY=/etc/rollcall/tls.key",
                "ROLLCALL_CLIENT_CA_FILE=/etc/rollcall/client-ca.pem",
                "ROLLCALL_REQUIRE_CLIENT_CERTIFICATE=true",
                &format!("ROLLCALL_INTERVAL={}s", INTERVAL.as_secs()),
            ],
        );
        for machine in [head, node] {
            machine.write("/etc/rollcall/ca.pem", "root:root", "0644", &ca);
            site.give_agent(machine);
        }
        // The certificate alone: a join token never leaves the aggregator's machine.
        unset(node, AGENT, "ROLLCALL_TOKEN_FILE");

        head.run(&["systemctl", "start", AGGREGATOR]);
        for machine in [head, node] {
            machine.run(&["systemctl", "start", AGENT]);
        }
        wait_until("both nodes to be in the network's entry", SOON * 2, || {
            match site.registered_nodes() {
                found if found == NAMES => Ok(()),
                found => Err(format!("{found:?}\n{}{}", head.tail(AGGREGATOR), node.tail(AGENT))),
            }
        });
        site
    }

    /// Whether it stands as it was built, for a test that comes after another.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn is_well(&self, bed: &Bed) -> Result<(), String> {
        let (head, node) = (bed.machine("head"), bed.machine("node"));
        for (machine, unit) in [(head, AGGREGATOR), (head, AGENT), (node, AGENT)] {
            machine
                .try_run(&["systemctl", "is-active", "--quiet", unit])
                .map_err(|_inactive| format!("{unit} does not run on {}", machine.name()))?;
        }
        match reporting(head) {
            nodes if nodes == NAMES => Ok(()),
            nodes => Err(format!("these report: {nodes:?}")),
        }
    }

    /// The ids of the nodes in the network's entry, sorted.
    pub fn registered_nodes(&self) -> Vec<String> {
        let entry = self.aios.cluster(CLUSTER_ID);
        let nodes = entry.as_ref().and_then(|entry| entry.pointer("/nodes/nodeData"));
        ids(nodes, "id")
    }

    /// A certificate for the intake.
    pub fn server(&self, validity: Validity) -> Pair {
        self.authority.issue(Role::Server, "head", validity)
    }

    /// A certificate for an agent.
    pub fn client(&self, node: &str, validity: Validity) -> Pair {
        self.authority.issue(Role::Node, node, validity)
    }

    /// Gives an agent its settings and its certificate.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn give_agent(&self, machine: Machine<'_>) {
        self.give_client(machine, &self.client(machine.name(), Validity::Now));
        set(
            machine,
            AGENT,
            &[
                &format!("ROLLCALL_AGGREGATOR=https://head:{INTAKE}"),
                "ROLLCALL_CA_FILE=/etc/rollcall/ca.pem",
                "ROLLCALL_CLIENT_CERT=/etc/rollcall/agent.crt",
                "ROLLCALL_CLIENT_KEY=/etc/rollcall/agent.key",
            ],
        );
    }

    /// Puts the intake's certificate in its place.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn give_server(&self, head: Machine<'_>, pair: &Pair) {
        head.write("/etc/rollcall/tls.key~", "root:rollcall-aggregator", "0640", &pair.key);
        head.write("/etc/rollcall/tls.crt~", "root:root", "0644", &pair.certificate);
        in_one_step(head, "tls");
    }

    /// Puts an agent's certificate in its place.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn give_client(&self, machine: Machine<'_>, pair: &Pair) {
        machine.write("/etc/rollcall/agent.key~", "root:rollcall-agent", "0640", &pair.key);
        machine.write("/etc/rollcall/agent.crt~", "root:rollcall-agent", "0640", &pair.certificate);
        in_one_step(machine, "agent");
    }
}

/// A key and its certificate come at once: who reads a new one beside an old one waits a moment for the
/// other, and on a slow machine for less time than two commands take.
fn in_one_step(machine: Machine<'_>, name: &str) {
    machine
        .shell(&format!("cd /etc/rollcall; mv {name}.key~ {name}.key; mv {name}.crt~ {name}.crt"));
}

/// A network that the bed's machines reach.
///
/// # Panics
///
/// When it cannot listen there.
#[expect(clippy::panic, reason = "without its stand-in a test can only fail")]
pub fn aios(bed: &Bed) -> AiosStandin {
    let any = SocketAddr::from((bed.world(), 0));
    AiosStandin::start_at(Addresses { parser: any, gateway: any, tasks: any })
        .unwrap_or_else(|error| panic!("{}", rollcall_report::error_chain(&error)))
}

/// A cluster file that registers so many nodes with a network.
pub fn cluster_file(aios: &AiosStandin, nodes: usize) -> String {
    let target = bed::Bed::aios_target(&aios.parser_url(), &aios.gateway_url(), "");
    format!("cluster:\n  id: {CLUSTER_ID}\n  regionId: lab\nexpect:\n  nodes: {nodes}\n{target}")
}

/// Sets variables in a unit's file below /etc/default, `NAME=VALUE`, in the place of what it says.
///
/// # Panics
///
/// When that fails.
pub fn set(machine: Machine<'_>, unit: &str, variables: &[&str]) {
    for variable in variables {
        let name = variable.split_once('=').map_or(*variable, |(name, _)| name);
        unset(machine, unit, name);
        machine.shell(&format!("echo '{variable}' >>/etc/default/{unit}"));
    }
}

/// Removes a variable from a unit's file below /etc/default.
///
/// # Panics
///
/// When that fails.
pub fn unset(machine: Machine<'_>, unit: &str, name: &str) {
    machine.shell(&format!("sed -i '/^{name}=/d' /etc/default/{unit}"));
}

/// The roll, as an operator on the aggregator's machine sees it.
///
/// # Panics
///
/// When it is not shown.
pub fn roll(head: Machine<'_>) -> Value {
    operate(head, "nodes --output json")
}

/// The ids of the nodes that report, sorted.
///
/// # Panics
///
/// When the roll is not shown.
pub fn reporting(head: Machine<'_>) -> Vec<String> {
    let roll = roll(head);
    let nodes = roll.get("nodes").and_then(Value::as_array).into_iter().flatten();
    let reporting = nodes.filter(|node| node.get("stale") == Some(&Value::Bool(false)));
    ids(Some(&Value::Array(reporting.cloned().collect())), "nodeId")
}

/// The ids of the nodes on the roll, silent ones too, sorted.
///
/// # Panics
///
/// When the roll is not shown.
pub fn on_the_roll(head: Machine<'_>) -> Vec<String> {
    ids(roll(head).get("nodes"), "nodeId")
}

/// Waits until a node has reported, after now.
///
/// # Panics
///
/// When it does not in time; with what its agent and the aggregator said last.
pub fn wait_for_report(head: Machine<'_>, node: Machine<'_>, deadline: Duration) {
    wait_for_report_after(head, node, &last_report(head, node), deadline);
}

/// Waits until a node has reported, after a report that it made earlier.
///
/// # Panics
///
/// As [`wait_for_report`].
pub fn wait_for_report_after(
    head: Machine<'_>,
    node: Machine<'_>,
    before: &LastReport,
    deadline: Duration,
) {
    wait_until(&format!("a report of {}", node.name()), deadline, || {
        match last_report(head, node) {
            LastReport(Some(seen)) if before.0.as_ref() != Some(&seen) => Ok(()),
            seen => Err(format!("{seen:?}\n{}{}", node.tail(AGENT), head.tail(AGGREGATOR))),
        }
    });
}

/// When a node reported last, where the aggregator tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReport(Option<Value>);

/// When a node reported last.
pub fn last_report(head: Machine<'_>, node: Machine<'_>) -> LastReport {
    let printed = head.try_run(&["rollcall-aggregator", "nodes", "--output", "json"]);
    let roll: Value = serde_json::from_str(&printed.unwrap_or_default()).unwrap_or_default();
    let nodes = roll.get("nodes").and_then(Value::as_array).into_iter().flatten();
    let mut nodes = nodes.filter(|one| one.get("name") == Some(&node.name().into()));
    LastReport(nodes.next().and_then(|node| node.get("lastSeen")).cloned())
}

/// What one of the operator's commands prints as JSON.
///
/// # Panics
///
/// When it fails.
#[expect(clippy::panic, reason = "the test has failed")]
pub fn operate(head: Machine<'_>, arguments: &str) -> Value {
    let printed = head.shell(&format!("rollcall-aggregator {arguments}"));
    serde_json::from_str(&printed)
        .unwrap_or_else(|error| panic!("{arguments}: no JSON ({error}): {printed}"))
}

fn ids(nodes: Option<&Value>, key: &str) -> Vec<String> {
    let nodes = nodes.and_then(Value::as_array).into_iter().flatten();
    let mut ids: Vec<_> =
        nodes.filter_map(|node| node.get(key)?.as_str().map(str::to_owned)).collect();
    ids.sort_unstable();
    ids
}
