//! Whatever the network's entry looks like: once an amendment is carried out, there is nothing left
//! to amend, no node is gone that has not departed, and the totals are the sums of the nodes.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rollcall_aggregator::document::ClusterDocument;
use rollcall_aggregator::targets::aios::{Basis, Declared, INSTALLATION_KEY, amend, declared};
use rollcall_report::NodeId;
use rollcall_tests::aios::registry::Registry;
use serde_json::{Map, Value, json};

const IDS: [&str; 6] = ["a", "b", "c", "d", "e.f", "g_1"];

/// Among them such that a dotted path cannot lead through.
const KEYS: [&str; 9] = ["k", "l", "a.b", "$x", "", "0", "id", "urlMap", "joinCommand"];

const TOTALS: [&str; 10] = [
    "gpus/count",
    "gpus/memory",
    "vcpus/count",
    "memory",
    "swap",
    "storage/disks",
    "storage/size",
    "network/interfaces",
    "network/txBandwidth",
    "network/rxBandwidth",
];

fn scalar() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(3),
        json!(3.0),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("3"),
        json!("text"),
    ])
}

fn anything() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            fields(inner).prop_map(Value::from),
        ]
    })
}

fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    vec((select(&KEYS[..]), value), 0..4)
        .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn node(id: &'static str) -> impl Strategy<Value = Value> {
    let gpu = (select(vec!["A", "B"]), 0..3_u64)
        .prop_map(|(model, memory)| json!({"modelName": model, "memory": memory}));
    (vec(gpu, 0..3), prop::array::uniform8(0..3_u64)).prop_map(move |(gpus, numbers)| {
        let [memory, vcpus, swap, disks, size, interfaces, bandwidth, gpu_memory] = numbers;
        json!({
            "id": id,
            "gpus": {
                "count": gpus.len(), "memory": gpu_memory, "gpus": gpus,
                "features": if gpus.is_empty() { json!([]) } else { json!(["fp16"]) },
                "modelNames": [],
            },
            "vcpus": {"count": vcpus},
            "memory": memory,
            "swap": swap,
            "storage": {"disks": disks, "size": size},
            "network": {"interfaces": interfaces, "txBandwidth": bandwidth, "rxBandwidth": bandwidth},
        })
    })
}

/// A document with right totals.
fn document() -> impl Strategy<Value = Value> {
    let nodes = subsequence(&IDS[..], 0..5)
        .prop_shuffle()
        .prop_flat_map(|ids| ids.into_iter().map(node).collect::<Vec<_>>());
    let tags = vec(select(vec!["x", "y"]), 0..3);
    (nodes, fields(anything()), fields(anything()), fields(anything()), tags, 0..3_i64).prop_map(
        |(nodes, config, mut metadata, mut info, tags, reputation)| {
            info.insert(INSTALLATION_KEY.to_owned(), "ours".into());
            metadata.insert("additionalInfo".to_owned(), info.into());
            let mut document = json!({
                "id": "west", "regionId": "r", "status": "live",
                "nodes": {"count": nodes.len(), "nodeData": nodes},
                "gpus": {}, "vcpus": {}, "storage": {}, "network": {},
                "config": config, "tags": tags, "clusterMetadata": metadata,
                "reputation": reputation,
            });
            for total in TOTALS {
                let sum: u64 = nodes
                    .iter()
                    .filter_map(|node| node.pointer(&format!("/{total}"))?.as_u64())
                    .sum();
                match total.split_once('/') {
                    Some((group, field)) => document[group][field] = sum.into(),
                    None => document[total] = sum.into(),
                }
            }
            document
        },
    )
}

/// A node as somebody else may have left it, or something that is none.
fn held_node() -> impl Strategy<Value = Value> {
    let whole = select(&IDS[..]).prop_flat_map(node);
    let torn = (
        select(&IDS[..]).prop_flat_map(node),
        vec((0..8_usize, anything()), 0..3),
        fields(anything()),
    )
        .prop_map(|(mut node, torn, more)| {
            let node_fields = node.as_object_mut().expect("an object");
            for (key, value) in more {
                if key != "id" {
                    node_fields.insert(key, value);
                }
            }
            for (which, value) in torn {
                let key = ["gpus", "vcpus", "memory", "swap", "storage", "network"].get(which);
                match key {
                    Some(key) => node[*key] = value,
                    None => node["gpus"] = json!({"gpus": value}),
                }
            }
            node
        });
    prop_oneof![3 => whole, 3 => torn, 1 => anything()]
}

/// What others have written into the entry since it was made, by dotted path.
fn writes() -> impl Strategy<Value = Vec<(String, Value)>> {
    let list = prop_oneof![
        6 => vec(held_node(), 0..6).prop_map(Value::from),
        1 => anything(),
    ];
    let list = list.prop_map(|list| ("nodes.nodeData".to_owned(), list));
    let number = select(vec![json!(null), json!(0), json!(2), json!(2.0), json!(u64::MAX)]);
    let total = (select(&TOTALS[..]), number.clone())
        .prop_map(|(total, number)| (total.replace('/', "."), number));
    let count = number.prop_map(|number| ("nodes.count".to_owned(), number));
    let free =
        (select(vec!["config", "clusterMetadata", "clusterMetadata.additionalInfo"]), anything())
            .prop_map(|(field, value)| (field.to_owned(), value));
    let rest = select(vec![
        ("regionId".to_owned(), json!("elsewhere")),
        ("reputation".to_owned(), json!(7)),
        ("tags".to_owned(), json!(["theirs"])),
        ("tags".to_owned(), json!([])),
    ]);
    vec(prop_oneof![4 => list, 2 => total, 1 => count, 3 => free, 1 => rest], 0..6)
}

