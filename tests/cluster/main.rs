//! Three nodes with one log: what clients of different nodes see, while nodes and NATS servers fail.
//!
//! `./test` installs the NATS server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, unreachable_pub, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod broker;
mod configuration;
mod faults;
mod killed_decider;
mod operator;
mod order;
mod pauses;
mod presence;
mod session_lists;
mod sessions;
mod shared;
mod upgrade;
