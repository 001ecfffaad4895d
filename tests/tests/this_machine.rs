//! The machine that the tests run on: virtual devices do not count, a capture of it says what it
//! says, and what comes or goes is reported at once.
//!
//! What cannot be made here (no right, no tool, no such module) is shown as ignored; it has not
//! passed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rollcall_tests::bed::{Aggregator, Bed, run};
use rollcall_tests::process::{Daemon, program};
use serde_json::Value;
use tempfile::TempDir;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They change one machine.
    arguments.test_threads = Some(1);
    let mut trials: Vec<Trial> =
        DEVICES.iter().map(|device| trial(device.name, || virtual_device(device))).collect();
    trials.push(trial("capture_says_what_the_machine_says", capture));
    trials.push(trial("a_uevent_brings_a_report_at_once", uevent));
    trials.push(trial("swap_that_comes_and_goes_is_reported_at_once", swap));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Why something did not pass.
enum Problem {
    /// It cannot be made on this machine.
    NotRunHere(String),
    /// It was made, and does not hold.
    Failed(String),
}

type Outcome = Result<(), Problem>;

fn trial(name: &str, run: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match run() {
        Ok(()) => Ok(Completion::Completed),
        Err(Problem::NotRunHere(why)) => {
            Ok(Completion::ignored_with(format!("not run here: {why}")))
        }
        Err(Problem::Failed(why)) => Err(Failed::from(why)),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands errors over")]
fn failed(what: impl ToString) -> Problem {
    Problem::Failed(what.to_string())
}

/// A device that the kernel makes of others, or of nothing.
struct Device {
    name: &'static str,
    subject: &'static str,
    rule: &'static str,
    /// Makes it with the name, or prints the name that it got.
    make: &'static str,
    remove: &'static str,
}

/// `$D` is the device's name, `$T` a folder for files.
const DEVICES: [Device; 14] = [
    Device {
        name: "loop",
        subject: "disks",
        rule: "virtual",
        make: "truncate -s 16M $T/image && basename $(losetup --find --show $T/image)",
        remove: "losetup --detach /dev/$D",
    },
    Device {
        name: "zram",
        subject: "disks",
        rule: "virtual",
        make: "N=$(cat /sys/class/zram-control/hot_add) && echo 16M > /sys/block/zram$N/disksize && echo zram$N",
        remove: "echo ${D#zram} > /sys/class/zram-control/hot_remove",
    },
    Device {
        name: "device_mapper",
        subject: "disks",
        rule: "virtual",
        make: "dmsetup create rc-zero --table '0 32768 zero' && basename $(readlink -f /dev/mapper/rc-zero)",
        remove: "dmsetup remove rc-zero",
    },
    Device {
        name: "md",
        subject: "disks",
        rule: "virtual",
        make: "truncate -s 16M $T/one && L=$(losetup --find --show $T/one) && mdadm --create /dev/md/rc --run --force --level=1 --raid-devices=1 $L >&2 && basename $(readlink -f /dev/md/rc)",
        remove: "mdadm --stop /dev/$D; losetup --detach-all",
    },
    Device {
        name: "veth",
        subject: "nics",
        rule: "software",
        make: "ip link add rcveth0 type veth peer name rcveth1 && ip link set rcveth0 up && echo rcveth0",
        remove: "ip link del $D",
    },
    Device {
        name: "bridge",
        subject: "nics",
        rule: "software",
        make: "ip link add rcbridge0 type bridge && echo rcbridge0",
        remove: "ip link del $D",
    },
    Device {
        name: "macvlan",
        subject: "nics",
        rule: "software",
        make: "ip link add rcveth0 type veth peer name rcveth1 && ip link add link rcveth0 name rcmacvlan0 type macvlan && echo rcmacvlan0",
        remove: "ip link del rcveth0",
    },
    Device {
        name: "tun",
        subject: "nics",
        rule: "software",
        make: "ip tuntap add dev rctun0 mode tun && echo rctun0",
        remove: "ip tuntap del dev $D mode tun",
    },
    Device {
        name: "tap",
        subject: "nics",
        rule: "software",
        make: "ip tuntap add dev rctap0 mode tap && echo rctap0",
        remove: "ip tuntap del dev $D mode tap",
    },
    Device {
        name: "ifb",
        subject: "nics",
        rule: "software",
        make: "ip link add rcifb0 type ifb && echo rcifb0",
        remove: "ip link del $D",
    },
    Device {
        name: "dummy",
        subject: "nics",
        rule: "software",
        make: "ip link add rcdummy0 type dummy && echo rcdummy0",
        remove: "ip link del $D",
    },
    Device {
        name: "bond",
        subject: "nics",
        rule: "software",
        make: "ip link add rcbond0 type bond && echo rcbond0",
        remove: "ip link del $D",
    },
    Device {
        name: "vlan",
        subject: "nics",
        rule: "software",
        make: "ip link add rcveth0 type veth peer name rcveth1 && ip link add link rcveth0 name rcvlan0 type vlan id 7 && echo rcvlan0",
        remove: "ip link del rcveth0",
    },
    Device {
        name: "vxlan",
        subject: "nics",
        rule: "software",
        make: "ip link add rcvxlan0 type vxlan id 7 dstport 4789 && echo rcvxlan0",
        remove: "ip link del $D",
    },
];

/// A device that is there until this is dropped.
struct Made {
    device: &'static Device,
    name: String,
    folder: TempDir,
}

impl Made {
    fn new(device: &'static Device) -> Result<Self, Problem> {
        let folder = tempfile::tempdir().map_err(failed)?;
        let mut made = Self { device, name: String::new(), folder };
        let output = made.shell(device.make).map_err(failed)?;
        if !output.status.success() {
            // Nothing of it stays.
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Problem::NotRunHere(said));
        }
        String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut made.name);
        Ok(made)
    }

    fn shell(&self, script: &str) -> io::Result<std::process::Output> {
        Command::new("sh")
            .args(["-c", script])
            .env("D", &self.name)
            .env("T", self.folder.path())
            .output()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        drop(self.shell(self.device.remove));
    }
}

