//! Rate limits by the generic cell rate algorithm (GCRA).
//!
//! The state of a limiter is one instant, the theoretical arrival time. If that instant has passed, the state carries
//! no information and may be evicted.

use std::time::{Duration, Instant};

/// A number of events per period, with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u64,
    /// The period for `count` events, in nanoseconds.
    period: u64,
    /// The time by which the arrival time may run ahead of the clock.
    burst: Duration,
}

/// The usage of a [`Rate`], as its theoretical arrival time.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    arrival: Instant,
}

impl Rate {
    /// Returns a rate of `per_second` with a burst of `burst`; both at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self::within(per_second.into(), Duration::from_secs(1), burst.into())
    }

    /// Returns a rate of `count` each second with an equal burst; at least 1.
    #[must_use]
    pub fn per_second(count: u64) -> Self {
        Self::within(count, Duration::from_secs(1), count)
    }

    /// Returns a rate of `count` each minute with an equal burst; at least 1.
    #[must_use]
    pub fn per_minute(count: u64) -> Self {
        Self::within(count, Duration::from_secs(60), count)
    }

    /// Returns a rate of one each `interval` with a burst of `burst`; at least 1.
    #[must_use]
    pub fn every(interval: Duration, burst: u32) -> Self {
        Self::within(1, interval, burst.into())
    }

    /// Returns a rate of `count` each `period` with a burst of `burst`; each at least 1.
    #[must_use]
    pub fn within(count: u64, period: Duration, burst: u64) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let rate = Self { count: count.max(1), period, burst: Duration::ZERO };
        Self { burst: rate.time_of(burst.max(1)), ..rate }
    }

    /// Returns this rate with the events of one second as its burst, at least one event.
    #[must_use]
    pub fn with_burst_of_a_second(self) -> Self {
        Self { burst: self.time_of(1).max(Duration::from_secs(1)), ..self }
    }

    /// Returns the number of events allowed per second, rounded up.
    #[must_use]
    pub fn count_per_second(self) -> u64 {
        self.count.saturating_mul(1_000_000_000).div_ceil(self.period.max(1))
    }

    /// Returns the time that `count` events take at this rate.
    #[must_use]
    pub fn time_of(self, count: u64) -> Duration {
        Duration::from_nanos(count.saturating_mul(self.period) / self.count)
    }
}

impl Gcra {
    /// Returns an unused limiter.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { arrival: now }
    }

    /// Returns true if the limiter equals an unused one.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.arrival <= now
    }

    /// Counts `count` events that already happened. Returns the time to wait before the next one, if any.
    pub fn charge(&mut self, rate: Rate, count: u64, now: Instant) -> Option<Duration> {
        self.arrival = self.arrival.max(now) + rate.time_of(count);
        self.excess(rate, now)
    }

    /// Returns the time until the counted events are within `rate` again; `None` if they are now.
    #[must_use]
    pub fn excess(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let ahead = self.arrival.saturating_duration_since(now);
        ahead.checked_sub(rate.burst).filter(|wait| *wait > Duration::ZERO)
    }

    /// Returns the time until one more event fits; `None` if it fits now.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let mut next = *self;
        next.charge(rate, 1, now)
    }

    /// Counts one event if it fits.
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
        let mut meter = Gcra::new(start);
        let at_once = (0..100).filter(|_| meter.take(rate, start).is_ok()).count();
        assert_eq!(at_once, 40);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| meter.take(rate, later).is_ok()).count(), 10);
        assert_eq!(meter.take(rate, later), Err(Duration::from_millis(50)));
    }

    /// Events above the rate were handled but not counted, which allowed twice the rate.
    #[test]
    fn charged_events_keep_to_the_rate() {
        let start = Instant::now();
        // per second, charged at once, the number in ten seconds plus a burst
        for (per_second, each, expected) in [(100, 1, 1_100), (100, 7, 1_100), (1 << 30, 65_536, 11 << 30)] {
            let rate = Rate::per_second(per_second);
            let (mut meter, mut now, mut count) = (Gcra::new(start), start, 0);
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
        let mut meter = Gcra::new(start);
        assert_eq!((0..10).filter(|_| meter.take(rate, start).is_ok()).count(), 6);
        assert_eq!(meter.take(rate, start), Err(Duration::from_secs(10)));
        assert!(!meter.is_idle(start + Duration::from_secs(59)) && meter.is_idle(start + Duration::from_secs(60)));
    }
}
