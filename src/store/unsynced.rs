//! The commits of a node of a cluster that are not on its disk yet.
//!
//! A majority of the servers of the log has a record on disk before a node applies it, so a node need not sync each of its
//! commits: after a stop it reads the records again. A commit is synced, and all before it, when somebody waits for an edit of a
//! row, which the log does not have, when it has what must not be received again, or when the first unsynced one becomes too
//! old or they too large. A single node syncs every commit.
//!
//! A file that is opened again after a failed commit may lack all unsynced ones. Then their records are applied again, before
//! anything else is decided or committed, and their edits of rows are written again.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::store::{rows::edited_row::EditedRows, schema::JournalPosition, shadow_counts::CountChange};

/// The longest time that a commit waits for a sync.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Bytes of records and rows that wait for a sync at most. A node keeps more than these records.
const BYTES_MAX: usize = 16 << 20;

/// The unsynced commits; see the module.
#[derive(Default)]
pub(in crate::store) struct UnsyncedCommits {
    first: Option<FirstUnsynced>,
    /// The rows that were edited.
    rows: EditedRows,
    counts: CountChange,
    /// The bytes of the records, with those of the next commit, and of the rows.
    bytes: usize,
    /// True if the next commit must be synced.
    is_urgent: bool,
}

struct FirstUnsynced {
    /// The end of the journal before it.
    head: JournalPosition,
    due: Instant,
}

impl UnsyncedCommits {
    /// Returns true if there are none.
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the time at which they have to be synced; `None` if there are none.
    pub(in crate::store) fn due(&self) -> Option<Instant> {
        self.first.as_ref().map(|first| first.due)
    }

    /// Returns true if they have to be synced now, or with the next commit.
    pub(in crate::store) fn is_due(&self) -> bool {
        self.is_urgent
            || self.bytes >= BYTES_MAX
            || self.first.as_ref().is_some_and(|first| first.due <= Instant::now())
    }

    /// Makes them due.
    pub(in crate::store) fn hurry(&mut self) {
        self.first.iter_mut().for_each(|first| first.due = Instant::now());
    }

    /// Adds the bytes of records that the next commit applies.
    pub(in crate::store) fn add_records(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Lets the next commit be synced.
    pub(in crate::store) fn sync_next(&mut self) {
        self.is_urgent = true;
    }

    /// Notes an unsynced commit, before which the journal ended at `head`.
    pub(in crate::store) fn begin(&mut self, head: JournalPosition) {
        self.first.get_or_insert_with(|| FirstUnsynced { head, due: Instant::now() + SYNC_EVERY });
    }

    /// Notes rows that an unsynced commit has edited.
    pub(in crate::store) fn add_rows(&mut self, rows: &EditedRows) {
        if !self.is_empty() {
            let bytes = rows.iter().map(|(key, row)| key.len() + row.value.as_ref().map_or(0, Bytes::len));
            self.bytes += bytes.sum::<usize>();
            self.rows.extend(rows.iter().map(|(key, row)| (key.clone(), row.clone())));
        }
    }

    /// Notes a change of the numbers of shadows by an unsynced commit.
    pub(in crate::store) fn add_counts(&mut self, counts: CountChange) {
        if !self.is_empty() {
            self.counts.add(counts);
        }
    }

    /// Notes that all are on disk.
    pub(in crate::store) fn synced(&mut self) {
        *self = Self::default();
    }

    /// Forgets them, since the file was opened again. Returns the rows that may be lost.
    pub(in crate::store) fn take_rows(&mut self) -> EditedRows {
        std::mem::take(self).rows
    }

    /// Returns the change of the numbers of shadows by commits that the file lacks, if its journal ends at `found` without
    /// them.
    pub(in crate::store) fn lost(&self, found: JournalPosition) -> Option<CountChange> {
        self.first.as_ref().filter(|first| first.head == found).map(|_| self.counts)
    }
}
