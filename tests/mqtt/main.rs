//! The MQTT front end as any client sees it, both versions of the protocol, byte by byte.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod characters;
mod connections;
mod expiry;
mod limits;
mod qos;
mod retained;
mod sessions;
mod share_of_shadows;
mod shared;
mod subscriptions;
mod wills;
mod windows;
