//! The router: finds the subscribers of a topic and queues the message for each of them.
//!
//! One [`Router`] serves all connections and the notifier. Filters without wildcards, nearly all of a fleet's, are in
//! one hash table whose keys share their text with the session's own filter. The others are in a trie by level. No
//! operation visits all filters or all topics.
//!
//! A publisher holds the read lock while it queues, so that a session which unsubscribed gets nothing any more. It lets
//! others that wait for the lock go first after each batch ([`batches`]). Events of one shadow reach each outbox in the order of
//! publication, since one thread publishes them. Outboxes never call back. A subscription is active when [`Router::subscribe`] returns, and a retained
//! message is stored before it is routed. A client that subscribes and then reads the retained messages misses none,
//! and may get one twice.
//!
//! A session gets a message once, however many of its own filters select it, at the highest QoS they grant and with all
//! their identifiers. A shared subscription is a separate delivery, queued as an ordinary message whatever its topic.
//!
//! Not here: shadow events and documents ([`crate::mqtt::shadow`]), the limit of filters per session
//! ([`super::filters`]), and encoding ([`crate::mqtt::protocol::message`]).

mod batches;
mod cluster_groups;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod narrowed;
mod retained;
mod route;
mod shared;
mod subscribers;
#[cfg(test)]
mod tests;
mod trie;

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::Instant,
};

use parking_lot::{Mutex, RwLock};

pub use self::retained::{Cursor, ListedRetained, RetainedBatch, RetainedPage, VisibleRetained};
use self::{
    cluster_groups::{ClusterGroups, GroupReceivers},
    narrowed::{NarrowedSubscriptions, within},
    retained::Retained,
    route::{AbsentReceivers, MatchedFilters, OrphanedMessage, Route},
    shared::Group,
    subscribers::{Subscriber, Subscribers},
    trie::Trie,
};
use crate::{
    admission::{PrincipalQuota, QuotaKind},
    auth::Access,
    mqtt::{
        broker::{
            durable::Recorder,
            narrowing::{is_wildcard, narrowed},
            outbox::{Outbox, SessionId},
        },
        protocol::{
            message::{Delivery, Message},
            packet::{QoS, Reason, Subscription},
            topic::TopicFilter,
        },
        shadow::topics,
    },
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

    /// Returns true if a session without a connection keeps it until its client returns.
    fn is_kept_for_absent(&self) -> bool {
        true
    }

    /// Returns true if the message for `session` depends on more than its rights.
    fn is_individual(&self, _session: SessionId) -> bool {
        false
    }
}

/// An ordinary message, which is the same for all clients that may receive its topic.
impl Publication for Arc<Message> {
    fn topic(&self) -> &str {
        self.topic.as_str()
    }

    fn message_for(&self, _: SessionId, access: &Access) -> Option<Arc<Message>> {
        access.may_receive(self.topic()).then(|| Arc::clone(self))
    }

    fn is_kept_for_absent(&self) -> bool {
        self.qos != QoS::AtMostOnce && !self.is_momentary()
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
    recorder: Recorder,
    cluster: OnceLock<ClusterGroups>,
}

#[derive(Debug, Default)]
struct Filters {
    exact: HashMap<Arc<str>, Subscribers>,
    wildcard: Trie,
    narrowed: NarrowedSubscriptions,
}

impl Router {
    /// Returns a router without subscriptions, whose retained messages are kept by `recorder`.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self { retained: Mutex::new(Retained::new(recorder.clone())), recorder, ..Self::default() }
    }

    /// Returns the way of the state that survives a restart to the store.
    pub(in crate::mqtt) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Returns true if a session that outlives its connection has a subscription that selects `topic`.
    pub(in crate::mqtt) fn has_kept_subscriber(&self, topic: &str) -> bool {
        let filters = self.filters.read();
        let found = filters.matching(topic);
        let mut kept = found.all().flat_map(|subscribers| subscribers.own().chain(subscribers.absent_after(None)));
        kept.any(|subscriber| subscriber.outbox.is_kept())
            || found.all().flat_map(Subscribers::groups).any(Group::has_kept_member)
    }

    /// Retains a message that a row of the store has, since the date `date_ms`, of the principal with the quota `by`.
    pub fn restore_retained(&self, message: Arc<Message>, date_ms: u64, by: Arc<PrincipalQuota>) {
        self.retained.lock().restore(message, date_ms, by);
    }

