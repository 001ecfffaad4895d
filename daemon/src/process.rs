//! A daemon's own figures under the names that Prometheus' client libraries share.

use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, GaugeVec, Opts, Registry};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Registers CPU time, memory, open files and start time of this process.
///
/// # Errors
///
/// When the registry holds metrics of these names already, or the system tells no figures.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(ProcessCollector::new()?))
}

struct ProcessCollector {
    pid: Pid,
    system: Mutex<System>,
    cpu_seconds: Counter,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    open_fds: Gauge,
    max_fds: GaugeVec,
    start_time: Gauge,
}

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        let system = System::new().map_err(|error| {
            prometheus::Error::Msg(format!("the process's figures cannot be read: {error:?}"))
        })?;
        Ok(Self {
            pid: Pid::from_u32(std::process::id()),
            system: Mutex::new(system),
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident_bytes: Gauge::new(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            virtual_bytes: Gauge::new(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            )?,
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: GaugeVec::new(
                Opts::new("process_max_fds", "Maximum number of open file descriptors."),
                &[],
            )?,
            start_time: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
        })
    }

    fn metrics(&self) -> [&dyn Collector; 6] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.start_time,
        ]
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus' samples are floats")]
    fn refresh(&self) {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            false,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
        let Some(process) = system.process(self.pid) else { return };
        // A counter can only be added to; the kernel's figure never falls.
        let cpu_seconds = process.accumulated_cpu_time() as f64 / 1000.0;
        self.cpu_seconds.inc_by((cpu_seconds - self.cpu_seconds.get()).max(0.0));
        self.resident_bytes.set(process.memory() as f64);
        self.virtual_bytes.set(process.virtual_memory() as f64);
        self.start_time.set(process.start_time() as f64);
        if let Some(open) = process.open_files() {
            self.open_fds.set(open as f64);
        }
        if let Some(most) = process.open_files_limit() {
            self.max_fds.with_label_values(&[] as &[&str]).set(most as f64);
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.metrics().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn figures_of_this_process_are_not_zero() {
        let registry = Registry::new();
        register(&registry).expect("a new registry is empty");
        let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("encodes");
        for name in [
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            assert!(!line.ends_with(" 0"), "{line}");
        }
    }
}
