//! Tells an entry that somebody else has changed from one that is behind the cluster.

use super::state::{Phase, Presence, TargetState, Will};
use crate::digest::Digest;
use crate::targets::Held;

/// Whether an entry is seen to have drifted, so that it is counted once.
#[derive(Debug)]
pub struct Drift {
    is_counted: bool,
}

impl Drift {
    /// As the target stands at the start.
    pub const fn new(state: &TargetState) -> Self {
        let phases = matches!(state.phase, Phase::Drifted | Phase::Updating | Phase::Contested);
        Self { is_counted: phases }
    }

    /// Takes note of a look; whether the entry, which was right, is wrong or gone since, though we want
    /// nothing else.
    pub fn is_new(
        &mut self,
        state: &TargetState,
        will: &Will,
        wanted: Digest,
        held: &Held,
    ) -> bool {
        let is_changed = match held {
            Held::Ours(difference) if difference.is_none() => {
                self.is_counted = false;
                false
            }
            Held::Ours(_) => state.past.equal == Some(wanted),
            Held::Absent => state.past.equal.is_some(),
            Held::NotRead | Held::Foreign(_) | Held::Unreadable { .. } => false,
        };
        let is_ours_to_keep = will.presence == Presence::Registered;
        let is_new = is_changed && is_ours_to_keep && !self.is_counted;
        self.is_counted |= is_new;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::onboarding::state::Past;
    use crate::targets::{Difference, FieldDifference};

    fn right() -> Held {
        Held::Ours(Difference::default())
    }

    fn wrong() -> Held {
        let field = FieldDifference {
            field: "swap".to_owned(),
            there: "1".to_owned(),
            here: "2".to_owned(),
        };
        Held::Ours(Difference { fields: vec![field], ..Difference::default() })
    }

    #[test]
    fn what_somebody_else_changed_is_counted_once() {
        let (wanted, other) = (Digest::of(&[b"a"]), Digest::of(&[b"b"]));
        let state = |equal| TargetState {
            past: Past { equal, ..Past::default() },
            ..TargetState::new(Timestamp::UNIX_EPOCH)
        };
        let unreadable = || Held::Unreadable { words: "away".to_owned() };
        let stay = Will::default();
        let go = Will { presence: Presence::Gone, ..Will::default() };
        let mut drift = Drift::new(&state(None));
        for (what, equal, will, held, expected) in [
            ("not registered yet", None, &stay, Held::Absent, false),
            ("registered", None, &stay, right(), false),
            ("the cluster has changed", Some(other), &stay, wrong(), false),
            ("put right", Some(other), &stay, right(), false),
            ("not readable", Some(wanted), &stay, unreadable(), false),
            ("changed by another", Some(wanted), &stay, wrong(), true),
            ("still", Some(wanted), &stay, wrong(), false),
            ("while it is put right", None, &stay, wrong(), false),
            ("put right again", None, &stay, right(), false),
            ("changed once more", Some(wanted), &stay, wrong(), true),
            ("put right once more", None, &stay, right(), false),
            ("removed by another", Some(wanted), &stay, Held::Absent, true),
            ("still gone", Some(wanted), &stay, Held::Absent, false),
            ("made again", None, &stay, right(), false),
            ("removed by us", Some(wanted), &go, Held::Absent, false),
        ] {
            assert_eq!(drift.is_new(&state(equal), will, wanted, &held), expected, "{what}");
        }
    }

    #[test]
    fn a_drift_from_before_a_restart_is_not_counted_anew() {
        let wanted = Digest::of(&[b"a"]);
        for (phase, expected) in [
            (Phase::Registered, true),
            (Phase::Failing, true),
            (Phase::Drifted, false),
            (Phase::Updating, false),
            (Phase::Contested, false),
        ] {
            let state = TargetState {
                phase,
                past: Past { equal: Some(wanted), ..Past::default() },
                ..TargetState::new(Timestamp::UNIX_EPOCH)
            };
            let mut drift = Drift::new(&state);
            assert_eq!(
                drift.is_new(&state, &Will::default(), wanted, &wrong()),
                expected,
                "{phase}"
            );
        }
    }
}
