//! The keys of `[limits]` for the quotas of connections, principals, shadows and source addresses.
//!
//! The keys `requests_rate`, for one principal at one shadow, and `publishes_rate` are in [`super::Limits`] itself.

use super::{
    derived,
    error::UnlocatedError,
    limits as hard, machine,
    raw::RawLimits,
    section::{Section, checked},
};
use crate::rate::Rate;

/// The quotas of connections, principals, shadows and source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The rate of packets other than PUBLISH from one connection, above which it is throttled. Each filter counts.
    pub control_packets: Rate,
    /// The rate of refusals of one connection, above which it is closed.
    pub refusals: Rate,
    /// Most bytes that the server keeps on behalf of all clients.
    pub memory: usize,
    /// Most bytes received from all principals and not handled yet, a part of `memory`.
    pub input_bytes_max: usize,
    /// Most bytes received from all connections of one principal and not handled yet.
    pub principal_input_bytes_max: usize,
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
    let memory = match raw.memory.0 {
        Some(memory) => at.number("memory", memory, hard::CLIENT_MEMORY_MIN..=hard::CLIENT_MEMORY_MAX)?,
        None => derived::client_memory(machine::memory()),
    };
    let input_bytes_max = derived::input_bytes(memory, packet_bytes_max);
    Ok(QuotaLimits {
        control_packets: derived::control_packets(raw.publishes_rate),
        refusals: derived::refusals(raw.publishes_rate),
        memory,
        input_bytes_max,
        principal_input_bytes_max: derived::principal_input_bytes(input_bytes_max, packet_bytes_max),
        address_connections_max: checked!(at.number(raw.address_connections_max, 1..=hard::CONNECTIONS_MAX)),
        address_connects: checked!(at.rate(raw.address_connects_rate, hard::CONNECTS_RATE)),
        address_failed_handshakes: derived::failed_handshakes(raw.address_connects_rate),
        address_limits_on_loopback: raw.address_limits_on_loopback.0,
    })
}
