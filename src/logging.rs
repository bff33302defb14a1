//! Starts the log: `tracing` events, and those of libraries that use `log`, to standard error.
//!
//! Standard output belongs to results. What is logged is the filter of [`LogConfig`]; there is no other switch, no
//! `RUST_LOG`, so that the configuration tells what a log will hold.

use std::io::{self, IsTerminal};

use tracing_subscriber::{Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// Starts the log of this process.
///
/// # Errors
///
/// It was started before.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let lines = match config.format {
        LogFormat::Human => fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(config.filter.clone())).try_init()?;
    Ok(())
}
