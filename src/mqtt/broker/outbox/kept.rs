//! The queue of a session that outlives its connection: its messages have rows in the store, from which a start restores it.

use crate::mqtt::{
    broker::{
        durable::Recorder,
        outbox::{DeliveryClass, Outbox, QueuedDelivery},
    },
    protocol::message::Delivery,
    session::Ticket,
};

impl Outbox {
    /// Returns the queue, whose rows go to `recorder`.
    #[must_use]
    pub fn with_recorder(self, recorder: Recorder) -> Self {
        Self { recorder, ..self }
    }

    /// Sets whether the session outlives its connection: messages queued from now on have rows in the store then.
    pub fn set_kept(&self, is_kept: bool) {
        self.inner.lock().is_kept = is_kept;
    }

    /// Returns true if the session outlives its connection.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.inner.lock().is_kept
    }

    /// Notes that the step of `ticket` is on disk, for the session to continue with.
    pub fn push_saved(&self, ticket: Ticket) {
        self.change(|inner| {
            inner.saved.push(ticket);
            inner.wake_always()
        });
    }

    /// Queues a message that waited before a restart, whatever the limits are now.
    pub fn restore_delivery(&self, delivery: Delivery) {
        let inner = &mut *self.inner.lock();
        inner.queue.push(QueuedDelivery::new(DeliveryClass::Ordinary, delivery, 0));
        inner.charge_queue();
    }

    /// Marks the session as disconnected since before the start of the server. Its client has the state of shadows up to
    /// the journal sequence `since`.
    pub fn restore(&self, since: u64) {
        let inner = &mut *self.inner.lock();
        inner.connected = false;
        inner.resync.begin(since);
        inner.presence.cover_after(0);
    }
}
