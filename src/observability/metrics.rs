//! Counters and histograms.
//!
//! The modules of the service update them; [`crate::server::telemetry`] gives them their names in `/metrics`.

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

/// A number that only rises.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds 1 and returns the new value.
    pub fn increment(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Returns the value.
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

/// The counters of the broker. Any connection raises them; the server logs them at shutdown.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections closed because the client violated the protocol.
    pub violations: Counter,
    /// Ordinary messages that were not passed to the other nodes of a cluster, since too many waited.
    pub peer_messages_dropped: Counter,
    /// Publications to a topic that only the service publishes to.
    pub publishes_refused: Counter,
    /// Messages not sent because they exceed the client's Maximum Packet Size.
    pub deliveries_too_large: Counter,
    /// Messages not sent because they had expired.
    pub deliveries_expired: Counter,
    /// Bytes of MQTT received, excluding TLS and WebSocket framing.
    pub bytes_received: Counter,
    /// Bytes of MQTT sent, excluding TLS and WebSocket framing.
    pub bytes_sent: Counter,
}

/// Counters of deliveries dropped for slow or absent sessions. The outboxes raise them.
#[derive(Debug, Default)]
pub struct DropCounters {
    /// Events dropped because a later one of the same topic was queued.
    pub superseded: Counter,
    /// Ordinary QoS 0 messages dropped because the queue was full or the client not connected.
    pub ordinary_at_most_once: Counter,
    /// Ordinary QoS 1 and 2 messages dropped at a full queue.
    pub ordinary_guaranteed: Counter,
    /// Replies dropped because their session had no connection, or was closed for having too many.
    pub replies: Counter,
    /// Number of times a session began a resync because its queue was full.
    pub resyncs: Counter,
    /// Messages whose expiry interval passed in the queue.
    pub expired: Counter,
    /// Number of times the replies alone exceeded the limit.
    pub closed: Counter,
}

/// Measurements of the store's commits, made by its writer.
#[derive(Debug)]
pub struct CommitMetrics {
    /// Time of each commit until it is on the disk.
    pub durations: Histogram,
    /// Commands decided together in each batch.
    pub batches: Histogram,
    /// Commits that failed; after each the store is reopened.
    pub failed: Counter,
    /// Times that the store was reopened after a failed commit or read.
    pub reopened: Counter,
    /// Failed attempts to reopen it.
    pub reopens_failed: Counter,
}

impl Default for CommitMetrics {
    fn default() -> Self {
        const BATCHES: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
        Self {
            durations: Histogram::of_durations(),
            batches: Histogram::new(&BATCHES, 1.0),
            failed: Counter::default(),
            reopened: Counter::default(),
            reopens_failed: Counter::default(),
        }
    }
}

/// The counters of [`crate::auth::authn::login`].
#[derive(Debug, Default)]
pub struct LoginCounters {
    /// Passwords hashed to compare them.
    pub password_hashes: Counter,
    /// Logins refused because of wrong credentials.
    pub refused: Counter,
    /// Logins refused because the principal has no role assigned.
    pub without_role: Counter,
    /// Logins refused because the principal is banned.
    pub banned: Counter,
    /// Logins refused because too many had failed.
    pub limited: Counter,
    /// Logins refused because too many were waiting.
    pub busy: Counter,
}
