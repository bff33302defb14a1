//! The messages between the brokers of a cluster.
//!
//! Each begins with its kind (1 byte) and the node that sent it (8 bytes). Integers are big-endian.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    admission::PrincipalQuota,
    auth::Principal,
    mqtt::{
        broker::{
            durable::{
                message_row::Now,
                presence_row,
                retained_row::{self, RestoredRetained},
            },
            outbox::SessionId,
            peers::questions::AnswerPart,
            presence::Presence,
            replicated::numbers,
            sessions::SessionKey,
        },
        protocol::{
            message::Message,
            packet::{PacketId, Reason},
            topic::TopicFilter,
        },
    },
    shadow::DeviceId,
    store::RowEdit,
};

const OPENED: u8 = b'o';
const PUBLISHED: u8 = b'p';
const EDITED: u8 = b'e';
const ADOPTED: u8 = b'a';
const STARTED: u8 = b's';
const GONE: u8 = b'g';
const ASKED: u8 = b'?';
const ANSWERED: u8 = b'!';

const INSERT: u8 = 0;
const PUT: u8 = 1;
const REMOVE: u8 = 2;

/// The number of no session.
const NO_SESSION: u64 = u64::MAX;

/// A decoded message of a node.
pub(in crate::mqtt::broker) enum PeerMessage {
    /// A client has opened its session at a node.
    Opened(Opened),
    /// A message was published.
    Published(Box<Published>),
    /// Rows of sessions have changed at their node.
    Edited(Vec<RowEdit>),
    /// A node takes over a session whose node is gone, or one that it had before it started.
    Adopted {
        /// The session.
        former: SessionId,
        /// Its id from now on.
        id: SessionId,
    },
    /// A node has started.
    Started {
        /// The node.
        node: u64,
        /// The first id of a session that it makes.
        first: SessionId,
    },
    /// A node is not heard of any more: its devices are disconnected.
    Gone {
        /// The node.
        node: u64,
    },
    /// A node asks the others.
    Asked {
        /// The node.
        node: u64,
        /// The number of its question.
        number: u64,
        /// The encoded question.
        question: Bytes,
    },
    /// A part of the answer to a question.
    Answered(AnswerPart),
}

/// The opening of a session at a node.
#[derive(Clone, Debug)]
pub(in crate::mqtt::broker) struct Opened {
    /// The node.
    pub(in crate::mqtt::broker) node: u64,
    /// The identity of the session.
    pub(in crate::mqtt::broker) key: SessionKey,
    /// The session that the node has in memory for it.
    pub(in crate::mqtt::broker) current: SessionId,
    /// True if the client had that one before.
    pub(in crate::mqtt::broker) is_present: bool,
    /// The id of one that comes to the node: no other session has it, so none is taken for it.
    pub(in crate::mqtt::broker) fresh: SessionId,
    /// True if a session of before ends.
    pub(in crate::mqtt::broker) clean_start: bool,
    /// The device that is connected to the node with it.
    pub(in crate::mqtt::broker) presence: Option<(DeviceId, Presence)>,
    /// The row of the session if it is new; `None` for one without rows.
    pub(in crate::mqtt::broker) row: Option<Bytes>,
}

/// The groups of shared subscriptions for which a message is meant.
#[derive(Clone, Debug, Default)]
pub(in crate::mqtt::broker) struct GroupRoute {
    /// True if it is for these alone, whose members at its node do not take it.
    pub(in crate::mqtt::broker) is_only: bool,
    /// Over the bus, each with the node that receives it for the group.
    pub(in crate::mqtt::broker) groups: Vec<(u64, Arc<TopicFilter>)>,
}

