//! Limits without a key: constants, and limits that follow from a key nearby.
//!
//! A limit is here if an operator has no reason to set it apart from its neighbour, or at all. [`super::removed`] names the
//! keys that were there.

use std::time::Duration;

use super::{
    limits::{self as hard, MIB},
    units::WrittenRate,
};
use crate::rate::Rate;

/// Removed paths that a shadow keeps. Beyond them a conflict with a removal is reported as a change: safe, less exact.
pub(super) const PATH_TOMBSTONES: usize = 256;
/// Filters in one SUBSCRIBE: Home Assistant sends 500.
pub(super) const FILTERS_PER_SUBSCRIBE: usize = 512;
/// Filters of one session; the limit of its role is for all sessions of a principal.
pub(super) const FILTERS_PER_SESSION: usize = 4_096;
/// Topic aliases of one connection: at most 8 KiB of topics.
pub(super) const TOPIC_ALIASES: u16 = 16;
/// Password checks that may wait, each of up to 1 KiB.
pub(super) const PASSWORD_CHECKS_WAITING: usize = 1_024;
/// The allowed difference to the clock of a token's issuer: both run NTP, so seconds are plenty.
pub(super) const TOKEN_LEEWAY: Duration = Duration::from_secs(10);

/// Most requests in flight of a principal at one shadow, unless the burst of its rate is larger.
const REQUESTS_IN_FLIGHT: u64 = 64;
/// Leaves of a shadow, unless its size is larger than the shipped one.
const LEAVES: u64 = 1_024;
/// Journal entries not yet in the state table, per `LAG_BYTES` of `lag_bytes_max`.
const LAG_ENTRIES: u64 = 200_000;
const LAG_BYTES: u64 = 64 * MIB;
/// The most memory of the caches that is taken without being asked for.
const STORE_MEMORY: u64 = 512 * MIB;
/// The least memory of a session, by which the number of sessions follows from the memory of all.
const SESSION_BYTES: usize = 2 << 10;

/// Returns the threads that check passwords, each with the memory of one hash: one for every four processors, so that
/// logins leave the others to those who are logged in.
pub(super) fn password_checks() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 4).clamp(1, 64))
}

/// Returns the shares of `memory` for pages of the store file and for decoded shadows.
pub(super) fn caches(memory: usize) -> (usize, usize) {
    let pages = memory / 3;
    (pages, memory - pages)
}

/// Returns the most journal entries not yet in the state table.
pub(super) fn lag_entries(lag_bytes_max: u64) -> u64 {
    // At most 16 GiB, so that the product fits.
    (lag_bytes_max * LAG_ENTRIES / LAG_BYTES).clamp(1, hard::LAG_ENTRIES_MAX)
}

/// Returns the most leaves of a shadow: one for each eight bytes.
pub(super) fn leaves(document_bytes_max: u64) -> usize {
    (document_bytes_max / 8).clamp(LEAVES, hard::LEAVES_MAX) as usize
}

/// Returns the most requests in flight of a principal at one shadow. A burst that the rate allows is not refused for it.
pub(super) fn requests_in_flight(requests: WrittenRate) -> usize {
    requests.burst.clamp(REQUESTS_IN_FLIGHT, hard::REQUESTS_IN_FLIGHT_MAX) as usize
}

/// Returns the rate of packets other than PUBLISH of a connection: five times as many.
pub(super) fn control_packets(publishes: WrittenRate) -> Rate {
    WrittenRate { count: publishes.count.saturating_mul(5), ..publishes }.rate()
}

/// Returns the rate of refusals that a connection may cause: a tenth of its messages, counted by the minute.
pub(super) fn refusals(publishes: WrittenRate) -> Rate {
    Rate::per_minute(publishes.per_minute() / 10)
}

/// Returns the memory of the caches on a machine with `machine` bytes: a quarter, at most 512 MiB.
pub(super) fn store_memory(machine: u64) -> u64 {
    (machine / 4).clamp(hard::MEMORY_MIN, STORE_MEMORY)
}

