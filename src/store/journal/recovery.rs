//! Recovery at the start: the journal after the checkpoint is read, and kept for the shadows that it changes.
//!
//! An entry counts only if it is newer than the record of its shadow, so a partial write-back pass does no harm. If an entry
//! is missing, damaged, or does not follow the record or the entry before it, the store does not open, since it would return
//! wrong data. A damaged *record* in the state table affects only its own shadow: it is logged and cannot be read or
//! written, while the others can.
//!
//! The entries are applied later ([`super::unapplied`]), with the check that they make the etags that were reported.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZero,
    panic::resume_unwind,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use redb::{ReadTransaction, ReadableTable};

use crate::{
    shadow::{ShadowKey, Version},
    store::{
        database::{AbortCause, Database},
        error::StoreError,
        journal::{
            entry::{EntryHead, JOURNAL, Seq},
            unapplied::{ReplayRules, UnappliedShadow, check_follows},
        },
        reader,
        schema::{Checkpoint, JOURNAL_TABLE},
        shadow_counts::CountChange,
        state::{
            cache::DocumentCache,
            record::{self, RecordState},
        },
    },
};

/// The interval of progress messages in the log.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// The result of recovery.
#[derive(Default)]
pub(in crate::store) struct Recovered {
    /// The shadows whose document is newer than the state table, with the approximate bytes of the records.
    pub(in crate::store) dirty: BTreeMap<ShadowKey, u32>,
    /// The dirty documents whose shadow the state table lacks.
    pub(in crate::store) fresh: BTreeSet<ShadowKey>,
    /// The change of the numbers of shadows.
    pub(in crate::store) counts: CountChange,
    /// The number of entries after the checkpoint.
    pub(in crate::store) entries: u64,
}

/// An entry after the checkpoint.
struct TailEntry {
    seq: Seq,
    previous: Seq,
    version: Version,
    deleted: bool,
    framed: Box<[u8]>,
}

/// The entries of a shadow, oldest first.
type Tail = (ShadowKey, Vec<TailEntry>);

