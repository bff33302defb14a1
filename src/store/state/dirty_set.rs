//! The dirty set: the shadows whose document is newer than the state table, and the pace at which they are flushed.
//!
//! Documents are flushed in key order, because neighbours share pages. One pass over the key space is a *write-back
//! pass*; the next one begins when it ends. Now and then a *milestone* records where the pass is, and the head of the journal.
//! When the next pass reaches the same key, every entry up to that head is in the state table, so the checkpoint moves there.
//! The documents themselves are in the [`super::cache`], pinned.
//!
//! *Invariant:* the shadow of every entry after the checkpoint is in the dirty set, or was flushed with the change of
//! that entry.
//!
//! Each pass is paced to end within half of the allowed lag, in entries and in bytes. A commit that uses a share of what is
//! left of that half flushes the same share of the documents left in the pass. So at most two passes lie between checkpoint
//! and head, and under a steady load little more than one. If the dirty documents have too many bytes, more are flushed.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    shadow::{DeviceId, ShadowKey},
    store::{
        options::StoreOptions,
        schema::{Checkpoint, JournalPosition},
        state::unflushed::UnflushedShadows,
    },
};

/// The milestones of one pass at a steady pace: the lag is longer than a pass by the distance of two.
const MILESTONES: u64 = 16;

/// The dirty shadows in key order.
pub(in crate::store) struct DirtySet {
    /// The shadows, with the approximate bytes of the records of their documents.
    shadows: Arc<UnflushedShadows>,
    /// The number of these shadows.
    len: usize,
    /// The sum of these bytes.
    bytes: u64,
    /// The number of passes that have begun.
    pass: u64,
    /// The last key flushed in this pass.
    cursor: Option<ShadowKey>,
    /// The number of documents after the cursor.
    ahead: usize,
    /// The head of the journal when this pass started.
    pass_start: JournalPosition,
    /// The places that the next pass has not reached, oldest first.
    milestones: VecDeque<Milestone>,
    /// The part of the allowed lag for one pass.
    pass_entries_max: u64,
    pass_bytes_max: u64,
    /// Most bytes of dirty documents.
    bytes_max: u64,
    /// Bytes of the cache above which more is flushed: records may be larger than was expected of dirty documents.
    cached_max: u64,
    /// Fewest documents to flush in a commit.
    slice_min: usize,
    /// The time of the last insertion.
    inserted: Instant,
    /// The time after an insertion from which an idle writer flushes.
    idle_after: Duration,
}

/// A place in a pass, and the head of the journal when the pass was there.
struct Milestone {
    pass: u64,
    cursor: Option<ShadowKey>,
    head: JournalPosition,
}

impl DirtySet {
    /// Returns the dirty set found by recovery, with the checkpoint of `progress`. It is in `shadows` from now on.
    pub(in crate::store) fn new(
        dirty: BTreeMap<ShadowKey, u32>,
        shadows: Arc<UnflushedShadows>,
        progress: &Checkpoint,
        options: &StoreOptions,
    ) -> Self {
        let (len, bytes) = (dirty.len(), dirty.values().copied().map(u64::from).sum());
        shadows.write().replace(dirty, !options.indexed.is_empty());
        let mut set = Self {
            ahead: 0,
            bytes,
            len,
            shadows,
            pass: 0,
            cursor: None,
            pass_start: progress.head,
            milestones: VecDeque::new(),
            pass_entries_max: options.lag_entries_max / 2,
            // Retention removes no entry after the checkpoint.
            pass_bytes_max: options.lag_bytes_max.min(options.journal_bytes_max) / 2,
            bytes_max: options.document_cache_bytes as u64 / 4 * 3,
            cached_max: options.document_cache_bytes as u64 / 2 * 3,
            slice_min: options.flush_documents_min,
            inserted: Instant::now(),
            idle_after: options.flush_idle_after,
        };
        set.start_pass(progress.head);
        set
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the time from which an idle writer flushes; `None` if nothing is dirty.
    pub(in crate::store) fn flush_from(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.inserted + self.idle_after)
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::store) fn contains(&self, key: &ShadowKey) -> bool {
        self.shadows.read().dirty.contains_key(key)
    }

    /// Returns the dirty shadows in order.
    pub(in crate::store) fn keys(&self) -> Vec<ShadowKey> {
        self.shadows.read().dirty.keys().cloned().collect()
    }

    /// Returns about `count` shadows from all parts of the set.
    pub(in crate::store) fn sample(&self, count: usize) -> Vec<ShadowKey> {
        self.shadows.read().dirty.keys().step_by((self.len / count).max(1)).take(count).cloned().collect()
    }

    /// Returns the dirty shadows of `device`.
    pub(in crate::store) fn of_device(&self, device: &DeviceId) -> Vec<ShadowKey> {
        self.shadows.read().of_device(device).cloned().collect()
    }

