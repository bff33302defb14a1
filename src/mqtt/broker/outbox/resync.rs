//! The outbox's side of a resync: the state that has to be sent, and the queued messages that it must not overtake.

use crate::mqtt::broker::outbox::{ChangedPresence, FanOutPosition, Inner, Outbox, Unsent, queue::DeliveryClass};
use crate::{
    mqtt::{
        protocol::{message::Delivery, topic::TopicName},
        shadow::topics,
    },
    shadow::ShadowKey,
};

/// The queued messages of a shadow whose document is about to bypass the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedForShadow {
    /// No message is queued.
    Nothing,
    /// An older message is queued, and the document has to wait for it.
    Older,
    /// The document itself is queued.
    Document,
}

impl Outbox {
    /// Returns the journal sequence above which changes have to be resynced, during a resync.
    #[must_use]
    pub fn resync_since(&self) -> Option<u64> {
        self.inner.lock().resync.since()
    }

    /// Returns the first unsent event of the change right above [`Outbox::resync_since`], if the change was sent in
    /// part.
    #[must_use]
    pub fn unsent(&self) -> Option<Unsent> {
        self.inner.lock().resync.unsent().cloned()
    }

    /// Ends the resync if the notifier has not begun a change above `resynced`, else moves its start to there. Returns
    /// true if it ended.
    ///
    /// The caller must have sent the newest state of everything that changed above [`Outbox::resync_since`] up to
    /// `resynced`, and no state newer than `resynced`.
    pub fn finish_resync(&self, resynced: u64, fan_out_position: &FanOutPosition) -> bool {
        self.inner.lock().resync.end(resynced, fan_out_position)
    }

    /// Returns true if presence has changed since the last [`Outbox::take_changed_presence`].
    #[must_use]
    pub fn has_changed_presence(&self) -> bool {
        !self.inner.lock().presence.is_empty()
    }

    /// Returns true if changes have to be resynced, or presence has to be sent.
    #[must_use]
    pub fn needs_resync(&self) -> bool {
        let inner = self.inner.lock();
        inner.resync.since().is_some() || !inner.presence.is_empty()
    }

    /// Wakes the connection, which has something to send that is not queued here.
    pub fn wake(&self) {
        self.change(Inner::wake_always);
    }

    /// Returns true if a reply is queued, which a resync must not overtake.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        self.inner.lock().queue.has_replies()
    }

    /// Returns true if an ordinary delivery is queued that serves for this one: of the same message, compared by pointer.
    #[must_use]
    pub fn has_ordinary(&self, delivery: &Delivery) -> bool {
        self.inner.lock().queue.has_ordinary(delivery)
    }

    /// Returns the kind of messages queued for the shadow `key`, whose document topic is `topic`.
    #[must_use]
    pub fn ahead_of_document(&self, key: &ShadowKey, topic: &str) -> QueuedForShadow {
        let inner = self.inner.lock();
        let mut ahead = QueuedForShadow::Nothing;
        for entry in inner.queue.shadow() {
            if entry.class == DeliveryClass::Document && entry.topic() == topic {
                return QueuedForShadow::Document;
            }
            if ahead == QueuedForShadow::Nothing && topics::is_of(entry.topic(), key) {
                ahead = QueuedForShadow::Older;
            }
        }
        ahead
    }

    /// Takes the marked presence changes, to be sent now.
    #[must_use]
    pub fn take_changed_presence(&self) -> ChangedPresence {
        self.inner.lock().presence.take()
    }

    /// Records that the document of `topic` at `seq` was sent past the queue, after a subscription. A queued or later
    /// pushed document that is not newer is dropped, so that no older document follows.
    pub fn document_sent(&self, topic: &TopicName, seq: u64, fan_out_position: &FanOutPosition) {
        let inner = &mut *self.inner.lock();
        inner.queue.drop_document(topic.as_str(), seq);
        inner.resync.sent_ahead(topic, seq, fan_out_position);
    }
}
