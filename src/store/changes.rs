//! The changes of a batch before they are applied: its record, and the documents that the record makes.
//!
//! The node that decides a batch has these documents from the decisions. A replica makes them from the record
//! ([`super::replication::replay`]). Both apply them in the same way ([`super::commit`]).

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    shadow::{DocumentLimits, ShadowKey, Version, index::IndexedPaths},
    store::{
        error::StoreError,
        reader::Shared,
        replication::batch_record::BatchRecord,
        schema::{Checkpoint, JournalPosition},
        shadow_counts::CountChange,
        state::{cache::NotCached, purge::Purge, record::StoredShadow},
        store_clock::Now,
    },
};

/// The changes of a batch; see the module.
pub(super) struct Changes {
    /// The end of the journal with the entries of the record.
    pub(super) head: JournalPosition,
    pub(super) record: BatchRecord,
    pub(super) touched: HashMap<ShadowKey, TouchedShadow>,
    /// The change of the numbers of shadows.
    pub(super) counts: CountChange,
    /// The paths with an index.
    pub(super) indexed: Arc<IndexedPaths>,
}

/// A shadow that the batch has touched.
pub(super) struct TouchedShadow {
    pub(super) stored: StoredShadow,
    /// True if its document was in memory before the batch.
    pub(super) was_cached: bool,
    /// True if the store had no such shadow before the batch.
    pub(super) is_new: bool,
    /// True if a command of the batch changed it.
    pub(super) changed: bool,
    /// True if its record must be in the same commit, since no journal entry holds its new data.
    pub(super) must_flush: bool,
    /// True if the index may have other entries for it than the batch leaves.
    pub(super) is_stale: bool,
}

impl Changes {
    /// Returns no changes of a store at `progress` with an index of `indexed`, decided at `now` under `limits`.
    pub(super) fn new(progress: &Checkpoint, now: Now, limits: &DocumentLimits, indexed: &Arc<IndexedPaths>) -> Self {
        let path_tombstones_max = limits.path_tombstones_max;
        let record = BatchRecord { now, removed: progress.removed.seq, path_tombstones_max, ..BatchRecord::default() };
        let (touched, counts) = (HashMap::new(), CountChange::default());
        Self { head: progress.head, record, touched, counts, indexed: Arc::clone(indexed) }
    }

    /// Returns true if there is nothing to commit.
    pub(super) fn is_without_effect(&self) -> bool {
        self.record.is_empty() && self.touched.values().all(|touched| !touched.changed)
    }

    /// Returns the shadow of `key` as the changes leave it.
    pub(super) fn touch(&mut self, key: &ShadowKey, shared: &Shared) -> Result<&mut TouchedShadow, StoreError> {
        match self.touched.entry(key.clone()) {
            hash_map::Entry::Occupied(touched) => Ok(touched.into_mut()),
            hash_map::Entry::Vacant(vacant) => {
                let purged = self.record.purged.get(&key.device);
                Ok(vacant.insert(untouched(key, shared, purged)?))
            }
        }
    }
}

/// Returns the shadow of `key` as it is before the batch; `purged` are the tombstones of its device that the batch
/// purges.
fn untouched(key: &ShadowKey, shared: &Shared, purged: Option<&Purge>) -> Result<TouchedShadow, StoreError> {
    let (stored, was_cached) = match shared.cache.get(key) {
        _ if purged.is_some_and(|purge| purge.keys.contains(key)) => (shared.absent_at(Version(0)), false),
        Ok(stored) => (stored, true),
        Err(NotCached::Miss(_)) => (shared.load(key)?, false),
        Err(NotCached::Damaged(error)) => return Err(error),
    };
    let stored = match purged {
        Some(purge) if !stored.is_recorded() => shared.absent_at(purge.floor.version),
        _ => stored,
    };
    Ok(TouchedShadow {
        is_new: !stored.is_recorded(),
        stored,
        was_cached,
        changed: false,
        must_flush: false,
        is_stale: false,
    })
}
