//! The wiring: opens the store, binds the listeners, owns every task and thread, orders the shutdown.
//!
//! Shutdown: the listeners stop accepting and every connection is told to end, wills go out, the store decides and
//! commits what it was sent and carries its state, the announcer answers the last requests, and only then does
//! [`run`] return.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread};

use tokio::{signal::unix::Signal, sync::Semaphore, task::JoinSet};

use crate::{
    auth::{Authority, login::LoginError},
    changes::Changes,
    clock::Clock,
    config::{Config, Limits, ListenerConfig, ListenerKind, StoreConfig},
    http::{self, Api, HttpDoor, HttpOptions},
    mqtt::{
        broker::Broker,
        door::{self as mqtt, MqttDoor},
        events::Events,
        router::{RetainedLimits, Router},
    },
    net::{Gate, ListenError, Listener},
    quota::Quotas,
    reload::{ReadConfig, Reload},
    service::Service,
    store::{StoreError, StoreOptions},
    telemetry::Telemetry,
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
    /// A file of users or keys cannot be used.
    #[error(transparent)]
    Login(LoginError),
    /// The operating system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Serves until `shutdown` resolves, then ends in order. At each signal of `hangups`, `read_config` and files are read
/// again.
///
/// For each listener, `listening <name> <address>` is printed on standard output once it accepts.
///
/// # Errors
///
/// A [`ServeError`]: nothing was served.
pub async fn run(
    config: Config,
    read_config: ReadConfig,
    shutdown: impl Future<Output = ()>,
    hangups: Signal,
) -> Result<(), ServeError> {
    let authority = Arc::new(Authority::open(&config, Clock::system()).map_err(ServeError::Login)?);
    let (service, decided) = open(&config)?;
    let service = Arc::new(service);
    let router = Arc::new(Router::new(RetainedLimits {
        messages: config.limits.retained_messages_max,
        bytes: config.limits.retained_bytes_max,
    }));
    let events = Arc::new(Events::new(router.clone(), service.head()));
    let changes = Arc::new(Changes::new(service.head()));
    let announcer = thread::Builder::new()
        .name("announcer".to_owned())
        .spawn({
            let announcers = (events.clone(), changes.clone());
            move || decided.announce(announcers)
        })
        .map_err(ServeError::Thread)?;
    let broker = Arc::new(Broker::new(service.clone(), events, router, authority.clone(), &config.limits));
    let places = Arc::new(Semaphore::new(config.limits.connections_max));
    let telemetry = Arc::new(Telemetry {
        broker: broker.clone(),
        service: service.clone(),
        authority: authority.clone(),
        places: (places.clone(), config.limits.connections_max),
    });
    let api = Api::new(service.clone(), changes, telemetry.clone(), telemetry, authority.clone(), &config.limits);
    let api = Arc::new(api);
    let gate =
        Gate { quotas: service.quotas().clone(), places, counters: broker.counters.clone(), closing: broker.closing() };

    let bound = config.listeners.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let tls = bound.iter().filter_map(|(listener, _)| Some((listener.name().to_owned(), listener.tls()?))).collect();
    let mut listeners = JoinSet::new();
    for ((listener, address), settings) in bound.into_iter().zip(&config.listeners) {
        println!("listening {} {address}", listener.name());
        spawn(&mut listeners, listener, settings, &config.limits, &gate, &broker, &api);
    }
    listeners.spawn({
        let broker = broker.clone();
        async move { broker.watch_sessions().await }
    });
    let reload = Reload { read_config, authority, tls, broker: broker.clone() };
    tokio::select! {
        () = shutdown => {}
        () = reload.at(hangups) => {}
    }

    tracing::info!(sessions = broker.sessions.count(), "ending");
    broker.close();
    api.close();
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

fn bind(config: &ListenerConfig) -> Result<(Listener, SocketAddr), ServeError> {
    let failed = |error| ServeError::Bind { name: config.name.clone(), address: config.bind, error };
    let protocols = match config.kind {
        ListenerKind::Mqtt => mqtt::PROTOCOLS,
        ListenerKind::Http(_) => http::PROTOCOLS,
    };
    let listener = Listener::bind(config.clone(), protocols).map_err(failed)?;
    let address = listener.address().map_err(|error| failed(error.into()))?;
    Ok((listener, address))
}

/// Gives `listener` the door that its settings name.
fn spawn(
    listeners: &mut JoinSet<()>,
    listener: Listener,
    settings: &ListenerConfig,
    limits: &Limits,
    gate: &Gate,
    broker: &Arc<Broker>,
    api: &Arc<Api>,
) {
    let mqtt = MqttDoor::new(broker.clone());
    match &settings.kind {
        ListenerKind::Mqtt => listeners.spawn(listener.run(gate.clone(), mqtt)),
        ListenerKind::Http(http) => {
            let (api, sessions) = (http::router(api.clone()), api.sessions());
            let options = HttpOptions::of(settings, http, limits);
            let door = HttpDoor::new(api, sessions, mqtt, options, gate.closing.clone());
            listeners.spawn(listener.run(gate.clone(), door))
        }
    };
}

pub(crate) fn store_options(store: &StoreConfig, limits: &Limits) -> StoreOptions {
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
