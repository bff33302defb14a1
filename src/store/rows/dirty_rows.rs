//! The rows with edits that the table does not have yet, and the pace at which they are flushed.
//!
//! Edits collect in memory until half of the allowed lag is used. Then all rows edited so far are a write-back pass: each
//! commit flushes some of them in key order, while further edits collect beside them. When the pass ends, the table has
//! every edit before its beginning, and the checkpoint moves there.
//!
//! *Invariant:* every edit after the checkpoint is in memory, was flushed, or was replaced by a later edit of its key. A
//! row that was inserted after the checkpoint, and not flushed, leaves nothing behind when it is removed.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::{
    rows::{
        edit::{RowEdit, RowKey},
        edited_row::{self, EditedRow, EditedRows},
    },
    schema::{JournalPosition, RowsCheckpoint},
};

/// A row to be written to the table; without a value it is removed.
pub(in crate::store) type FlushedRow = (RowKey, Option<Bytes>);

/// Fewest rows flushed with a commit during a pass.
const SLICE_MIN: usize = 32;

/// The edited rows; see the module.
pub(in crate::store) struct DirtyRows {
    /// The rows edited since the pass began.
    current: EditedRows,
    /// The rows left in the pass.
    pass: BTreeMap<RowKey, EditedRow>,
    /// The end of the log when the pass began; `None` without a pass.
    pass_start: Option<JournalPosition>,
    /// The part of the allowed lag for one pass.
    lap_bytes_max: u64,
}

impl DirtyRows {
    /// Returns an empty set.
    pub(in crate::store) fn new(lag_bytes_max: u64) -> Self {
        Self { current: EditedRows::new(), pass: BTreeMap::new(), pass_start: None, lap_bytes_max: lag_bytes_max / 2 }
    }

    /// Adds an edited row that is in the log.
    pub(in crate::store) fn add(&mut self, key: RowKey, row: EditedRow) {
        edited_row::add(&mut self.current, (key, row), |key| self.pass.remove(key));
    }

    /// Applies an edit of the log at the start. A pass may have flushed the row before, so it counts as one that the table
    /// may have.
    pub(in crate::store) fn replay(&mut self, edit: RowEdit) {
        let (key, row) = edit.into_row();
        self.add(key, EditedRow { is_new: false, ..row });
    }

    /// Removes the rows to flush in a commit that appends `bytes` to a log that ends at the head of `progress`. Moves the
    /// checkpoint of `progress` if a pass ends.
    ///
    /// The set does not keep the removed rows: if the commit fails, it has to be recovered from the file.
    pub(in crate::store) fn take(&mut self, progress: &mut RowsCheckpoint, bytes: u64) -> Vec<FlushedRow> {
        if self.pass_start.is_none() && progress.lag().1 > self.lap_bytes_max {
            self.pass = self.current.drain().collect();
            self.pass_start = Some(progress.head);
        }
        let Some(start) = self.pass_start else { return Vec::new() };
        let left = self.lap_bytes_max.saturating_sub(progress.head.bytes - start.bytes);
        let share = (self.pass.len() as u64).saturating_mul(bytes).div_ceil(left.saturating_add(bytes).max(1));
        let count = usize::try_from(share).unwrap_or(usize::MAX).max(SLICE_MIN);
        let taken = (0..count).map_while(|_| self.pass.pop_first()).map(|(key, row)| (key, row.value)).collect();
        if self.pass.is_empty() {
            progress.checkpoint = start;
            self.pass_start = None;
        }
        taken
    }

    /// Returns all edited rows in the order of their keys.
    pub(in crate::store) fn sorted(&self) -> Vec<FlushedRow> {
        let all = self.current.iter().chain(&self.pass);
        let mut all: Vec<_> = all.map(|(key, row)| (key.clone(), row.value.clone())).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}
