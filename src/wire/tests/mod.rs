//! Tests of parsing and rendering.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod envelopes;
mod given;
mod numbers;
mod outcomes;
mod reference;
mod requests;

use crate::shadow::{Paths, Pointer, Projection, pointer::SectionName};

/// Returns the projection of one section.
fn only(section: SectionName) -> Projection {
    Projection::from(Paths::from_iter([&Pointer::section(section)]))
}