/// What is known of what our document said when the entry was last right.
#[derive(Debug, Clone)]
enum Before {
    Unknown,
    TheSame,
    Another(Value),
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![Just(Before::Unknown), Just(Before::TheSame), document().prop_map(Before::Another),]
}

fn parsed(document: &Value) -> ClusterDocument {
    serde_json::from_value(document.clone()).expect("a document")
}

fn ids(entry: &Value) -> Vec<&str> {
    let nodes = entry["nodes"]["nodeData"].as_array().into_iter().flatten();
    nodes.filter_map(|node| node["id"].as_str()).collect()
}

/// A node's share of a total. What is no number that makes sense counts for nothing.
fn share(node: &Value, total: &str) -> u64 {
    match node.pointer(&format!("/{total}")) {
        Some(Value::Number(number)) if number.as_f64() == Some(3.0) => 3,
        Some(value) => value.as_u64().unwrap_or(0),
        None => 0,
    }
}

proptest! {
    // The sources are found by no name from here.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_amendment_leaves_nothing_to_amend(
        first in document(),
        writes in writes(),
        ours in document(),
        departed in btree_set(select(&IDS[..]), 0..4),
        before in before(),
        is_asked in any::<bool>(),
    ) {
        let mut registry = Registry::default();
        registry.create(&first).expect("valid");
        for (path, value) in writes {
            // What the registry does not take was never there.
            let update = json!({"$set": {path: value}});
            let _refused = registry.update("west", &update).is_err();
        }
        let entry = registry.read("west").expect("it is there").to_value();
        let document = parsed(&ours);
        let departed: BTreeSet<NodeId> =
            departed.iter().map(|id| id.parse().expect("an id")).collect();
        let before: Option<Declared> = match &before {
            Before::Unknown => None,
            Before::TheSame => Some(declared(&document).expect("JSON")),
            Before::Another(other) => Some(declared(&parsed(other)).expect("JSON")),
        };
        // One without our mark is never ours.
        let mark = &entry["clusterMetadata"]["additionalInfo"][INSTALLATION_KEY];
        let take_over = is_asked || mark != "ours";
        let amendment =
            amend(&document, &entry, &Basis { departed: &departed, before: before.as_ref(), take_over, rescue: None }).expect("JSON");
        let bodies = amendment.bodies().expect("JSON");
        prop_assert_eq!(amendment.difference.is_none(), bodies.is_empty(), "{:?}", amendment);
        for body in &bodies {
            let update = json!({"$set": body});
            let outcome = registry.update("west", &update).map(|_| ());
            prop_assert_eq!(outcome, Ok(()), "the registry refuses {} for {}", update, entry);
        }
        let mended = registry.read("west").expect("it is there").to_value();
        let again =
            amend(&document, &mended, &Basis { departed: &departed, before: before.as_ref(), take_over, rescue: None }).expect("JSON");
        prop_assert!(again.difference.is_none(), "{:?} after {:?}", again, bodies);
        prop_assert_eq!(again.bodies().expect("JSON"), Vec::<Value>::new());

        let ours_now: BTreeSet<&str> = ids(&ours).into_iter().collect();
        let stays = |id: &&str| {
            ours_now.contains(id) || !departed.iter().any(|departed| departed.as_str() == *id)
        };
        let mut expected: Vec<&str> = Vec::new();
        for id in ids(&entry).into_iter().filter(stays).chain(ids(&ours)) {
            if !expected.contains(&id) {
                expected.push(id);
            }
        }
        prop_assert_eq!(ids(&mended), expected, "nobody is gone, doubled or moved");
        let nodes = mended["nodes"]["nodeData"].as_array().expect("a list");
        let count = mended["nodes"]["count"].as_f64();
        prop_assert_eq!(count, json!(nodes.len()).as_f64());
        for total in TOTALS {
            let sum = nodes.iter().fold(0, |sum: u64, node| sum.saturating_add(share(node, total)));
            let shown = mended.pointer(&format!("/{total}"));
            // A float of the same value is as good.
            prop_assert_eq!(shown.and_then(Value::as_f64), json!(sum).as_f64(), "{}", total);
        }
        for node in nodes.iter().filter(|node| node["id"].as_str().is_some_and(|id| !ours_now.contains(id))) {
            let was = entry["nodes"]["nodeData"].as_array().into_iter().flatten();
            prop_assert!(was.into_iter().any(|was| was == node), "a node that is kept was changed: {}", node);
        }
        if !take_over && before.as_ref().is_none_or(|before| *before == declared(&document).expect("JSON")) {
            prop_assert_eq!(&mended["config"], &entry["config"]);
            prop_assert_eq!(&mended["tags"], &entry["tags"]);
            prop_assert_eq!(&mended["reputation"], &entry["reputation"]);
        }
    }
}
