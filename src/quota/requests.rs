//! The requests of one principal to one shadow: how often, and how many undecided at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    rate::{Meter, Rate},
    table::{Entry, Table},
    tally::{Place, Tally},
};
use crate::shadow::ShadowKey;

/// The requests of every principal to every shadow, counted.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) rate: Rate,
    pub(super) in_flight_max: usize,
    uses: Table<(Arc<str>, ShadowKey), Use>,
}

/// A counted request; dropping it says that the request is decided.
#[derive(Debug)]
pub struct Admitted {
    _in_flight: Place,
}

/// Why a request is not counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over<E> {
    /// There are too many undecided.
    InFlight,
    /// There are too many a second, until then.
    Rate(Duration),
    /// The principal's own quota.
    Principal(E),
}

#[derive(Debug)]
struct Use {
    meter: Meter,
    in_flight: Tally,
}

impl Requests {
    /// `rate` and at most `in_flight_max` undecided requests per principal and shadow; `entries_max` of these are
    /// known.
    pub(super) fn new(rate: Rate, in_flight_max: usize, entries_max: usize) -> Self {
        Self { rate, in_flight_max, uses: Table::new(entries_max) }
    }

    /// Counts one request in, if `principal_may`, which is asked last.
    ///
    /// # Errors
    ///
    /// Nothing was counted then.
    pub(super) fn admit<E>(
        &self,
        principal: &Arc<str>,
        key: &ShadowKey,
        now: Instant,
        principal_may: impl FnOnce() -> Result<(), E>,
    ) -> Result<Admitted, Over<E>> {
        let key = (principal.clone(), key.clone());
        let new = || Use { meter: Meter::new(now), in_flight: Tally::default() };
        self.uses.with(&key, now, Clone::clone, new, |known| {
            if known.in_flight.count() >= self.in_flight_max {
                return Err(Over::InFlight);
            }
            let mut meter = known.meter;
            meter.take(self.rate, now).map_err(Over::Rate)?;
            principal_may().map_err(Over::Principal)?;
            known.meter = meter;
            Ok(Admitted { _in_flight: known.in_flight.take() })
        })
    }
}

impl Entry for Use {
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
        assert!(matches!(admit("a"), Err(Over::InFlight)));
        assert!(admit("b").is_ok(), "another shadow has its own");
        drop(first);
        assert!(admit("a").is_ok());
    }

    /// A client that meets the quota of one shadow must not thereby use up its principal's, nor the other way round.
    #[test]
    fn what_is_refused_is_counted_nowhere() {
        let (now, by) = (Instant::now(), Arc::from("p"));
        let requests = Requests::new(Rate::new(1, 2), 100, 100);
        let key = ShadowKey::classic(DeviceId::new("a").expect("a valid id"));
        let mut asked = 0;
        for _ in 0..5 {
            assert!(matches!(requests.admit(&by, &key, now, || Err("no")), Err(Over::Principal("no"))));
        }
        for admitted in [true, true, false, false] {
            let outcome = requests.admit(&by, &key, now, || {
                asked += 1;
                Ok::<_, ()>(())
            });
            assert_eq!(outcome.is_ok(), admitted);
        }
        assert_eq!(asked, 2);
    }
}
