//! The packets of MQTT 3.1.1 and 5, as one set of types for both versions.
//!
//! A field that 3.1.1 does not have gets its MQTT 5 default. Not here: the bytes of packets ([`super::codec`]), and
//! their handling ([`crate::mqtt::session`]).

use std::num::NonZeroU16;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::mqtt::protocol::topic::{TopicFilter, TopicName};

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

impl Protocol {
    /// Returns the name for the log and the lists of devices.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "mqtt-3.1.1",
            Self::V5 => "mqtt-5",
        }
    }
}

/// The delivery guarantee of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// Returns the QoS of two bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier, 1 to 65,535.
pub type PacketId = NonZeroU16;

/// An MQTT 5 reason code; codes below 0x80 are successes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

#[expect(missing_docs, reason = "the names are the standard's own, OASIS MQTT 5.0 section 2.4")]
impl Reason {
    pub const SUCCESS: Self = Self(0x00);
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED_PACKET: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    pub const CLIENT_IDENTIFIER_NOT_VALID: Self = Self(0x85);
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const SERVER_BUSY: Self = Self(0x89);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    pub const BANNED: Self = Self(0x8A);
    pub const SERVER_SHUTTING_DOWN: Self = Self(0x8B);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    pub const PACKET_IDENTIFIER_IN_USE: Self = Self(0x91);
    pub const PACKET_IDENTIFIER_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    pub const ADMINISTRATIVE_ACTION: Self = Self(0x98);
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);
    pub const USE_ANOTHER_SERVER: Self = Self(0x9C);

    /// Returns true if the code is 0x80 or above.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

/// A packet from a client.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientPacket {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    PubAck(PacketId, Reason),
    /// PUBREC.
    PubRec(PacketId, Reason),
    /// PUBREL.
    PubRel(PacketId),
    /// PUBCOMP.
    PubComp(PacketId),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE; an invalid filter is represented by its error.
    Unsubscribe(PacketId, Vec<Result<TopicFilter, Reason>>),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT with its session expiry interval in seconds, if it carries one.
    Disconnect(Reason, Option<u32>),
}

/// A CONNECT packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// The client's protocol version.
    pub protocol: Protocol,
    /// True for MQTT 3.1, which is handled as 3.1.1.
    pub is_3_1: bool,
    /// True for a bridge of another broker, which mosquitto marks by a bit of the protocol level. A bridge does not get
    /// its own messages, and gets all others with the retain flag they were published with.
    pub bridge: bool,
    /// The client id as sent; empty requests one from the server. At most 256 bytes, no NUL.
    pub client_id: String,
    /// Clean session (3.1.1) or clean start (5).
    pub clean_start: bool,
    /// Seconds of keep-alive; 0 turns it off.
    pub keep_alive: u16,
    /// Seconds the session outlives its connection; `u32::MAX` is for ever. From 3.1.1: 0 if clean, else `u32::MAX`.
    pub session_expiry: u32,
    /// Unacknowledged QoS 1 and 2 messages that the client accepts; 65,535 by default.
    pub receive_maximum: NonZeroU16,
    /// The largest packet that the client accepts, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// True if the client accepts reason strings.
    pub request_problem_information: bool,
    /// Set if the client requests enhanced authentication, which the server refuses (0x8C).
    pub authentication_method: Option<String>,
    /// The message to publish if the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Connect {
    /// Returns the CONNECT of a clean session with default fields.
    pub(in crate::mqtt) fn minimal(protocol: Protocol) -> Self {
        Self {
            protocol,
            is_3_1: false,
            bridge: false,
            client_id: String::new(),
            clean_start: true,
            keep_alive: 0,
            session_expiry: 0,
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_size: None,
            request_problem_information: true,
            authentication_method: None,
            will: None,
            username: None,
            password: None,
        }
    }
}

/// The message that the server publishes when the client's connection is lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// The topic.
    pub topic: TopicName,
    /// The payload.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: QoS,
    /// Its retain flag.
    pub retain: bool,
    /// Seconds from the end of the connection to the publication.
    pub delay: u32,
    /// Its other properties.
    pub properties: Option<Box<Properties>>,
}