/// Returns the memory for clients on a machine with `machine` bytes: a quarter.
pub(super) fn client_memory(machine: u64) -> usize {
    let bytes = (machine / 4).clamp(hard::CLIENT_MEMORY_MIN, hard::CLIENT_MEMORY_MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns the most sessions: as many as fit into the memory for clients, and one for each connection.
pub(super) fn sessions(memory: usize, connections_max: usize) -> usize {
    (memory / SESSION_BYTES).clamp(connections_max, (hard::SESSIONS_MAX as usize).max(connections_max))
}

/// Returns the most bytes received from all principals and not handled yet: a quarter of the memory for clients, and
/// room for two of the largest packets.
pub(super) fn input_bytes(memory: usize, packet_bytes_max: usize) -> usize {
    (memory / 4).max(2 * packet_bytes_max)
}

/// Returns the most bytes received from one principal and not handled yet: an eighth of those of all, and room for the
/// largest packet.
pub(super) fn principal_input_bytes(input_bytes_max: usize, packet_bytes_max: usize) -> usize {
    (input_bytes_max / 8).max(2 * packet_bytes_max)
}

/// Returns the most bytes of a record of the log and of a message between nodes. One update, with the new and the former values,
/// or one message that is kept, is never cut in two.
pub(super) fn record_bytes(packet_bytes_max: usize) -> usize {
    2 * packet_bytes_max + (64 << 10)
}

/// Returns the rate of connections of one address that end before their CONNECT: a twentieth of all, counted by the
/// minute.
pub(super) fn failed_handshakes(connects: WrittenRate) -> Rate {
    Rate::per_minute(connects.per_minute() / 20)
}

/// Returns the rate of failed logins from one address, for all users together. Behind it may be a whole fleet.
pub(super) fn address_failures(user_failures: WrittenRate) -> Rate {
    let WrittenRate { count, period, burst } = user_failures;
    WrittenRate { count: count.saturating_mul(50), period, burst: burst.saturating_mul(10) }.rate()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::{MINUTE, SECOND};

    fn rate(count: u64, period: u64, burst: u64) -> WrittenRate {
        WrittenRate { count, period, burst }
    }

    /// The limits had keys of their own once; with the shipped file they are as they were.
    #[test]
    fn limits_follow_their_neighbour() {
        assert_eq!(caches(384 << 20), (128 << 20, 256 << 20));
        assert_eq!([64 << 10, 64 << 20, 16 << 30].map(lag_entries), [195, 200_000, 10_000_000]);
        assert_eq!([64, 8 << 10, 64 << 10, 1 << 20].map(leaves), [1_024, 1_024, 8_192, 65_536]);
        let bursts = [1, 40, 1_000, 1_000_000].map(|burst| requests_in_flight(rate(20, SECOND, burst)));
        assert_eq!(bursts, [64, 64, 1_000, 65_536]);
        assert_eq!(control_packets(rate(100, SECOND, 5_000)), Rate::within(500, Duration::from_secs(1), 5_000));
        assert_eq!(refusals(rate(100, SECOND, 5_000)), Rate::per_minute(600));
        assert_eq!(refusals(rate(1, MINUTE, 1)), Rate::per_minute(1), "at least one");
        assert_eq!([256 << 20, 512 << 20, 64 << 30].map(store_memory), [64 << 20, 128 << 20, 512 << 20]);
        assert_eq!([32 << 20, 512 << 20, 24 << 30].map(client_memory), [16 << 20, 128 << 20, 6 << 30]);
        assert_eq!(sessions(1 << 30, 100_000), 524_288);
        assert_eq!(sessions(16 << 20, 100_000), 100_000, "one for each connection");
        assert_eq!(input_bytes(128 << 20, 1 << 20), 32 << 20);
        assert_eq!(input_bytes(16 << 20, 16 << 20), 32 << 20, "two packets");
        assert_eq!(principal_input_bytes(256 << 20, 1 << 20), 32 << 20);
        assert_eq!(principal_input_bytes(2 << 20, 1 << 20), 2 << 20);
        assert_eq!(record_bytes(1 << 20), (2 << 20) + (64 << 10));
        assert_eq!(failed_handshakes(rate(200, SECOND, 20_000)), Rate::per_minute(600));
        assert_eq!(address_failures(rate(6, MINUTE, 5)), Rate::within(300, Duration::from_secs(60), 50));
    }
}