/// A message for all nodes.
pub(in crate::mqtt::broker) struct Published {
    /// The node of the publisher.
    pub(in crate::mqtt::broker) node: u64,
    /// The session of the publisher.
    pub(in crate::mqtt::broker) from: Option<SessionId>,
    /// The QoS 2 identifier that the session of the publisher keeps.
    pub(in crate::mqtt::broker) identifier: Option<(PacketId, Reason)>,
    /// True for the will of `from`.
    pub(in crate::mqtt::broker) is_will: bool,
    /// Most bytes of messages that wait for a session.
    pub(in crate::mqtt::broker) queue_bytes_max: u64,
    /// The principal of the publisher.
    pub(in crate::mqtt::broker) by: Arc<str>,
    pub(in crate::mqtt::broker) route: GroupRoute,
    pub(in crate::mqtt::broker) message: Message,
    /// The value of the row of a retained message, as it was encoded.
    pub(in crate::mqtt::broker) value: Bytes,
}

impl PeerMessage {
    /// Decodes a message; `None` if it is damaged or of a later program.
    pub(in crate::mqtt::broker) fn decode(mut bytes: Bytes, now: Now) -> Option<Self> {
        let (kind, node) = (bytes.try_get_u8().ok()?, bytes.try_get_u64().ok()?);
        match kind {
            OPENED => Opened::decode(node, bytes).map(Self::Opened),
            PUBLISHED => Published::decode(node, bytes, now).map(|published| Self::Published(Box::new(published))),
            EDITED => edits(bytes).map(Self::Edited),
            ADOPTED => {
                let (former, id) = (SessionId(bytes.try_get_u64().ok()?), SessionId(bytes.try_get_u64().ok()?));
                Some(Self::Adopted { former, id })
            }
            STARTED => Some(Self::Started { node, first: SessionId(bytes.try_get_u64().ok()?) }),
            GONE => Some(Self::Gone { node: bytes.try_get_u64().ok()? }),
            ASKED => Some(Self::Asked { node, number: bytes.try_get_u64().ok()?, question: bytes }),
            ANSWERED => AnswerPart::decode(node, bytes).map(Self::Answered),
            _ => None,
        }
    }
}

impl Opened {
    /// Returns the encoded message.
    pub(in crate::mqtt::broker) fn encode(&self) -> Bytes {
        let mut bytes = head(OPENED, self.node);
        bytes.put_u64(self.current.0);
        bytes.put_u64(self.fresh.0);
        bytes.put_u8(u8::from(self.is_present));
        bytes.put_u8(u8::from(self.clean_start));
        retained_row::put_text(self.key.principal.name(), &mut bytes);
        retained_row::put_text(&self.key.client_id, &mut bytes);
        bytes.put_u8(u8::from(self.presence.is_some()));
        if let Some((device, presence)) = &self.presence {
            retained_row::put_text(device.as_str(), &mut bytes);
            let value = presence_row::value(*presence);
            bytes.put_u8(u8::try_from(value.len()).unwrap_or_default());
            bytes.extend(value);
        }
        bytes.put_u8(u8::from(self.row.is_some()));
        bytes.extend_from_slice(self.row.as_deref().unwrap_or_default());
        bytes.into()
    }

    fn decode(node: u64, mut bytes: Bytes) -> Option<Self> {
        let (current, fresh) = (SessionId(bytes.try_get_u64().ok()?), SessionId(bytes.try_get_u64().ok()?));
        let (is_present, clean_start) = (bytes.try_get_u8().ok()? != 0, bytes.try_get_u8().ok()? != 0);
        let principal = Principal::of_known(&retained_row::text(&mut bytes)?);
        let key = SessionKey { principal, client_id: retained_row::text(&mut bytes)? };
        let presence = match bytes.try_get_u8().ok()? {
            0 => None,
            _ => Some(device_presence(&mut bytes)?),
        };
        let has_row = bytes.try_get_u8().ok()? != 0;
        Some(Self { node, key, current, is_present, fresh, clean_start, presence, row: has_row.then_some(bytes) })
    }
}

