//! The commands of one commit, decided in order, each against what the one before it left.
//!
//! Nothing here is visible to a reader, and nothing is told to a requester: the writer does both after the commit, and
//! drops the whole batch if that fails. So a refusal or a no-op that was decided against a change of the same batch is
//! never told without that change being on the disk.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use crate::{
    shadow::{self, Change, Command, Decision, Document, DocumentLimits, Rejection, ShadowKey, Timestamp, Version},
    store::{
        backlog::Backlog,
        entry::{NewEntry, Seq},
        error::StoreError,
        names::NameCounts,
        reader::Shared,
        record::Held,
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
    /// The principal who asks.
    pub by: Arc<str>,
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
    pub(super) fn decide(&mut self, job: Job<C>, bench: &mut Bench<'_>) {
        let result = self.result(&job, bench);
        let against = match &result {
            Err(Rejection::VersionConflict { .. }) => self.works.get(&job.key).map(|work| work.held.clone()),
            _ => None,
        };
        self.outcomes.push(Outcome { job, result, against });
    }

    fn result(&mut self, job: &Job<C>, bench: &mut Bench<'_>) -> Result<Applied, Rejection> {
        let work = match self.works.entry(job.key.clone()) {
            hash_map::Entry::Occupied(work) => work.into_mut(),
            hash_map::Entry::Vacant(vacant) => vacant.insert(work(&job.key, bench.shared).map_err(internal)?),
        };
        let before = Arc::clone(&work.held.document);
        let (document, changes) = match shadow::decide(&before, &job.command, &job.by, bench.now, bench.limits)? {
            Decision::Unchanged => {
                return Ok(Applied { seq: None, after: Arc::clone(&before), before, changes: Vec::new() });
            }
            Decision::Changed { document, changes } => (document, changes),
        };
        if before.version == Version(0)
            && !bench.names.admit(&job.key, bench.shared, bench.backlog).map_err(internal)?
        {
            let quota = format!("device '{}' has as many named shadows as it may have", job.key.device.as_str());
            return Err(Rejection::TooManyRequests { quota, retry_after_ms: NAMES_RETRY_MS });
        }
        let seq = Seq(self.head.seq.0 + 1);
        let entry = NewEntry {
            seq,
            key: &job.key,
            deleted: document.deleted,
            version: document.version,
            etag: document.etag,
            timestamp: document.timestamp,
            principal: &job.by,
            client: &job.client,
            changes: &changes,
            previous: work.held.last_entry,
        };
        let sealed = entry.encode();
        self.head = self.head.next(sealed.len());
        self.entries.push((seq, sealed));
        let after = Arc::new(document);
        work.held = Held { document: Arc::clone(&after), last_entry: seq };
        work.changed = true;
        Ok(Applied { seq: Some(seq), before, after, changes })
    }
}

/// Waiting does not make room among a device's names, so a client should not hurry.
const NAMES_RETRY_MS: u64 = 60_000;

fn work(key: &ShadowKey, shared: &Shared) -> Result<Work, StoreError> {
    let (held, was_cached) = match shared.cache.get(key) {
        Ok(held) => (held, true),
        Err(_) => (shared.load(key)?, false),
    };
    Ok(Work { is_new: held.last_entry == Seq(0), held, was_cached, changed: false })
}

/// A shadow whose record cannot be read is out of service; the others are not.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn internal(error: StoreError) -> Rejection {
    tracing::error!(%error, "a command could not be decided");
    Rejection::Internal
}
