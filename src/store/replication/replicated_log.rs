//! The seam to the engine that stores the log on several machines.
//!
//! An implementation promises: a record is appended if and only if the log ends at the expected number; it is on the
//! disks of a majority before [`Appended::Stored`]; a read sees every append that was reported before it began.

use bytes::Bytes;

/// A log on several machines.
pub(in crate::store) trait ReplicatedLog {
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

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Appended {
    /// The record is on the disks of a majority.
    Stored,
    /// The log does not end at the expected record.
    Refused,
    /// The record may have been appended, or may be later.
    Unknown,
}
