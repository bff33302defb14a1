//! Searches of an index, for the devices that may match, and for the values of all devices.
//!
//! A search of one path finds shadows in the order of their terms. Devices are wanted in the order of their ids, from some
//! device on, and only those of some spans. If the ranges have few distinct terms, the shadows of each are in order already:
//! they are sought span by span, and merged. Otherwise all are collected and sorted, if they are not too many.
//!
//! A search on behalf of a reader who may not see the values of all devices reads no entry of the others, and does not count them, so
//! neither its time nor its work depends on them. It is only made for single terms.
//!
//! The stale shadows are copied before the snapshot begins, so that a shadow that was flushed in between is in either.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashSet},
    ops::{Bound, ControlFlow},
};

use redb::{ReadOnlyTable, ReadTransaction};
use serde_json::Value;

use crate::{
    shadow::{
        index::{IndexLookup, TermRange, ValuePath, term},
        name::DeviceId,
    },
    store::{
        codec::DecodeError,
        database::AbortCause,
        error::StoreError,
        index::{
            self,
            entry::{self, EntryValue},
            state::{INDEX_KEY, IndexState},
            status::IndexStatus,
        },
        pages::check::CheckedTable,
        reader::Shared,
        scan::DeviceSpan,
        schema::{META, META_TABLE, STATE_TABLE},
        state::record,
    },
};

/// Most terms whose shadows are merged.
const MERGED_TERMS_MAX: usize = 256;
/// Most places in the table that are sought to merge them, one for each term and span.
const SOUGHT_MAX: usize = 4096;
/// Most devices of a search whose caller needs all. With more, reading all shadows is as good.
const WHOLE_MAX: usize = 20_000;
/// Most shadows that are collected and sorted.
const COLLECTED_MAX: usize = 20_000;
/// Entries that are counted to compare searches.
const COUNTED_MAX: usize = 512;
/// Most devices that are read beside the index for an aggregate.
const STALE_MAX: usize = 10_000;

/// A search for devices by the values at a path.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceLookup {
    /// The path and values.
    pub lookup: IndexLookup,
    /// The devices that may be found, disjoint and in order.
    pub spans: Vec<DeviceSpan>,
    /// True if no entry of another device may be read.
    pub is_confined: bool,
}

/// The devices that a search proposes, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Proposed {
    /// The devices.
    pub devices: Vec<DeviceId>,
    /// The device after which there may be more.
    pub next: Option<DeviceId>,
}

/// The values of a path in all devices, as far as the index has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IndexedDevices {
    /// The number of other devices.
    pub devices: u64,
    /// The devices that the index does not know in their newest state, or not with each value.
    pub others: Vec<DeviceId>,
}

/// Entries with equal values.
#[derive(Debug)]
pub struct ValueGroup<'a> {
    /// The values.
    pub values: &'a [Value],
    /// The number of devices that have them.
    pub devices: u64,
    /// The number of these devices that were in no group before.
    pub first: u64,
}

/// The index in a snapshot.
struct Snapshot {
    state: IndexState,
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// The entries that were read.
    read: Cell<usize>,
}

/// A search of an index.
struct Chosen<'l> {
    number: u16,
    /// The beginning of the keys.
    prefix: Vec<u8>,
    ranges: &'l [TermRange],
    spans: &'l [DeviceSpan],
    is_confined: bool,
}

/// The reason for which an index is not used.
enum Unusable {
    /// It has no such path, or the search would take too long.
    Unsuited,
    /// It is damaged.
    Damaged(DecodeError),
    Failed(AbortCause),
}

impl From<DecodeError> for Unusable {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error)
    }
}

impl From<redb::StorageError> for Unusable {
    fn from(error: redb::StorageError) -> Self {
        Self::Failed(error.into())
    }
}

