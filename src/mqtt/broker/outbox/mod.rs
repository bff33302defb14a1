//! The bounded queue towards one session: all that is to be sent to it passes here.
//!
//! A session has one [`Outbox`] for its life; a persistent one keeps it between its connections. Producers are the
//! router (under its read lock: nothing here calls back) and the tasks that decide requests; the one consumer is the
//! session's connection, which pops until nothing comes and then waits for [`Outbox::ready`].
//!
//! Order: there are two lanes, one for what tells of shadows and one for ordinary messages. Each leaves in the order in
//! which it came, but for a document, which takes the place of an older one of its topic; together they leave in that
//! order too, until one has had a few deliveries in a row while the other waits ([`queue`]). So neither starves the other,
//! and nothing overtakes anything older of its shadow or of its ordinary topic. An acknowledgement waits only for the
//! replies queued before it.
//!
//! Over the limit, superseded events go first (those for whose topic a later one is queued), then the oldest ordinary
//! messages, then all events, since the journal has them: the session *lags* until its connection has caught up from
//! the journal. A session without a connection lags by definition. `lag` has the invariants that keep this from losing a
//! change.
//!
//! Not here: which subscriptions select what ([`super::router`]), packet identifiers, retransmission and the QoS window
//! (session), walking the journal to catch up (connection).

mod fan_out_position;
mod pending_presence;
mod queue;
#[cfg(test)]
mod race;
mod resync;
mod resync_cursor;
mod room;
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
    auth::Access,
    mqtt::{
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Reason},
            topic::TopicName,
        },
        session::{AckId, AckResult},
        shadow::topics,
    },
    observability::metrics::DropCounters,
};

/// Names a session while the process lives; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How much may be queued towards one session.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Bytes, each delivery counted with its topic, payload, properties and a fixed overhead. Replies may occupy as
    /// much again.
    pub bytes: usize,
    /// Bytes kept for a session that is not connected, counted in the same way.
    pub offline_bytes: usize,
}

/// What a connection has to send next.
#[derive(Debug)]
pub enum Item {
    /// The acknowledgement of a request.
    Ack {
        /// Which request.
        ack_id: AckId,
        /// What was decided.
        verdict: AckResult,
    },
    /// A message.
    Delivery {
        /// The message and how to send it.
        delivery: Delivery,
        /// The journal sequence of the change it tells, for an event or document.
        seq: Option<u64>,
    },
}

/// What would become of a message pushed now, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// It would be sent as soon as its connection takes it.
    Now,
    /// It would wait for its client's acknowledgements, or behind what the connection is catching up with.
    Waits,
    /// It would be kept until there is a connection.
    Later,
    /// It would be dropped.
    Never,
}

/// The queue towards one session.
pub struct Outbox {
    id: SessionId,
    limits: QueueLimits,
    counters: Arc<DropCounters>,
    /// Changed when its session is resumed, or when rights are read anew.
    access: RwLock<Access>,
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    queue: Queue,
    acks: VecDeque<QueuedAck>,
    /// Replies ever queued, and replies that left the queue: an acknowledgement waits for those queued before it.
    replies_in: u64,
    replies_out: u64,
    lag: ResyncCursor,
    notes: PendingPresence,
    /// Sequence of the last document that left the queue.
    last_document: u64,
    /// Messages at QoS 1 and 2 that the client's window has room for, as the consumer found it last.
    window: u16,
    connected: bool,
    closed: Option<Reason>,
    idle: Idle,
}

/// What the consumer waits for; set when a pop yields nothing, back to `Busy` by the push that wakes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Busy,
    /// For anything at all.
    Empty,
    /// For the QoS window: of more deliveries only one that need not wait for it, at the head of its lane, is news.
    Window,
}

struct QueuedAck {
    ack_id: AckId,
    verdict: AckResult,
    /// Goes once so many replies are out.
    after: u64,
}

