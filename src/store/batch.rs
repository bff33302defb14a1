//! The commands of one commit, decided in order, each against the result of the one before.
//!
//! A batch is invisible to readers and requesters. The writer publishes documents and reports outcomes after the
//! commit, and drops the whole batch if the commit fails. So a refusal or no-op that was decided against a change of
//! the same batch is reported only once that change is on disk.
//!
//! A patch is resolved to an update here, and its outcome holds that update. Exceptions are a patch that was refused
//! before that, and a replayed one.

use std::sync::{Arc, LazyLock};

use crate::{
    observability::{
        logging::{LineLimit, limited},
        request_id::RequestId,
    },
    shadow::{
        self, Change, ClientToken, Command, Decision, Disposition, Document, DocumentLimits, FirstOutcome, Keyed,
        Rejection, Remembered, RememberedKey, Sender, ShadowKey, Timestamp, Version,
    },
    store::{
        changes::Changes,
        error::StoreError,
        journal::entry::{NewJournalEntry, Seq},
        reader::Shared,
        replication::batch_record::KeyedNoOp,
        rows::edit::RowEdit,
        state::{
            dirty_set::DirtySet,
            names::{Admission, NameCounts},
            purge::PurgeSearch,
            record::StoredShadow,
            remembered::{EntryKey, FirstAnswer},
        },
        store_clock::Now,
    },
};

/// A command with its address and its author. It passes unchanged from the front end through the engine to the store
/// and back.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The shadow.
    pub key: ShadowKey,
    /// The command.
    pub command: Command,
    /// The author of the command and the author's rights on the shadow.
    pub author: Sender,
    /// The request id in the log.
    pub id: RequestId,
    /// The client for the history; empty if none.
    pub client: Arc<str>,
    /// True if `client` is the id of an MQTT client, and the command came in its session or is its will.
    pub is_of_session: bool,
    /// The client token, for replies and events.
    pub client_token: Option<ClientToken>,
    /// False if the author has created as many shadows as it may.
    pub may_create: bool,
    /// An edit of a row of the broker that is committed together with the command, if that is accepted.
    pub row: Option<RowEdit>,
    /// In a cluster, an edit of a row that all nodes commit with the command, if it changes its shadow.
    pub shared_row: Option<RowEdit>,
}

impl Envelope {
    /// Returns the envelope of a command that belongs to no MQTT session, has no client token and no row, and may create its shadow.
    #[must_use]
    pub fn new(key: ShadowKey, command: Command, author: Sender, id: RequestId, client: Arc<str>) -> Self {
        Self {
            key,
            command,
            author,
            id,
            client,
            is_of_session: false,
            client_token: None,
            may_create: true,
            row: None,
            shared_row: None,
        }
    }
}

/// A command for the store, with the caller's context for its outcome.
#[derive(Clone, Debug)]
pub struct QueuedCommand<C> {
    /// The command with its address and its author.
    pub envelope: Envelope,
    /// The context that is returned with the outcome.
    pub context: C,
}

/// The outcome of a [`QueuedCommand`].
#[derive(Debug)]
pub struct Outcome<C> {
    /// The command with its address and its author.
    pub envelope: Envelope,
    /// The context of the caller. `None` for a change whose outcome was first reported as unknown and that was found on
    /// the disk: it comes a second time, for those who follow the changes.
    pub context: Option<C>,
    /// The accepted command, which is durable, or the refusal, which changed nothing (but see
    /// [`Rejection::OutcomeUnknown`]).
    pub result: Result<Applied, Rejection>,
    /// The document that a failed version check was decided against, for lookups with [`HistoryReader`].
    ///
    /// [`HistoryReader`]: crate::store::HistoryReader
    pub against: Option<StoredShadow>,
}

/// An accepted command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The journal entry of the command; `None` if it changed nothing.
    pub seq: Option<Seq>,
    /// The bytes of that entry in the journal.
    pub journal_bytes: usize,
    /// The approximate bytes of the record that is written because the command has an idempotency key and no entry.
    pub record_bytes: usize,
    /// The document it was decided against.
    pub before: Arc<Document>,
    /// The resulting document; equal to `before` if nothing changed.
    pub after: Arc<Document>,
    /// The changes that lead from `before` to `after`.
    pub changes: Vec<Change>,
    /// The earlier version that the command was rebased from.
    pub rebased_from: Option<Version>,
    /// The disposition: applied, dry run or replayed.
    pub disposition: Disposition,
}

/// The context of the decisions in a batch.
pub(super) struct DecideContext<'a> {
    pub(super) shared: &'a Shared,
    pub(super) dirty_set: &'a DirtySet,
    pub(super) names: &'a mut NameCounts,
    pub(super) limits: &'a DocumentLimits,
    pub(super) now: Now,
}

