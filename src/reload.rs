//! The reload at SIGHUP: reads users, keys, rules and TLS files again while the server runs.
//!
//! It covers the files of TLS, users, token keys, access keys and bans that the server was started with. Of the configuration
//! it covers the rules, the grants, the named queries, and the clients that each listener accepts. All other keys take effect at a
//! restart, and the log names those that changed. An unusable file is logged and leaves its part unchanged, but
//! everything else is replaced. So a mistake elsewhere does not keep access for somebody who was removed. Then every
//! session is reviewed: it continues with its present rights, or ends.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{signal::unix::Signal, task};

use crate::{
    auth::{Authority, FileError, Policy},
    config::{Config, ConfigError, Written},
    mqtt::broker::Broker,
    net::Tls,
    search::{FleetSearch, named},
};

/// Reads the configuration in the same way as at the start.
pub type ReadConfig = Box<dyn Fn() -> Result<(Config, Policy), ConfigError> + Send + Sync>;

/// A receiver of the configuration of each reload.
pub type OnReload = Box<dyn Fn(Option<&Written>) + Send + Sync>;

/// Everything that a reload reads or updates.
pub struct Reload {
    /// The way to read the configuration.
    pub read_config: ReadConfig,
    /// The keys with which the server was started.
    pub started_with: Written,
    /// The authority with users, keys and roles.
    pub authority: Arc<Authority>,
    /// The TLS of each listener that has it, by the listener's name.
    pub tls: Vec<(String, Arc<Tls>)>,
    /// The owner of the sessions.
    pub broker: Arc<Broker>,
    /// The owner of the named queries.
    pub search: Arc<FleetSearch>,
    /// Receives the configuration after each reload; `None` if it was rejected.
    pub on_reload: OnReload,
}

impl Reload {
    /// Reloads at each of `hangups`. Never returns.
    pub async fn at(self, mut hangups: Signal) {
        let reload = Arc::new(self);
        while let Some(()) = hangups.recv().await {
            tracing::info!("SIGHUP: reloading files");
            let again = reload.clone();
            let (roles_reloaded, faults) = match task::spawn_blocking(move || again.read()).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "cannot reload files");
                    continue;
                }
            };
            for error in &faults {
                tracing::error!(%error, "file of users or keys rejected, its previous content stays in use");
            }
            reload.broker.review().await;
            match (roles_reloaded, faults.is_empty()) {
                (true, true) => tracing::info!("users, keys and roles reloaded, sessions reviewed"),
                (false, true) => tracing::warn!("users and keys reloaded, sessions reviewed; roles are unchanged"),
                (_, false) => {
                    tracing::warn!(files = faults.len(), roles_reloaded, "sessions reviewed; some files were rejected");
                }
            }
        }
        std::future::pending().await
    }

    /// Reads everything. Returns true if the configuration was accepted, and the errors of the files of users and keys.
    /// Sessions must be reviewed in any case.
    fn read(&self) -> (bool, Vec<FileError>) {
        self.read_tls();
        let config = (self.read_config)().inspect_err(|error| {
            tracing::error!(%error, "configuration rejected, the previous one stays in use");
        });
        if let Ok((config, _)) = &config {
            self.log_keys_that_need_a_restart(config);
            // Checked when the configuration was read.
            named::configured(config).into_iter().for_each(|queries| self.search.queries.configure(queries));
        }
        let read = config.is_ok();
        let config = config.ok();
        let faults = self.authority.reload(config.as_ref().map(|(config, policy)| (config, policy.clone())));
        (self.on_reload)(config.as_ref().map(|(config, _)| &config.written));
        (read, faults)
    }

    fn log_keys_that_need_a_restart(&self, config: &Config) {
        let changed = self.started_with.changed(&config.written);
        let unapplied = changed.iter().filter(|key| !is_applied(key, &changed)).map(String::as_str).collect::<Vec<_>>();
        if !unapplied.is_empty() {
            tracing::warn!(keys = unapplied.join(", "), "changed configuration keys take effect after a restart");
        }
    }

    /// Reads the TLS files of each listener. One with an unusable file keeps all its previous files.
    fn read_tls(&self) {
        for (listener, tls) in &self.tls {
            match tls.reload() {
                Ok(()) => {
                    tls.warn_of_expiry(listener);
                    tracing::info!(listener, "TLS files reloaded");
                }
                Err(error) => tracing::error!(listener, %error, "TLS files rejected, the previous ones stay in use"),
            }
        }
    }
}

/// Returns true if a reload applies a change of `key`, which is one of `changed`: the clients that a listener accepts,
/// unless its address changes too, and the sources of further rules.
fn is_applied(key: &str, changed: &BTreeSet<String>) -> bool {
    match key.rsplit_once('.') {
        Some((listener, "anonymous" | "anonymous_role" | "certificate_role")) => {
            !changed.contains(&format!("{listener}.bind"))
        }
        _ => matches!(key, "rules_file" | "allow_anonymous_anywhere"),
    }
}