impl Outbox {
    /// An empty queue of a session that is connected.
    #[must_use]
    pub fn new(id: SessionId, limits: QueueLimits, counters: Arc<DropCounters>, access: Access) -> Self {
        let inner = Inner {
            queue: Queue::default(),
            acks: VecDeque::new(),
            replies_in: 0,
            replies_out: 0,
            lag: ResyncCursor::default(),
            notes: PendingPresence::default(),
            last_document: 0,
            window: u16::MAX,
            connected: true,
            closed: None,
            idle: Idle::Busy,
        };
        Self { id, limits, counters, access: RwLock::new(access), inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Whose queue it is.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Asks what its session may do.
    pub fn with_access<T>(&self, ask: impl FnOnce(&Access) -> T) -> T {
        ask(&self.access.read())
    }

    /// What its session may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.read().clone()
    }

    /// Changes what its session may do. Of what is queued, that goes which may not be received any more. What was cut
    /// to what might be read goes too: events, which are left to the journal, and replies.
    pub fn set_access(&self, access: Access) {
        if self.access.read().is_same(&access) {
            return;
        }
        *self.access.write() = access.clone();
        self.change(|inner| {
            inner.queue.drop_ordinary_unless(|topic| access.may_receive(topic) && !topics::is_service(topic));
            self.drop_replies(inner);
            self.drop_notices(inner);
            if let Some(unsent) = inner.drop_journalled() {
                inner.lag.begin_before(unsent);
            }
            inner.wake_always()
        });
    }

    /// Queues the reply to a request of this session.
    ///
    /// Never dropped while there is a connection and its rights stay: when the replies alone exceed the limit,
    /// [`Outbox::closed`] says [`Reason::QUOTA_EXCEEDED`] from then on. Without a connection it is kept as an ordinary
    /// message would be.
    pub fn push_reply(&self, delivery: Delivery) {
        self.change(|inner| self.queue_reply(inner, delivery));
    }

    /// Queues an event of a change that this session asked for. During lag it is a reply like the `accepted` that
    /// follows it: what catching up sends would come after that, and clients drop a delta that does.
    pub fn push_own_event(&self, delivery: Delivery, seq: u64) {
        self.change(|inner| match inner.lag.since() {
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
            return true; // also a consumer that has not popped for long, since its client does not read
        }
        inner.queue.push(entry);
        inner.replies_in += 1;
        let _ = self.make_room(inner);
        inner.wake_always() // it may not have to wait for the window
    }

    /// Queues an event of the change that the journal has at `seq`; the rules are in the module's header.
    pub fn push_event(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(QueuedDelivery::new(DeliveryClass::Event, delivery, seq));
    }

    /// Queues the document as it is at `seq`, in the place of an older one that has not been sent yet.
    ///
    /// In place, not last: a shadow that changes faster than the subscriber reads would never get to the front.
    pub fn push_document(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(QueuedDelivery::new(DeliveryClass::Document, delivery, seq));
    }

    fn push_journalled(&self, entry: QueuedDelivery) {
        self.change(|inner| self.queue_journalled(inner, entry));
    }

    fn queue_journalled(&self, inner: &mut Inner, entry: QueuedDelivery) -> bool {
        if inner.lag.ignores(&entry) {
            return false;
        }
        let news = inner.is_news(&entry);
        match entry.kind {
            DeliveryClass::Document => inner.queue.push_document(entry),
            _ => inner.queue.push(entry),
        }
        (self.make_room(inner) || news) && inner.wake_always()
    }

    /// Notes that the presence told on `topic` has changed, as change `number`; what it is then is asked when it is
    /// sent.
    pub fn mark_presence(&self, topic: &TopicName, number: u64) {
        self.change(|inner| inner.notes.add(topic, number) && inner.wake_always());
    }

    /// Queues an ordinary message; without a connection only QoS 1 and 2, and none with an expiry interval of 0.
    ///
    /// At a full queue the oldest ordinary messages go: the newest says most about how things are. If others than
    /// ordinary messages fill it, the message itself goes.
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
            self.queue_plain(inner, entry)
        });
    }

    /// Queues what is told on a shadow's topic without a change: in the order of that shadow's events, and dropped as
    /// an ordinary message would be. During lag it is dropped too, since it would come after what it tells of.
    pub fn push_notice(&self, delivery: Delivery) {
        let entry = QueuedDelivery::new(DeliveryClass::Notice, delivery, 0);
        self.change(|inner| {
            if inner.lag.since().is_some() {
                self.dropped(entry.delivery.qos).add(1);
                return false;
            }
            self.queue_plain(inner, entry)
        });
    }

    fn queue_plain(&self, inner: &mut Inner, entry: QueuedDelivery) -> bool {
        let mut made_room = false;
        while !self.fits(inner, entry.cost()) {
            let dropped = inner.queue.drop_oldest_ordinary();
            self.dropped(dropped.unwrap_or(entry.delivery.qos)).add(1);
            if dropped.is_none() {
                return made_room && inner.wake_always();
            }
            made_room = true;
        }
        let news = inner.is_news(&entry);
        inner.queue.push(entry);
        (made_room || news) && inner.wake_always() // what stood at the head may be gone
    }

    /// Queues the acknowledgement of a request of this session. Their number is bounded by the requests a session may
    /// have in flight.
    pub fn push_ack(&self, ack_id: AckId, verdict: AckResult) {
        self.change(|inner| {
            inner.acks.push_back(QueuedAck { ack_id, verdict, after: inner.replies_in });
            inner.wake_always()
        });
    }

    /// Takes what is to be sent next, while there is room for `window` more messages at QoS 1 and 2. Without any, such a
    /// message at the head of a lane holds that lane back; the other lane and acknowledgements pass. Nothing comes from a
    /// closed outbox.
    #[must_use]
    pub fn pop(&self, window: u16) -> Option<Item> {
        let mut inner = self.inner.lock();
        inner.window = window;
        if inner.closed.is_some() {
            inner.idle = Idle::Empty;
            return None;
        }
        if let Some(ack) = inner.pop_ack() {
            return Some(Item::Ack { ack_id: ack.ack_id, verdict: ack.verdict });
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
            inner.replies_out += u64::from(entry.kind == DeliveryClass::Reply);
            if !entry.is_expired() {
                return Some(inner.sent(entry));
            }
            self.counters.expired.add(1); // [MQTT-3.3.2-5]
        }
    }

    /// Takes the next reply to be sent at QoS 0, while the window is closed for it; ordinary messages before it wait.
    #[must_use]
    pub fn pop_reply(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let QueuedDelivery { delivery, .. } = inner.queue.pop_reply()?;
        inner.replies_out += 1;
        Some(Item::Delivery { delivery: Delivery { qos: QoS::AtMostOnce, ..delivery }, seq: None })
    }

    /// Takes the next acknowledgement although replies may be queued before it.
    #[must_use]
    pub fn pop_ack(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let QueuedAck { ack_id, verdict, .. } = inner.acks.pop_front()?;
        queue::release(&mut inner.acks);
        Some(Item::Ack { ack_id, verdict })
    }

    /// Waits until there may be something new: an item, lag, or the close. For the one consumer, after a pop that
    /// yielded nothing; may return without cause.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Bytes that wait to be sent, as its limit counts them.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner.lock().queue.bytes()
    }

    /// Why the connection must end, if it must.
    #[must_use]
    pub fn closed(&self) -> Option<Reason> {
        self.inner.lock().closed
    }

    /// The session has a connection, whose client's window has room for `window` more messages.
    pub fn attach(&self, window: u16) {
        let inner = &mut *self.inner.lock();
        inner.connected = true;
        inner.window = window;
        inner.closed = None;
        inner.idle = Idle::Busy;
    }

    /// The connection ended and the session lives on: QoS 0 goes, events are left to the journal, and the oldest
    /// ordinary messages go that are too many now.
    pub fn detach(&self, fan_out_position: &FanOutPosition) {
        let inner = &mut *self.inner.lock();
        inner.connected = false;
        let dropped = inner.queue.drop_journalled().map_or(u64::MAX, |unsent| unsent.seq - 1);
        inner.lag.begin(dropped.min(fan_out_position.finished()));
        self.drop_notices(inner);
        let (replies, plain) = inner.queue.drop_unguaranteed();
        inner.replies_out += replies as u64;
        self.counters.replies.add(replies as u64);
        self.counters.plain_at_most_once.add(plain as u64);
        while !self.fits(inner, 0)
            && let Some(qos) = inner.queue.drop_oldest_ordinary()
        {
            self.dropped(qos).add(1);
        }
    }

    /// Takes out the deliveries of shared subscriptions that wait, oldest first; for the end of the session.
    #[must_use]
    pub fn take_shared(&self) -> Vec<Delivery> {
        self.inner.lock().queue.take_shared()
    }

    /// What would become of `message` pushed now to be delivered at `qos`.
    #[must_use]
    pub fn readiness(&self, message: &Message, qos: QoS) -> Readiness {
        let inner = self.inner.lock();
        match (self.fits(&inner, queue::cost(message)), inner.connected) {
            _ if inner.closed.is_some() => Readiness::Never,
            (true, true) if inner.lag.since().is_none() && inner.has_window(qos) => Readiness::Now,
            (true, true) => Readiness::Waits,
            (true, false) if qos != QoS::AtMostOnce => Readiness::Later,
            _ => Readiness::Never,
        }
    }

    fn keeps_offline(&self, inner: &Inner, entry: &QueuedDelivery) -> bool {
        entry.delivery.qos != QoS::AtMostOnce && self.fits(inner, entry.cost())
    }

    /// Whether `more` bytes can join what is queued.
    fn fits(&self, inner: &Inner, more: usize) -> bool {
        inner.queue.fits(more, if inner.connected { self.limits.bytes } else { self.limits.offline_bytes })
    }

    fn close(&self, inner: &mut Inner, reason: Reason) {
        self.drop_replies(inner);
        // The acknowledgements stay: the session may outlive the connection, and a resend waits for its verdict.
        inner.closed = Some(reason);
        self.counters.closed.add(1);
    }

    /// Changes the queue, then wakes the consumer, outside the lock, if `change` says so.
    fn change(&self, change: impl FnOnce(&mut Inner) -> bool) {
        let wake = change(&mut self.inner.lock());
        if wake {
            self.wake.notify_one();
        }
    }
}