/// A batch while it is decided.
pub(super) struct Batch<C> {
    pub(super) changes: Changes,
    /// The edits of rows of the accepted commands.
    pub(super) rows: Vec<RowEdit>,
    pub(super) outcomes: Vec<Outcome<C>>,
    /// The bytes of the entries, and of the records without one.
    pub(super) bytes: usize,
}

impl<C> Batch<C> {
    /// Returns an empty batch for `queue` commands that makes `changes`.
    pub(super) fn new(mut changes: Changes, queue: usize) -> Self {
        changes.record.entries.reserve(queue);
        changes.touched.reserve(queue);
        Self { changes, rows: Vec::new(), outcomes: Vec::with_capacity(queue), bytes: 0 }
    }

    /// Decides `queued` after all earlier ones.
    pub(super) fn decide(&mut self, queued: QueuedCommand<C>, decide_context: &mut DecideContext<'_>) {
        let QueuedCommand { mut envelope, context } = queued;
        let result = self.result(&mut envelope, decide_context);
        self.rows.extend(envelope.row.take().filter(|_| result.is_ok()));
        self.bytes += result.as_ref().map_or(0, |applied| applied.journal_bytes + applied.record_bytes);
        let against = self.changes.against(&result, &envelope);
        self.outcomes.push(Outcome { envelope, context: Some(context), result, against });
    }

    /// Returns true if the batch has data to make durable.
    pub(super) fn needs_commit(&self) -> bool {
        !self.changes.record.is_empty() || !self.rows.is_empty()
    }

    fn result(&mut self, envelope: &mut Envelope, context: &mut DecideContext<'_>) -> Result<Applied, Rejection> {
        let Evaluated { applied, remembered, admission } = evaluate(&mut self.changes, envelope, context)?;
        if applied.is_private() {
            return Ok(applied);
        }
        if let Some(admission) = admission {
            self.admit(&envelope.key, admission, context.names);
        }
        let is_changed = applied.is_changed();
        if let (Some(remembered), Some(touched)) = (remembered, self.changes.touched.get_mut(&envelope.key)) {
            // A no-op has no journal entry that could hold its key.
            if let (false, Some(newest)) = (is_changed, remembered.keys().last()) {
                let (key, after, remembered) = (envelope.key.clone(), self.changes.head.seq, Arc::clone(newest));
                self.changes.record.no_ops.push(KeyedNoOp { key, after, remembered });
                touched.must_flush = true;
                touched.changed = true;
            }
            touched.stored.remembered = remembered;
        }
        if is_changed { Ok(self.append(envelope, applied)) } else { Ok(applied) }
    }

    /// Counts the shadow of `key`, which is created, and purges the tombstones that make room for it.
    fn admit(&mut self, key: &ShadowKey, admission: Admission, names: &mut NameCounts) {
        let Admission::Purge(purge) = admission else { return names.add(key, 0) };
        names.add(key, purge.keys.len());
        self.changes.counts.purged(purge.keys.len());
        let absent = StoredShadow::absent_at(purge.floor.version);
        for (other, touched) in &mut self.changes.touched {
            if other.device == key.device && !touched.stored.is_recorded() {
                touched.stored = absent.clone();
            }
        }
        self.changes.record.purged.entry(key.device.clone()).or_default().merge(purge);
    }

    /// Appends the journal entry of a change.
    fn append(&mut self, envelope: &Envelope, applied: Applied) -> Applied {
        let Changes { head, record, touched, counts, indexed } = &mut self.changes;
        let Some(touched) = touched.get_mut(&envelope.key) else { return applied };
        let seq = Seq(head.seq.0 + 1);
        let rebased_from = applied.rebased_from;
        let document = &applied.after;
        let remembered = envelope.command.keyed().map(|keyed| EntryKey {
            keyed: keyed.clone(),
            rebased_from,
            answer: Some(FirstAnswer {
                etag_digest: document.etag_seen(&envelope.author.scope.reads).digest,
                created: applied.is_created(),
            }),
        });
        let entry = NewJournalEntry {
            seq,
            key: &envelope.key,
            deleted: document.deleted,
            version: document.version,
            etag: document.etag,
            timestamp: document.timestamp,
            principal: &envelope.author.by,
            client: &envelope.client,
            changes: &applied.changes,
            previous: touched.stored.last_entry,
            remembered: remembered.as_ref(),
        };
        let framed = entry.encode();
        let journal_bytes = framed.len();
        *head = head.next(journal_bytes);
        record.entries.push((seq, framed));
        let before = touched.stored.is_recorded().then_some(touched.stored.document.deleted);
        counts.written(before, applied.after.deleted);
        touched.stored.document = Arc::clone(&applied.after);
        touched.stored.last_entry = seq;
        touched.changed = true;
        let exists_changed = applied.before.exists() != applied.after.exists();
        touched.is_stale |= indexed.are_concerned(&envelope.key, &applied.changes, exists_changed);
        Applied { seq: Some(seq), journal_bytes, ..applied }
    }
}

