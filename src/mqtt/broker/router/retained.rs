//! Retained ordinary messages: the last one of each topic that was published to be kept.
//!
//! Topics are ordered level by level (`/` is replaced by NUL, which no topic holds), so that the topics below a level
//! are neighbours. A lookup with wildcards walks along and leaps over what cannot match: a level that differs from the
//! filter's sends it to where that level would be, or past the subtree of the last `+`. It does not see topics outside
//! the filter's leading levels, and one page of it takes a bounded number of steps.
//!
//! Above a limit a message is refused, and the one it was to replace stays: giving up old ones instead would let any
//! publisher wipe out the retained messages of all others. Each counts for the principal that published it.
//!
//! Shadow documents and presence are not here: they are made from the store when asked for.

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

/// How much may be retained.
#[derive(Clone, Copy, Debug)]
pub struct RetainedLimits {
    /// Altogether.
    pub all: Amount,
    /// Of what one principal published.
    pub of_principal: Amount,
}

/// An amount of retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Messages.
    pub messages: usize,
    /// Bytes of topics and payloads, with a fixed overhead for each message.
    pub bytes: usize,
}

/// Where a lookup goes on; the default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<Key>);

/// Some of the messages a filter selects.
#[derive(Debug, Default)]
pub struct RetainedPage {
    /// In the order of their topics; may be none although more follow.
    pub messages: Vec<Arc<Message>>,
    /// Where the next page begins, if there may be more.
    pub next: Option<Cursor>,
}

/// The retained messages.
#[derive(Debug)]
pub(super) struct Retained {
    limits: RetainedLimits,
    messages: BTreeMap<Key, StoredMessage>,
    /// Those of the messages that expire, soonest first.
    expiring: BTreeSet<(Instant, Key)>,
    all: Amount,
    /// Of each principal that has any.
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

    /// Whether `message` is kept.
    pub(super) fn holds(&self, message: &Arc<Message>) -> bool {
        let key = message.topic.as_str().replace('/', SEPARATOR);
        self.messages.get(key.as_str()).is_some_and(|kept| Arc::ptr_eq(&kept.message, message))
    }

    /// Keeps `message` of `by` in the place of the one its topic has; an empty one removes that.
    ///
    /// # Errors
    ///
    /// There is no room for it; nothing was changed.
    pub(super) fn store(&mut self, message: &Arc<Message>, by: &Principal, now: Instant) -> Result<(), QuotaKind> {
        self.expire(now);
        let key: Key = message.topic.as_str().replace('/', SEPARATOR).into();
        // [MQTT-3.3.1-6], [MQTT-3.3.1-7]; and what is expired at once takes the place of what was there all the same.
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

    /// Collects messages that `filter` selects, from `from` on.
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
                LookupStep::Follow => Bound::Excluded(Arc::clone(key)),
                LookupStep::Leap(to) => Bound::Included(to.into()),
                LookupStep::End => return page,
            };
        }
        page.next = match next {
            Bound::Included(key) => Some(Cursor(Some(key))),
            // The key that follows immediately.
            Bound::Excluded(key) => Some(Cursor(Some(format!("{key}{SEPARATOR}").into()))),
            Bound::Unbounded => None,
        };
        page
    }

    /// Returns the message of `topic` and when it came.
    pub(super) fn on(&mut self, topic: &str, now: Instant) -> Option<(Arc<Message>, Instant)> {
        self.expire(now);
        let kept = self.messages.get(topic.replace('/', SEPARATOR).as_str())?;
        Some((Arc::clone(&kept.message), kept.at))
    }

    /// Returns the messages of the topics after `topic`, at most `limit`, and when they came.
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

    /// Whether nothing is kept, nor counted.
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

    /// Removes what has expired [MQTT-3.3.2-5].
    fn expire(&mut self, now: Instant) {
        while self.expiring.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.expiring.pop_first() {
                self.remove(&key);
            }
        }
    }
}

impl RetainedLimits {
    /// As the configuration says.
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
    /// As much as there can be.
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

/// What a lookup does at a topic.
#[derive(Debug, PartialEq, Eq)]
enum LookupStep {
    /// Takes it.
    Selected,
    /// Goes on with the next topic.
    Follow,
    /// Goes on with the first topic that is not before this.
    Leap(String),
    /// Is through.
    End,
}

/// Compares a filter with a topic, both with NUL between levels.
fn compare(filter: &str, topic: &str) -> LookupStep {
    // [MQTT-4.7.2-1]; topics that start with `$` are before all that start with a later character.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return LookupStep::Leap(AFTER_DOLLAR.into());
    }
    // The end of the subtree under the last `+`, to leap to when nothing more can match inside it.
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
            Some(level) if name < level => return LookupStep::Leap(format!("{}{level}", head(at))),
            // Beyond the filter, in this level or in depth, and so is all that follows inside the subtree.
            _ => {
                return past.map_or(LookupStep::End, |end| LookupStep::Leap(format!("{}{AFTER_SEPARATOR}", head(end))));
            }
        }
        at = end + SEPARATOR.len();
    }
    match levels.next() {
        None | Some("#") => LookupStep::Selected,
        Some(_) => LookupStep::Follow,
    }
}

/// What a message counts for, in bytes.
fn cost(message: &Message) -> usize {
    OVERHEAD + 2 * message.topic.as_str().len() + message.payload.len() + message.properties_bytes()
}

/// Between levels: below every character of a topic.
const SEPARATOR: &str = "\0";

/// The string after all that begin with [`SEPARATOR`].
const AFTER_SEPARATOR: &str = "\u{1}";

/// The string after all that begin with `$`.
const AFTER_DOLLAR: &str = "%";

/// Bytes each message counts for beside its topic (kept twice), payload and properties.
const OVERHEAD: usize = 256;

/// Messages in one page.
const PAGE_MESSAGES: usize = 64;

/// Topics looked at for one page.
const PAGE_STEPS: usize = 1_000;
