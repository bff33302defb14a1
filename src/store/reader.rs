//! Reads: documents, the list of shadows, the journal, the history of one shadow.
//!
//! No read waits for the writer. Data that is not in memory is read from disk in a snapshot. Entries become visible
//! only after their documents: a caller that has seen a journal entry reads a document at least as new.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use redb::{ReadTransaction, ReadableTable};

use crate::{
    observability::metrics::CommitMetrics,
    shadow::{Document, Remembered, ShadowKey, ShadowName, Version, name::DeviceId},
    store::{
        codec::DecodeError,
        database::{AbortCause, Database, SoundSpan},
        disk::FreeDisk,
        error::StoreError,
        health::Health,
        index::status::IndexStatus,
        journal::{
            entry::{JOURNAL, JournalEntry, Seq},
            lineage::Lineages,
        },
        pages::check::CheckedTable,
        rows::sent::SentRows,
        schema::{self, Checkpoint, JOURNAL_TABLE, META_TABLE, PROGRESS_KEY, STATE_TABLE},
        shadow_counts::ShadowCounter,
        slot::DatabaseSlot,
        state::{
            cache::{DocumentCache, NotCached},
            dictionary::Dictionaries,
            floor::{self, DeviceFloor},
            record::{self, STATE, StoredShadow},
            unflushed::UnflushedShadows,
        },
    },
};

/// Most entries or shadows in one result.
const PAGE_MAX: usize = 1000;

/// Most bytes of entries in one result; the last entry may exceed it. In memory, entries of very many small changes take some
/// fifteen times as much.
pub(super) const PAGE_BYTES_MAX: usize = 512 << 10;

/// Most entries that one history lookup walks back.
const HISTORY_STEPS_MAX: usize = 10_000;

/// The state shared by writer and readers.
pub(super) struct Shared {
    pub(super) database: Arc<DatabaseSlot>,
    pub(super) cache: DocumentCache,
    pub(super) dictionaries: Arc<Dictionaries>,
    /// The shadows that the state table lacks. The writer adds a shadow before it publishes it, and removes it after
    /// the commit that flushed it.
    pub(super) fresh: RwLock<BTreeSet<ShadowKey>>,
    /// The shadows whose document is newer than the state table.
    pub(super) unflushed: Arc<UnflushedShadows>,
    /// The index of searches.
    pub(super) index: Arc<IndexStatus>,
    /// The newest entry whose document is published. The writer sets it after publishing.
    pub(super) head: AtomicU64,
    /// The lineages of the entries. The writer adds to them before it publishes the head.
    pub(super) lineages: RwLock<Lineages>,
    /// The disk monitor, used by the writer before each batch and by health checks.
    pub(super) disk: Mutex<FreeDisk>,
    /// The edits of rows that the writer has not taken yet.
    pub(super) sent_rows: SentRows,
    /// The bytes of edits of rows that wait for a commit, sent or taken.
    pub(super) row_backlog: AtomicUsize,
    /// The health as of the last commit, set by the writer.
    pub(super) health: Mutex<Health>,
    /// The numbers of shadows, updated by the writer.
    pub(super) counter: Mutex<ShadowCounter>,
    /// The metrics of the commits, updated by the writer.
    pub(super) commits: CommitMetrics,
    /// The time that a load of a document before its command takes.
    pub(super) load_time: LoadTime,
    /// True if the rows are of another node of the cluster, and to be removed.
    pub(super) has_foreign_rows: AtomicBool,
    /// The document of every shadow before its first write.
    pub(super) absent: Arc<Document>,
}

/// A moving average of the time of a read.
#[derive(Default)]
pub(super) struct LoadTime(AtomicU64);

impl LoadTime {
    /// Adds one read. Readers that add at the same time may lose one of theirs.
    pub(super) fn add(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / 16;
        let average = self.0.load(Ordering::Relaxed);
        self.0.store((average - average / 16).saturating_add(nanoseconds), Ordering::Relaxed);
    }

    /// Returns true for an average above that of a page in the memory of the system, with its decoding.
    pub(super) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 100_000
    }
}

/// Shadows in the state table, true for deleted ones, and the last key before a damaged page.
type StoredPage = (Vec<(ShadowKey, bool)>, Option<Vec<u8>>);

/// A shadow in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: ShadowKey,
    /// True if the shadow is deleted.
    pub deleted: bool,
}

/// A page of the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalPage {
    /// The entries, oldest first.
    pub entries: Vec<JournalEntry>,
    /// True if entries after the requested position were removed, or the journal never reached that position. The
    /// caller must start again from the documents; `entries` is empty.
    pub gone: bool,
}

