//! A node without a network.

use std::thread;
use std::time::Duration;

use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::host::site::{reporting, wait_for_report};
use rollcall_tests::host::{AGENT, AGGREGATOR, SOON, messages};
use rollcall_tests::process::wait_until;

use super::Stage;
use super::faults::trouble_is_told_once;

/// How much more memory an agent may have after a trouble: what allocators keep.
const GROWTH: u64 = 2 * 1024 * 1024;

pub(crate) fn a_minute(stage: &Stage) {
    without_a_network(stage, Duration::from_mins(1));
}

pub(crate) fn ten_minutes(stage: &Stage) {
    without_a_network(stage, Duration::from_mins(10));
}

/// Half of the time nothing says that there is none.
fn without_a_network(stage: &Stage, time: Duration) {
    stage.on_site(|head, node, site| {
        let creates = site.aios.creates().len();
        let process = node.wait_until_active(AGENT);
        wait_for_report(head, node, SOON);
        let (place, at_head) = (node.now(), head.now());
        let before = node.resident(AGENT);
        node.cut_silently();
        thread::sleep(time / 2);
        node.cut();
        thread::sleep(time / 2);
        let during = node.resident(AGENT);
        let status = node.property(AGENT, "StatusText");
        println!("without a network the agent says: {status}");
        assert!(status.contains("not accepted"), "{status}");
        assert_eq!(reporting(head), ["head"], "the aggregator knows who is silent");
        let status = head.property(AGGREGATOR, "StatusText");
        assert!(status.contains("1 stale"), "{status}");
        node.mend();
        wait_for_report(head, node, SOON * 2);
        let after = node.resident(AGENT);
        println!("the agent's memory before, during and after: {before}, {during}, {after} bytes");
        assert!(during < before + GROWTH, "{before} bytes before, {during} during");
        assert!(after < before + GROWTH, "{before} bytes before, {after} after");
        assert_eq!(node.property(AGENT, "MainPID"), process, "it is the same process");
        trouble_is_told_once(node, &place);
        wait_until("the status to be good again", SOON, || {
            match node.property(AGENT, "StatusText") {
                status if status.contains("not accepted") => Err(status),
                _ => Ok(()),
            }
        });
        // Nodes are looked at every 15 s.
        wait_until("the node's silence and its end to be told", SOON, || {
            let match_node = ["_SYSTEMD_UNIT=rollcall-aggregator.service", "NODE=node"];
            let said = messages(&head.journal(&at_head, &match_node));
            if said.matches("silent").count() == 2 { Ok(()) } else { Err(said) }
        });
        assert_eq!(site.aios.creates().len(), creates, "it is not registered anew");
        assert!(site.aios.cluster(CLUSTER_ID).is_some(), "it stays registered");
    });
}
