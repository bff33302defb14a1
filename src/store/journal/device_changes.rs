//! The changes of a few devices, without the rest of the journal: the entries of a shadow are a list from the newest back.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use crate::{
    shadow::{DeviceId, ShadowKey, ShadowName},
    store::{
        database::AbortCause,
        error::StoreError,
        journal::entry::{JournalEntry, Seq},
        pages::check::CheckedTable,
        reader::{Shared, entry, entry_of, progress},
        schema::JOURNAL_TABLE,
        state::floor,
    },
};

/// Most changes whose positions are looked up at once.
pub const CHANGES_MAX: usize = 10_000;

impl Shared {
    /// Returns the keys of the shadows of `device`, deleted ones among them.
    pub(in crate::store) fn keys_of(&self, device: &DeviceId) -> Result<Vec<ShadowKey>, StoreError> {
        let classic = ShadowKey::classic(device.clone());
        // Read in this order, a shadow flushed in between is found.
        let fresh: Vec<_> = {
            let fresh = self.fresh.read();
            fresh.range(&classic..).take_while(|key| key.device == *device).cloned().collect()
        };
        let mut keys: BTreeSet<_> = fresh.into_iter().chain([classic]).collect();
        let stored = self.stored_names(device)?.into_iter();
        keys.extend(stored.map(|name| ShadowKey::named(device.clone(), name)));
        Ok(keys.into_iter().collect())
    }

    /// See [`Store::positions_of`](crate::store::Store::positions_of).
    pub(in crate::store) fn positions_of(
        &self,
        devices: &[DeviceId],
        name: Option<&Option<ShadowName>>,
        after: Seq,
    ) -> Result<Option<Vec<Seq>>, StoreError> {
        if after > Seq(self.head.load(Ordering::Acquire)) {
            return Ok(None);
        }
        let mut positions = Vec::new();
        for device in devices {
            let keys = match name {
                Some(name) => vec![ShadowKey { device: device.clone(), name: name.clone() }],
                None => self.keys_of(device)?,
            };
            if !self.add_positions(device, &keys, after, &mut positions)? {
                return Ok(None);
            }
        }
        positions.sort_unstable();
        Ok(Some(positions))
    }

    /// Adds the positions of all changes of `keys` after `after`. Returns false if one was removed, or if they are too many.
    fn add_positions(
        &self,
        device: &DeviceId,
        keys: &[ShadowKey],
        after: Seq,
        positions: &mut Vec<Seq>,
    ) -> Result<bool, StoreError> {
        let newest = keys.iter().map(|key| Ok(self.newest(key)?.last_entry)).collect::<Result<Vec<_>, StoreError>>()?;
        let database = self.database.get()?;
        database.check_key(CheckedTable::Floors, device.as_str().as_bytes())?;
        database.read(|transaction| {
            // A purged tombstone is in no list, and its entries were removed.
            if floor::of(transaction, device)?.last_entry > after {
                return Ok(false);
            }
            let removed = progress(transaction)?.removed.seq;
            let table = transaction.open_table(JOURNAL_TABLE)?;
            for (key, mut next) in keys.iter().zip(newest) {
                while next > after {
                    if next <= removed || positions.len() >= CHANGES_MAX {
                        return Ok(false);
                    }
                    positions.push(next);
                    next = entry_of(&table, next, key)?.previous;
                }
            }
            Ok(true)
        })
    }

    /// See [`Store::entries_at`](crate::store::Store::entries_at).
    pub(in crate::store) fn entries_at(&self, positions: &[Seq]) -> Result<Option<Vec<JournalEntry>>, StoreError> {
        self.database.read(|transaction| {
            let removed = progress(transaction)?.removed.seq;
            if positions.iter().any(|seq| *seq <= removed) {
                return Ok(None);
            }
            let table = transaction.open_table(JOURNAL_TABLE)?;
            let entries = positions.iter().map(|&seq| {
                let framed = table.get(seq.0)?.ok_or_else(|| StoreError::entry(seq, "it is missing"))?;
                Ok(entry(seq, framed.value())?)
            });
            entries.collect::<Result<_, AbortCause>>().map(Some)
        })
    }
}
