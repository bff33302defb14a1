//! Recovery at the start: the journal after the checkpoint is replayed onto the state table.
//!
//! A change is applied only to a document older than it, so a partial write-back pass does no harm. Each result must
//! have the version and etag that were reported when the change was accepted. If one has not, or an entry is missing or
//! damaged, the store does not open, since it would return wrong data. A damaged *record* in the state table affects
//! only its own shadow: it is logged and cannot be read or written, while the others can.
//!
//! The documents are made in the cache, which keeps most of them encoded if they are many.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    mem,
    num::NonZero,
    panic::resume_unwind,
    sync::{
        Arc,
        mpsc::{self, Receiver, SendError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use redb::{ReadTransaction, ReadableTable};

use crate::{
    shadow::{Document, ShadowKey, Stamp, Timestamp, Version},
    store::{
        database::{AbortCause, Database},
        error::StoreError,
        journal::entry::{JournalEntry, Seq},
        reader::{self, entry},
        replication::applied_position::AppliedPosition,
        schema::{Checkpoint, JOURNAL_TABLE},
        shadow_counts::CountChange,
        state::{
            cache::{DocumentCache, NotCached},
            record::StoredShadow,
        },
    },
};

/// The interval of progress messages in the log.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// The result of recovery.
pub(in crate::store) struct Recovered {
    /// The shadows whose document is newer than the state table, with the approximate bytes of the records.
    pub(in crate::store) dirty: BTreeMap<ShadowKey, u32>,
    /// The dirty documents whose shadow the state table lacks.
    pub(in crate::store) fresh: BTreeSet<ShadowKey>,
    /// The change of the numbers of shadows.
    pub(in crate::store) counts: CountChange,
    /// The number of entries replayed.
    pub(in crate::store) entries: u64,
}

/// The entries sent to a thread at once.
const ENTRIES_AT_ONCE: usize = 256;
/// The times as many entries that may wait for a thread.
const SENT_AHEAD: usize = 4;

/// The parts of a replay that its threads share.
#[derive(Clone, Copy)]
struct Context<'a> {
    database: &'a Database,
    /// The documents.
    cache: &'a DocumentCache,
    tombstones_max: usize,
    /// The times of the decisions, as far as the file has them.
    position: Option<&'a AppliedPosition>,
    /// The running time of the store, which idempotency keys in other entries get; `None` in files of older programs.
    decided: Option<Timestamp>,
}

/// The replay of the entries of some shadows.
struct Replay<'a> {
    context: Context<'a>,
    dirty: BTreeMap<ShadowKey, u32>,
    /// The shadows whose record is damaged.
    damaged: HashSet<ShadowKey>,
    fresh: BTreeSet<ShadowKey>,
    counts: CountChange,
}

/// Replays the journal after the checkpoint of `progress`, and publishes the documents in `cache`, which is empty.
pub(in crate::store) fn recover(
    database: &Database,
    progress: &Checkpoint,
    tombstones_max: usize,
    cache: &DocumentCache,
) -> Result<Recovered, StoreError> {
    let started = Instant::now();
    let decided = database.ages()?.map(|ages| ages.running());
    let position = database.applied_position()?;
    let context = Context { database, cache, tombstones_max, position: position.as_ref(), decided };
    let replays = database.read(|transaction| {
        check_head(transaction, progress)?;
        replay(transaction, progress, context)
    })?;
    let (mut dirty, mut fresh, mut counts) = (BTreeMap::new(), BTreeSet::new(), CountChange::default());
    for mut share in replays {
        dirty.append(&mut share.dirty);
        fresh.append(&mut share.fresh);
        counts.add(share.counts);
    }
    let entries = progress.lag().0;
    let (elapsed, head) = (started.elapsed(), progress.head.seq.0);
    match entries {
        0 => tracing::info!(head, "the store is open: nothing to replay"),
        _ => tracing::info!(
            head,
            entries,
            documents = dirty.len(),
            ?elapsed,
            "the store is open: replayed the end of the journal"
        ),
    }
    Ok(Recovered { dirty, fresh, counts, entries })
}

