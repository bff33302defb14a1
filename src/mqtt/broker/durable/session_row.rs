//! The rows of sessions: the length of the head (4 bytes, big-endian), the head as JSON, and the message of the will.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{AuthContext, LoginRecord},
    mqtt::{
        broker::{
            durable::message_row::{self, Now, RestoredMessage},
            outbox::SessionId,
        },
        protocol::{message::Message, packet::Will},
    },
    store::{RowEdit, RowKey},
};

/// The first byte of the keys. The session's id follows, 8 bytes, big-endian.
pub(in crate::mqtt) const KIND: u8 = b's';

/// A session to write.
pub(in crate::mqtt) struct SessionState<'a> {
    pub(in crate::mqtt) id: SessionId,
    pub(in crate::mqtt) client_id: &'a Arc<str>,
    pub(in crate::mqtt) auth_context: &'a AuthContext,
    /// Seconds that the session outlives its connection.
    pub(in crate::mqtt) expiry: u32,
    /// The date when it lost its connection, in milliseconds; `None` while it has one.
    pub(in crate::mqtt) disconnected_ms: Option<u64>,
    /// The journal sequence up to which its client has the state of shadows.
    pub(in crate::mqtt) since: u64,
    /// The will; while it is delayed, with the date when it is due.
    pub(in crate::mqtt) will: Option<(&'a Will, Option<u64>)>,
}

/// A session from a row.
#[derive(Debug)]
pub(in crate::mqtt) struct RestoredSession {
    pub(in crate::mqtt) id: SessionId,
    pub(in crate::mqtt) client_id: Arc<str>,
    pub(in crate::mqtt) login: LoginRecord,
    pub(in crate::mqtt) expiry: u32,
    pub(in crate::mqtt) disconnected_ms: Option<u64>,
    pub(in crate::mqtt) since: u64,
    pub(in crate::mqtt) will: Option<(Will, Option<u64>)>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    client: Arc<str>,
    login: LoginRecord,
    expiry: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnected: Option<u64>,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillHead>,
}

#[derive(Serialize, Deserialize)]
struct WillHead {
    delay: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
}

/// Returns the edit that writes a session.
pub(in crate::mqtt) fn put(state: &SessionState<'_>, now: Now) -> RowEdit {
    let head = Head {
        client: state.client_id.clone(),
        login: state.auth_context.record(),
        expiry: state.expiry,
        disconnected: state.disconnected_ms,
        since: state.since,
        will: state.will.map(|(will, due)| WillHead { delay: will.delay, due }),
    };
    let mut value = value_of(&head);
    if let Some((will, _)) = state.will {
        let Will { topic, payload, qos, retain, properties, .. } = will.clone();
        let message = Message::new(topic, payload, qos, retain, properties, now.instant);
        message_row::put(&Arc::new(message), now, &mut value);
    }
    RowEdit::Put(key(state.id), value.into())
}

fn value_of(head: &Head) -> Vec<u8> {
    let head = serde_json::to_vec(head).unwrap_or_default();
    let mut value = Vec::with_capacity(4 + head.len());
    value.put_u32(u32::try_from(head.len()).unwrap_or_default());
    value.extend(head);
    value
}

/// Returns `value` without its will; `None` if it has none, or is damaged.
pub(in crate::mqtt) fn without_will(mut value: Bytes) -> Option<Bytes> {
    let length = value.try_get_u32().ok()? as usize;
    let head: Head = serde_json::from_slice(value.get(..length)?).ok()?;
    head.will.as_ref()?;
    Some(value_of(&Head { will: None, ..head }).into())
}

/// Returns the edit that removes a session.
pub(in crate::mqtt) fn remove(id: SessionId) -> RowEdit {
    RowEdit::Remove(key(id))
}

/// Reads a row; `None` if it is damaged.
pub(in crate::mqtt) fn read(key: &[u8], mut value: Bytes) -> Option<RestoredSession> {
    let id = SessionId(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    let length = value.try_get_u32().ok()? as usize;
    let head: Head = serde_json::from_slice(value.get(..length)?).ok()?;
    value.advance(length);
    let will = match head.will {
        None => None,
        Some(WillHead { delay, due }) => Some((will(value, delay)?, due)),
    };
    Some(RestoredSession {
        id,
        client_id: head.client,
        login: head.login,
        expiry: head.expiry,
        disconnected_ms: head.disconnected,
        since: head.since,
        will,
    })
}

/// Returns the will whose message is `row`. Its message expiry interval begins when it is published.
fn will(row: Bytes, delay: u32) -> Option<Will> {
    let written = Now { date_ms: 0, instant: std::time::Instant::now() };
    let RestoredMessage { message, .. } = message_row::read(row, written)?;
    let Message { topic, payload, qos, retain, properties, .. } = message;
    Some(Will { topic, payload, qos, retain, delay, properties })
}

fn key(id: SessionId) -> RowKey {
    [&[KIND], id.0.to_be_bytes().as_slice()].concat().into()
}
