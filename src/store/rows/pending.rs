//! The edits that wait for a commit.
//!
//! Edits for whose durability somebody waits are committed at once; others wait for the next commit, half a second at
//! most. After a failed commit its edits wait here again.

use std::time::{Duration, Instant};

use crate::store::{
    journal::entry::Seq,
    rows::edit::{self, RowEdit},
    schema::RowsCheckpoint,
};

/// A call when edits are on disk.
pub type OnDurable = Box<dyn FnOnce() + Send>;

/// Edits that are sent together.
pub(in crate::store) struct RowBatch {
    pub(in crate::store) edits: Vec<RowEdit>,
    pub(in crate::store) on_durable: Option<OnDurable>,
}

/// Bytes of edits that wait for a commit, from which on no rows should be added.
pub(in crate::store) const BACKLOG_BYTES_MAX: usize = 32 << 20;

impl RowBatch {
    /// Returns the approximate bytes of the edits.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.edits.iter().map(RowEdit::bytes).sum()
    }
}

/// The longest time that edits wait for a commit if nobody waits for them.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Bytes of such edits that are committed at once.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Bytes of edits from which on a new record of the log begins.
const RECORD_BYTES: usize = 1 << 20;

/// The edits in the order in which they were sent.
#[derive(Default)]
pub(in crate::store) struct PendingRows {
    batches: Vec<RowBatch>,
    bytes: usize,
    /// True if the last batch has the edits of commands, which are dropped if the commit fails.
    ends_with_commands: bool,
    is_urgent: bool,
    /// The time at which the edits have to be committed.
    due: Option<Instant>,
}

impl PendingRows {
    pub(in crate::store) fn add(&mut self, batch: RowBatch) {
        self.bytes += batch.bytes();
        self.is_urgent |= batch.on_durable.is_some();
        self.due.get_or_insert_with(|| Instant::now() + WAIT_MAX);
        self.batches.push(batch);
    }

    /// Adds the edits of the commands that the next commit has.
    pub(in crate::store) fn add_commands(&mut self, batch: RowBatch) {
        if !batch.edits.is_empty() {
            self.add(batch);
            self.ends_with_commands = true;
        }
    }

    /// Removes the edits of commands after a failed commit. Returns their bytes.
    pub(in crate::store) fn drop_commands(&mut self) -> usize {
        let is_last = std::mem::take(&mut self.ends_with_commands);
        let dropped = if is_last { self.batches.pop() } else { None }.map_or(0, |batch| batch.bytes());
        self.bytes -= dropped;
        dropped
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns the time at which the edits have to be committed; `None` if there are none.
    pub(in crate::store) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns true if only calls wait, whose edits were committed before.
    pub(in crate::store) fn has_calls_only(&self) -> bool {
        !self.batches.is_empty() && self.batches.iter().all(|batch| batch.edits.is_empty())
    }

    /// Returns true if the edits have to be committed now.
    pub(in crate::store) fn is_due(&self) -> bool {
        self.is_urgent || self.bytes >= WAITING_BYTES_MAX || self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Returns the records for the log, and moves the head of `progress` to the last of them.
    pub(in crate::store) fn records(&self, progress: &mut RowsCheckpoint) -> Vec<(u64, Vec<u8>)> {
        let mut records = Vec::new();
        let mut batches = self.batches.as_slice();
        while !batches.is_empty() {
            let mut bytes = 0;
            let fits = |batch: &RowBatch| {
                let begins = bytes < RECORD_BYTES;
                bytes += batch.bytes();
                begins
            };
            let count = batches.iter().map(fits).take_while(|fits| *fits).count();
            let (record, rest) = batches.split_at(count);
            batches = rest;
            let seq = progress.head.seq.0 + 1;
            let framed = edit::encode(seq, record.iter().flat_map(|batch| &batch.edits));
            progress.head = progress.head.next(framed.len());
            debug_assert_eq!(progress.head.seq, Seq(seq), "one record, one sequence");
            records.push((seq, framed));
        }
        records
    }

    /// Removes and returns everything, when it was committed.
    pub(in crate::store) fn take(&mut self) -> Vec<RowBatch> {
        std::mem::take(self).batches
    }
}