/// A device that the kernel makes leaves the document as it was, and `explain` names the rule.
fn virtual_device(device: &'static Device) -> Outcome {
    let before = document(&[])?;
    let made = Made::new(device)?;
    let explanation: Value = agent(&["explain", "--output", "json"])?;
    let findings = explanation
        .pointer(&format!("/subjects/{}", device.subject))
        .and_then(Value::as_array)
        .ok_or_else(|| failed(format!("no {} in {explanation}", device.subject)))?;
    let finding = findings
        .iter()
        .find(|finding| finding["candidate"] == made.name.as_str())
        .ok_or_else(|| failed(format!("{} is not among {findings:?}", made.name)))?;
    if finding["verdict"] != "passedOver" || finding["rule"] != device.rule {
        return Err(failed(format!("{}: {finding}", made.name)));
    }
    let after = document(&[])?;
    if before == after { Ok(()) } else { Err(failed(format!("{before} became {after}"))) }
}

/// Two captures of this machine give its document; none of its names are in them.
fn capture() -> Outcome {
    let folder = tempfile::tempdir().map_err(failed)?;
    let plain = folder.path().join("plain");
    let archive = folder.path().join("machine.tar.gz");
    // The second is a capture of the first: the machine goes on meanwhile.
    for (path, root) in [(&plain, Path::new("/")), (&archive, &plain)] {
        let mut command = Command::new(program("rollcall-agent"));
        command.arg("capture").arg(path).arg("--host-root").arg(root);
        let said = finish(&mut command)?;
        let files = said.split(' ').next().and_then(|count| count.parse::<u32>().ok());
        if files.is_none_or(|files| files == 0) {
            return Err(failed(format!("capture said: {said}")));
        }
    }
    finish(Command::new("tar").arg("-C").arg(folder.path()).arg("-xzf").arg(&archive))?;
    let unpacked = folder.path().join("capture");
    finish(Command::new("diff").args(["-r", "--no-dereference"]).args([&plain, &unpacked]))?;

    let of_machine = document(&[])?;
    let of_capture = document(&["--host-root", &plain.to_string_lossy()])?;
    if of_machine != of_capture {
        return Err(failed(format!("{of_machine} became {of_capture}")));
    }
    let names = names_of_this_machine();
    let mut saved = String::new();
    read_all(&plain, &mut saved).map_err(failed)?;
    let saved = saved.to_lowercase();
    match names.iter().find(|name| saved.contains(name.as_str())) {
        Some(name) => Err(failed(format!("the capture holds {name}"))),
        None if names.len() < 3 => Err(failed(format!("too little to look for: {names:?}"))),
        None => Ok(()),
    }
}

