//! The commands of one commit, decided in order, each against what the one before it left.
//!
//! Nothing here is visible to a reader, and nothing is told to a requester: the writer does both after the commit, and
//! drops the whole batch if that fails. So a refusal or a no-op that was decided against a change of the same batch is
//! never told without that change being on the disk.
//!
//! A patch becomes an update here, and is one in its outcome; but for one that was refused before, or is told again.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    request_id::RequestId,
    shadow::{
        self, Change, Command, Decision, Document, DocumentLimits, FirstOutcome, Keyed, Manner, Rejection, Remembered,
        RememberedKey, Sender, ShadowKey, Timestamp, Version,
    },
    store::{
        backlog::Backlog,
        entry::{NewEntry, Seq},
        error::StoreError,
        names::NameCounts,
        reader::Shared,
        record::Held,
        remembered::EntryKey,
        schema::Mark,
    },
};

/// A command for the store, with what the caller wants back with its outcome.
#[derive(Debug)]
pub struct Job<C> {
    /// The shadow.
    pub key: ShadowKey,
    /// What is asked of it.
    pub command: Command,
    /// Who asks.
    pub sender: Sender,
    /// Its id in the log.
    pub id: RequestId,
    /// The client id it came from, for the history; empty if none.
    pub client: Arc<str>,
    /// The caller's own.
    pub context: C,
}

/// What became of a [`Job`].
#[derive(Debug)]
pub struct Outcome<C> {
    /// The job.
    pub job: Job<C>,
    /// Accepted, and then durable; or refused, and then nothing was changed (but see [`Rejection::OutcomeUnknown`]).
    pub result: Result<Applied, Rejection>,
    /// What a precondition was checked against in vain: what [`Past`] is asked from.
    ///
    /// [`Past`]: crate::store::Past
    pub against: Option<Held>,
}

/// An accepted command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its entry in the journal; `None`: it changed nothing.
    pub seq: Option<Seq>,
    /// The document it was decided against.
    pub before: Arc<Document>,
    /// The document it made; `before` itself if it changed nothing.
    pub after: Arc<Document>,
    /// What makes `after` of `before`.
    pub changes: Vec<Change>,
    /// The earlier version that it was accepted under.
    pub rebased_from: Option<Version>,
    /// Whether it was done.
    pub manner: Manner,
}

/// What deciding needs beyond the batch itself.
pub(super) struct Bench<'a> {
    pub(super) shared: &'a Shared,
    pub(super) backlog: &'a Backlog,
    pub(super) names: &'a mut NameCounts,
    pub(super) limits: &'a DocumentLimits,
    pub(super) now: Timestamp,
}

/// A shadow that the batch has touched.
pub(super) struct Work {
    pub(super) held: Held,
    /// Its document before the batch was in memory.
    pub(super) was_cached: bool,
    /// It did not exist in the store before the batch.
    pub(super) is_new: bool,
    /// A command of the batch changed it.
    pub(super) changed: bool,
    /// Its record has to be in the same commit: it holds what no entry tells.
    pub(super) carry: bool,
}

/// A batch being decided.
pub(super) struct Batch<C> {
    /// Where the journal is with the entries of this batch.
    pub(super) head: Mark,
    /// New entries, sealed.
    pub(super) entries: Vec<(Seq, Vec<u8>)>,
    pub(super) works: HashMap<ShadowKey, Work>,
    pub(super) outcomes: Vec<Outcome<C>>,
}

impl<C> Batch<C> {
    pub(super) fn new(head: Mark, jobs: usize) -> Self {
        Self {
            head,
            entries: Vec::with_capacity(jobs),
            works: HashMap::with_capacity(jobs),
            outcomes: Vec::with_capacity(jobs),
        }
    }

    /// Decides `job` after all those before it.
    pub(super) fn decide(&mut self, mut job: Job<C>, bench: &mut Bench<'_>) {
        let result = self.result(&mut job, bench);
        let against = match (&result, &job.command) {
            // What it would have touched is not known of a patch that does not fit.
            (_, Command::Patch(_)) => None,
            (Err(Rejection::VersionConflict { .. }), _) => self.works.get(&job.key).map(|work| work.held.clone()),
            _ => None,
        };
        self.outcomes.push(Outcome { job, result, against });
    }

    /// Whether there is anything to be made durable.
    pub(super) fn needs_commit(&self) -> bool {
        !self.entries.is_empty() || self.works.values().any(|work| work.carry)
    }

