//! Physical network interfaces: adapters of this machine, not what the kernel makes of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rollcall_report::{Link, Nic, NicKind, Reading, clean_text, error_chain};

use super::{known_text, parse_decimal};
use crate::finding::Probed;
use crate::host::{Attributes, HostRoot, ParseError, ReadError};

const INTERFACES: &str = "/sys/class/net";
const INFINIBAND_DEVICES: &str = "/sys/class/infiniband";

/// The buses that carry a machine's adapters. Others have a `device` too: `usb` the NIC of a
/// management controller, `auxiliary` a slice of an adapter that counts itself. On Hyper-V
/// (`vmbus`) and Xen the only adapters that a machine is sure to have are theirs.
const ADAPTER_BUSES: [&str; 5] = ["pci", "platform", "virtio", "vmbus", "xen"];

/// Lists the host's adapters: those with an interface here, and the InfiniBand ports without one.
/// The interfaces are those of the network namespace that `/sys` was mounted in.
pub(super) fn probe(root: &HostRoot) -> Probed<Reading<Vec<Nic>>> {
    Probed { reading: Reading::from(read(root)), findings: Vec::new() }
}

fn read(root: &HostRoot) -> Result<Vec<Nic>, ReadError> {
    let interfaces = collect_interfaces(root)?;
    let ports = collect_ports(root)?;
    Ok(build(interfaces, ports))
}

/// What sysfs says of a network interface that has a device.
/// Source: Documentation/ABI/testing/sysfs-class-net.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
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
    master_has_device: bool,
    operational_state: Option<String>,
    carrier: Option<String>,
    speed_mbps: Reading<u64>,
    driver: Option<String>,
}

/// What sysfs says of an InfiniBand port. Source: Documentation/ABI/stable/sysfs-class-infiniband.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    /// `DEVICE/PORT`, as `ibstat` names them.
    name: String,
    device: PathBuf,
    is_virtual_function: bool,
    link_layer: Option<String>,
    state: Option<String>,
    rate_mbps: Reading<u64>,
    driver: Option<String>,
}

