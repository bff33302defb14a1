//! The deliveries queued towards one subscriber, in order, with what they weigh.
//!
//! A plain data structure: no lock, no wake-up, no limit of its own. [`super::Outbox`] decides when it is too full and
//! what has to go; this file knows how to take it out. Bytes are what a delivery would occupy on the wire plus a fixed
//! overhead, although its message is shared between subscribers: the bound is on what one subscriber makes us owe.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use crate::mqtt::{
    message::{Delivery, Message},
    packet::QoS,
};

/// Deliveries in the order they leave.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// Sum of all costs.
    bytes: usize,
    /// Sum of the costs of the replies.
    reply_bytes: usize,
    /// How many entries are events or documents.
    journalled: usize,
}

/// One queued delivery.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) delivery: Delivery,
    pub(super) kind: Kind,
    /// Journal sequence of an event or document, else 0.
    pub(super) seq: u64,
    cost: usize,
    /// Hash of a document's topic, so that the search for an older one stays inside the queue's own memory.
    mark: u32,
}

/// Which rules a delivery is queued under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reply,
    Event,
    Document,
    Plain,
}

impl Entry {
    pub(super) fn new(kind: Kind, delivery: Delivery, seq: u64) -> Self {
        let cost = cost(&delivery.message);
        let mark = if kind == Kind::Document { mark(delivery.message.topic.as_str()) } else { 0 };
        Self { delivery, kind, seq, cost, mark }
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Whether the journal has what is needed to make up for losing it.
    fn is_journalled(&self) -> bool {
        matches!(self.kind, Kind::Event | Kind::Document)
    }

    fn topic(&self) -> &str {
        self.delivery.message.topic.as_str()
    }

    /// Whether its message expiry interval has passed. The clock is asked only if there is one.
    pub(super) fn is_expired(&self) -> bool {
        self.delivery.message.expires_at.is_some_and(|at| at <= Instant::now())
    }
}

impl Queue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn has_journalled(&self) -> bool {
        self.journalled > 0
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether `more` bytes can join without the sum going beyond `limit`; the first delivery always can.
    pub(super) fn fits(&self, more: usize, limit: usize) -> bool {
        self.entries.is_empty() || self.bytes + more <= limit
    }

    /// Whether `reply` can join without the replies going beyond `limit` bytes; the first always can.
    pub(super) fn fits_reply(&self, reply: &Entry, limit: usize) -> bool {
        self.reply_bytes == 0 || self.reply_bytes + reply.cost <= limit
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.count_in(&entry);
        self.entries.push_back(entry);
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.count_out(&entry);
        self.release();
        Some(entry)
    }

    /// Takes out the first reply, past ordinary messages alone: what events and documents tell came before it.
    pub(super) fn pop_reply(&mut self) -> Option<Entry> {
        if self.reply_bytes == 0 {
            return None;
        }
        let at = self.entries.iter().position(|entry| entry.kind != Kind::Plain)?;
        self.entries.get(at).filter(|entry| entry.kind == Kind::Reply)?;
        let entry = self.entries.remove(at)?;
        self.count_out(&entry);
        self.release();
        Some(entry)
    }

    /// Puts a document where an older one of its topic waits, or last if there is none.
    pub(super) fn push_document(&mut self, entry: Entry) {
        let same = |queued: &&mut Entry| {
            queued.kind == Kind::Document && queued.mark == entry.mark && queued.topic() == entry.topic()
        };
        match self.entries.iter_mut().find(same) {
            None => self.push(entry),
            Some(queued) => {
                self.bytes = self.bytes - queued.cost + entry.cost;
                *queued = entry;
            }
        }
    }

    /// Takes out the document of `topic` if one is queued that is not newer than `seq`.
    pub(super) fn drop_document(&mut self, topic: &str, seq: u64) {
        self.drop_where(|entry| entry.kind == Kind::Document && entry.seq <= seq && entry.topic() == topic);
    }

