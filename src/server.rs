//! The wiring: reads the files for authentication, opens the store, binds the listeners, owns every task and thread,
//! and orders the shutdown.
//!
//! Shutdown: the listeners stop accepting, every connection is closed gracefully, and wills are published. The store
//! decides and commits the commands that it was sent and flushes its dirty set. The notifier answers the last requests,
//! and only then does [`run`] return.
//!
//! *Invariant:* every part runs until the server ends. If one stops unexpectedly, the server logs it and shuts down: a
//! server without listeners or replies would look alive.

mod binding;
mod cluster_rows;
mod joining;
mod losses;
pub(crate) mod messages;
mod opening;
mod profile;
mod seeding;
mod sessions;
pub mod supervisor;
pub mod telemetry;

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    signal::unix::Signal,
    sync::{Semaphore, oneshot},
    task::{self, JoinSet},
};

pub(crate) use self::opening::store_options;
use self::{
    binding::{bind_others, with_early},
    cluster_rows::{BrokerBroadcasts, ClusterRows},
    losses::{losses, quotas_met},
    opening::open,
    seeding::Entered,
};
use crate::{
    auth::{Authority, Policy, authn::login::LoginError},
    clock::Clock,
    cluster::{membership::Membership, nats::connection},
    config::{Config, ConfigError, Limits, ListenerConfig, ListenerKind},
    engine::{Service, changes::Changes},
    http::{self, Api, Cursors, HttpHandler, HttpOptions, MqttListener},
    mqtt::{
        broker::{
            Broker,
            durable::Recorder,
            peers::{self, PeerBroadcasts},
            replicated::ReplicatedSessions,
            router::Router,
        },
        connection::handler::{self as mqtt, MqttHandler},
        shadow::fan_out::Events,
    },
    net::{Listener, ListenerContext, ListenerCounters, Tls, inherited::InheritedSockets, tls},
    reload::{OnReload, ReadConfig, Reload},
    rollouts::{self, RolloutBroadcasts, RolloutController, RolloutRows},
    search::{
        FleetSearch,
        named::{self, NamedQueries, QueryRows},
    },
    server::telemetry::Telemetry,
    store::StoreError,
};

/// The reason for which the server could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The store cannot be opened.
    #[error("cannot open the store {path}: {error}")]
    Store {
        /// The store file.
        path: PathBuf,
        /// The cause.
        error: StoreError,
    },
    /// A file that the TLS of a listener needs cannot be used.
    #[error("listener '{name}': {error}")]
    Tls {
        /// The name of the listener.
        name: String,
        /// The file and the cause.
        error: tls::PemError,
    },
    /// An address cannot be bound.
    #[error("listener '{name}' cannot listen on {address}: {error}; {advice}")]
    Bind {
        /// The name of the listener.
        name: String,
        /// The configured address.
        address: SocketAddr,
        /// The place to change it.
        advice: String,
        /// The cause.
        error: io::Error,
    },
    /// The service manager passed something that is not a TCP socket.
    #[error("cannot use a socket of the service manager (LISTEN_FDS): {0}")]
    Inherited(io::Error),
    /// The service manager passed a socket for which there is no listener, so its clients would wait for ever.
    #[error("the service manager passed a socket at {0}, and no listener has this address as 'bind'")]
    NoListener(SocketAddr),
    /// A named query of the configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of users or keys cannot be used.
    #[error(transparent)]
    Login(LoginError),
    /// This node cannot be a member of its cluster.
    #[error("cannot join the cluster: {0}")]
    Cluster(String),
    /// The credentials for the cluster's log cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// The operating system provides no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A task or thread stopped that must run until shutdown: an internal error, with details in the log.
    #[error("{0} stopped unexpectedly")]
    Stopped(&'static str),
}

/// The parsed files that the configuration names, except the store.
struct Files {
    authority: Authority,
    /// The TLS of each listener, in order.
    tls: Vec<Option<Arc<Tls>>>,
}

/// The parts that serve connections.
struct ServerParts {
    service: Arc<Service>,
    authority: Arc<Authority>,
    broker: Arc<Broker>,
    rollouts: Arc<RolloutController>,
    cursors: Arc<Cursors>,
    api: Arc<Api>,
    listener_context: ListenerContext,
}

/// The tasks and threads that run until the server ends.
struct RunningTasks {
    tasks: JoinSet<()>,
    notifier: NotifierThread,
}

/// The notifier thread.
struct NotifierThread {
    thread: JoinHandle<()>,
    /// Resolves when the thread ends, also by a panic.
    ended: oneshot::Receiver<Infallible>,
}

