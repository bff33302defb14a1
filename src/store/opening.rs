//! The opening of a store, and its parts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    thread::{self, JoinHandle},
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{
    Semaphore,
    mpsc::{self},
};

use crate::{
    observability::metrics::CommitMetrics,
    shadow::Document,
    store::{
        database::Database,
        disk::FreeDisk,
        error::StoreError,
        handle::{BROADCAST_BYTES_MAX, Inner, Store},
        healing::{Healer, Reopen},
        health::{Health, State},
        index::{keeper::IndexKeeper, status::IndexStatus},
        journal::{lineage::Lineage, recovery, retention::Retention, unapplied},
        options::StoreOptions,
        pages::verifier,
        reader::{LoadTime, Shared},
        replication::{batch_log::FileLog, member::MemberOptions},
        rows::{pending::PendingRows, sent::SentRows, tables},
        shadow_counts::ShadowCounter,
        slot::DatabaseSlot,
        state::{
            cache::DocumentCache, dictionary::DictionaryTrainer, dirty_set::DirtySet, names::NameCounts,
            record::RecordEncoder,
        },
        store_clock::{Moment, Source, StoreClock},
        unsynced::UnsyncedCommits,
        writer::{CommitReport, Deliver, Message, Writer},
    },
};

/// Opens the store of `options`, or creates it if there is no file, and starts its writer.
///
/// `clock` is called a few times per batch. `deliver` is called on the writer thread with the results of each batch. After a
/// failed commit that is found on the disk, it is called with its
/// changes again, without context. Its second argument holds their queue bytes until it is dropped. The writer
/// waits for `deliver`, so it should only hand the outcomes on.
///
/// # Errors
///
/// - [`StoreError::Missing`]: there is no file, and `options` do not allow creating one.
/// - [`StoreError::Locked`]: the file is open elsewhere.
/// - [`StoreError::Format`]: the file has a newer format.
/// - [`StoreError::Corrupt`], [`StoreError::Record`]: the file is damaged; it was not changed.
/// - [`StoreError::Io`]: the file cannot be opened, read or created.
pub fn open<C: Send + 'static>(
    options: StoreOptions,
    clock: impl Fn() -> Moment + Send + 'static,
    deliver: impl FnMut(CommitReport<C>) + Send + 'static,
) -> Result<Store<C>, StoreError> {
    open_as(options, None, clock, deliver)
}

/// As [`open`], as a member of a cluster.
///
/// # Errors
///
/// As [`open`].
pub fn open_member<C: Send + 'static>(
    options: StoreOptions,
    member: MemberOptions,
    clock: impl Fn() -> Moment + Send + 'static,
    deliver: impl FnMut(CommitReport<C>) + Send + 'static,
) -> Result<Store<C>, StoreError> {
    open_as(options, Some(member), clock, deliver)
}

fn open_as<C: Send + 'static>(
    options: StoreOptions,
    member: Option<MemberOptions>,
    clock: impl Fn() -> Moment + Send + 'static,
    deliver: impl FnMut(CommitReport<C>) + Send + 'static,
) -> Result<Store<C>, StoreError> {
    let database = Database::open(&options)?;
    let disk = FreeDisk::of(options.path.clone(), options.free_disk_min);
    let path = options.path.clone();
    let again = options.clone();
    let reopen = Box::new(move || Database::reopen(&again));
    let (clock, deliver) = (Box::new(clock), Box::new(deliver));
    let (store, mut writer) = assemble(database, reopen, disk, options, Lineage::random(), clock, deliver)?;
    writer.join(member)?;
    let dirty = writer.dirty_set.keys();
    let started = verifier::start(Arc::clone(&store.inner.shared.database)).and_then(|verifier| {
        let replay = unapplied::apply_in_background(dirty, &store.inner.shared)?;
        store.inner.background.lock().extend(verifier.into_iter().chain(replay));
        spawn(writer)
    });
    *store.inner.writer.lock() = Some(started.map_err(|error| StoreError::Io { path, error })?);
    Ok(store)
}