impl Changes {
    /// Decides the command of `envelope` again, without an effect, which made no journal entry when it was decided after the same
    /// changes: it was accepted if `is_accepted`. Returns the outcome, and the document that a failed version check was
    /// decided against.
    pub(super) fn decide_again(
        &mut self,
        envelope: &mut Envelope,
        context: &mut DecideContext<'_>,
        is_accepted: bool,
    ) -> (Result<Applied, Rejection>, Option<StoredShadow>) {
        let result = match (evaluate(self, envelope, context), is_accepted) {
            (Ok(Evaluated { applied, .. }), true) if !applied.is_changed() || applied.is_private() => Ok(applied),
            (Err(rejection), false) => Err(rejection),
            (_, true) => self.unchanged(envelope, context),
            (Ok(_), false) => Err(Rejection::Unavailable(
                "the node of the cluster that decides refused the request, for a reason that this node does not see: the change may be \
                 larger than a record of the log can be, or its limits or the number of its shadow's names differ"
                    .to_owned(),
            )),
        };
        let against = self.against(&result, envelope);
        (result, against)
    }

    fn unchanged(&mut self, envelope: &Envelope, context: &mut DecideContext<'_>) -> Result<Applied, Rejection> {
        let touched = self.touch(&envelope.key, context.shared).map_err(|error| unreadable(&error, envelope))?;
        let document = Arc::clone(&touched.stored.document);
        Ok(Applied {
            seq: None,
            journal_bytes: 0,
            record_bytes: 0,
            before: Arc::clone(&document),
            after: document,
            changes: Vec::new(),
            rebased_from: None,
            disposition: Disposition::Applied,
        })
    }

    /// Returns the document that a failed version check was decided against.
    fn against(&self, result: &Result<Applied, Rejection>, envelope: &Envelope) -> Option<StoredShadow> {
        match (result, &envelope.command) {
            // The touched paths of an unresolved patch are unknown.
            (_, Command::Patch(_)) => None,
            (Err(Rejection::VersionConflict { .. }), _) => {
                self.touched.get(&envelope.key).map(|touched| touched.stored.clone())
            }
            _ => None,
        }
    }
}

impl Applied {
    /// Returns the outcome of a request that was accepted before.
    fn again(current: Arc<Document>, first: FirstOutcome) -> Self {
        Self {
            seq: None,
            journal_bytes: 0,
            record_bytes: 0,
            after: Arc::clone(&current),
            before: current,
            changes: Vec::new(),
            rebased_from: first.rebased_from,
            disposition: Disposition::Replayed(first),
        }
    }

    /// Returns the stored keys of the shadow, including this outcome for the request of `sender`.
    fn remember(
        &self,
        stored: &StoredShadow,
        sender: &Sender,
        keyed: &Keyed,
        now: Timestamp,
    ) -> Result<Remembered, Rejection> {
        let Document { version, timestamp, .. } = *self.after;
        let Keyed { key, digest } = keyed.clone();
        let first = FirstOutcome {
            digest,
            version,
            timestamp,
            etag: self.after.etag_seen(&sender.scope.reads),
            etag_is_own: true,
            changed: self.is_changed(),
            created: self.is_created(),
            rebased_from: self.rebased_from,
        };
        stored.remembered.with(RememberedKey { by: Arc::clone(&sender.by), key, decided: now, first })
    }

    /// Returns true if the command made a version, or would make one.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.after.version != self.before.version
    }

    /// Returns true if it made, or would make, a shadow where none existed.
    #[must_use]
    pub fn is_created(&self) -> bool {
        !self.before.exists() && self.after.exists()
    }

    /// Returns true if only the requester receives the outcome.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.disposition != Disposition::Applied
    }
}

/// The result of a command that is accepted, before it takes effect.
struct Evaluated {
    applied: Applied,
    /// The stored keys of the shadow with that of the command; `None` if the command has none.
    remembered: Option<Remembered>,
    /// The answer for a shadow without a record.
    admission: Option<Admission>,
}

