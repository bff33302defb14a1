//! The engine: the only way to a shadow, for every front end.
//!
//! 1. A front end passes a request to [`Service::take`], which counts it against its quotas, reserves memory in the
//!    queue, parses the payload and submits the command.
//! 2. The store's writer decides it and commits.
//! 3. The notifier thread ([`Outcomes::notify`]) takes outcomes in the order of the journal: it publishes the events
//!    of a change, then answers the requester.
//!
//! *Invariant:* the events of one shadow leave in version order, and no acknowledgement overtakes the events it
//! acknowledges.
//!
//! Reads bypass the queue: a reader sees the newest committed document at once.

mod accepted;
pub mod changes;
mod conflict_base;
mod log_questions;
mod log_requests;
mod notify;
mod reads;
mod refusals;
pub mod scan;
mod submission;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, LazyLock, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Semaphore;

pub(crate) use self::{accepted::accepted, submission::log_refusal};
use self::{
    log_questions::LogQuestions,
    refusals::{Refusals, refused_entry},
    submission::PendingReply,
};
pub use self::{
    log_requests::{EncodedRequest, LogRequests, PendingAnswer, RequestRoom, answered_in_time, nonce},
    notify::{Notifier, Outcome, Outcomes},
    reads::{AtVersion, ENTRIES_PER_LOOKUP, NewestChange, NewestChanges},
    refusals::{FollowedRefusal, RefusalPosition},
    submission::{AcceptedCommand, AwaitingPermit, IncomingRequest, Permit, RefusedRequest, Requester, Taken},
};
pub use crate::store::Envelope;
use crate::{
    admission::{Admitted, PrincipalQuota, Quotas},
    auth::Principal,
    clock::Clock,
    observability::{
        logging::{LineLimit, limited},
        metrics::{CommitMetrics, OutcomeCounters},
        request_id::RequestId,
    },
    shadow::{Rejection, ShadowKey, Timestamp},
    store::{
        self, AppliedRecord, BroadcastPermit, CopyError, Health, Lineage, LogEvent, MemberOptions, OnDurable,
        PurgedTombstones, RowEdit, Seq, Store, StoreError, StoreOptions,
    },
    wire::{RefusedEntry, Via},
};

/// The engine around an open store. Dropping it does not end the writer: see [`Service::close`].
pub struct Service {
    store: Store<PendingReply>,
    quotas: Arc<Quotas>,
    refusals: Arc<Refusals>,
    outcomes: Arc<OutcomeCounters>,
    clock: Clock,
    /// The permits of reads on blocking threads.
    reads: Arc<Semaphore>,
    questions: LogQuestions,
    /// Memory for what clients ask the log of a cluster for.
    request_room: Arc<RequestRoom>,
}

impl Service {
    /// Opens the store. Outcomes wait until [`Outcomes::notify`] runs.
    ///
    /// # Errors
    ///
    /// As [`store::open`].
    pub fn open(options: StoreOptions, quotas: Arc<Quotas>, clock: Clock) -> Result<(Self, Outcomes), StoreError> {
        Self::open_as(options, None, quotas, clock)
    }

    /// Opens the store as [`Service::open`] does, as a member of a cluster.
    ///
    /// # Errors
    ///
    /// As [`store::open_member`].
    pub fn open_member(
        options: StoreOptions,
        member: MemberOptions,
        quotas: Arc<Quotas>,
        clock: Clock,
    ) -> Result<(Self, Outcomes), StoreError> {
        Self::open_as(options, Some(member), quotas, clock)
    }

