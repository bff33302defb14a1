//! The replay of records that another node decided: it makes the same changes from them as the decisions made.
//!
//! Several records become one commit, as long as none of them purges tombstones of documents that an earlier one of them
//! may have touched.

use std::{iter::Peekable, sync::Arc, vec};

use bytes::Bytes;

use crate::{
    shadow::{Document, DocumentLimits, Timestamp, index::IndexedPaths},
    store::{
        batch::DecideContext,
        changes::Changes,
        codec::DecodeError,
        error::StoreError,
        journal::{
            entry::{JournalEntry, Seq},
            unapplied,
        },
        purging::PurgedTombstones,
        reader::{self, Shared},
        replication::{
            batch_record::{BatchRecord, DecidedRequest, KeyedNoOp, RequestDecision, SentCommand},
            requests::RequestNumber,
        },
        rows::{
            edit::{self, RowEdit},
            tables::ROW_LOG,
        },
        schema::Checkpoint,
        store_clock::Now,
    },
};

/// The receiver of the requests of records, while they are replayed.
pub(in crate::store) trait ReplayedRequests {
    /// The record with this number follows.
    fn begin(&mut self, number: u64);

    /// Receives a request that made an entry.
    fn changed(&mut self, request: RequestNumber, sent: SentCommand, replayed: ReplayedChange);

    /// Receives a request that made no entry, with the changes before it, against which it was decided.
    fn unchanged(
        &mut self,
        request: RequestNumber,
        is_accepted: bool,
        changes: &mut Changes,
        context: &mut DecideContext<'_>,
    );

    /// Receives a request that came too late to be decided.
    fn stale(&mut self, request: RequestNumber);

    /// Receives bytes that every node receives.
    fn broadcast(&mut self, request: RequestNumber, bytes: Bytes);

    /// Receives a purge, with the number of tombstones that the record names.
    fn purged(&mut self, request: RequestNumber, purged: PurgedTombstones);

    /// Returns the edits of rows that belong to the requests of the records up to this one and are not committed; `None` if nothing
    /// of them needs a commit.
    fn rows(&self, up_to: u64) -> Option<Vec<RowEdit>>;

    /// Notes that the records up to this one are committed.
    fn committed(&mut self, up_to: u64);
}

/// A change that was replayed.
pub(in crate::store) struct ReplayedChange {
    pub(in crate::store) entry: JournalEntry,
    pub(in crate::store) before: Arc<Document>,
    pub(in crate::store) after: Arc<Document>,
}

/// The part of a record that is not replayed yet.
struct RestOfRecord {
    no_ops: Peekable<vec::IntoIter<KeyedNoOp>>,
    entries: vec::IntoIter<(Seq, Vec<u8>)>,
}

/// The changes of some records; see the module.
pub(in crate::store) struct Replay {
    pub(in crate::store) changes: Changes,
    /// The edits of rows, in order.
    pub(in crate::store) edits: Vec<RowEdit>,
    /// The last record of the row log.
    last_row: u64,
}

impl Replay {
    /// Returns a replay onto a store at `progress` with an index of `indexed`.
    pub(in crate::store) fn new(progress: &Checkpoint, indexed: &Arc<IndexedPaths>) -> Self {
        let changes = Changes::new(progress, Now::default(), &DocumentLimits::default(), indexed);
        Self { changes, edits: Vec::new(), last_row: progress.rows.head.seq.0 }
    }

