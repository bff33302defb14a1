//! The queued deliveries of one session, in two lanes, with their cost in bytes.
//!
//! The *shadow* lane has the messages of shadows on the session's own subscriptions: replies, events, documents and
//! notices. The *ordinary* lane has ordinary messages and every delivery of a shared subscription. Each lane is first
//! in, first out, except that a document replaces an older one of its topic in place. Across lanes the older head is
//! popped first, until one lane has had [`TURN`] deliveries in a row while the other waits.
//!
//! This is a data structure without lock, wake-up or limit. [`super::Outbox`] decides when it is full and what is
//! dropped; this file implements the dropping. The cost is the size of a delivery on the wire plus a fixed overhead. It
//! is counted in full although subscribers share the message, so that the backlog of each subscriber is bounded.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use crate::mqtt::broker::outbox::resync_cursor::Unsent;
use crate::mqtt::protocol::{
    message::{Delivery, Message},
    packet::QoS,
};

/// The deliveries of both lanes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    shadow: VecDeque<QueuedDelivery>,
    ordinary: VecDeque<QueuedDelivery>,
    /// Number of the newest entry.
    newest: u64,
    /// Sum of all costs.
    bytes: usize,
    /// Sum of the costs of the replies.
    reply_bytes: usize,
    /// Number of events and documents.
    journalled: usize,
    notices: usize,
    /// Sum of the costs of ordinary messages and notices, which may be dropped.
    droppable_bytes: usize,
    /// The largest cost of an entry; an upper bound while `is_largest_gone`.
    largest: usize,
    /// True if an entry that had the largest cost was removed since it was last searched for.
    is_largest_gone: bool,
    /// Number of entries at QoS 1 and 2.
    acknowledged: usize,
    /// Events and documents pushed since the last search for superseded ones.
    unsearched: usize,
    /// The lane of the last delivery, and the number it had in a row while the other one waited.
    row: (Lane, u8),
}

/// One queued delivery.
#[derive(Debug)]
pub(super) struct QueuedDelivery {
    pub(super) delivery: Delivery,
    pub(super) class: DeliveryClass,
    /// Journal sequence of an event or document, else 0.
    pub(super) seq: u64,
    /// Position in the order of arrival, set by the push.
    number: u64,
    cost: usize,
    /// Hash of a document's topic, so that the search for an older one reads only the queue's own memory.
    topic_hash: u32,
}

/// The class of a delivery, which determines when it may be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeliveryClass {
    /// A reply to a request of the session itself.
    Reply,
    /// An event of a change, which a resync from the journal can replace.
    Event,
    /// A document after a change, which a resync from the journal can replace.
    Document,
    /// A message on a shadow topic that reports no change, such as the rejection of another session's request.
    Notice,
    /// An ordinary message.
    Ordinary,
}

/// One of the two lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lane {
    #[default]
    Shadow,
    Ordinary,
}

/// The result of a search for the next delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The head of this lane is next.
    Next(Lane),
    /// The heads of all lanes wait for the QoS window.
    Blocked,
    /// Nothing is queued.
    Empty,
}