/// A page of the history of one shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// The entries, newest first.
    pub entries: Vec<JournalEntry>,
    /// The reason for the end of the page.
    pub end: HistoryEnd,
    /// The entries that were read and are not in the page.
    pub skipped: usize,
    /// The bytes of all entries that were read.
    pub bytes: usize,
}

/// The reason for the end of a history page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryEnd {
    /// The shadow has no older entry.
    First,
    /// Older entries exist, from this one on; request the next page. A page with few entries, or none, may have one.
    More(Seq),
    /// Older entries were removed by retention.
    Gone,
}

/// A reader of the past of documents, which does not keep the store open.
#[derive(Clone)]
pub struct HistoryReader(pub(super) Arc<Shared>);

impl HistoryReader {
    /// Calls `each` for the entries that made the versions of `key` above `version`, newest first, beginning at the
    /// document `stored`. Returns false if they were removed or are more than `limit`. Reads the disk once per entry.
    ///
    /// # Errors
    ///
    /// As [`crate::store::Store::read`].
    pub fn walk(
        &self,
        key: &ShadowKey,
        stored: &StoredShadow,
        version: Version,
        limit: usize,
        mut each: impl FnMut(&JournalEntry),
    ) -> Result<bool, StoreError> {
        if stored.document.version <= version {
            return Ok(true);
        }
        self.0.database.read(|transaction| {
            let removed = progress(transaction)?.removed.seq;
            let table = transaction.open_table(JOURNAL_TABLE)?;
            let mut next = stored.last_entry;
            for _ in 0..limit {
                if next <= removed {
                    break;
                }
                let found = entry_of(&table, next, key)?;
                each(&found);
                if found.version.0 <= version.0 + 1 {
                    return Ok(true);
                }
                next = found.previous;
            }
            Ok(false)
        })
    }
}

impl Shared {
    /// Returns the lineages of the committed entries.
    pub(super) fn lineages(&self) -> Lineages {
        self.lineages.read().clone()
    }

    /// Returns the newest committed document of `key` and the entry that made it.
    pub(super) fn newest(&self, key: &ShadowKey) -> Result<StoredShadow, StoreError> {
        match self.cache.get(key) {
            Ok(stored) => Ok(stored),
            Err(NotCached::Miss(miss)) => self.cache.settle(key, self.load(key)?, &miss),
            Err(NotCached::Damaged(error)) => Err(error),
        }
    }

    /// Returns the document of `key` in the state table.
    pub(super) fn load(&self, key: &ShadowKey) -> Result<StoredShadow, StoreError> {
        match load(&*self.database.get()?, key)? {
            Ok(stored) => Ok(stored),
            Err(floor) => Ok(self.absent_at(floor)),
        }
    }

    /// Returns the floor of `device` in the store.
    pub(super) fn floor(&self, device: &DeviceId) -> Result<DeviceFloor, StoreError> {
        let database = self.database.get()?;
        database.check_key(CheckedTable::Floors, device.as_str().as_bytes())?;
        database.read(|transaction| floor::of(transaction, device))
    }

    /// Returns the state of a shadow without a record whose device has `floor`.
    pub(super) fn absent_at(&self, floor: Version) -> StoredShadow {
        match floor {
            Version(0) => StoredShadow {
                document: Arc::clone(&self.absent),
                last_entry: Seq(0),
                remembered: Remembered::default(),
            },
            _ => StoredShadow::absent_at(floor),
        }
    }

    /// Returns the names of `device`'s shadows in the state table.
    pub(super) fn stored_names(&self, device: &DeviceId) -> Result<BTreeSet<ShadowName>, StoreError> {
        let range = schema::named_range(device);
        let database = self.database.get()?;
        database.check_range(CheckedTable::State, &range.start, &range.end)?;
        database.read(|transaction| {
            let table = transaction.open_table(STATE_TABLE)?;
            let mut names = BTreeSet::new();
            for item in table.range(range.start.as_slice()..range.end.as_slice())? {
                names.extend(stored_key(item?.0.value())?.name);
            }
            Ok(names)
        })
    }

