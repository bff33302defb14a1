//! What a client can do against the protocol. Each ends its connection, an MQTT 5 one after a DISCONNECT that says why.
//!
//! The reason codes are in [`super::reason`]. What a client may ask and be refused (a topic it has no right to, a
//! filter that is none) is no violation and has its reason in an acknowledgement.

use crate::mqtt::protocol::topic::TopicError;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The remaining length takes a fifth byte, or another variable byte integer does.
    #[error("a variable byte integer is longer than four bytes, or than it need be")]
    VariableInteger,
    /// The packet is larger than the server takes; known from its fixed header, before the rest is read.
    #[error("a packet of {bytes} bytes is larger than {max}")]
    PacketTooLarge {
        /// Bytes of the packet, its fixed header included.
        bytes: usize,
        /// The largest packet the server takes.
        max: usize,
    },
    /// Packet type 0, or AUTH from a 3.1.1 client.
    #[error("packet type {0} does not exist")]
    UnknownPacketType(u8),
    /// A packet that only a server sends.
    #[error("packet type {0} is not for a client to send")]
    ServerPacketType(u8),
    /// AUTH, though the CONNECT named no authentication method the server took.
    #[error("AUTH without enhanced authentication")]
    Auth,
    /// Flags of the fixed header, or reserved bits elsewhere, are not as the standard sets them.
    #[error("reserved bits are not as they must be in {0}")]
    ReservedBits(&'static str),
    /// The first packet is no CONNECT.
    #[error("the first packet is no CONNECT")]
    NotConnected,
    /// A second CONNECT.
    #[error("a second CONNECT")]
    SecondConnect,
    /// A field reaches beyond the end of its packet or property section.
    #[error("a packet ends within a field")]
    Truncated,
    /// Bytes are left after the last field of a packet.
    #[error("a packet goes on after its last field")]
    TrailingBytes,
    /// A string is no UTF-8 or holds a NUL.
    #[error("a string is not UTF-8, or holds NUL")]
    BadString,
    /// A string outside a PUBLISH holds a control character or a non-character.
    #[error("a string holds a control character or a Unicode non-character")]
    Character,
    /// A property that does not exist or not in this packet.
    #[error("property {0:#04x} does not belong into this packet")]
    UnknownProperty(u8),
    /// A property given twice that may be given once.
    #[error("property {0:#04x} is there twice")]
    DuplicateProperty(u8),
    /// A property with a value it cannot have.
    #[error("property {0:#04x} has a value it cannot have")]
    PropertyValue(u8),
    /// More user properties in one packet than the server takes.
    #[error("more than 256 user properties in one packet")]
    TooManyUserProperties,
    /// A packet the decoder refuses though its structure is right: a reason code that does not exist.
    #[error("a packet is malformed")]
    Malformed,
    /// QoS 3.
    #[error("QoS 3 does not exist")]
    BadQoS,
    /// The DUP flag in a PUBLISH at QoS 0.
    #[error("DUP at QoS 0")]
    DupAtQoS0,
    /// Packet identifier 0.
    #[error("packet identifier 0")]
    PacketIdZero,
    /// A PUBLISH at QoS 1 that is no resend, with the identifier of one still undecided.
    #[error("packet identifier {0} is in use")]
    PacketIdInUse(u16),
    /// A PUBREL for a message whose PUBREC was not sent yet.
    #[error("PUBREL for packet identifier {0} before its PUBREC")]
    ReleasedTooEarly(u16),
    /// More QoS 2 packet identifiers held open, over several connections, than the server remembers.
    #[error("too many QoS 2 messages wait for their PUBREL")]
    TooManyUnreleased,
    /// A topic that is none, in a PUBLISH, a will or a response topic.
    #[error("{0}")]
    TopicName(TopicError),
    /// No topic and no topic alias.
    #[error("a PUBLISH without topic and topic alias")]
    NoTopic,
    /// A topic alias that is 0 or above the maximum the server told.
    #[error("topic alias {0} is 0 or above the maximum")]
    TopicAliasRange(u16),
    /// A topic alias that was not set on this connection.
    #[error("topic alias {0} was not set")]
    TopicAliasUnset(u16),
    /// A SUBSCRIBE or UNSUBSCRIBE without a filter.
    #[error("a SUBSCRIBE or UNSUBSCRIBE without a filter")]
    NoFilter,
    /// Subscription options with retain handling 3, or no-local on a shared subscription.
    #[error("subscription options that exclude each other or do not exist")]
    SubscriptionOptions,
    /// A will's flags without a will, or in 3.1.1 a password without a user name.
    #[error("CONNECT flags that contradict each other")]
    ConnectFlags,
    /// Protocol name and level of no version the server speaks.
    #[error("a protocol name or level the server does not speak")]
    ProtocolVersion,
    /// A client id above 256 bytes or with control characters or non-characters, or in 3.1.1 none and no clean session.
    #[error("client id exceeds 256 bytes or holds control characters, or is missing for a session that is to last")]
    ClientId,
    /// An MQTT 5 client sent more QoS 1 and 2 messages at once than the server's receive maximum.
    #[error("more messages at once than the receive maximum")]
    ReceiveMaximumExceeded,
    /// A DISCONNECT that gives a session expiry to a session that was to end with its connection.
    #[error("a DISCONNECT cannot make a session last that CONNECT did not")]
    SessionExpiryRaised,
}
