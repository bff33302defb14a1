//! Counts of decided requests by operation and outcome.
//!
//! Only the notifier thread counts, batch by batch, so only a reader of the metrics can contend for the lock. The
//! labels are fixed words of the program, never texts of clients.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Counters by operation and outcome.
#[derive(Debug, Default)]
pub struct OutcomeCounters(Mutex<BTreeMap<Label, u64>>);

/// The operation (`update`, `delete`) and the outcome: `accepted`, `unchanged`, `replayed`, `dry-run`, or the `error`
/// of the rejection.
pub type Label = (&'static str, &'static str);

impl OutcomeCounters {
    /// Adds one to the count of each label.
    pub fn count(&self, labels: &[Label]) {
        let mut counts = self.0.lock();
        for label in labels {
            *counts.entry(*label).or_default() += 1;
        }
    }

    /// Returns the counts so far, in the order of the labels.
    #[must_use]
    pub fn counts(&self) -> Vec<(Label, u64)> {
        self.0.lock().iter().map(|(label, count)| (*label, *count)).collect()
    }
}
