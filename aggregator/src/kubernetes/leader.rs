//! Which of several aggregators leads: the holder of a Lease.
//!
//! As Kubernetes' own programs do it: a holder that has not renewed for the Lease's duration, by the
//! clock of whoever watches it, may be followed by another; a holder that could not renew stops
//! leading before that. The clocks of two machines are never compared.

use std::time::Duration;

use jiff::{Timestamp, Unit};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use rollcall_daemon::kubernetes::words;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The Lease's name.
pub const LEASE: &str = "rollcall-aggregator";

/// A holder that has not renewed for this long may be followed by another.
const DURATION: Duration = Duration::from_secs(10);
/// A holder that has not renewed for this long stops leading: well before somebody else starts.
const LEADS_FOR: Duration = Duration::from_secs(7);
/// How often the Lease is renewed, or looked at.
const TURN: Duration = Duration::from_millis(1500);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether this aggregator leads. Clones share it.
#[derive(Debug, Clone)]
pub struct Leadership {
    until: watch::Receiver<Until>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Never,
    At(Instant),
    Always,
}

impl Leadership {
    /// The leadership of an aggregator that is alone.
    pub fn of_one() -> Self {
        Self { until: watch::channel(Until::Always).1 }
    }

    /// Whether it leads now.
    pub fn is_held(&self) -> bool {
        match *self.until.borrow() {
            Until::Never => false,
            Until::At(end) => Instant::now() < end,
            Until::Always => true,
        }
    }

    /// Waits until it leads.
    pub async fn gained(&mut self) {
        while !self.is_held() {
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until it leads no more.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.until.borrow_and_update();
            let end = match until {
                Until::Never => return,
                Until::At(end) if Instant::now() >= end => return,
                Until::At(end) => Some(end),
                Until::Always => None,
            };
            let over = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                changed = self.until.changed() => if changed.is_err() { over_or_never(end).await; }
            }
        }
    }
}

/// Whoever stood for election is gone: what was won runs out.
async fn over_or_never(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Stands for election.
pub struct Candidate {
    leases: Api<Lease>,
    me: String,
    until: watch::Sender<Until>,
    /// The Lease as it was last seen to change, and when that was noticed.
    seen: Option<(LeaseSpec, Instant)>,
    /// What was last in the way, so that it is logged once.
    trouble: Option<String>,
}

/// What to do about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// There is none yet.
    Create,
    /// It is ours.
    Renew,
    /// Nobody holds it, or the holder is silent.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides by the Lease, and for how long it was seen to stay as it is.
fn decide(lease: Option<&LeaseSpec>, me: &str, unchanged_for: Duration) -> Move {
    let Some(lease) = lease else { return Move::Create };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let duration = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = duration.map_or(DURATION, Duration::from_secs);
    match holder {
        "" => Move::Take,
        holder if holder == me => Move::Renew,
        _ if unchanged_for >= duration => Move::Take,
        _ => Move::Wait,
    }
}

impl Candidate {
    /// A candidate of a name that no other aggregator has: its pod's.
    pub fn new(client: Client, namespace: &str, me: String) -> (Self, Leadership) {
        let (until, receiver) = watch::channel(Until::Never);
        let leases = Api::namespaced(client, namespace);
        let candidate = Self { leases, me, until, seen: None, trouble: None };
        (candidate, Leadership { until: receiver })
    }

    /// Stands until `stop` resolves; then what is held is given back, so that another can lead at
    /// once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let turn = async {
                self.turn().await;
                sleep(TURN).await;
            };
            tokio::select! {
                () = turn => {}
                () = &mut stop => break,
            }
        }
        let held = matches!(*self.until.borrow(), Until::At(end) if Instant::now() < end);
        self.until.send_replace(Until::Never);
        if held {
            match timeout(REQUEST_TIMEOUT, self.release()).await {
                Ok(Ok(())) => log::info!("the lead is given back"),
                Ok(Err(error)) => {
                    log::warn!(error = words::of(&error); "the lead could not be given back, it runs out");
                }
                Err(_elapsed) => {
                    log::warn!("the lead could not be given back in time, it runs out");
                }
            }
        }
    }

    async fn turn(&mut self) {
        let started = Instant::now();
        let outcome = match timeout(REQUEST_TIMEOUT, self.stand()).await {
            Ok(outcome) => outcome.map_err(|error| words::of(&error)),
            Err(_elapsed) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
        };
        let held = self.holds();
        match outcome {
            Ok(true) => {
                self.until.send_replace(Until::At(started + LEADS_FOR));
                if !held {
                    log::info!(replica = self.me.as_str(); "this aggregator leads");
                }
            }
            Ok(false) => {
                self.until.send_if_modified(|until| {
                    std::mem::replace(until, Until::Never) != Until::Never
                });
                if held {
                    log::warn!(replica = self.me.as_str(); "another aggregator leads now");
                }
            }
            // What was won holds until it runs out.
            Err(error) => {
                if self.trouble.as_ref() != Some(&error) {
                    log::warn!(error = error.as_str(), leads = held;
                        "the Lease {LEASE} cannot be renewed or looked at, trying again");
                    self.trouble = Some(error);
                }
                return;
            }
        }
        if self.trouble.take().is_some() {
            log::info!("the Lease {LEASE} can be used again");
        }
    }

    fn holds(&self) -> bool {
        matches!(*self.until.borrow(), Until::At(end) if Instant::now() < end)
    }

    /// Takes or renews the Lease where that may be; whether it is ours now.
    async fn stand(&mut self) -> Result<bool, Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        let now = Instant::now();
        let spec = lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), since));
        let held = lease.as_ref().map(|_| &spec);
        let step = decide(held, &self.me, now.duration_since(since));
        let is_renewal = step == Move::Renew;
        let next = match step {
            Move::Wait => return Ok(false),
            Move::Renew => LeaseSpec { renew_time: stamp(), ..spec },
            Move::Create | Move::Take => LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: stamp(),
                renew_time: stamp(),
                lease_transitions: Some(
                    spec.lease_transitions.unwrap_or_default().saturating_add(1),
                ),
                ..spec
            },
        };
        let params = PostParams::default();
        // The resource version goes along: whoever was quicker has it.
        let outcome = if let Some(lease) = lease {
            let lease = Lease { spec: Some(next), ..lease };
            self.leases.replace(LEASE, &params, &lease).await
        } else {
            let metadata = ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() };
            self.leases.create(&params, &Lease { metadata, spec: Some(next) }).await
        };
        match outcome {
            Ok(lease) => {
                self.seen = lease.spec.map(|spec| (spec, now));
                Ok(true)
            }
            // Our own renewal may have come about late, and it stays ours until it runs out.
            Err(Error::Api(status)) if status.code == 409 && !is_renewal => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets another take the Lease at once.
    async fn release(&self) -> Result<(), Error> {
        let Some(lease) = self.leases.get_opt(LEASE).await? else { return Ok(()) };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(self.me.as_str()) {
            return Ok(());
        }
        let spec = LeaseSpec { holder_identity: Some(String::new()), renew_time: stamp(), ..spec };
        let lease = Lease { spec: Some(spec), ..lease };
        self.leases.replace(LEASE, &PostParams::default(), &lease).await.map(drop)
    }
}

