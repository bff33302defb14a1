//! The times at which the updates of an open loop are due.
//!
//! Update `n` is due `n / rate` seconds after the start, whatever became of the ones before. Latency counts from that
//! time, so a server that stalls is charged for every update that it delayed (no coordinated omission).

use std::time::{Duration, Instant};

/// The schedule of one open loop.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    rate: f64,
    next: u64,
}

impl Schedule {
    /// Returns the schedule of `rate` updates a second from `start` on.
    pub(crate) fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate, next: 0 }
    }

    /// Takes the next update if it is due at `now`: its number, and the time at which it is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due();
        (due <= now).then(|| {
            let number = self.next;
            self.next += 1;
            (number, due)
        })
    }

    /// Returns the time at which the next update is due.
    pub(crate) fn next_due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.next as f64 / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_due_at_even_intervals_and_none_is_left_out_after_a_pause() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1_000.0);
        let mut taken = Vec::new();
        for after in [0, 1, 2, 500, 501] {
            let now = start + Duration::from_millis(after);
            taken.push(std::iter::from_fn(|| schedule.take_due(now)).count());
        }
        assert_eq!(taken, [1, 1, 1, 498, 1]);
        let (number, due) = schedule.take_due(start + Duration::from_secs(9)).expect("one is due");
        assert_eq!((number, due), (502, start + Duration::from_millis(502)), "due then, however late it is sent");
    }
}
