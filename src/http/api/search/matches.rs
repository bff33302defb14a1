//! The matches of a search.

use std::sync::Arc;

use super::{ParsedSearch, cursor};
use crate::{
    admission::Charge,
    auth::Access,
    engine::changes::memory,
    fleet::{Device, Needs, order::FirstMatches},
    http::state::Api,
    search::{scan::DeviceVisitor, visible::set_presence},
    shadow::{Rejection, Timestamp},
    wire::{DeviceEntry, FoundDevice},
};

/// The bytes of devices with which a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of a device beside its fields, and of a field beside its value.
const DEVICE_BYTES: usize = 256;
const FIELD_BYTES: usize = 64;

/// The matches so far.
pub(super) struct Matches {
    api: Arc<Api>,
    search: Arc<ParsedSearch>,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    first: FirstMatches<FoundDevice>,
    total: usize,
    charge: Charge,
    refused: Option<Rejection>,
}

impl DeviceVisitor for Matches {
    fn needs(&self) -> Arc<Needs> {
        Arc::clone(&self.search.examined)
    }

    fn visit(&mut self, reader: &Access, mut device: Device, again: &mut dyn FnMut(&Needs) -> Device) {
        self.examine(reader, &mut device, again);
    }

    fn has_enough(&self) -> bool {
        let is_full = self.first.len() >= self.search.limit || self.first.is_large();
        self.refused.is_some() || (!self.search.needs_all() && is_full)
    }

    fn needs_all(&self) -> bool {
        self.search.needs_all()
    }
}

impl Matches {
    pub(super) fn new(api: &Arc<Api>, search: &Arc<ParsedSearch>, charge: Charge) -> Self {
        // One more shows that there is another page.
        let limit = search.limit + usize::from(search.needs_all());
        let (api, search, now) = (api.clone(), search.clone(), api.now());
        Self { api, search, now, first: FirstMatches::new(limit, PAGE_BYTES), total: 0, charge, refused: None }
    }

    /// Returns the reason for which the matches were not kept.
    pub(super) fn refused(&self) -> Option<&Rejection> {
        self.refused.as_ref()
    }

    /// Returns the number of all matches, if all shadows were read.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Returns the cursor after the last match of the page, if there may be another one and all shadows were read.
    pub(super) fn last_place(&self) -> Option<String> {
        let place = self.first.place(self.first.len().min(self.search.limit).checked_sub(1)?)?;
        let more = self.first.len() > self.search.limit || self.first.is_large();
        more.then(|| match self.search.order.is_natural() {
            true => place.device().as_str().to_owned(),
            false => cursor::of_place(place),
        })
    }

    /// Returns the devices of the page.
    pub(super) fn into_page(self) -> Vec<FoundDevice> {
        let mut matches = self.first.into_matches();
        matches.truncate(self.search.limit);
        matches
    }

    fn examine(&mut self, reader: &Access, device: &mut Device, again: &mut dyn FnMut(&Needs) -> Device) {
        let search = &self.search;
        let known = search.examined.presence().then(|| set_presence(device, reader, &*self.api.presence));
        if !search.query.as_ref().is_none_or(|query| query.matches(device, self.now)) {
            return;
        }
        self.total += 1;
        let place = search.order.place(device);
        if search.after.as_ref().is_some_and(|after| place <= *after) || !self.first.has_room_for(&place) {
            return;
        }
        let presence = device.presence;
        let mut device = again(&search.shown);
        let (connected, seen) = match known {
            Some(known) => {
                device.presence = presence;
                known
            }
            None => set_presence(&mut device, reader, &*self.api.presence),
        };
        let fields = search.fields.iter();
        let fields: Vec<_> = fields.filter_map(|(name, field)| Some((name.clone(), field.value(&device)?))).collect();
        let bytes = |(name, value): &(String, _)| FIELD_BYTES + name.len() + memory(value);
        let bytes = DEVICE_BYTES + fields.iter().map(bytes).sum::<usize>();
        let (id, drift, shadows) = (device.id.as_str().to_owned(), device.drift, device.shadow_count);
        let found = FoundDevice { device: DeviceEntry { id, connected, seen, drift, shadows }, fields };
        self.first.add(place, bytes, found);
        self.refused = self.api.service.quotas().grow(&mut self.charge, self.first.bytes()).err();
    }
}
