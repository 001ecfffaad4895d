//! What has to be set in the network's entry to make it right. Pure.
//!
//! Nodes are matched by their ids and stay where the network has them. A node of the entry that our
//! document does not hold is taken away only if it is recorded as departed; else it is kept as it
//! stands there, and the totals count it: silence, a lost store or a failed probe never make a
//! cluster smaller.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use rollcall_report::{NodeId, Shared};
use serde_json::{Map, Value, json};

use super::fields::{ALWAYS, Declared, ON_CHANGE, declared, is_within};
use super::{bounded, secrets};
use crate::document::{ClusterDocument, NodeData};
use crate::targets::{Difference, FieldDifference, Rescue};

/// The totals of the document: each is the sum of the same field over the nodes.
pub(super) const TOTALS: [&str; 10] = [
    "gpus.count",
    "gpus.memory",
    "vcpus.count",
    "memory",
    "swap",
    "storage.disks",
    "storage.size",
    "network.interfaces",
    "network.txBandwidth",
    "network.rxBandwidth",
];

/// What has to be set in an entry, with and without what waits for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Amendments {
    /// All of it.
    pub whole: Amendment,
    /// The same without taking any node away; `None`: none is to be taken away.
    pub keeping: Option<Amendment>,
}

impl Amendments {
    /// What is to be sent: with the nodes that go, or without.
    pub fn sent(&self, takes_away: bool) -> &Amendment {
        match &self.keeping {
            Some(keeping) if !takes_away => keeping,
            _ => &self.whole,
        }
    }
}

/// What has to be set in an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Amendment {
    /// What is different, and which nodes are kept or taken away.
    pub difference: Difference,
    /// Fields to set, by dotted path; the totals first.
    pub(super) fields: Vec<(String, Value)>,
    /// What is done to the list of nodes as a whole.
    pub(super) list: List,
}

impl Amendment {
    /// What is lost if the list is written anew, and that breaks off; `None`: it is not.
    pub fn rescue(&self) -> Option<Rescue> {
        let List::IsRewritten { nodes } = &self.list else { return None };
        let kept: HashSet<&str> = self.difference.kept.iter().map(String::as_str).collect();
        let is_kept =
            |node: &&Value| id_of(node).is_none_or(|id| kept.contains(bounded(id).as_str()));
        Some(Rescue {
            order: nodes.iter().filter_map(id_of).map(str::to_owned).collect(),
            kept: nodes.iter().filter(is_kept).cloned().collect(),
        })
    }
}

impl Rescue {
    fn node(&self, id: &str) -> Option<&Value> {
        self.kept.iter().find(|node| id_of(node) == Some(id))
    }
}

/// What is done to an entry's list of nodes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum List {
    /// Nothing; single fields of its nodes may be wrong.
    Stays,
    /// These come behind the last one.
    Grows {
        /// How many there are.
        from: usize,
        /// Those to come.
        nodes: Vec<Value>,
    },
    /// It is written anew: nothing can be taken out of it otherwise.
    IsRewritten {
        /// All that is to be in it.
        nodes: Vec<Value>,
    },
}

/// What a comparison goes by, besides our document and the network's entry.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// The nodes that may be taken away.
    pub departed: &'a BTreeSet<NodeId>,
    /// What we said in the fields that are ours on change when the entry was last right; `None`: that is
    /// not known, and they are left as they are.
    pub before: Option<&'a Declared>,
    /// Whether the entry is not ours yet, and becomes ours in all fields.
    pub take_over: bool,
    /// What the list held that is being written anew, and may lack in what was read.
    pub rescue: Option<&'a Rescue>,
}

