//! The bounded queue towards one session: all that is to be sent to it passes here.
//!
//! A session has one [`Outbox`] for its life; a persistent one keeps it between its connections. Producers are the
//! router (under its read lock: nothing here calls back) and the tasks that decide requests; the one consumer is the
//! session's connection, which pops until nothing comes and then waits for [`Outbox::ready`].
//!
//! Order: deliveries leave in the order they came, but for a document, which takes the place of an older one of its
//! topic. An acknowledgement waits only for the replies queued before it.
//!
//! Events can be left out, since the journal has them: superseded ones first (those for whose topic a later one is
//! queued), then all of them, and the session *lags* until its connection has caught up from the journal. A session
//! without a connection lags by definition. `lag` has the invariants that keep this from losing a change.
//!
//! Not here: which subscriptions select what ([`super::router`]), packet identifiers, retransmission and the QoS window
//! (session), walking the journal to catch up (connection).

mod lag;
mod notes;
mod queue;
#[cfg(test)]
mod race;
mod routed;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use self::{
    lag::Lag,
    notes::Notes,
    queue::{Entry, Kind, Queue},
};
pub use self::{notes::Noted, routed::Routed};
use crate::{
    auth::Access,
    metrics::{Counter, DropCounters},
    mqtt::{
        message::{Delivery, Message},
        packet::{QoS, Reason},
        session::{Ticket, Verdict},
        topic::TopicName,
    },
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
        ticket: Ticket,
        /// What was decided.
        verdict: Verdict,
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
    /// It would be queued towards a connection.
    Now,
    /// It would be kept until there is a connection, or until the connection has caught up.
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
    lag: Lag,
    notes: Notes,
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
    /// For the QoS window: more deliveries behind the one that waits are no news.
    Window,
}

