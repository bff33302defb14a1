//! Yielding by elapsed time in loops over many sessions.
//!
//! A loop that counts its rounds runs for long if one round is expensive. A worker of the runtime also serves all other
//! connections meanwhile.

use std::time::{Duration, Instant};

/// The time for which a loop may keep its worker.
#[derive(Debug)]
pub(in crate::mqtt) struct TimeSlice(Instant);

impl TimeSlice {
    /// Begins a slice.
    pub(in crate::mqtt) fn begin() -> Self {
        Self(Instant::now() + LENGTH)
    }

    /// Lets other tasks run if the slice is over, and begins another.
    pub(in crate::mqtt) async fn pause(&mut self) {
        if Instant::now() >= self.0 {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}

/// Length of a slice.
const LENGTH: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_loop_yields_when_its_time_is_over() {
        let now = Instant::now();
        assert!(TimeSlice(now).pause().now_or_never().is_none());
        let mut slice = TimeSlice(now + Duration::from_secs(3600));
        assert!(slice.pause().now_or_never().is_some());
        let mut slice = TimeSlice(now);
        slice.pause().await;
        assert!(slice.0 > now, "another begins");
    }
}
