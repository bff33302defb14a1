//! The state shared by all handlers, and the traits through which the HTTP front end uses the broker.

pub(super) mod aggregate;
pub(super) mod aws;
pub(super) mod aws_index;
pub(super) mod aws_topics;
pub(super) mod backup;
pub(super) mod cluster;
pub(super) mod conditional;
pub(super) mod cursor;
pub(super) mod device;
pub(super) mod devices;
pub(super) mod history;
pub(super) mod operating;
pub(super) mod payload;
pub(super) mod principals;
pub(super) mod problem;
pub(super) mod purge;
pub(super) mod queries;
pub(super) mod query;
pub(super) mod roles;
pub(super) mod rollouts;
pub(super) mod search;
pub(super) mod sessions;
pub(super) mod shadows;
pub(super) mod submit;
pub(super) mod target;
mod text_cursor;
pub(super) mod wait;
pub(super) mod writes;

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    admission::Streaming,
    auth::{Access, Authority},
    config::{Limits, limits::STREAMS_MAX},
    engine::{Service, changes::Changes},
    http::{
        api::{
            cursor::Cursors, operating::Metrics, principals::Principals, problem::Problem, query::BadParameter,
            sessions::MqttSessions,
        },
        auth::{caller::Caller, kicks::Kicks, sessions::Sessions},
        openapi,
        rollouts::{RolloutRows, Rollouts},
    },
    search::{FleetSearch, Presence, ReadPermit, StreamPermit},
    shadow::{DocumentLimits, Timestamp},
};

/// An MQTT listener, as described to users who connect a device.
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
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// QoS 1, else 0.
    pub at_least_once: bool,
    /// True if the topic retains it.
    pub retain: bool,
    /// The payload format indicator, if sent.
    pub payload_is_utf8: Option<bool>,
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// The topic for replies.
    pub response_topic: Option<String>,
    /// The correlation data for replies.
    pub correlation_data: Option<Bytes>,
    /// Seconds until the message expires.
    pub expiry: Option<u32>,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedMessage {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// The QoS of the publication.
    pub qos: u8,
    /// The time of the publication, in milliseconds since 1970.
    pub stored_at_ms: u64,
    /// Name and value pairs, in order.
    pub user: Vec<(String, String)>,
}

/// The reason that a message was not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPublished {
    /// The topic or response topic is invalid or reserved. The text follows the topic's name in a message.
    Topic(String),
    /// The client may not publish to the topic.
    Forbidden,
    /// The named quota is exceeded.
    Quota(String),
    /// The disk did not take the message in time; it may have been published and retained.
    Unknown,
}

/// The broker, as far as it handles ordinary messages.
pub trait MessageBroker: Send + Sync {
    /// Publishes `message` for a client with `access`. Returns when it would be acknowledged over MQTT.
    ///
    /// # Errors
    ///
    /// A [`NotPublished`].
    fn publish<'a>(&'a self, access: &'a Access, message: PublishedMessage) -> BoxFuture<'a, Result<(), NotPublished>>;

    /// Returns the retained message of `topic`. The caller checks the right to receive it.
    fn retained(&self, topic: &str) -> Option<RetainedMessage>;

    /// Returns at most `limit` retained messages of the topics after `topic`, or of the first topics.
    fn retained_after(&self, topic: Option<&str>, limit: usize) -> Vec<RetainedMessage>;
}

/// The state of the HTTP front end.
pub struct Api {
    /// The engine.
    pub service: Arc<Service>,
    /// The change feed, for event streams and waits.
    pub changes: Arc<Changes>,
    /// The searches of the fleet, with the named queries.
    pub search: Arc<FleetSearch>,
    /// The presence of devices.
    pub presence: Arc<dyn Presence>,
    /// The broker for ordinary messages.
    pub messages: Arc<dyn MessageBroker>,
    /// The metrics page.
    pub metrics: Arc<dyn Metrics>,
    /// The connections of principals.
    pub principals: Arc<dyn Principals>,
    /// The MQTT sessions and retained messages.
    pub mqtt_sessions: Arc<dyn MqttSessions>,
    /// Authentication and authorization.
    pub(super) authority: Arc<Authority>,
    /// The browser sessions.
    pub(super) sessions: Arc<Sessions>,
    /// The signals that end streams.
    pub(super) kicks: Kicks,
    /// The rollouts.
    pub(super) rollouts: Arc<Rollouts>,
    /// The key for sealed cursors.
    pub(super) cursors: Cursors,
    /// The limits of a shadow.
    pub(super) document: DocumentLimits,
    /// Most bytes of a request body.
    pub(super) body_bytes_max: usize,
    /// Most bytes queued for one event stream.
    pub(super) event_bytes_max: usize,
    pub(super) openapi: Bytes,
    /// The MQTT listeners; set once, after all are bound.
    pub(super) mqtt_listeners: OnceLock<Vec<MqttListener>>,
    waiters: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    closed: AtomicBool,
}

