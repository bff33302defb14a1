//! Messages for the groups of shared subscriptions of all nodes.
//!
//! *Invariant:* a message goes to one node for each group, and to one member there. If that node finds no member that may receive it, it
//! passes the message to another node that has some, once.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;

use crate::{
    admission::PrincipalQuota,
    auth::Access,
    mqtt::{
        broker::{
            Broker,
            outbox::SessionId,
            peers::{
                Peers,
                message::{GroupRoute, Published},
                take_room_of,
            },
            router::DeliveryKind,
        },
        protocol::{
            message::{Delivery, Message},
            topic::TopicFilter,
        },
        shadow::topics,
    },
};

impl Broker {
    /// Publishes a message that does not go through the log, at all nodes. Returns the number of receivers that are known.
    pub(in crate::mqtt) fn publish_unlogged(
        &self,
        message: &Arc<Message>,
        by: &PrincipalQuota,
        from: Option<SessionId>,
    ) -> usize {
        let kind = DeliveryKind::Ordinary { from };
        let Some(peers) = self.peers.get() else { return self.router.publish(message, kind) };
        let token = peers.messages.fetch_add(1, Ordering::Relaxed);
        let choices = peers.replicated.choose(message.topic.as_str(), token).into_iter();
        let groups = choices.map(|choice| (choice.node, choice.filter)).collect();
        let route = GroupRoute { is_only: false, groups };
        let (receivers, left) = self.publish_here(message, kind, &route.of_node(peers.node));
        left.iter().for_each(|filter| self.forward(message, filter));
        let bytes = Published::encode((peers.node, None), message, by, 0, self.recorder.now(), &route);
        if !(peers.send)(bytes.into()) {
            self.counters.peer_messages_dropped.add(1);
        }
        receivers + route.groups.iter().filter(|(node, _)| *node != peers.node).count()
    }

    /// Publishes a message to the subscribers of this node, and for these groups to one of their members. Returns the number of
    /// receivers, and the groups in which there is none.
    fn publish_here(
        &self,
        message: &Arc<Message>,
        kind: DeliveryKind,
        groups: &[Arc<TopicFilter>],
    ) -> (usize, Vec<Arc<TopicFilter>>) {
        let receivers = self.router.publish_outside_groups(message, kind);
        let left = self.deliver_to_groups(message, groups);
        (receivers + groups.len() - left.len(), left)
    }

    /// Delivers a message to one member of each of these groups. Returns those in which there is none.
    fn deliver_to_groups(&self, message: &Arc<Message>, groups: &[Arc<TopicFilter>]) -> Vec<Arc<TopicFilter>> {
        groups.iter().filter(|filter| !self.router.deliver_to_group(message, filter)).cloned().collect()
    }

    /// Passes a message that was received to the subscribers of this node, and for these groups to another node if there is no member here.
    /// One that is for a group alone has been at another node, and goes no further, nor does one that `stays` here in any case.
    pub(super) fn publish_received(
        &self,
        message: &Arc<Message>,
        from: Option<SessionId>,
        groups: &[Arc<TopicFilter>],
        is_only: bool,
        stays: bool,
    ) {
        if is_only {
            let _nobody_takes_it = self.deliver_to_groups(message, groups);
            return;
        }
        let (_, left) = self.publish_here(message, DeliveryKind::Ordinary { from }, groups);
        left.iter().filter(|_| !stays).for_each(|filter| self.forward(message, filter));
    }

    /// Queues an unacknowledged `delivery` of a shared subscription for another member of its group, at this node or another one, after
    /// its session, which had the rights `former`, has ended. One of a shadow was rendered for these, and stays here.
    pub(in crate::mqtt::broker) fn hand_over(&self, delivery: &Delivery, former: &Access) {
        if !self.router.hand_over(delivery, former)
            && let Some(filter) = &delivery.share
            && topics::shadow_of(delivery.message.topic.as_str()).is_none()
        {
            self.forward(&delivery.message, filter);
        }
    }

    /// Passes a message for a group to another node: through the log if a member there keeps it.
    fn forward(&self, message: &Arc<Message>, filter: &Arc<TopicFilter>) {
        let Some(peers) = self.peers.get() else { return };
        let token = peers.messages.fetch_add(1, Ordering::Relaxed);
        let Some(choice) = peers.replicated.choose_other(filter, message.may_wait(), token) else { return };
        let route = GroupRoute { is_only: true, groups: vec![(choice.node, Arc::clone(filter))] };
        let (by, now) = (PrincipalQuota::unlimited(""), self.recorder.now());
        let bytes = Published::encode((peers.node, None), message, &by, self.queue_bytes_max(), now, &route);
        let is_sent = match choice.keeper {
            None => (peers.send)(bytes.into()),
            Some(_) => self.forward_in_log(peers, bytes.into()),
        };
        if !is_sent {
            self.counters.peer_messages_dropped.add(1);
        }
    }

    /// Has the log pass a message on. Returns false if too many messages wait for it.
    fn forward_in_log(&self, peers: &Peers, bytes: Bytes) -> bool {
        let Some(room) = take_room_of(&peers.message_room, bytes.len()) else { return false };
        let Some(permit) = self.service.reserve_broadcast(bytes.len()) else { return false };
        self.service.broadcast(bytes, Some(Box::new(move || drop(room))), permit);
        true
    }

    /// Returns the most bytes that wait for a session in the log.
    pub(super) fn queue_bytes_max(&self) -> u64 {
        2 * self.limits.queue.bytes.max(self.limits.queue.offline_bytes) as u64
    }
}
