//! The keys of `[limits]` for the quotas of connections, principals, shadows and source addresses.
//!
//! The keys `requests_rate`, for one principal at one shadow, and `publishes_rate` are in [`super::Limits`] itself.

use super::{
    derived,
    error::UnlocatedError,
    limits::{self as hard, KIB, MIB},
    raw::RawLimits,
    section::{Section, checked},
};
use crate::rate::Rate;

/// The quotas of connections, principals, shadows and source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The rate of bytes from one connection, above which it is throttled.
    pub connection_bytes_per_second: u64,
    /// The rate of packets other than PUBLISH from one connection, above which it is throttled. Each filter counts.
    pub control_packets: Rate,
    /// The rate of refusals of one connection, above which it is closed.
    pub refusals: Rate,
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
    pub address_connects: Rate,
    /// The rate of connections from one address that end before their CONNECT.
    pub address_failed_handshakes: Rate,
    /// True to apply the address limits to loopback.
    pub address_limits_on_loopback: bool,
}

/// Checks the quotas of the section `at`.
pub(super) fn quotas(at: &Section, raw: &RawLimits, packet_bytes_max: usize) -> Result<QuotaLimits, UnlocatedError> {
    let requests = 1..=hard::REQUESTS_PER_SECOND_MAX;
    let bytes = checked!(at.number(raw.principal_bytes_per_second, KIB..=hard::BYTES_PER_SECOND_MAX));
    let sessions = checked!(at.number(raw.principal_sessions_max, 1..=hard::CONNECTIONS_MAX));
    let input_bytes_max = checked!(at.number(raw.input_bytes_max, MIB..=hard::INPUT_BYTES_MAX));
    let retained_bytes_max = checked!(at.number(raw.retained_bytes_max, 0..=hard::RETAINED_BYTES_MAX));
    let retained_messages_max = derived::retained_messages(retained_bytes_max);
    let (principal_retained_messages_max, principal_retained_bytes_max) =
        derived::principal_retained(retained_messages_max, retained_bytes_max);
    Ok(QuotaLimits {
        connection_bytes_per_second: derived::connection_bytes_per_second(bytes),
        control_packets: derived::control_packets(raw.publishes_rate),
        refusals: derived::refusals(raw.publishes_rate),
        principal_connections_max: sessions,
        principal_sessions_max: sessions,
        principal_subscriptions_max: checked!(
            at.number(raw.principal_subscriptions_max, 1..=hard::FILTERS_PER_PRINCIPAL_MAX)
        ),
        principal_streams_max: derived::streams(sessions),
        principal_retained_messages_max,
        principal_retained_bytes_max,
        principal_requests_per_second: checked!(at.number(raw.principal_requests_per_second, requests.clone())),
        principal_bytes_per_second: bytes,
        principal_input_bytes_max: derived::principal_input_bytes(input_bytes_max, packet_bytes_max),
        input_bytes_max,
        shadow_writes_per_second: checked!(at.number(raw.shadow_writes_per_second, requests)),
        address_connections_max: checked!(at.number(raw.address_connections_max, 1..=hard::CONNECTIONS_MAX)),
        address_connects: checked!(at.rate(raw.address_connects_rate, hard::CONNECTS_RATE)),
        address_failed_handshakes: derived::failed_handshakes(raw.address_connects_rate),
        address_limits_on_loopback: raw.address_limits_on_loopback.0,
    })
}
