//! How long what is to be written waits for what comes after it.
//!
//! One commit waits for the disk once, however much it holds. So a burst is gathered, for as long as more
//! of it comes; what comes alone is written at once. Pure: the store's thread brings the clock.

use std::time::Duration;

/// How long it takes until somebody looks whether more has come.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// How much longer each write that has come, or is expected, lets the first one wait.
const FOR_EACH: Duration = Duration::from_millis(1);
/// How long the first one waits at most.
const LONGEST: Duration = Duration::from_millis(100);
/// How long a burst is remembered.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How many writes are committed together at most; there are no more where all who report wait.
pub(super) const MOST: usize = super::QUEUE;
/// How many bytes of reports are committed together at most, but for the last one.
pub(super) const MOST_BYTES: usize = 8 * 1024 * 1024;

/// What has come so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    /// How many writes.
    pub(super) count: usize,
    /// How many bytes of reports are in them.
    pub(super) bytes: usize,
    /// How long the first of them has waited.
    pub(super) waited: Duration,
    /// Whether one has come since the last look.
    pub(super) grows: bool,
}

/// Decides whether to wait, by what came together the last time: whoever was answered then may have more.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    expected: usize,
}

impl Gathering {
    /// Something comes after so long a time in which nothing came.
    pub(super) fn begins(&mut self, idle: Duration) {
        if idle > REMEMBERED {
            self.expected = 0;
        }
    }

    /// Whether to look again a little later, rather than to commit what has come.
    pub(super) fn waits(&self, so_far: Gathered) -> bool {
        let Gathered { count, bytes, waited, grows } = so_far;
        let many = count.max(self.expected);
        if many <= 1 || count >= MOST || bytes >= MOST_BYTES {
            return false;
        }
        let longest = FOR_EACH.saturating_mul(u32::try_from(many).unwrap_or(u32::MAX)).min(LONGEST);
        waited < longest && (grows || count < self.expected)
    }

    /// So many were committed together.
    pub(super) fn ends(&mut self, count: usize) {
        self.expected = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_wait() {
        for (what, expected, count, bytes, waited, grows, waits) in [
            ("nothing but questions", 0, 0, 0, 0, false, false),
            ("alone", 0, 1, 5_000, 0, true, false),
            ("one after the other", 1, 1, 5_000, 0, true, false),
            ("two at once", 1, 2, 9_000, 0, true, true),
            ("two at once, for a while", 1, 2, 9_000, 2, true, false),
            ("the first of as many as before", 16, 1, 5_000, 0, true, true),
            ("some are missing", 16, 9, 5_000, 6, false, true),
            ("some are missing for too long", 16, 9, 5_000, 16, false, false),
            ("all of them, and there may be more", 16, 16, 5_000, 4, true, true),
            ("all of them, and no more", 16, 16, 5_000, 6, false, false),
            ("a burst goes on", 0, 300, 2_000_000, 60, true, true),
            ("a burst goes on for too long", 0, 300, 2_000_000, 100, true, false),
            ("a burst is over", 0, 300, 2_000_000, 60, false, false),
            ("as many as may wait", 0, MOST, 2_000_000, 10, true, false),
            ("large ones", 900, 40, MOST_BYTES, 10, true, false),
        ] {
            let mut gathering = Gathering::default();
            gathering.ends(expected);
            let waited = Duration::from_millis(waited);
            let found = gathering.waits(Gathered { count, bytes, waited, grows });
            assert_eq!(found, waits, "{what}");
        }
    }

    #[test]
    fn a_burst_is_forgotten() {
        let first = Gathered { count: 1, bytes: 5_000, waited: Duration::ZERO, grows: true };
        let mut gathering = Gathering::default();
        gathering.ends(500);
        gathering.begins(REMEMBERED);
        assert!(gathering.waits(first), "more of it may come");
        gathering.begins(REMEMBERED + LOOK);
        assert!(!gathering.waits(first), "it is over");
    }
}
