//! The dirty set: documents that are newer than the state table, and the pace at which they are flushed.
//!
//! Documents are flushed in key order, because neighbours share pages. One pass over the key space is a *write-back
//! pass*. A pass records the head of the journal when it starts. When it ends, every entry up to that head is in the
//! state table, so the checkpoint moves there.
//!
//! *Invariant:* the shadow of every entry after the checkpoint is in the dirty set, or was flushed with the change of
//! that entry.
//!
//! At most two passes lie between the checkpoint and the head. Each pass is paced to end within half of the allowed
//! lag, in entries and in bytes. A commit that uses a share of what is left of that half flushes the same share of the
//! documents left in the pass.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    shadow::{DeviceId, ShadowKey},
    store::{
        options::StoreOptions,
        schema::{Checkpoint, JournalPosition},
        state::record::StoredShadow,
    },
};

/// The dirty documents in key order.
pub(in crate::store) struct DirtySet {
    dirty: BTreeMap<ShadowKey, StoredShadow>,
    /// The last key flushed in this pass.
    cursor: Option<ShadowKey>,
    /// The number of `dirty` documents after the cursor.
    ahead: usize,
    /// The head of the journal when this pass started.
    round_start: JournalPosition,
    /// The part of the allowed lag for one pass.
    lap_entries_max: u64,
    lap_bytes_max: u64,
    /// Fewest documents to flush in a commit.
    slice_min: usize,
}

impl DirtySet {
    /// Returns the dirty set found by recovery, with the checkpoint of `progress`.
    pub(in crate::store) fn new(
        dirty: BTreeMap<ShadowKey, StoredShadow>,
        progress: &Checkpoint,
        options: &StoreOptions,
    ) -> Self {
        Self {
            ahead: dirty.len(),
            dirty,
            cursor: None,
            round_start: progress.head,
            lap_entries_max: options.lag_entries_max / 2,
            lap_bytes_max: options.lag_bytes_max / 2,
            slice_min: options.flush_documents_min,
        }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.dirty.len()
    }

    pub(in crate::store) fn contains(&self, key: &ShadowKey) -> bool {
        self.dirty.contains_key(key)
    }

    /// Returns the dirty documents of the shadows of `device`.
    pub(in crate::store) fn of_device<'a>(
        &'a self,
        device: &'a DeviceId,
    ) -> impl Iterator<Item = (&'a ShadowKey, &'a StoredShadow)> {
        self.dirty.range(ShadowKey::classic(device.clone())..).take_while(|(key, _)| key.device == *device)
    }

    /// Adds the newest document of `key`.
    pub(in crate::store) fn insert(&mut self, key: ShadowKey, stored: StoredShadow) {
        let is_ahead = self.cursor.as_ref().is_none_or(|cursor| key > *cursor);
        if self.dirty.insert(key, stored).is_none() && is_ahead {
            self.ahead += 1;
        }
    }

    /// Removes the document of `key`, which is flushed out of order.
    pub(in crate::store) fn remove(&mut self, key: &ShadowKey) {
        if self.dirty.remove(key).is_some() && self.cursor.as_ref().is_none_or(|cursor| key > cursor) {
            self.ahead -= 1;
        }
    }

    /// Returns the number of documents to flush in a commit of `entries` and `bytes` that moves the head to that of
    /// `progress`.
    pub(in crate::store) fn due(&self, progress: &Checkpoint, entries: u64, bytes: u64) -> usize {
        let share = |used: u64, max: u64, now: u64| {
            let left = max.saturating_sub(used);
            (self.ahead as u64).saturating_mul(now).div_ceil(left.saturating_add(now).max(1))
        };
        let entries_used = progress.head.seq.0 - self.round_start.seq.0;
        let bytes_used = progress.head.bytes - self.round_start.bytes;
        let due = share(entries_used, self.lap_entries_max, entries).max(share(bytes_used, self.lap_bytes_max, bytes));
        usize::try_from(due).unwrap_or(usize::MAX).max(self.slice_min)
    }

    /// Removes `count` documents in order to flush them, and moves the checkpoint of `progress` accordingly.
    ///
    /// The set does not keep the removed documents: if the commit fails, no further commit is allowed.
    pub(in crate::store) fn take(&mut self, count: usize, progress: &mut Checkpoint) -> Vec<(ShadowKey, StoredShadow)> {
        let mut taken = Vec::new();
        while taken.len() < count || self.ahead == 0 {
            if self.ahead == 0 {
                progress.checkpoint = if self.is_empty() { progress.head } else { self.round_start };
                self.start_round(progress.head);
                if self.is_empty() {
                    break;
                }
                continue;
            }
            let after = self.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let keys: Vec<_> = self
                .dirty
                .range((after, Bound::Unbounded))
                .take(count - taken.len())
                .map(|(key, _)| key.clone())
                .collect();
            self.ahead -= keys.len();
            self.cursor = keys.last().cloned();
            taken.extend(keys.into_iter().filter_map(|key| self.dirty.remove_entry(&key)));
        }
        taken
    }

    fn start_round(&mut self, head: JournalPosition) {
        self.round_start = head;
        self.cursor = None;
        self.ahead = self.dirty.len();
    }
}
