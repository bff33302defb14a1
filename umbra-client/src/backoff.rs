//! The waits between tries: exponential backoff with full jitter.
//!
//! Writers that lost a race wake at different moments, so that they do not meet again. A wait that the service asks for
//! (`retryAfterMs`) is never shortened: the jitter is added. Pure: the caller supplies the random numbers and waits.

use std::time::Duration;

use rand::{Rng, RngExt};

/// The bounds of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// Upper bound of the first wait; it doubles with each further one.
    pub base: Duration,
    /// Upper bound of all waits.
    pub cap: Duration,
    /// Tries in all, the first included.
    pub tries_max: u32,
}

impl Backoff {
    /// The default of reads and writes: 12 tries in about 20 seconds.
    pub const REQUESTS: Self = Self::new(Duration::from_millis(50), Duration::from_secs(5), 12);

    /// The default of reconnects: without end.
    pub const CONNECTS: Self = Self::new(Duration::from_millis(200), Duration::from_secs(10), u32::MAX);

    /// Returns a backoff whose waits are bounded by `base`, doubling up to `cap`, with at most `tries_max` tries.
    ///
    /// ```
    /// use std::time::Duration;
    /// use umbra_client::{Backoff, WriteOptions};
    ///
    /// let impatient = Backoff::new(Duration::from_millis(10), Duration::from_millis(100), 3);
    /// let options = WriteOptions::default().backoff(impatient);
    /// ```
    #[must_use]
    pub const fn new(base: Duration, cap: Duration, tries_max: u32) -> Self {
        Self { base, cap, tries_max }
    }

    /// Returns the wait after try number `tried` (the first is 1) failed; `None` if it was the last. `asked` is the
    /// wait that the service asked for.
    pub(crate) fn next(&self, tried: u32, asked: Option<Duration>) -> Option<Duration> {
        self.wait(tried, asked, &mut rand::rng())
    }

    /// Does the same with the given source of random numbers.
    fn wait(&self, tried: u32, asked: Option<Duration>, random: &mut impl Rng) -> Option<Duration> {
        if tried >= self.tries_max {
            return None;
        }
        let jitter = self.bound(tried).mul_f64(random.random::<f64>());
        Some(asked.unwrap_or_default() + jitter)
    }

    fn bound(&self, tried: u32) -> Duration {
        let doublings = tried.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn waits_stay_under_a_bound_that_doubles_up_to_the_cap() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_millis(500), tries_max: 100 };
        let mut random = SmallRng::seed_from_u64(1);
        for (tried, bound) in [(1, 100), (2, 200), (3, 400), (4, 500), (60, 500)] {
            let waits: Vec<_> = (0..500).filter_map(|_| backoff.wait(tried, None, &mut random)).collect();
            let bound = Duration::from_millis(bound);
            assert_eq!(waits.len(), 500);
            assert!(waits.iter().all(|wait| *wait <= bound), "try {tried}: a wait above {bound:?}");
            // Full jitter: the whole range is used, down to nearly nothing.
            assert!(waits.iter().any(|wait| *wait > bound.mul_f64(0.9)), "try {tried}: none near the bound");
            assert!(waits.iter().any(|wait| *wait < bound.mul_f64(0.1)), "try {tried}: none near zero");
        }
    }

    #[test]
    fn tries_are_bounded() {
        let backoff = Backoff { tries_max: 3, ..Backoff::REQUESTS };
        let mut random = SmallRng::seed_from_u64(1);
        let waits = [1, 2, 3, 4].map(|tried| backoff.wait(tried, None, &mut random).is_some());
        assert_eq!(waits, [true, true, false, false]);
    }

    #[test]
    fn waits_that_the_service_asks_for_are_never_shortened() {
        let mut random = SmallRng::seed_from_u64(1);
        let asked = Duration::from_millis(700);
        for tried in 1..Backoff::REQUESTS.tries_max {
            let wait = Backoff::REQUESTS.wait(tried, Some(asked), &mut random).unwrap_or_default();
            assert!(wait >= asked, "try {tried}: {wait:?}");
        }
    }
}
