//! The rows of queued messages: one for each message, and one for each session that it waits for.
//!
//! A row lives as long as the message or delivery in memory: [`MessageGuard`] and [`DeliveryGuard`] remove theirs when they
//! are dropped. So whatever ends a delivery (an acknowledgement, an expiry, a full queue, the end of its session) needs to
//! know nothing of rows.
//!
//! | key | value |
//! |---|---|
//! | `m`, number of the message | the message ([`message_row`]) |
//! | `q`, session, number of the message, of a further shared subscription its filter | flags (1 byte), packet identifier (2 bytes, big-endian, 0 before it was sent), number of subscription identifiers (1 byte), these (4 bytes each), the filter of a shared subscription |

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

use crate::{
    mqtt::{
        broker::{
            durable::{
                Recorder,
                message_row::{self, Now, RestoredMessage},
            },
            outbox::SessionId,
        },
        protocol::{
            message::{Delivery, DeliveryRow, Message, MessageRow},
            packet::{PacketId, QoS},
            topic::TopicFilter,
        },
    },
    store::{OnDurable, RowEdit, RowKey},
};

/// The first byte of the keys of messages.
pub(in crate::mqtt) const MESSAGE_KIND: u8 = b'm';
/// The first byte of the keys of deliveries.
pub(in crate::mqtt) const DELIVERY_KIND: u8 = b'q';

const RETAIN: u8 = 1 << 2;
const RELEASED: u8 = 1 << 3;

/// The rows of one message: its own, and those of its deliveries.
///
/// While they are open, their edits collect and are written in one, with which the message appears on disk in all its
/// sessions or in none. A QoS 2 message needs that, since its publisher sends it again until it has PUBREC.
pub(in crate::mqtt) struct MessageRows {
    number: u64,
    recorder: Recorder,
    state: Mutex<RowsState>,
}

#[derive(Default)]
struct RowsState {
    /// True if the row of the message was inserted.
    is_inserted: bool,
    /// The number of deliveries that were inserted.
    deliveries: u32,
    open: Option<Box<OpenRows>>,
}

/// The edits of open rows, and those who wait for them.
#[derive(Default)]
struct OpenRows {
    /// The sessions for which the message has rows already, in their order: it was published in the log of a cluster.
    logged: Vec<SessionId>,
    edits: Vec<RowEdit>,
    on_durable: Vec<OnDurable>,
}

/// The row of a message; dropping it removes the row.
struct MessageGuard(Arc<MessageRows>);

/// The row of a delivery; dropping it removes the row.
struct DeliveryGuard {
    session: SessionId,
    rows: Arc<MessageRows>,
    /// The value without packet identifier.
    value: Box<[u8]>,
    /// True if the key has the filter of its shared subscription: the session may have the message by another subscription as well.
    is_further: bool,
    /// The packet identifier; 0 before the delivery was sent.
    packet_id: AtomicU16,
}

/// A message from a row.
pub(in crate::mqtt) struct RestoredQueueMessage {
    pub(in crate::mqtt) number: u64,
    pub(in crate::mqtt) message: Arc<Message>,
    pub(in crate::mqtt) rows: Arc<MessageRows>,
    /// True if its message expiry interval has passed.
    pub(in crate::mqtt) is_expired: bool,
}

/// A delivery from a row.
#[derive(Debug)]
pub(in crate::mqtt) struct RestoredDelivery {
    pub(in crate::mqtt) session: SessionId,
    pub(in crate::mqtt) number: u64,
    pub(in crate::mqtt) qos: QoS,
    pub(in crate::mqtt) retain: bool,
    pub(in crate::mqtt) subscription_ids: Box<[u32]>,
    pub(in crate::mqtt) share: Option<Arc<TopicFilter>>,
    /// The packet identifier with which it was sent.
    pub(in crate::mqtt) packet_id: Option<PacketId>,
    /// True at QoS 2 if PUBREC was received: PUBREL is due, and the message is not needed any more.
    pub(in crate::mqtt) is_released: bool,
    pub(in crate::mqtt) row: Arc<dyn DeliveryRow>,
}

