//! The comparison of journal and state table: a shadow that the journal has changes of must be in the table, with the newest
//! of those before the checkpoint or a later one.
//!
//! Sound pages alone do not show it. A disk may lose a write without an error, and earlier programs wrote next to damaged
//! pages, which gave what was left a valid checksum.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
};

use crate::store::{
    journal::entry::{Seq, state_key_of},
    pages::tree::KeyRange,
    state::record,
};

/// Most shadows that are compared, which take 16 bytes each. In a larger store none is.
const SHADOWS_MAX: usize = 2_000_000;

/// The newest entries of shadows by the hash of their keys, while the tables are walked.
pub(super) struct Links {
    /// Every change up to it is in the state table.
    checkpoint: Seq,
    newest: Vec<(u64, Seq)>,
    is_sorted: bool,
    hasher: RandomState,
    /// The keys of shadows that lack a change.
    pub(super) lost: BTreeSet<Vec<u8>>,
}

impl Links {
    pub(super) fn new(checkpoint: Seq) -> Self {
        let hasher = RandomState::new();
        Self { checkpoint, newest: Vec::new(), is_sorted: false, hasher, lost: BTreeSet::new() }
    }

    /// Takes a pair of the state table.
    pub(super) fn state(&mut self, key: &[u8], value: &[u8]) {
        if self.newest.len() > SHADOWS_MAX {
            return;
        }
        // A damaged record is reported when it is read; it is not missing.
        let last_entry = record::decode_last_entry(key, value).unwrap_or(Seq(u64::MAX));
        self.newest.push((self.hasher.hash_one(key), last_entry));
    }

    /// Takes a pair of the journal, after all of the state table.
    pub(super) fn journal(&mut self, key: &[u8], value: &[u8]) {
        let Some(seq) = key.first_chunk().map(|bytes| Seq(u64::from_le_bytes(*bytes))) else { return };
        if seq > self.checkpoint || self.newest.len() > SHADOWS_MAX {
            return;
        }
        let Ok(key) = state_key_of(seq, value) else { return };
        if !std::mem::replace(&mut self.is_sorted, true) {
            self.newest.sort_unstable();
        }
        let hash = self.hasher.hash_one(key.as_slice());
        // Where two keys have one hash, the newer entry counts for both.
        let end = self.newest.partition_point(|(other, _)| *other <= hash);
        let newest = end.checked_sub(1).and_then(|last| self.newest.get(last)).filter(|(other, _)| *other == hash);
        if newest.is_none_or(|(_, last_entry)| *last_entry < seq) {
            self.lost.insert(key);
        }
    }
}

/// Returns the range of `key` alone.
pub(super) fn only(key: Vec<u8>) -> KeyRange {
    let mut above = key.clone();
    // Between the two is no key, since a NUL only ends the device and a name has no byte above 0x7F.
    match above.pop() {
        None | Some(0) => {}
        Some(last) => above.extend([last - 1, 0xFF]),
    }
    KeyRange { above: Some(above), up_to: Some(key) }
}
