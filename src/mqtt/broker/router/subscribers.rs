//! The subscribers of one filter: sessions on their own, and shared groups.
//!
//! A session is there once for its subscription with this filter, and once for each subscription that was narrowed to
//! this filter ([`super::narrowed`]). A group is there for all its members whose subscriptions were narrowed to this filter.
//!
//! Sessions without a connection are apart. They look up what they missed, from the journal and the table of presence, when
//! they return, so events pass them over: a session that nobody comes back for costs publishers nothing.
//!
//! Nearly all filters of a fleet have exactly one subscriber, so one is stored in place. Two or more are in a map by
//! session, since all sessions may have the same filter, and each may subscribe and unsubscribe at any time.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use crate::{
    auth::Access,
    mqtt::{
        broker::{
            outbox::{Outbox, SessionId},
            router::shared::Group,
        },
        protocol::{
            packet::{QoS, Subscription},
            topic::TopicFilter,
        },
    },
};

/// The subscribers of one filter.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    own: SubscriberSet,
    #[expect(clippy::box_collection, reason = "nearly always none, and there is one for each filter")]
    groups: Option<Box<BTreeMap<Arc<TopicFilter>, Box<Group>>>>,
    absent: Option<Box<SubscriberSet>>,
}

/// A session and the number of its narrowed subscription.
type SubscriberKey = (SessionId, u8);

/// One session's subscription.
#[derive(Clone, Debug)]
pub(super) struct Subscriber {
    pub(super) outbox: Arc<Outbox>,
    /// MQTT 5 subscription identifier.
    pub(super) id: Option<NonZeroU32>,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    /// The number of the session's narrowed subscription; 0 for one with the filter as it is.
    pub(super) narrowed: u8,
}

/// Subscribers by their keys.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "rare, and it would make the common variant larger")]
enum SubscriberSet {
    #[default]
    None,
    One(Subscriber),
    Many(Box<BTreeMap<SubscriberKey, Subscriber>>),
}

impl Subscriber {
    pub(super) fn new(outbox: &Arc<Outbox>, subscription: &Subscription, id: Option<u32>) -> Self {
        Self {
            outbox: Arc::clone(outbox),
            id: id.and_then(NonZeroU32::new),
            qos: subscription.qos,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            narrowed: 0,
        }
    }

    /// Returns true if `other` is of the same subscription, found by another of its filters.
    pub(super) fn is_same_narrowed(&self, other: &Self) -> bool {
        self.narrowed != 0 && self.key() == other.key()
    }

    /// Returns the session and the number of its narrowed subscription.
    pub(super) fn key(&self) -> SubscriberKey {
        (self.outbox.id(), self.narrowed)
    }
}

