//! TLS over real sockets: who gets in, what is refused, and what changes while the server runs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod certificates;
mod client;
mod downgrade;
mod failures;
mod listeners;
mod refused;
mod reload;
