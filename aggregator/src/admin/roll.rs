//! `GET /v1/nodes`, written node by node: of thousands of nodes the whole answer is larger than all that
//! the aggregator holds of them.

use std::sync::Arc;
use std::vec;

use axum::body::{Body, Bytes};
use futures_util::stream;
use jiff::Timestamp;
use rollcall_report::{NodeName, Shared};
use serde::Serialize;

use super::views::{NodeState, NodeView, NotOffered, not_offered};
use crate::aggregator::Aggregator;
use crate::class::NodeClass;
use crate::kubernetes::nodes::ByName;
use crate::roll::Entry;

/// How long a piece is, about, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

const BEGINNING: &[u8] = b"{\"nodes\":[";
const BETWEEN: &[u8] = b",";

/// A `NodesView` of the roll as it stands, as JSON.
pub fn body(aggregator: Arc<Aggregator>, now: Timestamp) -> Body {
    let known = aggregator.nodes.all();
    let conflicts = aggregator.conflicts(now);
    let classes = aggregator.classes();
    let entries = aggregator.roll().held_entries().into_iter();
    let (before, wholeness) = (BEGINNING, Vec::new());
    let nodes = Nodes { aggregator, now, known, conflicts, classes, entries, before, wholeness };
    Body::from_stream(stream::iter(Pieces(Some(nodes))))
}

/// The answer's pieces, each written when it is asked for.
struct Pieces(Option<Nodes>);

/// What is left to be written.
struct Nodes {
    aggregator: Arc<Aggregator>,
    now: Timestamp,
    known: Option<Arc<ByName>>,
    conflicts: Vec<String>,
    classes: Vec<NodeClass>,
    entries: vec::IntoIter<Shared<Entry>>,
    /// What stands before the next of them.
    before: &'static [u8],
    /// Whether those that are written are complete; left empty where no Nodes are known.
    wholeness: Vec<(NodeName, bool)>,
}

/// What follows the nodes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rest {
    conflicts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<NotOffered>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<NotOffered>,
}

impl Iterator for Pieces {
    type Item = serde_json::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let nodes = self.0.as_mut()?;
        let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        let written = nodes.write(&mut piece);
        if !matches!(written, Ok(true)) {
            self.0 = None;
        }
        Some(written.map(|_| piece.into()))
    }
}

impl Nodes {
    /// Writes the next piece; says whether another follows.
    fn write(&mut self, piece: &mut Vec<u8>) -> serde_json::Result<bool> {
        let known = self.known.as_deref();
        while piece.len() < PIECE_BYTES {
            let Some(entry) = self.entries.next() else { return self.end(piece).map(|()| false) };
            piece.extend_from_slice(std::mem::replace(&mut self.before, BETWEEN));
            let view = NodeView::among(known, &self.aggregator, &entry, &self.classes, self.now);
            serde_json::to_writer(&mut *piece, &view)?;
            if known.is_some() {
                self.wholeness.push((view.name, view.state == NodeState::Complete));
            }
        }
        Ok(true)
    }

    fn end(&mut self, piece: &mut Vec<u8>) -> serde_json::Result<()> {
        if self.before == BEGINNING {
            piece.extend_from_slice(BEGINNING);
        }
        piece.extend_from_slice(b"],");
        // Without its opening brace: it goes on with the object that the nodes are in.
        piece.extend(serde_json::to_vec(&self.rest())?.into_iter().skip(1));
        Ok(())
    }

    fn rest(&mut self) -> Rest {
        let roll: Vec<_> = self.wholeness.iter().map(|(name, whole)| (name, *whole)).collect();
        let known = self.known.as_deref();
        let (missing, left_out) =
            known.map(|known| not_offered(&self.aggregator, known, &roll)).unwrap_or_default();
        Rest { conflicts: std::mem::take(&mut self.conflicts), missing, left_out }
    }
}
