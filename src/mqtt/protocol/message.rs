//! Application messages for subscribers, and their PUBLISH packets.
//!
//! A message is shared between its receivers. The head of its PUBLISH packet is encoded once per protocol version, with
//! and without a packet identifier. The head is everything before the payload: fixed header, topic, a placeholder for
//! the identifier, and properties. A write copies head and payload, and patches flags and identifier. Deliveries with
//! subscription identifiers, or with a message expiry interval, need their own head.
//!
//! Properties are not sent to MQTT 3.1.1 clients, whose packets have none.
//!
//! Not here: the receivers of a message ([`crate::mqtt::broker::router`]), and the life of its packet identifier
//! ([`crate::mqtt::session`]).

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::mqtt::protocol::{
    codec::put,
    packet::{PacketId, Properties, Protocol, QoS},
    topic::{TopicFilter, TopicName},
};

/// A published message.
#[derive(Debug)]
pub struct Message {
    /// The topic it was published to.
    pub topic: TopicName,
    /// The payload.
    pub payload: Bytes,
    /// The QoS it was published at; a subscription may lower it.
    pub qos: QoS,
    /// The retain flag it was published with.
    pub retain: bool,
    /// MQTT 5 properties, without a topic alias.
    pub properties: Option<Box<Properties>>,
    /// The end of its message expiry interval. An interval of 0 ends after [`MOMENT`].
    pub expires_at: Option<Instant>,
    /// The row of the store that has the message, if it waits for a session that outlives its connection.
    pub(in crate::mqtt) row: OnceLock<Box<dyn MessageRow>>,
    pub(in crate::mqtt) heads: Heads,
}

/// A row of the store. Dropping it removes the row, unless that was done before.
pub trait Row: fmt::Debug + Send + Sync {
    /// Removes the row, whoever else has a handle to it.
    fn remove(&self);

    /// Notes that the row was never written, and will not be: there is none to remove. A removal could meet that of a later message.
    fn forget(&self);
}

/// The row of the store that has a message. Dropping it removes the row.
pub trait MessageRow: fmt::Debug + Send + Sync {
    /// Adds a row for `delivery` of this message to the session with this number.
    fn insert(&self, delivery: &Delivery, session: u64) -> Arc<dyn DeliveryRow>;

    /// Returns the number of the rows of deliveries that were added.
    fn deliveries(&self) -> usize;
}

/// The row of the store that has a delivery. Dropping it removes the row.
pub trait DeliveryRow: fmt::Debug + Send + Sync {
    /// Records that the delivery is sent with `id`.
    fn sent(&self, id: PacketId);

    /// Records at QoS 2 that the client has the message, and that PUBREL is due.
    fn released(&self);

    /// Calls `then` when everything recorded so far is on disk.
    fn after_commit(&self, then: Box<dyn FnOnce() + Send>);
}

/// The identifiers of the subscriptions that selected a message; none for most.
pub type SubscriptionIds = Box<[u32]>;

/// One message for one subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The published message.
    pub message: Arc<Message>,
    /// The lower of the message's and the subscription's QoS.
    pub qos: QoS,
    /// The retain flag for this subscriber.
    pub retain: bool,
    /// Identifiers of the subscriptions, if they have any.
    pub subscription_ids: SubscriptionIds,
    /// The shared subscription, for a delivery to a group.
    pub share: Option<Arc<TopicFilter>>,
    /// The row of the store that has the delivery.
    pub row: Option<Arc<dyn DeliveryRow>>,
}

/// The encoded heads of a message, each encoded at its first use.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Heads {
    v4: OnceLock<Head>,
    v4_with_id: OnceLock<Head>,
    v5: OnceLock<Head>,
    v5_with_id: OnceLock<Head>,
}

/// A PUBLISH packet up to its payload, flags and packet identifier zero.
#[derive(Clone, Debug)]
struct Head {
    bytes: Box<[u8]>,
    /// Position of the packet identifier in `bytes`, if there is one.
    id_at: usize,
}

