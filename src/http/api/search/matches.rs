//! The matches of a search, found shadow by shadow.

use std::sync::Arc;

use super::{ParsedSearch, cursor};
use crate::{
    fleet::{Device, Query as DeviceQuery, order::FirstMatches},
    http::{
        api::{
            Api,
            visible::{add_shadow, set_presence},
        },
        auth::caller::Caller,
    },
    shadow::{DeviceId, Document, ShadowKey, Timestamp},
    wire::{DeviceEntry, FoundDevice},
};

/// The matches so far.
pub(super) struct Matches {
    api: Arc<Api>,
    search: Arc<ParsedSearch>,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    /// The device whose shadows are read.
    current: Option<Device>,
    /// The last complete device, and true if its reader may see a shadow of it.
    last: Option<(DeviceId, bool)>,
    first: FirstMatches<FoundDevice>,
    total: usize,
    /// True once the next device would not have been on the page.
    is_full: bool,
    /// True once all shadows were read.
    is_complete: bool,
}

impl Matches {
    pub(super) fn new(api: &Arc<Api>, search: &Arc<ParsedSearch>) -> Self {
        // One more shows that there is another page.
        let limit = search.limit + usize::from(search.needs_all());
        Self {
            api: api.clone(),
            search: search.clone(),
            now: api.now(),
            current: None,
            last: None,
            first: FirstMatches::new(limit),
            total: 0,
            is_full: false,
            is_complete: false,
        }
    }

    /// Returns the matches with those among `shadows`, which follow the ones before.
    pub(super) fn with(mut self, reader: &Caller, shadows: Vec<(ShadowKey, Arc<Document>)>) -> Self {
        for (key, document) in shadows {
            if self.current.as_ref().is_none_or(|current| current.id != key.device) {
                self.complete(reader);
                if !self.search.needs_all() && self.first.len() >= self.search.limit {
                    self.is_full = true;
                    return self;
                }
                self.current = Some(Device::new(key.device.clone()));
            }
            if let Some(device) = &mut self.current {
                let is_kept = self.search.reads_shadow(&key);
                add_shadow(device, reader, key, &document, is_kept);
            }
        }
        self
    }

    /// Completes the last device, after which there is none.
    pub(super) fn end(&mut self, reader: &Caller) {
        self.complete(reader);
        self.is_complete = !self.is_full;
    }

    /// Returns true if the page is full.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Returns true if the next page can begin after what was read.
    pub(super) fn may_end_here(&self) -> bool {
        self.last.is_some()
    }

    /// Returns the number of all matches, if all shadows were read.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Returns the cursor of the next page, if there may be one.
    pub(super) fn cursor(&self, api: &Api, reader: &Caller) -> Option<String> {
        if self.search.needs_all() {
            let (place, _) = self.first.get(self.search.limit.checked_sub(1)?)?;
            let more = self.first.len() > self.search.limit;
            return more.then(|| match self.search.order.is_natural() {
                true => place.device().as_str().to_owned(),
                false => cursor::of_place(place),
            });
        }
        self.last.as_ref().filter(|_| !self.is_complete).map(|(device, is_visible)| match is_visible {
            true => device.as_str().to_owned(),
            false => api.cursors.seal(device, reader.principal()),
        })
    }

    /// Returns the devices of the page.
    pub(super) fn into_page(self) -> Vec<FoundDevice> {
        let matches = self.first.into_matches().into_iter();
        matches.take(self.search.limit).map(|(_, found)| found).collect()
    }

    /// Completes the current device, and adds it if it matches.
    fn complete(&mut self, reader: &Caller) {
        let Some(mut device) = self.current.take() else { return };
        let is_visible = device.shadow_count > 0;
        if is_visible {
            self.examine(reader, &mut device);
        }
        self.last = Some((device.id, is_visible));
    }

    fn examine(&mut self, reader: &Caller, device: &mut Device) {
        let search = &self.search;
        let mut known = None;
        if search.reads_presence() {
            known = Some(set_presence(device, reader, &self.api));
        }
        if !search.query.as_ref().is_none_or(|query| query.matches(device, self.now)) {
            return;
        }
        self.total += 1;
        let place = search.order.place(device);
        if search.after.as_ref().is_some_and(|after| place <= *after) || !self.first.has_room_for(&place) {
            return;
        }
        let (connected, seen) = known.unwrap_or_else(|| set_presence(device, reader, &self.api));
        let fields = search.fields.iter();
        let fields = fields.filter_map(|(name, field)| Some((name.clone(), field.value(device)?))).collect();
        let (id, drift, shadows) = (device.id.as_str().to_owned(), device.drift, device.shadow_count);
        self.first.add(place, FoundDevice { device: DeviceEntry { id, connected, seen, drift, shadows }, fields });
    }
}

impl ParsedSearch {
    /// Returns true if the query, a field or the order is about the shadow with this key.
    fn reads_shadow(&self, key: &ShadowKey) -> bool {
        let name = key.name.as_ref();
        let mut fields = self.fields.iter().map(|(_, field)| field).chain([self.order.field()]);
        self.query.as_ref().is_some_and(|query| query.reads_shadow(name))
            || fields.any(|field| field.reads_shadow(name))
    }

    /// Returns true if the query or the order is about the presence of a device.
    fn reads_presence(&self) -> bool {
        self.query.as_ref().is_some_and(DeviceQuery::reads_presence) || self.order.field().reads_presence()
    }
}
