//! Healing: after a failed commit or read the file is opened again in place, as by a restart.
//!
//! The contents of the disk are unknown then, and redb does not use the file any more. So the writer
//!
//! 1. closes the file, once the last read of it has ended;
//! 2. opens it, and checks that the journal ends where it did before the failed commit, or where that commit ends it, or where
//!    it ended before the unsynced commits of a node of a cluster ([`super::unsynced`]), which applies their records again;
//! 3. replays the end of the journal;
//! 4. makes a commit without changes. A failed sync may have left the last commit in the page cache only; this one puts
//!    it on the disk, and shows that the disk takes writes again;
//! 5. publishes the documents, and reports the changes of the failed commit if they are there. Their requesters
//!    received `outcome-unknown`; subscribers and event streams get them now, before any later change.
//! 6. writes the edits of rows of the failed commit again ([`super::rows`]), and nobody was notified of the failure.
//!
//! If a step fails, the writer pauses and begins again, without end. Commands are refused meanwhile, and reads are
//! answered from memory. The pause doubles up to [`PAUSE_MAX`]. A store that fails again soon after it was reopened
//! continues with the last pause, so a commit that never succeeds does not keep the disk busy.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::store::{
    batch::{Applied, Envelope, Outcome},
    database::{CommitFailure, Database},
    error::StoreError,
    health::State,
    index::keeper::IndexKeeper,
    journal::recovery,
    rows::tables,
    schema::{Checkpoint, JournalPosition, META_TABLE, PROGRESS_KEY},
    shadow_counts::CountChange,
    slot::DatabaseSlot,
    state::{dictionary::DictionaryTrainer, dirty_set::DirtySet, names::NameCounts},
    unsynced::UnsyncedCommits,
    writer::{QueueReservation, Writer},
};

/// The pause after the first failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The time without a failed commit after which the first attempt is made at once.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// The longest wait of one attempt for the end of reads.
const RELEASE_WAIT: Duration = Duration::from_millis(200);

/// Opens the file of the store again.
pub(super) type Reopen = Box<dyn FnMut() -> Result<Database, StoreError> + Send>;

/// The state of healing.
pub(super) struct Healer {
    reopen: Reopen,
    /// The closed file, while reads of it may be under way.
    released: Option<Weak<Database>>,
    /// The time of the next attempt; `None` while the store is open.
    next_attempt: Option<Instant>,
    failed_at: Option<Instant>,
    healed_at: Option<Instant>,
    pause: Duration,
    attempts: u64,
    unknown: Option<UnknownCommit>,
}

/// A commit that may be on the disk.
pub(super) struct UnknownCommit {
    /// The end of the journal with it.
    pub(super) head: JournalPosition,
    pub(super) changes: Vec<(Envelope, Applied)>,
    /// The change of the numbers of shadows.
    pub(super) counts: CountChange,
}

impl Healer {
    pub(super) fn new(reopen: Reopen) -> Self {
        Self {
            reopen,
            released: None,
            next_attempt: None,
            failed_at: None,
            healed_at: None,
            pause: PAUSE_MIN,
            attempts: 0,
            unknown: None,
        }
    }

    /// Plans the first attempt after a failed commit or read.
    pub(super) fn commit_failed(&mut self) {
        let now = Instant::now();
        let is_stable = self.healed_at.is_none_or(|healed| now.duration_since(healed) >= STABLE_AFTER);
        self.attempts = 0;
        self.failed_at = Some(now);
        if is_stable {
            self.pause = PAUSE_MIN;
            self.next_attempt = Some(now);
        } else {
            self.postpone();
        }
    }

    /// Keeps a commit whose outcome is unknown.
    pub(super) fn keep_unknown(&mut self, unknown: UnknownCommit) {
        self.unknown = Some(unknown);
    }

