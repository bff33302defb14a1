//! The edits that wait for a commit.
//!
//! Edits for whose durability somebody waits are committed at once; others wait for the next commit, half a second at
//! most. The edits of one row become one: a row that is inserted and removed before the commit leaves nothing. After a
//! failed commit its edits wait here again.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::store::{
    rows::{
        edit::{self, RowEdit, RowKey},
        edited_row::{self, EditedRow, EditedRows},
        sent::{OnDurable, RowBatch, WAITING_BYTES_MAX},
    },
    schema::JournalPosition,
};

/// Bytes of edits that wait for a commit, from which on no rows should be added.
pub(in crate::store) const BACKLOG_BYTES_MAX: usize = 32 << 20;

/// The longest time that edits wait for a commit if nobody waits for them.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Bytes of rows from which on a new record of the log begins.
const RECORD_BYTES: usize = 1 << 20;

/// The edited rows, and the calls when they are on disk.
#[derive(Default)]
pub(in crate::store) struct PendingRows {
    pub(in crate::store) rows: EditedRows,
    /// The edits of the accepted commands that the next commit has, behind the others.
    pub(in crate::store) commands: Vec<(RowKey, EditedRow)>,
    pub(in crate::store) calls: Vec<OnDurable>,
    /// True if somebody waits for one of the calls.
    is_awaited: bool,
    /// The approximate bytes of the edits as they were sent.
    pub(in crate::store) bytes: usize,
    /// The time at which the edits have to be committed.
    due: Option<Instant>,
}

impl PendingRows {
    /// Adds edits behind those that wait.
    pub(in crate::store) fn add(&mut self, batch: RowBatch) {
        let RowBatch { edits, calls, is_awaited, bytes } = batch;
        if !edits.is_empty() || !calls.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + WAIT_MAX);
        }
        edits.into_iter().for_each(|edit| edited_row::add(&mut self.rows, edit.into_row(), |_| None));
        self.calls.extend(calls);
        self.is_awaited |= is_awaited;
        self.bytes += bytes;
    }

    /// Sets the edits of the accepted commands that the next commit has.
    pub(in crate::store) fn set_commands(&mut self, edits: Vec<RowEdit>) {
        self.commands = edits.into_iter().map(RowEdit::into_row).collect();
    }

    /// Returns true if there is nothing to write: all edits were committed before, or cancel each other out.
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.commands.is_empty()
    }

    /// Returns the time at which the edits have to be committed; `None` if there are none.
    pub(in crate::store) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns true if the edits have to be committed now.
    pub(in crate::store) fn is_due(&self) -> bool {
        let is_urgent = self.is_awaited || self.bytes >= WAITING_BYTES_MAX;
        is_urgent || self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Returns the records for the log, which ends at `head`.
    pub(in crate::store) fn records(&self, head: JournalPosition) -> Vec<(u64, Vec<u8>)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows.extend(self.commands.iter().map(|(key, row)| (key, row)));
        let mut records = Vec::new();
        let mut seq = head.seq.0;
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(key, row): &(&RowKey, &EditedRow)| {
                let begins = bytes < RECORD_BYTES;
                bytes += key.len() + row.value.as_ref().map_or(0, Bytes::len);
                begins
            };
            let count = rest.iter().map(fits).take_while(|fits| *fits).count();
            let (record, behind) = rest.split_at(count);
            rest = behind;
            seq += 1;
            records.push((seq, edit::encode(seq, record.iter().copied())));
        }
        records
    }

    /// Adds `former` rows that the file may have lost, before those that wait.
    pub(in crate::store) fn put_back(&mut self, former: EditedRows) {
        if !former.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + WAIT_MAX);
        }
        let newer = std::mem::replace(&mut self.rows, former);
        self.rows.extend(newer);
        self.rows.values_mut().for_each(|row| row.is_new = false);
    }

    /// Keeps the rows for another commit, other than those of its commands, which have failed. The failed one may be on the
    /// disk, so none of them is new any more.
    pub(in crate::store) fn commit_failed(&mut self) {
        self.commands.clear();
        self.rows.values_mut().for_each(|row| row.is_new = false);
    }

    /// Removes and returns everything, when it was committed.
    pub(in crate::store) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}
