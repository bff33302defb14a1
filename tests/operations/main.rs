//! What an operator does with a server: start, backups, metrics, health; and who is connected.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod backup;
mod demo;
mod health;
mod log;
mod metrics;
mod presence;
mod request_ids;
mod site;
mod start;
mod supervision;
