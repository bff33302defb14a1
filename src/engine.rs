//! The one entry for a shadow command, whichever door it came through.
//!
//! A command is counted against its quotas and queued for the store's writer. Once it is decided and durable, the
//! announcer thread takes it, in the order of the journal: the [`Notifier`] tells the change to whom it concerns,
//! then the requester is answered. So the events of one shadow leave in version order, and an acknowledgement never
//! overtakes the events it acknowledges.
//!
//! Reading goes around all of this: a reader sees the newest committed document at once.

mod accepted;
pub mod changes;
mod conflict_base;
mod former;
mod refusals;

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

pub(crate) use self::accepted::accepted;
pub use self::former::AtVersion;
pub use self::refusals::{FollowedRefusal, RefusalPosition};
use self::{
    conflict_base::{ConflictBaseLookup, PendingRefusal},
    refusals::Refusals,
};

use crate::{
    admission::{Admitted, PrincipalPermit, PrincipalQuota, Quotas},
    auth::Principal,
    clock::Clock,
    observability::{
        metrics::{CommitMetrics, Label, OutcomeCounters},
        request_id::RequestId,
    },
    shadow::{Command, DeviceId, Disposition, Rejection, Sender, ShadowKey, ShadowName, Timestamp, Version},
    store::{
        self, Applied, COMMAND_OVERHEAD_BYTES, CopyError, Health, History, HistoryReader, JournalEntry, JournalPage,
        Listed, QueueReservation, QueuedCommand, Seq, Store, StoreError, StoreOptions, StoredShadow,
    },
    wire::{ClientToken, RefusedEntry, Via},
};

/// Who asked for a command and is told of its outcome.
pub trait Requester: Send {
    /// The number of the MQTT session that asked, if one did.
    fn session(&self) -> Option<u64>;

    /// The protocol that the request came by.
    fn via(&self) -> Via {
        Via::Mqtt
    }

    /// What the request carried to correlate its replies.
    fn client_token(&self) -> Option<&ClientToken>;

    /// Returns false if it wants no metadata in what its request causes to be sent to it.
    fn wants_metadata(&self) -> bool {
        true
    }

    /// Called once, after the outcome is durable and has been announced. A version conflict may be told after later
    /// outcomes: what it collided with is then looked up.
    fn on_outcome(self: Box<Self>, outcome: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp);
}

/// A command that was accepted.
#[derive(Clone, Copy)]
pub struct AcceptedCommand<'a> {
    /// What was asked.
    pub command: &'a Command,
    /// What became of it.
    pub applied: &'a Applied,
}

/// Tells accepted commands to those who listen.
pub trait Notifier: Send {
    /// Called for every accepted command, no-ops included, in the order of the journal.
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester);
}

/// Tells the one, then the other.
impl<A: Notifier, B: Notifier> Notifier for (A, B) {
    fn announce(&mut self, outcome: &Outcome, requester: &dyn Requester) {
        self.0.announce(outcome, requester);
        self.1.announce(outcome, requester);
    }
}

/// A command on its way to the store.
pub struct Submission {
    /// The shadow.
    pub key: ShadowKey,
    /// What to do.
    pub command: Command,
    /// Who asks, and what that one may do to it: what [`Access::admit`] returned for `command`.
    ///
    /// [`Access::admit`]: crate::auth::Access::admit
    pub sender: Sender,
    /// Its id in the log.
    pub id: RequestId,
    /// By which client, for the history.
    pub client: Arc<str>,
    /// Whom to answer.
    pub requester: Box<dyn Requester>,
}

/// The service. Dropping it ends nothing: see [`Service::close`].
pub struct Service {
    store: Store<PendingReply>,
    quotas: Arc<Quotas>,
    refusals: Arc<Refusals>,
    outcomes: Arc<OutcomeCounters>,
    clock: Clock,
}

/// Decided commands on their way to the announcer.
pub struct Outcomes {
    batches: mpsc::Receiver<Batch>,
    clock: Clock,
    past: HistoryReader,
    refusals: Arc<Refusals>,
    outcomes: Arc<OutcomeCounters>,
}

/// What one commit decided, and the room that it takes until it is told.
type Batch = (Vec<store::Outcome<PendingReply>>, QueueReservation);

/// Who waits for a command, and the room that it takes of what its principal may have.
struct PendingReply {
    requester: Box<dyn Requester>,
    queued: PrincipalPermit,
}

