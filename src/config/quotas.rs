//! The keys of `[limits]` for the quotas of connections, principals, shadows and source addresses.
//!
//! The keys `requests_…`, for one principal at one shadow, and `publishes_per_second` are in [`super::Limits`] itself.

use super::{
    check::{Section, checked},
    error::UnlocatedError,
    raw::RawLimits,
};
use crate::config::limits::{self as hard, KIB};

/// The quotas of connections, principals, shadows and source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The rate of bytes from one connection, above which it is throttled.
    pub connection_bytes_per_second: u64,
    /// The rate of packets other than PUBLISH from one connection, above which it is throttled. Each filter counts.
    pub control_packets_per_second: u32,
    /// The burst of these packets.
    pub control_packets_burst: u32,
    /// Most refusals of one connection per minute; above that it is closed.
    pub refusals_per_minute_max: u32,
    /// Most connections of one principal.
    pub principal_connections_max: usize,
    /// Most sessions of one principal, connected or not; at least `principal_connections_max`.
    pub principal_sessions_max: usize,
    /// Most filters in all sessions of one principal.
    pub principal_subscriptions_max: usize,
    /// Most event streams and waits for a change that one principal has open over HTTP.
    pub principal_streams_max: usize,
    /// Most retained ordinary messages published by one principal; further ones are refused.
    pub principal_retained_messages_max: usize,
    /// Most bytes of these messages in memory.
    pub principal_retained_bytes_max: usize,
    /// The rate of requests of one principal to all shadows.
    pub principal_requests_per_second: u32,
    /// The rate of bytes on all connections of one principal, above which they are throttled.
    pub principal_bytes_per_second: u64,
    /// Most bytes received from all connections of one principal and not handled yet.
    pub principal_input_bytes_max: usize,
    /// Most bytes received from all principals and not handled yet.
    pub input_bytes_max: usize,
    /// The rate of updates and deletions of one shadow by all principals.
    pub shadow_writes_per_second: u32,
    /// Most connections from one address.
    pub address_connections_max: usize,
    /// The rate of new connections from one address.
    pub address_connects_per_second: u32,
    /// The burst of new connections from one address.
    pub address_connects_burst: u32,
    /// Most connections per minute from one address that end before their CONNECT.
    pub address_failed_handshakes_per_minute: u32,
    /// True to apply the address limits to loopback.
    pub address_limits_on_loopback: bool,
}

/// Checks the quotas of the section `at`.
pub(super) fn quotas(at: &Section, raw: &RawLimits) -> Result<QuotaLimits, UnlocatedError> {
    let (bytes, connections) = (KIB..=hard::BYTES_PER_SECOND_MAX, 1..=hard::CONNECTIONS_MAX);
    let (requests, connects) = (1..=hard::REQUESTS_PER_SECOND_MAX, 1..=hard::CONNECTS_PER_SECOND_MAX);
    let input = hard::MIB..=hard::INPUT_BYTES_MAX;
    let quotas = QuotaLimits {
        connection_bytes_per_second: checked!(at.number(raw.connection_bytes_per_second, bytes.clone())),
        control_packets_per_second: checked!(
            at.number(raw.control_packets_per_second, 1..=hard::PUBLISHES_PER_SECOND_MAX)
        ),
        control_packets_burst: checked!(at.number(raw.control_packets_burst, 1..=hard::PUBLISHES_PER_SECOND_MAX)),
        refusals_per_minute_max: checked!(at.number(raw.refusals_per_minute_max, 1..=hard::FAILURES_PER_MINUTE_MAX)),
        principal_connections_max: checked!(at.number(raw.principal_connections_max, connections.clone())),
        principal_sessions_max: checked!(at.number(raw.principal_sessions_max, 1..=hard::SESSIONS_MAX)),
        principal_subscriptions_max: checked!(
            at.number(raw.principal_subscriptions_max, 1..=hard::FILTERS_PER_PRINCIPAL_MAX)
        ),
        principal_streams_max: checked!(at.number(raw.principal_streams_max, 1..=hard::STREAMS_MAX)),
        principal_retained_messages_max: checked!(
            at.number(raw.principal_retained_messages_max, 0..=hard::RETAINED_MESSAGES_MAX)
        ),
        principal_retained_bytes_max: checked!(
            at.number(raw.principal_retained_bytes_max, 0..=hard::RETAINED_BYTES_MAX)
        ),
        principal_requests_per_second: checked!(at.number(raw.principal_requests_per_second, requests.clone())),
        principal_bytes_per_second: checked!(at.number(raw.principal_bytes_per_second, bytes)),
        principal_input_bytes_max: checked!(at.number(raw.principal_input_bytes_max, input.clone())),
        input_bytes_max: checked!(at.number(raw.input_bytes_max, input)),
        shadow_writes_per_second: checked!(at.number(raw.shadow_writes_per_second, requests)),
        address_connections_max: checked!(at.number(raw.address_connections_max, connections)),
        address_connects_per_second: checked!(at.number(raw.address_connects_per_second, connects.clone())),
        address_connects_burst: checked!(at.number(raw.address_connects_burst, connects)),
        address_failed_handshakes_per_minute: checked!(
            at.number(raw.address_failed_handshakes_per_minute, 1..=hard::FAILURES_PER_MINUTE_MAX)
        ),
        address_limits_on_loopback: raw.address_limits_on_loopback.0,
    };
    // Every connection has a session.
    if quotas.principal_sessions_max < quotas.principal_connections_max {
        let (given, least) = (quotas.principal_sessions_max, quotas.principal_connections_max);
        let detail = format!("is {given}, but must be at least principal_connections_max, {least}");
        return Err(at.invalid("principal_sessions_max", detail));
    }
    Ok(quotas)
}
