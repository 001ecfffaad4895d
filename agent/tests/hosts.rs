//! Golden reports: probes the root of each machine under `hosts/` and compares the report with the
//! one beside it. `EXPECTORATE=overwrite` writes them anew.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollcall_agent::host::HostRoot;
use rollcall_agent::identity::identify;
use rollcall_agent::probe::{ProbeOptions, Prober};
use rollcall_agent::report;
use rollcall_report::{NodeReport, Subject};

/// Relative, so that the paths in reasons are the same everywhere.
const HOSTS: &str = "tests/hosts";

/// The kinds of machines that must be there.
const KINDS: [&str; 5] =
    ["bare-minimum", "firecracker-vm", "gpu-without-driver", "rich-server", "wrong-root"];

fn report_of(host: &str) -> NodeReport {
    let root = HostRoot::new(Path::new(HOSTS).join(host).join("root"));
    let options = ProbeOptions {
        nvml_library: PathBuf::from("/nonexistent/libnvidia-ml.so.1"),
        nvml_timeout: Duration::from_secs(30),
        nvml_program: PathBuf::from(env!("CARGO_BIN_EXE_rollcall-agent")),
        count_removable: false,
    };
    let name = Some("node-1".parse().expect("a node name"));
    let identity = identify(&root, name, None).expect("a name is given");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let survey = runtime.block_on(Prober::new(root, options).probe()).expect("a survey");
    report::build(identity, survey)
}

#[test]
fn every_machine_gives_its_report() {
    let mut hosts: Vec<String> = fs::read_dir(HOSTS)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    hosts.sort();
    assert_eq!(hosts, KINDS, "a machine's folder was added or lost");
    for host in hosts {
        let folder = Path::new(HOSTS).join(&host);
        let note = fs::read_to_string(folder.join("NOTE.md")).expect(&host);
        let origin = note.contains("Constructed") || note.contains("Captured");
        assert!(origin, "{host}: NOTE.md must say where the files come from");

        let mut report = report_of(&host);
        assert_eq!(report.check(), Ok(()), "{host}: an aggregator would refuse it");
        assert_eq!(report.agent.version, env!("CARGO_PKG_VERSION"));
        "VERSION".clone_into(&mut report.agent.version);
        let json = serde_json::to_string_pretty(&report).expect("encodes") + "\n";
        expectorate::assert_contents(folder.join("report.json"), &json);
    }
}

#[test]
fn a_wrong_root_is_a_failure_of_everything_and_not_an_empty_machine() {
    let report = report_of("wrong-root");
    let failures = report.inventory.failures();
    let failed: Vec<Subject> = failures.iter().map(|(subject, _)| *subject).collect();
    assert_eq!(failed, Subject::ALL);
    for (subject, reason) in failures {
        assert!(reason.contains("tests/hosts/wrong-root/root/"), "{subject}: {reason}");
        assert!(reason.contains("--host-root"), "{subject}: {reason}");
    }
}
