//! Scans: the newest documents of ranges of devices, from one snapshot, without decoding what is not needed.
//!
//! A scan copies the records of the state table, in key order. In their place it takes the documents of the shadows that are
//! newer than the table, from the cache. The shadows that are newer are looked up first, then their documents, and then the
//! snapshot begins: a document that was flushed in between, and perhaps evicted, is in the snapshot. So each document is as
//! new as the one that any other read would have returned when the scan began, and the writer waits for no scan.
//!
//! Decoding is left to the caller, who knows the paths that it needs and may do it on several threads.

use std::{
    fmt,
    iter::Peekable,
    ops::{Bound, Range},
    sync::Arc,
    vec,
};

use redb::ReadableTable;

use crate::{
    shadow::{Document, ShadowKey, name::DeviceId, selection::Selection},
    store::{
        database::{AbortCause, Database, SoundSpan},
        error::StoreError,
        journal::unapplied::UnappliedShadow,
        pages::check::CheckedTable,
        reader::{PAGE_BYTES_MAX, Shared},
        schema::{self, STATE_TABLE},
        state::{
            cache::Form,
            dictionary::Dictionaries,
            part::PartDecoder,
            record::{self, STATE},
        },
    },
};

/// Devices that are neighbours in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpan {
    /// All devices.
    All,
    /// One device.
    One(DeviceId),
    /// The devices whose id begins with this one.
    Prefix(DeviceId),
}

/// The shadows of some devices.
pub struct ScannedShadows {
    shadows: Vec<Scanned>,
    /// The records of the state table, one after the other.
    records: Vec<u8>,
    dictionaries: Arc<Dictionaries>,
    next: Option<ShadowKey>,
}

struct Scanned {
    key: ShadowKey,
    form: ScannedForm,
}

enum ScannedForm {
    Decoded(Arc<Document>),
    Kept(Arc<[u8]>),
    Unapplied(Arc<UnappliedShadow>),
    Record(Range<usize>),
}

/// A shadow that is newer than the state table.
struct Newer {
    name: Vec<u8>,
    key: ShadowKey,
    form: Form,
}

/// A scan under way.
struct Scan<'a> {
    found: ScannedShadows,
    /// The newer shadows that come next, in key order.
    newer: Peekable<vec::IntoIter<Newer>>,
    /// The last shadow of the last device of which the newer shadows are known; `None` if all are.
    horizon: Option<ShadowKey>,
    limit: usize,
    database: &'a Database,
}

/// The reason for which a scan of a span ends.
#[derive(PartialEq, Eq)]
enum SpanEnd {
    /// All of its shadows were read.
    Complete,
    /// The limit is reached.
    Full,
}

impl DeviceSpan {
    /// Returns the bytes below the keys of the span and above all others before them; empty for the beginning.
    pub(super) fn before(&self) -> &[u8] {
        match self {
            Self::All => &[],
            // No key is without a NUL after the device.
            Self::One(device) | Self::Prefix(device) => device.as_str().as_bytes(),
        }
    }

    /// Returns the bytes above the keys of the span, and below all others after them; `None` for the end.
    pub(super) fn end(&self) -> Option<Vec<u8>> {
        match self {
            Self::All => None,
            Self::One(device) => Some([device.as_str().as_bytes(), &[1]].concat()),
            Self::Prefix(device) => Some([device.as_str().as_bytes(), &[0xFF]].concat()),
        }
    }

    /// Returns true if `device` is in one of `spans`, which are disjoint and in order.
    pub(super) fn any_has(spans: &[Self], device: &DeviceId) -> bool {
        let next = spans.partition_point(|span| span.is_before(device));
        spans.get(next).is_some_and(|span| span.has(device))
    }

    /// Returns true if `device` is in the span.
    pub(super) fn has(&self, device: &DeviceId) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == device,
            Self::Prefix(prefix) => device.as_str().starts_with(prefix.as_str()),
        }
    }

    /// Returns true if no device of the span is after `device`.
    pub(super) fn ends_by(&self, device: &DeviceId) -> bool {
        matches!(self, Self::One(one) if one == device) || self.is_before(device)
    }

    /// Returns true if all of the span is before `device`.
    fn is_before(&self, device: &DeviceId) -> bool {
        match self {
            Self::All => false,
            Self::One(one) => one < device,
            Self::Prefix(prefix) => prefix < device && !device.as_str().starts_with(prefix.as_str()),
        }
    }
}

