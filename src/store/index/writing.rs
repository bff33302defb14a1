//! The index in a commit under way: entries of flushed records, the building of new paths, and the removal of old entries.
//!
//! Everything is written in the commits that are made anyway, or in commits of an idle writer, in bounded steps ([`Budget`]).
//! A fault of the index ends its part of the commit, and not the commit: from then on it writes nothing but the state of
//! another table.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use redb::{ReadableTable, Table, WriteTransaction};

#[cfg(test)]
use crate::store::index::keeper::OfTest;
use crate::{
    shadow::{ShadowKey, selection::Selection},
    store::{
        codec::DecodeError,
        database::AbortCause,
        error::StoreError,
        index::{
            self,
            entry::{self, Entries},
            state::{Building, INDEX_KEY, IndexState, KeptPath},
            status::IndexStatus,
            waiting::{FormerRecord, WaitingShadows},
        },
        pages::check::CheckedTable,
        schema::{self, Checkpoint, META_TABLE},
        slot::DatabaseSlot,
        state::{dictionary::Dictionaries, part::PartDecoder, record},
    },
};

/// The most that a commit does for an index beside the entries of the records that it flushes.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Budget {
    /// Records that are read, or entries that are removed.
    pub(in crate::store) records: usize,
    /// Bytes of entries, beyond which no other record is read.
    pub(in crate::store) bytes: usize,
}

impl Budget {
    /// The part of a commit with other work.
    pub(in crate::store) const BESIDE: Self = Self { records: 64, bytes: 64 << 10 };
    /// A commit of an idle writer.
    pub(in crate::store) const IDLE: Self = Self { records: 512, bytes: 512 << 10 };
    /// While the disk is nearly full.
    pub(in crate::store) const NOTHING: Self = Self { records: 0, bytes: 0 };
}

/// The state table in a commit.
pub(in crate::store) type StateTable<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// The index in a commit under way.
pub(in crate::store) struct IndexCommit<'k, 't> {
    pub(super) transaction: &'t WriteTransaction,
    pub(super) status: &'k IndexStatus,
    /// The table, once it is needed.
    pub(super) table: Option<Table<'t, &'static [u8], &'static [u8]>>,
    /// The state after the commit.
    pub(super) next: IndexState,
    /// The state before it, and false if that is not in the file.
    pub(super) former: &'k IndexState,
    pub(super) is_saved: bool,
    pub(super) is_verified: bool,
    pub(super) old_tables: &'k [u64],
    pub(super) waiting: &'k WaitingShadows,
    pub(super) decoder: &'k mut PartDecoder,
    pub(super) dictionaries: &'k Dictionaries,
    pub(super) database: &'k DatabaseSlot,
    /// The state after the commit if the table is given up.
    pub(super) given_up: IndexState,
    pub(super) change: IndexChange,
    /// The bytes of entries that this step has written and removed.
    pub(super) written: usize,
    #[cfg(test)]
    pub(super) of_test: &'k mut OfTest,
}

/// The change of an index by a commit.
#[derive(Default)]
pub(in crate::store) struct IndexChange {
    pub(super) next: IndexState,
    /// Shadows that wait for the check of the pages.
    pub(super) added: BTreeMap<ShadowKey, FormerRecord>,
    /// Shadows that have waited and have their entries.
    pub(super) done: BTreeSet<ShadowKey>,
    pub(super) removed_table: Option<u64>,
    /// The fault for which the table is given up.
    pub(super) fault: Option<String>,
}

/// The entries of a record, and true if its shadow exists.
#[derive(Default)]
struct RecordEntries {
    entries: Entries,
    exists: bool,
}

