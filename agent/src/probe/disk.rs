//! Physical disks, counted by what sysfs says of them and not by their names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rollcall_report::{Attachment, Disk, Reading, clean_text, error_chain};

use super::{known_text, mib, parse_decimal};
use crate::finding::{Finding, Probed, Rule, Verdict};
use crate::host::{Attributes, HostRoot, ParseError, ReadError};

const BLOCK_DEVICES: &str = "/sys/block";
const SCSI_HOSTS: &str = "/sys/class/scsi_host";

/// Where the disks are that several NVMe controllers lead to (native multipath).
const NVME_SUBSYSTEMS: &str = "/sys/devices/virtual/nvme-subsystem";

/// Where the controllers behind a network are, and their disks on a kernel without native multipath.
const NVME_FABRICS: &str = "/sys/devices/virtual/nvme-fabrics";

/// The unit of `size`, whatever the disk's own blocks are.
/// Source: Documentation/ABI/stable/sysfs-block, "size".
const SECTOR_BYTES: u64 = 512;

/// SCSI's `TYPE_ROM`: CD and DVD drives. Source: `include/scsi/scsi_proto.h`.
const SCSI_TYPE_ROM: &str = "5";

// Major numbers. Source: Documentation/admin-guide/devices.txt.
const FLOPPY_MAJOR: &str = "2";
const MTD_MAJOR: &str = "31";

/// The rules for disks.
pub(super) const RULES: [Rule; 12] = [
    LOCAL,
    NETWORK,
    HIDDEN,
    VIRTUAL,
    OPTICAL,
    FLOPPY,
    RAW_FLASH,
    HARDWARE_PARTITION,
    REMOVABLE,
    EMPTY,
    ANOTHER_PATH,
    UNREADABLE,
];

const LOCAL: Rule = Rule::new("disk", "a disk in or at this machine");
const NETWORK: Rule = Rule::new(
    "network-disk",
    "a disk behind a network, which every machine that sees it would count again",
);
const HIDDEN: Rule =
    Rule::new("hidden-path", "one of several paths to a disk that counts by its head");
const VIRTUAL: Rule = Rule::new(
    "virtual",
    "made of other devices, of a file or of memory (loop, dm, md, zram, nbd, NVMe over loop)",
);
const OPTICAL: Rule = Rule::new("optical", "an optical drive");
const FLOPPY: Rule = Rule::new("floppy", "a floppy drive");
const RAW_FLASH: Rule = Rule::new("raw-flash", "a flash chip's raw memory, as firmware has it");
const HARDWARE_PARTITION: Rule =
    Rule::new("hardware-partition", "a part of another disk, such as an eMMC's boot partition");
const REMOVABLE: Rule = Rule::new("removable", "removable, and not asked for by --count-removable");
const EMPTY: Rule = Rule::new("empty", "has no medium or no capacity");
const ANOTHER_PATH: Rule =
    Rule::new("another-path", "another path to a disk that counts already (same wwid)");
const UNREADABLE: Rule = Rule::new("unreadable", "what it is or holds cannot be read");

