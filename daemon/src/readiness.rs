//! Readiness as a type: a daemon is ready when the last latch is gone.

use std::sync::{Arc, Mutex, PoisonError};

/// What a daemon still waits for before it is ready. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Vec<&'static str>>>,
}

impl Readiness {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something to wait for, said in words that complete "waiting for …".
    #[must_use = "the daemon is ready when the latch is dropped"]
    pub fn latch(&self, what: &'static str) -> Latch {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        Latch { readiness: self.clone(), what }
    }

    /// What is still waited for; empty when ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Holds readiness back until dropped.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    what: &'static str,
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut pending = self.readiness.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = pending.iter().position(|what| *what == self.what) {
            pending.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_latch_drops() {
        let readiness = Readiness::new();
        let first = readiness.latch("the store");
        let second = readiness.latch("the first report");
        drop(first);
        assert_eq!(readiness.pending(), ["the first report"]);
        drop(second);
        assert!(readiness.pending().is_empty());
    }
}
