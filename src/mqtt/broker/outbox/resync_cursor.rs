//! The boundary between events that are queued live and events that a resync from the journal replaces.
//!
//! Only the notifier pushes events and documents, from one thread, in ascending order of journal sequence, between
//! [`FanOutPosition::begin`] and [`FanOutPosition::finish`] of that sequence. The cursor is read and changed under the
//! outbox's lock.
//!
//! *Invariants:*
//!
//! 1. `since = Some(n)`: a resync is under way. No event or document is queued, and pushed ones, all above `n`, are
//!    ignored. The states of all changes above `n` that the session selects have yet to be sent.
//! 2. `replay_from = m`: a resync has sent all changes up to `m`, and events up to `m` are ignored. `m` only rises, and
//!    `since` is never below it.
//! 3. A resync ends only if no change above `resynced` has been begun. A push of a higher sequence has not taken the
//!    lock yet, so it finds `since` empty and is queued. A push of `resynced` or lower is covered by `replay_from`. No
//!    change is lost, and no older state follows a newer one.
//! 4. A resync begins at the last finished sequence, or below the lowest one dropped, since the notifier may be in the
//!    middle of a change.
//! 5. The change right above `since` may have been sent in part. `unsent` names the first of its events that was
//!    dropped. The events of one change are queued and popped in a fixed order, so those before it were sent, and
//!    neither it nor any later one was. Only the document may have been popped earlier, in the place of an older one;
//!    then `document_sent` is true. This record is dropped when `since` moves.
//! 6. During a resync no message of a shadow overtakes the resync. Notices are dropped, and the resync waits for queued
//!    replies. Ordinary messages are in the other lane and belong to no shadow.
//! 7. A document that was sent past the queue, at a sequence that the notifier has not finished, is remembered until
//!    the notifier has. Until then older documents of its topic are ignored.

use std::collections::HashMap;

use crate::mqtt::broker::outbox::{
    fan_out_position::FanOutPosition,
    queue::{DeliveryClass, QueuedDelivery},
};
use crate::mqtt::protocol::topic::TopicName;

/// The sequences between events queued live, changes already resynced, and changes yet to be resynced.
#[derive(Debug, Default)]
pub(super) struct ResyncCursor {
    since: Option<u64>,
    replay_from: u64,
    /// The first unsent event of the change after `since`, if that was sent in part.
    unsent: Option<Box<Unsent>>,
    /// Sequences of documents that were sent past the queue, by topic.
    #[expect(clippy::box_collection, reason = "nearly always none, and there is one for each session")]
    ahead: Option<Box<HashMap<TopicName, u64>>>,
}

/// The first event or document that an outbox dropped unsent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// The lowest journal sequence dropped.
    pub seq: u64,
    /// The topic of the first dropped event of that change; `None` if only its document was dropped.
    pub topic: Option<TopicName>,
    /// True if the document of that change was sent already.
    pub document_sent: bool,
}

impl Unsent {
    pub(super) fn of(entry: &QueuedDelivery) -> Self {
        let topic = (entry.class == DeliveryClass::Event).then(|| entry.delivery.message.topic.clone());
        Self { seq: entry.seq, topic, document_sent: false }
    }

    /// Includes an entry that was queued later.
    pub(super) fn add(&mut self, entry: &QueuedDelivery) {
        if entry.seq < self.seq {
            *self = Self::of(entry);
        } else if entry.seq == self.seq && self.topic.is_none() {
            self.topic = Self::of(entry).topic;
        }
    }
}

impl ResyncCursor {
    pub(super) fn since(&self) -> Option<u64> {
        self.since
    }

    /// Begins a resync of the changes above `at`. The caller leaves no event in the queue.
    pub(super) fn begin(&mut self, at: u64) {
        self.since = Some(self.since.map_or(at, |since| since.min(at)).max(self.replay_from));
        self.unsent = None;
    }

    /// Begins a resync at `unsent`. The caller has dropped everything from there on, and leaves no event in the queue.
    pub(super) fn begin_before(&mut self, unsent: Unsent) {
        self.begin(unsent.seq - 1); // queued, hence above `replay_from`
        self.unsent = Some(Box::new(unsent));
    }

    /// Returns the first unsent event of the first change to resync, if the change was sent in part.
    pub(super) fn unsent(&self) -> Option<&Unsent> {
        self.unsent.as_deref()
    }

    /// Records that all changes up to `resynced` were sent. Returns true if the resync ended and events are live.
    pub(super) fn end(&mut self, resynced: u64, fan_out_position: &FanOutPosition) -> bool {
        let Some(since) = self.since else { return true };
        self.replay_from = since.max(resynced);
        self.unsent = None;
        self.since = (fan_out_position.begun() > self.replay_from).then_some(self.replay_from);
        self.since.is_none()
    }

    /// Returns true if a pushed event or document must not be queued.
    pub(super) fn ignores(&mut self, entry: &QueuedDelivery) -> bool {
        if entry.seq <= self.replay_from || self.since.is_some() {
            return true;
        }
        let Some(ahead) = &self.ahead else { return false };
        let sent = ahead.get(&entry.delivery.message.topic).is_some_and(|&seq| entry.seq <= seq);
        self.forget_ahead(entry.seq - 1);
        sent && entry.class == DeliveryClass::Document
    }

    /// Records that the document of `topic` at `seq` was sent past the queue.
    pub(super) fn sent_ahead(&mut self, topic: &TopicName, seq: u64, fan_out_position: &FanOutPosition) {
        let finished = fan_out_position.finished();
        self.forget_ahead(finished);
        if seq > finished {
            self.ahead.get_or_insert_default().insert(topic.clone(), seq);
        }
    }

    /// Removes the documents that a notifier that has finished `finished` has passed.
    fn forget_ahead(&mut self, finished: u64) {
        if let Some(ahead) = &mut self.ahead {
            ahead.retain(|_, seq| *seq > finished);
            if ahead.is_empty() {
                self.ahead = None;
            }
        }
    }
}
