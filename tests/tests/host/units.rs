//! The units as they run: how exposed they are, and what their watchdog is for.

use std::time::Duration;

use rollcall_tests::host::site::{operate, wait_for_report};
use rollcall_tests::host::{AGENT, AGGREGATOR, Machine, SOON, messages};
use rollcall_tests::machine::{Function, Machine as Hardware, driver, h100};
use rollcall_tests::process::nvml_standin;
use serde_json::json;

use super::Stage;

/// The watchdog of a test: the unit's own takes a minute.
const WATCHDOG: &str = "[Service]\nWatchdogSec=5s\nRestartSec=1s\n";

pub(crate) fn exposure_is_low(stage: &Stage) {
    stage.on_site(|head, _, _| {
        for (unit, most) in [(AGENT, 1.5), (AGGREGATOR, 2.0)] {
            let analysis = head.said(&format!("systemd-analyze security --no-pager {unit}"));
            let level = analysis.lines().find_map(|line| {
                let (_, level) = line.split_once("exposure level for ")?;
                level.split_whitespace().nth(1)?.parse::<f64>().ok()
            });
            let level = level.unwrap_or_else(|| panic!("no level in {analysis}"));
            println!("{unit}: exposure {level}");
            assert!(level <= most, "{unit}: {analysis}");
        }
    });
}

pub(crate) fn an_agent_that_stands_still(stage: &Stage) {
    stage.on_site(|head, node, _| {
        drop_in(node, AGENT, WATCHDOG);
        let before = node.wait_until_active(AGENT);
        let place = node.now();
        node.run(&["kill", "-STOP", &before]);
        node.wait_for_property(AGENT, "NRestarts", SOON, |restarts| restarts != "0");
        let after = node.wait_until_active(AGENT);
        assert_ne!(before, after, "another process");
        let said = node.story(AGENT, &place);
        let why = said.iter().any(|entry| entry.message().contains("Watchdog timeout"));
        assert!(why, "{}", messages(&said));
        wait_for_report(head, node, SOON);
        no_drop_in(node, AGENT);
    });
}

pub(crate) fn a_library_that_hangs(stage: &Stage) {
    stage.on_a_lone_machine(|machine, _| {
        let at = "0000:17:00.0";
        let hardware = Hardware::new();
        hardware.add(Function::h100(at));
        let mut script = driver(&[h100(at)]);
        script["trouble"] = json!({ "call": "nvmlDeviceGetMemoryInfo_v2", "what": "hangs" });
        hardware.nvml(&script);
        let root = machine.disk().join("opt/hardware");
        let copied = std::process::Command::new("cp")
            .args(["--recursive", "--no-dereference"])
            .arg(hardware.root())
            .arg(&root)
            .status();
        assert!(copied.expect("cp runs").success(), "the hardware is copied");
        machine.run(&["chmod", "-R", "a+rX", "/opt/hardware"]);
        // The machine that it was: the roll knows it.
        machine.shell("mkdir -p /opt/hardware/etc; cp /etc/machine-id /opt/hardware/etc/");
        machine.write("/opt/nvml.json", "root:root", "0644", &script.to_string());
        let library = machine.copy(&nvml_standin(), "/opt");
        let settings = format!(
            "{WATCHDOG}Environment=ROLLCALL_HOST_ROOT=/opt/hardware ROLLCALL_NVML_LIBRARY={library}\n\
             Environment=ROLLCALL_NVML_STANDIN=/opt/nvml.json ROLLCALL_NVML_TIMEOUT=2s\n\
             Environment=ROLLCALL_INTERVAL=1s ROLLCALL_NODE_NAME={}\n",
            machine.name()
        );
        drop_in(machine, AGENT, &settings);
        let process = machine.wait_until_active(AGENT);
        wait_for_report(machine, machine, SOON);
        // Longer than the watchdog waits, and than the library is given.
        std::thread::sleep(Duration::from_secs(12));
        assert_eq!(machine.property(AGENT, "MainPID"), process, "{}", machine.tail(AGENT));
        assert_eq!(machine.property(AGENT, "NRestarts"), "0", "{}", machine.tail(AGENT));
        wait_for_report(machine, machine, SOON);
        let roll = operate(machine, "nodes --output json");
        let failing = roll["nodes"][0]["failing"].to_string();
        assert!(failing.contains("GPU") || failing.contains("gpu"), "the GPUs fail: {roll}");
        let status = machine.property(AGENT, "StatusText");
        println!("with a library that hangs, the agent says: {status}");
        assert!(status.contains("NVIDIA"), "{status}");
    });
}

/// Adds to a unit, and starts it anew.
pub(crate) fn drop_in(machine: Machine<'_>, unit: &str, settings: &str) {
    let path = format!("/etc/systemd/system/{unit}.service.d/test.conf");
    machine.write(&path, "root:root", "0644", settings);
    machine.shell(&format!("systemctl daemon-reload && systemctl restart {unit}"));
}

/// Undoes [`drop_in`].
pub(crate) fn no_drop_in(machine: Machine<'_>, unit: &str) {
    machine.run(&["rm", "-r", &format!("/etc/systemd/system/{unit}.service.d")]);
    machine.shell(&format!("systemctl daemon-reload && systemctl restart {unit}"));
}
