//! The shadows and devices that a filter selects, page by page. Their documents and presence are retained for a new
//! subscription.

use std::collections::BTreeSet;

use crate::{
    auth::DeviceRange,
    mqtt::{
        broker::presence::PresenceTable,
        protocol::topic::TopicFilter,
        shadow::{resync::step::Reader, topics::Event},
    },
    shadow::{DeviceId, Rejection, ShadowKey},
    store::Listed,
};

/// The shadows whose retained documents or deltas a filter selects.
pub(super) enum Documents {
    None,
    One(ShadowKey),
    /// Each shadow of this device has to be checked.
    Device(DeviceId),
    /// Each shadow has to be checked.
    Any,
}

impl Documents {
    pub(super) fn of(filter: &TopicFilter) -> Self {
        let text = filter.as_str();
        if !text.contains(['+', '#']) {
            let key = Event::RETAINED.into_iter().find_map(|event| event.key_of(text));
            return key.map_or(Self::None, Self::One);
        }
        let rendering = ["document", "delta"]
            .into_iter()
            .flat_map(|end| [vec!["shadow", "+", end], vec!["shadow", "+", "name", "+", end]]);
        if !rendering.into_iter().any(|shape| selects_any(text, &shape)) {
            return Self::None;
        }
        // Most filters of a fleet are `shadow/<id>/#`; they must not make each device check all others.
        let mut levels = text.split('/');
        match (levels.next(), levels.next().map(DeviceId::new)) {
            (Some("shadow"), Some(Ok(device))) => Self::Device(device),
            _ => Self::Any,
        }
    }

    /// Returns a page of shadows, from the beginning or after `after`, and the key to continue from.
    pub(super) async fn page(
        self,
        reader: Reader<'_>,
        after: Option<ShadowKey>,
    ) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
        let allowed = reader.devices();
        let ranges = match self {
            Self::None => return Ok((Vec::new(), None)),
            Self::One(key) => return Ok((vec![Listed { key, deleted: false }], None)),
            Self::Any => allowed,
            Self::Device(device) => {
                let is_allowed = allowed.is_none_or(|ranges| ranges.iter().any(|range| range.has(&device)));
                Some(is_allowed.then_some(DeviceRange::One(device)).into_iter().collect())
            }
        };
        page(reader, ranges, after).await
    }
}

/// Returns a page of the shadows of the devices in `ranges`, or of all, from the beginning or after `after`, and the key to
/// continue from.
pub(super) async fn page(
    reader: Reader<'_>,
    ranges: Option<Vec<DeviceRange>>,
    after: Option<ShadowKey>,
) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
    let service = &reader.broker.service;
    let Some(ranges) = ranges else {
        let page = service.list_in_turn(after, PAGE, reader.turn().await).await?;
        let next = page.last().filter(|_| page.len() == PAGE).map(|last| last.key.clone());
        return Ok((page, next));
    };
    match ranges.is_empty() {
        true => Ok((Vec::new(), None)),
        false => service.list_within(ranges, after, PAGE, reader.turn().await).await,
    }
}

/// The devices whose presence or changes a filter selects.
pub(super) enum Devices {
    None,
    One(DeviceId),
    Any,
}

impl Devices {
    /// Returns the devices whose shadow events `filter` may select.
    pub(super) fn with_changes(filter: &TopicFilter) -> Self {
        let mut levels = filter.as_str().split('/');
        let device = match (levels.next(), levels.next()) {
            (Some("shadow" | "+"), device) => device,
            (Some("$aws"), Some("things" | "+")) => levels.next(),
            (Some("#"), _) | (Some("$aws"), Some("#")) => return Self::Any,
            _ => None,
        };
        match device {
            Some("+" | "#") => Self::Any,
            Some(device) => DeviceId::new(device).map_or(Self::None, Self::One),
            None => Self::None,
        }
    }

    /// Returns the devices whose presence `filter` selects.
    pub(super) fn of(filter: &TopicFilter) -> Self {
        let text = filter.as_str();
        if !selects_any(text, &["shadow", "+", "presence"]) {
            return Self::None;
        }
        let mut levels = text.split('/');
        match (levels.next(), levels.next()) {
            (Some("shadow"), Some(device)) if !matches!(device, "+" | "#") => {
                DeviceId::new(device).map_or(Self::None, Self::One)
            }
            _ => Self::Any,
        }
    }

    /// Returns a page of devices, from the beginning or after `after`, and the id to continue from. `allowed` are the
    /// ranges that the reader may see; `None` for all.
    pub(super) fn page(
        self,
        table: &PresenceTable,
        allowed: Option<Vec<DeviceRange>>,
        after: Option<DeviceId>,
    ) -> (Vec<DeviceId>, Option<DeviceId>) {
        match (self, allowed) {
            (Self::None, _) => (Vec::new(), None),
            (Self::One(device), _) => (vec![device], None),
            (Self::Any, None) => {
                let page = table.page(after.as_ref(), PAGE);
                let next = page.last().filter(|_| page.len() == PAGE).cloned();
                (page, next)
            }
            (Self::Any, Some(ranges)) => within(table, &ranges, after.as_ref()),
        }
    }
}

/// Returns the devices that the filters of the session select according to `of`, or else those of its rights; `None` if
/// they are many.
pub(super) fn few(reader: Reader<'_>, of: impl Fn(&TopicFilter) -> Devices) -> Option<BTreeSet<DeviceId>> {
    selected(reader, of).or_else(|| reader.devices()?.iter().map(|range| range.device().cloned()).collect())
}

