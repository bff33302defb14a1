//! Overflow of an outbox: the room for more, the order in which messages are dropped, and their counters.

use crate::{
    mqtt::{
        broker::outbox::{
            Inner, Outbox,
            queue::{DeliveryClass, QueuedDelivery},
        },
        protocol::packet::QoS,
    },
    observability::metrics::Counter,
};

impl Outbox {
    /// Queues an ordinary message or a notice, in place of the oldest ones of a full queue. Returns true if the consumer
    /// has to be woken.
    pub(super) fn queue_ordinary(&self, inner: &mut Inner, mut entry: QueuedDelivery) -> bool {
        let (cost, mut dropped_any) = (entry.cost(), false);
        while !self.fits(inner, cost) {
            // Before the first is dropped: not any number of them for one that finds no room then.
            let may_fit = dropped_any || self.may_fit(inner, cost);
            let dropped = may_fit.then(|| inner.queue.drop_oldest_ordinary()).flatten();
            self.dropped(dropped.unwrap_or(entry.delivery.qos)).add(1);
            if dropped.is_none() {
                return dropped_any && inner.wake_always();
            }
            dropped_any = true;
        }
        let news = inner.is_news(&entry);
        let delivery = &mut entry.delivery;
        if entry.class == DeliveryClass::Ordinary && delivery.qos != QoS::AtMostOnce && inner.is_kept {
            delivery.row = self.recorder.insert(delivery, self.id);
        }
        inner.queue.push(entry);
        (dropped_any || news) && inner.wake_always() // the head may have been dropped
    }

    pub(super) fn keeps_offline(&self, inner: &mut Inner, entry: &QueuedDelivery) -> bool {
        entry.delivery.qos != QoS::AtMostOnce && self.fits(inner, entry.cost())
    }

    /// Returns true if a delivery of `more` bytes fits into the queue.
    pub(super) fn fits(&self, inner: &mut Inner, more: usize) -> bool {
        inner.queue.fits(more, self.limit(inner)) && inner.has_memory(more)
    }

    /// Returns true if a delivery of `more` bytes fits once all ordinary messages and notices are dropped.
    fn may_fit(&self, inner: &Inner, more: usize) -> bool {
        let bytes = inner.queue.undroppable_bytes() + more;
        inner.queue.may_fit(more, self.limit(inner)) && inner.has_memory_for(bytes)
    }

    fn limit(&self, inner: &Inner) -> usize {
        if inner.connected { self.limits.bytes } else { self.limits.offline_bytes }
    }

    /// Brings a queue that has events back to its limit, or to what its principal has memory for. Drops superseded events, then the oldest ordinary messages,
    /// then all events, which begins a resync. Returns true if the consumer has to be woken, since the head may be
    /// gone.
    ///
    /// Superseded events are dropped down to three quarters of the limit. They are searched for only after a number of
    /// new events, so that the walk over the lane is rare. If the three quarters are not reached, a resync begins.
    pub(super) fn enforce_limit(&self, inner: &mut Inner) -> bool {
        let (limit, target) = (self.limits.bytes, self.limits.bytes / 4 * 3);
        // One delivery always fits.
        let is_full = |inner: &mut Inner| !inner.queue.fits(0, limit) || !inner.has_memory(0);
        if !is_full(inner) || inner.queue.len() <= 1 || !inner.queue.has_journalled() {
            return false;
        }
        if inner.queue.is_search_due() {
            self.counters.superseded.add(inner.queue.drop_superseded(target, limit) as u64);
        }
        while is_full(inner)
            && let Some(qos) = inner.queue.drop_oldest_ordinary()
        {
            self.dropped(qos).add(1);
        }
        if is_full(inner) && inner.queue.len() > 1 {
            self.counters.superseded.add(inner.queue.drop_superseded(target, limit) as u64);
            if inner.queue.counted(0, limit) > target || is_full(inner) {
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
