//! GPUs that are lost: they were known, and NVIDIA's driver, which answers, does not answer for
//! them.
//!
//! A GPU that is being reset, or a driver that is being upgraded, loses one for a minute. So a lost
//! GPU counts as it was last known until its loss has been confirmed for a hold-down. One that is
//! gone from the bus as well is confirmed by two sources, and counts no more at once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rollcall_report::Gpu;
use serde::{Deserialize, Serialize};

/// A GPU that was known and that the driver does not answer for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostGpu {
    /// The GPU as it was last known.
    pub gpu: Gpu,
    /// Its place among the node's GPUs, so that the document does not change while it is counted.
    pub position: usize,
    /// When the driver first did not answer for it.
    pub since: Timestamp,
    /// When its hold-down began: [`Self::since`], later by all the time in which the driver as a
    /// whole did not answer, since that confirms nothing.
    pub held_from: Timestamp,
    /// When the driver as a whole ceased to answer, if it has: the hold-down stands still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard_since: Option<Timestamp>,
}

impl LostGpu {
    fn new(gpu: Gpu, position: usize, now: Timestamp) -> Self {
        Self { gpu, position, since: now, held_from: now, unheard_since: None }
    }

    /// Whether its loss has been confirmed for the hold-down.
    pub fn is_confirmed(&self, now: Timestamp, hold_down: Duration) -> bool {
        self.unheard_since.unwrap_or(now).duration_since(self.held_from) >= signed(hold_down)
    }

    /// When its loss will be confirmed; `None`: not before the driver as a whole answers again.
    pub fn confirmed_at(&self, hold_down: Duration) -> Option<Timestamp> {
        match self.unheard_since {
            Some(_) => None,
            None => self.held_from.checked_add(signed(hold_down)).ok(),
        }
    }

    /// The driver as a whole does not answer.
    fn unheard(mut self, now: Timestamp) -> Self {
        self.unheard_since.get_or_insert(now);
        self
    }

    /// The driver answers, and still not for this one.
    fn heard(mut self, now: Timestamp) -> Self {
        if let Some(unheard_since) = self.unheard_since.take() {
            let unheard = now.duration_since(unheard_since).max(SignedDuration::ZERO);
            self.held_from = self.held_from.checked_add(unheard).unwrap_or(now);
        }
        self
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Whether two readings are of one GPU: by its identity, else by its place, else by what the driver
/// calls it.
pub(super) fn is_same(a: &Gpu, b: &Gpu) -> bool {
    match (&a.uuid, &b.uuid, &a.pci_address, &b.pci_address) {
        (Some(a), Some(b), _, _) => a == b,
        (_, _, Some(a), Some(b)) => is_same_address(a, b),
        _ => a.index == b.index && a.model == b.model,
    }
}

fn is_same_address(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// What is known of NVIDIA's GPUs on the bus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bus<'a> {
    /// How many this report counts there; `None`: it does not tell.
    pub(super) expected: Option<u32>,
    /// The addresses of those that the driver does not answer for, where this report tells them.
    pub(super) lost: &'a [String],
}

/// The lost GPUs after the driver as a whole did not answer: the same, their hold-downs stand still.
pub(super) fn without_answer(lost: &[LostGpu], now: Timestamp) -> Vec<LostGpu> {
    lost.iter().map(|lost| lost.clone().unheard(now)).collect()
}

/// The lost GPUs after the driver answered for `answering`: those that were known and may still be
/// on the bus. One whose memory nobody could read was never known.
pub(super) fn after_answer(
    known: &[Gpu],
    lost: &[LostGpu],
    answering: &[Gpu],
    bus: Bus<'_>,
    now: Timestamp,
) -> Vec<LostGpu> {
    let before = in_order(known, lost.iter().map(|lost| (lost.position, Place::Lost(lost))));
    let answers = |gpu: &Gpu| answering.iter().any(|other| is_same(gpu, other));
    // More than the bus holds are not lost but gone.
    let room = bus.expected.map_or(usize::MAX, |expected| {
        usize::try_from(expected).unwrap_or(usize::MAX).saturating_sub(answering.len())
    });
    let all_named = bus.lost.len() >= room;
    let named = |gpu: &Gpu| {
        let address = gpu.pci_address.as_deref();
        address.map(|address| bus.lost.iter().any(|lost| is_same_address(lost, address)))
    };
    let is_gone = |gpu: &Gpu| all_named && named(gpu) == Some(false);
    let mut silent: Vec<(usize, &Gpu)> = before
        .iter()
        .map(Place::gpu)
        .enumerate()
        .filter(|(_, gpu)| !answers(gpu) && !is_gone(gpu) && gpu.memory_bytes.failure().is_none())
        .collect();
    // The surest first: those that the bus names, then those that were lost before.
    silent.sort_by_key(|&(index, gpu)| {
        let was_lost = matches!(before.get(index), Some(Place::Lost(_)));
        (named(gpu) != Some(true), !was_lost)
    });
    let on_bus: Vec<usize> = silent.into_iter().take(room).map(|(index, _)| index).collect();

    let mut position = 0;
    let mut after = Vec::new();
    for (index, place) in before.iter().enumerate() {
        if on_bus.contains(&index) {
            after.push(match place {
                Place::Lost(lost) => LostGpu { position, ..(*lost).clone().heard(now) },
                Place::Known(gpu) => LostGpu::new((*gpu).clone(), position, now),
            });
        } else if !answers(place.gpu()) {
            continue;
        }
        position += 1;
    }
    after
}

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Known(&'a Gpu),
    Lost(&'a LostGpu),
}

impl<'a> Place<'a> {
    fn gpu(&self) -> &'a Gpu {
        match self {
            Self::Known(gpu) => gpu,
            Self::Lost(lost) => &lost.gpu,
        }
    }
}

impl<'a> From<&'a Gpu> for Place<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self::Known(gpu)
    }
}