impl Published {
    /// Returns the encoded message, without an identifier.
    pub(in crate::mqtt::broker) fn encode(
        (node, from): (u64, Option<SessionId>),
        message: &Arc<Message>,
        by: &PrincipalQuota,
        queue_bytes_max: u64,
        now: Now,
        route: &GroupRoute,
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 64 + message.weight());
        bytes.extend(head(PUBLISHED, node));
        bytes.put_u64(from.map_or(NO_SESSION, |from| from.0));
        bytes.put_u64(queue_bytes_max);
        bytes.put_u16(0);
        bytes.put_u8(0);
        bytes.put_u8(0);
        bytes.put_u8(u8::from(route.is_only));
        bytes.put_u32(u32::try_from(route.groups.len()).unwrap_or(u32::MAX));
        for (node, filter) in &route.groups {
            bytes.put_u64(*node);
            retained_row::put_text(&filter.to_string(), &mut bytes);
        }
        retained_row::put_value(message, by.name(), now, &mut bytes);
        bytes
    }

    /// Sets the identifier of an encoded message.
    pub(in crate::mqtt::broker) fn set_identifier(bytes: &mut [u8], id: PacketId, reason: Reason) {
        if let Some(place) = bytes.get_mut(HEAD_BYTES - 4..HEAD_BYTES - 1) {
            let [first, second] = id.get().to_be_bytes();
            place.copy_from_slice(&[first, second, reason.0]);
        }
    }

    /// Makes an encoded message the will of its session.
    pub(in crate::mqtt::broker) fn set_will(bytes: &mut [u8]) {
        if let Some(place) = bytes.get_mut(HEAD_BYTES - 1) {
            *place = 1;
        }
    }

    fn decode(node: u64, mut bytes: Bytes, now: Now) -> Option<Self> {
        let (from, queue_bytes_max) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let (id, reason) = (bytes.try_get_u16().ok()?, bytes.try_get_u8().ok()?);
        let (is_will, is_only) = (bytes.try_get_u8().ok()? != 0, bytes.try_get_u8().ok()? != 0);
        let groups = (0..bytes.try_get_u32().ok()?).map(|_| {
            let node = bytes.try_get_u64().ok()?;
            Some((node, Arc::new(TopicFilter::new(&retained_row::text(&mut bytes)?).ok()?)))
        });
        let route = GroupRoute { is_only, groups: groups.collect::<Option<_>>()? };
        let RestoredRetained { message, by } = retained_row::read(bytes.clone(), now)?;
        Some(Self {
            node,
            from: Some(from).filter(|from| *from != NO_SESSION).map(SessionId),
            identifier: PacketId::new(id).map(|id| (id, Reason(reason))),
            is_will,
            queue_bytes_max,
            by,
            route,
            message: message.message,
            value: bytes,
        })
    }

    /// Returns the value of the row of a message that waits for sessions.
    pub(in crate::mqtt::broker) fn message_value(&self) -> Bytes {
        let mut value = self.value.clone();
        let _publisher = retained_row::text(&mut value);
        value
    }
}

fn device_presence(bytes: &mut Bytes) -> Option<(DeviceId, Presence)> {
    let device = DeviceId::new(&retained_row::text(bytes)?).ok()?;
    let length = usize::from(bytes.try_get_u8().ok()?);
    let value = (length <= bytes.len()).then(|| bytes.split_to(length))?;
    Some((device, presence_row::read_value(value)?))
}

impl GroupRoute {
    /// Returns the group that the message is for, if it is for one alone.
    pub(in crate::mqtt::broker) fn only(&self) -> Option<&TopicFilter> {
        self.groups.first().filter(|_| self.is_only).map(|(_, filter)| &**filter)
    }

    /// Returns the groups for which `node` receives the message.
    pub(in crate::mqtt::broker) fn of_node(&self, node: u64) -> Vec<Arc<TopicFilter>> {
        self.groups.iter().filter(|(other, _)| *other == node).map(|(_, filter)| Arc::clone(filter)).collect()
    }
}