impl Inner {
    fn pop_ack(&mut self) -> Option<QueuedAck> {
        let replies_out = self.replies_out;
        let ack = self.acks.pop_front_if(|ack| ack.after <= replies_out)?;
        queue::release(&mut self.acks);
        Some(ack)
    }

    /// Notes that `entry` leaves for the client.
    fn sent(&mut self, entry: QueuedDelivery) -> Item {
        if entry.delivery.qos != QoS::AtMostOnce {
            self.window = self.window.saturating_sub(1);
        }
        if entry.kind == DeliveryClass::Document && !topics::is_lean_delta(entry.topic()) {
            self.last_document = entry.seq;
        }
        let seq = entry.is_journalled().then_some(entry.seq);
        Item::Delivery { delivery: entry.delivery, seq }
    }

    fn drop_journalled(&mut self) -> Option<Unsent> {
        let unsent = self.queue.drop_journalled()?;
        Some(Unsent { document_sent: unsent.seq == self.last_document, ..unsent })
    }

    /// Returns true if everything queued and one more message at `qos` can be sent without an acknowledgement.
    fn has_window(&self, qos: QoS) -> bool {
        let queued = self.queue.acknowledged() + usize::from(qos != QoS::AtMostOnce);
        queued <= self.window.into()
    }

    /// Returns true if the consumer waits for something like `entry`, which is about to be queued.
    fn is_news(&self, entry: &QueuedDelivery) -> bool {
        match self.idle {
            Idle::Busy => false,
            Idle::Empty => true,
            Idle::Window => entry.delivery.qos == QoS::AtMostOnce && self.queue.is_lane_empty(entry.lane()),
        }
    }

    fn wake_always(&mut self) -> bool {
        std::mem::replace(&mut self.idle, Idle::Busy) != Idle::Busy
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("id", &self.id).finish_non_exhaustive()
    }
}