fn collect_interfaces(root: &HostRoot) -> Result<Vec<Interface>, ReadError> {
    let mut interfaces = Vec::new();
    for name in root.list(INTERFACES)? {
        let attributes = root.attributes(format!("{INTERFACES}/{name}"));
        match interface(&name, &attributes) {
            Ok(Some(interface)) if !attributes.vanished() => interfaces.push(interface),
            Ok(_) => {}
            Err(_) if attributes.vanished() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(interfaces)
}

/// Reads an interface's attributes; `None` where no device is behind it.
fn interface(name: &str, attributes: &Attributes<'_>) -> Result<Option<Interface>, ReadError> {
    let Some(device) = attributes.resolve("device")? else { return Ok(None) };
    Ok(Some(Interface {
        name: name.to_owned(),
        bus: match attributes.link_name("device/subsystem")? {
            Some(bus) => Some(bus),
            None => bus_of(&device).map(str::to_owned),
        },
        device,
        hardware_type: attributes.read("type")?,
        is_virtual_function: attributes.has("device/physfn")?,
        is_partition: attributes.has("parent")?,
        // The kernel says EOPNOTSUPP where the driver names no port.
        port_name: attributes.read("phys_port_name").ok().flatten(),
        master_has_device: attributes.has("master/device")?,
        operational_state: attributes.read("operstate")?,
        // The kernel says EINVAL while the interface is switched off.
        carrier: attributes.read("carrier").ok().flatten(),
        speed_mbps: speed(attributes.parse("speed", parse_speed)),
        driver: attributes.link_name("device/driver")?.as_deref().and_then(known_text),
    }))
}

fn collect_ports(root: &HostRoot) -> Result<Vec<Port>, ReadError> {
    let mut ports = Vec::new();
    for name in root.list_if_present(INFINIBAND_DEVICES)?.unwrap_or_default() {
        let attributes = root.attributes(format!("{INFINIBAND_DEVICES}/{name}"));
        // Software devices (rxe, siw) have none.
        let Some(device) = attributes.resolve("device")? else { continue };
        let numbers = root.list_if_present(format!("{INFINIBAND_DEVICES}/{name}/ports"))?;
        for number in numbers.unwrap_or_default() {
            let port = root.attributes(format!("{INFINIBAND_DEVICES}/{name}/ports/{number}"));
            ports.push(Port {
                name: format!("{name}/{number}"),
                device: device.clone(),
                is_virtual_function: attributes.has("device/physfn")?,
                link_layer: port.read("link_layer")?,
                state: port.read("state")?,
                rate_mbps: speed(port.parse("rate", parse_rate)),
                driver: attributes.link_name("device/driver")?.as_deref().and_then(known_text),
            });
        }
    }
    Ok(ports)
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
        Err(error) if error.is_invalid_argument() => Reading::Absent,
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
fn build(interfaces: Vec<Interface>, ports: Vec<Port>) -> Vec<Nic> {
    let with_interface: BTreeSet<PathBuf> =
        interfaces.iter().map(|interface| interface.device.clone()).collect();
    let mut nics = Vec::new();
    for interface in interfaces {
        match interface.judge() {
            Ok(kind) => nics.push(interface.into_nic(kind)),
            Err(reason) => {
                log::debug!(interface = interface.name.as_str(), reason = reason; "passed over");
            }
        }
    }
    for port in ports {
        let reason = if with_interface.contains(&port.device) {
            "counted by its interface"
        } else if port.link_layer.as_deref() != Some("InfiniBand") {
            "an Ethernet adapter's"
        } else if port.is_virtual_function {
            "a virtual function"
        } else {
            nics.push(port.into_nic());
            continue;
        };
        log::debug!(port = port.name.as_str(), reason = reason; "passed over");
    }
    nics.sort_by(|left, right| left.name.cmp(&right.name));
    nics
}

impl Interface {
    /// What the interface speaks, or why it is no adapter of this machine.
    fn judge(&self) -> Result<NicKind, &'static str> {
        let kind = match self.hardware_type.as_deref() {
            Some("1") => NicKind::Ethernet,
            Some("32") => NicKind::Infiniband,
            _ => return Err("neither Ethernet nor InfiniBand"),
        };
        if !self.bus.as_deref().is_some_and(|bus| ADAPTER_BUSES.contains(&bus)) {
            Err("on a bus that carries no adapters")
        } else if self.is_virtual_function {
            Err("a virtual function")
        } else if self.port_name.as_deref().is_some_and(is_representor) {
            Err("stands for a virtual function in a switch")
        } else if kind == NicKind::Infiniband && self.is_partition {
            Err("a partition of another interface")
        } else if self.master_has_device {
            // The accelerated pair of a cloud's machine.
            Err("one adapter with its master")
        } else {
            Ok(kind)
        }
    }

    fn link(&self) -> Link {
        match (self.operational_state.as_deref(), self.carrier.as_deref()) {
            (Some("up"), _) | (Some("unknown") | None, Some("1")) => Link::Up,
            (Some("down" | "lowerlayerdown" | "dormant" | "notpresent"), _)
            | (Some("unknown") | None, Some("0")) => Link::Down,
            _ => Link::Unknown,
        }
    }

    fn into_nic(self, kind: NicKind) -> Nic {
        let link = self.link();
        Nic {
            name: clean_text(&self.name),
            kind,
            link,
            // Some drivers go on telling the last speed.
            speed_mbps: if link == Link::Down { Reading::Absent } else { self.speed_mbps },
            driver: self.driver,
        }
    }
}

impl Port {
    fn into_nic(self) -> Nic {
        // For example `4: ACTIVE`.
        let link = match self.state.as_deref().and_then(|state| state.split(':').next()) {
            Some("4") => Link::Up,
            Some("1" | "2" | "3" | "5") => Link::Down,
            _ => Link::Unknown,
        };
        Nic {
            name: clean_text(&self.name),
            kind: NicKind::Infiniband,
            link,
            speed_mbps: if link == Link::Down { Reading::Absent } else { self.rate_mbps },
            driver: self.driver,
        }
    }
}

/// Whether a port's name is that of a virtual function or a sub-function, such as `pf0vf12`,
/// `c1pf0vf2` or `pf0sf3`. Source: Documentation/networking/switchdev.rst, "Port Netdev Naming".
fn is_representor(port_name: &str) -> bool {
    let name = port_name.strip_prefix('c').and_then(after_number).unwrap_or(port_name);
    let function = name.strip_prefix("pf").and_then(after_number).and_then(|rest| {
        rest.strip_prefix("vf").or_else(|| rest.strip_prefix("sf")).and_then(after_number)
    });
    function == Some("")
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

    const ADAPTER: &str = "/sys/devices/pci0000:00/0000:17:00.0";

    fn interface(change: impl FnOnce(&mut Interface)) -> Interface {
        let mut interface = Interface {
            name: "eth0".into(),
            device: PathBuf::from(ADAPTER),
            bus: Some("pci".into()),
            hardware_type: Some("1".into()),
            is_virtual_function: false,
            is_partition: false,
            port_name: None,
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
            name: "mlx5_0/1".into(),
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

    #[test]
    fn which_interfaces_are_adapters() {
        use NicKind::{Ethernet, Infiniband};
        for (why, interface, expected) in [
            ("a PCI adapter", interface(|_| {}), Ok(Ethernet)),
            ("a cloud's adapter", interface(|it| it.bus = Some("vmbus".into())), Ok(Ethernet)),
            ("IPoIB", interface(|it| it.hardware_type = Some("32".into())), Ok(Infiniband)),
            (
                "a wireless monitor",
                interface(|it| it.hardware_type = Some("803".into())),
                Err("neither"),
            ),
            ("a BMC's", interface(|it| it.bus = Some("usb".into())), Err("on a bus")),
            ("a sub-function", interface(|it| it.bus = Some("auxiliary".into())), Err("on a bus")),
            ("a bus that is not told", interface(|it| it.bus = None), Err("on a bus")),
            ("a VF", interface(|it| it.is_virtual_function = true), Err("a virtual")),
            (
                "a representor",
                interface(|it| it.port_name = Some("pf0vf3".into())),
                Err("stands for"),
            ),
            ("an uplink", interface(|it| it.port_name = Some("p0".into())), Ok(Ethernet)),
            ("half of a pair", interface(|it| it.master_has_device = true), Err("one adapter")),
            (
                "a partition key's",
                interface(|it| {
                    it.hardware_type = Some("32".into());
                    it.is_partition = true;
                }),
                Err("a partition"),
            ),
        ] {
            match (interface.judge(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{why}"),
                (Err(found), Err(expected)) => {
                    assert!(found.starts_with(expected), "{why}: {found}");
                }
                (found, expected) => panic!("{why}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn an_interface_that_goes_away_is_left_out_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = HostRoot::new(folder.path());
        assert!(probe(&root).reading.failure().is_some(), "without /sys nothing is known");
        let interfaces = folder.path().join("sys/class/net");
        fs::create_dir_all(interfaces.join("eth0/device/pci")).expect("a folder");
        symlink("pci", interfaces.join("eth0/device/subsystem")).expect("linked");
        fs::write(interfaces.join("eth0/type"), "1\n").expect("written");
        symlink("../../devices/gone", interfaces.join("eth1")).expect("linked");
        let nics = probe(&root).reading.known().cloned().expect("a list");
        let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
        assert_eq!(names, ["eth0"]);
        assert_eq!(nics[0].speed_mbps, Reading::Absent, "there is no such attribute");
    }

    #[test]
    fn infiniband_ports_count_unless_an_interface_does() {
        let beside = |port: Port| {
            let nics = build(vec![interface(|_| {})], vec![port]);
            nics.into_iter().map(|nic| nic.name).collect::<Vec<_>>()
        };
        for (why, port, expected) in [
            ("no interface", port(|_| {}), vec!["eth0", "mlx5_0/1"]),
            ("has one", port(|it| it.device = PathBuf::from(ADAPTER)), vec!["eth0"]),
            ("RoCE", port(|it| it.link_layer = Some("Ethernet".into())), vec!["eth0"]),
            ("a VF", port(|it| it.is_virtual_function = true), vec!["eth0"]),
        ] {
            assert_eq!(beside(port), expected, "{why}");
        }
        let down = build(vec![], vec![port(|it| it.state = Some("1: DOWN".into()))]);
        assert_eq!((down[0].link, &down[0].speed_mbps), (Link::Down, &Reading::Absent));
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
            let speed = interface.into_nic(NicKind::Ethernet).speed_mbps;
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
        for name in ["pf0vf1", "pf1vf127", "pf0sf88", "c1pf0vf2"] {
            assert!(is_representor(name), "{name}");
        }
        for name in ["p0", "pf0", "pf0vf", "vf1", "pfvf1", "pf0vf1x", "pf0xf1", ""] {
            assert!(!is_representor(name), "{name}");
        }
    }

    #[test]
    fn buses_by_place() {
        for (path, expected) in [
            (ADAPTER, Some("pci")),
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
