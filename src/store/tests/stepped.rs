//! A store whose writer makes a commit only when the test asks for it.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::sim_disk::SimDisk;
use crate::{
    shadow::Timestamp,
    store::{
        CommitReport, Lineage, MemberOptions, Moment, Outcome, QueuedCommand, Seq, State, Store, StoreError,
        StoreOptions, database::Database, disk::FreeDisk, opening, writer::Writer,
    },
};

pub(super) const START: u64 = 1_790_000_000;

pub(super) struct Stepped {
    pub(super) store: Store<u64>,
    pub(super) writer: Writer<u64>,
    /// The time of both clocks, in seconds.
    pub(super) now: Arc<Mutex<u64>>,
    /// Seconds by which the date is ahead of the monotonic clock.
    pub(super) date_ahead: Arc<Mutex<i64>>,
    outcomes: Arc<Mutex<Vec<Outcome<u64>>>>,
}

impl Stepped {
    pub(super) fn open(disk: &SimDisk, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_probed(disk, options, || Ok(u64::MAX))
    }

    /// Opens the store while the date is wrong by `date_ahead` seconds.
    pub(super) fn open_at(disk: &SimDisk, options: StoreOptions, date_ahead: i64) -> Result<Self, StoreError> {
        Self::open_with(disk, options, || Ok(u64::MAX), date_ahead)
    }

    pub(super) fn open_probed(
        disk: &SimDisk,
        options: StoreOptions,
        probe: impl FnMut() -> io::Result<u64> + Send + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(disk, options, probe, 0)
    }

    fn open_with(
        disk: &SimDisk,
        options: StoreOptions,
        probe: impl FnMut() -> io::Result<u64> + Send + 'static,
        date_ahead: i64,
    ) -> Result<Self, StoreError> {
        let now = Arc::new(Mutex::new(START));
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let date_ahead = Arc::new(Mutex::new(date_ahead));
        let (clock, ahead, sink) = (Arc::clone(&now), Arc::clone(&date_ahead), Arc::clone(&outcomes));
        let database = Database::open_backend(&options, disk.clone())?;
        // Another one at each start, and the same in each run of a test.
        let lineage = Lineage(database.lineages()?.at(Seq(u64::MAX)).map_or(1, |newest| newest.0.wrapping_add(1)));
        let (again, same) = (options.clone(), disk.clone());
        let (store, writer) = opening::assemble(
            database,
            Box::new(move || Database::open_backend(&again, same.clone())),
            FreeDisk::with_probe(Box::new(probe), options.free_disk_min),
            options,
            lineage,
            Box::new(move || {
                let now = *clock.lock();
                let date = Timestamp(now.saturating_add_signed(*ahead.lock()));
                Moment { date, running: Duration::from_secs(now.saturating_sub(START)) }
            }),
            Box::new(move |report: CommitReport<u64>| {
                sink.lock().extend(report.outcomes);
                report.durable.into_iter().for_each(|on_durable| on_durable());
            }),
        )?;
        Ok(Self { store, writer, now, date_ahead, outcomes })
    }

    /// Decides `queue` as one batch and returns the outcomes.
    pub(super) fn apply(&mut self, queue: impl IntoIterator<Item = QueuedCommand<u64>>) -> Vec<Outcome<u64>> {
        for queued in queue {
            self.store.try_reserve(100).expect("the queue has room").send(queued).expect("the store is open");
        }
        let _ = self.writer.step();
        std::mem::take(&mut self.outcomes.lock())
    }

    /// Takes part in a cluster.
    pub(super) fn join(&mut self, options: MemberOptions) {
        self.writer.join(Some(options)).expect("a store of this cluster");
    }

    /// Lets the writer take the messages in its queue, of which there is at least one. Returns the outcomes.
    pub(super) fn step(&mut self) -> Vec<Outcome<u64>> {
        let _ = self.writer.step();
        std::mem::take(&mut self.outcomes.lock())
    }

    /// Reopens the store after a failed commit. Returns what was reported meanwhile, or `None` if that failed.
    pub(super) fn heal(&mut self) -> Option<Vec<Outcome<u64>>> {
        while self.writer.next_attempt().is_some_and(|at| at > Instant::now()) {
            thread::yield_now();
        }
        self.writer.heal_if_due();
        let is_open = self.store.health().state == State::Writable;
        is_open.then(|| std::mem::take(&mut *self.outcomes.lock()))
    }

    /// Flushes the dirty set, as an idle writer does.
    pub(super) fn idle(&mut self) {
        while self.store.health().backlog_documents > 0 {
            let _ = self.writer.step();
        }
    }
}