/// A decided command. Accepted, and then durable; or refused, and then nothing was changed.
#[derive(Debug)]
pub struct Outcome {
    /// The shadow.
    pub key: ShadowKey,
    /// What was asked.
    pub command: Command,
    /// By which principal.
    pub by: Arc<str>,
    /// By which client.
    pub client: Arc<str>,
    /// What became of it.
    pub result: Result<Applied, Rejection>,
}

/// Room in the queue for one submission.
pub struct Permit {
    room: store::Permit<PendingReply>,
    queued: PrincipalPermit,
    quotas: Arc<Quotas>,
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

    /// The newest committed document of `key` if it is in memory.
    #[must_use]
    pub fn cached(&self, key: &ShadowKey) -> Option<StoredShadow> {
        self.store.cached(key)
    }

    /// The newest committed document of `key`.
    ///
    /// # Errors
    ///
    /// [`Rejection::Internal`] if it cannot be read; the log says why.
    pub async fn read(&self, key: &ShadowKey) -> Result<StoredShadow, Rejection> {
        if let Some(held) = self.cached(key) {
            return Ok(held);
        }
        let key = key.clone();
        self.blocking(move |store| store.read(&key)).await
    }

    /// As [`Service::read`], but `None` if the record is damaged: reading it again is of no use.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn read_if_sound(&self, key: &ShadowKey) -> Result<Option<StoredShadow>, Rejection> {
        if let Some(held) = self.cached(key) {
            return Ok(Some(held));
        }
        let key = key.clone();
        self.blocking(move |store| unless_damaged(store.read(&key))).await
    }

    /// The shadows after `after` in the order of their keys, deleted ones among them; none: there are no more.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn list(&self, after: Option<ShadowKey>, limit: usize) -> Result<Vec<Listed>, Rejection> {
        self.blocking(move |store| store.list(after.as_ref(), limit)).await
    }

    /// The journal after `after`.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal(&self, after: Seq, limit: usize) -> Result<JournalPage, Rejection> {
        self.blocking(move |store| store.journal(after, limit)).await
    }

    /// As [`Service::journal`], but `None` if an entry is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn journal_if_sound(&self, after: Seq, limit: usize) -> Result<Option<JournalPage>, Rejection> {
        self.blocking(move |store| unless_damaged(store.journal(after, limit))).await
    }

    /// The change of `key` that made the newest version below `before`; `None` if it is not kept, or an entry on the
    /// way there is damaged.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn former_if_sound(&self, key: &ShadowKey, before: Version) -> Result<Option<JournalEntry>, Rejection> {
        let key = key.clone();
        let history = self.blocking(move |store| unless_damaged(store.history(&key, None, Some(before), 1)));
        Ok(history.await?.flatten().and_then(|mut history| history.entries.pop()))
    }

    /// The changes of `key` that made versions below `before`, newest first, from the newest or the entry `from` of it;
    /// `None` if `from` is none of its entries. `turn` is held until they are found, even if nobody waits for them any
    /// more: a walk that has begun goes on.
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn history(
        &self,
        key: &ShadowKey,
        from: Option<Seq>,
        before: Version,
        limit: usize,
        turn: impl Send + 'static,
    ) -> Result<Option<History>, Rejection> {
        let key = key.clone();
        self.blocking(move |store| during(turn, || store.history(&key, from, Some(before), limit))).await
    }

    /// The place of the journal from which a reader of the shadows of `device` that has everything up to `after` can go
    /// on without missing anything; `None` if there is none. `turn` is held as in [`Service::history`].
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn resume(
        &self,
        device: DeviceId,
        name: Option<Option<ShadowName>>,
        after: Seq,
        turn: impl Send + 'static,
    ) -> Result<Option<Seq>, Rejection> {
        self.blocking(move |store| during(turn, || store.resume(device, name, after))).await
    }

    /// `key` as it was at `version`, which is at least 1; `turn` is held as in [`Service::history`].
    ///
    /// # Errors
    ///
    /// As [`Service::read`].
    pub async fn at_version(
        &self,
        key: &ShadowKey,
        version: Version,
        turn: impl Send + 'static,
    ) -> Result<AtVersion, Rejection> {
        let key = key.clone();
        self.blocking(move |store| during(turn, || former::at(&store.past(), &key, &store.read(&key)?, version))).await
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

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store<PendingReply>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Rejection> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(result) => result.map_err(rejection),
            Err(error) => {
                tracing::error!(request = %RequestId::current(), %error, "a read of the store failed");
                Err(Rejection::Internal)
            }
        }
    }
}

