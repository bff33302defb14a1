//! The sessions of all nodes of a cluster that outlive their connections, and the presence of their devices, as the log has them.
//!
//! Every node has the rows of all sessions in its store, and here. They change with the broadcasts of the log alone, in
//! their order, so all nodes have the same: edits of a session's node ([`Edited`](PeerMessage::Edited)), messages that are
//! published in the log, and changes of the node that has a session. A session has another id at each of its nodes, which
//! has the node ([`numbers`]). So what a former node still does to it concerns no session any more.
//!
//! The writer of the store applies broadcasts here when it applies their record. Their effects on sessions in memory follow
//! when the notifier receives them, in the same order ([`ReplicatedSessions::effect`]).
//!
//! *Invariant:* a message that is published in the log is queued, in the commit of its record, for every session here that
//! has a subscription which selects it.
//!
//! *Invariant:* a message has a row as long as one of the sessions has a delivery of it.

mod filter_index;
pub(in crate::mqtt::broker) mod group_index;
pub(in crate::mqtt::broker) mod numbers;
mod presence;
mod state;
#[cfg(test)]
mod tests;
mod topic_index;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::{
    group_index::{GroupChoice, token},
    presence::DevicePresences,
    state::State,
};
use crate::{
    mqtt::{
        broker::{
            durable::{clock_row::Stop, group_row, message_row::Now, presence_row, retained_row, session_row::Move},
            outbox::SessionId,
            peers::message::{Opened, PeerMessage, Published},
            presence::LoggedPresence,
            sessions::SessionKey,
        },
        protocol::{message::Delivery, topic::TopicFilter},
    },
    store::{BroadcastRows, RowEdit, RowKey},
};

/// The replicated sessions; see the module.
pub struct ReplicatedSessions {
    node: u64,
    state: RwLock<State>,
    /// The effects of broadcasts that the notifier has not received yet.
    effects: Mutex<VecDeque<(u64, Effects)>>,
}

/// The effects of a broadcast in the memory of this node.
#[derive(Debug, Default)]
pub(in crate::mqtt::broker) struct Effects {
    pub(in crate::mqtt::broker) session: Option<Effect>,
    pub(in crate::mqtt::broker) presence: Vec<LoggedPresence>,
}

/// The effect of a broadcast on the sessions in the memory of this node.
#[derive(Debug)]
pub(in crate::mqtt::broker) enum Effect {
    /// The session is at this node from now on.
    Moved(Box<Snapshot>),
    /// Session `id` of this node is at another one from now on.
    Left { key: SessionKey, id: SessionId },
    /// Session `id` of this node has ended: its client began a new one.
    Ended { key: SessionKey, id: SessionId },
    /// The sessions that this node had before it started.
    Started(Vec<SessionId>),
    /// The session of the publisher is at another node or has ended: nobody receives the message. Its client was not answered,
    /// and sends it again.
    Void,
    /// The message is published.
    Published {
        /// If it has rows, the sessions of this node that have one.
        kept: Option<Vec<SessionId>>,
        /// The groups for which a member at this node receives it.
        groups: Vec<Arc<TopicFilter>>,
    },
}

/// The rows of a session as of a broadcast.
#[derive(Debug)]
pub(in crate::mqtt::broker) struct Snapshot {
    pub(in crate::mqtt::broker) key: SessionKey,
    pub(in crate::mqtt::broker) id: SessionId,
    /// In the order of their keys.
    pub(in crate::mqtt::broker) rows: Vec<(RowKey, Bytes)>,
}

impl ReplicatedSessions {
    /// Returns the sessions for `node`, and the presence of at most `devices_max` devices: none, until the store is opened.
    #[must_use]
    pub fn new(node: u64, devices_max: usize) -> Arc<Self> {
        let state = State { presence: DevicePresences::new(devices_max), ..State::default() };
        Arc::new(Self { node, state: RwLock::new(state), effects: Mutex::default() })
    }

    /// Returns the node.
    pub(in crate::mqtt::broker) fn node(&self) -> u64 {
        self.node
    }

