//! Scans of the devices that a reader may see, for searches, aggregates and live queries.
//!
//! The shadows are read in key order, in pieces ([`crate::engine::scan`]), and joined to devices. Each piece takes a turn of
//! the reader and runs on a blocking thread. Between two pieces the rights are renewed, and the work is charged: a reader
//! above its rate waits. Besides, a scan rests in proportion to what is written meanwhile. So it delays neither the writer
//! nor other callers.
//!
//! If an index has a path of the query, only the devices are read that it proposes. Each is tested as in any scan. Neither its time nor its
//! work depends on the values of devices that the reader may not see.
//!
//! Only the paths that the visitor needs are decoded of a document. A visitor that has found a device may have more of it
//! decoded, from the same records.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    admission::work,
    auth::{self, Access, DeviceRange, DeviceSet},
    engine::scan::{RangesLookup, ScanPiece},
    fleet::{Device, Needs, Query},
    search::{
        FleetSearch, Reader,
        visible::{add_shadow, charged_work, scan_work},
    },
    shadow::{DeviceId, Document, Rejection, ShadowKey, ShadowName, index::IndexLookup},
    store::{PartDecoder, Proposed, ScannedShadows},
};

/// The time after which a request that needs all shadows fails. Clients wait for half a minute.
pub(crate) const WHOLE_TIME: Duration = Duration::from_secs(20);
/// Shadows of a piece, which takes some milliseconds.
const PIECE: usize = 1000;
/// Devices that an index proposes for a piece.
const PROPOSED: usize = 250;
/// Most ranges of devices; with more, the shadows of all devices are read.
const RANGES_MAX: usize = 1024;

/// A consumer of the devices of a scan.
pub(crate) trait DeviceVisitor: Send + 'static {
    /// Returns the parts of a device that [`DeviceVisitor::visit`] reads.
    fn needs(&self) -> Arc<Needs>;

    /// Takes a device with at least one shadow, as far as `reader` may see it. `again` returns the same with other parts.
    fn visit(&mut self, reader: &Access, device: Device, again: &mut dyn FnMut(&Needs) -> Device);

    /// Returns true if the scan ends before the next device.
    fn has_enough(&self) -> bool;

    /// Returns true if it never has enough, unless it fails. Then the shadows of a piece are decoded at once.
    fn needs_all(&self) -> bool;
}

/// The devices of a scan, and its end.
#[derive(Debug)]
pub(crate) struct DeviceScan<'a> {
    /// The query, by whose length the work is charged.
    pub(crate) query: Option<&'a Query>,
    /// The ranges of devices, disjoint and in order; `None` for all that the reader may see.
    pub(crate) devices: Option<Vec<DeviceRange>>,
    /// The key after which the scan begins.
    pub(crate) after: Option<ShadowKey>,
    /// The time at which it ends.
    pub(crate) until: Instant,
}

/// The result of a scan.
#[derive(Debug)]
pub(crate) struct Scanned<V> {
    /// The visitor.
    pub(crate) visitor: V,
    /// The last device that was read, and true if the reader may see a shadow of it.
    pub(crate) last: Option<(DeviceId, bool)>,
    /// The reason for which it ended.
    pub(crate) end: ScanEnd,
    /// The time for which the reader is above its rate of work.
    pub(crate) wait: Duration,
}

/// The reason for which a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanEnd {
    /// All shadows were read.
    Complete,
    /// The visitor has enough.
    Enough,
    /// Its time is over.
    TimeOver,
}

/// The reason for which a scan failed.
#[derive(Debug)]
pub(crate) enum ScanFailure {
    /// The reader has no rights any more.
    Unauthorized,
    /// The shadows cannot be read.
    Rejected(Rejection),
}

/// The devices that are joined from the shadows of a scan.
struct Joined<V> {
    visitor: V,
    needs: Arc<Needs>,
    decoders: Vec<PartDecoder>,
    last: Option<(DeviceId, bool)>,
    /// True once the visitor had enough before a next device.
    is_enough: bool,
}

