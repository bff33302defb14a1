//! The store of a node of a cluster before it starts: one that is there, an empty one, or that of another node.
//!
//! While the node connects to its cluster and receives a store, its listeners of HTTP answer `/readyz` with how far it is, and `/healthz`; the others are not bound.
//! A store that cannot go on from the log is replaced only if the operator has allowed it, and is kept under another name.

use std::{collections::BTreeMap, fs, io::Write, net::SocketAddr, sync::Arc};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{
    ServeError,
    binding::{Bound, bind},
    opening::{log_place, store_options},
};
use crate::{
    admission::Quotas,
    clock::Clock,
    cluster::{
        membership::Membership,
        seeding::{Notices, SeedSource},
    },
    config::{ClusterSettings, Config, ListenerKind},
    engine::Service,
    http::{self, HttpHandler, HttpOptions},
    mqtt::connection::handler::MqttHandler,
    net::{Listener, ListenerContext, Tls, inherited::InheritedSockets},
    store::{NodeId, Pages, SeedOffer, Seq, State},
};

/// A node that has joined its cluster, and has its store or begins with an empty one.
pub(super) struct Entered {
    pub(super) membership: Membership,
    /// Keep the log until it is applied.
    pub(super) notices: Option<Notices>,
    /// The listeners that answer until it serves.
    pub(super) listeners: EarlyListeners,
}

/// Joins the cluster of `settings`, and makes the store of that of another node if there is none, or if it is too old and the operator
/// allows to `reseed` it. Returns `None` if `shutdown` resolves before.
pub(super) async fn enter(
    config: &Config,
    settings: &ClusterSettings,
    reseed: bool,
    (tls, inherited): (&[Option<Arc<Tls>>], &mut InheritedSockets),
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Entered>, ServeError> {
    let listeners = EarlyListeners::start(config, tls, inherited)?;
    let entered = tokio::select! {
        entered = join(config, settings, reseed, listeners.state.clone()) => Some(entered),
        () = shutdown => None,
    };
    match entered {
        Some(Ok((membership, notices))) => Ok(Some(Entered { membership, notices, listeners })),
        Some(Err(error)) => Err(error),
        None => {
            listeners.stop().await;
            Ok(None)
        }
    }
}

/// Joins the cluster and makes the store, as [`enter`] does.
async fn join(
    config: &Config,
    settings: &ClusterSettings,
    reseed: bool,
    state: watch::Sender<String>,
) -> Result<(Membership, Option<Notices>), ServeError> {
    // A link whose target is away is a store that cannot be opened, and not none.
    let (has_store, place) = (fs::symlink_metadata(&config.store.path).is_ok(), log_place(config)?);
    let applied = place.map_or(0, |place| place.number());
    let joined = Membership::join(settings, applied, &state).await;
    let membership = joined.map_err(|error| ServeError::Cluster(error.to_string()))?;
    let log_kept = place.map(|_| membership.keep_log(applied + 1));
    let is_wanted = match place {
        None => !has_store && config.store.create,
        Some(place) if reseed => membership.must_reseed(&place).await,
        Some(_) => false,
    };
    if !is_wanted {
        return Ok((membership, log_kept));
    }
    drop(log_kept);
    state.send_replace("This node asks the others for a store".to_owned());
    let mut options = store_options(&config.store, &config.limits);
    // The new store is made beside the former one, and not beside a link to it.
    options.path = fs::canonicalize(&options.path).unwrap_or(options.path);
    let seeded = membership.seed(options, has_store, state).await;
    let seeded = seeded.map_err(|error| ServeError::Store { path: config.store.path.clone(), error })?;
    let notices = Some(seeded.unwrap_or_else(|| membership.keep_log(1)));
    Ok((membership, notices))
}

/// The listeners of HTTP of a node that joins its cluster.
pub(super) struct EarlyListeners {
    /// A sentence about what the node does.
    state: watch::Sender<String>,
    closing: watch::Sender<bool>,
    /// Their places in the configuration.
    places: Vec<usize>,
    tasks: JoinSet<(usize, Listener, SocketAddr)>,
}

impl EarlyListeners {
    fn start(config: &Config, tls: &[Option<Arc<Tls>>], inherited: &mut InheritedSockets) -> Result<Self, ServeError> {
        let (state, shown) = watch::channel("This node connects to the NATS servers of its cluster".to_owned());
        let (closing, closed) = watch::channel(false);
        let limits = &config.limits;
        let context = ListenerContext {
            quotas: Arc::new(Quotas::new(limits)),
            connection_permits: Arc::new(Semaphore::new(limits.connections_max)),
            counters: Arc::default(),
            closing: closed,
        };
        let (mut tasks, mut places) = (JoinSet::new(), Vec::new());
        for (index, (settings, tls)) in config.listeners.iter().zip(tls).enumerate() {
            let ListenerKind::Http(http) = &settings.kind else { continue };
            let (listener, address) = bind(config, index, (settings, tls.clone()), inherited)?;
            let handler = HttpHandler::new(
                http::starting(shown.clone(), Clock::system()),
                Arc::default(),
                None::<MqttHandler>,
                context.quotas.clone(),
                HttpOptions::of(settings, http, limits),
                context.closing.clone(),
            );
            tracing::info!(listener = settings.name, %address, "answers /readyz while this node joins its cluster");
            let context = context.clone();
            places.push(index);
            tasks.spawn(async move { (index, listener.run_for_now(context, handler).await, address) });
        }
        Ok(Self { state, closing, places, tasks })
    }

    /// Returns true if the listener at this place of the configuration is one of them.
    pub(super) fn has(&self, index: usize) -> bool {
        self.places.contains(&index)
    }

    /// Has them answer with this sentence.
    pub(super) fn say(&self, sentence: &str) {
        self.state.send_replace(sentence.to_owned());
    }

    /// Ends the connections, and returns the listeners, whose sockets stay.
    pub(super) async fn stop(mut self) -> BTreeMap<usize, Bound> {
        self.closing.send_replace(true);
        let mut bound = BTreeMap::new();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((index, listener, address)) = ended {
                bound.insert(index, (listener, address));
            }
        }
        bound
    }
}

/// The store of this node, for others that have none.
pub(super) struct StoreSource {
    pub(super) service: Arc<Service>,
    pub(super) node: NodeId,
}

impl SeedSource for StoreSource {
    fn offer(&self) -> Option<SeedOffer> {
        let health = self.service.health();
        let member = health.member?;
        let is_sound = health.pages == Pages::Sound && matches!(health.state, State::Writable | State::DiskLow(_));
        let in_file = match member.latched.is_none() && is_sound {
            true => self.service.applied_in_file().ok(),
            false => None,
        };
        // Of a store that cannot be streamed others learn as well: none may begin empty beside it.
        let (can_stream, is_deciding) = (in_file.is_some(), member.is_deciding);
        let applied = in_file.map_or(member.applied, |applied| applied.map_or(0, |applied| applied.number));
        let has_data = applied > 0 || health.head > Seq(0) || health.rows > 0 || health.row_log_bytes > 0;
        let (source, file_bytes) = (self.node, health.file_bytes);
        has_data.then_some(SeedOffer { source, applied, file_bytes, is_deciding, is_busy: false, can_stream })
    }

    fn back_up(&self, out: &mut dyn Write) -> Result<(), String> {
        self.service.back_up(out).map_err(|error| error.to_string())
    }
}
