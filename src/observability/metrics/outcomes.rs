//! What became of requests, counted by what was asked and how it ended.
//!
//! Only the announcer's thread counts, batch by batch, so the lock is free but for a reader of the metrics. The labels
//! are words of the program: what a client sends makes none.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The counts.
#[derive(Debug, Default)]
pub struct OutcomeCounters(Mutex<BTreeMap<Label, u64>>);

/// What was asked (`update`, `delete`) and how it ended: `accepted`, `unchanged`, `replayed`, `dry-run`, or the `error`
/// of the rejection.
pub type Label = (&'static str, &'static str);

impl OutcomeCounters {
    /// Counts one of each.
    pub fn count(&self, labels: &[Label]) {
        let mut counts = self.0.lock();
        for label in labels {
            *counts.entry(*label).or_default() += 1;
        }
    }

    /// The counts so far, in the order of the labels.
    #[must_use]
    pub fn counts(&self) -> Vec<(Label, u64)> {
        self.0.lock().iter().map(|(label, count)| (*label, *count)).collect()
    }
}