impl<'t> IndexCommit<'_, 't> {
    /// Puts the record of `key` into `state`, and changes its entries.
    pub(in crate::store) fn put(
        &mut self,
        state: &mut StateTable<'_>,
        key: &ShadowKey,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), AbortCause> {
        let before = self.guarded(|index| index.before(state, key, name))?.flatten();
        state.insert(name, value)?;
        if let Some(before) = before {
            self.guarded(|index| index.update(state, key, name, &before))?;
        }
        Ok(())
    }

    /// Does what is due besides, at most `budget`, and writes the state of the index.
    pub(in crate::store) fn finish(
        mut self,
        state: &StateTable<'_>,
        budget: Budget,
        progress: &mut Checkpoint,
    ) -> Result<IndexChange, AbortCause> {
        self.guarded(|index| index.step(state, budget))?;
        self.table = None;
        if self.change.fault.is_some() {
            self.next = self.given_up;
        }
        progress.index = self.next.generation;
        if self.next != *self.former || !self.is_saved {
            let mut meta = self.transaction.open_table(META_TABLE)?;
            if self.next.generation == 0 {
                meta.remove(INDEX_KEY)?;
            } else {
                meta.insert(INDEX_KEY, self.next.encode().as_slice())?;
                // Searches find a table wherever they find a state.
                self.transaction.open_table(index::table(&index::table_name(self.next.generation)))?;
            }
        }
        Ok(IndexChange { next: self.next, ..self.change })
    }

    /// Returns the result of `work`, or `None` after a fault of the index. A fault of the disk is one of the commit.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, AbortCause>) -> Result<Option<T>, AbortCause> {
        // If the storage engine panics, the commit fails, and the next opening gives this table up.
        self.status.begin_work(self.next.generation);
        let result = work(self);
        self.status.end_work();
        match result.map_err(AbortCause::fault_of_content) {
            Ok(done) => Ok(Some(done)),
            Err(Ok(fault)) => {
                self.change.fault.get_or_insert(fault);
                Ok(None)
            }
            Err(Err(cause)) => Err(cause),
        }
    }

    /// Returns the entries of the record of `key` before its change. `None` if its entries are not changed now.
    fn before(
        &mut self,
        state: &StateTable<'_>,
        key: &ShadowKey,
        name: &[u8],
    ) -> Result<Option<RecordEntries>, AbortCause> {
        if self.next.generation == 0 || self.change.fault.is_some() || self.waiting.has(key) {
            return Ok(None);
        }
        if !self.is_verified {
            self.next.is_behind = true;
            let record = state.get(name)?.map(|record| record.value().into());
            self.change.added.entry(key.clone()).or_insert(record);
            return Ok(None);
        }
        let record = state.get(name)?;
        self.entries(key, name, record.as_ref().map(|record| record.value())).map(Some)
    }

    /// Returns the entries that `record` of `key` has, or should have, in the table.
    fn entries(&mut self, key: &ShadowKey, name: &[u8], record: Option<&[u8]>) -> Result<RecordEntries, AbortCause> {
        let Some(record) = record else { return Ok(RecordEntries::default()) };
        let built = self.next.building.iter().filter(|built| built.has_passed(name)).flat_map(|built| &built.paths);
        let kept = self.next.ready.iter().chain(built);
        let decoded = record_entries(self.decoder, self.dictionaries, kept, key, name, record);
        Ok(decoded.unwrap_or_else(|error| unreadable(key, &error)))
    }

    /// Replaces the entries of a former record of `key` by those of the present one.
    fn update(
        &mut self,
        state: &StateTable<'_>,
        key: &ShadowKey,
        name: &[u8],
        before: &RecordEntries,
    ) -> Result<(), AbortCause> {
        #[cfg(test)]
        if let Some(fault) = self.of_test.fault.take() {
            return Err(fault());
        }
        let record = state.get(name)?;
        let after = self.entries(key, name, record.as_ref().map(|record| record.value()))?;
        for (entry, value) in before.entries.iter().filter(|(entry, _)| !after.entries.contains_key(*entry)) {
            self.table()?.remove(entry.as_slice())?;
            self.written += entry.len() + value.len();
        }
        for (entry, value) in after.entries.iter().filter(|(entry, value)| before.entries.get(*entry) != Some(*value)) {
            self.insert(entry, value)?;
        }
        if before.exists != after.exists {
            self.count(state, key, name, after.exists)?;
        }
        Ok(())
    }

    fn insert(&mut self, entry: &[u8], value: &[u8]) -> Result<(), AbortCause> {
        self.written += entry.len() + value.len();
        self.table()?.insert(entry, value)?;
        Ok(())
    }

    fn table(&mut self) -> Result<&mut Table<'t, &'static [u8], &'static [u8]>, AbortCause> {
        let opened = match self.table.take() {
            Some(table) => table,
            None => self.transaction.open_table(index::table(&index::table_name(self.next.generation)))?,
        };
        Ok(self.table.insert(opened))
    }

    /// Counts the device of `key`, if no other one of its shadows exists for the index.
    fn count(&mut self, state: &StateTable<'_>, key: &ShadowKey, name: &[u8], exists: bool) -> Result<(), AbortCause> {
        let device = key.device.as_str().as_bytes();
        let (from, to) = ([device, &[0]].concat(), [device, &[1]].concat());
        let passed = self.next.building.as_ref().filter(|built| self.next.devices.is_none() && built.has_passed(name));
        let counted = self.next.devices.or(passed.and_then(|built| built.devices));
        let Some(counted) = counted else { return Ok(()) };
        if self.database.get()?.check_range(CheckedTable::State, &from, &to).is_err() {
            // A shadow in a damaged page may exist. Aggregates count the devices by themselves then.
            self.set_devices(None);
            return Ok(());
        }
        let is_counted = |other: &[u8]| {
            self.next.devices.is_some() || self.next.building.as_ref().is_some_and(|built| built.has_passed(other))
        };
        let mut waiting = BTreeSet::new();
        for (other, existed) in self.waiting.of_device(&key.device).filter(|(other, _)| *other != key) {
            if self.change.done.contains(other) {
                continue;
            }
            let other = schema::state_key(other);
            if existed && is_counted(&other) {
                return Ok(());
            }
            waiting.insert(other);
        }
        for item in state.range(from.as_slice()..to.as_slice())? {
            let (other, record) = item?;
            let other = other.value();
            if other != name && is_counted(other) && !waiting.contains(other) && !record::may_be_deleted(record.value())
            {
                return Ok(());
            }
        }
        self.set_devices(Some(if exists { counted + 1 } else { counted.saturating_sub(1) }));
        Ok(())
    }

    fn set_devices(&mut self, devices: Option<u64>) {
        match &mut self.next.building {
            _ if self.next.devices.is_some() => self.next.devices = devices,
            Some(built) => built.devices = devices,
            None => {}
        }
    }

    /// Does one of the things that are due, at most `budget`.
    fn step(&mut self, state: &StateTable<'_>, budget: Budget) -> Result<(), AbortCause> {
        if budget.records == 0 || self.change.fault.is_some() {
            return Ok(());
        }
        self.written = 0;
        let has_table = self.next.generation > 0 && self.is_verified;
        if has_table && !self.waiting.is_empty() {
            self.catch_up(state, budget)
        } else if has_table && self.next.building.is_some() && self.database.is_sound(CheckedTable::State) {
            self.build(state, budget)
        } else if has_table && let Some(number) = self.next.removing.last().copied() {
            let (from, to) = (number.to_be_bytes().to_vec(), entry::end_of_path(number));
            if remove_some(self.table()?, &from, Some(&to), budget)? {
                self.next.removing.pop();
            }
            Ok(())
        } else {
            self.empty_old_table(budget)
        }
    }

    /// Changes the entries of shadows that have waited.
    fn catch_up(&mut self, state: &StateTable<'_>, budget: Budget) -> Result<(), AbortCause> {
        let waiting = self.waiting;
        for (read, (key, record)) in waiting.iter().enumerate() {
            if read >= budget.records || self.written >= budget.bytes {
                return Ok(());
            }
            let name = schema::state_key(key);
            let before = self.entries(key, &name, record.as_deref())?;
            self.update(state, key, &name, &before)?;
            self.change.done.insert(key.clone());
        }
        self.next.is_behind = false;
        Ok(())
    }

    /// Adds the entries of the records after the cursor.
    fn build(&mut self, state: &StateTable<'_>, budget: Budget) -> Result<(), AbortCause> {
        let Some(mut built) = self.next.building.take() else { return Ok(()) };
        let from = std::mem::take(&mut built.cursor);
        let after = if from.is_empty() { Bound::Unbounded } else { Bound::Excluded(from.as_bytes()) };
        built.cursor.clone_from(&from);
        // The device whose shadows were counted last.
        let mut counted = match built.devices {
            Some(_) => self.counted_before(state, &from)?,
            None => None,
        };
        for (read, item) in state.range::<&[u8]>((after, Bound::Unbounded))?.enumerate() {
            if read >= budget.records || self.written >= budget.bytes {
                self.next.building = Some(built);
                return Ok(());
            }
            let (name, record) = item?;
            let (name, record) = (name.value(), record.value());
            let damaged = |error: DecodeError| StoreError::record(record::STATE, name.escape_ascii(), &error);
            let key = schema::shadow_key(name).map_err(damaged)?;
            self.add(&mut built, &key, name, record, &mut counted)?;
        }
        self.next.devices = built.devices.or(self.next.devices);
        self.next.ready.extend(built.paths);
        Ok(())
    }

    /// Adds the entries of a record, and moves the cursor to it.
    fn add(
        &mut self,
        built: &mut Building,
        key: &ShadowKey,
        name: &[u8],
        record: &[u8],
        counted: &mut Option<String>,
    ) -> Result<(), AbortCause> {
        let found = record_entries(self.decoder, self.dictionaries, &built.paths, key, name, record);
        let found = found.unwrap_or_else(|error| unreadable(key, &error));
        for (entry, value) in &found.entries {
            self.insert(entry, value)?;
        }
        let device = key.device.as_str();
        if found.exists && counted.as_deref() != Some(device) {
            built.devices = built.devices.map(|devices| devices + 1);
            *counted = Some(device.to_owned());
        }
        // Ids and names are ASCII.
        built.cursor = String::from_utf8_lossy(name).into_owned();
        Ok(())
    }

    /// Returns the device of the cursor, if a shadow of it up to the cursor exists.
    fn counted_before(&self, state: &StateTable<'_>, cursor: &str) -> Result<Option<String>, AbortCause> {
        let Some((device, _)) = cursor.split_once('\0') else { return Ok(None) };
        let from = [device.as_bytes(), &[0]].concat();
        for item in state.range(from.as_slice()..=cursor.as_bytes())? {
            let (name, record) = item?;
            // As the entries of a record say, which may be damaged.
            let is_known = record::decode_deleted(name.value(), record.value()) == Ok(false);
            if is_known {
                return Ok(Some(device.to_owned()));
            }
        }
        Ok(None)
    }

    /// Removes some entries of a former table, and the table once it has none.
    fn empty_old_table(&mut self, budget: Budget) -> Result<(), AbortCause> {
        let pages = self.database.pages();
        let is_sound = |table: &&u64| pages.as_ref().is_none_or(|pages| pages.index_is_sound(**table) == Some(true));
        let Some(number) = self.old_tables.iter().find(is_sound).copied() else { return Ok(()) };
        let name = index::table_name(number);
        let is_empty = remove_some(&mut self.transaction.open_table(index::table(&name))?, &[], None, budget)?;
        if is_empty {
            self.transaction.delete_table(index::table(&name))?;
            self.change.removed_table = Some(number);
        }
        Ok(())
    }
}

