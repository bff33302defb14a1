//! The writer, the only thread that changes the store.
//!
//! It takes the queued commands and decides them as one batch, whose record it appends to the log ([`super::replication`]),
//! which on a single node is the file. One commit then appends the accepted changes to the
//! journal, flushes some documents to the state table and removes old entries. After the commit, the writer publishes
//! the new documents to readers, and then reports the outcomes in order. There is no timer: while one commit waits for
//! the disk, the next batch queues. With an empty queue it flushes the rest of the dirty set, then sleeps.
//!
//! *Invariant:* after a failed commit, nothing is committed until the file was opened again ([`super::healing`]). The
//! contents of the disk are then unknown. The outcome of that batch is reported as unknown, later batches are refused,
//! and readers keep the last published state.

use std::{
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
    vec,
};

use bytes::Bytes;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{UnboundedReceiver, error::TryRecvError},
};

use crate::{
    shadow::Rejection,
    store::{
        batch::{Batch, DecideContext, Outcome, QueuedCommand},
        database::CommitFailure,
        error,
        healing::{Healer, UnknownCommit},
        health::State,
        index::keeper::IndexKeeper,
        journal::{
            entry::Seq,
            lineage::{Lineage, Lineages},
            retention::Retention,
        },
        options::StoreOptions,
        purging::PurgeOrder,
        reader::Shared,
        replication::{
            applied_position::AppliedPosition,
            batch_log::BatchLog,
            member::{Broadcast, LogEvent, Member},
            record::NodeId,
            requests::Barrier,
        },
        rows::{dirty_rows::DirtyRows, pending::PendingRows, sent::OnDurable},
        schema::Checkpoint,
        state::{dictionary::DictionaryTrainer, dirty_set::DirtySet, names::NameCounts, record::RecordEncoder},
        store_clock::StoreClock,
        unsynced::UnsyncedCommits,
    },
};

/// A message in the queue.
pub(super) enum Message<C> {
    /// A command with its reservation in the queue.
    QueuedCommand(Box<QueuedCommand<C>>, OwnedSemaphorePermit),
    /// An order to purge tombstones, with its reservation in the queue.
    Purge(PurgeOrder, OwnedSemaphorePermit),
    /// A notice that edits of rows were sent.
    Rows,
    /// A notice that a read has failed, so the file is to be opened again.
    ReadFailed,
    /// An event for a member of a cluster.
    Log(Box<LogEvent>),
    /// A notice that another node may be seeded from the file, so the position in it shall be up to date.
    PositionWanted,
    /// Bytes for all nodes of a cluster, with a call when this node has applied them, and their memory.
    Broadcast { bytes: Bytes, on_applied: Option<OnDurable>, may_expire: bool, permit: OwnedSemaphorePermit },
    /// A barrier in the log of a cluster.
    Barrier(Barrier),
    /// A request to close the queue and finish the commands in it.
    Close,
}

/// The queue bytes of some commands, released when dropped.
pub struct QueueReservation(#[expect(dead_code, reason = "for its drop")] Option<OwnedSemaphorePermit>);

impl QueueReservation {
    /// Returns a reservation of nothing.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(super) fn of(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(permit)
    }
}

/// The results of one batch, for those who wait for them.
pub struct CommitReport<C> {
    /// The outcomes of commands, in the order in which they were sent.
    pub outcomes: Vec<Outcome<C>>,
    /// The calls for edits of rows that are on disk now.
    pub durable: Vec<OnDurable>,
    /// The broadcasts that this node of a cluster has applied.
    pub broadcasts: Vec<Broadcast>,
    /// The queue bytes of the commands.
    pub reservation: QueueReservation,
}

/// The receiver of the results.
pub(super) type Deliver<C> = Box<dyn FnMut(CommitReport<C>) + Send>;

/// The state of the writer; see the module.
pub(super) struct Writer<C> {
    pub(super) options: StoreOptions,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: UnboundedReceiver<Message<C>>,
    /// The free bytes of the queue; closed when the writer ends.
    pub(super) room: Arc<Semaphore>,
    pub(super) clock: StoreClock,
    pub(super) deliver: Deliver<C>,
    pub(super) progress: Checkpoint,
    pub(super) dirty_set: DirtySet,
    pub(super) dirty_rows: DirtyRows,
    pub(super) pending_rows: PendingRows,
    pub(super) unsynced: UnsyncedCommits,
    /// The calls for edits of rows that were committed since the last report.
    pub(super) durable: Vec<OnDurable>,
    /// The broadcasts that were applied since the last report.
    pub(super) broadcasts: Vec<Broadcast>,
    pub(super) names: NameCounts,
    pub(super) retention: Retention,
    pub(super) encoder: RecordEncoder,
    pub(super) trainer: DictionaryTrainer,
    pub(super) index: IndexKeeper,
    pub(super) state: State,
    pub(super) healer: Healer,
    /// The log to which batches are appended before they are applied.
    pub(super) log: Box<dyn BatchLog>,
    /// The position in the log of other nodes' batches; `None` for a store that never followed one.
    pub(super) applied_position: Option<AppliedPosition>,
    /// The lineage of the entries that a single node makes.
    pub(super) lineage: Lineage,
    /// The lineages, with those of entries that are not committed.
    pub(super) lineages: Lineages,
    /// The part in a cluster; `None` for a single node, and while it is at work.
    pub(super) member: Option<Member<C>>,
    /// The number of this node of a cluster.
    pub(super) node: Option<NodeId>,
    /// True if this node of a cluster decides.
    pub(super) is_deciding: bool,
}

