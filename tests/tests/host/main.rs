//! rollcall on machines with a real systemd, journal and dpkg; `make test-host` sets them up.
//!
//! Without them the tests are shown as ignored; they have not passed.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be set up has failed; JSON documents answer an unknown index with null"
)]
#![expect(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

mod boot;
mod certificates;
mod faults;
mod install;
mod intake;
mod labels;
mod mutual_tls;
mod network;
mod units;
mod upgrade;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Trial};
use rollcall_tests::aios::AiosStandin;
use rollcall_tests::host::site::{self, Site};
use rollcall_tests::host::{AGENT, AGGREGATOR, Bed, Machine};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share machines.
    arguments.test_threads = Some(1);
    let tests: &[(&str, Test)] = &[
        ("it_runs_after_one_edit", install::it_runs_after_one_edit),
        ("pages_and_completions_are_found", install::pages_and_completions_are_found),
        ("an_upgrade_keeps_everything", upgrade::an_upgrade_keeps_everything),
        ("removal_keeps_what_purge_takes", upgrade::removal_keeps_what_purge_takes),
        ("exposure_is_low", units::exposure_is_low),
        ("an_agent_that_stands_still_is_restarted", units::an_agent_that_stands_still),
        ("a_library_that_hangs_restarts_nothing", units::a_library_that_hangs),
        ("a_killed_aggregator_comes_back", faults::a_killed_aggregator_comes_back),
        ("a_full_disk_is_told_and_outlasted", faults::a_full_disk),
        ("certificates_are_replaced_without_a_restart", certificates::replaced),
        ("certificates_out_of_their_time_are_told", certificates::out_of_their_time),
        ("a_certificate_that_ends_meanwhile_is_told", certificates::ends_meanwhile),
        ("nobody_reports_for_another", mutual_tls::nobody_reports_for_another),
        ("a_kubelets_certificate_is_taken", mutual_tls::a_kubelets_certificate_is_taken),
        ("certificates_are_made_by_the_aggregator", mutual_tls::made_by_the_aggregator),
        ("labels_are_stamped_once_the_kubelet_joins", labels::once_the_kubelet_joins),
        ("labels_are_stamped_with_a_service_account", labels::with_a_service_account),
        ("a_machine_boots_alone", boot::a_machine_boots_alone),
        ("a_reboot_changes_nothing", boot::a_reboot_changes_nothing),
        ("a_minute_without_a_network", network::a_minute),
    ];
    // With --include-ignored, as `make soak` does.
    let long: &[(&str, Test)] = &[("ten_minutes_without_a_network", network::ten_minutes)];
    let stage = Bed::find().map(|bed| Arc::new(Stage { bed, site: Mutex::new(None) }));
    let tests = tests.iter().map(|test| (test, false)).chain(long.iter().map(|test| (test, true)));
    let trials = tests.map(|(&(name, test), is_long)| {
        let stage = stage.clone();
        Trial::ignorable_test(name, move || match stage {
            Ok(stage) => {
                test(&stage);
                Ok(Completion::Completed)
            }
            Err(why) => Ok(Completion::ignored_with(format!("not run here: {why}"))),
        })
        .with_ignored_flag(is_long)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

type Test = fn(&Stage);

/// What tests share: machines, and a site on two of them.
struct Stage {
    bed: Bed,
    site: Mutex<Option<Site>>,
}

impl Stage {
    /// Does something on a site that stands as it was built, and that is to stand so afterwards; where
    /// it does not, or a test has failed on it, it is built anew.
    fn on_site(&self, test: impl FnOnce(Machine<'_>, Machine<'_>, &Site)) {
        let mut place = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = place.take().filter(|site| match site.is_well(&self.bed) {
            Ok(()) => true,
            Err(why) => {
                println!("the site is built anew: {why}");
                false
            }
        });
        let site = standing.unwrap_or_else(|| Site::build(&self.bed));
        test(self.bed.machine("head"), self.bed.machine("node"), &site);
        *place = Some(site);
    }

    /// A machine with a clean disk, and nothing of it left afterwards.
    fn on_a_clean_machine(&self, test: impl FnOnce(Machine<'_>)) {
        let machine = self.bed.machine("spare");
        machine.remove();
        machine.boot();
        test(machine);
        machine.remove();
    }

    /// A clean machine that is a cluster of its own, with the aggregator and an agent as they come but
    /// for the edit that they need, and the network that they are registered with.
    fn on_a_lone_machine(&self, test: impl FnOnce(Machine<'_>, &AiosStandin)) {
        self.on_a_clean_machine(|machine| {
            machine.install(&[AGGREGATOR, AGENT]);
            let aios = site::aios(&self.bed);
            install::edit(machine, &aios);
            install::start(machine, &aios);
            test(machine, &aios);
        });
    }
}
