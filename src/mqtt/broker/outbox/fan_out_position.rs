//! The position of the notifier in its fan-out of the journal, for the outboxes.
//!
//! Only the notifier moves it. An outbox reads it under its own lock, which every push takes too. So a push before the
//! read is covered by the position read, and a push of a later sequence follows the read.

use std::sync::atomic::{AtomicU64, Ordering};

/// The journal sequences that the notifier has begun and finished.
#[derive(Debug)]
pub struct FanOutPosition {
    begun: AtomicU64,
    finished: AtomicU64,
}

impl FanOutPosition {
    /// Returns the position of a notifier that continues after `head`, the last journal sequence at the start.
    #[must_use]
    pub fn new(head: u64) -> Self {
        Self { begun: AtomicU64::new(head), finished: AtomicU64::new(head) }
    }

    /// Records that the first event of the change at `seq` is about to be published; `seq` only rises.
    pub fn begin(&self, seq: u64) {
        self.begun.store(seq, Ordering::Release);
    }

    /// Records that the last event of the change at `seq` was published.
    pub fn finish(&self, seq: u64) {
        self.finished.store(seq, Ordering::Release);
    }

    /// Returns the sequence above which no event has been pushed to any outbox.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns the sequence up to which all events have been pushed.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }
}