    fn open_as(
        options: StoreOptions,
        member: Option<MemberOptions>,
        quotas: Arc<Quotas>,
        clock: Clock,
    ) -> Result<(Self, Outcomes), StoreError> {
        let (sender, batches) = mpsc::sync_channel(BATCHES_AHEAD);
        let time = clock.clone();
        let moment = move || store::Moment { date: time.now(), running: time.running() };
        // The receiver is dropped with the notifier, after which no requester waits for an outcome.
        let deliver = move |report| drop(sender.send(report));
        let store = match member {
            None => store::open(options, moment, deliver),
            Some(member) => store::open_member(options, member, moment, deliver),
        }?;
        let refusals = Arc::<Refusals>::default();
        let outcomes = Arc::<OutcomeCounters>::default();
        let decided = Outcomes {
            batches,
            clock: clock.clone(),
            past: store.past(),
            refusals: refusals.clone(),
            outcomes: outcomes.clone(),
        };
        let reads = Arc::new(Semaphore::new(reads::at_once()));
        let (questions, request_room) = (LogQuestions::default(), Arc::default());
        Ok((Self { store, quotas, refusals, outcomes, clock, reads, questions, request_room }, decided))
    }

    /// Returns the time of the service, in milliseconds since 1970.
    #[must_use]
    pub fn now_milliseconds(&self) -> u64 {
        self.clock.now_milliseconds()
    }

    /// Returns the time of the monotonic clock, from an arbitrary start.
    #[must_use]
    pub fn running(&self) -> Duration {
        self.clock.running()
    }

    /// Returns the time for replies.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Counts a request of the principal with this quota to `key` until the result is dropped. For reads; commands are
    /// counted by [`Service::take`].
    ///
    /// # Errors
    ///
    /// [`Rejection::TooManyRequests`]; the request is not counted then.
    pub fn admit(&self, quota: &PrincipalQuota, key: &ShadowKey) -> Result<Admitted, Rejection> {
        self.quotas.admit(quota, key, Instant::now())
    }

    /// Returns the quotas and the counters of exceeded ones.
    #[must_use]
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Records that a command of `principal` for `key` was refused before it was submitted. Later refusals are recorded
    /// by the engine itself.
    pub fn note_refusal(
        &self,
        key: &ShadowKey,
        principal: &Principal,
        client: &Arc<str>,
        via: Via,
        rejection: &Rejection,
    ) {
        self.refusals.note(key, refused_entry(key, principal.name(), client, via, rejection, self.now()));
    }

    /// Returns the last refusals of commands for `key`, newest first.
    #[must_use]
    pub fn refusals(&self, key: &ShadowKey) -> Vec<RefusedEntry> {
        self.refusals.of(key)
    }

    /// Returns the refusals of commands for all shadows after `position`, oldest first, and the position after them. At
    /// most 1,024 are kept.
    #[must_use]
    pub fn refusals_after(&self, position: Option<RefusalPosition>) -> (Vec<FollowedRefusal>, RefusalPosition) {
        self.refusals.after(position)
    }

