//! A replicated log in memory, and one whose faults follow a seed.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Random,
    fault_counts::{Fault, FaultCounts},
};
use crate::store::replication::replica::Appended;

/// A log on several machines.
pub(super) trait ReplicatedLog {
    /// Appends `record` if the last record of the log is `expected`.
    fn append(&mut self, expected: u64, record: &Bytes) -> Appended;

    /// Returns records from the number `from` on, at most `limit`, none at the end of the log. `None`: the log cannot be read now,
    /// or the record was trimmed.
    fn follow(&mut self, from: u64, limit: usize) -> Option<Vec<Bytes>>;

    /// Returns the number of the last record, 0 for an empty log. `None`: the log cannot be read now.
    fn tail(&mut self) -> Option<u64>;

    /// Removes the records up to the number `to`, which every node has on its disk, except for the last of the log.
    fn trim(&mut self, to: u64);
}

/// A log without faults.
#[derive(Clone, Default)]
pub(super) struct MemoryLog {
    records: Vec<Bytes>,
    /// The last record that was trimmed.
    trimmed: u64,
}

impl MemoryLog {
    /// Returns the record with `number`.
    pub(super) fn get(&self, number: u64) -> Option<&Bytes> {
        self.records.get(usize::try_from(number.checked_sub(self.trimmed + 1)?).ok()?)
    }

    pub(super) fn last(&self) -> u64 {
        self.trimmed + self.records.len() as u64
    }

    /// Loses the records after `number`, as an engine without a sync may.
    pub(super) fn lose_after(&mut self, number: u64) {
        self.records.truncate(usize::try_from(number.saturating_sub(self.trimmed)).unwrap());
    }
}

impl ReplicatedLog for MemoryLog {
    fn append(&mut self, expected: u64, record: &Bytes) -> Appended {
        if expected != self.last() {
            return Appended::Refused;
        }
        self.records.push(record.clone());
        Appended::Stored
    }

    fn follow(&mut self, from: u64, limit: usize) -> Option<Vec<Bytes>> {
        if from <= self.trimmed {
            return None;
        }
        Some((from..).map_while(|number| self.get(number).cloned()).take(limit).collect())
    }

    fn tail(&mut self) -> Option<u64> {
        Some(self.last())
    }

    fn trim(&mut self, to: u64) {
        let count = to.min(self.last().saturating_sub(1)).saturating_sub(self.trimmed);
        self.records.drain(..usize::try_from(count).unwrap());
        self.trimmed += count;
    }
}

/// A log whose appends time out, before or after they took place, arrive again later, and are lost from its end.
#[derive(Clone)]
pub(super) struct FaultyLog {
    pub(super) log: Arc<Mutex<MemoryLog>>,
    random: Random,
    pub(super) late: Vec<(u64, Bytes)>,
    /// True if it loses records from its end.
    loses: bool,
    pub(super) faults: FaultCounts,
}

impl FaultyLog {
    pub(super) fn new(log: Arc<Mutex<MemoryLog>>, seed: u64) -> Self {
        Self { log, random: Random::new(seed), late: Vec::new(), loses: true, faults: FaultCounts::default() }
    }

    /// Returns a log that keeps what it has acknowledged.
    pub(super) fn without_losses(log: Arc<Mutex<MemoryLog>>, seed: u64) -> Self {
        Self { loses: false, ..Self::new(log, seed) }
    }
}

impl ReplicatedLog for FaultyLog {
    fn append(&mut self, expected: u64, record: &Bytes) -> Appended {
        let mut log = self.log.lock();
        if self.random.chance(4)
            && let Some((expected, late)) = self.late.pop()
        {
            let is_stored = log.append(expected, &late) == Appended::Stored;
            self.faults.note(if is_stored { Fault::LateAppendStored } else { Fault::LateAppendRefused });
        }
        match self.random.below(20) {
            0 => {
                self.faults.note(Fault::AppendLost);
                return Appended::Unknown;
            }
            1 => {
                self.faults.note(Fault::AppendDelayed);
                self.late.push((expected, record.clone()));
                return Appended::Unknown;
            }
            2 => {
                if log.append(expected, record) == Appended::Stored {
                    self.faults.note(Fault::AppendUnheard);
                }
                return Appended::Unknown;
            }
            3 => self.late.push((expected, record.clone())),
            4 if self.loses => {
                let last = log.last();
                let end = last.saturating_sub(self.random.below(4)).max(log.trimmed + 1);
                if end < last {
                    self.faults.note(Fault::EndLost);
                }
                log.lose_after(end);
            }
            _ => {}
        }
        let outcome = log.append(expected, record);
        if outcome == Appended::Refused {
            self.faults.note(Fault::AppendRefused);
        }
        outcome
    }

    fn follow(&mut self, from: u64, limit: usize) -> Option<Vec<Bytes>> {
        if self.random.chance(10) { None } else { self.log.lock().follow(from, limit) }
    }

    fn tail(&mut self) -> Option<u64> {
        if self.random.chance(10) { None } else { self.log.lock().tail() }
    }

    fn trim(&mut self, to: u64) {
        self.log.lock().trim(to);
    }
}