/// Decides the command of `envelope` after `changes`, without an effect on them. A patch becomes an update.
fn evaluate(
    changes: &mut Changes,
    envelope: &mut Envelope,
    context: &mut DecideContext<'_>,
) -> Result<Evaluated, Rejection> {
    if envelope.author.login.is_revoked() {
        return Err(Rejection::Unauthorized);
    }
    let touched = changes.touch(&envelope.key, context.shared).map_err(|error| unreadable(&error, envelope))?;
    let (mut before, is_recorded) = (Arc::clone(&touched.stored.document), touched.stored.is_recorded());
    if let Some(keyed) = envelope.command.keyed()
        && let Some(first) = touched.stored.remembered.find(&envelope.author.by, &keyed.key, context.now.running)
    {
        // Checked before the preconditions: the first request may itself have made its version stale.
        return match first.digest == keyed.digest {
            true => Ok(Evaluated { applied: Applied::again(before, *first), remembered: None, admission: None }),
            false => Err(Rejection::IdempotencyKeyReused),
        };
    }
    let admission = if is_recorded { None } else { Some(admission(changes, envelope, context)?) };
    if let Some(Admission::Purge(purge)) = &admission
        && let Some(touched) = changes.touched.get_mut(&envelope.key)
    {
        // Decided at the floor after the purge. A refusal or dry run purges nothing, but names this version.
        touched.stored = StoredShadow::absent_at(purge.floor.version);
        before = Arc::clone(&touched.stored.document);
    }
    if let Command::Patch(patch) = &envelope.command {
        // The outcome and the stored key hold the resolved update.
        envelope.command = Command::Update(patch.resolve(&before, &envelope.author.scope, context.limits)?);
    }
    let decision = shadow::decide(&before, &envelope.command, &envelope.author, context.now.date, context.limits)?;
    let (after, new_changes) = match decision {
        Decision::Unchanged => (Arc::clone(&before), Vec::new()),
        Decision::Changed { document, changes } => (Arc::new(document), changes),
    };
    let rebased_from = envelope.command.rebased_from(&before);
    let disposition = if envelope.command.is_dry_run() { Disposition::DryRun } else { Disposition::Applied };
    let mut applied = Applied {
        seq: None,
        journal_bytes: 0,
        record_bytes: 0,
        before,
        after,
        changes: new_changes,
        rebased_from,
        disposition,
    };
    let remembered = match (envelope.command.keyed(), changes.touched.get(&envelope.key)) {
        (Some(keyed), Some(touched)) => {
            if !applied.is_changed() && !applied.is_private() {
                applied.record_bytes = touched.stored.record_bytes(&context.shared.dictionaries) as usize;
            }
            Some(applied.remember(&touched.stored, &envelope.author, keyed, context.now.running)?)
        }
        _ => None,
    };
    if let Some(admission) = &admission {
        check_admission(admission, envelope, context.names.max())?;
    }
    Ok(Evaluated { applied, remembered, admission })
}

/// Returns the answer for a shadow without a record, which the command may create.
fn admission(changes: &Changes, envelope: &Envelope, context: &mut DecideContext<'_>) -> Result<Admission, Rejection> {
    let search = PurgeSearch {
        shared: context.shared,
        dirty_set: context.dirty_set,
        touched: &changes.touched,
        purged: &changes.record.purged,
        head: changes.head.seq,
        removed: changes.record.removed,
        now: context.now.running,
    };
    context.names.admission(&envelope.key, &search).map_err(|error| unreadable(&error, envelope))
}

/// Checks that the author of the command may create its shadow, of a device that may have `names_max` names.
fn check_admission(admission: &Admission, envelope: &Envelope, names_max: usize) -> Result<(), Rejection> {
    if *admission == Admission::Full {
        return Err(names_exhausted(&envelope.key, names_max));
    }
    if envelope.may_create {
        return Ok(());
    }
    let quota = "more new shadows a day than its role allows (role.new_shadows_per_day)".to_owned();
    Err(Rejection::TooManyRequests { quota, retry_after_ms: None })
}

/// Returns the refusal of a name beyond the maximum of a device.
fn names_exhausted(key: &ShadowKey, max: usize) -> Rejection {
    let quota = format!(
        "device '{}' has {max} named shadows, as many as it may have (limits.shadow_names_max); deleted names count \
         until their changes have left the journal and their idempotency keys have expired",
        key.device.as_str(),
    );
    // Waiting makes no room among a device's names that its client could rely on.
    Rejection::TooManyRequests { quota, retry_after_ms: None }
}

/// Logs a record that cannot be read. Its shadow is out of service, and the others are not; after an error of the disk, all are until
/// the store was reopened.
fn unreadable(error: &StoreError, envelope: &Envelope) -> Rejection {
    limited!(error, UNREADABLE_LINES, request = %envelope.id, key = %envelope.key, %error, "a command could not be decided");
    error.rejection()
}

/// The limit of these lines, of which a client can cause any number once its shadow is damaged.
static UNREADABLE_LINES: LazyLock<LineLimit> = LazyLock::new(LineLimit::default);
