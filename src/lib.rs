//! Umbra: an MQTT broker that keeps the shadow of every device under optimistic concurrency.
//!
//! Dependencies between the modules point one way: `mqtt`, `http` and `cli` use `service`, `service` uses `store`,
//! `store` uses `shadow`. `shadow` is pure: no I/O, no clock, no async, no lock. redb is named only in `store`, axum
//! and hyper only in `http`, `server` and the client of `cli`. `mqtt` and `http` are doors of `net` and never name each
//! other; `net` names neither.

#![warn(missing_docs)]

pub mod admission;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod http;
pub mod mqtt;
pub mod net;
pub mod observability;
pub mod private_file;
pub mod rate;
pub mod reload;
pub mod server;
pub mod shadow;
pub mod store;
pub mod wire;
