//! The outbox: the bounded queue of deliveries to one session.
//!
//! A session has one [`Outbox`] for its life; a persistent session keeps it between its connections. Producers are the
//! router (under its read lock: nothing here calls back) and the tasks that decide requests. The only consumer is the
//! session's connection, which pops until the queue is empty and then waits for [`Outbox::ready`].
//!
//! Order: there are two lanes, one for messages of shadows and one for ordinary messages. Each lane is first in, first
//! out, except that a document replaces an older one of its topic in place. Across lanes the order of arrival holds
//! too, until one lane has had a few deliveries in a row while the other waits ([`queue`]). So neither lane starves the
//! other, and no message overtakes an older one of its shadow or of its ordinary topic. An acknowledgement waits only
//! for the replies queued before it.
//!
//! Above the limit, superseded events are dropped first (those whose topic has a later one in the queue), then the
//! oldest ordinary messages, then all events. The largest delivery counts as a quarter of the limit at most, so that a
//! large message neither pushes out all others nor finds no room. The journal has the events, so the session then *resyncs* from the
//! journal. A session without a connection always resyncs when it gets one. [`resync_cursor`] has the invariants that
//! prevent the loss of a change.
//!
//! The queue's memory is charged to the principal of the session. Where its account has no room, ordinary messages are
//! dropped as at a full queue.
//!
//! Not here: the selection by subscriptions ([`super::router`]), packet identifiers, retransmission and the QoS window
//! ([`crate::mqtt::session`]), and reading the journal for a resync ([`crate::mqtt::shadow::resync`]).

mod delivered;
mod fan_out_position;
mod inner;
mod kept;
mod overflow;
mod pending_presence;
mod queue;
#[cfg(test)]
mod race;
mod resync;
mod resync_cursor;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use self::{
    fan_out_position::FanOutPosition, pending_presence::ChangedPresence, resync::QueuedForShadow, resync_cursor::Unsent,
};
use self::{
    pending_presence::PendingPresence,
    queue::{DeliveryClass, Head, Queue, QueuedDelivery},
    resync_cursor::ResyncCursor,
};
use crate::{
    admission::{Charge, PrincipalQuota},
    auth::Access,
    mqtt::{
        broker::durable::Recorder,
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Reason},
            topic::TopicName,
        },
        session::{AckId, AckResult, Ticket},
        shadow::topics,
    },
    observability::metrics::DropCounters,
};

/// The id of a session, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Limits of one outbox.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Bytes, each delivery counted with its topic, payload, properties and a fixed overhead, the largest one as a
    /// quarter of this limit at most. Replies may occupy as much again.
    pub bytes: usize,
    /// Bytes kept for a session that is not connected, counted in the same way.
    pub offline_bytes: usize,
}

/// The next thing that a connection has to send.
#[derive(Debug)]
pub enum Item {
    /// The acknowledgement of a request.
    Ack {
        /// The id of the acknowledgement.
        ack_id: AckId,
        /// The outcome of the request.
        result: AckResult,
    },
    /// A message.
    Delivery {
        /// The message and how to send it.
        delivery: Delivery,
        /// For an event or document, the journal sequence of its change.
        seq: Option<u64>,
    },
    /// The steps of the session that are on disk.
    Saved(Vec<Ticket>),
}

/// The prospect of a message that would be pushed now, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// It would be sent as soon as the connection pops it.
    Now,
    /// It would wait for the client's acknowledgements, or for the end of a resync.
    Waits,
    /// It would be kept until there is a connection.
    Later,
    /// It would be dropped.
    Never,
}

/// The queue of deliveries to one session.
pub struct Outbox {
    id: SessionId,
    limits: QueueLimits,
    counters: Arc<DropCounters>,
    /// Rights of the session. They change when it is resumed, or when rules are reloaded.
    access: RwLock<Access>,
    inner: Mutex<Inner>,
    wake: Notify,
    recorder: Recorder,
}

