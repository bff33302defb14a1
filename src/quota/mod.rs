//! How much of the service one connection, principal, shadow or source address may have.
//!
//! Requests pass [`Quotas::admit`], and those that change something [`Quotas::admit_write`], whichever door they came
//! through; [`crate::service`] calls both. What is asked over HTTP about no single shadow passes
//! [`Quotas::admit_general`], a body that comes there [`Quotas::admit_body`], and whoever stays there to be told
//! something [`Quotas::admit_stream`]; who walks through the store waits for its turn by [`Principals::reading`].
//! `requests` counts them per principal and shadow, `principals` what a principal does altogether, `shadows` what
//! everybody does to one shadow, `addresses` who connects, by the `network` of each, `strangers` what those may occupy
//! who did not say yet who they are. All of them keep what they know in a `table` that is bounded, and count in `rate`s
//! and `tally`s. A `cause` names each quota, for who is refused and for the counters.
//!
//! Not here: how fast one connection is read ([`crate::mqtt`]'s `pace`), and what one may hold at a time, which is
//! limited where it is held.

mod addresses;
mod cause;
mod network;
mod principals;
mod rate;
mod requests;
mod shadows;
#[cfg(test)]
mod speed;
mod strangers;
mod table;
mod tally;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use self::{
    addresses::AddressLimits,
    principals::PrincipalLimits,
    requests::{Over, Requests},
    shadows::Shadows,
};
pub use self::{
    addresses::{Addresses, Visit},
    cause::Cause,
    network::Network,
    principals::{Allowance, Principals, Share, Streaming},
    rate::{Meter, Rate},
    requests::Admitted,
    strangers::Acquaintance,
};
use crate::{
    config::Limits,
    metrics::QuotaCounters,
    shadow::{Rejection, ShadowKey},
};

/// All quotas, and how often each was met.
#[derive(Debug)]
pub struct Quotas {
    /// Of source addresses.
    pub addresses: Addresses,
    /// Of principals.
    pub principals: Principals,
    /// Bytes that all strangers may occupy beyond what each may.
    strangers: Arc<Semaphore>,
    requests: Requests,
    shadows: Shadows,
    counters: QuotaCounters,
}

