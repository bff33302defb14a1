//! The rows of sessions: the length of the head (4 bytes, big-endian), the head as JSON, and the message of the will.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    auth::{AuthContext, LoginRecord},
    mqtt::{
        broker::{
            durable::{
                clock_row::Stop,
                message_row::{self, Now, RestoredMessage},
            },
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
    pub(in crate::mqtt) connection: Connection,
    pub(in crate::mqtt) will: Option<(Will, Option<u64>)>,
}

/// The last connection of a session, as its row has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::mqtt) struct Connection {
    /// The date when it was lost, in milliseconds; `None` while there is one.
    #[serde(rename = "disconnected", default, skip_serializing_if = "Option::is_none")]
    pub(in crate::mqtt) disconnected_ms: Option<u64>,
    /// The date since which it is at the node that wrote the row; `None` in rows of former versions.
    #[serde(rename = "connected", default, skip_serializing_if = "Option::is_none")]
    connected_ms: Option<u64>,
    /// The journal sequence up to which its client has the state of shadows.
    pub(in crate::mqtt) since: u64,
}

/// The cause for which a session is at another node of a cluster from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt::broker) enum Move {
    /// Its node is gone, and its connection with it.
    Adopted,
    /// Its client has a connection to another node, whose row of the session comes later.
    Opened,
}

#[derive(Serialize, Deserialize)]
struct Head {
    client: Arc<str>,
    login: LoginRecord,
    expiry: u32,
    #[serde(flatten)]
    connection: Connection,
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
    RowEdit::Put(key(state.id), value(state, now))
}

/// Returns the value of a session's row.
pub(in crate::mqtt) fn value(state: &SessionState<'_>, now: Now) -> Bytes {
    let head = Head {
        client: state.client_id.clone(),
        login: state.auth_context.record(),
        expiry: state.expiry,
        connection: Connection {
            disconnected_ms: state.disconnected_ms,
            connected_ms: state.disconnected_ms.is_none().then_some(now.date_ms),
            since: state.since,
        },
        will: state.will.map(|(will, due)| WillHead { delay: will.delay, due }),
    };
    let mut value = value_of(&head);
    if let Some((will, _)) = state.will {
        let Will { topic, payload, qos, retain, properties, .. } = will.clone();
        let message = Message::new(topic, payload, qos, retain, properties, now.instant);
        message_row::put(&Arc::new(message), now, &mut value);
    }
    value.into()
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

/// Returns the value of session `id` when it moves: without its connection to a node of which `stop` is known. `None` if it has none,
/// or is damaged.
pub(in crate::mqtt::broker) fn moved(
    id: SessionId,
    mut value: Bytes,
    stop: Option<&Stop>,
    reason: Move,
) -> Option<Bytes> {
    let length = value.try_get_u32().ok()? as usize;
    let mut head: Head = serde_json::from_slice(value.get(..length)?).ok()?;
    if head.connection.disconnected_ms.is_some() {
        return None;
    }
    value.advance(length);
    head.connection.end(id, stop);
    if reason == Move::Opened {
        head.connection.disconnected_ms = None;
        head.connection.connected_ms = Some(NOT_WRITTEN);
    }
    Some([value_of(&head).as_slice(), &value].concat().into())
}

/// The date of a connection whose node has not written it yet, so that nothing which that node wrote concerns it.
const NOT_WRITTEN: u64 = u64::MAX;

impl Connection {
    /// Ends the connection, if there is one, at the stop of its node. What a node wrote before the session came to it does not concern
    /// the session.
    pub(in crate::mqtt) fn end(&mut self, id: SessionId, stop: Option<&Stop>) {
        if self.disconnected_ms.is_some() {
            return;
        }
        let stop = stop.filter(|stop| self.connected_ms.is_none_or(|connected| stop.date_ms > connected));
        self.since = self.since.max(stop.map_or(0, |stop| stop.delivered_to(id)));
        self.disconnected_ms =
            stop.map(|stop| stop.date_ms).or(self.connected_ms).filter(|date_ms| *date_ms != NOT_WRITTEN);
    }
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
        connection: head.connection,
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

/// Returns the key of session `id`.
pub(in crate::mqtt::broker) fn key(id: SessionId) -> RowKey {
    [&[KIND], id.0.to_be_bytes().as_slice()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that connected after the last write of its node's progress skipped the changes that its client did not have.
    #[test]
    fn the_progress_of_a_node_from_before_a_connection_is_not_that_of_the_session() {
        let stop = Stop { date_ms: 500, delivered: 90, ..Stop::default() };
        let ended = |connected_ms, stop: Option<&Stop>| {
            let mut connection = Connection { disconnected_ms: None, connected_ms, since: 7 };
            connection.end(SessionId(1), stop);
            (connection.disconnected_ms, connection.since)
        };
        assert_eq!(ended(Some(499), Some(&stop)), (Some(500), 90));
        assert_eq!(ended(Some(500), Some(&stop)), (Some(500), 7), "it may not have been there yet");
        assert_eq!(ended(Some(600), Some(&stop)), (Some(600), 7));
        assert_eq!(ended(None, Some(&stop)), (Some(500), 90), "a row of a former version");
        assert_eq!(ended(Some(600), None), (Some(600), 7));
        assert_eq!(ended(None, None), (None, 7));
    }
}