/// Compares our document with the network's entry.
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn amend(
    ours: &ClusterDocument,
    theirs: &Value,
    basis: &Basis<'_>,
) -> serde_json::Result<Amendment> {
    let Basis { departed, before, take_over, rescue } = *basis;
    let mut found = Found::default();
    let merge = merge(&ours.nodes.node_data, theirs, departed, rescue)?;
    let document = beside_the_nodes(ours);

    let count = Value::from(merge.nodes.len());
    found.compare(&Place::field("nodes.count"), &count, theirs.pointer("/nodes/count"));
    for path in TOTALS {
        let at = pointer(path);
        let of_nodes = merge.nodes.iter().map(|node| number(node.pointer(&at)));
        // Somebody else may have written anything into a node that is kept.
        let sum = of_nodes.fold(0, u64::saturating_add);
        found.compare(&Place::field(path), &sum.into(), theirs.pointer(&at));
    }
    let now = declared(ours)?;
    let has_changed =
        |field: &str| before.is_some_and(|before| before.get(field) != now.get(field));
    let ours_now: Vec<&str> =
        ON_CHANGE.into_iter().filter(|field| take_over || has_changed(field)).collect();
    // No path leads below another: an update cannot set both.
    let always =
        ALWAYS.into_iter().filter(|path| !ours_now.iter().any(|field| is_within(path, field)));
    for path in always.chain(ours_now.iter().copied()) {
        if let Some(ours) = document.pointer(&pointer(path)) {
            found.compare(&Place::field(path), ours, theirs.pointer(&pointer(path)));
        }
    }
    let list = if merge.is_rewritten {
        List::IsRewritten { nodes: merge.nodes }
    } else {
        let held = list_of(theirs);
        for (index, (ours, theirs)) in merge.nodes.iter().zip(held).enumerate() {
            let place = Place::node(index, id_of(ours).unwrap_or_default());
            found.compare(&place, ours, Some(theirs));
        }
        let nodes: Vec<Value> = merge.nodes.into_iter().skip(held.len()).collect();
        let from = held.len();
        if nodes.is_empty() { List::Stays } else { List::Grows { from, nodes } }
    };
    let node = |id: &String, there: &str, here: &str| FieldDifference {
        field: format!("node {id}"),
        there: there.to_owned(),
        here: here.to_owned(),
    };
    let mut fields = found.lines;
    fields.extend(merge.added.iter().map(|id| node(id, "missing", "reported")));
    fields.extend(merge.removed.iter().map(|id| node(id, "listed", "departed")));
    fields.extend(merge.damage.map(|damage| FieldDifference {
        field: "nodes.nodeData".to_owned(),
        there: damage.to_owned(),
        here: "a list with each node once".to_owned(),
    }));
    Ok(Amendment {
        difference: Difference {
            fields,
            removed: merge.removed,
            renamed: 0,
            besides: 0,
            leaving: 0,
            kept: merge.kept,
            held_nodes: list_of(theirs).len(),
        },
        fields: found.set,
        list,
    })
}

/// What a document says in [`ALWAYS`] and [`ON_CHANGE`], without the work of encoding its nodes.
fn beside_the_nodes(document: &ClusterDocument) -> Value {
    json!({
        "regionId": document.region_id,
        "config": document.config,
        "tags": document.tags,
        "clusterMetadata": document.cluster_metadata,
        "reputation": document.reputation,
    })
}

/// The list of nodes as it should be, and how it came about.
struct Merge {
    nodes: Vec<Value>,
    added: Vec<String>,
    removed: Vec<String>,
    kept: Vec<String>,
    /// What the list is like, if it cannot be mended in single places.
    damage: Option<&'static str>,
    is_rewritten: bool,
}

const DAMAGED: &str = "a list with gaps, or with nodes twice in it";

/// Theirs in their order, then those of ours that are new.
fn merge(
    ours: &[Shared<NodeData>],
    entry: &Value,
    departed: &BTreeSet<NodeId>,
    rescue: Option<&Rescue>,
) -> serde_json::Result<Merge> {
    let mut by_id = HashMap::new();
    for node in ours {
        by_id.insert(node.id.as_str(), serde_json::to_value(node)?);
    }
    let theirs = list_of(entry);
    let departed: HashSet<&str> = departed.iter().map(NodeId::as_str).collect();
    let mut merge = Merge {
        nodes: Vec::with_capacity(ours.len().max(theirs.len())),
        added: Vec::new(),
        removed: Vec::new(),
        kept: Vec::new(),
        // Setting a place in what is no list would make an object of it.
        damage: (!has_list(entry)).then_some("no list"),
        is_rewritten: false,
    };
    let mut seen = HashSet::new();
    for held in theirs {
        let Some(id) = id_of(held) else {
            if held.as_object().is_some_and(|fields| !fields.is_empty()) {
                // Whatever it is, it is not ours to take away.
                merge.kept.push("an entry without an id".to_owned());
                merge.nodes.push(held.clone());
            } else {
                merge.damage = Some(DAMAGED);
            }
            continue;
        };
        if !seen.insert(id) {
            merge.damage = Some(DAMAGED);
            continue;
        }
        if let Some(mut node) = by_id.remove(id) {
            keep_their_keys(&mut node, held);
            merge.nodes.push(node);
        } else if departed.contains(id) {
            merge.removed.push(bounded(id));
        } else {
            merge.kept.push(bounded(id));
            merge.nodes.push(held.clone());
        }
    }
    // In the order that the list had, with what nobody else knows.
    for id in rescue.iter().flat_map(|rescue| &rescue.order) {
        if let Some(node) = by_id.remove(id.as_str()) {
            merge.added.push(id.clone());
            merge.nodes.push(node);
        } else if !seen.contains(id.as_str())
            && !departed.contains(id.as_str())
            && let Some(node) = rescue.and_then(|rescue| rescue.node(id))
        {
            merge.kept.push(bounded(id));
            merge.nodes.push(node.clone());
        }
    }
    for node in ours {
        if let Some(value) = by_id.remove(node.id.as_str()) {
            merge.added.push(node.id.to_string());
            merge.nodes.push(value);
        }
    }
    merge.is_rewritten = merge.damage.is_some() || !merge.removed.is_empty();
    Ok(merge)
}

