//! Random samples of bounded size, which are complete as long as they fit.
//!
//! Each value has a random number, its hash. A sample of level *n* keeps the values whose hash ends in *n* zero bits, so
//! one of 2ⁿ. When it is full, its level rises and half of it is dropped. Equal hashes count as one value, so the hash of
//! a value itself counts distinct values, and the hash of a counter samples all of them.

use std::collections::HashMap;

/// Most values that are kept. Above, between half of them and all are in the sample: the standard error of a count of
/// distinct values is below half a percent, that of a percentile below a quarter of a percentage point of its rank.
pub const KEPT_MAX: usize = 100_000;

/// The memory of a value.
const KEPT_BYTES: usize = 32;

/// A sample of numbers.
#[derive(Debug, Default)]
pub(super) struct Sample {
    level: u32,
    kept: HashMap<u64, f64>,
}

impl Sample {
    /// Adds a value with this hash, if it is in the sample.
    pub(super) fn add(&mut self, hash: u64, value: f64) {
        if hash.trailing_zeros() < self.level {
            return;
        }
        self.kept.insert(hash, value);
        while self.kept.len() > KEPT_MAX {
            self.level += 1;
            let level = self.level;
            self.kept.retain(|hash, _| hash.trailing_zeros() >= level);
        }
    }

    /// Returns the approximate memory, also of the ordered values.
    pub(super) fn memory(&self) -> usize {
        self.kept.len() * KEPT_BYTES
    }

    #[cfg(test)]
    pub(super) fn kept_len(&self) -> usize {
        self.kept.len()
    }

    /// Returns true if every value is in the sample.
    pub(super) fn is_exact(&self) -> bool {
        self.level == 0
    }

    /// Returns the number of values with different hashes.
    pub(super) fn estimate(&self) -> u64 {
        u64::try_from(self.kept.len()).unwrap_or(u64::MAX).saturating_mul(1_u64.checked_shl(self.level).unwrap_or(0))
    }

    /// Returns the values in order.
    pub(super) fn into_sorted(self) -> Vec<f64> {
        let mut values: Vec<f64> = self.kept.into_values().collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }
}
