//! How far the announcer has come in routing the journal, as the outboxes need to know it.
//!
//! The announcer alone moves it. An outbox reads it under its own lock, which every push takes too: a push that came
//! before the read is in what is read, and a push of a sequence that is not in it comes after.

use std::sync::atomic::{AtomicU64, Ordering};

/// The journal sequences the announcer has begun and finished.
#[derive(Debug)]
pub struct FanOutPosition {
    begun: AtomicU64,
    finished: AtomicU64,
}

impl FanOutPosition {
    /// An announcer that goes on after `head`, the last sequence of the journal when the process started.
    #[must_use]
    pub fn new(head: u64) -> Self {
        Self { begun: AtomicU64::new(head), finished: AtomicU64::new(head) }
    }

    /// To be called before the first event of the change at `seq` is published; `seq` only rises.
    pub fn begin(&self, seq: u64) {
        self.begun.store(seq, Ordering::Release);
    }

    /// To be called after the last event of the change at `seq` was published.
    pub fn finish(&self, seq: u64) {
        self.finished.store(seq, Ordering::Release);
    }

    /// No event above this has been pushed to any outbox.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// All events up to this have been pushed.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }
}