/// Reads the files that `config` names like [`run`], except the store, which a running server has open.
///
/// # Errors
///
/// Returns [`ServeError::Login`] or [`ServeError::Tls`].
pub fn check(config: &Config, policy: Policy) -> Result<(), ServeError> {
    Files::read(config, policy).map(drop)
}

/// Serves until `shutdown` resolves, then shuts down in order. At each signal of `hangups`, reloads the configuration
/// with `read_config`, and the files. A node of a cluster whose store is too old receives that of another one if `reseed` is set.
///
/// Prints `listening <name> <address>` on standard output for each listener once it accepts, and `dashboard <url>`
/// after it for a listener of HTTP. Logs that instead if standard output is closed.
///
/// # Errors
///
/// Returns a [`ServeError`]. Nothing was served, except with [`ServeError::Stopped`].
pub async fn run(
    config: Config,
    policy: Policy,
    reseed: bool,
    read_config: ReadConfig,
    shutdown: impl Future<Output = ()>,
    hangups: Signal,
) -> Result<(), ServeError> {
    Telemetry::started();
    let Files { authority, tls } = Files::read(&config, policy)?;
    let names = config.listeners.iter().map(|listener| listener.name.clone());
    let secured: Vec<_> = names.zip(&tls).filter_map(|(name, tls)| Some((name, tls.clone()?))).collect();
    secured.iter().for_each(|(listener, tls)| tls.warn_of_expiry(listener));
    let mut inherited = InheritedSockets::take().map_err(ServeError::Inherited)?;
    let binds: Vec<_> = config.listeners.iter().map(|listener| listener.bind).collect();
    inherited.foreign(&binds).map_or(Ok(()), |address| Err(ServeError::NoListener(address)))?;
    // Each part of the start may see it, and the service then again.
    let shutdown = shutdown.shared();
    let (mut cluster, mut early, mut notices) = (None, None, None);
    if let Some(settings) = &config.cluster {
        match seeding::enter(&config, settings, reseed, (&tls, &mut inherited), shutdown.clone()).await? {
            Some(entered) => {
                let Entered { membership, listeners, notices: started } = entered;
                (cluster, early, notices) = (Some(membership), Some(listeners), started);
            }
            None => return Ok(()),
        }
    }
    let (parts, notify) = ServerParts::assemble(&config, Arc::new(authority), secured.clone(), cluster.as_mut())?;
    let bound = bind_others(&config, tls, &mut inherited, early.as_ref())?;
    let notifier = NotifierThread::start(notify)?;
    let joined = match cluster {
        Some(membership) => {
            early.iter().for_each(|early| early.say("This node applies the log of its cluster"));
            Some(parts.join(membership, &config.written, shutdown.clone()).await)
        }
        None => None,
    };
    let (_cluster, profile) = joined.unzip();
    drop(notices.take());
    let bound = with_early(bound, early).await;
    if shutdown.peek().is_some() {
        let ended = parts.shut_down(RunningTasks { tasks: JoinSet::new(), notifier }).await;
        return ended.map_err(ServeError::Stopped);
    }
    let RunningTasks { mut tasks, mut notifier } = parts.start(&config, bound, notifier);
    let (authority, broker, search) = (parts.authority.clone(), parts.broker.clone(), parts.api.search.clone());
    tasks.spawn(supervisor::watch(parts.service.clone(), broker.clone()));
    supervisor::ready();
    tasks.spawn(watch_certificates(secured.clone(), broker.clone()));
    let on_reload: OnReload = Box::new(move |config| profile.iter().for_each(|profile| profile.reloaded(config)));
    let started_with = config.written;
    let reload = Reload { read_config, started_with, authority, tls: secured, broker, search, on_reload };
    let stopped = tokio::select! {
        () = shutdown => Ok(()),
        () = reload.at(hangups) => Ok(()),
        stopped = first_stopped(&mut tasks, &mut notifier) => Err(stopped),
    };
    if let Err(error) = &stopped {
        tracing::error!(%error, "shutting down");
    }
    supervisor::stopping();
    let ended = parts.shut_down(RunningTasks { tasks, notifier }).await;
    stopped.and(ended).map_err(ServeError::Stopped)
}

