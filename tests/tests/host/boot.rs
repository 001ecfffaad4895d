//! Machines that start: without a network, without an aggregator, and again.

use std::time::{Duration, Instant};

use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::host::site::wait_for_report;
use rollcall_tests::host::{AGENT, AGGREGATOR, SOON};

use super::Stage;

/// systemd waits two minutes for a network that does not come; who wants it waits with it.
const BOOT: Duration = Duration::from_secs(30);

pub(crate) fn a_machine_boots_alone(stage: &Stage) {
    stage.on_site(|head, node, _| {
        node.halt();
        head.run(&["systemctl", "stop", AGGREGATOR]);
        node.cut();
        let started = Instant::now();
        node.boot();
        let booted = started.elapsed();
        println!("up after {booted:.1?}, without a network");
        assert!(booted < BOOT, "up after {booted:.1?}");
        let system = node.said("systemctl is-system-running");
        assert_eq!(system.trim(), "running", "{}", node.said("systemctl --failed"));
        node.wait_until_active(AGENT);
        let status = node.property(AGENT, "StatusText");
        assert!(status.contains("not accepted"), "{status}");
        node.mend();
        head.run(&["systemctl", "start", AGGREGATOR]);
        wait_for_report(head, node, SOON * 2);
    });
}

pub(crate) fn a_reboot_changes_nothing(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let creates = site.aios.creates().len();
        let entry = site.aios.cluster(CLUSTER_ID);
        let keep = "cat /etc/default/rollcall-* /etc/rollcall/*; stat --format '%a %U:%G %n' /etc/rollcall/* /var/lib/rollcall";
        let before = head.shell(keep);
        head.halt();
        head.boot();
        for (machine, unit) in [(head, AGGREGATOR), (head, AGENT), (node, AGENT)] {
            machine.wait_until_active(unit);
        }
        for machine in [head, node] {
            wait_for_report(head, machine, SOON * 2);
        }
        assert_eq!(head.shell(keep), before, "settings, secrets and their modes");
        assert_eq!(site.aios.creates().len(), creates, "it is not registered anew");
        assert_eq!(site.aios.cluster(CLUSTER_ID), entry, "the network's entry");
    });
}
