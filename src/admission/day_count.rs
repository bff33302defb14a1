//! A count of events in the last 24 hours, in constant space.
//!
//! The events of the period before the current one count as evenly spread, so the result may be off by some of them.

use std::time::{Duration, Instant};

/// Twenty-four hours.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The count.
#[derive(Clone, Copy, Debug)]
pub(super) struct DayCount {
    /// The begin of the current period, which lasts a day.
    since: Instant,
    current: usize,
    /// The events of the period before.
    previous: usize,
}

impl DayCount {
    /// Returns a count of nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, current: 0, previous: 0 }
    }

    /// Counts an event.
    pub(super) fn add(&mut self, now: Instant) {
        *self = self.at(now);
        self.current += 1;
    }

    /// Returns the number of events in the last 24 hours.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
    pub(super) fn get(&self, now: Instant) -> usize {
        let Self { since, current, previous } = self.at(now);
        let left = 1.0 - now.saturating_duration_since(since).div_duration_f64(DAY);
        current + (previous as f64 * left).ceil() as usize
    }

    fn at(mut self, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= 2 * DAY {
            return Self::new(now);
        }
        if elapsed >= DAY {
            self = Self { since: self.since + DAY, current: 0, previous: self.current };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_events_of_a_day() {
        let start = Instant::now();
        let mut count = DayCount::new(start);
        for _ in 0..10 {
            count.add(start + DAY / 2);
        }
        let at = |halves: u32| count.get(start + halves * DAY / 2);
        assert_eq!([0, 1, 2, 3, 4, 9].map(at), [10, 10, 10, 5, 0, 0]);
        count.add(start + 3 * DAY / 2);
        assert_eq!(count.get(start + 3 * DAY / 2), 6);
    }
}
