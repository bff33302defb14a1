//! The part of this node in the groups of shared subscriptions of a cluster.
//!
//! A message goes to one node for each group, which its publisher's node chooses or, if it goes through the log, the message itself
//! by its number. Events of shadows are at all nodes: each decides by the number of the change, alike, whether a member of its own receives them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::mqtt::{
    broker::{
        durable::group_row,
        outbox::SessionId,
        replicated::{ReplicatedSessions, group_index::token},
        router::{DeliveryKind, Router},
    },
    protocol::{message::Message, topic::TopicFilter},
};

/// The groups of a cluster, and the members of this node of which other nodes know the number alone: their sessions end with
/// their connections.
pub(super) struct ClusterGroups {
    replicated: Arc<ReplicatedSessions>,
    members: Mutex<HashMap<TopicFilter, BTreeSet<SessionId>>>,
}

/// The groups that receive a publication at this node.
#[derive(Clone, Copy)]
pub(super) enum GroupReceivers<'a> {
    /// All.
    All,
    /// None: it is delivered to groups apart.
    None,
    /// The groups for which the token of an event falls on this node.
    Chosen(&'a ReplicatedSessions, u64),
}

impl GroupReceivers<'_> {
    /// Returns true if a member of the group receives it.
    pub(super) fn contain(self, filter: &TopicFilter) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Chosen(replicated, token) => replicated.is_chosen(filter, token),
        }
    }
}

impl Router {
    /// Makes this router one of a cluster. Called once, before the first subscription.
    pub(in crate::mqtt::broker) fn join_cluster(&self, replicated: Arc<ReplicatedSessions>) {
        let _is_the_first = self.cluster.set(ClusterGroups { replicated, members: Mutex::default() });
    }

    /// Queues `message` for every subscriber outside groups that may receive it. Returns the number of receivers.
    pub(in crate::mqtt::broker) fn publish_outside_groups(&self, message: &Arc<Message>, kind: DeliveryKind) -> usize {
        self.publish_for(message, kind, GroupReceivers::None)
    }

    /// Writes again the numbers of members of this node: another one has not heard of it.
    pub(in crate::mqtt::broker) fn assert_members(&self) {
        let Some(cluster) = self.cluster.get() else { return };
        let members = cluster.members.lock();
        self.recorder.write(members.iter().map(|(filter, sessions)| group_row::put(filter, sessions.len())).collect());
    }

    /// Returns the groups that receive a publication of this kind on `topic`.
    pub(super) fn receivers_of(&self, kind: DeliveryKind, topic: &str) -> GroupReceivers<'_> {
        let Some(cluster) = self.cluster.get() else { return GroupReceivers::All };
        let number = match kind {
            DeliveryKind::Event { seq }
            | DeliveryKind::Change { seq, .. }
            | DeliveryKind::Document { seq }
            | DeliveryKind::Reply { seq: Some(seq), .. } => seq,
            // Nodes number these by themselves.
            DeliveryKind::Presence { .. } => {
                let mut hasher = DefaultHasher::new();
                topic.hash(&mut hasher);
                hasher.finish()
            }
            // These are at this node alone.
            DeliveryKind::Ordinary { .. }
            | DeliveryKind::Reply { seq: None, .. }
            | DeliveryKind::Private { .. }
            | DeliveryKind::Others { .. } => return GroupReceivers::All,
        };
        GroupReceivers::Chosen(&cluster.replicated, token(number))
    }

    /// Notes that a session is a member of the group of `filter` without a row of its own, or not.
    pub(super) fn note_member(&self, session: SessionId, filter: &TopicFilter, is_member: bool) {
        let Some(cluster) = self.cluster.get().filter(|_| filter.share().is_some()) else { return };
        let mut members = cluster.members.lock();
        let has_changed = match is_member {
            true => members.entry(filter.clone()).or_default().insert(session),
            false => members.get_mut(filter).is_some_and(|sessions| sessions.remove(&session)),
        };
        if has_changed {
            let count = members.get(filter).map_or(0, BTreeSet::len);
            if count == 0 {
                members.remove(filter);
            }
            // Under the lock, so that the numbers are written in their order.
            self.recorder.write(vec![group_row::put(filter, count)]);
        }
    }
}

impl fmt::Debug for ClusterGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterGroups").finish_non_exhaustive()
    }
}
