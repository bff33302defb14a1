//! Searches of the fleet on behalf of a reader, for both front ends.
//!
//! [`scan`] reads the devices that a reader may see, [`visible`] cuts each to the part that it may see. [`live`] follows the
//! devices for which a query is true, [`named`] keeps the queries that have a name. The queries themselves are pure
//! ([`crate::fleet`]).
//!
//! *Not here:* how a search is asked for and answered. That is server-sent events and JSON in [`crate::http`], and messages in
//! [`crate::mqtt`].

pub(crate) mod live;
pub mod named;
pub(crate) mod scan;
pub(crate) mod visible;

use std::{sync::Arc, time::Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    admission::{PrincipalPermit, PrincipalQuota, Streaming},
    auth::{Access, Authority},
    config::limits::STREAMS_MAX,
    engine::{Service, changes::Changes},
    search::named::NamedQueries,
    shadow::{DeviceId, Rejection},
    wire::Seen,
};

/// The presence of devices, provided by the broker.
pub trait Presence: Send + Sync {
    /// Returns true if `device` is connected.
    fn connected(&self, device: &DeviceId) -> bool;

    /// Returns the last connection of `device`, if there was one.
    fn seen(&self, device: &DeviceId) -> Option<Seen>;

    /// Returns the number of the last change of presence.
    fn newest_change(&self) -> u64;

    /// Returns a receiver of that number, which wakes at each change.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Returns the devices whose last change has a number above `after`, oldest change first, at most `limit`.
    fn changed_after(&self, after: u64, limit: usize) -> Vec<(u64, DeviceId)>;
}

/// A client on whose behalf the fleet is searched.
pub(crate) trait Reader: Send {
    /// Returns the rights.
    fn access(&self) -> &Access;

    /// Updates the rights. Returns false if there are none any more.
    fn renew(&mut self, authority: &Authority) -> bool;

    /// Waits until [`Self::renew`] may have a new result.
    fn rights_may_change(&self, authority: &Authority) -> impl Future<Output = ()> + Send;
}

/// A permit for a range read of the store, from the quota of its principal and the limit for all.
pub(crate) type ReadPermit = (PrincipalPermit, OwnedSemaphorePermit);

/// A permit for a stream of events, from the quota of its principal and the limit for all.
pub(crate) type StreamPermit = (Streaming, OwnedSemaphorePermit);

/// Most concurrent range reads of the store: lists, histories, older versions. Others wait.
const READS_MAX: usize = 8;
/// The time after which a client may ask again for a stream. It is a guess: a stream ends at any time.
const STREAM_WAIT_MS: u64 = 1_000;

/// The parts of the server that a search needs.
pub struct FleetSearch {
    /// The engine.
    pub service: Arc<Service>,
    /// The change feed.
    pub changes: Arc<Changes>,
    /// The presence of devices.
    pub presence: Arc<dyn Presence>,
    /// The named queries.
    pub queries: Arc<NamedQueries>,
    pub(crate) authority: Arc<Authority>,
    reads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl FleetSearch {
    /// Returns the searches of the fleet of `service`.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        changes: Arc<Changes>,
        presence: Arc<dyn Presence>,
        authority: Arc<Authority>,
        queries: Arc<NamedQueries>,
    ) -> Self {
        Self {
            service,
            changes,
            presence,
            queries,
            authority,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX as usize)),
        }
    }

    /// Returns the quota of the principal of `access`.
    pub(crate) fn quota(&self, access: &Access) -> Arc<PrincipalQuota> {
        let principals = &self.service.quotas().principals;
        principals.of(access.principal().name(), access.limits(), Instant::now())
    }

    /// Waits for a permit for a range read by the principal with this quota. The permit of the principal comes first, so that a
    /// principal with many reads delays only its own.
    pub(crate) async fn read_turn(&self, quota: &Arc<PrincipalQuota>) -> ReadPermit {
        let own = self.service.quotas().principals.reading(quota).await;
        (own, self.reads.clone().acquire_owned().await.expect("this semaphore is never closed"))
    }

    /// Returns a permit for a stream of events to the principal with this quota.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`] with the quota.
    pub(crate) fn stream_permit(&self, quota: &Arc<PrincipalQuota>) -> Result<StreamPermit, Rejection> {
        let own = self.service.quotas().admit_stream(quota)?;
        let too_many = |_| Rejection::TooManyRequests {
            quota: "too many event streams".into(),
            retry_after_ms: Some(STREAM_WAIT_MS),
        };
        Ok((own, self.streams.clone().try_acquire_owned().map_err(too_many)?))
    }
}

impl std::fmt::Debug for FleetSearch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetSearch").finish_non_exhaustive()
    }
}
