//! Counts of the operations of a run, and the report of a failed one.

use std::collections::VecDeque;

use super::reference::Outcome;

/// How many operations are shown.
const SHOWN: usize = 20;

/// Counts of the operations of a run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
    pub(crate) rebased: u64,
    pub(crate) replayed: u64,
    pub(crate) dry: u64,
    pub(crate) conflicts: u64,
    pub(crate) expectations_failed: u64,
    pub(crate) keys_reused: u64,
    pub(crate) not_found: u64,
    pub(crate) invalid: u64,
    pub(crate) gets: u64,
    pub(crate) stops: u64,
    pub(crate) kills: u64,
    /// Kills that the update under way had outrun.
    pub(crate) survived: u64,
}

/// Printed if the run fails, however it does.
pub(crate) struct Trace {
    seed: u64,
    pub(crate) step: u64,
    last: VecDeque<String>,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("UMBRA_MODEL_SEED={} failed at step {}; the last operations:", self.seed, self.step);
            self.last.iter().for_each(|operation| eprintln!("  {operation}"));
        }
    }
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, step: 0, last: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, what: String) {
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(format!("{}: {what}", self.step));
    }
}

impl Counts {
    /// Counts what became of a request to change something.
    pub(crate) fn add(&mut self, outcome: &Outcome, dry: bool) {
        *match outcome {
            Outcome::Accepted { .. } if dry => &mut self.dry,
            Outcome::Accepted { rebased_from: Some(_), .. } => &mut self.rebased,
            Outcome::Accepted { changed: true, .. } => &mut self.changed,
            Outcome::Accepted { .. } => &mut self.unchanged,
            Outcome::Replayed { .. } => &mut self.replayed,
            Outcome::NotFound => &mut self.not_found,
            Outcome::Conflict { .. } => &mut self.conflicts,
            Outcome::ExpectationFailed => &mut self.expectations_failed,
            Outcome::KeyReused => &mut self.keys_reused,
        } += 1;
    }
}
