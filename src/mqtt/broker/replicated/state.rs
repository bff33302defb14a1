//! The rows of the sessions of all nodes, with what is found by them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{
    auth::Principal,
    mqtt::{
        broker::{
            durable::{
                clock_row::{self, Stop},
                group_row, presence_row, queue_row, received_row,
                session_row::{self, Move},
                subscription_row,
            },
            outbox::SessionId,
            presence::Presence,
            replicated::{filter_index::FilterIndex, group_index::GroupIndex, numbers, presence::DevicePresences},
            sessions::SessionKey,
        },
        protocol::{
            message::Delivery,
            packet::{PacketId, Reason},
        },
    },
    store::{RowEdit, RowKey},
};

/// The kinds of rows that all nodes have of all sessions.
pub(super) const KINDS: [u8; 6] = [
    session_row::KIND,
    subscription_row::KIND,
    queue_row::DELIVERY_KIND,
    queue_row::MESSAGE_KIND,
    received_row::KIND,
    clock_row::KIND,
];

/// The bytes of a delivery in the limit of a session, besides its message.
const DELIVERY_BYTES: usize = 128;

#[derive(Default)]
pub(super) struct State {
    pub(super) sessions: BTreeMap<SessionId, SessionState>,
    pub(super) keys: HashMap<SessionKey, SessionId>,
    pub(super) messages: HashMap<u64, StoredMessage>,
    pub(super) filters: FilterIndex,
    pub(super) groups: GroupIndex,
    /// The last progress of nodes.
    pub(super) stops: HashMap<u64, Stop>,
    pub(super) presence: DevicePresences,
}

/// A session.
#[derive(Default)]
pub(super) struct SessionState {
    /// The identity; `None` while its row is not read.
    pub(super) key: Option<SessionKey>,
    /// True if the session outlives its connection.
    pub(super) outlives: bool,
    /// True while it has no connection.
    is_away: bool,
    /// The values of its rows, by their keys without the id.
    rows: BTreeMap<ShortKey, Bytes>,
    /// The bytes of the messages that wait for it.
    queue_bytes: usize,
}

/// The kind of a row, and what follows the id in its key.
type ShortKey = Box<[u8]>;

/// A message that waits for sessions.
pub(super) struct StoredMessage {
    value: Bytes,
    /// The number of its deliveries.
    deliveries: usize,
}

impl State {
    /// Takes a row of the store.
    pub(super) fn restore(&mut self, key: &[u8], value: Bytes) {
        match (key.first(), number_in(key)) {
            (Some(&presence_row::KIND), _) => self.presence.restore(key, value),
            (Some(&group_row::KIND), _) => {
                if let Some((node, filter)) = group_row::read_key(key) {
                    self.groups.set_others(node, &filter, group_row::read_value(value));
                }
            }
            (Some(&queue_row::MESSAGE_KIND), Some(number)) => {
                self.messages.insert(number, StoredMessage { value, deliveries: 0 });
            }
            (Some(&clock_row::KIND), node) => {
                self.stops.extend(clock_row::read(value).map(|stop| (node.unwrap_or_default(), stop)));
            }
            (Some(kind), Some(id)) if KINDS.contains(kind) => {
                let id = SessionId(id);
                self.sessions.entry(id).or_default();
                self.put(id, short(key), value);
                if *kind == session_row::KIND {
                    self.find_by_row(id);
                }
            }
            _ => {}
        }
    }

    /// Makes a session be found by the identity in its row.
    fn find_by_row(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(row) = session.rows.get([session_row::KIND].as_slice()) else { return };
        let Some(row) = session_row::read(&row_key(session_row::KIND, id, &[]), row.clone()) else { return };
        let principal = Principal::of_known(row.login.principal());
        let key = SessionKey { principal, client_id: row.client_id };
        session.key = Some(key.clone());
        self.keys.insert(key, id);
    }

