//! The queue of a session that outlives its connection: its messages have rows in the store, from which a start restores it.

use std::sync::Arc;

use crate::mqtt::{
    broker::{
        durable::{Recorder, Removal},
        outbox::{Closed, DeliveryClass, FanOutPosition, Idle, Outbox, QueuedDelivery},
        sessions::SessionKey,
    },
    protocol::{message::Delivery, packet::QoS},
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

    /// Gives a delivery that is sent without being queued its rows, if the session outlives its connection. Its message is a copy then:
    /// another delivery of the same message to this session would have the same row. Without room on the disk it has none, and a
    /// restart loses it.
    #[must_use]
    pub fn keep(&self, mut delivery: Delivery) -> Delivery {
        if delivery.qos != QoS::AtMostOnce && self.is_kept() && self.recorder.check().is_ok() {
            delivery.message = Arc::new(delivery.message.copy());
            delivery.row = self.recorder.insert(&delivery, self.id);
        }
        delivery
    }

    /// Notes that the session, which has `key`, ends, and its rows are to be removed.
    pub(in crate::mqtt::broker) fn begin_removal(&self, key: &SessionKey) -> Option<Removal> {
        self.recorder.begin_removal(key)
    }

    /// Marks the session as connected. The client's window allows `window` messages.
    pub fn attach(&self, window: u16) {
        let inner = &mut *self.inner.lock();
        inner.connected = true;
        inner.window = window;
        inner.closed = inner.closed.filter(|_| inner.is_void());
        inner.idle = Idle::Busy;
    }

    /// Marks the session as disconnected.
    ///
    /// Drops QoS 0 messages, the events, which the resync of the next connection replaces, and the oldest ordinary
    /// messages above the offline limit.
    pub fn detach(&self, fan_out_position: &FanOutPosition) {
        let inner = &mut *self.inner.lock();
        inner.connected = false;
        let dropped = inner.queue.drop_journalled().map_or(u64::MAX, |unsent| unsent.seq - 1);
        inner.resync.begin(dropped.min(fan_out_position.finished()));
        self.drop_notices(inner);
        let (replies, others) = inner.queue.drop_unguaranteed();
        inner.replies_out += replies as u64;
        self.counters.replies.add(replies as u64);
        self.counters.ordinary_at_most_once.add(others as u64);
        while !self.fits(inner, 0)
            && let Some(qos) = inner.queue.drop_oldest_ordinary()
        {
            self.dropped(qos).add(1);
        }
        inner.charge_queue();
    }

    /// Closes the queue of a session that is at another node now. What its client does here has no effect on it any more, so
    /// nothing is acknowledged.
    pub(in crate::mqtt::broker) fn leave(&self) {
        self.close_for_good(Closed::Left);
    }

    /// Closes the queue of a session that the log of a cluster has no more. What its client does here has no effect, so nothing is
    /// acknowledged.
    pub(in crate::mqtt::broker) fn end_in_log(&self) {
        self.close_for_good(Closed::Ended);
    }

    fn close_for_good(&self, closed: Closed) {
        self.change(|inner| {
            inner.acks.clear();
            inner.saved = None;
            inner.closed = Some(closed);
            inner.idle = Idle::Busy;
            true
        });
    }

    /// Returns true if the session is at another node now.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.inner.lock().closed == Some(Closed::Left)
    }

    /// Returns true if the session is at another node now, or has ended there.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.inner.lock().is_void()
    }

    /// Notes that the step of `ticket` is on disk, for the session to continue with.
    pub fn push_saved(&self, ticket: Ticket) {
        self.change(|inner| {
            if inner.is_void() {
                return false;
            }
            inner.saved.get_or_insert_default().push(ticket);
            inner.wake_always()
        });
    }

    /// Returns the number of queued messages.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.inner.lock().queue.len()
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
        inner.delivered_up_to = since;
        inner.presence.cover_after(0);
    }
}
