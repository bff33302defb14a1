//! The time for which a start waits for the servers, and the reason that it gives meanwhile.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::RETRY_PAUSE;
use crate::{cluster::ClusterError, config::ClusterSettings};

/// The time that is left of a start; see the module.
pub(super) struct Patience<'a> {
    settings: &'a ClusterSettings,
    limit: Duration,
    deadline: Instant,
    /// A sentence for those who ask if the node is ready.
    state: &'a watch::Sender<String>,
    logged: Option<&'static str>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(settings: &'a ClusterSettings, limit: Duration, state: &'a watch::Sender<String>) -> Self {
        Self { settings, limit, deadline: Instant::now() + limit, state, logged: None }
    }

    /// Waits before the next try, after one that ended with `problem`. Logs each kind of `obstacle` once.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Unreachable`]: no time is left.
    pub(super) async fn wait(&mut self, obstacle: &'static str, problem: String) -> Result<(), ClusterError> {
        if Instant::now() >= self.deadline {
            return Err(self.unreachable(problem));
        }
        if self.logged.replace(obstacle) != Some(obstacle) {
            tracing::warn!(problem, "{obstacle} yet");
        }
        self.state.send_replace(format!("This node joins its cluster: {obstacle} yet: {problem}"));
        sleep(RETRY_PAUSE).await;
        Ok(())
    }

    pub(super) fn unreachable(&self, problem: String) -> ClusterError {
        ClusterError::unreachable(self.settings, self.limit, problem)
    }
}
