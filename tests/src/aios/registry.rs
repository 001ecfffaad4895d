//! AIOS's registry of clusters: an Express service that keeps documents by a Mongoose schema in
//! `MongoDB`. What it does to a document is done here to a document in memory.
//!
//! Fields outside the schema are dropped without a word (`strict`), values are cast to the
//! schema's types, and empty objects are left out of what is shown (`minimize`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Map, Number, Value};

use super::flask::Json;

/// The largest body that Express' JSON parser takes by default, in bytes.
const BODY_LIMIT_BYTES: usize = 100 * 1024;

/// The furthest index behind an array's end that the database fills up to.
const MAX_BACKFILL: usize = 1_500_000;

/// How the registry refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryError {
    /// 404: no cluster of that id.
    NotFound,
    /// 413: the body is too large.
    PayloadTooLarge,
    /// 500: validation, casting, a duplicate id, a refusal of the database. They look all alike.
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    TextList,
    /// Anything.
    Mixed,
    /// A list of anything.
    MixedList,
}

struct Field {
    path: &'static str,
    kind: Kind,
    required: bool,
}

const fn required(path: &'static str, kind: Kind) -> Field {
    Field { path, kind, required: true }
}

const fn optional(path: &'static str, kind: Kind) -> Field {
    Field { path, kind, required: false }
}

const SCHEMA: [Field; 18] = [
    required("id", Kind::Text),
    required("regionId", Kind::Text),
    required("nodes.count", Kind::Number),
    optional("nodes.nodeData", Kind::MixedList),
    required("gpus.count", Kind::Number),
    required("gpus.memory", Kind::Number),
    required("vcpus.count", Kind::Number),
    required("memory", Kind::Number),
    required("swap", Kind::Number),
    required("storage.disks", Kind::Number),
    required("storage.size", Kind::Number),
    required("network.interfaces", Kind::Number),
    required("network.txBandwidth", Kind::Number),
    required("network.rxBandwidth", Kind::Number),
    optional("config", Kind::Mixed),
    required("tags", Kind::TextList),
    required("clusterMetadata", Kind::Mixed),
    required("reputation", Kind::Number),
];

/// What AIOS takes every node to have once its infrastructure runs, whatever was registered.
const FIXED_CAPACITIES: [(&str, u64); 5] = [
    ("swap", 0),
    ("storage.disks", 1),
    ("storage.size", 512_000),
    ("network.txBandwidth", 10_000),
    ("network.rxBandwidth", 10_000),
];

/// The registered clusters.
#[derive(Debug, Default)]
pub struct Registry {
    /// In the order of registration.
    clusters: Vec<Map<String, Value>>,
    registered: u64,
}

impl Registry {
    pub(super) fn clusters(&self) -> Vec<Value> {
        self.clusters.iter().map(|cluster| Entry(cluster).to_value()).collect()
    }

