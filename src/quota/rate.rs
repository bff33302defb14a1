//! Rates, and how far ahead of one somebody is.
//!
//! A meter is a theoretical arrival time (the generic cell rate algorithm): one instant says all there is to say, and
//! one that has passed says nothing, so that its meter may be forgotten.

use std::time::{Duration, Instant};

/// So many in a time, with a burst on top.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    count: u64,
    /// In which `count` are allowed, in nanoseconds.
    period: u64,
    /// How far ahead one may be.
    burst: Duration,
}

/// How far ahead of a [`Rate`] someone is.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    arrival: Instant,
}

impl Rate {
    /// `per_second` each second, `burst` at once; both at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::within(per_second.into(), Duration::from_secs(1), burst.into())
    }

    /// `count` each second, and as many at once; at least 1.
    #[must_use]
    pub fn per_second(count: u64) -> Self {
        Self::within(count, Duration::from_secs(1), count)
    }

    /// `count` each minute, and as many at once; at least 1.
    #[must_use]
    pub fn per_minute(count: u64) -> Self {
        Self::within(count, Duration::from_secs(60), count)
    }

    /// One each `interval`, and `burst` at once; at least 1.
    #[must_use]
    pub fn every(interval: Duration, burst: u32) -> Self {
        Self::within(1, interval, burst.into())
    }

    fn within(count: u64, period: Duration, burst: u64) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let rate = Self { count: count.max(1), period, burst: Duration::ZERO };
        Self { burst: rate.time_of(burst.max(1)), ..rate }
    }

    /// How many there may be in the period.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }

    /// The time that `count` take at this rate.
    #[must_use]
    pub fn time_of(self, count: u64) -> Duration {
        Duration::from_nanos(count.saturating_mul(self.period) / self.count)
    }
}

impl Meter {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { arrival: now }
    }

    /// Whether nothing that was counted matters any more.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.arrival <= now
    }

    /// Counts `count` that cannot be refused any more, and tells how long to wait before the next.
    pub fn charge(&mut self, rate: Rate, count: u64, now: Instant) -> Option<Duration> {
        self.arrival = self.arrival.max(now) + rate.time_of(count);
        self.excess(rate, now)
    }

    /// How long to wait until what was counted is within `rate` again; `None`: it is.
    #[must_use]
    pub fn excess(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let ahead = self.arrival.saturating_duration_since(now);
        ahead.checked_sub(rate.burst).filter(|wait| *wait > Duration::ZERO)
    }

    /// How long to wait until one could be counted, if not now.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let mut next = *self;
        next.charge(rate, 1, now)
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
                self.charge(rate, 1, now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let start = Instant::now();
        // per second, charged at once, how many in ten seconds and a burst
        for (per_second, each, expected) in [(100, 1, 1_100), (100, 7, 1_100), (1 << 30, 65_536, 11 << 30)] {
            let rate = Rate::per_second(per_second);
            let (mut meter, mut now, mut count) = (Meter::new(start), start, 0);
            while now < start + Duration::from_secs(10) {
                now += meter.charge(rate, each, now).unwrap_or_default();
                count += each;
            }
            let near = expected - expected / 50..=expected + expected / 50;
            assert!(near.contains(&count), "{count} of {expected} at {per_second}/s");
        }
    }

    #[test]
    fn a_minute_is_sixty_seconds() {
        let (rate, start) = (Rate::per_minute(6), Instant::now());
        let mut meter = Meter::new(start);
        assert_eq!((0..10).filter(|_| meter.take(rate, start).is_ok()).count(), 6);
        assert_eq!(meter.take(rate, start), Err(Duration::from_secs(10)));
        assert!(!meter.is_idle(start + Duration::from_secs(59)) && meter.is_idle(start + Duration::from_secs(60)));
    }
}
