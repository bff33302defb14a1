//! One shadow under many writers: lost updates, order of events, linearizability, conflicts, and a reference model.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod linearizability;
mod lost_updates;
mod model;
mod order;
mod writers;
