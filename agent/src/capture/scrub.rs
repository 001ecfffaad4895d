//! Takes out what names a machine: MAC addresses, UUIDs, serial numbers, the machine id. The same
//! name gets the same stand-in everywhere, so that paths to one disk still lead to one disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex_lite::{Captures, Regex};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::HostRoot;

/// Files whose whole text is a name, by their last part. A prefix up to the first dot says of what
/// kind it is (`naa.`, `eui.`, `t10.`).
const NAMES: [&str; 4] = ["wwid", "machine-id", "serial", "phys_port_id"];

const SWAPS: &str = "/proc/swaps";

/// What a stand-in stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Mac,
    Uuid,
    Name,
}

/// Replaces names, and remembers by what.
#[derive(Debug)]
pub struct Scrubber {
    stand_ins: BTreeMap<(Kind, String), String>,
    /// Twelve digits that are a MAC address of this machine, without its colons.
    macs: Vec<String>,
    mac: Option<Regex>,
    uuid: Option<Regex>,
    long_hexadecimal: Option<Regex>,
    mac_in_name: Option<Regex>,
    serial: Option<Regex>,
}

impl Scrubber {
    /// Looks up the MAC addresses of the machine, so that they are found in other forms, too: an
    /// interface may be called `enx525400123456`.
    pub fn new(root: &HostRoot) -> Self {
        const INTERFACES: &str = "/sys/class/net";
        let names = root.list(INTERFACES).unwrap_or_default();
        let files = names.iter().flat_map(|name| {
            // A bond gives its members its own address.
            ["address", "bonding_slave/perm_hwaddr"]
                .map(|file| format!("{INTERFACES}/{name}/{file}"))
        });
        let macs = files
            .filter_map(|file| root.read(file).ok())
            .map(|address| address.trim().to_ascii_lowercase().replace(':', ""))
            .filter(|digits| digits.len() == 12 && digits.bytes().any(|byte| byte != b'0'))
            .collect();
        // These patterns are constants, which a test compiles.
        let pattern = |text: &str| Regex::new(text).ok();
        Self {
            stand_ins: BTreeMap::new(),
            macs,
            mac: pattern(MAC),
            uuid: pattern(UUID),
            long_hexadecimal: pattern(LONG_HEXADECIMAL),
            mac_in_name: pattern(MAC_IN_NAME),
            serial: pattern(SERIAL),
        }
    }

    /// The text of a file without names.
    pub fn file(&mut self, path: &Path, text: &str) -> String {
        let is_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| NAMES.contains(&name));
        if path == Path::new(SWAPS) {
            return self.swaps(text);
        }
        if is_name && !text.trim().is_empty() {
            self.whole(text.trim()) + "\n"
        } else {
            self.text(text)
        }
    }

    /// `/proc/swaps` without the paths of files, which may hold any name.
    fn swaps(&mut self, text: &str) -> String {
        let lines = text.lines().enumerate().map(|(number, line)| {
            let name = line.split_ascii_whitespace().next().unwrap_or_default();
            let is_file = name.starts_with('/') && !name.starts_with("/dev/");
            if is_file {
                line.replacen(name, &format!("/swap-file-{number}"), 1)
            } else {
                line.to_owned()
            }
        });
        let lines: Vec<String> = lines.collect();
        self.text(&(lines.join("\n") + "\n"))
    }

    /// A value without names.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON and read again.
    pub fn json<T: Serialize + DeserializeOwned>(
        &mut self,
        value: &T,
    ) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text(&serde_json::to_string(value)?))
    }

    /// A path or a link's target without names.
    pub fn path(&mut self, path: &Path) -> PathBuf {
        PathBuf::from(self.text(&path.to_string_lossy()))
    }

    /// A text without names.
    pub fn text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        for (kind, pattern) in [
            (Kind::Uuid, self.uuid.clone()),
            (Kind::Mac, self.mac.clone()),
            (Kind::Name, self.serial.clone()),
        ] {
            text = self.replace(&text, pattern, |scrubber, name| scrubber.stand_in(kind, name));
        }
        let pattern = self.long_hexadecimal.clone();
        text = self.replace(&text, pattern, |scrubber, name| {
            // A long number is none of a device's names outside the files that hold one.
            let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { name.to_owned() } else { scrubber.stand_in(Kind::Name, name) }
        });
        let pattern = self.mac_in_name.clone();
        text = self.replace(&text, pattern, |scrubber, name| {
            scrubber.stand_in(Kind::Mac, name).replace(':', "")
        });
        for digits in self.macs.clone() {
            if let Some(stand_in) = text
                .to_ascii_lowercase()
                .contains(&digits)
                .then(|| self.stand_in(Kind::Mac, &digits).replace(':', ""))
            {
                text = replace_ignoring_case(&text, &digits, &stand_in);
            }
        }
        text
    }

    /// Replaces what a pattern calls `name`, and leaves what it calls `before`.
    fn replace(
        &mut self,
        text: &str,
        pattern: Option<Regex>,
        by: impl Fn(&mut Self, &str) -> String,
    ) -> String {
        let Some(pattern) = pattern else { return text.to_owned() };
        let replaced = pattern.replace_all(text, |found: &Captures<'_>| {
            let before = found.name("before").map_or("", |part| part.as_str());
            let name = found.name("name").map_or("", |part| part.as_str());
            format!("{before}{}", by(self, name))
        });
        replaced.into_owned()
    }

    /// The stand-in for a text that is a name as a whole.
    fn whole(&mut self, text: &str) -> String {
        match text.split_once('.') {
            Some((kind, name)) if kind.len() <= 5 => {
                format!("{kind}.{}", self.stand_in(Kind::Name, name))
            }
            _ => self.stand_in(Kind::Name, text),
        }
    }

    /// Names are numbered in the order in which they are met: a stand-in tells nothing, not even to
    /// who tries all names. What is a stand-in already stays, so that a capture of a capture is as
    /// the first one.
    fn stand_in(&mut self, kind: Kind, name: &str) -> String {
        let name = name.to_ascii_lowercase().replace([':', '-'], "");
        if is_stand_in(kind, &name) {
            return kind.written(&name);
        }
        let number = self.stand_ins.keys().filter(|(known, _)| *known == kind).count() + 1;
        let length = name.chars().count();
        self.stand_ins
            .entry((kind, name))
            .or_insert_with(|| {
                let digits = match kind {
                    // Locally administered.
                    Kind::Mac => format!("02c0ffee{number:04x}"),
                    Kind::Uuid => format!("0000000000004000800c0ffee{number:07x}"),
                    Kind::Name => format!("{:0>length$}", format!("c0ffee{number:06x}")),
                };
                kind.written(&digits)
            })
            .clone()
    }
}