struct QueuedAck {
    ticket: Ticket,
    verdict: Verdict,
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
            lag: Lag::default(),
            notes: Notes::default(),
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
            inner.queue.drop_plain_unless(|topic| access.may_receive(topic));
            self.drop_replies(inner);
            if let Some(lowest) = inner.queue.drop_journalled() {
                inner.lag.begin(lowest - 1); // queued, hence above `live_from`
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
            _ => self.queue_journalled(inner, Entry::new(Kind::Event, delivery, seq)),
        });
    }

    fn queue_reply(&self, inner: &mut Inner, delivery: Delivery) -> bool {
        let entry = Entry::new(Kind::Reply, delivery, 0);
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
        self.make_room(inner) || inner.wake_always() // it may not have to wait for the window
    }

    /// Queues an event of the change that the journal has at `seq`; the rules are in the module's header.
    pub fn push_event(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(Entry::new(Kind::Event, delivery, seq));
    }

    /// Queues the document as it is at `seq`, in the place of an older one that has not been sent yet.
    ///
    /// In place, not last: a shadow that changes faster than the subscriber reads would never get to the front.
    pub fn push_document(&self, delivery: Delivery, seq: u64) {
        self.push_journalled(Entry::new(Kind::Document, delivery, seq));
    }

    fn push_journalled(&self, entry: Entry) {
        self.change(|inner| self.queue_journalled(inner, entry));
    }

    fn queue_journalled(&self, inner: &mut Inner, entry: Entry) -> bool {
        if inner.lag.ignores(&entry) {
            return false;
        }
        match entry.kind {
            Kind::Document => inner.queue.push_document(entry),
            _ => inner.queue.push(entry),
        }
        self.make_room(inner) || inner.wake_for_delivery()
    }

    /// Notes that the presence told on `topic` has changed, as change `number`; what it is then is asked when it is
    /// sent.
    pub fn note_presence(&self, topic: &TopicName, number: u64) {
        self.change(|inner| inner.notes.add(topic, number) && inner.wake_for_delivery());
    }

    /// Whether presence has changed since the last [`Outbox::take_noted`].
    #[must_use]
    pub fn has_noted(&self) -> bool {
        !self.inner.lock().notes.is_empty()
    }

    /// What was noted of presence, to be sent now.
    #[must_use]
    pub fn take_noted(&self) -> Noted {
        self.inner.lock().notes.take()
    }

    /// Tells that the document of `topic` as it is at `seq` has been sent past the queue, on subscribing: a queued or
    /// coming one that is not newer is dropped, so that no older document follows.
    pub fn document_sent(&self, topic: &TopicName, seq: u64, routed: &Routed) {
        let inner = &mut *self.inner.lock();
        inner.queue.drop_document(topic.as_str(), seq);
        inner.lag.sent_ahead(topic, seq, routed);
    }

    /// Queues an ordinary message; without a connection only QoS 1 and 2, and none with an expiry interval of 0.
    ///
    /// At a full queue the oldest ordinary messages go: the newest says most about how things are. If others than
    /// ordinary messages fill it, the message itself goes.
    pub fn push_plain(&self, delivery: Delivery) {
        let entry = Entry::new(Kind::Plain, delivery, 0);
        self.change(|inner| {
            if !inner.connected && entry.delivery.qos == QoS::AtMostOnce {
                self.dropped(entry.delivery.qos).add(1);
                return false;
            }
            if !inner.connected && entry.delivery.message.is_momentary() {
                self.counters.expired.add(1);
                return false;
            }
            let mut made_room = false;
            while !self.fits(inner, entry.cost()) {
                let dropped = inner.queue.drop_oldest_plain();
                self.dropped(dropped.unwrap_or(entry.delivery.qos)).add(1);
                if dropped.is_none() {
                    return made_room && inner.wake_always();
                }
                made_room = true;
            }
            inner.queue.push(entry);
            // What stood at the head may be gone.
            if made_room { inner.wake_always() } else { inner.wake_for_delivery() }
        });
    }

    /// Queues the acknowledgement of a request of this session. Their number is bounded by the requests a session may
    /// have in flight.
    pub fn push_ack(&self, ticket: Ticket, verdict: Verdict) {
        self.change(|inner| {
            inner.acks.push_back(QueuedAck { ticket, verdict, after: inner.replies_in });
            inner.wake_always()
        });
    }

    /// Takes what is to be sent next. With the QoS window closed, a QoS 1 or 2 message at the head holds all deliveries
    /// back; acknowledgements pass. Nothing comes from a closed outbox.
    #[must_use]
    pub fn pop(&self, window_open: bool) -> Option<Item> {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            inner.idle = Idle::Empty;
            return None;
        }
        if let Some(ack) = inner.pop_ack() {
            return Some(Item::Ack { ticket: ack.ticket, verdict: ack.verdict });
        }
        loop {
            let Some(head) = inner.queue.front() else {
                inner.idle = Idle::Empty;
                return None;
            };
            let expired = head.is_expired(); // [MQTT-3.3.2-5]
            if !expired && !window_open && head.delivery.qos != QoS::AtMostOnce {
                inner.idle = Idle::Window;
                return None;
            }
            let entry = inner.queue.pop()?;
            inner.replies_out += u64::from(entry.kind == Kind::Reply);
            if !expired {
                let seq = matches!(entry.kind, Kind::Event | Kind::Document).then_some(entry.seq);
                return Some(Item::Delivery { delivery: entry.delivery, seq });
            }
            self.counters.expired.add(1);
        }
    }

    /// Takes the next reply to be sent at QoS 0, while the window is closed for it; ordinary messages before it wait.
    #[must_use]
    pub fn pop_reply(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let Entry { delivery, .. } = inner.queue.pop_reply()?;
        inner.replies_out += 1;
        Some(Item::Delivery { delivery: Delivery { qos: QoS::AtMostOnce, ..delivery }, seq: None })
    }

    /// Takes the next acknowledgement although replies may be queued before it.
    #[must_use]
    pub fn pop_ack(&self) -> Option<Item> {
        let mut inner = self.inner.lock();
        let QueuedAck { ticket, verdict, .. } = inner.acks.pop_front()?;
        queue::release(&mut inner.acks);
        Some(Item::Ack { ticket, verdict })
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

    /// The journal sequence above which changes must be caught up from the journal, if there is lag.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.inner.lock().lag.since()
    }

    /// Ends lag if the announcer has not gone beyond `caught_up`, else moves it up to there. Returns whether it ended.
    ///
    /// The caller has sent the newest state of everything that changed above [`Outbox::lag`] up to `caught_up`, and no
    /// state newer than `caught_up`: while that is not so, it walks on.
    pub fn leave_lag(&self, caught_up: u64, routed: &Routed) -> bool {
        self.inner.lock().lag.end(caught_up, routed)
    }

    /// The session has a connection again.
    pub fn attach(&self) {
        let inner = &mut *self.inner.lock();
        inner.connected = true;
        inner.closed = None;
        inner.idle = Idle::Busy;
    }

    /// The connection ended and the session lives on: QoS 0 goes, events are left to the journal, and the oldest
    /// ordinary messages go that are too many now.
    pub fn detach(&self, routed: &Routed) {
        let inner = &mut *self.inner.lock();
        inner.connected = false;
        let dropped = inner.queue.drop_journalled().map_or(u64::MAX, |lowest| lowest - 1);
        inner.lag.begin(dropped.min(routed.finished()));
        let (replies, plain) = inner.queue.drop_unguaranteed();
        inner.replies_out += replies as u64;
        self.counters.replies.add(replies as u64);
        self.counters.plain_at_most_once.add(plain as u64);
        while !self.fits(inner, 0)
            && let Some(qos) = inner.queue.drop_oldest_plain()
        {
            self.dropped(qos).add(1);
        }
    }

    /// What would become of `message` pushed now to be delivered at `qos`.
    #[must_use]
    pub fn readiness(&self, message: &Message, qos: QoS) -> Readiness {
        let inner = self.inner.lock();
        match (self.fits(&inner, queue::cost(message)), inner.connected) {
            _ if inner.closed.is_some() => Readiness::Never,
            (true, true) if inner.lag.since().is_none() => Readiness::Now,
            (true, true) => Readiness::Later,
            (true, false) if qos != QoS::AtMostOnce => Readiness::Later,
            _ => Readiness::Never,
        }
    }

    fn keeps_offline(&self, inner: &Inner, entry: &Entry) -> bool {
        entry.delivery.qos != QoS::AtMostOnce && self.fits(inner, entry.cost())
    }

    /// Whether `more` bytes can join what is queued.
    fn fits(&self, inner: &Inner, more: usize) -> bool {
        inner.queue.fits(more, if inner.connected { self.limits.bytes } else { self.limits.offline_bytes })
    }

    /// Brings a queue beyond its limit to three quarters of it by dropping superseded events, or begins lag. The
    /// quarter is what makes the walk over the queue rare. Returns whether to wake the consumer: what stood at the head
    /// may be gone.
    fn make_room(&self, inner: &mut Inner) -> bool {
        // One delivery always fits.
        if inner.queue.bytes() <= self.limits.bytes || inner.queue.len() <= 1 || !inner.queue.has_journalled() {
            return false;
        }
        let target = self.limits.bytes / 4 * 3;
        self.counters.superseded.add(inner.queue.drop_superseded(target) as u64);
        if inner.queue.bytes() > target
            && inner.queue.len() > 1
            && let Some(lowest) = inner.queue.drop_journalled()
        {
            inner.lag.begin(lowest - 1); // queued, hence above `live_from`
            self.counters.lagged.add(1);
        }
        inner.wake_always()
    }

    fn close(&self, inner: &mut Inner, reason: Reason) {
        self.drop_replies(inner);
        // The acknowledgements stay: the session may outlive the connection, and a resend waits for its verdict.
        inner.closed = Some(reason);
        self.counters.closed.add(1);
    }

    fn drop_replies(&self, inner: &mut Inner) {
        let replies = inner.queue.drop_replies() as u64;
        inner.replies_out += replies;
        self.counters.replies.add(replies);
    }

    /// The counter of ordinary messages dropped at `qos`.
    fn dropped(&self, qos: QoS) -> &Counter {
        if qos == QoS::AtMostOnce { &self.counters.plain_at_most_once } else { &self.counters.plain_guaranteed }
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

    fn wake_for_delivery(&mut self) -> bool {
        self.idle == Idle::Empty && self.wake_always()
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
