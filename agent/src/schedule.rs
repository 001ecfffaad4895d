//! When the next report is due. Pure: the randomness comes from the caller, as a number from 0 to 1.

use std::time::Duration;

use tokio::time::Instant;

/// How often a node reports until the aggregator says otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);

/// The shortest interval that makes sense.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The longest interval that makes sense.
pub const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// The wait after the kernel told of a change, for more of the same.
pub const SETTLING: Duration = Duration::from_millis(500);

/// The shortest time between two probes that the kernel asked for.
pub const LULL: Duration = Duration::from_secs(5);

const LONGEST_LULL: Duration = Duration::from_mins(1);

/// The lull after a call that was for nothing: twice as long, up to a minute.
pub fn longer_lull(lull: Duration) -> Duration {
    lull.saturating_mul(2).min(LONGEST_LULL)
}

/// The part of an interval that jitter adds or takes away.
const INTERVAL_JITTER: f64 = 0.1;

const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait between two tries.
pub const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// The interval that an aggregator assigned; one that makes no sense is its mistake, and is brought
/// within the bounds.
pub fn assigned_interval(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

/// The wait after a report that was accepted: the interval, up to a tenth shorter or longer, so
/// that nodes which started together do not report together.
pub fn next_report(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 + INTERVAL_JITTER * (2.0 * unit(random) - 1.0))
}

/// The wait after so many failures in a row: doubled from one second each time up to a minute or
/// the interval, whichever is shorter, and then between half of that and all of it.
pub fn retry(failures: u32, interval: Duration, random: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let longest = LONGEST_RETRY.min(interval);
    FIRST_RETRY.saturating_mul(doubled).min(longest).mul_f64(0.5 + 0.5 * unit(random))
}

/// Lets some things happen at once, and then one a while: a bucket of turns that fills again.
#[derive(Debug, Clone)]
pub struct Pace {
    turns: u32,
    filled_at: Instant,
}

impl Pace {
    /// How many turns may be taken at once.
    pub const MOST_TURNS: u32 = 5;

    /// How long it takes to win a turn back.
    pub const TURN: Duration = Duration::from_secs(12);

    /// A full bucket.
    pub const fn new(now: Instant) -> Self {
        Self { turns: Self::MOST_TURNS, filled_at: now }
    }

    /// Takes a turn.
    ///
    /// # Errors
    ///
    /// When the next one is to be had, if there is none now.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.turns < Self::MOST_TURNS && self.filled_at + Self::TURN <= now {
            self.turns += 1;
            self.filled_at += Self::TURN;
        }
        if self.turns == Self::MOST_TURNS {
            self.filled_at = now;
        }
        match self.turns.checked_sub(1) {
            Some(left) => {
                self.turns = left;
                Ok(())
            }
            None => Err(self.filled_at + Self::TURN),
        }
    }
}

/// Durations cannot be multiplied with what is negative or no number.
fn unit(random: f64) -> f64 {
    if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn reports_are_due_a_tenth_around_the_interval() {
        for (random, millis) in [(0.0, 54_000), (0.5, 60_000), (1.0, 66_000)] {
            assert_eq!(next_report(MINUTE, random), Duration::from_millis(millis), "{random}");
        }
    }

    #[test]
    fn retries_double_up_to_a_minute() {
        for (failures, seconds) in
            [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (u32::MAX, 60)]
        {
            let longest = Duration::from_secs(seconds);
            assert_eq!(retry(failures, 5 * MINUTE, 1.0), longest, "{failures}");
            assert_eq!(retry(failures, 5 * MINUTE, 0.0), longest / 2, "{failures}");
        }
    }

    #[test]
    fn calls_for_nothing_are_heard_less_often() {
        assert_eq!(longer_lull(LULL), 2 * LULL);
        assert_eq!(longer_lull(MINUTE), MINUTE);
    }

    #[test]
    fn retries_never_wait_longer_than_the_interval() {
        assert_eq!(retry(9, Duration::from_secs(10), 1.0), Duration::from_secs(10));
    }

    #[test]
    fn assigned_intervals_are_kept_within_bounds() {
        for (seconds, kept) in [(0, 1), (1, 1), (60, 60), (3600, 3600), (u32::MAX, 3600)] {
            assert_eq!(assigned_interval(seconds), Duration::from_secs(kept));
        }
    }

    #[test]
    fn a_few_at_once_and_then_one_a_while() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start);
        let mut taken = Vec::new();
        let mut now = at(100);
        while taken.len() < 8 {
            match pace.take(now) {
                Ok(()) => taken.push((now - start).as_secs()),
                Err(next) => now = next,
            }
        }
        assert_eq!(taken, [100, 100, 100, 100, 100, 112, 124, 136]);
        assert_eq!(pace.take(at(147)), Err(at(148)));
        assert_eq!(pace.take(at(160)), Ok(()), "one is back, and a second one");
        assert_eq!(pace.take(at(161)), Ok(()));
        assert_eq!(pace.take(at(161)), Err(at(172)));
    }

    proptest! {
        #[test]
        fn no_randomness_is_too_odd(failures in any::<u32>(), seconds in 1_u32..=3600, random in any::<f64>()) {
            let interval = assigned_interval(seconds);
            prop_assert!(retry(failures, interval, random) <= MINUTE);
            let wait = next_report(interval, random);
            prop_assert!(wait >= interval.mul_f64(0.89) && wait <= interval.mul_f64(1.11));
        }
    }
}