/// Reads the shadows of a scan to its end and passes the devices to `visitor`. Reads at least one piece, whatever the time.
///
/// # Errors
///
/// A [`ScanFailure`].
pub(crate) async fn scan<V: DeviceVisitor>(
    search: &FleetSearch,
    reader: &mut impl Reader,
    scan: DeviceScan<'_>,
    visitor: V,
) -> Result<Scanned<V>, ScanFailure> {
    let DeviceScan { query, devices, mut after, until } = scan;
    let named = query.and_then(Query::device_texts).map(DeviceRange::of_texts);
    let needs_all = visitor.needs_all();
    let mut proposals = Proposals::new(query.filter(|_| devices.is_none()), needs_all, after.as_ref());
    let mut courtesy = search.service.courtesy(needs_all.then_some(until));
    let (needs, decoders) = (visitor.needs(), vec![PartDecoder::default()]);
    let mut joined = Joined { visitor, needs, decoders, last: None, is_enough: false };
    let (end, wait) = loop {
        if !reader.renew(&search.authority) {
            return Err(ScanFailure::Unauthorized);
        }
        let access = reader.access().clone();
        let quota = search.quota(&access);
        let visible = || access.devices(auth::Operation::Get, RANGES_MAX);
        let ranges = common(devices.clone().or_else(visible), named.as_deref());
        let proposed = proposals.next(search, &access, ranges.as_deref()).await.map_err(ScanFailure::Rejected)?;
        let (batch, proposal_work) = proposed;
        let ranges = match &batch {
            Some(batch) => common(ranges, Some(&batch.devices)),
            None => ranges,
        };
        let turn = search.read_turn(&quota).await;
        let piece = ScanPiece { ranges, after, limit: PIECE };
        joined.decoders.resize_with(courtesy.threads(), PartDecoder::default);
        let of_piece = access.clone();
        let scanned = search.service.scan(piece, turn, move |shadows| joined.with(&of_piece, shadows)).await;
        let scanned = scanned.map_err(ScanFailure::Rejected)?;
        let expected = scan_work(query, scanned.read) + proposal_work;
        let work = charged_work(expected, scanned.worked);
        let wait = quota.charge_work(work, Instant::now()).unwrap_or_default();
        joined = scanned.visited;
        let next = match (batch, scanned.next) {
            (None, next) => next,
            (Some(batch), None) => batch.through.as_ref().map(last_key),
            (Some(batch), Some(next)) => {
                proposals.put_back(batch, &next.device);
                Some(next)
            }
        };
        match next {
            _ if joined.is_enough => break (ScanEnd::Enough, wait),
            None => break (ScanEnd::Complete, wait),
            next => after = next,
        }
        let wait = wait.max(search.service.rest_after(scanned.read, scanned.took, &mut courtesy));
        if Instant::now() + wait >= until {
            joined.pass(after.as_ref());
            break (ScanEnd::TimeOver, wait);
        }
        tokio::time::sleep(wait).await;
    };
    Ok(Scanned { visitor: joined.visitor, last: joined.last, end, wait })
}

/// Returns the largest possible key of a shadow of `device`.
pub(crate) fn last_key(device: &DeviceId) -> ShadowKey {
    let name = ShadowName::new(&"z".repeat(64)).expect("z is the last character of the alphabet of names");
    ShadowKey::named(device.clone(), name)
}

/// Returns the devices that are in both; `None` are all devices.
fn common(ranges: Option<Vec<DeviceRange>>, others: Option<&[DeviceRange]>) -> Option<Vec<DeviceRange>> {
    match (ranges, others) {
        (Some(ranges), Some(others)) => Some(DeviceRange::intersection(&ranges, others)),
        (ranges, others) => ranges.or_else(|| others.map(<[DeviceRange]>::to_vec)),
    }
}

/// The devices that an index proposes for a scan, in batches.
struct Proposals {
    /// The searches of the index; none if no index helps.
    lookups: Vec<IndexLookup>,
    /// True if the scan needs all devices: then they are proposed at once, or not at all.
    needs_all: bool,
    /// The devices that were proposed and not read.
    found: VecDeque<DeviceId>,
    /// The device after which the index is searched next.
    after: Option<DeviceId>,
    /// True once the index has no other device.
    is_complete: bool,
}

/// Some devices that an index proposes.
struct Batch {
    devices: Vec<DeviceRange>,
    /// The device up to which all proposed ones are in this batch or were in others; `None` if there are no others.
    through: Option<DeviceId>,
}

impl Proposals {
    /// Returns the proposals for `query` after the device of `after`.
    fn new(query: Option<&Query>, needs_all: bool, after: Option<&ShadowKey>) -> Self {
        let lookups = query.map(Query::lookups).unwrap_or_default();
        let after = after.map(|key| key.device.clone());
        Self { lookups, needs_all, found: VecDeque::new(), after, is_complete: false }
    }

