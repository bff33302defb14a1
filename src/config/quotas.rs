//! The keys of `[limits]` that say how much of the service one connection, principal, shadow or source address may
//! have.
//!
//! Those of one principal at one shadow, `requests_…`, and `publishes_per_second` are in [`super::Limits`] itself.

use super::{
    check::{Section, checked},
    error::Fault,
    raw::RawLimits,
};
use crate::limits::{self as hard, KIB};

/// What a connection, a principal, a shadow and a source address may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes a second from one connection, above which reading pauses.
    pub connection_bytes_per_second: u64,
    /// Packets other than PUBLISH a second from one connection, each filter counted, above which reading pauses.
    pub control_packets_per_second: u32,
    /// Refusals for want of quota a minute, above which a connection is ended.
    pub refusals_per_minute_max: u32,
    /// Connections of one principal.
    pub principal_connections_max: usize,
    /// Sessions of one principal, connected or not; at least `principal_connections_max`.
    pub principal_sessions_max: usize,
    /// Filters of all sessions of one principal.
    pub principal_subscriptions_max: usize,
    /// Streams of events and waits for a change that one principal has open over HTTP.
    pub principal_streams_max: usize,
    /// Retained plain messages that one principal published, above which one is refused.
    pub principal_retained_messages_max: usize,
    /// Memory of those.
    pub principal_retained_bytes_max: usize,
    /// Requests a second of one principal to all shadows.
    pub principal_requests_per_second: u32,
    /// Bytes a second on all connections of one principal, above which reading pauses.
    pub principal_bytes_per_second: u64,
    /// Updates and deletions a second of one shadow by all principals.
    pub shadow_writes_per_second: u32,
    /// Connections from one address.
    pub address_connections_max: usize,
    /// New connections a second from one address, on average.
    pub address_connects_per_second: u32,
    /// New connections at once from one address, after a pause.
    pub address_connects_burst: u32,
    /// Connections a minute from one address that end before their CONNECT.
    pub address_failed_handshakes_per_minute: u32,
    /// Whether loopback counts as a source address like any other.
    pub address_limits_on_loopback: bool,
}

/// Checks the quotas of the section `at`.
pub(super) fn quotas(at: &Section, raw: &RawLimits) -> Result<QuotaLimits, Fault> {
    let (bytes, connections) = (KIB..=hard::BYTES_PER_SECOND_MAX, 1..=hard::CONNECTIONS_MAX);
    let (requests, connects) = (1..=hard::REQUESTS_PER_SECOND_MAX, 1..=hard::CONNECTS_PER_SECOND_MAX);
    let quotas = QuotaLimits {
        connection_bytes_per_second: checked!(at.number(raw.connection_bytes_per_second, bytes.clone())),
        control_packets_per_second: checked!(
            at.number(raw.control_packets_per_second, 1..=hard::PUBLISHES_PER_SECOND_MAX)
        ),
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
        let told = format!("is {given}, but must be at least principal_connections_max, {least}");
        return Err(at.invalid("principal_sessions_max", told));
    }
    Ok(quotas)
}
