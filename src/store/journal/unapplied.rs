//! Shadows with journal entries that a start has found and not applied.
//!
//! A start checks the entries after the checkpoint and keeps them beside the record of their shadow. Whoever needs the
//! document applies them; a thread in the background does it for the shadows that nobody needs. So a start takes the time
//! of reading the entries, not of making the documents.
//!
//! *Invariant:* record and entries are those of the commit with which the file was opened. They stay valid until the shadow
//! is flushed or changed, which replaces them.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use crate::{
    shadow::{Document, ShadowKey, Stamp, Timestamp, Version},
    store::{
        background::BackgroundThread,
        error::StoreError,
        journal::entry::{JournalEntry, Seq},
        reader::{self, Shared},
        replication::applied_position::AppliedPosition,
        schema,
        state::{
            dictionary::Dictionaries,
            record::{self, RecordEncoder, STATE, StoredShadow},
        },
    },
};

/// The record of a shadow, and the journal entries after it.
pub(in crate::store) struct UnappliedShadow {
    /// The framed value of the state table.
    pub(in crate::store) record: Option<Box<[u8]>>,
    /// The floor of the device, if there is no record.
    pub(in crate::store) floor: Version,
    /// The framed values of the journal, oldest first; at least one.
    pub(in crate::store) entries: Vec<(Seq, Box<[u8]>)>,
    /// True if the last entry deletes the shadow.
    pub(in crate::store) is_deleted: bool,
    pub(in crate::store) rules: Arc<ReplayRules>,
}

/// The parts of a document that its entries do not say.
pub(in crate::store) struct ReplayRules {
    pub(in crate::store) tombstones_max: usize,
    /// The times of the decisions, as far as the file has them.
    pub(in crate::store) position: Option<AppliedPosition>,
    /// The running time of the store, which idempotency keys in other entries get; `None` in files of older programs.
    pub(in crate::store) decided: Option<Timestamp>,
}

impl UnappliedShadow {
    /// Returns the document of `key` after the entries.
    ///
    /// # Errors
    ///
    /// [`StoreError::Record`] if the record is damaged, or the entries do not make the documents that they made first.
    pub(in crate::store) fn apply(
        &self,
        key: &ShadowKey,
        dictionaries: &Dictionaries,
    ) -> Result<StoredShadow, StoreError> {
        let before = match &self.record {
            None => StoredShadow::absent_at(self.floor),
            Some(record) => record::decode(&schema::state_key(key), record, dictionaries)
                .map_err(|error| StoreError::record(STATE, key, &error))?,
        };
        self.entries.iter().try_fold(before, |stored, (seq, framed)| {
            let entry = reader::entry(*seq, framed)?;
            self.rules.next(&stored, &entry)
        })
    }

    /// Returns the last entry.
    pub(in crate::store) fn last_entry(&self) -> Seq {
        self.entries.last().map(|(seq, _)| *seq).unwrap_or_default()
    }

    /// Returns the bytes of the record and the entries.
    pub(in crate::store) fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(|(_, framed)| framed.len() + 32).sum();
        self.record.as_ref().map_or(0, |record| record.len()) + entries
    }
}

impl ReplayRules {
    fn next(&self, stored: &StoredShadow, entry: &JournalEntry) -> Result<StoredShadow, StoreError> {
        let by = self.position.as_ref().and_then(|position| position.decided(entry.seq));
        let tombstones_max = by.map_or(self.tombstones_max, |by| by.path_tombstones_max);
        let before = before(stored, entry)?;
        let document = Arc::new(next(&before, entry, tombstones_max)?);
        let decided = by.map(|by| by.running).or(self.decided);
        let remembered = entry.remember(&stored.remembered, decided.unwrap_or(entry.timestamp)).unwrap_or_else(|_| {
            // There was room when the request was accepted, by the limits of that time.
            tracing::warn!(seq = entry.seq.0, key = %entry.key, "no room for an idempotency key");
            stored.remembered.clone()
        });
        Ok(StoredShadow { document, last_entry: entry.seq, remembered })
    }
}

/// Checks that an entry of `key` follows the state of its shadow with this last entry and version. Returns the version that
/// it was decided against.
///
/// The first entry of a shadow without a record was decided at the floor that the device had then. The floor may be
/// higher now.
pub(in crate::store) fn check_follows(
    (last_entry, version): (Seq, Version),
    key: &ShadowKey,
    (seq, previous, next): (Seq, Seq, Version),
) -> Result<Version, StoreError> {
    let floor = Version(next.0.saturating_sub(1));
    let former = if last_entry == Seq(0) { version.min(floor) } else { version };
    if previous != last_entry || next != Version(former.0 + 1) {
        let detail = format!("it makes version {} of {key}, which is at {}", next.0, former.0);
        return Err(StoreError::entry(seq, detail));
    }
    Ok(former)
}

/// Returns the document that `entry` was decided against: that of `stored`, or of a shadow that was absent at a lower floor.
pub(in crate::store) fn before(stored: &StoredShadow, entry: &JournalEntry) -> Result<Arc<Document>, StoreError> {
    let state = (stored.last_entry, stored.document.version);
    let former = check_follows(state, &entry.key, (entry.seq, entry.previous, entry.version))?;
    Ok(match stored.document.version == former {
        true => Arc::clone(&stored.document),
        false => Arc::new(Document::absent_at(former)),
    })
}

/// Returns the document that `entry` makes of the one [`before`] it.
pub(in crate::store) fn next(
    before: &Document,
    entry: &JournalEntry,
    tombstones_max: usize,
) -> Result<Document, StoreError> {
    let stamp = Stamp { version: entry.version, timestamp: entry.timestamp, by: Arc::clone(&entry.principal) };
    let document = before.apply(&entry.changes, &Arc::new(stamp), entry.deleted, tombstones_max);
    if document.etag != entry.etag {
        let detail = format!("applied again to {}, it does not make the document it made first", entry.key);
        return Err(StoreError::entry(entry.seq, detail));
    }
    Ok(document)
}

/// Applies the entries of `keys` in the background, as far as nobody has done it before. `None` if there is none.
pub(in crate::store) fn apply_in_background(
    keys: Vec<ShadowKey>,
    shared: &Arc<Shared>,
) -> io::Result<Option<BackgroundThread>> {
    if keys.is_empty() {
        return Ok(None);
    }
    let shared = Arc::downgrade(shared);
    BackgroundThread::start("store-replay", move |is_stopped| apply_all(&keys, &shared, is_stopped)).map(Some)
}

/// The shadows after which the thread rests.
const APPLIED_AT_ONCE: usize = 64;

fn apply_all(keys: &[ShadowKey], shared: &Weak<Shared>, is_stopped: &AtomicBool) {
    let (started, mut encoder) = (Instant::now(), RecordEncoder::default());
    for keys in keys.chunks(APPLIED_AT_ONCE) {
        let Some(shared) = shared.upgrade() else { return };
        if is_stopped.load(Ordering::Acquire) {
            return;
        }
        let begin = Instant::now();
        for key in keys {
            if let Err(error) = shared.cache.apply(key, &mut encoder) {
                tracing::error!(%error, "journal entries cannot be applied; their shadow is out of service");
            }
        }
        // Half of the time is left to others.
        thread::park_timeout(begin.elapsed());
    }
    tracing::info!(documents = keys.len(), elapsed = ?started.elapsed(), "all entries of the journal are applied");
}
