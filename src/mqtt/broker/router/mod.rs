//! The router: finds the subscribers of a topic and queues the message for each of them.
//!
//! One [`Router`] serves all connections and the notifier. Filters without wildcards, nearly all of a fleet's, are in
//! one hash table whose keys share their text with the session's own filter. The others are in a trie by level. No
//! operation visits all filters or all topics.
//!
//! A publisher holds the read lock while it queues, so that events of one shadow reach each outbox in the order of
//! publication. Outboxes never call back. A subscription is active when [`Router::subscribe`] returns, and a retained
//! message is stored before it is routed. A client that subscribes and then reads the retained messages misses none,
//! and may get one twice.
//!
//! A session gets a message once, however many of its own filters select it, at the highest QoS they grant and with all
//! their identifiers. A shared subscription is a separate delivery, queued as an ordinary message whatever its topic.
//!
//! Not here: shadow events and documents ([`crate::mqtt::shadow`]), the limit of filters per session
//! ([`super::filters`]), and encoding ([`crate::mqtt::protocol::message`]).

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

pub use self::retained::{Cursor, RetainedPage};
use self::{
    retained::Retained,
    subscribers::{Subscriber, Subscribers},
    trie::Trie,
};
use crate::{
    admission::{PrincipalQuota, QuotaKind},
    auth::{Access, Operation},
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

/// The kind of a published message, which determines its receivers and its treatment at a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// An ordinary message.
    Ordinary {
        /// The session that published it; `None` if no session did.
        from: Option<SessionId>,
    },
    /// An event of the change at `seq` in the journal.
    Event {
        /// Its journal sequence.
        seq: u64,
    },
    /// An event of the change at `seq` in the journal that `by` requested. It precedes the reply.
    Change {
        /// The session that requested the change.
        by: SessionId,
        /// Its journal sequence.
        seq: u64,
    },
    /// A shadow's document at `seq` in the journal.
    Document {
        /// Its journal sequence.
        seq: u64,
    },
    /// A change of a device's presence. It is marked in the outboxes, and the presence at the time of sending is sent.
    Presence {
        /// The number of the change.
        number: u64,
    },
    /// The reply to a request of `to`. For that session it is never dropped. For others it is an event if it reports a
    /// change, else an ordinary message.
    Reply {
        /// The session that made the request.
        to: SessionId,
        /// The journal sequence of the reported change.
        seq: Option<u64>,
    },
    /// A reply for `to` alone, if it subscribed to the topic.
    Private {
        /// The session that made the request.
        to: SessionId,
    },
    /// The counterpart of a private reply, for all sessions other than `than`: an ordinary message.
    Others {
        /// The session that made the request.
        than: SessionId,
    },
}

/// A published message, adapted to the rights of each receiver: the only place where rights decide on a delivery.
pub trait Publication {
    /// Returns the topic of the publication.
    fn topic(&self) -> &str;

    /// Returns the message for `session`, which has `access`; `None` if it may not receive it or nothing is left for
    /// it.
    fn message_for(&self, session: SessionId, access: &Access) -> Option<Arc<Message>>;
}

/// An ordinary message, which is the same for all clients that may receive its topic.
impl Publication for Arc<Message> {
    fn topic(&self) -> &str {
        self.topic.as_str()
    }

    fn message_for(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        access.may_receive(self.topic()).then(|| Arc::clone(self))
    }
}

/// The result of adding a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// The session had no subscription with this filter.
    New,
    /// The subscription replaced the session's earlier one with the same filter.
    Replaced,
}

/// The subscriptions of all sessions, and the retained messages.
#[derive(Debug, Default)]
pub struct Router {
    /// The subscriptions. Connections change them, publishers read them.
    filters: RwLock<Filters>,
    retained: Mutex<Retained>,
}

#[derive(Debug, Default)]
struct Filters {
    exact: HashMap<Arc<str>, Subscribers>,
    wildcard: Trie,
}

impl Router {
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

    /// Removes a subscription. Returns true if it existed.
    pub fn unsubscribe(&self, session: SessionId, filter: &TopicFilter) -> bool {
        self.filters.write().remove(session, filter)
    }

