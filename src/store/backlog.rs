//! The documents that are newer than the state table, and how fast they are carried there.
//!
//! They are carried in key order, because neighbours share pages, in *laps* around the key space. A lap notes the head
//! of the journal as it starts; when it ends, everything up to that head is in the state table, so the checkpoint
//! moves there.
//!
//! *Invariant:* the shadow of every entry after the checkpoint is here or was carried with that entry's change in it.
//!
//! Two laps lie between the checkpoint and the head at most. Each is paced to end within half of the lag that is
//! allowed, in entries and in bytes: a commit that uses up a share of what is left of the half carries the same share
//! of the documents that are left of the lap.

use std::{collections::BTreeMap, ops::Bound};

use crate::{
    shadow::ShadowKey,
    store::{
        options::StoreOptions,
        record::Held,
        schema::{Mark, Progress},
    },
};

/// Dirty documents, in key order.
pub(super) struct Backlog {
    dirty: BTreeMap<ShadowKey, Held>,
    /// The last key carried in this lap.
    cursor: Option<ShadowKey>,
    /// How many of `dirty` come after the cursor.
    ahead: usize,
    /// The head when this lap started.
    lap_start: Mark,
    /// What one lap may use of the lag.
    lap_entries_max: u64,
    lap_bytes_max: u64,
    /// Fewest documents to carry in a commit.
    slice_min: usize,
}

impl Backlog {
    /// What recovery found to be newer than the state table, which stands at the checkpoint of `progress`.
    pub(super) fn new(dirty: BTreeMap<ShadowKey, Held>, progress: &Progress, options: &StoreOptions) -> Self {
        Self {
            ahead: dirty.len(),
            dirty,
            cursor: None,
            lap_start: progress.head,
            lap_entries_max: options.lag_entries_max / 2,
            lap_bytes_max: options.lag_bytes_max / 2,
            slice_min: options.carry_documents_min,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn contains(&self, key: &ShadowKey) -> bool {
        self.dirty.contains_key(key)
    }

    /// The keys from `first` on.
    pub(super) fn keys_from(&self, first: &ShadowKey) -> impl Iterator<Item = &ShadowKey> {
        self.dirty.range((Bound::Included(first), Bound::Unbounded)).map(|(key, _)| key)
    }

    /// Takes in the newest document of `key`.
    pub(super) fn insert(&mut self, key: ShadowKey, held: Held) {
        let is_ahead = self.cursor.as_ref().is_none_or(|cursor| key > *cursor);
        if self.dirty.insert(key, held).is_none() && is_ahead {
            self.ahead += 1;
        }
    }

    /// Takes out the document of `key`, which is carried out of turn.
    pub(super) fn remove(&mut self, key: &ShadowKey) {
        if self.dirty.remove(key).is_some() && self.cursor.as_ref().is_none_or(|cursor| key > cursor) {
            self.ahead -= 1;
        }
    }

    /// How many documents a commit has to carry that moves the head by `entries` and `bytes` to where `progress` has
    /// it.
    pub(super) fn due(&self, progress: &Progress, entries: u64, bytes: u64) -> usize {
        let share = |used: u64, max: u64, now: u64| {
            let left = max.saturating_sub(used);
            (self.ahead as u64).saturating_mul(now).div_ceil(left.saturating_add(now).max(1))
        };
        let entries_used = progress.head.seq.0 - self.lap_start.seq.0;
        let bytes_used = progress.head.bytes - self.lap_start.bytes;
        let due = share(entries_used, self.lap_entries_max, entries).max(share(bytes_used, self.lap_bytes_max, bytes));
        usize::try_from(due).unwrap_or(usize::MAX).max(self.slice_min)
    }

    /// Takes out `count` documents to be carried, and moves the checkpoint of `progress` as far as that allows.
    ///
    /// What is taken is lost to the backlog: if the commit fails, nothing may be committed any more.
    pub(super) fn take(&mut self, count: usize, progress: &mut Progress) -> Vec<(ShadowKey, Held)> {
        let mut taken = Vec::new();
        while taken.len() < count || self.ahead == 0 {
            if self.ahead == 0 {
                progress.checkpoint = if self.is_empty() { progress.head } else { self.lap_start };
                self.start_lap(progress.head);
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

    fn start_lap(&mut self, head: Mark) {
        self.lap_start = head;
        self.cursor = None;
        self.ahead = self.dirty.len();
    }
}
