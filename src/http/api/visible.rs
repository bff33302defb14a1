//! The part of a device that a caller may see, for queries.

use std::{borrow::Cow, sync::Arc};

use crate::{
    admission::work,
    fleet::{Device, Presence, Query, Shadow},
    http::{
        api::{Api, devices::presence},
        auth::caller::Caller,
    },
    shadow::{Document, ShadowKey, Timestamp},
    wire::Seen,
};

/// Returns the work of reading `shadows` and evaluating `query` for them.
pub(in crate::http) fn scan_work(query: Option<&Query>, shadows: usize) -> u64 {
    let predicates = work::times(query.map_or(0, Query::predicates), 1);
    work::times(shadows, work::SCANNED_SHADOW + predicates / work::PREDICATES_PER_UNIT)
}

/// Adds a shadow that exists to `device`, as far as `reader` may see it, and keeps its document if `is_kept`.
pub(in crate::http) fn add_shadow(
    device: &mut Device,
    reader: &Caller,
    key: ShadowKey,
    document: &Arc<Document>,
    is_kept: bool,
) {
    let Some(projection) = reader.projection(&key) else { return };
    let drift = projection.has_delta(document);
    device.shadow_count += 1;
    device.drift |= drift;
    device.updated = device.updated.max(Some(document.timestamp));
    if is_kept {
        let seen = match projection.document(document) {
            Cow::Borrowed(_) => Arc::clone(document),
            Cow::Owned(seen) => Arc::new(seen),
        };
        let delta = if drift { projection.delta(document).unwrap_or_default() } else { Default::default() };
        device.shadows.push(Shadow { name: key.name, document: seen, delta });
    }
}

/// Sets the presence of `device`, as far as `reader` may see it, and returns it.
pub(in crate::http) fn set_presence(device: &mut Device, reader: &Caller, api: &Api) -> (Option<bool>, Option<Seen>) {
    let (connected, seen) = presence(api, reader, &device.id);
    let last = seen.as_ref().map(|seen| seen.last);
    device.presence = connected.map(|connected| Presence { connected, seen: last });
    (connected, seen)
}

/// Returns true if `query` is true for `device`, whose presence is set as far as `reader` may see it and the query needs it.
pub(in crate::http) fn is_match(
    query: &Query,
    device: &mut Device,
    reader: &Caller,
    api: &Api,
    now: Timestamp,
) -> bool {
    if query.reads_presence() {
        set_presence(device, reader, api);
    }
    query.matches(device, now)
}
