//! Physical network interfaces: adapters of this machine, not what the kernel makes of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rollcall_report::{Link, Nic, NicKind, Reading, clean_text, error_chain};

use super::{known_text, parse_decimal, pci};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{Attributes, HostRoot, ParseError, ReadError};

const INTERFACES: &str = "/sys/class/net";
const INFINIBAND_DEVICES: &str = "/sys/class/infiniband";

/// A file among the interfaces' folders. Source: Documentation/networking/bonding.rst.
const BONDING_MASTERS: &str = "bonding_masters";

/// The buses that carry a machine's adapters. Others have a `device` too: `usb` the NIC of a
/// management controller, `auxiliary` a slice of an adapter that counts itself. On Hyper-V
/// (`vmbus`), Xen, Power's and s390's partitions (`vio`, `ccwgroup`) the only adapters that a machine
/// is sure to have are theirs; `fsl-mc` is the bus of NXP's network processors.
const ADAPTER_BUSES: [&str; 8] =
    ["pci", "platform", "virtio", "vmbus", "xen", "vio", "ccwgroup", "fsl-mc"];

/// How a speed that is not known becomes a number.
const SET_THE_SPEED: &str =
    "set it under overrides.unknownNicSpeeds of the aggregator's cluster file";

/// The rules for network interfaces.
pub(super) const RULES: [Rule; 20] = [
    ADAPTER,
    LINK_DOWN,
    SPEED_UNKNOWN,
    SOFTWARE,
    OTHER_LINK_TYPE,
    OTHER_BUS,
    VIRTUAL_FUNCTION,
    REPRESENTOR,
    PARTITION_KEY,
    PAIR,
    SAME_PORT,
    INFINIBAND_PORT,
    PORT_OF_INTERFACE,
    ETHERNET_PORT,
    OTHER_PORT,
    SOFTWARE_PORT,
    PASSED_THROUGH,
    NO_DRIVER,
    NOT_VISIBLE,
    UNREADABLE,
];

const ADAPTER: Rule = Rule::new("adapter", "an interface of an adapter of this machine");
const LINK_DOWN: Rule = Rule::new("link-down", "an adapter whose link is down: its bandwidth is 0");
const SPEED_UNKNOWN: Rule = Rule::new(
    "speed-unknown",
    "an adapter whose driver tells no speed: it counts, its bandwidth does not",
);
const SOFTWARE: Rule = Rule::new(
    "software",
    "made by the kernel, with no device behind it (loopback, veth, bridge, bond, VLAN, tunnel)",
);
const OTHER_LINK_TYPE: Rule =
    Rule::new("other-link-type", "neither Ethernet (type 1) nor InfiniBand (type 32)");
const OTHER_BUS: Rule = Rule::new(
    "other-bus",
    "on a bus that carries no adapters, such as a management controller's USB or a sub-function's",
);
const VIRTUAL_FUNCTION: Rule =
    Rule::new("virtual-function", "a slice (SR-IOV) of an adapter that counts itself");
const REPRESENTOR: Rule =
    Rule::new("representor", "stands for a virtual function in the adapter's switch");
const PARTITION_KEY: Rule =
    Rule::new("partition-key", "an InfiniBand partition of another interface");
const PAIR: Rule = Rule::new(
    "accelerated-pair",
    "one adapter together with its master, as a cloud's accelerated networking has it",
);
const INFINIBAND_PORT: Rule =
    Rule::new("infiniband-port", "a port of an InfiniBand adapter without an interface");
const PORT_OF_INTERFACE: Rule =
    Rule::new("port-of-interface", "a port that counts by its interface");
const ETHERNET_PORT: Rule = Rule::new(
    "ethernet-port",
    "the RDMA side of an Ethernet adapter, whose interface counts where it is visible",
);
const OTHER_PORT: Rule = Rule::new(
    "other-port",
    "an RDMA device that is neither InfiniBand nor Ethernet, such as a cloud's, beside its interface",
);
const SAME_PORT: Rule = Rule::new(
    "same-port",
    "a slice of a port that counts already (same phys_port_id), as partitioned adapters have",
);
const SOFTWARE_PORT: Rule =
    Rule::new("software-port", "an RDMA device made by software, with no device behind it");
const PASSED_THROUGH: Rule =
    Rule::new("passed-through", "handed on to a virtual machine, where it counts");
const NO_DRIVER: Rule = Rule::new("no-driver", "an adapter that no driver serves");
const NOT_VISIBLE: Rule = Rule::new(
    "not-visible",
    "an adapter with a driver and no interface here: it was moved into a pod's network namespace, or its driver makes none",
);
const UNREADABLE: Rule = Rule::new("unreadable", "what it is or does cannot be read");

/// A rule and what it holds for.
type Exclusion = (Rule, fn(&Interface) -> bool);