impl Shared {
    /// Returns devices after `after` in `spans`, among which are all that match one of `lookups`, which is chosen: about `limit`, or
    /// all, which are at most [`WHOLE_MAX`], without a limit. `None` if no index helps. Besides, returns the number of entries that were
    /// read.
    pub(in crate::store) fn propose(
        &self,
        lookups: &[DeviceLookup],
        spans: &[DeviceSpan],
        after: Option<&DeviceId>,
        limit: Option<usize>,
    ) -> Result<(Option<Proposed>, usize), StoreError> {
        if !lookups.iter().any(|search| self.index.paths.has(&search.lookup.path)) {
            return Ok((None, 0));
        }
        let (found, read) = match self.index.is_any_usable() {
            true => self.propose_by_index(lookups, spans, after, limit)?,
            false => (None, 0),
        };
        let count = if found.is_some() { &self.index.used } else { &self.index.unused };
        count.add(1);
        Ok((found, read))
    }

    fn propose_by_index(
        &self,
        lookups: &[DeviceLookup],
        spans: &[DeviceSpan],
        after: Option<&DeviceId>,
        limit: Option<usize>,
    ) -> Result<(Option<Proposed>, usize), StoreError> {
        // One more shows that there are more.
        let most = limit.unwrap_or(WHOLE_MAX) + 1;
        let stale = self.unflushed.stale_devices(spans, after, most);
        // Beyond the last of them, others may be stale too.
        let horizon = stale.last().filter(|_| stale.len() >= most).cloned();
        self.with_index(|snapshot, _| {
            let chosen = snapshot.choose(lookups)?.ok_or(Unusable::Unsuited)?;
            let (mut devices, is_all) = snapshot.devices(&chosen, after, most)?;
            let last = devices.last().filter(|_| !is_all).cloned();
            devices.extend(stale.into_iter().filter(|device| DeviceSpan::any_has(chosen.spans, device)));
            let next = last.into_iter().chain(horizon).min();
            if limit.is_none() && (next.is_some() || devices.len() > WHOLE_MAX) {
                return Err(Unusable::Unsuited);
            }
            if let Some(next) = &next {
                devices.retain(|device| device <= next);
            }
            Ok(Proposed { devices: devices.into_iter().collect(), next })
        })
    }

    /// Calls `visit` with the values at `path` in all devices that are not stale, until it breaks. Without a path, only counts the
    /// devices. `None` if the index has no such path, or not all of its values; then the calls count for nothing. Besides, returns the
    /// number of entries that were read.
    pub(in crate::store) fn indexed_values(
        &self,
        path: Option<&ValuePath>,
        visit: &mut dyn FnMut(ValueGroup<'_>) -> ControlFlow<()>,
    ) -> Result<(Option<IndexedDevices>, usize), StoreError> {
        if path.is_some_and(|path| !self.index.paths.has(path)) || !self.index.is_any_usable() {
            return Ok((None, 0));
        }
        let stale = self.unflushed.stale_devices(&[DeviceSpan::All], None, STALE_MAX + 1);
        // The stale devices are looked up in the state table.
        if stale.len() > STALE_MAX || !self.database.is_sound(CheckedTable::State) {
            return Ok((None, 0));
        }
        let (found, read) = self.with_index(|snapshot, transaction| {
            let devices = snapshot.state.devices.ok_or(Unusable::Unsuited)?;
            let mut stale = stale;
            if let Some(path) = path {
                snapshot.add_any_value(path, &mut stale)?;
                let known: HashSet<&str> = stale.iter().map(DeviceId::as_str).collect();
                snapshot.each_value(path, &known, visit)?;
            }
            let state = transaction.open_table(STATE_TABLE).map_err(|error| Unusable::Failed(error.into()))?;
            let mut counted = 0;
            for device in &stale {
                let device = device.as_str().as_bytes();
                let (from, to) = ([device, &[0]].concat(), [device, &[1]].concat());
                for item in state.range(from.as_slice()..to.as_slice())? {
                    if !record::may_be_deleted(item?.1.value()) {
                        counted += 1;
                        break;
                    }
                }
            }
            Ok(IndexedDevices { devices: devices.saturating_sub(counted), others: stale.into_iter().collect() })
        })?;
        if found.is_some() {
            self.index.used.add(1);
        }
        Ok((found, read))
    }

    /// Calls `search` with a snapshot of the index; `None` if it cannot be used. A damaged one is given up. Besides, returns the number
    /// of entries that were read.
    fn with_index<T>(
        &self,
        search: impl FnOnce(&Snapshot, &ReadTransaction) -> Result<T, Unusable>,
    ) -> Result<(Option<T>, usize), StoreError> {
        self.database.read(|transaction| {
            let Some(mut snapshot) = Snapshot::open(transaction, &self.index)? else { return Ok((None, 0)) };
            // Until the first commit after a start, the file has paths that were declared before. Nobody keeps those.
            snapshot.state.ready.retain(|kept| self.index.paths.iter().any(|path| *path == kept.path));
            let found = search(&snapshot, transaction);
            let read = snapshot.read.get();
            match found {
                Ok(found) => Ok((Some(found), read)),
                Err(Unusable::Unsuited) => Ok((None, read)),
                Err(Unusable::Damaged(error)) => {
                    let error = StoreError::record(index::INDEX_TABLES, "*", &error);
                    tracing::error!(%error, "an entry of the index of searches is damaged");
                    self.index.set_damaged(snapshot.state.generation);
                    Ok((None, read))
                }
                Err(Unusable::Failed(cause)) => Err(cause),
            }
        })
    }
}

impl Snapshot {
    fn open(transaction: &ReadTransaction, status: &IndexStatus) -> Result<Option<Self>, AbortCause> {
        let meta = transaction.open_table(META_TABLE)?;
        let Some(record) = meta.get(INDEX_KEY)? else { return Ok(None) };
        let state = IndexState::decode(record.value()).map_err(|error| StoreError::record(META, INDEX_KEY, &error))?;
        // It may have become usable after this snapshot began.
        if state.is_behind || !status.is_usable(state.generation) {
            return Ok(None);
        }
        let table = transaction.open_table(index::table(&index::table_name(state.generation)))?;
        Ok(Some(Self { state, table, read: Cell::new(0) }))
    }

