//! Finds the subscribers of a topic and queues the message towards each of them.
//!
//! One [`Router`] serves all connections and the announcer. Filters without wildcards, nearly all of a fleet's, are in
//! one hash table whose keys share their text with the session's own filter; the others are in a trie by level. No
//! operation looks at all filters or all topics.
//!
//! A publisher holds the read lock while it queues, so that events of one shadow reach each queue in the order they
//! were published; queues never call back. A subscription counts from the moment [`Router::subscribe`] returns, and a
//! retained message is stored before it is routed: who subscribes and then asks for the retained messages misses none,
//! and may get one twice.
//!
//! A session gets a message once, whatever number of its own filters select it, at the highest QoS they grant and with
//! all their identifiers; a shared subscription is a delivery of its own, and an ordinary message whatever it tells.
//!
//! Not here: the events of shadows and their documents (announcer, connection), the limit of filters per session
//! (session), encoding ([`crate::mqtt::protocol::message`]).

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod retained;
mod shared;
mod subscribers;
#[cfg(test)]
mod tests;
mod trie;

use std::{collections::HashMap, hash::Hash, ops::ControlFlow, sync::Arc, time::Instant};

use parking_lot::{Mutex, RwLock};

pub use self::retained::{Amount, Cursor, RetainedLimits, RetainedPage};
use self::{
    retained::Retained,
    subscribers::{Subscriber, Subscribers},
    trie::Trie,
};
use crate::{
    admission::QuotaKind,
    auth::{Access, Operation, Principal},
    mqtt::{
        broker::outbox::{Outbox, SessionId},
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Reason, Subscription},
            topic::TopicFilter,
        },
        shadow::topics,
    },
    shadow::ShadowKey,
};

/// What a message is, which decides who gets it and what becomes of it at a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// An ordinary message.
    Ordinary {
        /// The session that published it; none if the service did.
        from: Option<SessionId>,
    },
    /// An event of the change at `seq` in the journal.
    Event {
        /// Its journal sequence.
        seq: u64,
    },
    /// An event of the change at `seq` in the journal that `by` asked for, which comes before the reply.
    Change {
        /// The session that asked.
        by: SessionId,
        /// Its journal sequence.
        seq: u64,
    },
    /// A shadow's document as it is at `seq` in the journal.
    Document {
        /// Its journal sequence.
        seq: u64,
    },
    /// Whether a device is connected: noted in the outboxes, to be sent as it is then.
    Presence {
        /// The number of the change.
        number: u64,
    },
    /// The reply to a request of `to`: for that session never dropped; for others an event if it tells of a change,
    /// else an ordinary message.
    Reply {
        /// The session that asked.
        to: SessionId,
        /// The journal sequence of the change it tells.
        seq: Option<u64>,
    },
    /// A reply that only `to` gets, if it subscribed to the topic.
    Private {
        /// The session that asked.
        to: SessionId,
    },
    /// What all but `than` are told of the reply that it got: an ordinary message.
    Others {
        /// The session that asked.
        than: SessionId,
    },
}

/// Something published, of which each reader is told what it may know: the one place where rights decide on a delivery.
pub trait Publication {
    /// Where it is published.
    fn topic(&self) -> &str;

    /// The message for `session`, which has `access`; `None`: it may not receive it, or there is nothing to tell it.
    fn told_to(&self, session: SessionId, access: &Access) -> Option<Arc<Message>>;
}

/// An ordinary message: everybody who may receive its topic is told the same.
impl Publication for Arc<Message> {
    fn topic(&self) -> &str {
        self.topic.as_str()
    }

    fn told_to(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        access.may_receive(self.topic()).then(|| Arc::clone(self))
    }
}

/// Whether a subscription is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// The session had no subscription with this filter.
    New,
    /// It took the place of the session's earlier one with the same filter.
    Replaced,
}

/// The subscriptions of all sessions, and the retained messages.
#[derive(Debug)]
pub struct Router {
    /// Changed by connections as they subscribe; read by everyone who publishes.
    filters: RwLock<Filters>,
    retained: Mutex<Retained>,
}

#[derive(Debug, Default)]
struct Filters {
    exact: HashMap<Arc<str>, Subscribers>,
    wildcard: Trie,
}

impl Router {
    /// A router without subscriptions that retains messages within `limits`.
    #[must_use]
    pub fn new(limits: RetainedLimits) -> Self {
        Self { filters: RwLock::default(), retained: Mutex::new(Retained::new(limits)) }
    }