    /// Adds `key`, whose newest document has a record of about `bytes`.
    pub(in crate::store) fn insert(&mut self, key: ShadowKey, bytes: u32) {
        self.inserted = Instant::now();
        let is_ahead = self.is_ahead(&key);
        let former = self.shadows.write().dirty.insert(key, bytes);
        self.bytes = self.bytes + u64::from(bytes) - u64::from(former.unwrap_or_default());
        if former.is_none() {
            self.len += 1;
            self.ahead += usize::from(is_ahead);
        }
    }

    /// Removes `key`, whose document is flushed out of order.
    pub(in crate::store) fn remove(&mut self, key: &ShadowKey) {
        let removed = self.shadows.write().begin_flush(key);
        if let Some(bytes) = removed {
            self.len -= 1;
            self.bytes -= u64::from(bytes);
            self.ahead -= usize::from(self.is_ahead(key));
        }
    }

    fn is_ahead(&self, key: &ShadowKey) -> bool {
        self.cursor.as_ref().is_none_or(|cursor| key > cursor)
    }

    /// Returns the number of documents to flush in a commit of `entries` and `bytes` that moves the head to that of
    /// `progress`, while the cache has `cached` bytes.
    pub(in crate::store) fn due(&self, progress: &Checkpoint, entries: u64, bytes: u64, cached: u64) -> usize {
        let share = |used: u64, max: u64, now: u64| {
            let left = max.saturating_sub(used);
            (self.ahead as u64).saturating_mul(now).div_ceil(left.saturating_add(now).max(1))
        };
        let entries_used = progress.head.seq.0 - self.pass_start.seq.0;
        let bytes_used = progress.head.bytes - self.pass_start.bytes;
        let due =
            share(entries_used, self.pass_entries_max, entries).max(share(bytes_used, self.pass_bytes_max, bytes));
        // Dirty documents cannot be evicted, so a cache far above its bound has too many of them.
        let excess = self.bytes.saturating_sub(self.bytes_max).max(cached.saturating_sub(self.cached_max));
        let due = due.max((self.len() as u64).saturating_mul(excess).div_ceil(self.bytes.max(1)));
        usize::try_from(due).unwrap_or(usize::MAX).max(self.slice_min)
    }

    /// Removes `count` keys in order to flush their documents, and moves the checkpoint of `progress` accordingly.
    ///
    /// The set does not keep the removed keys: if the commit fails, no further commit is allowed.
    pub(in crate::store) fn take(&mut self, count: usize, progress: &mut Checkpoint) -> Vec<ShadowKey> {
        let mut taken = Vec::new();
        while taken.len() < count || self.ahead == 0 {
            if self.ahead == 0 {
                if self.is_empty() {
                    // Nothing is older than the head.
                    self.milestones.clear();
                    progress.checkpoint = progress.head;
                    self.start_pass(progress.head);
                    break;
                }
                self.start_pass(progress.head);
                continue;
            }
            let after = self.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut shadows = self.shadows.write();
            let next = shadows.dirty.range((after, Bound::Unbounded)).take(count - taken.len());
            let keys: Vec<_> = next.map(|(key, _)| key.clone()).collect();
            self.bytes -= keys.iter().filter_map(|key| shadows.begin_flush(key)).map(u64::from).sum::<u64>();
            drop(shadows);
            self.len -= keys.len();
            self.ahead -= keys.len();
            self.cursor = keys.last().cloned();
            taken.extend(keys);
        }
        self.reach(progress);
        taken
    }

    fn start_pass(&mut self, head: JournalPosition) {
        self.pass += 1;
        self.pass_start = head;
        self.cursor = None;
        self.ahead = self.len;
        self.milestones.push_back(Milestone { pass: self.pass, cursor: None, head });
    }

    /// Moves the checkpoint to the milestones that were reached, and sets another one if the last is far behind.
    fn reach(&mut self, progress: &mut Checkpoint) {
        let here = (self.pass, &self.cursor);
        while let Some(reached) = self.milestones.front().filter(|next| here >= (next.pass + 1, &next.cursor)) {
            progress.checkpoint = reached.head;
            self.milestones.pop_front();
        }
        let (head, last) = (progress.head, self.milestones.back().map_or(progress.checkpoint, |last| last.head));
        let is_far = (head.seq.0 - last.seq.0).saturating_mul(MILESTONES) > self.pass_entries_max
            || (head.bytes - last.bytes).saturating_mul(MILESTONES) > self.pass_bytes_max;
        if is_far && self.cursor.is_some() {
            self.milestones.push_back(Milestone { pass: self.pass, cursor: self.cursor.clone(), head });
        }
    }
}