    /// Returns the next devices, `None` if all devices of `ranges` have to be read, and the work of finding them.
    async fn next(
        &mut self,
        search: &FleetSearch,
        access: &Access,
        ranges: Option<&[DeviceRange]>,
    ) -> Result<(Option<Batch>, u64), Rejection> {
        let are_few = ranges.is_some_and(|ranges| ranges.iter().all(|range| range.device().is_some()));
        if self.lookups.is_empty() || (are_few && self.found.is_empty() && !self.is_complete) {
            return Ok((None, 0));
        }
        let mut read_entries = 0;
        if self.found.is_empty() && !self.is_complete {
            // Only the devices whose value the reader may see, if ranges can say that.
            let lookups = self.lookups.iter().filter_map(|lookup| {
                let (visible, is_confined) = match access.devices_with(&lookup.path, RANGES_MAX)? {
                    DeviceSet::All => (None, false),
                    DeviceSet::Ranges(visible) => (Some(visible), true),
                };
                Some(RangesLookup { lookup: lookup.clone(), ranges: common(visible, ranges), is_confined })
            });
            let (lookups, limit) = (lookups.collect(), (!self.needs_all).then_some(PROPOSED));
            let turn = search.read_turn(&search.quota(access)).await;
            let ranges = ranges.map(<[DeviceRange]>::to_vec);
            let found = search.service.propose(lookups, ranges, self.after.clone(), limit, turn).await?;
            let (found, read) = found;
            read_entries = read;
            let Some(Proposed { devices, next }) = found else {
                self.lookups.clear();
                return Ok((None, work::times(read_entries, 1) / work::STEPS_PER_UNIT));
            };
            (self.found, self.is_complete) = (devices.into(), next.is_none());
            self.after = next.or(self.after.take());
        }
        let devices: Vec<_> = self.found.drain(..self.found.len().min(PROPOSED)).collect();
        let through = match (self.found.is_empty(), self.is_complete) {
            (false, _) => devices.last().cloned(),
            (true, false) => self.after.clone(),
            (true, true) => None,
        };
        let work = work::times(devices.len(), 1) + work::times(read_entries, 1) / work::STEPS_PER_UNIT;
        Ok((Some(Batch { devices: devices.into_iter().map(DeviceRange::One).collect(), through }), work))
    }

    /// Takes the devices of `batch` after `last` again, which were not read.
    fn put_back(&mut self, batch: Batch, last: &DeviceId) {
        for range in batch.devices.iter().rev().filter_map(DeviceRange::device).take_while(|device| *device > last) {
            self.found.push_front(range.clone());
        }
    }
}

impl<V: DeviceVisitor> Joined<V> {
    /// Passes over all devices up to that of `key`, which were read.
    fn pass(&mut self, key: Option<&ShadowKey>) {
        if let Some(ShadowKey { device, .. }) = key
            && self.last.as_ref().is_none_or(|(last, _)| last < device)
        {
            self.last = Some((device.clone(), false));
        }
    }

    /// Visits the devices of `shadows`, which follow the ones before.
    fn with(mut self, reader: &Access, shadows: &ScannedShadows) -> Self {
        let decoded = match self.decoders.as_mut_slice() {
            several @ [_, _, ..] if self.visitor.needs_all() => decode(shadows, &self.needs, several),
            _ => Vec::new(),
        };
        let mut next = 0;
        while let Some(id) = shadows.key(next).map(|key| key.device.clone()) {
            let first = next;
            while shadows.key(next).is_some_and(|key| key.device == id) {
                next += 1;
            }
            let records = first..next;
            let Self { visitor, needs: first_needs, decoders, .. } = &mut self;
            let mut part = |needs: &Needs| {
                let is_first = std::ptr::eq(needs, &**first_needs);
                let mut device = Device::new(id.clone());
                let mut exists = false;
                for index in records.clone() {
                    let Some(key) = shadows.key(index) else { continue };
                    let document = match decoded.get(index).filter(|_| is_first) {
                        Some(decoded) => decoded.clone(),
                        None => decoders.first_mut().and_then(|decoder| document(shadows, index, needs, decoder)),
                    };
                    if let Some(document) = document {
                        exists = true;
                        add_shadow(&mut device, reader, key, &document, needs.shadow(key.name.as_ref()));
                    }
                }
                exists.then_some(device)
            };
            let Some(device) = part(first_needs) else { continue };
            if visitor.has_enough() {
                self.is_enough = true;
                return self;
            }
            let is_visible = device.shadow_count > 0;
            if is_visible {
                let mut again = |needs: &Needs| part(needs).unwrap_or_else(|| Device::new(id.clone()));
                visitor.visit(reader, device, &mut again);
            }
            self.last = Some((id, is_visible));
        }
        self
    }
}

/// Returns the needed parts of the document of a shadow; `None` if it does not exist.
fn document(shadows: &ScannedShadows, index: usize, needs: &Needs, decoder: &mut PartDecoder) -> Option<Arc<Document>> {
    let needed = needs.shadow(shadows.key(index)?.name.as_ref());
    shadows.document(index, &needed.selection, decoder)
}

/// Returns the needed parts of all documents, which a thread for each decoder decodes; nothing if there is no thread for it.
fn decode(shadows: &ScannedShadows, needs: &Needs, decoders: &mut [PartDecoder]) -> Vec<Option<Arc<Document>>> {
    let share = shadows.len().div_ceil(decoders.len()).max(1);
    let mut documents = vec![None; shadows.len()];
    let has_begun = thread::scope(|scope| {
        let shares = documents.chunks_mut(share).zip(decoders).enumerate();
        // The first share, after the others have begun, is that of this thread.
        shares.rev().all(|(number, (part, decoder))| {
            let decode = move || {
                for (index, place) in (number * share..).zip(part) {
                    *place = document(shadows, index, needs, decoder);
                }
            };
            if number > 0 {
                return thread::Builder::new().spawn_scoped(scope, decode).is_ok();
            }
            decode();
            true
        })
    });
    if has_begun { documents } else { Vec::new() }
}