/// MAC addresses, serial numbers, UUIDs and the machine id, as the kernel and firmware tell them.
fn names_of_this_machine() -> BTreeSet<String> {
    let mut files = vec![
        PathBuf::from("/etc/machine-id"),
        PathBuf::from("/proc/sys/kernel/random/boot_id"),
        PathBuf::from("/sys/class/dmi/id/product_uuid"),
        PathBuf::from("/sys/class/dmi/id/product_serial"),
        PathBuf::from("/sys/class/dmi/id/board_serial"),
        PathBuf::from("/sys/class/dmi/id/chassis_serial"),
    ];
    for (folder, attributes) in [
        ("/sys/class/net", &["address", "device/serial"][..]),
        ("/sys/block", &["serial", "wwid", "uuid", "device/serial", "device/wwid"][..]),
    ] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        files.extend(entries.flat_map(|entry| attributes.map_paths(&entry.path())));
    }
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let mut names: BTreeSet<String> = texts
        .map(|text| text.trim().to_lowercase())
        // What is so short, or all zeros, is nobody's name.
        .filter(|name| name.len() >= 6 && name.bytes().any(|byte| !b"0:-".contains(&byte)))
        .collect();
    let macs: Vec<String> =
        names.iter().filter(|name| name.len() == 17).map(|mac| mac.replace(':', "")).collect();
    names.extend(macs);
    names
}

/// Paths below a folder.
trait MapPaths {
    fn map_paths(&self, folder: &Path) -> Vec<PathBuf>;
}

impl MapPaths for &[&str] {
    fn map_paths(&self, folder: &Path) -> Vec<PathBuf> {
        self.iter().map(|name| folder.join(name)).collect()
    }
}

/// Every name, link target and text below a folder.
fn read_all(folder: &Path, text: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        text.push_str(&path.file_name().unwrap_or_default().to_string_lossy());
        text.push('\n');
        let kind = fs::symlink_metadata(&path)?;
        if kind.is_symlink() {
            text.push_str(&fs::read_link(&path)?.to_string_lossy());
        } else if kind.is_dir() {
            read_all(&path, text)?;
        } else {
            text.push_str(&fs::read_to_string(&path)?);
        }
        text.push('\n');
    }
    Ok(())
}

/// A disk that comes is reported at the kernel's first word, long before the interval is over, and
/// the cluster's total follows.
fn uevent() -> Outcome {
    let doorbell = fs::read_dir("/sys/bus/pci/devices")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("uevent"))
        .find(|path| fs::write(path, "add").is_ok())
        .ok_or_else(|| Problem::NotRunHere("no uevent can be asked for".to_owned()))?;
    let bed = Bed::new("");
    let tree =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/tests/hosts/firecracker-vm/root");
    let root = bed.path("root");
    finish(Command::new("cp").arg("-a").arg(tree).arg(&root))?;
    // A saved machine does not change; this one is to seem to run.
    fs::remove_file(root.join("rollcall-capture.json")).map_err(failed)?;
    let aggregator = bed.aggregator(&[]);
    let agent = slow_agent(&bed, &aggregator, &root);
    wait_for(&aggregator, &agent, "/storage/disks", 1)?;

    let disk = root.join("sys/devices/pci0000:00/0000:00:1e.0/virtio9/block/vdz");
    fs::create_dir_all(disk.parent().unwrap_or(&disk)).map_err(failed)?;
    fs::create_dir_all(&disk).map_err(failed)?;
    fs::write(disk.join("size"), "2048\n").map_err(failed)?;
    std::os::unix::fs::symlink(
        "../devices/pci0000:00/0000:00:1e.0/virtio9/block/vdz",
        root.join("sys/block/vdz"),
    )
    .map_err(failed)?;
    fs::write(&doorbell, "add").map_err(failed)?;
    wait_for(&aggregator, &agent, "/storage/disks", 2)?;

    fs::remove_file(root.join("sys/block/vdz")).map_err(failed)?;
    fs::write(&doorbell, "add").map_err(failed)?;
    wait_for(&aggregator, &agent, "/storage/disks", 1)
}

