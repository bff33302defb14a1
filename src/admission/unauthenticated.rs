//! The work of HTTP requests that no principal pays for: those without a login, such as the files of the dashboard, and those
//! that are refused.
//!
//! It is charged to the source network after the request, whose response then waits while the network is above its
//! rates. In this order:
//!
//! 1. Each network has a guaranteed rate, whatever others do. Several whole loads of the dashboard are within it.
//! 2. Beyond that it has a rate of its own.
//! 3. What networks cause beyond their guaranteed rates has a rate for all of them together, so that many networks keep
//!    no more of the processors busy than a few.
//!
//! Probes of health and metrics have these rates for themselves: other requests of the same network, such as those behind
//! the same proxy, do not delay them. Loopback addresses are not exempt, since a proxy on this machine has one.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    admission::{
        addresses::Network,
        rate_table::{RateEntry, RateTable},
        work::WorkMeter,
    },
    rate::{Gcra, Rate},
};

/// The unpaid work of every network.
#[derive(Debug)]
pub struct UnauthenticatedWork {
    known: RateTable<(Network, RequestClass), NetworkWork>,
    /// The work of all networks beyond their guaranteed rates, by class.
    all: [Mutex<WorkMeter>; 2],
}

/// The classes of requests that do not delay each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestClass {
    /// Requests for health, readiness and metrics.
    Probe,
    /// All others.
    Other,
}

#[derive(Debug)]
struct NetworkWork {
    guaranteed: Gcra,
    beyond: WorkMeter,
}

impl UnauthenticatedWork {
    /// Returns the usage of at most `entries_max` networks.
    pub(super) fn new(entries_max: usize) -> Self {
        let all = [(); 2].map(|()| Mutex::new(WorkMeter::new(Instant::now())));
        Self { known: RateTable::new(entries_max), all }
    }

    /// Charges `units` that a request from `address` has caused. Waits while its network, or all networks together, are above
    /// their rates; returns true if it did.
    pub async fn pay(&self, address: IpAddr, class: RequestClass, units: u64) -> bool {
        let Some(own) = self.charge_network(address.into(), class, units, Instant::now()) else { return false };
        sleep(own).await;
        // Only now: what a network does above its own rate does not delay others.
        let all = self.charge_all(class, units, Instant::now());
        sleep(all).await;
        !(own + all).is_zero()
    }

    /// Charges the network. Returns the time to wait; `None` if the request is within its guaranteed rate.
    fn charge_network(&self, from: Network, class: RequestClass, units: u64, now: Instant) -> Option<Duration> {
        let new = || NetworkWork { guaranteed: Gcra::new(now), beyond: WorkMeter::new(now) };
        self.known.with(&(from, class), now, |key| *key, new, |known| known.charge(units, now))
    }

    /// Charges all networks together. Returns the time to wait.
    fn charge_all(&self, class: RequestClass, units: u64, now: Instant) -> Duration {
        let [probes, others] = &self.all;
        let all = if class == RequestClass::Probe { probes } else { others };
        all.lock().charge(ALL_PER_SECOND, units, now).unwrap_or_default()
    }
}

impl NetworkWork {
    fn charge(&mut self, units: u64, now: Instant) -> Option<Duration> {
        let guaranteed = Rate::within(GUARANTEED_PER_SECOND, Duration::from_secs(1), GUARANTEED_BURST);
        if self.guaranteed.excess(guaranteed, now).is_none() {
            self.guaranteed.charge(guaranteed, units, now);
            return None;
        }
        Some(self.beyond.charge(NETWORK_PER_SECOND, units, now).unwrap_or_default())
    }
}

impl RateEntry for NetworkWork {
    fn is_idle(&self, now: Instant) -> bool {
        self.guaranteed.is_idle(now) && self.beyond.is_idle(now)
    }
}

/// Guaranteed units of work a second of each network: ten small requests.
const GUARANTEED_PER_SECOND: u64 = 500;
/// Guaranteed units at once: four loads of the dashboard without a cache, of 1,330 each.
const GUARANTEED_BURST: u64 = 6_000;
/// Units a second of each network beyond that, a twentieth of a processor: as of a device with its shipped role.
const NETWORK_PER_SECOND: u64 = 50_000;
/// Units a second of all networks beyond their guaranteed ones: a tenth of a processor.
const ALL_PER_SECOND: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    use RequestClass::{Other, Probe};

    fn network(number: u8) -> Network {
        IpAddr::from([192, 0, 2, number]).into()
    }

    fn work() -> UnauthenticatedWork {
        UnauthenticatedWork::new(1_000)
    }

    /// Makes requests of 100 units from networks that wait as they are asked to, for `time`. Returns the units of all.
    fn flood(work: &UnauthenticatedWork, networks: u8, class: RequestClass, start: Instant, time: Duration) -> u64 {
        let mut next = vec![start; networks.into()];
        let mut done = 0;
        loop {
            let earliest = (0..networks).zip(&mut next).min_by_key(|(_, now)| **now);
            let (number, now) = earliest.expect("there are networks");
            if *now >= start + time {
                return done;
            }
            if let Some(own) = work.charge_network(network(number), class, 100, *now) {
                *now += own;
                *now += work.charge_all(class, 100, *now);
            }
            done += 100;
            *now += Duration::from_micros(1);
        }
    }

    #[test]
    fn a_network_has_a_rate() {
        let (work, start) = (work(), Instant::now());
        let burst = flood(&work, 1, Other, start, Duration::from_secs(10));
        let done = flood(&work, 1, Other, start + Duration::from_secs(10), Duration::from_secs(100)) + burst;
        let expected = GUARANTEED_BURST + 110 * GUARANTEED_PER_SECOND + 120 * NETWORK_PER_SECOND;
        assert!(done.abs_diff(expected) < expected / 20, "{done} of {expected}");
    }

    /// Two hundred networks, each within its own rate, kept the processors busy.
    #[test]
    fn all_networks_together_have_a_rate() {
        let (work, start) = (work(), Instant::now());
        let done = flood(&work, 200, Other, start, Duration::from_secs(100));
        let guaranteed = 200 * (GUARANTEED_BURST + 100 * GUARANTEED_PER_SECOND);
        let most = guaranteed + 110 * ALL_PER_SECOND;
        assert!((most / 2..=most + most / 20).contains(&done), "{done} of {most}");
    }

    #[test]
    fn a_small_load_of_a_network_never_waits_for_others() {
        let (work, start) = (work(), Instant::now());
        flood(&work, 100, Other, start, Duration::from_secs(20));
        let now = start + Duration::from_secs(10);
        let load = [50 + 947, 50 + 33, 50, 50, 50, 50, 50];
        for units in [load, load, load, load].as_flattened() {
            assert_eq!(work.charge_network(network(200), Other, *units, now), None);
        }
        for second in 1..1_000 {
            let now = now + Duration::from_secs(second);
            assert_eq!(work.charge_network(network(200), Other, GUARANTEED_PER_SECOND, now), None, "{second}");
        }
    }

    /// Behind a proxy, probes have the address of all others.
    #[test]
    fn requests_of_the_same_network_do_not_delay_probes() {
        let (work, start) = (work(), Instant::now());
        flood(&work, 1, Other, start, Duration::from_secs(20));
        assert!(work.charge_network(network(0), Other, 50, start).is_some_and(|wait| wait > Duration::from_secs(1)));
        for second in 0..100 {
            assert_eq!(work.charge_network(network(0), Probe, 50, start + Duration::from_secs(second)), None);
        }
        assert_eq!(work.charge_all(Probe, 50, start), Duration::ZERO);
    }
}
