//! The shadows and devices that a filter selects, page by page. Their documents and presence are retained for a new
//! subscription.

use crate::{
    mqtt::{
        broker::{Broker, presence::PresenceTable},
        protocol::topic::TopicFilter,
        shadow::topics::Event,
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
        broker: &Broker,
        after: Option<ShadowKey>,
    ) -> Result<(Vec<Listed>, Option<ShadowKey>), Rejection> {
        let (mut page, device) = match self {
            Self::None => return Ok((Vec::new(), None)),
            Self::One(key) => return Ok((vec![Listed { key, deleted: false }], None)),
            Self::Device(device) if after.is_none() => {
                // The classic shadow comes first, whether it exists or not.
                let classic = ShadowKey::classic(device);
                return Ok((vec![Listed { key: classic.clone(), deleted: false }], Some(classic)));
            }
            Self::Device(device) => (broker.service.list(after, PAGE).await?, Some(device)),
            Self::Any => (broker.service.list(after, PAGE).await?, None),
        };
        let full = page.len() == PAGE;
        if let Some(device) = &device {
            page.retain(|listed| listed.key.device == *device);
        }
        let next = page.last().filter(|_| full && page.len() == PAGE).map(|last| last.key.clone());
        Ok((page, next))
    }
}

/// The devices whose presence a filter selects.
pub(super) enum Devices {
    None,
    One(DeviceId),
    Any,
}

impl Devices {
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

    /// Returns a page of devices, from the beginning or after `after`, and the id to continue from.
    pub(super) fn page(self, table: &PresenceTable, after: Option<DeviceId>) -> (Vec<DeviceId>, Option<DeviceId>) {
        match self {
            Self::None => (Vec::new(), None),
            Self::One(device) => (vec![device], None),
            Self::Any => {
                let page = table.page(after.as_ref(), PAGE);
                let next = page.last().filter(|_| page.len() == PAGE).cloned();
                (page, next)
            }
        }
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

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