/// Why an interface is no adapter of this machine; the first that holds decides.
const EXCLUSIONS: [Exclusion; 6] = [
    (OTHER_LINK_TYPE, |it| it.kind().is_none()),
    (OTHER_BUS, |it| !it.bus.as_deref().is_some_and(|bus| ADAPTER_BUSES.contains(&bus))),
    (VIRTUAL_FUNCTION, |it| it.is_virtual_function),
    (REPRESENTOR, |it| it.port_name.as_deref().is_some_and(is_representor)),
    (PARTITION_KEY, |it| it.kind() == Some(NicKind::Infiniband) && it.is_partition),
    (PAIR, |it| it.master_has_device),
];

/// Lists the host's adapters: those with an interface here, and the InfiniBand ports without one.
/// The interfaces are those of the network namespace that `/sys` was mounted in. `functions` are there
/// to tell which adapters have no interface here: without them the others count as well.
pub(super) fn probe(root: &HostRoot, functions: &[pci::Function]) -> Probed<Reading<Vec<Nic>>> {
    match read(root, functions) {
        Ok(Probed { reading, findings }) => Probed { reading: Reading::Known(reading), findings },
        Err(error) => Probed::failed("interfaces", UNREADABLE, &error),
    }
}

fn read(root: &HostRoot, functions: &[pci::Function]) -> Result<Probed<Vec<Nic>>, ReadError> {
    let interfaces = collect_interfaces(root)?;
    let ports = collect_ports(root)?;
    Ok(build(&interfaces, &ports, functions))
}

/// Something among the interfaces or ports, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate<T> {
    name: String,
    /// `None`: no device is behind it.
    device: Result<Option<T>, String>,
}

impl<T> Candidate<T> {
    fn known(&self) -> Option<&T> {
        self.device.as_ref().ok()?.as_ref()
    }
}

/// What sysfs says of a network interface that has a device.
/// Source: Documentation/ABI/testing/sysfs-class-net.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    /// The device's folder under `/sys/devices`.
    device: PathBuf,
    /// The bus that the device is on.
    bus: Option<String>,
    /// The kind of link, as `ARPHRD_…` in `include/uapi/linux/if_arp.h`.
    hardware_type: Option<String>,
    is_virtual_function: bool,
    /// An InfiniBand interface made for a partition key hangs on another interface.
    is_partition: bool,
    port_name: Option<String>,
    /// The physical port's own name, the same for all slices of it.
    port_id: Option<String>,
    /// Which of the device's ports it is, counted from 1.
    port_number: Option<u64>,
    master_has_device: bool,
    operational_state: Option<String>,
    carrier: Option<String>,
    speed_mbps: Reading<u64>,
    driver: Option<String>,
}

/// What sysfs says of an InfiniBand port. Source: Documentation/ABI/stable/sysfs-class-infiniband.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    device: PathBuf,
    /// Counted from 1.
    number: Option<u64>,
    is_virtual_function: bool,
    link_layer: Option<String>,
    state: Option<String>,
    rate_mbps: Reading<u64>,
    driver: Option<String>,
}

fn collect_interfaces(root: &HostRoot) -> Result<Vec<Candidate<Interface>>, ReadError> {
    let mut interfaces = Vec::new();
    for name in root.list(INTERFACES)? {
        if name == BONDING_MASTERS {
            continue;
        }
        let attributes = root.attributes(format!("{INTERFACES}/{name}"));
        let device = interface(&attributes);
        // One that goes away meanwhile is left out alone.
        if attributes.vanished() {
            continue;
        }
        interfaces.push(Candidate { name, device: device.map_err(|error| error_chain(&error)) });
    }
    Ok(interfaces)
}

/// Reads an interface's attributes; `None` where no device is behind it.
fn interface(attributes: &Attributes<'_>) -> Result<Option<Interface>, ReadError> {
    let Some(device) = attributes.resolve("device")? else { return Ok(None) };
    Ok(Some(Interface {
        bus: match attributes.link_name("device/subsystem")? {
            Some(bus) => Some(bus),
            None => bus_of(&device).map(str::to_owned),
        },
        device,
        hardware_type: attributes.read("type")?,
        is_virtual_function: attributes.has("device/physfn")?,
        is_partition: attributes.has("parent")?,
        port_name: attributes.read_if_told("phys_port_name")?,
        port_id: attributes.read_if_told("phys_port_id")?.filter(|id| !id.is_empty()),
        port_number: match attributes.read("dev_port")? {
            Some(text) => parse_decimal(&text).ok().and_then(|number| number.checked_add(1)),
            None => None,
        },
        master_has_device: attributes.has("master/device")?,
        operational_state: attributes.read("operstate")?,
        // The kernel says EINVAL while the interface is switched off.
        carrier: attributes.read_if_told("carrier")?,
        speed_mbps: speed(attributes.parse("speed", parse_speed)),
        driver: attributes.link_name("device/driver")?.as_deref().and_then(known_text),
    }))
}

fn collect_ports(root: &HostRoot) -> Result<Vec<Candidate<Port>>, ReadError> {
    let mut ports = Vec::new();
    for name in root.list_if_present(INFINIBAND_DEVICES)?.unwrap_or_default() {
        let attributes = root.attributes(format!("{INFINIBAND_DEVICES}/{name}"));
        let numbers = root.list_if_present(format!("{INFINIBAND_DEVICES}/{name}/ports"))?;
        for number in numbers.unwrap_or_default() {
            let device = port(root, &attributes, &name, &number);
            if attributes.vanished() {
                continue;
            }
            ports.push(Candidate {
                name: format!("{name}/{number}"),
                device: device.map_err(|error| error_chain(&error)),
            });
        }
    }
    Ok(ports)
}