struct Inner {
    queue: Queue,
    /// The memory of the queue, charged to the principal of the session.
    charge: Charge,
    acks: VecDeque<QueuedAck>,
    /// At most one for each QoS 2 identifier in use.
    #[expect(clippy::box_collection, reason = "nearly always none, and there is one for each session")]
    saved: Option<Box<Vec<Ticket>>>,
    /// The client has all messages of shadows up to this journal sequence ([`delivered`]).
    delivered_up_to: u64,
    /// True while a message of a shadow that was popped is unsent or unacknowledged.
    is_delivering: bool,
    /// Replies ever queued, and ever removed. An acknowledgement waits for the replies queued before it.
    replies_in: u64,
    replies_out: u64,
    resync: ResyncCursor,
    presence: PendingPresence,
    /// Sequence of the last document that was popped.
    last_document: u64,
    /// Messages at QoS 1 and 2 that the client's window still allows, as last reported by the consumer.
    window: u16,
    connected: bool,
    /// True if the session outlives its connection, so that its messages have rows in the store.
    is_kept: bool,
    closed: Option<Closed>,
    idle: Idle,
}

/// The cause for which an outbox returns nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// The connection is to end with this reason; the next one opens the outbox again.
    Connection(Reason),
    /// The session is at another node of a cluster.
    Left,
    /// The session has ended in the log of a cluster.
    Ended,
}

/// The state of the consumer: set when a pop returns nothing, and reset to `Busy` by the push that wakes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Busy,
    /// Waits for any item.
    Empty,
    /// Waits for the QoS window. Only a delivery at the head of its lane that needs no window wakes it.
    Window,
}

struct QueuedAck {
    ack_id: AckId,
    result: AckResult,
    /// Value of [`Inner::replies_out`] from which on it may be sent.
    after: u64,
}

impl Outbox {
    /// Returns the empty queue of a connected session, whose memory goes to `charge`.
    #[must_use]
    pub fn new(
        id: SessionId,
        limits: QueueLimits,
        counters: Arc<DropCounters>,
        access: Access,
        charge: Charge,
    ) -> Self {
        let inner = Inner {
            queue: Queue::default(),
            charge,
            acks: VecDeque::new(),
            saved: None,
            delivered_up_to: 0,
            is_delivering: false,
            replies_in: 0,
            replies_out: 0,
            resync: ResyncCursor::default(),
            presence: PendingPresence::default(),
            last_document: 0,
            window: u16::MAX,
            connected: true,
            is_kept: false,
            closed: None,
            idle: Idle::Busy,
        };
        Self {
            id,
            limits,
            counters,
            access: RwLock::new(access),
            inner: Mutex::new(inner),
            wake: Notify::new(),
            recorder: Recorder::default(),
        }
    }

    /// Returns the id of the session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Calls `check` with the rights of the session, which cannot change meanwhile.
    pub fn with_access<T>(&self, check: impl FnOnce(&Access) -> T) -> T {
        check(&self.access.read())
    }

