//! What was not delivered to slow or absent sessions, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mqtt::packet::QoS;

/// What was not delivered, summed over all sessions that share it.
#[derive(Debug, Default)]
pub struct DropCounters {
    /// Events left out because a later one of the same topic was queued.
    pub superseded: AtomicU64,
    /// Ordinary QoS 0 messages dropped at a full queue or for want of a connection.
    pub plain_at_most_once: AtomicU64,
    /// Ordinary QoS 1 and 2 messages dropped at a full queue.
    pub plain_guaranteed: AtomicU64,
    /// Replies dropped because their session had no connection, or was closed for having too many.
    pub replies: AtomicU64,
    /// Times a session went over to catching up because its queue was full.
    pub lagged: AtomicU64,
    /// Messages whose expiry interval passed in the queue.
    pub expired: AtomicU64,
    /// Times the replies alone exceeded the limit.
    pub closed: AtomicU64,
}

impl DropCounters {
    pub(super) fn plain(&self, qos: QoS) -> &AtomicU64 {
        if qos == QoS::AtMostOnce { &self.plain_at_most_once } else { &self.plain_guaranteed }
    }
}

/// Counts `by` more.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    if by > 0 {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}
