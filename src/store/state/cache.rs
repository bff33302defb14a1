//! The cache of decoded documents, and the rules that keep reads from being stale.
//!
//! Only the writer changes documents. It *publishes* them here after the commit that made them durable. A slot with a
//! dirty document is *pinned*: it stays until the document has been flushed. Clean slots are evicted by second chance
//! when a shard exceeds its share of the bytes.
//!
//! *Invariant:* for a shadow without a slot, the newest published document is in the state table. A slot never holds a
//! document older than the last one published.
//!
//! A reader that finds no slot may therefore read the state table. Meanwhile the writer may have published, flushed and
//! even evicted newer versions, or a commit may have reached the table before its publication. So the reader passes its
//! result to [`DocumentCache::settle`], which
//!
//! - returns the newer of slot and result, so that no reader sees a version decrease;
//! - creates a slot only if nothing was published in the shard since the lookup ([`CacheMiss`]), so that an old result is
//!   not kept past an eviction.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::RwLock;

use crate::{
    shadow::{Document, ShadowKey, pointer::SectionName},
    store::{journal::entry::Seq, state::record::StoredShadow},
};

/// A power of two well above the number of reading threads.
const SHARDS: usize = 64;

/// Slots inspected for each one added: eviction keeps pace with insertion, in bounded time under the lock.
const SWEEP_STEPS: usize = 8;

/// The documents in memory. Readers lock one shard for a lookup, the writer locks one for a publication.
pub(in crate::store) struct DocumentCache {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// Most bytes of a shard.
    shard_bytes_max: usize,
    bytes: AtomicUsize,
    documents: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<ShadowKey, Slot>,
    /// The keys of `slots` in the order of the next sweep.
    ring: VecDeque<ShadowKey>,
    bytes: usize,
    /// The number of publications.
    published: u64,
}

struct Slot {
    stored: StoredShadow,
    bytes: usize,
    pinned: bool,
    /// True if looked up since the last sweep.
    used: AtomicBool,
}

/// Evidence of the time at which a reader found no slot.
pub(in crate::store) struct CacheMiss {
    shard: usize,
    published: u64,
}