/// A rule and what it holds for.
type Exclusion = (Rule, fn(&Candidate<'_>) -> bool);

/// Why a block device is no disk of this machine; the first that holds decides.
const EXCLUSIONS: [Exclusion; 9] = [
    (HIDDEN, |it| it.facts.hidden),
    (VIRTUAL, |it| it.facts.is_virtual() || it.facts.is_own_export()),
    (OPTICAL, |it| it.facts.scsi_type.as_deref() == Some(SCSI_TYPE_ROM)),
    (FLOPPY, |it| it.facts.major() == Some(FLOPPY_MAJOR)),
    (RAW_FLASH, |it| it.facts.major() == Some(MTD_MAJOR)),
    (HARDWARE_PARTITION, |it| it.facts.is_inside_another(it.names)),
    (REMOVABLE, |it| it.facts.removable && !it.count_removable),
    (EMPTY, |it| it.facts.size_bytes == Reading::Known(0)),
    (ANOTHER_PATH, |it| it.is_another_path()),
];

/// Lists the disks of the host. A disk that goes away meanwhile is left out; one that cannot be
/// read is in the list without its size.
pub(super) fn probe(root: &HostRoot, count_removable: bool) -> Probed<Reading<Vec<Disk>>> {
    match collect(root) {
        Ok(devices) => {
            let Probed { reading, findings } = build(devices, count_removable);
            Probed { reading: Reading::Known(reading), findings }
        }
        Err(error) => Probed::failed("disks", UNREADABLE, &error),
    }
}

/// What sysfs says of a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BlockDevice {
    name: String,
    facts: Result<Facts, String>,
}

/// The attributes that decide whether a block device is a disk, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// The device's folder under `/sys/devices`.
    path: PathBuf,
    /// A path to a namespace that another device stands for (native NVMe multipath).
    hidden: bool,
    removable: bool,
    /// `MAJOR:MINOR`.
    number: Option<String>,
    scsi_type: Option<String>,
    /// The name of the disk itself, the same over each path that leads to it, and the attribute
    /// that told it.
    wwid: Option<(String, &'static str)>,
    /// The driver of the SCSI host that the device is behind.
    scsi_host_driver: Option<String>,
    size_bytes: Reading<u64>,
    model: Option<String>,
    rotational: Option<bool>,
    /// How the NVMe controllers of this disk are reached.
    transports: BTreeSet<String>,
}

fn collect(root: &HostRoot) -> Result<Vec<BlockDevice>, ReadError> {
    let mut devices = Vec::new();
    for name in root.list(BLOCK_DEVICES)? {
        let attributes = root.attributes(format!("{BLOCK_DEVICES}/{name}"));
        let facts = match facts(root, &attributes) {
            Ok(Some(facts)) => Ok(facts),
            Ok(None) => continue,
            Err(_) if attributes.vanished() => continue,
            Err(error) => Err(error_chain(&error)),
        };
        devices.push(BlockDevice { name, facts });
    }
    Ok(devices)
}

/// Reads a device's attributes; `None` where it vanished.
fn facts(root: &HostRoot, device: &Attributes<'_>) -> Result<Option<Facts>, ReadError> {
    let Some(path) = device.resolve("")? else { return Ok(None) };
    let facts = Facts {
        transports: transports(root, device)?,
        hidden: device.is_set("hidden")?,
        removable: device.is_set("removable")?,
        number: device.read("dev")?,
        scsi_type: device.read("device/type")?,
        wwid: wwid(device)?,
        scsi_host_driver: match scsi_host(&path) {
            Some(host) => root.attributes(format!("{SCSI_HOSTS}/{host}")).read("proc_name")?,
            None => None,
        },
        size_bytes: Reading::from(device.parse("size", parse_size)),
        model: device.read("device/model")?.as_deref().and_then(known_text),
        rotational: device.read("queue/rotational")?.map(|text| text == "1"),
        path,
    };
    // An attribute that is missing because the device is gone says nothing of the device.
    Ok((!device.vanished()).then_some(facts))
}

/// The disk's own name, and the attribute that tells it: NVMe has it on the namespace, SCSI on the
/// device, which may have none.
fn wwid(device: &Attributes<'_>) -> Result<Option<(String, &'static str)>, ReadError> {
    for attribute in ["wwid", "device/wwid"] {
        let name = device.read_if_told(attribute)?.filter(|name| !name.is_empty());
        if let Some(name) = name {
            return Ok(Some((name, attribute)));
        }
    }
    Ok(None)
}

/// The SCSI host that a device is behind: `host7`.
fn scsi_host(path: &Path) -> Option<&str> {
    path.iter()
        .filter_map(|part| part.to_str())
        .find(|part| part.strip_prefix("host").is_some_and(|number| parse_decimal(number).is_ok()))
}

/// How the controllers of an NVMe disk are reached: `pcie`, `tcp`, `rdma`, `fc`, `loop`. A disk's
/// `device` is its controller, or a subsystem with a link to each controller.
fn transports(root: &HostRoot, device: &Attributes<'_>) -> Result<BTreeSet<String>, ReadError> {
    match device.resolve("device")? {
        Some(subsystem) if subsystem.starts_with(NVME_SUBSYSTEMS) => {
            let mut transports = BTreeSet::new();
            for name in root.list(&subsystem)? {
                transports.extend(root.attributes(subsystem.join(name)).read("transport")?);
            }
            Ok(transports)
        }
        _ => Ok(device.read("device/transport")?.into_iter().collect()),
    }
}

/// A device's `size` in bytes.
fn parse_size(text: &str) -> Result<u64, ParseError> {
    parse_decimal(text)?
        .checked_mul(SECTOR_BYTES)
        .ok_or_else(|| ParseError::new("a number of sectors", text))
}

/// Makes the list of disks from what was collected, in the order of their names.
fn build(devices: Vec<BlockDevice>, count_removable: bool) -> Probed<Vec<Disk>> {
    let names: BTreeSet<String> = devices.iter().map(|device| device.name.clone()).collect();
    let mut counted = Vec::new();
    let mut disks = Vec::new();
    let mut findings = Vec::new();
    for BlockDevice { name, facts } in devices {
        let facts = match facts {
            Ok(facts) => facts,
            // Whether it counts is unknown, so that the sum of all disks is unknown, too.
            Err(reason) => {
                findings.push(
                    Finding::new(Verdict::Failed, UNREADABLE, &name)
                        .value(&reason)
                        .source(format!("{BLOCK_DEVICES}/{name}")),
                );
                disks.push(Disk {
                    name: clean_text(&name),
                    size_bytes: Reading::failed(&reason),
                    attachment: Attachment::Local,
                    model: None,
                    rotational: None,
                });
                continue;
            }
        };
        let candidate =
            Candidate { facts: &facts, names: &names, count_removable, counted: &counted };
        let excluded = EXCLUSIONS.iter().find(|(_, holds)| holds(&candidate));
        findings.push(facts.finding(&name, excluded.map(|(rule, _)| *rule)));
        if excluded.is_some() {
            continue;
        }
        if let Some((wwid, _)) = facts.wwid.clone() {
            counted.push((wwid, facts.size_bytes.clone()));
        }
        disks.push(Disk {
            name: clean_text(&name),
            attachment: facts.attachment(),
            size_bytes: facts.size_bytes,
            model: facts.model,
            rotational: facts.rotational,
        });
    }
    Probed { reading: disks, findings }
}

/// A block device, among the others.
struct Candidate<'a> {
    facts: &'a Facts,
    names: &'a BTreeSet<String>,
    count_removable: bool,
    /// The disks that count already, by their own names.
    counted: &'a [(String, Reading<u64>)],
}