impl Subscribers {
    /// Adds a subscriber outside groups, and replaces that of the same session [MQTT-3.8.4-3]. Returns true if one was
    /// replaced.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        let was_absent = self.take_absent(subscriber.key()).is_some();
        self.own.insert(subscriber) || was_absent
    }

    /// Adds or replaces a member, which has `access`, of the group with the filter that its client sent.
    pub(super) fn join(&mut self, filter: &TopicFilter, subscriber: Subscriber, access: &Access) {
        let groups = self.groups.get_or_insert_default();
        if let Some(group) = groups.get_mut(filter) {
            return group.insert(subscriber, access);
        }
        let mut group = Box::new(Group::new(filter));
        group.insert(subscriber, access);
        groups.insert(Arc::clone(group.filter()), group);
    }

    /// Removes the subscriber of the session with the filter that its client sent, of its narrowed subscription with this
    /// number. Returns true if there was one.
    pub(super) fn remove(&mut self, filter: &TopicFilter, session: SessionId, narrowed: u8) -> bool {
        if filter.share().is_none() {
            return self.own.remove((session, narrowed)) || self.take_absent((session, narrowed)).is_some();
        }
        let Some(groups) = &mut self.groups else { return false };
        let Some(group) = groups.get_mut(filter) else { return false };
        let removed = group.remove(session);
        if group.is_empty() {
            groups.remove(filter);
        }
        if groups.is_empty() {
            self.groups = None;
        }
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.groups.is_none() && self.absent.is_none()
    }

    /// Returns the subscriber if there is at most one, connected and outside groups; `None` if there may be others.
    pub(super) fn only(&self) -> Option<Option<&Subscriber>> {
        let only = match &self.own {
            SubscriberSet::None => None,
            SubscriberSet::One(one) => Some(one),
            SubscriberSet::Many(_) => return None,
        };
        (self.groups.is_none() && self.absent.is_none()).then_some(only)
    }

    /// Iterates over the connected subscribers outside groups, in the order of their session ids.
    pub(super) fn own(&self) -> impl Iterator<Item = &Subscriber> {
        self.own.after(None)
    }

    /// Iterates over the connected subscribers outside groups of the sessions after `after`, in the order of their ids.
    pub(super) fn own_after(&self, after: Option<SessionId>) -> impl Iterator<Item = &Subscriber> {
        self.own.after(after)
    }

    /// Iterates over the subscribers outside groups that have no connection, of the sessions after `after`, in the order
    /// of their ids.
    pub(super) fn absent_after(&self, after: Option<SessionId>) -> impl Iterator<Item = &Subscriber> {
        self.absent.iter().flat_map(move |absent| absent.after(after))
    }

    /// Returns the number of connected subscribers outside groups.
    pub(super) fn own_count(&self) -> usize {
        self.own.len()
    }

    /// Returns the number of subscribers outside groups that have no connection.
    pub(super) fn absent_count(&self) -> usize {
        self.absent.as_ref().map_or(0, |absent| absent.len())
    }

    /// Iterates over the subscribers of one session outside groups.
    pub(super) fn own_of(&self, session: SessionId) -> impl Iterator<Item = &Subscriber> {
        self.own.of(session).chain(self.absent_of(session))
    }

    /// Iterates over the subscribers of one session outside groups, if it has no connection.
    pub(super) fn absent_of(&self, session: SessionId) -> impl Iterator<Item = &Subscriber> {
        self.absent.iter().flat_map(move |absent| absent.of(session))
    }

    /// Marks the subscriber of the session with the filter that its client sent as connected or not.
    pub(super) fn set_connected(&mut self, filter: &TopicFilter, session: SessionId, narrowed: u8, connected: bool) {
        if filter.share().is_some() {
            let group = self.groups.as_mut().and_then(|groups| groups.get_mut(filter));
            return group.into_iter().for_each(|group| group.set_connected(session, connected));
        }
        let key = (session, narrowed);
        if connected {
            if let Some(subscriber) = self.take_absent(key) {
                self.own.insert(subscriber);
            }
        } else if let Some(subscriber) = self.own.take(key) {
            self.absent.get_or_insert_default().insert(subscriber);
        }
    }

    fn take_absent(&mut self, key: SubscriberKey) -> Option<Subscriber> {
        let absent = self.absent.as_mut()?;
        let taken = absent.take(key);
        if absent.is_empty() {
            self.absent = None;
        }
        taken
    }

    /// Iterates over the shared groups.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().flat_map(|groups| groups.values()).map(|group| &**group)
    }

    /// Returns the shared group with the filter that its clients sent.
    pub(super) fn group(&self, filter: &TopicFilter) -> Option<&Group> {
        self.groups.as_ref()?.get(filter).map(|group| &**group)
    }
}

/// Returns the bound after all subscribers of `session`.
fn beyond(session: Option<SessionId>) -> Bound<SubscriberKey> {
    session.map_or(Bound::Unbounded, |session| Bound::Excluded((session, u8::MAX)))
}

impl SubscriberSet {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(all) => all.len(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Iterates over the subscribers of the sessions after `after`, in the order of their ids.
    fn after(&self, after: Option<SessionId>) -> impl Iterator<Item = &Subscriber> {
        self.within((beyond(after), Bound::Unbounded))
    }

    /// Iterates over the subscribers of one session.
    fn of(&self, session: SessionId) -> impl Iterator<Item = &Subscriber> {
        self.within((Bound::Included((session, 0)), Bound::Included((session, u8::MAX))))
    }

    fn within(&self, keys: (Bound<SubscriberKey>, Bound<SubscriberKey>)) -> impl Iterator<Item = &Subscriber> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (keys.contains(&one.key()).then_some(one), None),
            Self::Many(all) => (None, Some(all.range(keys))),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|(_, subscriber)| subscriber))
    }

    fn insert(&mut self, subscriber: Subscriber) -> bool {
        match self {
            Self::None => {
                *self = Self::One(subscriber);
                false
            }
            Self::One(one) if one.key() == subscriber.key() => {
                *one = subscriber;
                true
            }
            Self::One(one) => {
                let both = [one.clone(), subscriber].map(|subscriber| (subscriber.key(), subscriber));
                *self = Self::Many(Box::new(BTreeMap::from(both)));
                false
            }
            Self::Many(all) => all.insert(subscriber.key(), subscriber).is_some(),
        }
    }

    fn remove(&mut self, key: SubscriberKey) -> bool {
        self.take(key).is_some()
    }

    fn take(&mut self, key: SubscriberKey) -> Option<Subscriber> {
        match std::mem::take(self) {
            Self::One(one) if one.key() == key => Some(one),
            Self::Many(mut all) => {
                let taken = all.remove(&key);
                *self = match all.len() {
                    1 => all.pop_first().map_or(Self::None, |(_, last)| Self::One(last)),
                    _ => Self::Many(all),
                };
                taken
            }
            other => {
                *self = other;
                None
            }
        }
    }
}