    /// Returns the number of subscriptions and groups, of any node, that select `topic` and keep messages at QoS 1 or 2.
    pub(in crate::mqtt::broker) fn selecting(&self, topic: &str) -> usize {
        let state = self.state.read();
        state.filters.count(topic) + state.groups.keeping(topic)
    }

    /// Returns the node of each group that selects `topic`, for a message that does not go through the log.
    pub(in crate::mqtt::broker) fn choose(&self, topic: &str, token: u64) -> Vec<GroupChoice> {
        self.state.read().groups.choose(topic, false, token)
    }

    /// Returns another node than this one for a message in a group.
    pub(in crate::mqtt::broker) fn choose_other(
        &self,
        filter: &TopicFilter,
        may_wait: bool,
        token: u64,
    ) -> Option<GroupChoice> {
        self.state.read().groups.choose_in(filter, may_wait, token, Some(self.node))
    }

    /// Returns true if a member at this node receives an event with this token in a group.
    pub(in crate::mqtt::broker) fn is_chosen(&self, filter: &TopicFilter, token: u64) -> bool {
        let choice = self.state.read().groups.choose_in(filter, true, token, None);
        choice.is_some_and(|choice| choice.node == self.node)
    }

    /// Returns the effects of broadcast `number`, once.
    pub(in crate::mqtt::broker) fn effects(&self, number: u64) -> Effects {
        let mut effects = self.effects.lock();
        // What comes before was not delivered.
        while effects.front().is_some_and(|(first, _)| *first < number) {
            effects.pop_front();
        }
        effects.pop_front_if(|(first, _)| *first == number).map(|(_, effects)| effects).unwrap_or_default()
    }

    /// Returns the presence of all devices.
    pub(in crate::mqtt::broker) fn presence(&self) -> Vec<LoggedPresence> {
        self.state.read().presence.all(self.node)
    }

    /// Returns true if devices are connected to `node`, or members of groups that have no rows.
    pub(in crate::mqtt::broker) fn has_connected(&self, node: u64) -> bool {
        let state = self.state.read();
        state.presence.has_connected(node) || state.groups.has_others(node)
    }

    /// Returns the identity of a session.
    pub(in crate::mqtt::broker) fn key_of(&self, id: SessionId) -> Option<SessionKey> {
        self.state.read().sessions.get(&id)?.key.clone()
    }

    /// Returns the session of a client, and the number of its rows.
    pub(in crate::mqtt::broker) fn size_of(&self, key: &SessionKey) -> Option<(SessionId, usize)> {
        let state = self.state.read();
        let id = *state.keys.get(key)?;
        Some((id, state.sessions.get(&id)?.row_count()))
    }

    /// Returns the nodes that have sessions, or connected devices.
    pub(in crate::mqtt::broker) fn nodes(&self) -> BTreeSet<u64> {
        let state = self.state.read();
        let (mut nodes, mut from): (BTreeSet<_>, _) = (state.presence.nodes().chain(state.groups.nodes()).collect(), 0);
        while let Some((id, _)) = state.sessions.range(SessionId(from)..).next() {
            let node = numbers::node_of(*id);
            nodes.insert(node);
            from = numbers::first(node + 1, 0);
        }
        nodes
    }

    /// Returns at most `limit` sessions of `node` after `last`, in the order of their ids.
    pub(in crate::mqtt::broker) fn sessions_of(
        &self,
        node: u64,
        last: Option<SessionId>,
        limit: usize,
    ) -> Vec<SessionId> {
        let first = last.map_or(numbers::first(node, 0), |last| last.0 + 1);
        let of_node = SessionId(first)..SessionId(numbers::first(node + 1, 0));
        self.state.read().sessions.range(of_node).map(|(id, _)| *id).take(limit).collect()
    }

    /// Returns the first number of this node when it starts at `date_ms`, above all that it made, whatever its clock says.
    pub(in crate::mqtt::broker) fn first_number(&self, date_ms: u64) -> u64 {
        let of_node = numbers::first(self.node, 0)..numbers::first(self.node + 1, 0);
        let state = self.state.read();
        let messages = state.messages.keys().filter(|number| of_node.contains(number)).max();
        let session = state.sessions.range(SessionId(of_node.start)..SessionId(of_node.end)).next_back();
        let last = messages.copied().max(session.map(|(id, _)| id.0));
        numbers::first(self.node, date_ms).max(last.map_or(0, |last| last + 1))
    }

