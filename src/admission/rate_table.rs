//! A bounded map of per-key rate state.
//!
//! An idle entry carries no more information than a new one, so the next sweep evicts it. When the table is full of
//! entries that are not idle, all new keys share one overflow entry. So filling the table neither evicts the state of a
//! key over its limit, nor makes the table grow. Known keys are not affected.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// The state of one key in a [`RateTable`].
pub(super) trait RateEntry {
    /// Returns true if the entry carries no more information than a new one.
    fn is_idle(&self, now: Instant) -> bool;
}

/// A map of entries by key. The entry of a key over its limit stays as long as it matters.
#[derive(Debug)]
pub(super) struct RateTable<K, V> {
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
    /// Most entries of one shard.
    entries_max: usize,
}

#[derive(Debug)]
struct Shard<K, V> {
    entries: HashMap<K, V>,
    /// The entry shared by new keys while the table is full; created on first use.
    overflow: Option<V>,
    sweep_at: usize,
    /// The earliest time of the next sweep.
    sweep_after: Option<Instant>,
}

impl<K: Hash + Eq, V: RateEntry> RateTable<K, V> {
    /// Returns a table of about `entries_max` entries at most.
    pub(super) fn new(entries_max: usize) -> Self {
        let entries_max = entries_max.div_ceil(SHARDS);
        let shard = || Mutex::new(Shard { entries: HashMap::new(), overflow: None, sweep_at: 0, sweep_after: None });
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect(), entries_max }
    }

    /// Calls `with` on the entry of `key`, created by `make` if missing. The callbacks must not use the table.
    pub(super) fn with<Q, T>(
        &self,
        key: &Q,
        now: Instant,
        own: impl FnOnce(&Q) -> K,
        make: impl FnOnce() -> V,
        with: impl FnOnce(&mut V) -> T,
    ) -> T
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = self.shard(key).lock();
        let shard = &mut *shard;
        if let Some(entry) = shard.entries.get_mut(key) {
            return with(entry);
        }
        shard.sweep(self.entries_max, now);
        if shard.entries.len() < self.entries_max {
            return with(shard.entries.entry(own(key)).or_insert_with(make));
        }
        with(shard.overflow.get_or_insert_with(make))
    }

    /// Returns the entry of `key`, if it has one of its own.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.shard(key).lock().entries.get(key).cloned()
    }

    /// Calls `visit` with each entry. Locks one shard at a time; the callback must not use the table.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&V)) {
        for shard in &self.shards {
            shard.lock().entries.values().for_each(&mut visit);
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<Shard<K, V>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards.get(index).expect("the index is taken modulo the number of shards")
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }
}

impl<K: Hash + Eq, V: RateEntry> Shard<K, V> {
    /// Evicts idle entries, once there are twice as many entries as the last sweep left.
    fn sweep(&mut self, entries_max: usize, now: Instant) {
        if self.entries.len() < self.sweep_at.min(entries_max) || self.sweep_after.is_some_and(|after| now < after) {
            return;
        }
        self.entries.retain(|_, entry| !entry.is_idle(now));
        self.sweep_at = (self.entries.len() * 2).max(SWEEP_MIN);
        self.entries.shrink_to(self.sweep_at);
        self.sweep_after = Some(now + SWEEP_PAUSE);
    }
}

/// The number of shards, each with its own lock.
const SHARDS: usize = 16;
/// Fewest entries of a shard for a sweep.
const SWEEP_MIN: usize = 256;
/// Shortest time between sweeps of a full table, whatever the number of new keys.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry that is idle from an instant on.
    struct Until(Instant, u32);

    impl RateEntry for Until {
        fn is_idle(&self, now: Instant) -> bool {
            self.0 <= now
        }
    }

    fn count(table: &RateTable<u32, Until>, key: u32, now: Instant, lasts: Duration) -> u32 {
        table.with(
            &key,
            now,
            |key| *key,
            || Until(now, 0),
            |entry| {
                *entry = Until(now + lasts, entry.1 + 1);
                entry.1
            },
        )
    }

    #[test]
    fn idle_entries_are_swept() {
        let (table, start) = (RateTable::new(1 << 20), Instant::now());
        for n in 0..100_000_u32 {
            count(&table, n, start + Duration::from_millis(n.into()), Duration::from_millis(50));
        }
        assert!(table.len() <= 2 * SWEEP_MIN * SHARDS, "{} entries held", table.len());
    }

    /// New keys in any number neither make the table grow nor evict a key over its limit.
    #[test]
    fn a_full_table_evicts_no_entry_in_use_and_new_keys_share() {
        let (table, now, minute) = (RateTable::new(1_600), Instant::now(), Duration::from_secs(60));
        assert_eq!(count(&table, 0, now, minute), 1);
        let new_keys: Vec<u32> = (1..20_000).map(|key| count(&table, key, now, minute)).collect();
        assert!((1_500..=1_600).contains(&table.len()), "{} entries held", table.len());
        assert!(new_keys.iter().max() > Some(&1_000), "those that came last share an entry");
        assert_eq!(count(&table, 0, now, minute), 2, "the first is still known");
        // After the minute there is room again, and every key has its own entry.
        assert_eq!(count(&table, 77_777, now + minute, minute), 1);
        assert!(table.len() < 1_600, "{} entries held", table.len());
    }
}
