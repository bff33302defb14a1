//! Retained ordinary messages: the last message of each topic that was published with the retain flag.
//!
//! Topics are ordered level by level (`/` is replaced by NUL, which no topic contains), so that the topics below a
//! level are neighbours. A lookup with wildcards seeks past ranges that cannot match. At a level that differs from the
//! filter's, it seeks to the filter's level, or past the subtree of the last `+`. It never visits topics outside the
//! filter's leading levels, and one page takes a bounded number of steps.
//!
//! A message above a limit is refused, and the one it would have replaced stays. Evicting old ones instead would let
//! any publisher remove the retained messages of all others. Each message counts for the principal that published it.
//!
//! Not here: shadow documents and presence, which are rendered on request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map},
    ops::Bound,
    sync::Arc,
    time::Instant,
};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<Key>);

/// One page of the messages that a filter selects.
#[derive(Debug, Default)]
pub struct RetainedPage {
    /// The messages in the order of their topics; may be empty although more follow.
    pub messages: Vec<Arc<Message>>,
    /// The beginning of the next page, if there may be more.
    pub next: Option<Cursor>,
}

/// The retained messages.
#[derive(Debug)]
pub(super) struct Retained {
    limits: RetainedLimits,
    messages: BTreeMap<Key, StoredMessage>,
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

/// A topic with NUL for `/`.
type Key = Arc<str>;

impl Retained {
    pub(super) fn new(limits: RetainedLimits) -> Self {
        Self {
            limits,
            messages: BTreeMap::new(),
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
        let (mut all, mut own) = (self.all, self.of.get(by).copied().unwrap_or_default());
        if let Some(replaced) = self.messages.get(&key) {
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
        if all.exceeds(&self.limits.all) {
            return Err(QuotaKind::Retained);
        }
        self.remove(&key);
        self.all = all;
        self.of.insert(by.clone(), own);
        if let Some(at) = message.expires_at {
            self.expiring.insert((at, Arc::clone(&key)));
        }
        self.messages.insert(key, StoredMessage { message: Arc::clone(message), by: by.clone(), at: now });
        Ok(())
    }

    /// Returns a page of the messages that `filter` selects, from `from` on.
    pub(super) fn page(&mut self, filter: &TopicFilter, from: Cursor, now: Instant) -> RetainedPage {
        self.expire(now);
        let pattern = filter.as_str().replace('/', SEPARATOR);
        let mut page = RetainedPage::default();
        let mut next = from.0.map_or(Bound::Unbounded, Bound::Included);
        for _ in 0..PAGE_STEPS {
            let rest = (next.as_ref().map(|key| &**key), Bound::Unbounded);
            let Some((key, StoredMessage { message, .. })) = self.messages.range::<str, _>(rest).next() else {
                return page;
            };
            if page.messages.len() == PAGE_MESSAGES {
                page.next = Some(Cursor(Some(Arc::clone(key))));
                return page;
            }
            next = match compare(&pattern, key) {
                LookupStep::Selected => {
                    page.messages.push(Arc::clone(message));
                    Bound::Excluded(Arc::clone(key))
                }
                LookupStep::Next => Bound::Excluded(Arc::clone(key)),
                LookupStep::Seek(to) => Bound::Included(to.into()),
                LookupStep::End => return page,
            };
        }
        page.next = match next {
            Bound::Included(key) => Some(Cursor(Some(key))),
            // The key that immediately follows `key`.
            Bound::Excluded(key) => Some(Cursor(Some(format!("{key}{SEPARATOR}").into()))),
            Bound::Unbounded => None,
        };
        page
    }

    /// Returns the message of `topic` and when it was stored.
    pub(super) fn on(&mut self, topic: &str, now: Instant) -> Option<(Arc<Message>, Instant)> {
        self.expire(now);
        let kept = self.messages.get(topic.replace('/', SEPARATOR).as_str())?;
        Some((Arc::clone(&kept.message), kept.at))
    }

    /// Returns the messages of the topics after `topic`, at most `limit`, and when they were stored.
    pub(super) fn after(&mut self, topic: Option<&str>, limit: usize, now: Instant) -> Vec<(Arc<Message>, Instant)> {
        self.expire(now);
        let key = topic.map(|topic| topic.replace('/', SEPARATOR));
        let from = key.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let kept = self.messages.range::<str, _>((from, Bound::Unbounded)).take(limit);
        kept.map(|(_, kept)| (Arc::clone(&kept.message), kept.at)).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.messages.len()
    }

    /// Returns true if no message is stored or counted.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.expiring.is_empty() && self.of.is_empty() && self.all == Amount::default()
    }

    fn remove(&mut self, key: &Key) {
        let Some(StoredMessage { message, by, .. }) = self.messages.remove(key) else { return };
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

    /// Removes the expired messages [MQTT-3.3.2-5].
    fn expire(&mut self, now: Instant) {
        while self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiring.pop_first() {
                self.remove(&key);
            }
        }
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

/// The action of a lookup at a topic.
#[derive(Debug, PartialEq, Eq)]
enum LookupStep {
    /// The topic matches.
    Selected,
    /// The lookup continues with the next topic.
    Next,
    /// The lookup continues with the first topic at or after this one.
    Seek(String),
    /// No further topic can match.
    End,
}

/// Compares a filter with a topic, both with NUL between levels.
fn compare(filter: &str, topic: &str) -> LookupStep {
    // [MQTT-4.7.2-1]; topics that start with `$` sort before all that start with a later character.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return LookupStep::Seek(AFTER_DOLLAR.into());
    }
    // The end of the subtree under the last `+`, to seek past when nothing more can match inside it.
    let mut past = None;
    let mut at = 0;
    let mut levels = filter.split('\0');
    for name in topic.split('\0') {
        let end = at + name.len();
        let head = |length: usize| topic.get(..length).unwrap_or(topic);
        match levels.next() {
            Some("#") => return LookupStep::Selected,
            Some("+") => past = Some(end),
            Some(level) if level == name => {}
            Some(level) if name < level => return LookupStep::Seek(format!("{}{level}", head(at))),
            // The topic sorts after the filter or is deeper, and so is everything that follows inside the subtree.
            _ => {
                return past.map_or(LookupStep::End, |end| LookupStep::Seek(format!("{}{AFTER_SEPARATOR}", head(end))));
            }
        }
        at = end + SEPARATOR.len();
    }
    match levels.next() {
        None | Some("#") => LookupStep::Selected,
        Some(_) => LookupStep::Next,
    }
}

/// Returns the bytes that a message counts for.
fn cost(message: &Message) -> usize {
    OVERHEAD + 2 * message.topic.as_str().len() + message.payload.len() + message.properties_bytes()
}

/// Separator of levels. It sorts below every character of a topic.
const SEPARATOR: &str = "\0";

/// The first string after all that begin with [`SEPARATOR`].
const AFTER_SEPARATOR: &str = "\u{1}";

/// The first string after all that begin with `$`.
const AFTER_DOLLAR: &str = "%";

/// Bytes each message counts for in addition to its topic (stored twice), payload and properties.
const OVERHEAD: usize = 256;

/// Messages in one page.
const PAGE_MESSAGES: usize = 64;

/// Topics visited for one page.
const PAGE_STEPS: usize = 1_000;