    /// Registers a cluster.
    pub fn create(&mut self, document: &Value) -> Result<Entry<'_>, RegistryError> {
        within_limit(document)?;
        let mut stored = Map::new();
        for field in &SCHEMA {
            let sent = field.path.split('.').try_fold(document, |value, name| value.get(name));
            let is_list = matches!(field.kind, Kind::TextList | Kind::MixedList);
            let value = match sent {
                Some(value) => cast(field.kind, value)?,
                // Mongoose gives a list that is missing an empty one, which counts as there.
                None if is_list => Value::Array(Vec::new()),
                None => Value::Null,
            };
            if field.required && (value.is_null() || value.as_str() == Some("")) {
                return Err(RegistryError::Internal);
            }
            if sent.is_some() || is_list {
                set(&mut stored, field.path, value)?;
            }
        }
        if self.position(stored.get("id")).is_some() {
            return Err(RegistryError::Internal);
        }
        self.registered += 1;
        stored.insert("_id".to_owned(), Value::String(format!("{:024x}", self.registered)));
        stored.insert("__v".to_owned(), Value::from(0));
        self.clusters.push(stored);
        self.clusters.last().map(Entry).ok_or(RegistryError::Internal)
    }

    /// How many clusters were ever stored.
    pub const fn registered(&self) -> u64 {
        self.registered
    }

    /// Shows a cluster.
    pub fn read(&self, id: &str) -> Result<Entry<'_>, RegistryError> {
        self.find(id).and_then(|at| self.clusters.get(at)).map(Entry).ok_or(RegistryError::NotFound)
    }

    /// Carries out `{"$set": {PATH: VALUE, …}}`, all of it or nothing. Validators do not run on
    /// updates, casts do.
    pub fn update(&mut self, id: &str, update: &Value) -> Result<Entry<'_>, RegistryError> {
        within_limit(update)?;
        let sent = update.get("$set").and_then(Value::as_object).ok_or(RegistryError::Internal)?;
        let mut accepted = BTreeMap::new();
        for (path, value) in sent {
            if let Some(value) = by_schema(path, value)? {
                accepted.insert(path.as_str(), value);
            }
        }
        let has_one_above = |path: &str| {
            path.rmatch_indices('.')
                .any(|(dot, _)| path.get(..dot).is_some_and(|above| accepted.contains_key(above)))
        };
        if accepted.keys().any(|path| has_one_above(path)) {
            // MongoDB: "Updating the path … would create a conflict at …".
            return Err(RegistryError::Internal);
        }
        let at = self.find(id).ok_or(RegistryError::NotFound)?;
        let other = accepted.get("id").and_then(|id| self.position(Some(id)));
        if other.is_some_and(|other| other != at) {
            return Err(RegistryError::Internal);
        }
        let cluster = self.clusters.get_mut(at).ok_or(RegistryError::NotFound)?;
        // None of the paths leads below another one, so that none stands in another's way: what
        // can be set now can be set after the others.
        for path in accepted.keys() {
            settable(cluster, path)?;
        }
        // In the order in which they were sent: an index makes room for itself only.
        for path in sent.keys() {
            if let Some(value) = accepted.remove(path.as_str()) {
                set(cluster, path, value)?;
            }
        }
        Ok(Entry(cluster))
    }

    /// Removes a cluster; the answer is what was removed.
    pub(super) fn delete(&mut self, id: &str) -> Result<Json, RegistryError> {
        let at = self.find(id).ok_or(RegistryError::NotFound)?;
        Ok(Entry(&self.clusters.remove(at)).to_json())
    }

    /// Writes the fixed capacities over those of every node and their sums over the cluster's, as
    /// AIOS does when its infrastructure starts.
    pub(super) fn overwrite_capacities(&mut self, id: &str) {
        let Some(cluster) = self.find(id).and_then(|at| self.clusters.get_mut(at)) else { return };
        let mut nodes = 0;
        if let Some(Value::Array(entries)) = cluster
            .get_mut("nodes")
            .and_then(Value::as_object_mut)
            .and_then(|group| group.get_mut("nodeData"))
        {
            for node in entries.iter_mut().filter_map(Value::as_object_mut) {
                nodes += 1;
                for (path, capacity) in FIXED_CAPACITIES {
                    put(node, path, Value::from(capacity));
                }
            }
        }
        for (path, capacity) in FIXED_CAPACITIES {
            put(cluster, path, Value::from(capacity * nodes));
        }
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.position(Some(&Value::from(id)))
    }

    fn position(&self, id: Option<&Value>) -> Option<usize> {
        self.clusters.iter().position(|cluster| cluster.get("id") == id)
    }
}

/// A stored document as the registry shows it: without empty objects, except as elements of a
/// list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a>(&'a Map<String, Value>);

impl Entry<'_> {
    pub(super) fn id(&self) -> Option<&str> {
        self.0.get("id").and_then(Value::as_str)
    }

    /// As JSON.
    pub fn to_value(self) -> Value {
        Value::Object(minimize(self.0))
    }

    pub(super) fn to_json(self) -> Json {
        Json::of_fields(self.0, &has_content)
    }
}

