//! Recovery at the start: the journal after the checkpoint is replayed onto the state table.
//!
//! A change is applied only to a document older than it, so a partial write-back pass does no harm. Each result must
//! have the version and etag that were reported when the change was accepted. If one has not, or an entry is missing or
//! damaged, the store does not open, since it would return wrong data. A damaged *record* in the state table affects
//! only its own shadow: it is logged and cannot be read or written, while the others can.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::{ReadTransaction, ReadableTable};

use crate::{
    shadow::{Document, ShadowKey, Stamp, Timestamp, Version},
    store::{
        database::{AbortCause, Database},
        error::StoreError,
        journal::entry::{JournalEntry, Seq},
        reader::{self, entry},
        schema::{Checkpoint, JOURNAL_TABLE},
        shadow_counts::CountChange,
        state::record::StoredShadow,
    },
};

/// The interval of progress messages in the log.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// The result of recovery.
pub(in crate::store) struct Recovered {
    /// The documents newer than the state table.
    pub(in crate::store) dirty: BTreeMap<ShadowKey, StoredShadow>,
    /// The dirty documents whose shadow the state table lacks.
    pub(in crate::store) fresh: BTreeSet<ShadowKey>,
    /// The change of the numbers of shadows.
    pub(in crate::store) counts: CountChange,
    /// The number of entries replayed.
    pub(in crate::store) entries: u64,
}

/// The documents during the replay.
#[derive(Default)]
struct Replay {
    /// The documents by key; `None` if the record is damaged.
    documents: HashMap<ShadowKey, Option<StoredShadow>>,
    fresh: BTreeSet<ShadowKey>,
    counts: CountChange,
    /// The running time of the store, which idempotency keys in the entries get; `None` in files of older programs.
    decided: Option<Timestamp>,
}

/// Replays the journal after the checkpoint of `progress`.
pub(in crate::store) fn recover(
    database: &Database,
    progress: &Checkpoint,
    tombstones_max: usize,
) -> Result<Recovered, StoreError> {
    let started = Instant::now();
    let decided = database.ages()?.map(|ages| ages.running());
    let Replay { documents, fresh, counts, .. } = database.read(|transaction| {
        check_head(transaction, progress)?;
        let replay = Replay { decided, ..Replay::default() };
        replay.run(database, transaction, progress, tombstones_max)
    })?;
    let entries = progress.lag().0;
    let (elapsed, head) = (started.elapsed(), progress.head.seq.0);
    match entries {
        0 => tracing::info!(head, "the store is open: nothing to replay"),
        _ => tracing::info!(
            head,
            entries,
            documents = documents.len(),
            ?elapsed,
            "the store is open: replayed the end of the journal"
        ),
    }
    let dirty = documents.into_iter().filter_map(|(key, stored)| Some((key, stored?))).collect();
    Ok(Recovered { dirty, fresh, counts, entries })
}

/// Checks that the journal ends where the last commit recorded.
fn check_head(transaction: &ReadTransaction, progress: &Checkpoint) -> Result<(), AbortCause> {
    let table = transaction.open_table(JOURNAL_TABLE)?;
    let last = table.last()?.map_or(progress.removed.seq, |(seq, _)| Seq(seq.value()));
    if last == progress.head.seq {
        return Ok(());
    }
    Err(StoreError::entry(progress.head.seq, format!("the journal should end here and ends at {last}")).into())
}

impl Replay {
    fn run(
        mut self,
        database: &Database,
        transaction: &ReadTransaction,
        progress: &Checkpoint,
        tombstones_max: usize,
    ) -> Result<Self, AbortCause> {
        let table = transaction.open_table(JOURNAL_TABLE)?;
        let (checkpoint, head) = (progress.checkpoint.seq, progress.head.seq);
        let mut last_report = Instant::now();
        let mut expected = checkpoint.0;
        for item in table.range(checkpoint.0 + 1..=head.0)? {
            let (seq, value) = item?;
            expected += 1;
            if seq.value() != expected {
                return Err(StoreError::entry(Seq(expected), "it is missing").into());
            }
            self.apply(database, &entry(Seq(expected), value.value())?, tombstones_max)?;
            if last_report.elapsed() >= REPORT_EVERY {
                last_report = Instant::now();
                tracing::info!(done = expected - checkpoint.0, of = head.0 - checkpoint.0, "replaying the journal");
            }
        }
        match expected == head.0 {
            true => Ok(self),
            false => Err(StoreError::entry(Seq(expected + 1), "it is missing").into()),
        }
    }

    fn apply(&mut self, database: &Database, entry: &JournalEntry, tombstones_max: usize) -> Result<(), StoreError> {
        let stored = match self.documents.get_mut(&entry.key) {
            Some(stored) => stored,
            None => {
                let loaded = load(database, &entry.key)?;
                if loaded.as_ref().is_some_and(|stored| !stored.is_recorded()) {
                    self.fresh.insert(entry.key.clone());
                }
                self.documents.entry(entry.key.clone()).or_insert(loaded)
            }
        };
        if let Some(stored) = stored
            && stored.last_entry < entry.seq
        {
            let document = Arc::new(next(stored, entry, tombstones_max)?);
            let remembered =
                entry.remember(&stored.remembered, self.decided.unwrap_or(entry.timestamp)).unwrap_or_else(|_| {
                    // There was room when the request was accepted, by the limits of that time.
                    tracing::warn!(seq = entry.seq.0, key = %entry.key, "no room for an idempotency key");
                    stored.remembered.clone()
                });
            self.counts.written(stored.is_recorded().then_some(stored.document.deleted), document.deleted);
            *stored = StoredShadow { document, last_entry: entry.seq, remembered };
        }
        Ok(())
    }
}

/// Returns the document of `key` in the state table; `None` if it is damaged.
fn load(database: &Database, key: &ShadowKey) -> Result<Option<StoredShadow>, StoreError> {
    match reader::load(database, key) {
        Ok(stored) => Ok(Some(stored.unwrap_or_else(StoredShadow::absent_at))),
        Err(error @ StoreError::Record { .. }) => {
            tracing::error!(%error, "a document is damaged and stays out of service");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the document after applying `entry` to `stored`.
///
/// The first entry of a shadow without a record was decided at the floor that the device had then. The floor may be
/// higher now.
pub(in crate::store) fn next(
    stored: &StoredShadow,
    entry: &JournalEntry,
    tombstones_max: usize,
) -> Result<Document, StoreError> {
    let floor = Version(entry.version.0.saturating_sub(1));
    let stored = match stored.is_recorded() || stored.document.version <= floor {
        true => stored,
        false => &StoredShadow::absent_at(floor),
    };
    let former = stored.document.version;
    if entry.previous != stored.last_entry || entry.version != Version(former.0 + 1) {
        let detail = format!("it makes version {} of {}, which is at {}", entry.version.0, entry.key, former.0);
        return Err(StoreError::entry(entry.seq, detail));
    }
    let stamp = Stamp { version: entry.version, timestamp: entry.timestamp, by: Arc::clone(&entry.principal) };
    let document = stored.document.apply(&entry.changes, &Arc::new(stamp), entry.deleted, tombstones_max);
    if document.etag != entry.etag {
        let detail = format!("applied again to {}, it does not make the document it made first", entry.key);
        return Err(StoreError::entry(entry.seq, detail));
    }
    Ok(document)
}