    /// Applies edits of a node. Those of sessions that it does not have any more have no effect.
    pub(super) fn edit(&mut self, all: Vec<RowEdit>, edits: &mut Vec<RowEdit>) {
        // A message is written only with a delivery.
        let (mut new, mut puts, mut removals) = (HashMap::new(), Vec::new(), Vec::new());
        for edit in all {
            match edit {
                RowEdit::Remove(key) => removals.push(key),
                RowEdit::Insert(key, value) | RowEdit::Put(key, value) => match (key.first(), number_in(&key)) {
                    (Some(&queue_row::MESSAGE_KIND), Some(number)) => drop(new.insert(number, value)),
                    _ => puts.push((key, value)),
                },
            }
        }
        for (key, value) in puts {
            match (key.first(), number_in(&key)) {
                (Some(&presence_row::KIND), _) => self.set_presence(&key, presence_row::read_value(value), edits),
                (Some(&group_row::KIND), _) => {
                    if let Some((node, filter)) = group_row::read_key(&key) {
                        self.groups.set_others(node, &filter, group_row::read_value(value.clone()));
                        edits.push(RowEdit::Put(key, value));
                    }
                }
                (Some(&clock_row::KIND), Some(node)) => {
                    self.stops.extend(clock_row::read(value.clone()).map(|stop| (node, stop)));
                    edits.push(RowEdit::Put(key, value));
                }
                (Some(kind), Some(id)) if self.has(SessionId(id)) && KINDS.contains(kind) => {
                    let short = short(&key);
                    if let Some(number) = delivery_in(&short)
                        && !self.messages.contains_key(&number)
                    {
                        let Some(value) = new.remove(&number) else { continue };
                        self.insert_message(number, value, edits);
                    }
                    self.put_row(SessionId(id), short, value, edits);
                }
                _ => {}
            }
        }
        for key in removals {
            match (key.first(), number_in(&key).map(SessionId)) {
                (Some(&presence_row::KIND), _) => self.set_presence(&key, None, edits),
                (Some(&group_row::KIND), _) => {
                    if let Some((node, filter)) = group_row::read_key(&key) {
                        self.groups.set_others(node, &filter, 0);
                        edits.push(RowEdit::Remove(key));
                    }
                }
                (Some(&(queue_row::MESSAGE_KIND | clock_row::KIND)), _) | (_, None) => {}
                (Some(&session_row::KIND), Some(id)) => self.remove_session(id, edits),
                (_, Some(id)) => self.remove_row(id, &short(&key), edits),
            }
        }
    }

    fn set_presence(&mut self, key: &[u8], presence: Option<Presence>, edits: &mut Vec<RowEdit>) {
        if let Some((device, Some(node))) = presence_row::read_key(key) {
            self.presence.set(&device, node, presence, edits);
        }
    }

    /// Disconnects what was connected to `node`, which is gone or has started again, and has no rows.
    pub(super) fn disconnect(&mut self, node: u64, edits: &mut Vec<RowEdit>) {
        self.presence.disconnect(node, self.stops.get(&node), edits);
        let groups = self.groups.clear_others(node);
        edits.extend(groups.iter().map(|filter| group_row::remove_of(node, filter)));
    }

    pub(super) fn insert_session(&mut self, key: SessionKey, id: SessionId, row: Bytes, edits: &mut Vec<RowEdit>) {
        self.sessions.insert(id, SessionState { key: Some(key.clone()), ..SessionState::default() });
        self.keys.insert(key, id);
        self.put_row(id, [session_row::KIND].into(), row, edits);
    }

    /// Removes a session with all its rows.
    pub(super) fn remove_session(&mut self, id: SessionId, edits: &mut Vec<RowEdit>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let all: Vec<_> = session.rows.keys().cloned().collect();
        all.iter().for_each(|short| self.remove_row(id, short, edits));
        let key = self.sessions.remove(&id).and_then(|session| session.key);
        if let Some(key) = key.filter(|key| self.keys.get(key) == Some(&id)) {
            self.keys.remove(&key);
        }
    }

    /// Ends the connection of a session in its row, where it has one.
    pub(super) fn end_connection(&mut self, id: SessionId, reason: Move, edits: &mut Vec<RowEdit>) {
        let short = [session_row::KIND];
        let stop = self.stops.get(&numbers::node_of(id));
        let row = self.sessions.get(&id).and_then(|session| session.rows.get(short.as_slice()));
        if let Some(value) = row.and_then(|value| session_row::moved(id, value.clone(), stop, reason)) {
            self.put_row(id, short.into(), value, edits);
        }
    }

