//! Scans of the devices that a reader may see, for searches, aggregates and live queries.
//!
//! The shadows are read in key order, in pieces ([`crate::engine::scan`]), and joined to devices. Each piece takes a turn of
//! the reader and runs on a blocking thread. Between two pieces the rights are renewed, and the work is charged: a reader
//! above its rate waits. Besides, a scan rests in proportion to what is written meanwhile. So it delays neither the writer
//! nor other callers.
//!
//! Only the paths that the visitor needs are decoded of a document. A visitor that has found a device may have more of it
//! decoded, from the same records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    auth::{self, Access, DeviceRange},
    engine::scan::ScanPiece,
    fleet::{Device, Needs, Query},
    search::{
        FleetSearch, Reader,
        visible::{add_shadow, scan_work},
    },
    shadow::{DeviceId, Rejection, ShadowKey},
    store::{PartDecoder, ScannedShadows},
};

/// The time after which a request that needs all shadows fails. Clients wait for half a minute.
pub(crate) const WHOLE_TIME: Duration = Duration::from_secs(20);
/// Shadows of a piece, which takes some milliseconds.
const PIECE: usize = 1000;
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
    /// The last complete device, and true if the reader may see a shadow of it.
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
    decoder: PartDecoder,
    last: Option<(DeviceId, bool)>,
    /// True once the visitor had enough before a next device.
    is_enough: bool,
}

/// Reads the shadows of a scan to its end and passes the devices to `visitor`. Passes at least one, if there is one,
/// whatever the time.
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
    let (needs, decoder) = (visitor.needs(), PartDecoder::default());
    let mut joined = Joined { visitor, needs, decoder, last: None, is_enough: false };
    let mut courtesy = search.service.courtesy();
    let (end, wait) = loop {
        let turn = search.read_turn(&search.quota(reader.access())).await;
        if !reader.renew(&search.authority) {
            return Err(ScanFailure::Unauthorized);
        }
        let access = reader.access().clone();
        let quota = search.quota(&access);
        let visible = || access.devices(auth::Operation::Get, RANGES_MAX);
        let ranges = match (devices.clone().or_else(visible), &named) {
            (Some(visible), Some(named)) => Some(DeviceRange::intersection(&visible, named)),
            (visible, named) => visible.or_else(|| named.clone()),
        };
        let piece = ScanPiece { ranges, after, limit: PIECE };
        let of_piece = access.clone();
        let scanned = search.service.scan(piece, turn, move |shadows| joined.with(&of_piece, shadows)).await;
        let scanned = scanned.map_err(ScanFailure::Rejected)?;
        let work = scan_work(query, scanned.read);
        let wait = quota.charge_work(work, Instant::now()).unwrap_or_default();
        joined = scanned.visited;
        match scanned.next {
            _ if joined.is_enough => break (ScanEnd::Enough, wait),
            None => break (ScanEnd::Complete, wait),
            next => after = next,
        }
        let wait = wait.max(search.service.rest_after(scanned.took, &mut courtesy));
        if Instant::now() + wait >= until && joined.last.is_some() {
            break (ScanEnd::TimeOver, wait);
        }
        tokio::time::sleep(wait).await;
    };
    Ok(Scanned { visitor: joined.visitor, last: joined.last, end, wait })
}

impl<V: DeviceVisitor> Joined<V> {
    /// Visits the devices of `shadows`, which follow the ones before.
    fn with(mut self, reader: &Access, shadows: &ScannedShadows) -> Self {
        let mut next = 0;
        while let Some(id) = shadows.key(next).map(|key| key.device.clone()) {
            let first = next;
            while shadows.key(next).is_some_and(|key| key.device == id) {
                next += 1;
            }
            let records = first..next;
            let Self { visitor, needs, decoder, .. } = &mut self;
            let mut part = |needs: &Needs| {
                let mut device = Device::new(id.clone());
                let mut exists = false;
                for index in records.clone() {
                    let Some(key) = shadows.key(index) else { continue };
                    let needed = needs.shadow(key.name.as_ref());
                    if let Some(document) = shadows.document(index, &needed.selection, decoder) {
                        exists = true;
                        add_shadow(&mut device, reader, key, &document, needed);
                    }
                }
                exists.then_some(device)
            };
            let Some(device) = part(needs) else { continue };
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