    /// Takes out events that a later one of the same topic makes superfluous, oldest first, until at most `target`
    /// bytes are left or none is superfluous. Returns how many went.
    pub(super) fn drop_superseded(&mut self, target: usize) -> usize {
        let mut newer = HashSet::with_capacity(self.journalled);
        let superseded: Vec<bool> =
            self.entries.iter().rev().map(|entry| entry.is_journalled() && !newer.insert(entry.topic())).collect();
        drop(newer);
        let mut superseded = superseded.into_iter().rev();
        let mut excess = self.bytes.saturating_sub(target);
        self.drop_where(|entry| {
            let goes = superseded.next().unwrap_or(false) && excess > 0;
            if goes {
                excess = excess.saturating_sub(entry.cost);
            }
            goes
        })
    }

    /// Takes out the oldest ordinary message. Returns its QoS, if there was one.
    pub(super) fn drop_oldest_plain(&mut self) -> Option<QoS> {
        let at = self.entries.iter().position(|entry| entry.kind == Kind::Plain)?;
        let entry = self.entries.remove(at)?;
        self.count_out(&entry);
        Some(entry.delivery.qos)
    }

    /// Takes out the ordinary messages on topics that are not `kept`.
    pub(super) fn drop_plain_unless(&mut self, kept: impl Fn(&str) -> bool) {
        self.drop_where(|entry| entry.kind == Kind::Plain && !kept(entry.topic()));
    }

    /// Takes out all events and documents. Returns the lowest sequence of those, if there was one.
    pub(super) fn drop_journalled(&mut self) -> Option<u64> {
        let mut lowest = None;
        self.drop_where(|entry| {
            if entry.is_journalled() {
                lowest = Some(lowest.map_or(entry.seq, |seq: u64| seq.min(entry.seq)));
            }
            entry.is_journalled()
        });
        lowest
    }

    /// Takes out the replies. Returns how many.
    pub(super) fn drop_replies(&mut self) -> usize {
        self.drop_where(|entry| entry.kind == Kind::Reply)
    }

    /// Takes out what is not guaranteed to be delivered to a session that is not connected. Returns how many of those
    /// were replies and how many others.
    pub(super) fn drop_unguaranteed(&mut self) -> (usize, usize) {
        let mut replies = 0;
        let all = self.drop_where(|entry| {
            let goes = entry.delivery.qos == QoS::AtMostOnce;
            replies += usize::from(goes && entry.kind == Kind::Reply);
            goes
        });
        (replies, all - replies)
    }

    fn drop_where(&mut self, mut goes: impl FnMut(&Entry) -> bool) -> usize {
        let mut entries = std::mem::take(&mut self.entries);
        let before = entries.len();
        entries.retain(|entry| {
            let goes = goes(entry);
            if goes {
                self.count_out(entry);
            }
            !goes
        });
        self.entries = entries;
        self.release();
        before - self.entries.len()
    }

    fn count_in(&mut self, entry: &Entry) {
        self.bytes += entry.cost;
        self.reply_bytes += if entry.kind == Kind::Reply { entry.cost } else { 0 };
        self.journalled += usize::from(entry.is_journalled());
    }

    fn count_out(&mut self, entry: &Entry) {
        self.bytes -= entry.cost;
        self.reply_bytes -= if entry.kind == Kind::Reply { entry.cost } else { 0 };
        self.journalled -= usize::from(entry.is_journalled());
    }

    fn release(&mut self) {
        release(&mut self.entries);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.entries.capacity()
    }
}

/// Gives the memory of an emptied queue back, so that a burst does not stay allocated for as long as the session.
pub(super) fn release<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > CAPACITY_KEPT {
        *queue = VecDeque::new();
    }
}

/// What a message weighs in a queue, in bytes.
pub(super) fn cost(message: &Message) -> usize {
    ENTRY_OVERHEAD + message.weight()
}

fn mark(topic: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    hasher.finish() as u32
}

/// Bytes each delivery counts for beside its topic, payload and properties.
const ENTRY_OVERHEAD: usize = 128;

/// Entries an empty queue keeps room for: the few events of one update.
const CAPACITY_KEPT: usize = 8;
