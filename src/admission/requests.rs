//! Quotas for the requests of one principal to one shadow: their rate and the number in flight.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::shadow::ShadowKey;
use crate::{
    admission::{
        counter::{Counter, Permit},
        rate_table::{RateEntry, RateTable},
    },
    rate::{Gcra, Rate},
};

/// The usage of every pair of principal and shadow.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) rate: Rate,
    pub(super) in_flight_max: usize,
    uses: RateTable<(Arc<str>, ShadowKey), RequestUse>,
}

/// A permit for one request; dropping it marks the request as decided.
#[derive(Debug)]
pub struct Admitted {
    _in_flight: Permit,
}

/// The quota that a request exceeds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exceeded<E> {
    /// Too many requests are in flight.
    InFlight,
    /// The rate is exceeded for this time.
    Rate(Duration),
    /// The quota of the principal over all shadows.
    Principal(E),
}

#[derive(Debug)]
struct RequestUse {
    meter: Gcra,
    in_flight: Counter,
}

impl Requests {
    /// Returns the quotas of at most `entries_max` pairs of principal and shadow, each with `rate` and at most
    /// `in_flight_max` undecided requests.
    pub(super) fn new(rate: Rate, in_flight_max: usize, entries_max: usize) -> Self {
        Self { rate, in_flight_max, uses: RateTable::new(entries_max) }
    }

    /// Counts one request, if `principal_may` also allows it. It is called last.
    ///
    /// # Errors
    ///
    /// The exceeded quota; nothing was counted.
    pub(super) fn admit<E>(
        &self,
        principal: &Arc<str>,
        key: &ShadowKey,
        now: Instant,
        principal_may: impl FnOnce() -> Result<(), E>,
    ) -> Result<Admitted, Exceeded<E>> {
        let key = (principal.clone(), key.clone());
        let new = || RequestUse { meter: Gcra::new(now), in_flight: Counter::default() };
        self.uses.with(&key, now, Clone::clone, new, |known| {
            if known.in_flight.count() >= self.in_flight_max {
                return Err(Exceeded::InFlight);
            }
            let mut meter = known.meter;
            meter.take(self.rate, now).map_err(Exceeded::Rate)?;
            principal_may().map_err(Exceeded::Principal)?;
            known.meter = meter;
            Ok(Admitted { _in_flight: known.in_flight.take() })
        })
    }
}

impl RateEntry for RequestUse {
    fn is_idle(&self, now: Instant) -> bool {
        self.in_flight.count() == 0 && self.meter.is_idle(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::DeviceId;

    #[test]
    fn requests_in_flight_are_bounded_per_shadow() {
        let (now, by) = (Instant::now(), Arc::from("p"));
        let requests = Requests::new(Rate::new(1000, 1000), 2, 100);
        let admit = |id: &str| {
            let key = ShadowKey::classic(DeviceId::new(id).expect("a valid id"));
            requests.admit(&by, &key, now, || Ok::<_, ()>(()))
        };
        let (first, second) = (admit("a"), admit("a"));
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(admit("a"), Err(Exceeded::InFlight)));
        assert!(admit("b").is_ok(), "another shadow has its own");
        drop(first);
        assert!(admit("a").is_ok());
    }

    /// A request refused by the quota of its shadow must not count for its principal, nor the other way round.
    #[test]
    fn a_refused_request_is_not_counted() {
        let (now, by) = (Instant::now(), Arc::from("p"));
        let requests = Requests::new(Rate::new(1, 2), 100, 100);
        let key = ShadowKey::classic(DeviceId::new("a").expect("a valid id"));
        let mut calls = 0;
        for _ in 0..5 {
            assert!(matches!(requests.admit(&by, &key, now, || Err("no")), Err(Exceeded::Principal("no"))));
        }
        for admitted in [true, true, false, false] {
            let outcome = requests.admit(&by, &key, now, || {
                calls += 1;
                Ok::<_, ()>(())
            });
            assert_eq!(outcome.is_ok(), admitted);
        }
        assert_eq!(calls, 2);
    }
}
