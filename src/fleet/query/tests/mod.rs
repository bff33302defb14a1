//! Tests of queries: their syntax, their answers, and properties of both.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod examples;
mod naive;
mod properties;
mod syntax;

use std::sync::Arc;

use serde_json::Value;

use crate::{
    fleet::{Device, Presence, Shadow},
    shadow::{
        DeviceId, Document, Paths, ShadowName, Timestamp,
        document::tree::{self, Members},
        tests::written,
    },
};

/// The time at which the tests ask.
const NOW: Timestamp = Timestamp(2_000_000_000);

/// A device whose newest change was `age` seconds ago.
fn device(id: &str, presence: Option<Presence>, age: u64, shadows: &[(&str, Value)]) -> Device {
    readable(id, presence, age, shadows, &Paths::ALL)
}

/// The same, for a reader of `paths`.
fn readable(id: &str, presence: Option<Presence>, age: u64, shadows: &[(&str, Value)], paths: &Paths) -> Device {
    let mut device = Device::new(DeviceId::new(id).unwrap());
    let time = Timestamp(NOW.0 - age);
    device.presence = presence;
    for (name, state) in shadows {
        let document = Document { timestamp: time, ..written(std::slice::from_ref(state)) };
        let delta = document.delta_seen(paths).unwrap_or_default();
        device.shadow_count += 1;
        device.drift |= !delta.is_empty();
        device.updated = device.updated.max(Some(time));
        let name = (!name.is_empty()).then(|| ShadowName::new(name).unwrap());
        device.shadows.push(Shadow { name, document: Arc::new(document.seen(paths).into_owned()), delta });
    }
    device
}

fn json(members: &Members) -> Value {
    Value::Object(tree::values(members))
}
