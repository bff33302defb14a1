//! The matches of a search.

use std::sync::Arc;

use super::{ParsedSearch, cursor};
use crate::{
    auth::Access,
    fleet::{Device, Needs, order::FirstMatches},
    http::state::Api,
    search::{scan::DeviceVisitor, visible::set_presence},
    shadow::Timestamp,
    wire::{DeviceEntry, FoundDevice},
};

/// The matches so far.
pub(super) struct Matches {
    api: Arc<Api>,
    search: Arc<ParsedSearch>,
    /// The time for which ages are computed, the same for all devices.
    now: Timestamp,
    first: FirstMatches<FoundDevice>,
    total: usize,
}

impl DeviceVisitor for Matches {
    fn needs(&self) -> Arc<Needs> {
        Arc::clone(&self.search.examined)
    }

    fn visit(&mut self, reader: &Access, mut device: Device, again: &mut dyn FnMut(&Needs) -> Device) {
        self.examine(reader, &mut device, again);
    }

    fn has_enough(&self) -> bool {
        !self.search.needs_all() && self.first.len() >= self.search.limit
    }

    fn needs_all(&self) -> bool {
        self.search.needs_all()
    }
}

impl Matches {
    pub(super) fn new(api: &Arc<Api>, search: &Arc<ParsedSearch>) -> Self {
        // One more shows that there is another page.
        let limit = search.limit + usize::from(search.needs_all());
        Self { api: api.clone(), search: search.clone(), now: api.now(), first: FirstMatches::new(limit), total: 0 }
    }

    /// Returns the number of all matches, if all shadows were read.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Returns the cursor after the last match of the page, if there is another one and all shadows were read.
    pub(super) fn last_place(&self) -> Option<String> {
        let (place, _) = self.first.get(self.search.limit.checked_sub(1)?)?;
        let more = self.first.len() > self.search.limit;
        more.then(|| match self.search.order.is_natural() {
            true => place.device().as_str().to_owned(),
            false => cursor::of_place(place),
        })
    }

    /// Returns the devices of the page.
    pub(super) fn into_page(self) -> Vec<FoundDevice> {
        let matches = self.first.into_matches().into_iter();
        matches.take(self.search.limit).map(|(_, found)| found).collect()
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
        let fields = fields.filter_map(|(name, field)| Some((name.clone(), field.value(&device)?))).collect();
        let (id, drift, shadows) = (device.id.as_str().to_owned(), device.drift, device.shadow_count);
        self.first.add(place, FoundDevice { device: DeviceEntry { id, connected, seen, drift, shadows }, fields });
    }
}