/// Returns the devices that the filters of the session select according to `of`; `None` if they are many. A resync is
/// not for shared subscriptions.
fn selected(reader: Reader<'_>, of: impl Fn(&TopicFilter) -> Devices) -> Option<BTreeSet<DeviceId>> {
    if reader.filters.count() > FILTERS_MAX {
        return None;
    }
    let mut devices = BTreeSet::new();
    for filter in reader.filters.iter().filter(|filter| filter.share().is_none()) {
        match of(&filter) {
            Devices::None => {}
            Devices::One(device) => _ = devices.insert(device),
            Devices::Any => return None,
        }
    }
    Some(devices)
}

/// Returns a page of the devices whose presence changed after change `after`, and the change to continue from. Others than
/// `devices` may be among them only if that is `None`.
pub(super) fn changed_presence(
    table: &PresenceTable,
    devices: Option<BTreeSet<DeviceId>>,
    after: u64,
) -> (Vec<DeviceId>, Option<u64>) {
    if let Some(devices) = devices {
        let changed = devices.into_iter().filter(|device| table.has_changed(device, after));
        return (changed.collect(), None);
    }
    let changed = table.changed_after(after, PAGE);
    let next = changed.last().map(|(number, _)| *number);
    (changed.into_iter().map(|(_, device)| device).collect(), next)
}

/// Returns a page of the devices in `ranges` after `after`, and the id to continue from.
fn within(
    table: &PresenceTable,
    ranges: &[DeviceRange],
    after: Option<&DeviceId>,
) -> (Vec<DeviceId>, Option<DeviceId>) {
    let mut page: Vec<DeviceId> = Vec::new();
    for range in ranges {
        let first = range.first();
        if after.is_none_or(|after| first > after) {
            page.push(first.clone()); // whether it is known or not
        }
        if let DeviceRange::Prefix(_) = range {
            let from = after.filter(|after| *after > first).unwrap_or(first);
            let rest = table.page(Some(from), PAGE.saturating_sub(page.len()));
            page.extend(rest.into_iter().take_while(|device| range.has(device)));
        }
        if page.len() >= PAGE {
            let next = page.last().cloned();
            return (page, next);
        }
    }
    (page, None)
}

/// Returns true if `filter` selects a topic of this shape, in which `+` is any level.
fn selects_any(filter: &str, shape: &[&str]) -> bool {
    let mut levels = filter.split('/');
    for &pending in shape {
        match levels.next() {
            Some("#") => return true,
            Some(level) if level == pending || level == "+" || pending == "+" => {}
            _ => return false,
        }
    }
    matches!(levels.next(), None | Some("#"))
}

/// Shadows or devices read at once.
pub(super) const PAGE: usize = 64;

/// Most filters of a session that are searched for the devices that they select. One with more has its rights searched.
const FILTERS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// A session that selects one device read the changes of all others when it returned.
    #[test]
    fn a_filter_names_the_device_whose_events_it_selects() {
        for (filter, expected) in [
            ("shadow/d1/update/accepted", "one"),
            ("shadow/d1/#", "one"),
            ("shadow/d1/name/+/delta", "one"),
            ("+/d1/#", "one"),
            ("$aws/things/d1/shadow/update/delta", "one"),
            ("$aws/things/d1/shadow/#", "one"),
            ("$aws/+/d1/#", "one"),
            ("shadow/+/delta", "any"),
            ("shadow/#", "any"),
            ("+/+/delta", "any"),
            ("+/#", "any"),
            ("#", "any"),
            ("$aws/things/+/shadow/update/accepted", "any"),
            ("$aws/things/#", "any"),
            ("$aws/+/#", "any"),
            ("$aws/#", "any"),
            ("$aws/rules/d1", "none"),
            ("shadow", "none"),
            ("shadow/not a device/delta", "none"),
            ("sensors/#", "none"),
            ("+", "none"),
        ] {
            let found = match Devices::with_changes(&TopicFilter::new(filter).unwrap()) {
                Devices::None => "none",
                Devices::One(_) => "one",
                Devices::Any => "any",
            };
            assert_eq!(found, expected, "{filter}");
        }
    }

    /// A device that subscribed to `shadow/<id>/#` was searched for among the shadows of all devices.
    #[test]
    fn a_filter_checks_only_shadows_that_it_can_select() {
        for (filter, expected) in [
            ("shadow/d1/document", "one"),
            ("shadow/d1/name/n/document", "one"),
            ("shadow/d1/delta", "one"),
            ("shadow/d1/name/n/delta", "one"),
            ("shadow/d1/update/delta", "none"),
            ("shadow/+/delta", "any"),
            ("shadow/d1/update/accepted", "none"),
            ("shadow/d1/#", "device"),
            ("shadow/d1/+", "device"),
            ("shadow/d1/document/#", "device"),
            ("shadow/d1/name/+/document", "device"),
            ("shadow/d1/update/+", "none"),
            ("shadow/+/update/accepted", "none"),
            ("shadow/+/update/#", "none"),
            ("+/+/+/delta", "none"),
            ("shadow/+/document", "any"),
            ("shadow/+/+/+/document", "any"),
            ("+/d1/document", "any"),
            ("shadow/#", "any"),
            ("#", "any"),
            ("sensors/#", "none"),
        ] {
            let found = match Documents::of(&TopicFilter::new(filter).unwrap()) {
                Documents::None => "none",
                Documents::One(_) => "one",
                Documents::Device(_) => "device",
                Documents::Any => "any",
            };
            assert_eq!(found, expected, "{filter}");
        }
    }
}