impl Outcomes {
    /// Announces outcomes and answers their requesters until the store is closed. Blocks: for a thread of its own.
    pub fn announce(self, mut announcer: impl Notifier) {
        let Self { batches, clock, past, refusals, outcomes } = self;
        thread::scope(|scope| {
            let conflict_base = ConflictBaseLookup::start(scope, &past, &clock);
            // The room of a batch is given back when the batch is told: whatever waits to be is counted.
            for (batch, _room) in batches {
                let now = clock.now();
                outcomes.count(&batch.iter().map(|outcome| label(outcome)).collect::<Vec<_>>());
                for store::Outcome { queued, result, against } in batch {
                    let QueuedCommand {
                        key,
                        command,
                        sender,
                        id,
                        client,
                        context: PendingReply { requester, queued: _queued },
                    } = queued;
                    let outcome = Outcome { key, command, by: sender.by, client, result };
                    if let Err(rejection) = &outcome.result {
                        log_refusal(id, &outcome.key, &outcome.by, &outcome.client, rejection);
                    }
                    if let Err(rejection) = &outcome.result
                        && !outcome.command.is_dry_run()
                    {
                        let Outcome { key, by, client, .. } = &outcome;
                        refusals.note(key, by, client, requester.via(), rejection, now);
                    }
                    announcer.announce(&outcome, &*requester);
                    let Outcome { key, command, result, .. } = outcome;
                    match (result, against) {
                        (Ok(applied), _) => {
                            requester.on_outcome(Ok(AcceptedCommand { command: &command, applied: &applied }), now)
                        }
                        (Err(rejection), None) => requester.on_outcome(Err(&rejection), now),
                        (Err(rejection), Some(against)) => {
                            conflict_base.tell(PendingRefusal { key, rejection, against, requester }, &command, now);
                        }
                    }
                }
            }
        });
    }
}

impl Submission {
    /// Answers the requester with `rejection`.
    fn refuse(self, rejection: Rejection, now: Timestamp) {
        log_refusal(self.id, &self.key, &self.sender.by, &self.client, &rejection);
        self.requester.on_outcome(Err(&rejection), now);
    }
}

impl Permit {
    /// Sends `submission` to be decided after all that were sent before; refuses it at once if its shadow is written to
    /// more than it may be.
    pub fn submit(self, submission: Submission) {
        if let Err(rejection) = self.quotas.admit_write(&submission.key, Instant::now()) {
            return submission.refuse(rejection, self.clock.now());
        }
        let Submission { key, command, sender, id, client, requester } = submission;
        let context = PendingReply { requester, queued: self.queued };
        let queued = QueuedCommand { key, command, sender, id, client, context };
        if let Err(unsent) = self.room.send(queued) {
            let QueuedCommand { key, command, sender, id, client, context: PendingReply { requester, .. } } = *unsent;
            let submission = Submission { key, command, sender, id, client, requester };
            submission.refuse(unavailable(), self.clock.now());
        }
    }
}

/// Holds `turn` for as long as `walk` takes.
fn during<T>(turn: impl Send, walk: impl FnOnce() -> T) -> T {
    let walked = walk();
    drop(turn);
    walked
}

/// Writes of a refusal: an ordinary one is its client's business, one that is our fault is the operator's.
pub(crate) fn log_refusal(id: RequestId, key: &ShadowKey, by: &str, client: &str, rejection: &Rejection) {
    match rejection {
        Rejection::Internal | Rejection::OutcomeUnknown => {
            tracing::error!(request = %id, %key, by, client, error = rejection.error(), "a request failed");
        }
        rejection => {
            tracing::debug!(request = %id, %key, by, client, error = rejection.error(), "a request is refused")
        }
    }
}

/// What an outcome counts as.
fn label<C>(outcome: &store::Outcome<C>) -> Label {
    let operation = match outcome.queued.command {
        Command::Update(_) | Command::Patch(_) => "update",
        Command::Delete(_) => "delete",
    };
    let ended = match &outcome.result {
        Err(rejection) => rejection.error(),
        Ok(applied) => match applied.manner {
            Disposition::Replayed(_) => "replayed",
            Disposition::DryRun => "dry-run",
            Disposition::Applied if applied.is_changed() => "accepted",
            Disposition::Applied => "unchanged",
        },
    };
    (operation, ended)
}

