//! A histogram with atomic buckets, which any thread may update.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Counts of values by size. Values are integers; [`Histogram::unit`] is the size of 1, such as 10⁻⁹ s.
pub struct Histogram {
    /// The highest value of each bucket, ascending; one more bucket has the values above.
    bounds: &'static [u64],
    unit: f64,
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Creates an empty histogram.
    #[must_use]
    pub fn new(bounds: &'static [u64], unit: f64) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, unit, buckets, sum: AtomicU64::new(0) }
    }

    /// Creates an empty histogram of durations from 100 µs to 10 s.
    #[must_use]
    pub fn of_durations() -> Self {
        Self::new(&DURATIONS, 1e-9)
    }

    /// Counts `value`.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns the size of one unit.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.unit
    }

    /// Returns the cumulative counts by bound, the last one without bound, and the sum of all values.
    #[must_use]
    pub fn counts(&self) -> (Vec<(Option<u64>, u64)>, u64) {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut count = 0;
        let counts = bounds.zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.load(Ordering::Relaxed);
            (bound, count)
        });
        (counts.collect(), self.sum.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

/// Nanoseconds.
const DURATIONS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_every_bucket_that_it_fits() {
        let histogram = Histogram::new(&[1, 4, 16], 1.0);
        for value in [0, 1, 2, 4, 5, 17, 100] {
            histogram.observe(value);
        }
        assert_eq!(histogram.counts(), (vec![(Some(1), 2), (Some(4), 4), (Some(16), 5), (None, 7)], 129));
    }
}
