//! The journal sequence up to which the client certainly has the messages of shadows: from there a session continues after
//! a restart, which loses the queued and unacknowledged ones.
//!
//! While messages of shadows are queued, unsent or unacknowledged, it stays. Otherwise it follows the notifier, one interval
//! of the clock behind ([`crate::mqtt::broker::durable`]).

use crate::mqtt::broker::outbox::Outbox;

impl Outbox {
    /// Records that a message of a shadow is being sent past the queue.
    pub fn begin_delivery(&self) {
        self.inner.lock().is_delivering = true;
    }

    /// Records that the client has all messages of shadows that were popped.
    pub fn complete_delivery(&self) {
        self.inner.lock().is_delivering = false;
    }

    /// Returns the journal sequence up to which the client has everything. The notifier has finished `finished`.
    #[must_use]
    pub fn delivered_up_to(&self, finished: u64) -> u64 {
        let inner = &mut *self.inner.lock();
        let queued = inner.resync.since().unwrap_or(finished);
        inner.delivered_up_to = if inner.is_delivering { queued.min(inner.delivered_up_to) } else { queued };
        inner.delivered_up_to
    }

    /// Moves the position to `seq`, which the notifier had finished one interval ago, if the client has everything that was
    /// queued. Otherwise returns where it stays.
    pub fn advance_delivered(&self, seq: u64) -> Option<u64> {
        let inner = &mut *self.inner.lock();
        let has_all = !inner.is_delivering && inner.resync.since().is_none() && inner.queue.shadow().next().is_none();
        if has_all {
            inner.delivered_up_to = inner.delivered_up_to.max(seq);
        }
        (!has_all).then_some(inner.delivered_up_to)
    }
}

#[cfg(test)]
mod tests {
    use crate::mqtt::broker::outbox::tests::{outbox, push};

    #[test]
    fn the_position_follows_the_notifier_while_the_client_has_everything() {
        let (outbox, _) = outbox();
        assert_eq!(outbox.delivered_up_to(5), 5, "a new session");
        assert_eq!(outbox.advance_delivered(9), None);
        push(&outbox, "eaa1");
        assert_eq!(outbox.advance_delivered(20), Some(9), "queued");
        assert!(outbox.pop(1).is_some());
        assert_eq!(outbox.advance_delivered(20), Some(9), "sent");
        assert_eq!(outbox.delivered_up_to(20), 9, "not after a loss of the connection either");
        outbox.complete_delivery();
        assert_eq!(outbox.advance_delivered(20), None);
        outbox.begin_delivery();
        assert_eq!(outbox.advance_delivered(30), Some(20), "sent past the queue");
        outbox.complete_delivery();
        assert_eq!(outbox.advance_delivered(30), None);
        push(&outbox, "paa1");
        assert_eq!(outbox.advance_delivered(40), None, "ordinary messages have rows of their own");
        assert_eq!(outbox.delivered_up_to(40), 40);
    }
}
