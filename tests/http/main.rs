//! The HTTP front end from outside: literal requests over sockets, and independent clients.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod both_front_ends;
mod conditions;
mod events;
mod generated;
mod json_patch;
mod others;
mod reading;
mod site;
mod waiting;
mod writing;
