//! The state that all handlers share.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Authority,
    config::{Limits, limits::STREAMS_MAX},
    engine::{Service, changes::Changes},
    http::{
        auth::{kicks::Kicks, sessions::Sessions},
        broker::{MessageBroker, Metrics, MqttSessions, Principals},
        cursor::Cursors,
        parameter::BadParameter,
        problem::Problem,
    },
    rollouts::RolloutController,
    search::{FleetSearch, Presence},
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
    pub(super) rollouts: Arc<RolloutController>,
    /// The secret for sealed cursors.
    pub(super) cursors: Arc<Cursors>,
    /// The limits of a shadow.
    pub(super) document: DocumentLimits,
    /// Most bytes of a request body.
    pub(super) body_bytes_max: usize,
    /// Most bytes queued for one event stream.
    pub(super) event_bytes_max: usize,
    /// The description of the API, once somebody has asked for it.
    pub(super) openapi: OnceLock<Bytes>,
    /// The MQTT listeners; set once, after all are bound.
    pub(super) mqtt_listeners: OnceLock<Vec<MqttListener>>,
    pub(super) waiters: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    closed: AtomicBool,
}

impl Api {
    /// Creates the state for the service that `search` searches.
    #[must_use]
    pub fn new(
        search: Arc<FleetSearch>,
        broker: Arc<impl MessageBroker + Metrics + Principals + MqttSessions + 'static>,
        rollouts: Arc<RolloutController>,
        cursors: Arc<Cursors>,
        limits: &Limits,
    ) -> Self {
        let FleetSearch { service, changes, presence, authority, .. } = &*search;
        let (service, authority) = (service.clone(), authority.clone());
        Self {
            rollouts,
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
            cursors,
            document: limits.document(),
            body_bytes_max: limits.packet_bytes_max,
            event_bytes_max: limits.outbox_bytes_max,
            openapi: OnceLock::new(),
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

    /// Ends the driver of rollouts, and all event streams and waits, so that their connections can close.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Before the feed that its driver follows.
        self.rollouts.close();
        self.changes.close();
        self.search.queries.close();
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

    /// Returns the permit for a backup, of which there is one.
    pub(super) fn backup_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.try_acquire(&self.backups, "another backup is being taken")
    }

    pub(super) fn try_acquire(&self, permits: &Arc<Semaphore>, quota: &str) -> Result<OwnedSemaphorePermit, Problem> {
        permits.clone().try_acquire_owned().map_err(|_| Problem::too_many(quota, self.now()))
    }
}
