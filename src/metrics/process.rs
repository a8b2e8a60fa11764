//! What the process itself takes, under the names that Prometheus' client libraries give it (Prometheus, "Writing
//! client libraries", process metrics).
//!
//! Linux only: elsewhere nothing is told.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::gauges::number;

/// What a process takes at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// CPU time of all its threads since its start, its own and the kernel's on its behalf.
    pub cpu_s: f64,
    /// Memory that is there and not swapped out.
    pub resident_bytes: u64,
    /// Addresses that are mapped.
    pub virtual_bytes: u64,
    /// Open files and sockets.
    pub open_fds: u64,
    /// The limit of open files; `None`: there is none.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// When it began, since the Unix epoch.
    pub started_s: f64,
}

/// The process cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read what this process takes from /proc")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Process {
    /// This process; `None` where the system has no `/proc` in the form of Linux. Blocks.
    #[cfg(target_os = "linux")]
    pub fn own() -> Result<Option<Self>, Error> {
        read().map(Some).map_err(|error| Error(error.into()))
    }

    /// This process; `None` where the system has no `/proc` in the form of Linux.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
    pub fn own() -> Result<Option<Self>, Error> {
        Ok(None)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            ConstCounter::new(self.cpu_s),
        );
        let gauge = |value: u64| ConstGauge::new(number(value));
        let max_fds = self.max_fds.unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                self.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                self.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Number of open file descriptors",
                self.open_fds,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                max_fds,
            ),
            (
                "process_threads",
                "Number of OS threads in the process",
                self.threads,
            ),
        ] {
            registry.register(name, help, gauge(value));
        }
        registry.register(
            "process_start_time_seconds",
            "Start time of the process since the Unix epoch in seconds",
            ConstGauge::new(self.started_s),
        );
    }
}

#[cfg(target_os = "linux")]
fn read() -> procfs::ProcResult<Process> {
    use std::time::Duration;

    use procfs::process::LimitValue;

    let process = procfs::process::Process::myself()?;
    let stat = process.stat()?;
    let time =
        |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / procfs::ticks_per_second());
    let booted = Duration::from_secs(procfs::boot_time_secs()?);
    Ok(Process {
        cpu_s: time(stat.utime + stat.stime).as_secs_f64(),
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        open_fds: process.fd_count()?.try_into().unwrap_or(u64::MAX),
        max_fds: match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        },
        threads: stat.num_threads.try_into().unwrap_or(0),
        started_s: (booted + time(stat.starttime)).as_secs_f64(),
    })
}