/// Returns the encoded change of a session's id, by `node`.
pub(in crate::mqtt::broker) fn adopted(node: u64, former: SessionId, id: SessionId) -> Bytes {
    let mut bytes = head(ADOPTED, node);
    bytes.put_u64(former.0);
    bytes.put_u64(id.0);
    bytes.into()
}

/// Returns the encoded start of `node`, which makes sessions from `first` on.
pub(in crate::mqtt::broker) fn started(node: u64, first: SessionId) -> Bytes {
    let mut bytes = head(STARTED, node);
    bytes.put_u64(first.0);
    bytes.into()
}

/// Returns the encoded message of `node` that `gone` is not heard of any more.
pub(in crate::mqtt::broker) fn gone(node: u64, gone: u64) -> Bytes {
    let mut bytes = head(GONE, node);
    bytes.put_u64(gone);
    bytes.into()
}

/// Returns true for a message by which a node takes over what another one had: its sessions, or the presence of its devices.
pub(in crate::mqtt::broker) fn takes_over(bytes: &Bytes) -> bool {
    let mut rest = bytes.clone();
    match (rest.try_get_u8(), rest.try_get_u64(), rest.try_get_u64()) {
        (Ok(ADOPTED), Ok(node), Ok(former)) => numbers::node_of(SessionId(former)) != node,
        (kind, ..) => kind == Ok(GONE),
    }
}

/// Returns the encoded question `number` of `node`.
pub(in crate::mqtt::broker) fn asked(node: u64, number: u64, question: &[u8]) -> Bytes {
    let mut bytes = head(ASKED, node);
    bytes.put_u64(number);
    bytes.extend_from_slice(question);
    bytes.into()
}

impl AnswerPart {
    /// Returns the encoded part.
    pub(in crate::mqtt::broker) fn encode(&self) -> Bytes {
        let mut bytes = head(ANSWERED, self.node);
        bytes.put_u64(self.asker);
        bytes.put_u64(self.question);
        bytes.put_u32(self.offset);
        bytes.put_u8(u8::from(self.is_last));
        bytes.extend_from_slice(&self.bytes);
        bytes.into()
    }

    fn decode(node: u64, mut bytes: Bytes) -> Option<Self> {
        let (asker, question) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
        let (offset, is_last) = (bytes.try_get_u32().ok()?, bytes.try_get_u8().ok()? != 0);
        Some(Self { node, asker, question, offset, is_last, bytes })
    }
}

/// Returns true for encoded edits.
pub(in crate::mqtt::broker) fn is_edited(bytes: &[u8]) -> bool {
    bytes.first() == Some(&EDITED)
}

/// Returns the identity of the session that an encoded opening opens; `None` for other messages.
pub(in crate::mqtt::broker) fn key_of_opened(bytes: &Bytes) -> Option<SessionKey> {
    if bytes.first() != Some(&OPENED) {
        return None;
    }
    let mut bytes = bytes.clone();
    let (_, node) = (bytes.try_get_u8().ok()?, bytes.try_get_u64().ok()?);
    Some(Opened::decode(node, bytes)?.key)
}

/// Returns the beginning of the encoded edits of `node`, for [`put_edit`].
pub(in crate::mqtt::broker) fn edited(node: u64) -> Vec<u8> {
    head(EDITED, node)
}

/// Appends an edit to the encoded ones.
pub(in crate::mqtt::broker) fn put_edit(edit: &RowEdit, out: &mut Vec<u8>) {
    let (kind, key, value) = match edit {
        RowEdit::Insert(key, value) => (INSERT, key, Some(value)),
        RowEdit::Put(key, value) => (PUT, key, Some(value)),
        RowEdit::Remove(key) => (REMOVE, key, None),
    };
    out.put_u8(kind);
    for part in [Some(&**key), value.map(|value| &**value)].into_iter().flatten() {
        out.put_u32(u32::try_from(part.len()).unwrap_or_default());
        out.extend_from_slice(part);
    }
}

