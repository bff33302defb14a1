//! The rows of QoS 2 packet identifiers that a session received: the reason of their PUBREC (1 byte).
//!
//! A row is written in one commit with the effect of its message, and removed at PUBREL. So a message that is sent again
//! after a restart is known, and has no second effect.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Buf, Bytes};

use crate::{
    mqtt::{
        broker::{durable::Recorder, outbox::SessionId},
        protocol::{
            message::Row,
            packet::{PacketId, Reason},
        },
    },
    store::{RowEdit, RowKey},
};

/// The first byte of the keys. The session's id follows (8 bytes, big-endian), then the packet identifier (2 bytes).
pub(in crate::mqtt) const KIND: u8 = b'i';

/// The row of an identifier.
#[derive(Debug)]
struct ReceivedGuard {
    key: RowKey,
    recorder: Recorder,
    /// True once it is removed, or will not be written: another message may have a row with this key then.
    is_removed: AtomicBool,
}

/// An identifier from a row.
#[derive(Debug)]
pub(in crate::mqtt) struct RestoredIdentifier {
    pub(in crate::mqtt) id: PacketId,
    pub(in crate::mqtt) reason: Reason,
    pub(in crate::mqtt) row: Arc<dyn Row>,
}

/// Returns the edit that writes an identifier, and its row.
pub(in crate::mqtt) fn insert(
    session: SessionId,
    id: PacketId,
    reason: Reason,
    recorder: &Recorder,
) -> (RowEdit, Arc<dyn Row>) {
    let key: RowKey = [&[KIND], session.0.to_be_bytes().as_slice(), &id.get().to_be_bytes()].concat().into();
    let edit = RowEdit::Insert(key.clone(), Bytes::copy_from_slice(&[reason.0]));
    (edit, ReceivedGuard::of(key, recorder))
}

/// Reads a row: the session and the identifier. `None` if it is damaged.
pub(in crate::mqtt) fn read(
    key: &[u8],
    mut value: Bytes,
    recorder: &Recorder,
) -> Option<(SessionId, RestoredIdentifier)> {
    let (session, id) = key.get(1..)?.split_first_chunk::<8>()?;
    let id = PacketId::new(u16::from_be_bytes(id.try_into().ok()?))?;
    let row = ReceivedGuard::of(key.into(), recorder);
    let identifier = RestoredIdentifier { id, reason: Reason(value.try_get_u8().ok()?), row };
    Some((SessionId(u64::from_be_bytes(*session)), identifier))
}

impl ReceivedGuard {
    fn of(key: RowKey, recorder: &Recorder) -> Arc<dyn Row> {
        Arc::new(Self { key, recorder: recorder.clone(), is_removed: AtomicBool::new(false) })
    }
}

impl Row for ReceivedGuard {
    fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::Relaxed) {
            self.recorder.write(vec![RowEdit::Remove(self.key.clone())]);
        }
    }

    fn forget(&self) {
        self.is_removed.store(true, Ordering::Relaxed);
    }
}

impl Drop for ReceivedGuard {
    fn drop(&mut self) {
        self.remove();
    }
}