    /// Removes the subscriptions of a session that ends.
    pub fn remove<'a>(&self, session: SessionId, filters: impl IntoIterator<Item = &'a TopicFilter>) {
        for filter in filters {
            self.unsubscribe(session, filter); // one lock per filter, so that publishers do not wait for all
        }
    }

    /// Retains `message`, published by the principal with the quota `by`, and replaces the retained message of its topic. Called before
    /// [`Router::publish`].
    ///
    /// # Errors
    ///
    /// The quota that the message would exceed; nothing is changed.
    pub fn retain(&self, message: &Arc<Message>, by: &Arc<PrincipalQuota>) -> Result<(), QuotaKind> {
        self.retained.lock().store(message, by, Instant::now())
    }

    /// Queues `publication` for every subscriber that may receive it. Returns the number of receivers.
    pub fn publish(&self, publication: &impl Publication, kind: DeliveryKind) -> usize {
        let filters = self.filters.read();
        let mut found = MatchedFilters::default();
        let _ = filters.visit(publication.topic(), |subscribers| {
            found.add(subscribers);
            ControlFlow::Continue(())
        });
        let route = Route { publication, kind, share: None };
        let own = if found.more.is_empty() {
            found.all().flat_map(Subscribers::own).map(|subscriber| route.deliver(&[subscriber])).sum()
        } else {
            route.deliver_once_each(found.all().flat_map(Subscribers::own))
        };
        let groups = found.all().flat_map(Subscribers::groups);
        own + groups.map(|group| route.deliver_to_one(group)).sum::<usize>()
    }

    /// Queues an unacknowledged `delivery` of a shared subscription for another member of its group, after its session
    /// ended. The session has been removed from the router; `former` are the rights it had.
    pub fn hand_over(&self, delivery: &Delivery, former: &Access) {
        let filters = self.filters.read();
        let (message, kind) = (&delivery.message, DeliveryKind::Ordinary { from: None });
        let publication = OrphanedMessage { message, former, key: topics::shadow_of(message.topic.as_str()) };
        let route = Route { publication: &publication, kind, share: None };
        let _ = filters.visit(message.topic.as_str(), |subscribers| {
            let mut groups = subscribers.groups().filter(|group| delivery.share.as_ref() == Some(group.filter()));
            groups.next().map_or(ControlFlow::Continue(()), |group| {
                route.deliver_to_one(group);
                ControlFlow::Break(())
            })
        });
    }

    /// Returns a page of the retained messages that `filter` selects and `subscriber` may receive, from `from` on.
    /// Shared subscriptions get none.
    #[must_use]
    pub fn retained(&self, subscriber: &Outbox, filter: &TopicFilter, from: Cursor) -> RetainedPage {
        if filter.share().is_some() {
            return RetainedPage::default();
        }
        let mut page = self.retained.lock().page(std::slice::from_ref(filter), from, Instant::now());
        subscriber.with_access(|access| page.messages.retain(|message| access.may_receive(message.topic.as_str())));
        page
    }

    /// Returns how the session's own subscriptions select `topic`, for deliveries that bypass the queue; `None` if they
    /// do not select it.
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

    /// Returns the retained message of `topic`, and when it was published.
    #[must_use]
    pub fn retained_on(&self, topic: &str) -> Option<(Arc<Message>, Instant)> {
        self.retained.lock().on(topic, Instant::now())
    }

    /// Returns at most `limit` retained messages of the topics after `topic`, or from the first topic on. The order is
    /// only meaningful for the next call.
    #[must_use]
    pub fn retained_after(&self, topic: Option<&str>, limit: usize) -> Vec<(Arc<Message>, Instant)> {
        self.retained.lock().after(topic, limit, Instant::now())
    }

    /// Returns true if `message` is still the retained message of its topic.
    #[must_use]
    pub fn is_retained(&self, message: &Arc<Message>) -> bool {
        self.retained.lock().holds(message)
    }

    /// Returns the number of retained messages.
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

/// The subscribers of the filters that select a topic. Nearly always one filter does.
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

/// The combined options of one session's subscriptions that select a topic.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    qos: QoS,
    retain_as_published: bool,
    ids: Vec<u32>,
}

