//! Shadows over MQTT: topics, requests, and the fan-out of events.
//!
//! [`topics`] parses topic names, [`request`] turns a publication into a command and answers it, [`fan_out`] publishes
//! accepted changes in the [`rendering`] of both dialects, and [`resync`] sends a returning or slow subscriber the
//! newest state from the journal.

pub mod fan_out;
pub(super) mod query_topics;
pub(super) mod rendering;
pub(super) mod request;
pub(super) mod resync;
pub mod topics;
