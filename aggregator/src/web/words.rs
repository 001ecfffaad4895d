//! Numbers, times and states as people read them. Pure.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};

use crate::cluster_file::Mode;
use crate::onboarding::state::infrastructure::InfrastructurePhase;
use crate::onboarding::state::{Phase, TargetState};

/// How something stands, in the one of five ways that the page shows by colour, shape and word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// A person must act.
    Bad,
    /// A person should look.
    Warn,
    /// Something is under way.
    Busy,
    /// Nothing is asked of anybody.
    Quiet,
    /// It is as it should be.
    Good,
}

impl Tone {
    /// The name in the style and of the shape.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Busy => "busy",
            Self::Quiet => "quiet",
            Self::Good => "good",
        }
    }
}

/// A point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// For programs, to the second.
    pub(super) at: String,
    /// For people: how long ago, or in how long.
    pub(super) words: String,
}

impl Moment {
    pub(super) fn of(at: Timestamp, now: Timestamp) -> Self {
        Self { at: format!("{at:.0}"), words: away(now.duration_since(at).as_secs()) }
    }
}

/// How long ago; negative: in how long.
fn away(seconds: i64) -> String {
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", in_its_unit(seconds.unsigned_abs())),
        _ => format!("in {}", in_its_unit(seconds.unsigned_abs())),
    }
}

/// So long, in its largest unit.
pub(super) fn length(duration: SignedDuration) -> String {
    in_its_unit(duration.as_secs().unsigned_abs())
}

fn in_its_unit(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let (size, unit) = UNITS.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "s"));
    format!("{} {unit}", seconds / size)
}

/// A number of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Amount {
    /// Exactly, in the document's unit.
    pub(super) exact: u64,
    /// For people: in a unit that suits its size.
    pub(super) words: String,
    /// Exactly, with its unit.
    pub(super) exactly: String,
}

impl Amount {
    /// So many of something.
    pub(super) fn of_count(exact: u64) -> Self {
        Self { exact, words: grouped(exact), exactly: grouped(exact) }
    }

    /// A size in MiB.
    pub(super) fn of_mib(exact: u64) -> Self {
        let words = scaled(exact, 1024, ["MiB", "GiB", "TiB", "PiB", "EiB"]);
        Self { exact, words, exactly: format!("{} MiB", grouped(exact)) }
    }

    /// A rate in Mbit/s.
    pub(super) fn of_mbits(exact: u64) -> Self {
        let words = scaled(exact, 1000, ["Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"]);
        Self { exact, words, exactly: format!("{} Mbit/s", grouped(exact)) }
    }

    /// A size in bytes, which is no number of the document.
    pub(super) fn of_bytes(exact: u64) -> Self {
        let words = match exact {
            0..1024 => format!("{exact} B"),
            1024..1_048_576 => format!("{} KiB", exact / 1024),
            _ => scaled(exact / 1_048_576, 1024, ["MiB", "GiB", "TiB", "PiB", "EiB"]),
        };
        Self { exact, words, exactly: format!("{} bytes", grouped(exact)) }
    }
}

/// In the largest unit of which there is at least one, with one digit after the point below 100.
fn scaled(number: u64, step: u128, units: [&str; 5]) -> String {
    let mut size = 1_u128;
    let mut unit = "";
    for (index, name) in units.into_iter().enumerate() {
        if index > 0 {
            // What would be shown as 1024 of a unit is 1 of the next.
            if rounded(number, size) < step * 10 {
                break;
            }
            size *= step;
        }
        unit = name;
    }
    let tenths = rounded(number, size);
    let whole = grouped(u64::try_from(tenths / 10).unwrap_or(u64::MAX));
    match tenths % 10 {
        0 => format!("{whole} {unit}"),
        tenth => format!("{whole}.{tenth} {unit}"),
    }
}

/// So many tenths of a unit: whole ones from 100 units on.
fn rounded(number: u64, size: u128) -> u128 {
    let number = u128::from(number);
    let tenths = (number * 10 + size / 2) / size;
    if tenths < 1000 { tenths } else { (number + size / 2) / size * 10 }
}

