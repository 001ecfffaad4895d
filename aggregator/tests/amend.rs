//! What is set in the network's entry to make it right, and what is left as it is.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::targets::Difference;
use rollcall_aggregator::targets::aios::{Basis, INSTALLATION_KEY, amend, declared};
use rollcall_report::NodeId;
use serde_json::{Map, Value, json};

type Edit = fn(&mut Value);

type Strs = &'static [&'static str];

/// AIOS's sample with our mark: node-1 with two GPUs, node-2 with one.
fn sample() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sample/document.json");
    let mut document: Value =
        serde_json::from_str(&fs::read_to_string(path).expect("the sample")).expect("JSON");
    document["clusterMetadata"]["additionalInfo"][INSTALLATION_KEY] = "ours".into();
    document
}

fn edited(edit: Edit) -> Value {
    let mut value = sample();
    edit(&mut value);
    value
}

fn parsed(document: &Value) -> ClusterDocument {
    serde_json::from_value(document.clone()).expect("a document")
}

fn departed(ids: &[&str]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| id.parse().expect("an id")).collect()
}

fn nothing(_: &mut Value) {}

fn list(entry: &mut Value) -> &mut Vec<Value> {
    entry["nodes"]["nodeData"].as_array_mut().expect("a list")
}

fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().expect("an object").remove(key);
}

/// What is set, all bodies together; none may set what another did.
fn set(bodies: &[Value]) -> Value {
    let mut all = Map::new();
    for (path, value) in bodies.iter().flat_map(|body| body.as_object().expect("an object")) {
        assert!(all.insert(path.clone(), value.clone()).is_none(), "{path} is set twice");
    }
    all.into()
}

