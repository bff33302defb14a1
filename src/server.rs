//! The wiring: opens the store, binds the listeners, owns every task and thread, orders the shutdown.
//!
//! Shutdown: the listeners stop accepting and every connection is told to end, wills go out, the store decides and
//! commits what it was sent and carries its state, the announcer answers the last requests, and only then does
//! [`run`] return.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread};

use tokio::task::JoinSet;

use crate::{
    clock::Clock,
    config::{Config, Limits, StoreConfig},
    mqtt::{
        broker::Broker,
        events::Events,
        listener::{ListenError, Listener},
        router::{RetainedLimits, Router},
    },
    quota::Quotas,
    service::Service,
    store::{StoreError, StoreOptions},
};

/// Why the server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error("cannot open the store {path}: {error}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        error: StoreError,
    },
    /// An address cannot be listened on, or not with TLS.
    #[error("listener '{name}' cannot listen on {address}: {error}")]
    Bind {
        /// The listener.
        name: String,
        /// The address in its configuration.
        address: SocketAddr,
        /// Why.
        error: ListenError,
    },
    /// The operating system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Serves until `shutdown` resolves, then ends in order.
///
/// For each listener, `listening <name> <address>` is printed on standard output once it accepts.
///
/// # Errors
///
/// A [`ServeError`]: nothing was served.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let (service, decided) = open(&config)?;
    let service = Arc::new(service);
    let router = Arc::new(Router::new(RetainedLimits {
        messages: config.limits.retained_messages_max,
        bytes: config.limits.retained_bytes_max,
    }));
    let events = Arc::new(Events::new(router.clone(), service.head()));
    let announcer = thread::Builder::new()
        .name("announcer".to_owned())
        .spawn({
            let events = events.clone();
            move || decided.announce(events)
        })
        .map_err(ServeError::Thread)?;
    let broker = Arc::new(Broker::new(service.clone(), events, router, config.policy.clone(), &config.limits));

    let mut listeners = JoinSet::new();
    let bound = config.listeners.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    for (listener, address) in bound {
        println!("listening {} {address}", listener.name());
        listeners.spawn(listener.run(broker.clone()));
    }
    listeners.spawn({
        let broker = broker.clone();
        async move { broker.watch_sessions().await }
    });
    shutdown.await;

    tracing::info!(sessions = broker.sessions.count(), "ending");
    broker.close();
    while listeners.join_next().await.is_some() {}
    broker.finish().await;
    let quotas = service.quotas().counters();
    tracing::info!(counters = ?broker.counters, ?quotas, drops = ?broker.drops, "what was refused and dropped");
    let ended = tokio::task::spawn_blocking(move || {
        service.close();
        // The store's end of the channel is gone with its writer, so the announcer ends too.
        announcer.join()
    });
    if !matches!(ended.await, Ok(Ok(()))) {
        tracing::error!("the announcer stopped by a panic");
    }
    Ok(())
}

fn open(config: &Config) -> Result<(Service, crate::service::Decided), ServeError> {
    let options = store_options(&config.store, &config.limits);
    let quotas = Arc::new(Quotas::new(&config.limits));
    Service::open(options, quotas, Clock::system())
        .map_err(|error| ServeError::Store { path: config.store.path.clone(), error })
}

fn bind(config: &crate::config::ListenerConfig) -> Result<(Listener, SocketAddr), ServeError> {
    let failed = |error| ServeError::Bind { name: config.name.clone(), address: config.bind, error };
    let listener = Listener::bind(config.clone()).map_err(failed)?;
    let address = listener.address().map_err(|error| failed(error.into()))?;
    Ok((listener, address))
}

fn store_options(store: &StoreConfig, limits: &Limits) -> StoreOptions {
    StoreOptions {
        page_cache_bytes: store.cache_bytes,
        document_cache_bytes: store.document_cache_bytes,
        quick_repair: store.quick_repair,
        journal_bytes_max: store.journal_bytes_max,
        journal_age_max: store.journal_age_max,
        lag_entries_max: store.lag_entries_max,
        lag_bytes_max: store.lag_bytes_max,
        free_disk_min: store.free_disk_min,
        shadow_names_max: limits.shadow_names_max,
        document: limits.document(),
        ..StoreOptions::new(&store.path)
    }
}
