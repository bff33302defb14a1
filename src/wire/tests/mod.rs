//! Tests of parsing and rendering.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod aws;
mod envelopes;
mod fields;
mod given;
mod histories;
mod lists;
mod numbers;
mod outcomes;
mod problems;
mod reference;
mod requests;
mod selections;

use serde_json::Value;

use crate::shadow::{DeviceId, Paths, Pointer, Projection, ShadowKey, ShadowName, pointer::SectionName};

/// Returns the projection of one section.
fn only(section: SectionName) -> Projection {
    Projection::from(Paths::from_iter([&Pointer::section(section)]))
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Returns the key of the classic shadow of `dev-1`, or of the one with this name.
fn key(name: Option<&str>) -> ShadowKey {
    let device = DeviceId::new("dev-1").unwrap();
    name.map_or(ShadowKey::classic(device.clone()), |name| ShadowKey::named(device, ShadowName::new(name).unwrap()))
}
