//! What Prometheus is told of the store.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use crate::store::WriteError;

/// How the store takes what it is given.
#[derive(Debug)]
pub struct StoreMetrics {
    durations: Histogram,
    failed: IntCounter,
    failing: IntGauge,
}

impl StoreMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let durations = Histogram::with_opts(
            HistogramOpts::new(
                "rollcall_aggregator_store_write_duration_seconds",
                "Time from a write's being put into the store's queue until it was stored or refused.",
            )
            // From a commit to a fast disk to an API server that is slow.
            .buckets(vec![
                0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ]),
        )?;
        let failed = IntCounter::new(
            "rollcall_aggregator_store_writes_failed_total",
            "Writes that the store did not take; without those that another aggregator was quicker with.",
        )?;
        let failing = IntGauge::new(
            "rollcall_aggregator_store_failing",
            "1 while the store does not take what it is given.",
        )?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        registry.register(Box::new(failing.clone()))?;
        Ok(Self { durations, failed, failing })
    }

    /// Notes what came of a write.
    pub fn written(&self, took: Duration, outcome: &Result<(), WriteError>) {
        self.durations.observe(took.as_secs_f64());
        match outcome {
            Ok(()) => self.failing.set(0),
            // The store is well.
            Err(WriteError::Overtaken { .. }) => {}
            Err(WriteError::Refused { .. } | WriteError::Closed) => {
                self.failed.inc();
                self.failing.set(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_store_that_takes_nothing_is_failing() {
        let metrics = StoreMetrics::new(&Registry::new()).expect("a new registry is empty");
        let refused = || Err(WriteError::Refused { reason: "disk full".to_owned() });
        let overtaken = || Err(WriteError::leads_no_more());
        for (what, outcome, failed, failing) in [
            ("all is well", Ok(()), 0, 0),
            ("another was quicker", overtaken(), 0, 0),
            ("full", refused(), 1, 1),
            ("another was quicker, and it is full", overtaken(), 1, 1),
            ("full still", refused(), 2, 1),
            ("mended", Ok(()), 2, 0),
        ] {
            metrics.written(Duration::from_millis(2), &outcome);
            assert_eq!((metrics.failed.get(), metrics.failing.get()), (failed, failing), "{what}");
        }
        assert_eq!(metrics.durations.get_sample_count(), 6);
    }
}