/// What others added to an object stays in it.
fn keep_their_keys(ours: &mut Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                match ours.get_mut(key) {
                    Some(mine) => keep_their_keys(mine, value),
                    None => {
                        ours.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter_mut().zip(theirs) {
                keep_their_keys(ours, theirs);
            }
        }
        _ => {}
    }
}

#[derive(Default)]
struct Found {
    set: Vec<(String, Value)>,
    lines: Vec<FieldDifference>,
}

impl Found {
    /// Finds what is different below a path. Keys that only their side has are theirs to keep.
    fn compare(&mut self, at: &Place<'_>, ours: &Value, theirs: Option<&Value>) {
        if holds(theirs, ours) {
            return;
        }
        match (ours, theirs) {
            (Value::Object(ours), Some(Value::Object(theirs)))
                if ours.keys().all(|key| is_addressable(key)) =>
            {
                for (key, value) in ours {
                    self.compare(&at.below(key), value, theirs.get(key));
                }
            }
            (Value::Array(ours), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
                for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                    self.compare(&at.below(&index.to_string()), ours, Some(theirs));
                }
            }
            (ours, theirs) => {
                let mut value = ours.clone();
                if let Some(theirs) = theirs {
                    keep_their_keys(&mut value, theirs);
                }
                let path = at.path();
                let is_secret = secrets::is_secret(&path);
                self.lines.push(FieldDifference {
                    field: at.to_string(),
                    there: theirs.map_or_else(|| "missing".to_owned(), |it| shown(it, is_secret)),
                    here: shown(ours, is_secret),
                });
                self.set.push((path, value));
            }
        }
    }
}

/// Where a value stands in the entry: for the network a dotted path, for people with a node's id
/// in the place of its index.
#[derive(Clone)]
struct Place<'a> {
    node: Option<(usize, &'a str)>,
    path: String,
}

impl<'a> Place<'a> {
    fn field(path: &str) -> Self {
        Self { node: None, path: path.to_owned() }
    }

    fn node(index: usize, id: &'a str) -> Self {
        Self { node: Some((index, id)), path: String::new() }
    }

    fn below(&self, key: &str) -> Self {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { node: self.node, path }
    }

    fn path(&self) -> String {
        match self.node {
            Some((index, _)) if self.path.is_empty() => format!("nodes.nodeData.{index}"),
            Some((index, _)) => format!("nodes.nodeData.{index}.{}", self.path),
            None => self.path.clone(),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some((_, id)) if self.path.is_empty() => write!(f, "node {id}"),
            Some((_, id)) => write!(f, "node {id}: {}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// Whether their side says all that ours does; it may say more.
fn holds(theirs: Option<&Value>, ours: &Value) -> bool {
    match (ours, theirs) {
        // A database may give an integer back as a float.
        (Value::Number(ours), Some(Value::Number(theirs))) => {
            ours == theirs || ours.as_f64() == theirs.as_f64()
        }
        // The registry leaves empty objects out of what it shows.
        (Value::Object(ours), None) => is_empty(ours),
        (Value::Object(ours), Some(Value::Object(theirs))) => {
            ours.iter().all(|(key, value)| holds(theirs.get(key), value))
        }
        (Value::Array(ours), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).all(|(ours, theirs)| holds(Some(theirs), ours))
        }
        (ours, theirs) => theirs == Some(ours),
    }
}

/// Whether a key can stand in a dotted path. Others are set with the object that they are in.
fn is_addressable(key: &str) -> bool {
    !key.is_empty() && !key.contains('.') && !key.starts_with('$')
}

fn is_empty(fields: &Map<String, Value>) -> bool {
    fields.values().all(|value| value.as_object().is_some_and(is_empty))
}

fn has_list(entry: &Value) -> bool {
    entry.pointer("/nodes/nodeData").is_some_and(Value::is_array)
}

fn list_of(entry: &Value) -> &[Value] {
    entry.pointer("/nodes/nodeData").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn id_of(node: &Value) -> Option<&str> {
    node.get("id").and_then(Value::as_str)
}

/// A number of a node that somebody else may have written.
fn number(value: Option<&Value>) -> u64 {
    let Some(Value::Number(number)) = value else { return 0 };
    let whole = || number.as_f64().and_then(|number| format!("{number:.0}").parse().ok());
    number.as_u64().or_else(whole).unwrap_or(0)
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

fn shown(value: &Value, is_secret: bool) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        scalar if is_secret => secrets::masked(scalar),
        scalar => bounded(&scalar.to_string()),
    }
}
