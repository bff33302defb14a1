//! What every request needs of the server.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    auth::Authority,
    changes::Changes,
    config::Limits,
    http::{openapi, problem::Problem, sessions::Sessions},
    service::Service,
    shadow::{DeviceId, DocumentLimits, Timestamp},
};

/// Which devices are connected, told by the broker.
pub trait Presence: Send + Sync {
    /// Whether `device` is connected; `None`: not known.
    fn connected(&self, device: &DeviceId) -> Option<bool>;
}

/// The state of the HTTP door.
pub struct Api {
    /// The way to a shadow.
    pub service: Arc<Service>,
    /// The feed of changes, for those who wait.
    pub changes: Arc<Changes>,
    /// Who is connected.
    pub presence: Arc<dyn Presence>,
    /// Who is let in, and may do what.
    pub(super) authority: Arc<Authority>,
    /// Who signed in with a browser.
    pub(super) sessions: Arc<Sessions>,
    /// Limits of one shadow.
    pub(super) document: DocumentLimits,
    /// Bytes of a request's body.
    pub(super) body_bytes_max: usize,
    /// Bytes that wait for one reader of events.
    pub(super) event_bytes_max: usize,
    pub(super) openapi: Bytes,
    reads: Arc<Semaphore>,
    waiters: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Walks through the store that may run at once: lists, histories, former versions. More wait their turn.
const READS_MAX: usize = 8;

/// Requests that may wait for a change at once.
const WAITERS_MAX: usize = 8_192;

/// Readers of events at once.
const STREAMS_MAX: usize = 8_192;

impl Presence for () {
    fn connected(&self, _: &DeviceId) -> Option<bool> {
        None
    }
}

impl Api {
    /// The door to `service`, whose changes are told through `changes`.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        changes: Arc<Changes>,
        presence: Arc<dyn Presence>,
        authority: Arc<Authority>,
        limits: &Limits,
    ) -> Self {
        Self {
            service,
            changes,
            presence,
            authority,
            sessions: Arc::default(),
            document: limits.document(),
            body_bytes_max: limits.packet_bytes_max,
            event_bytes_max: limits.outbox_bytes_max,
            openapi: openapi::document(&limits.document()),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            waiters: Arc::new(Semaphore::new(WAITERS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// Who signed in with a browser.
    #[must_use]
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }

    /// Ends everybody who waits for changes, so that their connections can end.
    pub fn close(&self) {
        self.changes.close();
    }

    pub(super) fn now(&self) -> Timestamp {
        self.service.now()
    }

    /// Waits for the turn of a walk through the store.
    pub(super) async fn read_turn(&self) -> OwnedSemaphorePermit {
        self.reads.clone().acquire_owned().await.expect("this semaphore is never closed")
    }

    /// A place among those who wait for a change.
    pub(super) fn waiter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.place(&self.waiters, "as many requests wait for changes as may")
    }

    /// A place among the readers of events.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.place(&self.streams, "there are as many readers of events as may be")
    }

    fn place(&self, places: &Arc<Semaphore>, quota: &str) -> Result<OwnedSemaphorePermit, Problem> {
        places.clone().try_acquire_owned().map_err(|_| Problem::too_many(quota, self.now()))
    }
}
