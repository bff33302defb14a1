//! `umbrad serve` and `umbrad check-config`.

use std::{future, path::PathBuf, process};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Exit,
    cautions::cautions,
    output::{absolute, complain, say},
};
use crate::{
    auth::{Policy, authn::login::LoginError},
    config::{Arguments, Config, ConfigError, ListenerKind},
    observability::logging,
    search::named,
    server::{self, ServeError},
};

/// Run the server until SIGTERM or SIGINT. SIGHUP makes it reload users, keys, rules, named queries and TLS files.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    source: Source,
    /// Path of the store file; overrides the configuration.
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
    /// Address to listen on, such as 127.0.0.1:1883; may be repeated. Replaces the configured listeners.
    #[arg(long, value_name = "ADDR")]
    bind: Vec<String>,
    /// Let a node of a cluster whose store is too old for the log, or of another log, receive that of another node. The former file
    /// is kept beside the store, as STORE.old-1 or a higher number. Without effect on a store that can go on.
    #[arg(long)]
    reseed: bool,
}

/// Check a configuration, including the environment variables and the files of users, keys and TLS that it names.
/// Neither opens the store nor binds an address, so a server may be running.
#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Source {
    /// Configuration file; without it, the defaults. Environment variables UMBRA__SECTION__KEY override both.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    pub(super) async fn run(self) -> Exit {
        let arguments = Arguments { store: self.store, bind: self.bind };
        let (config, policy) = match self.source.load(&arguments) {
            Ok(loaded) => loaded,
            Err(error) => return complain(&error, Exit::Usage),
        };
        if self.reseed && config.cluster.is_none() {
            return complain(
                &"--reseed is for a node of a cluster, and the configuration has no [cluster] section",
                Exit::Usage,
            );
        }
        if let Err(error) = logging::start(&config.log) {
            return complain(&error, Exit::Failed);
        }
        log_start(&config, &self.source);
        raise_file_limit();
        let (shutdown, hangups) = match (Shutdown::listen(), signal(SignalKind::hangup())) {
            (Ok(shutdown), Ok(hangups)) => (shutdown, hangups),
            (Err(error), _) | (_, Err(error)) => return complain(&error, Exit::Failed),
        };
        let source = self.source;
        let read_config = Box::new(move || source.load(&arguments));
        match server::run(config, policy, self.reseed, read_config, shutdown.requested(), hangups).await {
            Ok(()) => Exit::Done,
            Err(error) => {
                tracing::error!(%error, "the server failed");
                exit_of(&error)
            }
        }
    }
}

impl CheckConfig {
    pub(super) fn run(self) -> Exit {
        let (config, policy) = match self.source.load(&Arguments::default()) {
            Ok(loaded) => loaded,
            Err(error) => return complain(&error, Exit::Usage),
        };
        if let Err(error) = server::check(&config, policy) {
            return complain(&error, exit_of(&error));
        }
        for caution in cautions(&config) {
            complain(&format!("warning: {caution}"), Exit::Done);
        }
        let configuration = self.source.config.as_ref().map(|file| file.display().to_string());
        say(&format!("{}: accepted", configuration.as_deref().unwrap_or("default configuration")), Exit::Done)
    }
}

/// Logs the version, the origin of the configuration, the listeners, and the memory that follows from `"auto"`.
fn log_start(config: &Config, source: &Source) {
    let configuration = source.config.as_deref().map_or_else(|| "default configuration".to_owned(), absolute);
    let store = absolute(&config.store.path);
    let listeners = config.listeners.iter().map(|listener| {
        let kind = if listener.kind == ListenerKind::Mqtt { "mqtt" } else { "http" };
        format!("{} {kind}{} {}", listener.name, if listener.tls.is_some() { "+tls" } else { "" }, listener.bind)
    });
    let listeners = listeners.collect::<Vec<_>>().join(", ");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), configuration, store, listeners, "umbrad starts");
    let caches = config.store.page_cache_bytes + config.store.document_cache_bytes;
    tracing::info!(store.memory = caches, limits.memory = config.limits.quotas.memory, "memory in bytes");
}

fn exit_of(error: &ServeError) -> Exit {
    match error {
        ServeError::Store { .. } => Exit::Store,
        ServeError::Config(_)
        | ServeError::Login(LoginError::File(_))
        | ServeError::Tls { .. }
        | ServeError::Credentials(_)
        | ServeError::NoListener(_) => Exit::Usage,
        ServeError::Inherited(_)
        | ServeError::Login(LoginError::System(_))
        | ServeError::Bind { .. }
        | ServeError::Cluster(_)
        | ServeError::Thread(_)
        | ServeError::Stopped(_) => Exit::Failed,
    }
}

impl Source {
    pub(super) fn load(&self, arguments: &Arguments) -> Result<(Config, Policy), ConfigError> {
        // Our variables are ASCII, so others are skipped.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        let config = Config::load(self.config.as_deref(), environment, arguments)?;
        let policy = Policy::of(&config)?;
        named::configured(&config)?;
        Ok((config, policy))
    }
}

/// The signals that shut the server down.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal. A second one ends the process at once, without waiting for clients; accepted
    /// commands are on disk either way.
    async fn requested(mut self) {
        let name = self.next().await;
        tracing::info!(signal = name, "shutting down; a second signal ends the process at once");
        tokio::spawn(async move {
            let name = self.next().await;
            tracing::warn!(signal = name, "exiting without waiting for clients");
            process::exit(Exit::Failed as i32);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.terminate.recv() => "SIGTERM",
            Some(()) = self.interrupt.recv() => "SIGINT",
            else => future::pending().await,
        }
    }
}

/// Raises the limit of open files to the most that this process may set, since every connection is a file.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let shown = |files: Option<u64>| files.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!(from = shown(limit.current), to = shown(limit.maximum), "open file limit"),
        Err(error) => tracing::warn!(at = shown(limit.current), %error, "cannot raise the open file limit"),
    }
}
