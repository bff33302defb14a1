//! Clean stops and crashes: every accepted write is in the store afterwards.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod clean_shutdown;
mod crash;
mod exactly_once;
mod messages;
mod presence;
mod retained;
mod sessions;