    /// Returns the search with the fewest entries. One whose entries must not be counted is taken to have many.
    fn choose<'l>(&self, lookups: &'l [DeviceLookup]) -> Result<Option<Chosen<'l>>, Unusable> {
        let mut best: Option<(usize, Chosen<'_>)> = None;
        for DeviceLookup { lookup, spans, is_confined } in lookups {
            let Some((number, path, below)) = self.state.find(&lookup.path) else { continue };
            let prefix = entry::prefix(number, path, below.iter().map(|key| &**key));
            let entries = match is_confined {
                true if !lookup.ranges.iter().all(TermRange::is_single) => continue,
                true => COUNTED_MAX,
                false => self.count(&prefix, &lookup.ranges)?,
            };
            if best.as_ref().is_none_or(|(fewest, _)| entries < *fewest) {
                let (ranges, is_confined) = (&lookup.ranges, *is_confined);
                best = Some((entries, Chosen { number, prefix, ranges, spans, is_confined }));
            }
        }
        Ok(best.map(|(_, chosen)| chosen))
    }

    /// Returns the number of entries in the ranges, at most [`COUNTED_MAX`].
    fn count(&self, prefix: &[u8], ranges: &[TermRange]) -> Result<usize, Unusable> {
        let mut entries = 0;
        for range in ranges {
            let (from, to) = bounds(prefix, range);
            if from < to {
                entries += self.table.range(from.as_slice()..to.as_slice())?.take(COUNTED_MAX - entries).count();
            }
            if entries >= COUNTED_MAX {
                break;
            }
        }
        self.add_read(entries);
        Ok(entries)
    }

    fn add_read(&self, entries: usize) {
        self.read.set(self.read.get() + entries);
    }

