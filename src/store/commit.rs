//! The append and the commit of the writer, and the publication of documents to readers.
//!
//! The record of a batch is appended to the log first, then applied by a commit. On a single node the commit is the append.
//! The transaction contains the new entries, the flushed documents (including those whose record must not wait), the
//! removals by retention, the purges, and the progress record. After the commit, new documents are published in the
//! cache, pinned if they are still dirty. Then the new head is published, so every reader that sees an entry finds its
//! document. `writer` decides when to commit and what to report.

use std::{collections::HashMap, sync::atomic::Ordering, time::Instant};

use redb::Durability;

use crate::{
    shadow::{Rejection, ShadowKey},
    store::{
        changes::{Changes, TouchedShadow},
        database::{AbortCause, CommitFailure},
        error::StoreError,
        health::State,
        index::writing::{Budget, IndexCommit, StateTable},
        journal::{entry::Seq, lineage::LINEAGES_KEY, retention::TrimLimit},
        pages::check::CheckedTable,
        reader::Shared,
        replication::{
            applied_position::{APPLIED_KEY, AppliedPosition},
            batch_record::BatchRecord,
        },
        rows::{pending::PendingRows, tables::RowsCommit},
        schema::{self, AGES_KEY, Checkpoint, JOURNAL_TABLE, META_TABLE, PROGRESS_KEY, STATE_TABLE},
        state::{
            cache::Form,
            dictionary::{SAMPLE_BYTES_MAX, SAMPLES},
            purge::{self, Purges},
            record::{RecordEncoder, STATE},
        },
        store_clock::Now,
        writer::{QueueReservation, Writer},
    },
};

impl<C> Writer<C> {
    /// Appends the record of `changes`, which get the pending edits of rows, and applies it.
    pub(super) fn commit_batch(&mut self, mut changes: Changes) -> Result<(), Rejection> {
        self.append(&mut changes.record)?;
        self.apply(changes)
    }

    /// As [`Writer::commit_batch`], for changes of no document, and without a part of the dirty set.
    pub(super) fn commit_without_flush(&mut self, mut changes: Changes) -> Result<(), Rejection> {
        self.append(&mut changes.record)?;
        self.commit(self.progress, &changes.record, &[])?;
        self.applied(&changes);
        Ok(())
    }

    /// Completes `record` by the pending edits of rows, and appends it to the log if it changes anything.
    fn append(&mut self, record: &mut BatchRecord) -> Result<(), Rejection> {
        record.rows = self.pending_rows.records(self.progress.rows.head);
        if record.is_empty() {
            return Ok(());
        }
        let appended = self.log.append(record);
        appended.map_err(|failure| self.fail(failure))
    }

    /// Commits `changes`, some of the dirty set, and removals by retention; then publishes.
    pub(super) fn apply(&mut self, mut changes: Changes) -> Result<(), Rejection> {
        let mut progress = self.progress;
        progress.head = changes.head;
        let touched = std::mem::take(&mut changes.touched);
        let stale = touched.iter().filter(|(_, shadow)| shadow.is_stale).map(|(key, _)| key.clone());
        self.shared.unflushed.add_stale(stale.collect());
        let mut flushed = Vec::new();
        for (key, shadow) in &touched {
            if shadow.must_flush {
                self.dirty_set.remove(key);
                flushed.push((key.clone(), Form::Decoded(shadow.stored.clone())));
            } else if shadow.changed {
                self.dirty_set.insert(key.clone(), shadow.stored.record_bytes(&self.shared.dictionaries));
            }
        }
        let bytes = changes.head.bytes - self.progress.head.bytes;
        let cached = self.shared.cache.size().1 as u64;
        let due = self.dirty_set.due(&progress, changes.record.entries.len() as u64, bytes, cached);
        for key in self.dirty_set.take(due, &mut progress) {
            let form = match touched.get(&key) {
                Some(shadow) => Form::Decoded(shadow.stored.clone()),
                None => self.kept(&key)?,
            };
            flushed.push((key, form));
        }
        self.commit(progress, &changes.record, &flushed)?;
        self.applied(&changes);
        self.publish(touched, &flushed);
        self.sample_if_due(flushed.len());
        Ok(())
    }

