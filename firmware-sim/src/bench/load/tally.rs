//! The counts of a measurement.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::latencies;

/// Counts and latencies of accepted updates.
#[derive(Debug)]
pub(crate) struct UpdateStats {
    updates: u64,
    /// Latencies from publish to accepted, in microseconds.
    latencies: Histogram<u64>,
    accepted_bytes: u64,
}

/// The latencies of a measurement, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latencies {
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// 99.9th percentile.
    pub(crate) p999: f64,
    /// Maximum.
    pub(crate) max: f64,
}

impl UpdateStats {
    /// Returns empty counts.
    pub(crate) fn new() -> Self {
        Self { updates: 0, latencies: latencies(), accepted_bytes: 0 }
    }

    /// Starts over, after the warm-up.
    pub(crate) fn reset(&mut self) {
        self.updates = 0;
        self.latencies.reset();
        self.accepted_bytes = 0;
    }

    /// Counts an update accepted `latency` after it was published, with a reply of `bytes`.
    pub(crate) fn accepted(&mut self, latency: Duration, bytes: usize) {
        self.updates += 1;
        self.accepted_bytes += bytes as u64;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros);
    }

    /// Returns the number of accepted updates.
    pub(crate) fn updates(&self) -> u64 {
        self.updates
    }

    /// Returns the mean size of the payload of `accepted`.
    pub(crate) fn accepted_bytes(&self) -> usize {
        (self.accepted_bytes / self.updates.max(1)) as usize
    }

    /// Returns the percentiles.
    pub(crate) fn latencies(&self) -> Latencies {
        let at = |quantile: f64| self.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Latencies { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}
