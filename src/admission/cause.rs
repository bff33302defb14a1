//! The kinds of quotas that a client can exceed, and how often each was exceeded.

use std::fmt;

use crate::observability::metrics::Counter;

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
    /// Throttled: HTTP requests without a login from an address, or from all, that cause too much work.
    AddressWork, "address_work", "units of work a second without a login";
    /// Refused: a CONNECT of a principal with the maximum of sessions.
    PrincipalSessions, "principal_sessions", "sessions of one principal";
    /// Refused: a CONNECT while the server has the maximum of sessions.
    Sessions, "sessions", "sessions";
    /// Refused: a filter beyond the maximum of a session or of a SUBSCRIBE.
    Subscriptions, "subscriptions", "subscriptions of one session";
    /// Refused: a filter of a principal at its maximum.
    PrincipalFilters, "principal_filters", "filters of one principal";
    /// Refused: an event stream or a wait of a principal at its maximum.
    PrincipalStreams, "principal_streams", "streams of events and waits of one principal";
    /// Refused: a request of a principal to a shadow that has too many of its requests in flight.
    RequestsInFlight, "requests_in_flight", "requests in flight to one shadow";
    /// Refused: a request beyond the rate of its principal to one shadow.
    Requests, "requests", "requests a second to one shadow";
    /// Refused: something to keep for a principal at its limit of memory.
    PrincipalMemory, "principal_memory", "bytes kept for one principal";
    /// Refused: something to keep while the memory for clients is used up.
    Memory, "memory", "bytes kept for all clients";
    /// Refused: a message to keep while the disk is nearly full, or too much waits for it.
    Disk, "disk", "bytes on the disk of the store, or waiting for it";
    /// Throttled: a connection that publishes too often.
    Publishes, "publishes", "messages a second on one connection";
    /// Throttled: a connection that sends too many other packets.
    ControlPackets, "control_packets", "control packets a second on one connection";
    /// Throttled: a connection of a principal that causes too much work. Refused: an HTTP request of it.
    PrincipalWork, "principal_work", "units of work a second of one principal";
    /// Refused: an update of a principal that would create too many shadows.
    NewShadows, "new_shadows", "new shadows a day of one principal";
    /// Closed: a connection that waited too long for memory for an unfinished packet.
    InputBytes, "input_bytes", "bytes received and not handled yet";
    /// Closed: a connection that was refused too often.
    Refusals, "refusals", "refusals a minute on one connection";
    /// Closed: a connection whose client does not read the replies to its own requests.
    UnreadReplies, "unread_replies", "bytes of replies that one client does not read";
}

/// One counter per kind.
#[derive(Default)]
pub struct QuotaCounters([Counter; QuotaKind::ALL.len()]);

impl QuotaCounters {
    /// Counts one more of `kind` and returns the new count.
    pub fn add(&self, kind: QuotaKind) -> u64 {
        self.of(kind).increment()
    }

    /// Returns the count of `kind`.
    #[must_use]
    pub fn get(&self, kind: QuotaKind) -> u64 {
        self.of(kind).get()
    }

    fn of(&self, kind: QuotaKind) -> &Counter {
        self.0.get(kind as usize).expect("there is a counter for each kind")
    }
}

impl fmt::Debug for QuotaCounters {
    /// Lists the kinds with a count above zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exceeded = QuotaKind::ALL.iter().map(|&kind| (kind.name(), self.get(kind))).filter(|(_, count)| *count > 0);
        f.debug_map().entries(exceeded).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_has_a_counter_of_its_own() {
        let counters = QuotaCounters::default();
        for (number, kind) in (1..).zip(QuotaKind::ALL) {
            let counted = (0..number).map(|_| counters.add(*kind)).collect::<Vec<u64>>();
            assert_eq!(counted, (1..=number).collect::<Vec<_>>());
        }
        let counted: Vec<u64> = QuotaKind::ALL.iter().map(|kind| counters.get(*kind)).collect();
        assert_eq!(counted, (1..=counted.len() as u64).collect::<Vec<_>>());
    }
}