    /// Counts the changes that were committed, and removes the purged tombstones from the cache.
    fn applied(&mut self, changes: &Changes) {
        self.shared.counter.lock().add(changes.counts);
        self.unsynced.add_counts(changes.counts);
        self.remove_purged(&changes.record.purged);
    }

    /// Returns no changes of the store as it is.
    pub(super) fn no_changes(&mut self) -> Changes {
        let now = self.clock.now();
        self.no_changes_at(now)
    }

    pub(super) fn no_changes_at(&self, now: Now) -> Changes {
        Changes::new(&self.progress, now, &self.options.document, &self.options.indexed)
    }

    /// Builds a part of the index in a commit of its own.
    pub(super) fn index_some(&mut self) {
        let changes = self.no_changes();
        let _failed_ones_are_built_again = self.commit_without_flush(changes);
        self.report();
        if !self.durable.is_empty() {
            self.deliver(Vec::new(), QueueReservation::none());
        }
    }

    /// Flushes a part of the dirty set in a commit of its own.
    pub(super) fn flush_some(&mut self) {
        let mut progress = self.progress;
        let keys = self.dirty_set.take(self.options.flush_documents_idle.max(1), &mut progress);
        let flushed: Result<Vec<_>, _> = keys.into_iter().map(|key| self.kept(&key).map(|form| (key, form))).collect();
        let mut record = self.no_changes().record;
        if let Ok(flushed) = flushed
            && self.append(&mut record).is_ok()
            && self.commit(progress, &record, &flushed).is_ok()
        {
            self.release(&flushed);
            flushed.iter().for_each(|(key, _)| self.shared.cache.trim(key));
            self.sample_if_due(flushed.len());
        }
        self.report();
        if !self.durable.is_empty() {
            self.deliver(Vec::new(), QueueReservation::none());
        }
    }

    /// Proposes a dictionary of some dirty documents for the next commit, if it is time to after `flushed` others.
    fn sample_if_due(&mut self, flushed: usize) {
        let Self { shared, dirty_set, encoder, trainer, options, progress, .. } = self;
        if !trainer.is_due(flushed, dirty_set.len(), options.dictionary_documents_min) {
            return;
        }
        let stored = dirty_set.sample(SAMPLES).into_iter().filter_map(|key| {
            let form = shared.cache.kept(&key)?;
            form.decode(&key, &shared.dictionaries).ok()
        });
        let records: Vec<_> = stored
            .map(|stored| {
                let body = encoder.encode_body(&stored.document);
                body.get(..SAMPLE_BYTES_MAX).unwrap_or(body).to_vec()
            })
            .collect();
        trainer.sample(&shared.dictionaries, progress.dictionaries, &records);
    }

    /// Returns the document of `key`, which is dirty.
    fn kept(&mut self, key: &ShadowKey) -> Result<Form, Rejection> {
        let missing = || StoreError::Record {
            table: STATE,
            key: key.to_string(),
            detail: "its newest document is not in memory".to_owned(),
        };
        // The journal has it, from which the store is opened again.
        self.shared.cache.kept(key).ok_or_else(missing).map_err(|error| self.fail(CommitFailure::NotTried(error)))
    }

