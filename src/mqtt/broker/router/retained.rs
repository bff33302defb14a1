//! Retained ordinary messages: the last message of each topic that was published with the retain flag.
//!
//! Topics are ordered level by level (`/` is replaced by NUL, which no topic contains), so that the topics below a
//! level are neighbours. They are also indexed by the text of each level ([`level_index`]). So a lookup costs what it
//! returns: topics that differ from the filter in any level are not visited, whatever their number. The exception are
//! filters with several levels after a wildcard, if topics have each of these but not all. One page takes a bounded
//! number of steps, which it reports.
//!
//! A message above a limit is refused, and the one it would have replaced stays. Evicting old ones instead would let
//! any publisher remove the retained messages of all others. Each message counts for the principal that published it.
//!
//! Not here: shadow documents and presence, which are rendered on request.

mod level_index;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    sync::Arc,
    time::Instant,
};

use self::level_index::{Key, LEVELS_INDEXED, LevelIndex, Lookup, Place, SEPARATOR};

use crate::{
    admission::QuotaKind,
    auth::Principal,
    config::Limits,
    mqtt::protocol::{message::Message, topic::TopicFilter},
};

/// Limits on retained messages.
#[derive(Clone, Copy, Debug)]
pub struct RetainedLimits {
    /// Limit on all messages together.
    pub all: Amount,
    /// Limit on the messages that one principal published.
    pub of_principal: Amount,
}

/// An amount of retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Number of messages.
    pub messages: usize,
    /// Bytes of topics and payloads, with a fixed overhead for each message.
    pub bytes: usize,
}

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

/// The retained messages.
#[derive(Debug)]
pub(super) struct Retained {
    limits: RetainedLimits,
    messages: BTreeMap<Key, StoredMessage>,
    index: LevelIndex,
    /// The messages that expire, soonest first.
    expiring: BTreeSet<(Instant, Key)>,
    all: Amount,
    /// Amounts of the principals that have messages.
    of: HashMap<Principal, Amount>,
}

#[derive(Debug)]
struct StoredMessage {
    message: Arc<Message>,
    by: Principal,
    at: Instant,
}

impl Retained {
    pub(super) fn new(limits: RetainedLimits) -> Self {
        Self {
            limits,
            messages: BTreeMap::new(),
            index: LevelIndex::default(),
            expiring: BTreeSet::new(),
            all: Amount::default(),
            of: HashMap::new(),
        }
    }

    /// Returns true if `message` is the retained message of its topic.
    pub(super) fn holds(&self, message: &Arc<Message>) -> bool {
        let key = message.topic.as_str().replace('/', SEPARATOR);
        self.messages.get(key.as_str()).is_some_and(|kept| Arc::ptr_eq(&kept.message, message))
    }

    /// Stores `message`, published by `by`, in place of the topic's previous one. An empty message removes that one.
    ///
    /// # Errors
    ///
    /// The quota that the message would exceed; nothing is changed.
    pub(super) fn store(&mut self, message: &Arc<Message>, by: &Principal, now: Instant) -> Result<(), QuotaKind> {
        self.expire(now);
        let key: Key = message.topic.as_str().replace('/', SEPARATOR).into();
        // [MQTT-3.3.1-6], [MQTT-3.3.1-7]; a message that expires at once replaces the previous one all the same.
        if message.payload.is_empty() || message.is_momentary() {
            self.remove(&key);
            return Ok(());
        }
        let (all, own) = loop {
            match self.amounts_with(message, &key, by) {
                Err(_) if self.expire(now) => {}
                counted => break counted?,
            }
        };
        self.remove(&key);
        self.all = all;
        self.of.insert(by.clone(), own);
        if let Some(at) = message.expires_at {
            self.expiring.insert((at, Arc::clone(&key)));
        }
        self.index.insert(&key);
        self.messages.insert(key, StoredMessage { message: Arc::clone(message), by: by.clone(), at: now });
        Ok(())
    }

    /// Returns the amounts of all and of `by` once `message` is stored under `key`.
    fn amounts_with(&self, message: &Message, key: &Key, by: &Principal) -> Result<(Amount, Amount), QuotaKind> {
        let (mut all, mut own) = (self.all, self.of.get(by).copied().unwrap_or_default());
        if let Some(replaced) = self.messages.get(key) {
            all.subtract(&replaced.message);
            if replaced.by == *by {
                own.subtract(&replaced.message);
            }
        }
        all.add(message);
        own.add(message);
        if own.exceeds(&self.limits.of_principal) {
            return Err(QuotaKind::PrincipalRetained);
        }
        if all.exceeds(&self.limits.all) { Err(QuotaKind::Retained) } else { Ok((all, own)) }
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

    /// Returns the message of `topic` and when it was stored.
    pub(super) fn on(&mut self, topic: &str, now: Instant) -> Option<(Arc<Message>, Instant)> {
        self.expire(now);
        let kept = self.messages.get(topic.replace('/', SEPARATOR).as_str())?;
        (!kept.message.is_expired(now)).then(|| (Arc::clone(&kept.message), kept.at))
    }

    /// Returns the messages of the topics after `topic`, at most `limit`, and when they were stored.
    pub(super) fn after(&mut self, topic: Option<&str>, limit: usize, now: Instant) -> Vec<(Arc<Message>, Instant)> {
        self.expire(now);
        let from = topic.map_or_else(Place::default, |topic| Place::after(topic.replace('/', SEPARATOR).into()));
        let kept = self.messages.range::<str, _>(from.on()).map(|(_, kept)| kept);
        let kept = kept.filter(|kept| !kept.message.is_expired(now)).take(limit);
        kept.map(|kept| (Arc::clone(&kept.message), kept.at)).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.messages.len()
    }

    /// Returns true if no message is stored or counted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.index.is_empty()
            && self.expiring.is_empty()
            && self.of.is_empty()
            && self.all == Amount::default()
    }

    fn remove(&mut self, key: &Key) {
        let Some(StoredMessage { message, by, .. }) = self.messages.remove(key) else { return };
        self.index.remove(key);
        self.all.subtract(&message);
        if let hash_map::Entry::Occupied(mut own) = self.of.entry(by) {
            own.get_mut().subtract(&message);
            if own.get().messages == 0 {
                own.remove();
            }
        }
        if let Some(at) = message.expires_at {
            self.expiring.remove(&(at, Arc::clone(key)));
        }
    }

    /// Removes expired messages, at most [`EXPIRED_AT_ONCE`] [MQTT-3.3.2-5]. Returns true if it removed any.
    fn expire(&mut self, now: Instant) -> bool {
        let mut removed = 0;
        while removed < EXPIRED_AT_ONCE && self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiring.pop_first() {
                self.remove(&key);
            }
            removed += 1;
        }
        removed > 0
    }
}

impl RetainedLimits {
    /// Returns the configured limits.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let quotas = &limits.quotas;
        Self {
            all: Amount { messages: limits.retained_messages_max, bytes: limits.retained_bytes_max },
            of_principal: Amount {
                messages: quotas.principal_retained_messages_max,
                bytes: quotas.principal_retained_bytes_max,
            },
        }
    }
}

impl Amount {
    /// No limit.
    pub const MAX: Self = Self { messages: usize::MAX, bytes: usize::MAX };

    fn add(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += cost(message);
    }

    fn subtract(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes -= cost(message);
    }

    fn exceeds(&self, max: &Self) -> bool {
        self.messages > max.messages || self.bytes > max.bytes
    }
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
