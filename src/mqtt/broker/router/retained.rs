//! Retained ordinary messages: the last message of each topic that was published with the retain flag.
//!
//! Topics are ordered level by level (`/` is replaced by NUL, which no topic contains), so that the topics below a
//! level are neighbours. They are also indexed by the text of each level ([`level_index`]). So a lookup costs what it
//! returns: topics that differ from the filter in any level are not visited, whatever their number. The exception are
//! filters with several levels after a wildcard, if topics have each of these but not all. One page takes a bounded
//! number of steps, which it reports.
//!
//! A message for which its publisher's memory has no room is refused, and the one it would have replaced stays. Evicting
//! old ones instead would let any publisher remove the retained messages of all others.
//!
//! The messages survive a restart: each change is sent to the [`Recorder`] where it is made.
//!
//! Not here: shadow documents and presence, which are rendered on request.

mod level_index;
mod visible;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Instant,
};

pub use self::visible::{RetainedBatch, VisibleRetained};

use self::level_index::{Key, LEVELS_INDEXED, LevelIndex, Lookup, Place, SEPARATOR};

use crate::{
    admission::{Charge, PrincipalQuota, QuotaKind},
    mqtt::{
        broker::durable::{Recorder, retained_row},
        protocol::{message::Message, topic::TopicFilter},
    },
};

/// The position at which a lookup continues; the default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(Place);

/// One page of the messages that a filter selects.
#[derive(Debug, Default)]
pub struct RetainedPage {
    /// The messages in the order of their topics; may be empty although more follow.
    pub messages: Vec<Arc<Message>>,
    /// The beginning of the next page, if there may be more.
    pub next: Option<Cursor>,
    /// Seeks in the retained topics that the page took, for the budget of its reader.
    pub steps: u32,
}

/// A retained message in a list.
#[derive(Clone, Debug)]
pub struct ListedRetained {
    /// The message.
    pub message: Arc<Message>,
    /// The date when it was stored, in milliseconds since 1970.
    pub date_ms: u64,
    /// The principal that published it.
    pub by: Arc<str>,
}

/// The retained messages.
#[derive(Debug, Default)]
pub(super) struct Retained {
    messages: BTreeMap<Key, StoredMessage>,
    index: LevelIndex,
    /// The messages that expire, soonest first.
    expiring: BTreeSet<(Instant, Key)>,
    recorder: Recorder,
}

#[derive(Debug)]
struct StoredMessage {
    message: Arc<Message>,
    /// The date when it was stored, in milliseconds since 1970.
    date_ms: u64,
    /// The memory of the principal that published it.
    charge: Charge,
}

