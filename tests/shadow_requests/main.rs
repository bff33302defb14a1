//! Shadow requests over MQTT: what is sent, what comes back, and to whom.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod acknowledgement;
mod catch_up;
mod deletion;
mod document_topic;
mod lean;
mod listening;
mod preconditions;
mod refusals;
mod responses;
mod shapes;
mod topics;