/// With a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun, which takes an `s` unless it is one.
pub(super) fn counted(number: usize, noun: &str) -> String {
    counted_as(number, noun, &format!("{noun}s"))
}

/// A number with its noun, of which the plural is told, too.
pub(super) fn counted_as(number: usize, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{} {noun}", grouped(u64::try_from(number).unwrap_or(u64::MAX)))
}

/// The order of names in which `node-2` comes before `node-10`.
pub(super) fn by_name(one: &str, other: &str) -> Ordering {
    let (mut one_left, mut other_left) = (one, other);
    loop {
        let (Some(a), Some(b)) = (one_left.chars().next(), other_left.chars().next()) else {
            return one_left.len().cmp(&other_left.len()).then_with(|| one.cmp(other));
        };
        if a.is_ascii_digit() && b.is_ascii_digit() {
            let (a, rest_a) = number(one_left);
            let (b, rest_b) = number(other_left);
            // Of equal length the larger number is the larger text.
            match a.len().cmp(&b.len()).then_with(|| a.cmp(b)) {
                Ordering::Equal => (one_left, other_left) = (rest_a, rest_b),
                unequal => return unequal,
            }
        } else if a == b {
            one_left = one_left.strip_prefix(a).unwrap_or_default();
            other_left = other_left.strip_prefix(b).unwrap_or_default();
        } else {
            return a.cmp(&b);
        }
    }
}

/// The number that a text begins with, without its leading zeros, and what follows.
fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    (digits.trim_start_matches('0'), rest)
}

/// How a phase is shown.
pub(super) const fn tone_of(phase: Phase) -> Tone {
    match phase {
        Phase::Registered => Tone::Good,
        Phase::Submitting | Phase::Updating | Phase::Offboarding => Tone::Busy,
        Phase::Ready | Phase::Drifted | Phase::Failing => Tone::Warn,
        Phase::Refused | Phase::Foreign | Phase::Contested => Tone::Bad,
        Phase::Waiting | Phase::Offboarded => Tone::Quiet,
    }
}

/// What a target's state means, with how much may be done without a person.
pub(super) const fn meaning_of(state: &TargetState, mode: Mode) -> &'static str {
    let has_proposal = state.proposal.is_some();
    match (state.observed_phase(), mode) {
        // Nothing was decided yet: it has just started, or what is stored is not understood.
        (Phase::Waiting, _) if state.detail.is_none() => {
            "It was not looked at since this aggregator was started, so that where it stands is not known."
        }
        (Phase::Waiting, _) if state.past.entry_at.is_some() => {
            "It waits for what stands below; what the network holds is left as it is."
        }
        (Phase::Waiting, _) => "Not registered yet; it waits for what stands below.",
        (Phase::Ready, Mode::Observe) => "Everything is there, and it would be registered now.",
        (Phase::Ready, _) => {
            "Everything is there. A person has to say yes before it is registered."
        }
        (Phase::Submitting, _) => {
            "The registration is on its way; the network is read to see what became of it."
        }
        (Phase::Registered, _) => "The network holds this cluster as it is.",
        (Phase::Drifted, Mode::Observe) => {
            "The network holds something else than the cluster is, and is left with it: the target is only observed."
        }
        (Phase::Drifted, Mode::Approve) if has_proposal => {
            "The network holds something else than the cluster is. A person has to say yes before it is put right."
        }
        (Phase::Drifted, Mode::Auto) if has_proposal => {
            "The network holds something else than the cluster is. Nodes are taken away only when a person says yes; all else is put right."
        }
        (Phase::Drifted, Mode::Auto | Mode::Approve) => {
            "The network holds something else than the cluster is; it is put right."
        }
        (Phase::Updating, _) => {
            "The registration is being put right; the network is read to see what became of it."
        }
        (Phase::Contested, _) => {
            "What is put right there does not stay so, and is left as it is. Find out why, then submit again."
        }
        (Phase::Refused, _) => {
            "It cannot go on like this, for the reason below. Nothing is tried until a person acts or the document changes."
        }
        (Phase::Failing, _) => "It did not work, and is tried again by itself.",
        (Phase::Foreign, _) => {
            "The network holds an entry of this id that this installation did not make. It is left alone."
        }
        (Phase::Offboarding, _) => "The cluster is being taken out of the network.",
        (Phase::Offboarded, _) => {
            "The cluster was taken out of the network. Nothing is sent until: submit."
        }
    }
}

