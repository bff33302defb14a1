//! Logging, metrics and request ids.
//!
//! Nothing here knows the meaning of a metric: each module updates its own counters, and [`crate::server::telemetry`]
//! reads them for `/metrics`.

pub mod logging;
pub mod metrics;
pub mod request_id;