    /// Commits the content of `record` and the flushed documents. Afterwards journal and state table stand at `progress`,
    /// or beyond it by retention.
    fn commit(
        &mut self,
        mut progress: Checkpoint,
        record: &BatchRecord,
        flushed: &[(ShadowKey, Form)],
    ) -> Result<(), Rejection> {
        let started = Instant::now();
        let now = self.clock.now();
        let entries = &record.entries;
        let too_old = self.clock.begin_commit(now, self.progress.head.seq, !entries.is_empty());
        let rows = self.rows_commit(&mut progress, &record.rows);
        let removed = self.applied_position.as_mut().map(|applied| applied.trim_limit(&progress));
        let limit = match removed {
            Some(removed) if !self.is_deciding => removed,
            _ => TrimLimit::Sizes { too_old, added: entries.len() },
        };
        let facts = [
            (AGES_KEY, self.clock.record(now)),
            (APPLIED_KEY, self.applied_position.as_ref().map(AppliedPosition::encode)),
            (LINEAGES_KEY, self.unwritten_lineages(entries)),
        ];
        // A removal may merge pages, and must not merge damaged ones.
        let may_trim = self.shared.database.is_sound(CheckedTable::Journal);
        let budget = self.index_budget(entries.is_empty() && flushed.is_empty());
        let is_synced = self.must_sync() || !record.purged.is_empty();
        let durability = if is_synced { Durability::Immediate } else { Durability::None };
        let Self { shared, retention, encoder, trainer, index: keeper, .. } = self;
        keeper.look(shared.database.pages().as_deref());
        let filled = shared.database.commit_with(durability, |transaction| {
            let mut journal = transaction.open_table(JOURNAL_TABLE)?;
            for (seq, framed) in entries {
                journal.insert(seq.0, framed.as_slice())?;
            }
            if may_trim {
                retention.trim(&mut journal, &mut progress, limit)?;
            }
            let mut state = transaction.open_table(STATE_TABLE)?;
            // Before the flushed documents, since a purged name may be in use again.
            progress.floors += purge::write(transaction, &mut state, &record.purged)?;
            let mut index = keeper.begin(transaction, &shared.database, &shared.dictionaries);
            put_records(&mut state, &mut index, flushed, encoder, shared)?;
            let index = index.finish(&state, budget, &mut progress)?;
            if let Some(next) = &trainer.next {
                next.write(transaction)?;
                progress.dictionaries = next.count();
            }
            rows.write(transaction, &mut progress.rows)?;
            let mut meta = transaction.open_table(META_TABLE)?;
            meta.insert(PROGRESS_KEY, progress.encode().as_slice())?;
            for (key, fact) in facts {
                fact.map(|fact| meta.insert(key, fact.as_slice()).map(drop)).transpose()?;
            }
            Ok::<_, AbortCause>((progress, index))
        });
        let (progress, index) = filled.map_err(|failure| self.fail(failure))?;
        self.index.committed(index);
        self.shared.commits.durations.observe_duration(started.elapsed());
        if is_synced {
            self.unsynced.synced();
        } else {
            self.unsynced.begin(self.progress.head);
        }
        self.progress = progress;
        self.applied_position.iter_mut().for_each(AppliedPosition::written);
        self.lineages_committed();
        self.trainer.next.take().into_iter().for_each(|next| self.shared.dictionaries.add(next));
        self.rows_committed();
        Ok(())
    }

    /// Returns the lineages of the journal with `entries`, if the file lacks one of them.
    fn unwritten_lineages(&mut self, entries: &[(Seq, Vec<u8>)]) -> Option<Vec<u8>> {
        // Those of a log were begun with each of its records.
        if let (Some((first, _)), None) = (entries.first(), &self.applied_position) {
            self.lineages.begin(*first, self.lineage);
        }
        self.lineages.unwritten()
    }

    /// Publishes the lineages that were committed.
    fn lineages_committed(&mut self) {
        if self.lineages.written() {
            self.shared.lineages.write().clone_from(&self.lineages);
        }
    }

    /// Returns true if the next commit must be on disk at once.
    pub(super) fn must_sync(&self) -> bool {
        let PendingRows { calls, commands, .. } = &self.pending_rows;
        let waits = || !calls.is_empty() || !commands.is_empty() || self.trainer.next.is_some();
        self.node.is_none() || waits() || self.unsynced.is_due()
    }

    /// Returns true if former commits must be on disk at once.
    pub(super) fn owes_sync(&self) -> bool {
        !self.unsynced.is_empty() && self.must_sync()
    }

    /// Returns what a commit may do for the index besides, which `is_alone` in it or not.
    fn index_budget(&self, is_alone: bool) -> Budget {
        match self.state {
            State::Writable if is_alone => Budget::IDLE,
            State::Writable => Budget::BESIDE,
            _ => Budget::NOTHING,
        }
    }