    /// Adds or replaces the subscription of `subscriber` with this filter.
    ///
    /// # Errors
    ///
    /// [`Reason::QUOTA_EXCEEDED`] if the filter has wildcards and more than 64 levels.
    pub fn subscribe(
        &self,
        subscriber: &Arc<Outbox>,
        subscription: &Subscription,
        subscription_id: Option<u32>,
    ) -> Result<SubscriptionChange, Reason> {
        let filter = &subscription.filter;
        if is_wildcard(filter) && filter.as_str().split('/').count() > trie::LEVELS_MAX {
            return Err(Reason::QUOTA_EXCEEDED);
        }
        let subscriber = Subscriber::new(subscriber, subscription, subscription_id);
        let existed = self.filters.write().entry(filter).insert(filter, subscriber);
        Ok(if existed { SubscriptionChange::Replaced } else { SubscriptionChange::New })
    }

    /// Ends a subscription. Returns whether there was one.
    pub fn unsubscribe(&self, session: SessionId, filter: &TopicFilter) -> bool {
        self.filters.write().remove(session, filter)
    }

    /// Ends the subscriptions of a session that ends.
    pub fn remove<'a>(&self, session: SessionId, filters: impl IntoIterator<Item = &'a TopicFilter>) {
        for filter in filters {
            self.unsubscribe(session, filter); // one lock each: publishers get in between
        }
    }

    /// Retains `message`, which `by` publishes, in the place of what its topic has; to be called before
    /// [`Router::tell`].
    ///
    /// # Errors
    ///
    /// The quota that it is above; nothing was changed.
    pub fn retain(&self, message: &Arc<Message>, by: &Principal) -> Result<(), QuotaKind> {
        self.retained.lock().store(message, by, Instant::now())
    }

    /// Queues what is told of `publication` towards every session that is to have it. Returns how many those are.
    pub fn tell(&self, publication: &impl Publication, class: DeliveryKind) -> usize {
        let filters = self.filters.read();
        let mut found = MatchedFilters::default();
        let _ = filters.visit(publication.topic(), |subscribers| {
            found.add(subscribers);
            ControlFlow::Continue(())
        });
        let route = Route { publication, class, share: None };
        let own = if found.more.is_empty() {
            found.all().flat_map(Subscribers::own).map(|subscriber| route.deliver(&[subscriber])).sum()
        } else {
            route.deliver_once_each(found.all().flat_map(Subscribers::own))
        };
        let groups = found.all().flat_map(Subscribers::groups);
        own + groups.map(|group| route.deliver_to_one(group)).sum::<usize>()
    }

    /// Queues `delivery` of a shared subscription, which a session that ended had not acknowledged, towards another member
    /// of its group. The session is not in the router any more; `former` is what it could read.
    pub fn hand_over(&self, delivery: &Delivery, former: &Access) {
        let filters = self.filters.read();
        let (message, class) = (&delivery.message, DeliveryKind::Ordinary { from: None });
        let publication = OrphanedMessage { message, former, key: topics::shadow_of(message.topic.as_str()) };
        let route = Route { publication: &publication, class, share: None };
        let _ = filters.visit(message.topic.as_str(), |subscribers| {
            let mut groups = subscribers.groups().filter(|group| delivery.share.as_ref() == Some(group.filter()));
            groups.next().map_or(ControlFlow::Continue(()), |group| {
                route.deliver_to_one(group);
                ControlFlow::Break(())
            })
        });
    }

    /// The retained messages that `filter` selects and `subscriber` may receive, some at a time: from the beginning, or
    /// from where an earlier page ended. Shared subscriptions get none.
    #[must_use]
    pub fn retained(&self, subscriber: &Outbox, filter: &TopicFilter, from: Cursor) -> RetainedPage {
        if filter.share().is_some() {
            return RetainedPage::default();
        }
        let mut page = self.retained.lock().page(filter, from, Instant::now());
        subscriber.with_access(|access| page.messages.retain(|message| access.may_receive(message.topic.as_str())));
        page
    }

    /// How the session's own subscriptions select `topic`, for what is sent to it past the queue; `None`: not at all.
    #[must_use]
    pub fn selection(&self, outbox: &Outbox, topic: &str) -> Option<Selection> {
        let filters = self.filters.read();
        let mut selection: Option<Selection> = None;
        let _ = filters.visit(topic, |subscribers| {
            for subscriber in subscribers.own().filter(|subscriber| subscriber.outbox.id() == outbox.id()) {
                selection.get_or_insert_default().add(subscriber);
            }
            ControlFlow::Continue(())
        });
        selection
    }

    /// Returns the message that `topic` retains, and when it was published.
    #[must_use]
    pub fn retained_on(&self, topic: &str) -> Option<(Arc<Message>, Instant)> {
        self.retained.lock().on(topic, Instant::now())
    }

    /// Returns retained messages, at most `limit`, of the topics after `topic` or from the first one on, in an order
    /// that only a further call needs to know.
    #[must_use]
    pub fn retained_after(&self, topic: Option<&str>, limit: usize) -> Vec<(Arc<Message>, Instant)> {
        self.retained.lock().after(topic, limit, Instant::now())
    }

    /// Whether `message` is still the one its topic retains.
    #[must_use]
    pub fn is_retained(&self, message: &Arc<Message>) -> bool {
        self.retained.lock().holds(message)
    }

    /// How many messages are retained.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.lock().count()
    }
}

