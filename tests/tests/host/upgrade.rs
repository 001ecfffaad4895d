//! Packages that follow others, go and come back.

use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::host::site::{self, last_report, operate, wait_for_report_after};
use rollcall_tests::host::{AGENT, AGGREGATOR, Machine, SOON, Version};
use serde_json::json;

use super::Stage;
use super::install::{edit, start};

/// What `tests/host/older.sh` adds to settings.
const OLD: &str = "# A line of the version before.";

const BOTH: [&str; 2] = [AGGREGATOR, AGENT];

pub(crate) fn an_upgrade_keeps_everything(stage: &Stage) {
    stage.on_a_clean_machine(|machine| {
        let previous = machine.try_install(Version::Previous, &BOTH, &[]);
        previous.unwrap_or_else(|problem| panic!("{problem}"));
        let aios = site::aios(&stage.bed);
        edit(machine, &aios);
        start(machine, &aios);
        let processes = BOTH.map(|unit| machine.property(unit, "MainPID"));
        let (roll, files) = (ids(machine), files(machine));
        assert!(files.contains(OLD), "the settings are the older version's: {files}");
        let (versions, last) = (versions(machine), last_report(machine, machine));

        // Who has edited a file keeps it. dpkg asks only where the package's has changed, too, unless it
        // is told beforehand; nobody is there to answer.
        let upgraded = machine.try_install(
            Version::Current,
            &BOTH,
            &["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"],
        );
        println!("{}", upgraded.unwrap_or_else(|problem| panic!("{problem}")));
        assert_ne!(self::versions(machine), versions, "other versions");
        for (unit, process) in BOTH.iter().zip(&processes) {
            machine.wait_until_active(unit);
            assert_ne!(&machine.property(unit, "MainPID"), process, "{unit} is restarted");
        }
        wait_for_report_after(machine, machine, &last, SOON);
        assert_eq!(ids(machine), roll, "the roll");
        assert_eq!(self::files(machine), files, "edited files and secrets");
        let untouched = machine.read("/etc/default/rollcall-aggregator");
        assert!(!untouched.contains(OLD), "what nobody has edited is the package's: {untouched}");
        assert_eq!(aios.creates().len(), 1, "it is registered once");
        let target = operate(machine, "status --output json");
        assert_eq!(target["targets"][0]["phase"], json!("registered"), "{target}");
        let running = machine.said("systemctl is-system-running");
        assert_eq!(running.trim(), "running", "{}", machine.said("systemctl --failed"));
    });
}

pub(crate) fn removal_keeps_what_purge_takes(stage: &Stage) {
    stage.on_a_lone_machine(|machine, aios| {
        let (roll, files) = (ids(machine), files(machine));
        let last = last_report(machine, machine);
        machine.run(&["apt-get", "remove", "--yes", AGGREGATOR, AGENT]);
        for unit in BOTH {
            let active = machine.said(&format!("systemctl is-active {unit}"));
            assert_eq!(active.trim(), "inactive", "{unit}");
            let process = machine.said(&format!("pgrep --full '^/usr/bin/{unit} '"));
            assert_eq!(process, "", "{unit} does not run");
        }
        assert_eq!(self::files(machine), files, "what was edited stays");

        machine.install(&BOTH);
        for unit in BOTH {
            machine.wait_until_active(unit);
        }
        wait_for_report_after(machine, machine, &last, SOON);
        assert_eq!(ids(machine), roll, "the roll is the same after a reinstallation");
        assert_eq!(aios.creates().len(), 1, "{CLUSTER_ID} is registered once");

        machine.run(&["apt-get", "purge", "--yes", AGGREGATOR, AGENT]);
        let left = machine.said(
            "find / -xdev '(' -path /proc -o -path /sys -o -path /var/log -o -path /run -o -path /var/cache ')' -prune -o -name '*rollcall*' -print; \
             ls -d /var/lib/rollcall /etc/rollcall 2>/dev/null",
        );
        assert_eq!(left, "", "nothing is left");
        let failed = machine.said("systemctl --failed --plain --no-legend");
        assert_eq!(failed.trim(), "", "units that have failed");
    });
}

/// Which nodes the roll has, and since when.
fn ids(machine: Machine<'_>) -> serde_json::Value {
    let roll = operate(machine, "nodes --output json");
    let node = &roll["nodes"][0];
    json!([node["name"], node["nodeId"], node["firstSeen"]])
}

/// What an administrator has written, and the secrets that were made.
fn files(machine: Machine<'_>) -> String {
    machine.shell(
        "for file in /etc/default/rollcall-agent /etc/rollcall/{cluster.yaml,join-token,operator-token}
         do stat --format '%a %U:%G %n' $file; cat $file; done",
    )
}

fn versions(machine: Machine<'_>) -> String {
    machine.run(&["dpkg-query", "--show", AGGREGATOR, AGENT])
}
