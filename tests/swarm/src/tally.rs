//! What came of the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::connection::{Answer, Failed};

/// Counts, and a time for each report: four bytes, of at most as many reports as are allowed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub sent: u64,
    pub changed: u64,
    pub replaced: u64,
    pub connections: u64,
    accepted: u64,
    refused: BTreeMap<String, u64>,
    errors: BTreeMap<&'static str, u64>,
    latencies: Vec<u32>,
    late: Vec<u32>,
    first_sent: Option<Instant>,
    last_answered: Option<Instant>,
    /// The first words of each kind of trouble, for people.
    words: BTreeMap<String, String>,
}

impl Tally {
    /// A report is sent now that was due some time ago.
    pub(crate) fn sends(&mut self, now: Instant, late: Duration) {
        self.sent += 1;
        self.first_sent.get_or_insert(now);
        self.late.push(micros(late));
    }

    /// What came of it, and after how long: connecting included.
    pub(crate) fn ended(&mut self, outcome: Result<Answer, Failed>, took: Duration) {
        match outcome {
            Ok(Answer::Accepted) => {
                self.accepted += 1;
                self.latencies.push(micros(took));
            }
            Ok(Answer::Refused { code, words }) => {
                self.words.entry(code.clone()).or_insert(words);
                *self.refused.entry(code).or_default() += 1;
            }
            Err(Failed { kind, words }) => {
                self.words.entry(kind.to_owned()).or_insert(words);
                *self.errors.entry(kind).or_default() += 1;
            }
        }
        self.last_answered = Some(Instant::now());
    }

    /// All of it, in one object. Latencies are of the reports that were accepted.
    pub(crate) fn figures(&self, agents: usize) -> Value {
        let times = self.first_sent.zip(self.last_answered);
        let seconds = times.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "no run has that many reports")]
        let per_second = if seconds > 0.0 { self.accepted as f64 / seconds } else { 0.0 };
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(
            u64::try_from(cpu.tv_sec).unwrap_or(0),
            u32::try_from(cpu.tv_nsec).unwrap_or(0),
        );
        json!({
            "agents": agents,
            "sent": self.sent,
            "accepted": self.accepted,
            "refused": self.refused,
            "errors": self.errors,
            "words": self.words,
            "changed": self.changed,
            "replaced": self.replaced,
            "connections": self.connections,
            "seconds": seconds,
            "acceptedPerSecond": per_second,
            "latencyMs": spread(&self.latencies),
            "lateMs": spread(&self.late),
            "cpuSeconds": cpu.as_secs_f64(),
        })
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// How times are spread, in milliseconds; nothing where there are none.
fn spread(micros: &[u32]) -> Value {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return Value::Null };
    let at = |percent: usize| {
        sorted.get(last * percent / 100).map_or(0.0, |time| f64::from(*time) / 1000.0)
    };
    json!({ "p50": at(50), "p95": at(95), "p99": at(99), "max": at(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_times_are_spread() {
        let times: Vec<u32> = (0..=100).rev().map(|time| time * 1000).collect();
        let expected = json!({ "p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0 });
        assert_eq!(spread(&times), expected);
        assert_eq!(spread(&[]), Value::Null);
        assert_eq!(spread(&[1500])["max"], json!(1.5));
    }

    #[test]
    fn what_is_accepted_refused_and_failed_is_told_apart() {
        let mut tally = Tally::default();
        let refused = || Answer::Refused { code: "forbidden".into(), words: "no".into() };
        let broken = Failed { kind: "broken", words: "gone".into() };
        for outcome in [Ok(Answer::Accepted), Ok(refused()), Ok(refused()), Err(broken)] {
            tally.sends(Instant::now(), Duration::ZERO);
            tally.ended(outcome, Duration::from_millis(2));
        }
        let figures = tally.figures(1);
        let told = |path: &str| figures.pointer(path).cloned().unwrap_or_default();
        assert_eq!((told("/sent"), told("/accepted")), (json!(4), json!(1)));
        assert_eq!(told("/refused"), json!({ "forbidden": 2 }));
        assert_eq!(told("/errors"), json!({ "broken": 1 }));
        assert_eq!(told("/latencyMs/max"), json!(2.0));
    }
}
