//! A shared subscription: each message goes to one member of the group.
//!
//! Members take turns. One that may not read the topic is passed over always; one whose window is full, that would drop
//! the message or keep it for later, only as long as another is not. When a member's session ends, what it had not
//! acknowledged goes to another member ([`super::Router::hand_over`]).
//!
//! To its member such a delivery is an ordinary message whatever it tells, since the journal is walked for a session's
//! own subscriptions only.

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
    /// The member that had the last message, changed by publishers under the router's read lock. Two that race may
    /// give both messages to the same member.
    last: AtomicU64,
}

impl Group {
    /// A group without members on `filter`.
    pub(super) fn new(filter: &TopicFilter) -> Self {
        Self { filter: Arc::new(filter.clone()), members: BTreeMap::new(), last: AtomicU64::new(0) }
    }

    /// The filter with the group's name.
    pub(super) fn filter(&self) -> &Arc<TopicFilter> {
        &self.filter
    }

    /// Returns whether the session was a member already.
    pub(super) fn insert(&mut self, subscriber: Subscriber) -> bool {
        self.members.insert(subscriber.outbox.id(), subscriber).is_some()
    }

    /// Returns whether the session was a member.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        self.members.remove(&session).is_some()
    }

    /// Whether the session is a member.
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.members.contains_key(&session)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member whose turn it is, of those that are `told` anything.
    pub(super) fn pick(&self, told: impl Fn(&Outbox) -> Option<Arc<Message>>) -> Option<&Subscriber> {
        let last = SessionId(self.last.load(Ordering::Relaxed));
        let after = self.members.range((Bound::Excluded(last), Bound::Unbounded));
        let turn = after.chain(self.members.range(..=last)).map(|(_, member)| member);

        let mut best: Option<(Readiness, &Subscriber)> = None;
        for member in turn {
            let Some(message) = told(&member.outbox) else { continue };
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