fn edits(mut bytes: Bytes) -> Option<Vec<RowEdit>> {
    let mut edits = Vec::new();
    while bytes.has_remaining() {
        let kind = bytes.try_get_u8().ok()?;
        let key = part(&mut bytes)?.as_ref().into();
        edits.push(match kind {
            INSERT => RowEdit::Insert(key, part(&mut bytes)?),
            PUT => RowEdit::Put(key, part(&mut bytes)?),
            REMOVE => RowEdit::Remove(key),
            _ => return None,
        });
    }
    Some(edits)
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32().ok()? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

fn head(kind: u8, node: u64) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.put_u64(node);
    bytes
}

/// The bytes of a published message before the value of its row.
const HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 2 + 1 + 1;

#[cfg(test)]
#[expect(clippy::panic, reason = "tests")]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::Instant,
    };

    use super::*;
    use crate::{mqtt::protocol::packet::Protocol, shadow::Timestamp};

    fn decode(bytes: Bytes) -> Option<PeerMessage> {
        PeerMessage::decode(bytes, Now { date_ms: 0, instant: Instant::now() })
    }

    #[test]
    fn openings_come_back() {
        let (address, protocol) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Protocol::V5);
        let presence = Presence { connected: true, last_seen: Timestamp(7), address, protocol };
        let presence = (DeviceId::new("lamp").expect("an id"), presence);
        let row = Bytes::from_static(b"row");
        for (is_present, presence, row) in [(false, Some(presence), Some(row)), (true, None, None)] {
            let key = SessionKey { principal: Principal::of_known(&"p".into()), client_id: "c".into() };
            let (current, fresh, clean_start) = (SessionId(7), SessionId(9), !is_present);
            let opened = Opened { node: 3, key, current, is_present, fresh, clean_start, presence, row };
            let Some(PeerMessage::Opened(decoded)) = decode(opened.encode()) else { panic!("an opening") };
            assert_eq!(format!("{decoded:?}"), format!("{opened:?}"));
            let encoded = opened.encode();
            assert!(decode(encoded.slice(..20)).is_none());
        }
    }

    #[test]
    fn edits_come_back_and_damage_is_found() {
        let edits = [
            RowEdit::Insert(b"q1".as_slice().into(), Bytes::from_static(b"a")),
            RowEdit::Put(b"s".as_slice().into(), Bytes::new()),
            RowEdit::Remove(b"q".as_slice().into()),
        ];
        let mut bytes = edited(2);
        edits.iter().for_each(|edit| put_edit(edit, &mut bytes));
        let Some(PeerMessage::Edited(decoded)) = decode(bytes.clone().into()) else { panic!("edits") };
        assert_eq!(decoded, edits);
        assert!(decode(Bytes::from(bytes).slice(..12)).is_none());
        assert!(decode(started(1, SessionId(5))).is_some() && decode(adopted(1, SessionId(5), SessionId(6))).is_some());
        assert!(matches!(decode(gone(1, 2)), Some(PeerMessage::Gone { node: 2 })));
    }

    #[test]
    fn questions_and_answers_come_back() {
        let Some(PeerMessage::Asked { node: 1, number: 7, question }) = decode(asked(1, 7, b"q")) else {
            panic!("a question")
        };
        assert_eq!(&*question, b"q");
        let bytes = Bytes::from_static(b"a");
        let part = AnswerPart { node: 2, asker: 1, question: 7, offset: 9, is_last: true, bytes };
        let Some(PeerMessage::Answered(decoded)) = decode(part.encode()) else { panic!("an answer") };
        assert_eq!(format!("{decoded:?}"), format!("{part:?}"));
        assert!(decode(part.encode().slice(..20)).is_none());
    }
}