    /// Returns the rights of the session.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.read().clone()
    }

    /// Returns the quota of the session's principal.
    #[must_use]
    pub fn quota(&self) -> Arc<PrincipalQuota> {
        self.inner.lock().charge.quota().clone()
    }

    /// Changes the rights of the session.
    ///
    /// Drops the queued messages that it may no longer receive. Also drops all messages rendered with the old rights:
    /// events, which a resync from the journal replaces, and replies.
    pub fn set_access(&self, access: Access) {
        self.inner.lock().charge.quota().set_limits(access.limits());
        // The same rights may be those of another login.
        if std::mem::replace(&mut *self.access.write(), access.clone()).is_same(&access) {
            return;
        }
        self.change(|inner| {
            inner.queue.drop_ordinary_unless(|topic| access.may_receive(topic) && !topics::is_service(topic));
            self.drop_replies(inner);
            self.drop_notices(inner);
            if let Some(unsent) = inner.drop_journalled() {
                inner.resync.begin_before(unsent);
            }
            inner.wake_always()
        });
    }

    /// Queues the reply to a request of this session.
    ///
    /// A reply is never dropped while there is a connection and the rights stay the same. When the replies alone exceed
    /// the limit, [`Outbox::closed`] returns [`Reason::QUOTA_EXCEEDED`] from then on. Without a connection a reply is
    /// kept as an ordinary message would be.
    pub fn push_reply(&self, delivery: Delivery) {
        self.change(|inner| self.queue_reply(inner, delivery));
    }

    /// Queues an event of a change that this session requested.
    ///
    /// During a resync it is queued as a reply, like the `accepted` that follows it. The resync would send it after
    /// `accepted`, and clients ignore a delta that arrives then.
    pub fn push_own_event(&self, delivery: Delivery, seq: u64) {
        self.change(|inner| match inner.resync.since() {
            Some(since) if seq > since => self.queue_reply(inner, delivery),
            _ => self.queue_journalled(inner, QueuedDelivery::new(DeliveryClass::Event, delivery, seq)),
        });
    }

    fn queue_reply(&self, inner: &mut Inner, delivery: Delivery) -> bool {
        let entry = QueuedDelivery::new(DeliveryClass::Reply, delivery, 0);
        if inner.closed.is_some() || (!inner.connected && !self.keeps_offline(inner, &entry)) {
            self.counters.replies.add(1);
            return false;
        }
        if !inner.queue.fits_reply(&entry, self.limits.bytes) {
            self.close(inner, Reason::QUOTA_EXCEEDED);
            inner.idle = Idle::Busy;
            return true; // wakes also a consumer that does not pop, since its client does not read
        }
        inner.queue.push(entry);
        inner.replies_in += 1;
        let _ = self.enforce_limit(inner);
        inner.wake_always() // the reply may not need the window
    }

    /// Queues an event of the change at `seq` in the journal, by the rules in the module's header.
    pub fn push_event(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(QueuedDelivery::new(DeliveryClass::Event, delivery, seq));
    }

    /// Queues the document at `seq`, and replaces an unsent older one of its topic in place.
    ///
    /// If it were queued last, a shadow that changes faster than the subscriber reads would never reach the head.
    pub fn push_document(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(QueuedDelivery::new(DeliveryClass::Document, delivery, seq));
    }

    fn push_journalled(&self, entry: QueuedDelivery) {
        self.change(|inner| self.queue_journalled(inner, entry));
    }

    fn queue_journalled(&self, inner: &mut Inner, entry: QueuedDelivery) -> bool {
        if inner.resync.ignores(&entry) {
            return false;
        }
        let news = inner.is_news(&entry);
        match entry.class {
            DeliveryClass::Document => inner.queue.push_document(entry),
            _ => inner.queue.push(entry),
        }
        (self.enforce_limit(inner) || news) && inner.wake_always()
    }

    /// Marks the presence on `topic` as changed, by change `number`. The connection looks it up when it sends it.
    pub fn mark_presence(&self, topic: &TopicName, number: u64) {
        self.change(|inner| inner.presence.add(topic, number) && inner.wake_always());
    }

    /// Has the presence of all devices that change after change `number` looked up by the next connection. Called before
    /// the router passes this session over.
    pub fn cover_presence_after(&self, number: u64) {
        self.inner.lock().presence.cover_after(number);
    }

    /// Queues an ordinary message. Without a connection only QoS 1 and 2 are kept, and none with an expiry interval of
    /// 0.
    ///
    /// At a full queue the oldest ordinary messages are dropped, since the newest is the most useful. If that would not
    /// make room, the message itself is dropped, and they stay.
    pub fn push_ordinary(&self, delivery: Delivery) {
        let entry = QueuedDelivery::new(DeliveryClass::Ordinary, delivery, 0);
        self.change(|inner| {
            if !inner.connected && entry.delivery.qos == QoS::AtMostOnce {
                self.dropped(entry.delivery.qos).add(1);
                return false;
            }
            if !inner.connected && entry.delivery.message.is_momentary() {
                self.counters.expired.add(1);
                return false;
            }
            self.queue_ordinary(inner, entry)
        });
    }

    /// Queues a message on a shadow topic that reports no change.
    ///
    /// It keeps the order of that shadow's events, and is dropped as an ordinary message would be. During a resync it
    /// is dropped too, since it would overtake the state that it refers to.
    pub fn push_notice(&self, delivery: Delivery) {
        let entry = QueuedDelivery::new(DeliveryClass::Notice, delivery, 0);
        self.change(|inner| {
            if inner.resync.since().is_some() {
                self.dropped(entry.delivery.qos).add(1);
                return false;
            }
            self.queue_ordinary(inner, entry)
        });
    }

    /// Queues the acknowledgement of a request of this session. The session's inbound window bounds their number.
    pub fn push_ack(&self, ack_id: AckId, result: AckResult) {
        self.change(|inner| {
            if inner.is_void() {
                return false;
            }
            inner.acks.push_back(QueuedAck { ack_id, result, after: inner.replies_in });
            inner.wake_always()
        });
    }

    /// Pops the next item to send. The client's window allows `window` more messages at QoS 1 and 2.
    ///
    /// At a closed window, such a message at the head blocks its lane, but not the other lane or acknowledgements. A
    /// closed outbox returns nothing.
    #[must_use]
    pub fn pop(&self, window: u16) -> Option<Item> {
        let mut inner = self.inner.lock();
        let item = self.pop_from(&mut inner, window);
        inner.charge_queue();
        item
    }

    fn pop_from(&self, inner: &mut Inner, window: u16) -> Option<Item> {
        inner.window = window;
        if inner.closed.is_some() {
            inner.idle = Idle::Empty;
            return None;
        }
        if let Some(saved) = inner.saved.take() {
            return Some(Item::Saved(*saved));
        }
        if let Some(ack) = inner.pop_ack() {
            return Some(Item::Ack { ack_id: ack.ack_id, result: ack.result });
        }
        loop {
            let lane = match inner.queue.head(window > 0) {
                Head::Next(lane) => lane,
                Head::Blocked => {
                    inner.idle = Idle::Window;
                    return None;
                }
                Head::Empty => {
                    inner.idle = Idle::Empty;
                    return None;
                }
            };
            let entry = inner.queue.pop(lane)?;
            inner.replies_out += u64::from(entry.class == DeliveryClass::Reply);
            if !entry.is_expired() {
                return Some(inner.sent(entry));
            }
            self.counters.expired.add(1); // [MQTT-3.3.2-5]
        }
    }

    /// Pops the next reply, to be sent at QoS 0 because the window is closed. Ordinary messages queued before it wait.
    #[must_use]
    pub fn pop_reply(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let QueuedDelivery { delivery, .. } = inner.queue.pop_reply()?;
        inner.replies_out += 1;
        inner.charge_queue();
        Some(Item::Delivery { delivery: Delivery { qos: QoS::AtMostOnce, ..delivery }, seq: None })
    }

    /// Pops the next acknowledgement, even if replies are queued before it.
    #[must_use]
    pub fn pop_ack(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let QueuedAck { ack_id, result, .. } = inner.acks.pop_front()?;
        queue::release(&mut inner.acks);
        Some(Item::Ack { ack_id, result })
    }

    /// Waits until there may be an item, a resync, or the close. The consumer calls it after a pop that returned
    /// nothing. It may return spuriously.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Returns the queued bytes, as the limit counts them.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner.lock().queue.bytes()
    }

    /// Returns the reason if the connection must end.
    #[must_use]
    pub fn closed(&self) -> Option<Reason> {
        self.inner.lock().closed.map(|closed| match closed {
            Closed::Connection(reason) => reason,
            Closed::Left | Closed::Ended => Reason::SESSION_TAKEN_OVER,
        })
    }

    /// Removes and returns the queued deliveries of shared subscriptions, oldest first, when the session ends.
    #[must_use]
    pub fn take_shared(&self) -> Vec<Delivery> {
        self.inner.lock().queue.take_shared()
    }

    /// Returns the prospect of `message` if it were pushed now at `qos`.
    #[must_use]
    pub fn readiness(&self, message: &Message, qos: QoS) -> Readiness {
        let mut inner = self.inner.lock();
        match (self.fits(&mut inner, queue::cost(message)), inner.connected) {
            _ if inner.closed.is_some() => Readiness::Never,
            (true, true) if inner.resync.since().is_none() && inner.has_window(qos) => Readiness::Now,
            (true, true) => Readiness::Waits,
            (true, false) if qos != QoS::AtMostOnce => Readiness::Later,
            _ => Readiness::Never,
        }
    }

    fn close(&self, inner: &mut Inner, reason: Reason) {
        self.drop_replies(inner);
        // The acknowledgements stay: the session may outlive the connection, and a resend waits for its outcome.
        inner.closed = Some(Closed::Connection(reason));
        self.counters.closed.add(1);
    }

    /// Changes the queue. If `change` returns true, wakes the consumer outside the lock.
    fn change(&self, change: impl FnOnce(&mut Inner) -> bool) {
        let wake = {
            let mut inner = self.inner.lock();
            let wake = change(&mut inner);
            inner.charge_queue();
            wake
        };
        if wake {
            self.wake.notify_one();
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("id", &self.id).finish_non_exhaustive()
    }
}
