//! Protocol violations by a client. Each ends the connection; an MQTT 5 client gets a DISCONNECT with the reason.
//!
//! The reason codes are in [`super::reason`]. Not here: requests that are refused in an acknowledgement, such as a
//! topic without the right to it or an invalid filter.

use crate::mqtt::protocol::topic::TopicError;

/// A protocol violation, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The remaining length, or another variable byte integer, has a fifth byte or is not in its shortest form.
    #[error("variable byte integer is longer than four bytes or not in its shortest form")]
    VariableInteger,
    /// The packet exceeds the limit, according to its fixed header; the rest is not read.
    #[error("packet of {bytes} bytes exceeds {max} bytes")]
    PacketTooLarge {
        /// Bytes of the packet, its fixed header included.
        bytes: usize,
        /// The largest packet that the server accepts, in bytes.
        max: usize,
    },
    /// Packet type 0, or AUTH from a 3.1.1 client.
    #[error("packet type {0} does not exist")]
    UnknownPacketType(u8),
    /// A packet that only a server sends.
    #[error("packet type {0} is sent by servers only")]
    ServerPacketType(u8),
    /// AUTH, although the CONNECT named no authentication method that the server accepts.
    #[error("AUTH without enhanced authentication")]
    Auth,
    /// Flags of the fixed header, or reserved bits elsewhere, do not have the values that the standard prescribes.
    #[error("reserved bits of {0} do not have their prescribed values")]
    ReservedBits(&'static str),
    /// The first packet is not a CONNECT.
    #[error("the first packet is not a CONNECT")]
    NotConnected,
    /// A second CONNECT.
    #[error("a second CONNECT")]
    SecondConnect,
    /// A field reaches beyond the end of its packet or property section.
    #[error("packet ends within a field")]
    Truncated,
    /// A packet has bytes after its last field.
    #[error("packet has bytes after its last field")]
    TrailingBytes,
    /// A string is not UTF-8 or contains NUL.
    #[error("string is not UTF-8 or contains NUL")]
    BadString,
    /// A string outside a PUBLISH contains a control character or a non-character.
    #[error("string contains a control character or a Unicode non-character")]
    Character,
    /// A property does not exist, or is not allowed in this packet.
    #[error("property {0:#04x} is not allowed in this packet")]
    UnknownProperty(u8),
    /// A property that is allowed once occurs twice.
    #[error("property {0:#04x} occurs twice")]
    DuplicateProperty(u8),
    /// A property has an invalid value.
    #[error("property {0:#04x} has an invalid value")]
    PropertyValue(u8),
    /// A packet has more user properties than the server accepts.
    #[error("packet has more than 256 user properties")]
    TooManyUserProperties,
    /// The decoder refuses a packet although its structure is valid: its reason code does not exist.
    #[error("packet is malformed")]
    Malformed,
    /// QoS 3.
    #[error("QoS 3 does not exist")]
    BadQoS,
    /// A PUBLISH at QoS 0 has the DUP flag.
    #[error("DUP flag at QoS 0")]
    DupAtQoS0,
    /// A packet identifier is 0.
    #[error("packet identifier is 0")]
    PacketIdZero,
    /// A PUBLISH that is not a resend has the identifier of an unacknowledged one.
    #[error("packet identifier {0} is in use")]
    PacketIdInUse(u16),
    /// A PUBREL arrived for a message whose PUBREC was not sent yet.
    #[error("PUBREL for packet identifier {0} before its PUBREC")]
    ReleasedTooEarly(u16),
    /// More QoS 2 packet identifiers are in use, over several connections, than the server remembers.
    #[error("too many QoS 2 messages wait for their PUBREL")]
    TooManyUnreleased,
    /// A topic is invalid, in a PUBLISH, a will or a response topic.
    #[error("{0}")]
    TopicName(TopicError),
    /// A PUBLISH has neither a topic nor a topic alias.
    #[error("PUBLISH has neither topic nor topic alias")]
    NoTopic,
    /// A topic alias is 0 or exceeds the topic alias maximum of CONNACK.
    #[error("topic alias {0} is 0 or exceeds the topic alias maximum")]
    TopicAliasRange(u16),
    /// A topic alias was not set on this connection.
    #[error("topic alias {0} was not set on this connection")]
    TopicAliasUnset(u16),
    /// A SUBSCRIBE or UNSUBSCRIBE has no filter.
    #[error("SUBSCRIBE or UNSUBSCRIBE has no filter")]
    NoFilter,
    /// Subscription options have retain handling 3, or No Local on a shared subscription.
    #[error("subscription options have retain handling 3, or No Local on a shared subscription")]
    SubscriptionOptions,
    /// CONNECT has will flags without a will, or in 3.1.1 a password without a user name.
    #[error("CONNECT flags contradict each other")]
    ConnectFlags,
    /// The protocol name and level are not those of a supported version.
    #[error("protocol name or level is not supported")]
    ProtocolVersion,
    /// The client id exceeds 256 bytes, contains control characters or non-characters, or in 3.1.1 is empty without
    /// clean session.
    #[error("client id exceeds 256 bytes, contains control characters, or is empty without clean session")]
    ClientId,
    /// An MQTT 5 client has more unacknowledged QoS 1 and 2 messages than the server's receive maximum.
    #[error("more unacknowledged messages than the receive maximum")]
    ReceiveMaximumExceeded,
    /// A DISCONNECT sets a session expiry interval although that of CONNECT was 0.
    #[error("DISCONNECT sets a session expiry interval although that of CONNECT was 0")]
    SessionExpiryRaised,
}
