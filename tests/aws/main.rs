//! The AWS dialect: `$aws/things/…`, as the clients of AWS IoT Device Shadow know it.
//!
//! The shapes and texts are compared literally, because those clients do. `sdk` runs AWS's own Python SDKs, unchanged;
//! they must be installed, which `./test` does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../tls/certificates.rs"]
mod certificates;

mod both_dialects;
mod fleet_index;
mod offline;
mod refusals;
mod sdk;
mod shapes;
mod thing;
mod topics;
