//! Shared by the fuzz targets: the rules of the contract written a second time, and values made of bytes.
//!
//! A target in `fuzz_targets/` is one statement about the product that has to hold for any bytes. What it is compared
//! with is written here from the standards and from `docs/protocol.md`, never taken from the product; speed does not
//! matter.

#![expect(clippy::missing_panics_doc, reason = "an oracle speaks by panicking")]

pub mod client_packet;
pub mod commands;
pub mod deliveries;
pub mod exchanges;
pub mod json;
pub mod merge_patch;
pub mod server_packet;
pub mod topics;