impl ServerParts {
    /// Opens the store and creates everything around it. Also returns the body of the notifier thread.
    fn assemble(
        config: &Config,
        authority: Arc<Authority>,
        tls: Vec<(String, Arc<Tls>)>,
        mut cluster: Option<&mut Membership>,
    ) -> Result<(Self, impl FnOnce() + Send + 'static), ServeError> {
        let limits = &config.limits;
        let replicated = cluster.as_ref().map(|cluster| ReplicatedSessions::new(cluster.node(), limits.sessions_max));
        let (shared_rollouts, queries) = (RolloutBroadcasts::default(), Arc::new(NamedQueries::empty()));
        let cursors = Arc::<Cursors>::default();
        let rows = replicated
            .clone()
            .map(|sessions| ClusterRows::new(sessions, shared_rollouts.clone(), queries.clone(), cursors.clone()));
        let member =
            cluster.as_mut().zip(rows).and_then(|(cluster, rows)| cluster.member(Box::new(rows), peers::kind_of));
        let (service, decided) = open(config, member)?;
        let service = Arc::new(service);
        let router = Arc::new(Router::new(Recorder::new(service.clone())));
        let events = Arc::new(Events::new(router.clone(), service.head()));
        let changes = Arc::new(Changes::new(service.head()));
        let notifiers = (events.clone(), changes.clone());
        let broker = Arc::new(Broker::new(service.clone(), events, router, authority.clone(), limits));
        // Before the wills that are due.
        if let Some((cluster, replicated)) = cluster.zip(replicated) {
            broker.join_cluster(replicated, cluster.record_bytes_max(), cluster.messenger());
        }
        let peers = BrokerBroadcasts(PeerBroadcasts(broker.clone()));
        let (mut rollouts, mut stored) = (RolloutRows::default(), QueryRows::default());
        let restored = broker
            .restore(|key, value| stored.take(key, &value) || cursors.take(key, &value) || rollouts.take(key, value));
        restored.map_err(|error| ServeError::Store { path: config.store.path.clone(), error })?;
        let connection_permits = Arc::new(Semaphore::new(limits.connections_max));
        let listeners = Arc::<ListenerCounters>::default();
        let telemetry = Arc::new(Telemetry {
            broker: broker.clone(),
            service: service.clone(),
            listeners: listeners.clone(),
            authority: authority.clone(),
            connection_permits: (connection_permits.clone(), limits.connections_max),
            tls,
        });
        queries.restore(stored, named::configured(config)?, &service);
        let search = FleetSearch::new(service.clone(), changes, telemetry.clone(), authority.clone(), queries);
        let search = Arc::new(search);
        broker.set_search(&search);
        let rollouts = Arc::new(RolloutController::new(rollouts, search.clone(), limits.document()));
        rollouts.share(&shared_rollouts);
        let api = Arc::new(Api::new(search, telemetry, rollouts.clone(), cursors.clone(), limits));
        let streams = Arc::downgrade(&api);
        broker.set_disconnect_streams(Box::new(move |principal| {
            streams.upgrade().map_or((0, 0), |api| api.disconnect(principal))
        }));
        let quotas = service.quotas().clone();
        let listener_context =
            ListenerContext { quotas, connection_permits, counters: listeners, closing: broker.closing() };
        Ok((Self { service, authority, broker, rollouts, cursors, api, listener_context }, move || {
            decided.notify((notifiers, peers))
        }))
    }

    /// Starts all listeners.
    fn start(&self, config: &Config, bound: Vec<(Listener, SocketAddr)>, notifier: NotifierThread) -> RunningTasks {
        let mut tasks = JoinSet::new();
        self.broker.announce_start();
        self.api.set_mqtt_listeners(mqtt_listeners(&bound, &config.listeners));
        for ((listener, address), settings) in bound.into_iter().zip(&config.listeners) {
            print_address(settings, address);
            self.start_listener(&mut tasks, listener, settings, &config.limits);
        }
        tasks.spawn(self.broker.clone().watch_sessions());
        tasks.spawn(self.broker.clone().watch_memory());
        tasks.spawn(self.broker.clone().watch_clock());
        tasks.spawn(self.broker.clone().watch_nodes());
        tasks.spawn(self.broker.clone().send_rows());
        tasks.spawn(self.cursors.clone().agree(self.service.clone(), self.broker.closing()));
        tasks.spawn(rollouts::run(self.rollouts.clone()));
        RunningTasks { tasks, notifier }
    }