impl Message {
    /// Returns a message published at `now`, when its message expiry interval begins.
    #[must_use]
    pub fn new(
        topic: TopicName,
        payload: Bytes,
        qos: QoS,
        retain: bool,
        properties: Option<Box<Properties>>,
        now: Instant,
    ) -> Self {
        let expiry = properties.as_ref().and_then(|properties| properties.message_expiry);
        let lifetime = |seconds| if seconds == 0 { MOMENT } else { Duration::from_secs(u64::from(seconds)) };
        let expires_at = expiry.and_then(|seconds| now.checked_add(lifetime(seconds)));
        let (row, heads) = (OnceLock::new(), Heads::default());
        Self { topic, payload, qos, retain, properties, expires_at, row, heads }
    }

    /// Returns a copy, which has no row.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Self { topic, payload, qos, retain, properties, expires_at, row: _, heads: _ } = self;
        let (topic, payload, properties) = (topic.clone(), payload.clone(), properties.clone());
        let (qos, retain, expires_at, row, heads) = (*qos, *retain, *expires_at, OnceLock::new(), Heads::default());
        Self { topic, payload, qos, retain, properties, expires_at, row, heads }
    }

    /// Returns true if its message expiry interval has passed.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns true if the message may wait for a session without connection.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.qos != QoS::AtMostOnce && !self.is_momentary()
    }

    /// Returns true for a message expiry interval of 0. Such a message is only for connected sessions, and neither
    /// retained nor kept for a session without connection.
    #[must_use]
    pub fn is_momentary(&self) -> bool {
        self.properties.as_ref().is_some_and(|properties| properties.message_expiry == Some(0))
    }

    /// Returns true if the message, sent to be retained, clears its topic [MQTT-3.3.1-6], [MQTT-3.3.1-7]; one that expires at
    /// once replaces the former one all the same.
    #[must_use]
    pub fn clears_topic(&self) -> bool {
        self.payload.is_empty() || self.is_momentary()
    }

    /// Returns the bytes of topic, payload and properties, which the limits of queues count.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + self.properties_bytes()
    }

    /// Returns the memory of the properties in bytes.
    #[must_use]
    pub fn properties_bytes(&self) -> usize {
        self.properties.as_deref().map_or(0, Properties::bytes)
    }

    fn cached_head(&self, protocol: Protocol, with_id: bool) -> &Head {
        let cell = match (protocol, with_id) {
            (Protocol::V4, false) => &self.heads.v4,
            (Protocol::V4, true) => &self.heads.v4_with_id,
            (Protocol::V5, false) => &self.heads.v5,
            (Protocol::V5, true) => &self.heads.v5_with_id,
        };
        cell.get_or_init(|| self.encode_head(protocol, with_id, None, &[]))
    }

    fn encode_head(&self, protocol: Protocol, with_id: bool, expiry: Option<u32>, ids: &[u32]) -> Head {
        let topic = self.topic.as_str().as_bytes();
        let mut properties = Vec::new();
        if protocol == Protocol::V5 {
            let mut section = Vec::new();
            self.put_properties(expiry, ids, &mut section);
            put::varint(section.len(), &mut properties);
            properties.append(&mut section);
        }
        let id_len = if with_id { 2 } else { 0 };
        let remaining = 2 + topic.len() + id_len + properties.len() + self.payload.len();

        let mut bytes = Vec::with_capacity(5 + remaining - self.payload.len());
        bytes.push(PUBLISH);
        put::varint(remaining.min(put::VARINT_MAX), &mut bytes);
        put::length_prefixed(topic, &mut bytes);
        let id_at = bytes.len();
        if with_id {
            put::two(0, &mut bytes);
        }
        bytes.append(&mut properties);
        Head { bytes: bytes.into(), id_at }
    }

    /// Writes the properties of OASIS MQTT 5.0 section 3.3.2.3, those that are encoded per delivery first.
    fn put_properties(&self, expiry: Option<u32>, ids: &[u32], out: &mut Vec<u8>) {
        if let Some(seconds) = expiry {
            out.push(0x02);
            put::four(seconds, out);
        }
        for id in ids {
            out.push(0x0B);
            put::varint(*id as usize, out);
        }
        let Some(properties) = &self.properties else { return };
        if let Some(indicator) = properties.payload_format_indicator {
            out.extend_from_slice(&[0x01, indicator]);
        }
        if let Some(content_type) = &properties.content_type {
            out.push(0x03);
            put::length_prefixed(content_type.as_bytes(), out);
        }
        if let Some(topic) = &properties.response_topic {
            out.push(0x08);
            put::length_prefixed(topic.as_str().as_bytes(), out);
        }
        if let Some(data) = &properties.correlation_data {
            out.push(0x09);
            put::length_prefixed(data, out);
        }
        for (name, value) in &properties.user {
            out.push(0x26);
            put::length_prefixed(name.as_bytes(), out);
            put::length_prefixed(value.as_bytes(), out);
        }
    }
}