impl Will {
    /// Returns its memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + self.properties.as_deref().map_or(0, Properties::bytes)
    }
}

/// A PUBLISH packet from a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// The topic; `None` if the alias determines it.
    pub topic: Option<TopicName>,
    /// MQTT 5 topic alias.
    pub alias: Option<NonZeroU16>,
    /// The application message.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// Packet identifier; `Some` exactly for QoS 1 and 2.
    pub id: Option<PacketId>,
    /// The DUP flag, set for a resend.
    pub dup: bool,
    /// The retain flag.
    pub retain: bool,
    /// MQTT 5 properties other than the alias.
    pub properties: Option<Box<Properties>>,
}

/// The properties that are forwarded with a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// 1 if the payload is UTF-8.
    pub payload_format_indicator: Option<u8>,
    /// Message expiry interval in seconds.
    pub message_expiry: Option<u32>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// The topic for a reply.
    pub response_topic: Option<TopicName>,
    /// Data by which the requester matches a reply with its request.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

impl Properties {
    /// Returns their memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.content_type.as_ref().map_or(0, String::len)
            + self.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + self.user.iter().map(user_property_bytes).sum::<usize>()
    }
}

/// Returns the memory of a user property: two strings, and its bytes again in the head of the packet.
fn user_property_bytes(pair: &(String, String)) -> usize {
    size_of_val(pair) + 2 * (ALLOCATION_BYTES + pair.0.len() + pair.1.len())
}

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Packet identifier.
    pub id: PacketId,
    /// MQTT 5 subscription identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// At least one filter; an invalid one is represented by its error.
    pub filters: Vec<Result<Subscription, Reason>>,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter.
    pub filter: TopicFilter,
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local: the subscriber's own messages are not sent to it.
    pub no_local: bool,
    /// Retain As Published: the retain flag is sent as published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// The condition under which a SUBSCRIBE gets the retained messages that it selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    Send,
    /// Only if the subscription did not exist.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// A packet from the server, except PUBLISH, which [`super::message`] encodes.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerPacket {
    /// CONNACK.
    ConnAck(Box<ConnAck>),
    /// PUBACK with a reason string.
    PubAck(PacketId, Reason, Option<String>),
    /// PUBREC with a reason string.
    PubRec(PacketId, Reason, Option<String>),
    /// PUBREL.
    PubRel(PacketId, Reason),
    /// PUBCOMP.
    PubComp(PacketId, Reason),
    /// SUBACK.
    SubAck(PacketId, Vec<Reason>),
    /// UNSUBACK.
    UnsubAck(PacketId, Vec<Reason>),
    /// PINGRESP.
    PingResp,
    /// DISCONNECT with a reason string; not sent to a 3.1.1 client.
    Disconnect(Reason, Option<String>),
}

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnAck {
    /// True if an earlier session is resumed.
    pub session_present: bool,
    /// Success or the reason of the refusal; mapped to a return code for a 3.1.1 client.
    pub reason: Reason,
    /// Explanation of a refusal.
    pub reason_string: Option<String>,
    /// The client id, if the server chose it.
    pub assigned_client_id: Option<String>,
    /// The server's limits, sent to MQTT 5 clients on success.
    pub limits: Option<ConnAckLimits>,
}

/// The limits in a CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAckLimits {
    /// Unacknowledged QoS 1 and 2 messages that the server accepts.
    pub receive_maximum: NonZeroU16,
    /// The largest packet that the server accepts, in bytes.
    pub maximum_packet_size: u32,
    /// The highest alias that a client may set.
    pub topic_alias_maximum: u16,
    /// Session expiry in seconds, if it is shorter than requested.
    pub session_expiry: Option<u32>,
    /// Keep-alive in seconds, if it differs from the requested one.
    pub server_keep_alive: Option<u16>,
}

/// Bytes that a string takes on the heap in addition to its own.
const ALLOCATION_BYTES: usize = 8;