/// The time after which an idle writer looks again whether more pages are verified.
const VERIFIED_EVERY: Duration = Duration::from_millis(200);

/// The bytes of journal entries and records with which a batch ends: what it writes is in memory until its commit, and the next
/// commands wait for that.
const BATCH_BYTES: usize = 8 << 20;

/// Wakes the writer, which waits for commands and for a time.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<C> Writer<C> {
    /// Runs until the queue is closed and empty, then flushes the dirty set.
    pub(super) fn run(&mut self) {
        while self.step().is_continue() {}
        while !self.dirty_set.is_empty() && !self.is_failed() {
            self.flush_some();
        }
        self.pending_rows.add(self.shared.sent_rows.close());
        self.unsynced.hurry();
        if !self.is_failed() {
            self.commit_rows();
        }
        if !self.is_failed() {
            self.state = State::Closed;
        }
    }

    /// Decides one batch and commits it if necessary, or flushes documents if the queue is empty. Waits for commands
    /// only if nothing is dirty. Reopens the store first if a commit or a read failed. Breaks when the queue is closed and empty.
    pub(super) fn step(&mut self) -> ControlFlow<()> {
        self.heal_if_due();
        let mut messages = Vec::new();
        self.take(&mut messages)?;
        self.take_rows();
        self.notice_failed_read();
        if !messages.is_empty() {
            self.process(messages);
        } else if self.is_failed() {
            // The next attempt is not due.
        } else if self.dirty_set.flush_from().is_some_and(|from| from <= Instant::now()) {
            self.flush_some();
        } else if self.index_has_work() {
            self.index_some();
        } else if self.has_due_commit() {
            self.commit_rows();
        }
        ControlFlow::Continue(())
    }

    /// Takes the queued messages, at most one batch.
    fn take(&mut self, messages: &mut Vec<Message<C>>) -> ControlFlow<()> {
        let most = self.options.batch_commands_max.max(1);
        if let Some(until) = self.healer.next_attempt() {
            return self.take_until(messages, most, until);
        }
        // Asked first: pages that are verified after this are seen by the second question.
        let is_waiting = self.index.is_waiting(&self.shared.database);
        if !self.index_has_work() {
            // Building begins when the pages are known to be sound.
            let verified = is_waiting.then(|| Instant::now() + VERIFIED_EVERY);
            let due = self.pending_rows.due().into_iter().chain(self.unsynced.due());
            if let Some(until) = due.chain(verified).chain(self.dirty_set.flush_from()).min() {
                return self.take_until(messages, most, until);
            }
            return match self.queue.blocking_recv_many(messages, most) {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
        }
        while messages.len() < most {
            match self.queue.try_recv() {
                Ok(message) => messages.push(message),
                Err(TryRecvError::Disconnected) if messages.is_empty() => return ControlFlow::Break(()),
                Err(_) => break,
            }
        }
        ControlFlow::Continue(())
    }

    /// Returns true if an idle writer has something to do for the index. It does nothing while the disk is nearly full.
    pub(super) fn index_has_work(&mut self) -> bool {
        self.state == State::Writable && self.index.has_work(&self.shared.database)
    }

    /// Returns true if a commit is due for edits of rows, or to sync former ones.
    fn has_due_commit(&self) -> bool {
        self.pending_rows.is_due() || self.unsynced.is_due()
    }

    /// Takes the edits of rows that were sent. Nothing is left to do for those that cancel each other out.
    fn take_rows(&mut self) {
        self.pending_rows.add(self.shared.sent_rows.take());
        if self.pending_rows.is_empty() && !self.is_failed() && !self.owes_sync() {
            self.rows_committed();
            self.deliver(Vec::new(), QueueReservation::none());
        }
    }

    /// Waits for messages until `until`.
    fn take_until(&mut self, messages: &mut Vec<Message<C>>, most: usize, until: Instant) -> ControlFlow<()> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match self.queue.poll_recv_many(&mut context, messages, most) {
                Poll::Ready(0) => return ControlFlow::Break(()),
                Poll::Ready(_) => return ControlFlow::Continue(()),
                Poll::Pending => match until.checked_duration_since(Instant::now()) {
                    None => return ControlFlow::Continue(()),
                    Some(left) => thread::park_timeout(left),
                },
            }
        }
    }

    fn process(&mut self, messages: Vec<Message<C>>) {
        let mut orders = Vec::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut queue = Vec::with_capacity(messages.len());
        let mut refused = Vec::new();
        for message in messages {
            match message {
                Message::Close => match &mut self.member {
                    Some(member) => member.close(),
                    None => self.queue.close(),
                },
                Message::Purge(order, permit) if self.member.is_none() => orders.push((order, permit)),
                Message::Purge(order, permit) => match (self.refusal(), &mut self.member) {
                    (None, Some(member)) => member.add_purge(order, permit),
                    (refusal, _) => order.answer(Err(refusal.unwrap_or(Rejection::Internal))),
                },
                Message::Rows | Message::ReadFailed => {} // taken before
                Message::PositionWanted => self.applied_position.iter_mut().for_each(AppliedPosition::want),
                Message::Log(event) => {
                    if let Some(member) = &mut self.member {
                        member.take(*event);
                    }
                }
                Message::Broadcast { bytes, on_applied, may_expire, permit } => {
                    if let Some(member) = &mut self.member {
                        member.add_broadcast(bytes, on_applied, may_expire, permit);
                    }
                }
                Message::Barrier(barrier) => match &mut self.member {
                    Some(member) if member.refusal().is_none() => member.add_barrier(barrier),
                    // It would wait in vain. Dropping it ends the wait.
                    _ => drop(barrier),
                },
                Message::QueuedCommand(queued, permit) => {
                    if self.member.is_some() {
                        // Asked once: what is refused must not be decided here, where it would be in no log.
                        let of_command = |member: &Member<C>| member.refusal_of(&queued.envelope);
                        let refusal = self.refusal().or_else(|| self.member.as_ref().and_then(of_command));
                        match (refusal, &mut self.member) {
                            (None, Some(member)) => member.add(queued, permit),
                            (refusal, _) => refused.push((*queued, permit, refusal.unwrap_or(Rejection::Internal))),
                        }
                        continue;
                    }
                    queue.push(*queued);
                    match &mut room {
                        Some(room) => room.merge(permit),
                        None => room = Some(permit),
                    }
                }
            }
        }
        if !queue.is_empty() {
            self.take_batch(queue, QueueReservation(room));
        }
        for (queued, permit, refusal) in refused {
            self.refuse(vec![queued], QueueReservation(Some(permit)), &refusal);
        }
        self.take_part();
        for (order, _permit) in orders {
            self.purge(order);
        }
        if !self.is_failed() && self.has_due_commit() {
            self.commit_rows();
        }
        self.deliver(Vec::new(), QueueReservation::none());
    }

    /// Decides, commits and reports `queue` in order: as one batch, or as several if they write much.
    fn take_batch(&mut self, queue: Vec<QueuedCommand<C>>, mut room: QueueReservation) {
        let mut queue = queue.into_iter();
        while queue.len() > 0 {
            if let Some(refusal) = self.refusal() {
                return self.refuse(queue.collect(), room, &refusal);
            }
            let batch = self.decide(&mut queue);
            self.shared.commits.batches.observe(batch.outcomes.len() as u64);
            let none = QueueReservation::none();
            let part = if queue.len() == 0 { std::mem::replace(&mut room, none) } else { none };
            self.conclude(batch, part);
        }
    }

    /// Returns the reason for refusing all commands at the moment.
    pub(super) fn refusal(&mut self) -> Option<Rejection> {
        if self.is_failed() {
            return Some(error::reopening());
        }
        if let Some(refusal) = self.member.as_ref().and_then(Member::refusal) {
            return Some(refusal);
        }
        let low = self.shared.disk.lock().low(Instant::now());
        self.state = low.map_or(State::Writable, State::DiskLow);
        low.map(|low| {
            let (free, needed) = (low.free, low.needed);
            Rejection::Unavailable(format!("the disk is nearly full: {free} bytes are free, {needed} are needed"))
        })
    }

    fn refuse(&mut self, queue: Vec<QueuedCommand<C>>, room: QueueReservation, refusal: &Rejection) {
        self.report();
        let refused = |QueuedCommand { envelope, context }| Outcome {
            envelope,
            context: Some(context),
            result: Err(refusal.clone()),
            against: None,
        };
        let outcomes: Vec<_> = queue.into_iter().map(refused).collect();
        self.deliver(outcomes, room);
    }

    /// Reports outcomes, and the edits of rows that were committed.
    pub(super) fn deliver(&mut self, outcomes: Vec<Outcome<C>>, reservation: QueueReservation) {
        let durable = std::mem::take(&mut self.durable);
        let broadcasts = std::mem::take(&mut self.broadcasts);
        if !outcomes.is_empty() || !durable.is_empty() || !broadcasts.is_empty() {
            (self.deliver)(CommitReport { outcomes, durable, broadcasts, reservation });
        }
    }

    /// Decides the commands of a batch, which are the next ones of `queue`.
    fn decide(&mut self, queue: &mut vec::IntoIter<QueuedCommand<C>>) -> Batch<C> {
        self.names.shrink();
        let now = self.clock.now();
        let mut batch = Batch::new(self.no_changes_at(now), queue.len());
        let mut context = DecideContext {
            shared: &self.shared,
            dirty_set: &self.dirty_set,
            names: &mut self.names,
            limits: &self.options.document,
            now,
        };
        while batch.bytes < BATCH_BYTES
            && let Some(queued) = queue.next()
        {
            batch.decide(queued, &mut context);
        }
        batch
    }

    /// Commits `batch` if it changes anything, publishes it and reports its outcomes.
    fn conclude(&mut self, batch: Batch<C>, room: QueueReservation) {
        let needs_commit = batch.needs_commit();
        let Batch { changes, rows, mut outcomes, bytes: _ } = batch;
        if needs_commit || self.pending_rows.is_due() {
            let (head, counts) = (changes.head, changes.counts);
            self.pending_rows.set_commands(rows);
            if let Err(rejection) = self.commit_batch(changes) {
                let mut changes = Vec::new();
                for outcome in &mut outcomes {
                    let decided = std::mem::replace(&mut outcome.result, Err(rejection.clone()));
                    let change = decided.ok().filter(|applied| applied.seq.is_some());
                    changes.extend(change.map(|applied| (outcome.envelope.clone(), applied)));
                }
                if rejection == Rejection::OutcomeUnknown {
                    self.healer.keep_unknown(UnknownCommit { head, changes, counts });
                }
            }
        } else {
            self.keep_loaded(changes.touched);
        }
        self.report();
        self.deliver(outcomes, room);
    }

    pub(super) fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// Stops all further commits until the store was reopened. Returns the rejection for the batch of the failed commit.
    pub(super) fn fail(&mut self, failure: CommitFailure) -> Rejection {
        let rejection = match &failure {
            CommitFailure::NotTried(_) => Rejection::Internal,
            CommitFailure::Unknown(_) => Rejection::OutcomeUnknown,
        };
        let error = failure.into_error();
        self.shared.commits.failed.add(1);
        tracing::error!(%error, "a commit failed: no command is accepted until the store was reopened");
        self.stop(error.to_string());
        rejection
    }

    /// Stops all further commits until the store was reopened, if a read has failed: redb does not use the file any more.
    pub(super) fn notice_failed_read(&mut self) {
        if let Some(error) = self.shared.database.failure().filter(|_| !self.is_failed()) {
            tracing::error!(error, "a read failed: no command is accepted until the store was reopened");
            self.stop(error);
            self.report();
        }
    }

    fn stop(&mut self, error: String) {
        self.state = State::Failed(error);
        self.pending_rows.commit_failed();
        self.healer.commit_failed();
        self.clock.commit_failed();
    }

    /// Updates the health of the store.
    pub(super) fn report(&self) {
        let (lag_entries, lag_bytes) = self.progress.lag();
        let (cached_documents, cached_bytes) = self.shared.cache.size();
        let mut health = self.shared.health.lock();
        health.state = self.state.clone();
        health.head = self.progress.head.seq;
        health.checkpoint = self.progress.checkpoint.seq;
        health.oldest = Seq(self.progress.removed.seq.0 + 1);
        health.lag_entries = lag_entries;
        health.lag_bytes = lag_bytes;
        health.journal_bytes = self.progress.journal_bytes();
        health.backlog_documents = self.dirty_set.len();
        health.row_log_bytes = self.progress.rows.lag().1;
        health.rows = self.progress.rows.rows;
        health.row_bytes = self.progress.rows.bytes;
        health.cached_documents = cached_documents;
        health.cached_bytes = cached_bytes;
        if let Some(member) = &self.member {
            health.member = Some(member.health());
        }
    }
}

/// Releases every waiting caller, even if the thread ends by a panic.
impl<C> Drop for Writer<C> {
    fn drop(&mut self) {
        self.room.close();
        self.queue.close();
        drop(self.shared.sent_rows.close());
        if self.state == State::Writable || matches!(self.state, State::DiskLow(_)) {
            self.state = State::Failed("the writer stopped".to_owned());
        }
        self.report();
    }
}
