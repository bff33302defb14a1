//! Metrics of the process, under the names that Prometheus' own client libraries use.

use std::{
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    param,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use crate::observability::metrics::MetricsPage;

/// The start time of this process, first read while it starts.
static STARTED: LazyLock<f64> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());

/// Records that the process starts now.
pub(super) fn started() {
    LazyLock::force(&STARTED);
}

/// Adds the metrics of the process; those that the system does not provide are left out.
pub(super) fn put(page: &mut MetricsPage) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    page.counters("process_cpu_seconds_total", "CPU time of the process, user and system, in seconds.")
        .sample(&[], seconds);
    if let Some(bytes) = resident_bytes() {
        page.gauge("process_resident_memory_bytes", "Resident memory of the process.", bytes);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let open = files.count().saturating_sub(1); // one is that of the listing itself
        page.gauge("process_open_fds", "Open files of the process, sockets included.", open);
    }
    if let Some(max) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "Maximum number of open files.", max);
    }
    page.gauge("process_start_time_seconds", "Start time of the process in seconds since 1970.", *STARTED);
}

/// Returns the resident memory: the second number of `/proc/self/statm`, which counts pages.
fn resident_bytes() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * param::page_size() as u64)
}
