//! Shared subscriptions: each message goes to one member of the group.
//!
//! Members take turns. A member that may not read the topic is always skipped. A member whose window is full, or that
//! would drop or defer the message, is skipped while a better one is known. When a member's session ends, its
//! unacknowledged deliveries go to another member ([`super::Router::hand_over`]).
//!
//! A publication visits few members, however many are blocked, absent or without the right to read: [`turns`] keeps
//! those that are ready apart from the others, and [`pick`] visits them. The filters of members are narrowed to their
//! rights, as those of sessions on their own ([`super::narrowed`]), so the members of one group may be at several filters that
//! select a topic.
//!
//! Such a delivery is queued as an ordinary message, even of a shadow event, since a resync covers a session's own
//! subscriptions only.

mod pick;
mod turns;

use std::sync::Arc;

use parking_lot::Mutex;

#[cfg(test)]
pub(super) use self::pick::visits;
pub(super) use self::pick::{Prospect, pick};
use self::turns::Turns;
use crate::{
    auth::Access,
    mqtt::{
        broker::{outbox::SessionId, router::subscribers::Subscriber},
        protocol::topic::TopicFilter,
    },
};

/// The members of a group at one filter of the router.
#[derive(Debug)]
pub(super) struct Group {
    /// As the clients sent it.
    filter: Arc<TopicFilter>,
    /// Publishers change the order of the members under the router's read lock.
    turns: Mutex<Turns>,
}

impl Group {
    /// Returns a group without members. Clients subscribed with `filter`.
    pub(super) fn new(filter: &TopicFilter) -> Self {
        Self { filter: Arc::new(filter.clone()), turns: Mutex::default() }
    }

    /// Returns the filter with the group's name, as the clients sent it.
    pub(super) fn filter(&self) -> &Arc<TopicFilter> {
        &self.filter
    }

    /// Adds or replaces a member, which has `access` and a connection.
    pub(super) fn insert(&mut self, subscriber: Subscriber, access: &Access) {
        self.turns.get_mut().insert(subscriber, access);
    }

    /// Removes a member. Returns true if the session was one.
    pub(super) fn remove(&mut self, session: SessionId) -> bool {
        self.turns.get_mut().remove(session)
    }

    /// Marks a member as connected or not.
    pub(super) fn set_connected(&mut self, session: SessionId, connected: bool) {
        self.turns.get_mut().set_connected(session, connected);
    }

    /// Returns true if a member's session outlives its connection.
    pub(super) fn has_kept_member(&self) -> bool {
        self.turns.lock().members().any(|member| member.outbox.is_kept())
    }

    /// Returns true if there are no members.
    pub(super) fn is_empty(&mut self) -> bool {
        self.turns.get_mut().is_empty()
    }
}
