//! The HTTP door, from outside: literal requests over sockets, and clients that others wrote.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod both_doors;
mod conditions;
mod door;
mod events;
mod generated;
mod others;
mod reading;
mod waiting;
mod writing;
