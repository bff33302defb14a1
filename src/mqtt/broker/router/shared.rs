//! Shared subscriptions: each message goes to one member of the group.
//!
//! Members take turns. A member that may not read the topic is always skipped. A member whose window is full, or that
//! would drop or defer the message, is skipped while a better one exists. When a member's session ends, its
//! unacknowledged deliveries go to another member ([`super::Router::hand_over`]).
//!
//! Such a delivery is queued as an ordinary message, even of a shadow event, since a resync covers a session's own
//! subscriptions only.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::mqtt::broker::router::subscribers::Subscriber;
use crate::mqtt::{
    broker::outbox::{Outbox, Readiness, SessionId},
    protocol::{message::Message, topic::TopicFilter},
};

/// The members of a group on one filter.
#[derive(Debug)]
pub(super) struct Group {
    filter: Arc<TopicFilter>,
    members: BTreeMap<SessionId, Subscriber>,
    /// The member that got the last message. Publishers change it under the router's read lock; two that race may give
    /// both messages to the same member.
    last: AtomicU64,
}

impl Group {
    /// Returns a group without members on `filter`.
    pub(super) fn new(filter: &TopicFilter) -> Self {
        Self { filter: Arc::new(filter.clone()), members: BTreeMap::new(), last: AtomicU64::new(0) }
    }

    /// Returns the filter with the group's name.
    pub(super) fn filter(&self) -> &Arc<TopicFilter> {
        &self.filter
    }

    /// Adds or replaces a member. Returns true if the session was a member already.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        self.members.insert(subscriber.outbox.id(), subscriber).is_some()
    }

    /// Removes a member. Returns true if the session was one.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        self.members.remove(&session).is_some()
    }

    /// Returns true if the session is a member.
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.members.contains_key(&session)
    }

    /// Iterates over the members.
    pub(super) fn members(&self) -> impl Iterator<Item = &Subscriber> {
        self.members.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the member whose turn it is, among those for which `message_for` returns a message.
    pub(super) fn pick(&self, message_for: impl Fn(&Outbox) -> Option<Arc<Message>>) -> Option<&Subscriber> {
        let last = SessionId(self.last.load(Ordering::Relaxed));
        let after = self.members.range((Bound::Excluded(last), Bound::Unbounded));
        let turn = after.chain(self.members.range(..=last)).map(|(_, member)| member);

        let mut best: Option<(Readiness, &Subscriber)> = None;
        for member in turn {
            let Some(message) = message_for(&member.outbox) else { continue };
            let readiness = member.outbox.readiness(&message, message.qos.min(member.qos));
            if best.as_ref().is_none_or(|(other, ..)| readiness < *other) {
                best = Some((readiness, member));
            }
            if readiness == Readiness::Now {
                break;
            }
        }
        let (_, member) = best?;
        self.last.store(member.outbox.id().0, Ordering::Relaxed);
        Some(member)
    }
}
