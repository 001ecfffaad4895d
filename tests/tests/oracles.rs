//! `rollcall-agent probe` says of this machine what the distribution's own tools say of it.
//!
//! A comparison whose tool is missing is shown as ignored, with the tool's name; it has not passed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rollcall_report::{Inventory, Link, NodeReport, Reading};
use rollcall_tests::process::program;
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let report = match probe() {
        Ok(report) => Arc::new(report),
        Err(problem) => {
            let trial = Trial::test("probe", move || Err(problem.into()));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
    };
    let comparisons: [(&str, Comparison); 9] = [
        ("architecture_and_kernel_as_uname", architecture_and_kernel),
        ("online_cpus_as_lscpu", online_cpus),
        ("memory_as_proc_meminfo", memory),
        ("installed_memory_as_lsmem", installed_memory),
        ("swap_as_swapon", swap),
        ("disks_as_lsblk", disks),
        ("nics_as_ip", nics),
        ("speeds_as_ethtool", speeds),
        ("gpus_as_nvidia_smi", gpus),
    ];
    let trials = comparisons.into_iter().map(|(name, compare)| {
        let report = Arc::clone(&report);
        Trial::ignorable_test(name, move || match compare(&report.inventory) {
            Ok(()) => Ok(Completion::Completed),
            Err(Problem::NotRunHere(why)) => {
                Ok(Completion::ignored_with(format!("not run here: {why}")))
            }
            Err(Problem::Failed(why)) => Err(Failed::from(why)),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

type Comparison = fn(&Inventory) -> Result<(), Problem>;

/// Why a comparison did not pass.
enum Problem {
    /// It cannot be made on this machine.
    NotRunHere(String),
    /// It was made, and does not hold.
    Failed(String),
}

impl From<String> for Problem {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

fn probe() -> Result<NodeReport, String> {
    let output = Command::new(program("rollcall-agent"))
        .args(["probe", "--node-name", "oracles"])
        .output()
        .map_err(|error| format!("rollcall-agent cannot be run: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("rollcall-agent probe ended with {}: {said}", output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("rollcall-agent probe printed no report: {error}"))
}

fn architecture_and_kernel(inventory: &Inventory) -> Result<(), Problem> {
    let machine = known("machine", &inventory.machine)?;
    equal("architecture", &machine.architecture.as_str(), &tool("uname", &["-m"])?.trim())?;
    let release = tool("uname", &["-r"])?.trim().to_owned();
    equal("kernel release", &machine.kernel_release.as_deref(), &Some(release.as_str()))
}

fn online_cpus(inventory: &Inventory) -> Result<(), Problem> {
    let cpu = known("cpu", &inventory.cpu)?;
    // One line an online CPU; cores are numbered through all sockets.
    let table = tool("lscpu", &["--parse=CPU,CORE,SOCKET"])?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').collect())
        .collect();
    let distinct = |column: usize| {
        let values: BTreeSet<_> = rows.iter().filter_map(|row| row.get(column)).collect();
        u32::try_from(values.len()).map_err(|error| error.to_string())
    };
    equal("online CPUs", &cpu.online, &distinct(0)?)?;
    if Path::new("/sys/devices/system/cpu/cpu0/topology").exists() {
        equal("cores", &cpu.cores, &Some(distinct(1)?))?;
        equal("sockets", &cpu.sockets, &Some(distinct(2)?))?;
    }
    Ok(())
}

fn memory(inventory: &Inventory) -> Result<(), Problem> {
    let meminfo = fs::read_to_string("/proc/meminfo")
        .map_err(|error| format!("/proc/meminfo cannot be read: {error}"))?;
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB")?.trim().parse().ok());
    let kib: u64 = kib.ok_or_else(|| "/proc/meminfo has no MemTotal".to_owned())?;
    equal("MemTotal", &known("memory", &inventory.memory)?.total_bytes, &(kib * 1024))
}

fn installed_memory(inventory: &Inventory) -> Result<(), Problem> {
    let blocks = json_tool("lsmem", &["--json", "--bytes"])?;
    let online = rows(&blocks, "memory")?.iter().filter(|row| text(row, "state") == "online");
    let bytes: u64 = online.filter_map(|row| row.get("size")?.as_u64()).sum();
    let memory = known("memory", &inventory.memory)?;
    equal("installed memory", &memory.installed_bytes, &Reading::Known(bytes))
}

fn swap(inventory: &Inventory) -> Result<(), Problem> {
    let table = tool("swapon", &["--show=NAME,SIZE", "--bytes", "--raw", "--noheadings"])?;
    let (mut total_bytes, mut zram_bytes) = (0, 0);
    for line in table.lines() {
        let (name, size) = line.rsplit_once(' ').ok_or_else(|| format!("swapon wrote {line:?}"))?;
        let size: u64 = size.parse().map_err(|error| format!("swapon wrote {line:?}: {error}"))?;
        if name.starts_with("/dev/zram") {
            zram_bytes += size;
        } else {
            total_bytes += size;
        }
    }
    let swap = known("swap", &inventory.swap)?;
    equal("swap", &swap.total_bytes, &total_bytes)?;
    equal("zram", &swap.zram_bytes, &zram_bytes)
}

fn disks(inventory: &Inventory) -> Result<(), Problem> {
    let table = json_tool("lsblk", &["--json", "--bytes", "--nodeps", "-o", "NAME,TYPE,SIZE,RM"])?;
    let mut expected = BTreeMap::new();
    let mut removable = BTreeSet::new();
    for row in rows(&table, "blockdevices")? {
        let name = text(row, "name");
        let size = row.get("size").and_then(Value::as_u64).unwrap_or(0);
        // lsblk calls these disks, too.
        let virtual_or_boot = ["zram", "nbd", "ram"].iter().any(|prefix| name.starts_with(prefix))
            || name.contains("boot");
        if row.get("rm") == Some(&Value::Bool(true)) {
            removable.insert(name);
        } else if text(row, "type") == "disk" && size > 0 && !virtual_or_boot {
            expected.insert(name, Reading::Known(size));
        }
    }
    let disks = known("disks", &inventory.disks)?;
    let found: BTreeMap<_, _> = disks
        .iter()
        // Whether they count is the operator's choice.
        .filter(|disk| !removable.contains(disk.name.as_str()))
        .map(|disk| (disk.name.as_str(), disk.size_bytes.clone()))
        .collect();
    equal("disks", &found, &expected)
}

fn nics(inventory: &Inventory) -> Result<(), Problem> {
    let table = json_tool("ip", &["-json", "-details", "link"])?;
    let rows = table.as_array().ok_or_else(|| format!("ip wrote no list: {table}"))?;
    let physical = rows.iter().filter(|row| {
        ["ether", "infiniband"].contains(&text(row, "link_type"))
            && row.pointer("/linkinfo/info_kind").is_none()
            && !["usb", "auxiliary"].contains(&text(row, "parentbus"))
            // tun and its like tell no kind in old kernels; adapters sit on a bus.
            && row.get("parentdev").is_some()
    });
    let has_carrier = |row: &Value| {
        let flags = row.get("flags").and_then(Value::as_array);
        flags.is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP"))
    };
    let expected: BTreeMap<_, _> = physical
        .map(|row| (text(row, "ifname"), if has_carrier(row) { Link::Up } else { Link::Down }))
        .collect();
    let nics = known("nics", &inventory.nics)?;
    let found: BTreeMap<_, _> = nics.iter().map(|nic| (nic.name.as_str(), nic.link)).collect();
    equal("network interfaces and their links", &found, &expected)
}

fn speeds(inventory: &Inventory) -> Result<(), Problem> {
    for nic in known("nics", &inventory.nics)? {
        let settings = tool("ethtool", &[&nic.name])?;
        let speed = settings.lines().find_map(|line| line.trim().strip_prefix("Speed:"));
        // Else it says "Unknown!".
        let mbps = speed.and_then(|speed| speed.trim().strip_suffix("Mb/s")?.parse().ok());
        let expected = mbps.map_or(Reading::Absent, Reading::Known);
        equal(&format!("speed of {}", nic.name), &nic.speed_mbps, &expected)?;
    }
    Ok(())
}

fn gpus(inventory: &Inventory) -> Result<(), Problem> {
    let columns = "--query-gpu=index,name,memory.total,compute_cap,uuid";
    let table = tool("nvidia-smi", &[columns, "--format=csv,noheader,nounits"])?;
    let expected: Vec<Vec<String>> = table
        .lines()
        .map(|line| line.split(',').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    let gpus = known("gpus", &inventory.gpus)?;
    let driver = known("NVIDIA's driver", &gpus.nvidia_driver)?;
    let found: Vec<Vec<String>> = driver
        .gpus
        .iter()
        .map(|gpu| {
            let memory_mib = gpu.memory_bytes.known().map(|bytes| bytes / (1024 * 1024));
            vec![
                gpu.index.to_string(),
                gpu.model.to_string(),
                memory_mib.map(|mib| mib.to_string()).unwrap_or_default(),
                gpu.compute_capability.map(|version| version.to_string()).unwrap_or_default(),
                gpu.uuid.as_deref().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    equal("GPUs", &found, &expected)
}

/// What a tool prints.
fn tool(name: &str, arguments: &[&str]) -> Result<String, Problem> {
    let output = match Command::new(name).args(arguments).env("LC_ALL", "C").output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Problem::NotRunHere(format!("{name} is missing")));
        }
        Err(error) => return Err(format!("{name} cannot be run: {error}").into()),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why =
            format!("{name} {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
        return Err(Problem::NotRunHere(why));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn json_tool(name: &str, arguments: &[&str]) -> Result<Value, Problem> {
    let printed = tool(name, arguments)?;
    Ok(serde_json::from_str(&printed).map_err(|error| format!("{name} wrote no JSON: {error}"))?)
}

fn rows<'a>(table: &'a Value, name: &str) -> Result<&'a [Value], Problem> {
    let rows = table.get(name).and_then(Value::as_array);
    Ok(rows.ok_or_else(|| format!("there is no list {name:?} in {table}"))?)
}

/// A text of a JSON object; empty where there is none.
fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn known<'a, T: std::fmt::Debug>(subject: &str, reading: &'a Reading<T>) -> Result<&'a T, Problem> {
    Ok(reading
        .known()
        .ok_or_else(|| format!("the agent does not know the {subject}: {reading:?}"))?)
}

fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), Problem> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: the agent says {found:?}, the tool {expected:?}").into())
}
