//! Quotas of connections, principals, shadows and source addresses.
//!
//! Two budgets of each principal bound what its clients cost: the memory that the server keeps for them (`memory`) and
//! the work that they cause (`work`). The limits are those of its roles. Beside them:
//!
//! Every request to a shadow passes [`Quotas::admit`]; [`crate::engine`] calls it, for MQTT and HTTP alike. An HTTP
//! request passes [`Quotas::admit_http`]. Event streams and waits pass [`Quotas::admit_stream`]. Scans of the store wait
//! for a permit of [`Principals::reading`].
//!
//! - `requests` counts requests per principal and shadow.
//! - `principals` counts the usage of a principal over all its connections.
//! - `addresses` counts connections per source network.
//! - `unauthenticated` charges the work of HTTP requests without a login to source networks.
//! - `preauth_budget` limits the memory of input that is not handled yet.
//!
//! All of them store their usage in a bounded `rate_table` and count with `rate` and `counter`. A `cause` names each quota,
//! for rejections and metrics.
//!
//! Not here: the read rate of one connection (`connection/rate_limit.rs` in [`crate::mqtt`]), and limits on concurrent use, which are
//! checked where the resource is held.

mod addresses;
mod cause;
mod counter;
mod day_count;
pub(crate) mod login_throttle;
pub mod memory;
mod preauth_budget;
mod principals;
mod rate_table;
mod requests;
mod unauthenticated;
pub mod work;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    addresses::AddressLimits,
    preauth_budget::Budget,
    requests::{Exceeded, Requests},
};
pub use crate::{
    admission::{
        addresses::{AddressPermit, Addresses, Network},
        cause::{QuotaCounters, QuotaKind},
        counter::Permit,
        memory::{Charge, Memory},
        preauth_budget::PreAuthPermit,
        principals::{PrincipalPermit, PrincipalQuota, PrincipalUsage, Principals, Streaming},
        requests::Admitted,
        unauthenticated::{RequestClass, UnauthenticatedWork},
    },
    rate::{Gcra, Rate},
};
use crate::{
    config::{Limits, RoleLimits},
    observability::logging::{LineLimit, Shortened, limited},
    shadow::{Rejection, ShadowKey},
};

/// All quotas, with a counter of violations for each.
#[derive(Debug)]
pub struct Quotas {
    /// The quotas per source address.
    pub addresses: Addresses,
    /// The quotas per principal.
    pub principals: Principals,
    /// The memory budget shared by all unauthenticated clients, beyond the free bytes of each.
    preauth_budget: Budget,
    /// The work of HTTP requests without a login.
    pub unauthenticated: UnauthenticatedWork,
    requests: Requests,
    counters: QuotaCounters,
    lines: LineLimit,
}