    /// Returns the last progress of `node`.
    pub(in crate::mqtt::broker) fn stop_of(&self, node: u64) -> Option<Stop> {
        self.state.read().stops.get(&node).cloned()
    }

    /// Returns the numbers of sessions and of messages.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.sessions.len(), state.messages.len())
    }

    fn apply(&self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        let now = Now { date_ms: 0, instant: Instant::now() };
        let mut edits = Vec::new();
        let state = &mut *self.state.write();
        let effect = match PeerMessage::decode(bytes.clone(), now) {
            Some(PeerMessage::Opened(opened)) => {
                if let Some((device, presence)) = &opened.presence {
                    state.presence.set(device, opened.node, Some(*presence), &mut edits);
                }
                self.opened(state, opened, &mut edits)
            }
            Some(PeerMessage::Published(published)) => self.published(state, number, *published, &mut edits),
            Some(PeerMessage::Edited(all)) => {
                state.edit(all, &mut edits);
                None
            }
            Some(PeerMessage::Adopted { former, id }) => self.moved(state, former, id, Move::Adopted, &mut edits),
            Some(PeerMessage::Started { node, first }) => {
                state.disconnect(node, &mut edits);
                let is_former = |id: &SessionId| numbers::node_of(*id) == node && *id < first;
                let former = || state.sessions.keys().copied().filter(is_former).collect();
                (node == self.node).then(|| Effect::Started(former()))
            }
            Some(PeerMessage::Gone { node }) => {
                state.disconnect(node, &mut edits);
                None
            }
            Some(PeerMessage::Asked { .. } | PeerMessage::Answered(_)) | None => None,
        };
        let effects = Effects { session: effect, presence: state.presence.take_changed(self.node) };
        if effects.session.is_some() || !effects.presence.is_empty() {
            self.effects.lock().push_back((number, effects));
        }
        edits
    }

    fn opened(&self, state: &mut State, opened: Opened, edits: &mut Vec<RowEdit>) -> Option<Effect> {
        let Opened { key, current, is_present, fresh, clean_start, row, .. } = opened;
        let former = state.keys.get(&key).copied();
        let mut ended = None;
        match former {
            Some(former) if clean_start || state.sessions.get(&former).is_none_or(|it| !it.outlives) => {
                state.remove_session(former, edits);
                let is_own = numbers::node_of(former) == self.node;
                ended = is_own.then(|| Effect::Ended { key: key.clone(), id: former });
            }
            Some(former) if former == current => return None,
            Some(former) => return self.moved(state, former, fresh, Move::Opened, edits),
            None => {}
        }
        // One that its node has in memory from before has ended elsewhere.
        let id = if is_present { fresh } else { current };
        if let Some(row) = row {
            state.insert_session(key.clone(), id, row, edits);
        }
        (is_present && numbers::node_of(id) == self.node)
            .then(|| Effect::Moved(Box::new(Snapshot { key, id, rows: Vec::new() })))
            .or(ended)
    }

    /// Gives a session another id, and so another node.
    fn moved(
        &self,
        state: &mut State,
        former: SessionId,
        id: SessionId,
        reason: Move,
        edits: &mut Vec<RowEdit>,
    ) -> Option<Effect> {
        // The row of its next node comes later, and the session may move on before.
        state.end_connection(former, reason, edits);
        let key = state.rename(former, id, edits)?;
        let from = numbers::node_of(former);
        if numbers::node_of(id) == self.node {
            let rows = state.rows_of(id);
            return Some(Effect::Moved(Box::new(Snapshot { key, id, rows })));
        }
        (from == self.node).then_some(Effect::Left { key, id: former })
    }

    fn published(
        &self,
        state: &mut State,
        number: u64,
        published: Published,
        edits: &mut Vec<RowEdit>,
    ) -> Option<Effect> {
        let Published { from, identifier, is_will, .. } = published;
        let is_void = from.is_some_and(|from| match identifier {
            Some((id, reason)) => !state.keep_identifier(from, id, reason, edits),
            None => is_will && !state.take_will(from, edits),
        });
        if is_void {
            return Some(Effect::Void);
        }
        let message = &published.message;
        if message.retain && !published.route.is_only {
            let topic = message.topic.as_str();
            edits.push(match message.clears_topic() {
                true => retained_row::remove(topic),
                false => retained_row::of_value(topic, published.value.clone()),
            });
        }
        let (may_wait, token) = (message.may_wait(), token(number));
        let groups = match published.route.only() {
            Some(filter) => state.groups.choose_in(filter, may_wait, token, Some(published.node)).into_iter().collect(),
            None => state.groups.choose(message.topic.as_str(), may_wait, token),
        };
        let here = groups.iter().filter(|choice| choice.node == self.node).map(|choice| Arc::clone(&choice.filter));
        let here = here.collect();
        let kept = if may_wait { self.queue(state, number, published, groups, edits) } else { None };
        Some(Effect::Published { kept, groups: here })
    }

    /// Queues a message for the sessions that keep it. Returns those of this node, if there are any of some node.
    fn queue(
        &self,
        state: &mut State,
        number: u64,
        published: Published,
        groups: Vec<GroupChoice>,
        edits: &mut Vec<RowEdit>,
    ) -> Option<Vec<SessionId>> {
        let row = published.message_value();
        let Published { from, queue_bytes_max, message, route, .. } = published;
        let selected = match route.is_only {
            true => BTreeMap::new(),
            false => state.filters.selecting(message.topic.as_str(), from),
        };
        let message = Arc::new(message);
        let mut deliveries = BTreeMap::new();
        for choice in groups {
            if let Some((session, member)) = choice.keeper {
                let delivery = Delivery {
                    qos: member.qos.min(message.qos),
                    retain: message.retain && member.retain_as_published,
                    subscription_ids: member.id.into_iter().collect(),
                    share: Some(choice.filter),
                    ..Delivery::new(Arc::clone(&message), message.qos)
                };
                deliveries.insert(session, delivery);
            }
        }
        for (session, selected) in selected {
            let delivery = Delivery {
                qos: selected.qos.min(message.qos),
                retain: message.retain && selected.retain_as_published,
                subscription_ids: selected.ids.into(),
                ..Delivery::new(Arc::clone(&message), message.qos)
            };
            deliveries.insert(session, delivery);
        }
        if deliveries.is_empty() {
            return None;
        }
        let number = numbers::of_broadcast(number);
        state.insert_message(number, row, edits);
        for (session, delivery) in &deliveries {
            state.queue(*session, number, delivery, queue_bytes_max, edits);
        }
        state.drop_message_without_receivers(number, edits);
        Some(deliveries.into_keys().filter(|session| numbers::node_of(*session) == self.node).collect())
    }
}

/// The part of [`ReplicatedSessions`] for the store.
pub struct ReplicatedRows(pub Arc<ReplicatedSessions>);

impl BroadcastRows for ReplicatedRows {
    fn restore(&mut self, key: &[u8], value: Bytes) {
        self.0.state.write().restore(key, value);
    }

    fn apply(&mut self, number: u64, bytes: &Bytes) -> Vec<RowEdit> {
        self.0.apply(number, bytes)
    }

    fn edit(&mut self, edit: RowEdit) -> Vec<RowEdit> {
        let mut edits = Vec::new();
        self.0.state.write().edit(vec![edit], &mut edits);
        edits
    }

    fn permits(&self, _: &RowEdit, _: &[Bytes]) -> bool {
        true
    }
}

/// Returns true for the rows of sessions, presence and groups, which are those of all nodes.
pub(in crate::mqtt::broker) fn is_replicated(key: &[u8]) -> bool {
    let is_other = |kind: &u8| [presence_row::KIND, group_row::KIND].contains(kind);
    key.first().is_some_and(|kind| state::KINDS.contains(kind) || is_other(kind))
}