impl Selection {
    /// Returns the delivery of `message` to the session.
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

    /// Returns the highest QoS that the subscriptions grant.
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

/// One publication during its routing.
struct Route<'a, P> {
    publication: &'a P,
    kind: DeliveryKind,
    /// The shared subscription of the delivery; `None` for a session's own subscriptions.
    share: Option<&'a Arc<TopicFilter>>,
}

/// A message that a member of a shared group had not acknowledged when its session ended.
struct OrphanedMessage<'a> {
    message: &'a Arc<Message>,
    /// The rights of the former member.
    former: &'a Access,
    /// The shadow of the message, if it is on a shadow topic.
    key: Option<ShadowKey>,
}

/// A shadow message, which was rendered for the former member, goes only to members with the same projection.
impl Publication for OrphanedMessage<'_> {
    fn topic(&self) -> &str {
        self.message.topic.as_str()
    }

    fn message_for(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        let part = |access: &Access, key| access.projection(key, Operation::Subscribe);
        let may = match &self.key {
            None => access.may_receive(self.topic()),
            Some(key) => part(access, key).is_some_and(|it| Some(it) == part(self.former, key)),
        };
        may.then(|| Arc::clone(self.message))
    }
}

impl<P: Publication> Route<'_, P> {
    /// Delivers once to each session in `subscribers`. Returns the number of receivers.
    fn deliver_once_each<'a>(&self, subscribers: impl Iterator<Item = &'a Subscriber>) -> usize {
        let mut all: Vec<&Subscriber> = subscribers.collect();
        all.sort_by_key(|subscriber| subscriber.outbox.id());
        all.chunk_by(|a, b| a.outbox.id() == b.outbox.id()).map(|one| self.deliver(one)).sum()
    }

    fn deliver_to_one(&self, group: &shared::Group) -> usize {
        if let DeliveryKind::Others { than } = self.kind
            && group.has(than)
        {
            return 0; // that member got the reply for the whole group
        }
        // A resync covers a session's own subscriptions only, so events of shared ones are ordinary messages.
        let kind = match self.kind {
            DeliveryKind::Event { .. } | DeliveryKind::Document { .. } | DeliveryKind::Presence { .. } => {
                DeliveryKind::Ordinary { from: None }
            }
            DeliveryKind::Change { by: to, .. } | DeliveryKind::Reply { to, .. } => {
                DeliveryKind::Reply { to, seq: None }
            }
            kind @ (DeliveryKind::Ordinary { .. } | DeliveryKind::Private { .. } | DeliveryKind::Others { .. }) => kind,
        };
        let route = Route { publication: self.publication, kind, share: Some(group.filter()) };
        let message_for = |outbox: &Outbox| outbox.with_access(|access| self.message_for(outbox, access));
        group.pick(message_for).map_or(0, |member| route.deliver(&[member]))
    }

    /// Queues the message for the one session that has these subscriptions. Returns the number of receivers, 0 or 1.
    fn deliver(&self, subscriptions: &[&Subscriber]) -> usize {
        let Some(outbox) = subscriptions.first().map(|first| &*first.outbox) else { return 0 };
        // Queued under the lock of the rights: a change of rights then checks everything queued before it.
        outbox.with_access(|access| {
            self.message_for(outbox, access).map_or(0, |message| self.queue(outbox, subscriptions, message))
        })
    }

    fn queue(&self, outbox: &Outbox, subscriptions: &[&Subscriber], message: Arc<Message>) -> usize {
        let own = matches!(self.kind, DeliveryKind::Ordinary { from } if from == Some(outbox.id()));
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
        match self.kind {
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

    /// Returns the message for the session of `outbox`, which has `access`; `None` if it gets none.
    fn message_for(&self, outbox: &Outbox, access: &Access) -> Option<Arc<Message>> {
        match self.kind {
            DeliveryKind::Private { to } if to != outbox.id() => None,
            DeliveryKind::Others { than } if than == outbox.id() => None,
            _ => self.publication.message_for(outbox.id(), access),
        }
    }
}

fn is_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}

/// Frees the memory of a table that has lost most of its entries.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > TABLE_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// Capacity up to which a table is not shrunk.
const TABLE_KEPT: usize = 64;