impl Kind {
    /// Digits as a name of this kind has them.
    fn written(self, digits: &str) -> String {
        let groups = |lengths: &[usize], separator: &str| {
            let mut rest = digits;
            let parts: Vec<&str> = lengths
                .iter()
                .map_while(|length| {
                    let (part, others) = rest.split_at_checked(*length)?;
                    rest = others;
                    Some(part)
                })
                .collect();
            parts.join(separator)
        };
        match self {
            Self::Mac => groups(&[2; 6], ":"),
            Self::Uuid => groups(&[8, 4, 4, 4, 12], "-"),
            Self::Name => digits.to_owned(),
        }
    }
}

/// Whether digits are of the form that stand-ins have, and no device's name.
fn is_stand_in(kind: Kind, digits: &str) -> bool {
    let is_number = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        Kind::Mac => digits.strip_prefix("02c0ffee").is_some_and(is_number),
        Kind::Uuid => digits.strip_prefix("0000000000004000800c0ffee").is_some_and(is_number),
        Kind::Name => digits
            .trim_start_matches('0')
            .strip_prefix("c0ffee")
            .is_some_and(|rest| rest.len() == 6 && is_number(rest)),
    }
}

/// Six pairs of digits that are not the end of something longer.
const MAC: &str = r"(?i)(?P<before>^|[^0-9a-f:])(?P<name>(?:[0-9a-f]{2}:){5}[0-9a-f]{2})";

const UUID: &str = r"(?i)(?P<name>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})";

/// Sixteen digits or more, as WWNs and machine ids have them.
/// Before them may be an `x`, as in `0x…` and `ibx…`.
const LONG_HEXADECIMAL: &str = r"(?i)(?P<before>^|[^0-9a-z]|x)(?P<name>[0-9a-f]{16,})";

/// A MAC address as an interface's name has it.
const MAC_IN_NAME: &str = r"(?i)(?P<before>(?:en|wl|ww)x)(?P<name>[0-9a-f]{12})";

/// A line of `/proc/cpuinfo` on boards that tell their serial number.
const SERIAL: &str = r"(?m)(?P<before>^Serial\s*:\s*)(?P<name>\S+)";

