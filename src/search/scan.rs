//! Scans of the devices that a reader may see, for searches, aggregates and live queries.
//!
//! The shadows are read in key order, in pieces ([`crate::engine::scan`]), and joined to devices. Each piece takes a turn of
//! the reader and runs on a blocking thread. Between two pieces the rights are renewed, and the work is charged: a reader
//! above its rate waits. So a scan delays neither the writer nor other callers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    auth::{self, Access, DeviceRange},
    engine::scan::ScanPiece,
    fleet::{Device, Query},
    search::{
        FleetSearch, Reader,
        visible::{add_shadow, scan_work},
    },
    shadow::{DeviceId, Document, Rejection, ShadowKey, ShadowName},
};

/// The time after which a request that needs all shadows fails. Clients wait for half a minute.
pub(crate) const WHOLE_TIME: Duration = Duration::from_secs(20);
/// Shadows of a piece, which takes some milliseconds.
const PIECE: usize = 500;
/// Most ranges of devices; with more, the shadows of all devices are read.
const RANGES_MAX: usize = 1024;

/// A consumer of the devices of a scan.
pub(crate) trait DeviceVisitor: Send + 'static {
    /// Returns true if the document of the shadow with this name is needed; `None` is the name of the classic one.
    fn reads_shadow(&self, name: Option<&ShadowName>) -> bool;

    /// Takes a device with at least one shadow, as far as `reader` may see it.
    fn visit(&mut self, reader: &Access, device: Device);

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
    /// The device whose shadows are read.
    current: Option<Device>,
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
    let mut joined = Joined { visitor, current: None, last: None, is_enough: false };
    let (end, wait) = loop {
        let turn = search.read_turn(&search.quota(reader.access())).await;
        if !reader.renew(&search.authority) {
            return Err(ScanFailure::Unauthorized);
        }
        let access = reader.access().clone();
        let quota = search.quota(&access);
        let visible = || access.devices(auth::Operation::Get, RANGES_MAX);
        let ranges = devices.clone().or_else(visible);
        let piece = ScanPiece { ranges, after, limit: PIECE };
        let of_piece = access.clone();
        let scanned = search.service.scan(piece, turn, move |shadows| joined.with(&of_piece, shadows)).await;
        let scanned = scanned.map_err(ScanFailure::Rejected)?;
        let work = scan_work(query, scanned.read);
        let wait = quota.charge_work(work, Instant::now()).unwrap_or_default();
        joined = scanned.visited;
        if scanned.next.is_none() {
            joined.complete(&access);
        }
        match scanned.next {
            _ if joined.is_enough => break (ScanEnd::Enough, wait),
            None => break (ScanEnd::Complete, wait),
            next => after = next,
        }
        if Instant::now() + wait >= until && joined.last.is_some() {
            break (ScanEnd::TimeOver, wait);
        }
        tokio::time::sleep(wait).await;
    };
    Ok(Scanned { visitor: joined.visitor, last: joined.last, end, wait })
}

impl<V: DeviceVisitor> Joined<V> {
    /// Returns the devices with those among `shadows`, which follow the ones before.
    fn with(mut self, reader: &Access, shadows: Vec<(ShadowKey, Arc<Document>)>) -> Self {
        for (key, document) in shadows {
            if self.current.as_ref().is_none_or(|current| current.id != key.device) {
                self.complete(reader);
                if self.visitor.has_enough() {
                    self.is_enough = true;
                    return self;
                }
                self.current = Some(Device::new(key.device.clone()));
            }
            if let Some(device) = &mut self.current {
                let is_kept = self.visitor.reads_shadow(key.name.as_ref());
                add_shadow(device, reader, key, &document, is_kept);
            }
        }
        self
    }

    /// Completes the current device.
    fn complete(&mut self, reader: &Access) {
        let Some(device) = self.current.take() else { return };
        let is_visible = device.shadow_count > 0;
        self.last = Some((device.id.clone(), is_visible));
        if is_visible {
            self.visitor.visit(reader, device);
        }
    }
}