    /// Returns the time of the next attempt; `None` while the store is open.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.next_attempt
    }

    fn postpone(&mut self) {
        self.next_attempt = Some(Instant::now() + self.pause);
        self.pause = (2 * self.pause).min(PAUSE_MAX);
    }

    /// Closes the file in `slot`.
    fn release(&mut self, slot: &DatabaseSlot) -> Result<(), StoreError> {
        self.released = slot.release().or(self.released.take());
        let until = Instant::now() + RELEASE_WAIT;
        while self.released.as_ref().is_some_and(|database| database.strong_count() > 0) {
            if Instant::now() >= until {
                return Err(StoreError::Reopening);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.released = None;
        Ok(())
    }

    /// Returns true if the failed commit is on the disk, whose journal ends at `found`, and the change of the numbers of
    /// shadows by that. The journal ended at `head` before, with the commits of which some were `unsynced`.
    fn has_landed(
        &self,
        head: JournalPosition,
        found: JournalPosition,
        unsynced: &UnsyncedCommits,
    ) -> Result<(bool, CountChange), String> {
        match &self.unknown {
            _ if found == head => return Ok((false, CountChange::default())),
            Some(unknown) if found == unknown.head => return Ok((true, unknown.counts)),
            _ => {}
        }
        let lost = unsynced.lost(found).map(|lost| (false, lost.undone()));
        lost.ok_or_else(|| format!("its journal ends at {}, and should at {}", found.seq, head.seq))
    }
}

impl<C> Writer<C> {
    /// Returns the time of the next attempt to reopen the store, in tests.
    #[cfg(test)]
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.healer.next_attempt
    }

    /// Opens the store again after a failed commit or read, if it is time to.
    pub(super) fn heal_if_due(&mut self) {
        if self.healer.next_attempt.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.healer.attempts += 1;
        match self.reopen() {
            Ok(landed) => {
                self.healed(landed);
                // The records of a node that the file lacks, before anything else is committed.
                self.take_part();
            }
            Err(error) => {
                self.healer.postpone();
                let (attempts, pause) = (self.healer.attempts, self.healer.pause);
                tracing::warn!(%error, attempts, next_pause = ?pause, "cannot reopen the store");
                self.shared.commits.reopens_failed.add(1);
            }
        }
    }

    /// Opens the file, and publishes its content. Returns true if the failed commit is in it.
    fn reopen(&mut self) -> Result<bool, StoreError> {
        self.shared.index.close();
        self.healer.release(&self.shared.database)?;
        let mut database = (self.healer.reopen)()?;
        database.follow(self.shared.database.pages())?;
        database.check_writable()?;
        let (progress, applied_position) = (database.progress()?, database.applied_position()?);
        let lineages = database.lineages()?;
        let landed = self.healer.has_landed(self.progress.head, progress.head, &self.unsynced);
        let path = || self.options.path.clone();
        let (landed, landed_counts) = landed.map_err(|detail| StoreError::Corrupt { path: path(), detail })?;
        let cache = self.shared.cache.successor();
        let recovered = recovery::recover(&database, &progress, self.options.document.path_tombstones_max, &cache)?;
        let dirty_rows = tables::recover(&database, &progress.rows, self.options.row_lag_bytes_max)?;
        database.dictionaries.require(progress.dictionaries, &self.options.path)?;
        confirm(&database, &progress).map_err(CommitFailure::into_error)?;
        // Only now a dictionary of the failed commit is known to be on disk.
        database.share_dictionaries(&self.shared.dictionaries);
        self.trainer = DictionaryTrainer::default();
        self.index = IndexKeeper::open(&database, Arc::clone(&self.shared.index))?;

        let fresh = recovered.fresh.len();
        self.shared.counter.lock().reopen(&database, recovered.counts, landed_counts, fresh)?;
        self.shared.cache.replace(cache);
        *self.shared.fresh.write() = recovered.fresh;
        self.shared.database.set(database);
        self.dirty_rows = dirty_rows;
        self.dirty_set = DirtySet::new(recovered.dirty, Arc::clone(&self.shared.unflushed), &progress, &self.options);
        self.names = NameCounts::new(self.options.shadow_names_max);
        self.set_applied_position(applied_position);
        let applied = self.applied_position.as_ref().map_or(0, |applied| applied.chain.position.number);
        self.member.iter_mut().for_each(|member| member.reopened(applied));
        self.progress = progress;
        let rows = self.unsynced.take_rows();
        if !landed {
            self.pending_rows.put_back(rows);
        }
        self.shared.lineages.write().clone_from(&lineages);
        self.lineages = lineages;
        self.shared.head.store(progress.head.seq.0, Ordering::Release);
        Ok(landed)
    }

    /// Accepts commands again, and reports the changes of the failed commit if it has `landed`.
    fn healed(&mut self, landed: bool) {
        let healer = &mut self.healer;
        healer.next_attempt = None;
        healer.healed_at = Some(Instant::now());
        let attempts = healer.attempts;
        let after = healer.failed_at.map(|at| at.elapsed()).unwrap_or_default();
        let unknown = healer.unknown.take().map(|unknown| unknown.changes).unwrap_or_default();
        self.shared.commits.reopened.add(1);
        tracing::info!(attempts, ?after, landed, "the store is open again: commands are accepted");
        self.state = State::Writable;
        self.report();
        let changes = unknown.into_iter().filter(|_| landed);
        let outcomes: Vec<_> = changes
            .map(|(envelope, applied)| Outcome { envelope, context: None, result: Ok(applied), against: None })
            .collect();
        self.deliver(outcomes, QueueReservation::none());
    }
}

/// Makes a commit without changes.
fn confirm(database: &Database, progress: &Checkpoint) -> Result<(), CommitFailure> {
    database.commit(|transaction| {
        let mut meta = transaction.open_table(META_TABLE)?;
        meta.insert(PROGRESS_KEY, progress.encode().as_slice())?;
        Ok(())
    })
}