    /// Returns the shadows after `after`, at most `limit`. With `skip_damaged`, it passes over damaged pages; otherwise it
    /// returns fewer before one, and fails if one comes next.
    pub(super) fn list(
        &self,
        after: Option<&ShadowKey>,
        limit: usize,
        skip_damaged: bool,
    ) -> Result<Vec<Listed>, StoreError> {
        let limit = limit.min(PAGE_MAX);
        // Read in this order, a shadow flushed in between is found twice rather than never.
        let bound = after.map_or(Bound::Unbounded, Bound::Excluded);
        let fresh: Vec<_> = self.fresh.read().range((bound, Bound::Unbounded)).take(limit).cloned().collect();
        let mut found: BTreeMap<_, _> = fresh.into_iter().map(|key| (key, false)).collect();
        let (stored, end) = self.stored_list(after, limit, skip_damaged)?;
        found.extend(stored);
        if let Some(end) = end {
            found.retain(|key, _| schema::state_key(key) <= end);
        }
        let newest = |(key, deleted)| {
            let deleted = self.cache.summary(&key).map_or(deleted, |(deleted, _)| deleted);
            Listed { key, deleted }
        };
        Ok(found.into_iter().take(limit).map(newest).collect())
    }

    /// Returns the shadows in the state table after `after`, and the key before the damaged page that ended the page early.
    fn stored_list(
        &self,
        after: Option<&ShadowKey>,
        limit: usize,
        skip_damaged: bool,
    ) -> Result<StoredPage, StoreError> {
        // No key is empty.
        let mut after = after.map(schema::state_key).unwrap_or_default();
        let database = self.database.get()?;
        let mut found = Vec::new();
        loop {
            let left = limit - found.len();
            let Some(span) = database.check_scan(CheckedTable::State, after, left, skip_damaged)? else {
                return Ok((found, None));
            };
            found.extend(stored_between(&database, &span, left)?);
            match span.end {
                // The damaged page is next.
                Some(end) if found.is_empty() || (skip_damaged && found.len() < limit) => after = end,
                end => {
                    let end = end.filter(|_| found.len() < limit);
                    return Ok((found, end));
                }
            }
        }
    }

    pub(super) fn journal(&self, after: Seq, limit: usize) -> Result<JournalPage, StoreError> {
        let head = Seq(self.head.load(Ordering::Acquire));
        if after >= head {
            return Ok(JournalPage { entries: Vec::new(), gone: after > head });
        }
        self.database.read(|transaction| {
            if after < progress(transaction)?.removed.seq {
                return Ok(JournalPage { entries: Vec::new(), gone: true });
            }
            let table = transaction.open_table(JOURNAL_TABLE)?;
            let mut entries = Vec::new();
            let mut bytes = 0;
            let mut items = table.range(after.0 + 1..=head.0)?;
            for expected in (after.0 + 1..=head.0).take(limit.min(PAGE_MAX)) {
                // A damaged page may seem to have no entries, or others.
                let missing = || StoreError::entry(Seq(expected), "it is missing");
                let (seq, value) = items.next().ok_or_else(missing)??;
                if seq.value() != expected {
                    return Err(missing().into());
                }
                entries.push(entry(Seq(seq.value()), value.value())?);
                bytes += value.value().len();
                if bytes > PAGE_BYTES_MAX {
                    break;
                }
            }
            Ok(JournalPage { entries, gone: false })
        })
    }

    pub(super) fn history(
        &self,
        key: &ShadowKey,
        from: Option<Seq>,
        before: Option<Version>,
        limit: usize,
    ) -> Result<Option<History>, StoreError> {
        let stored = self.newest(key)?;
        let last = stored.last_entry;
        let mut next = from.unwrap_or(last);
        // The version before that of the last entry found. Its entry was removed if the tombstone was purged.
        let mut former = if stored.is_recorded() { Version(0) } else { stored.document.version };
        self.database.read(|transaction| {
            let removed = progress(transaction)?.removed.seq;
            let table = transaction.open_table(JOURNAL_TABLE)?;
            if next > last || (next > removed && from.is_some() && !is_entry_of(&table, next, key)?) {
                return Ok(None);
            }
            let mut entries = Vec::new();
            let (mut read, mut bytes) = (0, 0);
            while read < HISTORY_STEPS_MAX && bytes <= PAGE_BYTES_MAX {
                if next <= removed || entries.len() >= limit.min(PAGE_MAX) {
                    break;
                }
                let found = entry_of(&table, next, key)?;
                next = found.previous;
                read += 1;
                bytes += found.bytes;
                former = Version(found.version.0.saturating_sub(1));
                if before.is_none_or(|before| found.version < before) {
                    entries.push(found);
                }
            }
            let end = match next {
                Seq(0) if former == Version(0) => HistoryEnd::First,
                next if next <= removed => HistoryEnd::Gone,
                next => HistoryEnd::More(next),
            };
            let skipped = read - entries.len();
            Ok(Some(History { entries, end, skipped, bytes }))
        })
    }
}