impl Delivery {
    /// Returns the delivery of `message` at `qos`, by a subscription without options.
    #[must_use]
    pub fn new(message: Arc<Message>, qos: QoS) -> Self {
        Self { message, qos, retain: false, subscription_ids: Box::default(), share: None, row: None }
    }

    /// Appends the PUBLISH packet to `out` unless it is larger than `bytes_max`. Returns true if it was appended.
    ///
    /// `id` is `Some` exactly for QoS 1 and 2. `now` determines the remaining message expiry interval.
    pub fn write(
        &self,
        protocol: Protocol,
        id: Option<PacketId>,
        dup: bool,
        now: Instant,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let message = &*self.message;
        let own;
        let head = if self.has_cached_head(protocol) {
            message.cached_head(protocol, id.is_some())
        } else {
            own = message.encode_head(protocol, id.is_some(), self.seconds_left(now), &self.subscription_ids);
            &own
        };
        if head.bytes.len() + message.payload.len() > bytes_max.min(put::VARINT_MAX) {
            return false;
        }
        let start = out.len();
        out.reserve(head.bytes.len() + message.payload.len());
        out.extend_from_slice(&head.bytes);
        if let Some(flags) = out.get_mut(start) {
            *flags |= u8::from(dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        }
        if let Some((id, slot)) = id.zip(out.get_mut(start + head.id_at..start + head.id_at + 2)) {
            slot.copy_from_slice(&id.get().to_be_bytes());
        }
        out.extend_from_slice(&message.payload);
        true
    }

    /// Returns true if the PUBLISH packet with an identifier has at most `bytes_max` bytes.
    #[must_use]
    pub fn fits(&self, protocol: Protocol, now: Instant, bytes_max: usize) -> bool {
        let message = &*self.message;
        let head = if self.has_cached_head(protocol) {
            message.cached_head(protocol, true).bytes.len()
        } else {
            message.encode_head(protocol, true, self.seconds_left(now), &self.subscription_ids).bytes.len()
        };
        head + message.payload.len() <= bytes_max.min(put::VARINT_MAX)
    }

    /// Returns true if the head is the same for all subscribers, at all times.
    fn has_cached_head(&self, protocol: Protocol) -> bool {
        protocol == Protocol::V4 || (self.message.expires_at.is_none() && self.subscription_ids.is_empty())
    }

    /// Returns the received expiry interval less the time since publication, in seconds rounded up [MQTT-3.3.2-6].
    fn seconds_left(&self, now: Instant) -> Option<u32> {
        let left = self.message.expires_at?.saturating_duration_since(now);
        let seconds = u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        Some(if self.message.is_momentary() { 0 } else { seconds })
    }
}

/// Time that a message with an expiry interval of 0 may take within the server, since a connection's task has to be
/// scheduled. It is one unit of the interval.
const MOMENT: Duration = Duration::from_secs(1);

/// The first byte of a PUBLISH packet without flags.
const PUBLISH: u8 = 0x30;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn delivery(properties: Option<Properties>, qos: QoS, ids: &[u32], now: Instant) -> Delivery {
        let topic = TopicName::new("a/b").unwrap();
        let message = Message::new(topic, Bytes::from_static(b"hi"), qos, false, properties.map(Box::new), now);
        Delivery {
            message: Arc::new(message),
            qos,
            retain: false,
            subscription_ids: ids.into(),
            share: None,
            row: None,
        }
    }