    /// Returns devices with a term in the ranges, after `after`: about the first `limit` with false, or all with true.
    fn devices(
        &self,
        chosen: &Chosen<'_>,
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Result<(BTreeSet<DeviceId>, bool), Unusable> {
        let spans: Vec<_> = chosen.spans.iter().filter(|span| after.is_none_or(|after| !span.ends_by(after))).collect();
        let terms = if chosen.is_confined { Some(chosen.single_terms()) } else { self.terms(chosen)? };
        match terms {
            Some(terms) if terms.len() * spans.len() <= SOUGHT_MAX => {
                let devices = self.merged(&terms, &spans, after, limit)?;
                let is_all = devices.len() < limit;
                Ok((devices, is_all))
            }
            _ if chosen.is_confined => Err(Unusable::Unsuited),
            _ => Ok((self.collected(chosen, after)?, true)),
        }
    }

    /// Returns the keys up to the end of the term, of each distinct term in the ranges, and of the entries that stand for any
    /// value; `None` if they are many.
    fn terms(&self, chosen: &Chosen<'_>) -> Result<Option<BTreeSet<Vec<u8>>>, Unusable> {
        let mut terms = BTreeSet::from([entry::any_value(chosen.number)]);
        for range in chosen.ranges {
            let (mut from, to) = bounds(&chosen.prefix, range);
            while from < to
                && let Some(item) = self.table.range(from.as_slice()..to.as_slice())?.next()
            {
                let (key, _) = item?;
                let end = key.value().get(chosen.prefix.len()..).unwrap_or_default();
                let (term, _) = entry::split(end)?;
                let term = [chosen.prefix.as_slice(), term].concat();
                self.add_read(1);
                // No shadow's key begins with this byte.
                from = [term.as_slice(), &[0xFF]].concat();
                terms.insert(term);
                if terms.len() > MERGED_TERMS_MAX {
                    return Ok(None);
                }
            }
        }
        Ok(Some(terms))
    }

    /// Merges the shadows of each term in `spans`.
    fn merged(
        &self,
        terms: &BTreeSet<Vec<u8>>,
        spans: &[&DeviceSpan],
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Result<BTreeSet<DeviceId>, Unusable> {
        let mut devices = BTreeSet::new();
        for span in spans {
            let after = after.filter(|after| span.has(after)).map(|after| [after.as_str().as_bytes(), &[1]].concat());
            let from = after.unwrap_or_else(|| span.before().to_vec());
            // No shadow's key begins with this byte.
            let to = span.end().unwrap_or_else(|| vec![0xFF]);
            let (mut cursors, mut heap) = (Vec::with_capacity(terms.len()), BinaryHeap::new());
            for term in terms {
                let (from, to) = ([term.as_slice(), &from].concat(), [term.as_slice(), &to].concat());
                let mut cursor = self.table.range(from.as_slice()..to.as_slice())?;
                if let Some(item) = cursor.next() {
                    heap.push(Reverse((name_of(item?.0.value(), term.len()), cursors.len())));
                }
                cursors.push((cursor, term.len()));
            }
            while devices.len() < limit
                && let Some(Reverse((name, index))) = heap.pop()
            {
                devices.insert(device(&name)?);
                self.add_read(1);
                if let Some((cursor, length)) = cursors.get_mut(index)
                    && let Some(item) = cursor.next()
                {
                    heap.push(Reverse((name_of(item?.0.value(), *length), index)));
                }
            }
            if devices.len() >= limit {
                break;
            }
        }
        Ok(devices)
    }

    /// Collects the devices of all terms, unless they are too many.
    fn collected(&self, chosen: &Chosen<'_>, after: Option<&DeviceId>) -> Result<BTreeSet<DeviceId>, Unusable> {
        let any = entry::any_value(chosen.number);
        let ranges = chosen.ranges.iter().map(|range| {
            let (from, to) = bounds(&chosen.prefix, range);
            (from, to, chosen.prefix.len())
        });
        let ranges = ranges.chain([(any.clone(), [any.as_slice(), &[0xFF]].concat(), any.len())]);
        let (mut devices, mut read) = (BTreeSet::new(), 0);
        for (from, to, length) in ranges.filter(|(from, to, _)| from < to) {
            for item in self.table.range(from.as_slice()..to.as_slice())? {
                let (key, _) = item?;
                read += 1;
                self.add_read(1);
                if read > COLLECTED_MAX {
                    return Err(Unusable::Unsuited);
                }
                let end = key.value().get(length..).unwrap_or_default();
                // The entries that stand for any value have no term.
                let name = if from == any { end } else { entry::split(end)?.1 };
                let found = device(name)?;
                if after.is_none_or(|after| found > *after) && DeviceSpan::any_has(chosen.spans, &found) {
                    devices.insert(found);
                }
            }
        }
        Ok(devices)
    }

    /// Adds the devices with a shadow that has no entry for each value at `path`.
    fn add_any_value(&self, path: &ValuePath, devices: &mut BTreeSet<DeviceId>) -> Result<(), Unusable> {
        let (number, ..) = self.state.find(path).ok_or(Unusable::Unsuited)?;
        let (from, to) = (entry::any_value(number), [entry::any_value(number).as_slice(), &[0xFF]].concat());
        for item in self.table.range(from.as_slice()..to.as_slice())? {
            devices.insert(device(&name_of(item?.0.value(), from.len()))?);
            self.add_read(1);
            if devices.len() > STALE_MAX {
                return Err(Unusable::Unsuited);
            }
        }
        Ok(())
    }

    /// Calls `visit` for the entries of a path, without those of the devices in `stale`, until it breaks.
    fn each_value(
        &self,
        path: &ValuePath,
        stale: &HashSet<&str>,
        visit: &mut dyn FnMut(ValueGroup<'_>) -> ControlFlow<()>,
    ) -> Result<(), Unusable> {
        let (number, indexed, below) = self.state.find(path).ok_or(Unusable::Unsuited)?;
        let prefix = entry::prefix(number, indexed, below.iter().map(|key| &**key));
        if entry::is_hashed(&prefix) {
            return Err(Unusable::Unsuited);
        }
        // After the entries that stand for any value, which have no term: the devices of those are in `stale`.
        let (from, to) = ([prefix.as_slice(), &[term::FIRST]].concat(), [prefix.as_slice(), &[0xFF]].concat());
        // The encoded values of the last entries, and their numbers.
        let (mut last, mut devices, mut first) = (Vec::new(), 0, 0);
        for item in self.table.range::<&[u8]>((Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice())))? {
            let (key, value) = item?;
            self.add_read(1);
            let end = key.value().get(prefix.len()..).unwrap_or_default();
            if term::is_second(end) {
                break;
            }
            if !stale.is_empty() && stale.contains(entry::device(entry::split(end)?.1)?) {
                continue;
            }
            let EntryValue { is_first, values } = EntryValue::decode(value.value())?;
            let values = values.ok_or(Unusable::Unsuited)?;
            if values != last.as_slice() {
                if devices > 0 && visit(ValueGroup { values: &entry::values(&last)?, devices, first }).is_break() {
                    return Ok(());
                }
                values.clone_into(&mut last);
                (devices, first) = (0, 0);
            }
            devices += 1;
            first += u64::from(is_first);
        }
        if devices > 0 {
            let _complete = visit(ValueGroup { values: &entry::values(&last)?, devices, first });
        }
        Ok(())
    }
}

impl Chosen<'_> {
    /// Returns the keys up to the end of the term, of each range with a single term, and of the entries that stand for any value.
    fn single_terms(&self) -> BTreeSet<Vec<u8>> {
        let terms = self.ranges.iter().map(|range| [self.prefix.as_slice(), &range.from].concat());
        terms.chain([entry::any_value(self.number)]).collect()
    }
}

/// Returns the first key and the key after the last one of a range of terms.
fn bounds(prefix: &[u8], range: &TermRange) -> (Vec<u8>, Vec<u8>) {
    ([prefix, range.from.as_slice()].concat(), [prefix, range.through.as_slice(), &[0xFF]].concat())
}

/// Returns the key of the shadow after the first `length` bytes.
fn name_of(key: &[u8], length: usize) -> Vec<u8> {
    key.get(length..).unwrap_or_default().to_vec()
}

fn device(name: &[u8]) -> Result<DeviceId, Unusable> {
    DeviceId::new(entry::device(name)?).map_err(|_| Unusable::Damaged(DecodeError::Invalid("a device id")))
}
