//! What every request needs of the server.

pub(super) mod aws;
pub(super) mod aws_topics;
pub(super) mod backup;
pub(super) mod conditional;
pub(super) mod cursor;
pub(super) mod device;
pub(super) mod devices;
pub(super) mod history;
pub(super) mod operating;
pub(super) mod payload;
pub(super) mod problem;
pub(super) mod query;
pub(super) mod shadows;
pub(super) mod submit;
pub(super) mod target;
pub(super) mod wait;
pub(super) mod writes;
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
    admission::{PrincipalPermit, Streaming},
    auth::{Access, Authority},
    config::{Limits, limits::STREAMS_MAX},
    engine::{Service, changes::Changes},
    http::{
        api::{cursor::Cursors, operating::Metrics, problem::Problem},
        auth::{caller::Caller, sessions::Sessions},
        openapi,
    },
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

/// An ordinary message that a client publishes over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedMessage {
    /// Where it is published.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// QoS 1, else 0.
    pub at_least_once: bool,
    /// Whether its topic keeps it.
    pub retain: bool,
    /// The payload format, if it is told.
    pub payload_is_utf8: Option<bool>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// Where a reply goes.
    pub response_topic: Option<String>,
    /// Correlation data for a reply.
    pub correlation_data: Option<Bytes>,
    /// Seconds the message stays worth delivering.
    pub expiry: Option<u32>,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Its topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The QoS it was published at.
    pub qos: u8,
    /// When it was published, in milliseconds since 1970.
    pub stored_at_ms: u64,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPublished {
    /// The topic, or the response topic, is none that anybody publishes to; the text follows its name.
    Topic(String),
    /// The client may not publish there.
    Forbidden,
    /// More than this quota.
    Quota(String),
}

/// Ordinary messages, which are the broker's.
pub trait MessageBroker: Send + Sync {
    /// Publishes `message` for a client with `access`.
    ///
    /// # Errors
    ///
    /// A [`NotPublished`]; nothing was changed.
    fn publish(&self, access: &Access, message: PublishedMessage) -> Result<(), NotPublished>;

    /// Returns the message that `topic` retains, whoever may receive it.
    fn retained(&self, topic: &str) -> Option<RetainedMessage>;

    /// Returns at most `limit` retained messages of the topics after `topic`, or from the first one on.
    fn retained_after(&self, topic: Option<&str>, limit: usize) -> Vec<RetainedMessage>;
}

/// The state of the HTTP door.
pub struct Api {
    /// The way to a shadow.
    pub service: Arc<Service>,
    /// The feed of changes, for those who wait.
    pub changes: Arc<Changes>,
    /// Who is connected.
    pub presence: Arc<dyn Presence>,
    /// Ordinary messages.
    pub messages: Arc<dyn MessageBroker>,
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
pub(super) type StreamPermit = (Streaming, OwnedSemaphorePermit);

/// The turn of a walk through the store, among those of its principal and among all.
pub(super) type ReadPermit = (PrincipalPermit, OwnedSemaphorePermit);

impl Api {
    /// The door to `service`, whose changes are told through `changes`.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        changes: Arc<Changes>,
        presence: Arc<dyn Presence>,
        messages: Arc<dyn MessageBroker>,
        metrics: Arc<dyn Metrics>,
        authority: Arc<Authority>,
        limits: &Limits,
    ) -> Self {
        Self {
            service,
            changes,
            presence,
            messages,
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
    pub(super) async fn read_turn(&self, caller: &Caller) -> ReadPermit {
        let own = self.service.quotas().principals.reading(caller.principal().name(), Instant::now()).await;
        (own, self.reads.clone().acquire_owned().await.expect("this semaphore is never closed"))
    }

    /// Counts a request of `caller` that is about no single shadow.
    pub(super) fn admit(&self, caller: &Caller) -> Result<(), Problem> {
        let admitted = self.service.quotas().admit_general(caller.principal().name(), Instant::now());
        admitted.map_err(|rejection| Problem::general(&rejection, self.now()))
    }

    /// A place for `caller` among those who wait for a change.
    pub(super) fn waiter(&self, caller: &Caller) -> Result<StreamPermit, Problem> {
        let own = self.streaming(caller)?;
        Ok((own, self.place(&self.waiters, "as many requests wait for changes as may")?))
    }

    /// A place for `caller` among the readers of events.
    pub(super) fn stream(&self, caller: &Caller) -> Result<StreamPermit, Problem> {
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