/// Now, as finely as the API keeps it.
fn stamp() -> Option<MicroTime> {
    Timestamp::now().round(Unit::Microsecond).ok().map(MicroTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_take_the_lease() {
        let of = |holder: &str, seconds| LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        let seconds = Duration::from_secs;
        for (what, lease, unchanged_for, expected) in [
            ("none yet", None, seconds(0), Move::Create),
            ("given back", Some(of("", Some(10))), seconds(0), Move::Take),
            ("without a holder", Some(LeaseSpec::default()), seconds(0), Move::Take),
            ("ours", Some(of("me", Some(10))), seconds(0), Move::Renew),
            ("ours, from before a pause", Some(of("me", Some(10))), seconds(99), Move::Renew),
            ("another's", Some(of("other", Some(10))), seconds(0), Move::Wait),
            ("another's, silent for a while", Some(of("other", Some(10))), seconds(9), Move::Wait),
            ("another's, silent", Some(of("other", Some(10))), seconds(10), Move::Take),
            (
                "another's that asked for longer",
                Some(of("other", Some(60))),
                seconds(10),
                Move::Wait,
            ),
            ("another's without a duration", Some(of("other", None)), seconds(10), Move::Take),
            ("a duration that is none", Some(of("other", Some(-1))), seconds(10), Move::Take),
        ] {
            assert_eq!(decide(lease.as_ref(), "me", unchanged_for), expected, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_won_runs_out_by_itself() {
        let (sender, until) = watch::channel(Until::Never);
        let mut leadership = Leadership { until };
        assert!(!leadership.is_held());
        sender.send_replace(Until::At(Instant::now() + LEADS_FOR));
        leadership.gained().await;
        assert!(leadership.is_held());
        let before = Instant::now();
        leadership.lost().await;
        assert_eq!(before.elapsed(), LEADS_FOR);
        assert!(!leadership.is_held());
        let mut alone = Leadership::of_one();
        alone.gained().await;
        assert!(timeout(Duration::from_hours(1), alone.lost()).await.is_err(), "never");
    }
}
