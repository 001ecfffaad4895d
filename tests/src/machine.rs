//! A machine that a test makes of files: a host root with the PCI functions that it needs, and what
//! the stand-in of NVIDIA's library answers there.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{nvml_standin, program};

/// A minimal machine; GPUs are added to it.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
}

/// A PCI function.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    /// For example `0000:17:00.0`.
    pub address: &'a str,
    /// For example `0x10de`.
    pub vendor: &'a str,
    /// For example `0x2330`.
    pub device: &'a str,
    /// For example `0x030200`.
    pub class: &'a str,
    /// The driver that it is bound to.
    pub driver: Option<&'a str>,
}

impl<'a> Function<'a> {
    /// An NVIDIA H100, as its driver has it.
    pub const fn h100(address: &'a str) -> Self {
        Self {
            address,
            vendor: "0x10de",
            device: "0x2330",
            class: "0x030200",
            driver: Some("nvidia"),
        }
    }
}

impl Machine {
    /// Makes a machine without any GPU.
    ///
    /// # Panics
    ///
    /// When its files cannot be written.
    pub fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        for (path, text) in [
            ("proc/sys/kernel/hostname", "gpu-1\n"),
            ("proc/sys/kernel/osrelease", "6.12.43+deb13-amd64\n"),
            ("proc/sys/kernel/arch", "x86_64\n"),
            ("proc/meminfo", "MemTotal:       65536000 kB\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
        ] {
            machine.write(path, text);
        }
        for folder in ["sys/bus/pci/devices", "sys/block", "sys/class/net"] {
            fs::create_dir_all(machine.root().join(folder)).expect("a folder of the machine");
        }
        machine
    }

    /// The root of its files.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// A file beside its root.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes one of its files.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        fs::write(path, text).expect("a file of the machine");
    }

    /// Puts a function on its bus.
    ///
    /// # Panics
    ///
    /// When its files cannot be written.
    pub fn add(&self, function: Function<'_>) {
        let Function { address, vendor, device, class, driver } = function;
        let folder = format!("sys/devices/pci0000:00/{address}");
        for (name, value) in [("vendor", vendor), ("device", device), ("class", class)] {
            self.write(&format!("{folder}/{name}"), &format!("{value}\n"));
        }
        if let Some(driver) = driver {
            fs::create_dir_all(self.root().join("sys/bus/pci/drivers").join(driver))
                .expect("a driver");
            self.link(&format!("{folder}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
        }
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("/{folder}"));
    }

    /// Adds an attribute to a function on its bus.
    pub fn describe(&self, address: &str, name: &str, text: &str) {
        self.write(&format!("sys/devices/pci0000:00/{address}/{name}"), text);
    }

    /// Makes a function a virtual one of another.
    pub fn make_virtual(&self, address: &str, of: &str) {
        let folder = format!("sys/devices/pci0000:00/{address}");
        self.link(&format!("{folder}/physfn"), &format!("/sys/devices/pci0000:00/{of}"));
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a link is in a folder")).expect("a folder");
        symlink(target, path).expect("a link of the machine");
    }

    /// Where the stand-in's script is.
    pub fn script(&self) -> PathBuf {
        self.beside("nvml.json")
    }

    /// Writes what NVIDIA's library answers from now on.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn nvml(&self, script: &Value) {
        // As a whole: the library may be reading it.
        let new = self.beside("nvml.json.new");
        fs::write(&new, script.to_string()).expect("a script");
        fs::rename(new, self.script()).expect("a script in its place");
    }

    /// Prepares an agent to look at this machine, with `library` as NVIDIA's.
    pub fn prepare(&self, agent: &mut Command, library: &Path) {
        agent
            .arg("--host-root")
            .arg(self.root())
            .arg("--nvml-library")
            .arg(library)
            .env("ROLLCALL_NVML_STANDIN", self.script());
    }

    /// Runs `rollcall-agent probe` here, with `library` as NVIDIA's.
    ///
    /// # Panics
    ///
    /// When it cannot be run.
    pub fn probe_with(&self, library: &Path, arguments: &[&str]) -> Output {
        let mut agent = Command::new(program("rollcall-agent"));
        agent.arg("probe").args(arguments);
        self.prepare(&mut agent, library);
        agent.output().expect("the agent runs")
    }

    /// What the agent finds out about the GPUs with the stand-in's answers.
    ///
    /// # Panics
    ///
    /// When the agent fails.
    pub fn gpus(&self) -> Value {
        gpus_of(&self.probe_with(&nvml_standin(), &[]))
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// The GPUs of a report that was printed.
///
/// # Panics
///
/// When there is none.
pub fn gpus_of(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    report.pointer("/inventory/gpus/known").cloned().expect("GPUs are looked for")
}

/// What the stand-in says of an H100 at an address.
pub fn h100(address: &str) -> Value {
    json!({
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": format!("GPU-{address}"),
        "memoryBytes": 85_520_809_984_u64,
        "computeCapability": [9, 0],
        "pciAddress": address,
    })
}

/// The stand-in's script for a driver that works and has these GPUs.
pub fn driver(gpus: &[Value]) -> Value {
    json!({ "driverVersion": "580.159.04", "cudaVersion": 13_000, "gpus": gpus })
}