/// Whether an entry of the cluster is in the network, where the phase does not say it.
pub(super) fn entry_words(state: &TargetState) -> Option<String> {
    if !matches!(state.observed_phase(), Phase::Waiting | Phase::Refused | Phase::Failing) {
        return None;
    }
    let at = state.past.entry_at.as_ref()?;
    let place = format!("as {} at {}", at.cluster_id, at.create_url);
    Some(if state.past.registered {
        format!(
            "The cluster was registered {place}; its entry is there unless somebody removed it."
        )
    } else {
        format!("An entry of the cluster may be in the network, {place}.")
    })
}

/// How the phase of a network's infrastructure is shown.
pub(super) const fn tone_of_infrastructure(phase: InfrastructurePhase) -> Tone {
    match phase {
        InfrastructurePhase::None => Tone::Quiet,
        InfrastructurePhase::Creating | InfrastructurePhase::Removing => Tone::Busy,
        InfrastructurePhase::Created => Tone::Good,
        InfrastructurePhase::Failed
        | InfrastructurePhase::Unclear
        | InfrastructurePhase::RemovalFailed => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::onboarding::state::{Past, Proposal};
    use crate::targets::Destination;

    #[test]
    fn sizes_in_units_that_suit_them() {
        for (mib, expected) in [
            (0, "0 MiB"),
            (1, "1 MiB"),
            (1023, "1,023 MiB"),
            (1024, "1 GiB"),
            (1536, "1.5 GiB"),
            (98 * 1024 + 512, "98.5 GiB"),
            (515_072, "503 GiB"),
            (1_047_552, "1,023 GiB"),
            (1_048_500, "1 TiB"),
            (1_992_294, "1.9 TiB"),
            (u64::MAX, "16,777,216 EiB"),
        ] {
            assert_eq!(Amount::of_mib(mib).words, expected, "{mib}");
        }
        let amount = Amount::of_mib(1_992_294);
        assert_eq!((amount.exact, amount.exactly.as_str()), (1_992_294, "1,992,294 MiB"));
        for (mbits, expected) in
            [(0, "0 Mbit/s"), (100, "100 Mbit/s"), (2500, "2.5 Gbit/s"), (400_000, "400 Gbit/s")]
        {
            assert_eq!(Amount::of_mbits(mbits).words, expected, "{mbits}");
        }
        for (bytes, expected) in [(12, "12 B"), (4096, "4 KiB"), (1 << 30, "1 GiB")] {
            assert_eq!(Amount::of_bytes(bytes).words, expected, "{bytes}");
        }
    }

    #[test]
    fn numbers_and_their_nouns() {
        for (number, expected) in [
            (0, "0 nodes"),
            (1, "1 node"),
            (999, "999 nodes"),
            (1000, "1,000 nodes"),
            (1_234_567, "1,234,567 nodes"),
        ] {
            assert_eq!(counted(number, "node"), expected);
        }
    }

    #[test]
    fn times_from_where_one_stands() {
        let now = Timestamp::from_second(1_000_000).expect("in range");
        for (at, expected) in [
            (1_000_000, "now"),
            (999_999, "1 s ago"),
            (999_940, "1 min ago"),
            (999_881, "1 min ago"),
            (996_400, "1 h ago"),
            (740_800, "3 d ago"),
            (1_000_030, "in 30 s"),
            (1_000_600, "in 10 min"),
        ] {
            let at = Timestamp::from_second(at).expect("in range");
            assert_eq!(Moment::of(at, now).words, expected, "{at}");
        }
        let moment = Moment::of(now, now);
        assert_eq!(moment.at, "1970-01-12T13:46:40Z");
    }

    #[test]
    fn names_in_the_order_of_their_numbers() {
        for (one, other, expected) in [
            ("node-2", "node-10", Ordering::Less),
            ("node-10", "node-2", Ordering::Greater),
            ("node-2", "node-2", Ordering::Equal),
            ("node-02", "node-2", Ordering::Less),
            ("node-2-b", "node-2-a", Ordering::Greater),
            ("node", "node-1", Ordering::Less),
            ("a1b2", "a1b10", Ordering::Less),
            ("a", "b", Ordering::Less),
            ("1", "a", Ordering::Less),
            ("n99999999999999999999999", "n100000000000000000000000", Ordering::Less),
        ] {
            assert_eq!(by_name(one, other), expected, "{one} and {other}");
            assert_eq!(by_name(other, one), expected.reverse(), "{other} and {one}");
        }
    }

    #[test]
    fn who_must_act_is_shown_so() {
        for phase in Phase::ALL {
            let wants_a_person =
                matches!(phase, Phase::Refused | Phase::Foreign | Phase::Contested);
            assert_eq!(tone_of(phase) == Tone::Bad, wants_a_person, "{phase}");
            for mode in [Mode::Auto, Mode::Approve, Mode::Observe] {
                let state = TargetState { phase, ..TargetState::new(Timestamp::UNIX_EPOCH) };
                let meaning = meaning_of(&state, mode);
                assert!(meaning.ends_with('.'), "{phase} {mode:?}: {meaning}");
            }
        }
        for phase in InfrastructurePhase::ALL {
            assert_eq!(
                tone_of_infrastructure(phase) == Tone::Bad,
                phase.wants_a_person(),
                "{phase}"
            );
        }
    }

    #[test]
    fn what_a_state_means_is_true_of_what_is_done() {
        const PUT_RIGHT: &str = "; it is put right";
        let now = Timestamp::UNIX_EPOCH;
        let proposal = || Proposal { digest: Digest::of(&[b"x"]), what: "update".to_owned() };
        for (mode, is_proposed, expected) in [
            (Mode::Auto, false, PUT_RIGHT),
            (Mode::Auto, true, "taken away only when a person says yes"),
            (Mode::Approve, false, PUT_RIGHT),
            (Mode::Approve, true, "has to say yes before it is put right"),
            (Mode::Observe, false, "only observed"),
            (Mode::Observe, true, "only observed"),
        ] {
            let state = TargetState {
                phase: Phase::Drifted,
                proposal: is_proposed.then(proposal),
                ..TargetState::new(now)
            };
            let meaning = meaning_of(&state, mode);
            assert!(meaning.contains(expected), "{mode:?} {is_proposed}: {meaning}");
            assert_eq!(meaning.contains(PUT_RIGHT), expected == PUT_RIGHT, "{mode:?}: {meaning}");
        }

        let entry = || {
            let (create_url, read_url) = ("https://p:1/c".to_owned(), "https://g:1/r".to_owned());
            Destination { cluster_id: "west".to_owned(), create_url, read_url }
        };
        let (not_yet, unknown, left) = ("Not registered yet", "not known", "is left as it is");
        for (detail, entry_at, registered, expected, said) in [
            (Some("a node"), None, false, not_yet, None),
            (None, None, false, unknown, None),
            (None, Some(entry()), true, unknown, Some("was registered as west at https://p:1/c")),
            (Some("a node"), Some(entry()), true, left, Some("was registered as west")),
            (Some("a node"), Some(entry()), false, left, Some("may be in the network, as west")),
        ] {
            let state = TargetState {
                detail: detail.map(str::to_owned),
                past: Past { entry_at, registered, ..Past::default() },
                ..TargetState::new(now)
            };
            let meaning = meaning_of(&state, Mode::Auto);
            let words = entry_words(&state);
            assert!(meaning.contains(expected), "{state:?}: {meaning}");
            assert_eq!(words.is_some(), said.is_some(), "{state:?}: {words:?}");
            let is_said = words.is_none_or(|words| said.is_some_and(|said| words.contains(said)));
            assert!(is_said, "{state:?}: not {said:?}");
        }
    }
}