impl ScannedShadows {
    /// Returns the number of shadows, including deleted ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shadows.len()
    }

    /// Returns true if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shadows.is_empty()
    }

    /// Returns the key after which the next scan begins; `None` at the end.
    #[must_use]
    pub fn next(&self) -> Option<&ShadowKey> {
        self.next.as_ref()
    }

    /// Returns the shadow with this number, from 0, in key order.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<&ShadowKey> {
        self.shadows.get(index).map(|shadow| &shadow.key)
    }

    /// Returns the shadows in key order.
    pub fn keys(&self) -> impl Iterator<Item = &ShadowKey> {
        self.shadows.iter().map(|shadow| &shadow.key)
    }

    /// Returns the document of the shadow with this number, with the selected parts at least, and without stamps unless
    /// everything is selected. `None` for a shadow that does not exist, or whose record is damaged, which is logged.
    #[must_use]
    pub fn document(&self, index: usize, selection: &Selection, decoder: &mut PartDecoder) -> Option<Arc<Document>> {
        let Scanned { key, form } = self.shadows.get(index)?;
        let record = match form {
            ScannedForm::Decoded(document) => return document.exists().then(|| Arc::clone(document)),
            ScannedForm::Unapplied(unapplied) => {
                let applied = unapplied.apply(key, &self.dictionaries).map(|stored| stored.document);
                return applied.map_or_else(damaged, Some).filter(|document| document.exists());
            }
            ScannedForm::Kept(record) => record,
            ScannedForm::Record(range) => self.records.get(range.clone()).unwrap_or_default(),
        };
        let (name, dictionaries) = (schema::state_key(key), &self.dictionaries);
        let decoded = match selection.is_everything() {
            true => record::decode(&name, record, dictionaries).map(|stored| Some(stored.document)),
            false => decoder.decode(&name, record, dictionaries, selection).map(|document| document.map(Arc::new)),
        };
        let document = decoded.unwrap_or_else(|error| damaged(StoreError::record(STATE, key, &error)));
        document.filter(|document| document.exists())
    }

    /// Removes the shadows of the last device, unless it is the only one, since it may have more. Returns false then.
    fn cut_last_device(&mut self) -> bool {
        let Some(last) = self.shadows.last().map(|shadow| shadow.key.device.clone()) else { return false };
        let before = self.shadows.iter().rposition(|shadow| shadow.key.device != last);
        self.shadows.truncate(before.map_or(self.shadows.len(), |index| index + 1));
        before.is_some()
    }
}

impl fmt::Debug for ScannedShadows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScannedShadows").field("shadows", &self.len()).field("next", &self.next).finish_non_exhaustive()
    }
}

/// Logs a damaged shadow, and returns `None`.
fn damaged<T>(error: StoreError) -> Option<T> {
    tracing::error!(%error, "a damaged shadow is skipped");
    None
}

impl Shared {
    /// Returns the shadows of the devices in `spans`, which are disjoint and in order, after `after`: at most `limit`, including
    /// deleted ones, and all of a device if one of it. Passes over damaged pages.
    pub(super) fn scan(
        &self,
        spans: &[DeviceSpan],
        after: Option<&ShadowKey>,
        limit: usize,
    ) -> Result<ScannedShadows, StoreError> {
        let first = spans.iter().position(|span| after.is_none_or(|after| !span.is_before(&after.device)));
        let spans = spans.get(first.unwrap_or(spans.len())..).unwrap_or_default();
        // Read in this order, the snapshot has a document that is not in memory.
        let limit = limit.max(1);
        let (newer, horizon) = self.unflushed.within(spans, after, limit);
        let newer: Vec<_> = newer.into_iter().filter_map(|key| self.newer(key)).collect();
        let database = self.database.get()?;
        let found = ScannedShadows {
            shadows: Vec::new(),
            records: Vec::new(),
            dictionaries: Arc::clone(&self.dictionaries),
            next: None,
        };
        let mut scan = Scan { found, newer: newer.into_iter().peekable(), horizon, limit, database: &database };
        database.read(|transaction| {
            let table = transaction.open_table(STATE_TABLE)?;
            for span in spans {
                if scan.span(&table, span, after)? == SpanEnd::Full {
                    let last = scan.found.shadows.last().map(|last| last.key.clone());
                    scan.found.next = last.or_else(|| scan.horizon.clone());
                    break;
                }
            }
            Ok(())
        })?;
        Ok(scan.found)
    }

    fn newer(&self, key: ShadowKey) -> Option<Newer> {
        let form = self.cache.kept(&key)?;
        Some(Newer { name: schema::state_key(&key), key, form })
    }
}

