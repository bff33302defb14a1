//! How often and how many at once: the request quota per principal and shadow, and the rate of one connection.
//!
//! A rate is a theoretical arrival time (the generic cell rate algorithm): one instant says how far ahead of the
//! allowed rate a requester is. An entry that is neither ahead nor has requests in flight says nothing and is dropped
//! at the next sweep, so the table holds at most what was asked for within one burst.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::shadow::{Rejection, ShadowKey};

/// Requests per second with a burst on top.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval: Duration,
    burst: Duration,
}

/// How far ahead of a [`Rate`] someone is.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    arrival: Instant,
}

/// The requests of every principal to every shadow, counted.
#[derive(Debug)]
pub struct RequestQuota {
    rate: Rate,
    in_flight_max: u32,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

/// A counted request; dropping it says that the request is decided.
#[derive(Debug)]
pub struct Admitted {
    quota: Arc<RequestQuota>,
    key: Key,
}

type Key = (Arc<str>, ShadowKey);

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Key, Entry>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    meter: Meter,
    in_flight: u32,
}

impl Rate {
    /// `per_second` requests each second, `burst` at once; both at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One each `interval`, which is at most a day, and `burst` at once, at least 1.
    #[must_use]
    pub fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: interval.saturating_mul(burst.max(1)) }
    }
}

impl Meter {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { arrival: now }
    }

    /// Counts one that cannot be refused any more, and tells how long to wait before the next.
    pub fn charge(&mut self, rate: Rate, now: Instant) -> Option<Duration> {
        self.arrival = self.arrival.max(now) + rate.interval;
        let ahead = self.arrival.saturating_duration_since(now);
        ahead.checked_sub(rate.burst).filter(|wait| *wait > Duration::ZERO)
    }

    /// Counts one, or tells how long to wait until it could be.
    ///
    /// # Errors
    ///
    /// The time to wait; nothing was counted.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        match self.wait(rate, now) {
            Some(wait) => Err(wait),
            None => {
                self.arrival = self.arrival.max(now) + rate.interval;
                Ok(())
            }
        }
    }

    /// How long to wait until one could be counted, if not now.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let next = self.arrival.max(now) + rate.interval;
        next.saturating_duration_since(now).checked_sub(rate.burst).filter(|wait| *wait > Duration::ZERO)
    }
}

impl RequestQuota {
    /// A quota of `rate` and at most `in_flight_max` undecided requests per principal and shadow.
    #[must_use]
    pub fn new(rate: Rate, in_flight_max: u32) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { rate, in_flight_max, hasher: RandomState::new(), shards }
    }

    /// Counts one request in.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`] that says which quota and when to come again; nothing was counted.
    pub fn admit(self: &Arc<Self>, principal: &Arc<str>, key: &ShadowKey, now: Instant) -> Result<Admitted, Rejection> {
        let key = (principal.clone(), key.clone());
        let mut shard = self.shard(&key).lock();
        shard.sweep(now);
        let entry = shard.entries.entry(key.clone()).or_insert_with(|| Entry { meter: Meter::new(now), in_flight: 0 });
        if entry.in_flight >= self.in_flight_max {
            let quota = format!("more than {} requests in flight to one shadow", self.in_flight_max);
            return Err(Rejection::TooManyRequests { quota, retry_after_ms: millis(self.rate.interval) });
        }
        entry.meter.take(self.rate, now).map_err(|wait| Rejection::TooManyRequests {
            quota: "more requests per second to one shadow than its quota".to_owned(),
            retry_after_ms: millis(wait),
        })?;
        entry.in_flight += 1;
        drop(shard);
        Ok(Admitted { quota: self.clone(), key })
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS).unwrap_or(0);
        self.shards.get(index).expect("the index is taken modulo the number of shards")
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(entry) = self.quota.shard(&self.key).lock().entries.get_mut(&self.key) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
    }
}

impl Shard {
    fn sweep(&mut self, now: Instant) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, entry| entry.in_flight > 0 || entry.meter.arrival > now);
            self.sweep_at = (self.entries.len() * 2).max(SWEEP_MIN);
            self.entries.shrink_to(self.sweep_at);
        }
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

const SHARDS: u64 = 16;
const SWEEP_MIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::DeviceId;

    fn key(id: &str) -> ShadowKey {
        ShadowKey::classic(DeviceId::new(id).expect("a valid id"))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (rate, start) = (Rate::new(20, 40), Instant::now());
        let mut meter = Meter::new(start);
        let at_once = (0..100).filter(|_| meter.take(rate, start).is_ok()).count();
        assert_eq!(at_once, 40);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| meter.take(rate, later).is_ok()).count(), 10);
        assert_eq!(meter.take(rate, later), Err(Duration::from_millis(50)));
    }

    /// What came while a client was over its rate was handled and not counted, so that it had twice its rate.
    #[test]
    fn what_is_charged_keeps_to_the_rate() {
        let (rate, start) = (Rate::new(100, 100), Instant::now());
        let (mut meter, mut now, mut count) = (Meter::new(start), start, 0);
        while now < start + Duration::from_secs(10) {
            now += meter.charge(rate, now).unwrap_or_default();
            count += 1;
        }
        assert!((1_090..=1_110).contains(&count), "{count} in ten seconds and a burst of 100");
    }

    #[test]
    fn requests_in_flight_are_bounded_per_shadow() {
        let (rate, now, by) = (Rate::new(1000, 1000), Instant::now(), Arc::from("p"));
        let quota = Arc::new(RequestQuota::new(rate, 2));
        let admit = |id: &str| quota.admit(&by, &key(id), now);
        let (first, second) = (admit("a"), admit("a"));
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(admit("a"), Err(Rejection::TooManyRequests { .. })));
        assert!(admit("b").is_ok(), "another shadow has its own");
        drop(first);
        assert!(admit("a").is_ok());
    }

    #[test]
    fn idle_entries_are_swept() {
        let (start, by) = (Instant::now(), Arc::from("p"));
        let quota = Arc::new(RequestQuota::new(Rate::new(20, 40), 64));
        for n in 0..100_000_u32 {
            let (key, now) = (key(&format!("d{n}")), start + Duration::from_millis(n.into()));
            assert!(quota.admit(&by, &key, now).is_ok());
        }
        let held: usize = quota.shards.iter().map(|shard| shard.lock().entries.len()).sum();
        assert!(held <= 2 * SWEEP_MIN * 16, "{held} entries held");
    }
}
