//! A replica: a store whose changes are records that another node decided.
//!
//! Records are applied in groups, each in one commit, which also holds the position in the log. So a replica that
//! stops at any moment goes on from its file. It flushes and reopens its file as any store does; only retention follows the
//! decider.
//!
//! *Invariant:* before a record is applied, the checkpoint is not below the entries that the decider had removed, so that no
//! start replays an entry of a shadow whose tombstone was purged since.

use crate::store::{
    batch::DecideContext,
    changes::Changes,
    error::StoreError,
    healing::UnknownCommit,
    health::State,
    journal::entry::Seq,
    pages::check::CheckedTable,
    replication::{
        applied_position::AppliedPosition,
        batch_record::BatchRecord,
        chain::{Chain, ReadRecord},
        replay::{Replay, ReplayedRequests},
    },
    rows::edit::RowEdit,
    schema::JournalPosition,
    state::names::NameCounts,
    writer::Writer,
};

impl<C> Writer<C> {
    /// Applies records that follow in the log, each with the reader's state after it, and passes their requests on. After an
    /// error, the position in the file says which of them were applied.
    pub(in crate::store) fn follow(
        &mut self,
        records: impl IntoIterator<Item = (Chain, ReadRecord)>,
        requests: &mut impl ReplayedRequests,
    ) -> Result<(), StoreError> {
        self.check_open()?;
        let mut group = self.begin_group();
        for (chain, record) in records {
            requests.begin(chain.position.number);
            match record {
                ReadRecord::Claim(journal) => {
                    if let Err(error) = check_same(chain.position.number, group.changes.head, journal) {
                        self.apply_group(group, requests)?;
                        return Err(error);
                    }
                }
                ReadRecord::Batch(batch) => {
                    if !batch.purged.is_empty() || batch.removed > self.progress.checkpoint.seq {
                        self.apply_group(group, requests)?;
                        self.flush_up_to(batch.removed)?;
                        group = self.begin_group();
                    }
                    self.replay(*batch, &mut group, requests)?;
                }
                ReadRecord::NodeGone(_) | ReadRecord::Void => {}
            }
            self.applied_position.get_or_insert_default().chain = chain;
        }
        self.apply_group(group, requests)
    }

    /// Begins a group. Names are counted anew, from what is committed; so they are, should this node decide.
    fn begin_group(&mut self) -> Replay {
        self.names = NameCounts::new(self.options.shadow_names_max);
        Replay::new(&self.progress, &self.options.indexed)
    }

    fn replay(
        &mut self,
        batch: BatchRecord,
        group: &mut Replay,
        requests: &mut impl ReplayedRequests,
    ) -> Result<(), StoreError> {
        if !batch.purged.is_empty() {
            self.check_purgeable()?;
        }
        let now = batch.now;
        self.clock.reach(now.running);
        self.note_decided(&batch);
        let Self { shared, dirty_set, names, options, .. } = self;
        let mut context = DecideContext { shared, dirty_set, names, limits: &options.document, now };
        if let Err(error) = group.add(batch, &mut context, requests) {
            // What was added to the position was not applied.
            let position = self.shared.database.get()?.applied_position()?;
            self.set_applied_position(position);
            self.lineages = self.shared.lineages();
            return Err(error);
        }
        Ok(())
    }

    /// Notes how the entries of `batch`, the record that follows, were decided, and by which claim.
    pub(in crate::store) fn note_decided(&mut self, batch: &BatchRecord) {
        let position = self.applied_position.get_or_insert_default();
        position.add(batch);
        if let Some((first, _)) = batch.entries.first() {
            self.lineages.begin(*first, position.chain.lineage());
        }
    }

    fn apply_group(&mut self, group: Replay, requests: &mut impl ReplayedRequests) -> Result<(), StoreError> {
        let Replay { changes, edits, .. } = group;
        let applied = if changes.record.rows.is_empty() {
            let up_to = self.applied_position.as_ref().map_or(0, |applied| applied.chain.position.number);
            self.apply_with_rows(changes, requests.rows(up_to)).inspect(|()| requests.committed(up_to))
        } else {
            self.pending_rows.set_commands(edits);
            self.apply_logged(changes)
        };
        self.report();
        applied
    }

    /// Applies changes that the log has, with the rows of this node that belong to their requests. `None`: nothing of the
    /// requests needs a commit, and without anything else to write there is none.
    pub(in crate::store) fn apply_with_rows(
        &mut self,
        mut changes: Changes,
        rows: Option<Vec<RowEdit>>,
    ) -> Result<(), StoreError> {
        if changes.is_without_effect() && rows.is_none() && !self.must_write_position() {
            self.keep_loaded(changes.touched);
            return Ok(());
        }
        // The rows of a member of a cluster are its own.
        if rows.is_some() {
            self.unsynced.sync_next();
        }
        self.pending_rows.set_commands(rows.unwrap_or_default());
        changes.record.rows = self.pending_rows.records(self.progress.rows.head);
        self.apply_logged(changes)
    }

    fn apply_logged(&mut self, changes: Changes) -> Result<(), StoreError> {
        let (head, counts) = (changes.head, changes.counts);
        if self.apply(changes).is_err() {
            self.healer.keep_unknown(UnknownCommit { head, changes: Vec::new(), counts });
        }
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
            return Ok(());
        }
        let detail = "some of its pages are damaged, so a purge of the log cannot be applied".to_owned();
        Err(StoreError::Corrupt { path: self.options.path.clone(), detail })
    }

    /// Returns true if a commit is due for the position in the log or the rows of this node.
    pub(in crate::store) fn must_write_position(&self) -> bool {
        self.pending_rows.is_due() || self.applied_position.as_ref().is_some_and(AppliedPosition::is_due)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if matches!(self.state, State::Failed(_)) { Err(StoreError::Reopening) } else { Ok(()) }
    }
}

/// Checks that the store of this node, whose journal ends at `own`, is in the state in which record `number` claims.
fn check_same(number: u64, own: JournalPosition, claimed: JournalPosition) -> Result<(), StoreError> {
    if own == claimed {
        return Ok(());
    }
    let detail = format!(
        "this store is not a copy of the one that claims in record {number} of the log: its journal has {} bytes at entry {}, \
         the other's {} at {}",
        own.bytes, own.seq, claimed.bytes, claimed.seq
    );
    Err(StoreError::entry(claimed.seq, detail))
}
