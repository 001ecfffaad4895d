//! What befalls an aggregator: it is killed, and its disk is full.

use std::collections::BTreeSet;

use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::host::authority::Validity;
use rollcall_tests::host::site::{on_the_roll, wait_for_report};
use rollcall_tests::host::{AGENT, AGGREGATOR, Entry, Machine, Place, SOON, messages};

use super::Stage;
use super::intake::post;

/// How many lines a trouble that comes and goes may have: one for each thing that it is in turn, such
/// as no answer in time, no route and no network at all, and one for its end.
const TROUBLE: usize = 5;

pub(crate) fn a_killed_aggregator_comes_back(stage: &Stage) {
    stage.on_site(|head, node, site| {
        let creates = site.aios.creates().len();
        let entry = site.aios.cluster(CLUSTER_ID);
        let place = node.now();
        let process = head.wait_until_active(AGGREGATOR);
        head.run(&["systemctl", "kill", "--signal", "KILL", AGGREGATOR]);
        let another = |pid: &str| pid != "0" && pid != process;
        head.wait_for_property(AGGREGATOR, "MainPID", SOON, another);
        head.wait_until_active(AGGREGATOR);
        for machine in [head, node] {
            wait_for_report(head, machine, SOON);
        }
        trouble_is_told_once(node, &place);
        assert_eq!(site.aios.creates().len(), creates, "it is not registered anew");
        assert_eq!(site.aios.cluster(CLUSTER_ID), entry, "the network's entry");
    });
}

pub(crate) fn a_full_disk(stage: &Stage) {
    stage.on_site(|head, node, site| {
        // A disk of its own, with the store on it.
        head.shell(&format!(
            "systemctl stop {AGGREGATOR}
             cp -a /var/lib/rollcall /mnt/saved
             mount -t tmpfs -o size=4m tmpfs /var/lib/rollcall
             cp -a /mnt/saved/. /var/lib/rollcall; rm -rf /mnt/saved
             systemctl start {AGGREGATOR}"
        ));
        wait_for_report(head, node, SOON);
        let place = head.now();
        let process = head.wait_until_active(AGGREGATOR);
        head.said("dd if=/dev/zero of=/var/lib/rollcall/filler bs=64k; dd if=/dev/zero of=/var/lib/rollcall/filler-2 bs=1k");
        // What has to be written down: a node that is new.
        let stranger = site.client("stranger", Validity::Now);
        for _ in 0..5 {
            let answer = post(head, site, Some(&stranger), "stranger");
            assert!(matches!(answer, Ok((500..=599, _))), "it is refused, and comes again: {answer:?}");
        }
        let full = head.wait_for_message(AGGREGATOR, &place, "full", SOON);
        println!("the aggregator says: {}", full.message());
        let said = head.told(AGGREGATOR, &place);
        let of_it = said.iter().filter(|entry| entry.message().contains("full"));
        assert!(of_it.count() <= 2, "it is not repeated: {}", messages(&said));
        assert_eq!(head.property(AGGREGATOR, "MainPID"), process, "{}", messages(&said));

        head.run(&["rm", "/var/lib/rollcall/filler", "/var/lib/rollcall/filler-2"]);
        let answer = post(head, site, Some(&stranger), "stranger");
        assert!(matches!(answer, Ok((200, _))), "it is taken as soon as there is room: {answer:?}");
        wait_for_report(head, node, SOON);
        // The stranger reported once, and may be silent by now.
        assert_eq!(on_the_roll(head), ["head", "node", "stranger"], "nothing is lost");
        head.run(&[
            "rollcall-aggregator",
            "forget",
            "stranger",
            "--operator-token-file",
            "/etc/rollcall/operator-token",
        ]);
        head.shell(&format!(
            "systemctl stop {AGGREGATOR}
             cp -a /var/lib/rollcall /mnt/saved
             umount /var/lib/rollcall
             rm -rf /var/lib/rollcall/*; cp -a /mnt/saved/. /var/lib/rollcall; rm -rf /mnt/saved
             systemctl start {AGGREGATOR}"
        ));
        wait_for_report(head, node, SOON);
    });
}

/// An agent has told of a trouble and its end, and has not gone on about it.
pub(crate) fn trouble_is_told_once(machine: Machine<'_>, since: &Place) {
    let said = machine.told(AGENT, since);
    let warnings: Vec<_> =
        said.iter().filter(|entry| matches!(entry.field("PRIORITY"), "3" | "4")).cloned().collect();
    assert!(!warnings.is_empty(), "it is told: {}", messages(&said));
    let different: BTreeSet<_> = said.iter().map(Entry::message).collect();
    assert_eq!(different.len(), said.len(), "nothing is said twice: {}", messages(&said));
    assert!(said.len() <= TROUBLE, "it is not gone on about: {}", messages(&said));
}
