//! Which events a session is not sent because the journal makes up for them.
//!
//! Only the announcer pushes events and documents, from one thread, in ascending order of journal sequence, between
//! [`FanOutPosition::begin`] and [`FanOutPosition::finish`] of that sequence. All below is read and changed under the outbox's lock.
//!
//! 1. `since = Some(n)`: no event or document is queued, pushed ones are ignored (all are above `n`), and the states of
//!    all changes above `n` that the session selects have yet to be sent.
//! 2. `replay_from = m`: what changed up to `m` has been sent by catching up; events up to `m` are ignored. `m` only
//!    rises, and `since` is never below it.
//! 3. Lag ends only if nothing above `caught_up` has been begun: the push of a higher sequence has not taken the lock
//!    yet, so it finds `since` gone and is queued, and one of `caught_up` or lower is covered by `replay_from`. No change
//!    is lost, and none older than what was sent follows.
//! 4. Lag begins at the last finished sequence, or below the lowest one dropped: the announcer may be half through one.
//! 5. The change right above `since` may have been sent in part. `unsent` names the first of its events that was
//!    dropped: the events of one change are queued in a fixed order and leave in that order, so those before it were
//!    sent, and neither it nor any after it was. The document alone may have left earlier, in the place of an older one;
//!    then `document_sent` is its sequence. All of this is forgotten when `since` moves.
//! 6. While there is lag nothing that tells of a shadow overtakes what catching up sends: notices are dropped, and
//!    catching up waits for the replies that are queued. Ordinary messages are in the other lane and tell of no shadow.
//! 7. A document sent past the queue at a sequence the announcer has not finished is remembered until it has, and the
//!    older ones of its topic are ignored.

use std::collections::HashMap;

use crate::mqtt::broker::outbox::{
    fan_out_position::FanOutPosition,
    queue::{DeliveryClass, QueuedDelivery},
};
use crate::mqtt::protocol::topic::TopicName;

/// The bounds between what is queued live, what has been caught up, and what has to be.
#[derive(Debug, Default)]
pub(super) struct ResyncCursor {
    since: Option<u64>,
    replay_from: u64,
    /// Where to go on within the change after `since`, if that was sent in part.
    unsent: Option<Box<Unsent>>,
    #[expect(clippy::box_collection, reason = "nearly always none, and there is one for each session")]
    ahead: Option<Box<HashMap<TopicName, u64>>>,
}

/// The first of the events and documents that an outbox dropped unsent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// The lowest journal sequence among them.
    pub seq: u64,
    /// The topic of the first event of that change; none if only its document was dropped.
    pub topic: Option<TopicName>,
    /// True if the document of that change was sent before.
    pub document_sent: bool,
}

impl Unsent {
    pub(super) fn of(entry: &QueuedDelivery) -> Self {
        let topic = (entry.kind == DeliveryClass::Event).then(|| entry.delivery.message.topic.clone());
        Self { seq: entry.seq, topic, document_sent: false }
    }

    /// Takes in an entry that was queued behind.
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

    /// Changes above `at` have to be caught up; the caller leaves no event in the queue.
    pub(super) fn begin(&mut self, at: u64) {
        self.since = Some(self.since.map_or(at, |since| since.min(at)).max(self.replay_from));
        self.unsent = None;
    }

    /// The caller has dropped everything from `unsent` on, and leaves no event in the queue.
    pub(super) fn begin_before(&mut self, unsent: Unsent) {
        self.begin(unsent.seq - 1); // queued, hence above `replay_from`
        self.unsent = Some(Box::new(unsent));
    }

    /// Returns where to go on within the first change that has to be caught up, if it was sent in part.
    pub(super) fn unsent(&self) -> Option<&Unsent> {
        self.unsent.as_deref()
    }

    /// All up to `caught_up` has been caught up. Returns whether events are live from here.
    pub(super) fn end(&mut self, caught_up: u64, fan_out_position: &FanOutPosition) -> bool {
        let Some(since) = self.since else { return true };
        self.replay_from = since.max(caught_up);
        self.unsent = None;
        self.since = (fan_out_position.begun() > self.replay_from).then_some(self.replay_from);
        self.since.is_none()
    }

    /// Returns true if an event or document that is pushed is not to be queued.
    pub(super) fn ignores(&mut self, entry: &QueuedDelivery) -> bool {
        if entry.seq <= self.replay_from || self.since.is_some() {
            return true;
        }
        let Some(ahead) = &self.ahead else { return false };
        let sent = ahead.get(&entry.delivery.message.topic).is_some_and(|&seq| entry.seq <= seq);
        self.forget_ahead(entry.seq - 1);
        sent && entry.kind == DeliveryClass::Document
    }

    /// The document of `topic` was sent as it is at `seq`.
    pub(super) fn sent_ahead(&mut self, topic: &TopicName, seq: u64, fan_out_position: &FanOutPosition) {
        let finished = fan_out_position.finished();
        self.forget_ahead(finished);
        if seq > finished {
            self.ahead.get_or_insert_default().insert(topic.clone(), seq);
        }
    }

    /// Forgets what the announcer, having finished `finished`, has left behind.
    fn forget_ahead(&mut self, finished: u64) {
        if let Some(ahead) = &mut self.ahead {
            ahead.retain(|_, seq| *seq > finished);
            if ahead.is_empty() {
                self.ahead = None;
            }
        }
    }
}
