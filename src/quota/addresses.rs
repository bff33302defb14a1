//! What one source address has: connections, new ones a second, those that come to nothing, and memory of strangers.
//!
//! Asked as soon as a connection is accepted, before anything is read or TLS costs anything. All of a [`Network`] is
//! one source.

use std::{net::IpAddr, sync::Arc, time::Instant};

use tokio::sync::Semaphore;

use super::{
    cause::Cause,
    network::Network,
    rate::{Meter, Rate},
    table::{Entry, Table},
    tally::{Place, Tally},
};

/// What every source address has.
#[derive(Debug)]
pub struct Addresses {
    limits: AddressLimits,
    known: Table<Network, Use>,
}

/// What one source address may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressLimits {
    /// Connections at once.
    pub(super) connections_max: usize,
    /// New connections.
    pub(super) connects: Rate,
    /// New connections that come to nothing.
    pub(super) failed_handshakes: Rate,
    /// Bytes that its strangers may occupy beyond what each may.
    pub(super) strangers_bytes: usize,
    /// Whether this is for loopback too.
    pub(super) on_loopback: bool,
}

/// A connection that is counted for its source address, until it is dropped.
#[derive(Debug)]
pub struct Visit {
    _place: Option<Place>,
}

#[derive(Debug)]
struct Use {
    connections: Tally,
    connects: Meter,
    failed_handshakes: Meter,
    strangers: Arc<Semaphore>,
}

impl Addresses {
    /// Addresses that may each have `limits`; `entries_max` of them are known.
    pub(super) fn new(limits: AddressLimits, entries_max: usize) -> Self {
        Self { limits, known: Table::new(entries_max) }
    }

    /// Counts a new connection from `address`.
    ///
    /// # Errors
    ///
    /// The quota it is above; nothing was counted.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Result<Visit, Cause> {
        let Some(source) = self.source(address) else { return Ok(Visit { _place: None }) };
        let limits = &self.limits;
        self.with(source, now, |known| {
            if known.failed_handshakes.excess(limits.failed_handshakes, now).is_some() {
                return Err(Cause::AddressFailedHandshakes);
            }
            if known.connections.count() >= limits.connections_max {
                return Err(Cause::AddressConnections);
            }
            known.connects.take(limits.connects, now).map_err(|_| Cause::AddressConnects)?;
            Ok(Visit { _place: Some(known.connections.take()) })
        })
    }

    /// Counts a connection from `address` that ended before its client had said who it is.
    pub fn handshake_failed(&self, address: IpAddr, now: Instant) {
        if let Some(source) = self.source(address) {
            self.with(source, now, |known| known.failed_handshakes.charge(self.limits.failed_handshakes, 1, now));
        }
    }

    /// What the strangers of `address` share, if it has a quota.
    pub(super) fn strangers(&self, address: IpAddr, now: Instant) -> Option<Arc<Semaphore>> {
        self.source(address).map(|source| self.with(source, now, |known| known.strangers.clone()))
    }

    /// Who `address` counts as; `None`: nobody.
    fn source(&self, address: IpAddr) -> Option<Network> {
        let limited = self.limits.on_loopback || !address.to_canonical().is_loopback();
        limited.then(|| address.into())
    }

    fn with<T>(&self, source: Network, now: Instant, with: impl FnOnce(&mut Use) -> T) -> T {
        let new = || Use {
            connections: Tally::default(),
            connects: Meter::new(now),
            failed_handshakes: Meter::new(now),
            strangers: Arc::new(Semaphore::new(self.limits.strangers_bytes)),
        };
        self.known.with(&source, now, |source| *source, new, with)
    }
}

impl Entry for Use {
    fn is_idle(&self, now: Instant) -> bool {
        self.connections.count() == 0
            && self.connects.is_idle(now)
            && self.failed_handshakes.is_idle(now)
            && Arc::strong_count(&self.strangers) == 1
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
    fn who_shares_a_quota() {
        // an address that uses up its quota, another, whether that one is refused for it
        for (first, second, shared) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("127.0.0.1", "127.0.0.1", false),
            ("::1", "::1", false),
            ("::ffff:127.0.0.1", "127.0.0.1", false),
        ] {
            let (addresses, now) = (addresses(false), Instant::now());
            let enter = |address: &str| addresses.enter(address.parse().expect("an address"), now);
            let visits: Vec<_> = (0..3).map(|_| enter(first)).collect();
            assert!(visits.iter().all(Result::is_ok));
            let expected = if shared { Some(Cause::AddressConnections) } else { None };
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
        assert_eq!(addresses.enter(home, start).err(), Some(Cause::AddressConnects));
        let mut now = start + Duration::from_millis(100);
        assert!(addresses.enter(home, now).is_ok());
        now += Duration::from_secs(1);
        for refused in [false, false, true] {
            addresses.handshake_failed(home, now);
            assert_eq!(addresses.enter(home, now).is_err(), refused);
        }
        assert_eq!(addresses.enter(home, now).err(), Some(Cause::AddressFailedHandshakes));
        assert!(addresses.enter(home, now + Duration::from_secs(30)).is_ok());
    }
}
