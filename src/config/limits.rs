//! Hard maxima: the most that a configuration may set each limit to.
//!
//! A server enforces [`crate::config::Limits`], read from the configuration; every value there was checked to
//! lie within the range that ends here. A maximum stands for what the code was written for (an index that is a `u16`, a
//! recursion that must fit a stack), not for what a machine can bear. The assertions at the end state how they relate.

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,048,576 bytes.
pub const MIB: u64 = 1 << 20;
/// 1,073,741,824 bytes.
pub const GIB: u64 = 1 << 30;
/// 1,099,511,627,776 bytes.
pub const TIB: u64 = 1 << 40;

/// Canonical bytes of `desired` and `reported` together, and of `tags`.
pub const DOCUMENT_BYTES_MAX: u64 = MIB;
/// Leaves of one shadow, array elements counted.
pub const LEAVES_MAX: u64 = 65_536;
/// Levels of objects and arrays below a section; documents are walked recursively.
pub const DEPTH_MAX: u64 = 64;
/// Shadow names of one device.
pub const SHADOW_NAMES_MAX: u64 = 10_000;

/// Bytes of a packet from a client.
pub const PACKET_BYTES_MAX: u64 = 16 * MIB;
/// Bytes of an update around its sections: `state`, preconditions, tokens, the topic and the packet's header.
pub const ENVELOPE_BYTES: u64 = 4 * KIB;
/// Bytes of a topic name or filter, refused by the protocol above.
pub const TOPIC_BYTES_MAX: u64 = 512;
/// QoS 1 and 2 messages in flight on one connection: packet identifiers are 1 to 65,535.
pub const RECEIVE_MAXIMUM_MAX: u64 = u16::MAX as u64;
/// Seconds of a keep-alive: the protocol has two bytes for it.
pub const KEEP_ALIVE_SECONDS_MAX: u64 = u16::MAX as u64;

/// Requests in flight per principal and shadow.
pub const REQUESTS_IN_FLIGHT_MAX: u64 = 65_536;
/// Requests a second.
pub const REQUESTS_PER_SECOND_MAX: u64 = 1_000_000;

/// The range of a rate and its burst.
#[derive(Clone, Copy, Debug)]
pub struct RateRange {
    /// The period, in milliseconds, of the lowest rate, one per period.
    pub period_max: u64,
    /// The highest rate, per second.
    pub per_second_max: u64,
    /// The largest burst; the smallest is 1.
    pub burst_max: u64,
}
const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;
/// Requests per principal and shadow. The text of a refusal has their number per second, so it is at least one.
pub const REQUESTS_RATE: RateRange =
    RateRange { period_max: SECOND, per_second_max: REQUESTS_PER_SECOND_MAX, burst_max: 1_000_000 };
/// PUBLISH packets of one connection.
pub const PUBLISHES_RATE: RateRange = RateRange { period_max: DAY, per_second_max: 10_000_000, burst_max: 10_000_000 };
/// New connections from one address.
pub const CONNECTS_RATE: RateRange = RateRange { period_max: DAY, per_second_max: 1_000_000, burst_max: 1_000_000 };
/// Failed logins of one user from one address.
pub const LOGIN_FAILURES_RATE: RateRange = RateRange { period_max: DAY, per_second_max: 1_000, burst_max: 1_000_000 };

/// Streams of events that all principals together have open over HTTP, and as many requests that wait for a change.
pub const STREAMS_MAX: u64 = 8_192;
/// Filters of all sessions of one principal.
pub const FILTERS_PER_PRINCIPAL_MAX: u64 = 100_000_000;

/// The least memory for what the server keeps on behalf of all clients: the largest packet fits several times.
pub const CLIENT_MEMORY_MIN: u64 = 16 * MIB;
/// The most memory for what the server keeps on behalf of clients.
pub const CLIENT_MEMORY_MAX: u64 = TIB;
/// Units of work a second of one principal: the least is a CONNECT, the most a thousand processors.
pub const WORK_MIN: u64 = 100;
/// The most units of work a second.
pub const WORK_MAX: u64 = 1_000_000_000;
/// Shadows that one principal may create in a day.
pub const NEW_SHADOWS_MAX: u64 = 1_000_000_000;

/// Bytes queued towards one subscriber, connected or away.
pub const QUEUE_BYTES_MAX: u64 = 64 * MIB;
/// Sessions, connected or not.
pub const SESSIONS_MAX: u64 = 10_000_000;
/// Connections at once: more sockets than one address has ports would need more than one listener anyway.
pub const CONNECTIONS_MAX: u64 = 1_000_000;
/// Listeners.
pub const LISTENERS_MAX: usize = 16;
/// Hosts, origins or networks of one listener, each of which every request or connection is compared with.
pub const LISTED_MAX: usize = 64;

/// Bytes of plaintext in a TLS record; RFC 6066 section 4 has this as the smallest that a client may ask for.
pub const TLS_RECORD_BYTES_MIN: u64 = 512;
/// The most that a TLS record holds. RFC 8446 section 5.1.
pub const TLS_RECORD_BYTES_MAX: u64 = 16 * KIB;

/// The least memory for pages and decoded documents.
pub const MEMORY_MIN: u64 = 3 * MIB;
/// The most memory for pages and decoded documents.
pub const MEMORY_MAX: u64 = TIB;
/// Bytes of the journal, and of disk space to leave free.
pub const JOURNAL_BYTES_MAX: u64 = 16 * TIB;
/// Journal entries that may not yet be in the state table.
pub const LAG_ENTRIES_MAX: u64 = 10_000_000;
/// Bytes of journal that may not yet be in the state table.
pub const LAG_BYTES_MAX: u64 = 16 * GIB;
/// Days that a journal entry, or a session without a connection, may be kept.
pub const DAYS_MAX: u64 = 3_650;

/// The highest number of a node.
pub const NODE_MAX: u64 = 255;

// The longest topic of a shadow: `$aws/things/<128>/shadow/name/<64>/update/documents`.
const _: () = assert!("$aws/things//shadow/name//update/documents".len() as u64 + 128 + 64 <= TOPIC_BYTES_MAX);
// The largest document can be sent in one packet.
const _: () = assert!(2 * DOCUMENT_BYTES_MAX + ENVELOPE_BYTES <= PACKET_BYTES_MAX);
// A packet's remaining length has 28 bits.
const _: () = assert!(PACKET_BYTES_MAX < 1 << 28);
// A document with the most leaves is not too large before it has too many: a leaf is at least `"":0,`, less is an
// array.
const _: () = assert!(LEAVES_MAX * 2 <= DOCUMENT_BYTES_MAX);
// serde_json refuses more than 128 levels; the envelope and the section take two.
const _: () = assert!(DEPTH_MAX + 2 <= 128);
// Every connection has a session.
const _: () = assert!(CONNECTIONS_MAX <= SESSIONS_MAX);
// The session expiry interval has 32 bits.
const _: () = assert!(DAYS_MAX * 86_400 < u32::MAX as u64);