impl Quotas {
    /// Returns unused quotas with the given `limits`.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let quotas = &limits.quotas;
        let address = AddressLimits {
            connections_max: quotas.address_connections_max,
            connects: quotas.address_connects,
            failed_handshakes: quotas.address_failed_handshakes,
            strangers_bytes: (STRANGERS_BYTES / STRANGERS_PARTS)
                .max(2 * limits.packet_bytes_max.next_multiple_of(preauth_budget::STEP_BYTES as usize)),
            on_loopback: quotas.address_limits_on_loopback,
        };
        // Room for every device of a fleet to have a request in flight to its own shadow, plus a reserve.
        let entries_max = limits.sessions_max + ENTRIES_SPARE;
        Self {
            addresses: Addresses::new(address, limits.connections_max + ENTRIES_SPARE),
            principals: Principals::new(
                quotas.principal_input_bytes_max,
                entries_max,
                Budget::new(quotas.input_bytes_max),
                quotas.memory,
            ),
            preauth_budget: Budget::new(STRANGERS_BYTES),
            unauthenticated: UnauthenticatedWork::new(limits.connections_max + ENTRIES_SPARE),
            requests: Requests::new(limits.requests, limits.requests_in_flight_max, entries_max),
            counters: QuotaCounters::default(),
            lines: LineLimit::default(),
        }
    }

    /// Counts a connection from `address` that was just accepted, until the permit is dropped. `None`: the connection
    /// must be closed at once.
    #[must_use]
    pub fn enter(&self, address: IpAddr, now: Instant) -> Option<AddressPermit> {
        self.addresses.enter(address, now).inspect_err(|cause| self.count(*cause)).ok()
    }

    /// Returns the memory budget of a client from `address` before its authentication.
    #[must_use]
    pub fn stranger(&self, address: IpAddr, now: Instant) -> PreAuthPermit {
        let own = self.addresses.preauth_budget(address, now);
        PreAuthPermit::new(own.into_iter().chain([self.preauth_budget.clone()]).collect())
    }

    /// Counts a request of the principal with this quota to `key` until the returned permit is dropped, and charges its
    /// work.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`] with the quota and the time to wait; nothing was counted.
    pub fn admit(&self, principal: &PrincipalQuota, key: &ShadowKey, now: Instant) -> Result<Admitted, Rejection> {
        let admitted = self.requests.admit(principal.name(), key, now).map_err(|over| match over {
            Exceeded::InFlight => {
                let max = u64::try_from(self.requests.in_flight_max).unwrap_or(u64::MAX);
                self.refuse(QuotaKind::RequestsInFlight, max, self.requests.rate.time_of(1))
            }
            Exceeded::Rate(wait) => self.refuse(QuotaKind::Requests, self.requests.rate.count_per_second(), wait),
        })?;
        let _throttles_its_connection = principal.charge_work(work::COMMAND, now);
        Ok(admitted)
    }

    /// Charges `units` of work of an HTTP request of the principal with this quota.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_http(&self, principal: &PrincipalQuota, units: u64, now: Instant) -> Result<(), Rejection> {
        principal.admit_work(units, now).map_err(|wait| {
            self.count_for(QuotaKind::PrincipalWork, principal.name());
            refusal(QuotaKind::PrincipalWork, principal.limits().work, wait)
        })
    }

    /// Counts an event stream or a wait for a change of the principal with this quota, until the returned permit is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_stream(&self, principal: &Arc<PrincipalQuota>) -> Result<Streaming, Rejection> {
        self.principals.stream(principal).map_err(|cause| {
            let max = match cause {
                QuotaKind::PrincipalStreams => principal.streams_max(),
                QuotaKind::PrincipalMemory => principal.limits().memory,
                _ => self.principals.memory().limit(),
            };
            self.count_for(cause, principal.name());
            refusal(cause, u64::try_from(max).unwrap_or(u64::MAX), STREAM_WAIT)
        })
    }

    /// Charges the memory of an HTTP connection to the principal with this quota, until the charge is dropped.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`].
    pub fn admit_http_connection(&self, principal: &Arc<PrincipalQuota>) -> Result<Charge, Rejection> {
        let mut charge = Charge::new(principal.clone(), 0);
        self.grow(&mut charge, HTTP_CONNECTION_BYTES)?;
        Ok(charge)
    }

    /// Changes `charge` to at least `bytes`, for something that grows while a request is answered.
    ///
    /// # Errors
    ///
    /// As [`Quotas::admit`]; the charge is as before.
    pub fn grow(&self, charge: &mut Charge, bytes: usize) -> Result<(), Rejection> {
        let (principal, growth) = (charge.quota(), bytes.saturating_sub(charge.bytes()));
        let checked = if growth > 0 { principal.check_memory(growth) } else { Ok(()) };
        if let Err(cause) = checked {
            let own = cause == QuotaKind::PrincipalMemory;
            let max = if own { principal.limits().memory } else { self.principals.memory().limit() };
            self.count_for(cause, principal.name());
            return Err(refusal(cause, u64::try_from(max).unwrap_or(u64::MAX), STREAM_WAIT));
        }
        charge.follow(bytes);
        Ok(())
    }

    /// Returns the quota of a principal that may have no connection here. The limits of its roles are set when it connects, and those
    /// of one that has are left as they are.
    #[must_use]
    pub fn of_absent(&self, principal: &Arc<str>) -> Arc<PrincipalQuota> {
        self.principals.known_or_new(principal, &RoleLimits::UNLIMITED, Instant::now())
    }

    /// Counts a refusal or throttling of `principal`, and logs a few lines a minute that name it.
    pub fn count_for(&self, cause: QuotaKind, principal: &str) {
        self.counters.add(cause);
        limited!(info, self.lines, principal = %Shortened(principal), quota = cause.name(), "a principal exceeds a quota");
    }

    /// Counts a refusal or throttling; logs the first of each kind.
    pub fn count(&self, cause: QuotaKind) {
        if self.counters.add(cause) == 1 {
            tracing::warn!(quota = cause.name(), "a quota was exceeded for the first time; further times are counted");
        }
    }

    /// Returns the counters of exceeded quotas.
    #[must_use]
    pub fn counters(&self) -> &QuotaCounters {
        &self.counters
    }

    fn refuse(&self, cause: QuotaKind, max: u64, wait: Duration) -> Rejection {
        self.count(cause);
        refusal(cause, max, wait)
    }
}

fn refusal(cause: QuotaKind, max: u64, wait: Duration) -> Rejection {
    let quota = format!("more than {max} {}", cause.what());
    let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    Rejection::TooManyRequests { quota, retry_after_ms: Some(retry_after_ms) }
}

/// The time after which a client may retry to open a stream. It is a guess: a stream ends at any time.
const STREAM_WAIT: Duration = Duration::from_secs(1);
/// The memory of an HTTP connection with its buffers.
const HTTP_CONNECTION_BYTES: usize = 40 << 10;
/// Entries of a table beyond one for each session. An entry of any table takes 200 to 300 bytes, including its names.
const ENTRIES_SPARE: usize = 1 << 16;

/// Most bytes of all unauthenticated clients together, beyond the free bytes of each; the largest packet fits.
const STRANGERS_BYTES: usize = 64 << 20;
/// The number of parts of that budget. The clients of one address may use one part; a packet with its buffers fits.
const STRANGERS_PARTS: usize = 8;

const _: () = assert!(crate::config::limits::PACKET_BYTES_MAX < STRANGERS_BYTES as u64);
