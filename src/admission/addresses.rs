//! Quotas of one source address: connections, connects per second, failed handshakes, and memory before authentication.
//!
//! They are checked as soon as a connection is accepted, before any byte is read and before TLS costs CPU time. All
//! addresses of a [`Network`] share one quota.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use crate::{
    admission::{
        cause::QuotaKind,
        counter::{Counter, Permit},
        preauth_budget::Budget,
        rate_table::{RateEntry, RateTable},
    },
    rate::{Gcra, Rate},
};

/// The usage of every source address.
#[derive(Debug)]
pub struct Addresses {
    limits: AddressLimits,
    known: RateTable<Network, AddressUse>,
}

/// A source address as it is counted. A client chooses its address freely within the /64 of its network, so an IPv6 /64
/// counts as one address. An IPv4 address counts the same in its IPv6-mapped form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

/// The limits of one source address.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressLimits {
    /// Most concurrent connections.
    pub(super) connections_max: usize,
    /// The rate of new connections.
    pub(super) connects: Rate,
    /// The rate of connections that end before authentication.
    pub(super) failed_handshakes: Rate,
    /// Most bytes of its unauthenticated clients, beyond the free bytes of each.
    pub(super) strangers_bytes: usize,
    /// True to apply the limits to loopback addresses.
    pub(super) on_loopback: bool,
}

/// A permit for one connection of a source address; dropping it releases the connection.
#[derive(Debug)]
pub struct AddressPermit {
    _place: Option<Permit>,
}

#[derive(Debug)]
struct AddressUse {
    connections: Counter,
    connects: Gcra,
    failed_handshakes: Gcra,
    preauth_budget: Budget,
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Addresses {
    /// Returns the quotas of at most `entries_max` addresses, each with `limits`.
    pub(super) fn new(limits: AddressLimits, entries_max: usize) -> Self {
        Self { limits, known: RateTable::new(entries_max) }
    }

    /// Counts a new connection from `address`.
    ///
    /// # Errors
    ///
    /// The exceeded quota; nothing was counted.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Result<AddressPermit, QuotaKind> {
        let Some(source) = self.source(address) else { return Ok(AddressPermit { _place: None }) };
        let limits = &self.limits;
        self.with(source, now, |known| {
            if known.failed_handshakes.excess(limits.failed_handshakes, now).is_some() {
                return Err(QuotaKind::AddressFailedHandshakes);
            }
            if known.connections.count() >= limits.connections_max {
                return Err(QuotaKind::AddressConnections);
            }
            known.connects.take(limits.connects, now).map_err(|_| QuotaKind::AddressConnects)?;
            Ok(AddressPermit { _place: Some(known.connections.take()) })
        })
    }

    /// Counts a connection from `address` that ended before its client was authenticated.
    pub fn handshake_failed(&self, address: IpAddr, now: Instant) {
        if let Some(source) = self.source(address) {
            self.with(source, now, |known| known.failed_handshakes.charge(self.limits.failed_handshakes, 1, now));
        }
    }

    /// Returns the memory budget of the unauthenticated clients of `address`; `None` if it has no quota.
    pub(super) fn preauth_budget(&self, address: IpAddr, now: Instant) -> Option<Budget> {
        self.source(address).map(|source| self.with(source, now, |known| known.preauth_budget.clone()))
    }

    /// Returns the network that `address` counts for; `None` if it is exempt.
    fn source(&self, address: IpAddr) -> Option<Network> {
        let limited = self.limits.on_loopback || !address.to_canonical().is_loopback();
        limited.then(|| address.into())
    }

    fn with<T>(&self, source: Network, now: Instant, with: impl FnOnce(&mut AddressUse) -> T) -> T {
        let new = || AddressUse {
            connections: Counter::default(),
            connects: Gcra::new(now),
            failed_handshakes: Gcra::new(now),
            preauth_budget: Budget::new(self.limits.strangers_bytes),
        };
        self.known.with(&source, now, |source| *source, new, with)
    }
}

impl RateEntry for AddressUse {
    fn is_idle(&self, now: Instant) -> bool {
        self.connections.count() == 0
            && self.connects.is_idle(now)
            && self.failed_handshakes.is_idle(now)
            && self.preauth_budget.is_whole()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses(on_loopback: bool) -> Addresses {
        let (connects, failed_handshakes) = (Rate::new(10, 5), Rate::per_minute(2));
        let limits =
            AddressLimits { connections_max: 3, connects, failed_handshakes, strangers_bytes: 1_000, on_loopback };
        Addresses::new(limits, 1_000)
    }

    #[test]
    fn addresses_of_a_network_share_a_quota() {
        // an address that uses up its quota, another address, true if the second is refused
        for (first, second, shared) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("127.0.0.1", "127.0.0.1", false),
            ("::1", "::1", false),
            ("::ffff:127.0.0.1", "127.0.0.1", false),
        ] {
            let (addresses, now) = (addresses(false), Instant::now());
            let enter = |address: &str| addresses.enter(address.parse().expect("an address"), now);
            let visits: Vec<_> = (0..3).map(|_| enter(first)).collect();
            assert!(visits.iter().all(Result::is_ok));
            let expected = if shared { Some(QuotaKind::AddressConnections) } else { None };
            assert_eq!(enter(second).err(), expected, "{second} after {first}");
            drop(visits);
            assert!(enter(second).is_ok(), "{second}");
        }
    }

    #[test]
    fn connections_connects_and_failures_are_counted_apart() {
        let (addresses, start) = (addresses(true), Instant::now());
        let home = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..5 {
            assert!(addresses.enter(home, start).is_ok());
        }
        assert_eq!(addresses.enter(home, start).err(), Some(QuotaKind::AddressConnects));
        let mut now = start + Duration::from_millis(100);
        assert!(addresses.enter(home, now).is_ok());
        now += Duration::from_secs(1);
        for refused in [false, false, true] {
            addresses.handshake_failed(home, now);
            assert_eq!(addresses.enter(home, now).is_err(), refused);
        }
        assert_eq!(addresses.enter(home, now).err(), Some(QuotaKind::AddressFailedHandshakes));
        assert!(addresses.enter(home, now + Duration::from_secs(30)).is_ok());
    }
}
