//! Placeholder: the wiring of the server comes with the store and the door.

use crate::config::Config;

/// Why the server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(String),
}

/// Runs until `shutdown` resolves.
///
/// # Errors
///
/// [`ServeError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let _ = config;
    shutdown.await;
    Ok(())
}
