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
pub(super) enum Exceeded {
    /// Too many requests are in flight.
    InFlight,
    /// The rate is exceeded for this time.
    Rate(Duration),
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

    /// Counts one request.
    ///
    /// # Errors
    ///
    /// The exceeded quota; nothing was counted.
    pub(super) fn admit(&self, principal: &Arc<str>, key: &ShadowKey, now: Instant) -> Result<Admitted, Exceeded> {
        let key = (principal.clone(), key.clone());
        let new = || RequestUse { meter: Gcra::new(now), in_flight: Counter::default() };
        self.uses.with(&key, now, Clone::clone, new, |known| {
            if known.in_flight.count() >= self.in_flight_max {
                return Err(Exceeded::InFlight);
            }
            known.meter.take(self.rate, now).map_err(Exceeded::Rate)?;
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
            requests.admit(&by, &key, now)
        };
        let (first, second) = (admit("a"), admit("a"));
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(admit("a"), Err(Exceeded::InFlight)));
        assert!(admit("b").is_ok(), "another shadow has its own");
        drop(first);
        assert!(admit("a").is_ok());
    }

    #[test]
    fn a_refused_request_is_not_counted() {
        let (now, by) = (Instant::now(), Arc::from("p"));
        let requests = Requests::new(Rate::new(1, 2), 100, 100);
        let key = ShadowKey::classic(DeviceId::new("a").expect("a valid id"));
        for admitted in [true, true, false, false] {
            assert_eq!(requests.admit(&by, &key, now).is_ok(), admitted);
        }
        assert!(requests.admit(&by, &key, now + Duration::from_secs(1)).is_ok(), "one a second comes back");
    }
}
