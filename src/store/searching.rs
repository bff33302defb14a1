//! The reads of searches: scans, and the searches of the index.

use std::ops::ControlFlow;

use crate::{
    shadow::{ShadowKey, index::ValuePath, name::DeviceId},
    store::{
        error::StoreError,
        handle::Store,
        index::lookup::{DeviceLookup, IndexedDevices, Proposed, ValueGroup},
        scan::{DeviceSpan, ScannedShadows},
    },
};

impl<C: Send + 'static> Store<C> {
    /// Returns the newest committed state of the shadows of the devices in `spans`, which are disjoint and in order, after
    /// `after`, including deleted ones, and keeps none in memory. They are at most `limit`, unless one device has more, and
    /// all shadows of each of these devices. Passes over damaged pages. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`], except for damaged documents.
    pub fn scan(
        &self,
        spans: &[DeviceSpan],
        after: Option<&ShadowKey>,
        limit: usize,
    ) -> Result<ScannedShadows, StoreError> {
        self.shared().scan(spans, after, limit)
    }

    /// Returns devices in `spans` after `after`, in order, among which are all with a shadow that has a value in one of `lookups`,
    /// which is chosen: about the first `limit`, or all without a limit. `None` if no index helps: the paths have none, or it is
    /// not complete yet, or the devices are many. They are only proposed; their documents have to be tested. Besides, returns
    /// the number of entries of the index that were read. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn propose(
        &self,
        lookups: &[DeviceLookup],
        spans: &[DeviceSpan],
        after: Option<&DeviceId>,
        limit: Option<usize>,
    ) -> Result<(Option<Proposed>, usize), StoreError> {
        self.shared().propose(lookups, spans, after, limit)
    }

    /// Calls `visit` with the values at `path` in all devices, by the index and without those that it does not know in their newest
    /// state, until it breaks. Without a path, only counts the devices. `None` if the index does not have them all: then the calls
    /// count for nothing. Besides, returns the number of entries of the index that were read. Reads the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn indexed_values(
        &self,
        path: Option<&ValuePath>,
        visit: &mut dyn FnMut(ValueGroup<'_>) -> ControlFlow<()>,
    ) -> Result<(Option<IndexedDevices>, usize), StoreError> {
        self.shared().indexed_values(path, visit)
    }
}