/// Checks that the journal ends where the last commit recorded.
fn check_head(transaction: &ReadTransaction, progress: &Checkpoint) -> Result<(), AbortCause> {
    let table = transaction.open_table(JOURNAL_TABLE)?;
    let last = table.last()?.map_or(progress.removed.seq, |(seq, _)| Seq(seq.value()));
    if last == progress.head.seq {
        return Ok(());
    }
    Err(StoreError::entry(progress.head.seq, format!("the journal should end here and ends at {last}")).into())
}

/// Replays the journal after the checkpoint of `progress`. This thread reads it, and one thread for each processor applies the
/// entries of its share of the shadows.
fn replay<'a>(
    transaction: &ReadTransaction,
    progress: &Checkpoint,
    context: Context<'a>,
) -> Result<Vec<Replay<'a>>, AbortCause> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let start = |_| {
            let (sender, entries) = mpsc::sync_channel(SENT_AHEAD);
            (sender, scope.spawn(move || Replay::new(context).run(&entries)))
        };
        let (senders, threads): (Vec<_>, Vec<_>) = (0..processors).map(start).unzip();
        let read = read_entries(transaction, progress, Shares::new(senders));
        let replays: Result<Vec<_>, _> =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        read?;
        Ok(replays?)
    })
}

/// Reads the journal after the checkpoint of `progress`, and sends the entries to `shares`. Ends early if a thread has.
fn read_entries(transaction: &ReadTransaction, progress: &Checkpoint, mut shares: Shares) -> Result<(), AbortCause> {
    let table = transaction.open_table(JOURNAL_TABLE)?;
    let (checkpoint, head) = (progress.checkpoint.seq, progress.head.seq);
    let mut last_report = Instant::now();
    let mut expected = checkpoint.0;
    for item in table.range(checkpoint.0 + 1..=head.0)? {
        let (seq, value) = item?;
        expected += 1;
        if seq.value() != expected {
            return Err(StoreError::entry(Seq(expected), "it is missing").into());
        }
        if shares.send(entry(Seq(expected), value.value())?).is_err() {
            return Ok(());
        }
        if last_report.elapsed() >= REPORT_EVERY {
            last_report = Instant::now();
            tracing::info!(done = expected - checkpoint.0, of = head.0 - checkpoint.0, "replaying the journal");
        }
    }
    if expected != head.0 {
        return Err(StoreError::entry(Seq(expected + 1), "it is missing").into());
    }
    // An error here is that of a thread, which reports it.
    let _ = shares.send_rest();
    Ok(())
}

/// The entries for each thread, of which each has some shadows.
struct Shares {
    senders: Vec<SyncSender<Vec<JournalEntry>>>,
    waiting: Vec<Vec<JournalEntry>>,
    hasher: RandomState,
}

impl Shares {
    fn new(senders: Vec<SyncSender<Vec<JournalEntry>>>) -> Self {
        let waiting = senders.iter().map(|_| Vec::new()).collect();
        Self { senders, waiting, hasher: RandomState::new() }
    }

    /// Sends `entry` to the thread that has its shadow.
    #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
    fn send(&mut self, entry: JournalEntry) -> Result<(), SendError<Vec<JournalEntry>>> {
        let share = self.hasher.hash_one(&entry.key) as usize % self.senders.len();
        if let (Some(waiting), Some(sender)) = (self.waiting.get_mut(share), self.senders.get(share)) {
            waiting.push(entry);
            if waiting.len() >= ENTRIES_AT_ONCE {
                return sender.send(mem::take(waiting));
            }
        }
        Ok(())
    }

    fn send_rest(self) -> Result<(), SendError<Vec<JournalEntry>>> {
        self.senders.iter().zip(self.waiting).try_for_each(|(sender, waiting)| sender.send(waiting))
    }
}