/// Reads the journal after the checkpoint of `progress`, and adds the shadows that it changes to `cache`, which is empty.
pub(in crate::store) fn recover(
    database: &Database,
    progress: &Checkpoint,
    tombstones_max: usize,
    cache: &DocumentCache,
) -> Result<Recovered, StoreError> {
    let started = Instant::now();
    let decided = database.ages()?.map(|ages| ages.running());
    let rules = Arc::new(ReplayRules { tombstones_max, position: database.applied_position()?, decided });
    let tails = database.read(|transaction| {
        check_head(transaction, progress)?;
        read_tails(transaction, progress)
    })?;
    let mut recovered = Recovered { entries: progress.lag().0, ..Recovered::default() };
    for mut share in keep_all(database, tails, &rules, cache)? {
        recovered.dirty.append(&mut share.dirty);
        recovered.fresh.append(&mut share.fresh);
        recovered.counts.add(share.counts);
    }
    let (elapsed, head) = (started.elapsed(), progress.head.seq.0);
    match recovered.entries {
        0 => tracing::info!(head, "the store is open: nothing to replay"),
        entries => {
            let documents = recovered.dirty.len();
            tracing::info!(head, entries, documents, ?elapsed, "the store is open: read the end of the journal");
        }
    }
    Ok(recovered)
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

/// Returns the entries after the checkpoint of `progress`, in the order of the keys.
fn read_tails(transaction: &ReadTransaction, progress: &Checkpoint) -> Result<Vec<Tail>, AbortCause> {
    let table = transaction.open_table(JOURNAL_TABLE)?;
    let (checkpoint, head) = (progress.checkpoint.seq, progress.head.seq);
    let mut last_report = Instant::now();
    let mut expected = checkpoint.0;
    let mut tails: HashMap<ShadowKey, Vec<TailEntry>> = HashMap::new();
    for item in table.range(checkpoint.0 + 1..=head.0)? {
        let (seq, value) = item?;
        expected += 1;
        if seq.value() != expected {
            return Err(StoreError::entry(Seq(expected), "it is missing").into());
        }
        let (seq, framed) = (Seq(expected), value.value());
        let head_of_entry = EntryHead::decode(seq, framed).map_err(|error| StoreError::record(JOURNAL, seq, &error))?;
        let EntryHead { key, deleted, version, previous, .. } = head_of_entry;
        tails.entry(key).or_default().push(TailEntry { seq, previous, version, deleted, framed: framed.into() });
        if last_report.elapsed() >= REPORT_EVERY {
            last_report = Instant::now();
            tracing::info!(done = expected - checkpoint.0, of = head.0 - checkpoint.0, "reading the journal");
        }
    }
    if expected != head.0 {
        return Err(StoreError::entry(Seq(expected + 1), "it is missing").into());
    }
    let mut tails: Vec<Tail> = tails.into_iter().collect();
    tails.sort_unstable_by(|(key, _), (other, _)| key.cmp(other));
    Ok(tails)
}

/// Adds the shadows of `tails` to `cache`, on all processors. Each has a range of the keys, since neighbours share pages.
fn keep_all(
    database: &Database,
    tails: Vec<Tail>,
    rules: &Arc<ReplayRules>,
    cache: &DocumentCache,
) -> Result<Vec<Recovered>, StoreError> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let at_once = tails.len().div_ceil(processors).max(1);
    let mut tails = tails.into_iter();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        loop {
            let share: Vec<Tail> = tails.by_ref().take(at_once).collect();
            if share.is_empty() {
                break;
            }
            threads.push(scope.spawn(move || {
                let mut recovered = Recovered::default();
                database.read(|transaction| {
                    share.into_iter().try_for_each(|tail| recovered.keep(database, transaction, tail, rules, cache))
                })?;
                Ok(recovered)
            }));
        }
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

impl Recovered {
    /// Adds the entries of a shadow that are newer than its record to `cache`.
    fn keep(
        &mut self,
        database: &Database,
        transaction: &ReadTransaction,
        (key, mut entries): Tail,
        rules: &Arc<ReplayRules>,
        cache: &DocumentCache,
    ) -> Result<(), AbortCause> {
        let decode = |name: &[u8], value: &[u8]| Ok((record::decode_state(name, value)?, Box::<[u8]>::from(value)));
        let (state, record, floor) = match reader::load_from(database, transaction, &key, decode) {
            Ok(Ok((state, record))) => (Some(state), Some(record), Version(0)),
            Ok(Err(floor)) => (None, None, floor),
            Err(AbortCause::Store(error @ StoreError::Record { .. })) => {
                tracing::error!(%error, "a document is damaged and stays out of service");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let last_entry = state.as_ref().map(|state| state.last_entry).unwrap_or_default();
        entries.retain(|entry| entry.seq > last_entry);
        let Some(is_deleted) = entries.last().map(|entry| entry.deleted) else { return Ok(()) };
        self.count(&key, state.as_ref(), floor, &entries)?;
        let entries: Vec<_> = entries.into_iter().map(|entry| (entry.seq, entry.framed)).collect();
        let newest = entries.last().map_or(0, |(_, framed)| framed.len());
        let record_bytes = record.as_deref().map_or(0, <[u8]>::len).max(newest);
        if record.is_none() {
            self.fresh.insert(key.clone());
        }
        cache.add_unapplied(&key, UnappliedShadow { record, floor, entries, is_deleted, rules: Arc::clone(rules) });
        self.dirty.insert(key, u32::try_from(record_bytes).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Checks that `entries` follow `state`, the record of `key`, and counts what they change.
    fn count(
        &mut self,
        key: &ShadowKey,
        state: Option<&RecordState>,
        floor: Version,
        entries: &[TailEntry],
    ) -> Result<(), StoreError> {
        let mut former = state.map_or((Seq(0), floor), |state| (state.last_entry, state.version));
        let mut was_deleted = state.map(|state| state.deleted);
        for entry in entries {
            check_follows(former, key, (entry.seq, entry.previous, entry.version))?;
            former = (entry.seq, entry.version);
            self.counts.written(was_deleted, entry.deleted);
            was_deleted = Some(entry.deleted);
        }
        Ok(())
    }
}