    fn result(&mut self, job: &mut Job<C>, bench: &mut Bench<'_>) -> Result<Applied, Rejection> {
        let work = match self.works.entry(job.key.clone()) {
            hash_map::Entry::Occupied(work) => work.into_mut(),
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(work(&job.key, bench.shared).map_err(|error| internal(&error, job))?)
            }
        };
        let before = Arc::clone(&work.held.document);
        if let Some(keyed) = job.command.keyed()
            && let Some(first) = work.held.remembered.find(&job.sender.by, &keyed.key, bench.now)
        {
            // Before the preconditions: its own write may have made its version stale.
            let same = first.digest == keyed.digest;
            return if same { Ok(Applied::again(before, *first)) } else { Err(Rejection::IdempotencyKeyReused) };
        }
        if let Command::Patch(patch) = &job.command {
            // What is told and remembered of it is the update that it comes to here.
            job.command = Command::Update(patch.resolve(&before, &job.sender.scope, bench.limits)?);
        }
        let decision = shadow::decide(&before, &job.command, &job.sender, bench.now, bench.limits)?;
        let rebased_from = job.command.rebased_from(&before);
        let (after, changes) = match decision {
            Decision::Unchanged => (None, Vec::new()),
            Decision::Changed { document, changes } => (Some(Arc::new(document)), changes),
        };
        let applied = Applied {
            seq: None,
            after: Arc::clone(after.as_ref().unwrap_or(&before)),
            before,
            changes,
            rebased_from,
            manner: if job.command.is_dry_run() { Manner::DryRun } else { Manner::Done },
        };
        let remembered =
            job.command.keyed().map(|keyed| applied.remember(&work.held, &job.sender.by, keyed, bench.now));
        let remembered = remembered.transpose()?;
        admit_name(job, &applied, bench)?;
        if applied.manner == Manner::DryRun {
            return Ok(applied);
        }
        if let Some(remembered) = remembered {
            work.held.remembered = remembered;
            // A no-op makes no entry that could tell of it.
            work.carry |= after.is_none();
            work.changed |= after.is_none();
        }
        match after {
            None => Ok(applied),
            Some(_) => Ok(self.append(job, applied)),
        }
    }

    /// Adds the entry of a change to the journal.
    fn append(&mut self, job: &Job<C>, applied: Applied) -> Applied {
        let Some(work) = self.works.get_mut(&job.key) else { return applied };
        let seq = Seq(self.head.seq.0 + 1);
        let rebased_from = applied.rebased_from;
        let remembered = job.command.keyed().map(|keyed| EntryKey { keyed: keyed.clone(), rebased_from });
        let document = &applied.after;
        let entry = NewEntry {
            seq,
            key: &job.key,
            deleted: document.deleted,
            version: document.version,
            etag: document.etag,
            timestamp: document.timestamp,
            principal: &job.sender.by,
            client: &job.client,
            changes: &applied.changes,
            previous: work.held.last_entry,
            remembered: remembered.as_ref(),
        };
        let sealed = entry.encode();
        self.head = self.head.next(sealed.len());
        self.entries.push((seq, sealed));
        work.held.document = Arc::clone(&applied.after);
        work.held.last_entry = seq;
        work.changed = true;
        Applied { seq: Some(seq), ..applied }
    }
}

impl Applied {
    /// What the same request was told before.
    fn again(current: Arc<Document>, first: FirstOutcome) -> Self {
        Self {
            seq: None,
            after: Arc::clone(&current),
            before: current,
            changes: Vec::new(),
            rebased_from: first.rebased_from,
            manner: Manner::Again(first),
        }
    }

    /// What the shadow, which is `held`, remembers with this outcome of what `by` asked.
    fn remember(&self, held: &Held, by: &Arc<str>, keyed: &Keyed, now: Timestamp) -> Result<Remembered, Rejection> {
        let Document { version, timestamp, etag, .. } = *self.after;
        let changed = self.is_changed();
        let Keyed { key, digest } = keyed.clone();
        let first = FirstOutcome { digest, version, timestamp, etag, changed, rebased_from: self.rebased_from };
        held.remembered.with(RememberedKey { by: Arc::clone(by), key, decided: now, first })
    }

    /// Whether a version was made, or would be.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.after.version != self.before.version
    }

    /// Whether only who asked is told.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.manner != Manner::Done
    }
}

/// Counts the name of a shadow that is to come into being.
fn admit_name<C>(job: &Job<C>, applied: &Applied, bench: &mut Bench<'_>) -> Result<(), Rejection> {
    if applied.before.version > Version(0) {
        return Ok(());
    }
    let admitted = match applied.manner {
        Manner::DryRun => bench.names.would_admit(&job.key, bench.shared, bench.backlog),
        Manner::Done | Manner::Again(_) => bench.names.admit(&job.key, bench.shared, bench.backlog),
    };
    if admitted.map_err(|error| internal(&error, job))? {
        return Ok(());
    }
    let quota = format!("device '{}' has as many named shadows as it may have", job.key.device.as_str());
    Err(Rejection::TooManyRequests { quota, retry_after_ms: NAMES_RETRY_MS })
}

/// Waiting does not make room among a device's names, so a client should not hurry.
const NAMES_RETRY_MS: u64 = 60_000;

fn work(key: &ShadowKey, shared: &Shared) -> Result<Work, StoreError> {
    let (held, was_cached) = match shared.cache.get(key) {
        Ok(held) => (held, true),
        Err(_) => (shared.load(key)?, false),
    };
    Ok(Work { is_new: held.last_entry == Seq(0), held, was_cached, changed: false, carry: false })
}

/// A shadow whose record cannot be read is out of service; the others are not.
fn internal<C>(error: &StoreError, job: &Job<C>) -> Rejection {
    tracing::error!(request = %job.id, key = %job.key, %error, "a command could not be decided");
    Rejection::Internal
}