impl<'a> Replay<'a> {
    fn new(context: Context<'a>) -> Self {
        Self {
            context,
            dirty: BTreeMap::new(),
            damaged: HashSet::new(),
            fresh: BTreeSet::new(),
            counts: CountChange::default(),
        }
    }

    /// Applies the entries that come, in order.
    fn run(mut self, entries: &Receiver<Vec<JournalEntry>>) -> Result<Self, StoreError> {
        entries.iter().flatten().try_for_each(|entry| self.apply(&entry))?;
        Ok(self)
    }

    fn apply(&mut self, entry: &JournalEntry) -> Result<(), StoreError> {
        let Context { database, cache, tombstones_max, position, decided } = self.context;
        let key = &entry.key;
        if self.damaged.contains(key) {
            return Ok(());
        }
        let (mut stored, is_here) = match cache.get(key) {
            Ok(stored) => (stored, true),
            Err(NotCached::Damaged(error)) => return Err(error),
            Err(NotCached::Miss(_)) => match load(database, key)? {
                Some(stored) => (stored, false),
                None => {
                    self.damaged.insert(key.clone());
                    return Ok(());
                }
            },
        };
        if !stored.is_recorded() {
            self.fresh.insert(key.clone());
        }
        if stored.last_entry < entry.seq {
            let document = Arc::new(next(&stored, entry, tombstones_max)?);
            let decided = position.and_then(|position| position.decided(entry.seq)).or(decided);
            let remembered =
                entry.remember(&stored.remembered, decided.unwrap_or(entry.timestamp)).unwrap_or_else(|_| {
                    // There was room when the request was accepted, by the limits of that time.
                    tracing::warn!(seq = entry.seq.0, %key, "no room for an idempotency key");
                    stored.remembered.clone()
                });
            self.counts.written(stored.is_recorded().then_some(stored.document.deleted), document.deleted);
            stored = StoredShadow { document, last_entry: entry.seq, remembered };
        } else if is_here {
            return Ok(());
        }
        self.dirty.insert(key.clone(), stored.record_bytes(&database.dictionaries));
        cache.publish(key, stored, true);
        Ok(())
    }
}

/// Returns the document of `key` in the state table; `None` if it is damaged.
fn load(database: &Database, key: &ShadowKey) -> Result<Option<StoredShadow>, StoreError> {
    match reader::load(database, key) {
        Ok(stored) => Ok(Some(stored.unwrap_or_else(StoredShadow::absent_at))),
        Err(error @ StoreError::Record { .. }) => {
            tracing::error!(%error, "a document is damaged and stays out of service");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns the document after applying `entry` to `stored`.
///
/// The first entry of a shadow without a record was decided at the floor that the device had then. The floor may be
/// higher now.
pub(in crate::store) fn next(
    stored: &StoredShadow,
    entry: &JournalEntry,
    tombstones_max: usize,
) -> Result<Document, StoreError> {
    let floor = Version(entry.version.0.saturating_sub(1));
    let stored = match stored.is_recorded() || stored.document.version <= floor {
        true => stored,
        false => &StoredShadow::absent_at(floor),
    };
    let former = stored.document.version;
    if entry.previous != stored.last_entry || entry.version != Version(former.0 + 1) {
        let detail = format!("it makes version {} of {}, which is at {}", entry.version.0, entry.key, former.0);
        return Err(StoreError::entry(entry.seq, detail));
    }
    let stamp = Stamp { version: entry.version, timestamp: entry.timestamp, by: Arc::clone(&entry.principal) };
    let document = stored.document.apply(&entry.changes, &Arc::new(stamp), entry.deleted, tombstones_max);
    if document.etag != entry.etag {
        let detail = format!("applied again to {}, it does not make the document it made first", entry.key);
        return Err(StoreError::entry(entry.seq, detail));
    }
    Ok(document)
}
