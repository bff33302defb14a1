//! The engine: the only way to a shadow, for every front end.
//!
//! 1. A front end counts a request against its quotas ([`Service::admit`]), reserves memory in the queue
//!    ([`Service::reserve`]) and submits a command ([`Permit::submit`]).
//! 2. The store's writer decides it and commits.
//! 3. The notifier thread ([`Outcomes::announce`]) takes outcomes in the order of the journal: it publishes the events
//!    of a change, then answers the requester.
//!
//! *Invariant:* the events of one shadow leave in version order, and no acknowledgement overtakes the events it
//! acknowledges.
//!
//! Reads bypass the queue: a reader sees the newest committed document at once.

mod accepted;
pub mod changes;
mod conflict_base;
mod former;
mod notify;
mod reads;
mod refusals;
mod submission;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, mpsc},
    time::Instant,
};

pub(crate) use self::{accepted::accepted, submission::log_refusal};
pub use self::{
    former::AtVersion,
    notify::{Notifier, Outcome, Outcomes},
    refusals::{FollowedRefusal, RefusalPosition},
    submission::{AcceptedCommand, Permit, Requester, Submission},
};
use self::{refusals::Refusals, submission::PendingReply};
use crate::{
    admission::{Admitted, PrincipalPermit, PrincipalQuota, Quotas},
    auth::Principal,
    clock::Clock,
    observability::{
        metrics::{CommitMetrics, OutcomeCounters},
        request_id::RequestId,
    },
    shadow::{Rejection, ShadowKey, Timestamp},
    store::{self, COMMAND_OVERHEAD_BYTES, CopyError, Health, Seq, Store, StoreError, StoreOptions},
    wire::{RefusedEntry, Via},
};

/// The service. Dropping it ends nothing: see [`Service::close`].
pub struct Service {
    store: Store<PendingReply>,
    quotas: Arc<Quotas>,
    refusals: Arc<Refusals>,
    outcomes: Arc<OutcomeCounters>,
    clock: Clock,
}

impl Service {
    /// Opens the store. What is decided from now on waits for [`Outcomes::announce`].
    ///
    /// # Errors
    ///
    /// Those of [`store::open`].
    pub fn open(options: StoreOptions, quotas: Arc<Quotas>, clock: Clock) -> Result<(Self, Outcomes), StoreError> {
        let (sender, batches) = mpsc::sync_channel(BATCHES_AHEAD);
        let time = clock.clone();
        // The channel ends with the announcer, after which nobody waits for an outcome.
        let store = store::open(options, move || time.now(), move |batch, room| drop(sender.send((batch, room))))?;
        let refusals = Arc::<Refusals>::default();
        let outcomes = Arc::<OutcomeCounters>::default();
        let decided = Outcomes {
            batches,
            clock: clock.clone(),
            past: store.past(),
            refusals: refusals.clone(),
            outcomes: outcomes.clone(),
        };
        Ok((Self { store, quotas, refusals, outcomes, clock }, decided))
    }

    /// The time of the service, in milliseconds since 1970.
    #[must_use]
    pub fn now_milliseconds(&self) -> u64 {
        self.clock.now_milliseconds()
    }

    /// The time to put into replies.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Counts a request of `principal` to `key` against its quota, until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`]; the request is not counted then.
    pub fn admit(&self, principal: &Principal, key: &ShadowKey) -> Result<Admitted, Rejection> {
        self.quotas.admit(principal.name(), key, Instant::now())
    }

    /// What may be asked of the service, and how often more was.
    #[must_use]
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Room for a submission of `principal` that takes about `bytes` of memory if there is some now; [`wire::weight`]
    /// tells.
    ///
    /// [`wire::weight`]: crate::wire::request::weight
    #[must_use]
    pub fn try_reserve(&self, principal: &Arc<PrincipalQuota>, bytes: usize) -> Option<Permit> {
        let queued = principal.try_queue(bytes.saturating_add(COMMAND_OVERHEAD_BYTES))?;
        Some(self.permit(queued, self.store.try_reserve(bytes)?))
    }

    /// Waits until there is room for a submission of `principal` that takes about `bytes` of memory. Its payload is
    /// read after that: what waits here is not counted. It waits for others of `principal` first, then for all.
    ///
    /// # Errors
    ///
    /// [`Rejection::Unavailable`]: the service is ending.
    pub async fn reserve(&self, principal: &Arc<PrincipalQuota>, bytes: usize) -> Result<Permit, Rejection> {
        let queued = principal.queue(bytes.saturating_add(COMMAND_OVERHEAD_BYTES)).await;
        Ok(self.permit(queued, self.store.reserve(bytes).await.map_err(rejection)?))
    }

    fn permit(&self, queued: PrincipalPermit, room: store::Permit<PendingReply>) -> Permit {
        Permit { room, queued, quotas: self.quotas.clone(), clock: self.clock.clone() }
    }

    /// Remembers for a while that a command of `principal` for `key` was refused before it was submitted; what is
    /// refused after that is remembered anyway.
    pub fn note_refusal(
        &self,
        key: &ShadowKey,
        principal: &Principal,
        client: &Arc<str>,
        via: Via,
        rejection: &Rejection,
    ) {
        self.refusals.note(key, principal.name(), client, via, rejection, self.now());
    }

    /// The last refusals of commands for `key`, newest first.
    #[must_use]
    pub fn refusals(&self, key: &ShadowKey) -> Vec<RefusedEntry> {
        self.refusals.of(key)
    }

    /// The refusals of commands for all shadows after `position`, oldest first, and the position after them. At most
    /// 1,024 are kept.
    #[must_use]
    pub fn refusals_after(&self, position: Option<RefusalPosition>) -> (Vec<FollowedRefusal>, RefusalPosition) {
        self.refusals.after(position)
    }

    /// The newest change in the journal.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.store.head()
    }

    /// Writes a backup to `out`: every update that was accepted before this was called, as of one moment. Blocks, for
    /// as long as `out` takes.
    ///
    /// # Errors
    ///
    /// Those of [`Store::back_up`].
    pub fn back_up(&self, out: impl io::Write) -> Result<(), CopyError> {
        self.store.back_up(out)
    }

    /// What became of the commands that were decided.
    #[must_use]
    pub fn outcomes(&self) -> &OutcomeCounters {
        &self.outcomes
    }

    /// How the commits of the store went.
    #[must_use]
    pub fn commits(&self) -> &CommitMetrics {
        self.store.commits()
    }

    /// Bytes of commands that wait to be decided, and how many may.
    #[must_use]
    pub fn queue_bytes(&self) -> (usize, usize) {
        self.store.queue_bytes()
    }

    /// How the store is doing.
    #[must_use]
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Decides and commits what was submitted, and ends the writer. Blocks; reading goes on.
    pub fn close(&self) {
        self.store.close();
    }
}

/// Returns the rejection for an error of the store, which is logged.
fn rejection(error: StoreError) -> Rejection {
    match error {
        StoreError::Closed => unavailable(),
        error => {
            tracing::error!(request = %RequestId::current(), %error, "the store cannot be read");
            Rejection::Internal
        }
    }
}

fn unavailable() -> Rejection {
    Rejection::Unavailable("the service is ending; try again when it is back".to_owned())
}

/// Decided batches that may wait for the announcer before the writer does.
const BATCHES_AHEAD: usize = 16;
