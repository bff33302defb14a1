//! What SIGHUP does: read again, while the server runs, what says who may come in and do what.
//!
//! These are the files of TLS, users, token keys and access keys that the server was started with, and of the
//! configuration the rules and grants and which clients each listener takes; all else in it waits for a restart, and
//! the log names what has changed of that. What will not do is told in the log and changes nothing of its kind; all
//! else is taken all the same, so that a mistake elsewhere keeps nobody in who was removed. Then every session is
//! reviewed: it goes on with the rights that it has now, or ends.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{signal::unix::Signal, task};

use crate::{
    auth::{Authority, FileError, Policy},
    config::{Config, ConfigError, Written},
    mqtt::broker::Broker,
    net::Tls,
};

/// Reads the configuration as it was read at the start.
pub type ReadConfig = Box<dyn Fn() -> Result<(Config, Policy), ConfigError> + Send + Sync>;

/// All that is read again.
pub struct Reload {
    /// How the configuration is read.
    pub read_config: ReadConfig,
    /// What the server was started with.
    pub started_with: Written,
    /// Users, keys, roles.
    pub authority: Arc<Authority>,
    /// The TLS of each listener that has it, by the listener's name.
    pub tls: Vec<(String, Arc<Tls>)>,
    /// Has the sessions.
    pub broker: Arc<Broker>,
}

impl Reload {
    /// Reads everything again at each of `hangups`. Never returns.
    pub async fn at(self, mut hangups: Signal) {
        let reload = Arc::new(self);
        while let Some(()) = hangups.recv().await {
            tracing::info!("SIGHUP: reading files again");
            let again = reload.clone();
            let (roles_read, faults) = match task::spawn_blocking(move || again.read()).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "files could not be read again");
                    continue;
                }
            };
            for error in &faults {
                tracing::error!(%error, "a file of users or keys is not taken, what was in it before stays in use");
            }
            reload.broker.review();
            match (roles_read, faults.is_empty()) {
                (true, true) => tracing::info!("users, keys and roles read again, sessions reviewed"),
                (false, true) => tracing::warn!("users and keys read again, sessions reviewed; roles are those before"),
                (_, false) => {
                    tracing::warn!(files = faults.len(), roles_read, "sessions reviewed without what is not taken");
                }
            }
        }
        std::future::pending().await
    }

    /// Returns whether the configuration is taken, and what is wrong with the files of users and keys; sessions may be
    /// worth something else then all the same.
    fn read(&self) -> (bool, Vec<FileError>) {
        self.read_tls();
        let config = (self.read_config)().inspect_err(|error| {
            tracing::error!(%error, "the configuration is not taken, the one before stays in use");
        });
        if let Ok((config, _)) = &config {
            self.tell_what_waits(config);
        }
        let read = config.is_ok();
        let config = config.ok();
        (read, self.authority.reload(config.as_ref().map(|(config, policy)| (config, policy.clone()))))
    }

    fn tell_what_waits(&self, config: &Config) {
        let changed = self.started_with.changed(&config.written);
        let waiting = changed.iter().filter(|key| !is_taken(key, &changed)).map(String::as_str).collect::<Vec<_>>();
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "changed in the configuration, but that waits for a restart");
        }
    }

    /// A listener with a file that will not do stays as it was, and so does everything else.
    fn read_tls(&self) {
        for (listener, tls) in &self.tls {
            match tls.reload() {
                Ok(()) => {
                    tls.warn_of_expiry(listener);
                    tracing::info!(listener, "TLS files read again");
                }
                Err(error) => tracing::error!(listener, %error, "TLS files not taken, those before stay in use"),
            }
        }
    }
}

/// Whether a change of `key`, one of those `changed`, counts from now on: which clients listeners take, unless they are
/// to listen elsewhere, and where more rules are.
fn is_taken(key: &str, changed: &BTreeSet<String>) -> bool {
    match key.rsplit_once('.') {
        Some((listener, "anonymous" | "anonymous_role" | "certificate_role")) => {
            !changed.contains(&format!("{listener}.bind"))
        }
        _ => matches!(key, "rules_file" | "allow_anonymous_anywhere"),
    }
}