    /// Gives a session another id. Returns its identity; `None` if there is no such session, or its row cannot be read: that one
    /// ends.
    pub(super) fn rename(&mut self, former: SessionId, id: SessionId, edits: &mut Vec<RowEdit>) -> Option<SessionKey> {
        let Some(key) = self.sessions.get(&former)?.key.clone() else {
            self.remove_session(former, edits);
            return None;
        };
        let rows = self.sessions.get(&former)?.rows.clone();
        self.sessions.insert(id, SessionState { key: Some(key.clone()), ..SessionState::default() });
        // Its messages keep a delivery all the time.
        for (short, value) in rows {
            self.put_row(id, short, value, edits);
        }
        self.remove_session(former, edits);
        self.keys.insert(key.clone(), id);
        Some(key)
    }

    /// Returns the rows of a session, with those of its messages, in the order of their keys.
    pub(super) fn rows_of(&self, id: SessionId) -> Vec<(RowKey, Bytes)> {
        let Some(session) = self.sessions.get(&id) else { return Vec::new() };
        let numbers = session.rows.keys().filter_map(|short| delivery_in(short));
        let messages = numbers.filter_map(|number| {
            let message = self.messages.get(&number)?;
            Some((row_key(queue_row::MESSAGE_KIND, SessionId(number), &[]), message.value.clone()))
        });
        let own = session.rows.iter().map(|(short, value)| (full(id, short), value.clone()));
        let mut rows: Vec<_> = own.chain(messages).collect();
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }

    /// Keeps the QoS 2 identifier of a message that the client of a session published. Returns false if there is no such session.
    pub(super) fn keep_identifier(
        &mut self,
        id: SessionId,
        packet: PacketId,
        reason: Reason,
        edits: &mut Vec<RowEdit>,
    ) -> bool {
        let has_session = self.has(id);
        if has_session {
            let short = [&[received_row::KIND], packet.get().to_be_bytes().as_slice()].concat().into();
            self.put_row(id, short, Bytes::copy_from_slice(&[reason.0]), edits);
        }
        has_session
    }

    /// Removes the will of a session, which is published. Returns false if there is no such session.
    pub(super) fn take_will(&mut self, id: SessionId, edits: &mut Vec<RowEdit>) -> bool {
        let short = [session_row::KIND];
        let Some(session) = self.sessions.get(&id) else { return false };
        let without = session.rows.get(short.as_slice()).and_then(|value| session_row::without_will(value.clone()));
        if let Some(value) = without {
            self.put_row(id, short.into(), value, edits);
        }
        true
    }

    pub(super) fn insert_message(&mut self, number: u64, value: Bytes, edits: &mut Vec<RowEdit>) {
        edits.push(RowEdit::Insert(row_key(queue_row::MESSAGE_KIND, SessionId(number), &[]), value.clone()));
        self.messages.insert(number, StoredMessage { value, deliveries: 0 });
    }

    /// Removes a message that waits for no session.
    pub(super) fn drop_message_without_receivers(&mut self, number: u64, edits: &mut Vec<RowEdit>) {
        if self.messages.get(&number).is_some_and(|message| message.deliveries == 0) {
            self.messages.remove(&number);
            edits.push(RowEdit::Remove(row_key(queue_row::MESSAGE_KIND, SessionId(number), &[])));
        }
    }

    /// Adds `delivery` of message `number` to a session, whose oldest ones are dropped above `bytes_max`.
    pub(super) fn queue(
        &mut self,
        id: SessionId,
        number: u64,
        delivery: &Delivery,
        bytes_max: u64,
        edits: &mut Vec<RowEdit>,
    ) {
        let short = [&[queue_row::DELIVERY_KIND], number.to_be_bytes().as_slice()].concat().into();
        self.put_row(id, short, queue_row::new_value(delivery), edits);
        while let Some(session) = self.sessions.get(&id)
            && session.queue_bytes as u64 > bytes_max
            && let Some(oldest) = session.oldest_delivery()
        {
            self.remove_row(id, &oldest, edits);
        }
    }