fn lines(difference: &Difference) -> Vec<String> {
    difference.fields.iter().map(ToString::to_string).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_set_for_nodes_and_totals() {
    // (what, what happened to the entry, who has departed, what is set, what is told of it)
    let cases: [(&str, Edit, Strs, Value, Strs); 18] = [
        ("equal", nothing, &[], json!({}), &[]),
        (
            "floats of the same value",
            |entry| {
                entry["memory"] = json!(196_608.0);
                entry["nodes"]["nodeData"][0]["swap"] = json!(8192.0);
                entry["nodes"]["count"] = json!(2.0);
            },
            &[],
            json!({}),
            &[],
        ),
        (
            "a field of one node",
            |entry| entry["nodes"]["nodeData"][1]["swap"] = 0.into(),
            &[],
            json!({"nodes.nodeData.1.swap": 4096}),
            &["node node-2: swap is 0 there, 4096 here"],
        ),
        (
            "a field deep in a node",
            |entry| entry["nodes"]["nodeData"][0]["gpus"]["gpus"][1]["memory"] = 1.into(),
            &[],
            json!({"nodes.nodeData.0.gpus.gpus.1.memory": 16384}),
            &["node node-1: gpus.gpus.1.memory is 1 there, 16384 here"],
        ),
        (
            "a list of another length",
            |entry| entry["nodes"]["nodeData"][1]["gpus"]["gpus"] = json!([]),
            &[],
            json!({"nodes.nodeData.1.gpus.gpus": [{"modelName": "NVIDIA V100", "memory": 16384}]}),
            &["node node-2: gpus.gpus is a list of 0 there, a list of 1 here"],
        ),
        (
            "totals, one of them missing, one of another type",
            |entry| {
                entry["nodes"]["count"] = 7.into();
                entry["swap"] = 0.into();
                entry["storage"]["size"] = "1572864".into();
                remove(&mut entry["gpus"], "memory");
            },
            &[],
            json!({"nodes.count": 2, "gpus.memory": 49152, "swap": 12288, "storage.size": 1_572_864}),
            &[
                "nodes.count is 7 there, 2 here",
                "gpus.memory is missing there, 49152 here",
                "swap is 0 there, 12288 here",
                "storage.size is \"1572864\" there, 1572864 here",
            ],
        ),
        (
            "the region",
            |entry| entry["regionId"] = "moon".into(),
            &[],
            json!({"regionId": "us-west-2"}),
            &["regionId is \"moon\" there, \"us-west-2\" here"],
        ),
        (
            "what the network adds stays, wherever it is",
            |entry| {
                entry["status"] = "gone".into();
                entry["_id"] = "x".into();
                entry["config"]["urlMap"] = json!({"a": 1});
                entry["nodes"]["nodeData"][0]["health"] = "good".into();
                entry["nodes"]["nodeData"][0]["gpus"]["gpus"][0]["uuid"] = "GPU-1".into();
                entry["nodes"]["nodeData"][1]["a.b"] = 1.into();
            },
            &[],
            json!({}),
            &[],
        ),
        (
            "a group that is missing, and one that is none, beside what the network added",
            |entry| {
                remove(&mut entry["nodes"]["nodeData"][0], "storage");
                entry["nodes"]["nodeData"][0]["health"] = "good".into();
                entry["nodes"]["nodeData"][1]["vcpus"] = 5.into();
            },
            &[],
            json!({
                "nodes.nodeData.0.storage": {"disks": 2, "size": 1_048_576},
                "nodes.nodeData.1.vcpus": {"count": 16},
            }),
            &[
                "node node-1: storage is missing there, an object here",
                "node node-2: vcpus is 5 there, an object here",
            ],
        ),
        (
            "a node that no path leads into is set whole, with what the network added",
            |entry| {
                entry["nodes"]["nodeData"][1]["a.b"] = 1.into();
                entry["nodes"]["nodeData"][1]["swap"] = 0.into();
            },
            &[],
            {
                let mut node = sample()["nodes"]["nodeData"][1].clone();
                node["a.b"] = 1.into();
                json!({"nodes.nodeData.1": node})
            },
            &["node node-2 is an object there, an object here"],
        ),
        (
            "another order is theirs",
            |entry| {
                list(entry).reverse();
                entry["nodes"]["nodeData"][1]["memory"] = 1.into();
            },
            &[],
            json!({"nodes.nodeData.1.memory": 131_072}),
            &["node node-1: memory is 1 there, 131072 here"],
        ),
        (
            "a node that is new comes last",
            |entry| {
                list(entry).remove(0);
            },
            &[],
            json!({"nodes.nodeData.1": sample()["nodes"]["nodeData"][0]}),
            &["node node-1 is missing there, reported here"],
        ),
        (
            "a node that nothing is known of stays and counts",
            |entry| {
                let mut node = entry["nodes"]["nodeData"][1].clone();
                node["id"] = "ghost".into();
                node["memory"] = json!(65536.0);
                node["swap"] = "much".into();
                list(entry).insert(0, node);
            },
            &["other"],
            json!({
                "nodes.count": 3, "gpus.count": 4, "gpus.memory": 65536, "vcpus.count": 64,
                "memory": 262_144, "storage.disks": 4, "storage.size": 2_097_152,
                "network.interfaces": 4, "network.txBandwidth": 20000, "network.rxBandwidth": 20000,
            }),
            &[
                "nodes.count is 2 there, 3 here",
                "gpus.count is 3 there, 4 here",
                "gpus.memory is 49152 there, 65536 here",
                "vcpus.count is 48 there, 64 here",
                "memory is 196608 there, 262144 here",
                "storage.disks is 3 there, 4 here",
                "storage.size is 1572864 there, 2097152 here",
                "network.interfaces is 3 there, 4 here",
                "network.txBandwidth is 15000 there, 20000 here",
                "network.rxBandwidth is 15000 there, 20000 here",
            ],
        ),
        (
            "a node that has departed is taken out, the others keep their order",
            |entry| {
                let mut node = entry["nodes"]["nodeData"][1].clone();
                node["id"] = "ghost".into();
                list(entry).insert(0, node);
                list(entry).reverse();
                entry["nodes"]["nodeData"][0]["health"] = "good".into();
            },
            &["ghost", "node-1"],
            {
                let mut nodes = sample()["nodes"]["nodeData"].clone();
                nodes[1]["health"] = "good".into();
                nodes.as_array_mut().expect("a list").reverse();
                json!({"nodes.nodeData": nodes})
            },
            &["node ghost is listed there, departed here"],
        ),
        (
            "a list with what is nothing, and a node twice: the first is kept",
            |entry| {
                let twice = entry["nodes"]["nodeData"][0].clone();
                entry["nodes"]["nodeData"][0]["health"] = "good".into();
                list(entry).extend([json!(null), json!(7), json!({}), twice]);
            },
            &[],
            {
                let mut nodes = sample()["nodes"]["nodeData"].clone();
                nodes[0]["health"] = "good".into();
                json!({"nodes.nodeData": nodes})
            },
            &[
                "nodes.nodeData is a list with gaps, or with nodes twice in it there, a list with each node once here",
            ],
        ),
        (
            "what has no text for an id is somebody's all the same",
            |entry| list(entry).push(json!({"id": 7, "memory": 5})),
            &[],
            json!({"nodes.count": 3, "memory": 196_613}),
            &["nodes.count is 2 there, 3 here", "memory is 196608 there, 196613 here"],
        ),
        (
            "no list at all",
            |entry| entry["nodes"]["nodeData"] = json!(null),
            &[],
            json!({"nodes.nodeData": sample()["nodes"]["nodeData"]}),
            &[
                "node node-1 is missing there, reported here",
                "node node-2 is missing there, reported here",
                "nodes.nodeData is no list there, a list with each node once here",
            ],
        ),
        (
            "numbers that no sum can hold",
            |entry| {
                for id in ["x", "y"] {
                    list(entry).push(
                        json!({"id": id, "memory": u64::MAX, "swap": -5, "vcpus": {"count": 1.0}}),
                    );
                }
            },
            &[],
            json!({"nodes.count": 4, "vcpus.count": 50, "memory": u64::MAX}),
            &[
                "nodes.count is 2 there, 4 here",
                "vcpus.count is 48 there, 50 here",
                "memory is 196608 there, 18446744073709551615 here",
            ],
        ),
    ];
    let ours = parsed(&sample());
    for (what, edit, left, expected, told) in cases {
        let entry = edited(edit);
        // What was said before is what is said now, or not known: either way it stays theirs.
        for before in [None, Some(declared(&ours).expect("JSON"))] {
            let amendment = amend(
                &ours,
                &entry,
                &Basis {
                    departed: &departed(left),
                    before: before.as_ref(),
                    take_over: false,
                    rescue: None,
                },
            );
            let amendment = amendment.expect("JSON");
            assert_eq!(set(&amendment.bodies().expect("JSON")), expected, "{what}");
            assert_eq!(lines(&amendment.difference), told, "{what}");
            assert_eq!(amendment.difference.is_none(), told.is_empty(), "{what}");
        }
    }
}

#[test]
fn which_nodes_go_and_which_are_kept() {
    for (what, theirs, gone, removed, kept, added) in [
        ("ours alone", &["node-1", "node-2"][..], &[][..], &[][..], &[][..], &[][..]),
        ("one of ours departed and is back", &["node-1", "node-2"], &["node-1"], &[], &[], &[]),
        ("one unknown", &["x", "node-2", "node-1"], &[], &[], &["x"], &[]),
        ("one departed", &["x", "node-2", "node-1"], &["x"], &["x"], &[], &[]),
        ("one of each", &["x", "y", "node-1"], &["y"], &["y"], &["x"], &["node-2"]),
        ("departed, and not in the entry", &["node-1", "node-2"], &["x"], &[], &[], &[]),
        ("an entry without nodes", &[], &[], &[], &[], &["node-1", "node-2"]),
    ] {
        let mut entry = sample();
        let node = sample()["nodes"]["nodeData"][0].clone();
        let nodes = theirs.iter().map(|id| {
            let mut node = node.clone();
            node["id"] = (*id).into();
            node
        });
        *list(&mut entry) = nodes.collect();
        let ours = parsed(&sample());
        let amendment = amend(
            &ours,
            &entry,
            &Basis { departed: &departed(gone), before: None, take_over: false, rescue: None },
        )
        .expect("JSON");
        let difference = amendment.difference;
        assert_eq!(difference.removed, removed, "{what}");
        assert_eq!(difference.kept, kept, "{what}");
        assert_eq!(difference.held_nodes, theirs.len(), "{what}");
        let is_added = |id: &str| {
            difference
                .fields
                .iter()
                .any(|it| it.field == format!("node {id}") && it.there == "missing")
        };
        for id in ["node-1", "node-2", "x", "y"] {
            assert_eq!(is_added(id), added.contains(&id), "{what}: {id}");
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_set_of_the_fields_that_are_ours_on_change() {
    // What the network's policy and its infrastructure have written meanwhile.
    let theirs: Edit = |entry| {
        entry["reputation"] = 7.into();
        entry["tags"] = json!(["theirs"]);
        entry["config"]["urlMap"] = json!({"a": 1});
        entry["config"]["policyExecutorId"] = "theirs".into();
        entry["clusterMetadata"]["additionalInfo"]["seen"] = true.into();
    };
    // (what, what the cluster file changed since, what others did besides, what is set)
    let cases: [(&str, Edit, Edit, Value); 12] = [
        ("nothing", nothing, nothing, json!({})),
        ("the reputation", |ours| ours["reputation"] = 3.into(), nothing, json!({"reputation": 3})),
        ("to what they have already", |ours| ours["reputation"] = 7.into(), nothing, json!({})),
        (
            "the tags: as a list",
            |ours| ours["tags"] = json!(["x", "y"]),
            nothing,
            json!({"tags": ["x", "y"]}),
        ),
        (
            "a key of the metadata",
            |ours| ours["clusterMetadata"]["owner"] = "Another".into(),
            nothing,
            json!({"clusterMetadata.owner": "Another"}),
        ),
        (
            "a key of the config: what they hold otherwise in it is put right, what they added stays",
            |ours| ours["config"]["useGateway"] = false.into(),
            nothing,
            json!({"config.useGateway": false, "config.policyExecutorId": "policy-exec-007"}),
        ),
        (
            "a key that is taken back stays with them",
            |ours| remove(&mut ours["clusterMetadata"], "owner"),
            nothing,
            json!({}),
        ),
        (
            "a key with a dot: set with the object that it is in",
            |ours| ours["clusterMetadata"]["miscContactInfo"]["a.b"] = 1.into(),
            |entry| entry["clusterMetadata"]["miscContactInfo"]["theirs"] = 2.into(),
            json!({"clusterMetadata.miscContactInfo": {
                "pagerDuty": "https://sample-website/ai-clusters", "slack": "#ml-infra",
                "a.b": 1, "theirs": 2,
            }}),
        ),
        (
            "a key with a dollar, and an empty one",
            |ours| {
                ours["clusterMetadata"]["miscContactInfo"] = json!({"$x": 1});
                ours["clusterMetadata"]["additionalInfo"]["deep"] = json!({"": 1});
            },
            |entry| entry["clusterMetadata"]["miscContactInfo"] = 5.into(),
            json!({
                "clusterMetadata.miscContactInfo": {"$x": 1},
                "clusterMetadata.additionalInfo.deep": {"": 1},
            }),
        ),
        (
            "empty objects, which the registry drops",
            |ours| {
                ours["clusterMetadata"]["empty"] = json!({});
                ours["clusterMetadata"]["deep"] = json!({"a": {"b": {}}});
                ours["clusterMetadata"]["miscContactInfo"]["none"] = json!({});
            },
            nothing,
            json!({}),
        ),
        (
            "empty objects beside a key with a dot that is there",
            |ours| ours["clusterMetadata"]["x"] = json!({"a.b": 1, "empty": {}}),
            |entry| entry["clusterMetadata"]["x"] = json!({"a.b": 1.0, "more": 2}),
            json!({}),
        ),
        (
            "the join command",
            |ours| ours["clusterMetadata"]["additionalInfo"]["joinCommand"] = "kubeadm join".into(),
            nothing,
            json!({"clusterMetadata.additionalInfo.joinCommand": "kubeadm join"}),
        ),
    ];
    for (what, change, others, expected) in cases {
        let ours = parsed(&edited(change));
        let mut entry = edited(theirs);
        others(&mut entry);
        let before = declared(&parsed(&sample())).expect("JSON");
        let amendment = amend(
            &ours,
            &entry,
            &Basis {
                departed: &departed(&[]),
                before: Some(&before),
                take_over: false,
                rescue: None,
            },
        )
        .expect("JSON");
        assert_eq!(set(&amendment.bodies().expect("JSON")), expected, "{what}");
        assert_eq!(
            amendment.difference.fields.len(),
            expected.as_object().expect(what).len(),
            "{what}"
        );
        // Not known what was said before: they are theirs.
        let unknown = amend(
            &ours,
            &entry,
            &Basis { departed: &departed(&[]), before: None, take_over: false, rescue: None },
        )
        .expect("JSON");
        assert_eq!(
            unknown.bodies().expect("JSON"),
            Vec::<Value>::new(),
            "{what}, before is not known"
        );
    }
}

#[test]
fn what_is_taken_over_becomes_ours_in_all_fields() {
    let ours = parsed(&sample());
    let info = "clusterMetadata.additionalInfo";
    let mark = format!("{info}.{INSTALLATION_KEY}");
    for (what, edit, expected) in [
        (
            "another installation's",
            (|entry| entry["clusterMetadata"]["additionalInfo"][INSTALLATION_KEY] = "x".into())
                as Edit,
            json!({ mark.as_str(): "ours" }),
        ),
        (
            "made by hand, with a reputation and more of their own",
            |entry| {
                remove(&mut entry["clusterMetadata"]["additionalInfo"], INSTALLATION_KEY);
                entry["reputation"] = 7.into();
                entry["config"]["urlMap"] = json!({"a": 1});
                entry["clusterMetadata"]["additionalInfo"]["note"] = "theirs".into();
            },
            json!({ mark.as_str(): "ours", "reputation": 0 }),
        ),
        (
            "without a place for the mark",
            |entry| remove(&mut entry["clusterMetadata"], "additionalInfo"),
            json!({ info: sample()["clusterMetadata"]["additionalInfo"] }),
        ),
        (
            "with something else in its place",
            |entry| entry["clusterMetadata"]["additionalInfo"] = "text".into(),
            json!({ info: sample()["clusterMetadata"]["additionalInfo"] }),
        ),
        (
            "without metadata and config",
            |entry| {
                entry["clusterMetadata"] = json!([]);
                remove(entry, "config");
            },
            json!({
                "config": sample()["config"], "clusterMetadata": sample()["clusterMetadata"],
            }),
        ),
    ] {
        let amendment = amend(
            &ours,
            &edited(edit),
            &Basis { departed: &departed(&[]), before: None, take_over: true, rescue: None },
        )
        .expect("JSON");
        assert_eq!(set(&amendment.bodies().expect("JSON")), expected, "{what}");
        assert_eq!(
            amendment.difference.fields.len(),
            expected.as_object().expect(what).len(),
            "{what}"
        );
    }
}

#[test]
fn a_join_command_is_set_and_not_shown() {
    const OURS: &str = "kubeadm join 192.0.2.1:6443 --token hunter2";
    const THEIRS: &str = "kubeadm join 192.0.2.1:6443 --token hunter3";
    let at = "clusterMetadata.additionalInfo.joinCommand";
    for (what, here, there, shown) in [
        ("changed", OURS, json!(THEIRS), "*** masked *** there, *** masked *** here"),
        ("set", OURS, json!(""), "\"\" there, *** masked *** here"),
        ("taken back", "", json!(THEIRS), "*** masked *** there, \"\" here"),
        ("something else", OURS, json!({"x": THEIRS}), "an object there, *** masked *** here"),
    ] {
        let mut ours = sample();
        ours["clusterMetadata"]["additionalInfo"]["joinCommand"] = here.into();
        let mut entry = sample();
        entry["clusterMetadata"]["additionalInfo"]["joinCommand"] = there;
        let amendment = amend(
            &parsed(&ours),
            &entry,
            &Basis { departed: &departed(&[]), before: None, take_over: true, rescue: None },
        )
        .expect("JSON");
        assert_eq!(set(&amendment.bodies().expect("JSON")), json!({ at: here }), "{what}");
        let said = lines(&amendment.difference);
        assert_eq!(said, [format!("{at} is {shown}")], "{what}");
        let all = format!("{:?}", amendment.difference);
        assert!(!all.contains("hunter"), "{what}: {all}");
    }
    // Nor as a part of what is set whole.
    let mut ours = sample();
    ours["clusterMetadata"]["additionalInfo"]["joinCommand"] = OURS.into();
    let mut entry = sample();
    remove(&mut entry, "clusterMetadata");
    let amendment = amend(
        &parsed(&ours),
        &entry,
        &Basis { departed: &departed(&[]), before: None, take_over: true, rescue: None },
    )
    .expect("JSON");
    assert_eq!(
        set(&amendment.bodies().expect("JSON"))["clusterMetadata"]["additionalInfo"]["joinCommand"],
        OURS
    );
    assert!(!format!("{:?}", amendment.difference).contains("hunter"));
}

/// A list that has to be written anew in pieces, and the process ends after the first: what nobody but
/// the network knew is not lost by it, nor the order.
#[test]
fn a_list_that_was_written_in_part_is_made_whole() {
    let node = |id: &str| json!({"id": id, "memory": 1, "pad": "x".repeat(1500)});
    let mut ours = sample();
    let mut entry = sample();
    let mut expected = Vec::new();
    for number in 0..200 {
        // Every third is one that only the network knows, and one of them has departed.
        let id = format!("n{number}");
        let mut held = node(&id);
        if number % 3 != 0 {
            let mut mine = sample()["nodes"]["nodeData"][0].clone();
            mine["id"] = id.clone().into();
            list(&mut ours).push(mine.clone());
            mine["pad"] = held["pad"].take();
            held = mine;
        }
        list(&mut entry).push(held);
        if number != 6 {
            expected.push(id);
        }
    }
    let ours = parsed(&ours);
    let gone = departed(&["n6"]);
    let basis = Basis { departed: &gone, before: None, take_over: false, rescue: None };
    let first = amend(&ours, &entry, &basis).expect("JSON");
    let bodies = first.bodies().expect("JSON");
    assert!(bodies.len() > 2, "{}", bodies.len());
    let rescue = first.rescue().expect("it is written anew");
    // As it is stored in between.
    let rescue = serde_json::to_value(&rescue).expect("JSON");
    let rescue = serde_json::from_value(rescue).expect("what was stored");

    let mut broken_off = entry.clone();
    broken_off["nodes"]["nodeData"] = bodies[0]["nodes.nodeData"].clone();
    let held = list(&mut broken_off).len();
    assert!(held < 150, "{held}");
    let basis = Basis { rescue: Some(&rescue), ..basis };
    let rest = amend(&ours, &broken_off, &basis).expect("JSON");
    assert_eq!(rest.difference.removed, [""; 0]);
    for body in rest.bodies().expect("JSON") {
        for (path, value) in body.as_object().expect("an object") {
            if let Some(index) = path.strip_prefix("nodes.nodeData.") {
                assert_eq!(index, list(&mut broken_off).len().to_string());
                list(&mut broken_off).push(value.clone());
            }
        }
    }
    let ids = |entry: &mut Value| -> Vec<String> {
        list(entry).iter().map(|node| node["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(&mut broken_off)[2..], expected);
}
