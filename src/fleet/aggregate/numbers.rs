//! Statistics, percentiles and histograms of numbers.

use std::collections::BTreeMap;

use super::TooManyBuckets;

/// Most buckets of a histogram that have a number.
pub const BUCKETS_MAX: usize = 1_000;
/// The memory of a bucket.
const BUCKET_BYTES: usize = 32;
/// The largest bucket number, up to which doubles represent all integers.
const BUCKET_NUMBER_MAX: f64 = 9_007_199_254_740_992.0;

/// Statistics of numbers. Without numbers, all but the counts are meaningless.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The number of numbers.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// The sum of the squares of their distances from the mean.
    squared_distances: f64,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The lower bound, which is in the bucket; the upper one is in the next.
    pub from: f64,
    /// The count of numbers in it.
    pub count: u64,
}

/// The counts of a histogram.
#[derive(Debug)]
pub(super) struct Histogram {
    interval: f64,
    counts: BTreeMap<i64, u64>,
}

impl Statistics {
    /// Adds a number. The mean and the distances are updated by Welford's method, which does not cancel.
    pub(super) fn add(&mut self, number: f64) {
        (self.min, self.max) = match self.count {
            0 => (number, number),
            _ => (self.min.min(number), self.max.max(number)),
        };
        self.count += 1;
        self.sum += number;
        self.sum_of_squares += number * number;
        let distance = number - self.mean;
        self.mean += distance / self.count as f64;
        self.squared_distances += distance * (number - self.mean);
    }

    /// Returns the variance of the numbers as a whole population.
    #[must_use]
    pub fn variance(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.squared_distances / self.count as f64 }
    }
}

impl Histogram {
    pub(super) fn new(interval: f64) -> Self {
        Self { interval, counts: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, number: f64) -> Result<(), TooManyBuckets> {
        let bucket = (number / self.interval).floor();
        if bucket.is_nan() || bucket.abs() > BUCKET_NUMBER_MAX {
            return Err(TooManyBuckets);
        }
        *self.counts.entry(bucket as i64).or_default() += 1;
        if self.counts.len() > BUCKETS_MAX { Err(TooManyBuckets) } else { Ok(()) }
    }

    /// Returns the approximate memory.
    pub(super) fn memory(&self) -> usize {
        self.counts.len() * BUCKET_BYTES
    }

    pub(super) fn into_buckets(self) -> Vec<Bucket> {
        let interval = self.interval;
        let bucket = |(bucket, count): (i64, u64)| Bucket { from: bucket as f64 * interval, count };
        self.counts.into_iter().map(bucket).collect()
    }
}

/// Returns the number below which `percent` of `sorted` are, between the two nearest ones; `None` without numbers.
pub(super) fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = percent / 100.0 * sorted.len().checked_sub(1)? as f64;
    let lower = *sorted.get(rank.floor() as usize)?;
    let upper = *sorted.get(rank.ceil() as usize)?;
    // Halves first, since the difference of two numbers may be beyond the largest one.
    let part = rank.fract();
    Some((lower * (1.0 - part) + upper * part).clamp(lower, upper))
}
