//! The document as `GET /v1/document` shows it, as bytes: written once for all who ask until it changes,
//! and sent without another copy.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::Timestamp;
use serde::Serialize;

use super::views::DocumentView;
use crate::aggregator::Aggregator;
use crate::cluster_file::{AiosTarget, TargetName};

/// How large a piece is, give or take a word.
const PIECE_BYTES: usize = 64 * 1024;

/// What nobody has asked for in this time is let go.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// A value as JSON, in pieces.
#[derive(Debug, Clone)]
pub struct Pieces {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Pieces {
    /// Writes a value.
    ///
    /// # Errors
    ///
    /// When it cannot be encoded.
    pub fn of(value: &impl Serialize) -> serde_json::Result<Self> {
        let mut cutter = Cutter::default();
        serde_json::to_writer(&mut cutter, value)?;
        cutter.cut();
        let len = cutter.pieces.iter().map(Bytes::len).sum();
        Ok(Self { pieces: cutter.pieces.into(), len })
    }

    /// The pieces in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }
}

impl IntoResponse for Pieces {
    fn into_response(self) -> Response {
        let Self { pieces, len } = self;
        let all = (0..pieces.len()).filter_map(move |index| pieces.get(index).cloned());
        let body = Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>)));
        let headers =
            [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, len.to_string())];
        (headers, body).into_response()
    }
}

/// Cuts what is written into pieces.
#[derive(Default)]
struct Cutter {
    pieces: Vec<Bytes>,
    current: Vec<u8>,
}

impl Cutter {
    fn cut(&mut self) {
        if !self.current.is_empty() {
            self.pieces.push(std::mem::take(&mut self.current).into());
        }
    }
}

impl io::Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() + bytes.len() > PIECE_BYTES {
            self.cut();
        }
        if self.current.capacity() == 0 {
            self.current.reserve_exact(PIECE_BYTES.max(bytes.len()));
        }
        self.current.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The documents that were asked for lately, by target; without one, the document as such.
#[derive(Debug, Default)]
pub struct Documents(Mutex<BTreeMap<Option<TargetName>, Kept>>);

#[derive(Debug)]
struct Kept {
    /// The ledger's, before it was written.
    generation: u64,
    pieces: Pieces,
    asked: Instant,
}

impl Documents {
    /// What would be sent to a target now, secrets masked; `None`: the document as such. Takes a while
    /// where it has to be written; then whoever else asks waits for it.
    ///
    /// # Errors
    ///
    /// When the document cannot be encoded.
    pub fn of(
        &self,
        aggregator: &Aggregator,
        target: Option<&AiosTarget>,
    ) -> serde_json::Result<Pieces> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, asked) = (generation(aggregator), Instant::now());
        let name = target.map(|target| target.name.clone());
        if let Some(kept) = all.get_mut(&name).filter(|kept| kept.generation == generation) {
            kept.asked = asked;
            return Ok(kept.pieces.clone());
        }
        // Not two of them at the same time.
        drop(all.remove(&name));
        let pieces = Pieces::of(&DocumentView::of(aggregator, target))?;
        all.insert(name, Kept { generation, pieces: pieces.clone(), asked });
        Ok(pieces)
    }

    /// Lets go of what has changed since, and of what nobody has asked for in a while.
    pub fn tidy(&self, aggregator: &Aggregator) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        let generation = generation(aggregator);
        all.retain(|_, kept| kept.generation == generation && kept.asked.elapsed() < KEPT_FOR);
    }
}

/// What the document is made of beside the ledger and the Nodes stays the same while the process runs.
fn generation(aggregator: &Aggregator) -> u64 {
    aggregator.ledger(aggregator.nodes.all().as_ref(), Timestamp::now()).generation()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pieces_are_the_bytes_that_are_written_at_once() {
        let long = "x".repeat(3 * PIECE_BYTES);
        let many: Vec<Value> = (0..30_000).map(|n| json!({"n": n, "name": "a name"})).collect();
        for value in [json!(null), json!(long), json!(many), json!([many, long, many])] {
            let pieces = Pieces::of(&value).expect("JSON");
            let whole: Vec<u8> = pieces.iter().flatten().copied().collect();
            assert!(whole == serde_json::to_vec(&value).expect("JSON"));
            assert_eq!(pieces.len, whole.len());
            let least = whole.len() / (2 * PIECE_BYTES);
            assert!(pieces.iter().count() >= least, "in pieces");
        }
    }
}
