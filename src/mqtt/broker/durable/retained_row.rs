//! The rows of retained messages.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    mqtt::{
        broker::durable::message_row::{self, Now, RestoredMessage},
        protocol::message::Message,
    },
    store::{RowEdit, RowKey},
};

/// The first byte of the keys.
pub(in crate::mqtt) const KIND: u8 = b'r';

/// A retained message from a row.
#[derive(Debug)]
pub(in crate::mqtt) struct RestoredRetained {
    pub(in crate::mqtt) message: RestoredMessage,
    /// The principal that published it.
    pub(in crate::mqtt) by: Arc<str>,
}

/// Returns the edit that retains `message`, published by `by`.
pub(in crate::mqtt) fn put(message: &Arc<Message>, by: &str, now: Now) -> RowEdit {
    let mut value = Vec::with_capacity(64 + message.weight());
    // A name has at most 128 bytes, that of an anonymous client as many as a client id.
    value.put_u32(u32::try_from(by.len()).unwrap_or_default());
    value.put_slice(by.as_bytes());
    message_row::put(message, now, &mut value);
    RowEdit::Put(key(message.topic.as_str()), value.into())
}

/// Returns the edit that sets the value of the row of `topic`, as [`put`] makes it.
pub(in crate::mqtt) fn of_value(topic: &str, value: Bytes) -> RowEdit {
    RowEdit::Put(key(topic), value)
}

/// Returns the edit that clears the retained message of `topic`.
pub(in crate::mqtt) fn remove(topic: &str) -> RowEdit {
    RowEdit::Remove(key(topic))
}

/// Reads a row; `None` if it is damaged.
pub(in crate::mqtt) fn read(mut value: Bytes, now: Now) -> Option<RestoredRetained> {
    let length = value.try_get_u32().ok()? as usize;
    let by = if length <= value.len() { value.split_to(length) } else { return None };
    let by = std::str::from_utf8(&by).ok()?.into();
    Some(RestoredRetained { message: message_row::read(value, now)?, by })
}

fn key(topic: &str) -> RowKey {
    [&[KIND], topic.as_bytes()].concat().into()
}
