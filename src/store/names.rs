//! Counts of named shadows per device, including deleted ones.
//!
//! The first new name of a device since the start counts the names in the state table and the dirty set. Later names
//! increment that count.

use std::collections::HashMap;

use crate::{
    shadow::{ShadowKey, name::DeviceId},
    store::{backlog::Backlog, error::StoreError, reader::Shared},
};

/// Most devices whose count is kept.
const DEVICES_MAX: usize = 4096;

/// The known counts.
pub(super) struct NameCounts {
    known: HashMap<DeviceId, usize>,
    names_max: usize,
}

impl NameCounts {
    pub(super) fn new(names_max: usize) -> Self {
        Self { known: HashMap::new(), names_max }
    }

    /// Returns how many names a device may have.
    pub(super) fn max(&self) -> usize {
        self.names_max
    }

    /// Drops the counts if there are too many. Only allowed between batches, since only the count includes names that
    /// are decided but not committed.
    pub(super) fn shrink(&mut self) {
        if self.known.len() > DEVICES_MAX {
            self.known.clear();
        }
    }

    /// Counts one more shadow for the device of `key`; false if it is at its maximum.
    pub(super) fn admit(&mut self, key: &ShadowKey, shared: &Shared, backlog: &Backlog) -> Result<bool, StoreError> {
        if key.name.is_none() {
            return Ok(true);
        }
        let count = match self.known.get_mut(&key.device) {
            Some(count) => count,
            None => {
                let count = self.count(&key.device, shared, backlog)?;
                self.known.entry(key.device.clone()).or_insert(count)
            }
        };
        let admitted = *count < self.names_max;
        *count += usize::from(admitted);
        Ok(admitted)
    }

    /// Returns true if [`NameCounts::admit`] would admit the shadow.
    pub(super) fn would_admit(
        &mut self,
        key: &ShadowKey,
        shared: &Shared,
        backlog: &Backlog,
    ) -> Result<bool, StoreError> {
        let admitted = self.admit(key, shared, backlog)?;
        if let Some(count) = self.known.get_mut(&key.device)
            && admitted
            && key.name.is_some()
        {
            *count -= 1;
        }
        Ok(admitted)
    }

    fn count(&self, device: &DeviceId, shared: &Shared, backlog: &Backlog) -> Result<usize, StoreError> {
        let mut names = shared.stored_names(device, self.names_max)?;
        let first = ShadowKey::classic(device.clone());
        let waiting = backlog.keys_from(&first).take_while(|key| key.device == *device);
        names.extend(waiting.filter_map(|key| key.name.clone()));
        Ok(names.len())
    }
}
