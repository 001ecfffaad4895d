//! Bodies that the registry takes: it refuses any over 100 KiB, counted as AIOS's Python services
//! write it anew, with a space after each comma and colon and with everything beyond ASCII escaped.
//! What is larger goes in pieces, the totals with the first.

use serde_json::{Map, Value, json};

use super::amend::{Amendment, List};
use super::python::python_len;
use crate::document::ClusterDocument;

/// What the registry takes.
pub const REGISTRY_LIMIT_BYTES: usize = 100 * 1024;

/// What a body may have: a policy or a proxy on the way may add a little.
const BODY_BYTES: usize = REGISTRY_LIMIT_BYTES - 2048;

/// The document with as many of its nodes as one body takes; its totals are those of all. One that
/// is too large without any node is left as it is: the network says so.
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn first_piece(document: &ClusterDocument) -> serde_json::Result<ClusterDocument> {
    let mut piece = document.clone();
    let nodes = std::mem::take(&mut piece.nodes.node_data);
    let mut size = python_len(&piece)?;
    for node in nodes {
        size += python_len(&node)? + SEPARATOR;
        if size > BODY_BYTES && !piece.nodes.node_data.is_empty() {
            break;
        }
        piece.nodes.node_data.push(node);
    }
    Ok(piece)
}

/// How large the bodies are that a document is registered with, as the registry counts them: one
/// each.
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn piece_sizes(document: &ClusterDocument) -> serde_json::Result<Vec<usize>> {
    let first = first_piece(document)?;
    let sent = first.nodes.node_data.len();
    let rest = document.nodes.node_data.iter().skip(sent);
    let nodes: Result<Vec<Value>, _> = rest.map(serde_json::to_value).collect();
    let rest = bodies(&[], &List::Grows { from: sent, nodes: nodes? })?;
    let wrapped = rest.into_iter().map(|body| python_len(&json!({ "$set": body })));
    std::iter::once(python_len(&first)).chain(wrapped).collect()
}

impl Amendment {
    /// The bodies of the updates that make the entry right, to be sent one after the other.
    ///
    /// # Errors
    ///
    /// When they cannot be encoded.
    pub fn bodies(&self) -> serde_json::Result<Vec<Value>> {
        bodies(&self.fields, &self.list)
    }
}

fn bodies(fields: &[(String, Value)], list: &List) -> serde_json::Result<Vec<Value>> {
    let mut bodies = Bodies::default();
    for (path, value) in fields {
        bodies.set(path.clone(), value.clone())?;
    }
    match list {
        List::Stays => {}
        List::Grows { from, nodes } => bodies.append(*from, nodes)?,
        List::IsRewritten { nodes } => {
            let first = bodies.begin_list(nodes)?;
            bodies.append(first, nodes.get(first..).unwrap_or_default())?;
        }
    }
    Ok(bodies.finish())
}

/// `, ` or `: `.
const SEPARATOR: usize = 2;
/// `{"$set": {}}`: what the gateway wraps around an update.
const WRAPPING: usize = 12;

#[derive(Default)]
struct Bodies {
    full: Vec<Value>,
    current: Map<String, Value>,
    size: usize,
}

impl Bodies {
    fn set(&mut self, path: String, value: Value) -> serde_json::Result<()> {
        let size = python_len(&path)? + SEPARATOR + python_len(&value)? + SEPARATOR;
        if !self.has_room(size) {
            self.next();
        }
        self.size += size;
        self.current.insert(path, value);
        Ok(())
    }

    fn append(&mut self, from: usize, nodes: &[Value]) -> serde_json::Result<()> {
        for (index, node) in (from..).zip(nodes) {
            self.set(format!("{LIST}.{index}"), node.clone())?;
        }
        Ok(())
    }

    /// Writes the list anew with as many nodes as there is room for; says how many. The rest must
    /// come in further bodies: an update cannot set a list and something in it.
    fn begin_list(&mut self, nodes: &[Value]) -> serde_json::Result<usize> {
        let mut size = python_len(&LIST)? + 2 * SEPARATOR + "[]".len();
        let first_node = nodes.first().map(python_len).transpose()?.unwrap_or(0);
        if !self.has_room(size + first_node + SEPARATOR) {
            self.next();
        }
        let mut first = Vec::new();
        for node in nodes {
            size += python_len(&node)? + SEPARATOR;
            if !self.has_room(size) && !first.is_empty() {
                break;
            }
            first.push(node.clone());
        }
        let count = first.len();
        self.current.insert(LIST.to_owned(), first.into());
        self.next();
        Ok(count)
    }

    fn has_room(&self, size: usize) -> bool {
        self.size + size + WRAPPING <= BODY_BYTES
    }

    fn next(&mut self) {
        if !self.current.is_empty() {
            self.full.push(std::mem::take(&mut self.current).into());
        }
        self.size = 0;
    }

    fn finish(mut self) -> Vec<Value> {
        self.next();
        self.full
    }
}

const LIST: &str = "nodes.nodeData";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_in_pieces_and_nothing_is_lost() {
        let node = |n: usize| json!({"id": format!("n{n}"), "pad": "x".repeat(900)});
        let nodes: Vec<Value> = (0..400).map(node).collect();
        let fields = vec![("nodes.count".to_owned(), json!(400)), ("memory".to_owned(), json!(1))];
        for (what, list, from) in [
            ("grows", List::Grows { from: 7, nodes: nodes.clone() }, Some(7)),
            ("is rewritten", List::IsRewritten { nodes: nodes.clone() }, None),
        ] {
            let bodies = bodies(&fields, &list).expect(what);
            assert!(bodies.len() > 3, "{what}: {}", bodies.len());
            let mut sent = Vec::new();
            for (index, body) in bodies.iter().enumerate() {
                let wrapped = python_len(&json!({ "$set": body })).expect(what);
                assert!(wrapped <= REGISTRY_LIMIT_BYTES, "{what}: body {index} has {wrapped}");
                let fields = body.as_object().expect("an object");
                assert_eq!(fields.contains_key("nodes.count"), index == 0, "{what}: {index}");
                if let Some(Value::Array(first)) = fields.get(LIST) {
                    assert!(!fields.keys().any(|key| key.starts_with("nodes.nodeData.")), "{what}");
                    sent.extend(first.iter().cloned());
                }
                for (key, value) in
                    fields.iter().filter(|(key, _)| key.starts_with("nodes.nodeData."))
                {
                    let at = from.unwrap_or_default() + sent.len();
                    assert_eq!(*key, format!("{LIST}.{at}"), "{what}");
                    sent.push(value.clone());
                }
            }
            assert_eq!(sent, nodes, "{what}");
        }
        let empty = List::IsRewritten { nodes: vec![] };
        for (list, expected) in [(List::Stays, vec![]), (empty, vec![json!({ LIST: [] })])] {
            assert_eq!(bodies(&[], &list).expect("JSON"), expected);
        }
    }
}
