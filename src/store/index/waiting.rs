//! The shadows whose records were flushed before the table of the index was verified.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    shadow::{ShadowKey, name::DeviceId},
    store::state::record,
};

/// Most bytes of records that wait. Verifying takes seconds, so few are flushed meanwhile.
const BYTES_MAX: usize = 64 << 20;
/// The memory of a shadow without its record.
const SHADOW_BYTES: usize = 160;

/// The framed record of a shadow; `None` if it had none.
pub(in crate::store) type FormerRecord = Option<Box<[u8]>>;

/// The shadows whose records were flushed before the table was verified, with the records whose entries it has.
#[derive(Default)]
pub(in crate::store) struct WaitingShadows {
    records: BTreeMap<ShadowKey, FormerRecord>,
    bytes: usize,
}

impl WaitingShadows {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(in crate::store) fn has(&self, key: &ShadowKey) -> bool {
        self.records.contains_key(key)
    }

    /// Returns the shadows in order, with their records.
    pub(in crate::store) fn iter(&self) -> impl Iterator<Item = (&ShadowKey, &FormerRecord)> {
        self.records.iter()
    }

    /// Returns the shadows of `device`, with true for those that existed.
    pub(in crate::store) fn of_device<'a>(
        &'a self,
        device: &'a DeviceId,
    ) -> impl Iterator<Item = (&'a ShadowKey, bool)> {
        let from = self.records.range(ShadowKey::classic(device.clone())..);
        let existed = |record: &FormerRecord| record.as_ref().is_some_and(|record| !record::may_be_deleted(record));
        from.take_while(move |(key, _)| key.device == *device).map(move |(key, record)| (key, existed(record)))
    }

    pub(in crate::store) fn add(&mut self, added: BTreeMap<ShadowKey, FormerRecord>) {
        for (key, record) in added {
            self.bytes += bytes(&record);
            self.records.insert(key, record);
        }
    }

    pub(in crate::store) fn remove(&mut self, done: &BTreeSet<ShadowKey>) {
        for key in done {
            self.bytes -= self.records.remove(key).as_ref().map_or(0, bytes);
        }
    }

    pub(in crate::store) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns true if they take too much memory.
    pub(in crate::store) fn is_too_large(&self) -> bool {
        self.bytes > BYTES_MAX
    }
}

fn bytes(record: &FormerRecord) -> usize {
    SHADOW_BYTES + record.as_ref().map_or(0, |record| record.len())
}