/// Removes entries from `from` up to `to`, at most `budget`. Returns true if there are no others.
fn remove_some(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    from: &[u8],
    to: Option<&[u8]>,
    budget: Budget,
) -> Result<bool, AbortCause> {
    let (mut keys, mut bytes, mut is_all) = (Vec::new(), 0, true);
    for item in table.range::<&[u8]>((Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded)))? {
        if keys.len() >= budget.records || bytes >= budget.bytes {
            is_all = false;
            break;
        }
        let (key, value) = item?;
        bytes += key.value().len() + value.value().len();
        keys.push(key.value().to_vec());
    }
    for key in &keys {
        table.remove(key.as_slice())?;
    }
    Ok(is_all)
}

/// Returns the entries of the framed record of `key`.
fn record_entries<'k>(
    decoder: &mut PartDecoder,
    dictionaries: &Dictionaries,
    kept: impl IntoIterator<Item = &'k KeptPath>,
    key: &ShadowKey,
    name: &[u8],
    framed: &[u8],
) -> Result<RecordEntries, DecodeError> {
    let kept: Vec<_> = kept.into_iter().filter(|kept| kept.path.is_of_shadow(key.name.as_ref())).collect();
    let mut selection = Selection::default();
    kept.iter().for_each(|kept| kept.path.select(&mut selection));
    let Some(document) = decoder.decode(name, framed, dictionaries, &selection)? else {
        return Ok(RecordEntries::default());
    };
    let mut entries = Entries::new();
    kept.iter().for_each(|kept| entry::add(&mut entries, kept, &document, name));
    Ok(RecordEntries { entries, exists: true })
}

/// Logs a damaged record, which no search finds.
fn unreadable(key: &ShadowKey, error: &DecodeError) -> RecordEntries {
    let error = StoreError::record(record::STATE, key, error);
    tracing::error!(%error, "a damaged record is not indexed");
    RecordEntries::default()
}