    /// The parameters of one write.
    struct Case<'a> {
        properties: Option<&'a Properties>,
        protocol: Protocol,
        qos: QoS,
        dup: bool,
        ids: &'a [u32],
    }

    #[test]
    fn a_publish_is_written_byte_by_byte_as_the_standard_says() {
        use self::{
            Protocol::{V4, V5},
            QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce},
        };
        let some =
            Properties { content_type: Some("t".into()), user: vec![("k".into(), "v".into())], ..<_>::default() };
        let ttl = Properties { message_expiry: Some(10), ..<_>::default() };
        let plain = |protocol, qos| Case { properties: None, protocol, qos, dup: false, ids: &[] };
        let with = |properties, protocol, qos| Case { properties: Some(properties), ..plain(protocol, qos) };
        // label, parameters, bytes
        let table: [(&str, Case<'_>, &[u8]); 9] = [
            ("plain 3.1.1", plain(V4, AtMostOnce), b"\x30\x07\0\x03a/bhi"),
            ("no properties", Case { ids: &[9], ..with(&some, V4, AtMostOnce) }, b"\x30\x07\0\x03a/bhi"),
            ("no expiry", with(&ttl, V4, AtMostOnce), b"\x30\x07\0\x03a/bhi"),
            ("packet id", plain(V4, AtLeastOnce), b"\x32\x09\0\x03a/b\0\x07hi"),
            ("resend", Case { dup: true, ..plain(V4, ExactlyOnce) }, b"\x3c\x09\0\x03a/b\0\x07hi"),
            ("plain 5", plain(V5, AtMostOnce), b"\x30\x08\0\x03a/b\0hi"),
            ("properties", with(&some, V5, AtLeastOnce), b"\x32\x15\0\x03a/b\0\x07\x0b\x03\0\x01t\x26\0\x01k\0\x01vhi"),
            ("ids", Case { ids: &[1, 200], ..plain(V5, AtMostOnce) }, b"\x30\x0d\0\x03a/b\x05\x0b\x01\x0b\xc8\x01hi"),
            ("expiry", with(&ttl, V5, AtMostOnce), b"\x30\x0d\0\x03a/b\x05\x02\0\0\0\x08hi"),
        ];
        let start = Instant::now();
        let later = start + Duration::from_millis(2_500);
        for (label, Case { properties, protocol, qos, dup, ids }, bytes) in table {
            let delivery = delivery(properties.cloned(), qos, ids, start);
            let id = if qos == AtMostOnce { None } else { PacketId::new(7) };
            // The second write uses the cached head.
            for _ in 0..2 {
                let mut out = b"before".to_vec();
                assert!(delivery.write(protocol, id, dup, later, bytes.len(), &mut out), "{label}");
                assert_eq!(out.strip_prefix(b"before").unwrap(), bytes, "{label}");
                assert!(!delivery.write(protocol, id, dup, later, bytes.len() - 1, &mut out), "{label}");
                assert_eq!(out.len(), b"before".len() + bytes.len(), "{label}");
            }
        }
    }

    #[test]
    fn a_message_expires_when_its_interval_has_passed() {
        let start = Instant::now();
        let ttl = Properties { message_expiry: Some(10), ..<_>::default() };
        let message = delivery(Some(ttl), QoS::AtMostOnce, &[], start).message;
        assert!(!message.is_expired(start + Duration::from_secs(9)));
        assert!(message.is_expired(start + Duration::from_secs(10)));
        let momentary = Properties { message_expiry: Some(0), ..<_>::default() };
        let delivery = delivery(Some(momentary), QoS::AtMostOnce, &[], start);
        assert!(!delivery.message.is_expired(start) && delivery.message.is_expired(start + MOMENT));
        let mut out = Vec::new();
        assert!(delivery.write(Protocol::V5, None, false, start, usize::MAX, &mut out));
        assert_eq!(out, b"\x30\x0d\0\x03a/b\x05\x02\0\0\0\0hi", "0 seconds remain");
    }
}
