//! Tells pages that something has changed, as server-sent events; what, they fetch themselves.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use crate::aggregator::Aggregator;

/// Changes that come closer together are told together.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How often pages look without a change: nodes fall silent by themselves.
const TICK: Duration = Duration::from_secs(15);

/// How long a browser waits before it tries again.
const RETRY: Duration = Duration::from_secs(2);

/// Who follows the news.
struct Listener {
    roll: watch::Receiver<u64>,
    standings: watch::Receiver<u64>,
    stopping: watch::Receiver<()>,
    ticks: Interval,
    /// No change is told before.
    quiet_until: Instant,
    /// The first thing told is how to try again.
    is_new: bool,
    _permit: OwnedSemaphorePermit,
}

/// The news from now on, until the aggregator stops or the reader goes.
pub(super) fn follow(
    aggregator: &Aggregator,
    stopping: watch::Receiver<()>,
    permit: OwnedSemaphorePermit,
) -> Response {
    let now = Instant::now();
    let mut ticks = interval_at(now + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener {
        roll: aggregator.watch(),
        standings: aggregator.watch_standings(),
        stopping,
        ticks,
        quiet_until: now,
        is_new: true,
        _permit: permit,
    };
    let news = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    // The ticks show whether the reader is still there.
    Sse::new(news).into_response()
}

impl Listener {
    /// What is told next; `None`: the aggregator stops.
    async fn next(&mut self) -> Option<Event> {
        if self.is_new {
            self.is_new = false;
            return Some(Event::default().retry(RETRY).comment("the news of this cluster"));
        }
        let Self { roll, standings, stopping, ticks, quiet_until, .. } = self;
        let change = async {
            // The senders live as long as the aggregator.
            tokio::select! {
                _ = roll.changed() => {}
                _ = standings.changed() => {}
            }
            sleep_until(*quiet_until).await;
        };
        // A change that a tick comes before is told by it: pages look at both.
        let name = tokio::select! {
            // Nothing is ever sent; it ends with its sender.
            _ = stopping.changed() => return None,
            () = change => "changed",
            _ = ticks.tick() => "tick",
        };
        if name == "changed" {
            roll.mark_unchanged();
            standings.mark_unchanged();
            self.quiet_until = Instant::now() + AT_MOST_EVERY;
        }
        Some(Event::default().event(name).data(name))
    }
}