impl Candidate<'_> {
    /// Cheap devices share a made-up name; paths to one disk agree on its size, too.
    fn is_another_path(&self) -> bool {
        self.counted.iter().any(|(wwid, size)| {
            let same_size = match (size, &self.facts.size_bytes) {
                (Reading::Known(one), Reading::Known(other)) => one == other,
                // Nothing speaks against it.
                _ => true,
            };
            same_size && self.facts.wwid.as_ref().is_some_and(|(own, _)| own == wwid)
        })
    }
}

impl Facts {
    fn finding(&self, name: &str, excluded: Option<Rule>) -> Finding {
        let (verdict, rule) = match (excluded, &self.size_bytes, self.attachment()) {
            (Some(rule), ..) => (Verdict::PassedOver, rule),
            (None, Reading::Failed { .. }, _) => (Verdict::Failed, UNREADABLE),
            (None, _, Attachment::Network) => (Verdict::Apart, NETWORK),
            (None, ..) => (Verdict::Counted, LOCAL),
        };
        let value = match &self.size_bytes {
            Reading::Known(bytes) => mib(*bytes),
            Reading::Failed { reason } => reason.clone(),
            Reading::Absent => String::new(),
        };
        let source = match rule {
            HIDDEN => format!("{BLOCK_DEVICES}/{name}/hidden"),
            VIRTUAL | HARDWARE_PARTITION => self.path.display().to_string(),
            OPTICAL => format!("{BLOCK_DEVICES}/{name}/device/type"),
            FLOPPY | RAW_FLASH => format!("{BLOCK_DEVICES}/{name}/dev"),
            REMOVABLE => format!("{BLOCK_DEVICES}/{name}/removable"),
            ANOTHER_PATH => {
                let attribute = self.wwid.as_ref().map_or("wwid", |(_, attribute)| attribute);
                format!("{BLOCK_DEVICES}/{name}/{attribute}")
            }
            _ => format!("{BLOCK_DEVICES}/{name}/size"),
        };
        Finding::new(verdict, rule, name).value(value).source(source)
    }

