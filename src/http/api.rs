//! What every request needs of the server.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Authority,
    changes::Changes,
    config::Limits,
    http::{caller::Caller, cursor::Cursors, openapi, operating::Metrics, problem::Problem, sessions::Sessions},
    limits::STREAMS_MAX,
    quota::{Share, Streaming},
    service::Service,
    shadow::{DeviceId, DocumentLimits, Timestamp},
    wire::Seen,
};

/// Which devices are connected, told by the broker.
pub trait Presence: Send + Sync {
    /// Whether `device` is connected.
    fn connected(&self, device: &DeviceId) -> bool;

    /// How `device` was seen last, if it was.
    fn seen(&self, device: &DeviceId) -> Option<Seen>;
}

/// A listener for MQTT, as somebody who wants to connect a device needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct MqttListener {
    /// The bound address.
    pub address: SocketAddr,
    /// True if clients need TLS.
    pub tls: bool,
    /// True if clients need no credentials.
    pub anonymous: bool,
}

/// The state of the HTTP door.
pub struct Api {
    /// The way to a shadow.
    pub service: Arc<Service>,
    /// The feed of changes, for those who wait.
    pub changes: Arc<Changes>,
    /// Who is connected.
    pub presence: Arc<dyn Presence>,
    /// What there is to measure.
    pub metrics: Arc<dyn Metrics>,
    /// Who is let in, and may do what.
    pub(super) authority: Arc<Authority>,
    /// Who signed in with a browser.
    pub(super) sessions: Arc<Sessions>,
    /// Where pages of lists ended.
    pub(super) cursors: Cursors,
    /// Limits of one shadow.
    pub(super) document: DocumentLimits,
    /// Bytes of a request's body.
    pub(super) body_bytes_max: usize,
    /// Bytes that wait for one reader of events.
    pub(super) event_bytes_max: usize,
    pub(super) openapi: Bytes,
    /// The listeners for MQTT; set once, when all are bound.
    pub(super) mqtt_listeners: OnceLock<Vec<MqttListener>>,
    reads: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    closed: AtomicBool,
}

/// Walks through the store that may run at once: lists, histories, former versions. More wait their turn.
const READS_MAX: usize = 8;

/// A place of somebody who stays to be told something, among those of its principal and among all.
pub(super) type Place = (Streaming, OwnedSemaphorePermit);

/// The turn of a walk through the store, among those of its principal and among all.
pub(super) type Turn = (Share, OwnedSemaphorePermit);

impl Api {
    /// The door to `service`, whose changes are told through `changes`.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        changes: Arc<Changes>,
        presence: Arc<dyn Presence>,
        metrics: Arc<dyn Metrics>,
        authority: Arc<Authority>,
        limits: &Limits,
    ) -> Self {
        Self {
            service,
            changes,
            presence,
            metrics,
            authority,
            sessions: Arc::default(),
            cursors: Cursors::new(),
            document: limits.document(),
            body_bytes_max: limits.packet_bytes_max,
            event_bytes_max: limits.outbox_bytes_max,
            openapi: openapi::document(&limits.document()),
            mqtt_listeners: OnceLock::new(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            waiters: Arc::new(Semaphore::new(STREAMS_MAX as usize)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX as usize)),
            backups: Arc::new(Semaphore::new(1)),
            closed: AtomicBool::new(false),
        }
    }

    /// Who signed in with a browser.
    #[must_use]
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }

    /// Sets the listeners for MQTT that pages show to whoever wants to connect a device. Only the first call counts.
    pub fn set_mqtt_listeners(&self, listeners: Vec<MqttListener>) {
        let _ = self.mqtt_listeners.set(listeners);
    }

    /// Ends everybody who waits for changes, so that their connections can end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changes.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.service.now()
    }

    /// Waits for the turn of a walk of `caller` through the store: for its own others first, so that it is in the way
    /// of everybody with these alone.
    pub(super) async fn read_turn(&self, caller: &Caller) -> Turn {
        let own = self.service.quotas().principals.reading(caller.principal().name(), Instant::now()).await;
        (own, self.reads.clone().acquire_owned().await.expect("this semaphore is never closed"))
    }

    /// Counts a request of `caller` that is about no single shadow.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Problem> {
        let admitted = self.service.quotas().admit_general(caller.principal().name(), Instant::now());
        admitted.map_err(|rejection| Problem::general(&rejection, self.now()))
    }

    /// A place for `caller` among those who wait for a change.
    pub(super) fn waiter(&self, caller: &Caller) -> Result<Place, Problem> {
        let own = self.streaming(caller)?;
        Ok((own, self.place(&self.waiters, "as many requests wait for changes as may")?))
    }

    /// A place for `caller` among the readers of events.
    pub(super) fn stream(&self, caller: &Caller) -> Result<Place, Problem> {
        let own = self.streaming(caller)?;
        Ok((own, self.place(&self.streams, "there are as many readers of events as may be")?))
    }

    fn streaming(&self, caller: &Caller) -> Result<Streaming, Problem> {
        let counted = self.service.quotas().admit_stream(caller.principal().name(), Instant::now());
        counted.map_err(|rejection| Problem::general(&rejection, self.now()))
    }

    /// The one place for a backup.
    pub(super) fn backup(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.place(&self.backups, "another backup is being taken")
    }

    fn place(&self, places: &Arc<Semaphore>, quota: &str) -> Result<OwnedSemaphorePermit, Problem> {
        places.clone().try_acquire_owned().map_err(|_| Problem::too_many(quota, self.now()))
    }
}
