//! The way of edits to the log of a cluster.
//!
//! Edits of sessions collect for a moment, in which those of one row become one, and are then broadcast. Whoever waits for
//! them has them broadcast at once, and is called when this node has applied them ([`crate::mqtt::broker::replicated`]). While
//! too much waits for the log, they stay here, and no messages are kept.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    iter::Peekable,
    mem,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    engine::Service,
    mqtt::broker::{
        durable::{clock_row, group_row, queue_row, session_row},
        outbox::SessionId,
        peers::message,
        replicated,
    },
    store::{OnDurable, RowEdit, RowKey},
};

/// The longest time that edits wait for others if nobody waits for them.
const WAIT: Duration = Duration::from_millis(20);
/// The pause before edits are sent for which there was no room.
const RETRY: Duration = Duration::from_millis(200);
/// Most bytes of edits in a broadcast, unless one edit with its message has more.
const BROADCAST_BYTES_MAX: usize = 128 << 10;
/// Bytes of waiting edits from which on no messages are kept.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// The edits of this node's sessions that are not in the log; see the module.
pub(in crate::mqtt::broker) struct RowLog {
    service: Arc<Service>,
    node: u64,
    /// Most bytes of a broadcast: half a record, which has room for the largest edit and the largest message.
    bytes_max: usize,
    waiting: Mutex<WaitingEdits>,
    wake: Notify,
}

#[derive(Default)]
struct WaitingEdits {
    /// The edit of each row.
    edits: HashMap<RowKey, RowEdit>,
    bytes: usize,
    /// The calls for when the edits are applied.
    calls: Vec<OnDurable>,
    /// The last broadcasts, each with the calls for when it is applied.
    sent: VecDeque<(u64, Vec<OnDurable>)>,
    last_sent: u64,
}

impl RowLog {
    /// Returns the edits of `node`, none yet, for a log whose records have at most `record_bytes_max`.
    pub(in crate::mqtt::broker) fn new(service: Arc<Service>, node: u64, record_bytes_max: usize) -> Arc<Self> {
        let bytes_max = BROADCAST_BYTES_MAX.min(record_bytes_max / 2);
        Arc::new(Self { service, node, bytes_max, waiting: Mutex::default(), wake: Notify::new() })
    }

    /// Adds edits to those that wait. Returns those that concern this node alone.
    pub(super) fn write(&self, edits: Vec<RowEdit>) -> Vec<RowEdit> {
        let (shared, own): (Vec<_>, Vec<_>) = edits.into_iter().partition(|edit| replicated::is_replicated(edit.key()));
        if !shared.is_empty() {
            let mut waiting = self.waiting.lock();
            shared.into_iter().for_each(|edit| waiting.add(self.of_node(edit)));
            drop(waiting);
            self.wake.notify_one();
        }
        own
    }

    /// Drops the edit of a row that waits: the log will have a newer one, or need none.
    pub(in crate::mqtt::broker) fn forget(&self, key: &[u8]) {
        let waiting = &mut *self.waiting.lock();
        let former = waiting.edits.remove(key);
        waiting.bytes -= former.as_ref().map_or(0, bytes);
    }

    /// Calls `then` when this node has applied all edits that were written before.
    pub(super) fn after_applied(self: &Arc<Self>, then: OnDurable) {
        self.waiting.lock().calls.push(then);
        self.flush();
    }

    /// Broadcasts the edits that wait, if one of them concerns the row of session `id`. Returns false if there is no room.
    pub(in crate::mqtt::broker) fn flush_session(self: &Arc<Self>, id: SessionId) -> bool {
        let waits = self.waiting.lock().edits.contains_key(&session_row::key(id));
        !waits || self.flush()
    }