/// Whether a field is more than empty objects within each other.
fn has_content(value: &Value) -> bool {
    value.as_object().is_none_or(|fields| fields.values().any(has_content))
}

fn minimize(fields: &Map<String, Value>) -> Map<String, Value> {
    let keep = |value: &Value| match value {
        Value::Object(inner) => {
            let inner = minimize(inner);
            (!inner.is_empty()).then_some(Value::Object(inner))
        }
        Value::Array(items) => Some(Value::Array(items.iter().map(minimize_element).collect())),
        other => Some(other.clone()),
    };
    fields.iter().filter_map(|(name, value)| Some((name.clone(), keep(value)?))).collect()
}

fn minimize_element(item: &Value) -> Value {
    match item {
        Value::Object(fields) => Value::Object(minimize(fields)),
        Value::Array(items) => Value::Array(items.iter().map(minimize_element).collect()),
        other => other.clone(),
    }
}

/// What the schema makes of a value that an update sets; `None`: it is dropped.
fn by_schema(path: &str, value: &Value) -> Result<Option<Value>, RegistryError> {
    if let Some(field) = SCHEMA.iter().find(|field| field.path == path) {
        return cast(field.kind, value).map(Some);
    }
    if let Some(field) = SCHEMA.iter().find(|field| is_below(path, field.path)) {
        return match field.kind {
            Kind::Mixed | Kind::MixedList => Ok(Some(value.clone())),
            Kind::TextList => cast(Kind::Text, value).map(Some),
            Kind::Text | Kind::Number => Ok(None),
        };
    }
    if !SCHEMA.iter().any(|field| is_below(field.path, path)) {
        return Ok(None);
    }
    // A group of fields as a whole, such as `nodes`.
    let fields = value.as_object().ok_or(RegistryError::Internal)?;
    let mut kept = Map::new();
    for (name, value) in fields {
        if let Some(value) = by_schema(&format!("{path}.{name}"), value)? {
            kept.insert(name.clone(), value);
        }
    }
    Ok(Some(Value::Object(kept)))
}

/// Whether a dotted path leads below another one.
fn is_below(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'))
}

/// Casts as Mongoose does.
fn cast(kind: Kind, value: &Value) -> Result<Value, RegistryError> {
    let listed = |value: &Value| match value {
        Value::Array(items) => items.clone(),
        single => vec![single.clone()],
    };
    match (kind, value) {
        (_, Value::Null) => Ok(Value::Null),
        (Kind::Mixed, value) => Ok(value.clone()),
        (Kind::MixedList, value) => Ok(Value::Array(listed(value))),
        (Kind::TextList, value) => {
            let items: Result<_, _> = listed(value).iter().map(|i| cast(Kind::Text, i)).collect();
            items.map(Value::Array)
        }
        (Kind::Text, Value::String(_)) | (Kind::Number, Value::Number(_)) => Ok(value.clone()),
        (Kind::Text, Value::Bool(_) | Value::Number(_)) => Ok(Value::String(value.to_string())),
        (Kind::Number, Value::Bool(truth)) => Ok(Value::from(u8::from(*truth))),
        (Kind::Number, Value::String(text)) if text.is_empty() => Ok(Value::Null),
        (Kind::Number, Value::String(text)) => number(text).ok_or(RegistryError::Internal),
        (Kind::Text | Kind::Number, Value::Array(_) | Value::Object(_)) => {
            Err(RegistryError::Internal)
        }
    }
}

/// A number written as text.
fn number(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(whole) = text.parse::<i64>() {
        return Some(Value::from(whole));
    }
    text.parse().ok().and_then(Number::from_f64).map(Value::Number)
}

/// Whether [`set`] can set a dotted path.
fn settable(document: &Map<String, Value>, path: &str) -> Result<(), RegistryError> {
    let (first, mut rest) = split(path);
    let mut place = document.get(first);
    while let Some(path) = rest {
        let name;
        (name, rest) = split(path);
        place = match place {
            None | Some(Value::Null) => None,
            Some(Value::Object(fields)) => fields.get(name),
            Some(Value::Array(items)) => items.get(index(items, name)?),
            Some(_) => return Err(RegistryError::Internal),
        };
    }
    Ok(())
}

