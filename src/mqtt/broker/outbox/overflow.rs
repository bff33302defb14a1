//! Overflow of an outbox: the order in which messages are dropped, and their counters.

use crate::mqtt::broker::outbox::{Inner, Outbox};
use crate::{mqtt::protocol::packet::QoS, observability::metrics::Counter};

impl Outbox {
    /// Brings a queue that has events back to its limit, or to what its principal has memory for. Drops superseded events, then the oldest ordinary messages,
    /// then all events, which begins a resync. Returns true if the consumer has to be woken, since the head may be
    /// gone.
    ///
    /// Superseded events are dropped down to three quarters of the limit. They are searched for only after a number of
    /// new events, so that the walk over the lane is rare. If the three quarters are not reached, a resync begins.
    pub(super) fn enforce_limit(&self, inner: &mut Inner) -> bool {
        let (limit, target) = (self.limits.bytes, self.limits.bytes / 4 * 3);
        // One delivery always fits.
        let is_full = |inner: &Inner| inner.queue.bytes() > limit || !inner.has_memory(0);
        if !is_full(inner) || inner.queue.len() <= 1 || !inner.queue.has_journalled() {
            return false;
        }
        if inner.queue.is_search_due() {
            self.counters.superseded.add(inner.queue.drop_superseded(target) as u64);
        }
        while is_full(inner)
            && let Some(qos) = inner.queue.drop_oldest_ordinary()
        {
            self.dropped(qos).add(1);
        }
        if is_full(inner) && inner.queue.len() > 1 {
            self.counters.superseded.add(inner.queue.drop_superseded(target) as u64);
            if inner.queue.bytes() > target || is_full(inner) {
                self.begin_resync(inner);
            }
        }
        true
    }

    fn begin_resync(&self, inner: &mut Inner) {
        if inner.queue.len() > 1
            && let Some(unsent) = inner.drop_journalled()
        {
            self.drop_notices(inner);
            inner.resync.begin_before(unsent);
            self.counters.resyncs.add(1);
        }
    }

    pub(super) fn drop_replies(&self, inner: &mut Inner) {
        let replies = inner.queue.drop_replies() as u64;
        inner.replies_out += replies;
        self.counters.replies.add(replies);
    }

    pub(super) fn drop_notices(&self, inner: &mut Inner) {
        let (at_most_once, guaranteed) = inner.queue.drop_notices();
        self.counters.ordinary_at_most_once.add(at_most_once as u64);
        self.counters.ordinary_guaranteed.add(guaranteed as u64);
    }

    /// Returns the counter of ordinary messages dropped at `qos`.
    pub(super) fn dropped(&self, qos: QoS) -> &Counter {
        if qos == QoS::AtMostOnce { &self.counters.ordinary_at_most_once } else { &self.counters.ordinary_guaranteed }
    }
}
