//! Operation of a server: start, backups, metrics, health, presence, and the commands of the guides.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod backup;
mod demo;
mod guides;
mod health;
mod log;
mod metrics;
mod presence;
mod purge;
mod request_ids;
mod sessions;
mod site;
mod start;
mod supervision;
mod trace;