    /// Returns true if messages may be kept: few edits wait for the log.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.lock().bytes <= WAITING_BYTES_MAX
    }

    /// Broadcasts edits until the server ends.
    pub(in crate::mqtt::broker) async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(WAIT).await;
            if !self.flush() {
                tokio::time::sleep(RETRY).await;
                self.wake.notify_one();
            }
        }
    }

    /// Broadcasts the edits that wait. Returns false if there is no room for some.
    pub(super) fn flush(self: &Arc<Self>) -> bool {
        let mut waiting = self.waiting.lock();
        let is_flushed = self.send(&mut waiting);
        let mut calls = Vec::new();
        if is_flushed {
            let all = mem::take(&mut waiting.calls);
            match waiting.sent.back_mut() {
                Some((_, last)) => last.extend(all),
                None => calls = all,
            }
        }
        drop(waiting);
        calls.into_iter().for_each(|call| call());
        is_flushed
    }

    /// Returns the edits that wait.
    #[cfg(test)]
    pub(in crate::mqtt::broker) fn waiting(&self) -> Vec<RowEdit> {
        self.waiting.lock().edits.values().cloned().collect()
    }

    fn send(self: &Arc<Self>, waiting: &mut WaitingEdits) -> bool {
        if waiting.edits.is_empty() {
            return true;
        }
        // The edits are not looked at again and again while there is no room.
        if self.service.reserve_broadcast(waiting.bytes.min(self.bytes_max)).is_none() {
            return false;
        }
        let mut messages = HashMap::new();
        let (mut puts, mut removals) = (Vec::new(), Vec::new());
        for (key, edit) in mem::take(&mut waiting.edits) {
            match (&edit, key.first()) {
                (RowEdit::Remove(_), _) => removals.push(edit),
                (_, Some(&queue_row::MESSAGE_KIND)) => drop(messages.insert(key, edit)),
                _ => puts.push(edit),
            }
        }
        waiting.bytes = 0;
        // Other rows may be removed since a row was added, never the other way.
        let mut rest = puts.into_iter().chain(removals).peekable();
        while rest.peek().is_some() {
            let mut bytes = message::edited(self.node);
            let taken = fill(&mut bytes, self.bytes_max, &mut rest, &messages);
            if !self.broadcast(bytes.into(), waiting) {
                let left = messages.into_values().chain(taken).chain(rest).collect::<Vec<_>>();
                left.into_iter().for_each(|edit| waiting.add(edit));
                return false;
            }
        }
        true
    }

    fn broadcast(self: &Arc<Self>, bytes: Bytes, waiting: &mut WaitingEdits) -> bool {
        let Some(permit) = self.service.reserve_broadcast(bytes.len()) else { return false };
        waiting.last_sent += 1;
        let number = waiting.last_sent;
        waiting.sent.push_back((number, Vec::new()));
        let log = Arc::clone(self);
        self.service.broadcast(bytes, Some(Box::new(move || log.applied(number))), permit);
        true
    }

    fn applied(&self, number: u64) {
        let mut waiting = self.waiting.lock();
        let mut applied = Vec::new();
        while let Some((_, calls)) = waiting.sent.pop_front_if(|(first, _)| *first <= number) {
            applied.push(calls);
        }
        drop(waiting); // calls, and those that are dropped, may write edits
        // Those of an earlier broadcast that was refused are not called.
        applied.pop().into_iter().flatten().for_each(|call| call());
    }

    /// Returns the edit with the key that it has among those of all nodes.
    fn of_node(&self, edit: RowEdit) -> RowEdit {
        match edit {
            RowEdit::Put(key, value) if *key == [clock_row::KIND] => {
                let value = clock_row::within(value, self.bytes_max);
                RowEdit::Put([&*key, &self.node.to_be_bytes()].concat().into(), value)
            }
            RowEdit::Put(key, value) if key.first() == Some(&group_row::KIND) => {
                RowEdit::Put(group_row::key_at(self.node, &key), value)
            }
            RowEdit::Remove(key) if key.first() == Some(&group_row::KIND) => {
                RowEdit::Remove(group_row::key_at(self.node, &key))
            }
            edit => edit,
        }
    }
}

/// Puts edits of `rest`, with their messages, into a broadcast of at most `bytes_max`, but one at least. Returns them.
fn fill(
    bytes: &mut Vec<u8>,
    bytes_max: usize,
    rest: &mut Peekable<impl Iterator<Item = RowEdit>>,
    messages: &HashMap<RowKey, RowEdit>,
) -> Vec<RowEdit> {
    let (mut taken, mut with) = (Vec::new(), HashSet::new());
    while let Some(edit) = rest.peek() {
        // A message is in each broadcast that has new deliveries of it, and in none without.
        let is_new = matches!(edit, RowEdit::Insert(..));
        let key = queue_row::message_key_of(edit.key()).filter(|key| is_new && !with.contains(key));
        let message = key.as_ref().and_then(|key| messages.get(key));
        let more = encoded_bytes(edit) + message.map_or(0, encoded_bytes);
        if !taken.is_empty() && bytes.len() + more > bytes_max {
            break;
        }
        message.into_iter().for_each(|message| message::put_edit(message, bytes));
        message::put_edit(edit, bytes);
        with.extend(key);
        taken.extend(rest.next());
    }
    taken
}

