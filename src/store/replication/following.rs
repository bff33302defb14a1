//! A replica: a store whose changes are records that another node decided.
//!
//! Records are applied in groups, each in one commit, which also holds the position in the log. So a replica that
//! stops at any moment goes on from its file. It flushes and reopens its file as any store does; only retention follows the
//! decider.
//!
//! *Invariant:* before a record is applied, the checkpoint is not below the entries that the decider had removed, so that no
//! start replays an entry of a shadow whose tombstone was purged since.

use crate::store::{
    error::StoreError,
    healing::UnknownCommit,
    health::State,
    journal::entry::Seq,
    pages::check::CheckedTable,
    replication::{
        chain::{Chain, ReadRecord},
        replay::Replay,
    },
    state::names::NameCounts,
    writer::Writer,
};

impl<C> Writer<C> {
    /// Applies records that follow in the log, each with the reader's state after it. After an error, the position in the
    /// file says which of them were applied.
    pub(in crate::store) fn follow(&mut self, records: Vec<(Chain, ReadRecord)>) -> Result<(), StoreError> {
        self.check_open()?;
        // It is counted again, should this node decide.
        self.names = NameCounts::new(self.options.shadow_names_max);
        let mut group = Replay::new(&self.progress);
        for (chain, record) in records {
            if let ReadRecord::Batch(batch) = record {
                if !batch.purged.is_empty() || batch.removed > self.progress.checkpoint.seq {
                    self.apply_group(group)?;
                    self.flush_up_to(batch.removed)?;
                    group = Replay::new(&self.progress);
                }
                if !batch.purged.is_empty() {
                    self.check_purgeable()?;
                }
                self.clock.reach(batch.now.running);
                self.applied_position.get_or_insert_default().add(&batch);
                if let Err(error) = group.add(*batch, &self.shared) {
                    // What was added to the position was not applied.
                    self.applied_position = self.shared.database.get()?.applied_position()?;
                    return Err(error);
                }
            }
            self.applied_position.get_or_insert_default().chain = chain;
        }
        self.apply_group(group)
    }

    fn apply_group(&mut self, group: Replay) -> Result<(), StoreError> {
        let Replay { changes, edits, .. } = group;
        let (head, counts) = (changes.head, changes.counts);
        self.pending_rows.set_commands(edits);
        if self.apply(changes).is_err() {
            self.healer.keep_unknown(UnknownCommit { head, changes: Vec::new(), counts });
        }
        self.report();
        self.check_open()
    }

    /// Flushes documents until the checkpoint is at `removed` or after it.
    fn flush_up_to(&mut self, removed: Seq) -> Result<(), StoreError> {
        if removed > self.progress.head.seq {
            return Err(StoreError::entry(removed, "it is removed before it is there"));
        }
        while self.progress.checkpoint.seq < removed {
            self.flush_some();
            self.check_open()?;
        }
        Ok(())
    }

    fn check_purgeable(&self) -> Result<(), StoreError> {
        // A removal may merge pages, and must not merge damaged ones.
        let is_sound = |table: &CheckedTable| self.shared.database.is_sound(*table);
        if [CheckedTable::State, CheckedTable::Floors].iter().all(is_sound) {
            Ok(())
        } else {
            Err(StoreError::Reopening)
        }
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if matches!(self.state, State::Failed(_)) { Err(StoreError::Reopening) } else { Ok(()) }
    }
}
