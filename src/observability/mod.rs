//! Logging, metrics and request ids.
//!
//! Nothing here knows what it measures: each module of the service counts for itself, and [`telemetry`] reads the
//! counters when `/metrics` is asked for.

pub mod logging;
pub mod metrics;
pub mod request_id;
