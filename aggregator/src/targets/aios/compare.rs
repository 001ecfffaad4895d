//! How the registry's entry differs from our document, in the fields that are ours.

use serde_json::Value;

use crate::document::ClusterDocument;

/// Where the cluster is and what it has. What a network's policy may change (status, reputation,
/// tags) and what is free-form is not compared.
const OUR_FIELDS: [&str; 8] =
    ["regionId", "nodes", "gpus", "vcpus", "memory", "swap", "storage", "network"];

/// More than this helps nobody.
const MOST_SHOWN: usize = 5;

/// One line a difference, at most a handful; none: equal in our fields.
pub fn differences(ours: &ClusterDocument, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match serde_json::to_value(ours) {
        Ok(ours) => {
            for field in OUR_FIELDS {
                compare(field, ours.get(field), theirs.get(field), &mut found);
            }
        }
        Err(error) => found.push(format!("our document cannot be compared: {error}")),
    }
    if found.len() > MOST_SHOWN {
        let more = found.len() - MOST_SHOWN;
        found.truncate(MOST_SHOWN);
        found.push(format!("and {more} more"));
    }
    found
}

/// Keys that only their side has are theirs to keep.
fn compare(path: &str, ours: Option<&Value>, theirs: Option<&Value>, found: &mut Vec<String>) {
    match (ours, theirs) {
        (None, _) => {}
        (Some(Value::Object(ours)), Some(Value::Object(theirs))) => {
            for (key, value) in ours {
                compare(&format!("{path}.{key}"), Some(value), theirs.get(key), found);
            }
        }
        (Some(Value::Array(ours)), Some(Value::Array(theirs))) => {
            if ours.len() != theirs.len() {
                let (ours, theirs) = (ours.len(), theirs.len());
                found.push(format!("{path} has {theirs} entries there, {ours} here"));
                return;
            }
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(&format!("{path}.{index}"), Some(ours), Some(theirs), found);
            }
        }
        // A database may give an integer back as a float.
        (Some(Value::Number(ours)), Some(Value::Number(theirs)))
            if ours.as_f64() == theirs.as_f64() => {}
        (Some(ours), Some(theirs)) if ours == theirs => {}
        (Some(ours), Some(theirs)) => {
            found.push(format!("{path} is {} there, {} here", shown(theirs), shown(ours)));
        }
        (Some(ours), None) => found.push(format!("{path} is missing there, {} here", shown(ours))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => super::bounded(&scalar.to_string()),
    }
}