impl Api {
    /// Creates the state for the service that `search` searches, whose store had the rows `rollouts`.
    #[must_use]
    pub fn new(
        search: Arc<FleetSearch>,
        broker: Arc<impl MessageBroker + Metrics + Principals + MqttSessions + 'static>,
        rollouts: RolloutRows,
        limits: &Limits,
    ) -> Self {
        let FleetSearch { service, changes, presence, authority, .. } = &*search;
        let (service, authority) = (service.clone(), authority.clone());
        Self {
            rollouts: Arc::new(Rollouts::restore(rollouts, &service, &authority)),
            service,
            changes: changes.clone(),
            presence: presence.clone(),
            messages: broker.clone(),
            metrics: broker.clone(),
            principals: broker.clone(),
            mqtt_sessions: broker,
            authority,
            search: search.clone(),
            sessions: Arc::default(),
            kicks: Kicks::default(),
            cursors: Cursors::new(),
            document: limits.document(),
            body_bytes_max: limits.packet_bytes_max,
            event_bytes_max: limits.outbox_bytes_max,
            openapi: openapi::document(&limits.document()),
            mqtt_listeners: OnceLock::new(),
            waiters: Arc::new(Semaphore::new(STREAMS_MAX as usize)),
            backups: Arc::new(Semaphore::new(1)),
            closed: AtomicBool::new(false),
        }
    }

    /// Returns the browser sessions.
    #[must_use]
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }

    /// Ends the streams and browser sessions of `principal`. Returns the numbers of both.
    pub fn disconnect(&self, principal: &str) -> (usize, usize) {
        let sign_ins = self.sessions.end_of(principal);
        (self.kicks.kick(principal), sign_ins)
    }

    /// Sets the MQTT listeners that the dashboard shows. Only the first call has an effect.
    pub fn set_mqtt_listeners(&self, listeners: Vec<MqttListener>) {
        let _ = self.mqtt_listeners.set(listeners);
    }

    /// Ends all event streams and waits, so that their connections can close.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changes.close();
        self.rollouts.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.service.now()
    }

    /// Returns the refusal of a request for its parameter `bad`.
    pub(super) fn invalid(&self, bad: &BadParameter) -> Problem {
        Problem::parameter(&bad.name, &bad.reason, self.now())
    }

    /// Waits for a permit for a range read by `caller`.
    pub(super) async fn read_turn(&self, caller: &Caller) -> ReadPermit {
        self.search.read_turn(&caller.quota(self)).await
    }

    /// Returns a permit for a wait of `caller`.
    pub(super) fn wait_permit(&self, caller: &mut Caller) -> Result<StreamPermit, Problem> {
        caller.end_when_kicked(self);
        let own = self.service.quotas().admit_stream(&caller.quota(self));
        let own: Streaming = own.map_err(|rejection| Problem::general(&rejection, self.now()))?;
        Ok((own, self.try_acquire(&self.waiters, "too many requests wait for changes")?))
    }

    /// Returns a permit for an event stream of `caller`.
    pub(super) fn stream_permit(&self, caller: &mut Caller) -> Result<StreamPermit, Problem> {
        caller.end_when_kicked(self);
        let permit = self.search.stream_permit(&caller.quota(self));
        permit.map_err(|rejection| Problem::general(&rejection, self.now()))
    }

    /// Returns the permit for a backup, of which there is one.
    pub(super) fn backup_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.try_acquire(&self.backups, "another backup is being taken")
    }

    fn try_acquire(&self, permits: &Arc<Semaphore>, quota: &str) -> Result<OwnedSemaphorePermit, Problem> {
        permits.clone().try_acquire_owned().map_err(|_| Problem::too_many(quota, self.now()))
    }
}
