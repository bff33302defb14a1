//! The changes of a few devices, without the rest of the journal: the entries of a shadow are a list from the newest back.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use crate::{
    shadow::{DeviceId, ShadowKey, ShadowName},
    store::{
        error::StoreError,
        journal::entry::{JournalEntry, Seq},
        pages::check::CheckedTable,
        reader::{PAGE_BYTES_MAX, Shared, entry, entry_of, progress},
        schema::{self, JOURNAL_TABLE, STATE_TABLE},
        state::{
            floor,
            record::{self, STATE},
        },
    },
};

/// Most changes whose positions are looked up at once, and most shadows.
pub const CHANGES_MAX: usize = 10_000;

/// The result of looking for the changes of a few devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChanges {
    /// The positions of the changes in order; `None` if one was removed or if they are too many.
    pub positions: Option<Vec<Seq>>,
    /// The number of shadows and entries that were read.
    pub read: usize,
}

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

    /// Returns the newest published entry of `key`; 0 if it has no record. Neither decodes nor keeps its document.
    pub(in crate::store) fn last_entry(&self, key: &ShadowKey) -> Result<Seq, StoreError> {
        // Without a slot, the newest published document is in the state table.
        if let Some((_, last)) = self.cache.summary(key) {
            return Ok(last);
        }
        let (database, name) = (self.database.get()?, schema::state_key(key));
        database.check_key(CheckedTable::State, &name)?;
        database.read(|transaction| match transaction.open_table(STATE_TABLE)?.get(name.as_slice())? {
            None => Ok(Seq(0)),
            Some(value) => Ok(record::decode_last_entry(&name, value.value())
                .map_err(|error| StoreError::record(STATE, key, &error))?),
        })
    }

    /// See [`Store::positions_of`](crate::store::Store::positions_of).
    pub(in crate::store) fn positions_of(
        &self,
        devices: &[DeviceId],
        name: Option<&Option<ShadowName>>,
        after: Seq,
    ) -> Result<DeviceChanges, StoreError> {
        let mut found = DeviceChanges { positions: None, read: 0 };
        if after > Seq(self.head.load(Ordering::Acquire)) {
            return Ok(found);
        }
        let mut positions = Vec::new();
        for device in devices {
            let keys = match name {
                Some(name) => vec![ShadowKey { device: device.clone(), name: name.clone() }],
                None => self.keys_of(device)?,
            };
            found.read += keys.len();
            if found.read > CHANGES_MAX || !self.add_positions(device, &keys, after, &mut positions)? {
                found.read += positions.len();
                return Ok(found);
            }
        }
        positions.sort_unstable();
        found.read += positions.len();
        found.positions = Some(positions);
        Ok(found)
    }

    /// Adds the positions of all changes of `keys` after `after`. Returns false if one was removed, or if they are too many.
    fn add_positions(
        &self,
        device: &DeviceId,
        keys: &[ShadowKey],
        after: Seq,
        positions: &mut Vec<Seq>,
    ) -> Result<bool, StoreError> {
        let newest = keys.iter().map(|key| self.last_entry(key)).collect::<Result<Vec<_>, StoreError>>()?;
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
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for &seq in positions {
                let framed = table.get(seq.0)?.ok_or_else(|| StoreError::entry(seq, "it is missing"))?;
                entries.push(entry(seq, framed.value())?);
                bytes += framed.value().len();
                if bytes > PAGE_BYTES_MAX {
                    break;
                }
            }
            Ok(Some(entries))
        })
    }
}
