//! The replay of records that another node decided: it makes the same changes from them as the decisions made.
//!
//! Several records become one commit, as long as none of them purges tombstones of documents that an earlier one of them
//! may have touched.

use crate::{
    shadow::{DocumentLimits, Timestamp},
    store::{
        changes::Changes,
        codec::DecodeError,
        error::StoreError,
        journal::{
            entry::{JournalEntry, Seq},
            unapplied,
        },
        reader::{self, Shared},
        replication::batch_record::{BatchRecord, KeyedNoOp},
        rows::{
            edit::{self, RowEdit},
            tables::ROW_LOG,
        },
        schema::Checkpoint,
        store_clock::Now,
    },
};

/// The changes of some records; see the module.
pub(in crate::store) struct Replay {
    pub(in crate::store) changes: Changes,
    /// The edits of rows, in order.
    pub(in crate::store) edits: Vec<RowEdit>,
    /// The last record of the row log.
    last_row: u64,
}

impl Replay {
    /// Returns a replay onto a store at `progress`.
    pub(in crate::store) fn new(progress: &Checkpoint) -> Self {
        let changes = Changes::new(progress, Now::default(), &DocumentLimits::default());
        Self { changes, edits: Vec::new(), last_row: progress.rows.head.seq.0 }
    }

    /// Adds the changes of `batch`, the record that follows.
    pub(in crate::store) fn add(&mut self, batch: BatchRecord, shared: &Shared) -> Result<(), StoreError> {
        let BatchRecord { now, path_tombstones_max, entries, no_ops, purged, rows, .. } = batch;
        self.changes.counts.purged(purged.values().map(|purge| purge.keys.len()).sum());
        self.changes.record.purged.extend(purged);
        let mut no_ops = no_ops.into_iter().peekable();
        for (seq, framed) in entries {
            while let Some(no_op) = no_ops.next_if(|no_op| no_op.after < seq) {
                self.add_no_op(no_op, shared)?;
            }
            self.add_entry(seq, framed, now.running, path_tombstones_max, shared)?;
        }
        no_ops.try_for_each(|no_op| self.add_no_op(no_op, shared))?;
        rows.into_iter().try_for_each(|(seq, framed)| self.add_rows(seq, framed))
    }

    fn add_entry(
        &mut self,
        seq: Seq,
        framed: Vec<u8>,
        decided: Timestamp,
        path_tombstones_max: usize,
        shared: &Shared,
    ) -> Result<(), StoreError> {
        if seq.0 != self.changes.head.seq.0 + 1 {
            return Err(StoreError::entry(seq, format!("it follows {} in the log", self.changes.head.seq)));
        }
        let entry: JournalEntry = reader::entry(seq, &framed)?;
        let touched = self.changes.touch(&entry.key, shared)?;
        let stored = &mut touched.stored;
        let before = stored.is_recorded().then_some(stored.document.deleted);
        let document = unapplied::next(stored, &entry, path_tombstones_max)?;
        let remembered = entry.remember(&stored.remembered, decided);
        stored.remembered = remembered.map_err(|_| StoreError::entry(seq, "no room for its idempotency key"))?;
        stored.document = document.into();
        stored.last_entry = seq;
        touched.changed = true;
        self.changes.counts.written(before, entry.deleted);
        self.changes.head = self.changes.head.next(framed.len());
        self.changes.record.entries.push((seq, framed));
        Ok(())
    }

    fn add_no_op(&mut self, no_op: KeyedNoOp, shared: &Shared) -> Result<(), StoreError> {
        let KeyedNoOp { key, after, remembered } = no_op;
        let touched = self.changes.touch(&key, shared)?;
        let remembered = touched.stored.remembered.with((*remembered).clone());
        touched.stored.remembered =
            remembered.map_err(|_| StoreError::entry(after, "no room for an idempotency key"))?;
        touched.must_flush = true;
        touched.changed = true;
        Ok(())
    }

    fn add_rows(&mut self, seq: u64, framed: Vec<u8>) -> Result<(), StoreError> {
        let broken = |error| StoreError::record(ROW_LOG, seq, &error);
        if seq != self.last_row + 1 {
            return Err(broken(DecodeError::Invalid("its place in the log")));
        }
        self.edits.extend(edit::decode(seq, &framed).map_err(broken)?);
        self.last_row = seq;
        self.changes.record.rows.push((seq, framed));
        Ok(())
    }
}
