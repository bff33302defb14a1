//! Three nodes with one log: what clients of different nodes see, while nodes and NATS servers fail.
//!
//! `./test` installs the NATS server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, unreachable_pub, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod broker;
mod configuration;
mod events;
mod faults;
#[allow(dead_code, reason = "a part of it is for other tests")]
#[path = "../rollouts/fleet.rs"]
mod fleet;
mod killed_decider;
#[path = "../search/matches.rs"]
mod matches;
mod operator;
mod order;
mod pages;
mod pauses;
mod presence;
mod purging;
mod queries;
mod recipe;
mod rollouts;
mod seeding;
mod session_lists;
mod sessions;
mod shared;
mod upgrade;