/// Adds rows for `delivery` to `session`, and for its message if it has none. `next` returns a new number for it.
pub(in crate::mqtt) fn insert(
    delivery: &Delivery,
    session: SessionId,
    recorder: &Recorder,
    next: impl FnOnce() -> u64,
) -> Arc<dyn DeliveryRow> {
    let rows = || MessageGuard(Arc::new(MessageRows::new(next(), recorder, RowsState::default())));
    delivery.message.row.get_or_init(|| Box::new(rows())).insert(delivery, session.0)
}

/// Begins to collect the edits of `message`, until [`MessageRows::close`].
pub(in crate::mqtt) fn open(message: &Message, recorder: &Recorder, number: u64) -> Arc<MessageRows> {
    let state = RowsState { open: Some(Box::default()), ..RowsState::default() };
    let rows = Arc::new(MessageRows::new(number, recorder, state));
    message.row.get_or_init(|| Box::new(MessageGuard(rows.clone())));
    rows
}

/// Returns the key of the message of the delivery with this key; `None` for rows of another kind.
pub(in crate::mqtt) fn message_key_of(key: &[u8]) -> Option<RowKey> {
    let (kind, rest) = key.split_first()?;
    let (_, number) = rest.split_first_chunk::<8>()?;
    (*kind == DELIVERY_KIND).then(|| [&[MESSAGE_KIND], number].concat().into())
}

/// Gives `message` the rows that it has since it was published in the log of a cluster: its own with this number, and those of
/// its deliveries to the sessions `logged`, which are in their order. Edits collect until [`MessageRows::close_logged`].
pub(in crate::mqtt) fn open_logged(
    message: &Message,
    recorder: &Recorder,
    number: u64,
    logged: Vec<SessionId>,
) -> Arc<MessageRows> {
    let open = OpenRows { logged, ..OpenRows::default() };
    let state = RowsState { is_inserted: true, deliveries: 0, open: Some(Box::new(open)) };
    let rows = Arc::new(MessageRows::new(number, recorder, state));
    message.row.get_or_init(|| Box::new(MessageGuard(rows.clone())));
    rows
}

/// Returns the value of the row of a delivery that was not sent.
pub(in crate::mqtt) fn new_value(delivery: &Delivery) -> Bytes {
    value_of(&delivery_value(delivery), 0, 0)
}

/// Reads the row of a message, which keeps it from then on.
pub(in crate::mqtt) fn read_message(
    key: &[u8],
    value: Bytes,
    recorder: &Recorder,
    now: Now,
) -> Option<RestoredQueueMessage> {
    let number = u64::from_be_bytes(key.get(1..)?.try_into().ok()?);
    let RestoredMessage { message, is_expired, .. } = message_row::read(value, now)?;
    let rows = Arc::new(MessageRows::new(number, recorder, RowsState { is_inserted: true, deliveries: 0, open: None }));
    message.row.get_or_init(|| Box::new(MessageGuard(rows.clone())));
    Some(RestoredQueueMessage { number, message: Arc::new(message), rows, is_expired })
}