    /// Retains a message that all nodes of a cluster retain, of the principal with the quota `by`.
    pub fn retain_shared(&self, message: &Arc<Message>, date_ms: u64, by: Arc<PrincipalQuota>) {
        self.retained.lock().share(message, date_ms, by);
    }

    /// Checks that a message may be retained, which all nodes of a cluster do later.
    ///
    /// # Errors
    ///
    /// The quota that the message would exceed.
    pub fn check_retained(&self, message: &Message, by: &Arc<PrincipalQuota>) -> Result<(), QuotaKind> {
        self.retained.lock().check(message, by, Instant::now())
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
        let outbox = subscriber;
        let subscriber = Subscriber::new(outbox, subscription, subscription_id);
        let existed = loop {
            let access = (is_wildcard(filter) || filter.share().is_some()).then(|| outbox.access());
            let within = access.clone().and_then(|access| within(&access, filter).map(|within| (access, within)));
            let mut filters = self.filters.write();
            // Rights that change after this narrow the filter again.
            if access.is_none_or(|access| outbox.with_access(|now| now.is_same(&access))) {
                break filters.subscribe(filter, subscriber, within);
            }
        };
        self.note_member(outbox.id(), filter, !outbox.is_kept());
        Ok(if existed { SubscriptionChange::Replaced } else { SubscriptionChange::New })
    }

    /// Removes a subscription. Returns true if it existed.
    pub fn unsubscribe(&self, session: SessionId, filter: &TopicFilter) -> bool {
        self.note_member(session, filter, false);
        self.filters.write().unsubscribe(session, filter)
    }

    /// Marks the subscriptions of a session with these filters as connected or not. Until it is connected again, events
    /// pass it over, and the other members of its groups come first.
    ///
    /// A session is marked as connected before its resync begins, and as not connected after its outbox was detached.
    pub fn set_connected(
        &self,
        session: SessionId,
        filters: impl IntoIterator<Item = impl Borrow<TopicFilter>>,
        connected: bool,
    ) {
        for filter in filters {
            self.filters.write().set_connected(session, filter.borrow(), connected); // one lock per filter, as above
        }
    }

