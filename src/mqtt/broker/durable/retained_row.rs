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
    put_value(message, by, now, &mut value);
    of_value(message.topic.as_str(), value.into())
}

/// Appends the value of the row of `message`, published by `by`.
pub(in crate::mqtt) fn put_value(message: &Arc<Message>, by: &str, now: Now, out: &mut Vec<u8>) {
    // A name has at most 128 bytes, that of an anonymous client as many as a client id.
    put_text(by, out);
    message_row::put(message, now, out);
}

/// Returns the edit that sets the value of the row of `topic`, as [`put_value`] makes it.
pub(in crate::mqtt) fn of_value(topic: &str, value: Bytes) -> RowEdit {
    RowEdit::Put(key(topic), value)
}

/// Returns the edit that clears the retained message of `topic`.
pub(in crate::mqtt) fn remove(topic: &str) -> RowEdit {
    RowEdit::Remove(key(topic))
}

/// Reads a row; `None` if it is damaged.
pub(in crate::mqtt) fn read(mut value: Bytes, now: Now) -> Option<RestoredRetained> {
    let by = text(&mut value)?;
    Some(RestoredRetained { message: message_row::read(value, now)?, by })
}

/// Appends a text with its length.
pub(in crate::mqtt) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.put_u32(u32::try_from(text.len()).unwrap_or_default());
    out.put_slice(text.as_bytes());
}

/// Takes a text that [`put_text`] appended; `None` if it is damaged.
pub(in crate::mqtt) fn text(bytes: &mut Bytes) -> Option<Arc<str>> {
    let length = bytes.try_get_u32().ok()? as usize;
    let text = if length <= bytes.len() { bytes.split_to(length) } else { return None };
    std::str::from_utf8(&text).ok().map(Into::into)
}

fn key(topic: &str) -> RowKey {
    [&[KIND], topic.as_bytes()].concat().into()
}