    /// Adds the changes of `batch`, the record that follows, and passes its requests on.
    pub(in crate::store) fn add(
        &mut self,
        batch: BatchRecord,
        context: &mut DecideContext<'_>,
        requests: &mut impl ReplayedRequests,
    ) -> Result<(), StoreError> {
        let BatchRecord { now, path_tombstones_max, entries, no_ops, purged, rows, requests: decided, .. } = batch;
        self.changes.counts.purged(purged.values().map(|purge| purge.keys.len()).sum());
        for (device, mut purge) in purged {
            let names = purge.keys.iter().filter(|key| key.name.is_some()).count();
            context.names.replay(&device, -names.cast_signed());
            // That of an earlier purge may be higher. The records after this one in the group were decided at the higher one.
            purge.floor.raise(context.shared.floor(&device)?);
            self.changes.record.purged.insert(device, purge);
        }
        let mut rest = RestOfRecord { no_ops: no_ops.into_iter().peekable(), entries: entries.into_iter() };
        let decided_at = (now.running, path_tombstones_max);
        let missing = StoreError::entry(self.changes.head.seq, "a request of the record has no entry");
        for DecidedRequest { request, decision } in decided {
            match decision {
                RequestDecision::Changed(sent) => match self.add_next(&mut rest, decided_at, context)? {
                    Some(replayed) => requests.changed(request, *sent, replayed),
                    None => return Err(missing),
                },
                RequestDecision::Remembered => {
                    requests.unchanged(request, true, &mut self.changes, context);
                    match rest.no_ops.next() {
                        Some(no_op) => self.add_no_op(no_op, context.shared)?,
                        None => return Err(missing),
                    }
                }
                RequestDecision::Broadcast(bytes) => requests.broadcast(request, bytes),
                RequestDecision::Purged(purged) => requests.purged(request, purged),
                RequestDecision::Unchanged => requests.unchanged(request, true, &mut self.changes, context),
                RequestDecision::Refused => requests.unchanged(request, false, &mut self.changes, context),
                RequestDecision::Stale => requests.stale(request),
            }
        }
        while self.add_next(&mut rest, decided_at, context)?.is_some() {}
        rest.no_ops.try_for_each(|no_op| self.add_no_op(no_op, context.shared))?;
        rows.into_iter().try_for_each(|(seq, framed)| self.add_rows(seq, framed))
    }

    /// Adds the next entry, and the keyed no-ops before it.
    fn add_next(
        &mut self,
        rest: &mut RestOfRecord,
        decided_at: (Timestamp, usize),
        context: &mut DecideContext<'_>,
    ) -> Result<Option<ReplayedChange>, StoreError> {
        let Some((seq, framed)) = rest.entries.next() else { return Ok(None) };
        while let Some(no_op) = rest.no_ops.next_if(|no_op| no_op.after < seq) {
            self.add_no_op(no_op, context.shared)?;
        }
        self.add_entry(seq, framed, decided_at, context).map(Some)
    }

    fn add_entry(
        &mut self,
        seq: Seq,
        framed: Vec<u8>,
        (decided, path_tombstones_max): (Timestamp, usize),
        context: &mut DecideContext<'_>,
    ) -> Result<ReplayedChange, StoreError> {
        if seq.0 != self.changes.head.seq.0 + 1 {
            return Err(StoreError::entry(seq, format!("it follows {} in the log", self.changes.head.seq)));
        }
        let entry: JournalEntry = reader::entry(seq, &framed)?;
        let touched = self.changes.touch(&entry.key, context.shared)?;
        let stored = &mut touched.stored;
        let was_deleted = stored.is_recorded().then_some(stored.document.deleted);
        if was_deleted.is_none() && entry.key.name.is_some() {
            context.names.replay(&entry.key.device, 1);
        }
        // Not always the stored one: a purge of the record may have raised the floor after this creation.
        let before = unapplied::before(stored, &entry)?;
        let after = Arc::new(unapplied::next(&before, &entry, path_tombstones_max)?);
        let remembered = entry.remember(&stored.remembered, decided);
        stored.remembered = remembered.map_err(|_| StoreError::entry(seq, "no room for its idempotency key"))?;
        stored.document = Arc::clone(&after);
        stored.last_entry = seq;
        touched.changed = true;
        let exists_changed = before.exists() != after.exists();
        touched.is_stale |= context.shared.index.paths.are_concerned(&entry.key, &entry.changes, exists_changed);
        self.changes.counts.written(was_deleted, entry.deleted);
        self.changes.head = self.changes.head.next(framed.len());
        self.changes.record.entries.push((seq, framed));
        Ok(ReplayedChange { entry, before, after })
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

/// For a store that is no member of a cluster.
#[cfg(test)]
pub(in crate::store) struct NoRequests;

#[cfg(test)]
impl ReplayedRequests for NoRequests {
    fn begin(&mut self, _: u64) {}

    fn changed(&mut self, _: RequestNumber, _: SentCommand, _: ReplayedChange) {}

    fn unchanged(&mut self, _: RequestNumber, _: bool, _: &mut Changes, _: &mut DecideContext<'_>) {}

    fn stale(&mut self, _: RequestNumber) {}

    fn broadcast(&mut self, _: RequestNumber, _: Bytes) {}

    fn purged(&mut self, _: RequestNumber, _: PurgedTombstones) {}

    fn rows(&self, _: u64) -> Option<Vec<RowEdit>> {
        None
    }

    fn committed(&mut self, _: u64) {}
}
