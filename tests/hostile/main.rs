//! Input that means harm, each over a real socket.
//!
//! After each the service is alive, and a client that has nothing to do with it has its update accepted, on the
//! connection it had all along and on a new one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod bystander;
mod corpus;
mod crowds;
mod disk;
mod floods;
mod fuzz;
mod mixed;
mod packets;
mod payloads;
mod slow_reader;
