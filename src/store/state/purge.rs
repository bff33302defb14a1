//! Purge of the tombstones of deleted names, which frees the places of those names on their device.
//!
//! A deleted shadow keeps its record as a tombstone, and its name counts against the maximum of the device. When a new
//! name is refused because of that maximum, the tombstones of the device are searched. One is purged if nothing else
//! depends on it: it is in the state table, retention has removed all its journal entries, and its idempotency keys
//! have expired. The commit with the new name removes the records and raises the floor of the device ([`super::floor`]).
//! The classic shadow has no name and is never purged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redb::{Table, WriteTransaction};

use crate::{
    shadow::{ShadowKey, Timestamp, name::DeviceId},
    store::{
        changes::TouchedShadow,
        database::AbortCause,
        error::StoreError,
        journal::entry::Seq,
        pages::check::CheckedTable,
        reader::Shared,
        schema::{self, FLOORS_TABLE, STATE_TABLE},
        state::{
            dirty_set::DirtySet,
            floor::{self, DeviceFloor},
            record::{self, StoredShadow},
        },
    },
};

/// The tombstones to purge, by device.
pub(in crate::store) type Purges = BTreeMap<DeviceId, Purge>;

/// The tombstones to purge from one device, and the floor that they leave. That of earlier ones may be higher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Purge {
    pub(in crate::store) keys: BTreeSet<ShadowKey>,
    pub(in crate::store) floor: DeviceFloor,
}

/// The earliest moment at which a search may find more than the last one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct NextSearch {
    /// The position of retention that is enough.
    removed: Seq,
    /// The time that is enough.
    at: Timestamp,
}

/// A search for tombstones, in the middle of a batch.
pub(in crate::store) struct PurgeSearch<'a> {
    pub(in crate::store) shared: &'a Shared,
    pub(in crate::store) dirty_set: &'a DirtySet,
    /// The shadows that the batch has touched.
    pub(in crate::store) touched: &'a HashMap<ShadowKey, TouchedShadow>,
    /// The tombstones that the batch purges already.
    pub(in crate::store) purged: &'a Purges,
    /// The newest entry of the batch.
    pub(in crate::store) head: Seq,
    /// The last entry removed by retention.
    pub(in crate::store) removed: Seq,
    pub(in crate::store) now: Timestamp,
}

impl Purge {
    /// Adds the tombstones of `other`, of the same device.
    pub(in crate::store) fn merge(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.floor.raise(other.floor);
    }
}

impl PurgeSearch<'_> {
    /// Returns true if a search at `next` or later may find something now.
    pub(in crate::store) fn is_due(&self, next: NextSearch) -> bool {
        self.removed >= next.removed || self.now >= next.at
    }

    /// Returns the tombstones of `device` that can be purged, and the moment for another search if they are too few.
    pub(in crate::store) fn run(&self, device: &DeviceId) -> Result<(Purge, NextSearch), StoreError> {
        let is_sound = |table| self.shared.database.is_sound(table);
        if !is_sound(CheckedTable::State) || !is_sound(CheckedTable::Floors) {
            // A removal may merge pages, and must not merge damaged ones.
            let next = NextSearch { removed: Seq(u64::MAX), at: Timestamp(self.now.0 + 1) };
            return Ok((Purge::default(), next));
        }
        // A shadow deleted from now on has an entry after the head.
        let mut next = NextSearch { removed: Seq(self.head.0 + 1), at: Timestamp(u64::MAX) };
        for (_, last_entry) in self.unflushed(device).filter(|(deleted, last)| *deleted && *last > Seq(0)) {
            next.removed = next.removed.min(last_entry);
        }
        let purged = self.purged.get(device);
        let (mut floor, tombstones) = self.stored(device)?;
        floor.raise(purged.map(|purged| purged.floor).unwrap_or_default());
        let mut keys = BTreeSet::new();
        for (key, StoredShadow { document, last_entry, remembered }) in tombstones {
            if self.is_unflushed(&key) || purged.is_some_and(|purged| purged.keys.contains(&key)) {
                continue;
            }
            match remembered.expires_at().filter(|expiry| *expiry > self.now) {
                _ if last_entry > self.removed => next.removed = next.removed.min(last_entry),
                Some(expiry) => next.at = next.at.min(expiry),
                None => {
                    floor.raise(DeviceFloor { version: document.version, last_entry });
                    keys.insert(key);
                }
            }
        }
        Ok((Purge { keys, floor }, next))
    }

    /// Returns the shadows of `device` that the state table lacks, or may lack with this batch: true for deleted ones, and
    /// the newest entry.
    fn unflushed<'b>(&'b self, device: &'b DeviceId) -> impl Iterator<Item = (bool, Seq)> {
        let touched = self.touched.iter().filter(|(key, _)| key.device == *device);
        let touched = touched.map(|(_, shadow)| (shadow.stored.document.deleted, shadow.stored.last_entry));
        let dirty = self.dirty_set.of_device(device).into_iter();
        dirty.filter_map(|key| self.shared.cache.summary(&key)).chain(touched)
    }

    fn is_unflushed(&self, key: &ShadowKey) -> bool {
        self.touched.contains_key(key) || self.dirty_set.contains(key)
    }

    /// Returns the floor of `device` and the tombstones of its names in the state table. Ignores damaged records.
    fn stored(&self, device: &DeviceId) -> Result<(DeviceFloor, Vec<(ShadowKey, StoredShadow)>), StoreError> {
        let range = schema::named_range(device);
        self.shared.database.read(|transaction| {
            let table = transaction.open_table(STATE_TABLE)?;
            let mut tombstones = Vec::new();
            for item in table.range(range.start.as_slice()..range.end.as_slice())? {
                let (key, value) = item?;
                let (key, value) = (key.value(), value.value());
                if !record::may_be_deleted(value) {
                    continue;
                }
                if let (Ok(shadow), Ok(stored)) =
                    (schema::shadow_key(key), record::decode(key, value, &self.shared.dictionaries))
                {
                    tombstones.push((shadow, stored));
                }
            }
            Ok((floor::of(transaction, device)?, tombstones))
        })
    }
}

/// Removes the records of `purged` from `state` and raises the floors. Returns the number of devices that had none.
pub(in crate::store) fn write(
    transaction: &WriteTransaction,
    state: &mut Table<'_, &'static [u8], &'static [u8]>,
    purged: &Purges,
) -> Result<u64, AbortCause> {
    if purged.is_empty() {
        return Ok(0);
    }
    let mut floors = transaction.open_table(FLOORS_TABLE)?;
    let mut new = 0;
    for (device, purge) in purged {
        for key in &purge.keys {
            state.remove(schema::state_key(key).as_slice())?;
        }
        new += u64::from(floor::raise(&mut floors, device, purge.floor)?);
    }
    Ok(new)
}