    /// Returns the rows of the next commit, and moves the head and checkpoint of `progress` accordingly.
    fn rows_commit<'a>(&mut self, progress: &mut Checkpoint, log: &'a [(u64, Vec<u8>)]) -> RowsCommit<'a> {
        let head = log.iter().fold(progress.rows.head, |head, (_, framed)| head.next(framed.len()));
        let bytes = head.bytes - progress.rows.head.bytes;
        let flushed = self.dirty_rows.take(&mut progress.rows, bytes);
        progress.rows.head = head;
        RowsCommit { log, flushed }
    }

    /// Applies the edits that were committed, and keeps the calls of those who wait for them.
    pub(super) fn rows_committed(&mut self) {
        let PendingRows { rows, commands, calls, bytes, .. } = self.pending_rows.take();
        self.shared.row_backlog.fetch_sub(bytes, Ordering::Relaxed);
        self.unsynced.add_rows(&rows);
        rows.into_iter().chain(commands).for_each(|(key, row)| self.dirty_rows.add(key, row));
        self.durable.extend(calls);
    }

    /// Commits pending edits of rows alone, if there are any.
    pub(super) fn commit_rows(&mut self) {
        if self.pending_rows.is_empty() && !self.owes_sync() {
            self.rows_committed();
            return self.deliver(Vec::new(), QueueReservation::none());
        }
        let changes = self.no_changes();
        let _failed_ones_stay_pending = self.commit_without_flush(changes);
        self.report();
        self.deliver(Vec::new(), QueueReservation::none());
    }

    /// Removes the purged tombstones from the cache.
    fn remove_purged(&self, purged: &Purges) {
        for (device, purge) in purged {
            purge.keys.iter().for_each(|key| self.shared.cache.remove(key));
            let (device, names, floor) = (device.as_str(), purge.keys.len(), purge.floor.version.0);
            tracing::debug!(device, names, floor, "purged the tombstones of deleted names");
        }
    }

    /// Publishes the committed documents to readers.
    fn publish(&mut self, touched: HashMap<ShadowKey, TouchedShadow>, flushed: &[(ShadowKey, Form)]) {
        let (changed, loaded): (Vec<_>, Vec<_>) = touched.into_iter().partition(|(_, shadow)| shadow.changed);
        let is_fresh = |(key, shadow): &&(ShadowKey, TouchedShadow)| shadow.is_new && self.dirty_set.contains(key);
        let fresh: Vec<_> = changed.iter().filter(is_fresh).map(|(key, _)| key.clone()).collect();
        if !fresh.is_empty() {
            self.shared.fresh.write().extend(fresh);
        }
        for (key, shadow) in changed {
            let pinned = self.dirty_set.contains(&key);
            self.shared.cache.publish(&key, shadow.stored, pinned);
        }
        self.keep_loaded(loaded);
        self.release(flushed);
        self.shared.head.store(self.progress.head.seq.0, Ordering::Release);
    }

    /// Caches the documents that were read from the state table for the decisions.
    pub(super) fn keep_loaded(&self, touched: impl IntoIterator<Item = (ShadowKey, TouchedShadow)>) {
        for (key, shadow) in touched {
            if !shadow.was_cached && !shadow.is_new {
                self.shared.cache.publish(&key, shadow.stored, false);
            }
        }
    }

    /// Unpins the flushed documents, so that they may be evicted.
    fn release(&self, flushed: &[(ShadowKey, Form)]) {
        self.shared.unflushed.flushed(flushed.iter().map(|(key, _)| key));
        for (key, _) in flushed {
            self.shared.cache.unpin(key);
        }
        let mut fresh = self.shared.fresh.upgradable_read();
        if !fresh.is_empty() {
            fresh.with_upgraded(|fresh| {
                for (key, _) in flushed {
                    fresh.remove(key);
                }
            });
        }
    }
}

/// Puts the records of `flushed` into `state`, and changes the entries of those that may have other ones in the index.
fn put_records(
    state: &mut StateTable<'_>,
    index: &mut IndexCommit<'_, '_>,
    flushed: &[(ShadowKey, Form)],
    encoder: &mut RecordEncoder,
    shared: &Shared,
) -> Result<(), AbortCause> {
    let dictionary = shared.dictionaries.newest();
    let stale = shared.unflushed.are_stale(flushed.iter().map(|(key, _)| key));
    for ((key, form), is_stale) in flushed.iter().zip(stale) {
        let name = schema::state_key(key);
        let value = match form {
            Form::Decoded(stored) => encoder.encode(&name, stored, dictionary),
            Form::Record(record) => record,
            Form::Unapplied(unapplied) => {
                encoder.encode(&name, &unapplied.apply(key, &shared.dictionaries)?, dictionary)
            }
        };
        if is_stale {
            index.put(state, key, &name, value)?;
        } else {
            state.insert(name.as_slice(), value)?;
        }
    }
    Ok(())
}