    fn has(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    fn put_row(&mut self, id: SessionId, short: ShortKey, value: Bytes, edits: &mut Vec<RowEdit>) {
        let key = full(id, &short);
        edits.push(match self.put(id, short, value.clone()) {
            true => RowEdit::Insert(key, value),
            false => RowEdit::Put(key, value),
        });
    }

    /// Sets a row of a session. Returns true if there was none.
    fn put(&mut self, id: SessionId, short: ShortKey, value: Bytes) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let is_new = !session.rows.contains_key(&short);
        match short.first() {
            Some(&session_row::KIND) => {
                let row = session_row::read(&full(id, &short), value.clone());
                session.outlives = row.as_ref().is_some_and(|row| row.expiry > 0);
                let is_away = row.is_some_and(|row| row.connection.disconnected_ms.is_some());
                // Its row is written more often than that changes.
                if std::mem::replace(&mut session.is_away, is_away) != is_away {
                    self.groups.set_away(id, is_away);
                }
            }
            Some(&subscription_row::KIND) => {
                if let Some((_, subscription, number)) = subscription_row::read(&full(id, &short), value.clone()) {
                    self.filters.insert(id, &subscription, number);
                    self.groups.insert(id, &subscription, number, session.is_away);
                }
            }
            _ if is_new => {
                if let Some(message) = delivery_in(&short).and_then(|number| self.messages.get_mut(&number)) {
                    message.deliveries += 1;
                    session.queue_bytes += message.value.len() + DELIVERY_BYTES;
                }
            }
            _ => {}
        }
        session.rows.insert(short, value);
        is_new
    }

    /// Removes a row of a session, if it is there, and its message with the last delivery.
    fn remove_row(&mut self, id: SessionId, short: &[u8], edits: &mut Vec<RowEdit>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(value) = session.rows.remove(short) else { return };
        edits.push(RowEdit::Remove(full(id, short)));
        if short.first() == Some(&subscription_row::KIND)
            && let Some((_, subscription, _)) = subscription_row::read(&full(id, short), value)
        {
            self.filters.remove(id, &subscription.filter);
            self.groups.remove(id, &subscription.filter);
        }
        if let Some(number) = delivery_in(short)
            && let Some(message) = self.messages.get_mut(&number)
        {
            message.deliveries = message.deliveries.saturating_sub(1);
            session.queue_bytes = session.queue_bytes.saturating_sub(message.value.len() + DELIVERY_BYTES);
            self.drop_message_without_receivers(number, edits);
        }
    }
}

impl SessionState {
    pub(super) fn row_count(&self) -> usize {
        self.rows.len()
    }

    fn oldest_delivery(&self) -> Option<ShortKey> {
        let first: ShortKey = [queue_row::DELIVERY_KIND].into();
        let (oldest, _) = self.rows.range(first..).next()?;
        (oldest.first() == Some(&queue_row::DELIVERY_KIND)).then(|| oldest.clone())
    }
}

/// Returns the number of the message of a delivery, from the key without the id.
fn delivery_in(short: &[u8]) -> Option<u64> {
    let number = number_in(short);
    number.filter(|_| short.first() == Some(&queue_row::DELIVERY_KIND))
}

/// Returns the number that follows the kind in a key.
fn number_in(key: &[u8]) -> Option<u64> {
    key.get(1..)?.first_chunk().map(|number| u64::from_be_bytes(*number))
}

fn short(key: &[u8]) -> ShortKey {
    [key.get(..1).unwrap_or_default(), key.get(9..).unwrap_or_default()].concat().into()
}

fn full(id: SessionId, short: &[u8]) -> RowKey {
    let (kind, rest) = short.split_first().unwrap_or((&0, &[]));
    row_key(*kind, id, rest)
}

fn row_key(kind: u8, id: SessionId, rest: &[u8]) -> RowKey {
    [&[kind], id.0.to_be_bytes().as_slice(), rest].concat().into()
}
