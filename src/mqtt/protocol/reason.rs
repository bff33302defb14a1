//! Tables of reason codes: from violations to MQTT 5 reason codes, and from those to 3.1.1 return codes.

use crate::mqtt::protocol::{packet::Reason, violation::Violation};

impl Violation {
    /// Returns the reason code for the DISCONNECT, or for the CONNACK if there is no session yet.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::VariableInteger
            | Self::UnknownPacketType(_)
            | Self::ReservedBits(_)
            | Self::Truncated
            | Self::TrailingBytes
            | Self::BadString
            | Self::Character
            | Self::UnknownProperty(_)
            | Self::Malformed
            | Self::BadQoS
            | Self::DupAtQoS0
            | Self::ConnectFlags => Reason::MALFORMED_PACKET,
            Self::ServerPacketType(_)
            | Self::Auth
            | Self::NotConnected
            | Self::SecondConnect
            | Self::DuplicateProperty(_)
            | Self::PropertyValue(_)
            | Self::PacketIdZero
            | Self::PacketIdInUse(_)
            | Self::ReleasedTooEarly(_)
            | Self::NoTopic
            | Self::TopicAliasUnset(_)
            | Self::NoFilter
            | Self::SubscriptionOptions
            | Self::SessionExpiryRaised => Reason::PROTOCOL_ERROR,
            Self::PacketTooLarge { .. } => Reason::PACKET_TOO_LARGE,
            Self::TooManyUnreleased | Self::TooManyUserProperties => Reason::QUOTA_EXCEEDED,
            Self::TopicName(_) => Reason::TOPIC_NAME_INVALID,
            Self::TopicAliasRange(_) => Reason::TOPIC_ALIAS_INVALID,
            Self::ProtocolVersion => Reason::UNSUPPORTED_PROTOCOL_VERSION,
            Self::ClientId => Reason::CLIENT_IDENTIFIER_NOT_VALID,
            Self::ReceiveMaximumExceeded => Reason::RECEIVE_MAXIMUM_EXCEEDED,
        }
    }
}

impl Reason {
    /// Returns the return code of a 3.1.1 CONNACK; `None` if 3.1.1 has none, and the connection can only be closed.
    #[must_use]
    pub fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::SUCCESS => Some(0),
            Self::UNSUPPORTED_PROTOCOL_VERSION => Some(1),
            Self::CLIENT_IDENTIFIER_NOT_VALID => Some(2),
            Self::SERVER_UNAVAILABLE
            | Self::SERVER_BUSY
            | Self::SERVER_SHUTTING_DOWN
            | Self::QUOTA_EXCEEDED
            | Self::USE_ANOTHER_SERVER => Some(3),
            Self::BAD_USER_NAME_OR_PASSWORD => Some(4),
            // An invalid will topic has no own code in 3.1.1; 5, not authorized, is the closest.
            Self::NOT_AUTHORIZED | Self::BANNED | Self::BAD_AUTHENTICATION_METHOD | Self::TOPIC_NAME_INVALID => Some(5),
            _ => None,
        }
    }

    /// Returns the name in the standard, in lower case, for the log. OASIS MQTT 5.0 section 2.4.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SUCCESS => "success",
            Self::MALFORMED_PACKET => "malformed packet",
            Self::PROTOCOL_ERROR => "protocol error",
            Self::IMPLEMENTATION_SPECIFIC => "implementation specific error",
            Self::NOT_AUTHORIZED => "not authorized",
            Self::BANNED => "banned",
            Self::ADMINISTRATIVE_ACTION => "administrative action",
            Self::SERVER_UNAVAILABLE => "server unavailable",
            Self::SERVER_BUSY => "server busy",
            Self::SERVER_SHUTTING_DOWN => "server shutting down",
            Self::KEEP_ALIVE_TIMEOUT => "keep alive timeout",
            Self::SESSION_TAKEN_OVER => "session taken over",
            Self::TOPIC_FILTER_INVALID => "topic filter invalid",
            Self::TOPIC_NAME_INVALID => "topic name invalid",
            Self::PACKET_TOO_LARGE => "packet too large",
            Self::QUOTA_EXCEEDED => "quota exceeded",
            Self::PAYLOAD_FORMAT_INVALID => "payload format invalid",
            Self::USE_ANOTHER_SERVER => "use another server",
            _ => "unspecified error",
        }
    }

    /// Returns the return code of a 3.1.1 SUBACK: the granted QoS, or 0x80.
    #[must_use]
    pub fn subscribe_return_code(self) -> u8 {
        if self.is_failure() { 0x80 } else { self.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_map_to_return_codes() {
        // reason, CONNACK, SUBACK
        let table = [
            (Reason::SUCCESS, Some(0), 0),
            (Reason(2), None, 2),
            (Reason::UNSUPPORTED_PROTOCOL_VERSION, Some(1), 0x80),
            (Reason::CLIENT_IDENTIFIER_NOT_VALID, Some(2), 0x80),
            (Reason::SERVER_BUSY, Some(3), 0x80),
            (Reason::USE_ANOTHER_SERVER, Some(3), 0x80),
            (Reason::BAD_USER_NAME_OR_PASSWORD, Some(4), 0x80),
            (Reason::NOT_AUTHORIZED, Some(5), 0x80),
            (Reason::BANNED, Some(5), 0x80),
            (Reason::TOPIC_NAME_INVALID, Some(5), 0x80),
            (Reason::MALFORMED_PACKET, None, 0x80),
        ];
        for (reason, connack, suback) in table {
            assert_eq!(reason.connect_return_code(), connack, "{reason:?}");
            assert_eq!(reason.subscribe_return_code(), suback, "{reason:?}");
        }
    }
}