fn replace_ignoring_case(text: &str, from: &str, to: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut replaced = String::with_capacity(text.len());
    let mut rest = 0;
    for (start, _) in lower.match_indices(from) {
        replaced.push_str(text.get(rest..start).unwrap_or_default());
        replaced.push_str(to);
        rest = start + from.len();
    }
    replaced.push_str(text.get(rest..).unwrap_or_default());
    replaced
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn scrubber() -> Scrubber {
        let folder = tempfile::tempdir().expect("a folder");
        let interface = folder.path().join("sys/class/net/eth0");
        fs::create_dir_all(&interface).expect("a folder");
        fs::write(interface.join("address"), "52:54:00:AB:CD:EF\n").expect("written");
        Scrubber::new(&HostRoot::new(folder.path()))
    }

    #[test]
    fn every_pattern_is_one() {
        for pattern in [MAC, UUID, LONG_HEXADECIMAL, MAC_IN_NAME, SERIAL] {
            assert!(Regex::new(pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn names_are_replaced_and_nothing_else() {
        for (text, expected) in [
            ("52:54:00:ab:cd:ef", "02:c0:ff:ee:00:01"),
            ("x 52:54:00:AB:CD:EF y", "x 02:c0:ff:ee:00:01 y"),
            ("enx525400abcdef", "enx02c0ffee0001"),
            ("0000:17:00.0", "0000:17:00.0"),
            ("pci0000:00/0000:00:01.0/0000:01:00.0", "pci0000:00/0000:00:01.0/0000:01:00.0"),
            (
                "GPU-5a0b1c2d-1111-2222-3333-444455556666",
                "GPU-00000000-0000-4000-800c-0ffee0000001",
            ),
            (
                "VMBUS:01/000d3a5e-96f2-000d-3a5e-96f2000d3a5e",
                "VMBUS:01/00000000-0000-4000-800c-0ffee0000001",
            ),
            ("MemTotal:       24684320 kB", "MemTotal:       24684320 kB"),
            ("cpu  1234567890123456789 0 0", "cpu  1234567890123456789 0 0"),
            ("/dev/mapper/3600a098000deadbeef00", "/dev/mapper/000000000c0ffee000001"),
            ("Serial\t\t: 100000003d1d1c36\n", "Serial\t\t: 0000c0ffee000001\n"),
            ("Serial\t\t: 1000000030101036\n", "Serial\t\t: 0000c0ffee000001\n"),
            ("enx0c42a1aaaaa2", "enx02c0ffee0001"),
            ("ibx0c42a10300cd8e60", "ibx0000c0ffee000001"),
            ("wwn-0x5000c500deadbeef", "wwn-0x0000c0ffee000001"),
            ("deadbeef", "deadbeef"),
        ] {
            assert_eq!(scrubber().text(text), expected, "{text}");
        }
    }

    #[test]
    fn files_that_hold_a_name() {
        let mut scrubber = scrubber();
        let mut file = |path: &str, text: &str| scrubber.file(Path::new(path), text);
        let wwid = "/sys/devices/pci0/host0/target0:0:0/0:0:0:0/wwid";
        assert_eq!(file(wwid, "naa.5000c500a1b2c3d4\n"), "naa.0000c0ffee000001\n");
        assert_eq!(file("/sys/x/wwid", "naa.5000c500a1b2c3d5\n"), "naa.0000c0ffee000002\n");
        assert_eq!(file("/sys/y/wwid", "naa.5000c500a1b2c3d4\n"), "naa.0000c0ffee000001\n");
        let t10 = file(wwid, "t10.ATA     Samsung SSD 860  S3Z2NB0K123456\n");
        assert!(t10.starts_with("t10.0") && !t10.contains("S3Z2"), "{t10}");
        let id = file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        assert_eq!(id, "00000000000000000000c0ffee000004\n");
        assert_eq!(file("/sys/x/wwid", "\n"), "\n");
        // What looks like nobody's name is somebody's.
        let cheap = file("/sys/x/wwid", "eui.0000000000000001\n");
        assert_eq!(cheap, "eui.0000c0ffee000005\n");
        assert_eq!(
            file(
                "/proc/swaps",
                "Filename Type\n/dev/sda2 partition 1 0 -2\n/mnt/acme/swap file 2 0 -3\n"
            ),
            "Filename Type\n/dev/sda2 partition 1 0 -2\n/swap-file-2 file 2 0 -3\n"
        );
    }

    proptest! {
        #[test]
        fn any_text_can_be_scrubbed(text in any::<String>()) {
            let mut scrubber = scrubber();
            let once = scrubber.text(&text);
            prop_assert_eq!(scrubber.text(&once), once);
        }

        #[test]
        fn no_mac_and_no_uuid_stays(
            mac in "[13-9a-f][0-9a-f](:[0-9a-f]{2}){5}",
            uuid in "[1-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            around in "[ /_\n]",
        ) {
            let scrubbed = scrubber().text(&format!("a{around}{mac}{around}b{around}{uuid}{around}"));
            prop_assert!(!scrubbed.contains(&mac), "{}", scrubbed);
            prop_assert!(!scrubbed.contains(&uuid), "{}", scrubbed);
        }
    }
}