/// Reads a port's attributes; `None` where no device is behind it, as for rxe and siw.
fn port(
    root: &HostRoot,
    adapter: &Attributes<'_>,
    name: &str,
    number: &str,
) -> Result<Option<Port>, ReadError> {
    let Some(device) = adapter.resolve("device")? else { return Ok(None) };
    let port = root.attributes(format!("{INFINIBAND_DEVICES}/{name}/ports/{number}"));
    Ok(Some(Port {
        device,
        number: parse_decimal(number).ok(),
        is_virtual_function: adapter.has("device/physfn")?,
        link_layer: port.read("link_layer")?,
        state: port.read("state")?,
        rate_mbps: speed(port.parse("rate", parse_rate)),
        driver: adapter.link_name("device/driver")?.as_deref().and_then(known_text),
    }))
}

/// The bus of a device whose `subsystem` is not told, from where it is.
fn bus_of(device: &Path) -> Option<&'static str> {
    let parts: Vec<&str> = device.iter().filter_map(|part| part.to_str()).collect();
    let last = parts.last()?;
    if parts.iter().any(|part| part.starts_with("usb")) {
        Some("usb")
    } else if parts.iter().any(|part| part.starts_with("VMBUS:")) {
        Some("vmbus")
    } else if is_pci_address(last) {
        Some("pci")
    } else if last.strip_prefix("virtio").is_some_and(|number| parse_decimal(number).is_ok()) {
        Some("virtio")
    } else if last.starts_with("vif-") {
        Some("xen")
    } else if device.starts_with("/sys/devices/platform") {
        Some("platform")
    } else {
        None
    }
}

/// Whether a name is of the form `0000:17:00.0`.
fn is_pci_address(name: &str) -> bool {
    let parts: Vec<&str> = name.split([':', '.']).collect();
    matches!(parts.as_slice(), [_, _, _, _])
        && parts.iter().all(|part| u32::from_str_radix(part, 16).is_ok())
}

/// What a speed's attribute comes to. It is missing, or EINVAL, where the driver knows none or the
/// interface is switched off.
fn speed(read: Result<Option<u64>, ReadError>) -> Reading<u64> {
    match read {
        Ok(Some(mbps)) => Reading::Known(mbps),
        Ok(None) | Err(ReadError::Missing { .. }) => Reading::Absent,
        Err(error) if error.is_no_value() => Reading::Absent,
        Err(error) => Reading::failed(&error_chain(&error)),
    }
}

/// An interface's `speed` in Mbit/s; `None` where it is unknown: 0, or `SPEED_UNKNOWN` of
/// include/uapi/linux/ethtool.h, which is -1 and was printed as an unsigned number of 16 or 32 bits.
fn parse_speed(text: &str) -> Result<Option<u64>, ParseError> {
    const UNKNOWN: [u64; 3] = [0, u16::MAX as u64, u32::MAX as u64];
    if text == "-1" {
        return Ok(None);
    }
    parse_decimal(text).map(|mbps| Some(mbps).filter(|mbps| !UNKNOWN.contains(mbps)))
}

/// A port's `rate`, such as `100 Gb/sec (4X EDR)` or `2.5 Gb/sec (1X SDR)`, in Mbit/s.
fn parse_rate(text: &str) -> Result<Option<u64>, ParseError> {
    let invalid = || ParseError::new("a rate such as 2.5 Gb/sec", text);
    let gigabits = text.split_once(" Gb/sec").ok_or_else(invalid)?.0;
    let (whole, tenth) = gigabits.split_once('.').unwrap_or((gigabits, "0"));
    let tenth = Some(tenth).filter(|digits| digits.len() == 1).ok_or_else(invalid)?;
    let mbps = parse_decimal(whole)?
        .checked_mul(1000)
        .and_then(|mbps| mbps.checked_add(parse_decimal(tenth).ok()? * 100))
        .ok_or_else(invalid)?;
    Ok(Some(mbps).filter(|mbps| *mbps > 0))
}

