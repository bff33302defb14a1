//! The cache of documents, and the rules that keep reads from being stale.
//!
//! Only the writer changes documents. It *publishes* them here after the commit that made them durable. The slot of a
//! dirty document is *pinned*: it stays until the document has been flushed, and the flush takes the document from it.
//!
//! A slot has a decoded document, or its *record*: the bytes of the state table, which take a fraction of the memory; after a
//! start also a record with the journal entries that were not applied to it yet ([`UnappliedShadow`]). When a
//! shard exceeds its share of the bytes, documents without a lookup since the last sweep are encoded, and the records of
//! clean ones are evicted after another sweep. That is done by those who look for documents, so that the writer neither
//! encodes nor frees cold documents.
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
//!
//! Submitters of commands load documents in this way before the writer needs them. That is only a hint: the writer looks
//! here again and, if it finds nothing, reads the table itself, which nobody else changes.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{
    shadow::{
        Document, ShadowKey,
        pointer::{Pointer, SectionName},
    },
    store::{
        error::StoreError,
        journal::{entry::Seq, unapplied::UnappliedShadow},
        schema,
        state::{
            dictionary::Dictionaries,
            record::{self, RecordEncoder, STATE, StoredShadow},
        },
    },
};

/// A power of two well above the number of reading threads.
const SHARDS: usize = 64;

/// Slots inspected for each one added: eviction keeps pace with insertion, in bounded time under the lock.
const SWEEP_STEPS: usize = 8;

/// The memory of a slot without its document: the entries in a shard's map and ring, and in the dirty set.
const SLOT_BYTES: usize = 224;

/// The documents in memory. Readers lock one shard for a lookup, the writer locks one for a publication.
pub(in crate::store) struct DocumentCache {
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    /// Most bytes of a shard.
    shard_bytes_max: usize,
    bytes: AtomicUsize,
    documents: AtomicUsize,
    /// The dictionaries of the records.
    dictionaries: Arc<Dictionaries>,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<ShadowKey, Slot>,
    /// The keys of `slots` in the order of the next sweep.
    ring: VecDeque<ShadowKey>,
    bytes: usize,
    /// The number of publications.
    published: u64,
    encoder: RecordEncoder,
}

struct Slot {
    form: Form,
    last_entry: Seq,
    bytes: usize,
    pinned: bool,
    /// True if looked up since the last sweep.
    used: AtomicBool,
}

/// A document in memory.
#[derive(Clone)]
pub(in crate::store) enum Form {
    Decoded(StoredShadow),
    /// The framed value of the state table.
    Record(Arc<[u8]>),
    /// A record with entries of the journal after it, from the start.
    Unapplied(Arc<UnappliedShadow>),
}

/// The reason why a lookup returned no document.
pub(in crate::store) enum NotCached {
    /// There is no slot.
    Miss(CacheMiss),
    /// The record in the slot is damaged, as only the memory of the machine can do.
    Damaged(StoreError),
}

/// Evidence of the time at which a reader found no slot.
pub(in crate::store) struct CacheMiss {
    shard: usize,
    published: u64,
}

impl Form {
    /// Returns the document, which is that of `key`.
    pub(in crate::store) fn decode(
        self,
        key: &ShadowKey,
        dictionaries: &Dictionaries,
    ) -> Result<StoredShadow, StoreError> {
        match self {
            Self::Decoded(stored) => Ok(stored),
            Self::Record(record) => record::decode(&schema::state_key(key), &record, dictionaries)
                .map_err(|error| StoreError::record(STATE, key, &error)),
            Self::Unapplied(unapplied) => unapplied.apply(key, dictionaries),
        }
    }

