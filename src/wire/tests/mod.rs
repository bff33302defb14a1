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

use crate::shadow::{Paths, Pointer, Projection, pointer::SectionName};

/// Returns the projection of one section.
fn only(section: SectionName) -> Projection {
    Projection::from(Paths::from_iter([&Pointer::section(section)]))
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