impl Quotas {
    /// Quotas as `limits` say, of which nothing is used.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let quotas = &limits.quotas;
        let address = AddressLimits {
            connections_max: quotas.address_connections_max,
            connects: Rate::new(quotas.address_connects_per_second, quotas.address_connects_burst),
            failed_handshakes: Rate::per_minute(quotas.address_failed_handshakes_per_minute.into()),
            strangers_bytes: (STRANGERS_BYTES / STRANGERS_PARTS)
                .max(2 * limits.packet_bytes_max.next_multiple_of(strangers::STEP_BYTES as usize)),
            on_loopback: quotas.address_limits_on_loopback,
        };
        let principal = PrincipalLimits {
            requests: Rate::per_second(quotas.principal_requests_per_second.into()),
            bytes: Rate::per_second(quotas.principal_bytes_per_second),
            subscriptions_max: quotas.principal_subscriptions_max,
            streams_max: quotas.principal_streams_max,
        };
        let requests = Rate::new(limits.requests_per_second, limits.requests_burst);
        let writes = Rate::per_second(quotas.shadow_writes_per_second.into());
        // A fleet of which every device has a request in flight to a shadow of its own finds room, and then some.
        let entries_max = limits.sessions_max + ENTRIES_SPARE;
        Self {
            addresses: Addresses::new(address, limits.connections_max + ENTRIES_SPARE),
            principals: Principals::new(principal, entries_max),
            strangers: Arc::new(Semaphore::new(STRANGERS_BYTES)),
            requests: Requests::new(requests, limits.requests_in_flight_max, entries_max),
            shadows: Shadows::new(writes, entries_max),
            counters: QuotaCounters::default(),
        }
    }

    /// Counts a connection from `address` that was just accepted, until what is returned is dropped. `None`: it is to
    /// be closed at once.
    #[must_use]
    pub fn enter(&self, address: IpAddr, now: Instant) -> Option<Visit> {
        self.addresses.enter(address, now).inspect_err(|cause| self.count(*cause)).ok()
    }

    /// A client from `address` of whom it is not known yet who it is.
    #[must_use]
    pub fn stranger(&self, address: IpAddr, now: Instant) -> Acquaintance {
        let own = self.addresses.strangers(address, now);
        Acquaintance::new(own.into_iter().chain([self.strangers.clone()]).collect())
    }

    /// Counts a request of `principal` to `key` until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`] that says which quota and when to come again; nothing was counted.
    pub fn admit(&self, principal: &Arc<str>, key: &ShadowKey, now: Instant) -> Result<Admitted, Rejection> {
        let principal_may = || self.principals.request(principal, now);
        self.requests.admit(principal, key, now, principal_may).map_err(|over| match over {
            Over::InFlight => {
                let max = u64::try_from(self.requests.in_flight_max).unwrap_or(u64::MAX);
                self.refuse(Cause::RequestsInFlight, max, self.requests.rate.time_of(1))
            }
            Over::Rate(wait) => self.refuse(Cause::Requests, self.requests.rate.count(), wait),
            Over::Principal(wait) => self.over_principal(wait),
        })
    }

    /// Counts a request of `principal` that is about no single shadow: a list, or a stream of events.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_general(&self, principal: &Arc<str>, now: Instant) -> Result<(), Rejection> {
        self.principals.request(principal, now).map_err(|wait| self.over_principal(wait))
    }

    /// Counts the body of a request that came over HTTP for the principal with this allowance.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_body(&self, principal: &Allowance, bytes: usize, now: Instant) -> Result<(), Rejection> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        principal
            .receive(bytes, now)
            .map_err(|wait| self.refuse(Cause::PrincipalBytes, self.principals.bytes().count(), wait))
    }

    /// Counts a stream of events, or a wait for a change, of `principal` until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_stream(&self, principal: &Arc<str>, now: Instant) -> Result<Streaming, Rejection> {
        self.principals.stream(principal, now).ok_or_else(|| {
            let max = u64::try_from(self.principals.streams_max()).unwrap_or(u64::MAX);
            self.refuse(Cause::PrincipalStreams, max, STREAM_WAIT)
        })
    }

    /// Counts a command that may be done to `key`, whoever sends it.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_write(&self, key: &ShadowKey, now: Instant) -> Result<(), Rejection> {
        let admitted = self.shadows.admit(key, now);
        admitted.map_err(|wait| self.refuse(Cause::ShadowWrites, self.shadows.rate.count(), wait))
    }

    /// Counts that something was refused or slowed. The log tells of the first time.
    pub fn count(&self, cause: Cause) {
        if self.counters.add(cause) == 1 {
            tracing::warn!(quota = cause.name(), "a quota was exceeded for the first time; further times are counted");
        }
    }

    /// How often each quota was met.
    #[must_use]
    pub fn counters(&self) -> &QuotaCounters {
        &self.counters
    }

    fn over_principal(&self, wait: Duration) -> Rejection {
        self.refuse(Cause::PrincipalRequests, self.principals.requests().count(), wait)
    }

    fn refuse(&self, cause: Cause, max: u64, wait: Duration) -> Rejection {
        self.count(cause);
        let quota = format!("more than {max} {}", cause.what());
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        Rejection::TooManyRequests { quota, retry_after_ms }
    }
}

/// After which a place for a stream may be free again: nobody knows.
const STREAM_WAIT: Duration = Duration::from_secs(1);
/// Entries that a table has room for besides one for each session. One of any table takes 200 to 300 bytes, its names
/// included.
const ENTRIES_SPARE: usize = 1 << 16;

/// What all strangers together may occupy beyond what each may; the largest packet fits.
const STRANGERS_BYTES: usize = 64 << 20;
/// Into so many parts, of which the strangers of one address may have one; a packet fits, with what it comes in.
const STRANGERS_PARTS: usize = 8;

const _: () = assert!(crate::limits::PACKET_BYTES_MAX < STRANGERS_BYTES as u64);