    /// Returns true for two handles to the same encoded form.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Record(one), Self::Record(other)) => Arc::ptr_eq(one, other),
            (Self::Unapplied(one), Self::Unapplied(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    fn bytes(&self) -> usize {
        SLOT_BYTES
            + match self {
                Self::Decoded(stored) => approximate_bytes(&stored.document) + 160 * stored.remembered.keys().len(),
                Self::Record(record) => record.len(),
                Self::Unapplied(unapplied) => unapplied.bytes(),
            }
    }

    fn is_deleted(&self) -> bool {
        match self {
            Self::Decoded(stored) => stored.document.deleted,
            Self::Record(record) => record::may_be_deleted(record),
            Self::Unapplied(unapplied) => unapplied.is_deleted,
        }
    }
}

impl DocumentCache {
    pub(in crate::store) fn new(bytes_max: usize, dictionaries: Arc<Dictionaries>) -> Self {
        Self {
            dictionaries,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            shard_bytes_max: bytes_max / SHARDS,
            bytes: AtomicUsize::new(0),
            documents: AtomicUsize::new(0),
        }
    }

    /// Returns an empty cache whose content can [`DocumentCache::replace`] that of this one.
    pub(in crate::store) fn successor(&self) -> Self {
        let bytes_max = self.shard_bytes_max * SHARDS;
        Self { hasher: self.hasher.clone(), ..Self::new(bytes_max, Arc::clone(&self.dictionaries)) }
    }

    /// Returns the number of documents and their approximate bytes.
    pub(in crate::store) fn size(&self) -> (usize, usize) {
        (self.documents.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Returns true if the document of `key` is here and decoded.
    pub(in crate::store) fn is_decoded(&self, key: &ShadowKey) -> bool {
        let shard = self.shard(self.shard_of(key)).read();
        let slot = shard.slots.get(key).filter(|slot| matches!(slot.form, Form::Decoded(_)));
        slot.is_some_and(Slot::mark_used)
    }

    /// Returns the newest published document of `key`. After a miss, a reader may look into the state table.
    pub(in crate::store) fn get(&self, key: &ShadowKey) -> Result<StoredShadow, NotCached> {
        loop {
            let form = match self.find(key) {
                Ok(Form::Decoded(stored)) => return Ok(stored),
                Ok(form) => form,
                Err(miss) => return Err(NotCached::Miss(miss)),
            };
            // Without the lock. Decoding again is rare: somebody else has decoded or changed the document meanwhile.
            let decoded = form.clone().decode(key, &self.dictionaries).map_err(NotCached::Damaged)?;
            if self.keep_decoded(key, &form, &decoded) {
                return Ok(decoded);
            }
        }
    }

    fn find(&self, key: &ShadowKey) -> Result<Form, CacheMiss> {
        let shard = self.shard_of(key);
        let guard = self.shard(shard).read();
        match guard.slots.get(key) {
            Some(slot) => {
                slot.mark_used();
                Ok(slot.form.clone())
            }
            None => Err(CacheMiss { shard, published: guard.published }),
        }
    }

    /// Returns the newest published document of `key` as it is kept, which stays so: for a flush or a scan.
    pub(in crate::store) fn kept(&self, key: &ShadowKey) -> Option<Form> {
        let shard = self.shard(self.shard_of(key)).read();
        shard.slots.get(key).map(|slot| slot.form.clone())
    }

    /// Returns true if the newest published document of `key` is a tombstone, and its last entry; `None` if it is not here.
    pub(in crate::store) fn summary(&self, key: &ShadowKey) -> Option<(bool, Seq)> {
        let shard = self.shard(self.shard_of(key)).read();
        shard.slots.get(key).map(|slot| (slot.form.is_deleted(), slot.last_entry))
    }

    /// Replaces an encoded form by `decoded`, unless the slot no longer has that form. Returns false then.
    fn keep_decoded(&self, key: &ShadowKey, encoded: &Form, decoded: &StoredShadow) -> bool {
        self.exchange(key, encoded, Form::Decoded(decoded.clone()))
    }

    /// Replaces an encoded form by another form of the same document, unless the slot no longer has it. Returns false then.
    fn exchange(&self, key: &ShadowKey, encoded: &Form, form: Form) -> bool {
        let mut shard = self.shard(self.shard_of(key)).write();
        let Some(slot) = shard.slots.get(key).filter(|slot| slot.form.is_same(encoded)) else { return false };
        let (last_entry, pinned) = (slot.last_entry, slot.pinned);
        self.put_form(&mut shard, key, form, last_entry, pinned);
        self.sweep(&mut shard, self.shard_bytes_max);
        true
    }

    /// Applies the entries of `key` that wait since the start, if there are any, and keeps the result as a record.
    pub(in crate::store) fn apply(&self, key: &ShadowKey, encoder: &mut RecordEncoder) -> Result<(), StoreError> {
        if let Some(form @ Form::Unapplied(_)) = self.kept(key) {
            let stored = form.clone().decode(key, &self.dictionaries)?;
            let record = encoder.encode(&schema::state_key(key), &stored, self.dictionaries.newest()).into();
            self.exchange(key, &form, Form::Record(record));
        }
        Ok(())
    }

    /// Adds a dirty document with the entries that a start has found. Only a recovery calls this, for an empty cache.
    pub(in crate::store) fn add_unapplied(&self, key: &ShadowKey, unapplied: UnappliedShadow) {
        let mut shard = self.shard(self.shard_of(key)).write();
        let last_entry = unapplied.last_entry();
        self.put_form(&mut shard, key, Form::Unapplied(Arc::new(unapplied)), last_entry, true);
    }

    /// Takes the document that a reader found in the state table after `miss`, and returns the one to use.
    pub(in crate::store) fn settle(
        &self,
        key: &ShadowKey,
        read: StoredShadow,
        miss: &CacheMiss,
    ) -> Result<StoredShadow, StoreError> {
        let mut shard = self.shard(miss.shard).write();
        let settled = match shard.slots.get(key) {
            Some(slot) if slot.pinned || slot.last_entry >= read.last_entry => {
                slot.form.clone().decode(key, &self.dictionaries)
            }
            // Absent shadows are not cached, since clients can ask for any name.
            None if shard.published != miss.published || read.last_entry == Seq(0) => Ok(read),
            _ => {
                self.put(&mut shard, key, read.clone(), false);
                Ok(read)
            }
        };
        self.sweep(&mut shard, self.shard_bytes_max);
        settled
    }

    /// Publishes a committed document to readers. Only the writer calls this.
    pub(in crate::store) fn publish(&self, key: &ShadowKey, stored: StoredShadow, pinned: bool) {
        let mut shard = self.shard(self.shard_of(key)).write();
        shard.published += 1;
        self.put(&mut shard, key, stored, pinned);
        // Lookups sweep earlier, and so does an idle writer.
        self.sweep(&mut shard, self.shard_bytes_max + self.shard_bytes_max / 4);
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

    /// Replaces all documents by those of `next`, a [`DocumentCache::successor`], after the store was reopened. Only the
    /// writer calls this.
    pub(in crate::store) fn replace(&self, next: Self) {
        for (shard, next) in self.shards.iter().zip(next.shards) {
            let (mut shard, next) = (shard.write(), next.into_inner());
            // A reader that reads the state table now may find what the failed commit replaced.
            let published = shard.published + 1;
            self.bytes.fetch_add(next.bytes, Ordering::Relaxed);
            self.bytes.fetch_sub(shard.bytes, Ordering::Relaxed);
            self.documents.fetch_add(next.slots.len(), Ordering::Relaxed);
            self.documents.fetch_sub(shard.slots.len(), Ordering::Relaxed);
            *shard = Shard { published, ..next };
        }
    }

    /// Unpins the document of `key` after its flush. Only the writer calls this.
    pub(in crate::store) fn unpin(&self, key: &ShadowKey) {
        let mut shard = self.shard(self.shard_of(key)).write();
        if let Some(slot) = shard.slots.get_mut(key) {
            slot.pinned = false;
        }
    }

    /// Reduces the shard of `key` to its share, in a few steps. For a writer with nothing else to do.
    pub(in crate::store) fn trim(&self, key: &ShadowKey) {
        self.sweep(&mut self.shard(self.shard_of(key)).write(), self.shard_bytes_max);
    }

    fn put(&self, shard: &mut Shard, key: &ShadowKey, stored: StoredShadow, pinned: bool) {
        let last_entry = stored.last_entry;
        self.put_form(shard, key, Form::Decoded(stored), last_entry, pinned);
    }

    fn put_form(&self, shard: &mut Shard, key: &ShadowKey, form: Form, last_entry: Seq, pinned: bool) {
        let bytes = form.bytes();
        let slot = Slot { form, last_entry, bytes, pinned, used: AtomicBool::new(false) };
        let former = shard.slots.insert(key.clone(), slot);
        if former.is_none() {
            shard.ring.push_back(key.clone());
            self.documents.fetch_add(1, Ordering::Relaxed);
        }
        self.resized(shard, former.map_or(0, |slot| slot.bytes), bytes);
    }

    fn resized(&self, shard: &mut Shard, former: usize, bytes: usize) {
        shard.bytes = shard.bytes + bytes - former;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(former, Ordering::Relaxed);
    }

    /// Encodes and evicts documents while the shard has more than `bytes_max`, in a few steps.
    fn sweep(&self, shard: &mut Shard, bytes_max: usize) {
        for _ in 0..SWEEP_STEPS {
            if shard.bytes <= bytes_max {
                return;
            }
            let Some(key) = shard.ring.pop_front() else { return };
            let Some(slot) = shard.slots.get_mut(&key) else { continue };
            if std::mem::take(slot.used.get_mut()) {
                shard.ring.push_back(key);
                continue;
            }
            match &slot.form {
                Form::Decoded(stored) => {
                    let record =
                        shard.encoder.encode(&schema::state_key(&key), stored, self.dictionaries.newest()).into();
                    slot.form = Form::Record(record);
                    let (former, bytes) = (slot.bytes, slot.form.bytes());
                    slot.bytes = bytes;
                    self.resized(shard, former, bytes);
                    shard.ring.push_back(key);
                }
                Form::Record(_) | Form::Unapplied(_) if slot.pinned => shard.ring.push_back(key),
                Form::Record(_) | Form::Unapplied(_) => _ = self.evict(shard, &key),
            }
        }
    }

    /// Removes the slot of `key`; false if there is none.
    fn evict(&self, shard: &mut Shard, key: &ShadowKey) -> bool {
        let Some(slot) = shard.slots.remove(key) else { return false };
        self.resized(shard, slot.bytes, 0);
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

impl Slot {
    /// Returns true.
    fn mark_used(&self) -> bool {
        self.used.store(true, Ordering::Relaxed);
        true
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
    let path = |path: &Pointer| 96 + 32 * path.keys.len() + path.key_bytes();
    let tombstones: usize = document.tombstones.iter().map(|tombstone| path(&tombstone.path)).sum();
    512 + sections + tombstones
}

#[cfg(test)]
mod tests;