impl QueuedDelivery {
    pub(super) fn new(class: DeliveryClass, delivery: Delivery, seq: u64) -> Self {
        let cost = cost(&delivery.message);
        let topic_hash = if class == DeliveryClass::Document { hash(delivery.message.topic.as_str()) } else { 0 };
        Self { delivery, class, seq, number: 0, cost, topic_hash }
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    pub(super) fn lane(&self) -> Lane {
        if self.class == DeliveryClass::Ordinary { Lane::Ordinary } else { Lane::Shadow }
    }

    /// Returns true if a resync from the journal can replace the delivery.
    pub(super) fn is_journalled(&self) -> bool {
        matches!(self.class, DeliveryClass::Event | DeliveryClass::Document)
    }

    pub(super) fn topic(&self) -> &str {
        self.delivery.message.topic.as_str()
    }

    /// Returns true if its message expiry interval has passed. Reads the clock only if there is one.
    pub(super) fn is_expired(&self) -> bool {
        self.delivery.message.expires_at.is_some_and(|at| at <= Instant::now())
    }

    /// Returns true if it is dropped when the queue is full.
    fn is_droppable(&self) -> bool {
        matches!(self.class, DeliveryClass::Ordinary | DeliveryClass::Notice)
    }

    fn is_acknowledged(&self) -> bool {
        self.delivery.qos != QoS::AtMostOnce
    }
}

impl Queue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.shadow.len() + self.ordinary.len()
    }

    pub(super) fn has_journalled(&self) -> bool {
        self.journalled > 0
    }

    pub(super) fn has_replies(&self) -> bool {
        self.reply_bytes > 0
    }

    /// Number of entries at QoS 1 and 2.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    pub(super) fn is_lane_empty(&self, lane: Lane) -> bool {
        self.lane(lane).is_empty()
    }

    /// Iterates over the shadow lane from its head.
    pub(super) fn shadow(&self) -> impl Iterator<Item = &QueuedDelivery> {
        self.shadow.iter()
    }

    /// Returns true if the ordinary lane has a delivery of the message of `other`, compared by pointer, that serves for it: to the session
    /// itself, with its subscription identifiers, and at no lower QoS.
    pub(super) fn has_ordinary(&self, other: &Delivery) -> bool {
        self.ordinary.iter().any(|QueuedDelivery { delivery, .. }| {
            Arc::ptr_eq(&delivery.message, &other.message)
                && delivery.share.is_none()
                && delivery.qos >= other.qos
                && other.subscription_ids.iter().all(|id| delivery.subscription_ids.contains(id))
        })
    }

    /// Returns true if a delivery of `more` bytes fits within `limit`. The first one always fits.
    pub(super) fn fits(&mut self, more: usize, limit: usize) -> bool {
        self.bytes + more <= limit || self.counted(more, limit) <= limit
    }

    /// Returns the bytes of the queue and of a delivery of `more` bytes, of which the largest one counts as a quarter of
    /// `limit` at most.
    pub(super) fn counted(&mut self, more: usize, limit: usize) -> usize {
        let part = limit / LARGEST_PART;
        if self.is_largest_gone && self.largest > part {
            self.largest = self.shadow.iter().chain(&self.ordinary).map(QueuedDelivery::cost).max().unwrap_or(0);
            self.is_largest_gone = false;
        }
        self.bytes + more - self.largest.max(more).saturating_sub(part)
    }

    /// Returns true if a delivery of `more` bytes fits within `limit` once all ordinary messages and notices are dropped.
    pub(super) fn may_fit(&self, more: usize, limit: usize) -> bool {
        let (others, part) = (self.undroppable_bytes(), limit / LARGEST_PART);
        let largest = || self.shadow.iter().filter(|entry| !entry.is_droppable()).map(QueuedDelivery::cost).max();
        others + more.min(part) <= limit
            || others + more - largest().unwrap_or(0).max(more).saturating_sub(part) <= limit
    }

    /// Returns the bytes that are left once all ordinary messages and notices are dropped.
    pub(super) fn undroppable_bytes(&self) -> usize {
        self.bytes - self.droppable_bytes
    }

    /// Returns true if `reply` and the queued replies fit within `limit` bytes. The first reply always fits.
    pub(super) fn fits_reply(&self, reply: &QueuedDelivery, limit: usize) -> bool {
        self.reply_bytes == 0 || self.reply_bytes + reply.cost <= limit
    }

    pub(super) fn push(&mut self, mut entry: QueuedDelivery) {
        self.newest += 1;
        entry.number = self.newest;
        self.unsearched += usize::from(entry.is_journalled());
        self.count_in(&entry);
        self.lane_mut(entry.lane()).push_back(entry);
    }

    /// Returns the lane that is next, by the rule in the module's header. An entry at QoS 1 or 2 blocks its lane while
    /// the window is closed.
    pub(super) fn head(&self, window_open: bool) -> Head {
        let ready = |entry: &&QueuedDelivery| window_open || !entry.is_acknowledged() || entry.is_expired();
        let (shadow, ordinary) = (self.shadow.front(), self.ordinary.front());
        match (shadow.filter(ready), ordinary.filter(ready)) {
            (Some(shadow), Some(ordinary)) => {
                let older = if shadow.number < ordinary.number { Lane::Shadow } else { Lane::Ordinary };
                let had_its_turn = self.row.0 == older && self.row.1 >= TURN;
                Head::Next(if had_its_turn { older.other() } else { older })
            }
            (Some(_), None) => Head::Next(Lane::Shadow),
            (None, Some(_)) => Head::Next(Lane::Ordinary),
            (None, None) if shadow.is_none() && ordinary.is_none() => Head::Empty,
            (None, None) => Head::Blocked,
        }
    }

    pub(super) fn pop(&mut self, lane: Lane) -> Option<QueuedDelivery> {
        let entry = self.lane_mut(lane).pop_front()?;
        let in_row = if self.row.0 == lane { self.row.1.saturating_add(1) } else { 1 };
        self.row = (lane, if self.is_lane_empty(lane.other()) { 0 } else { in_row });
        self.count_out(&entry);
        self.release();
        Some(entry)
    }

    /// Removes and returns the first reply if only notices precede it in its lane. It must not overtake events and
    /// documents.
    pub(super) fn pop_reply(&mut self) -> Option<QueuedDelivery> {
        if self.reply_bytes == 0 {
            return None;
        }
        let at = self.shadow.iter().position(|entry| entry.class != DeliveryClass::Notice)?;
        self.shadow.get(at).filter(|entry| entry.class == DeliveryClass::Reply)?;
        let entry = self.shadow.remove(at)?;
        self.count_out(&entry);
        self.release();
        Some(entry)
    }

    /// Replaces the queued document of the topic in place, or pushes the document if there is none.
    pub(super) fn push_document(&mut self, mut entry: QueuedDelivery) {
        let same = |queued: &QueuedDelivery| {
            queued.class == DeliveryClass::Document
                && queued.topic_hash == entry.topic_hash
                && queued.topic() == entry.topic()
        };
        let at = self.shadow.iter().position(same);
        let Some((at, number)) = at.and_then(|at| Some((at, self.shadow.get(at)?.number))) else {
            return self.push(entry);
        };
        entry.number = number;
        self.count_in(&entry);
        if let Some(former) = self.shadow.get_mut(at).map(|queued| std::mem::replace(queued, entry)) {
            self.count_out(&former);
        }
    }

    /// Drops the queued document of `topic` if it is not newer than `seq`.
    pub(super) fn drop_document(&mut self, topic: &str, seq: u64) {
        self.drop_where(Lane::Shadow, |entry| {
            entry.class == DeliveryClass::Document && entry.seq <= seq && entry.topic() == topic
        });
    }

    /// Returns true if enough events were pushed since the last search for superseded ones to justify another.
    pub(super) fn is_search_due(&self) -> bool {
        self.unsearched >= self.shadow.len() / SEARCHES_PER_LANE
    }

    /// Drops events and documents that a later one of the same topic supersedes, oldest first, until at most `target`
    /// bytes remain, as they count towards `limit`. Returns the number dropped.
    pub(super) fn drop_superseded(&mut self, target: usize, limit: usize) -> usize {
        self.unsearched = 0;
        let mut newer = HashSet::with_capacity(self.journalled);
        let superseded: Vec<bool> =
            self.shadow.iter().rev().map(|entry| entry.is_journalled() && !newer.insert(entry.topic())).collect();
        drop(newer);
        let mut superseded = superseded.into_iter().rev();
        let mut excess = self.counted(0, limit).saturating_sub(target);
        self.drop_where(Lane::Shadow, |entry| {
            let goes = superseded.next().unwrap_or(false) && excess > 0;
            if goes {
                excess = excess.saturating_sub(entry.cost.min(limit / LARGEST_PART)); // it may be the largest
            }
            goes
        })
    }

    /// Drops the oldest ordinary message or notice. Returns its QoS, if there was one.
    pub(super) fn drop_oldest_ordinary(&mut self) -> Option<QoS> {
        let notice =
            (self.notices > 0).then(|| self.shadow.iter().position(|entry| entry.class == DeliveryClass::Notice));
        let ordinary = self.ordinary.front().map_or(u64::MAX, |entry| entry.number);
        let older = notice.flatten().filter(|&at| self.shadow.get(at).is_some_and(|entry| entry.number < ordinary));
        let entry = match older {
            Some(at) => self.shadow.remove(at),
            None => self.ordinary.pop_front(),
        }?;
        self.count_out(&entry);
        Some(entry.delivery.qos)
    }

    /// Drops the ordinary messages on topics for which `keep` returns false.
    pub(super) fn drop_ordinary_unless(&mut self, keep: impl Fn(&str) -> bool) {
        self.drop_where(Lane::Ordinary, |entry| !keep(entry.topic()));
    }

    /// Drops all events and documents. Returns the first one dropped, from which a resync has to start.
    pub(super) fn drop_journalled(&mut self) -> Option<Unsent> {
        let mut unsent: Option<Unsent> = None;
        self.drop_where(Lane::Shadow, |entry| {
            if entry.is_journalled() {
                match &mut unsent {
                    Some(unsent) => unsent.add(entry),
                    None => unsent = Some(Unsent::of(entry)),
                }
            }
            entry.is_journalled()
        });
        unsent
    }

    /// Drops the notices. Returns the numbers dropped at QoS 0, and at QoS 1 and 2.
    pub(super) fn drop_notices(&mut self) -> (usize, usize) {
        if self.notices == 0 {
            return (0, 0);
        }
        let mut at_most_once = 0;
        let all = self.drop_where(Lane::Shadow, |entry| {
            let goes = entry.class == DeliveryClass::Notice;
            at_most_once += usize::from(goes && !entry.is_acknowledged());
            goes
        });
        (at_most_once, all - at_most_once)
    }

    /// Drops the replies. Returns the number dropped.
    pub(super) fn drop_replies(&mut self) -> usize {
        self.drop_where(Lane::Shadow, |entry| entry.class == DeliveryClass::Reply)
    }

    /// Drops everything at QoS 0, which is not kept for a disconnected session. Returns the numbers of replies and of
    /// others dropped.
    pub(super) fn drop_unguaranteed(&mut self) -> (usize, usize) {
        let mut replies = 0;
        let shadow = self.drop_where(Lane::Shadow, |entry| {
            replies += usize::from(!entry.is_acknowledged() && entry.class == DeliveryClass::Reply);
            !entry.is_acknowledged()
        });
        (replies, shadow - replies + self.drop_where(Lane::Ordinary, |entry| !entry.is_acknowledged()))
    }

    /// Removes and returns the deliveries of shared subscriptions, oldest first.
    pub(super) fn take_shared(&mut self) -> Vec<Delivery> {
        let mut shared = Vec::new();
        self.drop_where(Lane::Ordinary, |entry| {
            let goes = entry.delivery.share.is_some();
            if goes {
                shared.push(entry.delivery.clone());
            }
            goes
        });
        shared
    }

    fn drop_where(&mut self, lane: Lane, mut goes: impl FnMut(&QueuedDelivery) -> bool) -> usize {
        let mut entries = std::mem::take(self.lane_mut(lane));
        let before = entries.len();
        entries.retain(|entry| {
            let goes = goes(entry);
            if goes {
                self.count_out(entry);
            }
            !goes
        });
        let dropped = before - entries.len();
        *self.lane_mut(lane) = entries;
        self.release();
        dropped
    }

    fn lane(&self, lane: Lane) -> &VecDeque<QueuedDelivery> {
        match lane {
            Lane::Shadow => &self.shadow,
            Lane::Ordinary => &self.ordinary,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut VecDeque<QueuedDelivery> {
        match lane {
            Lane::Shadow => &mut self.shadow,
            Lane::Ordinary => &mut self.ordinary,
        }
    }

    fn count_in(&mut self, entry: &QueuedDelivery) {
        self.bytes += entry.cost;
        self.reply_bytes += if entry.class == DeliveryClass::Reply { entry.cost } else { 0 };
        self.journalled += usize::from(entry.is_journalled());
        self.notices += usize::from(entry.class == DeliveryClass::Notice);
        self.droppable_bytes += if entry.is_droppable() { entry.cost } else { 0 };
        if entry.cost >= self.largest {
            (self.largest, self.is_largest_gone) = (entry.cost, false);
        }
        self.acknowledged += usize::from(entry.is_acknowledged());
    }

    fn count_out(&mut self, entry: &QueuedDelivery) {
        self.bytes -= entry.cost;
        self.reply_bytes -= if entry.class == DeliveryClass::Reply { entry.cost } else { 0 };
        self.journalled -= usize::from(entry.is_journalled());
        self.notices -= usize::from(entry.class == DeliveryClass::Notice);
        self.droppable_bytes -= if entry.is_droppable() { entry.cost } else { 0 };
        self.is_largest_gone |= entry.cost == self.largest;
        self.acknowledged -= usize::from(entry.is_acknowledged());
    }

    fn release(&mut self) {
        release(&mut self.shadow);
        release(&mut self.ordinary);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.shadow.capacity().max(self.ordinary.capacity())
    }
}

impl Lane {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Shadow => Self::Ordinary,
            Self::Ordinary => Self::Shadow,
        }
    }
}

/// Frees the memory of an emptied queue, so that a burst does not stay allocated for the life of the session.
pub(super) fn release<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > CAPACITY_KEPT {
        *queue = VecDeque::new();
    }
}

/// Returns the bytes that a message counts for in a queue.
pub(super) fn cost(message: &Message) -> usize {
    ENTRY_OVERHEAD + message.weight()
}

fn hash(topic: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    hasher.finish() as u32
}

/// Bytes each delivery counts for in addition to its topic, payload and properties.
const ENTRY_OVERHEAD: usize = 128;

/// Capacity, in entries, that an empty queue keeps: the few events of one update.
const CAPACITY_KEPT: usize = 8;

/// Deliveries one lane may have in a row while the other waits.
pub(super) const TURN: u8 = 3;

/// The part of the limit that the largest delivery counts as at most: one in so many. So a large message neither pushes out all
/// others nor finds no room, and a queue has at most one that is larger than its limit.
const LARGEST_PART: usize = 4;

/// Searches for superseded events per turnover of the lane: one is due when a quarter of the lane is new.
const SEARCHES_PER_LANE: usize = 4;
