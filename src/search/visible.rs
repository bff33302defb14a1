//! The part of a device that a reader may see, for queries.

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::{
    admission::work,
    auth::{Access, Operation},
    fleet::{self, Device, Query, Shadow, ShadowNeeds},
    search::Presence,
    shadow::{DeviceId, Document, ShadowKey, Timestamp},
    wire::Seen,
};

/// Returns the work of reading `shadows` and evaluating `query` for them.
pub(crate) fn scan_work(query: Option<&Query>, shadows: usize) -> u64 {
    let predicates = work::times(query.map_or(0, Query::predicates), 1);
    work::times(shadows, work::SCANNED_SHADOW + predicates / work::PREDICATES_PER_UNIT)
}

/// Returns the work to charge for what was expected to be `expected` and took `worked` of a processor: that time, if it is far above,
/// since texts and arrays may be long.
pub(crate) fn charged_work(expected: u64, worked: Duration) -> u64 {
    let measured = u64::try_from(worked.as_micros()).unwrap_or(u64::MAX);
    if measured / UNEXPECTED > expected { measured } else { expected }
}

/// The processor time, as a multiple of the expected one, from which on it counts.
const UNEXPECTED: u64 = 4;

/// Adds a shadow that exists to `device`, as far as `reader` may see it and as far as it is needed. `document` has the needed
/// parts at least.
pub(crate) fn add_shadow(
    device: &mut Device,
    reader: &Access,
    key: &ShadowKey,
    document: &Arc<Document>,
    needs: &ShadowNeeds,
) {
    let Some(projection) = reader.projection(key, Operation::Get) else { return };
    let drift = needs.drift && projection.has_delta(document);
    device.shadow_count += 1;
    device.drift |= drift;
    device.updated = device.updated.max(Some(document.timestamp));
    if needs.content {
        let seen = match projection.values(document) {
            Cow::Borrowed(_) => Arc::clone(document),
            Cow::Owned(seen) => Arc::new(seen),
        };
        let delta = drift && needs.delta;
        let delta = delta.then(|| projection.delta(document)).flatten().unwrap_or_default();
        device.shadows.push(Shadow { name: key.name.clone(), document: seen, delta });
    }
}

/// Returns true if `device` is connected, and its last connection, as far as `reader` may see them: if it may subscribe to
/// a part of the classic shadow, as over MQTT.
pub(crate) fn presence_of(device: &DeviceId, reader: &Access, presence: &dyn Presence) -> (Option<bool>, Option<Seen>) {
    if reader.projection(&ShadowKey::classic(device.clone()), Operation::Subscribe).is_none() {
        return (None, None);
    }
    // Only operators see network addresses.
    let address = |seen: Seen| Seen { address: seen.address.filter(|_| reader.is_everything()), ..seen };
    (Some(presence.connected(device)), presence.seen(device).map(address))
}

/// Sets the presence of `device`, as far as `reader` may see it, and returns it.
pub(crate) fn set_presence(
    device: &mut Device,
    reader: &Access,
    presence: &dyn Presence,
) -> (Option<bool>, Option<Seen>) {
    let (connected, seen) = presence_of(&device.id, reader, presence);
    let last = seen.as_ref().map(|seen| seen.last);
    device.presence = connected.map(|connected| fleet::Presence { connected, seen: last });
    (connected, seen)
}

/// Returns true if `query` is true for `device`, whose presence is set as far as `reader` may see it and the query needs it.
pub(crate) fn is_match(
    query: &Query,
    device: &mut Device,
    reader: &Access,
    presence: &dyn Presence,
    now: Timestamp,
) -> bool {
    if query.reads_presence() {
        set_presence(device, reader, presence);
    }
    query.matches(device, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_counts_if_it_is_far_above_what_was_expected() {
        for (expected, micros, charged) in [(100, 0, 100), (100, 400, 100), (100, 403, 100), (100, 404, 404), (0, 3, 0)]
        {
            assert_eq!(charged_work(expected, Duration::from_micros(micros)), charged, "{expected} {micros}");
        }
    }
}
