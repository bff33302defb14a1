//! What a connection asks its outbox while it catches up: what there is to catch up with, and what is queued that must not
//! be overtaken.

use std::sync::Arc;

use crate::mqtt::broker::outbox::{ChangedPresence, FanOutPosition, Outbox, Unsent, queue::DeliveryClass};
use crate::{
    mqtt::{
        protocol::{message::Message, topic::TopicName},
        shadow::topics,
    },
    shadow::ShadowKey,
};

/// What is queued of a shadow whose document is about to be sent past the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedForShadow {
    /// Nothing.
    Nothing,
    /// Something older: the document has to wait for it.
    Older,
    /// The document itself, as it is or will be.
    Document,
}

impl Outbox {
    /// The journal sequence above which changes must be caught up from the journal, if there is lag.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.inner.lock().lag.since()
    }

    /// Returns where to go on within the change right above [`Outbox::lag`], if that was sent in part.
    #[must_use]
    pub fn unsent(&self) -> Option<Unsent> {
        self.inner.lock().lag.unsent().cloned()
    }

    /// Ends lag if the announcer has not gone beyond `caught_up`, else moves it up to there. Returns whether it ended.
    ///
    /// The caller has sent the newest state of everything that changed above [`Outbox::lag`] up to `caught_up`, and no
    /// state newer than `caught_up`: while that is not so, it walks on.
    pub fn leave_lag(&self, caught_up: u64, fan_out_position: &FanOutPosition) -> bool {
        self.inner.lock().lag.end(caught_up, fan_out_position)
    }

    /// Returns true if presence has changed since the last [`Outbox::take_changed_presence`].
    #[must_use]
    pub fn has_changed_presence(&self) -> bool {
        !self.inner.lock().notes.is_empty()
    }

    /// Returns true if there is lag, or presence to be sent.
    #[must_use]
    pub fn wants_catching_up(&self) -> bool {
        let inner = self.inner.lock();
        inner.lag.since().is_some() || !inner.notes.is_empty()
    }

    /// Returns true if a reply is queued, which catching up from the journal must not overtake.
    #[must_use]
    pub fn has_replies(&self) -> bool {
        self.inner.lock().queue.has_replies()
    }

    /// Returns true if this very message is queued as an ordinary one.
    #[must_use]
    pub fn has_ordinary(&self, message: &Arc<Message>) -> bool {
        self.inner.lock().queue.has_ordinary(message)
    }

    /// Returns what is queued of the shadow of `key`, whose document is told on `topic`.
    #[must_use]
    pub fn ahead_of_document(&self, key: &ShadowKey, topic: &str) -> QueuedForShadow {
        let inner = self.inner.lock();
        let mut ahead = QueuedForShadow::Nothing;
        for entry in inner.queue.shadow() {
            if entry.kind == DeliveryClass::Document && entry.topic() == topic {
                return QueuedForShadow::Document;
            }
            if ahead == QueuedForShadow::Nothing && topics::is_of(entry.topic(), key) {
                ahead = QueuedForShadow::Older;
            }
        }
        ahead
    }

    /// What was noted of presence, to be sent now.
    #[must_use]
    pub fn take_changed_presence(&self) -> ChangedPresence {
        self.inner.lock().notes.take()
    }

    /// Tells that the document of `topic` as it is at `seq` has been sent past the queue, on subscribing: a queued or
    /// coming one that is not newer is dropped, so that no older document follows.
    pub fn document_sent(&self, topic: &TopicName, seq: u64, fan_out_position: &FanOutPosition) {
        let inner = &mut *self.inner.lock();
        inner.queue.drop_document(topic.as_str(), seq);
        inner.lag.sent_ahead(topic, seq, fan_out_position);
    }
}
