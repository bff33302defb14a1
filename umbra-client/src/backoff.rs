//! How long a writer waits before it tries again: exponential backoff with full jitter.
//!
//! Writers that lost a race all wake at another moment, so that they do not meet again. A wait that the server asked
//! for (`retryAfterMs`) is never shortened: the jitter comes on top. Pure: the caller brings the dice and does the
//! waiting.

use std::time::Duration;

use rand::{Rng, RngExt};

/// The bounds of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait; it doubles with each further one.
    pub base: Duration,
    /// No upper bound grows beyond this.
    pub cap: Duration,
    /// Tries in all, the first included.
    pub tries_max: u32,
}

impl Backoff {
    /// Of one read or write: it is given up after some 20 seconds of being beaten.
    pub const REQUESTS: Self = Self { base: Duration::from_millis(50), cap: Duration::from_secs(5), tries_max: 12 };

    /// Between attempts to connect again, which have no end.
    pub const CONNECTS: Self =
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(10), tries_max: u32::MAX };

    /// The same as [`Backoff::wait`], with dice of its own: nobody has to hold any while waiting.
    pub(crate) fn next(&self, tried: u32, asked: Option<Duration>) -> Option<Duration> {
        self.wait(tried, asked, &mut rand::rng())
    }

    /// The wait after try number `tried` (the first is 1) failed, or `None` when that was the last.
    fn wait(&self, tried: u32, asked: Option<Duration>, dice: &mut impl Rng) -> Option<Duration> {
        if tried >= self.tries_max {
            return None;
        }
        let jitter = self.bound(tried).mul_f64(dice.random::<f64>());
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
        let mut dice = SmallRng::seed_from_u64(1);
        for (tried, bound) in [(1, 100), (2, 200), (3, 400), (4, 500), (60, 500)] {
            let waits: Vec<_> = (0..500).filter_map(|_| backoff.wait(tried, None, &mut dice)).collect();
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
        let mut dice = SmallRng::seed_from_u64(1);
        let waits = [1, 2, 3, 4].map(|tried| backoff.wait(tried, None, &mut dice).is_some());
        assert_eq!(waits, [true, true, false, false]);
    }

    #[test]
    fn a_wait_the_server_asked_for_is_never_shortened() {
        let mut dice = SmallRng::seed_from_u64(1);
        let asked = Duration::from_millis(700);
        for tried in 1..Backoff::REQUESTS.tries_max {
            let wait = Backoff::REQUESTS.wait(tried, Some(asked), &mut dice).unwrap_or_default();
            assert!(wait >= asked, "try {tried}: {wait:?}");
        }
    }
}