    /// Returns the newest change in the journal.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.store.head()
    }

    /// Returns the lineage of the change at `seq`, which is not above the head, as [`Store::lineage_at`] does.
    #[must_use]
    pub fn lineage_at(&self, seq: Seq) -> Option<Lineage> {
        self.store.lineage_at(seq)
    }

    /// Returns true if the change at `seq`, which is not above the head, is the one with this `lineage`, as [`Store::has_lineage_at`] does.
    #[must_use]
    pub fn has_lineage_at(&self, seq: Seq, lineage: Option<Lineage>) -> bool {
        self.store.has_lineage_at(seq, lineage)
    }

    /// Writes a backup to `out`, as of one commit. It contains every update accepted before the call. Blocks until `out`
    /// has taken it.
    ///
    /// # Errors
    ///
    /// As [`Store::back_up`].
    pub fn back_up(&self, out: impl io::Write) -> Result<(), CopyError> {
        self.store.back_up(out)
    }

    /// Returns the last record of the cluster's log that the store's file has applied, as [`Store::applied_in_file`] does.
    ///
    /// # Errors
    ///
    /// As [`Store::applied_in_file`].
    pub fn applied_in_file(&self) -> Result<Option<AppliedRecord>, StoreError> {
        self.store.applied_in_file()
    }

    /// Removes those of `keys` that are tombstones on which nothing else depends.
    ///
    /// # Errors
    ///
    /// As [`Store::purge`].
    pub async fn purge_tombstones(&self, keys: Vec<ShadowKey>, dry_run: bool) -> Result<PurgedTombstones, Rejection> {
        self.store.purge(keys, dry_run).await
    }

    /// Writes `edits` of the broker's rows, as [`Store::write_rows`] does. Does nothing once the service is closed.
    pub fn write_rows(&self, edits: Vec<RowEdit>, on_durable: Option<OnDurable>) {
        let _ = self.store.write_rows(edits, on_durable);
    }

    /// Writes `edits` of the broker's rows, as [`Store::write_rows_unhurried`] does. Does nothing once the service is closed.
    pub fn write_rows_unhurried(&self, edits: Vec<RowEdit>, on_durable: OnDurable) {
        let _ = self.store.write_rows_unhurried(edits, on_durable);
    }

    /// Returns true if rows should be added now, as [`Store::may_add_rows`] does.
    #[must_use]
    pub fn may_add_rows(&self) -> bool {
        self.store.may_add_rows()
    }

    /// Calls `each` with the broker's rows as they were when the store was opened.
    ///
    /// # Errors
    ///
    /// As [`Store::each_row`].
    pub fn each_row(
        &self,
        is_shared: impl Fn(&[u8]) -> bool,
        each: impl FnMut(&[u8], Bytes),
    ) -> Result<(), StoreError> {
        self.store.each_row(is_shared, each)
    }

    /// Returns memory for a broadcast, as [`Store::reserve_broadcast`] does.
    #[must_use]
    pub fn reserve_broadcast(&self, bytes: usize) -> Option<BroadcastPermit> {
        self.store.reserve_broadcast(bytes)
    }

    /// Sends `bytes` to all nodes of the cluster, as [`Store::broadcast`] does. They come back by [`Notifier::broadcast`].
    pub fn broadcast(&self, bytes: Bytes, on_applied: Option<OnDurable>, permit: BroadcastPermit) {
        self.store.broadcast(bytes, on_applied, permit);
    }

    /// Sends `bytes` to all nodes of the cluster, unless the log is away for long, as [`Store::broadcast_in_time`] does.
    pub fn broadcast_in_time(&self, bytes: Bytes, on_applied: Option<OnDurable>, permit: BroadcastPermit) {
        self.store.broadcast_in_time(bytes, on_applied, permit);
    }

    /// Returns the memory for what clients ask the log of a cluster for.
    #[must_use]
    pub fn request_room(&self) -> &Arc<RequestRoom> {
        &self.request_room
    }

    /// Returns a function that passes events to a member of a cluster, as [`Store::log_events`] does.
    pub fn log_events(&self) -> impl Fn(LogEvent) -> bool + Clone + Send + Sync + 'static {
        self.store.log_events()
    }

    /// Returns the counters of decided commands by outcome.
    #[must_use]
    pub fn outcomes(&self) -> &OutcomeCounters {
        &self.outcomes
    }

    /// Returns the metrics of the store's commits.
    #[must_use]
    pub fn commits(&self) -> &CommitMetrics {
        self.store.commits()
    }

    /// Returns the queue bytes in use and the size of the queue.
    #[must_use]
    pub fn queue_bytes(&self) -> (usize, usize) {
        self.store.queue_bytes()
    }

    /// Returns the health of the store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// Decides and commits the submitted commands, and ends the writer. Blocks. Reads remain possible.
    pub fn close(&self) {
        self.store.close();
    }
}

/// Returns the rejection for an error of the store, which is logged.
fn rejection(error: StoreError) -> Rejection {
    match error {
        StoreError::Closed => unavailable(),
        StoreError::Reopening => error.rejection(),
        error => {
            limited!(error, UNREADABLE_LINES, request = %RequestId::current(), %error, "the store cannot be read");
            error.rejection()
        }
    }
}

/// The limit of lines about what cannot be read, which a client can cause as often as it asks for it.
static UNREADABLE_LINES: LazyLock<LineLimit> = LazyLock::new(LineLimit::default);

fn unavailable() -> Rejection {
    Rejection::Unavailable("the service is ending; try again when it is back".to_owned())
}

/// Decided batches that may wait for the notifier before the writer waits.
const BATCHES_AHEAD: usize = 16;
