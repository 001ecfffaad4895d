//! Physical disks, counted by what sysfs says of them and not by their names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rollcall_report::{Attachment, Disk, Reading, clean_text, error_chain};

use super::{known_text, parse_decimal};
use crate::finding::Probed;
use crate::host::{Attributes, HostRoot, ParseError, ReadError};

const BLOCK_DEVICES: &str = "/sys/block";

/// Where the disks are that several NVMe controllers lead to (native multipath).
const NVME_SUBSYSTEMS: &str = "/sys/devices/virtual/nvme-subsystem";

/// Where the controllers behind a network are, and their disks on a kernel without native multipath.
const NVME_FABRICS: &str = "/sys/devices/virtual/nvme-fabrics";

/// The unit of `size`, whatever the disk's own blocks are.
/// Source: Documentation/ABI/stable/sysfs-block, "size".
const SECTOR_BYTES: u64 = 512;

/// SCSI's `TYPE_ROM`: CD and DVD drives. Source: `include/scsi/scsi_proto.h`.
const SCSI_TYPE_ROM: &str = "5";

/// The major number of floppy drives. Source: Documentation/admin-guide/devices.txt.
const FLOPPY_MAJOR: &str = "2";

/// Lists the disks of the host. A disk that goes away meanwhile is left out; one that cannot be
/// read is in the list without its size.
pub(super) fn probe(root: &HostRoot, count_removable: bool) -> Probed<Reading<Vec<Disk>>> {
    let reading = Reading::from(collect(root).map(|devices| build(devices, count_removable)));
    Probed { reading, findings: Vec::new() }
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
    /// The name of the disk itself, the same over each path that leads to it.
    wwid: Option<String>,
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
        path,
        hidden: device.is_set("hidden")?,
        removable: device.is_set("removable")?,
        number: device.read("dev")?,
        scsi_type: device.read("device/type")?,
        // NVMe has it on the namespace, SCSI on the device.
        wwid: match device.read("wwid")? {
            Some(wwid) => Some(wwid),
            // The kernel says ENXIO or EINVAL for a SCSI device that has no such name.
            None => device.read("device/wwid").ok().flatten(),
        }
        .filter(|wwid| !wwid.is_empty()),
        size_bytes: Reading::from(device.parse("size", parse_size)),
        model: device.read("device/model")?.as_deref().and_then(known_text),
        rotational: device.read("queue/rotational")?.map(|text| text == "1"),
    };
    // An attribute that is missing because the device is gone says nothing of the device.
    Ok((!device.vanished()).then_some(facts))
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
fn build(devices: Vec<BlockDevice>, count_removable: bool) -> Vec<Disk> {
    let names: BTreeSet<String> = devices.iter().map(|device| device.name.clone()).collect();
    let mut counted_wwids = BTreeSet::new();
    let mut disks = Vec::new();
    for BlockDevice { name, facts } in devices {
        let facts = match facts {
            Ok(facts) => facts,
            // Whether it counts is unknown, so that the sum of all disks is unknown, too.
            Err(reason) => {
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
        if let Some(reason) = facts.passed_over(&names, count_removable) {
            log::debug!(disk = name.as_str(), reason = reason; "passed over");
            continue;
        }
        // Cheap devices share a made-up name; paths to one disk agree on its size, too.
        let identity = facts.wwid.clone().map(|wwid| (wwid, facts.size_bytes.known().copied()));
        if identity.is_some_and(|identity| !counted_wwids.insert(identity)) {
            log::debug!(disk = name.as_str(), reason = "another path to a disk"; "passed over");
            continue;
        }
        disks.push(Disk {
            name: clean_text(&name),
            attachment: facts.attachment(),
            size_bytes: facts.size_bytes,
            model: facts.model,
            rotational: facts.rotational,
        });
    }
    disks
}

impl Facts {
    /// Why the device is no disk of this machine, if it is none.
    fn passed_over(&self, names: &BTreeSet<String>, count_removable: bool) -> Option<&'static str> {
        let major = self.number.as_deref().and_then(|number| number.split(':').next());
        if self.hidden {
            Some("a hidden path to a disk")
        } else if self.path.starts_with("/sys/devices/virtual")
            && !self.path.starts_with(NVME_SUBSYSTEMS)
            && !self.path.starts_with(NVME_FABRICS)
        {
            Some("made of other devices or of memory")
        } else if self.scsi_type.as_deref() == Some(SCSI_TYPE_ROM) {
            Some("an optical drive")
        } else if major == Some(FLOPPY_MAJOR) {
            Some("a floppy drive")
        } else if self.is_inside_another(names) {
            Some("a hardware partition of another disk")
        } else if self.removable && !count_removable {
            Some("removable")
        } else if self.size_bytes == Reading::Known(0) {
            Some("no medium or no capacity")
        } else {
            None
        }
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

    #[test]
    fn what_counts() {
        let disk = || device("sda", SATA);
        for (why, device, counts) in [
            ("a plain disk", disk(), vec!["sda"]),
            ("a hidden path", with(disk(), |facts| facts.hidden = true), vec![]),
            ("a USB stick", with(disk(), |facts| facts.removable = true), vec![]),
            ("a DVD drive", with(disk(), |facts| facts.scsi_type = Some("5".into())), vec![]),
            ("a floppy drive", with(disk(), |facts| facts.number = Some("2:0".into())), vec![]),
            (
                "major 253 is no floppy's",
                with(disk(), |facts| facts.number = Some("253:2".into())),
                vec!["sda"],
            ),
            (
                "an empty card reader",
                with(disk(), |facts| facts.size_bytes = Reading::Known(0)),
                vec![],
            ),
            (
                "a size that failed",
                with(disk(), |facts| facts.size_bytes = Reading::failed("EIO")),
                vec!["sda"],
            ),
            ("a loop device", device("loop0", "/sys/devices/virtual/block/loop0"), vec![]),
            (
                "a native-multipath head",
                device("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"),
                vec!["nvme0n1"],
            ),
            (
                "a disk behind a fabric, without native multipath",
                device("nvme1n1", "/sys/devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1"),
                vec!["nvme1n1"],
            ),
        ] {
            assert_eq!(names(&build(vec![device], false)), counts, "{why}");
        }
        let stick = with(disk(), |facts| facts.removable = true);
        assert_eq!(names(&build(vec![stick], true)), ["sda"], "removable disks on request");
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
        assert_eq!(names(&build(devices, false)), ["mmcblk0"]);
    }

    #[test]
    fn paths_to_one_disk_count_once() {
        let path = |name: &str, wwid: Option<&str>, size: u64| {
            with(device(name, SATA), |facts| {
                facts.wwid = wwid.map(str::to_owned);
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
        ];
        assert_eq!(names(&build(devices, false)), ["sda", "sdc", "sdd", "sde", "sdf"]);
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
            (FABRIC, Some("loop"), Attachment::Local),
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
        let disks = build(vec![broken, device("sdb", SATA)], false);
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