impl DocumentCache {
    pub(in crate::store) fn new(bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            shard_bytes_max: bytes_max / SHARDS,
            bytes: AtomicUsize::new(0),
            documents: AtomicUsize::new(0),
        }
    }

    /// Returns the number of documents and their approximate bytes.
    pub(in crate::store) fn size(&self) -> (usize, usize) {
        (self.documents.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Returns the newest published document of `key`, or the [`CacheMiss`] for reading the state table.
    pub(in crate::store) fn get(&self, key: &ShadowKey) -> Result<StoredShadow, CacheMiss> {
        let shard = self.shard_of(key);
        let guard = self.shard(shard).read();
        match guard.slots.get(key) {
            Some(slot) => {
                slot.used.store(true, Ordering::Relaxed);
                Ok(slot.stored.clone())
            }
            None => Err(CacheMiss { shard, published: guard.published }),
        }
    }

    /// Takes the document that a reader found in the state table after `miss`, and returns the one to use.
    pub(in crate::store) fn settle(&self, key: &ShadowKey, read: StoredShadow, miss: &CacheMiss) -> StoredShadow {
        let mut shard = self.shard(miss.shard).write();
        match shard.slots.get(key) {
            Some(slot) if slot.pinned || slot.stored.last_entry >= read.last_entry => slot.stored.clone(),
            // Absent shadows are not cached, since clients can ask for any name.
            None if shard.published != miss.published || read.last_entry == Seq(0) => read,
            _ => {
                self.put(&mut shard, key, read.clone(), false);
                read
            }
        }
    }

    /// Publishes a committed document to readers. Only the writer calls this.
    pub(in crate::store) fn publish(&self, key: &ShadowKey, stored: StoredShadow, pinned: bool) {
        let mut shard = self.shard(self.shard_of(key)).write();
        shard.published += 1;
        self.put(&mut shard, key, stored, pinned);
    }

    /// Removes the document of `key`, whose record was purged. Only the writer calls this.
    pub(in crate::store) fn remove(&self, key: &ShadowKey) {
        let mut shard = self.shard(self.shard_of(key)).write();
        // A reader that found the record before must not cache it afterwards.
        shard.published += 1;
        if self.evict(&mut shard, key) {
            shard.ring.retain(|other| other != key);
        }
    }

    /// Replaces all documents by `dirty`, after the store was reopened. Only the writer calls this.
    pub(in crate::store) fn reset<'a>(&self, dirty: impl IntoIterator<Item = (&'a ShadowKey, &'a StoredShadow)>) {
        for shard in &self.shards {
            let mut shard = shard.write();
            // A reader that reads the state table now may find what the failed commit replaced.
            shard.published += 1;
            self.bytes.fetch_sub(shard.bytes, Ordering::Relaxed);
            self.documents.fetch_sub(shard.slots.len(), Ordering::Relaxed);
            shard.bytes = 0;
            shard.slots.clear();
            shard.ring.clear();
        }
        dirty.into_iter().for_each(|(key, stored)| self.publish(key, stored.clone(), true));
    }

    /// Unpins the document of `key` after its flush. Only the writer calls this.
    pub(in crate::store) fn unpin(&self, key: &ShadowKey) {
        let mut shard = self.shard(self.shard_of(key)).write();
        if let Some(slot) = shard.slots.get_mut(key) {
            slot.pinned = false;
        }
        self.sweep(&mut shard);
    }

    fn put(&self, shard: &mut Shard, key: &ShadowKey, stored: StoredShadow, pinned: bool) {
        let bytes = approximate_bytes(&stored.document) + 160 * stored.remembered.keys().len();
        let slot = Slot { stored, bytes, pinned, used: AtomicBool::new(false) };
        let former = shard.slots.insert(key.clone(), slot);
        if former.is_none() {
            shard.ring.push_back(key.clone());
            self.documents.fetch_add(1, Ordering::Relaxed);
        }
        let former = former.map_or(0, |slot| slot.bytes);
        shard.bytes = shard.bytes + bytes - former;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(former, Ordering::Relaxed);
        self.sweep(shard);
    }

    fn sweep(&self, shard: &mut Shard) {
        for _ in 0..SWEEP_STEPS {
            if shard.bytes <= self.shard_bytes_max {
                return;
            }
            let Some(key) = shard.ring.pop_front() else { return };
            let keep = shard.slots.get_mut(&key).is_some_and(|slot| slot.pinned | std::mem::take(slot.used.get_mut()));
            if keep {
                shard.ring.push_back(key);
            } else {
                self.evict(shard, &key);
            }
        }
    }

    /// Removes the slot of `key`; false if there is none.
    fn evict(&self, shard: &mut Shard, key: &ShadowKey) -> bool {
        let Some(slot) = shard.slots.remove(key) else { return false };
        shard.bytes -= slot.bytes;
        self.bytes.fetch_sub(slot.bytes, Ordering::Relaxed);
        self.documents.fetch_sub(1, Ordering::Relaxed);
        true
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
    fn shard_of(&self, key: &ShadowKey) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    #[expect(clippy::indexing_slicing, reason = "only `shard_of` makes an index")]
    fn shard(&self, index: usize) -> &RwLock<Shard> {
        &self.shards[index]
    }
}

/// Returns the approximate memory of `document`. A leaf takes its share of a tree node, a key and a value; text takes
/// its canonical bytes.
fn approximate_bytes(document: &Document) -> usize {
    let sections: usize = SectionName::ALL
        .iter()
        .map(|name| document.section(*name))
        .map(|section| 2 * section.canonical_bytes + 128 * section.leaves)
        .sum();
    let tombstones: usize = document.tombstones.iter().map(|tombstone| 96 + 32 * tombstone.path.keys.len()).sum();
    512 + sections + tombstones
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use super::*;
    use crate::shadow::name::DeviceId;

    fn key(name: &str) -> ShadowKey {
        ShadowKey::classic(DeviceId::new(name).unwrap())
    }

    /// Returns a document whose last entry is `seq`.
    fn stored(seq: u64) -> StoredShadow {
        StoredShadow { document: Arc::new(Document::absent()), last_entry: Seq(seq), remembered: Default::default() }
    }

    /// The events between a lookup in the cache and the end of the read from disk.
    #[derive(Debug)]
    enum Meanwhile {
        Nothing,
        Published {
            seq: u64,
            pinned: bool,
        },
        /// Published, flushed and evicted.
        Gone {
            seq: u64,
        },
        /// Another reader finished first.
        Settled {
            seq: u64,
        },
        /// The record was purged.
        Purged,
    }

    #[test]
    fn a_read_from_disk_is_merged_with_publications() {
        use Meanwhile::{Gone, Nothing, Published, Purged, Settled};
        for (meanwhile, read, answered, kept) in [
            (Nothing, 5, 5, Some(5)),
            (Nothing, 0, 0, None),
            (Published { seq: 6, pinned: true }, 5, 6, Some(6)),
            (Published { seq: 6, pinned: false }, 5, 6, Some(6)),
            (Published { seq: 6, pinned: false }, 6, 6, Some(6)),
            // The commit of 6 reached the disk before its publication.
            (Settled { seq: 5 }, 6, 6, Some(6)),
            (Settled { seq: 6 }, 5, 6, Some(6)),
            // An old result must not be kept, since nothing would correct it.
            (Gone { seq: 6 }, 5, 5, None),
            (Gone { seq: 6 }, 6, 6, None),
            (Purged, 5, 5, None),
        ] {
            let about = format!("{meanwhile:?}, read {read}");
            let cache = DocumentCache::new(1 << 20);
            let miss = cache.get(&key("d")).err().unwrap();
            match meanwhile {
                Nothing => {}
                Published { seq, pinned } => cache.publish(&key("d"), stored(seq), pinned),
                Gone { seq } => {
                    cache.publish(&key("d"), stored(seq), false);
                    cache.shard(miss.shard).write().slots.clear();
                }
                Purged => cache.remove(&key("d")),
                Settled { seq } => {
                    let other = cache.get(&key("d")).err().unwrap();
                    assert_eq!(cache.settle(&key("d"), stored(seq), &other).last_entry, Seq(seq), "{about}");
                }
            }
            assert_eq!(cache.settle(&key("d"), stored(read), &miss).last_entry, Seq(answered), "{about}");
            assert_eq!(cache.get(&key("d")).ok().map(|stored| stored.last_entry), kept.map(Seq), "{about}");
        }
    }

    #[test]
    fn a_removed_slot_leaves_nothing() {
        let cache = DocumentCache::new(1 << 20);
        for _ in 0..3 {
            cache.publish(&key("d"), stored(1), false);
            cache.remove(&key("d"));
            cache.remove(&key("d"));
        }
        assert!(cache.get(&key("d")).is_err());
        assert_eq!(cache.size(), (0, 0));
        assert!(cache.shards.iter().all(|shard| shard.read().ring.is_empty()));
    }

    #[test]
    fn pinned_slots_stay_and_others_are_bounded() {
        let cache = DocumentCache::new(SHARDS * 2000);
        for n in 0..100 {
            cache.publish(&key(&format!("pinned-{n}")), stored(n + 1), true);
        }
        for n in 0..5000 {
            cache.publish(&key(&format!("clean-{n}")), stored(n + 1000), false);
        }
        for n in 0..100 {
            assert_eq!(cache.get(&key(&format!("pinned-{n}"))).ok().map(|stored| stored.last_entry), Some(Seq(n + 1)));
        }
        let (documents, bytes) = cache.size();
        assert!(bytes <= SHARDS * 2000 + 100 * 512 && documents >= 150, "{documents} documents, {bytes} bytes");
        (0..100).for_each(|n| cache.unpin(&key(&format!("pinned-{n}"))));
        (0..2000).for_each(|n| cache.publish(&key(&format!("later-{n}")), stored(n + 9000), false));
        assert!(cache.size().1 <= SHARDS * 2000, "{:?}", cache.size());
    }

    #[test]
    fn looked_up_slots_outlive_others() {
        let cache = DocumentCache::new(SHARDS * 10_000);
        let hot = key("hot");
        cache.publish(&hot, stored(1), false);
        for n in 0..20_000 {
            cache.publish(&key(&format!("cold-{n}")), stored(n + 2), false);
            assert!(cache.get(&hot).is_ok(), "after {n}");
        }
    }
}