impl WaitingEdits {
    fn add(&mut self, edit: RowEdit) {
        let is_message = edit.key().first() == Some(&queue_row::MESSAGE_KIND);
        let former = self.edits.remove(edit.key());
        self.bytes -= former.as_ref().map_or(0, bytes);
        let edit = match (former, edit) {
            // What was inserted and removed leaves nothing. A message goes with its last delivery.
            (Some(RowEdit::Insert(..)), RowEdit::Remove(_)) => return,
            (_, RowEdit::Remove(_)) if is_message => return,
            (Some(RowEdit::Insert(key, _)), RowEdit::Put(_, value) | RowEdit::Insert(_, value)) => {
                RowEdit::Insert(key, value)
            }
            (_, edit) => edit,
        };
        self.bytes += bytes(&edit);
        self.edits.insert(edit.key().into(), edit);
    }
}

/// Returns the bytes of an edit, with those that keep it.
fn bytes(edit: &RowEdit) -> usize {
    const OVERHEAD: usize = 128;
    OVERHEAD + 2 * edit.key().len() + value_bytes(edit)
}

/// Returns the bytes of an edit in a broadcast, or some more.
fn encoded_bytes(edit: &RowEdit) -> usize {
    const LENGTHS: usize = 1 + 4 + 4;
    LENGTHS + edit.key().len() + value_bytes(edit)
}

fn value_bytes(edit: &RowEdit) -> usize {
    if let RowEdit::Insert(_, value) | RowEdit::Put(_, value) = edit { value.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Broadcasts larger than a record were refused, and their edits lost.
    #[test]
    fn a_broadcast_is_larger_than_its_limit_only_for_one_edit() {
        let (limit, large) = (1000, Bytes::from(vec![0; 900]));
        let key = |kind: u8, number: u8| RowKey::from([&[kind][..], &[0; 8], &[0, 0, 0, 0, 0, 0, 0, number]].concat());
        let message =
            |number: u8| RowKey::from([&[queue_row::MESSAGE_KIND][..], &[0, 0, 0, 0, 0, 0, 0, number]].concat());
        let edits: Vec<_> =
            (0..40).map(|number| RowEdit::Insert(key(b'q', number), Bytes::from(vec![0; 200]))).collect();
        let messages: HashMap<_, _> =
            [3, 4].map(|number| (message(number), RowEdit::Insert(message(number), large.clone()))).into();
        let mut rest = edits.clone().into_iter().peekable();
        let (mut sent, mut with_message) = (Vec::new(), 0);
        while rest.peek().is_some() {
            let mut bytes = Vec::new();
            let taken = fill(&mut bytes, limit, &mut rest, &messages);
            assert!(bytes.len() <= limit || taken.len() == 1, "{} bytes of {} edits", bytes.len(), taken.len());
            with_message += usize::from(bytes.len() > limit);
            sent.extend(taken);
        }
        assert_eq!((sent, with_message), (edits, 2));
    }

    #[test]
    fn edits_of_a_row_become_one() {
        let key = |kind: u8| RowKey::from([kind, 0, 0, 0, 0, 0, 0, 0, 1].as_slice());
        let (insert, put) =
            (|kind| RowEdit::Insert(key(kind), Bytes::new()), |kind| RowEdit::Put(key(kind), Bytes::new()));
        let remove = |kind| RowEdit::Remove(key(kind));
        for (label, edits, expected) in [
            ("new", vec![insert(b'q')], vec![insert(b'q')]),
            ("new and sent", vec![insert(b'q'), put(b'q')], vec![insert(b'q')]),
            ("new and removed", vec![insert(b'q'), put(b'q'), remove(b'q')], vec![]),
            ("known and removed", vec![put(b'q'), remove(b'q')], vec![remove(b'q')]),
            ("a new message is removed", vec![insert(b'm'), remove(b'm')], vec![]),
            ("a known message is removed", vec![remove(b'm')], vec![]),
        ] {
            let mut waiting = WaitingEdits::default();
            edits.into_iter().for_each(|edit| waiting.add(edit));
            assert_eq!(waiting.bytes, expected.iter().map(bytes).sum::<usize>(), "{label}");
            assert_eq!(waiting.edits.into_values().collect::<Vec<_>>(), expected, "{label}");
        }
    }
}
