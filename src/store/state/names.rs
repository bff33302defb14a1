//! Counts of named shadows per device, including deleted ones whose tombstone is stored.
//!
//! The first new name of a device since the start counts the names in the state table and the dirty set. Later names
//! increment that count, and a purge decrements it. A node that applies records of a log decides some requests again, so it
//! counts what the records before them add and purge.

use std::collections::HashMap;

use crate::{
    shadow::{ShadowKey, name::DeviceId},
    store::{
        error::StoreError,
        reader::Shared,
        state::{
            dirty_set::DirtySet,
            purge::{NextSearch, Purge, PurgeSearch},
        },
    },
};

/// Most devices whose count is kept.
const DEVICES_MAX: usize = 4096;

/// The known counts.
pub(in crate::store) struct NameCounts {
    known: HashMap<DeviceId, DeviceNames>,
    /// Names that records of a log have added to devices without a known count, less those that they purged. A count does not
    /// see them until they are committed.
    replayed: HashMap<DeviceId, isize>,
    names_max: usize,
}

/// The names of one device.
struct DeviceNames {
    count: usize,
    /// Set if a search found too few tombstones to purge.
    next_search: Option<NextSearch>,
}

/// The answer to a command that may create a shadow.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Admission {
    /// The shadow is the classic one, or the device has room for another name.
    Free,
    /// The device has room for another name once these tombstones are purged.
    Purge(Purge),
    /// The device is at its maximum.
    Full,
}

impl NameCounts {
    pub(in crate::store) fn new(names_max: usize) -> Self {
        Self { known: HashMap::new(), replayed: HashMap::new(), names_max }
    }

    /// Returns how many names a device may have.
    pub(in crate::store) fn max(&self) -> usize {
        self.names_max
    }

    /// Drops the counts if there are too many. Only allowed between batches, since only the count includes names that
    /// are decided but not committed.
    pub(in crate::store) fn shrink(&mut self) {
        if self.known.len() > DEVICES_MAX {
            self.known.clear();
        }
    }

    /// Returns the answer for a shadow without a record. Changes no count.
    pub(in crate::store) fn admission(
        &mut self,
        key: &ShadowKey,
        search: &PurgeSearch<'_>,
    ) -> Result<Admission, StoreError> {
        if key.name.is_none() {
            return Ok(Admission::Free);
        }
        let device = &key.device;
        let names_max = self.names_max;
        let names = match self.known.get_mut(device) {
            Some(names) => names,
            None => {
                let replayed = self.replayed.remove(device).unwrap_or_default();
                let count = count(device, search.shared, search.dirty_set)?.saturating_add_signed(replayed);
                self.known.entry(device.clone()).or_insert(DeviceNames { count, next_search: None })
            }
        };
        if names.count < names_max {
            return Ok(Admission::Free);
        }
        if names.next_search.is_some_and(|next| !search.is_due(next)) {
            return Ok(Admission::Full);
        }
        let (purge, next) = search.run(device)?;
        let room = names.count.saturating_sub(purge.keys.len()) < names_max;
        names.next_search = (!room).then_some(next);
        Ok(if room { Admission::Purge(purge) } else { Admission::Full })
    }

    /// Drops the count of `device`, whose tombstones were purged between batches.
    pub(in crate::store) fn forget(&mut self, device: &DeviceId) {
        self.known.remove(device);
    }

    /// Counts one more shadow, and `purged` fewer, for the device of `key`.
    pub(in crate::store) fn add(&mut self, key: &ShadowKey, purged: usize) {
        if let Some(names) = self.known.get_mut(&key.device)
            && key.name.is_some()
        {
            names.count = (names.count + 1).saturating_sub(purged);
        }
    }

    /// Counts the shadows that a record of a log adds to `device`, less the tombstones that it purges.
    pub(in crate::store) fn replay(&mut self, device: &DeviceId, added: isize) {
        match self.known.get_mut(device) {
            Some(names) => names.count = names.count.saturating_add_signed(added),
            None => *self.replayed.entry(device.clone()).or_default() += added,
        }
    }
}

fn count(device: &DeviceId, shared: &Shared, dirty_set: &DirtySet) -> Result<usize, StoreError> {
    let mut names = shared.stored_names(device)?;
    names.extend(dirty_set.of_device(device).into_iter().filter_map(|key| key.name));
    Ok(names.len())
}
