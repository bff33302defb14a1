//! What happened so far, counted: each counter named once, here.
//!
//! Whoever does something raises a counter; [`crate::server::telemetry`] gives them their names in `/metrics`.

mod histogram;
mod outcomes;
mod text;

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

pub use self::{
    histogram::Histogram,
    outcomes::{Label, OutcomeCounters},
    text::{Family, MetricsPage},
};
use crate::{admission::QuotaKind, net::HandshakeFailure};

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
    /// Connections that were given a place.
    pub connections_accepted: Counter,
    /// Connections closed at once because there were too many.
    pub connections_refused: Counter,
    /// TLS handshakes that failed, by cause.
    pub tls_handshakes_failed: HandshakeCounters,
    /// Connections ended because the client broke the protocol.
    pub violations: Counter,
    /// Publications to a topic that only the service publishes to.
    pub publishes_refused: Counter,
    /// Messages not sent because they are above the client's Maximum Packet Size.
    pub deliveries_too_large: Counter,
    /// Messages not sent because they had expired.
    pub deliveries_expired: Counter,
    /// Bytes of MQTT received and sent, without TLS and WebSocket around them.
    pub bytes_received: Counter,
    /// See [`Counters::bytes_received`].
    pub bytes_sent: Counter,
}

/// What was not delivered to slow or absent sessions, summed over all of them. Their outboxes raise them.
#[derive(Debug, Default)]
pub struct DropCounters {
    /// Events left out because a later one of the same topic was queued.
    pub superseded: Counter,
    /// Ordinary QoS 0 messages dropped at a full queue or for want of a connection.
    pub plain_at_most_once: Counter,
    /// Ordinary QoS 1 and 2 messages dropped at a full queue.
    pub plain_guaranteed: Counter,
    /// Replies dropped because their session had no connection, or was closed for having too many.
    pub replies: Counter,
    /// Times a session went over to catching up because its queue was full.
    pub lagged: Counter,
    /// Messages whose expiry interval passed in the queue.
    pub expired: Counter,
    /// Times the replies alone exceeded the limit.
    pub closed: Counter,
}

/// The commits of the store. Its writer observes them.
#[derive(Debug)]
pub struct CommitMetrics {
    /// How long each took, to where it is on the disk.
    pub durations: Histogram,
    /// How many commands each batch had that were decided together.
    pub batches: Histogram,
    /// Commits that failed; the first stops the store.
    pub failed: Counter,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        const BATCHES: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
        Self {
            durations: Histogram::of_durations(),
            batches: Histogram::new(&BATCHES, 1.0),
            failed: Counter::default(),
        }
    }
}

/// The counters of [`crate::auth::authn::login`].
#[derive(Debug, Default)]
pub struct LoginCounters {
    /// Passwords that were hashed to compare them.
    pub password_hashes: Counter,
    /// Logins refused because something was wrong.
    pub refused: Counter,
    /// Logins refused because nothing is allowed to who it is.
    pub without_role: Counter,
    /// Logins refused because too many had failed.
    pub limited: Counter,
    /// Logins refused because too many waited.
    pub busy: Counter,
}

/// How many TLS handshakes failed, for each cause.
#[derive(Debug, Default)]
pub struct HandshakeCounters([Counter; HandshakeFailure::NAMED.len()]);

impl HandshakeCounters {
    /// Counts one more.
    pub fn add(&self, failure: HandshakeFailure) {
        if let Some(counter) = self.0.get(failure as usize) {
            counter.add(1);
        }
    }

    /// The counts so far, by the name of the cause.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HandshakeFailure::NAMED.iter().zip(&self.0).map(|((name, _), counter)| (*name, counter.get()))
    }
}

/// How often something was refused or slowed, for each quota.
#[derive(Default)]
pub struct QuotaCounters([Counter; QuotaKind::ALL.len()]);

impl QuotaCounters {
    /// Counts one more for `cause`; how many those are.
    pub fn add(&self, cause: QuotaKind) -> u64 {
        self.of(cause).0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// How many there were for `cause`.
    #[must_use]
    pub fn get(&self, cause: QuotaKind) -> u64 {
        self.of(cause).get()
    }

    fn of(&self, cause: QuotaKind) -> &Counter {
        self.0.get(cause as usize).expect("there is a counter for each cause")
    }
}

impl fmt::Debug for QuotaCounters {
    /// Those that were met.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = QuotaKind::ALL.iter().map(|&cause| (cause.name(), self.get(cause))).filter(|(_, count)| *count > 0);
        f.debug_map().entries(met).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_failure_has_a_counter_of_its_own() {
        let counters = HandshakeCounters::default();
        for (number, (_, failure)) in (1..).zip(HandshakeFailure::NAMED) {
            (0..number).for_each(|_| counters.add(failure));
        }
        let names = HandshakeFailure::NAMED.map(|(name, _)| name);
        assert_eq!(counters.counts().collect::<Vec<_>>(), names.into_iter().zip(1..).collect::<Vec<_>>());
    }

    #[test]
    fn each_quota_has_a_counter_of_its_own() {
        let counters = QuotaCounters::default();
        for (number, cause) in (1..).zip(QuotaKind::ALL) {
            let counted = (0..number).map(|_| counters.add(*cause)).collect::<Vec<u64>>();
            assert_eq!(counted, (1..=number).collect::<Vec<_>>());
        }
        let counted: Vec<u64> = QuotaKind::ALL.iter().map(|cause| counters.get(*cause)).collect();
        assert_eq!(counted, (1..=counted.len() as u64).collect::<Vec<_>>());
    }
}
