//! Several writers on one shadow: conflicts that say what collided, rebases, expectations, requests sent again, dry
//! runs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod conflicts;
mod cuts;
mod dry_runs;
mod expectations;
mod keys;
mod three_writers;
mod user_properties;