/// Makes the list of adapters from what was collected, in the order of their names.
fn build(
    interfaces: &[Candidate<Interface>],
    ports: &[Candidate<Port>],
    functions: &[pci::Function],
) -> Probed<Vec<Nic>> {
    let mut findings = invisible(interfaces, ports, functions);
    let mut nics = Vec::new();
    let mut counted_ports = BTreeSet::new();
    for Candidate { name, device } in interfaces {
        let folder = format!("{INTERFACES}/{name}");
        let interface = match device {
            Ok(Some(interface)) => interface,
            Ok(None) => {
                findings.push(Finding::new(Verdict::PassedOver, SOFTWARE, name).source(folder));
                continue;
            }
            Err(reason) => {
                undecided(name, &folder, reason, &mut nics, &mut findings);
                continue;
            }
        };
        let kind = match interface.judge() {
            Ok(_) if interface.port().is_some_and(|port| !counted_ports.insert(port)) => {
                findings.push(interface.passed_over(SAME_PORT, name, &folder));
                continue;
            }
            Ok(kind) => kind,
            Err(rule) => {
                findings.push(interface.passed_over(rule, name, &folder));
                continue;
            }
        };
        // IP over InfiniBand may be switched off while the port works for all else.
        let port = ports.iter().filter(|_| kind == NicKind::Infiniband).find_map(|candidate| {
            let port = candidate.known()?;
            (interface.is_of(port) && port.is_infiniband()).then_some((&candidate.name, port))
        });
        let (nic, source) = match port {
            Some((port_name, port)) => {
                (port.to_nic(name), format!("{}/rate", port_folder(port_name)))
            }
            None => (interface.to_nic(name, kind), format!("{folder}/speed")),
        };
        findings.push(counted(ADAPTER, &nic, &source));
        nics.push(nic);
    }
    for Candidate { name, device } in ports {
        let folder = port_folder(name);
        let port = match device {
            Ok(Some(port)) => port,
            Ok(None) => {
                findings
                    .push(Finding::new(Verdict::PassedOver, SOFTWARE_PORT, name).source(folder));
                continue;
            }
            Err(reason) => {
                undecided(name, &folder, reason, &mut nics, &mut findings);
                continue;
            }
        };
        let mut present = interfaces.iter().filter_map(Candidate::known);
        let rule = if present.any(|interface| interface.is_of(port)) {
            PORT_OF_INTERFACE
        } else if port.link_layer.as_deref() == Some("Ethernet") {
            ETHERNET_PORT
        } else if !port.is_infiniband() {
            OTHER_PORT
        } else if port.is_virtual_function {
            VIRTUAL_FUNCTION
        } else {
            let nic = port.to_nic(name);
            findings.push(counted(INFINIBAND_PORT, &nic, &format!("{folder}/rate")));
            nics.push(nic);
            continue;
        };
        findings.push(Finding::new(Verdict::PassedOver, rule, name).source(folder));
    }
    nics.sort_by(|left, right| left.name.cmp(&right.name));
    findings.sort_by(|left, right| left.candidate.cmp(&right.candidate));
    Probed { reading: nics, findings }
}

/// Where a port named `DEVICE/PORT` is.
fn port_folder(name: &str) -> String {
    match name.split_once('/') {
        Some((adapter, port)) => format!("{INFINIBAND_DEVICES}/{adapter}/ports/{port}"),
        None => format!("{INFINIBAND_DEVICES}/{name}"),
    }
}

/// Lists what may be an adapter and cannot be read: its kind is open, its speed failed.
fn undecided(
    name: &str,
    folder: &str,
    reason: &str,
    nics: &mut Vec<Nic>,
    findings: &mut Vec<Finding>,
) {
    findings.push(Finding::new(Verdict::Failed, UNREADABLE, name).value(reason).source(folder));
    nics.push(Nic {
        name: clean_text(name),
        kind: NicKind::Other,
        link: Link::Unknown,
        speed_mbps: Reading::failed(reason),
        driver: None,
    });
}

/// The adapters on the PCI bus that have neither an interface nor a port here.
fn invisible(
    interfaces: &[Candidate<Interface>],
    ports: &[Candidate<Port>],
    functions: &[pci::Function],
) -> Vec<Finding> {
    // The RDMA side of an Ethernet adapter stays where it is when the interface is moved away.
    let infiniband = ports.iter().filter_map(Candidate::known).filter(|port| port.is_infiniband());
    let seen: Vec<&Path> = interfaces
        .iter()
        .filter_map(Candidate::known)
        .map(|interface| interface.device.as_path())
        .chain(infiniband.map(|port| port.device.as_path()))
        .collect();
    functions
        .iter()
        .filter(|function| function.is_network())
        // A virtio interface's device is below the PCI function.
        .filter(|function| !seen.iter().any(|device| device.starts_with(&function.path)))
        .map(|function| {
            let rule = if function.is_virtual {
                VIRTUAL_FUNCTION
            } else if function.is_passed_through() {
                PASSED_THROUGH
            } else if function.driver.is_some() {
                NOT_VISIBLE
            } else {
                NO_DRIVER
            };
            Finding::new(Verdict::PassedOver, rule, &function.address)
                .value(function.driver.as_deref().unwrap_or_default())
                .source(format!("{}/{}", pci::DEVICES, function.address))
        })
        .collect()
}

/// What is to be said of an adapter that counts by the rule.
fn counted(rule: Rule, nic: &Nic, source: &str) -> Finding {
    let finding = |verdict, rule, value: String| {
        Finding::new(verdict, rule, &nic.name).value(value).source(source)
    };
    match (nic.link, &nic.speed_mbps) {
        (_, Reading::Failed { reason }) => {
            finding(Verdict::Failed, UNREADABLE, reason.clone()).advice(SET_THE_SPEED)
        }
        (Link::Down, _) => finding(Verdict::Counted, LINK_DOWN, "0 Mbps".into()),
        (_, Reading::Known(mbps)) => finding(Verdict::Counted, rule, format!("{mbps} Mbps")),
        (_, Reading::Absent) => {
            finding(Verdict::Unknown, SPEED_UNKNOWN, "no speed".into()).advice(SET_THE_SPEED)
        }
    }
}

