//! The journal sequence up to which the client certainly has the messages of shadows: from there a session continues after
//! a restart, which loses the queued and unacknowledged ones.
//!
//! While messages of shadows are queued, unsent or unacknowledged, it stays. Otherwise it follows the notifier, one interval
//! of the clock behind ([`crate::mqtt::broker::durable`]).

use crate::mqtt::broker::outbox::Outbox;

/// The messages of shadows that the client has.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// The client has everything up to this journal sequence.
    pub(super) up_to: u64,
    /// True while a message that was popped is unsent or unacknowledged.
    pub(super) is_incomplete: bool,
}

impl Outbox {
    /// Records that a message of a shadow is being sent past the queue.
    pub fn begin_delivery(&self) {
        self.inner.lock().delivered.is_incomplete = true;
    }

    /// Records that the client has all messages of shadows that were popped.
    pub fn complete_delivery(&self) {
        self.inner.lock().delivered.is_incomplete = false;
    }

    /// Returns the journal sequence up to which the client has everything. The notifier has finished `finished`.
    #[must_use]
    pub fn delivered_up_to(&self, finished: u64) -> u64 {
        let inner = &mut *self.inner.lock();
        let queued = inner.resync.since().unwrap_or(finished);
        inner.delivered.up_to = if inner.delivered.is_incomplete { queued.min(inner.delivered.up_to) } else { queued };
        inner.delivered.up_to
    }

    /// Moves the position to `seq`, which the notifier had finished one interval ago, if the client has everything that was
    /// queued. Otherwise returns where it stays.
    pub fn advance_delivered(&self, seq: u64) -> Option<u64> {
        let inner = &mut *self.inner.lock();
        let has_all =
            !inner.delivered.is_incomplete && inner.resync.since().is_none() && inner.queue.shadow().next().is_none();
        if has_all {
            inner.delivered.up_to = inner.delivered.up_to.max(seq);
        }
        (!has_all).then_some(inner.delivered.up_to)
    }
}
