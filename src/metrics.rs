//! What happened so far, counted: each counter named once, here.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::quota::Cause;

/// A number that only rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it by `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The counters of the broker. Any connection raises them; the server logs them when it ends.
#[derive(Debug, Default)]
pub struct Counters {
    /// Accepts that failed, for want of file descriptors mostly.
    pub accepts_failed: Counter,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// Connections ended because the client broke the protocol.
    pub violations: Counter,
    /// Publications to a topic that only the service publishes to.
    pub publishes_refused: Counter,
    /// Messages not sent because they are above the client's Maximum Packet Size.
    pub deliveries_too_large: Counter,
    /// Messages not sent because they had expired.
    pub deliveries_expired: Counter,
}

/// The counters of [`crate::auth::login`].
#[derive(Debug, Default)]
pub struct LoginCounters {
    /// Passwords that were hashed to compare them.
    pub password_hashes: Counter,
    /// Logins refused because something was wrong.
    pub refused: Counter,
    /// Logins refused because too many had failed.
    pub limited: Counter,
    /// Logins refused because too many waited.
    pub busy: Counter,
}

/// How often something was refused or slowed, for each quota.
#[derive(Default)]
pub struct QuotaCounters([Counter; Cause::ALL.len()]);

impl QuotaCounters {
    /// Counts one more for `cause`; how many those are.
    pub fn add(&self, cause: Cause) -> u64 {
        self.of(cause).0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// How many there were for `cause`.
    #[must_use]
    pub fn get(&self, cause: Cause) -> u64 {
        self.of(cause).get()
    }

    fn of(&self, cause: Cause) -> &Counter {
        self.0.get(cause as usize).expect("there is a counter for each cause")
    }
}

impl fmt::Debug for QuotaCounters {
    /// Those that were met.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = Cause::ALL.iter().map(|&cause| (cause.name(), self.get(cause))).filter(|(_, count)| *count > 0);
        f.debug_map().entries(met).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_has_a_counter_of_its_own() {
        let counters = QuotaCounters::default();
        for (number, cause) in (1..).zip(Cause::ALL) {
            let counted = (0..number).map(|_| counters.add(*cause)).collect::<Vec<u64>>();
            assert_eq!(counted, (1..=number).collect::<Vec<_>>());
        }
        let counted: Vec<u64> = Cause::ALL.iter().map(|cause| counters.get(*cause)).collect();
        assert_eq!(counted, (1..=counted.len() as u64).collect::<Vec<_>>());
    }
}