impl Interface {
    /// What the interface speaks, where it is known.
    fn kind(&self) -> Option<NicKind> {
        match self.hardware_type.as_deref() {
            Some("1") => Some(NicKind::Ethernet),
            Some("32") => Some(NicKind::Infiniband),
            _ => None,
        }
    }

    /// What the interface speaks, or the rule by which it is no adapter of this machine.
    fn judge(&self) -> Result<NicKind, Rule> {
        match EXCLUSIONS.iter().find(|(_, holds)| holds(self)) {
            Some((rule, _)) => Err(*rule),
            None => self.kind().ok_or(OTHER_LINK_TYPE),
        }
    }

    /// Whether the port is this interface's. An interface that does not say which of its device's
    /// ports it is stands for all of them.
    fn is_of(&self, port: &Port) -> bool {
        self.device == port.device
            && (self.port_number.is_none() || self.port_number == port.number)
    }

    /// The physical port, where it is told: its name is its own within the adapter alone.
    fn port(&self) -> Option<(&Path, &str)> {
        Some((self.device.parent()?, self.port_id.as_deref()?))
    }

    fn passed_over(&self, rule: Rule, name: &str, folder: &str) -> Finding {
        let (attribute, value) = match rule {
            OTHER_LINK_TYPE => ("type", self.hardware_type.as_deref()),
            OTHER_BUS => ("device/subsystem", self.bus.as_deref()),
            VIRTUAL_FUNCTION => ("device/physfn", None),
            REPRESENTOR => ("phys_port_name", self.port_name.as_deref()),
            PARTITION_KEY => ("parent", None),
            SAME_PORT => ("phys_port_id", self.port_id.as_deref()),
            _ => ("master", None),
        };
        Finding::new(Verdict::PassedOver, rule, name)
            .value(value.unwrap_or_default())
            .source(format!("{folder}/{attribute}"))
    }

    fn link(&self) -> Link {
        match (self.operational_state.as_deref(), self.carrier.as_deref()) {
            (Some("up"), _) | (Some("unknown") | None, Some("1")) => Link::Up,
            (Some("down" | "lowerlayerdown" | "dormant" | "notpresent"), _)
            | (Some("unknown") | None, Some("0")) => Link::Down,
            _ => Link::Unknown,
        }
    }

    fn to_nic(&self, name: &str, kind: NicKind) -> Nic {
        let link = self.link();
        Nic {
            name: clean_text(name),
            kind,
            link,
            // Some drivers go on telling the last speed.
            speed_mbps: if link == Link::Down { Reading::Absent } else { self.speed_mbps.clone() },
            driver: self.driver.clone(),
        }
    }
}

impl Port {
    fn is_infiniband(&self) -> bool {
        self.link_layer.as_deref() == Some("InfiniBand")
    }

    fn to_nic(&self, name: &str) -> Nic {
        // For example `4: ACTIVE`.
        let link = match self.state.as_deref().and_then(|state| state.split(':').next()) {
            Some("4") => Link::Up,
            Some("1" | "2" | "3" | "5") => Link::Down,
            _ => Link::Unknown,
        };
        Nic {
            name: clean_text(name),
            kind: NicKind::Infiniband,
            link,
            speed_mbps: if link == Link::Down { Reading::Absent } else { self.rate_mbps.clone() },
            driver: self.driver.clone(),
        }
    }
}

/// Whether a port's name is that of a function or a sub-function in the adapter's switch, such as
/// `pf0vf12`, `c1pf0vf2`, `pf0sf3` or, for the host of a `SmartNIC`, `pf0`; the port to the outside is
/// `p0`. Source: Documentation/networking/switchdev.rst, "Port Netdev Naming", and
/// `__devlink_port_phys_port_name_get`.
fn is_representor(port_name: &str) -> bool {
    let name = port_name.strip_prefix('c').and_then(after_number).unwrap_or(port_name);
    let Some(rest) = name.strip_prefix("pf").and_then(after_number) else { return false };
    let function = rest.strip_prefix("vf").or_else(|| rest.strip_prefix("sf"));
    rest.is_empty() || function.and_then(after_number) == Some("")
}

