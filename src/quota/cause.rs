//! Every quota that something may be refused or slowed for.

/// Declares the causes with their names and what there is too much of, as a 429 tells it.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident, $name:literal, $what:literal;)*) => {
        /// The quota that something was refused or slowed for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// All of them, in their order.
            pub const ALL: &[Self] = &[$(Self::$cause,)*];

            /// Its name, for metrics and the log.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$cause => $name,)*
                }
            }

            /// What there is more of than may be, in words that follow a number.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$cause => $what,)*
                }
            }

            /// Says that there may be no more of it.
            #[must_use]
            pub fn full(self) -> String {
                format!("there are as many {} as there may be", self.what())
            }
        }
    };
}

causes! {
    /// Refused: a connection from an address that has as many as it may.
    AddressConnections, "address_connections", "connections from one address";
    /// Refused: a connection from an address that connects too often.
    AddressConnects, "address_connects", "new connections a second from one address";
    /// Refused: a connection from an address whose connections come to nothing too often.
    AddressFailedHandshakes, "address_failed_handshakes", "failed handshakes a minute from one address";
    /// Refused: a CONNECT of a principal that has as many connections as it may.
    PrincipalConnections, "principal_connections", "connections of one principal";
    /// Refused: a CONNECT of a principal that has as many sessions as it may.
    PrincipalSessions, "principal_sessions", "sessions of one principal";
    /// Refused: a CONNECT, while there are as many sessions as there may be.
    Sessions, "sessions", "sessions";
    /// Refused: a filter of a session that has as many as it may, or of a SUBSCRIBE that has.
    Subscriptions, "subscriptions", "subscriptions of one session";
    /// Refused: a filter of a principal that has as many as it may.
    PrincipalSubscriptions, "principal_subscriptions", "subscriptions of one principal";
    /// Refused: a stream of events, or a wait, of a principal that has as many as it may.
    PrincipalStreams, "principal_streams", "streams of events and waits of one principal";
    /// Refused: a request of a principal to a shadow that has too many of its undecided.
    RequestsInFlight, "requests_in_flight", "requests in flight to one shadow";
    /// Refused: a request of a principal to a shadow.
    Requests, "requests", "requests a second to one shadow";
    /// Refused: a request of a principal, to whichever shadow.
    PrincipalRequests, "principal_requests", "requests a second of one principal";
    /// Refused: an update or deletion of a shadow, by whomever.
    ShadowWrites, "shadow_writes", "updates and deletions a second of one shadow by all";
    /// Refused: a message that is to be retained, while there are as many as there may be.
    Retained, "retained", "retained messages";
    /// Refused: a message that is to be retained, of a principal that has as many as it may.
    PrincipalRetained, "principal_retained", "retained messages of one principal";
    /// Slowed: a connection that publishes too often.
    Publishes, "publishes", "messages a second on one connection";
    /// Slowed: a connection that sends too many other packets.
    ControlPackets, "control_packets", "control packets a second on one connection";
    /// Slowed: a connection that sends too many bytes.
    Bytes, "bytes", "bytes a second on one connection";
    /// Slowed: a connection whose principal sends too many bytes. Refused: its request over HTTP that has a body.
    PrincipalBytes, "principal_bytes", "bytes a second of one principal";
    /// Ended: a connection that was refused too often.
    Refusals, "refusals", "refusals a minute on one connection";
    /// Ended: a connection whose client does not read the replies to its own requests.
    UnreadReplies, "unread_replies", "bytes of replies that one client does not read";
}