/// `None` for what is damaged; the log says what that is.
fn unless_damaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Record { .. }) => {
            tracing::error!(request = %RequestId::current(), %error, "what is damaged is passed over");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// What a requester is told of our own failure; the log has the rest.
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::{thread::ThreadId, time::Duration};

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        config::Limits,
        shadow::{Delete, name::DeviceId, tests::sender},
    };

    struct ReportedTime(mpsc::Sender<Timestamp>);

    impl Requester for ReportedTime {
        fn session(&self) -> Option<u64> {
            None
        }

        fn client_token(&self) -> Option<&ClientToken> {
            None
        }

        fn on_outcome(self: Box<Self>, _: Result<AcceptedCommand<'_>, &Rejection>, now: Timestamp) {
            self.0.send(now).unwrap();
        }
    }

    fn deletion(told: &mpsc::Sender<Timestamp>) -> Submission {
        Submission {
            key: ShadowKey::classic(DeviceId::new("d").unwrap()),
            command: Command::Delete(Delete::default()),
            sender: sender("p"),
            id: RequestId::current(),
            client: "c".into(),
            requester: Box::new(ReportedTime(told.clone())),
        }
    }

    /// One principal that sent more than can be decided stood in the queue before all others. It has a part of the
    /// queue, which it gets back when its requests were told.
    #[test]
    fn a_principal_has_a_part_of_the_queue() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
        let queue = options.queue_bytes_max;
        let quotas = Arc::new(Quotas::new(&Limits::default()));
        let (service, decided) = Service::open(options, quotas.clone(), Clock::system()).unwrap();
        let [greedy, other] = ["greedy", "other"].map(|name| quotas.principals.of(&name.into(), Instant::now()));
        let (told, _outcomes) = mpsc::channel();
        let permit = service.try_reserve(&greedy, queue / 2).expect("nothing is queued");
        assert!(service.try_reserve(&greedy, 0).is_none(), "it has no more");
        assert!(service.reserve(&greedy, 0).now_or_never().is_none(), "and waits");
        assert!(service.reserve(&other, 0).now_or_never().is_some(), "for itself alone");
        permit.submit(deletion(&told));
        service.close();
        assert!(greedy.try_queue(1).is_none(), "decided, and not told yet");
        struct IgnoringRequester;
        impl Notifier for IgnoringRequester {
            fn announce(&mut self, _: &Outcome, _: &dyn Requester) {}
        }
        decided.announce(IgnoringRequester);
        assert!(greedy.try_queue(1).is_some());
    }

    /// What is refused before it reaches the store is told at the time of the service's clock, as what the store
    /// decides.
    #[test]
    fn a_write_above_the_quota_is_refused_at_the_time_of_the_service() {
        let directory = tempfile::tempdir().unwrap();
        let mut limits = Limits::default();
        limits.quotas.shadow_writes_per_second = 1;
        let options = StoreOptions { free_disk_min: 0, ..StoreOptions::new(directory.path().join("store")) };
        let (clock, _hand) = Clock::manual(Duration::from_secs(7));
        let (service, _decided) = Service::open(options, Arc::new(Quotas::new(&limits)), clock).unwrap();
        let (told, refused) = mpsc::channel();
        let principal = service.quotas().principals.of(&"p".into(), Instant::now());
        for _ in 0..100 {
            service.try_reserve(&principal, 0).unwrap().submit(deletion(&told));
        }
        assert_eq!(refused.try_recv(), Ok(Timestamp(7)), "no announcer runs, so this is no answer of the store");
        service.close();
    }

    /// Tells which thread dropped it.
    struct ReadPermit(mpsc::Sender<ThreadId>);

    impl Drop for ReadPermit {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    /// A client that hung up gave its turn to the next one, while its own walk went on: there were more than there may
    /// be.
    #[tokio::test]
    async fn a_walk_keeps_its_turn_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(directory.path().join("store"));
        let quotas = Arc::new(Quotas::new(&Limits::default()));
        let (service, _decided) = Service::open(options, quotas, Clock::system()).unwrap();
        let key = ShadowKey::classic(DeviceId::new("lamp").unwrap());
        let (sender, ended) = mpsc::channel();
        // Nobody waits for them, unless they have ended by now.
        let _ = service.history(&key, None, Version(1), 1, ReadPermit(sender.clone())).now_or_never();
        let _ = service.at_version(&key, Version(1), ReadPermit(sender)).now_or_never();
        for by in ended {
            assert_ne!(by, thread::current().id(), "by the walk, and not by who gave up waiting for it");
        }
        service.close();
    }
}