/// Swap space is no device: the kernel tells of it in another way.
fn swap() -> Outcome {
    let bed = Bed::new("");
    let area = bed.path("swap-area");
    let file = area.to_string_lossy();
    let made =
        format!("dd if=/dev/zero of={file} bs=1M count=8 && chmod 600 {file} && mkswap {file}");
    finish(Command::new("sh").args(["-c", &made]))
        .map_err(|_failed| Problem::NotRunHere("no swap file can be made".to_owned()))?;
    let before = document(&[])?.pointer("/swap").and_then(Value::as_u64).unwrap_or_default();
    let aggregator = bed.aggregator(&[]);
    let agent = slow_agent(&bed, &aggregator, Path::new("/"));
    wait_for(&aggregator, &agent, "/swap", before)?;
    let on = Command::new("swapon").arg(&area).output().map_err(failed)?;
    if !on.status.success() {
        let said = String::from_utf8_lossy(&on.stderr).trim().to_owned();
        return Err(Problem::NotRunHere(said));
    }
    let during = document(&[])?.pointer("/swap").and_then(Value::as_u64).unwrap_or_default();
    let came = wait_for(&aggregator, &agent, "/swap", during);
    finish(Command::new("swapoff").arg(&area))?;
    came?;
    if during <= before {
        return Err(failed(format!("swap went from {before} to {during} MiB")));
    }
    wait_for(&aggregator, &agent, "/swap", before)
}

/// An agent whose interval is longer than any test.
fn slow_agent(bed: &Bed, aggregator: &Aggregator, root: &Path) -> Daemon {
    let root = root.to_string_lossy();
    let arguments = ["--interval", "1h", "--node-name", NODE, "--host-root", &root];
    bed.agent(&aggregator.intake_url(), &arguments)
}

/// Waits until the cluster's document says a number.
fn wait_for(aggregator: &Aggregator, agent: &Daemon, pointer: &str, expected: u64) -> Outcome {
    let start = Instant::now();
    loop {
        let document = aggregator.operate(&["document"]).stdout;
        let document: Value = serde_json::from_slice(&document).unwrap_or_default();
        let found = document.pointer(pointer).and_then(Value::as_u64);
        if found == Some(expected) && document.pointer("/nodes/count") == Some(&1.into()) {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(30) {
            let tail = agent.tail();
            return Err(failed(format!("{pointer} is {found:?}, not {expected}\n{tail}")));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

const NODE: &str = "this-machine";

/// What the agent prints as JSON.
fn agent(arguments: &[&str]) -> Result<Value, Problem> {
    let text = finish(
        Command::new(program("rollcall-agent")).args(arguments).args(["--node-name", NODE]),
    )?;
    serde_json::from_str(&text).map_err(failed)
}

/// The document of this machine alone.
fn document(arguments: &[&str]) -> Result<Value, Problem> {
    let report = agent(&[&["probe"], arguments].concat())?.to_string();
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples/cluster.yaml");
    let cluster = cluster.to_string_lossy();
    let output =
        run("rollcall-aggregator", &["assemble", "--cluster", &cluster, "-"], report.as_bytes());
    serde_json::from_slice(&output.stdout)
        .map_err(|_no_json| failed(String::from_utf8_lossy(&output.stderr)))
}

/// What a command that must succeed prints.
fn finish(command: &mut Command) -> Result<String, Problem> {
    let output = command.output().map_err(|error| failed(format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(failed(format!("{command:?}: {}", String::from_utf8_lossy(&said))))
}