/// An index of a list, as far behind its end as the database fills it up.
fn index(items: &[Value], name: &str) -> Result<usize, RegistryError> {
    let index: usize = name.parse().map_err(|_not_an_index| RegistryError::Internal)?;
    if index > items.len() + MAX_BACKFILL {
        return Err(RegistryError::Internal);
    }
    Ok(index)
}

/// The database's `$set` of one dotted path: missing objects are made, lists are filled up with null.
fn set(document: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), RegistryError> {
    let (first, mut rest) = split(path);
    if rest.is_none() {
        document.insert(first.to_owned(), value);
        return Ok(());
    }
    let mut place = document.entry(first).or_insert(Value::Null);
    while let Some(path) = rest {
        let name;
        (name, rest) = split(path);
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        place = match place {
            Value::Object(fields) => fields.entry(name).or_insert(Value::Null),
            Value::Array(items) => {
                let index = index(items, name)?;
                if index >= items.len() {
                    items.resize(index + 1, Value::Null);
                }
                items.get_mut(index).ok_or(RegistryError::Internal)?
            }
            _ => return Err(RegistryError::Internal),
        };
    }
    *place = value;
    Ok(())
}

/// [`set`], where what is no object gives way to one.
fn put(document: &mut Map<String, Value>, path: &str, value: Value) {
    match split(path) {
        (name, None) => {
            document.insert(name.to_owned(), value);
        }
        (name, Some(rest)) => {
            let group = document.entry(name).or_insert(Value::Null);
            if !group.is_object() {
                *group = Value::Object(Map::new());
            }
            if let Value::Object(fields) = group {
                put(fields, rest, value);
            }
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)))
}

/// Refuses a body that is too large as Python's `requests` writes it.
fn within_limit(body: &Value) -> Result<(), RegistryError> {
    if python_json_bytes(body) > BODY_LIMIT_BYTES {
        return Err(RegistryError::PayloadTooLarge);
    }
    Ok(())
}

/// The length of `json.dumps(value)`: a space after each comma and colon, and everything outside
/// printable ASCII escaped.
fn python_json_bytes(value: &Value) -> usize {
    let separators = |items: usize| 2 * items.saturating_sub(1);
    match value {
        Value::Object(fields) => {
            let inner: usize = fields
                .iter()
                .map(|(name, value)| python_text_bytes(name) + 2 + python_json_bytes(value))
                .sum();
            2 + inner + separators(fields.len())
        }
        Value::Array(items) => {
            2 + items.iter().map(python_json_bytes).sum::<usize>() + separators(items.len())
        }
        Value::String(text) => python_text_bytes(text),
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) => {
            let mut written = Length(0);
            match write!(written, "{number}") {
                // It never refuses.
                Ok(()) | Err(fmt::Error) => written.0,
            }
        }
    }
}

/// Counts the bytes that are written to it.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

