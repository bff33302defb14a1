//! The kinds of quotas that a client can exceed.

/// Declares the kinds with their names and the descriptions used in a 429 reply.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident, $name:literal, $what:literal;)*) => {
        /// The kind of quota that was exceeded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum QuotaKind {
            $($(#[$doc])* $cause,)*
        }

        impl QuotaKind {
            /// All kinds, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$cause,)*];

            /// Returns the name for metrics and the log.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$cause => $name,)*
                }
            }

            /// Returns the limited items, in words that follow a number.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$cause => $what,)*
                }
            }

            /// Returns the message for a count that is at its limit.
            #[must_use]
            pub fn full(self) -> String {
                format!("there are as many {} as there may be", self.what())
            }
        }
    };
}

causes! {
    /// Refused: a connection from an address at its maximum.
    AddressConnections, "address_connections", "connections from one address";
    /// Refused: a connection from an address that connects too often.
    AddressConnects, "address_connects", "new connections a second from one address";
    /// Refused: a connection from an address with too many failed handshakes.
    AddressFailedHandshakes, "address_failed_handshakes", "failed handshakes a minute from one address";
    /// Refused: a CONNECT of a principal with the maximum of connections.
    PrincipalConnections, "principal_connections", "connections of one principal";
    /// Refused: a CONNECT of a principal with the maximum of sessions.
    PrincipalSessions, "principal_sessions", "sessions of one principal";
    /// Refused: a CONNECT while the server has the maximum of sessions.
    Sessions, "sessions", "sessions";
    /// Refused: a filter beyond the maximum of a session or of a SUBSCRIBE.
    Subscriptions, "subscriptions", "subscriptions of one session";
    /// Refused: a filter of a principal at its maximum.
    PrincipalSubscriptions, "principal_subscriptions", "subscriptions of one principal";
    /// Refused: an event stream or a wait of a principal at its maximum.
    PrincipalStreams, "principal_streams", "streams of events and waits of one principal";
    /// Refused: a request of a principal to a shadow that has too many of its requests in flight.
    RequestsInFlight, "requests_in_flight", "requests in flight to one shadow";
    /// Refused: a request beyond the rate of its principal to one shadow.
    Requests, "requests", "requests a second to one shadow";
    /// Refused: a request beyond the rate of its principal to all shadows.
    PrincipalRequests, "principal_requests", "requests a second of one principal";
    /// Refused: an update or deletion beyond the rate of its shadow, whoever sends it.
    ShadowWrites, "shadow_writes", "updates and deletions a second of one shadow by all";
    /// Refused: a retained message while the server has the maximum of them.
    Retained, "retained", "retained messages";
    /// Refused: a retained message of a principal at its maximum.
    PrincipalRetained, "principal_retained", "retained messages of one principal";
    /// Throttled: a connection that publishes too often.
    Publishes, "publishes", "messages a second on one connection";
    /// Throttled: a connection that sends too many other packets.
    ControlPackets, "control_packets", "control packets a second on one connection";
    /// Throttled: a connection that sends too many bytes.
    Bytes, "bytes", "bytes a second on one connection";
    /// Throttled: a connection whose principal sends too many bytes. Refused: an HTTP request of that principal with a
    /// body.
    PrincipalBytes, "principal_bytes", "bytes a second of one principal";
    /// Closed: a connection that waited too long for memory for an unfinished packet.
    InputBytes, "input_bytes", "bytes received and not handled yet";
    /// Closed: a connection that was refused too often.
    Refusals, "refusals", "refusals a minute on one connection";
    /// Closed: a connection whose client does not read the replies to its own requests.
    UnreadReplies, "unread_replies", "bytes of replies that one client does not read";
}
