//! The packets of MQTT 3.1.1 and 5 as this server sees them: one typed vocabulary for both versions.
//!
//! What a 3.1.1 client cannot say has its MQTT 5 default here. Bytes are [`super::codec`]'s, meaning is
//! [`crate::mqtt::session`]'s.

use std::num::NonZeroU16;

use bytes::Bytes;

use crate::mqtt::protocol::topic::{TopicFilter, TopicName};

/// The protocol version a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

impl Protocol {
    /// Its name, for the log and lists of devices.
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

/// A packet identifier, 1 to 65,535.
pub type PacketId = NonZeroU16;

/// An MQTT 5 reason code; below 0x80 it says success.
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
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);

    /// Whether the code is 0x80 or above.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

/// What a client may send.
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
    /// UNSUBSCRIBE; a filter that is invalid is kept as its error.
    Unsubscribe(PacketId, Vec<Result<TopicFilter, Reason>>),
    /// PINGREQ.
    PingReq,
    /// DISCONNECT with its session expiry interval in seconds, if it carries one.
    Disconnect(Reason, Option<u32>),
}

/// A CONNECT packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Connect {
    /// The version the client speaks.
    pub protocol: Protocol,
    /// True for a bridge of another broker, as mosquitto's bridges show by a bit of the protocol level: it is not sent
    /// its own messages, and gets all with the retain flag they were published with.
    pub bridge: bool,
    /// As sent; empty asks the server for one. At most 256 bytes, no NUL.
    pub client_id: String,
    /// Clean session (3.1.1) or clean start (5).
    pub clean_start: bool,
    /// Seconds between packets; 0 is never.
    pub keep_alive: u16,
    /// Seconds the session outlives its connection; `u32::MAX` is for ever. From 3.1.1: 0 if clean, else `u32::MAX`.
    pub session_expiry: u32,
    /// Unacknowledged QoS 1 and 2 messages the client takes at once; 65,535 unless told.
    pub receive_maximum: NonZeroU16,
    /// The largest packet, in bytes, the client takes.
    pub maximum_packet_size: Option<u32>,
    /// Whether the client wants reason strings.
    pub request_problem_information: bool,
    /// Set if the client asked for enhanced authentication, which the server refuses (0x8C).
    pub authentication_method: Option<String>,
    /// What to publish if the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Connect {
    /// The CONNECT of a clean session that sets nothing.
    pub(in crate::mqtt) fn plain(protocol: Protocol) -> Self {
        Self {
            protocol,
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

/// The message a client leaves for the end of its connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    /// Where it goes.
    pub topic: TopicName,
    /// What it says.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds to wait after the connection ended.
    pub delay: u32,
    /// Its other properties.
    pub properties: Option<Box<Properties>>,
}

/// A PUBLISH packet from a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// `None`: the alias names the topic.
    pub topic: Option<TopicName>,
    /// MQTT 5 topic alias.
    pub alias: Option<NonZeroU16>,
    /// The application message.
    pub payload: Bytes,
    /// QoS.
    pub qos: QoS,
    /// `Some` exactly for QoS 1 and 2.
    pub id: Option<PacketId>,
    /// Whether it is a resend.
    pub dup: bool,
    /// Whether to keep it for later subscribers.
    pub retain: bool,
    /// MQTT 5 properties other than the alias.
    pub properties: Option<Box<Properties>>,
}

/// The properties of a message that travel with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// 1: the payload is UTF-8.
    pub payload_format_indicator: Option<u8>,
    /// Seconds the message stays worth delivering.
    pub message_expiry: Option<u32>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// Where a reply goes.
    pub response_topic: Option<TopicName>,
    /// What tells the requester which request a reply is for.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Packet identifier.
    pub id: PacketId,
    /// MQTT 5 subscription identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// At least one; a filter that is invalid is kept as its error.
    pub filters: Vec<Result<Subscription, Reason>>,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter.
    pub filter: TopicFilter,
    /// The largest QoS to deliver at.
    pub qos: QoS,
    /// Do not send the subscriber's own messages.
    pub no_local: bool,
    /// Keep the retain flag as published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// When a subscription is sent the retained messages it selects.
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

/// What the server sends, PUBLISH apart, which [`super::message`] encodes.
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
    /// DISCONNECT; to a 3.1.1 client nothing is sent.
    Disconnect(Reason, Option<String>),
}

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnAck {
    /// Whether an earlier session goes on.
    pub session_present: bool,
    /// Success or why not; mapped to the 3.1.1 return codes for a 3.1.1 client.
    pub reason: Reason,
    /// Explains a failure.
    pub reason_string: Option<String>,
    /// The client id the server chose.
    pub assigned_client_id: Option<String>,
    /// The server's limits, told to MQTT 5 clients on success.
    pub limits: Option<ConnAckLimits>,
}

/// The limits a CONNACK tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAckLimits {
    /// Unacknowledged QoS 1 and 2 messages the server takes at once.
    pub receive_maximum: NonZeroU16,
    /// The largest packet, in bytes, the server takes.
    pub maximum_packet_size: u32,
    /// Aliases a client may set.
    pub topic_alias_maximum: u16,
    /// Session expiry in seconds, if the server gave less than was asked.
    pub session_expiry: Option<u32>,
    /// Keep-alive in seconds, if the server wants another than was asked.
    pub server_keep_alive: Option<u16>,
}