    /// Starts `listener` with the handler that its settings name.
    fn start_listener(&self, tasks: &mut JoinSet<()>, listener: Listener, settings: &ListenerConfig, limits: &Limits) {
        let (listener_context, mqtt) = (self.listener_context.clone(), MqttHandler::new(self.broker.clone()));
        match &settings.kind {
            ListenerKind::Mqtt => tasks.spawn(listener.run(listener_context, mqtt)),
            ListenerKind::Http(http) => {
                let (routes, sessions) = (http::router(self.api.clone()), self.api.sessions());
                let options = HttpOptions::of(settings, http, limits).with_signed_urls(self.authority.clone());
                let handler = HttpHandler::new(
                    routes,
                    sessions,
                    Some(mqtt),
                    listener_context.quotas.clone(),
                    options,
                    listener_context.closing.clone(),
                );
                tasks.spawn(listener.run(listener_context, handler))
            }
        };
    }

    /// Shuts everything down in order.
    async fn shut_down(self, RunningTasks { tasks, notifier }: RunningTasks) -> Result<(), &'static str> {
        let Self { service, broker, api, listener_context: ListenerContext { counters, .. }, .. } = self;
        tracing::info!(sessions = broker.sessions.count(), "shutting down");
        broker.close();
        api.close();
        let left = join_all(tasks).await;
        broker.finish().await;
        let ended = task::spawn_blocking(move || {
            service.close();
            // The writer owned the sender of the channel, so the notifier ends too.
            notifier.thread.join()
        });
        let ended = left.and(if matches!(ended.await, Ok(Ok(()))) { Ok(()) } else { Err(NOTIFIER) });
        let connections_accepted = counters.connections_accepted.get();
        let (refused_and_dropped, quotas_met) = (losses(&counters, &broker), quotas_met(&broker));
        tracing::info!(connections_accepted, refused_and_dropped, quotas_met, "shutdown complete");
        ended
    }
}

/// Logs warnings about expiring certificates once a day, until the broker closes.
async fn watch_certificates(tls: Vec<(String, Arc<Tls>)>, broker: Arc<Broker>) {
    tokio::select! {
        () = tls::warn_of_expiries(&tls, EXPIRY_CHECK) => {}
        () = broker.closed() => {}
    }
}

/// Waits until a part stops that should not, and returns its name.
async fn first_stopped(tasks: &mut JoinSet<()>, notifier: &mut NotifierThread) -> &'static str {
    tokio::select! {
        _ = tasks.join_next() => TASK,
        _ = &mut notifier.ended => NOTIFIER,
    }
}

/// Waits until all tasks have ended.
async fn join_all(mut tasks: JoinSet<()>) -> Result<(), &'static str> {
    let mut ended = Ok(());
    while let Some(task) = tasks.join_next().await {
        ended = ended.and(task.map_err(|_| TASK));
    }
    ended
}

impl NotifierThread {
    fn start(notify: impl FnOnce() + Send + 'static) -> Result<Self, ServeError> {
        let (runs, ended) = oneshot::channel();
        let run = move || {
            let _dropped_at_the_end = runs;
            notify();
        };
        let thread = thread::Builder::new().name("notifier".to_owned()).spawn(run).map_err(ServeError::Thread)?;
        Ok(Self { thread, ended })
    }
}

impl Files {
    fn read(config: &Config, policy: Policy) -> Result<Self, ServeError> {
        let mut authority = Authority::open(config, policy, Clock::system()).map_err(ServeError::Login)?;
        let tls = config.listeners.iter().map(open_tls).collect::<Result<Vec<_>, _>>()?;
        for (listener, tls) in config.listeners.iter().zip(&tls) {
            if let Some(tls) = tls {
                authority.set_certificate_trust(&listener.name, tls.clone());
            }
        }
        let credentials = config.cluster.as_ref().map(connection::check_credentials);
        credentials.transpose().map_err(|error| ServeError::Credentials(error.to_string()))?;
        Ok(Self { authority, tls })
    }
}

fn open_tls(config: &ListenerConfig) -> Result<Option<Arc<Tls>>, ServeError> {
    let protocols = match config.kind {
        ListenerKind::Mqtt => mqtt::PROTOCOLS,
        ListenerKind::Http(_) => http::PROTOCOLS,
    };
    let opened = config.tls.as_ref().map(|tls| Tls::open(tls, protocols).map(Arc::new)).transpose();
    opened.map_err(|error| ServeError::Tls { name: config.name.clone(), error })
}

