//! Umbra: an MQTT broker that keeps the shadow of every device under optimistic concurrency.
//!
//! Imports point one way: [`mqtt`] and [`http`] use [`search`] and [`engine`], `http` uses [`rollouts`] above these, `engine` uses
//! [`store`], `store` uses [`shadow`]; `cluster` has the log of several nodes. `shadow` is pure: no I/O, clock, async or lock, and
//! so is [`fleet`] above it. `mqtt` and `http` are front ends behind [`net`] and never name each other; [`server`] wires them.
//! `tests/tidy.rs` checks these rules, ARCHITECTURE.md explains them.

#![warn(missing_docs)]

pub mod admission;
pub mod auth;
pub mod cli;
pub mod clock;
mod cluster;
pub mod config;
pub mod engine;
pub mod fleet;
pub mod http;
pub mod mqtt;
pub mod net;
pub mod observability;
pub mod private_file;
pub mod rate;
pub mod reload;
pub mod rollouts;
pub mod search;
pub mod server;
pub mod shadow;
pub mod store;
pub mod wire;
