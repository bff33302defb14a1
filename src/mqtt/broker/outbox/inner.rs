//! The steps of an outbox under its lock: what is popped and recorded as sent, charged to the principal, and when the
//! consumer wakes.

use crate::mqtt::{
    broker::outbox::{Closed, DeliveryClass, Idle, Inner, Item, QueuedAck, QueuedDelivery, Unsent, queue},
    protocol::packet::QoS,
    shadow::topics,
};

impl Inner {
    /// Charges the memory of the queue.
    pub(super) fn charge_queue(&mut self) {
        let bytes = self.queue.bytes();
        self.charge.follow(bytes);
    }

    /// Returns true if the principal has memory for `more` bytes. The first delivery to a connected client always fits.
    pub(super) fn has_memory(&self, more: usize) -> bool {
        self.connected && self.queue.len() == 0 || self.has_memory_for(self.queue.bytes() + more)
    }

    /// Returns true if the principal has memory for a queue of `bytes`.
    pub(super) fn has_memory_for(&self, bytes: usize) -> bool {
        let beyond = bytes.saturating_sub(self.charge.bytes());
        beyond == 0 || self.charge.quota().check_memory(beyond).is_ok()
    }

    /// Returns true if the log of a cluster has no such session any more.
    pub(super) fn is_void(&self) -> bool {
        matches!(self.closed, Some(Closed::Left | Closed::Ended))
    }

    pub(super) fn pop_ack(&mut self) -> Option<QueuedAck> {
        let replies_out = self.replies_out;
        let ack = self.acks.pop_front_if(|ack| ack.after <= replies_out)?;
        queue::release(&mut self.acks);
        Some(ack)
    }

    /// Records that `entry` is sent.
    pub(super) fn sent(&mut self, entry: QueuedDelivery) -> Item {
        if entry.delivery.qos != QoS::AtMostOnce {
            self.window = self.window.saturating_sub(1);
        }
        if entry.class == DeliveryClass::Document && !topics::is_lean_delta(entry.topic()) {
            self.last_document = entry.seq;
        }
        let seq = entry.is_journalled().then_some(entry.seq);
        self.is_delivering |= seq.is_some();
        Item::Delivery { delivery: entry.delivery, seq }
    }

    pub(super) fn drop_journalled(&mut self) -> Option<Unsent> {
        let unsent = self.queue.drop_journalled()?;
        Some(Unsent { document_sent: unsent.seq == self.last_document, ..unsent })
    }

    /// Returns true if everything queued and one more message at `qos` can be sent without an acknowledgement.
    pub(super) fn has_window(&self, qos: QoS) -> bool {
        let queued = self.queue.acknowledged() + usize::from(qos != QoS::AtMostOnce);
        queued <= self.window.into()
    }

    /// Returns true if the consumer waits for something like `entry`, which is about to be queued.
    pub(super) fn is_news(&self, entry: &QueuedDelivery) -> bool {
        match self.idle {
            Idle::Busy => false,
            Idle::Empty => true,
            Idle::Window => entry.delivery.qos == QoS::AtMostOnce && self.queue.is_lane_empty(entry.lane()),
        }
    }

    pub(super) fn wake_always(&mut self) -> bool {
        std::mem::replace(&mut self.idle, Idle::Busy) != Idle::Busy
    }
}