    fn major(&self) -> Option<&str> {
        self.number.as_deref()?.split(':').next()
    }

    /// Whether the machine exports a disk or file of its own to itself (NVMe over `loop`).
    fn is_own_export(&self) -> bool {
        !self.transports.is_empty() && self.transports.iter().all(|how| how == "loop")
    }

    fn is_virtual(&self) -> bool {
        self.path.starts_with("/sys/devices/virtual")
            && !self.path.starts_with(NVME_SUBSYSTEMS)
            && !self.path.starts_with(NVME_FABRICS)
    }

    /// Whether the device hangs below another disk, as the boot partitions of an eMMC do
    /// (`…/mmcblk0/mmcblk0boot0`: drivers/mmc/core/block.c makes the disk their parent).
    fn is_inside_another(&self, names: &BTreeSet<String>) -> bool {
        let parent = self.path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        parent.is_some_and(|parent| names.contains(parent))
    }

    fn attachment(&self) -> Attachment {
        let below = |start: &str| {
            self.path.components().any(|part| {
                let number = part.as_os_str().to_str().and_then(|name| name.strip_prefix(start));
                number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        let is_remote = self.path.starts_with("/sys/devices/rbd")
            // An iSCSI session; a remote port of Fibre Channel.
            || below("session")
            || below("rport-")
            // SCSI over RDMA.
            || self.scsi_host_driver.as_deref() == Some("ib_srp")
            || self.transports.iter().any(|how| matches!(how.as_str(), "tcp" | "rdma" | "fc"));
        if is_remote { Attachment::Network } else { Attachment::Local }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn device(name: &str, path: &str) -> BlockDevice {
        let facts = Facts {
            path: PathBuf::from(path),
            hidden: false,
            removable: false,
            number: Some("8:0".into()),
            scsi_type: None,
            wwid: None,
            scsi_host_driver: None,
            size_bytes: Reading::Known(4096),
            model: None,
            rotational: None,
            transports: BTreeSet::new(),
        };
        BlockDevice { name: name.into(), facts: Ok(facts) }
    }

    fn with(mut device: BlockDevice, change: impl FnOnce(&mut Facts)) -> BlockDevice {
        change(device.facts.as_mut().expect("facts"));
        device
    }

    fn names(disks: &[Disk]) -> Vec<&str> {
        disks.iter().map(|disk| disk.name.as_str()).collect()
    }

    const SATA: &str =
        "/sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda";

    /// The rule that decided on each device.
    fn rules(probed: &Probed<Vec<Disk>>) -> Vec<(&str, Rule)> {
        let findings = probed.findings.iter();
        findings.map(|finding| (finding.candidate.as_str(), finding.rule)).collect()
    }

    #[test]
    fn what_counts() {
        let disk = || device("sda", SATA);
        for (why, device, rule) in [
            ("a plain disk", disk(), LOCAL),
            ("a hidden path", with(disk(), |facts| facts.hidden = true), HIDDEN),
            ("a USB stick", with(disk(), |facts| facts.removable = true), REMOVABLE),
            ("a DVD drive", with(disk(), |facts| facts.scsi_type = Some("5".into())), OPTICAL),
            ("a floppy drive", with(disk(), |facts| facts.number = Some("2:0".into())), FLOPPY),
            ("a flash chip", with(disk(), |facts| facts.number = Some("31:0".into())), RAW_FLASH),
            (
                "major 253 is no floppy's",
                with(disk(), |facts| facts.number = Some("253:2".into())),
                LOCAL,
            ),
            (
                "an empty card reader",
                with(disk(), |facts| facts.size_bytes = Reading::Known(0)),
                EMPTY,
            ),
            (
                "a size that failed",
                with(disk(), |facts| facts.size_bytes = Reading::failed("EIO")),
                UNREADABLE,
            ),
            ("a loop device", device("loop0", "/sys/devices/virtual/block/loop0"), VIRTUAL),
            (
                "a native-multipath head",
                device("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"),
                LOCAL,
            ),
            (
                "a disk behind a fabric, without native multipath",
                device("nvme1n1", "/sys/devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1"),
                LOCAL,
            ),
            (
                "a disk that the machine exports to itself",
                with(
                    device("nvme2n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys2/nvme2n1"),
                    |facts| facts.transports = ["loop".to_owned()].into(),
                ),
                VIRTUAL,
            ),
            (
                "SCSI over RDMA",
                with(disk(), |facts| facts.scsi_host_driver = Some("ib_srp".into())),
                NETWORK,
            ),
            ("a Ceph image", device("rbd0", "/sys/devices/rbd/0/block/rbd0"), NETWORK),
        ] {
            let probed = build(vec![device], false);
            assert_eq!(rules(&probed)[0].1, rule, "{why}");
            let listed = [LOCAL, NETWORK, UNREADABLE].contains(&rule);
            assert_eq!(probed.reading.len(), usize::from(listed), "{why}");
        }
        let stick = with(disk(), |facts| facts.removable = true);
        let probed = build(vec![stick], true);
        assert_eq!(names(&probed.reading), ["sda"], "removable disks on request");
    }

    #[test]
    fn boot_partitions_of_an_emmc_are_no_disks() {
        const EMMC: &str =
            "/sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0";
        let devices = vec![
            device("mmcblk0", EMMC),
            device("mmcblk0boot0", &format!("{EMMC}/mmcblk0boot0")),
            device("mmcblk0boot1", &format!("{EMMC}/mmcblk0boot1")),
        ];
        let probed = build(devices, false);
        assert_eq!(names(&probed.reading), ["mmcblk0"]);
        assert_eq!(
            rules(&probed)[1..],
            [("mmcblk0boot0", HARDWARE_PARTITION), ("mmcblk0boot1", HARDWARE_PARTITION)]
        );
    }

    #[test]
    fn paths_to_one_disk_count_once() {
        let path = |name: &str, wwid: Option<&str>, size: u64| {
            with(device(name, SATA), |facts| {
                facts.wwid = wwid.map(|wwid| (wwid.to_owned(), "device/wwid"));
                facts.size_bytes = Reading::Known(size);
            })
        };
        let devices = vec![
            path("sda", Some("naa.1"), 10),
            path("sdb", Some("naa.1"), 10),
            path("sdc", Some("naa.2"), 10),
            path("sdd", None, 10),
            path("sde", None, 10),
            path("sdf", Some("naa.1"), 11),
            path("sdg", Some("naa.1"), 10),
            with(path("sdh", Some("naa.2"), 0), |facts| facts.size_bytes = Reading::failed("EIO")),
        ];
        let probed = build(devices, false);
        assert_eq!(names(&probed.reading), ["sda", "sdc", "sdd", "sde", "sdf"]);
        let paths: Vec<&str> = rules(&probed)
            .into_iter()
            .filter_map(|(name, rule)| (rule == ANOTHER_PATH).then_some(name))
            .collect();
        assert_eq!(paths, ["sdb", "sdg", "sdh"]);
    }

    #[test]
    fn attachments() {
        const NVME: &str = "/sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1";
        const FABRIC: &str = "/sys/devices/virtual/nvme-fabrics/ctl/nvme0/nvme0n1";
        const HEAD: &str = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1";
        const ISCSI: &str = "/sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sdb";
        const FIBRE: &str =
            "/sys/devices/pci0000:00/0000:02:00.0/host7/rport-7:0-0/target7:0:0/7:0:0:1/block/sdc";
        for (path, transport, expected) in [
            (SATA, None, Attachment::Local),
            (NVME, Some("pcie"), Attachment::Local),
            (HEAD, Some("pcie"), Attachment::Local),
            (HEAD, Some("tcp"), Attachment::Network),
            (FABRIC, Some("tcp"), Attachment::Network),
            (HEAD, Some("rdma"), Attachment::Network),
            (HEAD, Some("fc"), Attachment::Network),
            (ISCSI, None, Attachment::Network),
            (FIBRE, None, Attachment::Network),
            ("/sys/devices/rbd/0/block/rbd0", None, Attachment::Network),
        ] {
            let device = with(device("disk", path), |facts| {
                facts.transports = transport.map(str::to_owned).into_iter().collect();
            });
            let found = device.facts.map(|facts| facts.attachment());
            assert_eq!(found, Ok(expected), "{path} over {transport:?}");
        }
    }

    #[test]
    fn an_unreadable_disk_is_listed_without_its_size() {
        let broken = BlockDevice { name: "sda".into(), facts: Err("I/O error".into()) };
        let disks = build(vec![broken, device("sdb", SATA)], false).reading;
        assert_eq!(names(&disks), ["sda", "sdb"]);
        assert_eq!(disks[0].size_bytes.failure(), Some("I/O error"));
        assert_eq!(disks[1].size_bytes, Reading::Known(4096));
    }

    #[test]
    fn one_odd_device_spoils_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let block = folder.path().join("sys/block");
        for (name, attribute, text) in [
            ("sda", "size", Some("8\n")),
            ("sdb", "size", Some("eight\n")),
            ("sdc", "removable", Some("0\n")),
            // Reading a folder fails, as reading an attribute of a broken device does.
            ("sdd", "hidden", None),
        ] {
            fs::create_dir_all(block.join(name)).expect("a folder");
            let path = block.join(name).join(attribute);
            match text {
                Some(text) => fs::write(path, text).expect("written"),
                None => fs::create_dir(path).expect("a folder"),
            }
        }
        // Listed, and gone when it is looked at.
        symlink("../devices/gone", block.join("sde")).expect("linked");
        let disks =
            probe(&HostRoot::new(folder.path()), false).reading.known().cloned().expect("a list");
        assert_eq!(names(&disks), ["sda", "sdb", "sdc", "sdd"]);
        assert_eq!(disks[0].size_bytes, Reading::Known(4096));
        for (disk, words) in disks[1..].iter().zip([
            "sdb/size is not understood: expected a decimal number, found \"eight\"",
            "sdc/size does not exist",
            "sdd/hidden cannot be read: Is a directory",
        ]) {
            let reason = disk.size_bytes.failure().unwrap_or_default();
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn scsi_hosts() {
        assert_eq!(scsi_host(Path::new(SATA)), Some("host0"));
        assert_eq!(scsi_host(Path::new("/sys/devices/pci0000:00/nvme/nvme0/nvme0n1")), None);
        assert_eq!(scsi_host(Path::new("/sys/devices/hostile/host/hostx")), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1875385008"), Ok(960_197_124_096));
        for bad in ["", "-1", "1 2", "36028797018963968"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn sizes_are_whole_sectors_or_refused(text in any::<String>(), number in "[0-9]{1,24}") {
            for text in [text, number] {
                if let Ok(bytes) = parse_size(&text) {
                    prop_assert_eq!(text.parse(), Ok(bytes / SECTOR_BYTES));
                }
            }
        }
    }
}