/// Returns the listeners for MQTT with their bound addresses.
fn mqtt_listeners(bound: &[(Listener, SocketAddr)], settings: &[ListenerConfig]) -> Vec<MqttListener> {
    let all = bound.iter().zip(settings).filter(|(_, settings)| matches!(settings.kind, ListenerKind::Mqtt));
    all.map(|((_, address), ListenerConfig { tls, anonymous, .. })| MqttListener {
        address: *address,
        tls: tls.is_some(),
        anonymous: *anonymous,
    })
    .collect()
}

/// Prints on standard output that `listener` accepts connections at `address`, and the URL of its dashboard if there is
/// one.
fn print_address(listener: &ListenerConfig, address: SocketAddr) {
    let name = &listener.name;
    let dashboard = dashboard_url(listener, address).map(|url| format!("dashboard {url}\n")).unwrap_or_default();
    let mut out = io::stdout().lock();
    let written = write!(out, "listening {name} {address}\n{dashboard}").and_then(|()| out.flush());
    if let Err(error) = written {
        tracing::warn!(listener = name, %address, %error, "listening, but cannot write to standard output");
    }
}

/// Returns the URL of the dashboard for a listener bound to `address`; `None` if it does not serve HTTP.
fn dashboard_url(listener: &ListenerConfig, address: SocketAddr) -> Option<String> {
    let ListenerKind::Http(http) = &listener.kind else { return None };
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    Some(match http.hosts.first() {
        // Behind a proxy on this machine the host is that of the proxy, unless TLS ends here.
        Some(host) if listener.tls.is_some() || !address.ip().to_canonical().is_loopback() => {
            format!("{scheme}://{host}:{}/", address.port())
        }
        _ => format!("{scheme}://{address}/"),
    })
}

/// Interval of the checks of certificates.
const EXPIRY_CHECK: Duration = Duration::from_secs(24 * 3600);
const NOTIFIER: &str = "the notifier thread";
const TASK: &str = "a listener or another task";

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

    use super::*;
    use crate::config::Host;

    #[test]
    fn builds_dashboard_urls() {
        let shipped = Config::default().listeners;
        let web = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
            let kind = ListenerKind::Http(crate::config::HttpConfig { hosts, ..Default::default() });
            ListenerConfig { kind, ..shipped[1].clone() }
        };
        for (listener, address, expected) in [
            (shipped[0].clone(), "127.0.0.1:1883", None),
            (shipped[1].clone(), "127.0.0.1:8080", Some("http://127.0.0.1:8080/")),
            (web(&["umbra.example.com"]), "127.0.0.1:81", Some("http://127.0.0.1:81/")),
            (web(&["umbra.example.com", "other"]), "0.0.0.0:81", Some("http://umbra.example.com:81/")),
            (web(&["2001:db8::1"]), "[::]:81", Some("http://[2001:db8::1]:81/")),
            (web(&[]), "[::1]:81", Some("http://[::1]:81/")),
        ] {
            assert_eq!(dashboard_url(&listener, address.parse().unwrap()).as_deref(), expected, "{address}");
        }
        let (certificate, key) = ("c".into(), "k".into());
        let tls = crate::config::TlsConfig { certificate, key, clients: None, record_bytes_max: 16_384 };
        let listener = ListenerConfig { tls: Some(tls), ..web(&["umbra.example.com"]) };
        for address in ["0.0.0.0:443", "127.0.0.1:443"] {
            let url = dashboard_url(&listener, address.parse().unwrap());
            assert_eq!(url.as_deref(), Some("https://umbra.example.com:443/"));
        }
    }

    /// The server kept running without events and replies, or without a listener.
    #[tokio::test]
    async fn detects_a_task_that_exits() {
        let (runs, stop) = std::sync::mpsc::channel::<()>();
        let mut notifier = NotifierThread::start(move || while stop.recv().is_ok() {}).unwrap();
        for panics in [false, true] {
            let mut tasks = JoinSet::new();
            tasks.spawn(std::future::pending());
            tasks.spawn(async move { assert!(!panics, "for the test") });
            assert_eq!(first_stopped(&mut tasks, &mut notifier).await, TASK);
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        drop(runs);
        assert_eq!(first_stopped(&mut tasks, &mut notifier).await, NOTIFIER);
        let mut notifier = NotifierThread::start(|| panic!("for the test")).unwrap();
        assert_eq!(first_stopped(&mut tasks, &mut notifier).await, NOTIFIER);
    }

    #[tokio::test]
    async fn detects_a_panic_during_shutdown() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        assert_eq!(join_all(tasks).await, Ok(()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async { panic!("for the test") });
        tasks.spawn(async {});
        assert_eq!(join_all(tasks).await, Err(TASK));
    }
}
