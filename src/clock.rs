//! The only source of the date.
//!
//! Code that writes a timestamp receives a [`Clock`]. Deadlines, keep-alive and rates use `tokio::time` or
//! `std::time::Instant`, which never go back.
//!
//! The date may jump in both directions, as when an operator sets it or a machine starts without a battery. Timestamps in
//! metadata jump with it, and nothing is decided by them: versions and the journal's sequence give the order. Journal
//! entries and idempotency keys expire by the monotonic clock ([`Clock::running`]).

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::shadow::Timestamp;

/// A clock for the time since 1970-01-01T00:00:00Z. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    /// Moved by [`ManualClock`] alone.
    Manual(Arc<ManualTime>),
}

/// The date and the running time, in milliseconds.
#[derive(Debug)]
struct ManualTime {
    date: AtomicU64,
    running: AtomicU64,
}

/// Moves a [`Clock`] by hand, in tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<ManualTime>);

impl Clock {
    /// The machine's.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// One that stands at `start` until it is moved.
    #[must_use]
    pub fn manual(start: Duration) -> (Self, ManualClock) {
        let (date, running) = (AtomicU64::new(milliseconds(start)), AtomicU64::new(0));
        let time = Arc::new(ManualTime { date, running });
        (Self(Source::Manual(Arc::clone(&time))), ManualClock(time))
    }

    /// Whole seconds. 0 while the machine believes to be before 1970.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(self.now_milliseconds() / 1_000)
    }

    /// Returns the time of the monotonic clock, from an arbitrary start.
    #[must_use]
    pub fn running(&self) -> Duration {
        match &self.0 {
            Source::System => START.get_or_init(Instant::now).elapsed(),
            Source::Manual(time) => Duration::from_millis(time.running.load(Ordering::Relaxed)),
        }
    }

    /// Milliseconds. 0 while the machine believes to be before 1970.
    #[must_use]
    pub fn now_milliseconds(&self) -> u64 {
        match &self.0 {
            Source::System => milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            Source::Manual(time) => time.date.load(Ordering::Relaxed),
        }
    }
}

impl ManualClock {
    /// Jumps to `time` since 1970, forwards or backwards.
    pub fn set(&self, time: Duration) {
        self.0.date.store(milliseconds(time), Ordering::Relaxed);
    }

    /// Goes on by `step`.
    pub fn advance(&self, step: Duration) {
        let step = milliseconds(step);
        for time in [&self.0.date, &self.0.running] {
            let _ = time.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |time| Some(time.saturating_add(step)));
        }
    }
}

/// The start of the monotonic clock.
static START: OnceLock<Instant> = OnceLock::new();

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_back_too() {
        let (clock, hand) = Clock::manual(Duration::from_millis(1_500));
        let other = clock.clone();
        assert_eq!((clock.now(), clock.now_milliseconds()), (Timestamp(1), 1_500));
        hand.advance(Duration::from_secs(2));
        assert_eq!((other.now(), other.now_milliseconds()), (Timestamp(3), 3_500));
        hand.set(Duration::from_secs(1));
        assert_eq!(clock.now(), Timestamp(1));
        hand.advance(Duration::MAX);
        assert_eq!(clock.now_milliseconds(), u64::MAX);
    }

    #[test]
    fn the_system_clock_is_in_this_century() {
        let clock = Clock::system();
        let seconds = clock.now().0;
        assert!((1_700_000_000..4_100_000_000).contains(&seconds), "{seconds}");
        assert!(clock.now_milliseconds() / 1_000 >= seconds);
    }
}
