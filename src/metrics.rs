//! What happened so far, counted: each counter named once, here.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

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