impl Filters {
    fn entry(&mut self, filter: &TopicFilter) -> &mut Subscribers {
        if is_wildcard(filter) {
            return self.wildcard.entry(filter);
        }
        self.exact.entry(Arc::clone(filter.text())).or_default()
    }

    fn remove(&mut self, session: SessionId, filter: &TopicFilter) -> bool {
        let take = |subscribers: &mut Subscribers| subscribers.remove(filter.share(), session);
        if is_wildcard(filter) {
            return self.wildcard.remove(filter, take);
        }
        let Some(subscribers) = self.exact.get_mut(filter.as_str()) else { return false };
        let removed = take(subscribers);
        if subscribers.is_empty() {
            self.exact.remove(filter.as_str());
            shrink(&mut self.exact);
        }
        removed
    }

    /// Calls `visit` with the subscribers of each filter that selects `topic`, until it breaks.
    fn visit<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a Subscribers) -> ControlFlow<()>) -> ControlFlow<()> {
        if let Some(subscribers) = self.exact.get(topic) {
            visit(subscribers)?;
        }
        if self.wildcard.is_empty() { ControlFlow::Continue(()) } else { self.wildcard.visit(topic, visit) }
    }
}

/// The subscribers of the filters that select a topic: nearly always those of one filter.
#[derive(Default)]
struct MatchedFilters<'a> {
    first: Option<&'a Subscribers>,
    more: Vec<&'a Subscribers>,
}

impl<'a> MatchedFilters<'a> {
    fn add(&mut self, subscribers: &'a Subscribers) {
        match self.first {
            None => self.first = Some(subscribers),
            Some(_) => self.more.push(subscribers),
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a Subscribers> {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// How the subscriptions of one session select a topic.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    qos: QoS,
    retain_as_published: bool,
    ids: Vec<u32>,
}

impl Selection {
    /// `message` for the session.
    #[must_use]
    pub fn deliver(self, message: Arc<Message>) -> Delivery {
        Delivery {
            qos: self.qos.min(message.qos),
            retain: message.retain && self.retain_as_published,
            message,
            subscription_ids: self.ids.into(),
            share: None,
        }
    }

    /// The highest QoS that they grant.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    fn add(&mut self, subscriber: &Subscriber) {
        self.qos = self.qos.max(subscriber.qos);
        self.retain_as_published |= subscriber.retain_as_published;
        self.ids.extend(subscriber.id.map(u32::from));
    }
}

/// One publication on its way to those who subscribed to its topic.
struct Route<'a, P> {
    publication: &'a P,
    class: DeliveryKind,
    /// The shared subscription that it goes by, if it is not the session's own.
    share: Option<&'a Arc<TopicFilter>>,
}

/// A message that was on its way to a member of a group whose session ended.
struct OrphanedMessage<'a> {
    message: &'a Arc<Message>,
    /// What that member could read.
    former: &'a Access,
    /// The shadow it tells of, if it does.
    key: Option<ShadowKey>,
}

/// Part of a shadow is told only to whom the same part is to be told.
impl Publication for OrphanedMessage<'_> {
    fn topic(&self) -> &str {
        self.message.topic.as_str()
    }

    fn told_to(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        let part = |access: &Access, key| access.projection(key, Operation::Subscribe);
        let may = match &self.key {
            None => access.may_receive(self.topic()),
            Some(key) => part(access, key).is_some_and(|it| Some(it) == part(self.former, key)),
        };
        may.then(|| Arc::clone(self.message))
    }
}