    /// Removes the subscriptions of a session that ends.
    pub fn remove(&self, session: SessionId, filters: impl IntoIterator<Item = impl Borrow<TopicFilter>>) {
        for filter in filters {
            self.unsubscribe(session, filter.borrow()); // one lock per filter, so that publishers do not wait for all
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
        self.publish_for(publication, kind, self.receivers_of(kind, publication.topic()))
    }

    fn publish_for(&self, publication: &impl Publication, kind: DeliveryKind, groups: GroupReceivers<'_>) -> usize {
        let filters = self.filters.read();
        let found = filters.matching(publication.topic());
        let route = Route::new(publication, kind, found.only().is_some(), groups);
        if let DeliveryKind::Private { to } = kind {
            // It is for the session whatever its rights, which its filters may have been narrowed to.
            let own = found.all().flat_map(|subscribers| subscribers.own_of(to));
            let own = own.chain(filters.narrowed.selecting(to, publication.topic()));
            return route.deliver_once_each(own) + route.deliver_as_member(&filters, to);
        }
        if let Some(one) = found.only() {
            return one.map_or(0, |subscriber| route.deliver(&[subscriber]));
        }
        let absent = AbsentReceivers::of(kind, publication);
        if batches::are_many(&found, absent) {
            return route.deliver_in_batches(filters, absent);
        }
        let own = found.all().flat_map(|subscribers| subscribers.own().chain(absent.among(subscribers)));
        let own = if found.is_one_filter() { route.deliver_in_order(own) } else { route.deliver_once_each(own) };
        own + route.deliver_to_groups(&filters, &found)
    }

    /// Queues an unacknowledged `delivery` of a shared subscription for another member of its group, after its session
    /// ended. The session has been removed from the router; `former` are the rights it had. Returns false if there is none.
    pub fn hand_over(&self, delivery: &Delivery, former: &Access) -> bool {
        let message = &delivery.message;
        let publication = OrphanedMessage { message, former, key: topics::shadow_of(message.topic.as_str()) };
        delivery.share.as_ref().is_some_and(|filter| self.deliver_to_group(&publication, filter))
    }

    /// Queues an ordinary `publication` for a member of the group with this filter. Returns false if none may receive it.
    pub fn deliver_to_group(&self, publication: &impl Publication, filter: &Arc<TopicFilter>) -> bool {
        let filters = self.filters.read();
        let kind = DeliveryKind::Ordinary { from: None };
        let route = Route::new(publication, kind, false, GroupReceivers::All);
        let found = filters.matching(publication.topic());
        let parts: Vec<&Group> = found.all().filter_map(|subscribers| subscribers.group(filter)).collect();
        route.deliver_to_one(&filters, &parts) > 0
    }

    /// Returns a page of the retained messages that `filter` selects and `subscriber` may receive, from `from` on.
    /// Shared subscriptions get none.
    #[must_use]
    pub fn retained(&self, subscriber: &Outbox, filter: &TopicFilter, from: Cursor) -> RetainedPage {
        if filter.share().is_some() {
            return RetainedPage::default();
        }
        let narrow = subscriber.with_access(|access| narrowed(access, filter));
        let filters = narrow.as_deref().unwrap_or(std::slice::from_ref(filter));
        let mut page = self.retained.lock().page(filters, from, Instant::now());
        subscriber.with_access(|access| page.messages.retain(|message| access.may_receive(message.topic.as_str())));
        page
    }

    /// Returns how the session's own subscriptions select `topic`, for deliveries that bypass the queue; `None` if they
    /// do not select it.
    #[must_use]
    pub fn selection(&self, outbox: &Outbox, topic: &str) -> Option<Selection> {
        let filters = self.filters.read();
        let (mut selection, mut counted): (Option<Selection>, Vec<u8>) = (None, Vec::new());
        let _ = filters.visit(topic, |subscribers| {
            for subscriber in subscribers.own_of(outbox.id()) {
                if !counted.contains(&subscriber.narrowed) {
                    selection.get_or_insert_default().add(subscriber);
                    counted.extend(Some(subscriber.narrowed).filter(|number| *number != 0));
                }
            }
            ControlFlow::Continue(())
        });
        selection
    }

    /// Returns the retained message of `topic`, and the date when it was published, in milliseconds.
    #[must_use]
    pub fn retained_on(&self, topic: &str) -> Option<(Arc<Message>, u64)> {
        self.retained.lock().on(topic, Instant::now())
    }

    /// Returns the retained messages that a client with `access` may receive, of the topics after `topic`, or from the
    /// first topic on. The order is only meaningful for the next call.
    #[must_use]
    pub fn visible_retained<'a>(&'a self, access: &'a Access, topic: Option<&str>) -> VisibleRetained<'a> {
        VisibleRetained::new(&self.retained, access, topic)
    }

    /// Returns at most `limit` retained messages of the topics that begin with `prefix`, after `topic`, for an operator. The
    /// order is only meaningful for the next call.
    #[must_use]
    pub fn list_retained(&self, topic: Option<&str>, prefix: &str, limit: usize) -> Vec<ListedRetained> {
        self.retained.lock().list(topic, prefix, limit, Instant::now())
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

    /// Removes the subscriber with the filter `sent` by its client from the filter `at`, of the session's narrowed
    /// subscription with this number. Returns true if it was there.
    fn remove(&mut self, session: SessionId, at: &TopicFilter, sent: &TopicFilter, narrowed: u8) -> bool {
        let take = |subscribers: &mut Subscribers| subscribers.remove(sent, session, narrowed);
        if is_wildcard(at) {
            return self.wildcard.remove(at, take);
        }
        let Some(subscribers) = self.exact.get_mut(at.as_str()) else { return false };
        let removed = take(subscribers);
        if subscribers.is_empty() {
            self.exact.remove(at.as_str());
            shrink(&mut self.exact);
        }
        removed
    }

    /// Returns the subscribers of the filters that select `topic`.
    fn matching(&self, topic: &str) -> MatchedFilters<'_> {
        let mut found = MatchedFilters::default();
        let _ = self.visit(topic, |subscribers| {
            found.add(subscribers);
            ControlFlow::Continue(())
        });
        found
    }

    /// Calls `visit` with the subscribers of each filter that selects `topic`, until it breaks.
    fn visit<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a Subscribers) -> ControlFlow<()>) -> ControlFlow<()> {
        if let Some(subscribers) = self.exact.get(topic) {
            visit(subscribers)?;
        }
        if self.wildcard.is_empty() { ControlFlow::Continue(()) } else { self.wildcard.visit(topic, visit) }
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
            row: None,
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

/// Frees the memory of a table that has lost most of its entries.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > TABLE_KEPT && table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2);
    }
}

/// Capacity up to which a table is not shrunk.
const TABLE_KEPT: usize = 64;