impl Retained {
    /// Returns an empty set whose changes are kept by `recorder`.
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, ..Self::default() }
    }

    /// Returns true if `message` is the retained message of its topic.
    pub(super) fn holds(&self, message: &Arc<Message>) -> bool {
        self.messages.get(&key(message)).is_some_and(|kept| Arc::ptr_eq(&kept.message, message))
    }

    /// Stores `message`, published by `by`, in place of the topic's previous one. An empty message removes that one.
    ///
    /// # Errors
    ///
    /// The quota that the message would exceed; nothing is changed.
    pub(super) fn store(
        &mut self,
        message: &Arc<Message>,
        by: &Arc<PrincipalQuota>,
        now: Instant,
    ) -> Result<(), QuotaKind> {
        self.expire(now);
        let key = key(message);
        if message.clears_topic() {
            if self.remove(&key) {
                self.recorder.write(vec![retained_row::remove(message.topic.as_str())]);
            }
            return Ok(());
        }
        self.recorder.check()?;
        let cost = cost(message);
        let replaced = self.messages.get(&key).filter(|replaced| Arc::ptr_eq(replaced.charge.quota(), by));
        let more = cost.saturating_sub(replaced.map_or(0, |replaced| replaced.charge.bytes()));
        while let Err(full) = by.check_memory(more) {
            if !self.expire(now) {
                return Err(full);
            }
        }
        let now = self.recorder.now();
        self.recorder.write(vec![retained_row::put(message, by.name(), now)]);
        self.insert(key, message.clone(), now.date_ms, Charge::new(by.clone(), cost));
        Ok(())
    }

    /// Stores a message of a cluster, whose row is written with the record of the log; an empty one clears the topic.
    pub(super) fn share(&mut self, message: &Arc<Message>, date_ms: u64, by: Arc<PrincipalQuota>) {
        if message.clears_topic() {
            self.remove(&key(message));
        } else {
            self.restore(message.clone(), date_ms, by);
        }
    }

    /// Checks that `by` may retain `message`, as [`Retained::store`] does.
    ///
    /// # Errors
    ///
    /// The quota that the message would exceed.
    pub(super) fn check(&mut self, message: &Message, by: &Arc<PrincipalQuota>, now: Instant) -> Result<(), QuotaKind> {
        if message.clears_topic() {
            return Ok(());
        }
        self.recorder.check()?;
        while let Err(full) = by.check_memory(cost(message)) {
            if !self.expire(now) {
                return Err(full);
            }
        }
        Ok(())
    }

    /// Stores a message that a row of the store has, published by the principal with the quota `by`.
    pub(super) fn restore(&mut self, message: Arc<Message>, date_ms: u64, by: Arc<PrincipalQuota>) {
        let key = key(&message);
        let charge = Charge::new(by, cost(&message));
        self.insert(key, message, date_ms, charge);
    }

    fn insert(&mut self, key: Key, message: Arc<Message>, date_ms: u64, charge: Charge) {
        self.remove(&key);
        if let Some(at) = message.expires_at {
            self.expiring.insert((at, Arc::clone(&key)));
        }
        self.index.insert(&key);
        self.messages.insert(key, StoredMessage { message, date_ms, charge });
    }

    /// Returns a page of the messages that one of `filters` selects, from `from` on. Each message is returned once.
    ///
    /// The filters are looked up side by side, and the one that is behind makes the next step. So the page ends at a
    /// place that all have reached.
    pub(super) fn page(&mut self, filters: &[TopicFilter], from: Cursor, now: Instant) -> RetainedPage {
        self.expire(now);
        let lookup = |filter: &TopicFilter| self.index.lookup(filter.as_str(), from.0.clone());
        let mut lookups: Vec<Lookup<'_>> = filters.iter().filter_map(lookup).collect();
        let mut page =
            RetainedPage { steps: u32::try_from(filters.len()).unwrap_or(u32::MAX), ..RetainedPage::default() };
        // The place after the last topic found, which another filter may find again.
        let mut done = Place::default();
        loop {
            let behind = lookups.iter().enumerate().min_by(|(_, a), (_, b)| a.place().cmp(b.place()));
            let Some(at) = behind.map(|(at, _)| at) else { return page };
            let Some(lookup) = lookups.get_mut(at) else { return page };
            if page.steps >= PAGE_STEPS || page.messages.len() == PAGE_MESSAGES {
                page.next = Some(Cursor(lookup.place().max(&done).clone()));
                return page;
            }
            let Some(key) = lookup.found() else {
                page.steps += lookup.step_cost();
                let first = |from: &Place| Some(Arc::clone(self.messages.range::<str, _>(from.on()).next()?.0));
                if !lookup.step(first) {
                    lookups.swap_remove(at);
                }
                continue;
            };
            let message = self.messages.get(key).map(|kept| &kept.message);
            let after = Place::after(Arc::clone(key));
            if after > done {
                page.messages.extend(message.filter(|message| !message.is_expired(now)).cloned());
                done = after;
            }
            lookup.skip();
        }
    }

    /// Returns the message of `topic` and the date when it was stored, in milliseconds.
    pub(super) fn on(&mut self, topic: &str, now: Instant) -> Option<(Arc<Message>, u64)> {
        self.expire(now);
        let kept = self.messages.get(topic.replace('/', SEPARATOR).as_str())?;
        (!kept.message.is_expired(now)).then(|| (Arc::clone(&kept.message), kept.date_ms))
    }

    /// Returns at most `limit` messages of the topics that begin with `prefix`, after `topic`.
    pub(super) fn list(
        &mut self,
        topic: Option<&str>,
        prefix: &str,
        limit: usize,
        now: Instant,
    ) -> Vec<ListedRetained> {
        self.expire(now);
        let prefix = prefix.replace('/', SEPARATOR);
        let after = topic.map(|topic| Place::after(topic.replace('/', SEPARATOR).into()));
        let from = match &after {
            Some(after) if topic.is_some_and(|topic| *topic.replace('/', SEPARATOR) >= *prefix) => after.on(),
            _ => (Bound::Included(prefix.as_str()), Bound::Unbounded),
        };
        let kept = self.messages.range::<str, _>(from).take_while(|(key, _)| key.starts_with(&prefix));
        let kept = kept.filter(|(_, kept)| !kept.message.is_expired(now)).take(limit);
        let listed = |kept: &StoredMessage| ListedRetained {
            message: Arc::clone(&kept.message),
            date_ms: kept.date_ms,
            by: kept.charge.quota().name().clone(),
        };
        kept.map(|(_, kept)| listed(kept)).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.messages.len()
    }

    /// Returns true if no message is stored or counted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.index.is_empty() && self.expiring.is_empty()
    }

    /// Removes the message of `key`. Returns true if there was one.
    fn remove(&mut self, key: &Key) -> bool {
        let Some(StoredMessage { message, .. }) = self.messages.remove(key) else { return false };
        self.index.remove(key);
        if let Some(at) = message.expires_at {
            self.expiring.remove(&(at, Arc::clone(key)));
        }
        true
    }

    /// Removes expired messages, at most [`EXPIRED_AT_ONCE`] [MQTT-3.3.2-5]. Returns true if it removed any.
    fn expire(&mut self, now: Instant) -> bool {
        let mut removed = 0;
        while removed < EXPIRED_AT_ONCE && self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiring.pop_first()
                && self.remove(&key)
            {
                self.recorder.write(vec![retained_row::remove(&key.replace(SEPARATOR, "/"))]);
            }
            removed += 1;
        }
        removed > 0
    }
}

/// Returns the key of the topic of `message`.
fn key(message: &Message) -> Key {
    message.topic.as_str().replace('/', SEPARATOR).into()
}

/// Returns the bytes that a message counts for.
fn cost(message: &Message) -> usize {
    let topic = message.topic.as_str();
    let indexed = topic.bytes().filter(|byte| *byte == b'/').take(LEVELS_INDEXED).count();
    OVERHEAD + indexed * LEVEL + 2 * topic.len() + message.payload.len() + message.properties_bytes()
}

/// Bytes each message counts for in addition to its topic (stored twice), the index of its levels, payload and
/// properties.
const OVERHEAD: usize = 288;

/// Bytes each indexed level counts for.
const LEVEL: usize = 128;

/// Messages in one page.
const PAGE_MESSAGES: usize = 64;

/// Seeks for one page.
const PAGE_STEPS: u32 = 500;

/// Expired messages removed at once.
const EXPIRED_AT_ONCE: usize = 256;