/// Reads the row of a delivery, which keeps it from then on. `rows` returns the rows of a message by its number, unless they
/// are missing.
pub(in crate::mqtt) fn read_delivery(
    key: &[u8],
    value: Bytes,
    recorder: &Recorder,
    rows: impl FnOnce(u64) -> Option<Arc<MessageRows>>,
) -> Option<RestoredDelivery> {
    let (session, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (number, further) = rest.split_first_chunk::<8>()?;
    let (session, number) = (SessionId(u64::from_be_bytes(*session)), u64::from_be_bytes(*number));
    let mut rest = value;
    let (flags, packet_id) = (rest.try_get_u8().ok()?, rest.try_get_u16().ok()?);
    let without_id = [&[flags & !RELEASED], rest.as_ref()].concat();
    let count = rest.try_get_u8().ok()?;
    let subscription_ids = (0..count).map(|_| rest.try_get_u32().ok()).collect::<Option<_>>()?;
    let share = match std::str::from_utf8(&rest).ok()? {
        "" => None,
        filter => Some(Arc::new(TopicFilter::new(filter).ok()?)),
    };
    let rows = rows(number).unwrap_or_else(|| Arc::new(MessageRows::new(number, recorder, RowsState::default())));
    let row = DeliveryGuard {
        session,
        rows,
        value: without_id.into(),
        is_further: !further.is_empty(),
        packet_id: AtomicU16::new(packet_id),
    };
    Some(RestoredDelivery {
        session,
        number,
        qos: QoS::from_bits(flags & 3)?,
        retain: flags & RETAIN != 0,
        subscription_ids,
        share,
        packet_id: PacketId::new(packet_id),
        is_released: flags & RELEASED != 0,
        row: Arc::new(row),
    })
}

fn message_value(message: &Arc<Message>, now: Now) -> Bytes {
    let mut value = Vec::with_capacity(32 + message.weight());
    message_row::put(message, now, &mut value);
    value.into()
}

/// Returns the flags, the subscription identifiers and the shared filter of a delivery.
fn delivery_value(delivery: &Delivery) -> Vec<u8> {
    let mut value = vec![delivery.qos as u8 | if delivery.retain { RETAIN } else { 0 }];
    let ids = delivery.subscription_ids.get(..IDS_MAX).unwrap_or(&delivery.subscription_ids);
    value.put_u8(u8::try_from(ids.len()).unwrap_or(u8::MAX));
    ids.iter().for_each(|id| value.put_u32(*id));
    if let Some(filter) = &delivery.share {
        value.extend_from_slice(filter.to_string().as_bytes());
    }
    value
}

/// Returns the value of a delivery's row from the one without packet identifier.
fn value_of(without_id: &[u8], flags: u8, packet_id: u16) -> Bytes {
    let (first, rest) = without_id.split_first().unwrap_or((&0, &[]));
    let mut value = Vec::with_capacity(without_id.len() + 2);
    value.put_u8(first | flags);
    value.put_u16(packet_id);
    value.extend_from_slice(rest);
    value.into()
}

fn delivery_key(session: SessionId, number: u64) -> RowKey {
    [&[DELIVERY_KIND], session.0.to_be_bytes().as_slice(), &number.to_be_bytes()].concat().into()
}

fn message_key(number: u64) -> RowKey {
    [&[MESSAGE_KIND], number.to_be_bytes().as_slice()].concat().into()
}

impl MessageRows {
    fn new(number: u64, recorder: &Recorder, state: RowsState) -> Self {
        Self { number, recorder: recorder.clone(), state: Mutex::new(state) }
    }

    /// Writes the edits that have collected and `last`, in one. Edits from then on are written at once.
    pub(in crate::mqtt) fn close(&self, last: Option<RowEdit>) {
        let mut state = self.state.lock();
        let Some(open) = state.open.take() else { return };
        let OpenRows { mut edits, on_durable, .. } = *open;
        edits.extend(last);
        // Written under the lock, so that a later edit of a row follows.
        self.recorder.write(edits);
        drop(state);
        if !on_durable.is_empty() {
            self.recorder.after_commit(|| on_durable.into_iter().for_each(|then| then()));
        }
    }

    /// As [`Self::close`]. Also removes the rows of deliveries that were not made to sessions of which `has_session` is true.
    pub(in crate::mqtt) fn close_logged(&self, has_session: impl Fn(SessionId) -> bool) {
        let left = self.state.lock().open.as_mut().map(|open| mem::take(&mut open.logged)).unwrap_or_default();
        // Collected first: the session table is not looked at under the lock of the rows, which its users drop.
        let undelivered = left.into_iter().filter(|session| has_session(*session));
        let removals: Vec<_> = undelivered.map(|session| RowEdit::Remove(delivery_key(session, self.number))).collect();
        self.write(removals);
        self.close(None);
    }

    /// Returns true, once, if the session has the row of its delivery already.
    fn take_logged(&self, session: SessionId) -> bool {
        let mut state = self.state.lock();
        let Some(open) = &mut state.open else { return false };
        open.logged.binary_search(&session).map(|at| open.logged.remove(at)).is_ok()
    }

    fn write(&self, edits: impl IntoIterator<Item = RowEdit>) {
        match &mut self.state.lock().open {
            Some(open) => open.edits.extend(edits),
            None => self.recorder.write(edits.into_iter().collect()),
        }
    }
}

impl DeliveryGuard {
    fn key(&self) -> RowKey {
        let key = delivery_key(self.session, self.rows.number);
        if self.is_further { [&*key, self.shared_filter()].concat().into() } else { key }
    }

    /// Returns the filter of the shared subscription, which is at the end of the value.
    fn shared_filter(&self) -> &[u8] {
        let ids = self.value.get(1).copied().map_or(0, usize::from);
        self.value.get(2 + 4 * ids..).unwrap_or_default()
    }

    fn value_with(&self, flags: u8, packet_id: u16) -> Bytes {
        value_of(&self.value, flags, packet_id)
    }
}

impl MessageRow for MessageGuard {
    fn insert(&self, delivery: &Delivery, session: u64) -> Arc<dyn DeliveryRow> {
        let Self(rows) = self;
        let is_new = {
            let mut state = rows.state.lock();
            state.deliveries = state.deliveries.saturating_add(1);
            !mem::replace(&mut state.is_inserted, true)
        };
        let session = SessionId(session);
        let is_logged = rows.take_logged(session);
        let guard = DeliveryGuard {
            session,
            rows: rows.clone(),
            value: delivery_value(delivery).into(),
            is_further: !is_logged && delivery.share.is_some(),
            packet_id: AtomicU16::new(0),
        };
        if !is_logged {
            let mut edits = Vec::with_capacity(2);
            // In a cluster, the message is gone when all deliveries in the log are, and they do not know of this one.
            if is_new || rows.recorder.is_of_cluster() {
                let value = message_value(&delivery.message, rows.recorder.now());
                edits.push(RowEdit::Insert(message_key(rows.number), value));
            }
            edits.push(RowEdit::Insert(guard.key(), guard.value_with(0, 0)));
            rows.write(edits);
        }
        Arc::new(guard)
    }

    fn deliveries(&self) -> usize {
        self.0.state.lock().deliveries as usize
    }
}

impl DeliveryRow for DeliveryGuard {
    fn sent(&self, id: PacketId) {
        self.packet_id.store(id.get(), Ordering::Relaxed);
        self.rows.write([RowEdit::Put(self.key(), self.value_with(0, id.get()))]);
    }

    fn released(&self) {
        let id = self.packet_id.load(Ordering::Relaxed);
        self.rows.write([RowEdit::Put(self.key(), self.value_with(RELEASED, id))]);
    }

    fn after_commit(&self, then: OnDurable) {
        let mut state = self.rows.state.lock();
        if let Some(open) = &mut state.open {
            return open.on_durable.push(then);
        }
        drop(state);
        self.rows.recorder.after_commit(then);
    }
}

impl Drop for MessageGuard {
    fn drop(&mut self) {
        let Self(rows) = self;
        if rows.state.lock().is_inserted {
            rows.write([RowEdit::Remove(message_key(rows.number))]);
        }
    }
}

impl Drop for DeliveryGuard {
    fn drop(&mut self) {
        self.rows.write([RowEdit::Remove(self.key())]);
    }
}

impl fmt::Debug for MessageGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MessageGuard").field(&self.0.number).finish()
    }
}

impl fmt::Debug for DeliveryGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeliveryGuard").field(&self.session).field(&self.rows.number).finish()
    }
}

/// Subscription identifiers kept with a delivery; a session with more overlapping subscriptions gets these.
const IDS_MAX: usize = 255;