/// What follows the number that a text begins with.
fn after_number(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::{fs, io};

    use proptest::prelude::*;

    use super::*;

    const DEVICE: &str = "/sys/devices/pci0000:00/0000:17:00.0";

    fn interface(change: impl FnOnce(&mut Interface)) -> Interface {
        let mut interface = Interface {
            device: PathBuf::from(DEVICE),
            bus: Some("pci".into()),
            hardware_type: Some("1".into()),
            is_virtual_function: false,
            is_partition: false,
            port_name: None,
            port_id: None,
            port_number: None,
            master_has_device: false,
            operational_state: Some("up".into()),
            carrier: Some("1".into()),
            speed_mbps: Reading::Known(10_000),
            driver: Some("ixgbe".into()),
        };
        change(&mut interface);
        interface
    }

    fn port(change: impl FnOnce(&mut Port)) -> Port {
        let mut port = Port {
            number: Some(1),
            device: PathBuf::from("/sys/devices/pci0000:00/0000:18:00.0"),
            is_virtual_function: false,
            link_layer: Some("InfiniBand".into()),
            state: Some("4: ACTIVE".into()),
            rate_mbps: Reading::Known(400_000),
            driver: Some("mlx5_core".into()),
        };
        change(&mut port);
        port
    }

    fn named<T>(name: &str, device: T) -> Candidate<T> {
        Candidate { name: name.into(), device: Ok(Some(device)) }
    }

    #[test]
    fn which_interfaces_are_adapters() {
        use NicKind::{Ethernet, Infiniband};
        let on = |bus: &str| interface(|it| it.bus = Some(bus.into()));
        let infiniband = |change: fn(&mut Interface)| {
            interface(|it| {
                it.hardware_type = Some("32".into());
                change(it);
            })
        };
        for (why, interface, expected) in [
            ("a PCI adapter", interface(|_| {}), Ok(Ethernet)),
            ("a cloud's adapter", on("vmbus"), Ok(Ethernet)),
            ("IPoIB", infiniband(|_| {}), Ok(Infiniband)),
            (
                "a wireless monitor",
                interface(|it| it.hardware_type = Some("803".into())),
                Err(OTHER_LINK_TYPE),
            ),
            ("no type", interface(|it| it.hardware_type = None), Err(OTHER_LINK_TYPE)),
            ("a BMC's", on("usb"), Err(OTHER_BUS)),
            ("a sub-function", on("auxiliary"), Err(OTHER_BUS)),
            ("a bus that is not told", interface(|it| it.bus = None), Err(OTHER_BUS)),
            ("a VF", interface(|it| it.is_virtual_function = true), Err(VIRTUAL_FUNCTION)),
            (
                "a representor",
                interface(|it| it.port_name = Some("pf0vf3".into())),
                Err(REPRESENTOR),
            ),
            ("an uplink", interface(|it| it.port_name = Some("p0".into())), Ok(Ethernet)),
            ("half of a pair", interface(|it| it.master_has_device = true), Err(PAIR)),
            ("a partition key's", infiniband(|it| it.is_partition = true), Err(PARTITION_KEY)),
        ] {
            assert_eq!(interface.judge(), expected, "{why}");
        }
    }

    #[test]
    fn what_is_said_of_a_candidate() {
        let nic = |change: fn(&mut Interface)| named("eth0", interface(change));
        for (why, candidate, expected) in [
            ("up", nic(|_| {}), (Verdict::Counted, ADAPTER, "10000 Mbps")),
            (
                "down",
                nic(|it| it.operational_state = Some("down".into())),
                (Verdict::Counted, LINK_DOWN, "0 Mbps"),
            ),
            (
                "a speed that is not told",
                nic(|it| it.speed_mbps = Reading::Absent),
                (Verdict::Unknown, SPEED_UNKNOWN, "no speed"),
            ),
            (
                "a speed that cannot be read",
                nic(|it| it.speed_mbps = Reading::failed("I/O error")),
                (Verdict::Failed, UNREADABLE, "I/O error"),
            ),
            (
                "loopback",
                Candidate { name: "lo".into(), device: Ok(None) },
                (Verdict::PassedOver, SOFTWARE, ""),
            ),
            (
                "a BMC's",
                nic(|it| it.bus = Some("usb".into())),
                (Verdict::PassedOver, OTHER_BUS, "usb"),
            ),
            (
                "what cannot be read",
                Candidate { name: "eth0".into(), device: Err("EIO".into()) },
                (Verdict::Failed, UNREADABLE, "EIO"),
            ),
        ] {
            let probed = build(&[candidate], &[], &[]);
            let finding = &probed.findings[0];
            assert_eq!((finding.verdict, finding.rule, finding.value.as_str()), expected, "{why}");
            assert_eq!(probed.reading.is_empty(), expected.0 == Verdict::PassedOver, "{why}");
        }
    }

    #[test]
    fn adapters_without_an_interface_are_named() {
        let function = |address: &str, driver: Option<&str>| pci::Function {
            address: address.into(),
            path: Path::new("/sys/devices/pci0000:00").join(address),
            vendor: 0x15b3,
            device: 0x101d,
            subsystem: None,
            class: 0x02_00_00,
            is_virtual: false,
            driver: driver.map(str::to_owned),
        };
        let virtio = interface(|it| {
            it.device = PathBuf::from("/sys/devices/pci0000:00/0000:00:03.0/virtio0");
        });
        let functions = [
            function("0000:00:03.0", Some("virtio-pci")),
            function("0000:17:00.0", Some("ixgbe")),
            function("0000:18:00.0", Some("mlx5_core")),
            function("0000:19:00.0", Some("ice")),
            function("0000:1a:00.0", Some("vfio-pci")),
            function("0000:1b:00.0", None),
            pci::Function { is_virtual: true, ..function("0000:1c:00.0", Some("iavf")) },
        ];
        let interfaces = [named("eth0", interface(|_| {})), named("eth1", virtio)];
        let findings = build(&interfaces, &[named("mlx5_0/1", port(|_| {}))], &functions).findings;
        let found: Vec<(&str, Rule)> =
            findings.iter().map(|it| (it.candidate.as_str(), it.rule)).collect();
        assert_eq!(
            found,
            [
                ("0000:19:00.0", NOT_VISIBLE),
                ("0000:1a:00.0", PASSED_THROUGH),
                ("0000:1b:00.0", NO_DRIVER),
                ("0000:1c:00.0", VIRTUAL_FUNCTION),
                ("eth0", ADAPTER),
                ("eth1", ADAPTER),
                ("mlx5_0/1", INFINIBAND_PORT),
            ]
        );
    }

    #[test]
    fn an_interface_that_goes_away_is_left_out_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = HostRoot::new(folder.path());
        assert!(probe(&root, &[]).reading.failure().is_some(), "without /sys nothing is known");
        let interfaces = folder.path().join("sys/class/net");
        fs::create_dir_all(interfaces.join("eth0/device/pci")).expect("a folder");
        symlink("pci", interfaces.join("eth0/device/subsystem")).expect("linked");
        fs::write(interfaces.join("eth0/type"), "1\n").expect("written");
        symlink("../../devices/gone", interfaces.join("eth1")).expect("linked");
        let nics = probe(&root, &[]).reading.known().cloned().expect("a list");
        let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["eth0"]);
        assert_eq!(nics[0].speed_mbps, Reading::Absent, "there is no such attribute");
    }

    #[test]
    fn infiniband_ports_count_unless_an_interface_does() {
        let ipoib = |port_number| {
            interface(|it| {
                it.hardware_type = Some("32".into());
                it.port_number = port_number;
            })
        };
        let on_adapter = |number| {
            port(|it| {
                it.device = PathBuf::from(DEVICE);
                it.number = Some(number);
            })
        };
        for (why, interface, port, expected) in [
            ("no interface", ipoib(Some(1)), port(|_| {}), INFINIBAND_PORT),
            ("has one", ipoib(Some(1)), on_adapter(1), PORT_OF_INTERFACE),
            ("has one of unknown number", ipoib(None), on_adapter(2), PORT_OF_INTERFACE),
            ("the other port has one", ipoib(Some(1)), on_adapter(2), INFINIBAND_PORT),
            (
                "RoCE",
                ipoib(None),
                port(|it| it.link_layer = Some("Ethernet".into())),
                ETHERNET_PORT,
            ),
            (
                "a cloud's",
                ipoib(None),
                port(|it| it.link_layer = Some("Unspecified".into())),
                OTHER_PORT,
            ),
            ("a VF", ipoib(None), port(|it| it.is_virtual_function = true), VIRTUAL_FUNCTION),
        ] {
            let probed = build(&[named("ib0", interface)], &[named("mlx5_0/1", port)], &[]);
            assert_eq!(probed.findings[1].rule, expected, "{why}");
            let counts = 1 + usize::from(expected == INFINIBAND_PORT);
            assert_eq!(probed.reading.len(), counts, "{why}");
        }
        let down = named("mlx5_0/1", port(|it| it.state = Some("1: DOWN".into())));
        let nics = build(&[], &[down], &[]).reading;
        assert_eq!((nics[0].link, &nics[0].speed_mbps), (Link::Down, &Reading::Absent));
        let software = Candidate { name: "rxe0/1".into(), device: Ok(None) };
        let probed = build(&[], &[software], &[]);
        assert_eq!((probed.reading.len(), probed.findings[0].rule), (0, SOFTWARE_PORT));
    }

    #[test]
    fn a_port_speaks_for_its_ipoib_interface() {
        let switched_off = interface(|it| {
            it.hardware_type = Some("32".into());
            it.port_number = Some(1);
            it.operational_state = Some("down".into());
            it.speed_mbps = Reading::Absent;
        });
        let its = port(|it| it.device = PathBuf::from(DEVICE));
        let probed = build(&[named("ib0", switched_off)], &[named("mlx5_0/1", its)], &[]);
        assert_eq!(probed.reading.len(), 1);
        let nic = &probed.reading[0];
        assert_eq!((nic.name.as_str(), nic.link), ("ib0", Link::Up));
        assert_eq!(nic.speed_mbps, Reading::Known(400_000));
        assert_eq!(probed.findings[0].source, "/sys/class/infiniband/mlx5_0/ports/1/rate");
    }

    #[test]
    fn slices_of_one_port_count_once() {
        let slice =
            |id: &str| interface(|it| it.port_id = Some(id.to_owned()).filter(|id| !id.is_empty()));
        let names = ["eno1", "eno2", "eno3", "eno4", "eno5"];
        let interfaces = names
            .iter()
            .zip(["aa", "bb", "aa", "", ""])
            .map(|(name, id)| named(name, slice(id)))
            .collect::<Vec<_>>();
        let probed = build(&interfaces, &[], &[]);
        let counted: Vec<&str> = probed.reading.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(counted, ["eno1", "eno2", "eno4", "eno5"]);
        assert_eq!(probed.findings[2].rule, SAME_PORT);
        // Another adapter's port of the same name is another port.
        let elsewhere = interface(|it| {
            it.device = PathBuf::from("/sys/devices/pci0000:80/0000:81:00.0");
            it.port_id = Some("aa".into());
        });
        let both = [named("eno1", slice("aa")), named("eno9", elsewhere)];
        assert_eq!(build(&both, &[], &[]).reading.len(), 2);
    }

    #[test]
    fn links() {
        for (state, carrier, expected) in [
            (Some("up"), Some("1"), Link::Up),
            (Some("unknown"), Some("1"), Link::Up),
            (None, Some("1"), Link::Up),
            (Some("down"), None, Link::Down),
            (Some("lowerlayerdown"), Some("1"), Link::Down),
            (Some("unknown"), Some("0"), Link::Down),
            (Some("unknown"), None, Link::Unknown),
            (Some("testing"), Some("1"), Link::Unknown),
        ] {
            let interface = interface(|it| {
                it.operational_state = state.map(str::to_owned);
                it.carrier = carrier.map(str::to_owned);
            });
            assert_eq!(interface.link(), expected, "{state:?} {carrier:?}");
            let speed = interface.to_nic("eth0", NicKind::Ethernet).speed_mbps;
            let known = if expected == Link::Down { None } else { Some(10_000) };
            assert_eq!(speed.known().copied(), known, "{state:?} {carrier:?}");
        }
    }

    #[test]
    fn speeds() {
        for (text, expected) in [
            ("25000", Some(25_000)),
            ("10", Some(10)),
            ("-1", None),
            ("0", None),
            ("00", None),
            ("65535", None),
            ("4294967295", None),
        ] {
            assert_eq!(parse_speed(text), Ok(expected), "{text}");
        }
        for bad in ["", "-125000", "fast", "1.5"] {
            assert!(parse_speed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_speed_that_is_not_told_is_no_failure_and_no_zero() {
        const EINVAL: i32 = 22;
        const EIO: i32 = 5;
        let failed = |error: i32| {
            let source = io::Error::from_raw_os_error(error);
            speed(Err(ReadError::Unreadable { path: PathBuf::from("speed"), source }))
        };
        assert_eq!(failed(EINVAL), Reading::Absent);
        assert_eq!(speed(Ok(None)), Reading::Absent);
        let reason = failed(EIO);
        assert!(
            reason.failure().is_some_and(|reason| reason.contains("speed cannot be read")),
            "{reason:?}"
        );
    }

    #[test]
    fn rates() {
        for (text, expected) in [
            ("100 Gb/sec (4X EDR)", Some(100_000)),
            ("2.5 Gb/sec (1X SDR)", Some(2_500)),
            ("0 Gb/sec", None),
        ] {
            assert_eq!(parse_rate(text), Ok(expected), "{text}");
        }
        for bad in
            ["", "100", "-1 Gb/sec", "2.55 Gb/sec", "x Gb/sec", "18446744073709551615 Gb/sec"]
        {
            assert!(parse_rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn representors() {
        for name in ["pf0vf1", "pf1vf127", "pf0sf88", "c1pf0vf2", "pf0", "c1pf0"] {
            assert!(is_representor(name), "{name}");
        }
        for name in ["p0", "p0s1", "c1p0", "pf", "pf0vf", "vf1", "pfvf1", "pf0vf1x", "pf0xf1", ""] {
            assert!(!is_representor(name), "{name}");
        }
    }

    #[test]
    fn buses_by_place() {
        for (path, expected) in [
            (DEVICE, Some("pci")),
            ("/sys/devices/pci0000:00/0000:00:03.0/virtio2", Some("virtio")),
            ("/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0", Some("usb")),
            ("/sys/devices/platform/soc/fd580000.ethernet", Some("platform")),
            ("/sys/devices/LNXSYSTM:00/VMBUS:01/000d3a5e-96f2", Some("vmbus")),
            ("/sys/devices/vif-0", Some("xen")),
            ("/sys/devices/pci0000:00/0000:17:00.0/mlx5_core.sf.4", None),
        ] {
            assert_eq!(bus_of(Path::new(path)), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn odd_speeds_are_no_zeros(text in any::<String>(), digits in "-?[0-9.]{0,22}") {
            for text in [&text, &digits] {
                prop_assert_ne!(parse_speed(text), Ok(Some(0)));
                prop_assert_ne!(parse_rate(&format!("{text} Gb/sec")), Ok(Some(0)));
            }
        }

        #[test]
        fn odd_names_are_no_representors(name in "[a-z0-9]{0,8}", path in any::<String>()) {
            prop_assert!(!is_representor(&name) || name.contains("pf"));
            prop_assert!(bus_of(Path::new(&path)).is_none_or(|bus| bus == "usb" || ADAPTER_BUSES.contains(&bus)));
        }
    }
}