/// The GPUs that answer, with others at their places among them; these in ascending order.
fn in_order<'a, T: From<&'a Gpu>>(
    known: &'a [Gpu],
    others: impl Iterator<Item = (usize, T)>,
) -> Vec<T> {
    let mut all: Vec<T> = known.iter().map(T::from).collect();
    for (position, other) in others {
        all.insert(position.min(all.len()), other);
    }
    all
}

/// A node's lost GPUs at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses<'a> {
    all: Vec<Loss<'a>>,
}

/// A lost GPU at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss<'a> {
    /// The GPU.
    pub lost: &'a LostGpu,
    /// Whether it still counts.
    pub standing: Standing,
}

/// Whether a lost GPU still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does, as it was last known.
    Counted {
        /// Until then; `None`: until the driver as a whole answers, and longer.
        until: Option<Timestamp>,
    },
    /// Its loss is confirmed.
    GivenUp,
}

impl<'a> Losses<'a> {
    /// Decides which of the lost GPUs still count.
    pub fn at(lost: &'a [LostGpu], now: Timestamp, hold_down: Duration) -> Self {
        let all = lost.iter().map(|lost| Loss {
            lost,
            standing: if lost.is_confirmed(now, hold_down) {
                Standing::GivenUp
            } else {
                Standing::Counted { until: lost.confirmed_at(hold_down) }
            },
        });
        Self { all: all.collect() }
    }

    /// All of them.
    pub fn all(&self) -> &[Loss<'a>] {
        &self.all
    }

    /// The GPUs that count: those that answer, and those that are lost and still count, in the order
    /// in which they were known.
    pub fn counted(&self, answering: &'a [Gpu]) -> Vec<&'a Gpu> {
        let lost = self.all.iter().map(|loss| {
            let counts = matches!(loss.standing, Standing::Counted { .. });
            (loss.lost.position, Shown { gpu: &loss.lost.gpu, counts })
        });
        let all: Vec<Shown<'a>> = in_order(answering, lost);
        all.into_iter().filter(|shown| shown.counts).map(|shown| shown.gpu).collect()
    }
}

struct Shown<'a> {
    gpu: &'a Gpu,
    counts: bool,
}

impl<'a> From<&'a Gpu> for Shown<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self { gpu, counts: true }
    }
}