impl Scan<'_> {
    /// Reads the shadows of a span.
    fn span(
        &mut self,
        table: &impl ReadableTable<&'static [u8], &'static [u8]>,
        span: &DeviceSpan,
        after: Option<&ShadowKey>,
    ) -> Result<SpanEnd, AbortCause> {
        let end = span.end();
        let begun = after.filter(|after| span.has(&after.device));
        let mut from = begun.map_or_else(|| span.before().to_vec(), schema::state_key);
        loop {
            let left = self.limit.saturating_sub(self.found.len()).max(1);
            let sound = self.database.check_scan(CheckedTable::State, from, left, true)?;
            let Some(sound) = sound else { break };
            let (read, is_full) = self.sound_span(table, &sound, end.as_deref(), left)?;
            if is_full {
                return Ok(SpanEnd::Full);
            }
            from = match (read, sound.end) {
                // Only so many were checked.
                (Some(last), _) => last,
                // The damaged page is next.
                (None, Some(damaged)) if end.as_ref().is_none_or(|end| damaged < *end) => damaged,
                (None, _) => break,
            };
        }
        // The new shadows at the end.
        while let Some(newer) = self.newer.next_if(|newer| end.as_ref().is_none_or(|end| newer.name < *end)) {
            if !self.has_room_for(&newer.key.device) {
                return Ok(SpanEnd::Full);
            }
            self.add_newer(newer);
        }
        match &self.horizon {
            Some(horizon) if !span.ends_by(&horizon.device) => Ok(SpanEnd::Full),
            _ => Ok(SpanEnd::Complete),
        }
    }

    /// Reads the shadows in `sound` before `end`, of which `left` records were checked. Returns the key of the last record if
    /// there may be more, and true once the limit is reached.
    fn sound_span(
        &mut self,
        table: &impl ReadableTable<&'static [u8], &'static [u8]>,
        sound: &SoundSpan,
        end: Option<&[u8]>,
        left: usize,
    ) -> Result<(Option<Vec<u8>>, bool), AbortCause> {
        let to = match (sound.end.as_deref(), end) {
            (Some(sound), Some(end)) if sound >= end => Bound::Excluded(end),
            (Some(sound), _) => Bound::Included(sound),
            (None, Some(end)) => Bound::Excluded(end),
            (None, None) => Bound::Unbounded,
        };
        // The key itself may lead to a damaged page that ends with it. This is the next key.
        let after = [sound.after.as_slice(), &[0]].concat();
        let (mut read, mut last) = (0, sound.after.clone());
        for item in table.range::<&[u8]>((Bound::Included(after.as_slice()), to))?.take(left) {
            let (name, value) = item?;
            let (name, value) = (name.value(), value.value());
            // The end of the span may be in the damaged page, whose keys may be in any order.
            if name <= last.as_slice() {
                break;
            }
            name.clone_into(&mut last);
            read += 1;
            while let Some(newer) = self.newer.next_if(|newer| newer.name.as_slice() < name) {
                if !self.has_room_for(&newer.key.device) {
                    return Ok((None, true));
                }
                self.add_newer(newer);
            }
            let key = match self.newer.peek().filter(|newer| newer.name == name) {
                Some(newer) => newer.key.clone(),
                None => {
                    schema::shadow_key(name).map_err(|error| StoreError::record(STATE, name.escape_ascii(), &error))?
                }
            };
            if !self.has_room_for(&key.device) {
                return Ok((None, true));
            }
            match self.newer.next_if(|newer| newer.name == name) {
                Some(newer) => self.add_newer(newer),
                None => self.add_record(key, value),
            }
        }
        Ok(((read == left).then_some(last), false))
    }

    /// Returns false if the scan ends before a shadow of `device`.
    fn has_room_for(&mut self, device: &DeviceId) -> bool {
        let found = &mut self.found;
        if self.horizon.as_ref().is_some_and(|horizon| horizon.device < *device) {
            return false;
        }
        if found.len() < self.limit && found.records.len() < PAGE_BYTES_MAX {
            return true;
        }
        let is_of_last = found.shadows.last().is_some_and(|last| last.key.device == *device);
        // A device with more shadows than the limit is read whole.
        is_of_last && !found.cut_last_device()
    }

    fn add_record(&mut self, key: ShadowKey, value: &[u8]) {
        let records = &mut self.found.records;
        let begin = records.len();
        records.extend_from_slice(value);
        let form = ScannedForm::Record(begin..records.len());
        self.found.shadows.push(Scanned { key, form });
    }

    fn add_newer(&mut self, Newer { key, form, .. }: Newer) {
        let form = match form {
            Form::Decoded(stored) => ScannedForm::Decoded(stored.document),
            Form::Record(record) => ScannedForm::Kept(record),
            Form::Unapplied(unapplied) => ScannedForm::Unapplied(unapplied),
        };
        self.found.shadows.push(Scanned { key, form });
    }
}