impl<P: Publication> Route<'_, P> {
    /// Delivers once to each session among `subscribers`.
    fn deliver_once_each<'a>(&self, subscribers: impl Iterator<Item = &'a Subscriber>) -> usize {
        let mut all: Vec<&Subscriber> = subscribers.collect();
        all.sort_by_key(|subscriber| subscriber.outbox.id());
        all.chunk_by(|a, b| a.outbox.id() == b.outbox.id()).map(|one| self.deliver(one)).sum()
    }

    fn deliver_to_one(&self, group: &shared::Group) -> usize {
        if let DeliveryKind::Others { than } = self.class
            && group.has(than)
        {
            return 0; // that one was told for all
        }
        // What is made up for later is so by a session's own subscriptions, which this is none of.
        let class = match self.class {
            DeliveryKind::Event { .. } | DeliveryKind::Document { .. } | DeliveryKind::Presence { .. } => {
                DeliveryKind::Ordinary { from: None }
            }
            DeliveryKind::Change { by: to, .. } | DeliveryKind::Reply { to, .. } => {
                DeliveryKind::Reply { to, seq: None }
            }
            class @ (DeliveryKind::Ordinary { .. } | DeliveryKind::Private { .. } | DeliveryKind::Others { .. }) => {
                class
            }
        };
        let route = Route { publication: self.publication, class, share: Some(group.filter()) };
        let told = |outbox: &Outbox| outbox.with_access(|access| self.told_to(outbox, access));
        group.pick(told).map_or(0, |member| route.deliver(&[member]))
    }

    /// Queues the message towards the one session whose subscriptions these are. Returns how many are to have it.
    fn deliver(&self, subscriptions: &[&Subscriber]) -> usize {
        let Some(outbox) = subscriptions.first().map(|first| &*first.outbox) else { return 0 };
        // Queued before its rights can change, since what is queued by then is looked at again.
        outbox.with_access(|access| {
            self.told_to(outbox, access).map_or(0, |message| self.queue(outbox, subscriptions, message))
        })
    }

    fn queue(&self, outbox: &Outbox, subscriptions: &[&Subscriber], message: Arc<Message>) -> usize {
        let own = matches!(self.class, DeliveryKind::Ordinary { from } if from == Some(outbox.id()));
        let selected = || subscriptions.iter().filter(|subscription| !(own && subscription.no_local)); // [MQTT-3.8.3-3]
        let Some(qos) = selected().map(|subscription| subscription.qos).max() else { return 0 };
        let delivery = Delivery {
            qos: qos.min(message.qos), // [MQTT-3.8.4-8]
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            retain: message.retain && selected().any(|subscription| subscription.retain_as_published),
            // [MQTT-3.3.4-3], [MQTT-3.3.4-4]
            subscription_ids: selected().filter_map(|subscription| subscription.id).map(u32::from).collect(),
            share: self.share.cloned(),
            message,
        };
        self.push(outbox, delivery);
        1
    }

    fn push(&self, outbox: &Outbox, delivery: Delivery) {
        match self.class {
            DeliveryKind::Private { .. } => outbox.push_reply(delivery),
            DeliveryKind::Reply { to, .. } if to == outbox.id() => outbox.push_reply(delivery),
            DeliveryKind::Change { by, seq } if by == outbox.id() => outbox.push_own_event(delivery, seq),
            DeliveryKind::Event { seq }
            | DeliveryKind::Change { seq, .. }
            | DeliveryKind::Reply { seq: Some(seq), .. } => outbox.push_event(delivery, seq),
            DeliveryKind::Presence { number } => outbox.mark_presence(&delivery.message.topic, number),
            DeliveryKind::Document { seq } => outbox.push_document(delivery, seq),
            DeliveryKind::Ordinary { .. } | DeliveryKind::Others { .. } | DeliveryKind::Reply { seq: None, .. } => {
                let is_notice = self.share.is_none() && topics::is_service(delivery.message.topic.as_str());
                if is_notice { outbox.push_notice(delivery) } else { outbox.push_ordinary(delivery) }
            }
        }
    }

    /// The message for the session of `outbox`, which has `access`, if it is for it at all.
    fn told_to(&self, outbox: &Outbox, access: &Access) -> Option<Arc<Message>> {
        match self.class {
            DeliveryKind::Private { to } if to != outbox.id() => None,
            DeliveryKind::Others { than } if than == outbox.id() => None,
            _ => self.publication.told_to(outbox.id(), access),
        }
    }
}

fn is_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}

/// Gives back the memory of a table most of whose entries are gone.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > TABLE_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// A table up to this many entries is left as it is.
const TABLE_KEPT: usize = 64;
