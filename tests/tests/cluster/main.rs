//! rollcall on a real Kubernetes; `make test-cluster` sets it up.
//!
//! Without one, or where it lacks what a test needs, the test is shown as ignored; it has not
//! passed.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be set up has failed; JSON documents answer an unknown index with null"
)]
#![expect(clippy::print_stdout, reason = "how long things took is shown with --nocapture")]

mod aichor;
mod bed;
mod departures;
mod edits;
mod host;
mod identity;
mod inference_model_manager;
mod install;
mod interlink;
mod outage;
mod replicas;
mod rights;
mod unikorn;
mod watch;

use std::collections::BTreeMap;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};
use rollcall_tests::cluster::{Cluster, Need, text};
use serde_json::Value;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They change one cluster.
    arguments.test_threads = Some(1);
    let tests: &[(&str, Need, Test)] = &[
        ("every_node_is_ready", Need::Nodes, bed::every_node_is_ready),
        ("a_token_of_a_pod_is_reviewed", Need::Nodes, bed::a_token_of_a_pod_is_reviewed),
        ("pods_reach_services_by_name", Need::Nodes, bed::pods_reach_services_by_name),
        ("pods_and_this_machine_reach_one_another", Need::Bed, bed::pods_and_this_machine),
        ("images_hold_the_programs_and_no_shell", Need::Bed, bed::images),
        ("pods_outlast_the_api_server", Need::Bed, bed::pods_outlast_the_api_server),
        ("a_node_goes_and_comes", Need::Bed, bed::a_node_goes_and_comes),
        ("it_registers_within_a_minute", Need::Bed, install::it_registers_within_a_minute),
        ("the_aggregator_stamps", Need::Bed, install::the_aggregator_stamps),
        ("labels_are_kept_and_adopted", Need::Bed, identity::labels_are_kept_and_adopted),
        ("no_id_stands_twice", Need::Bed, identity::no_id_stands_twice),
        ("rights_are_as_documented", Need::Bed, rights::rights_are_as_documented),
        ("plugins_reach_the_api", Need::Bed, interlink::plugins_reach_the_api),
        (
            "a_leader_that_is_killed_is_followed",
            Need::Server,
            replicas::a_leader_that_is_killed_is_followed,
        ),
        (
            "every_replica_knows_who_has_reported",
            Need::Server,
            replicas::every_replica_knows_who_has_reported,
        ),
        (
            "two_nodes_of_one_id_are_never_in_a_document",
            Need::Server,
            replicas::two_nodes_of_one_id_are_never_in_a_document,
        ),
        ("deleted_nodes_leave_the_entry", Need::Server, departures::deleted_nodes_leave_the_entry),
        ("mistakes_take_nothing_away", Need::Server, departures::mistakes_take_nothing_away),
        ("edits_are_put_right", Need::Server, edits::edits_are_put_right),
        (
            "the_inference_model_managers_prerequisites_are_found",
            Need::Bed,
            inference_model_manager::prerequisites_are_found,
        ),
        ("unikorn_classes_are_for_ever", Need::Server, unikorn::classes_are_for_ever),
        ("unikorn_region_is_declared", Need::Nodes, unikorn::the_region_is_declared),
        ("aichor_its_token_can_what_it_must", Need::Nodes, aichor::its_token_can_what_it_must),
        (
            "aichor_preparing_twice_changes_nothing",
            Need::Nodes,
            aichor::preparing_twice_changes_nothing,
        ),
        (
            "aichor_a_rule_that_is_missing_is_named",
            Need::Nodes,
            aichor::a_rule_that_is_missing_is_named,
        ),
        ("aichor_what_is_wrong_is_named", Need::Nodes, aichor::what_is_wrong_is_named),
        ("aichor_checks_change_nothing", Need::Bed, aichor::checks_change_nothing),
        // Last: the cluster's own programs take their time to come back.
        (
            "a_deployment_outlasts_the_api_server",
            Need::Bed,
            outage::a_deployment_outlasts_the_api_server,
        ),
        ("replicas_outlast_the_api_server", Need::Bed, outage::replicas_outlast_the_api_server),
    ];
    // With --include-ignored, as `make soak` does.
    let long: &[(&str, Need, Test)] = &[
        (
            "every_replica_knows_who_is_silent",
            Need::Server,
            replicas::every_replica_knows_who_is_silent,
        ),
        ("a_deployment_outlasts_two_minutes", Need::Bed, outage::a_deployment_outlasts_two_minutes),
        ("replicas_outlast_two_minutes", Need::Bed, outage::replicas_outlast_two_minutes),
    ];
    let cluster = Cluster::find();
    let tests = tests.iter().map(|test| (test, false)).chain(long.iter().map(|test| (test, true)));
    let trials = tests.map(|(&(name, need, test), is_long)| {
        let cluster = cluster.clone();
        Trial::ignorable_test(name, move || {
            let lacks = match &cluster {
                Ok(cluster) => cluster.lacks(need).map(str::to_owned),
                Err(why) => Some(why.clone()),
            };
            match (cluster, lacks) {
                (Ok(cluster), None) => {
                    test(&cluster);
                    Ok(Completion::Completed)
                }
                (_, why) => {
                    let why = why.unwrap_or_default();
                    Ok(Completion::ignored_with(format!("not run here: {why}")))
                }
            }
        })
        .with_ignored_flag(is_long)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

type Test = fn(&Cluster);

/// The status of a condition; empty where it is not told.
fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == name);
    found.map(|condition| text(condition, "/status")).unwrap_or_default()
}

/// The label `nodeID` of every node.
fn labels(cluster: &Cluster) -> BTreeMap<String, Option<String>> {
    let nodes = cluster.get(&["nodes"]);
    let nodes = nodes["items"].as_array().expect("a list");
    let label = |node: &Value| node["metadata"]["labels"]["nodeID"].as_str().map(str::to_owned);
    nodes.iter().map(|node| (text(node, "/metadata/name").to_owned(), label(node))).collect()
}

/// The label `nodeID` of a node.
fn label(cluster: &Cluster, node: &str) -> Option<String> {
    labels(cluster).remove(node).flatten()
}