/// Recovers `database`, and returns the store and its writer, which does not run yet. Its entries have `lineage`, unless it becomes
/// a member of a cluster.
pub(super) fn assemble<C: Send + 'static>(
    database: Database,
    reopen: Reopen,
    disk: FreeDisk,
    options: StoreOptions,
    lineage: Lineage,
    clock: Source,
    deliver: Deliver<C>,
) -> Result<(Store<C>, Writer<C>), StoreError> {
    database.check_writable()?;
    let (progress, applied_position) = (database.progress()?, database.applied_position()?);
    database.dictionaries.require(progress.dictionaries, &options.path)?;
    let clock = StoreClock::open(clock, database.ages()?, options.journal_age_max);
    let dirty_rows = tables::recover(&database, &progress.rows, options.row_lag_bytes_max)?;
    let cache = DocumentCache::new(options.document_cache_bytes, Arc::clone(&database.dictionaries));
    let recovered = recovery::recover(&database, &progress, options.document.path_tombstones_max, &cache)?;
    let index_status = Arc::new(IndexStatus::new(Arc::clone(&options.indexed)));
    let index = IndexKeeper::open(&database, Arc::clone(&index_status))?;
    let shared = Arc::new(Shared {
        counter: Mutex::new(ShadowCounter::open(&database, recovered.counts)?),
        lineages: RwLock::new(database.lineages()?),
        dictionaries: Arc::clone(&database.dictionaries),
        database: Arc::new(DatabaseSlot::new(database, options.path.clone())),
        cache,
        fresh: RwLock::new(recovered.fresh),
        unflushed: Arc::default(),
        index: index_status,
        head: AtomicU64::new(progress.head.seq.0),
        disk: Mutex::new(disk),
        sent_rows: SentRows::new(),
        row_backlog: Default::default(),
        health: Mutex::new(Health { recovered_entries: recovered.entries, ..Health::default() }),
        commits: CommitMetrics::default(),
        load_time: LoadTime::default(),
        has_foreign_rows: AtomicBool::new(false),
        absent: Arc::new(Document::absent()),
    });
    let (store, queue) = store(Arc::clone(&shared), options.queue_bytes_max);
    let writer = Writer {
        queue,
        room: Arc::clone(&store.inner.room),
        clock,
        deliver,
        dirty_set: DirtySet::new(recovered.dirty, Arc::clone(&shared.unflushed), &progress, &options),
        lineages: shared.lineages(),
        shared,
        dirty_rows,
        pending_rows: PendingRows::default(),
        unsynced: UnsyncedCommits::default(),
        durable: Vec::new(),
        broadcasts: Vec::new(),
        progress,
        names: NameCounts::new(options.shadow_names_max),
        retention: Retention::new(&options),
        encoder: RecordEncoder::default(),
        trainer: DictionaryTrainer::default(),
        index,
        state: State::Writable,
        healer: Healer::new(reopen),
        log: Box::new(FileLog),
        applied_position,
        lineage,
        member: None,
        node: None,
        is_deciding: false,
        options,
    };
    writer.report();
    Ok((store, writer))
}

/// Returns the handle of a store whose queue has room for `queue_bytes_max`, and the end of the queue for its writer.
fn store<C: Send + 'static>(
    shared: Arc<Shared>,
    queue_bytes_max: usize,
) -> (Store<C>, mpsc::UnboundedReceiver<Message<C>>) {
    let (sender, queue) = mpsc::unbounded_channel();
    // Not one more sender, which would keep the queue open.
    let notices = sender.downgrade();
    shared.database.notify(Arc::new(move || {
        let _a_writer_that_ended_reopens_nothing = notices.upgrade().map(|queue| queue.send(Message::ReadFailed));
    }));
    let room_max = u32::try_from(queue_bytes_max).unwrap_or(u32::MAX);
    let inner = Inner {
        shared,
        queue: sender,
        room: Arc::new(Semaphore::new(room_max as usize)),
        room_max,
        broadcast_room: Arc::new(Semaphore::new(BROADCAST_BYTES_MAX)),
        writer: Mutex::new(None),
        background: Default::default(),
    };
    (Store { inner: Arc::new(inner) }, queue)
}

fn spawn<C: Send + 'static>(mut writer: Writer<C>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run())
}
