//! Pauses: how long, and until when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

/// A time further off than any that is set here comes from a clock that was wrong.
pub(super) fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > now && after(now, FURTHEST).is_none_or(|furthest| at <= furthest)
}

/// No pause is longer: looks are an hour apart at most.
const FURTHEST: Duration = Duration::from_hours(2);

/// Capped exponential backoff, spread by a fifth to either side.
pub(super) fn backoff(attempts: u32, dice: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(attempts.min(20)));
    doubled.min(LONGEST_BACKOFF).mul_f64(0.8 + 0.4 * dice.clamp(0.0, 1.0))
}

pub(super) fn after(now: Timestamp, wait: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(wait).ok()?).ok()
}