/// Returns the shadows of `span` in the state table, and true for deleted ones.
fn stored_between(database: &Database, span: &SoundSpan, limit: usize) -> Result<Vec<(ShadowKey, bool)>, StoreError> {
    // The key itself may lead to a damaged page that ends with it. This is the next key.
    let after = [span.after.as_slice(), &[0]].concat();
    let after = Bound::Included(after.as_slice());
    let end = span.end.as_deref().map_or(Bound::Unbounded, Bound::Included);
    database.read(|transaction| {
        let table = transaction.open_table(STATE_TABLE)?;
        let mut found: Vec<(ShadowKey, bool)> = Vec::new();
        for item in table.range::<&[u8]>((after, end))?.take(limit) {
            let (name, value) = item?;
            let key = stored_key(name.value())?;
            // The end of the span may be in the damaged page, whose keys may be in any order.
            let is_next = name.value() > span.after.as_slice() && found.last().is_none_or(|(last, _)| *last < key);
            if !is_next {
                break;
            }
            // A damaged record is listed; reading it returns the error.
            let deleted = record::decode_deleted(name.value(), value.value()).unwrap_or(false);
            found.push((key, deleted));
        }
        Ok(found)
    })
}

/// Returns the document of `key` in the state table; the floor of its device if there is none.
pub(super) fn load(database: &Database, key: &ShadowKey) -> Result<Result<StoredShadow, Version>, StoreError> {
    let decode = |name: &[u8], value: &[u8]| record::decode(name, value, &database.dictionaries);
    database.read(|transaction| load_from(database, transaction, key, decode))
}

/// Returns the record of `key` in the state table, decoded by `decode`; the floor of its device if there is none.
pub(super) fn load_from<T>(
    database: &Database,
    transaction: &ReadTransaction,
    key: &ShadowKey,
    decode: impl FnOnce(&[u8], &[u8]) -> Result<T, DecodeError>,
) -> Result<Result<T, Version>, AbortCause> {
    let name = schema::state_key(key);
    database.check_key(CheckedTable::State, &name)?;
    match transaction.open_table(STATE_TABLE)?.get(name.as_slice())? {
        None => {
            database.check_key(CheckedTable::Floors, key.device.as_str().as_bytes())?;
            Ok(Err(floor::of(transaction, &key.device)?.version))
        }
        Some(value) => Ok(Ok(decode(&name, value.value()).map_err(|error| StoreError::record(STATE, key, &error))?)),
    }
}

/// Returns the positions of journal and state table in this snapshot.
pub(super) fn progress(transaction: &ReadTransaction) -> Result<Checkpoint, AbortCause> {
    let table = transaction.open_table(META_TABLE)?;
    let value = table.get(PROGRESS_KEY)?;
    let bytes = value.as_ref().map_or(&[][..], |value| value.value());
    Ok(Checkpoint::decode(bytes).map_err(|error| StoreError::record(schema::META, PROGRESS_KEY, &error))?)
}

fn stored_key(bytes: &[u8]) -> Result<ShadowKey, StoreError> {
    schema::shadow_key(bytes).map_err(|error| StoreError::record(STATE, bytes.escape_ascii(), &error))
}

/// True if the entry at `seq`, a kept one that a client named, is of `key`.
fn is_entry_of(table: &impl ReadableTable<u64, &'static [u8]>, seq: Seq, key: &ShadowKey) -> Result<bool, AbortCause> {
    let value = table.get(seq.0)?.ok_or_else(|| StoreError::entry(seq, "it is missing"))?;
    Ok(entry(seq, value.value())?.key == *key)
}

/// Returns the entry at `seq`, to which a document or entry of `key` points.
pub(super) fn entry_of(
    table: &impl ReadableTable<u64, &'static [u8]>,
    seq: Seq,
    key: &ShadowKey,
) -> Result<JournalEntry, AbortCause> {
    let value = table.get(seq.0)?.ok_or_else(|| StoreError::entry(seq, "it is missing"))?;
    let found = entry(seq, value.value())?;
    if found.key != *key || found.previous >= seq {
        return Err(StoreError::entry(seq, "it is not of the shadow that points to it").into());
    }
    Ok(found)
}

/// Decodes the entry found at `seq`.
pub(super) fn entry(seq: Seq, framed: &[u8]) -> Result<JournalEntry, StoreError> {
    JournalEntry::decode(seq, framed).map_err(|error| StoreError::record(JOURNAL, seq, &error))
}