/// Counted by the bytes of UTF-8, which is a good deal faster than by characters.
fn python_text_bytes(text: &str) -> usize {
    let inner: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            b' '..=b'~' => 1,
            // The rest of a character whose first byte has been counted.
            0x80..=0xbf => 0,
            // A pair of surrogates.
            0xf0.. => 12,
            _ => 6,
        })
        .sum();
    2 + inner
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> Value {
        json!({
            "id": "c1", "regionId": "eu", "nodes": { "count": 1, "nodeData": [{ "id": "n1" }] },
            "gpus": { "count": 0, "memory": 0 }, "vcpus": { "count": 4 }, "memory": 1024,
            "swap": 0, "storage": { "disks": 1, "size": 10 },
            "network": { "interfaces": 1, "txBandwidth": 0, "rxBandwidth": 0 },
            "clusterMetadata": { "name": "one" }, "reputation": 0
        })
    }

    #[test]
    fn lengths_are_those_of_pythons_json() {
        // Each expected text is what `python3 -c 'import json; print(json.dumps(…))'` prints.
        for (value, python) in [
            (json!({}), r"{}"),
            (json!({ "a": [1, 2.5, null, true] }), r#"{"a": [1, 2.5, null, true]}"#),
            (json!({ "a": "", "b": {} }), r#"{"a": "", "b": {}}"#),
            (json!("ü😀\u{7f}\u{1}"), r#""\u00fc\ud83d\ude00\u007f\u0001""#),
            (json!("\"\\\n\t/"), r#""\"\\\n\t/""#),
            (json!([false, -12, 0.25]), "[false, -12, 0.25]"),
        ] {
            assert_eq!(python_json_bytes(&value), python.len(), "{value}");
        }
    }

    #[test]
    fn the_limit_counts_the_wrapper_of_an_update() {
        let update = |extra: usize| {
            // 10 bytes of wrapper, 25 of the field's name and the quotes.
            let text = "x".repeat(102_400 - 35 + extra);
            json!({ "$set": { "clusterMetadata.a": text } })
        };
        let written = update(0).to_string().replace(':', ": ");
        assert_eq!(written.len(), 102_400, "as Python writes it");
        for (name, extra, answer) in
            [("just fits", 0, Ok(())), ("a byte more", 1, Err(RegistryError::PayloadTooLarge))]
        {
            let mut registry = Registry::default();
            registry.create(&cluster()).expect("valid");
            assert_eq!(registry.update("c1", &update(extra)).map(|_| ()), answer, "{name}");
        }
    }

    #[test]
    fn fields_below_a_list_append_in_order() {
        let mut registry = Registry::default();
        registry.create(&cluster()).expect("valid");
        // Ten comes before nine where names are sorted as texts.
        let fields: Map<_, _> =
            (1..12).map(|n| (format!("nodes.nodeData.{n}"), json!({ "id": n }))).collect();
        let update = json!({ "$set": fields });
        let answer = registry.update("c1", &update).expect("valid").to_value();
        let ids: Vec<_> = answer["nodes"]["nodeData"]
            .as_array()
            .expect("a list")
            .iter()
            .skip(1)
            .map(|entry| entry["id"].as_u64().expect("a number"))
            .collect();
        assert_eq!(ids, (1..12).collect::<Vec<_>>());
    }

    #[test]
    fn capacities_that_are_overwritten() {
        let mut registry = Registry::default();
        let mut document = cluster();
        // A node without any, one with a scalar in the way, and what is no node.
        document["nodes"]["nodeData"] = json!([{ "id": "n1" }, { "id": "n2", "storage": 7, "network": { "interfaces": 2 } }, 5]);
        registry.create(&document).expect("valid");
        registry.overwrite_capacities("c1");
        registry.overwrite_capacities("nobody");
        let stored = registry.read("c1").expect("registered").to_value();
        let storage = json!({ "disks": 1, "size": 512_000 });
        let fixed = json!({ "txBandwidth": 10_000, "rxBandwidth": 10_000 });
        let expected = json!([
            { "id": "n1", "swap": 0, "storage": storage, "network": fixed },
            {
                "id": "n2", "swap": 0, "storage": storage,
                "network": { "interfaces": 2, "txBandwidth": 10_000, "rxBandwidth": 10_000 }
            },
            5
        ]);
        assert_eq!(stored["nodes"]["nodeData"], expected);
        assert_eq!(stored["storage"], json!({ "disks": 2, "size": 1_024_000 }));
        let network = json!({ "interfaces": 1, "txBandwidth": 20_000, "rxBandwidth": 20_000 });
        assert_eq!(stored["network"], network);
        assert_eq!(stored["swap"], json!(0));
    }

    #[test]
    fn updates() {
        let stored = |field: &str| format!("/{}", field.replace('.', "/"));
        for (name, update, field, after) in [
            ("bare field", json!({ "memory": 7 }), "memory", json!(7)),
            ("dotted field", json!({ "nodes.count": 3 }), "nodes.count", json!(3)),
            (
                "list appended to",
                json!({ "nodes.nodeData.1": 5 }),
                "nodes.nodeData",
                json!([{ "id": "n1" }, 5]),
            ),
            ("gap in a list", json!({ "nodes.nodeData.2": 5 }), "nodes.nodeData.1", Value::Null),
            (
                "below a list",
                json!({ "nodes.nodeData.0.id": "n2" }),
                "nodes.nodeData.0.id",
                json!("n2"),
            ),
            (
                "below free-form data",
                json!({ "clusterMetadata.a.b": 1 }),
                "clusterMetadata.a",
                json!({ "b": 1 }),
            ),
            (
                "group replaced whole",
                json!({ "nodes": { "count": 2, "x": 1 } }),
                "nodes",
                json!({ "count": 2 }),
            ),
            ("number as text", json!({ "memory": "12" }), "memory", json!(12)),
            ("number for a text", json!({ "regionId": 5 }), "regionId", json!("5")),
            ("own $set", json!({ "$set": { "memory": 7 } }), "memory", json!(1024)),
            (
                "outside the schema",
                json!({ "status": "live", "gpus.modelNames": [] }),
                "gpus",
                json!({ "count": 0, "memory": 0 }),
            ),
        ] {
            let mut registry = Registry::default();
            registry.create(&cluster()).expect("valid");
            let update = json!({ "$set": update });
            let answer = registry.update("c1", &update).expect(name).to_value();
            assert_eq!(answer.pointer(&stored(field)), Some(&after), "{name}: {answer}");
            assert_eq!(registry.read("c1").map(Entry::to_value), Ok(answer), "{name}");
        }
    }

    #[test]
    fn updates_that_fail_change_nothing() {
        use RegistryError::{Internal, NotFound, PayloadTooLarge};
        for (name, id, update, error) in [
            ("unknown id", "c2", json!({ "memory": 7 }), NotFound),
            ("text for a number", "c1", json!({ "swap": 1, "memory": "lots" }), Internal),
            (
                "field below a number",
                "c1",
                json!({ "swap": 1, "clusterMetadata.name.x": 1 }),
                Internal,
            ),
            ("name in a list", "c1", json!({ "swap": 1, "nodes.nodeData.x": 1 }), Internal),
            ("absurd index", "c1", json!({ "nodes.nodeData.99999999999": 1 }), Internal),
            (
                "a path and one below it",
                "c1",
                json!({ "nodes.nodeData": [], "nodes.nodeData.0": 1 }),
                Internal,
            ),
            ("not an object", "c1", json!([1]), Internal),
            ("too large", "c1", json!({ "clusterMetadata": "x".repeat(102_400) }), PayloadTooLarge),
        ] {
            let mut registry = Registry::default();
            let before = registry.create(&cluster()).expect("valid").to_value();
            assert_eq!(registry.update(id, &json!({ "$set": update })), Err(error), "{name}");
            assert_eq!(registry.read("c1").map(Entry::to_value), Ok(before), "{name}");
        }
    }

    #[test]
    fn what_is_dropped_from_a_document() {
        let mut document = cluster();
        let fields = document.as_object_mut().expect("an object");
        fields.insert("status".to_owned(), json!("live"));
        fields.insert("gpus".to_owned(), json!({ "count": 0, "memory": 0, "modelNames": ["x"] }));
        fields.insert("config".to_owned(), json!({ "policy": {}, "useGateway": false }));
        let mut registry = Registry::default();
        let stored = registry.create(&document).expect("valid");
        let text = format!("{:?}", stored.to_json());
        assert!(text.contains("useGateway") && !text.contains("policy"), "{text}");
        let stored = stored.to_value();
        assert_eq!(stored.get("status"), None);
        assert_eq!(stored.get("gpus"), Some(&json!({ "count": 0, "memory": 0 })));
        assert_eq!(stored.get("config"), Some(&json!({ "useGateway": false })), "empty objects");
        assert_eq!(stored.get("tags"), Some(&json!([])), "a missing list");
    }
}
